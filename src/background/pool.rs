//! Pools: a limit on the work that runs at once.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use super::failure::IntoOutcome;
use super::handle::TaskHandle;
use super::permits::{Engaged, Permit, Permits};
#[cfg(feature = "mail")]
use super::run::Gate;
use super::run::{Prepared, once};
use super::scope::{Context, current_task};
use super::slots::Admission;
use super::task::Task;
use crate::error::{OrHere, Result};
use crate::worker_share::{self, Wait};

/// A limit on work that runs at once, on any threads, as a semaphore: image work on two cores, calls to a service that
/// allows four.
///
/// ```
/// use aside::Pool;
///
/// let pool = Pool::new(2);
/// let mut words = vec!["one", "two"];
/// pool.run(|| words.push("three"))?; // at once, on this thread, with a permit
/// assert_eq!(words.len(), 3);
///
/// let handle = pool.spawn(|| "7".parse::<u32>()); // in the background, when there is a permit
/// assert_eq!(handle.join().unwrap(), 7);
/// # aside::ok(())
/// ```
///
/// A clone shares the permits.
#[derive(Clone)]
pub struct Pool {
    permits: Arc<Permits>,
    /// The resource that a worker waits for when it waits for a permit.
    wait: Wait,
}

impl Pool {
    /// Creates a pool of `n` permits.
    ///
    /// # Panics
    /// If `n` is 0: no work would ever run.
    pub fn new(n: usize) -> Pool {
        assert!(n > 0, "a pool needs at least one permit");
        Pool { permits: Permits::new(n), wait: Wait::Pool }
    }

    /// Creates a pool for permits of the framework itself.
    pub(crate) fn waited_for_as(self, wait: Wait) -> Pool {
        Pool { permits: Permits::new(self.permits.size()), wait }
    }

    /// Waits for a permit and runs `f` on this thread, so that it may borrow. Within the pool's own work it needs no
    /// second permit. A panic in `f` propagates to the caller, and the permit is returned.
    ///
    /// In a handler, at most a quarter of the workers wait for permits (`ASIDE_MAX_WAITING`), so that a slow pool leaves
    /// workers for other pages. In a task, a job or a command it waits without limit.
    ///
    /// # Errors
    /// 503 with `Retry-After`, in a handler, if too many workers wait already; `f` has not run then. 500 in a task that
    /// would wait forever: every permit is held by work that waits for a task of the pool, such as this one.
    #[track_caller]
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> Result<T> {
        if self.permits.is_held() {
            return Ok(f());
        }
        let (permit, _engaged) = self.wait_for_permit().or_here()?;
        let _held = permit.hold();
        Ok(f())
    }

    fn wait_for_permit(&self) -> Result<(Permit, Option<Engaged>)> {
        let task = current_task().map(|record| record.address());
        self.permits.wait(task, || worker_share::wait(self.wait))
    }

    /// Runs `f` as a background task once there is a permit. The wait for a permit holds no thread. The permits limit the task
    /// instead of `ASIDE_MAX_TASKS`, above which it runs too.
    ///
    /// Work of the pool may wait for the task with [`join`](TaskHandle::join) while other permits are in use. If every
    /// permit is held by work that waits in this way, `join` returns an error, and the task runs when a permit is free.
    #[track_caller]
    pub fn spawn<F, R>(&self, f: F) -> TaskHandle<R::Value>
    where
        F: FnOnce() -> R + Send + 'static,
        R: IntoOutcome,
        R::Value: Send + 'static,
    {
        let options = Task::new().options::<F>(Location::caller());
        let task = Prepared::new(Context::current(), options);
        let (handle, promise) = task.handle();
        let engaged = self.permits.engage(task.record().address());
        self.permits.when_free(Box::new(move |permit| {
            // The drop order matters: waits for this task must no longer be counted when its permit is returned.
            let granted = (engaged, permit);
            let call = once(move |_| {
                let (_engaged, permit) = &granted;
                let _held = permit.hold();
                f()
            });
            // With a permit it must not wait for a slot: a task with a slot may be waiting for the permit.
            task.with(call).admitted(Admission::AtOnce).start_with(promise);
        }));
        handle
    }

    /// Returns the pool as a gate for the attempts of tasks.
    #[cfg(feature = "mail")]
    pub(crate) fn gate(&self) -> Gate {
        let permits = self.permits.clone();
        Gate::new(move |admitted| permits.when_free(Box::new(move |permit| admitted(Box::new(permit)))))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pool({:?})", self.permits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker_share::tests::one_of_two_workers_is_refused;

    /// Regression: a pool whose permits were held for long occupied all workers that asked for one.
    #[test]
    fn few_workers_wait_for_a_permit() {
        let pool = Pool::new(1);
        let permit = pool.wait_for_permit().unwrap();
        assert_eq!(one_of_two_workers_is_refused(|| pool.run(|| 7), || drop(permit)), 7);
    }
}
