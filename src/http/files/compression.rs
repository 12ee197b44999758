//! Compression of responses: gzip for text, for clients that accept it.
//!
//! It never compresses streams, whose chunks must arrive at once, ranges of files, or compressed content. The size of a
//! compressed page that has a secret beside the client's input reveals if both are alike (BREACH): aside puts no tokens
//! of its own into pages, and a response with `Content-Encoding: identity` is not compressed.

use std::io;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::precompressed::{Accepted, GZIP, is_compressible};
use crate::error::Status;
use crate::http::headers::Headers;
use crate::http::request::Request;
use crate::http::response::{Response, ResponseBody};

/// The sizes to compress. A smaller response fits one packet anyway, and a larger file should have a precompressed
/// form.
const SIZES: std::ops::RangeInclusive<u64> = 1024..=(1 << 20);

/// Compresses the body, if the client accepts it and the content benefits.
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
            // Ranges refer to the unencoded file.
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
    // Level 6 takes twice the time of level 1 on a page, and makes it another sixth smaller.
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

/// Weakens the tag: other bytes of the same content are only weakly the same (RFC 9110, section 8.8.1).
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
    fn compressed_text_decompresses_to_the_same() {
        let text = "All work and no play. ".repeat(200);
        let response = compressed("br, gzip", Response::html(text.clone()).header("ETag", "\"1\""));
        assert_eq!(response.headers().get("Vary"), Some("Accept-Encoding"));
        assert_eq!(response.headers().get("ETag"), Some("W/\"1\""));
        let ResponseBody::Bytes(bytes) = &response.body else { panic!("no bytes") };
        assert!(bytes.len() < text.len() / 5);
        assert_eq!(io::read_to_string(GzDecoder::new(&bytes[..])).unwrap(), text);
    }

    #[test]
    fn accept_encoding_decides_about_compression() {
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
    fn small_compressed_and_partial_content_is_not_compressed() {
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
