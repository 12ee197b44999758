//! A list that htmx changes in place, and that works without JavaScript too: `cargo run --bin htmx_list`
use std::{collections::BTreeSet, sync::Mutex};

use aside::{App, Config, Form, Request, Response, Result, context, redirect};

// `static` has a copy of htmx. It is told to use no inline styles, and to show errors too.
const PAGE: &str = r#"<!doctype html><title>To do</title><meta name="htmx-config" content='{
  "includeIndicatorStyles": false, "responseHandling": [{"code": ".", "swap": true}]}'>
<script src="{{ static("htmx.min.js") }}" defer></script>
<main hx-target="main">{% include "list.html" %}</main>"#;
const LIST: &str = r#"{% for item in items %}<form method="post" action="/remove" hx-post="/remove">{{ item }}
  <button name="item" value="{{ item }}">Done</button></form>{% endfor %}
<form method="post" hx-post="/"><input name="item" value="{{ form.values.item }}" autofocus>
  <button>Add</button> {{ form.errors.item }}</form>"#;

type Items = Mutex<BTreeSet<String>>; // in place of a database

#[derive(serde::Deserialize)]
struct Item {
    item: String,
}

fn main() -> Result<()> {
    app(Config::from_env()?).main()
}

fn app(config: Config) -> App {
    App::with_config(config)
        .state(Items::default())
        .template("all.html", PAGE)
        .template("list.html", LIST)
        .static_files("/static", "static")
        .get("/", |req| show(req, &Form::empty()))
        .post("/", add)
        .post("/remove", remove)
}

/// Shows the page, or only its list to htmx, which follows a redirect too.
fn show(req: &mut Request, form: &Form<Item>) -> Result<Response> {
    let template = req.header("HX-Request").map_or("all.html", |_| "list.html");
    let items = req.state::<Items>().lock().unwrap().clone();
    let shown = req.render(template, context! { items, form })?;
    Ok(shown.status(form.status()).header("Vary", "HX-Request"))
}

fn add(req: &mut Request) -> Result<Response> {
    let mut form: Form<Item> = req.submitted()?;
    form.require(&["item"])
        .check("item", |new| new.item.len() <= 100, "That is too long.");
    match form.valid() {
        Ok(new) => req.state::<Items>().lock().unwrap().insert(new.item),
        Err(form) => return show(req, &form),
    };
    Ok(redirect("/"))
}

fn remove(req: &mut Request) -> Result<Response> {
    let Item { item } = req.form()?;
    req.state::<Items>().lock().unwrap().remove(&item);
    Ok(redirect("/"))
}

#[test]
fn htmx_gets_the_list_and_forms_of_other_sites_are_refused() {
    let mut client = aside::testing::TestClient::new(app(Config::default()));
    let mut add = |header, value, item| {
        let request = client.post("/").form(&[("item", item)]);
        request.header(header, value).send()
    };
    assert_eq!(add("Accept", "text/html", "<b>Milk").location(), Some("/"));
    let blank = add("HX-Request", "true", " ");
    assert!(blank.status_code() == 422 && blank.text().starts_with("<form"));
    assert!(blank.text().contains("&lt;b&gt;Milk"));
    assert_eq!(
        add("Sec-Fetch-Site", "cross-site", "Tea").status_code(),
        403
    );
    client.post("/remove").form(&[("item", "<b>Milk")]).send();
    assert!(!client.get("/").text().contains("Milk"));
}
