//! The memory budget for incomplete requests: a sum over all connections, with a limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The memory that waiting connections hold, in bytes.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    most: usize,
}

impl Budget {
    pub(super) fn new(most: usize) -> Arc<Budget> {
        Arc::new(Budget { held: AtomicUsize::new(0), most })
    }

    /// Returns the bytes to free above the limit, plus an eighth, so that not every arrival frees some.
    pub(super) fn excess(&self) -> Option<usize> {
        let held = self.held.load(Ordering::Relaxed);
        (held > self.most).then(|| held - (self.most - self.most / 8))
    }
}

/// A connection's share of the budget, returned when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(budget: &Arc<Budget>) -> Charge {
        Charge { budget: budget.clone(), bytes: 0 }
    }

    pub(super) fn set(&mut self, bytes: usize) {
        if bytes != self.bytes {
            self.budget.held.fetch_add(bytes, Ordering::Relaxed);
            self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
            self.bytes = bytes;
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_excess_and_an_eighth_of_it_are_freed() {
        let budget = Budget::new(800);
        let (mut first, mut second) = (Charge::new(&budget), Charge::new(&budget));
        first.set(500);
        second.set(300);
        assert_eq!(budget.excess(), None);
        first.set(600);
        assert_eq!(budget.excess(), Some(200));
        drop(first);
        assert_eq!(budget.excess(), None);
        drop(second);
        assert_eq!(budget.held.load(Ordering::Relaxed), 0);
    }
}
