//! Functions that run in a child process, and return a value from there.

use std::any::{TypeId, type_name};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::protocol::{Call, LONGEST_VALUE, Limits, Target, plain_error};
use super::{Pool, Program, refuse_inside_a_child};
use crate::background::failure::{Failure, IntoOutcome, Outcome};
use crate::background::handle::TaskHandle;
use crate::background::run::{Run, call_once};
use crate::background::scope::Context;
use crate::background::task::Task;
use crate::background::task_context::TaskContext;
use crate::error::Error;
use crate::owned_data::OwnsItsData;
use crate::sync::lock;

/// Runs a function in a child process of this program, in the background, and returns the handle of its task.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Request, Result, isolated};
///
/// fn count_primes(below: u64) -> usize {
///     (2..below).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d > 0)).count()
/// }
///
/// fn primes(_req: &mut Request) -> Result<String> {
///     let task = isolated(count_primes, 1_000); // begins now, on another processor
///     Ok(format!("{} primes", task.join()?))
/// }
///
/// let app = App::new().isolated(count_primes).get("/", primes); // registered once, so that the child finds it
/// assert_eq!(TestClient::new(app).get("/").text(), "168 primes");
/// ```
///
/// `f` is a function without captures, of one value and perhaps of [`&TaskContext`](TaskContext); see [`IsolatedFunction`].
/// Register it with [`App::isolated`](crate::App::isolated). The task has a name, a key, progress and messages,
/// [`cancel`](TaskHandle::cancel), and a line in the log if it fails, as every task. [`join`](TaskHandle::join) returns the
/// value. A panic, a crash, an abort, a stack overflow, an exit, a kill, too little memory and a passed deadline each become
/// a [`Failure`] with its own message. They affect neither the site nor another call.
///
/// **The child** is started with the arguments of this process and the variable `ASIDE_ISOLATED`. It runs the program's
/// `main` up to [`App::run`](crate::App::run), [`work`](crate::App::work) or [`start`](crate::App::start): before that call,
/// `main` must not do work that may happen only once. The parent gets the function's log, printed output, progress and
/// value. Changes in memory (state, a [`Live`](crate::Live), a [`Cache`](crate::Cache)) stay in the child, and so does a
/// panic hook that the function sets. The child waits for tasks that the function starts, within the deadline.
///
/// **Processes that the function starts** are killed with the child, which ends with the site. A process that the function
/// detaches with `setsid` is not: it outlives the call and the site.
///
/// **A child is reused** for further calls. The first call starts one; there is at most one for each processor, and further
/// calls wait in order. A child ends after 1,000 calls, or after 30 s without a call. It also ends after a call that did not
/// return, or that left something behind: a thread, a process, an open file, another working directory, umask or limit
/// (`setrlimit`), or more than 32 MiB of memory. Each call runs on a thread of its own. A `static`, the environment and the
/// panic hook keep their values from one call to the next.
///
/// **Limits.** 15 minutes and 2 GiB of memory for each call ([`Isolated`] sets others); 64 MiB for the input and for the
/// output, each as JSON. Pass the path of a large file instead of its content.
///
/// Call it in a handler, a task, a job, in [`TestClient::within`](crate::testing::TestClient::within), or elsewhere in a
/// process that has started an application. It works only on Unix, and not inside a child.
///
/// # Errors
/// The handle's [`join`](TaskHandle::join) returns the [`Failure`], also if the function was not registered, was called in a
/// child, or its input or output is too long or cannot be read.
#[track_caller]
pub fn isolated<F, M>(f: F, input: F::Input) -> TaskHandle<F::Output>
where
    F: IsolatedFunction<M>,
{
    Isolated::new(f).spawn(input)
}

/// A call of an [isolated](isolated()) function with a name, a key, or limits of its own.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::tasks::Isolated;
/// use aside::{App, Result, TaskContext};
/// use std::time::Duration;
///
/// fn import(rows: u64, task: &TaskContext) -> Result<u64> {
///     for row in 0..rows {
///         task.check_cancelled()?; // ends here after a cancellation
///         task.progress(row + 1, rows);
///     }
///     Ok(rows)
/// }
///
/// let client = TestClient::new(App::new().isolated(import));
/// let import = client.within(|| {
///     Isolated::new(import).key("import-7").deadline(Duration::from_secs(60)).memory(256 << 20).spawn(100)
/// });
/// assert_eq!(import.join()?, 100);
/// # aside::ok(())
/// ```
#[must_use = "it begins with `spawn`"]
pub struct Isolated<F, M> {
    task: Task,
    limits: Limits,
    function: PhantomData<fn(F) -> M>,
}

impl<F: IsolatedFunction<M>, M> Isolated<F, M> {
    /// Makes a call of a function, whose task is named after the function.
    pub fn new(f: F) -> Isolated<F, M> {
        refuse_captures(&f);
        Isolated { task: Task::new(), limits: Limits::default(), function: PhantomData }
    }

    /// Sets the name of the task.
    pub fn name(mut self, name: impl Into<String>) -> Isolated<F, M> {
        self.task = self.task.with_name(name);
        self
    }

    /// Sets the key by which [`task`](crate::tasks::task()) finds the task; see [`Task::key`].
    pub fn key(mut self, key: impl Into<String>) -> Isolated<F, M> {
        self.task = self.task.key(key);
        self
    }

    /// Runs the call as this task, with its name and key: a task of the session, say, whose progress a page shows.
    ///
    /// ```
    /// use aside::tasks::Isolated;
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// fn import(rows: u64) -> u64 { rows }
    ///
    /// fn start(req: &mut Request) -> Result<Response> {
    ///     Isolated::new(import).task(req.session_task("import")?).spawn(100);
    ///     Ok(redirect("/"))
    /// }
    ///
    /// App::new().isolated(import).live_task("import", "aside/progress.html").post("/", start);
    /// ```
    ///
    /// It replaces a name and a key that were set before.
    pub fn task(mut self, task: Task) -> Isolated<F, M> {
        self.task = task;
        self
    }

    /// Sets the time limit of the call, at which its process is killed: 15 minutes by default. The time counts from when the
    /// call gets a process, and includes the start of the process.
    pub fn deadline(mut self, deadline: Duration) -> Isolated<F, M> {
        self.limits.deadline = deadline;
        self
    }

    /// Sets the memory limit, in bytes, of the process and of each process that it starts: 2 GiB by default. 0 means no
    /// limit. Memory that the program has allocated before the call counts: about 10 MiB for a small site.
    pub fn memory(mut self, bytes: u64) -> Isolated<F, M> {
        self.limits.memory = bytes;
        self
    }

    /// Runs the function with that input; see [`isolated`](isolated()).
    #[track_caller]
    pub fn spawn(self, input: F::Input) -> TaskHandle<F::Output> {
        let context = Context::current();
        let (isolation, limits) = (Isolation::of(&context), self.limits);
        let name = self.task.options::<F>(Location::caller());
        // `once` would wrap the failure in an error.
        let call = call_once(move |task| call::<F, M>(isolation.as_deref(), limits, input, task));
        Run::new(context, name, call).with_handle()
    }
}

impl<F, M> fmt::Debug for Isolated<F, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isolated({}, {:?})", type_name::<F>(), self.limits)
    }
}

/// A function that can run in a child process: `fn(Input) -> R` or `fn(Input, &TaskContext) -> R`.
///
/// ```
/// use aside::tasks::{IsolatedFunction, PlainValue};
/// use aside::{Result, TaskContext};
///
/// #[derive(serde::Serialize, serde::Deserialize)]
/// struct Size { width: u32, height: u32 }
///
/// impl PlainValue for Size {}
///
/// fn half(size: Size) -> Size { Size { width: size.width / 2, height: size.height / 2 } }
///
/// fn read(path: String, task: &TaskContext) -> Result<String> {
///     task.message("reads");
///     Ok(std::fs::read_to_string(path)?)
/// }
///
/// fn can_be_isolated<M>(_f: impl IsolatedFunction<M>) {}
/// can_be_isolated(half);
/// can_be_isolated(read);
/// ```
///
/// `R` is what a task returns: a [`PlainValue`](crate::tasks::PlainValue), or a `Result` with any error. The input and the value
/// travel as JSON, so that both are [`Serialize`] and [`DeserializeOwned`], `String` and not `&str`; a number that JSON does
/// not have, such as infinity, cannot be read at the other end. `Some(())`, `Some(None)` and `Some(f64::INFINITY)` are null
/// in JSON, and arrive as `None`. Values may be nested 127 levels deep. `M` is found by the compiler. A closure and a
/// function pointer are refused, since a child finds a function by its name.
///
/// ```compile_fail
/// let factor = 3;
/// aside::isolated(move |n: u64| aside::ok(n * factor), 14); // it captures a value
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be an isolated function",
    note = "an isolated function is a `fn(Input) -> R` or `fn(Input, &TaskContext) -> R`, where R is a plain value or a Result; \
            several inputs are one tuple or struct",
    note = "for a returned type of your own whose values contain no error: `impl aside::tasks::PlainValue for YourType {{}}`",
    note = "its input and its value need `#[derive(serde::Serialize, serde::Deserialize)]`, and own their data: `String`, not `&str`"
)]
pub trait IsolatedFunction<M>: Copy + Send + Sync + 'static {
    /// The type of its input.
    type Input: Serialize + DeserializeOwned + Send + 'static;
    /// The type of its value if it succeeds.
    type Output: Serialize + DeserializeOwned + Send + 'static;

    /// Calls it, in the child.
    ///
    /// # Errors
    /// The error that the function returns.
    fn call(&self, input: Self::Input, task: &TaskContext) -> Outcome<Self::Output>;
}

impl<F, I, R> IsolatedFunction<fn(I) -> R> for F
where
    F: Fn(I) -> R + Copy + Send + Sync + 'static,
    I: Serialize + for<'de> OwnsItsData<'de> + Send + 'static,
    R: IntoOutcome,
    R::Value: Serialize + for<'de> OwnsItsData<'de> + Send + 'static,
{
    type Input = I;
    type Output = R::Value;

    fn call(&self, input: I, _task: &TaskContext) -> Outcome<R::Value> {
        self(input).into_outcome()
    }
}

impl<F, I, R> IsolatedFunction<fn(I, &TaskContext) -> R> for F
where
    F: Fn(I, &TaskContext) -> R + Copy + Send + Sync + 'static,
    I: Serialize + for<'de> OwnsItsData<'de> + Send + 'static,
    R: IntoOutcome,
    R::Value: Serialize + for<'de> OwnsItsData<'de> + Send + 'static,
{
    type Input = I;
    type Output = R::Value;

    fn call(&self, input: I, task: &TaskContext) -> Outcome<R::Value> {
        self(input, task).into_outcome()
    }
}

/// The parent can send a function's name to a child, but neither a captured value nor an address.
fn refuse_captures<F>(_f: &F) {
    const {
        assert!(size_of::<F>() == 0, "an isolated function is given by its name: not as a pointer or with captures");
    };
}

fn is_closure<F>() -> bool {
    type_name::<F>().ends_with("{{closure}}")
}

/// The functions of an application, by their names.
#[derive(Default)]
pub(crate) struct Functions {
    by_name: BTreeMap<&'static str, Function>,
    problems: Vec<String>,
}

struct Function {
    id: TypeId,
    call: Box<OnJson>,
}

/// A function whose input and output are JSON.
type OnJson = dyn Fn(&str, &TaskContext) -> Outcome<String> + Send + Sync;

impl Functions {
    pub(crate) fn register<F: IsolatedFunction<M>, M>(&mut self, f: F) {
        refuse_captures(&f);
        if is_closure::<F>() {
            self.problems.push(format!("App::isolated: {} is a closure; {NO_NAME}", type_name::<F>()));
        }
        let call = move |input: &str, task: &TaskContext| {
            let input = read(input).map_err(|error| not_read::<F::Input>("input", error))?;
            write(&f.call(input, task)?, "output")
        };
        self.insert(type_name::<F>(), Function { id: TypeId::of::<F>(), call: Box::new(call) });
    }

    fn insert(&mut self, name: &'static str, function: Function) {
        let id = function.id;
        let former = self.by_name.insert(name, function);
        if former.is_some_and(|former| former.id != id) {
            self.problems.push(format!("App::isolated: two functions have the name `{name}`"));
        }
    }

    /// Adds the functions of a mounted application.
    pub(crate) fn merge(&mut self, others: Functions) {
        others.by_name.into_iter().for_each(|(name, function)| self.insert(name, function));
        self.problems.extend(others.problems);
    }

    /// Returns the mistakes in the registrations, which are reported when the application starts.
    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }
}

const NO_NAME: &str = "a child process finds a function by its name: write a `fn`";

/// The isolated functions of an application, and the children that run them.
pub(crate) struct Isolation {
    functions: Functions,
    pool: Arc<Pool>,
}

/// The isolated functions of the application that was started last in this process, for calls outside any application.
static STARTED: Mutex<Weak<Isolation>> = Mutex::new(Weak::new());

impl Isolation {
    pub(crate) fn new(functions: Functions, program: Program) -> Isolation {
        Isolation { functions, pool: Pool::new(program) }
    }

    /// Returns the isolated functions of the current application, or of the one that this process has started last.
    fn of(context: &Context) -> Option<Arc<Isolation>> {
        context.scope.get::<Isolation>().or_else(|| lock(&STARTED).upgrade())
    }

    /// Makes its functions known to the whole process, if there are any.
    pub(crate) fn is_started(self: &Arc<Isolation>) {
        if !self.functions.by_name.is_empty() {
            *lock(&STARTED) = Arc::downgrade(self);
        }
    }

    /// Returns true if a function of that name is registered.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.functions.by_name.contains_key(name)
    }

    /// Calls a function, in the child. The input and the output are JSON.
    ///
    /// # Errors
    /// The error of the function, or why it could not be called.
    pub(crate) fn call(&self, name: &str, input: &str, task: &TaskContext) -> Outcome<Option<String>> {
        match self.functions.by_name.get(name) {
            Some(function) => (function.call)(input, task).map(Some),
            None => Err(unknown(name)),
        }
    }
}

/// The task of a call: has it run in a child, and reads its output.
fn call<F: IsolatedFunction<M>, M>(
    isolation: Option<&Isolation>,
    limits: Limits,
    input: F::Input,
    task: &TaskContext,
) -> Outcome<F::Output> {
    let (name, target) = (type_name::<F>(), Target::Function { task: task.id() });
    refuse_inside_a_child(target)?;
    if is_closure::<F>() {
        return Err(Failure::Error(plain_error(format!("{name} is a closure; {NO_NAME}"))));
    }
    let Some(isolation) = isolation else { return Err(Failure::Error(no_application(name))) };
    if !isolation.knows(name) {
        return Err(unknown(name));
    }
    let input = write(&input, "input")?;
    let lineage = task.record().lineage_within().texts();
    let (name, label) = (name.to_owned(), task.name().to_owned());
    let output = isolation.pool.run(&Call { target, name, attempt: 1, label, lineage, limits }, &input, task)?;
    read(&output.unwrap_or_default()).map_err(|error| not_read::<F::Output>("output", error))
}

fn unknown(name: &str) -> Failure {
    let short = name.rsplit("::").next().unwrap_or(name);
    let message = format!("add `.isolated({short})` where the application is made (App::isolated)");
    Failure::Error(plain_error(format!("the isolated function `{name}` is not registered in this program: {message}")))
}

fn no_application(name: &str) -> Error {
    let message = "call it in a handler, a task or a job, or after `App::start`";
    plain_error(format!("the isolated function `{name}` was called outside an application: {message}"))
}

fn read<T: DeserializeOwned>(json: &str) -> serde_json::Result<T> {
    serde_json::from_str(json)
}

fn not_read<T>(what: &str, error: serde_json::Error) -> Failure {
    Failure::Error(plain_error(format!("its {what} cannot be read as `{}`", type_name::<T>())).with_source(error))
}

/// Writes a value as JSON, and stops with an error when it becomes too long.
fn write<T: Serialize>(value: &T, what: &str) -> Outcome<String> {
    let mut json = Bounded::default();
    match serde_json::to_writer(&mut json, value) {
        Ok(()) => String::from_utf8(json.bytes).map_err(|error| Failure::from_error(error.into())),
        Err(_) if json.is_too_long => {
            let message = format!("at most {} MiB fit: pass the path of a file in its place", LONGEST_VALUE >> 20);
            Err(Failure::Error(plain_error(format!("its {what} is too long as JSON: {message}"))))
        }
        Err(error) => {
            let message = format!("its {what} of type `{}` cannot be written as JSON", type_name::<T>());
            Err(Failure::Error(plain_error(message).with_source(error)))
        }
    }
}

/// A buffer that refuses more bytes than a value may have.
#[derive(Default)]
struct Bounded {
    bytes: Vec<u8>,
    is_too_long: bool,
}

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.is_too_long |= self.bytes.len() + bytes.len() > LONGEST_VALUE;
        if self.is_too_long {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
