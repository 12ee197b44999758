//! The application: its routes and its state, and the one way from a request to a response.

use std::any::Any;
use std::panic::Location;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::background::failure::Failure;
use crate::background::panics;
use crate::background::registry::{Registry, escape, span};
use crate::background::scope::{Scope, Values};
use crate::config::Config;
use crate::error::{Error, Result, Status};
use crate::http::files::StaticFiles;
use crate::http::pages;
use crate::http::request::{Method, Request};
use crate::http::response::{IntoResponse, Response};
use crate::http::router::{Found, Handler, Router};
use crate::http::session::{self, Keys};
use crate::http::store::Store;
use crate::http::templates::Templates;
#[cfg(feature = "mail")]
use crate::mail::Mailer;

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
pub struct App {
    config: Result<Config>,
    router: Router,
    fallback: Option<Handler>,
    values: Values,
    templates: Option<PathBuf>,
    compiled_in: Vec<(String, String)>,
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
            fallback: None,
            values: Values::default(),
            templates: None,
            compiled_in: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Answers GET, and HEAD with the same but the body.
    ///
    /// A part of the path in braces is a parameter, `{*rest}` the rest of it: `/photos/{id}`, `/files/{*rest}`.
    #[track_caller]
    pub fn get<F, R>(self, route: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(Some(Method::Get), route, handler, Location::caller())
    }

    /// Answers POST.
    #[track_caller]
    pub fn post<F, R>(self, route: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(Some(Method::Post), route, handler, Location::caller())
    }

    /// Answers PUT.
    #[track_caller]
    pub fn put<F, R>(self, route: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(Some(Method::Put), route, handler, Location::caller())
    }

    /// Answers PATCH.
    #[track_caller]
    pub fn patch<F, R>(self, route: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(Some(Method::Patch), route, handler, Location::caller())
    }

    /// Answers DELETE.
    #[track_caller]
    pub fn delete<F, R>(self, route: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(Some(Method::Delete), route, handler, Location::caller())
    }

    /// Answers every method that the path has no handler of its own for.
    #[track_caller]
    pub fn any<F, R>(self, route: &str, handler: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.route(None, route, handler, Location::caller())
    }

    fn route<F, R>(mut self, method: Option<Method>, route: &str, f: F, place: &'static Location<'static>) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        let added = self.router.add(method, route, handler(f), place);
        self.problems.extend(added.err());
        self
    }

    /// Answers every path that no route is there for, in place of the 404.
    pub fn fallback<F, R>(mut self, f: F) -> App
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.fallback = Some(handler(f));
        self
    }

    /// Keeps a value for all handlers and tasks, one of each type: [`Request::state`], [`TaskContext::state`].
    ///
    /// [`TaskContext::state`]: crate::TaskContext::state
    pub fn state<T: Any + Send + Sync>(mut self, value: T) -> App {
        self.values.insert(value);
        self
    }

    /// Answers GET under a path with the files of a folder: `.static_files("/static", "static")`.
    ///
    /// With their type, validators (304), and ranges. Dot files, links that lead out of the folder, and the folder's
    /// subfolders themselves are not there (404).
    #[track_caller]
    pub fn static_files(self, path: &str, folder: impl Into<PathBuf>) -> App {
        let files = StaticFiles::new(folder.into());
        let answer = move |req: &mut Request| files.respond(req, &req.param::<String>("rest")?);
        let route = format!("{}/{{*rest}}", path.trim_end_matches('/'));
        self.route(Some(Method::Get), &route, answer, Location::caller())
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

    /// The same application, whose mail stays in the process unless the settings send it elsewhere, and whose tasks stand
    /// back behind nobody: on a busy machine a test would wait for them in vain.
    pub(crate) fn for_tests(mut self) -> App {
        if let Ok(config) = &mut self.config {
            config.mail_url.get_or_insert_with(|| "memory:".into());
            config.nice = 0;
        }
        self
    }

    /// The application, ready to answer.
    ///
    /// # Errors
    /// When a setting cannot be used, or a route is malformed or there twice; all of them in one message.
    pub(crate) fn build(mut self) -> Result<Service> {
        let config = Arc::new(self.config?);
        config.check()?;
        if !self.problems.is_empty() {
            let words: Vec<String> = self.problems.iter().map(Error::chain).collect();
            return Err(Error::internal(words.join("; ")));
        }
        let folder = self.templates.unwrap_or_else(|| config.templates.clone());
        let mut templates = Templates::new(folder, config.is_development());
        self.compiled_in.into_iter().try_for_each(|(name, source)| templates.add(&name, source))?;
        self.values.insert(templates);
        self.values.insert(Keys::new(&config)?);
        self.values.insert(Store::open(&config)?);
        // Here and not at the first mail: its connection pool starts a thread, which must not inherit a task's priority.
        #[cfg(feature = "mail")]
        self.values.insert(Mailer::new(&config)?);
        let scope = Scope::new(Registry::new(&config), self.values);
        Ok(Service { config, router: self.router, fallback: self.fallback, scope, ids: Ids::new() })
    }
}

fn handler<F, R>(f: F) -> Handler
where
    F: Fn(&mut Request) -> R + Send + Sync + 'static,
    R: IntoResponse,
{
    Arc::new(move |request| f(request).into_response())
}

/// An application at work: requests in, responses out. It knows no socket.
pub(crate) struct Service {
    config: Arc<Config>,
    router: Router,
    fallback: Option<Handler>,
    scope: Scope,
    ids: Ids,
}

impl Service {
    /// The settings.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The tasks, the mailer and all else that is the application's own.
    pub(crate) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Answers a request. It never panics: what a handler does is caught here.
    pub(crate) fn handle(&self, mut request: Request) -> Response {
        let began = Instant::now();
        request.admit(self.scope.clone(), self.config.clone(), self.ids.next());
        let _entered = request.context().enter();
        let response = panics::catch(|| self.dispatch(&mut request));
        let response = response.unwrap_or_else(|panic| Response::from_error(Failure::Panic(panic).into()));
        self.finish(&mut request, response, began)
    }

    /// Answers what a transport refuses, by the same last step as all else. None of the application's handlers sees it.
    pub(crate) fn refuse(&self, mut request: Request, error: Error) -> Response {
        let began = Instant::now();
        request.admit(self.scope.clone(), self.config.clone(), self.ids.next());
        let _entered = request.context().enter();
        self.finish(&mut request, Response::from_error(error), began)
    }

    fn dispatch(&self, request: &mut Request) -> Response {
        match self.router.find(request.method(), request.path()) {
            Found::Handler(handler, params) => {
                request.set_params(params);
                handler(request)
            }
            Found::OtherMethods(methods) => other_methods(request.method(), &methods),
            Found::Nothing => match &self.fallback {
                Some(fallback) => fallback(request),
                None => Response::from_error(Status::NOT_FOUND.into()),
            },
        }
    }

    /// What every response goes through on its way out, whoever made it.
    fn finish(&self, request: &mut Request, mut response: Response, began: Instant) -> Response {
        session::save(request, &mut response);
        let response = answer_error(request, response).header("X-Request-Id", request.id());
        log_access(request, &response, began);
        response
    }
}

/// The path is there for other methods: those are named, to one who asks for them with 204.
fn other_methods(method: &Method, methods: &[String]) -> Response {
    let allow = methods.join(", ");
    if *method == Method::Options {
        return Response::new().status(Status::NO_CONTENT).header("Allow", allow);
    }
    let words = format!("{method} is not possible here; {allow} are.");
    Response::from_error(Error::new(Status::METHOD_NOT_ALLOWED, words)).header("Allow", allow)
}

/// Puts the page of an error in the place of the response that carries one. What was set aside on that stays, and so do
/// its headers, but for those that spoke of its body.
fn answer_error(request: &Request, mut response: Response) -> Response {
    let Some(error) = response.take_error() else { return response };
    if error.status().is_server_error() {
        log_error(request, &error);
    }
    let page = pages::error_page(request, &error).with_set_aside(response.take_set_aside());
    let of_the_body = |name: &str| name.to_ascii_lowercase().starts_with("content-");
    let others = response.headers().iter().filter(|(name, _)| !of_the_body(name) && !page.headers().contains(name));
    let others: Vec<_> = others.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    others.into_iter().fold(page, |page, (name, value)| page.append_header(&name, value))
}

fn log_error(request: &Request, error: &Error) {
    let panic = error.source().and_then(|source| source.downcast_ref::<Failure>());
    let what = panic.map_or_else(|| format!("failed: {}", error.chain()), Failure::verdict);
    let backtrace = panic.and_then(Failure::backtrace).map_or(String::new(), |lines| format!("\n{lines}"));
    let line = escape(&format!("{} {} {} {what}", request.method(), request.path(), request.id()));
    log::error!(target: "aside::http", "{line}{backtrace}");
}

fn log_access(request: &Request, response: &Response, began: Instant) {
    if !log::log_enabled!(target: "aside::access", log::Level::Info) {
        return;
    }
    let peer = request.remote_addr().map_or(String::new(), |peer| format!(", {}", peer.ip()));
    let (method, path, id) = (request.method(), request.path(), request.id());
    let (status, after) = (response.status_code().code(), span(began.elapsed()));
    log::info!(target: "aside::access", "{}", escape(&format!("{method} {path} {status} after {after} ({id}{peer})")));
}

/// Request ids: six hexadecimal digits, no two alike within 16 million requests of a process.
struct Ids(AtomicU32);

impl Ids {
    fn new() -> Ids {
        let mut start = [0; 4];
        // Without randomness the ids begin at the same place at each start, and are as different as before.
        let _ = getrandom::fill(&mut start);
        Ids(AtomicU32::new(u32::from_ne_bytes(start)))
    }

    fn next(&self) -> String {
        // Times an odd number is one to one in 24 bits, and neighbours do not look alike.
        let number = self.0.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b1) & 0xff_ffff;
        format!("{number:06x}")
    }
}
