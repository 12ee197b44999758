//! The overview: what needs a person first, and the state of all parts of the application.

use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::bounded_query::BoundedQuery;
use super::failure_groups::{Failed, FailureGroup, FailureGroups, MOST_GROUPS};
use super::job_snapshot::{Queue, outage};
use super::moment::Moment;
use super::page::page;
use super::polled_page::PolledPage;
use super::snapshot::{Row, mails};
use super::sparkline::{self, Sparkline};
use crate::background::counts::Counts;
use crate::background::record::Record;
use crate::background::registry::TaskLists;
use crate::background::request_log::RequestLog;
use crate::background::scope::Scope;
use crate::context;
use crate::error::Result;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::BUILTIN;
use crate::jobs::record::{Millis, millis};
use crate::jobs::{JobCounts, Jobs};

const TEMPLATE: &str = "aside/panel_overview.html";

/// The age up to which a failed task or request needs attention: a day. The panel has no button that marks a failure as read.
const RECENT: Millis = 24 * 3_600_000;

/// The number of overdue tasks on the page.
const MOST_OVERDUE: usize = 10;

pub(super) fn overview(req: &mut Request) -> Result<Response> {
    let polled_page = req.state::<PolledPage<Overview>>();
    let fragment = polled_page.refresh(&req.scope()).fragment(req, &format!("{BUILTIN}/live"), TEMPLATE)?;
    page(req, "aside/panel_live.html", "Overview", context! { fragment })
}

pub(super) fn follow(req: &mut Request) -> Result<Response> {
    let (polled_page, scope) = (req.state::<PolledPage<Overview>>(), req.scope());
    let response = req.live(polled_page.refresh(&scope), TEMPLATE)?;
    polled_page.start_polling(scope);
    Ok(response)
}

/// The application at one moment.
#[derive(Clone, Default, PartialEq, Serialize)]
pub(super) struct Overview {
    tasks: TaskCounts,
    failed_tasks: Vec<FailureGroup>,
    failed_requests: Vec<FailureGroup>,
    overdue: Vec<Row>,
    unlisted_overdue: usize,
    /// `None` if the application has no jobs.
    jobs: Option<JobsPart>,
    /// The number of stored mails; `None` if mail is not stored.
    mails: Option<usize>,
    charts: Vec<Sparkline>,
    /// The start of the application, if that is less than a day ago: failures are known from then on.
    started: Option<Moment>,
    /// The number of failed attempts of the last day that another attempt has followed or will follow.
    retried: usize,
    /// True if nothing needs a person.
    is_well: bool,
}

/// The numbers of tasks.
#[derive(Clone, Default, PartialEq, Serialize)]
struct TaskCounts {
    running: usize,
    waiting: usize,
    done: u64,
    failed: u64,
    cancelled: u64,
}

impl TaskCounts {
    fn of(counts: &Counts) -> TaskCounts {
        TaskCounts {
            running: counts.unfinished.saturating_sub(counts.queued),
            waiting: counts.queued,
            done: counts.done(),
            failed: counts.failed,
            cancelled: counts.cancelled,
        }
    }
}

/// The jobs, or the reason why they cannot be shown.
#[derive(Clone, Default, PartialEq, Serialize)]
struct JobsPart {
    outage: Option<String>,
    counts: JobCounts,
    dead: Vec<FailureGroup>,
    /// The number of dead jobs that are not in a shown group.
    ungrouped_dead: u64,
    lagging: Vec<Queue>,
}

impl Overview {
    pub(super) fn of(scope: &Scope) -> Overview {
        let TaskLists { counts, unfinished, failed, .. } = scope.registry().lists();
        let overdue: Vec<_> = unfinished.iter().filter(|record| record.is_overdue()).collect();
        let mut overview = Overview {
            tasks: TaskCounts::of(&counts),
            failed_tasks: failed_tasks(failed.iter().map(AsRef::as_ref)),
            failed_requests: failed_requests(scope),
            unlisted_overdue: overdue.len().saturating_sub(MOST_OVERDUE),
            overdue: overdue.iter().take(MOST_OVERDUE).map(|record| Row::of(record, scope)).collect(),
            jobs: scope.get::<Jobs>().map(|jobs| JobsPart::of(&jobs, scope)),
            mails: mails(scope),
            started: recent_start(scope),
            retried: retried(&failed, &unfinished),
            charts: sparkline::last_hour(scope, scope.get::<Jobs>().is_some()),
            is_well: false,
        };
        overview.is_well = overview.failed_tasks.is_empty()
            && overview.failed_requests.is_empty()
            && overview.overdue.is_empty()
            && overview.jobs.as_ref().is_none_or(JobsPart::is_well);
        overview
    }
}

/// Returns the start of the application, if that is less than a day ago.
fn recent_start(scope: &Scope) -> Option<Moment> {
    let started = scope.registry().started_at();
    let age = millis(SystemTime::now()).saturating_sub(millis(started));
    Moment::of_system(started).filter(|_| age < RECENT)
}

/// Returns the number of failed attempts of jobs in the last day, and of unfinished tasks.
fn retried(failed: &[Arc<Record>], unfinished: &[Arc<Record>]) -> usize {
    let now = millis(SystemTime::now());
    let of_jobs = failed.iter().filter(|record| record.job.is_some() && now - ended_at(record, now) < RECENT).count();
    let of_tasks = unfinished.iter().filter(|record| record.job.is_none()).map(|record| record.failed_attempts().len());
    of_jobs + of_tasks.sum::<usize>()
}

fn ended_at(record: &Record, now: Millis) -> Millis {
    record.began_at().map_or(now, |began| millis(began + record.elapsed()))
}

/// Groups the failed tasks of the last day. Attempts of jobs are left out: a job is retried, or dead.
fn failed_tasks<'a>(failed: impl Iterator<Item = &'a Record>) -> Vec<FailureGroup> {
    let now = millis(SystemTime::now());
    let mut groups = FailureGroups::default();
    for record in failed.filter(|record| record.job.is_none()) {
        let ended = ended_at(record, now);
        let message = record.failure().map_or("", |(message, _)| message);
        if now.saturating_sub(ended) < RECENT {
            groups.add(&Failed { id: record.id.to_string(), name: &record.name, message, at: ended });
        }
    }
    groups.newest_first(now)
}

/// Groups the failed requests of the last day by their method, route and error.
fn failed_requests(scope: &Scope) -> Vec<FailureGroup> {
    let (now, mut groups) = (millis(SystemTime::now()), FailureGroups::default());
    let Some(log) = scope.get::<Arc<RequestLog>>() else { return Vec::new() };
    for request in log.all().iter().filter(|request| request.has_failed()) {
        let (at, route) = (millis(request.began_at()), log.route(request).unwrap_or(&request.info.path));
        let status = format!("responded with {}", request.status);
        let message = request.error.as_ref().map_or(&status, |error| &error.message);
        if now.saturating_sub(at) < RECENT {
            let (id, name) = (request.info.trace.to_string(), format!("{} {route}", request.info.method));
            groups.add(&Failed { id, name: &name, message, at });
        }
    }
    groups.newest_first(now)
}

/// The parts of the overview that the job store knows.
pub(super) struct JobsSummary {
    counts: JobCounts,
    dead: Vec<FailureGroup>,
    grouped_dead: u64,
    lagging: Vec<Queue>,
}

impl JobsSummary {
    /// # Errors
    /// An error if the engine is unreachable.
    pub(super) fn of(jobs: &Jobs) -> Result<JobsSummary> {
        let (counts, now) = (jobs.counts()?, jobs.now());
        let groups = jobs.failure_groups()?;
        let shown = &groups[..groups.len().min(MOST_GROUPS)];
        let dead = shown.iter().map(|group| FailureGroup::of_jobs(group, now)).collect();
        let grouped_dead = shown.iter().map(|group| group.count).sum();
        let queues = jobs.queues()?.into_iter().map(|queue| Queue::of(queue, now));
        let lagging = queues.filter(Queue::needs_attention).collect();
        Ok(JobsSummary { counts, dead, grouped_dead, lagging })
    }
}

impl JobsPart {
    fn of(jobs: &Jobs, scope: &Scope) -> JobsPart {
        let Some(query) = scope.get::<BoundedQuery<JobsSummary>>() else { return JobsPart::default() };
        let Some(answer) = query.ask(jobs) else {
            return JobsPart::out("The job store does not answer.".to_owned());
        };
        match &*answer {
            Err(error) => JobsPart::out(outage(error)),
            Ok(summary) => JobsPart {
                outage: None,
                counts: summary.counts,
                dead: summary.dead.clone(),
                ungrouped_dead: summary.counts.dead.saturating_sub(summary.grouped_dead),
                lagging: summary.lagging.clone(),
            },
        }
    }

    fn out(outage: String) -> JobsPart {
        JobsPart { outage: Some(outage), ..JobsPart::default() }
    }

    fn is_well(&self) -> bool {
        self.outage.is_none() && self.counts.dead == 0 && self.lagging.is_empty()
    }
}
