//! A newsletter with confirmed addresses (double opt-in): `cargo run --bin newsletter`
use std::time::Duration;

use aside::routing::{Rate, RateLimit, get};
use aside::{App, Config, Error, Mail, Request, Response, Result, sqlite::Db, token};
use aside::{mail, redirect};
use serde::Deserialize;

const SUBSCRIBERS: &str = "CREATE TABLE subscribers (email TEXT PRIMARY KEY COLLATE NOCASE)";
const TWO_DAYS: Duration = Duration::from_secs(2 * 24 * 3600);

const PAGE: &str = r#"<!doctype html><title>Newsletter</title>
{% for flash in flashes %}<p>{{ flash.message }}</p>{% endfor %}
<form method="post">{% if path == "/" %}Your address: <input name="email">{% endif %}
<button>{{ "Unsubscribe" if path == "/unsubscribe" else "Subscribe" }}</button></form>"#;

#[derive(Deserialize)]
struct Signup {
    email: String,
}

fn main() -> Result<()> {
    App::main_with(|config| app(config, "data/newsletter.db"))
}

fn app(config: Config, db: &str) -> Result<App> {
    let page = || get(|req| req.render("page.html", ()));
    let app = App::with_config(config).template("page.html", PAGE);
    let app = app.state(Db::open(db, &[SUBSCRIBERS])?);
    let app = app.state(RateLimit::new(Rate::per_hour(3)));
    let app = app.route("/", page().post(sign_up).rate_limit(Rate::per_minute(10)));
    let app = app.route("/subscribe", page().post(follow_link));
    Ok(app.route("/unsubscribe", page().post(follow_link)))
}

fn sign_up(req: &mut Request) -> Result<Response> {
    let Signup { email } = req.form()?;
    if !mail::is_address(&email) {
        return Err(Error::unprocessable("This is not an email address."));
    }
    req.state::<RateLimit>().check(&email.to_lowercase())?; // mails to one address
    // Nothing is stored yet, and the page is the same for an address that has subscribed.
    let subscribe = token::link("/subscribe", &email, TWO_DAYS)?;
    let unsubscribe = token::link("/unsubscribe", &email, Duration::MAX)?;
    let text = format!("Subscribe: {subscribe}\nUnsubscribe at any time: {unsubscribe}");
    Mail::to(email).subject("Our newsletter").text(text).send();
    req.flash("info", "Please open the link in the mail to you.");
    Ok(redirect("/"))
}

fn follow_link(req: &mut Request) -> Result<Response> {
    let email: String = token::open_link(req)?;
    let (sql, message) = match req.path() {
        "/subscribe" => ("INSERT OR IGNORE INTO subscribers VALUES (?)", "Welcome!"),
        _ => ("DELETE FROM subscribers WHERE email = ?", "Good-bye!"),
    };
    req.state::<Db>().execute(sql, [email])?;
    req.flash("info", message);
    Ok(redirect("/"))
}

#[cfg(test)]
#[test]
fn only_the_links_of_the_mail_change_a_subscription() {
    let mut client = aside::testing::TestClient::new(app(Config::default(), ":memory:").unwrap());
    let form = [("email", "ada@example.org")];
    client.post("/").form(&form).send();
    client.drain();
    let mail = client.outbox()[0].text.clone().unwrap();
    for (line, count) in mail.lines().zip([1, 0]) {
        client.post(line.rsplit(' ').next().unwrap()).send();
        let sql = "SELECT email FROM subscribers";
        let rows = client.state::<Db>().rows::<(String,)>(sql, ());
        assert_eq!(rows.unwrap().len(), count);
    }
    let forged = client.post("/subscribe?token=x").send();
    assert_eq!(forged.status_code(), 403);
}
