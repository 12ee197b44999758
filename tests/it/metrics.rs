//! The metrics: who may read them, what they say of requests, tasks and jobs, and that no client chooses their labels.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

#[cfg(feature = "mail")]
use aside::Mail;
use aside::server::Server;
use aside::tasks::Retry;
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Error, Job, Jobs, Live, Request, Result, Status, Task, TaskContext};
use serde::{Deserialize, Serialize};

use crate::logs;
use crate::panel::{development, production};
use crate::wire::{Gate, Raw, config, start};

const TOKEN: &str = "Bearer 9sQ-w2Lx_7TzVb4KcRm8";

fn has_token(req: &mut Request) -> bool {
    req.header("Authorization") == Some(TOKEN)
}

/// Returns the value of a series.
pub(crate) fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Returns the sum of the values of a family, by the value of the label `outcome`.
pub(crate) fn by_outcome(text: &str, family: &str) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for line in text.lines().filter(|line| line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{'))) {
        let (labels, value) = line.rsplit_once(' ').unwrap();
        let outcome = labels.split("outcome=\"").nth(1).unwrap().split('"').next().unwrap();
        *sums.entry(outcome.to_owned()).or_default() += value.parse::<f64>().unwrap();
    }
    sums
}

pub(crate) fn sums<const N: usize>(expected: [(&str, f64); N]) -> BTreeMap<String, f64> {
    expected.into_iter().map(|(outcome, sum)| (outcome.to_owned(), sum)).collect()
}

pub(crate) fn scrape(client: &mut TestClient) -> String {
    let response = client.get("/_aside/metrics");
    assert_eq!(response.status_code(), Status::OK, "{}", response.text());
    response.text().to_owned()
}

/// Returns all that a client can compare.
fn what_is_told(response: &TestResponse) -> (Status, Vec<(String, String)>, Vec<u8>) {
    let headers = response.headers().iter().filter(|(name, _)| *name != "X-Request-Id");
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (response.status_code(), headers, response.bytes().to_vec())
}

#[test]
fn in_development_clients_on_the_same_machine_read_the_metrics() {
    let mut client = TestClient::new(development());
    let response = client.request("GET", "/_aside/metrics").peer("127.0.0.1:5000").send();
    assert_eq!(response.header("Content-Type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    assert!(response.text().ends_with('\n') && response.text().contains("aside_build_info{version=\"0.1.0\"} 1\n"));
    let elsewhere = client.request("GET", "/_aside/metrics").peer("192.0.2.1:5000").send();
    assert_eq!(elsewhere.status_code(), Status::NOT_FOUND);
}

#[test]
fn clients_without_authorization_get_the_response_for_a_missing_path() {
    let apps: [fn(App) -> App; 2] = [|app| app, |app| app.fallback(|_: &mut Request| "nothing of ours")];
    for (site, own) in [development, production].into_iter().zip(apps) {
        let mut client = TestClient::new(own(site().metrics("/metrics", has_token)));
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
            let told = |client: &mut TestClient, path: &str| {
                let request = client.request(method, path).peer("192.0.2.1:5000").header("Authorization", "Bearer x");
                what_is_told(&request.send())
            };
            let expected = told(&mut client, "/no-such-page");
            for path in ["/metrics", "/_aside/metrics", "/metrics?Authorization=x"] {
                assert_eq!(told(&mut client, path), expected, "{method} {path}");
            }
        }
    }
}

#[test]
fn authorized_clients_read_the_metrics_under_any_host_name_and_cannot_post() {
    let mut client = TestClient::new(production().metrics("/metrics", has_token));
    let mut ask =
        |method, host| client.request(method, "/metrics").header("Host", host).header("Authorization", TOKEN).send();
    assert!(ask("GET", "10.0.0.17:8000").text().contains("aside_build_info"));
    let head = ask("HEAD", "10.0.0.17:8000");
    assert_eq!((head.status_code(), head.bytes().len()), (Status::OK, 0));
    let posted = ask("POST", "10.0.0.17:8000");
    assert_eq!((posted.status_code(), posted.header("Allow")), (Status::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
}

#[test]
fn an_authorization_that_panics_denies_access() {
    logs::record();
    let mut client = TestClient::new(production().metrics("/m", |_: &mut Request| panic!("metrics-boom")));
    assert_eq!(client.get("/m").status_code(), Status::NOT_FOUND);
    let line = "aside::metrics: The function of `App::metrics` panicked, and access is denied: metrics-boom";
    assert_eq!(logs::with(line).len(), 1);
}

#[test]
fn a_mounted_application_serves_the_metrics_of_the_site_below_its_path() {
    let ops = App::new().metrics("/metrics", |_: &mut Request| true);
    let mut client = TestClient::new(production().mount("/ops", ops).get("/page", |_: &mut Request| "hello"));
    client.get("/page");
    let text = client.get("/ops/metrics").text().to_owned();
    assert_eq!(value(&text, r#"aside_http_requests_total{method="GET",route="/page",status="200"}"#), Some(1.0));
}

#[test]
fn the_application_may_serve_the_metrics_at_the_address_of_development() {
    let mut client = TestClient::new(development().metrics("/_aside/metrics", has_token));
    assert_eq!(client.get("/_aside/metrics").status_code(), Status::NOT_FOUND);
    let allowed = client.request("GET", "/_aside/metrics").header("Authorization", TOKEN).send();
    assert_eq!(allowed.status_code(), Status::OK);
}

#[test]
fn no_client_chooses_a_label() {
    let mut client = TestClient::new(development().any("/items/{id}", |_: &mut Request| "hello"));
    let series = |text: &str| text.lines().filter(|line| line.contains("route=")).count();
    for method in ["GET", "BREW"] {
        client.request(method, "/items/first").send();
        client.request(method, "/first").send();
    }
    scrape(&mut client);
    let before = scrape(&mut client);
    for number in 0..500 {
        client.request(&format!("BREW{number}"), &format!("/items/evil-{number}?evil={number}")).send();
        client.request("GET", &format!("/evil-{number}")).header("Host", "localhost").header("X-Evil", "evil").send();
    }
    let after = scrape(&mut client);
    assert_eq!(series(&after), series(&before));
    assert!(!after.contains("evil") && !after.contains("BREW"), "{after}");
    let others = r#"aside_http_requests_total{method="other",route="/items/{id}",status="200"}"#;
    assert_eq!(value(&after, others), Some(501.0));
    assert_eq!(value(&after, r#"aside_http_requests_total{method="GET",route="none",status="404"}"#), Some(501.0));
    assert_eq!(value(&after, r#"aside_http_request_duration_seconds_count{route="none"}"#), Some(502.0));
}

#[derive(Serialize, Deserialize)]
enum Work {
    Succeeds,
    FailsOnce,
    Fails,
    IsCancelled,
}

impl Job for Work {
    const NAME: &'static str = "work";

    fn retry() -> Retry {
        Retry::exponential(2, Duration::from_millis(1))
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        match self {
            Work::Succeeds => Ok(()),
            Work::FailsOnce if task.attempt() == 2 => Ok(()),
            Work::FailsOnce | Work::Fails => Err(Error::internal("no credit")),
            Work::IsCancelled => Err(aside::tasks::Cancelled.into()),
        }
    }
}

/// The metrics, `TestClient::counts` and the job store tell of the same tasks and attempts.
#[test]
fn tasks_and_attempts_of_jobs_agree_with_the_counts() {
    let mut client = TestClient::new(development().jobs(Jobs::memory().register::<Work>()));
    client.within(|| {
        for _ in 0..3 {
            Task::named("succeeds").spawn(|_| ());
        }
        Task::named("fails").spawn(|_| Err::<(), _>("no credit"));
        Task::named("panics").spawn(|_| panic!("boom"));
        Task::named("is-cancelled").spawn(|_| Err::<(), _>(aside::tasks::Cancelled));
        let retry = Retry::exponential(2, Duration::ZERO);
        Task::named("fails-once").retry(retry).spawn(|task| if task.attempt() == 1 { Err("x") } else { Ok(()) });
        #[cfg(feature = "mail")]
        Mail::to("ada@example.org").from("shop@example.org").subject("Receipt").text("Thank you").send();
    });
    client.drain();
    let jobs = client.jobs();
    for job in [Work::Succeeds, Work::Succeeds, Work::FailsOnce, Work::Fails, Work::IsCancelled] {
        jobs.enqueue(job).unwrap();
    }
    for _ in 0..3 {
        jobs.drain();
        jobs.advance(Duration::from_secs(5));
    }
    let (text, counts) = (scrape(&mut client), client.counts());
    let (tasks, done) = (by_outcome(&text, "aside_tasks_total"), if cfg!(feature = "mail") { 5.0 } else { 4.0 });
    assert_eq!(tasks, sums([("cancelled", 1.0), ("done", done), ("failed", 1.0), ("panicked", 1.0)]), "{text}");
    let attempts = by_outcome(&text, "aside_job_attempts_total");
    assert_eq!(attempts, sums([("cancelled", 1.0), ("dead", 1.0), ("done", 3.0), ("retried", 2.0)]), "{text}");
    let all: f64 = tasks.values().chain(attempts.values()).sum();
    assert_eq!(all, counts.ended as f64);
    assert_eq!(tasks["failed"] + tasks["panicked"] + attempts["dead"] + attempts["retried"], counts.failed as f64);
    assert_eq!(tasks["cancelled"] + attempts["cancelled"], counts.cancelled as f64);
    assert_eq!(value(&text, r#"aside_task_retries_total{name="fails-once"}"#), Some(1.0));
    if cfg!(feature = "mail") {
        assert_eq!(value(&text, r#"aside_mails_total{outcome="sent"}"#), Some(1.0));
        assert_eq!(value(&text, r#"aside_tasks_total{name="mail",outcome="done"}"#), Some(1.0));
    }
    let states = [("done", 3.0), ("dead", 1.0), ("cancelled", 1.0), ("waiting", 0.0)];
    for (state, count) in states {
        assert_eq!(value(&text, &format!(r#"aside_jobs{{state="{state}"}}"#)), Some(count), "{state}: {text}");
    }
    assert_eq!(value(&text, "aside_jobs_up"), Some(1.0));
    assert_eq!(value(&text, "aside_tasks_running"), Some(0.0));
    jobs.enqueue(Work::Succeeds).unwrap();
    jobs.advance(Duration::from_secs(90));
    let text = scrape(&mut client);
    let latency = value(&text, r#"aside_queue_latency_seconds{queue="default"}"#).unwrap();
    assert!(latency >= 90.0, "{text}");
    assert_eq!(value(&text, r#"aside_queue_waiting_jobs{queue="default"}"#), Some(1.0));
}

/// Returns the metrics of a site over the wire.
fn scrape_over_the_wire(server: &Server) -> String {
    let mut raw = Raw::to(server);
    raw.send("GET /_aside/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let reply = raw.reply();
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

/// Scrapes a site until a series has a value.
fn wait_for(server: &Server, series: &str, expected: f64) -> String {
    loop {
        let text = scrape_over_the_wire(server);
        if value(&text, series) == Some(expected) {
            return text;
        }
        thread::yield_now();
    }
}

#[test]
fn the_current_numbers_are_those_of_the_server() {
    let (gate, live) = (Arc::new(Gate::default()), Live::new(BTreeMap::from([("number", 17)])));
    let (theirs, shown) = (gate.clone(), live.clone());
    let app = App::with_config(config())
        .template("number.html", "{{ number }}")
        .get("/held", move |_: &mut Request| {
            theirs.pass();
            "held"
        })
        .get("/live", move |req: &mut Request| req.live(&shown, "number.html"));
    let server = start(app);
    let (mut held, mut page) = (Raw::to(&server), Raw::to(&server));
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(page.send("GET /live HTTP/1.1\r\nHost: a\r\n\r\n").head().status, 200);
    // The handler of the scrape runs too.
    let text = wait_for(&server, "aside_http_requests_in_flight", 2.0);
    assert_eq!([value(&text, "aside_streams"), value(&text, "aside_live_pages")], [Some(1.0); 2], "{text}");
    assert!(value(&text, r#"aside_workers{state="busy"}"#).unwrap() >= 2.0, "{text}");
    assert!(value(&text, r#"aside_workers{state="idle"}"#).is_some(), "{text}");
    let connections = value(&text, "aside_http_connections");
    assert!(connections.map_or(crate::is_tiny_http(), |open| open >= 3.0), "{text}");
    gate.open();
    assert_eq!(held.reply().body, "held");
    drop(page);
    wait_for(&server, "aside_live_pages", 0.0);
    wait_for(&server, "aside_http_requests_in_flight", 1.0);
    server.stop();
}

#[test]
fn concurrent_scrapes_each_get_whole_metrics() {
    let server = start(App::with_config(config()).jobs(Jobs::memory().register::<Work>()));
    let begin = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                begin.wait();
                for _ in 0..20 {
                    let text = scrape_over_the_wire(&server);
                    assert!(text.starts_with("# HELP aside_build_info") && text.ends_with('\n'), "{text}");
                    assert_eq!(value(&text, "aside_jobs_up"), Some(1.0), "{text}");
                }
            });
        }
    });
    let text = scrape_over_the_wire(&server);
    let series = r#"aside_http_requests_total{method="GET",route="/_aside/metrics",status="200"}"#;
    assert_eq!(value(&text, series), Some(80.0));
    server.stop();
}

/// `promtool check metrics` of Prometheus parses the text, and knows the conventions for names, types and units.
#[test]
fn prometheus_accepts_the_metrics_of_a_busy_site() {
    if !has_promtool() {
        return;
    }
    let start_tasks = |_: &mut Request| {
        Task::named("quotes \" and \\ and\nlines").spawn(|_| ());
        Task::named("fails").spawn(|_| Err::<(), _>("no credit"));
        Task::named("panics").spawn(|_| panic!("boom"));
        let retry = Retry::exponential(2, Duration::from_millis(1));
        Task::named("fails-twice").retry(retry).spawn(|_| Err::<(), _>("no credit"));
        #[cfg(feature = "mail")]
        Mail::to("ada@example.org").from("shop@example.org").subject("Receipt").text("Thank you").send();
    };
    let enqueue = |req: &mut Request| -> Result<()> {
        for job in [Work::Succeeds, Work::Fails, Work::IsCancelled] {
            req.enqueue(job)?;
        }
        Ok(())
    };
    let config = Config { mail_url: Some("memory:".into()), ..config() };
    let app = App::with_config(config)
        .jobs(Jobs::memory().register::<Work>())
        .get("/fails", |_: &mut Request| Err::<(), _>(Error::internal("no credit")))
        .post("/tasks", start_tasks)
        .post("/jobs", enqueue);
    let server = start(app);
    for request in ["GET /fails", "GET /missing", "BREW /", "DELETE /tasks", "POST /tasks", "POST /jobs"] {
        Raw::to(&server).send(format!("{request} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")).head();
    }
    wait_for(&server, r#"aside_job_attempts_total{name="work",outcome="dead"}"#, 1.0);
    wait_for(&server, r#"aside_mails_total{outcome="sent"}"#, if cfg!(feature = "mail") { 1.0 } else { 0.0 });
    let text = wait_for(&server, r#"aside_tasks_total{name="fails-twice",outcome="failed"}"#, 1.0);
    server.stop();
    let (code, said) = check(&text);
    assert_eq!((code, said.as_str()), (Some(0), ""), "{text}");
    let (code, said) = check(&text.replacen("# TYPE aside_tasks_total counter", "# TYPE aside_tasks_total gauge", 1));
    assert!(code != Some(0) && said.contains("aside_tasks_total"), "promtool finds no mistake: {said}");
}

#[test]
fn prometheus_accepts_the_configuration_and_the_alerts_of_the_guide() {
    if !has_promtool() {
        return;
    }
    let guide = include_str!("../../docs/guide/12-deployment.md");
    let blocks = guide.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let folder = tempfile::tempdir().unwrap();
    for (kind, begin) in [("config", "scrape_configs:"), ("rules", "groups:")] {
        let block = blocks.clone().find(|block| block.starts_with(begin)).unwrap();
        let file = folder.path().join(kind);
        std::fs::write(&file, block).unwrap();
        // The file of the token does not exist here.
        let options: &[&str] = if kind == "config" { &["--syntax-only"] } else { &[] };
        let checked = Command::new("promtool").args(["check", kind]).args(options).arg(&file).output().unwrap();
        assert!(checked.status.success(), "{kind}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

/// Returns true if `promtool` is installed, and prints otherwise that the test is skipped.
fn has_promtool() -> bool {
    let version = Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if version.is_err() {
        eprintln!("skipped: no promtool is installed (Debian: apt install prometheus)");
    }
    version.is_ok()
}

/// Returns the exit status and the messages of `promtool check metrics`.
fn check(text: &str) -> (Option<i32>, String) {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&said).into_owned())
}

#[cfg(all(unix, feature = "redis"))]
#[test]
fn a_job_store_that_is_away_is_said_to_be_down_and_the_other_metrics_remain() {
    let Some(mut redis) = crate::redis_server::RedisServer::durable() else { return };
    let jobs = Jobs::redis(&redis.url()).unwrap().register::<Work>();
    let server = start(App::with_config(config()).jobs(jobs));
    let text = wait_for(&server, "aside_jobs_up", 1.0);
    assert_eq!(value(&text, r#"aside_jobs{state="waiting"}"#), Some(0.0));
    redis.kill();
    let text = wait_for(&server, "aside_jobs_up", 0.0);
    assert!(!text.contains("\naside_jobs{") && !text.contains("aside_queue"), "{text}");
    assert!(value(&text, "process_threads").is_some() || !cfg!(target_os = "linux"), "{text}");
    redis.restart();
    wait_for(&server, "aside_jobs_up", 1.0);
    server.stop();
}
