//! The text of the log lines about requests, tasks and jobs, and their levels.

use std::fs;
use std::time::Duration;

use aside::tasks::Retry;
use aside::testing::TestClient;
use aside::{App, Config, Job, Jobs, Request, Result, TaskContext};
use log::Level;
use serde::{Deserialize, Serialize};

use crate::logs;

/// A job that succeeds at the attempt with this number.
#[derive(Serialize, Deserialize)]
struct Lucky(u32);

impl Job for Lucky {
    const NAME: &'static str = "log-lines";

    fn label(&self) -> String {
        format!("log-lines-{}", self.0)
    }

    fn retry() -> Retry {
        Retry::exponential(3, Duration::ZERO)
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        if task.attempt() == self.0 { Ok(()) } else { Err(aside::Error::internal("out of luck")) }
    }
}

#[test]
fn the_line_of_each_end_of_a_job_says_what_follows() {
    logs::record();
    let client = TestClient::new(App::with_config(Config::default()).jobs(Jobs::memory().register::<Lucky>()));
    for lucky in [1, 2, 9] {
        client.jobs().enqueue(Lucky(lucky)).unwrap();
    }
    client.drain();
    assert_eq!(logs::at(Level::Info, "log-lines-1 (job 1) is done (task ").len(), 1);
    assert_eq!(logs::at(Level::Warn, "log-lines-2 (job 2) failed: out of luck; attempt 1 of 3, the next in ").len(), 1);
    assert_eq!(logs::at(Level::Info, "log-lines-2 (job 2) is done at attempt 2 (task ").len(), 1);
    let dead =
        logs::at(Level::Error, "log-lines-9 (job 3) failed: out of luck; the job is dead after 3 attempts (task ");
    assert_eq!(dead.len(), 1, "{:?}", logs::with("log-lines-9"));
}

#[test]
fn a_slow_request_has_a_warning_with_its_route_unless_the_limit_is_0() {
    logs::record();
    for (nanos, lines) in [(1, 1), (0, 0)] {
        let config = Config { slow_request: Duration::from_nanos(nanos), ..Config::default() };
        let path = format!("/log-lines-slow-{nanos}/7");
        let app = App::with_config(config).get(&format!("/log-lines-slow-{nanos}/{{id}}"), |_: &mut Request| "page");
        let mut client = TestClient::new(app);
        client.get(&path);
        let warnings = logs::at(Level::Warn, &format!("Slow request: GET {path} "));
        assert_eq!(warnings.len(), lines, "{warnings:?}");
        for warning in warnings {
            assert!(warning.starts_with("aside::http: "), "{warning}");
            let end = warning.split(", and the limit is 1 µs (ASIDE_SLOW_REQUEST) (route at ").nth(1).unwrap();
            assert!(end.starts_with("tests/it/log_lines.rs:"), "{warning}");
        }
    }
}

#[test]
fn static_files_that_are_found_are_logged_at_debug() {
    logs::record();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("log-lines.css"), "p {}").unwrap();
    let app = App::with_config(Config::default())
        .static_files("/static", dir.path())
        .get("/log-lines-page", |_: &mut Request| "page");
    let mut client = TestClient::new(app);
    for path in ["/static/log-lines.css", "/static/log-lines-missing.css", "/log-lines-page", "/_aside/panel.css"] {
        client.get(path);
    }
    assert_eq!(logs::at(Level::Debug, "GET /static/log-lines.css 200 after ").len(), 1);
    assert_eq!(logs::at(Level::Info, "GET /static/log-lines-missing.css 404 after ").len(), 1);
    assert_eq!(logs::at(Level::Info, "GET /log-lines-page 200 after ").len(), 1);
    assert!(!logs::at(Level::Debug, "GET /_aside/panel.css 200 after ").is_empty());
}
