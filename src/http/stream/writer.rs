//! The writer of a stream.

use std::fmt;
use std::io::{self, Write};

use super::disconnect::Disconnect;

/// The writer of a stream. Writing fails once the client has disconnected or the server stops.
pub(crate) struct StreamWriter<'o> {
    out: &'o mut dyn Write,
    disconnect: Disconnect,
}

impl<'o> StreamWriter<'o> {
    pub(crate) fn new(out: &'o mut dyn Write, disconnect: Disconnect) -> StreamWriter<'o> {
        StreamWriter { out, disconnect }
    }

    /// Returns the signal of the disconnect.
    pub(crate) fn disconnect(&self) -> &Disconnect {
        &self.disconnect
    }

    /// Checks that the client is still connected.
    ///
    /// # Errors
    /// `ConnectionAborted` if the client has disconnected or the server stops.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.disconnect.is_signaled() {
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the client has disconnected, or the server stops",
            )),
            false => Ok(()),
        }
    }
}

impl Write for StreamWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.out.write(bytes)
    }

    /// Writes formatted text in one call, so that it is sent as one chunk.
    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.check()?;
        self.out.write_fmt(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
