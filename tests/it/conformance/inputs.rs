//! All probes of the tables, sent to one server: no panic, no 5xx, and no lost memory.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use super::*;
use crate::wire::PATIENCE;

/// Returns all probes of all tables.
pub(crate) fn all_probes() -> Vec<Probe> {
    use super::{connection, fields, framing, request_line};
    let tables: [fn() -> Vec<Probe>; 13] = [
        request_line::methods,
        request_line::targets,
        request_line::versions,
        request_line::white_space,
        fields::names,
        fields::values,
        fields::folds,
        fields::sizes,
        fields::hosts,
        framing::lengths,
        framing::codings,
        framing::chunks,
        connection::persistence,
    ];
    tables.iter().flat_map(|table| table()).collect()
}

/// The allowed growth of the resident memory in another round, in pages of 4 KiB: each refused connection holds a thread for
/// a second, so that the client can read the response.
const MORE_PAGES: u64 = 16 << 8;

/// Not a test: the server that other tests start as another process.
#[test]
fn site_in_a_child() {
    if std::env::var_os("ASIDE_TEST_INPUTS").is_none() {
        return;
    }
    if let Some(most) = std::env::var("ASIDE_TEST_FILES").ok().and_then(|most| most.parse().ok()) {
        use rustix::process::{Resource, Rlimit, setrlimit};
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) }).unwrap();
    }
    let pages = |_: &mut Request| std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let live = aside::Live::new(std::collections::BTreeMap::from([("count", 0)]));
    let (shown, counted) = (live.clone(), live.clone());
    let config = aside::Config { max_streams: 2_000, ..config() };
    let app = App::with_config(config).get("/statm", pages).post("/multipart", crate::multipart::read);
    let app = app.template("count.html", "{{ count }}");
    let app = app.get("/live", move |req: &mut Request| req.live(&shown, "count.html"));
    let app = app.get("/watchers", move |_: &mut Request| counted.watchers().to_string());
    let app = app.post("/count", move |_: &mut Request| live.update(|state| *state.entry("count").or_default() += 1));
    app.fallback(|req: &mut Request| req.bytes().map(|body| format!("{} bytes", body.len()))).run().unwrap();
}

/// A server in a process of its own, with the lines of its log.
pub(crate) struct Apart {
    child: Child,
    log: Option<JoinHandle<Vec<String>>>,
    pub(crate) addr: String,
}

impl Apart {
    pub(crate) fn start(settings: &[(&str, &str)]) -> Apart {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "conformance::inputs::site_in_a_child", "--nocapture", "--test-threads=1"])
            .env("ASIDE_TEST_INPUTS", "1")
            .envs(settings.iter().copied())
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let line = lines.find(|line| line.contains("aside listens on http://")).expect("it starts");
        let addr = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let log = Some(std::thread::spawn(move || lines.collect()));
        Apart { child, log, addr }
    }

    fn send(&self, bytes: &[u8]) -> String {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // The server may refuse the request and close the connection before all bytes are sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Sends each input once, and returns the resident memory, in pages.
    fn round(&self, inputs: &[Vec<u8>]) -> u64 {
        for input in inputs {
            let answer = self.send(input);
            assert!(
                !answer.replace("HTTP/1.1 501 ", "").contains("HTTP/1.1 5") && !answer.contains("HTTP/1.0 5"),
                "{:?}: {answer}",
                String::from_utf8_lossy(input)
            );
        }
        self.resident()
    }

    /// Returns the resident memory, in pages.
    pub(crate) fn resident(&self) -> u64 {
        let statm = self.ask("GET /statm");
        let pages = statm.split_whitespace().rev().nth(5).unwrap_or_else(|| panic!("no answer: {statm:?}"));
        pages.parse().unwrap()
    }

    /// Returns the response to a request on a connection of its own.
    pub(crate) fn ask(&self, what: &str) -> String {
        self.send(format!("{what} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes())
    }

    /// Returns the number of its threads.
    #[cfg(all(feature = "epoll", target_os = "linux"))]
    pub(crate) fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().count()
    }

    pub(crate) fn end(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        self.log.take().expect("it is read once").join().unwrap()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn inputs() -> Vec<Vec<u8>> {
    let heads = all_probes().into_iter().filter(|probe| probe.must_not_cost_a_thread()).map(|probe| probe.sent);
    let bodies = crate::multipart::streams().into_iter().map(|stream| {
        let (length, content_type) = (stream.body.len(), stream.content_type);
        let head = format!(
            "POST /multipart HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        );
        [head.into_bytes(), stream.body].concat()
    });
    heads.chain(bodies).collect()
}

impl Probe {
    /// Returns false for a huge body: tiny_http loses a thread for each.
    fn must_not_cost_a_thread(&self) -> bool {
        !matches!(self.must.here(), Must::Refuse(413))
    }
}

#[cfg(target_os = "linux")]
#[test]
fn hostile_inputs_cause_no_panic_and_lose_no_memory() {
    let site = Apart::start(&[]);
    let inputs = inputs();
    // The first rounds start threads and allocate buffers that are reused.
    let before = (0..3).map(|_| site.round(&inputs)).max().unwrap();
    let after = site.round(&inputs);
    assert!(before > 0 && after < before + MORE_PAGES, "{before} pages, then {after}");
    let log = site.end();
    assert!(inputs.len() * 4 > 2_000 && log.len() > 1_000, "{} inputs, {} lines", inputs.len(), log.len());
    let panics: Vec<_> = log.iter().filter(|line| line.contains("panicked")).collect();
    assert!(panics.is_empty(), "{panics:?}");
}
