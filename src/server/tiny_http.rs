//! The transport over the tiny_http crate, with the checks and limits that tiny_http lacks.
//!
//! tiny_http 0.12 reads request heads and manages connections. This module checks each head again ([`http1::check`]), reads
//! the body through tiny_http, and writes the response itself, in one write. A comment at each workaround names the
//! behavior of tiny_http that requires it.
//!
//! To close a connection, this module searches for its socket among the descriptors of the process ([`socket`]), since
//! tiny_http does not expose the socket. A connection is closed after a refused head, since the bytes after such a head
//! could otherwise be read as a request.
//!
//! The following limits cannot be lifted here; they need a proxy in front, or another transport (`tests/it/conformance` has
//! a probe for each limit that can be tested, so that this list stays true):
//! - The size of a head and the number of connections are not limited. If a head does not arrive in time, its connection
//!   is closed, up to two seconds late and without a response. On a connection that was used before, the idle time is added.
//! - A TLS handshake is closed in the same way. A PROXY protocol header gets a bare 400 without a log line.
//! - A request line that ends in `HTTP/2.0`, and a declared body above 256 MiB, each cost a thread and two descriptors
//!   until the process ends. The latter are counted and logged.
//! - A response of tiny_http itself (400, 417) has an empty body, no request id, no default headers, no line in the access
//!   log, and no `Connection: close`. Bytes outside ASCII in a head, and a body of up to 1 KiB that ends early, close the
//!   connection without a response.
//! - tiny_http trims the lines of a head, and drops the text after the version on the request line. A continuation line
//!   therefore counts as a header, and a vertical tab, a form feed, a CR or an LF around a line or a value is lost. An
//!   empty line before a request, which a server should skip, is refused.
//! - A chunk size may have a plus sign before it and white space around it, including line feeds. Its extension is not
//!   checked and may contain a line feed. Neither has a maximum length.
//! - `close` as a part of a longer word in the first `Connection` header closes the connection.
//! - A body in HTTP/1.0 with `Expect` is refused (417), since tiny_http would send it a 100. An upgrade with a chunked body
//!   is refused.
//! - A connection closes after each chunked body, since other servers read the sizes above differently.
//! - A body of up to 1 KiB that stalls is treated like a slow head: its connection is closed without a response. A longer
//!   body that stalls has a time limit only where sockets can be duplicated (on Linux).
//! - Pipelined requests are handled concurrently; their responses are in order.
//! - A chunked body with trailers is refused (400). A chunked body that ends early looks like one after which the client
//!   closed its side: both are refused.
//! - Some of the connections that arrive at the same instant get no thread: tiny_http counts a thread as idle that was
//!   given a connection already. [`EmptyConnections`] provides threads for them, one each 10 ms.
//! - A request after a live page on the same connection occupies a worker until the page ends, and so does a response that
//!   its client does not read. When all workers are busy, the slowest of these connections are closed
//!   ([`outgoing`](super::outgoing)).
//! - A live page ends when its client pipelines a request with `Connection: close` after it: tiny_http then closes our side
//!   for reading, which looks as if the client had disconnected.
//! - With `panic = "abort"` in the profile, a client that disconnects ends the process: a thread of tiny_http panics then.
//! - On a platform without the search for sockets (Windows), a connection that should be closed stays open after a response
//!   with `Connection: close`, and its further requests are not handled for a minute.

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

use super::disconnect_watcher::{DisconnectWatcher, WatchedPage};
use super::drain;
use super::http1::{self, CheckedHead, Framing, LOGGED, Malformed, Terms};
#[cfg(unix)]
use super::listener::FOR_EPOLL;
use super::listener::{Listener, Socket};
use super::outgoing::Outgoing;
use super::socket::{self, Peer};
use super::stream_threads::{self, StreamThread, spawn_pooled};
use super::{Held, LINGER, LINGER_UNREAD, RATE_GRACE, ServerState, Taken, Transport};
use crate::background::{panics, timer};
use crate::config::Config;
use crate::error::{Error, Result, Status};
use crate::http::headers::Headers;
use crate::http::request::{Body, Method, Request};
use crate::http::response::Response;
use crate::http::stream::disconnect::Connection;
use crate::log_limit::LogLimit;
use crate::sync::{lock, wait_while, wait_while_for};
use crate::worker_share::{Share, Wait};

/// The largest declared body, in bytes, that tiny_http may drain: it allocates the unread rest in one block.
const HUGE: u64 = 256 << 20;

/// The largest unread rest of a body, in bytes, that is discarded to keep the connection open.
const UNREAD: u64 = 256 << 10;

/// The largest body, in bytes, that tiny_http reads with the head, unless the client waits for a 100.
const READ_AHEAD: u64 = 1024;

/// The first interval at which a closing connection is checked.
const FIRST_CHECK: Duration = Duration::from_millis(5);

/// How long further requests of a closed connection are discarded.
const DISCARD_TIME: Duration = Duration::from_secs(if cfg!(unix) { 15 } else { 60 });

/// How long a probe waits until its connection is accepted, and the pause before a server is replaced.
const PROBE: Duration = Duration::from_secs(3);
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// How long a shutdown tries to end the accept thread, and how often it checks.
const STOP_ACCEPTING: Duration = Duration::from_secs(2);
const SHUTDOWN_CHECK: Duration = Duration::from_millis(20);

/// How long a shutdown waits for the requests of clients that have just connected.
const FRESH: Duration = Duration::from_millis(250);

/// The delay between a new connection and the connection to ourselves.
const CONNECT_DELAY: Duration = Duration::from_millis(10);

/// The transport over tiny_http.
pub(crate) struct TinyHttp {
    config: Config,
    current: RwLock<Arc<Server>>,
    /// The servers whose accept thread died. Their open connections are still served.
    former: Mutex<Vec<Arc<Server>>>,
    /// A duplicate of the listener, to close it and for the next server.
    listener: TcpListener,
    /// True if the service manager owns the socket: other processes listen on it, also after this one.
    is_handed_over: bool,
    addr: SocketAddr,
    /// The time of the order to stop accepting.
    closed: OnceLock<Instant>,
    /// The time at which accepting stopped.
    accepted_last: Mutex<Option<Instant>>,
    has_stopped_accepting: Condvar,
    tracker: Arc<RequestTracker>,
    /// The lock of the worker that takes the next request from the queue.
    queue_lock: Mutex<()>,
    /// True if connections were waiting to be accepted at the last inspection.
    waiting: AtomicBool,
    /// The number of requests whose thread and descriptors are lost until the process ends.
    leaked: AtomicUsize,
    empty_connections: Arc<EmptyConnections>,
    disconnects: DisconnectWatcher,
    outgoing: Outgoing,
    /// The log limit for connections that were closed because their clients were slow to read.
    ended: LogLimit,
    /// The number of descriptors at the last inspection.
    descriptors: AtomicUsize,
}

/// A request, the result of its checks, and its position among the requests of its connection.
pub(crate) struct Job {
    request: tiny_http::Request,
    headers: Headers,
    head: Result<CheckedHead, Malformed>,
    tracked: TrackedRequest,
}

impl TinyHttp {
    /// Creates the transport on a listener.
    ///
    /// # Errors
    /// An error if the listener is a Unix socket, or the operating system refuses a duplicate of it.
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
            tracker: Arc::new(RequestTracker::of(addr.port())),
            queue_lock: Mutex::default(),
            waiting: AtomicBool::new(false),
            leaked: AtomicUsize::new(0),
            empty_connections: Arc::new(EmptyConnections::new(addr)),
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
            let (queue_lock, server) = (lock(&self.queue_lock), self.current());
            // A wake-up looks like an empty queue, so the queue is read more often than there can be wake-ups.
            let mut remaining = (0..2_000).filter_map(|_| self.unless_broken(server.try_recv()));
            let next = remaining.next().or_else(|| {
                let is_awaited = self.is_awaited();
                is_awaited.then(|| self.unless_broken(server.recv_timeout(SHUTDOWN_CHECK))).flatten()
            });
            match next {
                Some(request) => return Taken::Job(self.check(self.enter(request, queue_lock))),
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
            self.empty_connections.connect();
            // Another process may have accepted that connection.
            drop(wait_while_for(&self.has_stopped_accepting, lock(&self.accepted_last), SHUTDOWN_CHECK, |last| {
                last.is_none()
            }));
        }
    }

    /// Records a request from the queue, and releases the lock of the queue. The lock makes the recorded order the order of
    /// the queue: another worker may take the request after a malformed one at the same moment, and must not overtake it.
    fn enter(
        &self,
        request: tiny_http::Request,
        queue_lock: MutexGuard<'_, ()>,
    ) -> (tiny_http::Request, TrackedRequest) {
        let tracked = self.tracker.enter(request.remote_addr().copied());
        drop(queue_lock);
        (request, tracked)
    }

    /// Checks the head of a request.
    fn check(&self, (request, mut tracked): (tiny_http::Request, TrackedRequest)) -> Job {
        let remote = tracked.remote;
        let fields = request.headers().iter();
        let headers: Headers = fields.map(|header| (header.field.as_str().as_str(), header.value.as_str())).collect();
        let version = request.http_version();
        let head =
            http1::check(request.method().as_str(), request.url(), (version.0, version.1), &headers, &self.config);
        let head = head.and_then(|checked| match checked.framing {
            Framing::Chunked if is_upgrade(&request) => {
                Err(http1::bad_request("An upgrade with a chunked body is not supported."))
            }
            // tiny_http would send a 100.
            Framing::Length(1..) if checked.http10 && headers.contains("Expect") => {
                Err(Malformed(Status::EXPECTATION_FAILED, "HTTP/1.0 does not support Expect."))
            }
            // tiny_http accepts invalid sizes such as `+0`: another server may find the end of such a body elsewhere.
            Framing::Chunked => Ok(CheckedHead { close: true, ..checked }),
            _ => Ok(checked),
        });
        let last = head.as_ref().map_or(true, |checked| checked.close && !closes_itself(&request));
        tracked.record_check(last);
        remote.iter().for_each(|remote| EmptyConnections::note(&self.empty_connections, remote));
        Job { request, headers, head, tracked }
    }

    /// Dispatches a request whose head is valid, and writes its response.
    fn dispatch(
        self: &Arc<Self>,
        exchange: &Arc<Mutex<Exchange>>,
        checked: CheckedHead,
        headers: Headers,
        mut tracked: TrackedRequest,
        state: &Arc<ServerState>,
    ) {
        let client = state.service.client_of(&headers, tracked.remote);
        if lock(exchange).must_wait() {
            match Upload::begin(client, state) {
                Ok(upload) => lock(exchange).upload = Some(upload),
                Err(error) => {
                    let request = checked.into_refused(headers, tracked.remote);
                    return self.refuse(exchange, request, error, tracked, state);
                }
            }
        }
        let body = match lock(exchange).framing {
            Framing::Nothing | Framing::Length(0) => Body::empty(),
            Framing::Length(length) => Body::new(BodyReader(exchange.clone()), Some(length)),
            Framing::Chunked => Body::new(BodyReader(exchange.clone()), None),
        };
        let closes_itself = lock(exchange).closes_itself;
        let mut terms = checked.terms();
        let request = checked.into_request(headers, body, tracked.remote);
        let request = match tracked.remote {
            Some(remote) => request.on(Arc::new(SearchedConnection { remote, port: self.addr.port(), closes_itself })),
            None => request,
        };
        let response = state.service.handle(request);
        let _sending = self.outgoing.begin(tracked.remote);
        let body_state = lock(exchange).finish_body();
        terms.close_after(&response, closes_itself || body_state != BodyState::Complete || self.is_closed());
        let Some(sink) = self.sink(exchange, body_state, &mut tracked) else { return };
        Delivery { sink, response, terms, tracked, closes_itself, transport: self.clone() }.begin(client, state);
    }

    /// Writes the response to a refused request, and closes the connection.
    fn refuse(
        self: &Arc<Self>,
        exchange: &Arc<Mutex<Exchange>>,
        request: Request,
        error: Error,
        mut tracked: TrackedRequest,
        state: &Arc<ServerState>,
    ) {
        let terms = Terms::of_refusal(&request);
        let response = state.service.refuse(request, error);
        let _sending = self.outgoing.begin(tracked.remote);
        let (closes_itself, body_state) = {
            let exchange = lock(exchange);
            (exchange.closes_itself, if exchange.may_drain() { BodyState::Unread } else { BodyState::Broken })
        };
        let Some(sink) = self.sink(exchange, body_state, &mut tracked) else { return };
        Delivery { sink, response, terms, tracked, closes_itself, transport: self.clone() }.begin(None, state);
    }

    /// Returns the writer for the response. The writer of tiny_http first reads the rest of the request body. If that may
    /// take long, or the client may never send it, the response is written to the socket instead.
    fn sink(
        &self,
        exchange: &Mutex<Exchange>,
        body_state: BodyState,
        tracked: &mut TrackedRequest,
    ) -> Option<ResponseSink> {
        let mut exchange = lock(exchange);
        let request = exchange.request.take()?;
        if body_state != BodyState::Complete && !exchange.closes_itself {
            self.tracker.mark_last(tracked);
        }
        if body_state != BodyState::Unread {
            return Some(ResponseSink::InOrder(request.into_writer()));
        }
        self.tracker.wait_for_turn(tracked);
        let huge = exchange.is_huge();
        match self.peer(tracked) {
            Some(peer) => Some(ResponseSink::OverSocket { peer, request: Box::new(request), huge }),
            // An interim response is the only one that tiny_http writes without reading the body first.
            None => {
                Some(ResponseSink::AfterInterim { stream: request.upgrade("", tiny_http::Response::empty(100)), huge })
            }
        }
    }

    fn peer(&self, tracked: &TrackedRequest) -> Option<Peer> {
        socket::find(tracked.remote?, self.addr.port())
    }

    /// Drops a request that gets no response, since its connection is closed already.
    fn drop_unanswered(&self, exchange: &Mutex<Exchange>) {
        let mut exchange = lock(exchange);
        let huge = exchange.is_huge();
        let Some(request) = exchange.request.take() else { return };
        if huge {
            return self.leak(request);
        }
        match exchange.remote.and_then(|remote| socket::find(remote, exchange.port)) {
            Some(peer) => spawn_pooled(|| discard_and_close(peer, request)),
            None if cfg!(unix) => drain::drop_on_thread(|| drop(request.into_writer())),
            None => spawn_pooled(|| drop(request.into_writer())),
        }
    }

    /// Leaks a thread and two descriptors of tiny_http: a drop would allocate as much memory as the client declared.
    fn leak<T>(&self, what: T) {
        std::mem::forget(what);
        let leaked = self.leaked.fetch_add(1, Ordering::Relaxed) + 1;
        log::warn!(
            target: "aside::server",
            "Refused a request with a declared body of more than 256 MiB. It occupies a thread and two descriptors until \
             the process ends ({leaked} so far); a proxy in front with a limit of its own prevents this."
        );
    }

    /// Serves the open connections of a replaced server until the end.
    fn serve_former(self: Arc<Self>, former: Arc<Server>, state: Arc<ServerState>) {
        while !self.is_closed() {
            let Ok(request) = former.recv() else {
                // This wake-up was for a worker that still waits here: besides this thread, only the list of former servers
                // holds this one.
                if Arc::strong_count(&former) > 2 {
                    former.unblock();
                    std::thread::yield_now();
                }
                continue;
            };
            let tracked = self.tracker.enter(request.remote_addr().copied());
            let (transport, state) = (self.clone(), state.clone());
            let (job, active) = (self.check((request, tracked)), state.count_active());
            spawn_pooled(move || {
                transport.serve(job, &state);
                drop(active);
            });
        }
    }

    /// Closes connections on which no request arrived in time: tiny_http waits without limit. Closes none while all workers
    /// are busy, since received requests wait too then.
    fn end_overdue(&self) {
        let open = socket::connections(self.addr.port());
        let overdue = self.tracker.overdue(&open, &self.config);
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

    /// Returns true if a connection to ourselves is accepted. If it sends nothing and closes its side, the server closes the
    /// other side.
    fn accepts(&self) -> bool {
        let probe = || {
            let mut stream = TcpStream::connect_timeout(&self.empty_connections.addr, PROBE)?;
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
        let queue_lock = lock(&self.queue_lock);
        // The request may have waited long for its turn.
        if self.is_closed() {
            drop(queue_lock);
            return self.take_last();
        }
        let server = self.current();
        match server.recv_timeout(wait) {
            Ok(Some(request)) => Taken::Job(self.check(self.enter(request, queue_lock))),
            Ok(None) => Taken::Nothing,
            Err(error) if self.is_closed() => {
                drop(queue_lock);
                self.unless_broken(Err(error));
                self.take_last()
            }
            Err(error) => Taken::Broken(error.to_string()),
        }
    }

    fn serve(self: &Arc<Self>, job: Job, state: &Arc<ServerState>) {
        let Job { request, headers, head, tracked } = job;
        // The request is not owned by the stack that may unwind: its drop writes a response, and may panic.
        let pace = Pace::new(&self.config);
        let exchange = Arc::new(Mutex::new(Exchange::new(request, &head, (tracked.remote, self.addr.port()), pace)));
        let outcome = panics::catch(|| match head {
            _ if tracked.is_after_last => self.drop_unanswered(&exchange),
            Err(malformed) => {
                log::info!(target: "aside::server", "Refused a malformed request{}: {}", from(tracked.remote), malformed.1);
                let request = lock(&exchange).untrusted_request();
                self.refuse(&exchange, request, malformed.error(), tracked, state);
            }
            Ok(checked) if lock(&exchange).is_huge() => {
                let request = checked.into_refused(headers, tracked.remote);
                self.refuse(&exchange, request, too_large(state.service.config().max_upload), tracked, state);
            }
            Ok(checked) => self.dispatch(&exchange, checked, headers, tracked, state),
        });
        if let Err(panic) = outcome {
            log::error!(target: "aside::server", "Could not answer a request: its worker panicked: {panic}");
        }
        let _ = panics::catch(|| self.drop_unanswered(&exchange));
    }

    fn wake(&self) {
        self.current().unblock();
    }

    fn restart(self: &Arc<Self>, state: &Arc<ServerState>, why: &str) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return;
        }
        log::error!(target: "aside::server", "The server tiny_http accepts no more connections ({why}); starting another one.");
        // If the cause is a lack of descriptors, the next attempts fail too, until some are free.
        std::thread::sleep(RESTART_PAUSE);
        let new = match server(&self.listener) {
            Ok(new) => Arc::new(new),
            Err(error) => {
                return log::error!(target: "aside::server", "Could not start another server: {}; trying again.", error.chain());
            }
        };
        let former = std::mem::replace(&mut *current, new);
        drop(current);
        lock(&self.former).push(former.clone());
        (0..state.service.config().max_workers).for_each(|_| former.unblock());
        let (transport, state) = (self.clone(), state.clone());
        let spawned = std::thread::Builder::new()
            .name("aside-former".into())
            .spawn(move || transport.serve_former(former, state));
        if let Err(error) = spawned {
            log::error!(target: "aside::server", "Could not start a thread for the open connections of the former server: {error}; they are not served.");
        }
    }

    fn inspect(self: &Arc<Self>, state: &Arc<ServerState>) {
        let count = socket::count();
        if self.descriptors.swap(count, Ordering::Relaxed) != count {
            self.empty_connections.connect();
        }
        self.end_overdue();
        let waiting = has_waiting(&self.listener);
        // On a busy server connections may wait for a moment.
        if !(self.waiting.swap(waiting, Ordering::Relaxed) && waiting) || self.accepts() || self.is_closed() {
            return;
        }
        self.waiting.store(false, Ordering::Relaxed);
        self.restart(state, "a connection to itself was not accepted");
    }

    fn close_slow_connections(&self, state: &ServerState) {
        let most = state.service.config().worker_bounds().each;
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
        // Under the lock that `restart` holds, so that no new server follows.
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
    // Another process that shares the socket may have changed the mode.
    listener.set_nonblocking(false)?;
    let server = Server::from_listener(listener.try_clone()?, None);
    server.map_err(|error| Error::from_box(error).context("tiny_http cannot use the listener"))
}

/// Returns true if connections wait to be accepted.
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

/// Returns true if the first `Connection` header contains `word`, also as a part of a longer word. tiny_http reads the header
/// like this, while [`http1::check`] compares whole words in all `Connection` headers.
fn connection_has(request: &tiny_http::Request, word: &str) -> bool {
    let connection = request.headers().iter().find(|header| header.field.equiv("Connection"));
    let within =
        |value: &str| value.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word.as_bytes()));
    connection.is_some_and(|header| within(header.value.as_str()))
}

fn is_upgrade(request: &tiny_http::Request) -> bool {
    connection_has(request, "upgrade")
}

/// Returns true if tiny_http itself closes the connection after this request, by its own rules.
fn closes_itself(request: &tiny_http::Request) -> bool {
    let old = *request.http_version() == (1, 0);
    connection_has(request, "close") || is_upgrade(request) || (old && !connection_has(request, "keep-alive"))
}

fn from(remote: Option<SocketAddr>) -> String {
    remote.map_or(String::new(), |remote| format!(" from {remote}"))
}

/// A request of tiny_http, shared by the reader of its body and the writer of its response.
struct Exchange {
    request: Option<tiny_http::Request>,
    framing: Framing,
    closes_itself: bool,
    /// The length of the body as tiny_http reads it, whatever this crate reads from the head.
    tiny_http_length: u64,
    /// True if tiny_http treats all further input of the connection as the body.
    upgrade: bool,
    expects: bool,
    remote: Option<SocketAddr>,
    port: u16,
    read: u64,
    has_started: bool,
    ended: bool,
    broken: bool,
    pace: Pace,
    /// The read timeout, while the body is read.
    timeout: Option<ReadTimeout>,
    /// The permission to wait for more of the body.
    upload: Option<Upload>,
}

/// The permission to wait for a body. It counts in the limit of all clients and in that of its client.
struct Upload {
    _share: Share,
    _held: Held,
}

impl Upload {
    fn begin(client: Option<IpAddr>, state: &ServerState) -> Result<Upload> {
        let held = state.upload_of(client)?;
        let share = state.shares.take(Wait::Body).ok_or_else(|| state.shares.refuse(Wait::Body))?;
        Ok(Upload { _share: share, _held: held })
    }
}

/// The state of a request body before the response is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyState {
    /// Complete: the next request follows.
    Complete,
    /// Malformed or cut short: the following bytes are undefined.
    Broken,
    /// Not completely read, and too long to wait for.
    Unread,
}

impl Exchange {
    fn new(
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
    fn must_wait(&self) -> bool {
        match self.framing {
            Framing::Nothing => false,
            Framing::Length(length) => length > READ_AHEAD || (length > 0 && (self.expects || self.upgrade)),
            Framing::Chunked => true,
        }
    }

    fn is_huge(&self) -> bool {
        self.tiny_http_length > HUGE
    }

    /// Returns the request line of a refused head as a request without headers, cut to the length that is logged.
    fn untrusted_request(&self) -> Request {
        let (method, target) =
            self.request.as_ref().map_or(("", ""), |request| (request.method().as_str(), request.url()));
        let short = |text: &str| text.chars().take(LOGGED).collect::<String>();
        let method = Method::from(short(method).as_str());
        Request::new(method, short(target), Headers::new(), Body::empty()).with_peer(self.remote)
    }

    /// Returns true if tiny_http may read more of the body before it returns a writer.
    fn may_drain(&self) -> bool {
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
    fn finish_body(&mut self) -> BodyState {
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

/// The required and actual speed of a body. Only time spent waiting counts, not the handler's own.
struct Pace {
    timeout: Duration,
    min_rate: u64,
    waited: Duration,
    received: u64,
    is_overdue: bool,
}

impl Pace {
    fn new(config: &Config) -> Pace {
        Pace {
            timeout: config.body_timeout,
            min_rate: config.min_rate,
            waited: Duration::ZERO,
            received: 0,
            is_overdue: false,
        }
    }

    /// Returns the outcome of a read that took this long: an error if the time is up.
    fn check(&mut self, result: io::Result<usize>, took: Duration) -> io::Result<usize> {
        self.waited += took;
        self.received += *result.as_ref().unwrap_or(&0) as u64;
        // Between chunks tiny_http turns a timeout into another error.
        let is_timeout = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) || took >= self.timeout
        };
        let due = self.min_rate.saturating_mul(self.waited.saturating_sub(RATE_GRACE).as_secs());
        let message = match &result {
            Err(error) if is_timeout(error) => "the next part of the body did not arrive in time (ASIDE_BODY_TIMEOUT)",
            Ok(1..) if self.received < due => "the body arrives too slowly (ASIDE_MIN_RATE)",
            _ => return result,
        };
        self.is_overdue = true;
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

/// A read timeout on the socket of a connection, until dropped. tiny_http itself waits for the next request without limit.
struct ReadTimeout(#[cfg(target_os = "linux")] std::os::fd::OwnedFd);

impl ReadTimeout {
    #[cfg(target_os = "linux")]
    fn begin(remote: SocketAddr, port: u16, time: Duration) -> Option<ReadTimeout> {
        let socket = socket::duplicates(&[remote], port).ok()?.pop()??;
        socket2::SockRef::from(&socket).set_read_timeout(Some(time)).ok()?;
        Some(ReadTimeout(socket))
    }

    /// Returns `None`: the socket can be duplicated only on Linux. Elsewhere only the rate is checked, when bytes arrive.
    #[cfg(not(target_os = "linux"))]
    fn begin(_remote: SocketAddr, _port: u16, _time: Duration) -> Option<ReadTimeout> {
        None
    }
}

impl ReadTimeout {
    /// Waits for input or the end of the connection, and returns true at its end, orderly or by a reset.
    ///
    /// # Errors
    /// An error if nothing arrives within the time limit.
    #[cfg(target_os = "linux")]
    fn is_at_end(&self) -> io::Result<bool> {
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
    fn is_at_end(&self) -> io::Result<bool> {
        Ok(false)
    }
}

impl Drop for ReadTimeout {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&self.0).set_read_timeout(None);
    }
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")
}

/// A connection whose socket belongs to tiny_http and is found by a search.
struct SearchedConnection {
    remote: SocketAddr,
    port: u16,
    closes_itself: bool,
}

impl Connection for SearchedConnection {
    /// Returns true on a platform without the search for sockets, since the state is unknown there.
    fn is_there(&self) -> bool {
        let peer = socket::find(self.remote, self.port);
        peer.map_or(!cfg!(unix), |peer| peer.is_open(self.closes_itself))
    }
}

/// The reader of a request body, for the handler.
struct BodyReader(Arc<Mutex<Exchange>>);

impl Read for BodyReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        lock(&self.0).read(buffer)
    }
}

/// The destination of a response.
enum ResponseSink {
    /// The writer of tiny_http: in order with the other responses of the connection.
    InOrder(Box<dyn Write + Send>),
    /// The socket, beside the request with its unread body.
    OverSocket { peer: Peer, request: Box<tiny_http::Request>, huge: bool },
    /// The stream of tiny_http after an interim response, if the socket cannot be found.
    AfterInterim { stream: Box<dyn ReadWrite + Send>, huge: bool },
}

impl Write for ResponseSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ResponseSink::InOrder(writer) => writer.write(bytes),
            ResponseSink::OverSocket { peer, .. } => peer.write(bytes),
            ResponseSink::AfterInterim { stream, .. } => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            ResponseSink::InOrder(writer) => writer.flush(),
            ResponseSink::OverSocket { peer, .. } => peer.flush(),
            ResponseSink::AfterInterim { stream, .. } => stream.flush(),
        }
    }
}

/// A response to write.
struct Delivery {
    sink: ResponseSink,
    response: Response,
    terms: Terms,
    tracked: TrackedRequest,
    closes_itself: bool,
    transport: Arc<TinyHttp>,
}

impl Delivery {
    /// Writes the response: a stream on a thread of its own, and any other response on this thread.
    fn begin(self, client: Option<IpAddr>, state: &ServerState) {
        let (response, slot) = stream_threads::take_slot(self.response, self.terms, client, state);
        let delivery = Delivery { response, ..self };
        let Some(slot) = slot else { return delivery.send(None) };
        let watch = || Some(delivery.transport.disconnects.begin(delivery.tracked.remote, delivery.closes_itself));
        let thread = StreamThread::new(&delivery.response, slot, state, watch);
        thread.spawn(move |watched| delivery.send(watched));
    }

    /// Writes the response, closes the connection if necessary, and starts the deferred tasks.
    fn send(mut self, watched: Option<WatchedPage>) {
        let deferred = self.response.take_deferred();
        let close = self.terms.close && !self.closes_itself;
        // The search comes before the response: after the response the client may disconnect, and another connection may use
        // its port.
        let found = self.tracked.peer.take();
        let peer = if close { found.or_else(|| self.transport.peer(&self.tracked)) } else { None };
        let whole = stream_threads::write(&mut self.sink, self.response, self.terms, watched);
        let after = AfterWrite { whole, close, peer, transport: self.transport };
        after.finish(self.sink, &self.tracked);
        drop(self.tracked);
        deferred.into_iter().for_each(|task| task.start());
    }
}

/// The end of a response: the connection is kept or closed.
struct AfterWrite {
    whole: bool,
    close: bool,
    /// The socket, if the connection is to be closed.
    peer: Option<Peer>,
    transport: Arc<TinyHttp>,
}

impl AfterWrite {
    fn finish(self, sink: ResponseSink, tracked: &TrackedRequest) {
        match sink {
            ResponseSink::InOrder(writer) if self.whole && !self.close && !self.transport.is_closed() => drop(writer),
            ResponseSink::InOrder(writer) => self.hang_up(writer, tracked),
            ResponseSink::OverSocket { peer, request, huge: true } => {
                peer.shut(Shutdown::Write);
                self.transport.leak(request);
                // The descriptor is never closed, so its number is not reused.
                timer::at(Instant::now() + LINGER, move || peer.shut(Shutdown::Both));
            }
            ResponseSink::OverSocket { peer, request, huge: false } => {
                peer.shut(Shutdown::Write);
                spawn_pooled(|| discard_and_close(peer, *request));
            }
            ResponseSink::AfterInterim { stream, huge: true } => self.transport.leak(stream),
            // The search has not found the socket, so the connection has ended.
            ResponseSink::AfterInterim { stream, huge: false } if cfg!(unix) => drain::drop_on_thread(|| drop(stream)),
            ResponseSink::AfterInterim { stream, huge: false } => spawn_pooled(|| drop(stream)),
        }
    }

    /// Closes the connection: at once after a response that was cut short, and otherwise our side first, so that the client
    /// receives the whole response. The writer is kept until then, so that the descriptor is not reused.
    fn hang_up(self, writer: Box<dyn Write + Send>, tracked: &TrackedRequest) {
        let peer = if self.close { self.peer } else { self.transport.peer(tracked) };
        match peer {
            None => drop(writer),
            Some(peer) if !self.whole => peer.shut(Shutdown::Both),
            Some(mut peer) => {
                peer.keep();
                peer.shut(Shutdown::Write);
                linger(peer, writer, Instant::now() + LINGER, FIRST_CHECK);
            }
        }
    }
}

/// Keeps a connection until the client has closed it, or its time is up. The interval between checks grows: most clients
/// close at once, and a kept connection has two descriptors, which slow down each search.
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
fn discard_and_close(peer: Peer, mut request: tiny_http::Request) {
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
    // After this the descriptor may be reused for another socket.
    lock(&peer).take().iter().for_each(|peer| peer.shut(Shutdown::Both));
    drain::drop_on_thread(|| drop(request.into_writer()));
}

/// Connections to ourselves that send nothing and provide tiny_http with threads. tiny_http starts a thread for a connection
/// if no thread is idle, but its count of idle threads lags: some connections of a burst wait in its queue without a thread.
/// The thread started for an empty connection takes one of them next. The first request of that one is then new here, too,
/// and the next empty connection follows.
struct EmptyConnections {
    addr: SocketAddr,
    /// The last seen connections, by their ports. A forgotten one costs a superfluous connection.
    seen: Vec<AtomicUsize>,
    soon: AtomicBool,
    late: AtomicBool,
}

impl EmptyConnections {
    fn new(mut addr: SocketAddr) -> EmptyConnections {
        if addr.ip().is_unspecified() {
            addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let seen = (0..1024).map(|_| AtomicUsize::new(0)).collect();
        EmptyConnections { addr, seen, soon: AtomicBool::new(false), late: AtomicBool::new(false) }
    }

    /// Records the connection of a request. After a new one, an empty connection follows soon, and another one later, in case
    /// tiny_http has counted wrongly for the first.
    fn note(empty_connections: &Arc<EmptyConnections>, remote: &SocketAddr) {
        let mut hasher = std::hash::DefaultHasher::new();
        remote.hash(&mut hasher);
        let mark = hasher.finish() as usize | 1;
        let slot = &empty_connections.seen[usize::from(remote.port()) % empty_connections.seen.len()];
        if slot.load(Ordering::Relaxed) != mark {
            slot.store(mark, Ordering::Relaxed);
            EmptyConnections::schedule(empty_connections, CONNECT_DELAY, |empty_connections| &empty_connections.soon);
            EmptyConnections::schedule(empty_connections, 10 * CONNECT_DELAY, |empty_connections| {
                &empty_connections.late
            });
        }
    }

    fn schedule(
        empty_connections: &Arc<EmptyConnections>,
        wait: Duration,
        scheduled: fn(&EmptyConnections) -> &AtomicBool,
    ) {
        if scheduled(empty_connections).swap(true, Ordering::AcqRel) {
            return;
        }
        let empty_connections = empty_connections.clone();
        timer::at(Instant::now() + wait, move || {
            scheduled(&empty_connections).store(false, Ordering::Release);
            spawn_pooled(move || empty_connections.connect());
        });
    }

    fn connect(&self) {
        // This fails if the server has stopped.
        drop(TcpStream::connect_timeout(&self.addr, 10 * CONNECT_DELAY));
    }
}

/// The requests in flight, in the order of their arrival, and the closed connections.
struct RequestTracker {
    port: u16,
    entries: Mutex<Entries>,
    changed: Condvar,
}

#[derive(Default)]
struct Entries {
    last: u64,
    in_flight: Vec<InFlight>,
    waiting: usize,
    /// The time of the last event on each open connection.
    active: HashMap<SocketAddr, Activity>,
    closed: HashMap<SocketAddr, Vec<ClosedConnection>>,
    /// The closed connections in the order of their removal.
    removal_order: VecDeque<(Instant, SocketAddr)>,
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

/// A closed connection, whose further requests are discarded.
struct ClosedConnection {
    /// The kernel's name of the socket: the port is soon reused by another connection, above all behind a proxy.
    socket: Option<PathBuf>,
    /// The last request that was handled.
    by: u64,
    since: Instant,
}

struct InFlight {
    id: u64,
    remote: SocketAddr,
    is_checked: bool,
}

/// The entry of a request in flight, removed when dropped.
struct TrackedRequest {
    tracker: Arc<RequestTracker>,
    id: u64,
    remote: Option<SocketAddr>,
    /// True if an earlier request was the last one of the connection.
    is_after_last: bool,
    /// True if no further request of the connection is handled.
    is_last: bool,
    /// The socket, once it has been searched for.
    peer: Option<Peer>,
}

impl RequestTracker {
    fn of(port: u16) -> RequestTracker {
        RequestTracker { port, entries: Mutex::default(), changed: Condvar::new() }
    }

    fn enter(self: &Arc<RequestTracker>, remote: Option<SocketAddr>) -> TrackedRequest {
        let mut entries = lock(&self.entries);
        entries.last += 1;
        let id = entries.last;
        if let Some(remote) = remote {
            entries.in_flight.push(InFlight { id, remote, is_checked: false });
            entries.active.insert(remote, Activity { at: Instant::now(), has_asked: true });
        }
        TrackedRequest { tracker: self.clone(), id, remote, is_after_last: false, is_last: false, peer: None }
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

    fn mark_last(&self, tracked: &mut TrackedRequest) {
        let Some(remote) = tracked.remote.filter(|_| !tracked.is_last) else { return };
        tracked.is_last = true;
        // The only search for a refused connection: it takes one call per descriptor.
        tracked.peer = socket::find(remote, self.port);
        let socket = tracked.peer.as_ref().and_then(|peer| peer.name().cloned());
        lock(&self.entries).add_closed(remote, ClosedConnection { socket, by: tracked.id, since: Instant::now() });
    }

    /// Waits until all requests that came earlier on the same connection are answered.
    fn wait_for_turn(&self, tracked: &TrackedRequest) {
        drop(self.wait_while(lock(&self.entries), tracked, |_| true));
    }

    /// Waits while there is such an earlier request on the same connection.
    fn wait_while<'b>(
        &'b self,
        mut entries: MutexGuard<'b, Entries>,
        tracked: &TrackedRequest,
        holds: fn(&InFlight) -> bool,
    ) -> MutexGuard<'b, Entries> {
        let is_before =
            |entry: &InFlight| Some(entry.remote) == tracked.remote && entry.id < tracked.id && holds(entry);
        if !entries.in_flight.iter().any(is_before) {
            return entries;
        }
        entries.waiting += 1;
        entries = wait_while(&self.changed, entries, |entries| entries.in_flight.iter().any(is_before));
        entries.waiting -= 1;
        entries
    }
}

impl TrackedRequest {
    /// Records if this is the last request of its connection, since its head is malformed or the client closes the
    /// connection. Then finds out if an earlier request was the last one.
    fn record_check(&mut self, last: bool) {
        let Some(remote) = self.remote else { return };
        if last {
            self.tracker.clone().mark_last(self);
        }
        let mut entries = lock(&self.tracker.entries);
        let own = entries.in_flight.iter_mut().rfind(|entry| entry.id == self.id);
        own.into_iter().for_each(|entry| entry.is_checked = true);
        if entries.waiting > 0 {
            self.tracker.changed.notify_all();
        }
        let mut entries = self.tracker.wait_while(entries, self, |entry| !entry.is_checked);
        let socket = entries.closed_before(remote, self.id);
        drop(entries);
        self.is_after_last = socket.is_some_and(|then| match (then, socket::name(remote, self.tracker.port)) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        });
    }
}

impl Entries {
    /// Returns the name of the socket that was closed last at this address by an earlier request.
    fn closed_before(&mut self, remote: SocketAddr, id: u64) -> Option<Option<PathBuf>> {
        let of_address = self.closed.get(&remote)?;
        let is_before = |closed: &&ClosedConnection| closed.by < id && closed.since.elapsed() < DISCARD_TIME;
        Some(of_address.iter().rfind(is_before)?.socket.clone())
    }

    /// Adds a closed connection, and removes the old ones.
    fn add_closed(&mut self, remote: SocketAddr, closed: ClosedConnection) {
        self.removal_order.push_back((closed.since, remote));
        self.closed.entry(remote).or_default().push(closed);
        while let Some((since, remote)) =
            self.removal_order.front().copied().filter(|(since, _)| since.elapsed() >= DISCARD_TIME)
        {
            self.removal_order.pop_front();
            if let Entry::Occupied(mut of_address) = self.closed.entry(remote) {
                of_address.get_mut().retain(|closed| closed.since > since);
                if of_address.get().is_empty() {
                    of_address.remove();
                }
            }
        }
    }
}

impl Drop for TrackedRequest {
    fn drop(&mut self) {
        let mut entries = lock(&self.tracker.entries);
        if let Some(index) = entries.in_flight.iter().rposition(|entry| entry.id == self.id) {
            let InFlight { remote, .. } = entries.in_flight.swap_remove(index);
            entries.active.insert(remote, Activity { at: Instant::now(), has_asked: true });
        }
        if entries.waiting > 0 {
            self.tracker.changed.notify_all();
        }
    }
}
