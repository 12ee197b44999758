//! The measurements themselves.

use std::thread;
use std::time::{Duration, Instant};

use load::{Herd, Histogram, Outcome, Pace};
use serde::Serialize;

use crate::peers::{Page, Running};
use crate::process::{self, Memory};

/// A page is asked for that often while something else goes on.
const EVERY: Duration = Duration::from_millis(2);

/// Over how many connections at most.
const VISITORS: usize = 16;

/// Times in microseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Times {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub worst: f64,
}

impl Times {
    pub fn of(times: &Histogram<u64>) -> Times {
        let at = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1e3;
        Times { p50: at(0.5), p99: at(0.99), p999: at(0.999), worst: times.max() as f64 / 1e3 }
    }
}

/// What went wrong, which a rate would hide.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Wrongs {
    /// Connections that never had an answer.
    pub silent: usize,
    /// Connections that took over half a second to open.
    pub late_openings: u64,
    /// Requests without an answer a second after the end.
    pub unanswered: u64,
    pub wrong: u64,
    pub first_wrong: Option<String>,
    pub broken: u64,
    /// Tasks that were acknowledged and did not run, or ran without a request.
    pub lost_tasks: i64,
}

impl Wrongs {
    pub fn of(outcome: &Outcome) -> Wrongs {
        Wrongs {
            silent: outcome.silent,
            late_openings: outcome.late_openings,
            unanswered: outcome.unanswered,
            wrong: outcome.wrong,
            first_wrong: outcome.first_wrong.clone(),
            broken: outcome.broken,
            lost_tasks: 0,
        }
    }
}

/// One page of one peer, under load for a while.
#[derive(Debug, Clone, Serialize)]
pub struct Slot {
    pub peer: &'static str,
    pub page: Page,
    pub connections: usize,
    pub round: usize,
    /// Right answers a second.
    pub rate: f64,
    pub times: Times,
    /// Processor time of the server for each right answer, its tasks with it, in microseconds.
    pub processor: f64,
    /// Peak of resident memory, in KiB.
    pub peak: u64,
    /// Connections that were closed after an answer and opened again, for each right response.
    pub closed: f64,
    /// From the last answer until the tasks had run, in milliseconds.
    pub drained: f64,
    pub wrongs: Wrongs,
}

/// # Errors
/// When the load generator itself fails.
pub fn slot(server: &Running, page: Page, connections: usize, round: usize, time: Duration) -> Result<Slot, String> {
    let target = server.target(page);
    let before = server.done()[0];
    process::forget_peak(server.pid());
    let used = process::processor_time(server.pid());
    let outcome = load::run(&target, connections, Pace::Closed, time).map_err(|error| format!("load: {error}"))?;
    let mut wrongs = Wrongs::of(&outcome);
    let mut drained = 0.0;
    if page == Page::Form {
        let began = Instant::now();
        let ran = tasks(server, before, outcome.right);
        drained = began.elapsed().as_secs_f64() * 1e3;
        wrongs.lost_tasks = lost(ran, outcome.right, outcome.sent);
    }
    let used = process::processor_time(server.pid()) - used;
    let right = outcome.right.max(1) as f64;
    Ok(Slot {
        peer: server.peer.name,
        page,
        connections,
        round,
        rate: outcome.rate(),
        times: Times::of(&outcome.times),
        processor: used * 1e6 / right,
        peak: process::memory(server.pid()).peak,
        closed: outcome.closed as f64 / right,
        drained,
        wrongs,
    })
}

/// How many tasks ran since, once they have, or after 10 s.
pub fn tasks(server: &Running, before: u64, right: u64) -> u64 {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let ran = server.done()[0].saturating_sub(before);
        if ran >= right || Instant::now() > until {
            return ran;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Negative where more ran than were asked for.
pub fn lost(ran: u64, right: u64, sent: u64) -> i64 {
    if ran < right { right as i64 - ran as i64 } else { (sent as i64 - ran as i64).min(0) }
}

/// What else goes on while a page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Beside {
    Nothing,
    BusyTasks,
    Photos,
}

pub const BESIDE: [Beside; 3] = [Beside::Nothing, Beside::BusyTasks, Beside::Photos];

impl Beside {
    fn path(self) -> Option<&'static str> {
        match self {
            Beside::Nothing => None,
            Beside::BusyTasks => Some("/busy"),
            Beside::Photos => Some("/resize"),
        }
    }
}

/// How long the page with the template takes at a low, fixed rate.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    pub peer: &'static str,
    pub beside: Beside,
    pub round: usize,
    pub times: Times,
    /// By how much the load generator itself was late with a request, at the 99th percentile, in microseconds.
    pub late: f64,
    /// Units of work that the tasks got done each second.
    pub work: f64,
    pub wrongs: Wrongs,
}

/// # Errors
/// When the tasks cannot be started or stopped.
pub fn latency(server: &Running, beside: Beside, round: usize, time: Duration) -> Result<Latency, String> {
    if let Some(path) = beside.path() {
        server.get(path)?;
        thread::sleep(Duration::from_millis(100));
    }
    let before = server.done();
    let target = server.target(Page::Template);
    load::hurry(true);
    let outcome = load::run(&target, VISITORS, Pace::Open(EVERY), time);
    load::hurry(false);
    let outcome = outcome.map_err(|error| format!("load: {error}"))?;
    let after = server.done();
    if beside != Beside::Nothing {
        calm(server)?;
    }
    let which = if beside == Beside::Photos { 2 } else { 1 };
    Ok(Latency {
        peer: server.peer.name,
        beside,
        round,
        times: Times::of(&outcome.times),
        late: outcome.late.value_at_quantile(0.99) as f64 / 1e3,
        work: after[which].saturating_sub(before[which]) as f64 / time.as_secs_f64(),
        wrongs: Wrongs::of(&outcome),
    })
}

/// Ends the busy tasks, and waits for their end.
pub fn calm(server: &Running) -> Result<(), String> {
    (0..10).find_map(|_| server.get("/calm").ok()).ok_or("it does not answer /calm")?;
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let used = process::processor_time(server.pid());
        thread::sleep(Duration::from_millis(100));
        if process::processor_time(server.pid()) - used < 0.03 {
            return Ok(());
        }
        if Instant::now() > until {
            return Err("its tasks do not end after /calm".into());
        }
    }
}

/// Connections that were answered once and are kept.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    pub peer: &'static str,
    pub wanted: usize,
    pub answered: usize,
    /// Of these, not closed by the server when it was looked at.
    pub open: usize,
    pub why: Option<String>,
    pub before: Memory,
    pub after: Memory,
    /// A page over one more connection, in microseconds.
    pub page: Option<f64>,
}

pub fn idle(server: &Running, wanted: usize) -> Idle {
    let before = process::memory(server.pid());
    let herd = Herd::gather(&server.target(Page::Plain), wanted, Duration::from_secs(20));
    let (open, after) = (herd.open(), process::memory(server.pid()));
    let began = Instant::now();
    let page = server.get("/plain").ok().map(|_| began.elapsed().as_secs_f64() * 1e6);
    Idle { peer: server.peer.name, wanted, answered: herd.answered(), open, why: herd.why, before, after, page }
}

/// True if the server has a thread for each connection, as tiny_http does.
pub fn has_thread_for_each(server: &Running) -> bool {
    const SOME: usize = 64;
    let herd = Herd::gather(&server.target(Page::Plain), SOME, Duration::from_secs(5));
    process::memory(server.pid()).threads as usize > herd.open().max(SOME / 2)
}
