//! The arguments of the commands about stored jobs.

use super::list::{unknown, wrong_number};
use crate::jobs::JobState;
use crate::nearest::did_you_mean;

/// A command about stored jobs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum JobsCommand {
    /// The numbers of jobs, and the queues.
    Overview,
    List(JobState),
    Show(u64),
    Retry(Which),
    Discard(Which),
    Cancel(Vec<u64>),
    Pause(String),
    Resume(String),
}

/// The jobs that a command changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Which {
    Ids(Vec<u64>),
    /// All dead jobs.
    Dead,
}

impl JobsCommand {
    pub(super) fn parse(arguments: &[&str]) -> Result<JobsCommand, String> {
        match arguments {
            [] => Ok(JobsCommand::Overview),
            ["list", state] => state_of(state).map(JobsCommand::List),
            ["show", id] => id_of(id).map(JobsCommand::Show),
            ["retry", which @ ..] => Which::parse("jobs retry", which).map(JobsCommand::Retry),
            ["discard", which @ ..] => Which::parse("jobs discard", which).map(JobsCommand::Discard),
            ["cancel", ids @ ..] if !ids.is_empty() => ids_of(ids).map(JobsCommand::Cancel),
            ["pause", queue] => Ok(JobsCommand::Pause((*queue).to_owned())),
            ["resume", queue] => Ok(JobsCommand::Resume((*queue).to_owned())),
            [name @ ("list" | "show" | "cancel" | "pause" | "resume"), ..] => {
                Err(wrong_number(&format!("jobs {name}")))
            }
            [other, ..] => Err(unknown(other, "jobs ")),
        }
    }
}

impl Which {
    fn parse(command: &str, arguments: &[&str]) -> Result<Which, String> {
        match arguments {
            [] => Err(wrong_number(command)),
            ["dead"] => Ok(Which::Dead),
            ids => ids_of(ids).map(Which::Ids),
        }
    }
}

fn ids_of(arguments: &[&str]) -> Result<Vec<u64>, String> {
    arguments.iter().map(|id| id_of(id)).collect()
}

fn id_of(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("`{text}` is not the id of a job, which is a whole number"))
}

fn state_of(text: &str) -> Result<JobState, String> {
    let names = JobState::ALL.map(JobState::as_str);
    JobState::of(text).ok_or_else(|| {
        let hint = did_you_mean(text, names.into_iter());
        format!("`{text}` is not a state of jobs ({}){hint}", names.join(", "))
    })
}
