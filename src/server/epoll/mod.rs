//! The transport over one epoll instance, for Linux. It needs no thread per connection, and it moves no request from one
//! thread to another.
//!
//! All workers wait on the same epoll ([`poller`]). The worker that gets the event of a connection takes the connection
//! from its slot ([`slots`]) and owns it: the worker reads the input, dispatches each complete request and writes its
//! response in one call. It goes on with pipelined requests, up to [`REQUESTS_PER_TURN`] of them. Then it parks the
//! connection in its slot again and waits for the next event. A parked connection waits for its next request, for the rest
//! of a request head or of a small body, or until it is writable. It costs a slot and its received bytes, and no thread.
//!
//! A worker is occupied by a handler, and by a large body that the handler reads while it arrives ([`upload`]). Such bodies
//! occupy at most half of the workers (`ASIDE_MAX_UPLOADS`); other uploads wait for their turn with their received bytes.
//! Pages that follow a [`Live`](crate::live::Live) state are parked too, and each change of the state wakes a worker for
//! them ([`watcher`]). Any other stream is written by a thread of its own.
//!
//! Each resource has a limit, which is a setting: the number of connections, the size of a request head and the number of
//! its fields, the time for a head to arrive, the minimum rate of a body, the idle time of a connection, the time for which
//! a client may read nothing, the large uploads and live pages of one client, and the memory for incomplete requests
//! ([`budget`]).

mod budget;
mod connection;
mod connection_table;
mod framing;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod head;
mod live_page;
pub(super) mod poller;
mod response;
mod stream;
mod upload;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use self::budget::Budget;
use self::connection::{Connection, PendingRequest, Phase, Step};
use self::connection_table::{ConnectionTable, TableEntry, Wait};
use self::framing::Remaining;
use self::live_page::{LivePage, PageWait};
use self::poller::{Event, Poller, Token};
use self::response::{AfterResponse, ResponseWriter};
use self::stream::{BlockingWriter, Stream};
use self::upload::{BodyReader, UnreadBody, Upload};
use super::disconnect_watcher::{DisconnectWatcher, WatchedPage};
use super::http1::{self, WriteOptions};
use super::listener::{Listener, Socket};
use super::stream_threads::{self, StreamThread};
use super::{Held, LINGER, LINGER_UNREAD, ServerState, StreamSlot, Taken, Transport};
use crate::background::run::Deferred;
use crate::background::{panics, task_cores, timer};
use crate::config::Config;
use crate::deadline;
use crate::error::{Error, Result};
use crate::http::headers::Headers;
use crate::http::request::{Body, Request};
use crate::http::response::{Response, ResponseBody};
use crate::log_limit::LogLimit;
use crate::log_text::numbered;
use crate::sync::lock;
use crate::watch::Call;
use crate::worker_share::{self, Share};

/// The maximum number of requests that a worker handles on one connection before it serves other connections.
const REQUESTS_PER_TURN: usize = 16;

/// The number of connections that a worker accepts before another worker is woken for the next ones.
const ACCEPTED_AT_ONCE: usize = 64;

/// How often workers check during a shutdown if requests or responses are still open.
const SHUTDOWN_CHECK: Duration = Duration::from_millis(20);

/// Slots for connections above the limit, for as long as they need to receive the refusal.
const REFUSAL_SLOTS: usize = 64;

/// The response to a connection above the limit.
const TOO_MANY_CONNECTIONS: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The response to a client whose request has been arriving too long while incomplete requests exceed the memory limit.
const MEMORY_EXCEEDED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nCache-Control: no-store\r\nContent-Type: text/plain\r\nContent-Length: 63\r\nConnection: close\r\n\r\nToo many requests are incomplete; please try again in a moment.";

/// The transport over epoll.
pub(crate) struct Epoll {
    config: Config,
    listener: OwnedFd,
    /// True if the service manager owns the socket: other processes listen on it, also after this one.
    is_handed_over: bool,
    /// The file of a Unix socket, which is removed when the server stops.
    file: Option<PathBuf>,
    poller: Poller,
    connections: Arc<ConnectionTable<Connection>>,
    /// Connections that wait for an upload turn.
    uploads: Mutex<VecDeque<Token>>,
    budget: Arc<Budget>,
    /// The budget for responses that clients do not read.
    unsent: Arc<Budget>,
    cut: LogLimit,
    /// The lock of the worker that frees memory.
    freeing: Mutex<()>,
    freed: LogLimit,
    disconnects: DisconnectWatcher,
    is_closed: AtomicBool,
    /// True if another process serves on the same socket after this one: the open connections are served until they end.
    hands_over: AtomicBool,
    /// True while another process accepts the connections.
    is_released: AtomicBool,
    /// True once the time of the remaining connections is up.
    is_over: AtomicBool,
    /// True while no connections are accepted, since the process or the system has no file descriptors left.
    is_accepting_paused: AtomicBool,
    /// The number of connections refused since the last log line about them.
    refused: AtomicUsize,
}

/// A connection with the next work for it.
pub(crate) struct Job {
    connection: Box<Connection>,
    work: Work,
}

enum Work {
    Handle(Box<PendingRequest>),
    Refuse(Box<Request>, Error),
    Write,
    Live,
}

impl Epoll {
    /// Creates the transport, and registers the listener.
    ///
    /// # Errors
    /// An error if the kernel refuses to report events on the listener.
    pub(super) fn new(listener: Listener, poller: Poller, config: &Config) -> Result<Epoll> {
        let Listener { socket, is_handed_over } = listener;
        let (listener, file, port): (OwnedFd, _, _) = match socket {
            Socket::Tcp(listener) => {
                let port = listener.local_addr()?.port();
                (listener.into(), None, port)
            }
            Socket::Unix(listener, file) => (listener.into(), file, 0),
        };
        rustix::io::ioctl_fionbio(&listener, true)?;
        poller.add_listener(&listener)?;
        Ok(Epoll {
            config: config.clone(),
            disconnects: DisconnectWatcher::new(port),
            listener,
            is_handed_over,
            file,
            poller,
            connections: ConnectionTable::new(config.max_connections + REFUSAL_SLOTS),
            uploads: Mutex::default(),
            budget: Budget::new(config.max_buffered),
            unsent: Budget::new(config.max_unsent),
            cut: LogLimit::default(),
            freeing: Mutex::default(),
            freed: LogLimit::default(),
            is_closed: AtomicBool::new(false),
            hands_over: AtomicBool::new(false),
            is_released: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_accepting_paused: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
        })
    }

    /// Returns true while workers are still needed during a shutdown: for open responses, and for requests that are about
    /// to arrive; after a hand-over for all connections, whose clients may send a request at any time.
    fn is_awaited(&self) -> bool {
        let hands_over = self.hands_over.load(Ordering::Acquire);
        let is_awaited = || {
            self.connections.are_in_flight()
                || self.connections.any(|connection| hands_over || connection.is_fresh(&self.config))
        };
        self.is_closed() && !self.is_over.load(Ordering::Acquire) && is_awaited()
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Accepts the waiting connections, and registers the listener for the next event.
    fn accept(&self) {
        if self.is_closed() || self.is_released.load(Ordering::Acquire) {
            return;
        }
        for _ in 0..ACCEPTED_AT_ONCE {
            match acceptfrom_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, from)) => {
                    self.add_connection(socket, from.and_then(|from| SocketAddr::try_from(from).ok()))
                }
                Err(Errno::AGAIN) => break,
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    return self.pause_accepting(error);
                }
                // The client closed the connection before it was accepted.
                Err(_) if !self.is_closed() => {}
                Err(_) => return,
            }
        }
        // After a shutdown nothing is accepted, and the kernel would report a closed Unix socket without end.
        if !self.is_closed() && !self.is_released.load(Ordering::Acquire) {
            let _ = self.poller.arm_listener(&self.listener);
        }
    }

    /// Stops accepting until the next inspection. New connections wait in the kernel's queue.
    fn pause_accepting(&self, error: Errno) {
        self.is_accepting_paused.store(true, Ordering::Release);
        log::warn!(target: "aside::server", "Could not accept a connection: {error}. New connections wait; raise the limit of open files (ulimit -n, LimitNOFILE=).");
    }

    fn add_connection(&self, socket: OwnedFd, from: Option<SocketAddr>) {
        let stream = Arc::new(Stream::new(socket));
        let entered = self.connections.enter(&stream);
        if !matches!(entered, Some((_, REFUSAL_SLOTS..))) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let _ = stream.send(&[io::IoSlice::new(TOO_MANY_CONNECTIONS)], false);
            stream.shut(Shutdown::Write);
        }
        let Some((slot, left)) = entered else { return };
        let mut connection = Box::new(Connection::new(stream, from, slot, (&self.budget, &self.unsent), &self.config));
        if left < REFUSAL_SLOTS {
            connection.linger(LINGER);
        }
        if self.poller.add(&*connection.stream, connection.token()).is_err() {
            return;
        }
        // Input that has already arrived is read after the input of other connections.
        if let Some(connection) = self.park(connection, Wait::Input) {
            self.park(connection, Wait::Turn);
        }
    }

    /// Processes the input of a connection, and returns the work that needs a worker.
    fn advance(&self, mut connection: Box<Connection>) -> Option<Job> {
        let step = connection.step(&self.config);
        self.run_step(connection, step)
    }

    fn run_step(&self, mut connection: Box<Connection>, mut step: Step) -> Option<Job> {
        let mut turns = 0..REQUESTS_PER_TURN;
        let work = loop {
            match step {
                Step::Handle(pending) => break Work::Handle(pending),
                Step::Refuse(request, error) => break Work::Refuse(request, error),
                Step::Write => break Work::Write,
                Step::Live => break Work::Live,
                Step::Wait => {
                    let wait = if turns.next().is_some() { Wait::Input } else { Wait::Turn };
                    connection = self.park(connection, wait)?;
                    step = connection.step(&self.config);
                }
                Step::End => {
                    close_connection(connection);
                    return None;
                }
            }
        };
        Some(Job { connection, work })
    }

    /// Parks a connection until `wait` is fulfilled. Returns the connection if that has already happened.
    fn park(&self, mut connection: Box<Connection>, wait: Wait) -> Option<Box<Connection>> {
        connection.shrink();
        let request_event = |stream: &Stream, token| self.poller.request_event(stream, token);
        let parked = self.connections.park(connection, wait, request_event).unwrap_or_else(|refused| {
            close_connection(refused);
            None
        });
        if self.budget.excess().is_some() || self.unsent.excess().is_some() {
            self.free();
        }
        parked
    }

    /// Frees memory for other clients: ends the requests that have been arriving longest, and the responses that have been
    /// unread longest. One worker at a time does this.
    fn free(&self) {
        let alone = self.freeing.try_lock();
        if matches!(alone, Err(TryLockError::WouldBlock)) {
            return;
        }
        self.unsent.excess().iter().for_each(|bytes| self.cut_responses(*bytes));
        self.budget.excess().iter().for_each(|bytes| self.refuse_unfinished(*bytes));
    }

    fn cut_responses(&self, bytes: usize) {
        for connection in self.connections.longest(Connection::unsent, bytes) {
            if let Some(count) = self.cut.count() {
                let most = self.config.max_unsent;
                log::warn!(target: "aside::server", "Responses cut off: {count}. Unread responses take more than {} (ASIDE_MAX_UNSENT); these have waited longest.", numbered(most, "byte", "bytes"));
            }
            close_connection(connection);
        }
    }

    fn refuse_unfinished(&self, bytes: usize) {
        for mut connection in self.connections.longest(Connection::unfinished, bytes) {
            let _ = connection.stream.send(&[io::IoSlice::new(MEMORY_EXCEEDED)], false);
            connection.stream.shut(Shutdown::Write);
            connection.linger(LINGER_UNREAD);
            if let Some(count) = self.freed.count() {
                let most = self.config.max_buffered;
                log::warn!(target: "aside::server", "Requests refused with 503: {count}. Incomplete requests take more than {} (ASIDE_MAX_BUFFERED); these have been arriving longest.", numbered(most, "byte", "bytes"));
            }
            if let Some(connection) = self.park(connection, Wait::Input) {
                self.park(connection, Wait::Turn);
            }
        }
    }

    /// Queues an upload until one more worker may wait for a large body.
    fn queue_upload(&self, mut connection: Box<Connection>, pending: Box<PendingRequest>, state: &ServerState) {
        let token = connection.token();
        connection.wait_for_turn(pending);
        self.park(connection, Wait::Wake);
        lock(&self.uploads).push_back(token);
        self.wake_next_upload(state);
    }

    /// Wakes a worker for the next queued upload, if one more may wait.
    fn wake_next_upload(&self, state: &ServerState) {
        let next =
            || if state.shares.has_capacity(worker_share::Wait::Body) { lock(&self.uploads).pop_front() } else { None };
        while let Some(token) = next() {
            if self.connections.wake_queued(token, |stream, token| self.poller.request_event(stream, token)) {
                return;
            }
        }
    }

    /// Does the work for a connection, and returns the next work for it.
    fn work(self: &Arc<Self>, Job { connection, work }: Job, state: &Arc<ServerState>) -> Option<Job> {
        match work {
            Work::Handle(pending) if pending.rest.is_complete() => self.dispatch_request(connection, *pending, state),
            Work::Handle(pending) => self.dispatch_upload(connection, pending, state),
            Work::Refuse(request, error) => self.refuse(connection, *request, error, state),
            Work::Write => self.write(connection),
            Work::Live => self.write_live_page(connection),
        }
    }

    fn dispatch_request(
        self: &Arc<Self>,
        connection: Box<Connection>,
        pending: PendingRequest,
        state: &Arc<ServerState>,
    ) -> Option<Job> {
        let PendingRequest { checked, headers, body, .. } = pending;
        let client = state.service.client_of(&headers, connection.remote);
        let body = if body.is_empty() { Body::empty() } else { Body::from(body) };
        let (stream, remote) = (connection.stream.clone(), connection.remote);
        let (options, response) = dispatch(checked, headers, body, (stream, remote), state);
        self.write_response(connection, (options, client), response, UnreadBody::Bytes(0), state)
    }

    /// Dispatches a request whose body the handler reads while it arrives.
    fn dispatch_upload(
        self: &Arc<Self>,
        mut connection: Box<Connection>,
        mut pending: Box<PendingRequest>,
        state: &Arc<ServerState>,
    ) -> Option<Job> {
        let address = state.service.client_of(&pending.headers, connection.remote);
        if pending.upload.is_none() {
            // Set once: later unsuccessful calls do not extend it.
            connection.deadline = deadline::after(self.config.body_timeout);
            match state.upload_of(address) {
                Ok(upload) => pending.upload = Some(upload),
                Err(error) => {
                    let request = pending.into_refused(connection.remote);
                    return self.refuse(connection, request, error, state);
                }
            }
        }
        let Some(share) = state.shares.take(worker_share::Wait::Body) else {
            self.queue_upload(connection, pending, state);
            return None;
        };
        let PendingRequest { checked, headers, expects, rest, body, upload, .. } = *pending;
        let turn = UploadTurn { transport: self.clone(), state: state.clone(), share: Some(share), _upload: upload };
        let length = if let Remaining::Length(length) = rest { Some(length) } else { None };
        let (stream, token) = (connection.stream.clone(), connection.token());
        let client = (stream.clone(), connection.remote);
        // The handler waits for the body itself, and events would wake other workers in vain. They do if this call fails.
        let _ = self.poller.pause_events(&*stream, token);
        let upload = Arc::new(Mutex::new(Some(Upload::new(connection, rest, body, expects, turn, &self.config))));
        let (options, response) =
            dispatch(checked, headers, Body::new(BodyReader(upload.clone()), length), client, state);
        let (connection, left) = lock(&upload).take()?.end();
        // If this fails, the connection ends at its deadline.
        let _ = self.poller.resume_events(&*stream, token);
        self.write_response(connection, (options, address), response, left, state)
    }

    fn refuse(
        self: &Arc<Self>,
        connection: Box<Connection>,
        request: Request,
        error: Error,
        state: &Arc<ServerState>,
    ) -> Option<Job> {
        let options = WriteOptions::of_refusal(&request);
        let response = state.service.refuse(request, error);
        self.write_buffered(connection, ResponseWriter::new(response, options, AfterResponse::End { is_unread: true }))
    }

    /// Writes the response of a handler.
    fn write_response(
        self: &Arc<Self>,
        mut connection: Box<Connection>,
        (mut options, client): (WriteOptions, Option<IpAddr>),
        response: Response,
        left: UnreadBody,
        state: &Arc<ServerState>,
    ) -> Option<Job> {
        connection.served += 1;
        let is_last = left == UnreadBody::Unknown || connection.served >= self.config.max_requests || self.is_closed();
        options.close_after(&response, is_last);
        let after = match left {
            UnreadBody::Bytes(left) if !options.close => AfterResponse::Next(left),
            left => AfterResponse::End { is_unread: left != UnreadBody::Bytes(0) },
        };
        let (mut response, slot) = stream_threads::take_slot(response, options, client, state);
        let Some(slot) = slot else {
            return self.write_buffered(connection, ResponseWriter::new(response, options, after));
        };
        // Written first: the head depends on the body, which is taken out next.
        let head = http1::head(&response, options, 0);
        match std::mem::take(&mut response.body) {
            ResponseBody::Source(source) => {
                let page = LivePage::new(source, head, options, after, response.take_deferred(), slot);
                connection.phase = Phase::Live(Box::new(page));
                self.write_live_page(connection)
            }
            body => {
                response.body = body;
                self.stream(connection, Streaming { response, options, after }, slot, state);
                None
            }
        }
    }

    /// Writes the next events of a live page.
    fn write_live_page(self: &Arc<Self>, mut connection: Box<Connection>) -> Option<Job> {
        let token = connection.token();
        let Phase::Live(page) = &mut connection.phase else { return None };
        let waits = panics::catch(|| page.write_new_events(&connection.stream, self.is_closed()));
        let (time, wait) = match waits {
            Ok(Ok(PageWait::Ended)) => {
                let (after, deferred) = (page.after, std::mem::take(&mut page.deferred));
                return self.finish_response(connection, after, deferred);
            }
            Ok(Ok(PageWait::Writable)) => (self.config.write_timeout, Wait::Writable),
            Ok(Ok(PageWait::Change(wait))) => {
                page.call_when_new(self.waker(token));
                (wait, Wait::Wake)
            }
            Ok(Ok(PageWait::Until(time))) => {
                let wake = self.waker(token);
                timer::at(time, move || wake());
                (self.config.idle_timeout, Wait::Wake)
            }
            Ok(Err(_)) => {
                close_connection(connection);
                return None;
            }
            Err(panic) => {
                log::error!(target: "aside::server", "A response was cut short: its stream panicked: {panic}");
                close_connection(connection);
                return None;
            }
        };
        connection.deadline = deadline::after(time);
        self.park(connection, wait);
        None
    }

    /// Returns a function that wakes a worker for the connection.
    fn waker(self: &Arc<Self>, token: Token) -> Call {
        let transport = Arc::downgrade(self);
        Arc::new(move || {
            if let Some(transport) = transport.upgrade() {
                transport.connections.wake_live(token, |stream, token| transport.poller.request_event(stream, token));
            }
        })
    }

    fn write_buffered(&self, mut connection: Box<Connection>, writer: ResponseWriter) -> Option<Job> {
        connection.phase = Phase::Write(Box::new(writer));
        self.write(connection)
    }

    /// Continues to write a response.
    fn write(&self, mut connection: Box<Connection>) -> Option<Job> {
        let Phase::Write(writer) = &mut connection.phase else { return None };
        match writer.write(&connection.stream) {
            Ok(true) => {
                let (after, deferred) = (writer.after, std::mem::take(&mut writer.deferred));
                self.finish_response(connection, after, deferred)
            }
            Ok(false) => {
                writer.wait();
                connection.deadline = deadline::after(self.config.write_timeout);
                self.park(connection, Wait::Writable);
                None
            }
            Err(error) => {
                log::debug!(target: "aside::server", "A response was cut short: {error}");
                close_connection(connection);
                None
            }
        }
    }

    /// Starts the deferred tasks after the last byte of a response, and continues with the connection.
    fn finish_response(
        &self,
        mut connection: Box<Connection>,
        after: AfterResponse,
        deferred: Vec<Deferred>,
    ) -> Option<Job> {
        deferred.into_iter().for_each(|task| task.start());
        let step = match after {
            AfterResponse::Next(0) => connection.next_request(&self.config),
            AfterResponse::Next(left) => {
                connection.phase = Phase::Drain(left);
                connection.deadline = Instant::now() + LINGER_UNREAD;
                connection.step(&self.config)
            }
            AfterResponse::End { is_unread } => {
                connection.stream.shut(Shutdown::Write);
                connection.linger(if is_unread { LINGER_UNREAD } else { LINGER });
                Step::Wait
            }
        };
        self.run_step(connection, step)
    }

    /// Writes a stream on a thread of its own.
    fn stream(
        self: &Arc<Self>,
        connection: Box<Connection>,
        streaming: Streaming,
        slot: StreamSlot,
        state: &Arc<ServerState>,
    ) {
        let watch = || connection.stream.duplicate().ok().map(|socket| self.disconnects.begin_on(socket));
        let thread = StreamThread::new(&streaming.response, slot, state, watch);
        let transport = self.clone();
        thread.spawn(move |watched| transport.write_stream(connection, streaming, watched));
    }

    fn write_stream(self: &Arc<Self>, connection: Box<Connection>, streaming: Streaming, watched: Option<WatchedPage>) {
        let Streaming { mut response, options, after } = streaming;
        let deferred = response.take_deferred();
        let mut out = BlockingWriter { stream: &connection.stream, timeout: self.config.write_timeout };
        let is_complete = stream_threads::write(&mut out, response, options, watched);
        if !is_complete {
            connection.stream.shut(Shutdown::Both);
            deferred.into_iter().for_each(|task| task.start());
            return;
        }
        let after = if self.is_closed() { AfterResponse::End { is_unread: false } } else { after };
        // A worker handles the next request, if one has arrived.
        self.finish_response(connection, after, deferred).into_iter().for_each(|job| self.requeue(job));
    }

    /// Parks a connection behind the other ready ones. The connection keeps the request that it has read.
    fn requeue(&self, Job { mut connection, work }: Job) {
        match work {
            Work::Handle(pending) => connection.phase = Phase::Queued(pending),
            Work::Refuse(request, error) => connection.defer_refusal(request, error, &self.config),
            Work::Write | Work::Live => {}
        }
        self.park(connection, Wait::Turn);
    }

    /// Ends overdue connections. The page for a refusal and the events of a live page are rendered by application code,
    /// which may be slow: workers do that, not the thread that supervises the workers.
    fn end_overdue(&self, state: &ServerState) {
        for mut connection in self.connections.overdue(Instant::now()) {
            match connection.overdue(&state.shares) {
                Step::Refuse(request, error) => connection.defer_refusal(request, error, &self.config),
                Step::Live => {}
                _ => {
                    close_connection(connection);
                    continue;
                }
            }
            self.park(connection, Wait::Turn);
        }
    }

    fn log_refused(&self) {
        let refused = self.refused.swap(0, Ordering::Relaxed);
        if refused > 0 {
            let most = self.config.max_connections;
            log::warn!(target: "aside::server", "Refused {} with 503: the limit of {most} is reached (ASIDE_MAX_CONNECTIONS).", numbered(refused, "connection", "connections"));
        }
    }
}

/// A stream, and how it is written.
struct Streaming {
    response: Response,
    options: WriteOptions,
    after: AfterResponse,
}

/// Dispatches a request to the service, and returns the response with the options for writing it.
fn dispatch(
    checked: http1::CheckedHead,
    headers: Headers,
    body: Body,
    (stream, remote): (Arc<Stream>, Option<SocketAddr>),
    state: &ServerState,
) -> (WriteOptions, Response) {
    let options = checked.write_options();
    let request = checked.into_request(headers, body, remote).on(stream);
    (options, state.service.handle(request))
}

/// Closes a connection. Tasks that were deferred until its response was sent start now, although it was cut off.
fn close_connection(mut connection: Box<Connection>) {
    let deferred = match &mut connection.phase {
        Phase::Write(writer) => std::mem::take(&mut writer.deferred),
        Phase::Live(page) => std::mem::take(&mut page.deferred),
        _ => Vec::new(),
    };
    drop(connection);
    deferred.into_iter().for_each(|task| task.start());
}

/// The permission to wait for a large body. When dropped, it wakes a worker for the next queued upload.
struct UploadTurn {
    transport: Arc<Epoll>,
    state: Arc<ServerState>,
    share: Option<Share>,
    _upload: Option<Held>,
}

impl Drop for UploadTurn {
    fn drop(&mut self) {
        self.share = None;
        self.transport.wake_next_upload(&self.state);
    }
}

impl Transport for Epoll {
    type Job = Job;

    fn take(&self, wait: Duration) -> Taken<Job> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.poller.next(if self.is_closed() { SHUTDOWN_CHECK } else { left }) {
                Ok(Some(Event::Connection(token, report))) => {
                    if let Some(job) =
                        self.connections.take(token, report).and_then(|connection| self.advance(connection))
                    {
                        return Taken::Job(job);
                    }
                    continue;
                }
                Ok(Some(Event::Listener)) => {
                    self.accept();
                    continue;
                }
                Ok(Some(Event::Wake)) => {
                    self.poller.consume_wake();
                    if !self.is_closed() {
                        continue;
                    }
                }
                Ok(None) if self.is_closed() || left.is_zero() => {}
                Ok(None) => continue,
                Err(error) => return Taken::Broken(error.to_string()),
            }
            if !self.is_awaited() {
                return Taken::Nothing;
            }
        }
    }

    fn serve(self: &Arc<Self>, job: Job, state: &Arc<ServerState>) {
        let mut next = Some(job);
        for _ in 0..REQUESTS_PER_TURN {
            let Some(job) = next else { return };
            next = self.work(job, state);
        }
        next.into_iter().for_each(|job| self.requeue(job));
    }

    fn may_rest(&self) -> bool {
        task_cores::do_tasks_compute() && self.poller.has_few_ready()
    }

    fn wake(&self) {
        self.poller.wake();
    }

    /// Logs the error and waits for a moment: an epoll instance has no state to repair.
    fn restart(self: &Arc<Self>, _state: &Arc<ServerState>, why: &str) {
        log::error!(target: "aside::server", "Could not wait for events: epoll_wait failed: {why}; retrying.");
        std::thread::sleep(SHUTDOWN_CHECK);
    }

    fn inspect(self: &Arc<Self>, state: &Arc<ServerState>) {
        self.end_overdue(state);
        // Workers that waited for another resource may have freed their share.
        self.wake_next_upload(state);
        self.log_refused();
        if self.is_accepting_paused.swap(false, Ordering::AcqRel) {
            let _ = self.poller.arm_listener(&self.listener);
        }
    }

    /// Does nothing: a response that its client does not read occupies no worker.
    fn close_slow_connections(&self, _state: &ServerState) {}

    fn connections(&self) -> Option<usize> {
        Some(self.connections.len())
    }

    fn release_listener(&self) {
        self.is_released.store(true, Ordering::Release);
        self.poller.remove_listener(&self.listener);
    }

    fn take_listener_back(self: &Arc<Self>, _state: &Arc<ServerState>) {
        if !self.is_released.swap(false, Ordering::AcqRel) {
            return;
        }
        // The other process may have changed the mode.
        let taken = rustix::io::ioctl_fionbio(&self.listener, true).map_err(io::Error::from);
        if let Err(error) = taken.and_then(|()| self.poller.add_listener(&self.listener)) {
            log::error!(target: "aside::server", "Could not accept connections again: {error}; restart this process.");
        }
    }

    fn close(&self, hands_over: bool) {
        self.hands_over.store(hands_over, Ordering::Release);
        self.is_closed.store(true, Ordering::Release);
        match self.is_handed_over || hands_over {
            // `shutdown` would close the socket for every process that shares it. Clients wait in its queue for the next
            // process.
            true => self.poller.remove_listener(&self.listener),
            false => drop(socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both)),
        }
        // The file may be missing or belong to another process by now; neither matters here.
        self.file.iter().filter(|_| !hands_over).for_each(|file| drop(std::fs::remove_file(file)));
        self.disconnects.close();
        self.connections.wake_all_live(|stream, token| self.poller.request_event(stream, token));
    }

    fn hang_up(&self) {
        self.is_over.store(true, Ordering::Release);
        self.connections.end_all();
    }
}
