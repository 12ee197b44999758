//! Text of strangers, made fit to be looked at: short, and with nothing hidden in it.

use crate::background::registry::escape;

/// No more characters than this of one text: a page is for reading.
const LONGEST: usize = 1_000;

/// Text whose control characters and marks of direction are shown by their escapes; line breaks stay. What is long is cut,
/// with a word on how long it was.
pub(super) fn visible(text: &str) -> String {
    visible_up_to(text, LONGEST)
}

/// The same with another limit, in characters.
pub(crate) fn visible_up_to(text: &str, longest: usize) -> String {
    let (text, rest) = cut(text, longest);
    let lines = text.replace('\t', "    ");
    let lines: Vec<String> = lines.lines().map(|line| escape(line).into_owned()).collect();
    lines.join("\n") + &rest
}

/// The same on one line, line breaks shown by their escapes too.
pub(crate) fn visible_line(text: &str, longest: usize) -> String {
    let (text, rest) = cut(text, longest);
    escape(text).into_owned() + &rest
}

/// As many characters of a text, and what to say of those that are left out.
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
    fn nothing_stays_hidden() {
        assert_eq!(visible("a\tb\r\nc"), "a    b\nc");
        assert_eq!(visible("\x1b[31m\0\u{202e}"), r"\u{1b}[31m\u{0}\u{202e}");
        assert_eq!(visible(""), "");
        assert_eq!(visible_line("a\nb\u{2067}", 10), r"a\nb\u{2067}");
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        let long = visible(&"é".repeat(40_000));
        assert_eq!(long, "é".repeat(LONGEST) + "… (80000 bytes)");
        assert_eq!(visible(&"é".repeat(LONGEST)), "é".repeat(LONGEST));
    }
}
