//! Jobs: work that must survive the process.

// Until all of it is there.
#![allow(dead_code)]

#[cfg(test)]
pub(crate) mod conformance;
pub(crate) mod engine;
pub(crate) mod memory;
pub(crate) mod record;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
