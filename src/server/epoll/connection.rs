//! A connection while nobody but its owner has it: what has come, what is half done, and what it waits for next.

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::clients::Held;
use super::super::wire::{Asked, LOGGED, Malformed};
use super::budget::{Budget, Charge};
use super::framing::Rest;
use super::head::{self, Head, Search};
use super::poller::{Report, Token, Unread};
use super::reply::Reply;
use super::slots::{Guest, Place};
use super::stream::{Received, Stream};
use super::watcher::Watcher;
use crate::config::Config;
use crate::deadline;
use crate::error::{Error, Status};
use crate::http::headers::Headers;
use crate::http::request::{Body, Method, Request};
use crate::worker_share::{Shares, Wait};

/// How much is read at once.
const READ: usize = 16 << 10;

/// A body up to this is there to its end before a handler sees the request, so that no worker waits for it. Of a longer one
/// the handler reads the rest as it comes.
pub(super) const GATHERED: usize = 64 << 10;

/// How long a body may take whatever its rate: a phone that changes networks stands still for some seconds.
const RATE_GRACE: Duration = Duration::from_secs(10);

/// How long a client that is to hear no more may still send. Ended earlier, the system would drop the response that it has
/// not read yet.
pub(super) const LINGER: Duration = Duration::from_secs(1);
pub(super) const LINGER_UNREAD: Duration = Duration::from_secs(10);

/// How long a graceful shutdown waits for the request of a client that has just connected.
const FRESH: Duration = Duration::from_secs(1);

thread_local! {
    /// The buffer of the last connection that had nothing left in it.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub(super) struct Connection {
    pub(super) stream: Arc<Stream>,
    pub(super) remote: Option<SocketAddr>,
    /// What has come, and was not taken yet.
    pub(super) inbox: Vec<u8>,
    /// What the system holds for it.
    unread: Unread,
    /// Requests that have been answered.
    pub(super) served: u32,
    pub(super) phase: Phase,
    /// When it is ended, unless something happens before.
    pub(super) deadline: Instant,
    /// The arrival time of the first byte of the incomplete request.
    began: Instant,
    charge: Charge,
    /// The charge for its response, while the client does not read it.
    unsent: Charge,
    place: Place<Connection>,
}

/// What it is at.
pub(super) enum Phase {
    /// Waits for a request, or for the rest of a head.
    Head(Search),
    /// Waits for the rest of a small body.
    Body(Gathering),
    /// Has a request, and waits for its turn.
    Asked(Box<Ask>),
    /// A refused request waits for a worker: the application renders its error page.
    Refused(Box<Request>, Error),
    /// Waits for room to write.
    Reply(Box<Reply>),
    /// Is a live page, and waits for news.
    Live(Box<Watcher>),
    /// Passes over what is left of a body that nobody read.
    Drain(u64),
    /// Has said its last, and waits for the client to have read it.
    Linger,
}

/// A request whose body is on its way.
pub(super) struct Gathering {
    ask: Box<Ask>,
}

/// A request, with as much of its body as has come.
pub(super) struct Ask {
    pub(super) asked: Asked,
    pub(super) headers: Headers,
    pub(super) expects: bool,
    pub(super) rest: Rest,
    pub(super) body: Vec<u8>,
    /// The bytes of the request head.
    head: usize,
    /// Its upload slot of the client, once it waits for its turn.
    pub(super) upload: Option<Held>,
}

impl Ask {
    /// Returns the refused request, without its body.
    pub(super) fn into_refused(self, remote: Option<SocketAddr>) -> Request {
        Request::new(self.asked.method, self.asked.target, self.headers, Body::empty()).with_peer(remote)
    }

    fn held(&self) -> usize {
        self.head + self.body.capacity()
    }
}

/// What is to be done with a connection that somebody was woken for.
pub(super) enum Step {
    /// A request to answer.
    Ask(Box<Ask>),
    /// A request to refuse.
    Refuse(Box<Request>, Error),
    /// A response to go on with.
    Write,
    /// A live page to go on with.
    Watch,
    /// Nothing yet.
    Wait,
    /// It is over.
    End,
}

impl Guest for Connection {
    fn token(&self) -> Token {
        self.place.token()
    }

    fn stream(&self) -> &Stream {
        &self.stream
    }

    fn deadline(&self) -> Instant {
        self.deadline
    }

    /// A live page is while it is awake: one whose client reads nothing has no last word to hear.
    fn is_in_flight(&self) -> bool {
        match &self.phase {
            Phase::Head(_) | Phase::Drain(_) | Phase::Linger => false,
            Phase::Live(watcher) => watcher.is_flushed(),
            Phase::Body(_) | Phase::Asked(_) | Phase::Refused(..) | Phase::Reply(_) => true,
        }
    }

    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live(_))
    }

    fn has_asked(&self) -> bool {
        matches!(self.phase, Phase::Asked(_))
    }

    fn unsent(&self) -> Option<(Instant, usize)> {
        if let Phase::Reply(reply) = &self.phase { reply.unsent() } else { None }
    }

    fn unfinished(&self) -> Option<(Instant, usize)> {
        match &self.phase {
            Phase::Head(_) | Phase::Body(_) | Phase::Asked(_) => Some((self.began, self.held())),
            Phase::Refused(..) | Phase::Reply(_) | Phase::Live(_) | Phase::Drain(_) | Phase::Linger => None,
        }
        .filter(|(_, held)| *held > 0)
    }

    fn note(&mut self, unread: Unread) {
        self.unread = self.unread.max(unread);
    }

    fn has_read_all(&self) -> bool {
        self.unread == Unread::Nothing
    }

    /// What a client sends meanwhile is no reason to go on with a response, nor to be before others.
    fn is_due(&self, report: Report, is_called: bool) -> bool {
        match &self.phase {
            Phase::Head(_) | Phase::Body(_) | Phase::Drain(_) | Phase::Linger => true,
            Phase::Asked(_) | Phase::Refused(..) => is_called,
            Phase::Reply(_) => report.has_room,
            Phase::Live(watcher) if watcher.is_flushed() => is_called || report.unread == Unread::End,
            Phase::Live(_) => report.has_room || report.unread == Unread::End,
        }
    }
}

impl Connection {
    /// Returns true if a request is about to arrive: the connection was accepted, or the first bytes of a request arrived,
    /// a moment ago.
    /// ago.
    pub(super) fn is_fresh(&self, config: &Config) -> bool {
        let began = || self.deadline.checked_sub(config.head_timeout);
        let is_new = self.served == 0 || !self.inbox.is_empty();
        matches!(self.phase, Phase::Head(_)) && is_new && began().is_some_and(|began| began.elapsed() < FRESH)
    }

    pub(super) fn new(
        stream: Arc<Stream>,
        remote: Option<SocketAddr>,
        place: Place<Connection>,
        (budget, unsent): (&Arc<Budget>, &Arc<Budget>),
        config: &Config,
    ) -> Connection {
        Connection {
            stream,
            remote,
            inbox: Vec::new(),
            unread: Unread::Nothing,
            served: 0,
            phase: Phase::Head(Search::default()),
            deadline: deadline::after(config.head_timeout),
            began: Instant::now(),
            charge: Charge::new(budget),
            unsent: Charge::new(unsent),
            place,
        }
    }

    /// Goes on where it stands.
    pub(super) fn step(&mut self, config: &Config) -> Step {
        match self.phase {
            Phase::Head(_) | Phase::Body(_) => match self.receive(READ) {
                Received::Bytes { .. } => self.look(config),
                Received::Nothing => Step::Wait,
                Received::End => self.cut_short(),
            },
            Phase::Asked(_) => self.ask(),
            Phase::Refused(..) => self.refused(),
            Phase::Reply(_) => Step::Write,
            // There is nobody who looks at it.
            Phase::Live(_) if self.unread == Unread::End => Step::End,
            Phase::Live(_) => Step::Watch,
            Phase::Drain(left) => self.drain(left, config),
            Phase::Linger => self.hear_no_more(),
        }
    }

    fn receive(&mut self, room: usize) -> Received {
        if self.inbox.capacity() == 0 {
            self.inbox = SPARE.take();
        }
        let received = self.stream.receive(&mut self.inbox, room);
        // Less than there was room for was all: of what comes after it there is a new report.
        if self.unread == Unread::Something && !matches!(received, Received::Bytes { is_full: true }) {
            self.unread = Unread::Nothing;
        }
        received
    }

    /// Releases unused buffer space: a waiting connection holds its slot and the received bytes only.
    pub(super) fn rest(&mut self) {
        if 2 * self.inbox.len() < self.inbox.capacity() {
            let came = self.inbox.as_slice().to_vec();
            let mut buffer = std::mem::replace(&mut self.inbox, came);
            buffer.clear();
            SPARE.set(if buffer.capacity() <= 4 * READ { buffer } else { Vec::new() });
        }
        self.charge.set(self.held());
        self.unsent.set(self.unsent().map_or(0, |(_, bytes)| bytes));
    }

    /// Returns the bytes that it holds for incomplete requests.
    fn held(&self) -> usize {
        let ask = match &self.phase {
            Phase::Body(Gathering { ask }) | Phase::Asked(ask) => ask.held(),
            _ => 0,
        };
        self.inbox.capacity() + ask
    }

    /// Makes a request wait for its turn.
    pub(super) fn wait_for_turn(&mut self, ask: Box<Ask>) {
        self.began = Instant::now();
        self.phase = Phase::Asked(ask);
    }

    /// Stops reading, and waits for the client to close.
    pub(super) fn linger(&mut self, time: Duration) {
        self.inbox.clear();
        self.phase = Phase::Linger;
        self.deadline = deadline::after(time);
    }

    /// Begins with the next request, of which something may have come already.
    pub(super) fn next_request(&mut self, config: &Config) -> Step {
        self.phase = Phase::Head(Search::default());
        self.deadline = deadline::after(config.idle_timeout);
        if self.inbox.is_empty() { Step::Wait } else { self.look(config) }
    }

    /// Looks whether a request is there.
    fn look(&mut self, config: &Config) -> Step {
        match &mut self.phase {
            Phase::Head(search) => {
                let is_first = search.is_fresh();
                if let Some(other) = head::other_protocol(&self.inbox).filter(|_| is_first) {
                    return self.refuse(&other);
                }
                match search.end(&self.inbox, config) {
                    Ok(Some(end)) => self.begin(end, config),
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
            _ => self.gather(config),
        }
    }

    /// Has a head, and looks for the body.
    fn begin(&mut self, end: usize, config: &Config) -> Step {
        match head::parse(&self.inbox[..end], config) {
            Err(malformed) => self.refuse(&malformed),
            Ok(Head { asked, headers, expects }) => {
                self.inbox.drain(..end);
                let rest = Rest::from(asked.framing);
                let ask = Box::new(Ask {
                    asked,
                    headers,
                    expects: expects && !rest.is_whole(),
                    rest,
                    body: Vec::new(),
                    head: end,
                    upload: None,
                });
                if rest.is_whole() || ask.expects || matches!(rest, Rest::Length(length) if length > GATHERED as u64) {
                    return Step::Ask(ask);
                }
                self.began = Instant::now();
                self.phase = Phase::Body(Gathering { ask });
                self.gather(config)
            }
        }
    }

    /// Gathers a body that is small, as far as that is known.
    fn gather(&mut self, config: &Config) -> Step {
        let Phase::Body(gathering) = &mut self.phase else { return Step::End };
        let Ask { rest, body, .. } = &mut *gathering.ask;
        // One more than is gathered: then it is a large one.
        if let Err(malformed) = rest.take(&mut self.inbox, body, GATHERED + 1 - body.len().min(GATHERED)) {
            return self.refuse_ask(malformed.error());
        }
        if rest.is_whole() || body.len() > GATHERED {
            return self.ask();
        }
        let by_rate = Duration::from_secs(body.len() as u64 / config.min_rate.max(1));
        let by_rate = deadline::later(self.began, RATE_GRACE + by_rate);
        self.deadline = deadline::after(config.body_timeout).min(by_rate);
        Step::Wait
    }

    /// Takes the request out that it has.
    fn ask(&mut self) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Linger) {
            Phase::Body(Gathering { ask }) | Phase::Asked(ask) => Step::Ask(ask),
            _ => Step::End,
        }
    }

    /// What a client that has taken too long is told; nothing when it has not begun to ask.
    pub(super) fn overdue(&mut self, shares: &Shares) -> Step {
        match &self.phase {
            Phase::Head(_) if !self.inbox.is_empty() => {
                let words = "The head of the request did not come in time (ASIDE_HEAD_TIMEOUT).";
                Step::Refuse(Box::new(self.as_it_came()), Error::new(Status::REQUEST_TIMEOUT, words))
            }
            Phase::Body(_) => {
                let words = "The body did not come in time (ASIDE_BODY_TIMEOUT, ASIDE_MIN_RATE).";
                self.refuse_ask(Error::new(Status::REQUEST_TIMEOUT, words))
            }
            Phase::Asked(_) => self.refuse_ask(shares.refuse(Wait::Body)),
            Phase::Live(watcher) if watcher.is_flushed() => Step::Watch,
            _ => Step::End,
        }
    }

    fn refuse(&mut self, malformed: &Malformed) -> Step {
        let from = self.remote.map_or(String::new(), |remote| format!(" from {remote}"));
        log::info!(target: "aside::server", "A malformed request{from}: {}", malformed.1);
        Step::Refuse(Box::new(self.as_it_came()), malformed.error())
    }

    /// Stores a refusal until a worker takes it, for a limited time.
    pub(super) fn will_be_refused(&mut self, request: Box<Request>, error: Error, config: &Config) {
        self.phase = Phase::Refused(request, error);
        self.deadline = deadline::after(config.write_timeout);
    }

    /// Takes the stored refusal.
    fn refused(&mut self) -> Step {
        match std::mem::replace(&mut self.phase, Phase::Linger) {
            Phase::Refused(request, error) => Step::Refuse(request, error),
            _ => Step::End,
        }
    }

    /// The client sends nothing more. Of one that has asked for nothing yet there is nothing to say.
    fn cut_short(&mut self) -> Step {
        match self.phase {
            Phase::Body(_) => self.refuse_ask(Error::bad_request("The request's body was cut short.")),
            _ => Step::End,
        }
    }

    /// Refuses a request whose head is fine.
    fn refuse_ask(&mut self, error: Error) -> Step {
        match self.ask() {
            Step::Ask(ask) => Step::Refuse(Box::new(ask.into_refused(self.remote)), error),
            other => other,
        }
    }

    /// The request as far as a head that is refused can be trusted: what it asks for, cut to what fits in a log.
    fn as_it_came(&self) -> Request {
        let start = &self.inbox[..self.inbox.len().min(LOGGED)];
        let line = start.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split(' ');
        let method = Method::from(words.next().unwrap_or_default());
        let target = words.next().unwrap_or_default();
        Request::new(method, target, Headers::new(), Body::empty()).with_peer(self.remote)
    }

    /// Passes over what is left of a body, and begins with the next request behind it.
    fn drain(&mut self, left: u64, config: &Config) -> Step {
        if self.inbox.is_empty() && self.receive(READ) == Received::End {
            return Step::End;
        }
        let count = self.inbox.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.inbox.drain(..count);
        match left - count as u64 {
            0 => self.next_request(config),
            left => {
                self.phase = Phase::Drain(left);
                Step::Wait
            }
        }
    }

    fn hear_no_more(&mut self) -> Step {
        self.inbox.clear();
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

    use super::super::slots::Slots;
    use super::*;

    /// Returns a connection without a memory limit, and the client's side of it.
    fn accepted(config: &Config) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let stream = Arc::new(Stream::new(ours.into()));
        let (place, _) = Slots::new(1).enter(&stream).unwrap();
        let unlimited = (&Budget::new(usize::MAX), &Budget::new(usize::MAX));
        (Connection::new(stream, None, place, unlimited, config), theirs)
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
        assert!(matches!(connection.step(&config), Step::Ask(_)));
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
        let (place, _) = Slots::new(1).enter(&stream).unwrap();
        let began = Instant::now();
        let mut connection =
            Connection::new(stream, None, place, (&Budget::new(usize::MAX), &Budget::new(usize::MAX)), &config);
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
        let (place, _) = Slots::new(1).enter(&stream).unwrap();
        let mut connection = Connection::new(stream, None, place, (&budget, &budget), &config);
        for part in ["POST / HTTP/1.1\r\nHost: a\r\nContent-Le", "ngth: 60000\r\n\r\n", &"x".repeat(1_500)] {
            theirs.write_all(part.as_bytes()).unwrap();
            assert!(matches!(connection.step(&config), Step::Wait));
            connection.rest();
            assert!((1..4_000).contains(&connection.held()) && budget.excess().is_none(), "{}", connection.held());
        }
        theirs.write_all(&[b'x'; 4_000]).unwrap();
        assert!(matches!(connection.step(&config), Step::Wait));
        connection.rest();
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
        assert!(matches!(connection.step(&config), Step::Ask(_)));
        assert!(matches!(connection.next_request(&config), Step::Wait));
    }
}
