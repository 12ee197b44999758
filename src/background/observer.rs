//! Observers of the ends of requests, tasks and job attempts: the one point from which metrics, history and reports learn of
//! them.

use std::sync::Arc;
use std::time::Duration;

use super::failure::Failure;
use super::record::Record;
use super::request_info::RequestInfo;
use super::retry::ScheduledRetry;
use crate::error::Error;
use crate::worker_routes::RouteNumber;

/// The end of a request.
pub(crate) struct RequestEnd<'a> {
    pub(crate) info: &'a Arc<RequestInfo>,
    /// The number of the route, or [`NO_ROUTE`](crate::worker_routes::NO_ROUTE).
    pub(crate) route: RouteNumber,
    pub(crate) status: u16,
    pub(crate) elapsed: Duration,
    /// The number of tasks and jobs that the request itself has started, with those that are deferred until the response is
    /// sent.
    pub(crate) started: u32,
    /// The error that the log has as an error of the server.
    pub(crate) error: Option<&'a Error>,
}

/// The end of an attempt of a task or job. Mails and webhooks are sent by tasks and jobs.
pub(crate) struct AttemptEnded<'a> {
    pub(crate) record: &'a Arc<Record>,
    pub(crate) failure: Option<&'a Failure>,
    pub(crate) next: Next,
}

/// The next event of a task or job whose attempt has ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Next {
    /// None: the task or job has ended.
    End,
    /// Another attempt.
    Retry(ScheduledRetry),
    /// None: the job is dead after this number of attempts.
    Dead { attempts: u32 },
}

/// An observer of the work of one application. Its methods are called on the threads of that work, so they are short and do
/// not block. A panic is caught and discarded.
pub(crate) trait Observer: Send + Sync + 'static {
    /// Called once for each request, after its response is finished and before the transport writes it.
    fn request_ended(&self, _end: &RequestEnd<'_>) {}

    /// Called every ten seconds in a process that runs jobs, with the time for which the job has waited that has waited
    /// longest in any queue that is not paused.
    fn queues_observed(&self, _latency: Duration) {}

    /// Called once for each attempt, after it is logged and before a caller that waits for the end continues.
    fn attempt_ended(&self, _end: &AttemptEnded<'_>) {}
}
