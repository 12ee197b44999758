//! The jobs of an application in a test: run by the test, with a clock of their own.

use std::fmt;
use std::ops::Deref;
use std::time::{Duration, Instant};

use super::{TIMEOUT, TestClient};
use crate::jobs::{Job, JobInfo, JobState, Jobs};

/// The number of jobs in one state that [`TestJobs::enqueued`] reads.
const MOST: usize = 10_000;

/// The jobs of an application in a test: the methods of [`Jobs`], and those that only a test needs.
///
/// ```
/// use aside::jobs::JobState;
/// use aside::testing::TestClient;
/// use aside::{App, Error, Job, Jobs, Request, Result, TaskContext};
/// use std::time::Duration;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Charge { order: u64 }
///
/// impl Job for Charge {
///     const NAME: &'static str = "charge";
///     fn run(self, task: &TaskContext) -> Result<()> {
///         if task.attempt() == 1 { Err(Error::internal("no credit")) } else { Ok(()) }
///     }
/// }
///
/// let app = App::new()
///     .jobs(Jobs::memory().register::<Charge>())
///     .post("/orders", |req: &mut Request| req.enqueue(Charge { order: 17 }).map(|_| "thank you"));
/// let mut client = TestClient::new(app);
/// client.post("/orders").send();
///
/// let jobs = client.jobs();
/// jobs.assert_enqueued(|charge: &Charge| charge.order == 17);
/// let charge = jobs.run_next().unwrap();
/// assert_eq!((charge.state, &*charge.failures[0].message), (JobState::Scheduled, "no credit"));
/// jobs.advance(Duration::from_secs(5)); // the backoff before the second attempt
/// assert_eq!(jobs.run_next().unwrap().state, JobState::Done);
/// assert_eq!(jobs.counts().unwrap().done, 1); // a method of `Jobs`
/// ```
///
/// A job waits until the test runs it: with [`run_next`](TestJobs::run_next), with [`drain`](TestJobs::drain), or where it
/// is enqueued, after [`inline`](TestJobs::inline). [`TestClient::jobs`](crate::testing::TestClient::jobs) returns the
/// jobs of an application, and [`new`](TestJobs::new) makes a view of jobs without a client.
///
/// A clone refers to the same jobs.
#[derive(Clone)]
pub struct TestJobs(Jobs);

impl TestJobs {
    /// Makes a view of jobs, for a test without a [`TestClient`](crate::testing::TestClient).
    ///
    /// ```
    /// use aside::jobs::JobState;
    /// use aside::testing::TestJobs;
    /// use aside::{Job, Jobs, Result, TaskContext};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Report;
    ///
    /// impl Job for Report {
    ///     const NAME: &'static str = "report";
    ///     fn run(self, task: &TaskContext) -> Result<()> { task.output(&"all is well") }
    /// }
    ///
    /// let jobs = TestJobs::new(&Jobs::memory().register::<Report>());
    /// jobs.enqueue(Report)?;
    /// let report = jobs.run_next().unwrap();
    /// assert_eq!(report.state, JobState::Done);
    /// assert_eq!(jobs.output::<String>(report.id)?.as_deref(), Some("all is well"));
    /// # aside::ok(())
    /// ```
    ///
    /// # Panics
    /// If the jobs have a schedule, and the store cannot be reached.
    pub fn new(jobs: &Jobs) -> TestJobs {
        let jobs = TestJobs::view(jobs);
        jobs.enqueue_scheduled();
        jobs
    }

    pub(super) fn view(jobs: &Jobs) -> TestJobs {
        TestJobs(jobs.clone())
    }

    /// Enqueues the jobs of schedules that are due. The first call starts the schedules.
    fn enqueue_scheduled(&self) {
        self.0.enqueue_scheduled().unwrap_or_else(|error| panic!("cannot enqueue the jobs of schedules: {error:?}"));
    }

    /// Runs the next job that is due, and returns it with its outcome. Returns `None` if no job is due, or if all of them
    /// are in paused queues.
    ///
    /// An isolated job runs in this process, since a test's program cannot be started as the application.
    ///
    /// # Panics
    /// If the job store cannot be read or written.
    #[track_caller]
    pub fn run_next(&self) -> Option<JobInfo> {
        self.0.run_next().unwrap_or_else(|error| panic!("cannot run the next job: {error:?}"))
    }

    /// Runs the jobs that are due, and those that they enqueue, until no job is due. Returns one entry for each attempt, in
    /// order, with its outcome. A scheduled job, or one that waits for a retry, does not run before
    /// [`advance`](TestJobs::advance).
    ///
    /// ```
    /// use aside::testing::TestJobs;
    /// use aside::{Job, Jobs, Result, TaskContext};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Greet(String);
    ///
    /// impl Job for Greet {
    ///     const NAME: &'static str = "greet";
    ///     fn run(self, _task: &TaskContext) -> Result<()> { Ok(()) }
    /// }
    ///
    /// let jobs = TestJobs::new(&Jobs::memory().register::<Greet>());
    /// jobs.enqueue_all(["Ada", "Grace"].map(|name| Greet(name.into())))?;
    /// assert!(jobs.drain().iter().all(|job| job.failures.is_empty()));
    /// assert!(jobs.enqueued::<Greet>().is_empty());
    /// # aside::ok(())
    /// ```
    ///
    /// [`TestClient::drain`](crate::testing::TestClient::drain) waits for background tasks too.
    ///
    /// # Panics
    /// If jobs still enqueue further jobs after 60 s, or if the job store cannot be read or written.
    #[track_caller]
    pub fn drain(&self) -> Vec<JobInfo> {
        let until = Instant::now() + TIMEOUT;
        let mut ran = Vec::new();
        while let Some(job) = self.run_next() {
            assert!(Instant::now() < until, "jobs still enqueue further jobs after {TIMEOUT:?}; the last is {job:?}");
            ran.push(job);
        }
        ran
    }

    /// Runs each job when it is enqueued, from now on, before [`enqueue`](Jobs::enqueue) returns: for a test that checks
    /// the effects of jobs, and not when they run. Jobs that were enqueued before run with the next one.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Error, Job, Jobs, Request, Result, TaskContext};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Charge;
    ///
    /// impl Job for Charge {
    ///     const NAME: &'static str = "charge";
    ///     fn run(self, _task: &TaskContext) -> Result<()> { Err(Error::internal("no credit")) }
    /// }
    ///
    /// let app = App::new()
    ///     .jobs(Jobs::memory().register::<Charge>())
    ///     .post("/orders", |req: &mut Request| req.enqueue(Charge).map(|_| "thank you"));
    /// let mut client = TestClient::new(app);
    /// client.jobs().inline();
    /// assert_eq!(client.post("/orders").send().text(), "thank you");
    /// assert_eq!(client.failures()[0].failure(), Some("no credit"));
    /// ```
    ///
    /// The handler does not receive the failure of a job. A job that is scheduled for later is only stored, and so is one
    /// that is enqueued in a transaction.
    pub fn inline(&self) {
        self.0.run_inline();
    }

    /// Returns the jobs of a type that wait, are scheduled or run, the oldest first; at most 10,000 in each of these
    /// states.
    ///
    /// # Panics
    /// If a stored job cannot be parsed as this type, or if the job store cannot be read.
    #[track_caller]
    pub fn enqueued<J: Job>(&self) -> Vec<J> {
        let mut jobs = Vec::new();
        for state in [JobState::Waiting, JobState::Scheduled, JobState::Running] {
            let listed = self.0.newest(state, None, MOST);
            jobs.extend(listed.unwrap_or_else(|error| panic!("cannot list the {state} jobs: {error:?}")));
        }
        jobs.retain(|job| job.name == J::NAME);
        jobs.sort_by_key(|job| job.id);
        jobs.iter().map(parse).collect()
    }

    /// Fails the test unless `predicate` returns true for a job of that type that waits, is scheduled or runs.
    ///
    /// # Panics
    /// If there is no such job; the message lists the jobs of that type. Also for the reasons of
    /// [`enqueued`](TestJobs::enqueued).
    #[track_caller]
    pub fn assert_enqueued<J: Job>(&self, predicate: impl Fn(&J) -> bool) {
        let jobs = self.enqueued::<J>();
        if !jobs.iter().any(predicate) {
            let shown: Vec<_> = jobs.iter().map(|job| serde_json::to_string(job).unwrap_or_default()).collect();
            panic!("no such `{}` is enqueued; there are {}: {}", J::NAME, jobs.len(), shown.join(", "));
        }
    }

    /// Advances the clock of the jobs: delayed jobs and retries become due, and the schedules of [`Jobs::cron`] enqueue
    /// their jobs. A schedule whose time passed several times enqueues one job. The clock advances for workers too, if the
    /// test starts a server. [`TestClient::advance`](crate::testing::TestClient::advance) also advances the clock of
    /// sessions.
    ///
    /// # Panics
    /// If the jobs have a schedule, and the store cannot be reached.
    pub fn advance(&self, time: Duration) {
        self.0.advance(time);
        self.enqueue_scheduled();
    }

    /// Sets the wall clock of the jobs back, as an administrator does who corrects it.
    pub fn set_clock_back(&self, time: Duration) {
        self.0.set_clock_back(time);
    }
}

#[track_caller]
fn parse<J: Job>(job: &JobInfo) -> J {
    serde_json::from_str(&job.payload)
        .unwrap_or_else(|error| panic!("job {} cannot be parsed as a `{}`: {error}", job.id, J::NAME))
}

impl TestClient {
    /// Returns the application's jobs, which run only when the test says so: with [`drain`](TestClient::drain) or with the
    /// methods of [`TestJobs`].
    ///
    /// ```
    /// # use aside::testing::TestClient;
    /// # use aside::{App, Job, Jobs, Request, Result, TaskContext};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Charge { order: u64 }
    /// # impl Job for Charge {
    /// #     const NAME: &'static str = "charge";
    /// #     fn run(self, _task: &TaskContext) -> Result<()> { Ok(()) }
    /// # }
    /// let app = App::new()
    ///     .jobs(Jobs::memory().register::<Charge>())
    ///     .post("/orders", |req: &mut Request| req.enqueue(Charge { order: 17 }).map(|_| "thank you"));
    /// let mut client = TestClient::new(app);
    /// client.post("/orders").send();
    /// client.jobs().assert_enqueued(|charge: &Charge| charge.order == 17);
    /// ```
    ///
    /// # Panics
    /// If the application has no jobs.
    #[track_caller]
    pub fn jobs(&self) -> TestJobs {
        self.find_jobs().expect("the application has no jobs: add them with `App::jobs`")
    }

    fn find_jobs(&self) -> Option<TestJobs> {
        self.service.scope().get::<Jobs>().map(|jobs| TestJobs::view(&jobs))
    }

    pub(super) fn start_schedules(&self) {
        if let Some(jobs) = self.find_jobs() {
            jobs.enqueue_scheduled();
        }
    }

    pub(super) fn advance_jobs(&self, time: Duration) {
        if let Some(jobs) = self.find_jobs() {
            jobs.advance(time);
        }
    }

    /// Runs the next job that is due. Returns false if none is.
    pub(super) fn runs_next_job(&self) -> bool {
        self.find_jobs().and_then(|jobs| jobs.run_next()).is_some()
    }
}

impl Deref for TestJobs {
    type Target = Jobs;

    fn deref(&self) -> &Jobs {
        &self.0
    }
}

impl fmt::Debug for TestJobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Test{:?}", self.0)
    }
}
