//! The crew: few workers at first, more when all are busy, fewer again when idle.
//!
//! A worker counts itself busy and free with two atomic additions; nobody is woken for that. Only when the last free one
//! becomes busy it wakes the supervisor, which then checks every few milliseconds. The supervisor also checks on a tick.
//! The rules are in [`worker_policy`](super::worker_policy).

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::worker_policy::{Count, Headcount, LOOK_WHEN_FULL, Policy, TICK, Watch};
use super::{Counted, Desk, Taken, Transport};
use crate::background::panics;
use crate::log_limit::LogLimit;
use crate::sync::lock;
use crate::worker_routes::RouteNumber;

/// How long a worker waits for a job before it may go.
const IDLE: Duration = Duration::from_secs(10);

/// The most routes that a warning names.
const MOST_ROUTES: usize = 8;

/// How often the transport is looked after.
const INSPECT: Duration = Duration::from_secs(2);

/// The workers of a transport, and the one who calls more.
pub(crate) struct Crew<T: Transport> {
    shared: Arc<Shared<T>>,
    supervisor: JoinHandle<()>,
}

struct Shared<T: Transport> {
    transport: Arc<T>,
    desk: Arc<Desk>,
    count: Headcount,
    threads: Threads,
    /// Jobs done since the start.
    done: AtomicU64,
    /// The limit of the warning that handlers hold all workers.
    held: LogLimit,
    /// The supervisor is awake.
    watched: AtomicBool,
    policy: Policy,
    supervisor: std::sync::OnceLock<thread::Thread>,
}

impl<T: Transport> Crew<T> {
    /// Starts the first workers.
    ///
    /// # Errors
    /// When the system refuses the threads.
    pub(crate) fn start(transport: Arc<T>, desk: Arc<Desk>) -> io::Result<Crew<T>> {
        let most = desk.service.config().max_workers;
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let fewest = cores.clamp(2, 4).min(most);
        let shared = Arc::new(Shared {
            transport,
            desk,
            count: Headcount::new(),
            threads: Threads::default(),
            done: AtomicU64::new(0),
            held: LogLimit::default(),
            watched: AtomicBool::new(false),
            policy: Policy { fewest, most, cores },
            supervisor: std::sync::OnceLock::new(),
        });
        for _ in 0..fewest {
            Shared::hire(&shared)?;
        }
        let theirs = shared.clone();
        let supervisor = thread::Builder::new().name("aside-crew".into()).spawn(move || supervise(&theirs))?;
        let _ = shared.supervisor.set(supervisor.thread().clone());
        Ok(Crew { shared, supervisor })
    }

    /// Lets the workers finish what there is and go.
    pub(crate) fn send_home(&self) {
        self.supervisor.thread().unpark();
        for _ in 0..self.shared.count.now().total {
            self.shared.transport.wake();
        }
    }
}

impl<T: Transport> Shared<T> {
    /// One more worker.
    fn hire(shared: &Arc<Shared<T>>) -> io::Result<()> {
        let at_work = shared.desk.at_work();
        let employed = Employed::begin(shared);
        thread::Builder::new().name("aside-worker".into()).spawn(move || employed.work(at_work)).map(drop)
    }

    fn do_it(&self, job: T::Job) {
        self.look_if_all_busy(self.count.begin());
        if let Err(panic) = panics::catch(|| self.transport.serve(job, &self.desk)) {
            log::error!(target: "aside::server", "A worker panicked, and lives on: {panic}");
        }
        self.count.end();
        self.done.fetch_add(1, Ordering::Release);
    }

    fn look_if_all_busy(&self, count: Count) {
        if count.all_busy() && !self.watched.load(Ordering::SeqCst) && !self.watched.swap(true, Ordering::SeqCst) {
            self.supervisor.get().iter().for_each(|supervisor| supervisor.unpark());
        }
    }
}

/// A counted worker. The count is correct however its thread ends.
struct Employed<T: Transport> {
    shared: Arc<Shared<T>>,
    has_left: bool,
}

impl<T: Transport> Employed<T> {
    fn begin(shared: &Arc<Shared<T>>) -> Employed<T> {
        shared.count.enter();
        Employed { shared: shared.clone(), has_left: false }
    }

    /// A worker's life. Going home, it wakes another, who may have missed the call.
    fn work(mut self, _at_work: Counted) {
        let shared = self.shared.clone();
        let _entry = shared.threads.enter();
        let _routes = shared.desk.routes.enter();
        shared.desk.shares.enter();
        loop {
            let stopping = shared.desk.is_stopping();
            match shared.transport.take(if stopping { Duration::ZERO } else { IDLE }) {
                Taken::Job(job) => shared.do_it(job),
                Taken::Broken(why) if !stopping => shared.transport.mend(&shared.desk, &why),
                _ if stopping => break shared.transport.wake(),
                _ if shared.desk.is_stopping() => {}
                _ => {
                    self.has_left = shared.count.leave_if_idle(&shared.policy);
                    if self.has_left {
                        return;
                    }
                }
            }
        }
    }
}

impl<T: Transport> Drop for Employed<T> {
    fn drop(&mut self) {
        if !self.has_left {
            self.shared.look_if_all_busy(self.shared.count.leave());
        }
    }
}

/// The workers' threads, by the system's numbers.
#[derive(Default)]
struct Threads(Mutex<Vec<i32>>);

impl Threads {
    /// Puts this thread on the list, until that is dropped.
    fn enter(&self) -> Entry<'_> {
        let id = thread_id();
        lock(&self.0).push(id);
        Entry(self, id)
    }

    /// How many have a core, or wait for one, as far as that is asked for.
    fn running(&self, most: usize) -> usize {
        lock(&self.0).iter().filter(|id| is_running(**id)).take(most).count()
    }
}

struct Entry<'t>(&'t Threads, i32);

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).retain(|id| *id != self.1);
    }
}

#[cfg(target_os = "linux")]
fn thread_id() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// The state is what stands behind the name, which is in brackets and may have some itself (proc_pid_stat(5)).
#[cfg(target_os = "linux")]
fn is_running(id: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R'))
}

#[cfg(not(target_os = "linux"))]
fn thread_id() -> i32 {
    0
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
fn is_running(_id: i32) -> bool {
    false
}

/// Runs the supervisor: checks the workers and the transport.
fn supervise<T: Transport>(shared: &Arc<Shared<T>>) {
    let (mut watch, mut inspected) = (Watch::default(), Instant::now());
    while !shared.desk.is_stopping() {
        let next = look(shared, &mut watch);
        if inspected.elapsed() >= INSPECT {
            let _ = panics::catch(|| shared.transport.inspect(&shared.desk));
            inspected = Instant::now();
        }
        thread::park_timeout(next);
    }
}

/// Checks once, adds the needed workers as far as the operating system allows, and returns the time of the next check.
fn look<T: Transport>(shared: &Arc<Shared<T>>, watch: &mut Watch) -> Duration {
    let Policy { fewest, most, cores } = shared.policy;
    // An absent worker counts as busy, and the limit is raised by one for it.
    let policy = Policy { fewest, most: most.saturating_add(shared.desk.shares.away()), cores };
    let look = |watch: &mut Watch| {
        let (count, done) = (shared.count.now(), shared.done.load(Ordering::Acquire));
        watch.look(&policy, count, done, || shared.threads.running(cores) < cores)
    };
    let mut decision = look(watch);
    if decision.next == TICK {
        // The last idle worker may have become busy without a call, since the watch was still on: check again.
        shared.watched.swap(false, Ordering::SeqCst);
        decision = look(watch);
    }
    if decision.next != TICK {
        shared.watched.store(true, Ordering::SeqCst);
    }
    for _ in 0..decision.hire {
        if let Err(error) = Shared::hire(shared) {
            log::warn!(target: "aside::server", "Could not start another worker: {error}");
            break;
        }
    }
    if decision.next == LOOK_WHEN_FULL {
        let _ = panics::catch(|| shared.transport.relieve(&shared.desk));
    }
    if watch.is_full_for_long() {
        let _ = panics::catch(|| warn_of_held_workers(shared));
    }
    decision.next
}

/// Logs that handlers hold the workers, with their routes, at most once a minute. Workers with clients that are slow to
/// send or to read have limits of their own, so the handlers must hold most of them.
fn warn_of_held_workers<T: Transport>(shared: &Shared<T>) {
    let (routes, most) = (shared.desk.routes.in_handlers(), shared.policy.most);
    let held: usize = routes.iter().map(|(_, count)| count).sum();
    if 2 * held <= most || shared.held.count().is_none() {
        return;
    }
    let (named, others) = routes.split_at(routes.len().min(MOST_ROUTES));
    let label =
        |&(route, count): &(RouteNumber, usize)| format!("{} ({count})", shared.desk.service.route_label(route));
    let mut labels: Vec<String> = named.iter().map(label).collect();
    if !others.is_empty() {
        let count: usize = others.iter().map(|(_, count)| count).sum();
        labels.push(format!("{} other routes ({count})", others.len()));
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
    fn who_waits_is_not_running() {
        let (threads, (tell, told)) = (&Threads::default(), std::sync::mpsc::channel::<()>());
        let _entry = threads.enter();
        thread::scope(|scope| {
            scope.spawn(move || {
                let _entry = threads.enter();
                told.recv()
            });
            while lock(&threads.0).len() < 2 || threads.running(2) > 1 {
                thread::yield_now();
            }
            assert_eq!(threads.running(2), 1, "this one is");
            drop(tell);
        });
        assert_eq!(lock(&threads.0).len(), 1);
    }
}
