//! An engine that cannot be asked: logged once, again each minute, and when it is over.

use std::time::{Duration, Instant};

use crate::background::registry::escape;
use crate::error::Error;

/// The longest wait before the engine is asked again.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Between two lines about one trouble.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The failures of one caller in a row.
#[derive(Default)]
pub(super) struct Trouble {
    said: Option<Instant>,
    wait: Duration,
}

impl Trouble {
    /// Logs a failure, unless one was logged within the last minute. Returns the wait before the next attempt.
    pub(super) fn goes_on(&mut self, error: &Error) -> Duration {
        self.say("cannot be reached, and are tried again", error);
        self.wait = (self.wait * 2).clamp(Duration::from_millis(100), LONGEST_WAIT);
        self.wait
    }

    /// Logs a failure in these words, unless one was logged within the last minute.
    pub(super) fn say(&mut self, what: &str, error: &Error) {
        if self.said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
            complain(what, error);
            self.said = Some(Instant::now());
        }
    }

    /// Logs that a trouble is over, if there was one. Returns that wait.
    pub(super) fn is_over(&mut self, wait: Duration) -> Duration {
        if self.said.take().is_some() {
            log::info!(target: "aside::jobs", "The jobs can be reached again.");
        }
        self.wait = Duration::ZERO;
        wait
    }
}

pub(super) fn complain(what: &str, error: &Error) {
    log::warn!(target: "aside::jobs", "{}", escape(&format!("The jobs {what}: {}", error.chain())));
}
