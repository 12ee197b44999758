//! What a job is, and when and how it is to be run.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::engine::When;
use super::record::{Millis, millis};
use crate::background::task::{Retry, TaskContext};
use crate::error::Result;

/// Work that survives the process: a value that is written down when it is enqueued, and run by a worker later.
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
/// **At least once.** A job whose process ends under it runs again, from its beginning: write it so that this does no harm,
/// or let it record what it did with [`transaction`](crate::TaskContext#method.transaction). It is never lost without a word: what
/// cannot be done is kept as dead, with the failure of each try.
///
/// What is written down is read by later versions of the program too: give a new field `#[serde(default)]`.
pub trait Job: Serialize + DeserializeOwned + Send + 'static {
    /// What it is called where it is kept. No two types of an application have the same, and it stays when the type is
    /// renamed.
    const NAME: &'static str;

    /// The queue that it waits in, unless [`queue`](Job::queue) names another.
    const QUEUE: &'static str = "default";

    /// How long one try may take. Past that it is told to cancel ([`TaskContext::is_cancelled`]), and the try has failed.
    /// One that is [isolated](Job::ISOLATED) is killed. None by default; 15 minutes for an isolated one.
    const DEADLINE: Option<Duration> = None;

    /// Runs it in a child process of the same program, which may crash, hang or take all memory: that is a failure of this
    /// job, and nobody else notices. Starting one takes some milliseconds. False by default. On Unix alone.
    ///
    /// The child comes through the program's `main` to [`App::run`](crate::App::run) or [`work`](crate::App::work) as its
    /// parent did, so what must happen once is not for the way there. What it logs and prints, its progress and its output
    /// come to the parent; what it changes in memory (state, a [`Live`](crate::Live), a cache) stays in the child. Of its error
    /// [`Retry::only_if`] sees the words and the status. What it sets aside itself is waited for, within the deadline.
    const ISOLATED: bool = false;

    /// How many bytes of memory an isolated job may have, itself and each process that it starts; 2 GiB. 0 is as many as there
    /// are.
    const MEMORY: u64 = 2 << 30;

    /// Whether what is in it is nobody's business: then the panel does not show it. It is written down all the same.
    const PRIVATE: bool = false;

    /// How often it is tried, and with what waits: 20 times over about nine hours, the first time again after 5 s.
    fn retry() -> Retry {
        Retry::exponential(20, Duration::from_secs(5))
    }

    /// What the log and the panel call it: its [`NAME`](Job::NAME), or more. A log is no place for who somebody is.
    fn label(&self) -> String {
        Self::NAME.to_owned()
    }

    /// Does it.
    ///
    /// # Errors
    /// What went wrong. It is tried again as [`retry`](Job::retry) says, and then kept as dead. An error that comes from
    /// [`TaskContext::check`] means that it was cancelled.
    fn run(self, task: &TaskContext) -> Result<()>;

    /// To begin after that time at the earliest.
    fn delay(self, wait: Duration) -> NewJob<Self> {
        NewJob::from(self).delay(wait)
    }

    /// To begin at that time at the earliest.
    fn at(self, time: SystemTime) -> NewJob<Self> {
        NewJob::from(self).at(time)
    }

    /// To be there once: see [`NewJob::unique`].
    fn unique(self, key: impl Into<String>) -> NewJob<Self> {
        NewJob::from(self).unique(key)
    }

    /// To wait in that queue.
    fn queue(self, name: impl Into<String>) -> NewJob<Self> {
        NewJob::from(self).queue(name)
    }

    /// To go before or after others: see [`NewJob::priority`].
    fn priority(self, priority: i32) -> NewJob<Self> {
        NewJob::from(self).priority(priority)
    }
}

/// A job that is about to be enqueued, with when and how.
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
    /// To begin after that time at the earliest.
    pub fn delay(self, wait: Duration) -> NewJob<J> {
        let wait = Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX / 2);
        NewJob { when: When::After(wait), ..self }
    }

    /// To begin at that time of the clock on the wall at the earliest.
    pub fn at(self, time: SystemTime) -> NewJob<J> {
        NewJob { when: When::At(millis(time)), ..self }
    }

    /// To be there once: while a job of this type with this key waits or runs, another is not kept, and
    /// [`enqueue`](crate::enqueue()) gives back the id of the one that is there. One that has ended, well or not, is in nobody's way.
    /// A key over 1,000 bytes is stored as its hash.
    pub fn unique(self, key: impl Into<String>) -> NewJob<J> {
        NewJob { unique: Some(key.into()), ..self }
    }

    /// To wait in that queue, in the place of [`Job::QUEUE`].
    pub fn queue(self, name: impl Into<String>) -> NewJob<J> {
        NewJob { queue: Some(name.into()), ..self }
    }

    /// To go before or after others of its queue; 0 by default, from -1,000 to 1,000. Each point counts as if it had been
    /// enqueued a minute earlier: what is urgent goes first, and nothing waits for ever.
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
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Plain;

    impl Job for Plain {
        const NAME: &'static str = "plain";

        fn run(self, _task: &TaskContext) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_job_is_retried_for_about_nine_hours() {
        let retry = Plain::retry();
        let waits: Duration = (1..retry.tries()).map(|failed| retry.wait(failed).unwrap()).sum();
        let hours = waits.as_secs_f64() / 3600.0;
        assert!(retry.tries() == 20 && (7.5..10.5).contains(&hours), "{hours}");
        let told = ["over about nine hours, kept as dead", "20 times over about nine hours unless"];
        assert!(told.iter().all(|words| include_str!("../../README.md").contains(words)));
    }
}
