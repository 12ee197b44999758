//! Diesel with PostgreSQL, whose calls block, as handlers may: with DATABASE_URL (`postgres://…`)
//! `cargo run --bin diesel_postgres --features diesel`
use std::time::Duration;

use aside::{App, Config, Error, Request, Response, Result, context, redirect};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, Pool};

/// A large site has migrations in files: see the crate `diesel_migrations`.
const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS notes (id serial PRIMARY KEY, text text NOT NULL)";

const PAGE: &str = r#"<!doctype html><title>Notes</title>{% for note in notes %}<p>{{ note }}</p>{% endfor %}
<form method="post"><input name="text" maxlength="200" required> <button>Add</button></form>"#;

diesel::table! {
    notes (id) {
        id -> Integer,
        text -> Text,
    }
}

#[derive(serde::Deserialize, Insertable)]
#[diesel(table_name = notes)]
struct NewNote {
    text: String,
}

type Db = Pool<ConnectionManager<PgConnection>>;

fn main() -> Result<()> {
    App::main_with(|config| app(config, &std::env::var("DATABASE_URL")?))
}

fn app(config: Config, url: &str) -> Result<App> {
    // Ten connections. A request that waits longer than five seconds for one fails.
    let pool = Pool::builder().connection_timeout(Duration::from_secs(5));
    let db: Db = pool.build(ConnectionManager::new(url))?;
    db.get()?.batch_execute(SCHEMA)?;
    Ok(App::with_config(config)
        .state(db)
        .template("notes.html", PAGE)
        .get("/", show)
        .post("/", add))
}

fn show(req: &mut Request) -> Result<Response> {
    let mut db = req.state::<Db>().get()?;
    let newest = notes::table.order(notes::id.desc()).limit(50);
    let notes: Vec<String> = newest.select(notes::text).load(&mut db)?;
    req.render("notes.html", context! { notes })
}

fn add(req: &mut Request) -> Result<Response> {
    let note: NewNote = req.form()?;
    if !(1..=200).contains(&note.text.trim().chars().count()) || note.text.contains('\0') {
        return Err(Error::unprocessable("A note has 1 to 200 letters."));
    }
    let mut db = req.state::<Db>().get()?;
    note.insert_into(notes::table).execute(&mut db)?;
    Ok(redirect("/"))
}

#[cfg(test)]
#[path = "../postgres_server.rs"]
mod postgres_server;

#[test]
fn notes_are_stored_and_a_blank_one_is_refused() {
    let Some(server) = postgres_server::start() else {
        return; // PostgreSQL is not installed
    };
    let app = app(Config::default(), &server.url).unwrap();
    let mut client = aside::testing::TestClient::new(app);
    client.post("/").form(&[("text", "O'Neill")]).send();
    assert!(client.get("/").text().contains("O&#x27;Neill"));
    let blank = client.post("/").form(&[("text", " ")]).send();
    assert_eq!(blank.status_code(), 422);
}
