//! The developer's page for a 5xx: the error, its location, the backtrace and the request.

use serde::Serialize;

use super::failure_view::{last_own_call, visible_frames};
use super::message::{ErrorSummary, panel_address};
use super::sanitize::visible;
use super::source_location::{Excerpt, Line, SourceLocation, is_of_template, locations};
use crate::background::failure::Failure;
use crate::error::Error;
use crate::error::frames::Frame;
use crate::http::request::Request;
use crate::panics::Panic;

/// The contents of the page, sanitized.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    code: u16,
    reason: &'static str,
    /// `Panic`, `Template error` or `Error`.
    kind: &'static str,
    happened: String,
    causes: Vec<String>,
    excerpts: Vec<Excerpt>,
    frames: Vec<Frame>,
    method: String,
    target: String,
    facts: Vec<(&'static str, String)>,
    /// The address of the request in the panel.
    panel: Option<String>,
    params: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

impl Report {
    pub(super) fn of(req: &Request, error: &Error, summary: &ErrorSummary) -> Report {
        let panic = error.find_source::<Failure>().and_then(Failure::panic);
        let mut causes = causes(error, panic).into_iter();
        let frames = backtrace(error, panic);
        let show =
            |pairs: &[(String, String)]| pairs.iter().map(|(name, value)| (visible(name), visible(value))).collect();
        Report {
            code: summary.status.code(),
            reason: summary.reason,
            kind: kind(error, panic),
            happened: causes.next().unwrap_or_else(|| summary.message.clone()),
            causes: causes.collect(),
            excerpts: excerpts(error, &frames),
            frames,
            method: visible(req.method().as_str()),
            target: visible(req.target()),
            facts: facts(req),
            panel: panel_address(req),
            params: show(req.params()),
            headers: req.headers().iter().map(header).collect(),
        }
    }

    /// Returns the page as plain text.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{} {}\n\n{}: {}\n", self.code, self.reason, self.kind, self.happened);
        self.causes.iter().for_each(|cause| text += &format!("  because: {cause}\n"));
        self.excerpts.iter().for_each(|excerpt| text += &plain_excerpt(excerpt));
        text + &self.plain_backtrace() + &self.plain_request()
    }

    fn plain_backtrace(&self) -> String {
        if self.frames.is_empty() {
            return "\nStart with RUST_BACKTRACE=1 to see the backtrace.\n".into();
        }
        let location =
            |frame: &Frame| frame.location.as_ref().map_or(String::new(), |location| format!("\n      at {location}"));
        let own = self.frames.iter().filter(|frame| frame.own);
        let own: String = own.map(|frame| format!("  {}{}\n", frame.name, location(frame))).collect();
        format!("\nCalls of the application, the last first, out of {} in the backtrace:\n{own}", self.frames.len())
    }

    fn plain_request(&self) -> String {
        let params = self.params.iter().map(|(name, value)| format!("  {{{name}}} = {value}\n"));
        let facts = self.facts.iter().map(|(name, value)| format!("  {name}: {value}\n"));
        let headers = self.headers.iter().map(|(name, value)| format!("  {name}: {value}\n"));
        let panel = self.panel.iter().map(|path| format!("  In the panel: {path}\n"));
        let lines: String = params.chain(facts).chain(panel).chain(headers).collect();
        format!("\n{} {}\n{lines}", self.method, self.target)
    }
}

fn plain_excerpt(excerpt: &Excerpt) -> String {
    let line = |line: &Line| {
        let mark = if line.failed { '>' } else { ' ' };
        format!("{mark} {:>4} | {}\n", line.number, line.text).replace(" \n", "\n")
    };
    let lines: String = excerpt.lines.iter().map(line).collect();
    format!("\n{} {}\n{lines}", excerpt.what, excerpt.location)
}

fn kind(error: &Error, panic: Option<&Panic>) -> &'static str {
    match panic {
        Some(_) => "Panic",
        None if is_of_template(error) => "Template error",
        None => "Error",
    }
}

/// Returns the messages of the error and its sources; that of a panic without the location, which is shown with its
/// lines.
fn causes(error: &Error, panic: Option<&Panic>) -> Vec<String> {
    let mut causes = error.causes();
    if let (Some(panic), Some(last)) = (panic, causes.last_mut()) {
        last.clone_from(&panic.message);
    }
    causes.iter().map(|cause| visible(cause)).collect()
}

fn backtrace(error: &Error, panic: Option<&Panic>) -> Vec<Frame> {
    let trace = panic.map_or_else(|| error.trace(), |panic| panic.trace.as_ref());
    trace.map_or_else(Vec::new, |trace| visible_frames(trace.text()))
}

/// Returns excerpts of the error's locations. If none of them is the application's, adds its last call in the
/// backtrace.
fn excerpts(error: &Error, frames: &[Frame]) -> Vec<Excerpt> {
    let mut locations = locations(error);
    if locations.iter().all(SourceLocation::is_foreign) {
        locations.extend(last_own_call(frames));
    }
    locations.iter().map(SourceLocation::excerpt).collect()
}

fn facts(req: &Request) -> Vec<(&'static str, String)> {
    let peer = req.remote_addr().map(|peer| peer.to_string());
    [("Request id", Some(visible(req.id()))), ("Peer", peer)]
        .into_iter()
        .filter_map(|(name, fact)| Some((name, fact?)))
        .collect()
}

/// Hides the value of a header that may grant access, since the page may end up in a screenshot.
fn header((name, value): (&str, &str)) -> (String, String) {
    const SECRET: [&str; 11] =
        ["auth", "cookie", "credential", "csrf", "key", "passw", "secret", "session", "signature", "token", "xsrf"];
    let lower = name.to_ascii_lowercase();
    let is_secret = SECRET.iter().any(|word| lower.contains(word));
    (visible(name), if is_secret { "(hidden)".to_owned() } else { visible(value) })
}
