//! Jobs in Redis: for more than one machine.
//!
//! The engine needs a single server, from version 7.0 on, and not a cluster: each operation is one script, which uses
//! all keys. With `appendonly yes` the jobs survive a restart of the server, and with `appendfsync always` a power
//! failure too; `open` warns if these are not set. Waiting jobs are in streams, one for each queue and priority in use,
//! and are claimed through a consumer group. Running jobs are pending there, and the heartbeats of their worker renew
//! the claim. `common.lua` describes the keys.
//!
//! **Leases.** The server counts the heartbeats, and each process detects by its own steady clock which workers send
//! none. A job that a live worker has not listed for two leases is released too: the worker never received the reply to
//! that claim. If the server was unreachable, each lease starts again.
//!
//! **While the server is unreachable** each call fails with a message that names the server, and the next call reconnects;
//! at start too. A call that a broken connection interrupted is repeated once, and has its effect only once.
//!
//! **After the server has lost jobs** (it restarted without its file, an incomplete replica took over, its data was
//! deleted), its numbers are lower than before. This is logged, and the lost numbers are not assigned again.

mod connection;
mod liveness;
mod losses;
mod notify;
mod scripts;
mod server;
mod values;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ::redis::{FromRedisValue, Script};

use self::connection::ConnectionPool;
use self::liveness::WorkerLiveness;
use self::losses::{Losses, Snapshot};
use self::values::values;
use super::engine::{
    Abilities, ClaimRequest, EndedAttempt, Engine, Enqueued, Entry, Exchanged, HeartbeatReply, HeldJob, MOST_OLDEST,
    Recovered, Resolution, ResolvedAttempt, Retention, WorkerId,
};
use super::record::{FailureGroup, FailureKind, JobCounts, JobInfo, JobState, Millis, QueueInfo, WorkerInfo};
use crate::error::{Error, Result};
use crate::random;
use crate::sync::{Notify, lock};

/// The prefix of all keys.
const PREFIX: &str = "aside:";

/// The timeout for connecting, and for each reply.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The maximum number of jobs that one claim takes from a queue, and that one call prunes: other calls wait during a
/// script.
const MOST_AT_ONCE: usize = 1_000;

/// The maximum number of jobs in one call to enqueue: all of them are one step, which takes the server about a second.
const MOST_NEW: usize = 20_000;

/// An engine that stores jobs in a Redis server.
pub(crate) struct Redis {
    pool: Arc<ConnectionPool>,
    /// Notified of changes by this process, without a round trip to the server.
    listeners: Mutex<Vec<Weak<Notify>>>,
    liveness: Mutex<WorkerLiveness>,
    losses: Losses,
}

impl Redis {
    /// Connects: `redis://user:password@host:6379/0`, `rediss://…` with TLS, or `redis+unix:///run/redis.sock`. If the
    /// server is unreachable, each call reconnects.
    ///
    /// # Errors
    /// An error if the URL is invalid, or the server refuses the connection or cannot store jobs: it is too old, part of a
    /// cluster, a replica, or configured to evict keys when its memory is full.
    pub(crate) fn open(url: &str) -> Result<Redis> {
        Redis::open_with(url, PREFIX, TIMEOUT)
    }

    /// Opens an engine with its own key prefix and timeout.
    fn open_with(url: &str, prefix: &str, timeout: Duration) -> Result<Redis> {
        let pool = Arc::new(ConnectionPool::new(url, prefix, timeout)?);
        let is_usable = server::is_usable(&pool)?;
        let redis = Redis { pool, listeners: Mutex::default(), liveness: Mutex::default(), losses: Losses::default() };
        if is_usable {
            // Checks the permissions of the user.
            redis.counts()?;
        }
        Ok(redis)
    }

    /// Reads the heartbeats of all workers, and detects lost jobs.
    fn observe(&self) -> Result<Observation> {
        let before = self.losses.snapshot();
        let (last_id, counts, heartbeats): (u64, Vec<u64>, HashMap<String, u64>) =
            self.run(&scripts::WORKERS, &counted())?;
        let now = Snapshot { last_id, counts: counts_of(counts) };
        let has_lost_jobs = self.losses.compare(before, now);
        if has_lost_jobs {
            log::error!(target: "aside::jobs", "Redis at {} {}", self.pool.address(), losses::message(before, now));
            self.run::<()>(&scripts::SKIP, &values![before.last_id])?;
        }
        Ok(Observation { heartbeats, has_lost_jobs })
    }

    fn run<T: FromRedisValue>(&self, script: &Script, values: &[String]) -> Result<T> {
        self.pool.run(script, values)
    }

    /// Runs a script that returns `1` or `0`, and returns true for `1`.
    fn whether(&self, script: &Script, values: &[String]) -> Result<bool> {
        Ok(self.run::<String>(script, values)? == "1")
    }

    fn notify(&self) {
        lock(&self.listeners).retain(|listener| listener.upgrade().inspect(|listener| listener.notify()).is_some());
    }
}

impl Engine for Redis {
    fn describe(&self) -> String {
        format!("redis {}", self.pool.address())
    }

    fn abilities(&self) -> Abilities {
        Abilities { is_durable: true, is_shared: true, has_transactions: false }
    }

    fn listen(&self, listener: &Arc<Notify>) -> Result<()> {
        notify::listen(&self.pool, listener)?;
        lock(&self.listeners).push(Arc::downgrade(listener));
        Ok(())
    }

    fn enqueue(&self, jobs: Vec<Entry>, now: Millis) -> Result<Vec<Enqueued>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        if jobs.len() > MOST_NEW {
            let message = "jobs are too many to be stored in Redis atomically";
            return Err(Error::internal(format!("{} {message}; enqueue at most {MOST_NEW} in one call", jobs.len())));
        }
        let now = values::exact(now);
        let mut values = values![now, jobs.len()].to_vec();
        values.extend(jobs.into_iter().flat_map(|job| values::entry(job, now)));
        let message: String = self.run(&scripts::ENQUEUE, &values)?;
        self.notify();
        let enqueued = values::enqueued(&message)?;
        self.losses.note(enqueued.iter().map(|job| job.id).max());
        Ok(enqueued)
    }

    fn check(&self) -> Result<()> {
        self.run::<()>(&scripts::CHECK, &[])
    }

    fn join(&self) -> Result<WorkerId> {
        server::check(&self.pool)?;
        let id = random::name()?;
        self.run::<()>(&scripts::JOIN, &values![id, values::process()])?;
        Ok(WorkerId(id))
    }

    fn heartbeat(&self, worker: &WorkerId, held: &[HeldJob], now: Millis) -> Result<HeartbeatReply> {
        let mut values = values![worker.0, values::exact(now)].to_vec();
        values.extend(held.iter().flat_map(values::held));
        let (is_known, cancel, lost): (bool, Vec<u64>, Vec<u64>) = self.run(&scripts::HEARTBEAT, &values)?;
        // A server that lost its data does not know the worker, and no other worker has its jobs.
        let has_lost_jobs = !is_known && self.observe()?.has_lost_jobs;
        Ok(HeartbeatReply { is_evicted: !is_known, has_lost_jobs, cancel, lost })
    }

    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()> {
        self.run::<()>(&scripts::LEAVE, &values![values::exact(now), worker.0])?;
        self.notify();
        Ok(())
    }

    fn recover(&self, lease: Duration, now: Millis) -> Result<Recovered> {
        let heartbeats = self.observe()?.heartbeats;
        let gone = lock(&self.liveness).expired(heartbeats, lease, Instant::now());
        let span = values::exact(lease.as_millis().try_into().unwrap_or(Millis::MAX));
        let mut values = values![values::exact(now), span].to_vec();
        values.extend(gone.iter().flat_map(|(worker, heartbeats)| values![worker, heartbeats]));
        let (released, dead): (usize, Vec<u64>) = self.run(&scripts::RECOVER, &values)?;
        if released > 0 {
            self.notify();
        }
        Ok(Recovered { released, dead })
    }

    fn exchange(&self, ended: &[EndedAttempt], claim: Option<ClaimRequest<'_>>, now: Millis) -> Result<Exchanged> {
        let now = values::exact(now);
        let mut values = values![now, claim.map_or("", |claim| &claim.worker.0), ended.len()].to_vec();
        values.extend(ended.iter().flat_map(|ended| values::ended(ended, now)));
        let capacities = claim.map_or(&[][..], |claim| claim.capacities);
        values.extend(capacities.iter().flat_map(|capacity| values![capacity.queue, capacity.free.min(MOST_AT_ONCE)]));
        let (recorded, rows, fault): (Vec<String>, Vec<values::ClaimedRow>, String) =
            self.pool.run_as(&name_of(ended, claim), &scripts::EXCHANGE, &values)?;
        // The worker knows that a finished job frees capacity; other workers are notified only if the job waits again.
        if ended.iter().any(|ended| waits_again(&ended.resolved)) {
            self.notify();
        }
        let claimed = values::all_claimed(rows, fault);
        Ok(Exchanged { recorded: recorded.iter().map(|reply| values::recorded(reply)).collect(), claimed })
    }

    fn next_due(&self) -> Result<Option<Millis>> {
        self.run(&scripts::NEXT_DUE, &[])
    }

    fn cancel(&self, id: u64, now: Millis) -> Result<Option<JobState>> {
        let word: String = self.run(&scripts::CANCEL, &values![values::exact(now), id])?;
        self.notify();
        Ok(JobState::of(&word))
    }

    fn revive(&self, id: u64, now: Millis) -> Result<bool> {
        let is_waiting = self.whether(&scripts::REVIVE, &values![values::exact(now), id])?;
        self.notify();
        Ok(is_waiting)
    }

    fn discard(&self, id: u64) -> Result<bool> {
        self.whether(&scripts::DISCARD, &values![id])
    }

    fn pause(&self, queue: &str, paused: bool) -> Result<()> {
        self.run::<()>(&scripts::PAUSE, &values![queue, i32::from(paused)])?;
        self.notify();
        Ok(())
    }

    fn paused(&self) -> Result<BTreeSet<String>> {
        self.run(&scripts::PAUSED, &[])
    }

    fn find(&self, id: u64) -> Result<Option<JobInfo>> {
        let shown: Vec<values::Shown> = self.run(&scripts::FIND, &values![id])?;
        shown.into_iter().next().map(values::info).transpose()
    }

    fn list(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
        let before = before.map_or_else(|| "+inf".to_owned(), |id| format!("({id}"));
        let shown: Vec<values::Shown> =
            self.run(&scripts::LIST, &values![state, before, most.min(i32::MAX as usize)])?;
        shown.into_iter().map(values::info).collect()
    }

    fn of_trace(&self, trace: &str, most: usize) -> Result<Vec<JobInfo>> {
        let shown: Vec<values::Shown> = self.run(&scripts::OF_TRACE, &values![trace, most.min(i32::MAX as usize)])?;
        shown.into_iter().map(values::info).collect()
    }

    fn counts(&self) -> Result<JobCounts> {
        let numbers: Vec<u64> = self.run(&scripts::COUNTS, &counted())?;
        Ok(counts_of(numbers))
    }

    fn queues(&self) -> Result<Vec<QueueInfo>> {
        let shown: values::Queues = self.run(&scripts::QUEUES, &values![MOST_OLDEST])?;
        Ok(values::queues(&shown))
    }

    fn next_to_run(&self, queue: Option<&str>, most: usize) -> Result<Vec<JobInfo>> {
        let mut values = values![most.min(i32::MAX as usize)].to_vec();
        values.extend(queue.map(str::to_owned));
        let shown: Vec<values::Shown> = self.run(&scripts::NEXT_TO_RUN, &values)?;
        shown.into_iter().map(values::info).collect()
    }

    fn failure_groups(&self, most: usize) -> Result<Vec<FailureGroup>> {
        let groups: Vec<values::GroupRow> =
            self.run(&scripts::FAILURE_GROUPS, &values![most.min(i32::MAX as usize)])?;
        Ok(groups.into_iter().map(values::group).collect())
    }

    fn workers(&self) -> Result<Vec<WorkerInfo>> {
        let workers: values::Workers = self.run(&scripts::WORKER_INFOS, &[])?;
        Ok(values::workers(&workers))
    }

    fn last_tick(&self, schedule: &str) -> Result<Option<Millis>> {
        self.run(&scripts::LAST_TICK, &values![schedule])
    }

    fn tick(&self, schedule: &str, due: Millis, job: Option<Entry>, now: Millis) -> Result<bool> {
        let now = values::exact(now);
        let mut values = values![now, schedule, values::exact(due), i32::from(job.is_some())].to_vec();
        values.extend(job.into_iter().flat_map(|job| values::entry(job, now)));
        let was_noted = self.whether(&scripts::TICK, &values)?;
        self.notify();
        Ok(was_noted)
    }

    fn prune(&self, keep: Retention, now: Millis) -> Result<usize> {
        let age = keep.age.as_millis().try_into().unwrap_or(Millis::MAX);
        let oldest = values::exact(now.saturating_sub(age));
        let mut pruned = 0;
        loop {
            let gone: usize = self.run(&scripts::PRUNE, &values![oldest, keep.count, MOST_AT_ONCE])?;
            pruned += gone;
            if gone == 0 {
                return Ok(pruned);
            }
        }
    }

    fn clock_went_back(&self, now: Millis) -> Result<()> {
        self.run::<()>(&scripts::CLOCK_WENT_BACK, &values![values::exact(now)])?;
        self.notify();
        Ok(())
    }

    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
        self
    }
}

fn waits_again(resolved: &ResolvedAttempt) -> bool {
    matches!(resolved.resolution, Resolution::Retry { .. } | Resolution::Released)
}

/// Returns the name under which an exchange is repeated: that of its first outcome, or else of its worker. A call is
/// repeated with the same outcomes, and no other call has one of them.
fn name_of(ended: &[EndedAttempt], claim: Option<ClaimRequest<'_>>) -> String {
    match ended.first() {
        Some(ended) => format!("{} {}", ended.id, ended.token),
        None => claim.map_or_else(String::new, |claim| claim.worker.0.clone()),
    }
}

/// The last known state of the server.
struct Observation {
    /// The number of heartbeats of each worker.
    heartbeats: HashMap<String, u64>,
    has_lost_jobs: bool,
}

/// The counters: one for each state, and one for each cause of dead jobs.
fn counted() -> Vec<String> {
    let states = JobState::ALL.into_iter().map(|state| state.to_string());
    states.chain(FailureKind::ALL.map(|cause| format!("dead:{}", cause.as_str()))).collect()
}

fn counts_of(numbers: Vec<u64>) -> JobCounts {
    let (mut counts, mut numbers) = (JobCounts::default(), numbers.into_iter());
    for (state, number) in JobState::ALL.into_iter().zip(numbers.by_ref()) {
        *counts.of(state) = number;
    }
    for (cause, number) in FailureKind::ALL.into_iter().zip(numbers) {
        counts.dead_of(cause).into_iter().for_each(|count| *count = number);
    }
    counts
}

/// Wakes the listening threads so that they end. Those of other processes wake too, and find no jobs.
impl Drop for Redis {
    fn drop(&mut self) {
        self.pool.close();
        if !lock(&self.listeners).is_empty() {
            self.pool.wake();
        }
    }
}

#[cfg(test)]
#[path = "../../../tests/support/redis.rs"]
mod server_of_tests;

#[cfg(test)]
mod tests;
