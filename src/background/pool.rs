//! At most so many at once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::failure::IntoOutcome;
use super::places::Admission;
use super::scope::Context;
#[cfg(feature = "mail")]
use super::task::Gate;
use super::task::{Run, Task, TaskHandle, once};
use crate::error::Result;
use crate::sync::{lock, wait_while};
use crate::worker_share::{self, Wait};

/// At most n pieces of work at once, on whatever threads: image work on two cores, calls to a service that allows four.
///
/// ```
/// use aside::Pool;
///
/// let pool = Pool::new(2);
/// let mut words = vec!["one", "two"];
/// pool.run(|| words.push("three"))?; // here and now, on this thread, with a permit
/// assert_eq!(words.len(), 3);
///
/// let handle = pool.background(|| "7".parse::<u32>()); // aside, when there is a permit
/// assert_eq!(handle.join().unwrap(), 7);
/// # aside::ok(())
/// ```
///
/// A copy shares the permits.
#[derive(Clone)]
pub struct Pool(Arc<Shared>);

struct Shared {
    size: usize,
    /// What a worker waits for that waits for a permit.
    wait: Wait,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    taken: usize,
    callers_waiting: usize,
    tasks_waiting: VecDeque<Box<dyn FnOnce(Permit) + Send>>,
}

thread_local! {
    /// The pools that this thread has a permit of.
    static HELD: RefCell<Vec<Arc<Shared>>> = const { RefCell::new(Vec::new()) };
}

impl Pool {
    /// A pool of n permits.
    ///
    /// # Panics
    /// When n is 0: nothing would ever run.
    pub fn new(n: usize) -> Pool {
        assert!(n > 0, "a pool needs at least one permit");
        Pool(Arc::new(Shared { size: n, wait: Wait::Pool, state: Mutex::default(), freed: Condvar::new() }))
    }

    /// A pool that is new, whose permits are the framework's own business.
    pub(crate) fn waited_for_as(self, wait: Wait) -> Pool {
        Pool(Arc::new(Shared { size: self.0.size, wait, state: Mutex::default(), freed: Condvar::new() }))
    }

    /// Waits for a permit and runs `f` on this thread, so that it may borrow. Within the pool's own work it needs no
    /// second permit. A panic in `f` goes on to the caller, and the permit is free again.
    ///
    /// In a handler at most a quarter of the workers wait for permits (`ASIDE_MAX_WAITING`), so that a slow pool leaves
    /// workers to other pages. In a task, a job or a command it waits as long as it takes.
    ///
    /// # Errors
    /// 503 with `Retry-After`, in a handler, when as many workers wait already; `f` has not run then.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        if HELD.with_borrow(|held| held.iter().any(|pool| Arc::ptr_eq(pool, &self.0))) {
            return Ok(f());
        }
        let permit = self.wait_for_permit()?;
        let _held = permit.hold();
        Ok(f())
    }

    /// Sets `f` aside until there is a permit; then it is a task like any other. Waiting holds no thread.
    #[track_caller]
    pub fn background<F, R>(&self, f: F) -> TaskHandle<R::Value>
    where
        F: FnOnce() -> R + Send + 'static,
        R: IntoOutcome,
        R::Value: Send + 'static,
    {
        let name = Task::new().naming::<F>(Location::caller());
        let permit = Arc::new(Mutex::new(None::<Permit>));
        let theirs = permit.clone();
        let call = once(move |_| {
            let permit = lock(&theirs).take();
            let _held = permit.as_ref().map(Permit::hold);
            f()
        });
        // With a permit in its hand it must not wait for a place: whoever has one may be waiting for the permit.
        let run = Run::new(Context::current(), name, call).admitted(Admission::AtOnce);
        let (handle, promise) = run.handle();
        self.when_free(Box::new(move |granted| {
            *lock(&permit) = Some(granted);
            run.start_with(promise);
        }));
        handle
    }

    /// The pool as a gate for the attempts of tasks.
    #[cfg(feature = "mail")]
    pub(crate) fn gate(&self) -> Gate {
        let pool = self.clone();
        Gate::new(move |admitted| pool.when_free(Box::new(move |permit| admitted(Box::new(permit)))))
    }

    /// Callers come before what was set aside: a visitor waits for them.
    fn wait_for_permit(&self) -> Result<Permit> {
        let mut state = self.0.state();
        if state.taken >= self.0.size {
            let _share = worker_share::wait(self.0.wait)?;
            state.callers_waiting += 1;
            state = wait_while(&self.0.freed, state, |state| state.taken >= self.0.size);
            state.callers_waiting -= 1;
        }
        state.taken += 1;
        drop(state);
        Ok(Permit(self.0.clone()))
    }

    fn when_free(&self, begin: Box<dyn FnOnce(Permit) + Send>) {
        let mut state = self.0.state();
        if state.taken >= self.0.size {
            return state.tasks_waiting.push_back(begin);
        }
        state.taken += 1;
        drop(state);
        begin(Permit(self.0.clone()));
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({} of {} taken)", self.0.state().taken, self.0.size)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The right to run. It goes to the next in line when dropped.
struct Permit(Arc<Shared>);

impl Permit {
    /// Notes on this thread that it has the permit, until the guard goes.
    fn hold(&self) -> Held {
        HELD.with_borrow_mut(|held| held.push(self.0.clone()));
        Held
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if state.callers_waiting == 0
            && let Some(begin) = state.tasks_waiting.pop_front()
        {
            drop(state);
            return begin(Permit(self.0.clone()));
        }
        state.taken -= 1;
        drop(state);
        self.0.freed.notify_one();
    }
}

struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        HELD.with_borrow_mut(Vec::pop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker_share::tests::one_of_two_workers_is_refused;

    /// A pool whose permits were taken for long used to hold all workers that asked for one.
    #[test]
    fn few_workers_wait_for_a_permit() {
        let pool = Pool::new(1);
        let permit = pool.wait_for_permit().unwrap();
        assert_eq!(one_of_two_workers_is_refused(|| pool.run(|| 7), || drop(permit)), 7);
    }
}
