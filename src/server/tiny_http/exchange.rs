//! A request of tiny_http and the state of its body.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::body::{Pace, ReadTimeout, Upload};
use crate::http::headers::Headers;
use crate::http::request::{Body, Method, Request};
use crate::server::http1::{CheckedHead, Framing, LOGGED, Malformed};
use crate::server::socket;
use crate::sync::lock;

/// The largest declared body, in bytes, that tiny_http may drain: it allocates the unread rest in one block.
const HUGE: u64 = 256 << 20;

/// The largest unread rest of a body, in bytes, that is discarded to keep the connection open.
const UNREAD: u64 = 256 << 10;

/// The largest body, in bytes, that tiny_http reads with the head, unless the client waits for a 100.
const READ_AHEAD: u64 = 1024;

/// A request of tiny_http, shared by the reader of its body and the writer of its response.
pub(super) struct Exchange {
    pub(super) request: Option<tiny_http::Request>,
    pub(super) framing: Framing,
    pub(super) closes_itself: bool,
    /// The length of the body as tiny_http reads it, whatever this crate reads from the head.
    tiny_http_length: u64,
    /// True if tiny_http treats all further input of the connection as the body.
    upgrade: bool,
    expects: bool,
    pub(super) remote: Option<SocketAddr>,
    pub(super) port: u16,
    read: u64,
    has_started: bool,
    ended: bool,
    broken: bool,
    pace: Pace,
    /// The read timeout, while the body is read.
    timeout: Option<ReadTimeout>,
    /// The permission to wait for more of the body.
    pub(super) upload: Option<Upload>,
}

/// The state of a request body before the response is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyState {
    /// Complete: the next request follows.
    Complete,
    /// Malformed or cut short: the following bytes are undefined.
    Broken,
    /// Not completely read, and too long to wait for.
    Unread,
}

impl Exchange {
    pub(super) fn new(
        request: tiny_http::Request,
        head: &Result<CheckedHead, Malformed>,
        (remote, port): (Option<SocketAddr>, u16),
        pace: Pace,
    ) -> Exchange {
        let upgrade = is_upgrade(&request);
        Exchange {
            framing: head.as_ref().map_or(Framing::Nothing, |checked| checked.framing),
            tiny_http_length: if upgrade { 0 } else { request.body_length().unwrap_or(0) as u64 },
            upgrade,
            closes_itself: closes_itself(&request),
            expects: request.headers().iter().any(|header| header.field.equiv("Expect")),
            request: Some(request),
            remote,
            port,
            read: 0,
            has_started: false,
            ended: false,
            broken: false,
            pace,
            timeout: None,
            upload: None,
        }
    }

    /// Returns true if the body is read from the connection, and has not arrived with its head.
    pub(super) fn must_wait(&self) -> bool {
        match self.framing {
            Framing::Nothing => false,
            Framing::Length(length) => length > READ_AHEAD || (length > 0 && (self.expects || self.upgrade)),
            Framing::Chunked => true,
        }
    }

    pub(super) fn is_huge(&self) -> bool {
        self.tiny_http_length > HUGE
    }

    /// Returns the request line of a refused head as a request without headers, cut to the length that is logged.
    pub(super) fn untrusted_request(&self) -> Request {
        let (method, target) =
            self.request.as_ref().map_or(("", ""), |request| (request.method().as_str(), request.url()));
        let short = |text: &str| text.chars().take(LOGGED).collect::<String>();
        let method = Method::from(short(method).as_str());
        Request::new(method, short(target), Headers::new(), Body::empty()).with_peer(self.remote)
    }

    /// Returns true if tiny_http may read more of the body before it returns a writer.
    pub(super) fn may_drain(&self) -> bool {
        self.tiny_http_length > READ_AHEAD || (self.tiny_http_length > 0 && self.expects)
    }

    /// Reads a part of the body. tiny_http reports a body that was cut short as complete.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.request.is_none() {
            return Err(io::Error::other("the body was read after its response"));
        }
        if self.broken {
            return Err(cut_short());
        }
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        if !std::mem::replace(&mut self.has_started, true) && self.must_wait() {
            self.timeout = self.remote.and_then(|remote| ReadTimeout::begin(remote, self.port, self.pace.timeout));
        }
        let most = match self.framing {
            Framing::Length(length) => buffer.len().min(usize::try_from(length - self.read).unwrap_or(usize::MAX)),
            _ => buffer.len(),
        };
        let began = Instant::now();
        let result = match (self.is_over(), &mut self.request) {
            (Err(timeout), _) => Err(timeout),
            (Ok(false), Some(request)) if most > 0 => request.as_reader().read(&mut buffer[..most]),
            _ => Ok(0),
        };
        let result = self.pace.check(result, began.elapsed());
        match result {
            Ok(0) => self.ended = true,
            Ok(count) => self.read += count as u64,
            Err(_) => self.broken = true,
        }
        if self.ended || self.broken || self.framing == Framing::Length(self.read) {
            self.upload = None;
        }
        if self.ended && self.was_cut() {
            self.broken = true;
            return Err(cut_short());
        }
        result
    }

    /// Waits for more of a body with much left, and returns true if the client has closed the connection. tiny_http would
    /// notice that too, but allocate the rest ([`drain`]). The few bytes that it buffers do not end such a body.
    ///
    /// # Errors
    /// An error if nothing arrives within the time limit.
    fn is_over(&self) -> io::Result<bool> {
        let is_long = matches!(self.framing, Framing::Length(length) if length - self.read > UNREAD);
        match &self.timeout {
            Some(timeout) if is_long => timeout.is_at_end(),
            _ => Ok(false),
        }
    }

    fn was_cut(&self) -> bool {
        match self.framing {
            Framing::Length(length) => self.read < length,
            Framing::Chunked => {
                let peer = self.remote.and_then(|remote| socket::find(remote, self.port));
                // At the end of the last body of a connection tiny_http drops its reader and closes our side.
                let is_open = peer.map(|peer| peer.is_open(self.closes_itself));
                // The body of a closed connection is incomplete. Without the search for sockets this is unknown.
                !is_open.unwrap_or(!cfg!(unix))
            }
            Framing::Nothing => false,
        }
    }

    /// Reads a short rest of the body, and returns the state of the body.
    pub(super) fn finish_body(&mut self) -> BodyState {
        let body_state = self.read_remaining();
        // A search for the socket must not find the duplicate.
        self.timeout = None;
        body_state
    }

    fn read_remaining(&mut self) -> BodyState {
        let unasked = self.expects && !self.has_started;
        match self.framing {
            Framing::Nothing => BodyState::Complete,
            Framing::Length(0) => BodyState::Complete,
            Framing::Length(length) if length <= READ_AHEAD && !self.expects && !self.upgrade => BodyState::Complete,
            Framing::Length(length) if self.read == length => BodyState::Complete,
            _ if self.pace.is_overdue => BodyState::Unread,
            // tiny_http would allocate the rest.
            Framing::Length(length) if self.broken && length - self.read > UNREAD => BodyState::Unread,
            _ if self.broken => BodyState::Broken,
            Framing::Length(length) if unasked || length - self.read > UNREAD => BodyState::Unread,
            Framing::Chunked if self.ended => BodyState::Complete,
            Framing::Chunked if unasked => BodyState::Broken,
            _ => self.read_rest(),
        }
    }

    fn read_rest(&mut self) -> BodyState {
        let mut buffer = [0; 8 << 10];
        let until = self.read + UNREAD;
        while self.read < until {
            match self.read(&mut buffer) {
                Ok(0) => return BodyState::Complete,
                Ok(_) => {}
                Err(_) => return BodyState::Broken,
            }
        }
        let done = self.framing == Framing::Length(self.read);
        if done { BodyState::Complete } else { BodyState::Broken }
    }
}

/// The reader of a request body, for the handler.
pub(super) struct BodyReader(pub(super) Arc<Mutex<Exchange>>);

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        lock(&self.0).read(buffer)
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")
}

/// Returns true if the first `Connection` header contains `word`, also as a part of a longer word. tiny_http reads the header
/// like this, while [`http1::check`] compares whole words in all `Connection` headers.
fn connection_has(request: &tiny_http::Request, word: &str) -> bool {
    let connection = request.headers().iter().find(|header| header.field.equiv("Connection"));
    let within =
        |value: &str| value.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
    connection.is_some_and(|header| within(header.value.as_str()))
}

pub(super) fn is_upgrade(request: &tiny_http::Request) -> bool {
    connection_has(request, "upgrade")
}

/// Returns true if tiny_http itself closes the connection after this request, by its own rules.
pub(super) fn closes_itself(request: &tiny_http::Request) -> bool {
    let old = *request.http_version() == (1, 0);
    connection_has(request, "close") || is_upgrade(request) || (old && !connection_has(request, "keep-alive"))
}
