//! The buffered response of a connection, written in parts as the client reads: a slow client occupies no worker.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::time::Instant;

use super::stream::Stream;
use crate::background::run::Deferred;
use crate::http::response::{Response, ResponseBody};
use crate::server::http1::{self, PIECE, WriteOptions};

/// A response that is partly written.
pub(super) struct ResponseWriter {
    /// The response head, or a part of a file.
    buffer: Vec<u8>,
    source: Source,
    /// The number of bytes sent, of the buffer and of the body in memory after it.
    sent: usize,
    /// The time since which the client has not read.
    waits_since: Option<Instant>,
    pub(super) after: AfterResponse,
    /// The tasks that start when the last byte is sent.
    pub(super) deferred: Vec<Deferred>,
}

/// The source of the body.
enum Source {
    Bytes(Cow<'static, [u8]>),
    /// A file, which the kernel sends without a copy in this process (`sendfile`).
    File(File, u64),
    Reader(Box<dyn Read + Send>, u64),
}

/// The state of the connection after the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterResponse {
    /// The next request follows, after this number of unread bytes of the request body.
    Next(u64),
    /// The connection ends. `is_unread` is true if the client may still be sending.
    End { is_unread: bool },
}

impl ResponseWriter {
    /// Prepares a response that is not a stream.
    pub(super) fn new(mut response: Response, options: WriteOptions, after: AfterResponse) -> ResponseWriter {
        let deferred = response.take_deferred();
        let buffer = http1::head(&response, options, 0);
        let source = match response.body {
            _ if !options.has_body(response.status_code()) => Source::Bytes(Cow::Borrowed(&[])),
            ResponseBody::Bytes(bytes) => Source::Bytes(bytes),
            ResponseBody::File(file, length) => Source::File(file, length),
            ResponseBody::Reader(reader, length) => Source::Reader(reader, length),
            ResponseBody::Stream { .. } | ResponseBody::Source(_) => Source::Bytes(Cow::Borrowed(&[])),
        };
        ResponseWriter { buffer, source, sent: 0, waits_since: None, after, deferred }
    }

    /// Records that the client does not read.
    pub(super) fn wait(&mut self) {
        self.waits_since.get_or_insert_with(Instant::now);
    }

    /// Returns the time since which it waits, and the bytes that it holds in memory.
    pub(super) fn unsent(&self) -> Option<(Instant, usize)> {
        let bytes = if let Source::Bytes(Cow::Owned(bytes)) = &self.source { bytes.capacity() } else { 0 };
        self.waits_since.map(|since| (since, self.buffer.capacity() + bytes))
    }

    /// Sends as much as the socket accepts, and returns true if the response is complete.
    ///
    /// # Errors
    /// An error if the client has disconnected, or a file has become shorter.
    pub(super) fn write(&mut self, stream: &Stream) -> io::Result<bool> {
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
                    // The file system does not support `sendfile`: the file is read and sent.
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

    /// Returns true if a file follows after the buffer.
    fn has_more(&self) -> bool {
        matches!(self.source, Source::File(_, 1..))
    }

    /// Reads the next part into the buffer, and returns false if there is none.
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
        if count < piece { Err(http1::became_shorter()) } else { Ok(true) }
    }
}

/// Sends as much of a file as the socket accepts, and returns true if that was the last part.
fn send_file(stream: &Stream, file: &File, left: &mut u64) -> io::Result<bool> {
    while *left > 0 {
        match stream.send_file(file, *left)? {
            None => return Ok(false),
            Some(0) => return Err(http1::became_shorter()),
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
        // The kernel does not support `sendfile` for files in /proc.
        let file = File::open("/proc/self/status").unwrap();
        let mut response = Response::new();
        response.body = ResponseBody::File(file, 5);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let options = WriteOptions { http10: false, head_only: false, close: true };
        let mut writer = ResponseWriter::new(response, options, AfterResponse::Next(0));
        let stream = Stream::new(ours.into());
        assert!(writer.write(&stream).unwrap());
        drop(stream);
        let mut answer = String::new();
        theirs.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("\r\n\r\nName:"), "{answer}");
    }
}
