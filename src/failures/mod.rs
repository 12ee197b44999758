//! Reports of failures, for the hooks of [`App::on_failure`](crate::App::on_failure).
//!
//! ```
//! use aside::failures::{FailureKind, FailureReport};
//!
//! /// Returns true for a failure that an operator should look at.
//! fn is_urgent(report: &FailureReport) -> bool {
//!     !report.is_retried() && report.kind != FailureKind::Webhook
//! }
//! ```

#[cfg(feature = "mail")]
pub(crate) mod alerts;
#[cfg(all(unix, feature = "isolate"))]
mod forwarded;
pub(crate) mod rate;
mod report;
pub(crate) mod reporter;

pub use self::report::{FailureKind, FailureReport, StackFrame};
