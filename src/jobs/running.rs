//! The jobs that run in this process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::engine::{Claimed, HeldJob, Steps};
use super::record::{JobInfo, JobState};
use crate::background::record::{Record, Stop};
use crate::sync::lock;

/// The number of ended jobs of a queue whose outcome the engine has refused and that take no slot.
const MOST_REFUSED: usize = 8;

/// The jobs that run in this process.
#[derive(Default)]
pub(super) struct RunningJobs(Mutex<BTreeMap<(u64, u64), Arc<RunningJob>>>);

/// A job that runs in this process.
pub(super) struct RunningJob {
    pub(super) id: u64,
    token: u64,
    attempt: u32,
    queue: String,
    record: Arc<Record>,
    /// The job was cancelled by a user, and not by the shutdown of the process.
    is_cancelled: AtomicBool,
    /// The job has ended, and its outcome is reported with the next claim.
    is_recording: AtomicBool,
    /// The engine has refused the outcome, which is reported again.
    is_refused: AtomicBool,
    /// The engine has lost the job.
    is_forgotten: AtomicBool,
    /// The progress that was last reported to the engine.
    reported: Mutex<Steps>,
}

impl RunningJob {
    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Records that the outcome is reported with the next claim, which takes the slot of the job.
    pub(super) fn mark_recording(&self) {
        self.is_recording.store(true, Ordering::Release);
    }

    /// Records that the engine has refused the outcome.
    pub(super) fn mark_refused(&self) {
        self.is_refused.store(true, Ordering::Release);
    }

    /// Tells the job to stop: it was given to another worker, and its outcome is discarded.
    pub(super) fn mark_lost(&self) {
        self.record.tell_to_stop(Stop::Asked);
    }

    /// Records that the engine has lost the job: it runs to its end, and its outcome is not reported.
    pub(super) fn mark_forgotten(&self) {
        self.is_forgotten.store(true, Ordering::Release);
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Ordering::Acquire)
    }

    fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        self.record.tell_to_stop(Stop::Asked);
    }

    /// Returns the record of the task that runs the job.
    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Returns the job as a heartbeat reports it.
    pub(super) fn held(&self) -> HeldJob {
        let now = steps(&self.record);
        let has_changed = *lock(&self.reported) != now;
        HeldJob { id: self.id, token: self.token, progress: has_changed.then_some(now) }
    }

    /// Records the progress that a heartbeat has reported.
    pub(super) fn set_reported(&self, held: HeldJob) {
        if let Some(progress) = held.progress {
            *lock(&self.reported) = progress;
        }
    }
}

/// Returns the progress of a task.
pub(super) fn steps(record: &Record) -> Steps {
    let progress = record.progress.get();
    (progress.done, progress.total, progress.message.clone())
}

impl RunningJobs {
    pub(super) fn add(&self, claimed: &Claimed, record: Arc<Record>) -> Arc<RunningJob> {
        let Claimed { id, token, attempt, .. } = *claimed;
        let queue = claimed.queue.clone();
        let reported = Mutex::default();
        let running_job = Arc::new(RunningJob {
            id,
            token,
            attempt,
            queue,
            record,
            is_cancelled: AtomicBool::new(false),
            is_recording: AtomicBool::new(false),
            is_refused: AtomicBool::new(false),
            is_forgotten: AtomicBool::new(false),
            reported,
        });
        lock(&self.0).insert((id, token), running_job.clone());
        running_job
    }

    pub(super) fn remove(&self, running_job: &RunningJob) {
        lock(&self.0).remove(&(running_job.id, running_job.token));
    }

    pub(super) fn all(&self) -> Vec<Arc<RunningJob>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Returns the running attempts of one job: more than one if it was lost and claimed again.
    pub(super) fn of(&self, id: u64) -> Vec<Arc<RunningJob>> {
        lock(&self.0).range((id, 0)..=(id, u64::MAX)).map(|(_, running_job)| running_job.clone()).collect()
    }

    pub(super) fn cancel(&self, id: u64) {
        self.of(id).iter().for_each(|running_job| running_job.cancel());
    }

    /// Returns the number of slots that the jobs of a queue take at the next claim. The engine records the outcomes of the
    /// same call before it claims: these jobs take no slot. Jobs whose outcome it has refused before take one only beyond
    /// [`MOST_REFUSED`].
    pub(super) fn slots_taken(&self, queue: &str) -> usize {
        let (mut running, mut refused) = (0, 0_usize);
        for running_job in lock(&self.0).values().filter(|running_job| running_job.queue == queue) {
            if running_job.is_refused.load(Ordering::Acquire) {
                refused += 1;
            } else if !running_job.is_recording.load(Ordering::Acquire) {
                running += 1;
            }
        }
        running + refused.saturating_sub(MOST_REFUSED)
    }

    /// Updates a job from the engine with the progress that the next heartbeat will report. `before` lists the attempts
    /// that ran before the engine was queried: an attempt that ended during the query is no longer listed here, and the
    /// engine knows an older progress.
    pub(super) fn up_to_date(&self, mut job: JobInfo, before: &[Arc<RunningJob>]) -> JobInfo {
        if job.state == JobState::Running {
            let is_current =
                |running_job: &&Arc<RunningJob>| running_job.id == job.id && running_job.attempt == job.attempt;
            let now = self.of(job.id);
            if let Some(running_job) = now.iter().rev().chain(before.iter().rev()).find(is_current) {
                (job.done, job.total, job.message) = steps(&running_job.record);
                job.is_cancelling |= running_job.record.progress.get().is_cancelling;
            }
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::lineage::Lineage;
    use crate::background::record::Identity;
    use crate::background::registry::Registry;
    use crate::config::Config;
    use crate::jobs::engine::Capacity;
    use crate::jobs::facade::Jobs;
    use crate::jobs::job::tests::Quick;

    /// Regression: a job that ended while the engine was queried went back to the progress of its last heartbeat.
    #[test]
    fn a_job_that_ends_during_a_query_keeps_its_progress() {
        let (jobs, running_jobs) = (Jobs::memory().register::<Quick>(), RunningJobs::default());
        jobs.enqueue(Quick).unwrap();
        let capacities = [Capacity { queue: "default".to_owned(), free: 1 }];
        let worker = jobs.engine.join().unwrap();
        let claimed = jobs.engine.claim(&worker, &capacities, jobs.now()).unwrap().pop().unwrap();
        let running_job = running_jobs
            .add(&claimed, Registry::new(&Config::default()).enter(Identity::test("quick"), Lineage::default()));
        running_job.record.update(|progress| (progress.done, progress.total) = (4, 5));
        let before = running_jobs.of(claimed.id);
        let found = jobs.engine.find(claimed.id).unwrap().unwrap();
        running_jobs.remove(&running_job);
        assert_eq!(running_jobs.up_to_date(found.clone(), &before).done, 4);
        let next = JobInfo { attempt: 2, ..found };
        assert_eq!(running_jobs.up_to_date(next, &before).done, 0, "another attempt starts without progress");
    }
}
