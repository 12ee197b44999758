//! How far jobs are, for pages that watch them: wherever they run, one thread looks, as long as somebody watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use super::engine::Bell;
use super::record::{JobInfo, JobState};
use super::store::Jobs;
use crate::background::registry::{Progress, TaskState};
use crate::error::Result;
use crate::live::Live;
use crate::sync::lock;
use crate::watched::Watched;

/// Between two looks, unless something ended.
const EVERY: Duration = Duration::from_millis(200);

/// The jobs of this process that somebody watches.
#[derive(Default)]
pub(super) struct Follow {
    followed: Mutex<Followed>,
    bell: Bell,
}

#[derive(Default)]
struct Followed {
    jobs: HashMap<u64, Weak<Watched<Progress>>>,
    is_looked_after: bool,
}

impl Follow {
    /// How far that job is, from now on; none when there is none.
    pub(super) fn follow(&self, jobs: &Jobs, id: u64) -> Result<Option<Live<Progress>>> {
        let Some(job) = jobs.find(id)? else { return Ok(None) };
        let mut followed = lock(&self.followed);
        if let Some(watched) = followed.jobs.get(&id).and_then(Weak::upgrade) {
            return Ok(Some(Live::of(watched)));
        }
        let watched = Arc::new(Watched::new(progress(&job)));
        if job.state.is_finished() {
            watched.finish();
            return Ok(Some(Live::of(watched)));
        }
        followed.jobs.insert(id, Arc::downgrade(&watched));
        if !followed.is_looked_after {
            followed.is_looked_after = look_after(jobs.clone());
        }
        Ok(Some(Live::of(watched)))
    }

    /// Looks at once.
    pub(super) fn look(&self) {
        self.bell.ring();
    }

    /// Those that somebody still watches. When there are none the thread that asks is not needed.
    fn watched(&self) -> Vec<(u64, Arc<Watched<Progress>>)> {
        let mut followed = lock(&self.followed);
        followed.jobs.retain(|_, watched| watched.strong_count() > 0);
        let watched = followed.jobs.iter().filter_map(|(id, watched)| Some((*id, watched.upgrade()?)));
        let watched: Vec<_> = watched.collect();
        followed.is_looked_after = !watched.is_empty();
        watched
    }

    fn forget(&self, id: u64) {
        lock(&self.followed).jobs.remove(&id);
    }
}

/// On a thread that is no task. Whether there is one.
fn look_after(jobs: Jobs) -> bool {
    let look = move || {
        loop {
            let watched = jobs.shared.follow.watched();
            if watched.is_empty() {
                return;
            }
            watched.into_iter().for_each(|(id, watched)| show(&jobs, id, &watched));
            jobs.shared.follow.bell.wait(EVERY);
        }
    };
    let spawned = thread::Builder::new().name("aside-jobs-follow".into()).spawn(look);
    let refused = spawned.err().inspect(|error| {
        log::warn!(target: "aside::jobs", "Nobody can follow jobs, there is no thread for it: {error}");
    });
    refused.is_none()
}

/// Shows what is new of a job. An engine that cannot be asked is asked again at the next look.
fn show(jobs: &Jobs, id: u64, watched: &Watched<Progress>) {
    let Ok(job) = jobs.find(id) else { return };
    let now = job.as_ref().map_or_else(gone, progress);
    let is_over = job.is_none_or(|job| job.state.is_finished());
    if *watched.get() != now {
        watched.update(|shown| *shown = now);
    }
    if is_over {
        jobs.shared.follow.forget(id);
        watched.finish();
    }
}

/// What a page shows of a job that is there no more: it was discarded.
fn gone() -> Progress {
    Progress { state: TaskState::Cancelled, ..Progress::default() }
}

fn progress(job: &JobInfo) -> Progress {
    let state = match job.state {
        JobState::Waiting | JobState::Scheduled => TaskState::Waiting,
        JobState::Running => TaskState::Running,
        JobState::Done => TaskState::Done,
        JobState::Dead => TaskState::Failed,
        JobState::Cancelled => TaskState::Cancelled,
    };
    Progress { state, done: job.done, total: job.total, message: job.message.clone(), is_cancelling: job.is_cancelling }
}
