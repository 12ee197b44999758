//! The panel at `/_aside`: who sees it, what it shows of tasks and mail, and that nothing in a name or a mail can do harm.

use std::process::Command;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Error, Mode, Request, Response, Retry, Status, Task, TaskHandle, background, redirect};

use crate::logs;

pub(crate) fn development() -> App {
    App::with_config(Config::default())
}

pub(crate) fn production() -> App {
    let secrets = vec!["k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf".into()];
    App::with_config(Config { mode: Mode::Production, secrets, ..Config::default() })
}

/// A task that runs until it is let go, and has begun when this returns.
fn held(client: &TestClient, task: Task) -> (TaskHandle<()>, Sender<()>) {
    let (let_go, waits) = mpsc::channel();
    let (begins, begun) = mpsc::channel();
    let handle = client.within(|| {
        task.spawn(move |_| {
            begins.send(()).unwrap();
            // An error says that the test has ended before.
            let _ = waits.recv();
        })
    });
    begun.recv().unwrap();
    (handle, let_go)
}

/// The page, which is there, with its addresses as a browser reads them.
pub(crate) fn page(client: &mut TestClient, path: &str) -> String {
    let response = client.get(path);
    assert_eq!(response.status(), Status::OK, "{path}: {}", response.text());
    response.text().replace("&#x2f;", "/")
}

/// The text of the part of a page between its heading and the next.
pub(crate) fn section<'p>(page: &'p str, heading: &str) -> &'p str {
    let (_, rest) = page.split_once(&format!("<h2>{heading}</h2>")).unwrap_or_else(|| panic!("{heading}: {page}"));
    rest.split("<h2>").next().unwrap()
}

/// All that a stranger may compare.
fn what_is_told(response: &TestResponse) -> (Status, Vec<(String, String)>, Vec<u8>) {
    let headers = response.headers().iter().filter(|(name, _)| *name != "X-Request-Id");
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (response.status(), headers, response.bytes().to_vec())
}

const PATHS: &[&str] = &[
    "/_aside",
    "/_aside/",
    "/_aside/live",
    "/_aside/failed",
    "/_aside/ended",
    "/_aside/tasks/1",
    "/_aside/tasks/1/live",
    "/_aside/tasks/1/cancel",
    "/_aside/tasks/x",
    "/_aside/panel.css",
    "/_aside/outbox",
    "/_aside/outbox/1",
    "/_aside/outbox/1/html",
    "/_aside/outbox/1/source",
    "/_aside/jobs",
    "/_aside/jobs/live",
    "/_aside/jobs/dead",
    "/_aside/jobs/dead/retry",
    "/_aside/jobs/dead/discard",
    "/_aside/queues/pause?queue=default",
    "/_aside/queues/resume?queue=default",
    "/_aside/jobs/1",
    "/_aside/jobs/1/live",
    "/_aside/jobs/1/cancel",
    "/_aside/jobs/1/retry",
    "/_aside/jobs/1/discard",
    "/_aside/nothing",
];

/// Nothing of the panel is there: each path answers as one that no route is there for.
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
fn in_development_it_is_there_for_whoever_sits_at_the_machine() {
    // A policy that its own pages do not go by.
    let mut client =
        TestClient::new(development().default_header("Content-Security-Policy", "style-src 'unsafe-inline'"));
    for peer in ["127.0.0.1:5000", "[::1]:5000"] {
        let response = client.request("GET", "/_aside").peer(peer).send();
        assert_eq!(response.status(), Status::OK);
        assert_eq!(response.header("Cache-Control"), Some("no-store"));
        let policy = response.header("Content-Security-Policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(!response.text().contains("style=") && !response.text().contains("<style"));
    }
    for path in ["/_aside/", "/_aside/failed", "/_aside/ended"] {
        page(&mut client, path);
    }
}

#[test]
fn to_strangers_nothing_is_there() {
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
fn a_stranger_gets_what_the_site_answers_where_nothing_is() {
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
fn in_production_nobody_sees_it_without_a_guard() {
    let mut client = TestClient::new(production());
    assert_hidden(&mut client, |request| request.send());
    assert_hidden(&mut client, |request| request.peer("127.0.0.1:5000").send());
}

#[test]
fn a_guard_lets_in_whom_it_knows() {
    let app = production().panel(|req: &mut Request| req.header("X-Key") == Some("open"));
    let mut client = TestClient::new(app);
    assert_hidden(&mut client, |request| request.peer("127.0.0.1:5000").send());
    assert_hidden(&mut client, |request| request.header("X-Key", "shut").send());
    let open = client.request("GET", "/_aside").header("X-Key", "open").peer("192.0.2.1:5000").send();
    assert!(open.text().contains("Nothing runs."), "{}", open.text());
    // In development it is asked for those who do not sit at the machine.
    let mut client = TestClient::new(development().panel(|req: &mut Request| req.header("X-Key") == Some("open")));
    let open = client.request("GET", "/_aside").header("X-Key", "open").peer("192.0.2.1:5000").send();
    assert_eq!((open.status(), client.get("/_aside").status()), (Status::OK, Status::OK));
}

#[test]
fn behind_a_guard_that_panics_nobody_sees_it() {
    logs::keep();
    let app = production().panel(|_: &mut Request| panic!("the guard's\nown panic"));
    assert_hidden(&mut TestClient::new(app), |request| request.send());
    let told = logs::at(log::Level::Error, r"the guard's\nown panic");
    assert!(told.iter().all(|line| line.contains("aside::panel: The guard of the panel panicked")), "{told:?}");
    assert!(!told.is_empty());
}

#[test]
fn the_sites_own_hooks_come_first() {
    let app = development().before(|req: &mut Request| req.header("X-Login").is_none().then(|| redirect("/login")));
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/_aside").location(), Some("/login"));
    assert_eq!(client.request("GET", "/_aside").header("X-Login", "1").send().status(), Status::OK);
}

#[test]
fn other_methods_and_other_paths_are_told_to_the_developer() {
    let mut client = TestClient::new(development());
    let response = client.post("/_aside").send();
    assert_eq!((response.status(), response.header("Allow")), (Status::METHOD_NOT_ALLOWED, Some("GET, HEAD")));
    let response = client.get("/_aside/tasks/1/cancel");
    assert_eq!((response.status(), response.header("Allow")), (Status::METHOD_NOT_ALLOWED, Some("POST")));
    assert_eq!(client.get("/_aside/nothing").status(), Status::NOT_FOUND);
    assert_eq!(client.get("/_aside/tasks/x").status(), Status::NOT_FOUND);
}

#[test]
fn a_route_of_the_sites_own_in_its_place_is_refused_and_both_places_are_named() {
    let config = || Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    let line = line!() + 1;
    let app = App::with_config(config()).get("/_aside", |_: &mut Request| "mine");
    let words = app.start().unwrap_err().to_string();
    assert!(words.contains(&format!("tests/it/panel.rs:{line}")) && words.contains("src/panel/mod.rs"), "{words}");
    // Beside it there is room, for strangers too.
    let app = App::with_config(config()).get("/_aside/other", |_: &mut Request| "mine");
    let mut client = TestClient::new(app);
    assert_eq!(client.request("GET", "/_aside/other").peer("192.0.2.1:5000").send().text(), "mine");
}

#[test]
fn the_style_sheet_is_kept_under_an_address_of_its_content() {
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
fn an_empty_panel_says_so_in_words() {
    let page = page(&mut TestClient::new(development()), "/_aside");
    for words in ["Nothing runs.", "Nothing failed.", "Nothing has ended yet."] {
        assert!(page.contains(words), "{words} in {page}");
    }
}

#[test]
fn a_running_task_is_shown_with_all_that_is_known() {
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
    let overview = page(&mut client, "/_aside");
    let now = section(&overview, "Now");
    for words in ["<bdi>import</bdi>", "key <bdi>photo-17</bdi>", "task 1", "running", "row 30 &amp; on", "25 %"] {
        assert!(now.contains(words), "{words} in {now}");
    }
    assert!(now.contains(&format!("POST /imports {id}")) && now.contains("value=\"25\"") && now.contains("30 of 120"));
    assert!(now.contains("action=\"/_aside/tasks/1/cancel?back=/_aside\""), "{now}");
    assert!(overview.contains("<dt>Running</dt><dd>1</dd>"), "{overview}");
    let script = overview.split("<script src=\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(overview.contains("<aside-live src=\"/_aside/live\"") && client.get(script).status() == Status::OK);
    let whole = page(&mut client, "/_aside/tasks/1");
    for words in ["photo-17", &id, "running", "Cancel", "25 %", "<dt>Tries</dt><dd class=\"number\">1</dd>"] {
        assert!(whole.contains(words), "{words} in {whole}");
    }
    let_go.send(()).unwrap();
    client.drain();
    let overview = page(&mut client, "/_aside");
    assert!(section(&overview, "Now").contains("Nothing runs."));
    assert!(section(&overview, "Ended").contains("<bdi>import</bdi>"));
    assert!(overview.contains("<dt>Running</dt><dd>0</dd>") && section(&overview, "Ended").contains("done"));
    assert!(!page(&mut client, "/_aside/tasks/1").contains("<button>"));
}

#[test]
fn what_waits_for_a_place_is_counted_and_listed() {
    let mut client = TestClient::new(App::with_config(Config { max_tasks: 1, ..Config::default() }));
    let (_, let_go) = held(&client, Task::named("first"));
    client.within(|| Task::named("second").spawn(|_| ()));
    let overview = page(&mut client, "/_aside");
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
fn what_failed_is_shown_with_the_way_to_it() {
    let app = development().post("/charge", |_: &mut Request| {
        background(|| Err::<(), _>(Error::from(std::io::Error::other("connection refused")).context("cannot charge")));
    });
    let mut client = TestClient::new(app);
    let id = client.post("/charge").send().header("X-Request-Id").unwrap().to_owned();
    client.drain();
    client.within(|| Task::named("boom").spawn(|_| panic!("no <paper> left"))).join().map(drop).unwrap_err();
    let overview = page(&mut client, "/_aside");
    let failed = section(&overview, "Failed");
    for words in ["cannot charge: connection refused", &id, "panicked: no &lt;paper&gt; left, at tests/it/panel.rs:"] {
        assert!(failed.contains(words), "{words} in {failed}");
    }
    assert!(failed.find("boom").unwrap() < failed.find("cannot charge").unwrap(), "the newest first");
    assert!(page(&mut client, "/_aside/failed").contains("cannot charge: connection refused"));
    assert!(overview.contains("<dt>Failed</dt><dd class=\"bad\">2<small>1 panicked</small></dd>"), "{overview}");
    let whole = page(&mut client, "/_aside/tasks/1");
    assert!(section(&whole, "What went wrong").contains("cannot charge: connection refused"), "{whole}");
    // The process's own setting, which a test cannot change.
    let asked_for = std::env::var("RUST_BACKTRACE").is_ok_and(|value| value != "0");
    assert_eq!(whole.contains("RUST_BACKTRACE=1"), !asked_for, "{whole}");
    assert_eq!(whole.contains("<h2>The way there</h2>"), asked_for);
}

/// Once more as a process of its own, with a setting that is read once.
#[test]
fn a_backtrace_is_shown_where_there_is_one() {
    let run = |name: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env("RUST_BACKTRACE", "1")
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && words.contains("1 passed"), "{words}");
    };
    run("panel::what_failed_is_shown_with_the_way_to_it");
}

#[test]
fn tries_are_counted() {
    let mut client = TestClient::new(development());
    let task = Task::named("flaky").retry(Retry::exponential(3, Duration::from_millis(1)));
    let handle = client.within(|| task.spawn(|_| Err::<(), _>("not yet")));
    handle.join().unwrap_err();
    assert!(page(&mut client, "/_aside/tasks/1").contains("<dt>Tries</dt><dd class=\"number\">3</dd>"));
}

#[test]
fn a_task_is_cancelled_with_a_plain_form() {
    let mut client = TestClient::new(development());
    let handle = client.within(|| {
        Task::named("long").spawn(|task| {
            task.sleep(Duration::from_secs(3600))?;
            aside::ok(())
        })
    });
    let response = client.post("/_aside/tasks/1/cancel?back=/_aside/tasks/1").form(&[]).send();
    assert_eq!((response.status(), response.location()), (Status::new(303), Some("/_aside/tasks/1")));
    assert!(handle.live().get().is_cancelling, "else it would be waited for in vain");
    assert_eq!(handle.join().unwrap_err().to_string(), "was cancelled");
    let whole = page(&mut client, "/_aside/tasks/1");
    assert!(whole.contains("long (task 1) was told to cancel.") && whole.contains("cancelled"), "{whole}");
    assert!(!page(&mut client, "/_aside").contains("was told to cancel"), "it is said once");
    let response = client.post("/_aside/tasks/1/cancel?back=https://elsewhere.example/").send();
    assert_eq!(response.location(), Some("/_aside"), "nowhere else");
    assert!(page(&mut client, "/_aside").contains("long (task 1) had ended already."));
}

#[test]
fn a_task_that_does_not_look_is_shown_as_told_to_cancel() {
    let mut client = TestClient::new(development());
    let (_, let_go) = held(&client, Task::named("deaf"));
    client.post("/_aside/tasks/1/cancel").send();
    let overview = page(&mut client, "/_aside");
    let now = section(&overview, "Now");
    assert!(now.contains("told to cancel") && !now.contains("<button>"), "{now}");
    let_go.send(()).unwrap();
    client.drain();
}

#[test]
fn a_form_of_another_site_cancels_nothing() {
    let mut client = TestClient::new(development());
    let (handle, let_go) = held(&client, Task::named("wanted"));
    let response = client.post("/_aside/tasks/1/cancel").header("Sec-Fetch-Site", "cross-site").send();
    assert_eq!(response.status(), Status::FORBIDDEN);
    let_go.send(()).unwrap();
    handle.join().unwrap();
    assert!(section(&page(&mut client, "/_aside"), "Ended").contains("done"));
}

#[test]
fn a_task_that_is_not_remembered_is_not_there_and_the_page_says_so() {
    let mut client = TestClient::new(development());
    for response in [client.get("/_aside/tasks/17"), client.post("/_aside/tasks/17/cancel").send()] {
        assert_eq!(response.status(), Status::NOT_FOUND);
        assert!(response.text().contains("No task of that number is remembered"), "{}", response.text());
    }
    // What failed is remembered for longer.
    client.within(|| Task::named("early").spawn(|_| Err::<(), _>("it failed"))).join().unwrap_err();
    client.within(|| Task::named("well").spawn(|_| ())).join().unwrap();
    for _ in 0..200 {
        client.within(|| Task::named("later").spawn(|_| ())).join().unwrap();
    }
    assert!(page(&mut client, "/_aside/tasks/1").contains("it failed"));
    assert_eq!(client.get("/_aside/tasks/2").status(), Status::NOT_FOUND);
    let ended = page(&mut client, "/_aside/ended");
    assert_eq!(ended.matches("<bdi>later</bdi>").count(), 200);
    assert_eq!(page(&mut client, "/_aside").matches("<bdi>later</bdi>").count(), 10, "the others have a page");
}

#[test]
fn more_than_a_hundred_that_run_are_counted_and_the_overdue_ones_listed() {
    logs::keep();
    let mut client = TestClient::new(development());
    let mut held_tasks: Vec<_> = (0..104).map(|_| held(&client, Task::named("one of many"))).collect();
    held_tasks.push(held(&client, Task::named("tardy-17").deadline(Duration::from_millis(1))));
    logs::wait_for(1, "tardy-17 is overdue");
    let overview = page(&mut client, "/_aside");
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
fn nothing_in_a_name_does_harm() {
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
    for path in ["/_aside", "/_aside/failed", "/_aside/ended", "/_aside/tasks/1", "/_aside/tasks/2"] {
        let page = page(&mut client, path);
        assert!(!page.contains("<script>alert") && !page.contains("onx='1'"), "{path}");
        assert!(!page.contains(['\u{202e}', '\u{7}']), "{path}");
        assert!(page.contains(r"&lt;script&gt;alert(1)&lt;/script&gt;&quot;") && page.contains(r"\u{202e}"), "{path}");
        assert!(page.contains("عربي Привет") && page.len() < 50_000, "{path}: {} bytes", page.len());
    }
    let response = client.post("/_aside/tasks/1/cancel").send();
    assert_eq!(response.location(), Some("/_aside"));
    assert!(page(&mut client, "/_aside").contains("(task 1) was told to cancel."));
    let_go.send(()).unwrap();
    running.join().unwrap();
}

#[test]
fn a_page_that_is_open_sees_a_task_begin_and_end() {
    let mut client = TestClient::new(development());
    let mut events = client.events("/_aside/live");
    assert!(events.next().data.contains("Nothing runs."));
    let (handle, let_go) = held(&client, Task::named("seen-live"));
    let mut shown = |words: &str| {
        while !section(&events.next().data, "Now").contains(words) {
            // What runs shows for how long, so there are states in between.
        }
    };
    shown("<bdi>seen-live</bdi>");
    let_go.send(()).unwrap();
    handle.join().unwrap();
    shown("Nothing runs.");
}

#[test]
fn the_page_of_a_task_sees_how_it_goes_on_and_how_it_ends() {
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
            // What runs shows for how long, so there are states in between.
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
fn to_look_at_a_task_in_the_panel_is_not_to_watch_it() {
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
fn a_page_that_comes_back_is_kept_up_to_date_too() {
    let mut client = TestClient::new(development());
    for name in ["before", "after"] {
        let mut events = client.events("/_aside/live");
        events.next();
        client.within(|| Task::named(name).spawn(|_| ())).join().unwrap();
        while !events.next().data.contains(name) {}
    }
}

#[test]
fn over_a_socket_it_is_a_site_like_any_other() {
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    let server = App::with_config(config).post("/work", |_: &mut Request| drop(background(|| ()))).start().unwrap();
    let url = |path: &str| format!("http://{}{path}", server.addr());
    ureq::post(url("/work")).send_empty().unwrap();
    let page = ureq::get(url("/_aside")).call().unwrap().body_mut().read_to_string().unwrap();
    assert!(page.contains("<h1>Tasks</h1>") && page.contains("POST /work "), "{page}");
    let forwarded = ureq::get(url("/_aside")).header("X-Forwarded-For", "192.0.2.1").call().unwrap_err();
    assert!(matches!(forwarded, ureq::Error::StatusCode(404)), "{forwarded}");
    let mut live = ureq::get(url("/_aside/live")).call().unwrap();
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

    /// The address of the newest mail.
    fn newest(client: &mut TestClient) -> String {
        let list = page(client, "/_aside/outbox");
        let start = list.find("/_aside/outbox/").expect("a mail is listed");
        list[start..].split('"').next().unwrap().to_owned()
    }

    #[test]
    fn an_empty_outbox_says_where_mail_goes() {
        let mut client = TestClient::new(development());
        assert!(page(&mut client, "/_aside/outbox").contains("No mail yet. It goes to memory."));
        let response = client.get("/_aside/outbox/5f2a");
        assert_eq!(response.status(), Status::NOT_FOUND);
        assert!(response.text().contains("No mail of that id is remembered"));
    }

    #[test]
    fn a_mail_is_shown_as_text_as_html_and_as_it_goes_over_the_wire() {
        let mut client = TestClient::new(development());
        send(&client, letter());
        let list = page(&mut client, "/_aside/outbox");
        for words in ["Заказ 17 &lt;script&gt;", "Anna &lt;b&gt;", "and 2 more", "text and HTML, 1 attachment"] {
            assert!(list.contains(words), "{words} in {list}");
        }
        assert!(!list.contains("<script>"));
        let address = newest(&mut client);
        let mail = page(&mut client, &address);
        for words in ["bob@shop.example", "secret@shop.example", "not in the mail itself", "terms &lt;1&gt;.txt"] {
            assert!(mail.contains(words), "{words} in {mail}");
        }
        assert!(section(&mail, "Text").contains("Привет &amp; &lt;b&gt;welcome"), "{mail}");
        assert!(section(&mail, "Attachments").contains("2.2 kB"), "{mail}");
        assert!(section(&mail, "Source").contains("Content-Type: multipart/mixed"), "{mail}");
        assert!(!mail.contains("<script>") && !mail.contains("<h1>Hi"), "{mail}");
        let source = client.get(&format!("{address}/source"));
        assert_eq!(source.bytes(), client.outbox()[0].raw);
        assert_eq!(source.header("Content-Type"), Some("text/plain; charset=utf-8"));
        assert_eq!(source.header("X-Content-Type-Options"), Some("nosniff"));
        assert!(page(&mut client, "/_aside").contains("<dt>Mails kept</dt><dd><a href=\"/_aside/outbox\">1<"));
    }

    #[test]
    fn the_html_of_a_mail_is_locked_up() {
        let mut client = TestClient::new(development());
        send(&client, letter());
        let address = newest(&mut client);
        let frame = "sandbox referrerpolicy=\"no-referrer\"";
        assert!(page(&mut client, &address).contains(frame));
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
    fn a_mail_without_parts_says_which_are_missing() {
        let mut client = TestClient::new(development());
        send(&client, Mail::to("anna@shop.example"));
        let address = newest(&mut client);
        let mail = page(&mut client, &address);
        for words in ["(no subject)", "It has no text.", "It has no HTML.", "There are none."] {
            assert!(mail.contains(words), "{words} in {mail}");
        }
        assert_eq!(client.get(&format!("{address}/html")).status(), Status::NOT_FOUND);
    }

    #[test]
    fn the_newest_is_first_and_what_is_written_to_files_is_there_too() {
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
    fn where_mail_goes_to_a_server_none_is_kept_and_the_page_says_so() {
        let mail_url = Some("smtp://user:hush@127.0.0.1:2525?tls=none".into());
        let mut client = TestClient::new(App::with_config(Config { mail_url, ..Config::default() }));
        let list = page(&mut client, "/_aside/outbox");
        assert!(list.contains("Mail goes to 127.0.0.1:2525, and none of it is kept here"), "{list}");
        assert!(!list.contains("hush") && !page(&mut client, "/_aside").contains("Mails kept"));
    }
}
