//! HTTP/1.1 as both transports share it: the checks of a request head, and the serialization of a response.
//!
//! A head that two servers could read differently is refused before routing. Behind a proxy, such a difference lets one
//! client send requests in the name of another (request smuggling, RFC 9112, section 11.2).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::SocketAddr;

use super::date_header::TimeCache;
use crate::config::Config;
use crate::error::{Error, Status};
use crate::http::headers::{Headers, is_token, is_value};
use crate::http::request::{Body, Method, Request, is_authority};
use crate::http::response::{Response, ResponseBody};
use crate::http::stream::disconnect::Disconnect;
use crate::http::stream::source::follow;
use crate::http::stream::writer::StreamWriter;

thread_local! {
    static DATE: TimeCache = const { TimeCache::new() };
}

/// The size, in bytes, of the pieces in which bodies are copied and files are read.
pub(crate) const PIECE: usize = 64 << 10;

/// The maximum length of a method, in bytes.
pub(crate) const LONGEST_METHOD: usize = 32;
/// The maximum length of a target, in bytes. Proxies usually allow less.
pub(crate) const LONGEST_TARGET: usize = 16 << 10;

/// The length to which a refused method or target is cut for the log.
pub(crate) const LOGGED: usize = 200;

pub(crate) const OTHER_VERSION: Malformed = bad_request("This server speaks HTTP/1.0 and HTTP/1.1.");
pub(crate) const UNKNOWN_METHOD: Malformed = bad_request("The method is not a token of at most 32 characters.");
pub(crate) const LONG_TARGET: Malformed = Malformed(Status::URI_TOO_LONG, "The target is longer than 16 KiB.");
pub(crate) const LARGE_HEAD: Malformed = Malformed(
    Status::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "Your browser sent too much with its request. Deleting the cookies of this site may help.",
);

const OTHER_CODING: Malformed =
    Malformed(Status::NOT_IMPLEMENTED, "The only supported Transfer-Encoding is `chunked`.");

/// A request head that has passed the checks.
#[derive(Debug)]
pub(crate) struct CheckedHead {
    pub(crate) method: Method,
    /// In origin form, or `*`.
    pub(crate) target: String,
    /// The host in the target, which takes precedence over the `Host` header (RFC 9112, section 3.2.2).
    pub(crate) authority: Option<String>,
    pub(crate) framing: Framing,
    /// True for HTTP/1.0.
    pub(crate) http10: bool,
    /// True if this is the last request of the connection.
    pub(crate) close: bool,
}

impl CheckedHead {
    /// Returns the options for writing the response.
    pub(crate) fn write_options(&self) -> WriteOptions {
        WriteOptions { http10: self.http10, head_only: self.method.as_str() == "HEAD", close: self.close }
    }

    /// Returns the request for the application. The host in the target replaces the `Host` header.
    pub(crate) fn into_request(self, mut headers: Headers, body: Body, remote: Option<SocketAddr>) -> Request {
        self.authority.into_iter().for_each(|authority| headers.set("Host", authority));
        Request::new(self.method, self.target, headers, body).with_peer(remote)
    }

    /// Returns the request for an error page, without its body.
    pub(crate) fn into_refused(self, headers: Headers, remote: Option<SocketAddr>) -> Request {
        Request::new(self.method, self.target, headers, Body::empty()).with_peer(remote)
    }
}

/// The delimitation of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Nothing,
    Length(u64),
    Chunked,
}

/// The reason why a head is refused: the status and the message for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) Status, pub(crate) &'static str);

impl Malformed {
    /// Returns the error for the client.
    pub(crate) fn error(&self) -> Error {
        let error = Error::new(self.0, self.1);
        match *self == LARGE_HEAD {
            true => error.with_detail("the headers are too many or too long (ASIDE_MAX_HEADERS, ASIDE_MAX_HEAD)"),
            false => error,
        }
    }
}

pub(crate) const fn bad_request(message: &'static str) -> Malformed {
    Malformed(Status::BAD_REQUEST, message)
}

/// Checks a parsed head.
///
/// # Errors
/// An error if the head is malformed, ambiguous or too large.
pub(crate) fn check(
    method: &str,
    target: &str,
    version: (u8, u8),
    headers: &Headers,
    config: &Config,
) -> Result<CheckedHead, Malformed> {
    if version != (1, 0) && version != (1, 1) {
        return Err(OTHER_VERSION);
    }
    if !(1..=LONGEST_METHOD).contains(&method.len()) || !method.bytes().all(is_token) {
        return Err(UNKNOWN_METHOD);
    }
    check_size(target, headers, config)?;
    if headers.iter().any(|(name, _)| name.is_empty() || !name.bytes().all(is_token)) {
        return Err(bad_request("The name of a header is not a token."));
    }
    if headers.iter().any(|(_, value)| !is_value(value)) {
        return Err(bad_request("The value of a header has a control character."));
    }
    let http10 = version == (1, 0);
    let framing = framing(headers, http10)?;
    check_host(headers, http10)?;
    let (target, authority) = origin_form(method, target)?;
    let close = closes(headers, http10);
    Ok(CheckedHead { method: Method::from(method), target, authority, framing, http10, close })
}

fn check_size(target: &str, headers: &Headers, config: &Config) -> Result<(), Malformed> {
    if target.len() > LONGEST_TARGET {
        return Err(LONG_TARGET);
    }
    let length: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if length > config.max_head || headers.len() > config.max_headers { Err(LARGE_HEAD) } else { Ok(()) }
}

/// Returns true if this is the last request of its connection: the client asks to close it (RFC 9112, section 9.3), or to
/// upgrade to another protocol, which is not supported.
fn closes(headers: &Headers, http10: bool) -> bool {
    let options = || headers.get_all("Connection").flat_map(|value| value.split(','));
    let has_option = |word: &str| options().any(|option| option.trim().eq_ignore_ascii_case(word));
    has_option("close") || has_option("upgrade") || (http10 && !has_option("keep-alive"))
}

/// Returns the delimitation of the body (RFC 9112, section 6.3).
///
/// # Errors
/// An error if two servers could read it differently.
fn framing(headers: &Headers, http10: bool) -> Result<Framing, Malformed> {
    let mut lengths = headers.get_all("Content-Length");
    let mut codings = headers.get_all("Transfer-Encoding");
    match (lengths.next(), lengths.next(), codings.next(), codings.next()) {
        (None, _, None, _) => Ok(Framing::Nothing),
        (Some(length), None, None, _) => content_length(length),
        (None, _, Some(coding), None) if coding.eq_ignore_ascii_case("chunked") && !http10 => Ok(Framing::Chunked),
        (None, _, Some(codings), None) if ends_in_chunked(codings) && !http10 => Err(OTHER_CODING),
        (None, ..) => Err(bad_request("The only supported Transfer-Encoding is `chunked`, once, in HTTP/1.1.")),
        (_, _, Some(_), _) => Err(bad_request("A request cannot have both Content-Length and Transfer-Encoding.")),
        (_, Some(_), ..) => Err(bad_request("There is more than one Content-Length.")),
    }
}

/// Returns true if `chunked` is the last of several codings, and the others are valid names. The end of the body is then
/// known, but its coding is not supported (RFC 9112, section 6.1).
fn ends_in_chunked(codings: &str) -> bool {
    let is_name = |coding: &str| !coding.is_empty() && coding.bytes().all(is_token);
    let is_chunked = |coding: &str| coding.eq_ignore_ascii_case("chunked");
    let mut codings = codings.split(',').map(str::trim);
    codings.next_back().is_some_and(is_chunked) && codings.all(|coding| is_name(coding) && !is_chunked(coding))
}

fn content_length(value: &str) -> Result<Framing, Malformed> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let length = value.parse().ok().filter(|_| digits);
    length.map(Framing::Length).ok_or(bad_request("Content-Length is not a number of bytes."))
}

/// Checks that there is one `Host` header with a valid host (RFC 9112, section 3.2). HTTP/1.0 may lack it.
fn check_host(headers: &Headers, http10: bool) -> Result<(), Malformed> {
    let mut hosts = headers.get_all("Host");
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(bad_request("There is more than one Host.")),
        (None, _) if http10 => Ok(()),
        (None, _) => Err(bad_request("The Host header is missing.")),
        (Some(host), _) if is_authority(host) => Ok(()),
        (Some(_), _) => Err(bad_request("The Host header is not a valid host, with an optional port.")),
    }
}

/// Returns the target in origin form, and the host of an absolute target.
///
/// # Errors
/// An error if the target is invalid.
fn origin_form(method: &str, target: &str) -> Result<(String, Option<String>), Malformed> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(bad_request("The target contains a byte that must be percent-encoded."));
    }
    if method == "CONNECT" {
        return Err(bad_request("CONNECT is for proxies, and this server is not a proxy."));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target.to_owned(), None));
    }
    let (authority, rest) = absolute(target).ok_or(bad_request("The target is neither a path nor a URL."))?;
    if !is_authority(authority) {
        return Err(bad_request("The host in the target is not a valid host, with an optional port."));
    }
    let path = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    Ok((path, Some(authority.to_owned())))
}

fn absolute(target: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = target.split_once("://")?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    is_http.then(|| rest.split_at(end))
}

/// The properties of the request and the connection that determine how a response is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteOptions {
    /// True for HTTP/1.0.
    pub(crate) http10: bool,
    /// True for a HEAD request.
    pub(crate) head_only: bool,
    /// True if this is the last response of the connection.
    pub(crate) close: bool,
}

impl WriteOptions {
    /// Returns the options for writing the response to a refused request: the last one of the connection.
    pub(crate) fn of_refusal(request: &Request) -> WriteOptions {
        WriteOptions { http10: false, head_only: request.is_head(), close: true }
    }

    /// Makes this the last response of the connection if the transport says so, if its body ends with the connection, or if
    /// its status is informational, since the client would wait for another response.
    pub(crate) fn close_after(&mut self, response: &Response, is_last: bool) {
        self.close |= is_last || self.ends_by_closing(response) || response.status_code() < Status::OK;
    }

    /// Returns true if the end of the connection delimits the body of this response.
    fn ends_by_closing(&self, response: &Response) -> bool {
        self.http10 && response.is_stream() && self.has_body(response.status_code())
    }

    /// Returns true if a response of this status has a body.
    pub(crate) fn has_body(&self, status: Status) -> bool {
        !self.head_only && !status.is_bodiless()
    }
}

/// Writes a response: the head and the first piece of the body in one write, and a flush at the end. A stream is flushed
/// after each of its writes.
///
/// # Errors
/// An error if the client has disconnected, or the body ended early. The connection cannot be used further.
pub(crate) fn write_response(
    out: &mut dyn Write,
    response: Response,
    options: WriteOptions,
    disconnect: &Disconnect,
) -> io::Result<()> {
    let mut buffer =
        head(&response, options, response.body.length().map_or(0, |length| length.min(PIECE as u64)) as usize);
    if !options.has_body(response.status_code()) {
        out.write_all(&buffer)?;
        return out.flush();
    }
    match response.body {
        ResponseBody::Bytes(bytes) => {
            let (first, rest) = bytes.split_at(bytes.len().min(PIECE));
            buffer.extend_from_slice(first);
            out.write_all(&buffer)?;
            out.write_all(rest)?;
        }
        ResponseBody::File(file, length) => send_file(out, buffer, file, length)?,
        ResponseBody::Reader(reader, length) => send_file(out, buffer, reader, length)?,
        ResponseBody::Stream { write, .. } => {
            out.write_all(&buffer)?;
            send_stream(out, options, disconnect, write)?;
        }
        ResponseBody::Source(source) => {
            out.write_all(&buffer)?;
            send_stream(out, options, disconnect, |out| follow(source, out))?;
        }
    }
    out.flush()
}

/// Writes a stream: one chunk for each of its writes.
fn send_stream(
    out: &mut dyn Write,
    options: WriteOptions,
    disconnect: &Disconnect,
    write: impl FnOnce(StreamWriter<'_>) -> io::Result<()>,
) -> io::Result<()> {
    out.flush()?;
    let mut chunks = Chunks::new(out, options);
    let written = write(StreamWriter::new(&mut chunks, disconnect.clone()));
    // A stream that is told to end usually returns an error; its body is complete nevertheless.
    if !disconnect.is_signaled() {
        written?;
    }
    chunks.end()
}

/// Writes `length` bytes of a reader in pieces, the first together with the head in the buffer.
fn send_file(out: &mut dyn Write, mut buffer: Vec<u8>, mut file: impl Read, length: u64) -> io::Result<()> {
    let mut left = length;
    loop {
        let piece = left.min(PIECE as u64);
        let count = (&mut file).take(piece).read_to_end(&mut buffer)? as u64;
        out.write_all(&buffer)?;
        left -= count;
        if left == 0 {
            return Ok(());
        }
        if count < piece {
            return Err(became_shorter());
        }
        buffer.clear();
    }
}

/// Returns the error for a file that is shorter than its declared length.
pub(crate) fn became_shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was sent")
}

/// Returns the head of a response with its empty line, in a buffer that can hold `capacity` more bytes.
pub(crate) fn head(response: &Response, options: WriteOptions, capacity: usize) -> Vec<u8> {
    let status = response.status_code();
    // Four for the separators of each line, and 192 for the lines that the transport adds.
    let fields: usize = response.headers().iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut head = Vec::with_capacity(fields + 192 + capacity);
    append(&mut head, format_args!("HTTP/1.1 {} {}\r\n", status.code(), status.reason()));
    DATE.with(|date| date.with_text(httpdate::fmt_http_date, |date| append_line(&mut head, "Date", date)));
    let lines = response.headers().checked().filter_map(well_formed).filter(|(name, _)| !is_connection_header(name));
    lines.for_each(|(name, value)| append_line(&mut head, name, value));
    match response.body.length() {
        _ if status.is_bodiless() => {}
        Some(length) => append(&mut head, format_args!("Content-Length: {}\r\n", declared(response, options, length))),
        None if options.head_only || options.http10 => {}
        None => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    match (options.close, options.http10) {
        (true, _) => head.extend_from_slice(b"Connection: close\r\n"),
        (false, true) => head.extend_from_slice(b"Connection: keep-alive\r\n"),
        (false, false) => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Returns the length for the head. A handler for HEAD may declare the length of a body that it did not create.
fn declared(response: &Response, options: WriteOptions, length: u64) -> u64 {
    let declared_by_handler = || response.headers().get("Content-Length").and_then(|value| value.parse().ok());
    if options.head_only && length == 0 { declared_by_handler().unwrap_or(0) } else { length }
}

/// Returns the header if it is valid. An invalid one, which could end its line, is logged and left out.
fn well_formed<'h>(header: Result<(&'h str, &'h str), Error>) -> Option<(&'h str, &'h str)> {
    let log_invalid = |error| log::error!(target: "aside::server", "Left an invalid header out of a response: {error}");
    header.map_err(log_invalid).ok()
}

/// Returns true if the transport writes this header itself: those for the body and for the connection.
fn is_connection_header(name: &str) -> bool {
    ["Connection", "Content-Length", "Transfer-Encoding", "Keep-Alive", "Upgrade", "Trailer", "Date"]
        .iter()
        .any(|other| other.eq_ignore_ascii_case(name))
}

fn append_line(head: &mut Vec<u8>, name: &str, value: &str) {
    [name, ": ", value, "\r\n"].iter().for_each(|part| head.extend_from_slice(part.as_bytes()));
}

fn append(head: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // A write to a vector does not fail.
    let _ = head.write_fmt(text);
}

/// A writer for the body of a stream: each write is a chunk that is sent at once.
pub(crate) struct Chunks<'o> {
    out: &'o mut dyn Write,
    /// False for HTTP/1.0, where the end of the connection is the end of the body.
    framed: bool,
}

impl<'o> Chunks<'o> {
    pub(crate) fn new(out: &'o mut dyn Write, options: WriteOptions) -> Chunks<'o> {
        Chunks { out, framed: !options.http10 }
    }

    /// Writes the last chunk, which is empty.
    ///
    /// # Errors
    /// An error if the client has disconnected.
    pub(crate) fn end(self) -> io::Result<()> {
        if self.framed { self.out.write_all(b"0\r\n\r\n") } else { Ok(()) }
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // An empty chunk would end the body.
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.framed {
            let mut chunk = Vec::with_capacity(bytes.len() + 20);
            append(&mut chunk, format_args!("{:x}\r\n", bytes.len()));
            chunk.extend_from_slice(bytes);
            chunk.extend_from_slice(b"\r\n");
            self.out.write_all(&chunk)?;
        } else {
            self.out.write_all(bytes)?;
        }
        self.out.flush()?;
        Ok(bytes.len())
    }

    /// Writes one chunk for one `write!`, whatever the number of its parts.
    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        match text.as_str() {
            Some(text) => self.write_all(text.as_bytes()),
            None => self.write_all(text.to_string().as_bytes()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<CheckedHead, Malformed> {
        check(method, target, (1, 1), &fields.iter().copied().collect(), &Config::default())
    }

    const HOST: (&str, &str) = ("Host", "a.example:8000");

    #[test]
    fn a_target_is_converted_to_origin_form() {
        let target = |target| checked("GET", target, &[HOST]).map(|checked| checked.target);
        assert_eq!(target("/a?b=1"), Ok("/a?b=1".into()));
        assert_eq!(target("http://A.example:8000/a?b"), Ok("/a?b".into()));
        assert_eq!(target("http://a.example:8000"), Ok("/".into()));
        assert_eq!(target("HTTP://a.example:8000?b"), Ok("/?b".into()));
        for wrong in
            ["", "a", "*", "http://b.example:x/", "ftp://a.example:8000/", "a.example:443", "/a#b", "/a\tb", "/\0"]
        {
            assert!(target(wrong).is_err(), "{wrong:?}");
        }
        let other = checked("GET", "http://b.example/", &[HOST]).unwrap();
        assert_eq!((other.target.as_str(), other.authority.as_deref()), ("/", Some("b.example")));
        assert!(checked("OPTIONS", "*", &[HOST]).is_ok());
        assert!(checked("CONNECT", "/", &[HOST]).is_err());
        assert!(checked(&"A".repeat(33), "/", &[HOST]).is_err());
        assert!(target("http://u@a.example:8000/").is_err());
    }

    #[test]
    fn an_ambiguous_body_length_is_refused() {
        let framing = |fields: &[(&str, &str)]| {
            let fields: Vec<_> = [HOST].iter().chain(fields).copied().collect();
            checked("POST", "/", &fields).map(|checked| checked.framing)
        };
        assert_eq!(framing(&[]), Ok(Framing::Nothing));
        assert_eq!(framing(&[("content-length", "007")]), Ok(Framing::Length(7)));
        assert_eq!(framing(&[("Content-Length", &u64::MAX.to_string())]), Ok(Framing::Length(u64::MAX)));
        assert_eq!(framing(&[("Transfer-Encoding", "chunked")]), Ok(Framing::Chunked));
        assert_eq!(framing(&[("transfer-encoding", "Chunked")]), Ok(Framing::Chunked));
        for length in ["", "+5", "-5", "5, 5", "0x5", "5 5", "18446744073709551616"] {
            assert!(framing(&[("Content-Length", length)]).is_err(), "{length}");
        }
        let status = |coding: &str| framing(&[("Transfer-Encoding", coding)]).unwrap_err().0.code();
        for coding in
            ["", "gzip", "chunked, identity", "xchunked", "identity", "chunked, chunked", ", chunked", "a b, chunked"]
        {
            assert_eq!(status(coding), 400, "{coding}");
        }
        for coding in ["gzip, chunked", "deflate,Chunked", "gzip, x-other, chunked"] {
            assert_eq!(status(coding), 501, "{coding}");
        }
        assert!(framing(&[("Content-Length", "5"), ("Content-Length", "5")]).is_err());
        assert!(framing(&[("Content-Length", "5"), ("Transfer-Encoding", "chunked")]).is_err());
        assert!(framing(&[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")]).is_err());
    }

    #[test]
    fn an_invalid_head_is_refused() {
        assert!(checked("GET", "/", &[]).is_err());
        assert!(checked("GET", "/", &[HOST, HOST]).is_err());
        assert!(checked("G(T", "/", &[HOST]).is_err());
        assert!(checked("GET", "/", &[HOST, ("X", "a\0b")]).is_err());
        assert!(checked("GET", "/", &[HOST, ("X\u{1}", "a")]).is_err());
        for host in
            ["", "a b", "u@a", "a/b", "a,b", ":80", "a:b", "a:99999", "a:80:80", "[::1", "[::g]", "::1", "[a]:80"]
        {
            assert!(checked("GET", "/", &[("Host", host)]).is_err(), "{host}");
        }
        for host in ["a:", "a_b.example:8000", "[::1]", "[::ffff:127.0.0.1]:80", "127.0.0.1"] {
            assert!(checked("GET", "/", &[("Host", host)]).is_ok(), "{host}");
        }
        let none = Headers::new();
        assert!(check("GET", "/", (0, 9), &none, &Config::default()).is_err());
        assert!(check("GET", "/", (1, 0), &none, &Config::default()).is_ok());
    }

    #[test]
    fn a_head_above_the_limits_is_refused() {
        let status = |target: &str, fields: &[(&str, &str)]| {
            let fields: Vec<_> = [HOST].iter().chain(fields).copied().collect();
            checked("GET", target, &fields).map_or_else(|malformed| malformed.0.code(), |_| 200)
        };
        let path = |length: usize| format!("/{}", "a".repeat(length - 1));
        assert_eq!((status(&path(16 << 10), &[]), status(&path((16 << 10) + 1), &[])), (200, 414));
        assert_eq!((status("/", &[("X", "y"); 127]), status("/", &[("X", "y"); 128])), (200, 431));
        assert_eq!(status("/", &[("X", &"y".repeat(64 << 10))]), 431);
    }

    #[test]
    fn only_the_whole_word_close_ends_a_connection() {
        let closes = |version, values: &[&str]| {
            let headers: Headers = values.iter().map(|value| ("Connection", *value)).chain([HOST]).collect();
            check("GET", "/", version, &headers, &Config::default()).unwrap().close
        };
        for (values, in_1_1, in_1_0) in [
            (&[][..], false, true),
            (&["close"], true, true),
            (&["foo, Close"], true, true),
            (&["Keep-Alive", "close"], true, true),
            (&["keep-alive"], false, false),
            (&["disclose"], false, true),
        ] {
            assert_eq!((closes((1, 1), values), closes((1, 0), values)), (in_1_1, in_1_0), "{values:?}");
        }
    }

    proptest::proptest! {
        /// Every parsed head that passes the checks can be read in one way only.
        #[test]
        fn a_head_that_passes_the_checks_is_well_formed(
            method in "[A-Z]{0,5}|\\PC{0,4}",
            target in "[/*h]?[ -~]{0,12}|(http://a)?/?\\PC{0,8}|[\\x00-\\xff]{0,6}",
            fields in proptest::collection::vec(
                (
                    "(?i)content-length|transfer-encoding|host|connection|x|[ -~]{0,6}",
                    "[0-9+, -]{0,21}|(?i)chunked|gzip, chunked|a|a:[0-9]{0,6}|[\\x00-\\xff]{0,6}",
                ),
                0..5,
            ),
            minor in 0u8..3,
        ) {
            let headers: Headers = fields.into_iter().collect();
            let Ok(checked) = check(&method, &target, (1, minor), &headers, &Config::default()) else { return Ok(()) };
            let (lengths, codings) = (headers.get_all("Content-Length").count(), headers.get_all("Transfer-Encoding").count());
            proptest::prop_assert!(minor < 2 && lengths + codings <= 1);
            proptest::prop_assert_eq!(checked.framing == Framing::Nothing, lengths + codings == 0);
            proptest::prop_assert!(checked.target.starts_with('/') || (checked.target == "*" && method == "OPTIONS"));
            proptest::prop_assert!(checked.target.bytes().all(|byte| byte.is_ascii_graphic()));
            proptest::prop_assert!(method.bytes().all(is_token) && headers.iter().all(|(name, value)| Headers::check(name, value).is_ok()));
            proptest::prop_assert!(headers.get_all("Host").count() == 1 || (checked.http10 && !headers.contains("Host")));
        }
    }

    #[test]
    fn a_response_head_declares_its_body() {
        let text = |response: &Response, http10, head_only| {
            String::from_utf8(head(response, WriteOptions { http10, head_only, close: false }, 0)).unwrap()
        };
        let page = Response::text("hello").header("Connection", "upgrade").header("Content-Length", "7");
        assert!(text(&page, false, true).contains("\r\nContent-Length: 5\r\n"));
        assert!(!text(&page, false, false).contains("Connection"));
        assert!(text(&page, true, false).contains("\r\nConnection: keep-alive\r\n"));
        let nothing = Response::new().status(Status::NOT_MODIFIED);
        assert!(!text(&nothing, false, false).contains("Content-Length"));
        let stream = Response::stream("text/plain", |_| Ok(()));
        assert!(text(&stream, false, false).contains("\r\nTransfer-Encoding: chunked\r\n"));
        assert!(!text(&stream, true, false).contains("Transfer-Encoding"));
        let mut forged = Response::new();
        forged.headers_mut().set("X-Note", "a\r\nSet-Cookie: b=c");
        forged.headers_mut().set("X: y\r\nZ", "a");
        let head = text(&forged, false, false);
        assert!(!head.contains("X") && !head.contains("Set-Cookie"), "{head}");
    }
}
