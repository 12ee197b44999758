//! The limit on the number of reports. Failures beyond it are counted, and nothing of them is formatted.

use std::collections::HashMap;
use std::sync::Arc;
#[cfg(feature = "mail")]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The number of reports in a minute, and of reports of equal failures.
pub(super) const MOST: u32 = 60;
pub(super) const MOST_EQUAL: u32 = 10;

const WINDOW: Duration = Duration::from_secs(60);

/// The limit on the number of reports in a minute. It remembers at most [`MOST`] keys.
#[derive(Default)]
pub(super) struct ReportRate {
    began: Option<Instant>,
    reported: u32,
    equal: HashMap<u64, Equal>,
    others: Arc<Dropped>,
}

/// Equal failures in this minute.
struct Equal {
    reported: u32,
    dropped: Arc<Dropped>,
}

/// The number of equal failures without a report.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    count: AtomicU64,
    #[cfg(feature = "mail")]
    is_claimed: AtomicBool,
}

impl Dropped {
    /// Returns true for the first caller: failures with the same key may belong to several groups, and count for one.
    #[cfg(feature = "mail")]
    pub(super) fn claim(&self) -> bool {
        !self.is_claimed.swap(true, Ordering::Relaxed)
    }

    /// Returns the count, and starts again at 0.
    #[cfg(feature = "mail")]
    pub(super) fn take(&self) -> u64 {
        self.count.swap(0, Ordering::Relaxed)
    }
}

impl ReportRate {
    /// Creates a limit. `others` counts the failures without a report that equal no reported one.
    pub(super) fn new(others: Arc<Dropped>) -> ReportRate {
        ReportRate { others, ..ReportRate::default() }
    }

    /// Counts a failure. If it may be reported, returns the counter of equal failures that are not.
    pub(super) fn admit(&mut self, key: u64, now: Instant) -> Option<Arc<Dropped>> {
        if self.began.is_none_or(|began| now.saturating_duration_since(began) >= WINDOW) {
            (self.began, self.reported) = (Some(now), 0);
            self.equal.clear();
        }
        let has_capacity = self.reported < MOST;
        if has_capacity {
            self.equal.entry(key).or_insert_with(|| Equal { reported: 0, dropped: Arc::default() });
        }
        let equal = self.equal.get_mut(&key);
        match equal {
            Some(equal) if has_capacity && equal.reported < MOST_EQUAL => {
                (equal.reported, self.reported) = (equal.reported + 1, self.reported + 1);
                return Some(equal.dropped.clone());
            }
            Some(equal) => equal.dropped.count.fetch_add(1, Ordering::Relaxed),
            None => self.others.count.fetch_add(1, Ordering::Relaxed),
        };
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(dropped: &Dropped) -> u64 {
        dropped.count.load(Ordering::Relaxed)
    }

    /// Returns the number of reports of so many failures with keys from a function.
    fn reported(rate: &mut ReportRate, failures: u64, key: impl Fn(u64) -> u64, now: Instant) -> usize {
        (0..failures).filter(|number| rate.admit(key(*number), now).is_some()).count()
    }

    #[test]
    fn equal_failures_leave_reports_for_others_and_a_minute_begins_a_new_window() {
        let (mut rate, now) = (ReportRate::default(), Instant::now());
        assert_eq!(reported(&mut rate, 1_000, |_| 7, now), MOST_EQUAL as usize);
        assert_eq!(reported(&mut rate, 1_000, |number| number + 10, now), (MOST - MOST_EQUAL) as usize);
        assert_eq!(reported(&mut rate, 1_000, |_| 7, now + WINDOW), MOST_EQUAL as usize);
    }

    #[test]
    fn a_million_failures_are_counted_in_bounded_memory() {
        let (mut rate, now) = (ReportRate::default(), Instant::now());
        let dropped = rate.admit(0, now).unwrap();
        assert_eq!(reported(&mut rate, 1_000_000, |number| number % 1_000, now), MOST as usize - 1);
        assert!(rate.equal.len() <= MOST as usize);
        assert_eq!(count(&dropped), 1_000 - 1, "one of them is reported");
        let of_keys: u64 = rate.equal.values().map(|equal| count(&equal.dropped)).sum();
        assert_eq!(of_keys + count(&rate.others) + u64::from(MOST), 1_000_001);
    }
}
