//! The warm children of an application: started on demand, at most one for each processor, and used again while they are
//! clean.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use super::call::{not_started, run_on};
use super::process::{Process, Program};
use super::protocol::Call;
use crate::background::failure::{Failure, Outcome};
use crate::background::task_context::TaskContext;
use crate::background::timer;
use crate::deadline;
use crate::sync::{Notify, lock};
use crate::watch::watcher_id;

/// The time after which an idle child ends.
const IDLE: Duration = Duration::from_secs(30);

/// How many calls a child runs before another takes its place.
const MOST_CALLS: u32 = 1_000;

/// The children of one application.
pub(crate) struct Pool {
    program: Program,
    most: usize,
    idle: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The idle children; the first has been idle the longest.
    idle: VecDeque<(Instant, Process)>,
    /// All children: those that start, run a call, or are idle.
    alive: usize,
    /// The calls that wait for a child, in order.
    waiting: VecDeque<Arc<Waiter>>,
    /// True while a thread ends the idle children whose time is over.
    is_watched: bool,
}

/// A call that waits for a child.
#[derive(Default)]
struct Waiter {
    changed: Arc<Notify>,
    grant: Mutex<Option<Grant>>,
}

/// The right to have one of the children.
enum Grant {
    /// A child that has run a call.
    Warm(Process),
    /// A child that has yet to be started.
    Start,
}

impl Pool {
    /// A pool without children.
    pub(crate) fn new(program: Program) -> Arc<Pool> {
        Pool::with(program, available_parallelism().map_or(1, usize::from), IDLE)
    }

    pub(super) fn with(program: Program, most: usize, idle: Duration) -> Arc<Pool> {
        Arc::new(Pool { program, most, idle, state: Mutex::default() })
    }

    /// Runs a call in a child, after waiting for one. The output is JSON.
    ///
    /// # Errors
    /// The failure of the call, or of its process.
    pub(crate) fn run(self: &Arc<Pool>, call: &Call, input: &str, task: &TaskContext) -> Outcome<Option<String>> {
        let grant = self.take(task)?;
        let mut lease = Lease { pool: self, process: None, is_given_back: false };
        let process = lease.process.insert(self.process(grant, call)?);
        let (outcome, is_fit) = run_on(process, call, input, task);
        if is_fit && process.calls < MOST_CALLS {
            lease.give_back();
        }
        outcome
    }

    fn process(&self, grant: Grant, call: &Call) -> Result<Process, Failure> {
        if let Grant::Warm(mut process) = grant {
            if process.is_quiet() {
                return Ok(process);
            }
            process.retire();
        }
        Process::start(&self.program).map_err(|error| not_started(call.target, error))
    }

    /// Waits for the right to have a child, behind the calls that came before.
    fn take(&self, task: &TaskContext) -> Result<Grant, Failure> {
        let waiter = {
            let mut state = self.state();
            if let Some(grant) = state.grant(self.most) {
                return Ok(grant);
            }
            let waiter = Arc::new(Waiter::default());
            state.waiting.push_back(waiter.clone());
            waiter
        };
        let (me, progress) = (watcher_id(), &task.record().progress);
        loop {
            if let Some(grant) = lock(&waiter.grant).take() {
                return Ok(grant);
            }
            let seen = progress.look();
            if task.is_cancelled() {
                self.leave(&waiter);
                return Err(Failure::Cancelled);
            }
            let changed = waiter.changed.clone();
            progress.call_when_new(me, seen.version, Arc::new(move || changed.notify()));
            waiter.changed.wait(Duration::MAX);
        }
    }

    /// Stops waiting. A child that was granted goes to the next call.
    fn leave(&self, waiter: &Arc<Waiter>) {
        let mut state = self.state();
        state.waiting.retain(|other| !Arc::ptr_eq(other, waiter));
        let grant = lock(&waiter.grant).take();
        match grant {
            Some(Grant::Warm(process)) => state.pass_on(process),
            Some(Grant::Start) => state.one_less(),
            None => {}
        }
    }

    fn give_back(self: &Arc<Pool>, process: Process) {
        let mut state = self.state();
        state.pass_on(process);
        if !state.idle.is_empty() && !std::mem::replace(&mut state.is_watched, true) {
            drop(state);
            self.look_at_the_idle_in(self.idle);
        }
    }

    fn look_at_the_idle_in(self: &Arc<Pool>, wait: Duration) {
        let pool = Arc::downgrade(self);
        timer::start();
        timer::at(deadline::after(wait), move || Weak::upgrade(&pool).iter().for_each(Pool::end_the_idle));
    }

    /// Ends the children that have been idle for too long.
    fn end_the_idle(self: &Arc<Pool>) {
        let mut over = Vec::new();
        let mut state = self.state();
        while let Some((since, process)) = state.idle.pop_front() {
            if since.elapsed() < self.idle {
                state.idle.push_front((since, process));
                break;
            }
            over.push(process);
            state.alive -= 1;
        }
        let next = state.idle.front().map(|(since, _)| self.idle.saturating_sub(since.elapsed()));
        state.is_watched = next.is_some();
        drop(state);
        over.into_iter().for_each(Process::retire);
        next.into_iter().for_each(|wait| self.look_at_the_idle_in(wait));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        write!(f, "{} of {} child processes, {} calls wait", state.alive, self.most, state.waiting.len())
    }
}

impl State {
    /// Returns a child for a new call, if no other call waits and a child is available.
    fn grant(&mut self, most: usize) -> Option<Grant> {
        if !self.waiting.is_empty() {
            return None;
        }
        if let Some((_, process)) = self.idle.pop_back() {
            return Some(Grant::Warm(process));
        }
        (self.alive < most).then(|| {
            self.alive += 1;
            Grant::Start
        })
    }

    /// Gives a free child to the next call, or makes it idle.
    fn pass_on(&mut self, process: Process) {
        match self.waiting.pop_front() {
            Some(next) => next.put(Grant::Warm(process)),
            None => self.idle.push_back((Instant::now(), process)),
        }
    }

    /// Removes a child that has ended: the next call may start another.
    fn one_less(&mut self) {
        match self.waiting.pop_front() {
            Some(next) => next.put(Grant::Start),
            None => self.alive -= 1,
        }
    }
}

impl Waiter {
    /// Must be called under the lock of the state, so that a caller that stops waiting finds the grant.
    fn put(&self, grant: Grant) {
        *lock(&self.grant) = Some(grant);
        self.changed.notify();
    }
}

/// A slot of the pool, and the child in it. If the child is not given back, it ends and another may be started.
struct Lease<'p> {
    pool: &'p Arc<Pool>,
    process: Option<Process>,
    is_given_back: bool,
}

impl Lease<'_> {
    fn give_back(&mut self) {
        if let Some(process) = self.process.take() {
            self.is_given_back = true;
            self.pool.give_back(process);
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.process.take().into_iter().for_each(Process::retire);
        if !self.is_given_back {
            self.pool.state().one_less();
        }
    }
}
