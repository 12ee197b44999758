//! A site under attack from a few addresses: slow request heads, slow bodies, slow readers, idle streams, a login flood and
//! quiet pauses, while one honest client asks for pages. Every page must be answered.
//!
//! `ASIDE_STORM_SECONDS` sets how long each attack lasts (3 by default).

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use aside::{App, Live, Request, Result, password};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::process::{Child, PATIENCE, until};
use crate::site::address;

/// The number of connections of each attack.
const SLOW_HEADS: usize = 150;
const SLOW_BODIES: usize = 150;
const SLOW_READERS: usize = 100;
const IDLE_STREAMS: usize = 400;
const LOGINS: usize = 80;

/// The attackers share these addresses; the honest client has its own.
const ATTACKERS: [&str; 3] = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
const HONEST: &str = "127.0.0.9";

/// The time limit for each page of the honest client. Generous: other tests may keep the machine busy.
const LIMIT: Duration = Duration::from_secs(20);

/// The pause between two pages of the honest client, and between two bytes of a slow client.
const PAGE_INTERVAL: Duration = Duration::from_millis(50);
const DRIP_INTERVAL: Duration = Duration::from_secs(1);

/// Longer than the lifetime of an idle worker.
const QUIET: Duration = Duration::from_secs(12);

/// The memory limit of the site, in MiB. It takes about 60; 150 clients that declared 30 MB each and disconnected made it
/// take 1,500.
const MEMORY: u64 = 400;

/// The size of a large response: more than the socket buffers of both sides hold.
const LARGE: usize = 1 << 20;

pub(crate) fn every_page_is_answered_over_epoll() {
    survive("epoll");
}

pub(crate) fn every_page_is_answered_over_tiny_http() {
    survive("tiny_http");
}

/// The process under attack.
pub(crate) fn serve() -> Result<()> {
    let stored = password::hash("correct horse battery staple")?;
    App::new()
        .state(Live::new(0_u32))
        .template("count.html", "{{ value }}")
        .get("/", |_: &mut Request| "a page")
        .get("/large", |_: &mut Request| "a".repeat(LARGE))
        .get("/live", |req: &mut Request| req.live(&req.state::<Live<u32>>(), "count.html"))
        .post("/upload", upload)
        .post("/login", move |req: &mut Request| log_in(req, &stored))
        .run()
}

fn upload(req: &mut Request) -> Result<String> {
    Ok(req.multipart()?.texts("title").concat().len().to_string())
}

fn log_in(req: &mut Request, stored: &str) -> Result<String> {
    Ok(password::verify(&req.text()?, Some(stored))?.to_string())
}

fn survive(server: &'static str) {
    let environment = [("ASIDE_SERVER", server), ("ASIDE_ADDR", "127.0.0.1:0"), ("ASIDE_LOOPBACK_CLIENTS", "true")];
    let mut child = Child::start("fair_shares", &environment, None);
    let base = address(&child).unwrap_or_else(|log| panic!("the site does not start: {log}"));
    let site: SocketAddr = base.trim_start_matches("http://").parse().expect("an address");
    let lasts = Duration::from_secs(crate::storm::number("ASIDE_STORM_SECONDS").unwrap_or(3));
    let storm = Storm { server, site, lasts };
    storm.attack("slow heads", SLOW_HEADS, Slow::head);
    storm.attack("slow bodies", SLOW_BODIES, Slow::body);
    storm.attack("slow readers", SLOW_READERS, Slow::reader);
    storm.attack("idle streams", IDLE_STREAMS, Slow::stream);
    storm.flood_with_logins();
    storm.pause_beside_slow_bodies();
    storm.all_at_once();
    let peak = peak_memory(child.pid());
    println!("{server}: at most {peak} MiB resident");
    assert!(peak < MEMORY, "{server}: {peak} MiB resident");
    child.signal(Signal::TERM);
    assert!(child.wait().success(), "the site shuts down cleanly");
}

/// Returns the largest resident size so far, in MiB.
#[cfg(target_os = "linux")]
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
}

#[cfg(not(target_os = "linux"))]
fn peak_memory(_pid: u32) -> u64 {
    0
}

struct Storm {
    server: &'static str,
    site: SocketAddr,
    lasts: Duration,
}

impl Storm {
    /// Holds slow connections of this kind, and requests pages beside them.
    fn attack(&self, what: &str, count: usize, open: Open) {
        let attack = Attack::start(self.site, count, open);
        self.expect_pages(what);
        attack.stop();
    }

    fn flood_with_logins(&self) {
        let flood = Flood::start(self.site);
        self.expect_pages("login flood");
        flood.stop();
    }

    /// Two slow uploads take the first workers, and idle ones may leave in the pause.
    fn pause_beside_slow_bodies(&self) {
        let attack = Attack::start(self.site, 2, Slow::body);
        attack.wait(QUIET);
        self.expect_pages("quiet pause");
        attack.stop();
    }

    fn all_at_once(&self) {
        let kinds: [(usize, Open); 4] = [
            (SLOW_HEADS, Slow::head),
            (SLOW_BODIES, Slow::body),
            (SLOW_READERS, Slow::reader),
            (IDLE_STREAMS, Slow::stream),
        ];
        let attacks = kinds.map(|(count, open)| Attack::start(self.site, count / 2, open));
        let flood = Flood::start(self.site);
        self.expect_pages("all at once");
        flood.stop();
        attacks.into_iter().for_each(Attack::stop);
    }

    /// The honest client: requests pages repeatedly, each on its own connection, with an upload in between.
    fn expect_pages(&self, beside: &str) {
        let began = Instant::now();
        let mut times = Vec::new();
        while began.elapsed() < self.lasts || times.len() < 20 {
            let (status, took) = get(self.site, HONEST, "/").unwrap_or_else(|error| {
                panic!("{}, {beside}: no page after {} answered: {error}", self.server, times.len())
            });
            assert_eq!(status, 200, "{}, {beside}", self.server);
            times.push(took);
            if times.len() % 10 == 1 {
                let uploaded =
                    upload_once(self.site, HONEST).unwrap_or_else(|error| panic!("{}, {beside}: {error}", self.server));
                assert_eq!(uploaded, 200, "{}, {beside}: an honest upload", self.server);
            }
            thread::park_timeout(PAGE_INTERVAL);
        }
        times.sort_unstable();
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        println!(
            "{}, {beside}: {} pages, median {:.1} ms, p99 {:.1} ms, slowest {:.1} ms",
            self.server,
            times.len(),
            at(0.5),
            at(0.99),
            at(1.0)
        );
    }
}

/// Requests a page, and returns its status and duration.
fn get(site: SocketAddr, from: &str, path: &str) -> std::io::Result<(u16, Duration)> {
    let began = Instant::now();
    let mut stream = connect(site, from, None)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {site}\r\nConnection: close\r\n\r\n")?;
    Ok((read_status(stream)?, began.elapsed()))
}

/// Sends a small upload at full speed, and returns its status.
fn upload_once(site: SocketAddr, from: &str) -> std::io::Result<u16> {
    let mut stream = connect(site, from, None)?;
    let body = "--x\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\nA photo\r\n--x--\r\n";
    write!(
        stream,
        "POST /upload HTTP/1.1\r\nHost: {site}\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    read_status(stream)
}

/// Reads a response to its end, and returns its status.
fn read_status(mut stream: TcpStream) -> std::io::Result<u16> {
    let mut response = Vec::new();
    stream.read_to_end(&mut response)?;
    status(&response)
}

fn status(response: &[u8]) -> std::io::Result<u16> {
    let head = response.get(..12).and_then(|head| std::str::from_utf8(head).ok());
    let status = head.and_then(|head| head.strip_prefix("HTTP/1.1 ")?.parse().ok());
    status.ok_or_else(|| std::io::Error::new(ErrorKind::UnexpectedEof, "the response has no status line"))
}

/// Connects from this loopback address, which counts as one client.
fn connect(site: SocketAddr, from: &str, receive_buffer: Option<usize>) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from.parse().expect("an address"), 0).into())?;
    if let Some(bytes) = receive_buffer {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.connect_timeout(&site.into(), LIMIT)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// Opens a slow connection from this address, unless the server refuses it.
type Open = fn(SocketAddr, &str) -> Option<Slow>;

/// A connection that occupies the server as long as possible, with the bytes that it sends each time.
struct Slow {
    stream: TcpStream,
    drip: Vec<u8>,
}

impl Slow {
    fn open(site: SocketAddr, from: &str, buffer: Option<usize>, head: &str, drip: Vec<u8>) -> Option<Slow> {
        let mut stream = connect(site, from, buffer).ok()?;
        stream.write_all(head.as_bytes()).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(Slow { stream, drip })
    }

    fn head(site: SocketAddr, from: &str) -> Option<Slow> {
        Slow::open(site, from, None, &format!("GET / HTTP/1.1\r\nHost: {site}\r\nX-Slow: "), b"a".into())
    }

    fn body(site: SocketAddr, from: &str) -> Option<Slow> {
        let head = format!(
            "POST /upload HTTP/1.1\r\nHost: {site}\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: \
             30000000\r\n\r\n--x\r\nContent-Disposition: form-data; name=\"title\"\r\n\r\n"
        );
        Slow::open(site, from, None, &head, vec![b'a'; 1_500])
    }

    fn reader(site: SocketAddr, from: &str) -> Option<Slow> {
        Slow::open(site, from, Some(4_096), &format!("GET /large HTTP/1.1\r\nHost: {site}\r\n\r\n"), Vec::new())
    }

    fn stream(site: SocketAddr, from: &str) -> Option<Slow> {
        Slow::open(site, from, None, &format!("GET /live HTTP/1.1\r\nHost: {site}\r\n\r\n"), Vec::new())
    }

    /// Sends a little more. Returns false if the server has closed the connection.
    fn goes_on(&mut self) -> bool {
        if self.drip.is_empty() {
            return !matches!(self.stream.peek(&mut [0]), Ok(0));
        }
        let sent = self.stream.write(&self.drip);
        sent.is_ok() || sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// Keeps a number of slow connections open, and replaces each that the server closes.
struct Attack {
    stop: Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Attack {
    /// Starts the attack, and returns when all of its connections have been open once.
    fn start(site: SocketAddr, count: usize, open: Open) -> Attack {
        let ((stop, stopped), (ready, is_ready)) = (channel(), channel());
        let thread = thread::spawn(move || drip(site, count, open, &stopped, &ready));
        is_ready.recv_timeout(PATIENCE).expect("the attack begins");
        Attack { stop, thread }
    }

    /// Continues the attack for a while.
    fn wait(&self, duration: Duration) {
        let until = Instant::now() + duration;
        while Instant::now() < until {
            thread::park_timeout(until.saturating_duration_since(Instant::now()));
        }
    }

    fn stop(self) {
        drop(self.stop);
        self.thread.join().expect("the attack ends");
    }
}

fn drip(site: SocketAddr, count: usize, open: Open, stopped: &Receiver<()>, ready: &Sender<()>) {
    let mut addresses = ATTACKERS.iter().cycle();
    let mut slow: Vec<Slow> = Vec::new();
    loop {
        let missing = count - slow.len();
        slow.extend(addresses.by_ref().take(missing).filter_map(|from| open(site, from)));
        let _ = ready.send(());
        if stopped.recv_timeout(DRIP_INTERVAL) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        slow.retain_mut(Slow::goes_on);
    }
}

/// Clients that log in as fast as the server responds.
struct Flood {
    is_over: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
    statuses: Arc<Mutex<BTreeMap<u16, usize>>>,
}

impl Flood {
    /// Starts the clients, and returns after the first response.
    fn start(site: SocketAddr) -> Flood {
        let (is_over, statuses) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let flood = |n: usize| {
            let (is_over, statuses) = (is_over.clone(), Arc::clone(&statuses));
            thread::spawn(move || log_in_again_and_again(site, ATTACKERS[n % ATTACKERS.len()], &is_over, &statuses))
        };
        let flood = Flood { threads: (0..LOGINS).map(flood).collect(), is_over, statuses };
        until("a login is answered", || (!flood.statuses.lock().expect("statuses").is_empty()).then_some(()));
        flood
    }

    fn stop(self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client ends"));
        let statuses = self.statuses.lock().expect("statuses");
        println!("logins by status: {statuses:?}");
        assert!(statuses.keys().all(|status| [200, 503].contains(status)), "{statuses:?}");
    }
}

fn log_in_again_and_again(site: SocketAddr, from: &str, is_over: &AtomicBool, statuses: &Mutex<BTreeMap<u16, usize>>) {
    while !is_over.load(Ordering::Relaxed) {
        if let Ok(status) = log_in_once(site, from) {
            *statuses.lock().expect("statuses").entry(status).or_default() += 1;
        }
    }
}

fn log_in_once(site: SocketAddr, from: &str) -> std::io::Result<u16> {
    let mut stream = connect(site, from, None)?;
    write!(stream, "POST /login HTTP/1.1\r\nHost: {site}\r\nContent-Length: 7\r\nConnection: close\r\n\r\nhunter2")?;
    read_status(stream)
}
