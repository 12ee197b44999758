//! Waiting for the end of a job, wherever it runs, and its output.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::facade::Jobs;
use super::record::{JobInfo, JobState};
use crate::background::failure::Cancelled;
use crate::background::record::Record;
use crate::background::scope::Context;
use crate::deadline;
use crate::error::{Error, OrHere, Result, Status};
use crate::log_text::span;
use crate::sync::Notify;
use crate::watch::{Watched, watcher_id};
use crate::worker_share::{self, Wait};

/// How often a task that waits checks whether it was told to cancel.
const CHECK: Duration = Duration::from_millis(100);

impl Jobs {
    /// Returns the output of a done job ([`TaskContext::output`](crate::TaskContext::output)), in whatever process it
    /// ran. `None` if the job is not done, has no output, or no longer exists; its state from [`find`](Jobs::find)
    /// distinguishes these.
    ///
    /// ```
    /// # use aside::{Jobs, Result};
    /// fn rows(jobs: &Jobs, id: u64) -> Result<String> {
    ///     let rows: Option<u64> = jobs.output(id)?;
    ///     Ok(rows.map_or("not imported".to_owned(), |rows| format!("{rows} rows")))
    /// }
    /// ```
    ///
    /// # Errors
    /// An error if the engine is unreachable, or the output is not a `T`.
    #[track_caller]
    pub fn output<T: for<'de> Deserialize<'de>>(&self, id: u64) -> Result<Option<T>> {
        self.find(id)?.map_or(Ok(None), |job| job.output()).or_here()
    }

    /// Waits until a job is done, dead or cancelled, in whatever process it runs, and returns it. The retries of a job that
    /// fails are part of the wait.
    ///
    /// ```
    /// # use aside::jobs::JobState;
    /// # use aside::{Job, Request, Response, Result, TaskContext, redirect};
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Quote { miles: u32 }
    /// # impl Job for Quote {
    /// #     const NAME: &'static str = "quote";
    /// #     fn run(self, task: &TaskContext) -> Result<()> { task.output(&(self.miles * 2)) }
    /// # }
    /// use std::time::Duration;
    ///
    /// fn quote(req: &mut Request) -> Result<String> {
    ///     let id = req.enqueue(Quote { miles: 17 })?.id;
    ///     let job = req.jobs()?.wait(id, Duration::from_secs(5))?;
    ///     Ok(match job.output::<u32>()? {
    ///         Some(price) => format!("It costs {price} dollars."),
    ///         None => format!("The quote is {}.", job.state), // dead or cancelled
    ///     })
    /// }
    /// ```
    ///
    /// The end of a job in this process is noticed at once, and in another within 200 ms. A handler that waits occupies its
    /// worker, and only a share of the workers may wait (`ASIDE_MAX_WAITING`): a page that [follows](Jobs::follow) the job is
    /// better. A job that waits for another job of its own queue occupies a slot of that queue.
    ///
    /// In a test with a [`TestClient`](crate::testing::TestClient) no worker runs jobs: the wait runs those that are due,
    /// until this one has ended.
    ///
    /// # Errors
    /// 504 if the job has not ended after `timeout`; the source says what state it is in. 404 if there is no such job, or it
    /// was discarded during the wait. 503 if too many workers already wait. An error if the engine is unreachable at the
    /// beginning, if a job waits for itself, if the task that waits was told to cancel, and in a test if the job is scheduled
    /// for later or its queue is paused.
    #[track_caller]
    pub fn wait(&self, id: u64, timeout: Duration) -> Result<JobInfo> {
        let task = Context::current().task;
        if task.as_ref().is_some_and(|task| {
            self.shared.running_jobs.of(id).iter().any(|running_job| Arc::ptr_eq(running_job.record(), task))
        }) {
            return Err(Error::internal(format!("job {id} cannot wait for its own end")));
        }
        let until = deadline::after(timeout);
        if self.is_test_driven() {
            self.run_until_ended(id).or_here()?;
        }
        let watched = self.watch(id, JobInfo::clone).or_here()?.ok_or_else(|| not_kept(id)).or_here()?;
        let job = wait_for(&watched, until, task.as_deref()).or_here()?;
        if !job.state.is_finished() {
            return Err(too_late(&job, timeout));
        }
        // A deleted job is shown as cancelled.
        let is_kept = job.state != JobState::Cancelled || self.engine.find(id).or_here()?.is_some();
        if is_kept { Ok(job) } else { Err(not_kept(id)) }
    }

    /// Runs due jobs in a test, until that job has ended.
    fn run_until_ended(&self, id: u64) -> Result<()> {
        while let Some(job) = self.find(id)?.filter(|job| !job.state.is_finished()) {
            if self.run_next()?.is_some() {
                continue;
            }
            // Another thread of the test runs it.
            if job.state == JobState::Running {
                return Ok(());
            }
            let message = "in a test, no worker runs it: advance the clock (`TestClient::advance`) or resume its queue";
            return Err(Error::internal(format!("{} is {}, and {message}", named(&job), job.state)));
        }
        Ok(())
    }
}

/// Waits for the end of a job, at most until the deadline. Returns the job as it is then.
fn wait_for(watched: &Watched<JobInfo>, until: Instant, task: Option<&Record>) -> Result<JobInfo> {
    let (me, changed) = (watcher_id(), Arc::new(Notify::default()));
    let mut share = None;
    loop {
        let seen = watched.look();
        let left = until.saturating_duration_since(Instant::now());
        if seen.is_finished || left.is_zero() {
            return Ok(JobInfo::clone(&seen.value));
        }
        if task.is_some_and(Record::is_cancelled) {
            return Err(Cancelled.into());
        }
        if share.is_none() {
            share = Some(worker_share::wait(Wait::Job)?);
        }
        let notify = changed.clone();
        watched.call_when_new(me, seen.version, Arc::new(move || notify.notify()));
        // A cancellation does not notify the changed.
        changed.wait(if task.is_some() { left.min(CHECK) } else { left });
    }
}

fn named(job: &JobInfo) -> String {
    format!("job {} ({})", job.id, job.label)
}

fn not_kept(id: u64) -> Error {
    Error::not_found(format!("There is no job {id}, or it was deleted."))
}

fn too_late(job: &JobInfo, timeout: Duration) -> Error {
    let message = format!("{} is still {} after {}", named(job), job.state, span(timeout));
    Error::new(Status::GATEWAY_TIMEOUT, "This takes longer than expected. Please try again in a minute.")
        .with_source(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::job::tests::Quick;
    use crate::worker_share::tests::one_of_two_workers_is_refused;

    #[test]
    fn only_a_share_of_the_workers_waits_for_jobs() {
        let jobs = Jobs::memory().register::<Quick>();
        let id = jobs.enqueue(Quick).unwrap().id;
        let job = one_of_two_workers_is_refused(
            || jobs.wait(id, Duration::from_secs(60)),
            || assert_eq!(jobs.cancel(id).unwrap(), Some(JobState::Cancelled)),
        );
        assert_eq!(job.state, JobState::Cancelled);
    }
}
