//! The right to change a value: a lock that refuses to wait for its own thread.
//!
//! A thread that waits for a lock which it holds itself, or for a thread that waits for it in turn, would wait forever, and
//! the process could not shut down. Each lock knows the thread that holds it, and each waiting thread the lock that it waits
//! for; a thread that would close the circle is refused. Only threads that have to wait pay for the check.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::sync::lock;

/// The number of no thread.
const NOBODY: u64 = 0;

thread_local! {
    /// The number of this thread. No other thread of the process ever has it.
    static ME: u64 = {
        static LAST: AtomicU64 = AtomicU64::new(NOBODY);
        LAST.fetch_add(1, Ordering::Relaxed) + 1
    };
}

/// The lock that each waiting thread waits for, by the number of the thread that holds it.
static WAITING: Mutex<BTreeMap<u64, Arc<AtomicU64>>> = Mutex::new(BTreeMap::new());

/// The lock.
#[derive(Default)]
pub(super) struct Turn {
    mutex: Mutex<()>,
    holder: Arc<AtomicU64>,
}

/// The lock, held until this is dropped.
pub(super) struct Held<'t> {
    holder: &'t AtomicU64,
    _guard: MutexGuard<'t, ()>,
}

/// The reason why a thread cannot wait.
#[derive(Debug, PartialEq)]
pub(super) enum Deadlock {
    /// It holds the lock itself.
    Own,
    /// The holder waits for a lock that this thread holds, perhaps through other threads.
    Circle,
}

impl fmt::Display for Deadlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deadlock::Own => {
                "this thread is changing this `Live` state already (`update` or `lock`), and a second change inside the \
                 first would wait for it forever: make both in one change, or end the first before the second"
            }
            Deadlock::Circle => {
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
    /// If the wait would never end.
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
            // Under one lock, so that of two threads that close a circle at once the second sees the first.
            let mut waiting = lock(&WAITING);
            if leads_to(me, &self.holder, &waiting) {
                return Err(Deadlock::Circle);
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
        self.holder.store(NOBODY, Ordering::Release);
    }
}

/// Returns true if the holder of a lock waits, perhaps through others, for a lock that `me` holds.
fn leads_to(me: u64, lock: &AtomicU64, waiting: &BTreeMap<u64, Arc<AtomicU64>>) -> bool {
    let mut holder = lock.load(Ordering::Acquire);
    // No more steps than threads wait: one that has just been served may still be listed, and lead to itself.
    for _ in 0..=waiting.len() {
        if holder == me {
            return true;
        }
        let Some(next) = waiting.get(&holder) else { return false };
        holder = next.load(Ordering::Acquire);
    }
    false
}
