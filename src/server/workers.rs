//! The crew: few workers at first, more when all are busy, fewer again when idle.
//!
//! A worker counts itself busy and free with two atomic additions; nobody is woken for that. Only when the last free one
//! becomes busy it wakes the supervisor, which then looks every few milliseconds: no request finished since the last look
//! means that all wait for something, and half as many workers again are called; all busy for a tenth of a second, though
//! they get on, means one more, up to a few for each core, unless as many of them are running as there are cores: then more
//! threads make nothing faster, and what is late later.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Counted, Desk, Taken, Transport};
use crate::background::panics;
use crate::sync::lock;

/// How long a worker waits for a job before it may go.
const IDLE: Duration = Duration::from_secs(10);

/// How often the supervisor looks while all are busy, and while there cannot be more of them.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_WHEN_FULL: Duration = Duration::from_millis(100);

/// How many looks find all busy until one more is called although they get on.
const PATIENCE: u32 = 20;

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
    /// Workers there are, and of these busy.
    total: AtomicUsize,
    busy: AtomicUsize,
    threads: Threads,
    /// Jobs done since the start.
    done: AtomicU64,
    /// The supervisor is awake.
    watched: AtomicBool,
    fewest: usize,
    most: usize,
    cores: usize,
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
            total: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            threads: Threads::default(),
            done: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            fewest,
            most,
            cores,
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
        for _ in 0..self.shared.total.load(Ordering::Acquire) {
            self.shared.transport.wake();
        }
    }
}

impl<T: Transport> Shared<T> {
    /// One more worker.
    fn hire(shared: &Arc<Shared<T>>) -> io::Result<()> {
        let worker = shared.clone();
        let at_work = shared.desk.at_work();
        shared.total.fetch_add(1, Ordering::AcqRel);
        let spawned = thread::Builder::new().name("aside-worker".into()).spawn(move || worker.work(at_work));
        if spawned.is_err() {
            shared.total.fetch_sub(1, Ordering::AcqRel);
        }
        spawned.map(drop)
    }

    /// A worker's life. Going home, it wakes another, who may have missed the call.
    fn work(&self, _at_work: Counted) {
        let _entry = self.threads.enter();
        loop {
            let stopping = self.desk.is_stopping();
            match self.transport.take(if stopping { Duration::ZERO } else { IDLE }) {
                Taken::Job(job) => self.do_it(job),
                Taken::Broken(why) if !stopping => self.transport.mend(&self.desk, &why),
                _ if stopping => break self.transport.wake(),
                _ => {
                    if !self.desk.is_stopping() && self.may_leave() {
                        return;
                    }
                }
            }
        }
    }

    fn do_it(&self, job: T::Job) {
        let busy = self.busy.fetch_add(1, Ordering::AcqRel) + 1;
        if busy >= self.total.load(Ordering::Acquire) && !self.watched.load(Ordering::Acquire) {
            self.call_supervisor();
        }
        if let Err(panic) = panics::catch(|| self.transport.serve(job, &self.desk)) {
            log::error!(target: "aside::server", "A worker panicked, and lives on: {panic}");
        }
        self.busy.fetch_sub(1, Ordering::AcqRel);
        self.done.fetch_add(1, Ordering::Release);
    }

    fn call_supervisor(&self) {
        if !self.watched.swap(true, Ordering::AcqRel)
            && let Some(supervisor) = self.supervisor.get()
        {
            supervisor.unpark();
        }
    }

    /// Whether there are more than enough without this one, who is then no longer counted.
    fn may_leave(&self) -> bool {
        let fewer = |total: usize| (total > self.fewest).then(|| total - 1);
        self.total.fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer).is_ok()
    }

    fn all_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire) >= self.total.load(Ordering::Acquire)
    }

    /// Calls more workers, as far as the settings and the system let it.
    fn grow(shared: &Arc<Shared<T>>, by: usize) {
        let room = shared.most.saturating_sub(shared.total.load(Ordering::Acquire));
        for _ in 0..by.min(room) {
            if let Err(error) = Shared::hire(shared) {
                log::warn!(target: "aside::server", "The system refuses another worker: {error}");
                return;
            }
        }
    }

    /// How many more a look calls for. One that finds all busy, though they get on, is noted down; it counts when a core is to
    /// be had.
    fn wanted(&self, stuck: bool, looks: &mut Looks) -> usize {
        let total = self.total.load(Ordering::Acquire);
        if stuck {
            return (total / 2).clamp(1, 8);
        }
        let has_room = total < (4 * self.cores).max(16) && self.threads.running(self.cores) < self.cores;
        usize::from(looks.note(has_room))
    }
}

/// What the last looks found.
#[derive(Default)]
struct Looks {
    count: u32,
    with_room: u32,
}

impl Looks {
    /// Whether there were enough, and most of them found that one more would have a core.
    fn note(&mut self, has_room: bool) -> bool {
        self.count += 1;
        self.with_room += u32::from(has_room);
        if self.count < PATIENCE {
            return false;
        }
        2 * std::mem::take(self).with_room > PATIENCE
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

/// The supervisor's life.
fn supervise<T: Transport>(shared: &Arc<Shared<T>>) {
    let mut inspected = Instant::now();
    while !shared.desk.is_stopping() {
        if shared.watched.load(Ordering::Acquire) {
            watch(shared);
        } else {
            thread::park_timeout(INSPECT);
        }
        if inspected.elapsed() >= INSPECT && !shared.desk.is_stopping() {
            let _ = panics::catch(|| shared.transport.inspect(&shared.desk));
            inspected = Instant::now();
        }
    }
}

/// Looks until somebody is free again, or it is time to look elsewhere too.
fn watch<T: Transport>(shared: &Arc<Shared<T>>) {
    let until = Instant::now() + INSPECT;
    let mut looks = Looks::default();
    while Instant::now() < until && !shared.desk.is_stopping() {
        let before = shared.done.load(Ordering::Acquire);
        let full = shared.total.load(Ordering::Acquire) >= shared.most;
        thread::park_timeout(if full { LOOK_WHEN_FULL } else { LOOK });
        if !shared.all_busy() {
            shared.watched.store(false, Ordering::Release);
            // Who became busy before that store saw a watch that no longer is.
            if !shared.all_busy() || shared.watched.swap(true, Ordering::AcqRel) {
                return;
            }
            continue;
        }
        let stuck = shared.done.load(Ordering::Acquire) == before;
        Shared::grow(shared, shared.wanted(stuck, &mut looks));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_is_called_when_most_looks_found_a_core_for_it() {
        let calls = |with_room: u32| {
            let mut looks = Looks::default();
            (0..2 * PATIENCE).filter(|look| looks.note(look % PATIENCE < with_room)).count()
        };
        assert_eq!([0, PATIENCE / 2, PATIENCE / 2 + 1, PATIENCE].map(calls), [0, 0, 2, 2]);
    }

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
