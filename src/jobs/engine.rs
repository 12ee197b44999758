//! What keeps the jobs: the one behaviour that memory, SQLite and Redis have.
//!
//! An engine knows no types and runs nothing. It keeps each job until somebody takes it away, hands it to one worker at a
//! time, and knows what became of it. Everything here blocks, and may be called from any thread.
//!
//! **Life of a job.** `enqueue` makes it *waiting*, or *scheduled* until its time. `claim` hands it to a worker: *running*,
//! with a token that no other claim of it had. `settle`, with that token, says what came of it. A token that is not the
//! last one is stale: its worker was taken for dead and the job given to another, and whatever it says is refused.
//!
//! **Workers** are processes. Each `join`s, shows with `beat` that it lives, and may `leave`. `recover` gives back what those
//! hold that show no life: an observer has seen no beat of theirs for a whole lease **by its own steady clock** (so that no
//! step of a wall clock makes anybody look dead), or knows better (a lock that went with the process). What is given back
//! waits again at once, before what came later, and counts an interruption. What was interrupted again and again may be what
//! ends its processes: it waits longer and longer ([`wait_after_interruption`]), and after [`MOST_INTERRUPTIONS`] it is dead.
//!
//! **Order** within a queue: by the time since when it waits, with each point of priority counting as
//! [`PRIORITY_STEP`] earlier; so what is urgent goes first and nothing waits for ever. Equal ones in the order of their ids.
//!
//! **Times** are wall clock times and are passed in, so that a test can change them. A time may be some seconds old when
//! the engine uses it, because the call has waited for a lock or for the network. An engine must not depend on differences
//! below [`CLOCK_SLACK`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::record::{Cause, JobCounts, JobInfo, JobState, Millis, QueueInfo};
use crate::background::output::Output;
use crate::error::Result;
use crate::sync::Notify;

/// How often a job's process may end under it before it is dead: it may well be the job that ends it.
pub(crate) const MOST_INTERRUPTIONS: u32 = 10;

/// How long a job waits that was interrupted for the so-manieth time: not at all the first three times, which happen to anybody;
/// then a second, and twice as long each time.
pub(crate) fn wait_after_interruption(count: u32) -> Millis {
    match count {
        0..=3 => 0,
        count => 1_000 << (count - 4).min(6),
    }
}

/// How much earlier a job counts for each point of its priority; milliseconds.
pub(crate) const PRIORITY_STEP: Millis = 60_000;

/// The difference between clocks that does not count as a step back, in milliseconds: more than a call waits for a lock or
/// the network, and more than the clocks of two machines differ.
pub(crate) const CLOCK_SLACK: Millis = 15_000;

/// The latest plausible last tick of a schedule, in milliseconds from now. A later tick came from a wrong clock.
pub(crate) const LATEST_TICK: Millis = 24 * 3_600_000;

/// How many failures of one job are kept: the last ones.
pub(crate) const MOST_FAILURES: usize = 25;

/// Where jobs are kept. See the module for what all of them do alike.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Which one it is, for the log: `sqlite data/jobs.db`. No password is in it.
    fn describe(&self) -> String;

    /// What it can beyond what all can.
    fn abilities(&self) -> Abilities;

    /// Notifies the listener from now on whenever there may be more to claim: something was enqueued, revived, resumed, given back
    /// or cancelled, by whichever process, after this has returned. May notify without need; may be late by half a second for what other
    /// processes do. Called once, from a thread of normal priority, on which the engine may start threads of its own; they end when the listener is
    /// dropped or soon after.
    fn listen(&self, listener: &Arc<Notify>) -> Result<()>;

    /// Keeps new jobs: all or none. They are as durable as this engine can make them when it returns.
    ///
    /// Where one of the same name and unique key waits, is scheduled or runs, that one's id comes back and nothing is kept.
    fn enqueue(&self, jobs: Vec<Entry>, now: Millis) -> Result<Vec<Enqueued>>;

    /// Writes a meaningless record as durably as a job. An error tells why no job could be stored now; an [`Unavailable`]
    /// has a reason for clients.
    fn check(&self) -> Result<()>;

    /// A worker begins. Its id is no other's.
    fn join(&self) -> Result<WorkerId>;

    /// The worker lives, and its jobs are so far. `held` names all that it has in hand: an engine may give back what a living
    /// worker has not spoken of for long, since it never heard that it got it.
    fn beat(&self, worker: &WorkerId, held: &[Held], now: Millis) -> Result<Beat>;

    /// The worker ends: what it holds waits again at once, which counts neither as a try nor as an interruption.
    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()>;

    /// Gives back what workers hold that are gone: no beat for a lease, or known to be dead. Called every second or two by each
    /// process, and once at its start; to judge by a lease takes two looks. How many jobs were given back.
    fn recover(&self, lease: Duration, now: Millis) -> Result<usize>;

    /// Makes waiting what is due, and hands out what waits: of each queue at most as many as it has room for, none of a queue
    /// that is paused. Each claim begins a try: `attempt` is one more, `began_at` is now, the progress is empty.
    fn claim(&self, worker: &WorkerId, rooms: &[Room], now: Millis) -> Result<Vec<Claimed>>;

    /// When the next scheduled job is due.
    fn next_due(&self) -> Result<Option<Millis>>;

    /// Says what came of a try, in one step with what it leaves: its last progress, and the output of one that is done.
    /// Whether it still was that try's to say: a stale token changes nothing.
    fn settle(&self, id: u64, token: u64, ending: Ending, now: Millis) -> Result<bool>;

    /// Cancels it: at once while it waits or is scheduled; running it is told to, with the next `beat` of its worker. The
    /// state it is in then; none when there is no such job.
    fn cancel(&self, id: u64, now: Millis) -> Result<Option<JobState>>;

    /// Makes one that is scheduled, dead or cancelled wait from now on; for the latter two tries and interruptions begin
    /// anew, and its failures stay. Whether it was one of these. Its unique key counts again; while another has it: false.
    fn revive(&self, id: u64, now: Millis) -> Result<bool>;

    /// Takes away one that does not run, with its failures and its output. Whether there was one.
    fn discard(&self, id: u64) -> Result<bool>;

    /// Begins nothing more of that queue, or goes on with it. Holds for all processes, and past a restart.
    fn pause(&self, queue: &str, paused: bool) -> Result<()>;

    /// The job of that number, with its output.
    fn find(&self, id: u64) -> Result<Option<JobInfo>>;

    /// Jobs in that state, by falling id, from the one before that id on. Outputs stay behind ([`Kept::LeftOut`](super::record::Kept)).
    fn list(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>>;

    /// How many there are.
    fn counts(&self) -> Result<JobCounts>;

    /// The queues that something waits or runs in, and those that are paused, by name.
    fn queues(&self) -> Result<Vec<QueueInfo>>;

    /// When that schedule was last due, by `tick`.
    fn last_tick(&self, schedule: &str) -> Result<Option<Millis>>;

    /// Enqueues the job of a schedule for that due time, once however many processes say so: only where `due` is later than
    /// the last tick, which it becomes. Without a job only the time is noted. Whether it was.
    fn tick(&self, schedule: &str, due: Millis, job: Option<Entry>, now: Millis) -> Result<bool>;

    /// Takes away what ended well or was cancelled, and is older or more than is kept; never dead ones. How many.
    fn trim(&self, keep: Keep, now: Millis) -> Result<usize>;

    /// Repairs times after the wall clock may have been set back. A job that was to wait for a duration ([`When::After`]),
    /// and that is due more than [`CLOCK_SLACK`] after that duration from now, becomes due after the duration, counted from
    /// now. A schedule whose last tick is more than [`LATEST_TICK`] from now gets now as its last tick.
    fn clock_went_back(&self, now: Millis) -> Result<()>;

    /// The engine itself, for what only one of them has.
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "it is SQLite that has something"))]
    fn as_any(&self) -> &(dyn std::any::Any + Send + Sync);
}

/// What an engine can beyond what all can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// Its jobs outlive the process.
    pub(crate) is_durable: bool,
    /// Several processes can work on it.
    pub(crate) is_shared: bool,
    /// A job can be enqueued, and completed, in one transaction with other writes.
    pub(crate) has_transactions: bool,
}

/// A job to be kept.
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
}

/// When a job may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Now: whatever the clock says later, it waits and is not scheduled.
    Now,
    /// At that time of the wall clock.
    At(Millis),
    /// That long from now.
    After(Millis),
}

/// What came of `enqueue`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enqueued {
    /// The job's number: the new one's, or that of the one with its unique key that was there.
    pub id: u64,
    /// Whether it is a new one.
    pub is_new: bool,
}

/// One process that runs jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct WorkerId(pub(crate) String);

/// How many more of a queue there is room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) queue: String,
    pub(crate) free: usize,
}

/// A job in a worker's hands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Claimed {
    pub(crate) id: u64,
    /// What shows that this claim is the last one.
    pub(crate) token: u64,
    pub(crate) name: String,
    pub(crate) label: String,
    pub(crate) payload: String,
    pub(crate) queue: String,
    /// Which try it is, from 1.
    pub(crate) attempt: u32,
    pub(crate) origin: Option<String>,
    pub(crate) enqueued_at: Millis,
}

/// A job that a worker says it holds, and how far it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Held {
    pub(crate) id: u64,
    pub(crate) token: u64,
    /// How far it is, when that has changed.
    pub(crate) progress: Option<Steps>,
}

/// Done, of how many, and what it is at.
pub(crate) type Steps = (u64, u64, String);

/// What a worker learns from its beat.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Beat {
    /// It was taken for dead, and must join anew: all that it holds is lost to others.
    pub(crate) is_evicted: bool,
    /// The worker is unknown because the engine has lost its data. No other worker has its jobs.
    pub(crate) has_lost_jobs: bool,
    /// Jobs of those it holds that are to be cancelled.
    pub(crate) cancel: Vec<u64>,
    /// Jobs that are not its own any more.
    pub(crate) lost: Vec<u64>,
}

/// The reason why an engine cannot store a job now.
#[cfg_attr(not(any(feature = "sqlite", feature = "redis")), allow(dead_code, reason = "memory keeps every job"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unavailable {
    /// The reason for clients: without paths, addresses and passwords.
    pub(crate) reason: &'static str,
    /// The message for the log.
    pub(crate) words: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Unavailable {}

/// What came of a try. Where there are words, they are kept as its [`JobFailure`](super::record::JobFailure).
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    Done,
    /// It failed, and is tried again after that wait.
    Retry {
        wait: Millis,
        words: String,
    },
    /// It failed for good.
    Dead {
        words: String,
        cause: Cause,
    },
    /// It was cancelled; the words say by what, when that was a failure too.
    Cancelled {
        words: Option<String>,
    },
    /// It did not come to an end and waits again at once, as if the try had not begun: `attempt` is one less.
    Released,
}

/// How a try ended, and what it leaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ending {
    pub(crate) end: End,
    pub(crate) last: Last,
}

/// What a try leaves beside its end.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Last {
    /// How far it was; when none, as far as the last heartbeat said.
    pub(crate) progress: Option<Steps>,
    /// Its output, which only a job that is done keeps.
    pub(crate) output: Option<Output>,
}

impl From<End> for Ending {
    fn from(end: End) -> Ending {
        Ending { end, last: Last::default() }
    }
}

impl Ending {
    /// Returns the output, if it is to be kept.
    pub(crate) fn output(&self) -> Option<&Output> {
        self.last.output.as_ref().filter(|_| self.end == End::Done)
    }
}

/// How much is kept of what ended well or was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) age: Duration,
    pub(crate) count: u64,
}
