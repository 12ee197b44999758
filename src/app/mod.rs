//! The application: its routes, state and settings, and the dispatch of requests.

mod banner;
pub(crate) mod check;
mod failure_hooks;
#[cfg(feature = "isolate")]
mod isolated;
#[cfg(not(feature = "isolate"))]
#[path = "isolated_absent.rs"]
mod isolated;
#[cfg(feature = "live")]
mod live;
#[cfg(not(feature = "live"))]
#[path = "live_absent.rs"]
mod live;
mod metrics;
mod middleware;
pub(crate) mod parts;
pub mod routing;
pub(crate) mod service;
#[cfg(feature = "templates")]
mod templates;
#[cfg(not(feature = "templates"))]
#[path = "templates_absent.rs"]
mod templates;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use self::failure_hooks::FailureHooks;
use self::isolated::IsolatedFunctions;
use self::live::LiveDefinitions;
use self::metrics::MetricsAddress;
use self::parts::{Handler, IntoHookResult, Part};
use self::routing::{MethodRouter, Next};
use self::service::{Endpoint, Service};
use self::templates::TemplateDefinitions;
use crate::background::observer::Observer;
use crate::background::registry::Registry;
use crate::background::request_log::RequestLog;
use crate::background::scope::{Scope, Values};
use crate::config::{Config, LogFormat};
use crate::error::{Error, Result, backtraces};
use crate::http::files::StaticFiles;
use crate::http::files::folder::Folder;
use crate::http::files::folders::StaticFolders;
use crate::http::forms::idempotency::InProgress;
#[cfg(unix)]
use crate::http::live_reload::LiveReload;
use crate::http::request::Request;
use crate::http::response::{IntoResponse, Json, Response};
use crate::http::router::{BUILTIN, Route, Router};
use crate::http::security::Security;
use crate::http::security::headers::Policy;
use crate::http::session::store::Store;
use crate::http::session::{Keys, OpenStreams, development_secret};
use crate::http::url_for::{SiteUrl, Urls};
#[cfg(feature = "image")]
use crate::image::MaxMemory;
use crate::jobs::Jobs;
#[cfg(feature = "mail")]
use crate::mail::{Mail, Mailer};
use crate::metrics::Metrics;
#[cfg(feature = "webhook")]
use crate::webhook::Webhook;

/// A web application: its routes, its state and its settings.
///
/// ```no_run
/// use aside::{App, Request};
///
/// fn main() -> aside::Result<()> {
///     App::new()
///         .get("/", |_req: &mut Request| "Hello")
///         .get("/hello/{name}", |req: &mut Request| req.param::<String>("name"))
///         .run()
/// }
/// ```
///
/// A handler is a function of `&mut Request` that returns any [`IntoResponse`] type. Mistakes in the routes and settings are
/// reported together when the application starts.
///
/// Each request passes through the same steps:
///
/// 1. The client's address is determined; the host, the origin (CSRF) and the rate limits are checked.
/// 2. [`before`](App::before) hooks run. One of them may return the response in the handler's place.
/// 3. [Middleware](App::middleware) and the handler run. An error becomes its page.
/// 4. [`after`](App::after) hooks run, and may change the response.
/// 5. The session is saved, text is compressed, the [default headers](App::default_header) are added, and the access is
///    logged.
pub struct App {
    config: Result<Config>,
    router: Router<Endpoint>,
    /// The site itself first, then the mounted applications.
    parts: Vec<Part>,
    policy: Policy,
    values: Values,
    isolated: IsolatedFunctions,
    static_folders: StaticFolders,
    templates: TemplateDefinitions,
    live: LiveDefinitions,
    metrics: Vec<MetricsAddress>,
    failure_hooks: FailureHooks,
    /// The secret that is kept for development, if the application runs as a process of its own.
    kept_secret: Option<String>,
    problems: Vec<Error>,
}

impl Default for App {
    fn default() -> App {
        App::new()
    }
}

impl App {
    /// Makes an application with the settings of the environment ([`Config::from_env`]).
    pub fn new() -> App {
        App::configured(Config::from_env())
    }

    /// Makes an application with these settings, in a test for instance.
    pub fn with_config(config: Config) -> App {
        App::configured(Ok(config))
    }

    fn configured(config: Result<Config>) -> App {
        App {
            config,
            router: Router::default(),
            parts: vec![Part::default()],
            policy: Policy::default(),
            values: Values::default(),
            isolated: IsolatedFunctions::default(),
            static_folders: StaticFolders::default(),
            templates: TemplateDefinitions::default(),
            live: LiveDefinitions::default(),
            metrics: Vec::new(),
            failure_hooks: FailureHooks::default(),
            kept_secret: None,
            problems: Vec::new(),
        }
    }

    /// Adds a handler for GET requests, and for HEAD, which gets the same response without its body.
    ///
    /// A segment of the path in braces is a parameter, and `{*rest}` is the rest of the path: `/photos/{id}`,
    /// `/files/{*rest}`.
    #[track_caller]
    pub fn get<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::get(handler))
    }

    /// Adds a handler for POST requests.
    #[track_caller]
    pub fn post<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::post(handler))
    }

    /// Adds a handler for PUT requests.
    #[track_caller]
    pub fn put<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::put(handler))
    }

    /// Adds a handler for PATCH requests.
    #[track_caller]
    pub fn patch<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::patch(handler))
    }

    /// Adds a handler for DELETE requests.
    #[track_caller]
    pub fn delete<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::delete(handler))
    }

    /// Adds a handler for every method for which the path has no handler of its own.
    #[track_caller]
    pub fn any<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::any(handler))
    }

    /// Adds the handlers of a path, with options that apply to each of their methods.
    ///
    /// ```
    /// use aside::App;
    /// use aside::routing::{Rate, get, post};
    ///
    /// App::new()
    ///     .route("/orders", get(|_req| "the form").post(|_req| "ordered").name("orders"))
    ///     .route("/contact", get(|_req| "the form"))
    ///     .route("/contact", post(|_req| "sent").rate_limit(Rate::per_hour(10)));
    /// ```
    ///
    /// The [`routing`] module has the options. A path may have several calls: the options of each apply to its own methods.
    /// Two handlers for one method of a path are an error when the application starts.
    pub fn route(mut self, path: &str, handlers: MethodRouter) -> App {
        handlers.into_routes(path).for_each(|route| self.add(route));
        self
    }

    fn add(&mut self, route: Route<Endpoint>) {
        let added = self.router.add(route);
        self.problems.extend(added.err());
    }

    /// Sets the handler of paths without a route, in place of the 404.
    pub fn fallback<F, R>(mut self, f: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.parts[0].fallback = Some(service::handler(f));
        self
    }

    /// Returns the handler of a path without a route, if it is not the 404.
    pub(crate) fn fallback_at(&self, path: &str) -> Option<Handler> {
        let parts = self.parts.iter().filter(|part| part.fallback.is_some() && part.holds(path));
        parts.max_by_key(|part| part.prefix.len())?.fallback.clone()
    }

    /// Returns true if it or a mounted application has jobs.
    pub(crate) fn has_jobs(&self) -> bool {
        self.own_jobs().is_some()
    }

    /// Returns the jobs of the application, if it has any.
    pub(crate) fn own_jobs(&self) -> Option<Arc<Jobs>> {
        self.values.get()
    }

    /// Adds a hook that runs before the handler. Hooks run in the order in which they were added, for every request that the
    /// security middleware accepts. If a hook returns a response or an error, the handler does not run.
    ///
    /// ```
    /// use aside::{App, Request, redirect};
    ///
    /// let admin = App::new()
    ///     .before(|req: &mut Request| req.session().get::<u64>("admin").is_none().then(|| redirect("/login")))
    ///     .get("/", |_req: &mut Request| "for the admin");
    /// App::new().mount("/admin", admin);
    /// ```
    ///
    /// The hooks of a [mounted](App::mount) application run for all paths below its own, also for paths without a route.
    pub fn before<F, R>(mut self, f: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoHookResult,
    {
        self.parts[0].before.push(Box::new(move |request| f(request).into_hook_result()));
        self
    }

    /// Adds a hook that runs after the handler, for every response, including error pages and refusals.
    ///
    /// ```
    /// use aside::{App, Request, Response};
    ///
    /// App::new().after(|_req: &mut Request, response: &mut Response| response.headers_mut().set("X-Made-By", "aside"));
    /// ```
    pub fn after<F>(mut self, f: F) -> App
    where
        F: Fn(&mut Request, &mut Response) + Send + Sync + 'static,
    {
        self.parts[0].after.push(Box::new(f));
        self
    }

    /// Wraps every handler in a function that sees the request before it and the response after it.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Error, Request, Response, Result};
    /// use std::time::Instant;
    ///
    /// fn take_time(req: &mut Request, next: aside::routing::Next) -> Result<Response> {
    ///     let began = Instant::now();
    ///     let response = next.run(req)?;
    ///     Ok(response.header("Server-Timing", format!("app;dur={}", began.elapsed().as_millis())))
    /// }
    ///
    /// let app = App::new()
    ///     .middleware(take_time)
    ///     .middleware(|req, next| match next.run(req) {
    ///         Err(error) if error.status_code().code() == 404 => Ok(Response::text("not yet").status(404)),
    ///         outcome => outcome,
    ///     })
    ///     .get("/", |_| "hello");
    ///
    /// let mut client = TestClient::new(app);
    /// assert!(client.get("/").header("Server-Timing").is_some());
    /// assert_eq!(client.get("/none").text(), "not yet");
    /// ```
    ///
    /// Middleware runs in the order in which it was added: the first is the outermost. The middleware of a
    /// [mounted](App::mount) application runs within that of the site, and the middleware of a
    /// [route](routing::MethodRouter::middleware) within both. A middleware that does not call
    /// [`Next::run`](routing::Next::run) returns a response in the handler's place.
    ///
    /// It sees the handler's error, also 404 and 405, before the error becomes a page; a panic unwinds through it. It runs
    /// after the [`before`](App::before) hooks, and returns before the [`after`](App::after) hooks run and before a streamed
    /// body is written. A body in memory can be read ([`Response::body`]) and replaced ([`Response::set_body`]).
    pub fn middleware<F>(mut self, f: F) -> App
    where
        F: Fn(&mut Request, Next<'_>) -> Result<Response> + Send + Sync + 'static,
    {
        self.parts[0].middleware.push(Arc::new(f));
        self
    }

    /// Sets the site's own page for an error status, 400 to 599.
    ///
    /// ```
    /// use aside::{App, Error, Request, context};
    ///
    /// App::new().error_page(404, |req: &mut Request, error: &Error| {
    ///     req.render("404.html", context! { message => error.message() })
    /// });
    /// ```
    ///
    /// The response keeps the status of the error. Clients that ask for JSON get JSON. In development, a browser on the same
    /// machine gets the developer page for a 5xx. If the page itself fails, the client gets the built-in page.
    pub fn error_page<F, R>(mut self, status: u16, f: F) -> App
    where
        F: Fn(&mut Request, &Error) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        if !(400..600).contains(&status) {
            self.problems
                .push(Error::internal(format!("App::error_page: {status} is not an error status (400 to 599)")));
        }
        self.parts[0].error_pages.insert(status, Box::new(move |request, error| f(request, error).into_response()));
        self
    }

    /// Adds another application's routes below a path, with its hooks, middleware, error pages and fallback for this part of
    /// the site.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request};
    ///
    /// let shop = App::new().get("/", |_req: &mut Request| "the shop").get("/cart", |_req: &mut Request| "the cart");
    /// let mut client = TestClient::new(App::new().mount("/shop", shop));
    /// assert_eq!(client.get("/shop").text(), "the shop");
    /// assert_eq!(client.get("/shop/cart").text(), "the cart");
    /// ```
    ///
    /// The site gets its state and its compiled-in templates. It uses the settings, headers and template folder of the site.
    /// [`Request::path`] is the whole path. The names of routes are unique in the whole site.
    pub fn mount(mut self, path: &str, app: App) -> App {
        let prefix = path.trim_end_matches('/');
        if !prefix.starts_with('/') || prefix.contains(['{', '}']) {
            self.problems.push(Error::internal(format!("App::mount: `{path}` is not a plain path such as `/admin`")));
            return self;
        }
        app.router.into_routes().into_iter().for_each(|route| self.add_below(prefix, route));
        self.parts.extend(app.parts.into_iter().map(|part| part.below(prefix)));
        self.static_folders.add_below(prefix, app.static_folders);
        self.templates.mount(app.templates);
        self.mount_live(prefix, app.live);
        self.metrics.extend(app.metrics.into_iter().map(|address| address.below(prefix)));
        self.failure_hooks.mount(app.failure_hooks);
        self.problems.extend(app.problems);
        self.isolated.mount(app.isolated);
        if !self.values.merge(app.values) {
            let message = "both applications have a state of the same type, and a site can have one of each type";
            self.problems.push(Error::internal(format!("App::mount(`{path}`): {message}")));
        }
        self
    }

    /// Adds a route of a mounted application. Its `/` becomes the prefix itself, with and without a trailing slash.
    fn add_below(&mut self, prefix: &str, route: Route<Endpoint>) {
        if route.pattern == "/" {
            self.add(Route { pattern: prefix.to_owned(), ..route.clone() });
            let endpoint = Endpoint { name: None, ..route.endpoint };
            self.add(Route { pattern: format!("{prefix}/"), endpoint, ..route });
        } else {
            self.add(Route { pattern: format!("{prefix}{}", route.pattern), ..route });
        }
    }

    /// Sets a header for every response that does not have this header. An empty value removes a default.
    ///
    /// ```
    /// # use aside::App;
    /// App::new()
    ///     .default_header("Content-Security-Policy", "default-src 'self'; script-src 'self' 'nonce-{nonce}' https://js.stripe.com")
    ///     .default_header("X-Frame-Options", "");
    /// ```
    ///
    /// | Default | |
    /// |---|---|
    /// | `Content-Security-Policy` | everything from the site itself, no plug-ins, no frames around it, no `unsafe-inline`; `'nonce-{nonce}'` becomes [`csp_nonce`](Request::csp_nonce) |
    /// | `Strict-Transport-Security` | `max-age=31536000; includeSubDomains`, only with https ([`is_https`](Request::is_https)) |
    /// | `X-Content-Type-Options` | `nosniff` |
    /// | `X-Frame-Options` | `DENY` |
    /// | `Referrer-Policy` | `strict-origin-when-cross-origin` |
    /// | `Cross-Origin-Opener-Policy`, `Cross-Origin-Resource-Policy` | `same-origin` |
    /// | `Permissions-Policy` | `camera=(), geolocation=(), microphone=()` |
    pub fn default_header(mut self, name: &str, value: &str) -> App {
        let set = self.policy.set(name, value);
        self.problems.extend(set.err());
        self
    }

    /// Adds `GET /healthz`, which returns 200 and the numbers of background tasks as JSON, for every host name: for load
    /// balancers and container platforms.
    ///
    /// ```
    /// use aside::App;
    /// use aside::testing::TestClient;
    ///
    /// let answer = TestClient::new(App::new().healthz()).get("/healthz");
    /// assert_eq!(answer.json::<serde_json::Value>()["status"], "ok");
    /// ```
    ///
    /// `running` and `waiting` count current tasks. `succeeded`, `failed` and `cancelled` count since the start. `panicked`
    /// and `abandoned` (the process stopped before the task ended) are included in `failed`, and `timed_out` in
    /// `cancelled`.
    ///
    /// The response is 200 for as long as the process lives: a platform that restarts unresponsive processes should not restart
    /// a site because its database is locked. While the process cannot reach the store of its [jobs](App::jobs), `status` is
    /// `degraded`, and `jobs` has the reason in place of `ok`. [`readyz`](App::readyz) responds with 503 then.
    #[track_caller]
    pub fn healthz(self) -> App {
        let answer = |req: &mut Request| Json(service::health(req)).into_response().header("Cache-Control", "no-store");
        self.route("/healthz", routing::get(answer).any_host())
    }

    /// Adds `GET /readyz`, which returns 200 if the application's [jobs](App::jobs) can be enqueued, and 503 if not or if the
    /// server is stopping, for every host name: for load balancers, which then send requests to other servers.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Jobs};
    ///
    /// let answer = TestClient::new(App::new().jobs(Jobs::memory()).readyz()).get("/readyz");
    /// assert_eq!(answer.json::<serde_json::Value>()["status"], "ok");
    /// ```
    ///
    /// The body of a 503 gives a short reason. It contains no file name, address or password, since every client may read
    /// it: `{"status": "unavailable", "reasons": ["jobs: the disk is full"]}`. The log has the full reason, once a minute.
    /// The check writes to the job store at most once a second, and concurrent requests share its result. An application
    /// without jobs is ready until it stops.
    #[track_caller]
    pub fn readyz(self) -> App {
        let answer = |req: &mut Request| service::readiness(req);
        self.route("/readyz", routing::get(answer).any_host())
    }

    /// Adds a value that all handlers and tasks can read, one of each type: [`Request::state`], [`TaskContext::state`].
    ///
    /// [`TaskContext::state`]: crate::TaskContext::state
    pub fn state<T: Any + Send + Sync>(mut self, value: T) -> App {
        self.values.insert_state(value);
        self
    }

    /// Adds jobs to the application: work that survives the process.
    ///
    /// ```no_run
    /// use aside::{App, Job, Jobs, Result, TaskContext};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Report;
    ///
    /// impl Job for Report {
    ///     const NAME: &'static str = "report";
    ///     fn run(self, _task: &TaskContext) -> Result<()> { Ok(()) }
    /// }
    ///
    /// fn main() -> Result<()> {
    ///     App::new().jobs(Jobs::sqlite("data/jobs.db")?.register::<Report>()).run()
    /// }
    /// ```
    ///
    /// [`run`](App::run) and [`start`](App::start) also run the jobs, in the process of the server; [`work`](App::work) runs
    /// jobs without a server. This method also registers `Mail` and `Webhook`, which are jobs too.
    #[cfg(feature = "jobs")]
    pub fn jobs(mut self, jobs: Jobs) -> App {
        #[cfg(feature = "mail")]
        let jobs = jobs.register::<Mail>();
        #[cfg(feature = "webhook")]
        let jobs = jobs.register::<Webhook>();
        self.values.insert(jobs);
        self
    }

    /// Serves the files of a folder below a path: `.static_files("/static", "static")`, or
    /// `.static_files("/static", aside::embed!("static"))` to have them in the program of a release
    /// ([`embed!`](crate::embed!)).
    ///
    /// Responses have a media type, validators (304), and ranges. Dot files, links that lead out of the folder, and the
    /// folder's subfolders themselves are 404. If `app.css.br`, `app.css.zst` or `app.css.gz` is beside `app.css` and not
    /// older, clients that accept its coding get it in place of `app.css`. Other text from 1 KiB to 1 MiB is compressed with gzip
    /// once for each version of a file; up to 16 MiB of compressed files stay in memory.
    ///
    /// A browser may cache a file for an hour (in development it revalidates each time), and for a year at the URL that
    /// `{{ static('app.css') }}` makes in a template.
    #[track_caller]
    pub fn static_files(mut self, path: &str, folder: impl Into<Folder>) -> App {
        let files = StaticFiles::new(folder);
        self.static_folders.add(path, files.clone());
        let handler = move |req: &mut Request| files.respond(req, &req.param::<String>("rest")?);
        let route = format!("{}/{{*rest}}", path.trim_end_matches('/'));
        self.get(&route, handler)
    }

    /// Prepares the application for a test: the test runs the jobs, mail stays in the process unless the settings send it
    /// elsewhere, and tasks run at normal priority, since a test on a busy machine would wait for them too long.
    pub(crate) fn for_tests(mut self) -> App {
        self.isolated.for_tests();
        if let Some(jobs) = self.values.get::<Jobs>() {
            jobs.for_tests();
        }
        if let Ok(config) = &mut self.config {
            config.mail_url.get_or_insert_with(|| "memory:".into());
            config.nice = 0;
        }
        self
    }

    /// Returns the format of the log: with invalid settings, text.
    pub(crate) fn is_in_development(&self) -> bool {
        self.config.as_ref().is_ok_and(Config::is_development)
    }

    pub(crate) fn log_format(&self) -> LogFormat {
        self.config.as_ref().map_or(LogFormat::Text, |config| config.log)
    }

    /// Keeps the secret of sessions in a file, in development without `ASIDE_SECRET`.
    pub(crate) fn keep_secret(mut self) -> App {
        if self.config.as_ref().is_ok_and(|config| config.is_development() && config.secrets.is_empty()) {
            self.kept_secret = development_secret::keep();
        }
        self
    }

    /// Adds the script to pages that follows `aside dev`.
    #[cfg(unix)]
    pub(crate) fn with_live_reload(mut self, reload: LiveReload) -> App {
        self.values.insert(reload);
        self
    }

    /// Makes the service, which handles requests.
    ///
    /// # Errors
    /// If a setting is invalid, or a route is malformed or defined twice; one message names all problems.
    pub(crate) fn build(mut self) -> Result<Service> {
        self.prepare_live();
        self.add_metrics();
        let config = Arc::new(self.config?);
        config.check()?;
        let jobs = self.values.get::<Jobs>();
        jobs.as_ref().map_or(Ok(()), |jobs| jobs.check())?;
        let security = Security::new(&config, self.policy)?;
        let urls = urls(&self.router).map_err(|error| self.problems.push(error)).unwrap_or_default();
        if !self.problems.is_empty() || !self.isolated.problems().is_empty() {
            let problems = self.problems.iter().map(Error::chain).chain(self.isolated.problems().iter().cloned());
            let problems: Vec<String> = problems.collect();
            return Err(Error::internal(problems.join("; ")));
        }
        if config.is_development() {
            backtraces::capture_in_development();
        }
        self.templates.add_to(&mut self.values, &config)?;
        self.values.insert(urls);
        self.values.insert(SiteUrl::new(&config));
        self.values.insert(self.static_folders);
        self.values.insert(Keys::new(&config, self.kept_secret.as_deref())?);
        self.values.insert(Store::open(&config)?);
        self.isolated.add_to(&mut self.values);
        self.values.insert(InProgress::default());
        self.values.insert(OpenStreams::default());
        // At the start and not at the first mail, so that an invalid URL is refused here.
        #[cfg(feature = "mail")]
        self.values.insert(Mailer::new(&config)?);
        #[cfg(feature = "image")]
        self.values.insert(MaxMemory(config.max_image_memory));
        let routes = self.router.routes().iter();
        let metrics = Metrics::new(routes.clone().map(|route| (route.pattern.as_str(), route.method.is_none())));
        self.values.insert(metrics.clone());
        let requests = Arc::new(RequestLog::new(routes.map(|route| route.pattern.clone()).collect(), BUILTIN));
        self.values.insert(requests.clone());
        let mut observers = observers(metrics, requests);
        let reporter = self.failure_hooks.add_to(&config, &mut self.values, &mut observers, &self.router);
        let scope = Scope::new(Registry::new(&config), self.values);
        scope.registry().set_observers(observers);
        reporter.iter().for_each(|reporter| reporter.belong_to(&scope));
        jobs.iter().for_each(|jobs| jobs.belong_to(&scope));
        Ok(Service::new(config, self.router, self.parts, security, scope))
    }
}

/// Returns the observers of the application's work.
fn observers(metrics: Arc<Metrics>, requests: Arc<RequestLog>) -> Vec<Arc<dyn Observer>> {
    let mut observers: Vec<Arc<dyn Observer>> = vec![metrics];
    // Only the panel shows them.
    observers.extend(cfg!(feature = "panel").then_some(requests as Arc<dyn Observer>));
    observers
}

/// Returns the names of the routes, with their paths.
///
/// # Errors
/// If two routes have the same name and different paths; the message has both locations.
fn urls(router: &Router<Endpoint>) -> Result<Urls> {
    let named = router.routes().iter().filter_map(|route| Some((route.endpoint.name.as_deref()?, route)));
    let mut first: BTreeMap<&str, &Route<Endpoint>> = BTreeMap::new();
    for (name, route) in named {
        let first = *first.entry(name).or_insert(route);
        if first.pattern != route.pattern {
            let (first, second) = (first.location, route.location);
            return Err(Error::internal(format!("the route name `{name}` at {second} is already used at {first}")));
        }
    }
    Ok(first.into_iter().map(|(name, route)| (name.to_owned(), route.pattern.clone())).collect())
}
