//! The transport over the tiny_http crate, and what must be seen to on top of it.
//!
//! tiny_http 0.12 reads heads and keeps connections; we look at each head again ([`wire::check`]), read the body through
//! it, and write the response ourselves, in one write. What it does that we work around is said where we do.
//!
//! A connection is closed by finding its socket among our descriptors ([`socket`]), since tiny_http does not give it out:
//! after a head that is refused, what follows on that connection may be meant to be read as a request, and is not.
//!
//! What cannot be mended from here, and needs a proxy in front or another transport (`tests/it/conformance` has a probe for
//! each that can be tried, so that this list stays true):
//! - There is no limit on the bytes of a head, nor on connections. A head that does not arrive in time ends its connection,
//!   up to two seconds late and without a response. On a connection that was used before, the idle time is added.
//! - A TLS handshake ends in the same way. A PROXY protocol header gets a bare 400 without a log line.
//! - A request line that ends in `HTTP/2.0`, and a declared body above 256 MiB, each cost a thread and two descriptors
//!   until the process ends. We count and log the latter.
//! - What tiny_http refuses by itself (400, 417) has an empty body, no request id, no default headers, no line in the
//!   access log, and does not say that the connection is closed. Bytes outside ASCII in a head, and a body of up to 1 KiB
//!   that is cut short, close it without any answer.
//! - Lines are trimmed before we see them, and what follows the version on the request line is dropped. So a continuation
//!   line is taken for a header, and a vertical tab, a form feed, a CR or an LF around a line or a value is gone. An empty
//!   line before a request, which should be passed over, is refused.
//! - A chunk's size may have a plus sign before it and white space around it, line feeds too; its extension is not looked
//!   at, and may have a line feed; neither has a limit to its length.
//! - `close` within a longer word of the first `Connection` header ends the connection.
//! - A body in HTTP/1.0 with `Expect` is refused (417), since tiny_http would send it a 100. An upgrade with a chunked body
//!   is refused.
//! - A connection closes after each chunked body, since other servers read the sizes above differently.
//! - A body of up to 1 KiB that stalls ends its connection like a slow head, without a response. Where sockets cannot be
//!   duplicated (not on Linux), a longer body that stalls has no time limit.
//! - Requests that a client sends without waiting for responses are handled side by side; their responses are in order.
//! - A chunked body with trailers is refused (400). One that is cut short is told from one after which the client shut
//!   its side by nothing: both are refused.
//! - Of connections that come at the same instant some get no thread: tiny_http counts an idle one that was given a
//!   connection already. [`Nudges`] free them, one each 10 ms.
//! - A request behind a live page on its connection occupies a worker until the page ends, and so does a response that its
//!   client does not read. When all workers are busy, the slowest of these connections are closed
//!   ([`outgoing`](super::outgoing)).
//! - A live page ends when its client sends, without waiting for that, a request with `Connection: close` behind it: our
//!   side of the connection is then shut for reading, which looks as if the client had shut its own (`disconnects`).
//! - `panic = "abort"` in a profile makes a client that goes away end the process: tiny_http's threads panic then.
//! - Where sockets cannot be found (Windows), a connection that should be closed is only told so, and what still comes on
//!   it is not handled for a minute.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tiny_http::{ReadWrite, Server};

use super::departures::{DisconnectWatcher, WatchedPage};
use super::drain;
#[cfg(unix)]
use super::listener::FOR_EPOLL;
use super::listener::{Listener, Socket};
use super::outgoing::Outgoing;
use super::socket::{self, Peer};
use super::streams::{self, spawn_pooled};
use super::wire::{self, CheckedHead, Framing, LOGGED, Malformed, Terms};
use super::{Desk, Held, StreamPlace, Taken, Transport};
use crate::background::{panics, threads, timer};
use crate::config::Config;
use crate::error::{Error, Result, Status};
use crate::http::disconnect::Connection;
use crate::http::headers::Headers;
use crate::http::request::{Body, Method, Request};
use crate::http::response::Response;
use crate::log_limit::LogLimit;
use crate::sync::{lock, wait_while, wait_while_for};
use crate::worker_share::{Share, Wait};

/// The largest declared body that tiny_http may drain: it allocates what is left in one piece.
const HUGE: u64 = 256 << 20;

/// How much of a body that nobody read is read for the sake of the connection.
const UNREAD: u64 = 256 << 10;

/// A body up to this is read before we see the request, unless the client waits for a 100.
const READ_AHEAD: u64 = 1024;

/// How long a client whose connection is being closed may still send: closed earlier, the system would drop the response
/// that it has not read yet.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_UNREAD: Duration = Duration::from_secs(10);
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// How long a body may take whatever its rate: a phone that changes networks stands still for some seconds.
const RATE_GRACE: Duration = Duration::from_secs(10);

/// How long what comes from a closed connection is not handled.
const CONDEMNED: Duration = Duration::from_secs(if cfg!(unix) { 15 } else { 60 });

/// How long a probe waits for its connection to be taken, and how soon another server may follow one.
const PROBE: Duration = Duration::from_secs(3);
const MEND_PAUSE: Duration = Duration::from_millis(100);

/// How long a shutdown tries to end the accept thread, and how often it checks.
const STOP_ACCEPTING: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(20);

/// How long a shutdown waits for the requests of clients that have just connected.
const FRESH: Duration = Duration::from_millis(250);

/// How soon after a new connection another is made to ourselves.
const NUDGE: Duration = Duration::from_millis(10);

/// The transport.
pub(crate) struct TinyHttp {
    config: Config,
    current: RwLock<Arc<Server>>,
    /// Those whose accept thread died. Their connections live on.
    former: Mutex<Vec<Arc<Server>>>,
    /// A duplicate: to close, and for the next server.
    listener: TcpListener,
    /// True if the service manager owns the socket: other processes listen on it, also after this one.
    is_handed_over: bool,
    addr: SocketAddr,
    /// The time of the order to stop accepting.
    closed: OnceLock<Instant>,
    /// The time at which accepting stopped.
    accepted_last: Mutex<Option<Instant>>,
    has_stopped_accepting: Condvar,
    book: Arc<Book>,
    /// Whose turn it is to take from the queue.
    turn: Mutex<()>,
    /// Connections were waiting to be accepted at the last inspection.
    waiting: AtomicBool,
    /// Requests whose thread and descriptors are gone for good.
    lost: AtomicUsize,
    nudges: Arc<Nudges>,
    disconnects: DisconnectWatcher,
    outgoing: Outgoing,
    /// The log limit for connections that were closed because their clients were slow to read.
    ended: LogLimit,
    /// The descriptors there were at the last inspection.
    descriptors: AtomicUsize,
}

/// A request, its verdict, and its place among the requests of its connection.
pub(crate) struct Job {
    request: tiny_http::Request,
    headers: Headers,
    verdict: Result<CheckedHead, Malformed>,
    place: Place,
}

impl TinyHttp {
    /// Takes the listener over.
    ///
    /// # Errors
    /// When the system refuses a duplicate of it.
    pub(super) fn new(listener: Listener, config: &Config) -> Result<TinyHttp> {
        let Listener { socket, is_handed_over } = listener;
        let listener = match socket {
            Socket::Tcp(listener) => listener,
            #[cfg(unix)]
            Socket::Unix(..) => return Err(Error::internal(FOR_EPOLL)),
        };
        let addr = listener.local_addr()?;
        let server = server(&listener)?;
        Ok(TinyHttp {
            config: config.clone(),
            current: RwLock::new(Arc::new(server)),
            former: Mutex::default(),
            listener,
            is_handed_over,
            addr,
            closed: OnceLock::new(),
            accepted_last: Mutex::default(),
            has_stopped_accepting: Condvar::new(),
            book: Arc::new(Book::of(addr.port())),
            turn: Mutex::default(),
            waiting: AtomicBool::new(false),
            lost: AtomicUsize::new(0),
            nudges: Arc::new(Nudges::new(addr)),
            disconnects: DisconnectWatcher::new(addr.port()),
            outgoing: Outgoing::default(),
            ended: LogLimit::default(),
            descriptors: AtomicUsize::new(0),
        })
    }

    fn current(&self) -> Arc<Server> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_closed(&self) -> bool {
        self.closed.get().is_some()
    }

    /// Takes requests left in the queue during a shutdown, and those on connections that were just accepted.
    fn take_last(&self) -> Taken<Job> {
        loop {
            let (turn, server) = (lock(&self.turn), self.current());
            // What wakes workers looks like an empty queue, so the queue is asked more often than there can be of that.
            let mut left = (0..2_000).filter_map(|_| self.unless_broken(server.try_recv()));
            let next = left.next().or_else(|| {
                let is_awaited = self.is_awaited();
                is_awaited.then(|| self.unless_broken(server.recv_timeout(LOOK))).flatten()
            });
            match next {
                Some(request) => return Taken::Job(self.admit(self.enter(request, turn))),
                None if self.is_awaited() => {}
                None => return Taken::Nothing,
            }
        }
    }

    /// Returns the received request, if any. An error is the last message of the accept thread.
    fn unless_broken(&self, received: io::Result<Option<tiny_http::Request>>) -> Option<tiny_http::Request> {
        received.unwrap_or_else(|_| {
            lock(&self.accepted_last).get_or_insert_with(Instant::now);
            self.has_stopped_accepting.notify_all();
            None
        })
    }

    /// Returns true while workers are needed during a shutdown: until accepting has stopped, and for a moment for the
    /// requests of the last accepted connections.
    fn is_awaited(&self) -> bool {
        let accepted_last = *lock(&self.accepted_last);
        match (accepted_last, self.closed.get()) {
            (Some(last), _) => last.elapsed() < FRESH && socket::has_connections(self.addr.port()),
            (None, Some(closed)) => closed.elapsed() < STOP_ACCEPTING,
            (None, None) => true,
        }
    }

    /// Ends the accept thread and leaves the socket open, since other processes listen on it. The thread is blocked in a
    /// call that only a connection ends, so this connects to it. Its next call does not block: the socket is non-blocking
    /// by then, and each process sets that as it needs.
    fn stop_accepting(&self) {
        let until = Instant::now() + STOP_ACCEPTING;
        while lock(&self.accepted_last).is_none() && Instant::now() < until {
            let _ = self.listener.set_nonblocking(true);
            self.nudges.nudge();
            // Another process may have accepted that connection.
            drop(wait_while_for(&self.has_stopped_accepting, lock(&self.accepted_last), LOOK, |last| last.is_none()));
        }
    }

    /// Enters what came out of the queue. The turn, which is ended by this, makes the book's order the queue's: what is sent
    /// behind a malformed request is taken by another worker at the same moment, and must not overtake it.
    fn enter(&self, request: tiny_http::Request, turn: MutexGuard<'_, ()>) -> (tiny_http::Request, Place) {
        let place = self.book.enter(request.remote_addr().copied());
        drop(turn);
        (request, place)
    }

    /// Looks at a request for the first time.
    fn admit(&self, (request, mut place): (tiny_http::Request, Place)) -> Job {
        let remote = place.remote;
        let fields = request.headers().iter();
        let headers: Headers = fields.map(|header| (header.field.as_str().as_str(), header.value.as_str())).collect();
        let version = request.http_version();
        let verdict =
            wire::check(request.method().as_str(), request.url(), (version.0, version.1), &headers, &self.config);
        let verdict = verdict.and_then(|checked| match checked.framing {
            Framing::Chunked if is_upgrade(&request) => {
                Err(wire::bad_request("An upgrade with a chunked body is not understood."))
            }
            // tiny_http would send a 100.
            Framing::Length(1..) if checked.http10 && headers.contains("Expect") => {
                Err(Malformed(Status::EXPECTATION_FAILED, "HTTP/1.0 has no Expect."))
            }
            // tiny_http accepts invalid sizes such as `+0`: another server may find the end of such a body elsewhere.
            Framing::Chunked => Ok(CheckedHead { close: true, ..checked }),
            _ => Ok(checked),
        });
        let last = verdict.as_ref().map_or(true, |checked| checked.close && !closes_itself(&request));
        place.judge(last);
        remote.iter().for_each(|remote| Nudges::note(&self.nudges, remote));
        Job { request, headers, verdict, place }
    }

    /// Answers a request whose head is fine.
    fn answer(
        self: &Arc<Self>,
        loan: &Arc<Mutex<Loan>>,
        checked: CheckedHead,
        mut headers: Headers,
        mut place: Place,
        desk: &Arc<Desk>,
    ) {
        let client = desk.service.client_of(&headers, place.remote);
        if lock(loan).is_waited_for() {
            match Upload::begin(client, desk) {
                Ok(upload) => lock(loan).upload = Some(upload),
                Err(error) => {
                    let request = Request::new(checked.method, checked.target, headers, Body::empty());
                    return self.refuse(loan, request.with_peer(place.remote), error, place, desk);
                }
            }
        }
        checked.authority.into_iter().for_each(|authority| headers.set("Host", authority));
        let body = match lock(loan).framing {
            Framing::Nothing | Framing::Length(0) => Body::empty(),
            Framing::Length(length) => Body::new(Lent(loan.clone()), Some(length)),
            Framing::Chunked => Body::new(Lent(loan.clone()), None),
        };
        let closes_itself = lock(loan).closes_itself;
        let head_only = checked.method.as_str() == "HEAD";
        let request = Request::new(checked.method, checked.target, headers, body).with_peer(place.remote);
        let request = match place.remote {
            Some(remote) => request.on(Arc::new(Elsewhere { remote, port: self.addr.port(), closes_itself })),
            None => request,
        };
        let response = desk.service.handle(request);
        let _sending = self.outgoing.begin(place.remote);
        let left = lock(loan).settle();
        let mut terms = Terms { http10: checked.http10, head_only, close: closes_itself || checked.close };
        terms.close |= left != Left::Nothing
            || self.is_closed()
            || terms.ends_by_closing(&response)
            || response.status_code() < Status::OK;
        let Some(outlet) = self.outlet(loan, left, &mut place) else { return };
        let (transport, desk) = (self.clone(), desk.clone());
        Delivery { outlet, response, terms, place, client, closes_itself, transport, desk }.begin();
    }

    /// Answers a request that is refused, and ends its connection.
    fn refuse(
        self: &Arc<Self>,
        loan: &Arc<Mutex<Loan>>,
        request: Request,
        error: Error,
        mut place: Place,
        desk: &Arc<Desk>,
    ) {
        let head_only = request.is_head();
        let response = desk.service.refuse(request, error);
        let _sending = self.outgoing.begin(place.remote);
        let (closes_itself, left) = {
            let loan = lock(loan);
            (loan.closes_itself, if loan.may_drain() { Left::Unread } else { Left::Broken })
        };
        let terms = Terms { http10: false, head_only, close: true };
        let Some(outlet) = self.outlet(loan, left, &mut place) else { return };
        let (transport, desk) = (self.clone(), desk.clone());
        Delivery { outlet, response, terms, place, client: None, closes_itself, transport, desk }.begin();
    }

    /// The way back. `into_writer` lets the connection go on to the next request, after it has read what is left of this
    /// one's body: where that may take long, or was never meant to be sent, the response goes out another way.
    fn outlet(&self, loan: &Mutex<Loan>, left: Left, place: &mut Place) -> Option<Outlet> {
        let mut loan = lock(loan);
        let request = loan.request.take()?;
        if left != Left::Nothing && !loan.closes_itself {
            self.book.condemn(place);
        }
        if left != Left::Unread {
            return Some(Outlet::InLine(request.into_writer()));
        }
        self.book.wait_for_turn(place);
        let huge = loan.is_huge();
        match self.peer(place) {
            Some(peer) => Some(Outlet::Beside { peer, request: Box::new(request), huge }),
            // An interim response is the only thing that tiny_http writes without draining first.
            None => Some(Outlet::Interim { stream: request.upgrade("", tiny_http::Response::empty(100)), huge }),
        }
    }

    fn peer(&self, place: &Place) -> Option<Peer> {
        socket::find(place.remote?, self.addr.port())
    }

    /// A request of a connection that has been closed: it is not answered, and its connection ends when it can.
    fn drop_unanswered(&self, loan: &Mutex<Loan>) {
        let mut loan = lock(loan);
        let huge = loan.is_huge();
        let Some(request) = loan.request.take() else { return };
        if huge {
            return self.forget(request);
        }
        match loan.remote.and_then(|remote| socket::find(remote, loan.port)) {
            Some(peer) => spawn_pooled(|| swallow(peer, request)),
            None if cfg!(unix) => drain::drop_on_thread(|| drop(request.into_writer())),
            None => spawn_pooled(|| drop(request.into_writer())),
        }
    }

    /// Gives up a thread and two descriptors of tiny_http's: to drop this would allocate as much as the client declared.
    fn forget<T>(&self, what: T) {
        std::mem::forget(what);
        let lost = self.lost.fetch_add(1, Ordering::Relaxed) + 1;
        log::warn!(
            target: "aside::server",
            "A client declared a body of more than 256 MiB: refused. That cost a thread and two descriptors until the \
             process ends ({lost} so far); a proxy in front with a limit of its own prevents it."
        );
    }

    /// Takes connections that were there before a new server was needed, until the end.
    fn serve_former(self: Arc<Self>, former: Arc<Server>, desk: Arc<Desk>) {
        while !self.is_closed() {
            let Ok(request) = former.recv() else {
                // Woken in the place of a worker that still waits here: besides us only the list of former ones knows it.
                if Arc::strong_count(&former) > 2 {
                    former.unblock();
                    std::thread::yield_now();
                }
                continue;
            };
            let place = self.book.enter(request.remote_addr().copied());
            let (transport, desk) = (self.clone(), desk.clone());
            let (job, at_work) = (self.admit((request, place)), desk.at_work());
            spawn_pooled(move || {
                transport.serve(job, &desk);
                drop(at_work);
            });
        }
    }

    /// Closes connections on which no request arrived in time: tiny_http waits without limit. Closes none while all workers
    /// are busy, since received requests wait too then.
    fn end_overdue(&self) {
        let open = socket::connections(self.addr.port());
        let overdue = self.book.overdue(&open, &self.config);
        let silent = overdue.iter().filter(|(_, activity)| !activity.has_asked).count();
        overdue.iter().for_each(|(remote, _)| socket::end(open[remote], *remote, self.addr.port()));
        if silent > 0 {
            log::info!(
                target: "aside::server",
                "{silent} connections closed: no request arrived in time (ASIDE_HEAD_TIMEOUT). TLS clients cause this, since \
                 this server speaks plain HTTP."
            );
        }
    }

    /// Whether a connection to ourselves is taken: one that says nothing and ends is ended from the other side too.
    fn accepts(&self) -> bool {
        let probe = || {
            let mut stream = TcpStream::connect_timeout(&self.nudges.addr, PROBE)?;
            stream.set_read_timeout(Some(PROBE))?;
            stream.shutdown(Shutdown::Write)?;
            stream.read(&mut [0])
        };
        !probe()
            .is_err_and(|error: io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
    }
}

impl Transport for TinyHttp {
    type Job = Job;

    fn take(&self, wait: Duration) -> Taken<Job> {
        let turn = lock(&self.turn);
        // The request may have waited long for its turn.
        if self.is_closed() {
            drop(turn);
            return self.take_last();
        }
        let server = self.current();
        match server.recv_timeout(wait) {
            Ok(Some(request)) => Taken::Job(self.admit(self.enter(request, turn))),
            Ok(None) => Taken::Nothing,
            Err(error) if self.is_closed() => {
                drop(turn);
                self.unless_broken(Err(error));
                self.take_last()
            }
            Err(error) => Taken::Broken(error.to_string()),
        }
    }

    fn serve(self: &Arc<Self>, job: Job, desk: &Arc<Desk>) {
        let Job { request, headers, verdict, place } = job;
        // The request is out of reach of an unwinding stack: its drop answers it, and may panic.
        let pace = Pace::new(&self.config);
        let loan = Arc::new(Mutex::new(Loan::new(request, &verdict, (place.remote, self.addr.port()), pace)));
        let exchange = panics::catch(|| match verdict {
            _ if place.condemned => self.drop_unanswered(&loan),
            Err(malformed) => {
                log::info!(target: "aside::server", "A malformed request{}: {}", from(place.remote), malformed.1);
                let request = lock(&loan).as_it_came();
                self.refuse(&loan, request, malformed.error(), place, desk);
            }
            Ok(checked) if lock(&loan).is_huge() => {
                let request =
                    Request::new(checked.method, checked.target, headers, Body::empty()).with_peer(place.remote);
                self.refuse(&loan, request, too_large(desk.service.config().max_upload), place, desk);
            }
            Ok(checked) => self.answer(&loan, checked, headers, place, desk),
        });
        if let Err(panic) = exchange {
            log::error!(target: "aside::server", "A request could not be answered, its worker panicked: {panic}");
        }
        let _ = panics::catch(|| self.drop_unanswered(&loan));
    }

    fn wake(&self) {
        self.current().unblock();
    }

    fn mend(self: &Arc<Self>, desk: &Arc<Desk>, why: &str) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return;
        }
        log::error!(target: "aside::server", "No more connections are accepted ({why}); beginning anew.");
        // Out of descriptors, say: the next attempt fails as this one did, until some are free.
        std::thread::sleep(MEND_PAUSE);
        let new = match server(&self.listener) {
            Ok(new) => Arc::new(new),
            Err(error) => {
                return log::error!(target: "aside::server", "That failed, and is tried again: {}", error.chain());
            }
        };
        let former = std::mem::replace(&mut *current, new);
        drop(current);
        lock(&self.former).push(former.clone());
        (0..desk.service.config().max_workers).for_each(|_| former.unblock());
        let (transport, desk) = (self.clone(), desk.clone());
        let spawned =
            std::thread::Builder::new().name("aside-former".into()).spawn(move || transport.serve_former(former, desk));
        if let Err(error) = spawned {
            log::error!(target: "aside::server", "Connections from before are not served any more: {error}");
        }
    }

    fn inspect(self: &Arc<Self>, desk: &Arc<Desk>) {
        let count = socket::count();
        if self.descriptors.swap(count, Ordering::Relaxed) != count {
            self.nudges.nudge();
        }
        self.end_overdue();
        let waiting = has_waiting(&self.listener);
        // For a moment connections wait on any busy server.
        if !(self.waiting.swap(waiting, Ordering::Relaxed) && waiting) || self.accepts() || self.is_closed() {
            return;
        }
        self.waiting.store(false, Ordering::Relaxed);
        self.mend(desk, "a connection of our own was not taken");
    }

    fn relieve(&self, desk: &Desk) {
        let most = desk.service.config().worker_bounds().each;
        let slow = self.outgoing.slowest_past(most, Instant::now());
        if slow.is_empty() {
            return;
        }
        socket::shut_clients(&slow, self.addr.port());
        if let Some(count) = self.ended.count() {
            log::warn!(
                target: "aside::server",
                "All workers are busy, {} of them with clients that are slow to read; the slowest connections were closed \
                 ({count} times).",
                slow.len() + most
            );
        }
    }

    fn close(&self) {
        // Under the lock that `mend` holds, so that no new server follows.
        let current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let _ = self.closed.set(Instant::now());
        drop(current);
        match self.is_handed_over {
            true => self.stop_accepting(),
            false => drop(socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both)),
        }
        lock(&self.former).iter().for_each(|former| former.unblock());
        self.disconnects.close();
    }

    fn hang_up(&self) {
        socket::shut_all(self.addr.port());
    }
}

fn server(listener: &TcpListener) -> Result<Server> {
    // Another process that had the socket may have changed it.
    listener.set_nonblocking(false)?;
    let server = Server::from_listener(listener.try_clone()?, None);
    server.map_err(|error| Error::from_box(error).context("tiny_http cannot take the listener"))
}

/// Whether connections wait to be accepted.
#[cfg(unix)]
fn has_waiting(listener: &TcpListener) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(listener, PollFlags::IN)], Some(&now)) == Ok(1)
}

#[cfg(not(unix))]
fn has_waiting(_listener: &TcpListener) -> bool {
    false
}

fn too_large(limit: u64) -> Error {
    Error::too_large(format!("The body is larger than {limit} bytes (ASIDE_MAX_UPLOAD)."))
}

/// What the first `Connection` header says, as tiny_http reads it: by parts of words, where [`wire::check`] goes by whole
/// ones in all of them.
fn connection_says(request: &tiny_http::Request, word: &str) -> bool {
    let connection = request.headers().iter().find(|header| header.field.equiv("Connection"));
    let within =
        |value: &str| value.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
    connection.is_some_and(|header| within(header.value.as_str()))
}

fn is_upgrade(request: &tiny_http::Request) -> bool {
    connection_says(request, "upgrade")
}

/// Whether tiny_http ends the connection after this request by itself, by the rules that it has for that.
fn closes_itself(request: &tiny_http::Request) -> bool {
    let old = *request.http_version() == (1, 0);
    connection_says(request, "close") || is_upgrade(request) || (old && !connection_says(request, "keep-alive"))
}

fn from(remote: Option<SocketAddr>) -> String {
    remote.map_or(String::new(), |remote| format!(" from {remote}"))
}

/// tiny_http's request while the handler may read its body: lent, and taken back for the response.
struct Loan {
    request: Option<tiny_http::Request>,
    framing: Framing,
    closes_itself: bool,
    /// What tiny_http thinks is the body's length, whatever we make of the head.
    believed: u64,
    /// tiny_http gives all that ever comes on the connection for the body.
    upgrade: bool,
    expects: bool,
    remote: Option<SocketAddr>,
    port: u16,
    read: u64,
    touched: bool,
    ended: bool,
    broken: bool,
    pace: Pace,
    /// Held while the body is read.
    patience: Option<Patience>,
    /// Held while the worker may have to wait for more of the body.
    upload: Option<Upload>,
}

/// The counts of a body that a worker waits for: in the limit of all clients and in that of its own.
struct Upload {
    _share: Share,
    _held: Held,
}

impl Upload {
    fn begin(client: Option<IpAddr>, desk: &Desk) -> Result<Upload> {
        let held = desk.upload_of(client)?;
        let share = desk.shares.take(Wait::Body).ok_or_else(|| desk.shares.refuse(Wait::Body))?;
        Ok(Upload { _share: share, _held: held })
    }
}

/// What is left of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// Nothing: the next request follows.
    Nothing,
    /// What follows is not known.
    Broken,
    /// A part that must not be waited for.
    Unread,
}

impl Loan {
    fn new(
        request: tiny_http::Request,
        verdict: &Result<CheckedHead, Malformed>,
        (remote, port): (Option<SocketAddr>, u16),
        pace: Pace,
    ) -> Loan {
        let upgrade = is_upgrade(&request);
        Loan {
            framing: verdict.as_ref().map_or(Framing::Nothing, |checked| checked.framing),
            believed: if upgrade { 0 } else { request.body_length().unwrap_or(0) as u64 },
            upgrade,
            closes_itself: closes_itself(&request),
            expects: request.headers().iter().any(|header| header.field.equiv("Expect")),
            request: Some(request),
            remote,
            port,
            read: 0,
            touched: false,
            ended: false,
            broken: false,
            pace,
            patience: None,
            upload: None,
        }
    }

    /// Returns true if the body is read from the connection, and has not arrived with its head.
    fn is_waited_for(&self) -> bool {
        match self.framing {
            Framing::Nothing => false,
            Framing::Length(length) => length > READ_AHEAD || (length > 0 && (self.expects || self.upgrade)),
            Framing::Chunked => true,
        }
    }

    fn is_huge(&self) -> bool {
        self.believed > HUGE
    }

    /// The request as far as its head can be trusted, for what is refused: what it asks for, cut to what fits in a log.
    fn as_it_came(&self) -> Request {
        let (method, target) =
            self.request.as_ref().map_or(("", ""), |request| (request.method().as_str(), request.url()));
        let short = |text: &str| text.chars().take(LOGGED).collect::<String>();
        let method = Method::from(short(method).as_str());
        Request::new(method, short(target), Headers::new(), Body::empty()).with_peer(self.remote)
    }

    /// Whether tiny_http, asked for a writer, would read on first.
    fn may_drain(&self) -> bool {
        self.believed > READ_AHEAD || (self.believed > 0 && self.expects)
    }

    /// Reads a part of the body. tiny_http gives a body that was cut short as one that has ended.
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
        if !std::mem::replace(&mut self.touched, true) && self.is_waited_for() {
            self.patience = self.remote.and_then(|remote| Patience::begin(remote, self.port, self.pace.patience));
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
    /// When nothing arrives within the time limit.
    fn is_over(&self) -> io::Result<bool> {
        let is_long = matches!(self.framing, Framing::Length(length) if length - self.read > UNREAD);
        match &self.patience {
            Some(patience) if is_long => patience.sees_the_end(),
            _ => Ok(false),
        }
    }

    fn was_cut(&self) -> bool {
        match self.framing {
            Framing::Length(length) => self.read < length,
            Framing::Chunked => {
                let peer = self.remote.and_then(|remote| socket::find(remote, self.port));
                // Of a connection's last request tiny_http gives the reader up at the body's end, and shuts our side.
                let is_open = peer.map(|peer| peer.is_open(self.closes_itself));
                // A connection that is gone has brought no end of a body. Where none can be found ever, there is no telling.
                !is_open.unwrap_or(!cfg!(unix))
            }
            Framing::Nothing => false,
        }
    }

    /// Brings the body to its end, where that is worth it, and says what is left.
    fn settle(&mut self) -> Left {
        let left = self.finish();
        // A search must not find a duplicate of the socket instead.
        self.patience = None;
        left
    }

    fn finish(&mut self) -> Left {
        let unasked = self.expects && !self.touched;
        match self.framing {
            Framing::Nothing => Left::Nothing,
            Framing::Length(0) => Left::Nothing,
            Framing::Length(length) if length <= READ_AHEAD && !self.expects && !self.upgrade => Left::Nothing,
            Framing::Length(length) if self.read == length => Left::Nothing,
            _ if self.pace.is_overdue => Left::Unread,
            // tiny_http would allocate the rest.
            Framing::Length(length) if self.broken && length - self.read > UNREAD => Left::Unread,
            _ if self.broken => Left::Broken,
            Framing::Length(length) if unasked || length - self.read > UNREAD => Left::Unread,
            Framing::Chunked if self.ended => Left::Nothing,
            Framing::Chunked if unasked => Left::Broken,
            _ => self.read_on(),
        }
    }

    fn read_on(&mut self) -> Left {
        let mut buffer = [0; 8 << 10];
        let until = self.read + UNREAD;
        while self.read < until {
            match self.read(&mut buffer) {
                Ok(0) => return Left::Nothing,
                Ok(_) => {}
                Err(_) => return Left::Broken,
            }
        }
        let done = self.framing == Framing::Length(self.read);
        if done { Left::Nothing } else { Left::Broken }
    }
}

/// The required and actual speed of a body. Only time spent waiting counts, not the handler's own.
struct Pace {
    patience: Duration,
    min_rate: u64,
    waited: Duration,
    came: u64,
    is_overdue: bool,
}

impl Pace {
    fn new(config: &Config) -> Pace {
        Pace {
            patience: config.body_timeout,
            min_rate: config.min_rate,
            waited: Duration::ZERO,
            came: 0,
            is_overdue: false,
        }
    }

    /// Returns the outcome of a read that took this long: an error if the time is up.
    fn check(&mut self, result: io::Result<usize>, took: Duration) -> io::Result<usize> {
        self.waited += took;
        self.came += *result.as_ref().unwrap_or(&0) as u64;
        // Between chunks tiny_http turns it into another error.
        let is_timeout = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) || took >= self.patience
        };
        let due = self.min_rate.saturating_mul(self.waited.saturating_sub(RATE_GRACE).as_secs());
        let words = match &result {
            Err(error) if is_timeout(error) => "no more of the body arrived in time (ASIDE_BODY_TIMEOUT)",
            Ok(1..) if self.came < due => "the body arrives too slowly (ASIDE_MIN_RATE)",
            _ => return result,
        };
        self.is_overdue = true;
        Err(io::Error::new(io::ErrorKind::TimedOut, words))
    }
}

/// A read timeout on a connection's socket, until dropped: tiny_http itself waits for the next request without limit.
struct Patience(#[cfg(target_os = "linux")] std::os::fd::OwnedFd);

impl Patience {
    #[cfg(target_os = "linux")]
    fn begin(remote: SocketAddr, port: u16, time: Duration) -> Option<Patience> {
        let socket = socket::duplicates(&[remote], port).ok()?.pop()??;
        socket2::SockRef::from(&socket).set_read_timeout(Some(time)).ok()?;
        Some(Patience(socket))
    }

    /// The socket is known only on Linux. Elsewhere only the rate is checked, when bytes arrive.
    #[cfg(not(target_os = "linux"))]
    fn begin(_remote: SocketAddr, _port: u16, _time: Duration) -> Option<Patience> {
        None
    }
}

impl Patience {
    /// Waits for input or the end of the connection, and returns true at its end, be it orderly or a reset.
    ///
    /// # Errors
    /// When nothing arrives within the time limit.
    #[cfg(target_os = "linux")]
    fn sees_the_end(&self) -> io::Result<bool> {
        let peeked = socket2::SockRef::from(&self.0).peek(&mut [std::mem::MaybeUninit::uninit()]);
        match peeked {
            Ok(count) => Ok(count == 0),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(error),
                io::ErrorKind::Interrupted => Ok(false),
                _ => Ok(true),
            },
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn sees_the_end(&self) -> io::Result<bool> {
        Ok(false)
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&self.0).set_read_timeout(None);
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")
}

/// A connection whose socket tiny_http has.
struct Elsewhere {
    remote: SocketAddr,
    port: u16,
    closes_itself: bool,
}

impl Connection for Elsewhere {
    /// Where sockets cannot be found there is no telling.
    fn is_there(&self) -> bool {
        let peer = socket::find(self.remote, self.port);
        peer.map_or(!cfg!(unix), |peer| peer.is_open(self.closes_itself))
    }
}

/// A body's reader, for the application.
struct Lent(Arc<Mutex<Loan>>);

impl Read for Lent {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        lock(&self.0).read(buffer)
    }
}

/// The way back to a client.
enum Outlet {
    /// tiny_http's writer: in order with the other responses of the connection.
    InLine(Box<dyn Write + Send>),
    /// The socket itself, the request still with its unread body.
    Beside { peer: Peer, request: Box<tiny_http::Request>, huge: bool },
    /// The same where the socket cannot be found, behind an interim response.
    Interim { stream: Box<dyn ReadWrite + Send>, huge: bool },
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Outlet::InLine(writer) => writer.write(bytes),
            Outlet::Beside { peer, .. } => peer.write(bytes),
            Outlet::Interim { stream, .. } => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Outlet::InLine(writer) => writer.flush(),
            Outlet::Beside { peer, .. } => peer.flush(),
            Outlet::Interim { stream, .. } => stream.flush(),
        }
    }
}

/// A response on its way out.
struct Delivery {
    outlet: Outlet,
    response: Response,
    terms: Terms,
    place: Place,
    client: Option<IpAddr>,
    closes_itself: bool,
    transport: Arc<TinyHttp>,
    desk: Arc<Desk>,
}

impl Delivery {
    /// Sends it: a stream on a thread of its own, the rest here and now.
    fn begin(self) {
        if !(self.response.is_stream() && self.terms.has_body(self.response.status_code())) {
            return self.send(None);
        }
        match self.desk.stream_place(self.client) {
            Ok(place) => self.stream(place),
            Err(message) => {
                let response = streams::refuse_stream(self.response, message);
                Delivery { response, ..self }.send(None);
            }
        }
    }

    fn stream(self, place: StreamPlace) {
        // A live page has no end to wait for: it is told to end.
        let (presence, at_work) = match streams::is_live(&self.response) {
            true => (Some(self.transport.disconnects.begin(self.place.remote, self.closes_itself)), None),
            false => (None, Some(self.desk.at_work())),
        };
        spawn_pooled(move || {
            threads::rename("aside-stream");
            self.send(presence);
            drop((place, at_work));
        });
    }

    /// Writes it, ends what is to end, and begins what was set aside on it.
    fn send(mut self, presence: Option<WatchedPage>) {
        let aside = self.response.take_deferred();
        let close = self.terms.close && !self.closes_itself;
        // Looked for before the client has its answer: with that it may go, and another come from the same port.
        let found = self.place.peer.take();
        let peer = if close { found.or_else(|| self.transport.peer(&self.place)) } else { None };
        let disconnect = presence.as_ref().map(WatchedPage::disconnect).cloned().unwrap_or_default();
        let whole = streams::write(&mut self.outlet, self.response, self.terms, &disconnect);
        // Before the connection is let go.
        drop(presence);
        let end = End { whole, close, peer, transport: self.transport };
        end.end(self.outlet, &self.place);
        drop(self.place);
        aside.into_iter().for_each(|task| task.start());
    }
}

/// What becomes of a connection after a response.
struct End {
    whole: bool,
    close: bool,
    /// The socket of a connection that is to be closed.
    peer: Option<Peer>,
    transport: Arc<TinyHttp>,
}

impl End {
    fn end(self, outlet: Outlet, place: &Place) {
        match outlet {
            Outlet::InLine(writer) if self.whole && !self.close && !self.transport.is_closed() => drop(writer),
            Outlet::InLine(writer) => self.hang_up(writer, place),
            Outlet::Beside { peer, request, huge: true } => {
                peer.shut(Shutdown::Write);
                self.transport.forget(request);
                // The descriptor is never closed again, so its number stays its own.
                timer::at(Instant::now() + LINGER, move || peer.shut(Shutdown::Both));
            }
            Outlet::Beside { peer, request, huge: false } => {
                peer.shut(Shutdown::Write);
                spawn_pooled(|| swallow(peer, *request));
            }
            Outlet::Interim { stream, huge: true } => self.transport.forget(stream),
            // A search would have found the socket: the connection has ended.
            Outlet::Interim { stream, huge: false } if cfg!(unix) => drain::drop_on_thread(|| drop(stream)),
            Outlet::Interim { stream, huge: false } => spawn_pooled(|| drop(stream)),
        }
    }

    /// Ends the connection: at once after a response that was cut short, and otherwise first our side of it, so that the
    /// client gets the response to its end. The writer is kept till then, and the descriptor's number with it.
    fn hang_up(self, writer: Box<dyn Write + Send>, place: &Place) {
        let peer = if self.close { self.peer } else { self.transport.peer(place) };
        match peer {
            None => drop(writer),
            Some(peer) if !self.whole => peer.shut(Shutdown::Both),
            Some(mut peer) => {
                peer.keep();
                peer.shut(Shutdown::Write);
                linger(peer, writer, Instant::now() + LINGER, FIRST_LOOK);
            }
        }
    }
}

/// Keeps a connection until the client has closed it, or its time is up. The interval between checks grows: most close at
/// once, and a kept connection has two descriptors, which slows every search.
fn linger(peer: Peer, writer: Box<dyn Write + Send>, until: Instant, wait: Duration) {
    let next = (Instant::now() + wait).min(until);
    timer::at(next, move || {
        if next < until && !peer.is_over() {
            return linger(peer, writer, until, 2 * wait);
        }
        if next == until {
            peer.shut(Shutdown::Both);
        }
        drop(writer);
    });
}

/// Reads the rest of a refused body for a while, so that the client can read the response.
fn swallow(peer: Peer, mut request: tiny_http::Request) {
    let connection = peer.duplicate();
    let peer = Arc::new(Mutex::new(Some(peer)));
    let theirs = peer.clone();
    let shut = move || lock(&theirs).iter().for_each(|peer| peer.shut(Shutdown::Both));
    let ticket = timer::at(Instant::now() + LINGER_UNREAD, shut);
    match connection {
        Some(connection) => drain::discard_input(connection),
        // The connection has ended.
        None if cfg!(target_os = "linux") => {}
        None => drain::discard_input(request.as_reader()),
    }
    timer::cancel(ticket);
    // From here on the number may become another's.
    lock(&peer).take().iter().for_each(|peer| peer.shut(Shutdown::Both));
    drain::drop_on_thread(|| drop(request.into_writer()));
}

/// Connections to ourselves that say nothing. tiny_http makes a thread for a connection when none is idle, but its count
/// of idle ones lags: of a burst some wait in its queue with nobody to take them. A thread made for a connection that ends
/// at once takes one of these next. Its first request then looks new to us as well, and the next nudge follows.
struct Nudges {
    addr: SocketAddr,
    /// The connections that were seen last, by their ports. One that falls out costs a nudge too many.
    seen: Vec<AtomicUsize>,
    soon: AtomicBool,
    late: AtomicBool,
}

impl Nudges {
    fn new(mut addr: SocketAddr) -> Nudges {
        if addr.ip().is_unspecified() {
            addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let seen = (0..1024).map(|_| AtomicUsize::new(0)).collect();
        Nudges { addr, seen, soon: AtomicBool::new(false), late: AtomicBool::new(false) }
    }

    /// Takes note of a request's connection. For a new one a nudge follows soon, and another later, for the case that the
    /// first was counted wrongly itself.
    fn note(nudges: &Arc<Nudges>, remote: &SocketAddr) {
        let mut hasher = std::hash::DefaultHasher::new();
        remote.hash(&mut hasher);
        let mark = hasher.finish() as usize | 1;
        let slot = &nudges.seen[usize::from(remote.port()) % nudges.seen.len()];
        if slot.load(Ordering::Relaxed) != mark {
            slot.store(mark, Ordering::Relaxed);
            Nudges::plan(nudges, NUDGE, |nudges| &nudges.soon);
            Nudges::plan(nudges, 10 * NUDGE, |nudges| &nudges.late);
        }
    }

    fn plan(nudges: &Arc<Nudges>, wait: Duration, planned: fn(&Nudges) -> &AtomicBool) {
        if planned(nudges).swap(true, Ordering::AcqRel) {
            return;
        }
        let nudges = nudges.clone();
        timer::at(Instant::now() + wait, move || {
            planned(&nudges).store(false, Ordering::Release);
            spawn_pooled(move || nudges.nudge());
        });
    }

    fn nudge(&self) {
        // Refused when the server has stopped.
        drop(TcpStream::connect_timeout(&self.addr, 10 * NUDGE));
    }
}

/// Which requests are being answered, in the order in which they came, and which connections are closed.
struct Book {
    port: u16,
    entries: Mutex<Entries>,
    left: Condvar,
}

#[derive(Default)]
struct Entries {
    last: u64,
    in_flight: Vec<InFlight>,
    waiting: usize,
    /// The time of the last event on each open connection.
    active: HashMap<SocketAddr, Activity>,
    condemned: HashMap<SocketAddr, Vec<Condemned>>,
    /// The connections in the order in which they are removed.
    forgotten_next: VecDeque<(Instant, SocketAddr)>,
}

/// The time when a request began or ended on a connection, or when the connection was first seen.
#[derive(Clone, Copy)]
struct Activity {
    at: Instant,
    has_asked: bool,
}

impl Activity {
    fn is_overdue(&self, config: &Config) -> bool {
        // On a connection that was used before, it is unknown if the next head has begun.
        let most =
            if self.has_asked { config.idle_timeout.saturating_add(config.head_timeout) } else { config.head_timeout };
        self.at.elapsed() > most
    }
}

/// A connection of which nothing more is handled.
struct Condemned {
    /// The socket's name: a port is soon another connection's, behind a proxy above all.
    socket: Option<PathBuf>,
    /// The request that was its last.
    by: u64,
    since: Instant,
}

struct InFlight {
    id: u64,
    remote: SocketAddr,
    judged: bool,
}

/// A request's entry, struck out when dropped.
struct Place {
    book: Arc<Book>,
    id: u64,
    remote: Option<SocketAddr>,
    condemned: bool,
    /// True if no further request of the connection is handled.
    is_last: bool,
    /// The socket, once it has been searched for.
    peer: Option<Peer>,
}

impl Book {
    fn of(port: u16) -> Book {
        Book { port, entries: Mutex::default(), left: Condvar::new() }
    }

    fn enter(self: &Arc<Book>, remote: Option<SocketAddr>) -> Place {
        let mut entries = lock(&self.entries);
        entries.last += 1;
        let id = entries.last;
        if let Some(remote) = remote {
            entries.in_flight.push(InFlight { id, remote, judged: false });
            entries.active.insert(remote, Activity { at: Instant::now(), has_asked: true });
        }
        Place { book: self.clone(), id, remote, condemned: false, is_last: false, peer: None }
    }

    /// Returns the open connections that have waited too long for a request; none while all workers are busy.
    fn overdue(&self, open: &HashMap<SocketAddr, i32>, config: &Config) -> Vec<(SocketAddr, Activity)> {
        let mut entries = lock(&self.entries);
        let Entries { active, in_flight, .. } = &mut *entries;
        active.retain(|remote, _| open.contains_key(remote));
        open.keys()
            .for_each(|remote| _ = active.entry(*remote).or_insert(Activity { at: Instant::now(), has_asked: false }));
        if in_flight.len() >= config.max_workers {
            return Vec::new();
        }
        let busy: HashSet<SocketAddr> = in_flight.iter().map(|entry| entry.remote).collect();
        let is_overdue =
            |(remote, activity): &(&SocketAddr, &Activity)| !busy.contains(remote) && activity.is_overdue(config);
        active.iter().filter(is_overdue).map(|(remote, activity)| (*remote, *activity)).collect()
    }

    fn condemn(&self, place: &mut Place) {
        let Some(remote) = place.remote.filter(|_| !place.is_last) else { return };
        place.is_last = true;
        // The only search for a refused connection: it takes one call per descriptor.
        place.peer = socket::find(remote, self.port);
        let socket = place.peer.as_ref().and_then(|peer| peer.name().cloned());
        lock(&self.entries).condemn(remote, Condemned { socket, by: place.id, since: Instant::now() });
    }

    /// Waits until all requests that came earlier on the same connection are answered.
    fn wait_for_turn(&self, place: &Place) {
        drop(self.wait_while(lock(&self.entries), place, |_| true));
    }

    /// Waits while there is such an earlier request on the same connection.
    fn wait_while<'b>(
        &'b self,
        mut entries: MutexGuard<'b, Entries>,
        place: &Place,
        holds: fn(&InFlight) -> bool,
    ) -> MutexGuard<'b, Entries> {
        let is_before = |entry: &InFlight| Some(entry.remote) == place.remote && entry.id < place.id && holds(entry);
        if !entries.in_flight.iter().any(is_before) {
            return entries;
        }
        entries.waiting += 1;
        entries = wait_while(&self.left, entries, |entries| entries.in_flight.iter().any(is_before));
        entries.waiting -= 1;
        entries
    }
}

impl Place {
    /// Says whether it is the last of its connection that is answered, its head being malformed or the client wanting no
    /// more; and learns whether one before it was.
    fn judge(&mut self, last: bool) {
        let Some(remote) = self.remote else { return };
        if last {
            self.book.clone().condemn(self);
        }
        let mut entries = lock(&self.book.entries);
        let own = entries.in_flight.iter_mut().rfind(|entry| entry.id == self.id);
        own.into_iter().for_each(|entry| entry.judged = true);
        if entries.waiting > 0 {
            self.book.left.notify_all();
        }
        let mut entries = self.book.wait_while(entries, self, |entry| !entry.judged);
        let socket = entries.condemned_before(remote, self.id);
        drop(entries);
        self.condemned = socket.is_some_and(|then| match (then, socket::name(remote, self.book.port)) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        });
    }
}

impl Entries {
    /// The name of the socket that was condemned last at that address, by a request before this one.
    fn condemned_before(&mut self, remote: SocketAddr, id: u64) -> Option<Option<PathBuf>> {
        let of_address = self.condemned.get(&remote)?;
        let is_before = |condemned: &&Condemned| condemned.by < id && condemned.since.elapsed() < CONDEMNED;
        Some(of_address.iter().rfind(is_before)?.socket.clone())
    }

    /// Adds an entry, and removes a few old ones at each call.
    fn condemn(&mut self, remote: SocketAddr, condemned: Condemned) {
        self.forgotten_next.push_back((condemned.since, remote));
        self.condemned.entry(remote).or_default().push(condemned);
        while let Some((since, remote)) =
            self.forgotten_next.front().copied().filter(|(since, _)| since.elapsed() >= CONDEMNED)
        {
            self.forgotten_next.pop_front();
            if let Entry::Occupied(mut of_address) = self.condemned.entry(remote) {
                of_address.get_mut().retain(|condemned| condemned.since > since);
                if of_address.get().is_empty() {
                    of_address.remove();
                }
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut entries = lock(&self.book.entries);
        if let Some(index) = entries.in_flight.iter().rposition(|entry| entry.id == self.id) {
            let InFlight { remote, .. } = entries.in_flight.swap_remove(index);
            entries.active.insert(remote, Activity { at: Instant::now(), has_asked: true });
        }
        if entries.waiting > 0 {
            self.book.left.notify_all();
        }
    }
}
