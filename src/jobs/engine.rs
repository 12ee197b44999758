//! The interface of a job store, which memory, SQLite and Redis implement.
//!
//! An engine knows no Rust types and runs no code. It stores each job until the job is pruned or discarded, gives it to
//! one worker at a time, and records the outcome. All calls block, and any thread may make them.
//!
//! **Life of a job.** `enqueue` makes it *waiting*, or *scheduled* until it is due. `exchange` gives it to a worker:
//! *running*, with a token that is unique to that claim. `exchange`, with that token, records the outcome of the
//! attempt. A token of an earlier claim is stale: the lease of its worker expired and the job was given to another
//! worker. The engine rejects calls with a stale token.
//!
//! **Workers** are processes. Each worker calls `join`, sends heartbeats with `heartbeat`, and may call `leave`.
//! `recover` releases the jobs of workers whose lease has expired: an observer has seen no heartbeat for a whole lease
//! **by its own steady clock** (so that a step of a wall clock expires no lease), or the worker is known to be dead
//! (the operating system has released its lock). A released job waits again at once, before jobs that were enqueued
//! later, and counts an interruption, which is listed with its failures. A job that is interrupted repeatedly may be the cause: it waits with exponential
//! backoff ([`wait_after_interruption`]), and after [`MOST_INTERRUPTIONS`] it is dead.
//!
//! **Order** within a queue: by the time from which a job waits, where each point of priority counts as
//! [`PRIORITY_STEP`] earlier. So urgent jobs go first and no job starves. Jobs of equal rank are ordered by id.
//!
//! **Times** are wall clock times that the caller passes, so that a test can change them. A time may be some seconds
//! old when the engine uses it, because the call has waited for a lock or for the network. An engine must not depend on
//! differences below [`CLOCK_SLACK`].

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::record::{FailureGroup, FailureKind, JobCounts, JobInfo, JobState, Millis, QueueInfo, WorkerInfo};
use crate::background::lineage::LineageTexts;
use crate::background::output::Output;
use crate::bounds;
use crate::error::{Error, Result};
use crate::sync::Notify;

/// The number of interruptions after which a job is dead: the job itself may end its process.
pub(crate) const MOST_INTERRUPTIONS: u32 = 10;

/// Returns the backoff of a job after its nth interruption: none for the first three, which are likely unrelated to the
/// job; then one second, doubled each time.
pub(crate) fn wait_after_interruption(count: u32) -> Millis {
    match count {
        0..=3 => 0,
        count => 1_000 << (count - 4).min(6),
    }
}

/// The time, in milliseconds, by which each point of priority moves a job ahead.
pub(crate) const PRIORITY_STEP: Millis = 60_000;

/// The difference between clocks that does not count as a step back, in milliseconds: more than a call waits for a lock or
/// the network, and more than the clocks of two machines differ.
pub(crate) const CLOCK_SLACK: Millis = 15_000;

/// The latest plausible last tick of a schedule, in milliseconds from now. A later tick came from a wrong clock.
pub(crate) const LATEST_TICK: Millis = 24 * 3_600_000;

/// The number of failures that are kept of one job: the last ones.
pub(crate) const MOST_FAILURES: usize = 25;

/// The number of first jobs among which the oldest job of a queue is looked for.
pub(crate) const MOST_OLDEST: usize = 100;

/// The number of jobs of one trace that can be listed.
pub(crate) const MOST_OF_TRACE: usize = 500;

/// A job store. The module's documentation says what all engines have in common.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Returns the engine and its location for the log: `sqlite data/jobs.db`. Contains no password.
    fn describe(&self) -> String;

    /// Returns the abilities of this engine that not all engines have.
    fn abilities(&self) -> Abilities;

    /// Notifies the listener from now on whenever there may be more to claim: when a job was enqueued, revived, released or
    /// cancelled, or a queue resumed, by any process, after this call has returned. The listener may be notified without a reason,
    /// and up to half a second late for changes by other processes. Called once, from a thread of normal priority, from
    /// which the engine may start its own threads; they end soon after the listener is dropped.
    fn listen(&self, listener: &Arc<Notify>) -> Result<()>;

    /// Stores new jobs: all or none. They are as durable as this engine can make them when this returns.
    ///
    /// If a job with the same name and unique key waits, is scheduled or runs, its id is returned and no new job is
    /// stored.
    fn enqueue(&self, jobs: Vec<Entry>, now: Millis) -> Result<Vec<Enqueued>>;

    /// Writes a placeholder record as durably as a job. An error says why no job could be stored now; an
    /// [`Unavailable`] has a reason for clients.
    fn check(&self) -> Result<()>;

    /// Registers a worker. Returns an id that no other worker has.
    fn join(&self) -> Result<WorkerId>;

    /// Renews the worker's lease and stores the progress of its jobs. `held` lists all jobs that the worker runs: an
    /// engine may release a job that a live worker has not listed for long, since the worker never received that claim.
    fn heartbeat(&self, worker: &WorkerId, held: &[HeldJob], now: Millis) -> Result<HeartbeatReply>;

    /// Removes the worker. Its jobs wait again at once, which counts neither as an attempt nor as an interruption.
    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()>;

    /// Releases the jobs of workers whose lease has expired or that are known to be dead. Each process calls this every second or two, and once at its start; a lease can expire at the
    /// second call at the earliest.
    fn recover(&self, lease: Duration, now: Millis) -> Result<Recovered>;

    /// Records the outcomes of attempts and claims jobs, in this order and in one round trip: the claim may take the slots
    /// of the attempts that have ended. Each outcome is recorded, in one step with its last progress and, if the job is
    /// done, its output, or is an error of its own that does not affect the others.
    ///
    /// The claim makes due jobs wait, and then takes waiting jobs: of each queue at most as many as its capacity, and none
    /// of a paused queue. Each claimed job starts an attempt: `attempt` is incremented, `began_at` is now, and the progress
    /// is empty.
    ///
    /// After an error of the whole call its effect is unknown. The caller repeats it with the same outcomes: then it has its
    /// effect once, and its reply is that of the first call if the engine has executed that.
    fn exchange(&self, ended: &[EndedAttempt], claim: Option<ClaimRequest<'_>>, now: Millis) -> Result<Exchanged>;

    /// Claims jobs, without outcomes to record.
    fn claim(&self, worker: &WorkerId, capacities: &[Capacity], now: Millis) -> Result<Vec<Claimed>> {
        self.exchange(&[], Some(ClaimRequest { worker, capacities }), now)?.claimed
    }

    /// Records one outcome. Returns false, and changes nothing, if the token is stale.
    fn resolve(&self, id: u64, token: u64, resolved: ResolvedAttempt, now: Millis) -> Result<bool> {
        let ended = EndedAttempt { id, token, resolved: Arc::new(resolved) };
        let recorded = self.exchange(&[ended], None, now)?.recorded.pop();
        recorded.unwrap_or_else(|| Err(Error::internal("the job store returned no result")))
    }

    /// Returns the time when the next scheduled job is due.
    fn next_due(&self) -> Result<Option<Millis>>;

    /// Cancels a job: at once if it waits or is scheduled. The worker of a running job is told with its next
    /// `heartbeat`. Returns the state of the job after the call; `None` if there is no such job.
    fn cancel(&self, id: u64, now: Millis) -> Result<Option<JobState>>;

    /// Makes a scheduled, dead or cancelled job wait from now on. For a dead or cancelled job, attempts and
    /// interruptions are reset and its failures are kept. Its unique key is in use again. Returns false if the job is
    /// in another state, or if another job uses its key.
    fn revive(&self, id: u64, now: Millis) -> Result<bool>;

    /// Deletes a job that does not run, with its failures and its output. Returns true if there was one.
    fn discard(&self, id: u64) -> Result<bool>;

    /// Pauses a queue, or resumes it, for all processes and across restarts. No job of a paused queue is claimed.
    fn pause(&self, queue: &str, paused: bool) -> Result<()>;

    /// Returns the names of the paused queues.
    fn paused(&self) -> Result<BTreeSet<String>>;

    /// Returns the job with that id, with its output and the backtraces of its failures. `is_paused` is left to the caller, here and in `list`.
    fn find(&self, id: u64) -> Result<Option<JobInfo>>;

    /// Returns jobs in that state, by descending id, starting below `before`. Their outputs and backtraces are left out
    /// ([`StoredOutput::LeftOut`](super::record::StoredOutput)).
    fn list(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>>;

    /// Returns at most `most` jobs of a trace, the oldest first, without their outputs. Of a trace with more than
    /// [`MOST_OF_TRACE`] jobs, later ones may be missing.
    fn of_trace(&self, trace: &str, most: usize) -> Result<Vec<JobInfo>>;

    /// Returns the number of jobs in each state.
    fn counts(&self) -> Result<JobCounts>;

    /// Returns the queues with waiting or running jobs, and the paused queues, sorted by name.
    fn queues(&self) -> Result<Vec<QueueInfo>>;

    /// Returns the first waiting jobs of a queue, or of all queues, in the order in which they are claimed, without their
    /// outputs. A paused queue counts like any other.
    fn next_to_run(&self, queue: Option<&str>, most: usize) -> Result<Vec<JobInfo>>;

    /// Returns the groups of dead jobs with equal errors, those first whose newest job died last.
    fn failure_groups(&self, most: usize) -> Result<Vec<FailureGroup>>;

    /// Returns the registered workers, sorted by id.
    fn workers(&self) -> Result<Vec<WorkerInfo>>;

    /// Returns the time when a schedule was last due, as recorded by `tick`.
    fn last_tick(&self, schedule: &str) -> Result<Option<Millis>>;

    /// Enqueues the job of a schedule for that due time, once even if several processes call this: only if `due` is
    /// later than the last tick. `due` becomes the last tick. Without a job, only the time is recorded. Returns true if
    /// it was recorded.
    fn tick(&self, schedule: &str, due: Millis, job: Option<Entry>, now: Millis) -> Result<bool>;

    /// Deletes done and cancelled jobs beyond the retention; never dead jobs. Returns the number of deleted jobs.
    fn prune(&self, keep: Retention, now: Millis) -> Result<usize>;

    /// Repairs times after the wall clock may have been set back. A job that was to wait for a duration ([`When::After`]),
    /// and that is due more than [`CLOCK_SLACK`] after that duration from now, becomes due after the duration, counted from
    /// now. A schedule whose last tick is more than [`LATEST_TICK`] from now gets now as its last tick.
    fn clock_went_back(&self, now: Millis) -> Result<()>;

    /// Returns the engine as `Any`, for operations that only one engine has.
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "it is SQLite that has something"))]
    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync);
}

/// The abilities that not all engines have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// Its jobs outlive the process.
    pub(crate) is_durable: bool,
    /// Several processes can use the same store.
    pub(crate) is_shared: bool,
    /// A job can be enqueued, and completed, in one transaction with other writes.
    pub(crate) has_transactions: bool,
}

/// A job to be enqueued.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) payload: String,
    pub(crate) queue: String,
    pub(crate) priority: i32,
    pub(crate) unique: Option<String>,
    pub(crate) when: When,
    pub(crate) origin: Option<String>,
    /// The trace id of the request or the work that enqueued the job: 32 hexadecimal digits.
    pub(crate) trace: Option<String>,
    /// The task or job that enqueued the job: `task 17`, `job 4`.
    pub(crate) parent: Option<String>,
}

/// The time when a job may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Now. The job waits and is never scheduled, even if the clock is set back.
    Now,
    /// At that wall clock time.
    At(Millis),
    /// After that delay, in milliseconds from now.
    After(Millis),
}

/// The result of `enqueue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueued {
    /// The id of the new job, or of the existing job with the same unique key.
    pub id: u64,
    /// True if the job is new.
    pub is_new: bool,
}

/// The id of one process that runs jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WorkerId(pub(crate) String);

/// Returns the name of this host, if it is known.
pub(crate) fn host() -> Option<String> {
    let read = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let named = || ["HOSTNAME", "COMPUTERNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let host = read().or_else(named)?;
    Some(bounds::shorten(host.trim(), MAX_HOST_LEN).into_owned()).filter(|host| !host.is_empty())
}

/// The longest stored host name, in bytes.
const MAX_HOST_LEN: usize = 100;

/// The number of jobs that a worker can claim from a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) queue: String,
    pub(crate) free: usize,
}

/// A claim of a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClaimRequest<'a> {
    pub(crate) worker: &'a WorkerId,
    pub(crate) capacities: &'a [Capacity],
}

/// An attempt that has ended, with its outcome.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EndedAttempt {
    pub(crate) id: u64,
    /// The token of the claim.
    pub(crate) token: u64,
    pub(crate) resolved: Arc<ResolvedAttempt>,
}

/// The reply to an exchange.
#[derive(Debug)]
pub(crate) struct Exchanged {
    /// For each ended attempt true, or false if its token was stale and nothing was changed.
    pub(crate) recorded: Vec<Result<bool>>,
    pub(crate) claimed: Result<Vec<Claimed>>,
}

/// A job that a worker has claimed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claimed {
    pub(crate) id: u64,
    /// The token of this claim. Later claims of the job have other tokens.
    pub(crate) token: u64,
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) payload: String,
    pub(crate) queue: String,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    pub(crate) origin: Option<String>,
    pub(crate) trace: Option<String>,
    pub(crate) parent: Option<String>,
    pub(crate) enqueued_at: Millis,
}

impl Claimed {
    /// Returns the lineage of the job.
    pub(crate) fn lineage(&self) -> LineageTexts {
        let (request, trace, parent) = (self.origin.clone(), self.trace.clone(), self.parent.clone());
        LineageTexts { request, trace, parent }
    }
}

/// A job that a worker says it runs, with its progress.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeldJob {
    pub(crate) id: u64,
    pub(crate) token: u64,
    /// The progress, if it has changed since the last heartbeat.
    pub(crate) progress: Option<Steps>,
}

/// Progress: the steps done, the total, and the message.
pub(crate) type Steps = (u64, u64, String);

/// The reply to a worker's heartbeat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeartbeatReply {
    /// The lease of the worker has expired, and it must join again. Its jobs were released to other workers.
    pub(crate) is_evicted: bool,
    /// The worker is unknown because the engine has lost its data. No other worker has its jobs.
    pub(crate) has_lost_jobs: bool,
    /// The jobs of this worker that are to be cancelled.
    pub(crate) cancel: Vec<u64>,
    /// The jobs that are no longer this worker's.
    pub(crate) lost: Vec<u64>,
}

/// The jobs that were taken from workers that have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// The number of all of them.
    pub(crate) released: usize,
    /// The jobs that are dead now, since they were interrupted too often.
    pub(crate) dead: Vec<u64>,
}

/// The reason why an engine cannot store a job now.
#[cfg_attr(not(any(feature = "sqlite", feature = "redis")), allow(dead_code, reason = "memory keeps every job"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unavailable {
    /// The reason for clients: without paths, addresses and passwords.
    pub(crate) reason: &'static str,
    /// The message for the log.
    pub(crate) message: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Unavailable {}

/// The outcome of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Resolution {
    Done,
    /// The attempt failed, and the job is retried after `wait`.
    Retry {
        wait: Millis,
        failure: AttemptFailure,
    },
    /// The attempt failed, and the job is not retried.
    Dead {
        failure: AttemptFailure,
    },
    /// The job was cancelled. The failure is one that came with it.
    Cancelled {
        failure: Option<AttemptFailure>,
    },
    /// The attempt did not complete, and the job waits again at once as if it had not started: `attempt` is
    /// decremented.
    Released,
}

/// The failure of an attempt, which is stored as a [`JobFailure`](super::record::JobFailure).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct AttemptFailure {
    pub(crate) kind: FailureKind,
    pub(crate) message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) location: Option<String>,
    #[serde(skip)]
    pub(crate) backtrace: Option<String>,
}

impl AttemptFailure {
    /// Returns a failure without a location.
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> AttemptFailure {
        AttemptFailure { kind, message: message.into(), location: None, backtrace: None }
    }

    /// Returns the failure of an attempt whose process has ended; `interruptions` counts this one.
    pub(crate) fn interrupted(interruptions: u32) -> AttemptFailure {
        let message =
            if interruptions < MOST_INTERRUPTIONS { INTERRUPTED.to_owned() } else { too_many_interruptions() };
        AttemptFailure::new(FailureKind::Abandoned, message)
    }
}

/// The message of an attempt whose process has ended.
const INTERRUPTED: &str = "the process ended during the attempt";

fn too_many_interruptions() -> String {
    format!(
        "the process ended {MOST_INTERRUPTIONS} times while it ran this job, which may be the cause: find out why the process ended \
         (was its memory exhausted?), then retry the job"
    )
}

/// The outcome of an attempt, with its last progress and its output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ResolvedAttempt {
    pub(crate) resolution: Resolution,
    pub(crate) last_values: LastValues,
}

/// The last values of an attempt.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct LastValues {
    /// The last progress; `None` if it has not changed since the last heartbeat.
    pub(crate) progress: Option<Steps>,
    /// The output, which is stored only if the job is done.
    pub(crate) output: Option<Output>,
}

impl From<Resolution> for ResolvedAttempt {
    fn from(resolution: Resolution) -> ResolvedAttempt {
        ResolvedAttempt { resolution, last_values: LastValues::default() }
    }
}

impl ResolvedAttempt {
    /// Returns the output, if it is to be stored.
    pub(crate) fn output(&self) -> Option<&Output> {
        self.last_values.output.as_ref().filter(|_| self.resolution == Resolution::Done)
    }
}

/// The retention of done and cancelled jobs: their maximum age and number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Retention {
    pub(crate) age: Duration,
    pub(crate) count: u64,
}
