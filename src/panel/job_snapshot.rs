//! The jobs as the panel shows them: shortened text, with invisible characters escaped.

use std::time::Duration;

use serde::Serialize;

use super::failure_groups::{FailureGroup, MOST_GROUPS};
use super::moment::Moment;
use super::snapshot::elapsed;
use crate::background::progress::Progress;
use crate::background::scope::Scope;
use crate::background::trace_id::TraceId;
use crate::error::{Error, Result};
use crate::http::error_pages::failure_view::{FailureView, StoredFailure};
use crate::http::error_pages::sanitize::{visible_line, visible_up_to};
use crate::jobs::record::{Millis, ScheduleInfo, StoredOutput, WorkerInfo};
use crate::jobs::{JobCounts, JobFailure, JobInfo, JobState, Jobs, QueueInfo};
use crate::log_text::span;

/// The number of jobs of each state on the first page. The others are on pages of their own.
const NEWEST: usize = 10;

/// The lengths, in characters, of a text in a list, and of a payload or an output.
const LONGEST: usize = 200;
const JSON: usize = 10_000;

/// The wait of a job for a worker after which its queue lags: a minute.
const LAG: Millis = 60_000;

/// The time without a heartbeat after which a process is late.
const LATE: Millis = 15_000;

/// The maximum indentation of a payload, so that text with a thousand open brackets does not fill a page with spaces.
const DEEPEST: usize = 12;

/// The order of the lists.
const LISTS: [JobState; 6] =
    [JobState::Running, JobState::Waiting, JobState::Scheduled, JobState::Dead, JobState::Done, JobState::Cancelled];

/// The number of dead jobs, which is on every page.
pub(super) struct Dead(pub(super) u64);

impl Dead {
    /// # Errors
    /// An error if the engine is unreachable.
    pub(super) fn count(jobs: &Jobs) -> Result<Dead> {
        Ok(Dead(jobs.counts()?.dead))
    }
}

/// The jobs of an application at one moment.
#[derive(Clone, Default, PartialEq, Serialize)]
pub(super) struct JobLists {
    /// The error, if the engine is unreachable.
    outage: Option<String>,
    store: String,
    counts: JobCounts,
    queues: Vec<Queue>,
    /// The dead jobs by equal errors.
    groups: Vec<FailureGroup>,
    schedules: Vec<Schedule>,
    workers: Vec<Worker>,
    lists: Vec<List>,
}

impl JobLists {
    pub(super) fn of(scope: &Scope) -> JobLists {
        let Some(jobs) = scope.get::<Jobs>() else { return JobLists::default() };
        JobLists::read(&jobs).unwrap_or_else(|error| JobLists { outage: Some(outage(&error)), ..JobLists::default() })
    }

    fn read(jobs: &Jobs) -> Result<JobLists> {
        let now = jobs.now();
        let list = |state| match state {
            JobState::Waiting => List::next_to_run(jobs, NEWEST),
            _ => List::of(jobs, state, None, NEWEST),
        };
        Ok(JobLists {
            outage: None,
            store: visible_line(&jobs.describe(), LONGEST),
            counts: jobs.counts()?,
            queues: jobs.queues()?.into_iter().map(|queue| Queue::of(queue, now)).collect(),
            groups: groups(jobs)?,
            schedules: jobs.schedules()?.into_iter().map(|schedule| Schedule::of(schedule, now)).collect(),
            workers: jobs.workers()?.iter().map(|worker| Worker::of(worker, now)).collect(),
            lists: LISTS.into_iter().map(list).collect::<Result<_>>()?,
        })
    }
}

/// Returns the message for an engine that is unreachable.
pub(super) fn outage(error: &Error) -> String {
    visible_up_to(&error.chain(), LONGEST * 5)
}

/// A queue in the list.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct Queue {
    name: String,
    shown: String,
    waiting: u64,
    running: u64,
    is_paused: bool,
    /// The time from which the oldest waiting job has waited.
    oldest: Option<Moment>,
    /// True if that is more than a minute ago.
    lags: bool,
}

impl Queue {
    pub(super) fn of(queue: QueueInfo, now: Millis) -> Queue {
        let QueueInfo { name, waiting, running, is_paused, oldest_at } = queue;
        let lags = oldest_at.is_some_and(|oldest| now.saturating_sub(oldest) > LAG);
        let oldest = oldest_at.and_then(|oldest| Moment::of_job(oldest, now));
        Queue { shown: visible_line(&name, LONGEST), name, waiting, running, is_paused, oldest, lags }
    }

    /// Returns true if a person should look at the queue.
    pub(super) fn needs_attention(&self) -> bool {
        self.lags || self.is_paused && self.waiting > 0
    }
}

/// Returns the dead jobs by equal errors.
///
/// # Errors
/// An error if the engine is unreachable.
pub(super) fn groups(jobs: &Jobs) -> Result<Vec<FailureGroup>> {
    let (groups, now) = (jobs.failure_groups()?, jobs.now());
    Ok(groups.iter().take(MOST_GROUPS).map(|group| FailureGroup::of_jobs(group, now)).collect())
}

/// A schedule in the list.
#[derive(Clone, PartialEq, Serialize)]
struct Schedule {
    name: String,
    label: String,
    crontab: String,
    last: Option<Moment>,
    next: Option<Moment>,
}

impl Schedule {
    fn of(schedule: ScheduleInfo, now: Millis) -> Schedule {
        let ScheduleInfo { name, label, crontab, last, next, .. } = schedule;
        let [label, crontab] = [label, crontab].map(|text| visible_line(&text, LONGEST));
        Schedule { name, label, crontab, last: at(last, now), next: at(next, now) }
    }
}

/// A process in the list.
#[derive(Clone, PartialEq, Serialize)]
struct Worker {
    name: String,
    heartbeat: Option<Moment>,
    is_late: bool,
    running: u64,
}

impl Worker {
    fn of(worker: &WorkerInfo, now: Millis) -> Worker {
        let name = match (&worker.host, worker.pid) {
            (Some(host), Some(pid)) => format!("{host}, process {pid}"),
            (Some(host), None) => host.clone(),
            _ => worker.id.clone(),
        };
        let is_late = worker.heartbeat_at.is_some_and(|heartbeat| now.saturating_sub(heartbeat) > LATE);
        let (name, heartbeat) = (visible_line(&name, LONGEST), at(worker.heartbeat_at, now));
        Worker { name, heartbeat, is_late, running: worker.running }
    }
}

/// Jobs of one state, the newest first; or jobs that were found.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct List {
    /// The state; `None` for jobs that were found.
    state: Option<JobState>,
    /// The description of the state.
    caption: &'static str,
    /// The heading of the time in the list.
    time: &'static str,
    rows: Vec<Row>,
    /// The id below which the next page starts, if there is one.
    older: Option<u64>,
}

impl List {
    pub(super) fn of(jobs: &Jobs, state: JobState, before: Option<u64>, most: usize) -> Result<List> {
        let mut found = jobs.newest(state, before, most + 1)?;
        let is_more = found.len() > most;
        found.truncate(most);
        let rows = rows(jobs, &found);
        let older = rows.last().map(|row| row.id).filter(|_| is_more);
        Ok(List { state: Some(state), caption: caption(state), time: time(state), rows, older })
    }

    /// Returns the first waiting jobs in the order in which they start.
    fn next_to_run(jobs: &Jobs, most: usize) -> Result<List> {
        let mut found = jobs.next_to_run(None, most + 1)?;
        // No page lists the other jobs in this order: the next page begins with the newest job.
        let older = (found.len() > most).then_some(u64::MAX);
        found.truncate(most);
        let caption = "They start as soon as a worker has capacity, in this order.";
        let state = JobState::Waiting;
        Ok(List { state: Some(state), caption, time: time(state), rows: rows(jobs, &found), older })
    }

    /// Returns jobs of several states.
    pub(super) fn found(jobs: &Jobs, found: &[JobInfo]) -> List {
        let caption = "The jobs that were found, the newest first.";
        List { state: None, caption, time: "Time", rows: rows(jobs, found), older: None }
    }

    /// Returns the distinct names of the job types in the list.
    pub(super) fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.rows.iter().map(|row| &*row.exact_name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

fn rows(jobs: &Jobs, found: &[JobInfo]) -> Vec<Row> {
    let now = jobs.now();
    found.iter().map(|job| Row::of(job, now)).collect()
}

fn caption(state: JobState) -> &'static str {
    match state {
        JobState::Running => "Claimed by a worker, in any process. The newest first.",
        JobState::Waiting => "They start as soon as a worker has capacity. The newest first.",
        JobState::Scheduled => "They wait until they are due, or for the next attempt. The newest first.",
        JobState::Dead => {
            "Failed after the last attempt. Each is kept until it is retried or discarded. The newest first."
        }
        JobState::Done => "Completed; the oldest are pruned after a while. The newest first.",
        JobState::Cancelled => "Cancelled by a user; the oldest are pruned after a while. The newest first.",
    }
}

fn time(state: JobState) -> &'static str {
    match state {
        JobState::Running => "Began",
        JobState::Waiting => "Enqueued",
        JobState::Scheduled => "Due",
        JobState::Dead | JobState::Done | JobState::Cancelled => "Ended",
    }
}

/// Returns the actions on a job: the last part of the path, and the label of the button.
fn actions(job: &JobInfo) -> &'static [(&'static str, &'static str)] {
    match job.state {
        JobState::Running if job.is_cancelling => &[],
        JobState::Running | JobState::Waiting => &[("cancel", "Cancel")],
        JobState::Scheduled => &[("retry", "Run now"), ("cancel", "Cancel")],
        JobState::Dead | JobState::Cancelled => &[("retry", "Retry"), ("discard", "Discard")],
        JobState::Done => &[("discard", "Discard")],
    }
}

/// One job in a list.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct Row {
    id: u64,
    label: String,
    name: String,
    #[serde(skip)]
    exact_name: String,
    queue: String,
    is_paused: bool,
    state: JobState,
    is_cancelling: bool,
    origin: Option<String>,
    /// The trace id, by which the page of the request is found.
    trace: Option<String>,
    /// The time when the job started, is due or ended, according to its state.
    time: Option<Moment>,
    /// The time for which the job has run.
    elapsed: Option<String>,
    attempts: u32,
    done: u64,
    total: u64,
    percent: Option<u8>,
    message: String,
    /// The message of the last failed attempt.
    failure: Option<String>,
    actions: &'static [(&'static str, &'static str)],
}

impl Row {
    fn of(job: &JobInfo, now: Millis) -> Row {
        let line = |text: &str| visible_line(text, LONGEST);
        let runs_since = job.began_at.filter(|_| job.state == JobState::Running);
        Row {
            id: job.id,
            label: line(&job.label),
            name: line(&job.name),
            exact_name: job.name.clone(),
            queue: line(&job.queue),
            is_paused: job.is_paused,
            state: job.state,
            is_cancelling: job.is_cancelling,
            origin: job.request.as_deref().map(line),
            trace: job.trace.clone().filter(|trace| TraceId::parse(trace).is_some()),
            time: at(time_of(job), now),
            elapsed: runs_since.map(|began| elapsed(between(began, now))),
            attempts: job.attempt,
            done: job.done,
            total: job.total,
            percent: percent(job),
            message: line(&job.message),
            failure: job.failures.last().map(|failure| line(&failure.message)),
            actions: actions(job),
        }
    }
}

fn time_of(job: &JobInfo) -> Option<Millis> {
    match job.state {
        JobState::Running => job.began_at,
        JobState::Waiting => Some(job.enqueued_at),
        JobState::Scheduled => Some(job.due_at),
        JobState::Dead | JobState::Done | JobState::Cancelled => job.ended_at,
    }
}

fn at(time: Option<Millis>, now: Millis) -> Option<Moment> {
    time.and_then(|time| Moment::of_job(time, now))
}

fn between(from: Millis, to: Millis) -> Duration {
    Duration::from_millis(to.saturating_sub(from).max(0).unsigned_abs())
}

fn percent(job: &JobInfo) -> Option<u8> {
    Progress { done: job.done, total: job.total, ..Progress::default() }.percent()
}

/// One job with all its fields, or the reason why it cannot be shown.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct Shown {
    id: u64,
    outage: Option<String>,
    /// `None` also if the job no longer exists.
    job: Option<Whole>,
}

impl Shown {
    pub(super) fn of(id: u64, job: Option<&JobInfo>, scope: &Scope, now: Millis) -> Shown {
        Shown { id, outage: None, job: job.map(|job| Whole::of(job, scope, now)) }
    }

    pub(super) fn unreachable(id: u64, error: &Error) -> Shown {
        Shown { id, outage: Some(outage(error)), job: None }
    }
}

#[derive(Clone, PartialEq, Serialize)]
struct Whole {
    row: Row,
    priority: i32,
    unique: Option<String>,
    interruptions: u32,
    enqueued: Option<Moment>,
    due: Option<Moment>,
    began: Option<Moment>,
    ended: Option<Moment>,
    /// The id of the task of the running attempt, if it runs in this process.
    task: Option<u64>,
    /// The newest first.
    failures: Vec<FailedAttempt>,
    /// The duration of the last attempt, if the job has ended well.
    took: Option<String>,
    has_output: bool,
    /// The output, if it may be shown.
    output: Option<String>,
}

impl Whole {
    fn of(job: &JobInfo, scope: &Scope, now: Millis) -> Whole {
        let task = scope.registry().attempt_of(job.id);
        let failures = job.failures.iter().rev().enumerate();
        let done = job.began_at.filter(|_| job.state == JobState::Done);
        Whole {
            row: Row::of(job, now),
            priority: job.priority,
            unique: job.unique.as_deref().map(|key| visible_line(key, LONGEST)),
            interruptions: job.interruptions,
            enqueued: at(Some(job.enqueued_at), now),
            due: at(Some(job.due_at), now),
            began: at(job.began_at, now),
            ended: at(job.ended_at, now),
            task: task.map(|record| record.id),
            failures: failures.map(|(nth, failure)| FailedAttempt::of(failure, nth == 0, now)).collect(),
            took: done.zip(job.ended_at).map(|(began, ended)| span(between(began, ended)).to_string()),
            has_output: job.output != StoredOutput::Absent,
            output: scope.get::<Jobs>().and_then(|jobs| output(&jobs, job)),
        }
    }
}

/// A failed attempt.
#[derive(Clone, PartialEq, Serialize)]
struct FailedAttempt {
    attempt: u32,
    /// `failed`, `timed out`, `panicked`, `abandoned`.
    kind: String,
    at: Option<Moment>,
    took: Option<String>,
    location: Option<String>,
    failure: FailureView,
}

impl FailedAttempt {
    /// Returns an attempt. Only the last one has its source lines, since a page that is open is read twice a second.
    fn of(failure: &JobFailure, is_last: bool, now: Millis) -> FailedAttempt {
        let (location, backtrace) = (failure.location.as_deref(), failure.backtrace.as_deref());
        let stored = StoredFailure {
            messages: &[&failure.message],
            what: "Failed at",
            location: location.filter(|_| is_last),
            backtrace,
        };
        FailedAttempt {
            attempt: failure.attempt,
            kind: failure.kind.as_str().replace('_', " "),
            at: at(Some(failure.at), now),
            took: failure.began_at.map(|began| span(between(began, failure.at)).to_string()),
            location: location.map(|location| visible_line(location, LONGEST)),
            failure: FailureView::of(&stored),
        }
    }
}

/// Returns the payload, if it may be shown.
pub(super) fn payload(jobs: &Jobs, job: &JobInfo) -> Option<String> {
    json(jobs, job, &job.payload)
}

fn output(jobs: &Jobs, job: &JobInfo) -> Option<String> {
    if let StoredOutput::Whole(output) = &job.output { json(jobs, job, output.json()) } else { None }
}

/// Returns JSON of a job, shortened and indented; `None` if it is private.
fn json(jobs: &Jobs, job: &JobInfo, text: &str) -> Option<String> {
    (!jobs.is_private(&job.name)).then(|| indented(&visible_up_to(text, JSON)))
}

/// Returns JSON with other whitespace only: numbers keep their digits and fields their order, and shortened JSON is
/// shown up to its end.
fn indented(json: &str) -> String {
    let (mut text, mut depth, mut is_escaped, mut in_string) = (String::new(), 0_usize, false, false);
    let mut chars = json.chars().peekable();
    while let Some(char) = chars.next() {
        if in_string {
            in_string = is_escaped || char != '"';
            is_escaped = char == '\\' && !is_escaped;
            text.push(char);
            continue;
        }
        in_string = char == '"';
        match char {
            '{' | '[' if chars.peek().is_some_and(|next| !matches!(next, '}' | ']')) => {
                depth += 1;
                text.push(char);
                new_line(&mut text, depth);
            }
            '}' | ']' if !text.ends_with(['{', '[']) => {
                depth = depth.saturating_sub(1);
                new_line(&mut text, depth);
                text.push(char);
            }
            ',' => {
                text.push(char);
                new_line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => text.push(char),
        }
    }
    text
}

fn new_line(text: &mut String, depth: usize) {
    text.push('\n');
    text.push_str(&"  ".repeat(depth.min(DEEPEST)));
}

/// Returns a name for a heading or a message.
pub(super) fn short(text: &str) -> String {
    visible_line(text, 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_otherwise_unchanged() {
        let json = r#"{"b":1.0,"a":[18446744073709551616,{}],"t":"a\"{,:\\","e":[]}"#;
        let lines = [
            "{",
            r#"  "b": 1.0,"#,
            r#"  "a": ["#,
            "    18446744073709551616,",
            "    {}",
            "  ],",
            r#"  "t": "a\"{,:\\","#,
            r#"  "e": []"#,
            "}",
        ];
        assert_eq!(indented(json), lines.join("\n"));
        assert_eq!(indented("17"), "17");
        assert_eq!(indented(r#"{"a":"cut… (90 bytes)"#), "{\n  \"a\": \"cut… (90 bytes)");
    }

    #[test]
    fn a_thousand_brackets_do_not_fill_a_page() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        assert!(indented(&deep).len() < 300_000, "{}", indented(&deep).len());
        assert_eq!(indented("]]]}"), "\n]\n]\n]\n}");
    }
}
