//! The progress of jobs for pages that follow them. One thread polls the engine while there are followers, in whatever
//! process the jobs run.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::job_config::JobConfig;
use super::record::{FailureKind, JobFailure, JobInfo, JobState, Millis, StoredOutput};
use crate::background::progress::{FailedAttempt, Progress, TaskState};
use crate::error::Result;
use crate::panics::{self, Contained};
use crate::sync::{Notify, lock};
use crate::watch::Watched;

/// The interval between two polls, unless a job ends in this process.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The jobs that pages of this process follow.
#[derive(Default)]
pub(super) struct JobFollowers {
    followed: Mutex<Followed>,
    changed: Notify,
}

#[derive(Default)]
struct Followed {
    jobs: Vec<(u64, Box<dyn Follower>)>,
    has_poller: bool,
}

/// A function that finds a job by its id.
pub(super) trait Find: Fn(u64) -> Result<Option<JobInfo>> + Send + 'static {}

impl<F: Fn(u64) -> Result<Option<JobInfo>> + Send + 'static> Find for F {}

/// A follower of a job.
trait Follower: Send {
    /// Returns true while there are watchers.
    fn is_watched(&self) -> bool;

    /// Updates what the page shows of the job; `None` if the job no longer exists.
    fn show(&mut self, job: Option<&JobInfo>);
}

/// The value that a page shows of a job, computed by the application.
struct FollowedJob<T, F> {
    watched: Weak<Watched<T>>,
    show: Contained<F>,
    /// The job that the value was last computed from.
    of: JobInfo,
}

impl<T: Clone + PartialEq + Send + Sync, F: Fn(&JobInfo) -> T + Send> Follower for FollowedJob<T, F> {
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

impl JobFollowers {
    /// Starts to follow a job. Returns the watched value; `None` if there is no such job.
    pub(super) fn follow<T, F>(
        self: &Arc<JobFollowers>,
        id: u64,
        show: F,
        find: impl Find,
    ) -> Result<Option<Arc<Watched<T>>>>
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
        let follower = FollowedJob { watched: Arc::downgrade(&watched), show: Contained::new(show), of: job };
        let mut followed = lock(&self.followed);
        followed.jobs.push((id, Box::new(follower)));
        if !followed.has_poller {
            followed.has_poller = spawn_poller(self.clone(), find);
        }
        Ok(Some(watched))
    }

    /// Polls at once.
    pub(super) fn poll(&self) {
        self.changed.notify();
    }

    /// Returns the jobs that still have watchers. Without any, the polling thread ends.
    fn watched(&self) -> BTreeSet<u64> {
        let mut followed = lock(&self.followed);
        followed.jobs.retain(|(_, follower)| follower.is_watched());
        followed.has_poller = !followed.jobs.is_empty();
        followed.jobs.iter().map(|(id, _)| *id).collect()
    }

    /// Updates the watchers of a job, and removes them when it has ended.
    fn show(&self, id: u64, job: Option<&JobInfo>) {
        // Taken out during the call: the function of the application may follow a job itself.
        let (mut of_it, others) =
            std::mem::take(&mut lock(&self.followed).jobs).into_iter().partition(|(of, _)| *of == id);
        lock(&self.followed).jobs.extend::<Followers>(others);
        of_it.iter_mut().for_each(|(_, follower): &mut (u64, Box<dyn Follower>)| {
            if let Err(panic) = panics::catch(|| follower.show(job)) {
                log::error!(target: "aside::jobs", "The function that shows job {id} panicked: {panic}");
            }
        });
        if job.is_some_and(|job| !job.state.is_finished()) {
            lock(&self.followed).jobs.extend::<Followers>(of_it);
        }
    }
}

type Followers = Vec<(u64, Box<dyn Follower>)>;

/// Starts the polling thread, which is not a task. Returns true if it has started.
fn spawn_poller(follow: Arc<JobFollowers>, find: impl Find) -> bool {
    let follower = move || {
        loop {
            let watched = follow.watched();
            if watched.is_empty() {
                return;
            }
            for id in watched {
                // An unreachable engine is queried again at the next poll.
                if let Ok(job) = find(id) {
                    follow.show(id, job.as_ref());
                }
            }
            follow.changed.wait(POLL_INTERVAL);
        }
    };
    let spawned = thread::Builder::new().name("aside-jobs-follow".into()).spawn(follower);
    let refused = spawned.err().inspect(|error| {
        log::warn!(target: "aside::jobs", "Could not start the thread that follows jobs; pages show no progress: {error}");
    });
    refused.is_none()
}

/// Returns a job that was discarded as its followers see it: cancelled.
fn discarded(job: &JobInfo) -> JobInfo {
    if job.state.is_finished() {
        job.clone()
    } else {
        JobInfo { state: JobState::Cancelled, is_paused: false, ..job.clone() }
    }
}

/// Returns the progress of a job as that of a task.
pub(super) fn progress(job: &JobInfo, config: &JobConfig) -> Progress {
    let state = match job.state {
        JobState::Waiting | JobState::Scheduled => TaskState::Waiting,
        JobState::Running => TaskState::Running,
        JobState::Done => TaskState::Done,
        JobState::Dead => TaskState::Failed,
        JobState::Cancelled => TaskState::Cancelled,
    };
    let output = if let StoredOutput::Whole(output) = &job.output { Some(output.clone()) } else { None };
    let JobInfo { done, total, is_cancelling, is_paused, .. } = *job;
    let due_at = Some(job.due_at).filter(|_| job.state == JobState::Scheduled).and_then(time);
    let (failed, message) = (failed(job, config), job.message.clone());
    Progress { state, done, total, message, is_cancelling, failed, due_at, is_paused, output }
}

/// Returns the last attempt of a job, if it has failed and no other has begun.
fn failed(job: &JobInfo, config: &JobConfig) -> Option<FailedAttempt> {
    let counts = |failure: &&JobFailure| job.state == JobState::Dead || failure.kind != FailureKind::Abandoned;
    let last = job.failures.iter().rev().find(counts);
    let attempt = last.map(|failure| failure.attempt).filter(|attempt| *attempt == job.attempt)?;
    let attempts = match job.state {
        JobState::Waiting | JobState::Scheduled => config.retry(&job.name).attempts().max(attempt),
        JobState::Dead => attempt,
        JobState::Running | JobState::Done | JobState::Cancelled => return None,
    };
    Some(FailedAttempt { attempt, attempts })
}

fn time(millis: Millis) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::jobs::facade::Jobs;
    use crate::jobs::job::tests::Quick;

    #[test]
    #[cfg(feature = "live")]
    fn the_polling_thread_ends_without_watchers() {
        let jobs = Jobs::memory().register::<Quick>();
        let id = jobs.enqueue(Quick).unwrap().id;
        let live = jobs.follow(id).unwrap().unwrap();
        let has_poller = || lock(&jobs.shared.follow.followed).has_poller;
        assert!(has_poller());
        drop(live);
        jobs.shared.follow.poll();
        let began = Instant::now();
        while has_poller() {
            assert!(began.elapsed() < Duration::from_secs(20), "the thread goes");
            thread::yield_now();
        }
    }
}
