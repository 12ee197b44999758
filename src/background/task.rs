//! Tasks: from a closure to its outcome.

use std::any::Any;
use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::failure::{Cancelled, Failure, IntoOutcome, Outcome};
use super::permits;
use super::registry::{LentSlot, Progress, Record, Registry, RequestInfo, Stop, TaskState};
use super::scope::Context;
use super::slots::{Admission, Turn};
use super::thread_pool::{self, Work};
use super::timer;
use crate::bounds;
use crate::error::Error;
use crate::panics::{self, Contained};
use crate::sync::{lock, wait_while};
use crate::watch::Watched;

/// The longest stored message of a task, in bytes.
const LONGEST_MESSAGE: usize = 10_000;

/// Does `f` aside: on an OS thread of its own, from now on. Gives the standard library's handle back.
///
/// ```
/// use aside::background;
///
/// # fn charge(_order: u64) -> Result<(), std::io::Error> { Ok(()) }
/// let order = 17;
/// background(move || charge(order)); // and on with the page
///
/// let answer = background(|| "42".parse::<u32>());
/// assert_eq!(answer.join().unwrap().unwrap(), 42);
/// ```
///
/// `f` returns a [`PlainValue`](crate::PlainValue), such as nothing, a number, text or a list, or a `Result` with any error.
/// Its error or panic is logged, once, at error level, and never becomes a response; [`Failure`] tells which it was. A
/// closure that uses `?` ends in [`aside::ok(value)`](crate::ok()).
///
/// The task is named after the function, or after the enclosing function and the line for a closure; it carries the
/// request that it came from, also into tasks that it starts itself. At shutdown the process waits for it.
///
/// At most `ASIDE_MAX_TASKS` (1,000) tasks run at once. Above that, the new thread waits for its turn, and this call still
/// returns at once. If `ASIDE_MAX_TASK_THREADS` (4,000) such threads exist, running or waiting, this call waits until one
/// ends and logs that. Do not hold a lock across this call that a task may need.
///
/// From within a task or a job, `f` always starts at once, since the caller may wait for it: `ASIDE_MAX_TASKS` does not
/// apply, only `ASIDE_MAX_TASK_THREADS`. At that limit the caller runs `f` itself before this call returns, and the log
/// says so. `f` must not wait there for something that its caller does later. At most 16 calls run within one another on
/// one thread; a further one is not run, and its outcome is an error. A [`Task`] waits in the queue instead.
///
/// On Linux tasks stand back behind pages (`ASIDE_BACKGROUND_NICE`, 10), and threads that they start inherit that: a rayon
/// pool that a task is the first to use serves everybody at the lower priority from then on.
///
/// # When not to use it
/// A task may run after the response. Work whose result the response shows belongs in the handler:
///
/// - **Database reads that the response needs**: read in the handler. [`Cache::remember`](crate::Cache::remember) spares
///   the next requests the query. Two slow reads can run at the same time in two tasks that the handler joins.
/// - **Validation**: check the input in the handler with [`Request::form`](crate::Request::form) or
///   [`Request::submitted`](crate::Request::submitted), and respond with 422. A task cannot refuse a request that has
///   been answered.
/// - **What the user expects to see immediately**, such as a counter on the page: change it in the handler, before the
///   redirect. With a [`Live`](crate::Live) state, the pages that are open show the change too.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Error, Live, Request, Response, Result, background, redirect};
///
/// fn like(req: &mut Request) -> Result<Response> {
///     let name = req.form_pairs()?.pop().map(|(_, name)| name).unwrap_or_default();
///     if name.is_empty() {
///         return Err(Error::unprocessable("Please enter your name.")); // this response refuses it
///     }
///     req.state::<Live<u64>>().update(|likes| *likes += 1); // the next page shows it
///     background(move || println!("{name} likes this")); // no page needs this
///     Ok(redirect("/"))
/// }
///
/// let app = App::new()
///     .state(Live::new(0_u64))
///     .get("/", |req: &mut Request| format!("{} likes", req.state::<Live<u64>>().get()))
///     .post("/", like);
/// let mut client = TestClient::new(app);
/// client.post("/").form(&[("name", "Ada")]).send();
/// assert_eq!(client.get("/").text(), "1 likes");
/// client.drain();
/// ```
///
/// # Panics
/// Never; `join` never gives an `Err`, since panics are caught inside. `panic = "abort"` is not supported.
///
/// If `f` returns a **value** whose `Drop` panics, the process ends when the last handle is gone: the standard library
/// keeps the value for the handle, and aborts. A [`Task`] has a handle of its own and logs such a panic.
#[track_caller]
pub fn background<F, R>(f: F) -> JoinHandle<Outcome<R::Value>>
where
    F: FnOnce() -> R + Send + 'static,
    R: IntoOutcome,
    R::Value: Send + 'static,
{
    let name = name_of::<F>(Location::caller());
    let run =
        Run::new(Context::current(), Name { name, key: None, deadline: None, unwatched: None }, once(move |_| f()));
    run.on_a_thread_of_its_own()
}

/// A task with a name, a key to find it by, a deadline, or more than one try.
///
/// ```
/// use aside::Task;
/// use std::time::Duration;
///
/// let handle = Task::named("import").key("photo-17").deadline(Duration::from_secs(60)).spawn(|task| {
///     for row in 0..100 {
///         task.check_cancelled()?; // cancelled, or past the deadline
///         task.progress(row, 100);
///     }
///     aside::ok(100)
/// });
/// assert_eq!(handle.join().unwrap(), 100);
/// ```
///
/// It has a thread to itself while it runs. At most `ASIDE_MAX_TASKS` (1,000) run at once, including those that other tasks
/// start. Further ones wait in a queue, in order; `spawn` does not wait. The queue is in memory and has no limit: use a
/// [`RateLimit`](crate::App::rate_limit) or a [`Job`](crate::Job) where clients can start many.
///
/// A task that waits for another one with [`join`](TaskHandle::join) lends it its slot. One that waits in another way,
/// such as on a channel, keeps its slot while the other one may still be in the queue.
#[derive(Debug, Clone, Default)]
#[must_use = "it starts with `spawn`"]
pub struct Task {
    name: Option<String>,
    key: Option<String>,
    deadline: Option<Duration>,
    unwatched: Option<Duration>,
}

impl Task {
    /// A task named after its function, as [`background`] names it.
    pub fn new() -> Task {
        Task::default()
    }

    /// A task of that name.
    pub fn named(name: impl Into<String>) -> Task {
        Task { name: Some(name.into()), ..Task::default() }
    }

    pub(crate) fn with_name(self, name: impl Into<String>) -> Task {
        Task { name: Some(name.into()), ..self }
    }

    /// Sets the key by which [`task`](crate::task()) finds it, for every client. A route that takes the key from its path
    /// shows the task to each client that can guess the key. To keep a task private to one visitor, put the
    /// [`Session::id`](crate::Session::id) or an unguessable value from the session into the key. The id of a request or of
    /// a task is not a secret.
    ///
    /// A key over 200 bytes is stored as its hash.
    pub fn key(mut self, key: impl Into<String>) -> Task {
        self.key = Some(key.into());
        self
    }

    /// How long it may take, from its first beginning. A thread cannot be killed: past that time it is told to cancel
    /// ([`TaskContext::is_cancelled`]), and the log says that it is overdue.
    pub fn deadline(mut self, deadline: Duration) -> Task {
        self.deadline = Some(deadline);
        self
    }

    /// Tells it to cancel once nobody watches it any more: when no page has followed its [`live`](TaskHandle::live) progress
    /// for that long, after one did. For work that is for the page alone, such as a search.
    ///
    /// ```
    /// use aside::Task;
    /// use std::time::Duration;
    ///
    /// Task::named("search").key("search-17").cancel_unwatched(Duration::from_secs(30)).spawn(|task| {
    ///     for shelf in 0..1_000 {
    ///         task.check_cancelled()?; // the visitor has left
    ///         task.progress(shelf, 1_000);
    ///     }
    ///     aside::ok(())
    /// });
    /// ```
    ///
    /// A visitor without JavaScript watches nothing, and his task runs to its end. A page that is loaded anew stops watching
    /// for a moment: leave it some seconds.
    pub fn cancel_unwatched(mut self, grace: Duration) -> Task {
        self.unwatched = Some(grace);
        self
    }

    /// Tries it more than once. The wait between two tries holds no thread.
    ///
    /// ```
    /// use aside::{Retry, Task};
    /// use std::time::Duration;
    ///
    /// Task::named("ping").retry(Retry::exponential(3, Duration::from_secs(1))).spawn(|task| {
    ///     log::info!("try {}", task.attempt());
    /// });
    /// ```
    pub fn retry(self, retry: Retry) -> RetriedTask {
        RetriedTask { task: self, retry, gate: None }
    }

    /// Returns true if the task can be found.
    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Finds the task of this [key](Task::key), as [`task`](crate::task()) does; none without a key.
    pub fn find(&self) -> Option<TaskInfo> {
        task(self.key.as_deref()?)
    }

    /// Starts the task in the background, and returns its handle.
    #[track_caller]
    pub fn spawn<F, R>(self, f: F) -> TaskHandle<R::Value>
    where
        F: FnOnce(&TaskContext) -> R + Send + 'static,
        R: IntoOutcome,
        R::Value: Send + 'static,
    {
        let name = self.naming::<F>(Location::caller());
        Run::new(Context::current(), name, once(f)).with_handle()
    }

    pub(crate) fn naming<F>(self, place: &Location<'_>) -> Name {
        let name = self.name.unwrap_or_else(|| name_of::<F>(place));
        Name { name, key: self.key, deadline: self.deadline, unwatched: self.unwatched }
    }
}

/// A [`Task`] that is tried more than once: its function is called anew for each try.
#[derive(Debug, Clone)]
#[must_use = "it starts with `spawn`"]
pub struct RetriedTask {
    task: Task,
    retry: Retry,
    gate: Option<Gate>,
}

impl RetriedTask {
    /// Makes each attempt wait for the gate, without holding a thread.
    #[cfg(feature = "mail")]
    pub(crate) fn behind(self, gate: Gate) -> RetriedTask {
        RetriedTask { gate: Some(gate), ..self }
    }

    /// Starts the task in the background. A failed attempt is logged as a warning with the time of the next; the last one as an error.
    #[track_caller]
    pub fn spawn<F, R>(self, f: F) -> TaskHandle<R::Value>
    where
        F: Fn(&TaskContext) -> R + Send + 'static,
        R: IntoOutcome,
        R::Value: Send + 'static,
    {
        let name = self.task.naming::<F>(Location::caller());
        let call: Call<R::Value> = Box::new(move |task| f(task).into_outcome());
        Run { retry: Some(self.retry), gate: self.gate, ..Run::new(Context::current(), name, call) }.with_handle()
    }
}

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
    /// The gate as `admit` stores it.
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

/// How often something is tried, and how long it waits in between.
#[derive(Clone)]
pub struct Retry {
    tries: u32,
    first_wait: Duration,
    only_if: Option<fn(&Error) -> bool>,
}

impl Retry {
    /// That many tries in all. The first wait is as given, each further one twice the former, at most an hour; each is
    /// shortened by up to a quarter at random, so that what failed together does not come back together.
    pub fn exponential(tries: u32, first_wait: Duration) -> Retry {
        Retry { tries: tries.max(1), first_wait, only_if: None }
    }

    /// Tries again only after errors that the function says yes to. Panics are tried again in any case.
    pub fn only_if(mut self, worth_it: fn(&Error) -> bool) -> Retry {
        self.only_if = Some(worth_it);
        self
    }

    /// How often something is tried in all.
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// The wait after that many failed tries, if there is to be another.
    pub(crate) fn wait_after(&self, failed: u32, failure: &Failure) -> Option<Duration> {
        let worth_it = match failure {
            // A predicate that panics has not refused the retry; panics are retried in any case.
            Failure::Error(error) => {
                self.only_if.is_none_or(|worth_it| panics::catch(|| worth_it(error)).unwrap_or(true))
            }
            Failure::Panic(_) => true,
            _ => false,
        };
        if worth_it { self.wait(failed) } else { None }
    }

    /// The same, whatever it failed of.
    pub(crate) fn wait(&self, failed: u32) -> Option<Duration> {
        if failed >= self.tries {
            return None;
        }
        let doubled = self.first_wait.saturating_mul(1 << (failed - 1).min(20));
        Some(doubled.min(Duration::from_secs(3600)).mul_f64(1.0 - f64::from(random_byte()) / 1024.0))
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Retry({} tries, {:?} and doubled)", self.tries, self.first_wait)
    }
}

fn random_byte() -> u8 {
    let mut byte = [128];
    // Without randomness there is no jitter, and no harm.
    let _ = getrandom::fill(&mut byte);
    byte[0]
}

/// What a task knows of itself and can say of itself.
#[derive(Clone)]
pub struct TaskContext {
    context: Context,
    record: Arc<Record>,
    attempt: u32,
    attached: Option<Arc<dyn Any + Send + Sync>>,
}

impl TaskContext {
    /// The same as that try of something that is more than a task.
    pub(crate) fn attach(&self, attempt: u32, attached: Arc<dyn Any + Send + Sync>) -> TaskContext {
        TaskContext { attempt, attached: Some(attached), ..self.clone() }
    }

    /// What it is more than a task.
    pub(crate) fn attached<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.attached.clone()?.downcast().ok()
    }

    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Its number, as in the log.
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Which try this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Says how far it is.
    pub fn progress(&self, done: u64, total: u64) {
        self.record.update(|progress| (progress.done, progress.total) = (done, total));
    }

    /// Sets the current message, of up to 10,000 bytes.
    pub fn message(&self, message: impl Into<String>) {
        let message = bounds::shorten(&message.into(), LONGEST_MESSAGE).into_owned();
        self.record.update(|progress| progress.message = message);
    }

    /// Whether it was told to cancel: by its handle, by its deadline, or because the process stops.
    pub fn is_cancelled(&self) -> bool {
        self.record.is_cancelled()
    }

    /// The same for a `?`.
    ///
    /// # Errors
    /// [`Cancelled`] when it was told to cancel. A task that returns it counts as cancelled, not as failed.
    pub fn check_cancelled(&self) -> Result<(), Cancelled> {
        if self.is_cancelled() { Err(Cancelled) } else { Ok(()) }
    }

    /// Waits for a duration, or until the task is told to cancel. The task counts toward `ASIDE_MAX_TASKS` during the wait.
    ///
    /// # Errors
    /// [`Cancelled`] when it was told to.
    pub fn sleep(&self, time: Duration) -> Result<(), Cancelled> {
        if self.record.wait_for_stop(time) { Err(Cancelled) } else { Ok(()) }
    }

    /// The application's state of that type.
    ///
    /// # Panics
    /// When `App::state` was given none of that type.
    pub fn state<T: Any + Send + Sync>(&self) -> Arc<T> {
        self.context.scope.state()
    }
}

/// A task that was set aside, to wait for, look at, or cancel. Letting it go changes nothing for the task.
pub struct TaskHandle<T> {
    info: TaskInfo,
    /// Another task started the task.
    is_nested: bool,
    result: Arc<Slot<T>>,
}

impl<T> TaskHandle<T> {
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

    /// Lends what the current task has to this one, which it waits for. A thread without a task lends nothing, except to a
    /// task that another one started: that one may wait for the thread.
    fn lend_slot(&self) -> Option<LentSlot> {
        let context = Context::current();
        let is_lent = !self.is_finished() && (context.task.is_some() || self.is_nested);
        let joiner = context.task.filter(|_| context.scope.registry().is_same(&self.info.registry));
        is_lent.then(|| self.info.registry.lend_slot(&self.info.record, joiner.as_deref()))
    }

    /// Who it is and how far.
    pub fn info(&self) -> &TaskInfo {
        &self.info
    }

    /// Its number, as in the log.
    pub fn id(&self) -> u64 {
        self.info.id()
    }

    /// Tells it to cancel. One that has not begun never will.
    pub fn cancel(&self) {
        self.info.cancel();
    }

    /// Whether it has ended, well or not.
    pub fn is_finished(&self) -> bool {
        self.info.is_finished()
    }
}

impl<T> fmt::Debug for TaskHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.info.fmt(f)
    }
}

/// A look at one task, which goes on while it is looked at.
#[derive(Clone)]
pub struct TaskInfo {
    record: Arc<Record>,
    registry: Registry,
}

impl TaskInfo {
    pub(crate) fn new(record: Arc<Record>, registry: &Registry) -> TaskInfo {
        TaskInfo { record, registry: registry.clone() }
    }

    /// Its number, as in the log.
    pub fn id(&self) -> u64 {
        self.record.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// The key of the task, or its hash if it has more than 200 bytes.
    pub fn key(&self) -> Option<&str> {
        self.record.key.as_deref()
    }

    /// Returns the request that started the task.
    pub fn request(&self) -> Option<&RequestInfo> {
        self.record.origin.as_deref()
    }

    /// Where it stands.
    pub fn state(&self) -> TaskState {
        self.record.state()
    }

    /// How far it is, as it said itself.
    pub fn progress(&self) -> Progress {
        Progress::clone(&self.record.progress.get())
    }

    /// The same for those who wait for what is new of it.
    pub(crate) fn watched(&self) -> &Arc<Watched<Progress>> {
        &self.record.progress
    }

    /// Returns the run time: until now, or until the end.
    pub fn elapsed(&self) -> Duration {
        self.record.after()
    }

    /// What went wrong, in the words of the log.
    pub fn failure(&self) -> Option<&str> {
        self.record.failure().map(|(words, _)| words)
    }

    /// The way to its error or its panic, when `RUST_BACKTRACE` asked for it.
    pub fn backtrace(&self) -> Option<&str> {
        self.record.failure().and_then(|(_, backtrace)| backtrace)
    }

    /// Whether its deadline has passed while it ran.
    pub fn is_overdue(&self) -> bool {
        self.record.is_overdue()
    }

    /// Whether it has ended, well or not.
    pub fn is_finished(&self) -> bool {
        self.record.has_ended()
    }

    /// Tells it to cancel. One that has not begun never will.
    pub fn cancel(&self) {
        self.record.tell_to_stop(Stop::Asked);
        self.registry.retry_now(self.record.id);
    }
}

impl fmt::Debug for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} {} ({:?})", self.id(), self.name(), self.state())?;
        self.failure().map_or(Ok(()), |words| write!(f, ": {words}"))
    }
}

/// The newest task of that key in this application: running, or among the last 200 that ended.
///
/// ```
/// use aside::{Request, TaskState};
///
/// fn status(req: &mut Request) -> aside::Result<String> {
///     let id: u64 = req.param("id")?;
///     Ok(match aside::task(&format!("photo-{id}")) {
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

/// What a task is called, and how long it may take.
pub(crate) struct Name {
    name: String,
    key: Option<String>,
    deadline: Option<Duration>,
    unwatched: Option<Duration>,
}

/// Work set aside on a response: it has not begun.
pub(crate) struct Deferred {
    context: Context,
    name: Name,
    call: Contained<Call<()>>,
}

impl Deferred {
    pub(crate) fn new<F, R>(name: Name, f: F) -> Deferred
    where
        F: FnOnce(&TaskContext) -> R + Send + 'static,
        R: IntoOutcome,
    {
        let mut f = Some(f);
        let call: Call<()> =
            Box::new(move |task: &TaskContext| f.take().map_or(Ok(()), |f| f(task).into_outcome().map(drop)));
        Deferred { context: Context::current(), name, call: Contained::new(call) }
    }

    /// Begins it.
    pub(crate) fn start(self) {
        Run::new(self.context, self.name, self.call.into_inner()).start();
    }
}

/// One try of a task.
type Call<T> = Box<dyn FnMut(&TaskContext) -> Outcome<T> + Send>;

/// A function that can be called once, as one that is.
pub(crate) fn once<F, R>(f: F) -> Call<R::Value>
where
    F: FnOnce(&TaskContext) -> R + Send + 'static,
    R: IntoOutcome,
{
    let mut f = Some(f);
    Box::new(move |task| f.take().map_or(Err(Failure::Abandoned), |f| f(task).into_outcome()))
}

/// A task under way: all that a try needs, handed from thread to thread between tries.
pub(crate) struct Run<T> {
    context: Context,
    registry: Registry,
    record: Arc<Record>,
    call: Contained<Call<T>>,
    retry: Option<Retry>,
    tries: u32,
    deadline: Option<Deadline>,
    admission: Admission,
    /// Another task started it.
    is_nested: bool,
    gate: Option<Gate>,
}

/// A deadline, and once the task has begun its place on the agenda, which it leaves with the task.
struct Deadline(Duration, Option<timer::Ticket>);

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(ticket) = self.1.take() {
            timer::cancel(ticket);
        }
    }
}

impl<T: Send + 'static> Run<T> {
    pub(crate) fn new(mut context: Context, name: Name, call: Call<T>) -> Run<T> {
        let registry = context.scope.registry().clone();
        let is_nested = context.task.is_some();
        let record = registry.enter(name.name, name.key, context.origin.clone());
        context.task = Some(record.clone());
        let deadline = name.deadline.map(|time| Deadline(time, None));
        if let Some(grace) = name.unwatched {
            registry.watch_watchers(&record, grace);
        }
        let call = Contained::new(call);
        Run {
            context,
            registry,
            record,
            call,
            retry: None,
            tries: 0,
            deadline,
            admission: Admission::InTurn,
            is_nested,
            gate: None,
        }
    }

    /// Runs it with another kind of admission.
    pub(crate) fn admitted(mut self, admission: Admission) -> Run<T> {
        self.admission = admission;
        self
    }

    /// Its entry in the registry.
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    /// Runs it on a new thread and returns the thread's handle. A task that starts it may wait for the handle, which cannot
    /// lend a slot: it is therefore admitted at once.
    fn on_a_thread_of_its_own(self) -> JoinHandle<Outcome<T>> {
        let (registry, record, is_nested) = (self.registry.clone(), self.record.clone(), self.is_nested);
        if !registry.take_thread(&record, is_nested) {
            return self.on_this_thread();
        }
        let admission = if is_nested { Admission::AtOnce } else { Admission::InTurn };
        let turn = registry.take_place(&record, admission);
        // The thread takes the task out of the slot: were it refused, nothing would be lost.
        let slot = Arc::new(Mutex::new(Some((self, turn))));
        loop {
            let theirs = slot.clone();
            let spawned = thread_pool::spawn(&record.name.replace('\0', ""), registry.nice(), move || {
                let run = lock(&theirs).take();
                run.map_or(Err(Failure::Abandoned), |(run, turn)| run.in_turn(turn.as_deref()))
            });
            match spawned {
                Ok(handle) => return handle,
                Err(_) if !is_nested => registry.wait_for_thread(&record),
                Err(_) => {
                    registry.leave_place_and_pass_on(&record);
                    registry.leave_thread();
                    let run = lock(&slot).take();
                    let (run, _) = run.expect("a thread that was not started has not taken it");
                    return run.on_this_thread();
                }
            }
        }
    }

    /// Runs it on the thread of the task that starts it, in place of that one: every other thread may wait for this task, so
    /// it must not wait for one of them. The returned thread only hands over the outcome.
    fn on_this_thread(mut self) -> JoinHandle<Outcome<T>> {
        let outcome = match Depth::enter() {
            Some(_depth) => self.attempt(),
            None => Err(Failure::Error(Error::internal(format!(
                "all task threads are in use (ASIDE_MAX_TASK_THREADS), and {DEEPEST} tasks run on the thread of this one's caller"
            )))),
        };
        self.registry.end(&self.record, outcome.as_ref().err());
        let outcome = Arc::new(Mutex::new(Some(outcome)));
        loop {
            let theirs = outcome.clone();
            match thread_pool::hand_over(move || lock(&theirs).take().unwrap_or(Err(Failure::Abandoned))) {
                Ok(handle) => return handle,
                Err(_) => self.registry.wait_for_thread(&self.record),
            }
        }
    }

    /// Runs it on its own thread, in its turn. If the turn never comes, the process has abandoned it at shutdown.
    fn in_turn(self, turn: Option<&Turn>) -> Outcome<T> {
        let registry = self.registry.clone();
        let outcome = if turn.is_none_or(Turn::wait) { self.finish() } else { Err(Failure::Abandoned) };
        registry.leave_thread();
        outcome
    }

    fn finish(mut self) -> Outcome<T> {
        let outcome = self.attempt();
        self.registry.end(&self.record, outcome.as_ref().err());
        self.registry.leave_place_and_pass_on(&self.record);
        outcome
    }

    /// On a kept thread, with a handle of ours.
    pub(crate) fn with_handle(self) -> TaskHandle<T> {
        let (handle, promise) = self.handle();
        self.start_with(promise);
        handle
    }

    /// The handle, and the promise to fulfil for it.
    pub(crate) fn handle(&self) -> (TaskHandle<T>, Promise<T>) {
        let result = Arc::new(Slot::default());
        let info = TaskInfo::new(self.record.clone(), &self.registry);
        (TaskHandle { info, is_nested: self.is_nested, result: result.clone() }, Promise(result))
    }

    /// On a kept thread; its value is nobody's.
    fn start(self) {
        self.start_with(Promise(Arc::new(Slot::default())));
    }

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

    /// One try on a kept thread: then the next one is prepared, or the task has ended.
    fn step(self, promise: Promise<T>, permit: Option<Permit>) -> Option<Work> {
        thread_pool::rename(&self.record.name);
        let (registry, record) = (self.registry.clone(), self.record.clone());
        // The function is called inside its own catch. If anything else panics, the thread still keeps its work and its
        // slot.
        panics::catch(|| self.try_once(promise, permit)).unwrap_or_else(|panic| {
            registry.end(&record, Some(&Failure::Panic(panic)));
            registry.leave_place(&record)
        })
    }

    fn try_once(mut self, promise: Promise<T>, permit: Option<Permit>) -> Option<Work> {
        let outcome = self.attempt();
        drop(permit);
        let (registry, record, admission) = (self.registry.clone(), self.record.clone(), self.admission);
        let Some(wait) = self.wait_before_next(&outcome) else {
            registry.end(&record, outcome.as_ref().err());
            promise.fulfil(outcome);
            return registry.leave_place(&record);
        };
        // Before the next attempt can take a slot for the task again.
        let next = registry.leave_place(&record);
        registry.retry_after(&record, wait, Work::new(move || self.next_step(promise)), admission);
        next
    }

    /// Starts the next attempt: at once, or when its gate admits it.
    fn next_step(self, promise: Promise<T>) -> Option<Work> {
        if self.gate.is_none() {
            return self.step(promise, None);
        }
        let next = self.registry.leave_place(&self.record);
        self.start_with(promise);
        next
    }

    fn wait_before_next(&self, outcome: &Outcome<T>) -> Option<Duration> {
        let (failure, retry) = (outcome.as_ref().err()?, self.retry.as_ref()?);
        let wait = retry.wait_after(self.tries, failure)?;
        if self.registry.is_closing() || self.record.is_cancelled() {
            return None;
        }
        self.registry.log_retry(&self.record, failure, (self.tries, retry.tries), wait);
        Some(wait)
    }

    /// The try of that number on this thread, for the sake of its outcome alone, which is told elsewhere: it is neither
    /// logged nor remembered here.
    #[cfg(unix)]
    pub(crate) fn attempt_here(mut self, number: u32) -> Outcome<T> {
        self.tries = number.saturating_sub(1);
        let outcome = self.attempt();
        self.registry.forget(&self.record);
        outcome
    }

    /// Calls the function, unless the task was told to cancel before.
    fn attempt(&mut self) -> Outcome<T> {
        if self.record.is_cancelled() {
            return Err(self.cancelled());
        }
        self.tries += 1;
        self.record.begin();
        if let Some(Deadline(time, ticket @ None)) = &mut self.deadline {
            *ticket = Some(self.registry.watch_deadline(&self.record, *time));
        }
        let (context, record) = (self.context.clone(), self.record.clone());
        let task = TaskContext { context, record, attempt: self.tries, attached: None };
        let _entered = self.context.clone().enter();
        match panics::catch(|| (self.call)(&task)) {
            Ok(Err(Failure::Cancelled)) => Err(self.cancelled()),
            Ok(outcome) => outcome,
            Err(panic) => Err(Failure::Panic(panic)),
        }
    }

    fn cancelled(&self) -> Failure {
        match self.record.stop_reason() {
            Some(Stop::Deadline) => Failure::TimedOut,
            _ => Failure::Cancelled,
        }
    }
}

/// The number of tasks that may run on the thread of their caller, one within the other, so that its stack suffices.
const DEEPEST: usize = 16;

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// One more task on the thread of its caller, until dropped.
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

/// Where an outcome is put for a handle.
struct Slot<T> {
    outcome: Mutex<Option<Outcome<T>>>,
    ready: Condvar,
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot { outcome: Mutex::new(None), ready: Condvar::new() }
    }
}

impl<T> Slot<T> {
    fn wait(&self) -> Outcome<T> {
        let outcome = wait_while(&self.ready, lock(&self.outcome), |outcome| outcome.is_none()).take();
        outcome.unwrap_or(Err(Failure::Abandoned))
    }

    fn put(&self, outcome: Outcome<T>) {
        lock(&self.outcome).get_or_insert(outcome);
        self.ready.notify_all();
    }
}

/// The duty to put an outcome into a slot. A task that is dropped before its end was abandoned, and whoever waits for it
/// is told.
pub(crate) struct Promise<T>(Arc<Slot<T>>);

impl<T> Promise<T> {
    fn fulfil(self, outcome: Outcome<T>) {
        self.0.put(outcome);
        // With no handle left the value is dropped here: that is the task's own code, and may panic.
        panics::discard(self);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.put(Err(Failure::Abandoned));
    }
}

/// What a task is called by its type: the function's name; for a closure the enclosing function's, with file and line.
fn name_of<F>(place: &Location<'_>) -> String {
    let full = std::any::type_name::<F>();
    let at = || format!("{}:{}", place.file(), place.line());
    if full.contains("dyn ") || full.contains("fn(") {
        return format!("task ({})", at());
    }
    let enclosing = full.trim_end_matches("::{{closure}}");
    let name = last_segment(enclosing);
    if enclosing.len() == full.len() { name.to_owned() } else { format!("{name} ({})", at()) }
}

/// `send` of `shop::mail::send<alloc::string::String>`, and of `<shop::Mailer as shop::Send>::send`.
fn last_segment(path: &str) -> &str {
    let mut depth = 0;
    let bare_end = path.char_indices().rev().find(|&(_, c)| {
        depth += i32::from(c == '>') - i32::from(c == '<');
        depth == 0 && c != '<'
    });
    let path = bare_end.map_or(path, |(index, c)| &path[..index + c.len_utf8()]);
    path.trim_end_matches("::").rsplit("::").next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;

    fn named() {}
    fn generic<T>() {}

    fn name<F: FnOnce()>(_: &F) -> String {
        name_of::<F>(Location::caller())
    }

    #[test]
    fn a_task_is_called_by_its_function() {
        assert_eq!(name(&named), "named");
        assert_eq!(name(&generic::<Vec<String>>), "generic");
        assert_eq!(last_segment("<shop::Mailer as shop::Send>::send"), "send");
        assert_eq!(last_segment("shop::Sender<a::B>::send<c::D<e::F>>"), "send");
    }

    #[test]
    fn a_closure_is_called_by_where_it_stands() {
        let closure = || ();
        assert!(name(&closure).starts_with("a_closure_is_called_by_where_it_stands (src/background/task.rs:"));
        let boxed: Box<dyn FnOnce()> = Box::new(|| ());
        assert!(name(&boxed).starts_with("task (src/background/"));
    }

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

    /// A context of its own, with room for that many tasks.
    fn context(max_tasks: usize) -> Context {
        let registry = Registry::new(&Config { max_tasks, ..Config::default() });
        Context { scope: Scope::new(registry, Values::default()), origin: None, task: None }
    }

    #[test]
    fn a_shutdown_with_unlimited_grace_waits_for_all_tasks() {
        let context = context(10);
        let _entered = context.clone().enter();
        let handle = Task::new().spawn(|_| ());
        assert!(context.scope.registry().drain(Duration::MAX, Duration::MAX));
        assert!(handle.join().is_ok());
    }

    #[test]
    fn a_thread_that_waits_for_its_turn_at_shutdown_is_abandoned() {
        let context = context(1);
        let (let_go, wait) = mpsc::channel::<()>();
        let _entered = context.clone().enter();
        let stubborn = Task::new().spawn(move |_| wait.recv());
        let waits = background(|| ());
        let registry = context.scope.registry();
        assert!(!registry.drain(Duration::ZERO, Duration::ZERO));
        assert!(matches!(waits.join(), Ok(Err(Failure::Abandoned))));
        drop(let_go);
        assert!(stubborn.join().is_err());
    }

    #[test]
    fn at_shutdown_what_runs_is_finished() {
        let context = context(10);
        let (let_go, wait) = mpsc::channel::<()>();
        let _entered = context.clone().enter();
        let handle = Task::new().spawn(move |_| wait.recv());
        assert!(!context.scope.registry().settle(Instant::now()));
        let_go.send(()).unwrap();
        assert!(context.scope.registry().drain(Duration::from_secs(30), Duration::ZERO));
        assert!(handle.join().is_ok());
    }

    #[test]
    fn at_shutdown_what_listens_is_cancelled_and_what_does_not_is_given_up() {
        let context = context(2);
        let (let_go, wait) = mpsc::channel::<()>();
        let _entered = context.clone().enter();
        let listens = Task::new().spawn(|task| task.sleep(Duration::from_secs(3600)));
        let (tell, begun) = mpsc::channel();
        let stubborn = Task::named("stubborn").spawn(move |_| {
            tell.send(()).unwrap();
            wait.recv()
        });
        begun.recv().unwrap();
        let never_begun = Task::named("never-begun").spawn(|_| ());
        let registry = context.scope.registry();
        assert!(!registry.drain(Duration::ZERO, Duration::from_millis(50)));
        assert!(matches!(listens.join(), Err(Failure::Cancelled)));
        let given_up: Vec<_> = registry.failed().iter().map(|record| record.name.clone()).collect();
        assert!(given_up.contains(&"stubborn".to_owned()), "{given_up:?}");
        assert!(never_begun.join().is_err());
        drop(let_go);
        assert!(stubborn.join().is_err());
    }

    #[test]
    fn at_shutdown_a_wait_between_tries_is_cut_short_for_a_last_one() {
        let context = context(10);
        let _entered = context.clone().enter();
        let (tell, told) = mpsc::channel();
        let retry = Retry::exponential(9, Duration::from_secs(3600));
        let handle = Task::new().retry(retry).spawn(move |task| {
            tell.send(task.attempt()).unwrap();
            Err::<(), _>("down")
        });
        assert_eq!(told.recv().unwrap(), 1);
        assert!(context.scope.registry().drain(Duration::from_secs(30), Duration::ZERO));
        assert!(matches!(handle.join(), Err(Failure::Error(_))));
        assert!(told.try_iter().count() <= 1);
    }
}
