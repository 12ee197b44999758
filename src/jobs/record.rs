//! What is known of a job: where it stands, what every try came to, how far it is.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::background::output::Output;
use crate::error::{Error, Result};

/// Milliseconds since 1970, as engines keep times.
pub(crate) type Millis = i64;

/// A time as engines keep it.
pub(crate) fn millis(time: SystemTime) -> Millis {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis().try_into().unwrap_or(Millis::MAX),
        Err(before) => -before.duration().as_millis().try_into().unwrap_or(Millis::MAX),
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum JobState {
    /// It waits for a worker.
    Waiting,
    /// It waits for its time: it was enqueued for later, or the next try comes after a wait.
    Scheduled,
    /// A worker has it.
    Running,
    /// It ended well.
    Done,
    /// It was tried as often as it may be, or failed in a way that no other try can mend. It is kept until somebody
    /// retries or discards it.
    Dead,
    /// It was cancelled.
    Cancelled,
}

impl JobState {
    /// All of them.
    pub const ALL: [JobState; 6] = [
        JobState::Waiting,
        JobState::Scheduled,
        JobState::Running,
        JobState::Done,
        JobState::Dead,
        JobState::Cancelled,
    ];

    /// Its word, as in a template: `waiting`.
    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Waiting => "waiting",
            JobState::Scheduled => "scheduled",
            JobState::Running => "running",
            JobState::Done => "done",
            JobState::Dead => "dead",
            JobState::Cancelled => "cancelled",
        }
    }

    /// The state of that word.
    pub(crate) fn of(word: &str) -> Option<JobState> {
        JobState::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether nothing more happens to it by itself.
    pub fn is_finished(self) -> bool {
        matches!(self, JobState::Done | JobState::Dead | JobState::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The cause of a dead job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its last attempt returned an error.
    Failed,
    /// Its last attempt timed out.
    TimedOut,
    /// Its last attempt panicked.
    Panicked,
    /// Its process ended several times before the job did.
    Abandoned,
}

#[cfg_attr(not(any(feature = "sqlite", feature = "redis")), allow(dead_code, reason = "memory writes nothing down"))]
impl Cause {
    pub(crate) const ALL: [Cause; 4] = [Cause::Failed, Cause::TimedOut, Cause::Panicked, Cause::Abandoned];

    /// Returns the word that engines store.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Cause::Failed => "failed",
            Cause::TimedOut => "timed_out",
            Cause::Panicked => "panicked",
            Cause::Abandoned => "abandoned",
        }
    }
}

/// A try that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobFailure {
    /// Which try it was, from 1.
    pub attempt: u32,
    /// When it ended; milliseconds since 1970.
    pub at: i64,
    /// What went wrong, in the words of the log.
    pub words: String,
}

/// A job as its engine knows it.
///
/// What it was enqueued with and its output are neither in its `Debug` nor in a template: they may be nobody's business.
#[derive(Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JobInfo {
    /// Its number, which no other job of that engine has.
    pub id: u64,
    /// The [`NAME`](crate::Job::NAME) of its type.
    pub name: String,
    /// What the log and the panel call it.
    pub label: String,
    /// Its queue.
    pub queue: String,
    /// Its priority.
    pub priority: i32,
    /// Where it stands.
    pub state: JobState,
    /// How many tries have begun, without those that were only interrupted.
    pub attempt: u32,
    /// How often its process ended while it ran.
    pub interruptions: u32,
    /// What it was enqueued with, as JSON.
    #[serde(skip)]
    pub payload: String,
    /// Its unique key.
    pub unique: Option<String>,
    /// The request that it came from: `POST /orders 3f9a1c`.
    pub origin: Option<String>,
    /// When it was enqueued; milliseconds since 1970, as all times here.
    pub enqueued_at: i64,
    /// When it is, or was, to begin.
    pub due_at: i64,
    /// When the last try began.
    pub began_at: Option<i64>,
    /// When it ended.
    pub ended_at: Option<i64>,
    /// It runs and was told to cancel.
    pub is_cancelling: bool,
    /// How many steps are done, as it said itself.
    pub done: u64,
    /// Of how many; 0 when it has not said.
    pub total: u64,
    /// What it is at.
    pub message: String,
    /// The tries that did not end well, oldest first: the last 25.
    pub failures: Vec<JobFailure>,
    /// What a done job left as its output.
    #[serde(skip)]
    pub(crate) output: Kept,
}

/// The output of a job as far as it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Kept {
    /// There is none.
    #[default]
    Nothing,
    Whole(Output),
    /// There is one, and a list leaves it out: a hundred jobs may have a hundred megabytes.
    LeftOut,
}

impl From<Option<Output>> for Kept {
    fn from(output: Option<Output>) -> Kept {
        output.map_or(Kept::Nothing, Kept::Whole)
    }
}

impl JobInfo {
    /// Returns the output of a job that is done: the value of the last call of
    /// [`TaskContext::output`](crate::TaskContext::output). `None` if the job is not done, or has no output.
    ///
    /// ```
    /// use aside::{JobInfo, Result};
    ///
    /// fn rows(job: &JobInfo) -> Result<String> {
    ///     Ok(match job.output::<u64>()? {
    ///         Some(rows) => format!("{rows} rows were imported."),
    ///         None => format!("The import is {}.", job.state),
    ///     })
    /// }
    /// ```
    ///
    /// # Errors
    /// An error if the output is not a `T`, or if this comes from [`Jobs::list`](crate::Jobs::list), which leaves outputs out:
    /// ask [`Jobs::output`](crate::Jobs::output).
    pub fn output<T: DeserializeOwned>(&self) -> Result<Option<T>> {
        match &self.output {
            Kept::Nothing => Ok(None),
            Kept::Whole(output) => output.read().map(Some).map_err(|error| error.context(format!("job {}", self.id))),
            Kept::LeftOut => {
                let words = "a list of jobs leaves their outputs out: ask `Jobs::output` with the id";
                Err(Error::internal(format!("job {}: {words}", self.id)))
            }
        }
    }

    /// Returns it as it is in a list.
    pub(crate) fn without_output(self) -> JobInfo {
        let output = if self.output == Kept::Nothing { Kept::Nothing } else { Kept::LeftOut };
        JobInfo { output, ..self }
    }
}

impl fmt::Debug for JobInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobInfo { id, label, state, attempt, failures, .. } = self;
        write!(f, "job {id} {label} ({state}, try {attempt}) {failures:?}")
    }
}

/// A queue with what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// Jobs that wait for a worker.
    pub waiting: u64,
    /// Jobs that run, in whatever process.
    pub running: u64,
    /// Nothing of it is begun until it is resumed.
    pub is_paused: bool,
}

/// How many jobs there are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobCounts {
    /// Waiting for a worker.
    pub waiting: u64,
    /// Waiting for their time.
    pub scheduled: u64,
    /// Running.
    pub running: u64,
    /// Ended well, and not trimmed yet.
    pub done: u64,
    /// Dead.
    pub dead: u64,
    /// The number of dead jobs whose last attempt timed out.
    pub timed_out: u64,
    /// The number of dead jobs whose last attempt panicked.
    pub panicked: u64,
    /// The number of dead jobs that were abandoned because their process ended several times before they did.
    pub abandoned: u64,
    /// Cancelled, and not trimmed yet.
    pub cancelled: u64,
}

impl JobCounts {
    /// The count of that state, to read or to set.
    pub(crate) fn of(&mut self, state: JobState) -> &mut u64 {
        match state {
            JobState::Waiting => &mut self.waiting,
            JobState::Scheduled => &mut self.scheduled,
            JobState::Running => &mut self.running,
            JobState::Done => &mut self.done,
            JobState::Dead => &mut self.dead,
            JobState::Cancelled => &mut self.cancelled,
        }
    }

    /// Returns the count of dead jobs with this cause, if there is one.
    pub(crate) fn dead_of(&mut self, cause: Cause) -> Option<&mut u64> {
        match cause {
            Cause::Failed => None,
            Cause::TimedOut => Some(&mut self.timed_out),
            Cause::Panicked => Some(&mut self.panicked),
            Cause::Abandoned => Some(&mut self.abandoned),
        }
    }
}
