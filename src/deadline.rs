//! Deadlines within the range of the clock.
//!
//! `Instant + Duration` panics outside the range of the clock, and a caller may write [`Duration::MAX`] for *never*. Every
//! deadline from a setting or a caller's duration is computed here.

use std::time::{Duration, Instant};

/// The longest wait that differs from waiting forever: a hundred years.
pub(crate) const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Returns the time `wait` from now, limited to a hundred years ahead.
pub(crate) fn after(wait: Duration) -> Instant {
    later(Instant::now(), wait)
}

/// Returns the time `wait` after `start`, limited to a hundred years ahead.
pub(crate) fn later(start: Instant, wait: Duration) -> Instant {
    // The clock has a range of at least 292 years on every platform.
    start + wait.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_wait_is_within_the_range_of_the_clock() {
        let now = Instant::now();
        assert_eq!(later(now, Duration::from_secs(3)), now + Duration::from_secs(3));
        for endless in [Duration::MAX, Duration::from_secs(u64::MAX), FAR + Duration::from_secs(1)] {
            assert_eq!(later(now, endless), now + FAR);
            assert!(after(endless) >= now + FAR);
        }
    }
}
