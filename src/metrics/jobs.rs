//! The figures of the job store, which are read when the metrics are.
//!
//! The store may be on another machine and may not answer. So one thread at a time reads it, and those who wait for the result
//! wait a second at most.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::text::Text;
use crate::background::scope::Scope;
use crate::background::thread_pool::{self, Work};
use crate::error::Result;
use crate::jobs::Jobs;
use crate::jobs::record::{JobCounts, Millis, QueueInfo};
use crate::panics;
use crate::sync::{lock, wait_while_for};

/// The longest wait for the store.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The number of queues with series of their own. Further queues are left out: their names come from the store.
const MOST_QUEUES: usize = 200;

/// The reader of the store.
#[derive(Default)]
pub(super) struct JobMetrics(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_reading: bool,
    /// The result of the last reading; `None` if it failed.
    figures: Option<Arc<Figures>>,
}

struct Figures {
    /// The time of the reading by the clock of the store, in milliseconds since 1970.
    now: Millis,
    counts: JobCounts,
    queues: Vec<QueueInfo>,
}

impl Figures {
    fn read(jobs: &Jobs) -> Result<Figures> {
        Ok(Figures { now: jobs.now(), counts: jobs.counts()?, queues: jobs.queues()? })
    }
}

impl JobMetrics {
    pub(super) fn write(&self, scope: &Scope, text: &mut Text) {
        let Some(jobs) = scope.get::<Jobs>() else { return };
        // While the runner cannot reach the store, a call here would only wait.
        let figures = if jobs.outage().is_none() { self.read(MAX_WAIT, move || Figures::read(&jobs)) } else { None };
        let help = "1 if the job store answers, 0 if not; then the figures of jobs and queues are missing.";
        text.single("aside_jobs_up", "gauge", help, u8::from(figures.is_some()));
        if let Some(figures) = figures {
            figures.write(text);
        }
    }

    /// Reads the store on another thread, unless a thread does already, and waits for the result,
    /// for `most` at most.
    fn read(&self, most: Duration, read: impl FnOnce() -> Result<Figures> + Send + 'static) -> Option<Arc<Figures>> {
        let mut state = lock(&self.0.state);
        if !std::mem::replace(&mut state.is_reading, true) {
            let reading = Reading { shared: self.0.clone(), figures: None };
            thread_pool::run(
                0,
                Work::new(move || {
                    let _ = panics::catch(|| reading.finish(read()));
                    None
                }),
            );
        }
        let state = wait_while_for(&self.0.changed, state, most, |state| state.is_reading);
        state.figures.clone().filter(|_| !state.is_reading)
    }
}

/// The turn of the thread that reads. It ends however the reading ends.
struct Reading {
    shared: Arc<Shared>,
    figures: Option<Arc<Figures>>,
}

impl Reading {
    fn finish(mut self, read: Result<Figures>) {
        match read {
            Ok(figures) => self.figures = Some(Arc::new(figures)),
            Err(error) => log::debug!(target: "aside::metrics", "Could not read the job store: {}", error.chain()),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let mut state = lock(&self.shared.state);
        (state.is_reading, state.figures) = (false, self.figures.take());
        self.shared.changed.notify_all();
    }
}

impl Figures {
    fn write(&self, text: &mut Text) {
        let JobCounts { waiting, scheduled, running, done, dead, timed_out, panicked, abandoned, cancelled } =
            self.counts;
        let states = [
            ("waiting", waiting),
            ("scheduled", scheduled),
            ("running", running),
            ("done", done),
            ("dead", dead),
            ("cancelled", cancelled),
        ];
        let name = "aside_jobs";
        text.family(name, "gauge", "Jobs in the store by state; done and cancelled ones until they are pruned.");
        states.iter().for_each(|(state, count)| text.sample(name, &[("state", state)], count));
        let failed = dead.saturating_sub(timed_out + panicked + abandoned);
        let reasons = [("failed", failed), ("panicked", panicked), ("timed_out", timed_out), ("abandoned", abandoned)];
        let name = "aside_dead_jobs";
        text.family(name, "gauge", "Dead jobs in the store by the reason of their last failure.");
        reasons.iter().for_each(|(reason, count)| text.sample(name, &[("reason", reason)], count));
        let queues = || self.queues.iter().take(MOST_QUEUES);
        let mut of_queues = |name, help, value: &dyn Fn(&QueueInfo) -> f64| {
            text.family(name, "gauge", help);
            queues().for_each(|queue| text.sample(name, &[("queue", &queue.name)], value(queue)));
        };
        of_queues("aside_queue_waiting_jobs", "Jobs that wait for a worker, by queue.", &|queue| queue.waiting as f64);
        of_queues("aside_queue_running_jobs", "Jobs that run, in all processes, by queue.", &|queue| {
            queue.running as f64
        });
        let help = "Time for which the job that has waited longest has waited, by queue.";
        of_queues("aside_queue_latency_seconds", help, &|queue| queue.latency(self.now).as_secs_f64());
        of_queues("aside_queue_paused", "1 if the queue is paused.", &|queue| f64::from(u8::from(queue.is_paused)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::error::Error;

    const LONG: Duration = Duration::from_secs(60);

    fn figures(waiting: u64) -> Result<Figures> {
        Ok(Figures { now: 0, counts: JobCounts { waiting, ..JobCounts::default() }, queues: Vec::new() })
    }

    fn waiting(read: Option<Arc<Figures>>) -> Option<u64> {
        read.map(|figures| figures.counts.waiting)
    }

    #[test]
    fn a_store_that_hangs_holds_one_thread_and_no_reader_of_the_metrics() {
        let jobs = JobMetrics::default();
        let (answer, answers) = mpsc::channel::<()>();
        let hangs = move || {
            let _ = answers.recv();
            figures(17)
        };
        assert_eq!(waiting(jobs.read(Duration::ZERO, hangs)), None);
        assert_eq!(waiting(jobs.read(Duration::ZERO, || unreachable!("a thread reads already"))), None);
        answer.send(()).unwrap();
        assert_eq!(waiting(jobs.read(LONG, || figures(18))).map(|waiting| waiting - 17 < 2), Some(true));
        assert_eq!(waiting(jobs.read(LONG, || figures(19))), Some(19));
    }

    #[test]
    fn a_reading_that_fails_or_panics_is_repeated() {
        let jobs = JobMetrics::default();
        assert_eq!(waiting(jobs.read(LONG, || Err(Error::internal("the disk is full")))), None);
        assert_eq!(waiting(jobs.read(LONG, || panic!("boom"))), None);
        assert_eq!(waiting(jobs.read(LONG, || figures(1))), Some(1));
    }
}
