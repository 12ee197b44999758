//! The cost of background tasks. Run with `cargo bench --bench background`; the results are in `benches/README.md`.
//!
//! Three measurements: `background` and `join` beside a bare thread, in turns; the processor time of each task under a steady
//! load; and ten thousand tasks at once.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aside::testing::TestClient;
use aside::{App, Config, Response, Task, background};
use rustix::time::{ClockId, clock_gettime};

fn main() {
    spawn_and_join();
    response_background();
    ten_thousand_at_once();
}

/// Compares medians of rounds that take turns, so that a busy moment of the machine changes both.
fn spawn_and_join() {
    const ROUNDS: usize = 31;
    let client = TestClient::new(App::with_config(Config::default()));
    let bare = || drop(black_box(thread::spawn(|| black_box(())).join()));
    let background = || drop(black_box(background(|| black_box(())).join()));
    let (mut bares, mut backgrounds) = (Vec::new(), Vec::new());
    client.within(|| {
        let _before_measuring = (each(bare), each(background));
        for _ in 0..ROUNDS {
            bares.push(each(bare));
            backgrounds.push(each(background));
        }
    });
    let (bare, background) = (median(bares), median(backgrounds));
    let ratio = background.as_secs_f64() / bare.as_secs_f64();
    println!("spawn and join: std::thread::spawn {bare:?}, background {background:?} ({ratio:.2} times)");
    client.drain();
}

/// Returns the time of one call, from a thousand.
fn each(call: impl Fn()) -> Duration {
    const CALLS: u32 = 1_000;
    let began = Instant::now();
    (0..CALLS).for_each(|_| call());
    began.elapsed() / CALLS
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Measures the processor time of a deferred task: the time of this thread beyond that of the page without a task, and the
/// time of all other threads. The tasks run one after the other. The time for which this thread waits does not count.
fn response_background() {
    let ended = Arc::new(AtomicUsize::new(0));
    let theirs = ended.clone();
    let app = App::with_config(Config::default()).get("/bare", |_| "page").get("/aside", move |_| {
        let ended = theirs.clone();
        Response::text("page").background(move || {
            ended.fetch_add(1, Ordering::Release);
        })
    });
    let mut client = TestClient::new(app);
    const TASKS: u32 = 20_000;
    let mut load = |path: &str, tasks_each: usize| {
        let (process, mut pages) = (time_of(ClockId::ProcessCPUTime), Duration::ZERO);
        let this_thread = time_of(ClockId::ThreadCPUTime);
        for _ in 0..TASKS {
            let (page, before) = (time_of(ClockId::ThreadCPUTime), ended.load(Ordering::Acquire));
            client.get(path);
            pages += time_of(ClockId::ThreadCPUTime) - page;
            while ended.load(Ordering::Acquire) < before + tasks_each {
                std::hint::spin_loop();
            }
        }
        let others =
            (time_of(ClockId::ProcessCPUTime) - process).saturating_sub(time_of(ClockId::ThreadCPUTime) - this_thread);
        (pages / TASKS, others / TASKS)
    };
    load("/aside", 1);
    for _ in 0..5 {
        let ((bare, _), (page, others)) = (load("/bare", 0), load("/aside", 1));
        let each = page.saturating_sub(bare) + others;
        println!(
            "Response::background, processor time for each task: {each:?} ({:?} here, {others:?} there)",
            page - bare
        );
    }
    client.drain();
}

fn ten_thousand_at_once() {
    let app = App::with_config(Config::default()).get("/", |_| "page");
    let mut client = TestClient::new(app);
    let ended = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    client.within(|| {
        for _ in 0..10_000 {
            let ended = ended.clone();
            Task::named("nap").spawn(move |task| {
                let _ = task.sleep(Duration::from_millis(50));
                ended.fetch_add(1, Ordering::Relaxed);
            });
        }
    });
    let mut slowest = Duration::ZERO;
    let mut pages = 0;
    while client.running().len() > 100 {
        let page = Instant::now();
        client.get("/");
        slowest = slowest.max(page.elapsed());
        pages += 1;
        thread::sleep(Duration::from_millis(1));
    }
    client.drain();
    let (ended, peak) = (ended.load(Ordering::Relaxed), peak_memory());
    println!(
        "10,000 tasks of 50 ms: {ended} ran in {:?}, peak memory {peak}, {pages} concurrent pages, the slowest {slowest:?}",
        began.elapsed()
    );
}

fn time_of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: not known here");
    line.split_once(':').map_or("", |(_, size)| size).trim().to_owned()
}
