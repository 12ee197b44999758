//! Times in words, written once a second for each thread: with every response goes a date, and with every line of the log.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

/// The words for this second, to be kept in a thread-local.
pub(crate) struct Clock(RefCell<(u64, String)>);

impl Clock {
    /// One that has not been looked at.
    pub(crate) const fn new() -> Clock {
        Clock(RefCell::new((0, String::new())))
    }

    /// Gives the words for this second to somebody, written anew when they are of another.
    pub(crate) fn show<T>(&self, write: impl FnOnce(SystemTime) -> String, read: impl FnOnce(&str) -> T) -> T {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut shown = self.0.borrow_mut();
        if shown.0 != second || shown.1.is_empty() {
            *shown = (second, write(now));
        }
        read(&shown.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_of_this_second() {
        let clock = Clock::new();
        clock.show(|_| "first".into(), |words| assert_eq!(words, "first"));
        clock.0.borrow_mut().0 -= 1;
        clock.show(|_| "second".into(), |words| assert_eq!(words, "second"));
    }
}
