//! One epoll for all, which every worker looks at.
//!
//! A connection is registered once and reported at each change (edge-triggered), so a request costs no call to arm it again;
//! what is reported while somebody is at it is noted in its place ([`slots`](super::slots)). A worker that finds several
//! events takes them all when nobody else is waiting: with who waits, the system shares them out itself.

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

use crate::sync::lock;

/// What the listener and the bell are called among the connections, whose places are far fewer.
const LISTENER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// How many events are taken at once.
const BATCH: usize = 32;

/// What is reported of a connection.
const ARRIVALS: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);

/// The client has shut its side, or is gone.
const HAS_LEFT: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

/// A response can go on, or has nobody to go to.
const HAS_ROOM: EventFlags = EventFlags::OUT.union(EventFlags::HUP).union(EventFlags::ERR);

/// What the epoll calls a connection: its place, and which of the connections that had it.
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

/// What has come of a client and was not read yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Unread {
    #[default]
    Nothing,
    Something,
    /// Its end too. It stays so, whatever is read before that.
    End,
}

/// What is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    Listener,
    Bell,
    Connection(Token, Report),
}

/// What is so of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) unread: Unread,
    pub(super) has_room: bool,
}

impl From<epoll::Event> for Event {
    fn from(event: epoll::Event) -> Event {
        let flags = event.flags;
        let unread = match () {
            () if flags.intersects(HAS_LEFT) => Unread::End,
            () if flags.contains(EventFlags::IN) => Unread::Something,
            () => Unread::Nothing,
        };
        match event.data.u64() {
            LISTENER => Event::Listener,
            BELL => Event::Bell,
            token => Event::Connection(Token(token), Report { unread, has_room: flags.intersects(HAS_ROOM) }),
        }
    }
}

/// The epoll, and a bell in it.
pub(in crate::server) struct Poller {
    epoll: OwnedFd,
    bell: OwnedFd,
    /// What was reported and is still to be looked at.
    found: Mutex<VecDeque<Event>>,
    /// Workers that wait, or are about to.
    waiting: AtomicUsize,
}

impl Poller {
    /// # Errors
    /// An error if the operating system has no descriptors left, or the kernel or a sandbox refuses one of the calls.
    pub(in crate::server) fn new() -> io::Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        epoll::wait(&epoll, &mut [MaybeUninit::uninit(); 1][..], Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(Poller { epoll, bell, found: Mutex::default(), waiting: AtomicUsize::new(0) })
    }

    /// Begins to wait for connections.
    pub(super) fn add_listener(&self, listener: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::ONESHOT)?)
    }

    /// Waits for them again, once: whoever accepts is alone at it.
    pub(super) fn arm_listener(&self, listener: impl AsFd) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN | EventFlags::ONESHOT)?)
    }

    /// Stops waiting for events on the source.
    pub(super) fn remove_listener(&self, listener: impl AsFd) {
        // This fails only if it is not registered.
        let _ = epoll::delete(&self.epoll, listener);
    }

    /// Begins to report what comes of a connection. It leaves by itself when its last descriptor is closed.
    pub(super) fn add(&self, stream: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, stream, EventData::new_u64(token.0), ARRIVALS)?)
    }

    /// Has it reported anew as soon as it can be written to, which is at once nearly always, behind all that is ready.
    pub(super) fn nudge(&self, stream: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(token.0), ARRIVALS | EventFlags::OUT)?)
    }

    /// Reports of it no more until it is heeded: somebody else waits for what comes.
    pub(super) fn ignore(&self, stream: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(token.0), EventFlags::ET)?)
    }

    /// Reports of it again, what has come by now included.
    pub(super) fn heed(&self, stream: impl AsFd, token: Token) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(token.0), ARRIVALS)?)
    }

    /// Waits for the next event, at most that long.
    pub(super) fn next(&self, time: Duration) -> io::Result<Option<Event>> {
        if let Some(event) = self.look()? {
            return Ok(Some(event));
        }
        // Going to sleep and being woken costs more than a request. Whoever is behind the next one may be about to write it.
        thread::yield_now();
        match self.look()? {
            None => self.wait(time),
            event => Ok(event),
        }
    }

    /// The next event that is there already.
    fn look(&self) -> io::Result<Option<Event>> {
        let found = lock(&self.found).pop_front();
        if found.is_some() { Ok(found) } else { self.fetch(Duration::ZERO) }
    }

    fn wait(&self, time: Duration) -> io::Result<Option<Event>> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        // Who has laid something down before that has not seen that somebody waits.
        let found = lock(&self.found).pop_front();
        let event = if found.is_some() { Ok(found) } else { self.fetch(time) };
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        event
    }

    /// Asks the system, and lays down what it reports beyond the first.
    fn fetch(&self, time: Duration) -> io::Result<Option<Event>> {
        let mut room = [MaybeUninit::uninit(); BATCH];
        let most = if self.waiting.load(Ordering::SeqCst) == 0 { BATCH } else { 1 };
        let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let events = match epoll::wait(&self.epoll, &mut room[..most], Some(&time)) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some((first, rest)) = events.split_first() else { return Ok(None) };
        if !rest.is_empty() {
            lock(&self.found).extend(rest.iter().map(|event| Event::from(*event)));
            // Somebody has begun to wait meanwhile.
            if self.waiting.load(Ordering::SeqCst) > 0 {
                self.ring();
            }
        }
        Ok(Some(Event::from(*first)))
    }

    /// Wakes one who waits, now or later.
    pub(super) fn ring(&self) {
        // Refused only when it has rung more often than anybody can count.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    /// Has been woken by it.
    pub(super) fn heard(&self) {
        // Another may have been quicker.
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }
}
