//! *Serve the page now, do the rest aside.* A blocking web microframework for small server-rendered sites.
//!
//! ```
//! use aside::testing::TestClient;
//! use aside::{App, Request, Response, Result, background, redirect};
//!
//! fn charge(email: &str) -> Result<()> {
//!     println!("charging {email}");
//!     Ok(())
//! }
//!
//! fn create_order(req: &mut Request) -> Result<Response> {
//!     #[derive(serde::Deserialize)]
//!     struct Order { email: String }
//!
//!     let order: Order = req.form()?;               // 422, which names the field, if it is missing
//!     background(move || charge(&order.email));     // starts now, on another thread
//!     req.flash("success", "Processing your order!");
//!     Ok(redirect("/orders"))
//! }
//!
//! let app = App::new().post("/orders", create_order); // .run() serves it
//! let mut client = TestClient::new(app);
//! assert_eq!(client.post("/orders").form(&[("email", "ada@example.org")]).send().location(), Some("/orders"));
//! client.drain();
//! ```
//!
//! # The tour
//!
//! **An application** is an [`App`]: routes to handlers, state, and [`run`](App::run). A handler is a function of
//! `&mut` [`Request`] that returns anything that is [`IntoResponse`]: text, [`Html`], [`Json`], a [`Response`], a
//! [`redirect()`], a `Result` of these with any error.
//!
//! **Middleware** ([`App::middleware`]) wraps handlers. The [`before`](App::before) and [`after`](App::after) hooks run around
//! every handler. [`mount`](App::mount) puts one application below a path of another, and [`url_for`](Request::url_for) makes
//! the URL of a [named](routing::MethodRouter::name) route.
//!
//! **Security middleware** is on by default: cross-site requests (CSRF) and requests for other host names are refused, and
//! every response has security headers with a Content-Security-Policy ([`default_header`](App::default_header)).
//! [`rate_limit`](routing::MethodRouter::rate_limit) limits a route, such as a login. [`Config::deploy_check`] checks the
//! settings before the site goes public.
//!
//! **Input** is read from the request: [`param`](Request::param), [`query`](Request::query),
//! [`form`](Request::form), [`json`](Request::json), [`multipart`](Request::multipart) with its [`Upload`]s,
//! [`session`](Request::session), [`cookie`](Request::cookie), [`preferred_language`](Request::preferred_language).
//! [`submitted`](Request::submitted) returns a [`Form`], which shows the user's input again beside the messages about invalid
//! fields. [`once`](Request::once) handles a form once even if the client sends it twice. [`login`](Request::login),
//! [`logout`](Request::logout) and [`user`](Request::user) manage the user of a session, [`password`] hashes passwords, and a
//! [`token`] is for a link in mail. [`render`](Request::render) renders a template with a [`context!`].
//!
//! **Background tasks** do the work that the client need not wait for. [`background()`] starts a function now and returns its
//! thread's handle; [`Response::background`] starts one after the response has been sent. A [`Task`] has a name, a key, a
//! deadline, progress and retries; a [`Pool`] limits how many tasks run at once. `Mail` and `Webhook` can be sent in this way
//! too. An error or a panic in a task is one line in the log, with the task, its request and its duration; it never becomes a
//! response. A [`Failure`] says how a task ended. At shutdown the server waits for the tasks, and the log names those that it
//! abandons.
//!
//! **Isolated functions** run in a child process, for code that may crash or that computes for long: [`isolated()`] returns
//! the handle of the call's task, and a crash is a failure like any other.
//!
//! **A [`Job`]** survives the process: [`enqueue`](jobs::enqueue()) stores it, and a worker runs it and retries it until it
//! succeeds or becomes a dead job, which an operator can look at. [`Jobs`] stores jobs in SQLite, in Redis, or in memory.
//! [`App::jobs`] adds them to the application, and [`App::work`] runs them without serving pages. A job that may crash can be
//! [isolated](Job::ISOLATED). A job's writes can be [committed in the transaction that completes it](jobs). `Mail` and
//! `Webhook` are jobs too. [`sqlite::Db`] is the application's own database, which may be in the same file.
//!
//! **[`Live`]** is state that open pages show and follow. The application [updates](Live::update) it under a lock.
//! [`App::live`] defines a fragment, and `{{ live("name") }}` shows it in a page; [`fragment`](Live::fragment) and
//! [`Request::live`] are the two halves of that by hand. [`session_live`](Request::session_live) is the state of one session,
//! and [`TaskHandle::live`](tasks::TaskHandle::live) the progress of a task. [`Response::events`] and [`Response::stream`]
//! write a stream directly. **The panel** at `/_aside` shows tasks, failures, jobs and mail ([`App::panel`]), and
//! [`App::metrics`] serves metrics to Prometheus.
//!
//! **An [`Error`]** has a [`Status`], a message for the client, and a source for the log. `?` turns any error into a 500; in
//! development its page shows the location and the source lines. [`error_page`](App::error_page) sets the site's own page. A
//! closure that uses `?` ends in [`ok(())`](ok()). [`App::on_failure`] passes a report of each failed request, task and job to
//! a function of the application, and `App::alert_mail` mails them.
//!
//! **Tests** call the application through [`testing::TestClient`], which waits for background tasks, runs the jobs when the
//! test says so, and shows the mail and the failures.
//!
//! **Settings** are a [`Config`], which is read from the environment once.
//!
//! # The guide
//!
//! The [`guide`] has a page for each subject, with complete programs. Start with [your first site in ten
//! minutes](guide::first_site), with a [recipe](guide::recipes), or with the names that you know [from Flask, Rails, axum or
//! Rocket](guide::coming_from).
//!
//! - Pages: [routing and middleware](guide::routing), [forms and uploads](guide::forms),
//!   [templates](guide::templates), [sessions, login, CSRF protection and security headers](guide::sessions),
//!   [live pages](guide::live_pages)
//! - Work beside the pages: [background tasks and isolated functions](guide::background), [jobs](guide::jobs) and
//!   [what they guarantee](guide::job_guarantees), [mail and webhooks](guide::mail_and_webhooks)
//! - Operation: [testing](guide::testing), [configuration](guide::configuration),
//!   [deployment and servers](guide::deployment), [security by OWASP ASVS 5](guide::security)

#![warn(unreachable_pub)]
// Tasks and pages have abilities that only jobs, live fragments or the panel use. Without these features they are dead code,
// and their documentation names what is not there. Both are checked with the default features.
#![cfg_attr(not(feature = "panel"), allow(dead_code, unreachable_pub, unused_imports, rustdoc::broken_intra_doc_links))]

mod app;
mod background;
mod bounds;
mod cache;
mod channel;
mod commands;
pub mod config;
mod deadline;
pub mod error;
pub mod failures;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(doc)]
pub mod guide;
pub mod http;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "isolate")]
mod isolate;
#[cfg(feature = "jobs")]
pub mod jobs;
#[cfg(not(feature = "jobs"))]
#[path = "jobs/absent.rs"]
mod jobs;
#[cfg(feature = "live")]
pub mod live;
mod log_limit;
mod log_text;
#[cfg(feature = "mail")]
pub mod mail;
#[cfg(feature = "jobs")]
mod message_groups;
mod metrics;
mod nearest;
mod owned_data;
#[cfg(feature = "panel")]
mod panel;
#[cfg(not(feature = "panel"))]
#[path = "panel/absent.rs"]
mod panel;
mod panics;
mod private_files;
mod random;
pub mod server;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod sync;
pub mod testing;
#[cfg(any(feature = "mail", feature = "webhook"))]
mod trust;
mod utc;
mod watch;
#[cfg(feature = "webhook")]
pub mod webhook;
mod worker_routes;
mod worker_share;

pub use app::{App, routing};
pub use background::failure::{Failure, Outcome};
pub use background::pool::Pool;
pub use background::task::{Task, background};
pub use background::task_context::TaskContext;
pub use cache::Cache;
#[doc(inline)]
pub use config::Config;
#[doc(inline)]
pub use error::{Error, Result, Status, ok};
pub use http::files::folder::Folder;
pub use http::forms::form::Form;
pub use http::forms::multipart::Upload;
pub use http::request::Request;
pub use http::response::{Html, IntoResponse, Json, Response, redirect, redirect_or};
pub use http::session::{Session, password, token};
pub use http::url_for::absolute_url;
#[cfg(feature = "isolate")]
pub use isolate::isolated;
#[cfg(feature = "jobs")]
#[doc(inline)]
pub use jobs::{Job, Jobs};
#[cfg(feature = "live")]
#[doc(inline)]
pub use live::Live;
#[cfg(feature = "mail")]
#[doc(inline)]
pub use mail::Mail;
#[cfg(feature = "webhook")]
#[doc(inline)]
pub use webhook::Webhook;

/// Handles, retries, progress and failures of background tasks; [`Task`] and [`background()`] are at the root.
///
/// ```
/// use aside::Task;
/// use aside::tasks::{Retry, TaskHandle};
/// use std::time::Duration;
///
/// let retry = Retry::exponential(3, Duration::from_secs(1));
/// let handle: TaskHandle<u32> = Task::named("import").key("photo-17").retry(retry).spawn(|task| task.attempt());
/// assert_eq!(aside::tasks::task("photo-17").unwrap().id(), handle.id());
/// assert_eq!(handle.join().unwrap(), 1);
/// ```
pub mod tasks {
    pub use crate::background::counts::Counts;
    pub use crate::background::failure::{Cancelled, IntoOutcome};
    pub use crate::background::handle::{TaskHandle, TaskInfo, task};
    pub use crate::background::log_context::LogContext;
    pub use crate::background::plain_value::PlainValue;
    pub use crate::background::progress::{FailedAttempt, Progress, TaskState};
    pub use crate::background::request_info::RequestInfo;
    pub use crate::background::retry::Retry;
    pub use crate::background::task::RetriedTask;
    pub use crate::background::trace_id::TraceId;
    #[cfg(feature = "isolate")]
    pub use crate::isolate::{Isolated, IsolatedFunction};
    pub use crate::panics::Panic;
}

/// The parts of a `multipart/form-data` body, for forms that no type describes.
///
/// ```
/// use aside::multipart::Multipart;
/// use aside::{Request, Result};
///
/// fn sizes(req: &mut Request) -> Result<String> {
///     let form: Multipart = req.multipart()?;
///     Ok(format!("{:?}", form.files("photos").iter().map(|photo| photo.size()).collect::<Vec<_>>()))
/// }
/// ```
///
/// [`Request::form`] reads a form with files into a type with [`Upload`] fields.
pub mod multipart {
    pub use crate::http::forms::multipart::{Multipart, Part};
}

// For `context!`, which is expanded in the user's crate and can name only public items of this one.
#[cfg(feature = "templates")]
#[doc(hidden)]
pub use http::templates::private as __private;

// For `embed!`, likewise.
#[doc(hidden)]
pub use http::files::folder::private as __embedded;

/// The README, whose examples run as tests.
#[cfg(all(doctest, feature = "mail", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// Examples for the README's statement that a background task owns the values that it uses.
///
/// ```
/// fn handler(req: &mut aside::Request) {
///     let path = req.path().to_owned();
///     aside::background(move || println!("{path}"));
/// }
/// ```
///
/// ```compile_fail,E0521
/// fn handler(req: &mut aside::Request) {
///     let path = req.path();
///     aside::background(move || println!("{path}"));
/// }
/// ```
#[cfg(doctest)]
struct TasksBorrowNothing;

/// The comparison, whose programs run as tests.
#[cfg(all(doctest, feature = "mail"))]
#[doc = include_str!("../docs/comparison.md")]
struct Comparison;
