//! The structured fields of log lines: the key-value pairs of the `log` crate.

use std::fmt;
use std::net::IpAddr;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use log::kv::{self, Source, Value, VisitSource};
use log::{Level, Record};

use super::trace_id::TraceId;

/// The first part of the module path of the lines that this crate logs.
pub(crate) const CRATE: &str = "aside";

/// Set if the logger writes the backtrace itself, so that messages do not contain it.
static HAS_BACKTRACE_FIELD: AtomicBool = AtomicBool::new(false);

/// Leaves backtraces out of messages from now on: the logger writes the field.
pub(crate) fn leave_backtraces_to_the_field() {
    HAS_BACKTRACE_FIELD.store(true, Ordering::Relaxed);
}

/// The structured fields of a log line of the framework. A logger visits them if it writes such fields.
#[derive(Debug, Default, Clone)]
pub(crate) struct LogFields<'a> {
    pub(crate) request: Option<&'a str>,
    pub(crate) trace: Option<TraceId>,
    pub(crate) task: Option<u64>,
    pub(crate) job: Option<u64>,
    pub(crate) attempt: Option<u32>,
    pub(crate) duration: Option<Duration>,
    pub(crate) status: Option<u16>,
    pub(crate) method: Option<&'a str>,
    /// The pattern of the route: `/orders/{id}`.
    pub(crate) route: Option<&'a str>,
    pub(crate) path: Option<&'a str>,
    pub(crate) client: Option<IpAddr>,
    pub(crate) error: Option<ErrorList>,
    pub(crate) location: Option<String>,
    pub(crate) backtrace: Option<&'a str>,
}

/// The messages of an error and its sources. The display form is their chain (`cannot pay: connection refused`), the alternate
/// one (`{:#}`) a JSON array.
#[derive(Debug, Clone)]
pub(crate) struct ErrorList(pub(crate) Vec<String>);

impl fmt::Display for ErrorList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match f.alternate() {
            true => f.write_str(&serde_json::to_string(&self.0).unwrap_or_default()),
            false => f.write_str(&self.0.join(": ")),
        }
    }
}

impl Source for LogFields<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        let micros = self.duration.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        let fields = [
            ("request", self.request.map(Value::from)),
            ("trace", self.trace.as_ref().map(Value::from_display)),
            ("task", self.task.map(Value::from)),
            ("job", self.job.map(Value::from)),
            ("attempt", self.attempt.map(Value::from)),
            ("duration_us", micros.map(Value::from)),
            ("status", self.status.map(Value::from)),
            ("method", self.method.map(Value::from)),
            ("route", self.route.map(Value::from)),
            ("path", self.path.map(Value::from)),
            ("client", self.client.as_ref().map(Value::from_display)),
            ("error", self.error.as_ref().map(Value::from_display)),
            ("location", self.location.as_deref().map(Value::from)),
            ("backtrace", self.backtrace.map(Value::from)),
        ];
        let mut present = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        present.try_for_each(|(name, value)| visitor.visit_pair(name.into(), value))
    }
}

/// Logs a line with its fields.
#[track_caller]
pub(crate) fn log(target: &str, level: Level, fields: &LogFields<'_>, line: fmt::Arguments<'_>) {
    if !log::log_enabled!(target: target, level) {
        return;
    }
    match fields.backtrace.filter(|_| !HAS_BACKTRACE_FIELD.load(Ordering::Relaxed)) {
        Some(backtrace) => send(target, level, fields, format_args!("{line}\n{backtrace}")),
        None => send(target, level, fields, line),
    }
}

#[track_caller]
fn send(target: &str, level: Level, fields: &LogFields<'_>, line: fmt::Arguments<'_>) {
    let at = Location::caller();
    let mut record = Record::builder();
    record.target(target).level(level).args(line).key_values(fields);
    record.module_path_static(Some(module_path!())).file_static(Some(at.file())).line(Some(at.line()));
    log::logger().log(&record.build());
}
