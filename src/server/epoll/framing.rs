//! The decoder of request bodies: it finds the end of a body in the input (RFC 9112, sections 6 and 7).

use crate::http::headers::is_token;
use crate::server::http1::{Framing, Malformed, bad_request};

/// The maximum length of a chunk-size line with its extensions, and of a trailer line, in bytes.
const LONGEST_LINE: usize = 16 << 10;

/// The maximum length of all trailers together, in bytes.
const LONGEST_TRAILERS: usize = 64 << 10;

/// The part of a body that has not arrived yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remaining {
    Length(u64),
    /// A chunked body, with the position in it.
    Chunk(Chunk),
    Nothing,
}

/// The position in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    End,
    /// The number of bytes of trailers so far.
    Trailers(usize),
}

impl From<Framing> for Remaining {
    fn from(framing: Framing) -> Remaining {
        match framing {
            Framing::Nothing | Framing::Length(0) => Remaining::Nothing,
            Framing::Length(length) => Remaining::Length(length),
            Framing::Chunked => Remaining::Chunk(Chunk::Size),
        }
    }
}

impl Remaining {
    /// Returns true if the body is complete.
    pub(super) fn is_complete(self) -> bool {
        self == Remaining::Nothing
    }

    /// Moves the bytes of the body from the input to `body`, about `limit` bytes at most.
    ///
    /// # Errors
    /// An error if the body is malformed. The start of the next request is unknown then.
    pub(super) fn take(&mut self, input: &mut Vec<u8>, body: &mut Vec<u8>, limit: usize) -> Result<(), Malformed> {
        let mut taken = 0;
        let before = body.len();
        while !self.is_complete() && body.len() - before < limit {
            let count = self.step(&input[taken..], body, limit - (body.len() - before))?;
            if count == 0 {
                break;
            }
            taken += count;
        }
        input.drain(..taken);
        Ok(())
    }

    /// Decodes the next part, and returns its length in the input; 0 if more input is needed.
    fn step(&mut self, input: &[u8], body: &mut Vec<u8>, limit: usize) -> Result<usize, Malformed> {
        match *self {
            Remaining::Nothing => Ok(0),
            Remaining::Length(left) => {
                let count = move_over(input, body, left, limit);
                *self = if count == left { Remaining::Nothing } else { Remaining::Length(left - count) };
                Ok(count as usize)
            }
            Remaining::Chunk(Chunk::Data(left)) => {
                let count = move_over(input, body, left, limit);
                *self = Remaining::Chunk(if count == left { Chunk::End } else { Chunk::Data(left - count) });
                Ok(count as usize)
            }
            Remaining::Chunk(Chunk::End) => match input {
                [b'\r', b'\n', ..] => {
                    *self = Remaining::Chunk(Chunk::Size);
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(bad_request("A chunk of the body does not have its declared size.")),
            },
            Remaining::Chunk(Chunk::Size) => {
                let Some(line) = line(input)? else { return Ok(0) };
                *self = Remaining::Chunk(match size(line)? {
                    0 => Chunk::Trailers(0),
                    size => Chunk::Data(size),
                });
                Ok(line.len() + 2)
            }
            Remaining::Chunk(Chunk::Trailers(before)) => {
                let Some(line) = line(input)? else { return Ok(0) };
                let all = before + line.len();
                check_trailer(line, all)?;
                *self = if line.is_empty() { Remaining::Nothing } else { Remaining::Chunk(Chunk::Trailers(all)) };
                Ok(line.len() + 2)
            }
        }
    }
}

fn move_over(input: &[u8], body: &mut Vec<u8>, left: u64, limit: usize) -> u64 {
    let count = input.len().min(limit).min(usize::try_from(left).unwrap_or(usize::MAX));
    body.extend_from_slice(&input[..count]);
    count as u64
}

/// Returns the first line without its line end, once it is complete.
fn line(input: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some(end) = memchr::memchr(b'\n', input) else {
        let is_long = input.len() > LONGEST_LINE;
        return if is_long { Err(bad_request("A line between the chunks of the body is too long.")) } else { Ok(None) };
    };
    let line =
        input[..end].strip_suffix(b"\r").ok_or(bad_request("A line between the chunks does not end in CR and LF."))?;
    let is_fine = line.len() <= LONGEST_LINE && line.iter().all(|byte| *byte == b'\t' || !byte.is_ascii_control());
    if is_fine {
        Ok(Some(line))
    } else {
        Err(bad_request("A line between the chunks contains a control character or is too long."))
    }
}

/// Parses a chunk's size. Its extensions are checked and ignored.
fn size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extensions) = line.split_at(digits);
    let size = std::str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let size = size.filter(|_| digits.len() <= 16).ok_or(bad_request("The size of a chunk is not a number."))?;
    are_extensions(extensions).then_some(size).ok_or(bad_request("The extension of a chunk is malformed."))
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

/// Checks a trailer, which is then dropped: no part of the framework reads trailers (RFC 9110, section 6.5).
fn check_trailer(line: &[u8], all: usize) -> Result<(), Malformed> {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_field = name.len() < line.len() && !name.is_empty() && name.iter().all(|byte| is_token(*byte));
    match (line.is_empty() || is_field, all <= LONGEST_TRAILERS) {
        (true, true) => Ok(()),
        (false, _) => Err(bad_request("A trailer of the body is not a header field.")),
        (_, false) => Err(bad_request("The body has more than 64 KiB of trailers.")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    /// Returns the body and the rest of the input after it; `None` if the body is incomplete.
    fn body(text: &str, at_once: usize) -> Result<Option<(String, String)>, Malformed> {
        let (mut rest, mut input, mut body) = (Remaining::Chunk(Chunk::Size), Vec::new(), Vec::new());
        for part in text.as_bytes().chunks(at_once) {
            input.extend_from_slice(part);
            rest.take(&mut input, &mut body, usize::MAX)?;
        }
        let texts = [body, input].map(|bytes| String::from_utf8(bytes).unwrap());
        Ok(rest.is_complete().then(|| texts.into()))
    }

    #[test]
    fn chunks_are_joined_wherever_the_input_is_split() {
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
        fn the_result_does_not_depend_on_how_the_input_is_split(
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
    fn ambiguous_chunks_are_refused() {
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
    fn no_more_bytes_are_taken_than_the_limit() {
        let (mut rest, mut input, mut body) = (Remaining::Length(10), b"0123456789next".to_vec(), Vec::new());
        rest.take(&mut input, &mut body, 4).unwrap();
        assert_eq!((rest, body.as_slice()), (Remaining::Length(6), b"0123".as_slice()));
        rest.take(&mut input, &mut body, 100).unwrap();
        assert_eq!(
            (rest, body.as_slice(), input.as_slice()),
            (Remaining::Nothing, b"0123456789".as_slice(), b"next".as_slice())
        );
    }
}
