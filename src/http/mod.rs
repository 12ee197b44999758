//! The request-to-page path.

pub(crate) mod fields;
pub(crate) mod form;
pub(crate) mod headers;
pub(crate) mod multipart;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
