//! How far jobs are, for pages that watch them: wherever they run, one thread looks, as long as somebody watches.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use super::record::{JobInfo, JobState, Kept};
use crate::background::registry::{Progress, TaskState};
use crate::error::Result;
use crate::panics::{self, Contained};
use crate::sync::{Notify, lock};
use crate::watch::Watched;

/// Between two looks, unless something ended.
const EVERY: Duration = Duration::from_millis(200);

/// The jobs of this process that somebody watches.
#[derive(Default)]
pub(super) struct Follow {
    followed: Mutex<Followed>,
    changed: Notify,
}

#[derive(Default)]
struct Followed {
    jobs: Vec<(u64, Box<dyn Look>)>,
    is_looked_after: bool,
}

/// What finds a job by its number.
pub(super) trait Find: Fn(u64) -> Result<Option<JobInfo>> + Send + 'static {}

impl<F: Fn(u64) -> Result<Option<JobInfo>> + Send + 'static> Find for F {}

/// Somebody's look at a job.
trait Look: Send {
    /// Whether anybody still watches.
    fn is_watched(&self) -> bool;

    /// Shows what is known of the job now; none when it is there no more.
    fn show(&mut self, job: Option<&JobInfo>);
}

/// What a page shows of a job, as the application makes it.
struct Shown<T, F> {
    watched: Weak<Watched<T>>,
    show: Contained<F>,
    /// What it was made of last.
    of: JobInfo,
}

impl<T: Clone + PartialEq + Send + Sync, F: Fn(&JobInfo) -> T + Send> Look for Shown<T, F> {
    fn is_watched(&self) -> bool {
        self.watched.strong_count() > 0
    }

    fn show(&mut self, job: Option<&JobInfo>) {
        let Some(watched) = self.watched.upgrade() else { return };
        let job = job.cloned().unwrap_or_else(|| discarded(&self.of));
        if job != self.of {
            self.of = job;
            let now = (self.show)(&self.of);
            if *watched.get() != now {
                watched.update(|shown| *shown = now);
            }
        }
        if self.of.state.is_finished() {
            watched.finish();
        }
    }
}

impl Follow {
    /// What a job shows, from now on; none when there is no such job.
    pub(super) fn follow<T, F>(self: &Arc<Follow>, id: u64, show: F, find: impl Find) -> Result<Option<Arc<Watched<T>>>>
    where
        T: Clone + PartialEq + Send + Sync + 'static,
        F: Fn(&JobInfo) -> T + Send + 'static,
    {
        let Some(job) = find(id)? else { return Ok(None) };
        let watched = Arc::new(Watched::new(show(&job)));
        if job.state.is_finished() {
            watched.finish();
            return Ok(Some(watched));
        }
        let look = Shown { watched: Arc::downgrade(&watched), show: Contained::new(show), of: job };
        let mut followed = lock(&self.followed);
        followed.jobs.push((id, Box::new(look)));
        if !followed.is_looked_after {
            followed.is_looked_after = look_after(self.clone(), find);
        }
        Ok(Some(watched))
    }

    /// Looks at once.
    pub(super) fn look(&self) {
        self.changed.notify();
    }

    /// The jobs that somebody still watches. When there are none the thread that asks is not needed.
    fn watched(&self) -> BTreeSet<u64> {
        let mut followed = lock(&self.followed);
        followed.jobs.retain(|(_, look)| look.is_watched());
        followed.is_looked_after = !followed.jobs.is_empty();
        followed.jobs.iter().map(|(id, _)| *id).collect()
    }

    /// Shows what is new of a job to all who watch it, and forgets it when it is over.
    fn show(&self, id: u64, job: Option<&JobInfo>) {
        // Taken out meanwhile: what an application shows may follow a job itself.
        let (mut of_it, others) =
            std::mem::take(&mut lock(&self.followed).jobs).into_iter().partition(|(of, _)| *of == id);
        lock(&self.followed).jobs.extend::<Looks>(others);
        of_it.iter_mut().for_each(|(_, look): &mut (u64, Box<dyn Look>)| {
            if let Err(panic) = panics::catch(|| look.show(job)) {
                log::error!(target: "aside::jobs", "What is shown of job {id} panicked: {panic}");
            }
        });
        if job.is_some_and(|job| !job.state.is_finished()) {
            lock(&self.followed).jobs.extend::<Looks>(of_it);
        }
    }
}

type Looks = Vec<(u64, Box<dyn Look>)>;

/// On a thread that is no task. Whether there is one.
fn look_after(follow: Arc<Follow>, find: impl Find) -> bool {
    let look = move || {
        loop {
            let watched = follow.watched();
            if watched.is_empty() {
                return;
            }
            for id in watched {
                // An engine that cannot be asked is asked again at the next look.
                if let Ok(job) = find(id) {
                    follow.show(id, job.as_ref());
                }
            }
            follow.changed.wait(EVERY);
        }
    };
    let spawned = thread::Builder::new().name("aside-jobs-follow".into()).spawn(look);
    let refused = spawned.err().inspect(|error| {
        log::warn!(target: "aside::jobs", "Nobody can follow jobs, there is no thread for it: {error}");
    });
    refused.is_none()
}

/// A job that somebody took away: to those who watch it, it was cancelled.
fn discarded(job: &JobInfo) -> JobInfo {
    if job.state.is_finished() { job.clone() } else { JobInfo { state: JobState::Cancelled, ..job.clone() } }
}

/// How far a job is, as a task would say it.
pub(super) fn progress(job: &JobInfo) -> Progress {
    let state = match job.state {
        JobState::Waiting | JobState::Scheduled => TaskState::Waiting,
        JobState::Running => TaskState::Running,
        JobState::Done => TaskState::Done,
        JobState::Dead => TaskState::Failed,
        JobState::Cancelled => TaskState::Cancelled,
    };
    let output = if let Kept::Whole(output) = &job.output { Some(output.clone()) } else { None };
    let JobInfo { done, total, is_cancelling, .. } = *job;
    Progress { state, done, total, message: job.message.clone(), is_cancelling, output }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::background::task::TaskContext;
    use crate::jobs::facade::Jobs;
    use crate::jobs::job::Job;

    #[derive(Serialize, Deserialize)]
    struct Quick;

    impl Job for Quick {
        const NAME: &'static str = "quick";

        fn run(self, _task: &TaskContext) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_looks_after_what_nobody_watches() {
        let jobs = Jobs::memory().register::<Quick>();
        let id = jobs.enqueue(Quick).unwrap().id;
        let live = jobs.follow(id).unwrap().unwrap();
        let is_looked_after = || lock(&jobs.shared.follow.followed).is_looked_after;
        assert!(is_looked_after());
        drop(live);
        jobs.shared.follow.look();
        let began = Instant::now();
        while is_looked_after() {
            assert!(began.elapsed() < Duration::from_secs(20), "the thread goes");
            thread::yield_now();
        }
    }
}
