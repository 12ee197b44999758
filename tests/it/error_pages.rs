//! Error pages: their contents, for whom, and in which representation.

use std::fmt;

use aside::config::Mode;
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Error, Request, Response, Result, Status, context};
use log::Level;
use serde_json::Value;

use crate::logs;

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn save(_req: &mut Request) -> Result<()> {
    let port: u16 = "eighty".parse()?; // the line that the page shows
    let _ = port;
    Ok(())
}

/// An error whose `Display` panics.
#[derive(Debug)]
struct Speechless;

impl fmt::Display for Speechless {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("no-words-for-it")
    }
}

impl std::error::Error for Speechless {}

/// An error whose `Display` fails, and that is its own source.
#[derive(Debug)]
struct Endless;

impl fmt::Display for Endless {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}

impl std::error::Error for Endless {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(self)
    }
}

fn client(mode: Mode) -> TestClient {
    let secrets = vec!["a secret of more than thirty-two bytes".to_owned()];
    let render = |req: &mut Request| -> Result<Response> { req.render("orders.html", context! {}) };
    let app = App::with_config(Config { mode, secrets, ..Config::default() })
        .template("orders.html", "<h1>Orders</h1>\n{% for n in [1] %}\n{% include 'order.html' %}\n{% endfor %}\n")
        .template("order.html", "<article>\n<h2>one above</h2>\n{{ custmer.name }}\n</article>\n")
        .get("/save/{id}", save)
        .get("/boom", |_| panic!("boom <script>alert(1)</script>")) // the line that panics
        .get("/orders", render)
        .get("/gone", |_| Err::<(), _>(Error::new(Status::GONE, "The collection was sold.")))
        .get("/words", |_| Err::<(), _>("plain words"))
        .get("/context", |_| Err::<(), _>(Error::from(std::io::Error::other("disk <full>")).context("cannot save")))
        .get("/speechless", |_| Err::<(), _>(Speechless))
        .get("/endless", |_| Err::<(), _>(Endless))
        .post("/api", |req: &mut Request| req.json::<u32>().map(|number| number.to_string()));
    TestClient::new(app)
}

fn get(mode: Mode, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    let mut client = client(mode);
    let request = client.request("GET", path);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

fn page(path: &str) -> String {
    get(Mode::Development, path, &[("Accept", BROWSER)]).text().to_owned()
}

/// Returns the lines of the page that are marked as failed.
fn marked(page: &str) -> Vec<String> {
    let page = page.replace("&quot;", "\"").replace("&#x27;", "'");
    let marks = page.split("<mark>").skip(1).filter_map(|rest| rest.split_once("</mark>"));
    marks.map(|(mark, _)| mark.split_once("</i>").map_or("", |(_, line)| line).trim().to_owned()).collect()
}

#[test]
fn the_page_shows_the_line_of_the_question_mark() {
    let page = page("/save/17");
    assert!(page.contains("<h1>invalid digit found in string</h1>"), "{page}");
    assert!(page.contains("tests/it/error_pages.rs:"), "{page}");
    assert_eq!(marked(&page), ["let port: u16 = \"eighty\".parse()?; // the line that the page shows"]);
    assert!(page.contains("fn save(_req: &amp;mut Request)"), "the lines around are shown too: {page}");
}

#[test]
fn the_page_shows_the_line_that_panicked() {
    let page = page("/boom");
    assert!(
        page.contains("<b>Panic</b>") && page.contains("<h1>boom &lt;script&gt;alert(1)&lt;/script&gt;</h1>"),
        "{page}"
    );
    let marked = marked(&page);
    assert!(marked.len() == 1 && marked[0].ends_with("the line that panics"), "{marked:?}");
    assert!(!page.contains("<script"));
}

#[test]
fn the_page_shows_the_line_of_a_template_and_of_those_that_include_it() {
    let page = page("/orders");
    assert!(page.contains("<b>Template error</b>") && page.contains("custmer"), "{page}");
    let marked = marked(&page);
    assert_eq!(marked[..2], ["{{ custmer.name }}", "{% include 'order.html' %}"]);
    assert!(marked.len() == 3 && marked[2].contains("req.render("), "{marked:?}");
    let places: Vec<_> = ["order.html:3", "orders.html:3"].iter().filter_map(|place| page.find(place)).collect();
    assert!(places.len() == 2 && page.contains("one above"), "{page}");
}

#[test]
fn the_causes_are_a_list() {
    let page = page("/context");
    assert!(page.contains("<h1>cannot save</h1>"), "{page}");
    assert!(page.contains("<li><span>because</span> disk &lt;full&gt;</li>"), "{page}");
}

#[test]
fn the_request_is_shown_without_its_credentials() {
    let (long, evil) = ("x".repeat(64 << 10), "</script><b>\u{202e}");
    let mut headers = vec![("Accept", BROWSER), ("X-Long", long.as_str()), ("User-Agent", evil)];
    let secrets = ["Cookie", "Authorization", "Proxy-Authorization", "X-Api-Key", "X-Auth-Token", "X-CSRF-Token"];
    headers.extend(secrets.map(|name| (name, "hunter2")));
    let response = get(Mode::Development, "/save/17?next=%3Cb%3E&q=\"<i>\"", &headers);
    let page = response.text();
    assert!(!page.contains("hunter2") && page.matches("(hidden)").count() == secrets.len(), "{page}");
    assert!(page.contains("&lt;/script&gt;&lt;b&gt;\\u{202e}") && !page.contains("<script"), "{page}");
    assert!(page.contains("(65536 bytes)") && page.len() < 64 << 10, "{} bytes", page.len());
    assert!(page.contains("/save/17?next=%3Cb%3E&amp;q=&quot;&lt;i&gt;&quot;"), "{page}");
    assert!(page.contains("<dt>{id}</dt><dd class=\"mono\">17</dd>"), "{page}");
    assert!(page.contains(response.header("X-Request-Id").unwrap()));
}

#[test]
fn the_page_needs_no_script_and_no_style_attribute() {
    for page in [page("/save/17"), page("/orders"), page("/gone"), page("/nothing")] {
        assert!(!page.contains("<script") && !page.contains("style=\"") && !page.contains("http://"), "{page}");
        assert_eq!((page.matches("<h1").count(), page.matches("<main>").count()), (1, 1), "{page}");
        let scrolled = page.matches("<pre").count();
        assert_eq!(page.matches("<pre tabindex=\"0\" role=\"region\" aria-label=\"").count(), scrolled, "{page}");
    }
}

#[test]
fn the_backtrace_is_shown_if_it_is_enabled() {
    let page = page("/save/17");
    match std::backtrace::Backtrace::capture().status() {
        std::backtrace::BacktraceStatus::Captured => {
            let own = page.split("<details").next().unwrap();
            assert!(own.contains("error_pages::save") && !own.contains("aside::app"), "{page}");
            assert!(page.contains("aside::app::"), "{page}");
        }
        _ => assert!(page.contains("RUST_BACKTRACE=1"), "{page}"),
    }
}

#[test]
fn a_backtrace_follows_the_log_line() {
    logs::record();
    let response = get(Mode::Production, "/save/17", &[]);
    let lines = logs::at(Level::Error, response.header("X-Request-Id").unwrap());
    assert_eq!(lines.len(), 1, "{lines:?}");
    let (line, backtrace) = lines[0].split_once('\n').unwrap_or((&lines[0], ""));
    assert!(line.contains("failed: invalid digit found in string (at tests/it/error_pages.rs:"), "{line}");
    let captured = std::backtrace::Backtrace::capture().status() == std::backtrace::BacktraceStatus::Captured;
    assert_eq!(backtrace.contains("error_pages::save"), captured, "{backtrace}");
}

#[test]
fn a_terminal_gets_the_page_as_text() {
    let response = get(Mode::Development, "/save/17", &[("Accept", "*/*"), ("Cookie", "a=hunter2")]);
    let text = response.text();
    assert_eq!(response.header("Content-Type"), Some("text/plain; charset=utf-8"));
    let line = text.lines().find(|line| line.starts_with('>')).unwrap_or_default();
    assert!(line.ends_with(".parse()?; // the line that the page shows"), "{text}");
    for words in ["Error: invalid digit found in string", "GET /save/17", "{id} = 17", "Cookie: (hidden)"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn other_clients_see_no_internal_details() {
    let proxied = |name| (Mode::Development, vec![(name, "192.0.2.1")]);
    let names = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Host", "Via"];
    let cases = names.into_iter().map(proxied).chain([(Mode::Production, Vec::new())]);
    for (mode, headers) in cases {
        for accept in [BROWSER, "*/*", "application/json"] {
            for path in ["/save/17", "/boom", "/orders", "/context"] {
                let headers = [headers.clone(), vec![("Accept", accept)]].concat();
                let response = get(mode, path, &headers);
                let text = response.text();
                for inside in ["boom", "digit", "custmer", "disk", "error_pages", "order.html", "192.0.2.1", "debug"] {
                    assert!(!text.contains(inside), "{inside} in {text}");
                }
                assert!(text.contains(response.header("X-Request-Id").unwrap()), "{text}");
            }
        }
    }
}

#[test]
fn a_4xx_is_a_plain_page_with_the_location_for_the_developer() {
    let gone = page("/gone");
    assert_eq!(gone.matches("The collection was sold.").count(), 1, "{gone}");
    assert!(gone.contains("tests/it/error_pages.rs:"), "{gone}");
    let text = get(Mode::Development, "/gone", &[]).text().to_owned();
    assert!(text.starts_with("410 Gone\n\nThe collection was sold.\n\nat tests/it/error_pages.rs:"), "{text}");
    assert!(!page("/nothing").contains("Details for the developer"), "the framework's own errors have no details");
    let plain = get(Mode::Production, "/gone", &[]);
    assert_eq!(plain.text(), "410 Gone\n\nThe collection was sold.\n");
}

#[test]
fn a_client_that_prefers_json_gets_problem_details() {
    let response = get(Mode::Production, "/gone", &[("Accept", "application/json, text/plain, */*")]);
    let id = response.header("X-Request-Id").unwrap();
    let expected = format!(
        r#"{{"type":"about:blank","title":"Gone","status":410,"detail":"The collection was sold.","request_id":"{id}"}}"#
    );
    assert_eq!((response.status_code().code(), response.text()), (410, expected.as_str()));
    assert_eq!(response.header("Content-Type"), Some("application/problem+json"));
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    let broken: Value = get(Mode::Production, "/context", &[("Accept", "application/problem+json")]).json();
    assert_eq!(broken["detail"], "Something went wrong on our side. Please try again later.");
    let nothing: Value = get(Mode::Development, "/nothing", &[("Accept", "application/json")]).json();
    assert_eq!((nothing["status"].as_u64(), nothing.get("debug")), (Some(404), None));
}

#[test]
fn problem_details_have_the_chain_and_location_for_the_developer() {
    let problem = |path| get(Mode::Development, path, &[("Accept", "application/json")]).json::<Value>();
    let debug = &problem("/context")["debug"];
    assert_eq!(debug["chain"], serde_json::json!(["cannot save", "disk <full>"]));
    assert!(debug["location"].as_str().unwrap().starts_with("tests/it/error_pages.rs:"), "{debug}");
    assert_eq!(problem("/orders")["debug"]["location"], "order.html:3");
    let panic = problem("/boom");
    assert!(panic["debug"]["location"].as_str().unwrap().starts_with("tests/it/error_pages.rs:"), "{panic}");
}

#[test]
fn a_client_that_sends_json_gets_json() {
    let mut client = client(Mode::Production);
    for accept in [None, Some("*/*")] {
        let request = client.post("/api").json(&"no number");
        let response = accept.into_iter().fold(request, |request, value| request.header("Accept", value)).send();
        assert_eq!(response.header("Content-Type"), Some("application/problem+json"), "{response:?}");
        assert_eq!(response.json::<Value>()["status"].as_u64(), Some(response.status_code().code().into()));
    }
    let page = client.post("/api").json(&"no number").header("Accept", BROWSER).send();
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
}

#[test]
fn an_error_that_cannot_be_displayed_is_a_500() {
    logs::record();
    for (path, accept) in
        ["/speechless", "/endless"].iter().flat_map(|path| [BROWSER, "*/*"].map(|accept| (path, accept)))
    {
        for mode in [Mode::Development, Mode::Production] {
            let response = get(mode, path, &[("Accept", accept)]);
            assert_eq!(response.status_code(), Status::INTERNAL_SERVER_ERROR, "{path}");
            assert!(response.text().contains("500"), "{response:?}");
        }
    }
    assert!(!logs::at(Level::Error, "failed: (its Display panicked: no-words-for-it").is_empty());
}

#[test]
fn an_error_knows_where_it_was_made() {
    fn foreign() -> Result<()> {
        "x".parse::<u8>()?;
        Ok(())
    }
    let line = line!();
    let errors = [
        foreign().unwrap_err(),
        Error::not_found("gone"),
        Error::new(Status::CONFLICT, "taken"),
        Error::from(Status::FORBIDDEN),
        Error::from_box("words"),
        Error::internal("inside").context("outside"),
        aside::error::BoxError::from(Error::internal("boxed")).into_error(),
    ];
    let lines = errors.each_ref().map(|error| error.location().map(|place| (place.file(), place.line())));
    let at = |line| Some((file!(), line));
    assert_eq!(lines[0], at(line - 3));
    assert_eq!(lines[1..], [3, 4, 5, 6, 7, 8].map(|below| at(line + below)));
}

/// Converts a boxed error as `?` does: an `aside::Error` comes out unchanged.
trait IntoError {
    fn into_error(self) -> Error;
}

impl IntoError for aside::error::BoxError {
    fn into_error(self) -> Error {
        Error::from_box(self)
    }
}
