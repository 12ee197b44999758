//! The browser driver itself: a test sees the actual state of a page, even while the page changes.

use std::panic::{AssertUnwindSafe, catch_unwind};

use aside::server::Server;
use aside::{App, Config, Request, Result, context, redirect};
use serde::Deserialize;
use serde_json::json;

use crate::browser::Browser;

const PAGE: &str = r#"<!doctype html><title>A form</title>{% for flash in flashes %}<p id="flash">{{ flash.message }}</p>{% endfor %}
<form method="post" action="/names"><label>Name <input id="name" name="name"></label><button id="send">Send</button></form>
<p id="count">0</p><p id="ended"></p>
{% for line in range(200) %}<br>{% endfor %}<button id="below">Below</button>
<script nonce="{{ csp_nonce }}">
const count = document.querySelector('#count');
document.querySelector('#below').addEventListener('click', event => count.textContent = event.isTrusted ? 'clicked' : 'pretended');
document.querySelector('#name').addEventListener('keydown', event => document.querySelector('#ended').textContent += event.key);
</script>"#;

/// A page that counts by itself, writes to the console, and has a script that the Content-Security-Policy forbids.
const RESTLESS: &str = r#"<!doctype html><p id="count">0</p>
<script nonce="{{ csp_nonce }}">
setInterval(() => document.querySelector('#count').textContent++, 10);
console.warn('counting', 3);
setTimeout(() => { throw new Error('on purpose') }, 0);
</script><script>document.title = 'not to be run'</script>"#;

#[derive(Deserialize)]
struct Name {
    name: String,
}

fn site() -> Server {
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    App::with_config(config)
        .template("page.html", PAGE)
        .template("restless.html", RESTLESS)
        .get("/", |req: &mut Request| req.render("page.html", context! {}))
        .get("/restless", |req: &mut Request| req.render("restless.html", context! {}))
        .post("/names", |req: &mut Request| -> Result<_> {
            let name = req.form::<Name>()?.name;
            req.flash("success", format!("Hello {name}"));
            Ok(redirect("/"))
        })
        .start()
        .unwrap()
}

fn url(server: &Server, path: &str) -> String {
    format!("http://{}{path}", server.addr())
}

pub(crate) fn a_form_is_filled_in_and_submitted_by_mouse_and_keyboard(browser: Browser) {
    let (server, page) = (site(), browser.page());
    page.goto(&url(&server, "/"));
    page.type_text("#name", "Ada & <b>");
    page.press("x");
    page.press("Backspace");
    assert_eq!(page.evaluate("document.querySelector('#name').value + document.activeElement.id"), "Ada & <b>name");
    assert_eq!(page.evaluate("document.querySelector('#ended').textContent"), "xBackspace");
    page.press("Enter");
    page.wait_for("document.querySelector('#flash').textContent == 'Hello Ada & <b>'");
    assert!(page.text().starts_with("Hello Ada & <b>\n"), "{}", page.text());
    page.type_text("#name", "Bo");
    page.click("#send");
    page.wait_for("document.querySelector('#flash').textContent == 'Hello Bo'");
    page.click("#below");
    assert_eq!(page.wait_for("document.querySelector('#count').textContent"), "clicked");
    assert!(page.screenshot().starts_with(b"\x89PNG"));
    assert_eq!(page.messages(), [""; 0]);
    server.stop();
}

pub(crate) fn a_test_waits_for_a_changing_page_and_reads_its_messages(browser: Browser) {
    let (server, page) = (site(), browser.page());
    page.goto(&url(&server, "/restless"));
    page.wait_for("+document.querySelector('#count').textContent > 5");
    page.evaluate("setTimeout(() => location.reload(), 50); window.former = true");
    page.wait_for("!window.former && +document.querySelector('#count').textContent > 5");
    assert_eq!(page.evaluate("Promise.resolve({ one: [document.title] })"), json!({ "one": [""] }));
    let messages = page.messages();
    let count = |words: &str| messages.iter().filter(|message| message.contains(words)).count();
    assert_eq!((count("warning: counting 3"), count("uncaught: Uncaught Error: on purpose")), (2, 2), "{messages:#?}");
    assert_eq!((count("Content Security Policy"), messages.len()), (2, 6), "{messages:#?}");
    server.stop();
}

pub(crate) fn a_form_works_without_javascript(browser: Browser) {
    let (server, page) = (site(), browser.page().without_javascript());
    page.goto(&url(&server, "/restless"));
    assert_eq!(page.text(), "0");
    page.goto(&url(&server, "/"));
    page.type_text("#name", "Ada");
    page.click("#send");
    page.wait_for("document.querySelector('#flash').textContent == 'Hello Ada'");
    page.click("#below");
    assert_eq!(page.evaluate("document.querySelector('#count').textContent"), "0");
    assert_eq!(page.messages(), [""; 0]);
    server.stop();
}

pub(crate) fn two_pages_run_side_by_side(browser: Browser) {
    let server = site();
    let (one, two) = (browser.page(), browser.page());
    one.goto(&url(&server, "/restless"));
    two.goto(&url(&server, "/"));
    let count = one.evaluate("+document.querySelector('#count').textContent");
    two.type_text("#name", "Ada");
    two.click("#send");
    two.wait_for("document.querySelector('#flash')");
    one.wait_for(&format!("+document.querySelector('#count').textContent > {count} + 5"));
    one.offline(true);
    assert_eq!(one.evaluate("fetch('/').then(() => 'there', () => 'offline')"), "offline");
    assert_eq!(two.evaluate("fetch('/').then(() => 'there', () => 'offline')"), "there");
    one.offline(false);
    assert_eq!(one.evaluate("fetch('/').then(() => 'there', () => 'offline')"), "there");
    server.stop();
}

pub(crate) fn a_failed_wait_is_reported_and_the_browser_ends_with_its_test(browser: Browser) {
    let page = browser.page();
    let said = |wrong: &dyn Fn()| *catch_unwind(AssertUnwindSafe(wrong)).unwrap_err().downcast::<String>().unwrap();
    assert!(said(&|| drop(page.evaluate("nothing.there"))).contains("nothing is not defined"));
    assert!(said(&|| drop(page.wait_for("a b"))).contains("SyntaxError"));
    assert!(said(&|| page.goto("http://127.0.0.1:1/")).contains("net::ERR_"));
    let profile = browser.profile().to_owned();
    assert!(profile.exists());
    drop(browser);
    assert!(!profile.exists());
    assert!(said(&|| drop(page.text())).contains("no answer to Runtime.evaluate"));
}
