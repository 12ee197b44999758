//! The panel at `/_aside`: what runs aside, what ended, what failed and how, the jobs, and the mail that was written.
//!
//! It is an application that is mounted, of the same parts as any other. In development whoever sits at the machine sees
//! it; all others, and everybody in production, only when a function that the application gives says yes. To whoever may
//! not see it there is nothing there: the answer is the site's own for a path without a route.

mod badge;
mod job_actions;
mod job_snapshot;
mod jobs;
#[cfg(feature = "mail")]
mod outbox;
mod page;
mod snapshot;
mod tasks;
mod watch;

use std::sync::Arc;

use self::badge::Asker;
use self::job_snapshot::Overview;
use self::snapshot::Snapshot;
use self::watch::Watch;
use crate::app::App;
use crate::app::parts::Handler;
use crate::background::panics;
use crate::background::registry::escape;
use crate::error::{Error, Result, Status};
use crate::http::request::Request;
use crate::http::response::{IntoResponse, Response};
use crate::http::router::BUILTIN;
use crate::http::templates::error_pages;

impl App {
    /// Shows the panel at `/_aside` to those whom a function says yes to, in production too.
    ///
    /// ```
    /// use aside::{App, Request};
    ///
    /// const OWNER: u64 = 1;
    ///
    /// App::new().panel(|req: &mut Request| req.user() == Some(OWNER));
    /// ```
    ///
    /// It lists the tasks that run, wait, failed and ended, with the requests that they came from, the application's
    /// [jobs](App::jobs), and the mail that is kept in memory or in a folder. Tasks can be told to cancel there, jobs can be
    /// cancelled, retried and discarded, and queues paused. That is for those who run the site and for nobody else:
    /// addresses, texts and backtraces are shown as they are, and so is what is in a job, unless it is
    /// [private](crate::Job::PRIVATE).
    ///
    /// Everybody else gets the site's 404, or its [`fallback`](App::fallback). In development a browser on the same machine
    /// sees the panel in any case, unless the request came through a proxy. The function is asked for each request to the
    /// panel, after the site's [`before`](App::before) hooks; when it panics, that is in the log and nobody sees anything.
    pub fn panel<F>(self, guard: F) -> App
    where
        F: Fn(&mut Request) -> bool + Send + Sync + 'static,
    {
        self.state(Guard(Box::new(guard)))
    }

    /// The application with its panel, which may be behind closed doors.
    pub(crate) fn with_panel(self) -> App {
        let nothing_here = self.fallback_at(BUILTIN).unwrap_or_else(|| Arc::new(no_page));
        let panel = Panel::new(nothing_here);
        let panel = if self.has_jobs() { with_jobs(panel) } else { panel };
        self.mount(BUILTIN, panel.app)
    }
}

/// Who may see the panel beside the developer.
struct Guard(Box<dyn Fn(&mut Request) -> bool + Send + Sync>);

fn may_see(req: &mut Request) -> bool {
    error_pages::is_for_the_developer(req) || guard_says_yes(req)
}

fn guard_says_yes(req: &mut Request) -> bool {
    let Some(guard) = req.scope().get::<Guard>() else { return false };
    panics::catch(|| (guard.0)(req)).unwrap_or_else(|panic| {
        let words = format!("The guard of the panel panicked, and nobody is let in: {panic}");
        log::error!(target: "aside::panel", "{}", escape(&words));
        false
    })
}

fn no_page(_req: &mut Request) -> Response {
    Response::from_error(Status::NOT_FOUND.into())
}

/// The panel's routes. There is no way to add one that is not behind the doors.
struct Panel {
    app: App,
    nothing_here: Handler,
}

impl Panel {
    fn new(nothing_here: Handler) -> Panel {
        let app = page::with_templates(App::new()).state(Watch::new(Snapshot::of));
        let panel = Panel { app, nothing_here };
        let panel = panel
            .get("/", tasks::overview)
            .get("/live", tasks::follow_all)
            .get("/failed", tasks::failed)
            .get("/ended", tasks::ended)
            .get("/tasks/{id}", tasks::task)
            .get("/tasks/{id}/live", tasks::follow_task)
            .post("/tasks/{id}/cancel", tasks::cancel)
            .get("/panel.css", page::style_sheet);
        with_outbox(panel)
    }

    fn get(self, route: &str, f: fn(&mut Request) -> Result<Response>) -> Panel {
        let (own, others) = (self.behind_doors(f), self.behind_doors(|_| only("GET, HEAD")));
        Panel { app: self.app.get(route, own).any(route, others), ..self }
    }

    fn post(self, route: &str, f: fn(&mut Request) -> Result<Response>) -> Panel {
        let (own, others) = (self.behind_doors(f), self.behind_doors(|_| only("POST")));
        Panel { app: self.app.post(route, own).any(route, others), ..self }
    }

    /// A handler that is there for those who may see it.
    fn behind_doors(&self, f: fn(&mut Request) -> Result<Response>) -> impl Fn(&mut Request) -> Response + use<> {
        let nothing_here = self.nothing_here.clone();
        move |req| if may_see(req) { f(req).into_response() } else { nothing_here(req) }
    }
}

/// Refuses the other methods. The router does that for what is there for everybody, and would tell everybody of it.
fn only(methods: &str) -> Result<Response> {
    let error = Error::new(Status::METHOD_NOT_ALLOWED, format!("This page answers {methods}."));
    Ok(Response::from_error(error).header("Allow", methods))
}

/// Where the application has jobs.
fn with_jobs(panel: Panel) -> Panel {
    let app = panel.app.state(Watch::new(Overview::of)).state(Asker::default());
    Panel { app, ..panel }
        .get("/jobs", jobs::overview)
        .get("/jobs/live", jobs::follow_all)
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
}

#[cfg(not(feature = "mail"))]
fn with_outbox(panel: Panel) -> Panel {
    panel
}
