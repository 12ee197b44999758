//! Threads for tasks: made when none is idle, kept for the next task for a while, at a lower priority than pages.
//!
//! Making a thread costs 50 to 80 µs of processor time on a small virtual machine, waking one that sleeps 3 to 11, whoever wakes
//! it. So one at a time is sent for, and who arrives sends for another when there is more: no piece of work waits for
//! another to end, and of many short ones that come at once one thread does several before it sleeps again.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::timer;
use crate::sync::lock;

/// How long an idle thread is kept.
const KEPT: Duration = Duration::from_secs(10);

/// How soon a thread that was refused is asked for again.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(100);

/// One piece of work for a thread. It gives back what the same thread should do next, if anything.
pub(crate) struct Work(Box<dyn FnOnce() -> Option<Work> + Send>);

impl Work {
    /// Work to be done once.
    pub(crate) fn new(work: impl FnOnce() -> Option<Work> + Send + 'static) -> Work {
        Work(Box::new(work))
    }
}

/// The threads of one nice value. While there is work in the queue, somebody is coming.
#[derive(Default)]
struct Pool {
    queue: VecDeque<Work>,
    /// Who sleeps, the one who has for the shortest time last: it is the one whose memory is still warm.
    idle: Vec<Arc<Idle>>,
    is_somebody_coming: bool,
}

/// An idle thread, and whether it was sent for.
struct Idle {
    thread: Thread,
    is_wanted: AtomicBool,
}

/// By their nice values.
type Pools = BTreeMap<i32, Pool>;

static POOLS: Mutex<Pools> = Mutex::new(Pools::new());

/// The threads of all tasks in this process, of either kind.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Has work done on an idle thread, or a new one. Where the system refuses one it waits for one.
pub(crate) fn run(nice: i32, work: Work) {
    let mut pools = lock(&POOLS);
    pools.entry(nice).or_default().queue.push_back(work);
    send_for_one(nice, pools);
}

/// Sends for a thread, when there is work and nobody is coming.
fn send_for_one(nice: i32, mut pools: MutexGuard<'_, Pools>) {
    let pool = pools.entry(nice).or_default();
    if pool.queue.is_empty() || std::mem::replace(&mut pool.is_somebody_coming, true) {
        return;
    }
    let idle = pool.idle.pop();
    drop(pools);
    match idle {
        Some(idle) => {
            idle.is_wanted.store(true, Ordering::Release);
            idle.thread.unpark();
        }
        None if spawn("aside-task", nice, move || keep(nice)).is_ok() => {}
        None => {
            log::warn!(target: "aside::background", "The system refuses another thread; what is set aside waits for one.");
            timer::at(Instant::now() + ASK_AGAIN, move || send_for_one(nice, nobody_came(nice)));
        }
    }
}

fn nobody_came(nice: i32) -> MutexGuard<'static, Pools> {
    let mut pools = lock(&POOLS);
    pools.entry(nice).or_default().is_somebody_coming = false;
    pools
}

/// The life of a kept thread: it arrives, works as long as there is something, and sleeps until it is sent for.
fn keep(nice: i32) {
    let me = Arc::new(Idle { thread: thread::current(), is_wanted: AtomicBool::new(false) });
    loop {
        let mut next = arrive(nice);
        while let Some(work) = next {
            next = (work.0)().or_else(|| more(nice));
        }
        lock(&POOLS).entry(nice).or_default().idle.push(me.clone());
        if !sleep(nice, &me) {
            return;
        }
    }
}

/// Takes what there is for who was sent for, who sends for another when that was not all.
fn arrive(nice: i32) -> Option<Work> {
    let mut pools = nobody_came(nice);
    let work = pools.entry(nice).or_default().queue.pop_front();
    send_for_one(nice, pools);
    work
}

/// The next piece of work for who is there already.
fn more(nice: i32) -> Option<Work> {
    lock(&POOLS).entry(nice).or_default().queue.pop_front()
}

/// Sleeps until it is sent for. After a while without that the thread takes itself off the list and ends, unless somebody
/// took it off first, who is then about to wake it.
fn sleep(nice: i32, me: &Arc<Idle>) -> bool {
    let until = Instant::now() + KEPT;
    while !me.is_wanted.swap(false, Ordering::Acquire) {
        match until.checked_duration_since(Instant::now()) {
            Some(left) => thread::park_timeout(left),
            None if take_off(nice, me) => return false,
            None => thread::park(),
        }
    }
    true
}

fn take_off(nice: i32, me: &Arc<Idle>) -> bool {
    let mut pools = lock(&POOLS);
    let idle = &mut pools.entry(nice).or_default().idle;
    let place = idle.iter().position(|idle| Arc::ptr_eq(idle, me));
    place.map(|index| idle.remove(index)).is_some()
}

/// Starts a thread at that priority.
///
/// # Errors
/// When the system refuses one, or there are as many as it can bear. `f` is dropped then: whoever cannot lose it keeps it
/// in a slot that `f` takes it from.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    nice: i32,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let place = Place::take().ok_or(io::ErrorKind::WouldBlock)?;
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _place = place;
        stand_back(nice);
        f()
    })
}

/// Starts a thread that only returns a value, which the ceiling does not count.
///
/// # Errors
/// When the operating system refuses the thread. `f` is dropped then.
pub(super) fn hand_over<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name("aside-outcome".into()).spawn(f)
}

/// One of the threads that the system can bear.
struct Place;

impl Place {
    fn take() -> Option<Place> {
        let taken = ALIVE.fetch_add(1, Ordering::Relaxed);
        let place = Place;
        (taken < ceiling()).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many threads tasks may have: half of what the system allows. The standard library aborts the process when a thread
/// is refused half-way, so the limit itself must never be met.
fn ceiling() -> usize {
    static CEILING: LazyLock<usize> = LazyLock::new(|| system_limit().unwrap_or(16_000) / 2);
    *CEILING
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
fn stand_back(nice: i32) {
    // A thread of a process that was started with `nice` already has a lower priority, and root would raise it.
    if rustix::process::getpriority_process(None).is_ok_and(|own| own < nice) {
        let _ = rustix::process::setpriority_process(None, nice);
    }
}

#[cfg(not(target_os = "linux"))]
fn stand_back(_nice: i32) {}

/// Gives this thread a name that `top -H` and a debugger show, cut to the 15 bytes that Linux keeps.
pub(crate) fn rename(name: &str) {
    #[cfg(target_os = "linux")]
    if let Ok(name) = std::ffi::CString::new(name) {
        let _ = rustix::thread::set_name(&name);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

#[cfg(test)]
mod tests {
    use std::sync::{Barrier, mpsc};

    use super::*;

    #[test]
    fn a_kept_thread_is_used_again() {
        // A nice value of its own, so that other tests' threads are not met.
        let nice = 13;
        let (tell, told) = mpsc::channel();
        let work = |tell: mpsc::Sender<_>| {
            Work::new(move || {
                tell.send(thread::current().id()).unwrap();
                None
            })
        };
        run(nice, work(tell.clone()));
        let first = told.recv().unwrap();
        while lock(&POOLS)[&nice].idle.is_empty() {
            thread::yield_now();
        }
        run(nice, work(tell));
        assert_eq!(told.recv().unwrap(), first);
    }

    #[test]
    fn work_gives_the_same_thread_more() {
        let (tell, told) = mpsc::channel();
        let second = tell.clone();
        let work = Work::new(move || {
            tell.send(thread::current().id()).unwrap();
            Some(Work::new(move || {
                second.send(thread::current().id()).unwrap();
                None
            }))
        });
        run(14, work);
        assert_eq!(told.recv().unwrap(), told.recv().unwrap());
    }

    #[test]
    fn no_work_waits_for_another_to_end() {
        let most = 20;
        let together = Arc::new(Barrier::new(most + 1));
        for _ in 0..most {
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

    #[cfg(target_os = "linux")]
    #[test]
    fn a_task_thread_stands_back_alone() {
        let mine = rustix::process::getpriority_process(None).unwrap();
        let theirs = spawn("t", 7, || rustix::process::getpriority_process(None).unwrap()).unwrap().join().unwrap();
        assert_eq!((mine, theirs), (rustix::process::getpriority_process(None).unwrap(), 7.max(mine)));
    }
}
