//! The response to a request as the panel shows it, in a list and on the page of the request.

use serde::Serialize;

use super::moment::Moment;
use crate::background::request_log::{EndedRequest, RequestLog};
use crate::http::error_pages::sanitize::{visible_line, visible_up_to};
use crate::log_text::span;

/// The lengths, in characters, of a name and of an error.
pub(super) const LINE: usize = 200;
const ERROR: usize = 2_000;

/// The response to a request that has ended.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct ResponseRow {
    route: Option<String>,
    status: u16,
    has_failed: bool,
    began: Option<Moment>,
    took: String,
    started: u32,
    error: Option<ErrorRow>,
}

/// An error with its location.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct ErrorRow {
    pub(super) message: String,
    pub(super) location: Option<String>,
}

impl ResponseRow {
    pub(super) fn of(request: &EndedRequest, log: &RequestLog) -> ResponseRow {
        let error = request.error.as_ref().map(|error| ErrorRow::of(&error.message, error.location.as_deref()));
        ResponseRow {
            route: log.route(request).map(|route| visible_line(route, LINE)),
            status: request.status,
            has_failed: request.has_failed(),
            began: Moment::of_system(request.began_at()),
            took: span(request.elapsed).to_string(),
            started: request.started,
            error,
        }
    }
}

impl ErrorRow {
    pub(super) fn of(message: &str, location: Option<&str>) -> ErrorRow {
        ErrorRow { message: visible_up_to(message, ERROR), location: location.map(|at| visible_line(at, LINE)) }
    }
}
