//! What every transport shares: whether a request's head is well formed, and which bytes a response is.
//!
//! A head that two servers could read in two ways is refused before anything is routed: behind a proxy the second reading
//! is somebody else's request (request smuggling, RFC 9112, section 11.2).

use std::fmt;
use std::io::{self, Read, Write};

use super::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Status};
use crate::http::disconnect::Disconnect;
use crate::http::feed::follow;
use crate::http::headers::{Headers, is_token, is_value};
use crate::http::outlet::Outlet;
use crate::http::request::{Method, is_authority};
use crate::http::response::{Response, ResponseBody};

thread_local! {
    static DATE: Clock = const { Clock::new() };
}

/// Bodies are copied, and read from files, in pieces of this size.
pub(crate) const PIECE: usize = 64 << 10;

/// What a request line has at most. A proxy in front allows less, and no page needs as much.
pub(crate) const LONGEST_METHOD: usize = 32;
pub(crate) const LONGEST_TARGET: usize = 16 << 10;

/// How much of a method or a target that is refused goes to the log.
pub(crate) const LOGGED: usize = 200;

pub(crate) const OTHER_VERSION: Malformed = bad("This server speaks HTTP/1.0 and HTTP/1.1.");
pub(crate) const UNKNOWN_METHOD: Malformed = bad("The method is not a token of at most 32 characters.");
pub(crate) const LONG_TARGET: Malformed = Malformed(Status::URI_TOO_LONG, "The target is longer than 16 KiB.");
pub(crate) const MUCH_HEAD: Malformed = Malformed(
    Status::REQUEST_HEADER_FIELDS_TOO_LARGE,
    "There are too many headers, or they are too long (ASIDE_MAX_HEADERS, ASIDE_MAX_HEAD).",
);

const OTHER_CODING: Malformed =
    Malformed(Status::NOT_IMPLEMENTED, "The only supported Transfer-Encoding is `chunked`.");
/// The head of a request that is well formed.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    /// In origin form, or `*`.
    pub(crate) target: String,
    /// The host that the target named, in the place of which Host does not count (RFC 9112, section 3.2.2).
    pub(crate) authority: Option<String>,
    pub(crate) framing: Framing,
    pub(crate) http10: bool,
    /// The client wants no more on this connection.
    pub(crate) close: bool,
}

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Nothing,
    Length(u64),
    Chunked,
}

/// Why a head is refused, in words for the client.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub(crate) Status, pub(crate) &'static str);

impl Malformed {
    /// The error that it is to the client.
    pub(crate) fn error(&self) -> Error {
        Error::new(self.0, self.1)
    }
}

pub(crate) const fn bad(words: &'static str) -> Malformed {
    Malformed(Status::BAD_REQUEST, words)
}

/// Checks a head as a parser split it up.
pub(crate) fn check(
    method: &str,
    target: &str,
    version: (u8, u8),
    headers: &Headers,
    config: &Config,
) -> Result<Asked, Malformed> {
    if version != (1, 0) && version != (1, 1) {
        return Err(OTHER_VERSION);
    }
    if !(1..=LONGEST_METHOD).contains(&method.len()) || !method.bytes().all(is_token) {
        return Err(UNKNOWN_METHOD);
    }
    measure(target, headers, config)?;
    if headers.iter().any(|(name, _)| name.is_empty() || !name.bytes().all(is_token)) {
        return Err(bad("The name of a header is not a token."));
    }
    if headers.iter().any(|(_, value)| !is_value(value)) {
        return Err(bad("The value of a header has a control character."));
    }
    let http10 = version == (1, 0);
    let framing = framing(headers, http10)?;
    check_host(headers, http10)?;
    let (target, authority) = reduce(method, target)?;
    let close = closes(headers, http10);
    Ok(Asked { method: Method::from(method), target, authority, framing, http10, close })
}

fn measure(target: &str, headers: &Headers, config: &Config) -> Result<(), Malformed> {
    if target.len() > LONGEST_TARGET {
        return Err(LONG_TARGET);
    }
    let length: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if length > config.max_head || headers.len() > config.max_headers { Err(MUCH_HEAD) } else { Ok(()) }
}

/// Whether this is the last request of its connection: the client says so (RFC 9112, section 9.3), or would go on in another
/// protocol, which is not spoken here.
fn closes(headers: &Headers, http10: bool) -> bool {
    let options = || headers.get_all("Connection").flat_map(|value| value.split(','));
    let says = |word: &str| options().any(|option| option.trim().eq_ignore_ascii_case(word));
    says("close") || says("upgrade") || (http10 && !says("keep-alive"))
}

/// Where the body ends, when that can be read in one way only (RFC 9112, section 6.3).
fn framing(headers: &Headers, http10: bool) -> Result<Framing, Malformed> {
    let mut lengths = headers.get_all("Content-Length");
    let mut codings = headers.get_all("Transfer-Encoding");
    match (lengths.next(), lengths.next(), codings.next(), codings.next()) {
        (None, _, None, _) => Ok(Framing::Nothing),
        (Some(length), None, None, _) => content_length(length),
        (None, _, Some(coding), None) if coding.eq_ignore_ascii_case("chunked") && !http10 => Ok(Framing::Chunked),
        (None, _, Some(codings), None) if ends_in_chunked(codings) && !http10 => Err(OTHER_CODING),
        (None, ..) => Err(bad("The only Transfer-Encoding that is understood is `chunked`, once, in HTTP/1.1.")),
        (_, _, Some(_), _) => Err(bad("Content-Length and Transfer-Encoding exclude one another.")),
        (_, Some(_), ..) => Err(bad("Content-Length is there twice.")),
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
    length.map(Framing::Length).ok_or(bad("Content-Length is not a number of bytes."))
}

/// Host must be there, once and as a host (RFC 9112, section 3.2).
fn check_host(headers: &Headers, http10: bool) -> Result<(), Malformed> {
    let mut hosts = headers.get_all("Host");
    match (hosts.next(), hosts.next()) {
        (_, Some(_)) => Err(bad("Host is there twice.")),
        (None, _) if http10 => Ok(()),
        (None, _) => Err(bad("There is no Host.")),
        (Some(host), _) if is_authority(host) => Ok(()),
        (Some(_), _) => Err(bad("Host is not a host, with a port or without.")),
    }
}

/// The target in origin form; from the absolute form, which names the host once more, the path is left beside that.
fn reduce(method: &str, target: &str) -> Result<(String, Option<String>), Malformed> {
    if !target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        return Err(bad("The target has a byte that must be percent-encoded."));
    }
    if method == "CONNECT" {
        return Err(bad("CONNECT is for proxies, and this is none."));
    }
    if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        return Ok((target.to_owned(), None));
    }
    let (authority, rest) = absolute(target).ok_or(bad("The target is neither a path nor a URL."))?;
    if !is_authority(authority) {
        return Err(bad("The target's host is not a host, with a port or without."));
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

/// What the client and the connection say about how a response is to be written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) http10: bool,
    pub(crate) head_only: bool,
    /// This is the connection's last response.
    pub(crate) close: bool,
}

impl Terms {
    /// Whether this response's body is delimited by the end of the connection.
    pub(crate) fn ends_by_closing(&self, response: &Response) -> bool {
        self.http10 && response.is_stream() && self.has_body(response.status_code())
    }

    /// Whether a response of that status has a body to send.
    pub(crate) fn has_body(&self, status: Status) -> bool {
        !self.head_only && !status.is_bodiless()
    }
}

/// Writes a response: head and body, or its first piece, in one write, and a flush at the end. A stream is flushed at each
/// write of its own.
///
/// # Errors
/// When the client is gone, or the body came to an end before its time. Then the connection is of no more use.
pub(crate) fn send(out: &mut dyn Write, response: Response, terms: Terms, disconnect: &Disconnect) -> io::Result<()> {
    let mut buffer =
        head(&response, terms, response.body.length().map_or(0, |length| length.min(PIECE as u64)) as usize);
    if !terms.has_body(response.status_code()) {
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
        ResponseBody::Stream(write) => {
            out.write_all(&buffer)?;
            send_stream(out, terms, disconnect, write)?;
        }
        ResponseBody::Feed(feed) => {
            out.write_all(&buffer)?;
            send_stream(out, terms, disconnect, |out| follow(feed, out))?;
        }
    }
    out.flush()
}

/// Sends a stream, chunk by chunk as it writes them.
fn send_stream(
    out: &mut dyn Write,
    terms: Terms,
    disconnect: &Disconnect,
    write: impl FnOnce(Outlet<'_>) -> io::Result<()>,
) -> io::Result<()> {
    out.flush()?;
    let mut chunks = Chunks::new(out, terms);
    let written = write(Outlet::new(&mut chunks, disconnect.clone()));
    // One that is told to end mostly does so by an error: the body is whole all the same.
    if !disconnect.is_told() {
        written?;
    }
    chunks.end()
}

/// Sends that many bytes of a file or of files, a piece at a time, the first together with the head.
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
            return Err(has_become_shorter());
        }
        buffer.clear();
    }
}

/// A file of which there is less than its response has promised.
pub(crate) fn has_become_shorter() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")
}

/// The head of a response, down to the empty line, with room behind it for a piece of so many bytes.
pub(crate) fn head(response: &Response, terms: Terms, room: usize) -> Vec<u8> {
    let status = response.status_code();
    // Four for the signs of each line, and the lines that the transport writes itself.
    let fields: usize = response.headers().iter().map(|(name, value)| name.len() + value.len() + 4).sum();
    let mut head = Vec::with_capacity(fields + 192 + room);
    put(&mut head, format_args!("HTTP/1.1 {} {}\r\n", status.code(), status.reason()));
    DATE.with(|date| date.show(httpdate::fmt_http_date, |date| put_line(&mut head, "Date", date)));
    let ours = response.headers().checked().filter_map(well_formed).filter(|(name, _)| !is_of_the_connection(name));
    ours.for_each(|(name, value)| put_line(&mut head, name, value));
    match response.body.length() {
        _ if status.is_bodiless() => {}
        Some(length) => put(&mut head, format_args!("Content-Length: {}\r\n", declared(response, terms, length))),
        None if terms.head_only || terms.http10 => {}
        None => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    match (terms.close, terms.http10) {
        (true, _) => head.extend_from_slice(b"Connection: close\r\n"),
        (false, true) => head.extend_from_slice(b"Connection: keep-alive\r\n"),
        (false, false) => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// The length that a head declares. A HEAD handler of its own may know the length of a body that it did not make.
fn declared(response: &Response, terms: Terms, length: u64) -> u64 {
    let said = || response.headers().get("Content-Length").and_then(|value| value.parse().ok());
    if terms.head_only && length == 0 { said().unwrap_or(0) } else { length }
}

/// What could end its line goes nowhere.
fn well_formed<'h>(header: Result<(&'h str, &'h str), Error>) -> Option<(&'h str, &'h str)> {
    let said = |error| log::error!(target: "aside::server", "A header is left out of a response: {error}");
    header.map_err(said).ok()
}

/// Whether a header is for the transport to write: how a body is delimited, and what becomes of the connection.
fn is_of_the_connection(name: &str) -> bool {
    ["Connection", "Content-Length", "Transfer-Encoding", "Keep-Alive", "Upgrade", "Trailer", "Date"]
        .iter()
        .any(|other| other.eq_ignore_ascii_case(name))
}

fn put_line(head: &mut Vec<u8>, name: &str, value: &str) {
    [name, ": ", value, "\r\n"].iter().for_each(|part| head.extend_from_slice(part.as_bytes()));
}

fn put(head: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    // A vector takes all it is given.
    let _ = head.write_fmt(text);
}

/// A stream's body: each write is a chunk, and goes out at once.
pub(crate) struct Chunks<'o> {
    out: &'o mut dyn Write,
    /// Not for HTTP/1.0, where the end of the connection is the end of the body.
    framed: bool,
}

impl<'o> Chunks<'o> {
    pub(crate) fn new(out: &'o mut dyn Write, terms: Terms) -> Chunks<'o> {
        Chunks { out, framed: !terms.http10 }
    }

    /// The last one, which is empty.
    ///
    /// # Errors
    /// When the client is gone.
    pub(crate) fn end(self) -> io::Result<()> {
        if self.framed { self.out.write_all(b"0\r\n\r\n") } else { Ok(()) }
    }
}

impl Write for Chunks<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A chunk of no bytes would be the last one.
        if bytes.is_empty() {
            return Ok(0);
        }
        if self.framed {
            let mut chunk = Vec::with_capacity(bytes.len() + 20);
            put(&mut chunk, format_args!("{:x}\r\n", bytes.len()));
            chunk.extend_from_slice(bytes);
            chunk.extend_from_slice(b"\r\n");
            self.out.write_all(&chunk)?;
        } else {
            self.out.write_all(bytes)?;
        }
        self.out.flush()?;
        Ok(bytes.len())
    }

    /// One chunk for one `write!`, whatever the number of its parts.
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

    fn asked(method: &str, target: &str, fields: &[(&str, &str)]) -> Result<Asked, Malformed> {
        check(method, target, (1, 1), &fields.iter().copied().collect(), &Config::default())
    }

    const HOST: (&str, &str) = ("Host", "a.example:8000");

    #[test]
    fn a_target_is_reduced_to_its_path() {
        let target = |target| asked("GET", target, &[HOST]).map(|asked| asked.target);
        assert_eq!(target("/a?b=1"), Ok("/a?b=1".into()));
        assert_eq!(target("http://A.example:8000/a?b"), Ok("/a?b".into()));
        assert_eq!(target("http://a.example:8000"), Ok("/".into()));
        assert_eq!(target("HTTP://a.example:8000?b"), Ok("/?b".into()));
        for wrong in
            ["", "a", "*", "http://b.example:x/", "ftp://a.example:8000/", "a.example:443", "/a#b", "/a\tb", "/\0"]
        {
            assert!(target(wrong).is_err(), "{wrong:?}");
        }
        let other = asked("GET", "http://b.example/", &[HOST]).unwrap();
        assert_eq!((other.target.as_str(), other.authority.as_deref()), ("/", Some("b.example")));
        assert!(asked("OPTIONS", "*", &[HOST]).is_ok());
        assert!(asked("CONNECT", "/", &[HOST]).is_err());
        assert!(asked(&"A".repeat(33), "/", &[HOST]).is_err());
        assert!(target("http://u@a.example:8000/").is_err());
    }

    #[test]
    fn a_body_is_delimited_in_one_way_or_refused() {
        let framing = |fields: &[(&str, &str)]| {
            let fields: Vec<_> = [HOST].iter().chain(fields).copied().collect();
            asked("POST", "/", &fields).map(|asked| asked.framing)
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
    fn a_head_that_is_none_is_refused() {
        assert!(asked("GET", "/", &[]).is_err());
        assert!(asked("GET", "/", &[HOST, HOST]).is_err());
        assert!(asked("G(T", "/", &[HOST]).is_err());
        assert!(asked("GET", "/", &[HOST, ("X", "a\0b")]).is_err());
        assert!(asked("GET", "/", &[HOST, ("X\u{1}", "a")]).is_err());
        for host in
            ["", "a b", "u@a", "a/b", "a,b", ":80", "a:b", "a:99999", "a:80:80", "[::1", "[::g]", "::1", "[a]:80"]
        {
            assert!(asked("GET", "/", &[("Host", host)]).is_err(), "{host}");
        }
        for host in ["a:", "a_b.example:8000", "[::1]", "[::ffff:127.0.0.1]:80", "127.0.0.1"] {
            assert!(asked("GET", "/", &[("Host", host)]).is_ok(), "{host}");
        }
        let none = Headers::new();
        assert!(check("GET", "/", (0, 9), &none, &Config::default()).is_err());
        assert!(check("GET", "/", (1, 0), &none, &Config::default()).is_ok());
    }

    #[test]
    fn a_head_beyond_all_measure_is_refused() {
        let status = |target: &str, fields: &[(&str, &str)]| {
            let fields: Vec<_> = [HOST].iter().chain(fields).copied().collect();
            asked("GET", target, &fields).map_or_else(|malformed| malformed.0.code(), |_| 200)
        };
        let path = |length: usize| format!("/{}", "a".repeat(length - 1));
        assert_eq!((status(&path(16 << 10), &[]), status(&path((16 << 10) + 1), &[])), (200, 414));
        assert_eq!((status("/", &[("X", "y"); 127]), status("/", &[("X", "y"); 128])), (200, 431));
        assert_eq!(status("/", &[("X", &"y".repeat(64 << 10))]), 431);
    }

    #[test]
    fn a_connection_ends_when_the_client_says_so_in_whole_words() {
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
        /// Whatever a parser makes of a stranger's bytes: what is let through can be read in one way only.
        #[test]
        fn what_passes_is_well_formed(
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
            let Ok(asked) = check(&method, &target, (1, minor), &headers, &Config::default()) else { return Ok(()) };
            let (lengths, codings) = (headers.get_all("Content-Length").count(), headers.get_all("Transfer-Encoding").count());
            proptest::prop_assert!(minor < 2 && lengths + codings <= 1);
            proptest::prop_assert_eq!(asked.framing == Framing::Nothing, lengths + codings == 0);
            proptest::prop_assert!(asked.target.starts_with('/') || (asked.target == "*" && method == "OPTIONS"));
            proptest::prop_assert!(asked.target.bytes().all(|byte| byte.is_ascii_graphic()));
            proptest::prop_assert!(method.bytes().all(is_token) && headers.iter().all(|(name, value)| Headers::check(name, value).is_ok()));
            proptest::prop_assert!(headers.get_all("Host").count() == 1 || (asked.http10 && !headers.contains("Host")));
        }
    }

    #[test]
    fn a_head_declares_what_follows() {
        let text = |response: &Response, http10, head_only| {
            String::from_utf8(head(response, Terms { http10, head_only, close: false }, 0)).unwrap()
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
