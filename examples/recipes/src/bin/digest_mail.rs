//! A weekly mail with the new posts, once for each subscriber: `cargo run --bin digest_mail`
use std::{path::Path, time::Duration};

use aside::routing::get;
use aside::sqlite::Db;
use aside::{App, Config, Job, Jobs, Mail, Request, Result, TaskContext, token};
use serde::{Deserialize, Serialize};

const TABLES: &str = "CREATE TABLE subscribers (email TEXT PRIMARY KEY) STRICT;
    CREATE TABLE posts (id INTEGER PRIMARY KEY, title TEXT, is_mailed INTEGER DEFAULT 0) STRICT;";

const PAGE: &str = r#"<form method="post"><button>Unsubscribe</button></form>"#;

#[derive(Serialize, Deserialize)]
struct Digest;

impl Job for Digest {
    const NAME: &'static str = "digest";
    fn run(self, task: &TaskContext) -> Result<()> {
        let (db, jobs) = (task.state::<Db>(), task.jobs()?);
        let sql = "SELECT max(id), group_concat(title, char(10)) FROM posts WHERE NOT is_mailed
            HAVING count(*) > 0";
        let Some((last, titles)) = db.row::<(i64, String)>(sql, ())? else {
            return Ok(());
        };
        let emails: Vec<(String,)> = db.rows("SELECT email FROM subscribers", ())?;
        // The mails and the marks are stored together, when the job is done, or not at all.
        task.transaction(|db| {
            db.execute("UPDATE posts SET is_mailed = 1 WHERE id <= ?", [last])?;
            for (email,) in emails {
                let unsubscribe = token::link("/unsubscribe", &email, Duration::MAX)?;
                let text = format!("{titles}\n\nUnsubscribe: {unsubscribe}");
                jobs.enqueue_in(db, Mail::to(email).subject("This week").text(text))?;
            }
            Ok(())
        })
    }
}

fn main() -> Result<()> {
    App::main_with(|config| app(config, Path::new("data/digest_mail.db")))
}

fn app(config: Config, db: &Path) -> Result<App> {
    let jobs = Jobs::sqlite(db)?.register::<Digest>();
    let jobs = jobs.cron("0 7 * * 1 Europe/Berlin", Digest); // on Mondays at seven
    let app = App::with_config(config).jobs(jobs);
    let app = app.state(Db::open(db, &[TABLES])?);
    let page = get(|_| aside::Html(PAGE));
    Ok(app.route("/unsubscribe", page.post(unsubscribe)))
}

fn unsubscribe(req: &mut Request) -> Result<&'static str> {
    let email: String = token::open_link(req)?;
    let sql = "DELETE FROM subscribers WHERE email = ?";
    req.state::<Db>().execute(sql, [email])?;
    Ok("You are unsubscribed.")
}

#[cfg(test)]
#[test]
fn a_post_is_mailed_once_to_each_subscriber() {
    let data = tempfile::tempdir().unwrap();
    let app = app(Config::default(), &data.path().join("site.db")).unwrap();
    let mut client = aside::testing::TestClient::new(app);
    let db = client.state::<Db>();
    let seed = "INSERT INTO subscribers VALUES ('ada@b.org'), ('eve@b.org');
        INSERT INTO posts (title) VALUES ('Весна'), ('Лето')";
    db.lock().execute_batch(seed).unwrap();
    for _ in 0..2 {
        client.advance(Duration::from_secs(7 * 24 * 3600));
        client.drain();
        assert_eq!(client.outbox().len(), 2);
    }
    let text = client.outbox()[0].text.clone().unwrap();
    assert!(text.starts_with("Весна\nЛето\n"));
    client.post(text.rsplit(' ').next().unwrap()).send();
    let left: Vec<(String,)> = db.rows("SELECT email FROM subscribers", ()).unwrap();
    assert_eq!(left.len(), 1);
}
