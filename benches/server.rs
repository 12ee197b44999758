//! The cost of a page over a connection. Run `cargo bench --bench server`; the figures are in `benches/README.md`.
//!
//! The first benchmark compares, in alternating rounds of one run, tiny_http alone with a prepared response, a page that
//! returns a constant text, and pages that read and change a session. The second measures how long a page takes while one
//! photo per core is resized in the background, at several nice values. The security middleware is always on, and the access
//! log is formatted and discarded.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aside::image::{Fit, Format, Image};
use aside::server::Server;
use aside::{App, Config, Request, Task, context};
use log::LevelFilter;

const CONNECTIONS: usize = 32;
const SHORT_ROUND: Duration = Duration::from_millis(400);
const SHORT_ROUNDS: usize = 41;
const ROUNDS: usize = 9;

fn main() {
    install_discarding_logger();
    hello_world();
    page_under_load();
}

fn app(nice: i32) -> App {
    App::with_config(Config { address: "127.0.0.1:0".into(), nice, ..Config::default() })
}

/// Installs a logger that formats lines as `App::run` does, with the time once a second for each thread, and discards them.
fn install_discarding_logger() {
    thread_local! {
        static TIME: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let format = |out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        TIME.with_borrow_mut(|(of, time)| {
            let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            if *of != second {
                *time = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
                *of = second;
            }
            writeln!(out, "[{time}] {} {}: {}", record.level(), record.target(), record.args())
        })
    };
    let discarded = env_logger::Target::Pipe(Box::new(std::io::sink()));
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).format(format).target(discarded).init();
}

/// Measures the cost of the security middleware, the default headers, the session and the log against a handler on the same
/// transport without them, and that one against tiny_http alone. It takes the median of the ratios of short alternating
/// rounds, since the machine is noisy.
fn hello_world() {
    let secrets = vec!["a secret of more than thirty-two bytes".to_owned()];
    let config = Config { address: "127.0.0.1:0".into(), secrets, ..Config::default() };
    let site =
        |answer: fn(&mut Request) -> String| App::with_config(config.clone()).get("/begin", change).get("/", answer);
    let sites = [without_headers(site(hello)), site(hello), site(read), site(change)]
        .map(|app| app.start().expect("a free port"));
    let [bare, with_all, reading, changing] = [0, 1, 2, 3].map(|which: usize| sites[which].addr());
    let contenders = [
        ("tiny_http alone", bare_tiny_http(2), LevelFilter::Off),
        ("a bare handler", bare, LevelFilter::Off),
        ("with middleware, headers and log", with_all, LevelFilter::Info),
        ("and reading a session", reading, LevelFilter::Info),
        ("and changing a session", changing, LevelFilter::Info),
    ];
    let round = |_| {
        contenders.map(|(_, addr, level)| {
            log::set_max_level(level);
            requests_a_second(addr, SHORT_ROUND)
        })
    };
    let rates: Vec<[f64; 5]> = (0..SHORT_ROUNDS).map(round).collect();
    for (which, (name, ..)) in contenders.iter().enumerate() {
        let mut of_these: Vec<f64> = rates.iter().map(|round| round[which]).collect();
        let mut ratios: Vec<f64> = rates.iter().map(|round| round[which] / round[1]).collect();
        let (rate, ratio) = (median(&mut of_these), median(&mut ratios));
        let (low, high) = (ratios[SHORT_ROUNDS / 4], ratios[SHORT_ROUNDS * 3 / 4]);
        println!("{name}: {rate:.0}/s, {ratio:.2} of a bare handler (middle half {low:.2} to {high:.2})");
    }
    sites.into_iter().for_each(Server::stop);
}

fn without_headers(app: App) -> App {
    const DEFAULTS: [&str; 7] = [
        "Content-Security-Policy",
        "X-Content-Type-Options",
        "X-Frame-Options",
        "Referrer-Policy",
        "Cross-Origin-Opener-Policy",
        "Cross-Origin-Resource-Policy",
        "Permissions-Policy",
    ];
    DEFAULTS.into_iter().fold(app, |app, name| app.default_header(name, ""))
}

fn hello(_req: &mut Request) -> String {
    "Hello, world!".to_owned()
}

fn read(req: &mut Request) -> String {
    format!("Hello {}!", req.session().get::<u64>("visits").unwrap_or(0))
}

fn change(req: &mut Request) -> String {
    let visits = req.session().get::<u64>("visits").unwrap_or(0);
    req.session().insert("visits", visits + 1);
    format!("Hello {visits}!")
}

/// Starts tiny_http alone, with a prepared response.
fn bare_tiny_http(workers: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket2::SockRef::from(&listener).set_tcp_nodelay(true).expect("an option of every TCP socket");
    let addr = listener.local_addr().expect("it is bound");
    let server = Arc::new(tiny_http::Server::from_listener(listener, None).expect("a listener is all it needs"));
    for _ in 0..workers {
        let server = server.clone();
        thread::spawn(move || {
            let reply = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\n\r\nHello, world!";
            while let Ok(request) = server.recv() {
                let mut writer = request.into_writer();
                let _ = writer.write_all(reply).and_then(|()| writer.flush());
            }
        });
    }
    addr
}

/// Runs requests on one thread, with one request in flight on each connection.
fn requests_a_second(addr: SocketAddr, time: Duration) -> f64 {
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| Connection::open(addr)).collect();
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < time {
        connections.iter_mut().for_each(Connection::ask);
        connections.iter_mut().for_each(|connection| drop(connection.read()));
        count += CONNECTIONS;
    }
    count as f64 / began.elapsed().as_secs_f64()
}

struct Connection {
    stream: BufReader<TcpStream>,
    /// The request, with the cookie of the first response.
    request: String,
}

impl Connection {
    /// Opens a connection, and sends a first request. tiny_http alone sometimes leaves one of many new connections without a
    /// thread until another connection arrives, so this opens another one then.
    fn open(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect(addr).expect("the server listens");
        stream.set_nodelay(true).expect("an option of every TCP socket");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("an option of every TCP socket");
        let begin = "GET /begin HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
        let mut connection = Connection { stream: BufReader::new(stream), request: begin };
        connection.ask();
        while connection.stream.fill_buf().is_err() {
            drop(TcpStream::connect(addr));
        }
        connection.stream.get_ref().set_read_timeout(None).expect("an option of every TCP socket");
        let head = connection.read();
        let cookie = head.lines().find_map(|line| line.strip_prefix("Set-Cookie: ")?.split(';').next());
        let cookie = cookie.map_or(String::new(), |cookie| format!("Cookie: {cookie}\r\n"));
        connection.request = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{cookie}\r\n");
        connection
    }

    fn ask(&mut self) {
        self.stream.get_mut().write_all(self.request.as_bytes()).expect("the connection is kept");
    }

    /// Reads a response that arrives in one piece, with its length in the last line of its head, as these do. The time of the
    /// client is measured too, so it does little.
    fn read(&mut self) -> String {
        let bytes = self.stream.fill_buf().expect("a response");
        let end = bytes.windows(4).rposition(|window| window == b"\r\n\r\n").expect("a head");
        let line = bytes[..end].rsplit(|byte| *byte == b'\n').next().expect("a line");
        let length = line.strip_prefix(b"Content-Length: ").expect("a length in the last line");
        let length: usize = std::str::from_utf8(length).expect("digits").parse().expect("a number");
        assert_eq!(bytes.len(), end + 4 + length, "one response in one piece");
        let head = if self.request.starts_with("GET /begin") {
            String::from_utf8_lossy(&bytes[..end]).into()
        } else {
            String::new()
        };
        let whole = bytes.len();
        self.stream.consume(whole);
        head
    }
}

/// Measures a page with a template, requested every 2 ms by a client at normal priority, alternately on an idle machine and
/// with one resize per core.
fn page_under_load() {
    let photo: Arc<[u8]> = photo().into();
    let mut idle = Vec::new();
    let mut busy: Vec<(i32, Vec<f64>)> = [0, 5, 10, 15, 19].map(|nice| (nice, Vec::new())).into();
    for _ in 0..ROUNDS {
        idle.push(p99(10, None));
        busy.iter_mut().for_each(|(nice, times)| times.push(p99(*nice, Some(&photo))));
    }
    let idle = median(&mut idle);
    println!("page, p99 with nothing else running: {idle:.0} µs (median of {ROUNDS} runs)");
    for (nice, times) in &mut busy {
        let p99 = median(times);
        let (least, most) = (times[0], times[ROUNDS - 1]);
        println!(
            "page, p99 with one resize per core at nice {nice}: {p99:.0} µs, {:.1} times ({least:.0} to {most:.0})",
            p99 / idle
        );
    }
}

/// Returns the 99th percentile in microseconds.
fn p99(nice: i32, photo: Option<&Arc<[u8]>>) -> f64 {
    let page = "<ul>{% for n in numbers %}<li>{{ n }}</li>{% endfor %}</ul>";
    let stop = Arc::new(AtomicBool::new(false));
    let (theirs, photo) = (stop.clone(), photo.cloned());
    let resize = move |_: &mut Request| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..photo.as_ref().map_or(0, |_| cores) {
            let (stop, photo) = (theirs.clone(), photo.clone());
            Task::named("resize").spawn(move |_| resize_until(&stop, &photo.unwrap_or_default()));
        }
    };
    let app = app(nice)
        .template("page.html", page)
        .get("/", |req: &mut Request| req.render("page.html", context! { numbers => (0..100).collect::<Vec<_>>() }))
        .get("/resize", resize);
    let server = app.start().expect("a free port");
    let mut starter = TcpStream::connect(server.addr()).expect("the server listens");
    starter.write_all(b"GET /resize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("it reads");
    starter.read_to_end(&mut Vec::new()).expect("it answers");
    let times = visit(&server);
    stop.store(true, Ordering::Relaxed);
    server.stop();
    times[times.len() * 99 / 100].as_secs_f64() * 1e6
}

fn resize_until(stop: &AtomicBool, photo: &[u8]) -> aside::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        Image::decode(photo)?.encode(Fit::Inside(800, 800), Format::Jpeg)?;
    }
    Ok(())
}

/// An image of 12 megapixels with some detail to compress.
fn photo() -> Vec<u8> {
    let pixel = |x: u32, y: u32| image::Rgb([(x / 16) as u8, (y / 12) as u8, ((x * y) >> 12) as u8]);
    let pixels = image::RgbImage::from_fn(4000, 3000, pixel);
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(&pixels).expect("memory has room");
    bytes
}

fn visit(server: &Server) -> Vec<Duration> {
    let mut connection = Connection::open(server.addr());
    let mut times: Vec<Duration> = (0..1_000)
        .map(|_| {
            thread::sleep(Duration::from_millis(2));
            let began = Instant::now();
            connection.ask();
            connection.read();
            began.elapsed()
        })
        .collect();
    times.sort();
    times
}

fn median(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}
