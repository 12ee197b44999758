//! The metrics of an application: counters that requests and tasks add to, figures that are read when the metrics are, and
//! the last hour. `App::metrics` serves them in the text format of Prometheus.

mod history;
#[cfg(feature = "jobs")]
mod jobs;
#[cfg(not(feature = "jobs"))]
#[path = "jobs_absent.rs"]
mod jobs;
mod process;
mod requests;
pub(crate) mod text;
mod work;

use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

#[cfg_attr(not(feature = "panel"), allow(unused_imports, reason = "the panel shows them"))]
pub(crate) use self::history::{MINUTES, Minute};

use self::history::History;
use self::jobs::JobMetrics;
use self::requests::RequestMetrics;
use self::text::Text;
use self::work::WorkMetrics;
use crate::background::observer::{AttemptEnded, Observer, RequestEnd};
use crate::background::scope::Scope;
use crate::background::timer;

/// The metrics of one application in this process.
pub(crate) struct Metrics {
    requests: RequestMetrics,
    work: WorkMetrics,
    jobs: JobMetrics,
    history: History,
    server: OnceLock<Weak<dyn MeasuredServer>>,
}

/// A server with current numbers.
pub(crate) trait MeasuredServer: Send + Sync {
    fn numbers(&self) -> ServerNumbers;
}

/// The current numbers of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ServerNumbers {
    /// The requests whose handlers run.
    pub(crate) in_flight: usize,
    pub(crate) busy_workers: usize,
    pub(crate) workers: usize,
    /// The open connections, if the transport knows them.
    pub(crate) connections: Option<usize>,
    /// The responses that are being streamed, live pages included.
    pub(crate) streams: usize,
    pub(crate) live_pages: usize,
}

impl Metrics {
    /// Creates the metrics for the patterns of the routes, in their order; `true` beside one of any method.
    pub(crate) fn new<'p>(routes: impl Iterator<Item = (&'p str, bool)>) -> Arc<Metrics> {
        let metrics = Arc::new(Metrics {
            requests: RequestMetrics::new(routes),
            work: WorkMetrics::default(),
            jobs: JobMetrics::default(),
            history: History::new(Instant::now()),
            server: OnceLock::new(),
        });
        record_each_minute(Arc::downgrade(&metrics));
        metrics
    }

    /// Sets the server of the application.
    pub(crate) fn set_server(&self, server: Weak<dyn MeasuredServer>) {
        // Only a test has a second server with the same application. The first one stays.
        let _ = self.server.set(server);
    }

    /// Returns the last hour of this process, minute by minute, the oldest first. The last entry is the current minute,
    /// which is incomplete. Other processes of the same site are not included.
    pub(crate) fn last_hour(&self) -> [Minute; MINUTES] {
        self.history.snapshot(self.totals(), Instant::now())
    }

    /// Returns the numbers since the start.
    fn totals(&self) -> Minute {
        let requests = self.requests.totals();
        Minute {
            requests: requests.all,
            failed_requests: requests.failed,
            failed_attempts: self.work.failed_attempts(),
            resolved_jobs: self.work.resolved_jobs(),
            queue_latency: 0,
        }
    }

    /// Returns the metrics of an application in the text format of Prometheus. The job store has a second to answer.
    pub(crate) fn render(&self, scope: &Scope) -> String {
        let mut text = Text::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        text.family("aside_build_info", "gauge", "The version of aside, with the constant value 1.");
        text.sample("aside_build_info", &version, 1);
        self.requests.write(&mut text);
        if let Some(server) = self.server.get().and_then(Weak::upgrade) {
            server.numbers().write(&mut text);
        }
        write_tasks(scope, &mut text);
        self.work.write(&mut text);
        self.jobs.write(scope, &mut text);
        process::write(&mut text);
        text.into_string()
    }
}

impl Observer for Metrics {
    fn request_ended(&self, end: &RequestEnd<'_>) {
        self.requests.count(end.route, &end.info.method, end.status, end.elapsed);
    }

    fn attempt_ended(&self, ended: &AttemptEnded<'_>) {
        self.work.count(ended);
    }

    fn queues_observed(&self, latency: Duration) {
        self.history.observe_latency(latency);
    }
}

/// Records the end of each minute in the history, until the application is dropped.
fn record_each_minute(metrics: Weak<Metrics>) {
    let Some(held) = metrics.upgrade() else { return };
    timer::at(held.history.next(Instant::now()), move || {
        if let Some(metrics) = metrics.upgrade() {
            metrics.history.record(metrics.totals(), Instant::now());
            record_each_minute(Arc::downgrade(&metrics));
        }
    });
}

fn write_tasks(scope: &Scope, text: &mut Text) {
    let counts = scope.registry().counts();
    let running = counts.unfinished.saturating_sub(counts.queued);
    text.single(
        "aside_tasks_running",
        "gauge",
        "Background tasks and job attempts that have begun or wait for a retry.",
        running,
    );
    text.single("aside_tasks_waiting", "gauge", "Background tasks that wait for a thread.", counts.queued);
}

impl ServerNumbers {
    fn write(self, text: &mut Text) {
        let mut gauge = |name, help, value| text.single(name, "gauge", help, value);
        gauge("aside_http_requests_in_flight", "Requests whose handlers run.", self.in_flight);
        if let Some(connections) = self.connections {
            gauge("aside_http_connections", "Open connections of clients.", connections);
        }
        gauge("aside_streams", "Responses that are being streamed, live pages included.", self.streams);
        gauge("aside_live_pages", "Open pages that follow a state.", self.live_pages);
        let name = "aside_workers";
        text.family(name, "gauge", "Workers of the server by state.");
        text.sample(name, &[("state", "busy")], self.busy_workers);
        text.sample(name, &[("state", "idle")], self.workers.saturating_sub(self.busy_workers));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::failure::Failure;
    use crate::background::lineage::Lineage;
    use crate::background::observer::Next;
    use crate::background::record::Identity;
    use crate::background::registry::Registry;
    use crate::background::request_info::RequestInfo;
    use crate::background::trace_id::TraceId;
    use crate::config::Config;

    #[test]
    fn the_last_hour_has_requests_failures_and_resolved_jobs() {
        let metrics = Metrics::new([("/", false)].into_iter());
        let info = Arc::new(RequestInfo::new("GET", "/", "3f9a1c", TraceId::new()));
        for status in [200, 404, 500] {
            let elapsed = Duration::from_millis(3);
            let started = 0;
            metrics.request_ended(&RequestEnd { info: &info, route: 0, status, elapsed, started, error: None });
        }
        let registry = Registry::new(&Config::default());
        let task = registry.enter(Identity::test("task"), Lineage::default());
        let job = registry.enter(Identity { job: Some(1), ..Identity::test("job") }, Lineage::default());
        let failure = Some(&Failure::TimedOut);
        metrics.attempt_ended(&AttemptEnded { record: &task, failure, next: Next::End });
        metrics.attempt_ended(&AttemptEnded { record: &job, failure: None, next: Next::End });
        metrics.queues_observed(Duration::from_secs(7));
        let now =
            Minute { requests: 3, failed_requests: 1, failed_attempts: 1, resolved_jobs: 1, queue_latency: 7_000 };
        assert_eq!(metrics.last_hour()[MINUTES - 1], now);
    }

    /// The timer must not keep the metrics of an application that is gone.
    #[test]
    fn metrics_are_dropped_with_their_application() {
        let metrics = Arc::downgrade(&Metrics::new(std::iter::empty()));
        assert!(metrics.upgrade().is_none());
    }
}
