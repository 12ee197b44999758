//! A lock with deadlock detection, for changes of a watched value.
//!
//! A thread that waits for a lock which it holds itself, or for a thread that waits for it in turn, would wait forever, and
//! the process could not shut down. Each lock records the thread that holds it, and each waiting thread records the lock that
//! it waits for. A thread whose wait would close a cycle gets an error. Only threads that have to wait pay for the check.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::sync::lock;

/// The number of a lock's holder while no thread holds the lock.
const NO_THREAD: u64 = 0;

thread_local! {
    /// The number of this thread, unique in the process.
    static ME: u64 = {
        static LAST: AtomicU64 = AtomicU64::new(NO_THREAD);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    };
}

/// The lock that each waiting thread waits for, by the number of the thread that holds it.
static WAITING: Mutex<BTreeMap<u64, Arc<AtomicU64>>> = Mutex::new(BTreeMap::new());

/// A lock with deadlock detection.
#[derive(Default)]
pub(super) struct Turn {
    mutex: Mutex<()>,
    holder: Arc<AtomicU64>,
}

/// A guard that holds the lock until it is dropped.
pub(super) struct Held<'t> {
    holder: &'t AtomicU64,
    _guard: MutexGuard<'t, ()>,
}

/// The reason why a thread cannot wait.
#[derive(Debug, PartialEq)]
pub(super) enum Deadlock {
    /// The thread holds the lock itself.
    Own,
    /// The holder waits for a lock that this thread holds, perhaps through other threads.
    Cycle,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deadlock::Own => {
                "this thread is changing this `Live` state already (`update` or `lock`), and a second change inside the \
                 first would wait for it forever: make both in one change, or end the first before the second"
            }
            Deadlock::Cycle => {
                "this thread is changing one `Live` state and asks for another, whose thread waits for the first: both \
                 would wait forever; change the states one after the other, or in the same order everywhere"
            }
        })
    }
}

impl Turn {
    /// Takes the lock, after waiting for the thread that holds it.
    ///
    /// # Errors
    /// An error if the wait would never end.
    pub(super) fn take(&self) -> Result<Held<'_>, Deadlock> {
        let guard = match self.mutex.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => self.wait()?,
        };
        self.holder.store(ME.with(|me| *me), Ordering::Release);
        Ok(Held { holder: &self.holder, _guard: guard })
    }

    fn wait(&self) -> Result<MutexGuard<'_, ()>, Deadlock> {
        let me = ME.with(|me| *me);
        if self.holder.load(Ordering::Acquire) == me {
            return Err(Deadlock::Own);
        }
        {
            // Under one lock: if two threads close a cycle at the same time, the second sees the first.
            let mut waiting = lock(&WAITING);
            if leads_to(me, &self.holder, &waiting) {
                return Err(Deadlock::Cycle);
            }
            waiting.insert(me, self.holder.clone());
        }
        let guard = self.mutex.lock().unwrap_or_else(PoisonError::into_inner);
        lock(&WAITING).remove(&me);
        Ok(guard)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.holder.store(NO_THREAD, Ordering::Release);
    }
}

/// Returns true if the holder of a lock waits, perhaps through others, for a lock that `me` holds.
fn leads_to(me: u64, lock: &AtomicU64, waiting: &BTreeMap<u64, Arc<AtomicU64>>) -> bool {
    let mut holder = lock.load(Ordering::Acquire);
    // At most one step per waiting thread: a thread that has just got its lock may still be listed, and lead to itself.
    for _ in 0..=waiting.len() {
        if holder == me {
            return true;
        }
        let Some(next) = waiting.get(&holder) else { return false };
        holder = next.load(Ordering::Acquire);
    }
    false
}
