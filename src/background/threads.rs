//! Threads for tasks: made when none is idle, kept for the next task for a while, at a lower priority than pages.
//!
//! Making a thread costs 50 to 80 µs of processor time on a small virtual machine, waking one that waits 3 to 11.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::sync::{lock, wait_while, wait_while_for};

/// How long an idle thread is kept.
const KEPT: Duration = Duration::from_secs(10);

/// One piece of work for a thread. It gives back what the same thread should do next, if anything.
pub(crate) struct Work(Box<dyn FnOnce() -> Option<Work> + Send>);

impl Work {
    /// Work to be done once.
    pub(crate) fn new(work: impl FnOnce() -> Option<Work> + Send + 'static) -> Work {
        Work(Box::new(work))
    }
}

/// An idle thread's letter box.
struct Idle {
    nice: i32,
    letter: Mutex<Option<Work>>,
    arrived: Condvar,
}

/// The idle threads, the one idle for the shortest time last: it is the one whose memory is still warm.
static IDLE: Mutex<Vec<Arc<Idle>>> = Mutex::new(Vec::new());

/// The threads of all tasks in this process, of either kind.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

/// Runs work on an idle thread, or a new one. When no thread can be had, the work comes back.
pub(crate) fn run(nice: i32, work: Work) -> Result<(), Work> {
    let idle = {
        let mut threads = lock(&IDLE);
        threads.iter().rposition(|thread| thread.nice == nice).map(|index| threads.remove(index))
    };
    match idle {
        Some(thread) => {
            *lock(&thread.letter) = Some(work);
            thread.arrived.notify_one();
            Ok(())
        }
        None => {
            let slot = Arc::new(Mutex::new(Some(work)));
            let theirs = slot.clone();
            let spawned = spawn("aside-task", nice, move || keep(nice, lock(&theirs).take()));
            spawned.map(drop).map_err(|_| lock(&slot).take().expect("a thread that did not start took nothing"))
        }
    }
}

/// The life of a kept thread: work, and wait for more.
fn keep(nice: i32, first: Option<Work>) {
    let mut next = first;
    loop {
        while let Some(work) = next {
            next = (work.0)();
        }
        let me = Arc::new(Idle { nice, letter: Mutex::new(None), arrived: Condvar::new() });
        lock(&IDLE).push(me.clone());
        next = wait(&me);
        if next.is_none() {
            return;
        }
    }
}

/// Waits for a letter. After a while without one the thread takes itself off the list and ends, unless somebody took it
/// off first, whose letter is then on its way.
fn wait(me: &Arc<Idle>) -> Option<Work> {
    let letter = lock(&me.letter);
    let mut letter = wait_while_for(&me.arrived, letter, KEPT, |letter| letter.is_none());
    if letter.is_some() {
        return letter.take();
    }
    drop(letter);
    let mut threads = lock(&IDLE);
    if let Some(index) = threads.iter().position(|thread| Arc::ptr_eq(thread, me)) {
        threads.remove(index);
        return None;
    }
    drop(threads);
    wait_while(&me.arrived, lock(&me.letter), |letter| letter.is_none()).take()
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
    // Refused only to a thread that is lower already.
    let _ = rustix::process::setpriority_process(None, nice);
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
    use std::sync::mpsc;

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
        assert!(run(nice, work(tell.clone())).is_ok());
        let first = told.recv().unwrap();
        while !lock(&IDLE).iter().any(|thread| thread.nice == nice) {
            thread::yield_now();
        }
        assert!(run(nice, work(tell)).is_ok());
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
        assert!(run(14, work).is_ok());
        assert_eq!(told.recv().unwrap(), told.recv().unwrap());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_task_thread_stands_back_alone() {
        let mine = rustix::process::getpriority_process(None).unwrap();
        let theirs = spawn("t", 7, || rustix::process::getpriority_process(None).unwrap()).unwrap().join().unwrap();
        assert_eq!((mine, theirs), (rustix::process::getpriority_process(None).unwrap(), 7.max(mine)));
    }
}
