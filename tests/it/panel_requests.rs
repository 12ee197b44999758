//! The pages of the panel about requests: what a request has started, and how it is found.

use std::time::Duration;

use aside::tasks::Retry;
use aside::testing::TestClient;
use aside::{App, Config, Error, Job, Jobs, Mail, Request, Result, Status, Task, TaskContext, redirect};
use serde::{Deserialize, Serialize};

use crate::panel::{development, page, production};

#[derive(Serialize, Deserialize)]
struct Charge(u64);

impl Job for Charge {
    const NAME: &'static str = "charge";

    fn retry() -> Retry {
        Retry::exponential(2, Duration::from_secs(1))
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        if task.attempt() == 1 {
            return Err(Error::internal("the card is <b>refused"));
        }
        aside::jobs::enqueue(Pack(self.0))?;
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
struct Pack(u64);

impl Job for Pack {
    const NAME: &'static str = "pack";

    fn run(self, _task: &TaskContext) -> Result<()> {
        Ok(())
    }
}

fn jobs() -> Jobs {
    Jobs::memory().register::<Charge>().register::<Pack>()
}

fn order(req: &mut Request) -> Result<String> {
    req.enqueue(Charge(17))?;
    Task::named("receipt").spawn(|_| {
        Mail::to("ada@example.org").from("shop@example.org").subject("Your order").text("Thanks").send();
        Ok::<_, Error>(())
    });
    Ok(req.trace().to_string())
}

fn client(app: App) -> TestClient {
    TestClient::new(app.jobs(jobs()).post("/orders/{id}", order).get("/", |_: &mut Request| "hello"))
}

/// Returns the text of a page without its markup.
fn words(page: &str) -> String {
    let mut text = String::new();
    let mut is_tag = false;
    for char in page.chars() {
        match char {
            '<' => is_tag = true,
            '>' => {
                is_tag = false;
                text.push(' ');
            }
            char if !is_tag => text.push(char),
            _ => {}
        }
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Checks that the texts follow each other in this order.
#[track_caller]
fn assert_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        rest =
            rest.split_once(part).unwrap_or_else(|| panic!("`{part}` is missing, or not in its place, in: {text}")).1;
    }
}

#[test]
fn a_request_is_shown_with_all_that_it_started() {
    let mut client = client(development());
    let trace = client.post("/orders/17").send().text().to_owned();
    client.drain();
    client.advance(Duration::from_secs(60));
    client.drain();
    let shown = page(&mut client, &format!("/_aside/requests/{trace}"));
    let text = words(&shown);
    assert_order(&text, &["POST /orders/17", "Route", "/orders/{id}", "Response", "200", "Trace", &trace]);
    assert_order(
        &text,
        &["charge", "Attempt 1 failed", "the card is &lt;b&gt;refused", "Attempt 2 done", "pack", "Attempt 1 done"],
    );
    assert_order(&text, &["receipt", "task", "mail", "Stored mail: Your order"]);
    assert!(shown.contains("/_aside/jobs/1\"") && shown.contains("/_aside/tasks/"), "{shown}");
    // The lists are nested: the job that a job has enqueued is within its entry.
    let after_charge = shown.split_once("Attempt 2").unwrap().1;
    assert!(after_charge.find("<ol>").unwrap() < after_charge.find("pack").unwrap());
}

#[test]
fn a_mail_leads_to_the_request_that_it_comes_from_and_back() {
    let mut client = client(development());
    let trace = client.post("/orders/17").send().text().to_owned();
    client.drain();
    let tree = page(&mut client, &format!("/_aside/requests/{trace}"));
    let (_, rest) = tree.split_once("Stored mail: <a href=\"").unwrap();
    let mail = rest.split('"').next().unwrap().to_owned();
    assert!(page(&mut client, &mail).contains(&format!("/_aside/requests/{trace}")));
    assert_eq!(client.outbox()[0].trace.unwrap().to_string(), trace);
}

/// A mail that a handler sends at once has no task.
#[test]
fn a_mail_that_was_sent_at_once_is_below_its_request() {
    let send = |req: &mut Request| {
        Mail::to("ada@example.org").from("shop@example.org").subject("Now").text("Thanks").send_now()?;
        aside::ok(req.trace().to_string())
    };
    let mut client = client(development().post("/now", send));
    let trace = client.post("/now").send().text().to_owned();
    assert_order(&words(&page(&mut client, &format!("/_aside/requests/{trace}"))), &["/now", "sent Now mail"]);
}

#[test]
fn an_operator_finds_a_failed_request_by_the_id_on_the_error_page() {
    let fail = |_: &mut Request| Err::<(), _>(Error::internal("the disk \u{202e}is full"));
    let mut client = client(production().panel(|_| true).get("/broken", fail));
    let response = client.get("/broken");
    let id = response.header("X-Request-Id").unwrap().to_owned();
    assert!(response.text().contains(&id), "the user sees it: {}", response.text());
    (0..1_500).for_each(|_| drop(client.get("/")));
    for path in [format!("/_aside/requests/{id}"), format!("/_aside/requests?q=%20{}", id.to_uppercase())] {
        let found = client.get(&path);
        let location = found.location().unwrap_or_else(|| panic!("{path}: {}", found.text())).to_owned();
        let text = words(&page(&mut client, &location));
        assert_order(
            &text,
            &["GET /broken", &id, "500", r"the disk \u{202e}is full", "at tests/it/panel_requests.rs:"],
        );
    }
}

#[test]
fn the_newest_requests_are_listed_and_searched() {
    let fail = |_: &mut Request| Err::<(), _>(Error::internal("the disk is full"));
    let mut client = client(development().get("/broken", fail));
    client.get("/");
    client.get("/broken");
    client.post("/orders/17").send();
    client.get("/_aside/jobs");
    let all = words(&page(&mut client, "/_aside/requests"));
    assert_order(
        &all,
        &[
            "The newest first.",
            "POST /orders/17",
            "/orders/{id}",
            "200",
            "2 tasks or jobs",
            "GET /broken",
            "500",
            "the disk is full",
            "GET /",
            "nothing",
        ],
    );
    assert!(!all.contains("/_aside/jobs"), "{all}");
    let failed = words(&page(&mut client, "/_aside/requests?q=&failed=1"));
    assert!(failed.contains("GET /broken") && !failed.contains("/orders/17"), "{failed}");
    let found = words(&page(&mut client, "/_aside/requests?q=ORDERS"));
    assert!(found.contains("POST /orders/17") && !found.contains("/broken"), "{found}");
    let none = words(&page(&mut client, "/_aside/requests?q=%3Cb%3E%E2%80%AE"));
    assert!(none.contains("There are none that match, among 3."), "{none}");
}

#[test]
fn a_short_id_of_several_requests_lists_them() {
    let config = Config { trusted_proxies: vec!["unix".into(), "127.0.0.1".into()], ..Config::default() };
    let mut client = client(App::with_config(config).panel(|_| true));
    let mut ask = |method, path| client.request(method, path).header("X-Request-Id", "3f9a1c").send().text().to_owned();
    ask("GET", "/");
    let trace = ask("POST", "/orders/17");
    let list = client.get("/_aside/requests/3f9a1c");
    assert_eq!(list.status_code(), Status::OK);
    assert_order(&words(list.text()), &["Requests with the id 3f9a1c", "POST /orders/17", "GET /"]);
    assert!(list.text().contains(&trace));
}

#[test]
fn an_id_that_is_not_retained_is_a_404_that_says_what_is() {
    let mut client = client(development());
    client.get("/");
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let ids = [
        trace.to_owned(),
        trace.to_uppercase(),
        format!("{trace}0"),
        trace.replace('4', "g"),
        "0".repeat(32),
        "000000".into(),
        "%E2%80%AE".into(),
        "%00".into(),
        "%20".into(),
        "..%2F".into(),
        "%3Cscript%3E".into(),
        "x".repeat(5_000),
    ];
    for id in ids {
        let response = client.get(&format!("/_aside/requests/{id}"));
        assert_eq!(response.status_code(), Status::NOT_FOUND, "{id}: {}", response.text());
        let text = words(response.text());
        assert!(
            text.contains("No request with that id is retained") && text.contains(": 1 at the moment"),
            "{id}: {text}"
        );
        assert_eq!(client.get(&format!("/_aside/requests/{id}/live")).status_code(), Status::NOT_FOUND, "{id}");
    }
}

#[test]
fn control_characters_and_direction_marks_of_a_path_are_escaped() {
    let trace = |req: &mut Request| req.trace().to_string();
    let mut client = client(development().get("/files/{name}", trace));
    let trace = client.get("/files/%E2%80%AEgpj%1B%3Cb%3E").text().to_owned();
    for path in ["/_aside/requests".to_owned(), format!("/_aside/requests/{trace}")] {
        let shown = page(&mut client, &path);
        assert!(
            shown.contains("/files/") && !shown.contains(['\u{202e}', '\u{1b}']) && !shown.contains("<b>"),
            "{shown}"
        );
    }
}

/// The job store has the request, the trace and the parents.
#[test]
fn a_tree_survives_the_end_of_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let jobs = Jobs::sqlite(folder.path().join("jobs.db")).unwrap().register::<Charge>().register::<Pack>();
        TestClient::new(development().jobs(jobs).post("/orders", |req: &mut Request| {
            req.enqueue(Charge(17))?;
            Ok::<_, Error>(redirect(&format!("/{}/{}", req.id(), req.trace())))
        }))
    };
    let mut client = open();
    let location = client.post("/orders").send().location().unwrap().to_owned();
    let (id, trace) = location[1..].split_once('/').unwrap();
    client.drain();
    drop(client);
    let mut client = open();
    client.advance(Duration::from_secs(60));
    client.drain();
    let found = client.get(&format!("/_aside/requests/{id}"));
    assert_eq!(found.location(), Some(&*format!("/_aside/requests/{trace}")), "{}", found.text());
    let text = words(&page(&mut client, &format!("/_aside/requests/{trace}")));
    assert_order(&text, &["POST /orders", id, "The request has not ended, or is no longer retained."]);
    assert_order(&text, &["charge", "Attempt 1 failed", "refused", "Attempt 2 done", "pack", "Attempt 1 done"]);
}

#[test]
fn the_pages_of_tasks_and_jobs_lead_to_the_request() {
    let mut client = client(development());
    let trace = client.post("/orders/17").send().text().to_owned();
    client.drain();
    let link = format!("/_aside/requests/{trace}");
    for path in ["/_aside/tasks/1", "/_aside/jobs/1", "/_aside/jobs", "/_aside/tasks"] {
        assert!(page(&mut client, path).contains(&link), "{path}");
    }
}

/// In development, the page of an error leads to the request in the panel.
#[test]
fn an_error_page_for_the_developer_leads_to_the_request() {
    let fail = |_: &mut Request| Err::<(), _>(Error::internal("the disk is full"));
    let refuse =
        |_: &mut Request| Err::<(), _>(Error::bad_request("no such photo").with_source(std::io::Error::other("17")));
    let mut client = client(development().get("/broken", fail).get("/refused", refuse));
    for (path, accepts) in [("/broken", "text/html"), ("/broken", "text/plain"), ("/refused", "text/html")] {
        let response = client.request("GET", path).header("Accept", accepts).send();
        let text = response.text().replace("&#x2f;", "/");
        let (_, rest) = text.split_once("/_aside/requests/").unwrap_or_else(|| panic!("{path} {accepts}: {text}"));
        let trace: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
        assert_order(&words(&page(&mut client, &format!("/_aside/requests/{trace}"))), &["GET", path]);
    }
    let config = Config { allowed_hosts: vec!["*".into()], ..Config::default() };
    let mut client = TestClient::new(App::with_config(config).get("/broken", fail));
    let public = client.request("GET", "/broken").peer("192.0.2.7:5000").header("Accept", "text/html").send();
    assert!(!public.text().contains("_aside"), "{}", public.text());
}

#[test]
fn the_page_of_a_request_has_its_own_mails_only() {
    let mail = |req: &mut Request| {
        let subject = format!("About {}", req.path());
        Mail::to("ada@example.org").from("shop@example.org").subject(subject).text("Thanks").send();
        req.trace().to_string()
    };
    let mut client = TestClient::new(development().post("/tea", mail).post("/cake", mail));
    let [tea, cake] = ["/tea", "/cake"].map(|path| client.post(path).send().text().to_owned());
    client.drain();
    for (trace, own, other) in [(tea, "About /tea", "About /cake"), (cake, "About /cake", "About /tea")] {
        let page = page(&mut client, &format!("/_aside/requests/{trace}"));
        assert!(page.contains(own) && !page.contains(other), "{page}");
    }
}
