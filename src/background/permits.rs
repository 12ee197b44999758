//! The permits of a pool, and the detection of waits that would never end.
//!
//! Work with a permit may wait for a task that needs a permit of the same pool. This is slow, but ends if other permits are
//! returned. If every permit is held by work that waits in this way, none is ever returned. A pool therefore records which
//! tasks need or hold a permit and which permit holders wait for a task, and refuses the wait that would complete the
//! deadlock.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::sync::{lock, wait_while};
use crate::worker_share::Share;

/// The permits of one pool.
pub(super) struct Permits {
    size: usize,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Default)]
struct State {
    taken: usize,
    callers_waiting: usize,
    tasks_waiting: VecDeque<Box<dyn FnOnce(Permit) + Send>>,
    /// The tasks that need or hold a permit, with their count.
    engaged: BTreeMap<Task, usize>,
    /// The tasks that permit holders wait for, with the number of waiting threads.
    joined: BTreeMap<Task, usize>,
}

/// The identity of a task, unique while its record exists.
pub(super) type Task = usize;

thread_local! {
    /// The pools that this thread has a permit of.
    static HELD: RefCell<Vec<Arc<Permits>>> = const { RefCell::new(Vec::new()) };
}

impl Permits {
    pub(super) fn new(size: usize) -> Arc<Permits> {
        Arc::new(Permits { size, state: Mutex::default(), freed: Condvar::new() })
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Returns true if this thread has a permit.
    pub(super) fn is_held(self: &Arc<Permits>) -> bool {
        HELD.with_borrow(|held| held.iter().any(|permits| Arc::ptr_eq(permits, self)))
    }

    /// Waits for a permit, for a task or for a caller. Callers come first, because a client waits for them.
    ///
    /// # Errors
    /// The errors of `may_wait`, which is called before a wait; an error if the wait would never end.
    pub(super) fn wait(
        self: &Arc<Permits>,
        task: Option<Task>,
        may_wait: impl FnOnce() -> Result<Option<Share>>,
    ) -> Result<(Permit, Option<Engaged>)> {
        let engaged = task.map(|task| self.engage(task));
        let mut state = self.state();
        if state.taken >= self.size {
            if state.is_stuck(self.size) {
                return Err(Error::internal(format!("the wait for a permit would never end: {}", self.why())));
            }
            let _share = may_wait()?;
            state.callers_waiting += 1;
            state = wait_while(&self.freed, state, |state| state.taken >= self.size);
            state.callers_waiting -= 1;
        }
        state.taken += 1;
        drop(state);
        Ok((Permit(self.clone()), engaged))
    }

    /// Calls `begin` with a permit, at once or when one is free.
    pub(super) fn when_free(self: &Arc<Permits>, begin: Box<dyn FnOnce(Permit) + Send>) {
        let mut state = self.state();
        if state.taken >= self.size {
            return state.tasks_waiting.push_back(begin);
        }
        state.taken += 1;
        drop(state);
        begin(Permit(self.clone()));
    }

    /// Records that a task needs or holds a permit, until the value is dropped. Drop it before the permit.
    pub(super) fn engage(self: &Arc<Permits>, task: Task) -> Engaged {
        *self.state().engaged.entry(task).or_default() += 1;
        Engaged { permits: self.clone(), task }
    }

    fn why(&self) -> String {
        let size = self.size;
        let each = if size == 1 { "the only permit" } else { &format!("each of the {size} permits") };
        format!("{each} of its pool is held by work that waits for a task of the same pool")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl fmt::Debug for Permits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} taken", self.state().taken, self.size)
    }
}

impl State {
    /// Returns true if every permit is held by a thread that waits for a task which itself needs or holds a permit.
    fn is_stuck(&self, size: usize) -> bool {
        let waiting = self.joined.iter().filter(|(task, _)| self.engaged.contains_key(task));
        waiting.map(|(_, threads)| threads).sum::<usize>() >= size
    }
}

/// A permit of a pool. When dropped it passes to the first waiting caller or task.
pub(super) struct Permit(Arc<Permits>);

impl Permit {
    /// Records that this thread has the permit, until the guard is dropped.
    pub(super) fn hold(&self) -> Held {
        HELD.with_borrow_mut(|held| held.push(self.0.clone()));
        Held
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if state.callers_waiting == 0
            && let Some(begin) = state.tasks_waiting.pop_front()
        {
            drop(state);
            return begin(Permit(self.0.clone()));
        }
        state.taken -= 1;
        drop(state);
        self.0.freed.notify_one();
    }
}

/// A record that this thread has a permit, until dropped.
pub(super) struct Held;

impl Drop for Held {
    fn drop(&mut self) {
        HELD.with_borrow_mut(Vec::pop);
    }
}

/// A record that a task needs or holds a permit, until dropped.
pub(super) struct Engaged {
    permits: Arc<Permits>,
    task: Task,
}

impl Drop for Engaged {
    fn drop(&mut self) {
        one_less(&mut self.permits.state().engaged, self.task);
    }
}

/// A record that a thread with permits waits for a task, until dropped.
pub(super) struct Joining {
    permits: Vec<Arc<Permits>>,
    task: Task,
}

impl Drop for Joining {
    fn drop(&mut self) {
        self.permits.iter().for_each(|permits| one_less(&mut permits.state().joined, self.task));
    }
}

/// Starts a wait for a task on this thread.
///
/// # Errors
/// An error with the reason if the wait would never end.
pub(super) fn join(task: Task) -> Result<Joining, String> {
    let mut joining = Joining { permits: Vec::new(), task };
    for permits in HELD.with_borrow(Clone::clone) {
        let mut state = permits.state();
        *state.joined.entry(task).or_default() += 1;
        let is_stuck = state.is_stuck(permits.size);
        drop(state);
        joining.permits.push(permits.clone());
        if is_stuck {
            return Err(permits.why());
        }
    }
    Ok(joining)
}

fn one_less(counts: &mut BTreeMap<Task, usize>, task: Task) {
    if let Some(count) = counts.get_mut(&task) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&task);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permit(permits: &Arc<Permits>) -> (Permit, Option<Engaged>) {
        permits.wait(None, || Ok(None)).unwrap()
    }

    #[test]
    fn a_wait_that_blocks_the_last_permit_is_refused() {
        let permits = Permits::new(2);
        let (first, second) = (permit(&permits), permit(&permits));
        let wanted = permits.engage(7);
        let _held = first.0.hold();
        let one = join(7).map_err(drop).expect("another permit may come back");
        let other = join(7);
        assert!(other.is_err_and(|why| why.contains("each of the 2 permits")));
        drop(one);
        assert!(join(7).is_ok(), "a refused wait does not count");
        drop((wanted, second));
    }

    #[test]
    fn a_task_that_needs_no_permit_can_be_joined() {
        let permits = Permits::new(1);
        let first = permit(&permits);
        let _held = first.0.hold();
        let waits = join(7).map_err(drop).expect("the task may end by itself");
        // When the task itself waits for a permit, that wait is refused.
        let refused = permits.wait(Some(7), || Ok(None)).map(drop).unwrap_err();
        assert!(refused.chain().contains("would never end"), "{refused:?}");
        drop(waits);
        drop(first);
        assert!(permits.wait(Some(7), || Ok(None)).is_ok());
    }

    #[test]
    fn a_task_that_has_returned_its_permit_can_be_joined() {
        let permits = Permits::new(1);
        let engaged = permits.engage(7);
        drop(engaged);
        let first = permit(&permits);
        let _held = first.0.hold();
        assert!(join(7).is_ok());
    }
}
