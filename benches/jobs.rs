//! The cost of durable jobs. `cargo bench --bench jobs --features redis`; the figures are in `benches/README.md`.
//!
//! Empty jobs, through the public API: how many are enqueued per second, how many are completed; the time of one from
//! `enqueue` to its first line; whether a long queue is slower than a short one; the cost of an isolated job. And the
//! same work by Huey, RQ and Sidekiq, alternating within the run, if `ASIDE_PEERS_PYTHON` names a Python (`pip install
//! huey rq`, Debian: `apt install ruby-sidekiq`). A peer that is not installed is left out.
//!
//! Words on the command line select the parts: `-- enqueue drain`. `ASIDE_BENCH_ROUNDS` is the number of measurements
//! of each. SQLite's file is below `target`, and so is the data of Redis, a server that the benchmark starts; every
//! round starts with an empty store.

// Without both engines some of this is unused.
#![cfg_attr(not(all(feature = "sqlite", feature = "redis")), allow(unused))]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aside::config::Mode;
use aside::jobs::JobState;
use aside::server::Server;
use aside::tasks::Retry;
use aside::testing::TestClient;
use aside::{App, Config, Error, Job, Jobs, Result, Status, TaskContext};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

#[cfg(feature = "redis")]
#[allow(dead_code)]
#[path = "../tests/support/redis.rs"]
mod redis;

/// Tells a child process of this program that it is to run the jobs of this store and enqueue none.
const WORK_ON: &str = "ASIDE_BENCH_WORK_ON";

/// The number of threads that enqueue concurrently.
const THREADS: usize = 8;

/// The number of jobs drained in one round.
const MANY: usize = 20_000;

/// The pause between two jobs whose latency is measured, after which all threads are idle again.
const APART: Duration = Duration::from_millis(3);

/// The number of jobs that have started in this process.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// Receives the start times of stamped jobs; `None` in a process that prints them on its standard output.
static STAMPS: Mutex<Option<Sender<u64>>> = Mutex::new(None);

#[derive(Serialize, Deserialize)]
struct Empty;

impl Job for Empty {
    const NAME: &'static str = "empty";

    fn run(self, _task: &TaskContext) -> Result<()> {
        BEGUN.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// A job that reports its start time.
#[derive(Serialize, Deserialize)]
struct Stamped;

impl Job for Stamped {
    const NAME: &'static str = "stamped";

    fn run(self, _task: &TaskContext) -> Result<()> {
        let now = steady();
        match &*STAMPS.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(stamps) => drop(stamps.send(now)),
            None => writeln!(std::io::stdout(), "{now}")?,
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Isolated;

impl Job for Isolated {
    const NAME: &'static str = "isolated";
    const ISOLATED: bool = true;

    fn run(self, _task: &TaskContext) -> Result<()> {
        Ok(())
    }
}

/// A job that fails at its only attempt, with one of three errors.
#[derive(Serialize, Deserialize)]
struct Failing(u64);

impl Job for Failing {
    const NAME: &'static str = "failing";

    fn retry() -> Retry {
        Retry::exponential(1, Duration::ZERO)
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        let what = ["order", "invoice", "photo"][self.0 as usize % 3];
        Err(Error::internal(format!("no {what} {}", self.0)))
    }
}

/// Returns the nanoseconds of a clock that all processes share and that is never set.
fn steady() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// One part: measures a store, and prints the results.
type Measure = fn(&mut Store);

fn main() {
    // The process of an isolated job runs this line too, and ends there.
    if std::env::var_os("ASIDE_ISOLATED").is_some() {
        return app(jobs("memory:")).run().expect("the isolated job is done");
    }
    if let Ok(setting) = std::env::var(WORK_ON) {
        return work_on(&setting);
    }
    let chosen: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |part: &str| chosen.is_empty() || chosen.iter().any(|word| word == part);
    // On the disk of the builds: the usual temporary folder may be in memory, where a sync costs nothing.
    std::fs::create_dir_all(env!("CARGO_TARGET_TMPDIR")).expect("the folder below target can be made");
    let _ = tempfile::env::override_temp_dir(Path::new(env!("CARGO_TARGET_TMPDIR")));
    for store in &mut places() {
        println!("\n{}", store.words());
        let parts: [(&str, Measure); 5] =
            [("enqueue", enqueue), ("drain", drain), ("latency", latency), ("million", million), ("panel", panel)];
        parts.into_iter().filter(|(part, _)| wants(part)).for_each(|(_, measure)| {
            surroundings();
            measure(store);
        });
        if wants("peers") {
            surroundings();
            side_by_side(store);
        }
    }
    if wants("isolated") {
        isolated();
    }
}

fn rounds() -> usize {
    std::env::var("ASIDE_BENCH_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(5)
}

/// Prints the conditions that affect the figures.
fn surroundings() {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("  load {}; a sync of 4 KiB takes {:.2} ms here (median of 200)", load.trim(), sync_time() * 1e3);
}

/// Returns the duration of a disk sync in seconds, which each durable commit waits for.
fn sync_time() -> f64 {
    use std::os::unix::fs::FileExt;
    let file = tempfile::tempfile().expect("a temporary file");
    file.write_all_at(&[1; 200 * 4096], 0).and_then(|()| file.sync_all()).expect("it can be written");
    let once = |page: u64| {
        let began = Instant::now();
        file.write_all_at(&[2; 4096], page * 4096).and_then(|()| file.sync_data()).expect("it can be synced");
        began.elapsed().as_secs_f64()
    };
    median((0..200).map(once).collect())
}

/// A store for jobs, which is emptied before each round.
enum Store {
    #[cfg(feature = "sqlite")]
    Sqlite(TempDir),
    #[cfg(feature = "redis")]
    Redis(redis::RedisServer, &'static str),
}

fn places() -> Vec<Store> {
    let mut places = Vec::new();
    #[cfg(feature = "sqlite")]
    places.push(Store::Sqlite(folder()));
    #[cfg(feature = "redis")]
    for sync in ["appendfsync everysec", "appendfsync always"] {
        // Not during a measurement: after a million jobs the server rewrites its append-only file concurrently.
        let server = redis::RedisServer::start(&["appendonly yes", sync, "auto-aof-rewrite-percentage 0"]);
        places.extend(server.map(|server| Store::Redis(server, sync)));
    }
    places
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

// Dereferenced, since without both features the type has no variant, which only the value itself can show.
impl Store {
    fn words(&self) -> String {
        match *self {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(_) => "SQLite, synchronous=FULL".to_owned(),
            #[cfg(feature = "redis")]
            Store::Redis(_, ref sync) => format!("Redis, appendonly yes, {sync}"),
        }
    }

    /// Returns the setting of an empty store.
    fn empty(&mut self) -> String {
        match *self {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(ref mut folder) => {
                *folder = self::folder();
                format!("sqlite:{}", folder.path().join("jobs.db").display())
            }
            #[cfg(feature = "redis")]
            Store::Redis(ref server, _) => {
                flush(server.port());
                server.url()
            }
        }
    }

    /// Returns the settings and a description of the peers, for each variant that is measured.
    fn peers(&mut self) -> Vec<(&'static str, Vec<String>)> {
        let setting = self.empty();
        match *self {
            #[cfg(feature = "sqlite")]
            Store::Sqlite(ref folder) => {
                let path = |name: &str| folder.path().join(name).display().to_string();
                let huey = |sync: &str| vec!["huey".to_owned(), path(sync), sync.to_owned()];
                vec![("Huey, synchronous=FULL", huey("full")), ("Huey, fsync=False", huey("off"))]
            }
            #[cfg(feature = "redis")]
            Store::Redis(..) => {
                let rq = |worker: &str| vec!["rq".to_owned(), setting.clone(), worker.to_owned()];
                let sidekiq = |processes: &str| vec!["sidekiq".to_owned(), setting.clone(), processes.to_owned()];
                vec![
                    ("RQ, SimpleWorker", rq("simple")),
                    ("RQ, Worker", rq("fork")),
                    ("Sidekiq, 1 process, 4 threads", sidekiq("1")),
                    ("Sidekiq, 4 processes", sidekiq("4")),
                ]
            }
        }
    }
}

/// Empties the server, with the one command that needs no client.
#[cfg(feature = "redis")]
fn flush(port: u16) {
    let mut server = std::net::TcpStream::connect(("127.0.0.1", port)).expect("the server is there");
    server.write_all(b"FLUSHALL\r\n").expect("it reads");
    let mut answer = String::new();
    BufReader::new(server).read_line(&mut answer).expect("it answers");
    assert_eq!(answer.trim(), "+OK");
}

fn jobs(setting: &str) -> Jobs {
    let jobs = Jobs::open(setting).expect("jobs can be kept there");
    jobs.register::<Empty>().register::<Stamped>().register::<Isolated>().register::<Failing>()
}

fn app(jobs: Jobs) -> App {
    let config = Config {
        mode: Mode::Production,
        address: "127.0.0.1:0".into(),
        secrets: vec!["a secret of more than thirty-two bytes".into()],
        allowed_hosts: vec!["localhost".into()],
        ..Config::default()
    };
    App::with_config(config).jobs(jobs)
}

fn start(jobs: Jobs) -> Server {
    app(jobs).start().expect("a free port")
}

/// Enqueues `many` empty jobs, a thousand with each call.
fn fill(jobs: &Jobs, many: usize) {
    for left in (1..=many).rev().step_by(1_000) {
        jobs.enqueue_all((0..left.min(1_000)).map(|_| Empty)).expect("they are kept");
    }
}

/// Waits until `many` jobs have started in this process.
fn until_begun(many: u64) {
    while BEGUN.load(Ordering::Relaxed) < many {
        thread::sleep(Duration::from_micros(200));
    }
}

/// Waits until the started jobs are resolved too.
fn until_empty(jobs: &Jobs) {
    let is_empty = |jobs: &Jobs| {
        let queues = jobs.queues().expect("they can be looked at");
        queues.iter().all(|queue| queue.waiting + queue.running == 0)
    };
    while !is_empty(jobs) {
        thread::sleep(Duration::from_micros(500));
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Prints the median over the rounds, and the lowest and the highest value.
fn say(what: &str, unit: &str, mut all: Vec<f64>) {
    all.sort_by(f64::total_cmp);
    let (low, high) = (all[0], all[all.len() - 1]);
    println!("  {what}: {:.0} {unit} ({low:.0} to {high:.0})", median(all));
}

fn enqueue(store: &mut Store) {
    let mut rates = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        rates[0].push(enqueue_rate(&jobs(&store.empty()), THREADS, 1));
        rates[1].push(enqueue_rate(&jobs(&store.empty()), 1, 1));
        rates[2].push(enqueue_rate(&jobs(&store.empty()), 1, 100));
    }
    let [eight, one, hundreds] = rates;
    say(&format!("enqueue from {THREADS} threads"), "jobs/s", eight);
    say("enqueue from 1 thread", "jobs/s", one);
    say("enqueue_all, a hundred at a time, from 1 thread", "jobs/s", hundreds);
}

/// Returns the number of jobs enqueued per second, measured over a second.
fn enqueue_rate(jobs: &Jobs, threads: usize, at_a_time: usize) -> f64 {
    let (began, kept) = (Instant::now(), AtomicU64::new(0));
    let enqueue = || {
        while began.elapsed() < Duration::from_secs(1) {
            let enqueued = match at_a_time {
                1 => jobs.enqueue(Empty).map(|_| 1),
                _ => jobs.enqueue_all((0..at_a_time).map(|_| Empty)).map(|all| all.len()),
            };
            kept.fetch_add(enqueued.expect("it is kept") as u64, Ordering::Relaxed);
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(enqueue))));
    kept.into_inner() as f64 / began.elapsed().as_secs_f64()
}

fn drain(store: &mut Store) {
    let at_once = [4, 16, 32];
    let mut rates = at_once.map(|_| Vec::new());
    for _ in 0..rounds() {
        for (rates, at_once) in rates.iter_mut().zip(at_once) {
            rates.push(drain_rate(&store.empty(), at_once, MANY, MANY));
        }
    }
    for (rates, at_once) in rates.into_iter().zip(at_once) {
        say(&format!("{MANY} drained, {at_once} at once"), "jobs/s", rates);
    }
}

/// Returns the number of jobs completed per second, from the start of the workers to the last completion; with more
/// than [`MANY`] jobs, to the start of the last of these.
fn drain_rate(setting: &str, at_once: usize, all: usize, drained: usize) -> f64 {
    let jobs = jobs(setting).concurrency(at_once);
    fill(&jobs, all);
    // So that writes before the measurement do not delay it.
    rustix::fs::sync();
    let before = BEGUN.load(Ordering::Relaxed);
    let began = Instant::now();
    let server = start(jobs.clone());
    until_begun(before + drained as u64);
    if all == drained {
        until_empty(&jobs);
    }
    let took = began.elapsed();
    server.stop();
    drained as f64 / took.as_secs_f64()
}

/// Measures the drain of a long queue, which is as fast as that of a short one.
fn million(store: &mut Store) {
    const DRAINED: usize = 2_000;
    let lengths = [DRAINED + 1_000, DRAINED + 1_000_000];
    let mut rates = lengths.map(|_| Vec::new());
    for _ in 0..rounds().min(3) {
        for (rates, length) in rates.iter_mut().zip(lengths) {
            rates.push(drain_rate(&store.empty(), 4, length, DRAINED));
        }
    }
    store.empty();
    for (rates, length) in rates.into_iter().zip(lengths) {
        say(&format!("the first {DRAINED} of {length}"), "jobs/s", rates);
    }
}

/// Measures the panel's overview with 10,000 dead jobs of three errors and 1,000,000 done ones.
fn panel(store: &mut Store) {
    const DEAD: u64 = 10_000;
    const DONE: usize = 1_000_000;
    let jobs = jobs(&store.empty()).concurrency(32).retention(Duration::from_secs(24 * 3600), 2 * DONE as u64);
    fill(&jobs, DONE);
    for first in (0..DEAD).step_by(1_000) {
        jobs.enqueue_all((first..first + 1_000).map(Failing)).expect("they are kept");
    }
    let server = start(jobs.clone());
    until_empty(&jobs);
    server.stop();
    let counts = jobs.counts().expect("they can be counted");
    assert_eq!((counts.dead, counts.done), (DEAD, DONE as u64));
    let mut client = TestClient::new(app(jobs).panel(|_| true));
    let mut page = || {
        let began = Instant::now();
        let response = client.get("/_aside");
        assert!(response.status_code() == Status::OK && response.text().contains("no order"));
        began.elapsed().as_secs_f64() * 1e6
    };
    page();
    say("GET /_aside with 10,000 dead and 1,000,000 done jobs", "µs", (0..21).map(|_| page()).collect());
    store.empty();
}

/// Measures the time from `enqueue`, and from its return, to the first line of the job, without other work.
fn latency(store: &mut Store) {
    let (sender, stamps) = channel();
    *STAMPS.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    let jobs = jobs(&store.empty());
    let server = start(jobs.clone());
    say_latency("in one process", &jobs, 1_000, 1, &stamps);
    server.stop();
    drop(jobs);
    *STAMPS.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let setting = store.empty();
    let jobs = self::jobs(&setting).concurrency(0);
    let (mut worker, stamps) = worker(&setting);
    // Another process with SQLite polls every half second: fewer jobs, at all moments between two polls.
    let (times, apart) = if setting.starts_with("sqlite") { (60, 37) } else { (1_000, 1) };
    say_latency("to another process", &jobs, times, apart, &stamps);
    drop(worker.stdin.take());
    worker.wait().expect("the worker ends with its input");
}

/// `apart` is the difference between successive pauses in milliseconds; they repeat within half a second.
fn say_latency(what: &str, jobs: &Jobs, times: usize, apart: u64, stamps: &Receiver<u64>) {
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..times + 10 {
        let called = steady();
        jobs.enqueue(Stamped).expect("it is kept");
        let returned = steady();
        let began = stamps.recv_timeout(Duration::from_secs(30)).expect("it begins");
        if round >= 10 {
            took[0].push(began.saturating_sub(called));
            took[1].push(began.saturating_sub(returned));
        }
        let more = if apart > 1 { Duration::from_millis(round as u64 * apart % 500) } else { Duration::ZERO };
        thread::sleep(APART + more);
    }
    for (from, mut took) in ["the call", "the return"].into_iter().zip(took) {
        took.sort_unstable();
        let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize] as f64 / 1e6;
        println!(
            "  from {from} of enqueue to the job's first line, {what}: p50 {:.2} ms, p99 {:.2} ms, worst {:.2} ms, of {times}",
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// Starts this program as a worker for these jobs. Returns the process, and the stamps that it prints.
fn worker(setting: &str) -> (Child, Receiver<u64>) {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    command.env(WORK_ON, setting).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut worker = command.spawn().expect("it can be started again");
    let (sender, stamps) = channel();
    let mut lines = BufReader::new(worker.stdout.take().expect("it is piped")).lines().map_while(|line| line.ok());
    assert_eq!(lines.next().as_deref(), Some("at work"));
    thread::spawn(move || {
        for stamp in lines.filter_map(|line| line.parse().ok()) {
            let _ = sender.send(stamp);
        }
    });
    (worker, stamps)
}

/// Runs the other process: it works until its input ends.
fn work_on(setting: &str) {
    let server = start(jobs(setting));
    println!("at work");
    let _ = std::io::stdin().read_line(&mut String::new());
    server.stop();
}

/// Measures the time from the start of an isolated job's process to its end and a little more: one after the other,
/// stored in memory.
fn isolated() {
    let jobs = jobs("memory:");
    let server = start(jobs.clone());
    let once = |_| {
        let began = Instant::now();
        let id = jobs.enqueue(Isolated).expect("it is kept").id;
        while jobs.find(id).expect("memory answers").is_none_or(|job| job.state != JobState::Done) {
            thread::sleep(Duration::from_micros(100));
        }
        began.elapsed().as_secs_f64() * 1e6
    };
    (0..5).map(once).for_each(drop);
    println!();
    say("an empty isolated job, enqueue to done", "µs", (0..100).map(once).collect());
    server.stop();
}

/// Measures this crate and the peers, alternating: eight threads enqueue jobs one by one, and then four workers
/// complete them.
fn side_by_side(store: &mut Store) {
    let Some(python) = std::env::var_os("ASIDE_PEERS_PYTHON") else {
        return println!("  peers are left out: ASIDE_PEERS_PYTHON names no Python");
    };
    let python = PathBuf::from(python);
    let mut ours = (Vec::new(), Vec::new());
    let mut theirs: BTreeMap<&str, (Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for _ in 0..rounds() {
        ours.0.push(enqueue_rate(&jobs(&store.empty()), THREADS, 1));
        ours.1.push(drain_rate(&store.empty(), 4, MANY, MANY));
        for (name, words) in store.peers() {
            let Some((enqueued, drained)) = peer(&python, &words) else { continue };
            let rates = theirs.entry(name).or_default();
            rates.0.push(enqueued);
            rates.1.push(drained);
        }
    }
    let (enqueued, drained) = (median(ours.0.clone()), median(ours.1.clone()));
    say("ours: enqueue", "jobs/s", ours.0);
    say("ours: drain, 4 at once", "jobs/s", ours.1);
    for (name, (their_enqueued, their_drained)) in theirs {
        let times = (enqueued / median(their_enqueued.clone()), drained / median(their_drained.clone()));
        say(&format!("{name}: enqueue"), "jobs/s", their_enqueued);
        say(&format!("{name}: drain, 4 workers"), "jobs/s", their_drained);
        println!("  ours against {name}: enqueue {:.1} times, drain {:.1} times", times.0, times.1);
    }
}

/// Returns the numbers of jobs that a peer enqueues and drains per second, from its last line; `None` if it fails, as a
/// peer does that is not installed.
fn peer(python: &Path, words: &[String]) -> Option<(f64, f64)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/jobs_peers.py");
    let output = Command::new(python).arg(script).args(words).stderr(Stdio::null()).output();
    let output = String::from_utf8_lossy(&output.expect("python can be run").stdout).into_owned();
    let mut rates = output.lines().last().unwrap_or_default().split_whitespace().filter_map(|rate| rate.parse().ok());
    rates.next().zip(rates.next())
}
