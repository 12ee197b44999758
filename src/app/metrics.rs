//! The address at which an application serves its metrics.

use std::panic::Location;
use std::sync::Arc;

use super::App;
use super::parts::Handler;
use super::routing;
use crate::background::panics;
use crate::error::{Error, Status};
use crate::http::error_pages;
use crate::http::request::{Method, Request};
use crate::http::response::Response;
use crate::http::router::{BUILTIN, Route};
use crate::log_text::escape;
use crate::metrics::{Metrics, text};

/// An address of the metrics, with its authorization.
pub(super) struct MetricsAddress {
    path: String,
    authorize: Authorize,
    location: &'static Location<'static>,
}

type Authorize = Box<dyn Fn(&mut Request) -> bool + Send + Sync>;

impl MetricsAddress {
    /// Returns the address below another path.
    pub(super) fn below(self, prefix: &str) -> MetricsAddress {
        MetricsAddress { path: format!("{prefix}{}", self.path), ..self }
    }
}

impl App {
    /// Serves metrics at a path, in the text format of Prometheus, to clients for which a function returns true.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request};
    ///
    /// let token = "Bearer 9sQ-w2Lx_7TzVb4KcRm8"; // from a file or a variable
    /// let app = App::new()
    ///     .metrics("/metrics", move |req: &mut Request| req.header("Authorization") == Some(token))
    ///     .get("/orders/{id}", |req: &mut Request| req.param::<String>("id"));
    ///
    /// let mut client = TestClient::new(app);
    /// client.get("/orders/17");
    /// let metrics = client.request("GET", "/metrics").header("Authorization", token).send();
    /// let line = r#"aside_http_requests_total{method="GET",route="/orders/{id}",status="200"} 1"#;
    /// assert!(metrics.text().lines().any(|has| has == line));
    /// assert_eq!(client.get("/metrics").status_code().code(), 404);
    /// ```
    ///
    /// All other clients get the site's 404, or its [`fallback`](App::fallback). The function is called for each request to the
    /// path, after the site's [`before`](App::before) hooks. If it panics, the panic is logged and access is denied. The path
    /// is served for every host name, since Prometheus requests a site by its address.
    ///
    /// In development the metrics are also at `/_aside/metrics`, without any of this, for clients on the same machine.
    ///
    /// | Series | |
    /// |---|---|
    /// | `aside_http_requests_total` | requests by `method`, `route` (its pattern; `none` for paths without a route) and `status` |
    /// | `aside_http_request_duration_seconds` | histogram by `route` |
    /// | `aside_http_requests_in_flight`, `aside_http_connections`, `aside_workers`, `aside_streams`, `aside_live_pages` | current numbers of the server; connections only over `epoll` |
    /// | `aside_tasks_total`, `aside_task_retries_total`, `aside_task_duration_seconds` | background tasks by `name` and `outcome` (`done`, `failed`, `panicked`, `timed_out`, `cancelled`, `abandoned`) |
    /// | `aside_tasks_running`, `aside_tasks_waiting` | current numbers, with attempts of jobs |
    /// | `aside_job_attempts_total`, `aside_job_attempt_duration_seconds` | attempts of jobs by `name` and `outcome` (`done`, `retried`, `dead`, `failed`, `cancelled`, `abandoned`) |
    /// | `aside_mails_total`, `aside_webhooks_total` | attempts to send one in the background, by `outcome` (`sent`, `retried`, `failed`, `cancelled`) |
    /// | `aside_jobs`, `aside_dead_jobs`, `aside_queue_waiting_jobs`, `aside_queue_running_jobs`, `aside_queue_latency_seconds`, `aside_queue_paused` | the job store, by `state`, `reason` (`failed`, `panicked`, `timed_out`, `abandoned`) or `queue` |
    /// | `aside_jobs_up` | 0 if the job store does not answer within a second; then the series of the store are missing |
    /// | `aside_build_info` | 1, with the `version` of aside |
    /// | `process_…` | memory, CPU, threads, descriptors and start time, on Linux |
    ///
    /// Counters count in this process, since its start. The job store may serve several processes, and each reports the whole
    /// store. No label has a value that a client controls, except where the name of a task contains one; at most 200 names of
    /// tasks and 200 of jobs have series of their own, and the others count as `other`.
    #[track_caller]
    pub fn metrics<F>(mut self, path: &str, authorize: F) -> App
    where
        F: Fn(&mut Request) -> bool + Send + Sync + 'static,
    {
        let (path, authorize, location) = (path.to_owned(), Box::new(authorize), Location::caller());
        self.metrics.push(MetricsAddress { path, authorize, location });
        self
    }

    /// Adds the routes of the metrics, including that for the developer.
    pub(super) fn add_metrics(&mut self) {
        let own = std::mem::take(&mut self.metrics);
        let path = format!("{BUILTIN}/metrics");
        if self.is_in_development() && !own.iter().any(|address| address.path == path) {
            let handler = self.metrics_handler(&path, Box::new(|req| error_pages::shows_details(req)));
            routing::any(move |req: &mut Request| handler(req)).into_routes(&path).for_each(|route| self.add(route));
        }
        for MetricsAddress { path, authorize, location } in own {
            let handler = self.metrics_handler(&path, authorize);
            let routes = routing::any(move |req: &mut Request| handler(req)).any_host();
            routes.into_routes(&path).for_each(|route| self.add(Route { location, ..route }));
        }
    }

    /// Returns a handler that serves the metrics to authorized clients, and the page for a path without a route to others.
    fn metrics_handler(&self, path: &str, authorize: Authorize) -> Handler {
        let not_found = self.fallback_at(path);
        Arc::new(move |req| match is_allowed(&authorize, req) {
            true => page(req),
            false => match &not_found {
                Some(fallback) => fallback(req),
                None => Response::from_error(Status::NOT_FOUND.into()),
            },
        })
    }
}

fn is_allowed(authorize: &Authorize, req: &mut Request) -> bool {
    panics::catch(|| authorize(req)).unwrap_or_else(|panic| {
        let message = format!("The function of `App::metrics` panicked, and access is denied: {panic}");
        log::error!(target: "aside::metrics", "{}", escape(&message));
        false
    })
}

fn page(req: &mut Request) -> Response {
    if !matches!(req.method(), Method::Get | Method::Head) {
        let error = Error::new(Status::METHOD_NOT_ALLOWED, "This page accepts GET and HEAD.");
        return Response::from_error(error).header("Allow", "GET, HEAD");
    }
    let scope = req.scope();
    let metrics = scope.get::<Arc<Metrics>>();
    let body = metrics.map_or(String::new(), |metrics| metrics.render(&scope));
    Response::text(body).header("Content-Type", text::CONTENT_TYPE).header("Cache-Control", "no-store")
}
