//! The routes whose handlers run on the workers of one server, for the warning that handlers hold every worker.
//!
//! Each worker has a cell of its own, which a request writes twice and which is read only while all workers are busy. No
//! request takes a lock for it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::sync::lock;

/// The number of a route in the order of the application's routes.
pub(crate) type RouteNumber = usize;

/// The number that stands for every path without a route.
pub(crate) const NO_ROUTE: RouteNumber = usize::MAX - 1;

/// The content of a cell while its worker runs no handler.
const NO_HANDLER: usize = usize::MAX;

/// A worker's cell, alone in its cache line.
#[derive(Debug)]
#[repr(align(64))]
struct Cell(AtomicUsize);

thread_local! {
    /// The cell of the worker that this thread is.
    static CELL: RefCell<Option<Arc<Cell>>> = const { RefCell::new(None) };
}

/// The cells of one server's workers.
#[derive(Debug, Default)]
pub(crate) struct WorkerRoutes(Mutex<Vec<Arc<Cell>>>);

impl WorkerRoutes {
    /// Gives this thread a cell, until the value is dropped.
    pub(crate) fn enter(&self) -> Entry<'_> {
        let cell = Arc::new(Cell(AtomicUsize::new(NO_HANDLER)));
        lock(&self.0).push(cell.clone());
        CELL.set(Some(cell.clone()));
        Entry(self, cell)
    }

    /// Counts the workers in handlers by route, those of the most frequent route first.
    pub(crate) fn in_handlers(&self) -> Vec<(RouteNumber, usize)> {
        let mut counts = BTreeMap::<RouteNumber, usize>::new();
        for cell in lock(&self.0).iter() {
            let number = cell.0.load(Ordering::Relaxed);
            if number != NO_HANDLER {
                *counts.entry(number).or_default() += 1;
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        counts
    }
}

/// A worker's cell in the list, until dropped.
pub(crate) struct Entry<'w>(&'w WorkerRoutes, Arc<Cell>);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        CELL.set(None);
        lock(&self.0.0).retain(|cell| !Arc::ptr_eq(cell, &self.1));
    }
}

/// A record that this worker runs the handler of a route, until dropped.
pub(crate) struct InHandler {
    before: usize,
}

/// Records the route whose handler this thread is about to run. Does nothing on threads that are not workers.
pub(crate) fn enter_handler(route: RouteNumber) -> InHandler {
    InHandler { before: swap(route) }
}

impl Drop for InHandler {
    fn drop(&mut self) {
        swap(self.before);
    }
}

/// No other thread writes the cell, so two plain accesses are a swap.
fn swap(number: usize) -> usize {
    CELL.with_borrow(|cell| {
        let Some(Cell(cell)) = cell.as_deref() else { return NO_HANDLER };
        let before = cell.load(Ordering::Relaxed);
        cell.store(number, Ordering::Relaxed);
        before
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_in_handlers_are_counted_by_route_until_they_leave() {
        let routes = WorkerRoutes::default();
        let _mine = routes.enter();
        let barrier = std::sync::Barrier::new(3);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let _worker = routes.enter();
                    let _handler = enter_handler(7);
                    barrier.wait();
                    barrier.wait();
                });
            }
            barrier.wait();
            assert_eq!(routes.in_handlers(), [(7, 2)]);
            let outer = enter_handler(3);
            assert_eq!(routes.in_handlers(), [(7, 2), (3, 1)]);
            drop(enter_handler(NO_ROUTE));
            assert_eq!(routes.in_handlers(), [(7, 2), (3, 1)]);
            drop(outer);
            barrier.wait();
        });
        assert_eq!((routes.in_handlers(), lock(&routes.0).len()), (vec![], 1));
        drop(enter_handler(1));
    }
}
