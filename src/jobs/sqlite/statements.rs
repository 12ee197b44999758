//! The SQL statements of each operation. They run within a transaction of the caller.
//!
//! The statements contain the numbers of states literally, since SQLite uses a partial index only if the statement
//! shows that no other states are needed. Where the duration of a claim depends on an index, the statement names it, so
//! that SQLite never chooses another query plan.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::counts::{CountingConnection, number};
use super::groups;
use crate::background::output::Output;
use crate::jobs::engine::{
    AttemptFailure, CLOCK_SLACK, Capacity, Claimed, Enqueued, Entry, HeartbeatReply, HeldJob, LATEST_TICK,
    MOST_FAILURES, MOST_INTERRUPTIONS, MOST_OLDEST, PRIORITY_STEP, Recovered, Resolution, ResolvedAttempt, Retention,
    When, host, wait_after_interruption,
};
use crate::jobs::record::{
    FailureKind, JobCounts, JobFailure, JobInfo, JobState, Millis, QueueInfo, StoredOutput, WorkerInfo,
};

type Result<T> = rusqlite::Result<T>;

/// The number of due jobs that one claim makes wait: more would block other writes. The next claim continues, the
/// earliest due first.
const MOST_DUE: u32 = 10_000;

/// The longest wait that SQLite can calculate with. A longer wait is never over, whatever the clock says.
const LONGEST_WAIT: Millis = Millis::MAX / 2;

/// The number of jobs that are deleted in one transaction.
pub(super) const MOST_PRUNED: usize = 500;

fn state_of(number: u8) -> Result<JobState> {
    let state = JobState::ALL.into_iter().find(|state| self::number(*state) == number);
    state.ok_or(rusqlite::Error::IntegralValueOutOfRange(0, number.into()))
}

/// Returns an id as SQLite stores it. A value that is too large matches no job.
fn key(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(-1)
}

/// Returns a count as SQLite stores it.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns the due time, and the time from which the job waits.
fn due(when: When, now: Millis) -> (Millis, Millis) {
    let due = match when {
        When::Now => now,
        When::At(time) => time,
        When::After(wait) => now.saturating_add(wait),
    };
    (due, due.max(now))
}

/// Returns a trace id as SQLite stores it: its upper and its lower 64 bits.
fn trace_halves(text: &str) -> Option<(i64, i64)> {
    let (high, low) = text.split_at_checked(16)?;
    let half = |digits| u64::from_str_radix(digits, 16).ok().map(u64::cast_signed);
    Some((half(high)?, half(low)?))
}

/// Returns the trace id from two successive columns.
fn trace_in(row: &Row<'_>, column: usize) -> Result<Option<String>> {
    let (high, low): (Option<i64>, Option<i64>) = (row.get(column)?, row.get(column + 1)?);
    Ok(high.zip(low).map(|(high, low)| format!("{:016x}{:016x}", high.cast_unsigned(), low.cast_unsigned())))
}

fn rank(since: Millis, priority: i32) -> Millis {
    since.saturating_sub(Millis::from(priority) * PRIORITY_STEP)
}

pub(super) fn enqueue(db: &CountingConnection<'_>, entry: &Entry, now: Millis) -> Result<Enqueued> {
    if let Some(id) = owner_of(db, &entry.name, entry.unique.as_deref())? {
        return Ok(Enqueued { id, is_new: false });
    }
    let (due, since) = due(entry.when, now);
    let wait = if let When::After(wait) = entry.when { Some(wait) } else { None };
    let state = if due > now { JobState::Scheduled } else { JobState::Waiting };
    let trace = entry.trace.as_deref().and_then(trace_halves);
    let id = db.next_id()?;
    db.insert(params![
        id,
        number(state),
        rank(since, entry.priority),
        entry.queue,
        entry.name,
        entry.unique,
        entry.priority,
        now,
        due,
        wait,
        entry.label,
        entry.origin,
        entry.payload,
        trace.map(|(high, _)| high),
        trace.map(|(_, low)| low),
        entry.parent,
    ])?;
    db.count(state, &entry.queue, 1);
    Ok(Enqueued { id: id.unsigned_abs(), is_new: true })
}

/// Returns the id of the unfinished job with that unique key.
fn owner_of(db: &Connection, name: &str, unique: Option<&str>) -> Result<Option<u64>> {
    let Some(unique) = unique else { return Ok(None) };
    db.prepare_cached(
        "SELECT id FROM aside_jobs INDEXED BY aside_jobs_unique WHERE name = ?1 AND unique_key = ?2 AND unique_key IS NOT NULL AND state < 3",
    )?
    .query_row([name, unique], id_in)
    .optional()
}

fn id_in(row: &Row<'_>) -> Result<u64> {
    row.get::<_, i64>(0).map(i64::unsigned_abs)
}

pub(super) fn join(db: &Connection, worker: &str, has_lock: bool) -> Result<()> {
    let joined = "INSERT INTO aside_workers (id, beat, has_lock, host, pid) VALUES (?1, 0, ?2, ?3, ?4)";
    db.prepare_cached(joined)?.execute(params![worker, has_lock, host(), std::process::id()]).map(drop)
}

pub(super) fn heartbeat(db: &Connection, worker: &str, held: &[HeldJob], now: Millis) -> Result<HeartbeatReply> {
    let beat = "UPDATE aside_workers SET beat = beat + 1, heartbeat_at = ?2 WHERE id = ?1";
    let updated = db.prepare_cached(beat)?.execute(params![worker, now])?;
    if updated == 0 {
        return Ok(HeartbeatReply { is_evicted: true, ..HeartbeatReply::default() });
    }
    let mut reply = HeartbeatReply::default();
    for held in held {
        match is_cancelling(db, held)? {
            None if is_completed(db, held.id, held.token)? => {}
            None => reply.lost.push(held.id),
            Some(true) => reply.cancel.push(held.id),
            Some(false) => {}
        }
        note_progress(db, held)?;
    }
    Ok(reply)
}

/// Returns true if the job is to be cancelled; `None` if the claim is stale.
fn is_cancelling(db: &Connection, held: &HeldJob) -> Result<Option<bool>> {
    db.prepare_cached("SELECT is_cancelling FROM aside_jobs WHERE id = ?1 AND state = 2 AND token = ?2")?
        .query_row([key(held.id), key(held.token)], |row| row.get(0))
        .optional()
}

fn note_progress(db: &Connection, held: &HeldJob) -> Result<()> {
    let Some((done, total, message)) = &held.progress else { return Ok(()) };
    db.prepare_cached(
        "UPDATE aside_jobs SET done = ?3, total = ?4, message = ?5 WHERE id = ?1 AND state = 2 AND token = ?2",
    )?
    .execute(params![key(held.id), key(held.token), count(*done), count(*total), message])
    .map(drop)
}

/// Removes a worker. Its jobs wait again at their old positions, or are cancelled if that was requested.
pub(super) fn leave(db: &CountingConnection<'_>, worker: &str, now: Millis) -> Result<()> {
    db.prepare_cached("DELETE FROM aside_workers WHERE id = ?1")?.execute([worker])?;
    for id in held_by(db, worker)? {
        release(db, id, now)?;
    }
    Ok(())
}

fn held_by(db: &Connection, worker: &str) -> Result<Vec<i64>> {
    let mut held = db.prepare_cached(
        "SELECT id FROM aside_jobs INDEXED BY aside_jobs_state WHERE state = 2 AND state <> 0 AND worker = ?1",
    )?;
    held.query_map([worker], |row| row.get(0))?.collect()
}

fn release(db: &CountingConnection<'_>, id: i64, now: Millis) -> Result<()> {
    db.prepare_cached(
        "UPDATE aside_jobs SET
            state = CASE WHEN is_cancelling THEN 5 ELSE 0 END,
            ended_at = CASE WHEN is_cancelling THEN ?2 END,
            attempt = attempt - 1, worker = NULL, is_cancelling = 0
         WHERE id = ?1 RETURNING state, queue",
    )?
    .query_row([id, now], |row| count_in(db, row, 1))
}

/// Counts the job of a row with its state and its queue.
fn count_in(db: &CountingConnection<'_>, row: &Row<'_>, change: i64) -> Result<()> {
    db.count(state_of(row.get(0)?)?, row.get_ref(1)?.as_str()?, change);
    Ok(())
}

/// A worker whose lease seems to have expired.
#[derive(Debug, Clone)]
pub(super) struct SuspectedWorker {
    pub(super) worker: String,
    /// The number of heartbeats at that time. The worker is alive if the number has changed. `None` for a worker that
    /// is known to be dead.
    pub(super) heartbeat: Option<i64>,
}

/// Releases the jobs of expired workers. Returns the workers that were removed, and the released jobs.
pub(super) fn recover(
    db: &CountingConnection<'_>,
    suspected: &[SuspectedWorker],
    now: Millis,
) -> Result<(Vec<String>, Recovered)> {
    let (mut missing, mut recovered) = (Vec::new(), Recovered::default());
    for SuspectedWorker { worker, heartbeat } in suspected {
        let mut forget = db.prepare_cached("DELETE FROM aside_workers WHERE id = ?1 AND (?2 IS NULL OR beat = ?2)")?;
        let is_gone = forget.execute(params![worker, heartbeat])? > 0 || heartbeat.is_none();
        if is_gone {
            interrupt_all(db, worker, now, &mut recovered)?;
            missing.push(worker.clone());
        }
    }
    Ok((missing, recovered))
}

fn interrupt_all(db: &CountingConnection<'_>, worker: &str, now: Millis, recovered: &mut Recovered) -> Result<()> {
    for id in held_by(db, worker)? {
        let is_dead = interrupt(db, id, now)?;
        recovered.dead.extend(is_dead.then_some(id.unsigned_abs()));
        recovered.released += 1;
    }
    Ok(())
}

/// Returns a job to its old position in the queue, unless it was interrupted too often. Returns true if it is dead now.
fn interrupt(db: &CountingConnection<'_>, id: i64, now: Millis) -> Result<bool> {
    let counted = "UPDATE aside_jobs SET interruptions = interruptions + 1 WHERE id = ?1
                   RETURNING interruptions, is_cancelling";
    let (count, is_cancelling): (u32, bool) =
        db.prepare_cached(counted)?.query_row([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let failure = AttemptFailure::interrupted(count);
    fail(db, id, &failure, now)?;
    if count < MOST_INTERRUPTIONS || is_cancelling {
        match wait_after_interruption(count) {
            0 => release(db, id, now)?,
            wait => {
                uncount_attempt(db, id)?;
                schedule_retry(db, id, wait, now)?;
            }
        }
        return Ok(false);
    }
    die(db, id, &failure, now)?;
    uncount_attempt(db, id)?;
    Ok(true)
}

/// Does not count an interrupted attempt.
fn uncount_attempt(db: &Connection, id: i64) -> Result<()> {
    db.prepare_cached("UPDATE aside_jobs SET attempt = attempt - 1 WHERE id = ?1")?.execute([id]).map(drop)
}

/// Returns the unknown workers of running jobs: there are none unless a row was deleted by other means.
pub(super) fn orphans(db: &Connection) -> Result<Vec<String>> {
    let mut orphans = db.prepare_cached(
        "SELECT DISTINCT worker FROM aside_jobs INDEXED BY aside_jobs_state
         WHERE state = 2 AND state <> 0 AND worker NOT IN (SELECT id FROM aside_workers)",
    )?;
    orphans.query_map([], |row| row.get(0))?.collect()
}

/// Returns each worker with its number of heartbeats, and true if it has a lock.
pub(super) fn workers(db: &Connection) -> Result<Vec<(String, i64, bool)>> {
    let mut workers = db.prepare_cached("SELECT id, beat, has_lock FROM aside_workers")?;
    workers.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}

pub(super) fn worker_infos(db: &Connection) -> Result<Vec<WorkerInfo>> {
    let mut workers = db.prepare_cached(
        "SELECT id, host, pid, heartbeat_at, running FROM aside_workers LEFT JOIN (
            SELECT worker, count(*) AS running FROM aside_jobs INDEXED BY aside_jobs_state WHERE state = 2 AND state <> 0 GROUP BY worker
         ) ON worker = id ORDER BY id",
    )?;
    let read = workers.query_map([], |row| {
        Ok(WorkerInfo {
            id: row.get(0)?,
            host: row.get(1)?,
            pid: row.get(2)?,
            heartbeat_at: row.get(3)?,
            running: row.get::<_, Option<i64>>(4)?.unwrap_or_default().unsigned_abs(),
        })
    })?;
    read.collect()
}

pub(super) fn is_worker(db: &Connection, worker: &str) -> Result<bool> {
    db.prepare_cached("SELECT 1 FROM aside_workers WHERE id = ?1")?.exists([worker])
}

/// Writes as much as an enqueued job does, with new content each time, since unchanged content is not written.
pub(super) fn check(db: &Connection) -> Result<()> {
    let written = "INSERT INTO aside_meta (key, value) VALUES ('check', randomblob(16384))
                   ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    db.prepare_cached(written)?.execute([]).map(drop)
}

pub(super) fn claim(
    db: &CountingConnection<'_>,
    worker: &str,
    capacities: &[Capacity],
    now: Millis,
) -> Result<Vec<Claimed>> {
    begin_to_wait(db, now)?;
    // An expired worker gets no jobs until it has joined again: its death would not be detected.
    if !is_worker(db, worker)? {
        return Ok(Vec::new());
    }
    let mut claimed = Vec::new();
    for capacity in capacities {
        claimed.extend(claim_of(db, worker, capacity, now)?);
    }
    Ok(claimed)
}

/// Makes scheduled jobs wait that are due.
fn begin_to_wait(db: &CountingConnection<'_>, now: Millis) -> Result<()> {
    let mut due = db.prepare_cached(
        "UPDATE aside_jobs SET state = 0 WHERE id IN
            (SELECT id FROM aside_jobs INDEXED BY aside_jobs_due WHERE state = 1 AND due_at <= ?1 ORDER BY due_at LIMIT ?2)
         RETURNING state, queue",
    )?;
    let mut rows = due.query(params![now, MOST_DUE])?;
    while let Some(row) = rows.next()? {
        count_in(db, row, 1)?;
        db.count(JobState::Scheduled, "", -1);
    }
    Ok(())
}

fn claim_of(db: &CountingConnection<'_>, worker: &str, capacity: &Capacity, now: Millis) -> Result<Vec<Claimed>> {
    let is_paused = db.prepare_cached("SELECT 1 FROM aside_queues WHERE name = ?1")?.exists([&capacity.queue])?;
    if is_paused || capacity.free == 0 {
        return Ok(Vec::new());
    }
    let mut claim = db.prepare_cached(
        "UPDATE aside_jobs SET
            state = 2, worker = ?1, token = token + 1, attempt = attempt + 1, began_at = ?2, done = 0, total = 0, message = ''
         WHERE id IN (SELECT id FROM aside_jobs INDEXED BY aside_jobs_waiting
                      WHERE state = 0 AND queue = ?3 ORDER BY rank, id LIMIT ?4)
         RETURNING id, token, name, label, payload, queue, attempt, origin, trace_high, trace_low, parent, enqueued_at, rank",
    )?;
    let rows = claim.query_map(params![worker, now, capacity.queue, count(capacity.free as u64)], claimed_in)?;
    let mut ranked: Vec<(Millis, Claimed)> = rows.collect::<Result<_>>()?;
    db.count(JobState::Waiting, &capacity.queue, -(ranked.len() as i64));
    // The returned rows are in no particular order.
    ranked.sort_by_key(|(rank, job)| (*rank, job.id));
    Ok(ranked.into_iter().map(|(_, job)| job).collect())
}

fn claimed_in(row: &Row<'_>) -> Result<(Millis, Claimed)> {
    let job = Claimed {
        id: id_in(row)?,
        token: row.get::<_, i64>(1)?.unsigned_abs(),
        name: row.get(2)?,
        label: row.get(3)?,
        payload: row.get(4)?,
        queue: row.get(5)?,
        attempt: row.get(6)?,
        origin: row.get(7)?,
        trace: trace_in(row, 8)?,
        parent: row.get(10)?,
        enqueued_at: row.get(11)?,
    };
    Ok((row.get(12)?, job))
}

pub(super) fn next_due(db: &Connection) -> Result<Option<Millis>> {
    db.prepare_cached(
        "SELECT due_at FROM aside_jobs INDEXED BY aside_jobs_due WHERE state = 1 ORDER BY due_at LIMIT 1",
    )?
    .query_row([], |row| row.get(0))
    .optional()
}

pub(super) fn resolve(
    db: &CountingConnection<'_>,
    id: u64,
    token: u64,
    resolved: &ResolvedAttempt,
    now: Millis,
) -> Result<bool> {
    let is_running = runs(db, key(id), token)?;
    if !is_running {
        return acknowledge_completed(db, key(id), token);
    }
    store_last_values(db, id, resolved)?;
    let id = key(id);
    match &resolved.resolution {
        Resolution::Done => finish(db, id, JobState::Done, now)?,
        Resolution::Retry { wait, failure } => {
            fail(db, id, failure, now)?;
            schedule_retry(db, id, *wait, now)?;
        }
        Resolution::Dead { failure } => {
            fail(db, id, failure, now)?;
            die(db, id, failure, now)?;
        }
        Resolution::Cancelled { failure } => {
            failure.iter().try_for_each(|failure| fail(db, id, failure, now))?;
            finish(db, id, JobState::Cancelled, now)?;
        }
        Resolution::Released => release(db, id, now)?,
    }
    Ok(true)
}

/// Stores the last progress of an attempt and its output. Most jobs have neither, and then nothing is written.
pub(super) fn store_last_values(db: &Connection, id: u64, resolved: &ResolvedAttempt) -> Result<()> {
    if let Some((done, total, message)) = &resolved.last_values.progress {
        db.prepare_cached(
            "UPDATE aside_jobs SET done = ?2, total = ?3, message = ?4
             WHERE id = ?1 AND (done <> ?2 OR total <> ?3 OR message <> ?4)",
        )?
        .execute(params![key(id), count(*done), count(*total), message])?;
    }
    if let Some(output) = resolved.output() {
        let kept = "UPDATE aside_jobs SET output = ?2 WHERE id = ?1";
        db.prepare_cached(kept)?.execute(params![key(id), output.json()])?;
    }
    Ok(())
}

/// Returns true if the claim is the last one of the job, and has not ended.
fn runs(db: &Connection, id: i64, token: u64) -> Result<bool> {
    db.prepare_cached("SELECT 1 FROM aside_jobs WHERE id = ?1 AND state = 2 AND token = ?2")?.exists([id, key(token)])
}

/// Completes the job if the claim is its last one. Returns true if it was.
pub(super) fn complete(db: &CountingConnection<'_>, id: u64, token: u64, now: Millis) -> Result<bool> {
    let is_current = runs(db, key(id), token)?;
    if is_current {
        finish(db, key(id), JobState::Done, now)?;
        // The worker has not reported the outcome yet: another process may run the attempt.
        db.prepare_cached("UPDATE aside_jobs SET worker = '' WHERE id = ?1")?.execute([key(id)])?;
    }
    Ok(is_current)
}

/// Acknowledges, once, the outcome of a job that its own transaction has completed. Returns true if it is such a job.
fn acknowledge_completed(db: &Connection, id: i64, token: u64) -> Result<bool> {
    let sql = "UPDATE aside_jobs SET worker = NULL WHERE id = ?1 AND token = ?2 AND state = 3 AND worker = ''";
    Ok(db.prepare_cached(sql)?.execute([id, key(token)])? == 1)
}

/// Returns true if the effect of [`complete`] is still present within its transaction.
pub(super) fn is_completed(db: &Connection, id: u64, token: u64) -> Result<bool> {
    db.prepare_cached("SELECT 1 FROM aside_jobs WHERE id = ?1 AND state = 3 AND token = ?2")?
        .exists([key(id), key(token)])
}

fn die(db: &CountingConnection<'_>, id: i64, failure: &AttemptFailure, now: Millis) -> Result<()> {
    let cause = "UPDATE aside_jobs SET cause = ?2 WHERE id = ?1";
    db.prepare_cached(cause)?.execute(params![id, failure.kind.as_str()])?;
    groups::enter(db, id, &failure.message, now)?;
    finish(db, id, JobState::Dead, now)
}

fn finish(db: &CountingConnection<'_>, id: i64, state: JobState, now: Millis) -> Result<()> {
    db.prepare_cached(
        "UPDATE aside_jobs SET state = ?2, ended_at = ?3, worker = NULL, is_cancelling = 0 WHERE id = ?1",
    )?
    .execute(params![id, number(state), now])?;
    db.count(state, "", 1);
    Ok(())
}

/// Makes the job wait for its next attempt, unless it was cancelled, which its worker may not have received.
fn schedule_retry(db: &CountingConnection<'_>, id: i64, wait: Millis, now: Millis) -> Result<()> {
    let (due, since) = due(When::After(wait), now);
    let priority =
        db.prepare_cached("SELECT priority FROM aside_jobs WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
    let mut retried = db.prepare_cached(
        "UPDATE aside_jobs SET
            state = CASE WHEN is_cancelling THEN 5 ELSE :state END,
            ended_at = CASE WHEN is_cancelling THEN :now END,
            rank = :rank, due_at = :due, wait = :wait, worker = NULL, is_cancelling = 0
         WHERE id = :id RETURNING state, queue",
    )?;
    let values = named_params! {
        ":id": id,
        ":state": number(if due > now { JobState::Scheduled } else { JobState::Waiting }),
        ":now": now,
        ":rank": rank(since, priority),
        ":due": due,
        ":wait": wait,
    };
    retried.query_row(values, |row| count_in(db, row, 1))
}

/// Stores a failure, and deletes the oldest ones beyond the limit.
fn fail(db: &Connection, id: i64, failure: &AttemptFailure, now: Millis) -> Result<()> {
    let AttemptFailure { kind, message, location, backtrace } = failure;
    let last = "SELECT coalesce(max(number), 0) FROM aside_failures WHERE job = ?1";
    let number = 1 + db.prepare_cached(last)?.query_row([id], |row| row.get::<_, i64>(0))?;
    db.prepare_cached(
        "INSERT INTO aside_failures (job, number, attempt, at, words, kind, location, began_at, backtrace)
         SELECT id, ?2, attempt, ?3, ?4, ?5, ?6, began_at, ?7 FROM aside_jobs WHERE id = ?1",
    )?
    .execute(params![id, number, now, message, kind.as_str(), location, backtrace])?;
    db.prepare_cached("DELETE FROM aside_failures WHERE job = ?1 AND number <= ?2 - ?3")?
        .execute(params![id, number, MOST_FAILURES as i64])
        .map(drop)
}

pub(super) fn cancel(db: &CountingConnection<'_>, id: u64, now: Millis) -> Result<Option<JobState>> {
    let id = key(id);
    let Some((state, queue)) = state_and_queue(db, id)? else { return Ok(None) };
    match state {
        JobState::Waiting | JobState::Scheduled => {
            db.count(state, &queue, -1);
            finish(db, id, JobState::Cancelled, now)?;
            return Ok(Some(JobState::Cancelled));
        }
        JobState::Running => {
            db.prepare_cached("UPDATE aside_jobs SET is_cancelling = 1 WHERE id = ?1")?.execute([id])?;
        }
        JobState::Done | JobState::Dead | JobState::Cancelled => {}
    }
    Ok(Some(state))
}

fn state_and_queue(db: &Connection, id: i64) -> Result<Option<(JobState, String)>> {
    db.prepare_cached("SELECT state, queue FROM aside_jobs WHERE id = ?1")?
        .query_row([id], |row| Ok((state_of(row.get(0)?)?, row.get(1)?)))
        .optional()
}

pub(super) fn revive(db: &CountingConnection<'_>, id: u64, now: Millis) -> Result<bool> {
    let Some((state, queue)) = state_and_queue(db, key(id))? else { return Ok(false) };
    let known = "SELECT name, unique_key FROM aside_jobs WHERE id = ?1 AND state IN (1, 4, 5)";
    let key_of = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let known: Option<(String, Option<String>)> = db.prepare_cached(known)?.query_row([key(id)], key_of).optional()?;
    let Some((name, unique)) = known else { return Ok(false) };
    if owner_of(db, &name, unique.as_deref())?.is_some_and(|owner| owner != id) {
        return Ok(false);
    }
    let group = groups::of(db, key(id))?;
    db.prepare_cached(
        "UPDATE aside_jobs SET
                attempt = CASE WHEN state = 1 THEN attempt ELSE 0 END,
                interruptions = CASE WHEN state = 1 THEN interruptions ELSE 0 END,
                state = 0, rank = ?2 - priority * ?3, due_at = ?2, wait = NULL, ended_at = NULL
             WHERE id = ?1",
    )?
    .execute(params![key(id), now, PRIORITY_STEP])?;
    db.count(state, "", -1);
    db.count(JobState::Waiting, &queue, 1);
    group.map_or(Ok(()), |group| groups::leave(db, key(id), group))?;
    Ok(true)
}

pub(super) fn discard(db: &CountingConnection<'_>, id: u64) -> Result<bool> {
    let group = groups::of(db, key(id))?;
    let is_discarded = delete(db, id)?;
    group.map_or(Ok(()), |group| groups::leave(db, key(id), group))?;
    Ok(is_discarded)
}

fn delete(db: &CountingConnection<'_>, id: u64) -> Result<bool> {
    let discarded = "DELETE FROM aside_jobs WHERE id = ?1 AND state <> 2 RETURNING state, queue";
    let discarded =
        db.prepare_cached(discarded)?.query_row([key(id)], |row| count_in(db, row, -1)).optional()?.is_some();
    if discarded {
        db.prepare_cached("DELETE FROM aside_failures WHERE job = ?1")?.execute([key(id)])?;
        db.keep_last_id(key(id))?;
    }
    Ok(discarded)
}

pub(super) fn pause(db: &Connection, queue: &str, paused: bool) -> Result<()> {
    let sql = if paused {
        "INSERT INTO aside_queues (name) VALUES (?1) ON CONFLICT (name) DO NOTHING"
    } else {
        "DELETE FROM aside_queues WHERE name = ?1"
    };
    db.prepare_cached(sql)?.execute([queue]).map(drop)
}

pub(super) fn paused(db: &Connection) -> Result<BTreeSet<String>> {
    let mut paused = db.prepare_cached("SELECT name FROM aside_queues")?;
    paused.query_map([], |row| row.get(0))?.collect()
}

/// The columns that [`info_in`] reads. After them comes the output, or true if there is one.
const INFO: &str = "id, name, label, queue, priority, state, attempt, interruptions, payload, unique_key, origin, enqueued_at, \
                    due_at, began_at, ended_at, is_cancelling, done, total, message, trace_high, trace_low, parent";

fn info_in(row: &Row<'_>) -> Result<JobInfo> {
    Ok(JobInfo {
        id: id_in(row)?,
        name: row.get(1)?,
        label: row.get(2)?,
        queue: row.get(3)?,
        priority: row.get(4)?,
        state: state_of(row.get(5)?)?,
        attempt: row.get(6)?,
        interruptions: row.get(7)?,
        payload: row.get(8)?,
        unique: row.get(9)?,
        request: row.get(10)?,
        enqueued_at: row.get(11)?,
        due_at: row.get(12)?,
        began_at: row.get(13)?,
        ended_at: row.get(14)?,
        is_cancelling: row.get(15)?,
        done: row.get::<_, i64>(16)?.unsigned_abs(),
        total: row.get::<_, i64>(17)?.unsigned_abs(),
        message: row.get(18)?,
        trace: trace_in(row, 19)?,
        parent: row.get(21)?,
        is_paused: false,
        failures: Vec::new(),
        output: StoredOutput::Absent,
    })
}

fn whole_in(row: &Row<'_>) -> Result<JobInfo> {
    let output: Option<String> = row.get(22)?;
    Ok(JobInfo { output: output.map(Output::from_json).into(), ..info_in(row)? })
}

fn listed_in(row: &Row<'_>) -> Result<JobInfo> {
    let output = if row.get(22)? { StoredOutput::LeftOut } else { StoredOutput::Absent };
    Ok(JobInfo { output, ..info_in(row)? })
}

pub(super) fn find(db: &Connection, id: u64) -> Result<Option<JobInfo>> {
    let mut find = db.prepare_cached(&format!("SELECT {INFO}, output FROM aside_jobs WHERE id = ?1"))?;
    let info = find.query_row([key(id)], whole_in).optional()?;
    info.map(|info| with_failures(db, info, FAILURES_WITH_BACKTRACES)).transpose()
}

pub(super) fn list(db: &Connection, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
    // SQLite uses a partial index only if the statement contains its condition.
    let (index, condition) = match state {
        JobState::Waiting if are_waiting_few(db)? => ("INDEXED BY aside_jobs_waiting", "state = 0".to_owned()),
        JobState::Waiting => ("NOT INDEXED", "state = 0".to_owned()),
        _ => ("INDEXED BY aside_jobs_state", format!("state = {} AND state <> 0", number(state))),
    };
    let list = format!(
        "SELECT {INFO}, output IS NOT NULL FROM aside_jobs
         WHERE id IN (SELECT id FROM aside_jobs {index} WHERE {condition} AND id < ?1 ORDER BY id DESC LIMIT ?2)
         ORDER BY id DESC"
    );
    let before = before.map_or(i64::MAX, count);
    let mut list = db.prepare_cached(&list)?;
    let jobs = list.query_map(params![before, count(most as u64)], listed_in)?;
    jobs.map(|info| with_failures(db, info?, FAILURES)).collect()
}

/// Returns true if fewer jobs wait than have other states. Then a list of waiting jobs sorts the entries of their index; else it
/// reads the table from its end, and skips the others.
fn are_waiting_few(db: &Connection) -> Result<bool> {
    let few = "SELECT coalesce(sum(iif(state = 0, count, -count)), 0) < 0 FROM aside_counts";
    db.prepare_cached(few)?.query_row([], |row| row.get(0))
}

pub(super) fn of_trace(db: &Connection, trace: &str, most: usize) -> Result<Vec<JobInfo>> {
    let list = format!(
        "SELECT {INFO}, output IS NOT NULL FROM aside_jobs INDEXED BY aside_jobs_trace
         WHERE trace_high = ?1 AND trace_low = ?2 ORDER BY id LIMIT ?3"
    );
    let Some((high, low)) = trace_halves(trace) else { return Ok(Vec::new()) };
    let mut list = db.prepare_cached(&list)?;
    let jobs = list.query_map(params![high, low, count(most as u64)], listed_in)?;
    jobs.map(|info| with_failures(db, info?, FAILURES)).collect()
}

/// The failures of a job, and the same with their backtraces.
const FAILURES: &str =
    "SELECT attempt, at, began_at, kind, words, location, NULL FROM aside_failures WHERE job = ?1 ORDER BY number";
const FAILURES_WITH_BACKTRACES: &str =
    "SELECT attempt, at, began_at, kind, words, location, backtrace FROM aside_failures WHERE job = ?1 ORDER BY number";

fn with_failures(db: &Connection, mut info: JobInfo, failures: &str) -> Result<JobInfo> {
    let mut failures = db.prepare_cached(failures)?;
    info.failures = failures.query_map([key(info.id)], failure_in)?.collect::<Result<_>>()?;
    Ok(info)
}

fn failure_in(row: &Row<'_>) -> Result<JobFailure> {
    Ok(JobFailure {
        attempt: row.get(0)?,
        at: row.get(1)?,
        began_at: row.get(2)?,
        kind: FailureKind::of(row.get_ref(3)?.as_str()?),
        message: row.get(4)?,
        location: row.get(5)?,
        backtrace: row.get(6)?,
    })
}

pub(super) fn counts(db: &Connection) -> Result<JobCounts> {
    let mut counts = JobCounts::default();
    let mut each = db.prepare_cached(
        "SELECT state, sum(count) FROM aside_counts GROUP BY state
         UNION ALL SELECT 2, count(*) FROM aside_jobs INDEXED BY aside_jobs_state WHERE state = 2 AND state <> 0",
    )?;
    let mut rows = each.query([])?;
    while let Some(row) = rows.next()? {
        *counts.of(state_of(row.get(0)?)?) = row.get::<_, i64>(1)?.unsigned_abs();
    }
    let mut of =
        db.prepare_cached("SELECT count(*) FROM aside_jobs INDEXED BY aside_jobs_dead WHERE state = 4 AND cause = ?1")?;
    for cause in FailureKind::ALL {
        if let Some(count) = counts.dead_of(cause) {
            *count = of.query_row([cause.as_str()], |row| row.get::<_, i64>(0))?.unsigned_abs();
        }
    }
    Ok(counts)
}

pub(super) fn queues(db: &Connection) -> Result<Vec<QueueInfo>> {
    let mut queues = db.prepare_cached(
        "SELECT name, sum(waiting), sum(running), max(is_paused) FROM (
            SELECT queue AS name, count AS waiting, 0 AS running, 0 AS is_paused
                FROM aside_counts WHERE state = 0 AND count > 0
            UNION ALL SELECT queue, 0, count(*), 0 FROM aside_jobs INDEXED BY aside_jobs_state WHERE state = 2 AND state <> 0 GROUP BY queue
            UNION ALL SELECT name, 0, 0, 1 FROM aside_queues
         ) GROUP BY name ORDER BY name",
    )?;
    let rows = queues.query_map([], |row| {
        let (waiting, running): (i64, i64) = (row.get(1)?, row.get(2)?);
        let (waiting, running) = (waiting.unsigned_abs(), running.unsigned_abs());
        Ok(QueueInfo { name: row.get(0)?, waiting, running, is_paused: row.get(3)?, oldest_at: None })
    })?;
    rows.map(|queue| with_oldest(db, queue?)).collect()
}

fn with_oldest(db: &Connection, mut queue: QueueInfo) -> Result<QueueInfo> {
    if queue.waiting > 0 {
        let oldest = "SELECT min(rank + priority * ?2) FROM (
                         SELECT rank, priority FROM aside_jobs INDEXED BY aside_jobs_waiting
                         WHERE state = 0 AND queue = ?1 ORDER BY rank, id LIMIT ?3)";
        let values = params![queue.name, PRIORITY_STEP, count(MOST_OLDEST as u64)];
        queue.oldest_at = db.prepare_cached(oldest)?.query_row(values, |row| row.get(0))?;
    }
    Ok(queue)
}

/// Returns the first waiting jobs of a queue, or of all queues, in the order in which they are claimed.
pub(super) fn next_to_run(db: &Connection, queue: Option<&str>, most: usize) -> Result<Vec<JobInfo>> {
    let queues: Vec<String> = match queue {
        Some(queue) => vec![queue.to_owned()],
        None => {
            let mut queues = db.prepare_cached("SELECT queue FROM aside_counts WHERE state = 0 AND count > 0")?;
            queues.query_map([], |row| row.get(0))?.collect::<Result<_>>()?
        }
    };
    let mut first: Vec<(Millis, i64)> = Vec::new();
    let mut of_queue = db.prepare_cached(
        "SELECT rank, id FROM aside_jobs INDEXED BY aside_jobs_waiting WHERE state = 0 AND queue = ?1 ORDER BY rank, id LIMIT ?2",
    )?;
    for queue in queues {
        let ranked = of_queue.query_map(params![queue, count(most as u64)], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for ranked in ranked {
            first.push(ranked?);
        }
    }
    first.sort_unstable();
    first.truncate(most);
    let mut find = db.prepare_cached(&format!("SELECT {INFO}, output IS NOT NULL FROM aside_jobs WHERE id = ?1"))?;
    first.into_iter().map(|(_, id)| with_failures(db, find.query_row([id], listed_in)?, FAILURES)).collect()
}

pub(super) fn last_tick(db: &Connection, schedule: &str) -> Result<Option<Millis>> {
    let last = "SELECT last_tick FROM aside_schedules WHERE name = ?1";
    db.prepare_cached(last)?.query_row([schedule], |row| row.get(0)).optional()
}

pub(super) fn tick(
    db: &CountingConnection<'_>,
    schedule: &str,
    due: Millis,
    job: Option<&Entry>,
    now: Millis,
) -> Result<bool> {
    let ticked = db
        .prepare_cached(
            "INSERT INTO aside_schedules (name, last_tick) VALUES (?1, ?2)
             ON CONFLICT (name) DO UPDATE SET last_tick = excluded.last_tick WHERE excluded.last_tick > last_tick",
        )?
        .execute(params![schedule, due])?;
    if ticked == 0 {
        return Ok(false);
    }
    job.map(|entry| enqueue(db, entry, now)).transpose()?;
    Ok(true)
}

/// Deletes some of the jobs beyond the retention. Returns their number.
pub(super) fn prune(db: &CountingConnection<'_>, keep: Retention, now: Millis) -> Result<usize> {
    let age = Millis::try_from(keep.age.as_millis()).unwrap_or(Millis::MAX);
    let surplus = db
        .prepare_cached(
            "SELECT ended_at, id FROM aside_jobs INDEXED BY aside_jobs_ended WHERE state IN (3, 5)
             ORDER BY ended_at DESC, id DESC LIMIT 1 OFFSET ?1",
        )?
        .query_row([count(keep.count)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let (last, last_id): (Millis, i64) = surplus.unwrap_or((Millis::MIN, 0));
    let mut old = db.prepare_cached(
        "SELECT id FROM aside_jobs INDEXED BY aside_jobs_ended
         WHERE state IN (3, 5) AND (ended_at < ?1 OR (ended_at, id) <= (?2, ?3)) ORDER BY ended_at, id LIMIT ?4",
    )?;
    let ids = old.query_map(params![now.saturating_sub(age), last, last_id, MOST_PRUNED as i64], id_in)?;
    let ids: Vec<u64> = ids.collect::<Result<_>>()?;
    // They are not dead, and in no group.
    ids.iter().try_for_each(|id| delete(db, *id).map(drop))?;
    db.prepare_cached("DELETE FROM aside_counts WHERE count = 0")?.execute([])?;
    Ok(ids.len())
}

pub(super) fn clock_went_back(db: &Connection, now: Millis) -> Result<()> {
    db.prepare_cached(
        "UPDATE aside_jobs SET due_at = ?1 + wait, rank = ?1 + wait - priority * ?2
         WHERE state = 1 AND wait <= ?3 AND due_at > ?1 + wait + ?4",
    )?
    .execute([now, PRIORITY_STEP, LONGEST_WAIT, CLOCK_SLACK])?;
    db.prepare_cached("UPDATE aside_schedules SET last_tick = ?1 WHERE last_tick > ?1 + ?2")?
        .execute([now, LATEST_TICK])
        .map(drop)
}
