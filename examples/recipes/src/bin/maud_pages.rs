//! Pages in maud, whose templates are Rust that the compiler checks: `cargo run --bin maud_pages`
//! maud rather than askama, since markup, code and types stay in one file.
use std::sync::Mutex;

use aside::{App, Config, Form, Request, Response, Result, redirect};
use maud::{DOCTYPE, Markup, html};

type Names = Mutex<Vec<String>>; // in place of a database

#[derive(serde::Deserialize)]
struct NewName {
    name: String,
}

fn main() -> Result<()> {
    app(Config::from_env()?).main()
}

fn app(config: Config) -> App {
    App::with_config(config)
        .state(Names::default())
        .get("/", |req| page(req, &Form::empty()))
        .post("/", add)
}

/// Returns a page in the frame of the site: layouts and parts are functions.
fn layout(req: &mut Request, title: &str, content: Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            title { (title) }
            style nonce=(req.csp_nonce()) { ".error { color: red }" }
            body {
                @for flash in req.take_flashes() { p class=(flash.kind) { (flash.message) } }
                h1 { (title) }
                (content)
            }
        }
    };
    Response::html(page.into_string())
}

fn field(form: &Form<NewName>, name: &str, label: &str) -> Markup {
    html! {
        label { (label) " " input name=(name) value=(form.typed_in(name)); }
        @if let Some(error) = form.errors().get(name) { " " span.error { (error) } }
    }
}

fn page(req: &mut Request, form: &Form<NewName>) -> Response {
    let names = req.state::<Names>();
    let content = html! {
        ul { @for name in names.lock().unwrap().iter() { li { (name) } } }
        form method="post" { (field(form, "name", "Name")) " " button { "Add" } }
    };
    layout(req, "Names", content).status(form.status())
}

fn add(req: &mut Request) -> Result<Response> {
    let mut form: Form<NewName> = req.submitted()?;
    form.require(&["name"])
        .check("name", |new| new.name.len() <= 50, "At most 50 letters.");
    let new = match form.valid() {
        Ok(new) => new,
        Err(form) => return Ok(page(req, &form)),
    };
    req.state::<Names>().lock().unwrap().push(new.name);
    req.flash("success", "Added.");
    Ok(redirect("/"))
}

#[test]
fn values_are_escaped_and_an_invalid_form_is_shown_again() {
    let mut client = aside::testing::TestClient::new(app(Config::default()));
    client.post("/").form(&[("name", "<b>Ada")]).send();
    let page = client.get("/");
    assert!(page.text().contains("<li>&lt;b&gt;Ada</li>") && page.text().contains("Added."));
    let page = client.post("/").form(&[("name", &"x".repeat(51))]).send();
    assert!(page.status_code() == 422 && page.text().contains("At most 50"));
}
