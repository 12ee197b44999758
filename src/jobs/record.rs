//! The record of a job: its state, its failures and its progress.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::background::output::Output;
use crate::error::{Error, Result};
use crate::message_groups::without_numbers;

/// A time or a duration in milliseconds; a time counts from 1970.
pub(crate) type Millis = i64;

/// Returns a time in milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> Millis {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis().try_into().unwrap_or(Millis::MAX),
        Err(before) => -before.duration().as_millis().try_into().unwrap_or(Millis::MAX),
    }
}

/// The state of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum JobState {
    /// The job waits for a worker.
    Waiting,
    /// The job waits until it is due: it was enqueued for later, or waits for its next attempt.
    Scheduled,
    /// A worker runs the job.
    Running,
    /// The job completed successfully.
    Done,
    /// The job has used all its attempts, or failed in a way that is not retried. It is kept until it is retried or
    /// discarded.
    Dead,
    /// The job was cancelled.
    Cancelled,
}

impl JobState {
    /// All states.
    pub const ALL: [JobState; 6] = [
        JobState::Waiting,
        JobState::Scheduled,
        JobState::Running,
        JobState::Done,
        JobState::Dead,
        JobState::Cancelled,
    ];

    /// Returns the name of the state, as in a template: `waiting`.
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

    /// Returns the state with that name.
    pub(crate) fn of(word: &str) -> Option<JobState> {
        JobState::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Returns true if the job is done, dead or cancelled.
    pub fn is_finished(self) -> bool {
        matches!(self, JobState::Done | JobState::Dead | JobState::Cancelled)
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The kind of a failed attempt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureKind {
    /// The attempt returned an error.
    #[default]
    Failed,
    /// The attempt timed out.
    TimedOut,
    /// The attempt panicked.
    Panicked,
    /// The process ended during the attempt. The attempt is not counted, and the job waits again. A job that is abandoned
    /// several times is dead.
    Abandoned,
}

impl FailureKind {
    /// All kinds.
    pub const ALL: [FailureKind; 4] =
        [FailureKind::Failed, FailureKind::TimedOut, FailureKind::Panicked, FailureKind::Abandoned];

    /// Returns the name of the kind, as in a template: `timed_out`.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::Failed => "failed",
            FailureKind::TimedOut => "timed_out",
            FailureKind::Panicked => "panicked",
            FailureKind::Abandoned => "abandoned",
        }
    }

    /// Returns the kind with that name. A name that a later version has written counts as an error.
    #[cfg(feature = "sqlite")]
    pub(crate) fn of(word: &str) -> FailureKind {
        FailureKind::ALL.into_iter().find(|kind| kind.as_str() == word).unwrap_or_default()
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct JobFailure {
    /// The number of the attempt, from 1. An [abandoned](FailureKind::Abandoned) attempt is not counted, and the next one has
    /// the same number.
    pub attempt: u32,
    /// The time when the attempt ended; milliseconds since 1970. For an abandoned attempt, the time when another process has
    /// noticed it.
    pub at: i64,
    /// The time when the attempt started. `None` if an earlier version has recorded it.
    #[serde(default)]
    pub began_at: Option<i64>,
    /// The kind of the failure.
    #[serde(default)]
    pub kind: FailureKind,
    /// The message of the failure, as in the log.
    pub message: String,
    /// The location of the error or panic in the application's code, if it is known: `src/orders.rs:41`.
    #[serde(default)]
    pub location: Option<String>,
    /// The backtrace, at most 20 kB: in development, and only from [`Jobs::find`](crate::Jobs::find).
    #[serde(default)]
    pub backtrace: Option<String>,
}

/// The record of a job.
///
/// The payload and the output are left out of `Debug` and of templates, since they may be private.
#[derive(Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct JobInfo {
    /// The id, which is unique within the engine.
    pub id: u64,
    /// The [`NAME`](crate::Job::NAME) of its type.
    pub name: String,
    /// The label in the log and the panel.
    pub label: String,
    /// The queue.
    pub queue: String,
    /// The priority.
    pub priority: i32,
    /// The state.
    pub state: JobState,
    /// The number of attempts so far, without those that were only interrupted.
    pub attempt: u32,
    /// The number of attempts during which the process ended.
    pub interruptions: u32,
    /// The job as JSON.
    #[serde(skip)]
    pub payload: String,
    /// The unique key.
    pub unique: Option<String>,
    /// The request that enqueued the job: `POST /orders 3f9a1c`.
    pub request: Option<String>,
    /// The trace id of the request or the work that enqueued the job, by which all that it started is found: 32
    /// hexadecimal digits. `None` for a job that an earlier version enqueued.
    pub trace: Option<String>,
    /// The task or job that enqueued the job: `task 17`, `job 4`. `None` if the request itself or a schedule did.
    pub parent: Option<String>,
    /// The time when the job was enqueued; milliseconds since 1970, like all times here.
    pub enqueued_at: i64,
    /// The time when the job is, or was, due.
    pub due_at: i64,
    /// The time when the last attempt started.
    pub began_at: Option<i64>,
    /// The time when the job finished.
    pub ended_at: Option<i64>,
    /// True if the job runs and was told to cancel.
    pub is_cancelling: bool,
    /// The number of steps done, as reported by the job.
    pub done: u64,
    /// The total number of steps; 0 if the job has not reported it.
    pub total: u64,
    /// The last message of the job.
    pub message: String,
    /// True if the job waits or is scheduled, and its queue is paused.
    pub is_paused: bool,
    /// The failed and the abandoned attempts, oldest first: the last 25.
    pub failures: Vec<JobFailure>,
    /// The output of a done job.
    #[serde(skip)]
    pub(crate) output: StoredOutput,
}

/// The output of a job, as far as it was read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum StoredOutput {
    /// The job has no output.
    #[default]
    Absent,
    Whole(Output),
    /// The job has an output that a list leaves out: a hundred jobs may have a hundred megabytes.
    LeftOut,
}

impl From<Option<Output>> for StoredOutput {
    fn from(output: Option<Output>) -> StoredOutput {
        output.map_or(StoredOutput::Absent, StoredOutput::Whole)
    }
}

impl JobInfo {
    /// Returns the output of a job that is done: the value of the last call of
    /// [`TaskContext::output`](crate::TaskContext::output). `None` if the job is not done, or has no output.
    ///
    /// ```
    /// use aside::jobs::JobInfo;
    /// use aside::Result;
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
    #[track_caller]
    pub fn output<T: for<'de> Deserialize<'de>>(&self) -> Result<Option<T>> {
        match &self.output {
            StoredOutput::Absent => Ok(None),
            StoredOutput::Whole(output) => {
                output.read().map(Some).map_err(|error| error.context(format!("job {}", self.id)))
            }
            StoredOutput::LeftOut => {
                let message = "a list of jobs leaves their outputs out: ask `Jobs::output` with the id";
                Err(Error::internal(format!("job {}: {message}", self.id)))
            }
        }
    }

    /// Returns the job as it is in a list.
    pub(crate) fn listed(mut self) -> JobInfo {
        let output = if self.output == StoredOutput::Absent { StoredOutput::Absent } else { StoredOutput::LeftOut };
        self.failures.iter_mut().for_each(|failure| failure.backtrace = None);
        JobInfo { output, ..self }
    }
}

impl fmt::Debug for JobInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let JobInfo { id, label, state, attempt, failures, .. } = self;
        write!(f, "job {id} {label} ({state}, attempt {attempt}) {failures:?}")
    }
}

/// A queue with its numbers of jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct QueueInfo {
    /// The name.
    pub name: String,
    /// The number of jobs that wait for a worker.
    pub waiting: u64,
    /// The number of jobs that run, in all processes.
    pub running: u64,
    /// True if no job of the queue is started until it is resumed.
    pub is_paused: bool,
    /// The time from which the oldest waiting job has waited; `None` if no job waits. Of a long queue with jobs of several
    /// priorities, at least the first hundred jobs are considered.
    pub oldest_at: Option<i64>,
}

impl QueueInfo {
    /// Returns the time for which the job that has waited longest has waited; zero if no job waits.
    pub(crate) fn latency(&self, now: Millis) -> Duration {
        self.oldest_at.map_or(Duration::ZERO, |at| Duration::from_millis(now.saturating_sub(at).max(0) as u64))
    }
}

/// Dead jobs with equal errors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FailureGroup {
    /// The name of the job type.
    pub(crate) name: String,
    /// The start of the message of the last failure, without its numbers: `order # not found`.
    pub(crate) error: String,
    /// The number of dead jobs.
    pub(crate) count: u64,
    /// The time when the newest of them died.
    pub(crate) last_at: Millis,
    /// The id of the job that died last.
    pub(crate) newest: u64,
}

/// The length of a group's error, in characters, and the length of the message that is considered.
const GROUPED_ERROR: usize = 200;
const GROUPED_MESSAGE: usize = 1_000;

/// Returns the start of a message [without its numbers](without_numbers), by which equal errors are grouped.
pub(crate) fn error_group(message: &str) -> String {
    let start: String = message.chars().take(GROUPED_MESSAGE).collect();
    without_numbers(&start).chars().take(GROUPED_ERROR).collect()
}

/// A process that runs jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WorkerInfo {
    pub(crate) id: String,
    /// The host name and the process id; `None` for a process of an earlier version.
    pub(crate) host: Option<String>,
    pub(crate) pid: Option<u32>,
    /// The time of its last heartbeat; `None` before the first one.
    pub(crate) heartbeat_at: Option<Millis>,
    /// The number of jobs that it runs.
    pub(crate) running: u64,
}

/// A schedule of [`Jobs::cron`](crate::Jobs::cron).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ScheduleInfo {
    /// The name, by which it is run now.
    pub(crate) name: String,
    /// The name and the label of the job.
    pub(crate) job: String,
    pub(crate) label: String,
    pub(crate) crontab: String,
    /// The last due time for which the job was enqueued.
    pub(crate) last: Option<Millis>,
    /// The next due time.
    pub(crate) next: Option<Millis>,
}

/// The number of jobs in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct JobCounts {
    /// The number of jobs that wait for a worker.
    pub waiting: u64,
    /// The number of jobs that are not due yet.
    pub scheduled: u64,
    /// The number of running jobs.
    pub running: u64,
    /// The number of done jobs that are not pruned yet.
    pub done: u64,
    /// The number of dead jobs.
    pub dead: u64,
    /// The number of dead jobs whose last attempt timed out.
    pub timed_out: u64,
    /// The number of dead jobs whose last attempt panicked.
    pub panicked: u64,
    /// The number of dead jobs that were abandoned because their process ended several times before they did.
    pub abandoned: u64,
    /// The number of cancelled jobs that are not pruned yet.
    pub cancelled: u64,
}

impl JobCounts {
    /// Returns the count of a state, to read or to set.
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

    /// Returns the count of dead jobs whose last failure is of this kind, if there is one.
    pub(crate) fn dead_of(&mut self, kind: FailureKind) -> Option<&mut u64> {
        match kind {
            FailureKind::Failed => None,
            FailureKind::TimedOut => Some(&mut self.timed_out),
            FailureKind::Panicked => Some(&mut self.panicked),
            FailureKind::Abandoned => Some(&mut self.abandoned),
        }
    }
}
