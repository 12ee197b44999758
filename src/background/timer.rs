//! One thread that does small things at their time: deadlines, and the waits between tries. It sleeps until the next.
//!
//! Nothing slow runs on it: what is due starts a thread of its own, or sets a flag.

use std::collections::BTreeMap;
use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use crate::panics;
use crate::sync::lock;

type Action = Box<dyn FnOnce() + Send>;

/// When something is due, and which of the things due then it is.
pub(crate) type Ticket = (Instant, u64);

#[derive(Default)]
struct Agenda {
    due: BTreeMap<Ticket, Action>,
    last: u64,
}

static AGENDA: Mutex<Agenda> = Mutex::new(Agenda { due: BTreeMap::new(), last: 0 });
static CHANGED: Condvar = Condvar::new();

/// Starts the thread, once. Called where an application or the process's own scope is made, so that the thread does not
/// inherit a task's low priority, which could not be raised again.
pub(crate) fn start() {
    static STARTED: LazyLock<()> = LazyLock::new(|| {
        let thread = thread::Builder::new().name("aside-timer".into());
        thread.spawn(keep_time).expect("at its start a process can have one more thread");
    });
    LazyLock::force(&STARTED);
}

/// Does something at that time. It must be quick.
pub(crate) fn at(time: Instant, action: impl FnOnce() + Send + 'static) -> Ticket {
    let mut agenda = lock(&AGENDA);
    agenda.last += 1;
    let ticket = (time, agenda.last);
    let is_next = agenda.due.first_key_value().is_none_or(|(next, _)| ticket < *next);
    agenda.due.insert(ticket, Box::new(action));
    if is_next {
        CHANGED.notify_one();
    }
    ticket
}

/// Takes it off the agenda, if it is still there.
pub(crate) fn cancel(ticket: Ticket) {
    // Dropped after the lock is gone: what it holds may have a drop of its own.
    let _action = lock(&AGENDA).due.remove(&ticket);
}

fn keep_time() {
    let mut agenda = lock(&AGENDA);
    loop {
        let now = Instant::now();
        agenda = match agenda.due.first_key_value().map(|(ticket, _)| ticket.0) {
            None => CHANGED.wait(agenda).unwrap_or_else(PoisonError::into_inner),
            Some(time) if time > now => {
                CHANGED.wait_timeout(agenda, time - now).unwrap_or_else(PoisonError::into_inner).0
            }
            Some(_) => {
                let action = agenda.due.pop_first().map(|(_, action)| action);
                drop(agenda);
                let _ = action.map(panics::catch);
                lock(&AGENDA)
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
    fn what_is_due_first_comes_first() {
        start();
        let (tell, told) = mpsc::channel();
        let now = Instant::now();
        let cancelled = at(now + Duration::from_millis(15), {
            let tell = tell.clone();
            move || tell.send(0).unwrap()
        });
        for wait in [30, 10, 20] {
            let tell = tell.clone();
            at(now + Duration::from_millis(wait), move || tell.send(wait).unwrap());
        }
        cancel(cancelled);
        assert_eq!([(); 3].map(|()| told.recv().unwrap()), [10, 20, 30]);
    }
}
