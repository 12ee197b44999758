//! Header fields: RFC 9112, section 5, and RFC 9110, sections 5 and 7.2.

use super::*;

/// A probe with a Host header and these lines.
fn with(lines: impl AsRef<[u8]>, must: Must) -> Probe {
    let lines = lines.as_ref();
    let name = format!("field {}", String::from_utf8_lossy(&lines[..lines.len().min(60)]).escape_debug());
    probe(name, [b"GET /x HTTP/1.1\r\nHost: a\r\n", lines, b"\r\n\r\n"].concat(), must)
}

const NOT_ASCII: &str = "bytes outside ASCII close a connection without a response";
const FOLDED: &str = "a line is trimmed before it is parsed: a continuation line counts as a field of its own";

pub(crate) fn names() -> Vec<Probe> {
    let bad = [
        "Name : v",
        "Name\t: v",
        "Name\x0b: v",
        "Na me: v",
        "Name",
        ": v",
        ":",
        "N(me: v",
        "N@me: v",
        "N/me: v",
        "N\"me: v",
        "{Name}: v",
        "[Name]: v",
        "N=me: v",
        "N\\me: v",
        "N,me: v",
        "N;me: v",
        "Na\0me: v",
        "Na\x01me: v",
        "Na\x7fme: v",
        "Na\rme: v",
        "Na\nme: v",
        "=: v",
    ];
    let good = ["Name: v", "name:v", "n!#$%&'*+-.^_`|~0: v", "X: 1\r\nX: 2\r\nx: 3", "Transfer_Encoding: chunked"];
    let mut probes: Vec<Probe> = bad.into_iter().map(|lines| with(lines, refuse(400))).collect();
    probes.extend(good.into_iter().map(|lines| with(lines, handle("GET /x"))));
    probes.push(with("Ñame: v", fault(refuse(400), Must::Silence, NOT_ASCII)));
    probes
}

pub(crate) fn values() -> Vec<Probe> {
    let good =
        ["X:", "X:   ", "X:v", "X: \t v \t ", "X: a\tb", "X: a:b", "X: \"quoted, \\\" ;\"", "X: (comment", "X: %00%0a"];
    let bad = [
        "X: a\0b",
        "X: a\x01b",
        "X: a\x1bb",
        "X: a\x7fb",
        "X: a\rb",
        "X: a\nb",
        "X: a\nY: b",
        "X: a\rY: b",
        "X: a\x0bb",
    ];
    let mut probes: Vec<Probe> = good.into_iter().map(|lines| with(lines, handle("GET /x"))).collect();
    probes.extend(bad.into_iter().map(|lines| with(lines, refuse(400))));
    probes.push(with(b"X: caf\xe9", fault(handle("GET /x"), Must::Silence, NOT_ASCII)));
    probes.push(with("X: café", fault(handle("GET /x"), Must::Silence, NOT_ASCII)));
    probes.push(with(b"X: \xff\xfe", fault(handle("GET /x"), Must::Silence, NOT_ASCII)));
    probes.push(with(
        "X: a\r",
        fault(refuse(400), handle("GET /x"), "a CR before a line's end is trimmed with the line"),
    ));
    probes.push(with("X: a\x0b", fault(refuse(400), handle("GET /x"), "a vertical tab around a value is trimmed")));
    probes
}

pub(crate) fn folds() -> Vec<Probe> {
    vec![
        with("X: a\r\n b", refuse(400)),
        with("X: a\r\n\tb", refuse(400)),
        with("X: a\r\n ", refuse(400)),
        with("X: a\r\n b: c", fault(refuse(400), handle("GET /x"), FOLDED)),
        with("X: a\r\n\tb: c", fault(refuse(400), handle("GET /x"), FOLDED)),
        probe(
            "a space before the first field",
            "GET /x HTTP/1.1\r\n Host: a\r\n\r\n",
            fault(refuse(400), handle("GET /x"), FOLDED),
        ),
        probe(
            "a space before a first line that is not a field",
            "GET /x HTTP/1.1\r\n x\r\nHost: a\r\n\r\n",
            refuse(400),
        ),
    ]
}

pub(crate) fn sizes() -> Vec<Probe> {
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: v")).collect::<Vec<_>>().join("\r\n");
    let named = |name: &str, lines: String, must| Probe { name: name.into(), ..with(lines, must) };
    vec![
        named("127 fields and Host", many(127), handle("GET /x")),
        named("128 fields and Host", many(128), refuse(431)),
        named("5,000 fields", many(5_000), refuse(431)),
        named("a value of 60 kB", format!("X: {}", "v".repeat(60_000)), handle("GET /x")),
        named("a value of 66 kB", format!("X: {}", "v".repeat(66_000)), refuse(431)),
        named("a value of 1 MB", format!("X: {}", "v".repeat(1_000_000)), refuse(431)),
        named("a name of 8 kB", format!("{}: v", "N".repeat(8_000)), handle("GET /x")),
        named("a name of 66 kB", format!("{}: v", "N".repeat(66_000)), refuse(431)),
        named("70 kB of fields", format!("{}: v", many(100).replace('v', &"v".repeat(700))), refuse(431)),
    ]
}

pub(crate) fn hosts() -> Vec<Probe> {
    let host = |lines: &str, must| {
        probe(format!("host {}", lines.escape_debug()), format!("GET /x HTTP/1.1\r\n{lines}\r\n"), must)
    };
    let good = [
        "Host: a\r\n",
        "host:a\r\n",
        "HOST: A.EXAMPLE\r\n",
        "Host: a:8000\r\n",
        "Host: a:\r\n",
        "Host: 127.0.0.1\r\n",
        "Host: [::1]\r\n",
        "Host: [::1]:8000\r\n",
        "Host: xn--e1afmkfd.example\r\n",
        "Host: a_b\r\n",
        "Host: a.\r\n",
    ];
    let bad = [
        "",
        "Host:\r\n",
        "Host:  \r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: a\r\nhost: a\r\n",
        "Host: a b\r\n",
        "Host: a,b\r\n",
        "Host: u@a\r\n",
        "Host: u:p@a\r\n",
        "Host: a/b\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a\\b\r\n",
        "Host: http://a\r\n",
        "Host: :80\r\n",
        "Host: a:b\r\n",
        "Host: a:-1\r\n",
        "Host: a:99999\r\n",
        "Host: a:80:80\r\n",
        "Host: ::1\r\n",
        "Host: [::1\r\n",
        "Host: [::1]x\r\n",
        "Host: [a]\r\n",
        "Host: \"a\"\r\n",
        "Host: <a>\r\n",
        "Host: a\tb\r\n",
        "Host : a\r\n",
        "X-Forwarded-Host: a\r\n",
    ];
    let mut probes: Vec<Probe> = good.into_iter().map(|lines| host(lines, handle("GET /x"))).collect();
    probes.extend(bad.into_iter().map(|lines| host(lines, refuse(400))));
    probes.push(probe("HTTP/1.0 without Host", "GET /x HTTP/1.0\r\n\r\n", last("GET /x")));
    probes.push(probe("HTTP/1.0 with two Hosts", "GET /x HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", refuse(400)));
    probes
}

#[test]
fn a_field_name_is_a_token() {
    check(&names());
}

#[test]
fn a_value_has_no_control_characters() {
    check(&values());
}

#[test]
fn a_field_is_one_line() {
    check(&folds());
}

#[test]
fn a_head_above_the_limits_is_refused() {
    check(&sizes());
}

#[test]
fn there_is_exactly_one_valid_host() {
    check(&hosts());
}
