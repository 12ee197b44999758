//! Pages that the browser shows after a logout.

use std::sync::atomic::{AtomicU32, Ordering};

use aside::server::Server;
use aside::{App, Config, Html, IntoResponse, Request, redirect};

use crate::browser::{Browser, Page};

const HOME: &str = r#"<!doctype html><title>Home</title><p id="home">Home</p>
<form method="post" action="/login"><button id="login">Log in</button></form>
<a id="receipt" href="/receipts/secret">A receipt</a>"#;

const ACCOUNT: &str = r#"<!doctype html><title>Account</title><p id="who">{% if user %}{{ user }}{% else %}nobody{% endif %}</p>
<form method="post" action="/logout"><button id="logout">Log out</button></form>"#;

/// Starts a site with a page for a user, and a page that its handler makes cacheable.
fn site() -> Server {
    let asked = AtomicU32::new(0);
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    App::with_config(config)
        .template("home.html", HOME)
        .template("account.html", ACCOUNT)
        .get("/", |req: &mut Request| req.render("home.html", ()))
        .get("/account", |req: &mut Request| req.render("account.html", ()))
        .get("/receipts/secret", move |_req: &mut Request| {
            let asked = asked.fetch_add(1, Ordering::Relaxed) + 1;
            Html(format!(r#"<p id="asked">{asked}</p><a id="back" href="/account">Back</a>"#))
                .into_response()
                .header("Cache-Control", "private, max-age=600")
        })
        .post("/login", |req: &mut Request| {
            req.login(17)?;
            aside::ok(redirect("/account"))
        })
        .post("/logout", |req: &mut Request| {
            req.logout()?;
            aside::ok(redirect("/"))
        })
        .start()
        .unwrap()
}

/// Opens a page, logs a user in, and visits the account.
fn logged_in(server: &Server, browser: &Browser) -> Page {
    let page = browser.page();
    page.goto(&format!("http://{}/", server.addr()));
    page.click("#login");
    page.wait_for("document.querySelector('#who').textContent == '17'");
    page
}

fn log_out(page: &Page) {
    page.click("#logout");
    page.wait_for("document.querySelector('#home')");
}

pub(crate) fn the_back_button_after_a_logout_shows_no_page_of_the_user(browser: Browser) {
    let server = site();
    let page = logged_in(&server, &browser);
    log_out(&page);
    page.leave("history.back()");
    assert_eq!(page.wait_for("document.querySelector('#who') && document.querySelector('#who').textContent"), "nobody");
    server.stop();
}

/// `Clear-Site-Data` clears the browser's HTTP cache. Browsers do not clear the pages that they hold in memory for the back
/// button (bfcache).
pub(crate) fn a_cacheable_page_is_requested_again_after_a_logout(browser: Browser) {
    let server = site();
    let page = logged_in(&server, &browser);
    let see = |times: &str| {
        page.goto(&format!("http://{}/", server.addr()));
        page.click("#receipt");
        assert_eq!(
            page.wait_for("document.querySelector('#asked') && document.querySelector('#asked').textContent"),
            times
        );
        page.click("#back");
        page.wait_for("document.querySelector('#who')");
    };
    see("1");
    see("1");
    log_out(&page);
    see("2");
    server.stop();
}
