//! The outcome of a task: its value or its failure.

use std::fmt;

use super::plain_value::PlainValue;
use crate::error::backtraces::Trace;
use crate::error::{BoxError, Error, Never};
use crate::panics::Panic;

/// The outcome of a task: its value, or its failure.
pub type Outcome<T> = Result<T, Failure>;

/// The failure of a task: an error, a panic, a cancellation, or the end of the process.
///
/// ```
/// use aside::{Failure, background};
///
/// let handle = background(|| Err::<(), _>("no such order"));
/// match handle.join().expect("panics are caught inside") {
///     Err(Failure::Error(error)) => assert_eq!(error.chain(), "no such order"),
///     other => unreachable!("{other:?}"),
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The task returned an error.
    Error(Error),
    /// The task panicked.
    Panic(Panic),
    /// The task was told to cancel, and did, or never began.
    Cancelled,
    /// The task was told to cancel because its deadline had passed, and did.
    TimedOut,
    /// The process stopped before the task ended.
    Abandoned,
}

impl Failure {
    /// Returns the text that follows the name in the log: `failed: connection refused`, `panicked: boom, at src/import.rs:50`.
    pub(crate) fn verdict(&self) -> String {
        match self {
            Failure::Error(_) => format!("failed: {self}"),
            _ => self.to_string(),
        }
    }

    /// Returns the messages of the error and its sources, or the cause as the only one.
    pub(crate) fn causes(&self) -> Vec<String> {
        match self {
            Failure::Error(error) => error.messages(),
            Failure::Panic(panic) => vec![format!("panicked: {}", panic.message)],
            _ => vec![self.to_string()],
        }
    }

    /// Returns the location in the application's code, if it is known.
    pub(crate) fn place(&self) -> Option<String> {
        self.panic().and_then(|panic| panic.location.clone()).or_else(|| self.location())
    }

    /// Returns the kind of the failure.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Failure::Error(_) => "failed",
            Failure::Panic(_) => "panicked",
            Failure::Cancelled => "cancelled",
            Failure::TimedOut => "timed out",
            Failure::Abandoned => "abandoned",
        }
    }

    /// Returns true if the text of the failure has its location: a panic's.
    pub(crate) fn names_location(&self) -> bool {
        self.panic().is_some_and(|panic| panic.location.is_some())
    }

    /// Returns the location in the application's code, if it is known and not a part of the text.
    pub(crate) fn location(&self) -> Option<String> {
        if let Failure::Error(error) = self { error.own_location() } else { None }
    }

    /// Returns the backtrace of the error or panic, if it was captured.
    pub(crate) fn trace(&self) -> Option<&Trace> {
        match self {
            Failure::Error(error) => error.trace(),
            Failure::Panic(panic) => panic.trace.as_ref(),
            _ => None,
        }
    }

    /// Returns the panic, if the task panicked.
    pub(crate) fn panic(&self) -> Option<&Panic> {
        if let Failure::Panic(panic) = self { Some(panic) } else { None }
    }

    /// Returns the failure for an error. An error with [`Cancelled`] in its chain is a cancellation.
    pub(crate) fn from_error(error: BoxError) -> Failure {
        let error = Error::from_box(error);
        match error.find_source::<Cancelled>() {
            Some(Cancelled) => Failure::Cancelled,
            None => Failure::Error(error),
        }
    }
}

/// The cause in a few words: `connection refused`, `panicked: boom, at src/import.rs:50`, `was cancelled`.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Error(error) => f.write_str(&error.chain()),
            Failure::Panic(panic) => write!(f, "panicked: {panic}"),
            Failure::Cancelled => f.write_str("was cancelled"),
            Failure::TimedOut => f.write_str("timed out"),
            Failure::Abandoned => f.write_str("was abandoned: the process is stopping"),
        }
    }
}

impl std::error::Error for Failure {}

/// The error of [`TaskContext::check_cancelled`](crate::TaskContext::check_cancelled) and
/// [`sleep`](crate::TaskContext::sleep): the task was told to cancel. A task that returns it, alone or as the source of
/// another error, counts as cancelled and not as failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the task was told to cancel")
    }
}

impl std::error::Error for Cancelled {}

/// A type that a task may return: a [`PlainValue`], or a `Result` with any error that can be boxed.
///
/// ```
/// use aside::background;
///
/// background(|| println!("nothing"));
/// background(|| 41 + 1);
/// background(|| std::fs::read("data/feed.xml"));
/// ```
#[diagnostic::on_unimplemented(
    message = "a task cannot return `{Self}`",
    note = "for any value: end the closure in `aside::ok(value)`; to return nothing, end it in a semicolon",
    note = "for a type of your own whose values contain no error: `impl aside::tasks::PlainValue for {Self} {{}}`"
)]
pub trait IntoOutcome {
    /// The type of the value if the task succeeds.
    type Value;

    /// Converts the return value of a task into its outcome.
    ///
    /// # Errors
    /// The error that the task returned.
    fn into_outcome(self) -> Outcome<Self::Value>;
}

impl<T: PlainValue> IntoOutcome for T {
    type Value = T;

    fn into_outcome(self) -> Outcome<T> {
        Ok(self)
    }
}

impl IntoOutcome for Never {
    type Value = Never;

    fn into_outcome(self) -> Outcome<Never> {
        self
    }
}

impl<T, E: Into<BoxError>> IntoOutcome for Result<T, E> {
    type Value = T;

    fn into_outcome(self) -> Outcome<T> {
        self.map_err(|error| Failure::from_error(error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancellation_is_found_under_other_errors() {
        let error = Error::from(Cancelled).context("half of the rows are in");
        assert!(matches!(Failure::from_error(error.into()), Failure::Cancelled));
        assert!(matches!(Failure::from_error(Cancelled.into()), Failure::Cancelled));
        assert!(matches!(Failure::from_error("other".into()), Failure::Error(_)));
    }
}
