//! A connection's socket, which never keeps anybody waiting unless asked to.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, sendmsg};

use crate::http::disconnect::Connection;

/// The socket. It does not block.
pub(super) struct Stream(OwnedFd);

/// What came of a look at what has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Some bytes, and whether there was no room for more.
    Bytes { is_full: bool },
    /// Nothing yet.
    Nothing,
    /// Nothing any more: the client has shut its side, or is gone.
    End,
}

impl Stream {
    pub(super) fn new(socket: OwnedFd) -> Stream {
        Stream(socket)
    }

    /// Takes what has arrived, as far as there is room behind what is in the buffer: at least so much.
    pub(super) fn receive(&self, into: &mut Vec<u8>, room: usize) -> Received {
        into.reserve(room);
        loop {
            return match recv(&self.0, spare_capacity(into), RecvFlags::empty()) {
                Ok((_, 0)) => Received::End,
                Ok(_) => Received::Bytes { is_full: into.len() == into.capacity() },
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Received::Nothing,
                Err(_) => Received::End,
            };
        }
    }

    /// Sends what fits into the system's buffer, and says how much that was. With more to come at once, the last packet may
    /// wait for that.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) fn send(&self, parts: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        let flags = if more { SendFlags::NOSIGNAL | SendFlags::MORE } else { SendFlags::NOSIGNAL };
        loop {
            return match sendmsg(&self.0, parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(count) => Ok(count),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(0),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Sends as much of a file, from where it stands, and says how much that was; none when nothing fits.
    ///
    /// # Errors
    /// When the client is gone, or the file cannot be read.
    pub(super) fn send_file(&self, file: &File, most: u64) -> io::Result<Option<u64>> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        loop {
            return match sendfile(&self.0, file, None, most) {
                Ok(count) => Ok(Some(count as u64)),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            };
        }
    }

    /// Waits until something has arrived, at most that long, and says whether it has.
    pub(super) fn wait_to_receive(&self, time: Duration) -> bool {
        self.wait(PollFlags::IN, time)
    }

    fn wait(&self, flags: PollFlags, time: Duration) -> bool {
        let time = Timespec::try_from(time).ok();
        // Interrupted, it is the same as having waited: who waits looks again.
        !matches!(poll(&mut [PollFd::new(&self.0, flags)], time.as_ref()), Ok(0))
    }

    /// Ends our side of the connection, or both.
    pub(super) fn shut(&self, how: Shutdown) {
        // Refused when it has ended already.
        let _ = socket2::SockRef::from(&self.0).shutdown(how);
    }

    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// When the system has none left.
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }
}

impl Connection for Stream {
    fn is_there(&self) -> bool {
        let mut byte = [0; 1];
        match recv(&self.0, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((count, _)) => count > 0,
            Err(error) => matches!(error, Errno::AGAIN | Errno::INTR),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A stream that is written to by somebody who waits, but for no longer than that without any progress.
pub(super) struct Patient<'s> {
    pub(super) stream: &'s Stream,
    pub(super) patience: Duration,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            match self.stream.send(&[IoSlice::new(bytes)], false)? {
                0 if !self.stream.wait(PollFlags::OUT, self.patience) => {
                    let words = "the client reads nothing (ASIDE_WRITE_TIMEOUT)";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, words));
                }
                0 => {}
                count => return Ok(count),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
