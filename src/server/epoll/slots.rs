//! The places of the connections. A connection lies in its place while it waits, and is taken out by whoever is woken for
//! it; what the system reports while somebody is at it is noted in its place, and what it reports of a connection that has
//! gone is not taken for the next one's.

use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::poller::{Report, Token, Unread};
use super::stream::Stream;
use crate::sync::lock;

/// What lies in a place: a connection, as far as that matters here.
pub(super) trait Guest {
    fn token(&self) -> Token;

    fn stream(&self) -> &Stream;

    /// When it has waited for too long.
    fn deadline(&self) -> Instant;

    /// Whether somebody waits for a response.
    fn is_in_flight(&self) -> bool;

    /// Whether it is a live page.
    fn is_live(&self) -> bool;

    /// Whether it has a request, and waits for its turn.
    fn has_asked(&self) -> bool;

    /// Returns the time since which an incomplete or waiting request has been arriving, and the bytes that it holds.
    fn unfinished(&self) -> Option<(Instant, usize)>;

    /// Returns the time since which a response waits for its client to read, and the bytes that it holds.
    fn unsent(&self) -> Option<(Instant, usize)>;

    /// Hears what came of its client.
    fn note(&mut self, unread: Unread);

    /// Whether nothing has come that it has not read.
    fn has_read_all(&self) -> bool;

    /// Whether it can go on, that being reported, and somebody called for it or not.
    fn is_due(&self, report: Report, is_called: bool) -> bool;
}

/// What a connection waits for in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// Something to read.
    Arrival,
    /// Room to write.
    Room,
    /// Its next turn, behind the others that are ready.
    Turn,
    /// That somebody calls for it.
    Call,
}

pub(super) struct Slots<G> {
    slots: Box<[Mutex<Slot<G>>]>,
    free: Mutex<Vec<u32>>,
    /// Connections that lie in their places with a request or a response half done.
    in_flight: AtomicUsize,
}

struct Slot<G> {
    generation: u32,
    /// Whoever has the connection.
    stream: Option<Arc<Stream>>,
    /// Somebody was called for it, and has not come yet.
    is_called: bool,
    /// What came while it was not in its place.
    unread: Unread,
    parked: Option<Box<G>>,
}

impl<G> Default for Slot<G> {
    fn default() -> Slot<G> {
        Slot { generation: 0, stream: None, is_called: false, unread: Unread::Nothing, parked: None }
    }
}

impl<G: Guest> Slots<G> {
    pub(super) fn new(most: usize) -> Arc<Slots<G>> {
        let slots = (0..most).map(|_| Mutex::default()).collect();
        // The last is taken first.
        let free = Mutex::new((0..most as u32).rev().collect());
        Arc::new(Slots { slots, free, in_flight: AtomicUsize::new(0) })
    }

    /// A place for a connection, while one is free, and how many are left.
    pub(super) fn enter(self: &Arc<Slots<G>>, stream: &Arc<Stream>) -> Option<(Place<G>, usize)> {
        let (index, left) = {
            let mut free = lock(&self.free);
            (free.pop()?, free.len())
        };
        let mut slot = lock(&self.slots[index as usize]);
        slot.stream = Some(stream.clone());
        let token = Token::new(index, slot.generation);
        Some((Place { slots: self.clone(), token }, left))
    }

    /// Lays a connection into its place, unless what it waits for is there: then it comes back. `nudge` has it reported anew.
    ///
    /// # Errors
    /// With the connection, when the system refuses that.
    pub(super) fn park(
        &self,
        mut connection: Box<G>,
        wait: Wait,
        nudge: impl FnOnce(&Stream, Token) -> std::io::Result<()>,
    ) -> Result<Option<Box<G>>, Box<G>> {
        let token = connection.token();
        let mut slot = lock(&self.slots[token.index()]);
        connection.note(std::mem::take(&mut slot.unread));
        if wait == Wait::Arrival && !connection.has_read_all() {
            return Ok(Some(connection));
        }
        slot.is_called = wait == Wait::Turn || (wait == Wait::Call && slot.is_called);
        if (slot.is_called || wait == Wait::Room) && nudge(connection.stream(), token).is_err() {
            return Err(connection);
        }
        self.in_flight.fetch_add(usize::from(connection.is_in_flight()), Ordering::AcqRel);
        slot.parked = Some(connection);
        Ok(None)
    }

    /// Takes a connection out of its place, when it lies there and can go on.
    pub(super) fn take(&self, token: Token, report: Report) -> Option<Box<G>> {
        let mut slot = lock(self.slots.get(token.index())?);
        if slot.generation != token.generation() {
            return None;
        }
        let is_called = slot.is_called;
        match &mut slot.parked {
            Some(parked) => {
                parked.note(report.unread);
                if parked.is_due(report, is_called) { self.take_out(&mut slot) } else { None }
            }
            None => {
                slot.unread = slot.unread.max(report.unread);
                None
            }
        }
    }

    fn take_out(&self, slot: &mut Slot<G>) -> Option<Box<G>> {
        let parked = slot.parked.take()?;
        slot.is_called = false;
        self.in_flight.fetch_sub(usize::from(parked.is_in_flight()), Ordering::AcqRel);
        Some(parked)
    }

    /// Takes out those that have waited for too long.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Box<G>> {
        self.take_all(|connection| connection.deadline() <= now)
    }

    /// Removes the connections that have held memory longest, until together they hold `bytes`.
    pub(super) fn longest(&self, holds: impl Fn(&G) -> Option<(Instant, usize)>, bytes: usize) -> Vec<Box<G>> {
        let look = |(index, slot): (usize, &Mutex<Slot<G>>)| {
            let (began, held) = holds(lock(slot).parked.as_deref()?)?;
            Some((began, held, index))
        };
        let mut unfinished: Vec<_> = self.slots.iter().enumerate().filter_map(look).collect();
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

    /// Calls somebody for a live page, now or when it is back in its place.
    pub(super) fn call(&self, token: Token, wake: impl FnOnce(&Stream, Token) -> std::io::Result<()>) {
        let mut slot = lock(&self.slots[token.index()]);
        if slot.generation == token.generation() {
            slot.call(wake);
        }
    }

    /// The same for each, those too that somebody is at now.
    pub(super) fn call_all(&self, wake: impl Fn(&Stream, Token) -> std::io::Result<()>) {
        self.slots.iter().for_each(|slot| lock(slot).call(&wake));
    }

    /// Calls somebody for a connection that waits for its turn; false when it does so no more.
    pub(super) fn call_asked(&self, token: Token, wake: impl FnOnce(&Stream, Token) -> std::io::Result<()>) -> bool {
        let mut slot = lock(&self.slots[token.index()]);
        let Slot { parked: Some(parked), is_called, generation, .. } = &mut *slot else { return false };
        if *generation != token.generation() || !parked.has_asked() {
            return false;
        }
        *is_called = true;
        wake(parked.stream(), token).is_ok()
    }

    pub(super) fn are_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
    }

    /// Returns true if the predicate holds for a parked connection.
    pub(super) fn any(&self, is_like_that: impl Fn(&G) -> bool) -> bool {
        self.slots.iter().any(|slot| lock(slot).parked.as_deref().is_some_and(&is_like_that))
    }

    /// Ends all connections, whoever has them.
    pub(super) fn end_all(&self) {
        drop(self.take_all(|_| true));
        for slot in &self.slots {
            let stream = lock(slot).stream.clone();
            stream.iter().for_each(|stream| stream.shut(Shutdown::Both));
        }
    }
}

impl<G: Guest> Slot<G> {
    fn call(&mut self, wake: impl FnOnce(&Stream, Token) -> std::io::Result<()>) {
        match &self.parked {
            Some(parked) if parked.is_live() => {
                self.is_called = true;
                // Refused, it ends with its time.
                let _ = wake(parked.stream(), parked.token());
            }
            None if self.stream.is_some() => self.is_called = true,
            _ => {}
        }
    }
}

/// A connection's place, free again when dropped.
pub(super) struct Place<G> {
    slots: Arc<Slots<G>>,
    token: Token,
}

impl<G> Place<G> {
    pub(super) fn token(&self) -> Token {
        self.token
    }
}

impl<G> Drop for Place<G> {
    fn drop(&mut self) {
        let mut slot = lock(&self.slots.slots[self.token.index()]);
        slot.generation = slot.generation.wrapping_add(1);
        (slot.is_called, slot.unread) = (false, Unread::Nothing);
        let _stream = slot.stream.take();
        drop(slot);
        lock(&self.slots.free).push(self.token.index() as u32);
    }
}
