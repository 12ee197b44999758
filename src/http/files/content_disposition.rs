//! The `Content-Disposition` header: whether a browser shows a response or saves it, and the file name (RFC 6266, RFC
//! 8187).

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::forms::multipart::filename::clean;
use crate::http::response::Response;

/// The characters that are encoded in `filename*`: all except the attr-chars of RFC 8187, section 3.2.1.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

impl Response {
    /// Makes the browser save the response as a file of this name, which may be in any script.
    ///
    /// ```
    /// use aside::{Request, Response, Result};
    ///
    /// fn report(req: &mut Request) -> Result<Response> {
    ///     Ok(req.send_file("data/reports/17.pdf")?.attachment("отчёт.pdf"))
    /// }
    ///
    /// let response = Response::text("a,b\n").attachment("orders.csv");
    /// assert_eq!(response.headers().get("Content-Disposition"), Some("attachment; filename=\"orders.csv\""));
    /// ```
    ///
    /// The name may come from a user: only the last part of a path is used; control characters, marks that change the
    /// writing direction, and dots and spaces at both ends are removed. Characters with a meaning on Windows (`< > : "
    /// | ? *`) become `_`, and Windows device names get a `_` in front. A name over 255 bytes is cut before its
    /// extension. If nothing is left, the name is `file`. Browsers that do not know `filename*` (RFC 8187) get the name
    /// in ASCII, with `_` for all other characters.
    pub fn attachment(self, filename: &str) -> Response {
        self.header("Content-Disposition", disposition("attachment", filename))
    }

    /// Makes the browser show the response if it can, and sets the name to save it under. The name is treated as in
    /// [`attachment`](Response::attachment).
    ///
    /// ```
    /// use aside::Response;
    ///
    /// let response = Response::text("…").inline("заметки.txt");
    /// let expected = "inline; filename=\"_______.txt\"; \
    ///                 filename*=UTF-8''%D0%B7%D0%B0%D0%BC%D0%B5%D1%82%D0%BA%D0%B8.txt";
    /// assert_eq!(response.headers().get("Content-Disposition"), Some(expected));
    /// ```
    ///
    /// Never show a user's upload as a page of this site: HTML and SVG can run scripts there. Use
    /// [`attachment`](Response::attachment).
    pub fn inline(self, filename: &str) -> Response {
        self.header("Content-Disposition", disposition("inline", filename))
    }
}

fn disposition(kind: &str, filename: &str) -> String {
    let name = clean(filename);
    match ascii(&name) {
        ascii if ascii == name => format!("{kind}; filename=\"{name}\""),
        ascii => format!("{kind}; filename=\"{ascii}\"; filename*=UTF-8''{}", utf8_percent_encode(&name, ENCODED)),
    }
}

/// Returns the name in ASCII, for clients without `filename*`. A percent sign is replaced since some clients decode it,
/// and a quote since some end the name there, escaped or not (RFC 6266, appendix D).
fn ascii(name: &str) -> Cow<'_, str> {
    let plain = |c: char| (c == ' ' || c.is_ascii_graphic()) && !matches!(c, '"' | '\\' | '%');
    if name.chars().all(plain) {
        return Cow::Borrowed(name);
    }
    name.chars().map(|c| if plain(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    /// Returns both names of a header, the second decoded.
    fn names(filename: &str) -> (String, Option<String>) {
        let response = Response::new().attachment(filename);
        assert!(response.error().is_none(), "{filename:?}");
        let header = response.headers().get("Content-Disposition").unwrap();
        let names = header.strip_prefix("attachment; filename=\"").unwrap();
        let (plain, rest) = names.split_once('"').unwrap();
        let extended = rest.strip_prefix("; filename*=UTF-8''");
        assert!(rest.is_empty() || extended.is_some(), "{header}");
        (plain.to_owned(), extended.map(|name| percent_decode_str(name).decode_utf8().unwrap().into_owned()))
    }

    #[test]
    fn an_ascii_name_is_only_quoted() {
        for name in ["orders.csv", "my report; final, v2.pdf", "it's (1)&[2].txt", "a=b.txt", ".x.txt."] {
            let expected = name.trim_matches('.');
            assert_eq!(names(name), (expected.to_owned(), None));
        }
    }

    #[test]
    fn a_name_in_another_script_is_sent_twice() {
        for (name, plain) in [
            ("отчёт.pdf", "_____.pdf"),
            ("€ rates.txt", "_ rates.txt"),
            ("写真 1.jpg", "__ 1.jpg"),
            ("תמונה.png", "_____.png"),
            ("👩‍🚀.gif", "___.gif"),
            ("100%41.txt", "100_41.txt"),
            ("naïve.txt", "na_ve.txt"),
        ] {
            assert_eq!(names(name), (plain.to_owned(), Some(name.to_owned())));
        }
        let header = disposition("inline", "'()€ %.txt");
        assert_eq!(header, "inline; filename=\"'()_ _.txt\"; filename*=UTF-8''%27%28%29%E2%82%AC%20%25.txt");
    }

    #[test]
    fn an_unsafe_name_is_cleaned() {
        for (name, plain) in [
            ("", "file"),
            (".", "file"),
            ("..", "file"),
            (" . ", "file"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Windows\\win.ini", "win.ini"),
            ("a/", "file"),
            ("a\r\nSet-Cookie: x=y", "aSet-Cookie_ x=y"),
            ("say \"hi\"?.txt", "say _hi__.txt"),
            ("NUL.txt", "_NUL.txt"),
            ("a\0b\u{7f}\u{85}.txt", "ab.txt"),
            ("invoice\u{202e}fdp.exe", "invoicefdp.exe"),
            ("\u{200e}a\u{200f}b\u{2066}c\u{2069}d\u{61c}.txt", "abcd.txt"),
        ] {
            assert_eq!(names(name), (plain.to_owned(), None), "{name:?}");
        }
    }

    #[test]
    fn a_long_name_is_cut_before_its_extension() {
        let (plain, extended) = names(&format!("{}.pdf", "ж".repeat(1_000)));
        let extended = extended.unwrap();
        assert!(extended.len() <= 255 && extended.len() > 250 && extended.ends_with("ж.pdf"), "{extended}");
        assert_eq!(plain.chars().count(), extended.chars().count());
    }

    proptest! {
        #[test]
        fn any_name_can_be_sent(name in any::<String>()) {
            let (plain, extended) = names(&name);
            prop_assert!(!plain.is_empty() && !plain.contains(['/', '\\', '%', '"']));
            prop_assert!(plain.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()));
            let harmless = |c: char| !c.is_control() && !matches!(c, '/' | '\\');
            prop_assert!(extended.is_none_or(|name| name.chars().all(harmless)));
        }
    }
}
