use serde::{Deserialize, Serialize};

use super::*;
use crate::background::retry::Retry;
use crate::background::task_context::TaskContext;
use crate::config::{Config, Mode};
use crate::error::{Error, Status};
use crate::jobs::{Job, JobState, Jobs};
use crate::testing::TestClient;

#[derive(Serialize, Deserialize)]
struct Fails;

impl Job for Fails {
    const NAME: &'static str = "fails";

    fn retry() -> Retry {
        Retry::exponential(1, std::time::Duration::ZERO)
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        Err(Error::internal("no\u{202e} credit"))
    }
}

/// A site with its jobs in a file, as each command opens it.
struct Site(tempfile::TempDir);

impl Site {
    fn new() -> Site {
        Site(tempfile::tempdir().unwrap())
    }

    fn jobs(&self) -> Jobs {
        Jobs::sqlite(self.0.path().join("jobs.db")).unwrap().register::<Fails>()
    }

    fn run(&self, line: &str) -> Result<String> {
        let arguments: Vec<&str> = line.split(' ').collect();
        let app = App::with_config(Config::default()).jobs(self.jobs()).get("/orders", |_| "");
        let report = app.report(Command::parse(&arguments).unwrap())?;
        assert!(report.is_ok);
        Ok(report.text)
    }

    fn refusal(&self, line: &str) -> String {
        self.run(line).unwrap_err().chain()
    }
}

#[test]
fn the_commands_about_jobs_read_and_change_the_store() {
    let site = Site::new();
    let client = TestClient::new(App::with_config(Config::default()).jobs(site.jobs()));
    let ids = [(); 3].map(|()| client.jobs().enqueue(Fails).unwrap().id);
    client.drain();
    assert!(site.run("jobs").unwrap().contains("    dead       3\n"));
    let dead = site.run("jobs list dead").unwrap();
    assert!(dead.starts_with(&format!("{}  fails  attempt 1, enqueued ", ids[2])), "the newest first: {dead}");
    assert!(dead.lines().count() == 3 && dead.contains(r"no\u{202e} credit"), "{dead}");
    assert_eq!(site.run("jobs list done").unwrap(), "No job is done.\n");
    let shown = site.run(&format!("jobs show {}", ids[0])).unwrap();
    assert!(
        shown.starts_with(&format!("Job {} (fails) is dead.\n", ids[0])) && shown.contains("attempt 1, "),
        "{shown}"
    );
    assert_eq!(site.run(&format!("jobs discard {}", ids[0])).unwrap(), "1 job was discarded.\n");
    assert_eq!(site.run("jobs retry dead").unwrap(), "2 jobs were retried.\n");
    assert_eq!(site.run("jobs retry dead").unwrap(), "0 jobs were retried.\n");
    assert_eq!(site.run(&format!("jobs cancel {}", ids[1])).unwrap(), "1 job was cancelled.\n");
    assert_eq!(client.jobs().find(ids[1]).unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(site.run("jobs pause default").unwrap(), "The queue default is paused.\n");
    assert!(site.run("jobs").unwrap().contains("default: 1 waiting, 0 running, paused"));
    site.run("jobs resume default").unwrap();
    assert!(!site.run("jobs").unwrap().contains("paused"));
}

#[test]
fn a_job_that_cannot_be_changed_is_an_error_after_the_others_were_changed() {
    let site = Site::new();
    let id = site.jobs().enqueue(Fails).unwrap().id;
    assert_eq!(site.refusal("jobs show 99"), "job 99 does not exist");
    let message = "1 job was discarded, and 1 not: job 99 does not exist";
    assert_eq!(site.refusal(&format!("jobs discard {id} 99")), message);
    assert!(site.jobs().find(id).unwrap().is_none());
}

#[test]
fn jobs_in_memory_and_an_application_without_jobs_are_refused() {
    let report = |app: App| app.report(Command::parse(&["jobs"]).unwrap()).err().unwrap().chain();
    assert!(report(App::with_config(Config::default()).jobs(Jobs::memory())).contains("in the memory of the process"));
    assert!(report(App::with_config(Config::default())).contains("has no jobs"));
}

/// Regression: `shop --help` created the site's database in the current folder.
#[test]
fn only_a_command_that_needs_the_application_builds_it() {
    let site = Site::new();
    let run = |line: &str| {
        let mut is_built = false;
        let arguments: Vec<String> = format!("bin/shop {line}").split_whitespace().map(str::to_owned).collect();
        let status = run_command(&arguments, || {
            is_built = true;
            Ok(App::with_config(Config::default()).jobs(site.jobs()))
        });
        (status.unwrap(), is_built)
    };
    for line in ["--help", "help", "serve --help", "secret"] {
        assert_eq!(run(line), (0, false), "{line}");
    }
    for line in ["serv", "--version", "secret now", "jobs retry"] {
        assert_eq!(run(line), (MISUSE, false), "{line}");
    }
    assert_eq!((run("routes"), run("jobs"), run("check")), ((0, true), (0, true), (1, true)));
}

/// Regression: the error of `shop jobs retry 3` named the line of `main`.
#[test]
fn an_error_of_a_command_about_jobs_has_no_location() {
    crate::error::backtraces::capture_in_development();
    let error = Site::new().run("jobs retry 3").unwrap_err();
    assert_eq!(format!("{error:?}"), "0 jobs were retried, and 1 not: job 3 does not exist");
    assert!(error.trace().is_none());
}

#[test]
fn routes_secret_and_check_report_on_the_site() {
    let site = Site::new();
    let routes = site.run("routes").unwrap();
    assert!(
        routes.contains("GET     /orders") && !routes.contains("_aside") && routes.lines().count() == 1,
        "{routes}"
    );
    let secrets = [(); 2].map(|()| secret().unwrap());
    assert!(secrets[0] != secrets[1] && secrets[0].trim().len() == 64);
    let check = |config| App::with_config(config).report(Command::Check).unwrap();
    let report = check(Config::default());
    assert!(!report.is_ok && report.text.starts_with("In production:\nASIDE_ENV is `development`"), "{}", report.text);
    let ready = Config {
        mode: Mode::Production,
        url: Some("https://shop.example".into()),
        secrets: vec!["k2m9-Qx7v_Lr4Tz8w1Bn6Yc3Hs5Dj0Gf".into()],
        trusted_proxies: vec!["127.0.0.1".into()],
        store: Some(format!("sqlite:{}", site.0.path().join("store.db").display())),
        mail_url: Some("smtps://me:x@mail.example".into()),
        mail_from: Some("shop@shop.example".into()),
        ..Config::default()
    };
    let text = check(ready).text;
    // Of the process, which no setting changes: the tests are built without optimization, and may run as root.
    assert!(
        text.lines().all(|line| ["cargo built", "the user is root"].iter().any(|of| line.starts_with(of))),
        "{text}"
    );
    let invalid = Config { trusted_proxies: vec!["nowhere".into()], ..Config::default() };
    let refused = App::with_config(invalid).report(Command::Check).err().unwrap();
    assert_eq!(refused.status_code(), Status::INTERNAL_SERVER_ERROR);
}
