//! Jobs kept in Redis: for more than one machine.
//!
//! A single server is meant, from version 7.0 on, and not a cluster: each step is one script there, which sees all keys. With
//! `appendonly yes` the jobs outlive the server, and with `appendfsync always` a power cut too; `open` warns where that is
//! not set. What waits lies in streams, one for each queue and priority in use, of which a consumer group hands out; what
//! runs is pending there, and the beats of its worker renew the claim. `common.lua` says where everything lies.
//!
//! **Leases.** The server counts the beats, and each process looks by its own steady clock who has not beaten. What a worker
//! that lives has not spoken of for two leases comes back too: where its claim was cut short, it never heard of it. Where the
//! server was away, everybody has a lease from then on.
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

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use ::redis::{FromRedisValue, Script};

use self::connection::{Link, random_name};
use self::liveness::Watch;
use self::losses::{Losses, Stock};
use self::values::values;
use super::engine::{Abilities, Beat, Claimed, End, Ending, Engine, Enqueued, Entry, Held, Keep, Room, WorkerId};
use super::record::{Cause, JobCounts, JobInfo, JobState, Millis, QueueInfo};
use crate::error::{Error, Result};
use crate::sync::{Notify, lock};

/// What all keys begin with.
const PREFIX: &str = "aside:";

/// How long the server may take to take a connection, and to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most that one claim hands out of a queue, and that one call trims: so long a script keeps all others waiting.
const MOST_AT_ONCE: usize = 1_000;

/// The most that one call enqueues: all of them are one step, which takes the server about a second.
const MOST_NEW: usize = 20_000;

/// Keeps jobs in a Redis server.
pub(crate) struct Redis {
    link: Arc<Link>,
    /// Notified directly of changes that this process makes, without the way over the server.
    listeners: Mutex<Vec<Weak<Notify>>>,
    watch: Mutex<Watch>,
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
        Redis::open_with(url, PREFIX, PATIENCE)
    }

    /// The same, with keys of their own and other patience.
    fn open_with(url: &str, prefix: &str, patience: Duration) -> Result<Redis> {
        let link = Arc::new(Link::new(url, prefix, patience)?);
        let is_there = server::is_there(&link)?;
        let redis = Redis { link, listeners: Mutex::default(), watch: Mutex::default(), losses: Losses::default() };
        if is_there {
            // The permissions of the user.
            redis.counts()?;
        }
        Ok(redis)
    }

    /// Reads the heartbeats of all workers, and detects lost jobs.
    fn look(&self) -> Result<Look> {
        let before = self.losses.stock();
        let (last_id, counts, beats): (u64, Vec<u64>, HashMap<String, u64>) =
            self.run(&scripts::WORKERS, &counted())?;
        let now = Stock { last_id, counts: counts_of(counts) };
        let has_lost_jobs = self.losses.compare(before, now);
        if has_lost_jobs {
            log::error!(target: "aside::jobs", "Redis at {} {}", self.link.address(), losses::words(before, now));
            self.run::<()>(&scripts::SKIP, &values![before.last_id])?;
        }
        Ok(Look { beats, has_lost_jobs })
    }

    fn run<T: FromRedisValue>(&self, script: &Script, values: &[String]) -> Result<T> {
        self.link.run(script, values)
    }

    /// The answer of a script that says `1` or `0`.
    fn whether(&self, script: &Script, values: &[String]) -> Result<bool> {
        Ok(self.run::<String>(script, values)? == "1")
    }

    fn notify(&self) {
        lock(&self.listeners).retain(|listener| listener.upgrade().inspect(|listener| listener.notify()).is_some());
    }
}

impl Engine for Redis {
    fn describe(&self) -> String {
        format!("redis {}", self.link.address())
    }

    fn abilities(&self) -> Abilities {
        Abilities { is_durable: true, is_shared: true, has_transactions: false }
    }

    fn listen(&self, listener: &Arc<Notify>) -> Result<()> {
        notify::listen(&self.link, listener)?;
        lock(&self.listeners).push(Arc::downgrade(listener));
        Ok(())
    }

    fn enqueue(&self, jobs: Vec<Entry>, now: Millis) -> Result<Vec<Enqueued>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        if jobs.len() > MOST_NEW {
            let words = "jobs are too many to be kept in Redis at once, all or none";
            return Err(Error::internal(format!("{} {words}; enqueue at most {MOST_NEW} in one call", jobs.len())));
        }
        let now = values::exact(now);
        let mut values = values![now, jobs.len()].to_vec();
        values.extend(jobs.into_iter().flat_map(|job| values::entry(job, now)));
        let words: String = self.run(&scripts::ENQUEUE, &values)?;
        self.notify();
        let enqueued = values::enqueued(&words)?;
        self.losses.note(enqueued.iter().map(|job| job.id).max());
        Ok(enqueued)
    }

    fn check(&self) -> Result<()> {
        self.run::<()>(&scripts::CHECK, &[])
    }

    fn join(&self) -> Result<WorkerId> {
        server::check(&self.link)?;
        let id = random_name()?;
        self.run::<()>(&scripts::JOIN, &values![id])?;
        Ok(WorkerId(id))
    }

    fn beat(&self, worker: &WorkerId, held: &[Held], _now: Millis) -> Result<Beat> {
        let mut values = values![worker.0].to_vec();
        values.extend(held.iter().flat_map(values::held));
        let (is_known, cancel, lost): (bool, Vec<u64>, Vec<u64>) = self.run(&scripts::BEAT, &values)?;
        // A server that lost its data does not know the worker, and no other worker has its jobs.
        let has_lost_jobs = !is_known && self.look()?.has_lost_jobs;
        Ok(Beat { is_evicted: !is_known, has_lost_jobs, cancel, lost })
    }

    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()> {
        self.run::<()>(&scripts::LEAVE, &values![values::exact(now), worker.0])?;
        self.notify();
        Ok(())
    }

    fn recover(&self, lease: Duration, now: Millis) -> Result<usize> {
        let beats = self.look()?.beats;
        let gone = lock(&self.watch).gone(beats, lease, Instant::now());
        let span = values::exact(lease.as_millis().try_into().unwrap_or(Millis::MAX));
        let mut values = values![values::exact(now), span].to_vec();
        values.extend(gone.iter().flat_map(|(worker, beats)| values![worker, beats]));
        let given_back = self.run(&scripts::RECOVER, &values)?;
        if given_back > 0 {
            self.notify();
        }
        Ok(given_back)
    }

    fn claim(&self, worker: &WorkerId, rooms: &[Room], now: Millis) -> Result<Vec<Claimed>> {
        let mut values = values![values::exact(now), worker.0].to_vec();
        values.extend(rooms.iter().flat_map(|room| values![room.queue, room.free.min(MOST_AT_ONCE)]));
        let handed: Vec<values::Handed> = self.link.run_as(&worker.0, &scripts::CLAIM, &values)?;
        Ok(handed.into_iter().map(values::claimed).collect())
    }

    fn next_due(&self) -> Result<Option<Millis>> {
        self.run(&scripts::NEXT_DUE, &[])
    }

    fn settle(&self, id: u64, token: u64, ending: Ending, now: Millis) -> Result<bool> {
        let now = values::exact(now);
        let mut values = values![now, id, token].to_vec();
        // What has ended for good leaves room, of which its worker knows; only what waits again is news.
        let waits_again = matches!(ending.end, End::Retry { .. } | End::Released);
        values.extend(values::last(&ending));
        values.extend(values::end(ending.end, now));
        let answer: String = self.link.run_as(&format!("{id} {token}"), &scripts::SETTLE, &values)?;
        if waits_again {
            self.notify();
        }
        Ok(answer == "1")
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

    fn counts(&self) -> Result<JobCounts> {
        let numbers: Vec<u64> = self.run(&scripts::COUNTS, &counted())?;
        Ok(counts_of(numbers))
    }

    fn queues(&self) -> Result<Vec<QueueInfo>> {
        let shown: values::Queues = self.run(&scripts::QUEUES, &[])?;
        Ok(values::queues(&shown))
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

    fn trim(&self, keep: Keep, now: Millis) -> Result<usize> {
        let age = keep.age.as_millis().try_into().unwrap_or(Millis::MAX);
        let oldest = values::exact(now.saturating_sub(age));
        let mut trimmed = 0;
        loop {
            let gone: usize = self.run(&scripts::TRIM, &values![oldest, keep.count, MOST_AT_ONCE])?;
            trimmed += gone;
            if gone == 0 {
                return Ok(trimmed);
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

/// The last known state of the server.
struct Look {
    /// The number of heartbeats of each worker.
    beats: HashMap<String, u64>,
    has_lost_jobs: bool,
}

/// The counters: one for each state, and one for each cause of dead jobs.
fn counted() -> Vec<String> {
    let states = JobState::ALL.into_iter().map(|state| state.to_string());
    states.chain(Cause::ALL.map(|cause| format!("dead:{}", cause.as_str()))).collect()
}

fn counts_of(numbers: Vec<u64>) -> JobCounts {
    let (mut counts, mut numbers) = (JobCounts::default(), numbers.into_iter());
    for (state, number) in JobState::ALL.into_iter().zip(numbers.by_ref()) {
        *counts.of(state) = number;
    }
    for (cause, number) in Cause::ALL.into_iter().zip(numbers) {
        counts.dead_of(cause).into_iter().for_each(|count| *count = number);
    }
    counts
}

/// The thread that listens is woken to end. Everybody else's is too, and looks for nothing.
impl Drop for Redis {
    fn drop(&mut self) {
        self.link.close();
        if !lock(&self.listeners).is_empty() {
            self.link.wake();
        }
    }
}

#[cfg(test)]
#[path = "../../../tests/support/redis.rs"]
mod server_of_tests;

#[cfg(test)]
mod tests;
