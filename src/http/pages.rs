//! The page that a visitor gets for an error.
//!
//! It says what a visitor can use: the words of a 4xx, and for a 5xx the id that the log has too. The inside is shown in
//! development alone, and there only to whoever sits at the machine.

use std::sync::LazyLock;

use minijinja::{AutoEscape, Environment};

use super::request::Request;
use super::response::Response;
use super::templates::private;
use crate::error::{Error, Status};

/// The page for an error: HTML for what asks for HTML, as every browser does when it opens a page, and text for all else.
/// It never fails.
pub(crate) fn error_page(req: &Request, error: &Error) -> Response {
    let page = Page::of(req, error);
    let response = if wants_html(req) { Response::html(page.html()) } else { Response::text(page.text()) };
    // An error is of the moment, and the next one must not be answered from a cache.
    response.status(page.status).header("Cache-Control", "no-store")
}

/// Whether the page is for somebody else than a visitor: the site's own page is not meant for them.
pub(crate) fn is_for_others(req: &Request, status: Status) -> bool {
    status.is_server_error() && is_for_the_developer(req)
}

/// What stands on the page.
struct Page {
    status: Status,
    reason: &'static str,
    message: String,
    detail: Option<String>,
    request_id: Option<String>,
}

impl Page {
    fn of(req: &Request, error: &Error) -> Page {
        let status = error.status();
        let words = if status.is_server_error() { None } else { error.message().map(str::to_owned) };
        let message = words.unwrap_or_else(|| usual_words(status).to_owned());
        let detail = Some(error.chain()).filter(|chain| is_for_the_developer(req) && *chain != message);
        // A bare status has no chain of its own to show.
        let detail = detail.filter(|chain| *chain != status.to_string());
        let request_id = Some(req.id().to_owned()).filter(|id| status.is_server_error() && !id.is_empty());
        let reason = if status.reason().is_empty() { "Error" } else { status.reason() };
        Page { status, reason, message, detail, request_id }
    }

    fn html(&self) -> String {
        let context = private::context([
            ("code", private::value(&self.status.code())),
            ("reason", private::value(self.reason)),
            ("message", private::value(&self.message)),
            ("detail", private::value(&self.detail)),
            ("request_id", private::value(&self.request_id)),
        ]);
        let page = PAGES.get_template("error.html").and_then(|page| page.render(context));
        page.unwrap_or_else(|error| {
            log::error!(target: "aside::pages", "The page for errors cannot be rendered: {error}");
            format!("<!doctype html><meta charset=\"utf-8\"><title>Error</title><h1>{}</h1>\n", self.status)
        })
    }

    fn text(&self) -> String {
        let mut text = format!("{} {}\n\n{}\n", self.status.code(), self.reason, self.message);
        if let Some(detail) = &self.detail {
            text.push_str(&format!("\n{detail}\n"));
        }
        if let Some(id) = &self.request_id {
            text.push_str(&format!("\nRequest {id}\n"));
        }
        text
    }
}

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.set_auto_escape_callback(|_| AutoEscape::Html);
    if let Err(error) = pages.add_template("error.html", include_str!("../../templates/aside/error.html")) {
        log::error!(target: "aside::pages", "The page for errors is no template: {error}");
    }
    pages
});

/// Whether the client names HTML among what it takes. `*/*` alone, as curl and scripts send it, or no word at all, means
/// somebody who reads plain text more easily.
fn wants_html(req: &Request) -> bool {
    let accepted = req.headers().get_all("Accept").flat_map(|value| value.split(','));
    accepted.into_iter().any(|range| {
        let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
        let html = matches!(parts.next().as_deref(), Some("text/html" | "application/xhtml+xml" | "text/*"));
        let refused = |part: String| part.strip_prefix("q=").is_some_and(|q| q.parse().is_ok_and(|q: f32| q <= 0.0));
        html && !parts.any(refused)
    })
}

/// Whether this is development and the request comes from the machine itself, not through a proxy: a development server
/// that can be reached from outside must not show its inside there.
fn is_for_the_developer(req: &Request) -> bool {
    let local = req.remote_addr().is_none_or(|address| address.ip().to_canonical().is_loopback());
    let forwarded = ["Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP"];
    req.config().is_development() && local && !forwarded.iter().any(|name| req.headers().contains(name))
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
        Status::SERVICE_UNAVAILABLE => "There is too much to do just now. Please try again in a moment.",
        status if status.is_server_error() => "Something went wrong on our side. Please try again later.",
        _ => "The request cannot be answered.",
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::config::{Config, Mode};
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};
    use crate::http::response::ResponseBody;

    fn request(mode: Mode, headers: &[(&str, &str)], peer: &str) -> Request {
        let config = Config { mode, ..Config::default() };
        let scope = Scope::new(Registry::new(&config), Values::default());
        let headers = Headers::from_iter(headers.iter().copied());
        let peer: SocketAddr = peer.parse().unwrap();
        let mut req = Request::new(Method::Get, "/", headers, Body::empty()).with_peer(Some(peer));
        req.admit(scope, Arc::new(config), "3f9a1c".into());
        req
    }

    fn page(mode: Mode, headers: &[(&str, &str)], error: Error) -> (Response, String) {
        let mut response = error_page(&request(mode, headers, "127.0.0.1:4000"), &error);
        match std::mem::take(&mut response.body) {
            ResponseBody::Bytes(bytes) => (response, String::from_utf8(bytes.into_owned()).unwrap()),
            _ => panic!("no bytes"),
        }
    }

    const BROWSER: &[(&str, &str)] = &[("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];

    fn broken() -> Error {
        Error::from(std::io::Error::other("disk <b>full</b>")).context("cannot save")
    }

    #[test]
    fn the_inside_stays_inside_in_production() {
        for headers in [BROWSER, &[]] {
            let (response, text) = page(Mode::Production, headers, broken());
            assert_eq!(response.status_code(), Status::INTERNAL_SERVER_ERROR);
            assert!(!text.contains("disk") && !text.contains("save") && text.contains("3f9a1c"), "{text}");
            assert_eq!(response.headers().get("Cache-Control"), Some("no-store"));
        }
    }

    #[test]
    fn development_shows_the_chain_escaped() {
        let (_, text) = page(Mode::Development, BROWSER, broken());
        assert!(text.contains("cannot save: disk &lt;b&gt;full&lt;"), "{text}");
        assert!(!text.contains("<script"));
    }

    #[test]
    fn a_development_server_tells_nothing_to_others() {
        let far = request(Mode::Development, &[], "192.0.2.1:4000");
        let proxied = request(Mode::Development, &[("X-Forwarded-For", "192.0.2.1")], "127.0.0.1:4000");
        for req in [far, proxied] {
            assert!(Page::of(&req, &broken()).detail.is_none());
        }
        let mapped = request(Mode::Development, &[], "[::ffff:127.0.0.1]:4000");
        assert!(Page::of(&mapped, &broken()).detail.is_some());
    }

    #[test]
    fn a_visitor_reads_the_words_of_a_client_error() {
        let (response, text) = page(Mode::Production, BROWSER, Error::not_found("No photo <17>."));
        assert_eq!(response.headers().get("Content-Type"), Some("text/html; charset=utf-8"));
        assert!(text.contains("No photo &lt;17&gt;.") && text.contains("404") && !text.contains("3f9a1c"), "{text}");
        let (_, text) = page(Mode::Development, &[], Error::from(Status::NOT_FOUND));
        assert_eq!(text, "404 Not Found\n\nThere is no page at this address.\n");
        let (_, text) = page(Mode::Production, BROWSER, Error::new(Status::new(418), "Tea."));
        assert!(text.contains("418 Error"), "{text}");
    }

    #[test]
    fn only_who_asks_for_html_gets_it() {
        for (accept, html) in [
            ("text/html", true),
            ("application/json, TEXT/HTML;q=0.5", true),
            ("text/*", true),
            ("*/*", false),
            ("text/html;q=0", false),
            ("image/avif,image/webp,*/*;q=0.8", false),
            ("text/plain", false),
        ] {
            assert_eq!(wants_html(&request(Mode::Production, &[("Accept", accept)], "127.0.0.1:1")), html, "{accept}");
        }
    }
}
