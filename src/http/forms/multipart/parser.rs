//! The grammar of a multipart body (RFC 2046, section 5.1): delimiters, and the headers and contents of parts.
//!
//! The preamble and the epilogue are skipped. A delimiter is valid only at the start of a line, and lines end in CR LF.
//! The parser holds one chunk of input, or the headers of one part.

use std::io::{self, Read};

use memchr::memmem;

use super::Limits;
use crate::error::{Error, Result};
use crate::http::request::unreadable;

/// The number of bytes read from the body at once.
pub(super) const CHUNK: usize = 8 << 10;

/// The largest number of bytes without progress: before the first delimiter, after a delimiter, or in the headers of a
/// part.
pub(super) const HEAD: usize = 16 << 10;

/// The largest number of header fields of a part.
const MAX_HEADERS: usize = 32;

/// A multipart body, read part by part.
pub(super) struct Parser<'r> {
    body: &'r mut (dyn Read + Send),
    limits: Limits,
    /// The number of bytes read from the body.
    read: u64,
    /// The start of the unread input in the buffer.
    buffer: Vec<u8>,
    start: usize,
    /// The delimiter, including the line end before it, which is not content.
    delimiter: Vec<u8>,
    is_at_first: bool,
    has_parts: bool,
}

/// The header fields of a part: names in lower case, and values in one line.
pub(super) struct PartHeaders(Vec<(String, Vec<u8>)>);

impl PartHeaders {
    /// Returns the first field of that name, given in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_slice())
    }
}

impl<'r> Parser<'r> {
    pub(super) fn new(body: &'r mut (dyn Read + Send), boundary: &str, limits: Limits) -> Parser<'r> {
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        // The first delimiter may start the body, without a line end before it.
        Parser {
            body,
            limits,
            read: 0,
            buffer: b"\r\n".to_vec(),
            start: 0,
            delimiter,
            is_at_first: true,
            has_parts: false,
        }
    }

    /// Returns the headers of the next part; `None` at the end. The previous part's content must have been read.
    pub(super) fn next(&mut self) -> Result<Option<PartHeaders>> {
        let is_empty_form = self.is_at_first && self.first_delimiter()?;
        self.is_at_first = false;
        if self.is_last()? {
            return if is_empty_form || self.has_parts { Ok(None) } else { Err(malformed()) };
        }
        self.has_parts = true;
        // Without headers, the delimiter's line end is the first of the two.
        let end = self.find(b"\r\n\r\n")?;
        let headers = parse_headers(&self.rest()[end.min(2)..end])?;
        self.start += end + 4;
        Ok(Some(headers))
    }

    /// Skips to the end of the first delimiter. Returns true if nothing preceded it: it may then also be the last, as
    /// browsers send a form without fields. Otherwise the first delimiter is missing.
    fn first_delimiter(&mut self) -> Result<bool> {
        let (mut passed, mut is_blank) = (0, true);
        self.content(|piece| {
            passed += piece.len();
            is_blank &= piece.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
            if passed > HEAD { Err(no_part()) } else { Ok(()) }
        })?;
        Ok(is_blank)
    }

    /// Passes a part's content on in pieces, and skips the delimiter after it.
    pub(super) fn content(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            let found = memmem::find(self.rest(), &self.delimiter);
            // Everything except a possible start of a delimiter.
            let is_content = found.unwrap_or((self.rest().len() + 1).saturating_sub(self.delimiter.len()));
            take(&self.rest()[..is_content])?;
            self.start += is_content;
            if found.is_none() {
                self.fill()?;
            } else if self.is_delimiter()? {
                self.start += self.delimiter.len();
                return Ok(());
            } else {
                take(&self.rest()[..1])?;
                self.start += 1;
            }
        }
    }

    /// Returns true for a delimiter, and false for content that starts like one: the longer boundary of a nested body.
    fn is_delimiter(&mut self) -> Result<bool> {
        let end = self.delimiter.len();
        while self.rest().len() < end + 2 {
            self.fill()?;
        }
        Ok(matches!(self.rest()[end..], [b'\r' | b' ' | b'\t', ..] | [b'-', b'-', ..]))
    }

    /// Returns true if the delimiter was the last. Otherwise skips spaces up to the end of the line.
    fn is_last(&mut self) -> Result<bool> {
        if self.rest().starts_with(b"--") {
            return Ok(true);
        }
        let padding = self.find(b"\r\n")?;
        if !self.rest()[..padding].iter().all(|byte| matches!(byte, b' ' | b'\t')) {
            return Err(malformed());
        }
        self.start += padding;
        Ok(false)
    }

    /// Returns the next position of these bytes, within [`HEAD`].
    fn find(&mut self, bytes: &[u8]) -> Result<usize> {
        loop {
            match memmem::find(self.rest(), bytes) {
                Some(at) if at <= HEAD => return Ok(at),
                None if self.rest().len() <= HEAD => self.fill()?,
                _ => return Err(no_part()),
            }
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads more input. The end of the body is an error here.
    fn fill(&mut self) -> Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let held = self.buffer.len();
        self.buffer.resize(held + CHUNK, 0);
        let count = read(self.body, &mut self.buffer[held..]);
        self.buffer.truncate(held + *count.as_ref().unwrap_or(&0));
        let count = count.map_err(unreadable)?;
        self.read += count as u64;
        if self.read > self.limits.upload {
            return Err(self.limits.over_upload());
        }
        if count == 0 { Err(malformed()) } else { Ok(()) }
    }
}

fn read(body: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match body.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Returns the lines of a part's headers, unfolded.
fn parse_headers(lines: &[u8]) -> Result<PartHeaders> {
    let mut headers: Vec<(String, Vec<u8>)> = Vec::new();
    let mut rest = lines;
    while !rest.is_empty() {
        let end = memmem::find(rest, b"\r\n").unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 2..).unwrap_or_default();
        if line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return Err(malformed_headers());
        }
        match (line.first(), headers.last_mut()) {
            (Some(b' ' | b'\t'), Some((_, value))) => {
                value.push(b' ');
                value.extend_from_slice(line.trim_ascii());
            }
            _ => headers.push(parse_header(line).ok_or_else(malformed_headers)?),
        }
    }
    if headers.len() > MAX_HEADERS { Err(malformed_headers()) } else { Ok(PartHeaders(headers)) }
}

fn parse_header(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
    let is_in_a_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let is_name = !name.is_empty() && name.iter().all(is_in_a_name);
    is_name.then(|| (String::from_utf8_lossy(name).to_ascii_lowercase(), value[1..].trim_ascii().to_vec()))
}

fn malformed() -> Error {
    Error::bad_request("The multipart body was cut short or is malformed.")
}

fn malformed_headers() -> Error {
    Error::bad_request("A part of the multipart body has malformed headers.")
}

fn no_part() -> Error {
    Error::bad_request(format!("No part starts within {HEAD} bytes, or the headers of a part are longer."))
}
