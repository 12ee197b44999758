//! Text of strangers, made fit to be looked at: short, and with nothing hidden in it.

use crate::background::registry::escape;

/// No more characters than this of one text: a page is for reading.
const LONGEST: usize = 1_000;

/// Text whose control characters and marks of direction are shown by their escapes; line breaks stay. What is long is cut,
/// with a word on how long it was.
pub(super) fn visible(text: &str) -> String {
    let end = text.char_indices().nth(LONGEST).map(|(end, _)| end);
    let lines = text[..end.unwrap_or(text.len())].replace('\t', "    ");
    let lines: Vec<String> = lines.lines().map(|line| escape(line).into_owned()).collect();
    let rest = end.map_or(String::new(), |_| format!("… ({} bytes)", text.len()));
    lines.join("\n") + &rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_stays_hidden() {
        assert_eq!(visible("a\tb\r\nc"), "a    b\nc");
        assert_eq!(visible("\x1b[31m\0\u{202e}"), r"\u{1b}[31m\u{0}\u{202e}");
        assert_eq!(visible(""), "");
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        let long = visible(&"é".repeat(40_000));
        assert_eq!(long, "é".repeat(LONGEST) + "… (80000 bytes)");
        assert_eq!(visible(&"é".repeat(LONGEST)), "é".repeat(LONGEST));
    }
}
