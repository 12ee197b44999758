//! Whether anybody still reads what is written.
//!
//! A stream may have nothing to write for a long time, and would learn only from a write that its visitor has left. Who
//! holds the connection knows sooner, and says so here; who writes waits here, or has something done when it happens.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use crate::sync::{lock, wait_while_for};

/// A connection that can be asked whether its client is still there.
pub(crate) trait Connection: Send + Sync {
    fn is_there(&self) -> bool;
}

/// Told once nobody will read what is written any more: the visitor has left, or the server stops. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Disconnect(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    told: Condvar,
}

#[derive(Default)]
struct State {
    is_told: bool,
    last: u64,
    then: Vec<(u64, Action)>,
}

type Action = Box<dyn FnOnce() + Send>;

impl Disconnect {
    /// Says that nobody reads any more. A second time it says nothing new.
    pub(crate) fn tell(&self) {
        let mut state = lock(&self.0.state);
        state.is_told = true;
        let then = std::mem::take(&mut state.then);
        drop(state);
        self.0.told.notify_all();
        then.into_iter().for_each(|(_, action)| action());
    }

    pub(crate) fn is_told(&self) -> bool {
        lock(&self.0.state).is_told
    }

    /// Waits that long, or until it is told, and says which.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        wait_while_for(&self.0.told, lock(&self.0.state), time, |state| !state.is_told).is_told
    }

    /// Does something when it is told, on the thread that tells, so it must be quick; here and now when it is told already.
    /// What is given is dropped with the guard, unless it is just being done.
    ///
    /// To wake who waits on a condition variable, take its lock before notifying: else the waiter may look, be passed by,
    /// and only then begin to wait.
    #[must_use = "it is forgotten when the guard is dropped"]
    pub(crate) fn on_told(&self, action: impl FnOnce() + Send + 'static) -> OnTold {
        let mut state = lock(&self.0.state);
        state.last += 1;
        let guard = OnTold { of: Arc::downgrade(&self.0), id: state.last };
        if state.is_told {
            drop(state);
            action();
        } else {
            state.then.push((guard.id, Box::new(action)));
        }
        guard
    }
}

impl fmt::Debug for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disconnect({})", if self.is_told() { "told" } else { "not told" })
    }
}

/// What is to be done when a [`Disconnect`] is told, until dropped.
pub(crate) struct OnTold {
    of: Weak<Shared>,
    id: u64,
}

impl Drop for OnTold {
    fn drop(&mut self) {
        let Some(shared) = self.of.upgrade() else { return };
        let mut state = lock(&shared.state);
        let index = state.then.iter().position(|(id, _)| *id == self.id);
        let action = index.map(|index| state.then.swap_remove(index));
        // What it holds may have a drop of its own, so that comes after the lock is gone.
        drop(state);
        drop(action);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn who_waits_is_woken() {
        let disconnect = Disconnect::default();
        assert!(!disconnect.wait(Duration::ZERO) && !disconnect.is_told());
        let theirs = disconnect.clone();
        let waiting = thread::spawn(move || theirs.wait(LONG));
        disconnect.tell();
        assert!(waiting.join().unwrap());
        assert!(disconnect.is_told() && disconnect.wait(LONG), "it stays so");
    }

    #[test]
    fn what_is_to_be_done_is_done_once() {
        let disconnect = Disconnect::default();
        let (tell, told) = mpsc::channel();
        let later = tell.clone();
        let _first = disconnect.on_told(move || tell.send("told").unwrap());
        disconnect.tell();
        disconnect.tell();
        let _second = disconnect.on_told(move || later.send("told already").unwrap());
        assert_eq!(told.iter().collect::<Vec<_>>(), ["told", "told already"]);
    }

    #[test]
    fn what_a_guard_stood_for_is_let_go_with_it() {
        let disconnect = Disconnect::default();
        let held = Arc::new(());
        let [one, other] = [held.clone(), held.clone()];
        let first = disconnect.on_told(move || panic!("forgotten: {one:?}"));
        let second = disconnect.on_told(move || drop(other));
        drop(first);
        assert_eq!(Arc::strong_count(&held), 2);
        disconnect.tell();
        drop(second);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
