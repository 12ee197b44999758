//! The sign beside the link to the jobs: how many are dead. It is on every page of the panel, and none of them may wait for
//! an engine that does not answer.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde::Serialize;

use super::watch::aside;
use crate::http::request::Request;
use crate::jobs::Jobs;
use crate::sync::{lock, wait_while_for};

/// How long a page waits for the number. Then it is shown without.
const PATIENCE: Duration = Duration::from_millis(500);

/// What a page shows of the jobs in its head.
#[derive(Serialize)]
pub(super) struct Sign {
    /// None when nobody knows.
    dead: Option<u64>,
}

impl Sign {
    /// None where the application has no jobs.
    pub(super) fn of(req: &Request) -> Option<Sign> {
        let jobs = req.jobs().ok()?;
        Some(Sign { dead: req.state::<Asker>().dead(jobs) })
    }
}

/// Asks how many are dead, for all pages.
#[derive(Clone, Default)]
pub(super) struct Asker(Arc<Asked>);

#[derive(Default)]
struct Asked {
    answer: Mutex<Answer>,
    changed: Condvar,
}

#[derive(Default)]
struct Answer {
    is_awaited: bool,
    dead: Option<u64>,
}

impl Asker {
    /// One thread asks at a time: an engine that does not answer holds up one, and not one for each page.
    fn dead(&self, jobs: Jobs) -> Option<u64> {
        let mut answer = lock(&self.0.answer);
        if !answer.is_awaited {
            let asked = self.0.clone();
            answer.is_awaited = aside(move || asked.put(jobs.counts().ok().map(|counts| counts.dead)));
            answer.dead = None;
        }
        wait_while_for(&self.0.changed, answer, PATIENCE, |answer| answer.is_awaited).dead
    }
}

impl Asked {
    fn put(&self, dead: Option<u64>) {
        *lock(&self.answer) = Answer { is_awaited: false, dead };
        self.changed.notify_all();
    }
}
