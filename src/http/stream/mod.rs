//! Responses that are written while they are produced: server-sent events and streams.

pub(crate) mod disconnect;
pub(crate) mod source;
pub(crate) mod sse;
pub(crate) mod writer;
