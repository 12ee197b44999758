//! Where a body ends in what has come, and what is left of it (RFC 9112, sections 6 and 7).

use super::super::wire::{Framing, Malformed, bad};
use crate::http::headers::is_token;

/// The longest line of a chunk's size with its extensions, and of a trailer.
const LONGEST_LINE: usize = 16 << 10;

/// What all trailers have together.
const LONGEST_TRAILERS: usize = 64 << 10;

/// What is still to come of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Length(u64),
    /// A chunk's size, or the end of the chunk before.
    Chunk(Chunk),
    Nothing,
}

/// Where in a chunked body it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    End,
    /// With how many bytes of them that have come.
    Trailers(usize),
}

impl From<Framing> for Rest {
    fn from(framing: Framing) -> Rest {
        match framing {
            Framing::Nothing | Framing::Length(0) => Rest::Nothing,
            Framing::Length(length) => Rest::Length(length),
            Framing::Chunked => Rest::Chunk(Chunk::Size),
        }
    }
}

impl Rest {
    /// Whether the body is there to its end.
    pub(super) fn is_whole(self) -> bool {
        self == Rest::Nothing
    }

    /// Moves what belongs to the body out of the inbox, about as much as there is room for.
    ///
    /// # Errors
    /// When it is not well formed. Then nobody knows where the next request begins.
    pub(super) fn take(&mut self, inbox: &mut Vec<u8>, body: &mut Vec<u8>, room: usize) -> Result<(), Malformed> {
        let mut taken = 0;
        let before = body.len();
        while !self.is_whole() && body.len() - before < room {
            let count = self.step(&inbox[taken..], body, room - (body.len() - before))?;
            if count == 0 {
                break;
            }
            taken += count;
        }
        inbox.drain(..taken);
        Ok(())
    }

    /// Takes the next part, and says how many bytes that were; 0 when more must come first.
    fn step(&mut self, inbox: &[u8], body: &mut Vec<u8>, room: usize) -> Result<usize, Malformed> {
        match *self {
            Rest::Nothing => Ok(0),
            Rest::Length(left) => {
                let count = move_over(inbox, body, left, room);
                *self = if count == left { Rest::Nothing } else { Rest::Length(left - count) };
                Ok(count as usize)
            }
            Rest::Chunk(Chunk::Data(left)) => {
                let count = move_over(inbox, body, left, room);
                *self = Rest::Chunk(if count == left { Chunk::End } else { Chunk::Data(left - count) });
                Ok(count as usize)
            }
            Rest::Chunk(Chunk::End) => match inbox {
                [b'\r', b'\n', ..] => {
                    *self = Rest::Chunk(Chunk::Size);
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(bad("A chunk of the body is not as long as it says.")),
            },
            Rest::Chunk(Chunk::Size) => {
                let Some(line) = line(inbox)? else { return Ok(0) };
                *self = Rest::Chunk(match size(line)? {
                    0 => Chunk::Trailers(0),
                    size => Chunk::Data(size),
                });
                Ok(line.len() + 2)
            }
            Rest::Chunk(Chunk::Trailers(before)) => {
                let Some(line) = line(inbox)? else { return Ok(0) };
                let all = before + line.len();
                check_trailer(line, all)?;
                *self = if line.is_empty() { Rest::Nothing } else { Rest::Chunk(Chunk::Trailers(all)) };
                Ok(line.len() + 2)
            }
        }
    }
}

fn move_over(inbox: &[u8], body: &mut Vec<u8>, left: u64, room: usize) -> u64 {
    let count = inbox.len().min(room).min(usize::try_from(left).unwrap_or(usize::MAX));
    body.extend_from_slice(&inbox[..count]);
    count as u64
}

/// The first line, without its end, once that is there.
fn line(inbox: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', inbox) else {
        let is_long = inbox.len() > LONGEST_LINE;
        return if is_long { Err(bad("A line between the chunks of the body is too long.")) } else { Ok(None) };
    };
    let line = inbox[..end].strip_suffix(b"\r").ok_or(bad("A line between the chunks does not end in CR and LF."))?;
    let is_fine = line.len() <= LONGEST_LINE && line.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if is_fine {
        Ok(Some(line))
    } else {
        Err(bad("A line between the chunks has a control character, or is too long."))
    }
}

/// Parses a chunk's size. Its extensions are checked and ignored.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let size = size.filter(|_| digits.len() <= 16).ok_or(bad("The size of a chunk is not a number."))?;
    are_extensions(extensions).then_some(size).ok_or(bad("The extension of a chunk is malformed."))
}

/// Returns true for `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112, section 7.1.1).
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(next) = after(rest, b';').and_then(after_token) else { return false };
        rest = match after(next, b'=') {
            None => next,
            Some(value) => match after_token(value).or_else(|| after_quoted(value)) {
                Some(next) => next,
                None => return false,
            },
        };
    }
    true
}

/// Returns the text after `sign` and its surrounding white space; `None` if something else follows.
fn after(rest: &[u8], sign: u8) -> Option<&[u8]> {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let trim = |rest: &'_ [u8]| rest.iter().take_while(|byte| is_blank(byte)).count();
    let rest = &rest[trim(rest)..];
    let rest = rest.strip_prefix(&[sign])?;
    Some(&rest[trim(rest)..])
}

fn after_token(rest: &[u8]) -> Option<&[u8]> {
    let length = rest.iter().take_while(|byte| is_token(**byte)).count();
    (length > 0).then(|| &rest[length..])
}

/// Returns the text after a quoted string (RFC 9110, section 5.6.4). Control characters are refused with the whole line.
fn after_quoted(rest: &[u8]) -> Option<&[u8]> {
    let mut bytes = rest.strip_prefix(b"\"")?.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return Some(bytes.as_slice()),
            b'\\' => _ = bytes.next()?,
            _ => {}
        }
    }
    None
}

/// Trailers are checked, and dropped: nobody has asked for any (RFC 9110, section 6.5).
fn check_trailer(line: &[u8], all: usize) -> Result<(), Malformed> {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_field = name.len() < line.len() && !name.is_empty() && name.iter().all(|byte| is_token(*byte));
    match (line.is_empty() || is_field, all <= LONGEST_TRAILERS) {
        (true, true) => Ok(()),
        (false, _) => Err(bad("A trailer of the body is not a header field.")),
        (_, false) => Err(bad("The body has more than 64 KiB of trailers.")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// The body, and what is left in the inbox behind it; none when it is not whole.
    fn body(text: &str, at_once: usize) -> Result<Option<(String, String)>, Malformed> {
        let (mut rest, mut inbox, mut body) = (Rest::Chunk(Chunk::Size), Vec::new(), Vec::new());
        for part in text.as_bytes().chunks(at_once) {
            inbox.extend_from_slice(part);
            rest.take(&mut inbox, &mut body, usize::MAX)?;
        }
        let texts = [body, inbox].map(|bytes| String::from_utf8(bytes).unwrap());
        Ok(rest.is_whole().then(|| texts.into()))
    }

    #[test]
    fn chunks_are_put_together_however_they_come() {
        let text = "5\r\nhello\r\nA;a=\"b\"\r\n0123456789\r\n000\r\nX: y\r\n\r\nGET /";
        for at_once in 1..text.len() {
            assert_eq!(body(text, at_once), Ok(Some(("hello0123456789".into(), "GET /".into()))), "{at_once}");
        }
        for part in 0..text.len() - "GET /".len() {
            assert_eq!(body(&text[..part], 7), Ok(None), "{part}");
        }
    }

    proptest! {
        #[test]
        fn it_is_the_same_however_it_comes(
            parts in vec(select(vec!["0", "3", "a", ";", "=", " ", "\r\n", "\r\n", "\r", "\n", "\t", ":", "abc", "\0"]), 0..20),
            at_once in 1_usize..8,
        ) {
            let text = parts.concat();
            match (body(&text, usize::MAX), body(&text, at_once)) {
                (Ok(whole), Ok(split)) => prop_assert_eq!(whole, split),
                (whole, split) => prop_assert_eq!(whole.is_err(), split.is_err()),
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for text in [
            "+5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5 \r\nhello\r\n0\r\n\r\n",
            "5\x0b\r\nhello\r\n0\r\n\r\n",
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "5;\0\r\nhello\r\n0\r\n\r\n",
            "5;\r\nhello\r\n0\r\n\r\n",
            "5;bad[=x\r\nhello\r\n0\r\n\r\n",
            "10000000000000005\r\nhello",
            "5\r\nhello\r\n0\r\nX y\r\n\r\n",
            "\r\n",
            "g\r\n",
        ] {
            assert!(body(text, 1).is_err(), "{text:?}");
        }
    }

    #[test]
    fn extensions_of_a_chunk_follow_their_grammar() {
        for fine in ["", ";a", " ; a", ";a=b", ";a = b\t;\tc", r#";a="b;=[ \" c""#, r#";a="";b"#] {
            assert!(are_extensions(fine.as_bytes()), "{fine:?}");
        }
        for wrong in [
            " ",
            ";",
            ";;",
            ";a;",
            "a",
            "=b",
            ";=b",
            ";a=",
            ";a b",
            ";a=b c",
            ";bad[=x",
            ";a=[",
            r#";a="b"#,
            r#";a="b\"#,
            r#";a="b"c"#,
        ] {
            assert!(!are_extensions(wrong.as_bytes()), "{wrong:?}");
        }
    }

    #[test]
    fn lines_without_an_end_are_refused() {
        assert!(body(&format!("5;{}", "a".repeat(20_000)), 1_000).is_err());
        let trailers = "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(2_000);
        assert!(body(&format!("0\r\n{trailers}\r\n"), 1_000).is_err());
    }

    #[test]
    fn no_more_is_taken_than_there_is_room_for() {
        let (mut rest, mut inbox, mut body) = (Rest::Length(10), b"0123456789next".to_vec(), Vec::new());
        rest.take(&mut inbox, &mut body, 4).unwrap();
        assert_eq!((rest, body.as_slice()), (Rest::Length(6), b"0123".as_slice()));
        rest.take(&mut inbox, &mut body, 100).unwrap();
        assert_eq!(
            (rest, body.as_slice(), inbox.as_slice()),
            (Rest::Nothing, b"0123456789".as_slice(), b"next".as_slice())
        );
    }
}
