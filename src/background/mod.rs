//! Background tasks: work that runs after or beside the response, without delaying it.
//!
//! A task begins as a closure. It is named and registered with the application, waits for a slot, and runs on an OS thread
//! that catches panics. The registry and the log receive its outcome. This module knows nothing of HTTP.

pub(crate) use crate::panics;

#[cfg(unix)]
mod command;
pub(crate) mod counts;
pub(crate) mod failure;
mod growth;
pub(crate) mod handle;
pub(crate) mod lineage;
pub(crate) mod log_context;
pub(crate) mod log_fields;
pub(crate) mod observer;
pub(crate) mod output;
mod permits;
pub(crate) mod plain_value;
pub(crate) mod pool;
pub(crate) mod progress;
pub(crate) mod record;
pub(crate) mod registry;
pub(crate) mod request_info;
pub(crate) mod request_log;
pub(crate) mod retry;
pub(crate) mod run;
pub(crate) mod scope;
pub(crate) mod slots;
pub(crate) mod task;
pub(crate) mod task_context;
pub(crate) mod task_cores;
mod task_name;
pub(crate) mod thread_pool;
pub(crate) mod timer;
pub(crate) mod trace_context;
pub(crate) mod trace_id;
