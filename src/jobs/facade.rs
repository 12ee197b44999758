//! The jobs of an application: their store, their configuration, and the operations on them.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use super::engine::{Engine, Enqueued, Entry, MOST_OF_TRACE};
use super::job::{Job, NewJob};
use super::job_config::{JobConfig, current_lineage};
use super::progress::{JobFollowers, progress};
use super::readiness::{self, Readiness};
use super::record::{FailureGroup, JobCounts, JobInfo, JobState, Millis, QueueInfo, ScheduleInfo, WorkerInfo, millis};
use super::running::RunningJobs;
use super::schedule::Schedule;

use crate::background::lineage::LineageTexts;
use crate::background::progress::Progress;
use crate::background::scope::{Context, Scope, WeakScope};
use crate::error::{Error, OrHere, Result, Status};
#[cfg(feature = "live")]
use crate::live::Live;
use crate::sync::{Notify, lock};
use crate::watch::Watched;

/// The number of jobs on one page of a list.
const PAGE: usize = 100;

/// The number of groups of dead jobs that are listed.
const MOST_GROUPS: usize = 20;

/// The jobs of an application, in their store. They are created at its start, given to [`App::jobs`](crate::App::jobs),
/// and returned by [`Request::jobs`](crate::Request::jobs).
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
/// A clone refers to the same jobs. In a test, [`TestJobs`](crate::testing::TestJobs) runs them, lists what is enqueued, and
/// advances their clock.
#[derive(Clone)]
pub struct Jobs {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) config: Arc<JobConfig>,
    pub(super) shared: Arc<Shared>,
}

/// The state that all clones share.
#[derive(Default)]
pub(super) struct Shared {
    /// The time that tests have added, in milliseconds.
    passed: AtomicI64,
    /// The time by which tests have set the wall clock back, in milliseconds.
    set_back: AtomicI64,
    /// True if a test runs the jobs instead of workers.
    is_test_driven: AtomicBool,
    /// The function that runs jobs when they are enqueued.
    inline: OnceLock<fn(&Jobs) -> Result<()>>,
    pub(super) changed: Arc<Notify>,
    pub(super) running_jobs: RunningJobs,
    readiness: Readiness,
    /// The reason why this process cannot reach the engine, for clients, while it cannot.
    outage: Mutex<Option<&'static str>>,
    pub(super) follow: Arc<JobFollowers>,
    /// The application, once it is known.
    pub(super) scope: OnceLock<WeakScope>,
}

impl Jobs {
    pub(crate) fn on(engine: impl Engine) -> Jobs {
        Jobs { engine: Arc::new(engine), config: Arc::default(), shared: Arc::default() }
    }

    fn configure(mut self, change: impl FnOnce(&mut JobConfig)) -> Jobs {
        change(Arc::make_mut(&mut self.config));
        self
    }

    /// Registers a job type, so that it can be enqueued and run. An attempt of a stored job of an unregistered type
    /// fails and is retried, since the next version of the program may register it; in the end the job is dead.
    pub fn register<J: Job>(self) -> Jobs {
        self.configure(|config| config.register::<J>())
    }

    /// Sets the number of jobs of a queue that this process runs at once; 0 for none. A queue that no job names in
    /// [`QUEUE`](Job::QUEUE) becomes known by this.
    pub fn queue(self, name: &str, at_once: usize) -> Jobs {
        self.configure(|config| config.queue(name, at_once))
    }

    /// Sets the number of jobs that this process runs at once of each queue without a setting of its own
    /// ([`queue`](Jobs::queue)); 4. With 0 it enqueues jobs and runs none: another process does
    /// ([`App::work`](crate::App::work)).
    pub fn concurrency(self, at_once: usize) -> Jobs {
        self.configure(|config| config.workers = at_once)
    }

    /// Sets the time without heartbeats after which the jobs of a process are given to another; 20 s, at least 3. With
    /// SQLite, a process on the same machine that has ended is detected at once.
    pub fn lease(self, lease: Duration) -> Jobs {
        self.configure(|config| config.lease = lease.max(Duration::from_secs(3)))
    }

    /// Sets the retention of done and cancelled jobs with their outputs: the maximum age and number; a day and 10,000.
    /// Dead jobs are kept until they are retried or discarded.
    pub fn retention(self, age: Duration, count: u64) -> Jobs {
        self.configure(|config| config.retention = super::engine::Retention { age, count })
    }

    /// Enqueues a job at the times of a crontab with a time zone at its end: `0 3 * * * Europe/Berlin` is each night at
    /// three, on the clocks of Berlin. The fields are minute, hour, day of the month, month, and day of the week.
    ///
    /// The job is enqueued once, even if several processes have the same schedule. If times were missed while no
    /// process ran, the job is enqueued once when the first process starts.
    ///
    /// When the clocks of the zone go forward, a time in the missing hour runs once, at the end of that hour: `30 2 * * *`
    /// at 03:00. When they go back, a time in the repeated hour runs once, the first time. An interval (minute or hour is
    /// `*`, `*/n` or the whole range) continues through both.
    ///
    pub fn cron<J: Job>(self, crontab: &str, job: impl Into<NewJob<J>>) -> Jobs {
        let jobs = self.register::<J>();
        let number = jobs.config.schedules.iter().filter(|schedule| schedule.is_of(J::NAME, crontab)).count();
        let schedule = jobs
            .config
            .entry(job.into(), &LineageTexts::default())
            .and_then(|entry| Schedule::new(crontab, entry, number));
        jobs.configure(|config| match schedule {
            Ok(schedule) => config.schedules.push(schedule),
            Err(error) => config.problems.push(error.context("Jobs::cron").chain()),
        })
    }

    /// Enqueues a job, like [`enqueue`](crate::jobs::enqueue()).
    ///
    /// # Errors
    /// The errors of [`enqueue`](crate::jobs::enqueue()).
    #[track_caller]
    pub fn enqueue<J: Job>(&self, job: impl Into<NewJob<J>>) -> Result<Enqueued> {
        let mut enqueued = self.enqueue_all([job])?;
        // The engine returns one for each job.
        enqueued.pop().ok_or_else(|| Error::internal("the engine returned no job"))
    }

    /// Enqueues several jobs of one type: all or none, and faster than one by one.
    ///
    /// # Errors
    /// The errors of [`enqueue`](crate::jobs::enqueue()); then no job is enqueued.
    #[track_caller]
    pub fn enqueue_all<J: Job, N: Into<NewJob<J>>>(&self, jobs: impl IntoIterator<Item = N>) -> Result<Vec<Enqueued>> {
        let lineage = current_lineage();
        let entries = jobs.into_iter().map(|job| self.config.entry(job.into(), &lineage));
        self.enqueue_entries(entries.collect::<Result<_>>().or_here()?).or_here()
    }

    fn enqueue_entries(&self, entries: Vec<Entry>) -> Result<Vec<Enqueued>> {
        let enqueued = self.engine.enqueue(entries, self.now()).map_err(unavailable)?;
        self.shared.inline.get().map_or(Ok(()), |run| run(self))?;
        Ok(enqueued)
    }

    /// Returns the job with that id, while it is retained.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn find(&self, id: u64) -> Result<Option<JobInfo>> {
        let before = self.shared.running_jobs.of(id);
        let found = self.engine.find(id).or_here()?;
        let job = found.map(|job| self.shared.running_jobs.up_to_date(job, &before));
        let mut jobs: Vec<JobInfo> = job.into_iter().collect();
        self.set_paused(&mut jobs).or_here()?;
        Ok(jobs.pop())
    }

    /// Returns the progress of a job as a live value for a page: in whatever process the job runs, and over all its
    /// attempts. `None` if there is no such job (any more). The template `aside/progress.html` shows it, up to the last
    /// progress and message of the job. The application's own template also has the
    /// [output](crate::TaskContext::output) of a done job: `{% include "aside/progress.html" %} {% if state == "done"
    /// %}{{ output.rows }} rows{% endif %}`.
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
    /// An error if the engine is unreachable.
    #[cfg(feature = "live")]
    #[track_caller]
    pub fn follow(&self, id: u64) -> Result<Option<Live<Progress>>> {
        let config = self.config.clone();
        self.follow_as(id, move |job| progress(job, &config))
    }

    /// Like [`follow`](Jobs::follow), with a value that the application computes from the job, for example from its
    /// [output](JobInfo::output). `show` is called whenever the job changes, on a separate thread.
    ///
    /// ```
    /// use aside::jobs::JobState;
    /// use aside::{Live, Request, Result};
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
    /// An error if the engine is unreachable.
    #[cfg(feature = "live")]
    #[track_caller]
    pub fn follow_as<T, F>(&self, id: u64, show: F) -> Result<Option<Live<T>>>
    where
        T: Clone + PartialEq + Send + Sync + 'static,
        F: Fn(&JobInfo) -> T + Send + 'static,
    {
        Ok(self.watch(id, show).or_here()?.map(Live::of))
    }

    pub(super) fn watch<T, F>(&self, id: u64, show: F) -> Result<Option<Arc<Watched<T>>>>
    where
        T: Clone + PartialEq + Send + Sync + 'static,
        F: Fn(&JobInfo) -> T + Send + 'static,
    {
        let jobs = self.clone();
        self.shared.follow.follow(id, show, move |id| jobs.find(id))
    }

    /// Returns at most 100 jobs in that state, the newest first, starting below the id `before`. Their outputs are left
    /// out; [`output`](Jobs::output) reads one of them.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn list(&self, state: JobState, before: Option<u64>) -> Result<Vec<JobInfo>> {
        self.newest(state, before, PAGE).or_here()
    }

    /// Like [`list`](Jobs::list), with at most `most` jobs.
    pub(crate) fn newest(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
        self.up_to_date(|engine| engine.list(state, before, most))
    }

    /// Returns jobs of the engine with the progress of those that run here.
    pub(super) fn up_to_date(&self, list: impl FnOnce(&dyn Engine) -> Result<Vec<JobInfo>>) -> Result<Vec<JobInfo>> {
        let here = self.shared.running_jobs.all();
        let jobs = list(&*self.engine)?;
        let mut jobs = jobs.into_iter().map(|job| self.shared.running_jobs.up_to_date(job, &here)).collect::<Vec<_>>();
        self.set_paused(&mut jobs)?;
        Ok(jobs)
    }

    /// Returns the jobs of a trace (32 hexadecimal digits), the oldest first: at most [`MOST_OF_TRACE`]. Their outputs are
    /// left out.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(crate) fn of_trace(&self, trace: &str) -> Result<Vec<JobInfo>> {
        self.up_to_date(|engine| engine.of_trace(trace, MOST_OF_TRACE))
    }

    /// Marks the jobs that wait in a paused queue.
    fn set_paused(&self, jobs: &mut [JobInfo]) -> Result<()> {
        let waits = |job: &JobInfo| matches!(job.state, JobState::Waiting | JobState::Scheduled);
        if !jobs.iter().any(waits) {
            return Ok(());
        }
        let paused = self.engine.paused()?;
        jobs.iter_mut().for_each(|job| job.is_paused = waits(job) && paused.contains(&job.queue));
        Ok(())
    }

    /// Returns the number of jobs in each state.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn counts(&self) -> Result<JobCounts> {
        self.engine.counts().or_here()
    }

    /// Returns the queues that have jobs, that are paused, or that this process serves, sorted by name.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn queues(&self) -> Result<Vec<QueueInfo>> {
        let mut queues = self.engine.queues().or_here()?;
        for name in self.config.queues().into_keys() {
            if !queues.iter().any(|queue| queue.name == name) {
                queues.push(QueueInfo {
                    name: name.to_owned(),
                    waiting: 0,
                    running: 0,
                    is_paused: false,
                    oldest_at: None,
                });
            }
        }
        queues.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(queues)
    }

    /// Returns the first waiting jobs of a queue, or of all queues, in the order in which they run.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(crate) fn next_to_run(&self, queue: Option<&str>, most: usize) -> Result<Vec<JobInfo>> {
        self.up_to_date(|engine| engine.next_to_run(queue, most))
    }

    /// Returns the dead jobs grouped by equal errors, those first whose newest job died last: at most [`MOST_GROUPS`] groups.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(crate) fn failure_groups(&self) -> Result<Vec<FailureGroup>> {
        self.engine.failure_groups(MOST_GROUPS)
    }

    /// Returns the processes that run jobs.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(crate) fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.engine.workers()
    }

    /// Returns the schedules of this process, with their last and next due times.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    pub(crate) fn schedules(&self) -> Result<Vec<ScheduleInfo>> {
        let now = self.now();
        self.config.schedules.iter().map(|schedule| schedule.info(&*self.engine, now)).collect()
    }

    /// Enqueues the job of a schedule now, without a change of its due times. Returns `None` if this process has no schedule
    /// with that name ([`ScheduleInfo::name`]).
    ///
    /// # Errors
    /// The errors of [`enqueue`](crate::jobs::enqueue()).
    pub(crate) fn run_schedule_now(&self, name: &str) -> Result<Option<Enqueued>> {
        let Some(schedule) = self.config.schedules.iter().find(|schedule| schedule.name() == name) else {
            return Ok(None);
        };
        Ok(self.enqueue_entries(vec![schedule.new_entry()])?.pop())
    }

    /// Cancels a job: at once if it waits. A running job is told to cancel, and ends where it checks for that
    /// ([`TaskContext::check_cancelled`](crate::TaskContext::check_cancelled)). Returns the state of the job after the call; `None` if
    /// there is no such job.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn cancel(&self, id: u64) -> Result<Option<JobState>> {
        let state = self.engine.cancel(id, self.now()).or_here()?;
        if state == Some(JobState::Running) {
            self.shared.running_jobs.cancel(id);
        }
        self.shared.follow.poll();
        Ok(state)
    }

    /// Retries a dead, cancelled or scheduled job now. A dead or cancelled job gets all its attempts again. Returns
    /// false if the job is in another state.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn retry(&self, id: u64) -> Result<bool> {
        self.engine.revive(id, self.now()).or_here()
    }

    /// Deletes a job that does not run. Returns true if there was one.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn discard(&self, id: u64) -> Result<bool> {
        self.engine.discard(id).or_here()
    }

    /// Pauses a queue in all processes until it is [resumed](Jobs::resume): no job of it is started. Running jobs
    /// continue.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn pause(&self, queue: &str) -> Result<()> {
        self.engine.pause(queue, true).or_here()
    }

    /// Resumes a paused queue.
    ///
    /// # Errors
    /// An error if the engine is unreachable.
    #[track_caller]
    pub fn resume(&self, queue: &str) -> Result<()> {
        self.engine.pause(queue, false).or_here()
    }

    /// Advances the clock of the jobs, for a test.
    pub(crate) fn advance(&self, time: Duration) {
        add(&self.shared.passed, time);
        self.shared.changed.notify();
    }

    /// Sets the wall clock of the jobs back, for a test.
    pub(crate) fn set_clock_back(&self, time: Duration) {
        add(&self.shared.set_back, time);
        self.shared.changed.notify();
    }

    /// Returns the reason why no job can be enqueued now, as a message for clients. The log has the full reason, once a minute.
    pub(crate) fn ready(&self) -> Result<(), &'static str> {
        self.shared.readiness.ask(|| self.engine.check())
    }

    /// Returns the reason why the engine cannot be reached, as a message for clients, if the last call of the runner has failed.
    /// It does not wait for the engine.
    pub(crate) fn outage(&self) -> Option<&'static str> {
        *lock(&self.shared.outage)
    }

    /// Records the result of a call of the runner.
    pub(super) fn note_outage(&self, error: Option<&Error>) {
        *lock(&self.shared.outage) = error.map(readiness::reason);
    }

    /// Returns the store for the log: `sqlite data/jobs.db`.
    pub fn describe(&self) -> String {
        self.engine.describe()
    }

    /// Returns true if the jobs survive the process.
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
        let [passed, set_back] = [&self.shared.passed, &self.shared.set_back].map(|time| time.load(Ordering::Relaxed));
        let steady = || passed.saturating_add(BEGINNING.elapsed().as_millis() as Millis);
        let earliest = steady();
        let wall = millis(SystemTime::now()).saturating_add(passed).saturating_sub(set_back);
        Moment { wall, earliest, latest: steady() }
    }

    /// Returns true if a test runs the jobs.
    pub(super) fn is_test_driven(&self) -> bool {
        self.shared.is_test_driven.load(Ordering::Relaxed)
    }

    /// Runs all enqueued jobs with that function, at once.
    pub(super) fn run_where_enqueued(&self, run: fn(&Jobs) -> Result<()>) {
        self.for_tests();
        self.shared.inline.get_or_init(|| run);
    }

    /// Starts no workers, since a test runs the jobs.
    pub(crate) fn for_tests(&self) {
        self.shared.is_test_driven.store(true, Ordering::Relaxed);
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// An error that lists all invalid settings.
    pub(crate) fn check(&self) -> Result<()> {
        let problems = &self.config.problems;
        if problems.is_empty() { Ok(()) } else { Err(Error::internal(problems.join("; "))) }
    }

    /// Assigns the jobs to an application.
    pub(crate) fn belong_to(&self, scope: &Scope) {
        // Only a test has a second application with the same jobs. The first one stays.
        let _ = self.shared.scope.set(scope.downgrade());
    }

    /// Returns the application of these jobs, or else the one that the current thread works for.
    pub(super) fn scope(&self) -> Scope {
        let own = self.shared.scope.get().and_then(WeakScope::upgrade);
        own.unwrap_or_else(|| Context::current().scope)
    }

    /// Returns true if the content of jobs with that name must not be shown. The content of an unregistered type is
    /// private.
    pub(crate) fn is_private(&self, name: &str) -> bool {
        self.config.kind(name).is_none_or(|kind| kind.is_private)
    }
}

/// A time of the wall clock, with the steady clock just before and just after it, in milliseconds.
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

/// Returns a 503, since the client may retry: only the job store is unavailable.
fn unavailable(error: Error) -> Error {
    let message = "This request cannot be processed at the moment. Please try again in a minute.";
    Error::new(Status::SERVICE_UNAVAILABLE, message).with_source(error)
}
