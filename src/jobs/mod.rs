//! Jobs: work that must survive the process.
//!
//! A [`Job`] is a value that can be written down and run later. [`enqueue`] keeps it with the application's [`Jobs`], which
//! hand it to one worker at a time, try it again where it fails, and keep what cannot be done until somebody looks.
//!
//! `engine` is what keeps them, `plan` what may be enqueued and how it is tried, `store` all that can be done with
//! them, `worker` who runs them, `attempt` one try from beginning to end.

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
mod progress;
mod readiness;
pub(crate) mod record;
#[cfg(feature = "redis")]
mod redis;
pub(crate) mod runner;
mod running;
mod schedule;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "sqlite")]
mod transaction;
mod trouble;
mod wait;

pub use self::engine::Enqueued;
pub use self::facade::Jobs;
pub use self::job::{Job, NewJob};
pub use self::record::{JobCounts, JobFailure, JobInfo, JobState, QueueInfo};

use crate::background::scope::Context;
use crate::background::task::TaskContext;
use crate::error::{Error, Result};
use crate::http::request::Request;

/// Keeps a job of the application that this is called in: from a handler, a task, another job.
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
///     let enqueued = aside::enqueue(Remind { order })?;
///     log::info!("order {order} is job {}", enqueued.id);
///     Ok(())
/// }
/// ```
///
/// It is durable when this returns: on disk with SQLite, and with Redis as its `appendonly` and `appendfsync` say.
///
/// # Errors
/// When the application has no jobs ([`App::jobs`](crate::App::jobs)), the type is not registered, the queue not known, the
/// job cannot be written as JSON or is larger than 1 MiB; and with 503 when the engine cannot keep it now. Nothing
/// was kept then, unless the answer of a Redis server was lost on its way.
pub fn enqueue<J: Job>(job: impl Into<NewJob<J>>) -> Result<Enqueued> {
    Jobs::current()?.enqueue(job)
}

impl Request {
    /// Keeps a job: [`enqueue`].
    ///
    /// # Errors
    /// As [`enqueue`].
    pub fn enqueue<J: Job>(&self, job: impl Into<NewJob<J>>) -> Result<Enqueued> {
        self.jobs()?.enqueue(job)
    }

    /// The application's jobs: to look at them, to follow one, to cancel it.
    ///
    /// # Errors
    /// When it has none.
    pub fn jobs(&self) -> Result<Jobs> {
        self.scope().get::<Jobs>().map(|jobs| Jobs::clone(&jobs)).ok_or_else(no_jobs)
    }
}

impl TaskContext {
    /// The application's jobs.
    ///
    /// # Errors
    /// When it has none.
    pub fn jobs(&self) -> Result<Jobs> {
        Jobs::current()
    }
}

impl Jobs {
    /// Those of the application that this thread works for.
    ///
    /// # Errors
    /// When it has none, or there is no application.
    pub fn current() -> Result<Jobs> {
        Context::current().scope.get::<Jobs>().map(|jobs| Jobs::clone(&jobs)).ok_or_else(no_jobs)
    }
}

fn no_jobs() -> Error {
    Error::internal("this application has no jobs: give it some with `App::jobs(Jobs::sqlite(\"data/jobs.db\")?)`")
}
