//! The request-to-page path.

pub(crate) mod headers;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
