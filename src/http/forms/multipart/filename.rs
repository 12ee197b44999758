//! File names from clients, made safe.

/// The longest file name that common file systems accept, in bytes.
const LONGEST_NAME: usize = 255;

/// Returns a file name that is safe to show, and also safe to use as a file name.
pub(crate) fn clean(filename: &str) -> String {
    let last = filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let shown: String = last.chars().filter(|c| !is_hidden(*c)).map(|c| if is_special(c) { '_' } else { c }).collect();
    let name = shown.trim_matches(|c: char| c == '.' || c.is_whitespace());
    match name {
        "" => "file".to_owned(),
        name if is_device(name) => shorten(&format!("_{name}"), LONGEST_NAME),
        name => shorten(name, LONGEST_NAME),
    }
}

/// Returns true for control characters, line ends, and marks that change the writing direction.
fn is_hidden(c: char) -> bool {
    let marks = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || marks || c == '\u{feff}'
}

/// Returns true for characters with a meaning in Windows file names, including the colon of alternate data streams.
fn is_special(c: char) -> bool {
    matches!(c, '<' | '>' | ':' | '"' | '|' | '?' | '*')
}

/// Returns true for the name of a Windows device, with any extension.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered =
        |stem: &str| stem.strip_prefix("COM").or(stem.strip_prefix("LPT")).is_some_and(|rest| rest.len() == 1);
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered(&stem)
}

/// Shortens a name to at most `longest` bytes, and keeps its extension if it has one.
fn shorten(name: &str, longest: usize) -> String {
    if name.len() <= longest {
        return name.to_owned();
    }
    let (stem, extension) = match name.rfind('.') {
        Some(at) if name.len() - at <= 32 => name.split_at(at),
        _ => (name, ""),
    };
    let stem_bytes = longest - extension.len();
    let end = (0..=stem_bytes.min(stem.len())).rev().find(|at| stem.is_char_boundary(*at)).unwrap_or(0);
    format!("{}{extension}", &stem[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filename_is_cleaned() {
        for (raw, cleaned) in [
            ("../../etc/passwd", "passwd"),
            ("C:\\dir\\x.txt", "x.txt"),
            ("a\0b\r\n\u{7f}\u{85}.txt", "ab.txt"),
            ("фото 1.jpg", "фото 1.jpg"),
            (".htaccess", "htaccess"),
            ("evil\u{202e}gpj.exe", "evilgpj.exe"),
            (" name. ", "name"),
            ("archive.tar.gz", "archive.tar.gz"),
            ("a.txt:evil.exe", "a.txt_evil.exe"),
            ("what?.jpg", "what_.jpg"),
            ("CON", "_CON"),
            ("nul.txt", "_nul.txt"),
            ("Com1.tar.gz", "_Com1.tar.gz"),
            ("console.txt", "console.txt"),
            ("\u{feff}a\u{61c}\u{2028}b.txt", "ab.txt"),
        ] {
            assert_eq!(clean(raw), cleaned);
        }
        for nothing in ["", ".", "..", "/", "a/", "a\\..", "\0", "  "] {
            assert_eq!(clean(nothing), "file", "{nothing:?}");
        }
        let long = clean(&format!("{}.jpeg", "я".repeat(300)));
        assert!(long.len() <= 255 && long.len() >= 254 && long.ends_with("я.jpeg"), "{long}");
        assert_eq!(clean(&"x".repeat(300)).len(), 255);
        assert_eq!(clean(&format!("a.{}", "я".repeat(300))).len(), 254);
    }
}
