//! The execution of a task: its attempts, on one thread after the other, until it has an outcome.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::failure::{Failure, IntoOutcome, Outcome};
use super::handle::{Promise, TaskHandle, TaskInfo};
#[cfg(feature = "isolate")]
use super::lineage::Lineage;
use super::observer::{AttemptEnded, Next};
use super::record::{Identity, Record, Stop};
use super::registry::Registry;
use super::retry::{AttemptEnd, EndTask, Retry, ScheduledRetry};
use super::scope::Context;
use super::slots::{Admission, Turn};
use super::task_context::TaskContext;
use super::thread_pool::{self, Work};
use super::timer;
use crate::error::Error;
use crate::panics::{self, Contained};
use crate::sync::lock;

/// A source of permits for attempts. It calls back with the permit, now or later; the attempt drops the permit when it
/// ends.
#[derive(Clone)]
#[cfg_attr(not(feature = "mail"), allow(dead_code, reason = "only mail waits at a gate"))]
pub(crate) struct Gate(Arc<dyn Fn(Admitted) + Send + Sync>);

/// The callback that receives a permit.
pub(crate) type Admitted = Box<dyn FnOnce(Permit) + Send>;

/// A permit of any kind, returned when dropped.
pub(crate) type Permit = Box<dyn Any + Send>;

impl Gate {
    /// Creates a gate from a function that admits attempts.
    #[cfg(feature = "mail")]
    pub(crate) fn new(admit: impl Fn(Admitted) + Send + Sync + 'static) -> Gate {
        Gate(Arc::new(admit))
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// The identity and the time limits of a task.
pub(crate) struct Options {
    pub(super) identity: Identity,
    pub(super) deadline: Option<Duration>,
    pub(super) unwatched: Option<Duration>,
}

impl Options {
    /// Marks the task as the attempt with this number of a job of the type `name`.
    pub(crate) fn for_job(self, id: u64, name: &str, attempt: u32) -> Options {
        let kind = Some(name.to_owned().into());
        Options { identity: Identity { job: Some(id), job_attempt: Some(attempt), kind, ..self.identity }, ..self }
    }
}

/// A task that is deferred until the response is sent.
pub(crate) struct Deferred {
    context: Context,
    options: Options,
    call: Contained<Call<()>>,
}

impl Deferred {
    pub(crate) fn new<F, R>(options: Options, f: F) -> Deferred
    where
        F: FnOnce(&TaskContext) -> R + Send + 'static,
        R: IntoOutcome,
    {
        let call = call_once(|task| f(task).into_outcome().map(drop));
        Deferred { context: Context::current(), options, call: Contained::new(call) }
    }

    /// Starts the task.
    pub(crate) fn start(self) {
        Run::new(self.context, self.options, self.call.into_inner()).start();
    }
}

/// The function of a task, called once for each attempt.
pub(crate) type Call<T> = Box<dyn FnMut(&TaskContext) -> AttemptEnd<T> + Send>;

/// Returns a [`Call`] that calls `f` once.
pub(crate) fn once<F, R>(f: F) -> Call<R::Value>
where
    F: FnOnce(&TaskContext) -> R + Send + 'static,
    R: IntoOutcome,
{
    call_once(|task| f(task).into_outcome())
}

/// Returns a [`Call`] that calls a function of this crate once. The function returns an outcome or the end of an attempt,
/// and its failure is not wrapped in an error.
pub(crate) fn call_once<T, E: Into<AttemptEnd<T>>>(f: impl FnOnce(&TaskContext) -> E + Send + 'static) -> Call<T> {
    let mut f = Some(f);
    Box::new(move |task| f.take().map_or(AttemptEnd::Ended(Err(Failure::Abandoned)), |f| f(task).into()))
}

/// A registered task with its function. It moves from thread to thread between attempts.
pub(crate) struct Run<T> {
    context: Context,
    registry: Registry,
    record: Arc<Record>,
    call: Contained<Call<T>>,
    retry: Option<Retry>,
    attempts: u32,
    deadline: Option<Deadline>,
    admission: Admission,
    /// Another task started this one.
    is_nested: bool,
    gate: Option<Gate>,
}

/// A deadline, with its timer ticket once the task has begun. The timer is cancelled when the value is dropped.
struct Deadline(Duration, Option<timer::Ticket>);

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(ticket) = self.1.take() {
            timer::cancel(ticket);
        }
    }
}

/// A registered task without its function, for a function that needs the record of the task.
pub(crate) struct Prepared {
    context: Context,
    registry: Registry,
    record: Arc<Record>,
    deadline: Option<Deadline>,
    is_nested: bool,
}

impl Prepared {
    /// Registers a task.
    pub(crate) fn new(mut context: Context, options: Options) -> Prepared {
        let registry = context.scope.registry().clone();
        let is_nested = context.task.is_some();
        let record = registry.enter(options.identity, context.lineage);
        (context.lineage, context.task) = (record.lineage_within(), Some(record.clone()));
        let deadline = options.deadline.map(|time| Deadline(time, None));
        if let Some(grace) = options.unwatched {
            registry.cancel_if_unwatched(&record, grace);
        }
        Prepared { context, registry, record, deadline, is_nested }
    }

    /// Returns the record of the task.
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Returns a handle of the task, and the promise that completes it.
    pub(crate) fn handle<T>(&self) -> (TaskHandle<T>, Promise<T>) {
        TaskHandle::with_promise(TaskInfo::new(self.record.clone(), &self.registry), self.is_nested)
    }

    /// Adds the function of the task.
    pub(crate) fn with<T: Send + 'static>(self, call: Call<T>) -> Run<T> {
        let Prepared { context, registry, record, deadline, is_nested } = self;
        Run {
            context,
            registry,
            record,
            call: Contained::new(call),
            retry: None,
            attempts: 0,
            deadline,
            admission: Admission::InTurn,
            is_nested,
            gate: None,
        }
    }
}

impl<T: Send + 'static> Run<T> {
    pub(crate) fn new(context: Context, options: Options, call: Call<T>) -> Run<T> {
        Prepared::new(context, options).with(call)
    }

    /// Sets the lineage of the work that the task starts, for a task that stands for one in another process.
    #[cfg(feature = "isolate")]
    pub(crate) fn with_lineage(mut self, lineage: Lineage) -> Run<T> {
        self.context.lineage = lineage;
        self
    }

    /// Sets the kind of admission.
    pub(crate) fn admitted(mut self, admission: Admission) -> Run<T> {
        self.admission = admission;
        self
    }

    /// Sets the retry policy, and the gate that each attempt waits for.
    pub(super) fn retried(mut self, retry: Retry, gate: Option<Gate>) -> Run<T> {
        (self.retry, self.gate) = (Some(retry), gate);
        self
    }

    /// Runs the task on a new thread and returns the thread's handle. A task that starts this one may wait for the handle,
    /// which cannot lend a slot: this task is therefore admitted at once.
    pub(super) fn on_own_thread(self) -> JoinHandle<Outcome<T>> {
        let (registry, record, is_nested) = (self.registry.clone(), self.record.clone(), self.is_nested);
        if !registry.take_thread(&record, is_nested) {
            return self.on_this_thread();
        }
        let admission = if is_nested { Admission::AtOnce } else { Admission::InTurn };
        let turn = registry.take_slot(&record, admission);
        // The thread takes the task out of the cell. If the operating system refuses the thread, the task is still there.
        let cell = Arc::new(Mutex::new(Some((self, turn))));
        loop {
            let theirs = cell.clone();
            let spawned = thread_pool::spawn(record.name.replace('\0', ""), registry.nice(), move || {
                let run = lock(&theirs).take();
                run.map_or(Err(Failure::Abandoned), |(run, turn)| run.in_turn(turn.as_deref()))
            });
            match spawned {
                Ok(handle) => return handle,
                Err(_) if !is_nested => registry.wait_for_thread(&record),
                Err(_) => {
                    registry.leave_slot_and_pass_on(&record);
                    registry.leave_thread();
                    let run = lock(&cell).take();
                    let (run, _) = run.expect("a thread that was not started has not taken the task");
                    return run.on_this_thread();
                }
            }
        }
    }

    /// Runs the task on the thread of the task that starts it: every other thread may wait for this task, so it must not wait
    /// for one of them. The returned thread only returns the outcome.
    fn on_this_thread(mut self) -> JoinHandle<Outcome<T>> {
        let outcome = match Depth::enter() {
            Some(_depth) => self.attempt_and_end(),
            None => self.end(AttemptEnd::Ended(Err(Failure::Error(Error::internal(format!(
                "all task threads are in use (ASIDE_MAX_TASK_THREADS), and {DEEPEST} tasks run on the thread of this one's caller"
            )))))),
        };
        let outcome = Arc::new(Mutex::new(Some(outcome)));
        loop {
            let theirs = outcome.clone();
            match thread_pool::return_value(move || lock(&theirs).take().unwrap_or(Err(Failure::Abandoned))) {
                Ok(handle) => return handle,
                Err(_) => self.registry.wait_for_thread(&self.record),
            }
        }
    }

    /// Runs the task on its own thread when its turn comes. If the turn never comes, the process has abandoned the task at
    /// shutdown.
    fn in_turn(self, turn: Option<&Turn>) -> Outcome<T> {
        let registry = self.registry.clone();
        let outcome = if turn.is_none_or(Turn::wait) { self.finish() } else { Err(Failure::Abandoned) };
        registry.leave_thread();
        outcome
    }

    /// Runs the single attempt of a task on its own thread, and ends the task.
    fn finish(mut self) -> Outcome<T> {
        let outcome = self.attempt_and_end();
        self.registry.leave_slot_and_pass_on(&self.record);
        outcome
    }

    /// Runs a single attempt, and ends the task with its outcome.
    fn attempt_and_end(&mut self) -> Outcome<T> {
        let end = self.attempt();
        self.end(end)
    }

    /// Records and logs the end of the task, once. Returns the outcome.
    fn end(&self, end: AttemptEnd<T>) -> Outcome<T> {
        match end {
            AttemptEnd::Ended(outcome) => {
                self.registry.end(&self.record, outcome.as_ref().err());
                outcome
            }
            AttemptEnd::Retrying(failure, retry) => self.end_failed(failure, Next::Retry(retry)),
            AttemptEnd::Dead(failure, attempts) => self.end_failed(failure, Next::Dead { attempts }),
            // Only a task on a pooled thread can end later.
            AttemptEnd::Later(_) => self.end(AttemptEnd::Ended(Err(Failure::Abandoned))),
        }
    }

    fn end_failed(&self, failure: Failure, next: Next) -> Outcome<T> {
        self.registry.end_attempt(&AttemptEnded { record: &self.record, failure: Some(&failure), next });
        Err(failure)
    }

    /// Starts the task on a pooled thread and returns its handle.
    pub(crate) fn with_handle(self) -> TaskHandle<T> {
        let (handle, promise) = self.handle();
        self.start_with(promise);
        handle
    }

    /// Returns the handle, and the promise that completes it.
    pub(crate) fn handle(&self) -> (TaskHandle<T>, Promise<T>) {
        TaskHandle::with_promise(TaskInfo::new(self.record.clone(), &self.registry), self.is_nested)
    }

    /// Starts the task on a pooled thread, without a handle.
    fn start(self) {
        self.start_with(Promise::without_handle());
    }

    /// Starts the task on a pooled thread, after its gate has admitted it.
    pub(crate) fn start_with(self, promise: Promise<T>) {
        let (registry, record, admission) = (self.registry.clone(), self.record.clone(), self.admission);
        let Some(gate) = self.gate.clone() else {
            return registry.start(&record, Work::new(move || self.step(promise, None)), admission);
        };
        // With a permit it must not wait for a slot: a task with a slot may be waiting for the permit.
        let admission = admission.at_once();
        let admitted =
            move |permit| registry.start(&record, Work::new(move || self.step(promise, Some(permit))), admission);
        (gate.0)(Box::new(admitted));
    }

    /// Runs one attempt on a pooled thread, and then schedules the next one or ends the task.
    fn step(self, promise: Promise<T>, permit: Option<Permit>) -> Option<Work> {
        thread_pool::rename(&self.record.name);
        let (registry, record) = (self.registry.clone(), self.record.clone());
        // The function is called inside its own catch. If anything else panics, the task still ends and releases its slot.
        panics::catch(|| self.attempt_and_schedule(promise, permit)).unwrap_or_else(|panic| {
            registry.end(&record, Some(&Failure::Panic(panic)));
            registry.leave_slot(&record)
        })
    }

    fn attempt_and_schedule(mut self, promise: Promise<T>, permit: Option<Permit>) -> Option<Work> {
        let end = self.attempt();
        drop(permit);
        if let AttemptEnd::Later(hand_over) = end {
            hand_over(Pending(Some((self, promise))).into_call());
            return None;
        }
        let (registry, record, admission) = (self.registry.clone(), self.record.clone(), self.admission);
        let Some(wait) = self.wait_before_next(&end) else {
            promise.fulfill(self.end(end));
            return registry.leave_slot(&record);
        };
        // The slot is released before the next attempt can take one for the task.
        let next = registry.leave_slot(&record);
        registry.retry_after(&record, wait, Work::new(move || self.next_step(promise)), admission);
        next
    }

    /// Starts the next attempt: at once, or when its gate admits it.
    fn next_step(self, promise: Promise<T>) -> Option<Work> {
        if self.gate.is_none() {
            return self.step(promise, None);
        }
        let next = self.registry.leave_slot(&self.record);
        self.start_with(promise);
        next
    }

    /// Returns the wait before the next attempt, and logs and records the failure, if there is to be one.
    fn wait_before_next(&self, end: &AttemptEnd<T>) -> Option<Duration> {
        let AttemptEnd::Ended(Err(failure)) = end else { return None };
        let retry = self.retry.as_ref()?;
        let wait = retry.wait_after(self.attempts, failure)?;
        if self.registry.is_closing() || self.record.is_cancelled() {
            return None;
        }
        let scheduled = ScheduledRetry { attempt: self.attempts, attempts: retry.attempts(), wait };
        let ended = AttemptEnded { record: &self.record, failure: Some(failure), next: Next::Retry(scheduled) };
        self.registry.report(&ended);
        self.record.wait_for_retry(scheduled);
        Some(wait)
    }

    /// Runs the attempt with the given number on this thread and returns its outcome. The parent process logs and records the
    /// outcome, so this process does not.
    #[cfg(unix)]
    pub(crate) fn attempt_here(mut self, number: u32) -> Outcome<T> {
        self.attempts = number.saturating_sub(1);
        let end = self.attempt();
        self.registry.forget(&self.record);
        match end {
            AttemptEnd::Ended(outcome) => outcome,
            AttemptEnd::Retrying(failure, _) | AttemptEnd::Dead(failure, _) => Err(failure),
            AttemptEnd::Later(_) => Err(Failure::Abandoned),
        }
    }

    /// Runs one attempt, unless the task was told to cancel before.
    fn attempt(&mut self) -> AttemptEnd<T> {
        if self.record.is_cancelled() {
            return AttemptEnd::Ended(Err(self.cancelled()));
        }
        self.attempts += 1;
        self.record.begin();
        if let Some(Deadline(time, ticket @ None)) = &mut self.deadline {
            *ticket = Some(self.registry.watch_deadline(&self.record, *time));
        }
        let (context, record) = (self.context.clone(), self.record.clone());
        let task = TaskContext::new(context, record, self.attempts);
        let _entered = self.context.clone().enter();
        match panics::catch(|| (self.call)(&task)) {
            Ok(AttemptEnd::Ended(Err(Failure::Cancelled))) => AttemptEnd::Ended(Err(self.cancelled())),
            Ok(end) => end,
            Err(panic) => AttemptEnd::Ended(Err(Failure::Panic(panic))),
        }
    }

    /// Returns the failure of a cancelled task.
    fn cancelled(&self) -> Failure {
        match self.record.stop_reason() {
            Some(Stop::Deadline) => Failure::TimedOut,
            _ => Failure::Cancelled,
        }
    }
}

/// A task whose attempt is over, and whose end is known later.
struct Pending<T: Send + 'static>(Option<(Run<T>, Promise<T>)>);

impl<T: Send + 'static> Pending<T> {
    fn into_call(mut self) -> EndTask<T> {
        Box::new(move |end| self.end(end))
    }

    fn end(&mut self, end: AttemptEnd<T>) {
        let Some((run, promise)) = self.0.take() else { return };
        promise.fulfill(run.end(end));
        run.registry.leave_slot_and_pass_on(&run.record);
    }
}

impl<T: Send + 'static> Drop for Pending<T> {
    fn drop(&mut self) {
        self.end(AttemptEnd::Ended(Err(Failure::Abandoned)));
    }
}

/// The limit on tasks that run within one another on the thread of their caller, so that its stack suffices.
const DEEPEST: usize = 16;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// A task on the thread of its caller, counted until dropped.
struct Depth;

impl Depth {
    fn enter() -> Option<Depth> {
        let depth = DEPTH.get();
        (depth < DEEPEST).then(|| {
            DEPTH.set(depth + 1);
            Depth
        })
    }
}

impl Drop for Depth {
    fn drop(&mut self) {
        DEPTH.set(DEPTH.get() - 1);
    }
}
