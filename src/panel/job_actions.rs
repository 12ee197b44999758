//! The actions on jobs. Each one shows its result on the page with its button.

use serde::Deserialize;

use super::job_snapshot::{outage, short};
use super::jobs::job_not_found;
use super::page::back;
use crate::error::{Error, Result, Status};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::BUILTIN;
use crate::jobs::record::{Millis, error_group};
use crate::jobs::{Enqueued, JobInfo, JobState, Jobs};

/// The number of jobs that one action may affect, and the number that are read to find them.
const MAX_JOBS: u64 = 500;
const MAX_BATCHES: usize = 200;
const BATCH: usize = 50;

/// The longest name of a queue, in bytes.
const QUEUE: usize = 200;

pub(super) fn cancel(req: &mut Request) -> Result<Response> {
    act(req, |jobs, job| {
        if job.state.is_finished() {
            return Ok(Some(("warning", "has already ended.")));
        }
        Ok(jobs.cancel(job.id)?.map(|state| match state {
            JobState::Running => ("success", "was told to cancel."),
            JobState::Cancelled => ("success", "is cancelled."),
            _ => ("warning", "has already ended."),
        }))
    })
}

pub(super) fn retry(req: &mut Request) -> Result<Response> {
    act(req, |jobs, job| {
        if jobs.retry(job.id)? {
            return Ok(Some(("success", "waits for a worker now.")));
        }
        // The state after the action, and not the one before it.
        Ok(jobs.find(job.id)?.map(|job| match job.state {
            JobState::Waiting | JobState::Running => ("warning", "already waits or runs."),
            JobState::Done => ("warning", "is already done."),
            _ => ("warning", "was not retried: another job with its unique key waits or runs."),
        }))
    })
}

pub(super) fn discard(req: &mut Request) -> Result<Response> {
    act(req, |jobs, job| {
        if jobs.discard(job.id)? {
            return Ok(Some(("success", "was discarded.")));
        }
        Ok(jobs.find(job.id)?.map(|_| ("warning", "runs and was not discarded: cancel it first.")))
    })
}

/// The result of an action on a job: the kind of the message, and the text after the job's name.
type ActionResult = (&'static str, &'static str);

/// Runs an action on the job in the path. Reports a missing job if `f` returns `None`.
fn act(req: &mut Request, f: impl FnOnce(&Jobs, &JobInfo) -> Result<Option<ActionResult>>) -> Result<Response> {
    let (jobs, id) = (req.jobs()?, req.param("id")?);
    let done = jobs.find(id).and_then(|job| match job {
        Some(job) => Ok(f(&jobs, &job)?.map(|(kind, text)| (kind, format!("{} (job {id}) {text}", short(&job.label))))),
        None => Ok(None),
    });
    match done {
        Ok(Some((kind, text))) => req.flash(kind, text),
        Ok(None) => return job_not_found(req),
        Err(error) => flash_unreachable(req, &error),
    }
    back(req, &all_jobs())
}

pub(super) fn pause(req: &mut Request) -> Result<Response> {
    with_queue(req, "is paused: none of its jobs is started until it is resumed.", |jobs, queue| jobs.pause(queue))
}

pub(super) fn resume(req: &mut Request) -> Result<Response> {
    with_queue(req, "is resumed.", |jobs, queue| jobs.resume(queue))
}

/// The name is in the query, which preserves each character: a form field would change line breaks.
fn with_queue(req: &mut Request, text: &str, f: impl FnOnce(&Jobs, &str) -> Result<()>) -> Result<Response> {
    let queue = req.query_pairs()?.into_iter().find(|(name, _)| name == "queue").map(|(_, queue)| queue);
    let queue = queue.filter(|queue| !queue.is_empty() && queue.len() <= QUEUE).ok_or_else(no_queue)?;
    match f(&req.jobs()?, &queue) {
        Ok(()) => req.flash("success", format!("The queue {} {text}", short(&queue))),
        Err(error) => flash_unreachable(req, &error),
    }
    back(req, &all_jobs())
}

/// Enqueues the job of a schedule now.
pub(super) fn run_schedule(req: &mut Request) -> Result<Response> {
    let name = req.query_pairs()?.into_iter().find(|(name, _)| name == "name").map(|(_, name)| name);
    match req.jobs()?.run_schedule_now(&name.unwrap_or_default()) {
        Ok(Some(Enqueued { id, is_new: true })) => req.flash("success", format!("It is enqueued as job {id}.")),
        Ok(Some(Enqueued { id, .. })) => {
            req.flash("warning", format!("It was not enqueued: job {id} has its unique key."));
        }
        Ok(None) => req.flash("warning", "This process has no such schedule."),
        Err(error) => flash_unreachable(req, &error),
    }
    back(req, &all_jobs())
}

fn no_queue() -> Error {
    Error::new(Status::BAD_REQUEST, format!("Name the queue: ?queue=…, with 1 to {QUEUE} bytes."))
}

/// The dead jobs that an action affects: those that existed when its page was rendered, of one type or of all.
#[derive(Deserialize)]
struct Wanted {
    /// Empty for all.
    name: String,
    until: Millis,
    /// The id of a job: only jobs of its type with an equal error.
    like: Option<u64>,
}

impl Wanted {
    fn has(&self, job: &JobInfo, group: Option<&Group>) -> bool {
        let is_named = self.name.is_empty() || self.name == job.name;
        is_named && group.is_none_or(|group| *group == group_of(job)) && job.ended_at.is_none_or(|at| at <= self.until)
    }
}

/// The type of a dead job, and the start of its error without numbers.
type Group = (String, String);

fn group_of(job: &JobInfo) -> Group {
    (job.name.clone(), error_group(job.failures.last().map_or("", |failure| &failure.message)))
}

pub(super) fn retry_all(req: &mut Request) -> Result<Response> {
    with_all(req, ["dead job waits", "dead jobs wait"], "for a worker now", Jobs::retry)
}

pub(super) fn discard_all(req: &mut Request) -> Result<Response> {
    with_all(req, ["dead job was", "dead jobs were"], "discarded", Jobs::discard)
}

fn with_all(req: &mut Request, what: [&str; 2], text: &str, f: fn(&Jobs, u64) -> Result<bool>) -> Result<Response> {
    let (wanted, jobs): (Wanted, Jobs) = (req.form()?, req.jobs()?);
    let mut count = 0;
    let finished = sweep(&jobs, &wanted, &mut count, f);
    let done = format!("{count} {} {text}", what[usize::from(count != 1)]);
    match finished {
        Ok(true) => req.flash("success", format!("{done}.")),
        Ok(false) => req.flash("success", format!("{done}. There may be more: repeat the action for them.")),
        Err(error) => {
            req.flash("warning", format!("{done}, and then:"));
            flash_unreachable(req, &error);
        }
    }
    back(req, &format!("{BUILTIN}/jobs/dead"))
}

/// Goes through the dead jobs, the newest first. Returns true if these were all.
fn sweep(jobs: &Jobs, wanted: &Wanted, count: &mut u64, f: fn(&Jobs, u64) -> Result<bool>) -> Result<bool> {
    let group = match wanted.like.map(|id| jobs.find(id)).transpose()?.flatten() {
        Some(job) => Some(group_of(&job)),
        None if wanted.like.is_some() => return Ok(true),
        None => None,
    };
    let mut before = None;
    for _ in 0..MAX_BATCHES {
        let found = jobs.newest(JobState::Dead, before, BATCH)?;
        let Some(last) = found.last() else { return Ok(true) };
        before = Some(last.id);
        for job in found.iter().filter(|job| wanted.has(job, group.as_ref())) {
            if *count == MAX_JOBS {
                return Ok(false);
            }
            *count += u64::from(f(jobs, job.id)?);
        }
    }
    Ok(false)
}

fn flash_unreachable(req: &mut Request, error: &Error) {
    req.flash("warning", format!("The job store is unreachable at the moment: {}", short(&outage(error))));
}

fn all_jobs() -> String {
    format!("{BUILTIN}/jobs")
}
