//! A new password by a mailed link that works once: `cargo run --bin password_reset`
use std::time::Duration;

use aside::routing::{Rate, RateLimit, get};
use aside::sqlite::Db;
use aside::{App, Config, Error, Mail, Request, Response, Result, password, redirect, token};

const USERS: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, email TEXT UNIQUE
    COLLATE NOCASE, password TEXT); INSERT INTO users (email) VALUES ('ada@example.org')";

const PAGE: &str = r#"<!doctype html><title>Password</title><form method="post">
{% for flash in flashes %}{{ flash.message }}{% endfor %} {% if path == "/" %}Your address:
<input name="email">{% else %}New password: <input name="password" type="password">{% endif %}
<button>Send</button></form>"#;

#[derive(Default, serde::Deserialize)]
#[serde(default)]
struct Entered {
    email: String,
    password: String,
}

fn main() -> Result<()> {
    App::main_with(|config| app(config, "data/password_reset.db"))
}

fn app(config: Config, db: &str) -> Result<App> {
    let page = || get(|req| req.render("page.html", ()));
    let app = App::with_config(config).template("page.html", PAGE);
    let app = app.state(Db::open(db, &[USERS])?);
    let app = app.state(RateLimit::new(Rate::per_hour(5)));
    let app = app.route("/", page().post(ask).rate_limit(Rate::per_minute(10)));
    Ok(app.route("/reset", page().post(reset)))
}

fn ask(req: &mut Request) -> Result<Response> {
    let Entered { email, .. } = req.form()?;
    req.state::<RateLimit>().check(&email.to_lowercase())?; // mails to one address
    let db = req.state::<Db>();
    // In the background, so that neither the page nor its time shows who has an account.
    aside::background(move || {
        let sql = "SELECT id, password, email FROM users WHERE email = ?";
        if let Some((id, old, email)) = db.row::<(i64, Option<String>, String)>(sql, [email])? {
            let link = token::link("/reset", &(id, old), Duration::from_secs(3600))?;
            Mail::to(email).subject("Your password").text(link).send();
        }
        aside::ok(())
    });
    req.flash("info", "If you have an account, a link is on its way.");
    Ok(redirect("/"))
}

fn reset(req: &mut Request) -> Result<Response> {
    let (id, old): (i64, Option<String>) = token::open_link(req)?;
    let Entered { password, .. } = req.form()?;
    if !(12..=200).contains(&password.chars().count()) {
        return Err(Error::unprocessable("A password has 12 to 200 letters."));
    }
    let sql = "UPDATE users SET password = ? WHERE id = ? AND password IS ?";
    let values = (password::hash(&password)?, id, old);
    if req.state::<Db>().execute(sql, values)? == 0 {
        return Err(Error::forbidden("This link was used before."));
    }
    req.logout_everywhere(id)?; // all who knew the old password
    req.flash("info", "Your password is changed.");
    Ok(redirect("/"))
}

#[cfg(test)]
#[test]
fn a_link_changes_the_password_once() {
    let mut ada = aside::testing::TestClient::new(app(Config::default(), ":memory:").unwrap());
    ada.post("/").form(&[("email", "Ada@example.org")]).send();
    ada.drain();
    let link = ada.outbox()[0].text.clone().unwrap();
    for (password, code) in [("short", 422), ("long enough!", 303), ("another one!", 403)] {
        let changed = ada.post(&link).form(&[("password", password)]).send();
        assert_eq!(changed.status_code(), code);
    }
}
