//! A chat whose lines all open pages show at once: `cargo run --bin live_chat`
use aside::routing::{Rate, get};
use aside::{App, Config, Form, Live, Request, Response, Result, context, redirect};
use serde::{Deserialize, Serialize};

const PAGE: &str = r#"<!doctype html><title>Chat</title>{{ live("chat") }}
<form method="post">
  <p>Name <input name="name" value="{{ form.values.name }}"> {{ form.errors.name }}</p>
  <p>Text <input name="text" value="{{ form.values.text }}" autofocus> {{ form.errors.text }}</p>
  <button>Send</button>
</form>"#;

const LINES: &str = "{% for line in state %}<p>{{ line.name }}: {{ line.text }}</p>{% endfor %}";

/// The number of lines that the chat keeps, in memory.
const KEPT: usize = 100;

#[derive(Clone, Deserialize, Serialize)]
struct Line {
    name: String,
    text: String,
}

fn main() -> Result<()> {
    app(Config::from_env()?).main()
}

fn app(config: Config) -> App {
    let page = get(show).post(send).rate_limit(Rate::per_minute(60));
    App::with_config(config)
        .template("page.html", PAGE)
        .template("lines.html", LINES)
        .state(Live::<Vec<Line>>::default())
        .live("chat", "lines.html", |req| req.state::<Live<Vec<Line>>>())
        .route("/", page)
}

fn show(req: &mut Request) -> Result<Response> {
    let name: Option<String> = req.session().get("name");
    page(req, &Form::empty().with("name", name.unwrap_or_default()))
}

fn page(req: &mut Request, form: &Form<Line>) -> Result<Response> {
    let page = req.render("page.html", context! { form })?;
    Ok(page.status(form.status()))
}

fn send(req: &mut Request) -> Result<Response> {
    let mut form: Form<Line> = req.submitted()?;
    form.require(&["name", "text"])
        .check("name", |line| line.name.len() <= 50, "Too long.")
        .check("text", |line| line.text.len() <= 500, "Too long.");
    let line = match form.valid() {
        Ok(line) => line,
        Err(form) => return page(req, &form),
    };
    req.session().insert("name", &line.name);
    req.state::<Live<Vec<Line>>>().update(|lines| {
        lines.push(line);
        lines.drain(..lines.len().saturating_sub(KEPT));
    });
    Ok(redirect("/"))
}

#[test]
fn an_open_page_shows_a_new_line() {
    let mut client = aside::testing::TestClient::new(app(Config::default()));
    let mut events = client.events("/_aside/live/chat");
    assert_eq!(events.next().data, "");
    let line = [("name", "Ada"), ("text", "<b>Hi")];
    let sent = client.post("/").form(&line).send();
    assert_eq!(sent.location(), Some("/"));
    assert_eq!(events.next().data, "<p>Ada: &lt;b&gt;Hi</p>");
    let blank = [("name", "Ada"), ("text", " ")];
    let page = client.post("/").form(&blank).send();
    assert_eq!(page.status_code(), 422);
}
