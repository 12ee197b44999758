//! HTTP: requests, responses, and the modules that a page is made of.

pub(crate) mod cache_control;
pub(crate) mod files;
pub(crate) mod forms;
pub(crate) mod headers;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod security;
pub(crate) mod session;
pub(crate) mod stream;
pub(crate) mod templates;
pub(crate) mod url_for;
