//! What is said of an error, in whatever form: to a visitor what a visitor can use, to the developer the inside too.

use serde::Serialize;

use super::place::places;
use super::visible::visible;
use crate::error::{Error, Status};
use crate::http::request::Request;

/// What stands on the page of an error.
#[derive(Debug, Serialize)]
pub(super) struct Words {
    #[serde(skip)]
    pub(super) status: Status,
    code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) request_id: String,
    pub(super) inside: Option<Inside>,
}

/// What nobody but the developer is told.
#[derive(Debug, Serialize)]
pub(super) struct Inside {
    /// The words of the error and of what caused it, in order; none for a bare status.
    pub(super) chain: Vec<String>,
    /// File or template, and line.
    pub(super) place: Option<String>,
}

impl Words {
    pub(super) fn of(req: &Request, error: &Error, for_the_developer: bool) -> Words {
        let status = error.status();
        let own = error.message().filter(|_| !status.is_server_error());
        Words {
            status,
            code: status.code(),
            reason: if status.reason().is_empty() { "Error" } else { status.reason() },
            message: own.unwrap_or_else(|| usual_words(status)).to_owned(),
            request_id: req.id().to_owned(),
            inside: for_the_developer.then(|| Inside::of(error)).filter(|inside| inside.says_more(error)),
        }
    }

    /// The page for a terminal.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} {}\n\n{}\n", self.code, self.reason, self.message);
        if let Some(Inside { chain, place }) = &self.inside {
            let chain = Some(chain.join(": ")).filter(|chain| *chain != self.message && !chain.is_empty());
            let place = place.as_ref().map(|place| format!("at {place}"));
            chain.iter().chain(&place).for_each(|line| text += &format!("\n{line}\n"));
        }
        if self.status.is_server_error() && !self.request_id.is_empty() {
            text += &format!("\nRequest {}\n", self.request_id);
        }
        text
    }
}

impl Inside {
    fn of(error: &Error) -> Inside {
        let chain = error.causes().iter().map(|words| visible(words)).collect();
        Inside { chain, place: places(error).first().map(|place| visible(&place.to_string())) }
    }

    /// What the framework itself says to a visitor, such as the 404 of a path without a route, has no inside.
    fn says_more(&self, error: &Error) -> bool {
        self.place.is_some() || error.source().is_some() || error.status().is_server_error()
    }
}

/// What to say when the error says nothing, or nothing for a visitor.
fn usual_words(status: Status) -> &'static str {
    match status {
        Status::BAD_REQUEST => "The request is malformed.",
        Status::UNAUTHORIZED => "Please log in first.",
        Status::FORBIDDEN => "This is not for you to see.",
        Status::NOT_FOUND => "There is no page at this address.",
        Status::METHOD_NOT_ALLOWED => "This address does not answer to that method.",
        Status::REQUEST_TIMEOUT => "The request took too long to arrive.",
        Status::GONE => "The page that was here is gone for good.",
        Status::CONTENT_TOO_LARGE => "That is more than this site takes.",
        Status::UNPROCESSABLE_CONTENT => "Something that was sent cannot be right.",
        Status::TOO_MANY_REQUESTS => "That was too often. Please wait a little.",
        Status::SERVICE_UNAVAILABLE => "The server is too busy. Please try again in a moment.",
        status if status.is_server_error() => "Something went wrong on our side. Please try again later.",
        _ => "The request cannot be answered.",
    }
}
