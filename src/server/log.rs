//! The log's lines, as `App::run` sets them up when nobody else has.

use std::io::Write;

use env_logger::{Builder, Env};
use jiff::Zoned;

use super::clock::Clock;

thread_local! {
    static TIME: Clock = const { Clock::new() };
}

/// What is logged unless `RUST_LOG` says otherwise. What tiny_http has to say of its end is said by us.
const FILTER: &str = "info,tiny_http=off";

/// Sends the log to standard error: `[2026-04-04 14:32:01] ERROR aside::background: …`, local time, `info` and above
/// unless `RUST_LOG` says otherwise. A logger that is there already stays.
pub(crate) fn init() {
    let mut builder = Builder::from_env(Env::default().default_filter_or(FILTER));
    builder.format(|out, record| {
        let (level, style) = (record.level(), out.default_level_style(record.level()));
        let (target, words) = (record.target(), record.args());
        let line = |time: &str| writeln!(out, "[{time}] {style}{level}{style:#} {target}: {words}");
        TIME.with(|time| time.show(|_| Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string(), line))
    });
    // An error says that the application has set up a logger of its own.
    let _ = builder.try_init();
}
