//! Text for log lines and messages: durations, counts, and escapes that keep a message on one line.

use std::borrow::Cow;
use std::fmt;
use std::path::{self, Path};
use std::time::Duration;

/// A day, and a thousand years, in seconds.
const DAY: u64 = 24 * 3_600;
const MANY_YEARS: u64 = 1_000 * 365 * DAY;

/// Returns a duration in a form that people read: `340 µs`, `20 ms`, `1.2 s`, `3 min 20 s`.
pub(crate) fn span(time: Duration) -> Span {
    Span(time)
}

/// A duration that is displayed in a form that people read; see [`span`].
pub(crate) struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.as_secs(), self.0.as_micros());
        match seconds {
            0 if self.0.is_zero() => f.write_str("0 ms"),
            // Not 0: a limit of 0 is another one, and what took no time did not run.
            0 if micros < 1_000 => write!(f, "{} µs", micros.max(1)),
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 if micros < 59_950_000 => write!(f, "{:.1} s", self.0.as_secs_f64()),
            1..3_600 => write!(f, "{} min {} s", seconds.max(60) / 60, seconds.max(60) % 60),
            3_600..DAY => write!(f, "{} h {} min", seconds / 3_600, seconds / 60 % 60),
            DAY..MANY_YEARS => write!(f, "{} d {} h", seconds / DAY, seconds / 3_600 % 24),
            _ => f.write_str("more than 1000 years"),
        }
    }
}

/// Returns a number with its noun, in the singular or the plural: `1 task`, `2 tasks`.
pub(crate) fn numbered<N: fmt::Display + PartialEq + From<u8>>(count: N, one: &str, many: &str) -> String {
    let noun = if count == N::from(1) { one } else { many };
    format!("{count} {noun}")
}

/// Returns a number of bytes: `1 byte`, `2 bytes`.
pub(crate) fn bytes<N: fmt::Display + PartialEq + From<u8>>(count: N) -> String {
    numbered(count, "byte", "bytes")
}

/// Returns a path as text, absolute: a relative path is resolved from the working directory, which is most often what is
/// wrong with it.
pub(crate) fn absolute(path: &Path) -> String {
    path::absolute(path).unwrap_or_else(|_| path.to_owned()).display().to_string()
}

/// Returns a size as people write it: `32 MB`, `64 KB`, `500 bytes`. A megabyte is 1,048,576 bytes, as file managers count.
pub(crate) fn size(count: u64) -> String {
    match count {
        0..1_024 => bytes(count),
        1_024..1_048_576 => format!("{} KB", count >> 10),
        1_048_576..1_073_741_824 => format!("{} MB", count >> 20),
        _ => format!("{} GB", count >> 30),
    }
}

/// Returns the beginning of a text, of at most `most` bytes.
pub(crate) fn prefix(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
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
        assert_eq!(written, ["20 ms", "1.2 s", "1 min 0 s", "3 min 20 s", "2 h 5 min"]);
    }

    /// Regression: a deadline of half a millisecond was one of 0 ms, and `Duration::MAX` had millions of years in hours.
    #[test]
    fn very_short_and_very_long_durations_are_readable() {
        let short = [Duration::ZERO, Duration::from_nanos(1), Duration::from_micros(500), Duration::from_micros(1_999)];
        assert_eq!(short.map(|time| span(time).to_string()), ["0 ms", "1 µs", "500 µs", "1 ms"]);
        let long = [Duration::from_millis(59_949), Duration::from_secs(86_399), Duration::from_secs(266_400)];
        assert_eq!(long.map(|time| span(time).to_string()), ["59.9 s", "23 h 59 min", "3 d 2 h"]);
        assert_eq!(span(Duration::MAX).to_string(), "more than 1000 years");
    }

    #[test]
    fn a_count_of_one_is_in_the_singular() {
        assert_eq!([0_u64, 1, 2].map(bytes), ["0 bytes", "1 byte", "2 bytes"]);
        assert_eq!([0_usize, 1, 2].map(|count| numbered(count, "part", "parts")), ["0 parts", "1 part", "2 parts"]);
    }

    #[test]
    fn sizes_are_rounded_down_to_the_unit_that_people_use() {
        let sizes = [1, 1_000, 64 << 10, (1 << 20) - 1, 32 << 20, 5 << 30].map(size);
        assert_eq!(sizes, ["1 byte", "1000 bytes", "64 KB", "1023 KB", "32 MB", "5 GB"]);
    }

    #[test]
    fn control_and_direction_characters_are_escaped() {
        assert_eq!(escape("a\nb\r\x1b[31m\u{202e}é"), "a\\nb\\r\\u{1b}[31m\\u{202e}é");
    }
}
