//! The places that tasks run in, the queue for them, and the ceiling for the threads that wait in it.
//!
//! `background` gives the standard library's handle back, so its thread exists before there is a place: the thread waits, not
//! the handler that called. Only where there are as many of these threads as there may be does the caller wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use super::threads::Work;
use crate::sync::{lock, wait_while};

/// How a task gets to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// In a place, in its turn.
    InTurn,
    /// In a place, at once: a task that has one may wait for it.
    AtOnce,
    /// Beside the places: a job, of which its queue runs so many and no more.
    Beside,
}

impl Admission {
    /// The same for what must not wait for its turn.
    pub(crate) fn at_once(self) -> Admission {
        if self == Admission::InTurn { Admission::AtOnce } else { self }
    }
}

/// The places of one registry, under its lock.
#[derive(Default)]
pub(super) struct Places {
    taken: usize,
    queue: VecDeque<Entry>,
    threads: usize,
    callers: VecDeque<Arc<Turn>>,
}

/// What waits for a place.
pub(super) enum Entry {
    Work(Work),
    Thread(Arc<Turn>),
}

impl Places {
    /// Takes a place for the work, which comes back to be run; or queues it.
    pub(super) fn enter(&mut self, work: Work, admission: Admission, most: usize) -> Option<Work> {
        if self.is_admitted(admission, most) {
            return Some(work);
        }
        self.queue.push_back(Entry::Work(work));
        None
    }

    /// Takes a place for a thread; or queues the thread, which is to wait for its turn.
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

    /// Gives a place back, to the first in the queue. Work that comes out has it now; a thread is let through.
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

    /// Counts a thread that is about to be made; or queues the caller, who is to wait for its turn.
    pub(super) fn enter_caller(&mut self, admission: Admission, most: usize) -> Option<Arc<Turn>> {
        if admission != Admission::InTurn || (self.threads < most && self.callers.is_empty()) {
            self.threads += 1;
            return None;
        }
        let turn = Arc::new(Turn::default());
        self.callers.push_back(turn.clone());
        Some(turn)
    }

    /// Counts a thread out. The first of the callers may have one now.
    pub(super) fn leave_thread(&mut self, most: usize) {
        self.threads -= 1;
        if self.threads < most
            && let Some(turn) = self.callers.pop_front()
        {
            self.threads += 1;
            turn.set(Call::Come);
        }
    }

    /// How many tasks wait for a place.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    /// How many callers wait for a thread.
    pub(super) fn callers(&self) -> usize {
        self.callers.len()
    }

    /// Takes out what waits for a place, to be given up.
    pub(super) fn give_up(&mut self) -> VecDeque<Entry> {
        std::mem::take(&mut self.queue)
    }
}

impl Entry {
    /// Gives it up: its handle is told that it was abandoned.
    pub(super) fn abandon(self) {
        match self {
            Entry::Work(work) => drop(work),
            Entry::Thread(turn) => turn.set(Call::Never),
        }
    }
}

/// What a thread waits for in the queue.
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

    /// Waits until the turn comes, or never will. Returns true if it has come.
    pub(crate) fn wait(&self) -> bool {
        let wait = |call: &mut Call| *call == Call::Waiting;
        *wait_while(&self.changed, lock(&self.call), wait) == Call::Come
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_take_no_place_and_wait_for_none() {
        let mut places = Places::default();
        let work = || Work::new(|| None);
        assert!(places.enter(work(), Admission::InTurn, 1).is_some());
        assert!(places.enter(work(), Admission::InTurn, 1).is_none());
        assert!((0..10).all(|_| places.enter(work(), Admission::Beside, 1).is_some()));
        assert!(places.leave(Admission::Beside, 1).is_none(), "the place is still the task's");
        assert!(places.leave(Admission::InTurn, 1).is_some());
    }

    #[test]
    fn what_a_task_starts_has_a_place_at_once_and_others_wait_until_there_is_room_again() {
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
    fn callers_wait_at_the_ceiling_in_their_order() {
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
    fn what_is_given_up_is_told() {
        let mut places = Places::default();
        assert!(places.enter_thread(Admission::InTurn, 1).is_none());
        let turn = places.enter_thread(Admission::InTurn, 1).unwrap();
        places.give_up().into_iter().for_each(Entry::abandon);
        assert!(!turn.wait());
    }
}
