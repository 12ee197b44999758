//! The request-to-page path.

pub(crate) mod files;
pub(crate) mod headers;
pub(crate) mod pages;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod session;
pub(crate) mod templates;
