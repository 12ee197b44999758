//! The text by which messages that differ only in numbers are grouped.

use std::ops::Range;

/// Returns a text with `#` in place of each number, by which two texts that differ only in numbers are equal. The numbers of a
/// location in source code stay: `order 17 failed at src/orders.rs:41` becomes `order # failed at src/orders.rs:41`.
pub(crate) fn without_numbers(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(location) = source_location(rest) {
        push_without_numbers(&mut out, &rest[..location.start]);
        out.push_str(&rest[location.clone()]);
        rest = &rest[location.end..];
    }
    push_without_numbers(&mut out, rest);
    out
}

fn push_without_numbers(out: &mut String, text: &str) {
    for character in text.chars() {
        let is_number = character == '#' || character.is_ascii_digit();
        if !is_number {
            out.push(character);
        } else if !out.ends_with('#') {
            out.push('#');
        }
    }
}

/// Returns the first location in source code: `src/orders.rs:41`, also with a column.
fn source_location(text: &str) -> Option<Range<usize>> {
    text.match_indices(".rs:").find_map(|(at, ending)| {
        let line = at + ending.len();
        let end = line + digits(&text[line..]);
        let column = if text[end..].starts_with(':') { digits(&text[end + 1..]) } else { 0 };
        let before = text[..at].rfind(|c: char| c.is_whitespace() || "(\"'`".contains(c));
        let start = before.map_or(0, |before| before + text[before..].chars().next().map_or(0, char::len_utf8));
        (end > line).then(|| start..if column > 0 { end + 1 + column } else { end })
    })
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_vary_within_a_group_and_the_lines_of_locations_do_not() {
        for (message, group) in [
            ("order 17 of 2026-11-27", "order # of #-#-#"),
            ("panicked: order 17, at src/main.rs:41", "panicked: order #, at src/main.rs:41"),
            ("no order 17 (at src/v2/orders.rs:41:13): 5", "no order # (at src/v2/orders.rs:41:13): #"),
            ("41 in src/main.rs: 41", "# in src/main.rs: #"),
            ("src/a.rs:1:x src/b.rs:2\u{a0}3", "src/a.rs:1:x src/b.rs:2\u{a0}#"),
            ("ä7.rs:8", "ä7.rs:8"),
            ("##1#1 é", "# é"),
            ("", ""),
        ] {
            assert_eq!(without_numbers(message), group);
        }
        let group = without_numbers("order 17, at src/main.rs:41");
        assert_eq!(without_numbers(&group), group);
    }
}
