//! The newest requests of an application, in memory: what the panel's page of a request shows of the request itself.
//!
//! Views of pages come in bursts, and must not push out the requests that an operator looks for. So there are two rings: of
//! the newest [`NOTABLE`] requests that failed or started tasks or jobs, and of the newest [`PLAIN`] of all others. Both
//! have a fixed size, and an entry has at most about 4 kB: the request of an observer is shared, unless its path is long.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::failure::Failure;
use super::observer::{Observer, RequestEnd};
use super::request_info::RequestInfo;
use super::trace_id::TraceId;
use crate::bounds;
use crate::error::Error;
use crate::sync::lock;
use crate::worker_routes::RouteNumber;

/// The number of retained requests that failed or started work.
pub(crate) const NOTABLE: usize = 500;

/// The number of other retained requests.
pub(crate) const PLAIN: usize = 1_000;

/// The number of locks of a ring, so that workers rarely wait for each other. It divides both numbers.
const SHARDS: usize = 4;

/// The longest stored path, method and error, in bytes.
const LONGEST_PATH: usize = 200;
const LONGEST_METHOD: usize = 30;
const LONGEST_ERROR: usize = 2_000;

/// A request that has ended.
#[derive(Clone)]
pub(crate) struct EndedRequest {
    pub(crate) info: Arc<RequestInfo>,
    route: RouteNumber,
    pub(crate) status: u16,
    ended_at: SystemTime,
    pub(crate) elapsed: Duration,
    /// The number of tasks and jobs that the request itself started.
    pub(crate) started: u32,
    pub(crate) error: Option<Arc<RequestError>>,
}

/// The error of a request that the log has as one of the server.
pub(crate) struct RequestError {
    pub(crate) message: String,
    /// The location in the application's code, if it is known.
    pub(crate) location: Option<String>,
}

impl EndedRequest {
    fn of(end: &RequestEnd<'_>) -> EndedRequest {
        let RequestEnd { info, route, status, elapsed, started, error } = *end;
        let ended_at = SystemTime::now();
        let error = error.map(|error| Arc::new(RequestError::of(error)));
        EndedRequest { info: bounded(info), route, status, ended_at, elapsed, started, error }
    }

    /// Returns the time at which the request began.
    pub(crate) fn began_at(&self) -> SystemTime {
        self.ended_at.checked_sub(self.elapsed).unwrap_or(self.ended_at)
    }

    /// Returns true if the server failed to respond properly.
    pub(crate) fn has_failed(&self) -> bool {
        self.error.is_some() || is_failure(self.status)
    }
}

/// Returns true for a failure of the server. A refused request (503 of overload, 501) has no error in the log, and comes in
/// masses.
fn is_failure(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 503)
}

impl RequestError {
    fn of(error: &Error) -> RequestError {
        let failure = error.source().and_then(|source| source.downcast_ref::<Failure>());
        let message = failure.map_or_else(|| error.chain(), Failure::verdict);
        let location = failure.map_or_else(|| error.own_location(), Failure::location);
        RequestError { message: bounds::shorten(&message, LONGEST_ERROR).into_owned(), location }
    }
}

/// Returns the request, with a shorter path if that is long.
fn bounded(info: &Arc<RequestInfo>) -> Arc<RequestInfo> {
    if info.path.len() <= LONGEST_PATH && info.method.len() <= LONGEST_METHOD {
        return info.clone();
    }
    let (method, path) = (bounds::shorten(&info.method, LONGEST_METHOD), bounds::shorten(&info.path, LONGEST_PATH));
    Arc::new(RequestInfo::new(&method, &path, &info.id, info.trace))
}

/// The newest requests of an application.
pub(crate) struct RequestLog {
    plain: Ring,
    notable: Ring,
    /// The labels of the routes, by number.
    routes: Vec<String>,
    /// The path below which a request is retained only if it failed: the panel's own pages are requested again and again.
    quiet: &'static str,
}

impl RequestLog {
    /// Creates an empty log. `routes` are the labels of the routes, in order.
    pub(crate) fn new(routes: Vec<String>, quiet: &'static str) -> RequestLog {
        RequestLog { plain: Ring::of(PLAIN), notable: Ring::of(NOTABLE), routes, quiet }
    }

    /// Returns the retained requests, the newest first.
    pub(crate) fn all(&self) -> Vec<EndedRequest> {
        self.find(|_| true)
    }

    /// Returns the retained requests of a trace, the newest first: several if another site passes on one trace.
    pub(crate) fn of_trace(&self, trace: TraceId) -> Vec<EndedRequest> {
        self.find(|request| request.info.trace == trace)
    }

    /// Returns the pattern of a request's route: `/orders/{id}`.
    pub(crate) fn route(&self, request: &EndedRequest) -> Option<&str> {
        self.routes.get(request.route).map(String::as_str)
    }

    fn find(&self, is_wanted: impl Fn(&EndedRequest) -> bool) -> Vec<EndedRequest> {
        let mut found = Vec::new();
        [&self.plain, &self.notable].into_iter().for_each(|ring| ring.collect(&is_wanted, &mut found));
        found.sort_by_key(|request| std::cmp::Reverse(request.ended_at));
        found
    }
}

impl Observer for RequestLog {
    fn request_ended(&self, end: &RequestEnd<'_>) {
        let request = EndedRequest::of(end);
        if request.started > 0 || request.has_failed() {
            self.notable.push(request);
        } else if !request.info.path.starts_with(self.quiet) {
            self.plain.push(request);
        }
    }
}

/// A list that drops its oldest entry at the limit.
struct Ring {
    next: AtomicUsize,
    shards: [Mutex<VecDeque<EndedRequest>>; SHARDS],
    /// The limit of each shard.
    most: usize,
}

impl Ring {
    fn of(most: usize) -> Ring {
        Ring { next: AtomicUsize::new(0), shards: Default::default(), most: most / SHARDS }
    }

    /// Appends an entry. The shards take turns, so that together they have the newest ones.
    fn push(&self, request: EndedRequest) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % SHARDS;
        let mut shard = lock(&self.shards[turn]);
        let oldest = if shard.len() == self.most { shard.pop_front() } else { None };
        shard.push_back(request);
        // The last reference to a request is freed outside of the lock.
        drop(shard);
        drop(oldest);
    }

    fn collect(&self, is_wanted: impl Fn(&EndedRequest) -> bool, into: &mut Vec<EndedRequest>) {
        for shard in &self.shards {
            into.extend(lock(shard).iter().filter(|request| is_wanted(request)).cloned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> RequestLog {
        RequestLog::new(vec!["/orders".into()], "/_aside")
    }

    fn info(path: &str, id: &str) -> Arc<RequestInfo> {
        Arc::new(RequestInfo::new("GET", path, id, TraceId::new()))
    }

    fn end(log: &RequestLog, info: &Arc<RequestInfo>, status: u16, started: u32, error: Option<&Error>) {
        log.request_ended(&RequestEnd { info, route: 0, status, elapsed: Duration::ZERO, started, error });
    }

    #[test]
    fn a_burst_of_page_views_does_not_push_out_what_failed_or_started_work() {
        let log = log();
        let (worked, failed) = (info("/orders", "000001"), info("/orders", "000002"));
        end(&log, &worked, 303, 2, None);
        let error = Error::internal("the disk is full");
        end(&log, &failed, 500, 0, Some(&error));
        let views: Vec<_> = (0..3 * PLAIN).map(|number| info("/", &format!("{number:06x}"))).collect();
        views.iter().for_each(|view| end(&log, view, 200, 0, None));
        let all = log.all();
        assert_eq!(all.len(), PLAIN + 2);
        let newest: Vec<&Arc<RequestInfo>> = all.iter().take(PLAIN).map(|request| &request.info).collect();
        let expected: Vec<&Arc<RequestInfo>> = views.iter().rev().take(PLAIN).collect();
        assert_eq!(newest, expected);
        let found = log.of_trace(worked.trace);
        assert_eq!((found.len(), found[0].started, log.route(&found[0])), (1, 2, Some("/orders")));
        let error = log.of_trace(failed.trace)[0].error.clone().unwrap();
        assert_eq!(error.message, "the disk is full");
    }

    #[test]
    fn the_log_has_a_fixed_size() {
        let log = log();
        (0..NOTABLE + 20).for_each(|_| end(&log, &info("/orders", "1"), 500, 0, None));
        assert_eq!(log.all().len(), NOTABLE);
        let long = info(&format!("/{}", "é".repeat(4_000)), "2");
        end(&log, &long, 200, 0, None);
        let found = log.of_trace(long.trace);
        assert!(found[0].info.path.len() <= LONGEST_PATH + "…".len());
        assert_eq!((&found[0].info.id, found[0].info.trace), (&long.id, long.trace));
        let error = Error::internal("x".repeat(10_000_000));
        end(&log, &long, 500, 0, Some(&error));
        assert!(log.of_trace(long.trace)[0].error.as_ref().unwrap().message.len() < 2 * LONGEST_ERROR);
    }

    #[test]
    fn refused_requests_do_not_push_out_failures() {
        let log = log();
        let failed = info("/orders", "1");
        end(&log, &failed, 500, 0, None);
        (0..2 * NOTABLE).for_each(|_| end(&log, &info("/", "2"), 503, 0, None));
        assert_eq!(log.of_trace(failed.trace).len(), 1);
        assert!(log.all().iter().filter(|request| request.has_failed()).count() == 1);
    }

    #[test]
    fn the_pages_of_the_panel_are_retained_only_if_they_fail() {
        let log = log();
        end(&log, &info("/_aside/jobs", "1"), 200, 0, None);
        assert!(log.all().is_empty());
        end(&log, &info("/_aside/jobs", "1"), 500, 0, None);
        assert_eq!(log.all().len(), 1);
    }

    /// The path of a request that is being recorded is shared, and no text is made for it.
    #[test]
    fn a_request_is_shared_with_the_log() {
        let log = log();
        let view = info("/", "1");
        end(&log, &view, 200, 0, None);
        assert!(Arc::ptr_eq(&log.all()[0].info, &view));
    }
}
