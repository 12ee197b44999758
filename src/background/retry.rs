//! The retries of a task or job: the number of attempts, and the backoff between them.

use std::fmt;
use std::time::Duration;

use super::failure::{Failure, Outcome};
use crate::error::Error;
use crate::log_text::numbered;
use crate::panics;
use crate::random;

/// The end of one attempt of a task.
pub(crate) enum AttemptEnd<T> {
    /// The attempt has an outcome. The retry policy of the task decides if another attempt follows.
    Ended(Outcome<T>),
    /// The attempt has failed, and the job store retries the job in another task. This task ends.
    Retrying(Failure, ScheduledRetry),
    /// The attempt has failed, and the job is dead after this number of attempts. This task ends.
    Dead(Failure, u32),
    /// The attempt of a job is over, and the task ends when the job store has recorded the outcome. No thread waits for
    /// that: the function receives the call that ends the task.
    Later(Box<dyn FnOnce(EndTask<T>) + Send>),
}

/// Ends a task, on any thread. A task whose call is dropped is abandoned.
pub(crate) type EndTask<T> = Box<dyn FnOnce(AttemptEnd<T>) + Send>;

impl<T> From<Outcome<T>> for AttemptEnd<T> {
    fn from(outcome: Outcome<T>) -> AttemptEnd<T> {
        AttemptEnd::Ended(outcome)
    }
}

/// A retry after a failed attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScheduledRetry {
    /// The number of the failed attempt, from 1.
    pub(crate) attempt: u32,
    /// The number of attempts in all.
    pub(crate) attempts: u32,
    /// The wait before the next attempt.
    pub(crate) wait: Duration,
}

/// A retry policy: the number of attempts, and the backoff between them.
#[derive(Clone)]
pub struct Retry {
    attempts: u32,
    first_wait: Duration,
    only_if: Option<fn(&Error) -> bool>,
}

impl Retry {
    /// Creates a policy of `attempts` attempts in all, with exponential backoff and jitter.
    ///
    /// The first wait is `first_wait`, and each further one is twice the former, at most an hour. Each wait is shortened by
    /// up to a quarter at random, so that tasks that failed together are not retried together.
    pub fn exponential(attempts: u32, first_wait: Duration) -> Retry {
        Retry { attempts: attempts.max(1), first_wait, only_if: None }
    }

    /// Limits retries to the errors for which the function returns true. Panics are retried in any case.
    pub fn only_if(mut self, is_retried: fn(&Error) -> bool) -> Retry {
        self.only_if = Some(is_retried);
        self
    }

    /// Returns the number of attempts in all.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Returns the wait after a number of failed attempts, or `None` if the failure is not retried.
    pub(crate) fn wait_after(&self, failed: u32, failure: &Failure) -> Option<Duration> {
        let is_retried = match failure {
            // A predicate that panics has not refused the retry; panics are retried in any case.
            Failure::Error(error) => {
                self.only_if.is_none_or(|is_retried| panics::catch(|| is_retried(error)).unwrap_or(true))
            }
            Failure::Panic(_) => true,
            _ => false,
        };
        if is_retried { self.wait(failed) } else { None }
    }

    /// Returns the wait after a number of failed attempts, for any failure, or `None` if that was the last attempt.
    pub(crate) fn wait(&self, failed: u32) -> Option<Duration> {
        if failed >= self.attempts {
            return None;
        }
        let doubled = self.first_wait.saturating_mul(1 << (failed - 1).min(20));
        Some(doubled.min(Duration::from_secs(3600)).mul_f64(1.0 - f64::from(random_byte()) / 1024.0))
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = numbered(self.attempts, "attempt", "attempts");
        write!(f, "Retry({attempts}, {:?} and doubled)", self.first_wait)
    }
}

fn random_byte() -> u8 {
    // If the operating system returns no randomness, the wait has no jitter.
    let [byte] = random::bytes().unwrap_or([128]);
    byte
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_bounded() {
        let retry = Retry::exponential(30, Duration::from_secs(2));
        let failure = Failure::Error(Error::internal("x"));
        for (failed, most) in [(1, 2), (2, 4), (5, 32), (29, 3600)] {
            let wait = retry.wait_after(failed, &failure).unwrap().as_secs_f64();
            assert!(wait <= f64::from(most) && wait >= f64::from(most) * 0.75, "{failed}: {wait}");
        }
        assert!(retry.wait_after(30, &failure).is_none());
        assert!(retry.only_if(|_| false).wait_after(1, &failure).is_none());
    }
}
