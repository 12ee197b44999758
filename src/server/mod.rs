//! The HTTP server: the transports, the worker pool, signals, and the start and graceful shutdown of the process.
//!
//! [`App::run`] serves until a signal arrives. [`App::start`] returns a [`Server`], which a program stops itself:
//!
//! ```
//! use aside::server::Server;
//! use aside::{App, Config};
//!
//! let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
//! let server: Server = App::with_config(config).get("/", |_| "hello").start()?;
//! println!("http://{}", server.addr());
//! server.stop();
//! # aside::ok(())
//! ```

// A `Transport` handles sockets and does not depend on the application. `Service::handle` runs the application and does
// not depend on sockets. A pool of `workers` connects them. There are two transports: `epoll`, the default on Linux, and
// `tiny_http`, the portable one.

mod clients;
pub(crate) mod date_header;
mod disconnect_watcher;
#[cfg(all(feature = "epoll", target_os = "linux"))]
pub(crate) mod epoll;
pub(crate) mod http1;
mod listener;
pub(crate) mod log;
mod log_json;
mod log_writer;
mod process;
#[cfg(unix)]
mod restart;
#[cfg(unix)]
mod service_manager;
mod signals;
pub(crate) mod socket;
mod stream_threads;
pub(crate) mod tiny_http;
mod worker_policy;
pub(crate) mod worker_pool;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use self::clients::{Bound, Clients, Held};
use self::listener::{Address, Listener};
use self::process::{End, Process};
#[cfg(unix)]
use self::restart::{Former, Handover, Supervisor};
use self::tiny_http::TinyHttp;
use self::worker_pool::WorkerPool;
use crate::app::App;
use crate::app::service::Service;
use crate::config::ServerKind;
use crate::deadline;
use crate::error::{Error, Result};
use crate::failures::reporter::Reporter;
use crate::jobs::{self, Jobs};
use crate::log_limit::LogLimit;
use crate::log_text::{numbered, span};
use crate::sync::{lock, wait_while_for};
use crate::worker_routes::WorkerRoutes;
use crate::worker_share::{Shares, busy};

/// The time that cancelled tasks have to end after the grace period.
const CANCEL_GRACE: Duration = Duration::from_secs(2);

/// The time that live pages have to end at a shutdown.
const LIVE_PAGE_GRACE: Duration = Duration::from_secs(1);

/// How long a client may still send after the last response. If the socket were closed earlier, the kernel would drop the
/// part of the response that the client has not read yet.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_UNREAD: Duration = Duration::from_secs(10);

/// How long a body may take before its rate is checked: a phone that changes networks sends nothing for some seconds.
const RATE_GRACE: Duration = Duration::from_secs(10);

/// A transport, as workers use it: they [`take`](Transport::take) a job and [`serve`](Transport::serve) it.
pub(crate) trait Transport: Send + Sync + 'static {
    /// A request with its connection.
    type Job: Send;

    /// Waits for a job, for `wait` at most.
    fn take(&self, wait: Duration) -> Taken<Self::Job>;

    /// Handles a job, and writes the response to its last byte.
    fn serve(self: &Arc<Self>, job: Self::Job, state: &Arc<ServerState>);

    /// Returns true if it is better that one worker rests for a moment: background tasks compute, and few requests are ready.
    fn may_rest(&self) -> bool {
        false
    }

    /// Wakes one worker, whose `take` returns without a job.
    fn wake(&self);

    /// Recovers after `take` has returned [`Taken::Broken`].
    fn restart(self: &Arc<Self>, state: &Arc<ServerState>, why: &str);

    /// Checks every few seconds for overdue connections and unnoticed failures.
    fn inspect(self: &Arc<Self>, state: &Arc<ServerState>);

    /// Closes the connections whose responses have occupied workers for long, while all workers are busy and the pool cannot
    /// grow.
    fn close_slow_connections(&self, state: &ServerState);

    /// Returns the number of open connections, if the transport knows it.
    fn connections(&self) -> Option<usize> {
        None
    }

    /// Stops accepting connections, without effect on another process that listens on the same socket, and without the effects of
    /// a shutdown.
    fn release_listener(&self);

    /// Accepts connections again.
    fn take_listener_back(self: &Arc<Self>, state: &Arc<ServerState>);

    /// Stops accepting connections. `hands_over` is true if another process serves on the same socket: the connections in its
    /// queue are left to that process, and the open ones are served until their next response.
    fn close(&self, hands_over: bool);

    /// Closes the remaining connections.
    fn hang_up(&self);
}

/// The result of [`Transport::take`].
pub(crate) enum Taken<J> {
    Job(J),
    /// The time is up, or the worker was woken.
    Nothing,
    /// The transport accepts no more connections, for this reason.
    Broken(String),
}

/// The state that all workers share beside the transport: the application, the limits, and the counts of active work.
pub(crate) struct ServerState {
    pub(crate) service: Service,
    stopping: AtomicBool,
    streams: Arc<Counter>,
    live_pages: Arc<Counter>,
    streams_of_clients: Arc<Clients>,
    streams_refused: LogLimit,
    uploads_of_clients: Arc<Clients>,
    active: Arc<Counter>,
    pub(crate) shares: Arc<Shares>,
    routes: WorkerRoutes,
}

impl ServerState {
    fn new(service: Service) -> Arc<ServerState> {
        let config = service.config();
        let clients =
            |what, most, setting| Clients::new(Bound { most, what, setting, has_loopback: config.loopback_clients });
        Arc::new(ServerState {
            stopping: AtomicBool::new(false),
            streams: Arc::default(),
            live_pages: Arc::default(),
            streams_of_clients: clients("Streams", config.streams_per_client(), "ASIDE_MAX_STREAMS_PER_CLIENT"),
            streams_refused: LogLimit::default(),
            uploads_of_clients: clients("Uploads", config.uploads_per_client(), "ASIDE_MAX_UPLOADS_PER_CLIENT"),
            active: Arc::default(),
            shares: Shares::new(config.worker_bounds()),
            routes: WorkerRoutes::default(),
            service,
        })
    }

    /// Returns true during a shutdown: each response is the last of its connection, and live pages end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Counts one more worker or stream that a shutdown waits for.
    pub(crate) fn count_active(&self) -> Counted {
        Counter::add(&self.active, usize::MAX).expect("fewer than usize::MAX are counted")
    }

    /// Takes a slot for one more stream of a client, if it has fewer than `ASIDE_MAX_STREAMS_PER_CLIENT` and all clients
    /// together have fewer than `ASIDE_MAX_STREAMS`. `is_live` is true for a live page.
    ///
    /// # Errors
    /// The message for the client.
    pub(crate) fn stream_slot(&self, client: Option<IpAddr>, is_live: bool) -> Result<StreamSlot, &'static str> {
        let held = self.streams_of_clients.take(client);
        let held = held.ok_or("Too many live pages are open at your address; close some, or try again in a moment.")?;
        let most = self.service.config().max_streams;
        let counted = Counter::add(&self.streams, most).ok_or_else(|| {
            if let Some(count) = self.streams_refused.count() {
                ::log::warn!(target: "aside::server", "Streams refused with 503: {count}. There are {most} already (ASIDE_MAX_STREAMS).");
            }
            "Too many live pages are open; try again in a moment."
        })?;
        let live = if is_live { Counter::add(&self.live_pages, usize::MAX) } else { None };
        Ok(StreamSlot { _counted: counted, _live: live, _held: held })
    }

    /// Counts one more upload of a client, if it has fewer than `ASIDE_MAX_UPLOADS_PER_CLIENT`.
    ///
    /// # Errors
    /// 503 if the limit is reached.
    pub(crate) fn upload_of(&self, client: Option<IpAddr>) -> Result<Held> {
        self.uploads_of_clients.take(client).ok_or_else(|| busy("other uploads of the same client".to_owned()))
    }
}

/// The slot of a stream in the limit of all streams and in that of its client, until dropped.
pub(crate) struct StreamSlot {
    _counted: Counted,
    _live: Option<Counted>,
    _held: Held,
}

/// A counter that can wait for zero.
#[derive(Default)]
struct Counter {
    count: Mutex<usize>,
    none: Condvar,
}

impl Counter {
    /// Adds one, if the count is below `most`.
    fn add(counter: &Arc<Counter>, most: usize) -> Option<Counted> {
        let mut count = lock(&counter.count);
        (*count < most).then(|| {
            *count += 1;
            Counted(counter.clone())
        })
    }

    fn count(&self) -> usize {
        *lock(&self.count)
    }

    /// Waits until the count is zero, or until a time, and returns the count.
    fn wait_for_zero(&self, until: Instant) -> usize {
        let wait = until.saturating_duration_since(Instant::now());
        *wait_while_for(&self.none, lock(&self.count), wait, |count| *count > 0)
    }
}

/// One in a counter, until dropped.
pub(crate) struct Counted(Arc<Counter>);

impl Drop for Counted {
    fn drop(&mut self) {
        let mut count = lock(&self.0.count);
        *count -= 1;
        if *count == 0 {
            self.0.none.notify_all();
        }
    }
}

impl App {
    /// Serves the site on `ASIDE_ADDR` (127.0.0.1:8000) until a signal stops the process.
    ///
    /// ```no_run
    /// use aside::{App, Request};
    ///
    /// fn main() -> aside::Result<()> {
    ///     App::new().get("/", |_req: &mut Request| "Hello").run()
    /// }
    /// ```
    ///
    /// With `ASIDE_ADDR=unix:/run/site.sock` it listens on a Unix socket, for a proxy on the same machine (over
    /// `epoll`; put `unix` into `ASIDE_TRUSTED_PROXIES`). `ASIDE_SOCKET_MODE` (660), `ASIDE_SOCKET_GROUP` and the
    /// permissions of its folder determine which processes can connect. A file
    /// left by an ended process is replaced, and the file is removed when the server stops.
    ///
    /// SIGTERM, SIGINT (Ctrl-C) and SIGHUP start a graceful shutdown: no new connections are accepted, requests in flight
    /// are answered, live pages end. Tasks have `ASIDE_GRACE` (25 s) to end; then they are cancelled and have 2 s more.
    /// Tasks that still run are named in the log. A second of these signals ends the process at once, with the exit status
    /// 128 plus the signal's number. Within a second of the first it counts as the same signal, since wrappers signal both
    /// a process and its group. SIGQUIT ends the process at once. SIGUSR1 only logs a line. SIGHUP stays ignored
    /// if it was ignored at start (`nohup`).
    ///
    /// SIGUSR2 restarts the site without loss (Unix): this process starts its program again, from the same path, with the same
    /// arguments and variables, and with the listening socket as well. When the new process serves, this one stops as above; until
    /// then both serve. If the new process ends before it serves, or takes more than two minutes, this one continues, and the log
    /// says why. An open connection is served until its next response, which closes it, for `ASIDE_GRACE` at most; then tasks have
    /// `ASIDE_GRACE`. Process 1 of a container and [`work`](App::work) ignore SIGUSR2. The new process does not have what is in memory: cached
    /// values, the state of live pages, jobs in memory, and, with `ASIDE_STORE=memory:`, which sessions have ended.
    ///
    /// The service manager is notified if it sets `NOTIFY_SOCKET` (systemd's `Type=notify`): of the start, of the stop, and of the
    /// new main process.
    ///
    /// A socket from the service manager (systemd's socket activation, `LISTEN_FDS`) takes the place of `ASIDE_ADDR`: a
    /// client that connects during a restart waits for the next process, and the process itself needs no permission to
    /// listen on port 80.
    ///
    /// The log goes to standard error at `info`, unless `RUST_LOG` is set or the application has installed a logger. If standard
    /// error is not a terminal, routine lines are written in batches, at most 50 ms later: the access log (`aside::access`), and
    /// jobs and tasks that ended well (`aside::background` at `info`). `abort`, `process::exit` and `kill -9` lose those of the last
    /// 50 ms. A panic and the end of `run` write them. All other
    /// lines are written at once. While the reader of the log does not read, up to 1 MiB of routine lines and 1 MiB of other
    /// lines wait; further lines are dropped, and their number is logged when the reader reads again.
    ///
    /// # Errors
    /// An error if a setting or a route is invalid, or the address is in use.
    pub fn run(self) -> Result<()> {
        let start = |app: App| {
            let (listener, former) = listener_of_another_process()?;
            let server = app.start_on(listener, former)?;
            let address = server.address();
            let banner = server.service().banner(&address, server.kind);
            ::log::info!(target: "aside::server", address = address.as_str(); "{banner}");
            ::log::debug!(target: "aside::server", "RUST_LOG selects what is logged, for example RUST_LOG=info,aside::access=warn");
            Ok(server)
        };
        self.run_until_signal(start)
    }

    /// Runs the application's jobs until a signal stops the process, and serves no pages: for a worker process beside the
    /// site, on this machine or another.
    ///
    /// ```no_run
    /// use aside::{App, Job, Jobs, Result, TaskContext};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Report;
    ///
    /// impl Job for Report {
    ///     const NAME: &'static str = "report";
    ///     fn run(self, _task: &TaskContext) -> Result<()> { Ok(()) }
    /// }
    ///
    /// fn main() -> Result<()> {
    ///     let app = App::new().jobs(Jobs::open(&std::env::var("ASIDE_JOBS")?)?.register::<Report>());
    ///     if std::env::args().nth(1).as_deref() == Some("work") { app.work() } else { app.run() }
    /// }
    /// ```
    ///
    /// It stops on the same signals as [`run`](App::run). Running jobs have `ASIDE_GRACE` to end; then they are cancelled.
    /// Jobs that still run are released, so that another worker can take them at once.
    ///
    /// # Errors
    /// An error if the application has no jobs, a setting is invalid, or the job store cannot be reached.
    #[cfg(feature = "jobs")]
    pub fn work(self) -> Result<()> {
        self.run_until_signal(Worker::start)
    }

    /// Serves the site in the background of this process, until the returned handle is stopped or dropped.
    ///
    /// ```
    /// use aside::{App, Config, Request};
    ///
    /// # fn main() -> aside::Result<()> {
    /// let config = Config { address: "127.0.0.1:0".into(), ..Config::default() }; // port 0: a free one
    /// let server = App::with_config(config).get("/", |_req: &mut Request| "Hello").start()?;
    /// let page = ureq::get(format!("http://{}/", server.addr())).call()?.body_mut().read_to_string()?;
    /// assert_eq!(page, "Hello");
    /// server.stop();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It installs neither a logger nor signal handlers; [`run`](App::run) does.
    ///
    /// # Errors
    /// As [`run`](App::run).
    pub fn start(self) -> Result<Server> {
        self.start_on(None, None)
    }

    /// Starts the server, on the listening socket of a former process or of the service manager if there is one.
    fn start_on(self, listener: Option<Listener>, former: Option<Former>) -> Result<Server> {
        #[cfg(unix)]
        let app = match former.as_ref().and_then(Former::live_reload) {
            Some(reload) => self.with_live_reload(reload),
            None => self,
        };
        #[cfg(not(unix))]
        let app = self;
        let service = app.with_panel().build()?;
        service.serve_parent_if_asked();
        prepare(&service);
        let listener = listener.map_or_else(|| Listener::on(service.config()), Ok)?;
        let addr = listener.address()?;
        #[cfg(unix)]
        let handover = Handover { socket: listener.duplicate()?, is_of_service_manager: listener.is_handed_over };
        #[cfg(unix)]
        let former = former.inspect(|former| former.wait_for_release());
        let (kind, running) = start_transport(listener, service)?;
        Ok(Server {
            addr,
            kind,
            running: Some(running),
            #[cfg(unix)]
            handover,
            #[cfg(unix)]
            supervisor: former.and_then(Former::hand_over),
        })
    }
}

/// A worker process: it runs jobs and serves no pages.
#[cfg(feature = "jobs")]
struct Worker {
    service: Service,
    jobs: Option<Arc<jobs::runner::JobRunner>>,
}

#[cfg(feature = "jobs")]
impl Worker {
    fn start(app: App) -> Result<Worker> {
        let service = app.build()?;
        prepare(&service);
        let jobs = start_jobs(&service)?;
        let kept = service.scope().get::<Jobs>().map(|jobs| jobs.describe());
        let kept =
            kept.ok_or_else(|| Error::internal("App::work: the application has no jobs; add them with `App::jobs`"))?;
        ::log::info!(target: "aside::server", "aside works on the jobs in {kept}");
        Ok(Worker { service, jobs })
    }
}

#[cfg(feature = "jobs")]
impl Process for Worker {
    #[cfg(unix)]
    fn handover(&self) -> Option<&Handover> {
        None
    }

    #[cfg(unix)]
    fn take_supervisor(&mut self) -> Option<Supervisor> {
        None
    }

    #[cfg(unix)]
    fn warn_before_restart(&self) {}

    #[cfg(unix)]
    fn release_listener(&self) {}

    #[cfg(unix)]
    fn take_listener_back(&self) {}

    fn stop(self, end: End) {
        let grace = self.service.config().grace;
        ::log::info!(target: "aside::server", "{end}: jobs have {}.", span(grace));
        self.jobs.iter().for_each(|jobs| jobs.stop_claiming());
        drain_tasks(&self.service, self.jobs.as_deref(), deadline::after(grace));
    }
}

/// A running server, returned by [`App::start`].
///
/// Dropping it stops it, as [`stop`](Server::stop) does.
#[must_use = "the server stops when this is dropped"]
pub struct Server {
    addr: Address,
    kind: ServerKind,
    running: Option<Box<dyn Run>>,
    #[cfg(unix)]
    handover: Handover,
    #[cfg(unix)]
    supervisor: Option<Supervisor>,
}

/// A running server over any transport.
trait Run: Send + Sync {
    fn service(&self) -> &Service;

    fn release_listener(&self);

    fn take_listener_back(&self);

    fn stop(self: Box<Self>, end: End);
}

struct Running<T: Transport> {
    state: Arc<ServerState>,
    transport: Arc<T>,
    pool: WorkerPool<T>,
    jobs: Option<Arc<jobs::runner::JobRunner>>,
}

impl Server {
    /// Returns the address that it listens on. If the port of `ASIDE_ADDR` is 0, this is the port that was assigned.
    ///
    /// # Panics
    /// If it listens on a Unix socket, which has no such address; [`address`](Server::address) formats both.
    pub fn addr(&self) -> SocketAddr {
        match &self.addr {
            Address::Tcp(addr) => *addr,
            Address::Unix(path) => panic!("a Unix socket, {}, has no address with a port", path.display()),
        }
    }

    /// Returns the address that it listens on as text: `http://127.0.0.1:8000`, or `unix:/run/site.sock`.
    pub fn address(&self) -> String {
        self.addr.to_string()
    }

    /// Shuts the server down gracefully: accepts no new connections, answers the requests in flight, and waits for tasks, all
    /// within `ASIDE_GRACE`.
    pub fn stop(self) {
        Process::stop(self, End::Told("request"));
    }

    fn service(&self) -> &Service {
        // It is present until `stop` takes it together with the server.
        self.running.as_ref().expect("the server runs").service()
    }
}

impl Process for Server {
    #[cfg(unix)]
    fn handover(&self) -> Option<&Handover> {
        Some(&self.handover)
    }

    #[cfg(unix)]
    fn take_supervisor(&mut self) -> Option<Supervisor> {
        self.supervisor.take()
    }

    #[cfg(unix)]
    fn warn_before_restart(&self) {
        let service = self.service();
        if service.config().store.as_deref().is_none_or(|store| store == "memory:") {
            ::log::warn!(target: "aside::server", "ASIDE_STORE is `memory:`: the new process does not know which sessions have ended, such as by a logout; use sqlite:PATH");
        }
        if service.scope().get::<Jobs>().is_some_and(|jobs| !jobs.is_durable()) {
            ::log::warn!(target: "aside::server", "The jobs are in memory: those that do not end within ASIDE_GRACE are lost");
        }
    }

    #[cfg(unix)]
    fn release_listener(&self) {
        self.running.iter().for_each(|running| running.release_listener());
    }

    #[cfg(unix)]
    fn take_listener_back(&self) {
        self.running.iter().for_each(|running| running.take_listener_back());
    }

    fn stop(mut self, end: End) {
        if let Some(running) = self.running.take() {
            running.stop(end);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop(End::Told("drop"));
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.addr)
    }
}

impl<T: Transport> Running<T> {
    fn start(transport: T, service: Service) -> Result<Box<Running<T>>> {
        let (state, transport) = (ServerState::new(service), Arc::new(transport));
        let jobs = start_jobs(&state.service)?;
        let pool = WorkerPool::start(transport.clone(), state.clone())?;
        Ok(Box::new(Running { state, transport, pool, jobs }))
    }
}

impl<T: Transport> Run for Running<T> {
    fn service(&self) -> &Service {
        &self.state.service
    }

    fn release_listener(&self) {
        self.transport.release_listener();
    }

    fn take_listener_back(&self) {
        self.transport.take_listener_back(&self.state);
    }

    fn stop(self: Box<Self>, end: End) {
        let grace = self.state.service.config().grace;
        let (until, hands_over) = (deadline::after(grace), matches!(end, End::HandedOver(_)));
        ::log::info!(target: "aside::server", "{end}: no new connections; requests and tasks have {}.", span(grace));
        // Before the transport closes: a request that it still serves must not find the site ready. The site stays ready if
        // another process serves it.
        if !hands_over {
            self.state.service.scope().registry().begin_stop();
        }
        // First: a worker that learns of the shutdown leaves when the transport has no work, and an open connection has
        // none for a moment between two requests.
        self.transport.close(hands_over);
        self.state.stopping.store(true, Ordering::Release);
        if let Some(jobs) = &self.jobs {
            jobs.stop_claiming();
        }
        self.pool.stop_workers();
        match self.state.active.wait_for_zero(until) {
            0 => ::log::info!(target: "aside::server", "All requests are answered."),
            _ => log_end_of_grace(grace, self.pool.requests()),
        }
        // `close` has told them to end. A page whose client reads nothing ends when its connection is closed.
        self.state.streams.wait_for_zero(Instant::now() + LIVE_PAGE_GRACE);
        self.transport.hang_up();
        // After a hand-over the connections may have taken all of the time.
        let until = if hands_over { deadline::after(grace) } else { until };
        drain_tasks(&self.state.service, self.jobs.as_deref(), until);
    }
}

/// Without requests, it is connections that were open for another one, or clients that read slowly.
fn log_end_of_grace(grace: Duration, requests: usize) {
    match requests {
        0 => {
            ::log::info!(target: "aside::server", "Closing the connections that are still open after {}.", span(grace))
        }
        _ => {
            let requests = numbered(requests, "request is", "requests are");
            ::log::warn!(target: "aside::server", "Stopped waiting after {}: {requests} not answered.", span(grace));
        }
    }
}

/// Returns the listening socket of a former process of this site, with that process, or the socket of the service manager.
#[cfg(unix)]
fn listener_of_another_process() -> Result<(Option<Listener>, Option<Former>)> {
    match Former::receive()? {
        Some((former, listener)) => Ok((Some(listener), Some(former))),
        None => Ok((Listener::handed_over()?, None)),
    }
}

#[cfg(not(unix))]
fn listener_of_another_process() -> Result<(Option<Listener>, Option<Former>)> {
    Ok((None, None))
}

/// Starts the transport that the settings name. If epoll cannot start, tiny_http is used.
fn start_transport(listener: Listener, service: Service) -> Result<(ServerKind, Box<dyn Run>)> {
    #[cfg(all(feature = "epoll", target_os = "linux"))]
    if service.config().server == ServerKind::Epoll {
        match epoll::poller::Poller::new() {
            Ok(poller) => {
                let transport = epoll::Epoll::new(listener, poller, service.config())?;
                return Ok((ServerKind::Epoll, Running::start(transport, service)?));
            }
            Err(error) => ::log::warn!(
                target: "aside::server",
                "The server `epoll` cannot start: {error}; using `tiny_http` instead. Set ASIDE_SERVER=tiny_http to avoid this \
                 warning."
            ),
        }
    }
    Ok((ServerKind::TinyHttp, Running::start(TinyHttp::new(listener, service.config())?, service)?))
}

/// Prepares the process for the application: isolated functions, warnings about settings, and the limit of descriptors.
fn prepare(service: &Service) {
    service.register_isolated();
    service.warn_of_settings();
    raise_descriptor_limit();
}

/// Starts the job workers, if the application has jobs.
fn start_jobs(service: &Service) -> Result<Option<Arc<jobs::runner::JobRunner>>> {
    let jobs = service.scope().get::<Jobs>();
    jobs.map(|jobs| jobs::runner::JobRunner::start(&jobs, service.scope().clone())).transpose()
}

/// Waits for the tasks, including jobs, and releases the jobs that have not ended.
fn drain_tasks(service: &Service, jobs: Option<&jobs::runner::JobRunner>, until: Instant) {
    let (registry, grace) = (service.scope().registry(), until.saturating_duration_since(Instant::now()));
    let unfinished = registry.counts().unfinished;
    if unfinished > 0 {
        ::log::info!(target: "aside::server", "Waiting for {}, up to {}.", numbered(unfinished, "task", "tasks"), span(grace));
    }
    let all_have_ended = registry.drain(grace, CANCEL_GRACE) & finish_reports(service, until);
    if let Some(jobs) = jobs {
        jobs.leave();
    }
    match all_have_ended {
        true => ::log::info!(target: "aside::server", "Stopped."),
        false => ::log::warn!(target: "aside::server", "Stopped; the tasks named above had not ended."),
    }
}

/// Waits for the hooks that receive failure reports, and then for the tasks that they start. Returns true if those have
/// ended. Tasks that were abandoned a moment ago are reported too, so there is some time in any case.
fn finish_reports(service: &Service, until: Instant) -> bool {
    let Some(reporter) = service.scope().get::<Reporter>() else { return true };
    let until = until.max(Instant::now() + CANCEL_GRACE);
    reporter.finish(until);
    service.scope().registry().drain(until.saturating_duration_since(Instant::now()), Duration::ZERO)
}

/// Raises the limit of descriptors to the maximum. Over tiny_http a connection takes two, and the default of a shell is low,
/// for programs that use `select`.
#[cfg(unix)]
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // If this fails, the current limit stays.
        let _ = setrlimit(Resource::Nofile, limit);
    }
}

#[cfg(not(unix))]
fn raise_descriptor_limit() {}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Barrier;

    use super::*;
    use crate::config::Config;
    use crate::http::request::Request;

    fn ask(stream: &mut TcpStream) {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut buffer = [0; 1024];
        let count = stream.read(&mut buffer).unwrap();
        assert!(buffer[..count].ends_with(b"hello"));
    }

    /// Starts a site over tiny_http, and returns a function that connects to it.
    fn start(app: App) -> (Box<Running<TinyHttp>>, impl Fn() -> TcpStream + Clone) {
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let listener = Listener::on(&config).unwrap();
        let Address::Tcp(addr) = listener.address().unwrap() else { panic!("a Unix socket") };
        let service = app.build().unwrap();
        let running = Running::start(TinyHttp::new(listener, service.config()).unwrap(), service).unwrap();
        let connect = move || {
            let stream = TcpStream::connect(addr).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        };
        (running, connect)
    }

    /// A new process that ends after it was given the listener must cost no connection.
    #[cfg(unix)]
    #[test]
    fn a_client_that_connects_while_the_listener_is_released_is_served_when_it_is_taken_back() {
        let kinds = [ServerKind::TinyHttp, Config::default().server];
        for server in kinds {
            let config = Config { address: "127.0.0.1:0".into(), server, ..Config::default() };
            let server = App::with_config(config).get("/", |_req: &mut Request| "hello").start().unwrap();
            let connect = || TcpStream::connect(server.addr()).unwrap();
            let mut before = connect();
            ask(&mut before);
            for _ in 0..2 {
                server.release_listener();
                let mut between = connect();
                between.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                between.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
                assert!(between.read(&mut [0]).is_err(), "another process would accept the connection");
                ask(&mut before);
                server.take_listener_back();
                between.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                assert_ne!(between.read(&mut [0; 1024]).unwrap(), 0);
                ask(&mut connect());
            }
            server.stop();
        }
    }

    /// tiny_http gives some connections of a burst no thread of their own. They must not wait until another one ends.
    #[test]
    fn no_connection_of_a_burst_waits_for_another_to_end() {
        const BURST: usize = 48;
        let (handlers, clients) = (Barrier::new(BURST), Barrier::new(BURST));
        let meet = move |_req: &mut Request| {
            handlers.wait();
            "hello"
        };
        let (running, connect) = start(App::with_config(Config::default()).get("/", meet));
        std::thread::scope(|scope| {
            for _ in 0..BURST {
                scope.spawn(|| {
                    clients.wait();
                    ask(&mut connect());
                });
            }
        });
        running.stop(End::Told("test"));
    }

    #[test]
    fn connections_from_before_and_after_a_restart_of_tiny_http_are_served() {
        let (running, connect) = start(App::with_config(Config::default()).get("/", |_req: &mut Request| "hello"));
        let mut before = connect();
        ask(&mut before);
        running.transport.restart(&running.state, "a test says so");
        let mut after = connect();
        for _ in 0..3 {
            ask(&mut before);
            ask(&mut after);
        }
        running.stop(End::Told("test"));
    }
}
