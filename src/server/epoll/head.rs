//! The parser of request heads: it finds the end of a head in the input, and parses the head.
//!
//! The parsing itself is done by `httparse`, the parser of hyper. It accepts lines that end in a bare line feed, which
//! another server may read differently (RFC 9112, section 2.2 allows both), so this module refuses them.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Request};

use crate::config::Config;
use crate::error::Status;
use crate::http::headers::Headers;
use crate::server::http1::{self, CheckedHead, LONGEST_METHOD, LONGEST_TARGET, Malformed, bad_request};

/// The number of header fields that are parsed without an allocation.
const FIELDS_ON_STACK: usize = 64;

const TLS: Malformed = bad_request(
    "The client speaks TLS, but this server speaks plain HTTP: use an http:// address, or a proxy in front that has the certificate.",
);
const PROXIED: Malformed = bad_request(
    "The client speaks the PROXY protocol, which is not supported: turn it off in the proxy (`send-proxy` in HAProxy, `proxy_protocol` in nginx), and have it set X-Forwarded-For.",
);

/// A search for the end of a request head. It remembers its position, so that no byte is examined twice.
#[derive(Debug, Default)]
pub(super) struct Search {
    looked_at: usize,
}

impl Search {
    /// Returns true if no byte of the head has been examined.
    pub(super) fn is_fresh(&self) -> bool {
        self.looked_at == 0
    }

    /// Returns the end of the head in the input, after its empty line.
    ///
    /// # Errors
    /// An error if the head is longer than the settings allow, or one of its lines ends in a bare line feed.
    pub(super) fn end(&mut self, input: &[u8], config: &Config) -> Result<Option<usize>, Malformed> {
        let start = start(input);
        for at in memchr::memchr_iter(b'\n', &input[self.looked_at..]) {
            let at = self.looked_at + at;
            if at < start {
                continue;
            }
            if at == start || input[at - 1] != b'\r' {
                return Err(bad_request("A line of the head does not end in CR and LF."));
            }
            // An empty line: CR and LF after the end of a line, or at the very start.
            if at - 1 == start || (at >= 2 && input[at - 2] == b'\n') {
                return Ok(Some(at + 1));
            }
        }
        self.looked_at = input.len();
        if input.len() > LONGEST_TARGET + config.max_head { Err(too_long(&input[start..])) } else { Ok(None) }
    }
}

/// Returns the start of the head. One empty line before a request is skipped (RFC 9112, section 2.2).
fn start(input: &[u8]) -> usize {
    if input.starts_with(b"\r\n") { 2 } else { 0 }
}

/// Returns the protocol at the start of a connection, if it is a known one other than HTTP.
pub(super) fn other_protocol(start: &[u8]) -> Option<Malformed> {
    const PROXY: [&[u8]; 4] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"\r\n\r\n\0\r\nQUIT\n"];
    match start {
        // A TLS handshake record of any version.
        [0x16, 0x03, ..] => Some(TLS),
        _ if PROXY.iter().any(|signature| start.starts_with(signature)) => Some(PROXIED),
        _ => None,
    }
}

/// Returns the error for the part that makes an incomplete head too long.
fn too_long(head: &[u8]) -> Malformed {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or(head);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or(line);
    match (method.len(), line.len()) {
        (method, _) if method > LONGEST_METHOD => http1::UNKNOWN_METHOD,
        (_, line) if line > LONGEST_TARGET => http1::LONG_TARGET,
        _ => http1::LARGE_HEAD,
    }
}

/// A parsed and checked request head.
pub(super) struct Head {
    pub(super) checked: CheckedHead,
    pub(super) headers: Headers,
    /// True if the client waits for a `100 Continue` before it sends the body (RFC 9110, section 10.1.1).
    pub(super) expects: bool,
}

/// Parses a complete request head.
///
/// # Errors
/// An error if the head is malformed, or exceeds a limit of the settings.
pub(super) fn parse(head: &[u8], config: &Config) -> Result<Head, Malformed> {
    let head = &head[start(head)..];
    let mut on_stack = [MaybeUninit::<Header<'_>>::uninit(); FIELDS_ON_STACK];
    match parse_into(head, &mut on_stack, config) {
        Err(Problem::Fields) if config.max_headers > FIELDS_ON_STACK => {
            let mut on_heap = vec![MaybeUninit::uninit(); config.max_headers];
            parse_into(head, &mut on_heap, config)
        }
        other => other,
    }
    .map_err(|problem| match problem {
        Problem::Fields => http1::LARGE_HEAD,
        Problem::Malformed(malformed) => malformed,
    })
}

enum Problem {
    /// There are more fields than the array can hold.
    Fields,
    Malformed(Malformed),
}

fn parse_into<'h>(head: &'h [u8], fields: &mut [MaybeUninit<Header<'h>>], config: &Config) -> Result<Head, Problem> {
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(head, fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Problem::Malformed(bad_request("The request line is malformed."))),
        Err(Error::TooManyHeaders) => return Err(Problem::Fields),
        Err(error) => return Err(Problem::Malformed(malformed(error))),
    }
    // A complete head has all three.
    let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
    let version = (1, request.version.unwrap_or(1));
    let headers: Headers =
        request.headers.iter().map(|header| (header.name, String::from_utf8_lossy(header.value))).collect();
    let checked = http1::check(method, target, version, &headers, config).map_err(Problem::Malformed)?;
    let expects = expects(&headers, checked.http10).map_err(Problem::Malformed)?;
    Ok(Head { checked, headers, expects })
}

fn malformed(error: Error) -> Malformed {
    match error {
        Error::HeaderName => bad_request("The name of a header is not a token."),
        Error::HeaderValue => bad_request("The value of a header has a control character."),
        Error::Version => http1::OTHER_VERSION,
        Error::NewLine => bad_request("A line of the head does not end in CR and LF."),
        _ => bad_request("The request line is malformed."),
    }
}

/// Returns true if the client waits for a `100 Continue`. HTTP/1.0 does not have it.
///
/// # Errors
/// 417 for any other expectation.
fn expects(headers: &Headers, http10: bool) -> Result<bool, Malformed> {
    let mut expectations = headers.get_all("Expect").filter(|_| !http10).peekable();
    let expects = expectations.peek().is_some();
    match expectations.all(|value| value.eq_ignore_ascii_case("100-continue")) {
        true => Ok(expects),
        false => Err(Malformed(Status::EXPECTATION_FAILED, "The only supported Expect is `100-continue`.")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn end(input: &str) -> Result<Option<usize>, Malformed> {
        Search::default().end(input.as_bytes(), &Config::default())
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(end(&format!("{head}GET")), Ok(Some(head.len())));
        assert_eq!(end(&format!("\r\n{head}")), Ok(Some(head.len() + 2)));
        assert_eq!(end("\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(4)), "one empty line is skipped, not two");
        for part in 0..head.len() {
            assert_eq!(end(&head[..part]), Ok(None), "{part}");
        }
    }

    #[test]
    fn a_line_that_does_not_end_in_cr_and_lf_is_refused() {
        for head in ["GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\n\n", "\n", "GET / HTTP/1.1\r\n\n"] {
            assert!(end(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn the_end_of_a_head_that_arrives_byte_by_byte_is_found() {
        let head = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut search = Search::default();
        for part in 0..head.len() {
            assert_eq!(search.end(&head.as_bytes()[..part], &Config::default()), Ok(None));
        }
        assert_eq!(search.end(head.as_bytes(), &Config::default()), Ok(Some(head.len())));
    }

    proptest! {
        #[test]
        fn the_end_does_not_depend_on_how_the_input_is_split(
            parts in vec(select(vec!["GET / HTTP/1.1", "Host: a", "X: y", "\r\n", "\r\n", "\r", "\n", " ", "\0"]), 0..16),
        ) {
            let text = parts.concat();
            let mut search = Search::default();
            let found = (0..=text.len()).map(|part| search.end(&text.as_bytes()[..part], &Config::default()));
            let first = found.into_iter().find(|found| *found != Ok(None)).unwrap_or(Ok(None));
            prop_assert_eq!(end(&text), first);
        }

        #[test]
        fn no_input_makes_the_parser_panic(text in "(?s).{0,200}") {
            let _ = parse(text.as_bytes(), &Config::default());
        }
    }

    #[test]
    fn an_endless_head_is_refused_with_the_status_of_its_long_part() {
        let long = "a".repeat(200_000);
        let status = |head: String| end(&head).unwrap_err().0.code();
        assert_eq!(status(long.clone()), 400);
        assert_eq!(status(format!("GET /{long}")), 414);
        assert_eq!(status(format!("GET / HTTP/1.1\r\nX: {long}")), 431);
    }

    #[test]
    fn many_fields_are_parsed_up_to_the_limit_of_the_settings() {
        let head = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        let parsed = |count| parse(head(count).as_bytes(), &Config::default());
        for count in [1, FIELDS_ON_STACK, FIELDS_ON_STACK + 1, 128] {
            assert_eq!(parsed(count).map_err(|malformed| malformed.1).map(|head| head.headers.len()), Ok(count));
        }
        assert_eq!(parsed(129).err().map(|malformed| malformed.0.code()), Some(431));
    }
}
