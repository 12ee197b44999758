//! Shows exactly what the framework made of a request: for people who debug clients, and for conformance suites.
//!
//! Not to be copied as it stands: it turns protections off, so that it answers whatever comes. The fields of a form, the
//! headers and the cookies of a visitor are no business of a page that anybody can have another site's visitor post to.
//!
//! | Path | What it answers |
//! |---|---|
//! | any method on `/`, and on any path not listed here | `OK`, or the body as it came |
//! | `/echo` | the request's headers, `Name: value` lines, in order |
//! | `/cookie`, `/t/cookies` | cookies as `name=value` lines |
//! | `/t/form`, `/t/query` | JSON `[["name","value"], …]` in order, of the urlencoded body, or the query |
//! | `/t/multipart` | JSON list of `{name, filename, content_type, len, sha256}`, in order |
//! | `/t/thumb` | multipart field `file`: the image to fit in 256x256, as PNG; 422 for what is no image, or is too large |
//! | `/t/redirect?next=` | a redirect to `next` when it is local, to `/` otherwise |
//! | `/t/header?v=` | 200 with the header `X-V: v` and a cookie `c=v`; 400 when `v` cannot be a header value |
//! | `/static/` | the files of `ASIDE_STATIC`, when set |
//! | `/big` | 1 MB of text |

use std::io::Read;

use aside::image::{Fit, Format, Image};
use aside::{App, Config, Error, Json, Part, Request, Response, Result, redirect_or};
use serde::Serialize;
use sha2::{Digest, Sha256};

fn main() -> Result<()> {
    app(Config::from_env()?, std::env::var("ASIDE_STATIC").ok().as_deref()).run()
}

fn app(config: Config, files: Option<&str>) -> App {
    let app = unprotected(config)
        .any("/echo", echo)
        .any("/cookie", cookies)
        .any("/t/cookies", cookies)
        .any("/t/form", |req: &mut Request| req.form_pairs().map(Json))
        .any("/t/query", |req: &mut Request| req.query_pairs().map(Json))
        .any("/t/multipart", multipart)
        .any("/t/thumb", thumb)
        .any("/t/redirect", |req: &mut Request| redirect_or(&query(req, "next").unwrap_or_default(), "/"))
        .any("/t/header", header)
        .any("/big", |_: &mut Request| LINE.repeat(10_000))
        .fallback(body);
    match files {
        Some(folder) => app.static_files("/static", folder),
        None => app,
    }
}

/// The one place where protections are turned off: this answers to any host, and to the pages of any site.
fn unprotected(config: Config) -> App {
    App::with_config(Config { allowed_hosts: vec!["*".into()], trusted_origins: vec!["*".into()], ..config })
}

/// A line of a hundred bytes, with its end.
const LINE: &str =
    "All work and no play makes a page of text that is one hundred letters wide.........................\n";

/// `OK`, or the body as it came: as plain text, so that no browser takes it for a page of ours.
fn body(req: &mut Request) -> Result<Response> {
    let limit = req.config().max_upload;
    let mut bytes = Vec::new();
    req.body()
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::bad_request("The body was cut short.").with_source(error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::too_large(format!("The body is larger than {limit} bytes (ASIDE_MAX_UPLOAD).")));
    }
    let bytes = if bytes.is_empty() { b"OK".to_vec() } else { bytes };
    Ok(Response::bytes("text/plain; charset=utf-8", bytes))
}

fn echo(req: &mut Request) -> String {
    req.headers().iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn cookies(req: &mut Request) -> String {
    req.cookies().map(|(name, value)| format!("{name}={value}\n")).collect()
}

/// A parameter of the query; empty when it is not there.
fn query(req: &mut Request, name: &str) -> Result<String> {
    let pairs = req.query_pairs()?;
    Ok(pairs.into_iter().find(|(key, _)| key == name).map_or_else(String::new, |(_, value)| value))
}

/// What is in each part, and how much of it.
#[derive(Serialize)]
struct PartSeen {
    name: String,
    filename: Option<String>,
    content_type: Option<String>,
    len: usize,
    sha256: String,
}

fn multipart(req: &mut Request) -> Result<Json<Vec<PartSeen>>> {
    req.multipart()?.parts().iter().map(PartSeen::of).collect::<Result<_>>().map(Json)
}

impl PartSeen {
    fn of(part: &Part) -> Result<PartSeen> {
        let mut content = Vec::new();
        part.open()?.read_to_end(&mut content)?;
        Ok(PartSeen {
            name: part.name().to_owned(),
            filename: part.filename().map(str::to_owned),
            content_type: part.content_type().map(str::to_owned),
            len: content.len(),
            sha256: hex(&Sha256::digest(&content)),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The image in the field `file`, small.
fn thumb(req: &mut Request) -> Result<Response> {
    let image = Image::open(req.multipart()?.file("file")?.path())?;
    Ok(Response::bytes(Format::Png.content_type(), image.encode(Fit::Inside(256, 256), Format::Png)?))
}

fn header(req: &mut Request) -> Result<Response> {
    let value = query(req, "v")?;
    let response = Response::text("OK").cookie(("c", value.as_str()));
    response
        .try_header("X-V", value)
        .map_err(|error| Error::bad_request("That cannot be a header value.").with_source(error))
}

#[cfg(test)]
mod tests {
    use aside::Status;
    use aside::testing::TestClient;

    use super::*;

    fn client() -> TestClient {
        TestClient::new(app(Config::default(), None))
    }

    #[test]
    fn any_method_and_path_is_answered() {
        let mut client = client();
        for (method, path) in
            [("GET", "/"), ("BREW", "/"), ("PUT", "/a/b/c"), ("DELETE", "/t"), ("GET", "/static/a.css")]
        {
            let answer = client.request(method, path).send();
            assert_eq!((answer.status(), answer.text()), (Status::OK, "OK"), "{method} {path}");
        }
        assert_eq!(client.post("/").body("application/octet-stream", b"\0\xff".to_vec()).send().bytes(), b"\0\xff");
    }

    #[test]
    fn headers_and_cookies_come_back_in_order() {
        let mut client = client();
        let answer = client.request("GET", "/echo").header("X-B", "2").header("x-a", "1").header("X-B", "3").send();
        assert!(answer.text().ends_with("X-B: 2\nx-a: 1\nX-B: 3\n"), "{answer:?}");
        for path in ["/cookie", "/t/cookies"] {
            let answer = client.request("GET", path).header("Cookie", "b=2; a=1; b=%C3%A9; q=\"x\"").send();
            assert!(answer.text().starts_with("b=2\na=1\nb=é\nq="), "{answer:?}");
        }
    }

    #[test]
    fn every_host_and_every_site_is_answered() {
        let answer = client().post("/").header("Host", "any.example").header("Sec-Fetch-Site", "cross-site").send();
        assert_eq!((answer.status(), answer.text()), (Status::OK, "OK"));
    }

    #[test]
    fn pairs_come_back_in_order() {
        let mut client = client();
        let answer = client.post("/t/form").form(&[("b", "2"), ("a", ""), ("b", "1 é&=")]).send();
        assert_eq!(answer.text(), r#"[["b","2"],["a",""],["b","1 é&="]]"#);
        assert_eq!(client.get("/t/query?b=2&a&b=%C3%A9+x").text(), r#"[["b","2"],["a",""],["b","é x"]]"#);
        assert_eq!(client.post("/t/form").json(&1).send().status(), Status::UNSUPPORTED_MEDIA_TYPE);
    }

    #[test]
    fn parts_come_back_in_order_with_what_is_in_them() {
        let mut client = client();
        let request =
            client.post("/t/multipart").field("b", "hello").file("f", "a.txt", "text/plain", b"abc").field("b", "");
        let parts: serde_json::Value = request.send().json();
        let hash = |bytes: &[u8]| hex(&Sha256::digest(bytes));
        assert_eq!(
            parts,
            serde_json::json!([
                { "name": "b", "filename": null, "content_type": null, "len": 5, "sha256": hash(b"hello") },
                { "name": "f", "filename": "a.txt", "content_type": "text/plain", "len": 3, "sha256": hash(b"abc") },
                { "name": "b", "filename": null, "content_type": null, "len": 0, "sha256": hash(b"") },
            ])
        );
    }

    #[test]
    fn an_image_comes_back_small_and_what_is_none_is_422() {
        let mut client = client();
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::RgbImage::new(1000, 500).write_to(&mut bytes, image::ImageFormat::Jpeg).unwrap();
        let answer = client.post("/t/thumb").file("file", "a.jpg", "image/jpeg", bytes.get_ref()).send();
        assert_eq!(answer.header("Content-Type"), Some("image/png"));
        let small = image::load_from_memory_with_format(answer.bytes(), image::ImageFormat::Png).unwrap();
        assert_eq!((small.width(), small.height()), (256, 128));
        for bad in [&b"no image"[..], b"", &bytes.get_ref()[..300]] {
            let answer = client.post("/t/thumb").file("file", "a.jpg", "image/jpeg", bad).send();
            assert_eq!(answer.status(), Status::UNPROCESSABLE_CONTENT, "{answer:?}");
        }
        assert_eq!(client.post("/t/thumb").field("other", "x").send().status(), Status::UNPROCESSABLE_CONTENT);
    }

    /// An image that no detail of can be left out.
    fn sample() -> image::RgbImage {
        image::RgbImage::from_fn(48, 32, |x, y| image::Rgb([(x * 5) as u8, (y * 7) as u8, (x * y) as u8]))
    }

    fn samples() -> Vec<(image::ImageFormat, Vec<u8>)> {
        use image::ImageFormat::{Gif, Jpeg, Png, WebP};
        let encode = |format| {
            let mut bytes = std::io::Cursor::new(Vec::new());
            image::DynamicImage::from(sample()).write_to(&mut bytes, format).unwrap();
            (format, bytes.into_inner())
        };
        [Jpeg, Png, WebP, Gif].into_iter().map(encode).collect()
    }

    /// A PNG of that width and height, and of one bit for each pixel that is there or not.
    fn png(width: u32, height: u32, rows: usize) -> Vec<u8> {
        use std::io::Write;
        let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        let row = vec![0; width.div_ceil(8) as usize + 1];
        (0..rows).for_each(|_| packed.write_all(&row).unwrap());
        let packed = packed.finish().unwrap();
        let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[1, 0, 0, 0, 0]].concat();
        let chunks = [(*b"IHDR", header), (*b"IDAT", packed), (*b"IEND", Vec::new())].map(|(kind, data)| {
            let mut crc = flate2::Crc::new();
            [&kind[..], &data].iter().for_each(|bytes| crc.update(bytes));
            [&(data.len() as u32).to_be_bytes()[..], &kind, &data, &crc.sum().to_be_bytes()].concat()
        });
        [&b"\x89PNG\r\n\x1a\n"[..], &chunks.concat()].concat()
    }

    fn thumb_of(client: &mut TestClient, name: &str, bytes: &[u8]) -> u16 {
        client.post("/t/thumb").file("file", name, "image/png", bytes).send().status().code()
    }

    #[test]
    fn a_broken_image_is_422_or_an_image_all_the_same() {
        let mut client = client();
        let mut count = 0;
        for (format, whole) in samples() {
            let cuts = (0..140).map(|n| whole[..whole.len() * n / 140].to_vec());
            // The same bits at each run, from everywhere in the file and most of all from its beginning.
            let flips = (0..290_usize).map(|n| {
                let mut bytes = whole.clone();
                let at = if n < 120 { n / 2 } else { n * 7919 } % whole.len();
                bytes[at] ^= 1 << (n * 5 % 8);
                bytes
            });
            for (n, bytes) in cuts.chain(flips).enumerate() {
                let status = thumb_of(&mut client, "a.png", &bytes);
                assert!(status == 422 || (status == 200 && n > 0), "{format:?} {n}: {status}");
                count += 1;
            }
            assert_eq!(thumb_of(&mut client, "wrong-extension.bmp", &whole), 200);
        }
        assert!(count >= 1_700, "{count}");
    }

    #[test]
    fn an_image_that_would_be_too_large_is_422() {
        let mut client = client();
        assert_eq!(thumb_of(&mut client, "small.png", &png(64, 64, 64)), 200);
        for (width, height, rows) in [
            (u32::MAX, u32::MAX, 1),
            (0x7fff_ffff, 1, 1),
            (65_535, 65_535, 1),
            (0, 0, 1),
            (0, 64, 1),
            (20_000, 20_000, 20_000),
        ] {
            let rows = if width > 20_000 { 0 } else { rows };
            assert_eq!(thumb_of(&mut client, "a.png", &png(width, height, rows)), 422, "{width}x{height}");
        }
        let patches: [(usize, usize, &[u8]); 3] = [(0, 163, &[0xff; 4]), (2, 21, &[0xff; 4]), (3, 6, &[0xff; 4])];
        for (sample, at, bytes) in patches {
            let (format, mut whole) = samples().swap_remove(sample);
            // A JPEG's size stands behind the mark of its frame.
            let at = if sample == 0 { whole.windows(2).position(|mark| mark == [0xff, 0xc0]).unwrap() + 5 } else { at };
            whole[at..at + bytes.len()].copy_from_slice(bytes);
            let status = thumb_of(&mut client, "a", &whole);
            assert!(status == 422 || (status == 200 && sample == 3), "{format:?}: {status}");
        }
    }

    #[test]
    fn any_host_is_answered_and_headers_come_back_as_they_were_sent() {
        use std::io::Write;
        let server = app(Config { address: "127.0.0.1:0".into(), ..Config::default() }, None).start().unwrap();
        let mut stream = std::net::TcpStream::connect(server.addr()).unwrap();
        let fields = "Host: evil.example\r\nX-b: 2\r\nx-A: 1\r\nX-b: 3\r\nOrigin: null\r\nConnection: close\r\n";
        stream.write_all(format!("GET /echo HTTP/1.1\r\n{fields}\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&fields.replace('\r', "")), "{answer}");
    }

    #[test]
    fn only_local_redirects_are_followed() {
        let mut client = client();
        for (next, to) in
            [("/a%3Fb=1", "/a?b=1"), ("//evil.example", "/"), ("https://evil.example", "/"), ("%FF", "/"), ("", "/")]
        {
            assert_eq!(client.get(&format!("/t/redirect?next={next}")).location(), Some(to), "{next}");
        }
        assert_eq!(client.get("/t/redirect").location(), Some("/"));
    }

    #[test]
    fn a_header_is_set_or_refused() {
        let mut client = client();
        let answer = client.get("/t/header?v=one%20two");
        assert_eq!((answer.status(), answer.header("X-V")), (Status::OK, Some("one two")));
        assert_eq!(client.cookies()["c"], "one%20two");
        for bad in ["a%0D%0ASet-Cookie:%20x=y", "a%0Ab", "a%00b", "%7F"] {
            let answer = client.get(&format!("/t/header?v={bad}"));
            assert_eq!((answer.status(), answer.header("X-V")), (Status::BAD_REQUEST, None), "{bad}");
            assert!(!answer.headers().contains("Set-Cookie"));
        }
    }

    #[test]
    fn files_are_served_when_a_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.css"), "a {}").unwrap();
        let mut client = TestClient::new(app(Config::default(), folder.path().to_str()));
        assert_eq!(client.get("/static/a.css").text(), "a {}");
        assert_eq!(client.get("/static/b.css").status(), Status::NOT_FOUND);
        assert_eq!(client.get("/static/../Cargo.toml").status(), Status::NOT_FOUND);
    }

    #[test]
    fn a_megabyte_is_a_megabyte() {
        let answer = client().get("/big");
        assert_eq!(
            (answer.bytes().len(), answer.header("Content-Type")),
            (1_000_000, Some("text/plain; charset=utf-8"))
        );
    }
}
