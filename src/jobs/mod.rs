//! Jobs: work that must survive the process.

// Until all of it is there.
#![allow(dead_code)]

pub(crate) mod engine;
pub(crate) mod isolate;
pub(crate) mod record;
