//! The table of connections. A waiting connection is parked in its slot, and a worker takes it out when an event arrives.
//! An event that arrives while a worker owns the connection is recorded in the slot. An event of a closed connection is
//! not mistaken for one of the next connection in the same slot.

use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::poller::{Report, Token, Unread};
use super::stream::Stream;
use crate::sync::lock;

/// A connection as this table sees it.
pub(super) trait TableEntry {
    fn token(&self) -> Token;

    fn stream(&self) -> &Stream;

    /// Returns the time at which it has waited too long.
    fn deadline(&self) -> Instant;

    /// Returns true if a client waits for a response.
    fn is_in_flight(&self) -> bool;

    /// Returns true if it is a live page.
    fn is_live(&self) -> bool;

    /// Returns true if it has a request that waits for its turn.
    fn is_queued(&self) -> bool;

    /// Returns the time since which an incomplete or waiting request has been arriving, and the bytes that it holds.
    fn unfinished(&self) -> Option<(Instant, usize)>;

    /// Returns the time since which a response waits for its client to read, and the bytes that it holds.
    fn unsent(&self) -> Option<(Instant, usize)>;

    /// Records new input of the client.
    fn note(&mut self, unread: Unread);

    /// Returns true if all input has been read.
    fn has_read_all(&self) -> bool;

    /// Returns true if a worker can continue with it after this report. `is_woken` is true if a worker was woken for it.
    fn is_due(&self, report: Report, is_woken: bool) -> bool;
}

/// What a parked connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Input.
    Input,
    /// A writable socket.
    Writable,
    /// Its next turn, after the other ready connections.
    Turn,
    /// A call to wake a worker for it.
    Wake,
}

/// A table of connections with a fixed number of slots.
pub(super) struct ConnectionTable<G> {
    slots: Box<[Mutex<Slot<G>>]>,
    free: Mutex<Vec<u32>>,
    /// The number of parked connections with an incomplete request or response.
    in_flight: AtomicUsize,
}

struct Slot<G> {
    generation: u32,
    /// The socket of the connection, also while a worker owns the connection.
    stream: Option<Arc<Stream>>,
    /// True if a worker was woken for the connection and has not taken it yet.
    is_woken: bool,
    /// The input that arrived while a worker owned the connection.
    unread: Unread,
    parked: Option<Box<G>>,
}

impl<G> Default for Slot<G> {
    fn default() -> Slot<G> {
        Slot { generation: 0, stream: None, is_woken: false, unread: Unread::Nothing, parked: None }
    }
}

impl<G: TableEntry> ConnectionTable<G> {
    pub(super) fn new(most: usize) -> Arc<ConnectionTable<G>> {
        let slots = (0..most).map(|_| Mutex::default()).collect();
        // The last is taken first.
        let free = Mutex::new((0..most as u32).rev().collect());
        Arc::new(ConnectionTable { slots, free, in_flight: AtomicUsize::new(0) })
    }

    /// Reserves a slot for a connection, and returns it with the number of slots left; `None` if no slot is free.
    pub(super) fn enter(self: &Arc<ConnectionTable<G>>, stream: &Arc<Stream>) -> Option<(Reservation<G>, usize)> {
        let (index, left) = {
            let mut free = lock(&self.free);
            (free.pop()?, free.len())
        };
        let mut slot = lock(&self.slots[index as usize]);
        slot.stream = Some(stream.clone());
        let token = Token::new(index, slot.generation);
        Some((Reservation { table: self.clone(), token }, left))
    }

    /// Returns the number of connections.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - lock(&self.free).len()
    }

    /// Parks a connection in its slot, or returns it if it need not wait. `request_event` requests a new event for it.
    ///
    /// # Errors
    /// The connection, if the kernel refuses that event.
    pub(super) fn park(
        &self,
        mut connection: Box<G>,
        wait: Wait,
        request_event: impl FnOnce(&Stream, Token) -> std::io::Result<()>,
    ) -> Result<Option<Box<G>>, Box<G>> {
        let token = connection.token();
        let mut slot = lock(&self.slots[token.index()]);
        connection.note(std::mem::take(&mut slot.unread));
        if wait == Wait::Input && !connection.has_read_all() {
            return Ok(Some(connection));
        }
        slot.is_woken = wait == Wait::Turn || (wait == Wait::Wake && slot.is_woken);
        if (slot.is_woken || wait == Wait::Writable) && request_event(connection.stream(), token).is_err() {
            return Err(connection);
        }
        self.in_flight.fetch_add(usize::from(connection.is_in_flight()), Ordering::AcqRel);
        slot.parked = Some(connection);
        Ok(None)
    }

    /// Takes a parked connection out of its slot if a worker can continue with it.
    pub(super) fn take(&self, token: Token, report: Report) -> Option<Box<G>> {
        let mut slot = lock(self.slots.get(token.index())?);
        if slot.generation != token.generation() {
            return None;
        }
        let is_woken = slot.is_woken;
        match &mut slot.parked {
            Some(parked) => {
                parked.note(report.unread);
                if parked.is_due(report, is_woken) { self.take_out(&mut slot) } else { None }
            }
            None => {
                slot.unread = slot.unread.max(report.unread);
                None
            }
        }
    }

    fn take_out(&self, slot: &mut Slot<G>) -> Option<Box<G>> {
        let parked = slot.parked.take()?;
        slot.is_woken = false;
        self.in_flight.fetch_sub(usize::from(parked.is_in_flight()), Ordering::AcqRel);
        Some(parked)
    }

    /// Takes out the connections whose deadline has passed.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Box<G>> {
        self.take_all(|connection| connection.deadline() <= now)
    }

    /// Removes the connections that have held memory longest, until together they hold `bytes`.
    pub(super) fn longest(&self, holds: impl Fn(&G) -> Option<(Instant, usize)>, bytes: usize) -> Vec<Box<G>> {
        let candidate = |(index, slot): (usize, &Mutex<Slot<G>>)| {
            let (began, held) = holds(lock(slot).parked.as_deref()?)?;
            Some((began, held, index))
        };
        let mut unfinished: Vec<_> = self.slots.iter().enumerate().filter_map(candidate).collect();
        unfinished.sort_unstable();
        let mut left = bytes;
        let chosen = unfinished.into_iter().take_while(|(_, held, _)| {
            let is_wanted = left > 0;
            left = left.saturating_sub(*held);
            is_wanted
        });
        let take = |(began, _, index): (Instant, usize, usize)| {
            let mut slot = lock(&self.slots[index]);
            // The connection may have continued, or been replaced, in the meantime.
            let is_it = slot.parked.as_deref().and_then(&holds).is_some_and(|(since, _)| since == began);
            if is_it { self.take_out(&mut slot) } else { None }
        };
        chosen.collect::<Vec<_>>().into_iter().filter_map(take).collect()
    }

    fn take_all(&self, is_wanted: impl Fn(&G) -> bool) -> Vec<Box<G>> {
        let take = |slot: &Mutex<Slot<G>>| {
            let mut slot = lock(slot);
            if slot.parked.as_deref().is_some_and(&is_wanted) { self.take_out(&mut slot) } else { None }
        };
        self.slots.iter().filter_map(take).collect()
    }

    /// Wakes a worker for a live page, now or when the page is parked again.
    pub(super) fn wake_live(&self, token: Token, wake: impl FnOnce(&Stream, Token) -> std::io::Result<()>) {
        let mut slot = lock(&self.slots[token.index()]);
        if slot.generation == token.generation() {
            slot.wake_live(wake);
        }
    }

    /// Wakes workers for all live pages, including those that a worker owns now.
    pub(super) fn wake_all_live(&self, wake: impl Fn(&Stream, Token) -> std::io::Result<()>) {
        self.slots.iter().for_each(|slot| lock(slot).wake_live(&wake));
    }

    /// Wakes a worker for a connection whose request waits for its turn. Returns false if it no longer waits.
    pub(super) fn wake_queued(&self, token: Token, wake: impl FnOnce(&Stream, Token) -> std::io::Result<()>) -> bool {
        let mut slot = lock(&self.slots[token.index()]);
        let Slot { parked: Some(parked), is_woken, generation, .. } = &mut *slot else { return false };
        if *generation != token.generation() || !parked.is_queued() {
            return false;
        }
        *is_woken = true;
        wake(parked.stream(), token).is_ok()
    }

    pub(super) fn are_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Returns true if the predicate holds for a parked connection.
    pub(super) fn any(&self, predicate: impl Fn(&G) -> bool) -> bool {
        self.slots.iter().any(|slot| lock(slot).parked.as_deref().is_some_and(&predicate))
    }

    /// Closes all connections, including those that a worker owns now.
    pub(super) fn end_all(&self) {
        drop(self.take_all(|_| true));
        for slot in &self.slots {
            let stream = lock(slot).stream.clone();
            stream.iter().for_each(|stream| stream.shut(Shutdown::Both));
        }
    }
}

impl<G: TableEntry> Slot<G> {
    fn wake_live(&mut self, wake: impl FnOnce(&Stream, Token) -> std::io::Result<()>) {
        match &self.parked {
            Some(parked) if parked.is_live() => {
                self.is_woken = true;
                // If this fails, the connection ends at its deadline.
                let _ = wake(parked.stream(), parked.token());
            }
            None if self.stream.is_some() => self.is_woken = true,
            _ => {}
        }
    }
}

/// The reservation of a slot for one connection. When dropped, the slot is free again.
pub(super) struct Reservation<G> {
    table: Arc<ConnectionTable<G>>,
    token: Token,
}

impl<G> Reservation<G> {
    pub(super) fn token(&self) -> Token {
        self.token
    }
}

impl<G> Drop for Reservation<G> {
    fn drop(&mut self) {
        let mut slot = lock(&self.table.slots[self.token.index()]);
        slot.generation = slot.generation.wrapping_add(1);
        (slot.is_woken, slot.unread) = (false, Unread::Nothing);
        let _stream = slot.stream.take();
        drop(slot);
        lock(&self.table.free).push(self.token.index() as u32);
    }
}
