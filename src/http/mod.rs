//! The request-to-page path.

mod argon2id;
pub(crate) mod auth;
pub(crate) mod cache_control;
pub(crate) mod disconnect;
mod disposition;
pub(crate) mod encoding;
pub(crate) mod events;
pub(crate) mod feed;
pub(crate) mod fields;
pub(crate) mod files;
pub(crate) mod form;
pub(crate) mod guard;
mod hashing;
pub(crate) mod headers;
pub(crate) mod multipart;
pub(crate) mod names;
pub(crate) mod once;
pub(crate) mod outlet;
pub(crate) mod pages;
pub mod password;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod router;
pub(crate) mod session;
pub(crate) mod store;
pub(crate) mod templates;
pub(crate) mod urls;
