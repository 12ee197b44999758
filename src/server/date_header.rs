//! The time as text, formatted once a second on each thread: for the `Date` header of each response and for each log line.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

/// A cache of the formatted time of the current second, for a thread-local.
pub(crate) struct TimeCache(RefCell<(u64, String)>);

impl TimeCache {
    /// Creates an empty cache.
    pub(crate) const fn new() -> TimeCache {
        TimeCache(RefCell::new((0, String::new())))
    }

    /// Passes the text for the current second to `read`. If the cached text is of another second, `write` formats it again.
    pub(crate) fn with_text<T>(&self, write: impl FnOnce(SystemTime) -> String, read: impl FnOnce(&str) -> T) -> T {
        self.with_text_at(SystemTime::now(), write, read)
    }

    /// Does what [`with_text`](TimeCache::with_text) does, for a time that the caller has read.
    pub(crate) fn with_text_at<T>(
        &self,
        now: SystemTime,
        write: impl FnOnce(SystemTime) -> String,
        read: impl FnOnce(&str) -> T,
    ) -> T {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut cached = self.0.borrow_mut();
        if cached.0 != second || cached.1.is_empty() {
            *cached = (second, write(now));
        }
        read(&cached.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_formatted_again_in_the_next_second() {
        let cache = TimeCache::new();
        cache.with_text(|_| "first".into(), |text| assert_eq!(text, "first"));
        cache.0.borrow_mut().0 -= 1;
        cache.with_text(|_| "second".into(), |text| assert_eq!(text, "second"));
    }
}
