//! The parts of a site: the whole of it, and each application that is mounted, with what holds for everything below its
//! path.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::middleware::Middleware;
use crate::error::{BoxError, Error, Never};
use crate::http::request::Request;
use crate::http::response::{IntoResponse, Response};

/// A handler, whatever it was before.
pub(crate) type Handler = Arc<dyn Fn(&mut Request) -> Response + Send + Sync>;

pub(crate) type Before = Box<dyn Fn(&mut Request) -> Option<Response> + Send + Sync>;
pub(crate) type After = Box<dyn Fn(&mut Request, &mut Response) + Send + Sync>;
pub(crate) type ErrorPage = Box<dyn Fn(&mut Request, &Error) -> Response + Send + Sync>;

/// A part of a site.
#[derive(Default)]
pub(crate) struct Part {
    /// Nothing for the whole site.
    pub(crate) prefix: String,
    pub(crate) before: Vec<Before>,
    pub(crate) middleware: Vec<Middleware>,
    pub(crate) after: Vec<After>,
    pub(crate) error_pages: BTreeMap<u16, ErrorPage>,
    pub(crate) fallback: Option<Handler>,
}

impl Part {
    /// The same part below another path.
    pub(crate) fn below(mut self, prefix: &str) -> Part {
        self.prefix.insert_str(0, prefix);
        self
    }

    /// Whether a path lies in it.
    pub(crate) fn holds(&self, path: &str) -> bool {
        path.strip_prefix(self.prefix.as_str())
            .is_some_and(|rest| self.prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
    }
}

/// What a hook before the handler may return: nothing, or a response that ends it there.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is nothing that a hook returns",
    note = "a hook returns (), Option<Response>, or a Result of one of them"
)]
pub trait IntoHookResult {
    /// The response, when there is one.
    fn into_hook_result(self) -> Option<Response>;
}

impl IntoHookResult for () {
    fn into_hook_result(self) -> Option<Response> {
        None
    }
}

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
