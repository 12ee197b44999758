//! The configuration of jobs: their types, the queues and the limits.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::engine::{Entry, Retention};
use super::job::{Job, NewJob};
use super::schedule::Schedule;
use crate::background::failure::{Failure, Outcome};
use crate::background::lineage::LineageTexts;
use crate::background::output::Output;
use crate::background::registry;
use crate::background::retry::Retry;
use crate::background::scope::Context;
use crate::background::task_context::TaskContext;
use crate::background::trace_id::TraceId;
use crate::bounds;
use crate::error::{Error, Result};
use crate::isolate::Limits;

/// The longest payload, and the longest output: 1 MiB. Larger data belongs in a file or a table.
const MOST_PAYLOAD: usize = 1 << 20;

/// The longest name of a queue, the longest stored label, and the longest unique key that is stored unhashed.
const MOST_NAME: usize = 200;
const MOST_KEY: usize = 1_000;

/// The configuration of a process's jobs.
#[derive(Clone)]
pub(super) struct JobConfig {
    kinds: BTreeMap<&'static str, Kind>,
    queues: BTreeMap<String, usize>,
    pub(super) schedules: Vec<Schedule>,
    /// The number of jobs of a queue that one process runs at once by default.
    pub(super) workers: usize,
    pub(super) lease: Duration,
    pub(super) retention: Retention,
    /// Invalid settings, which are reported when the application starts.
    pub(super) problems: Vec<String>,
}

impl Default for JobConfig {
    fn default() -> JobConfig {
        JobConfig {
            kinds: BTreeMap::new(),
            queues: BTreeMap::new(),
            schedules: Vec::new(),
            workers: 4,
            lease: Duration::from_secs(20),
            retention: Retention { age: Duration::from_secs(24 * 3600), count: 10_000 },
            problems: Vec::new(),
        }
    }
}

/// A job type, without its generic parameter.
#[derive(Clone)]
pub(super) struct Kind {
    type_name: &'static str,
    pub(super) queue: &'static str,
    pub(super) deadline: Option<Duration>,
    /// The limits, if the job runs in a child process.
    pub(super) isolated: Option<Limits>,
    pub(super) is_private: bool,
    pub(super) retry: Retry,
    run: fn(&str, &TaskContext) -> Result<()>,
}

impl Kind {
    fn of<J: Job>() -> Kind {
        let limits = Limits { deadline: J::DEADLINE.unwrap_or(Limits::default().deadline), memory: J::MEMORY };
        Kind {
            type_name: std::any::type_name::<J>(),
            queue: J::QUEUE,
            // The parent process enforces the deadline of an isolated job, and kills the child.
            deadline: J::DEADLINE.filter(|_| !J::ISOLATED),
            isolated: J::ISOLATED.then_some(limits),
            is_private: J::PRIVATE,
            retry: J::retry(),
            run: |payload, task| decode::<J>(payload)?.run(task),
        }
    }
}

impl Kind {
    /// Runs a job of this type.
    pub(super) fn call(&self, payload: &str, task: &TaskContext) -> Outcome<()> {
        (self.run)(payload, task).map_err(|error| Failure::from_error(error.into()))
    }
}

/// Parses a job from its payload.
fn decode<J: DeserializeOwned>(payload: &str) -> Result<J> {
    serde_json::from_str(payload).map_err(|error| {
        Error::internal("the payload cannot be parsed as this job: give new fields `#[serde(default)]`")
            .with_source(error)
    })
}

impl JobConfig {
    /// Returns the retry policy of a job type: also of one that is not registered, since the next version of the program may
    /// register it.
    pub(super) fn retry(&self, name: &str) -> Retry {
        self.kind(name).map_or_else(|| Retry::exponential(20, Duration::from_secs(60)), |kind| kind.retry.clone())
    }

    pub(super) fn register<J: Job>(&mut self) {
        let kind = Kind::of::<J>();
        let type_name = kind.type_name;
        let former = self.kinds.insert(J::NAME, kind);
        if let Some(former) = former.filter(|former| former.type_name != type_name) {
            let message = format!("two jobs have the NAME `{}`: {} and {type_name}", J::NAME, former.type_name);
            self.problems.push(message);
        }
    }

    pub(super) fn queue(&mut self, name: &str, at_once: usize) {
        if name.is_empty() || name.len() > MOST_NAME {
            self.problems.push(format!("Jobs::queue: a name has 1 to {MOST_NAME} bytes, and this is {name:?}"));
        }
        self.queues.insert(name.to_owned(), at_once);
    }

    pub(super) fn kind(&self, name: &str) -> Option<&Kind> {
        self.kinds.get(name)
    }

    /// The queues that this process serves, and how many jobs of each it runs at once. `default` is always included: a job
    /// that an earlier version enqueued there may have a queue of its own now.
    pub(super) fn queues(&self) -> BTreeMap<&str, usize> {
        let of_kinds = self.kinds.values().map(|kind| (kind.queue, self.workers));
        let named = self.queues.iter().map(|(name, at_once)| (name.as_str(), *at_once));
        iter::once(("default", self.workers)).chain(of_kinds).chain(named).collect()
    }

    /// Returns the record of a new job.
    ///
    /// # Errors
    /// An error if the type is not registered, no worker serves the queue, or the job cannot be serialized.
    pub(super) fn entry<J: Job>(&self, new: NewJob<J>, lineage: &LineageTexts) -> Result<Entry> {
        let Some(kind) = self.kinds.get(J::NAME) else {
            let message = "is not registered: add `.register::<…>()` to the jobs of the application";
            return Err(Error::internal(format!("the job `{}` {message}", J::NAME)));
        };
        let queue = new.queue.unwrap_or_else(|| kind.queue.to_owned());
        if queue != kind.queue && !self.queues().contains_key(&*queue) {
            return Err(Error::internal(format!("no worker serves the queue `{queue}`: add it with `Jobs::queue`")));
        }
        let payload = serde_json::to_string(&new.job).map_err(|error| {
            Error::internal(format!("the job `{}` cannot be written as JSON", J::NAME)).with_source(error)
        })?;
        if payload.len() > MOST_PAYLOAD {
            return Err(too_large("payload", J::NAME, payload.len()));
        }
        registry::count_started();
        Ok(Entry {
            name: J::NAME.to_owned(),
            label: bounds::shorten(&new.job.label(), MOST_NAME).into_owned(),
            payload,
            queue,
            priority: new.priority,
            unique: new.unique.map(|key| bounds::key(&key, MOST_KEY).into_owned()),
            when: new.when,
            origin: lineage.request.clone(),
            trace: lineage.trace.clone(),
            parent: lineage.parent.clone(),
        })
    }
}

/// Returns the lineage of jobs that are enqueued now. Outside of all requests and tasks, they begin a trace together.
pub(super) fn current_lineage() -> LineageTexts {
    let lineage = Context::current().lineage.texts();
    LineageTexts { trace: lineage.trace.or_else(|| Some(TraceId::new().to_string())), ..lineage }
}

/// Returns the output of a job with that name, serialized.
///
/// # Errors
/// An error if it cannot be written as JSON or read again, or is too large.
pub(super) fn output_of(name: &str, value: &impl Serialize) -> Result<Output> {
    let unusable = |error: serde_json::Error, what| {
        Error::internal(format!("the output of the job `{name}` cannot be {what}")).with_source(error)
    };
    let output = Output::of(value).map_err(|error| unusable(error, "written as JSON"))?;
    if output.json().len() > MOST_PAYLOAD {
        return Err(too_large("output", name, output.json().len()));
    }
    // Of nested lists and objects, more can be written than read; a page would wait for the end of the job forever.
    serde_json::from_str::<Value>(output.json()).map_err(|error| unusable(error, "read again"))?;
    Ok(output)
}

fn too_large(what: &str, name: &str, bytes: usize) -> Error {
    let message = "store the data in a file or a table, and its id in the job";
    Error::internal(format!("the {what} of the job `{name}` has {bytes} bytes; the limit is {MOST_PAYLOAD}: {message}"))
}
