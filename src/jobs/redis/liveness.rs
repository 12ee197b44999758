//! Who was seen to live: by the beats that are counted on the server, and the steady clock of this process.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long nobody may have looked, at the least, before what was seen is too old to say who is gone.
const BLINK: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct Watch {
    /// How many beats were seen of each worker, and since when that many.
    seen: HashMap<String, (u64, Instant)>,
    looked_at: Option<Instant>,
}

impl Watch {
    /// Looks at the beats that there are now. The workers of which none was seen for a lease, with their beats.
    ///
    /// Where nobody looked for long the server was away or this process stood still, and nobody's beat could be seen:
    /// everybody then has a lease from now on.
    pub(super) fn gone(&mut self, beats: HashMap<String, u64>, lease: Duration, at: Instant) -> Vec<(String, u64)> {
        let blink = BLINK.max(lease / 2);
        if self.looked_at.is_none_or(|looked_at| at.saturating_duration_since(looked_at) > blink) {
            self.seen.clear();
        }
        self.looked_at = Some(at);
        let is_silent = |worker: &String, beats: u64| self.seen.get(worker).filter(|(seen, _)| *seen == beats);
        let seen: HashMap<_, _> = beats
            .into_iter()
            .map(|(worker, beats)| {
                let since = is_silent(&worker, beats).map_or(at, |(_, since)| *since);
                (worker, (beats, since))
            })
            .collect();
        // A look is no beat: whoever is seen for the first time has a lease, however short.
        let was_seen = |worker: &String| self.seen.contains_key(worker);
        let silent = seen
            .iter()
            .filter(|(worker, (_, since))| was_seen(worker) && at.saturating_duration_since(*since) >= lease);
        let gone = silent.map(|(worker, (beats, _))| (worker.clone(), *beats)).collect();
        self.seen = seen;
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn beats(beats: u64) -> HashMap<String, u64> {
        [("w".to_owned(), beats)].into()
    }

    fn gone() -> Vec<(String, u64)> {
        vec![("w".to_owned(), 1)]
    }

    #[test]
    fn gone_is_who_was_seen_to_be_silent_for_a_lease() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        for second in (0..30).step_by(3) {
            assert!(watch.gone(beats(1), LEASE, start + Duration::from_secs(second)).is_empty());
        }
        assert_eq!(watch.gone(beats(1), LEASE, start + LEASE), gone());
    }

    #[test]
    fn a_beat_begins_the_lease_anew() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let mut look = |count, second| watch.gone(beats(count), LEASE, start + Duration::from_secs(second));
        assert!((0..=25).step_by(5).all(|second| look(0, second).is_empty()));
        assert!((30..=55).step_by(5).all(|second| look(1, second).is_empty()));
        assert_eq!(look(1, 60), gone());
    }

    #[test]
    fn who_could_not_be_seen_has_a_lease_from_then_on() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let mut look = |second| watch.gone(beats(1), LEASE, start + Duration::from_secs(second));
        assert!(look(0).is_empty());
        assert!((40..70).step_by(10).all(|second| look(second).is_empty()), "nobody looked for 40 seconds");
        assert_eq!(look(70), gone());
    }
}
