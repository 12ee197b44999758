//! Memory over the life of a server. Run `cargo bench --bench lifetime`.
//!
//! The requests of 24 hours in a few minutes: ten million over real sockets to a server of its own process (epoll, in
//! production, access log to `/dev/null`), of which a million start a background task and a million enqueue a job in SQLite.
//! Of the others, each has a query or a path that no other had, or renders a template for a session, or changes it. At each
//! tenth, the program waits until all tasks and jobs have run, and prints resident memory, threads and descriptors of the
//! server. It fails if the resident memory of the last tenth is more than a tenth above that of the third.
//!
//! `cargo bench --bench lifetime -- 500000` sends fewer requests, as a try. Below four million nothing is compared: SQLite's
//! page cache of 16 MB fills during the first 100,000 jobs, which are a million requests. Memory that grows with the time alone, and not with
//! requests, does not show here.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aside::{App, Job, Jobs, Request, Response, Result, TaskContext, context};
use serde::{Deserialize, Serialize};

/// Tells a child process of this program that it is the server, and where its jobs are.
const SERVE: &str = "ASIDE_BENCH_SERVE";

/// The number of requests, if no argument says otherwise.
const REQUESTS: u64 = 10_000_000;

/// With fewer requests the third tenth is not compared with the last: the cache of SQLite still fills.
const COMPARED_FROM: u64 = 4_000_000;

/// The client: threads, and connections of each.
const THREADS: usize = 2;
const CONNECTIONS: usize = 16;

/// The number of requests after which a connection is replaced.
const LIFE: u64 = 1_000;

/// The client pauses while more tasks and jobs than this wait.
const BACKLOG: u64 = 2_000;

/// The resident memory of the last tenth, at most, in relation to that of the third.
const GROWTH: f64 = 1.10;

const PAGE: &str = "<h1>{{ title }}</h1><p>Visit {{ visits }}</p>{% for row in rows %}<p>{{ row }}</p>{% endfor %}";

static TASKS: AtomicU64 = AtomicU64::new(0);
static JOBS: AtomicU64 = AtomicU64::new(0);

#[derive(Serialize, Deserialize)]
struct Count {
    number: u64,
}

impl Job for Count {
    const NAME: &'static str = "count";

    fn run(self, _task: &TaskContext) -> Result<()> {
        std::hint::black_box(self.number);
        JOBS.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn main() -> ExitCode {
    if let Ok(store) = std::env::var(SERVE) {
        serve(&store).expect("the server runs until it is stopped");
        return ExitCode::SUCCESS;
    }
    let argument = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let requests = argument.map_or(REQUESTS, |number| number.parse().expect("a number of requests"));
    // On the disk of the builds: the usual temporary folder may be in memory, where a sync costs nothing.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder for the jobs");
    let server = Server::start(&folder.path().join("jobs.db"));
    let samples = live(&server, requests);
    let growth = samples[9].resident as f64 / samples[2].resident as f64;
    let line: Vec<String> = samples.iter().map(|sample| format!("{:.1}", sample.megabytes())).collect();
    println!("resident MB at each tenth: {}", line.join(", "));
    if requests < COMPARED_FROM {
        println!("the last tenth has {growth:.2} times the resident memory of the third; too few requests to compare");
        return ExitCode::SUCCESS;
    }
    println!("the last tenth has {growth:.2} times the resident memory of the third; at most {GROWTH:.2}");
    if growth > GROWTH { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn serve(store: &str) -> Result<()> {
    App::new()
        .jobs(Jobs::open(store)?.register::<Count>().concurrency(16))
        .template("page.html", PAGE)
        .get("/", |_: &mut Request| "Hello, world!")
        .get("/page", page)
        .get("/visit", visit)
        .post("/tasks", |_: &mut Request| Response::text("started").background(count_task))
        .post("/jobs", enqueue)
        .get("/done", |_: &mut Request| format!("{}", TASKS.load(Ordering::Relaxed) + JOBS.load(Ordering::Relaxed)))
        .run()
}

fn count_task() {
    TASKS.fetch_add(1, Ordering::Relaxed);
}

fn page(req: &mut Request) -> Result<Response> {
    let visits: u64 = req.session().get("visits").unwrap_or(0);
    let rows: Vec<String> = (0..20).map(|number| format!("A print of the harbor, no. {number}")).collect();
    req.render("page.html", context! { title => "Prints", visits, rows })
}

fn visit(req: &mut Request) -> String {
    let visits: u64 = req.session().get("visits").unwrap_or(0);
    req.session().insert("visits", visits + 1);
    format!("This is visit {visits}.")
}

fn enqueue(req: &mut Request) -> Result<String> {
    let number = req.query_string().trim_start_matches("number=").parse().unwrap_or(0);
    req.enqueue(Count { number })?;
    Ok("enqueued".to_owned())
}

/// The server's process. Dropped, it ends.
struct Server {
    addr: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(store: &Path) -> Server {
        let addr = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port");
        let child = Command::new(std::env::current_exe().expect("a path to this program"))
            .env(SERVE, format!("sqlite:{}", store.display()))
            .env("ASIDE_ADDR", addr.to_string())
            .env("ASIDE_ENV", "production")
            .env("ASIDE_SECRET", "a secret of more than thirty-two bytes")
            .env("ASIDE_SERVER", "epoll")
            .env_remove("RUST_LOG")
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(addr).is_err() {
            assert!(Instant::now() < until, "the server does not listen within 10 s");
            thread::sleep(Duration::from_millis(10));
        }
        Server { addr, child }
    }

    /// Returns the number of tasks and jobs that have run.
    fn done(&self) -> u64 {
        let mut connection = Connection::open(self.addr);
        connection.write(format_args!("GET /done HTTP/1.1\r\nHost: {}\r\n\r\n", self.addr));
        String::from_utf8_lossy(connection.read(200)).trim().parse().expect("a number")
    }

    /// Waits until at most a given number of the `started` tasks and jobs have not run.
    fn wait(&self, started: u64, left: u64) {
        while self.done() + left < started {
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn sample(&self) -> Sample {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the server runs");
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field of Linux");
            line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
        };
        let descriptors = fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("the server runs").count();
        Sample { resident: number("VmRSS:"), peak: number("VmHWM:"), threads: number("Threads:"), descriptors }
    }
}

struct Sample {
    /// In KiB.
    resident: u64,
    peak: u64,
    threads: u64,
    descriptors: usize,
}

impl Sample {
    fn megabytes(&self) -> f64 {
        self.resident as f64 * 1024.0 / 1e6
    }
}

/// Sends the requests, and returns a sample for each tenth.
fn live(server: &Server, requests: u64) -> Vec<Sample> {
    let mut clients: Vec<Client> = (0..THREADS).map(|which| Client::new(server, which as u64)).collect();
    let each = requests / 10 / THREADS as u64;
    let mut samples = Vec::new();
    for tenth in 1..=10 {
        let began = Instant::now();
        thread::scope(|scope| {
            clients.iter_mut().for_each(|client| drop(scope.spawn(|| client.send(each * tenth))));
        });
        server.wait(clients.iter().map(|client| client.started).sum(), 0);
        let sample = server.sample();
        let sent: u64 = clients.iter().map(|client| client.sent).sum();
        println!(
            "{sent} requests: resident {:.1} MB, peak {:.1} MB, {} threads, {} descriptors ({:.0} requests/s)",
            sample.megabytes(),
            sample.peak as f64 * 1024.0 / 1e6,
            sample.threads,
            sample.descriptors,
            (each * THREADS as u64) as f64 / began.elapsed().as_secs_f64()
        );
        samples.push(sample);
    }
    samples
}

/// One thread of the client.
struct Client<'s> {
    server: &'s Server,
    connections: Vec<Connection>,
    /// The session of this client.
    cookie: String,
    /// Requests that were sent, and the tasks and jobs that they started.
    sent: u64,
    started: u64,
    /// Distinguishes the requests of the threads.
    which: u64,
}

impl<'s> Client<'s> {
    fn new(server: &'s Server, which: u64) -> Client<'s> {
        let mut first = Connection::open(server.addr);
        first.write(format_args!("GET /visit HTTP/1.1\r\nHost: {}\r\n\r\n", server.addr));
        first.read(200);
        let cookie = first.cookie.take().expect("the page starts a session");
        let connections = (0..CONNECTIONS).map(|_| Connection::open(server.addr)).collect();
        Client { server, connections, cookie, sent: 0, started: 0, which }
    }

    /// Sends requests until there are `many` of this client: one over each connection, then reads all responses.
    fn send(&mut self, many: u64) {
        let limit = BACKLOG / THREADS as u64;
        let mut waited_for = self.started;
        while self.sent < many {
            let first = self.sent;
            for index in 0..self.connections.len() {
                self.request(index, first + index as u64);
            }
            for index in 0..self.connections.len() {
                let status = expected_status(first + index as u64);
                self.connections[index].read(status);
                self.replace_if_old(index);
            }
            self.sent += self.connections.len() as u64;
            if self.started - waited_for > limit {
                waited_for = self.started;
                // The other thread has started about as many.
                self.server.wait(self.started * THREADS as u64, BACKLOG * 2);
            }
        }
    }

    /// The requests of one connection alternate, since the number of connections is not a multiple of ten.
    fn request(&mut self, index: usize, number: u64) {
        let (addr, cookie, unique) = (self.server.addr, &self.cookie, number * THREADS as u64 + self.which);
        let connection = &mut self.connections[index];
        match number % 10 {
            9 => connection.write(format_args!(
                "POST /jobs?number={unique} HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\n\r\n"
            )),
            8 => connection.write(format_args!("POST /tasks HTTP/1.1\r\nHost: {addr}\r\nContent-Length: 0\r\n\r\n")),
            7 => connection.write(format_args!("GET /visit HTTP/1.1\r\nHost: {addr}\r\nCookie: {cookie}\r\n\r\n")),
            6 => connection.write(format_args!("GET /missing/{unique} HTTP/1.1\r\nHost: {addr}\r\n\r\n")),
            5 => connection.write(format_args!("GET /page HTTP/1.1\r\nHost: {addr}\r\nCookie: {cookie}\r\n\r\n")),
            _ => connection.write(format_args!("GET /?number={unique} HTTP/1.1\r\nHost: {addr}\r\n\r\n")),
        }
        self.started += u64::from(number % 10 >= 8);
    }

    fn replace_if_old(&mut self, index: usize) {
        if self.connections[index].requests >= LIFE {
            self.connections[index] = Connection::open(self.server.addr);
        }
    }
}

fn expected_status(number: u64) -> u16 {
    if number % 10 == 6 { 404 } else { 200 }
}

struct Connection {
    stream: BufReader<TcpStream>,
    out: Vec<u8>,
    line: String,
    body: Vec<u8>,
    /// The first pair of the last `Set-Cookie`.
    cookie: Option<String>,
    requests: u64,
}

impl Connection {
    fn open(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect(addr).expect("the server accepts connections");
        stream.set_nodelay(true).expect("an option of every TCP socket");
        let (out, line, body) = (Vec::new(), String::new(), Vec::new());
        Connection { stream: BufReader::new(stream), out, line, body, cookie: None, requests: 0 }
    }

    fn write(&mut self, request: std::fmt::Arguments<'_>) {
        self.out.clear();
        self.out.write_fmt(request).expect("a buffer takes everything");
        self.stream.get_mut().write_all(&self.out).expect("the server keeps the connection");
        self.requests += 1;
    }

    /// Reads a response, which must have that status, and returns its body.
    fn read(&mut self, status: u16) -> &[u8] {
        let mut length = 0;
        let mut is_first = true;
        loop {
            self.line.clear();
            self.stream.read_line(&mut self.line).expect("a response");
            let line = self.line.trim_end();
            if is_first {
                assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{line:?} in place of {status}");
                is_first = false;
            }
            match line.split_once(": ") {
                _ if line.is_empty() => break,
                Some(("Content-Length", value)) => length = value.parse().expect("a length"),
                Some(("Set-Cookie", value)) => self.cookie = value.split(';').next().map(str::to_owned),
                _ => {}
            }
        }
        self.body.resize(length, 0);
        self.stream.read_exact(&mut self.body).expect("a body");
        &self.body
    }
}
