//! Routes with options, and middleware.
//!
//! ```
//! use aside::routing::{Rate, get};
//! use aside::testing::TestClient;
//! use aside::{App, redirect};
//!
//! let app = App::new().route(
//!     "/login",
//!     get(|_req| "the form").post(|_req| redirect("/")).name("login").rate_limit(Rate::per_minute(10)),
//! );
//! let mut client = TestClient::new(app);
//! assert_eq!(client.get("/login").text(), "the form");
//! assert_eq!(client.post("/login").send().location(), Some("/"));
//! ```
//!
//! [`get`], [`post`] and the others make a [`MethodRouter`]: the handlers of one path by method, with options that apply
//! to all of them. [`App::route`](crate::App::route) adds it to the application. Without options,
//! [`App::get`](crate::App::get) is shorter.

use std::panic::Location;
use std::sync::Arc;

use super::middleware::Middleware;
pub use super::middleware::Next;
use super::parts::Handler;
pub use super::parts::IntoHookResult;
use super::service::{self, Endpoint};
use crate::error::Result;
use crate::http::request::{Method, Request};
use crate::http::response::{IntoResponse, Response};
use crate::http::router::Route;
use crate::http::security::Exemptions;
pub use crate::http::security::rate_limit::{Rate, RateLimit};

/// The handlers of one path, by method, with options that apply to all of them.
///
/// See the [module](self) for an example.
#[must_use = "`App::route` adds it to an application"]
pub struct MethodRouter {
    handlers: Vec<(Option<Method>, &'static Location<'static>, Handler)>,
    name: Option<String>,
    exemptions: Exemptions,
    middleware: Vec<Middleware>,
}

macro_rules! methods {
    ($($name:ident $method:expr, $doc:literal;)*) => {
        $(
            #[doc = $doc]
            ///
            /// See the [module](self) for an example.
            #[track_caller]
            pub fn $name<F, R>(handler: F) -> MethodRouter
            where
                F: Fn(&mut Request) -> R + Send + Sync + 'static,
                R: IntoResponse,
            {
                MethodRouter::empty().$name(handler)
            }
        )*

        impl MethodRouter {
            $(
                #[doc = $doc]
                #[track_caller]
                pub fn $name<F, R>(self, handler: F) -> MethodRouter
                where
                    F: Fn(&mut Request) -> R + Send + Sync + 'static,
                    R: IntoResponse,
                {
                    self.add($method, handler, Location::caller())
                }
            )*
        }
    };
}

methods! {
    get Some(Method::Get), "Handles GET, and HEAD with the same response without its body.";
    post Some(Method::Post), "Handles POST.";
    put Some(Method::Put), "Handles PUT.";
    patch Some(Method::Patch), "Handles PATCH.";
    delete Some(Method::Delete), "Handles DELETE.";
    any None, "Handles every method for which the path has no handler of its own.";
}

impl MethodRouter {
    fn empty() -> MethodRouter {
        MethodRouter { handlers: Vec::new(), name: None, exemptions: Exemptions::default(), middleware: Vec::new() }
    }

    fn add<F, R>(mut self, method: Option<Method>, handler: F, location: &'static Location<'static>) -> MethodRouter
    where
        F: Fn(&mut Request) -> R + Send + Sync + 'static,
        R: IntoResponse,
    {
        self.handlers.push((method, location, service::handler(handler)));
        self
    }

    /// Names the path, for [`Request::url_for`] and `{{ url_for("photo", id=17) }}` in templates.
    ///
    /// ```
    /// use aside::routing::get;
    /// use aside::{App, Request};
    ///
    /// App::new().route("/photos/{id}", get(|req: &mut Request| req.param::<String>("id")).name("photo"));
    /// ```
    pub fn name(mut self, name: &str) -> MethodRouter {
        self.name = Some(name.to_owned());
        self
    }

    /// Limits how often a client may request the path: for a login, or a contact form.
    ///
    /// ```
    /// use aside::App;
    /// use aside::routing::{Rate, get, post};
    ///
    /// App::new()
    ///     .route("/login", get(|_req| "the form"))
    ///     .route("/login", post(|_req| "welcome").rate_limit(Rate::per_minute(10)));
    /// ```
    ///
    /// All methods of this `MethodRouter` count together: above, only POST counts. A request over the limit gets 429 with
    /// `Retry-After`. A client is its [`client_ip`](Request::client_ip), so behind a proxy `ASIDE_TRUSTED_PROXIES` must be
    /// correct. All clients without a known address count as one. The clones of a [`RateLimit`] on several routes count
    /// together.
    pub fn rate_limit(mut self, limit: impl Into<RateLimit>) -> MethodRouter {
        self.exemptions.limits.push(limit.into());
        self
    }

    /// Turns CSRF protection off for these methods of the path: for a form that other sites embed, for instance.
    ///
    /// ```
    /// use aside::App;
    /// use aside::routing::post;
    ///
    /// App::new().route("/subscribe", post(|_req| "subscribed").allow_cross_origin());
    /// ```
    ///
    /// On other routes a POST, PUT, PATCH or DELETE that a browser sends from another site gets 403, unless that site is one
    /// of `ASIDE_TRUSTED_ORIGINS`. Servers send no `Origin`, so that a webhook needs this only if browsers send it too.
    pub fn allow_cross_origin(mut self) -> MethodRouter {
        self.exemptions.cross_origin = true;
        self
    }

    /// Wraps the handlers in middleware: see [`App::middleware`](crate::App::middleware).
    ///
    /// ```
    /// use aside::App;
    /// use aside::routing::get;
    ///
    /// App::new().route("/report", get(|_req| "the report").middleware(|req, next| {
    ///     Ok(next.run(req)?.header("X-Robots-Tag", "noindex"))
    /// }));
    /// ```
    pub fn middleware<F>(mut self, f: F) -> MethodRouter
    where
        F: Fn(&mut Request, Next<'_>) -> Result<Response> + Send + Sync + 'static,
    {
        self.middleware.push(Arc::new(f));
        self
    }

    /// Allows any host: the client of a health check knows only the address.
    pub(crate) fn any_host(mut self) -> MethodRouter {
        self.exemptions.any_host = true;
        self
    }

    /// Returns the routes of a path.
    pub(crate) fn into_routes(self, path: &str) -> impl Iterator<Item = Route<Endpoint>> {
        let MethodRouter { handlers, name, exemptions, middleware } = self;
        handlers.into_iter().map(move |(method, location, handler)| {
            let (name, exemptions, middleware) = (name.clone(), exemptions.clone(), middleware.clone());
            let endpoint = Endpoint { handler, name, exemptions, middleware, starts_tasks: Arc::default() };
            Route { method, pattern: path.to_owned(), location, endpoint }
        })
    }
}
