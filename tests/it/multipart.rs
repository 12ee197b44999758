//! Multipart bodies as browsers send them (HTML and fetch standards, RFC 7578, RFC 2046) and as attackers do: each whole,
//! byte by byte, and in chunks.

use std::io::{Read, Write};

use aside::server::Server;
use aside::{App, Config, Request, Result};

use crate::wire::{Raw, config, start};

/// A body and the expected result: its parts as `name|filename|content`, or a status.
pub struct Stream {
    pub name: String,
    pub content_type: String,
    pub body: Vec<u8>,
    pub must: std::result::Result<Vec<String>, u16>,
}

const PLAIN: &str = "multipart/form-data; boundary=B";

fn stream(
    name: impl Into<String>,
    content_type: impl Into<String>,
    body: impl Into<Vec<u8>>,
    parts: &[&str],
) -> Stream {
    let must = Ok(parts.iter().map(|part| part.to_string()).collect());
    Stream { name: name.into(), content_type: content_type.into(), body: body.into(), must }
}

fn refused(name: impl Into<String>, content_type: impl Into<String>, body: impl Into<Vec<u8>>, status: u16) -> Stream {
    Stream { must: Err(status), ..stream(name, content_type, body, &[]) }
}

/// Returns one part with these headers, within a complete body.
fn part(headers: &str, content: &str) -> String {
    format!("--B\r\n{headers}\r\n\r\n{content}\r\n--B--\r\n")
}

fn field(parameters: &str, content: &str) -> String {
    part(&format!("Content-Disposition: form-data; {parameters}"), content)
}

/// Returns a body with one valid field, with this boundary in its delimiters.
fn between(boundary: &str) -> String {
    format!("--{boundary}\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--{boundary}--\r\n")
}

fn boundaries() -> Vec<Stream> {
    let typed = |parameters: &str| format!("multipart/form-data{parameters}");
    let long = "b".repeat(70);
    let webkit = "----WebKitFormBoundary7MA4YWxkTrZu0gW";
    let good = [
        (";boundary=B", "B"),
        ("; boundary=\"B\"", "B"),
        ("; boundary=B ", "B"),
        ("; boundary=B; charset=utf-8", "B"),
        ("; charset=utf-8; boundary=B", "B"),
        ("; BOUNDARY=B", "B"),
        ("; boundary=\"a b\"", "a b"),
        ("; boundary=\"a;b\"", "a;b"),
        ("; boundary=a=b", "a=b"),
        ("; boundary=*****", "*****"),
        ("; boundary=\"'()+_,-./:=?\"", "'()+_,-./:=?"),
        ("; boundary=-", "-"),
        ("; boundary=--", "--"),
        ("; boundary=\"a\\\"b\"", "a\"b"),
        (" ; boundary=B", "B"),
        ("; x; boundary=B", "B"),
    ];
    let none = [
        "",
        ";",
        "; boundary",
        "; boundary=",
        "; boundary=\"\"",
        "; boundary=\" \"",
        "; boundary=\"B \"",
        "; boundary=B; boundary=B",
        "; boundary=B; boundary=C",
        "; boundary=B; Boundary=C",
        "; boundary*=B",
        "; x=\"; boundary=B\"",
        "; boundary:B",
        "; bound=B",
    ];
    let mut streams: Vec<Stream> =
        good.map(|(type_, line)| stream(format!("boundary {type_}"), typed(type_), between(line), &["a||1"])).into();
    streams.extend(none.map(|type_| refused(format!("boundary {type_}"), typed(type_), between("B"), 400)));
    streams.extend([
        stream("a boundary of 70", typed(&format!("; boundary={long}")), between(&long), &["a||1"]),
        refused("a boundary of 71", typed(&format!("; boundary={long}b")), between(&format!("{long}b")), 400),
        stream("Chrome's boundary", typed(&format!("; boundary={webkit}")), between(webkit), &["a||1"]),
        stream(
            "Firefox's boundary",
            typed("; boundary=---------------------------9051914041544843365972754266"),
            between("---------------------------9051914041544843365972754266"),
            &["a||1"],
        ),
        refused("another case of the boundary", typed("; boundary=b"), between("B"), 400),
        refused("another boundary", typed("; boundary=C"), between("B"), 400),
        refused("another type", "multipart/mixed; boundary=B", between("B"), 415),
        refused("another type's start", "multipart/form-data-x; boundary=B", between("B"), 415),
        refused("a form's type", "application/x-www-form-urlencoded", between("B"), 415),
        refused("an empty type", "", between("B"), 415),
        stream("a type in capitals", "MULTIPART/FORM-DATA; boundary=B", between("B"), &["a||1"]),
    ]);
    streams
}

fn delimiters() -> Vec<Stream> {
    let content = |content: &str, seen: &str| {
        stream(format!("content {content:?}"), PLAIN, field("name=\"a\"", content), &[&format!("a||{seen}")])
    };
    let whole = between("B");
    let two = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B\r\nContent-Disposition: form-data; name=\"b\"\r\n\r\n2\r\n--B--\r\n";
    let mut streams: Vec<Stream> = [
        "",
        "\r\n",
        "\r",
        "\n",
        "--",
        "--B",
        "-B",
        "x--B",
        "\r\n-",
        "\r\n--",
        "\r\n--C",
        "\r\n--b",
        "\n--B",
        "\r--B",
        "\n--B--",
        "\r\n\r\n",
        "--B--",
        "\r\n--\r\nB",
        "\r\n -B",
        "a\r\n\r\nb",
        "\0",
        "\u{1}\u{2}",
        "%0D%0A--B",
        "\r\r\n",
    ]
    .map(|text| content(text, text))
    .into();
    streams.extend([
        stream("two fields", PLAIN, two, &["a||1", "b||2"]),
        stream("no fields", PLAIN, "--B--\r\n", &[]),
        stream("no fields and no line end", PLAIN, "--B--", &[]),
        refused("no body", PLAIN, "", 400),
        refused("a line end", PLAIN, "\r\n", 400),
        refused("other text", PLAIN, "a=1&b=2", 400),
        stream("a preamble", PLAIN, format!("To be ignored.\r\n{whole}"), &["a||1"]),
        stream("an empty line first", PLAIN, format!("\r\n{whole}"), &["a||1"]),
        stream("an epilogue", PLAIN, format!("{whole}To be ignored.\r\n--B\r\n"), &["a||1"]),
        stream("white space behind a boundary", PLAIN, whole.replacen("--B\r\n", "--B \t\r\n", 1), &["a||1"]),
        refused("letters behind a boundary", PLAIN, whole.replacen("--B\r\n", "--Bx\r\n", 1), 400),
        stream(
            "a longer boundary in the content",
            PLAIN,
            field("name=\"a\"", "x\r\n--Bx\r\ny"),
            &["a||x\r\n--Bx\r\ny"],
        ),
        stream("an end with half a line end", PLAIN, whole.replace("--B--\r\n", "--B--\r"), &["a||1"]),
        refused("an end within a line", PLAIN, "a=1&b=--B--\r\n", 400),
        refused("an end behind other text", PLAIN, "a=1\r\n--B--\r\n", 400),
        refused("a first boundary within a line", PLAIN, format!("a=1{whole}"), 400),
        refused("line feeds only", PLAIN, whole.replace("\r\n", "\n"), 400),
        refused("carriage returns only", PLAIN, whole.replace("\r\n", "\r"), 400),
        refused("no end", PLAIN, whole.replace("--B--\r\n", ""), 400),
        refused("half an end", PLAIN, whole.replace("--B--\r\n", "--B-"), 400),
        refused("a boundary for an end", PLAIN, whole.replace("--B--", "--B"), 400),
        refused("no empty line", PLAIN, "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n--B--\r\n", 400),
        refused(
            "an end in the headers",
            PLAIN,
            "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n--B--\r\n\r\n",
            400,
        ),
        refused("one dash", PLAIN, whole.replace("--B", "-B"), 400),
    ]);
    streams
}

fn names() -> Vec<Stream> {
    let seen =
        |parameters: &str, part: &str| stream(format!("names {parameters}"), PLAIN, field(parameters, "x"), &[part]);
    let none = |parameters: &str| refused(format!("names {parameters}"), PLAIN, field(parameters, "x"), 400);
    vec![
        seen("name=\"a\"", "a||x"),
        seen("name=a", "a||x"),
        seen("name=\"\"", "||x"),
        seen("name=\"кот\"", "кот||x"),
        seen("name=\"🐱\"", "🐱||x"),
        seen("name=\"a%22b\"", "a\"b||x"),
        seen("name=\"a%0D%0Ab\"", "a\r\nb||x"),
        seen("name=\"a%0Ab\"", "a\nb||x"),
        seen("name=\"100%\"", "100%||x"),
        seen("name=\"a%20b%2522\"", "a%20b%2522||x"),
        seen("name=\"a\\\"b\"", "a\"b||x"),
        seen("name=\"a;b\"", "a;b||x"),
        seen("name=\"a=b\"", "a=b||x"),
        seen("name=\"a[]\"", "a[]||x"),
        seen("name=\"a[b][c]\"", "a[b][c]||x"),
        seen("name=\" a \"", " a ||x"),
        seen("name=\"name=b\"", "name=b||x"),
        seen("NAME=\"a\"", "a||x"),
        seen("name=\"_charset_\"", "_charset_||x"),
        seen("x=\"name=b\"; name=\"a\"", "a||x"),
        seen("name=\"=?UTF-8?B?YQ==?=\"", "=?UTF-8?B?YQ==?=||x"),
        seen("name=\"a\"; filename=\"f.txt\"", "a|f.txt|x"),
        seen("filename=\"f.txt\"; name=\"a\"", "a|f.txt|x"),
        seen("name=\"a\"; filename=\"фото.jpg\"", "a|фото.jpg|x"),
        seen("name=\"a\"; filename=\"a%22b.txt\"", "a|a_b.txt|x"),
        seen("name=\"a\"; filename=\"f%0D%0AX: y.txt\"", "a|fX_ y.txt|x"),
        seen("name=\"a\"; filename=\"../../etc/passwd\"", "a|passwd|x"),
        seen("name=\"a\"; filename=\"..\\..\\boot.ini\"", "a|boot.ini|x"),
        seen("name=\"a\"; filename=\"/etc/passwd\"", "a|passwd|x"),
        seen("name=\"a\"; filename=\"C:\\dir\\x.txt\"", "a|x.txt|x"),
        seen("name=\"a\"; filename=\"\\\\host\\share\\x.txt\"", "a|x.txt|x"),
        seen("name=\"a\"; filename=\"..\"", "a|file|x"),
        seen("name=\"a\"; filename=\"....//\"", "a|file|x"),
        seen("name=\"a\"; filename=\".htaccess\"", "a|htaccess|x"),
        seen("name=\"a\"; filename=\"con.txt\"", "a|_con.txt|x"),
        seen("name=\"a\"; filename=\"a.txt::$DATA\"", "a|a.txt__$DATA|x"),
        seen("name=\"a\"; filename=\"evil\u{202e}gpj.exe\"", "a|evilgpj.exe|x"),
        seen("name=\"a\"; filename=\"a; name=b.txt\"", "a|a; name=b.txt|x"),
        seen("name=\"a\"; filename=f.txt", "a|f.txt|x"),
        seen("name=\"a\"; filename*=UTF-8''f.txt", "a|f.txt|x"),
        seen("name=\"a\"; filename=\"f.txt\"; filename*=UTF-8''evil.php", "a|f.txt|x"),
        seen("name=\"a\"; filename=\"%2e%2e%2fx\"", "a|%2e%2e%2fx|x"),
        none("name"),
        none("filename=\"f.txt\""),
        none("name=\"a\"; name=\"b\""),
        none("name=\"a\"; Name=\"b\""),
        none("name=\"a\"; filename=\"f\"; filename=\"g\""),
        none("name*=UTF-8''a"),
        none("name=\"a\0b\""),
        none("name=\"a\"; filename=\"a\0.png\""),
        none("x=y"),
        stream(
            "an input without a file",
            PLAIN,
            part(
                "Content-Disposition: form-data; name=\"a\"; filename=\"\"\r\nContent-Type: application/octet-stream",
                "",
            ),
            &["a|-|"],
        ),
        refused(
            "a name in Latin 1",
            PLAIN,
            b"--B\r\nContent-Disposition: form-data; name=\"\xe9\"\r\n\r\nx\r\n--B--\r\n".to_vec(),
            400,
        ),
        refused(
            "a name that is no text",
            PLAIN,
            b"--B\r\nContent-Disposition: form-data; name=\"\xff\xfe\"\r\n\r\nx\r\n--B--\r\n".to_vec(),
            400,
        ),
    ]
}

fn headers() -> Vec<Stream> {
    const NAMED: &str = "Content-Disposition: form-data; name=\"a\"";
    let seen = |headers: String, part_seen: &str| {
        stream(format!("headers {headers:.60}"), PLAIN, part(&headers, "x"), &[part_seen])
    };
    let none = |headers: String| refused(format!("headers {headers:.60}"), PLAIN, part(&headers, "x"), 400);
    vec![
        seen(format!("{NAMED}\r\nContent-Type: text/plain"), "a||x"),
        seen(format!("Content-Type: text/plain; charset=utf-16\r\n{NAMED}"), "a||x"),
        seen(format!("{NAMED}\r\nContent-Transfer-Encoding: base64"), "a||x"),
        seen(format!("{NAMED}\r\nContent-Transfer-Encoding: 8bit"), "a||x"),
        seen(format!("{NAMED}\r\nContent-Length: 99"), "a||x"),
        seen(format!("{NAMED}\r\nTransfer-Encoding: chunked"), "a||x"),
        seen(format!("{NAMED}\r\nContent-Type: multipart/mixed; boundary=C"), "a||x"),
        seen(format!("{NAMED}\r\nX-Long: {}", "x".repeat(7_000)), "a||x"),
        seen(format!("{NAMED}{}", "\r\nX: y".repeat(20)), "a||x"),
        seen("content-disposition:form-data;name=a".into(), "a||x"),
        seen("Content-Disposition: FORM-DATA; name=a".into(), "a||x"),
        seen("Content-Disposition: form-data ; name = a ; ".into(), "a||x"),
        none(String::new()),
        none("Content-Type: text/plain".into()),
        none("Content-Disposition:".into()),
        none("Content-Disposition: form-data".into()),
        none("Content-Disposition: attachment; name=\"a\"".into()),
        none("Content-Disposition: name=\"a\"".into()),
        none("Content-Disposition: form-data, name=\"a\"".into()),
        none(format!("{NAMED}\r\nno colon")),
        seen(format!("{NAMED}\r\n : a line that goes on"), "a||x"),
        none(format!("{NAMED}\r\n: empty")),
        none(format!(" folded\r\n{NAMED}")),
        none(format!("{NAMED}\r\nX Y: z")),
        none(format!("{NAMED}\r\nX: a\0b")),
        seen("Content-Disposition: form-data;\r\n name=\"a\"".into(), "a||x"),
        seen("Content-Disposition:\r\n\tform-data;\r\n\tname=\"a\"".into(), "a||x"),
        none(format!("{NAMED}{}", "\r\nX: y".repeat(40))),
        none(format!("{NAMED}\r\nX-Long: {}", "x".repeat(40_000))),
    ]
}

fn limits() -> Vec<Stream> {
    let many = |count: usize| {
        let parts: String =
            (0..count).map(|n| format!("--B\r\nContent-Disposition: form-data; name=\"{n}\"\r\n\r\n\r\n")).collect();
        format!("{parts}--B--\r\n")
    };
    vec![
        Stream {
            must: Ok((0..20).map(|n| format!("{n}||")).collect()),
            ..stream("as many parts as may be", PLAIN, many(20), &[])
        },
        refused("a part too many", PLAIN, many(21), 413),
        stream(
            "as much text as may be",
            PLAIN,
            field("name=\"a\"", &"x".repeat(1_000)),
            &[&format!("a||{}", "x".repeat(1_000))],
        ),
        refused("a byte of text too many", PLAIN, field("name=\"a\"", &"x".repeat(1_001)), 413),
        refused("a file too large", PLAIN, field("name=\"a\"; filename=\"f\"", &"x".repeat(70_000)), 413),
        refused("a preamble without an end", PLAIN, "x".repeat(50_000), 400),
    ]
}

/// Returns all cases except the truncated ones.
pub fn streams() -> Vec<Stream> {
    [boundaries(), delimiters(), names(), headers(), limits()].into_iter().flatten().collect()
}

/// Returns the parts in the notation of the tables.
pub fn read(req: &mut Request) -> Result<String> {
    let form = req.multipart()?;
    let seen = form.parts().iter().map(|part| {
        let mut content = Vec::new();
        part.open()?.read_to_end(&mut content)?;
        let filename = match (part.filename(), part.upload()) {
            (None, _) => "",
            (Some(_), None) => "-",
            (Some(_), Some(upload)) => upload.filename(),
        };
        Ok(format!("{}|{filename}|{}", part.name(), String::from_utf8_lossy(&content)))
    });
    Ok(seen.collect::<Result<Vec<_>>>()?.join("\u{1e}"))
}

fn server() -> Server {
    let limits = Config { max_parts: 20, max_form: 1_000, max_upload: 60_000, ..config() };
    start(App::with_config(limits).post("/", read))
}

/// The way in which a body is sent.
#[derive(Debug, Clone, Copy)]
enum How {
    Whole,
    Dripped,
    Chunked,
}

fn ask(server: &Server, stream: &Stream, how: How) -> String {
    let mut raw = Raw::to(server);
    let framing = match how {
        How::Chunked => "Transfer-Encoding: chunked".to_owned(),
        _ => format!("Content-Length: {}", stream.body.len()),
    };
    raw.send(format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {}\r\n{framing}\r\n\r\n",
        stream.content_type
    ));
    let out = raw.0.get_mut();
    // If the body was refused early, the connection may be closed before the last byte.
    let _ = match how {
        How::Whole => out.write_all(&stream.body),
        How::Dripped => stream
            .body
            .iter()
            .take(3_000)
            .try_for_each(|byte| out.write_all(&[*byte]))
            .and_then(|()| out.write_all(stream.body.get(3_000..).unwrap_or_default())),
        How::Chunked => {
            let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
            let size = if stream.body.len() > 5_000 { 1_000 } else { 3 };
            out.write_all(
                &[stream.body.chunks(size).map(chunk).collect::<Vec<_>>().concat(), b"0\r\n\r\n".to_vec()].concat(),
            )
        }
    };
    raw.rest()
}

#[test]
fn bodies_are_read_or_refused_in_any_chunking() {
    let server = server();
    let (mut wrong, streams) = (Vec::new(), streams());
    assert!(streams.len() >= 147, "{}", streams.len());
    for stream in &streams {
        for how in [How::Whole, How::Dripped, How::Chunked] {
            let text = ask(&server, stream, how);
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
            let fits = match &stream.must {
                Ok(parts) => head.starts_with("HTTP/1.1 200 ") && body == parts.join("\u{1e}"),
                Err(status) => head.starts_with(&format!("HTTP/1.1 {status} ")),
            };
            if !fits {
                wrong.push(format!(
                    "{} {how:?}: {:?}, not {:.200} {body:.200}",
                    stream.name,
                    stream.must,
                    head.lines().next().unwrap_or("")
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// Returns the temporary files of uploads with this prefix.
fn temporary_files(start: &[u8]) -> usize {
    let files = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
    let is_upload = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("aside-");
    let begins_so = |entry: &std::fs::DirEntry| {
        let mut bytes = vec![0; start.len()];
        let file = std::fs::File::open(entry.path());
        file.and_then(|mut file| file.read_exact(&mut bytes)).is_ok() && bytes == start
    };
    files.filter(|entry| is_upload(entry) && begins_so(entry)).count()
}

/// Regression: a form type without files wrote all sent files to the disk.
#[test]
fn only_a_form_with_a_file_field_stores_files() {
    use serde::Deserialize;
    #[derive(Deserialize)]
    struct Words {
        a: String,
    }
    #[derive(Deserialize)]
    struct Photo {
        photo: aside::Upload,
    }
    let app = App::with_config(config())
        .post("/words", |req: &mut Request| req.form::<Words>().map(|form| form.a))
        .post("/submitted", |req: &mut Request| {
            Ok::<_, aside::Error>(req.submitted::<Words>()?.typed_in("a").to_owned())
        })
        .post("/pairs", |req: &mut Request| req.form_pairs().map(|pairs| pairs[0].1.clone()))
        .post("/photo", |req: &mut Request| req.form::<Photo>().map(|form| form.photo.size().to_string()));
    let server = start(app);
    // More than all buffers hold, so that the handler runs once most of it was sent.
    const SIZE: usize = 30 << 20;
    for (path, kept, answer) in
        [("/words", 0, "words"), ("/submitted", 0, "words"), ("/pairs", 0, "words"), ("/photo", 1, "31457280")]
    {
        let start = format!("a file for {path} of {}", std::process::id());
        let mut content = start.clone().into_bytes();
        content.resize(SIZE, b'x');
        let before = "--B\r\nContent-Disposition: form-data; name=a\r\n\r\nwords\r\n--B\r\n\
                      Content-Disposition: form-data; name=photo; filename=p\r\n\r\n";
        let length = before.len() + SIZE + "\r\n--B--".len();
        let mut raw = Raw::to(&server);
        raw.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: {PLAIN}\r\nContent-Length: {length}\r\n\r\n{before}"
        ));
        let (most, rest) = content.split_at(SIZE - 1_000);
        raw.0.get_mut().write_all(most).unwrap();
        assert_eq!(temporary_files(start.as_bytes()), kept, "{path}");
        raw.0.get_mut().write_all(&[rest, b"\r\n--B--"].concat()).unwrap();
        let text = raw.rest();
        assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with(answer), "{path}: {text}");
        assert_eq!(temporary_files(start.as_bytes()), 0, "{path}");
    }
}
