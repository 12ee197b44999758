//! Who runs the jobs of a process: one thread that claims them, one that shows that the process lives, and a task for each.

use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::attempt::Attempt;
use super::engine::{CLOCK_SLACK, Claimed, Held, Room, WorkerId};
use super::facade::{Jobs, Moment};
use super::record::{JobInfo, Millis};
use super::running::InHand;
use super::trouble::{LONGEST_WAIT, Trouble, complain};
use crate::background::registry::Origin;
use crate::background::scope::{Context, Scope};
use crate::background::slots::Admission;
use crate::background::task::{Run, Task, TaskContext, TaskHandle};
use crate::error::Result;
use crate::sync::{Notify, lock};

/// The longest that the claiming thread waits without looking: the clock on the wall may have been moved.
const LOOK: Duration = LONGEST_WAIT;

/// Between two looks at those that show no life, and between two beats of one that has jobs.
const BEAT: Duration = Duration::from_secs(1);

/// Between two rounds of throwing away what is not kept.
const TRIM: Duration = Duration::from_secs(60);

impl Jobs {
    /// Runs each job where it is enqueued, before [`enqueue`](Jobs::enqueue) returns: for tests that look at what comes of it.
    /// What is for later is kept. A job that fails is in [`failures`](crate::testing::TestClient::failures), not in the
    /// handler's hand.
    pub fn inline(self) -> Jobs {
        self.run_where_enqueued(|jobs| {
            while jobs.run_next()?.is_some() {}
            Ok(())
        });
        self
    }

    /// Runs the next job that waits, of whatever queue, and gives back what came of it: for tests. None when none waits, or
    /// all that do are in queues that are paused.
    ///
    /// An isolated one runs in this process too: a test's program is no application.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn run_next(&self) -> Result<Option<JobInfo>> {
        Crew::by_hand(self, self.scope()).run_next()
    }
}

/// The workers of a process.
pub(crate) struct Crew {
    jobs: Jobs,
    scope: Scope,
    me: Mutex<Option<WorkerId>>,
    /// When the next job of a crontab is due, as far as that is known.
    next_tick: Mutex<Option<Millis>>,
    is_stopping: AtomicBool,
    /// Notified when it stops.
    stop: Notify,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Crew {
    /// Begins to run jobs. To be called from a thread of normal priority.
    ///
    /// # Errors
    /// An error if a thread cannot be started.
    pub(crate) fn start(jobs: &Jobs, scope: Scope) -> Result<Arc<Crew>> {
        let crew = Arc::new(Crew::new(jobs, scope));
        jobs.engine.listen(&jobs.shared.changed)?;
        let mut trouble = Trouble::default();
        if let Err(error) = crew.join() {
            trouble.goes_on(&error);
        }
        let (claiming, keeping) = (crew.clone(), crew.clone());
        crew.spawn("aside-jobs", move || claiming.claim_and_begin())?;
        crew.spawn("aside-jobs-beat", move || keeping.keep(trouble))?;
        Ok(crew)
    }

    /// Registers this process with the engine. If the engine is unreachable, pages are served and the registration is
    /// retried.
    fn join(&self) -> Result<()> {
        let (jobs, engine) = (&self.jobs, &self.jobs.engine);
        engine.clock_went_back(jobs.now())?;
        say_recovered(engine.recover(jobs.plan.lease, jobs.now())?);
        // A schedule counts from here on, and not from when a thread first has its turn.
        self.tick()?;
        *lock(&self.me) = Some(engine.join()?);
        jobs.shared.changed.notify();
        Ok(())
    }

    fn has_joined(&self) -> bool {
        lock(&self.me).is_some()
    }

    /// One that a test drives.
    pub(super) fn by_hand(jobs: &Jobs, scope: Scope) -> Arc<Crew> {
        Arc::new(Crew::new(jobs, scope))
    }

    fn new(jobs: &Jobs, scope: Scope) -> Crew {
        Crew {
            jobs: jobs.clone(),
            scope,
            me: Mutex::default(),
            next_tick: Mutex::default(),
            is_stopping: AtomicBool::new(false),
            stop: Notify::default(),
            threads: Mutex::default(),
        }
    }

    fn spawn(&self, name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    /// Begins nothing more. What runs goes on.
    pub(crate) fn stop_claiming(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.jobs.shared.changed.notify();
    }

    /// Gives back what still runs, and ends: to be called when the tasks have been waited for.
    pub(crate) fn leave(&self) {
        self.stop_claiming();
        self.stop.notify();
        lock(&self.threads).drain(..).for_each(|thread| drop(thread.join()));
        let Some(me) = lock(&self.me).take() else { return };
        if let Err(error) = self.jobs.engine.leave(&me, self.jobs.now()) {
            complain("cannot be left in order; what ran is recovered when its lease is over", &error);
        }
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// The life of the claiming thread.
    fn claim_and_begin(self: &Arc<Crew>) {
        let (mut trouble, mut heard) = (Trouble::default(), 0);
        while !self.is_stopping() {
            let wait = match self.round() {
                Ok(wait) => trouble.is_over(wait),
                Err(error) => trouble.goes_on(&error),
            };
            self.jobs.shared.changed.wait_as(&mut heard, wait);
        }
    }

    /// Begins all that may begin now, and says for how long there is nothing more.
    fn round(self: &Arc<Crew>) -> Result<Duration> {
        if !self.has_joined() {
            // The thread that joins notifies.
            return Ok(LOOK);
        }
        let next_tick = self.tick()?;
        let mut rooms = self.rooms();
        while !rooms.is_empty() && !self.is_stopping() {
            let claimed = self.claim(&rooms)?;
            if claimed.is_empty() {
                return Ok(self.until([self.jobs.engine.next_due()?, next_tick]));
            }
            claimed.into_iter().for_each(|claimed| drop(self.begin(claimed)));
            rooms = self.rooms();
        }
        // Whatever is due, nothing can begin before one of those that run has ended, which notifies.
        Ok(self.until([next_tick, None]))
    }

    /// How long it is until the first of these times, as far as it is waited for.
    fn until(&self, times: [Option<Millis>; 2]) -> Duration {
        let next = times.into_iter().flatten().min();
        let wait = next.map_or(LOOK, |next| Duration::from_millis(next.saturating_sub(self.jobs.now()).max(0) as u64));
        wait.min(LOOK)
    }

    /// Enqueues what is due by a crontab, and says when the next is.
    fn tick(&self) -> Result<Option<Millis>> {
        let mut next_tick = lock(&self.next_tick);
        let (engine, now) = (&*self.jobs.engine, self.jobs.now());
        if next_tick.is_none_or(|next| next <= now) {
            let next = self.jobs.plan.schedules.iter().map(|schedule| schedule.tick(engine, now));
            *next_tick = next.collect::<Result<Vec<_>>>()?.into_iter().min();
        }
        Ok(*next_tick)
    }

    fn rooms(&self) -> Vec<Room> {
        let room = |(queue, most): (&str, usize)| {
            let free = most.saturating_sub(self.jobs.shared.hands.running_of(queue));
            Room { queue: queue.to_owned(), free }
        };
        self.jobs.plan.queues().into_iter().map(room).filter(|room| room.free > 0).collect()
    }

    fn claim(&self, rooms: &[Room]) -> Result<Vec<Claimed>> {
        let Some(me) = lock(&self.me).clone() else { return Ok(Vec::new()) };
        self.jobs.engine.claim(&me, rooms, self.jobs.now())
    }

    /// Begins a try, as a task like any other.
    fn begin(&self, claimed: Claimed) -> TaskHandle<()> {
        let deadline = self.jobs.plan.kind(&claimed.name).and_then(|kind| kind.deadline);
        let task = Task::named(format!("{} (job {})", claimed.label, claimed.id)).key(format!("job-{}", claimed.id));
        let task = match deadline {
            Some(deadline) => task.deadline(deadline),
            None => task,
        };
        let origin = claimed.origin.as_deref().and_then(Origin::parse).map(Arc::new);
        let context = Context { scope: self.scope.clone(), origin, task: None };
        // The record is there before the work is, which has to know it.
        let attempt = Arc::new(Mutex::new(None::<Attempt>));
        let theirs = attempt.clone();
        let call = Box::new(move |task: &TaskContext| {
            let attempt = lock(&theirs).take();
            attempt.map_or(Ok(()), |mut attempt| attempt.run(task))
        });
        // The queue limits the number of running jobs: tasks, which are less durable, do not delay them.
        let run = Run::new(context, task.naming::<Attempt>(Location::caller()), call).admitted(Admission::Beside);
        let hand = self.jobs.shared.hands.take(&claimed, run.record().clone());
        *lock(&attempt) = Some(Attempt::new(&self.jobs, claimed, hand, self.scope.registry()));
        run.with_handle()
    }

    /// Claims the next job of any queue, runs it, and gives back what came of it.
    pub(super) fn run_next(self: &Arc<Crew>) -> Result<Option<JobInfo>> {
        *lock(&self.me) = Some(self.jobs.engine.join()?);
        let ran = self.claim_one().map(|claimed| {
            claimed.map(|claimed| {
                let id = claimed.id;
                // How it ended is in its record.
                let _ = self.begin(claimed).join();
                id
            })
        });
        self.leave();
        ran?.map_or(Ok(None), |id| self.jobs.find(id))
    }

    fn claim_one(&self) -> Result<Option<Claimed>> {
        for queue in self.jobs.plan.queues().into_keys() {
            let room = Room { queue: queue.to_owned(), free: 1 };
            if let Some(claimed) = self.claim(&[room])?.pop() {
                return Ok(Some(claimed));
            }
        }
        Ok(None)
    }

    /// The life of the thread that shows that this process lives.
    fn keep(self: &Arc<Crew>, mut trouble: Trouble) {
        let mut clock = SteadyClock::new(self.jobs.moment());
        let (mut beaten, mut trimmed) = (Instant::now(), Instant::now());
        let mut wait = BEAT;
        while !self.stop.wait(wait) {
            let (is_busy, lease) = (!self.jobs.shared.hands.all().is_empty(), self.jobs.plan.lease);
            let kept = self.look_after(&mut clock, is_busy || beaten.elapsed() > lease / 4, trimmed.elapsed() > TRIM);
            match kept {
                Ok(kept) => {
                    beaten = if kept.has_beaten { Instant::now() } else { beaten };
                    trimmed = if kept.has_trimmed { Instant::now() } else { trimmed };
                    wait = trouble.is_over(BEAT);
                }
                Err(error) => wait = trouble.goes_on(&error),
            }
        }
    }

    fn look_after(&self, clock: &mut SteadyClock, beat: bool, trim: bool) -> Result<Kept> {
        let engine = &self.jobs.engine;
        if !self.has_joined() {
            self.join()?;
        } else if beat {
            self.beat()?;
        }
        if clock.was_put_back(self.jobs.moment()) {
            log::warn!(target: "aside::jobs", "The clock was put back; jobs that wait for some time still wait for no longer.");
            self.clock_went_back()?;
        }
        say_recovered(engine.recover(self.jobs.plan.lease, self.jobs.now())?);
        if trim {
            engine.trim(self.jobs.plan.keep, self.jobs.now())?;
        }
        Ok(Kept { has_beaten: beat, has_trimmed: trim })
    }

    fn clock_went_back(&self) -> Result<()> {
        self.jobs.engine.clock_went_back(self.jobs.now())?;
        *lock(&self.next_tick) = None;
        self.jobs.shared.changed.notify();
        Ok(())
    }

    /// Shows life, says how far all is, and hears what is to be cancelled and what is lost.
    fn beat(&self) -> Result<()> {
        let Some(me) = lock(&self.me).clone() else { return Ok(()) };
        let mut hands = self.jobs.shared.hands.all();
        hands.retain(|hand| !hand.is_forgotten());
        let held: Vec<Held> = hands.iter().map(|hand| hand.held()).collect();
        let beat = self.jobs.engine.beat(&me, &held, self.jobs.now())?;
        hands.iter().zip(held).for_each(|(hand, held)| hand.was_told(held));
        for id in beat.cancel {
            self.jobs.shared.hands.cancel(id);
        }
        if beat.has_lost_jobs {
            // No other worker will run them.
            hands.iter().for_each(|hand| hand.forget());
        } else {
            let is_lost = |hand: &&Arc<InHand>| beat.is_evicted || beat.lost.contains(&hand.id);
            hands.iter().filter(is_lost).for_each(|hand| hand.is_lost());
        }
        if beat.is_evicted {
            log::warn!(target: "aside::jobs", "{}, and joins again.", evicted(beat.has_lost_jobs));
            *lock(&self.me) = Some(self.jobs.engine.join()?);
        }
        Ok(())
    }
}

fn evicted(has_lost_jobs: bool) -> &'static str {
    if has_lost_jobs {
        "The job store has lost its data and does not know this process: jobs that run here are finished"
    } else {
        "This process missed its heartbeats for too long: its jobs were given to others"
    }
}

struct Kept {
    has_beaten: bool,
    has_trimmed: bool,
}

fn say_recovered(count: usize) {
    if count > 0 {
        let words = if count == 1 { "job waits again whose process has" } else { "jobs wait again whose process has" };
        log::warn!(target: "aside::jobs", "{count} {words} ended, or shows no life.");
    }
}

/// A comparison of the wall clock with the steady clock.
struct SteadyClock(Moment);

impl SteadyClock {
    fn new(now: Moment) -> SteadyClock {
        SteadyClock(now)
    }

    /// Returns true if the wall clock has been set back since the last call.
    fn was_put_back(&mut self, now: Moment) -> bool {
        let last = std::mem::replace(&mut self.0, now);
        let passed = now.earliest.saturating_sub(last.latest).max(0);
        now.wall < last.wall.saturating_add(passed).saturating_sub(CLOCK_SLACK)
    }
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crew of {:?}", self.jobs)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::Values;
    use crate::config::Config;
    use crate::jobs::job::Job;
    use crate::jobs::record::JobState;

    #[derive(Serialize, Deserialize)]
    struct Quick;

    impl Job for Quick {
        const NAME: &'static str = "quick";

        fn run(self, _task: &TaskContext) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_was_taken_for_dead_joins_anew_and_who_leaves_is_gone() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::memory().register::<Quick>();
        let crew = Crew::start(&jobs, scope).unwrap();
        let me = || lock(&crew.me).clone().unwrap();
        let is_gone = |worker: &WorkerId| jobs.engine.beat(worker, &[], jobs.now()).unwrap().is_evicted;
        let first = me();
        jobs.engine.leave(&first, jobs.now()).unwrap();
        crew.beat().unwrap();
        let second = me();
        assert!(second != first && is_gone(&first) && !is_gone(&second));
        let id = jobs.enqueue(Quick).unwrap().id;
        let began = Instant::now();
        while jobs.find(id).unwrap().unwrap().state != JobState::Done {
            assert!(began.elapsed() < Duration::from_secs(20), "it works on under its new name");
            thread::yield_now();
        }
        crew.leave();
        assert!(is_gone(&second));
    }

    #[test]
    fn a_schedule_counts_from_the_start_on() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::memory().cron("0 3 * * * Europe/Berlin", Quick);
        let crew = Crew::start(&jobs, scope).unwrap();
        assert!(
            lock(&crew.next_tick).is_some(),
            "what is due from now on is not missed, whenever a thread has its turn"
        );
        crew.leave();
    }

    #[test]
    fn a_clock_that_is_put_back_is_noticed_and_one_that_goes_on_is_not() {
        let jobs = Jobs::memory();
        let mut clock = SteadyClock::new(jobs.moment());
        jobs.advance(Duration::from_secs(3_600));
        assert!(!clock.was_put_back(jobs.moment()));
        jobs.put_back(Duration::from_secs(60));
        assert!(clock.was_put_back(jobs.moment()) && !clock.was_put_back(jobs.moment()), "once for each step");
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
        assert!(!clock.was_put_back(held_up(60, 0, 60)));
        assert!(!clock.was_put_back(held_up(60, 60, 120)));
        assert!(!clock.was_put_back(held_up(120, 120, 120)));
        assert!(clock.was_put_back(held_up(120, 180, 180)));
    }

    /// Regression: a heartbeat waited for a locked database, and its old time looked like a clock that was set back.
    #[cfg(feature = "sqlite")]
    #[test]
    fn a_heartbeat_that_waits_for_a_lock_detects_no_step_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.db");
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::sqlite(&path).unwrap().register::<Quick>();
        let crew = Crew::by_hand(&jobs, scope);
        *lock(&crew.me) = Some(jobs.engine.join().unwrap());
        let mut clock = SteadyClock::new(jobs.moment());
        *lock(&crew.next_tick) = Some(0);
        let blocker = rusqlite::Connection::open(&path).unwrap();
        blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
        let (begins, begun) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let looks = scope.spawn(|| {
                begins.send(()).unwrap();
                crew.look_after(&mut clock, true, false).unwrap();
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
        assert_eq!(*lock(&crew.next_tick), Some(0), "the clock was taken for put back");
    }

    #[test]
    fn what_is_not_kept_is_thrown_away() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let jobs = Jobs::memory().register::<Quick>().retention(Duration::ZERO, 0);
        let id = jobs.enqueue(Quick).unwrap().id;
        let crew = Crew::by_hand(&jobs, scope);
        assert_eq!(crew.run_next().unwrap().unwrap().state, JobState::Done);
        crew.look_after(&mut SteadyClock::new(jobs.moment()), false, true).unwrap();
        assert!(jobs.find(id).unwrap().is_none());
    }
}
