//! aside
mod error;
pub use error::{BoxError, Error, Result, Status, ok};
mod cache;
pub use cache::Cache;
#[cfg(feature = "image")]
pub mod image;
