//! HTTP: header fields, methods, cookies, flash messages, and redirects to other sites.
//!
//! ```
//! use aside::http::{Method, redirect_to_url};
//! use aside::{IntoResponse, Request, Response};
//!
//! fn elsewhere(req: &mut Request) -> Response {
//!     match req.method() {
//!         Method::Get => redirect_to_url("https://example.org/"),
//!         _ => ().into_response(),
//!     }
//! }
//! ```

pub(crate) mod cache_control;
pub(crate) mod cookie;
pub(crate) mod error_pages;
pub(crate) mod files;
pub(crate) mod forms;
pub(crate) mod headers;
pub(crate) mod html;
pub(crate) mod input;
pub(crate) mod language;
#[cfg(unix)]
pub(crate) mod live_reload;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod security;
pub(crate) mod session;
pub(crate) mod stream;
#[cfg(feature = "templates")]
pub(crate) mod templates;
pub(crate) mod url_for;

pub use self::cookie::{Cookie, SameSite};
pub use self::headers::Headers;
pub use self::input::{FromInput, FromParam};
pub use self::request::Method;
pub use self::response::redirect_to_url;
pub use self::session::Flash;
