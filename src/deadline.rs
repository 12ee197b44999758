//! Times ahead of now that the clock can still count.
//!
//! `Instant + Duration` panics past the range of the clock, and a caller may mean *never* by [`Duration::MAX`]. Every time that
//! comes of a setting or of a caller's duration is made here.

use std::time::{Duration, Instant};

/// A hundred years: the longest wait that is told from waiting forever.
pub(crate) const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The time `wait` from now, or one that this process will not live to see.
pub(crate) fn after(wait: Duration) -> Instant {
    later(Instant::now(), wait)
}

/// The time `wait` after `start`, or one that this process will not live to see.
pub(crate) fn later(start: Instant, wait: Duration) -> Instant {
    // The clock counts 292 years at least on every platform.
    start + wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_without_an_end_is_a_time_that_can_be_counted() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_secs(3)), now + Duration::from_secs(3));
        for endless in [Duration::MAX, Duration::from_secs(u64::MAX), FAR + Duration::from_secs(1)] {
            assert_eq!(later(now, endless), now + FAR);
            assert!(after(endless) >= now + FAR);
        }
    }
}
