//! Requests as raw bytes over real sockets, to an application in this process. The tests of signals start another process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use aside::server::Server;
use aside::{App, Config, Request, Response, Status, background};

const SECOND: Duration = Duration::from_secs(1);

/// Long enough for a busy machine, short enough to notice that something hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn config() -> Config {
    Config {
        address: "127.0.0.1:0".into(),
        server: crate::server(),
        grace: PATIENCE,
        allowed_hosts: vec!["*".into()],
        ..Config::default()
    }
}

fn app() -> App {
    App::with_config(config())
        .get("/", |_req: &mut Request| "home")
        .get("/path", |req: &mut Request| req.target().to_owned())
        .get("/host", |req: &mut Request| req.host().unwrap_or_default().to_owned())
        .get("/big", |_req: &mut Request| "x".repeat(2_000))
        .get("/huge", |_req: &mut Request| "x".repeat(1_000_000))
        .get("/panic", |_req: &mut Request| panic!("boom"))
        .get("/nothing", |_req: &mut Request| Status::NO_CONTENT)
        .get("/same", |_req: &mut Request| Status::NOT_MODIFIED)
        .post("/read", |req: &mut Request| req.text())
        .post("/ignore", |_req: &mut Request| "ignored")
        .fallback(|req: &mut Request| format!("{} {}", req.method(), req.target()))
}

pub fn start(app: App) -> Server {
    app.start().expect("a free port")
}

/// A connection that sends raw bytes.
pub struct Raw(pub BufReader<TcpStream>);

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

impl Raw {
    pub fn to(server: &Server) -> Raw {
        let stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw(BufReader::new(stream))
    }

    pub fn send(&mut self, text: impl AsRef<[u8]>) -> &mut Raw {
        self.0.get_mut().write_all(text.as_ref()).unwrap();
        self
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    pub fn head(&mut self) -> Reply {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let line = self.line();
            assert!(!line.is_empty(), "the connection ended after {head:?}");
            head.push_str(&line);
        }
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        Reply { status, head, body: String::new() }
    }

    pub fn exactly(&mut self, length: usize) -> String {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    pub fn chunk(&mut self) -> String {
        let size = usize::from_str_radix(self.line().trim(), 16).expect("a chunk's size");
        let data = self.exactly(size);
        assert_eq!(self.line(), "\r\n");
        data
    }

    /// Reads a response that declares its length.
    pub fn reply(&mut self) -> Reply {
        let mut reply = self.head();
        let length = reply.header("Content-Length").map_or(0, |length| length.parse().unwrap());
        reply.body = self.exactly(length);
        reply
    }

    pub fn get(&mut self, path: &str) -> Reply {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).reply()
    }

    /// Reads until the server closes the connection. A reset counts as an end.
    pub fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() != std::io::ErrorKind::ConnectionReset => {
                panic!("no end after {:?}: {error}", String::from_utf8_lossy(&rest))
            }
            _ => String::from_utf8_lossy(&rest).into_owned(),
        }
    }
}

/// A gate at which handlers wait until it is opened.
#[derive(Default)]
pub struct Gate(Mutex<bool>, Condvar);

impl Gate {
    pub fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    pub fn pass(&self) {
        let _open = self.1.wait_while(self.0.lock().unwrap(), |open| !*open).unwrap();
    }
}

/// A client can cause this at will, and the site is not at fault.
#[test]
fn a_transfer_coding_that_is_not_supported_is_not_logged_as_an_error() {
    crate::logs::record();
    let server = start(app());
    let mut raw = Raw::to(&server);
    raw.send("POST /coded-for-501 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n");
    assert_eq!(raw.reply().status, 501);
    server.stop();
    let lines = crate::logs::with("/coded-for-501");
    assert!(lines.iter().all(|(level, _)| *level > log::Level::Warn) && !lines.is_empty(), "{lines:?}");
}

#[test]
fn a_stopping_site_is_not_ready() {
    let (gate, (begun, beginning)) = (Arc::new(Gate::default()), mpsc::channel());
    let (theirs, begun) = (gate.clone(), Mutex::new(begun));
    let app = App::with_config(Config { max_workers: 1, ..config() }).readyz().get("/hold", move |_: &mut Request| {
        begun.lock().unwrap().send(()).unwrap();
        theirs.pass();
        "held"
    });
    let server = start(app);
    let addr = server.addr();
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut balancer, mut other) = (Raw::to(&server), Raw::to(&server));
    assert_eq!(balancer.send(get("/readyz")).reply().status, 200);
    other.send(get("/hold"));
    beginning.recv_timeout(PATIENCE).unwrap();
    balancer.send(get("/readyz"));
    let stopping = thread::spawn(move || server.stop());
    while TcpStream::connect(addr).is_ok() {
        thread::yield_now();
    }
    gate.open();
    let reply = balancer.reply();
    assert_eq!((reply.status, other.reply().body.as_str()), (503, "held"));
    assert_eq!(reply.body, r#"{"reasons":["the server is stopping"],"status":"unavailable"}"#);
    stopping.join().unwrap();
}

#[test]
fn a_huge_declared_body_is_refused_without_an_interim_response() {
    let server = start(app());
    for length in ["268435457", "1000000000000", "18446744073709551615"] {
        let mut raw = Raw::to(&server);
        raw.send(format!("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n"));
        let text = raw.rest();
        if cfg!(unix) {
            assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
        }
        // tiny_http refuses before the handler runs; over epoll the handler refuses.
        assert!(text.contains(if crate::is_tiny_http() { "ASIDE_MAX_UPLOAD" } else { "ASIDE_MAX_FORM" }), "{text}");
    }
    assert_eq!(Raw::to(&server).get("/").body, "home");
}

#[test]
fn a_target_may_be_a_url() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    let reply = raw.send("GET http://a.example/path?b=1 HTTP/1.1\r\nHost: a.example\r\n\r\n").reply();
    assert_eq!(reply.body, "/path?b=1");
    let reply = raw.send("GET http://b.example/host HTTP/1.1\r\nHost: a.example\r\n\r\n").reply();
    assert_eq!(reply.body, "b.example");
    let reply = raw.send("OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n").reply();
    assert!(reply.head.starts_with("HTTP/1.1 204 ") && reply.head.contains("\r\nAllow: GET, "), "{}", reply.head);
}

#[test]
fn a_connection_is_kept_and_its_responses_are_in_order() {
    let (gate, server) = gated(app());
    let mut raw = Raw::to(&server);
    assert_eq!(raw.get("/").body, "home");
    raw.send("GET /gate HTTP/1.1\r\nHost: a\r\n\r\nGET /path?2 HTTP/1.1\r\nHost: a\r\n\r\n");
    raw.send("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nthree");
    gate.open();
    let bodies = [(); 3].map(|()| raw.reply().body);
    assert_eq!(bodies, ["passed", "/path?2", "three"]);
}

fn gated(app: App) -> (Arc<Gate>, Server) {
    let gate = Arc::new(Gate::default());
    let theirs = gate.clone();
    let handler = move |_req: &mut Request| {
        theirs.pass();
        "passed"
    };
    (gate, start(app.get("/gate", handler)))
}

#[test]
fn a_response_arrives_in_one_piece() {
    let server = start(app());
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..5 {
        stream.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut buffer = vec![0; 64 << 10];
        let count = stream.read(&mut buffer).unwrap();
        let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
        assert!(text.contains("\r\nDate: ") && !text.contains("\r\nServer: "), "{text}");
        assert_eq!(text.split_once("\r\n\r\n").expect("a head").1.len(), 2_000);
    }
}

#[test]
fn a_large_response_arrives_whole() {
    let server = start(app());
    assert_eq!(Raw::to(&server).get("/huge").body.len(), 1_000_000);
}

#[test]
fn responses_to_head_and_with_204_or_304_have_no_body() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    let head = raw.send("HEAD /big HTTP/1.1\r\nHost: a\r\n\r\n").head();
    assert_eq!(head.header("Content-Length"), Some("2000"));
    for (path, status) in [("/nothing", 204), ("/same", 304)] {
        let reply = raw.get(path);
        assert_eq!((reply.status, reply.header("Content-Length")), (status, None));
    }
    assert_eq!(raw.get("/").body, "home");
}

#[test]
fn an_http_1_0_connection_closes_without_keep_alive() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    let reply = raw.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").reply();
    assert_eq!(reply.header("Connection"), Some("keep-alive"));
    let reply = raw.send("GET / HTTP/1.0\r\n\r\n").reply();
    assert_eq!((reply.header("Connection"), raw.rest().as_str()), (Some("close"), ""));
    let mut raw = Raw::to(&server);
    let reply = raw.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").reply();
    assert_eq!((reply.header("Connection"), raw.rest().as_str()), (Some("close"), ""));
}

#[test]
fn invalid_weights_of_te_do_not_break_the_response() {
    let server = start(app());
    let reply = Raw::to(&server).send("GET / HTTP/1.1\r\nHost: a\r\nTE: a;q=nan, b;q=nan, c;q=1\r\n\r\n").reply();
    assert_eq!(reply.body, "home");
}

#[test]
fn a_chunked_body_is_read() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    raw.send("POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n4\r\n two\r\n0\r\n\r\n");
    assert_eq!(raw.reply().body, "one two");
    goes_on_or_ends(&mut raw);
}

/// Over tiny_http, which parses chunks loosely, a connection closes after a chunked body.
fn goes_on_or_ends(raw: &mut Raw) {
    if crate::is_tiny_http() { assert_eq!(raw.rest(), "") } else { assert_eq!(raw.get("/").body, "home") }
}

#[test]
fn an_unread_chunked_body_is_not_parsed_as_the_next_request() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = format!("{:x}\r\n{inner}\r\n0\r\n\r\n", inner.len());
    raw.send(format!("POST /ignore HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"));
    assert_eq!(raw.reply().body, "ignored");
    goes_on_or_ends(&mut raw);
}

/// Another server may read a size such as `+0` differently, and find the request of another client after the body.
#[test]
fn requests_after_an_ambiguous_chunked_body_are_not_handled() {
    let server = start(app());
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for size in ["+0", " 0", "0 ", "+00"] {
        let head = "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let text = Raw::to(&server).send(format!("{head}{size}\r\n\r\n{smuggled}")).rest();
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{size:?}: {text}");
        assert!(text.contains("\r\nConnection: close\r\n"), "{size:?}: {text}");
    }
}

#[test]
fn a_body_that_does_not_arrive_in_time_gets_a_408() {
    let server = start(
        App::with_config(Config { body_timeout: SECOND, ..config() })
            .get("/", |_: &mut Request| "home")
            .post("/read", |req: &mut Request| req.bytes().map(|body| format!("{} bytes", body.len()))),
    );
    let mut before = Raw::to(&server);
    let body = "x".repeat(5_000);
    let reply = before.send(format!("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{body}")).reply();
    assert_eq!(reply.body, "5000 bytes");
    for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
        let mut raw = Raw::to(&server);
        let reply = raw.send(format!("POST /read HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n1\r\nx")).reply();
        assert_eq!((reply.status, reply.header("Connection")), (408, Some("close")), "{framing}");
    }
    // More time has passed than the body limit, which applies to the body only.
    assert_eq!(before.get("/").body, "home");
}

#[test]
fn a_head_that_does_not_arrive_in_time_closes_its_connection() {
    let times = Config { head_timeout: SECOND, idle_timeout: SECOND, ..config() };
    let server = start(App::with_config(times).get("/", |_: &mut Request| "home"));
    for start in ["", "GET / HTTP/1.1\r\nHost: a\r\nX: ", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let text = Raw::to(&server).send(start).rest();
        assert!(text.is_empty() || text.starts_with("HTTP/1.1 408 ") || text.ends_with("home"), "{start:?}: {text}");
    }
}

/// The first bytes of a TLS handshake, as OpenSSL sends them.
const HELLO: &[u8] = b"\x16\x03\x01\x00\xc4\x01\x00\x00\xc0\x03\x03";

#[test]
fn a_tls_client_gets_an_error_and_a_log_line() {
    crate::logs::record();
    let server = start(App::with_config(Config { head_timeout: SECOND, ..config() }));
    let text = Raw::to(&server).send(HELLO).rest();
    if crate::is_tiny_http() {
        assert_eq!(text, "");
        return crate::logs::wait_for(1, "TLS clients cause this");
    }
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("plain HTTP"), "{text}");
    crate::logs::wait_for(1, "speaks TLS");
}

#[test]
fn the_proxy_protocol_is_refused_and_logged() {
    crate::logs::record();
    let server = start(app());
    for header in [
        &b"PROXY TCP4 192.0.2.7 192.0.2.8 1000 80\r\n"[..],
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\0\0\x01\x7f\0\0\x01\x03\xe8\x00\x50",
    ] {
        let text = Raw::to(&server).send([header, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"].concat()).rest();
        assert!(text.starts_with("HTTP/1.1 400 ") && !text.contains("home"), "{text}");
    }
    // tiny_http itself refuses these.
    if !crate::is_tiny_http() {
        crate::logs::wait_for(3, "speaks the PROXY protocol");
    }
}

#[test]
fn a_long_unread_chunked_body_closes_the_connection() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    let piece = "x".repeat(300 << 10);
    raw.send("POST /ignore HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    raw.send(format!("{:x}\r\n{piece}\r\n", piece.len()));
    let reply = raw.reply();
    assert_eq!((reply.body.as_str(), reply.header("Connection")), ("ignored", Some("close")));
    assert_eq!(raw.rest(), "");
}

#[test]
fn a_malformed_chunk_is_refused_and_closes_the_connection() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    raw.send(
        "POST /read HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(raw.reply().status, 400);
    assert_eq!(raw.rest(), "");
}

#[test]
fn a_body_that_is_cut_short_is_an_error() {
    let server = start(app());
    for head in ["Content-Length: 5000\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n1000\r\nhalf"] {
        let mut raw = Raw::to(&server);
        raw.send(format!("POST /read HTTP/1.1\r\nHost: a\r\n{head}"));
        raw.0.get_ref().shutdown(Shutdown::Write).unwrap();
        assert_eq!(raw.reply().status, 400, "{head:?}");
        assert_eq!(raw.rest(), "");
    }
}

#[test]
fn a_100_continue_is_sent_when_the_body_is_read() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    raw.send("POST /read HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(raw.head().status, 100);
    assert_eq!(raw.send("body").reply().body, "body");
    assert_eq!(raw.get("/").body, "home");
}

#[cfg(unix)]
#[test]
fn no_100_continue_is_sent_for_an_unread_body() {
    let server = start(app());
    for framing in ["Content-Length: 4", "Content-Length: 100000000", "Transfer-Encoding: chunked"] {
        let mut raw = Raw::to(&server);
        raw.send(format!("POST /ignore HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n{framing}\r\n\r\n"));
        let reply = raw.reply();
        assert_eq!((reply.status, reply.header("Connection")), (200, Some("close")), "{framing}");
        assert_eq!(raw.rest(), "");
    }
}

#[cfg(unix)]
#[test]
fn the_response_to_a_large_unread_body_does_not_wait_for_the_body() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    raw.send("POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n");
    let reply = raw.reply();
    assert_eq!((reply.body.as_str(), reply.header("Connection")), ("ignored", Some("close")));
    // The client may send for a while longer, so that a browser reads the response.
    raw.send("x".repeat(100_000));
    assert_eq!(raw.rest(), "");
}

#[test]
fn a_small_unread_body_keeps_the_connection_open() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    for length in [10, 100_000] {
        let body = "x".repeat(length);
        raw.send(format!("POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
        assert_eq!(raw.reply().body, "ignored");
    }
    assert_eq!(raw.get("/").body, "home");
}

#[test]
fn the_body_of_an_upgrade_is_not_waited_for() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    raw.send("POST /read HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    let reply = raw.reply();
    assert_eq!((reply.status, reply.header("Connection")), (200, Some("close")));
}

#[test]
fn pages_are_answered_while_slow_bodies_occupy_workers() {
    let server = start(app());
    let mut slow: Vec<Raw> = (0..8).map(|_| Raw::to(&server)).collect();
    for raw in &mut slow {
        raw.send("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n").send("x".repeat(1_000));
    }
    assert_eq!(Raw::to(&server).get("/").body, "home");
    for raw in &mut slow {
        assert_eq!(raw.send("x".repeat(1_000)).reply().body.len(), 2_000);
    }
}

#[test]
fn forty_slow_handlers_run_at_once() {
    let all = Arc::new(Barrier::new(40));
    let handler = move |_req: &mut Request| {
        all.wait();
        "met"
    };
    let server = start(app().get("/meet", handler));
    let mut clients: Vec<Raw> = (0..40).map(|_| Raw::to(&server)).collect();
    clients.iter_mut().for_each(|raw| _ = raw.send("GET /meet HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(clients.iter_mut().all(|raw| raw.reply().body == "met"));
}

#[test]
fn connections_that_arrive_at_once_are_all_answered() {
    let server = start(app());
    let mut clients: Vec<Raw> = (0..30).map(|_| Raw::to(&server)).collect();
    clients.iter_mut().for_each(|raw| _ = raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    // All connections stay open, so none frees a thread for another.
    assert!(clients.iter_mut().all(|raw| raw.reply().body == "home"));
}

#[test]
fn handlers_run_up_to_the_limit_of_workers() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let most = most.clone();
        move |_req: &mut Request| {
            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::yield_now();
            now.fetch_sub(1, Ordering::SeqCst);
        }
    };
    let server = start(App::with_config(Config { max_workers: 1, ..config() }).get("/", handler));
    let mut clients: Vec<Raw> = (0..16).map(|_| Raw::to(&server)).collect();
    clients.iter_mut().for_each(|raw| _ = raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert!(clients.iter_mut().all(|raw| raw.reply().status == 200));
    assert_eq!(most.load(Ordering::SeqCst), 1);
}

#[test]
fn a_panic_becomes_a_500_and_the_server_continues() {
    let server = start(app());
    let mut raw = Raw::to(&server);
    for _ in 0..10 {
        assert_eq!(raw.get("/panic").status, 500);
    }
    assert_eq!(raw.get("/").body, "home");
}

#[test]
fn a_deferred_task_starts_after_the_last_byte() {
    let (tell, told) = mpsc::channel();
    let (came, arrived) = (Mutex::new(tell), Arc::new(Gate::default()));
    let (begun, pass) = (Arc::new(AtomicUsize::new(0)), arrived.clone());
    let handler = {
        let begun = begun.clone();
        move |_req: &mut Request| {
            let (tell, begun) = (came.lock().unwrap().clone(), begun.clone());
            let pass = pass.clone();
            Response::stream("text/plain", move |out| {
                out.write_all(b"first")?;
                pass.pass();
                out.write_all(b"last")
            })
            .background(move || {
                begun.fetch_add(1, Ordering::SeqCst);
                tell.send(()).unwrap();
            })
        }
    };
    let server = start(app().get("/aside", handler));
    let mut raw = Raw::to(&server);
    raw.send("GET /aside HTTP/1.1\r\nHost: a\r\n\r\n").head();
    assert_eq!(raw.chunk(), "first");
    assert_eq!(begun.load(Ordering::SeqCst), 0);
    arrived.open();
    assert_eq!((raw.chunk(), raw.chunk()), ("last".into(), String::new()));
    told.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_deferred_task_starts_after_the_client_has_disconnected() {
    let (tell, told) = mpsc::channel();
    let (gate, tell) = (Arc::new(Gate::default()), Mutex::new(tell));
    let theirs = gate.clone();
    let handler = move |_req: &mut Request| {
        let tell = tell.lock().unwrap().clone();
        theirs.pass();
        Response::text("x".repeat(10_000_000)).background(move || tell.send(()).unwrap())
    };
    let server = start(app().get("/aside", handler));
    Raw::to(&server).send("GET /aside HTTP/1.1\r\nHost: a\r\n\r\n").0.get_ref().shutdown(Shutdown::Both).unwrap();
    gate.open();
    told.recv_timeout(PATIENCE).unwrap();
    assert_eq!(Raw::to(&server).get("/").body, "home");
}

#[test]
fn a_stream_is_sent_event_by_event() {
    let gate = Arc::new(Gate::default());
    let theirs = gate.clone();
    let handler = move |_req: &mut Request| {
        let gate = theirs.clone();
        Response::stream("text/event-stream", move |out| {
            write!(out, "data: {}\n\n", 1)?;
            gate.pass();
            out.write_all(b"data: 2\n\n")
        })
    };
    let server = start(app().get("/events", handler));
    let mut raw = Raw::to(&server);
    let head = raw.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").head();
    assert_eq!(head.header("Transfer-Encoding"), Some("chunked"));
    assert_eq!(raw.chunk(), "data: 1\n\n");
    gate.open();
    assert_eq!((raw.chunk(), raw.chunk()), ("data: 2\n\n".into(), String::new()));
    assert_eq!(raw.get("/").body, "home");
}

#[test]
fn a_stream_to_http_1_0_ends_with_the_connection() {
    let handler = |_req: &mut Request| Response::stream("text/plain", |out| out.write_all(b"all"));
    let server = start(app().get("/stream", handler));
    let mut raw = Raw::to(&server);
    let head = raw.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").head();
    assert_eq!((head.header("Transfer-Encoding"), head.header("Connection")), (None, Some("close")));
    assert_eq!(raw.rest(), "all");
}

#[test]
fn a_failed_stream_has_no_last_chunk() {
    let failing = |_req: &mut Request| {
        Response::stream("text/plain", |out| {
            out.write_all(b"some")?;
            Err(std::io::Error::other("no more"))
        })
    };
    let panicking = |_req: &mut Request| Response::stream("text/plain", |_| panic!("boom"));
    let server = start(app().get("/failing", failing).get("/panicking", panicking));
    for (path, rest) in [("/failing", "4\r\nsome\r\n"), ("/panicking", "")] {
        let mut raw = Raw::to(&server);
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).head();
        assert_eq!(raw.rest(), rest);
    }
    assert_eq!(Raw::to(&server).get("/").body, "home");
}

#[test]
fn a_stream_above_the_limit_gets_503_with_retry_after() {
    let gate = Arc::new(Gate::default());
    let theirs = gate.clone();
    let handler = move |_req: &mut Request| {
        let gate = theirs.clone();
        Response::stream("text/plain", move |_| {
            gate.pass();
            Ok(())
        })
    };
    let server = start(App::with_config(Config { max_streams: 1, ..config() }).get("/stream", handler));
    let mut first = Raw::to(&server);
    first.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n").head();
    let refused = Raw::to(&server).get("/stream");
    assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("5")));
    assert!(refused.header("X-Request-Id").is_some(), "{refused:?}");
    gate.open();
    assert_eq!(first.chunk(), "");
}

#[test]
fn a_shutdown_answers_requests_in_flight_and_accepts_no_new_connections() {
    let (tell, told) = mpsc::channel();
    let (gate, tell) = (Arc::new(Gate::default()), Mutex::new(tell));
    let theirs = gate.clone();
    let handler = move |_req: &mut Request| {
        tell.lock().unwrap().send(()).unwrap();
        theirs.pass();
        "answered"
    };
    let server = start(app().get("/slow", handler));
    let addr = server.addr();
    let (mut idle, mut busy) = (Raw::to(&server), Raw::to(&server));
    assert_eq!(idle.get("/").body, "home");
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    told.recv_timeout(PATIENCE).unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    while TcpStream::connect(addr).is_ok() {
        std::thread::yield_now();
    }
    gate.open();
    let reply = busy.reply();
    assert_eq!((reply.body.as_str(), reply.header("Connection")), ("answered", Some("close")));
    stopping.join().unwrap();
    assert_eq!((busy.rest(), idle.rest()), (String::new(), String::new()));
}

#[test]
fn a_shutdown_waits_for_tasks() {
    let (tell, told) = mpsc::channel();
    let (gate, tell) = (Arc::new(Gate::default()), Mutex::new(tell));
    let theirs = gate.clone();
    let handler = move |_req: &mut Request| {
        let (gate, tell) = (theirs.clone(), tell.lock().unwrap().clone());
        background(move || {
            gate.pass();
            tell.send(()).unwrap();
        });
    };
    let server = start(app().get("/task", handler));
    Raw::to(&server).get("/task");
    let stopping = std::thread::spawn(move || server.stop());
    gate.open();
    stopping.join().unwrap();
    assert!(told.try_recv().is_ok());
}

#[test]
fn a_live_page_does_not_block_the_shutdown() {
    let handler = |_req: &mut Request| {
        Response::stream("text/event-stream", |out| {
            loop {
                out.write_all(b": still here\n\n")?;
                std::thread::yield_now();
            }
        })
    };
    let server = start(app().get("/live", handler));
    let mut raw = Raw::to(&server);
    raw.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n").head();
    assert_eq!(raw.chunk(), ": still here\n\n");
    server.stop();
    raw.rest();
}

#[test]
fn an_address_in_use_is_named_with_its_setting() {
    let server = start(app());
    let address = server.addr().to_string();
    let message = App::with_config(Config { address: address.clone(), ..config() }).start().unwrap_err().to_string();
    assert!(message.contains(&address) && message.contains("ASIDE_ADDR"), "{message}");
}

/// Another process of this test binary, with [`site_in_a_child`] as its only test.
#[cfg(unix)]
struct Site {
    child: Child,
    log: std::io::Lines<BufReader<std::process::ChildStderr>>,
    addr: String,
    control: TcpListener,
}

#[cfg(unix)]
impl Site {
    fn start() -> Site {
        let control = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "wire::site_in_a_child", "--nocapture", "--test-threads=1"])
            .env("ASIDE_TEST_CONTROL", control.local_addr().unwrap().to_string())
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut site = Site { child, log, addr: String::new(), control };
        let line = site.log_line("aside listens on http://");
        assert!(line.starts_with("[20") && line.contains("] INFO aside::server: "), "{line}");
        assert!(line.contains(" (development)"), "{line}");
        site.addr = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        site
    }

    fn log_line(&mut self, with: &str) -> String {
        let mut lines = self.log.by_ref().map(Result::unwrap);
        lines.find(|line| line.contains(with)).unwrap_or_else(|| panic!("the log ended without {with:?}"))
    }

    /// Starts a task that runs until it receives a byte, and then sends one.
    fn begin_task(&mut self) -> TcpStream {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.write_all(b"GET /task HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        self.control.accept().unwrap().0
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }
}

#[cfg(unix)]
impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Not a test: the tests of signals start this as another process.
#[test]
fn site_in_a_child() {
    let Ok(control) = std::env::var("ASIDE_TEST_CONTROL") else { return };
    let handler = move |_req: &mut Request| {
        let mut control = TcpStream::connect(&control).unwrap();
        background(move || {
            control.read_exact(&mut [0])?;
            control.write_all(b"!")
        });
    };
    App::with_config(config()).get("/task", handler).run().unwrap();
}

#[cfg(unix)]
#[test]
fn a_signal_lets_a_running_task_finish() {
    for (signal, name) in [(rustix::process::Signal::TERM, "SIGTERM"), (rustix::process::Signal::INT, "SIGINT")] {
        let mut site = Site::start();
        let mut task = site.begin_task();
        site.signal(signal);
        site.log_line(&format!("Stopping on {name}"));
        site.log_line("Waiting for 1 task");
        task.write_all(b"?").unwrap();
        task.read_exact(&mut [0]).unwrap();
        site.log_line("Stopped.");
        assert!(site.child.wait().unwrap().success());
    }
}

#[cfg(unix)]
#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut site = Site::start();
    let _task = site.begin_task();
    site.signal(rustix::process::Signal::TERM);
    site.log_line("Waiting for 1 task");
    // Within a second it counts as the same signal.
    let status = loop {
        site.signal(rustix::process::Signal::TERM);
        match site.child.try_wait().unwrap() {
            Some(status) => break status,
            None => std::thread::yield_now(),
        }
    };
    assert_eq!(status.code(), Some(143));
}
