//! The signal that a client has disconnected.
//!
//! A stream may have nothing to write for a long time, and would notice only at the next write that its client has
//! gone. The transport that holds the connection knows sooner and sends this signal; the writer waits for it, or
//! registers a callback.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, Weak};
use std::time::Duration;

use crate::sync::{lock, wait_while_for};

/// A connection that can be asked if its client is still connected.
pub(crate) trait Connection: Send + Sync {
    fn is_there(&self) -> bool;
}

/// A signal for the writer of a stream: the client has disconnected, or the server stops. Clones share the signal.
#[derive(Clone, Default)]
pub(crate) struct Disconnect(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    signaled: Condvar,
}

#[derive(Default)]
struct State {
    is_signaled: bool,
    last: u64,
    callbacks: Vec<(u64, Action)>,
}

type Action = Box<dyn FnOnce() + Send>;

impl Disconnect {
    /// Sends the signal. A second call has no effect.
    pub(crate) fn signal(&self) {
        let mut state = lock(&self.0.state);
        state.is_signaled = true;
        let callbacks = std::mem::take(&mut state.callbacks);
        drop(state);
        self.0.signaled.notify_all();
        callbacks.into_iter().for_each(|(_, action)| action());
    }

    pub(crate) fn is_signaled(&self) -> bool {
        lock(&self.0.state).is_signaled
    }

    /// Waits for the signal, at most for `time`. Returns true if it was sent.
    pub(crate) fn wait(&self, time: Duration) -> bool {
        wait_while_for(&self.0.signaled, lock(&self.0.state), time, |state| !state.is_signaled).is_signaled
    }

    /// Registers a callback. It runs on the thread that sends the signal, so it must be quick; it runs at once if the
    /// signal was sent already. Dropping the guard unregisters it, unless it is running.
    ///
    /// A callback that wakes a waiter on a condition variable must take the lock before it notifies: else the waiter
    /// may check the state, miss the notification, and only then begin to wait.
    #[must_use = "the callback is removed when the guard is dropped"]
    pub(crate) fn on_signal(&self, action: impl FnOnce() + Send + 'static) -> OnSignal {
        let mut state = lock(&self.0.state);
        state.last += 1;
        let guard = OnSignal { of: Arc::downgrade(&self.0), id: state.last };
        if state.is_signaled {
            drop(state);
            action();
        } else {
            state.callbacks.push((guard.id, Box::new(action)));
        }
        guard
    }
}

impl fmt::Debug for Disconnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disconnect({})", if self.is_signaled() { "sent" } else { "not sent" })
    }
}

/// The registration of a callback, until dropped.
pub(crate) struct OnSignal {
    of: Weak<Shared>,
    id: u64,
}

impl Drop for OnSignal {
    fn drop(&mut self) {
        let Some(shared) = self.of.upgrade() else { return };
        let mut state = lock(&shared.state);
        let index = state.callbacks.iter().position(|(id, _)| *id == self.id);
        let action = index.map(|index| state.callbacks.swap_remove(index));
        // The action may drop values with their own destructors, so it is dropped after the lock is released.
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
    fn a_waiting_thread_is_woken() {
        let disconnect = Disconnect::default();
        assert!(!disconnect.wait(Duration::ZERO) && !disconnect.is_signaled());
        let clone = disconnect.clone();
        let waiting = thread::spawn(move || clone.wait(LONG));
        disconnect.signal();
        assert!(waiting.join().unwrap());
        assert!(disconnect.is_signaled() && disconnect.wait(LONG), "the signal is permanent");
    }

    #[test]
    fn a_callback_runs_once() {
        let disconnect = Disconnect::default();
        let (tell, told) = mpsc::channel();
        let later = tell.clone();
        let _first = disconnect.on_signal(move || tell.send("told").unwrap());
        disconnect.signal();
        disconnect.signal();
        let _second = disconnect.on_signal(move || later.send("told already").unwrap());
        assert_eq!(told.iter().collect::<Vec<_>>(), ["told", "told already"]);
    }

    #[test]
    fn dropping_the_guard_drops_the_callback() {
        let disconnect = Disconnect::default();
        let held = Arc::new(());
        let [one, other] = [held.clone(), held.clone()];
        let first = disconnect.on_signal(move || panic!("forgotten: {one:?}"));
        let second = disconnect.on_signal(move || drop(other));
        drop(first);
        assert_eq!(Arc::strong_count(&held), 2);
        disconnect.signal();
        drop(second);
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
