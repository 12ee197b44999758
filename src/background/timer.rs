//! The timer: one thread that runs actions at their times, such as deadlines and the end of a backoff.
//!
//! Actions must be quick: they start a thread, or set a flag. Between actions the thread sleeps.

use std::collections::BTreeMap;
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use crate::panics;
use crate::sync::{lock, spawn};

type Action = Box<dyn FnOnce() + Send>;

/// The time of an action, and its number among all actions.
pub(crate) type Ticket = (Instant, u64);

#[derive(Default)]
struct Actions {
    due: BTreeMap<Ticket, Action>,
    last: u64,
}

static ACTIONS: Mutex<Actions> = Mutex::new(Actions { due: BTreeMap::new(), last: 0 });
static CHANGED: Condvar = Condvar::new();

/// Starts the thread, if it does not run yet. Called when an application or the scope of the process is created, so that the
/// thread does not inherit the low priority of a task, which could not be raised again.
pub(crate) fn start() {
    static STARTED: LazyLock<()> = LazyLock::new(|| {
        spawn("aside-timer", run).expect("at its start a process can have one more thread");
    });
    LazyLock::force(&STARTED);
}

/// Schedules an action for a time. The action must be quick.
pub(crate) fn at(time: Instant, action: impl FnOnce() + Send + 'static) -> Ticket {
    let mut actions = lock(&ACTIONS);
    actions.last += 1;
    let ticket = (time, actions.last);
    let is_next = actions.due.first_key_value().is_none_or(|(next, _)| ticket < *next);
    actions.due.insert(ticket, Box::new(action));
    if is_next {
        CHANGED.notify_one();
    }
    ticket
}

/// Cancels an action that has not run yet.
pub(crate) fn cancel(ticket: Ticket) {
    // Dropped after the lock is released: a value in the action may have a `Drop` that uses the timer.
    let _action = lock(&ACTIONS).due.remove(&ticket);
}

fn run() {
    let mut actions = lock(&ACTIONS);
    loop {
        let now = Instant::now();
        actions = match actions.due.first_key_value().map(|(ticket, _)| ticket.0) {
            None => CHANGED.wait(actions).unwrap_or_else(PoisonError::into_inner),
            Some(time) if time > now => {
                CHANGED.wait_timeout(actions, time - now).unwrap_or_else(PoisonError::into_inner).0
            }
            Some(_) => {
                let action = actions.due.pop_first().map(|(_, action)| action);
                drop(actions);
                let _ = action.map(panics::catch);
                lock(&ACTIONS)
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn actions_run_in_the_order_of_their_times() {
        start();
        let (sender, received) = mpsc::channel();
        let now = Instant::now();
        let cancelled = at(now + Duration::from_millis(15), {
            let sender = sender.clone();
            move || sender.send(0).unwrap()
        });
        for wait in [30, 10, 20] {
            let sender = sender.clone();
            at(now + Duration::from_millis(wait), move || sender.send(wait).unwrap());
        }
        cancel(cancelled);
        assert_eq!([(); 3].map(|()| received.recv().unwrap()), [10, 20, 30]);
    }
}
