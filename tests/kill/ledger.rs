//! The ledger: a separate process that records the reports of jobs, survives all others, and opens gates.
//!
//! A job reports `began` when it starts, and `done` when its work is done, which is before the outcome is recorded
//! elsewhere.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use tiny_http::{Request, Response, Server};

use crate::process::{Child, agent, pairs};

/// A report of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) what: String,
    pub(crate) id: String,
    /// The attempt, as the job knew it.
    pub(crate) attempt: u32,
    /// The process that the job ran in.
    pub(crate) process: u32,
    /// The time; milliseconds since 1970.
    pub(crate) at: u64,
}

/// Returns the current time in the format of the lines.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    since.as_millis() as u64
}

/// The test's handle of the ledger.
pub(crate) struct Ledger {
    /// Kills the process on drop.
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

    /// Returns all reports, in order.
    pub(crate) fn lines(&self) -> Vec<Line> {
        self.ask("lines").lines().map(Line::parse).collect()
    }

    /// Returns the number of different jobs that were done.
    pub(crate) fn count(&self) -> usize {
        self.ask("count").parse().expect("a number")
    }

    /// Returns the reports of jobs with that id.
    pub(crate) fn of(&self, id: &str) -> Vec<Line> {
        self.lines().into_iter().filter(|line| line.id == id).collect()
    }

    /// Returns the number of such reports of jobs with that id.
    pub(crate) fn times(&self, what: &str, id: &str) -> usize {
        self.of(id).iter().filter(|line| line.what == what).count()
    }

    /// Lets waiting jobs with that id end; with `@` and the number of a process after it, only those in that process.
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
        Line { what, id, attempt: number() as u32, process: number() as u32, at: number() }
    }
}

/// The state of the ledger.
struct Reports {
    lines: Vec<String>,
    done: BTreeSet<String>,
    gates: BTreeSet<String>,
    file: File,
}

impl Reports {
    /// Records a report durably before it returns.
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
                self.note(format!("{what} {id} {} {} {}", of("attempt"), of("process"), now()), &id);
                String::new()
            }
            "/lines" => self.lines.join("\n"),
            "/count" => self.done.len().to_string(),
            "/open" => {
                self.gates.insert(of("id"));
                String::new()
            }
            "/gate" => {
                let (everywhere, here) = (of("id"), format!("{}@{}", of("id"), of("process")));
                let is_open = self.gates.contains(&everywhere) || self.gates.contains(&here);
                if is_open { "open" } else { "shut" }.to_owned()
            }
            _ => "what?".to_owned(),
        }
    }
}

/// Runs the ledger process.
pub(crate) fn serve() {
    let file = File::create(std::env::var("KILL_FILE").expect("the ledger's file")).expect("the ledger's file");
    let book = Reports { lines: Vec::new(), done: BTreeSet::new(), gates: BTreeSet::new(), file };
    let book = Arc::new(Mutex::new(book));
    let server = Arc::new(Server::http("127.0.0.1:0").expect("a port"));
    eprintln!("ledger at http://{}", server.server_addr());
    let threads = (0..8).map(|_| {
        let (server, book) = (server.clone(), book.clone());
        thread::spawn(move || server.incoming_requests().for_each(|request| answer(request, &book)))
    });
    threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().expect("it goes on"));
}

fn answer(mut request: Request, book: &Mutex<Reports>) {
    // A connection is reused only after the whole request has been read.
    let _ = request.as_reader().read_to_end(&mut Vec::new());
    let words = book.lock().expect("the book").answer(request.url());
    // The client may have been killed.
    let _ = request.respond(Response::from_string(words));
}
