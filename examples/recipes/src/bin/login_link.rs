//! Login without a password, by a mailed link that works once: `cargo run --bin login_link`
use std::time::Duration;

use aside::routing::{Rate, RateLimit, get};
use aside::{App, Config, Error, Mail, Request, Response, Result, sqlite::Db, token};
use aside::{background, redirect};
use serde::Deserialize;

const USERS: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT,
    email TEXT UNIQUE COLLATE NOCASE, logins INTEGER NOT NULL DEFAULT 0) STRICT;
    INSERT INTO users (email) VALUES ('ada@example.org')";

const PAGE: &str = r#"<!doctype html><title>Login</title>
{% for flash in flashes %}<p>{{ flash.message }}</p>{% endfor %}
{% if user %}<p>You are user {{ user }}.</p>{% endif %}
<form method="post">{% if path == "/" %}Your address: <input name="email">{% endif %}
<button>Log in</button></form>"#;

#[derive(Deserialize)]
struct Login {
    email: String,
}

fn main() -> Result<()> {
    App::main_with(|config| app(config, "data/login_link.db"))
}

fn app(config: Config, db: &str) -> Result<App> {
    let page = || get(|req| req.render("login.html", ()));
    let app = App::with_config(config).template("login.html", PAGE);
    let app = app.state(Db::open(db, &[USERS])?);
    let app = app.state(RateLimit::new(Rate::per_hour(5)));
    let app = app.route("/", page().post(ask).rate_limit(Rate::per_minute(10)));
    Ok(app.route("/login", page().post(log_in)))
}

fn ask(req: &mut Request) -> Result<Response> {
    let Login { email } = req.form()?;
    req.state::<RateLimit>().check(&email.to_lowercase())?; // mails to one address
    let db = req.state::<Db>();
    // In the background, so that neither the page nor its time shows who has an account.
    background(move || {
        let sql = "SELECT id, logins, email FROM users WHERE email = ?";
        if let Some((id, logins, email)) = db.row::<(i64, i64, String)>(sql, [email])? {
            let link = token::link("/login", &(id, logins), Duration::from_secs(900))?;
            Mail::to(email).subject("Your login").text(link).send();
        }
        aside::ok(())
    });
    req.flash("info", "If you have an account, a link is on its way.");
    Ok(redirect("/"))
}

fn log_in(req: &mut Request) -> Result<Response> {
    let (id, logins): (i64, i64) = token::open_link(req)?;
    let sql = "UPDATE users SET logins = logins + 1 WHERE id = ? AND logins = ?";
    if req.state::<Db>().execute(sql, [id, logins])? == 0 {
        return Err(Error::forbidden("This link was used before."));
    }
    req.login(id)?;
    Ok(redirect("/"))
}

#[cfg(test)]
#[test]
fn a_link_logs_its_user_in_once() {
    let mut client = aside::testing::TestClient::new(app(Config::default(), ":memory:").unwrap());
    for email in ["Ada@example.org", "eve@example.org"] {
        client.post("/").form(&[("email", email)]).send();
    }
    client.drain();
    assert_eq!(client.outbox().len(), 1);
    let link = client.outbox()[0].text.clone().unwrap();
    client.post(&link).send();
    assert!(client.get("/").text().contains("You are user 1."));
    assert_eq!(client.post(&link).send().status_code(), 403);
}
