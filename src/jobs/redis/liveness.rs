//! The liveness of workers, by the heartbeats that the server counts and the steady clock of this process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The shortest gap between two observations after which the earlier one is too old to expire a lease.
const MAX_GAP: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct WorkerLiveness {
    /// The number of heartbeats of each worker, and the time when that number was first observed.
    seen: HashMap<String, (u64, Instant)>,
    observed_at: Option<Instant>,
}

impl WorkerLiveness {
    /// Observes the current numbers of heartbeats. Returns the workers without a heartbeat for a whole lease, with
    /// their numbers.
    ///
    /// If the last observation was too long ago, the server was unreachable or this process was suspended, and no
    /// heartbeat could be observed: each lease then starts again.
    pub(super) fn expired(
        &mut self,
        heartbeats: HashMap<String, u64>,
        lease: Duration,
        at: Instant,
    ) -> Vec<(String, u64)> {
        let max_gap = MAX_GAP.max(lease / 2);
        if self.observed_at.is_none_or(|observed_at| at.saturating_duration_since(observed_at) > max_gap) {
            self.seen.clear();
        }
        self.observed_at = Some(at);
        let is_unchanged =
            |worker: &String, heartbeats: u64| self.seen.get(worker).filter(|(seen, _)| *seen == heartbeats);
        let seen: HashMap<_, _> = heartbeats
            .into_iter()
            .map(|(worker, heartbeats)| {
                let since = is_unchanged(&worker, heartbeats).map_or(at, |(_, since)| *since);
                (worker, (heartbeats, since))
            })
            .collect();
        // An observation is not a heartbeat: a worker that is observed for the first time has a whole lease, however
        // short.
        let was_seen = |worker: &String| self.seen.contains_key(worker);
        let expired = seen
            .iter()
            .filter(|(worker, (_, since))| was_seen(worker) && at.saturating_duration_since(*since) >= lease);
        let gone = expired.map(|(worker, (heartbeats, _))| (worker.clone(), *heartbeats)).collect();
        self.seen = seen;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn heartbeats(heartbeats: u64) -> HashMap<String, u64> {
        [("w".to_owned(), heartbeats)].into()
    }

    fn gone() -> Vec<(String, u64)> {
        vec![("w".to_owned(), 1)]
    }

    #[test]
    fn a_worker_without_heartbeats_expires_after_a_lease() {
        let (mut liveness, start) = (WorkerLiveness::default(), Instant::now());
        for second in (0..30).step_by(3) {
            assert!(liveness.expired(heartbeats(1), LEASE, start + Duration::from_secs(second)).is_empty());
        }
        assert_eq!(liveness.expired(heartbeats(1), LEASE, start + LEASE), gone());
    }

    #[test]
    fn a_heartbeat_renews_the_lease() {
        let (mut liveness, start) = (WorkerLiveness::default(), Instant::now());
        let mut observe =
            |count, second| liveness.expired(heartbeats(count), LEASE, start + Duration::from_secs(second));
        assert!((0..=25).step_by(5).all(|second| observe(0, second).is_empty()));
        assert!((30..=55).step_by(5).all(|second| observe(1, second).is_empty()));
        assert_eq!(observe(1, 60), gone());
    }

    #[test]
    fn a_gap_between_observations_grants_a_new_lease() {
        let (mut liveness, start) = (WorkerLiveness::default(), Instant::now());
        let mut observe = |second| liveness.expired(heartbeats(1), LEASE, start + Duration::from_secs(second));
        assert!(observe(0).is_empty());
        assert!((40..70).step_by(10).all(|second| observe(second).is_empty()), "no observation for 40 seconds");
        assert_eq!(observe(70), gone());
    }
}
