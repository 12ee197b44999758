//! The epoll instance on which all workers wait.
//!
//! A connection is registered once, edge-triggered, so a request costs no call to register it again. An event that arrives
//! while a worker owns the connection is recorded in its slot ([`slots`](super::connection_table)). A worker fetches several events at
//! once only if no other worker is waiting: the kernel distributes events among waiting workers itself.

use std::collections::VecDeque;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use crate::background::task_cores;
use crate::sync::lock;

/// The identifiers of the listener and of the wake-up event. The tokens of connections are far smaller numbers.
const LISTENER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;

/// The number of events fetched at once.
const BATCH: usize = 32;

/// The number of events fetched at once from which one worker alone would let connections wait for long.
const FEW: usize = 8;

/// The events that a connection is registered for.
const INPUT: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// The events after which the client sends nothing more.
const CLOSED: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// The events after which a write does not wait: the socket is writable, or the client has disconnected.
const WRITABLE: EventFlags = EventFlags::OUT.union(EventFlags::HUP).union(EventFlags::ERR);

/// The identifier of a connection in the epoll: its slot, and the generation of that slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token(u64);

impl Token {
    pub(super) fn new(index: u32, generation: u32) -> Token {
        Token(u64::from(generation) << 32 | u64::from(index))
    }

    pub(super) fn index(self) -> usize {
        self.0 as u32 as usize
    }

    pub(super) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// The unread input of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Unread {
    #[default]
    Nothing,
    Something,
    /// The client has also closed its side. This remains so, whatever is read.
    End,
}

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Listener,
    Wake,
    Connection(Token, Report),
}

/// The reported state of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) unread: Unread,
    pub(super) is_writable: bool,
}

impl From<epoll::Event> for Event {
    fn from(event: epoll::Event) -> Event {
        let flags = event.flags;
        let unread = match () {
            () if flags.intersects(CLOSED) => Unread::End,
            () if flags.contains(EventFlags::IN) => Unread::Something,
            () => Unread::Nothing,
        };
        match event.data.u64() {
            LISTENER => Event::Listener,
            WAKE => Event::Wake,
            token => Event::Connection(Token(token), Report { unread, is_writable: flags.intersects(WRITABLE) }),
        }
    }
}

/// An epoll instance with a wake-up event.
pub(in crate::server) struct Poller {
    epoll: OwnedFd,
    wake_event: OwnedFd,
    /// The fetched events that no worker has taken yet.
    ready: Mutex<VecDeque<Event>>,
    /// The number of workers that wait, or are about to.
    waiting: AtomicUsize,
    /// The number of events that were fetched last.
    fetched: AtomicUsize,
}

impl Poller {
    /// Creates the epoll instance and its wake-up event.
    ///
    /// # Errors
    /// An error if the operating system has no descriptors left, or the kernel or a sandbox refuses one of the calls.
    pub(in crate::server) fn new() -> io::Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake_event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE)?;
        epoll::add(&epoll, &wake_event, EventData::new_u64(WAKE), EventFlags::IN)?;
        epoll::wait(&epoll, &mut [MaybeUninit::uninit(); 1][..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let (ready, waiting, fetched) = Default::default();
        Ok(Poller { epoll, wake_event, ready, waiting, fetched })
    }

    /// Registers the listener for one event.
    pub(super) fn add_listener(&self, listener: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::ONESHOT)?)
    }

    /// Registers the listener for one more event. Only one worker at a time accepts connections.
    pub(super) fn arm_listener(&self, listener: impl AsFd) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::ONESHOT)?)
    }

    /// Removes the listener.
    pub(super) fn remove_listener(&self, listener: impl AsFd) {
        // This fails only if the listener is not registered.
        let _ = epoll::delete(&self.epoll, listener);
    }

    /// Registers a connection. The kernel removes it when its last descriptor is closed.
    pub(super) fn add(&self, stream: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, stream, EventData::new_u64(token.0), INPUT)?)
    }

    /// Requests an event of the connection for when it is writable. That is nearly always at once, after the events that are
    /// ready.
    pub(super) fn request_event(&self, stream: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(token.0), INPUT | EventFlags::OUT)?)
    }

    /// Pauses the events of a connection while a handler waits for its input.
    pub(super) fn pause_events(&self, stream: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(token.0), EventFlags::ET)?)
    }

    /// Resumes the events of a connection, including those for input that has arrived in the meantime.
    pub(super) fn resume_events(&self, stream: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(token.0), INPUT)?)
    }

    /// Waits for the next event, for `time` at most.
    pub(super) fn next(&self, time: Duration) -> io::Result<Option<Event>> {
        if let Some(event) = self.next_ready()? {
            return Ok(Some(event));
        }
        if task_cores::do_tasks_compute() {
            // A task that computes would get the core until the next tick of the scheduler, 4 ms, whatever arrives. And
            // since Linux 6.18 a thread that yields forfeits a slice: it would wait for one on any core.
            return self.wait(time);
        }
        // To sleep and wake costs more than a request. A client on this machine may be about to send the next one.
        thread::yield_now();
        match self.next_ready()? {
            None => self.wait(time),
            event => Ok(event),
        }
    }

    /// Returns the next event if one is ready.
    fn next_ready(&self) -> io::Result<Option<Event>> {
        let ready = lock(&self.ready).pop_front();
        if ready.is_some() { Ok(ready) } else { self.fetch(Duration::ZERO) }
    }

    fn wait(&self, time: Duration) -> io::Result<Option<Event>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // A worker that queued events before this one was counted has not woken anyone for them.
        let ready = lock(&self.ready).pop_front();
        let event = if ready.is_some() { Ok(ready) } else { self.fetch(time) };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        event
    }

    /// Fetches events from the kernel, returns the first, and queues the others.
    fn fetch(&self, time: Duration) -> io::Result<Option<Event>> {
        let mut buffer = [MaybeUninit::uninit(); BATCH];
        let most = if self.waiting.load(Ordering::SeqCst) == 0 { BATCH } else { 1 };
        let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let events = match epoll::wait(&self.epoll, &mut buffer[..most], Some(&time)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some((first, rest)) = events.split_first() else { return Ok(None) };
        self.fetched.store(events.len(), Ordering::Relaxed);
        if !rest.is_empty() {
            lock(&self.ready).extend(rest.iter().map(|event| Event::from(*event)));
            // Another worker has begun to wait in the meantime.
            if self.waiting.load(Ordering::SeqCst) > 0 {
                self.wake();
            }
        }
        Ok(Some(Event::from(*first)))
    }

    /// Returns true if few connections were ready at once lately.
    pub(super) fn has_few_ready(&self) -> bool {
        self.fetched.load(Ordering::Relaxed) < FEW
    }

    /// Wakes one worker that waits now, or the next one that does.
    pub(super) fn wake(&self) {
        // This fails only if the counter overflows.
        let _ = rustix::io::write(&self.wake_event, &1_u64.to_ne_bytes());
    }

    /// Consumes one wake-up.
    pub(super) fn consume_wake(&self) {
        // This fails if another worker has consumed it.
        let _ = rustix::io::read(&self.wake_event, &mut [0; 8]);
    }
}
