//! A CSV file that is imported in the background, with a progress bar: `cargo run --bin csv_import`
use aside::sqlite::Db;
use aside::{App, Config, Error, Request, Response, Result, TaskContext, Upload, redirect};
use serde::Deserialize;

const PEOPLE: &str = "CREATE TABLE people (email TEXT PRIMARY KEY, name TEXT NOT NULL) STRICT";

const PAGE: &str = r#"<!doctype html><title>Import</title>
{{ live("import") }}
<form method="post" enctype="multipart/form-data">
  CSV with the columns email and name: <input name="file" type="file"> <button>Import</button>
</form>"#;

#[derive(Deserialize)]
struct Import {
    file: Upload,
}

#[derive(Deserialize)]
struct Person {
    email: String,
    name: String,
}

fn main() -> Result<()> {
    App::main_with(|config| app(config, "data/csv_import.db"))
}

fn app(config: Config, db: &str) -> Result<App> {
    Ok(App::with_config(config)
        .state(Db::open(db, &[PEOPLE])?)
        .template("import.html", PAGE)
        .live_task("import", "aside/progress.html")
        .get("/", |req: &mut Request| req.render("import.html", ()))
        .post("/", start))
}

fn start(req: &mut Request) -> Result<Response> {
    let Import { file } = req.form()?;
    let mut reader = csv::Reader::from_path(file.path())?;
    let people: csv::Result<Vec<Person>> = reader.deserialize().collect();
    // 422 with the line of the file. A task could not refuse it after the response.
    let people = people.map_err(|error| Error::unprocessable(error.to_string()))?;
    let db = req.state::<Db>();
    let task = req.session_task("import")?; // no other session sees its progress
    task.spawn(move |task| import(&db, &people, task));
    Ok(redirect("/"))
}

/// Adds all people, or nobody if the import is cancelled.
fn import(db: &Db, people: &[Person], task: &TaskContext) -> Result<()> {
    db.transaction(|db| {
        let mut insert = db.prepare("INSERT OR REPLACE INTO people VALUES (?, ?)")?;
        for (done, person) in (1..).zip(people) {
            task.check_cancelled()?;
            insert.execute([&person.email, &person.name])?;
            task.progress(done, people.len() as u64);
        }
        task.message(format!("Rows: {}", people.len()));
        Ok(())
    })
}

#[cfg(test)]
#[test]
fn a_file_is_imported_whole_or_not_at_all() {
    let mut client = aside::testing::TestClient::new(app(Config::default(), ":memory:").unwrap());
    let broken = "email,name\neve@b.org,Eve\nada@b.org";
    for (csv, code) in [(broken, 422), ("name,email\nАда,ada@b.org", 303)] {
        let request = client.post("/");
        let request = request.file("file", "a.csv", "", csv.as_bytes());
        assert_eq!(request.send().status_code(), code);
    }
    client.drain();
    assert!(client.get("/").text().contains("Rows: 1"));
    let sql = "SELECT name FROM people";
    let people: Vec<(String,)> = client.state::<Db>().rows(sql, ()).unwrap();
    assert_eq!(people, [("Ада".to_owned(),)]);
}
