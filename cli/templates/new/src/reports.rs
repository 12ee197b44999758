//! Reports on the messages, which a job makes.

use aside::jobs::rusqlite::{self, Connection};
use aside::sqlite::Db;
use aside::{Job, Request, Response, Result, TaskContext, context, redirect};
use serde::{Deserialize, Serialize};

/// The number of reports on the page.
const SHOWN: u32 = 20;

/// A report, whose figures are missing until its job has run.
#[derive(Serialize)]
struct Report {
    id: i64,
    messages: Option<i64>,
    words: Option<i64>,
}

/// Counts the messages and their words.
#[derive(Deserialize, Serialize)]
pub struct MakeReport {
    report: i64,
}

impl Job for MakeReport {
    const NAME: &'static str = "make-report";

    /// An error is retried with backoff. The transaction also completes the job, so that its work
    /// is done exactly once.
    fn run(self, task: &TaskContext) -> Result<()> {
        task.transaction(|db| {
            let texts = texts(db)?;
            let words: usize = texts.iter().map(|text| text.split_whitespace().count()).sum();
            let values = (texts.len() as i64, words as i64, self.report);
            db.execute("UPDATE reports SET messages = ?, words = ? WHERE id = ?", values)?;
            Ok(())
        })
    }
}

fn texts(db: &Connection) -> Result<Vec<String>> {
    let mut query = db.prepare("SELECT text FROM messages")?;
    let texts = query.query_map([], |row| row.get(0))?;
    Ok(texts.collect::<rusqlite::Result<_>>()?)
}

/// `GET /reports`
pub fn show(req: &mut Request) -> Result<Response> {
    let reports = latest(&req.state::<Db>())?;
    req.render("reports.html", context! { reports })
}

/// `POST /reports`: stores the report and its job together, or neither.
pub fn order(req: &mut Request) -> Result<Response> {
    req.state::<Db>().transaction(|db| {
        db.execute("INSERT INTO reports DEFAULT VALUES", [])?;
        req.enqueue_in(db, MakeReport { report: db.last_insert_rowid() })
    })?;
    req.flash("success", "The report is on its way: reload the page in a moment.");
    Ok(redirect(&req.url_for("reports", &[])?))
}

/// Returns the newest reports first.
fn latest(db: &Db) -> Result<Vec<Report>> {
    let query = "SELECT id, messages, words FROM reports ORDER BY id DESC LIMIT ?";
    let reports: Vec<(i64, Option<i64>, Option<i64>)> = db.rows(query, [SHOWN])?;
    let report = |(id, messages, words)| Report { id, messages, words };
    Ok(reports.into_iter().map(report).collect())
}

#[cfg(test)]
mod tests {
    use super::MakeReport;
    use crate::test_site::test_site;

    #[test]
    fn a_job_makes_the_report() {
        let (_data, mut client) = test_site();
        client.post("/messages").form(&[("name", "Ada"), ("text", "Hello again, world")]).send();
        assert_eq!(client.post("/reports").send().location(), Some("/reports"));
        assert!(client.get("/reports").text().contains("in progress"));
        client.jobs().assert_enqueued(|job: &MakeReport| job.report == 1);

        client.drain(); // runs the job
        let page = client.get("/reports");
        assert!(page.text().contains("1 message with 3 words"), "{}", page.text());
    }
}
