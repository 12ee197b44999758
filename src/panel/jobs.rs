//! The pages about jobs: all of them at a glance, lists by state, and one of them with all that is known.
//!
//! An engine that cannot be asked is something to show, and no error of the page: whoever looks wants to know just that.

use serde::Deserialize;

use super::job_snapshot::{List, Overview, Shown, payload, short, trouble};
use super::page::{gone, page};
use super::watch::{self, Watch};
use crate::background::scope::Scope;
use crate::context;
use crate::error::{Error, Result, Status};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::BUILTIN;
use crate::jobs::{JobInfo, JobState, Jobs};
use crate::live::Live;

/// The parts of pages that change.
const ALL: &str = "aside/panel_jobs_part.html";
const ONE: &str = "aside/panel_job_record.html";

/// How many jobs a list shows.
const PAGE: usize = 100;

pub(super) fn overview(req: &mut Request) -> Result<Response> {
    let watch = req.state::<Watch<Overview>>();
    let part = watch.look(&req.scope()).part(req, &format!("{BUILTIN}/jobs/live"), ALL)?;
    page(req, "aside/panel_jobs.html", "Jobs", context! { part })
}

pub(super) fn follow_all(req: &mut Request) -> Result<Response> {
    let (watch, scope) = (req.state::<Watch<Overview>>(), req.scope());
    let response = req.live(watch.look(&scope), ALL)?;
    watch.keep_up(scope);
    Ok(response)
}

/// The list of a state by its word, or the job of a number.
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
    let back = format!("{BUILTIN}/jobs/{state}{}", before.map_or(String::new(), |id| format!("?before={id}")));
    let title = match state {
        JobState::Dead => "Dead jobs".to_owned(),
        other => format!("Jobs that are {other}"),
    };
    let context = context! { list, names, title, back, before, now => jobs.now() };
    page(req, "aside/panel_job_list.html", &title, context)
}

fn unreachable(req: &mut Request, error: &Error) -> Result<Response> {
    let title = "Jobs";
    let page = page(req, "aside/panel_job_list.html", title, context! { title, trouble => trouble(error) })?;
    Ok(page.status(Status::SERVICE_UNAVAILABLE))
}

fn job(req: &mut Request) -> Result<Response> {
    let (jobs, id) = (req.jobs()?, req.param("id")?);
    let found = jobs.find(id);
    if matches!(found, Ok(None)) {
        return not_kept(req);
    }
    let job = found.as_ref().ok().and_then(Option::as_ref);
    let name = job.map_or_else(|| format!("Job {id}"), |job| short(&job.label));
    let payload = job.and_then(|job| payload(&jobs, job));
    let is_known = job.is_some();
    let part = part_of(&jobs, id, found, &req.scope()).part(req, &format!("{BUILTIN}/jobs/{id}/live"), ONE)?;
    page(req, "aside/panel_job.html", &name, context! { name, part, payload, is_known })
}

pub(super) fn follow_job(req: &mut Request) -> Result<Response> {
    let (jobs, id, scope) = (req.jobs()?, req.param("id")?, req.scope());
    let live = part_of(&jobs, id, jobs.find(id), &scope);
    let response = req.live(&live, ONE)?;
    watch::follow(live, move || look(&jobs, id, jobs.find(id), &scope));
    Ok(response)
}

fn part_of(jobs: &Jobs, id: u64, found: Result<Option<JobInfo>>, scope: &Scope) -> Live<Shown> {
    let (shown, is_last) = look(jobs, id, found, scope);
    let live = Live::new(shown);
    if is_last {
        live.finish();
    }
    live
}

/// The job as it is, and whether that is how it stays: until somebody presses a button, whose page comes anew.
fn look(jobs: &Jobs, id: u64, found: Result<Option<JobInfo>>, scope: &Scope) -> (Shown, bool) {
    let is_last = found.as_ref().is_ok_and(|job| job.as_ref().is_none_or(|job| job.state.is_finished()));
    let shown = match &found {
        Ok(job) => Shown::of(id, job.as_ref(), scope, jobs.now()),
        Err(error) => Shown::in_trouble(id, error),
    };
    (shown, is_last)
}

pub(super) fn not_kept(req: &mut Request) -> Result<Response> {
    let words = "No job of that number is kept: those that ended well or were cancelled are forgotten by and by, and \
                 discarded ones at once.";
    gone(req, words, ("/_aside/jobs", "All jobs"))
}
