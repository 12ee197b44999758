//! A full-text search with numbered pages, in SQLite: `cargo run --bin search_pages`
use std::sync::{Mutex, PoisonError};

use aside::jobs::rusqlite::{Connection, Result as SqlResult};
use aside::routing::get;
use aside::{App, Config, Request, Response, Result, context};
use serde::Deserialize;

const PAGE: &str = r#"<!doctype html><title>Search</title>
<form><input name="q" value="{{ q }}"> <button>Search</button></form>
{% for title in titles %}<p>{{ title }}</p>{% else %}<p>Nothing was found.</p>{% endfor %}
{% if page > 1 %}<a href="{{ url_for("search", q=q, page=page - 1) }}">Previous</a>{% endif %}
{% if is_more %}<a href="{{ url_for("search", q=q, page=page + 1) }}">Next</a>{% endif %}"#;

const PER_PAGE: usize = 10;

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
    page: Option<u16>,
}

struct Db(Mutex<Connection>);

fn main() -> Result<()> {
    app(Config::from_env()?, "Letter from the sea")?.main()
}

fn app(config: Config, title: &str) -> Result<App> {
    let db = Connection::open_in_memory()?; // a real site opens its file
    db.execute_batch("CREATE VIRTUAL TABLE articles USING fts5 (title)")?;
    for number in 1..=25 {
        let title = format!("{title} {number}");
        db.execute("INSERT INTO articles VALUES (?)", [title])?;
    }
    let app = App::with_config(config).state(Db(Mutex::new(db)));
    let app = app.template("search.html", PAGE);
    Ok(app.route("/", get(search).name("search")))
}

fn search(req: &mut Request) -> Result<Response> {
    let Search { q, page } = req.query()?;
    let page = page.unwrap_or(1).max(1);
    let mut titles = find(&req.state::<Db>(), &q, page)?;
    let is_more = titles.len() > PER_PAGE;
    titles.truncate(PER_PAGE);
    req.render("search.html", context! { q, page, titles, is_more })
}

/// Returns the titles of a page, and one more if there is a next page.
fn find(db: &Db, q: &str, page: u16) -> Result<Vec<String>> {
    // Each word is quoted, so that the visitor's text has no operators.
    let quoted = |word: &str| format!("\"{}\"", word.replace(['"', '\0'], ""));
    let words: Vec<String> = q.split_whitespace().map(quoted).collect();
    if words.is_empty() {
        return Ok(Vec::new());
    }
    let db = db.0.lock().unwrap_or_else(PoisonError::into_inner);
    let sql = "SELECT title FROM articles (?) ORDER BY rank, rowid LIMIT ? OFFSET ?";
    let (limit, offset) = (PER_PAGE as i64 + 1, i64::from(page - 1) * PER_PAGE as i64);
    let mut query = db.prepare(sql)?;
    let titles = query.query_map((words.join(" "), limit, offset), |row| row.get(0))?;
    Ok(titles.collect::<SqlResult<_>>()?)
}

#[cfg(test)]
#[test]
fn results_have_pages_and_odd_input_is_text() {
    let app = app(Config::default(), "Море & <sea>").unwrap();
    let mut client = aside::testing::TestClient::new(app);
    let third = client.get("/?q=море&page=3").text().to_owned();
    assert_eq!(third.matches("<p>Море &amp; &lt;sea&gt;").count(), 5);
    assert!(third.contains("page=2") && !third.contains("page=4"));
    for q in ["", "%22", "%22x%22%20OR", "NEAR(", "*", "%00", "t:"] {
        let page = client.get(&format!("/?q={q}"));
        assert_eq!(page.status_code(), 200, "{q}");
    }
    assert_eq!(client.get("/?page=x").status_code(), 400);
}
