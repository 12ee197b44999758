//! The developer's page as HTML, from a template.

use std::sync::LazyLock;

use minijinja::{AutoEscape, Environment};

use super::debug::Report;
use super::message::ErrorSummary;
use crate::http::templates::{private, write_value};

const NAME: &str = "aside/debug.html";

/// The page and its parts, which the panel has too.
const TEMPLATES: [(&str, &str); 4] = [
    (NAME, include_str!("../../../templates/aside/debug.html")),
    ("aside/code.css", include_str!("../../../templates/aside/code.css")),
    ("aside/excerpts.html", include_str!("../../../templates/aside/excerpts.html")),
    ("aside/frames.html", include_str!("../../../templates/aside/frames.html")),
];

static PAGES: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut pages = Environment::new();
    pages.set_auto_escape_callback(|_| AutoEscape::Html);
    pages.set_formatter(write_value);
    for (name, source) in TEMPLATES {
        if let Err(error) = pages.add_template(name, source) {
            log::error!(target: "aside::pages", "The template `{name}` of the error page is invalid: {error}");
        }
    }
    pages
});

/// Returns the page; that of a client if the template fails.
pub(super) fn page(report: &Report, summary: &ErrorSummary, nonce: &str) -> String {
    let context = private::context([("page", private::value(report)), ("csp_nonce", private::value(nonce))]);
    PAGES.get_template(NAME).and_then(|template| template.render(context)).unwrap_or_else(|error| {
        log::error!(target: "aside::pages", "Could not render the developer's page, so the client's is sent: {error}");
        super::html::page(summary, nonce)
    })
}
