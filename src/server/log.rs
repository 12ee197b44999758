//! The logger that `App::run` installs if the application has not installed one.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::ops::Range;
use std::panic::PanicHookInfo;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use env_logger::{Builder, Env, Logger};
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Log, Metadata, Record, SetLoggerError};

use super::date_header::TimeCache;
use super::log_json;
use super::log_writer::{Kind, Output, Queue};
use crate::background::log_fields::{self, ErrorList, LogFields};
use crate::config::LogFormat;
use crate::error::Error;
use crate::error::backtraces::Trace;
use crate::log_text::escape;
use crate::panics;
use crate::sync::spawn;
use crate::utc;

thread_local! {
    static TIME: TimeCache = const { TimeCache::new() };
    static JSON_TIME: TimeCache = const { TimeCache::new() };

    /// The buffer of this thread's last line.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The filter if `RUST_LOG` is not set. The messages of tiny_http about its end are left out, since this crate logs them.
const FILTER: &str = "info,tiny_http=off";

/// The largest buffer, in bytes, that a thread keeps.
const LARGEST_BUFFER: usize = 4 << 10;

/// Sends the log to standard error: as JSON, or as text, `[2026-04-04 14:32:01] ERROR aside::background: …`, in local time (in UTC
/// without the feature `local-time`); `info` and above unless `RUST_LOG` is set. A logger that is installed already stays.
pub(crate) fn init(format: LogFormat) {
    let logger = Builder::from_env(Env::default().default_filter_or(FILTER)).build();
    let is_terminal = io::stderr().is_terminal();
    let style = match format {
        LogFormat::Json => Style::Json,
        LogFormat::Text if is_styled(|name| std::env::var(name).ok(), is_terminal) => Style::Colored,
        LogFormat::Text => Style::Plain,
    };
    // An error means that the application has installed a logger of its own.
    if (LineLogger { logger, style }).try_init().is_err() {
        return;
    }
    if style == Style::Json {
        log_fields::leave_backtraces_to_the_field();
        IS_JSON.store(true, Ordering::Release);
    }
    // A person at a terminal sees each line at once.
    if !is_terminal {
        start_writer(style);
    }
    panics::on_uncaught(on_uncaught);
}

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Colored,
    Json,
}

/// Set if this module's logger is installed and writes JSON.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// The lines that wait for the writer.
static QUEUE: Queue = Queue::new();

/// Set while a thread writes the queue. Without one, each line is written by the thread that logs it.
static HAS_WRITER: AtomicBool = AtomicBool::new(false);

/// The longest wait of a flush for a reader that does not read.
const FLUSH: Duration = Duration::from_secs(1);

/// Starts the thread that writes the lines.
fn start_writer(style: Style) {
    let format = move |out: &mut Vec<u8>, text: fmt::Arguments<'_>| {
        let mut record = Record::builder();
        record.target("aside::log").level(Level::Warn).module_path_static(Some(module_path!())).args(text);
        let _ = write_line(out, &record.build(), style);
    };
    let write = move || {
        let mut output = Output::new(write_some);
        // A panic loses the batch that it interrupts, and no line after it.
        while panics::catch(|| -> () { QUEUE.run(&mut output, format) }).is_err() {}
    };
    let thread = spawn("aside-log", write);
    HAS_WRITER.store(thread.is_ok(), Ordering::Release);
}

/// Writes what waits before a panic that may end the process, and in JSON the panic itself, whatever `RUST_LOG` selects. Returns
/// true if it is written.
fn on_uncaught(info: &PanicHookInfo<'_>) -> bool {
    let is_json = IS_JSON.load(Ordering::Acquire);
    if is_json {
        let panic = panics::panic_of(info);
        let thread = thread::current();
        let line = format!("The thread {} panicked: {panic}", thread.name().unwrap_or("without a name"));
        let error = LogFields {
            error: Some(ErrorList(vec![format!("panicked: {}", panic.message)])),
            location: panic.location.clone(),
            backtrace: Trace::for_log(panic.trace.as_ref()),
            ..LogFields::default()
        };
        write_at_once(&error, &line);
    }
    if HAS_WRITER.load(Ordering::Acquire) {
        QUEUE.flush_if_read(FLUSH);
    }
    is_json
}

/// Writes an error in JSON, past the filter.
fn write_at_once(fields: &LogFields<'_>, line: &str) {
    let args = format_args!("{line}");
    let mut record = Record::builder();
    record.target("aside::panics").level(Level::Error).module_path_static(Some(module_path!())).key_values(fields);
    let record = record.args(args).build();
    let mut out = Vec::new();
    let _ = write_line(&mut out, &record, Style::Json).and_then(|()| send(&record, &out));
}

/// Logs an error of the start in JSON. In text, the program prints it when `main` returns it.
pub(crate) fn log_start_error(error: &Error) {
    if IS_JSON.load(Ordering::Acquire) {
        let location = error.own_location();
        let fields = LogFields { error: Some(ErrorList(error.messages())), location, ..LogFields::default() };
        let line = format!("The application did not start: {}", error.chain());
        log_fields::log("aside::server", Level::Error, &fields, format_args!("{}", escape(&line)));
    }
}

/// Waits until the lines of this module's logger are written, at most for a second. A process calls this before it ends.
pub(crate) fn flush() {
    if HAS_WRITER.load(Ordering::Acquire) {
        QUEUE.flush(FLUSH);
    }
}

/// Returns true if the levels are colored: on a terminal that shows colors, unless `NO_COLOR` is set (<https://no-color.org>).
/// `RUST_LOG_STYLE=always` and `never` decide it.
fn is_styled(variable: impl Fn(&str) -> Option<String>, is_terminal: bool) -> bool {
    let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
    match variable("RUST_LOG_STYLE").as_deref() {
        Some("always") => true,
        Some("never") => false,
        // Consoles of Windows show the codes of colors as text unless the program switches that off.
        _ => cfg!(unix) && is_terminal && !is_set("NO_COLOR") && variable("TERM").is_some_and(|term| term != "dumb"),
    }
}

/// Returns the code of a level's color (ECMA-48, SGR); the colors are those of `env_logger`.
fn color(level: Level) -> &'static str {
    match level {
        Level::Error => "\x1b[1m\x1b[31m",
        Level::Warn => "\x1b[33m",
        Level::Info => "\x1b[32m",
        Level::Debug => "\x1b[34m",
        Level::Trace => "\x1b[36m",
    }
}

/// The codes of bold text and of the end of a style.
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";

/// Appends the line of a record. A message or value whose `Display` panics ends there.
fn write_line(out: &mut Vec<u8>, record: &Record<'_>, style: Style) -> io::Result<()> {
    if style == Style::Json {
        let now = SystemTime::now();
        log_json::write(out, json_time(now), record);
        return Ok(());
    }
    let mut put_time = |time: &str| write!(out, "[{time}] ");
    // On a thread that is ending the cache no longer exists.
    TIME.try_with(|time| time.with_text(time_text, &mut put_time))
        .unwrap_or_else(|_| put_time(&time_text(SystemTime::now())))?;
    // After the cache was released: a logged value may log something itself while it is formatted.
    let level = record.level();
    let (color, end) = if style == Style::Colored { (color(level), RESET) } else { ("", "") };
    write!(out, "{color}{level}{end} {}: ", record.target())?;
    match panics::catch(|| write_message(out, record, style)) {
        Ok(written) => written?,
        Err(panic) => write!(out, " (a Display panicked: {})", escape(&panic.to_string()))?,
    }
    out.push(b'\n');
    Ok(())
}

fn write_message(out: &mut Vec<u8>, record: &Record<'_>, style: Style) -> io::Result<()> {
    match style {
        Style::Colored => write_styled(out, record, &record.args().to_string())?,
        _ => write!(out, "{}", record.args())?,
    }
    // The messages of the framework contain its fields.
    if log_json::is_own(record) {
        return Ok(());
    }
    let _ = record.key_values().visit(&mut Pairs(out));
    Ok(())
}

/// Writes the key-value pairs of the application behind its message: ` key=value`.
struct Pairs<'o>(&'o mut Vec<u8>);

impl<'kvs> VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        write!(self.0, " {}={}", escape(key.as_str()), escape(&value.to_string()))?;
        Ok(())
    }
}

/// Returns a time in UTC with microseconds (RFC 3339).
fn json_time(now: SystemTime) -> String {
    let micros = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_micros());
    let second = |time| utc::written(time, 'T').unwrap_or_else(|| "1970-01-01T00:00:00".to_owned());
    let text = |second: &str| format!("{second}.{micros:06}Z");
    JSON_TIME.try_with(|time| time.with_text_at(now, second, text)).unwrap_or_else(|_| text(&second(now)))
}

/// Writes a message for a terminal, where the status of an access line and the address in the banner stand out.
fn write_styled(out: &mut Vec<u8>, record: &Record<'_>, message: &str) -> io::Result<()> {
    match emphasized(record, message) {
        Some((color, part)) => {
            let (before, after) = (&message[..part.start], &message[part.end..]);
            write!(out, "{before}{color}{}{RESET}{after}", &message[part])
        }
        None => write!(out, "{message}"),
    }
}

fn emphasized(record: &Record<'_>, message: &str) -> Option<(&'static str, Range<usize>)> {
    let field = |name: &str| record.key_values().get(name.into());
    match record.target() {
        "aside::access" => {
            let status = field("status")?.to_u64()?;
            // The last one: a path may contain the same words.
            let end = message.rfind(" after ")?;
            let start = message[..end].rfind(' ')? + 1;
            Some((status_color(status), start..end))
        }
        "aside::server" => {
            let address = field("address")?.to_string();
            let start = message.find(&address)?;
            Some((BOLD, start..start + address.len()))
        }
        _ => None,
    }
}

/// Returns the code of the color of a status: green for a success, cyan for a redirect, yellow for an error of the client, bold
/// red for one of the server.
fn status_color(status: u64) -> &'static str {
    match status {
        ..300 => "\x1b[32m",
        300..400 => "\x1b[36m",
        400..500 => "\x1b[33m",
        500.. => "\x1b[1m\x1b[31m",
    }
}

/// Returns a time in the time zone of the system.
#[cfg(feature = "local-time")]
fn time_text(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or_default();
    time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Returns a time in UTC: the database of time zones needs the feature `local-time`.
#[cfg(not(feature = "local-time"))]
fn time_text(time: SystemTime) -> String {
    crate::utc::written(time, ' ').unwrap_or_default()
}

/// A logger that passes each line to the writer, so that no request waits for the reader of the log.
struct LineLogger {
    /// Decides which records are written.
    logger: Logger,
    style: Style,
}

impl LineLogger {
    fn try_init(self) -> Result<(), SetLoggerError> {
        let most = self.logger.filter();
        log::set_boxed_logger(Box::new(self)).map(|()| log::set_max_level(most))
    }
}

impl Log for LineLogger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        self.logger.enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.logger.matches(record) {
            return;
        }
        // The buffer is taken out, since a logged value may log something itself. On a thread that is ending it no longer
        // exists.
        let mut line = BUFFER.try_with(Cell::take).unwrap_or_default();
        // A failure to write the log cannot be logged.
        let _ = write_line(&mut line, record, self.style).and_then(|()| send(record, &line));
        line.clear();
        if line.capacity() <= LARGEST_BUFFER {
            let _ = BUFFER.try_with(|buffer| buffer.set(line));
        }
    }

    fn flush(&self) {
        if HAS_WRITER.load(Ordering::Acquire) {
            QUEUE.flush_if_read(FLUSH);
        }
    }
}

fn send(record: &Record<'_>, line: &[u8]) -> io::Result<()> {
    if !HAS_WRITER.load(Ordering::Acquire) {
        return write_to_stderr(line);
    }
    let is_routine = record.level() >= Level::Info && ["aside::access", "aside::background"].contains(&record.target());
    QUEUE.push(if is_routine { Kind::Routine } else { Kind::Other }, line);
    Ok(())
}

fn write_to_stderr(mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        line = &line[write_some(line)?..];
    }
    Ok(())
}

/// Writes a part of the bytes, as many as the operating system takes, without the lock of the standard library.
#[cfg(unix)]
fn write_some(bytes: &[u8]) -> io::Result<usize> {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::io::{Errno, retry_on_intr, write};

    loop {
        match retry_on_intr(|| write(io::stderr(), bytes)) {
            // Another process that shares the output has made it non-blocking.
            Err(Errno::AGAIN) => {
                let stderr = io::stderr();
                retry_on_intr(|| poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None))?;
            }
            result => return Ok(result?),
        }
    }
}

#[cfg(not(unix))]
fn write_some(bytes: &[u8]) -> io::Result<usize> {
    io::stderr().write(bytes)
}

#[cfg(test)]
mod tests {
    use std::fmt::Display;

    use super::*;

    fn line(arguments: fmt::Arguments<'_>) -> String {
        let mut out = Vec::new();
        let record = Record::builder().target("aside::test").level(Level::Info).args(arguments).build();
        write_line(&mut out, &record, Style::Plain).unwrap();
        String::from_utf8(out).unwrap()
    }

    struct Logging;

    impl Display for Logging {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(line(format_args!("within")).trim_end())
        }
    }

    #[test]
    fn only_a_terminal_that_shows_colors_gets_them() {
        let is_styled = |variables: &[(&str, &str)], is_terminal| {
            let variable =
                |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).into());
            is_styled(variable, is_terminal)
        };
        let terminal = ("TERM", "xterm-256color");
        assert_eq!(is_styled(&[terminal], true), cfg!(unix));
        assert_eq!(is_styled(&[terminal, ("RUST_LOG_STYLE", "auto"), ("NO_COLOR", "")], true), cfg!(unix));
        assert!(!is_styled(&[terminal], false) && !is_styled(&[], true) && !is_styled(&[("TERM", "dumb")], true));
        assert!(!is_styled(&[terminal, ("NO_COLOR", "1")], true));
        assert!(!is_styled(&[terminal, ("RUST_LOG_STYLE", "never")], true));
        assert!(is_styled(&[("RUST_LOG_STYLE", "always"), ("NO_COLOR", "1")], false));
    }

    #[test]
    fn the_level_alone_is_colored() {
        let mut out = Vec::new();
        let record = Record::builder().target("aside::test").level(Level::Error).args(format_args!("late")).build();
        write_line(&mut out, &record, Style::Colored).unwrap();
        let line = String::from_utf8(out).unwrap();
        assert!(line.ends_with("] \x1b[1m\x1b[31mERROR\x1b[0m aside::test: late\n"), "{line:?}");
    }

    #[test]
    fn the_status_of_an_access_line_and_the_address_of_the_banner_stand_out() {
        let styled = |target: &str, values: &dyn log::kv::Source, message: &str| {
            let args = format_args!("{message}");
            let record = Record::builder().target(target).level(Level::Info).key_values(&values).args(args).build();
            let mut out = Vec::new();
            write_styled(&mut out, &record, message).unwrap();
            String::from_utf8(out).unwrap()
        };
        let access = |status: u16| {
            let line = format!("GET /a 404 after x {status} after 3 ms (3f9a1c)");
            styled("aside::access", &("status", status), &line)
        };
        for (status, color) in [(200, "32"), (204, "32"), (303, "36"), (404, "33"), (500, "1m\x1b[31")] {
            let expected = format!("GET /a 404 after x \x1b[{color}m{status}\x1b[0m after 3 ms (3f9a1c)");
            assert_eq!(access(status), expected);
        }
        let banner =
            styled("aside::server", &("address", "http://[::1]:80"), "aside listens on http://[::1]:80 over epoll");
        assert_eq!(banner, "aside listens on \x1b[1mhttp://[::1]:80\x1b[0m over epoll");
        assert_eq!(styled("shop", &("status", 200), "GET / 200 after 3 ms"), "GET / 200 after 3 ms");
        assert_eq!(styled("aside::access", &("status", 200), "late"), "late");
    }

    #[test]
    fn the_values_of_the_application_follow_its_message_and_those_of_the_framework_do_not() {
        let text = |module: &'static str, message: fmt::Arguments<'_>| {
            let values: [(&str, Value<'_>); 2] = [("user", 17.into()), ("name", "Ada\nLovelace".into())];
            let mut record = Record::builder();
            record.target("shop").level(Level::Info).module_path_static(Some(module)).key_values(&values);
            let mut out = Vec::new();
            write_line(&mut out, &record.args(message).build(), Style::Plain).unwrap();
            String::from_utf8(out).unwrap().split_once("INFO ").unwrap().1.to_owned()
        };
        assert_eq!(text("shop::orders", format_args!("an order")), "shop: an order user=17 name=Ada\\nLovelace\n");
        assert_eq!(text("aside::app", format_args!("an order")), "shop: an order\n");
    }

    #[test]
    fn a_display_that_panics_ends_its_line_and_not_the_caller() {
        struct Panicking;
        impl Display for Panicking {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("half")?;
                panic!("no\nmore")
            }
        }
        let line = line(format_args!("{Panicking}"));
        assert!(line.contains(" aside::test: half (a Display panicked: no\\nmore"), "{line}");
        assert!(line.ends_with(")\n"), "{line}");
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
