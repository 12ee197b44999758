//! Log lines about an engine that cannot be reached: once, again each minute, and when it recovers.

use std::time::{Duration, Instant};

use crate::background::registry::escape;
use crate::error::Error;

/// The longest backoff before the engine is called again.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The interval between two log lines about one failure.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The consecutive failures of one caller.
#[derive(Default)]
pub(super) struct Trouble {
    said: Option<Instant>,
    wait: Duration,
}

impl Trouble {
    /// Logs a failure, at most once a minute. Returns the backoff before the next attempt.
    pub(super) fn goes_on(&mut self, error: &Error) -> Duration {
        self.say("cannot be reached, and are tried again", error);
        self.wait = (self.wait * 2).clamp(Duration::from_millis(100), LONGEST_WAIT);
        self.wait
    }

    /// Logs a failure with this message, at most once a minute.
    pub(super) fn say(&mut self, what: &str, error: &Error) {
        if self.said.is_none_or(|said| said.elapsed() > SAY_AGAIN) {
            complain(what, error);
            self.said = Some(Instant::now());
        }
    }

    /// Logs the recovery after a failure. Returns `wait`, the normal wait.
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
