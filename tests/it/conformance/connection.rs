//! Connections: RFC 9112, section 9; expectations, HEAD and responses without a body: RFC 9110, sections 6, 9 and 10.

use aside::{Response, Status};

use super::*;

fn get(version: &str, lines: &str, must: Must) -> Probe {
    let name = format!("connection {version} {}", lines.escape_debug());
    probe(name, format!("GET /x HTTP/{version}\r\nHost: a\r\n{lines}\r\n"), must)
}

pub(crate) fn persistence() -> Vec<Probe> {
    let ends = ["close", "Close", "CLOSE", "close, foo", "foo, close", "foo,close", "keep-alive, close", "\tclose\t"];
    let stays = ["keep-alive", "Keep-Alive", "", "foo", "TE", "clo se", "x-clos"];
    let mut probes: Vec<Probe> = Vec::new();
    probes.extend(ends.map(|value| get("1.1", &format!("Connection: {value}\r\n"), last("GET /x"))));
    probes.extend(stays.map(|value| get("1.1", &format!("Connection: {value}\r\n"), handle("GET /x"))));
    probes.extend([
        get("1.1", "", handle("GET /x")),
        get("1.1", "Connection: keep-alive\r\nConnection: close\r\n", last("GET /x")),
        get("1.1", "Connection: close\r\nConnection: keep-alive\r\n", last("GET /x")),
        get("1.1", "Connection: foo\r\nconnection: Close\r\n", last("GET /x")),
        get("1.1", "Proxy-Connection: close\r\n", handle("GET /x")),
        get(
            "1.1",
            "Connection: enclosed\r\n",
            fault(handle("GET /x"), last("GET /x"), "`close` as a part of a word closes the connection"),
        ),
        get("1.0", "", last("GET /x")),
        get("1.0", "Connection: close\r\n", last("GET /x")),
        get("1.0", "Connection: keep-alive, close\r\n", last("GET /x")),
        get("1.0", "Connection: foo\r\n", last("GET /x")),
        get("1.0", "Connection: not-keep-alive\r\n", last("GET /x")),
        get("1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", last("GET /x")),
        get(
            "1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            last("GET /x"),
        ),
        get("1.1", "Upgrade: h2c\r\n", handle("GET /x")),
        get("1.1", "Expect: 100-continue\r\n", handle("GET /x")),
        get("1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", handle("GET /x")),
        get("1.1", "Expect: something\r\n", refuse(417)),
        get("1.1", "Expect:\r\n", refuse(417)),
        get("1.0", "Expect: 100-continue\r\n", last("GET /x")),
        probe(
            "an upgrade with a body",
            "POST /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
            last("POST /x hello"),
        ),
        probe(
            "an upgrade with a chunked body",
            "POST /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            fault(last("POST /x"), refuse(400), "tiny_http does not decode the chunks after an upgrade"),
        ),
    ]);
    probes
}

#[test]
fn a_connection_is_kept_or_closed_as_the_client_asks() {
    check(&persistence());
}

#[test]
fn an_http_1_0_connection_is_kept_with_keep_alive() {
    let site = Site::start();
    let mut raw = Raw::to(&site.server);
    for value in ["keep-alive", "Keep-Alive", "foo, keep-alive"] {
        let reply = raw.send(format!("GET /x HTTP/1.0\r\nConnection: {value}\r\n\r\n")).reply();
        assert_eq!((reply.status, reply.header("Connection")), (200, Some("keep-alive")), "{value}");
    }
}

#[test]
fn a_100_continue_is_sent_when_the_body_is_read() {
    let site = Site::start();
    for (value, body) in [("100-continue", "hello"), ("100-Continue", "hello")] {
        let mut raw = Raw::to(&site.server);
        raw.send(format!("POST /x HTTP/1.1\r\nHost: a\r\nExpect: {value}\r\nContent-Length: 5\r\n\r\n{body}"));
        let interim = raw.head();
        assert_eq!((interim.status, raw.reply().body.as_str()), (100, "5 bytes"));
        assert_eq!(raw.get("/x").status, 200);
    }
}

/// Known: tiny_http would also send the interim response to HTTP/1.0, which must not get one (RFC 9110, section 10.1.1).
/// The request is refused there.
#[test]
fn an_expectation_in_http_1_0_is_ignored() {
    let site = Site::start();
    let mut raw = Raw::to(&site.server);
    raw.send("POST /x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello");
    if crate::is_tiny_http() {
        return check_single_response(&raw.rest(), 417);
    }
    assert_eq!((raw.reply().body.as_str(), raw.rest().as_str()), ("5 bytes", ""));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let site = Site::start();
    let mut raw = Raw::to(&site.server);
    let requests = |n: usize| {
        let body = "b".repeat(n);
        let chunked =
            format!("POST /{n} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{n:x}\r\n{body}\r\n0\r\n\r\n");
        let plain = format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: {n}\r\n\r\n{body}");
        // Over tiny_http a connection closes after a chunked body.
        if n.is_multiple_of(2) && !crate::is_tiny_http() { chunked } else { plain }
    };
    raw.send((1..60).map(requests).collect::<String>());
    (1..60).for_each(|n| assert_eq!(raw.reply().body, format!("{n} bytes")));
}

#[test]
fn requests_after_a_refused_request_are_not_handled() {
    let site = Site::start();
    let mut raw = Raw::to(&site.server);
    let port = raw.0.get_ref().local_addr().unwrap().port();
    raw.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n\r\n".to_owned() + &NEXT_REQUEST.repeat(20));
    assert_eq!(raw.reply().status, 200);
    check_single_response(&raw.rest(), 400);
    assert_eq!(site.seen_by(port), ["GET /1"]);
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let site = Site::start();
    for request in [
        "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n",
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut raw = Raw::to(&site.server);
        request.bytes().for_each(|byte| _ = raw.send([byte]));
        let reply = raw.reply();
        assert_eq!(reply.status, 200);
        if reply.header("Connection").is_none() {
            assert_eq!(raw.get("/x").status, 200);
        }
    }
}

#[test]
fn a_cut_off_chunked_body_of_a_last_request_is_detected() {
    let site = Site::start();
    let server_v6 = std::net::TcpListener::bind("[::1]:0").map(drop).map(|()| {
        start(
            App::with_config(aside::Config { address: "[::1]:0".into(), ..config() })
                .fallback(|req: &mut Request| req.text()),
        )
    });
    let body = |size: usize| format!("{size:x}\r\n{}\r\n", "x".repeat(size)).repeat(3);
    for server in [&site.server].into_iter().chain(&server_v6) {
        for size in [1, 1_000, 20_000].repeat(10) {
            let head = "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n";
            let mut raw = Raw::to(server);
            let text = raw.send(head).send(body(size)).send("0\r\n\r\n").rest();
            assert!(text.starts_with("HTTP/1.1 200 "), "{size}: {text}");
            let mut raw = Raw::to(server);
            raw.send(head).send(format!("{}100000\r\ncut", body(size)));
            raw.0.get_ref().shutdown(Shutdown::Write).unwrap();
            check_single_response(&raw.rest(), 400);
        }
    }
}

fn site_with_several_responses() -> Server {
    let app = App::with_config(config())
        .get("/text", |_: &mut Request| "hello")
        .get("/none", |_: &mut Request| "")
        .get("/stream", |_: &mut Request| Response::stream("text/plain", |out| out.write_all(b"hello")))
        .get("/204", |_: &mut Request| Response::text("never sent").status(Status::NO_CONTENT))
        .get("/304", |_: &mut Request| Response::text("never sent").status(Status::NOT_MODIFIED))
        .get("/error", |_: &mut Request| Status::NOT_FOUND);
    start(app)
}

#[test]
fn head_responds_like_get_without_the_body() {
    let server = site_with_several_responses();
    let mut raw = Raw::to(&server);
    let own = |head: &str| -> Vec<String> {
        let same = |line: &&str| !line.starts_with("Date:") && !line.starts_with("X-Request-Id:");
        // The length of a stream is unknown before it is written.
        head.lines().filter(same).filter(|line| !line.starts_with("Transfer-Encoding")).map(str::to_owned).collect()
    };
    for path in ["/text", "/none", "/stream", "/204", "/304", "/error", "/nowhere"] {
        let head = raw.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n")).head();
        let get = raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).head();
        assert_eq!(own(&head.head), own(&get.head), "{path}");
        let length = get.header("Content-Length").map_or(0, |length| length.parse().unwrap());
        match get.header("Transfer-Encoding") {
            Some(_) => assert_eq!((raw.chunk(), raw.chunk()), ("hello".into(), String::new())),
            None => assert_eq!(raw.exactly(length).len(), length),
        }
    }
}

#[test]
fn responses_with_204_and_304_declare_no_length() {
    let server = site_with_several_responses();
    let mut raw = Raw::to(&server);
    for (path, status) in [("/204", 204), ("/304", 304)] {
        let reply = raw.get(path);
        let framing = (reply.header("Content-Length"), reply.header("Transfer-Encoding"));
        assert_eq!((reply.status, framing), (status, (None, None)));
    }
    assert_eq!(raw.get("/none").header("Content-Length"), Some("0"));
}

#[test]
fn a_refused_head_request_gets_no_body() {
    let site = Site::start();
    let text = Raw::to(&site.server).send("HEAD /x HTTP/1.1\r\n\r\n").rest();
    assert!(text.starts_with("HTTP/1.1 400 ") && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn a_refusal_has_a_request_id_and_a_line_in_the_access_log() {
    crate::logs::record();
    let site = Site::start();
    let text = Raw::to(&site.server).send("GET /refused-%3c HTTP/1.1\r\nX: \x1b\r\nHost: a\r\n\r\n").rest();
    let id = text.split("\r\nX-Request-Id: ").nth(1).expect("an id").split("\r\n").next().unwrap();
    let lines = crate::logs::with(id);
    assert!(lines.iter().any(|(_, line)| line.contains("GET /refused-< 400 after ")), "{lines:?}");
    assert!(text.contains("The value of a header has a control character."), "{text}");
}

/// The refusal of one connection does not affect the next connection from the same port.
#[cfg(target_os = "linux")]
#[test]
fn a_connection_from_the_port_of_a_refused_one_is_served() {
    use socket2::{Domain, SockAddr, Socket, Type};
    let site = Site::start();
    let from = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&SockAddr::from(std::net::SocketAddr::from(([127, 0, 0, 1], port)))).unwrap();
        socket.connect(&site.server.addr().into()).unwrap();
        // Closed with a reset, so that the port is free at once.
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        std::net::TcpStream::from(socket)
    };
    let refused = from(0);
    let port = refused.local_addr().unwrap().port();
    let mut raw = Raw(std::io::BufReader::new(refused));
    assert_eq!(raw.send("GET /1 HTTP/1.1\r\n\r\n").reply().status, 400);
    drop(raw);
    let mut raw = Raw(std::io::BufReader::new(from(port)));
    // Longer than the refused connection may linger.
    let until = std::time::Instant::now() + std::time::Duration::from_millis(1_500);
    while std::time::Instant::now() < until {
        assert_eq!(raw.get("/2").status, 200);
    }
    assert!(site.seen_by(port).iter().all(|seen| seen == "GET /2"));
}

/// A transport passes `OPTIONS *` to the application, which answers it (RFC 9110, section 9.3.7).
#[test]
fn options_with_an_asterisk_reach_the_application() {
    let site = Site::start();
    let mut raw = Raw::to(&site.server);
    let port = raw.0.get_ref().local_addr().unwrap().port();
    assert_eq!(raw.send("OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi").reply().status, 200);
    assert_eq!(site.seen_by(port), ["OPTIONS * hi"]);
}
