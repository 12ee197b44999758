//! A failure as pages show it: its messages, the source lines around its location, and its backtrace.

#![cfg_attr(not(feature = "panel"), allow(dead_code, reason = "the panel shows stored failures"))]

use serde::Serialize;

use super::sanitize::{visible, visible_up_to};
use super::source_location::{Excerpt, SourceLocation, named};
use crate::error::frames::{Frame, frames};

/// The length of a message, in characters.
const MESSAGE: usize = 4_000;

/// A failure that is stored as text, sanitized.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct FailureView {
    happened: String,
    causes: Vec<String>,
    excerpts: Vec<Excerpt>,
    frames: Vec<Frame>,
}

/// The stored parts of a failure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredFailure<'a, S> {
    /// The messages of the error and its causes.
    pub(crate) messages: &'a [S],
    /// The meaning of the location: `Failed at`.
    pub(crate) what: &'static str,
    pub(crate) location: Option<&'a str>,
    pub(crate) backtrace: Option<&'a str>,
}

impl FailureView {
    /// Returns a failure with the lines around its location, or else around the last call of the application in its
    /// backtrace. Reads one source file.
    pub(crate) fn of<S: AsRef<str>>(failure: &StoredFailure<'_, S>) -> FailureView {
        let frames = failure.backtrace.map_or_else(Vec::new, visible_frames);
        let location = failure.location.and_then(|location| named(failure.what, location));
        let location = location.filter(|location| !location.is_foreign()).or_else(|| last_own_call(&frames));
        // The text may come from a job store, and no other file is to be shown.
        let location = location.filter(SourceLocation::is_of_rust);
        let mut messages = failure.messages.iter().map(|message| visible_up_to(message.as_ref(), MESSAGE));
        FailureView {
            happened: messages.next().unwrap_or_default(),
            causes: messages.collect(),
            excerpts: location.iter().map(SourceLocation::excerpt).collect(),
            frames,
        }
    }
}

/// Returns the frames of a backtrace, sanitized.
pub(super) fn visible_frames(backtrace: &str) -> Vec<Frame> {
    let shown = |frame: Frame| Frame {
        name: visible(&frame.name),
        location: frame.location.as_deref().map(visible),
        own: frame.own,
    };
    frames(backtrace).into_iter().map(shown).collect()
}

/// Returns the location of the application's last call.
pub(super) fn last_own_call(frames: &[Frame]) -> Option<SourceLocation<'static>> {
    frames
        .iter()
        .filter(|frame| frame.own)
        .find_map(|frame| named("Called at", frame.location.as_deref()?.trim_start_matches("./")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(location: &str) -> FailureView {
        let messages = ["cannot charge", "card\u{202e} declined"];
        FailureView::of(&StoredFailure {
            messages: &messages,
            what: "Failed at",
            location: Some(location),
            backtrace: None,
        })
    }

    #[test]
    fn a_stored_failure_has_its_causes_and_the_lines_around_its_location() {
        let view = view("tests/it/panel.rs:3");
        assert_eq!((&*view.happened, &view.causes[..]), ("cannot charge", &[r"card\u{202e} declined".to_owned()][..]));
        let lines = &view.excerpts[0].lines;
        assert!(lines.iter().any(|line| line.failed && line.number == 3), "{view:?}");
    }

    #[test]
    fn a_stored_location_shows_no_file_but_rust_code() {
        for file in ["/etc/passwd:1", "Cargo.toml:1", "/etc/passwd", "src/app/mod.rs:1"] {
            assert!(view(file).excerpts.is_empty(), "{file}");
        }
    }
}
