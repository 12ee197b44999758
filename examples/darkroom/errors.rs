//! The error pages in the site's own design.

use aside::{Error, Request, Response, Result, Status, context};

use crate::site::size;

/// The statuses with such a page. 421 is not among them: under a foreign host name the style sheet is refused too, and the
/// built-in page has its own.
pub const STATUSES: [u16; 13] = [400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503];

/// Returns the error page: the fault, and the next step for the visitor.
pub fn page(req: &mut Request, error: &Error) -> Result<Response> {
    let status = error.status_code();
    // A fault of the server is logged. The visitor sees the id of the request, to ask about it.
    let words = error.message().filter(|_| status.is_client_error());
    let code = status.code();
    let is_ours = status.is_server_error();
    req.render(
        "error.html",
        context! { code, is_ours, heading => heading(status), words, advice => advice(req, status) },
    )
}

fn heading(status: Status) -> &'static str {
    match status {
        Status::FORBIDDEN => "This came from somewhere else",
        Status::NOT_FOUND => "Nothing has been hung here",
        Status::METHOD_NOT_ALLOWED => "This page cannot do that",
        Status::CONTENT_TOO_LARGE => "That is too large for our trays",
        Status::TOO_MANY_REQUESTS => "One at a time, please",
        Status::SERVICE_UNAVAILABLE => "The darkroom is busy",
        status if status.is_server_error() => "Something spilled",
        _ => "That did not come out",
    }
}

fn advice(req: &Request, status: Status) -> String {
    let config = req.config();
    match status {
        Status::FORBIDDEN => "Nothing was changed.".into(),
        Status::NOT_FOUND => "The address may be mistyped, or the photo was taken down.".into(),
        Status::METHOD_NOT_ALLOWED => "It has a form or a button for that: go to the page, and use it.".into(),
        Status::CONTENT_TOO_LARGE => format!(
            "An upload takes up to {}, any other form up to {}. Save the photo smaller, and send it again.",
            size(config.max_upload),
            size(config.max_form)
        ),
        Status::TOO_MANY_REQUESTS => "Nothing is lost: go back, and what you typed is still there.".into(),
        Status::SERVICE_UNAVAILABLE => "Please try again in a minute.".into(),
        status if status.is_server_error() => {
            "It is in our log. Please try again in a while; if it stays, write to us and name the request below.".into()
        }
        _ => "Go back, look it over, and try again.".into(),
    }
}
