//! Failures in the child process of an isolated function or job, on their way to the parent, which reports them.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::rate::Dropped;
use super::report::{Cause, FailureKind, FailureReport};
use crate::background::lineage::LineageTexts;
use crate::error::backtraces::Trace;

/// A report as it is sent to the parent.
#[derive(Serialize, Deserialize)]
pub(super) struct ForwardedReport {
    /// The key of equal failures.
    pub(super) key: u64,
    kind: String,
    name: String,
    messages: Vec<String>,
    is_panic: bool,
    location: Option<String>,
    is_location_of_start: bool,
    lineage: LineageTexts,
    attempt: Option<u32>,
    attempts: Option<u32>,
    next_attempt: Option<Duration>,
    elapsed: Duration,
    time: SystemTime,
    group: String,
    backtrace: Option<String>,
}

impl ForwardedReport {
    pub(super) fn new(key: u64, report: &FailureReport) -> ForwardedReport {
        let (request, trace) = (report.request.as_ref().map(ToString::to_string), Some(report.trace.to_string()));
        ForwardedReport {
            key,
            kind: report.kind.to_string(),
            name: report.name.clone(),
            messages: std::iter::once(&report.message).chain(&report.causes).cloned().collect(),
            is_panic: report.is_panic,
            location: report.location.clone(),
            is_location_of_start: report.is_location_of_start,
            lineage: LineageTexts { request, trace, parent: None },
            attempt: report.attempt,
            attempts: report.attempts,
            next_attempt: report.next_attempt,
            elapsed: report.elapsed,
            time: report.time,
            group: report.group.clone(),
            backtrace: report.backtrace().map(str::to_owned),
        }
    }

    /// Returns the report in the parent, where the task with the number `task` makes the call.
    pub(super) fn report(self, task: u64, dropped: Arc<Dropped>) -> FailureReport {
        let lineage = self.lineage.parse();
        let (messages, is_panic) = (self.messages, self.is_panic);
        let cause =
            Cause { messages, is_panic, location: self.location, backtrace: self.backtrace.map(Trace::from_text) };
        let report = cause.report(self.name, None, dropped);
        FailureReport {
            // A child runs no other job than that of the call, whose end the parent reports.
            kind: [FailureKind::Mail, FailureKind::Webhook]
                .into_iter()
                .find(|kind| kind.to_string() == self.kind)
                .unwrap_or(FailureKind::Task),
            trace: lineage.trace.unwrap_or(report.trace),
            request: lineage.request,
            task: Some(task),
            attempt: self.attempt,
            attempts: self.attempts,
            next_attempt: self.next_attempt,
            elapsed: self.elapsed,
            time: self.time,
            is_location_of_start: self.is_location_of_start,
            group: self.group,
            ..report
        }
    }
}
