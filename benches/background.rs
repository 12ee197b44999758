//! The cost of background tasks. Run with `cargo bench --bench background`; the results are in `benches/README.md`.
//!
//! Criterion compares `background` and `join` with a bare thread. Two further benchmarks are measured here: the processor time
//! of each task under a steady load, and ten thousand tasks at once.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aside::testing::TestClient;
use aside::{App, Config, Response, Task, background};
use criterion::{Criterion, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};

fn spawn_and_join(criterion: &mut Criterion) {
    let client = TestClient::new(App::with_config(Config::default()));
    let mut group = criterion.benchmark_group("spawn and join");
    group.bench_function("std::thread::spawn", |bench| bench.iter(|| thread::spawn(|| black_box(())).join()));
    group.bench_function("background", |bench| {
        client.within(|| bench.iter(|| background(|| black_box(())).join()));
    });
    group.bench_function("std::thread::spawn again", |bench| bench.iter(|| thread::spawn(|| black_box(())).join()));
    group.finish();
    client.drain();
}

/// Measures the processor time of a deferred task: the time of this thread beyond that of the page without a task, and the
/// time of all other threads. The tasks run one after the other. The time for which this thread waits does not count.
fn response_background(_: &mut Criterion) {
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

fn ten_thousand_at_once(_: &mut Criterion) {
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

criterion_group!(benches, spawn_and_join, response_background, ten_thousand_at_once);
criterion_main!(benches);
