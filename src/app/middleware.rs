//! Middleware: functions that wrap a handler.

use std::cell::RefCell;
use std::sync::Arc;

use crate::background::run::Deferred;
use crate::error::Result;
use crate::http::headers::Headers;
use crate::http::request::Request;
use crate::http::response::Response;

/// A function that wraps a handler.
pub(crate) type Middleware = Arc<dyn Fn(&mut Request, Next<'_>) -> Result<Response> + Send + Sync>;

/// The rest of the middleware and the handler, for a middleware to run.
///
/// ```
/// use aside::routing::Next;
/// use aside::testing::TestClient;
/// use aside::{App, Request, Response, Result};
///
/// fn stamp(req: &mut Request, next: Next) -> Result<Response> {
///     let response = next.run(req)?; // `?` passes an error of the handler on
///     Ok(response.header("X-Stamp", "seen"))
/// }
///
/// let mut client = TestClient::new(App::new().middleware(stamp).get("/", |_| "hello"));
/// assert_eq!(client.get("/").header("X-Stamp"), Some("seen"));
/// ```
///
/// See [`App::middleware`](crate::App::middleware).
pub struct Next<'a> {
    rest: &'a [&'a Middleware],
    handler: &'a dyn Fn(&mut Request) -> Response,
    failed: &'a Failed,
}

impl Next<'_> {
    /// Runs the inner middleware and the handler, and returns the response.
    ///
    /// # Errors
    /// The error of the handler or of an inner middleware, before it becomes a page. A middleware may return it, change
    /// it, or return a response in its place. A path without a route is such an error too: 404, or 405.
    pub fn run(self, req: &mut Request) -> Result<Response> {
        let Next { rest, handler, failed } = self;
        let response = match rest.split_first() {
            Some((first, rest)) => first(req, Next { rest, handler, failed })?,
            None => handler(req),
        };
        failed.take_error(response)
    }
}

/// The remains of responses whose error was taken out: their deferred tasks, which run in any case, and the headers of the
/// last response, which the error page gets.
#[derive(Default)]
struct Failed(RefCell<(Headers, Vec<Deferred>)>);

impl Failed {
    fn take_error(&self, mut response: Response) -> Result<Response> {
        let Some(error) = response.take_error() else { return Ok(response) };
        let (headers, deferred) = &mut *self.0.borrow_mut();
        deferred.append(&mut response.take_deferred());
        *headers = std::mem::take(response.headers_mut());
        Err(error)
    }
}

/// Runs the handler within its middleware, of which the first is the outermost.
pub(crate) fn run(
    middleware: &[&Middleware],
    request: &mut Request,
    handler: &dyn Fn(&mut Request) -> Response,
) -> Response {
    if middleware.is_empty() {
        return handler(request);
    }
    let failed = Failed::default();
    let outcome = Next { rest: middleware, handler, failed: &failed }.run(request);
    let (headers, deferred) = failed.0.into_inner();
    let response = outcome.unwrap_or_else(|error| {
        let mut response = Response::from_error(error);
        *response.headers_mut() = headers;
        response
    });
    response.with_deferred(deferred)
}
