//! Log lines about an engine that cannot be reached: once, again each minute, and when it recovers.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::log_text::escape;

/// The longest backoff before the engine is called again.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// The interval between two log lines about one failure.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The consecutive failures of one caller.
#[derive(Default)]
pub(super) struct OutageLog {
    logged_at: Option<Instant>,
    wait: Duration,
}

impl OutageLog {
    /// Logs a failure, at most once a minute. Returns the backoff before the next attempt.
    pub(super) fn failed(&mut self, error: &Error) -> Duration {
        self.log("Could not reach the job store; retrying", error);
        self.wait = (self.wait * 2).clamp(Duration::from_millis(100), LONGEST_WAIT);
        self.wait
    }

    /// Logs a failure with this message, at most once a minute.
    pub(super) fn log(&mut self, what: &str, error: &Error) {
        if self.logged_at.is_none_or(|logged_at| logged_at.elapsed() > LOG_INTERVAL) {
            log_failure(what, error);
            self.logged_at = Some(Instant::now());
        }
    }

    /// Logs the recovery after a failure. Returns `wait`, the normal wait.
    pub(super) fn recovered(&mut self, wait: Duration) -> Duration {
        if self.logged_at.take().is_some() {
            log::info!(target: "aside::jobs", "The job store is reachable again.");
        }
        self.wait = Duration::ZERO;
        wait
    }
}

pub(super) fn log_failure(what: &str, error: &Error) {
    log::warn!(target: "aside::jobs", "{}", escape(&format!("{what}: {}", error.chain())));
}
