//! Ranges of a file that a client asks for, and several ranges as one body (RFC 9110, section 14).

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::Arc;

use super::{Content, slice};
use crate::error::Result;
use crate::http::response::ResponseBody;
use crate::random;

/// The largest number of ranges in a request. A client with more ranges gets the whole file: they help no reader, only
/// an attacker (section 17.15).
const MAX_RANGES: usize = 16;

/// The part of a file to send.
#[derive(Debug, PartialEq)]
pub(super) enum Wanted {
    Whole,
    Part(Range<u64>),
    Parts(Vec<Range<u64>>),
    /// No range is within the file.
    Unsatisfiable,
}

/// Evaluates a `Range` header for a file of this length. A malformed value, another unit, too many ranges, or more
/// bytes than the file has mean the whole file: a server may ignore the header.
pub(super) fn wanted(value: &str, length: u64) -> Wanted {
    let Some(specs) = parse(value) else { return Wanted::Whole };
    let parts: Vec<_> = specs.iter().filter_map(|spec| spec.within(length)).collect();
    let sum = parts.iter().map(|part| part.end - part.start).fold(0, u64::saturating_add);
    // The last bytes of an empty file are an empty range, which `Content-Range` cannot express.
    let of_nothing = length == 0 && specs.iter().any(|spec| matches!(spec, Spec::Last(1..)));
    if specs.len() > MAX_RANGES || sum > length || of_nothing {
        return Wanted::Whole;
    }
    let mut parts = coalesce(parts);
    match parts.len() {
        0 => Wanted::Unsatisfiable,
        1 => Wanted::Part(parts.remove(0)),
        _ => Wanted::Parts(parts),
    }
}

/// A range as in the header, before the file's length is known.
#[derive(Debug, PartialEq)]
enum Spec {
    /// From the first to the last byte, both included.
    From(u64, u64),
    /// A number of bytes at the end.
    Last(u64),
}

impl Spec {
    fn parse(text: &str) -> Option<Spec> {
        match text.split_once('-')? {
            ("", count) => Some(Spec::Last(number(count)?)),
            (first, "") => Some(Spec::From(number(first)?, u64::MAX)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Spec::From(first, last))
            }
        }
    }

    /// Returns the bytes of the range that the file has, if any.
    fn within(&self, length: u64) -> Option<Range<u64>> {
        let range = match *self {
            Spec::From(first, last) => first..last.saturating_add(1).min(length),
            Spec::Last(count) => length.saturating_sub(count)..length,
        };
        (!range.is_empty()).then_some(range)
    }
}

/// Parses a list of byte ranges; `None` if a part is malformed. White space is allowed only where the grammar of lists
/// has it.
fn parse(value: &str) -> Option<Vec<Spec>> {
    let white = [' ', '\t'];
    let (unit, set) = value.trim_matches(white).split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") || set.starts_with(white) {
        return None;
    }
    let members = set.split(',').map(|member| member.trim_matches(white)).filter(|member| !member.is_empty());
    let specs = members.map(Spec::parse).collect::<Option<Vec<_>>>()?;
    (!specs.is_empty()).then_some(specs)
}

/// Parses digits. A number that does not fit becomes the largest that does.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Joins ranges that overlap or adjoin, at the position of the first of them (section 15.3.7.2).
fn coalesce(ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
    for mut range in ranges {
        let mut index = joined.len();
        // The range may join several that were separate.
        while let Some(at) = joined.iter().position(|other| other.start <= range.end && range.start <= other.end) {
            let other = joined.remove(at);
            range = other.start.min(range.start)..other.end.max(range.end);
            index = index.min(at);
        }
        joined.insert(index, range);
    }
    joined
}

/// Returns the value of `Content-Range` for a range of a file of this length.
pub(super) fn content_range(part: &Range<u64>, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.start, part.end - 1)
}

/// Returns several ranges of a file as one body, each with its type and position (section 14.6): the content type of
/// the whole, and a reader of the file.
pub(super) fn multipart(
    content: Content,
    content_type: &str,
    length: u64,
    parts: Vec<Range<u64>>,
) -> Result<(String, ResponseBody)> {
    // The boundary is random, so that no file can contain it on purpose.
    let boundary = random::name()?;
    let read = reader_of_parts(content);
    let mut body: Box<dyn Read + Send> = Box::new(io::empty());
    let mut total = 0;
    for part in parts {
        let line_end = if total == 0 { "" } else { "\r\n" };
        let range = content_range(&part, length);
        let head = format!("{line_end}--{boundary}\r\nContent-Type: {content_type}\r\nContent-Range: {range}\r\n\r\n");
        total += head.len() as u64 + (part.end - part.start);
        body = Box::new(body.chain(Cursor::new(head)).chain(read(part)));
    }
    let end = format!("\r\n--{boundary}--\r\n");
    total += end.len() as u64;
    let body = ResponseBody::Reader(Box::new(body.chain(Cursor::new(end))), total);
    Ok((format!("multipart/byteranges; boundary={boundary}"), body))
}

/// Returns a function that makes the reader of a range.
fn reader_of_parts(content: Content) -> Box<dyn Fn(Range<u64>) -> Box<dyn Read + Send>> {
    match content {
        Content::File(file) => {
            let file = Arc::new(file);
            Box::new(move |part| Box::new(Slice { file: Arc::clone(&file), left: part }))
        }
        Content::Embedded(bytes) => Box::new(move |part| Box::new(slice(bytes, &part))),
    }
}

/// A range of a file that several readers share, one after another.
struct Slice {
    file: Arc<File>,
    left: Range<u64>,
}

impl Read for Slice {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (self.left.end - self.left.start).min(buffer.len() as u64) as usize;
        if length == 0 {
            return Ok(0);
        }
        let mut file = &*self.file;
        file.seek(SeekFrom::Start(self.left.start))?;
        let count = file.read(&mut buffer[..length])?;
        self.left.start += count as u64;
        // The content of the next range must not move into this one.
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(count) }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn parts(ranges: &[(u64, u64)]) -> Wanted {
        Wanted::Parts(ranges.iter().map(|(start, end)| *start..*end).collect())
    }

    #[test]
    fn one_range_is_a_part() {
        for (value, expected) in [
            ("bytes=2-4", 2..5),
            ("bytes=7-", 7..10),
            ("bytes=-3", 7..10),
            ("bytes=-99", 0..10),
            ("bytes=9-9", 9..10),
            ("bytes=0-", 0..10),
            ("Bytes=0-99999999999999999999999", 0..10),
            ("BYTES=-99999999999999999999999", 0..10),
            ("bytes=0-18446744073709551615", 0..10),
            ("bytes=002-004", 2..5),
            (" bytes=2-4\t", 2..5),
            ("bytes=,2-4 ,\t,", 2..5),
            ("bytes=0-1,99-", 0..2),
        ] {
            assert_eq!(wanted(value, 10), Wanted::Part(expected), "{value}");
        }
    }

    #[test]
    fn an_invalid_range_means_the_whole_file() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=,",
            "bytes=--1",
            "bytes=4-2",
            "bytes=0-1,4-2",
            "bytes=0-1,x",
            "bytes=a-b",
            "bytes=+1-2",
            "bytes=1-+2",
            "bytes=0x1-2",
            "bytes=1.0-2",
            "bytes=1-2-3",
            "bytes=1 -2",
            "bytes=1- 2",
            "bytes= 1-2",
            "bytes =1-2",
            "bytes=1-2;3-4",
            "bytes:1-2",
            "bytes=１-２",
            "lines=0-1",
            "none=0-1",
            "0-1",
            "bytes=0-1\u{a0}",
        ] {
            assert_eq!(wanted(value, 10), Wanted::Whole, "{value}");
        }
    }

    #[test]
    fn a_range_beyond_the_file_is_unsatisfiable() {
        for value in ["bytes=10-", "bytes=99-100", "bytes=-0", "bytes=10-11,-0", "bytes=99999999999999999999999-"] {
            assert_eq!(wanted(value, 10), Wanted::Unsatisfiable, "{value}");
        }
        assert_eq!((wanted("bytes=0-", 0), wanted("bytes=-0", 0)), (Wanted::Unsatisfiable, Wanted::Unsatisfiable));
        assert_eq!((wanted("bytes=-5", 0), wanted("bytes=0-,-1", 0)), (Wanted::Whole, Wanted::Whole));
    }

    #[test]
    fn several_ranges_are_joined_and_stay_in_order() {
        assert_eq!(wanted("bytes=0-0,-1", 10), parts(&[(0, 1), (9, 10)]));
        assert_eq!(wanted("bytes=7-8 , 0-1,\t4-4", 10), parts(&[(7, 9), (0, 2), (4, 5)]));
        assert_eq!(wanted("bytes=0-1,3-4,99-", 10), parts(&[(0, 2), (3, 5)]));
        assert_eq!(wanted("bytes=0-1,2-3,8-9", 10), parts(&[(0, 4), (8, 10)]), "adjoining");
        assert_eq!(wanted("bytes=8-9,0-2,1-3", 10), parts(&[(8, 10), (0, 4)]), "overlapping");
        assert_eq!(wanted("bytes=0-1,4-5,2-3", 10), Wanted::Part(0..6), "joined by a third");
        assert_eq!(wanted("bytes=0-4,5-9", 10), Wanted::Part(0..10));
    }

    #[test]
    fn too_many_ranges_mean_the_whole_file() {
        assert_eq!(wanted("bytes=0-,0-", 10), Wanted::Whole);
        assert_eq!(wanted("bytes=0-5,3-9", 10), Wanted::Whole);
        let tiny = |count: usize| (0..count).map(|at| format!("{}-{}", at * 2, at * 2)).collect::<Vec<_>>().join(",");
        assert!(matches!(wanted(&format!("bytes={}", tiny(16)), 1_000), Wanted::Parts(parts) if parts.len() == 16));
        assert_eq!(wanted(&format!("bytes={}", tiny(17)), 1_000), Wanted::Whole);
        assert_eq!(wanted(&format!("bytes={}5-6", "0-,".repeat(1_300)), 1_000), Wanted::Whole);
    }

    #[test]
    fn a_file_that_shrank_is_an_error() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123").unwrap();
        let (_, body) = multipart(Content::File(file), "text/plain", 10, vec![0..2, 6..8]).unwrap();
        let ResponseBody::Reader(mut reader, _) = body else { panic!("not a reader") };
        assert_eq!(io::copy(&mut reader, &mut io::sink()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    /// Arbitrary values, and nearly valid ones.
    fn values() -> impl Strategy<Value = String> {
        let number = prop_oneof![
            Just(String::new()),
            (0u64..40).prop_map(|n| n.to_string()),
            any::<u64>().prop_map(|n| n.to_string()),
            "[0-9]{1,40}"
        ];
        let spec = (number.clone(), number).prop_map(|(first, last)| format!("{first}-{last}"));
        let set = proptest::collection::vec(spec, 0..20).prop_map(|specs| format!("bytes={}", specs.join(",")));
        prop_oneof![any::<String>(), "bytes=[-0-9, \t]{0,30}", set]
    }

    fn lengths() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..50, any::<u64>()]
    }

    proptest! {
        #[test]
        fn ranges_stay_within_the_file_and_do_not_overlap(value in values(), length in lengths()) {
            let parts = match wanted(&value, length) {
                Wanted::Part(part) => vec![part],
                Wanted::Parts(parts) => parts,
                Wanted::Whole | Wanted::Unsatisfiable => return Ok(()),
            };
            prop_assert!(parts.len() <= MAX_RANGES);
            prop_assert!(parts.iter().all(|part| part.start < part.end && part.end <= length));
            for (at, one) in parts.iter().enumerate() {
                prop_assert!(parts[..at].iter().all(|other| other.end < one.start || one.end < other.start));
            }
        }

        #[test]
        fn the_body_has_the_bytes_of_the_file(
            content in proptest::collection::vec(any::<u8>(), 1..200),
            cuts in proptest::collection::vec((0usize..200, 0usize..200), 1..10),
        ) {
            let length = content.len();
            let ranges: Vec<_> = cuts.iter().map(|(a, b)| (a % length) as u64..(b % length) as u64 + 1).collect();
            let ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content).unwrap();
            let (kind, body) = multipart(Content::File(file), "text/plain", length as u64, ranges.clone()).unwrap();
            let ResponseBody::Reader(mut reader, total) = body else { panic!("not a reader") };
            let mut sent = Vec::new();
            reader.read_to_end(&mut sent).unwrap();
            let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
            let mut expected = Vec::new();
            for range in &ranges {
                let head = format!(
                    "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {}-{}/{length}\r\n\r\n",
                    range.start, range.end - 1
                );
                expected.extend_from_slice(head.as_bytes());
                expected.extend_from_slice(&content[range.start as usize..range.end as usize]);
                expected.extend_from_slice(b"\r\n");
            }
            // Without a range there is no line end before the final delimiter; a response always has two ranges.
            prop_assume!(!ranges.is_empty());
            expected.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
            prop_assert_eq!(total, sent.len() as u64);
            prop_assert_eq!(sent, expected);
        }
    }
}
