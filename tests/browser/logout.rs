//! What the way back shows after a logout.

use aside::{App, Config, Request, Server, login, logout, redirect};

use crate::browser::{Browser, Page};

const HOME: &str = r#"<!doctype html><title>Home</title><p id="home">Home</p>
<form method="post" action="/login"><button id="login">Log in</button></form>"#;

const ACCOUNT: &str = r#"<!doctype html><title>Account</title><p id="who">{% if user %}{{ user }}{% else %}nobody{% endif %}</p>
<form method="post" action="/logout"><button id="logout">Log out</button></form>"#;

/// A site whose handler lets the browser keep a page of the user's: `Cache-Control` is the one given.
fn site(control: &'static str) -> Server {
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    App::with_config(config)
        .template("home.html", HOME)
        .template("account.html", ACCOUNT)
        .get("/", |req: &mut Request| req.render("home.html", ()))
        .get("/account", move |req: &mut Request| {
            aside::ok(req.render("account.html", ())?.header("Cache-Control", control))
        })
        .post("/login", |req: &mut Request| {
            login(req, 17)?;
            aside::ok(redirect("/account"))
        })
        .post("/logout", |req: &mut Request| {
            logout(req)?;
            aside::ok(redirect("/"))
        })
        .start()
        .unwrap()
}

fn back(page: &Page) -> serde_json::Value {
    page.evaluate("history.back()");
    page.wait_for("document.querySelector('#who') && document.querySelector('#who').textContent")
}

pub(crate) fn the_way_back_after_a_logout_shows_no_page_of_the_user(browser: Browser) {
    for control in ["private, max-age=600", "private, no-cache", "no-store"] {
        let (server, page) = (site(control), browser.page());
        page.goto(&format!("http://{}/", server.addr()));
        page.click("#login");
        page.wait_for("document.querySelector('#who').textContent == '17'");
        page.click("#logout");
        page.wait_for("document.querySelector('#home')");
        assert_eq!(back(&page), "nobody", "{control}");
        server.stop();
    }
}
