//! Counts of the tasks of an application.

use super::failure::Failure;
use super::progress::TaskState;

/// The numbers of tasks of an application, by outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Running and waiting tasks.
    pub unfinished: usize,
    /// Tasks that wait for a thread.
    pub queued: usize,
    /// Tasks that have ended since the start of the process, in success or not.
    pub ended: u64,
    /// Failed tasks: with an error, by a panic, or abandoned.
    pub failed: u64,
    /// Failed tasks that panicked.
    pub panicked: u64,
    /// Failed tasks that were abandoned: the process stopped before they ended.
    pub abandoned: u64,
    /// Cancelled tasks, including those that timed out.
    pub cancelled: u64,
    /// Cancelled tasks whose deadline had passed.
    pub timed_out: u64,
}

impl Counts {
    /// Returns the number of tasks that have succeeded since the start of the process.
    pub fn done(&self) -> u64 {
        self.ended.saturating_sub(self.failed + self.cancelled)
    }

    /// Counts a task that has ended.
    pub(super) fn add(&mut self, failure: Option<&Failure>) {
        self.ended += 1;
        let Some(failure) = failure else { return };
        match TaskState::after(failure) {
            TaskState::Cancelled => self.cancelled += 1,
            _ => self.failed += 1,
        }
        match failure {
            Failure::Panic(_) => self.panicked += 1,
            Failure::Abandoned => self.abandoned += 1,
            Failure::TimedOut => self.timed_out += 1,
            Failure::Error(_) | Failure::Cancelled => {}
        }
    }
}
