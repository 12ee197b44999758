//! The transport over one epoll, for Linux: no thread for a connection, and no request handed from one thread to another.
//!
//! All workers look at the same epoll ([`poller`]). Who is told of a connection takes it out of its place ([`slots`]) and
//! has it to itself: reads what is there, and when that is a whole request answers it, writes the response in one call, goes
//! on with what the client has sent behind it, up to [`TURN`] of those, lays the connection back, and looks again. While a
//! connection waits for anything, for its next request, for the rest of a head or of a small body, for room to write, it
//! costs its place and what has come of it, and no thread.
//!
//! A worker is held by a handler, and by a large body that a handler reads as it comes ([`upload`]): by those half of the
//! workers at most (`ASIDE_MAX_UPLOADS`); the others wait for their turn with their received bytes. Pages that follow a
//! [`Live`](crate::live::Live)
//! state lie in their places too, and a worker is called for them by whoever changes it ([`watcher`]). A stream that writes
//! as it likes has a thread to itself.
//!
//! Everything has a limit, each a setting: how many connections, how long a head and how many fields, how long it may take
//! to arrive, how fast a body must arrive, how long a connection may be idle, how long a client may read nothing, how many
//! large uploads and live pages one client may have, and how much memory incomplete requests take ([`budget`]).

mod budget;
mod connection;
mod framing;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod head;
pub(super) mod poller;
mod reply;
mod slots;
mod stream;
mod upload;
mod watcher;

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
use self::connection::{Ask, Connection, LINGER, LINGER_UNREAD, Phase, Step};
use self::framing::Rest;
use self::poller::{Event, Poller, Token};
use self::reply::{After, Reply};
use self::slots::{Guest, Slots, Wait};
use self::stream::{Patient, Stream};
use self::upload::{Left, Lent, Upload};
use self::watcher::{Waits, Watcher};
use super::departures::{Departures, Presence};
use super::listener::{Listener, Socket};
use super::streams::{self, aside};
use super::wire::{self, Terms};
use super::{Desk, Held, StreamPlace, Taken, Transport};
use crate::background::task::Deferred;
use crate::background::{panics, threads, timer};
use crate::config::Config;
use crate::deadline;
use crate::error::{Error, Result, Status};
use crate::http::headers::Headers;
use crate::http::request::{Body, Request};
use crate::http::response::{Response, ResponseBody};
use crate::log_limit::LogLimit;
use crate::sync::lock;
use crate::watched::Call;
use crate::worker_share::{self, Share};

/// How many requests of one connection are answered before others have their turn.
const TURN: usize = 16;

/// How many connections are accepted before somebody else is woken for the next.
const ACCEPTED_AT_ONCE: usize = 64;

/// How often workers look, while the server stops, whether anybody still waits for something.
const LOOK: Duration = Duration::from_millis(20);

/// Places for connections too many, while they get to read that they are.
const SPARE: usize = 64;

/// What they get to read.
const FULL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The response to a client whose request has been arriving too long while incomplete requests exceed the memory limit.
const UNFINISHED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nCache-Control: no-store\r\nContent-Type: text/plain\r\nContent-Length: 71\r\nConnection: close\r\n\r\nToo many requests have not arrived whole; please try again in a moment.";

/// The transport.
pub(crate) struct Epoll {
    config: Config,
    listener: OwnedFd,
    /// True if the service manager owns the socket: other processes listen on it, also after this one.
    is_handed_over: bool,
    /// The file of a Unix socket, which goes with the server.
    file: Option<PathBuf>,
    poller: Poller,
    slots: Arc<Slots<Connection>>,
    /// Connections that wait for an upload turn.
    uploads: Mutex<VecDeque<Token>>,
    budget: Arc<Budget>,
    /// The budget for responses that clients do not read.
    unsent: Arc<Budget>,
    cut: LogLimit,
    /// The lock of the worker that frees memory.
    freeing: Mutex<()>,
    freed: LogLimit,
    departures: Departures,
    is_closed: AtomicBool,
    /// The connections that are left have had their time.
    is_over: AtomicBool,
    /// Nothing is accepted, since the system has no descriptors left.
    is_starved: AtomicBool,
    /// Connections that were refused since that was last said.
    refused: AtomicUsize,
}

/// A connection, and what is to be done for it.
pub(crate) struct Job {
    connection: Box<Connection>,
    work: Work,
}

enum Work {
    Ask(Box<Ask>),
    Refuse(Box<Request>, Error),
    Write,
    Watch,
}

impl Epoll {
    /// Takes the listener over.
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
            departures: Departures::new(port),
            listener,
            is_handed_over,
            file,
            poller,
            slots: Slots::new(config.max_connections + SPARE),
            uploads: Mutex::default(),
            budget: Budget::new(config.max_buffered),
            unsent: Budget::new(config.max_unsent),
            cut: LogLimit::default(),
            freeing: Mutex::default(),
            freed: LogLimit::default(),
            is_closed: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            is_starved: AtomicBool::new(false),
            refused: AtomicUsize::new(0),
        })
    }

    /// Returns true while workers are still needed during a shutdown: for open responses, and for requests that are about
    /// to arrive.
    fn is_awaited(&self) -> bool {
        let is_awaited =
            || self.slots.are_in_flight() || self.slots.any(|connection| connection.is_fresh(&self.config));
        self.is_closed() && !self.is_over.load(Ordering::Acquire) && is_awaited()
    }

    fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Accepts what waits, and has the next one wake somebody again.
    fn accept(&self) {
        if self.is_closed() {
            return;
        }
        for _ in 0..ACCEPTED_AT_ONCE {
            match acceptfrom_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok((socket, from)) => self.welcome(socket, from.and_then(|from| SocketAddr::try_from(from).ok())),
                Err(Errno::AGAIN) => break,
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => return self.starve(error),
                // It was gone before it was taken.
                Err(_) if !self.is_closed() => {}
                Err(_) => return,
            }
        }
        // A Unix socket that was shut has nobody to accept either, and would be reported for ever.
        if !self.is_closed() {
            let _ = self.poller.arm_listener(&self.listener);
        }
    }

    /// Accepts nothing until the next inspection: who knocks waits meanwhile.
    fn starve(&self, error: Errno) {
        self.is_starved.store(true, Ordering::Release);
        log::warn!(target: "aside::server", "Connections have to wait: {error}. The limit of open files is too low for as many (ulimit -n, LimitNOFILE=).");
    }

    fn welcome(&self, socket: OwnedFd, from: Option<SocketAddr>) {
        let stream = Arc::new(Stream::new(socket));
        let entered = self.slots.enter(&stream);
        if !matches!(entered, Some((_, SPARE..))) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let _ = stream.send(&[io::IoSlice::new(FULL)], false);
            stream.shut(Shutdown::Write);
        }
        let Some((place, left)) = entered else { return };
        let mut connection = Box::new(Connection::new(stream, from, place, (&self.budget, &self.unsent), &self.config));
        if left < SPARE {
            connection.linger(LINGER);
        }
        if self.poller.add(&*connection.stream, connection.token()).is_err() {
            return;
        }
        // What has come already has its turn behind what others have sent.
        if let Some(connection) = self.park(connection, Wait::Arrival) {
            self.park(connection, Wait::Turn);
        }
    }

    /// Goes on with a connection, and says what a worker is needed for.
    fn go_on(&self, mut connection: Box<Connection>) -> Option<Job> {
        let step = connection.step(&self.config);
        self.take_step(connection, step)
    }

    fn take_step(&self, mut connection: Box<Connection>, mut step: Step) -> Option<Job> {
        let mut turns = 0..TURN;
        let work = loop {
            match step {
                Step::Ask(ask) => break Work::Ask(ask),
                Step::Refuse(request, error) => break Work::Refuse(request, error),
                Step::Write => break Work::Write,
                Step::Watch => break Work::Watch,
                Step::Wait => {
                    let wait = if turns.next().is_some() { Wait::Arrival } else { Wait::Turn };
                    connection = self.park(connection, wait)?;
                    step = connection.step(&self.config);
                }
                Step::End => {
                    give_up(connection);
                    return None;
                }
            }
        };
        Some(Job { connection, work })
    }

    /// Lays a connection into its place until that happens; it comes back when it has happened already.
    fn park(&self, mut connection: Box<Connection>, wait: Wait) -> Option<Box<Connection>> {
        connection.rest();
        let nudge = |stream: &Stream, token| self.poller.nudge(stream, token);
        let parked = self.slots.park(connection, wait, nudge).unwrap_or_else(|refused| {
            give_up(refused);
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
        for connection in self.slots.longest(Connection::unsent, bytes) {
            if let Some(count) = self.cut.count() {
                let most = self.config.max_unsent;
                log::warn!(target: "aside::server", "Responses cut off: {count}. Unread responses take more than {most} bytes (ASIDE_MAX_UNSENT); these have waited longest.");
            }
            give_up(connection);
        }
    }

    fn refuse_unfinished(&self, bytes: usize) {
        for mut connection in self.slots.longest(Connection::unfinished, bytes) {
            let _ = connection.stream.send(&[io::IoSlice::new(UNFINISHED)], false);
            connection.stream.shut(Shutdown::Write);
            connection.linger(LINGER_UNREAD);
            if let Some(count) = self.freed.count() {
                let most = self.config.max_buffered;
                log::warn!(target: "aside::server", "Requests refused with 503: {count}. Incomplete requests take more than {most} bytes (ASIDE_MAX_BUFFERED); these have been arriving longest.");
            }
            if let Some(connection) = self.park(connection, Wait::Arrival) {
                self.park(connection, Wait::Turn);
            }
        }
    }

    /// Keeps a connection until one of the workers that may wait for large bodies is free.
    fn queue(&self, mut connection: Box<Connection>, ask: Box<Ask>, desk: &Desk) {
        let token = connection.token();
        connection.wait_for_turn(ask);
        self.park(connection, Wait::Call);
        lock(&self.uploads).push_back(token);
        self.call_next(desk);
    }

    /// Calls the next of those, when a worker is free for it.
    fn call_next(&self, desk: &Desk) {
        let next =
            || if desk.shares.has_room(worker_share::Wait::Body) { lock(&self.uploads).pop_front() } else { None };
        while let Some(token) = next() {
            if self.slots.call_asked(token, |stream, token| self.poller.nudge(stream, token)) {
                return;
            }
        }
    }

    /// Does one thing for a connection, and says what comes next for it.
    fn work(self: &Arc<Self>, Job { connection, work }: Job, desk: &Arc<Desk>) -> Option<Job> {
        match work {
            Work::Ask(ask) if ask.rest.is_whole() => self.answer(connection, *ask, desk),
            Work::Ask(ask) => self.answer_upload(connection, ask, desk),
            Work::Refuse(request, error) => self.refuse(connection, *request, error, desk),
            Work::Write => self.write(connection),
            Work::Watch => self.watch(connection),
        }
    }

    fn answer(self: &Arc<Self>, connection: Box<Connection>, ask: Ask, desk: &Arc<Desk>) -> Option<Job> {
        let Ask { asked, headers, body, .. } = ask;
        let client = desk.service.client_of(&headers, connection.remote);
        let body = if body.is_empty() { Body::empty() } else { Body::from(body) };
        let (stream, remote) = (connection.stream.clone(), connection.remote);
        let (asked, response) = handle(asked, headers, body, (stream, remote), desk);
        self.reply(connection, (asked, client), response, Left::Bytes(0), desk)
    }

    /// Answers a request whose body the handler reads as it comes.
    fn answer_upload(
        self: &Arc<Self>,
        mut connection: Box<Connection>,
        mut ask: Box<Ask>,
        desk: &Arc<Desk>,
    ) -> Option<Job> {
        let address = desk.service.client_of(&ask.headers, connection.remote);
        if ask.upload.is_none() {
            // Set once: later unsuccessful calls do not extend it.
            connection.deadline = deadline::after(self.config.body_timeout);
            match desk.upload_of(address) {
                Ok(upload) => ask.upload = Some(upload),
                Err(error) => {
                    let request = ask.into_refused(connection.remote);
                    return self.refuse(connection, request, error, desk);
                }
            }
        }
        let Some(share) = desk.shares.take(worker_share::Wait::Body) else {
            self.queue(connection, ask, desk);
            return None;
        };
        let Ask { asked, headers, expects, rest, body, upload, .. } = *ask;
        let turn = UploadTurn { transport: self.clone(), desk: desk.clone(), share: Some(share), _upload: upload };
        let length = if let Rest::Length(length) = rest { Some(length) } else { None };
        let (stream, token) = (connection.stream.clone(), connection.token());
        let client = (stream.clone(), connection.remote);
        // Who reads it waits for what comes; told of that, others would wake for nothing. Refused, they do.
        let _ = self.poller.ignore(&*stream, token);
        let upload = Arc::new(Mutex::new(Some(Upload::new(connection, rest, body, expects, turn, &self.config))));
        let (asked, response) = handle(asked, headers, Body::new(Lent(upload.clone()), length), client, desk);
        let (connection, left) = lock(&upload).take()?.end();
        // Refused, it ends with its time.
        let _ = self.poller.heed(&*stream, token);
        self.reply(connection, (asked, address), response, left, desk)
    }

    fn refuse(
        self: &Arc<Self>,
        connection: Box<Connection>,
        request: Request,
        error: Error,
        desk: &Arc<Desk>,
    ) -> Option<Job> {
        let head_only = request.is_head();
        let response = desk.service.refuse(request, error);
        let terms = Terms { http10: false, head_only, close: true };
        self.send(connection, Reply::new(response, terms, After::End { is_unread: true }))
    }

    /// Sends what a handler answered.
    fn reply(
        self: &Arc<Self>,
        mut connection: Box<Connection>,
        (asked, client): (Terms, Option<IpAddr>),
        mut response: Response,
        left: Left,
        desk: &Arc<Desk>,
    ) -> Option<Job> {
        connection.served += 1;
        let mut terms = asked;
        terms.close |= left == Left::Unknown
            || connection.served >= self.config.max_requests
            || self.is_closed()
            || terms.ends_by_closing(&response)
            || response.status_code() < Status::OK;
        let after = match left {
            Left::Bytes(left) if !terms.close => After::Next(left),
            left => After::End { is_unread: left != Left::Bytes(0) },
        };
        if !(response.is_stream() && terms.has_body(response.status_code())) {
            return self.send(connection, Reply::new(response, terms, after));
        }
        let place = match desk.stream_place(client) {
            Ok(place) => place,
            Err(apology) => {
                let response = streams::too_many(response, apology);
                return self.send(connection, Reply::new(response, terms, after));
            }
        };
        // It says how its body is delimited, so before that is taken out.
        let head = wire::head(&response, terms, 0);
        match std::mem::take(&mut response.body) {
            ResponseBody::Feed(feed) => {
                let watcher = Watcher::new(feed, head, terms, after, response.take_deferred(), place);
                connection.phase = Phase::Live(Box::new(watcher));
                self.watch(connection)
            }
            body => {
                response.body = body;
                self.stream(connection, Streaming { response, terms, after }, place, desk);
                None
            }
        }
    }

    /// Goes on with a live page.
    fn watch(self: &Arc<Self>, mut connection: Box<Connection>) -> Option<Job> {
        let token = connection.token();
        let Phase::Live(watcher) = &mut connection.phase else { return None };
        let waits = panics::catch(|| watcher.go_on(&connection.stream, self.is_closed()));
        let (time, wait) = match waits {
            Ok(Ok(Waits::Ended)) => {
                let (after, set_aside) = (watcher.after, std::mem::take(&mut watcher.set_aside));
                return self.ended(connection, after, set_aside);
            }
            Ok(Ok(Waits::ToWrite)) => (self.config.write_timeout, Wait::Room),
            Ok(Ok(Waits::ForNews(wait))) => {
                watcher.call_when_new(self.call(token));
                (wait, Wait::Call)
            }
            Ok(Ok(Waits::Until(time))) => {
                let call = self.call(token);
                timer::at(time, move || call());
                (self.config.idle_timeout, Wait::Call)
            }
            Ok(Err(_)) => {
                give_up(connection);
                return None;
            }
            Err(panic) => {
                log::error!(target: "aside::server", "A response was cut short, its stream panicked: {panic}");
                give_up(connection);
                return None;
            }
        };
        connection.deadline = deadline::after(time);
        self.park(connection, wait);
        None
    }

    /// What calls a worker for that connection.
    fn call(self: &Arc<Self>, token: Token) -> Call {
        let transport = Arc::downgrade(self);
        Arc::new(move || {
            if let Some(transport) = transport.upgrade() {
                transport.slots.call(token, |stream, token| transport.poller.nudge(stream, token));
            }
        })
    }

    fn send(&self, mut connection: Box<Connection>, reply: Reply) -> Option<Job> {
        connection.phase = Phase::Reply(Box::new(reply));
        self.write(connection)
    }

    /// Goes on with a response.
    fn write(&self, mut connection: Box<Connection>) -> Option<Job> {
        let Phase::Reply(reply) = &mut connection.phase else { return None };
        match reply.push(&connection.stream) {
            Ok(true) => {
                let (after, set_aside) = (reply.after, std::mem::take(&mut reply.set_aside));
                self.ended(connection, after, set_aside)
            }
            Ok(false) => {
                reply.wait();
                connection.deadline = deadline::after(self.config.write_timeout);
                self.park(connection, Wait::Room);
                None
            }
            Err(error) => {
                log::debug!(target: "aside::server", "A response was cut short: {error}");
                give_up(connection);
                None
            }
        }
    }

    /// What comes after the last byte of a response.
    fn ended(&self, mut connection: Box<Connection>, after: After, set_aside: Vec<Deferred>) -> Option<Job> {
        set_aside.into_iter().for_each(|task| task.start());
        let step = match after {
            After::Next(0) => connection.next_request(&self.config),
            After::Next(left) => {
                connection.phase = Phase::Drain(left);
                connection.deadline = Instant::now() + LINGER_UNREAD;
                connection.step(&self.config)
            }
            After::End { is_unread } => {
                connection.stream.shut(Shutdown::Write);
                connection.linger(if is_unread { LINGER_UNREAD } else { LINGER });
                Step::Wait
            }
        };
        self.take_step(connection, step)
    }

    /// Writes a stream, on a thread of its own.
    fn stream(
        self: &Arc<Self>,
        connection: Box<Connection>,
        streaming: Streaming,
        place: StreamPlace,
        desk: &Arc<Desk>,
    ) {
        // A live page has no end to wait for: it is told to end.
        let (presence, at_work) = match streams::is_live(&streaming.response) {
            true => (connection.stream.duplicate().ok().map(|socket| self.departures.begin_on(socket)), None),
            false => (None, Some(desk.at_work())),
        };
        let transport = self.clone();
        aside(move || {
            threads::rename("aside-stream");
            transport.write_stream(connection, streaming, presence);
            drop((place, at_work));
        });
    }

    fn write_stream(self: &Arc<Self>, connection: Box<Connection>, streaming: Streaming, presence: Option<Presence>) {
        let Streaming { mut response, terms, after } = streaming;
        let set_aside = response.take_deferred();
        let disconnect = presence.as_ref().map(Presence::disconnect).cloned().unwrap_or_default();
        let mut out = Patient { stream: &connection.stream, patience: self.config.write_timeout };
        let is_whole = streams::send(&mut out, response, terms, &disconnect);
        // Before the connection is let go.
        drop(presence);
        if !is_whole {
            connection.stream.shut(Shutdown::Both);
            set_aside.into_iter().for_each(|task| task.start());
            return;
        }
        let after = if self.is_closed() { After::End { is_unread: false } } else { after };
        // A request that came meanwhile is for a worker.
        self.ended(connection, after, set_aside).into_iter().for_each(|job| self.put_off(job));
    }

    /// Lets others have their turn first. What has been read of a request stays with it.
    fn put_off(&self, Job { mut connection, work }: Job) {
        match work {
            Work::Ask(ask) => connection.phase = Phase::Asked(ask),
            Work::Refuse(request, error) => connection.will_be_refused(request, error, &self.config),
            Work::Write | Work::Watch => {}
        }
        self.park(connection, Wait::Turn);
    }

    /// Ends overdue connections. The page for a refusal and the events of a live page are rendered by application code,
    /// which may be slow: workers do that, not the thread that supervises the workers.
    fn end_overdue(&self, desk: &Desk) {
        for mut connection in self.slots.overdue(Instant::now()) {
            match connection.overdue(&desk.shares) {
                Step::Refuse(request, error) => connection.will_be_refused(request, error, &self.config),
                Step::Watch => {}
                _ => {
                    give_up(connection);
                    continue;
                }
            }
            self.park(connection, Wait::Turn);
        }
    }

    fn say_refused(&self) {
        let refused = self.refused.swap(0, Ordering::Relaxed);
        if refused > 0 {
            let most = self.config.max_connections;
            log::warn!(target: "aside::server", "{refused} connections were refused: there are {most} already (ASIDE_MAX_CONNECTIONS).");
        }
    }
}

/// A stream, and what is said of how it goes out.
struct Streaming {
    response: Response,
    terms: Terms,
    after: After,
}

/// Has a request answered, and says on which terms.
fn handle(
    asked: wire::Asked,
    mut headers: Headers,
    body: Body,
    (stream, remote): (Arc<Stream>, Option<SocketAddr>),
    desk: &Desk,
) -> (Terms, Response) {
    let terms = Terms { http10: asked.http10, head_only: asked.method.as_str() == "HEAD", close: asked.close };
    asked.authority.into_iter().for_each(|authority| headers.set("Host", authority));
    let request = Request::new(asked.method, asked.target, headers, body).with_peer(remote).on(stream);
    (terms, desk.service.handle(request))
}

/// Lets a connection go. What was set aside on a response that cannot go out whole begins all the same.
fn give_up(mut connection: Box<Connection>) {
    let set_aside = match &mut connection.phase {
        Phase::Reply(reply) => std::mem::take(&mut reply.set_aside),
        Phase::Live(watcher) => std::mem::take(&mut watcher.set_aside),
        _ => Vec::new(),
    };
    drop(connection);
    set_aside.into_iter().for_each(|task| task.start());
}

/// The turn of a large body that a worker waits for. When dropped, the next one is called.
struct UploadTurn {
    transport: Arc<Epoll>,
    desk: Arc<Desk>,
    share: Option<Share>,
    _upload: Option<Held>,
}

impl Drop for UploadTurn {
    fn drop(&mut self) {
        self.share = None;
        self.transport.call_next(&self.desk);
    }
}

impl Transport for Epoll {
    type Job = Job;

    fn take(&self, wait: Duration) -> Taken<Job> {
        let until = Instant::now() + wait;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.poller.next(if self.is_closed() { LOOK } else { left }) {
                Ok(Some(Event::Connection(token, report))) => {
                    if let Some(job) = self.slots.take(token, report).and_then(|connection| self.go_on(connection)) {
                        return Taken::Job(job);
                    }
                    continue;
                }
                Ok(Some(Event::Listener)) => {
                    self.accept();
                    continue;
                }
                Ok(Some(Event::Bell)) => {
                    self.poller.heard();
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

    fn serve(self: &Arc<Self>, job: Job, desk: &Arc<Desk>) {
        let mut next = Some(job);
        for _ in 0..TURN {
            let Some(job) = next else { return };
            next = self.work(job, desk);
        }
        next.into_iter().for_each(|job| self.put_off(job));
    }

    fn wake(&self) {
        self.poller.ring();
    }

    /// The epoll does not break.
    fn mend(self: &Arc<Self>, _desk: &Arc<Desk>, why: &str) {
        log::error!(target: "aside::server", "The system does not say what has come: {why}");
        std::thread::sleep(LOOK);
    }

    fn inspect(self: &Arc<Self>, desk: &Arc<Desk>) {
        self.end_overdue(desk);
        // Workers that waited for another resource may have freed their share.
        self.call_next(desk);
        self.say_refused();
        if self.is_starved.swap(false, Ordering::AcqRel) {
            let _ = self.poller.arm_listener(&self.listener);
        }
    }

    /// A response that its client does not read holds no worker.
    fn relieve(&self, _desk: &Desk) {}

    fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        match self.is_handed_over {
            // A shutdown would close it for every process that has it. Clients wait in its queue for the next process.
            true => self.poller.remove_listener(&self.listener),
            false => drop(socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both)),
        }
        // Gone already, or somebody else's by now: either way nothing is lost.
        self.file.iter().for_each(|file| drop(std::fs::remove_file(file)));
        self.departures.close();
        self.slots.call_all(|stream, token| self.poller.nudge(stream, token));
    }

    fn hang_up(&self) {
        self.is_over.store(true, Ordering::Release);
        self.slots.end_all();
    }
}
