//! The worker pool: a few workers at first, more when all are busy, fewer again when they are idle or not needed.
//!
//! A worker counts itself busy and idle with two atomic additions, which wake no thread. Only the last idle worker that
//! becomes busy wakes the supervisor, which then checks every few milliseconds. The supervisor also checks on a tick.
//! The rules are in [`worker_policy`](super::worker_policy).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::worker_policy::{
    CHECK_WHEN_FULL, Count, Headcount, Policy, Reservation, Rest, SAMPLE, Surplus, TICK, Watch,
};
use super::{Counted, ServerState, Taken, Transport};
use crate::background::{panics, task_cores};
use crate::log_limit::LogLimit;
use crate::log_text::numbered;
use crate::metrics::{MeasuredServer, Metrics, ServerNumbers};
use crate::sync::{lock, spawn};
use crate::worker_routes::RouteNumber;

/// How long a worker waits for a job before it may leave the pool.
const IDLE: Duration = Duration::from_secs(10);

/// The most routes that a warning names.
const MOST_ROUTES: usize = 8;

/// The interval at which the transport is inspected.
const INSPECT: Duration = Duration::from_secs(2);

/// The workers of a transport, and their supervisor.
pub(crate) struct WorkerPool<T: Transport> {
    shared: Arc<Shared<T>>,
    supervisor: JoinHandle<()>,
}

struct Shared<T: Transport> {
    transport: Arc<T>,
    state: Arc<ServerState>,
    count: Headcount,
    threads: Threads,
    /// The number of workers that are to leave after their jobs.
    surplus: AtomicUsize,
    /// The number of jobs done since the start.
    done: AtomicU64,
    /// True while a worker rests. One at a time does.
    is_resting: AtomicBool,
    /// The limit of the warning that handlers hold all workers.
    held: LogLimit,
    /// True while the supervisor checks every few milliseconds.
    watched: AtomicBool,
    policy: Policy,
    supervisor: std::sync::OnceLock<thread::Thread>,
}

impl<T: Transport> WorkerPool<T> {
    /// Starts the first workers and their supervisor.
    ///
    /// # Errors
    /// An error if the operating system refuses a thread.
    pub(crate) fn start(transport: Arc<T>, state: Arc<ServerState>) -> io::Result<WorkerPool<T>> {
        let most = state.service.config().max_workers;
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let fewest = cores.clamp(2, 4).min(most);
        let shared = Arc::new(Shared {
            transport,
            state,
            count: Headcount::new(),
            threads: Threads::default(),
            surplus: AtomicUsize::new(0),
            done: AtomicU64::new(0),
            is_resting: AtomicBool::new(false),
            held: LogLimit::default(),
            watched: AtomicBool::new(false),
            policy: Policy { fewest, most, cores },
            supervisor: std::sync::OnceLock::new(),
        });
        for _ in 0..fewest {
            Shared::start_worker(&shared)?;
        }
        if let Some(metrics) = shared.state.service.scope().get::<Arc<Metrics>>() {
            let measured: Arc<dyn MeasuredServer> = shared.clone();
            metrics.set_server(Arc::downgrade(&measured));
        }
        let supervised = shared.clone();
        let supervisor = spawn("aside-pool", move || supervise(&supervised))?;
        let _ = shared.supervisor.set(supervisor.thread().clone());
        Ok(WorkerPool { shared, supervisor })
    }

    /// Returns the number of requests in handlers.
    pub(crate) fn requests(&self) -> usize {
        self.shared.requests()
    }

    /// Tells the workers to finish the remaining requests and end.
    pub(crate) fn stop_workers(&self) {
        self.supervisor.thread().unpark();
        for _ in 0..self.shared.count.now().total {
            self.shared.transport.wake();
        }
    }
}

impl<T: Transport> MeasuredServer for Shared<T> {
    fn numbers(&self) -> ServerNumbers {
        let Count { total, busy } = self.count.now();
        ServerNumbers {
            in_flight: self.requests(),
            busy_workers: busy.min(total),
            workers: total,
            connections: self.transport.connections(),
            streams: self.state.streams.count(),
            live_pages: self.state.live_pages.count(),
        }
    }
}

impl<T: Transport> Shared<T> {
    /// Returns the number of requests in handlers.
    fn requests(&self) -> usize {
        self.state.routes.in_handlers().iter().map(|(_, count)| count).sum()
    }

    /// Starts one more worker.
    fn start_worker(shared: &Arc<Shared<T>>) -> io::Result<()> {
        let active = shared.state.count_active();
        let worker = Worker::begin(shared);
        spawn("aside-worker", move || worker.run(active)).map(drop)
    }

    fn run_job(&self, job: T::Job, thread: &WorkerThread) {
        thread.count();
        self.wake_supervisor_if_all_busy(self.count.begin());
        if let Err(panic) = panics::catch(|| self.transport.serve(job, &self.state)) {
            log::error!(target: "aside::server", "A worker panicked and continues: {panic}");
        }
        self.count.end();
        thread.count();
        self.done.fetch_add(1, Ordering::Release);
    }

    /// Counts this worker out if it is surplus.
    fn leave_if_surplus(&self) -> bool {
        if self.surplus.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let is_surplus =
            self.surplus.fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1)).is_ok();
        let left = if is_surplus { self.count.leave_if(|count| self.policy.may_leave_surplus(count)) } else { None };
        left.inspect(|count| self.wake_supervisor_if_all_busy(*count)).is_some()
    }

    /// Rests while another worker keeps up alone and that is better for the pages: see [`Rest`]. The calling worker has done
    /// `own` jobs.
    fn rest(&self, rest: &mut Rest, own: u64) {
        let mut is_due = || {
            let may_rest = self.transport.may_rest() && !self.state.is_stopping();
            rest.is_due(self.done.load(Ordering::Acquire) - own, may_rest)
        };
        if !is_due() || self.is_resting.swap(true, Ordering::AcqRel) {
            return;
        }
        thread::sleep(Rest::PAUSE);
        while is_due() {
            thread::sleep(Rest::PAUSE);
        }
        self.is_resting.store(false, Ordering::Release);
    }

    fn wake_supervisor_if_all_busy(&self, count: Count) {
        if count.all_busy() && !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::SeqCst) {
            self.supervisor.get().iter().for_each(|supervisor| supervisor.unpark());
        }
    }
}

/// A counted worker. The count is correct however its thread ends.
struct Worker<T: Transport> {
    shared: Arc<Shared<T>>,
    has_left: bool,
}

impl<T: Transport> Worker<T> {
    fn begin(shared: &Arc<Shared<T>>) -> Worker<T> {
        shared.count.enter();
        Worker { shared: shared.clone(), has_left: false }
    }

    /// Runs jobs until the worker leaves the pool. At a shutdown it wakes another worker, which may have missed the wake-up.
    fn run(mut self, _active: Counted) {
        let shared = self.shared.clone();
        let thread = shared.threads.enter();
        let _routes = shared.state.routes.enter();
        shared.state.shares.enter();
        let (mut rest, mut own) = (Rest::default(), 0);
        loop {
            shared.rest(&mut rest, own);
            let stopping = shared.state.is_stopping();
            match shared.transport.take(if stopping { Duration::ZERO } else { IDLE }) {
                Taken::Job(job) => {
                    shared.run_job(job, &thread.1);
                    own += 1;
                    self.has_left = shared.leave_if_surplus();
                }
                Taken::Broken(why) if !stopping => shared.transport.restart(&shared.state, &why),
                _ if stopping => break shared.transport.wake(),
                _ if shared.state.is_stopping() => {}
                _ => self.has_left = shared.count.leave_if(|count| shared.policy.may_leave_idle(count)).is_some(),
            }
            if self.has_left {
                return;
            }
        }
    }
}

impl<T: Transport> Drop for Worker<T> {
    fn drop(&mut self) {
        if !self.has_left {
            self.shared.wake_supervisor_if_all_busy(self.shared.count.leave());
        }
    }
}

/// The threads of the workers.
#[derive(Default)]
struct Threads(Mutex<Vec<Arc<WorkerThread>>>);

/// The thread of a worker, alone in its cache line.
#[repr(align(64))]
struct WorkerThread {
    id: i32,
    /// Counts the beginnings and ends of jobs: odd while the worker is busy. The supervisor sees by it whether the worker
    /// still has the same job.
    jobs: AtomicU64,
    /// The count at the last sample.
    sampled: AtomicU64,
    /// The nanoseconds for which the thread had run or waited for a core at the last sample.
    demanded: AtomicU64,
}

impl WorkerThread {
    /// Counts the beginning or the end of a job.
    fn count(&self) {
        self.jobs.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns true if the worker waits in a handler. One that has just ended its job, and waits for the next, does not.
    fn waits(&self) -> bool {
        let jobs = self.jobs.load(Ordering::Acquire);
        jobs % 2 == 1 && !is_running(self.id) && self.jobs.load(Ordering::Acquire) == jobs
    }

    /// Returns true if the worker waits in a handler, or has run the same one since the last call.
    fn is_occupied(&self) -> bool {
        let jobs = self.jobs.load(Ordering::Acquire);
        let before = self.sampled.swap(jobs, Ordering::Relaxed);
        jobs % 2 == 1 && (before == jobs || self.waits())
    }
}

impl Threads {
    /// Adds this thread until the returned entry is dropped.
    fn enter(&self) -> Entry<'_> {
        let (jobs, sampled, demanded) = Default::default();
        let thread = Arc::new(WorkerThread { id: thread_id(), jobs, sampled, demanded });
        lock(&self.0).push(thread.clone());
        Entry(self, thread)
    }

    /// Returns true if at least `count` workers wait in a handler. The state of a thread costs a system call or two.
    fn wait(&self, count: usize) -> bool {
        lock(&self.0).iter().filter(|thread| thread.waits()).take(count).count() == count
    }

    /// Returns the number of workers that wait in a handler, or have run the same one since the last call.
    fn occupied(&self) -> usize {
        lock(&self.0).iter().filter(|thread| thread.is_occupied()).count()
    }

    /// Returns the time for which the workers ran or waited for a core since the last call.
    fn demand(&self) -> Duration {
        let demand = |thread: &Arc<WorkerThread>| {
            let now = task_cores::demanded(thread.id).unwrap_or_default().as_nanos() as u64;
            now.saturating_sub(thread.demanded.swap(now, Ordering::Relaxed))
        };
        Duration::from_nanos(lock(&self.0).iter().map(demand).sum())
    }
}

struct Entry<'t>(&'t Threads, Arc<WorkerThread>);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).retain(|thread| !Arc::ptr_eq(thread, &self.1));
    }
}

#[cfg(target_os = "linux")]
fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Returns true if the thread runs or waits for a core. Its state follows after its name, which is in parentheses and may
/// contain some (proc_pid_stat(5)).
#[cfg(target_os = "linux")]
fn is_running(id: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
}

#[cfg(not(target_os = "linux"))]
fn thread_id() -> i32 {
    0
}

/// Returns false: the state is unknown on this platform.
#[cfg(not(target_os = "linux"))]
fn is_running(_id: i32) -> bool {
    false
}

/// Runs the supervisor: checks the workers and the transport.
fn supervise<T: Transport>(shared: &Arc<Shared<T>>) {
    let (mut watch, mut inspected) = (Watch::default(), Instant::now());
    let mut sampler = Sampler::new();
    while !shared.state.is_stopping() {
        let next = check(shared, &mut watch).min(sampler.sample(shared));
        if inspected.elapsed() >= INSPECT {
            let _ = panics::catch(|| shared.transport.inspect(&shared.state));
            inspected = Instant::now();
        }
        thread::park_timeout(next);
    }
    if sampler.reserved > 0 {
        task_cores::reserve(0);
    }
}

/// What the supervisor samples ten times a second: whether there are too many workers, and the cores that they need.
struct Sampler {
    surplus: Surplus,
    reservation: Reservation,
    reserved: usize,
    sampled: Instant,
}

impl Sampler {
    fn new() -> Sampler {
        let (surplus, reservation) = Default::default();
        Sampler { surplus, reservation, reserved: 0, sampled: Instant::now() }
    }

    /// Samples if there is something to decide and the interval has passed. Returns the time until the next sample.
    fn sample<T: Transport>(&mut self, shared: &Shared<T>) -> Duration {
        let (count, has_tasks) = (shared.count.now(), task_cores::has_threads());
        let may_leave = shared.policy.may_leave_surplus(count);
        if !has_tasks && !may_leave {
            return TICK;
        }
        let elapsed = self.sampled.elapsed();
        if elapsed >= SAMPLE {
            self.sampled = Instant::now();
            if may_leave {
                let left = self.surplus.sample(&shared.policy, count.total, shared.threads.occupied());
                shared.surplus.store(left, Ordering::Release);
            }
            if has_tasks {
                self.reserve_cores(shared, elapsed);
            }
        }
        SAMPLE
    }

    /// Reserves the cores that the workers need while background tasks run.
    fn reserve_cores<T: Transport>(&mut self, shared: &Shared<T>, elapsed: Duration) {
        let before = self.reserved;
        self.reserved = self.reservation.sample(shared.threads.demand(), elapsed, shared.policy.cores);
        if before > 0 || self.reserved > 0 {
            task_cores::reserve(self.reserved);
        }
    }
}

/// Checks once, adds the needed workers as far as the operating system allows, and returns the time of the next check.
fn check<T: Transport>(shared: &Arc<Shared<T>>, watch: &mut Watch) -> Duration {
    let Policy { fewest, most, cores } = shared.policy;
    // An absent worker counts as busy, and the limit is raised by one for it.
    let policy = Policy { fewest, most: most.saturating_add(shared.state.shares.away()), cores };
    let check = |watch: &mut Watch| {
        let (count, done) = (shared.count.now(), shared.done.load(Ordering::Acquire));
        watch.check(&policy, count, done, |waiting| shared.threads.wait(waiting))
    };
    let mut decision = check(watch);
    if decision.next == TICK {
        // The last idle worker may have become busy without a call, since the watch was still on: check again.
        shared.watched.swap(false, Ordering::SeqCst);
        decision = check(watch);
    }
    if decision.next != TICK {
        shared.watched.store(true, Ordering::SeqCst);
    }
    if decision.add > 0 {
        shared.surplus.store(0, Ordering::Release);
    }
    for _ in 0..decision.add {
        if let Err(error) = Shared::start_worker(shared) {
            log::warn!(target: "aside::server", "Could not start another worker: {error}");
            break;
        }
    }
    if decision.next == CHECK_WHEN_FULL {
        let _ = panics::catch(|| shared.transport.close_slow_connections(&shared.state));
    }
    if watch.is_full_for_long() {
        let _ = panics::catch(|| warn_of_held_workers(shared));
    }
    decision.next
}

/// Logs that handlers hold the workers, with their routes, at most once a minute. Workers with clients that are slow to
/// send or to read have limits of their own, so the handlers must hold most of them.
fn warn_of_held_workers<T: Transport>(shared: &Shared<T>) {
    let (routes, most) = (shared.state.routes.in_handlers(), shared.policy.most);
    let held: usize = routes.iter().map(|(_, count)| count).sum();
    if 2 * held <= most || shared.held.count().is_none() {
        return;
    }
    let (named, others) = routes.split_at(routes.len().min(MOST_ROUTES));
    let label =
        |&(route, count): &(RouteNumber, usize)| format!("{} ({count})", shared.state.service.route_label(route));
    let mut labels: Vec<String> = named.iter().map(label).collect();
    if !others.is_empty() {
        let count: usize = others.iter().map(|(_, count)| count).sum();
        let others = numbered(others.len(), "other route", "other routes");
        labels.push(format!("{others} ({count})"));
    }
    log::warn!(
        target: "aside::server",
        "All workers have been busy for over a second, and new requests wait. Handlers hold {held} of {most} \
         (ASIDE_MAX_WORKERS): {}. Move what the client need not wait for to `background`, limit slow work with a `Pool`, or \
         set a higher ASIDE_MAX_WORKERS.",
        labels.join(", ")
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn only_a_worker_in_a_handler_waits() {
        let (threads, (tell, told)) = (&Threads::default(), std::sync::mpsc::channel::<()>());
        let mine = threads.enter();
        mine.1.count();
        thread::scope(|scope| {
            scope.spawn(move || {
                let theirs = threads.enter();
                theirs.1.count();
                told.recv().unwrap();
                theirs.1.count();
                assert!(told.recv().is_err(), "waits without a job");
            });
            until(|| threads.wait(1));
            assert!(!threads.wait(2), "this thread runs");
            assert_eq!((threads.occupied(), threads.occupied()), (1, 2), "this thread has the same job as before");
            tell.send(()).unwrap();
            until(|| !threads.wait(1));
            assert!(!threads.wait(1), "the other thread has no job");
            drop(tell);
        });
        assert_eq!(lock(&threads.0).len(), 1);
    }

    #[cfg(target_os = "linux")]
    fn until(mut is_so: impl FnMut() -> bool) {
        while !is_so() {
            thread::yield_now();
        }
    }
}
