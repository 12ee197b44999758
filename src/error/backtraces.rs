//! Backtraces: when one is captured, and when it is logged.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// True in development, where pages show backtraces.
static IN_DEVELOPMENT: AtomicBool = AtomicBool::new(false);

/// Captures backtraces from now on even if `RUST_BACKTRACE` is not set.
pub(crate) fn capture_in_development() {
    IN_DEVELOPMENT.store(true, Ordering::Relaxed);
}

/// A backtrace, shared. Its functions and lines are looked up when it is first read, which takes milliseconds.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Inner>);

struct Inner {
    /// `None` for a backtrace of another process.
    backtrace: Option<Backtrace>,
    text: OnceLock<String>,
}

impl Trace {
    /// Captures the backtrace of this call in development, or if `RUST_BACKTRACE` enables it.
    pub(crate) fn capture() -> Option<Trace> {
        let is_wanted = IN_DEVELOPMENT.load(Ordering::Relaxed) || is_enabled();
        is_wanted.then(Trace::force_capture)
    }

    /// Captures the backtrace of this call.
    pub(crate) fn force_capture() -> Trace {
        Trace(Arc::new(Inner { backtrace: Some(Backtrace::force_capture()), text: OnceLock::new() }))
    }

    /// Returns a backtrace of another process.
    pub(crate) fn from_text(text: String) -> Trace {
        Trace(Arc::new(Inner { backtrace: None, text: OnceLock::from(text) }))
    }

    /// Returns the backtrace of this process.
    pub(crate) fn backtrace(&self) -> Option<&Backtrace> {
        self.0.backtrace.as_ref()
    }

    /// Returns the lines of text.
    pub(crate) fn text(&self) -> &str {
        let lines =
            || self.backtrace().map_or_else(String::new, |backtrace| backtrace.to_string().trim_end().to_owned());
        self.0.text.get_or_init(lines)
    }

    /// Returns the lines for the log: only if `RUST_BACKTRACE` enables them.
    pub(crate) fn for_log(trace: Option<&Trace>) -> Option<&str> {
        trace.filter(|_| is_enabled()).map(Trace::text)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Trace")
    }
}

/// Returns true if `RUST_BACKTRACE` or `RUST_LIB_BACKTRACE` enables backtraces. The standard library decides this once.
fn is_enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| Backtrace::capture().status() == BacktraceStatus::Captured)
}
