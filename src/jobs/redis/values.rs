//! Values as scripts take and give them: words.

use std::collections::{BTreeSet, HashMap};

use crate::background::output::Output;
use crate::error::{Error, Result};
use crate::jobs::engine::{Claimed, End, Ending, Enqueued, Entry, Held, Steps, When};
use crate::jobs::record::{Cause, JobFailure, JobInfo, JobState, Kept, Millis, QueueInfo};

/// The largest number that is exact in a script, and in a sorted set: 2^53 - 1.
const LARGEST: Millis = (1 << 53) - 1;

/// The values of a call, as strings.
macro_rules! values {
    ($($value:expr),* $(,)?) => { [$($value.to_string()),*] };
}
pub(super) use values;

/// A time or a span that a script can count with.
pub(super) fn exact(time: Millis) -> Millis {
    time.clamp(-LARGEST, LARGEST)
}

/// What may be missing: `=` before what is there.
fn optional(words: Option<&str>) -> String {
    words.map(|words| format!("={words}")).unwrap_or_default()
}

/// The nine values of a new job.
pub(super) fn entry(entry: Entry, now: Millis) -> [String; 9] {
    let (due, wait) = match entry.when {
        When::Now => (now, String::new()),
        When::At(time) => (time, String::new()),
        When::After(wait) => (now.saturating_add(wait), exact(wait).to_string()),
    };
    let (unique, origin) = (optional(entry.unique.as_deref()), optional(entry.origin.as_deref()));
    let (priority, due) = (entry.priority.to_string(), exact(due).to_string());
    [entry.name, entry.label, entry.payload, entry.queue, priority, unique, origin, due, wait]
}

/// `7 1 3 0`: the new job 7, and 3 that was there.
pub(super) fn enqueued(words: &str) -> Result<Vec<Enqueued>> {
    let words: Vec<&str> = words.split_ascii_whitespace().collect();
    let pairs = words.chunks_exact(2);
    pairs.map(|pair| Ok(Enqueued { id: number(pair[0])?, is_new: pair[1] == "1" })).collect()
}

/// How a try ended: the word for it, the words of its failure, when it is due again, and the wait until then.
pub(super) fn end(end: End, now: Millis) -> [String; 5] {
    let cause = if let End::Dead { cause, .. } = end { cause } else { Cause::Failed };
    let (state, words, wait) = match end {
        End::Done => ("done", None, None),
        End::Retry { wait, words } => ("retry", Some(words), Some(exact(wait))),
        End::Dead { words, .. } => ("dead", Some(words), None),
        End::Cancelled { words } => ("cancelled", words, None),
        End::Released => ("released", None, None),
    };
    let due = wait.map(|wait| exact(now.saturating_add(wait)).to_string()).unwrap_or_default();
    let wait = wait.map(|wait| wait.to_string()).unwrap_or_default();
    [state.to_owned(), optional(words.as_deref()), due, wait, cause.as_str().to_owned()]
}

/// The five values of what a try leaves: its progress as [`told`] writes it, and its output.
pub(super) fn last(ending: &Ending) -> [String; 5] {
    let [is_told, done, total, message] = told(ending.last.progress.as_ref());
    [is_told, done, total, message, optional(ending.output().map(Output::json))]
}

/// Whether progress is told, and the progress.
fn told(progress: Option<&Steps>) -> [String; 4] {
    let (done, total, message) = progress.cloned().unwrap_or_default();
    values![if progress.is_some() { "1" } else { "0" }, done, total, message]
}

/// The six values of a job that a worker holds.
pub(super) fn held(held: &Held) -> [String; 6] {
    let [is_told, done, total, message] = told(held.progress.as_ref());
    [held.id.to_string(), held.token.to_string(), is_told, done, total, message]
}

/// A claimed job as `claim.lua` hands it out: id, token, name, label, payload, queue, attempt, origin, and when it was
/// enqueued.
pub(super) type Handed = (u64, u64, String, String, String, String, u32, Option<String>, Millis);

pub(super) fn claimed(handed: Handed) -> Claimed {
    let (id, token, name, label, payload, queue, attempt, origin, enqueued_at) = handed;
    Claimed { id, token, name, label, payload, queue, attempt, origin, enqueued_at }
}

/// A job as `find.lua` shows it: id, fields, failures. `list.lua` shows `has_output` in the place of the output.
pub(super) type Shown = (u64, HashMap<String, String>, Vec<String>);

pub(super) fn info((id, mut fields, failures): Shown) -> Result<JobInfo> {
    let broken =
        |what: &str| Error::internal(format!("job {id} in Redis has no readable {what}; has somebody changed it?"));
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
    let mut words = |name: &str| fields.remove(name);
    let output = if has_output { Kept::LeftOut } else { words("output").map(Output::from_json).into() };
    Ok(JobInfo {
        id,
        name: words("name").unwrap_or_default(),
        label: words("label").unwrap_or_default(),
        queue: words("queue").unwrap_or_default(),
        priority: priority.try_into().unwrap_or_default(),
        state,
        attempt: attempt.try_into().unwrap_or(u32::MAX),
        interruptions: interruptions.try_into().unwrap_or(u32::MAX),
        payload: words("payload").unwrap_or_default(),
        unique: words("unique"),
        origin: words("origin"),
        enqueued_at,
        due_at,
        began_at,
        ended_at,
        is_cancelling,
        done,
        total,
        message: words("message").unwrap_or_default(),
        failures: failures.iter().filter_map(|line| failure(line)).collect(),
        output,
    })
}

/// What waits and what runs by queue, and the queues that are paused, as `queues.lua` shows them.
pub(super) type Queues = (HashMap<String, u64>, HashMap<String, u64>, BTreeSet<String>);

pub(super) fn queues((waiting, running, paused): &Queues) -> Vec<QueueInfo> {
    let names: BTreeSet<&String> = waiting.keys().chain(running.keys()).chain(paused).collect();
    let of = |counts: &HashMap<String, u64>, name: &str| counts.get(name).copied().unwrap_or(0);
    let queue = |name: &String| QueueInfo {
        name: name.clone(),
        waiting: of(waiting, name),
        running: of(running, name),
        is_paused: paused.contains(name),
    };
    names.into_iter().map(queue).collect()
}

/// `<attempt> <time> <words>`.
fn failure(line: &str) -> Option<JobFailure> {
    let mut parts = line.splitn(3, ' ');
    let (attempt, at) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(JobFailure { attempt, at, words: parts.next()?.to_owned() })
}

fn number(words: &str) -> Result<u64> {
    words.parse().map_err(|_| Error::internal(format!("Redis gave `{words}` for a job's number")))
}
