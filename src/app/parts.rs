//! The parts of a site: the site itself, and each mounted application, with the hooks, middleware and pages that apply below
//! its path.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::middleware::Middleware;
use crate::error::{BoxError, Error, Never};
use crate::http::request::Request;
use crate::http::response::{IntoResponse, Response};

/// A handler, with its type erased.
pub(crate) type Handler = Arc<dyn Fn(&mut Request) -> Response + Send + Sync>;

pub(crate) type Before = Box<dyn Fn(&mut Request) -> Option<Response> + Send + Sync>;
pub(crate) type After = Box<dyn Fn(&mut Request, &mut Response) + Send + Sync>;
pub(crate) type ErrorPage = Box<dyn Fn(&mut Request, &Error) -> Response + Send + Sync>;

/// The site itself, or a mounted application.
#[derive(Default)]
pub(crate) struct Part {
    /// The path at which it is mounted; empty for the site itself.
    pub(crate) prefix: String,
    pub(crate) before: Vec<Before>,
    pub(crate) middleware: Vec<Middleware>,
    pub(crate) after: Vec<After>,
    pub(crate) error_pages: BTreeMap<u16, ErrorPage>,
    pub(crate) fallback: Option<Handler>,
}

impl Part {
    /// Moves the part below another path.
    pub(crate) fn below(mut self, prefix: &str) -> Part {
        self.prefix.insert_str(0, prefix);
        self
    }

    /// Returns true if a path belongs to this part.
    pub(crate) fn holds(&self, path: &str) -> bool {
        path.strip_prefix(self.prefix.as_str())
            .is_some_and(|rest| self.prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

/// A return type of a before-hook: nothing, or a response in place of the handler's.
#[diagnostic::on_unimplemented(
    message = "a hook cannot return `{Self}`",
    note = "a hook returns (), Option<Response>, or a Result of one of them"
)]
pub trait IntoHookResult {
    /// Returns the response, if the hook has made one.
    fn into_hook_result(self) -> Option<Response>;
}

impl IntoHookResult for () {
    fn into_hook_result(self) -> Option<Response> {
        None
    }
}

#[diagnostic::do_not_recommend]
impl IntoHookResult for Never {
    fn into_hook_result(self) -> Option<Response> {
        self
    }
}

impl<R: IntoResponse> IntoHookResult for Option<R> {
    fn into_hook_result(self) -> Option<Response> {
        self.map(IntoResponse::into_response)
    }
}

impl<A: IntoHookResult, E: Into<BoxError>> IntoHookResult for Result<A, E> {
    fn into_hook_result(self) -> Option<Response> {
        match self {
            Ok(answer) => answer.into_hook_result(),
            Err(error) => Some(Response::from_error(Error::from_box(error))),
        }
    }
}
