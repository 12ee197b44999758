//! Measures the peers side by side: `cargo run --release -p run`. `README.md` describes the method.

mod builds;
mod measure;
mod peers;
mod plot;
mod prepare;
mod process;
mod report;
mod tail;
mod tail_report;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use measure::BESIDE;
use peers::{PAGES, PEERS, Peer, Places, Running};
use report::Results;

const HELP: &str = "\
cargo run --release -p run -- [OPTIONS]

  --quick          everything once and briefly, to see that it works
  --only NAMES     only peers whose names begin with one of these, separated by commas
  --rounds N       rounds at 32 connections (7); at 1 and 256 it is half of that
  --seconds N      how long each peer is under load in a round (1)
  --idle N         idle connections (10000)
  --scenario tail  only the slowest responses, threads, memory and bursts; 3 rounds, under 5 minutes
  --aside-before PATH
                   a release build of an older peer-aside, as one more side of the scenario
  --builds         only build time, crates and binary sizes of the hello site
";

struct Options {
    only: Vec<String>,
    rounds: usize,
    time: Duration,
    idle: usize,
    is_quick: bool,
    builds: bool,
    tail: bool,
    before: Option<PathBuf>,
}

/// The rounds of the scenario `tail`, if none are given.
const TAIL_ROUNDS: usize = 3;

/// Its sides, if none are given.
const TAIL_SIDES: [&str; 6] = [
    "aside epoll",
    "aside epoll, no access log",
    "aside epoll, background()",
    "aside tiny_http",
    "axum",
    "axum, spawn_blocking",
];

impl Options {
    fn read() -> Result<Options, String> {
        let (only, time) = (Vec::new(), Duration::from_secs(1));
        let mut options =
            Options { only, rounds: 7, time, idle: 10_000, is_quick: false, builds: false, tail: false, before: None };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut number = || args.next().and_then(|value| value.parse::<f64>().ok()).filter(|number| *number > 0.0);
            let wrong = || format!("{arg} takes a number\n\n{HELP}");
            match arg.as_str() {
                "--quick" => {
                    options =
                        Options { rounds: 1, time: Duration::from_millis(300), idle: 2_000, is_quick: true, ..options }
                }
                "--scenario" => match args.next().as_deref() {
                    Some("tail") => (options.tail, options.rounds) = (true, options.rounds.min(TAIL_ROUNDS)),
                    _ => return Err(format!("the only scenario is tail\n\n{HELP}")),
                },
                "--aside-before" => {
                    let path = args.next().ok_or_else(|| format!("{arg} takes a path\n\n{HELP}"))?;
                    options.before = Some(PathBuf::from(path));
                }
                "--builds" => options.builds = true,
                "--rounds" => options.rounds = number().ok_or_else(wrong)?.ceil() as usize,
                "--seconds" => options.time = Duration::from_secs_f64(number().ok_or_else(wrong)?),
                "--idle" => options.idle = number().ok_or_else(wrong)? as usize,
                "--only" => {
                    let names = args.next().unwrap_or_default().to_lowercase();
                    options.only = names.split(',').map(|name| name.trim().to_owned()).collect();
                }
                _ => return Err(HELP.into()),
            }
        }
        Ok(options)
    }

    fn wants(&self, peer: &Peer) -> bool {
        let name = peer.name.to_lowercase();
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only))
    }

    fn few(&self) -> usize {
        (self.rounds / 2).max(1)
    }

    /// How many rounds at each number of connections.
    fn rounds(&self) -> [(usize, usize); 3] {
        [(32, self.rounds), (1, self.few()), (256, self.few())]
    }
}

fn main() -> ExitCode {
    match Options::read().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(words) => {
            eprintln!("{words}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let places = Places::find().map_err(|error| format!("no folder for what is made: {error}"))?;
    if options.builds {
        return builds::run(&places, &options.only);
    }
    if options.tail {
        return run_tail(options, &places);
    }
    let began = Instant::now();
    let descriptors = prepare::descriptors() as usize;
    prepare::photo(&places.photo())?;
    let settings = format!(
        "{} rounds of {:?} at 32 connections, {} at 1 and 256; medians; in turns, all servers up and one of them under load.",
        options.rounds,
        options.time,
        options.few()
    );
    let mut results = Results {
        machine: machine(),
        settings,
        connections: options.rounds().iter().map(|(connections, _)| *connections).collect(),
        slots: Vec::new(),
        latencies: Vec::new(),
        idles: Vec::new(),
        absent: Vec::new(),
    };
    let there = examine(options, &places, &mut results);
    let mut servers = start(&there, &places, &mut results);
    load_them(options, &servers, &mut results)?;
    interrupt_them(options, &mut servers, &mut results);
    drop(servers);
    let idle = options.idle.min(descriptors.saturating_sub(200));
    for peer in there.iter().filter(|peer| peer.is_whole()) {
        eprintln!("{idle} idle connections: {}", peer.name);
        match Running::start(peer, &places, false) {
            Ok(server) => results.idles.push(measure::idle(&server, idle)),
            Err(words) => results.absent.push((format!("{}, idle connections", peer.name), words)),
        }
    }
    let text = results.markdown();
    println!("{text}");
    save(options, &places, &results, &text)?;
    eprintln!("All of it took {:.0} s.", began.elapsed().as_secs_f64());
    Ok(())
}

/// The scenario `tail`.
fn run_tail(options: &Options, places: &Places) -> Result<(), String> {
    prepare::descriptors();
    prepare::photo(&places.photo())?;
    let wants = |peer: &&Peer| match options.only.is_empty() {
        true => TAIL_SIDES.contains(&peer.name),
        false => options.wants(peer),
    };
    let older = options.before.clone().map(peers::older);
    let (mut sides, mut absent) = (Vec::new(), Vec::new());
    for peer in PEERS.iter().filter(wants).chain(older) {
        eprintln!("building {}", peer.name);
        match prepare::peer(peer, places) {
            Ok(()) => sides.push(peer),
            Err(words) => absent.push((peer.name.to_owned(), words)),
        }
    }
    let (machine, began) = (machine(), Instant::now());
    let mut tail = tail::run(&sides, places, options.rounds, options.time);
    tail.absent.append(&mut absent);
    let text = format!("{machine}\n\n{} rounds of {:?}; medians.\n{}", options.rounds, options.time, tail.markdown());
    println!("{text}");
    let json = serde_json::to_string_pretty(&tail).expect("results are JSON");
    put(places, places.made.join("tail.md"), &text)?;
    put(places, places.made.join("tail.json"), &json)?;
    eprintln!("All of it took {:.0} s without the builds.", began.elapsed().as_secs_f64());
    Ok(())
}

/// Who can be had and answers rightly.
fn examine(options: &Options, places: &Places, results: &mut Results) -> Vec<&'static Peer> {
    let mut there = Vec::new();
    for peer in PEERS.iter().filter(|peer| options.wants(peer)) {
        eprintln!("building and trying {}", peer.name);
        match prepare::peer(peer, places).and_then(|()| try_out(peer, places)) {
            Ok(()) => there.push(peer),
            Err(words) => {
                eprintln!("  not there: {words}");
                results.absent.push((peer.name.to_owned(), words));
            }
        }
    }
    there
}

fn try_out(peer: &'static Peer, places: &Places) -> Result<(), String> {
    let server = Running::start(peer, places, true).map_err(|words| {
        let log = fs::read_to_string(places.log(peer)).unwrap_or_default();
        format!("{words} {}", log.lines().last().unwrap_or_default())
    })?;
    if peer.name.contains("epoll") && measure::has_thread_for_each(&server) {
        return Err("asked for epoll, it still holds a thread for each connection: this transport is not in it".into());
    }
    // A warm-up, which also shows a peer that fails under load.
    for page in peer.pages {
        let outcome = measure::slot(&server, *page, 8, 0, Duration::from_millis(100))?;
        if outcome.rate == 0.0 {
            return Err(format!("{page:?}: no right answer under load: {:?}", outcome.wrongs));
        }
    }
    Ok(())
}

fn start(there: &[&'static Peer], places: &Places, results: &mut Results) -> Vec<Running> {
    let mut servers = Vec::new();
    for peer in there {
        match Running::start(peer, places, false) {
            Ok(server) => servers.push(server),
            Err(words) => results.absent.push((peer.name.to_owned(), words)),
        }
    }
    servers
}

/// Requests a second, in turns: a round is each page of each peer.
fn load_them(options: &Options, servers: &[Running], results: &mut Results) -> Result<(), String> {
    for (connections, rounds) in options.rounds() {
        for round in 0..rounds {
            eprintln!("{connections} connections, round {} of {rounds}", round + 1);
            for page in PAGES {
                // Each round begins with another peer, so that no peer always follows the same one.
                for turn in 0..servers.len() {
                    let server = &servers[(turn + round) % servers.len()];
                    if server.peer.pages.contains(&page) {
                        results.slots.push(measure::slot(server, page, connections, round, options.time)?);
                    }
                }
            }
        }
    }
    Ok(())
}

/// A page at a low rate, with and without something beside it.
fn interrupt_them(options: &Options, servers: &mut Vec<Running>, results: &mut Results) {
    servers.retain(|server| server.peer.is_whole());
    let time = if options.is_quick { Duration::from_millis(500) } else { Duration::from_millis(1_500) };
    let rounds = options.few();
    for round in 0..rounds {
        eprintln!("a page every 2 ms, round {} of {rounds}", round + 1);
        let mut lost = Vec::new();
        for server in servers.iter() {
            for beside in BESIDE {
                match measure::latency(server, beside, round, time) {
                    Ok(latency) => results.latencies.push(latency),
                    Err(words) => {
                        results.absent.push((format!("{}, {beside:?} beside a page", server.peer.name), words));
                        lost.push(server.peer.name);
                        break;
                    }
                }
            }
        }
        // One that cannot be calmed would be busy beside all others.
        servers.retain(|server| !lost.contains(&server.peer.name));
    }
}

fn save(options: &Options, places: &Places, results: &Results, text: &str) -> Result<(), String> {
    let json = serde_json::to_string_pretty(results).expect("results are JSON");
    put(places, places.made.join("peers.md"), text)?;
    put(places, places.made.join("peers.json"), &json)?;
    // A plot of a few seconds, or of some of them, is none for the README.
    let is_whole = !options.is_quick && options.only.is_empty();
    let folder = if is_whole { places.root.clone() } else { places.made.clone() };
    put(places, folder.join("peers.svg"), &plot::svg(results))
}

fn put(places: &Places, to: PathBuf, text: &str) -> Result<(), String> {
    eprintln!("written: {}", to.strip_prefix(&places.root).unwrap_or(&to).display());
    fs::write(&to, text).map_err(|error| format!("{}: {error}", to.display()))
}

/// Returns a description of the machine.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let processor =
        info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let output = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    let (kernel, load) = (read("/proc/sys/kernel/osrelease"), read("/proc/loadavg"));
    format!(
        "{cores} cores ({}), Linux {}, {}, {}; load before it began: {}. Load generator and servers share the machine.",
        processor.unwrap_or("unknown"),
        kernel.trim(),
        output("rustc"),
        output("python3"),
        load.split_whitespace().next().unwrap_or("unknown")
    )
}
