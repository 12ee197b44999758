//! Locks and waits that a panic elsewhere does not spoil.
//!
//! What stands behind a lock of ours is changed in one step or not at all, so a guard that a panic let go of protects
//! nothing half done, and the next one goes on with what is there. The standard library's poisoning would turn one panic
//! into many.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Takes a lock, whoever had it before.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits while that holds.
pub(crate) fn wait_while<'g, T>(
    condvar: &Condvar,
    guard: MutexGuard<'g, T>,
    holds: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'g, T> {
    condvar.wait_while(guard, holds).unwrap_or_else(PoisonError::into_inner)
}

/// The same, at most that long.
pub(crate) fn wait_while_for<'g, T>(
    condvar: &Condvar,
    guard: MutexGuard<'g, T>,
    time: Duration,
    holds: impl FnMut(&mut T) -> bool,
) -> MutexGuard<'g, T> {
    condvar.wait_timeout_while(guard, time, holds).unwrap_or_else(PoisonError::into_inner).0
}

/// What somebody waits at who wants to know when there is something to do.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Rung {
    /// How often it was.
    count: u64,
    /// How often the one had heard who waits alone.
    heard: u64,
}

impl Bell {
    /// Lets those who wait look, now or when they come next.
    pub(crate) fn ring(&self) {
        lock(&self.rung).count += 1;
        self.changed.notify_all();
    }

    /// Waits until it is rung, at most that long. Whether it was. For who waits alone.
    pub(crate) fn wait(&self, most: Duration) -> bool {
        let mut rung = wait_while_for(&self.changed, lock(&self.rung), most, |rung| rung.count == rung.heard);
        let was_rung = rung.count != rung.heard;
        rung.heard = rung.count;
        was_rung
    }

    /// The same for one of several, each of whom remembers what he has heard.
    pub(crate) fn wait_as(&self, heard: &mut u64, most: Duration) {
        *heard = wait_while_for(&self.changed, lock(&self.rung), most, |rung| rung.count == *heard).count;
    }
}
