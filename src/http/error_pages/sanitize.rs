//! Sanitizes foreign text for display: short, and without hidden characters.

use crate::log_text::escape;

/// The largest number of characters of one text on a page.
const MAX_CHARS: usize = 1_000;

/// Escapes control characters and direction marks; line breaks stay. A longer text is cut, with a note of its length.
pub(super) fn visible(text: &str) -> String {
    visible_up_to(text, MAX_CHARS)
}

/// Sanitizes a text, cut to at most `longest` characters.
pub(crate) fn visible_up_to(text: &str, longest: usize) -> String {
    let (text, rest) = cut(text, longest);
    let lines = text.replace('\t', "    ");
    let lines: Vec<String> = lines.lines().map(|line| escape(line).into_owned()).collect();
    lines.join("\n") + &rest
}

/// Sanitizes a text on one line: line breaks are escaped too.
pub(crate) fn visible_line(text: &str, longest: usize) -> String {
    let (text, rest) = cut(text, longest);
    escape(text).into_owned() + &rest
}

/// Returns the first characters of a text, and a note of its length if it was cut.
fn cut(text: &str, longest: usize) -> (&str, String) {
    match text.char_indices().nth(longest) {
        Some((end, _)) => (&text[..end], format!("… ({} bytes)", text.len())),
        None => (text, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_characters_are_escaped() {
        assert_eq!(visible("a\tb\r\nc"), "a    b\nc");
        assert_eq!(visible("\x1b[31m\0\u{202e}"), r"\u{1b}[31m\u{0}\u{202e}");
        assert_eq!(visible(""), "");
        assert_eq!(visible_line("a\nb\u{2067}", 10), r"a\nb\u{2067}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        let long = visible(&"é".repeat(40_000));
        assert_eq!(long, "é".repeat(MAX_CHARS) + "… (80000 bytes)");
        assert_eq!(visible(&"é".repeat(MAX_CHARS)), "é".repeat(MAX_CHARS));
    }
}
