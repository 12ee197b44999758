//! The panel at `/_aside`: an overview of what needs a person, the tasks, the jobs and the requests with their failures, and the
//! mail that was sent.
//!
//! The panel is an application that is mounted, with the same parts as any other. In development, a user on the same
//! machine sees it; all other users, and all users in production, only if a function of the application returns true. A
//! user who may not see it gets the site's own response for a path without a route.

mod bounded_query;
mod failure_groups;
mod job_actions;
mod job_snapshot;
mod jobs;
mod moment;
#[cfg(feature = "mail")]
mod outbox;
mod overview;
mod page;
mod polled_page;
mod request_tree;
mod requests;
mod response_row;
mod snapshot;
mod sparkline;
mod tasks;

use std::sync::Arc;

use self::bounded_query::BoundedQuery;
use self::job_snapshot::{Dead, JobLists};
use self::overview::{JobsSummary, Overview};
use self::polled_page::PolledPage;
use self::snapshot::Snapshot;
use crate::app::App;
use crate::app::parts::Handler;
use crate::background::panics;
use crate::error::{Error, Result, Status};
use crate::http::error_pages;
use crate::http::request::Request;
use crate::http::response::{IntoResponse, Response};
use crate::http::router::BUILTIN;
use crate::log_text::escape;

impl App {
    /// Shows the panel at `/_aside` to users for whom a function returns true, in production too.
    ///
    /// ```
    /// use aside::{App, Request};
    ///
    /// const OWNER: u64 = 1;
    ///
    /// App::new().panel(|req: &mut Request| req.user() == Some(OWNER));
    /// ```
    ///
    /// The panel starts with what needs a person: dead jobs and failed tasks by equal errors, overdue tasks, and queues that
    /// lag. It lists the tasks, the application's [jobs](App::jobs), the requests with all that they started, and the mail
    /// that is stored in memory or in a folder. A user can cancel tasks there, search, cancel, retry and discard jobs, run
    /// schedules now, and pause queues. A request is found by the id on the user's error page: the newest 500 that failed or
    /// started work, and the newest 1,000 others, are retained. The panel is for the operators of the site only: it shows addresses, texts, source
    /// lines and backtraces unchanged, and the content of jobs unless they are
    /// [private](crate::Job::PRIVATE).
    ///
    /// All other users get the site's 404, or its [`fallback`](App::fallback). In development, a browser on the same
    /// machine sees the panel in any case, unless the request came through a proxy. The function is called for each
    /// request to the panel, after the site's [`before`](App::before) hooks. If it panics, the panic is logged and the
    /// panel is not shown.
    pub fn panel<F>(self, authorize: F) -> App
    where
        F: Fn(&mut Request) -> bool + Send + Sync + 'static,
    {
        self.link_to_panel().state(Authorize(Box::new(authorize)))
    }

    /// Returns the application with its panel, which checks access.
    pub(crate) fn with_panel(self) -> App {
        let not_found = self.fallback_at(BUILTIN).unwrap_or_else(|| Arc::new(no_page));
        let panel = Panel::new(not_found);
        let panel = if self.has_jobs() { with_jobs(panel) } else { panel };
        self.mount(BUILTIN, panel.app)
    }
}

/// The users who may see the panel, in addition to the developer.
struct Authorize(Box<dyn Fn(&mut Request) -> bool + Send + Sync>);

fn may_see(req: &mut Request) -> bool {
    error_pages::shows_details(req) || guard_allows(req)
}

fn guard_allows(req: &mut Request) -> bool {
    let Some(authorize) = req.scope().get::<Authorize>() else { return false };
    panics::catch(|| (authorize.0)(req)).unwrap_or_else(|panic| {
        let message = format!("The function of `App::panel` panicked, and access is denied: {panic}");
        log::error!(target: "aside::panel", "{}", escape(&message));
        false
    })
}

fn no_page(_req: &mut Request) -> Response {
    Response::from_error(Status::NOT_FOUND.into())
}

/// The routes of the panel. Each one that is added checks access.
struct Panel {
    app: App,
    not_found: Handler,
}

impl Panel {
    fn new(not_found: Handler) -> Panel {
        let app =
            page::with_templates(App::new()).state(PolledPage::new(Overview::of)).state(PolledPage::new(Snapshot::of));
        let panel = Panel { app, not_found };
        let panel = panel
            .get("/", overview::overview)
            .get("/live", overview::follow)
            .get("/tasks", tasks::overview)
            .get("/tasks/live", tasks::follow_all)
            .get("/tasks/failed", tasks::failed)
            .get("/tasks/ended", tasks::ended)
            .get("/tasks/{id}", tasks::task)
            .get("/tasks/{id}/live", tasks::follow_task)
            .post("/tasks/{id}/cancel", tasks::cancel)
            .get("/requests", requests::list)
            .get("/requests/{id}", requests::request)
            .get("/requests/{id}/live", requests::follow)
            .get("/panel.css", page::style_sheet);
        with_outbox(panel)
    }

    fn get(self, route: &str, f: fn(&mut Request) -> Result<Response>) -> Panel {
        let (own, others) = (self.protected(f), self.protected(|_| only("GET, HEAD")));
        Panel { app: self.app.get(route, own).any(route, others), ..self }
    }

    fn post(self, route: &str, f: fn(&mut Request) -> Result<Response>) -> Panel {
        let (own, others) = (self.protected(f), self.protected(|_| only("POST")));
        Panel { app: self.app.post(route, own).any(route, others), ..self }
    }

    /// Returns a handler that runs only for users who may see the panel.
    fn protected(&self, f: fn(&mut Request) -> Result<Response>) -> impl Fn(&mut Request) -> Response + use<> {
        let not_found = self.not_found.clone();
        move |req| if may_see(req) { f(req).into_response() } else { not_found(req) }
    }
}

/// Rejects the other methods. The router does so only for routes without an access check, and would reveal the route to
/// all users.
fn only(methods: &str) -> Result<Response> {
    let error = Error::new(Status::METHOD_NOT_ALLOWED, format!("This page accepts {methods}."));
    Ok(Response::from_error(error).header("Allow", methods))
}

/// Adds the pages about jobs, if the application has jobs.
fn with_jobs(panel: Panel) -> Panel {
    let app = panel.app.state(PolledPage::new(JobLists::of)).state(BoundedQuery::new(Dead::count));
    let app = app.state(BoundedQuery::new(JobsSummary::of));
    Panel { app, ..panel }
        .get("/jobs", jobs::overview)
        .get("/jobs/live", jobs::follow_all)
        .get("/jobs/search", jobs::search)
        .post("/schedules/run", job_actions::run_schedule)
        .post("/queues/pause", job_actions::pause)
        .post("/queues/resume", job_actions::resume)
        .post("/jobs/dead/retry", job_actions::retry_all)
        .post("/jobs/dead/discard", job_actions::discard_all)
        .get("/jobs/{id}", jobs::list_or_job)
        .get("/jobs/{id}/live", jobs::follow_job)
        .post("/jobs/{id}/cancel", job_actions::cancel)
        .post("/jobs/{id}/retry", job_actions::retry)
        .post("/jobs/{id}/discard", job_actions::discard)
}

#[cfg(feature = "mail")]
fn with_outbox(panel: Panel) -> Panel {
    panel
        .get("/outbox", outbox::list)
        .get("/outbox/{id}", outbox::mail)
        .get("/outbox/{id}/html", outbox::html)
        .get("/outbox/{id}/source", outbox::source)
        .get("/outbox/{id}/attachments/{nth}", outbox::attachment)
}

#[cfg(not(feature = "mail"))]
fn with_outbox(panel: Panel) -> Panel {
    panel
}
