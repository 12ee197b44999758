//! The progress and the state of a task, for pages that show them.

use std::time::SystemTime;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::failure::Failure;
use super::output::Output;
use crate::utc;

/// The progress of a task, as the task reports it.
///
/// In a template there are also `percent` and `is_finished`, and `state` is one of `waiting`, `running`, `done`, `failed`
/// and `cancelled`. `due_at` is text, such as `2026-04-04T14:32:09Z`, and `failed` has the fields of a [`FailedAttempt`].
/// `output` is the output of a job that is done ([`TaskContext::output`](crate::TaskContext::output)), and `none` otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The state of the task.
    pub state: TaskState,
    /// The number of steps that are done.
    pub done: u64,
    /// The number of all steps; 0 if the task has not reported it.
    pub total: u64,
    /// The current message of the task.
    pub message: String,
    /// The task was told to cancel, and may not have noticed yet.
    pub is_cancelling: bool,
    /// The last attempt, if it has failed: while the task waits for its next attempt, and after the last one.
    pub failed: Option<FailedAttempt>,
    /// The time from which a waiting task may start: the time of its next attempt, or that of a job that was enqueued for
    /// later. `None` if it only waits for its turn.
    pub due_at: Option<SystemTime>,
    /// The task is a job that waits, and its queue is paused.
    pub is_paused: bool,
    /// The output of a job that is done.
    pub(crate) output: Option<Output>,
}

impl Progress {
    /// Returns the progress in percent, if the task has reported the number of all steps.
    pub fn percent(&self) -> Option<u8> {
        let percent = (u128::from(self.done) * 100).checked_div(u128::from(self.total))?;
        // At most 100, which fits.
        Some(percent.min(100) as u8)
    }

    /// Returns true if the task has ended, in success or not.
    pub fn is_finished(&self) -> bool {
        !matches!(self.state, TaskState::Waiting | TaskState::Running)
    }
}

impl Serialize for Progress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Progress", 11)?;
        fields.serialize_field("state", &self.state)?;
        fields.serialize_field("done", &self.done)?;
        fields.serialize_field("total", &self.total)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("is_cancelling", &self.is_cancelling)?;
        fields.serialize_field("percent", &self.percent())?;
        fields.serialize_field("is_finished", &self.is_finished())?;
        fields.serialize_field("failed", &self.failed)?;
        fields.serialize_field("due_at", &self.due_at.and_then(written))?;
        fields.serialize_field("is_paused", &self.is_paused)?;
        fields.serialize_field("output", &self.output)?;
        fields.end()
    }
}

/// Returns a time in UTC, in whole seconds, as in RFC 3339.
fn written(time: SystemTime) -> Option<String> {
    Some(utc::written(time, 'T')? + "Z")
}

/// The number of a failed attempt. Its message is only in the log and the panel, since it may have internal details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct FailedAttempt {
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The number of attempts in all. After the last one, the number of attempts that were made.
    pub attempts: u32,
}

/// The state of a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TaskState {
    /// The task waits: for a thread, or for its next attempt.
    #[default]
    Waiting,
    /// The task runs.
    Running,
    /// The task has succeeded.
    Done,
    /// The task returned an error, panicked, or was abandoned.
    Failed,
    /// The task was cancelled, or timed out.
    Cancelled,
}

impl TaskState {
    /// Returns the state of a task that has ended with a failure.
    pub(super) fn after(failure: &Failure) -> TaskState {
        match failure {
            Failure::Cancelled | Failure::TimedOut => TaskState::Cancelled,
            _ => TaskState::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn progress_has_a_percentage_and_a_state_in_templates() {
        let of = |done, total| Progress { done, total, ..Progress::default() }.percent();
        assert_eq!([of(0, 0), of(1, 3), of(3, 3), of(9, 3)], [None, Some(33), Some(100), Some(100)]);
        assert_eq!(of(u64::MAX - 1, u64::MAX), Some(99));
        let written = serde_json::to_value(Progress::default()).unwrap();
        assert_eq!((&written["state"], &written["is_finished"]), (&"waiting".into(), &false.into()));
    }

    #[test]
    fn the_due_time_is_text_in_templates_and_one_that_cannot_be_written_is_left_out() {
        let due = |at| serde_json::to_value(Progress { due_at: at, ..Progress::default() }).unwrap()["due_at"].clone();
        let at = |seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        assert_eq!(due(at(1_775_313_129)), "2026-04-04T14:32:09Z");
        assert!(due(None).is_null() && due(at(1 << 60)).is_null());
    }
}
