//! What a process has in its hands: the jobs that run here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::engine::{Claimed, Held, Steps};
use super::record::{JobInfo, JobState};
use crate::background::registry::{Record, Stop};
use crate::sync::lock;

/// How many of a queue may have ended without the engine knowing it, beside those that run.
const MOST_ENDING: usize = 8;

/// What a process has in its hands.
#[derive(Default)]
pub(super) struct Hands(Mutex<BTreeMap<(u64, u64), Arc<InHand>>>);

/// One job that runs here.
pub(super) struct InHand {
    pub(super) id: u64,
    token: u64,
    attempt: u32,
    queue: String,
    record: Arc<Record>,
    /// Somebody has cancelled the job, and not the process its tasks.
    is_cancelled: AtomicBool,
    /// It has ended, and the engine is being told.
    is_ending: AtomicBool,
    /// The engine has lost the job.
    is_forgotten: AtomicBool,
    /// How far the engine knows it to be.
    told: Mutex<Steps>,
}

impl InHand {
    pub(super) fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Its body has ended: the next may begin while the engine is told.
    pub(super) fn ends(&self) {
        self.is_ending.store(true, Ordering::Release);
    }

    /// It is another's by now: what it still does is for nobody.
    pub(super) fn is_lost(&self) {
        self.record.tell_to_stop(Stop::Asked);
    }

    /// The engine has lost the job: it runs to its end, and its outcome is not reported.
    pub(super) fn forget(&self) {
        self.is_forgotten.store(true, Ordering::Release);
    }

    pub(super) fn is_forgotten(&self) -> bool {
        self.is_forgotten.load(Ordering::Acquire)
    }

    fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        self.record.tell_to_stop(Stop::Asked);
    }

    /// The task that it runs as.
    pub(super) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// What a beat says of it.
    pub(super) fn held(&self) -> Held {
        let now = steps(&self.record);
        let news = *lock(&self.told) != now;
        Held { id: self.id, token: self.token, progress: news.then_some(now) }
    }

    /// A beat has said that.
    pub(super) fn was_told(&self, held: Held) {
        if let Some(progress) = held.progress {
            *lock(&self.told) = progress;
        }
    }
}

/// How far a task is.
pub(super) fn steps(record: &Record) -> Steps {
    let progress = record.progress.get();
    (progress.done, progress.total, progress.message.clone())
}

impl Hands {
    pub(super) fn take(&self, claimed: &Claimed, record: Arc<Record>) -> Arc<InHand> {
        let Claimed { id, token, attempt, .. } = *claimed;
        let queue = claimed.queue.clone();
        let told = Mutex::default();
        let hand = Arc::new(InHand {
            id,
            token,
            attempt,
            queue,
            record,
            is_cancelled: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
            is_forgotten: AtomicBool::new(false),
            told,
        });
        lock(&self.0).insert((id, token), hand.clone());
        hand
    }

    pub(super) fn let_go(&self, hand: &InHand) {
        lock(&self.0).remove(&(hand.id, hand.token));
    }

    pub(super) fn all(&self) -> Vec<Arc<InHand>> {
        lock(&self.0).values().cloned().collect()
    }

    /// Those of one job: more than one when it was lost and came back.
    pub(super) fn of(&self, id: u64) -> Vec<Arc<InHand>> {
        lock(&self.0).range((id, 0)..=(id, u64::MAX)).map(|(_, hand)| hand.clone()).collect()
    }

    pub(super) fn cancel(&self, id: u64) {
        self.of(id).iter().for_each(|hand| hand.cancel());
    }

    /// How many of a queue run. Of those that have ended and wait for the engine to know it, only what is more than
    /// [`MOST_ENDING`] counts: the next may begin meanwhile, and they share the engine's sync.
    pub(super) fn running_of(&self, queue: &str) -> usize {
        let hands = lock(&self.0);
        let (ending, running): (Vec<_>, Vec<_>) =
            hands.values().filter(|hand| hand.queue == queue).partition(|hand| hand.is_ending.load(Ordering::Acquire));
        running.len() + ending.len().saturating_sub(MOST_ENDING)
    }

    /// What an engine knows of a job, with what it will know after the next beat. `before` is what was here before the engine
    /// was asked: an attempt that ended in between is not here any more, and the engine knew less of it.
    pub(super) fn up_to_date(&self, mut job: JobInfo, before: &[Arc<InHand>]) -> JobInfo {
        if job.state == JobState::Running {
            let is_its_own = |hand: &&Arc<InHand>| hand.id == job.id && hand.attempt == job.attempt;
            let now = self.of(job.id);
            if let Some(hand) = now.iter().rev().chain(before.iter().rev()).find(is_its_own) {
                (job.done, job.total, job.message) = steps(&hand.record);
                job.is_cancelling |= hand.record.progress.get().is_cancelling;
            }
        }
        job
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::background::registry::Registry;
    use crate::background::task::TaskContext;
    use crate::config::Config;
    use crate::error::Result;
    use crate::jobs::engine::Room;
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

    /// Regression: a job that ended while the engine was asked went back to the progress of its last heartbeat.
    #[test]
    fn a_job_that_ends_while_the_engine_is_asked_does_not_go_back() {
        let (jobs, hands) = (Jobs::memory().register::<Quick>(), Hands::default());
        jobs.enqueue(Quick).unwrap();
        let rooms = [Room { queue: "default".to_owned(), free: 1 }];
        let worker = jobs.engine.join().unwrap();
        let claimed = jobs.engine.claim(&worker, &rooms, jobs.now()).unwrap().pop().unwrap();
        let hand = hands.take(&claimed, Registry::new(&Config::default()).enter("quick".into(), None, None));
        hand.record.update(|progress| (progress.done, progress.total) = (4, 5));
        let before = hands.of(claimed.id);
        let found = jobs.engine.find(claimed.id).unwrap().unwrap();
        hands.let_go(&hand);
        assert_eq!(hands.up_to_date(found.clone(), &before).done, 4);
        let next = JobInfo { attempt: 2, ..found };
        assert_eq!(hands.up_to_date(next, &before).done, 0, "another attempt begins at nothing");
    }
}
