//! Locks, waits and notifications. A panic elsewhere does not spoil them.
//!
//! Every change to a value behind a lock of this crate is made in one step or not at all. A guard that a panic dropped
//! therefore protects a valid value, and the next thread continues with it. The poisoning of the standard library would
//! turn one panic into many.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Takes a lock, even if another thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits while `holds` returns true.
pub(crate) fn wait_while<'g, T>(
    condvar: &Condvar,
    guard: MutexGuard<'g, T>,
    holds: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'g, T> {
    condvar.wait_while(guard, holds).unwrap_or_else(PoisonError::into_inner)
}

/// Waits while `holds` returns true, at most for `time`.
pub(crate) fn wait_while_for<'g, T>(
    condvar: &Condvar,
    guard: MutexGuard<'g, T>,
    time: Duration,
    holds: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'g, T> {
    condvar.wait_timeout_while(guard, time, holds).unwrap_or_else(PoisonError::into_inner).0
}

/// Starts a thread of the framework. The closure is boxed, so that the standard library's code for it is compiled once.
///
/// # Errors
/// If the operating system refuses the thread.
pub(crate) fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    fn start(name: &str, f: Box<dyn FnOnce() + Send>) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(name.to_owned()).spawn(f)
    }
    start(name, Box::new(f))
}

/// A counter of notifications that threads wait for. A notification before the wait is not lost.
#[derive(Debug, Default)]
pub(crate) struct Notify {
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Counts {
    /// The number of notifications.
    sent: u64,
    /// The number of notifications before the last return of [`Notify::wait`].
    seen: u64,
}

impl Notify {
    /// Wakes the waiting threads. A thread that waits later returns at once.
    pub(crate) fn notify(&self) {
        lock(&self.counts).sent += 1;
        self.changed.notify_all();
    }

    /// Waits for a notification since the last call, at most for `most`. Returns true if there was one. Only one thread may
    /// use this method.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        let mut counts = wait_while_for(&self.changed, lock(&self.counts), most, |counts| counts.sent == counts.seen);
        let is_notified = counts.sent != counts.seen;
        counts.seen = counts.sent;
        is_notified
    }

    /// Waits for a notification after the first `seen`, at most for `most`, and updates `seen`. Several threads may wait, each
    /// with a count of its own.
    pub(crate) fn wait_as(&self, seen: &mut u64, most: Duration) {
        *seen = wait_while_for(&self.changed, lock(&self.counts), most, |counts| counts.sent == *seen).sent;
    }
}
