//! The page that a visitor gets for an error.
//!
//! It says what a visitor can use: the words of a 4xx, and for a 5xx the id that the log has too. The inside is shown in
//! development alone, and there only to whoever sits at the machine.

use std::sync::LazyLock;

use minijinja::{AutoEscape, Environment, Value};

mod accept;
mod debug;
mod frames;
mod place;
mod problem;
pub(crate) mod visible;
mod words;

use self::accept::{Representation, preferred};
use self::debug::Report;
use self::problem::problem;
use self::words::Words;
use crate::background::panics;
use crate::background::registry::escape;
use crate::error::{Error, Status};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::templates::private;

/// The page for an error: HTML for what prefers HTML, as every browser does when it opens a page, problem details for what
/// prefers JSON, and text for all else. The developer's page for a 5xx shows the inside. It never fails.
pub(crate) fn error_page(req: &Request, error: &Error) -> Response {
    // What the error says is code of the application's, which may panic in its turn.
    let page = panics::catch(|| page(req, error)).unwrap_or_else(|panic| {
        log::error!(target: "aside::pages", "The page for an error panicked: {}", escape(&panic.to_string()));
        bare(error.status())
    });
    // An error is of the moment, and the next one must not be answered from a cache.
    page.status(error.status()).header("Cache-Control", "no-store")
}

fn page(req: &Request, error: &Error) -> Response {
    let developer = is_for_the_developer(req);
    let words = Words::of(req, error, developer);
    let report = || Report::of(req, error, &words);
    match (preferred(req), developer && words.status.is_server_error()) {
        (Representation::Json, _) => problem(&words),
        (Representation::Html, true) => html(req, words.status, "debug.html", private::value(&report())),
        (Representation::Html, false) => html(req, words.status, "error.html", private::value(&words)),
        (Representation::Text, true) => Response::text(report().text()),
        (Representation::Text, false) => Response::text(words.text()),
    }
}

fn html(req: &Request, status: Status, name: &str, page: Value) -> Response {
    let context = private::context([("page", page), ("csp_nonce", Value::from(req.csp_nonce()))]);
    match PAGES.get_template(name).and_then(|template| template.render(context)) {
        Ok(page) => Response::html(page),
        Err(error) => {
            log::error!(target: "aside::pages", "The page for errors cannot be rendered: {error}");
            bare(status)
        }
    }
}

/// What can still be said when the page itself fails.
fn bare(status: Status) -> Response {
    Response::text(format!("{status}\n"))
}

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.set_auto_escape_callback(|_| AutoEscape::Html);
    let sources = [
        ("debug.html", include_str!("../../../templates/aside/debug.html")),
        ("error.html", include_str!("../../../templates/aside/error.html")),
    ];
    for (name, source) in sources {
        if let Err(error) = pages.add_template(name, source) {
            log::error!(target: "aside::pages", "The page for errors is no template: {error}");
        }
    }
    pages
});

/// Whether this is development and the request comes from the machine itself, not through a proxy: a development server
/// that can be reached from outside must not show its inside there. Such a request gets the inside of a 5xx even where the
/// application has a page of its own for it.
pub(crate) fn is_for_the_developer(req: &Request) -> bool {
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
        assert!(text.contains("cannot save") && text.contains("disk &lt;b&gt;full&lt;"), "{text}");
        assert!(!text.contains("<b>full") && !text.contains("<script"));
    }

    #[test]
    fn a_development_server_tells_nothing_to_others() {
        let far = request(Mode::Development, &[], "192.0.2.1:4000");
        let proxied = request(Mode::Development, &[("X-Forwarded-For", "192.0.2.1")], "127.0.0.1:4000");
        for req in [far, proxied] {
            let ResponseBody::Bytes(text) = error_page(&req, &broken()).body else { panic!("no bytes") };
            assert!(!is_for_the_developer(&req) && !String::from_utf8_lossy(&text).contains("disk"), "{text:?}");
        }
        for local in ["127.0.0.1:4000", "[::1]:4000", "[::ffff:127.0.0.1]:4000"] {
            assert!(is_for_the_developer(&request(Mode::Development, &[], local)), "{local}");
            assert!(!is_for_the_developer(&request(Mode::Production, &[], local)), "{local}");
        }
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
    fn the_style_has_the_nonce_of_the_policy() {
        for error in [broken(), Error::from(Status::NOT_FOUND)] {
            let req = request(Mode::Development, BROWSER, "127.0.0.1:4000");
            let ResponseBody::Bytes(page) = error_page(&req, &error).body else { panic!("no bytes") };
            let style = format!("<style nonce=\"{}\">", req.csp_nonce());
            assert_eq!(String::from_utf8_lossy(&page).matches(&style).count(), 1);
        }
    }
}
