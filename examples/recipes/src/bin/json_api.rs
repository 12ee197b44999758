//! A JSON API beside pages: `cargo run --bin json_api`, with API_TOKEN of 16 letters or more
//! `curl -H "Authorization: Bearer $API_TOKEN" --json '{"text":"Milk"}' localhost:8000/api/notes`
use aside::{App, Config, Error, Json, Live, Request, Response, Result, Status, redirect};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const PAGE: &str = r#"<!doctype html><title>Notes</title>{{ live("notes") }}
<form method="post"><input name="text" maxlength="200" required> <button>Add</button></form>"#;
const NOTES: &str = "{% for note in state %}<p>{{ note.text }}</p>{% endfor %}";

#[derive(Clone, Deserialize, Serialize)]
struct Note {
    text: String,
}

/// In place of a database. Open pages show what a program adds.
type Notes = Live<Vec<Note>>;

fn main() -> Result<()> {
    let token = std::env::var("API_TOKEN").unwrap_or_default();
    assert!(token.len() >= 16, "API_TOKEN needs 16 letters or more");
    app(Config::from_env()?, &token).main()
}

fn app(config: Config, token: &str) -> App {
    App::with_config(config)
        .state(Notes::default())
        .template("page.html", PAGE)
        .template("notes.html", NOTES)
        .live("notes", "notes.html", |req| req.state::<Notes>())
        .get("/", |req| req.render("page.html", ()))
        .post("/", add)
        .mount("/api", api(token))
}

/// The pages below `/api`, for clients with the token.
fn api(token: &str) -> App {
    // Hashes are compared, so that the time tells nothing about the token.
    let expected = Sha256::digest(format!("Bearer {token}"));
    App::new()
        .before(move |req| {
            let sent = Sha256::digest(req.header("Authorization").unwrap_or_default());
            (sent != expected).then_some(Status::UNAUTHORIZED)
        })
        .after(|_, response| response.headers_mut().set("WWW-Authenticate", "Bearer"))
        .get("/notes", |req| Json(req.state::<Notes>().get().to_vec()))
        .post("/notes", create)
}

fn add(req: &mut Request) -> Result<Response> {
    req.form().and_then(|note| store(req, note))?;
    Ok(redirect("/"))
}

fn create(req: &mut Request) -> Result<(Status, Json<Note>)> {
    let note = req.json().and_then(|note| store(req, note))?;
    Ok((Status::CREATED, Json(note)))
}

/// Stores a note. A client that sends JSON gets an error as JSON, a browser gets a page.
fn store(req: &Request, note: Note) -> Result<Note> {
    if !(1..=200).contains(&note.text.trim().chars().count()) {
        return Err(Error::unprocessable("A note has 1 to 200 letters."));
    }
    req.state::<Notes>().update(|all| all.push(note.clone()));
    Ok(note)
}

#[test]
fn pages_and_programs_share_the_notes() {
    let mut client = aside::testing::TestClient::new(app(Config::default(), "secret"));
    let mut send = |token: &str, text: &str| {
        let request = client.post("/api/notes").header("Authorization", token);
        request.json(&Note { text: text.into() }).send()
    };
    assert_eq!(send("Bearer secret", "Bread").status_code(), 201);
    assert_eq!(send("Bearer ", "Milk").status_code(), 401);
    assert!(send("Bearer secret", " ").text().starts_with(r#"{"type"#));
    assert!(client.get("/").text().contains("<p>Bread</p>"));
}
