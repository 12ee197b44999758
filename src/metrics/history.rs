//! The last hour of this process, minute by minute, in a ring of fixed size.
//!
//! Nothing is counted here: at the end of each minute a timer reads the totals of the [`Metrics`](super::Metrics), and a
//! minute is the difference between two readings. The minutes are those of the steady clock, so that a step of the wall
//! clock changes nothing.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::sync::lock;

/// The number of minutes.
pub(crate) const MINUTES: usize = 60;

const MINUTE: Duration = Duration::from_secs(60);

/// What happened in one minute, in this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Minute {
    /// Requests that ended.
    pub(crate) requests: u64,
    /// Requests that ended with a status of 500 or above.
    pub(crate) failed_requests: u64,
    /// Failed attempts of tasks and jobs, whether another attempt followed or not.
    pub(crate) failed_attempts: u64,
    /// Jobs that were resolved here: done, dead or cancelled.
    pub(crate) resolved_jobs: u64,
    /// The largest observed age of the job that has waited longest, over all queues, in milliseconds.
    pub(crate) queue_latency: u64,
}

impl Minute {
    /// Returns what was added since an earlier reading of the totals.
    fn since(self, earlier: Minute) -> Minute {
        Minute {
            requests: self.requests.saturating_sub(earlier.requests),
            failed_requests: self.failed_requests.saturating_sub(earlier.failed_requests),
            failed_attempts: self.failed_attempts.saturating_sub(earlier.failed_attempts),
            resolved_jobs: self.resolved_jobs.saturating_sub(earlier.resolved_jobs),
            queue_latency: self.queue_latency,
        }
    }
}

/// The ring.
pub(super) struct History {
    began: Instant,
    /// The largest queue latency since the last reading, in milliseconds.
    latency: AtomicU64,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    /// The number of complete minutes that were recorded.
    recorded: u64,
    minutes: Vec<Minute>,
    /// The totals at the end of the last recorded minute.
    totals: Minute,
}

impl History {
    pub(super) fn new(now: Instant) -> History {
        History { began: now, latency: AtomicU64::new(0), ring: Mutex::default() }
    }

    /// Returns the time at which the current minute ends.
    pub(super) fn next(&self, now: Instant) -> Instant {
        now + (MINUTE - Duration::from_nanos((self.age(now).as_nanos() % MINUTE.as_nanos()) as u64))
    }

    /// Records that the job that has waited longest has waited for this time.
    pub(super) fn observe_latency(&self, latency: Duration) {
        self.latency.fetch_max(latency.as_millis() as u64, Ordering::Relaxed);
    }

    /// Records the minutes that have ended. `totals` are the numbers since the start.
    pub(super) fn record(&self, totals: Minute, now: Instant) {
        let complete = self.age(now).as_secs() / MINUTE.as_secs();
        let mut ring = lock(&self.ring);
        let missed = complete.saturating_sub(ring.recorded);
        if missed > 0 {
            let ended = totals.since(ring.totals);
            ring.push(Minute { queue_latency: self.latency.swap(0, Ordering::Relaxed), ..ended });
            // The process or the machine was suspended.
            (1..missed.min(MINUTES as u64)).for_each(|_| ring.push(Minute::default()));
            (ring.recorded, ring.totals) = (complete, totals);
        }
    }

    /// Returns the last hour, the oldest minute first. The last entry is the current minute, which is incomplete.
    pub(super) fn snapshot(&self, totals: Minute, now: Instant) -> [Minute; MINUTES] {
        self.record(totals, now);
        let ring = lock(&self.ring);
        let mut hour = [Minute::default(); MINUTES];
        let earlier = ring.minutes.iter().rev().take(MINUTES - 1);
        earlier.zip(hour[..MINUTES - 1].iter_mut().rev()).for_each(|(minute, entry)| *entry = *minute);
        let latency = self.latency.load(Ordering::Relaxed);
        hour[MINUTES - 1] = Minute { queue_latency: latency, ..totals.since(ring.totals) };
        hour
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }
}

impl Ring {
    fn push(&mut self, minute: Minute) {
        if self.minutes.len() == MINUTES {
            self.minutes.remove(0);
        }
        self.minutes.push(minute);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(requests: u64) -> Minute {
        Minute { requests, ..Minute::default() }
    }

    fn requests(hour: &[Minute; MINUTES], newest: usize) -> Vec<u64> {
        hour[MINUTES - newest..].iter().map(|minute| minute.requests).collect()
    }

    #[test]
    fn each_minute_has_what_was_added_in_it() {
        let began = Instant::now();
        let (history, at) = (History::new(began), |seconds| began + Duration::from_secs(seconds));
        assert_eq!(requests(&history.snapshot(totals(3), at(59)), 2), [0, 3]);
        history.record(totals(5), at(60));
        history.record(totals(5), at(61));
        assert_eq!(requests(&history.snapshot(totals(12), at(100)), 3), [0, 5, 7]);
        assert_eq!(requests(&history.snapshot(totals(12), at(120)), 3), [5, 7, 0]);
    }

    #[test]
    fn the_largest_queue_latency_of_each_minute_is_kept() {
        let began = Instant::now();
        let (history, at) = (History::new(began), |seconds| began + Duration::from_secs(seconds));
        [3, 9, 4].into_iter().for_each(|seconds| history.observe_latency(Duration::from_secs(seconds)));
        history.record(totals(0), at(60));
        history.observe_latency(Duration::from_millis(1));
        let hour = history.snapshot(totals(0), at(61));
        assert_eq!((hour[MINUTES - 2].queue_latency, hour[MINUTES - 1].queue_latency), (9_000, 1));
    }

    #[test]
    fn the_ring_keeps_one_hour() {
        let began = Instant::now();
        let history = History::new(began);
        for minute in 1..=1_000 {
            history.record(totals(minute * minute), began + MINUTE * minute as u32);
        }
        let hour = history.snapshot(totals(1_000_000), began + MINUTE * 1_000);
        assert_eq!((requests(&hour, 2), hour[0].requests), (vec![1_999, 0], 2 * 942 - 1));
        assert_eq!(lock(&history.ring).minutes.len(), MINUTES);
    }

    /// After a suspension many minutes end at once. A reading from before the last one is ignored.
    #[test]
    fn a_clock_that_jumps_does_no_harm() {
        let began = Instant::now();
        let history = History::new(began);
        history.record(totals(5), began + MINUTE * 3);
        assert_eq!(requests(&history.snapshot(totals(5), began + MINUTE * 3), 4), [5, 0, 0, 0]);
        history.record(totals(6), began + MINUTE);
        assert_eq!(requests(&history.snapshot(totals(6), began + MINUTE * 3), 4), [5, 0, 0, 1]);
        let hour = history.snapshot(totals(7), began + MINUTE * 1_000_000);
        assert_eq!(hour, [Minute::default(); MINUTES]);
        assert_eq!(history.next(began + Duration::from_secs(61)), began + MINUTE * 2);
        assert_eq!(history.next(began), began + MINUTE);
    }
}
