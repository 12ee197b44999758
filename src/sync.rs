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
