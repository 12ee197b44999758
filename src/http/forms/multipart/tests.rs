use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::parser::{CHUNK, HEAD};
use super::*;
use crate::http::headers::Headers;
use crate::http::request::{Body, Method};

const LIMITS: Limits = Limits { upload: 1 << 20, text: 1 << 10, parts: 4, fields: 3 };

/// Returns a part with these header lines and this content.
fn part(headers: &str, content: &[u8]) -> Vec<u8> {
    [b"--BOUND\r\n", headers.as_bytes(), b"\r\n\r\n", content, b"\r\n"].concat()
}

fn field(parameters: &str, content: &[u8]) -> Vec<u8> {
    part(&format!("Content-Disposition: form-data; {parameters}"), content)
}

fn body(parts: &[Vec<u8>]) -> Vec<u8> {
    [&parts.concat()[..], b"--BOUND--\r\n"].concat()
}

fn request(content_type: &str, body: Body) -> Request {
    Request::new(Method::Post, "/", Headers::from_iter([("Content-Type", content_type)]), body)
}

fn read(body: Vec<u8>) -> Result<Multipart> {
    request("multipart/form-data; boundary=BOUND", Body::from(body)).multipart()
}

fn limited(mut body: &[u8]) -> Result<Vec<Part>> {
    read_whole(&mut body, LIMITS)
}

fn read_whole(body: &mut (dyn Read + Send), limits: Limits) -> Result<Vec<Part>> {
    read_parts(body, "BOUND", limits, &mut |_| true)
}

pub(super) fn one(parameters: &str, content: &[u8]) -> Multipart {
    read(body(&[field(parameters, content)])).unwrap()
}

fn refused<T>(result: Result<T>) -> (u16, String) {
    let error = result.err().expect("this must be refused");
    (error.status_code().code(), error.chain())
}

fn bytes(part: &Part) -> Vec<u8> {
    let mut bytes = Vec::new();
    part.open().unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// The bytes that the server read along with the request head come first, in any number; then the buffer is filled.
#[test]
fn the_first_read_may_return_any_number_of_bytes() {
    let content = vec![b'x'; 3 * HEAD];
    let whole = body(&[field("name=title", b"Harbour"), field("name=photo; filename=a.bin", &content)]);
    for first in 1..100 {
        let (start, rest) = whole.split_at(first);
        let parts = read_whole(&mut start.chain(rest), Limits::of(&Config::default())).unwrap();
        assert_eq!(bytes(&parts[1]).len(), content.len(), "{first} bytes first");
    }
}

fn example() -> Vec<u8> {
    body(&[
        field("name=\"title\"", b"a\r\n--BOUN\r\nsee --BOUND here\r"),
        field("name=\"photo\"; filename=\"p.png\"\r\nContent-Type: image/png", b"\x89PNG\r\n\x1a\n\r\n--"),
        field("name=\"tag\"", b""),
        field("name=\"none\"; filename=\"\"\r\nContent-Type: application/octet-stream", b""),
    ])
}

fn check_example(parts: &[Part]) {
    let names: Vec<_> = parts.iter().map(|part| (part.name(), part.filename(), part.size())).collect();
    assert_eq!(names, [("title", None, 28), ("photo", Some("p.png"), 12), ("tag", None, 0), ("none", Some(""), 0)]);
    assert_eq!(bytes(&parts[0]), b"a\r\n--BOUN\r\nsee --BOUND here\r");
    assert_eq!(bytes(&parts[1]), b"\x89PNG\r\n\x1a\n\r\n--");
    assert_eq!(parts[1].content_type(), Some("image/png"));
    assert!(parts[3].upload().is_none() && parts[3].text().is_none() && bytes(&parts[3]).is_empty());
}

#[test]
fn parts_are_read_in_order() {
    let form = read(example()).unwrap();
    check_example(form.parts());
    assert_eq!(form.text("tag").unwrap(), "");
    assert_eq!(form.file("photo").unwrap().size(), 12);
}

struct Dripping<R>(R);

impl<R: Read> Read for Dripping<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(1);
        self.0.read(&mut buffer[..most])
    }
}

#[test]
fn a_body_may_arrive_byte_by_byte() {
    let body = example();
    let mut drip = Dripping(&body[..]);
    check_example(&read_whole(&mut drip, LIMITS).unwrap());
}

#[test]
fn a_body_that_is_cut_short_is_refused() {
    let body = example();
    let whole = body.len() - b"\r\n".len();
    for cut in 0..body.len() {
        match limited(&body[..cut]) {
            Ok(parts) => {
                assert!(cut >= whole, "cut at {cut}");
                check_example(&parts);
            }
            Err(error) => {
                assert!(cut < whole, "cut at {cut}: {error:?}");
                assert!(error.to_string().contains("cut short"), "cut at {cut}: {error:?}");
                assert_eq!(error.status_code(), Status::BAD_REQUEST);
            }
        }
        let declared = Body::new(io::Cursor::new(body[..cut].to_vec()), Some(body.len() as u64));
        let result = request("multipart/form-data; boundary=BOUND", declared).multipart();
        assert_eq!(result.is_ok(), result.is_ok_and(|form| form.parts().len() == 4));
    }
}

#[test]
fn a_body_without_parts_is_a_form_and_an_empty_body_is_not() {
    assert!(read(b"--BOUND--\r\n".to_vec()).unwrap().parts().is_empty());
    assert!(read(b"--BOUND--".to_vec()).unwrap().parts().is_empty());
    assert_eq!(refused(read(Vec::new())).0, 400);
}

#[test]
fn the_preamble_and_the_epilogue_are_skipped() {
    for before in ["This is multipart.\r\n", "\r\n", "see --BOUND--\r\n--BOUNDARY\r\n-\r\n"] {
        for after in ["and more\r\n--BOUND\r\n", "\r", " ", ""] {
            let example = &example()[..example().len() - 2];
            let body = [before.as_bytes(), example, after.as_bytes()].concat();
            check_example(read(body).unwrap().parts());
        }
    }
}

/// Regression: a body whose delimiters did not match its header was read as a form without fields.
#[test]
fn a_body_without_a_first_delimiter_is_refused() {
    let lines = String::from_utf8(body(&[field("name=t", b"x")])).unwrap();
    for body in [
        "--OTHER\r\nContent-Disposition: form-data; name=t\r\n\r\nx\r\n--OTHER--\r\n",
        "x--BOUND--\r\n",
        "name=t&x=--BOUND--",
        "-BOUND--\r\n",
        "--BOUNDARY--\r\n",
        "--BOUND\n--BOUND--\n",
        "\n--BOUND--\r\n",
        &lines.replace("\r\n", "\n"),
        &lines.replace("\r\n", "\r"),
        &format!("x{lines}"),
    ] {
        assert_eq!(refused(read(body.as_bytes().to_vec())).0, 400, "{body:?}");
    }
}

#[test]
fn text_that_begins_like_a_delimiter_is_content() {
    for content in
        ["a\r\n--BOUNDARY\r\n", "\r\n--BOUNDx", "\r\n--BOUND-x", "\r\n\r\n--BOUN", "\r\r\n--BOUNDx", "--BOUND--"]
    {
        let form = read(body(&[field("name=t", content.as_bytes()), field("name=u", b"after")])).unwrap();
        assert_eq!((form.text("t").unwrap(), form.text("u").unwrap()), (content, "after"), "{content:?}");
    }
}

#[test]
fn headers_may_be_folded_and_their_names_in_any_case() {
    let folded = "content-DISPOSITION: form-data;\r\n\tname=\"t\";\r\n   filename=\"a b.txt\"\r\nX-Other:\r\n y\r\nContent-Type:text/plain;\r\n charset=utf-8";
    let form = read(body(&[part(folded, b"x")])).unwrap();
    let part = &form.parts()[0];
    assert_eq!((part.name(), part.filename(), part.size()), ("t", Some("a b.txt"), 1));
    assert_eq!(part.content_type(), Some("text/plain; charset=utf-8"));
    // The first line cannot be a continuation.
    assert_eq!(refused(read(body(&[self::part(" folded\r\nContent-Disposition: form-data; name=t", b"")]))).0, 400);
}

#[test]
fn a_boundary_may_have_special_characters_and_trailing_spaces() {
    for boundary in ["'()+_,-./:=?", "--", "a b", "-----------------------------9051914041544843365972754266", "x"] {
        let lines = String::from_utf8(body(&[field("name=t", b"x\r\n--"), field("name=f; filename=f", b"")])).unwrap();
        let lines = lines.replace("BOUND\r\n", &format!("{boundary} \t\r\n")).replace("BOUND", boundary);
        let content_type = format!("multipart/form-data; boundary=\"{boundary}\"");
        let form = request(&content_type, Body::from(lines.into_bytes())).multipart().unwrap();
        assert_eq!(form.text("t").unwrap(), "x\r\n--", "{boundary}");
        assert_eq!(form.file("f").unwrap().size(), 0, "{boundary}");
    }
    assert_eq!(refused(read(b"--BOUND x\r\n--BOUND--\r\n".to_vec())).0, 400);
}

#[test]
fn a_name_may_be_repeated() {
    let form = read(body(&[
        field("name=tag", b"x"),
        field("name=f; filename=1", b"one"),
        field("name=tag", b""),
        field("name=f; filename=2", b"two"),
    ]))
    .unwrap();
    assert_eq!((form.text("tag").unwrap(), form.texts("tag")), ("x", vec!["x", ""]));
    let names: Vec<_> = form.files("f").iter().map(|file| file.filename()).collect();
    assert_eq!((form.file("f").unwrap().filename(), names), ("1", vec!["1", "2"]));
    assert!(form.texts("none").is_empty() && form.files("none").is_empty());
}

#[test]
fn a_missing_field_is_named() {
    let form = read(example()).unwrap();
    assert_eq!(refused(form.text("name")), (422, "name: Please fill this in: the field `name` is missing".into()));
    for name in ["none", "nothing", "title"] {
        let message = format!("{name}: Please choose a file: the field `{name}` has no file");
        assert_eq!(refused(form.file(name)), (422, message));
    }
}

#[test]
fn an_empty_file_is_a_file_when_it_has_a_name() {
    let form = one("name=f; filename=\"empty.txt\"", b"");
    let file = form.file("f").unwrap();
    assert_eq!((file.size(), file.content_type(), file.filename()), (0, "application/octet-stream", "empty.txt"));
    assert_eq!(one("name=f; filename=\"\"", b"x").file("f").unwrap().filename(), "file");
}

#[test]
fn invalid_utf_8_is_decoded_and_its_bytes_are_kept() {
    let form = one("name=t", b"\xff\xed\xa0\x80\xef\xbb\xbfa");
    assert_eq!(bytes(&form.parts()[0]), b"\xff\xed\xa0\x80\xef\xbb\xbfa");
    let decoded = "\u{fffd}\u{fffd}\u{fffd}\u{fffd}\u{feff}a";
    assert_eq!((form.text("t").unwrap(), form.texts("t")), (decoded, vec![decoded]));
    assert_eq!(form.pairs().unwrap(), [("t".to_owned(), decoded.to_owned())]);
}

#[test]
fn another_content_type_or_a_missing_boundary_is_refused() {
    let empty = |content_type: &str| refused(request(content_type, Body::empty()).multipart()).0;
    assert_eq!(empty("text/plain"), 415);
    assert_eq!(empty("multipart/mixed; boundary=x"), 415);
    assert_eq!(refused(Request::new(Method::Post, "/", Headers::new(), Body::empty()).multipart()).0, 415);
    let long = format!("multipart/form-data; boundary={}", "x".repeat(71));
    for none in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=\"\"",
        &long,
        "multipart/form-data; boundary=a; boundary=a",
        "multipart/form-data; boundary=\"a \"",
        "multipart/form-data; boundary=\u{e9}",
    ] {
        assert!(refused(request(none, Body::empty()).multipart()).1.contains("boundary"), "{none}");
    }
    for one in ["Multipart/Form-Data;charset=utf-8;BOUNDARY=\"BOUND\"", "multipart/form-data; boundary=BOUND ; x=y"] {
        assert!(request(one, Body::from(example())).multipart().is_ok(), "{one}");
    }
}

#[test]
fn a_part_must_have_a_name_and_valid_headers() {
    let refusal = |part: Vec<u8>| refused(read(body(&[part])));
    assert_eq!(refusal(field("filename=x", b"")), (400, "A part of the multipart body has no name.".into()));
    assert_eq!(refusal(part("Content-Type: text/plain", b"")).0, 400);
    assert!(refusal(part("Content-Disposition: attachment; name=x", b"")).1.contains("form-data"));
    assert!(refusal(field("name=x; NAME=y", b"")).1.contains("twice"));
    assert!(refusal(field("name=x; filename=x; filename=y", b"")).1.contains("twice"));
    assert_eq!(refusal(part("", b"x")).0, 400);
    assert!(refusal(part("Content Disposition: form-data; name=x", b"")).1.contains("malformed headers"));
    assert!(refusal(field("name=x; filename=\"a\0b\"", b"")).1.contains("malformed headers"));
    let many = "\r\nX-A: b".repeat(40);
    assert!(refusal(field(&format!("name=x{many}"), b"")).1.contains("malformed headers"));
}

#[test]
fn each_error_over_a_limit_names_its_setting() {
    let refusal = |result: Result<Vec<Part>>, setting: &str| {
        let (status, message) = refused(result);
        assert!(status == 413 && message.contains(setting), "{status} {message}");
    };
    let text = |length: usize| field("name=t", &vec![b'x'; length]);
    assert!(limited(&body(&[text(1_000), text(24)])).is_ok());
    refusal(limited(&body(&[text(1_000), text(25)])), "ASIDE_MAX_FORM");
    assert!(limited(&body(&vec![text(1); 4])).is_ok());
    refusal(limited(&body(&vec![text(1); 5])), "ASIDE_MAX_PARTS");
    refusal(limited(&body(&[field("name=f; filename=f", &vec![0; 1 << 20])])), "ASIDE_MAX_UPLOAD");
    let form = Multipart { parts: limited(&body(&vec![text(1); 4])).unwrap(), max_fields: 3 };
    assert!(refused(form.pairs()).1.contains("ASIDE_MAX_FIELDS"));
}

#[test]
fn a_length_over_the_limit_is_refused_before_the_body_is_read() {
    struct Untouched;
    impl Read for Untouched {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("read")
        }
    }
    let mut request = request("multipart/form-data; boundary=B", Body::new(Untouched, Some((32 << 20) + 1)));
    assert!(refused(request.multipart()).1.contains("ASIDE_MAX_UPLOAD"));
}

#[test]
fn the_input_before_a_part_is_bounded() {
    for start in ["", "--BOUND\r\nX-Long: ", "--BOUND", "--BOUND   ", "--BOUND\r\n"] {
        let mut endless = Counted::new(io::Cursor::new(start).chain(io::repeat(b'x')));
        let read = endless.count.clone();
        let limits = Limits { upload: u64::MAX, ..LIMITS };
        assert_eq!(refused(read_whole(&mut endless, limits)).0, 400, "{start}");
        assert!(read.load(Ordering::Relaxed) <= HEAD + CHUNK, "{start}");
    }
    let fits = field(&format!("name=t\r\nX-Long: {}", "x".repeat(HEAD / 2)), b"ok");
    assert_eq!(read(body(&[fits.clone(), fits.clone(), fits])).unwrap().texts("t").len(), 3);
}

/// Counts the bytes that are read from it.
struct Counted<R> {
    inner: R,
    count: Arc<AtomicUsize>,
}

impl<R> Counted<R> {
    fn new(inner: R) -> Counted<R> {
        Counted { inner, count: Arc::default() }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count.fetch_add(count, Ordering::Relaxed);
        Ok(count)
    }
}

#[test]
fn a_large_part_is_not_held_in_memory() {
    const LARGE: usize = 200 << 20;
    let head = b"--BOUND\r\nContent-Disposition: form-data; name=f; filename=f\r\n\r\n";
    let content = io::repeat(b'\r').take(LARGE as u64);
    let mut body = Counted::new(head.chain(content).chain(&b"\r\n--BOUND--\r\n"[..]));
    let read = body.count.clone();
    let mut parser = Parser::new(&mut body, "BOUND", Limits { upload: u64::MAX, ..LIMITS });
    parser.next().unwrap().unwrap();
    let (mut taken, mut furthest) = (0, 0);
    let take = |piece: &[u8]| {
        furthest = furthest.max(read.load(Ordering::Relaxed) - taken);
        taken += piece.len();
        Ok(())
    };
    parser.content(take).unwrap();
    assert!(parser.next().unwrap().is_none());
    assert_eq!(taken, LARGE);
    assert!(furthest <= 4 * CHUNK, "{furthest} bytes ahead");
}

#[test]
fn a_connection_that_breaks_within_a_file_is_reported_as_cut_short() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let start = field("name=f; filename=f", &[b'x'; 50_000]);
    let (status, message) = refused(read_whole(&mut start.chain(Broken), LIMITS));
    assert!(status == 400 && message.contains("interrupted"), "{message}");
}

#[test]
fn names_of_browsers_and_other_clients_are_read() {
    let names = |parameters: &str| {
        let form = one(parameters, b"x");
        (form.parts()[0].name().to_owned(), form.parts()[0].filename().map(str::to_owned))
    };
    for (parameters, name, filename) in [
        (r#"name="a%22b%0D%0Ac%20"; filename="x%22.txt""#, "a\"b\r\nc%20", "x\".txt"),
        (r#"name="a\"b"; filename="x\"; y.txt""#, "a\"b", "x\"; y.txt"),
        (r#"name="n"; filename="C:\dir\x.txt""#, "n", "C:\\dir\\x.txt"),
        (r#"name="n"; filename="back\""#, "n", "back\\"),
        (r#"filename="a; name=evil; x="; NAME="n""#, "n", "a; name=evil; x="),
        (r#"name="кот"; filename="фото.jpg""#, "кот", "фото.jpg"),
        ("name = n ;filename=f.txt; x", "n", "f.txt"),
        ("name=n; filename*=UTF-8''%D1%84.txt; filename=a.txt", "n", "a.txt"),
        ("name=n; filename*=utf-8''%D1%84%2522.txt", "n", "ф%22.txt"),
        ("name=n; FileName* = \"UTF-8'de'na%c3%afve.txt\"", "n", "naïve.txt"),
        ("name=n; filename*=ISO-8859-1''caf%E9.txt", "n", "café.txt"),
        ("name=n; filename*=utf-8''%ff", "n", "\u{fffd}"),
        ("name=n; filename*=plain.txt", "n", "plain.txt"),
        ("name=n; filename*=utf-8''", "n", ""),
        (r#"name="n"; filename="../../etc/passwd""#, "n", "../../etc/passwd"),
    ] {
        assert_eq!(names(parameters), (name.to_owned(), Some(filename.to_owned())), "{parameters}");
    }
    assert_eq!(names(r#"name="x; filename=y""#), ("x; filename=y".to_owned(), None));
}
