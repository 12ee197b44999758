//! One epoll for all: every worker waits on it, and who is woken has what it was woken for to itself, until it arms that
//! again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::slots::Token;

/// What the listener and the bell are called among the connections, whose places are far fewer.
const LISTENER: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interest {
    /// Something to read.
    Read,
    /// Room to write.
    Write,
    /// Its next turn, behind the others that are ready: a socket can be written to nearly always.
    Turn,
    /// The end of the client's side.
    Departure,
}

impl Interest {
    fn flags(self) -> EventFlags {
        let event = match self {
            Interest::Read => EventFlags::IN,
            Interest::Write | Interest::Turn => EventFlags::OUT,
            Interest::Departure => EventFlags::empty(),
        };
        event | EventFlags::RDHUP | EventFlags::ONESHOT
    }
}

/// What somebody is woken for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    Listener,
    Bell,
    /// And whether the client has shut its side, or is gone.
    Connection(Token, bool),
}

/// The epoll, and a bell in it.
pub(super) struct Poller {
    epoll: OwnedFd,
    bell: OwnedFd,
}

impl Poller {
    /// # Errors
    /// When the system has no descriptors left.
    pub(super) fn new() -> io::Result<Poller> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK | EventfdFlags::SEMAPHORE)?;
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN)?;
        Ok(Poller { epoll, bell })
    }

    /// Begins to wait for connections.
    pub(super) fn add_listener(&self, listener: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, listener, EventData::new_u64(LISTENER), Interest::Read.flags())?)
    }

    pub(super) fn arm_listener(&self, listener: impl AsFd) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, listener, EventData::new_u64(LISTENER), Interest::Read.flags())?)
    }

    /// Begins to wait for a connection. It leaves by itself when its last descriptor is closed.
    pub(super) fn add(&self, stream: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, stream, EventData::new_u64(token.0), interest.flags())?)
    }

    /// Waits for it again, once.
    pub(super) fn arm(&self, stream: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, stream, EventData::new_u64(token.0), interest.flags())?)
    }

    /// Waits for the next event, at most that long.
    pub(super) fn wait(&self, time: Duration) -> io::Result<Option<Event>> {
        let mut room = [MaybeUninit::uninit(); 1];
        let time = Timespec::try_from(time).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        let event = match epoll::wait(&self.epoll, &mut room, Some(&time)) {
            Ok((events, _)) => events.first().copied(),
            Err(Errno::INTR) => None,
            Err(error) => return Err(error.into()),
        };
        let has_left = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        Ok(event.map(|event| match event.data.u64() {
            LISTENER => Event::Listener,
            BELL => Event::Bell,
            token => Event::Connection(Token(token), { event.flags }.intersects(has_left)),
        }))
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
