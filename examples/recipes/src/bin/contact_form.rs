//! A contact form that becomes a mail to the owner: `cargo run --bin contact_form`
use aside::routing::{Rate, get};
use aside::{App, Config, Form, Mail, Request, Response, Result, context, mail, redirect};
use serde::Deserialize;

const PAGE: &str = r#"<!doctype html><title>Contact</title>
{% for flash in flashes %}<p>{{ flash.message }}</p>{% endfor %}
<form method="post">{{ once() }}
  <p>Your address: <input name="email" value="{{ form.values.email }}"> {{ form.errors.email }}</p>
  <p><textarea name="text">
{{ form.values.text }}</textarea> {{ form.errors.text }}</p>
  <button>Send</button>
</form>"#;

#[derive(Deserialize)]
struct Message {
    email: String,
    text: String,
}

fn main() -> Result<()> {
    app(Config::from_env()?).main()
}

fn app(config: Config) -> App {
    let page = get(|req| page(req, &Form::empty()));
    App::with_config(config)
        .template("contact.html", PAGE)
        .route("/", page.post(send).rate_limit(Rate::per_minute(20)))
}

fn page(req: &mut Request, form: &Form<Message>) -> Result<Response> {
    let page = req.render("contact.html", context! { form })?;
    Ok(page.status(form.status()))
}

fn send(req: &mut Request) -> Result<Response> {
    let mut form: Form<Message> = req.submitted()?;
    form.require(&["email", "text"]);
    form.check("email", |m| mail::is_address(&m.email), "Not an address.");
    form.check("text", |m| m.text.len() <= 10_000, "At most 10 kB.");
    let Message { email, text } = match form.valid() {
        Ok(message) => message,
        Err(form) => return page(req, &form),
    };
    req.once(|req| {
        // From the site, since servers refuse a forged sender. An answer goes to the visitor.
        let mail = Mail::to("owner@example.org").reply_to(&email);
        let mail = mail.subject(format!("Message from {email}"));
        mail.text(text).send();
        req.flash("success", "Thank you! Your message is on its way.");
        Ok(redirect("/"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aside::testing::TestClient;

    #[test]
    fn a_message_is_mailed_to_the_owner() {
        let mut client = TestClient::new(app(Config::default()));
        let form = [("email", "ada@example.org"), ("text", "Привет")];
        client.post("/").form(&form).send();
        client.drain();
        let sent = &client.outbox()[0];
        assert_eq!(sent.reply_to, ["ada@example.org"]);
        assert_eq!(sent.text.as_deref(), Some("Привет"));
    }

    #[test]
    fn an_address_cannot_add_a_header() {
        let mut client = TestClient::new(app(Config::default()));
        let form = [("email", "a@b.org\r\nBcc: c@d.org"), ("text", "Hello")];
        assert_eq!(client.post("/").form(&form).send().status_code(), 422);
        assert!(client.outbox().is_empty());
    }
}
