//! The job trait, and the options of a new job.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::When;
use super::record::{Millis, millis};
use crate::background::retry::Retry;
use crate::background::task_context::TaskContext;
use crate::error::Result;

/// Work that survives the process: a value that is serialized when it is enqueued, and run by a worker later.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Job, Jobs, Request, Response, Result, TaskContext, redirect};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct ResizePhoto { id: i64 }
///
/// impl Job for ResizePhoto {
///     const NAME: &'static str = "resize-photo";
///
///     fn run(self, task: &TaskContext) -> Result<()> {
///         task.progress(1, 1);
///         println!("photo {} is small now", self.id);
///         Ok(())
///     }
/// }
///
/// fn upload(req: &mut Request) -> Result<Response> {
///     req.enqueue(ResizePhoto { id: 17 })?; // kept when this returns
///     Ok(redirect("/photos/17"))
/// }
///
/// // Jobs::sqlite("data/jobs.db")? in a real site
/// let app = App::new().jobs(Jobs::memory().register::<ResizePhoto>()).post("/photos", upload);
/// let mut client = TestClient::new(app);
/// client.post("/photos").send();
/// client.drain();
/// ```
///
/// **At least once.** A job whose process ends during an attempt runs again, from its beginning: make it idempotent, or
/// let it record its effects with [`transaction`](crate::TaskContext#method.transaction). A job is never lost silently:
/// one that fails for good is kept as a dead job, with the failures of its attempts.
///
/// Later versions of the program read the serialized value too: give a new field `#[serde(default)]`.
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// The name under which the job is stored. It is unique in an application, and stays when the type is renamed.
    const NAME: &'static str;

    /// The queue of the job, unless [`queue`](Job::queue) names another.
    const QUEUE: &'static str = "default";

    /// The deadline of one attempt. After it the job is told to cancel ([`TaskContext::is_cancelled`]), and the attempt
    /// has failed. An [isolated](Job::ISOLATED) job is killed. None by default; 15 minutes for an isolated job.
    const DEADLINE: Option<Duration> = None;

    /// True to run the job in a child process of the same program. If the job crashes, hangs or takes all memory, only
    /// this job fails. The start of a child takes some milliseconds. False by default. Unix only.
    ///
    /// The child runs the program's `main` up to [`App::run`](crate::App::run) or [`work`](crate::App::work), like its
    /// parent, so code that must run once belongs elsewhere. Logs, output, progress and the job's output reach the
    /// parent; changes in memory (state, a [`Live`](crate::Live), a cache) stay in the child. [`Retry::only_if`] sees
    /// the message and the status of the job's error. Background tasks that the job starts are drained within the
    /// deadline.
    const ISOLATED: bool = false;

    /// The memory limit of an isolated job, in bytes, for its process and each process that it starts; 2 GiB. 0 for no
    /// limit.
    const MEMORY: u64 = 2 << 30;

    /// True if the content of the job is private: the panel does not show it. It is still stored.
    const PRIVATE: bool = false;

    /// Returns the retry policy: 20 attempts over about nine hours, with a first backoff of 5 s.
    fn retry() -> Retry {
        Retry::exponential(20, Duration::from_secs(5))
    }

    /// Returns the label of the job in the log and the panel: its [`NAME`](Job::NAME), or more. It must not contain
    /// personal data.
    fn label(&self) -> String {
        Self::NAME.to_owned()
    }

    /// Runs the job.
    ///
    /// # Errors
    /// The failure of the attempt. The job is retried according to [`retry`](Job::retry), and then kept as dead. An
    /// error of [`TaskContext::check_cancelled`] means that the job was cancelled.
    fn run(self, task: &TaskContext) -> Result<()>;

    /// Sets the delay before which the job does not start.
    fn delay(self, wait: Duration) -> NewJob<Self> {
        NewJob::from(self).delay(wait)
    }

    /// Sets the time before which the job does not start.
    fn at(self, time: SystemTime) -> NewJob<Self> {
        NewJob::from(self).at(time)
    }

    /// Sets the unique key: see [`NewJob::unique`].
    fn unique(self, key: impl Into<String>) -> NewJob<Self> {
        NewJob::from(self).unique(key)
    }

    /// Sets the queue.
    fn queue(self, name: impl Into<String>) -> NewJob<Self> {
        NewJob::from(self).queue(name)
    }

    /// Sets the priority: see [`NewJob::priority`].
    fn priority(self, priority: i32) -> NewJob<Self> {
        NewJob::from(self).priority(priority)
    }
}

/// A job to be enqueued, with its options.
///
/// ```
/// use aside::{Job, Result, TaskContext};
/// use std::time::Duration;
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Remind { order: u64 }
///
/// impl Job for Remind {
///     const NAME: &'static str = "remind";
///     fn run(self, _task: &TaskContext) -> Result<()> { Ok(()) }
/// }
///
/// # fn shown(req: &mut aside::Request) -> Result<()> {
/// req.enqueue(Remind { order: 17 }.delay(Duration::from_secs(3600)).unique("order-17"))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "it is kept by `enqueue`"]
pub struct NewJob<J> {
    pub(crate) job: J,
    pub(crate) queue: Option<String>,
    pub(crate) priority: i32,
    pub(crate) unique: Option<String>,
    pub(crate) when: When,
}

impl<J: Job> From<J> for NewJob<J> {
    fn from(job: J) -> NewJob<J> {
        NewJob { job, queue: None, priority: 0, unique: None, when: When::Now }
    }
}

impl<J: Job> NewJob<J> {
    /// Sets the delay before which the job does not start.
    pub fn delay(self, wait: Duration) -> NewJob<J> {
        let wait = Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX / 2);
        NewJob { when: When::After(wait), ..self }
    }

    /// Sets the wall clock time before which the job does not start.
    pub fn at(self, time: SystemTime) -> NewJob<J> {
        NewJob { when: When::At(millis(time)), ..self }
    }

    /// Sets the unique key: while a job of this type with this key waits, is scheduled or runs,
    /// [`enqueue`](crate::jobs::enqueue()) stores no second one and returns the id of the existing job. Finished jobs do not
    /// count. A key over 1,000 bytes is stored as its hash.
    pub fn unique(self, key: impl Into<String>) -> NewJob<J> {
        NewJob { unique: Some(key.into()), ..self }
    }

    /// Sets the queue, instead of [`Job::QUEUE`].
    pub fn queue(self, name: impl Into<String>) -> NewJob<J> {
        NewJob { queue: Some(name.into()), ..self }
    }

    /// Sets the priority within the queue; 0 by default, from -1,000 to 1,000. Each point counts as if the job had been
    /// enqueued a minute earlier: urgent jobs go first, and no job starves.
    pub fn priority(self, priority: i32) -> NewJob<J> {
        NewJob { priority: priority.clamp(-1_000, 1_000), ..self }
    }
}

impl<J: Job> fmt::Debug for NewJob<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewJob").field("name", &J::NAME).field("when", &self.when).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde::Deserialize;

    use super::*;

    /// A job that does nothing, for the unit tests of `jobs`.
    #[derive(Serialize, Deserialize)]
    pub(in crate::jobs) struct Quick;

    impl Job for Quick {
        const NAME: &'static str = "quick";

        fn run(self, _task: &TaskContext) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_job_is_retried_for_about_nine_hours() {
        let retry = Quick::retry();
        let waits: Duration = (1..retry.attempts()).map(|failed| retry.wait(failed).unwrap()).sum();
        let hours = waits.as_secs_f64() / 3600.0;
        assert!(retry.attempts() == 20 && (7.5..10.5).contains(&hours), "{hours}");
        let told = ["over about nine hours, then retained as a dead job", "20 attempts over about nine hours"];
        assert!(told.iter().all(|message| include_str!("../../docs/guide/07-jobs.md").contains(message)));
    }
}
