//! The service: dispatches a request to middleware and a handler, and finishes the response.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use log::Level;
use serde_json::{Value, json};

use super::middleware::{self, Middleware};
use super::parts::{Handler, Part};
use crate::background::failure::Failure;
use crate::background::log_fields::{self, ErrorList, LogFields};
use crate::background::observer::RequestEnd;
use crate::background::panics;
use crate::background::registry;
use crate::background::scope::Scope;
use crate::config::Config;
use crate::error::backtraces::Trace;
use crate::error::{Detail, Error, Status, location};
use crate::http::error_pages;
use crate::http::files::compression::{self, CompressedFiles};
use crate::http::forms::{idempotency, refused_form};
use crate::http::headers::Headers;
#[cfg(unix)]
use crate::http::live_reload::LiveReload;
use crate::http::request::{Method, Request};
use crate::http::response::{IntoResponse, Json, Response};
use crate::http::router::{Found, Router};
use crate::http::security::rate_limit::TooSoon;
use crate::http::security::{Exemptions, Security};
use crate::http::{cache_control, language, session};
use crate::jobs::Jobs;
use crate::log_text::{escape, span};
use crate::random;
use crate::worker_routes::{self, NO_ROUTE, RouteNumber};
use crate::worker_share::{Busy, RETRY_AFTER};

/// The handler of a route, with the route's options.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub(crate) handler: Handler,
    pub(crate) name: Option<String>,
    pub(crate) exemptions: Exemptions,
    pub(crate) middleware: Vec<Middleware>,
    /// True once a request to the route has started a background task.
    pub(crate) starts_tasks: Arc<AtomicBool>,
}

/// Erases the type of a handler, so that the router can store it.
pub(crate) fn handler<F, R>(f: F) -> Handler
where
    F: Fn(&mut Request) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    Arc::new(move |request| f(request).into_response())
}

/// A started application: turns a request into a response, without knowledge of sockets.
pub(crate) struct Service {
    config: Arc<Config>,
    pub(super) router: Router<Endpoint>,
    /// The site itself first, then the mounted applications, those with longer paths last.
    parts: Vec<Part>,
    security: Security,
    scope: Scope,
    ids: Ids,
    compressed_files: CompressedFiles,
    /// Present under `aside dev`.
    #[cfg(unix)]
    live_reload: Option<Arc<LiveReload>>,
}

impl Service {
    pub(super) fn new(
        config: Arc<Config>,
        router: Router<Endpoint>,
        mut parts: Vec<Part>,
        security: Security,
        scope: Scope,
    ) -> Service {
        parts.sort_by_key(|part| part.prefix.len());
        let compressed_files = CompressedFiles::within(config.max_compressed);
        Service {
            #[cfg(unix)]
            live_reload: scope.get::<LiveReload>().filter(|_| config.is_development()),
            config,
            router,
            parts,
            security,
            scope,
            ids: Ids::new(),
            compressed_files,
        }
    }

    /// Returns the settings.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the method and the pattern of a route: `POST /orders/{id}`.
    pub(crate) fn route_label(&self, number: RouteNumber) -> String {
        let route = self.router.routes().get(number);
        route.map_or_else(|| "paths without a route".to_owned(), |route| format!("{} {}", route.verb(), route.pattern))
    }

    /// Returns the tasks, the mailer and all other values of the application.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Returns the address of the client that sent these headers.
    pub(crate) fn client_of(&self, headers: &Headers, peer: Option<SocketAddr>) -> Option<IpAddr> {
        self.security.client_of(headers, peer)
    }

    /// Dispatches a request and returns the finished response. It never panics: a handler's panic becomes a response.
    pub(crate) fn handle(&self, request: Request) -> Response {
        self.respond(request, |request| self.dispatch(request))
    }

    /// Returns the finished response to a request that a transport refuses. No handler of the application sees the request.
    pub(crate) fn refuse(&self, request: Request, error: Error) -> Response {
        let error = match error.status_code().is_server_error() && error.find_source::<Busy>().is_none() {
            true => error.with_source(Unsupported),
            false => error,
        };
        self.respond(request, |_| Response::from_error(error))
    }

    fn respond(&self, mut request: Request, answer: impl FnOnce(&mut Request) -> Response) -> Response {
        let (began, started) = (Instant::now(), registry::started_here());
        request.admit(self.scope.clone(), self.config.clone(), self.ids.next());
        self.security.identify(&mut request);
        let _entered = request.context().enter();
        let outer = refused_form::begin(self.config.is_development());
        let response = caught(|| answer(&mut request));
        if let Some(errors) = refused_form::end(outer) {
            self.log_refused_form(&request, &errors);
        }
        let response = self.finish(&mut request, response, began, started);
        // The headers may contain values of the application's types.
        panics::discard(request);
        response
    }

    /// Runs the security middleware, the before-hooks, the middleware and the handler.
    fn dispatch(&self, request: &mut Request) -> Response {
        let found = self.router.find(request.method(), request.path());
        let number = if let Found::Route(_, number, _) = &found { *number } else { NO_ROUTE };
        let _in_handler = worker_routes::enter_handler(number);
        let unknown = Exemptions::default();
        let exemptions = if let Found::Route(endpoint, ..) = &found { &endpoint.exemptions } else { &unknown };
        if let Err(error) = self.security.check(request, exemptions) {
            return Response::from_error(error);
        }
        if let Some(answer) = self.before(request) {
            return answer;
        }
        let endpoint = if let Found::Route(endpoint, ..) = &found { Some(*endpoint) } else { None };
        let middleware = self.middleware(request.path(), endpoint);
        match found {
            Found::Route(endpoint, number, params) => {
                request.set_route(number, params);
                self.run_route(endpoint, &middleware, request)
            }
            Found::OtherMethods(methods) => {
                middleware::run(&middleware, request, &|request| other_methods(request.method(), &methods))
            }
            Found::Nothing => middleware::run(&middleware, request, &|request| self.fallback(request)),
        }
    }

    /// Runs the middleware and the handler of a route. While too many background tasks wait, a route that starts some is refused
    /// before its handler does anything.
    fn run_route(&self, endpoint: &Endpoint, middleware: &[&Middleware], request: &mut Request) -> Response {
        let starts_tasks = endpoint.starts_tasks.load(Ordering::Relaxed);
        if starts_tasks && let Err(error) = self.scope.registry().check_queue() {
            return Response::from_error(error);
        }
        let entered = registry::entered_here();
        let response = middleware::run(middleware, request, &*endpoint.handler);
        if !starts_tasks && (response.deferred() > 0 || registry::entered_here() != entered) {
            endpoint.starts_tasks.store(true, Ordering::Relaxed);
        }
        response
    }

    /// Returns the middleware of a path and its route, the outermost first.
    fn middleware<'s>(&'s self, path: &str, endpoint: Option<&'s Endpoint>) -> Vec<&'s Middleware> {
        let parts = self.parts.iter().filter(|part| !part.middleware.is_empty() && part.holds(path));
        let of_the_route = endpoint.into_iter().flat_map(|endpoint| &endpoint.middleware);
        parts.flat_map(|part| &part.middleware).chain(of_the_route).collect()
    }

    /// Returns the first response of a before-hook.
    fn before(&self, request: &mut Request) -> Option<Response> {
        let parts = self.parts.iter().filter(|part| !part.before.is_empty());
        parts
            .flat_map(|part| part.before.iter().map(move |hook| (part, hook)))
            .find_map(|(part, hook)| if part.holds(request.path()) { hook(request) } else { None })
    }

    fn fallback(&self, request: &mut Request) -> Response {
        match self.innermost(request.path(), |part| part.fallback.as_ref()) {
            Some(fallback) => fallback(request),
            None => Response::from_error(Status::NOT_FOUND.into()),
        }
    }

    /// Returns the value of the innermost part that contains the path and has such a value.
    fn innermost<'s, T>(&'s self, path: &str, has: impl Fn(&'s Part) -> Option<&'s T>) -> Option<&'s T> {
        self.parts.iter().rev().filter(|part| part.holds(path)).find_map(has)
    }

    /// Finishes a response: error page, after-hooks, session, compression, headers, access log.
    /// `started` is the number of tasks and jobs that this thread had started before.
    fn finish(&self, request: &mut Request, response: Response, began: Instant, started: u32) -> Response {
        let mut failure = None;
        let mut response = self.render_error(request, response, &mut failure);
        self.after(request, &mut response);
        session::save(request, &mut response);
        language::vary(request, &mut response);
        idempotency::save(request, &mut response);
        #[cfg(unix)]
        self.live_reload.iter().for_each(|reload| reload.add_script(request, &mut response));
        compression::compress(request, &mut response, &self.compressed_files);
        let mut response = self.render_error(request, response, &mut failure);
        self.security.protect(request, &mut response);
        #[cfg(unix)]
        self.live_reload.iter().for_each(|reload| reload.allow_script(request, &mut response));
        let (status, is_for_options) = (response.status_code().code(), *request.method() == Method::Options);
        cache_control::complete(response.headers_mut(), status, is_for_options);
        response.headers_mut().put("X-Request-Id", request.id().to_owned());
        self.log_access(request, &response, began);
        let (info, route, elapsed) = (request.origin(), request.route(), began.elapsed());
        self.warn_if_slow(request, status, elapsed);
        let started = registry::started_here().wrapping_sub(started) + response.deferred();
        self.report(&RequestEnd { info, route, status, elapsed, started, error: failure.as_ref() });
        response
    }

    /// Tells the observers that a request has ended.
    fn report(&self, end: &RequestEnd<'_>) {
        for observer in self.scope.registry().observers() {
            let _ = panics::catch(|| observer.request_ended(end));
        }
    }

    fn after(&self, request: &mut Request, response: &mut Response) {
        for part in self.parts.iter().rev().filter(|part| !part.after.is_empty()) {
            if !part.holds(request.path()) {
                continue;
            }
            if let Err(panic) = panics::catch(|| part.after.iter().for_each(|hook| hook(request, response))) {
                response.fail(Failure::Panic(panic).into());
            }
        }
    }

    /// Replaces a response that carries an error with the error's page. The deferred tasks of the response stay, and so do
    /// its headers, except those that describe its body. `failure` receives an error that is logged as one of the server.
    fn render_error(&self, request: &mut Request, mut response: Response, failure: &mut Option<Error>) -> Response {
        let Some(error) = response.take_error() else { return response };
        // Errors of overload are logged elsewhere, once a minute. For errors of the client the access log is enough.
        let is_busy = error.find_source::<Busy>().is_some();
        let is_failure =
            error.status_code().is_server_error() && !is_busy && error.find_source::<Unsupported>().is_none();
        if is_failure {
            self.log_error(request, &error);
        }
        if error.find_source::<Detail>().is_some() {
            self.log_refusal(request, &error);
        }
        let wait = error.find_source::<TooSoon>().map(|soon| soon.seconds);
        let wait = wait.or(is_busy.then_some(RETRY_AFTER.into()));
        wait.iter().for_each(|seconds| response.headers_mut().set("Retry-After", seconds.to_string()));
        let page = self.error_page(request, &error).with_deferred(response.take_deferred());
        let of_the_body = |name: &str| name.to_ascii_lowercase().starts_with("content-");
        let others = response.headers().iter().filter(|(name, _)| !of_the_body(name) && !page.headers().contains(name));
        let others: Vec<_> = others.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if is_failure {
            *failure = Some(error);
        }
        others.into_iter().fold(page, |page, (name, value)| page.append_header(&name, value))
    }

    /// Renders the site's own page for an error, or the built-in one.
    fn error_page(&self, request: &mut Request, error: &Error) -> Response {
        let status = error.status_code();
        let own = self.innermost(request.path(), |part| part.error_pages.get(&status.code()));
        let is_for_others = request.wants_json() || (status.is_server_error() && error_pages::shows_details(request));
        let own = own.filter(|_| !is_for_others);
        let Some(own) = own else { return error_pages::error_page(request, error) };
        let mut page = caught(|| own(request, error));
        if let Some(second) = page.take_error() {
            self.log_error(request, &second.context(format!("cannot render the site's error page for {status}")));
            return error_pages::error_page(request, error).with_deferred(page.take_deferred());
        }
        if !page.headers().contains("Cache-Control") {
            page.headers_mut().set("Cache-Control", "no-store");
        }
        page.status(status)
    }

    /// Logs an error of the server, with its location in the application's code: of the error, or else of its route.
    fn log_error(&self, request: &Request, error: &Error) {
        let failure = error.source().and_then(|source| source.downcast_ref::<Failure>());
        let what = failure.map_or_else(|| format!("failed: {}", error.chain()), Failure::verdict);
        let own = failure.map_or_else(|| error.own_location(), Failure::location).map(|own| format!(" (at {own})"));
        let of_route = || self.router.routes().get(request.route()).map(|route| location::text(route.location));
        let location = own.or_else(|| of_route().map(|route| format!(" (route at {route})")));
        let location = location.filter(|_| !failure.is_some_and(Failure::names_location)).unwrap_or_default();
        let line = format!("{} {what}{location}", request.origin());
        let fields = LogFields {
            error: Some(ErrorList(failure.map_or_else(|| error.messages(), Failure::causes))),
            location: failure.map_or_else(|| error.own_location(), Failure::place).or_else(of_route),
            backtrace: Trace::for_log(failure.map_or_else(|| error.trace(), Failure::trace)),
            status: Some(error.status_code().code()),
            ..self.log_fields(request)
        };
        log_fields::log("aside::http", Level::Error, &fields, format_args!("{}", escape(&line)));
    }

    /// Returns the fields of a log line about a request.
    fn log_fields<'a>(&'a self, request: &'a Request) -> LogFields<'a> {
        LogFields {
            request: Some(request.id()),
            trace: Some(request.trace()),
            method: Some(request.method().as_str()),
            route: self.router.routes().get(request.route()).map(|route| route.pattern.as_str()),
            path: Some(request.path()),
            ..LogFields::default()
        }
    }

    /// Logs what the developer needs to know of a refusal, beside the message for the user.
    fn log_refusal(&self, request: &Request, error: &Error) {
        let location = error.own_location();
        let at = location.as_ref().map_or(String::new(), |location| format!(" (at {location})"));
        let status = error.status_code().code();
        let line = format!("{} refused with {status}: {}{at}", request.origin(), error.chain());
        let (error, status) = (Some(ErrorList(error.messages())), Some(status));
        let fields = LogFields { error, location, status, ..self.log_fields(request) };
        log_fields::log("aside::http", Level::Info, &fields, format_args!("{}", escape(&line)));
    }

    /// Logs the messages of a form that the handler has refused. The page may not show them.
    fn log_refused_form(&self, request: &Request, errors: &str) {
        let line = format!("{}: form refused: {errors}", request.origin());
        let fields = self.log_fields(request);
        log_fields::log("aside::http", Level::Info, &fields, format_args!("{}", escape(&line)));
    }

    /// Logs a warning for a slow request.
    fn warn_if_slow(&self, request: &Request, status: u16, elapsed: Duration) {
        let Some(elapsed) = slow_time(request, elapsed) else { return };
        let route = self.router.routes().get(request.route());
        let location = route.map(|route| location::text(route.location));
        let at = location.as_ref().map_or(String::new(), |location| format!(" (route at {location})"));
        let line = format!(
            "Slow request: {} took {}, and the limit is {} (ASIDE_SLOW_REQUEST){at}",
            request.origin(),
            span(elapsed),
            span(self.config.slow_request)
        );
        let fields = LogFields { status: Some(status), duration: Some(elapsed), location, ..self.log_fields(request) };
        log_fields::log("aside::http", Level::Warn, &fields, format_args!("{}", escape(&line)));
    }

    fn log_access(&self, request: &Request, response: &Response, began: Instant) {
        let (status, elapsed) = (response.status_code().code(), began.elapsed());
        // Static files tell nothing about the site as long as they are found.
        let level = if response.is_asset && status < 400 { Level::Debug } else { Level::Info };
        if !log::log_enabled!(target: "aside::access", level) {
            return;
        }
        let client = request.client_ip();
        let from = client.map_or(String::new(), |client| format!(", {client}"));
        // The id needs no escape: an id from a proxy is used only if its characters are safe.
        let (method, path, id) = (escape(request.method().as_str()), escape(request.path()), request.id());
        let line = format_args!("{method} {path} {status} after {} ({id}{from})", span(elapsed));
        let fields = LogFields { status: Some(status), duration: Some(elapsed), client, ..self.log_fields(request) };
        log_fields::log("aside::access", level, &fields, line);
    }
}

/// Returns the time that a request took, if it counts as slow: without the time in which the client sent the body. The client
/// receives the response later.
fn slow_time(request: &Request, elapsed: Duration) -> Option<Duration> {
    let (limit, own) = (request.config().slow_request, elapsed.saturating_sub(request.body_read_time()));
    (!limit.is_zero() && own >= limit).then_some(own)
}

/// A marker for the refusal of a request that needs an unimplemented feature (501). The client causes it, so it is not an
/// error of the site.
#[derive(Debug)]
struct Unsupported;

impl fmt::Display for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request needs a feature that the server does not implement")
    }
}

impl std::error::Error for Unsupported {}

/// Returns the response of a function, or an error response if the function panics.
fn caught(f: impl FnOnce() -> Response) -> Response {
    panics::catch(f).unwrap_or_else(|panic| Response::from_error(Failure::Panic(panic).into()))
}

/// Returns the response for a path that has routes for other methods only: 405, or 204 to `OPTIONS`, with the methods in
/// `Allow`.
fn other_methods(method: &Method, methods: &[String]) -> Response {
    let allow = methods.join(", ");
    if *method == Method::Options {
        return Response::new().status(Status::NO_CONTENT).header("Allow", allow);
    }
    let message = "This page cannot be used in this way. Please go back, and try again.";
    let error = Error::new(Status::METHOD_NOT_ALLOWED, message);
    let detail = format!("{method} is not allowed here; allowed: {allow}");
    Response::from_error(error.with_detail(detail)).header("Allow", allow)
}

/// Returns the body of `/healthz`: the numbers of tasks by state, and the state of the job store.
pub(super) fn health(request: &Request) -> Value {
    let scope = request.scope();
    let counts = scope.registry().counts();
    let outage = scope.get::<Jobs>().map(|jobs| jobs.outage());
    let mut health = json!({
        "status": if outage.flatten().is_some() { "degraded" } else { "ok" },
        "running": counts.unfinished.saturating_sub(counts.queued),
        "waiting": counts.queued,
        "succeeded": counts.done(),
        "failed": counts.failed,
        "panicked": counts.panicked,
        "abandoned": counts.abandoned,
        "cancelled": counts.cancelled,
        "timed_out": counts.timed_out,
    });
    if let Some(outage) = outage {
        health["jobs"] = outage.unwrap_or("ok").into();
    }
    health
}

/// Returns the readiness response: 200, or 503 with reasons that reveal no internals.
pub(super) fn readiness(request: &Request) -> Response {
    let scope = request.scope();
    let stopping = scope.registry().is_stopping().then(|| "the server is stopping".to_owned());
    let jobs = scope.get::<Jobs>().and_then(|jobs| jobs.ready().err()).map(|reason| format!("jobs: {reason}"));
    let reasons: Vec<String> = stopping.into_iter().chain(jobs).collect();
    let (status, body) = match reasons.is_empty() {
        true => (Status::OK, json!({ "status": "ok" })),
        false => (Status::SERVICE_UNAVAILABLE, json!({ "status": "unavailable", "reasons": reasons })),
    };
    Json(body).into_response().status(status).header("Cache-Control", "no-store")
}

/// A source of request ids: six hexadecimal digits, unique within 16 million requests of a process.
struct Ids(AtomicU32);

impl Ids {
    fn new() -> Ids {
        // Without randomness the ids start at the same value in each process, and are still unique within it.
        let start = random::bytes().unwrap_or_default();
        Ids(AtomicU32::new(u32::from_ne_bytes(start)))
    }

    fn next(&self) -> String {
        // Multiplication by an odd number is one to one in 24 bits, and makes consecutive ids look different.
        let number = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b1) & 0xff_ffff;
        format!("{number:06x}")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::*;
    use crate::http::request::Body;

    /// A body whose client takes a moment before each read.
    struct LateBody;

    impl Read for LateBody {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            let began = Instant::now();
            while began.elapsed() < Duration::from_micros(100) {}
            Ok(0)
        }
    }

    #[test]
    fn the_time_in_which_a_client_sends_the_body_does_not_make_a_request_slow() {
        let second = Duration::from_secs(1);
        let mut request = Request::new(Method::Post, "/", Headers::new(), Body::new(LateBody, None));
        assert_eq!(slow_time(&request, second), Some(second));
        assert_eq!(slow_time(&request, second - Duration::from_nanos(1)), None);
        request.bytes().unwrap();
        let read_time = request.body_read_time();
        assert!(read_time >= Duration::from_micros(100));
        assert_eq!(slow_time(&request, second), None);
        assert_eq!(slow_time(&request, second + read_time), Some(second));
        request.restore_body(b"the same".to_vec());
        assert_eq!(slow_time(&request, second), None, "after the body was put back");
        let config = Arc::new(Config { slow_request: Duration::ZERO, ..Config::default() });
        request.admit(Scope::process(), config, "3f9a1c".to_owned());
        assert_eq!(slow_time(&request, 9 * second), None, "without a limit");
    }
}
