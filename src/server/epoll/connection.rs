//! The state of one connection: its received bytes, its incomplete request or response, and the event that it waits for.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::{Budget, Charge};
use super::connection_table::{Reservation, TableEntry};
use super::framing::Remaining;
use super::head::{self, Head, Search};
use super::live_page::LivePage;
use super::poller::{Report, Token, Unread};
use super::response::ResponseWriter;
use super::stream::{Received, Stream};
use crate::config::Config;
use crate::deadline;
use crate::error::Error;
use crate::http::headers::Headers;
use crate::http::request::{Body, Method, Request, too_slow};
use crate::server::RATE_GRACE;
use crate::server::clients::Held;
use crate::server::http1::{CheckedHead, LOGGED, Malformed};
use crate::worker_share::{Shares, Wait};

/// The number of bytes that one read takes at least.
const READ: usize = 16 << 10;

/// The largest body, in bytes, that is read completely before the handler runs, so that no worker waits for it. The handler
/// reads a larger body while it arrives.
pub(super) const SMALL_BODY: usize = 64 << 10;

/// How long a graceful shutdown waits for the request of a client that has just connected.
const FRESH: Duration = Duration::from_secs(1);

thread_local! {
    /// An empty buffer, taken from the last connection that did not need it.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection.
pub(super) struct Connection {
    pub(super) stream: Arc<Stream>,
    pub(super) remote: Option<SocketAddr>,
    /// The received bytes that are not parsed yet.
    pub(super) input: Vec<u8>,
    /// What the kernel holds for this connection.
    unread: Unread,
    /// The number of requests that were handled.
    pub(super) served: u32,
    pub(super) phase: Phase,
    /// The time at which the connection is closed, unless something happens before.
    pub(super) deadline: Instant,
    /// The arrival time of the first byte of the incomplete request.
    began: Instant,
    charge: Charge,
    /// The charge for its response, while the client does not read it.
    unsent: Charge,
    slot: Reservation<Connection>,
}

/// The state of a connection.
pub(super) enum Phase {
    /// Waits for a request, or for the rest of its head.
    Head(Search),
    /// Waits for the rest of a small body.
    Body(IncompleteBody),
    /// Waits with a request until one more worker may wait for a large body.
    Queued(Box<PendingRequest>),
    /// A refused request waits for a worker: the application renders its error page.
    Refused(Box<Request>, Error),
    /// Waits with a response until the socket is writable.
    Write(Box<ResponseWriter>),
    /// Waits for the next change of a live page.
    Live(Box<LivePage>),
    /// Discards the rest of a body that the handler did not read, with the remaining number of bytes.
    Drain(u64),
    /// Waits until the client has read the last response and closes the connection.
    Linger,
}

/// A request whose small body is incomplete.
pub(super) struct IncompleteBody {
    pending: Box<PendingRequest>,
}

/// A request with the received part of its body.
pub(super) struct PendingRequest {
    pub(super) checked: CheckedHead,
    pub(super) headers: Headers,
    pub(super) expects: bool,
    pub(super) rest: Remaining,
    pub(super) body: Vec<u8>,
    /// The bytes of the request head.
    head_bytes: usize,
    /// The client's upload slot, taken before the request waits for its turn.
    pub(super) upload: Option<Held>,
}

impl PendingRequest {
    /// Returns the refused request, without its body.
    pub(super) fn into_refused(self, remote: Option<SocketAddr>) -> Request {
        self.checked.into_refused(self.headers, remote)
    }

    fn held(&self) -> usize {
        self.head_bytes + self.body.capacity()
    }
}

/// The next step for a connection.
pub(super) enum Step {
    /// Handle a request.
    Handle(Box<PendingRequest>),
    /// Refuse a request.
    Refuse(Box<Request>, Error),
    /// Continue to write a response.
    Write,
    /// Write the next events of a live page.
    Live,
    /// Wait for the next event.
    Wait,
    /// Close the connection.
    End,
}

impl TableEntry for Connection {
    fn token(&self) -> Token {
        self.slot.token()
    }

    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A live page counts only if its client reads: otherwise the client would not receive the end of the page either.
    fn is_in_flight(&self) -> bool {
        match &self.phase {
            Phase::Head(_) | Phase::Drain(_) | Phase::Linger => false,
            Phase::Live(page) => page.is_flushed(),
            Phase::Body(_) | Phase::Queued(_) | Phase::Refused(..) | Phase::Write(_) => true,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live(_))
    }

    fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Queued(_))
    }

    fn unsent(&self) -> Option<(Instant, usize)> {
        if let Phase::Write(writer) = &self.phase { writer.unsent() } else { None }
    }

    fn unfinished(&self) -> Option<(Instant, usize)> {
        match &self.phase {
            Phase::Head(_) | Phase::Body(_) | Phase::Queued(_) => Some((self.began, self.held())),
            Phase::Refused(..) | Phase::Write(_) | Phase::Live(_) | Phase::Drain(_) | Phase::Linger => None,
        }
        .filter(|(_, held)| *held > 0)
    }

    fn note(&mut self, unread: Unread) {
        self.unread = self.unread.max(unread);
    }

    fn has_read_all(&self) -> bool {
        self.unread == Unread::Nothing
    }

    /// Further input neither wakes a connection that waits to write, nor moves it ahead of others.
    fn is_due(&self, report: Report, is_woken: bool) -> bool {
        match &self.phase {
            Phase::Head(_) | Phase::Body(_) | Phase::Drain(_) | Phase::Linger => true,
            Phase::Queued(_) | Phase::Refused(..) => is_woken,
            Phase::Write(_) => report.is_writable,
            Phase::Live(page) if page.is_flushed() => is_woken || report.unread == Unread::End,
            Phase::Live(_) => report.is_writable || report.unread == Unread::End,
        }
    }
}

impl Connection {
    /// Returns true if a request is about to arrive: the connection was accepted, or the first bytes of a request arrived,
    /// a moment ago.
    pub(super) fn is_fresh(&self, config: &Config) -> bool {
        let began = || self.deadline.checked_sub(config.head_timeout);
        let is_new = self.served == 0 || !self.input.is_empty();
        matches!(self.phase, Phase::Head(_)) && is_new && began().is_some_and(|began| began.elapsed() < FRESH)
    }

    pub(super) fn new(
        stream: Arc<Stream>,
        remote: Option<SocketAddr>,
        slot: Reservation<Connection>,
        (budget, unsent): (&Arc<Budget>, &Arc<Budget>),
        config: &Config,
    ) -> Connection {
        Connection {
            stream,
            remote,
            input: Vec::new(),
            unread: Unread::Nothing,
            served: 0,
            phase: Phase::Head(Search::default()),
            deadline: deadline::after(config.head_timeout),
            began: Instant::now(),
            charge: Charge::new(budget),
            unsent: Charge::new(unsent),
            slot,
        }
    }

    /// Reads the input, and returns the next step.
    pub(super) fn step(&mut self, config: &Config) -> Step {
        match self.phase {
            Phase::Head(_) | Phase::Body(_) => match self.receive(READ) {
                Received::Bytes { .. } => self.parse(config),
                Received::Nothing => Step::Wait,
                Received::End => self.cut_short(),
            },
            Phase::Queued(_) => self.take_request(),
            Phase::Refused(..) => self.take_refusal(),
            Phase::Write(_) => Step::Write,
            // The client has disconnected.
            Phase::Live(_) if self.unread == Unread::End => Step::End,
            Phase::Live(_) => Step::Live,
            Phase::Drain(left) => self.discard_body(left, config),
            Phase::Linger => self.discard_input(),
        }
    }

    fn receive(&mut self, capacity: usize) -> Received {
        if self.input.capacity() == 0 {
            self.input = SPARE.take();
        }
        let received = self.stream.receive(&mut self.input, capacity);
        // A read that did not fill the buffer has emptied the socket; the epoll reports later input.
        if self.unread == Unread::Something && !matches!(received, Received::Bytes { is_full: true }) {
            self.unread = Unread::Nothing;
        }
        received
    }

    /// Releases unused buffer space: a waiting connection holds its slot and the received bytes only.
    pub(super) fn shrink(&mut self) {
        if 2 * self.input.len() < self.input.capacity() {
            let received = self.input.as_slice().to_vec();
            let mut buffer = std::mem::replace(&mut self.input, received);
            buffer.clear();
            SPARE.set(if buffer.capacity() <= 4 * READ { buffer } else { Vec::new() });
        }
        self.charge.set(self.held());
        self.unsent.set(self.unsent().map_or(0, |(_, bytes)| bytes));
    }

    /// Returns the bytes that it holds for incomplete requests.
    fn held(&self) -> usize {
        let pending = match &self.phase {
            Phase::Body(IncompleteBody { pending }) | Phase::Queued(pending) => pending.held(),
            _ => 0,
        };
        self.input.capacity() + pending
    }

    /// Makes a request wait for its turn.
    pub(super) fn wait_for_turn(&mut self, pending: Box<PendingRequest>) {
        self.began = Instant::now();
        self.phase = Phase::Queued(pending);
    }

    /// Stops reading, and waits for the client to close.
    pub(super) fn linger(&mut self, time: Duration) {
        self.input.clear();
        self.phase = Phase::Linger;
        self.deadline = deadline::after(time);
    }

    /// Starts with the next request, which may have arrived in part.
    pub(super) fn next_request(&mut self, config: &Config) -> Step {
        self.phase = Phase::Head(Search::default());
        self.deadline = deadline::after(config.idle_timeout);
        if self.input.is_empty() { Step::Wait } else { self.parse(config) }
    }

    /// Parses the input, and returns the next step.
    fn parse(&mut self, config: &Config) -> Step {
        match &mut self.phase {
            Phase::Head(search) => {
                let is_first = search.is_fresh();
                if let Some(other) = head::other_protocol(&self.input).filter(|_| is_first) {
                    return self.refuse(&other);
                }
                match search.end(&self.input, config) {
                    Ok(Some(end)) => self.parse_head(end, config),
                    Ok(None) => {
                        if is_first {
                            self.began = Instant::now();
                            self.deadline = deadline::later(self.began, config.head_timeout);
                        }
                        Step::Wait
                    }
                    Err(malformed) => self.refuse(&malformed),
                }
            }
            _ => self.collect_body(config),
        }
    }

    /// Parses a complete request head, and continues with the body.
    fn parse_head(&mut self, end: usize, config: &Config) -> Step {
        match head::parse(&self.input[..end], config) {
            Err(malformed) => self.refuse(&malformed),
            Ok(Head { checked, headers, expects }) => {
                self.input.drain(..end);
                let rest = Remaining::from(checked.framing);
                let pending = Box::new(PendingRequest {
                    checked,
                    headers,
                    expects: expects && !rest.is_complete(),
                    rest,
                    body: Vec::new(),
                    head_bytes: end,
                    upload: None,
                });
                if rest.is_complete()
                    || pending.expects
                    || matches!(rest, Remaining::Length(length) if length > SMALL_BODY as u64)
                {
                    return Step::Handle(pending);
                }
                self.began = Instant::now();
                self.phase = Phase::Body(IncompleteBody { pending });
                self.collect_body(config)
            }
        }
    }

    /// Collects a body that is small or whose length is unknown yet.
    fn collect_body(&mut self, config: &Config) -> Step {
        let Phase::Body(incomplete) = &mut self.phase else { return Step::End };
        let PendingRequest { rest, body, .. } = &mut *incomplete.pending;
        // One byte above the limit marks the body as large.
        if let Err(malformed) = rest.take(&mut self.input, body, SMALL_BODY + 1 - body.len().min(SMALL_BODY)) {
            return self.refuse_pending(malformed.error());
        }
        if rest.is_complete() || body.len() > SMALL_BODY {
            return self.take_request();
        }
        let by_rate = Duration::from_secs(body.len() as u64 / config.min_rate.max(1));
        let by_rate = deadline::later(self.began, RATE_GRACE + by_rate);
        self.deadline = deadline::after(config.body_timeout).min(by_rate);
        Step::Wait
    }

    /// Takes the request out of the phase.
    fn take_request(&mut self) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Linger) {
            Phase::Body(IncompleteBody { pending }) | Phase::Queued(pending) => Step::Handle(pending),
            _ => Step::End,
        }
    }

    /// Returns the step at the deadline: a refusal if a request has begun, and otherwise the end.
    pub(super) fn overdue(&mut self, shares: &Shares) -> Step {
        match &self.phase {
            Phase::Head(_) if !self.input.is_empty() => {
                let detail = "the request head did not arrive in time (ASIDE_HEAD_TIMEOUT)";
                Step::Refuse(Box::new(self.untrusted_request()), too_slow(detail))
            }
            Phase::Body(_) => {
                let detail = "the request body did not arrive in time (ASIDE_BODY_TIMEOUT, ASIDE_MIN_RATE)";
                self.refuse_pending(too_slow(detail))
            }
            Phase::Queued(_) => self.refuse_pending(shares.refuse(Wait::Body)),
            Phase::Live(page) if page.is_flushed() => Step::Live,
            _ => Step::End,
        }
    }

    fn refuse(&mut self, malformed: &Malformed) -> Step {
        let from = self.remote.map_or(String::new(), |remote| format!(" from {remote}"));
        log::info!(target: "aside::server", "Refused a malformed request{from}: {}", malformed.1);
        Step::Refuse(Box::new(self.untrusted_request()), malformed.error())
    }

    /// Stores a refusal until a worker takes it, for a limited time.
    pub(super) fn defer_refusal(&mut self, request: Box<Request>, error: Error, config: &Config) {
        self.phase = Phase::Refused(request, error);
        self.deadline = deadline::after(config.write_timeout);
    }

    /// Takes the stored refusal.
    fn take_refusal(&mut self) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Linger) {
            Phase::Refused(request, error) => Step::Refuse(request, error),
            _ => Step::End,
        }
    }

    /// Returns the step after the client has closed its side: a refusal of an incomplete body, and otherwise the end.
    fn cut_short(&mut self) -> Step {
        match self.phase {
            Phase::Body(_) => self.refuse_pending(Error::bad_request("The request body ended early.")),
            _ => Step::End,
        }
    }

    /// Refuses a request whose head is valid.
    fn refuse_pending(&mut self, error: Error) -> Step {
        match self.take_request() {
            Step::Handle(pending) => Step::Refuse(Box::new(pending.into_refused(self.remote)), error),
            other => other,
        }
    }

    /// Returns the request line of a refused head as a request without headers, cut to the length that is logged.
    fn untrusted_request(&self) -> Request {
        let start = &self.input[..self.input.len().min(LOGGED)];
        let line = start.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut parts = line.split(' ');
        let method = Method::from(parts.next().unwrap_or_default());
        let target = parts.next().unwrap_or_default();
        Request::new(method, target, Headers::new(), Body::empty()).with_peer(self.remote)
    }

    /// Discards the rest of a body, and starts with the next request after it.
    fn discard_body(&mut self, left: u64, config: &Config) -> Step {
        if self.input.is_empty() && self.receive(READ) == Received::End {
            return Step::End;
        }
        let count = self.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.input.drain(..count);
        match left - count as u64 {
            0 => self.next_request(config),
            left => {
                self.phase = Phase::Drain(left);
                Step::Wait
            }
        }
    }

    fn discard_input(&mut self) -> Step {
        self.input.clear();
        match self.receive(READ) {
            Received::End => Step::End,
            _ => Step::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::server::epoll::connection_table::ConnectionTable;

    /// Returns a connection without a memory limit, and the client's side of it.
    fn accepted(config: &Config) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Arc::new(Stream::new(ours.into()));
        let (slot, _) = ConnectionTable::new(1).enter(&stream).unwrap();
        let unlimited = (&Budget::new(usize::MAX), &Budget::new(usize::MAX));
        (Connection::new(stream, None, slot, unlimited, config), theirs)
    }

    #[test]
    fn a_stop_waits_for_the_request_of_a_client_that_has_just_connected() {
        let config = Config::default();
        let (mut connection, mut theirs) = accepted(&config);
        assert!(connection.is_fresh(&config), "it was accepted now");
        connection.deadline -= FRESH;
        assert!(!connection.is_fresh(&config), "it was accepted long ago");
        theirs.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        assert!(matches!(connection.step(&config), Step::Wait));
        assert!(connection.is_fresh(&config), "a request has begun now");
        theirs.write_all(b"Host: a\r\n\r\n").unwrap();
        assert!(matches!(connection.step(&config), Step::Handle(_)));
        connection.served = 1;
        assert!(matches!(connection.next_request(&config), Step::Wait));
        assert!(!connection.is_fresh(&config), "it was answered, and waits for its next request");
    }

    #[test]
    fn a_small_body_has_a_moment_and_then_the_time_that_its_rate_gives_it() {
        let config = Config { min_rate: 10, body_timeout: Duration::from_secs(3_600), ..Config::default() };
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Arc::new(Stream::new(ours.into()));
        let (slot, _) = ConnectionTable::new(1).enter(&stream).unwrap();
        let began = Instant::now();
        let mut connection =
            Connection::new(stream, None, slot, (&Budget::new(usize::MAX), &Budget::new(usize::MAX)), &config);
        theirs.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n").unwrap();
        for seconds in [10, 13, 16] {
            assert!(matches!(connection.step(&config), Step::Wait));
            let allowed = Duration::from_secs(seconds);
            assert!((began + allowed..Instant::now() + allowed).contains(&connection.deadline), "{seconds}");
            theirs.write_all(&[b'x'; 30]).unwrap();
        }
    }

    /// Regression: it held the 16 kB of one read, and up to 64 kB after a buffer was reused.
    #[test]
    fn an_incomplete_request_holds_only_its_received_bytes() {
        let (config, budget) = (Config::default(), Budget::new(4_000));
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Arc::new(Stream::new(ours.into()));
        let (slot, _) = ConnectionTable::new(1).enter(&stream).unwrap();
        let mut connection = Connection::new(stream, None, slot, (&budget, &budget), &config);
        for part in ["POST / HTTP/1.1\r\nHost: a\r\nContent-Le", "ngth: 60000\r\n\r\n", &"x".repeat(1_500)] {
            theirs.write_all(part.as_bytes()).unwrap();
            assert!(matches!(connection.step(&config), Step::Wait));
            connection.shrink();
            assert!((1..4_000).contains(&connection.held()) && budget.excess().is_none(), "{}", connection.held());
        }
        theirs.write_all(&[b'x'; 4_000]).unwrap();
        assert!(matches!(connection.step(&config), Step::Wait));
        connection.shrink();
        assert!(budget.excess().is_some());
        drop(connection);
        assert!(budget.excess().is_none());
    }

    #[test]
    fn a_connection_without_time_limits_is_read() {
        let times = (Duration::MAX, Duration::MAX, Duration::MAX);
        let (head_timeout, body_timeout, idle_timeout) = times;
        let config = Config { head_timeout, body_timeout, idle_timeout, ..Config::default() };
        let (mut connection, mut theirs) = accepted(&config);
        theirs.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na").unwrap();
        assert!(matches!(connection.step(&config), Step::Wait));
        theirs.write_all(b"bc").unwrap();
        assert!(matches!(connection.step(&config), Step::Handle(_)));
        assert!(matches!(connection.next_request(&config), Step::Wait));
    }
}
