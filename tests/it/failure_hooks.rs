//! The hooks of `App::on_failure`: which failures they receive, what the reports say, and what a faulty hook does to the site.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

#[cfg(feature = "mail")]
use aside::config::Mode;
use aside::failures::{FailureKind, FailureReport};
use aside::tasks::Retry;
use aside::testing::TestClient;
use aside::{App, Config, Error, Job, Jobs, Request, Result, Task, TaskContext, background};
use log::Level;
use serde::{Deserialize, Serialize};

use crate::logs;

/// The reports that a hook has received.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Vec<FailureReport>>>);

impl Reports {
    fn hook(&self) -> impl Fn(&FailureReport) + Send + Sync + 'static {
        let reports = self.clone();
        move |report| reports.0.lock().unwrap().push(report.clone())
    }

    fn all(&self) -> Vec<FailureReport> {
        self.0.lock().unwrap().clone()
    }

    /// Returns the only report.
    fn only(&self) -> FailureReport {
        let all = self.all();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.into_iter().next().unwrap()
    }

    fn kinds(&self) -> Vec<FailureKind> {
        self.all().iter().map(|report| report.kind).collect()
    }
}

fn app() -> App {
    App::with_config(Config::default())
}

/// Returns the location of a line of this file.
fn here(line: u32) -> Option<String> {
    Some(format!("tests/it/failure_hooks.rs:{line}"))
}

const LINE_OF_FAIL: u32 = line!() + 3;

fn fail<T>() -> Result<T> {
    Err(Error::internal("the till is empty"))
}

const LINE_OF_PARSE: u32 = line!() + 3;

fn parse(text: &str) -> Result<u16> {
    Ok(text.parse()?)
}

#[test]
fn a_failed_request_is_reported_with_its_route_request_chain_and_location() {
    let reports = Reports::default();
    let app = app().on_failure(reports.hook()).get("/orders/{id}", |req: &mut Request| {
        let id: String = req.param("id")?;
        parse(&id).map(|id| id.to_string()).map_err(|error| error.context("cannot read the order"))
    });
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/orders/x").status_code().code(), 500);
    client.drain();
    let report = reports.only();
    assert_eq!(
        (report.kind, report.name.as_str(), report.status),
        (FailureKind::Request, "GET /orders/{id}", Some(500))
    );
    assert_eq!((report.message.as_str(), report.causes.len()), ("cannot read the order", 1));
    assert_eq!(report.chain(), "cannot read the order: invalid digit found in string");
    assert_eq!(report.location, here(LINE_OF_PARSE));
    let request = report.request.as_ref().unwrap();
    assert_eq!((request.method.as_str(), request.path.as_str(), request.trace), ("GET", "/orders/x", report.trace));
    assert!(!report.is_panic && !report.is_retried() && report.task.is_none() && report.attempt.is_none());
    let line = format!("GET /orders/x {} failed: {} (at {})", request.id, report.chain(), report.location.unwrap());
    assert_eq!(reports.only().to_string(), line);
    let own: Vec<_> = reports.only().frames().into_iter().filter(|frame| frame.is_own).collect();
    assert!(own.iter().any(|frame| frame.line == Some(LINE_OF_PARSE) && frame.function.contains("parse")), "{own:?}");
}

#[test]
fn a_panic_in_a_handler_is_reported_as_one_with_its_location() {
    let reports = Reports::default();
    let line = line!() + 1;
    let app = app().on_failure(reports.hook()).get("/", |_: &mut Request| -> &str { panic!("no more paper") });
    let mut client = TestClient::new(app);
    client.get("/");
    client.drain();
    let report = reports.only();
    assert!(report.is_panic);
    assert_eq!((report.message.as_str(), report.location), ("no more paper", here(line)));
}

#[test]
fn errors_of_the_client_and_refusals_are_not_reported() {
    let reports = Reports::default();
    let app = app().on_failure(reports.hook()).get("/gone", |_: &mut Request| Err::<(), _>(Error::not_found("Gone.")));
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/gone").status_code().code(), 404);
    assert_eq!(client.get("/none").status_code().code(), 404);
    client.within(|| Task::named("t").spawn(|_| Err::<(), Error>(aside::tasks::Cancelled.into())));
    client.drain();
    assert!(reports.all().is_empty(), "{:?}", reports.all());
}

#[test]
fn a_failed_task_is_reported_with_the_request_that_started_it() {
    let reports = Reports::default();
    let app = app().on_failure(reports.hook()).post("/orders", |_: &mut Request| {
        Task::named("send_receipt").spawn(|_| parse("x"));
        "ordered"
    });
    let mut client = TestClient::new(app);
    client.post("/orders").send();
    client.drain();
    let report = reports.only();
    assert_eq!((report.kind, report.name.as_str()), (FailureKind::Task, "send_receipt"));
    assert_eq!((report.attempt, report.attempts, report.next_attempt), (Some(1), None, None));
    assert_eq!(
        (report.request.as_ref().unwrap().path.as_str(), report.location.clone()),
        ("/orders", here(LINE_OF_PARSE))
    );
    assert_eq!(report.task, Some(client.failures()[0].id()));
    let line = report.to_string();
    assert!(line.starts_with("Background task send_receipt failed: invalid digit found in string (task "), "{line}");
}

#[test]
fn each_attempt_of_a_retried_task_is_reported_and_says_if_another_follows() {
    let reports = Reports::default();
    let client = TestClient::new(app().on_failure(reports.hook()));
    let retry = Retry::exponential(3, Duration::from_secs(3_600));
    client.within(|| Task::named("ping").retry(retry).spawn(|_| fail::<()>()));
    client.drain();
    let attempts: Vec<_> =
        reports.all().iter().map(|report| (report.attempt, report.attempts, report.is_retried())).collect();
    assert_eq!(attempts, [(Some(1), Some(3), true), (Some(2), Some(3), true), (Some(3), Some(3), false)]);
}

#[derive(Serialize, Deserialize)]
struct Charge;

impl Job for Charge {
    const NAME: &'static str = "charge";

    fn retry() -> Retry {
        Retry::exponential(3, Duration::from_secs(5))
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        fail()
    }
}

#[test]
fn a_job_that_is_retried_twice_and_dies_is_reported_three_times() {
    let reports = Reports::default();
    let app = app()
        .on_failure(reports.hook())
        .jobs(Jobs::memory().register::<Charge>())
        .post("/orders", |req: &mut Request| req.enqueue(Charge).map(|_| "thank you"));
    let mut client = TestClient::new(app);
    client.post("/orders").send();
    for _ in 0..5 {
        client.drain();
        client.advance(Duration::from_secs(3_600));
    }
    assert_eq!(reports.kinds(), [FailureKind::JobAttempt, FailureKind::JobAttempt, FailureKind::DeadJob]);
    let all = reports.all();
    let attempts: Vec<_> = all.iter().map(|report| (report.attempt, report.attempts, report.is_retried())).collect();
    assert_eq!(attempts, [(Some(1), Some(3), true), (Some(2), Some(3), true), (Some(3), Some(3), false)]);
    assert!(all.iter().all(|report| report.job == all[0].job && report.job.is_some() && report.trace == all[0].trace));
    assert_eq!(all[0].request.as_ref().unwrap().path, "/orders");
}

#[cfg(feature = "mail")]
#[test]
fn failed_mails_are_reported_as_mails_whether_a_task_or_a_job_sends_them() {
    let reports = Reports::default();
    let client = TestClient::new(app().on_failure(reports.hook()).jobs(Jobs::memory()));
    client.within(|| aside::Mail::to("not an address").send());
    client.drain();
    client.jobs().enqueue(aside::Mail::to("not an address")).unwrap();
    client.drain();
    assert_eq!(reports.kinds(), [FailureKind::Mail, FailureKind::Mail]);
    assert_eq!(reports.all().iter().map(|report| report.job.is_some()).collect::<Vec<_>>(), [false, true]);
}

#[cfg(feature = "webhook")]
#[test]
fn a_failed_webhook_is_reported_as_one() {
    let reports = Reports::default();
    let client = TestClient::new(app().on_failure(reports.hook()));
    client.within(|| aside::Webhook::post("nowhere").json("paid").send());
    client.drain();
    assert_eq!(reports.kinds(), [FailureKind::Webhook]);
}

#[cfg(all(unix, feature = "isolate"))]
fn fail_in_a_child(text: String) -> Result<u16> {
    background(fail::<()>).join().expect("panics are caught").expect_err("it fails");
    parse(&text)
}

#[cfg(all(unix, feature = "isolate"))]
#[test]
fn a_failed_isolated_function_and_its_tasks_are_reported_once_by_the_parent() {
    let reports = Reports::default();
    let app = app().isolated(fail_in_a_child).on_failure(reports.hook()).get("/", |_: &mut Request| {
        let task = aside::isolated(fail_in_a_child, "x".to_owned());
        let id = task.id().to_string();
        task.join().expect_err("it fails");
        id
    });
    let mut client = TestClient::new(app);
    let response = client.get("/");
    let (id, request) = (response.text().parse().unwrap(), response.header("X-Request-Id").unwrap());
    client.drain();
    let all = reports.all();
    assert_eq!(reports.kinds(), [FailureKind::Task, FailureKind::Task], "{all:?}");
    assert_eq!((all[0].message.as_str(), all[0].location.clone()), ("the till is empty", here(LINE_OF_FAIL)));
    assert_eq!(
        (all[1].message.as_str(), all[1].location.clone()),
        ("invalid digit found in string", here(LINE_OF_PARSE))
    );
    assert!(all.iter().all(|report| report.task == Some(id) && report.trace == all[0].trace));
    assert!(all.iter().all(|report| report.request.as_ref().unwrap().id == request && !report.frames().is_empty()));
}

#[test]
fn all_hooks_run_in_order_and_those_of_a_mounted_application_receive_the_failures_of_the_site() {
    let calls: Arc<Mutex<Vec<String>>> = Arc::default();
    let hook = |name: &'static str| {
        let calls = calls.clone();
        move |report: &FailureReport| calls.lock().unwrap().push(format!("{name} {}", report.name))
    };
    let shop = App::with_config(Config::default()).on_failure(hook("shop"));
    let app = app().on_failure(hook("first")).on_failure(hook("second")).mount("/shop", shop);
    let app = app.get("/1", |_: &mut Request| fail::<()>()).get("/2", |_: &mut Request| fail::<()>());
    let mut client = TestClient::new(app);
    client.get("/1");
    client.get("/2");
    client.drain();
    let expected: Vec<_> = ["1", "2"]
        .into_iter()
        .flat_map(|path| ["first", "second", "shop"].map(|name| format!("{name} GET /{path}")))
        .collect();
    assert_eq!(*calls.lock().unwrap(), expected);
}

#[test]
fn a_failing_and_a_panicking_hook_are_logged_once_and_the_next_hook_runs() {
    logs::record();
    let reports = Reports::default();
    let line = line!() + 2;
    let app = app()
        .on_failure(|_: &FailureReport| Err::<(), _>(Error::internal("hook hx-1 is offline")))
        .on_failure(|_: &FailureReport| -> () { panic!("hook hx-2 has a bug") })
        .on_failure(reports.hook())
        .get("/", |_: &mut Request| fail::<()>());
    let mut client = TestClient::new(app);
    client.get("/");
    client.drain();
    assert_eq!(reports.kinds(), [FailureKind::Request]);
    let failed = logs::at(Level::Error, "hook hx-1 is offline");
    let start = format!("aside::failures: The hook of App::on_failure at {} failed: hook hx-1", here(line).unwrap());
    assert!(failed.len() == 1 && failed[0].starts_with(&start), "{failed:?}");
    assert_eq!(logs::at(Level::Error, "panicked: hook hx-2 has a bug").len(), 1);
}

/// A job that fails, enqueued by a hook.
#[derive(Serialize, Deserialize)]
struct Notify;

impl Job for Notify {
    const NAME: &'static str = "notify";

    fn retry() -> Retry {
        Retry::exponential(1, Duration::ZERO)
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        background(fail::<()>).join().expect("panics are caught").expect_err("it fails");
        fail()
    }
}

fn notify_operators(report: &FailureReport) -> Result<()> {
    background(|| {
        background(fail::<()>);
        fail::<()>()
    });
    #[cfg(feature = "mail")]
    aside::Mail::to("not an address").send();
    aside::jobs::enqueue(Notify)?;
    assert_eq!(report.name, "GET /");
    Ok(())
}

#[test]
fn failures_of_what_a_hook_starts_are_not_reported_also_through_a_stored_job() {
    report_once(Jobs::memory());
}

#[cfg(feature = "sqlite")]
#[test]
fn failures_of_what_a_hook_starts_are_not_reported_also_through_a_job_in_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    report_once(Jobs::sqlite(folder.path().join("jobs.db")).unwrap());
}

/// Checks that one failed request leads to one report, although all that the hook starts fails too.
fn report_once(jobs: Jobs) {
    let reports = Reports::default();
    let app = app()
        .on_failure(reports.hook())
        .on_failure(notify_operators)
        .jobs(jobs.register::<Notify>())
        .get("/", |_: &mut Request| fail::<()>());
    let mut client = TestClient::new(app);
    client.get("/");
    client.drain();
    assert_eq!(reports.kinds(), [FailureKind::Request]);
    let failures = client.failures();
    assert_eq!(failures.len(), if cfg!(feature = "mail") { 5 } else { 4 }, "{failures:?}");
    assert!(failures.iter().all(|task| task.request().is_some_and(|request| request.path == "/")), "{failures:?}");
}

#[test]
fn a_hook_has_the_state_of_the_application() {
    struct Count(AtomicU32);
    let app = app()
        .state(Count(AtomicU32::new(0)))
        .on_failure(|_: &FailureReport| {
            Task::named("count").spawn(|task| task.state::<Count>().0.fetch_add(1, Ordering::Relaxed));
        })
        .get("/", |_: &mut Request| fail::<()>());
    let mut client = TestClient::new(app);
    client.get("/");
    client.drain();
    assert_eq!(client.state::<Count>().0.load(Ordering::Relaxed), 1);
}

#[test]
fn equal_failures_are_reported_ten_times_and_the_next_report_has_the_number_of_the_others() {
    let reports = Reports::default();
    let app = app()
        .on_failure(reports.hook())
        .get("/hot/{id}", |_: &mut Request| fail::<()>())
        .get("/cold", |_: &mut Request| fail::<()>());
    let mut client = TestClient::new(app);
    for id in 0..1_000 {
        client.get(&format!("/hot/{id}"));
    }
    client.drain();
    client.get("/cold");
    client.drain();
    let all = reports.all();
    let hot = all.iter().filter(|report| report.name == "GET /hot/{id}").count();
    // A minute that ends during the test begins a new window.
    assert!((10..=20).contains(&hot), "{hot}");
    assert_eq!(all.last().unwrap().name, "GET /cold");
    assert_eq!(all.iter().map(|report| report.suppressed).sum::<u64>(), 1_000 - hot as u64);
}

/// An error whose message is endless, and one whose message panics.
#[derive(Debug)]
struct Endless;

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (0..10_000_000).try_for_each(|_| f.write_str("é"))
    }
}

impl std::error::Error for Endless {}

#[derive(Debug)]
struct Rude;

impl fmt::Display for Rude {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("{}", "no ".repeat(5_000_000))
    }
}

impl std::error::Error for Rude {}

#[test]
fn a_report_of_an_endless_or_panicking_message_is_bounded() {
    let reports = Reports::default();
    let app = app()
        .on_failure(reports.hook())
        .get("/endless", |_: &mut Request| Err::<(), _>(Error::from(Endless)))
        .get("/rude", |_: &mut Request| Err::<(), _>(Error::from(Rude).context("cannot save")))
        .get("/long", |_: &mut Request| Err::<(), _>(Error::internal("x".repeat(10_000_000))));
    let mut client = TestClient::new(app);
    for path in ["/endless", "/rude", "/long"] {
        assert_eq!(client.get(path).status_code().code(), 500);
    }
    client.drain();
    let all = reports.all();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|report| report.chain().len() < 13_000 && report.to_string().len() < 14_000));
    assert!(all[0].message.starts_with("éé") && all[1].causes[0].starts_with("(its Display panicked: no no"));
}

#[test]
fn a_hook_that_blocks_keeps_neither_the_site_nor_its_shutdown() {
    logs::record();
    let (release, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let config = Config { address: "127.0.0.1:0".into(), grace: Duration::ZERO, ..Config::default() };
    let app = App::with_config(config)
        .on_failure(move |_: &FailureReport| wait.lock().unwrap().recv().unwrap_or_default())
        .get("/fail", |_: &mut Request| fail::<()>())
        .get("/", |_: &mut Request| "hello");
    let server = app.start().unwrap();
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    for _ in 0..20 {
        assert_eq!(agent.get(format!("http://{}/fail", server.addr())).call().unwrap().status().as_u16(), 500);
    }
    let page = agent.get(format!("http://{}/", server.addr())).call().unwrap().body_mut().read_to_string().unwrap();
    assert_eq!(page, "hello");
    server.stop();
    logs::wait_for(1, "Stopped waiting for the hooks of App::on_failure: 10 failure reports not handled.");
    drop(release);
}

#[test]
fn reports_that_wait_at_a_shutdown_are_delivered_with_the_tasks_of_the_hook() {
    let reports = Reports::default();
    let sent: Arc<AtomicU32> = Arc::default();
    let (count, (release, wait)) = (sent.clone(), mpsc::channel::<()>());
    let wait = Mutex::new(wait);
    let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
    let app = App::with_config(config)
        // Until the shutdown has begun.
        .on_failure(move |_: &FailureReport| wait.lock().unwrap().recv().unwrap_or_default())
        .on_failure(reports.hook())
        .on_failure(move |_: &FailureReport| {
            let count = count.clone();
            background(move || count.fetch_add(1, Ordering::Relaxed));
        })
        .get("/", |_: &mut Request| {
            background(fail::<()>);
            fail::<()>()
        });
    let server = app.start().unwrap();
    let addr = server.addr();
    for _ in 0..5 {
        assert!(ureq::get(format!("http://{addr}/")).call().is_err());
    }
    let (tell, stopped) = mpsc::channel();
    let stops = std::thread::spawn(move || {
        server.stop();
        tell.send(()).unwrap();
    });
    while std::net::TcpStream::connect(addr).is_ok() {
        std::thread::yield_now();
    }
    assert_eq!(reports.all().len(), 0);
    // Without the wait, the process would stop within milliseconds.
    assert!(stopped.recv_timeout(Duration::from_millis(500)).is_err(), "the shutdown waits for the hooks");
    drop(release);
    stops.join().unwrap();
    assert_eq!((reports.all().len(), sent.load(Ordering::Relaxed)), (10, 10));
}

#[cfg(feature = "mail")]
#[test]
fn an_alert_mail_names_the_failure_its_location_and_its_page_in_the_panel() {
    let (url, allowed_hosts) = (Some("https://shop.example".into()), vec!["shop.example".into()]);
    let config = Config { url, allowed_hosts, ..Config::default() };
    let app = App::with_config(config)
        .alert_mail("ops@shop.example")
        .alert_mail("Ada <ada@shop.example>")
        .jobs(Jobs::memory().register::<Charge>())
        .get("/orders/{id}", |_: &mut Request| parse("x").map(|port| port.to_string()));
    let mut client = TestClient::new(app);
    client.jobs().enqueue(Charge).unwrap();
    client.drain();
    assert!(client.outbox().is_empty(), "an attempt that is retried needs no human yet");
    let response = client.get("/orders/17");
    let id = response.header("X-Request-Id").unwrap().to_owned();
    client.get("/orders/18");
    client.drain();
    let mails = client.outbox();
    assert_eq!(mails.len(), 1, "{:?} {:?}", response.status_code(), client.failures());
    assert_eq!(mails[0].to, ["ops@shop.example", "Ada <ada@shop.example>"]);
    let title = "GET /orders/{id} failed: invalid digit found in string";
    assert_eq!(mails[0].subject, format!("shop.example: {title}"));
    let text = mails[0].text.as_deref().unwrap();
    let request = format!("GET /orders/17 {id}");
    for part in [title, &here(LINE_OF_PARSE).unwrap(), &request, &format!("https://shop.example/_aside/requests/{id}")]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[cfg(feature = "mail")]
#[test]
fn an_alert_mail_has_a_link_in_production_only_if_the_site_shows_the_panel_there() {
    let text_of = |with_panel: fn(App) -> App| {
        let config = Config {
            mode: Mode::Production,
            secrets: vec!["a secret of more than thirty-two bytes".into()],
            url: Some("https://shop.example".into()),
            mail_url: Some("memory:".into()),
            mail_from: Some("shop@shop.example".into()),
            ..Config::default()
        };
        let app = App::with_config(config).alert_mail("ops@shop.example").get("/", |_: &mut Request| fail::<()>());
        let mut client = TestClient::new(with_panel(app));
        client.get("/");
        client.drain();
        client.outbox()[0].text.clone().unwrap()
    };
    let without = text_of(|app| app);
    assert!(without.contains("GET / failed") && !without.contains("_aside"), "{without}");
    for with_panel in
        [(|app| app.panel(|_| false)) as fn(App) -> App, |app| app.mount("/ops", App::new().panel(|_| false))]
    {
        let with = text_of(with_panel);
        assert!(with.contains("https://shop.example/_aside/requests/"), "{with}");
    }
}

#[cfg(feature = "mail")]
#[test]
fn an_alert_mail_that_cannot_be_sent_is_logged_and_causes_no_other() {
    logs::record();
    let reports = Reports::default();
    let config = Config { mail_url: Some("file:/dev/null/alert-mail-ax".into()), ..Config::default() };
    let app = App::with_config(config)
        .alert_mail("ops@shop.example")
        .on_failure(reports.hook())
        .get("/", |_: &mut Request| fail::<()>());
    let mut client = TestClient::new(app);
    client.get("/");
    client.drain();
    assert_eq!(reports.kinds(), [FailureKind::Request]);
    assert_eq!(logs::at(Level::Error, "alert-mail-ax").len(), 1);
    assert_eq!(client.failures().len(), 1);
}

#[cfg(feature = "mail")]
#[test]
fn failures_that_wait_for_the_next_alert_mail_are_mailed_at_the_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let mail_url = Some(format!("file:{}", folder.path().display()));
    let config = Config { address: "127.0.0.1:0".into(), mail_url, ..Config::default() };
    let app = App::with_config(config).alert_mail("ops@shop.example").get("/", |_: &mut Request| fail::<()>());
    let server = app.start().unwrap();
    for _ in 0..3 {
        assert!(ureq::get(format!("http://{}/", server.addr())).call().is_err());
    }
    server.stop();
    let files = std::fs::read_dir(folder.path()).unwrap();
    let mut subjects: Vec<String> = files
        .map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap())
        .map(|mail| mail.lines().find_map(|line| line.strip_prefix("Subject: ")).unwrap().to_owned())
        .collect();
    subjects.sort();
    assert_eq!(subjects, ["GET / failed 2 times: the till is empty", "GET / failed: the till is empty"]);
}

#[cfg(feature = "mail")]
#[test]
fn an_invalid_address_of_alert_mails_is_refused_at_the_start() {
    let error = app().alert_mail("nobody").start().unwrap_err();
    assert!(error.chain().starts_with("App::alert_mail"), "{error:?}");
}
