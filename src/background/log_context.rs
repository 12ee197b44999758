//! The context that a logger adds to the lines that an application logs in requests, tasks and jobs.

use std::sync::Arc;

use super::log_fields::LogFields;
use super::record::Record;
use super::request_info::RequestInfo;
use super::scope;
use super::trace_id::TraceId;

/// The request and the work that this thread runs.
#[derive(Default)]
pub(crate) struct ThreadContext {
    request: Option<Arc<RequestInfo>>,
    trace: Option<TraceId>,
    task: Option<Arc<Record>>,
}

impl ThreadContext {
    /// Returns the context of this thread; an empty one outside of requests and tasks.
    pub(crate) fn current() -> ThreadContext {
        scope::with_current(|context| ThreadContext {
            request: context.lineage.request.clone(),
            trace: context.lineage.trace,
            task: context.task.clone(),
        })
        .unwrap_or_default()
    }

    /// Returns the fields of a line that is logged in the context.
    pub(crate) fn fields(&self) -> LogFields<'_> {
        LogFields {
            request: self.request.as_ref().map(|request| request.id.as_str()),
            trace: self.trace,
            task: self.task.as_ref().map(|task| task.id),
            job: self.task.as_ref().and_then(|task| task.job),
            attempt: self.task.as_ref().and_then(|task| task.attempt()),
            ..LogFields::default()
        }
    }
}

/// The request and the work that a thread runs, for a logger of the application: the values of the fields `request`, `trace`,
/// `task`, `job` and `attempt`, which the built-in logger adds to each line in the format JSON.
///
/// ```
/// use aside::tasks::LogContext;
/// use aside::testing::TestClient;
/// use aside::{App, Request};
///
/// let app = App::new().get("/", |_: &mut Request| LogContext::current().request.unwrap_or_default());
/// let response = TestClient::new(app).get("/");
/// assert_eq!(response.header("X-Request-Id"), Some(response.text()));
/// assert_eq!(LogContext::current().request, None);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogContext {
    /// The id of the request, as in the access log; in a task or job, of the request that started it.
    pub request: Option<String>,
    /// The id of the trace: the request with all the work that comes from it.
    pub trace: Option<TraceId>,
    /// The number of the task.
    pub task: Option<u64>,
    /// The id of the job that the task is an attempt of.
    pub job: Option<u64>,
    /// The number of the attempt of the job or task, from 1.
    pub attempt: Option<u32>,
}

impl LogContext {
    /// Returns the context of this thread. Outside of requests and tasks all its fields are `None`.
    pub fn current() -> LogContext {
        let context = ThreadContext::current();
        let LogFields { request, trace, task, job, attempt, .. } = context.fields();
        LogContext { request: request.map(str::to_owned), trace, task, job, attempt }
    }
}
