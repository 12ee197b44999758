//! A large body while a handler reads it: by waiting for it, on one of the workers that may.

use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::UploadTurn;
use super::connection::Connection;
use super::framing::Rest;
use super::stream::{Patient, Received};
use crate::config::Config;
use crate::sync::lock;

/// How much is read ahead of the handler.
const AHEAD: usize = 64 << 10;

/// How much of a body that nobody read is passed over for the sake of the connection.
const UNREAD: u64 = 256 << 10;

/// How much waiting is borne whatever the rate.
const GRACE: Duration = Duration::from_secs(10);

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A connection that is lent to the reader of its body.
pub(super) struct Upload {
    connection: Box<Connection>,
    rest: Rest,
    /// What has come of the body, and how much of it has been read.
    body: Vec<u8>,
    read: usize,
    expects: bool,
    is_broken: bool,
    pace: Pace,
    /// The upload turn, held until the body is complete.
    turn: Option<UploadTurn>,
}

/// What is left of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// So many bytes, which are worth passing over.
    Bytes(u64),
    /// What must not be waited for, or nobody knows.
    Unknown,
}

impl Upload {
    pub(super) fn new(
        connection: Box<Connection>,
        rest: Rest,
        body: Vec<u8>,
        expects: bool,
        turn: UploadTurn,
        config: &Config,
    ) -> Upload {
        let (pace, turn) = (Pace::new(config), Some(turn));
        Upload { connection, rest, body, read: 0, expects, is_broken: false, pace, turn }
    }

    /// Gives the connection back, and says what is left.
    pub(super) fn end(self) -> (Box<Connection>, Left) {
        let left = match self.rest {
            _ if self.is_broken || self.expects => Left::Unknown,
            Rest::Nothing => Left::Bytes(0),
            Rest::Length(length) if length <= UNREAD => Left::Bytes(length),
            _ => Left::Unknown,
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
        if self.is_broken || self.rest.is_whole() {
            self.turn = None;
        }
        result
    }

    /// Has something of the body there, unless that has ended.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        if wanted == 0 || self.read < self.body.len() || self.rest.is_whole() {
            return Ok(());
        }
        if std::mem::take(&mut self.expects) {
            Patient { stream: &self.connection.stream, patience: self.pace.patience }.write_all(CONTINUE)?;
        }
        self.body.clear();
        self.read = 0;
        loop {
            let inbox = &mut self.connection.inbox;
            let taken = self.rest.take(inbox, &mut self.body, AHEAD);
            taken.map_err(|malformed| io::Error::new(io::ErrorKind::InvalidData, malformed.1))?;
            if !self.body.is_empty() || self.rest.is_whole() {
                self.pace.came += self.body.len() as u64;
                return Ok(());
            }
            match self.connection.stream.receive(inbox, AHEAD) {
                Received::Bytes { .. } => {}
                Received::Nothing => self.pace.wait(&self.connection)?,
                Received::End => return Err(cut_short()),
            }
        }
    }
}

/// How fast a body comes. Only waiting counts: what the handler takes for itself is not the client's fault.
struct Pace {
    patience: Duration,
    min_rate: u64,
    waited: Duration,
    came: u64,
}

impl Pace {
    fn new(config: &Config) -> Pace {
        Pace { patience: config.body_timeout, min_rate: config.min_rate, waited: Duration::ZERO, came: 0 }
    }

    fn wait(&mut self, connection: &Connection) -> io::Result<()> {
        let began = Instant::now();
        if !connection.stream.wait_to_receive(self.patience) {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no more of the body arrived in time (ASIDE_BODY_TIMEOUT)",
            ));
        }
        self.waited += began.elapsed();
        match self.is_too_slow() {
            true => Err(io::Error::new(io::ErrorKind::TimedOut, "the body arrives too slowly (ASIDE_MIN_RATE)")),
            false => Ok(()),
        }
    }

    fn is_too_slow(&self) -> bool {
        self.came < self.min_rate.saturating_mul(self.waited.saturating_sub(GRACE).as_secs())
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")
}

/// The reader of it that the application has. When both are done, the last has the connection.
pub(super) struct Lent(pub(super) Arc<Mutex<Option<Upload>>>);

impl Read for Lent {
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
    fn a_body_may_stand_still_for_a_while_and_must_then_come_at_its_rate() {
        let config = Config { min_rate: 500, ..Config::default() };
        let is_too_slow =
            |seconds, came| Pace { waited: Duration::from_secs(seconds), came, ..Pace::new(&config) }.is_too_slow();
        assert!(!is_too_slow(10, 0) && is_too_slow(12, 999) && !is_too_slow(12, 1_000));
    }
}
