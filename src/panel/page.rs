//! The common part of all pages of the panel: their templates, their style sheet, and their own headers, so that no
//! setting of the site breaks them.

use std::sync::LazyLock;

use serde::Serialize;

use super::bounded_query::BoundedQuery;
use super::job_snapshot::Dead;
use crate::app::App;
use crate::context;
use crate::error::{Result, Status};
use crate::http::files::hashes;
use crate::http::request::Request;
use crate::http::response::{Response, redirect_or};
use crate::http::router::BUILTIN;

const TEMPLATES: &[(&str, &str)] = &[
    ("aside/excerpts.html", include_str!("../../templates/aside/excerpts.html")),
    ("aside/frames.html", include_str!("../../templates/aside/frames.html")),
    ("aside/panel_base.html", include_str!("../../templates/aside/panel_base.html")),
    ("aside/panel_failure.html", include_str!("../../templates/aside/panel_failure.html")),
    ("aside/panel_gone.html", include_str!("../../templates/aside/panel_gone.html")),
    ("aside/panel_job.html", include_str!("../../templates/aside/panel_job.html")),
    ("aside/panel_job_all.html", include_str!("../../templates/aside/panel_job_all.html")),
    ("aside/panel_job_do.html", include_str!("../../templates/aside/panel_job_do.html")),
    ("aside/panel_job_list.html", include_str!("../../templates/aside/panel_job_list.html")),
    ("aside/panel_job_record.html", include_str!("../../templates/aside/panel_job_record.html")),
    ("aside/panel_job_rows.html", include_str!("../../templates/aside/panel_job_rows.html")),
    ("aside/panel_job_outage.html", include_str!("../../templates/aside/panel_job_outage.html")),
    ("aside/panel_jobs.html", include_str!("../../templates/aside/panel_jobs.html")),
    ("aside/panel_job_groups.html", include_str!("../../templates/aside/panel_job_groups.html")),
    ("aside/panel_job_search.html", include_str!("../../templates/aside/panel_job_search.html")),
    ("aside/panel_job_search_form.html", include_str!("../../templates/aside/panel_job_search_form.html")),
    ("aside/panel_jobs_overview.html", include_str!("../../templates/aside/panel_jobs_overview.html")),
    ("aside/panel_live.html", include_str!("../../templates/aside/panel_live.html")),
    ("aside/panel_macros.html", include_str!("../../templates/aside/panel_macros.html")),
    ("aside/panel_overview.html", include_str!("../../templates/aside/panel_overview.html")),
    ("aside/panel_list.html", include_str!("../../templates/aside/panel_list.html")),
    ("aside/panel_record.html", include_str!("../../templates/aside/panel_record.html")),
    ("aside/panel_request.html", include_str!("../../templates/aside/panel_request.html")),
    ("aside/panel_request_ids.html", include_str!("../../templates/aside/panel_request_ids.html")),
    ("aside/panel_request_rows.html", include_str!("../../templates/aside/panel_request_rows.html")),
    ("aside/panel_request_tree.html", include_str!("../../templates/aside/panel_request_tree.html")),
    ("aside/panel_requests.html", include_str!("../../templates/aside/panel_requests.html")),
    ("aside/panel_rows.html", include_str!("../../templates/aside/panel_rows.html")),
    ("aside/panel_task.html", include_str!("../../templates/aside/panel_task.html")),
    ("aside/panel_tasks.html", include_str!("../../templates/aside/panel_tasks.html")),
    #[cfg(feature = "mail")]
    ("aside/panel_mail.html", include_str!("../../templates/aside/panel_mail.html")),
    #[cfg(feature = "mail")]
    ("aside/panel_outbox.html", include_str!("../../templates/aside/panel_outbox.html")),
];

const STYLE: &str =
    concat!(include_str!("../../templates/aside/code.css"), include_str!("../../templates/aside/panel.css"));

/// All resources come from the site itself, and nothing is inline: no nonce either.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Returns the application with the panel's templates.
pub(super) fn with_templates(app: App) -> App {
    TEMPLATES.iter().fold(app, |app, (name, source)| app.template(name, source))
}

/// Returns a page of the panel. It is not cached, since its content changes and is not public.
pub(super) fn page(req: &mut Request, template: &str, title: &str, context: impl Serialize) -> Result<Response> {
    let head = context! { title, style => &*STYLE_ADDRESS, links => links(req) };
    let response = req.render(template, context! { page => head, shown => context })?;
    Ok(private(response).header("Content-Security-Policy", POLICY))
}

/// A link of the navigation.
#[derive(Serialize)]
struct Link {
    path: String,
    title: &'static str,
    /// The value of `aria-current`: `page` on the page itself, `true` on the pages below it.
    current: Option<&'static str>,
    /// The number of dead jobs.
    dead: Option<u64>,
}

/// Returns the links of the navigation. Each page is below one of them.
fn links(req: &Request) -> Vec<Link> {
    let jobs = req.jobs().ok();
    let dead = jobs.as_ref().and_then(|jobs| req.state::<BoundedQuery<Dead>>().ask(jobs));
    let dead = dead.and_then(|answer| answer.as_ref().as_ref().ok().map(|dead| dead.0)).filter(|dead| *dead > 0);
    let sections = [
        ("", "Overview", true),
        ("/tasks", "Tasks", true),
        ("/jobs", "Jobs", jobs.is_some()),
        ("/requests", "Requests", true),
        ("/outbox", "Mail", cfg!(feature = "mail")),
    ];
    let link = |(path, title, _)| {
        let path = format!("{BUILTIN}{path}");
        let rest = req.path().trim_end_matches('/').strip_prefix(&path);
        let current = match rest {
            Some("") => Some("page"),
            Some(rest) if rest.starts_with('/') && path != BUILTIN => Some("true"),
            _ => None,
        };
        Link { path, title, current, dead: dead.filter(|_| title == "Jobs") }
    };
    sections.into_iter().filter(|(_, _, exists)| *exists).map(link).collect()
}

/// Returns the page for a record that no longer exists, with a link to all records.
pub(super) fn gone(req: &mut Request, text: &str, all: (&str, &str)) -> Result<Response> {
    let (path, link) = all;
    let page = page(req, "aside/panel_gone.html", "Not found", context! { text, path, link })?;
    Ok(page.status(Status::NOT_FOUND))
}

/// Redirects to the page with the button (`?back=`), if it is a page of this site.
pub(super) fn back(req: &Request, or: &str) -> Result<Response> {
    let back = req.query_pairs()?.into_iter().find(|(name, _)| name == "back");
    Ok(redirect_or(back.as_ref().map_or(or, |(_, path)| path), or))
}

pub(super) fn private(response: Response) -> Response {
    response.header("Cache-Control", "no-store")
}

/// Returns the style sheet. A browser caches it for a year, under an address that changes with it.
pub(super) fn style_sheet(_req: &mut Request) -> Result<Response> {
    let response = Response::bytes("text/css; charset=utf-8", STYLE.as_bytes()).marked_as_asset();
    Ok(response.header("Cache-Control", "private, max-age=31536000, immutable"))
}

static STYLE_ADDRESS: LazyLock<String> =
    LazyLock::new(|| format!("{BUILTIN}/panel.css?v={}", hashes::of(STYLE.as_bytes())));
