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
//!   given a connection already. [`EmptyConnections`] provides threads for them, twice as many each 2 ms.
//! - A request after a live page on the same connection occupies a worker until the page ends, and so does a response that
//!   its client does not read. When all workers are busy, the slowest of these connections are closed
//!   ([`outgoing`]).
//! - A live page ends when its client pipelines a request with `Connection: close` after it: tiny_http then closes our side
//!   for reading, which looks as if the client had disconnected.
//! - With `panic = "abort"` in the profile, a client that disconnects ends the process: a thread of tiny_http panics then.
//! - On a platform without the search for sockets (Windows), a connection that should be closed stays open after a response
//!   with `Connection: close`, and its further requests are not handled for a minute.

mod body;
mod connections;
mod delivery;
mod drain;
mod exchange;
mod outgoing;

use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tiny_http::Server;

use self::body::{Pace, Upload};
use self::connections::{EmptyConnections, RequestTracker, SearchedConnection, TrackedRequest};
use self::delivery::{Delivery, ResponseSink, discard_and_close};
use self::exchange::{BodyReader, BodyState, Exchange, closes_itself, is_upgrade};
use self::outgoing::Outgoing;
use super::disconnect_watcher::DisconnectWatcher;
use super::http1::{self, CheckedHead, Framing, Malformed, WriteOptions};
#[cfg(unix)]
use super::listener::FOR_EPOLL;
use super::listener::{Listener, Socket};
use super::socket::{self, Peer};
use super::stream_threads::spawn_pooled;
use super::{ServerState, Taken, Transport};
use crate::background::panics;
use crate::config::Config;
use crate::error::{Error, Result, Status};
use crate::http::forms::multipart::over_upload;
use crate::http::headers::Headers;
use crate::http::request::{Body, Request};
use crate::log_limit::LogLimit;
use crate::log_text::numbered;
use crate::sync::{lock, spawn, wait_while_for};

/// How long a probe waits until its connection is accepted, and the pause before a server is replaced.
const PROBE: Duration = Duration::from_secs(3);
const RESTART_PAUSE: Duration = Duration::from_millis(100);

/// How long a shutdown tries to end the accept thread, and how often it checks.
const STOP_ACCEPTING: Duration = Duration::from_secs(2);
const SHUTDOWN_CHECK: Duration = Duration::from_millis(20);

/// How long a shutdown waits for the requests of clients that have just connected.
const FRESH: Duration = Duration::from_millis(250);

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
    /// True if another process serves on the same socket after this one.
    hands_over: AtomicBool,
    /// True while another process accepts the connections.
    is_released: AtomicBool,
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
            hands_over: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
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

    /// Returns true if connections end after the response that is written now, although it has not announced that. After a
    /// hand-over they end after the next one.
    fn ends_connections(&self) -> bool {
        self.is_closed() && !self.hands_over.load(Ordering::Acquire)
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
    /// requests of the last accepted connections. After a hand-over the clients of all connections may send a request at any time.
    fn is_awaited(&self) -> bool {
        let accepted_last = *lock(&self.accepted_last);
        match (accepted_last, self.closed.get()) {
            (Some(last), _) => {
                let has_time = self.hands_over.load(Ordering::Acquire) || last.elapsed() < FRESH;
                has_time && socket::has_connections(self.addr.port())
            }
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
        let mut options = checked.write_options();
        let request = checked.into_request(headers, body, tracked.remote);
        let request = match tracked.remote {
            Some(remote) => request.on(Arc::new(SearchedConnection { remote, port: self.addr.port(), closes_itself })),
            None => request,
        };
        let response = state.service.handle(request);
        let _sending = self.outgoing.begin(tracked.remote);
        let body_state = lock(exchange).finish_body();
        options.close_after(&response, closes_itself || body_state != BodyState::Complete || self.is_closed());
        let Some(sink) = self.sink(exchange, body_state, &mut tracked) else { return };
        Delivery { sink, response, options, tracked, closes_itself, transport: self.clone() }.begin(client, state);
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
        let options = WriteOptions::of_refusal(&request);
        let response = state.service.refuse(request, error);
        let _sending = self.outgoing.begin(tracked.remote);
        let (closes_itself, body_state) = {
            let exchange = lock(exchange);
            (exchange.closes_itself, if exchange.may_drain() { BodyState::Unread } else { BodyState::Broken })
        };
        let Some(sink) = self.sink(exchange, body_state, &mut tracked) else { return };
        Delivery { sink, response, options, tracked, closes_itself, transport: self.clone() }.begin(None, state);
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

    /// Starts another server of tiny_http on the listener, and serves the connections of the former one until they end.
    fn replace(self: &Arc<Self>, mut current: RwLockWriteGuard<'_, Arc<Server>>, state: &Arc<ServerState>) {
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
        let spawned = spawn("aside-former", move || transport.serve_former(former, state));
        if let Err(error) = spawned {
            log::error!(target: "aside::server", "Could not start a thread for the open connections of the former server: {error}; they are not served.");
        }
    }

    /// Serves the open connections of a replaced server until the end.
    fn serve_former(self: Arc<Self>, former: Arc<Server>, state: Arc<ServerState>) {
        while !self.is_closed() || self.hands_over.load(Ordering::Acquire) {
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
                "{} closed: no request arrived in time (ASIDE_HEAD_TIMEOUT). TLS clients cause this, since this server speaks \
                 plain HTTP.",
                numbered(silent, "connection", "connections")
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
            Err(error) if self.is_released.load(Ordering::Acquire) => {
                self.unless_broken(Err(error));
                Taken::Nothing
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
                self.refuse(&exchange, request, over_upload(state.service.config().max_upload), tracked, state);
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
        let current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() || self.is_released.load(Ordering::Acquire) {
            return;
        }
        log::error!(target: "aside::server", "The server tiny_http accepts no more connections ({why}); starting another one.");
        // If the cause is a lack of descriptors, the next attempts fail too, until some are free.
        std::thread::sleep(RESTART_PAUSE);
        self.replace(current, state);
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
                 ({}).",
                slow.len() + most,
                numbered(count, "time", "times")
            );
        }
    }

    fn release_listener(&self) {
        // Under the lock that `restart` holds, so that no new server follows.
        let current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        self.is_released.store(true, Ordering::Release);
        drop(current);
        self.stop_accepting();
    }

    fn take_listener_back(self: &Arc<Self>, state: &Arc<ServerState>) {
        if self.is_released.swap(false, Ordering::AcqRel) {
            *lock(&self.accepted_last) = None;
            self.replace(self.current.write().unwrap_or_else(PoisonError::into_inner), state);
        }
    }

    fn close(&self, hands_over: bool) {
        self.hands_over.store(hands_over, Ordering::Release);
        // Under the lock that `restart` holds, so that no new server follows.
        let current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let _ = self.closed.set(Instant::now());
        drop(current);
        match self.is_handed_over || hands_over {
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

fn from(remote: Option<SocketAddr>) -> String {
    remote.map_or(String::new(), |remote| format!(" from {remote}"))
}
