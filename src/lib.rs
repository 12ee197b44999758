//! aside: serve the page now, do the rest aside.

mod app;
mod background;
mod cache;
mod config;
mod error;
mod http;
#[cfg(feature = "image")]
pub mod image;
#[cfg(feature = "mail")]
mod mail;
pub mod testing;
#[cfg(feature = "webhook")]
pub mod webhook;

pub use app::App;
pub use background::failure::{Cancelled, Failure, IntoOutcome, Outcome, Panic};
pub use background::pool::Pool;
pub use background::registry::{Counts, Origin, Progress, TaskState};
pub use background::task::{RetriedTask, Retry, Task, TaskContext, TaskHandle, TaskInfo, background, task};
pub use cache::Cache;
pub use config::{Config, Mode};
pub use error::{BoxError, Error, Result, Status, ok};
pub use http::form::Form;
pub use http::headers::Headers;
pub use http::multipart::{Multipart, Part, Upload};
pub use http::request::{Method, Request};
pub use http::response::{Html, IntoResponse, Json, Response, redirect, redirect_or, redirect_to_url};
pub use http::session::{Flash, Session};
#[cfg(feature = "mail")]
pub use mail::{Attachment, Mail, SentMail};
#[cfg(feature = "webhook")]
pub use webhook::Webhook;

// For `context!`, which is expanded in the user's crate and can name only what is public here.
#[doc(hidden)]
pub use http::templates::private as __private;
