//! The threads that hash passwords: half as many as the machine has cores, and at least one.
//!
//! Hashing is bound by the CPU. A dedicated pool keeps half of the cores free for other work during a flood of logins.
//! It also limits the memory: each running hash takes 19 MiB, which [`argon2id`](super::argon2id) returns to the
//! operating system when the hash is done.

use std::panic::resume_unwind;
use std::sync::{LazyLock, Mutex};
use std::thread;

use crate::background::pool::Pool;
use crate::channel::{Sender, channel};
use crate::error::{Error, Result};
use crate::sync::{lock, spawn};
use crate::worker_share::Wait;

type Work = Box<dyn FnOnce() + Send>;

/// The idle threads. There are at most as many threads as permits of [`pool`].
static IDLE: Mutex<Vec<Sender<Work>>> = Mutex::new(Vec::new());

/// Returns the pool, one for the process, since all applications share the machine's cores.
pub(crate) fn pool() -> &'static Pool {
    static POOL: LazyLock<Pool> = LazyLock::new(|| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Pool::new((cores / 2).max(1)).waited_for_as(Wait::Hashing)
    });
    &POOL
}

/// Runs `f` on one of the threads, once one is free.
///
/// # Errors
/// 503 if too many workers wait already; 500 if the operating system refuses the thread.
pub(crate) fn run<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    pool().run(|| on_pooled_thread(f))?
}

fn on_pooled_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let idle = lock(&IDLE).pop();
    let thread = idle.map_or_else(start, Ok)?;
    let (tell, told) = channel();
    let work = move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        let _ = tell.send(result);
    };
    let lost = || Error::internal("a password hashing thread has ended");
    thread.send(Box::new(work)).map_err(|_| lost())?;
    let result = told.recv().map_err(|_| lost())?;
    // The thread becomes idle before the permit is returned, so that the next caller reuses it.
    lock(&IDLE).push(thread);
    result.or_else(|panic| resume_unwind(panic))
}

fn start() -> Result<Sender<Work>> {
    let (tell, told) = channel::<Work>();
    let life = move || told.for_each(|work| work());
    let started = spawn("aside-password", life);
    started.map_err(|error| Error::from(error).context("could not start a thread to hash a password"))?;
    Ok(tell)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::worker_share::tests::one_of_two_workers_is_refused;

    /// Regression: callers hashed on their own threads, and each thread kept the memory.
    #[test]
    fn many_callers_hash_passwords_on_a_few_threads() {
        let most = thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1));
        let barrier = Barrier::new(32);
        let threads = thread::scope(|scope| {
            let callers = (0..32).map(|_| {
                scope.spawn(|| {
                    barrier.wait();
                    run(|| thread::current().id()).unwrap()
                })
            });
            callers.collect::<Vec<_>>().into_iter().map(|caller| caller.join().unwrap()).collect::<HashSet<_>>()
        });
        assert!((1..=most).contains(&threads.len()), "{threads:?}");
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_thread_survives() {
        let panicked = thread::spawn(|| run(|| panic!("a mistake"))).join().unwrap_err();
        assert_eq!(panicked.downcast_ref(), Some(&"a mistake"));
        assert_eq!(run(|| 7).unwrap(), 7);
    }

    /// Regression: all workers waited for a hash when many clients logged in at once.
    #[test]
    fn few_workers_wait_for_a_hash() {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (start, started) = channel();
        let releases: Vec<_> = (0..(cores / 2).max(1))
            .map(|_| {
                let ((release, released), start) = (channel::<()>(), start.clone());
                thread::spawn(move || {
                    run(move || {
                        start.send(()).unwrap();
                        let _ = released.recv();
                    })
                });
                started.recv().unwrap();
                release
            })
            .collect();
        let hashed = one_of_two_workers_is_refused(|| run(|| 7), || drop(releases));
        assert_eq!(hashed, 7);
    }
}
