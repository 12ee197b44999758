//! What runs, what waits, what ended, and who may begin.
//!
//! Each application has one registry. It assigns the slots that tasks run in ([`places`](super::slots)): at most
//! `ASIDE_MAX_TASKS`. Further tasks wait in one queue, in order. Jobs take no slot. Every task that the registry drops is
//! logged.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};

use super::failure::Failure;
use super::output::Output;
use super::slots::{Admission, Entry, Places, Thread, Turn};
use super::thread_pool::{self, ASK_AGAIN, Work};
use super::timer;
use crate::bounds;
use crate::config::Config;
use crate::deadline;
use crate::log_limit::LogLimit;
use crate::panics;
use crate::sync::{lock, wait_while_for};
use crate::watch::Watched;
use crate::worker_share;

/// How many ended tasks are remembered, and how many failed ones.
const ENDED: usize = 200;
const FAILED: usize = 100;

/// The longest time between two checks whether a client still watches a task.
const LOOK_AT_WATCHERS: Duration = Duration::from_secs(60);
/// The longest stored name, key and failure of a task, in bytes. Clients may influence each of them.
const LONGEST_NAME: usize = 200;
const LONGEST_FAILURE: usize = 10_000;

/// The request that something was started from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestInfo {
    /// The request's id, as in the access log and on the error page.
    pub id: String,
    /// Its method.
    pub method: String,
    /// Its path, without the query: that may hold what does not belong in a log.
    pub path: String,
}

impl RequestInfo {
    /// The origin of what a request starts.
    pub(crate) fn new(method: &str, path: &str, id: &str) -> RequestInfo {
        RequestInfo { id: id.to_owned(), method: method.to_owned(), path: path.to_owned() }
    }

    /// One that was written down as the log shows it.
    pub(crate) fn parse(text: &str) -> Option<RequestInfo> {
        let (rest, id) = text.rsplit_once(' ')?;
        let (method, path) = rest.split_once(' ')?;
        Some(RequestInfo::new(method, path, id))
    }
}

/// As the log shows it: `POST /orders 3f9a1c`.
impl fmt::Display for RequestInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.method, self.path, self.id)
    }
}

/// One task: who it is, how far it is, and how it ended.
pub(crate) struct Record {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) key: Option<String>,
    pub(crate) origin: Option<Arc<RequestInfo>>,
    began: OnceLock<(Instant, SystemTime)>,
    tries: AtomicU32,
    end: OnceLock<End>,
    stop: Mutex<Option<Stop>>,
    told: Condvar,
    stopped: AtomicBool,
    pub(crate) progress: Arc<Watched<Progress>>,
    overdue: AtomicBool,
}

/// Why a task was told to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    Asked,
    Deadline,
}

/// How a task ended.
struct End {
    after: Duration,
    failure: Option<String>,
    backtrace: Option<String>,
    kind: TaskState,
}

/// How far a task is, as it said itself.
///
/// In a template there are also `percent` and `is_finished`, and `state` is one of `waiting`, `running`, `done`, `failed`
/// and `cancelled`. `output` is the output of a job that is done ([`TaskContext::output`](crate::TaskContext::output)), and
/// `none` otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Where it stands.
    pub state: TaskState,
    /// How many steps are done.
    pub done: u64,
    /// Of how many; 0 when it has not said.
    pub total: u64,
    /// What it is at.
    pub message: String,
    /// It was told to cancel, and may not have noticed yet.
    pub is_cancelling: bool,
    /// The output of a job that is done.
    pub(crate) output: Option<Output>,
}

impl Progress {
    /// How many steps of a hundred are done, when it has said of how many.
    pub fn percent(&self) -> Option<u8> {
        let percent = (u128::from(self.done) * 100).checked_div(u128::from(self.total))?;
        // At most 100, which fits.
        Some(percent.min(100) as u8)
    }

    /// Whether it has ended, well or not.
    pub fn is_finished(&self) -> bool {
        !matches!(self.state, TaskState::Waiting | TaskState::Running)
    }
}

impl Serialize for Progress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Progress", 8)?;
        fields.serialize_field("state", &self.state)?;
        fields.serialize_field("done", &self.done)?;
        fields.serialize_field("total", &self.total)?;
        fields.serialize_field("message", &self.message)?;
        fields.serialize_field("is_cancelling", &self.is_cancelling)?;
        fields.serialize_field("percent", &self.percent())?;
        fields.serialize_field("is_finished", &self.is_finished())?;
        fields.serialize_field("output", &self.output)?;
        fields.end()
    }
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TaskState {
    /// It waits: for a thread, or for its next try.
    #[default]
    Waiting,
    /// It runs.
    Running,
    /// It ended well.
    Done,
    /// It returned an error, panicked, or was abandoned.
    Failed,
    /// It was cancelled, or timed out.
    Cancelled,
}

impl Record {
    /// Whether it was told to cancel.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Why it was told to cancel.
    pub(crate) fn stop_reason(&self) -> Option<Stop> {
        *lock(&self.stop)
    }

    /// Tells it to cancel; the first reason counts.
    pub(crate) fn tell_to_stop(&self, why: Stop) {
        lock(&self.stop).get_or_insert(why);
        self.stopped.store(true, Ordering::Release);
        self.told.notify_all();
        self.update(|progress| progress.is_cancelling = true);
    }

    /// Waits that long, or until told to cancel, and says whether it was.
    pub(crate) fn wait_for_stop(&self, wait: Duration) -> bool {
        wait_while_for(&self.told, lock(&self.stop), wait, |stop| stop.is_none()).is_some()
    }

    /// A try begins.
    pub(crate) fn begin(&self) {
        self.began.get_or_init(|| (Instant::now(), SystemTime::now()));
        self.tries.fetch_add(1, Ordering::Relaxed);
        self.update(|progress| progress.state = TaskState::Running);
    }

    /// The identity of the task, unique in the process while its record exists.
    pub(crate) fn address(self: &Arc<Record>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// When its first try began, once it has.
    pub(crate) fn began_at(&self) -> Option<SystemTime> {
        self.began.get().map(|(_, at)| *at)
    }

    /// How many tries have begun.
    pub(crate) fn tries(&self) -> u32 {
        self.tries.load(Ordering::Relaxed)
    }

    /// Changes what the task says of itself, and tells those who watch it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.progress.update(change);
    }

    /// Enters how it ended, and tells those who watch it. Whether it had not ended before.
    fn end(&self, end: End) -> bool {
        let kind = end.kind;
        let is_first = self.end.set(end).is_ok();
        if is_first {
            self.update(|progress| progress.state = kind);
            self.progress.finish();
        }
        is_first
    }

    pub(crate) fn is_overdue(&self) -> bool {
        self.overdue.load(Ordering::Relaxed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.end.get().is_some()
    }

    pub(crate) fn failure(&self) -> Option<(&str, Option<&str>)> {
        let end = self.end.get()?;
        Some((end.failure.as_deref()?, end.backtrace.as_deref()))
    }

    pub(crate) fn state(&self) -> TaskState {
        self.end.get().map_or_else(|| self.progress.get().state, |end| end.kind)
    }

    /// How long it has run, or ran.
    pub(crate) fn after(&self) -> Duration {
        let so_far = || self.began.get().map_or(Duration::ZERO, |(began, _)| began.elapsed());
        self.end.get().map_or_else(so_far, |end| end.after)
    }

    /// The log line of what happened to it, whose parts cannot break it.
    fn line(&self, what: &str) -> String {
        let origin = self.origin.as_ref().map_or(String::new(), |origin| format!("{origin}, "));
        let after =
            if self.began.get().is_some() { format!("after {}", span(self.after())) } else { "never began".into() };
        escape(&format!("Background task {} {what} (task {}, {origin}{after})", self.name, self.id)).into_owned()
    }
}

/// A duration as people say it: `20 ms`, `1.2 s`, `3 min 20 s`.
pub(crate) fn span(time: Duration) -> Span {
    Span(time)
}

/// As [`span`] says it.
pub(crate) struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            seconds @ 60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            seconds => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

/// Returns a number with the words for one or for many.
fn numbered(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Text for one line of the log: line breaks, other control characters and marks that turn the direction of writing are
/// shown by their escapes, so that nobody can forge a line.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (b' '..=b'~').contains(&byte));
    if is_plain || !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 8), |mut out, c| {
            if hidden(c) {
                out.extend(c.escape_default())
            } else {
                out.push(c)
            }
            out
        })
        .into()
}

/// How many tasks there are and were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Running, or waiting to.
    pub unfinished: usize,
    /// Waiting for a thread.
    pub queued: usize,
    /// Ended since the start of the process, well or not.
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
    /// Ended well since the start of the process.
    pub fn done(&self) -> u64 {
        self.ended.saturating_sub(self.failed + self.cancelled)
    }
}

/// The tasks of one application.
#[derive(Clone)]
pub(crate) struct Registry(Arc<Shared>);

struct Shared {
    max_tasks: usize,
    max_task_threads: usize,
    nice: i32,
    /// Log limits for tasks that waited for a slot, callers that waited for a thread, callers that ran a task themselves,
    /// and threads that could not be started.
    waits: LogLimit,
    ceilings: [LogLimit; 2],
    refusals: LogLimit,
    ids: AtomicU64,
    /// The server has begun to stop.
    stopping: AtomicBool,
    state: Mutex<State>,
    /// Something ended, began to wait, or was queued. Told only while somebody watches: a call to the system for each.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    unfinished: BTreeMap<u64, Arc<Record>>,
    places: Places,
    /// Between two attempts.
    waiting_to_retry: HashMap<u64, (Arc<Record>, Work, Admission)>,
    ended: VecDeque<Arc<Record>>,
    failed: VecDeque<Arc<Record>>,
    /// The counts of ended tasks.
    past: Counts,
    watchers: usize,
    closing: bool,
}

impl Registry {
    /// A registry with the limits of a configuration.
    pub(crate) fn new(config: &Config) -> Registry {
        timer::start();
        Registry(Arc::new(Shared {
            max_tasks: config.max_tasks,
            max_task_threads: config.max_task_threads,
            nice: config.nice,
            waits: LogLimit::default(),
            ceilings: Default::default(),
            refusals: LogLimit::default(),
            ids: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// The nice value of tasks.
    pub(crate) fn nice(&self) -> i32 {
        self.0.nice
    }

    /// Enters a new task.
    pub(crate) fn enter(&self, name: String, key: Option<String>, origin: Option<Arc<RequestInfo>>) -> Arc<Record> {
        let record = Arc::new(Record {
            id: self.0.ids.fetch_add(1, Ordering::Relaxed),
            name: bounds::shorten(&name, LONGEST_NAME).into_owned(),
            key: key.map(|key| bounds::key(&key, LONGEST_NAME).into_owned()),
            origin,
            began: OnceLock::new(),
            tries: AtomicU32::new(0),
            end: OnceLock::new(),
            stop: Mutex::default(),
            told: Condvar::new(),
            stopped: AtomicBool::new(false),
            progress: Arc::new(Watched::new(Progress::default())),
            overdue: AtomicBool::new(false),
        });
        self.state().unfinished.insert(record.id, record.clone());
        record
    }

    /// Reserves a dedicated thread for a task. At the limit the caller waits, and its worker does not count during the
    /// wait. Returns false if the caller is itself a task, which does not wait.
    pub(crate) fn take_thread(&self, record: &Record, is_nested: bool) -> bool {
        let most = self.0.max_task_threads;
        let (thread, callers) = {
            let mut state = self.state();
            (state.places.enter_caller(is_nested, most), state.places.callers())
        };
        let waits = match &thread {
            Thread::Reserved => return true,
            Thread::Wait(_) => "waits for a thread and blocks its caller",
            Thread::None => "runs on the thread of the task that started it",
        };
        if self.0.ceilings[usize::from(is_nested)].count().is_some() {
            let why = format!("all {most} task threads are in use (ASIDE_MAX_TASK_THREADS)");
            let words = match is_nested {
                true => format!("{waits}: {why}"),
                false => format!("{waits}: {why}, {}", numbered(callers, "caller waits", "callers wait")),
            };
            log::warn!(target: "aside::background", "{}", record.line(&words));
        }
        let Thread::Wait(turn) = thread else { return false };
        let _away = worker_share::step_aside();
        turn.wait();
        true
    }

    /// Releases a reserved thread.
    pub(crate) fn leave_thread(&self) {
        self.state().places.leave_thread(self.0.max_task_threads);
    }

    /// Takes a slot for a thread, or queues it and returns its turn.
    pub(crate) fn take_place(&self, record: &Record, admission: Admission) -> Option<Arc<Turn>> {
        let turn = self.state().places.enter_thread(record.id, admission, self.0.max_tasks)?;
        self.log_wait(record);
        Some(turn)
    }

    /// Starts work in a place of its own, or queues it until there is one.
    pub(crate) fn start(&self, record: &Record, work: Work, admission: Admission) {
        let work = self.state().places.enter(record.id, work, admission, self.0.max_tasks);
        match work {
            Some(work) => self.run(work),
            None => self.log_wait(record),
        }
    }

    /// Logs that tasks wait for slots, at most once a minute.
    fn log_wait(&self, record: &Record) {
        if self.0.waits.count().is_some() {
            let (most, queued) = (self.0.max_tasks, self.state().places.queued());
            let run = numbered(most, "task runs", "tasks run");
            let wait = numbered(queued, "waits", "wait");
            let words = format!("waits to begin: {run} already (ASIDE_MAX_TASKS), {wait}");
            log::warn!(target: "aside::background", "{}", record.line(&words));
        }
    }

    /// Runs work whose place is taken.
    fn run(&self, work: Work) {
        thread_pool::run(self.0.nice, work);
    }

    /// Releases the slot of a task, if it has one. Returned work has the slot now and is for the same thread to do.
    pub(crate) fn leave_place(&self, record: &Record) -> Option<Work> {
        self.state().places.leave(record.id, self.0.max_tasks)
    }

    /// Releases the slot of a task whose thread ends.
    pub(crate) fn leave_place_and_pass_on(&self, record: &Record) {
        if let Some(work) = self.leave_place(record) {
            self.run(work);
        }
    }

    /// Lends the slot of the task `joiner` to the task that it is about to wait for, until the value is dropped. A joiner
    /// without a slot, such as a job, lets the joined task run beside the slots.
    pub(crate) fn lend_slot(&self, joined: &Record, joiner: Option<&Record>) -> LentSlot {
        let joiner = joiner.map(|joiner| joiner.id);
        let work = self.state().places.join(joined.id, joiner, self.0.max_tasks);
        if let Some(work) = work {
            self.run(work);
        }
        LentSlot { registry: self.clone(), joined: joined.id }
    }

    /// Returns true if both are the registry of the same application.
    pub(crate) fn is_same(&self, other: &Registry) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Waits briefly after the operating system refused a thread, and logs the refusal.
    pub(crate) fn wait_for_thread(&self, record: &Record) {
        if self.0.refusals.count().is_some() {
            let words = "waits to begin: the operating system refuses another thread";
            log::warn!(target: "aside::background", "{}", record.line(words));
        }
        let _away = worker_share::step_aside();
        drop(self.watch(self.state(), Instant::now() + ASK_AGAIN));
    }

    /// Tells the task to cancel when its deadline has passed, and says so in the log.
    pub(crate) fn watch_deadline(&self, record: &Arc<Record>, deadline: Duration) -> timer::Ticket {
        let (registry, record) = (self.clone(), record.clone());
        timer::at(deadline::after(deadline), move || {
            if record.has_ended() {
                return;
            }
            record.overdue.store(true, Ordering::Relaxed);
            let words = format!("is overdue: past its deadline of {}, told to cancel", span(deadline));
            log::warn!(target: "aside::background", "{}", record.line(&words));
            record.tell_to_stop(Stop::Deadline);
            registry.retry_now(record.id);
        })
    }

    /// Tells the task to cancel once nobody has watched it any more for that long, after somebody did.
    pub(crate) fn watch_watchers(&self, record: &Arc<Record>, grace: Duration) {
        if record.has_ended() || record.is_cancelled() {
            return;
        }
        let unwatched = record.progress.left_since().map(|left| left.elapsed());
        if unwatched.is_some_and(|time| time >= grace) {
            let words = format!("is told to cancel: nobody has watched it for {}", span(grace));
            log::info!(target: "aside::background", "{}", record.line(&words));
            record.tell_to_stop(Stop::Asked);
            return self.retry_now(record.id);
        }
        // A record that has ended concurrently is held until then, so the time is bounded.
        let wait = grace.saturating_sub(unwatched.unwrap_or_default()).clamp(ASK_AGAIN, LOOK_AT_WATCHERS);
        let (registry, record) = (self.clone(), record.clone());
        timer::at(deadline::after(wait), move || registry.watch_watchers(&record, grace));
    }

    /// Keeps a task's next try until its time. The wait holds no thread and no place.
    pub(crate) fn retry_after(&self, record: &Arc<Record>, wait: Duration, again: Work, admission: Admission) {
        record.update(|progress| progress.state = TaskState::Waiting);
        let mut state = self.state();
        state.waiting_to_retry.insert(record.id, (record.clone(), again, admission));
        self.tell(&state);
        drop(state);
        let (registry, id) = (self.clone(), record.id);
        timer::at(deadline::after(wait), move || registry.retry_now(id));
        // Told to cancel before it was there to be found.
        if record.is_cancelled() {
            self.retry_now(id);
        }
    }

    /// Begins a task's next try, if it is waiting for that.
    pub(crate) fn retry_now(&self, id: u64) {
        let again = self.state().waiting_to_retry.remove(&id);
        if let Some((record, work, admission)) = again {
            self.start(&record, work, admission);
        }
    }

    /// Says in the log that a try failed and when the next one is.
    pub(crate) fn log_retry(&self, record: &Record, failure: &Failure, tries: (u32, u32), wait: Duration) {
        let words = format!("{}; try {} of {}, the next in {}", failure.verdict(), tries.0, tries.1, span(wait));
        log::warn!(target: "aside::background", "{}", record.line(&words));
    }

    /// Enters how a task ended, and logs it: once, on one line.
    pub(crate) fn end(&self, record: &Arc<Record>, failure: Option<&Failure>) {
        self.end_with(record, failure, || log_end(record, failure));
    }

    /// The same for a try that failed and is not the last: a warning, with the time of the next.
    pub(crate) fn end_try(&self, record: &Arc<Record>, failure: &Failure, tries: (u32, u32), wait: Duration) {
        self.end_with(record, Some(failure), || self.log_retry(record, failure, tries, wait));
    }

    /// Enters how a task ended, and says so before anybody who waits for its end can go on.
    fn end_with(&self, record: &Arc<Record>, failure: Option<&Failure>, say: impl FnOnce()) {
        let end = End {
            after: record.after(),
            failure: failure.map(|failure| bounds::shorten(&failure.to_string(), LONGEST_FAILURE).into_owned()),
            backtrace: failure.and_then(Failure::backtrace),
            kind: failure.map_or(TaskState::Done, state_after),
        };
        if !record.end(end) {
            return;
        }
        // The logger is application code and may panic.
        let _ = panics::catch(say);
        let mut state = self.state();
        state.unfinished.remove(&record.id);
        state.count(failure);
        keep(&mut state.ended, record, ENDED);
        if record.state() == TaskState::Failed {
            keep(&mut state.failed, record, FAILED);
        }
        self.tell(&state);
    }

    /// Knows nothing more of a task whose end is told elsewhere.
    #[cfg(unix)]
    pub(crate) fn forget(&self, record: &Record) {
        let mut state = self.state();
        state.unfinished.remove(&record.id);
        self.tell(&state);
    }

    /// What has not ended, oldest first.
    pub(crate) fn unfinished(&self) -> Vec<Arc<Record>> {
        self.state().unfinished.values().cloned().collect()
    }

    /// The last that failed, newest last.
    pub(crate) fn failed(&self) -> Vec<Arc<Record>> {
        self.state().failed.iter().cloned().collect()
    }

    /// The task of that number, while it runs and as long as it is remembered.
    pub(crate) fn numbered(&self, id: u64) -> Option<Arc<Record>> {
        let state = self.state();
        let ended = || state.ended.iter().chain(&state.failed).find(|record| record.id == id);
        state.unfinished.get(&id).or_else(ended).cloned()
    }

    /// The newest task of that key, running before ended.
    pub(crate) fn find(&self, key: &str) -> Option<Arc<Record>> {
        let key = bounds::key(key, LONGEST_NAME);
        let state = self.state();
        let has_key = |record: &&Arc<Record>| record.key.as_deref() == Some(&*key);
        let running = state.unfinished.values().rev().find(has_key);
        running.or_else(|| state.ended.iter().rev().find(has_key)).cloned()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state().counts()
    }

    /// Returns a consistent snapshot of the tasks, each in its list. A task that has ended and is still being logged counts
    /// as ended. Separate reads of the lists can miss a task or list it twice.
    pub(crate) fn lists(&self) -> TaskLists {
        let state = self.state();
        let (ending, unfinished): (Vec<_>, Vec<_>) =
            state.unfinished.values().cloned().partition(|record| record.has_ended());
        let ending_failed = ending.iter().filter(|record| record.state() == TaskState::Failed);
        TaskLists {
            counts: state.counts(),
            unfinished,
            failed: state.failed.iter().chain(ending_failed).cloned().collect(),
            ended: state.ended.iter().chain(&ending).cloned().collect(),
        }
    }

    /// Records that the server has begun to stop: requests and tasks end, and no new work should be sent to it.
    pub(crate) fn begin_stop(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    /// Returns true if the server has begun to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.stopping.load(Ordering::Acquire)
    }

    /// Whether the process is stopping: no task is tried again.
    pub(crate) fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Waits until every task has ended, or until that time, and says whether they have. Waits between tries are cut short.
    pub(crate) fn settle(&self, until: Instant) -> bool {
        loop {
            let waiting: Vec<u64> = self.state().waiting_to_retry.keys().copied().collect();
            waiting.into_iter().for_each(|id| self.retry_now(id));
            let state = self.state();
            if state.unfinished.is_empty() {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            if state.waiting_to_retry.is_empty() {
                drop(self.watch(state, until));
            }
        }
    }

    /// Ends it all: waits for the tasks for `grace`, giving those between two tries their last one at once; tells what is
    /// left to cancel and waits `more`; then names in the log, one by one, what is given up. Says whether nothing was.
    pub(crate) fn drain(&self, grace: Duration, more: Duration) -> bool {
        self.state().closing = true;
        if self.settle(deadline::after(grace)) {
            return true;
        }
        // The newest first: what still waits is told before the place of one that ends could let it begin.
        self.unfinished().iter().rev().for_each(|record| record.tell_to_stop(Stop::Asked));
        let settled = self.settle(deadline::after(more));
        // Dropped outside the lock: each tells its handle that it was abandoned.
        let never_begun = self.state().places.give_up();
        self.unfinished().iter().for_each(|record| self.end(record, Some(&Failure::Abandoned)));
        never_begun.for_each(Entry::abandon);
        settled
    }

    fn tell(&self, state: &State) {
        if state.watchers > 0 {
            self.0.changed.notify_all();
        }
    }

    /// Waits for a change, at most until that time.
    fn watch<'s>(&'s self, mut state: MutexGuard<'s, State>, until: Instant) -> MutexGuard<'s, State> {
        state.watchers += 1;
        let wait = until.saturating_duration_since(Instant::now());
        let mut state = self.0.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        state.watchers -= 1;
        state
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }
}

/// A slot that a task lends to another one while it waits for that one.
pub(crate) struct LentSlot {
    registry: Registry,
    joined: u64,
}

impl Drop for LentSlot {
    fn drop(&mut self) {
        self.registry.state().places.end_join(self.joined);
    }
}

/// The tasks of an application at one moment.
pub(crate) struct TaskLists {
    pub(crate) counts: Counts,
    /// Oldest first.
    pub(crate) unfinished: Vec<Arc<Record>>,
    /// Newest last, as `ended`.
    pub(crate) failed: Vec<Arc<Record>>,
    pub(crate) ended: Vec<Arc<Record>>,
}

impl State {
    fn counts(&self) -> Counts {
        Counts { unfinished: self.unfinished.len(), queued: self.places.queued(), ..self.past }
    }

    /// Counts a task that has ended.
    fn count(&mut self, failure: Option<&Failure>) {
        let past = &mut self.past;
        past.ended += 1;
        let Some(failure) = failure else { return };
        match state_after(failure) {
            TaskState::Cancelled => past.cancelled += 1,
            _ => past.failed += 1,
        }
        match failure {
            Failure::Panic(_) => past.panicked += 1,
            Failure::Abandoned => past.abandoned += 1,
            Failure::TimedOut => past.timed_out += 1,
            Failure::Error(_) | Failure::Cancelled => {}
        }
    }
}

fn keep(list: &mut VecDeque<Arc<Record>>, record: &Arc<Record>, most: usize) {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(record.clone());
}

fn state_after(failure: &Failure) -> TaskState {
    match failure {
        Failure::Cancelled | Failure::TimedOut => TaskState::Cancelled,
        _ => TaskState::Failed,
    }
}

fn log_end(record: &Record, failure: Option<&Failure>) {
    match failure {
        None => log::debug!(target: "aside::background", "{}", record.line("is done")),
        Some(Failure::Cancelled) => log::info!(target: "aside::background", "{}", record.line("was cancelled")),
        Some(failure) => {
            let backtrace = record.failure().and_then(|(_, lines)| lines);
            let backtrace = backtrace.map_or(String::new(), |lines| format!("\n{lines}"));
            log::error!(target: "aside::background", "{}{backtrace}", record.line(&failure.verdict()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_read_as_it_was_written() {
        let written = |text| RequestInfo::parse(text).map(|origin| origin.to_string());
        assert_eq!(written("POST /a b/c 3f9a1c").as_deref(), Some("POST /a b/c 3f9a1c"));
        assert_eq!(RequestInfo::parse("GET /x 1").unwrap().path, "/x");
        assert!(RequestInfo::parse("nothing").is_none());
    }

    #[test]
    fn a_duration_is_said_as_people_do() {
        let said: Vec<String> =
            [20, 1_234, 59_990, 200_000, 7_500_000].map(|ms| span(Duration::from_millis(ms)).to_string()).into();
        assert_eq!(said, ["20 ms", "1.2 s", "60.0 s", "3 min 20 s", "2 h 5 min"]);
    }

    #[test]
    fn a_line_cannot_be_forged() {
        assert_eq!(escape("a\nb\r\x1b[31m\u{202e}é"), "a\\nb\\r\\u{1b}[31m\\u{202e}é");
    }

    #[test]
    fn a_task_is_told_when_nobody_watches_any_more_and_not_when_nobody_ever_did() {
        let registry = Registry::new(&Config::default());
        let record = registry.enter("t".into(), None, None);
        let told = || {
            registry.watch_watchers(&record, Duration::ZERO);
            record.is_cancelled()
        };
        assert!(!told(), "a visitor without JavaScript watches nothing");
        let watcher = record.progress.enter();
        assert!(!told());
        record.progress.leave(watcher);
        registry.watch_watchers(&record, Duration::from_secs(3_600));
        assert!(!record.is_cancelled(), "there is time to come back");
        assert!(told());
    }

    #[test]
    fn progress_is_told_in_percent_and_words() {
        let of = |done, total| Progress { done, total, ..Progress::default() }.percent();
        assert_eq!([of(0, 0), of(1, 3), of(3, 3), of(9, 3)], [None, Some(33), Some(100), Some(100)]);
        assert_eq!(of(u64::MAX - 1, u64::MAX), Some(99));
        let written = serde_json::to_value(Progress::default()).unwrap();
        assert_eq!((&written["state"], &written["is_finished"]), (&"waiting".into(), &false.into()));
    }

    /// Regression: the log said "after 0 ms" of a task that never ran.
    #[test]
    fn the_log_says_that_a_task_never_began() {
        let registry = Registry::new(&Config::default());
        let record = registry.enter("mail".into(), None, None);
        assert!(record.line("was abandoned").ends_with("mail was abandoned (task 1, never began)"));
        record.begin();
        assert!(record.line("was abandoned").contains("(task 1, after "));
    }

    /// Regression: on a busy machine the panel missed a task between its end and its log line.
    #[test]
    fn a_task_that_is_being_logged_is_listed_as_ended() {
        let registry = Registry::new(&Config::default());
        let record = registry.enter("t".into(), None, None);
        let mut found = None;
        registry.end_with(&record, Some(&Failure::Abandoned), || {
            let lists = registry.lists();
            found = Some([lists.unfinished, lists.failed, lists.ended].map(|list| list.len()));
        });
        assert_eq!(found, Some([0, 1, 1]));
        let lists = registry.lists();
        assert_eq!([lists.unfinished, lists.failed, lists.ended].map(|list| list.len()), [0, 1, 1]);
    }

    #[test]
    fn task_names_keys_and_failures_are_truncated() {
        let (registry, long) = (Registry::new(&Config::default()), "a".repeat(1_000_000));
        let record = registry.enter(long.clone(), Some(long.clone()), None);
        registry.end(&record, Some(&Failure::from_error(long.clone().into())));
        assert!(record.name.len() + record.key.as_ref().map_or(0, String::len) < 500);
        assert!(record.failure().unwrap().0.len() < 11_000);
        assert!(registry.find(&long).is_some() && registry.find(&long[1..]).is_none());
    }

    #[test]
    fn the_lists_are_bounded() {
        let registry = Registry::new(&Config::default());
        for _ in 0..ENDED + 50 {
            let record = registry.enter("t".into(), None, None);
            registry.end(&record, Some(&Failure::Abandoned));
        }
        let remembered = registry.state().ended.len();
        assert_eq!((remembered, registry.failed().len()), (ENDED, FAILED));
        let cancelled = registry.enter("t".into(), None, None);
        registry.end(&cancelled, Some(&Failure::Cancelled));
        let counts = registry.counts();
        assert_eq!((counts.failed, counts.cancelled, counts.done()), (ENDED as u64 + 50, 1, 0));
        assert_eq!((counts.abandoned, counts.panicked, counts.timed_out), (counts.failed, 0, 0));
    }
}
