//! Handles of started tasks: to join, inspect or cancel them.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::failure::{Failure, Outcome};
use super::permits;
use super::progress::{Progress, TaskState};
use super::record::{Record, Stop};
use super::registry::{LentSlot, Registry};
use super::request_info::RequestInfo;
use super::scope::Context;
use crate::error::Error;
use crate::panics;
use crate::sync::{lock, wait_while};
use crate::watch::Watched;

/// A handle of a started task, to join, inspect or cancel it. Dropping the handle does not affect the task.
pub struct TaskHandle<T> {
    info: TaskInfo,
    /// Another task started the task.
    is_nested: bool,
    result: Arc<OutcomeCell<T>>,
}

impl<T> TaskHandle<T> {
    /// Creates the handle of a task, and the promise that completes it.
    pub(super) fn with_promise(info: TaskInfo, is_nested: bool) -> (TaskHandle<T>, Promise<T>) {
        let result = Arc::new(OutcomeCell::default());
        (TaskHandle { info, is_nested, result: result.clone() }, Promise(Some(result)))
    }

    /// Waits for the task's outcome.
    ///
    /// Within a task, the waiting task does not count toward `ASIDE_MAX_TASKS` until this returns: the task that it waits
    /// for runs in its place, ahead of the queue, or another one if that one runs already. So parents that wait for their
    /// children never block them. Do not hold a lock during the wait that other tasks need. In a job, the task runs beside the
    /// limit, as the job does.
    ///
    /// # Errors
    /// The [`Failure`], if the task did not succeed. In work of a [`Pool`](crate::Pool) also an error, at once, if the wait
    /// would never end: the task needs a permit, and every permit is held by work that waits like this. The task itself
    /// continues.
    #[track_caller]
    pub fn join(self) -> Outcome<T> {
        match permits::join(self.info.record.address()) {
            Ok(_joining) => {
                let _lent = self.lend_slot();
                self.result.wait()
            }
            Err(why) => Err(Failure::Error(Error::internal(format!(
                "the wait for the task {} would never end: {why}",
                self.info.name()
            )))),
        }
    }

    /// Lends the slot of the current task to this task, which the current task waits for. A thread without a task lends
    /// nothing, except to a task that another one started: that task may wait for the thread.
    fn lend_slot(&self) -> Option<LentSlot> {
        let context = Context::current();
        let is_lent = !self.is_finished() && (context.task.is_some() || self.is_nested);
        let joiner = context.task.filter(|_| context.scope.registry().is_same(&self.info.registry));
        is_lent.then(|| self.info.registry.lend_slot(&self.info.record, joiner.as_deref()))
    }

    /// Returns the task's identity and progress.
    pub fn info(&self) -> &TaskInfo {
        &self.info
    }

    /// Returns the number of the task, as in the log.
    pub fn id(&self) -> u64 {
        self.info.id()
    }

    /// Tells the task to cancel. A task that has not begun does not run.
    pub fn cancel(&self) {
        self.info.cancel();
    }

    /// Returns true if the task has ended, in success or not.
    pub fn is_finished(&self) -> bool {
        self.info.is_finished()
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// A view of one task: its identity, state, progress and failure, up to date at each call.
#[derive(Clone)]
pub struct TaskInfo {
    record: Arc<Record>,
    registry: Registry,
}

impl TaskInfo {
    pub(crate) fn new(record: Arc<Record>, registry: &Registry) -> TaskInfo {
        TaskInfo { record, registry: registry.clone() }
    }

    /// Returns the number of the task, as in the log.
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// Returns the name of the task.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Returns the key of the task, or its hash if it has more than 200 bytes.
    pub fn key(&self) -> Option<&str> {
        self.record.key.as_deref()
    }

    /// Returns the request that the task was started from.
    pub fn request(&self) -> Option<&RequestInfo> {
        self.record.request.as_deref()
    }

    /// Returns the state of the task.
    pub fn state(&self) -> TaskState {
        self.record.state()
    }

    /// Returns the progress, as the task reported it.
    pub fn progress(&self) -> Progress {
        Progress::clone(&self.record.progress.get())
    }

    /// Returns the progress as a value that can be watched for changes.
    pub(crate) fn watched(&self) -> &Arc<Watched<Progress>> {
        &self.record.progress
    }

    /// Returns the time from the first attempt until now, or until the end of the task.
    pub fn elapsed(&self) -> Duration {
        self.record.elapsed()
    }

    /// Returns the failure of the task, as in the log.
    pub fn failure(&self) -> Option<&str> {
        self.record.failure().map(|(failure, _)| failure)
    }

    /// Returns the backtrace of the error or panic, if `RUST_BACKTRACE` enabled it.
    pub fn backtrace(&self) -> Option<&str> {
        self.record.failure().and_then(|(_, backtrace)| backtrace)
    }

    /// Returns true if the deadline has passed while the task ran.
    pub fn is_overdue(&self) -> bool {
        self.record.is_overdue()
    }

    /// Returns true if the task has ended, in success or not.
    pub fn is_finished(&self) -> bool {
        self.record.has_ended()
    }

    /// Tells the task to cancel. A task that has not begun does not run.
    pub fn cancel(&self) {
        self.record.tell_to_stop(Stop::Asked);
        self.registry.retry_now(self.record.id);
    }
}

impl fmt::Debug for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} {} ({:?})", self.id(), self.name(), self.state())?;
        self.failure().map_or(Ok(()), |failure| write!(f, ": {failure}"))
    }
}

/// Returns the newest task with a key in this application: a running one, or one of the last 200 that ended.
///
/// ```
/// use aside::tasks::TaskState;
/// use aside::Request;
///
/// fn status(req: &mut Request) -> aside::Result<String> {
///     let id: u64 = req.param("id")?;
///     Ok(match aside::tasks::task(&format!("photo-{id}")) {
///         Some(task) if task.is_finished() => format!("{:?}", task.state()),
///         Some(task) => format!("{} of {}", task.progress().done, task.progress().total),
///         None => "nothing is being done for it".into(),
///     })
/// }
/// ```
pub fn task(key: &str) -> Option<TaskInfo> {
    let scope = Context::current().scope;
    let record = scope.registry().find(key)?;
    Some(TaskInfo::new(record, scope.registry()))
}

/// A cell that receives the outcome of a task for its handle.
struct OutcomeCell<T> {
    state: Mutex<CellState<T>>,
    ready: Condvar,
}

struct CellState<T> {
    outcome: Option<Outcome<T>>,
    /// A thread waits. Without one a notification, which is a system call, is not needed.
    is_awaited: bool,
}

impl<T> Default for OutcomeCell<T> {
    fn default() -> OutcomeCell<T> {
        OutcomeCell { state: Mutex::new(CellState { outcome: None, is_awaited: false }), ready: Condvar::new() }
    }
}

impl<T> OutcomeCell<T> {
    fn wait(&self) -> Outcome<T> {
        let mut state = lock(&self.state);
        state.is_awaited = true;
        let outcome = wait_while(&self.ready, state, |state| state.outcome.is_none()).outcome.take();
        outcome.unwrap_or(Err(Failure::Abandoned))
    }

    fn put(&self, outcome: Outcome<T>) {
        let mut state = lock(&self.state);
        state.outcome = Some(outcome);
        if state.is_awaited {
            self.ready.notify_one();
        }
    }
}

/// The obligation to set the outcome for a handle. If it is dropped, the task was abandoned, and the handle reports that.
pub(crate) struct Promise<T>(Option<Arc<OutcomeCell<T>>>);

impl<T> Promise<T> {
    /// Creates a promise without a handle: the outcome is dropped.
    pub(super) fn without_handle() -> Promise<T> {
        Promise(None)
    }

    pub(super) fn fulfill(mut self, outcome: Outcome<T>) {
        // Without a handle the value is dropped here. Its drop is application code and may panic.
        match self.0.take() {
            Some(cell) => {
                cell.put(outcome);
                panics::discard(cell);
            }
            None => panics::discard(outcome),
        }
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        if let Some(cell) = self.0.take() {
            cell.put(Err(Failure::Abandoned));
        }
    }
}
