//! The ledger: a process of its own that writes down what jobs say they do, survives all others, and opens gates.
//!
//! A run of a job says `began` when it begins and `done` when its work is done, which is before it is recorded anywhere else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use tiny_http::{Request, Response, Server};

use crate::process::{Child, agent, pairs};

/// What a run of a job said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) id: String,
    /// Which try it was, as the job knew it.
    pub(crate) attempt: u32,
    /// Which process it ran in.
    pub(crate) pid: u32,
    /// When; milliseconds since 1970.
    pub(crate) at: u64,
}

/// The time as lines have it.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    since.as_millis() as u64
}

/// The driver's end of it.
pub(crate) struct Ledger {
    /// Lives as long as this.
    _child: Child,
    base: String,
}

impl Ledger {
    pub(crate) fn start(folder: &Path) -> Ledger {
        let file = folder.join("ledger.txt");
        let child = Child::start("ledger", &[("KILL_FILE", file.to_str().expect("a path in UTF-8"))], None);
        let base = child.log.wait_for("ledger at ").rsplit(' ').next().expect("a word").to_owned();
        Ledger { _child: child, base }
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// All that it was told, in order.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.ask("lines").lines().map(Line::parse).collect()
    }

    /// How many different jobs were done.
    pub(crate) fn count(&self) -> usize {
        self.ask("count").parse().expect("a number")
    }

    /// What jobs of that id said.
    pub(crate) fn of(&self, id: &str) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.id == id).collect()
    }

    /// How often a job of that id said so.
    pub(crate) fn times(&self, what: &str, id: &str) -> usize {
        self.of(id).iter().filter(|line| line.what == what).count()
    }

    /// Lets jobs of that id end that wait.
    pub(crate) fn open(&self, id: &str) {
        self.ask(&format!("open?id={id}"));
    }

    fn ask(&self, what: &str) -> String {
        let url = format!("{}/{what}", self.base);
        let mut answer = agent().get(url).call().expect("the ledger answers");
        answer.body_mut().read_to_string().expect("the ledger answers in full")
    }
}

impl Line {
    fn parse(line: &str) -> Line {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("a line of five words");
        let (what, id) = (word().to_owned(), word().to_owned());
        let mut number = || word().parse().expect("a number");
        Line { what, id, attempt: number() as u32, pid: number() as u32, at: number() }
    }
}

/// What it keeps.
struct Book {
    lines: Vec<String>,
    done: BTreeSet<String>,
    gates: BTreeSet<String>,
    file: File,
}

impl Book {
    /// Written down when this returns, past a power cut too.
    fn note(&mut self, line: String, id: &str) {
        writeln!(self.file, "{line}").and_then(|()| self.file.sync_data()).expect("the ledger is written");
        if line.starts_with("done ") {
            self.done.insert(id.to_owned());
        }
        self.lines.push(line);
    }

    fn answer(&mut self, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = pairs(query);
        let of = |name: &str| pairs.get(name).cloned().unwrap_or_default();
        match path {
            "/began" | "/done" => {
                let (what, id) = (&path[1..], of("id"));
                self.note(format!("{what} {id} {} {} {}", of("attempt"), of("pid"), now()), &id);
                String::new()
            }
            "/lines" => self.lines.join("\n"),
            "/count" => self.done.len().to_string(),
            "/open" => {
                self.gates.insert(of("id"));
                String::new()
            }
            "/gate" => if self.gates.contains(&of("id")) { "open" } else { "shut" }.to_owned(),
            _ => "what?".to_owned(),
        }
    }
}

/// The process.
pub(crate) fn serve() {
    let file = File::create(std::env::var("KILL_FILE").expect("the ledger's file")).expect("the ledger's file");
    let book = Book { lines: Vec::new(), done: BTreeSet::new(), gates: BTreeSet::new(), file };
    let book = Arc::new(Mutex::new(book));
    let server = Arc::new(Server::http("127.0.0.1:0").expect("a port"));
    eprintln!("ledger at http://{}", server.server_addr());
    let threads = (0..8).map(|_| {
        let (server, book) = (server.clone(), book.clone());
        thread::spawn(move || server.incoming_requests().for_each(|request| answer(request, &book)))
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("it goes on"));
}

fn answer(mut request: Request, book: &Mutex<Book>) {
    // A connection is used again once all of a request is read.
    let _ = request.as_reader().read_to_end(&mut Vec::new());
    let words = book.lock().expect("the book").answer(request.url());
    // The asker may have been killed meanwhile.
    let _ = request.respond(Response::from_string(words));
}
