//! The way out for a stream.

use std::fmt;
use std::io::{self, Write};

use super::disconnect::Disconnect;

/// The way out for a stream. Writing fails once nobody reads any more.
pub(crate) struct Outlet<'o> {
    out: &'o mut dyn Write,
    disconnect: Disconnect,
}

impl<'o> Outlet<'o> {
    pub(crate) fn new(out: &'o mut dyn Write, disconnect: Disconnect) -> Outlet<'o> {
        Outlet { out, disconnect }
    }

    /// What is told when nobody reads any more.
    pub(crate) fn disconnect(&self) -> &Disconnect {
        &self.disconnect
    }

    /// Whether somebody still reads.
    ///
    /// # Errors
    /// When nobody does.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.disconnect.is_told() {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the visitor has left, or the server stops")),
            false => Ok(()),
        }
    }
}

impl Write for Outlet<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        self.out.write(bytes)
    }

    /// In one piece, which goes out as one.
    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.check()?;
        self.out.write_fmt(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
