//! The panel at `/_aside`: who may see it, what it shows of tasks and mail, and that no name or mail can do harm.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use aside::config::Mode;
use aside::tasks::{Retry, TaskHandle};
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Error, Request, Response, Status, Task, background, redirect};

use crate::logs;

pub(crate) fn development() -> App {
    App::with_config(Config::default())
}

pub(crate) fn production() -> App {
    let secrets = vec!["k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf".into()];
    App::with_config(Config { mode: Mode::Production, secrets, ..Config::default() })
}

/// Starts a task that runs until its gate opens. Returns after its start.
fn held(client: &TestClient, task: Task) -> (TaskHandle<()>, Sender<()>) {
    let (let_go, waits) = mpsc::channel();
    let (begins, begun) = mpsc::channel();
    let handle = client.within(|| {
        task.spawn(move |_| {
            begins.send(()).unwrap();
            // An error means that the test has already ended.
            let _ = waits.recv();
        })
    });
    begun.recv().unwrap();
    (handle, let_go)
}

/// Returns a page, which must exist, with unescaped addresses.
pub(crate) fn page(client: &mut TestClient, path: &str) -> String {
    let response = client.get(path);
    assert_eq!(response.status_code(), Status::OK, "{path}: {}", response.text());
    response.text().replace("&#x2f;", "/")
}

/// Returns the text of a page between a heading and the next.
pub(crate) fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("<h2>{heading}</h2>")).unwrap_or_else(|| panic!("{heading}: {page}"));
    rest.split("<h2>").next().unwrap()
}

/// Returns all that a client can compare.
fn what_is_told(response: &TestResponse) -> (Status, Vec<(String, String)>, Vec<u8>) {
    let headers = response.headers().iter().filter(|(name, _)| *name != "X-Request-Id");
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (response.status_code(), headers, response.bytes().to_vec())
}

const PATHS: &[&str] = &[
    "/_aside",
    "/_aside/",
    "/_aside/live",
    "/_aside/tasks",
    "/_aside/tasks/live",
    "/_aside/tasks/failed",
    "/_aside/tasks/ended",
    "/_aside/tasks/1",
    "/_aside/tasks/1/live",
    "/_aside/tasks/1/cancel",
    "/_aside/tasks/x",
    "/_aside/panel.css",
    "/_aside/outbox",
    "/_aside/outbox/1",
    "/_aside/outbox/1/html",
    "/_aside/outbox/1/source",
    "/_aside/outbox/1/attachments/0",
    "/_aside/jobs",
    "/_aside/jobs/live",
    "/_aside/jobs/dead",
    "/_aside/jobs/search?text=x",
    "/_aside/schedules/run?name=x",
    "/_aside/jobs/dead/retry",
    "/_aside/jobs/dead/discard",
    "/_aside/queues/pause?queue=default",
    "/_aside/queues/resume?queue=default",
    "/_aside/jobs/1",
    "/_aside/jobs/1/live",
    "/_aside/jobs/1/cancel",
    "/_aside/jobs/1/retry",
    "/_aside/jobs/1/discard",
    "/_aside/requests",
    "/_aside/requests?q=000000",
    "/_aside/requests/000000",
    "/_aside/requests/4bf92f3577b34da6a3ce929d0e0e4736",
    "/_aside/requests/4bf92f3577b34da6a3ce929d0e0e4736/live",
    "/_aside/nothing",
];

/// Checks that the panel is hidden: the response for each path is that for a path without a route.
pub(crate) fn assert_hidden(
    client: &mut TestClient,
    as_stranger: impl Fn(aside::testing::TestRequest<'_>) -> TestResponse,
) {
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"] {
        let expected = what_is_told(&as_stranger(client.request(method, "/no-such-page")));
        for path in PATHS {
            let told = what_is_told(&as_stranger(client.request(method, path)));
            assert_eq!(told, expected, "{method} {path}");
        }
    }
}

#[test]
fn in_development_a_user_on_the_same_machine_sees_the_panel() {
    // A policy that the panel's own pages do not use.
    let mut client =
        TestClient::new(development().default_header("Content-Security-Policy", "style-src 'unsafe-inline'"));
    for peer in ["127.0.0.1:5000", "[::1]:5000"] {
        let response = client.request("GET", "/_aside").peer(peer).send();
        assert_eq!(response.status_code(), Status::OK);
        assert_eq!(response.header("Cache-Control"), Some("no-store"));
        let policy = response.header("Content-Security-Policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!response.text().contains("style=") && !response.text().contains("<style"));
    }
    for path in ["/_aside/", "/_aside/tasks/failed", "/_aside/tasks/ended"] {
        page(&mut client, path);
    }
}

#[test]
fn the_panel_is_hidden_from_other_users() {
    let mut client = TestClient::new(development());
    let (handle, let_go) = held(&client, Task::named("held-hidden"));
    assert_eq!(handle.id(), 1, "the paths name it");
    assert_hidden(&mut client, |request| request.peer("192.0.2.1:5000").send());
    for proxy in ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"] {
        assert_hidden(&mut client, |request| request.peer("127.0.0.1:5000").header(proxy, "192.0.2.1").send());
    }
    assert!(!handle.is_finished() && format!("{handle:?}").contains("Running"), "no stranger has cancelled it");
    let_go.send(()).unwrap();
    client.drain();
}

#[test]
fn other_users_get_the_response_for_a_missing_path() {
    let stranger = |request: aside::testing::TestRequest<'_>| request.peer("192.0.2.1:5000").send();
    let app = development().error_page(404, |_: &mut Request, _: &Error| "nothing of ours");
    let mut client = TestClient::new(app);
    assert_hidden(&mut client, stranger);
    assert_eq!(stranger(client.request("GET", "/_aside")).text(), "nothing of ours");
    let app = development()
        .fallback(|_: &mut Request| "the fallback")
        .before(|_: &mut Request| ())
        .after(|_: &mut Request, response: &mut Response| response.headers_mut().set("X-After", "1"));
    let mut client = TestClient::new(app);
    assert_hidden(&mut client, stranger);
    assert_eq!(stranger(client.request("GET", "/_aside")).text(), "the fallback");
}

#[test]
fn in_production_the_panel_is_hidden_without_a_guard() {
    let mut client = TestClient::new(production());
    assert_hidden(&mut client, |request| request.send());
    assert_hidden(&mut client, |request| request.peer("127.0.0.1:5000").send());
}

#[test]
fn the_guard_decides_who_sees_the_panel() {
    let app = production().panel(|req: &mut Request| req.header("X-Key") == Some("open"));
    let mut client = TestClient::new(app);
    assert_hidden(&mut client, |request| request.peer("127.0.0.1:5000").send());
    assert_hidden(&mut client, |request| request.header("X-Key", "shut").send());
    let open = client.request("GET", "/_aside").header("X-Key", "open").peer("192.0.2.1:5000").send();
    assert!(open.text().contains("All is well."), "{}", open.text());
    // In development, the guard is called for clients on other machines.
    let mut client = TestClient::new(development().panel(|req: &mut Request| req.header("X-Key") == Some("open")));
    let open = client.request("GET", "/_aside").header("X-Key", "open").peer("192.0.2.1:5000").send();
    assert_eq!((open.status_code(), client.get("/_aside").status_code()), (Status::OK, Status::OK));
}

#[test]
fn a_guard_that_panics_hides_the_panel() {
    logs::record();
    let app = production().panel(|_: &mut Request| panic!("the guard's\nown panic"));
    assert_hidden(&mut TestClient::new(app), |request| request.send());
    let told = logs::at(log::Level::Error, r"the guard's\nown panic");
    assert!(told.iter().all(|line| line.contains("aside::panel: The function of `App::panel` panicked")), "{told:?}");
    assert!(!told.is_empty());
}

#[test]
fn the_sites_own_hooks_run_before_the_guard() {
    let app = development().before(|req: &mut Request| req.header("X-Login").is_none().then(|| redirect("/login")));
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/_aside").location(), Some("/login"));
    assert_eq!(client.request("GET", "/_aside").header("X-Login", "1").send().status_code(), Status::OK);
}

#[test]
fn the_developer_sees_errors_for_other_methods_and_paths() {
    let mut client = TestClient::new(development());
    let response = client.post("/_aside").send();
    assert_eq!((response.status_code(), response.header("Allow")), (Status::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
    let response = client.get("/_aside/tasks/1/cancel");
    assert_eq!((response.status_code(), response.header("Allow")), (Status::METHOD_NOT_ALLOWED, Some("POST")));
    assert_eq!(client.get("/_aside/nothing").status_code(), Status::NOT_FOUND);
    assert_eq!(client.get("/_aside/tasks/x").status_code(), Status::NOT_FOUND);
}

#[test]
fn a_conflicting_route_is_refused_with_both_locations() {
    let config = || Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    let line = line!() + 1;
    let app = App::with_config(config()).get("/_aside", |_: &mut Request| "mine");
    let words = app.start().unwrap_err().to_string();
    assert!(words.contains(&format!("tests/it/panel.rs:{line}")) && words.contains("src/panel/mod.rs"), "{words}");
    // Other paths remain available, for all clients.
    let app = App::with_config(config()).get("/_aside/other", |_: &mut Request| "mine");
    let mut client = TestClient::new(app);
    assert_eq!(client.request("GET", "/_aside/other").peer("192.0.2.1:5000").send().text(), "mine");
}

#[test]
fn the_style_sheet_is_cached_under_an_address_with_its_hash() {
    let mut client = TestClient::new(development());
    let page = page(&mut client, "/_aside");
    let address = page.split("<link rel=\"stylesheet\" href=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(address.starts_with("/_aside/panel.css?v="), "{address}");
    let response = client.get(address);
    assert_eq!(response.header("Content-Type"), Some("text/css; charset=utf-8"));
    assert!(response.header("Cache-Control").unwrap().contains("immutable"));
    assert!(response.text().contains("prefers-color-scheme: dark"));
}

#[test]
fn an_empty_panel_has_texts_for_empty_lists() {
    let page = page(&mut TestClient::new(development()), "/_aside/tasks");
    for words in ["Nothing runs.", "Nothing failed.", "Nothing has ended yet."] {
        assert!(page.contains(words), "{words} in {page}");
    }
}

#[test]
fn the_overview_says_that_all_is_well_until_a_task_fails() {
    let mut client = TestClient::new(development());
    client.within(|| Task::named("fine").spawn(|_| ())).join().unwrap();
    let overview = page(&mut client, "/_aside");
    assert!(overview.contains("All is well.") && !overview.contains("Needs attention"), "{overview}");
    for order in [17, 18] {
        let failing = move |_: &aside::TaskContext| Err::<(), _>(format!("order {order} <is> sold"));
        client.within(|| Task::named("charge").spawn(failing)).join().unwrap_err();
    }
    let overview = page(&mut client, "/_aside");
    let attention = section(&overview, "Needs attention");
    assert!(attention.contains("order 18 &lt;is&gt; sold") && !attention.contains("order 17"), "{attention}");
    assert!(attention.contains("2 tasks") && attention.contains("href=\"/_aside/tasks/3\""), "{attention}");
    assert!(!overview.contains("All is well."), "{overview}");
}

#[test]
fn failed_requests_are_grouped_by_their_route_and_error() {
    let sold =
        |req: &mut Request| Err::<String, _>(Error::internal(format!("order {} is sold", req.param::<u64>("id")?)));
    let mut client = TestClient::new(development().get("/orders/{id}", sold).get("/fine", |_: &mut Request| "fine"));
    for path in ["/orders/17", "/orders/18", "/fine", "/missing"] {
        client.get(path);
    }
    let overview = page(&mut client, "/_aside");
    let attention = section(&overview, "Needs attention");
    assert!(attention.contains("GET /orders/{id}") && attention.contains("order 18 is sold"), "{attention}");
    assert!(attention.contains("2 requests") && !attention.contains("1 request"), "{attention}");
    let newest = attention.split("/_aside/requests/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert!(page(&mut client, &format!("/_aside/requests/{newest}")).contains("/orders/18"));
}

#[test]
fn fifty_open_overviews_are_updated_while_the_site_responds() {
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    let fail = |_: &mut Request| {
        background(|| Err::<(), _>("the-fifty-tabs-failure"));
    };
    let server = App::with_config(config).panel(|_| true).get("/fail", fail).start().unwrap();
    let connect = |path: &str| {
        let stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        write!(&stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        BufReader::new(stream)
    };
    let read_to = |reader: &mut BufReader<TcpStream>, wanted: &str| {
        let mut line = String::new();
        while !line.contains(wanted) {
            line.clear();
            assert_ne!(reader.read_line(&mut line).unwrap(), 0, "the page ended without {wanted}");
        }
    };
    let mut tabs: Vec<_> = (0..50).map(|_| connect("/_aside/live")).collect();
    tabs.iter_mut().for_each(|tab| read_to(tab, "All is well."));
    read_to(&mut connect("/fail"), "HTTP/1.1 200");
    tabs.iter_mut().for_each(|tab| read_to(tab, "the-fifty-tabs-failure"));
    drop(tabs);
    server.stop();
}

#[test]
fn a_time_is_relative_with_the_exact_time_beside_it() {
    let mut client = TestClient::new(development());
    client.within(|| Task::named("fine").spawn(|_| ())).join().unwrap();
    let list = page(&mut client, "/_aside/tasks");
    let time = list.split("<time datetime=\"").nth(1).unwrap();
    assert!(time.starts_with("20") && time.contains("Z\" title=\"20"), "{time}");
    let shown = time.split('>').nth(1).unwrap().split('<').next().unwrap();
    assert!(["just now", "1 min ago"].contains(&shown), "{shown}");
}

#[test]
fn each_page_is_marked_in_the_navigation() {
    let mut client = TestClient::new(development());
    client.within(|| Task::named("fine").spawn(|_| ())).join().unwrap();
    for (path, marked) in [
        ("/_aside", "\"/_aside\" aria-current=\"page\">Overview"),
        ("/_aside/tasks", "\"/_aside/tasks\" aria-current=\"page\">Tasks"),
        ("/_aside/tasks/1", "\"/_aside/tasks\" aria-current=\"true\">Tasks"),
    ] {
        let page = page(&mut client, path);
        assert!(page.contains(marked) && page.matches("aria-current").count() == 1, "{path}: {page}");
    }
}

#[test]
fn a_running_task_is_shown_with_all_its_fields() {
    let (let_go, waits) = mpsc::channel::<()>();
    let (begins, begun) = mpsc::channel();
    let waits = std::sync::Mutex::new(Some((waits, begins)));
    let app = development().post("/imports", move |_: &mut Request| {
        let (waits, begins) = waits.lock().unwrap().take().unwrap();
        Task::named("import").key("photo-17").spawn(move |task| {
            task.progress(30, 120);
            task.message("row 30 & on");
            begins.send(()).unwrap();
            let _ = waits.recv();
        });
    });
    let mut client = TestClient::new(app);
    let id = client.post("/imports").send().header("X-Request-Id").unwrap().to_owned();
    begun.recv().unwrap();
    let overview = page(&mut client, "/_aside/tasks");
    let now = section(&overview, "Now");
    for words in ["<bdi>import</bdi>", "key <bdi>photo-17</bdi>", "task 1", "running", "row 30 &amp; on", "25 %"] {
        assert!(now.contains(words), "{words} in {now}");
    }
    assert!(now.contains(&format!("POST /imports {id}")) && now.contains("value=\"25\"") && now.contains("30 of 120"));
    assert!(now.contains("action=\"/_aside/tasks/1/cancel?back=/_aside/tasks\""), "{now}");
    assert!(overview.contains("<dt>Running</dt><dd>1</dd>"), "{overview}");
    let script = overview.split("<script src=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(
        overview.contains("<aside-live src=\"/_aside/tasks/live\"") && client.get(script).status_code() == Status::OK
    );
    let whole = page(&mut client, "/_aside/tasks/1");
    for words in ["photo-17", &id, "running", "Cancel", "25 %", "<dt>Attempts</dt><dd class=\"number\">1</dd>"] {
        assert!(whole.contains(words), "{words} in {whole}");
    }
    let_go.send(()).unwrap();
    client.drain();
    let overview = page(&mut client, "/_aside/tasks");
    assert!(section(&overview, "Now").contains("Nothing runs."));
    assert!(section(&overview, "Ended").contains("<bdi>import</bdi>"));
    assert!(overview.contains("<dt>Running</dt><dd>0</dd>") && section(&overview, "Ended").contains("done"));
    assert!(!page(&mut client, "/_aside/tasks/1").contains("<button>"));
}

#[test]
fn a_task_that_waits_for_a_slot_is_counted_and_listed() {
    let mut client = TestClient::new(App::with_config(Config { max_tasks: 1, ..Config::default() }));
    let (_, let_go) = held(&client, Task::named("first"));
    client.within(|| Task::named("second").spawn(|_| ()));
    let overview = page(&mut client, "/_aside/tasks");
    assert!(overview.contains("<dt>Running</dt><dd>1</dd>") && overview.contains("<dt>Waiting</dt><dd>1</dd>"));
    let second = overview.split("<bdi>second</bdi>").nth(1).unwrap();
    assert!(second.contains("waiting"), "{second}");
    assert!(
        page(&mut client, "/_aside/tasks/2").contains("<dt>Began</dt><dd class=\"number\"><span class=\"soft\">never")
    );
    let_go.send(()).unwrap();
    client.drain();
}

#[test]
fn a_failed_task_is_shown_with_its_cause_and_location() {
    let app = development().post("/charge", |_: &mut Request| {
        background(|| Err::<(), _>(Error::from(std::io::Error::other("connection refused")).context("cannot charge")));
    });
    let mut client = TestClient::new(app);
    let id = client.post("/charge").send().header("X-Request-Id").unwrap().to_owned();
    client.drain();
    client.within(|| Task::named("boom").spawn(|_| panic!("no <paper> left"))).join().map(drop).unwrap_err();
    let overview = page(&mut client, "/_aside/tasks");
    let failed = section(&overview, "Failed");
    for words in ["cannot charge: connection refused", &id, "panicked: no &lt;paper&gt; left, at tests/it/panel.rs:"] {
        assert!(failed.contains(words), "{words} in {failed}");
    }
    assert!(failed.find("boom").unwrap() < failed.find("cannot charge").unwrap(), "the newest first");
    assert!(page(&mut client, "/_aside/tasks/failed").contains("cannot charge: connection refused"));
    assert!(overview.contains("<dt>Failed</dt><dd class=\"bad\">2<small>1 panicked</small></dd>"), "{overview}");
    let whole = page(&mut client, "/_aside/tasks/1");
    let wrong = section(&whole, "What went wrong");
    assert!(wrong.contains(">cannot charge</p>") && wrong.contains("because</span> connection refused"), "{whole}");
    assert!(
        wrong.contains("<code>tests/it/panel.rs:") && wrong.contains("<mark>"),
        "with the lines around it: {whole}"
    );
    // The setting of the process, which a test cannot change.
    let asked_for = std::env::var("RUST_BACKTRACE").is_ok_and(|value| value != "0");
    assert_eq!(whole.contains("RUST_BACKTRACE=1"), !asked_for, "{whole}");
    assert_eq!(whole.contains("The whole backtrace: "), asked_for);
}

/// Runs again in a separate process, since the setting is read once.
#[test]
fn a_backtrace_is_shown_if_there_is_one() {
    let run = |name: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env("RUST_BACKTRACE", "1")
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && words.contains("1 passed"), "{words}");
    };
    run("panel::a_failed_task_is_shown_with_its_cause_and_location");
}

#[test]
fn attempts_are_counted() {
    let mut client = TestClient::new(development());
    let task = Task::named("flaky").retry(Retry::exponential(3, Duration::from_millis(1)));
    let handle = client.within(|| task.spawn(|_| Err::<(), _>("not yet")));
    handle.join().unwrap_err();
    assert!(page(&mut client, "/_aside/tasks/1").contains("<dt>Attempts</dt><dd class=\"number\">3</dd>"));
}

#[test]
fn a_form_without_scripts_cancels_a_task() {
    let mut client = TestClient::new(development());
    let handle = client.within(|| {
        Task::named("long").spawn(|task| {
            task.sleep(Duration::from_secs(3600))?;
            aside::ok(())
        })
    });
    let response = client.post("/_aside/tasks/1/cancel?back=/_aside/tasks/1").form(&[]).send();
    assert_eq!((response.status_code(), response.location()), (Status::new(303), Some("/_aside/tasks/1")));
    assert!(handle.live().get().is_cancelling, "else it would be waited for in vain");
    assert_eq!(handle.join().unwrap_err().to_string(), "was cancelled");
    let whole = page(&mut client, "/_aside/tasks/1");
    assert!(whole.contains("long (task 1) was told to cancel.") && whole.contains("cancelled"), "{whole}");
    assert!(!page(&mut client, "/_aside").contains("was told to cancel"), "it is said once");
    let response = client.post("/_aside/tasks/1/cancel?back=https://elsewhere.example/").send();
    assert_eq!(response.location(), Some("/_aside/tasks"), "nowhere else");
    assert!(page(&mut client, "/_aside").contains("long (task 1) has already ended."));
}

#[test]
fn a_task_that_ignores_its_cancellation_is_shown_as_told_to_cancel() {
    let mut client = TestClient::new(development());
    let (_, let_go) = held(&client, Task::named("deaf"));
    client.post("/_aside/tasks/1/cancel").send();
    let overview = page(&mut client, "/_aside/tasks");
    let now = section(&overview, "Now");
    assert!(now.contains("told to cancel") && !now.contains("<button>"), "{now}");
    let_go.send(()).unwrap();
    client.drain();
}

#[test]
fn a_cross_site_request_cancels_no_task() {
    let mut client = TestClient::new(development());
    let (handle, let_go) = held(&client, Task::named("wanted"));
    let response = client.post("/_aside/tasks/1/cancel").header("Sec-Fetch-Site", "cross-site").send();
    assert_eq!(response.status_code(), Status::FORBIDDEN);
    let_go.send(()).unwrap();
    handle.join().unwrap();
    assert!(section(&page(&mut client, "/_aside/tasks"), "Ended").contains("done"));
}

#[test]
fn the_page_of_a_task_that_is_no_longer_remembered_is_a_404() {
    let mut client = TestClient::new(development());
    for response in [client.get("/_aside/tasks/17"), client.post("/_aside/tasks/17/cancel").send()] {
        assert_eq!(response.status_code(), Status::NOT_FOUND);
        assert!(response.text().contains("There is no task with that number"), "{}", response.text());
    }
    // Failed tasks are remembered for longer.
    client.within(|| Task::named("early").spawn(|_| Err::<(), _>("it failed"))).join().unwrap_err();
    client.within(|| Task::named("well").spawn(|_| ())).join().unwrap();
    for _ in 0..200 {
        client.within(|| Task::named("later").spawn(|_| ())).join().unwrap();
    }
    assert!(page(&mut client, "/_aside/tasks/1").contains("it failed"));
    assert_eq!(client.get("/_aside/tasks/2").status_code(), Status::NOT_FOUND);
    let ended = page(&mut client, "/_aside/tasks/ended");
    assert_eq!(ended.matches("<bdi>later</bdi>").count(), 200);
    assert_eq!(page(&mut client, "/_aside/tasks").matches("<bdi>later</bdi>").count(), 10, "the others have a page");
}

#[test]
fn more_than_a_hundred_running_tasks_are_counted_and_overdue_ones_listed() {
    logs::record();
    let mut client = TestClient::new(development());
    let mut held_tasks: Vec<_> = (0..104).map(|_| held(&client, Task::named("one of many"))).collect();
    held_tasks.push(held(&client, Task::named("tardy-17").deadline(Duration::from_millis(1))));
    logs::wait_for(1, "tardy-17 is overdue");
    let first = page(&mut client, "/_aside");
    assert!(section(&first, "Needs attention").contains("tardy-17") && !first.contains("All is well."), "{first}");
    let overview = page(&mut client, "/_aside/tasks");
    let now = section(&overview, "Now");
    assert_eq!(now.matches("<tr").count(), 101, "with the head");
    assert!(now.contains("And 5 more."), "{now}");
    let late = now.find("tardy-17").unwrap();
    assert!(late < now.find("one of many").unwrap(), "first what is past its deadline");
    assert!(now[late..].split("</tr>").next().unwrap().contains(">overdue</strong>"), "in words");
    assert!(!now.split("</tr>").nth(3).unwrap().contains("overdue"));
    assert!(page(&mut client, "/_aside/tasks/105").contains("overdue"));
    held_tasks.iter().for_each(|(_, let_go)| let_go.send(()).unwrap());
    client.drain();
    assert!(page(&mut client, "/_aside/tasks/105").contains("past its deadline"));
}

#[test]
fn a_malicious_task_name_is_harmless() {
    let hostile = "<script>alert(1)</script>\" onx='1'\u{202e}\u{7}\nعربي Привет";
    let mut client = TestClient::new(development());
    let long = "é".repeat(500_000);
    let (name, message) = (hostile.to_owned(), format!("{hostile}{long}"));
    let (begins, begun) = mpsc::channel();
    let (let_go, waits) = mpsc::channel();
    let told = message.clone();
    let running = client.within(|| {
        Task::named(name.clone()).key(name.clone()).spawn(move |task| {
            task.message(told);
            task.progress(u64::MAX, 1);
            begins.send(()).unwrap();
            let _ = waits.recv();
        })
    });
    begun.recv().unwrap();
    client.within(|| Task::named(name).spawn(move |_| Err::<(), _>(message))).join().unwrap_err();
    for path in [
        "/_aside",
        "/_aside/tasks",
        "/_aside/tasks/failed",
        "/_aside/tasks/ended",
        "/_aside/tasks/1",
        "/_aside/tasks/2",
    ] {
        let page = page(&mut client, path);
        assert!(!page.contains("<script>alert") && !page.contains("onx='1'"), "{path}");
        assert!(!page.contains(['\u{202e}', '\u{7}']), "{path}");
        assert!(page.contains(r"&lt;script&gt;alert(1)&lt;/script&gt;&quot;") && page.contains(r"\u{202e}"), "{path}");
        assert!(page.contains("عربي Привет") && page.len() < 50_000, "{path}: {} bytes", page.len());
    }
    let response = client.post("/_aside/tasks/1/cancel").send();
    assert_eq!(response.location(), Some("/_aside/tasks"));
    assert!(page(&mut client, "/_aside").contains("(task 1) was told to cancel."));
    let_go.send(()).unwrap();
    running.join().unwrap();
}

#[test]
fn an_open_page_shows_a_task_start_and_end() {
    let mut client = TestClient::new(development());
    let mut events = client.events("/_aside/tasks/live");
    assert!(events.next().data.contains("Nothing runs."));
    let (handle, let_go) = held(&client, Task::named("seen-live"));
    let mut shown = |words: &str| {
        while !section(&events.next().data, "Now").contains(words) {
            // The elapsed time of a running task changes, so there are events in between.
        }
    };
    shown("<bdi>seen-live</bdi>");
    let_go.send(()).unwrap();
    handle.join().unwrap();
    shown("Nothing runs.");
}

#[test]
fn the_page_of_a_task_shows_its_progress_and_its_end() {
    let mut client = TestClient::new(development());
    let (let_go, waits) = mpsc::channel();
    let handle = client.within(|| {
        Task::named("import").spawn(move |task| {
            for row in waits {
                task.progress(row, 4);
            }
            Err::<(), _>("the last row is broken")
        })
    });
    assert!(page(&mut client, "/_aside/tasks/1").contains("<aside-live src=\"/_aside/tasks/1/live\""));
    let mut events = client.events("/_aside/tasks/1/live");
    let mut shown = |words: &str| {
        while !events.next().data.contains(words) {
            // The elapsed time of a running task changes, so there are events in between.
        }
    };
    let_go.send(3).unwrap();
    shown("75 %, 3 of 4");
    drop(let_go);
    shown("the last row is broken");
    handle.join().unwrap_err();
    while events.next().name != "end" {}
    let page = page(&mut client, "/_aside/tasks/1");
    assert!(page.contains("the last row is broken") && !page.contains("src=\"/_aside/tasks"), "{page}");
}

#[test]
fn a_user_of_the_panel_is_not_a_watcher_of_the_task() {
    let mut client = TestClient::new(development());
    let task = Task::named("search").cancel_unwatched(Duration::ZERO);
    let (handle, let_go) = held(&client, task);
    let mut events = client.events("/_aside/tasks/1/live");
    events.next();
    assert_eq!(handle.live().watchers(), 0);
    let_go.send(()).unwrap();
    handle.join().unwrap();
}

#[test]
fn a_reopened_page_is_updated_too() {
    let mut client = TestClient::new(development());
    for name in ["before", "after"] {
        let mut events = client.events("/_aside/tasks/live");
        events.next();
        client.within(|| Task::named(name).spawn(|_| ())).join().unwrap();
        while !events.next().data.contains(name) {}
    }
}

#[test]
fn the_panel_works_over_a_socket() {
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    let server = App::with_config(config).post("/work", |_: &mut Request| drop(background(|| ()))).start().unwrap();
    let url = |path: &str| format!("http://{}{path}", server.addr());
    ureq::post(url("/work")).send_empty().unwrap();
    let page = ureq::get(url("/_aside/tasks")).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(page.contains("<h1>Tasks</h1>") && page.contains("POST /work "), "{page}");
    let forwarded = ureq::get(url("/_aside")).header("X-Forwarded-For", "192.0.2.1").call().unwrap_err();
    assert!(matches!(forwarded, ureq::Error::StatusCode(404)), "{forwarded}");
    let mut live = ureq::get(url("/_aside/tasks/live")).call().unwrap();
    assert_eq!(live.headers().get("Content-Type").unwrap(), "text/event-stream");
    let mut start = [0; 16];
    std::io::Read::read_exact(&mut live.body_mut().as_reader(), &mut start).unwrap();
    server.stop();
}

#[cfg(feature = "mail")]
mod outbox {
    use aside::Mail;

    use super::*;

    const HTML: &str =
        "<h1>Hi</h1><script>parent.document.title='x'</script><img src=\"https://tracker.example/1.gif\">";

    fn send(client: &TestClient, mail: Mail) {
        client.within(|| mail.send()).join().unwrap();
    }

    fn letter() -> Mail {
        Mail::to("Anna <b> <anna@shop.example>")
            .cc("bob@shop.example")
            .bcc("secret@shop.example")
            .subject("Заказ 17 <script>alert(1)</script>")
            .text("Привет & <b>welcome</b>")
            .html(HTML)
            .attach("terms <1>.txt", "text/plain; charset=utf-8", "No returns.".repeat(200))
    }

    /// Returns the address of the newest mail.
    fn newest(client: &mut TestClient) -> String {
        let list = page(client, "/_aside/outbox");
        let start = list.find("/_aside/outbox/").expect("a mail is listed");
        list[start..].split('"').next().unwrap().to_owned()
    }

    #[test]
    fn an_empty_outbox_shows_the_destination_of_mail() {
        let mut client = TestClient::new(development());
        assert!(page(&mut client, "/_aside/outbox").contains("No mail yet. It goes to memory."));
        let response = client.get("/_aside/outbox/5f2a");
        assert_eq!(response.status_code(), Status::NOT_FOUND);
        assert!(response.text().contains("There is no mail with that id"));
    }

    #[test]
    fn a_mail_is_shown_as_text_as_html_and_as_source() {
        let mut client = TestClient::new(development());
        send(&client, letter());
        let list = page(&mut client, "/_aside/outbox");
        for words in ["Заказ 17 &lt;script&gt;", "Anna &lt;b&gt;", "and 2 more", "text and HTML, 1 attachment"] {
            assert!(list.contains(words), "{words} in {list}");
        }
        assert!(!list.contains("<script>"));
        let address = newest(&mut client);
        let mut seen = Vec::new();
        for (tab, words) in [
            ("", "Привет &amp; &lt;b&gt;welcome"),
            ("?tab=text", "Привет &amp; &lt;b&gt;welcome"),
            ("?tab=html", "<iframe class=\"card\""),
            ("?tab=html&width=phone", "<iframe class=\"card phone\""),
            ("?tab=attachments", "terms &lt;1&gt;.txt"),
            ("?tab=source", "Content-Type: multipart/mixed"),
        ] {
            let mail = page(&mut client, &format!("{address}{tab}"));
            for words in ["bob@shop.example", "secret@shop.example", "not in the mail itself", words] {
                assert!(mail.contains(words), "{words} in {mail}");
            }
            assert!(!mail.contains("<script>") && !mail.contains("<h1>Hi"), "{mail}");
            seen.push(mail.matches("aria-current=\"page\"").count());
        }
        assert_eq!(seen, [1; 6], "one tab is the current one");
        assert!(page(&mut client, &format!("{address}?tab=attachments")).contains("2.2 kB"));
        let source = client.get(&format!("{address}/source"));
        assert_eq!(source.bytes(), client.outbox()[0].raw);
        assert_eq!(source.header("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(source.header("X-Content-Type-Options"), Some("nosniff"));
        assert!(page(&mut client, "/_aside").contains("<dt>Stored mails</dt><dd><a href=\"/_aside/outbox\">1<"));
    }

    #[test]
    fn the_html_of_a_mail_is_sandboxed() {
        let mut client = TestClient::new(development());
        send(&client, letter());
        let address = newest(&mut client);
        let frame = "sandbox referrerpolicy=\"no-referrer\"";
        assert!(page(&mut client, &format!("{address}?tab=html")).contains(frame));
        let html = client.get(&format!("{address}/html"));
        assert_eq!(html.text(), HTML, "as it was written");
        let policy = html.header("Content-Security-Policy").unwrap();
        for rule in ["sandbox;", "default-src 'none'", "img-src data:", "frame-ancestors 'self'", "form-action 'none'"]
        {
            assert!(policy.contains(rule), "{rule} in {policy}");
        }
        for risk in ["allow-", "script-src", "http", "'self' "] {
            assert!(!policy.contains(risk), "{risk} in {policy}");
        }
        assert_eq!(html.headers().get_all("X-Frame-Options").collect::<Vec<_>>(), ["SAMEORIGIN"]);
        assert_eq!(html.headers().get_all("Content-Security-Policy").count(), 1);
    }

    #[test]
    fn an_attachment_is_saved_and_never_shown_as_a_page_of_the_site() {
        let mut client = TestClient::new(development());
        let page_of_a_stranger = "<script>alert(1)</script>";
        send(&client, Mail::to("anna@shop.example").attach("../a \"b\"\u{202e}.html", "text/html", page_of_a_stranger));
        let address = newest(&mut client);
        let file = client.get(&format!("{address}/attachments/0"));
        assert_eq!(file.text(), page_of_a_stranger);
        assert_eq!(file.header("Content-Type"), Some("application/octet-stream"));
        assert_eq!(file.header("X-Content-Type-Options"), Some("nosniff"));
        let disposition = file.header("Content-Disposition").unwrap();
        assert!(disposition.starts_with("attachment; filename=") && !disposition.contains(".."), "{disposition}");
        assert!(file.header("Content-Security-Policy").unwrap().starts_with("sandbox;"));
        for missing in ["1", "99999999999"] {
            assert_eq!(client.get(&format!("{address}/attachments/{missing}")).status_code(), Status::NOT_FOUND);
        }
    }

    #[test]
    fn the_page_of_a_mail_says_which_parts_are_missing() {
        let mut client = TestClient::new(development());
        send(&client, Mail::to("anna@shop.example"));
        let address = newest(&mut client);
        for (tab, words) in
            [("text", "It has no text."), ("html", "It has no HTML."), ("attachments", "It has no attachments.")]
        {
            let mail = page(&mut client, &format!("{address}?tab={tab}"));
            assert!(mail.contains("(no subject)") && mail.contains(words), "{words} in {mail}");
        }
        assert_eq!(client.get(&format!("{address}/html")).status_code(), Status::NOT_FOUND);
    }

    #[test]
    fn the_newest_mail_is_first_and_mails_in_files_are_listed_too() {
        let folder = tempfile::tempdir().unwrap();
        let mail_url = Some(format!("file:{}", folder.path().display()));
        let mut client = TestClient::new(App::with_config(Config { mail_url, ..Config::default() }));
        for subject in ["elder", "younger"] {
            send(&client, Mail::to("anna@shop.example").subject(subject).text(subject));
        }
        let list = page(&mut client, "/_aside/outbox");
        assert!(list.find("younger").unwrap() < list.find("elder").unwrap());
        assert!(list.contains(&format!("files in {}", folder.path().display())), "{list}");
    }

    #[test]
    fn mail_sent_to_a_server_is_not_stored_and_the_page_says_so() {
        let mail_url = Some("smtp://user:hush@127.0.0.1:2525?tls=none".into());
        let mut client = TestClient::new(App::with_config(Config { mail_url, ..Config::default() }));
        let list = page(&mut client, "/_aside/outbox");
        assert!(list.contains("Mail goes to 127.0.0.1:2525, and is not stored here"), "{list}");
        assert!(!list.contains("hush") && !page(&mut client, "/_aside").contains("Stored mails"));
    }
}
