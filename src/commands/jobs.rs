//! The commands about stored jobs.

use std::fmt::Write as _;
use std::time::Duration;

use super::Report;
use super::jobs_arguments::{JobsCommand, Which};
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::error_pages::sanitize::visible_line;
use crate::jobs::record::Millis;
use crate::jobs::{JobInfo, JobState, Jobs};
use crate::log_text::{numbered, span};

/// The length, in characters, of a text in a list.
const LONGEST: usize = 120;

/// Runs a command on the jobs of the application.
///
/// # Errors
/// If the application has no jobs, or keeps them in memory, or the store cannot be reached, or a job cannot be changed.
pub(super) fn run(app: &App, command: JobsCommand) -> Result<Report> {
    let jobs =
        app.own_jobs().ok_or_else(|| Error::internal("the application has no jobs; add them with `App::jobs`"))?;
    if !jobs.is_durable() {
        return Err(Error::internal(
            "the jobs are in the memory of the process that serves the site: use `Jobs::sqlite`",
        ));
    }
    let text = match command {
        JobsCommand::Overview => overview(&jobs)?,
        JobsCommand::List(state) => list(&jobs, state)?,
        JobsCommand::Show(id) => show(&jobs, id)?,
        JobsCommand::Retry(which) => change(&jobs, which, "retried", |id| jobs.retry(id))?,
        JobsCommand::Discard(which) => change(&jobs, which, "discarded", |id| jobs.discard(id))?,
        JobsCommand::Cancel(ids) => change(&jobs, Which::Ids(ids), "cancelled", |id| cancel(&jobs, id))?,
        JobsCommand::Pause(queue) => jobs.pause(&queue).map(|()| format!("The queue {queue} is paused.\n"))?,
        JobsCommand::Resume(queue) => jobs.resume(&queue).map(|()| format!("The queue {queue} is resumed.\n"))?,
    };
    Ok(text.into())
}

fn overview(jobs: &Jobs) -> Result<String> {
    let mut counts = jobs.counts()?;
    let mut text = format!("The jobs in {}:\n", jobs.describe());
    for state in JobState::ALL {
        let _ = writeln!(text, "    {:<9}  {}", state.as_str(), counts.of(state));
    }
    text += "Queues:\n";
    for queue in jobs.queues()? {
        let paused = if queue.is_paused { ", paused" } else { "" };
        let (name, waiting, running) = (visible_line(&queue.name, LONGEST), queue.waiting, queue.running);
        let _ = writeln!(text, "    {name}: {waiting} waiting, {running} running{paused}");
    }
    Ok(text)
}

fn list(jobs: &Jobs, state: JobState) -> Result<String> {
    let (found, now) = (jobs.list(state, None)?, jobs.now());
    if found.is_empty() {
        return Ok(format!("No job is {state}.\n"));
    }
    Ok(found.iter().map(|job| line(job, now)).collect())
}

/// Returns the line of a job: `17  resize photo 3  attempt 2, enqueued 3 min 20 s ago: connection refused`.
fn line(job: &JobInfo, now: Millis) -> String {
    let failure = job.failures.last().map(|failure| format!(": {}", visible_line(&failure.message, LONGEST)));
    let (label, attempt, since) = (visible_line(&job.label, LONGEST), job.attempt, since(job.enqueued_at, now));
    format!("{}  {label}  attempt {attempt}, enqueued {since} ago{}\n", job.id, failure.unwrap_or_default())
}

fn since(time: Millis, now: Millis) -> String {
    span(Duration::from_millis(now.saturating_sub(time).max(0).unsigned_abs())).to_string()
}

fn show(jobs: &Jobs, id: u64) -> Result<String> {
    let job = jobs.find(id)?.ok_or_else(|| missing(id))?;
    let now = jobs.now();
    let mut text = format!("Job {id} ({}) is {}.\n", visible_line(&job.label, LONGEST), job.state);
    let _ = writeln!(text, "    name      {}", job.name);
    let _ = writeln!(text, "    queue     {}", visible_line(&job.queue, LONGEST));
    let _ = writeln!(text, "    attempts  {}", job.attempt);
    let _ = writeln!(text, "    enqueued  {} ago", since(job.enqueued_at, now));
    if let Some(request) = &job.request {
        let _ = writeln!(text, "    request   {}", visible_line(request, LONGEST));
    }
    for failure in &job.failures {
        let (attempt, message) = (failure.attempt, visible_line(&failure.message, 10 * LONGEST));
        let _ = writeln!(text, "    attempt {attempt}, {} ago: {message}", since(failure.at, now));
    }
    Ok(text)
}

/// Changes each job, and returns how many. A job that cannot be changed is an error, after the others were changed.
fn change(jobs: &Jobs, which: Which, done: &str, change: impl Fn(u64) -> Result<bool>) -> Result<String> {
    let ids = match which {
        Which::Ids(ids) => ids,
        Which::Dead => dead(jobs)?,
    };
    let mut refused = Vec::new();
    for id in &ids {
        refused.extend((!change(*id)?).then_some(*id));
    }
    if let [first, ..] = refused[..] {
        let changed = numbered(ids.len() - refused.len(), "job was", "jobs were");
        let state = jobs.find(first)?.map_or("does not exist".to_owned(), |job| format!("is {}", job.state));
        let message = format!("{changed} {done}, and {} not: job {first} {state}", refused.len());
        return Err(Error::internal(message));
    }
    Ok(format!("{} {done}.\n", numbered(ids.len(), "job was", "jobs were")))
}

/// Returns the ids of all dead jobs. Those that die in the meantime are not among them.
fn dead(jobs: &Jobs) -> Result<Vec<u64>> {
    let mut ids: Vec<u64> = Vec::new();
    loop {
        let page = jobs.list(JobState::Dead, ids.last().copied())?;
        if page.is_empty() {
            return Ok(ids);
        }
        ids.extend(page.iter().map(|job| job.id));
    }
}

/// Cancels a job. Returns false if it has ended before, or does not exist.
fn cancel(jobs: &Jobs, id: u64) -> Result<bool> {
    Ok(jobs.cancel(id)?.is_some_and(|state| matches!(state, JobState::Cancelled | JobState::Running)))
}

fn missing(id: u64) -> Error {
    Error::internal(format!("job {id} does not exist"))
}
