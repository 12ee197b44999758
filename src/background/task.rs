//! The public way to start tasks: [`background`] and [`Task`].

use std::borrow::Cow;
use std::panic::Location;
use std::thread::JoinHandle;
use std::time::Duration;

use super::failure::{IntoOutcome, Outcome};
use super::handle::{TaskHandle, TaskInfo, task};
use super::record::Identity;
use super::retry::Retry;
use super::run::{Call, Gate, Options, Run, once};
use super::scope::Context;
use super::task_context::TaskContext;
use super::task_name::name_of;

/// Runs `f` in the background, on a new OS thread, and returns the standard library's handle at once.
///
/// ```
/// use aside::background;
///
/// # fn charge(_order: u64) -> Result<(), std::io::Error> { Ok(()) }
/// let order = 17;
/// background(move || charge(order)); // the handler continues
///
/// let answer = background(|| "42".parse::<u32>());
/// assert_eq!(answer.join().unwrap().unwrap(), 42);
/// ```
///
/// `f` returns a [`PlainValue`](crate::tasks::PlainValue), such as nothing, a number, text or a list, or a `Result` with any error.
/// Its error or panic is logged once, at error level, and never becomes a response. A [`Failure`](crate::Failure) says which
/// it was. A closure that uses `?` ends in [`aside::ok(value)`](crate::ok()).
///
/// The task is named after the function; for a closure, after the enclosing function and the line. The log names the
/// request that started the task, also for the tasks that the task starts itself. At a graceful shutdown the process waits
/// for the task.
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
/// On Linux, tasks have a lower priority than pages (`ASIDE_BACKGROUND_NICE`, 10), and the threads that they start inherit
/// it. If a task is the first to use a rayon pool, all work of that pool runs at the lower priority from then on.
/// While pages need half a core or more, a task that has computed for a tenth of a second leaves as many cores as they need
/// to them, and always keeps one, which it shares with them. On two cores, two such tasks under a full load of pages got 12 %
/// of their speed for 30 s, and never stood still for longer than 0.05 s. Processes that such a task starts inherit its
/// cores; a thread for which the application has chosen cores keeps them.
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
/// Never. `join` never returns an `Err`, since panics are caught inside. `panic = "abort"` is not supported.
///
/// If `f` returns a **value** whose `Drop` panics, the process aborts when the last handle is dropped: the standard library
/// stores the value for the handle, and aborts. A [`Task`] has another type of handle and logs such a panic.
#[track_caller]
pub fn background<F, R>(f: F) -> JoinHandle<Outcome<R::Value>>
where
    F: FnOnce() -> R + Send + 'static,
    R: IntoOutcome,
    R::Value: Send + 'static,
{
    let location = Location::caller();
    let identity =
        Identity { name: name_of::<F>(location), kind: None, key: None, job: None, job_attempt: None, location };
    let options = Options { identity, deadline: None, unwatched: None };
    Run::new(Context::current(), options, once(move |_| f())).on_own_thread()
}

/// A background task with options: a name, a key to find it by, a deadline, retries.
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
/// The task has a thread to itself while it runs. At most `ASIDE_MAX_TASKS` (1,000) run at once, including those that other tasks
/// start. Further ones wait in a queue, in order; `spawn` does not wait. The queue is in memory and has no limit: use a
/// [`RateLimit`](crate::routing::MethodRouter::rate_limit) or a [`Job`](crate::Job) where clients can start many.
///
/// A task that waits for another one with [`join`](TaskHandle::join) lends it its slot. A task that waits in another way,
/// such as on a channel, keeps its slot while the other one may still be in the queue.
#[derive(Debug, Clone, Default)]
#[must_use = "the task starts with `spawn`"]
pub struct Task {
    name: Option<String>,
    kind: Option<&'static str>,
    key: Option<String>,
    deadline: Option<Duration>,
    unwatched: Option<Duration>,
}

impl Task {
    /// Creates a task that is named after its function, as by [`background`].
    pub fn new() -> Task {
        Task::default()
    }

    /// Creates a task with a name.
    pub fn named(name: impl Into<String>) -> Task {
        Task { name: Some(name.into()), ..Task::default() }
    }

    pub(crate) fn with_name(self, name: impl Into<String>) -> Task {
        Task { name: Some(name.into()), ..self }
    }

    /// Sets the kind, under which metrics count tasks of different names together.
    #[cfg(any(feature = "mail", feature = "webhook"))]
    pub(crate) fn kind(self, kind: &'static str) -> Task {
        Task { kind: Some(kind), ..self }
    }

    /// Sets the key by which [`task`](crate::tasks::task()) finds it, for every client. A route that takes the key from its path
    /// shows the task to each client that can guess the key. To keep a task private to one user, put the
    /// [`Session::id`](crate::Session::id) or an unguessable value from the session into the key. The id of a request or of
    /// a task is not a secret.
    ///
    /// A key over 200 bytes is stored as its hash.
    pub fn key(mut self, key: impl Into<String>) -> Task {
        self.key = Some(key.into());
        self
    }

    /// Sets the time that the task may take, from the start of its first attempt. A thread cannot be killed: after that time
    /// the task is told to cancel ([`TaskContext::is_cancelled`]), and the log says that it is overdue.
    pub fn deadline(mut self, deadline: Duration) -> Task {
        self.deadline = Some(deadline);
        self
    }

    /// Cancels the task when no client watches it any more: when no page has followed its [`live`](TaskHandle::live) progress
    /// for the duration `grace`, after one did. Use it for work that only the page needs, such as a search.
    ///
    /// ```
    /// use aside::Task;
    /// use std::time::Duration;
    ///
    /// Task::named("search").key("search-17").cancel_unwatched(Duration::from_secs(30)).spawn(|task| {
    ///     for shelf in 0..1_000 {
    ///         task.check_cancelled()?; // the client has left
    ///         task.progress(shelf, 1_000);
    ///     }
    ///     aside::ok(())
    /// });
    /// ```
    ///
    /// A client without JavaScript watches nothing, and its task runs to the end. A page that is reloaded stops watching for a
    /// moment: allow some seconds.
    pub fn cancel_unwatched(mut self, grace: Duration) -> Task {
        self.unwatched = Some(grace);
        self
    }

    /// Sets the retry policy. The wait between two attempts holds no thread.
    ///
    /// ```
    /// use aside::tasks::Retry;
    /// use aside::Task;
    /// use std::time::Duration;
    ///
    /// Task::named("ping").retry(Retry::exponential(3, Duration::from_secs(1))).spawn(|task| {
    ///     log::info!("attempt {}", task.attempt());
    /// });
    /// ```
    pub fn retry(self, retry: Retry) -> RetriedTask {
        RetriedTask { task: self, retry, gate: None }
    }

    /// Returns true if the task has a key.
    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Finds the task with this [key](Task::key), as [`task`](crate::tasks::task()) does. Returns `None` if no key is set.
    pub fn find(&self) -> Option<TaskInfo> {
        task(self.key.as_deref()?)
    }

    /// Starts the task in the background and returns its handle.
    #[track_caller]
    pub fn spawn<F, R>(self, f: F) -> TaskHandle<R::Value>
    where
        F: FnOnce(&TaskContext) -> R + Send + 'static,
        R: IntoOutcome,
        R::Value: Send + 'static,
    {
        let options = self.options::<F>(Location::caller());
        Run::new(Context::current(), options, once(f)).with_handle()
    }

    /// Returns the options of the task for a function that is started at `location`.
    pub(crate) fn options<F>(self, location: &'static Location<'static>) -> Options {
        let name = self.name.unwrap_or_else(|| name_of::<F>(location));
        let kind = self.kind.map(Cow::Borrowed);
        let identity = Identity { name, kind, key: self.key, job: None, job_attempt: None, location };
        Options { identity, deadline: self.deadline, unwatched: self.unwatched }
    }
}

/// A [`Task`] with a retry policy. Its function is called once for each attempt.
#[derive(Debug, Clone)]
#[must_use = "the task starts with `spawn`"]
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

    /// Starts the task in the background and returns its handle. A failed attempt is logged as a warning with the time of the
    /// next attempt; a failure of the last one is logged as an error.
    #[track_caller]
    pub fn spawn<F, R>(self, f: F) -> TaskHandle<R::Value>
    where
        F: Fn(&TaskContext) -> R + Send + 'static,
        R: IntoOutcome,
        R::Value: Send + 'static,
    {
        let options = self.task.options::<F>(Location::caller());
        let call: Call<R::Value> = Box::new(move |task| f(task).into_outcome().into());
        Run::new(Context::current(), options, call).retried(self.retry, self.gate).with_handle()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;
    use crate::background::failure::Failure;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;

    /// Returns a context with its own registry, which runs `max_tasks` tasks at once.
    fn context(max_tasks: usize) -> Context {
        let registry = Registry::new(&Config { max_tasks, ..Config::default() });
        Context::of(Scope::new(registry, Values::default()))
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
        let (release, wait) = mpsc::channel::<()>();
        let _entered = context.clone().enter();
        let stubborn = Task::new().spawn(move |_| wait.recv());
        let waits = background(|| ());
        let registry = context.scope.registry();
        assert!(!registry.drain(Duration::ZERO, Duration::ZERO));
        assert!(matches!(waits.join(), Ok(Err(Failure::Abandoned))));
        drop(release);
        assert!(stubborn.join().is_err());
    }

    #[test]
    fn a_shutdown_waits_for_running_tasks() {
        let context = context(10);
        let (release, wait) = mpsc::channel::<()>();
        let _entered = context.clone().enter();
        let handle = Task::new().spawn(move |_| wait.recv());
        assert!(!context.scope.registry().wait_until_idle(Instant::now()));
        release.send(()).unwrap();
        assert!(context.scope.registry().drain(Duration::from_secs(30), Duration::ZERO));
        assert!(handle.join().is_ok());
    }

    #[test]
    fn a_shutdown_cancels_tasks_and_abandons_those_that_do_not_end() {
        let context = context(2);
        let (release, wait) = mpsc::channel::<()>();
        let _entered = context.clone().enter();
        let cancellable = Task::new().spawn(|task| task.sleep(Duration::from_secs(3600)));
        let (tell, begun) = mpsc::channel();
        let stubborn = Task::named("stubborn").spawn(move |_| {
            tell.send(()).unwrap();
            wait.recv()
        });
        begun.recv().unwrap();
        let never_begun = Task::named("never-begun").spawn(|_| ());
        let registry = context.scope.registry();
        assert!(!registry.drain(Duration::ZERO, Duration::from_millis(50)));
        assert!(matches!(cancellable.join(), Err(Failure::Cancelled)));
        let abandoned: Vec<_> = registry.failed().iter().map(|record| record.name.clone()).collect();
        assert!(abandoned.contains(&"stubborn".to_owned()), "{abandoned:?}");
        assert!(never_begun.join().is_err());
        drop(release);
        assert!(stubborn.join().is_err());
    }

    #[test]
    fn a_shutdown_starts_the_last_attempt_of_a_waiting_task_at_once() {
        let context = context(10);
        let _entered = context.clone().enter();
        let (sender, attempts) = mpsc::channel();
        let retry = Retry::exponential(9, Duration::from_secs(3600));
        let handle = Task::new().retry(retry).spawn(move |task| {
            sender.send(task.attempt()).unwrap();
            Err::<(), _>("down")
        });
        assert_eq!(attempts.recv().unwrap(), 1);
        assert!(context.scope.registry().drain(Duration::from_secs(30), Duration::ZERO));
        assert!(matches!(handle.join(), Err(Failure::Error(_))));
        assert!(attempts.try_iter().count() <= 1);
    }
}
