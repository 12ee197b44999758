//! The buttons about jobs. Each says what came of it, on the page that it was on.

use serde::Deserialize;

use super::job_snapshot::{short, trouble};
use super::jobs::not_kept;
use super::page::back;
use crate::error::{Error, Result, Status};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::BUILTIN;
use crate::jobs::record::Millis;
use crate::jobs::{JobInfo, JobState, Jobs};

/// How many jobs one button may concern, and how many are looked at to find them.
const MOST: u64 = 500;
const MOST_LOOKS: usize = 200;
const LOOK: usize = 50;

/// The longest name of a queue; bytes.
const QUEUE: usize = 200;

pub(super) fn cancel(req: &mut Request) -> Result<Response> {
    act(req, |jobs, job| {
        if job.state.is_finished() {
            return Ok(Some(("warning", "had ended already.")));
        }
        Ok(jobs.cancel(job.id)?.map(|state| match state {
            JobState::Running => ("success", "was told to cancel."),
            JobState::Cancelled => ("success", "is cancelled."),
            _ => ("warning", "had ended already."),
        }))
    })
}

pub(super) fn retry(req: &mut Request) -> Result<Response> {
    act(req, |jobs, job| {
        if jobs.retry(job.id)? {
            return Ok(Some(("success", "waits for a worker now.")));
        }
        // What it is by now, and not what it was before.
        Ok(jobs.find(job.id)?.map(|job| match job.state {
            JobState::Waiting | JobState::Running => ("warning", "waits or runs already."),
            JobState::Done => ("warning", "had ended already, and well."),
            _ => ("warning", "stays as it is: another job with its unique key waits or runs."),
        }))
    })
}

pub(super) fn discard(req: &mut Request) -> Result<Response> {
    act(req, |jobs, job| {
        if jobs.discard(job.id)? {
            return Ok(Some(("success", "was discarded.")));
        }
        Ok(jobs.find(job.id)?.map(|_| ("warning", "runs, and stays: cancel it first.")))
    })
}

/// What became of a job: the kind of the message, and words after its name.
type Said = (&'static str, &'static str);

/// Does something with the job of the path. None says that it is there no more.
fn act(req: &mut Request, f: impl FnOnce(&Jobs, &JobInfo) -> Result<Option<Said>>) -> Result<Response> {
    let (jobs, id) = (req.jobs()?, req.param("id")?);
    let done = jobs.find(id).and_then(|job| match job {
        Some(job) => {
            Ok(f(&jobs, &job)?.map(|(kind, words)| (kind, format!("{} (job {id}) {words}", short(&job.label)))))
        }
        None => Ok(None),
    });
    match done {
        Ok(Some((kind, words))) => req.flash(kind, words),
        Ok(None) => return not_kept(req),
        Err(error) => say_trouble(req, &error),
    }
    back(req, &all_jobs())
}

pub(super) fn pause(req: &mut Request) -> Result<Response> {
    with_queue(req, "is paused: nothing of it is begun until it is resumed.", |jobs, queue| jobs.pause(queue))
}

pub(super) fn resume(req: &mut Request) -> Result<Response> {
    with_queue(req, "goes on.", |jobs, queue| jobs.resume(queue))
}

/// The name comes in the query, where each character of it survives: a field of a form would change line breaks.
fn with_queue(req: &mut Request, words: &str, f: impl FnOnce(&Jobs, &str) -> Result<()>) -> Result<Response> {
    let queue = req.query_pairs()?.into_iter().find(|(name, _)| name == "queue").map(|(_, queue)| queue);
    let queue = queue.filter(|queue| !queue.is_empty() && queue.len() <= QUEUE).ok_or_else(no_queue)?;
    match f(&req.jobs()?, &queue) {
        Ok(()) => req.flash("success", format!("The queue {} {words}", short(&queue))),
        Err(error) => say_trouble(req, &error),
    }
    back(req, &all_jobs())
}

fn no_queue() -> Error {
    Error::new(Status::BAD_REQUEST, format!("Name the queue: ?queue=…, with 1 to {QUEUE} bytes."))
}

/// Dead jobs that a button concerns: those that were there when its page was made, of one type or of all.
#[derive(Deserialize)]
struct Wanted {
    /// Empty for all.
    name: String,
    until: Millis,
}

impl Wanted {
    fn has(&self, job: &JobInfo) -> bool {
        let is_named = self.name.is_empty() || self.name == job.name;
        is_named && job.ended_at.is_none_or(|ended| ended <= self.until)
    }
}

pub(super) fn retry_all(req: &mut Request) -> Result<Response> {
    with_all(req, ["dead job waits", "dead jobs wait"], "for a worker now", Jobs::retry)
}

pub(super) fn discard_all(req: &mut Request) -> Result<Response> {
    with_all(req, ["dead job was", "dead jobs were"], "discarded", Jobs::discard)
}

fn with_all(req: &mut Request, what: [&str; 2], words: &str, f: fn(&Jobs, u64) -> Result<bool>) -> Result<Response> {
    let (wanted, jobs): (Wanted, Jobs) = (req.form()?, req.jobs()?);
    let mut count = 0;
    let swept = sweep(&jobs, &wanted, &mut count, f);
    let said = format!("{count} {} {words}", what[usize::from(count != 1)]);
    match swept {
        Ok(true) => req.flash("success", format!("{said}.")),
        Ok(false) => req.flash("success", format!("{said}. There may be more: press again for the next.")),
        Err(error) => {
            req.flash("warning", format!("{said}, and then:"));
            say_trouble(req, &error);
        }
    }
    back(req, &format!("{BUILTIN}/jobs/dead"))
}

/// Goes through the dead ones, the newest first. Whether that were all.
fn sweep(jobs: &Jobs, wanted: &Wanted, count: &mut u64, f: fn(&Jobs, u64) -> Result<bool>) -> Result<bool> {
    let mut before = None;
    for _ in 0..MOST_LOOKS {
        let found = jobs.newest(JobState::Dead, before, LOOK)?;
        let Some(last) = found.last() else { return Ok(true) };
        before = Some(last.id);
        for job in found.iter().filter(|job| wanted.has(job)) {
            if *count == MOST {
                return Ok(false);
            }
            *count += u64::from(f(jobs, job.id)?);
        }
    }
    Ok(false)
}

fn say_trouble(req: &mut Request, error: &Error) {
    req.flash("warning", format!("The jobs cannot be reached at the moment: {}", short(&trouble(error))));
}

fn all_jobs() -> String {
    format!("{BUILTIN}/jobs")
}
