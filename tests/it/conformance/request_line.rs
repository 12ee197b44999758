//! The request line: RFC 9112, section 3; methods: RFC 9110, section 9.

use super::*;

/// A probe with this request line.
fn line(line: impl AsRef<[u8]>, must: Must) -> Probe {
    let line = line.as_ref();
    let start = String::from_utf8_lossy(&line[..line.len().min(60)]);
    let name = format!("line of {}: {}", line.len(), start.escape_debug());
    probe(name, [line, b"\r\nHost: a\r\n\r\n"].concat(), must)
}

pub(crate) fn methods() -> Vec<Probe> {
    let token = |method: &str| line(format!("{method} /x HTTP/1.1"), handle(&format!("{method} /x")));
    let refused = |method: &str| line(format!("{method} /x HTTP/1.1"), refuse(400));
    let tokens =
        ["GET", "get", "Get", "PATCH", "DELETE", "BREW", "M-SEARCH", "TRACE", "!#$%&'*+-.^_`|~0aZ", "0", "OPTIONS"];
    let others = [
        "G(T", "G)T", "G<T", "G@T", "G,T", "G;T", "G:T", "G\\T", "G\"T", "G/T", "G[T", "G?T", "G=T", "{GET}", "GE T",
        "GET\x01", "GET\x7f", "\0GET", "GET\0",
    ];
    let mut probes: Vec<Probe> = tokens.into_iter().map(token).chain(others.into_iter().map(refused)).collect();
    probes.push(token(&"A".repeat(32)));
    probes.push(refused(&"A".repeat(33)));
    probes.push(refused(&"B".repeat(10_000)));
    probes.push(line(" /x HTTP/1.1", refuse(400)));
    probes
}

pub(crate) fn targets() -> Vec<Probe> {
    let origin = |target: &str| line(format!("GET {target} HTTP/1.1"), handle(&format!("GET {target}")));
    let converted = |(target, to): (&str, &str)| line(format!("GET {target} HTTP/1.1"), handle(&format!("GET {to}")));
    let refused = |target: &str| line(format!("GET {target} HTTP/1.1"), refuse(400));
    let long = format!("/{}", "a".repeat((16 << 10) - 1));
    // The last ones are not valid URIs, but some browsers have sent them.
    let origins = [
        "/",
        "/x?y=1",
        "/x?",
        "/?",
        "/?a?b",
        "//x",
        "/x//y",
        "/%41",
        "/x;y=1",
        "/x:y@z",
        "/..",
        "/x/../y",
        "/%2e%2e/x",
        "/%",
        "/%4",
        "/%zz",
        "/%%41",
        "/%00",
        "/%0d%0aX:%20y",
        "/%C3%A9",
        "/%ff",
        "/x?http://b/",
        "/a|b",
        "/{x}",
        "/a\\b",
        "/a^b`c",
        "/a\"b<c>",
        &long,
    ];
    let urls = [
        ("http://a/x", "/x"),
        ("HTTP://A/x?y", "/x?y"),
        ("https://a/x", "/x"),
        ("http://a", "/"),
        ("http://a?y=1", "/?y=1"),
        ("http://a//b", "//b"),
        // A host in the target takes precedence over Host (RFC 9112, section 3.2.2).
        ("http://b/x", "/x"),
        ("http://a.b/x", "/x"),
        ("http://a:80/x", "/x"),
    ];
    let others = [
        "",
        "x",
        "x/y",
        "../x",
        "?x",
        "*",
        "*x",
        "#",
        "/x#y",
        "/\0",
        "/x\0y",
        "/\x01",
        "/\x1b[0m",
        "/\x7f",
        "/a\tb",
        "/a b",
        "http://u@a/x",
        "http://u:p@a/x",
        "http:///x",
        "http:/a",
        "http:a",
        "http://",
        "ftp://a/x",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "ws://a/x",
        "http://a/#x",
        "a:80",
        "http://a\\b/",
    ];
    let mut probes: Vec<Probe> = origins.into_iter().map(origin).collect();
    probes.extend(urls.into_iter().map(converted).chain(others.into_iter().map(refused)));
    probes.push(line(format!("GET {long}a HTTP/1.1"), refuse(414)));
    probes.push(line(format!("GET /{} HTTP/1.1", "b".repeat(100_000)), refuse(414)));
    probes.push(line("OPTIONS * HTTP/1.1", handle("OPTIONS *")));
    probes.push(line("OPTIONS http://a HTTP/1.1", handle("OPTIONS /")));
    probes.push(line("CONNECT a:80 HTTP/1.1", refuse(400)));
    probes.push(line("CONNECT /x HTTP/1.1", refuse(400)));
    probes.push(line("CONNECT http://a/ HTTP/1.1", refuse(400)));
    probes.push(line(
        "GET /é HTTP/1.1",
        fault(refuse(400), Must::Silence, "bytes outside ASCII close a connection without a response"),
    ));
    probes
}

pub(crate) fn versions() -> Vec<Probe> {
    let others = [
        "HTTP/1.2",
        "HTTP/1.9",
        "HTTP/2",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/.1",
        "HTTP/1.10",
        "HTTP/01.1",
        "HTTP/1.1x",
        "HTTP/1,1",
        "HTTP/+1.1",
        "http/1.1",
        "Http/1.1",
        "HTTPS/1.1",
        "HTP/1.1",
        "HTTP/0.9",
        "HTTP /1.1",
        "HTTP/ 1.1",
        "HTTP/1.1\0",
        "HTTP\\1.1",
        "",
        "1.1",
        "HTTP/a.b",
        "SIP/2.0",
    ];
    let mut probes: Vec<Probe> =
        others.into_iter().map(|version| line(format!("GET /x {version}"), refuse(400))).collect();
    probes.push(line("GET /x", refuse(400)));
    probes.push(line("GET", refuse(400)));
    probes.push(probe("HTTP/0.9", "GET /x\r\n", refuse(400)));
    probes.push(probe("nothing at all", "", Must::Silence).cut());
    probes
}

pub(crate) fn white_space() -> Vec<Probe> {
    const TRIMMED: &str = "the request line is trimmed, and the text after the version is dropped";
    let seen = || handle("GET /x");
    vec![
        line("GET  /x HTTP/1.1", refuse(400)),
        line("GET /x  HTTP/1.1", refuse(400)),
        line("GET\t/x\tHTTP/1.1", refuse(400)),
        line("GET\x0b/x\x0bHTTP/1.1", refuse(400)),
        line("GET /x\rHTTP/1.1", refuse(400)),
        line("GET /x\nHTTP/1.1", refuse(400)),
        line(
            "GET\u{a0}/x HTTP/1.1",
            fault(refuse(400), Must::Silence, "bytes outside ASCII close a connection without a response"),
        ),
        line(" GET /x HTTP/1.1", fault(refuse(400), seen(), TRIMMED)),
        line("\tGET /x HTTP/1.1", fault(refuse(400), seen(), TRIMMED)),
        line("\x0bGET /x HTTP/1.1", fault(refuse(400), seen(), TRIMMED)),
        line("\nGET /x HTTP/1.1", fault(refuse(400), seen(), TRIMMED)),
        line("GET /x HTTP/1.1 ", fault(refuse(400), seen(), TRIMMED)),
        line("GET /x HTTP/1.1\r", fault(refuse(400), seen(), TRIMMED)),
        line("GET /x HTTP/1.1 HTTP/1.1", fault(refuse(400), seen(), TRIMMED)),
        line("GET /x HTTP/1.1 b", fault(refuse(400), seen(), TRIMMED)),
        line("\r\nGET /x HTTP/1.1", fault(seen(), refuse(400), "an empty line before a request is not skipped")),
        line("\r\n\r\nGET /x HTTP/1.1", refuse(400)),
        probe("lines that end in LF", "GET /x HTTP/1.1\nHost: a\n\n", refuse(400)),
        probe("lines that end in CR", "GET /x HTTP/1.1\rHost: a\r\r", refuse(400)),
        probe("a request line that ends in LF", "GET /x HTTP/1.1\nHost: a\r\n\r\n", refuse(400)),
        probe("a line without an end", "GET /x HTTP/1.1", Must::Silence).cut(),
        probe("a head without an end", "GET /x HTTP/1.1\r\nHost: a\r\n", Must::Silence).cut(),
        probe(
            "a TLS handshake",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n".to_vec(),
            fault(refuse(400), Must::Silence, "bytes outside ASCII close a connection without a response"),
        ),
        probe("another protocol", "EHLO client.example\r\n", refuse(400)),
        probe("only line ends", "\r\n\r\n\r\n", refuse(400)),
    ]
}

#[test]
fn a_method_is_a_token() {
    check(&methods());
}

#[test]
fn a_target_has_a_valid_form() {
    check(&targets());
}

#[test]
fn only_http_1_0_and_1_1_are_accepted() {
    check(&versions());
}

#[test]
fn a_request_line_has_two_spaces() {
    check(&white_space());
}
