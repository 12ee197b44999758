//! The slots that tasks run in, the queue for them, and the limit on the threads of `background`.
//!
//! `background` returns the standard library's join handle, so its thread exists before it has a slot. The thread waits,
//! not the handler that called. The caller waits only if the limit on such threads is reached.
//!
//! A task that waits for another one lends it its slot, and gets it back when the other one leaves. A task and the one it
//! waits for therefore always have a slot between them, or the joined task runs beside the slots because the waiting one
//! does: no task waits for a slot that only its own end would release.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex};

use super::thread_pool::Work;
use crate::sync::{lock, wait_while};

/// The way a task is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// In a slot, after waiting in the queue.
    InTurn,
    /// In a slot, at once, even above the limit: a task that holds a slot may wait for this one.
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

/// The slots of one registry, under its lock. Tasks are identified by their numbers.
#[derive(Default)]
pub(super) struct Slots {
    taken: usize,
    queue: Queue,
    /// The tasks that have a slot.
    holders: HashMap<u64, Holding>,
    /// The tasks that another one waits for.
    joined: HashMap<u64, Joiner>,
    threads: usize,
    callers: VecDeque<Arc<Turn>>,
}

/// The way in which a task holds a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holding {
    Held,
    /// The task has lent the slot to the task that it waits for, or released it until that task leaves its own.
    Lent,
}

/// The right to run that a waiting task or thread lends to the task that it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joiner {
    /// The slot of the task with this number.
    Slot(u64),
    /// The right to run beside the slots.
    Beside,
}

/// The waiting entries, in order of arrival. A task that another one waits for is taken out of the middle.
#[derive(Default)]
struct Queue {
    entries: BTreeMap<u64, (u64, Entry)>,
    /// The key of each task's entry.
    keys: HashMap<u64, u64>,
    last: u64,
}

impl Queue {
    fn push(&mut self, id: u64, entry: Entry) {
        self.last += 1;
        self.entries.insert(self.last, (id, entry));
        self.keys.insert(id, self.last);
    }

    fn pop(&mut self) -> Option<(u64, Entry)> {
        let (_, (id, entry)) = self.entries.pop_first()?;
        self.keys.remove(&id);
        Some((id, entry))
    }

    fn remove(&mut self, id: u64) -> Option<Entry> {
        let key = self.keys.remove(&id)?;
        self.entries.remove(&key).map(|(_, entry)| entry)
    }
}

/// An entry of the queue.
pub(super) enum Entry {
    Work(Work),
    Thread(Arc<Turn>),
}

/// The answer to a caller of `background` that needs a thread.
pub(super) enum Thread {
    Reserved,
    /// The limit is reached: the caller waits for its turn.
    Wait(Arc<Turn>),
    /// The limit is reached, and the caller is a task, which must not wait: all threads may wait for it.
    None,
}

impl Slots {
    /// Takes a slot for the work and returns the work to be run, or queues it.
    pub(super) fn enter(&mut self, id: u64, work: Work, admission: Admission, most: usize) -> Option<Work> {
        if self.is_admitted(id, admission, most) {
            return Some(work);
        }
        self.queue.push(id, Entry::Work(work));
        None
    }

    /// Takes a slot for a thread, or queues the thread and returns its turn.
    pub(super) fn enter_thread(&mut self, id: u64, admission: Admission, most: usize) -> Option<Arc<Turn>> {
        if self.is_admitted(id, admission, most) {
            return None;
        }
        let turn = Arc::new(Turn::default());
        self.queue.push(id, Entry::Thread(turn.clone()));
        Some(turn)
    }

    fn is_admitted(&mut self, id: u64, admission: Admission, most: usize) -> bool {
        match (admission, self.joined.get(&id)) {
            (Admission::Beside, _) | (Admission::InTurn, Some(Joiner::Beside)) => return true,
            (_, Some(&Joiner::Slot(joiner))) if self.holders.get(&joiner) == Some(&Holding::Held) => {
                self.lend(joiner, id);
                return true;
            }
            _ => {}
        }
        let is_admitted = admission == Admission::AtOnce || (self.taken < most && self.queue.entries.is_empty());
        if is_admitted {
            self.take(id);
        }
        is_admitted
    }

    fn take(&mut self, id: u64) {
        self.taken += 1;
        self.holders.insert(id, Holding::Held);
    }

    fn lend(&mut self, joiner: u64, joined: u64) {
        self.holders.insert(joiner, Holding::Lent);
        self.holders.insert(joined, Holding::Held);
    }

    /// Releases the slot of a task, if it has one: to the task that waits for it, or to the first entry of the queue.
    /// Returned work holds the slot; a queued thread is woken.
    pub(super) fn leave(&mut self, id: u64, most: usize) -> Option<Work> {
        self.holders.remove(&id)?;
        if let Some(Joiner::Slot(joiner)) = self.joined.get(&id)
            && let Some(slot @ Holding::Lent) = self.holders.get_mut(joiner)
        {
            *slot = Holding::Held;
            return None;
        }
        self.release(most)
    }

    fn release(&mut self, most: usize) -> Option<Work> {
        self.taken -= 1;
        if self.taken >= most {
            return None;
        }
        let (id, entry) = self.queue.pop()?;
        self.take(id);
        entry.begin()
    }

    /// Records that a task is waited for, and lends it what the waiting one has: the slot of the task `joiner` if that holds
    /// one, else the right to run beside the slots. A joiner whose task has a slot already releases its own. Returns work
    /// that can run now.
    pub(super) fn join(&mut self, joined: u64, joiner: Option<u64>, most: usize) -> Option<Work> {
        let Some(joiner) = joiner.filter(|joiner| self.holders.get(joiner) == Some(&Holding::Held)) else {
            self.joined.insert(joined, Joiner::Beside);
            return self.queue.remove(joined)?.begin();
        };
        self.joined.insert(joined, Joiner::Slot(joiner));
        if let Some(entry) = self.queue.remove(joined) {
            self.lend(joiner, joined);
            return entry.begin();
        }
        // Before its first attempt and between two of them the joined task has no slot, and will need this one.
        if !self.holders.contains_key(&joined) {
            return None;
        }
        self.holders.insert(joiner, Holding::Lent);
        self.release(most)
    }

    /// Ends the wait for a task that has ended. Its joiner has a slot again.
    pub(super) fn end_join(&mut self, joined: u64) {
        let Some(Joiner::Slot(joiner)) = self.joined.remove(&joined) else { return };
        if self.holders.get(&joiner) != Some(&Holding::Lent) {
            return;
        }
        // The joined task is about to leave its slot, which has this new holder then.
        match self.holders.remove(&joined) {
            Some(_) => drop(self.holders.insert(joiner, Holding::Held)),
            None => self.take(joiner),
        }
    }

    /// Counts a thread that is about to start. At the limit a caller is queued, unless it is a task.
    pub(super) fn enter_caller(&mut self, is_task: bool, most: usize) -> Thread {
        // A task comes before queued callers: they may wait for a slot that it holds.
        if self.threads < most && (is_task || self.callers.is_empty()) {
            self.threads += 1;
            return Thread::Reserved;
        }
        if is_task {
            return Thread::None;
        }
        let turn = Arc::new(Turn::default());
        self.callers.push_back(turn.clone());
        Thread::Wait(turn)
    }

    /// Counts a thread out, and lets the first queued caller start one.
    pub(super) fn leave_thread(&mut self, most: usize) {
        self.threads -= 1;
        if self.threads < most
            && let Some(turn) = self.callers.pop_front()
        {
            self.threads += 1;
            turn.set(Call::Ready);
        }
    }

    /// Returns the number of tasks that wait for a slot.
    pub(super) fn queued(&self) -> usize {
        self.queue.entries.len()
    }

    /// Returns the number of callers that wait for a thread.
    pub(super) fn callers(&self) -> usize {
        self.callers.len()
    }

    /// Removes and returns the queued entries, to be abandoned.
    pub(super) fn abandon_queue(&mut self) -> impl Iterator<Item = Entry> + use<> {
        std::mem::take(&mut self.queue).entries.into_values().map(|(_, entry)| entry)
    }
}

impl Entry {
    /// Starts the entry in its slot: returns its work, or wakes its thread.
    fn begin(self) -> Option<Work> {
        match self {
            Entry::Work(work) => Some(work),
            Entry::Thread(turn) => {
                turn.set(Call::Ready);
                None
            }
        }
    }

    /// Abandons the entry: its handle reports it as abandoned.
    pub(super) fn abandon(self) {
        match self {
            Entry::Work(work) => drop(work),
            Entry::Thread(turn) => turn.set(Call::Abandoned),
        }
    }
}

/// The turn of a queued thread.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    call: Mutex<Call>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Call {
    #[default]
    Waiting,
    Ready,
    Abandoned,
}

impl Turn {
    fn set(&self, call: Call) {
        *lock(&self.call) = call;
        self.changed.notify_one();
    }

    /// Waits until the turn comes or is cancelled. Returns true if it has come.
    pub(crate) fn wait(&self) -> bool {
        let wait = |call: &mut Call| *call == Call::Waiting;
        *wait_while(&self.changed, lock(&self.call), wait) == Call::Ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work() -> Work {
        Work::new(|| None)
    }

    impl Slots {
        /// Enters work in turn. Returns true if it runs.
        fn runs(&mut self, id: u64, most: usize) -> bool {
            self.enter(id, work(), Admission::InTurn, most).is_some()
        }
    }

    #[test]
    fn jobs_take_no_slot_and_do_not_wait_for_one() {
        let mut slots = Slots::default();
        assert!(slots.runs(1, 1) && !slots.runs(2, 1));
        assert!((3..13).all(|id| slots.enter(id, work(), Admission::Beside, 1).is_some()));
        assert!(slots.leave(3, 1).is_none(), "the slot is still the task's");
        assert!(slots.leave(1, 1).is_some());
    }

    #[test]
    fn a_thread_started_by_a_task_gets_a_slot_at_once_and_others_wait() {
        let mut slots = Slots::default();
        assert!(slots.enter_thread(1, Admission::InTurn, 1).is_none());
        assert!(slots.enter_thread(2, Admission::AtOnce, 1).is_none());
        let turn = slots.enter_thread(3, Admission::InTurn, 1).unwrap();
        assert!(slots.leave(2, 1).is_none());
        assert_eq!((slots.queued(), *lock(&turn.call)), (1, Call::Waiting));
        assert!(slots.leave(1, 1).is_none());
        assert!(turn.wait() && slots.queued() == 0);
    }

    #[test]
    fn a_task_lends_its_slot_to_the_queued_task_that_it_waits_for() {
        let mut slots = Slots::default();
        assert!(slots.runs(1, 1) && !slots.runs(2, 1) && !slots.runs(3, 1));
        assert!(slots.join(3, Some(1), 1).is_some(), "ahead of the queue");
        assert!(slots.leave(3, 1).is_none(), "the slot goes back");
        slots.end_join(3);
        assert_eq!((slots.taken, slots.queued()), (1, 1));
        assert!(slots.leave(1, 1).is_some());
    }

    #[test]
    fn a_task_that_waits_for_a_running_task_releases_its_slot_and_gets_the_other_one() {
        let mut slots = Slots::default();
        assert!(slots.runs(1, 2) && slots.runs(2, 2) && !slots.runs(3, 2) && !slots.runs(4, 2));
        assert!(slots.join(2, Some(1), 2).is_some(), "3 runs in the slot of 1");
        // The value of 2 is there before 2 leaves.
        slots.end_join(2);
        assert!(slots.leave(2, 2).is_none());
        assert_eq!((slots.taken, slots.queued()), (2, 1));
        assert!(slots.leave(1, 2).is_some() && slots.leave(3, 2).is_none() && slots.leave(4, 2).is_none());
        assert_eq!((slots.taken, slots.holders.len(), slots.joined.len()), (0, 0, 0));
    }

    #[test]
    fn a_task_keeps_its_slot_for_the_next_attempt_of_the_task_that_it_waits_for() {
        let mut slots = Slots::default();
        assert!(slots.runs(1, 1) && !slots.runs(2, 1));
        assert!(slots.join(2, Some(1), 1).is_some());
        assert!(slots.leave(2, 1).is_none() && !slots.runs(3, 1), "between two attempts the slot is kept");
        assert!(slots.runs(2, 1), "the second attempt does not queue");
        assert!(slots.leave(2, 1).is_none());
        slots.end_join(2);
        assert!(slots.leave(1, 1).is_some());
    }

    #[test]
    fn a_slot_is_lent_along_a_chain_of_waits() {
        let mut slots = Slots::default();
        assert!(slots.runs(1, 1) && !slots.runs(2, 1));
        assert!(slots.join(2, Some(1), 1).is_some());
        assert!(!slots.runs(3, 1) && slots.join(3, Some(2), 1).is_some());
        for id in [3, 2] {
            assert!(slots.leave(id, 1).is_none());
            slots.end_join(id);
        }
        assert_eq!(slots.holders, HashMap::from([(1, Holding::Held)]));
    }

    #[test]
    fn a_job_lends_the_right_to_run_beside_the_slots() {
        let mut slots = Slots::default();
        assert!(slots.runs(1, 1) && !slots.runs(2, 1));
        assert!(slots.join(2, None, 1).is_some());
        assert!(slots.leave(2, 1).is_none() && slots.runs(2, 1), "also for another attempt");
        slots.end_join(2);
        assert_eq!(slots.taken, 1);
    }

    #[test]
    fn callers_wait_in_order_at_the_thread_limit_and_a_task_does_not() {
        let mut slots = Slots::default();
        assert!((0..2).all(|_| matches!(slots.enter_caller(false, 2), Thread::Reserved)));
        let [first, second] = [(); 2].map(|()| match slots.enter_caller(false, 2) {
            Thread::Wait(turn) => turn,
            _ => panic!("the caller did not wait"),
        });
        assert!(matches!(slots.enter_caller(true, 2), Thread::None));
        slots.leave_thread(2);
        assert!(first.wait() && *lock(&second.call) == Call::Waiting);
        slots.leave_thread(2);
        assert!(second.wait() && slots.callers() == 0);
    }

    #[test]
    fn abandoned_queue_entries_are_notified() {
        let mut slots = Slots::default();
        assert!(slots.enter_thread(1, Admission::InTurn, 1).is_none());
        let turn = slots.enter_thread(2, Admission::InTurn, 1).unwrap();
        slots.abandon_queue().for_each(Entry::abandon);
        assert!(!turn.wait());
    }
}
