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
    let now = || Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut put_time = |time: &str| write!(out, "[{time}] ");
    // On a thread that is ending there is nothing kept any more.
    TIME.try_with(|time| time.show(|_| now(), &mut put_time)).unwrap_or_else(|_| put_time(&now()))?;
    // Behind it, and not with the time in hand: what is logged may log something itself while it is put into words.
    writeln!(out, "{level} {}: {}", record.target(), record.args())
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
        // Taken out of its place, for the same reason; and that is gone where the thread is ending.
        let mut line = ROOM.try_with(Cell::take).unwrap_or_default();
        // Whom to tell that the log cannot be written?
        let _ = write_line(&mut line, record, record.level()).and_then(|()| put(&line));
        line.clear();
        if line.capacity() <= KEPT {
            let _ = ROOM.try_with(|room| room.set(line));
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

#[cfg(test)]
mod tests {
    use std::fmt;

    use log::Level;

    use super::*;

    fn line(words: fmt::Arguments<'_>) -> String {
        let mut out = Vec::new();
        let record = Record::builder().target("aside::test").level(Level::Info).args(words).build();
        write_line(&mut out, &record, Level::Info).unwrap();
        String::from_utf8(out).unwrap()
    }

    struct Loud;

    impl Display for Loud {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(line(format_args!("within")).trim_end())
        }
    }

    #[test]
    fn what_is_logged_may_log_something_itself() {
        let line = line(format_args!("{Loud}"));
        assert_eq!(line.matches("] INFO aside::test: ").count(), 2, "{line}");
        assert!(line.ends_with("within\n"), "{line}");
    }

    #[test]
    fn the_last_words_of_a_thread_are_written() {
        struct Last(std::sync::mpsc::Sender<String>);
        impl Drop for Last {
            fn drop(&mut self) {
                let _ = self.0.send(line(format_args!("last")));
            }
        }
        thread_local! {
            static LAST: Cell<Option<Last>> = const { Cell::new(None) };
        }
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            // Kept first, and so dropped last.
            LAST.set(Some(Last(tell)));
            line(format_args!("first"));
        });
        thread.join().unwrap();
        assert!(told.recv().unwrap().ends_with("] INFO aside::test: last\n"));
    }
}
