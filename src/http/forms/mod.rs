//! Forms: from the body of a request to a typed value, with the message for each field.

pub(crate) mod deserializer;
pub(crate) mod field_path;
pub(crate) mod form;
pub(crate) mod idempotency;
pub(crate) mod json;
pub(crate) mod multipart;
pub(crate) mod refused_form;
