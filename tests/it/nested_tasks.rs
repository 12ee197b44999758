//! Tasks that start tasks: the limits on both kinds hold, and no task waits for a slot or a thread that only its own end
//! would release.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::Duration;

use aside::tasks::Retry;
use aside::testing::TestClient;
use aside::{App, Config, Failure, Outcome, Pool, Task, background};
use log::Level;

use crate::logs;

fn client(max_tasks: usize, max_task_threads: usize) -> TestClient {
    TestClient::new(App::with_config(Config { max_tasks, max_task_threads, ..Config::default() }))
}

/// The time after which a test counts as one that waits forever: long, for slow machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs a test that must not wait forever.
fn in_time<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(f()));
    told.recv_timeout(PATIENCE).expect("a deadlock")
}

/// The number of tasks that run now, the maximum so far, and the number of all tasks. A task that waits for another one does
/// not run.
#[derive(Default)]
struct Running {
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl Running {
    fn begin(&self) {
        self.all.fetch_add(1, Ordering::SeqCst);
        self.resume();
    }

    fn resume(&self) {
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        // Other tasks that may run get the time to begin.
        (0..500).for_each(|_| thread::yield_now());
    }

    fn pause(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    fn all(&self) -> usize {
        self.all.load(Ordering::SeqCst)
    }
}

fn task_tree(running: &Arc<Running>, depth: u32) {
    running.begin();
    let children = (0..if depth == 0 { 0 } else { 4 }).map(|_| {
        let running = running.clone();
        Task::named("node").spawn(move |_| task_tree(&running, depth - 1))
    });
    for child in children.collect::<Vec<_>>() {
        running.pause();
        child.join().unwrap();
        running.resume();
    }
    running.pause();
}

/// Regression: 85 tasks that tasks started ran at once, although two may.
#[test]
fn a_tree_of_tasks_ends_and_observes_the_limit() {
    let running = Arc::new(Running::default());
    let theirs = running.clone();
    in_time(move || {
        let client = client(2, 4_000);
        let root = client.within(|| Task::named("root").spawn(move |_| task_tree(&theirs, 3)));
        root.join().unwrap();
        client.drain();
    });
    assert_eq!(running.all(), 85);
    assert!((1..=2).contains(&running.most()), "{} ran at once", running.most());
}

#[test]
fn child_tasks_without_a_join_observe_the_limit() {
    let running = Arc::new(Running::default());
    let theirs = running.clone();
    let client = client(2, 4_000);
    client.within(|| {
        Task::named("root").spawn(move |_| {
            for _ in 0..84 {
                let running = theirs.clone();
                Task::named("child").spawn(move |_| {
                    running.begin();
                    running.pause();
                });
            }
        })
    });
    client.drain();
    assert_eq!(running.all(), 84);
    assert!((1..=2).contains(&running.most()), "{} ran at once", running.most());
}

/// Regression: a parent that waits for a running child kept the slot, so that its other children ran one by one.
#[test]
fn a_waiting_parent_releases_its_slot_to_its_other_children() {
    in_time(|| {
        let client = client(2, 4_000);
        let (tell, told) = mpsc::channel();
        let root = client.within(|| {
            Task::named("root").spawn(move |_| {
                let (meet, met) = mpsc::channel();
                let first = Task::named("first").spawn(move |_| {
                    tell.send(()).unwrap();
                    met.recv()
                });
                told.recv().unwrap();
                // Queued: root and first have the two slots.
                let second = Task::named("second").spawn(move |_| meet.send(()));
                let _: Outcome<()> = first.join();
                second.join()
            })
        });
        root.join().unwrap();
        client.drain();
    });
}

#[test]
fn a_parent_waits_for_a_retried_child_in_one_slot() {
    in_time(|| {
        let client = client(1, 4_000);
        let attempts = client.within(|| {
            Task::named("parent").spawn(|_| {
                let retry = Retry::exponential(4, Duration::from_millis(1));
                let child = Task::named("child").retry(retry).spawn(|task| match task.attempt() {
                    4 => Ok(4),
                    attempt => Err(format!("attempt {attempt}")),
                });
                // Its attempts come after these, if the parent does not lend its slot.
                (0..5).for_each(|_| drop(Task::named("other").spawn(|_| thread::yield_now())));
                child.join()
            })
        });
        assert_eq!(attempts.join().unwrap(), 4);
        client.drain();
    });
}

#[test]
fn a_task_of_another_application_can_be_waited_for() {
    in_time(|| {
        let (one, other) = (Arc::new(client(1, 4_000)), Arc::new(client(1, 4_000)));
        let (here, there) = (one.clone(), other.clone());
        let sum = one.within(|| {
            Task::named("outer").spawn(move |_| {
                let middle = there.within(|| {
                    Task::named("middle").spawn(move |_| {
                        let inner = here.within(|| Task::named("inner").spawn(|_| 1));
                        inner.join()
                    })
                });
                middle.join()
            })
        });
        assert_eq!(sum.join().unwrap(), 1);
        one.drain();
        other.drain();
    });
}

/// The threads that run bodies of tasks now, with the number of bodies on each.
#[derive(Default)]
struct Threads(Mutex<(HashMap<ThreadId, usize>, usize)>);

impl Threads {
    fn within<T>(&self, f: impl FnOnce() -> T) -> T {
        let me = thread::current().id();
        let mut threads = self.0.lock().unwrap();
        *threads.0.entry(me).or_default() += 1;
        threads.1 = threads.1.max(threads.0.len());
        drop(threads);
        let value = f();
        let mut threads = self.0.lock().unwrap();
        let count = threads.0.get_mut(&me).unwrap();
        *count -= 1;
        if *count == 0 {
            threads.0.remove(&me);
        }
        value
    }

    fn most(&self) -> usize {
        self.0.lock().unwrap().1
    }
}

fn background_tree(threads: &Arc<Threads>, depth: u32) -> usize {
    threads.within(|| {
        let children = (0..if depth == 0 { 0 } else { 4 }).map(|_| {
            let threads = threads.clone();
            background(move || background_tree(&threads, depth - 1))
        });
        let children: Vec<_> = children.collect();
        1 + children.into_iter().map(|child| child.join().unwrap().unwrap()).sum::<usize>()
    })
}

#[test]
fn a_tree_of_background_calls_ends_and_observes_the_thread_limit() {
    let threads = Arc::new(Threads::default());
    let theirs = threads.clone();
    let all = in_time(move || {
        let client = client(1, 3);
        let all = client.within(|| background(move || background_tree(&theirs, 3))).join().unwrap().unwrap();
        client.drain();
        all
    });
    assert_eq!(all, 85);
    assert!((1..=3).contains(&threads.most()), "{} threads at once", threads.most());
}

fn at_the_limit_on_this_thread() -> ThreadId {
    thread::current().id()
}

#[test]
fn at_the_thread_limit_a_task_runs_the_function_itself() {
    logs::record();
    let client = client(1, 1);
    let same = client.within(|| {
        background(|| {
            let outcome = background(|| panic!("contained-at-the-limit")).join().unwrap();
            let is_contained = matches!(outcome, Err(Failure::Panic(_)));
            let other = background(at_the_limit_on_this_thread).join().unwrap()?;
            aside::ok(is_contained && other == thread::current().id())
        })
    });
    assert!(same.join().unwrap().unwrap());
    client.drain();
    let logged =
        logs::at(Level::Warn, "runs on the thread of the task that started it: the only task thread is in use");
    assert!(logged.iter().any(|line| line.contains("(ASIDE_MAX_TASK_THREADS) (task 2, ")), "{logged:?}");
}

#[test]
fn an_endless_recursion_of_background_is_an_error_at_the_thread_limit() {
    fn recurse(levels: &Arc<AtomicUsize>) -> Outcome<()> {
        levels.fetch_add(1, Ordering::SeqCst);
        let theirs = levels.clone();
        background(move || recurse(&theirs)).join().unwrap()
    }
    let levels = Arc::new(AtomicUsize::new(0));
    let theirs = levels.clone();
    let client = client(1, 2);
    let outcome = in_time(move || {
        let outcome = client.within(|| background(move || recurse(&theirs))).join().unwrap();
        client.drain();
        outcome
    });
    let error = outcome.unwrap_err().to_string();
    assert!(error.contains("all task threads are in use (ASIDE_MAX_TASK_THREADS), and 16 tasks run on"), "{error}");
    assert_eq!(levels.load(Ordering::SeqCst), 2 + 16);
}

/// Returns pseudo-random numbers, the same in each run.
fn random(seed: &AtomicU64) -> u64 {
    let state = seed.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 33
}

/// The state that the nodes of a random tree share.
struct Forest {
    seed: AtomicU64,
    pool: Pool,
    nodes: AtomicUsize,
}

/// Runs a node, which starts up to four children of any kind, and waits for some of them, in any order.
fn grow(forest: &Arc<Forest>, depth: u32) {
    forest.nodes.fetch_add(1, Ordering::SeqCst);
    let mut waits: Vec<Box<dyn FnOnce()>> = Vec::new();
    for _ in 0..if depth == 0 { 0 } else { random(&forest.seed) % 5 } {
        let (inner, depth) = (forest.clone(), depth - 1);
        match random(&forest.seed) % 8 {
            0 => drop(Task::named("unwaited").spawn(move |_| grow(&inner, depth))),
            1 => drop(background(move || grow(&inner, depth))),
            2 | 3 => {
                let child = background(move || grow(&inner, depth));
                waits.push(Box::new(move || child.join().unwrap().unwrap()));
            }
            4 => {
                let child = forest.pool.spawn(move || inner.nodes.fetch_add(1, Ordering::SeqCst));
                waits.push(Box::new(move || assert!(child.join().is_ok())));
            }
            5 => {
                let retry = Retry::exponential(2, Duration::ZERO);
                let child = Task::named("retried").retry(retry).spawn(move |task| {
                    grow(&inner, depth);
                    if task.attempt() == 1 { Err("again") } else { Ok(()) }
                });
                waits.push(Box::new(move || child.join().unwrap()));
            }
            _ => {
                let child = Task::named("waited").spawn(move |_| grow(&inner, depth));
                waits.push(Box::new(move || child.join().unwrap()));
            }
        }
    }
    while !waits.is_empty() {
        waits.swap_remove(random(&forest.seed) as usize % waits.len())();
    }
    forest.pool.run(|| ()).unwrap();
}

#[test]
fn random_trees_of_tasks_end() {
    let nodes = in_time(|| {
        let mut nodes = 0;
        for seed in 0..60 {
            let (max_tasks, max_task_threads) = (1 + seed % 3, 1 + seed / 3 % 4);
            let client = client(max_tasks, max_task_threads);
            let forest = Arc::new(Forest {
                seed: AtomicU64::new(seed as u64),
                pool: Pool::new(1 + seed % 2),
                nodes: AtomicUsize::new(0),
            });
            client.within(|| {
                for _ in 0..3 {
                    let forest = forest.clone();
                    Task::named("root").spawn(move |_| grow(&forest, 5));
                }
            });
            client.drain();
            nodes += forest.nodes.load(Ordering::SeqCst);
        }
        nodes
    });
    assert!(nodes > 1_000, "{nodes} nodes are too few for a test");
}
