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
//!     let order: Order = req.form()?;               // 422, naming the field, when it is not there
//!     background(move || charge(&order.email));     // on a thread of its own, from now on
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
//! [`before`](App::before) and [`after`](App::after) run around every handler, [middleware](App::middleware) wraps it, [`mount`](App::mount) puts one application
//! below a path of another, [named](routing::MethodRouter::name) routes are found by [`url_for`](Request::url_for).
//!
//! **What stands in front of the handlers** is on by default: forms of other sites and other host names are refused, and every
//! response has security headers with a Content-Security-Policy ([`default_header`](App::default_header)).
//! [`rate_limit`](routing::MethodRouter::rate_limit) is for a login; [`Config::deploy_check`] looks at the settings before the site goes public.
//!
//! **What a visitor sent** comes out of the request: [`param`](Request::param), [`query`](Request::query),
//! [`form`](Request::form), [`json`](Request::json), [`multipart`](Request::multipart) with its [`Upload`]s,
//! [`session`](Request::session), [`cookie`](Request::cookie). [`submitted`](Request::submitted) gives a [`Form`] that shows
//! what was typed beside what was wrong, and [`once`](Request::once) answers a form that is sent twice once. Who the visitor is comes from [`login`](Request::login), [`logout`](Request::logout) and
//! [`user`](Request::user); [`password`] keeps passwords. [`render`](Request::render) makes a page of a template and a
//! [`context!`].
//!
//! **What the visitor need not wait for** is set aside. [`background()`] begins now and gives the thread's handle back;
//! [`Response::background`] begins once the response has gone out; a [`Task`] has a name, a key, a deadline, progress and
//! retries; a [`Pool`] bounds how many run at once. `Mail` and `Webhook` go the same way. An error or a panic there is one
//! line in the log, with the task, the request that it came from, and the time it took; never a response. A [`Failure`]
//! tells the ways of ending apart. At shutdown all of it is waited for, and what is given up is named.
//!
//! **What may crash, or computes for long,** runs in a child process: [`isolated()`] gives the value of a function back, whose
//! crash is a failure like any other.
//!
//! **What must survive the process** is a [`Job`]: a value that is written down by [`enqueue`](jobs::enqueue()) and run by a worker,
//! again and again until it is done, or kept as dead for somebody to look at. [`Jobs`] keeps them in SQLite, in Redis, or in
//! memory; [`App::jobs`] gives them to the application, [`App::work`] runs them without serving pages. One that may crash is
//! [isolated](Job::ISOLATED); what one writes can be [committed with its end](Jobs::sqlite). `Mail` and `Webhook` are jobs too.
//!
//! **What changes while it is looked at** is a [`Live`]: state that is [updated](Live::update) under a lock, shown by
//! `{{ live("name") }}` in a page as [`App::live`] defines it, and followed from there; by hand it is [`fragment`](Live::fragment) and
//! [`Request::live`]. Each session has its own by [`session_live`](Request::session_live). A task's progress is one
//! ([`TaskHandle::live`](tasks::TaskHandle::live)). [`Response::events`] and [`Response::stream`] write by hand. **The panel** at `/_aside` shows what
//! was set aside, what failed and how, and the mail ([`App::panel`]).
//!
//! **When something goes wrong** it is an [`Error`]: a [`Status`], words for the visitor, a source for the log. `?` takes any
//! error as a 500, with its place and its source lines on the page in development. [`error_page`](App::error_page) is the
//! site's own. A closure that uses `?` ends in [`ok(())`](ok()).
//!
//! **Tests** call the application through [`testing::TestClient`], which waits for what was set aside, runs the jobs when the
//! test says so, and shows its mail and its failures.
//!
//! **Settings** are a [`Config`], read from the environment once.

#![warn(unreachable_pub)]

mod app;
mod background;
mod bounds;
mod cache;
pub mod config;
mod deadline;
pub mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod http;
#[cfg(feature = "image")]
pub mod image;
mod isolate;
pub mod jobs;
pub mod live;
mod log_limit;
#[cfg(feature = "mail")]
pub mod mail;
mod panel;
mod panics;
#[cfg(any(feature = "sqlite", feature = "mail"))]
mod private_files;
pub mod server;
mod sync;
pub mod testing;
#[cfg(any(feature = "mail", feature = "webhook"))]
mod trust;
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
pub use http::forms::form::Form;
pub use http::forms::multipart::Upload;
pub use http::request::Request;
pub use http::response::{Html, IntoResponse, Json, Response, redirect, redirect_or};
pub use http::session::{Session, password};
pub use isolate::isolated;
#[doc(inline)]
pub use jobs::{Job, Jobs};
#[doc(inline)]
pub use live::Live;
#[cfg(feature = "mail")]
#[doc(inline)]
pub use mail::Mail;
#[cfg(feature = "webhook")]
#[doc(inline)]
pub use webhook::Webhook;

/// What belongs to background tasks besides [`Task`] and [`background()`]: handles, retries, progress, failures.
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
    pub use crate::background::plain_value::PlainValue;
    pub use crate::background::progress::{Progress, TaskState};
    pub use crate::background::request_info::RequestInfo;
    pub use crate::background::retry::Retry;
    pub use crate::background::task::RetriedTask;
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

// For `context!`, which is expanded in the user's crate and can name only what is public here.
#[doc(hidden)]
pub use http::templates::private as __private;

/// The README's examples are tests too.
#[cfg(all(doctest, feature = "mail", feature = "sqlite"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The README: a background task owns what it uses.
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

/// The programs of the comparison are tests too.
#[cfg(all(doctest, feature = "mail"))]
#[doc = include_str!("../docs/comparison.md")]
struct Comparison;

/// The programs of the guide are tests too.
#[cfg(doctest)]
mod guide {
    #[cfg(all(feature = "mail", feature = "image"))]
    #[doc = include_str!("../docs/guide/01-first-site.md")]
    struct FirstSite;

    #[doc = include_str!("../docs/guide/02-routing.md")]
    struct Routing;

    #[cfg(feature = "image")]
    #[doc = include_str!("../docs/guide/03-forms.md")]
    struct Forms;

    #[doc = include_str!("../docs/guide/04-sessions.md")]
    struct Sessions;

    #[doc = include_str!("../docs/guide/05-templates.md")]
    struct Templates;

    #[doc = include_str!("../docs/guide/06-background.md")]
    struct Background;

    #[cfg(feature = "sqlite")]
    #[doc = include_str!("../docs/guide/07-jobs.md")]
    struct Jobs;

    #[doc = include_str!("../docs/guide/08-live-pages.md")]
    struct LivePages;

    #[cfg(all(feature = "mail", feature = "webhook"))]
    #[doc = include_str!("../docs/guide/09-mail-and-webhooks.md")]
    struct MailAndWebhooks;

    #[cfg(feature = "mail")]
    #[doc = include_str!("../docs/guide/10-testing.md")]
    struct Testing;

    #[doc = include_str!("../docs/guide/11-configuration.md")]
    struct Configuration;

    #[doc = include_str!("../docs/guide/12-deployment.md")]
    struct Deployment;

    #[doc = include_str!("../docs/guide/13-coming-from.md")]
    struct ComingFrom;
}
