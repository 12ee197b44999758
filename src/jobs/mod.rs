//! Background jobs that survive the process.
//!
//! A [`Job`] is a value that is serialized and run later. [`enqueue`] stores it with the application's [`Jobs`]. The
//! engine gives each job to one worker at a time. A job that fails is retried; a job that fails for good is kept as a
//! dead job until it is retried or discarded.
//!
//! ```
//! use aside::jobs::JobState;
//! use aside::testing::TestClient;
//! use aside::{App, Job, Jobs, Result, TaskContext};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Receipt { order: u64 }
//!
//! impl Job for Receipt {
//!     const NAME: &'static str = "receipt";
//!     fn run(self, _task: &TaskContext) -> Result<()> {
//!         println!("order {}", self.order);
//!         Ok(())
//!     }
//! }
//!
//! let client = TestClient::new(App::new().jobs(Jobs::memory().register::<Receipt>()));
//! let id = client.jobs().enqueue(Receipt { order: 17 })?.id;
//! client.drain();
//! assert_eq!(client.jobs().find(id)?.unwrap().state, JobState::Done);
//! # aside::ok(())
//! ```

// `engine` defines what a job store must do, `job_config` the types of jobs and their options, `facade` the public
// operations on jobs, `runner` the job runner of a process, `attempt` one attempt from its start to its outcome.

mod attempt;
mod backends;
#[cfg(test)]
pub(crate) mod conformance;
mod crontab;
pub(crate) mod engine;
mod facade;
mod job;
mod job_config;
mod memory;
mod outage_log;
mod progress;
mod readiness;
pub(crate) mod record;
mod recorder;
#[cfg(feature = "redis")]
mod redis;
pub(crate) mod runner;
mod running;
mod schedule;
pub(crate) mod search;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod transaction;
mod wait;

/// The database of [`Jobs::enqueue_in`] and [`TaskContext::transaction`], in the version that they take.
#[cfg(feature = "sqlite")]
pub use rusqlite;

pub use self::engine::Enqueued;
pub use self::facade::Jobs;
pub use self::job::{Job, NewJob};
pub use self::record::{FailureKind, JobCounts, JobFailure, JobInfo, JobState, QueueInfo};

use crate::background::scope::Context;
use crate::background::task_context::TaskContext;
use crate::error::{Error, OrHere, Result};
use crate::http::request::Request;

/// Enqueues a job of the current application: from a handler, a task or another job.
///
/// ```no_run
/// # use aside::{Job, Result, TaskContext};
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Remind { order: u64 }
/// # impl Job for Remind {
/// #     const NAME: &'static str = "remind";
/// #     fn run(self, _task: &TaskContext) -> Result<()> { Ok(()) }
/// # }
/// fn paid(order: u64) -> Result<()> {
///     let enqueued = aside::jobs::enqueue(Remind { order })?;
///     log::info!("order {order} is job {}", enqueued.id);
///     Ok(())
/// }
/// ```
///
/// The job is durable when this returns: on disk with SQLite, and with Redis according to its `appendonly` and
/// `appendfsync`.
///
/// # Errors
/// An error if the application has no jobs ([`App::jobs`](crate::App::jobs)), the type is not registered, the queue is
/// unknown, or the job cannot be written as JSON or is larger than 1 MiB; a 503 if the engine cannot store it now. No
/// job was stored then, unless the reply of a Redis server was lost.
#[track_caller]
pub fn enqueue<J: Job>(job: impl Into<NewJob<J>>) -> Result<Enqueued> {
    Jobs::current()?.enqueue(job)
}

impl Request {
    /// Enqueues a job, like [`enqueue`].
    ///
    /// # Errors
    /// The errors of [`enqueue`].
    #[track_caller]
    pub fn enqueue<J: Job>(&self, job: impl Into<NewJob<J>>) -> Result<Enqueued> {
        self.jobs()?.enqueue(job)
    }

    /// Returns the application's jobs: to list them, to follow one, to cancel one.
    ///
    /// # Errors
    /// An error if the application has no jobs.
    #[track_caller]
    pub fn jobs(&self) -> Result<Jobs> {
        self.scope().get::<Jobs>().map(|jobs| Jobs::clone(&jobs)).ok_or_else(no_jobs).or_here()
    }
}

impl TaskContext {
    /// Returns the application's jobs.
    ///
    /// # Errors
    /// An error if the application has no jobs.
    #[track_caller]
    pub fn jobs(&self) -> Result<Jobs> {
        Jobs::current()
    }
}

impl Jobs {
    /// Returns the jobs of the application that the current thread works for.
    ///
    /// # Errors
    /// An error if that application has no jobs, or if there is no application.
    #[track_caller]
    pub fn current() -> Result<Jobs> {
        Context::current().scope.get::<Jobs>().map(|jobs| Jobs::clone(&jobs)).ok_or_else(no_jobs).or_here()
    }
}

fn no_jobs() -> Error {
    Error::internal("this application has no jobs: add them with `App::jobs(Jobs::sqlite(\"data/jobs.db\")?)`")
}
