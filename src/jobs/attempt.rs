//! One try of a job, from a worker's hand to what came of it: run, then settle, in this one place for every engine.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::engine::{Claimed, End, Ending, Last};
use super::facade::Jobs;
use super::job_config::{Kind, output_of};
use super::record::{Cause, Millis};
use super::running::{InHand, steps};
use crate::background::failure::{Failure, Outcome};
use crate::background::output::Output;
use crate::background::registry::{Record, Registry, Stop, escape};
use crate::background::task::{Retry, TaskContext};
use crate::bounds;
use crate::error::{Error, Result};
use crate::isolate::{self, Call, Limits, Program, Target};
use crate::panics::{self, Panic};
use crate::sync::lock;

/// The longest wait until what came of a try is said again to an engine that cannot be reached.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The longest stored failure, in bytes.
const MOST_WORDS: usize = 10_000;

/// The job that a task is a try of, as [`TaskContext`] knows it.
#[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "only SQLite completes a job from within"))]
pub(super) struct JobRun {
    pub(super) jobs: Jobs,
    pub(super) id: u64,
    pub(super) token: u64,
    name: String,
    /// It was completed together with its own writes.
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

    /// What it leaves if it ends now.
    pub(super) fn last(&self, task: &Record) -> Last {
        Last { progress: Some(steps(task)), output: lock(&self.output).clone() }
    }
}

impl TaskContext {
    /// The number of the job that this is a try of; none for a task that is no job.
    pub fn job(&self) -> Option<u64> {
        self.attached::<JobRun>().map(|run| run.id)
    }

    /// Sets the output of the job: a value that is kept with the job when it is done, for whoever asks for it.
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
    pub fn output(&self, value: &impl Serialize) -> Result<()> {
        let run = self.attached::<JobRun>().ok_or_else(|| {
            Error::internal(
                "only a job has an output, and this task is not a job: return the value, and `join` the task",
            )
        })?;
        if run.is_committed.load(Ordering::Acquire) {
            let words = "its transaction has already completed it: set the output before the transaction, or within it";
            return Err(Error::internal(format!("the job `{}` takes no output any more: {words}", run.name)));
        }
        *lock(&run.output) = Some(output_of(&run.name, value)?);
        Ok(())
    }
}

impl Jobs {
    /// Returns true if a type of jobs of that name is registered.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.plan.kind(name).is_some()
    }

    /// In a child, runs the attempt of the job of that id and token. Returns its output, which is JSON, if it has one.
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
        match self.plan.kind(&call.name) {
            Some(kind) => kind.call(payload, &task).map(|()| run.take_output()),
            None => {
                let words = format!("no job `{}` is registered in this program", call.name);
                Err(Failure::Error(Error::internal(words)))
            }
        }
    }
}

/// A try that a worker has in its hands. One that is dropped without having been run gives the job back.
pub(super) struct Attempt {
    jobs: Jobs,
    claimed: Claimed,
    hand: Arc<InHand>,
    registry: Registry,
    run: Arc<JobRun>,
    is_settled: bool,
}

impl Attempt {
    pub(super) fn new(jobs: &Jobs, claimed: Claimed, hand: Arc<InHand>, registry: &Registry) -> Attempt {
        let run = JobRun::new(jobs, claimed.id, claimed.token, &claimed.name);
        Attempt { jobs: jobs.clone(), claimed, hand, registry: registry.clone(), run, is_settled: false }
    }

    /// Does it, and says what came of it.
    pub(super) fn run(&mut self, task: &TaskContext) -> Outcome<()> {
        let task = task.attach(self.claimed.attempt, self.run.clone());
        let outcome = panics::catch(|| self.call(&task)).unwrap_or_else(|panic| Err(Failure::Panic(panic)));
        self.conclude(&task, outcome)
    }

    fn call(&self, task: &TaskContext) -> Outcome<()> {
        let Some(kind) = self.kind() else {
            let words = format!("no job `{}` is registered in this program", self.claimed.name);
            return Err(Failure::Error(Error::internal(words)));
        };
        match &kind.isolated {
            // A test's program is no application that could be started once more.
            Some(limits) if !self.jobs.is_by_hand() => {
                let call = self.isolated_call(*limits);
                let output = isolate::run_once(&Program::own(), &call, &self.claimed.payload, task)?;
                *lock(&self.run.output) = output.map(Output::from_json);
                Ok(())
            }
            _ => kind.call(&self.claimed.payload, task),
        }
    }

    /// The attempt as a call in a child.
    fn isolated_call(&self, limits: Limits) -> Call {
        let Claimed { id, token, name, label, attempt, origin, .. } = self.claimed.clone();
        Call { target: Target::Job { id, token }, name, attempt, label, origin, limits }
    }

    fn kind(&self) -> Option<&Kind> {
        self.jobs.plan.kind(&self.claimed.name)
    }

    fn conclude(&mut self, task: &TaskContext, outcome: Outcome<()>) -> Outcome<()> {
        let outcome = match outcome {
            Err(Failure::Cancelled) if task.record().stop_reason() == Some(Stop::Deadline) => Err(Failure::TimedOut),
            other => other,
        };
        let (end, wait) = self.end(&outcome);
        let is_ours = self.settle(end);
        if let Err(failure) = &outcome {
            self.say(task, failure, wait.filter(|_| is_ours));
        }
        outcome
    }

    /// Logs a failure that the task's own end does not tell of.
    fn say(&self, task: &TaskContext, failure: &Failure, wait: Option<Duration>) {
        if self.run.is_committed.load(Ordering::Acquire) {
            self.warn(&format!("{} after its transaction had completed it: it counts as done", failure.verdict()));
        } else if let Some(wait) = wait {
            self.registry.end_try(task.record(), failure, (self.claimed.attempt, self.retry().tries()), wait);
        }
    }

    /// What a try came to, and the wait for the next when there is one.
    fn end(&self, outcome: &Outcome<()>) -> (End, Option<Duration>) {
        let failure = match outcome {
            Ok(()) => return (End::Done, None),
            Err(Failure::Cancelled) => return (self.cancelled(), None),
            Err(failure) => failure,
        };
        let words = words(&failure.to_string());
        let wait = match failure {
            Failure::TimedOut => self.retry().wait(self.claimed.attempt),
            other => self.retry().wait_after(self.claimed.attempt, other),
        };
        match wait {
            // Told to cancel, and failed of it perhaps: it is not to be tried again.
            Some(_) if self.hand.is_cancelled() => (End::Cancelled { words: Some(words) }, None),
            Some(wait) => (End::Retry { wait: wait.as_millis() as Millis, words }, Some(wait)),
            None => (End::Dead { words, cause: cause(failure) }, None),
        }
    }

    /// Returns the outcome of an attempt that was dropped unresolved. An attempt that never began counts as cancelled. An
    /// attempt whose end panicked has failed and is retried like any other.
    fn end_unsettled(&self) -> End {
        if !thread::panicking() {
            return self.cancelled();
        }
        let message = "its end panicked, and the outcome is unknown".to_owned();
        self.end(&Err(Failure::Panic(Panic { message, place: None, backtrace: None }))).0
    }

    /// Cancelled by somebody, or told to stop because the process does.
    fn cancelled(&self) -> End {
        let stops_with_the_process = self.registry.is_closing() && !self.hand.is_cancelled();
        if stops_with_the_process { End::Released } else { End::Cancelled { words: None } }
    }

    fn retry(&self) -> Retry {
        self.kind().map_or_else(|| Retry::exponential(20, Duration::from_secs(60)), |kind| kind.retry.clone())
    }

    /// Says what came of it until somebody listens. Whether it was still ours to say.
    ///
    /// An engine that cannot be reached must not make a job that is done run again: the thread waits for it, and the lease is
    /// renewed when it is back. Only a process that stops gives up; then the job runs again elsewhere.
    fn settle(&mut self, end: End) -> bool {
        self.is_settled = true;
        self.hand.ends();
        self.jobs.shared.changed.notify();
        let ending = self.ending(end);
        let (mut wait, mut is_said) = (Duration::from_millis(50), false);
        loop {
            match self.jobs.engine.settle(self.claimed.id, self.claimed.token, ending.clone(), self.jobs.now()) {
                Ok(true) => return self.let_go(true),
                Ok(false) => {
                    self.warn(match self.hand.is_forgotten() {
                        true => "was lost by the job store; its outcome here is not recorded",
                        false => "was given to another worker; its outcome here is discarded",
                    });
                    return self.let_go(false);
                }
                Err(error) if self.registry.is_closing() => {
                    self.warn(&format!("cannot be settled, and will run again: {}", error.chain()));
                    return self.let_go(false);
                }
                Err(error) => {
                    // Once: an engine that is away for an hour is told of by the worker.
                    if !std::mem::replace(&mut is_said, true) {
                        self.warn(&format!("cannot be settled now, and is tried again: {}", error.chain()));
                    }
                    thread::sleep(wait);
                    wait = (wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }

    fn ending(&self, end: End) -> Ending {
        Ending { end, last: self.run.last(self.hand.record()) }
    }

    fn let_go(&self, is_ours: bool) -> bool {
        self.jobs.shared.hands.let_go(&self.hand);
        self.jobs.shared.follow.look();
        self.jobs.shared.changed.notify();
        is_ours
    }

    fn warn(&self, what: &str) {
        let line = format!("Job {} ({}) {what}", self.claimed.id, self.claimed.label);
        log::warn!(target: "aside::jobs", "{}", escape(&line));
    }
}

/// The task never began, because it was cancelled or the process stopped; or its end panicked.
impl Drop for Attempt {
    fn drop(&mut self) {
        if self.is_settled {
            return;
        }
        let ending = self.ending(self.end_unsettled());
        let settled = self.jobs.engine.settle(self.claimed.id, self.claimed.token, ending, self.jobs.now());
        if let Err(error) = settled {
            self.warn(&format!("cannot be given back, and waits for its lease to end: {}", error.chain()));
        }
        self.let_go(true);
    }
}

fn cause(failure: &Failure) -> Cause {
    match failure {
        Failure::TimedOut => Cause::TimedOut,
        Failure::Panic(_) => Cause::Panicked,
        Failure::Abandoned => Cause::Abandoned,
        Failure::Error(_) | Failure::Cancelled => Cause::Failed,
    }
}

/// What is kept of a failure.
fn words(all: &str) -> String {
    bounds::shorten(all, MOST_WORDS).into_owned()
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;
    use crate::jobs::engine::Room;
    use crate::jobs::job::Job;
    use crate::jobs::record::JobState;

    #[derive(Serialize, Deserialize)]
    struct Quick;

    impl Job for Quick {
        const NAME: &'static str = "quick";

        fn run(self, _task: &TaskContext) -> crate::error::Result<()> {
            Ok(())
        }
    }

    /// Returns the state of a job whose attempt was dropped in that way before it ran.
    fn state_after(let_go: impl FnOnce(Attempt)) -> JobState {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::memory().register::<Quick>();
        let id = jobs.enqueue(Quick).unwrap().id;
        let me = jobs.engine.join().unwrap();
        let rooms = [Room { queue: "default".to_owned(), free: 1 }];
        let claimed = jobs.engine.claim(&me, &rooms, jobs.now()).unwrap().pop().unwrap();
        let hand = jobs.shared.hands.take(&claimed, scope.registry().enter("quick".to_owned(), None, None));
        let_go(Attempt::new(&jobs, claimed, hand, scope.registry()));
        jobs.find(id).unwrap().unwrap().state
    }

    #[test]
    fn an_attempt_whose_end_panics_is_retried_and_one_that_never_began_is_cancelled() {
        assert_eq!(state_after(drop), JobState::Cancelled);
        let panicked = state_after(|attempt| {
            let ended: Result<(), Panic> = panics::catch(move || {
                let _attempt = attempt;
                panic!("while it is settled")
            });
            assert!(ended.is_err());
        });
        assert_eq!(panicked, JobState::Scheduled);
    }
}
