//! What setting a task aside costs. `cargo bench --bench background`; the figures are in `benches/README.md`.
//!
//! Criterion times `background` then `join` against the bare thread. The two others are counted here by hand: processor
//! time for each task under a steady load, and ten thousand tasks at once.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use aside::testing::TestClient;
use aside::{App, Config, Response, Task, background};
use criterion::{Criterion, criterion_group, criterion_main};

fn spawn_and_join(criterion: &mut Criterion) {
    let client = TestClient::new(App::with_config(Config::default()));
    let mut group = criterion.benchmark_group("spawn and join");
    group.bench_function("std::thread::spawn", |bench| bench.iter(|| thread::spawn(|| black_box(())).join()));
    group.bench_function("background", |bench| {
        client.within(|| bench.iter(|| background(|| black_box(())).join()));
    });
    group.bench_function("std::thread::spawn again", |bench| bench.iter(|| thread::spawn(|| black_box(())).join()));
    group.finish();
    client.settle();
}

fn response_background(_: &mut Criterion) {
    let (tell, told) = mpsc::channel();
    let app = App::with_config(Config::default()).get("/bare", |_| "page").get("/aside", move |_| {
        let tell = tell.clone();
        Response::text("page").background(move || tell.send(()))
    });
    let mut client = TestClient::new(app);
    const TASKS: u32 = 20_000;
    let mut load = |path: &str, wait: bool| {
        let before = processor_time();
        for _ in 0..TASKS {
            client.get(path);
            if wait {
                let _ = told.recv();
            }
        }
        processor_time().saturating_sub(before) / TASKS
    };
    load("/aside", true);
    for _ in 0..3 {
        let (bare, aside) = (load("/bare", false), load("/aside", true));
        println!("Response::background, processor time for each task: {:?} ({aside:?} less {bare:?})", aside - bare);
    }
    client.settle();
}

fn ten_thousand_at_once(_: &mut Criterion) {
    let app = App::with_config(Config::default()).get("/", |_| "page");
    let mut client = TestClient::new(app);
    let ended = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    client.within(|| {
        for _ in 0..10_000 {
            let ended = ended.clone();
            Task::named("nap").run(move |task| {
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
    client.settle();
    let (ended, peak) = (ended.load(Ordering::Relaxed), peak_memory());
    println!(
        "10,000 tasks of 50 ms: {ended} ran in {:?}, peak memory {peak}, {pages} pages meanwhile, the slowest {slowest:?}",
        began.elapsed()
    );
}

/// Processor time of this process so far, from the scheduler's own count.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("VmHWM: not known here");
    line.split_once(':').map_or("", |(_, size)| size).trim().to_owned()
}

criterion_group!(benches, spawn_and_join, response_background, ten_thousand_at_once);
criterion_main!(benches);
