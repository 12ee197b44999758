//! A report that a job makes, with its progress and a download: `cargo run --bin report_download`
use std::path::{Path, PathBuf};

use aside::routing::{Rate, get};
use aside::{App, Config, Job, Jobs, Request, Response, Result, TaskContext, redirect};

const PAGE: &str = r#"<!doctype html><title>Report</title>
{{ live("report") }}<form method="post"><button>Make a report</button></form>"#;

const PROGRESS: &str = r#"{% include "aside/progress.html" %}
{% if state == "done" %}<a href="/report">Download</a>{% endif %}"#;

#[derive(serde::Serialize, serde::Deserialize)]
struct MakeReport {
    file: PathBuf,
}

impl Job for MakeReport {
    const NAME: &'static str = "make-report";
    fn run(self, task: &TaskContext) -> Result<()> {
        let unfinished = self.file.with_extension("new");
        let mut report = csv::Writer::from_path(&unfinished)?;
        for number in 1..=10_000_u64 {
            report.serialize((number, number * number))?;
            task.progress(number, 10_000);
        }
        report.flush()?;
        Ok(std::fs::rename(unfinished, self.file)?)
    }
}

fn main() -> Result<()> {
    App::main_with(|config| app(config, Path::new("data/report_download")))
}

fn app(config: Config, data: &Path) -> Result<App> {
    let jobs = Jobs::sqlite(data.join("jobs.db"))?.register::<MakeReport>();
    let app = App::with_config(config).jobs(jobs).state(data.to_owned());
    let app = app.template("page.html", PAGE);
    let app = app.template("progress.html", PROGRESS);
    let app = app.live("report", "progress.html", |req: &mut Request| {
        let job = req.session().get("report");
        job.map_or(Ok(None), |job| req.jobs()?.follow(job))
    });
    let page = get(|req| req.render("page.html", ()));
    let app = app.route("/", page.post(start).rate_limit(Rate::per_minute(10)));
    Ok(app.get("/report", download))
}

fn file(req: &mut Request) -> Result<PathBuf> {
    let id = req.session().id()?;
    Ok(req.state::<PathBuf>().join(id).with_extension("csv"))
}

fn start(req: &mut Request) -> Result<Response> {
    let file = file(req)?;
    let key = file.display().to_string();
    let job = req.enqueue(MakeReport { file }.unique(key))?; // one at a time
    req.session().insert("report", job.id);
    Ok(redirect("/"))
}

fn download(req: &mut Request) -> Result<Response> {
    let file = file(req)?;
    Ok(req.send_file(file)?.attachment("report.csv"))
}

#[cfg(test)]
#[test]
fn a_report_is_for_its_session() {
    let data = tempfile::tempdir().unwrap();
    let app = app(Config::default(), data.path()).unwrap();
    let mut client = aside::testing::TestClient::new(app);
    client.post("/").send();
    client.drain();
    assert!(client.get("/").text().contains("Download"));
    assert!(client.get("/report").text().ends_with(",100000000\n"));
    let other = client.request("GET", "/report").header("Cookie", "");
    assert_eq!(other.send().status_code(), 404);
}
