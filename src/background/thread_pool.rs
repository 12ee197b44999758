//! The thread pool for tasks. Its threads have a lower priority than pages, and end when they are idle for a while.
//!
//! A new thread costs 50 to 80 µs of processor time on a small virtual machine; waking an idle one costs the waking thread
//! 3 to 11 µs. The pool therefore wakes or starts one thread at a time, and each thread that arrives wakes or starts the
//! next one if there is more work and [`growth`](super::growth) allows it. No work waits for long work to end, and one thread
//! runs several short pieces of work before it sleeps again.

#[cfg(target_os = "linux")]
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, Thread, ThreadId};
use std::time::{Duration, Instant};

use super::growth::{BRISK, Growth, Pressure};
use super::task_cores::{TaskThread, end_task};
use super::timer;
use crate::sync::lock;

/// The time after which an idle thread ends: soon after a burst, and long enough that steady work seldom starts a thread.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The wait after the operating system has refused a thread, before the next attempt to start one.
pub(super) const RETRY_SPAWN_AFTER: Duration = Duration::from_millis(100);

/// A piece of work for a thread. It returns the work that the same thread runs next, if any.
pub(crate) struct Work(Box<dyn FnOnce() -> Option<Work> + Send>);

impl Work {
    /// Creates work from a function.
    pub(crate) fn new(work: impl FnOnce() -> Option<Work> + Send + 'static) -> Work {
        Work(Box::new(work))
    }
}

/// The threads of one nice value. While there is work in the queue, a thread is about to arrive.
#[derive(Default)]
struct Pool {
    /// The waiting work, each piece with the time from which it waits.
    queue: VecDeque<(Instant, Work)>,
    /// The threads that run work, each with the time at which it began the current piece.
    working: HashMap<ThreadId, Instant>,
    /// The idle threads. The last one has slept for the shortest time, so its memory is most likely still cached.
    idle: Vec<Arc<Idle>>,
    is_thread_arriving: bool,
    /// A timer is set that asks again whether the pool may grow.
    is_check_scheduled: bool,
}

impl Pool {
    /// Takes the first piece of work from the queue, for a thread.
    fn take(&mut self, thread: ThreadId) -> Option<Work> {
        let (_, work) = self.queue.pop_front()?;
        self.working.insert(thread, Instant::now());
        Some(work)
    }

    /// Returns whether the work that waits gets another thread.
    fn growth(&self) -> Growth {
        let now = Instant::now();
        let ages = self.working.values().map(|began| now.duration_since(*began)).filter(|age| *age < BRISK);
        let (brisk, oldest) = ages.fold((0, Duration::ZERO), |(brisk, oldest), age| (brisk + 1, oldest.max(age)));
        let waited = self.queue.front().map_or(Duration::ZERO, |(since, _)| now.duration_since(*since));
        Pressure { brisk, until_fewer: BRISK - oldest, waited }.growth()
    }
}

/// An idle thread, with a flag that is set before the thread is woken.
struct Idle {
    thread: Thread,
    is_woken: AtomicBool,
}

/// The pools by their nice values.
type Pools = BTreeMap<i32, Pool>;

static POOLS: Mutex<Pools> = Mutex::new(Pools::new());

/// The number of task threads in this process: pooled ones and those of `background`.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Runs work on an idle thread or a new one. If the operating system refuses a thread, the work waits for one.
pub(crate) fn run(nice: i32, work: Work) {
    let mut pools = lock(&POOLS);
    pools.entry(nice).or_default().queue.push_back((Instant::now(), work));
    call_thread(nice, pools);
}

/// Wakes or starts a thread, if there is work and no thread is about to arrive. Starts none if the pool must not grow now.
fn call_thread(nice: i32, mut pools: MutexGuard<'_, Pools>) {
    let pool = pools.entry(nice).or_default();
    if pool.queue.is_empty() || pool.is_thread_arriving {
        return;
    }
    if let Some(idle) = pool.idle.pop() {
        pool.is_thread_arriving = true;
        drop(pools);
        idle.is_woken.store(true, Ordering::Release);
        return idle.thread.unpark();
    }
    // With a timer set, no thread was due then, and none is due before it.
    if pool.is_check_scheduled {
        return;
    }
    match pool.growth() {
        Growth::Start => {
            pool.is_thread_arriving = true;
            drop(pools);
            start_thread(nice);
        }
        Growth::AskAgain(wait) => {
            pool.is_check_scheduled = true;
            drop(pools);
            timer::at(Instant::now() + wait, move || check(nice));
        }
    }
}

/// Starts a thread, now or as soon as the operating system allows another one.
fn start_thread(nice: i32) {
    if spawn("aside-task", nice, move || run_thread(nice)).is_err() {
        log::warn!(target: "aside::background", "Could not start a thread for background tasks: the operating system refuses another one; the tasks wait for a thread.");
        timer::at(Instant::now() + RETRY_SPAWN_AFTER, move || call_thread(nice, thread_arrived(nice)));
    }
}

/// Asks again whether the pool may grow.
fn check(nice: i32) {
    let mut pools = lock(&POOLS);
    pools.entry(nice).or_default().is_check_scheduled = false;
    call_thread(nice, pools);
}

/// Records that no thread is about to arrive.
fn thread_arrived(nice: i32) -> MutexGuard<'static, Pools> {
    let mut pools = lock(&POOLS);
    pools.entry(nice).or_default().is_thread_arriving = false;
    pools
}

/// Runs a pooled thread: it arrives, works as long as there is work, and sleeps until it is woken.
fn run_thread(nice: i32) {
    let me = Arc::new(Idle { thread: thread::current(), is_woken: AtomicBool::new(false) });
    loop {
        let mut next = arrive(nice, &me);
        while let Some(work) = next {
            let returned = (work.0)();
            end_task();
            next = next_work(nice, &me, returned);
        }
        if !sleep(nice, &me) {
            return;
        }
    }
}

/// Returns the work for a thread that arrives, and calls another thread if there is more work. Without work, the thread is
/// idle.
fn arrive(nice: i32, me: &Arc<Idle>) -> Option<Work> {
    let mut pools = thread_arrived(nice);
    let work = take_or_rest(&mut pools, nice, me);
    call_thread(nice, pools);
    work
}

/// Returns the next work for a thread that has finished its work. Work that was returned waits behind the work that waits
/// already.
fn next_work(nice: i32, me: &Arc<Idle>, returned: Option<Work>) -> Option<Work> {
    let mut pools = lock(&POOLS);
    if let Some(work) = returned {
        pools.entry(nice).or_default().queue.push_back((Instant::now(), work));
    }
    take_or_rest(&mut pools, nice, me)
}

/// Takes work for a thread. Without work, the thread is idle.
fn take_or_rest(pools: &mut Pools, nice: i32, me: &Arc<Idle>) -> Option<Work> {
    let pool = pools.entry(nice).or_default();
    let work = pool.take(me.thread.id());
    if work.is_none() {
        pool.working.remove(&me.thread.id());
        pool.idle.push(me.clone());
    }
    work
}

/// Sleeps until the thread is woken, and returns true. After the idle timeout the thread removes itself from the list and
/// returns false. If another thread has removed it first, that thread is about to wake it.
fn sleep(nice: i32, me: &Arc<Idle>) -> bool {
    let until = Instant::now() + IDLE_TIMEOUT;
    while !me.is_woken.swap(false, Ordering::Acquire) {
        match until.checked_duration_since(Instant::now()) {
            Some(left) => thread::park_timeout(left),
            None if remove_idle(nice, me) => return false,
            None => thread::park(),
        }
    }
    true
}

/// Removes a thread from the idle threads. Returns true if it was there.
fn remove_idle(nice: i32, me: &Arc<Idle>) -> bool {
    let mut pools = lock(&POOLS);
    let idle = &mut pools.entry(nice).or_default().idle;
    let index = idle.iter().position(|idle| Arc::ptr_eq(idle, me));
    index.map(|index| idle.remove(index)).is_some()
}

/// Starts a thread with a nice value.
///
/// # Errors
/// An error if the operating system refuses a thread, or if the limit of task threads is reached. `f` is dropped then: a
/// caller that must not lose a value keeps it in a cell from which `f` takes it.
pub(crate) fn spawn<T: Send + 'static>(
    name: impl Into<String>,
    nice: i32,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let permit = ThreadPermit::take().ok_or(io::ErrorKind::WouldBlock)?;
    thread::Builder::new().name(name.into()).spawn(move || {
        let _permit = permit;
        lower_priority(nice);
        let _thread = TaskThread::enter();
        f()
    })
}

/// Starts a thread that only returns a value. It does not count toward the limit.
///
/// # Errors
/// An error if the operating system refuses the thread. `f` is dropped then.
pub(super) fn return_value<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name("aside-outcome".into()).spawn(f)
}

/// A permit for one task thread.
struct ThreadPermit;

impl ThreadPermit {
    fn take() -> Option<ThreadPermit> {
        let taken = ALIVE.fetch_add(1, Ordering::Relaxed);
        let permit = ThreadPermit;
        (taken < thread_limit()).then_some(permit)
    }
}

impl Drop for ThreadPermit {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns the limit of task threads: half of the number that the operating system allows. The standard library aborts the
/// process if a thread fails while it starts, so the limit of the operating system must never be reached.
fn thread_limit() -> usize {
    static LIMIT: LazyLock<usize> = LazyLock::new(|| system_limit().unwrap_or(16_000) / 2);
    *LIMIT
}

#[cfg(target_os = "linux")]
fn system_limit() -> Option<usize> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    // A thread takes four mappings: its stack, its signal stack, and a guard before each.
    let mappings = number("/proc/sys/vm/max_map_count").map(|count| count / 4);
    let threads = number("/proc/sys/kernel/threads-max");
    let group = number("/sys/fs/cgroup/pids.max").or_else(|| number("/sys/fs/cgroup/pids/pids.max"));
    let user = rustix::process::getrlimit(rustix::process::Resource::Nproc).current.map(|limit| limit as usize);
    [mappings, threads, group, user].into_iter().flatten().min()
}

#[cfg(not(target_os = "linux"))]
fn system_limit() -> Option<usize> {
    None
}

/// Lowers the priority of this thread alone (on Linux a nice value belongs to a thread). It cannot be raised again.
#[cfg(target_os = "linux")]
fn lower_priority(nice: i32) {
    // A thread of a process that was started with `nice` already has a lower priority, and root would raise it.
    if rustix::process::getpriority_process(None).is_ok_and(|own| own < nice) {
        let _ = rustix::process::setpriority_process(None, nice);
    }
}

#[cfg(not(target_os = "linux"))]
fn lower_priority(_nice: i32) {}

#[cfg(target_os = "linux")]
thread_local! {
    /// The last name that was given to this thread.
    static NAME: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Gives this thread a name that `top -H` and a debugger show, cut to the 15 bytes that Linux keeps. A pooled thread that has
/// the name of its last task already keeps it, which saves a system call.
pub(crate) fn rename(name: &str) {
    #[cfg(target_os = "linux")]
    NAME.with_borrow_mut(|own| {
        if *own != name
            && let Ok(c_name) = std::ffi::CString::new(name)
        {
            let _ = rustix::thread::set_name(&c_name);
            name.clone_into(own);
        }
    });
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[test]
    fn a_pooled_thread_is_used_again() {
        // Another nice value than in other tests, so that their threads do not interfere.
        let nice = 13;
        let (sender, received) = mpsc::channel();
        let work = |sender: mpsc::Sender<_>| {
            Work::new(move || {
                sender.send(thread::current().id()).unwrap();
                None
            })
        };
        run(nice, work(sender.clone()));
        let first = received.recv().unwrap();
        while lock(&POOLS)[&nice].idle.is_empty() {
            thread::yield_now();
        }
        run(nice, work(sender));
        assert_eq!(received.recv().unwrap(), first);
    }

    #[test]
    fn work_can_return_more_work_for_the_same_thread() {
        let (sender, received) = mpsc::channel();
        let second = sender.clone();
        let work = Work::new(move || {
            sender.send(thread::current().id()).unwrap();
            Some(Work::new(move || {
                second.send(thread::current().id()).unwrap();
                None
            }))
        });
        run(14, work);
        assert_eq!(received.recv().unwrap(), received.recv().unwrap());
    }

    #[test]
    fn no_work_waits_for_another_to_end() {
        timer::start();
        let count = 200;
        let together = Arc::new(Barrier::new(count + 1));
        for _ in 0..count {
            let together = together.clone();
            run(
                15,
                Work::new(move || {
                    together.wait();
                    None
                }),
            );
        }
        together.wait();
    }

    /// Regression: threads went on with returned work, such as that of the tasks above the limit, before work that waited.
    #[test]
    fn returned_work_waits_behind_the_work_that_waits_already() {
        let nice = 16;
        let (sender, received) = mpsc::channel();
        let send = |number: u32| {
            let sender = sender.clone();
            Work::new(move || {
                sender.send(number).unwrap();
                None
            })
        };
        let mut pools = lock(&POOLS);
        let second = send(2);
        let first = Work::new(move || Some(second));
        pools.entry(nice).or_default().queue.extend([first, send(1)].map(|work| (Instant::now(), work)));
        let me = Arc::new(Idle { thread: thread::current(), is_woken: AtomicBool::new(false) });
        let mut next = take_or_rest(&mut pools, nice, &me);
        drop(pools);
        while let Some(work) = next {
            let returned = (work.0)();
            next = next_work(nice, &me, returned);
        }
        assert_eq!([(); 2].map(|()| received.recv().unwrap()), [1, 2]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_task_thread_lowers_its_own_priority_only() {
        let mine = rustix::process::getpriority_process(None).unwrap();
        let theirs = spawn("t", 7, || rustix::process::getpriority_process(None).unwrap()).unwrap().join().unwrap();
        assert_eq!((mine, theirs), (rustix::process::getpriority_process(None).unwrap(), 7.max(mine)));
    }
}
