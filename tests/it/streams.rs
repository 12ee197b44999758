//! Streams over real sockets: the server notices disconnected clients, no stream blocks other clients or the shutdown, and
//! all streams end with the server.

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use aside::live::Event;
use aside::server::Server;
use aside::testing::TestClient;
use aside::{App, Config, Live, Request, Response};

use crate::wire::{Gate, PATIENCE, Raw, config, start};

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(600);

/// The end of a stream. `as_told` is true if the stream was told to end.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ended {
    name: String,
    as_told: bool,
}

fn told(name: impl ToString) -> Ended {
    Ended { name: name.to_string(), as_told: true }
}

#[test]
fn a_handler_can_check_if_the_client_is_still_connected() {
    let (tell, told) = mpsc::channel();
    let tell = Mutex::new(tell);
    let handler = move |req: &mut Request| {
        let tell = tell.lock().unwrap();
        tell.send(req.is_connected()).unwrap();
        while req.is_connected() {
            thread::yield_now();
        }
        tell.send(false).unwrap();
    };
    let server = start(App::with_config(config()).get("/", handler));
    for headers in ["", "Connection: close\r\n"] {
        let mut raw = Raw::to(&server);
        raw.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{headers}\r\n"));
        assert!(told.recv_timeout(PATIENCE).unwrap(), "{headers:?}");
        drop(raw);
        assert!(!told.recv_timeout(PATIENCE).unwrap(), "{headers:?}");
    }
    server.stop();
}

/// A site with `/wait/{name}`: a stream with one event and then a long pause, whose end is reported.
fn waiting(config: Config) -> (App, mpsc::Receiver<Ended>) {
    let (report, reported) = mpsc::channel();
    let report = Mutex::new(report);
    let handler = move |req: &mut Request| {
        let (name, report) = (req.param::<String>("name")?, report.lock().unwrap().clone());
        aside::ok(Response::events(move |events| {
            let waited = events.send("here").and_then(|()| events.wait(LONG));
            let _ = report.send(Ended { name, as_told: waited.is_err() });
            waited
        }))
    };
    (App::with_config(config).get("/", |_req: &mut Request| "home").get("/wait/{name}", handler), reported)
}

fn next(reported: &mpsc::Receiver<Ended>) -> Ended {
    reported.recv_timeout(PATIENCE).expect("a stream is told that its client has disconnected")
}

fn ask(server: &Server, request: &str) -> Raw {
    let mut raw = Raw::to(server);
    raw.send(format!("GET {request}\r\nHost: a\r\n\r\n"));
    raw
}

/// Opens a stream, and reads its first event.
fn open_page(server: &Server, name: &str) -> Raw {
    let mut raw = ask(server, &format!("/wait/{name} HTTP/1.1"));
    assert_eq!(raw.head().status, 200);
    assert_eq!(raw.chunk(), "data: here\n\n");
    raw
}

/// Opens a stream, disconnects, and waits until the server has noticed, so that it has also processed everything before.
fn connect_and_disconnect(server: &Server, reported: &mpsc::Receiver<Ended>) {
    drop(open_page(server, "leaves"));
    assert_eq!(next(reported), told("leaves"));
}

#[test]
fn a_disconnect_is_noticed_without_a_write() {
    let (app, reported) = waiting(config());
    let server = start(app);
    let head = |request: &str| {
        let mut raw = ask(&server, request);
        assert_eq!(raw.head().status, 200);
        raw
    };
    drop(open_page(&server, "seen"));
    assert_eq!(next(&reported), told("seen"));
    // With an unread event, the kernel sends a reset.
    drop(head("/wait/reset HTTP/1.1"));
    assert_eq!(next(&reported), told("reset"));
    let half = open_page(&server, "half");
    half.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert_eq!(next(&reported), told("half"));
    // Proxies send HTTP/1.0 by default.
    for request in ["/wait/old HTTP/1.0", "/wait/old HTTP/1.0\r\nConnection: keep-alive"] {
        drop(head(request));
        assert_eq!(next(&reported), told("old"));
    }
    let mut last = head("/wait/last HTTP/1.1\r\nConnection: close");
    assert_eq!(last.chunk(), "data: here\n\n");
    drop(last);
    assert_eq!(next(&reported), told("last"));
}

/// In some of the rounds the server searches for the socket while the library closes one of its two descriptors.
#[test]
fn a_disconnect_right_after_the_start_is_noticed() {
    let (app, reported) = waiting(config());
    let server = start(app);
    (0..3_000).for_each(|_| connect_and_disconnect(&server, &reported));
}

#[test]
fn only_the_streams_of_disconnected_clients_end() {
    let (app, reported) = waiting(config());
    let server = start(app);
    let pages: Vec<(usize, Raw)> = (0..200).map(|number| (number, open_page(&server, &number.to_string()))).collect();
    let (leaving, staying): (Vec<_>, Vec<_>) = pages.into_iter().partition(|(number, _)| number % 2 == 0);
    for group in [leaving, staying] {
        let expected: BTreeSet<Ended> = group.iter().map(|(number, _)| told(number)).collect();
        drop(group);
        let ended: BTreeSet<Ended> = (0..100).map(|_| next(&reported)).collect();
        assert_eq!(ended, expected);
    }
}

#[test]
fn a_stream_with_connection_close_continues() {
    let (app, reported) = waiting(config());
    let server = start(app);
    let mut staying: Vec<Raw> = (0..20)
        .map(|number| {
            let mut raw = ask(&server, &format!("/wait/{number} HTTP/1.1\r\nConnection: close"));
            raw.head();
            assert_eq!(raw.chunk(), "data: here\n\n");
            raw
        })
        .collect();
    connect_and_disconnect(&server, &reported);
    assert_eq!(reported.try_recv().unwrap_err(), mpsc::TryRecvError::Empty);
    staying.clear();
    let ended: BTreeSet<Ended> = (0..20).map(|_| next(&reported)).collect();
    assert_eq!(ended.len(), 20);
}

#[test]
fn a_client_that_closes_its_sending_side_gets_the_whole_download() {
    let (app, reported) = waiting(config());
    let gate = Arc::new(Gate::default());
    let theirs = gate.clone();
    let rows = "1,2,3\n".repeat(100_000);
    let rest = rows.clone();
    let server = start(app.get("/rows", move |_req: &mut Request| {
        let (gate, rest) = (theirs.clone(), rest.clone());
        Response::stream("text/csv", move |out| {
            out.write_all(b"a,b,c\n")?;
            gate.pass();
            out.write_all(rest.as_bytes())
        })
    }));
    let mut raw = ask(&server, "/rows HTTP/1.1");
    raw.head();
    assert_eq!(raw.chunk(), "a,b,c\n");
    raw.0.get_ref().shutdown(Shutdown::Write).unwrap();
    connect_and_disconnect(&server, &reported);
    gate.open();
    assert!(raw.chunk() == rows);
    assert_eq!(raw.chunk(), "");
}

#[test]
fn a_pipelined_request_after_a_live_page_waits_for_its_end() {
    let (app, reported) = waiting(config());
    let gate = Arc::new(Gate::default());
    let theirs = gate.clone();
    let server = start(app.get("/events", move |_req: &mut Request| {
        let gate = theirs.clone();
        Response::events(move |events| {
            events.send("one")?;
            gate.pass();
            events.wait(Duration::ZERO)?;
            events.send_event(&Event::new("two").named("end"))
        })
    }));
    let mut raw = ask(&server, "/events HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1");
    raw.head();
    assert_eq!(raw.chunk(), "data: one\n\n");
    connect_and_disconnect(&server, &reported);
    gate.open();
    assert_eq!((raw.chunk(), raw.chunk()), ("event: end\ndata: two\n\n".into(), String::new()));
    assert_eq!(raw.reply().body, "home");
    assert_eq!(raw.get("/").body, "home");
}

/// Stops the server on another thread, and reports the end.
fn stop(server: Server) -> mpsc::Receiver<()> {
    let (tell, stopped) = mpsc::channel();
    thread::spawn(move || {
        server.stop();
        let _ = tell.send(());
    });
    stopped
}

#[test]
fn a_live_page_ends_with_its_last_chunk_when_the_server_stops() {
    let (app, reported) = waiting(Config { grace: LONG, ..config() });
    let ticking = |_req: &mut Request| Response::events(|events| (0..).try_for_each(|_: u64| events.send("tick")));
    let gate = Arc::new(Gate::default());
    let theirs = gate.clone();
    let (begin, begun) = mpsc::channel();
    let begin = Mutex::new(begin);
    let app = app.get("/ticking", ticking).get("/slow", move |_req: &mut Request| {
        begin.lock().unwrap().send(()).unwrap();
        theirs.pass();
        "answered"
    });
    let server = start(app);
    let mut staying: Vec<Raw> = (0..10).map(|number| open_page(&server, &number.to_string())).collect();
    let mut ticking = ask(&server, "/ticking HTTP/1.1");
    assert_eq!(ticking.head().status, 200);
    let mut slow = ask(&server, "/slow HTTP/1.1");
    begun.recv_timeout(PATIENCE).unwrap();
    let stopped = stop(server);
    (0..10).for_each(|_| assert!(next(&reported).as_told));
    let until = Instant::now() + PATIENCE;
    while ticking.chunk() == "data: tick\n\n" {
        assert!(Instant::now() < until, "the stream does not end");
    }
    // Their connections end with them, while another handler still runs.
    staying.push(ticking);
    for raw in &mut staying[..10] {
        assert_eq!(raw.chunk(), "", "the end of the body, so that no proxy treats it as cut short");
    }
    staying.iter_mut().for_each(|raw| assert_eq!(raw.rest(), ""));
    gate.open();
    assert_eq!(slow.reply().body, "answered");
    stopped.recv_timeout(PATIENCE).unwrap();
}

/// A site with accounts, and two endless streams: `/events/{name}`, whose end is reported, and `/live`. Both read the user;
/// `/public` does not.
fn accounts(config: Config, live: &Live<u32>) -> Server {
    let (ours, theirs) = (live.clone(), live.clone());
    let app = App::with_config(Config { secrets: vec!["a".repeat(32)], ..config })
        .template("count.txt", "{{ state }}")
        .get("/events", |req: &mut Request| {
            let _user: Option<u64> = req.user();
            Response::events(|events| {
                events.send("here")?;
                events.wait(LONG)
            })
        })
        .get("/live", move |req: &mut Request| {
            let _user: Option<u64> = req.user();
            req.live(&ours, "count.txt")
        })
        .get("/public", move |req: &mut Request| req.live(&theirs, "count.txt"))
        .post("/login/{id}", |req: &mut Request| {
            let id: u64 = req.param("id")?;
            req.login(id)
        })
        .post("/logout", |req: &mut Request| req.logout())
        .post("/ended/{id}", |req: &mut Request| {
            let id: u64 = req.param("id")?;
            req.logout_everywhere(id)
        });
    start(app)
}

/// Sends a form with a cookie, and returns the first cookie that the response sets.
fn post(server: &Server, path: &str, cookie: &str) -> Option<String> {
    let mut raw = Raw::to(server);
    raw.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\nContent-Length: 0\r\n\r\n"));
    let reply = raw.reply();
    assert_eq!(reply.status, 200, "{path}");
    reply.header("Set-Cookie").map(|line| line.split(';').next().unwrap().to_owned())
}

/// Opens a stream with a cookie, and reads its first chunk.
fn stream(server: &Server, path: &str, cookie: &str) -> Raw {
    let mut raw = ask(server, &format!("{path} HTTP/1.1\r\nCookie: {cookie}"));
    assert_eq!(raw.head().status, 200, "{path}");
    assert_ne!(raw.chunk(), "");
    raw
}

/// Regression: the stream continued until the client disconnected, and showed the next user of the browser the events of the
/// previous user.
#[test]
fn only_streams_of_the_ended_session_end() {
    let live = Live::new(0);
    let server = accounts(config(), &live);
    let [one, other] = [(); 2].map(|()| post(&server, "/login/17", "").unwrap());
    let bystander = post(&server, "/login/18", "").unwrap();
    let mut ended = ["/events", "/live"].map(|path| stream(&server, path, &one));
    let mut elsewhere = ["/events", "/live"].map(|path| stream(&server, path, &other));
    let mut going_on = [("/live", bystander.as_str()), ("/live", ""), ("/public", &one)]
        .map(|(path, cookie)| stream(&server, path, cookie));
    let shows = |raw: &mut Raw, text: &str| while !raw.chunk().contains(text) {};

    post(&server, "/logout", &one);
    ended
        .iter_mut()
        .for_each(|raw| assert_eq!(raw.chunk(), "", "the end of the body, so that no proxy treats it as cut short"));
    live.update(|number| *number = 1);
    shows(&mut elsewhere[1], "data: 1\n");
    post(&server, "/ended/17", &bystander);
    elsewhere.iter_mut().for_each(|raw| assert_eq!(raw.chunk(), ""));
    live.update(|number| *number = 2);
    going_on.iter_mut().for_each(|raw| shows(raw, "data: 2\n"));
    server.stop();
}

/// The logout happens between the check of the session and the start of the stream.
#[test]
fn a_stream_of_a_request_from_before_the_logout_ends_at_once() {
    let (begin, begun) = mpsc::channel();
    let (begin, gate) = (Mutex::new(begin), Arc::new(Gate::default()));
    let theirs = gate.clone();
    let app = App::with_config(config())
        .get("/events", move |req: &mut Request| {
            let _user: Option<u64> = req.user();
            begin.lock().unwrap().send(()).unwrap();
            theirs.pass();
            Response::events(|events| events.wait(LONG))
        })
        .post("/login/{id}", |req: &mut Request| req.login(17))
        .post("/logout", |req: &mut Request| req.logout());
    let server = start(app);
    let cookie = post(&server, "/login/17", "").unwrap();
    let mut raw = ask(&server, &format!("/events HTTP/1.1\r\nCookie: {cookie}"));
    begun.recv_timeout(PATIENCE).unwrap();
    post(&server, "/logout", &cookie);
    gate.open();
    assert_eq!((raw.head().status, raw.chunk().as_str()), (200, ""));
    server.stop();
}

#[cfg(feature = "sqlite")]
#[test]
fn a_logout_in_another_process_ends_the_streams_of_the_session() {
    let folder = tempfile::tempdir().unwrap();
    let store = format!("sqlite:{}", folder.path().join("site.db").display());
    let live = Live::new(0);
    // Two servers share only the file, as two processes do.
    let [here, there] = [(); 2].map(|()| accounts(Config { store: Some(store.clone()), ..config() }, &live));
    for end in ["/logout", "/ended/17"] {
        let cookie = post(&here, "/login/17", "").unwrap();
        let mut streams = ["/events", "/live"].map(|path| stream(&there, path, &cookie));
        post(&here, end, &cookie);
        streams.iter_mut().for_each(|raw| assert_eq!(raw.chunk(), "", "{end}"));
    }
    here.stop();
    there.stop();
}

/// A site with streams that do not end by themselves. The result of their writes is reported.
fn endless(grace: Duration) -> (Server, mpsc::Receiver<std::io::Result<()>>) {
    let (report, reported) = mpsc::channel();
    let report = Arc::new(Mutex::new(report));
    let reports = report.clone();
    let text = "x".repeat(64 << 10);
    let page = text.clone();
    let events = move |_req: &mut Request| {
        let (report, page) = (report.lock().unwrap().clone(), page.clone());
        Response::events(move |events| {
            let error = (0..).try_for_each(|_: u64| events.send(page.as_str()));
            report.send(error).map_err(std::io::Error::other)
        })
    };
    let download = move |_req: &mut Request| {
        let (report, text) = (reports.lock().unwrap().clone(), text.clone());
        Response::stream("text/plain", move |out| {
            let error = (0..).try_for_each(|_: u64| out.write_all(text.as_bytes()));
            report.send(error).map_err(std::io::Error::other)
        })
    };
    let app = App::with_config(Config { grace, ..config() }).get("/", |_req: &mut Request| "home");
    (start(app.get("/events", events).get("/download", download)), reported)
}

#[test]
fn a_client_that_reads_nothing_of_an_endless_stream_blocks_nothing() {
    for (path, grace) in [("/events", LONG), ("/download", Duration::from_millis(100))] {
        let (server, reported) = endless(grace);
        let mut unread = ask(&server, &format!("{path} HTTP/1.1"));
        assert_eq!(unread.head().status, 200);
        assert_eq!(Raw::to(&server).get("/").body, "home");
        let stopped = stop(server);
        stopped.recv_timeout(PATIENCE).expect("the server stops");
        assert!(reported.recv_timeout(PATIENCE).unwrap().is_err());
    }
}

#[test]
fn a_dropped_test_stream_counts_as_disconnected() {
    let (app, reported) = waiting(config());
    let mut events = TestClient::new(app).events("/wait/test");
    assert_eq!(events.next().data, "here");
    drop(events);
    assert_eq!(next(&reported), told("test"));
}

#[test]
fn a_head_request_does_not_start_the_stream() {
    let (app, reported) = waiting(config());
    let server = start(app);
    let mut raw = Raw::to(&server);
    let head = raw.send("HEAD /wait/head HTTP/1.1\r\nHost: a\r\n\r\n").head();
    assert_eq!((head.status, head.header("Content-Type")), (200, Some("text/event-stream")));
    assert_eq!(raw.get("/").body, "home");
    connect_and_disconnect(&server, &reported);
    assert_eq!(reported.try_recv().unwrap_err(), mpsc::TryRecvError::Empty);
}

/// Tests with a site in a process of its own, whose memory is measured and which has its own descriptors.
#[cfg(target_os = "linux")]
mod alone {
    use std::io::{BufRead, BufReader, Read};
    use std::net::{SocketAddr, TcpStream};
    use std::process::{Child, Command, Stdio};

    use tempfile::TempDir;

    use super::*;

    const LARGE: usize = 64 << 20;

    /// Another process of this test binary, with [`site_alone`] as its only test.
    struct Site {
        child: Child,
        addr: SocketAddr,
        _folder: TempDir,
    }

    impl Site {
        fn start(max_streams: usize) -> Site {
            // Written by this process, so that its memory does not count for the site.
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join("large.bin"), vec![b'x'; LARGE]).unwrap();
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "streams::alone::site_alone", "--nocapture", "--test-threads=1"])
                .env("ASIDE_TEST_STREAMS", max_streams.to_string())
                .env("ASIDE_TEST_FOLDER", folder.path())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
            let mut found = lines.filter_map(|line| Some(line.split_once("listens on ")?.1.trim().parse().unwrap()));
            let addr = found.next().expect("the site prints its address");
            Site { child, addr, _folder: folder }
        }

        fn ask(&self, path: &str) -> Raw {
            let stream = TcpStream::connect(self.addr).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut raw = Raw(BufReader::new(stream));
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            raw
        }

        /// The most memory that it has had, in KiB.
        fn memory(&self) -> u64 {
            let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            line.trim().trim_end_matches(" kB").parse().unwrap()
        }
    }

    impl Drop for Site {
        fn drop(&mut self) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    /// Not a test of its own: what the tests here start as another process. It ends with its standard input.
    #[test]
    fn site_alone() {
        let Ok(max_streams) = std::env::var("ASIDE_TEST_STREAMS") else { return };
        let (app, _reported) = waiting(Config { max_streams: max_streams.parse().unwrap(), ..config() });
        let folder = std::env::var("ASIDE_TEST_FOLDER").unwrap();
        let stream = |_req: &mut Request| {
            Response::stream("text/csv", |out| (0..LARGE / 1024).try_for_each(|_| out.write_all(&[b'x'; 1024])))
        };
        let server = start(app.get("/stream", stream).static_files("/files", folder));
        println!("\nlistens on {}", server.addr());
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    }

    #[test]
    fn a_download_of_any_size_takes_little_memory() {
        let site = Site::start(10);
        assert_eq!(site.ask("/").reply().body, "home");
        let before = site.memory();
        let mut stream = site.ask("/stream");
        assert_eq!(stream.head().status, 200);
        let length: usize = std::iter::repeat_with(|| stream.chunk().len()).take_while(|length| *length > 0).sum();
        assert_eq!(length, LARGE);
        let mut file = site.ask("/files/large.bin");
        assert_eq!(file.head().header("Content-Length"), Some(LARGE.to_string().as_str()));
        let length = std::io::copy(&mut file.0.by_ref().take(LARGE as u64), &mut std::io::sink()).unwrap();
        assert_eq!(length, LARGE as u64);
        let grown = site.memory().saturating_sub(before);
        assert!(grown < 16 << 10, "{grown} KiB for 64 MiB");
    }

    #[test]
    fn a_thousand_streams_are_open_and_the_next_gets_503() {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut limit = getrlimit(Resource::Nofile);
        if limit.maximum.is_some_and(|most| most < 5_000) {
            return eprintln!(
                "skipped: the limit of descriptors is {:?}, for 1,000 streams it takes 5,000",
                limit.maximum
            );
        }
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).unwrap();
        let site = Site::start(Config::default().max_streams);
        let mut pages: Vec<Raw> = (0..1_000).map(|number| site.ask(&format!("/wait/{number}"))).collect();
        for page in &mut pages {
            assert_eq!(page.head().status, 200);
            assert_eq!(page.chunk(), "data: here\n\n");
        }
        let refused = site.ask("/wait/one-more").reply();
        assert_eq!((refused.status, refused.header("Retry-After")), (503, Some("5")));
        assert_eq!(site.ask("/").reply().body, "home");
        pages.pop();
        // The slot is free once the server notices the disconnect.
        let until = Instant::now() + PATIENCE;
        while site.ask("/wait/one-more").head().status != 200 {
            assert!(Instant::now() < until, "no slot is free");
        }
    }
}
