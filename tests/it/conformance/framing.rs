//! The end of a body: RFC 9112, sections 6 and 7. If a proxy and a server disagree on it, a client can smuggle a request past
//! the proxy; each probe is such a case.

use super::*;

/// A probe with a POST, these header lines and this body.
fn post(lines: &str, body: &str, must: Must) -> Probe {
    let name = format!("framing {} {}", lines.escape_debug(), body[..body.len().min(60)].escape_debug());
    probe(name, format!("POST /x HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{body}"), must)
}

const SAID: &str = "POST /x hello";

/// Returns the expectation for a body that cannot be read.
fn broken() -> Must {
    Must::Break(400, "POST /x".into())
}

/// Returns the expectation for a request that is handled with its chunked body.
fn chunked_and_handled(seen: &str) -> Must {
    fault(handle(seen), last(seen), "a connection closes after a chunked body")
}

const TRIMMED: &str = "a vertical tab or a form feed around a value is trimmed like white space";

pub(crate) fn lengths() -> Vec<Probe> {
    let good = ["Content-Length: 5", "content-length:5", "Content-Length:  5\t ", "Content-Length: 005"];
    let bad = [
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: 5,6",
        "Content-Length: 5,",
        "Content-Length: ,5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: -0",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length: 5a",
        "Content-Length: a",
        "Content-Length:",
        "Content-Length: 1e1",
        "Content-Length: 5.0",
        "Content-Length: 5_0",
        "Content-Length: '5'",
        "Content-Length: \"5\"",
        "Content-Length: 5;a=b",
        "Content-Length: 18446744073709551616",
        "Content-Length: 99999999999999999999999999",
        "Content-Length : 5",
        "Content-Length\t: 5",
        "Content-Length: 5\0",
        "X: y\nContent-Length: 5",
        "X: y\rContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
    ];
    let mut probes: Vec<Probe> = good.into_iter().map(|lines| post(lines, "hello", handle(SAID))).collect();
    probes.extend(bad.into_iter().map(|lines| post(lines, "hello", refuse(400))));
    let too_large = Must::Break(413, "POST /x".into());
    let huge = fault(too_large, refuse(413), "a body above 256 MiB is refused before the handler runs");
    probes.extend([
        post("Content-Length: 0", "", handle("POST /x")),
        post("X: y", "", handle("POST /x")),
        post("Content-Length: \x0b5", "hello", fault(refuse(400), handle(SAID), TRIMMED)),
        post("Content-Length: 5\x0c", "hello", fault(refuse(400), handle(SAID), TRIMMED)),
        post(
            "Content-Length: 5\n",
            "hello",
            fault(refuse(400), handle(SAID), "a line feed before a line's end is trimmed with the line"),
        ),
        post(
            "X: y\r\n Content-Length: 5",
            "hello",
            fault(refuse(400), handle(SAID), "a continuation line counts as a field"),
        ),
        post(
            "Content-Length: ٥",
            "hello",
            fault(refuse(400), Must::Silence, "bytes outside ASCII close a connection without a response"),
        ),
        post("Content-Length: 5000", "half", broken()).cut(),
        post(
            "Content-Length: 50",
            "half",
            fault(broken(), Must::Silence, "a small body that is cut short closes the connection without a response"),
        )
        .cut(),
        probe(
            "a GET with a body",
            "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            handle("GET /x hello"),
        ),
        probe("a body in HTTP/1.0", "POST /x HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", last(SAID)),
        probe("a length of another name", "GET /x HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n", handle("GET /x")),
        probe("a huge body", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 300000000\r\n\r\n", huge),
    ]);
    probes
}

pub(crate) fn codings() -> Vec<Probe> {
    const HELLO: &str = "5\r\nhello\r\n0\r\n\r\n";
    let good = [
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: Chunked",
        "Transfer-Encoding: CHUNKED",
        "TRANSFER-ENCODING:chunked",
        "Transfer-Encoding: \t chunked \t ",
    ];
    let bad = [
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked;q=1",
        "Transfer-Encoding: chunked;a=b",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: 'chunked'",
        "Transfer-Encoding: ,chunked",
        "Transfer-Encoding: chunked,",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunkedx",
        "Transfer-Encoding: chunk",
        "Transfer-Encoding: x chunked",
        "Transfer-Encoding:",
        "Transfer-Encoding: chu\x0bnked",
        "Transfer-Encoding: chunked\0",
        "Transfer-Encoding: [chunked]",
        "Transfer-Encoding : chunked",
        "Transfer-Encoding\t: chunked",
        "Transfer-Encoding\x0b: chunked",
        "Transfer\0-Encoding: chunked",
        "X: y\rTransfer-Encoding: chunked",
        "X: y\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Transfer-Encoding: x\r\nContent-Length: 5",
        "Transfer-Encoding\r\n: chunked",
    ];
    let unknown = [
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: deflate, chunked",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: deflate , gzip,Chunked",
    ];
    let mut probes: Vec<Probe> = good.into_iter().map(|lines| post(lines, HELLO, chunked_and_handled(SAID))).collect();
    probes.extend(bad.into_iter().map(|lines| post(lines, HELLO, refuse(400))));
    probes.extend(unknown.into_iter().map(|lines| post(lines, HELLO, refuse(501))));
    probes.extend([
        post("Transfer-Encoding: \x0bchunked", HELLO, fault(refuse(400), last(SAID), TRIMMED)),
        post("Transfer-Encoding: chunked\x0b", HELLO, fault(refuse(400), last(SAID), TRIMMED)),
        post("Transfer-Encoding: chunked\x0c", HELLO, fault(refuse(400), last(SAID), TRIMMED)),
        post(
            "X: y\r\n Transfer-Encoding: chunked",
            HELLO,
            fault(refuse(400), last(SAID), "a continuation line counts as a field"),
        ),
        post("Transfer-Encoding: chunked\r\nTrailer: X", HELLO, chunked_and_handled(SAID)),
        probe(
            "chunked in HTTP/1.0",
            format!("POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{HELLO}"),
            refuse(400),
        ),
        probe(
            "a coding of another name",
            "GET /x HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\n\r\n",
            handle("GET /x"),
        ),
        probe(
            "a GET with a chunked body",
            format!("GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{HELLO}"),
            chunked_and_handled("GET /x hello"),
        ),
    ]);
    probes
}

pub(crate) fn chunks() -> Vec<Probe> {
    let chunked = |body: &str, must| post("Transfer-Encoding: chunked", body, must);
    const SIZES: &str = "a chunk size may have a sign and white space around it, including line ends";
    let ten = chunked_and_handled("POST /x helloworld");
    let good = [
        ("2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", chunked_and_handled(SAID)),
        ("1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n", chunked_and_handled(SAID)),
        ("A\r\nhelloworld\r\n0\r\n\r\n", ten.clone()),
        ("a\r\nhelloworld\r\n0\r\n\r\n", ten),
        ("00005\r\nhello\r\n0000\r\n\r\n", chunked_and_handled(SAID)),
        ("0\r\n\r\n", chunked_and_handled("POST /x")),
        ("5;a=b\r\nhello\r\n0\r\n\r\n", chunked_and_handled(SAID)),
        ("5;a\r\nhello\r\n0;b\r\n\r\n", chunked_and_handled(SAID)),
        ("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", chunked_and_handled(SAID)),
        ("5 ; a\r\nhello\r\n0\r\n\r\n", chunked_and_handled(SAID)),
        ("5;a=b;c=d\r\nhello\r\n0\r\n\r\n", chunked_and_handled(SAID)),
    ];
    let bad = [
        "\r\nhello\r\n0\r\n\r\n",
        "zz\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "x5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5_\r\nhello\r\n0\r\n\r\n",
        "5,5\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "5=a\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        ";a\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhellohello\r\n0\r\n\r\n",
        "6\r\nhello\r\n0\r\n\r\n",
        "4\r\nhello\r\n0\r\n\r\n",
        "5\nhello\n0\n\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\rhello\r0\r\r",
        "5\r\nhello\r0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\n",
        "5\r\nhello\r\n0\n\n",
        "5\r\nhello\r\n0\rX\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "hello",
        "{\"a\": 1}\r\n",
    ];
    let cut = [
        "",
        "5",
        "5\r",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\n\r",
        "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5;a",
        "5;a\r\nhe",
    ];
    let mut probes: Vec<Probe> = good.into_iter().map(|(body, must)| chunked(body, must)).collect();
    probes.extend(bad.into_iter().map(|body| chunked(body, broken())));
    probes.extend(cut.into_iter().map(|body| chunked(body, broken()).cut()));
    let extensions = ["5;\0", "5;", "5;bad[=x", "5;a;", "5;a=", "5;a b", "5;a=\"b"];
    let unseen = || fault(broken(), last(SAID), "an extension is not looked at");
    probes.extend(extensions.map(|size| chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n"), unseen())));
    let signed = ["+5", " 5", "5 ", "\t5", "5\x0b", "\n5", "5\n"];
    probes.extend(
        signed.map(|size| chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n"), fault(broken(), last(SAID), SIZES))),
    );
    probes.extend([
        chunked("5;a\nb\r\nhello\r\n0\r\n\r\n", fault(broken(), last(SAID), "a line feed may stand in an extension")),
        chunked("+0\r\n\r\n", fault(broken(), last("POST /x"), SIZES)),
        chunked("5\r\nhello\r\n0\r\nX: y\r\n\r\n", fault(handle(SAID), broken(), "a body with trailers is refused")),
        chunked(
            "5\r\nhello\r\n0\r\nContent-Length: 5\r\nHost: b\r\n\r\n",
            fault(handle(SAID), broken(), "a body with trailers is refused"),
        ),
        Probe {
            name: "a long extension".into(),
            ..chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(10_000)), chunked_and_handled(SAID))
        },
        Probe {
            name: "200 chunks".into(),
            ..chunked(
                &format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(200)),
                chunked_and_handled(&format!("POST /x {}", "x".repeat(200))),
            )
        },
    ]);
    probes
}

#[test]
fn only_a_single_decimal_content_length_is_accepted() {
    check(&lengths());
}

#[test]
fn only_the_coding_chunked_is_accepted() {
    check(&codings());
}

#[test]
fn chunks_follow_their_grammar() {
    check(&chunks());
}
