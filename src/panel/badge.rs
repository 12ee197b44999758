//! The number of dead jobs beside the link to the jobs. It is on every page of the panel, and no page may wait for an
//! engine that does not answer.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde::Serialize;

use super::polled_page::spawn_thread;
use crate::http::request::Request;
use crate::jobs::Jobs;
use crate::sync::{lock, wait_while_for};

/// The longest wait of a page for the number. After it the page is shown without the number.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// The jobs as shown in the head of a page.
#[derive(Serialize)]
pub(super) struct JobsBadge {
    /// `None` if the number is unknown.
    dead: Option<u64>,
}

impl JobsBadge {
    /// Returns `None` if the application has no jobs.
    pub(super) fn of(req: &Request) -> Option<JobsBadge> {
        let jobs = req.jobs().ok()?;
        Some(JobsBadge { dead: req.state::<DeadJobs>().dead(jobs) })
    }
}

/// Queries the number of dead jobs for all pages.
#[derive(Clone, Default)]
pub(super) struct DeadJobs(Arc<Shared>);

#[derive(Default)]
struct Shared {
    result: Mutex<QueryResult>,
    changed: Condvar,
}

#[derive(Default)]
struct QueryResult {
    is_running: bool,
    dead: Option<u64>,
}

impl DeadJobs {
    /// Returns the number of dead jobs. One thread queries it at a time, so that an engine that does not answer blocks
    /// one thread and not one for each page.
    fn dead(&self, jobs: Jobs) -> Option<u64> {
        let mut result = lock(&self.0.result);
        if !result.is_running {
            let asked = self.0.clone();
            result.is_running = spawn_thread(move || asked.put(jobs.counts().ok().map(|counts| counts.dead)));
            result.dead = None;
        }
        wait_while_for(&self.0.changed, result, MAX_WAIT, |result| result.is_running).dead
    }
}

impl Shared {
    fn put(&self, dead: Option<u64>) {
        *lock(&self.result) = QueryResult { is_running: false, dead };
        self.changed.notify_all();
    }
}
