//! The scenario `tail`: how long the slowest pages take, the number of threads and the memory that a server needs, and what
//! is left of both after a burst. `README.md` describes the method.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use load::Pace;
use serde::Serialize;

use crate::measure::{self, Times, Wrongs};
use crate::peers::{PAGES, Page, Peer, Places, Running};
use crate::process;

/// The numbers of connections of the series.
const SERIES: [usize; 3] = [1, 32, 256];

/// The connections of the page beside tasks.
const FEW: usize = 4;

/// The connections of the burst.
const BURST: usize = 256;

/// How often threads and memory are read during a load.
const EVERY: Duration = Duration::from_millis(20);

/// An order that computes is placed that often: beside it, the tasks take about half of two cores. In a closed loop they
/// would pile up, since a server accepts them faster than any core computes them.
const ORDER_EVERY: Duration = Duration::from_millis(1);

/// Connections for the orders that compute.
const BUYERS: usize = 32;

/// How long the backlog of a burst is waited for, and after what times threads and memory are read.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(10);

/// One line of a table: a load, and what it was like for the client and the server.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub peer: &'static str,
    /// What is measured; rows of the same name are compared.
    pub what: String,
    pub round: usize,
    /// Right answers a second.
    pub rate: f64,
    /// Until the answer reached the client's socket.
    pub times: Times,
    /// Until the client had read it, as wrk reports it.
    pub as_wrk: Times,
    /// From the arrival of an answer until the generator read it, at the 99th percentile, in microseconds.
    pub late: f64,
    /// The most threads, and the most resident KiB, of the server during the load.
    pub threads: u64,
    pub resident: u64,
    /// The share of one core that other processes and the hypervisor took during the load: above a few hundredths, the
    /// machine was not quiet.
    pub others: f64,
    /// Processor time of the server for each right answer, its tasks with it, in microseconds.
    pub processor: f64,
    /// From the last answer until the tasks had run, in milliseconds.
    pub lag: f64,
    /// Milliseconds' worth of busy work each second, and the longest pause of a busy task in milliseconds.
    pub work: f64,
    pub pause: f64,
    pub wrongs: Wrongs,
}

/// Threads and resident KiB of a server that has nothing to do.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Left {
    pub threads: u64,
    pub resident: u64,
}

impl Left {
    fn of(server: &Running) -> Left {
        let (threads, resident) = process::status(server.pid());
        Left { threads, resident }
    }
}

/// A server after its series, and after a burst.
#[derive(Debug, Clone, Serialize)]
pub struct After {
    pub peer: &'static str,
    pub round: usize,
    pub started: Left,
    pub series: Left,
    pub soon: Left,
    pub later: Left,
}

/// All that the scenario measured.
#[derive(Debug, Default, Serialize)]
pub struct Tail {
    pub rows: Vec<Row>,
    pub afters: Vec<After>,
    pub absent: Vec<(String, String)>,
}

/// A server in a round.
struct Side<'t> {
    server: Running,
    round: usize,
    time: Duration,
    tail: &'t mut Tail,
}

/// How a side is loaded.
struct Load {
    page: Page,
    connections: usize,
    pace: Pace,
}

impl Load {
    fn closed(page: Page, connections: usize) -> Load {
        Load { page, connections, pace: Pace::Closed }
    }
}

/// Measures the sides in turns: a round is the whole series of each, on a server of its own.
pub fn run(sides: &[&'static Peer], places: &Places, rounds: usize, time: Duration) -> Tail {
    let mut tail = Tail::default();
    let steps = site::calibrate().to_string();
    let (wholes, forms): (Vec<_>, Vec<_>) = sides.iter().copied().partition(|peer| peer.is_whole());
    for round in 0..rounds {
        let mut kept = Vec::new();
        for turn in 0..wholes.len() {
            let peer = wholes[(turn + round) % wholes.len()];
            eprintln!("round {} of {rounds}: {}", round + 1, peer.name);
            match series(peer, places, &steps, round, time, &mut tail) {
                Ok(server) => kept.push(server),
                Err(words) => tail.absent.push((peer.name.to_owned(), words)),
            }
        }
        eprintln!("round {} of {rounds}: orders by kind of work", round + 1);
        for peer in wholes.iter().chain(&forms) {
            for work in kinds(peer) {
                let measured = orders(peer, places, &steps, work, round, time, &mut tail);
                measured.unwrap_or_else(|words| tail.absent.push((format!("{}, {work}", peer.name), words)));
            }
        }
        eprintln!("round {} of {rounds}: bursts", round + 1);
        bursts(kept, round, time, &mut tail);
    }
    tail
}

/// The kinds of work whose orders are measured on servers of their own. The series has the orders that sleep.
fn kinds(peer: &Peer) -> Vec<&'static str> {
    match (peer.is_whole(), peer.is_aside()) {
        (true, _) => vec!["none", "compute"],
        (false, true) => vec!["none", "sleep", "compute"],
        // For the others a variant differs in how it starts work that does not block.
        (false, false) => vec!["none"],
    }
}

fn start(peer: &'static Peer, places: &Places, work: &str, steps: &str) -> Result<Running, String> {
    let server = Running::start_with(peer, places, false, &[("PEER_WORK", work), ("PEER_STEPS", steps)])?;
    server.check_work(work)?;
    if peer.pages.contains(&Page::Form) {
        // The order that its form was tried with: it would count as one too many.
        measure::tasks(&server, 0, 1);
    }
    Ok(server)
}

/// A server with the numbers that are read before its burst.
struct Kept {
    server: Running,
    started: Left,
    series: Left,
}

fn series(
    peer: &'static Peer,
    places: &Places,
    steps: &str,
    round: usize,
    time: Duration,
    tail: &mut Tail,
) -> Result<Kept, String> {
    let server = start(peer, places, "sleep", steps)?;
    let started = Left::of(&server);
    let mut side = Side { server, round, time, tail };
    side.load("text, 32, a fresh server's first second", &Load::closed(Page::Plain, 32))?;
    for connections in SERIES {
        for page in PAGES {
            side.load(&format!("{}, {connections}", short(page)), &Load::closed(page, connections))?;
        }
    }
    side.load("order, 32, after 256", &Load::closed(Page::Form, 32))?;
    side.load("page, 4", &Load::closed(Page::Template, FEW))?;
    side.beside_busy_tasks()?;
    let series = Left::of(&side.server);
    Ok(Kept { server: side.server, started, series })
}

pub fn short(page: Page) -> &'static str {
    match page {
        Page::Plain => "text",
        Page::Template => "page",
        Page::Form => "order",
    }
}

/// Orders on a fresh server whose work is of that kind.
fn orders(
    peer: &'static Peer,
    places: &Places,
    steps: &str,
    work: &str,
    round: usize,
    time: Duration,
    tail: &mut Tail,
) -> Result<(), String> {
    let mut side = Side { server: start(peer, places, work, steps)?, round, time, tail };
    // A warm-up: the first second of a server is a row of its own.
    side.warm_up()?;
    let pace = if work == "compute" { Pace::Open(ORDER_EVERY) } else { Pace::Closed };
    let what = match pace {
        Pace::Closed => format!("order, work: {work}"),
        Pace::Open(_) => format!("order, work: {work}, 1,000 a second"),
    };
    side.load(&what, &Load { page: Page::Form, connections: BUYERS, pace }).map(drop)
}

/// A burst of orders on each server, then what is left of it. The later reading is of all servers at about the same time.
fn bursts(kept: Vec<Kept>, round: usize, time: Duration, tail: &mut Tail) {
    let mut waiting = Vec::new();
    for Kept { server, started, series } in kept {
        let peer = server.peer;
        let mut side = Side { server, round, time, tail };
        match side.load("a burst of orders, 256", &Load::closed(Page::Form, BURST)) {
            Ok(ended) => {
                thread::sleep((ended + SOON).saturating_duration_since(Instant::now()));
                let soon = Left::of(&side.server);
                let after = After { peer: peer.name, round, started, series, soon, later: Left::default() };
                waiting.push((ended + LATER, side.server, after));
            }
            Err(words) => tail.absent.push((format!("{}, a burst", peer.name), words)),
        }
    }
    for (due, server, mut after) in waiting {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        after.later = Left::of(&server);
        tail.afters.push(after);
    }
}

impl Side<'_> {
    fn warm_up(&self) -> Result<(), String> {
        let before = self.server.done()[0];
        let warmed = load::run(&self.server.target(Page::Form), BUYERS, Pace::Closed, Duration::from_millis(50));
        let warmed = warmed.map_err(|error| format!("load: {error}"))?;
        measure::tasks(&self.server, before, warmed.right);
        Ok(())
    }

    /// Loads the server, waits for the tasks of its forms, and adds a row. Returns the time at which the load ended.
    fn load(&mut self, what: &str, load: &Load) -> Result<Instant, String> {
        let server = &self.server;
        let before = server.done();
        let used = process::processor_time(server.pid());
        let target = server.target(load.page);
        let others = Others::new();
        let (outcome, threads, resident) =
            watched(server.pid(), || load::run(&target, load.connections, load.pace, self.time));
        let outcome = outcome.map_err(|error| format!("load: {error}"))?;
        let ended = Instant::now();
        let others = others.share();
        let mut wrongs = Wrongs::of(&outcome);
        if load.page == Page::Form {
            let ran = measure::tasks(server, before[0], outcome.right);
            wrongs.lost_tasks = measure::lost(ran, outcome.right, outcome.sent);
        }
        let lag = if load.page == Page::Form { ended.elapsed().as_secs_f64() * 1e3 } else { 0.0 };
        let used = process::processor_time(server.pid()) - used;
        let after = server.done();
        self.tail.rows.push(Row {
            peer: server.peer.name,
            what: what.to_owned(),
            round: self.round,
            rate: outcome.rate(),
            times: Times::of(&outcome.times),
            as_wrk: Times::of(&outcome.as_wrk(load.connections)),
            late: outcome.read_late.value_at_quantile(0.99) as f64 / 1e3,
            threads,
            resident,
            others,
            processor: used * 1e6 / outcome.right.max(1) as f64,
            lag,
            work: after[1].saturating_sub(before[1]) as f64 / self.time.as_secs_f64(),
            pause: after[3] as f64 / 1e3,
            wrongs,
        });
        Ok(ended)
    }

    fn beside_busy_tasks(&mut self) -> Result<(), String> {
        self.server.get("/busy")?;
        thread::sleep(Duration::from_millis(100));
        let loaded = self.load("page, 4, beside two busy tasks", &Load::closed(Page::Template, FEW));
        measure::calm(&self.server)?;
        loaded.map(drop)
    }
}

/// The processor time of all processes but this one and its servers.
struct Others(Instant, f64);

impl Others {
    fn new() -> Others {
        Others(Instant::now(), Others::time())
    }

    fn time() -> f64 {
        process::busy_time() - process::processor_time(std::process::id())
    }

    /// Returns their share of one core since then.
    fn share(&self) -> f64 {
        ((Others::time() - self.1) / self.0.elapsed().as_secs_f64()).max(0.0)
    }
}

/// Runs that, and returns its result with the most threads and the most resident KiB of the process.
fn watched<T>(pid: u32, run: impl FnOnce() -> T) -> (T, u64, u64) {
    let (is_over, most) = (AtomicBool::new(false), [AtomicU64::new(0), AtomicU64::new(0)]);
    let result = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let (threads, resident) = process::status(pid);
                most[0].fetch_max(threads, Ordering::Relaxed);
                most[1].fetch_max(resident, Ordering::Relaxed);
                thread::sleep(EVERY);
            }
        });
        let result = run();
        is_over.store(true, Ordering::Relaxed);
        result
    });
    let [threads, resident] = most.map(AtomicU64::into_inner);
    (result, threads, resident)
}
