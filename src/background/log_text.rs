//! Text for log lines: durations, counts, and escapes that keep a message on one line.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Returns a duration in a form that people read: `20 ms`, `1.2 s`, `3 min 20 s`.
pub(crate) fn span(time: Duration) -> Span {
    Span(time)
}

/// A duration that is displayed in a form that people read; see [`span`].
pub(crate) struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            seconds @ 60..3600 => write!(f, "{} min {} s", seconds / 60, seconds % 60),
            seconds => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60),
        }
    }
}

/// Returns a number with its noun, in the singular or the plural.
pub(super) fn numbered(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// Escapes text for one line of the log: line breaks, other control characters, and marks that change the direction of
/// writing. A client can therefore not forge a log line.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    let is_escaped = |c: char| {
        c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let is_plain = text.bytes().fold(true, |plain, byte| plain & (b' '..=b'~').contains(&byte));
    if is_plain || !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    text.chars()
        .fold(String::with_capacity(text.len() + 8), |mut out, c| {
            if is_escaped(c) {
                out.extend(c.escape_default())
            } else {
                out.push(c)
            }
            out
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_written_in_the_units_that_people_use() {
        let written: Vec<String> =
            [20, 1_234, 59_990, 200_000, 7_500_000].map(|ms| span(Duration::from_millis(ms)).to_string()).into();
        assert_eq!(written, ["20 ms", "1.2 s", "60.0 s", "3 min 20 s", "2 h 5 min"]);
    }

    #[test]
    fn control_and_direction_characters_are_escaped() {
        assert_eq!(escape("a\nb\r\x1b[31m\u{202e}é"), "a\\nb\\r\\u{1b}[31m\\u{202e}é");
    }
}
