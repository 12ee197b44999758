//! The centre: work done aside.
//!
//! A task begins as a closure. It is named and entered in the application's registry, waits for a place, runs on an OS
//! thread with panics caught, and ends in the registry and the log with its outcome. Nothing here knows of HTTP.

pub(crate) use crate::panics;

pub(crate) mod failure;
pub(crate) mod output;
mod permits;
pub(crate) mod plain_value;
pub(crate) mod pool;
pub(crate) mod registry;
pub(crate) mod scope;
pub(crate) mod slots;
pub(crate) mod task;
pub(crate) mod thread_pool;
pub(crate) mod timer;
