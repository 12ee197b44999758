//! The pages about jobs: an overview, lists by state, and one job with all its fields.
//!
//! An unreachable engine is shown on the page, which is not an error itself: the page exists to show it.

use serde::{Deserialize, Serialize};

use super::job_snapshot::{JobLists, List, Shown, groups, outage, payload, short};
use super::page::{gone, page};
use super::polled_page::{self, PolledPage};
use crate::background::scope::Scope;
use crate::context;
use crate::error::{Error, Result, Status};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::BUILTIN;
use crate::jobs::search::JobFilter;
use crate::jobs::{JobInfo, JobState, Jobs};
use crate::live::Live;

/// The templates of the live fragments.
const OVERVIEW_TEMPLATE: &str = "aside/panel_jobs_overview.html";
const RECORD_TEMPLATE: &str = "aside/panel_job_record.html";

/// The number of jobs in a list.
const PAGE: usize = 100;

pub(super) fn overview(req: &mut Request) -> Result<Response> {
    let polled_page = req.state::<PolledPage<JobLists>>();
    let fragment =
        polled_page.refresh(&req.scope()).fragment(req, &format!("{BUILTIN}/jobs/live"), OVERVIEW_TEMPLATE)?;
    page(req, "aside/panel_jobs.html", "Jobs", context! { fragment, search => Search::default() })
}

pub(super) fn follow_all(req: &mut Request) -> Result<Response> {
    let (polled_page, scope) = (req.state::<PolledPage<JobLists>>(), req.scope());
    let response = req.live(polled_page.refresh(&scope), OVERVIEW_TEMPLATE)?;
    polled_page.start_polling(scope);
    Ok(response)
}

/// Shows the list of a state by its name, or a job by its id.
pub(super) fn list_or_job(req: &mut Request) -> Result<Response> {
    let word: String = req.param("id")?;
    match JobState::of(&word) {
        Some(state) => list(req, state),
        None => job(req),
    }
}

#[derive(Deserialize)]
struct Page {
    before: Option<u64>,
}

fn list(req: &mut Request, state: JobState) -> Result<Response> {
    let (jobs, Page { before }) = (req.jobs()?, req.query()?);
    let list = match List::of(&jobs, state, before, PAGE) {
        Ok(list) => list,
        Err(error) => return unreachable(req, &error),
    };
    let names: Vec<_> = list.names().into_iter().map(|name| context! { name, shown => short(name) }).collect();
    let groups = if state == JobState::Dead && before.is_none() { groups(&jobs) } else { Ok(Vec::new()) };
    let groups = match groups {
        Ok(groups) => groups,
        Err(error) => return unreachable(req, &error),
    };
    let back = format!("{BUILTIN}/jobs/{state}{}", before.map_or(String::new(), |id| format!("?before={id}")));
    let title = match state {
        JobState::Dead => "Dead jobs".to_owned(),
        other => format!("Jobs: {other}"),
    };
    let context = context! { list, names, groups, title, back, before, now => jobs.now() };
    page(req, "aside/panel_job_list.html", &title, context)
}

/// The fields of the search form. Empty ones are left out of the search.
#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Search {
    text: String,
    name: String,
    state: String,
}

impl Search {
    fn filter(&self) -> JobFilter {
        let given = |text: &str| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
        JobFilter {
            state: JobState::of(&self.state),
            name: given(&self.name),
            text: given(&self.text),
            ..JobFilter::default()
        }
    }

    /// Returns the address of the result.
    fn address(&self) -> String {
        let fields = [("text", &self.text), ("name", &self.name), ("state", &self.state)];
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", percent(value))).collect();
        format!("{BUILTIN}/jobs/search?{}", fields.join("&"))
    }
}

fn percent(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// Shows the jobs that meet the conditions of the search form.
pub(super) fn search(req: &mut Request) -> Result<Response> {
    let (jobs, search): (Jobs, Search) = (req.jobs()?, req.query()?);
    let found = match jobs.search(&search.filter(), PAGE) {
        Ok(found) => found,
        Err(error) => return unreachable(req, &error),
    };
    let (list, is_limited, is_full) = (List::found(&jobs, &found.jobs), found.is_limited, found.jobs.len() == PAGE);
    let context = context! { list, back => search.address(), search, is_limited, is_full };
    page(req, "aside/panel_job_search.html", "Search jobs", context)
}

fn unreachable(req: &mut Request, error: &Error) -> Result<Response> {
    let title = "Jobs";
    let page = page(req, "aside/panel_job_list.html", title, context! { title, outage => outage(error) })?;
    Ok(page.status(Status::SERVICE_UNAVAILABLE))
}

fn job(req: &mut Request) -> Result<Response> {
    let (jobs, id) = (req.jobs()?, req.param("id")?);
    let found = jobs.find(id);
    if matches!(found, Ok(None)) {
        return job_not_found(req);
    }
    let job = found.as_ref().ok().and_then(Option::as_ref);
    let name = job.map_or_else(|| format!("Job {id}"), |job| short(&job.label));
    let payload = job.and_then(|job| payload(&jobs, job));
    let is_known = job.is_some();
    let fragment = live_job(&jobs, id, found, &req.scope()).fragment(
        req,
        &format!("{BUILTIN}/jobs/{id}/live"),
        RECORD_TEMPLATE,
    )?;
    page(req, "aside/panel_job.html", &name, context! { name, fragment, payload, is_known })
}

pub(super) fn follow_job(req: &mut Request) -> Result<Response> {
    let (jobs, id, scope) = (req.jobs()?, req.param("id")?, req.scope());
    let live = live_job(&jobs, id, jobs.find(id), &scope);
    let response = req.live(&live, RECORD_TEMPLATE)?;
    polled_page::follow(live, move || read(&jobs, id, jobs.find(id), &scope));
    Ok(response)
}

fn live_job(jobs: &Jobs, id: u64, found: Result<Option<JobInfo>>, scope: &Scope) -> Live<Shown> {
    let (shown, is_last) = read(jobs, id, found, scope);
    let live = Live::new(shown);
    if is_last {
        live.finish();
    }
    live
}

/// Returns the job, and true if the page needs no more updates: a job that can be retried changes only by an action,
/// whose response is a new page.
fn read(jobs: &Jobs, id: u64, found: Result<Option<JobInfo>>, scope: &Scope) -> (Shown, bool) {
    let is_last = found.as_ref().is_ok_and(|job| job.as_ref().is_none_or(|job| job.state.is_finished()));
    let shown = match &found {
        Ok(job) => Shown::of(id, job.as_ref(), scope, jobs.now()),
        Err(error) => Shown::unreachable(id, error),
    };
    (shown, is_last)
}

pub(super) fn job_not_found(req: &mut Request) -> Result<Response> {
    let text = "There is no job with that number. Done and cancelled jobs are pruned after a while, and discarded ones \
                at once.";
    gone(req, text, ("/_aside/jobs", "All jobs"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Condvar, Mutex};
    use std::time::Duration;

    use super::*;
    use crate::app::App;
    use crate::config::Config;
    use crate::jobs::engine::{
        Abilities, ClaimRequest, EndedAttempt, Engine, Enqueued, Entry, Exchanged, HeartbeatReply, HeldJob, Recovered,
        Retention, WorkerId,
    };
    use crate::jobs::record::{FailureGroup, JobCounts, Millis, QueueInfo, WorkerInfo};
    use crate::sync::{Notify, lock, wait_while};
    use crate::testing::TestClient;

    /// An unreachable engine: each call fails, at once or when the gate opens.
    struct Unreachable(Option<Arc<Gate>>);

    #[derive(Default)]
    struct Gate {
        is_open: Mutex<bool>,
        opened: Condvar,
    }

    impl Unreachable {
        fn fail<T>(&self) -> Result<T> {
            if let Some(gate) = &self.0 {
                drop(wait_while(&gate.opened, lock(&gate.is_open), |is_open| !*is_open));
            }
            Err(Error::internal("the engine <b>is away\u{202e}"))
        }
    }

    impl Engine for Unreachable {
        fn describe(&self) -> String {
            "away".into()
        }
        fn abilities(&self) -> Abilities {
            Abilities { is_durable: true, is_shared: true, has_transactions: false }
        }
        fn listen(&self, _: &Arc<Notify>) -> Result<()> {
            self.fail()
        }
        fn enqueue(&self, _: Vec<Entry>, _: Millis) -> Result<Vec<Enqueued>> {
            self.fail()
        }
        fn check(&self) -> Result<()> {
            self.fail()
        }
        fn join(&self) -> Result<WorkerId> {
            self.fail()
        }
        fn heartbeat(&self, _: &WorkerId, _: &[HeldJob], _: Millis) -> Result<HeartbeatReply> {
            self.fail()
        }
        fn leave(&self, _: &WorkerId, _: Millis) -> Result<()> {
            self.fail()
        }
        fn recover(&self, _: Duration, _: Millis) -> Result<Recovered> {
            self.fail()
        }
        fn exchange(&self, _: &[EndedAttempt], _: Option<ClaimRequest<'_>>, _: Millis) -> Result<Exchanged> {
            self.fail()
        }
        fn next_due(&self) -> Result<Option<Millis>> {
            self.fail()
        }
        fn cancel(&self, _: u64, _: Millis) -> Result<Option<JobState>> {
            self.fail()
        }
        fn revive(&self, _: u64, _: Millis) -> Result<bool> {
            self.fail()
        }
        fn discard(&self, _: u64) -> Result<bool> {
            self.fail()
        }
        fn pause(&self, _: &str, _: bool) -> Result<()> {
            self.fail()
        }
        fn paused(&self) -> Result<BTreeSet<String>> {
            self.fail()
        }
        fn find(&self, _: u64) -> Result<Option<JobInfo>> {
            self.fail()
        }
        fn list(&self, _: JobState, _: Option<u64>, _: usize) -> Result<Vec<JobInfo>> {
            self.fail()
        }
        fn of_trace(&self, _: &str, _: usize) -> Result<Vec<JobInfo>> {
            self.fail()
        }
        fn counts(&self) -> Result<JobCounts> {
            self.fail()
        }
        fn queues(&self) -> Result<Vec<QueueInfo>> {
            self.fail()
        }
        fn next_to_run(&self, _: Option<&str>, _: usize) -> Result<Vec<JobInfo>> {
            self.fail()
        }
        fn failure_groups(&self, _: usize) -> Result<Vec<FailureGroup>> {
            self.fail()
        }
        fn workers(&self) -> Result<Vec<WorkerInfo>> {
            self.fail()
        }
        fn last_tick(&self, _: &str) -> Result<Option<Millis>> {
            self.fail()
        }
        fn tick(&self, _: &str, _: Millis, _: Option<Entry>, _: Millis) -> Result<bool> {
            self.fail()
        }
        fn prune(&self, _: Retention, _: Millis) -> Result<usize> {
            self.fail()
        }
        fn clock_went_back(&self, _: Millis) -> Result<()> {
            self.fail()
        }
        fn as_any(&self) -> &(dyn std::any::Any + Send + Sync) {
            self
        }
    }

    fn client(engine: Unreachable) -> TestClient {
        TestClient::new(App::with_config(Config::default()).jobs(Jobs::on(engine)))
    }

    const MESSAGE: &str = r"the engine &lt;b&gt;is away\u{202e}";

    #[test]
    fn an_unreachable_engine_is_reported() {
        let mut client = client(Unreachable(None));
        for path in ["/_aside/jobs", "/_aside/jobs/17"] {
            let page = client.get(path);
            assert_eq!(page.status_code(), Status::OK, "{path}");
            assert!(page.text().contains("unreachable") && page.text().contains(MESSAGE), "{}", page.text());
            let live = format!("{path}/live");
            assert!(page.text().contains(&format!("<aside-live src=\"{live}\"")), "it may come back: {}", page.text());
            assert!(client.events(&live).next().data.contains(MESSAGE), "{live}");
        }
        let list = client.get("/_aside/jobs/dead");
        assert_eq!(list.status_code(), Status::SERVICE_UNAVAILABLE);
        assert!(list.text().contains(MESSAGE), "{}", list.text());
    }

    #[test]
    fn the_tasks_are_shown_without_the_engine() {
        let mut client = client(Unreachable(None));
        let page = client.get("/_aside/tasks");
        assert!(page.text().contains("Nothing runs.") && page.text().contains("/jobs\">Jobs</a>"), "{}", page.text());
        assert!(client.events("/_aside/tasks/live").next().data.contains("Nothing runs."));
    }

    #[test]
    fn an_engine_that_hangs_delays_no_other_page() {
        let gate = Arc::new(Gate::default());
        let mut client = client(Unreachable(Some(gate.clone())));
        for _ in 0..3 {
            // Returns while the gate is shut, or never.
            let page = client.get("/_aside");
            assert!(
                page.text().contains("The job store does not answer.") && page.text().contains("/jobs\">Jobs</a>"),
                "{}",
                page.text()
            );
        }
        *lock(&gate.is_open) = true;
        gate.opened.notify_all();
    }

    #[test]
    fn an_action_without_an_effect_reports_the_reason() {
        let mut client = client(Unreachable(None));
        let posts = [
            ("/_aside/jobs/17/cancel", "/_aside/jobs"),
            ("/_aside/jobs/17/retry", "/_aside/jobs"),
            ("/_aside/jobs/17/discard", "/_aside/jobs"),
            ("/_aside/queues/pause?queue=q", "/_aside/jobs"),
            ("/_aside/queues/resume?queue=q", "/_aside/jobs"),
            ("/_aside/jobs/dead/retry", "/_aside/jobs/dead"),
            ("/_aside/jobs/dead/discard", "/_aside/jobs/dead"),
        ];
        for (path, back) in posts {
            let response = client.post(path).form(&[("name", ""), ("until", "17")]).send();
            assert_eq!(response.location(), Some(back), "{path}: {}", response.text());
            let page = client.get("/_aside");
            assert!(page.text().contains("The job store is unreachable at the moment: the engine"), "{}", page.text());
        }
    }
}
