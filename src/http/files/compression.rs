//! Compression of responses: gzip for text, for clients that accept it.
//!
//! A static file is compressed once for each of its versions: the result stays in memory, for all clients, until the
//! memory is needed for another file. All that is made for one client alone is compressed for each response.
//!
//! It never compresses streams, whose chunks must arrive at once, ranges of files, or compressed content. The size of a
//! compressed page that has a secret beside the client's input reveals if both are alike (BREACH): aside puts no tokens
//! of its own into pages, and a response with `Content-Encoding: identity` is not compressed.

use std::io::{self, Cursor};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::precompressed::{Accepted, GZIP, is_compressible};
use crate::cache::Cache;
use crate::error::{Result, Status};
use crate::http::cache_control::add_vary;
use crate::http::headers::Headers;
use crate::http::request::Request;
use crate::http::response::{Response, ResponseBody};

/// The sizes to compress. A smaller response fits one packet anyway, and a larger file should have a precompressed
/// form.
const SIZES: std::ops::RangeInclusive<u64> = 1024..=(1 << 20);

/// The memory of an entry besides its key and its content, about.
const OVERHEAD: u64 = 256;

/// The compressed form of each version of each static file that was requested lately.
pub(crate) struct CompressedFiles(Cache<Arc<[u8]>>);

impl CompressedFiles {
    /// Creates the store, with a limit on its memory in bytes.
    pub(crate) fn within(bytes: u64) -> CompressedFiles {
        CompressedFiles(Cache::weighted(bytes, 16 << 10, |key, content| OVERHEAD + (key.len() + content.len()) as u64))
    }
}

/// Compresses the body, if the client accepts it and the content benefits.
pub(crate) fn compress(request: &Request, response: &mut Response, files: &CompressedFiles) {
    if !is_worth_it(response) {
        return;
    }
    add_vary(&mut response.headers, "Accept-Encoding");
    if Accepted::of(request.headers()).choose([GZIP].into_iter()).is_none() {
        return;
    }
    match encode(request, response, &files.0) {
        Ok(false) => {}
        Ok(true) => {
            response.headers.put("Content-Encoding", "gzip");
            // Ranges refer to the unencoded file.
            response.headers.remove("Accept-Ranges");
            weaken_etag(&mut response.headers);
        }
        Err(error) => response.fail(error),
    }
}

/// Replaces the body with its compressed form. Returns false if the body is to be sent as it is.
///
/// # Errors
/// An error if the body cannot be read.
fn encode(request: &Request, response: &mut Response, files: &Cache<Arc<[u8]>>) -> Result<bool> {
    let public_version = response.public_version.take().filter(|_| matches!(response.body, ResponseBody::File(..)));
    let known = public_version.as_deref().and_then(|version| files.get(version));
    let body = std::mem::take(&mut response.body);
    response.body = match (known, public_version) {
        (Some(content), _) => shared(content),
        (None, _) if request.is_head() => of_unknown_length(),
        (None, None) => ResponseBody::Bytes(gzipped(body)?.into()),
        (None, Some(version)) => return encode_once(files, &version, body, response),
    };
    Ok(true)
}

/// Compresses a file, unless another thread does so already: then waits for its result. If too many workers wait, the file is
/// sent as it is, which is better than a 503.
fn encode_once(files: &Cache<Arc<[u8]>>, version: &str, body: ResponseBody, response: &mut Response) -> Result<bool> {
    let mut body = Some(body);
    let content = files.remember(version, Duration::MAX, || gzipped(body.take().unwrap_or_default()).map(Arc::from));
    match (content, body) {
        (Ok(content), _) => response.body = shared(content),
        (Err(error), None) => return Err(error),
        (Err(_), Some(body)) => {
            response.body = body;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the body for a content that other responses send too, without a copy.
fn shared(content: Arc<[u8]>) -> ResponseBody {
    let length = content.len() as u64;
    ResponseBody::Reader(Box::new(Cursor::new(content)), length)
}

/// Returns the body of a response to HEAD whose length only its compression would tell. A transport omits the
/// `Content-Length` then, as RFC 9110, section 9.3.2, allows.
fn of_unknown_length() -> ResponseBody {
    ResponseBody::Stream { write: Box::new(|_| Ok(())), is_live: false }
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
    let declared = body.length();
    body.write_to(&mut encoder)?;
    let bytes = encoder.finish()?;
    // The last four bytes are the length before compression (RFC 1952, section 2.3.1).
    let read = bytes.last_chunk().map(|length| u32::from_le_bytes(*length));
    match declared.is_none_or(|length| read == Some(length as u32)) {
        true => Ok(bytes),
        false => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was compressed")),
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
    use std::io::{Seek, Write};
    use std::sync::{Barrier, mpsc};
    use std::thread;

    use flate2::read::GzDecoder;

    use super::*;
    use crate::http::request::{Body, Method};
    use crate::worker_share::tests::one_of_two_workers_is_refused;

    fn request(accept: &str) -> Request {
        Request::new(Method::Get, "/", Headers::from_iter([("Accept-Encoding", accept)]), Body::empty())
    }

    fn compressed(accept: &str, mut response: Response) -> Response {
        compress(&request(accept), &mut response, &CompressedFiles::within(0));
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

    /// Returns a response with a file of this content, as `StaticFiles` makes it.
    fn file(content: &str, version: &str) -> Response {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.rewind().unwrap();
        let mut response = Response::bytes("text/css", vec![]);
        response.body = ResponseBody::File(file, content.len() as u64);
        response.public_version = Some(version.to_owned());
        response
    }

    fn decompressed(response: Response) -> String {
        let mut bytes = Vec::new();
        response.body.write_to(&mut bytes).unwrap();
        io::read_to_string(GzDecoder::new(&bytes[..])).unwrap()
    }

    fn encoded(method: Method, mut response: Response, files: &Cache<Arc<[u8]>>) -> Response {
        let request = Request::new(method, "/", Headers::new(), Body::empty());
        assert!(encode(&request, &mut response, files).unwrap());
        response
    }

    #[test]
    fn a_version_of_a_file_is_compressed_once() {
        let files = CompressedFiles::within(1 << 20).0;
        let get = |content, version| decompressed(encoded(Method::Get, file(content, version), &files));
        assert_eq!(get("the first", "1"), "the first");
        assert_eq!(get("not read", "1"), "the first");
        assert_eq!(get("the second", "2"), "the second", "another version");
        let mut page = Response::text("a page");
        page.public_version = Some("1".into());
        assert_eq!(decompressed(encoded(Method::Get, page, &files)), "a page", "a hook replaced the body");
        let mut private = file("a bill", "1");
        private.public_version = None;
        assert_eq!(decompressed(encoded(Method::Get, private, &files)), "a bill");
        assert_eq!(files.len(), 2);
    }

    #[test]
    fn simultaneous_requests_compress_a_file_once() {
        let (files, barrier) = (CompressedFiles::within(1 << 20).0, Barrier::new(8));
        let get = |number: usize| {
            barrier.wait();
            decompressed(encoded(Method::Get, file(&number.to_string().repeat(100_000), "1"), &files))
        };
        let texts: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || get(number))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(texts.iter().all(|text| *text == texts[0]), "more than one thread compressed its file");
    }

    #[test]
    fn the_memory_for_compressed_files_is_bounded() {
        let files = CompressedFiles::within(4_000).0;
        let noise =
            |seed: u32| (0..700).map(|n: u32| char::from(b' ' + ((n * n * seed) % 89) as u8)).collect::<String>();
        for version in 0..50 {
            encoded(Method::Get, file(&noise(version), &version.to_string()), &files);
            assert!(files.weight() <= 4_000, "{}", files.weight());
        }
        assert!((2..16).contains(&files.len()), "{}", files.len());
        let long = "é".repeat(3_000) + &"x".repeat(1_000);
        let before = files.len();
        let content: Arc<[u8]> = vec![0; 4_000].into();
        files.set("too heavy", content, Duration::MAX);
        assert!(files.get("too heavy").is_none() && files.len() <= before);
        assert_eq!(decompressed(encoded(Method::Get, file(&long, "long"), &files)), long);
    }

    #[test]
    fn a_response_to_head_compresses_nothing() {
        struct Unread;
        impl io::Read for Unread {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                panic!("the body was read")
            }
        }
        let head = |mut response: Response| {
            let headers = Headers::from_iter([("Accept-Encoding", "gzip")]);
            let request = Request::new(Method::Head, "/", headers, Body::empty());
            compress(&request, &mut response, &CompressedFiles::within(0));
            assert!(is_gzip(&response) && response.headers().get("Vary") == Some("Accept-Encoding"));
            assert_eq!(response.headers().get("ETag"), Some("W/\"1\""));
            assert!(!response.headers().contains("Accept-Ranges"));
            response.body.length()
        };
        let mut unread = Response::text("").header("ETag", "\"1\"").header("Accept-Ranges", "bytes");
        unread.body = ResponseBody::Reader(Box::new(Unread), 5_000);
        assert_eq!(head(unread), None, "the length is not known");
        let files = CompressedFiles::within(1 << 20).0;
        let content = "word ".repeat(1_000);
        let length = encoded(Method::Get, file(&content, "1"), &files).body.length();
        assert!(length.is_some_and(|length| length < 100));
        assert_eq!(encoded(Method::Head, file(&content, "1"), &files).body.length(), length, "compressed before");
        assert_eq!(encoded(Method::Head, file(&content, "2"), &files).body.length(), None);
        assert_eq!(files.len(), 1);
    }

    #[test]
    fn a_file_that_becomes_shorter_is_not_stored() {
        let files = CompressedFiles::within(1 << 20).0;
        let mut response = file("0123456789", "1");
        let ResponseBody::File(_, length) = &mut response.body else { panic!("not a file") };
        *length = 11;
        let request = Request::new(Method::Get, "/", Headers::new(), Body::empty());
        assert!(encode(&request, &mut response, &files).is_err());
        assert!(files.is_empty());
    }

    #[test]
    fn a_file_is_sent_as_it_is_if_too_many_workers_wait() {
        let files = CompressedFiles::within(1 << 20).0;
        let (begun, has_begun) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let compress_slowly = move || {
            begun.send(()).unwrap();
            released.recv().unwrap();
            crate::ok(Arc::from(gzipped(ResponseBody::Bytes(b"compressed".into()))?))
        };
        let respond = || {
            let mut response = file("as it is", "1");
            let request = Request::new(Method::Get, "/", Headers::new(), Body::empty());
            if encode(&request, &mut response, &files)? {
                return Ok(decompressed(response));
            }
            let mut bytes = Vec::new();
            response.body.write_to(&mut bytes)?;
            assert_eq!(bytes, b"as it is");
            // Refused too, since the other worker still waits.
            Err(files.remember("1", Duration::MAX, || crate::ok(Arc::from([]))).unwrap_err())
        };
        thread::scope(|scope| {
            let files = &files;
            scope.spawn(move || files.remember("1", Duration::MAX, compress_slowly).unwrap());
            has_begun.recv().unwrap();
            let text = one_of_two_workers_is_refused(respond, || release.send(()).unwrap());
            assert_eq!(text, "compressed");
        });
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
