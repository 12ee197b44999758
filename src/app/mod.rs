//! The application: its routes and its state, and the one way from a request to a response.

mod banner;
pub(crate) mod check;
mod middleware;
pub(crate) mod parts;
pub mod routing;
pub(crate) mod service;

use std::any::Any;
use std::collections::BTreeMap;
use std::fs;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::Arc;

use self::parts::{Handler, IntoHookResult, Part};
use self::routing::{MethodRouter, Next};
use self::service::{Goal, Service};
use crate::background::registry::Registry;
use crate::background::scope::{Scope, Values};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::files::StaticFiles;
use crate::http::files::folders::StaticFolders;
use crate::http::forms::idempotency::InProgress;
use crate::http::request::Request;
use crate::http::response::{IntoResponse, Json, Response};
use crate::http::router::{Route, Router};
use crate::http::security::Security;
use crate::http::security::headers::Policy;
use crate::http::session::store::Store;
use crate::http::session::{Keys, OpenStreams};
use crate::http::templates::Templates;
use crate::http::templates::live_function::LiveFragments;
use crate::http::url_for::Urls;
#[cfg(feature = "image")]
use crate::image::MaxMemory;
use crate::isolate::{Functions, IsolatedFunction, Isolation, Program};
use crate::jobs::Jobs;
use crate::live;
use crate::live::definition::{Definition, IntoLive};
use crate::live::states::LiveStates;
#[cfg(feature = "mail")]
use crate::mail::{Mail, Mailer};
#[cfg(feature = "webhook")]
use crate::webhook::Webhook;

/// A site: routes, state, settings.
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
/// A handler is a function of `&mut Request` that returns anything that is [`IntoResponse`]. Mistakes in the routes and
/// settings are reported when the application starts, all together.
///
/// Every request goes the same way: who asks is found out; the host, the origin of a form and the rate are checked; hooks
/// ([`before`](App::before)) may answer; the handler does; an error becomes its page; hooks ([`after`](App::after)) may
/// change the response; the session is saved, text compressed, the [default headers](App::default_header) added, and the
/// access logged.
pub struct App {
    config: Result<Config>,
    router: Router<Goal>,
    /// The whole site first, then what is mounted.
    parts: Vec<Part>,
    policy: Policy,
    values: Values,
    functions: Functions,
    program: Program,
    static_folders: StaticFolders,
    templates: Option<PathBuf>,
    compiled_in: Vec<(String, String)>,
    live: Vec<Definition>,
    problems: Vec<Error>,
}

impl Default for App {
    fn default() -> App {
        App::new()
    }
}

impl App {
    /// An application with the settings of the environment ([`Config::from_env`]).
    pub fn new() -> App {
        App::configured(Config::from_env())
    }

    /// An application with these settings; tests pass their own.
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
            functions: Functions::default(),
            program: Program::own(),
            static_folders: StaticFolders::default(),
            templates: None,
            compiled_in: Vec::new(),
            live: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Answers GET, and HEAD with the same but the body.
    ///
    /// A part of the path in braces is a parameter, `{*rest}` the rest of it: `/photos/{id}`, `/files/{*rest}`.
    #[track_caller]
    pub fn get<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::get(handler))
    }

    /// Answers POST.
    #[track_caller]
    pub fn post<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::post(handler))
    }

    /// Answers PUT.
    #[track_caller]
    pub fn put<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::put(handler))
    }

    /// Answers PATCH.
    #[track_caller]
    pub fn patch<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::patch(handler))
    }

    /// Answers DELETE.
    #[track_caller]
    pub fn delete<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::delete(handler))
    }

    /// Answers every method that the path has no handler of its own for.
    #[track_caller]
    pub fn any<F, R>(self, path: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(path, routing::any(handler))
    }

    /// Adds the handlers of a path, with options that hold for each of their methods.
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
    /// The [`routing`] module has the options. Two calls for one path add up: the options of each hold for its own methods.
    /// Two handlers for one method of a path are an error at the start of the application.
    pub fn route(mut self, path: &str, handlers: MethodRouter) -> App {
        handlers.into_routes(path).for_each(|route| self.add(route));
        self
    }

    fn add(&mut self, route: Route<Goal>) {
        let added = self.router.add(route);
        self.problems.extend(added.err());
    }

    /// Answers every path that no route is there for, in place of the 404.
    pub fn fallback<F, R>(mut self, f: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.parts[0].fallback = Some(service::handler(f));
        self
    }

    /// What answers a path that no route is there for, when that is not the 404.
    pub(crate) fn fallback_at(&self, path: &str) -> Option<Handler> {
        let parts = self.parts.iter().filter(|part| part.fallback.is_some() && part.holds(path));
        parts.max_by_key(|part| part.prefix.len())?.fallback.clone()
    }

    /// Whether it has jobs, or what is mounted in it has.
    pub(crate) fn has_jobs(&self) -> bool {
        self.values.get::<Jobs>().is_some()
    }

    /// Runs before the handler, for every request that the guard lets pass, in the order in which hooks were added. A hook
    /// that gives a response ends it there; so does an error.
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
    /// Those of an application that is [mounted](App::mount) run for everything below its path, whether there is a route
    /// or not.
    pub fn before<F, R>(mut self, f: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoHookResult,
    {
        self.parts[0].before.push(Box::new(move |request| f(request).into_hook_result()));
        self
    }

    /// Runs after the handler, for every response, error pages and refusals among them.
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
    /// Middleware runs in the order in which it was added: the first is the outermost, that of a [mounted](App::mount)
    /// application runs within that of the site, and that of a [route](routing::MethodRouter::middleware) within both. It
    /// may answer in the handler's place without a call to [`Next::run`](routing::Next::run).
    ///
    /// It sees the handler's error, also 404 and 405, before that becomes a page; a panic unwinds through it. It runs after
    /// the [`before`](App::before) hooks, and is over before the [`after`](App::after) hooks run and before a streamed
    /// body is written. A body in memory can be read ([`Response::body`]) and replaced ([`Response::set_body`]).
    pub fn middleware<F>(mut self, f: F) -> App
    where
        F: Fn(&mut Request, Next<'_>) -> Result<Response> + Send + Sync + 'static,
    {
        self.parts[0].middleware.push(Arc::new(f));
        self
    }

    /// The site's own page for a status of 400 or above.
    ///
    /// ```
    /// use aside::{App, Error, Request, context};
    ///
    /// App::new().error_page(404, |req: &mut Request, error: &Error| {
    ///     req.render("404.html", context! { words => error.message() })
    /// });
    /// ```
    ///
    /// It keeps the status of the error. In development, whoever sits at the machine sees the page for developers at a 5xx;
    /// clients that ask for JSON get JSON. When the page itself fails, the built-in one takes its place.
    pub fn error_page<F, R>(mut self, status: u16, f: F) -> App
    where
        F: Fn(&mut Request, &Error) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        if !(400..600).contains(&status) {
            self.problems.push(Error::internal(format!("App::error_page: {status} is the status of no error")));
        }
        self.parts[0].error_pages.insert(status, Box::new(move |request, error| f(request, error).into_response()));
        self
    }

    /// Puts another application's routes below a path, with its hooks, error pages and fallback for that part of the site.
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
    /// Its state and its compiled-in templates join those of the site; its settings, headers and template folder are the
    /// site's. [`Request::path`] stays the whole path, and the names of routes are those of the whole site.
    pub fn mount(mut self, path: &str, app: App) -> App {
        let prefix = path.trim_end_matches('/');
        if !prefix.starts_with('/') || prefix.contains(['{', '}']) {
            self.problems.push(Error::internal(format!("App::mount: `{path}` is no plain path such as `/admin`")));
            return self;
        }
        app.router.into_routes().into_iter().for_each(|route| self.add_below(prefix, route));
        self.parts.extend(app.parts.into_iter().map(|part| part.below(prefix)));
        self.static_folders.add_below(prefix, app.static_folders);
        self.compiled_in.extend(app.compiled_in);
        app.live.into_iter().for_each(|mut live| {
            live.prefix.insert_str(0, prefix);
            self.keep_live(live);
        });
        self.problems.extend(app.problems);
        self.functions.merge(app.functions);
        if !self.values.merge(app.values) {
            let words = "both sites have a state of one type, and there can be only one of each";
            self.problems.push(Error::internal(format!("App::mount(`{path}`): {words}")));
        }
        self
    }

    /// `/` of what is mounted is the path itself, with a slash behind it or without.
    fn add_below(&mut self, prefix: &str, route: Route<Goal>) {
        if route.pattern == "/" {
            self.add(Route { pattern: prefix.to_owned(), ..route.clone() });
            let goal = Goal { name: None, ..route.goal };
            self.add(Route { pattern: format!("{prefix}/"), goal, ..route });
        } else {
            self.add(Route { pattern: format!("{prefix}{}", route.pattern), ..route });
        }
    }

    /// Sets a header that every response gets which has none of that name; an empty value leaves a default out.
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
    /// | `Strict-Transport-Security` | `max-age=31536000; includeSubDomains`, on https alone ([`is_https`](Request::is_https)) |
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

    /// Answers `GET /healthz` with 200 and the state of the background as JSON, whatever host is asked for: for load
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
    /// The response says only that the process lives. A platform that restarts unresponsive processes should not restart a
    /// site because its database is locked. [`readyz`](App::readyz) reports if the site can work.
    #[track_caller]
    pub fn healthz(self) -> App {
        let answer = |req: &mut Request| Json(service::health(req)).into_response().header("Cache-Control", "no-store");
        self.route("/healthz", routing::get(answer).any_host())
    }

    /// Answers `GET /readyz` with 200 if the application's [jobs](App::jobs) can be enqueued, and with 503 if not or if the
    /// server is stopping, for every host name: for load balancers, which then send requests elsewhere.
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

    /// Keeps a value for all handlers and tasks, one of each type: [`Request::state`], [`TaskContext::state`].
    ///
    /// [`TaskContext::state`]: crate::TaskContext::state
    pub fn state<T: Any + Send + Sync>(mut self, value: T) -> App {
        self.values.insert(value);
        self
    }

    /// Gives the application jobs: work that survives the process.
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
    /// While the application is served ([`run`](App::run), [`start`](App::start)) it also runs them, in this process.
    /// [`work`](App::work) runs them alone. `Mail` and `Webhook` are jobs too, and registered by this.
    pub fn jobs(self, jobs: Jobs) -> App {
        #[cfg(feature = "mail")]
        let jobs = jobs.register::<Mail>();
        #[cfg(feature = "webhook")]
        let jobs = jobs.register::<Webhook>();
        self.state(jobs)
    }

    /// Registers a function that [`isolated`](crate::isolated()) runs in a child process, so that the child finds it.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Result, isolated};
    ///
    /// fn double(n: u64) -> Result<u64> { Ok(2 * n) }
    ///
    /// let client = TestClient::new(App::new().isolated(double));
    /// assert_eq!(client.within(|| isolated(double, 21)).join()?, 42);
    /// # aside::ok(())
    /// ```
    ///
    /// A function of a [mounted](App::mount) application is one of the site. A closure is refused when the application
    /// starts: it has no name.
    pub fn isolated<F, M>(mut self, f: F) -> App
    where
        F: IsolatedFunction<M>,
    {
        self.functions.register(f);
        self
    }

    /// Answers GET under a path with the files of a folder: `.static_files("/static", "static")`.
    ///
    /// With their type, validators (304), and ranges. Dot files, links that lead out of the folder, and the folder's
    /// subfolders themselves are not there (404). `app.css.br`, `app.css.zst` or `app.css.gz` beside `app.css`, and not
    /// older, go in its place to those who accept the coding.
    ///
    /// A browser may keep a file for an hour (in development it asks each time), and for a year under the address that
    /// `{{ static('app.css') }}` makes in a template.
    #[track_caller]
    pub fn static_files(mut self, path: &str, folder: impl Into<PathBuf>) -> App {
        let files = StaticFiles::new(folder.into());
        self.static_folders.add(path, files.clone());
        let answer = move |req: &mut Request| files.respond(req, &req.param::<String>("rest")?);
        let route = format!("{}/{{*rest}}", path.trim_end_matches('/'));
        self.get(&route, answer)
    }

    /// Where the templates are, in place of `ASIDE_TEMPLATES` (the folder `templates`).
    pub fn templates(mut self, folder: impl Into<PathBuf>) -> App {
        self.templates = Some(folder.into());
        self
    }

    /// A template that is compiled in: `.template("page.html", include_str!("page.html"))`. In development a file of that
    /// name in the folder comes first, so that it can be worked on.
    pub fn template(mut self, name: &str, source: &str) -> App {
        self.compiled_in.push((name.to_owned(), source.to_owned()));
        self
    }

    /// Defines a part of pages that changes while it is looked at: `{{ live("posts") }}` in a template shows it and follows it.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// fn add(req: &mut Request) -> Result<Response> {
    ///     let (posts, title) = (req.session_live::<Vec<String>>()?, req.text()?);
    ///     posts.update(|posts| posts.push(title)); // every open page of this session shows it
    ///     Ok(redirect("/"))
    /// }
    ///
    /// let app = App::new()
    ///     .live("posts", "posts.html", Request::session_live::<Vec<String>>)
    ///     .template("posts.html", "<ul>{% for title in state %}<li>{{ title }}</li>{% endfor %}</ul>")
    ///     .template("page.html", "<h1>Posts</h1> {{ live('posts') }}")
    ///     .get("/", |req: &mut Request| req.render("page.html", ()))
    ///     .post("/", add);
    ///
    /// let mut client = TestClient::new(app);
    /// client.post("/").body("text/plain", "Hello").send();
    /// assert!(client.get("/").text().contains("<ul><li>Hello</li></ul>"));
    /// assert_eq!(client.events("/_aside/live/posts").next().data, "<ul><li>Hello</li></ul>");
    /// ```
    ///
    /// `f` finds the state for a request. It returns a [`Live`](crate::Live) state, the progress of a task, an `Option`, or a
    /// `Result` of these ([`IntoLive`](crate::live::IntoLive)): the state of this session
    /// ([`session_live`](Request::session_live)), a task of this session ([`session_task`](Request::session_task)), the state
    /// of a key ([`keyed_live`](Request::keyed_live)), or one that the application keeps. `template` is rendered with it, as
    /// [`Request::live`] describes; the page's part is a [`Live::fragment`](crate::Live::fragment).
    ///
    /// The stream is at `/_aside/live/NAME`, below the path of a mounted application. Hooks run for it as for a page there,
    /// and `f` runs again: an error of either refuses the stream with its status. The page then keeps what it shows, and asks
    /// again after half a second to half a minute. In a page the error of `f` is the page's error. With `None` the page shows
    /// nothing, and a page that is open empties the part and stops. A state that is finished opens no stream.
    ///
    /// `{{ live("photo", id=17) }}` passes arguments, which `f` reads with [`req.param("id")`](Request::param), for the page and for
    /// the stream alike. Clients can change them in the stream's address: `f` checks what the client may see. An argument
    /// that is `none` is left out. Together they may have 4,096 bytes.
    ///
    /// Names are those of the whole site, and have letters, digits, `-` and `_`. Where a mounted application has hooks, only
    /// pages below its path can show its fragments.
    #[track_caller]
    pub fn live<F, L>(mut self, name: &str, template: &str, f: F) -> App
    where
        F: Fn(&mut Request) -> L + Send + Sync + 'static,
        L: IntoLive,
    {
        let place = Location::caller();
        let live = Definition::new(name, template, f, place);
        let (route, stream) = (live.route(), live.stream());
        if self.keep_live(live) { self.get(&route, stream) } else { self }
    }

    /// Defines a part of pages that shows the progress of this session's task of that name, and follows it:
    /// `.live_task("import", "aside/progress.html")` and `{{ live("import") }}`.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// fn start(req: &mut Request) -> Result<Response> {
    ///     req.session_task("import")?.spawn(|task| task.message("100 rows"));
    ///     Ok(redirect("/"))
    /// }
    ///
    /// let app = App::new()
    ///     .live_task("import", "aside/progress.html")
    ///     .template("page.html", "{{ live('import') }}")
    ///     .get("/", |req: &mut Request| req.render("page.html", ()))
    ///     .post("/", start);
    ///
    /// let mut client = TestClient::new(app);
    /// client.post("/").send();
    /// client.drain();
    /// assert!(client.get("/").text().contains("100 rows"));
    /// ```
    ///
    /// It is [`live`](App::live) with [`Request::session_task`] of the same name. Where there is no such task, the page shows
    /// nothing. The template has the fields of [`Progress`](crate::tasks::Progress); `aside/progress.html` is built in.
    #[track_caller]
    pub fn live_task(self, name: &str, template: &str) -> App {
        let task = name.to_owned();
        self.live(name, template, move |req: &mut Request| req.session_task(&task))
    }

    /// Keeps a definition, unless its name is invalid or taken.
    fn keep_live(&mut self, live: Definition) -> bool {
        let (name, place) = (&live.name, live.place);
        let first = self.live.iter().find(|other| other.name == *name).map(|other| other.place);
        let taken = first.map(|first| {
            Error::internal(format!("the name of the live fragment `{name}` at {place} is taken, at {first}"))
        });
        let problem = taken.or_else(|| live.check().err());
        let fits = problem.is_none();
        self.problems.extend(problem);
        self.live.extend(fits.then_some(live));
        fits
    }

    /// The same application, whose jobs are run by the test, whose mail stays in the process unless the settings send it elsewhere, and whose tasks stand
    /// back behind nobody: on a busy machine a test would wait for them in vain.
    pub(crate) fn for_tests(mut self) -> App {
        self.program = Program::test(std::thread::current().name());
        if let Some(jobs) = self.values.get::<Jobs>() {
            jobs.for_tests();
        }
        if let Ok(config) = &mut self.config {
            config.mail_url.get_or_insert_with(|| "memory:".into());
            config.nice = 0;
        }
        self
    }

    /// Adds the script that live parts of pages need.
    fn answer_with_script(&mut self) {
        routing::get(live::script).into_routes(live::SCRIPT_PATH).for_each(|route| self.add(route));
    }

    /// The application, ready to answer.
    ///
    /// # Errors
    /// When a setting cannot be used, or a route is malformed or there twice; all of them in one message.
    pub(crate) fn build(mut self) -> Result<Service> {
        self.answer_with_script();
        let config = Arc::new(self.config?);
        config.check()?;
        let jobs = self.values.get::<Jobs>();
        jobs.as_ref().map_or(Ok(()), |jobs| jobs.check())?;
        let guard = Security::new(&config, self.policy)?;
        let urls = urls(&self.router).map_err(|error| self.problems.push(error)).unwrap_or_default();
        if !self.problems.is_empty() || !self.functions.problems().is_empty() {
            let words = self.problems.iter().map(Error::chain).chain(self.functions.problems().iter().cloned());
            let words: Vec<String> = words.collect();
            return Err(Error::internal(words.join("; ")));
        }
        let folder = self.templates.map_or_else(|| template_folder(&config), Ok)?;
        let mut templates = Templates::new(folder, config.is_development());
        templates.add(live::PROGRESS.0, live::PROGRESS.1)?;
        self.compiled_in.into_iter().try_for_each(|(name, source)| templates.add(&name, source))?;
        if !config.is_development() {
            templates.read_all()?;
        }
        self.values.insert(templates);
        self.values.insert(live_fragments(self.live, &self.parts));
        self.values.insert(LiveStates::default());
        self.values.insert(urls);
        self.values.insert(self.static_folders);
        self.values.insert(Keys::new(&config)?);
        self.values.insert(Store::open(&config)?);
        self.values.insert(Isolation::new(self.functions, self.program));
        self.values.insert(InProgress::default());
        self.values.insert(OpenStreams::default());
        // Here and not at the first mail, so that a URL that cannot be used is refused at start.
        #[cfg(feature = "mail")]
        self.values.insert(Mailer::new(&config)?);
        #[cfg(feature = "image")]
        self.values.insert(MaxMemory(config.max_image_memory));
        let scope = Scope::new(Registry::new(&config), self.values);
        jobs.iter().for_each(|jobs| jobs.belong_to(&scope));
        Ok(Service::new(config, self.router, self.parts, guard, scope))
    }
}

/// Returns the folder that `ASIDE_TEMPLATES` names. The default may be missing: all templates may be compiled in.
fn template_folder(config: &Config) -> Result<PathBuf> {
    let folder = &config.templates;
    if *folder != Config::default().templates {
        fs::read_dir(folder).map_err(|error| {
            Error::from(error)
                .context(format!("ASIDE_TEMPLATES names a folder that cannot be read: {}", folder.display()))
        })?;
    }
    Ok(folder.clone())
}

/// What the template function `live` shows. A page must lie below the hooks that guard the stream.
fn live_fragments(definitions: Vec<Definition>, parts: &[Part]) -> LiveFragments {
    let hooks = |path: &str| {
        let guards = parts.iter().filter(|part| !part.before.is_empty() && part.holds(path));
        guards.map(|part| &part.prefix).max_by_key(|prefix| prefix.len()).filter(|prefix| !prefix.is_empty()).cloned()
    };
    let fragment = |live: Definition| {
        let hooks = hooks(&live.path());
        (live.name.clone(), live.show(hooks))
    };
    definitions.into_iter().map(fragment).collect()
}

/// The names of the routes, and the paths that they stand for.
///
/// # Errors
/// When two routes have the same name and different paths; both places are named.
fn urls(router: &Router<Goal>) -> Result<Urls> {
    let named = router.routes().iter().filter_map(|route| Some((route.goal.name.as_deref()?, route)));
    let mut first: BTreeMap<&str, &Route<Goal>> = BTreeMap::new();
    for (name, route) in named {
        let first = *first.entry(name).or_insert(route);
        if first.pattern != route.pattern {
            let (first, second) = (first.place, route.place);
            return Err(Error::internal(format!("the route name `{name}` at {second} is taken, at {first}")));
        }
    }
    Ok(first.into_iter().map(|(name, route)| (name.to_owned(), route.pattern.clone())).collect())
}
