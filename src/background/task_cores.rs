//! The cores that background tasks may use. While pages need the processor, tasks that compute leave some cores to them.
//!
//! A lower priority is not enough. A task that computes never gives its core up by itself, so no core is ever idle, and the
//! kernel moves a waiting thread to another core at once only if that core is idle. A worker that shared its core with a
//! busy client or another worker therefore waited for the next tick of the scheduler, up to 4 ms, while a task computed on
//! the other core. Tasks that leave one core free lose little: pages took most of that core anyway.
//!
//! Only a task that computes for most of a tenth of a second is confined; short tasks and those that wait are not. Threads
//! and processes that a confined task starts inherit its cores, as they inherit its nice value. The threads of this process
//! get all cores back when the pages need none.

use std::time::Duration;

#[cfg(all(feature = "epoll", target_os = "linux"))]
pub(crate) use linux::do_tasks_compute;
#[cfg(target_os = "linux")]
pub(crate) use linux::{TaskThread, end_task, has_threads, reserve};
#[cfg(not(target_os = "linux"))]
pub(crate) use portable::{TaskThread, end_task, has_threads, reserve};

/// Returns the time for which a thread has run or waited for a core: the first two fields of its `schedstat`, in
/// nanoseconds. `None` if the kernel does not count it.
#[cfg(target_os = "linux")]
pub(crate) fn demanded(thread: i32) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?;
    let mut fields = stat.split(' ').map_while(|field| field.parse::<u64>().ok());
    Some(Duration::from_nanos(fields.next()? + fields.next()?))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn demanded(_thread: i32) -> Option<Duration> {
    None
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::VecDeque;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};

    use super::demanded;
    use crate::sync::lock;

    /// The most threads that are sampled at once. With more, the next samples continue.
    const SAMPLED_AT_ONCE: usize = 100;

    static CORES: Mutex<Cores> = Mutex::new(Cores { threads: VecDeque::new(), reserved: None });

    /// True while a task is confined.
    static COMPUTING: AtomicBool = AtomicBool::new(false);

    thread_local! {
        /// The number of tasks that have ended on this thread.
        static ENDED: Arc<AtomicU64> = Arc::default();
    }

    struct Cores {
        /// The task threads that live. Those that were sampled last are at the end.
        threads: VecDeque<Sampled>,
        reserved: Option<Reserved>,
    }

    /// A thread with its last sample.
    struct Sampled {
        thread: Pid,
        ended: Arc<AtomicU64>,
        /// The number of ended tasks at the last sample.
        ended_before: u64,
        demanded: Duration,
        at: Instant,
        is_confined: bool,
    }

    /// The cores of this process, and those that computing tasks may use.
    #[derive(Clone, Copy)]
    struct Reserved {
        count: usize,
        all: CpuSet,
        left: CpuSet,
    }

    impl Cores {
        /// Adds a task thread. One that a confined task has started may use all cores until it computes itself.
        fn enter(&mut self, thread: Pid, ended: Arc<AtomicU64>) {
            let (demanded, at) = (Duration::ZERO, Instant::now());
            self.threads.push_back(Sampled { thread, ended, ended_before: 0, demanded, at, is_confined: false });
            self.reserved.iter().for_each(|reserved| change(thread, reserved.left, reserved.all));
        }

        /// Reserves cores, and returns those on which confined tasks compute.
        fn reserve(&mut self, count: usize) -> CpuSet {
            if self.reserved.is_some_and(|reserved| reserved.count != count) {
                self.release();
            }
            if self.reserved.is_none() && count > 0 {
                let Ok(all) = sched_getaffinity(None) else { return CpuSet::new() };
                self.reserved = Some(Reserved { count, all, left: without_first(all, count) });
            }
            let Some(reserved) = self.reserved else { return CpuSet::new() };
            self.confine(reserved);
            if self.threads.iter().any(|thread| thread.is_confined) { reserved.left } else { CpuSet::new() }
        }

        fn release(&mut self) {
            let Some(Reserved { all, left, .. }) = self.reserved.take() else { return };
            self.threads.iter_mut().for_each(|thread| thread.is_confined = false);
            if left != all {
                own_threads().for_each(|thread| change(thread, left, all));
            }
        }

        /// Confines the threads whose task has computed since they were sampled last, until that task ends.
        fn confine(&mut self, Reserved { all, left, .. }: Reserved) {
            let count = self.threads.len().min(SAMPLED_AT_ONCE);
            for sampled in self.threads.iter_mut().take(count) {
                let (is_same_task, has_computed) = sampled.sample();
                let is_confined = is_same_task && (sampled.is_confined || has_computed);
                match (std::mem::replace(&mut sampled.is_confined, is_confined), is_confined) {
                    (false, true) => change(sampled.thread, all, left),
                    (true, false) => change(sampled.thread, left, all),
                    _ => {}
                }
            }
            self.threads.rotate_left(count);
        }
    }

    impl Sampled {
        /// Samples the thread. Returns whether it has the same task as at the last sample, and whether it has run or waited
        /// for a core most of the time since.
        fn sample(&mut self) -> (bool, bool) {
            let demanded = demanded(self.thread.as_raw_nonzero().get()).unwrap_or_default();
            let ended = self.ended.load(Ordering::Relaxed);
            let since = demanded.saturating_sub(std::mem::replace(&mut self.demanded, demanded));
            let elapsed = std::mem::replace(&mut self.at, Instant::now()).elapsed();
            (std::mem::replace(&mut self.ended_before, ended) == ended, since > elapsed / 2)
        }
    }

    /// A task thread in the list, until dropped.
    pub(crate) struct TaskThread(Pid);

    impl TaskThread {
        /// Adds this thread to the list.
        pub(crate) fn enter() -> TaskThread {
            let thread = gettid();
            lock(&CORES).enter(thread, ENDED.with(Arc::clone));
            TaskThread(thread)
        }
    }

    impl Drop for TaskThread {
        fn drop(&mut self) {
            lock(&CORES).threads.retain(|sampled| sampled.thread != self.0);
        }
    }

    /// Returns true if there are task threads, or cores are reserved.
    pub(crate) fn has_threads() -> bool {
        let cores = lock(&CORES);
        !cores.threads.is_empty() || cores.reserved.is_some()
    }

    /// Samples the task threads, and reserves the first `count` cores of the calling thread for pages, at most all but one.
    /// With 0, tasks may use all cores.
    pub(crate) fn reserve(count: usize) {
        let computing = lock(&CORES).reserve(count);
        COMPUTING.store(computing.count() > 0, Ordering::Relaxed);
    }

    /// Counts a task that has ended on this thread.
    pub(crate) fn end_task() {
        ENDED.with(|ended| ended.fetch_add(1, Ordering::Relaxed));
    }

    /// Returns true if tasks compute beside pages that need the processor.
    #[cfg(feature = "epoll")]
    pub(crate) fn do_tasks_compute() -> bool {
        COMPUTING.load(Ordering::Relaxed)
    }

    /// Returns the set without its first `count` cores, with one core at least.
    fn without_first(mut set: CpuSet, count: usize) -> CpuSet {
        let most = (set.count() as usize).saturating_sub(1);
        let first: Vec<_> = (0..CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).take(count.min(most)).collect();
        first.into_iter().for_each(|core| set.unset(core));
        set
    }

    /// Changes the cores of a thread, unless the application has chosen others for it.
    fn change(thread: Pid, from: CpuSet, to: CpuSet) {
        if sched_getaffinity(Some(thread)).is_ok_and(|set| set == from) {
            // If this fails, the thread keeps its cores.
            let _ = sched_setaffinity(Some(thread), &to);
        }
    }

    /// Returns the threads of this process, including those that tasks have started themselves.
    fn own_threads() -> impl Iterator<Item = Pid> {
        let entries = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        entries.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
    }

    #[cfg(test)]
    mod tests {
        use std::sync::mpsc;

        use super::*;

        fn cores_of(thread: Pid) -> CpuSet {
            sched_getaffinity(Some(thread)).unwrap()
        }

        /// Cores with a task thread that has computed all the time if it has computed at all.
        fn with_thread(thread: Pid) -> Cores {
            let mut cores = Cores { threads: VecDeque::new(), reserved: None };
            cores.enter(thread, Arc::default());
            cores.threads[0].at = Instant::now() + Duration::from_secs(3600);
            cores
        }

        fn compute() {
            let began = demanded(gettid().as_raw_nonzero().get()).unwrap();
            while demanded(gettid().as_raw_nonzero().get()).unwrap() - began < Duration::from_millis(1) {}
        }

        #[test]
        fn a_task_that_computes_leaves_the_reserved_cores_and_gets_them_back_with_the_threads_that_it_started() {
            let all = sched_getaffinity(None).unwrap();
            let left = without_first(all, 1);
            let (enter, entered) = mpsc::channel();
            let (go, reserved) = mpsc::channel::<()>();
            let (end, ended) = mpsc::channel::<()>();
            let task = std::thread::spawn(move || {
                compute();
                enter.send(gettid()).unwrap();
                reserved.recv().unwrap();
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        enter.send(gettid()).unwrap();
                        let _ = ended.into_iter().next();
                    });
                });
            });
            let thread = entered.recv().unwrap();
            let mut cores = with_thread(thread);
            assert!(cores.reserve(1) == left);
            assert_eq!((cores_of(thread), sched_getaffinity(None).unwrap()), (left, all), "this thread is not a task");
            go.send(()).unwrap();
            let started = entered.recv().unwrap();
            assert_eq!(cores_of(started), left);
            assert_eq!(cores.reserve(0).count(), 0);
            assert_eq!([thread, started].map(cores_of), [all, all]);
            drop(end);
            task.join().unwrap();
        }

        #[test]
        fn a_thread_gets_all_cores_back_when_its_task_ends() {
            let thread = std::thread::spawn(|| {
                let all = cores_of(gettid());
                let left = without_first(all, 1);
                compute();
                let mut cores = with_thread(gettid());
                cores.reserved = Some(Reserved { count: 1, all, left });
                let end_task = |cores: &Cores| cores.threads[0].ended.fetch_add(1, Ordering::Relaxed);
                end_task(&cores);
                assert_eq!(cores.reserve(1).count(), 0, "it has computed for another task");
                compute();
                cores.threads[0].at = Instant::now() + Duration::from_secs(3600);
                assert_eq!((cores.reserve(1), cores_of(gettid())), (left, left));
                assert_eq!((cores.reserve(1), cores_of(gettid())), (left, left), "also if it waits now");
                end_task(&cores);
                assert_eq!((cores.reserve(1).count(), cores_of(gettid())), (0, all));
            });
            thread.join().unwrap();
        }

        #[test]
        fn a_task_that_waits_keeps_all_cores() {
            let (end, ended) = mpsc::channel::<()>();
            let (enter, entered) = mpsc::channel();
            let task = std::thread::spawn(move || {
                enter.send(gettid()).unwrap();
                let _ = ended.into_iter().next();
            });
            let thread = entered.recv().unwrap();
            let mut cores = with_thread(thread);
            cores.threads[0].demanded = Duration::MAX;
            assert_eq!(cores.reserve(1).count(), 0, "it has computed nothing since");
            assert_eq!(cores_of(thread), sched_getaffinity(None).unwrap());
            drop(end);
            task.join().unwrap();
        }

        #[test]
        fn cores_that_the_application_has_chosen_for_a_task_are_kept() {
            let all = sched_getaffinity(None).unwrap();
            let mut chosen = CpuSet::new();
            chosen.set((0..CpuSet::MAX_CPU).find(|core| all.is_set(*core)).unwrap());
            std::thread::spawn(move || {
                sched_setaffinity(None, &chosen).unwrap();
                change(gettid(), all, without_first(all, 1));
                assert_eq!(sched_getaffinity(None).unwrap(), chosen);
            })
            .join()
            .unwrap();
        }

        #[test]
        fn one_core_at_least_is_left_to_tasks() {
            let mut set = CpuSet::new();
            [2, 3, 7].iter().for_each(|core| set.set(*core));
            let left = |count| (0..16).filter(|core| without_first(set, count).is_set(*core)).collect::<Vec<_>>();
            assert_eq!([0, 1, 2, 3, 9].map(left), [vec![2, 3, 7], vec![3, 7], vec![7], vec![7], vec![7]]);
        }
    }
}

/// Without a call to choose the cores of a thread, tasks use all cores.
#[cfg(not(target_os = "linux"))]
mod portable {
    pub(crate) struct TaskThread;

    impl TaskThread {
        pub(crate) fn enter() -> TaskThread {
            TaskThread
        }
    }

    pub(crate) fn has_threads() -> bool {
        false
    }

    pub(crate) fn reserve(_count: usize) {}

    pub(crate) fn end_task() {}
}
