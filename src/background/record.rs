//! The record of one task: its identity, state, progress and end.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use log::Level;

use super::failure::Failure;
use super::lineage::{Lineage, Parent};
use super::log_fields::{self, ErrorList, LogFields};
use super::progress::{FailedAttempt, Progress, TaskState};
use super::request_info::RequestInfo;
use super::retry::ScheduledRetry;
use super::trace_id::TraceId;
use crate::bounds;
use crate::error::backtraces::Trace;
use crate::error::location;
use crate::log_text::{escape, span};
use crate::sync::{lock, wait_while_for};
use crate::watch::Watched;

/// The target of the log lines about tasks.
const TARGET: &str = "aside::background";

/// The longest stored name and key of a task, in bytes. Clients may influence both.
pub(super) const LONGEST_NAME: usize = 200;
/// The longest stored failure of a task, in bytes.
const LONGEST_FAILURE: usize = 10_000;
/// The number of failed attempts that are retained of a task, and the longest failure of each, in bytes.
const MOST_ATTEMPTS: usize = 10;
const LONGEST_ATTEMPT: usize = 1_000;
/// The number of stored messages of a failure: of the error and its first causes.
const MOST_CAUSES: usize = 5;

/// What a task is, before it begins.
pub(crate) struct Identity {
    pub(crate) name: String,
    /// The name of the type of a job, `mail` or `webhook`: a name without a part that differs from task to task.
    pub(crate) kind: Option<Cow<'static, str>>,
    pub(crate) key: Option<String>,
    /// The id of the job that the task is an attempt of.
    pub(crate) job: Option<u64>,
    /// The number of that attempt, from 1.
    pub(crate) job_attempt: Option<u32>,
    /// The call that starts the task.
    pub(crate) location: &'static Location<'static>,
}

/// The record of one task.
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// See [`Identity::kind`].
    pub(crate) kind: Option<Cow<'static, str>>,
    pub(crate) key: Option<String>,
    /// The id of the job that the task is an attempt of.
    pub(crate) job: Option<u64>,
    job_attempt: Option<u32>,
    pub(crate) request: Option<Arc<RequestInfo>>,
    pub(crate) trace: TraceId,
    /// The work that started the task, if a request or a schedule did not.
    pub(crate) parent: Option<Parent>,
    location: &'static Location<'static>,
    began: OnceLock<(Instant, SystemTime)>,
    attempts: AtomicU32,
    end: OnceLock<End>,
    /// The last failed attempts, oldest first.
    failed_attempts: Mutex<VecDeque<FailedTaskAttempt>>,
    stop: Mutex<Option<Stop>>,
    stop_changed: Condvar,
    is_cancelled: AtomicBool,
    pub(crate) progress: Arc<Watched<Progress>>,
    is_overdue: AtomicBool,
}

/// The reason why a task was told to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Asked,
    Deadline,
}

/// A failed attempt of a task.
#[derive(Debug, Clone)]
pub(crate) struct FailedTaskAttempt {
    /// The number of the attempt, from 1.
    pub(crate) number: u32,
    /// The time when it ended.
    pub(crate) at: SystemTime,
    /// `failed`, `panicked`, `timed out`, `cancelled`, `abandoned`.
    pub(crate) outcome: &'static str,
    pub(crate) message: String,
    /// The location in the application's code, if it is known and not a part of the message.
    pub(crate) location: Option<String>,
}

/// The end of a task.
struct End {
    elapsed: Duration,
    failure: Option<String>,
    /// The messages of the error and its causes.
    messages: Vec<String>,
    /// The location in the application's code, if it is known.
    location: Option<String>,
    trace: Option<Trace>,
    state: TaskState,
}

/// The stored parts of a failure.
#[cfg(feature = "panel")]
pub(crate) struct FailureParts<'a> {
    /// The messages of the error and its causes.
    pub(crate) messages: &'a [String],
    /// The location in the application's code, if it is known.
    pub(crate) location: Option<&'a str>,
    /// The call that started the task, if it is in the application's code.
    pub(crate) start: Option<String>,
    pub(crate) backtrace: Option<&'a str>,
}

impl Record {
    /// Creates the record of a task that waits.
    pub(super) fn new(id: u64, identity: Identity, lineage: Lineage) -> Record {
        let Lineage { request, trace, parent } = lineage;
        let Identity { name, kind, key, job, job_attempt, location } = identity;
        Record {
            id,
            name: bounds::shorten(&name, LONGEST_NAME).into_owned(),
            kind,
            key: key.map(|key| bounds::key(&key, LONGEST_NAME).into_owned()),
            job,
            job_attempt,
            request,
            trace: trace.unwrap_or_else(TraceId::new),
            parent,
            location,
            began: OnceLock::new(),
            attempts: AtomicU32::new(0),
            end: OnceLock::new(),
            failed_attempts: Mutex::default(),
            stop: Mutex::default(),
            stop_changed: Condvar::new(),
            is_cancelled: AtomicBool::new(false),
            progress: Arc::new(Watched::new(Progress::default())),
            is_overdue: AtomicBool::new(false),
        }
    }

    /// Returns the lineage of work that the task starts.
    pub(crate) fn lineage_within(&self) -> Lineage {
        let own = self.job.map_or(Parent::Task(self.id), Parent::Job);
        let parent = if self.is_of_failure_hook() { Parent::FailureHook } else { own };
        Lineage { request: self.request.clone(), trace: Some(self.trace), parent: Some(parent) }
    }

    /// Returns true if a hook of `App::on_failure` has started the task, directly or through other work.
    pub(crate) fn is_of_failure_hook(&self) -> bool {
        self.parent == Some(Parent::FailureHook)
    }

    /// Returns true if the task was told to cancel.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Returns the reason why the task was told to cancel.
    pub(crate) fn stop_reason(&self) -> Option<Stop> {
        *lock(&self.stop)
    }

    /// Tells the task to cancel. The first reason counts.
    pub(crate) fn tell_to_stop(&self, why: Stop) {
        lock(&self.stop).get_or_insert(why);
        self.is_cancelled.store(true, Ordering::Release);
        self.stop_changed.notify_all();
        self.update(|progress| progress.is_cancelling = true);
    }

    /// Waits for a duration, or until the task is told to cancel. Returns true if it was.
    pub(crate) fn wait_for_stop(&self, wait: Duration) -> bool {
        wait_while_for(&self.stop_changed, lock(&self.stop), wait, |stop| stop.is_none()).is_some()
    }

    /// Records the start of an attempt.
    pub(crate) fn begin(&self) {
        self.began.get_or_init(|| (Instant::now(), SystemTime::now()));
        self.attempts.fetch_add(1, Ordering::Relaxed);
        self.update(|progress| {
            (progress.state, progress.failed, progress.due_at) = (TaskState::Running, None, None);
        });
    }

    /// Records that an attempt has failed, and that the task waits for the next one.
    pub(super) fn wait_for_retry(&self, retry: ScheduledRetry) {
        let ScheduledRetry { attempt, attempts, wait } = retry;
        self.update(|progress| {
            progress.state = TaskState::Waiting;
            progress.failed = Some(FailedAttempt { attempt, attempts });
            progress.due_at = SystemTime::now().checked_add(wait);
        });
    }

    /// Records the failure of an attempt.
    pub(super) fn add_failed_attempt(&self, failure: &Failure) {
        let attempt = FailedTaskAttempt {
            number: self.attempts(),
            at: SystemTime::now(),
            outcome: failure.outcome(),
            message: bounds::shorten(&failure.to_string(), LONGEST_ATTEMPT).into_owned(),
            location: failure.location(),
        };
        let mut attempts = lock(&self.failed_attempts);
        if attempts.len() == MOST_ATTEMPTS {
            attempts.pop_front();
        }
        attempts.push_back(attempt);
    }

    /// Returns the last failed attempts, oldest first.
    pub(crate) fn failed_attempts(&self) -> Vec<FailedTaskAttempt> {
        lock(&self.failed_attempts).iter().cloned().collect()
    }

    /// Records that the next attempt is due.
    pub(super) fn set_due(&self) {
        self.update(|progress| progress.due_at = None);
    }

    /// Returns the identity of the task, unique in the process while its record exists.
    pub(crate) fn address(self: &Arc<Record>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// Returns the time at which the first attempt began, if one has.
    pub(crate) fn began_at(&self) -> Option<SystemTime> {
        self.began.get().map(|(_, at)| *at)
    }

    /// Returns the number of attempts that have begun.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Returns the number of the last attempt, from 1, of the job or else of the task; `None` before the first one.
    pub(crate) fn attempt(&self) -> Option<u32> {
        self.job_attempt.or_else(|| Some(self.attempts()).filter(|begun| *begun > 0))
    }

    /// Changes the progress, and notifies its watchers.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.update(change);
    }

    /// Records the end of the task, and notifies its watchers. Returns false if the task had ended before.
    pub(super) fn end(&self, failure: Option<&Failure>) -> bool {
        let state = failure.map_or(TaskState::Done, TaskState::after);
        let end = End {
            elapsed: self.elapsed(),
            failure: failure.map(|failure| bounds::shorten(&failure.to_string(), LONGEST_FAILURE).into_owned()),
            messages: failure.map_or_else(Vec::new, messages),
            location: failure.and_then(Failure::place),
            trace: failure.and_then(Failure::trace).cloned(),
            state,
        };
        let is_first = self.end.set(end).is_ok();
        if is_first {
            let attempt = Some(self.attempts()).filter(|made| *made > 0 && state == TaskState::Failed);
            self.update(|progress| {
                progress.state = state;
                progress.failed = attempt.map(|attempt| FailedAttempt { attempt, attempts: attempt });
                progress.due_at = None;
            });
            self.progress.finish();
        }
        is_first
    }

    /// Records that the deadline has passed while the task runs.
    pub(super) fn set_overdue(&self) {
        self.is_overdue.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Relaxed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    /// Returns the failure and its backtrace, if the task has failed.
    pub(crate) fn failure(&self) -> Option<(&str, Option<&str>)> {
        let end = self.end.get()?;
        Some((end.failure.as_deref()?, end.trace.as_ref().map(Trace::text)))
    }

    /// Returns the parts of the failure, if the task has failed.
    #[cfg(feature = "panel")]
    pub(crate) fn failure_parts(&self) -> Option<FailureParts<'_>> {
        let end = self.end.get().filter(|end| end.failure.is_some())?;
        Some(FailureParts {
            messages: &end.messages,
            location: end.location.as_deref(),
            start: location::own(self.location).map(location::text),
            backtrace: end.trace.as_ref().map(Trace::text),
        })
    }

    pub(crate) fn state(&self) -> TaskState {
        self.end.get().map_or_else(|| self.progress.get().state, |end| end.state)
    }

    /// Returns the time from the first attempt until now, or until the end of the task.
    pub(crate) fn elapsed(&self) -> Duration {
        let so_far = || self.began.get().map_or(Duration::ZERO, |(began, _)| began.elapsed());
        self.end.get().map_or_else(so_far, |end| end.elapsed)
    }

    /// Logs an event of the task.
    pub(super) fn log(&self, level: Level, event: &str) {
        if log::log_enabled!(target: TARGET, level) {
            log_fields::log(TARGET, level, &self.log_fields(), format_args!("{}", self.line(event)));
        }
    }

    /// Logs a failed attempt, with its location in the application's code: of the error, or else of the call that started the
    /// task.
    pub(super) fn log_failure(&self, level: Level, event: &str, failure: &Failure) {
        let location = self.location_of(failure);
        let line = self.line_with(event, &location.map_or(String::new(), |location| format!(", {location}")));
        let fields = LogFields {
            error: Some(ErrorList(failure.causes())),
            location: failure.place().or_else(|| location::own(self.location).map(location::text)),
            backtrace: Trace::for_log(failure.trace()),
            ..self.log_fields()
        };
        log_fields::log(TARGET, level, &fields, format_args!("{line}"));
    }

    /// Returns the fields of a log line about the task.
    pub(crate) fn log_fields(&self) -> LogFields<'_> {
        LogFields {
            request: self.request.as_ref().map(|request| request.id.as_str()),
            trace: Some(self.trace),
            task: Some(self.id),
            job: self.job,
            attempt: self.attempt(),
            duration: self.began.get().map(|_| self.elapsed()),
            ..LogFields::default()
        }
    }

    /// Returns the log line for an event. Its parts are escaped, so that they cannot break the line.
    fn line(&self, event: &str) -> String {
        self.line_with(event, "")
    }

    /// Returns the location of the call that started the task, if it is in the application's code.
    pub(crate) fn start_location(&self) -> Option<String> {
        location::own(self.location).map(location::text)
    }

    fn location_of(&self, failure: &Failure) -> Option<String> {
        if failure.names_location() {
            return None;
        }
        let started = || self.start_location().filter(|start| !self.name.contains(start));
        failure.location().map(|at| format!("at {at}")).or_else(|| Some(format!("started at {}", started()?)))
    }

    fn line_with(&self, event: &str, more: &str) -> String {
        let request = self.request.as_ref().map_or(String::new(), |request| format!("{request}, "));
        let after = match self.began.get() {
            Some(_) => format!("after {}", span(self.elapsed())),
            None => "never began".to_owned(),
        };
        escape(&format!("Background task {} {event} (task {}, {request}{after}{more})", self.name, self.id))
            .into_owned()
    }
}

/// Returns the messages of a failure and its causes, bounded like [`LONGEST_FAILURE`]; of a panic without the location.
fn messages(failure: &Failure) -> Vec<String> {
    let messages = match failure {
        Failure::Error(error) => error.messages(),
        Failure::Panic(panic) => vec![format!("panicked: {}", panic.message)],
        _ => vec![failure.to_string()],
    };
    let each = LONGEST_FAILURE / MOST_CAUSES;
    messages.iter().take(MOST_CAUSES).map(|message| bounds::shorten(message, each).into_owned()).collect()
}

#[cfg(test)]
impl Identity {
    #[track_caller]
    pub(crate) fn test(name: &str) -> Identity {
        let location = Location::caller();
        Identity { name: name.to_owned(), kind: None, key: None, job: None, job_attempt: None, location }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: the log said "after 0 ms" of a task that never ran.
    #[test]
    fn the_log_says_that_a_task_never_began() {
        let record = Record::new(1, Identity::test("mail"), Lineage::default());
        assert!(record.line("was abandoned").ends_with("mail was abandoned (task 1, never began)"));
        record.begin();
        assert!(record.line("was abandoned").contains("(task 1, after "));
    }
}
