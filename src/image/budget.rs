//! The memory budget that all images of the process share.
//!
//! Decoding an image of 50 megapixels takes 150 MB, even for a small file, and twenty concurrent uploads took gigabytes.
//! Each image therefore takes a [`Share`] of the budget before it is decoded, and holds it until it is dropped. If the
//! budget is used up, callers wait in order.
//!
//! Two images must not wait for each other forever. A thread that already holds an image gets the next share at once,
//! beyond the budget if needed. If one thread holds an image and waits for another thread that decodes a second one, the
//! wait ends in an error once no share has been returned for [`PATIENCE`].

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sync::{lock, wait_while_for};
use crate::worker_share::{self, Wait, busy};

/// The longest wait of an image without any returned share.
const PATIENCE: Duration = Duration::from_secs(60);

/// The memory that images share, in bytes.
#[derive(Debug)]
pub(super) struct Budget {
    state: Mutex<State>,
    freed: Condvar,
    patience: Duration,
    kind: Kind,
}

/// The two budgets. A thread that waits for pixels may hold a file; a thread that holds pixels waits for neither.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The bytes of files that are being decoded.
    Files,
    /// The bytes of pixels.
    Pixels,
}

#[derive(Debug)]
struct State {
    taken: u64,
    /// The bytes of buffers that threads keep for their next image.
    kept: u64,
    /// The waiting requests, in order.
    line: VecDeque<u64>,
    next: u64,
    /// The number of returned shares so far.
    returns: u64,
}

impl State {
    /// Returns true if the bytes fit. An image larger than the whole budget is decoded alone; the limits refuse it where
    /// they apply.
    fn has(&self, bytes: u64, most: u64) -> bool {
        self.taken == 0 || self.taken.saturating_add(bytes) <= most
    }

    fn is_first(&self, ticket: u64) -> bool {
        self.line.front() == Some(&ticket)
    }
}

/// The budget of the process for pixels.
pub(super) static BUDGET: Budget = Budget::new(PATIENCE, Kind::Pixels);

/// The budget of the process for files that are being decoded.
pub(super) static FILES: Budget = Budget::new(PATIENCE, Kind::Files);

thread_local! {
    /// The number of pixel shares that this thread took and that are still held.
    static HELD: Arc<AtomicUsize> = Arc::default();
}

impl Budget {
    const fn new(patience: Duration, kind: Kind) -> Budget {
        let state = State { taken: 0, kept: 0, line: VecDeque::new(), next: 0, returns: 0 };
        Budget { state: Mutex::new(state), freed: Condvar::new(), patience, kind }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes a share of `bytes`, out of `most` for all, and waits for it.
    ///
    /// # Errors
    /// 503 with `Retry-After` if too many workers wait, or if no share was returned for a minute.
    pub(super) fn take(&'static self, bytes: u64, most: u64) -> Result<Share> {
        if HELD.with(|held| held.load(Ordering::Relaxed)) > 0 {
            return Ok(self.take_past(bytes));
        }
        let state = self.state();
        if state.line.is_empty() && state.has(bytes, most) {
            return Ok(self.given(state, bytes));
        }
        drop(state);
        let _worker = worker_share::wait(Wait::Image)?;
        self.wait(bytes, most)
    }

    fn wait(&'static self, bytes: u64, most: u64) -> Result<Share> {
        let mut state = self.state();
        let ticket = state.next;
        state.next += 1;
        state.line.push_back(ticket);
        loop {
            let returns = state.returns;
            let waits =
                |state: &mut State| state.returns == returns && !(state.is_first(ticket) && state.has(bytes, most));
            state = wait_while_for(&self.freed, state, self.patience, waits);
            let is_my_turn = state.is_first(ticket) && state.has(bytes, most);
            if is_my_turn || state.returns == returns {
                state.line.retain(|other| *other != ticket);
                self.freed.notify_all(); // the next in line may have its share too
                return if is_my_turn { Ok(self.given(state, bytes)) } else { Err(used_up()) };
            }
        }
    }

    /// Takes a share at once, even beyond the budget: for a thread that others may be waiting for.
    pub(super) fn take_past(&'static self, bytes: u64) -> Share {
        self.given(self.state(), bytes)
    }

    fn given(&'static self, mut state: MutexGuard<'_, State>, bytes: u64) -> Share {
        state.taken = state.taken.saturating_add(bytes);
        let held = if self.kind == Kind::Pixels { HELD.with(Arc::clone) } else { Arc::default() };
        held.fetch_add(1, Ordering::Relaxed);
        Share { budget: self, bytes, held }
    }

    /// Lets a thread keep a buffer of `bytes` for its next image, while all kept buffers are at most a quarter of `most`.
    pub(super) fn keep(&'static self, bytes: u64, most: u64) -> Option<Kept> {
        let mut state = self.state();
        let kept = state.kept.saturating_add(bytes);
        (kept <= most / 4).then(|| {
            state.kept = kept;
            Kept { budget: self, bytes }
        })
    }

    fn give_back(&self, bytes: u64) {
        let mut state = self.state();
        state.taken = state.taken.saturating_sub(bytes);
        state.returns += 1;
        drop(state);
        self.freed.notify_all();
    }
}

fn used_up() -> Error {
    busy("memory for images (ASIDE_MAX_IMAGE_MEMORY)".to_owned())
}

/// An image's share of the budget, until dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: &'static Budget,
    bytes: u64,
    /// The count of the thread that took the share, for pixels.
    held: Arc<AtomicUsize>,
}

impl Share {
    /// Returns all but `bytes` to the budget.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.budget.give_back(less);
    }
}

/// A copy of the image takes a share of the same size.
impl Clone for Share {
    fn clone(&self) -> Share {
        self.budget.take_past(self.bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.budget.give_back(self.bytes);
    }
}

/// The permission to keep a buffer, until dropped.
#[derive(Debug)]
pub(super) struct Kept {
    budget: &'static Budget,
    bytes: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.state().kept -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::error::Status;
    use crate::worker_share::tests::one_of_two_workers_is_refused;

    /// A timeout that a passing test never reaches.
    const LONG: Duration = Duration::from_secs(600);

    fn budget(patience: Duration) -> &'static Budget {
        Box::leak(Box::new(Budget::new(patience, Kind::Pixels)))
    }

    /// Waits until `length` requests are in line.
    fn wait_for_line(budget: &Budget, length: usize) {
        while budget.state().line.len() != length {
            thread::yield_now();
        }
    }

    #[test]
    fn no_more_than_the_budget_is_taken() {
        let budget = budget(LONG);
        let (took, takes) = channel();
        thread::scope(|scope| {
            for bytes in [30, 50, 100, 10, 60, 1, 40, 100, 99] {
                let took = took.clone();
                scope.spawn(move || {
                    let share = budget.take(bytes, 100).unwrap();
                    took.send(budget.state().taken).unwrap();
                    drop(share);
                });
            }
        });
        drop(took);
        let takes: Vec<u64> = takes.iter().collect();
        assert!(takes.len() == 9 && takes.iter().all(|taken| *taken <= 100), "{takes:?}");
        let state = budget.state();
        assert_eq!((state.taken, state.line.len()), (0, 0));
    }

    /// Small requests do not overtake a large one forever.
    #[test]
    fn shares_are_given_in_order() {
        let budget = budget(LONG);
        let first = budget.take(60, 100).unwrap();
        let (took, takes) = channel();
        thread::scope(|scope| {
            for (place, bytes) in [(1, 80), (2, 30)] {
                let took = took.clone();
                scope.spawn(move || {
                    let share = budget.take(bytes, 100).unwrap();
                    took.send(bytes).unwrap();
                    drop(share);
                });
                wait_for_line(budget, place);
            }
            assert!(takes.try_recv().is_err(), "the small one would fit, and waits behind the large one");
            drop(first);
        });
        assert_eq!(takes.iter().take(2).collect::<Vec<_>>(), [80, 30]);
    }

    #[test]
    fn an_image_larger_than_the_budget_is_decoded_alone() {
        let budget = budget(LONG);
        let first = budget.take(1, 100).unwrap();
        thread::scope(|scope| {
            let other = scope.spawn(|| drop(budget.take(200, 100).unwrap()));
            wait_for_line(budget, 1);
            drop(first);
            other.join().unwrap();
        });
        assert_eq!(budget.state().taken, 0);
    }

    /// Two threads that each hold an image and open a second one would wait for each other.
    #[test]
    fn a_thread_that_holds_an_image_does_not_wait_for_the_next() {
        let budget = budget(LONG);
        let first = budget.take(100, 100).unwrap();
        let second = budget.take(100, 100).unwrap();
        assert_eq!(budget.state().taken, 200);
        // Dropped on another thread, they no longer count for this one.
        thread::scope(|scope| scope.spawn(move || drop((first, second))).join().unwrap());
        assert_eq!((budget.state().taken, HELD.with(|held| held.load(Ordering::Relaxed))), (0, 0));
    }

    #[test]
    fn a_wait_without_a_returned_share_ends_in_an_error() {
        let budget = budget(Duration::from_millis(20));
        let held = budget.take(100, 100).unwrap();
        let refused = thread::scope(|scope| scope.spawn(|| budget.take(1, 100).map(drop)).join().unwrap()).unwrap_err();
        assert_eq!(refused.status_code(), Status::SERVICE_UNAVAILABLE);
        assert!(refused.chain().contains("ASIDE_MAX_IMAGE_MEMORY"), "{refused:?}");
        assert_eq!(budget.state().line.len(), 0);
        drop(held);
        thread::scope(|scope| scope.spawn(|| drop(budget.take(100, 100).unwrap())).join().unwrap());
    }

    #[test]
    fn workers_that_wait_are_bounded() {
        let budget = budget(LONG);
        let held = budget.take(100, 100).unwrap();
        drop(one_of_two_workers_is_refused(|| budget.take(1, 100), || drop(held)));
    }

    #[test]
    fn a_share_can_shrink_and_a_copy_counts() {
        let budget = budget(LONG);
        let mut share = budget.take(100, 100).unwrap();
        share.shrink(40);
        let copy = share.clone();
        assert_eq!(budget.state().taken, 80);
        drop((share, copy));
        assert_eq!(budget.state().taken, 0);
    }

    #[test]
    fn buffers_are_kept_up_to_a_quarter() {
        let budget = budget(LONG);
        let kept = [budget.keep(20, 100), budget.keep(6, 100), budget.keep(5, 100)];
        assert_eq!(kept.each_ref().map(Option::is_some), [true, false, true]);
        drop(kept);
        assert_eq!(budget.state().kept, 0);
    }
}
