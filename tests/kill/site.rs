//! The site: an application with jobs that report to the ledger, and record their effect in their own transaction.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use aside::jobs::rusqlite::Connection;
use aside::jobs::{JobInfo, JobState};
use aside::tasks::Retry;
use aside::testing::TestJobs;
use aside::{App, Error, Job, Jobs, Json, Request, Result, Status, TaskContext};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::ledger::Ledger;
use crate::process::{Child, NUMBER, agent, until};

/// The variables with the store of the jobs, and the lease of a process.
const JOBS: &str = "KILL_JOBS";
const LEASE: &str = "KILL_LEASE";
const LEDGER: &str = "KILL_LEDGER";
const WORKERS: &str = "KILL_WORKERS";

/// The test's handle of a process that serves pages and runs jobs, or only runs jobs.
pub(crate) struct Site {
    pub(crate) child: Child,
    pub(crate) base: String,
}

/// The configuration of a process.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) jobs: String,
    pub(crate) ledger: String,
    pub(crate) lease: u64,
    pub(crate) workers: usize,
    pub(crate) grace: u64,
    pub(crate) more: Vec<(&'static str, String)>,
    pub(crate) through: Vec<String>,
}

impl Setup {
    pub(crate) fn new(jobs: &str, ledger: &Ledger) -> Setup {
        let (jobs, ledger) = (jobs.to_owned(), ledger.base().to_owned());
        Setup { jobs, ledger, lease: 3, workers: 4, grace: 25, more: Vec::new(), through: Vec::new() }
    }

    /// Starts a process that serves pages, and runs jobs unless it has no workers. It may not listen yet.
    pub(crate) fn spawn(&self, role: &str) -> Child {
        let (lease, workers, grace) = (self.lease.to_string(), self.workers.to_string(), self.grace.to_string());
        let mut environment = vec![
            (JOBS, &*self.jobs),
            (LEDGER, &self.ledger),
            (LEASE, &lease),
            (WORKERS, &workers),
            ("ASIDE_GRACE", &grace),
            ("ASIDE_ADDR", "127.0.0.1:0"),
        ];
        environment.extend(self.more.iter().map(|(name, value)| (*name, &**value)));
        let through: Vec<&str> = self.through.iter().map(String::as_str).collect();
        Child::start(role, &environment, (!through.is_empty()).then_some(&through))
    }

    pub(crate) fn site(&self) -> Site {
        let child = self.spawn("site");
        let base = address(&child).unwrap_or_else(|log| panic!("the site does not begin: {log}"));
        Site { child, base }
    }

    /// Starts a process that runs jobs and serves no pages.
    pub(crate) fn worker(&self) -> Child {
        let child = self.spawn("worker");
        child.log.wait_for("aside works on the jobs in ");
        child
    }
}

/// Waits for the address of a site. The error is its log, if it ended before.
pub(crate) fn address(child: &Child) -> Result<String, String> {
    let line = child.log.find("aside listens on http://")?;
    let base = line.split_whitespace().find(|word| word.starts_with("http://")).expect("an address");
    Ok(base.to_owned())
}

impl Site {
    /// Returns the status and the body, if the site responds.
    pub(crate) fn try_post(base: &str, target: &str) -> Result<(u16, String), ureq::Error> {
        let mut answer = agent().post(format!("{base}{target}")).send_empty()?;
        Ok((answer.status().as_u16(), answer.body_mut().read_to_string()?))
    }

    pub(crate) fn post(&self, target: &str) -> (u16, String) {
        Site::try_post(&self.base, target).expect("the site answers")
    }

    pub(crate) fn get(&self, target: &str) -> (u16, String) {
        let mut answer = agent().get(format!("{}{target}", self.base)).call().expect("the site answers");
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("a whole answer"))
    }

    /// Enqueues a job, and returns its id.
    #[track_caller]
    pub(crate) fn enqueue(&self, id: &str, what: &str) -> u64 {
        let (status, body) = self.post(&format!("/enqueue?id={id}&what={what}"));
        assert_eq!(status, 200, "{body}");
        body.parse().expect("a number")
    }

    /// Returns the record of a job.
    pub(crate) fn job(&self, number: u64) -> serde_json::Value {
        let (status, body) = self.get(&format!("/job?number={number}"));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("a job as JSON")
    }

    /// Waits until the job is in that state.
    #[track_caller]
    pub(crate) fn wait_for(&self, number: u64, state: &str) -> serde_json::Value {
        let what = format!("job {number} is {state}");
        until(&what, || Some(self.job(number)).filter(|job| job["state"] == state))
    }

    /// Returns the sorted ids of the jobs that had their effect.
    pub(crate) fn effects(&self) -> Vec<String> {
        let (status, body) = self.get("/effects");
        assert_eq!(status, 200, "{body}");
        body.lines().map(str::to_owned).collect()
    }

    /// Waits until the site is not ready, for this reason.
    #[track_caller]
    pub(crate) fn wait_until_not_ready(&self, reason: &str) {
        let told = format!(r#"{{"reasons":["jobs: {reason}"],"status":"unavailable"}}"#);
        until(&format!("it is not ready: {reason}"), || (self.get("/readyz") == (503, told.clone())).then_some(()));
    }

    /// Waits until `/healthz` has this status, and this state of the jobs. The process is alive in any case.
    #[track_caller]
    pub(crate) fn wait_for_health(&self, status: &str, jobs: &str) {
        let told = || {
            let (code, body) = self.get("/healthz");
            assert_eq!(code, 200, "{body}");
            let health: serde_json::Value = serde_json::from_str(&body).expect("the health as JSON");
            (health["status"] == status && health["jobs"] == jobs).then_some(())
        };
        until(&format!("its health is {status}: {jobs}"), told);
    }

    pub(crate) fn wait_until_ready(&self) {
        until("it is ready", || (self.get("/readyz").0 == 200).then_some(()));
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }
}

/// A job that acts as its id says.
#[derive(Serialize, Deserialize)]
struct Work {
    id: String,
    what: String,
}

impl Job for Work {
    const NAME: &'static str = "work";

    fn retry() -> Retry {
        Retry::exponential(20, Duration::from_millis(200))
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        tell("began", &self.id, false, task)?;
        match &*self.what {
            "short" => task.sleep(Duration::from_millis(10))?,
            "hold" => {
                while !is_open(&self.id) {
                    task.sleep(Duration::from_millis(20))?;
                }
            }
            "family" => {
                // A repeated attempt finds the job that the first one has enqueued.
                let child = Work { id: format!("{}.child", self.id), what: "hold".to_owned() };
                aside::jobs::enqueue(child.unique(&self.id))?;
                while !is_open(&self.id) {
                    task.sleep(Duration::from_millis(20))?;
                }
            }
            "stubborn" => {
                while !is_open(&self.id) {
                    thread::sleep(Duration::from_millis(20));
                }
            }
            fate => meet(fate),
        }
        tell("done", &self.id, false, task)?;
        record(&self.id, task)
    }
}

/// An isolated job that acts as its id says.
#[derive(Serialize, Deserialize)]
struct Isolated {
    id: String,
    what: String,
}

impl Job for Isolated {
    const NAME: &'static str = "isolated";
    const ISOLATED: bool = true;
    const DEADLINE: Option<Duration> = Some(Duration::from_secs(8));
    const MEMORY: u64 = 1 << 30;

    fn retry() -> Retry {
        Retry::exponential(1, Duration::from_secs(1))
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        tell("began", &self.id, true, task)?;
        match &*self.what {
            "output" => {
                task.message("the last part");
                task.progress(5, 5);
                task.output(&long_output())?;
            }
            fate => meet(fate),
        }
        tell("done", &self.id, true, task)
    }
}

/// Returns an output of the maximum length, including quotes and escapes.
pub(crate) fn long_output() -> String {
    "\"é\n".repeat(((1 << 20) - 2) / 6)
}

/// Ends as `fate` says.
fn meet(fate: &str) {
    match fate {
        "nothing" => {}
        "exit" => std::process::exit(3),
        "abort" => std::process::abort(),
        "overflow" => drop(std::hint::black_box(descend(0))),
        "memory" => drop(std::hint::black_box(vec![1_u8; 100 << 30])),
        "forever" => loop {
            thread::park();
        },
        other => panic!("no job does {other}"),
    }
}

#[allow(unconditional_recursion)]
fn descend(depth: u64) -> u64 {
    let held = std::hint::black_box([depth; 128]);
    descend(depth + 1) + held[0]
}

fn ledger() -> &'static str {
    static BASE: LazyLock<String> = LazyLock::new(|| variable(LEDGER));
    &BASE
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is set"))
}

fn tell(what: &str, id: &str, is_isolated: bool, task: &TaskContext) -> Result<()> {
    // An isolated job has a process of its own, without a number of the test.
    let process = if is_isolated { std::process::id().to_string() } else { variable(NUMBER) };
    let url = format!("{}/{what}?id={id}&attempt={}&process={process}", ledger(), task.attempt());
    agent().post(url).send_empty()?;
    Ok(())
}

fn is_open(id: &str) -> bool {
    let answer = agent().get(format!("{}/gate?id={id}&process={}", ledger(), variable(NUMBER))).call();
    answer.is_ok_and(|mut answer| answer.body_mut().read_to_string().is_ok_and(|words| words == "open"))
}

/// Records the effect together with the completion of the job, if the engine supports it.
fn record(id: &str, task: &TaskContext) -> Result<()> {
    if !variable(JOBS).starts_with("sqlite:") {
        return Ok(());
    }
    task.transaction(|db| {
        db.execute("INSERT INTO effects (id) VALUES (?1)", [id])?;
        Ok(())
    })
}

fn connect() -> Result<Connection> {
    let db = Connection::open(variable(JOBS).trim_start_matches("sqlite:"))?;
    db.busy_timeout(Duration::from_secs(60))?;
    Ok(db)
}

/// Ends the process, or never returns, if a test has created the file for that.
fn break_if_told() {
    let is_told = |name: &str| std::env::var(name).is_ok_and(|file| Path::new(&file).exists());
    if is_told("KILL_BROKEN") {
        std::process::exit(1);
    }
    while is_told("KILL_HUNG") {
        thread::park();
    }
}

/// Runs the site process.
pub(crate) fn run(role: &str) -> Result<()> {
    break_if_told();
    if variable(JOBS).starts_with("sqlite:") {
        // The jobs report a damaged or locked file.
        let _ = connect().and_then(|db| Ok(db.execute_batch("CREATE TABLE IF NOT EXISTS effects (id TEXT NOT NULL)")?));
    }
    let number = |name: &str| variable(name).parse::<u64>().expect("a number");
    let jobs = Jobs::open(&variable(JOBS))?
        .register::<Work>()
        .register::<Isolated>()
        .concurrency(number(WORKERS) as usize)
        .lease(Duration::from_secs(number(LEASE)))
        .retention(Duration::from_secs(3600), 1_000_000);
    let app = App::new()
        .jobs(jobs)
        .readyz()
        .healthz()
        .get("/", |_: &mut Request| "a page")
        .post("/enqueue", enqueue)
        .post("/family", family)
        .get("/job", job)
        .post("/retry", retry)
        .get("/dead", |req: &mut Request| req.jobs()?.list(JobState::Dead, None).map(Json))
        .get("/counts", |req: &mut Request| req.jobs()?.counts().map(Json))
        .get("/effects", effects)
        .post("/set_clock_back", set_clock_back)
        .post("/fill", fill)
        .post("/free", |_: &mut Request| std::fs::remove_file(filler()));
    if role == "worker" { app.work() } else { app.run() }
}

fn parameter(req: &mut Request, name: &str) -> Result<String> {
    let pairs = req.query_pairs()?;
    let value = pairs.into_iter().find(|(key, _)| key == name).map(|(_, value)| value);
    value.ok_or_else(|| Error::bad_request(format!("`{name}` is missing")))
}

fn enqueue(req: &mut Request) -> Result<String> {
    let (id, what) = (parameter(req, "id")?, parameter(req, "what")?);
    let enqueued = match what.strip_prefix("isolated-") {
        Some(what) => req.enqueue(Isolated { id, what: what.to_owned() })?,
        None => match what.strip_prefix("later-") {
            Some(what) => req.enqueue(Work { id, what: what.to_owned() }.delay(Duration::from_secs(2)))?,
            None => req.enqueue(Work { id, what })?,
        },
    };
    Ok(enqueued.id.to_string())
}

/// Enqueues a job that ends soon, and one that enqueues another. Returns the id and the trace of the request.
fn family(req: &mut Request) -> Result<String> {
    let id = parameter(req, "id")?;
    req.enqueue(Work { id: format!("{id}.short"), what: "nothing".to_owned() })?;
    req.enqueue(Work { id, what: "family".to_owned() })?;
    Ok(format!("{} {}", req.id(), req.trace()))
}

fn job(req: &mut Request) -> Result<Json<JobInfo>> {
    let number = parameter(req, "number")?.parse().map_err(|_| Error::bad_request("no number"))?;
    req.jobs()?.find(number)?.map(Json).ok_or_else(|| Error::not_found("no such job"))
}

fn retry(req: &mut Request) -> Result<String> {
    let number = parameter(req, "number")?.parse().map_err(|_| Error::bad_request("no number"))?;
    Ok(req.jobs()?.retry(number)?.to_string())
}

fn effects(_: &mut Request) -> Result<String> {
    let db = connect()?;
    let mut rows = db.prepare("SELECT id FROM effects ORDER BY id")?;
    let ids: Vec<String> = rows.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(ids.join("\n"))
}

/// Returns the path of a file that fills the disk.
fn filler() -> PathBuf {
    Path::new(variable(JOBS).trim_start_matches("sqlite:")).with_file_name("filler")
}

fn fill(_: &mut Request) -> Result<String> {
    let mut file = File::create(filler())?;
    let full = std::iter::repeat_with(|| file.write_all(&[1; 4096])).find_map(std::io::Result::err);
    Ok(full.map(|error| error.to_string()).unwrap_or_default())
}

fn set_clock_back(req: &mut Request) -> Result<Status> {
    let seconds = parameter(req, "seconds")?.parse().map_err(|_| Error::bad_request("no number"))?;
    TestJobs::new(&req.jobs()?).set_clock_back(Duration::from_secs(seconds));
    Ok(Status::OK)
}
