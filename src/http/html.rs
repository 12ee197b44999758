//! Text in HTML, escaped.

use std::fmt;

/// Displays a text with its markup escaped, for the content of an element or for a quoted attribute. A slash needs no
/// escape there, and readers of the page's source would see `&#x2f;` in every link.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_escaped(f, self.0)
    }
}

/// Writes a text as [`Escaped`] displays it.
pub(crate) fn write_escaped(out: &mut impl fmt::Write, mut text: &str) -> fmt::Result {
    while let Some((at, escaped)) = text.bytes().enumerate().find_map(|(at, byte)| Some((at, escape(byte)?))) {
        out.write_str(&text[..at])?;
        out.write_str(escaped)?;
        text = &text[at + 1..];
    }
    out.write_str(text)
}

fn escape(byte: u8) -> Option<&'static str> {
    match byte {
        b'<' => Some("&lt;"),
        b'>' => Some("&gt;"),
        b'&' => Some("&amp;"),
        b'"' => Some("&quot;"),
        b'\'' => Some("&#x27;"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_is_escaped_and_all_other_text_stays() {
        let text = "<a href=\"/é?a=1&b='2'\">";
        assert_eq!(Escaped(text).to_string(), "&lt;a href=&quot;/é?a=1&amp;b=&#x27;2&#x27;&quot;&gt;");
        assert_eq!(Escaped("plain / text…").to_string(), "plain / text…");
    }
}
