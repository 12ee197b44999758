//! The limits of the epoll transport over real sockets: slow clients, many clients and disconnected clients, while other
//! pages are answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use aside::config::ServerKind;
use aside::server::Server;
use aside::{App, Config, Request, Response};
use socket2::SockRef;

use crate::conformance::inputs::Apart;
use crate::wire::{Gate, PATIENCE, Raw, config, start};

const SECOND: Duration = Duration::from_secs(1);

/// More bytes than the kernel buffers for a client that does not read.
static LARGE: [u8; 16 << 20] = [b'x'; 16 << 20];

/// More threads than a process with the maximum number of workers has.
const WORKERS: usize = 300;

fn epoll() -> Config {
    Config { server: ServerKind::Epoll, ..config() }
}

fn site(config: Config) -> Server {
    let app = App::with_config(config)
        .get("/", |_: &mut Request| "home")
        .get("/large", |_: &mut Request| Response::bytes("text/plain", &LARGE[..]))
        .get("/million", |_: &mut Request| Response::bytes("text/plain", &LARGE[..1_000_000]))
        .post("/read", |req: &mut Request| req.bytes().map(|body| format!("{} bytes", body.len())));
    start(app)
}

fn is_answered(server: &Server) {
    assert_eq!(Raw::to(server).get("/").body, "home");
}

#[test]
fn incomplete_heads_occupy_no_worker_and_get_408() {
    let server = site(Config { max_workers: 1, head_timeout: SECOND, ..epoll() });
    let mut slow: Vec<Raw> = (0..300).map(|_| Raw::to(&server)).collect();
    slow.iter_mut().for_each(|raw| _ = raw.send("GET / HTTP/1.1\r\nHost: a\r\nX: "));
    is_answered(&server);
    for raw in &mut slow {
        let reply = raw.reply();
        assert_eq!((reply.status, reply.header("Connection")), (408, Some("close")));
        assert!(reply.body.contains("ASIDE_HEAD_TIMEOUT"), "{reply:?}");
    }
    is_answered(&server);
}

#[test]
fn the_error_page_for_a_slow_client_is_rendered_by_a_worker() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let app = App::with_config(Config { head_timeout: SECOND, ..epoll() })
        .get("/", |_: &mut Request| "home")
        .error_page(408, move |_: &mut Request, _: &aside::Error| {
            tell.lock().unwrap().send(std::thread::current().name().map(str::to_owned)).unwrap();
            "the site's own"
        });
    let server = start(app);
    let mut slow = Raw::to(&server);
    slow.send("GET / HTTP/1.1\r\nHost: a\r\nX: ");
    let reply = slow.reply();
    assert_eq!((reply.status, &*reply.body), (408, "the site's own"));
    assert_eq!(told.recv().unwrap().as_deref(), Some("aside-worker"), "not by the supervisor of the workers");
}

#[test]
fn incomplete_small_bodies_occupy_no_worker() {
    let server = site(Config { max_workers: 1, body_timeout: SECOND, ..epoll() });
    let mut slow: Vec<Raw> = (0..300).map(|_| Raw::to(&server)).collect();
    for (raw, framing) in slow.iter_mut().zip(["Content-Length: 60000", "Transfer-Encoding: chunked"].iter().cycle()) {
        raw.send(format!("POST /read HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n1\r\n"));
    }
    is_answered(&server);
    assert!(slow.iter_mut().all(|raw| raw.reply().status == 408));
}

/// Regression: incomplete small bodies had no common limit, and 4,000 of them held 250 MiB.
#[test]
fn incomplete_small_bodies_have_a_common_memory_limit() {
    let server = site(Config { max_buffered: 1 << 20, ..epoll() });
    let half = |raw: &mut Raw| {
        let head = "POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n";
        _ = raw.send(format!("{head}{}", "x".repeat(30_000)));
    };
    let mut first = Raw::to(&server);
    half(&mut first);
    let mut others: Vec<Raw> = (0..60).map(|_| Raw::to(&server)).collect();
    others.iter_mut().for_each(half);
    // The request that has been arriving longest gets the 503.
    let reply = first.reply();
    assert_eq!(
        (reply.status, reply.header("Retry-After"), reply.header("Connection")),
        (503, Some("5"), Some("close"))
    );
    assert!(reply.body.contains("try again in a moment"), "{reply:?}");
    is_answered(&server);
    let mut last = Raw::to(&server);
    half(&mut last);
    assert_eq!(last.send("y".repeat(30_000)).reply().body, "60000 bytes");
    let mut statuses: Vec<u16> = others
        .iter_mut()
        .map(|raw| {
            let _ = raw.0.get_mut().write_all(&[b'y'; 30_000]);
            raw.head().status
        })
        .collect();
    statuses.sort();
    assert_eq!((statuses[0], statuses[59]), (200, 503), "some are answered, some refused: {statuses:?}");
}

/// Regression: unread responses had no common limit.
#[test]
fn unread_responses_have_a_common_memory_limit() {
    let size = LARGE.len();
    let app = App::with_config(Config { max_unsent: 5 * size / 2, ..epoll() })
        .get("/", |_: &mut Request| "home")
        .get("/made", move |_: &mut Request| Response::bytes("text/plain", vec![b'x'; size]));
    let server = start(app);
    let mut slow: Vec<Raw> = (0..4).map(|_| Raw::to(&server)).collect();
    for raw in &mut slow {
        raw.send("GET /made HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(raw.head().status, 200);
    }
    is_answered(&server);
    assert!(slow[0].rest().len() < size, "the response that has waited longest is cut short");
    assert_eq!(slow[3].exactly(size).len(), size, "the last response is complete");
}

#[test]
fn incomplete_large_bodies_leave_workers_for_pages() {
    let server = site(Config { body_timeout: 4 * SECOND, ..epoll() });
    let mut slow: Vec<Raw> = (0..300).map(|_| Raw::to(&server)).collect();
    for raw in &mut slow {
        raw.send("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx");
    }
    is_answered(&server);
    // Half of the workers wait for bodies, and the other uploads wait for these workers.
    let mut told: Vec<u16> = slow.iter_mut().map(|raw| raw.reply().status).collect();
    told.sort();
    told.dedup();
    assert_eq!(told, [408, 503]);
    is_answered(&server);
}

#[test]
fn large_bodies_that_wait_for_their_turn_are_read_later() {
    let server = site(Config { max_workers: 4, ..epoll() });
    let body = "x".repeat(500_000);
    let mut slow: Vec<Raw> = (0..20).map(|_| Raw::to(&server)).collect();
    for raw in &mut slow {
        raw.send("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n").send(&body[..1]);
    }
    is_answered(&server);
    for raw in &mut slow {
        assert_eq!(raw.send(&body[1..]).reply().body, "500000 bytes");
    }
}

#[test]
fn a_client_that_reads_slowly_occupies_no_worker_and_gets_the_whole_response() {
    let server = site(Config { max_workers: 1, ..epoll() });
    let mut slow: Vec<Raw> = (0..300).map(|_| Raw::to(&server)).collect();
    slow.iter_mut().for_each(|raw| _ = raw.send("GET /million HTTP/1.1\r\nHost: a\r\n\r\n"));
    slow[..3].iter_mut().for_each(|raw| _ = raw.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n"));
    is_answered(&server);
    assert!(slow.iter_mut().all(|raw| raw.reply().body.len() == 1_000_000));
    assert!(slow[..3].iter_mut().all(|raw| raw.reply().body.len() == LARGE.len()));
}

#[test]
fn a_client_that_reads_nothing_is_disconnected_and_deferred_tasks_start() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let handler = move |_: &mut Request| {
        let tell = tell.lock().unwrap().clone();
        Response::bytes("text/plain", &LARGE[..]).background(move || tell.send(()).unwrap())
    };
    let app = App::with_config(Config { write_timeout: SECOND, ..epoll() }).get("/large", handler);
    let server = start(app);
    let mut raw = Raw::to(&server);
    raw.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    told.recv_timeout(PATIENCE).unwrap();
    assert!(raw.rest().len() < LARGE.len());
}

#[test]
fn a_stream_ends_if_its_client_reads_nothing() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let handler = move |_: &mut Request| {
        let tell = tell.lock().unwrap().clone();
        Response::stream("text/plain", move |out| {
            let ended = out.write_all(&LARGE);
            tell.send(ended.as_ref().map_err(std::io::Error::kind).copied()).unwrap();
            ended
        })
    };
    let server = start(App::with_config(Config { write_timeout: SECOND, ..epoll() }).get("/stream", handler));
    let mut raw = Raw::to(&server);
    raw.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Err(std::io::ErrorKind::TimedOut));
}

#[test]
fn an_idle_connection_is_closed_without_a_response() {
    let server = site(Config { idle_timeout: SECOND, head_timeout: SECOND, ..epoll() });
    let (mut new, mut used) = (Raw::to(&server), Raw::to(&server));
    assert_eq!(used.get("/").body, "home");
    assert_eq!((new.rest(), used.rest()), (String::new(), String::new()));
}

#[test]
fn ten_thousand_idle_connections_are_kept() {
    const MANY: usize = 10_000;
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    if limit.maximum.is_some_and(|most| most < MANY as u64 + 2_000) {
        return eprintln!("skipped: only {:?} open files are allowed", limit.maximum);
    }
    let site = Apart::start(&[("ASIDE_SERVER", "epoll")]);
    let mut buffer = [0; 4096];
    let mut ask = |stream: &mut TcpStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let count = stream.read(&mut buffer).unwrap();
        assert!(buffer[..count].ends_with(b"0 bytes"));
    };
    let before = site.resident();
    let mut idle = Vec::with_capacity(MANY);
    for _ in 0..MANY {
        let mut stream = TcpStream::connect(&site.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        ask(&mut stream);
        idle.push(stream);
    }
    let more = site.resident().saturating_sub(before) << 12;
    assert!(more / MANY as u64 <= 1 << 10, "{more} bytes for {MANY}");
    assert!(site.threads() < WORKERS, "{} threads", site.threads());
    idle.iter_mut().step_by(97).for_each(ask);
}

#[test]
fn thousands_of_live_pages_take_no_threads() {
    const MANY: usize = 2_000;
    let site = Apart::start(&[("ASIDE_SERVER", "epoll")]);
    let mut pages: Vec<_> = (0..MANY)
        .map(|_| {
            let mut stream = TcpStream::connect(&site.addr).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(b"GET /live HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
            BufReader::new(stream)
        })
        .collect();
    let shows = |page: &mut BufReader<TcpStream>, message: &str| {
        let mut lines = page.lines().map(Result::unwrap);
        assert!(lines.any(|line| line == message), "the stream goes on");
    };
    pages.iter_mut().for_each(|page| shows(page, "data: 0"));
    assert!(site.threads() < WORKERS, "{} threads", site.threads());
    assert!(site.ask("GET /live").starts_with("HTTP/1.1 503 "), "the limit of streams is reached");
    assert!(site.ask("POST /count").starts_with("HTTP/1.1 200 "));
    pages.iter_mut().for_each(|page| shows(page, "data: 1"));
    drop(pages.split_off(1));
    while !site.ask("GET /watchers").ends_with("\r\n\r\n1") {}
    site.ask("POST /count");
    shows(&mut pages[0], "data: 2");
}

#[test]
fn a_connection_above_the_limit_gets_503_with_retry_after() {
    let server = site(Config { max_connections: 3, ..epoll() });
    let mut kept: Vec<Raw> = (0..3).map(|_| Raw::to(&server)).collect();
    assert!(kept.iter_mut().all(|raw| raw.get("/").body == "home"));
    // The request is sent at once, as by a browser.
    let refused = Raw::to(&server).send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").rest();
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nRetry-After: 5\r\n"), "{refused}");
    assert!(refused.contains("\r\nCache-Control: no-store\r\n"), "{refused}");
    // This request closes its connection, so that the test knows when it has ended.
    kept.remove(0).send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").rest();
    let began = std::time::Instant::now();
    while Raw::to(&server).send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").rest().contains(" 503 ") {
        assert!(began.elapsed() < PATIENCE, "its slot is not free again");
    }
}

#[test]
fn a_connection_closes_after_the_maximum_number_of_requests() {
    let server = site(Config { max_requests: 3, ..epoll() });
    let mut raw = Raw::to(&server);
    let last = [(); 3].map(|()| raw.get("/").header("Connection").map(str::to_owned));
    assert_eq!((last, raw.rest().as_str()), ([None, None, Some("close".into())], ""));
}

#[test]
fn an_unread_body_may_arrive_after_the_response() {
    let server = start(App::with_config(epoll()).get("/", |_: &mut Request| "home").post("/", |_: &mut Request| "no"));
    let mut raw = Raw::to(&server);
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n");
    assert_eq!(raw.reply().body, "no");
    raw.send("x".repeat(200_000));
    assert_eq!(raw.get("/").body, "home");
}

#[test]
fn pipelined_requests_are_answered_in_order_and_other_clients_in_between() {
    let count: usize = std::env::var("ASIDE_PIPELINED").map_or(20_000, |count| count.parse().unwrap());
    let app = App::with_config(Config { max_workers: 1, max_requests: u32::MAX, ..epoll() });
    let server = start(app.get("/", |_: &mut Request| "home").get("/{n}", |req: &mut Request| req.target().to_owned()));
    let raw = Raw::to(&server);
    let mut out = raw.0.get_ref().try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        for n in 0..count {
            out.write_all(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap();
        }
    });
    let mut raw = raw;
    for n in 0..count {
        assert_eq!(raw.reply().body, format!("/{n}"));
        if n % (count / 10) == 0 {
            is_answered(&server);
        }
    }
    sending.join().unwrap();
}

#[test]
fn an_endless_head_is_refused_and_costs_no_memory() {
    let site = Apart::start(&[("ASIDE_SERVER", "epoll")]);
    let mut before = 0;
    let mut endless: Vec<TcpStream> = (0..11).map(|_| TcpStream::connect(&site.addr).unwrap()).collect();
    for (number, stream) in endless.iter_mut().enumerate() {
        if number == 1 {
            // The first request allocates buffers that are reused.
            before = site.resident();
        }
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX: ");
        let piece = [b'x'; 64 << 10];
        // 4 MB each, which the server reads and discards.
        for _ in 0..64 {
            let _ = stream.write_all(&piece);
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 431");
    }
    let after = site.resident();
    // In pages of 4 KiB: less than half a megabyte for each, including a few more workers.
    assert!(after < before + (1 << 10), "{before} pages, then {after}");
}

#[test]
fn clients_wait_for_descriptors_and_are_answered() {
    let site = Apart::start(&[("ASIDE_SERVER", "epoll"), ("ASIDE_TEST_FILES", "60")]);
    let connect = || {
        let stream = TcpStream::connect(&site.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    };
    let mut all: Vec<TcpStream> = (0..100).map(|_| connect()).collect();
    all.iter_mut().for_each(|stream| stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap());
    let mut answered = 0;
    let mut buffer = [0; 1024];
    // Each answered client disconnects, and frees a descriptor for a waiting one.
    while let Some(mut stream) = (!all.is_empty()).then(|| all.remove(0)) {
        assert!(stream.read(&mut buffer).unwrap() > 0);
        answered += 1;
    }
    assert_eq!(answered, 100);
    let log = site.end();
    assert!(log.iter().any(|line| line.contains("Could not accept a connection")), "{log:?}");
}

#[test]
fn resets_at_any_moment_do_not_affect_other_clients() {
    let server = site(epoll());
    let request = format!("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000));
    let reset = |sent: &[u8], read: usize| {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(sent).unwrap();
        let _ = stream.read_exact(&mut vec![0; read]);
    };
    for sent in (0..100).chain([1_000, 70_000, 99_999, request.len()]) {
        reset(&request.as_bytes()[..sent], 0);
    }
    for read in [0, 1, 100, 1_000, 100_000] {
        reset(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n", read);
    }
    is_answered(&server);
}

#[test]
fn a_client_that_has_closed_its_sending_side_is_answered() {
    let server = site(epoll());
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(40),
        format!("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000)),
    ] {
        let mut raw = Raw::to(&server);
        raw.send(&request).0.get_ref().shutdown(Shutdown::Write).unwrap();
        let rest = raw.rest();
        assert_eq!(rest.matches("HTTP/1.1 200 OK").count(), request.matches(" HTTP/1.1\r\n").count(), "{rest}");
    }
}

#[test]
fn a_shutdown_waits_for_slow_readers_and_incomplete_bodies() {
    let gate = Arc::new(Gate::default());
    let (theirs, begun) = (gate.clone(), Arc::new(AtomicUsize::new(0)));
    let count = begun.clone();
    let app = App::with_config(epoll())
        .get("/large", move |_: &mut Request| {
            count.fetch_add(1, Ordering::SeqCst);
            theirs.pass();
            Response::bytes("text/plain", &LARGE[..])
        })
        .post("/read", |req: &mut Request| req.bytes().map(|body| format!("{} bytes", body.len())));
    let server = start(app);
    let addr = server.addr();
    let (mut slow, mut half) = (Raw::to(&server), Raw::to(&server));
    half.send("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf ");
    slow.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    while begun.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let stopping = std::thread::spawn(move || server.stop());
    while TcpStream::connect(addr).is_ok() {
        std::thread::yield_now();
    }
    gate.open();
    let reply = half.send("whole").reply();
    assert_eq!((reply.body.as_str(), reply.header("Connection")), ("10 bytes", Some("close")));
    let reply = slow.reply();
    assert_eq!((reply.body.len(), reply.header("Connection")), (LARGE.len(), Some("close")));
    drop((half, slow));
    stopping.join().unwrap();
}

#[test]
fn a_unix_socket_is_served_and_its_file_is_removed_at_the_end() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.sock");
    // A killed process leaves such a file.
    drop(UnixListener::bind(&path).unwrap());
    let address = format!("unix:{}", path.display());
    let grace = Duration::from_secs(3_600);
    let config = || Config { address: address.clone(), trusted_proxies: vec!["unix".into()], grace, ..epoll() };
    let who = |req: &mut Request| format!("{:?} {:?}", req.client_ip().map(|ip| ip.to_string()), req.remote_addr());
    let server = start(App::with_config(config()).get("/", who));
    assert_eq!(server.address(), address);
    let taken = App::with_config(config()).start().unwrap_err().to_string();
    assert!(taken.contains("in use") && taken.contains("ASIDE_ADDR"), "{taken}");
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("Some(\"192.0.2.7\") None"), "{answer}");
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        server.stop();
        tell.send(())
    });
    told.recv_timeout(PATIENCE).expect("the shutdown waits for no client");
    assert!(!path.exists());
}

#[test]
fn a_unix_socket_has_the_mode_and_the_group_of_the_settings() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("site.sock");
    let address = format!("unix:{}", path.display());
    let own = folder.path().metadata().unwrap().gid();
    let seen = |config: Config| -> aside::Result<(u32, u32)> {
        let server = App::with_config(Config { address: address.clone(), ..config }).start()?;
        let file = path.metadata().unwrap();
        server.stop();
        Ok((file.mode() & 0o777, file.gid()))
    };
    assert_eq!(seen(epoll()).unwrap(), (0o660, own));
    let group = Some(own.to_string());
    assert_eq!(seen(Config { socket_mode: 0o600, socket_group: group, ..epoll() }).unwrap(), (0o600, own));
    let message = seen(Config { socket_group: Some("no-such-group".into()), ..epoll() }).unwrap_err().to_string();
    assert!(message.contains("ASIDE_SOCKET_GROUP") && message.contains("no-such-group"), "{message}");
    assert!(!path.exists(), "a refused start leaves no file");
}

#[test]
fn a_unix_socket_needs_the_server_epoll() {
    let config = Config { address: "unix:/nowhere/site.sock".into(), ..epoll() };
    let message = App::with_config(config).start().unwrap_err().to_string();
    assert!(message.contains("unix:/nowhere/site.sock") && message.contains("ASIDE_ADDR"), "{message}");
    let folder = tempfile::tempdir().unwrap();
    let address = format!("unix:{}", folder.path().join("site.sock").display());
    let config = Config { address, server: ServerKind::TinyHttp, ..self::config() };
    assert!(App::with_config(config).start().unwrap_err().to_string().contains("server `epoll`"));
}

#[test]
fn a_malformed_request_after_a_stream_gets_400() {
    let handler = |_: &mut Request| Response::stream("text/plain", |out| out.write_all(b"all"));
    let server = start(App::with_config(epoll()).get("/stream", handler));
    let mut raw = Raw::to(&server);
    let rest = raw.send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\n\r\n").rest();
    assert!(rest.starts_with("HTTP/1.1 200 ") && rest.contains("\r\n0\r\n\r\nHTTP/1.1 400 "), "{rest}");
}
