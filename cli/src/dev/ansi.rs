//! Colored text of a terminal (ECMA-48), as plain text and as HTML.

/// The names of the eight colors, which are classes in the pages.
const COLORS: [&str; 8] = ["black", "red", "green", "yellow", "blue", "magenta", "cyan", "white"];

/// A part of the text.
enum Piece<'t> {
    Text(&'t str),
    /// The parameters of a change of style.
    Style(&'t str),
}

/// Returns the text without codes.
pub fn plain(text: &str) -> String {
    let mut plain = String::new();
    each(text, |piece| match piece {
        Piece::Text(text) => plain.push_str(text),
        Piece::Style(_) => {}
    });
    plain
}

/// Returns the text as HTML, escaped, with elements for bold and colored text.
pub fn html(text: &str) -> String {
    let (mut html, mut style) = (String::new(), Style::default());
    each(text, |piece| match piece {
        Piece::Text(text) => match style.classes() {
            classes if classes.is_empty() => html.push_str(&escape(text)),
            classes => html.push_str(&format!("<span class=\"{classes}\">{}</span>", escape(text))),
        },
        Piece::Style(parameters) => style.change(parameters),
    });
    html
}

pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[derive(Default)]
struct Style {
    is_bold: bool,
    color: Option<&'static str>,
}

impl Style {
    fn classes(&self) -> String {
        let bold = self.is_bold.then_some("bold");
        bold.into_iter().chain(self.color).collect::<Vec<_>>().join(" ")
    }

    fn change(&mut self, parameters: &str) {
        let mut codes = parameters.split(';').map(|code| code.parse().unwrap_or(0));
        while let Some(code) = codes.next() {
            match code {
                0 => *self = Style::default(),
                1 => self.is_bold = true,
                22 => self.is_bold = false,
                30..=37 => self.color = Some(COLORS[code - 30]),
                90..=97 => self.color = Some(COLORS[code - 90]),
                39 => self.color = None,
                // A color of a palette (`5`), whose first sixteen are the eight colors, normal and bright.
                38 if codes.next() == Some(5) => {
                    self.color = codes.next().filter(|color| *color < 16).map(|color| COLORS[color % 8])
                }
                _ => {}
            }
        }
    }
}

/// Passes the pieces of the text on, without the codes that do not change the style.
fn each<'t>(text: &'t str, mut pass: impl FnMut(Piece<'t>)) {
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        pass(Piece::Text(&rest[..at]));
        let code = &rest[at + 1..];
        let end = match code.as_bytes().first() {
            Some(b'[') => code.find(|c: char| ('@'..='~').contains(&c) && c != '[').map(|end| end + 1),
            // A link, up to BEL or ESC \.
            Some(b']') => code.find('\x07').map(|end| end + 1).or_else(|| code.find("\x1b\\").map(|end| end + 2)),
            _ => Some(0),
        };
        let (code, after) = code.split_at(end.unwrap_or(code.len()));
        if let Some(parameters) = code.strip_prefix('[').and_then(|code| code.strip_suffix('m')) {
            pass(Piece::Style(parameters));
        }
        rest = after;
    }
    pass(Piece::Text(rest));
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = "\x1b[1m\x1b[91merror[E0425]\x1b[0m\x1b[1m: cannot find `x<y>`\x1b[0m\n\
         \x20\x1b[1m\x1b[38;5;12m-->\x1b[0m src/main.rs:3:5\n";

    #[test]
    fn colored_text_becomes_plain_text() {
        assert_eq!(plain(ERROR), "error[E0425]: cannot find `x<y>`\n --> src/main.rs:3:5\n");
        assert_eq!(plain("\x1b]8;;https://a.example/\x1b\\E0425\x1b]8;;\x1b\\ \x1b[K\x1b["), "E0425 ");
    }

    #[test]
    fn colored_text_becomes_escaped_html() {
        let expected = "<span class=\"bold red\">error[E0425]</span><span class=\"bold\">: cannot find `x&lt;y&gt;`</span>\n \
                        <span class=\"bold blue\">--&gt;</span> src/main.rs:3:5\n";
        assert_eq!(html(ERROR).replace("<span class=\"bold\"></span>", ""), expected);
    }
}
