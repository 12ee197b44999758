//! One attempt of a job, from the claim to its outcome: it is run and then resolved, in the same way for every engine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use serde::Serialize;

use super::engine::{AttemptFailure, Claimed, EndedAttempt, LastValues, Resolution, ResolvedAttempt};
use super::facade::Jobs;
use super::job_config::{Kind, output_of};
use super::record::{FailureKind, Millis};
use super::running::{RunningJob, steps};
use crate::background::failure::{Failure, Outcome};
use crate::background::log_fields;
use crate::background::output::Output;
use crate::background::record::{Record, Stop};
use crate::background::registry::Registry;
use crate::background::retry::{AttemptEnd, EndTask, Retry, ScheduledRetry};
use crate::background::task_context::TaskContext;
use crate::bounds;
use crate::error::{Error, OrHere, Result};
use crate::isolate::{self, Call, Limits, Program, Target};
use crate::log_text::escape;
use crate::panics::{self, Panic};
use crate::sync::lock;

/// The first backoff before an outcome is reported again to an engine that has refused it; each is twice the one before.
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(50);
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Receives an attempt that has ended, and reports its outcome to the engine.
pub(super) type Report = Arc<dyn Fn(Ended) + Send + Sync>;

/// The longest stored message of a failure, in bytes.
const MAX_FAILURE_LEN: usize = 10_000;

/// The longest stored location, and the longest stored backtrace, in bytes.
const MAX_LOCATION_LEN: usize = 500;
const MAX_BACKTRACE_LEN: usize = 20_000;

/// The job that a task is an attempt of, attached to its [`TaskContext`].
#[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "only SQLite completes a job from within"))]
pub(super) struct JobRun {
    pub(super) jobs: Jobs,
    pub(super) id: u64,
    pub(super) token: u64,
    name: String,
    /// True if the job's own transaction has completed it.
    pub(super) is_committed: AtomicBool,
    output: Mutex<Option<Output>>,
}

impl JobRun {
    fn new(jobs: &Jobs, id: u64, token: u64, name: &str) -> Arc<JobRun> {
        let (jobs, name) = (jobs.clone(), name.to_owned());
        Arc::new(JobRun { jobs, id, token, name, is_committed: AtomicBool::new(false), output: Mutex::default() })
    }

    fn take_output(&self) -> Option<String> {
        lock(&self.output).take().map(|output| output.json().to_owned())
    }

    /// Returns the last progress and the output of the attempt.
    pub(super) fn last_values(&self, task: &Record) -> LastValues {
        LastValues { progress: Some(steps(task)), output: lock(&self.output).clone() }
    }
}

impl TaskContext {
    /// Returns the id of the job that this task is an attempt of; `None` for a task that is not a job.
    pub fn job(&self) -> Option<u64> {
        self.attached::<JobRun>().map(|run| run.id)
    }

    /// Sets the output of the job: a value that is kept with the job when it is done.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Job, Jobs, Result, TaskContext};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Count { text: String }
    ///
    /// impl Job for Count {
    ///     const NAME: &'static str = "count";
    ///
    ///     fn run(self, task: &TaskContext) -> Result<()> {
    ///         task.output(&self.text.split_whitespace().count())
    ///     }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// let client = TestClient::new(App::new().jobs(Jobs::memory().register::<Count>()));
    /// let id = client.jobs().enqueue(Count { text: "to be or not".into() })?.id;
    /// client.drain();
    /// assert_eq!(client.jobs().output::<usize>(id)?, Some(4));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`Jobs::output`](crate::Jobs::output) reads it, [`Jobs::wait`](crate::Jobs::wait) waits for the job, and the template
    /// of a page that [follows](crate::Jobs::follow) the job has it as `output`. It is kept for as long as the job is
    /// ([`Jobs::retention`](crate::Jobs::retention)), also when the job runs in a child process ([`Job::ISOLATED`](crate::Job::ISOLATED)).
    ///
    /// The last call counts. An attempt that fails leaves no output. The value is written as JSON, of at most 1 MiB: put what
    /// is larger into a file or a table, and its id into the output. With [`transaction`](TaskContext#method.transaction) the
    /// output is set before it or within it.
    ///
    /// # Errors
    /// An error if the value cannot be written as JSON, is too large or is nested more than 127 levels deep (the output that was
    /// set before remains), if the task is not a job, or if the job's transaction has already completed it.
    #[track_caller]
    pub fn output(&self, value: &impl Serialize) -> Result<()> {
        let run = self
            .attached::<JobRun>()
            .ok_or_else(|| {
                Error::internal(
                    "only a job has an output, and this task is not a job: return the value, and `join` the task",
                )
            })
            .or_here()?;
        if run.is_committed.load(Ordering::Acquire) {
            let message = "its transaction has completed it; set the output before the transaction, or within it";
            return Err(Error::internal(format!("the job `{}` can no longer set its output: {message}", run.name)));
        }
        *lock(&run.output) = Some(output_of(&run.name, value).or_here()?);
        Ok(())
    }
}

impl Jobs {
    /// Returns true if a job type with that name is registered.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.config.kind(name).is_some()
    }

    /// Runs the attempt of the job with that id and token, in a child process. Returns its output as JSON, if it has
    /// one.
    ///
    /// # Errors
    /// The failure of the attempt.
    pub(crate) fn run_isolated(
        &self,
        call: &Call,
        (id, token): (u64, u64),
        payload: &str,
        task: &TaskContext,
    ) -> Outcome<Option<String>> {
        let run = JobRun::new(self, id, token, &call.name);
        let task = task.attach(call.attempt, run.clone());
        match self.config.kind(&call.name) {
            Some(kind) => kind.call(payload, &task).map(|()| run.take_output()),
            None => {
                let message = format!("no job `{}` is registered in this program", call.name);
                Err(Failure::Error(Error::internal(message)))
            }
        }
    }
}

/// A claimed attempt. If it is dropped before it has run, the job is released or cancelled.
pub(super) struct Attempt {
    jobs: Jobs,
    claimed: Claimed,
    running_job: Arc<RunningJob>,
    registry: Registry,
    report: Report,
    run: Arc<JobRun>,
    has_ended: bool,
}

impl Attempt {
    pub(super) fn new(
        jobs: &Jobs,
        claimed: Claimed,
        running_job: Arc<RunningJob>,
        registry: &Registry,
        report: &Report,
    ) -> Attempt {
        let run = JobRun::new(jobs, claimed.id, claimed.token, &claimed.name);
        let (jobs, registry, report) = (jobs.clone(), registry.clone(), report.clone());
        Attempt { jobs, claimed, running_job, registry, report, run, has_ended: false }
    }

    /// Runs the attempt. The task ends when its outcome is recorded.
    pub(super) fn run(self, task: &TaskContext) -> AttemptEnd<()> {
        let task = task.attach(self.claimed.attempt, self.run.clone());
        let outcome = panics::catch(|| self.call(&task)).unwrap_or_else(|panic| Err(Failure::Panic(panic)));
        let outcome = match outcome {
            Err(Failure::Cancelled) if task.record().stop_reason() == Some(Stop::Deadline) => Err(Failure::TimedOut),
            other => other,
        };
        let (resolution, retry_wait) = self.resolution(&outcome);
        let resolved = Arc::new(self.resolved_attempt(resolution));
        AttemptEnd::Later(Box::new(move |end_task| {
            let report = self.report.clone();
            report(Ended::new(self, resolved, outcome, retry_wait, end_task));
        }))
    }

    fn call(&self, task: &TaskContext) -> Outcome<()> {
        let Some(kind) = self.kind() else {
            let message = format!("no job `{}` is registered in this program", self.claimed.name);
            return Err(Failure::Error(Error::internal(message)));
        };
        match &kind.isolated {
            // The program of a test cannot be started a second time as the application.
            Some(limits) if !self.jobs.is_test_driven() => {
                let call = self.isolated_call(*limits);
                let output = isolate::run_once(&Program::own(), &call, &self.claimed.payload, task)?;
                *lock(&self.run.output) = output.map(Output::from_json);
                Ok(())
            }
            _ => kind.call(&self.claimed.payload, task),
        }
    }

    /// Returns the attempt as a call in a child process.
    fn isolated_call(&self, limits: Limits) -> Call {
        let Claimed { id, token, name, label, attempt, .. } = self.claimed.clone();
        let lineage = self.running_job.record().lineage_within().texts();
        Call { target: Target::Job { id, token }, name, attempt, label, lineage, limits }
    }

    fn kind(&self) -> Option<&Kind> {
        self.jobs.config.kind(&self.claimed.name)
    }

    /// Returns the outcome to report, and the backoff before the next attempt if there is one.
    fn resolution(&self, outcome: &Outcome<()>) -> (Resolution, Option<Duration>) {
        let failure = match outcome {
            Ok(()) => return (Resolution::Done, None),
            Err(Failure::Cancelled) => return (self.cancelled(), None),
            Err(failure) => failure,
        };
        let wait = match failure {
            Failure::TimedOut => self.retry().wait(self.claimed.attempt),
            other => self.retry().wait_after(self.claimed.attempt, other),
        };
        let failure = stored(failure);
        match wait {
            // The failure may come from the cancellation, so the job is not retried.
            Some(_) if self.running_job.is_cancelled() => (Resolution::Cancelled { failure: Some(failure) }, None),
            Some(wait) => (Resolution::Retry { wait: wait.as_millis() as Millis, failure }, Some(wait)),
            None => (Resolution::Dead { failure }, None),
        }
    }

    /// Returns the outcome of an attempt that was dropped unresolved. An attempt that never began counts as cancelled. An
    /// attempt whose end panicked has failed and is retried like any other.
    fn resolution_of_dropped(&self) -> Resolution {
        if !thread::panicking() {
            return self.cancelled();
        }
        let message = "its end panicked, and the outcome is unknown".to_owned();
        self.resolution(&Err(Failure::Panic(Panic { message, location: None, trace: None }))).0
    }

    /// Returns the outcome of a cancelled attempt: cancelled by a user, or released because the process stops.
    fn cancelled(&self) -> Resolution {
        let stops_with_the_process = self.registry.is_closing() && !self.running_job.is_cancelled();
        if stops_with_the_process { Resolution::Released } else { Resolution::Cancelled { failure: None } }
    }

    fn retry(&self) -> Retry {
        self.jobs.config.retry(&self.claimed.name)
    }

    fn resolved_attempt(&self, resolution: Resolution) -> ResolvedAttempt {
        let progress = self.running_job.held().progress;
        let last_values = LastValues { progress, ..self.run.last_values(self.running_job.record()) };
        ResolvedAttempt { resolution, last_values }
    }

    fn warn(&self, what: &str) {
        self.log(Level::Warn, what);
    }

    fn log(&self, level: Level, what: &str) {
        let line = format!("Job {} ({}) {what}", self.claimed.id, self.claimed.label);
        let record = self.running_job.record();
        log_fields::log("aside::jobs", level, &record.log_fields(), format_args!("{}", escape(&line)));
    }
}

/// Reports the outcome of a task that never started (it was cancelled, or the process stopped), or whose end panicked.
impl Drop for Attempt {
    fn drop(&mut self) {
        if self.has_ended {
            return self.jobs.shared.running_jobs.remove(&self.running_job);
        }
        let resolved = self.resolved_attempt(self.resolution_of_dropped());
        let result = self.jobs.engine.resolve(self.claimed.id, self.claimed.token, resolved, self.jobs.now());
        if let Err(error) = result {
            self.warn(&format!("could not be released and waits until its lease expires: {}", error.chain()));
        }
        self.jobs.shared.running_jobs.remove(&self.running_job);
        self.jobs.shared.follow.poll();
        self.jobs.shared.changed.notify();
    }
}

/// An attempt that has ended, and whose outcome is not recorded yet.
pub(super) struct Ended {
    attempt: Attempt,
    resolved: Arc<ResolvedAttempt>,
    outcome: Outcome<()>,
    /// The backoff before the next attempt, if there is one.
    retry_wait: Option<Duration>,
    end_task: EndTask<()>,
    /// The wait before the engine is called again, after it has refused the outcome.
    refused_wait: Duration,
    is_failure_logged: bool,
}

impl Ended {
    fn new(
        mut attempt: Attempt,
        resolved: Arc<ResolvedAttempt>,
        outcome: Outcome<()>,
        retry_wait: Option<Duration>,
        end_task: EndTask<()>,
    ) -> Ended {
        attempt.has_ended = true;
        let (refused_wait, is_failure_logged) = (FIRST_WAIT, false);
        Ended { attempt, resolved, outcome, retry_wait, end_task, refused_wait, is_failure_logged }
    }

    /// Returns the outcome as the engine records it.
    pub(super) fn outcome(&self) -> EndedAttempt {
        let Claimed { id, token, .. } = self.attempt.claimed;
        EndedAttempt { id, token, resolved: self.resolved.clone() }
    }

    pub(super) fn output_len(&self) -> usize {
        self.resolved.output().map_or(0, |output| output.json().len())
    }

    /// Records that the outcome is reported now, so that the claim of the same call takes the slot of the job.
    pub(super) fn mark_recording(&self) {
        self.attempt.running_job.mark_recording();
    }

    /// Logs that the outcome could not be recorded, once.
    pub(super) fn log_failure(&mut self, error: &Error) {
        if !std::mem::replace(&mut self.is_failure_logged, true) {
            self.attempt.warn(&format!("could not be resolved; retrying: {}", error.chain()));
        }
    }

    /// Handles an outcome that the engine has refused. Returns the time when it is to be reported again.
    pub(super) fn refuse(&mut self, error: &Error) -> Instant {
        self.log_failure(error);
        self.attempt.running_job.mark_refused();
        let at = Instant::now() + self.refused_wait;
        self.refused_wait = (self.refused_wait * 2).min(LONGEST_WAIT);
        at
    }

    /// Gives up on the outcome, since the process stops.
    pub(super) fn give_up(self, error: &Error) {
        self.attempt.warn(&format!("could not be resolved and will run again: {}", error.chain()));
        self.end_task(false);
    }

    /// Ends the task of a recorded outcome. `is_ours` is false if the attempt was no longer current.
    pub(super) fn end(self, is_ours: bool) {
        if !is_ours {
            self.attempt.warn(match self.attempt.running_job.is_forgotten() {
                true => "was lost by the job store; its outcome here is not recorded",
                false => "was given to another worker; its outcome here is discarded",
            });
        }
        self.end_task(is_ours);
    }

    fn end_task(self, is_ours: bool) {
        let Ended { attempt, resolved, outcome, retry_wait, end_task, .. } = self;
        attempt.jobs.shared.running_jobs.remove(&attempt.running_job);
        if is_ours && matches!(resolved.resolution, Resolution::Released) {
            attempt.log(Level::Info, "is released, since the process stops; it runs again here or in another process");
        }
        let end = match (outcome, retry_wait.filter(|_| is_ours)) {
            (Err(failure), _) if attempt.run.is_committed.load(Ordering::Acquire) => {
                attempt
                    .warn(&format!("{} after its transaction had completed it: it counts as done", failure.verdict()));
                AttemptEnd::Ended(Err(failure))
            }
            (Err(failure), Some(wait)) => {
                let (attempt, attempts) = (attempt.claimed.attempt, attempt.retry().attempts());
                AttemptEnd::Retrying(failure, ScheduledRetry { attempt, attempts, wait })
            }
            (Err(failure), None) if is_ours && matches!(resolved.resolution, Resolution::Dead { .. }) => {
                AttemptEnd::Dead(failure, attempt.claimed.attempt)
            }
            (outcome, _) => AttemptEnd::Ended(outcome),
        };
        end_task(end);
    }
}

fn kind(failure: &Failure) -> FailureKind {
    match failure {
        Failure::TimedOut => FailureKind::TimedOut,
        Failure::Panic(_) => FailureKind::Panicked,
        Failure::Abandoned => FailureKind::Abandoned,
        Failure::Error(_) | Failure::Cancelled => FailureKind::Failed,
    }
}

/// Returns the part of a failure that is stored.
fn stored(failure: &Failure) -> AttemptFailure {
    let limited = |text: &str, most| bounds::shorten(text, most).into_owned();
    let location = failure.panic().map_or_else(|| failure.location(), |panic| panic.location.clone());
    AttemptFailure {
        kind: kind(failure),
        message: limited(&failure.to_string(), MAX_FAILURE_LEN),
        location: location.map(|location| limited(&location, MAX_LOCATION_LEN)),
        backtrace: failure.trace().map(|trace| limited(trace.text(), MAX_BACKTRACE_LEN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::lineage::Lineage;
    use crate::background::record::Identity;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;
    use crate::jobs::engine::Capacity;
    use crate::jobs::job::tests::Quick;
    use crate::jobs::record::JobState;

    /// Returns the state of a job whose attempt was dropped by `drop_attempt` before it ran.
    fn state_after(drop_attempt: impl FnOnce(Attempt)) -> JobState {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::memory().register::<Quick>();
        let id = jobs.enqueue(Quick).unwrap().id;
        let me = jobs.engine.join().unwrap();
        let capacities = [Capacity { queue: "default".to_owned(), free: 1 }];
        let claimed = jobs.engine.claim(&me, &capacities, jobs.now()).unwrap().pop().unwrap();
        let running_job =
            jobs.shared.running_jobs.add(&claimed, scope.registry().enter(Identity::test("quick"), Lineage::default()));
        let report: Report = Arc::new(drop);
        drop_attempt(Attempt::new(&jobs, claimed, running_job, scope.registry(), &report));
        jobs.find(id).unwrap().unwrap().state
    }

    #[test]
    fn an_attempt_whose_end_panics_is_retried_and_one_that_never_began_is_cancelled() {
        assert_eq!(state_after(drop), JobState::Cancelled);
        let panicked = state_after(|attempt| {
            let ended: Result<(), Panic> = panics::catch(move || {
                let _attempt = attempt;
                panic!("while it is resolved")
            });
            assert!(ended.is_err());
        });
        assert_eq!(panicked, JobState::Scheduled);
    }
}
