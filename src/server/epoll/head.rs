//! A request's head: where it ends in what has come, and what it says.
//!
//! The parser is `httparse`, hyper's. It lets lines end in a bare line feed, which another server may read otherwise
//! (RFC 9112, section 2.2 allows either), so that is looked at here.

use std::mem::MaybeUninit;

use httparse::{Error, Header, Request};

use super::super::wire::{self, Asked, LONGEST_METHOD, LONGEST_TARGET, Malformed, bad};
use crate::config::Config;
use crate::error::Status;
use crate::http::headers::Headers;

/// Fields that are parsed without asking for memory first.
const FEW: usize = 64;

const TLS: Malformed = bad(
    "The client speaks TLS, and this server speaks plain HTTP: use an http:// address, or a proxy in front that has the certificate.",
);
const PROXIED: Malformed = bad(
    "The client speaks the PROXY protocol, which is not supported: turn it off in the proxy (`send-proxy` in HAProxy, `proxy_protocol` in nginx), and have it set X-Forwarded-For.",
);

/// Looks for the end of a head, and remembers how far it has looked: a head that comes byte by byte is looked at once.
#[derive(Debug, Default)]
pub(super) struct Search {
    looked_at: usize,
}

impl Search {
    /// Whether nothing of the head has been seen.
    pub(super) fn is_fresh(&self) -> bool {
        self.looked_at == 0
    }

    /// Where the head in the inbox ends, behind its empty line.
    ///
    /// # Errors
    /// When it is longer than the settings allow, or has a line that ends in a bare line feed.
    pub(super) fn end(&mut self, inbox: &[u8], config: &Config) -> Result<Option<usize>, Malformed> {
        let start = start(inbox);
        for at in memchr::memchr_iter(b'\n', &inbox[self.looked_at..]) {
            let at = self.looked_at + at;
            if at < start {
                continue;
            }
            if at == start || inbox[at - 1] != b'\r' {
                return Err(bad("A line of the head does not end in CR and LF."));
            }
            // An empty line: CR and LF behind a line's end, or at the very start.
            if at - 1 == start || (at >= 2 && inbox[at - 2] == b'\n') {
                return Ok(Some(at + 1));
            }
        }
        self.looked_at = inbox.len();
        if inbox.len() > LONGEST_TARGET + config.max_head { Err(too_long(&inbox[start..])) } else { Ok(None) }
    }
}

/// An empty line before a request is passed over (RFC 9112, section 2.2).
fn start(inbox: &[u8]) -> usize {
    if inbox.starts_with(b"\r\n") { 2 } else { 0 }
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

/// Which part of a head that does not end makes it too long.
fn too_long(head: &[u8]) -> Malformed {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or(head);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or(line);
    match (method.len(), line.len()) {
        (method, _) if method > LONGEST_METHOD => wire::UNKNOWN_METHOD,
        (_, line) if line > LONGEST_TARGET => wire::LONG_TARGET,
        _ => wire::MUCH_HEAD,
    }
}

/// A head that is well formed.
pub(super) struct Head {
    pub(super) asked: Asked,
    pub(super) headers: Headers,
    /// The client waits for a word before it sends the body (RFC 9110, section 10.1.1).
    pub(super) expects: bool,
}

/// Reads a head that is there to its end.
///
/// # Errors
/// When it is not well formed, or more than the settings allow.
pub(super) fn parse(head: &[u8], config: &Config) -> Result<Head, Malformed> {
    let head = &head[start(head)..];
    let mut few = [MaybeUninit::<Header<'_>>::uninit(); FEW];
    match parse_into(head, &mut few, config) {
        Err(Problem::Fields) if config.max_headers > FEW => {
            let mut many = vec![MaybeUninit::uninit(); config.max_headers];
            parse_into(head, &mut many, config)
        }
        other => other,
    }
    .map_err(|problem| match problem {
        Problem::Fields => wire::MUCH_HEAD,
        Problem::Malformed(malformed) => malformed,
    })
}

enum Problem {
    /// There are more than there was room for.
    Fields,
    Malformed(Malformed),
}

fn parse_into<'h>(head: &'h [u8], room: &mut [MaybeUninit<Header<'h>>], config: &Config) -> Result<Head, Problem> {
    let mut request = Request::new(&mut []);
    match request.parse_with_uninit_headers(head, room) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Problem::Malformed(bad("The request line is malformed."))),
        Err(Error::TooManyHeaders) => return Err(Problem::Fields),
        Err(error) => return Err(Problem::Malformed(words(error))),
    }
    // A head that is complete has all three.
    let (method, target) = (request.method.unwrap_or(""), request.path.unwrap_or(""));
    let version = (1, request.version.unwrap_or(1));
    let headers: Headers =
        request.headers.iter().map(|header| (header.name, String::from_utf8_lossy(header.value))).collect();
    let asked = wire::check(method, target, version, &headers, config).map_err(Problem::Malformed)?;
    let expects = expects(&headers, asked.http10).map_err(Problem::Malformed)?;
    Ok(Head { asked, headers, expects })
}

fn words(error: Error) -> Malformed {
    match error {
        Error::HeaderName => bad("The name of a header is not a token."),
        Error::HeaderValue => bad("The value of a header has a control character."),
        Error::Version => wire::OTHER_VERSION,
        Error::NewLine => bad("A line of the head does not end in CR and LF."),
        _ => bad("The request line is malformed."),
    }
}

/// Whether the client waits for a word before it sends the body. HTTP/1.0 knows no such thing.
fn expects(headers: &Headers, http10: bool) -> Result<bool, Malformed> {
    let mut expectations = headers.get_all("Expect").filter(|_| !http10).peekable();
    let expects = expectations.peek().is_some();
    match expectations.all(|value| value.eq_ignore_ascii_case("100-continue")) {
        true => Ok(expects),
        false => Err(Malformed(Status::EXPECTATION_FAILED, "The only Expect that is understood is `100-continue`.")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn end(inbox: &str) -> Result<Option<usize>, Malformed> {
        Search::default().end(inbox.as_bytes(), &Config::default())
    }

    #[test]
    fn a_head_ends_at_its_first_empty_line() {
        let head = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(end(&format!("{head}GET")), Ok(Some(head.len())));
        assert_eq!(end(&format!("\r\n{head}")), Ok(Some(head.len() + 2)));
        assert_eq!(end("\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(4)), "one is passed over, not two");
        for part in 0..head.len() {
            assert_eq!(end(&head[..part]), Ok(None), "{part}");
        }
    }

    #[test]
    fn a_line_ends_in_both() {
        for head in ["GET / HTTP/1.1\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\n\n", "\n", "GET / HTTP/1.1\r\n\n"] {
            assert!(end(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn what_comes_byte_by_byte_is_found_as_well() {
        let head = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut search = Search::default();
        for part in 0..head.len() {
            assert_eq!(search.end(&head.as_bytes()[..part], &Config::default()), Ok(None));
        }
        assert_eq!(search.end(head.as_bytes(), &Config::default()), Ok(Some(head.len())));
    }

    proptest! {
        #[test]
        fn its_end_is_the_same_however_it_comes(
            parts in vec(select(vec!["GET / HTTP/1.1", "Host: a", "X: y", "\r\n", "\r\n", "\r", "\n", " ", "\0"]), 0..16),
        ) {
            let text = parts.concat();
            let mut search = Search::default();
            let found = (0..=text.len()).map(|part| search.end(&text.as_bytes()[..part], &Config::default()));
            let first = found.into_iter().find(|found| *found != Ok(None)).unwrap_or(Ok(None));
            prop_assert_eq!(end(&text), first);
        }

        #[test]
        fn nothing_that_comes_makes_it_panic(text in "(?s).{0,200}") {
            let _ = parse(text.as_bytes(), &Config::default());
        }
    }

    #[test]
    fn what_does_not_end_is_refused_by_what_is_long() {
        let long = "a".repeat(200_000);
        let status = |head: String| end(&head).unwrap_err().0.code();
        assert_eq!(status(long.clone()), 400);
        assert_eq!(status(format!("GET /{long}")), 414);
        assert_eq!(status(format!("GET / HTTP/1.1\r\nX: {long}")), 431);
    }

    #[test]
    fn more_fields_than_few_are_read_and_more_than_the_settings_say_are_not() {
        let head = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        let parsed = |count| parse(head(count).as_bytes(), &Config::default());
        for count in [1, FEW, FEW + 1, 128] {
            assert_eq!(parsed(count).map_err(|malformed| malformed.1).map(|head| head.headers.len()), Ok(count));
        }
        assert_eq!(parsed(129).err().map(|malformed| malformed.0.code()), Some(431));
    }
}
