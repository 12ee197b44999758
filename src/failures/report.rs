//! The report of one failure.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::rate::Dropped;
use crate::background::failure::Failure;
use crate::background::observer::{AttemptEnded, Next, RequestEnd};
use crate::background::record::Record;
use crate::background::request_info::RequestInfo;
use crate::background::trace_id::TraceId;
use crate::bounds;
use crate::error::Error;
use crate::error::backtraces::Trace;
use crate::error::frames::{self, Frame};
use crate::log_text::{escape, numbered, prefix, span};

/// The longest message, the longest cause and the largest number of causes of a report.
const LONGEST_MESSAGE: usize = 10_000;
const LONGEST_CAUSE: usize = 2_000;
const MOST_CAUSES: usize = 20;
const LONGEST_NAME: usize = 200;
const LONGEST_BACKTRACE: usize = 100_000;

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// A request whose response has a status of 500 to 599 that the log has as an error. A refused request is not one: of an
    /// overloaded server (503), or of a client that needs an unimplemented feature (501).
    Request,
    /// A background task, or an attempt of a task that is retried.
    Task,
    /// An attempt of a job.
    JobAttempt,
    /// The last attempt of a job, which is dead now.
    DeadJob,
    /// A mail that a task or job sends, in any attempt.
    Mail,
    /// A webhook that a task or job sends, in any attempt.
    Webhook,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FailureKind::Request => "request",
            FailureKind::Task => "task",
            FailureKind::JobAttempt => "job attempt",
            FailureKind::DeadJob => "dead job",
            FailureKind::Mail => "mail",
            FailureKind::Webhook => "webhook",
        })
    }
}

/// The report of a failure, as the hooks of [`App::on_failure`](crate::App::on_failure) receive it.
///
/// ```
/// use aside::failures::FailureReport;
///
/// fn title(report: &FailureReport) -> String {
///     let location = report.location.as_deref().unwrap_or("(unknown)");
///     format!("{} {}: {} at {location}", report.kind, report.name, report.message)
/// }
/// ```
///
/// Its display form is one line, as in the log.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FailureReport {
    /// The kind of the failed work.
    pub kind: FailureKind,
    /// The method and the pattern of the route (`GET /orders/{id}`), or the name of the task or job, of at most 200 bytes.
    pub name: String,
    /// The message of the error or panic, of at most 10,000 bytes.
    pub message: String,
    /// The messages of the error's sources, the cause of the message first: at most 20 of at most 2,000 bytes.
    pub causes: Vec<String>,
    /// True for a panic.
    pub is_panic: bool,
    /// The location in the application's code (`src/orders.rs:41`): of the error or panic, or else of the route or of the call
    /// that started the task.
    pub location: Option<String>,
    /// The status of the response to a failed request.
    pub status: Option<u16>,
    /// The request that failed, or that the work was started from.
    pub request: Option<Arc<RequestInfo>>,
    /// The id of the trace: the request with all the work that comes from it.
    pub trace: TraceId,
    /// The number of the task, or of the task that makes the attempt of the job. For work in the child process of an isolated
    /// function or job, it is the task that made the call.
    pub task: Option<u64>,
    /// The id of the job.
    pub job: Option<u64>,
    /// The number of the failed attempt, from 1; `None` for a request, and for a task that never began.
    pub attempt: Option<u32>,
    /// The number of attempts in all, if the work is retried or was.
    pub attempts: Option<u32>,
    /// The wait before the next attempt; `None` if there is none.
    pub next_attempt: Option<Duration>,
    /// The time that the request, the task or the attempt of the job took.
    pub elapsed: Duration,
    /// The time of the failure.
    pub time: SystemTime,
    /// The number of failures without a report since the last report: beyond the limits of
    /// [`App::on_failure`](crate::App::on_failure), or while 100 reports waited for the hooks.
    pub suppressed: u64,
    pub(super) is_location_of_start: bool,
    pub(super) backtrace: Option<Trace>,
    /// The name without the part that differs from task to task.
    pub(super) group: String,
    #[cfg_attr(not(feature = "mail"), allow(dead_code, reason = "only alert mails count them"))]
    pub(super) dropped: Arc<Dropped>,
}

/// A call of a backtrace.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StackFrame {
    /// The name of the function.
    pub function: String,
    /// The source file, if the program has debug information.
    pub file: Option<String>,
    /// The line in the file.
    pub line: Option<u32>,
    /// True if the application wrote the function, and not the standard library, aside or another crate.
    pub is_own: bool,
}

impl FailureReport {
    /// Returns true if another attempt follows.
    pub fn is_retried(&self) -> bool {
        self.next_attempt.is_some()
    }

    /// Returns the message and its causes, joined by `: `, as in the log.
    pub fn chain(&self) -> String {
        self.causes.iter().fold(self.message.clone(), |chain, cause| format!("{chain}: {cause}"))
    }

    /// Returns the backtrace as lines of text, in development or if `RUST_BACKTRACE` enables it, of at most 100,000 bytes.
    pub fn backtrace(&self) -> Option<&str> {
        Some(prefix(self.backtrace.as_ref()?.text(), LONGEST_BACKTRACE))
    }

    /// Returns the calls of the backtrace, the innermost first: at most 200. It is empty without a backtrace.
    pub fn frames(&self) -> Vec<StackFrame> {
        frames::frames(self.backtrace().unwrap_or_default()).into_iter().map(StackFrame::from).collect()
    }

    /// Reports a request.
    pub(super) fn of_request(
        end: &RequestEnd<'_>,
        error: &Error,
        name: String,
        route: Option<String>,
        dropped: Arc<Dropped>,
    ) -> FailureReport {
        let cause = Cause::of(error);
        FailureReport {
            kind: FailureKind::Request,
            status: Some(end.status),
            request: Some(end.info.clone()),
            trace: end.info.trace,
            task: None,
            job: None,
            attempt: None,
            attempts: None,
            next_attempt: None,
            elapsed: end.elapsed,
            group: name.clone(),
            ..cause.report(name, route, dropped)
        }
    }

    /// Reports an attempt of a task or job.
    pub(super) fn of_attempt(ended: &AttemptEnded<'_>, failure: &Failure, dropped: Arc<Dropped>) -> FailureReport {
        let record = ended.record;
        let (attempts, next_attempt) = match ended.next {
            Next::Retry(retry) => (Some(retry.attempts), Some(retry.wait)),
            Next::Dead { attempts } => (Some(attempts), None),
            Next::End => (Some(record.attempts()).filter(|attempts| *attempts > 1), None),
        };
        let cause = Cause::of_failure(failure);
        FailureReport {
            kind: kind_of(record, ended.next),
            status: None,
            request: record.request.clone(),
            trace: record.trace,
            task: Some(record.id),
            job: record.job,
            attempt: record.attempt(),
            attempts,
            next_attempt,
            elapsed: record.elapsed(),
            group: record.kind.as_deref().unwrap_or(&record.name).to_owned(),
            ..cause.report(record.name.clone(), record.start_location(), dropped)
        }
    }

    /// Returns the words after the name in the log: `failed: connection refused`, `panicked: boom`.
    fn verdict(&self) -> String {
        let verb = if self.is_panic { "panicked" } else { "failed" };
        format!("{verb}: {}", self.chain())
    }

    fn location_text(&self) -> Option<String> {
        let verb = match self.kind {
            FailureKind::Request => "route at",
            _ => "started at",
        };
        let at = if self.is_location_of_start { verb } else { "at" };
        self.location.as_ref().map(|location| format!("{at} {location}"))
    }

    fn next_text(&self) -> String {
        match (self.next_attempt, self.attempt, self.attempts) {
            (Some(wait), Some(attempt), Some(attempts)) => {
                format!("; attempt {attempt} of {attempts}, the next in {}", span(wait))
            }
            (None, _, Some(attempts)) if self.kind == FailureKind::DeadJob => {
                format!("; the job is dead after {}", numbered(attempts, "attempt", "attempts"))
            }
            _ => String::new(),
        }
    }
}

/// Returns the kind of the failure of a task or job.
pub(super) fn kind_of(record: &Record, next: Next) -> FailureKind {
    match record.kind.as_deref() {
        Some("mail") => FailureKind::Mail,
        Some("webhook") => FailureKind::Webhook,
        _ if matches!(next, Next::Dead { .. }) => FailureKind::DeadJob,
        _ if record.job.is_some() => FailureKind::JobAttempt,
        _ => FailureKind::Task,
    }
}

/// One line, as in the log.
impl fmt::Display for FailureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let request = self.request.as_ref().map(ToString::to_string);
        let (subject, parts) = match self.task {
            None => (request.unwrap_or_else(|| self.name.clone()), [None, None, self.location_text()]),
            Some(task) => {
                let origin = request.map_or(format!("task {task}"), |request| format!("task {task}, {request}"));
                let after = format!("after {}", span(self.elapsed));
                (format!("Background task {}", self.name), [Some(origin), Some(after), self.location_text()])
            }
        };
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let line = format!("{subject} {}{} ({})", self.verdict(), self.next_text(), parts.join(", "));
        f.write_str(&escape(line.trim_end_matches(" ()")))
    }
}

impl From<Frame> for StackFrame {
    fn from(frame: Frame) -> StackFrame {
        let parts = frame.location.as_deref().and_then(|location| {
            let (rest, _column) = location.rsplit_once(':')?;
            rest.rsplit_once(':')
        });
        StackFrame {
            function: frame.name,
            file: parts.map(|(file, _)| file.trim_start_matches("./").to_owned()),
            line: parts.and_then(|(_, line)| line.parse().ok()),
            is_own: frame.own,
        }
    }
}

/// The cause of a failure.
pub(super) struct Cause {
    pub(super) messages: Vec<String>,
    pub(super) is_panic: bool,
    pub(super) location: Option<String>,
    pub(super) backtrace: Option<Trace>,
}

impl Cause {
    /// Returns the cause of a failed request.
    fn of(error: &Error) -> Cause {
        match error.source().and_then(|source| source.downcast_ref::<Failure>()) {
            Some(failure) => Cause::of_failure(failure),
            None => Cause::of_error(error),
        }
    }

    fn of_failure(failure: &Failure) -> Cause {
        let (messages, location) = match failure {
            Failure::Error(error) => return Cause::of_error(error),
            Failure::Panic(panic) => (vec![panic.message.clone()], panic.location.clone()),
            _ => (vec![failure.to_string()], None),
        };
        let (is_panic, backtrace) = (failure.panic().is_some(), failure.trace().cloned());
        Cause { messages, is_panic, location, backtrace }
    }

    fn of_error(error: &Error) -> Cause {
        let mut messages = error.causes();
        if messages.is_empty() {
            messages.push(error.status_code().to_string());
        }
        Cause { messages, is_panic: false, location: error.own_location(), backtrace: error.trace().cloned() }
    }

    /// Returns a report of this cause. `start` is the location of the route, or of the call that started the task.
    pub(super) fn report(self, name: String, start: Option<String>, dropped: Arc<Dropped>) -> FailureReport {
        let limited = |text: &str, most| bounds::shorten(text, most).into_owned();
        let (message, causes) = self.messages.split_first().map_or(("", &[][..]), |(first, rest)| (first, rest));
        FailureReport {
            kind: FailureKind::Task,
            name: limited(&name, LONGEST_NAME),
            message: limited(message, LONGEST_MESSAGE),
            causes: causes.iter().take(MOST_CAUSES).map(|cause| limited(cause, LONGEST_CAUSE)).collect(),
            is_panic: self.is_panic,
            is_location_of_start: self.location.is_none(),
            location: self.location.or(start),
            status: None,
            request: None,
            trace: TraceId::new(),
            task: None,
            job: None,
            attempt: None,
            attempts: None,
            next_attempt: None,
            elapsed: Duration::ZERO,
            time: SystemTime::now(),
            suppressed: 0,
            backtrace: self.backtrace,
            group: String::new(),
            dropped,
        }
    }
}

#[cfg(all(test, feature = "mail"))]
impl FailureReport {
    /// Returns the report of a task that returned an error with this message.
    pub(super) fn test(name: &str, message: &str, dropped: Arc<Dropped>) -> FailureReport {
        let cause = Cause::of_error(&Error::internal(message));
        FailureReport { group: name.to_owned(), ..cause.report(name.to_owned(), None, dropped) }
    }
}
