//! The registry of an application's tasks: it starts, lists and drains them.
//!
//! Each application has one registry. It assigns the slots that tasks run in ([`slots`](super::slots)): at most
//! `ASIDE_MAX_TASKS`. Further tasks wait in one queue, in order. While `ASIDE_MAX_QUEUED_TASKS` wait, requests that would start
//! more are refused. Jobs take no slot. The registry logs every task that it
//! drops.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::Level;

use super::counts::Counts;
use super::failure::Failure;
use super::lineage::Lineage;
use super::observer::{AttemptEnded, Next, Observer};
use super::progress::TaskState;
use super::record::{Identity, LONGEST_NAME, Record, Stop};
use super::retry::ScheduledRetry;
use super::slots::{Admission, Entry, Slots, Thread, Turn};
use super::thread_pool::{self, RETRY_SPAWN_AFTER, Work};
use super::timer;
use super::trace_id::TraceId;
use crate::bounds;
use crate::config::Config;
use crate::deadline;
use crate::error::Result;
use crate::log_limit::LogLimit;
use crate::log_text::{numbered, span};
use crate::panics;
use crate::sync::lock;
use crate::worker_share;

/// The number of ended tasks that are retained.
const ENDED: usize = 200;
/// The number of failed tasks that are retained.
const FAILED: usize = 100;

/// The longest time between two checks whether a client still watches a task.
const MAX_WATCHER_CHECK_INTERVAL: Duration = Duration::from_secs(60);

thread_local! {
    /// The number of tasks that this thread has registered.
    static ENTERED: Cell<u64> = const { Cell::new(0) };
    /// The number of tasks and jobs that this thread has started.
    static STARTED: Cell<u32> = const { Cell::new(0) };
}

/// Returns the number of tasks that this thread has registered so far, in all applications.
pub(crate) fn entered_here() -> u64 {
    ENTERED.get()
}

/// Returns the number of tasks and jobs that this thread has started so far, in all applications.
pub(crate) fn started_here() -> u32 {
    STARTED.get()
}

/// Counts a task or job that this thread starts.
pub(crate) fn count_started() {
    STARTED.set(STARTED.get().wrapping_add(1));
}

/// The tasks of one application.
#[derive(Clone)]
pub(crate) struct Registry(Arc<Shared>);

struct Shared {
    max_tasks: usize,
    max_queued_tasks: usize,
    max_task_threads: usize,
    nice: i32,
    started_at: SystemTime,
    /// Log limits for tasks that waited for a slot, callers that waited for a thread, callers that ran a task themselves,
    /// and threads that could not be started.
    waits: LogLimit,
    ceilings: [LogLimit; 2],
    refusals: LogLimit,
    /// The log limit for requests that were refused, since too many tasks wait.
    full: LogLimit,
    /// The number of tasks in the queue, to be read without the lock.
    queued: AtomicUsize,
    ids: AtomicU64,
    /// The server has begun to stop.
    stopping: AtomicBool,
    observers: OnceLock<Vec<Arc<dyn Observer>>>,
    state: Mutex<State>,
    /// Notified when a task ends, is queued or begins to wait, but only while a thread waits: each notification is a system
    /// call.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    unfinished: BTreeMap<u64, Arc<Record>>,
    slots: Slots,
    /// The tasks between two attempts.
    waiting_to_retry: HashMap<u64, (Arc<Record>, Work, Admission)>,
    ended: VecDeque<Arc<Record>>,
    failed: VecDeque<Arc<Record>>,
    /// The counts of ended tasks.
    past: Counts,
    /// The number of threads that wait for a change.
    waiters: usize,
    closing: bool,
}

impl Registry {
    /// Creates a registry with the limits of a configuration.
    pub(crate) fn new(config: &Config) -> Registry {
        timer::start();
        Registry(Arc::new(Shared {
            max_tasks: config.max_tasks,
            max_queued_tasks: config.max_queued_tasks,
            max_task_threads: config.max_task_threads,
            nice: config.nice,
            started_at: SystemTime::now(),
            waits: LogLimit::default(),
            ceilings: Default::default(),
            refusals: LogLimit::default(),
            full: LogLimit::default(),
            queued: AtomicUsize::new(0),
            ids: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            observers: OnceLock::new(),
            state: Mutex::default(),
            changed: Condvar::new(),
        }))
    }

    /// Returns the time from which tasks are counted: the start of the application.
    #[cfg(feature = "panel")]
    pub(crate) fn started_at(&self) -> SystemTime {
        self.0.started_at
    }

    /// Returns the nice value of tasks.
    pub(crate) fn nice(&self) -> i32 {
        self.0.nice
    }

    /// Registers a new task. `job` is the id of the job that the task is an attempt of.
    pub(crate) fn enter(&self, identity: Identity, lineage: Lineage) -> Arc<Record> {
        ENTERED.set(ENTERED.get() + 1);
        // A job counts when it is enqueued.
        if identity.job.is_none() {
            count_started();
        }
        let record = Arc::new(Record::new(self.0.ids.fetch_add(1, Ordering::Relaxed), identity, lineage));
        self.state().unfinished.insert(record.id, record.clone());
        record
    }

    /// Reserves a dedicated thread for a task. At the limit the caller waits, and its worker does not count during the
    /// wait. Returns false if the caller is itself a task, which does not wait.
    pub(crate) fn take_thread(&self, record: &Record, is_nested: bool) -> bool {
        let most = self.0.max_task_threads;
        let (thread, callers) = {
            let mut state = self.state();
            (state.slots.enter_caller(is_nested, most), state.slots.callers())
        };
        let waits = match &thread {
            Thread::Reserved => return true,
            Thread::Wait(_) => "waits for a thread and blocks its caller",
            Thread::None => "runs on the thread of the task that started it",
        };
        if self.0.ceilings[usize::from(is_nested)].count().is_some() {
            let threads = if most == 1 { "the only task thread is" } else { &format!("all {most} task threads are") };
            let why = format!("{threads} in use (ASIDE_MAX_TASK_THREADS)");
            let event = match is_nested {
                true => format!("{waits}: {why}"),
                false => format!("{waits}: {why}, {}", numbered(callers, "caller waits", "callers wait")),
            };
            record.log(Level::Warn, &event);
        }
        let Thread::Wait(turn) = thread else { return false };
        let _away = worker_share::mark_absent();
        turn.wait();
        true
    }

    /// Releases a reserved thread.
    pub(crate) fn leave_thread(&self) {
        self.state().slots.leave_thread(self.0.max_task_threads);
    }

    /// Takes a slot for a thread, or queues it and returns its turn.
    pub(crate) fn take_slot(&self, record: &Record, admission: Admission) -> Option<Arc<Turn>> {
        let turn = self.with_slots(|slots, most| slots.enter_thread(record.id, admission, most))?;
        self.log_wait(record);
        Some(turn)
    }

    /// Starts work in a slot, or queues it until there is one.
    pub(crate) fn start(&self, record: &Record, work: Work, admission: Admission) {
        let work = self.with_slots(|slots, most| slots.enter(record.id, work, admission, most));
        match work {
            Some(work) => self.run(work),
            None => self.log_wait(record),
        }
    }

    /// Uses the slots, with their limit, and publishes the length of their queue.
    fn with_slots<R>(&self, use_slots: impl FnOnce(&mut Slots, usize) -> R) -> R {
        let mut state = self.state();
        let result = use_slots(&mut state.slots, self.0.max_tasks);
        self.0.queued.store(state.slots.queued(), Ordering::Relaxed);
        result
    }

    /// Checks that the queue has capacity, before a request whose handler starts tasks. The tasks themselves are never refused:
    /// the request would be half done.
    ///
    /// # Errors
    /// 503 if as many tasks wait as may (`ASIDE_MAX_QUEUED_TASKS`).
    pub(crate) fn check_queue(&self) -> Result<()> {
        let (queued, most) = (self.0.queued.load(Ordering::Relaxed), self.0.max_queued_tasks);
        if queued < most {
            return Ok(());
        }
        if let Some(count) = self.0.full.count() {
            let wait = numbered(queued, "background task waits", "background tasks wait");
            log::warn!(target: "aside::background", "Requests refused with 503: {count}. {wait} to begin (ASIDE_MAX_QUEUED_TASKS), and the handlers of these requests start further ones.");
        }
        Err(worker_share::busy("background tasks to begin (ASIDE_MAX_QUEUED_TASKS)".to_owned()))
    }

    /// Logs that tasks wait for slots, at most once a minute.
    fn log_wait(&self, record: &Record) {
        if self.0.waits.count().is_some() {
            let (most, queued) = (self.0.max_tasks, self.state().slots.queued());
            let run = numbered(most, "task runs", "tasks run");
            let wait = numbered(queued, "waits", "wait");
            let event = format!("waits to begin: {run} already (ASIDE_MAX_TASKS), {wait}");
            record.log(Level::Warn, &event);
        }
    }

    /// Runs work that has a slot.
    fn run(&self, work: Work) {
        thread_pool::run(self.0.nice, work);
    }

    /// Releases the slot of a task, if it has one. Returned work has the slot now and is for the same thread to do.
    pub(crate) fn leave_slot(&self, record: &Record) -> Option<Work> {
        self.with_slots(|slots, most| slots.leave(record.id, most))
    }

    /// Releases the slot of a task whose thread ends.
    pub(crate) fn leave_slot_and_pass_on(&self, record: &Record) {
        if let Some(work) = self.leave_slot(record) {
            self.run(work);
        }
    }

    /// Lends the slot of the task `joiner` to the task that it is about to wait for, until the value is dropped. A joiner
    /// without a slot, such as a job, lets the joined task run beside the slots.
    pub(crate) fn lend_slot(&self, joined: &Record, joiner: Option<&Record>) -> LentSlot {
        let joiner = joiner.map(|joiner| joiner.id);
        let work = self.with_slots(|slots, most| slots.join(joined.id, joiner, most));
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
            let event = "waits to begin: the operating system refuses another thread";
            record.log(Level::Warn, event);
        }
        let _away = worker_share::mark_absent();
        drop(self.wait_for_change(self.state(), Instant::now() + RETRY_SPAWN_AFTER));
    }

    /// Tells the task to cancel when its deadline passes, and logs it.
    pub(crate) fn watch_deadline(&self, record: &Arc<Record>, deadline: Duration) -> timer::Ticket {
        let (registry, record) = (self.clone(), record.clone());
        timer::at(deadline::after(deadline), move || {
            if record.has_ended() {
                return;
            }
            record.set_overdue();
            let event = format!("is overdue: past its deadline of {}, told to cancel", span(deadline));
            record.log(Level::Warn, &event);
            record.tell_to_stop(Stop::Deadline);
            registry.retry_now(record.id);
        })
    }

    /// Tells the task to cancel once no client has watched it for the duration `grace`, after one did.
    pub(crate) fn cancel_if_unwatched(&self, record: &Arc<Record>, grace: Duration) {
        if record.has_ended() || record.is_cancelled() {
            return;
        }
        let unwatched = record.progress.left_since().map(|left| left.elapsed());
        if unwatched.is_some_and(|time| time >= grace) {
            let event = format!("is told to cancel: no client has watched it for {}", span(grace));
            record.log(Level::Info, &event);
            record.tell_to_stop(Stop::Asked);
            return self.retry_now(record.id);
        }
        // A record that has ended concurrently is held until then, so the time is bounded.
        let wait =
            grace.saturating_sub(unwatched.unwrap_or_default()).clamp(RETRY_SPAWN_AFTER, MAX_WATCHER_CHECK_INTERVAL);
        let (registry, record) = (self.clone(), record.clone());
        timer::at(deadline::after(wait), move || registry.cancel_if_unwatched(&record, grace));
    }

    /// Schedules a task's next attempt. The wait holds no thread and no slot.
    pub(crate) fn retry_after(&self, record: &Arc<Record>, wait: Duration, again: Work, admission: Admission) {
        let mut state = self.state();
        state.waiting_to_retry.insert(record.id, (record.clone(), again, admission));
        self.notify(&state);
        drop(state);
        let (registry, id) = (self.clone(), record.id);
        timer::at(deadline::after(wait), move || registry.retry_now(id));
        // If the task was told to cancel before it was in the map, `cancel` did not find it there.
        if record.is_cancelled() {
            self.retry_now(id);
        }
    }

    /// Starts a task's next attempt at once, if the task waits for it.
    pub(crate) fn retry_now(&self, id: u64) {
        let again = self.state().waiting_to_retry.remove(&id);
        if let Some((record, work, admission)) = again {
            record.set_due();
            self.start(&record, work, admission);
        }
    }

    /// Sets the observers of the application's work, once.
    pub(crate) fn set_observers(&self, observers: Vec<Arc<dyn Observer>>) {
        let is_first = self.0.observers.set(observers).is_ok();
        debug_assert!(is_first, "an application starts once");
    }

    /// Returns the observers of the application's work.
    pub(crate) fn observers(&self) -> &[Arc<dyn Observer>] {
        self.0.observers.get().map_or(&[], Vec::as_slice)
    }

    /// Logs the end of an attempt once, on one line, and tells the observers.
    pub(super) fn report(&self, ended: &AttemptEnded<'_>) {
        ended.failure.iter().for_each(|failure| ended.record.add_failed_attempt(failure));
        // The logger is application code and may panic.
        let _ = panics::catch(|| log_end(ended));
        for observer in self.observers() {
            let _ = panics::catch(|| observer.attempt_ended(ended));
        }
    }

    /// Records the end of a task, and reports it.
    pub(crate) fn end(&self, record: &Arc<Record>, failure: Option<&Failure>) {
        self.end_attempt(&AttemptEnded { record, failure, next: Next::End });
    }

    /// Records the end of a task with its last attempt, and reports it before any thread that waits for the end continues.
    pub(super) fn end_attempt(&self, ended: &AttemptEnded<'_>) {
        let AttemptEnded { record, failure, .. } = *ended;
        if !record.end(failure) {
            return;
        }
        self.report(ended);
        let mut state = self.state();
        state.unfinished.remove(&record.id);
        state.past.add(failure);
        retain(&mut state.ended, record, ENDED);
        if record.state() == TaskState::Failed {
            retain(&mut state.failed, record, FAILED);
        }
        self.notify(&state);
    }

    /// Removes a task whose end is recorded by the parent process.
    #[cfg(unix)]
    pub(crate) fn forget(&self, record: &Record) {
        let mut state = self.state();
        state.unfinished.remove(&record.id);
        self.notify(&state);
    }

    /// Returns the tasks that have not ended, oldest first.
    pub(crate) fn unfinished(&self) -> Vec<Arc<Record>> {
        self.state().unfinished.values().cloned().collect()
    }

    /// Returns the retained failed tasks, newest last.
    pub(crate) fn failed(&self) -> Vec<Arc<Record>> {
        self.state().failed.iter().cloned().collect()
    }

    /// Returns the task with a number, if it has not ended or is retained.
    pub(crate) fn by_id(&self, id: u64) -> Option<Arc<Record>> {
        let state = self.state();
        let ended = || state.ended.iter().chain(&state.failed).find(|record| record.id == id);
        state.unfinished.get(&id).or_else(ended).cloned()
    }

    /// Returns the newest task with a key: one that runs, or else one that has ended.
    pub(crate) fn find(&self, key: &str) -> Option<Arc<Record>> {
        let key = bounds::key(key, LONGEST_NAME);
        let state = self.state();
        let has_key = |record: &&Arc<Record>| record.key.as_deref() == Some(&*key);
        let running = state.unfinished.values().rev().find(has_key);
        running.or_else(|| state.ended.iter().rev().find(has_key)).cloned()
    }

    /// Returns the tasks of a trace that have not ended or are retained, the oldest first.
    pub(crate) fn of_trace(&self, trace: TraceId) -> Vec<Arc<Record>> {
        self.filter(|record| record.trace == trace)
    }

    /// Returns the tasks with a property that have not ended or are retained, the oldest first.
    pub(crate) fn filter(&self, has_property: impl Fn(&Record) -> bool) -> Vec<Arc<Record>> {
        let state = self.state();
        let all = state.unfinished.values().chain(&state.ended).chain(&state.failed);
        let mut found: Vec<Arc<Record>> = all.filter(|record| has_property(record)).cloned().collect();
        drop(state);
        found.sort_by_key(|record| record.id);
        found.dedup_by_key(|record| record.id);
        found
    }

    /// Returns the newest task that is an attempt of a job and has not ended.
    pub(crate) fn attempt_of(&self, job: u64) -> Option<Arc<Record>> {
        let state = self.state();
        let is_attempt = |record: &&Arc<Record>| record.job == Some(job) && !record.has_ended();
        state.unfinished.values().rev().find(is_attempt).cloned()
    }

    /// Returns the numbers of tasks, by outcome.
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

    /// Returns true if the registry is drained: no task is retried any more.
    pub(crate) fn is_closing(&self) -> bool {
        self.state().closing
    }

    /// Waits until the registry is drained, at most for the time `most`.
    #[cfg_attr(not(feature = "jobs"), allow(dead_code, reason = "only jobs wait for it"))]
    pub(crate) fn wait_until_closing(&self, most: Duration) {
        let (until, mut state) = (deadline::after(most), self.state());
        while !state.closing && Instant::now() < until {
            state = self.wait_for_change(state, until);
        }
    }

    /// Waits until every task has ended, at most until the time `until`. Returns true if they have. Retries begin at once.
    pub(crate) fn wait_until_idle(&self, until: Instant) -> bool {
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
                drop(self.wait_for_change(state, until));
            }
        }
    }

    /// Drains the tasks for a graceful shutdown. Returns true if every task has ended.
    ///
    /// It waits for the tasks for the duration `grace`; a task that waits for a retry begins its last attempt at once. Then it
    /// tells the remaining tasks to cancel and waits for the duration `more`. Each task that still runs is abandoned, and logged.
    pub(crate) fn drain(&self, grace: Duration, more: Duration) -> bool {
        {
            let mut state = self.state();
            state.closing = true;
            self.notify(&state);
        }
        if self.wait_until_idle(deadline::after(grace)) {
            return true;
        }
        // The newest first: a queued task is told before the slot of one that ends lets it begin.
        self.unfinished().iter().rev().for_each(|record| record.tell_to_stop(Stop::Asked));
        let is_idle = self.wait_until_idle(deadline::after(more));
        // Dropped outside the lock: each entry reports to its handle that it was abandoned.
        let never_begun = self.with_slots(|slots, _| slots.abandon_queue());
        self.unfinished().iter().for_each(|record| self.end(record, Some(&Failure::Abandoned)));
        never_begun.for_each(Entry::abandon);
        is_idle
    }

    fn notify(&self, state: &State) {
        if state.waiters > 0 {
            self.0.changed.notify_all();
        }
    }

    /// Waits for a change, at most until the time `until`.
    fn wait_for_change<'s>(&'s self, mut state: MutexGuard<'s, State>, until: Instant) -> MutexGuard<'s, State> {
        state.waiters += 1;
        let wait = until.saturating_duration_since(Instant::now());
        let mut state = self.0.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        state.waiters -= 1;
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
        self.registry.state().slots.end_join(self.joined);
    }
}

/// The tasks of an application at one time.
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
        Counts { unfinished: self.unfinished.len(), queued: self.slots.queued(), ..self.past }
    }
}

/// Appends a record, and drops the oldest one at the limit.
fn retain(list: &mut VecDeque<Arc<Record>>, record: &Arc<Record>, most: usize) {
    if list.len() == most {
        list.pop_front();
    }
    list.push_back(record.clone());
}

fn log_end(ended: &AttemptEnded<'_>) {
    let AttemptEnded { record, failure, next } = *ended;
    match failure {
        Some(failure) if let Next::Retry(retry) = next => log_retry(record, failure, retry),
        None => log_success(record),
        Some(Failure::Cancelled) => record.log(Level::Info, "was cancelled"),
        Some(failure) => {
            let event = format!("{}{}", failure.verdict(), consequence(record, next));
            record.log_failure(Level::Error, &event, failure);
        }
    }
}

/// Logs a success: of a job or a retry for operators, of any other task for developers.
fn log_success(record: &Record) {
    let attempt = record.attempt().filter(|attempt| *attempt > 1);
    let is_notable = record.job.is_some() || attempt.is_some();
    let level = if is_notable { Level::Info } else { Level::Debug };
    match attempt {
        Some(attempt) => record.log(level, &format!("is done at attempt {attempt}")),
        None => record.log(level, "is done"),
    }
}

/// Returns the part of the log line that says what a final failure leads to.
fn consequence(record: &Record, next: Next) -> String {
    match next {
        Next::Dead { attempts } => format!("; the job is dead after {}", numbered(attempts, "attempt", "attempts")),
        Next::End if record.job.is_none() && record.attempts() > 1 => {
            format!("; gave up after {} attempts", record.attempts())
        }
        Next::End if record.job.is_some() && record.stop_reason() == Some(Stop::Asked) => {
            "; the job was told to cancel".to_owned()
        }
        _ => String::new(),
    }
}

/// Logs that an attempt failed, and when the next one begins.
fn log_retry(record: &Record, failure: &Failure, retry: ScheduledRetry) {
    let ScheduledRetry { attempt, attempts, wait } = retry;
    let event = format!("{}; attempt {attempt} of {attempts}, the next in {}", failure.verdict(), span(wait));
    record.log_failure(Level::Warn, &event, failure);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_cancelled_when_its_last_watcher_leaves_and_not_before_its_first() {
        let registry = Registry::new(&Config::default());
        let record = registry.enter(Identity::test("t"), Lineage::default());
        let is_cancelled = || {
            registry.cancel_if_unwatched(&record, Duration::ZERO);
            record.is_cancelled()
        };
        assert!(!is_cancelled(), "a client without JavaScript watches nothing");
        let watcher = record.progress.enter();
        assert!(!is_cancelled());
        record.progress.leave(watcher);
        registry.cancel_if_unwatched(&record, Duration::from_secs(3_600));
        assert!(!record.is_cancelled(), "the client has time to come back");
        assert!(is_cancelled());
    }

    /// Regression: an outcome that a thread could not record made the shutdown wait for the end of its backoff.
    #[test]
    fn a_wait_for_the_shutdown_ends_when_it_begins() {
        let registry = Registry::new(&Config::default());
        registry.wait_until_closing(Duration::ZERO);
        let (tell, told) = std::sync::mpsc::channel();
        let waiting = registry.clone();
        let waits = std::thread::spawn(move || {
            waiting.wait_until_closing(Duration::from_secs(3_600));
            tell.send(()).unwrap();
        });
        while registry.state().waiters == 0 {
            std::thread::yield_now();
        }
        assert!(registry.drain(Duration::ZERO, Duration::ZERO));
        told.recv_timeout(Duration::from_secs(30)).expect("the drain wakes the thread");
        waits.join().unwrap();
    }

    /// An observer that looks at the registry while a task is reported.
    struct OnEnd {
        found: Arc<Mutex<Option<[usize; 3]>>>,
        look: fn(&Registry) -> [usize; 3],
        registry: Registry,
    }

    impl Observer for OnEnd {
        fn attempt_ended(&self, _end: &AttemptEnded<'_>) {
            *lock(&self.found) = Some((self.look)(&self.registry));
        }
    }

    /// Regression: on a busy machine the panel missed a task between its end and its log line.
    #[test]
    fn a_task_that_is_being_logged_is_listed_as_ended() {
        let registry = Registry::new(&Config::default());
        let record = registry.enter(Identity::test("t"), Lineage::default());
        let lengths = |registry: &Registry| {
            let lists = registry.lists();
            [lists.unfinished, lists.failed, lists.ended].map(|list| list.len())
        };
        let found = Arc::new(Mutex::new(None));
        registry.set_observers(vec![Arc::new(OnEnd {
            found: found.clone(),
            look: lengths,
            registry: registry.clone(),
        })]);
        registry.end(&record, Some(&Failure::Abandoned));
        assert_eq!(*lock(&found), Some([0, 1, 1]));
        assert_eq!(lengths(&registry), [0, 1, 1]);
    }

    #[test]
    fn task_names_keys_and_failures_are_truncated() {
        let (registry, long) = (Registry::new(&Config::default()), "a".repeat(1_000_000));
        let record = registry.enter(Identity { key: Some(long.clone()), ..Identity::test(&long) }, Lineage::default());
        registry.end(&record, Some(&Failure::from_error(long.clone().into())));
        assert!(record.name.len() + record.key.as_ref().map_or(0, String::len) < 500);
        assert!(record.failure().unwrap().0.len() < 11_000);
        assert!(registry.find(&long).is_some() && registry.find(&long[1..]).is_none());
    }

    #[test]
    fn the_lists_are_bounded() {
        let registry = Registry::new(&Config::default());
        for _ in 0..ENDED + 50 {
            let record = registry.enter(Identity::test("t"), Lineage::default());
            registry.end(&record, Some(&Failure::Abandoned));
        }
        let retained = registry.state().ended.len();
        assert_eq!((retained, registry.failed().len()), (ENDED, FAILED));
        let cancelled = registry.enter(Identity::test("t"), Lineage::default());
        registry.end(&cancelled, Some(&Failure::Cancelled));
        let counts = registry.counts();
        assert_eq!((counts.failed, counts.cancelled, counts.done()), (ENDED as u64 + 50, 1, 0));
        assert_eq!((counts.abandoned, counts.panicked, counts.timed_out), (counts.failed, 0, 0));
    }
}
