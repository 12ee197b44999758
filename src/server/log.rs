//! The logger that `App::run` installs if the application has not installed one.

use std::cell::Cell;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use env_logger::{Builder, Env, Logger};
use jiff::Zoned;
use log::{Log, Metadata, Record, SetLoggerError};

use super::date_header::TimeCache;

thread_local! {
    static TIME: TimeCache = const { TimeCache::new() };

    /// The buffer of this thread's last line.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The filter if `RUST_LOG` is not set. The messages of tiny_http about its end are left out, since this crate logs them.
const FILTER: &str = "info,tiny_http=off";

/// The largest buffer, in bytes, that a thread keeps.
const LARGEST_BUFFER: usize = 4 << 10;

/// Sends the log to standard error: `[2026-04-04 14:32:01] ERROR aside::background: …`, in local time, `info` and above
/// unless `RUST_LOG` is set. A logger that is installed already stays.
pub(crate) fn init() {
    let mut builder = Builder::from_env(Env::default().default_filter_or(FILTER));
    builder.format(|out, record| {
        let (level, style) = (record.level(), out.default_level_style(record.level()));
        write_line(out, record, format_args!("{style}{level}{style:#}"))
    });
    // An error means that the application has installed a logger of its own.
    let _ = if is_styled() { builder.try_init() } else { LineLogger(builder.build()).try_init() };
}

/// Returns true if the lines go to a terminal, or `RUST_LOG_STYLE` is set.
fn is_styled() -> bool {
    io::stderr().is_terminal() || std::env::var_os("RUST_LOG_STYLE").is_some()
}

fn write_line(out: &mut dyn Write, record: &Record<'_>, level: impl Display) -> io::Result<()> {
    let now = || Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut put_time = |time: &str| write!(out, "[{time}] ");
    // On a thread that is ending the cache no longer exists.
    TIME.try_with(|time| time.with_text(|_| now(), &mut put_time)).unwrap_or_else(|_| put_time(&now()))?;
    // After the cache was released: a logged value may log something itself while it is formatted.
    writeln!(out, "{level} {}: {}", record.target(), record.args())
}

/// A logger for a file or a service manager. It writes each line in one call without a lock, so that no request waits for
/// the line of another.
struct LineLogger(Logger);

impl LineLogger {
    fn try_init(self) -> Result<(), SetLoggerError> {
        let most = self.0.filter();
        log::set_boxed_logger(Box::new(self)).map(|()| log::set_max_level(most))
    }
}

impl Log for LineLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.0.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.0.matches(record) {
            return;
        }
        // The buffer is taken out, since a logged value may log something itself. On a thread that is ending it no longer
        // exists.
        let mut line = BUFFER.try_with(Cell::take).unwrap_or_default();
        // A failure to write the log cannot be logged.
        let _ = write_line(&mut line, record, record.level()).and_then(|()| write_to_stderr(&line));
        line.clear();
        if line.capacity() <= LARGEST_BUFFER {
            let _ = BUFFER.try_with(|buffer| buffer.set(line));
        }
    }

    fn flush(&self) {}
}

#[cfg(unix)]
fn write_to_stderr(mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        let count = rustix::io::retry_on_intr(|| rustix::io::write(io::stderr(), line))?;
        line = &line[count..];
    }
    Ok(())
}

#[cfg(not(unix))]
fn write_to_stderr(line: &[u8]) -> io::Result<()> {
    io::stderr().write_all(line)
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use log::Level;

    use super::*;

    fn line(arguments: fmt::Arguments<'_>) -> String {
        let mut out = Vec::new();
        let record = Record::builder().target("aside::test").level(Level::Info).args(arguments).build();
        write_line(&mut out, &record, Level::Info).unwrap();
        String::from_utf8(out).unwrap()
    }

    struct Logging;

    impl Display for Logging {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(line(format_args!("within")).trim_end())
        }
    }

    #[test]
    fn a_logged_value_may_log_something_itself() {
        let line = line(format_args!("{Logging}"));
        assert_eq!(line.matches("] INFO aside::test: ").count(), 2, "{line}");
        assert!(line.ends_with("within\n"), "{line}");
    }

    #[test]
    fn a_line_that_is_logged_while_its_thread_ends_is_written() {
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
            // Created first, and so dropped last.
            LAST.set(Some(Last(tell)));
            line(format_args!("first"));
        });
        thread.join().unwrap();
        assert!(told.recv().unwrap().ends_with("] INFO aside::test: last\n"));
    }
}
