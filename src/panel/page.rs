//! What all pages of the panel have: their templates, their style sheet, and headers of their own, so that no setting of
//! the site breaks them.

use std::sync::LazyLock;

use serde::Serialize;

use crate::app::{App, OWN};
use crate::context;
use crate::error::{Result, Status};
use crate::http::files::hashes;
use crate::http::request::Request;
use crate::http::response::Response;

const TEMPLATES: &[(&str, &str)] = &[
    ("aside/panel.html", include_str!("../../templates/aside/panel.html")),
    ("aside/panel_base.html", include_str!("../../templates/aside/panel_base.html")),
    ("aside/panel_gone.html", include_str!("../../templates/aside/panel_gone.html")),
    ("aside/panel_list.html", include_str!("../../templates/aside/panel_list.html")),
    ("aside/panel_record.html", include_str!("../../templates/aside/panel_record.html")),
    ("aside/panel_rows.html", include_str!("../../templates/aside/panel_rows.html")),
    ("aside/panel_task.html", include_str!("../../templates/aside/panel_task.html")),
    ("aside/panel_tasks.html", include_str!("../../templates/aside/panel_tasks.html")),
    #[cfg(feature = "mail")]
    ("aside/panel_mail.html", include_str!("../../templates/aside/panel_mail.html")),
    #[cfg(feature = "mail")]
    ("aside/panel_outbox.html", include_str!("../../templates/aside/panel_outbox.html")),
];

const STYLE: &str = include_str!("../../templates/aside/panel.css");

/// Everything from the site itself, and nothing in the page: no nonce either.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The application with the panel's templates.
pub(super) fn with_templates(app: App) -> App {
    TEMPLATES.iter().fold(app, |app, (name, source)| app.template(name, source))
}

/// A page of the panel. Nobody keeps it: it is of the moment, and not for everybody.
pub(super) fn page(req: &mut Request, template: &str, title: &str, context: impl Serialize) -> Result<Response> {
    let head = context! { title, style => &*STYLE_ADDRESS, has_outbox => cfg!(feature = "mail") };
    let response = req.render(template, context! { page => head, shown => context })?;
    Ok(private(response).header("Content-Security-Policy", POLICY))
}

/// The page for what is not remembered any more.
pub(super) fn gone(req: &mut Request, words: &str) -> Result<Response> {
    let page = page(req, "aside/panel_gone.html", "Not remembered", context! { words })?;
    Ok(page.status(Status::NOT_FOUND))
}

pub(super) fn private(response: Response) -> Response {
    response.header("Cache-Control", "no-store")
}

/// Kept by a browser for a year, under an address that changes with it.
pub(super) fn style_sheet(_req: &mut Request) -> Result<Response> {
    let response = Response::bytes("text/css; charset=utf-8", STYLE.as_bytes());
    Ok(response.header("Cache-Control", "private, max-age=31536000, immutable"))
}

static STYLE_ADDRESS: LazyLock<String> =
    LazyLock::new(|| format!("{OWN}/panel.css?v={}", hashes::of(STYLE.as_bytes())));
