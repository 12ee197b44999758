//! The location of a failure: in the application's code, in the log and in the panel, for requests, tasks, jobs and mail.

use std::collections::HashMap;
use std::time::Duration;

#[cfg(feature = "mail")]
use aside::Mail;
use aside::tasks::Retry;
use aside::testing::TestClient;
use aside::{App, Config, Error, Failure, Job, Jobs, Request, Response, Result, Task, TaskContext, background};
use log::Level;
use serde::{Deserialize, Serialize};

use crate::logs;

/// Returns the only line of the log with a text.
fn line(level: Level, text: &str) -> String {
    let lines = logs::at(level, text);
    assert_eq!(lines.len(), 1, "{text}: {lines:?}");
    lines[0].lines().next().unwrap().to_owned()
}

/// Returns a location in this file.
fn here(line: u32) -> String {
    format!("tests/it/locations.rs:{line}")
}

const LINE_OF_PARSE: u32 = line!() + 3;

fn parse(text: &str) -> Result<u16> {
    Ok(text.parse()?)
}

#[test]
fn a_failed_request_has_the_location_of_its_question_mark() {
    logs::record();
    let mut client = TestClient::new(App::with_config(Config::default()).get("/parse", |_: &mut Request| {
        parse("px-1").map(|port| port.to_string()).map_err(|error| error.context("cannot read the port px-1"))
    }));
    assert_eq!(client.get("/parse").status_code().code(), 500);
    let line = line(Level::Error, "cannot read the port px-1");
    assert!(line.ends_with(&format!("invalid digit found in string (at {})", here(LINE_OF_PARSE))), "{line}");
}

#[cfg(all(unix, feature = "isolate"))]
fn parse_in_a_child(text: String) -> Result<u16> {
    parse(&text).map_err(|error| error.context(format!("cannot read the port {text}")))
}

/// Regression: the location was lost on the way from the child process.
#[cfg(all(unix, feature = "isolate"))]
#[test]
fn a_failed_isolated_function_has_the_location_of_its_question_mark() {
    logs::record();
    let client = TestClient::new(App::with_config(Config::default()).isolated(parse_in_a_child));
    let task = client.within(|| aside::isolated(parse_in_a_child, "px-in-a-child".to_owned()));
    assert!(task.join().is_err());
    let line = line(Level::Error, "cannot read the port px-in-a-child");
    assert!(line.ends_with(&format!(", at {})", here(LINE_OF_PARSE))), "{line}");
}

#[test]
fn a_failed_request_without_a_location_has_that_of_its_route() {
    logs::record();
    let refused = |_: &mut Request| Err::<String, _>(std::io::Error::other("no-location-1"));
    let (added, app) = (line!(), App::with_config(Config::default()).get("/refused", refused));
    assert_eq!(TestClient::new(app).get("/refused").status_code().code(), 500);
    let line = line(Level::Error, "no-location-1");
    assert!(line.ends_with(&format!("failed: no-location-1 (route at {})", here(added))), "{line}");
}

#[test]
fn a_panic_within_the_standard_library_has_the_location_of_the_call() {
    logs::record();
    let client = TestClient::new(App::with_config(Config::default()));
    let handle = client.within(|| {
        background(|| {
            let prices: HashMap<&str, u32> = HashMap::new();
            prices["photo-of-std-1"]
        })
    });
    let indexed = line!() - 3;
    let Err(Failure::Panic(panic)) = handle.join().unwrap() else { panic!("a panic") };
    assert_eq!(panic.location, Some(here(indexed)));
    client.drain();
}

#[test]
fn a_failed_task_has_the_location_of_its_error_or_else_of_its_start() {
    logs::record();
    let client = TestClient::new(App::with_config(Config::default()));
    let task = |name: &str, port: &'static str| Task::named(name).spawn(move |_| parse(port));
    client.within(|| task("located-1", "px-2").join()).unwrap_err();
    let with_location = line(Level::Error, "located-1 failed");
    assert!(with_location.ends_with(&format!(", at {})", here(LINE_OF_PARSE))), "{with_location}");

    let bare = || Err::<(), _>(std::io::Error::other("bare"));
    let started = line!() + 1;
    client.within(|| Task::named("located-2").spawn(move |_| bare()).join()).unwrap_err();
    let without = line(Level::Error, "located-2 failed");
    assert!(without.ends_with(&format!(", started at {})", here(started))), "{without}");

    // The name of a closure has the location already.
    client.within(|| background(move || Err::<(), _>("located-3")).join()).unwrap().unwrap_err();
    let closure = line(Level::Error, "failed: located-3");
    assert!(!closure.contains("started at"), "{closure}");
    client.drain();
}

#[test]
fn a_task_of_a_response_and_a_retried_task_have_the_location_of_their_start() {
    logs::record();
    let refuse = || Err::<(), _>("refused");
    let retry = Retry::exponential(2, Duration::ZERO);
    let first = line!() + 2;
    let app = App::with_config(Config::default()).get("/", move |_: &mut Request| {
        let response = Response::text("").task(Task::named("start-1"), move |_| refuse());
        drop(Task::named("start-2").retry(retry.clone()).spawn(move |_| refuse()));
        response
    });
    let mut client = TestClient::new(app);
    client.get("/");
    client.drain();
    for (name, line_number) in [("start-1", first), ("start-2", first + 1)] {
        let line = line(Level::Error, &format!("{name} failed"));
        assert!(line.contains(&format!("started at {}", here(line_number))), "{line}");
    }
    let retried = line(Level::Warn, "start-2 failed");
    assert!(retried.contains("attempt 1 of 2") && retried.contains("started at "), "{retried}");
}

#[derive(Serialize, Deserialize)]
struct Parse(String);

impl Job for Parse {
    const NAME: &'static str = "parse-located";

    fn retry() -> Retry {
        Retry::exponential(1, Duration::ZERO)
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        parse(&self.0).map(drop)
    }
}

#[test]
fn a_failed_attempt_of_a_job_has_its_location() {
    logs::record();
    let client = TestClient::new(App::with_config(Config::default()).jobs(Jobs::memory().register::<Parse>()));
    client.jobs().enqueue(Parse("px-3".into())).unwrap();
    client.drain();
    let line = line(Level::Error, "parse-located");
    assert!(line.contains(&format!(", at {})", here(LINE_OF_PARSE))), "{line}");
}

#[cfg(feature = "mail")]
#[test]
fn a_failed_mail_has_the_location_at_which_it_was_sent() {
    logs::record();
    let client = TestClient::new(App::with_config(Config::default()));
    let sent = line!() + 1;
    client.within(|| Mail::to("not an address located-1").subject("").text("").send());
    client.drain();
    let line = line(Level::Error, "located-1");
    assert!(line.contains(&here(sent)), "{line}");
}

struct Orders;

#[derive(Clone)]
struct Prices;

#[test]
fn a_missing_state_template_or_route_has_the_location_of_its_use_and_a_suggestion() {
    logs::record();
    let templates = tempfile::tempdir().unwrap();
    std::fs::write(templates.path().join("orders-2.html"), "").unwrap();
    let first = line!() + 2;
    let app = App::with_config(Config::default())
        .state(Prices)
        .get("/state", |req: &mut Request| drop(req.state::<Orders>()))
        .get("/template", |req: &mut Request| req.render("oders-2.html", ()))
        .get("/url", |req: &mut Request| req.url_for("oder-2", &[]))
        .get("/param/{order}", |req: &mut Request| req.param::<String>("oder-2"))
        .route("/orders", aside::routing::get(|_: &mut Request| "").name("order-2"))
        .templates(templates.path());
    let mut client = TestClient::new(app);
    for (number, path, text, suggestion) in [
        (1, "/state", "no state of type `it::locations::Orders`", "has state of the types `it::locations::Prices`"),
        (2, "/template", "there is no file `oders-2.html`", "did you mean `orders-2.html`?"),
        (3, "/url", "no route is named `oder-2`", "did you mean `order-2`?"),
        (4, "/param/17", "no parameter `{oder-2}`", ""),
    ] {
        assert_eq!(client.get(path).status_code().code(), 500);
        let line = line(Level::Error, text);
        assert!(line.contains(&format!("at {}", here(first + number))) && line.contains(suggestion), "{path}: {line}");
    }
}

#[test]
fn a_template_in_a_folder_that_does_not_exist_names_the_folder() {
    logs::record();
    let app = App::with_config(Config::default())
        .templates("tests/no-such-folder-7")
        .get("/", |req: &mut Request| req.render("home.html", ()));
    assert_eq!(TestClient::new(app).get("/").status_code().code(), 500);
    let line = line(Level::Error, "tests/no-such-folder-7 does not exist");
    assert!(line.contains("the folder /"), "{line}");
}

/// Regression: a setting that names no job store was refused without the setting and without the line.
#[test]
fn a_setting_that_names_no_job_store_is_refused_with_its_location_and_without_a_password() {
    let (line, refused) = (line!(), ["data/jobs.db", "postgres://me:secret@host/shop"].map(Jobs::open));
    let [path, url] = refused.map(|refused| format!("{:?}", refused.err().unwrap()));
    assert!(path.starts_with("`data/jobs.db` does not name a job store: write `sqlite:PATH`"), "{path}");
    assert!(path.ends_with(&format!(", at {}", here(line))), "{path}");
    assert!(url.starts_with("the setting does not name a job store") && !url.contains("secret"), "{url}");
}

/// Functions that fail with an error of the framework's own.
#[test]
fn an_error_of_the_framework_has_the_location_of_the_call() {
    let client = TestClient::new(App::with_config(Config::default()));
    let located = |error: Error| error.location().map(|location| location.line());
    client.within(|| {
        assert_eq!(located(aside::jobs::enqueue(Parse(String::new())).unwrap_err()), Some(line!()));
        assert_eq!(located(Jobs::current().map(drop).unwrap_err()), Some(line!()));
        assert_eq!(located(Response::text("").try_header("a b", "").map(drop).unwrap_err()), Some(line!()));
        assert_eq!(located(aside::password::hash(&"p".repeat(100_000)).unwrap_err()), Some(line!()));
    });
    let jobs = Jobs::memory();
    assert_eq!(located(jobs.enqueue(Parse(String::new())).map(drop).unwrap_err()), Some(line!()));
    #[cfg(feature = "image")]
    assert_eq!(located(aside::image::Image::decode("no image").map(drop).unwrap_err()), Some(line!()));
    #[cfg(feature = "mail")]
    assert_eq!(located(Mail::to("nowhere").send_now().unwrap_err()), Some(line!()));
}

#[test]
fn in_development_a_server_error_has_a_backtrace_without_a_variable() {
    let app =
        App::with_config(Config::default()).get("/", |_: &mut Request| Err::<String, _>(Error::internal("traced")));
    let mut client = TestClient::new(app);
    let response = client.request("GET", "/").header("Accept", "text/html").send();
    let page = response.text();
    // In two parts: the page shows the lines of this test too.
    assert!(page.contains(concat!("aside::app", "::service::")), "frames are in the backtrace alone: {page}");
}
