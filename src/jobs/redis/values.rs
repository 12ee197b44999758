//! Conversion of values to and from the strings of scripts.

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::background::output::Output;
use crate::error::{Error, Result};
use crate::jobs::engine::{
    AttemptFailure, Claimed, EndedAttempt, Enqueued, Entry, HeldJob, Resolution, Steps, When, host,
};
use crate::jobs::record::{
    FailureGroup, FailureKind, JobFailure, JobInfo, JobState, Millis, QueueInfo, StoredOutput, WorkerInfo, error_group,
};

/// The largest number that is exact in a script, and in a sorted set: 2^53 - 1.
const LARGEST: Millis = (1 << 53) - 1;

/// The values of a call, as strings.
macro_rules! values {
    ($($value:expr),* $(,)?) => { [$($value.to_string()),*] };
}
pub(super) use values;

/// Limits a time or a duration to the range that a script can calculate with.
pub(super) fn exact(time: Millis) -> Millis {
    time.clamp(-LARGEST, LARGEST)
}

/// Encodes an optional value: `=` and the value, or an empty string.
fn optional(text: Option<&str>) -> String {
    text.map(|text| format!("={text}")).unwrap_or_default()
}

/// The eleven values of a new job.
pub(super) fn entry(entry: Entry, now: Millis) -> [String; 11] {
    let (due, wait) = match entry.when {
        When::Now => (now, String::new()),
        When::At(time) => (time, String::new()),
        When::After(wait) => (now.saturating_add(wait), exact(wait).to_string()),
    };
    let [unique, origin, trace, parent] =
        [entry.unique, entry.origin, entry.trace, entry.parent].map(|text| optional(text.as_deref()));
    let (priority, due) = (entry.priority.to_string(), exact(due).to_string());
    [entry.name, entry.label, entry.payload, entry.queue, priority, unique, origin, due, wait, trace, parent]
}

/// Parses the reply `7 1 3 0`: the new job 7, and the existing job 3.
pub(super) fn enqueued(reply: &str) -> Result<Vec<Enqueued>> {
    let numbers: Vec<&str> = reply.split_ascii_whitespace().collect();
    let pairs = numbers.chunks_exact(2);
    pairs.map(|pair| Ok(Enqueued { id: number(pair[0])?, is_new: pair[1] == "1" })).collect()
}

/// The thirteen values of an ended attempt: id, token, its last progress as [`progress_values`] encodes it, the output, the
/// name of the outcome, its failure as [`failure_values`] encodes it, the due time of the next attempt, the backoff, and the cause and the
/// error group of a dead job.
pub(super) fn ended(ended: &EndedAttempt, now: Millis) -> [String; 13] {
    let resolved = &*ended.resolved;
    let [has_progress, done, total, progress] = progress_values(resolved.last_values.progress.as_ref());
    let output = optional(resolved.output().map(Output::json));
    let (state, failure, wait) = match &resolved.resolution {
        Resolution::Done => ("done", None, None),
        Resolution::Retry { wait, failure } => ("retry", Some(failure), Some(exact(*wait))),
        Resolution::Dead { failure } => ("dead", Some(failure), None),
        Resolution::Cancelled { failure } => ("cancelled", failure.as_ref(), None),
        Resolution::Released => ("released", None, None),
    };
    let due = wait.map(|wait| exact(now.saturating_add(wait)).to_string()).unwrap_or_default();
    let wait = wait.map(|wait| wait.to_string()).unwrap_or_default();
    let cause = failure.map(|failure| failure.kind).unwrap_or_default();
    let error = failure.map(|failure| error_group(&failure.message)).unwrap_or_default();
    let failure = failure.map(failure_values).unwrap_or_default();
    let [id, token, state, cause] = values![ended.id, ended.token, state, cause];
    [id, token, has_progress, done, total, progress, output, state, failure, due, wait, cause, error]
}

/// Encodes a failure: an object, to which the script adds the attempt and the times, and on a line of its own the backtrace,
/// which lists leave out.
fn failure_values(failure: &AttemptFailure) -> String {
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    let mut text = json(serde_json::to_string(failure));
    if let Some(backtrace) = &failure.backtrace {
        text.push('\n');
        text.push_str(&json(serde_json::to_string(backtrace)));
    }
    text
}

/// Parses the reply for an outcome: `1` if it is recorded, `0` if its token was stale, or the error of the server.
pub(super) fn recorded(reply: &str) -> Result<bool> {
    match reply {
        "1" => Ok(true),
        "0" => Ok(false),
        error => Err(Error::internal(format!("Redis refuses the outcome of the job: {error}"))),
    }
}

/// Returns `1` and the progress, or `0` and empty progress.
fn progress_values(progress: Option<&Steps>) -> [String; 4] {
    let (done, total, message) = progress.cloned().unwrap_or_default();
    values![if progress.is_some() { "1" } else { "0" }, done, total, message]
}

/// The six values of a job that a worker holds.
pub(super) fn held(held: &HeldJob) -> [String; 6] {
    let [has_progress, done, total, message] = progress_values(held.progress.as_ref());
    [held.id.to_string(), held.token.to_string(), has_progress, done, total, message]
}

/// A claimed job as `exchange.lua` returns it: id, token, name, label, payload, queue, attempt, the time when it was
/// enqueued, and its origin, trace and parent.
pub(super) type ClaimedRow = (u64, u64, String, String, String, String, u32, Millis, Origin);

/// The origin, trace and parent of a job.
pub(super) type Origin = (Option<String>, Option<String>, Option<String>);

fn claimed(row: ClaimedRow) -> Claimed {
    let (id, token, name, label, payload, queue, attempt, enqueued_at, (origin, trace, parent)) = row;
    Claimed { id, token, name, label, payload, queue, attempt, origin, trace, parent, enqueued_at }
}

/// Returns the claimed jobs. A fault is an error only if no job was claimed: the claimed jobs must run, and the next claim
/// has the same fault.
pub(super) fn all_claimed(rows: Vec<ClaimedRow>, fault: String) -> Result<Vec<Claimed>> {
    if rows.is_empty() && !fault.is_empty() {
        return Err(Error::internal(format!("Redis cannot claim a job: {fault}")));
    }
    Ok(rows.into_iter().map(claimed).collect())
}

/// A job as `find.lua` returns it: id, fields, failures. `list.lua` returns `has_output` instead of the output.
pub(super) type Shown = (u64, HashMap<String, String>, Vec<String>);

pub(super) fn info((id, mut fields, failures): Shown) -> Result<JobInfo> {
    let broken = |what: &str| {
        Error::internal(format!(
            "job {id} in Redis has an invalid {what}; check whether another program has changed it"
        ))
    };
    let state = fields.get("state").and_then(|word| JobState::of(word)).ok_or_else(|| broken("state"))?;
    let whole = |name: &str| fields.get(name).and_then(|word| word.parse::<i64>().ok()).ok_or_else(|| broken(name));
    let time = |name: &str| fields.get(name).and_then(|word| word.parse::<i64>().ok());
    let counter = |name: &str| fields.get(name).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let (priority, enqueued_at, due_at) = (whole("priority")?, whole("enqueued_at")?, whole("due_at")?);
    let (began_at, ended_at) = (time("began_at"), time("ended_at"));
    let (attempt, interruptions, done, total) =
        (counter("attempt"), counter("interruptions"), counter("done"), counter("total"));
    let is_cancelling = fields.get("cancelling").is_some_and(|word| word == "1");
    let has_output = fields.contains_key("has_output");
    let mut text = |name: &str| fields.remove(name);
    let output = if has_output { StoredOutput::LeftOut } else { text("output").map(Output::from_json).into() };
    Ok(JobInfo {
        id,
        name: text("name").unwrap_or_default(),
        label: text("label").unwrap_or_default(),
        queue: text("queue").unwrap_or_default(),
        priority: priority.try_into().unwrap_or_default(),
        state,
        attempt: attempt.try_into().unwrap_or(u32::MAX),
        interruptions: interruptions.try_into().unwrap_or(u32::MAX),
        payload: text("payload").unwrap_or_default(),
        unique: text("unique"),
        request: text("origin"),
        trace: text("trace"),
        parent: text("parent"),
        enqueued_at,
        due_at,
        began_at,
        ended_at,
        is_cancelling,
        done,
        total,
        message: text("message").unwrap_or_default(),
        is_paused: false,
        failures: failures.iter().filter_map(|line| failure(line)).collect(),
        output,
    })
}

/// A group of dead jobs as `failure_groups.lua` returns it: `<name>\0<error>`, the number of jobs, and the end and the id of
/// the newest.
pub(super) type GroupRow = (String, u64, Millis, u64);

pub(super) fn group((group, count, last_at, newest): GroupRow) -> FailureGroup {
    let (name, error) = group.split_once('\0').unwrap_or((&group, ""));
    FailureGroup { name: name.to_owned(), error: error.to_owned(), count, last_at, newest }
}

/// The process of a worker.
#[derive(Serialize, Deserialize)]
struct Process {
    host: Option<String>,
    pid: u32,
}

/// Returns this process, as JSON.
pub(super) fn process() -> String {
    serde_json::to_string(&Process { host: host(), pid: std::process::id() }).unwrap_or_default()
}

/// The numbers of heartbeats by worker, the time of the last one, the processes, and the numbers of running jobs, as
/// `worker_infos.lua` returns them.
pub(super) type Workers =
    (HashMap<String, u64>, HashMap<String, Millis>, HashMap<String, String>, HashMap<String, u64>);

pub(super) fn workers((heartbeats, times, processes, running): &Workers) -> Vec<WorkerInfo> {
    let ids: BTreeSet<&String> = heartbeats.keys().collect();
    let info = |id: &String| {
        let process: Option<Process> = processes.get(id).and_then(|process| serde_json::from_str(process).ok());
        WorkerInfo {
            id: id.clone(),
            pid: process.as_ref().map(|process| process.pid),
            host: process.and_then(|process| process.host),
            heartbeat_at: times.get(id).copied(),
            running: running.get(id).copied().unwrap_or(0),
        }
    };
    ids.into_iter().map(info).collect()
}

/// The numbers of waiting and running jobs by queue, the paused queues, and the times of the oldest waiting jobs, as
/// `queues.lua` returns them.
pub(super) type Queues = (HashMap<String, u64>, HashMap<String, u64>, BTreeSet<String>, HashMap<String, Millis>);

pub(super) fn queues((waiting, running, paused, oldest): &Queues) -> Vec<QueueInfo> {
    let names: BTreeSet<&String> = waiting.keys().chain(running.keys()).chain(paused).collect();
    let of = |counts: &HashMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    let queue = |name: &String| QueueInfo {
        name: name.clone(),
        waiting: of(waiting, name),
        running: of(running, name),
        is_paused: paused.contains(name),
        oldest_at: oldest.get(name).copied(),
    };
    names.into_iter().map(queue).collect()
}

/// Parses a failure: an object, and its backtrace on the next line.
fn failure(text: &str) -> Option<JobFailure> {
    if !text.starts_with('{') {
        return earlier_failure(text);
    }
    let (failure, backtrace) = text.split_once('\n').map_or((text, None), |(one, other)| (one, Some(other)));
    let backtrace = backtrace.and_then(|text| serde_json::from_str(text).ok());
    serde_json::from_str(failure).ok().map(|failure| JobFailure { backtrace, ..failure })
}

/// Parses a failure that an earlier version has written: `<attempt> <time> <message>`.
fn earlier_failure(text: &str) -> Option<JobFailure> {
    let mut parts = text.splitn(3, ' ');
    let (attempt, at, message) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.to_owned());
    let (began_at, kind, location, backtrace) = (None, FailureKind::Failed, None, None);
    Some(JobFailure { attempt, at, began_at, kind, message, location, backtrace })
}

fn number(text: &str) -> Result<u64> {
    text.parse().map_err(|_| Error::internal(format!("Redis returned `{text}` as the id of a job")))
}
