//! The non-blocking socket of a connection.

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

use crate::http::stream::disconnect::Connection;

/// A non-blocking socket.
pub(super) struct Stream(OwnedFd);

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Some bytes. `is_full` is true if the buffer was filled, so more may follow.
    Bytes { is_full: bool },
    /// Nothing yet.
    Nothing,
    /// The end: the client has closed its side, or the connection is broken.
    End,
}

impl Stream {
    pub(super) fn new(socket: OwnedFd) -> Stream {
        Stream(socket)
    }

    /// Reads the received bytes to the end of the buffer, which gets space for at least `capacity` more.
    pub(super) fn receive(&self, into: &mut Vec<u8>, capacity: usize) -> Received {
        into.reserve(capacity);
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

    /// Sends the bytes that fit into the kernel's buffer, and returns their number. With `more`, the last packet may wait for
    /// the bytes of the next call.
    ///
    /// # Errors
    /// An error if the client has disconnected.
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

    /// Sends at most `most` bytes of a file from its current position, and returns their number; `None` if nothing fits into
    /// the kernel's buffer.
    ///
    /// # Errors
    /// An error if the client has disconnected, or the file cannot be read.
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

    /// Waits for input, for `time` at most, and returns true if there is some.
    pub(super) fn wait_to_receive(&self, time: Duration) -> bool {
        self.wait(PollFlags::IN, time)
    }

    fn wait(&self, flags: PollFlags, time: Duration) -> bool {
        let time = Timespec::try_from(time).ok();
        // An interruption counts as an event: the caller tries again.
        !matches!(poll(&mut [PollFd::new(&self.0, flags)], time.as_ref()), Ok(0))
    }

    /// Closes this side of the connection, or both.
    pub(super) fn shut(&self, how: Shutdown) {
        // This fails if the connection has ended already.
        let _ = socket2::SockRef::from(&self.0).shutdown(how);
    }

    /// Returns another descriptor of the same socket.
    ///
    /// # Errors
    /// An error if the process has no descriptors left.
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

/// A blocking writer to a stream. It fails after `timeout` without progress.
pub(super) struct BlockingWriter<'s> {
    pub(super) stream: &'s Stream,
    pub(super) timeout: Duration,
}

impl Write for BlockingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            match self.stream.send(&[IoSlice::new(bytes)], false)? {
                0 if !self.stream.wait(PollFlags::OUT, self.timeout) => {
                    let message = "the client did not read in time (ASIDE_WRITE_TIMEOUT)";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, message));
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
