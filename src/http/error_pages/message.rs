//! The message of an error, for all formats: for the client what it needs, for the developer also the internal details.

use super::sanitize::visible;
use super::source_location::locations;
use crate::error::{Error, Status};
use crate::http::request::Request;
use crate::http::router::BUILTIN;

/// The contents of an error page.
#[derive(Debug)]
pub(super) struct ErrorSummary {
    pub(super) status: Status,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) request_id: String,
    pub(super) details: Option<Details>,
}

/// The internal details, which only the developer gets.
#[derive(Debug)]
pub(super) struct Details {
    /// The messages of the error and of its sources, in order; empty for a bare status.
    pub(super) chain: Vec<String>,
    /// The file or template, and the line.
    pub(super) location: Option<String>,
    /// The address of the request in the panel.
    pub(super) panel: Option<String>,
}

impl ErrorSummary {
    pub(super) fn of(req: &Request, error: &Error, with_details: bool) -> ErrorSummary {
        let status = error.status_code();
        let own = error.message().filter(|_| !status.is_server_error());
        ErrorSummary {
            status,
            reason: if status.reason().is_empty() { "Error" } else { status.reason() },
            message: own.unwrap_or_else(|| default_message(status)).to_owned(),
            request_id: req.id().to_owned(),
            details: with_details.then(|| Details::of(req, error)).filter(|details| details.says_more(error)),
        }
    }

    /// Returns the page as plain text.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} {}\n\n{}\n", self.status.code(), self.reason, self.message);
        if let Some(details) = &self.details {
            let chain = details.chain_after(&self.message);
            let location = details.location.as_ref().map(|location| format!("at {location}"));
            chain.iter().chain(&location).for_each(|line| text += &format!("\n{line}\n"));
        }
        if self.status.is_server_error() && !self.request_id.is_empty() {
            text += &format!("\nRequest {}\n", self.request_id);
        }
        text
    }
}

impl Details {
    fn of(req: &Request, error: &Error) -> Details {
        let chain = error.causes().iter().map(|message| visible(message)).collect();
        let location = locations(error).first().map(|location| visible(&location.to_string()));
        Details { chain, location, panel: panel_address(req) }
    }

    /// Returns the chain as one line, without the page's own message; `None` if that is all. A message in the chain has no period
    /// if a source follows it.
    pub(super) fn chain_after(&self, message: &str) -> Option<String> {
        let is_shown = |first: &String| first == message || Some(first.as_str()) == message.strip_suffix('.');
        let shown = usize::from(self.chain.first().is_some_and(is_shown));
        Some(self.chain[shown..].join(": ")).filter(|chain| !chain.is_empty())
    }

    /// Returns false for the framework's own errors, such as the 404 of a path without a route, which have no details.
    fn says_more(&self, error: &Error) -> bool {
        self.location.is_some() || error.source().is_some() || error.status_code().is_server_error()
    }
}

/// Returns the address of a request in the panel: its trace, with all that it has started.
pub(super) fn panel_address(req: &Request) -> Option<String> {
    cfg!(feature = "panel").then(|| format!("{BUILTIN}/requests/{}", req.trace()))
}

/// Returns the message for an error without one, or without one for the client.
fn default_message(status: Status) -> &'static str {
    match status {
        Status::BAD_REQUEST => "The request is malformed.",
        Status::UNAUTHORIZED => "Please log in first.",
        Status::FORBIDDEN => "You are not allowed to see this page.",
        Status::NOT_FOUND => "There is no page at this address.",
        Status::METHOD_NOT_ALLOWED => "This page cannot be used in this way.",
        Status::REQUEST_TIMEOUT => "The request took too long to arrive.",
        Status::GONE => "This page has been removed permanently.",
        Status::CONTENT_TOO_LARGE => "The request is larger than this site accepts.",
        Status::UNPROCESSABLE_CONTENT => "Something in the request is invalid.",
        Status::TOO_MANY_REQUESTS => "Too many requests. Please wait a little.",
        Status::SERVICE_UNAVAILABLE => "The server is too busy. Please try again in a moment.",
        status if status.is_server_error() => "Something went wrong on our side. Please try again later.",
        _ => "The request cannot be processed.",
    }
}
