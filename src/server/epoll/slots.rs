//! The places of the connections. A connection lies in its place while it waits, and is taken out by whoever is woken for
//! it; what the system says of a place whose connection has gone is not taken for the next one's.

use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::stream::Stream;
use crate::sync::lock;

/// A place and which of its connections: the number of the place below, of the connection above.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(pub(super) u64);

impl Token {
    fn index(self) -> usize {
        self.0 as u32 as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

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
    /// Somebody was called for it while it was not in its place.
    is_called: bool,
    parked: Option<Box<G>>,
}

impl<G> Default for Slot<G> {
    fn default() -> Slot<G> {
        Slot { generation: 0, stream: None, is_called: false, parked: None }
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
        let token = Token(u64::from(slot.generation) << 32 | u64::from(index));
        Some((Place { slots: self.clone(), token }, left))
    }

    /// Lays a connection into its place. What wakes somebody for it is done under the same lock, and hears whether somebody
    /// was called meanwhile; when that fails it comes back.
    pub(super) fn park(
        &self,
        connection: Box<G>,
        wake: impl FnOnce(&Stream, Token, bool) -> std::io::Result<()>,
    ) -> Result<(), Box<G>> {
        let token = connection.token();
        let mut slot = lock(&self.slots[token.index()]);
        if wake(connection.stream(), token, std::mem::take(&mut slot.is_called)).is_err() {
            return Err(connection);
        }
        self.in_flight.fetch_add(usize::from(connection.is_in_flight()), Ordering::AcqRel);
        slot.parked = Some(connection);
        Ok(())
    }

    /// Takes a connection out of its place, when it lies there.
    pub(super) fn take(&self, token: Token) -> Option<Box<G>> {
        self.take_if(token.index(), |slot, _| slot.generation == token.generation())
    }

    fn take_if(&self, index: usize, is_wanted: impl Fn(&Slot<G>, &G) -> bool) -> Option<Box<G>> {
        let mut slot = lock(self.slots.get(index)?);
        let parked = slot.parked.take()?;
        if !is_wanted(&slot, &parked) {
            slot.parked = Some(parked);
            return None;
        }
        self.in_flight.fetch_sub(usize::from(parked.is_in_flight()), Ordering::AcqRel);
        Some(parked)
    }

    /// Takes out those that have waited for too long.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Box<G>> {
        self.take_all(|connection| connection.deadline() <= now)
    }

    fn take_all(&self, is_wanted: impl Fn(&G) -> bool) -> Vec<Box<G>> {
        (0..self.slots.len()).filter_map(|index| self.take_if(index, |_, parked| is_wanted(parked))).collect()
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
        let slot = lock(&self.slots[token.index()]);
        match (&slot.parked, &slot.stream) {
            (Some(parked), Some(stream)) if slot.generation == token.generation() => {
                parked.has_asked() && wake(stream, token).is_ok()
            }
            _ => false,
        }
    }

    pub(super) fn are_in_flight(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0
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
        match (&self.parked, &self.stream) {
            // Refused, it ends with its time.
            (Some(parked), Some(stream)) if parked.is_live() => _ = wake(stream, parked.token()),
            (None, Some(_)) => self.is_called = true,
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
        slot.is_called = false;
        let _stream = slot.stream.take();
        drop(slot);
        lock(&self.slots.free).push(self.token.index() as u32);
    }
}
