//! Tests of the recorder with an engine that fails: jobs in memory, behind faults that a test chooses.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::background::registry::Registry;
use crate::background::scope::{Scope, Values};
use crate::background::task_context::TaskContext;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::jobs::engine::{
    Abilities, ClaimRequest, Claimed, EndedAttempt, Engine, Enqueued, Entry, Exchanged, HeartbeatReply, HeldJob,
    Recovered, Retention, WorkerId,
};
use crate::jobs::facade::Jobs;
use crate::jobs::job::Job;
use crate::jobs::record::{FailureGroup, JobCounts, JobInfo, JobState, Millis, QueueInfo, WorkerInfo};
use crate::jobs::runner::JobRunner;
use crate::sync::{Notify, lock};

/// The longest wait of a test for an event.
const LONG: Duration = Duration::from_secs(30);

/// A fault of one call with outcomes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// The call fails and has no effect.
    Refused,
    /// The call has its effect, and its reply is lost.
    ReplyLost,
    /// The call panics and has no effect.
    Panic,
    /// The first outcome fails alone.
    FirstOutcome,
}

type Reply = (Vec<bool>, Vec<Claimed>);

/// The outcomes of a call, and its reply.
type LostCall = (Vec<EndedAttempt>, Reply);

#[derive(Clone)]
struct Faulty {
    memory: Arc<dyn Engine>,
    /// The faults of the next calls with outcomes.
    faults: Arc<Mutex<VecDeque<Fault>>>,
    /// A lost reply, with the outcomes of its call.
    lost: Arc<Mutex<Option<LostCall>>>,
    /// The largest number of jobs that were running in the engine after a call.
    most_running: Arc<AtomicUsize>,
}

impl Faulty {
    fn new(faults: impl IntoIterator<Item = Fault>) -> Faulty {
        let (lost, most_running) = Default::default();
        let faults = Arc::new(Mutex::new(faults.into_iter().collect()));
        Faulty { memory: Jobs::memory().engine, faults, lost, most_running }
    }

    fn call(&self, ended: &[EndedAttempt], claim: Option<ClaimRequest<'_>>, now: Millis) -> Result<Reply> {
        let Exchanged { recorded, claimed } = self.memory.exchange(ended, claim, now)?;
        let running = self.memory.counts()?.running as usize;
        self.most_running.fetch_max(running, Ordering::SeqCst);
        Ok((recorded.into_iter().collect::<Result<_>>()?, claimed?))
    }

    fn used_up(&self) -> bool {
        lock(&self.faults).is_empty() && lock(&self.lost).is_none()
    }
}

fn fault() -> Error {
    Error::internal("a fault of the test")
}

impl Engine for Faulty {
    fn exchange(&self, ended: &[EndedAttempt], claim: Option<ClaimRequest<'_>>, now: Millis) -> Result<Exchanged> {
        let reply = |(recorded, claimed): Reply| Exchanged {
            recorded: recorded.into_iter().map(Ok).collect(),
            claimed: Ok(claimed),
        };
        if let Some((of_lost, lost)) = lock(&self.lost).take() {
            assert_eq!(of_lost, ended, "a call without a reply is repeated with the same outcomes");
            return Ok(reply(lost));
        }
        let fault_now = if ended.is_empty() { None } else { lock(&self.faults).pop_front() };
        match fault_now {
            None => self.call(ended, claim, now).map(reply),
            Some(Fault::Refused) => Err(fault()),
            Some(Fault::Panic) => panic!("a panic of the test"),
            Some(Fault::ReplyLost) => {
                *lock(&self.lost) = Some((ended.to_vec(), self.call(ended, claim, now)?));
                Err(fault())
            }
            Some(Fault::FirstOutcome) => {
                let mut exchanged = reply(self.call(&ended[1..], claim, now)?);
                exchanged.recorded.insert(0, Err(fault()));
                Ok(exchanged)
            }
        }
    }

    fn describe(&self) -> String {
        self.memory.describe()
    }
    fn abilities(&self) -> Abilities {
        self.memory.abilities()
    }
    fn listen(&self, listener: &Arc<Notify>) -> Result<()> {
        self.memory.listen(listener)
    }
    fn enqueue(&self, jobs: Vec<Entry>, now: Millis) -> Result<Vec<Enqueued>> {
        self.memory.enqueue(jobs, now)
    }
    fn check(&self) -> Result<()> {
        self.memory.check()
    }
    fn join(&self) -> Result<WorkerId> {
        self.memory.join()
    }
    fn heartbeat(&self, worker: &WorkerId, held: &[HeldJob], now: Millis) -> Result<HeartbeatReply> {
        self.memory.heartbeat(worker, held, now)
    }
    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()> {
        self.memory.leave(worker, now)
    }
    fn recover(&self, lease: Duration, now: Millis) -> Result<Recovered> {
        self.memory.recover(lease, now)
    }
    fn next_due(&self) -> Result<Option<Millis>> {
        self.memory.next_due()
    }
    fn cancel(&self, id: u64, now: Millis) -> Result<Option<JobState>> {
        self.memory.cancel(id, now)
    }
    fn revive(&self, id: u64, now: Millis) -> Result<bool> {
        self.memory.revive(id, now)
    }
    fn discard(&self, id: u64) -> Result<bool> {
        self.memory.discard(id)
    }
    fn pause(&self, queue: &str, paused: bool) -> Result<()> {
        self.memory.pause(queue, paused)
    }
    fn paused(&self) -> Result<BTreeSet<String>> {
        self.memory.paused()
    }
    fn find(&self, id: u64) -> Result<Option<JobInfo>> {
        self.memory.find(id)
    }
    fn list(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
        self.memory.list(state, before, most)
    }
    fn of_trace(&self, trace: &str, most: usize) -> Result<Vec<JobInfo>> {
        self.memory.of_trace(trace, most)
    }
    fn counts(&self) -> Result<JobCounts> {
        self.memory.counts()
    }
    fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.memory.queues()
    }
    fn next_to_run(&self, queue: Option<&str>, most: usize) -> Result<Vec<JobInfo>> {
        self.memory.next_to_run(queue, most)
    }
    fn failure_groups(&self, most: usize) -> Result<Vec<FailureGroup>> {
        self.memory.failure_groups(most)
    }
    fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.memory.workers()
    }
    fn last_tick(&self, schedule: &str) -> Result<Option<Millis>> {
        self.memory.last_tick(schedule)
    }
    fn tick(&self, schedule: &str, due: Millis, job: Option<Entry>, now: Millis) -> Result<bool> {
        self.memory.tick(schedule, due, job, now)
    }
    fn prune(&self, keep: Retention, now: Millis) -> Result<usize> {
        self.memory.prune(keep, now)
    }
    fn clock_went_back(&self, now: Millis) -> Result<()> {
        self.memory.clock_went_back(now)
    }
    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}

/// A job that counts its runs, by the name of its test and its number.
#[derive(Serialize, Deserialize)]
struct Counted(String, u64);

static RUNS: Mutex<BTreeMap<(String, u64), usize>> = Mutex::new(BTreeMap::new());

impl Job for Counted {
    const NAME: &'static str = "counted";

    fn run(self, _task: &TaskContext) -> Result<()> {
        *lock(&RUNS).entry((self.0, self.1)).or_default() += 1;
        Ok(())
    }
}

/// Returns how often each job of that test has run.
fn runs(test: &str) -> Vec<usize> {
    lock(&RUNS).iter().filter(|((of, _), _)| of == test).map(|(_, runs)| *runs).collect()
}

fn scope() -> Scope {
    Scope::new(Registry::new(&Config::default()), Values::default())
}

fn jobs(engine: &Faulty, test: &str, many: u64) -> Jobs {
    let jobs = Jobs::on(engine.clone()).register::<Counted>().concurrency(4);
    jobs.enqueue_all((0..many).map(|number| Counted(test.to_owned(), number))).unwrap();
    jobs
}

fn until(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "it does not become true within {LONG:?}");
        std::thread::yield_now();
    }
}

/// Runs `many` jobs with these faults until all are done. Each must have run once, and never more than four at once.
fn each_job_runs_once(test: &str, many: u64, faults: &[Fault]) {
    let engine = Faulty::new(faults.iter().copied());
    let jobs = jobs(&engine, test, many);
    let runner = JobRunner::start(&jobs, scope()).unwrap();
    until(|| engine.counts().unwrap().done == many && engine.used_up());
    until(|| jobs.shared.running_jobs.all().is_empty());
    runner.leave();
    assert_eq!(runs(test), vec![1; many as usize]);
    assert!(engine.used_up());
    let most = engine.most_running.load(Ordering::SeqCst);
    let refused = faults.iter().filter(|fault| **fault == Fault::FirstOutcome).count();
    assert!(most <= 4 + refused, "{most} jobs were claimed for four slots");
}

#[test]
fn without_faults_each_job_runs_once_in_its_slots() {
    each_job_runs_once("none", 500, &[]);
}

#[test]
fn a_refused_call_is_repeated_and_loses_no_outcome() {
    each_job_runs_once("refused", 50, &[Fault::Refused; 3]);
}

#[test]
fn a_call_whose_reply_is_lost_is_repeated_with_the_same_outcomes() {
    each_job_runs_once("reply lost", 50, &[Fault::ReplyLost; 3]);
}

#[test]
fn an_outcome_that_the_engine_refuses_is_recorded_later_and_affects_no_other() {
    each_job_runs_once("first outcome", 50, &[Fault::FirstOutcome; 3]);
}

/// Regression: the claiming thread ended, and the jobs that had ended stayed running until the process ended.
#[test]
fn a_panic_in_the_claiming_thread_loses_no_outcome() {
    each_job_runs_once("panic", 50, &[Fault::Panic, Fault::Panic]);
}

#[test]
fn outcomes_that_cannot_be_recorded_at_a_shutdown_are_given_up_and_the_jobs_run_again() {
    let engine = Faulty::new([Fault::Refused; 1_000]);
    let jobs = jobs(&engine, "shutdown", 3);
    let runner = JobRunner::start(&jobs, scope()).unwrap();
    until(|| runs("shutdown") == [1, 1, 1] && lock(&engine.faults).len() < 1_000);
    assert_eq!(engine.counts().unwrap().running, 3, "an outcome that is not recorded belongs to a running job");
    runner.leave();
    assert!(jobs.shared.running_jobs.all().is_empty());
    assert_eq!(engine.counts().unwrap().waiting, 3);
    lock(&engine.faults).clear();
    let runner = JobRunner::start(&jobs, scope()).unwrap();
    until(|| engine.counts().unwrap().done == 3);
    runner.leave();
    assert_eq!(runs("shutdown"), [2, 2, 2]);
}

#[test]
fn an_outcome_that_is_not_recorded_is_in_the_heartbeats() {
    let engine = Faulty::new([Fault::Refused; 1_000]);
    let jobs = jobs(&engine, "heartbeat", 1);
    let runner = JobRunner::start(&jobs, scope()).unwrap();
    until(|| lock(&engine.faults).len() < 1_000);
    let held = jobs.shared.running_jobs.all();
    assert_eq!(held.len(), 1, "the lease of the job is renewed");
    lock(&engine.faults).clear();
    until(|| engine.counts().unwrap().done == 1);
    runner.leave();
}
