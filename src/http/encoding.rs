//! Compression on the way out: gzip for text, for clients that say they take it.
//!
//! Never for streams, whose pieces are to arrive as they come up, for parts of files, or for what is compressed already.
//! A page that shows a secret beside what a visitor typed tells by its compressed size whether the two are alike (BREACH):
//! aside puts no token of its own into pages, and `Content-Encoding: identity` on a response leaves it as it is.

use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::files::encodings::{Accepted, GZIP, is_compressible};
use super::headers::Headers;
use super::request::Request;
use super::response::{Response, ResponseBody};
use crate::error::Status;

/// Below this a packet is a packet, and above it a file should have a compressed sibling.
const SIZES: std::ops::RangeInclusive<u64> = 1024..=(1 << 20);

/// Compresses the body, when client and content allow it.
pub(crate) fn compress(request: &Request, response: &mut Response) {
    if !is_worth_it(response) {
        return;
    }
    add_vary(&mut response.headers);
    if Accepted::of(request.headers()).choose([GZIP].into_iter()).is_none() {
        return;
    }
    match gzipped(std::mem::take(&mut response.body)) {
        Ok(bytes) => {
            response.body = ResponseBody::Bytes(bytes.into());
            response.headers.put("Content-Encoding", "gzip");
            // Parts are of the file as it is, not of what is made here.
            response.headers.remove("Accept-Ranges");
            weaken_etag(&mut response.headers);
        }
        Err(error) => response.fail(error.into()),
    }
}

fn is_worth_it(response: &Response) -> bool {
    let headers = &response.headers;
    let status = response.status_code();
    let sized = response.body.length().is_some_and(|length| SIZES.contains(&length));
    let kept = headers.get_all("Cache-Control").any(|value| value.contains("no-transform"));
    let whole = !status.is_bodiless() && status != Status::PARTIAL_CONTENT;
    sized
        && whole
        && !kept
        && !headers.contains("Content-Encoding")
        && headers.get("Content-Type").is_some_and(is_compressible)
}

fn gzipped(body: ResponseBody) -> io::Result<Vec<u8>> {
    // Level 6 costs twice the time of 1 on a page, and saves another sixth of it.
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    body.write_to(&mut encoder)?;
    encoder.finish()
}

fn add_vary(headers: &mut Headers) {
    let varies = |value: &str| {
        value.split(',').any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("accept-encoding"))
    };
    if !headers.get_all("Vary").any(varies) {
        headers.add("Vary", "Accept-Encoding");
    }
}

/// The same content in other bytes is the same only weakly (RFC 9110, section 8.8.1).
fn weaken_etag(headers: &mut Headers) {
    if let Some(strong) = headers.get("ETag").filter(|etag| !etag.starts_with("W/")) {
        let weak = format!("W/{strong}");
        headers.put("ETag", weak);
    }
}

#[cfg(test)]
mod tests {
    use flate2::read::GzDecoder;

    use super::*;
    use crate::http::request::{Body, Method};

    fn request(accept: &str) -> Request {
        Request::new(Method::Get, "/", Headers::from_iter([("Accept-Encoding", accept)]), Body::empty())
    }

    fn compressed(accept: &str, mut response: Response) -> Response {
        compress(&request(accept), &mut response);
        response
    }

    fn is_gzip(response: &Response) -> bool {
        response.headers().get("Content-Encoding") == Some("gzip")
    }

    #[test]
    fn text_is_compressed_and_comes_out_the_same() {
        let text = "All work and no play. ".repeat(200);
        let response = compressed("br, gzip", Response::html(text.clone()).header("ETag", "\"1\""));
        assert_eq!(response.headers().get("Vary"), Some("Accept-Encoding"));
        assert_eq!(response.headers().get("ETag"), Some("W/\"1\""));
        let ResponseBody::Bytes(bytes) = &response.body else { panic!("no bytes") };
        assert!(bytes.len() < text.len() / 5);
        assert_eq!(io::read_to_string(GzDecoder::new(&bytes[..])).unwrap(), text);
    }

    #[test]
    fn a_client_is_asked_in_its_own_words() {
        for (accept, expected) in [
            ("gzip", true),
            ("GZIP;q=0.1", true),
            ("*", true),
            ("x-gzip", true),
            ("gzip;q=0, *", false),
            ("gzip;q=0.000", false),
            ("*;q=0", false),
            ("br, deflate", false),
            ("identity", false),
            ("", false),
        ] {
            let response = compressed(accept, Response::text("x".repeat(2000)));
            assert_eq!(is_gzip(&response), expected, "{accept}");
            assert_eq!(response.headers().get("Vary"), Some("Accept-Encoding"), "{accept}");
        }
    }

    #[test]
    fn what_gains_nothing_or_must_not_change_is_left_alone() {
        let long = || "x".repeat(5000);
        for response in [
            Response::text("short"),
            Response::text("x".repeat(2 << 20)),
            Response::bytes("image/jpeg", long().into_bytes()),
            Response::bytes("application/zip", long().into_bytes()),
            Response::text(long()).header("Content-Encoding", "br"),
            Response::text(long()).header("Cache-Control", "no-transform"),
            Response::text(long()).status(Status::PARTIAL_CONTENT),
            Response::stream("text/plain", |out| out.write_all(b"x")),
            Response::stream("text/event-stream", |out| out.write_all(b"x")),
        ] {
            assert!(!is_gzip(&compressed("gzip", response)));
        }
        for content_type in ["application/json", "image/svg+xml", "application/problem+json", "text/css; charset=utf-8"]
        {
            assert!(is_gzip(&compressed("gzip", Response::bytes(content_type, long().into_bytes()))), "{content_type}");
        }
    }
}
