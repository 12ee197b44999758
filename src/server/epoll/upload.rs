//! A large request body that the handler reads while it arrives. The worker waits for it.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::UploadTurn;
use super::connection::Connection;
use super::framing::Remaining;
use super::stream::{BlockingWriter, Received};
use crate::config::Config;
use crate::sync::lock;

/// The number of bytes that are read ahead of the handler.
const AHEAD: usize = 64 << 10;

/// The largest unread rest of a body, in bytes, that is discarded to keep the connection open.
const UNREAD: u64 = 256 << 10;

/// The total waiting time after which the rate is checked.
const GRACE: Duration = Duration::from_secs(10);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection while the handler reads its request body.
pub(super) struct Upload {
    connection: Box<Connection>,
    rest: Remaining,
    /// The decoded bytes of the body. The handler has read the first `read` of them.
    body: Vec<u8>,
    read: usize,
    expects: bool,
    is_broken: bool,
    pace: Pace,
    /// The upload turn, held until the body is complete.
    turn: Option<UploadTurn>,
}

/// The unread rest of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UnreadBody {
    /// This number of bytes, few enough to discard.
    Bytes(u64),
    /// An unknown number of bytes, or too many to wait for.
    Unknown,
}

impl Upload {
    pub(super) fn new(
        connection: Box<Connection>,
        rest: Remaining,
        body: Vec<u8>,
        expects: bool,
        turn: UploadTurn,
        config: &Config,
    ) -> Upload {
        let (pace, turn) = (Pace::new(config), Some(turn));
        Upload { connection, rest, body, read: 0, expects, is_broken: false, pace, turn }
    }

    /// Returns the connection and the unread rest of the body.
    pub(super) fn end(self) -> (Box<Connection>, UnreadBody) {
        let left = match self.rest {
            _ if self.is_broken || self.expects => UnreadBody::Unknown,
            Remaining::Nothing => UnreadBody::Bytes(0),
            Remaining::Length(length) if length <= UNREAD => UnreadBody::Bytes(length),
            _ => UnreadBody::Unknown,
        };
        (self.connection, left)
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.is_broken {
            return Err(cut_short());
        }
        let result = self.fill(buffer.len()).and_then(|()| (&self.body[self.read..]).read(buffer));
        match &result {
            Ok(count) => self.read += count,
            Err(_) => self.is_broken = true,
        }
        if self.is_broken || self.rest.is_complete() {
            self.turn = None;
        }
        result
    }

    /// Waits until some bytes of the body are decoded, unless the body has ended.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        if wanted == 0 || self.read < self.body.len() || self.rest.is_complete() {
            return Ok(());
        }
        if std::mem::take(&mut self.expects) {
            BlockingWriter { stream: &self.connection.stream, timeout: self.pace.timeout }.write_all(CONTINUE)?;
        }
        self.body.clear();
        self.read = 0;
        loop {
            let input = &mut self.connection.input;
            let taken = self.rest.take(input, &mut self.body, AHEAD);
            taken.map_err(|malformed| io::Error::new(io::ErrorKind::InvalidData, malformed.1))?;
            if !self.body.is_empty() || self.rest.is_complete() {
                self.pace.received += self.body.len() as u64;
                return Ok(());
            }
            match self.connection.stream.receive(input, AHEAD) {
                Received::Bytes { .. } => {}
                Received::Nothing => self.pace.wait(&self.connection)?,
                Received::End => return Err(cut_short()),
            }
        }
    }
}

/// The rate of a body. Only the time spent waiting counts, not the time that the handler takes.
struct Pace {
    timeout: Duration,
    min_rate: u64,
    waited: Duration,
    received: u64,
}

impl Pace {
    fn new(config: &Config) -> Pace {
        Pace { timeout: config.body_timeout, min_rate: config.min_rate, waited: Duration::ZERO, received: 0 }
    }

    fn wait(&mut self, connection: &Connection) -> io::Result<()> {
        let began = Instant::now();
        if !connection.stream.wait_to_receive(self.timeout) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the next part of the body did not arrive in time (ASIDE_BODY_TIMEOUT)",
            ));
        }
        self.waited += began.elapsed();
        match self.is_too_slow() {
            true => Err(io::Error::new(io::ErrorKind::TimedOut, "the body arrives too slowly (ASIDE_MIN_RATE)")),
            false => Ok(()),
        }
    }

    fn is_too_slow(&self) -> bool {
        self.received < self.min_rate.saturating_mul(self.waited.saturating_sub(GRACE).as_secs())
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")
}

/// The reader of the body for the handler. The transport takes the connection back after the response.
pub(super) struct BodyReader(pub(super) Arc<Mutex<Option<Upload>>>);

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match lock(&self.0).as_mut() {
            Some(upload) => upload.read(buffer),
            None => Err(io::Error::other("the body was read after its response")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_a_body_is_checked_after_ten_seconds_of_waiting() {
        let config = Config { min_rate: 500, ..Config::default() };
        let is_too_slow = |seconds, received| {
            Pace { waited: Duration::from_secs(seconds), received, ..Pace::new(&config) }.is_too_slow()
        };
        assert!(!is_too_slow(10, 0) && is_too_slow(12, 999) && !is_too_slow(12, 1_000));
    }
}
