//! The log as JSON: each line of a process with every kind of request, task and job, and the examples of the guide. The tests start
//! this test program as the site.
#![cfg(unix)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;

use aside::tasks::Retry;
use aside::{App, Error, Job, Jobs, Request, Result, Task, TaskContext, background};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A job that succeeds at the attempt with this number.
#[derive(Serialize, Deserialize)]
struct SendReceipt(u32);

impl Job for SendReceipt {
    const NAME: &'static str = "send_receipt";

    fn retry() -> Retry {
        Retry::exponential(3, Duration::ZERO)
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        log::info!(attempt = "forged", bytes = 17; "writing the receipt");
        let refused = || std::io::Error::new(std::io::ErrorKind::ConnectionRefused, "connection refused");
        if task.attempt() == self.0 { Ok(()) } else { Err(Error::from(refused()).context("cannot print")) }
    }
}

/// Starts a task of every ending.
fn work(_: &mut Request) -> Result<&'static str> {
    let flaky = |task: &TaskContext| if task.attempt() > 1 { Ok(()) } else { Err("a bad day") };
    Task::named("flaky").retry(Retry::exponential(2, Duration::ZERO)).spawn(flaky);
    Task::named("hopeless").retry(Retry::exponential(2, Duration::ZERO)).spawn(|_| Err::<(), _>("another bad day"));
    Task::named("cancelled").spawn(|task| task.sleep(Duration::MAX)).cancel();
    Task::named("overdue").deadline(Duration::from_millis(1)).spawn(|task| task.sleep(Duration::MAX));
    Task::named("stuck").spawn(|_| loop_forever());
    Task::named("charge").spawn(|_| Err::<(), _>("the bank is closed"));
    Task::named("boom").spawn(|_| -> () { panic!("a task panicked") });
    background(|| log::warn!(target: "shop", "in a task"));
    Ok("started")
}

fn loop_forever() {
    loop {
        std::thread::park();
    }
}

fn order(req: &mut Request) -> Result<String> {
    log::info!(target: "shop::orders", user = 17, request = "forged"; "a new order\nfor {}", req.path());
    let bytes: &[u8] = b"caf\xe9 \x1b[31m";
    log::warn!(long = "x".repeat(1 << 20).as_str(); "{}", String::from_utf8_lossy(bytes));
    log::info!("{}", Panicking);
    (1..=2).chain([9]).try_for_each(|lucky| req.enqueue(SendReceipt(lucky)).map(drop))?;
    Ok("ordered".into())
}

struct Panicking;

impl std::fmt::Display for Panicking {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("a value panicked")
    }
}

/// Not a test: the other tests start this as another process.
#[test]
fn site_in_a_child() {
    if std::env::var_os("ASIDE_TEST_JSON").is_none() {
        return;
    }
    // The test harness has a hook of its own.
    let _ = std::panic::take_hook();
    if std::env::var_os("ASIDE_TEST_HOOK").is_some() {
        std::panic::set_hook(Box::new(|_| log::error!("the hook of the application")));
    }
    let app = App::new()
        .get("/orders/{id}", |req: &mut Request| req.param::<u64>("id").map(|id| id.to_string()))
        .get("/fail", |_: &mut Request| -> Result<()> { Err(Error::internal("the page failed")) })
        .get("/panic", |_: &mut Request| -> () { panic!("the page panicked") })
        .get("/thread", |_: &mut Request| {
            let thread = std::thread::Builder::new().name("own".into()).spawn(|| panic!("a thread panicked")).unwrap();
            if thread.join().is_err() { "it panicked" } else { "" }
        })
        .get("/work", work)
        .post("/orders", order)
        .jobs(Jobs::memory().register::<SendReceipt>());
    if let Err(error) = app.run() {
        eprintln!("Error: {error:?}");
        std::process::exit(1);
    }
}

struct Site {
    child: Child,
    log: BufReader<ChildStderr>,
    lines: Vec<Value>,
}

impl Site {
    fn start(environment: &[(&str, &str)]) -> Site {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "json_log::site_in_a_child", "--nocapture", "--test-threads=1"])
            .envs([
                ("ASIDE_TEST_JSON", "1"),
                ("ASIDE_ADDR", "127.0.0.1:0"),
                ("ASIDE_LOG", "json"),
                ("ASIDE_GRACE", "1"),
                ("RUST_BACKTRACE", "0"),
            ])
            .envs(environment.iter().copied())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        Site { child, log, lines: Vec::new() }
    }

    /// Reads the log up to a line with this text in its message, and returns that line. Each line must be JSON.
    fn line(&mut self, message: &str) -> Value {
        loop {
            let mut text = String::new();
            assert_ne!(
                self.log.read_line(&mut text).unwrap(),
                0,
                "the log ended without {message:?}: {:#?}",
                self.lines
            );
            self.lines.push(parse(&text));
            let last = self.lines.last().unwrap();
            if last["message"].as_str().unwrap().contains(message) {
                return last.clone();
            }
        }
    }

    /// Returns the lines with this text in their messages. They are read already.
    fn with(&self, message: &str) -> Vec<&Value> {
        self.lines.iter().filter(|line| line["message"].as_str().unwrap().contains(message)).collect()
    }

    fn only(&self, message: &str) -> &Value {
        let lines = self.with(message);
        assert_eq!(lines.len(), 1, "{message}: {:#?}", self.lines);
        lines[0]
    }

    /// Reads the log until each of these texts was in a message.
    fn lines_with(&mut self, messages: &[&str]) {
        for message in messages {
            if self.with(message).is_empty() {
                self.line(message);
            }
        }
    }

    fn stop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        self.lines.extend(rest.split_inclusive('\n').map(parse));
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Parses a line, which has the fields of every line.
fn parse(text: &str) -> Value {
    assert!(text.ends_with('\n') && text.len() <= 16 << 10, "{text}");
    let line: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let time = line["time"].as_str().unwrap();
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000000Z");
    assert!(["error", "warn", "info", "debug"].contains(&line["level"].as_str().unwrap()), "{line}");
    assert!(line["target"].is_string() && line["message"].is_string(), "{line}");
    line
}

/// Sends requests over one connection, and reads the responses.
fn get(address: &str, requests: &[(&str, &str)]) {
    let mut stream = BufReader::new(TcpStream::connect(address.trim_start_matches("http://")).unwrap());
    for (method, path) in requests {
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
        stream.get_mut().write_all(head.as_bytes()).unwrap();
        let (mut length, mut line) = (0, String::new());
        while line != "\r\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0, "the connection ended");
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        stream.read_exact(&mut vec![0; length]).unwrap();
    }
}

/// Returns the log of a site after requests, tasks and jobs of every ending, and its shutdown.
fn session() -> Site {
    let mut site = Site::start(&[]);
    let address = site.line("aside listens on ")["address"].as_str().unwrap().to_owned();
    get(
        &address,
        &[
            ("GET", "/orders/7?code=secret"),
            ("GET", "/missing%0Apage"),
            ("PUT", "/orders/7"),
            ("GET", "/fail"),
            ("GET", "/panic"),
            ("GET", "/thread"),
            ("GET", "/work"),
            ("POST", "/orders"),
        ],
    );
    site.lines_with(&[
        "flaky is done at attempt 2",
        "hopeless failed: another bad day; gave up after 2 attempts",
        "cancelled was cancelled",
        "overdue timed out",
        "charge failed",
        "boom panicked",
        "in a task",
        "send_receipt (job 1) is done",
        "send_receipt (job 2) is done at attempt 2",
        "send_receipt (job 3) failed: cannot print: connection refused; the job is dead after 3 attempts",
        "POST /orders 200",
    ]);
    site.stop();
    site
}

/// Returns the values of fields, null for one that is missing.
fn fields<const N: usize>(line: &Value, names: [&str; N]) -> [Value; N] {
    names.map(|name| line.get(name).cloned().unwrap_or_default())
}

#[test]
fn each_line_of_a_process_is_one_object_with_stable_fields() {
    let site = session();
    requests(&site);
    tasks(&site);
    jobs(&site);
    lines_of_the_application(&site);
    for message in ["Stopping on SIGTERM", "All requests are answered.", "stuck was abandoned", "Stopped; "] {
        site.only(message);
    }
    examples(&site);
}

fn requests(site: &Site) {
    let access = ["level", "target", "status", "method", "route", "path", "client"];
    let page = site.only("GET /orders/7 200 after ");
    let expected = ["info", "aside::access", "", "GET", "/orders/{id}", "/orders/7", "127.0.0.1"];
    let expected = expected.map(|text| if text.is_empty() { json!(200) } else { json!(text) });
    assert_eq!(fields(page, access), expected);
    assert!(page["duration_us"].is_u64() && page["request"].as_str().unwrap().len() == 6, "{page}");
    assert!(page["trace"].as_str().unwrap().len() == 32 && !page.to_string().contains("secret"), "{page}");
    let missing = site.only("GET /missing");
    assert_eq!(fields(missing, ["status", "route", "path"]), [json!(404), json!(null), json!("/missing\npage")]);
    assert_eq!(site.only("PUT /orders/7 405 after ")["status"], 405);
    let failed = site.only("failed: the page failed");
    assert_eq!(fields(failed, ["level", "status", "error"]), [json!("error"), json!(500), json!(["the page failed"])]);
    assert!(failed["location"].as_str().unwrap().starts_with("tests/it/json_log.rs:"), "{failed}");
    assert_eq!(failed["request"], site.only("GET /fail 500 after ")["request"]);
    let panicked = site.only("panicked: the page panicked");
    assert_eq!(panicked["error"], json!(["panicked: the page panicked"]));
    let uncaught = site.only("a thread panicked");
    assert_eq!(fields(uncaught, ["level", "target"]), [json!("error"), json!("aside::panics")]);
    assert!(uncaught["message"].as_str().unwrap().starts_with("The thread own panicked: "), "{uncaught}");
    assert!(uncaught["location"].as_str().unwrap().starts_with("tests/it/json_log.rs:"), "{uncaught}");
}

fn tasks(site: &Site) {
    let request = site.only("GET /work 200 after ");
    let context = ["request", "trace"];
    for (message, level, attempt) in [
        ("flaky failed: a bad day; attempt 1 of 2", "warn", json!(1)),
        ("flaky is done at attempt 2", "info", json!(2)),
        ("hopeless failed: another bad day; gave up", "error", json!(2)),
        ("charge failed: the bank is closed", "error", json!(1)),
        ("boom panicked: a task panicked", "error", json!(1)),
        ("overdue timed out", "error", json!(1)),
        ("overdue is overdue", "warn", json!(1)),
        ("stuck was abandoned", "error", json!(1)),
    ] {
        let line = site.only(message);
        assert_eq!(
            fields(line, ["level", "target", "attempt"]),
            [json!(level), json!("aside::background"), attempt],
            "{line}"
        );
        assert_eq!(fields(line, context), fields(request, context), "{line}");
        assert!(line["task"].is_u64() && line["duration_us"].is_u64() && line.get("job").is_none(), "{line}");
    }
    let cancelled = site.only("cancelled was cancelled");
    assert_eq!(fields(cancelled, context), fields(request, context));
    let boom = site.only("boom panicked");
    assert_eq!(boom["error"], json!(["panicked: a task panicked"]));
    assert!(boom["location"].as_str().unwrap().starts_with("tests/it/json_log.rs:"), "{boom}");
}

fn jobs(site: &Site) {
    let request = site.only("POST /orders 200 after ");
    for (message, level, job, attempt) in [
        ("(job 1) is done", "info", 1, 1),
        ("(job 2) failed: cannot print: connection refused; attempt 1 of 3, the next in ", "warn", 2, 1),
        ("(job 2) is done at attempt 2", "info", 2, 2),
        ("(job 3) failed: cannot print: connection refused; the job is dead after 3 attempts", "error", 3, 3),
    ] {
        let line = site.only(message);
        assert_eq!(fields(line, ["level", "job", "attempt"]), [json!(level), json!(job), json!(attempt)], "{line}");
        assert_eq!(fields(line, ["request", "trace"]), fields(request, ["request", "trace"]), "{line}");
        let error = if level == "info" { json!(null) } else { json!(["cannot print", "connection refused"]) };
        assert_eq!(fields(line, ["error"]), [error]);
    }
}

fn lines_of_the_application(site: &Site) {
    let request = site.only("POST /orders 200 after ");
    let order = site.only("a new order\nfor /orders");
    assert_eq!(
        fields(order, ["request", "trace", "task"]),
        [request["request"].clone(), request["trace"].clone(), json!(null)]
    );
    assert_eq!(order["fields"], json!({ "user": 17, "request": "forged" }));
    assert!(order["location"].as_str().unwrap().starts_with("tests/it/json_log.rs:"), "{order}");
    site.only("caf\u{fffd} \u{1b}[31m");
    assert!(site.only("its Display panicked: a value panicked")["request"].is_string());
    let in_a_task = site.only("in a task");
    assert_eq!(in_a_task["request"], site.only("GET /work 200 after ")["request"]);
    assert!(in_a_task["task"].is_u64() && in_a_task.get("fields").is_none(), "{in_a_task}");
    let numbers = |line: &&Value| (line["job"].as_u64().unwrap(), line["attempt"].as_u64().unwrap());
    let in_a_job: BTreeSet<_> = site.with("writing the receipt").iter().map(numbers).collect();
    assert_eq!(in_a_job, BTreeSet::from([(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]));
    assert_eq!(site.with("writing the receipt")[0]["fields"], json!({ "attempt": "forged", "bytes": 17 }));
}

/// The page of the guide.
const GUIDE: &str = include_str!("../../docs/guide/14-logs.md");

/// Checks that each example of the guide has the fields of a real line of its kind, with values of the same types, and that the
/// table has all fields.
fn examples(site: &Site) {
    let table: BTreeMap<&str, &str> =
        GUIDE.lines().filter_map(|row| row.strip_prefix("| `")?.split_once("` | ")).collect();
    for line in &site.lines {
        for (name, value) in line.as_object().unwrap() {
            let kind = table.get(name.as_str()).unwrap_or_else(|| panic!("the table lacks {name}"));
            assert!(kind.starts_with(kind_of(value)), "{name}: {kind}");
        }
    }
    let blocks = GUIDE.split("```json\n").skip(1).map(|block| block.split("```").next().unwrap());
    let examples: Vec<Value> = blocks.flat_map(str::lines).map(|line| serde_json::from_str(line).unwrap()).collect();
    let shape = |line: &Value| -> BTreeMap<String, &str> {
        line.as_object().unwrap().iter().map(|(name, value)| (name.clone(), kind_of(value))).collect()
    };
    assert!(examples.len() >= 4);
    for example in examples {
        let is_real =
            site.lines.iter().any(|line| shape(line) == shape(&example) && line["target"] == example["target"]);
        assert!(is_real, "no line has the fields of {example}");
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Number(_) => "number",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
        _ => "text",
    }
}

#[test]
fn a_backtrace_is_a_field_of_the_line_and_not_a_part_of_its_message() {
    let mut site = Site::start(&[("RUST_BACKTRACE", "1")]);
    let address = site.line("aside listens on ")["address"].as_str().unwrap().to_owned();
    get(&address, &[("GET", "/fail"), ("GET", "/thread")]);
    for message in ["failed: the page failed", "a thread panicked"] {
        let line = site.line(message);
        assert!(!line["message"].as_str().unwrap().contains('\n'), "{line}");
        assert!(line["backtrace"].as_str().unwrap().contains("json_log.rs"), "{line}");
    }
    site.stop();
}

#[test]
fn a_panic_hook_of_the_application_is_called_after_the_line() {
    let mut site = Site::start(&[("ASIDE_TEST_HOOK", "1")]);
    let address = site.line("aside listens on ")["address"].as_str().unwrap().to_owned();
    get(&address, &[("GET", "/thread")]);
    site.line("a thread panicked");
    site.line("the hook of the application");
    site.stop();
}

#[test]
fn the_number_of_dropped_lines_is_json_too() {
    let mut site = Site::start(&[]);
    let address = site.line("aside listens on ")["address"].as_str().unwrap().to_owned();
    let path = format!("/missing/{}", "x".repeat(2_000));
    // Nothing reads the pipe in the meantime.
    get(&address, &vec![("GET", path.as_str()); 1_000]);
    get(&address, &[("GET", "/fail")]);
    let line = site.line("The log was not read: ");
    assert_eq!(fields(&line, ["level", "target"]), [json!("warn"), json!("aside::log")]);
    site.stop();
}

#[test]
fn another_format_is_refused_at_the_start() {
    let mut site = Site::start(&[("ASIDE_LOG", "xml")]);
    let mut text = String::new();
    site.log.read_to_string(&mut text).unwrap();
    assert!(text.contains("ASIDE_LOG takes `text` or `json`, and is `xml`"), "{text}");
}

#[test]
fn an_error_of_the_start_is_a_line_too() {
    let mut site = Site::start(&[("ASIDE_ADDR", "256.0.0.1:80")]);
    let line = site.line("The application did not start: ");
    assert!(line["level"] == "error" && line["error"].is_array(), "{line}");
}
