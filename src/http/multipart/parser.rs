//! The grammar of a multipart body (RFC 2046, section 5.1): delimiters, and the headers and contents of parts.
//!
//! What stands before the first delimiter and after the last is passed over. A delimiter is one at the beginning of a line
//! alone, and lines end in CR LF. Nothing is kept but a chunk of what was read, or the headers of one part.

use std::io::{self, Read};

use memchr::memmem;

use super::Limits;
use crate::error::{Error, Result};
use crate::http::request::unreadable;

/// How much is read from the body at once.
pub(super) const CHUNK: usize = 8 << 10;

/// How much may come without a part that begins or goes on: before the first delimiter, behind one, or in the headers of a
/// part.
pub(super) const HEAD: usize = 16 << 10;

/// As many header fields as a part may have.
const MAX_HEADERS: usize = 32;

/// A multipart body, read part by part.
pub(super) struct Parser<'r> {
    body: &'r mut (dyn Read + Send),
    limits: Limits,
    /// How much of the body was read.
    read: u64,
    /// What was read and not taken yet begins at `start`.
    buffer: Vec<u8>,
    start: usize,
    /// With the line end before it, which is not the content's.
    delimiter: Vec<u8>,
    is_at_first: bool,
    has_parts: bool,
}

/// The header fields of a part: names in lower case, and values in one line.
pub(super) struct PartHeaders(Vec<(String, Vec<u8>)>);

impl PartHeaders {
    /// The first field of that name, which is given in lower case.
    pub(super) fn get(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_slice())
    }
}

impl<'r> Parser<'r> {
    pub(super) fn new(body: &'r mut (dyn Read + Send), boundary: &str, limits: Limits) -> Parser<'r> {
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        // The line that the first delimiter may end, where nothing stands before it.
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

    /// The headers of the next part; none at the end. The content of the one before must have been taken.
    pub(super) fn next(&mut self) -> Result<Option<PartHeaders>> {
        let is_empty_form = self.is_at_first && self.first_delimiter()?;
        self.is_at_first = false;
        if self.is_last()? {
            return if is_empty_form || self.has_parts { Ok(None) } else { Err(malformed()) };
        }
        self.has_parts = true;
        // The line end of the delimiter is the first of the two where there are no headers.
        let end = self.find(b"\r\n\r\n")?;
        let headers = parse_headers(&self.rest()[end.min(2)..end])?;
        self.start += end + 4;
        Ok(Some(headers))
    }

    /// Goes past the first delimiter. Returns true if nothing stood before it: then it may be the last too, as browsers send a
    /// form without fields. Otherwise the first one is missing.
    fn first_delimiter(&mut self) -> Result<bool> {
        let (mut passed, mut is_blank) = (0, true);
        self.content(|piece| {
            passed += piece.len();
            is_blank &= piece.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
            if passed > HEAD { Err(no_part()) } else { Ok(()) }
        })?;
        Ok(is_blank)
    }

    /// Hands a part's content on, piece by piece, and goes past the delimiter behind it.
    pub(super) fn content(&mut self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            let found = memmem::find(self.rest(), &self.delimiter);
            // All but what may be the beginning of a delimiter.
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

    /// Returns true for a delimiter, and false for content that begins like one: a longer boundary, of a body in a body.
    fn is_delimiter(&mut self) -> Result<bool> {
        let end = self.delimiter.len();
        while self.rest().len() < end + 2 {
            self.fill()?;
        }
        Ok(matches!(self.rest()[end..], [b'\r' | b' ' | b'\t', ..] | [b'-', b'-', ..]))
    }

    /// Behind a delimiter: returns true if it was the last; otherwise goes past spaces to the end of the line.
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

    /// Where these bytes come next, within [`HEAD`].
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

    /// Reads on. It is an error for the body to end here.
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

/// The lines of a part's headers. A line that begins with a space goes on with the one before.
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
    Error::bad_request(format!("No part begins within {HEAD} bytes, or its header is longer."))
}
