//! The log's lines, as `App::run` sets them up when nobody else has.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use env_logger::{Builder, Env, Logger};
use jiff::Zoned;
use log::{Log, Metadata, Record, SetLoggerError};

use super::clock::Clock;

thread_local! {
    static TIME: Clock = const { Clock::new() };

    /// The room of this thread's last line.
    static ROOM: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// What is logged unless `RUST_LOG` says otherwise. What tiny_http has to say of its end is said by us.
const FILTER: &str = "info,tiny_http=off";

/// How much room a thread keeps.
const KEPT: usize = 4 << 10;

/// Sends the log to standard error: `[2026-04-04 14:32:01] ERROR aside::background: …`, local time, `info` and above
/// unless `RUST_LOG` says otherwise. A logger that is there already stays.
pub(crate) fn init() {
    let mut builder = Builder::from_env(Env::default().default_filter_or(FILTER));
    builder.format(|out, record| {
        let (level, style) = (record.level(), out.default_level_style(record.level()));
        write_line(out, record, format_args!("{style}{level}{style:#}"))
    });
    // An error says that the application has set up a logger of its own.
    let _ = if is_styled() { builder.try_init() } else { Lines(builder.build()).try_init() };
}

/// Whether somebody looks at the lines, or wants them as if.
fn is_styled() -> bool {
    io::stderr().is_terminal() || std::env::var_os("RUST_LOG_STYLE").is_some()
}

fn write_line(out: &mut dyn Write, record: &Record<'_>, level: impl Display) -> io::Result<()> {
    let (target, words) = (record.target(), record.args());
    let line = |time: &str| writeln!(out, "[{time}] {level} {target}: {words}");
    TIME.with(|time| time.show(|_| Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string(), line))
}

/// Lines for a file or a service manager: each is one write, under nobody's lock, so that no request waits for another's line.
struct Lines(Logger);

impl Lines {
    fn try_init(self) -> Result<(), SetLoggerError> {
        let most = self.0.filter();
        log::set_boxed_logger(Box::new(self)).map(|()| log::set_max_level(most))
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.0.matches(record) {
            return;
        }
        // Taken out of its place: what is logged may log something itself while it is written.
        let mut line = ROOM.take();
        // Whom to tell that the log cannot be written?
        let _ = write_line(&mut line, record, record.level()).and_then(|()| put(&line));
        line.clear();
        if line.capacity() <= KEPT {
            ROOM.set(line);
        }
    }

    fn flush(&self) {}
}

#[cfg(unix)]
fn put(mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(io::stderr(), line))?;
        line = &line[count..];
    }
    Ok(())
}

#[cfg(not(unix))]
fn put(line: &[u8]) -> io::Result<()> {
    io::stderr().write_all(line)
}
