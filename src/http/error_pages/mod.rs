//! The error page.
//!
//! It shows what the client needs: the message of a 4xx, and for a 5xx the request id, which is in the log too.
//! Internal details are shown only in development, and only to a browser on the same machine.

mod accept;
mod debug;
#[cfg(feature = "templates")]
mod debug_page;
#[cfg(not(feature = "templates"))]
#[path = "debug_page_absent.rs"]
mod debug_page;
pub(crate) mod failure_view;
mod html;
mod message;
mod problem;
pub(crate) mod sanitize;
mod source_location;

use self::accept::{Representation, preferred};
use self::debug::Report;
use self::message::ErrorSummary;
use self::problem::problem;
use crate::background::panics;
use crate::error::{Error, Status};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::log_text::escape;

/// Renders the page of an error: HTML for clients that prefer HTML, as every browser does when it opens a page, problem
/// details for clients that prefer JSON, and text for all others. The developer's page for a 5xx shows the internal
/// details. It never fails.
pub(crate) fn error_page(req: &Request, error: &Error) -> Response {
    // The `Display` of the error is code of the application, which may panic in its turn.
    let page = panics::catch(|| page(req, error)).unwrap_or_else(|panic| {
        log::error!(
            target: "aside::pages",
            "The error page panicked, so a bare status is sent: {}",
            escape(&panic.to_string())
        );
        bare(error.status_code())
    });
    // The error belongs to this request only, so no cache may store it.
    page.status(error.status_code()).header("Cache-Control", "no-store")
}

fn page(req: &Request, error: &Error) -> Response {
    let developer = shows_details(req);
    let summary = ErrorSummary::of(req, error, developer);
    let report = || Report::of(req, error, &summary);
    match (preferred(req), developer && summary.status.is_server_error()) {
        (Representation::Json, _) => problem(&summary),
        (Representation::Html, true) => Response::html(debug_page::page(&report(), &summary, &req.csp_nonce())),
        (Representation::Html, false) => Response::html(html::page(&summary, &req.csp_nonce())),
        (Representation::Text, true) => Response::text(report().text()),
        (Representation::Text, false) => Response::text(summary.text()),
    }
}

/// Returns a minimal page, for when the error page itself fails.
fn bare(status: Status) -> Response {
    Response::text(format!("{status}\n"))
}

/// Returns true in development if the request comes from the same machine and not through a proxy: a development server
/// that is reachable from outside must not show internal details there. Such a request gets the details of a 5xx even
/// if the application has its own page for it.
pub(crate) fn shows_details(req: &Request) -> bool {
    let local = req.remote_addr().is_none_or(|address| address.ip().to_canonical().is_loopback());
    let forwarded = ["Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP"];
    req.config().is_development() && local && !forwarded.iter().any(|name| req.headers().contains(name))
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
            _ => panic!("not bytes"),
        }
    }

    const BROWSER: &[(&str, &str)] = &[("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];

    fn broken() -> Error {
        Error::from(std::io::Error::other("disk <b>full</b>")).context("cannot save")
    }

    #[test]
    fn production_shows_no_internal_details() {
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
        assert!(text.contains("cannot save") && text.contains("disk &lt;b&gt;full&lt;"), "{text}");
        assert!(!text.contains("<b>full") && !text.contains("<script"));
    }

    #[test]
    fn a_development_server_shows_details_to_local_clients_only() {
        let far = request(Mode::Development, &[], "192.0.2.1:4000");
        let proxied = request(Mode::Development, &[("X-Forwarded-For", "192.0.2.1")], "127.0.0.1:4000");
        for req in [far, proxied] {
            let ResponseBody::Bytes(text) = error_page(&req, &broken()).body else { panic!("not bytes") };
            assert!(!shows_details(&req) && !String::from_utf8_lossy(&text).contains("disk"), "{text:?}");
        }
        for local in ["127.0.0.1:4000", "[::1]:4000", "[::ffff:127.0.0.1]:4000"] {
            assert!(shows_details(&request(Mode::Development, &[], local)), "{local}");
            assert!(!shows_details(&request(Mode::Production, &[], local)), "{local}");
        }
    }

    #[test]
    fn a_client_error_shows_its_message() {
        let (response, text) = page(Mode::Production, BROWSER, Error::not_found("No photo <17>."));
        assert_eq!(response.headers().get("Content-Type"), Some("text/html; charset=utf-8"));
        assert!(text.contains("No photo &lt;17&gt;.") && text.contains("404") && !text.contains("3f9a1c"), "{text}");
        let (_, text) = page(Mode::Development, &[], Error::from(Status::NOT_FOUND));
        assert_eq!(text, "404 Not Found\n\nThere is no page at this address.\n");
        let (_, text) = page(Mode::Production, BROWSER, Error::new(Status::new(418), "Tea."));
        assert!(text.contains("418 Error"), "{text}");
    }

    #[test]
    fn the_style_has_the_nonce_of_the_policy() {
        for error in [broken(), Error::from(Status::NOT_FOUND)] {
            let req = request(Mode::Development, BROWSER, "127.0.0.1:4000");
            let ResponseBody::Bytes(page) = error_page(&req, &error).body else { panic!("not bytes") };
            let style = format!("<style nonce=\"{}\">", req.csp_nonce());
            assert_eq!(String::from_utf8_lossy(&page).matches(&style).count(), 1);
        }
    }
}
