//! The cost of a live state with a hundred pages. Run `cargo bench --bench live`; the results are in `benches/README.md`.
//!
//! The pages are real sockets, which one thread of the same process reads. The benchmark measures the time from the release
//! of the lock to the bytes at each page's socket; the slowdown of a task that changes the state 10,000 times a second while
//! a hundred pages follow it, alternating with no pages; and the memory per page.

use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use aside::config::Mode;
use aside::server::Server;
use aside::{App, Config, Live, Request};
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;

const WATCHERS: usize = 100;
const ROUNDS: usize = 200;

/// The time between two measured changes, long enough for every page to be ready for the next.
const APART: Duration = Duration::from_millis(100);

/// The content of a realistic page.
const TEMPLATE: &str = "<p>{{ message }}</p><progress value=\"{{ done }}\" max=\"{{ total }}\"></progress>
<ul>{% for row in rows %}<li>{{ row.name }}: {{ row.count }}</li>{% endfor %}</ul><p>at {{ done }}.</p>";

#[derive(Clone, Serialize)]
struct State {
    done: u64,
    total: u64,
    message: String,
    rows: Vec<Row>,
}

#[derive(Clone, Serialize)]
struct Row {
    name: String,
    count: u64,
}

fn main() {
    let rows = (0..10).map(|number| Row { name: format!("Source {number}"), count: number }).collect();
    let live = Live::new(State { done: 0, total: 1_000_000, message: "Under way".into(), rows });
    let server = serve(&live);
    memory(server.addr(), &live);
    from_release_to_bytes(server.addr(), &live);
    how_much_slower(server.addr(), &live);
    server.stop();
}

fn serve(live: &Live<State>) -> Server {
    let shown = live.clone();
    let config = Config {
        mode: Mode::Production,
        address: "127.0.0.1:0".into(),
        secrets: vec!["a secret of more than thirty-two bytes".into()],
        allowed_hosts: vec!["localhost".into()],
        ..Config::default()
    };
    let app = App::with_config(config).template("state.html", TEMPLATE);
    app.get("/live", move |req: &mut Request| req.live(&shown, "state.html")).start().expect("a free port")
}

/// Pages that follow the state, with the part of the stream that they have read.
struct Watchers(Vec<(TcpStream, Vec<u8>)>);

impl Watchers {
    /// Opens `n` pages, and waits until each has the current state.
    fn open(addr: SocketAddr, count: usize, live: &Live<State>) -> Watchers {
        let mut watchers = Watchers((0..count).map(|_| (connect(addr), Vec::new())).collect());
        watchers.wait_for(live.get().done);
        watchers
    }

    /// Reads until each page has the state with this number, and returns the times at which they had it.
    fn wait_for(&mut self, done: u64) -> Vec<Instant> {
        let words = format!("at {done}.");
        let mut when = vec![None; self.0.len()];
        while when.iter().any(Option::is_none) {
            let ready = self.ready();
            let now = Instant::now();
            for index in ready {
                let (stream, text) = &mut self.0[index];
                read(stream, text);
                if contains(text, words.as_bytes()) {
                    text.clear();
                    when[index] = Some(now);
                }
            }
        }
        when.into_iter().flatten().collect()
    }

    /// Waits for bytes, and returns the pages that have some.
    fn ready(&self) -> Vec<usize> {
        let most = Duration::from_secs(10).try_into().expect("some seconds are a time");
        let mut sockets: Vec<PollFd<'_>> =
            self.0.iter().map(|(stream, _)| PollFd::new(stream, PollFlags::IN)).collect();
        assert!(poll(&mut sockets, Some(&most)).expect("sockets can be polled") > 0, "nothing comes any more");
        sockets.iter().enumerate().filter(|(_, socket)| !socket.revents().is_empty()).map(|(index, _)| index).collect()
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("the server is there");
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("a request fits into the buffer");
    stream.set_nonblocking(true).expect("an option of every socket");
    stream
}

fn read(stream: &mut TcpStream, text: &mut Vec<u8>) {
    let mut piece = [0; 16 << 10];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => panic!("the stream has ended"),
            Ok(count) => text.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Searches for the text near the end of the stream.
fn contains(text: &[u8], words: &[u8]) -> bool {
    let end = &text[text.len().saturating_sub(64)..];
    end.windows(words.len()).any(|window| window == words)
}

fn from_release_to_bytes(addr: SocketAddr, live: &Live<State>) {
    let mut watchers = Watchers::open(addr, WATCHERS, live);
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        thread::sleep(APART);
        let mut state = live.lock();
        state.done += 1;
        let (done, released) = (state.done, Instant::now());
        drop(state);
        took.extend(watchers.wait_for(done).into_iter().map(|when| when.duration_since(released)));
    }
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    let (half, most, all) = (at(0.5), at(0.99), at(1.0));
    println!("from release to bytes, {WATCHERS} watchers: median {half:.2} ms, p99 {most:.2} ms, worst {all:.2} ms");
}

/// Runs a task that changes the state 10,000 times a second and works in between, alternately with and without pages.
fn how_much_slower(addr: SocketAddr, live: &Live<State>) {
    const TURNS: usize = 15;
    let steps = calibrate(live);
    let mut ratios = Vec::new();
    for _ in 0..TURNS {
        let without = updates_a_second(live, steps);
        let watchers = Watchers::open(addr, WATCHERS, live);
        let (stop, stopped) = mpsc::channel::<()>();
        let reader = thread::spawn(move || swallow(watchers, &stopped));
        let with = updates_a_second(live, steps);
        drop(stop);
        let events = reader.join().expect("the reader ends") / WATCHERS;
        println!("  {without:.0} updates a second without watchers, {with:.0} with, who had {events} events each");
        ratios.push(with / without);
        until_alone(live);
    }
    ratios.sort_by(f64::total_cmp);
    let (low, middle, high) = (ratios[TURNS / 4], ratios[TURNS / 2], ratios[TURNS * 3 / 4]);
    println!("updates with {WATCHERS} watchers against without: {middle:.2} (middle half {low:.2} to {high:.2})");
}

/// Returns the number of work steps that take 100 µs together with a change.
fn calibrate(live: &Live<State>) -> u32 {
    let rates: Vec<f64> = [20_000, 20_000].map(|steps| updates_a_second(live, steps)).into();
    (20_000.0 * rates[1] / 10_000.0) as u32
}

/// Returns the number of rounds of work and change per second, on the thread of a task.
fn updates_a_second(live: &Live<State>, steps: u32) -> f64 {
    let live = live.clone();
    let task = aside::background(move || {
        let (began, mut count) = (Instant::now(), 0.0);
        while began.elapsed() < Duration::from_secs(1) {
            (0..steps).for_each(|step| {
                black_box(step);
            });
            live.update(|state| state.done += 1);
            count += 1.0;
        }
        count / began.elapsed().as_secs_f64()
    });
    task.join().expect("a task's panic is caught").expect("it has no error")
}

fn until_alone(live: &Live<State>) {
    while live.watchers() > 0 {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reads the stream to its end, and counts the events.
fn swallow(mut watchers: Watchers, stopped: &mpsc::Receiver<()>) -> usize {
    let mut events = 0;
    while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
        for index in watchers.ready() {
            let (stream, text) = &mut watchers.0[index];
            read(stream, text);
            events += text.windows(6).filter(|window| window == b"data: ").count();
            text.clear();
        }
    }
    events
}

/// Measures the additional memory of the process with a thousand pages, including the clients' ends of the sockets.
fn memory(addr: SocketAddr, live: &Live<State>) {
    const MANY: usize = 1_000;
    drop(Watchers::open(addr, 10, live));
    until_alone(live);
    let before = resident();
    let watchers = Watchers::open(addr, MANY, live);
    let kib = (resident().saturating_sub(before)) as f64 / MANY as f64;
    println!("memory for each of {MANY} watchers: {kib:.0} KiB resident, its reader's end with it");
    drop(watchers);
    until_alone(live);
}

/// Returns the resident memory of the process in KiB (Linux).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
