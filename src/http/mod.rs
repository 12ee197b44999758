//! The request-to-page path.

mod disposition;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod form;
pub(crate) mod headers;
pub(crate) mod multipart;
pub(crate) mod pages;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod session;
pub(crate) mod store;
pub(crate) mod templates;
