//! The context that a running task receives: progress, cancellation, application state.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use super::failure::Cancelled;
use super::record::Record;
use super::scope::Context;
use crate::bounds;

/// The longest stored message of a task, in bytes.
const LONGEST_MESSAGE: usize = 10_000;

/// The context of a running task: its identity, progress, cancellation, and the application's state.
#[derive(Clone)]
pub struct TaskContext {
    context: Context,
    record: Arc<Record>,
    attempt: u32,
    attached: Option<Arc<dyn Any + Send + Sync>>,
}

impl TaskContext {
    /// Creates the context of one attempt.
    pub(super) fn new(context: Context, record: Arc<Record>, attempt: u32) -> TaskContext {
        TaskContext { context, record, attempt, attached: None }
    }

    /// Returns this context with another attempt number and an attached value, for a task that runs a job.
    pub(crate) fn attach(&self, attempt: u32, attached: Arc<dyn Any + Send + Sync>) -> TaskContext {
        TaskContext { attempt, attached: Some(attached), ..self.clone() }
    }

    /// Returns the attached value of that type.
    pub(crate) fn attached<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.attached.clone()?.downcast().ok()
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Returns the number of the task, as in the log.
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// Returns the name of the task.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Returns the number of this attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Reports the progress: `done` steps of `total`.
    pub fn progress(&self, done: u64, total: u64) {
        self.record.update(|progress| (progress.done, progress.total) = (done, total));
    }

    /// Sets the current message, of up to 10,000 bytes.
    pub fn message(&self, message: impl Into<String>) {
        let message = bounds::shorten(&message.into(), LONGEST_MESSAGE).into_owned();
        self.record.update(|progress| progress.message = message);
    }

    /// Returns true if the task was told to cancel: by its handle, by its deadline, or because the process stops.
    pub fn is_cancelled(&self) -> bool {
        self.record.is_cancelled()
    }

    /// Returns an error if the task was told to cancel, to be propagated with `?`.
    ///
    /// # Errors
    /// [`Cancelled`] if the task was told to cancel. A task that returns it counts as cancelled, not as failed.
    pub fn check_cancelled(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Waits for a duration, or until the task is told to cancel. The task counts toward `ASIDE_MAX_TASKS` during the wait.
    ///
    /// # Errors
    /// [`Cancelled`] if the task was told to cancel.
    pub fn sleep(&self, time: Duration) -> Result<(), Cancelled> {
        if self.record.wait_for_stop(time) { Err(Cancelled) } else { Ok(()) }
    }

    /// Returns the application's state of type `T`.
    ///
    /// # Panics
    /// If `App::state` was not called with a value of that type.
    #[track_caller]
    pub fn state<T: Any + Send + Sync>(&self) -> Arc<T> {
        self.context.scope.state()
    }
}
