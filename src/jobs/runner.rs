//! The job runner of a process: one thread that claims jobs and records their outcomes, one that sends heartbeats, and a task for each job.

use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::attempt::{Attempt, Report};
use super::engine::{CLOCK_SLACK, Capacity, ClaimRequest, Claimed, HeldJob, Recovered, WorkerId};
use super::facade::{Jobs, Moment};
use super::outage_log::{LONGEST_WAIT, OutageLog, log_failure};
use super::record::{JobInfo, Millis};
use super::recorder::{Outcomes, Recorder};
use super::running::RunningJob;
use crate::background::failure::Failure;
use crate::background::handle::TaskHandle;
use crate::background::lineage::LineageTexts;
use crate::background::retry::AttemptEnd;
use crate::background::run::{Prepared, call_once};
use crate::background::scope::{Context, Scope};
use crate::background::slots::Admission;
use crate::background::task::Task;
use crate::background::task_context::TaskContext;
use crate::error::{Error, Result};
use crate::panics;
use crate::sync::{Notify, lock};

/// The longest wait of the claiming thread: the wall clock may be changed during the wait.
const MAX_CLAIM_WAIT: Duration = LONGEST_WAIT;

/// The interval between two checks for expired leases, and between two heartbeats while jobs run.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The interval between two observations of the queues.
const OBSERVE_INTERVAL: Duration = Duration::from_secs(10);

/// The interval between two prunings.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);

impl Jobs {
    /// Runs all jobs where they are enqueued, from now on, for a test.
    pub(crate) fn run_inline(&self) {
        self.run_where_enqueued(|jobs| {
            while jobs.run_next()?.is_some() {}
            Ok(())
        });
    }

    /// Enqueues the jobs of schedules that are due, for a test. The first call starts the schedules, for times from then on.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(crate) fn enqueue_scheduled(&self) -> Result<()> {
        JobRunner::test_driven(self, self.scope()).tick().map(drop)
    }

    /// Runs the next job that is due, for a test, and returns it with its outcome.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(crate) fn run_next(&self) -> Result<Option<JobInfo>> {
        self.for_tests();
        JobRunner::test_driven(self, self.scope()).run_next()
    }
}

/// The job runner of a process.
pub(crate) struct JobRunner {
    jobs: Jobs,
    scope: Scope,
    worker_id: Mutex<Option<WorkerId>>,
    /// The time when the next scheduled job of a crontab is due, if it is known.
    next_tick: Mutex<Option<Millis>>,
    is_stopping: AtomicBool,
    /// True when the claiming thread is to end.
    is_leaving: AtomicBool,
    recorder: Arc<Recorder>,
    report: Report,
    /// Notified when the runner stops.
    stop: Notify,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl JobRunner {
    /// Starts to run jobs. Must be called from a thread of normal priority.
    ///
    /// # Errors
    /// An error if a thread cannot be started.
    pub(crate) fn start(jobs: &Jobs, scope: Scope) -> Result<Arc<JobRunner>> {
        let runner = Arc::new(JobRunner::new(jobs, scope));
        jobs.engine.listen(&jobs.shared.changed)?;
        let mut outage = OutageLog::default();
        if let Err(error) = runner.join() {
            outage.failed(&error);
        }
        runner.recorder.open();
        let (claiming, beating) = (runner.clone(), runner.clone());
        runner.spawn("aside-jobs", move || claiming.claim_loop())?;
        runner.spawn("aside-jobs-beat", move || beating.heartbeat_loop(outage))?;
        Ok(runner)
    }

    /// Registers this process with the engine. If the engine is unreachable, pages are served and the registration is
    /// retried.
    fn join(&self) -> Result<()> {
        let (jobs, engine) = (&self.jobs, &self.jobs.engine);
        engine.clock_went_back(jobs.now())?;
        self.recover()?;
        // Schedules count from this call on, and not from the first turn of a thread.
        self.tick()?;
        *lock(&self.worker_id) = Some(engine.join()?);
        jobs.shared.changed.notify();
        Ok(())
    }

    fn has_joined(&self) -> bool {
        lock(&self.worker_id).is_some()
    }

    /// Creates a runner that a test drives.
    pub(super) fn test_driven(jobs: &Jobs, scope: Scope) -> Arc<JobRunner> {
        Arc::new(JobRunner::new(jobs, scope))
    }

    fn new(jobs: &Jobs, scope: Scope) -> JobRunner {
        let recorder: Arc<Recorder> = Arc::default();
        let (of_report, jobs_of_report, registry) = (recorder.clone(), jobs.clone(), scope.registry().clone());
        JobRunner {
            jobs: jobs.clone(),
            scope,
            worker_id: Mutex::default(),
            next_tick: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
            recorder,
            report: Arc::new(move |ended| of_report.add(ended, &jobs_of_report, &registry)),
            stop: Notify::default(),
            threads: Mutex::default(),
        }
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Stops claiming jobs. Running jobs continue, and their outcomes are recorded.
    pub(crate) fn stop_claiming(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.jobs.shared.changed.notify();
    }

    /// Releases the jobs that still run, and stops the threads. To be called after the tasks were drained.
    pub(crate) fn leave(&self) {
        self.is_leaving.store(true, Ordering::Release);
        self.stop_claiming();
        self.stop.notify();
        lock(&self.threads).drain(..).for_each(|thread| drop(thread.join()));
        let Some(worker_id) = lock(&self.worker_id).take() else { return };
        if let Err(error) = self.jobs.engine.leave(&worker_id, self.jobs.now()) {
            log_failure("Could not release the running jobs; they are recovered when their lease expires", &error);
        }
    }

    fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::Acquire)
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// The loop of the claiming thread. It records outcomes until the end of the runner.
    fn claim_loop(self: &Arc<JobRunner>) {
        let (mut outage, mut seen, mut outcomes) = (OutageLog::default(), 0, Outcomes::default());
        while !self.is_leaving() {
            let wait = match contained(|| self.claim_round(&mut outcomes, &mut seen)) {
                Ok(wait) => outage.recovered(wait),
                Err(error) => outage.failed(&error),
            };
            // The round may have seen the notification of the end.
            if !self.is_leaving() {
                self.jobs.shared.changed.wait_as(&mut seen, wait);
            }
        }
        outcomes.take_last(self.recorder.close());
        while outcomes.prepare(&self.recorder) {
            // An outcome that cannot be recorded now is logged and given up.
            if let Err(error) = contained(|| self.exchange(&mut outcomes, &[])) {
                outcomes.give_up(&error);
            }
        }
    }

    /// Records outcomes, and claims and starts as many jobs as can run now. Returns the time until there may be more to do.
    /// What it has seen of the notifications is handled when it returns.
    fn claim_round(self: &Arc<JobRunner>, outcomes: &mut Outcomes, seen: &mut u64) -> Result<Duration> {
        let mut due = None;
        loop {
            outcomes.gather(&self.recorder, &self.jobs.shared.changed, seen);
            let has_outcomes = outcomes.prepare(&self.recorder);
            let capacities = self.capacities();
            if !has_outcomes && (capacities.is_empty() || due.is_some()) {
                break;
            }
            let claimed = self.exchange(outcomes, &capacities)?;
            due = if claimed == 0 && !capacities.is_empty() { Some(self.jobs.engine.next_due()?) } else { None };
        }
        // Without capacity, no job can start before a running one has ended, which notifies the listener.
        let next_tick = if self.claims() { self.tick()? } else { None };
        let wait = self.until([due.flatten(), next_tick]);
        Ok(outcomes.wait().map_or(wait, |refused| refused.min(wait)))
    }

    /// Reports outcomes and claims jobs in one call, and starts these. Returns their number.
    fn exchange(&self, outcomes: &mut Outcomes, capacities: &[Capacity]) -> Result<usize> {
        let worker_id = lock(&self.worker_id).clone();
        let claim = worker_id.as_ref().map(|worker| ClaimRequest { worker, capacities });
        let (stops, mut claimed) = (self.scope.registry().is_closing() || self.is_leaving(), 0);
        outcomes.exchange(&self.jobs, claim, stops, |job| {
            claimed += 1;
            drop(self.start_attempt(job));
        })?;
        Ok(claimed)
    }

    /// Returns true if the runner claims jobs now.
    fn claims(&self) -> bool {
        self.has_joined() && !self.is_stopping()
    }

    /// Returns the time until the earliest of these times, at most [`MAX_CLAIM_WAIT`].
    fn until(&self, times: [Option<Millis>; 2]) -> Duration {
        let next = times.into_iter().flatten().min();
        let wait = next
            .map_or(MAX_CLAIM_WAIT, |next| Duration::from_millis(next.saturating_sub(self.jobs.now()).max(0) as u64));
        wait.min(MAX_CLAIM_WAIT)
    }

    /// Enqueues the jobs of schedules that are due. Returns the time when the next one is due.
    fn tick(&self) -> Result<Option<Millis>> {
        let mut next_tick = lock(&self.next_tick);
        let (engine, now) = (&*self.jobs.engine, self.jobs.now());
        if next_tick.is_none_or(|next| next <= now) {
            let next = self.jobs.config.schedules.iter().map(|schedule| schedule.tick(engine, now));
            *next_tick = next.collect::<Result<Vec<_>>>()?.into_iter().min();
        }
        Ok(*next_tick)
    }

    /// Returns the free slots of each queue; none if the runner does not claim jobs now.
    fn capacities(&self) -> Vec<Capacity> {
        if !self.claims() {
            return Vec::new();
        }
        let capacity = |(queue, most): (&str, usize)| {
            let free = most.saturating_sub(self.jobs.shared.running_jobs.slots_taken(queue));
            Capacity { queue: queue.to_owned(), free }
        };
        self.jobs.config.queues().into_iter().map(capacity).filter(|capacity| capacity.free > 0).collect()
    }

    fn claim(&self, capacities: &[Capacity]) -> Result<Vec<Claimed>> {
        let Some(worker_id) = lock(&self.worker_id).clone() else { return Ok(Vec::new()) };
        self.jobs.engine.claim(&worker_id, capacities, self.jobs.now())
    }

    /// Starts an attempt, as a task.
    fn start_attempt(&self, claimed: Claimed) -> TaskHandle<()> {
        let deadline = self.jobs.config.kind(&claimed.name).and_then(|kind| kind.deadline);
        let task = Task::named(format!("{} (job {})", claimed.label, claimed.id));
        let task = match deadline {
            Some(deadline) => task.deadline(deadline),
            None => task,
        };
        let lineage = claimed.lineage().parse();
        let context = Context { lineage, ..Context::of(self.scope.clone()) };
        let prepared = Prepared::new(
            context,
            task.options::<Attempt>(Location::caller()).for_job(claimed.id, &claimed.name, claimed.attempt),
        );
        let running_job = self.jobs.shared.running_jobs.add(&claimed, prepared.record().clone());
        let attempt = Attempt::new(&self.jobs, claimed, running_job, self.scope.registry(), &self.report);
        // The queue limits the number of running jobs: tasks, which are less durable, do not delay them.
        prepared.with(call_once(move |task| attempt.run(task))).admitted(Admission::Beside).with_handle()
    }

    /// Claims the next job of any queue, runs it, and returns it with its outcome.
    pub(super) fn run_next(self: &Arc<JobRunner>) -> Result<Option<JobInfo>> {
        *lock(&self.worker_id) = Some(self.jobs.engine.join()?);
        let ran = self.claim_one().map(|claimed| {
            claimed.map(|claimed| {
                let id = claimed.id;
                // The outcome is in the record of the job.
                let _ = self.start_attempt(claimed).join();
                id
            })
        });
        self.leave();
        ran?.map_or(Ok(None), |id| self.jobs.find(id))
    }

    fn claim_one(&self) -> Result<Option<Claimed>> {
        for queue in self.jobs.config.queues().into_keys() {
            let capacity = Capacity { queue: queue.to_owned(), free: 1 };
            if let Some(claimed) = self.claim(&[capacity])?.pop() {
                return Ok(Some(claimed));
            }
        }
        Ok(None)
    }

    /// The loop of the thread that sends heartbeats, recovers jobs and prunes.
    fn heartbeat_loop(self: &Arc<JobRunner>, mut outage: OutageLog) {
        let mut clock = SteadyClock::new(self.jobs.moment());
        let (mut last_heartbeat, mut last_prune, mut last_observation) =
            (Instant::now(), Instant::now(), Instant::now());
        let mut wait = HEARTBEAT_INTERVAL;
        while !self.stop.wait(wait) {
            let (is_busy, lease) = (!self.jobs.shared.running_jobs.all().is_empty(), self.jobs.config.lease);
            let maintained = self.maintain(
                &mut clock,
                is_busy || last_heartbeat.elapsed() > lease / 4,
                last_prune.elapsed() > PRUNE_INTERVAL,
            );
            self.jobs.note_outage(maintained.as_ref().err());
            match maintained {
                Ok(maintained) => {
                    last_heartbeat = if maintained.sent_heartbeat { Instant::now() } else { last_heartbeat };
                    last_prune = if maintained.has_pruned { Instant::now() } else { last_prune };
                    if last_observation.elapsed() > OBSERVE_INTERVAL {
                        self.observe_queues();
                        last_observation = Instant::now();
                    }
                    wait = outage.recovered(HEARTBEAT_INTERVAL);
                }
                Err(error) => wait = outage.failed(&error),
            }
        }
    }

    fn maintain(&self, clock: &mut SteadyClock, heartbeat: bool, prune: bool) -> Result<Maintained> {
        let engine = &self.jobs.engine;
        if !self.has_joined() {
            self.join()?;
        } else if heartbeat {
            self.heartbeat()?;
        }
        if clock.was_set_back(self.jobs.moment()) {
            log::warn!(target: "aside::jobs", "The wall clock was set back; the due times of delayed jobs were corrected.");
            self.clock_went_back()?;
        }
        self.recover()?;
        if prune {
            engine.prune(self.jobs.config.retention, self.jobs.now())?;
        }
        Ok(Maintained { sent_heartbeat: heartbeat, has_pruned: prune })
    }

    /// Releases the jobs of processes that have ended, and reports those that are dead now.
    fn recover(&self) -> Result<()> {
        let Recovered { released, dead } = self.jobs.engine.recover(self.jobs.config.lease, self.jobs.now())?;
        log_recovered(released);
        dead.into_iter().try_for_each(|id| self.report_dead(id))
    }

    /// Reports a job that died with its process, as the end of an attempt: to the log, and to all that observe failures.
    fn report_dead(&self, id: u64) -> Result<()> {
        let Some(job) = self.jobs.engine.find(id)? else { return Ok(()) };
        let message = job.failures.last().map_or_else(String::new, |failure| failure.message.clone());
        let attempts = job.attempt + job.interruptions;
        let end = move |_: &TaskContext| AttemptEnd::<()>::Dead(Failure::Error(Error::internal(message)), attempts);
        let lineage = LineageTexts { request: job.request, trace: job.trace, parent: job.parent }.parse();
        let context = Context { lineage, ..Context::of(self.scope.clone()) };
        let task = Task::named(format!("{} (job {id})", job.label));
        let options = task.options::<Attempt>(Location::caller()).for_job(id, &job.name, attempts);
        let prepared = Prepared::new(context, options);
        drop(prepared.with(call_once(end)).admitted(Admission::Beside).with_handle());
        Ok(())
    }

    /// Tells the observers for how long the jobs of a queue wait. Those of a paused queue wait for a user.
    fn observe_queues(&self) {
        let Ok(queues) = self.jobs.queues() else { return };
        let now = self.jobs.now();
        let waits = queues.iter().filter(|queue| !queue.is_paused).map(|queue| queue.latency(now));
        let longest = waits.max().unwrap_or_default();
        for observer in self.scope.registry().observers() {
            let _ = panics::catch(|| observer.queues_observed(longest));
        }
    }

    fn clock_went_back(&self) -> Result<()> {
        self.jobs.engine.clock_went_back(self.jobs.now())?;
        *lock(&self.next_tick) = None;
        self.jobs.shared.changed.notify();
        Ok(())
    }

    /// Sends a heartbeat with the progress of all running jobs, and handles cancelled and lost jobs.
    fn heartbeat(&self) -> Result<()> {
        let Some(worker_id) = lock(&self.worker_id).clone() else { return Ok(()) };
        let mut running_jobs = self.jobs.shared.running_jobs.all();
        running_jobs.retain(|running_job| !running_job.is_forgotten());
        let held: Vec<HeldJob> = running_jobs.iter().map(|running_job| running_job.held()).collect();
        let reply = self.jobs.engine.heartbeat(&worker_id, &held, self.jobs.now())?;
        running_jobs.iter().zip(held).for_each(|(running_job, held)| running_job.set_reported(held));
        for id in reply.cancel {
            self.jobs.shared.running_jobs.cancel(id);
        }
        if reply.has_lost_jobs {
            // No other worker will run them.
            running_jobs.iter().for_each(|running_job| running_job.mark_forgotten());
        } else {
            let is_lost = |running_job: &&Arc<RunningJob>| reply.is_evicted || reply.lost.contains(&running_job.id);
            running_jobs.iter().filter(is_lost).for_each(|running_job| running_job.mark_lost());
        }
        if reply.is_evicted {
            log::warn!(target: "aside::jobs", "{}. It joins again.", evicted(reply.has_lost_jobs));
            *lock(&self.worker_id) = Some(self.jobs.engine.join()?);
        }
        Ok(())
    }
}

/// Returns a panic of the claiming thread as an error: the thread must go on, since the outcomes of all jobs are its own.
fn contained<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    panics::catch(f)
        .unwrap_or_else(|panic| Err(Error::internal(format!("the thread that claims jobs panicked: {panic}"))))
}

fn evicted(has_lost_jobs: bool) -> &'static str {
    if has_lost_jobs {
        "The job store has lost its data and does not know this process. The jobs that run here continue"
    } else {
        "This process missed its heartbeats for too long, and its jobs were given to other workers"
    }
}

struct Maintained {
    sent_heartbeat: bool,
    has_pruned: bool,
}

fn log_recovered(count: usize) {
    if count > 0 {
        let jobs = if count == 1 { "job of a process" } else { "jobs of processes" };
        log::warn!(target: "aside::jobs", "Released {count} {jobs} that ended or missed the heartbeats.");
    }
}

/// A comparison of the wall clock with the steady clock.
struct SteadyClock(Moment);

impl SteadyClock {
    fn new(now: Moment) -> SteadyClock {
        SteadyClock(now)
    }

    /// Returns true if the wall clock has been set back since the last call.
    fn was_set_back(&mut self, now: Moment) -> bool {
        let last = std::mem::replace(&mut self.0, now);
        let passed = now.earliest.saturating_sub(last.latest).max(0);
        now.wall < last.wall.saturating_add(passed).saturating_sub(CLOCK_SLACK)
    }
}

impl fmt::Debug for JobRunner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobRunner of {:?}", self.jobs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::observer::Observer;
    use crate::background::registry::Registry;
    use crate::background::scope::Values;
    use crate::config::Config;
    use crate::jobs::engine::MOST_INTERRUPTIONS;
    use crate::jobs::job::tests::Quick;
    use crate::jobs::record::JobState;

    #[test]
    fn an_evicted_runner_joins_again_and_leaves_at_the_end() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::memory().register::<Quick>();
        let runner = JobRunner::start(&jobs, scope).unwrap();
        let worker_id = || lock(&runner.worker_id).clone().unwrap();
        let is_gone = |worker: &WorkerId| jobs.engine.heartbeat(worker, &[], jobs.now()).unwrap().is_evicted;
        let first = worker_id();
        jobs.engine.leave(&first, jobs.now()).unwrap();
        runner.heartbeat().unwrap();
        let second = worker_id();
        assert!(second != first && is_gone(&first) && !is_gone(&second));
        let id = jobs.enqueue(Quick).unwrap().id;
        let began = Instant::now();
        while jobs.find(id).unwrap().unwrap().state != JobState::Done {
            assert!(began.elapsed() < Duration::from_secs(20), "the runner continues with its new id");
            thread::yield_now();
        }
        runner.leave();
        assert!(is_gone(&second));
    }

    #[test]
    fn the_observers_learn_how_long_jobs_wait_except_in_paused_queues() {
        struct Longest(Mutex<Duration>);
        impl Observer for Longest {
            fn queues_observed(&self, latency: Duration) {
                *lock(&self.0) = latency;
            }
        }
        let (scope, longest) = (
            Scope::new(Registry::new(&Config::default()), Values::default()),
            Arc::new(Longest(Mutex::new(Duration::MAX))),
        );
        scope.registry().set_observers(vec![longest.clone()]);
        let jobs = Jobs::memory().register::<Quick>();
        let runner = JobRunner::test_driven(&jobs, scope);
        let observed = || {
            runner.observe_queues();
            lock(&longest.0).as_secs()
        };
        assert_eq!(observed(), 0);
        jobs.enqueue(Quick).unwrap();
        jobs.advance(Duration::from_secs(90));
        assert!(observed() >= 90);
        jobs.pause("default").unwrap();
        assert_eq!(observed(), 0);
    }

    #[test]
    fn a_schedule_counts_from_the_start() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::memory().cron("0 3 * * * Europe/Berlin", Quick);
        let runner = JobRunner::start(&jobs, scope).unwrap();
        assert!(
            lock(&runner.next_tick).is_some(),
            "times from now on are not missed, even if a thread is slow to start"
        );
        runner.leave();
    }

    #[test]
    fn a_clock_set_back_is_detected_and_one_that_advances_is_not() {
        let jobs = Jobs::memory();
        let mut clock = SteadyClock::new(jobs.moment());
        jobs.advance(Duration::from_secs(3_600));
        assert!(!clock.was_set_back(jobs.moment()));
        jobs.set_clock_back(Duration::from_secs(60));
        assert!(clock.was_set_back(jobs.moment()) && !clock.was_set_back(jobs.moment()), "once for each step back");
    }

    #[test]
    fn a_thread_suspended_between_clock_reads_detects_no_step_back() {
        let held_up = |wall: Millis, earliest: Millis, latest: Millis| Moment {
            wall: wall * 1_000,
            earliest: earliest * 1_000,
            latest: latest * 1_000,
        };
        let mut clock = SteadyClock::new(held_up(0, 0, 0));
        // Suspended for a minute, before and after it reads the wall clock.
        assert!(!clock.was_set_back(held_up(60, 0, 60)));
        assert!(!clock.was_set_back(held_up(60, 60, 120)));
        assert!(!clock.was_set_back(held_up(120, 120, 120)));
        assert!(clock.was_set_back(held_up(120, 180, 180)));
    }

    /// Regression: a heartbeat waited for a locked database, and its old time looked like a clock that was set back.
    #[cfg(feature = "sqlite")]
    #[test]
    fn a_heartbeat_that_waits_for_a_lock_detects_no_step_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::sqlite(&path).unwrap().register::<Quick>();
        let runner = JobRunner::test_driven(&jobs, scope);
        *lock(&runner.worker_id) = Some(jobs.engine.join().unwrap());
        let mut clock = SteadyClock::new(jobs.moment());
        *lock(&runner.next_tick) = Some(0);
        let blocker = rusqlite::Connection::open(&path).unwrap();
        blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (begins, begun) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let looks = scope.spawn(|| {
                begins.send(()).unwrap();
                runner.maintain(&mut clock, true, false).unwrap();
            });
            begun.recv().unwrap();
            // Time passes before and after the lock is released.
            let minute = || jobs.advance(Duration::from_secs(60));
            (0..10_000).for_each(|_| minute());
            blocker.execute_batch("COMMIT").unwrap();
            while !looks.is_finished() {
                minute();
            }
            looks.join().unwrap();
        });
        assert_eq!(*lock(&runner.next_tick), Some(0), "a step back of the clock was detected");
    }

    #[test]
    fn a_job_that_died_with_its_process_is_reported_as_a_failure() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let mut jobs = Jobs::memory().register::<Quick>();
        Arc::make_mut(&mut jobs.config).lease = Duration::ZERO;
        let id = jobs.enqueue(Quick).unwrap().id;
        let runner = JobRunner::test_driven(&jobs, scope.clone());
        for _ in 0..MOST_INTERRUPTIONS {
            jobs.engine.revive(id, jobs.now()).unwrap();
            let dying = jobs.engine.join().unwrap();
            let capacities = [Capacity { queue: "default".to_owned(), free: 1 }];
            assert_eq!(jobs.engine.claim(&dying, &capacities, jobs.now()).unwrap().len(), 1);
            assert_eq!(scope.registry().counts().failed, 0);
            while jobs.find(id).unwrap().unwrap().state == JobState::Running {
                runner.recover().unwrap();
            }
        }
        assert_eq!(jobs.find(id).unwrap().unwrap().state, JobState::Dead);
        let began = Instant::now();
        while scope.registry().counts().failed == 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "its death is reported");
            thread::yield_now();
        }
        let record = scope.registry().failed().pop().unwrap();
        assert_eq!(record.job, Some(id));
        assert!(record.failure().unwrap().0.contains("the process ended 10 times while it ran this job"));
    }

    #[test]
    fn jobs_beyond_the_retention_are_pruned() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::memory().register::<Quick>().retention(Duration::ZERO, 0);
        let id = jobs.enqueue(Quick).unwrap().id;
        let runner = JobRunner::test_driven(&jobs, scope);
        assert_eq!(runner.run_next().unwrap().unwrap().state, JobState::Done);
        runner.maintain(&mut SteadyClock::new(jobs.moment()), false, true).unwrap();
        assert!(jobs.find(id).unwrap().is_none());
    }
}
