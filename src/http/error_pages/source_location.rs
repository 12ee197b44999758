//! The source locations of an error: files and templates, with the surrounding lines.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use serde::Serialize;

pub(super) use self::templates::is_of_template;
use self::templates::of_templates;
use super::sanitize::visible;
use crate::background::failure::Failure;
use crate::error::Error;
use crate::error::location::is_foreign;

/// The locations in templates.
#[cfg(feature = "templates")]
mod templates {
    use super::*;

    pub(crate) fn is_of_template(error: &Error) -> bool {
        error.find_source::<minijinja::Error>().is_some()
    }

    /// The innermost template is the one that failed.
    pub(super) fn of_templates(error: &Error) -> Vec<SourceLocation<'_>> {
        let errors = error.sources().filter_map(|source| source.downcast_ref::<minijinja::Error>());
        let mut locations: Vec<SourceLocation<'_>> = errors.filter_map(template).collect();
        locations.reverse();
        locations.dedup_by(|next, previous| (&next.name, next.line) == (&previous.name, previous.line));
        locations.iter_mut().skip(1).for_each(|location| location.what = "Used by");
        locations
    }

    fn template(error: &minijinja::Error) -> Option<SourceLocation<'_>> {
        let (name, line) = (error.name()?.to_owned(), error.line()?);
        Some(SourceLocation { what: "Template", name, line, text: error.template_source() })
    }
}

/// Without templates there are none.
#[cfg(not(feature = "templates"))]
mod templates {
    use super::*;

    pub(crate) fn is_of_template(_error: &Error) -> bool {
        false
    }

    pub(super) fn of_templates(_error: &Error) -> Vec<SourceLocation<'_>> {
        Vec::new()
    }
}

/// The number of lines shown before the failed line, and after it.
const CONTEXT_LINES: usize = 5;

/// The largest source file that is read. Larger ones are generated.
const MAX_SOURCE_BYTES: u64 = 4 << 20;

/// A line of a source file or of a template.
pub(super) struct SourceLocation<'a> {
    what: &'static str,
    name: String,
    line: usize,
    /// The template's text, if the error contains it.
    text: Option<&'a str>,
}

/// A location with the lines around it, as far as they can be read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Excerpt {
    pub(super) what: &'static str,
    pub(super) location: String,
    pub(super) lines: Vec<Line>,
}

/// A line of source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Line {
    pub(super) number: usize,
    pub(super) text: String,
    pub(super) failed: bool,
}

/// Returns the locations of an error, the most specific first: the template's line and those that included it, the line
/// that panicked, the line that made the error.
pub(super) fn locations(error: &Error) -> Vec<SourceLocation<'_>> {
    let mut locations = of_templates(error);
    match error.find_source::<Failure>() {
        Some(Failure::Panic(panic)) => {
            locations.extend(panic.location.as_deref().and_then(|location| named("Panicked at", location)))
        }
        Some(Failure::Error(inner)) => locations.extend(of_error(inner)),
        _ => {}
    }
    locations.extend(of_error(error));
    locations
}

fn of_error(error: &Error) -> Option<SourceLocation<'static>> {
    let location = error.location()?;
    Some(SourceLocation {
        what: "Made at",
        name: location.file().to_owned(),
        line: location.line() as usize,
        text: None,
    })
}

/// Parses a location such as `src/main.rs:17` or `src/main.rs:17:5`.
pub(super) fn named(what: &'static str, location: &str) -> Option<SourceLocation<'static>> {
    let (rest, last) = location.rsplit_once(':')?;
    let last = last.parse().ok()?;
    let with_column = rest.rsplit_once(':').and_then(|(name, line)| Some((name, line.parse().ok()?)));
    let (name, line) = with_column.unwrap_or((rest, last));
    Some(SourceLocation { what, name: name.to_owned(), line, text: None })
}

impl fmt::Display for SourceLocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.line)
    }
}

impl SourceLocation<'_> {
    /// Returns true if the location is not in the application's code.
    pub(super) fn is_foreign(&self) -> bool {
        is_foreign(&self.name)
    }

    /// Returns true for a file of Rust code.
    pub(super) fn is_of_rust(&self) -> bool {
        self.name.ends_with(".rs")
    }

    /// Returns the location with the lines around it; without lines if the source is missing, or shorter than the
    /// line's number.
    pub(super) fn excerpt(&self) -> Excerpt {
        let lines = match self.text {
            Some(text) => around(text, self.line),
            None => read(&self.name).map_or_else(Vec::new, |text| around(&text, self.line)),
        };
        Excerpt { what: self.what, location: visible(&self.to_string()), lines }
    }
}

fn around(text: &str, failed: usize) -> Vec<Line> {
    let first = failed.saturating_sub(CONTEXT_LINES).max(1);
    let lines = text.lines().enumerate().skip(first - 1).take(failed.saturating_add(CONTEXT_LINES + 1) - first);
    let line = |(at, text): (usize, &str)| Line { number: at + 1, text: visible(text), failed: at + 1 == failed };
    let lines: Vec<Line> = lines.map(line).collect();
    if lines.iter().any(|line| line.failed) { lines } else { Vec::new() }
}

/// Reads a source file by the compiler's name for it: relative to its working directory, which is the workspace's root.
fn read(name: &str) -> Option<String> {
    candidates(name).iter().find_map(|path| {
        let file = File::open(path).ok()?;
        let is_readable = file.metadata().is_ok_and(|data| data.is_file() && data.len() <= MAX_SOURCE_BYTES);
        let mut bytes = Vec::new();
        file.take(MAX_SOURCE_BYTES).read_to_end(&mut bytes).ok().filter(|_| is_readable)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    })
}

/// Returns the paths to try: in the working directory, in the package's folder, which `cargo run` sets, and in those
/// above it up to the workspace's.
fn candidates(name: &str) -> Vec<PathBuf> {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let folders = package.iter().flat_map(|package| package.ancestors().take(4));
    std::iter::once(PathBuf::from(name)).chain(folders.map(|folder| folder.join(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(lines: &[Line]) -> Vec<usize> {
        lines.iter().map(|line| line.number).collect()
    }

    #[test]
    fn up_to_five_lines_are_shown_on_either_side() {
        let text: String = (1..=20).map(|number| format!("line {number}\n")).collect();
        for (failed, from, to) in [(10, 5, 15), (1, 1, 6), (3, 1, 8), (20, 15, 20)] {
            let lines = around(&text, failed);
            assert_eq!(numbers(&lines), (from..=to).collect::<Vec<_>>());
            let marked: Vec<_> = lines.iter().filter(|line| line.failed).map(|line| line.text.as_str()).collect();
            assert_eq!(marked, [format!("line {failed}")]);
        }
        for no_line in [0, 21, usize::MAX] {
            assert!(around(&text, no_line).is_empty(), "{no_line}");
        }
    }

    #[test]
    fn a_missing_source_leaves_the_location() {
        for location in ["no/such/file.rs:17", "/rustc/0/library/std/src/io.rs:3:9", "src:1"] {
            let excerpt = named("Made at", location).unwrap().excerpt();
            assert!(excerpt.lines.is_empty() && location.starts_with(&excerpt.location), "{excerpt:?}");
        }
    }

    #[test]
    fn a_location_is_a_file_and_a_line() {
        for (location, expected) in [
            ("src/main.rs:17", Some("src/main.rs:17")),
            ("./src/main.rs:17:5", Some("./src/main.rs:17")),
            (r"C:\shop\main.rs:17:5", Some(r"C:\shop\main.rs:17")),
            ("src/main.rs", None),
            ("", None),
        ] {
            assert_eq!(named("at", location).map(|location| location.to_string()).as_deref(), expected, "{location}");
        }
    }
}
