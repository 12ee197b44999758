//! The slots that tasks run in, the queue for them, and the limit on threads that wait in it.
//!
//! `background` returns the standard library's join handle, so its thread exists before it has a slot. The thread waits,
//! not the handler that called. The caller waits only if the limit on such threads is reached.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use super::threads::Work;
use crate::sync::{lock, wait_while};

/// The way a task is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// In a slot, after waiting in the queue.
    InTurn,
    /// In a slot, at once: a task that holds a slot may wait for this one.
    AtOnce,
    /// Without a slot: a job. Its queue limits the number of running jobs.
    Beside,
}

impl Admission {
    /// Returns the admission for work that must not wait in the queue.
    pub(crate) fn at_once(self) -> Admission {
        if self == Admission::InTurn { Admission::AtOnce } else { self }
    }
}

/// The slots of one registry, under its lock.
#[derive(Default)]
pub(super) struct Places {
    taken: usize,
    queue: VecDeque<Entry>,
    threads: usize,
    callers: VecDeque<Arc<Turn>>,
}

/// An entry of the queue.
pub(super) enum Entry {
    Work(Work),
    Thread(Arc<Turn>),
}

impl Places {
    /// Takes a slot for the work and returns the work to be run, or queues it.
    pub(super) fn enter(&mut self, work: Work, admission: Admission, most: usize) -> Option<Work> {
        if self.is_admitted(admission, most) {
            return Some(work);
        }
        self.queue.push_back(Entry::Work(work));
        None
    }

    /// Takes a slot for a thread, or queues the thread and returns its turn.
    pub(super) fn enter_thread(&mut self, admission: Admission, most: usize) -> Option<Arc<Turn>> {
        if self.is_admitted(admission, most) {
            return None;
        }
        let turn = Arc::new(Turn::default());
        self.queue.push_back(Entry::Thread(turn.clone()));
        Some(turn)
    }

    fn is_admitted(&mut self, admission: Admission, most: usize) -> bool {
        let is_admitted = match admission {
            Admission::Beside => return true,
            Admission::AtOnce => true,
            Admission::InTurn => self.taken < most && self.queue.is_empty(),
        };
        self.taken += usize::from(is_admitted);
        is_admitted
    }

    /// Releases a slot to the first entry of the queue. Returned work holds the slot; a queued thread is woken.
    pub(super) fn leave(&mut self, admission: Admission, most: usize) -> Option<Work> {
        if admission == Admission::Beside {
            return None;
        }
        self.taken -= 1;
        if self.taken >= most {
            return None;
        }
        let entry = self.queue.pop_front()?;
        self.taken += 1;
        match entry {
            Entry::Work(work) => Some(work),
            Entry::Thread(turn) => {
                turn.set(Call::Come);
                None
            }
        }
    }

    /// Counts a thread that is about to start, or queues the caller.
    pub(super) fn enter_caller(&mut self, admission: Admission, most: usize) -> Option<Arc<Turn>> {
        if admission != Admission::InTurn || (self.threads < most && self.callers.is_empty()) {
            self.threads += 1;
            return None;
        }
        let turn = Arc::new(Turn::default());
        self.callers.push_back(turn.clone());
        Some(turn)
    }

    /// Counts a thread out, and lets the first queued caller start one.
    pub(super) fn leave_thread(&mut self, most: usize) {
        self.threads -= 1;
        if self.threads < most
            && let Some(turn) = self.callers.pop_front()
        {
            self.threads += 1;
            turn.set(Call::Come);
        }
    }

    /// Returns the number of tasks that wait for a slot.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Returns the number of callers that wait for a thread.
    pub(super) fn callers(&self) -> usize {
        self.callers.len()
    }

    /// Removes and returns the queue, to abandon its entries.
    pub(super) fn give_up(&mut self) -> VecDeque<Entry> {
        std::mem::take(&mut self.queue)
    }
}

impl Entry {
    /// Abandons the entry: its handle reports it as abandoned.
    pub(super) fn abandon(self) {
        match self {
            Entry::Work(work) => drop(work),
            Entry::Thread(turn) => turn.set(Call::Never),
        }
    }
}

/// A queued thread's wait for its turn.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    call: Mutex<Call>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Call {
    #[default]
    Waiting,
    Come,
    Never,
}

impl Turn {
    fn set(&self, call: Call) {
        *lock(&self.call) = call;
        self.changed.notify_one();
    }

    /// Waits until the turn comes or is cancelled. Returns true if it has come.
    pub(crate) fn wait(&self) -> bool {
        let wait = |call: &mut Call| *call == Call::Waiting;
        *wait_while(&self.changed, lock(&self.call), wait) == Call::Come
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_take_no_slot_and_do_not_wait_for_one() {
        let mut places = Places::default();
        let work = || Work::new(|| None);
        assert!(places.enter(work(), Admission::InTurn, 1).is_some());
        assert!(places.enter(work(), Admission::InTurn, 1).is_none());
        assert!((0..10).all(|_| places.enter(work(), Admission::Beside, 1).is_some()));
        assert!(places.leave(Admission::Beside, 1).is_none(), "the place is still the task's");
        assert!(places.leave(Admission::InTurn, 1).is_some());
    }

    #[test]
    fn a_task_started_by_a_task_gets_a_slot_at_once_and_others_wait() {
        let mut places = Places::default();
        assert!(places.enter_thread(Admission::InTurn, 1).is_none());
        assert!(places.enter_thread(Admission::AtOnce, 1).is_none());
        let turn = places.enter_thread(Admission::InTurn, 1).unwrap();
        assert!(places.leave(Admission::AtOnce, 1).is_none());
        assert_eq!((places.queued(), *lock(&turn.call)), (1, Call::Waiting));
        assert!(places.leave(Admission::InTurn, 1).is_none());
        assert!(turn.wait() && places.queued() == 0);
    }

    #[test]
    fn callers_wait_in_order_at_the_thread_limit() {
        let mut places = Places::default();
        assert!((0..2).all(|_| places.enter_caller(Admission::InTurn, 2).is_none()));
        let [first, second] = [(); 2].map(|()| places.enter_caller(Admission::InTurn, 2).unwrap());
        assert!(places.enter_caller(Admission::AtOnce, 2).is_none(), "a task waits for no thread");
        places.leave_thread(2);
        assert_eq!(places.callers(), 2, "that was the one too many");
        places.leave_thread(2);
        assert!(first.wait() && *lock(&second.call) == Call::Waiting);
        places.leave_thread(2);
        assert!(second.wait() && places.callers() == 0);
    }

    #[test]
    fn abandoned_queue_entries_are_notified() {
        let mut places = Places::default();
        assert!(places.enter_thread(Admission::InTurn, 1).is_none());
        let turn = places.enter_thread(Admission::InTurn, 1).unwrap();
        places.give_up().into_iter().for_each(Entry::abandon);
        assert!(!turn.wait());
    }
}
