//! The tasks as the panel shows them: shortened text, with invisible characters escaped.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::moment::Moment;
use crate::background::progress::{FailedAttempt, TaskState};
use crate::background::record::{FailureParts, Record};
use crate::background::registry::TaskLists;
use crate::background::scope::Scope;
use crate::http::error_pages::failure_view::{FailureView, StoredFailure};
use crate::http::error_pages::sanitize::visible_line;
use crate::jobs::Jobs;
use crate::log_text::span;
#[cfg(feature = "mail")]
use crate::mail::Mailer;

/// The number of unfinished tasks in the list.
const UNFINISHED: usize = 100;

/// The number of finished tasks on the first page. The others are on pages of their own.
const NEWEST: usize = 10;

/// The length of one text, in characters.
const LONGEST: usize = 200;

/// The tasks of an application at one moment.
#[derive(Clone, Default, PartialEq, Serialize)]
pub(super) struct Snapshot {
    running: usize,
    waiting: usize,
    done: u64,
    cancelled: u64,
    timed_out: u64,
    failed: u64,
    panicked: u64,
    abandoned: u64,
    /// The number of stored mails; `None` if mail is not stored.
    mails: Option<usize>,
    unfinished: Vec<Row>,
    unlisted: usize,
    failures: Vec<Row>,
    ended: Vec<Row>,
}

impl Snapshot {
    pub(super) fn of(scope: &Scope) -> Snapshot {
        let TaskLists { counts, mut unfinished, failed, ended } = scope.registry().lists();
        unfinished.sort_by_key(|record| !record.is_overdue());
        Snapshot {
            running: counts.unfinished.saturating_sub(counts.queued),
            waiting: counts.queued,
            done: counts.done(),
            cancelled: counts.cancelled,
            timed_out: counts.timed_out,
            failed: counts.failed,
            panicked: counts.panicked,
            abandoned: counts.abandoned,
            mails: mails(scope),
            unlisted: unfinished.len().saturating_sub(UNFINISHED),
            unfinished: unfinished.iter().take(UNFINISHED).map(|record| Row::of(record, scope)).collect(),
            failures: newest_first(&failed, NEWEST, scope),
            ended: newest_first(&ended, NEWEST, scope),
        }
    }
}

#[cfg(feature = "mail")]
pub(super) fn mails(scope: &Scope) -> Option<usize> {
    let mailer = scope.get::<Mailer>()?;
    mailer.remembers().then(|| mailer.outbox().len())
}

#[cfg(not(feature = "mail"))]
pub(super) fn mails(_scope: &Scope) -> Option<usize> {
    None
}

/// Returns the last records, the newest first.
pub(super) fn newest_first(records: &[Arc<Record>], most: usize, scope: &Scope) -> Vec<Row> {
    records.iter().rev().take(most).map(|record| Row::of(record, scope)).collect()
}

/// One task in a list.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct Row {
    id: u64,
    name: String,
    key: Option<String>,
    /// The id of the job that the task is an attempt of.
    job: Option<u64>,
    origin: Option<String>,
    /// The trace id, by which the page of the request is found.
    trace: String,
    state: TaskState,
    has_ended: bool,
    is_overdue: bool,
    is_cancelling: bool,
    began: Option<Moment>,
    took: String,
    done: u64,
    total: u64,
    percent: Option<u8>,
    message: String,
    failure: Option<String>,
}

impl Row {
    pub(super) fn of(record: &Record, scope: &Scope) -> Row {
        let (progress, has_ended) = (record.progress.get(), record.has_ended());
        let line = |text: &str| visible_line(text, LONGEST);
        Row {
            id: record.id,
            name: line(&record.name),
            key: record.key.as_deref().map(line),
            job: record.job.filter(|_| scope.get::<Jobs>().is_some()),
            trace: record.trace.to_string(),
            origin: record.request.as_ref().map(|origin| line(&origin.to_string())),
            state: record.state(),
            has_ended,
            is_overdue: record.is_overdue(),
            is_cancelling: record.is_cancelled() && !has_ended,
            began: record.began_at().and_then(Moment::of_system),
            took: if has_ended { span(record.elapsed()).to_string() } else { elapsed(record.elapsed()) },
            done: progress.done,
            total: progress.total,
            percent: progress.percent(),
            message: line(&progress.message),
            failure: record.failure().map(|(message, _)| line(message)),
        }
    }
}

/// One task with all its fields.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct Whole {
    row: Row,
    attempts: u32,
    /// The failed attempt, and the time of the next one, while the task waits for it.
    failed: Option<FailedAttempt>,
    due: Option<Moment>,
    failure: Option<FailureView>,
}

impl Whole {
    pub(super) fn of(record: &Record, scope: &Scope) -> Whole {
        // First: a task that has ended by then has its failure.
        let row = Row::of(record, scope);
        let progress = record.progress.get();
        Whole {
            row,
            attempts: record.attempts(),
            failed: progress.failed.filter(|_| !progress.is_finished()),
            due: progress.due_at.and_then(Moment::of_system),
            failure: record.failure_parts().map(|parts| failure_of(&parts)),
        }
    }
}

/// Returns the failure with the lines around its location, or else around the call that started the task.
fn failure_of(parts: &FailureParts<'_>) -> FailureView {
    let FailureParts { messages, location, start, backtrace } = parts;
    let (what, location) = match location {
        Some(location) => ("Failed at", Some(*location)),
        None => ("Started at", start.as_deref()),
    };
    FailureView::of(&StoredFailure { messages, what, location, backtrace: *backtrace })
}

/// Returns a duration in whole seconds, so that a live page changes once a second for it, and not at each poll.
pub(super) fn elapsed(time: Duration) -> String {
    match time.as_secs() {
        0 => "under 1 s".into(),
        seconds @ 1..60 => format!("{seconds} s"),
        _ => span(time).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_running_task_is_in_whole_seconds() {
        let shown = [999, 1_000, 59_999, 61_500].map(|ms| elapsed(Duration::from_millis(ms)));
        assert_eq!(shown, ["under 1 s", "1 s", "59 s", "1 min 1 s"]);
    }
}
