//! What a page costs over the wire. `cargo bench --bench server`; the figures are in `benches/README.md`.
//!
//! Hello world through the adapter against bare tiny_http with a reply prepared beforehand, and a page with a session that it
//! reads and changes, in turns in one run; and how long a page takes while one photo per core is being resized in the
//! background, at several nice values. Guard and default headers are always on; the access log is written, to nowhere.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aside::image::{Fit, Format, Image};
use aside::{App, Config, Request, Server, Task, context};

const CONNECTIONS: usize = 32;
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 9;

fn main() {
    log_to_nowhere();
    hello_world();
    page_under_load();
}

fn app(nice: i32) -> App {
    App::with_config(Config { address: "127.0.0.1:0".into(), nice, ..Config::default() })
}

/// The access log as `App::run` writes it, but for where it goes.
fn log_to_nowhere() {
    let format = |out: &mut env_logger::fmt::Formatter, record: &log::Record<'_>| {
        let time = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string();
        writeln!(out, "[{time}] {} {}: {}", record.level(), record.target(), record.args())
    };
    let nowhere = env_logger::Target::Pipe(Box::new(std::io::sink()));
    env_logger::Builder::new().filter_level(log::LevelFilter::Info).format(format).target(nowhere).init();
}

fn hello_world() {
    let secrets = vec!["a secret of more than thirty-two bytes".to_owned()];
    let config = Config { address: "127.0.0.1:0".into(), secrets, ..Config::default() };
    let site = |answer: fn(&mut Request) -> String| {
        let app = App::with_config(config.clone()).get("/begin", change).get("/", answer);
        app.start().expect("a free port")
    };
    let sites = [site(|_| "Hello, world!".to_owned()), site(read), site(change)];
    let [plain, reading, changing] = [0, 1, 2].map(|which: usize| sites[which].addr());
    let servers = [bare_tiny_http(2), plain, reading, changing];
    let rates: Vec<[f64; 4]> = (0..ROUNDS).map(|_| servers.map(requests_a_second)).collect();
    let mut of_bare: Vec<f64> = rates.iter().map(|[bare, ..]| *bare).collect();
    println!(
        "hello world, {CONNECTIONS} connections: bare tiny_http {:.0}/s (median of {ROUNDS})",
        median(&mut of_bare)
    );
    let names = ["aside with guard, headers and log", "the same, reading a session", "the same, changing a session"];
    for (which, name) in names.into_iter().enumerate() {
        let mut of_these: Vec<f64> = rates.iter().map(|round| round[which + 1]).collect();
        let mut ratios: Vec<f64> = rates.iter().map(|round| round[which + 1] / round[0]).collect();
        let (rate, ratio) = (median(&mut of_these), median(&mut ratios));
        println!("{name}: {rate:.0}/s, ratio {ratio:.2} ({:.2} to {:.2})", ratios[0], ratios[ROUNDS - 1]);
    }
    sites.into_iter().for_each(Server::stop);
}

fn read(req: &mut Request) -> String {
    format!("Hello {}!", req.session().get::<u64>("visits").unwrap_or(0))
}

fn change(req: &mut Request) -> String {
    let visits = req.session().get::<u64>("visits").unwrap_or(0);
    req.session().insert("visits", visits + 1);
    format!("Hello {visits}!")
}

/// tiny_http without anything on top: a reply that is there already, written at once.
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

/// One thread, all connections with a request under way at the same time.
fn requests_a_second(addr: SocketAddr) -> f64 {
    let mut connections: Vec<Connection> = (0..CONNECTIONS).map(|_| Connection::open(addr)).collect();
    let began = Instant::now();
    let mut count = 0;
    while began.elapsed() < ROUND {
        connections.iter_mut().for_each(|connection| connection.ask("/"));
        connections.iter_mut().for_each(Connection::read);
        count += CONNECTIONS;
    }
    count as f64 / began.elapsed().as_secs_f64()
}

struct Connection {
    stream: BufReader<TcpStream>,
    /// The last cookie that was set.
    cookie: String,
}

impl Connection {
    /// A connection that has been answered once. Bare tiny_http sometimes leaves one of many new connections without a
    /// thread until another comes: then another comes.
    fn open(addr: SocketAddr) -> Connection {
        let stream = TcpStream::connect(addr).expect("the server listens");
        stream.set_nodelay(true).expect("an option of every TCP socket");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("an option of every TCP socket");
        let mut connection = Connection { stream: BufReader::new(stream), cookie: String::new() };
        connection.ask("/begin");
        while connection.stream.fill_buf().is_err() {
            drop(TcpStream::connect(addr));
        }
        connection.stream.get_ref().set_read_timeout(None).expect("an option of every TCP socket");
        connection.read();
        connection
    }

    fn ask(&mut self, path: &str) {
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{}\r\n", self.cookie);
        self.stream.get_mut().write_all(head.as_bytes()).expect("the connection is kept");
    }

    fn read(&mut self) {
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line).expect("a head");
            if let Some(cookie) = line.strip_prefix("Set-Cookie: ") {
                self.cookie = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap_or(""));
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
        }
        self.stream.read_exact(&mut vec![0; length]).expect("a body");
    }
}

/// A page with a template, asked for every 2 ms by a visitor at normal priority: nothing else running, and one resize per
/// core, in turns.
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

/// In microseconds.
fn p99(nice: i32, photo: Option<&Arc<[u8]>>) -> f64 {
    let page = "<ul>{% for n in numbers %}<li>{{ n }}</li>{% endfor %}</ul>";
    let stop = Arc::new(AtomicBool::new(false));
    let (theirs, photo) = (stop.clone(), photo.cloned());
    let resize = move |_: &mut Request| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..photo.as_ref().map_or(0, |_| cores) {
            let (stop, photo) = (theirs.clone(), photo.clone());
            Task::named("resize").run(move |_| resize_until(&stop, &photo.unwrap_or_default()));
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

/// A picture of 12 megapixels with something to compress.
fn photo() -> Vec<u8> {
    let pixel = |x: u32, y: u32| image::Rgb([(x / 16) as u8, (y / 12) as u8, ((x * y) >> 12) as u8]);
    let picture = image::RgbImage::from_fn(4000, 3000, pixel);
    let mut bytes = Vec::new();
    image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 85).encode_image(&picture).expect("memory has room");
    bytes
}

fn visit(server: &Server) -> Vec<Duration> {
    let mut connection = Connection::open(server.addr());
    let mut times: Vec<Duration> = (0..1_000)
        .map(|_| {
            thread::sleep(Duration::from_millis(2));
            let began = Instant::now();
            connection.ask("/");
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
