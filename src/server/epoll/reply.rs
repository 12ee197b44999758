//! A response on its way out, piece by piece as the client takes it: a slow reader costs no worker.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::time::Instant;

use super::super::wire::{self, PIECE, Terms};
use super::stream::Stream;
use crate::background::task::Deferred;
use crate::http::response::{Response, ResponseBody};

pub(super) struct Reply {
    /// The head, or a piece of a file.
    buffer: Vec<u8>,
    source: Source,
    /// How much of the buffer, and of bytes behind it, has gone out.
    sent: usize,
    /// The time since which the client has kept it waiting.
    waits_since: Option<Instant>,
    pub(super) after: After,
    /// What begins when the last byte has gone out.
    pub(super) set_aside: Vec<Deferred>,
}

/// Where the rest comes from.
enum Source {
    Bytes(Cow<'static, [u8]>),
    /// Which goes from the system's memory to the client without being copied to ours.
    File(File, u64),
    Reader(Box<dyn Read + Send>, u64),
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request, behind so much of a body that nobody read.
    Next(u64),
    /// The end, and whether the client may still be sending.
    End { is_unread: bool },
}

impl Reply {
    /// A response that is no stream.
    pub(super) fn new(mut response: Response, terms: Terms, after: After) -> Reply {
        let set_aside = response.take_deferred();
        let buffer = wire::head(&response, terms, 0);
        let source = match response.body {
            _ if !terms.has_body(response.status_code()) => Source::Bytes(Cow::Borrowed(&[])),
            ResponseBody::Bytes(bytes) => Source::Bytes(bytes),
            ResponseBody::File(file, length) => Source::File(file, length),
            ResponseBody::Reader(reader, length) => Source::Reader(reader, length),
            ResponseBody::Stream(_) | ResponseBody::Feed(_) => Source::Bytes(Cow::Borrowed(&[])),
        };
        Reply { buffer, source, sent: 0, waits_since: None, after, set_aside }
    }

    /// Waits for the client to read.
    pub(super) fn wait(&mut self) {
        self.waits_since.get_or_insert_with(Instant::now);
    }

    /// Returns the time since which it waits, and the bytes that it holds in memory.
    pub(super) fn unsent(&self) -> Option<(Instant, usize)> {
        let bytes = if let Source::Bytes(Cow::Owned(bytes)) = &self.source { bytes.capacity() } else { 0 };
        self.waits_since.map(|since| (since, self.buffer.capacity() + bytes))
    }

    /// Sends as much as the client takes, and says whether that was the last of it.
    ///
    /// # Errors
    /// When the client is gone, or a file has become shorter.
    pub(super) fn push(&mut self, stream: &Stream) -> io::Result<bool> {
        loop {
            let bytes: &[u8] = if let Source::Bytes(bytes) = &self.source { bytes } else { &[] };
            let whole = self.buffer.len() + bytes.len();
            while self.sent < whole {
                let (head, body) = (self.sent.min(self.buffer.len()), self.sent.saturating_sub(self.buffer.len()));
                let parts = [IoSlice::new(&self.buffer[head..]), IoSlice::new(&bytes[body..])];
                match stream.send(&parts, self.has_more())? {
                    0 => return Ok(false),
                    count => self.sent += count,
                }
            }
            if let Source::File(file, left) = &mut self.source {
                match send_file(stream, file, left) {
                    // Its file system does not know how: then it is read like anything else.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                        self.source = Source::Reader(Box::new(file.try_clone()?), *left);
                    }
                    sent => return sent,
                }
            }
            if !self.refill()? {
                return Ok(true);
            }
        }
    }

    /// Whether a file comes behind what is in the buffer.
    fn has_more(&self) -> bool {
        matches!(self.source, Source::File(_, 1..))
    }

    /// Reads the next piece into the buffer, when there is one.
    fn refill(&mut self) -> io::Result<bool> {
        let Source::Reader(reader, left) = &mut self.source else { return Ok(false) };
        let piece = (*left).min(PIECE as u64);
        if piece == 0 {
            return Ok(false);
        }
        self.buffer.clear();
        self.sent = 0;
        let count = reader.take(piece).read_to_end(&mut self.buffer)? as u64;
        *left -= count;
        if count < piece { Err(wire::has_become_shorter()) } else { Ok(true) }
    }
}

/// Sends as much of a file as the client takes, and says whether that was the last of it.
fn send_file(stream: &Stream, file: &File, left: &mut u64) -> io::Result<bool> {
    while *left > 0 {
        match stream.send_file(file, *left)? {
            None => return Ok(false),
            Some(0) => return Err(wire::has_become_shorter()),
            Some(count) => *left -= count,
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_file_that_cannot_be_sent_is_read() {
        // Of what lies in /proc the system gives out nothing but by reading.
        let file = File::open("/proc/self/status").unwrap();
        let mut response = Response::new();
        response.body = ResponseBody::File(file, 5);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let terms = Terms { http10: false, head_only: false, close: true };
        let mut reply = Reply::new(response, terms, After::Next(0));
        let stream = Stream::new(ours.into());
        assert!(reply.push(&stream).unwrap());
        drop(stream);
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nName:"), "{answer}");
    }
}
