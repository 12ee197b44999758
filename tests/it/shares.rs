//! Fair shares over real sockets: slow resources and clients that hold many resources leave workers for other pages.

use std::sync::{Arc, mpsc};
use std::thread;

use aside::server::Server;
use aside::{App, Config, Pool, Request};
use log::Level;

use crate::logs;
use crate::wire::{Gate, PATIENCE, Raw, Reply, config, start};

fn is_answered(server: &Server) {
    assert_eq!(Raw::to(server).get("/").body, "home");
}

fn is_refused(reply: &Reply) {
    assert_eq!((reply.status, reply.header("Retry-After")), (503, Some("5")), "{reply:?}");
    assert!(reply.body.contains("try again in a moment"), "{reply:?}");
}

/// Regression: a pool without free permits occupied every worker that asked for one.
#[test]
fn one_of_four_workers_waits_for_a_pool_and_the_next_request_gets_503() {
    logs::record();
    let (pool, gate, (taken, taking)) = (Pool::new(1), Arc::new(Gate::default()), mpsc::channel());
    let (theirs, their_gate) = (pool.clone(), gate.clone());
    let holder = thread::spawn(move || {
        theirs.run(|| {
            taken.send(()).unwrap();
            their_gate.pass();
        })
    });
    taking.recv_timeout(PATIENCE).unwrap();
    let app = App::with_config(Config { max_workers: 4, ..config() })
        .get("/", |_: &mut Request| "home")
        .get("/pooled", move |_: &mut Request| pool.run(|| "done"));
    let server = start(app);
    let (tell, told) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| tell.send(Raw::to(&server).get("/pooled")).unwrap());
        }
        is_refused(&told.recv_timeout(PATIENCE).expect("one of them is refused"));
        is_answered(&server);
        is_refused(&Raw::to(&server).get("/pooled"));
        gate.open();
        assert_eq!(told.recv_timeout(PATIENCE).unwrap().body, "done");
    });
    holder.join().unwrap().unwrap();
    server.stop();
    let lines = logs::at(Level::Warn, "wait for a permit of a Pool");
    assert!(lines.len() == 1 && lines[0].contains("limit: 1 of 4 ("), "one line a minute: {lines:?}");
    assert_eq!(logs::at(Level::Error, "GET /pooled"), Vec::<String>::new(), "and none for each refusal");
}

/// Opens a connection from another loopback address, which tests count as another client.
#[cfg(target_os = "linux")]
fn from(address: &str, server: &Server) -> Raw {
    let address: std::net::SocketAddr = format!("{address}:0").parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.connect(&server.addr().into()).unwrap();
    let stream = std::net::TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Raw(std::io::BufReader::new(stream))
}

/// A site that reports each request that has reached its handler.
fn uploads(config: Config) -> (App, mpsc::Receiver<()>) {
    let (begun, beginning) = mpsc::channel();
    let begun = std::sync::Mutex::new(begun);
    let app = App::with_config(config).get("/", |_: &mut Request| "home").post("/read", move |req: &mut Request| {
        begun.lock().unwrap().send(()).unwrap();
        req.bytes().map(|body| format!("{} bytes", body.len()))
    });
    (app, beginning)
}

const LARGE: usize = 100_000;

fn large_head() -> String {
    format!("POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")
}

fn large_body() -> String {
    "x".repeat(LARGE)
}

/// Regression: slow bodies occupied every worker over tiny_http.
#[test]
fn bodies_occupy_only_a_share_of_the_workers() {
    let (app, beginning) = uploads(Config { max_workers: 4, max_uploads: Some(1), ..config() });
    let server = start(app);
    let mut slow = Raw::to(&server);
    slow.send(large_head());
    beginning.recv_timeout(PATIENCE).unwrap();
    // Together with these, all workers would wait.
    let mut others: Vec<Raw> = (0..3).map(|_| Raw::to(&server)).collect();
    others.iter_mut().for_each(|raw| _ = raw.send(large_head()));
    is_answered(&server);
    if crate::is_tiny_http() {
        others.iter_mut().for_each(|raw| is_refused(&raw.reply()));
        others.clear();
        others.push(Raw::to(&server));
    }
    assert_eq!(slow.send(large_body()).reply().body, format!("{LARGE} bytes"));
    if crate::is_tiny_http() {
        others[0].send(large_head());
    }
    // Over epoll these have waited for their turn.
    for raw in &mut others {
        assert_eq!(raw.send(large_body()).reply().body, format!("{LARGE} bytes"));
    }
    server.stop();
}

/// Regression: 130 slow uploads of one client blocked all others for 31 s, and were then refused.
#[cfg(target_os = "linux")]
#[test]
fn slow_uploads_of_one_client_do_not_block_other_clients() {
    let config = Config { max_uploads_per_client: Some(2), loopback_clients: true, ..config() };
    let (app, beginning) = uploads(config);
    let server = start(app);
    let mut slow: Vec<Raw> = (0..2).map(|_| from("127.0.0.2", &server)).collect();
    for raw in &mut slow {
        raw.send(large_head());
        beginning.recv_timeout(PATIENCE).unwrap();
    }
    is_refused(&from("127.0.0.2", &server).send(large_head()).reply());
    let mut other = from("127.0.0.3", &server);
    assert_eq!(other.send(large_head() + &large_body()).reply().body, format!("{LARGE} bytes"));
    assert_eq!(from("127.0.0.2", &server).get("/").body, "home");
    for mut raw in slow {
        assert_eq!(raw.send(large_body()).reply().body, format!("{LARGE} bytes"));
    }
    let mut again = from("127.0.0.2", &server);
    assert_eq!(again.send(large_head() + &large_body()).reply().body, format!("{LARGE} bytes"));
    server.stop();
}

/// A site with live pages that stay open until the server stops.
#[cfg(target_os = "linux")]
fn live(config: Config) -> Server {
    let page = |_: &mut Request| {
        aside::Response::events(|events| {
            events.send("here")?;
            events.wait(30 * PATIENCE)
        })
    };
    start(App::with_config(config).get("/", |_: &mut Request| "home").get("/live", page))
}

#[cfg(target_os = "linux")]
fn ask_live(raw: &mut Raw, headers: &str) -> Reply {
    raw.send(format!("GET /live HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).head()
}

/// Regression: 1,000 idle streams of one client locked all others out.
#[cfg(target_os = "linux")]
#[test]
fn live_pages_of_one_client_do_not_block_other_clients() {
    let server = live(Config { max_streams: 8, loopback_clients: true, ..config() });
    let mut open: Vec<Raw> = (0..2).map(|_| from("127.0.0.2", &server)).collect();
    assert!(open.iter_mut().all(|raw| ask_live(raw, "").status == 200));
    is_refused(&from("127.0.0.2", &server).get("/live"));
    assert_eq!(ask_live(&mut from("127.0.0.3", &server), "").status, 200);
    assert_eq!(from("127.0.0.2", &server).get("/").body, "home");
    drop(open);
    // The server soon notices that they have disconnected.
    while ask_live(&mut from("127.0.0.2", &server), "").status != 200 {
        thread::yield_now();
    }
    server.stop();
}

#[cfg(target_os = "linux")]
#[test]
fn only_clients_behind_a_trusted_proxy_have_a_limit() {
    let one = Config { max_streams_per_client: Some(1), ..config() };
    let server = live(one.clone());
    let mut open: Vec<Raw> = (0..3).map(|_| Raw::to(&server)).collect();
    assert!(open.iter_mut().all(|raw| ask_live(raw, "X-Forwarded-For: 192.0.2.1\r\n").status == 200));
    server.stop();
    let server = live(Config { trusted_proxies: vec!["127.0.0.1".into()], ..one });
    let mut open: Vec<Raw> = (0..3).map(|_| Raw::to(&server)).collect();
    let clients = ["192.0.2.1", "192.0.2.1", "192.0.2.2"];
    let asked =
        open.iter_mut().zip(clients).map(|(raw, ip)| ask_live(raw, &format!("X-Forwarded-For: {ip}\r\n")).status);
    assert_eq!(asked.collect::<Vec<_>>(), [200, 503, 200]);
    server.stop();
}

/// Regression: clients that do not read occupied every worker over tiny_http without a time limit.
#[test]
fn clients_that_do_not_read_leave_workers_for_pages() {
    static LARGE: [u8; 16 << 20] = [b'x'; 16 << 20];
    let app = App::with_config(Config { max_workers: 4, ..config() })
        .get("/", |_: &mut Request| "home")
        .get("/large", |_: &mut Request| aside::Response::bytes("text/plain", &LARGE[..]));
    let server = start(app);
    let mut slow: Vec<Raw> = (0..8).map(|_| Raw::to(&server)).collect();
    slow.iter_mut().for_each(|raw| _ = raw.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n"));
    is_answered(&server);
    drop(slow);
    server.stop();
}

/// Regression: over tiny_http each request after a live page on the same connection occupied a worker until the page ended.
#[cfg(target_os = "linux")]
#[test]
fn requests_after_a_live_page_leave_workers_for_pages() {
    let server = live(Config { max_workers: 4, ..config() });
    let mut raw = Raw::to(&server);
    assert_eq!(ask_live(&mut raw, "").status, 200);
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8));
    for _ in 0..8 {
        is_answered(&server);
    }
    server.stop();
}

#[test]
fn handlers_that_hold_all_workers_are_named_once() {
    logs::record();
    let (gate, (begun, beginning)) = (Arc::new(Gate::default()), mpsc::channel());
    let theirs = gate.clone();
    let hold = Arc::new(move || {
        begun.send(()).unwrap();
        theirs.pass();
        "done"
    });
    let also = hold.clone();
    let app = App::with_config(Config { max_workers: 3, ..config() })
        .get("/", |_: &mut Request| "home")
        .get("/held-by-photos/{id}", move |_: &mut Request| hold())
        .post("/held-by-orders", move |_: &mut Request| also());
    let server = start(app);
    let heads = ["GET /held-by-photos/17?secret=1", "HEAD /held-by-photos/18", "POST /held-by-orders"];
    let mut clients = heads.map(|head| {
        let mut raw = Raw::to(&server);
        raw.send(format!("{head} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        beginning.recv_timeout(PATIENCE).expect("the handler begins");
        raw
    });
    let mut waits = Raw::to(&server);
    waits.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    logs::wait_for(
        1,
        "Handlers hold 3 of 3 (ASIDE_MAX_WORKERS): GET /held-by-photos/{id} (2), POST /held-by-orders (1). Move what the \
         client need not wait for to `background`, limit slow work with a `Pool`, or set a higher ASIDE_MAX_WORKERS.",
    );
    gate.open();
    assert_eq!((waits.reply().body.as_str(), clients[0].reply().body.as_str()), ("home", "done"));
    server.stop();
    let lines = logs::at(Level::Warn, "GET /held-by-photos/{id} (");
    assert!(lines.len() == 1 && lines[0].contains("busy for over a second, and new requests wait"), "{lines:?}");
}
