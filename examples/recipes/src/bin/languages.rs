//! Pages in the language of the browser, or in the one that the user chose: `cargo run --bin languages`
use std::collections::BTreeMap;

use aside::{App, Config, Error, Request, Response, Result, context, redirect};
use serde::Deserialize;

/// The texts in each language. A large site has a file for each, with `include_str!`.
const TEXTS: &str = r#"{
  "en": {"language": "English", "title": "Photos", "greeting": "Good day, {name}."},
  "de": {"language": "Deutsch", "title": "Fotos", "greeting": "Guten Tag, {name}."},
  "fr": {"language": "Français", "title": "Photos", "greeting": "Bonjour {name}."}
}"#;

const PAGE: &str = r#"<!doctype html><html lang="{{ language }}"><title>{{ t.title }}</title>
<p>{{ t.greeting | replace("{name}", name) }}</p>
<form method="post">{% for tag, texts in languages | items %}
<button name="language" value="{{ tag }}" lang="{{ tag }}">{{ texts.language }}</button>
{% endfor %}</form></html>"#;

type Texts = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Deserialize)]
struct Choice {
    language: String,
}

fn main() -> Result<()> {
    app(Config::from_env()?).main()
}

fn app(config: Config) -> App {
    let texts: Texts = serde_json::from_str(TEXTS).expect("TEXTS is valid JSON");
    App::with_config(config)
        .state(texts)
        .template("page.html", PAGE)
        .get("/", show)
        .post("/", choose)
}

/// Returns the language that the user chose, or the one that the browser prefers.
fn language(req: &mut Request, texts: &Texts) -> String {
    let offered: Vec<&str> = texts.keys().map(String::as_str).collect();
    let preferred = req.preferred_language(&offered).unwrap_or("en");
    let chosen: Option<String> = req.session().get("language");
    let chosen = chosen.filter(|language| texts.contains_key(language));
    chosen.unwrap_or_else(|| preferred.to_owned())
}

fn show(req: &mut Request) -> Result<Response> {
    let languages = req.state::<Texts>();
    let language = language(req, &languages);
    let (t, name) = (&languages[&language], "Ada <3");
    let context = context! { languages => *languages, language, t, name };
    let page = req.render("page.html", context)?;
    Ok(page.header("Content-Language", language))
}

fn choose(req: &mut Request) -> Result<Response> {
    let Choice { language } = req.form()?;
    if !req.state::<Texts>().contains_key(&language) {
        return Err(Error::unprocessable("No such language."));
    }
    req.session().insert("language", language);
    Ok(redirect("/"))
}

#[test]
fn the_users_choice_comes_before_the_browsers_language() {
    let mut client = aside::testing::TestClient::new(app(Config::default()));
    let mut greets = |accept: &str, greeting: &str| {
        let request = client.request("GET", "/").header("Accept-Language", accept);
        assert!(request.send().text().contains(greeting), "{greeting}");
    };
    greets("de-AT, en;q=0.5", "Guten Tag, Ada &lt;3.");
    greets("xx", "Good day");
    let wrong = client.post("/").form(&[("language", "xx")]).send();
    assert_eq!(wrong.status_code(), 422);
    client.post("/").form(&[("language", "fr")]).send();
    assert!(client.get("/").text().contains("Bonjour"));
}
