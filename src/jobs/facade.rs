//! The jobs of an application: what they are kept in, what may be enqueued, and what can be done with those that are there.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use serde::de::DeserializeOwned;

use super::engine::{Engine, Enqueued};
use super::job::{Job, NewJob};
use super::job_config::{Plan, decode};
use super::progress::{Follow, progress};
use super::readiness::Readiness;
use super::record::{JobCounts, JobInfo, JobState, Millis, QueueInfo, millis};
use super::running::Hands;
use super::schedule::Schedule;

use crate::background::registry::Progress;
use crate::background::scope::{Context, Scope, WeakScope};
use crate::error::{Error, Result, Status};
use crate::live::Live;
use crate::sync::Notify;
use crate::watch::Watched;

/// How many jobs one look gives.
const PAGE: usize = 100;

/// Where an application's jobs are kept, and what it knows of them: made at its start, given to
/// [`App::jobs`](crate::App::jobs), found again by [`Request::jobs`](crate::Request::jobs).
///
/// ```
/// use aside::{Job, Jobs, Result, TaskContext};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Report;
///
/// impl Job for Report {
///     const NAME: &'static str = "report";
///     const QUEUE: &'static str = "reports";
///     fn run(self, _task: &TaskContext) -> Result<()> { Ok(()) }
/// }
///
/// let jobs = Jobs::memory()
///     .register::<Report>()
///     .queue("reports", 1) // one at a time
///     .cron("0 3 * * * Europe/Berlin", Report);
/// jobs.enqueue(Report).unwrap();
/// assert_eq!(jobs.counts().unwrap().waiting, 1);
/// ```
///
/// A copy is the same jobs.
#[derive(Clone)]
pub struct Jobs {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) plan: Arc<Plan>,
    pub(super) shared: Arc<Shared>,
}

/// What all copies share.
#[derive(Default)]
pub(super) struct Shared {
    /// The time that tests have added, in milliseconds.
    passed: AtomicI64,
    /// The step of the wall clock beside that, backwards, in milliseconds.
    put_back: AtomicI64,
    /// A test runs them, and not workers.
    is_by_hand: AtomicBool,
    /// What runs them where they are enqueued.
    inline: OnceLock<fn(&Jobs) -> Result<()>>,
    pub(super) changed: Arc<Notify>,
    pub(super) hands: Hands,
    readiness: Readiness,
    pub(super) follow: Arc<Follow>,
    /// The application, once it is there.
    pub(super) scope: OnceLock<WeakScope>,
}

impl Jobs {
    pub(crate) fn on(engine: impl Engine) -> Jobs {
        Jobs { engine: Arc::new(engine), plan: Arc::default(), shared: Arc::default() }
    }

    fn plan(mut self, change: impl FnOnce(&mut Plan)) -> Jobs {
        change(Arc::make_mut(&mut self.plan));
        self
    }

    /// Makes a type of jobs known, to be enqueued and to be run. What is there and of no known type is tried again later, as
    /// a failure, since the next version of the program may know it; and is kept as dead in the end.
    pub fn register<J: Job>(self) -> Jobs {
        self.plan(|plan| plan.register::<J>())
    }

    /// How many jobs of a queue this process runs at once; 0 for none. Queues that no job names in
    /// [`QUEUE`](Job::QUEUE) are made known by this.
    pub fn queue(self, name: &str, at_once: usize) -> Jobs {
        self.plan(|plan| plan.queue(name, at_once))
    }

    /// How many jobs this process runs at once of each queue that [`queue`](Jobs::queue) does not speak of; 4. With 0 it
    /// enqueues and runs none: another process does ([`App::work`](crate::App::work)).
    pub fn concurrency(self, at_once: usize) -> Jobs {
        self.plan(|plan| plan.workers = at_once)
    }

    /// How long a process may show no life until its jobs are given to another; 20 s, at least 3. A process that has ended
    /// on this machine is known at once with SQLite, whatever this says.
    pub fn lease(self, lease: Duration) -> Jobs {
        self.plan(|plan| plan.lease = lease.max(Duration::from_secs(3)))
    }

    /// How much is kept of jobs that ended well or were cancelled, outputs included: so long, and so many; a day and 10,000.
    /// Dead ones are kept until somebody retries or discards them.
    pub fn retention(self, age: Duration, count: u64) -> Jobs {
        self.plan(|plan| plan.keep = super::engine::Keep { age, count })
    }

    /// Enqueues a job at the times of a crontab, with the time zone at its end: `0 3 * * * Europe/Berlin` is each night at
    /// three, on the clocks of Berlin. Minute, hour, day of the month, month, day of the week.
    ///
    /// It is enqueued once, however many processes say the same. What was due while none of them ran is enqueued once, when
    /// the first of them is there again.
    ///
    /// When the clocks of the zone go forward, a time in the missing hour runs once, at the end of that hour: `30 2 * * *`
    /// at 03:00. When they go back, a time in the repeated hour runs once, the first time. An interval (minute or hour is
    /// `*`, `*/n` or the whole range) continues through both.
    ///
    pub fn cron<J: Job>(self, crontab: &str, job: impl Into<NewJob<J>>) -> Jobs {
        let jobs = self.register::<J>();
        let number = jobs.plan.schedules.iter().filter(|schedule| schedule.is_of(J::NAME, crontab)).count();
        let schedule = jobs.plan.entry(job.into()).and_then(|entry| Schedule::new(crontab, entry, number));
        jobs.plan(|plan| match schedule {
            Ok(schedule) => plan.schedules.push(schedule),
            Err(error) => plan.problems.push(error.context("Jobs::cron").chain()),
        })
    }

    /// Keeps a job: [`enqueue`](crate::enqueue()).
    ///
    /// # Errors
    /// As [`enqueue`](crate::enqueue()).
    pub fn enqueue<J: Job>(&self, job: impl Into<NewJob<J>>) -> Result<Enqueued> {
        let mut enqueued = self.enqueue_all([job])?;
        // One comes back for each that went in.
        enqueued.pop().ok_or_else(|| Error::internal("the engine kept nothing"))
    }

    /// Keeps several jobs of one type: all or none, and faster than one by one.
    ///
    /// # Errors
    /// As [`enqueue`](crate::enqueue()); then none is kept.
    pub fn enqueue_all<J: Job, N: Into<NewJob<J>>>(&self, jobs: impl IntoIterator<Item = N>) -> Result<Vec<Enqueued>> {
        let entries = jobs.into_iter().map(|job| self.plan.entry(job.into())).collect::<Result<_>>()?;
        let enqueued = self.engine.enqueue(entries, self.now()).map_err(unavailable)?;
        self.shared.inline.get().map_or(Ok(()), |run| run(self))?;
        Ok(enqueued)
    }

    /// The job of that number, while it is kept.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn find(&self, id: u64) -> Result<Option<JobInfo>> {
        let before = self.shared.hands.of(id);
        let found = self.engine.find(id)?;
        Ok(found.map(|job| self.shared.hands.up_to_date(job, &before)))
    }

    /// How far a job is, for a page to watch: wherever it runs, and over all its tries. None when there is no such job (any
    /// more). The template `aside/progress.html` shows it, up to the last progress and message of the job. A template of one's
    /// own also has the [output](crate::TaskContext::output) of a job that is done:
    /// `{% include "aside/progress.html" %} {% if state == "done" %}{{ output.rows }} rows{% endif %}`.
    ///
    /// ```
    /// use aside::{Error, Request, Response, Result};
    ///
    /// // GET /imports/{id}/live
    /// fn follow(req: &mut Request) -> Result<Response> {
    ///     let live = req.jobs()?.follow(req.param("id")?)?;
    ///     req.live(&live.ok_or_else(|| Error::not_found("There is no such import."))?, "aside/progress.html")
    /// }
    /// ```
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn follow(&self, id: u64) -> Result<Option<Live<Progress>>> {
        self.follow_as(id, progress)
    }

    /// The same with what the application makes of the job, its [output](JobInfo::output) for one: called anew whenever
    /// something of it has changed, on a thread of its own.
    ///
    /// ```
    /// use aside::{JobState, Live, Request, Result};
    ///
    /// #[derive(Clone, PartialEq, serde::Serialize)]
    /// struct Import { rows: u64, is_done: bool }
    ///
    /// fn watch(req: &mut Request) -> Result<Option<Live<Import>>> {
    ///     let jobs = req.jobs()?;
    ///     jobs.follow_as(req.param("id")?, |job| Import { rows: job.done, is_done: job.state == JobState::Done })
    /// }
    /// ```
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn follow_as<T, F>(&self, id: u64, show: F) -> Result<Option<Live<T>>>
    where
        T: Clone + PartialEq + Send + Sync + 'static,
        F: Fn(&JobInfo) -> T + Send + 'static,
    {
        Ok(self.watch(id, show)?.map(Live::of))
    }

    pub(super) fn watch<T, F>(&self, id: u64, show: F) -> Result<Option<Arc<Watched<T>>>>
    where
        T: Clone + PartialEq + Send + Sync + 'static,
        F: Fn(&JobInfo) -> T + Send + 'static,
    {
        let jobs = self.clone();
        self.shared.follow.follow(id, show, move |id| jobs.find(id))
    }

    /// Jobs in that state, the newest first, from the one before that id on; at most 100. Without their outputs, which
    /// [`output`](Jobs::output) reads one by one.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn list(&self, state: JobState, before: Option<u64>) -> Result<Vec<JobInfo>> {
        self.newest(state, before, PAGE)
    }

    /// The same, so many of them.
    pub(crate) fn newest(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
        let here = self.shared.hands.all();
        let jobs = self.engine.list(state, before, most)?;
        Ok(jobs.into_iter().map(|job| self.shared.hands.up_to_date(job, &here)).collect())
    }

    /// How many jobs there are in each state.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn counts(&self) -> Result<JobCounts> {
        self.engine.counts()
    }

    /// The queues that something is in, that are paused, or that this process serves, by name.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn queues(&self) -> Result<Vec<QueueInfo>> {
        let mut queues = self.engine.queues()?;
        for name in self.plan.queues().into_keys() {
            if !queues.iter().any(|queue| queue.name == name) {
                queues.push(QueueInfo { name: name.to_owned(), waiting: 0, running: 0, is_paused: false });
            }
        }
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(queues)
    }

    /// Cancels a job: at once while it waits; running it is told to, and ends where it looks whether it was
    /// ([`TaskContext::check`](crate::TaskContext::check)). The state that it is in then; none when there is no such job.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn cancel(&self, id: u64) -> Result<Option<JobState>> {
        let state = self.engine.cancel(id, self.now())?;
        if state == Some(JobState::Running) {
            self.shared.hands.cancel(id);
        }
        self.shared.follow.look();
        Ok(state)
    }

    /// Has a job that is dead, cancelled, or scheduled tried again from now on, with all its tries before it. Whether it
    /// was one of these.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn retry(&self, id: u64) -> Result<bool> {
        self.engine.revive(id, self.now())
    }

    /// Takes a job away for good that does not run. Whether there was one.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn discard(&self, id: u64) -> Result<bool> {
        self.engine.discard(id)
    }

    /// Begins nothing more of a queue, in any process, until it is [resumed](Jobs::resume). What runs goes on.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn pause(&self, queue: &str) -> Result<()> {
        self.engine.pause(queue, true)
    }

    /// Goes on with a queue.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub fn resume(&self, queue: &str) -> Result<()> {
        self.engine.pause(queue, false)
    }

    /// The jobs of that type that wait, are scheduled or run, the oldest first: for tests.
    ///
    /// # Panics
    /// When one cannot be read.
    pub fn enqueued<J: Job + DeserializeOwned>(&self) -> Vec<J> {
        let states = [JobState::Waiting, JobState::Scheduled, JobState::Running];
        let all =
            states.into_iter().flat_map(|state| self.engine.list(state, None, 10_000).expect("the jobs can be listed"));
        let mut all: Vec<JobInfo> = all.filter(|job| job.name == J::NAME).collect();
        all.sort_by_key(|job| job.id);
        all.iter().map(|job| decode(&job.payload).expect("a job can be read again")).collect()
    }

    /// Fails a test unless a job of that type that the function says yes to waits, is scheduled or runs.
    ///
    /// # Panics
    /// When there is none; the message says what there is.
    #[track_caller]
    pub fn assert_enqueued<J: Job>(&self, is_it: impl Fn(&J) -> bool) {
        let all = self.enqueued::<J>();
        if !all.iter().any(is_it) {
            let shown: Vec<_> = all.iter().map(|job| serde_json::to_string(job).unwrap_or_default()).collect();
            panic!("no such `{}` is enqueued; there are {}: {}", J::NAME, all.len(), shown.join(", "));
        }
    }

    /// Lets that much time pass for jobs that are for later: for tests.
    pub fn advance(&self, time: Duration) {
        add(&self.shared.passed, time);
        self.shared.changed.notify();
    }

    /// Puts the clock of jobs back, as an administrator may do with that on the wall: for tests.
    pub fn put_back(&self, time: Duration) {
        add(&self.shared.put_back, time);
        self.shared.changed.notify();
    }

    /// Returns the reason why no job can be enqueued now, as a message for clients. The log has the full reason, once a minute.
    pub(crate) fn ready(&self) -> Result<(), &'static str> {
        self.shared.readiness.ask(|| self.engine.check())
    }

    /// Where they are kept, in words for the log: `sqlite data/jobs.db`.
    pub fn describe(&self) -> String {
        self.engine.describe()
    }

    /// Whether they outlive the process.
    pub fn is_durable(&self) -> bool {
        self.engine.abilities().is_durable
    }

    pub(crate) fn now(&self) -> Millis {
        self.moment().wall
    }

    /// Returns the wall clock and the steady clock at one moment. The thread may be suspended between any two of these
    /// lines.
    pub(super) fn moment(&self) -> Moment {
        static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);
        let [passed, put_back] = [&self.shared.passed, &self.shared.put_back].map(|time| time.load(Ordering::Relaxed));
        let steady = || passed.saturating_add(BEGINNING.elapsed().as_millis() as Millis);
        let earliest = steady();
        let wall = millis(SystemTime::now()).saturating_add(passed).saturating_sub(put_back);
        Moment { wall, earliest, latest: steady() }
    }

    /// Whether a test runs them.
    pub(super) fn is_by_hand(&self) -> bool {
        self.shared.is_by_hand.load(Ordering::Relaxed)
    }

    /// Has all that is enqueued run by that function, at once.
    pub(super) fn run_where_enqueued(&self, run: fn(&Jobs) -> Result<()>) {
        self.for_tests();
        self.shared.inline.get_or_init(|| run);
    }

    /// Leaves the running to a test.
    pub(crate) fn for_tests(&self) {
        self.shared.is_by_hand.store(true, Ordering::Relaxed);
    }

    /// What cannot be used of what was said, all in one.
    ///
    /// # Errors
    /// When there is something.
    pub(crate) fn check(&self) -> Result<()> {
        let problems = &self.plan.problems;
        if problems.is_empty() { Ok(()) } else { Err(Error::internal(problems.join("; "))) }
    }

    /// Makes them that application's.
    pub(crate) fn belong_to(&self, scope: &Scope) {
        // A second application with the same jobs is a test's; the first stays.
        let _ = self.shared.scope.set(scope.downgrade());
    }

    /// The application that they belong to, or the one that this thread works for.
    pub(super) fn scope(&self) -> Scope {
        let own = self.shared.scope.get().and_then(WeakScope::upgrade);
        own.unwrap_or_else(|| Context::current().scope)
    }

    /// Whether what is in a job of that name may not be shown. Nobody knows that of a type that is not registered.
    pub(crate) fn is_private(&self, name: &str) -> bool {
        self.plan.kind(name).is_none_or(|kind| kind.is_private)
    }
}

/// A time of the wall clock, with the steady clock just before and just after, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) wall: Millis,
    pub(super) earliest: Millis,
    pub(super) latest: Millis,
}

fn add(clock: &AtomicI64, time: Duration) {
    let time = Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX);
    let _ = clock.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |clock| Some(clock.saturating_add(time)));
}

impl fmt::Debug for Jobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jobs({})", self.engine.describe())
    }
}

/// The visitor may come again: it is the place where jobs are kept that is not there now.
fn unavailable(error: Error) -> Error {
    let words = "What was to be done for this cannot be kept at the moment. Try again in a minute.";
    Error::new(Status::SERVICE_UNAVAILABLE, words).with_source(error)
}
