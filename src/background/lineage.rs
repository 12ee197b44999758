//! The descent of work: its request, its trace, and the work that started it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::request_info::RequestInfo;
use super::trace_id::TraceId;

/// The descent of work: passed from a request to its tasks and jobs, and to theirs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lineage {
    pub(crate) request: Option<Arc<RequestInfo>>,
    /// The trace; `None` for work without a request, whose first task begins a trace of its own.
    pub(crate) trace: Option<TraceId>,
    /// The work that starts other work in this context; `None` for the request itself, and outside of all work.
    pub(crate) parent: Option<Parent>,
}

impl Lineage {
    /// Returns the lineage of work that a request starts.
    pub(crate) fn of(request: &Arc<RequestInfo>) -> Lineage {
        Lineage { request: Some(request.clone()), trace: Some(request.trace), parent: None }
    }

    /// Returns the texts that a job store and a child process receive.
    pub(crate) fn texts(&self) -> LineageTexts {
        LineageTexts {
            request: self.request.as_ref().map(ToString::to_string),
            trace: self.trace.as_ref().map(ToString::to_string),
            parent: self.parent.as_ref().map(ToString::to_string),
        }
    }
}

/// A lineage as text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LineageTexts {
    /// `POST /orders 3f9a1c`.
    pub(crate) request: Option<String>,
    /// 32 hexadecimal digits.
    pub(crate) trace: Option<String>,
    /// `job 4`.
    pub(crate) parent: Option<String>,
}

impl LineageTexts {
    /// Returns the lineage. A text that is not valid counts as missing.
    pub(crate) fn parse(&self) -> Lineage {
        let trace = self.trace.as_deref().and_then(TraceId::parse);
        let request = self.request.as_deref().and_then(RequestInfo::parse);
        let request = request.map(|info| Arc::new(RequestInfo { trace: trace.unwrap_or(info.trace), ..info }));
        let trace = trace.or_else(|| request.as_ref().map(|info| info.trace));
        Lineage { request, trace, parent: self.parent.as_deref().and_then(Parent::parse) }
    }
}

/// The work that started other work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parent {
    /// The task of this number, in this process.
    Task(u64),
    /// The job with this id.
    Job(u64),
    /// A hook of `App::on_failure`, directly or through other work. Its failures are not reported to the hook.
    FailureHook,
}

impl Parent {
    /// Parses the display form.
    pub(crate) fn parse(text: &str) -> Option<Parent> {
        match text.split_once(' ')? {
            ("task", id) => id.parse().ok().map(Parent::Task),
            ("job", id) => id.parse().ok().map(Parent::Job),
            ("failure", "hook") => Some(Parent::FailureHook),
            _ => None,
        }
    }
}

/// The form in the job store: `task 17`, `job 4`, `failure hook`.
impl fmt::Display for Parent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Parent::Task(id) => write!(f, "task {id}"),
            Parent::Job(id) => write!(f, "job {id}"),
            Parent::FailureHook => f.write_str("failure hook"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lineage_is_parsed_from_the_texts_of_a_stored_job() {
        for parent in [Parent::Task(17), Parent::Job(u64::MAX), Parent::FailureHook] {
            assert_eq!(Parent::parse(&parent.to_string()), Some(parent));
        }
        assert!(["", "task", "task x", "job -1", "failure"].iter().all(|text| Parent::parse(text).is_none()));
        let trace = TraceId::new();
        let request = Some(Arc::new(RequestInfo::new("POST", "/orders", "3f9a1c", trace)));
        let texts = Lineage { request, trace: Some(trace), parent: Some(Parent::Job(4)) }.texts();
        assert_eq!(texts.request.as_deref(), Some("POST /orders 3f9a1c"));
        let lineage = texts.parse();
        assert_eq!((lineage.trace, lineage.parent), (Some(trace), Some(Parent::Job(4))));
        assert_eq!(lineage.request.unwrap().trace, trace);
        let without = LineageTexts::default().parse();
        assert!(without.trace.is_none() && without.request.is_none());
    }
}
