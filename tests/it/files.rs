//! Static and sent files, as browsers, proxies and attackers request them: folders, precompressed forms, ranges,
//! hashes, downloads, and all known ways to request files outside a folder.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aside::config::Mode;
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Request, Response, Result, Status, context};
use flate2::read::GzDecoder;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::wire::{Raw, start};

fn app() -> App {
    App::with_config(Config { address: "127.0.0.1:0".into(), ..Config::default() })
}

fn in_production() -> App {
    let secrets = vec!["a secret of more than thirty-two bytes".to_owned()];
    App::with_config(Config { mode: Mode::Production, secrets, ..Config::default() })
}

/// Returns a folder with a folder `static` of some files, and a secret file beside it.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("static/css")).unwrap();
    put(dir.path(), "secret.txt", "SECRET");
    put(dir.path(), "static/a.txt", "0123456789");
    put(dir.path(), "static/empty.txt", "");
    put(dir.path(), "static/css/app.css", "p { color: red }");
    dir
}

fn put(dir: &Path, name: &str, content: &str) {
    fs::write(dir.join(name), content).unwrap();
}

/// Sets the age of a file.
fn age(dir: &Path, name: &str, age: Duration) {
    File::options().write(true).open(dir.join(name)).unwrap().set_modified(SystemTime::now() - age).unwrap();
}

const HOUR: Duration = Duration::from_secs(3_600);

fn client(dir: &Path) -> TestClient {
    TestClient::new(app().static_files("/static", dir.join("static")))
}

fn ask(client: &mut TestClient, method: &str, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    let request = client.request(method, path);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

fn get(client: &mut TestClient, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    ask(client, "GET", path, headers)
}

/// Returns the headers except those that differ between requests.
fn lasting(response: &TestResponse) -> Vec<(String, String)> {
    let fields = response.headers().iter().filter(|(name, _)| *name != "X-Request-Id");
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Returns a folder with `app.css` in all codings, each newer than the original.
fn compressed() -> tempfile::TempDir {
    let dir = folder();
    age(dir.path(), "static/css/app.css", HOUR);
    for (ending, content) in [("br", "in brotli"), ("zst", "in zstandard"), ("gz", "in gzip")] {
        put(dir.path(), &format!("static/css/app.css.{ending}"), content);
    }
    dir
}

const CSS: &str = "/static/css/app.css";

#[test]
fn a_compressed_form_is_sent_to_clients_that_accept_it() {
    let dir = compressed();
    let mut client = client(dir.path());
    let mut tags = Vec::new();
    for (accept, coding, content) in [
        ("gzip, deflate, br, zstd", Some("br"), "in brotli"),
        ("gzip, zstd", Some("zstd"), "in zstandard"),
        ("gzip", Some("gzip"), "in gzip"),
        ("identity", None, "p { color: red }"),
    ] {
        let response = get(&mut client, CSS, &[("Accept-Encoding", accept)]);
        assert_eq!((response.status_code().code(), response.text()), (200, content), "{accept}");
        assert_eq!(response.header("Content-Encoding"), coding);
        assert_eq!(response.header("Content-Type"), Some("text/css; charset=utf-8"));
        assert_eq!(response.header("Vary"), Some("Accept-Encoding"));
        let head = ask(&mut client, "HEAD", CSS, &[("Accept-Encoding", accept)]);
        assert_eq!((lasting(&head), head.bytes()), (lasting(&response), &b""[..]));
        tags.push(response.header("ETag").unwrap().to_owned());
    }
    assert_eq!(get(&mut client, CSS, &[]).header("Content-Encoding"), None);
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4);
}

#[test]
fn a_compressed_form_has_its_own_validators_and_ranges() {
    let dir = compressed();
    let mut client = client(dir.path());
    let gzip = ("Accept-Encoding", "gzip");
    let etag = get(&mut client, CSS, &[gzip]).header("ETag").unwrap().to_owned();
    let known = get(&mut client, CSS, &[gzip, ("If-None-Match", &etag)]);
    assert_eq!(known.status_code(), Status::NOT_MODIFIED);
    assert_eq!((known.header("Vary"), known.header("ETag")), (Some("Accept-Encoding"), Some(etag.as_str())));
    assert_eq!(known.header("Content-Encoding"), None);
    assert_eq!(get(&mut client, CSS, &[("If-None-Match", &etag)]).status_code(), Status::OK, "another form");

    let part = get(&mut client, CSS, &[gzip, ("Range", "bytes=3-6"), ("If-Range", &etag)]);
    assert_eq!((part.status_code(), part.text()), (Status::PARTIAL_CONTENT, "gzip"));
    assert_eq!((part.header("Content-Encoding"), part.header("Content-Range")), (Some("gzip"), Some("bytes 3-6/7")));
    let other = get(&mut client, CSS, &[("Range", "bytes=3-6"), ("If-Range", &etag)]);
    assert_eq!((other.status_code(), other.text()), (Status::OK, "p { color: red }"));
    let several = get(&mut client, CSS, &[gzip, ("Range", "bytes=0-0,3-6")]);
    assert_eq!(
        (several.status_code(), several.text()),
        (Status::OK, "in gzip"),
        "several ranges of an encoded file cannot be expressed"
    );

    let itself = get(&mut client, "/static/css/app.css.gz", &[gzip]);
    assert_eq!((itself.text(), itself.header("Content-Encoding"), itself.header("Vary")), ("in gzip", None, None));
    assert_eq!(itself.header("Content-Type"), Some("application/gzip"));
}

#[test]
fn an_outdated_compressed_form_is_not_sent() {
    let dir = compressed();
    let mut client = client(dir.path());
    let any = ("Accept-Encoding", "br, gzip");
    age(dir.path(), "static/css/app.css.br", 2 * HOUR);
    assert_eq!(get(&mut client, CSS, &[any]).text(), "in gzip");
    age(dir.path(), "static/css/app.css.gz", 2 * HOUR);
    age(dir.path(), "static/css/app.css.zst", 2 * HOUR);
    let plain = get(&mut client, CSS, &[any]);
    assert_eq!((plain.text(), plain.header("Content-Encoding")), ("p { color: red }", None));
    // Some compressors copy the original's time without its fraction.
    fs::remove_file(dir.path().join("static/css/app.css.br")).unwrap();
    fs::remove_file(dir.path().join("static/css/app.css.zst")).unwrap();
    let second = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let set = |name: &str, time| {
        let file = File::options().write(true).open(dir.path().join("static/css").join(name)).unwrap();
        file.set_modified(time).unwrap();
    };
    set("app.css", second + Duration::from_millis(700));
    set("app.css.gz", second);
    assert_eq!(get(&mut client, CSS, &[any]).text(), "in gzip");
    set("app.css.gz", second + Duration::from_millis(600));
    assert_eq!(get(&mut client, CSS, &[any]).text(), "p { color: red }");
}

#[cfg(unix)]
#[test]
fn a_compressed_form_outside_the_folder_is_not_sent() {
    use std::os::unix::fs::symlink;
    let dir = folder();
    age(dir.path(), "static/a.txt", HOUR);
    symlink(dir.path().join("secret.txt"), dir.path().join("static/a.txt.gz")).unwrap();
    fs::create_dir(dir.path().join("static/a.txt.br")).unwrap();
    put(dir.path(), "static/only.txt.gz", "no original");
    let mut client = client(dir.path());
    let response = get(&mut client, "/static/a.txt", &[("Accept-Encoding", "br, gzip")]);
    assert_eq!((response.status_code().code(), response.text()), (200, "0123456789"));
    assert_eq!(response.header("Content-Encoding"), None);
    assert_eq!(get(&mut client, "/static/only.txt", &[("Accept-Encoding", "gzip")]).status_code(), Status::NOT_FOUND);
}

/// Returns the text of a response that is compressed with gzip.
fn decompressed(response: &TestResponse) -> String {
    assert_eq!(response.header("Content-Encoding"), Some("gzip"));
    io::read_to_string(GzDecoder::new(response.bytes())).unwrap()
}

#[test]
fn a_file_compressed_by_the_server_follows_its_changes() {
    let dir = folder();
    let (first, second) = ("first ".repeat(1_000), "other ".repeat(1_000));
    put(dir.path(), "static/a.txt", &first);
    age(dir.path(), "static/a.txt", 2 * HOUR);
    let mut client = client(dir.path());
    let gzip = ("Accept-Encoding", "gzip");
    let mut tags = Vec::new();
    for text in [&first, &second] {
        // In place, as an editor may do it: the same inode and length, another time.
        put(dir.path(), "static/a.txt", text);
        age(dir.path(), "static/a.txt", HOUR * if text == &first { 2 } else { 1 });
        for _ in 0..2 {
            assert_eq!(&decompressed(&get(&mut client, "/static/a.txt", &[gzip])), text);
        }
        let etag = get(&mut client, "/static/a.txt", &[gzip]).header("ETag").unwrap().to_owned();
        let known = get(&mut client, "/static/a.txt", &[gzip, ("If-None-Match", &etag)]);
        assert_eq!(known.status_code(), Status::NOT_MODIFIED);
        assert_eq!(get(&mut client, "/static/a.txt", &[]).text(), text, "another form");
        let part = get(&mut client, "/static/a.txt", &[gzip, ("Range", "bytes=0-4")]);
        assert_eq!((part.status_code(), part.text()), (Status::PARTIAL_CONTENT, &text[..5]));
        assert_eq!(part.header("Content-Encoding"), None, "ranges are of the file");
        let whole = get(&mut client, "/static/a.txt", &[gzip, ("Range", "bytes=0-4"), ("If-Range", &etag)]);
        assert_eq!(&decompressed(&whole), text, "a weak tag proves no part");
        tags.push(etag);
    }
    assert!(tags[0] != tags[1] && tags.iter().all(|tag| tag.starts_with("W/\"")), "{tags:?}");
}

#[test]
fn the_memory_for_compressed_files_is_a_setting() {
    for (max_compressed, is_kept) in [(Config::default().max_compressed, true), (0, false)] {
        let dir = folder();
        let site = App::with_config(Config { max_compressed, ..Config::default() });
        let mut client = TestClient::new(site.static_files("/static", dir.path().join("static")));
        let modified = SystemTime::now() - HOUR;
        // Two contents with the tag of one version, which shows whether the file was compressed again.
        let texts = ["first ".repeat(1_000), "other ".repeat(1_000)].map(|text| {
            put(dir.path(), "static/a.txt", &text);
            let file = File::options().write(true).open(dir.path().join("static/a.txt")).unwrap();
            file.set_modified(modified).unwrap();
            decompressed(&get(&mut client, "/static/a.txt", &[("Accept-Encoding", "gzip")]))
        });
        assert_eq!(texts[0] == texts[1], is_kept, "{max_compressed}");
    }
}

#[test]
fn head_has_the_headers_of_a_compressed_file() {
    let dir = folder();
    put(dir.path(), "static/a.txt", &"word ".repeat(1_000));
    age(dir.path(), "static/a.txt", HOUR);
    let server = start(app().static_files("/static", dir.path().join("static")));
    let send = |method: &str| {
        let head = format!(
            "{method} /static/a.txt HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n"
        );
        Raw::to(&server).send(&head).head().head
    };
    let lines = |head: &str| -> Vec<String> {
        let differ =
            |line: &&str| !["x-request-id", "date"].contains(&&*line.split(':').next().unwrap().to_lowercase());
        head.lines().filter(differ).map(str::to_owned).collect()
    };
    let before = lines(&send("HEAD"));
    let whole = lines(&send("GET"));
    let is_length = |line: &String| line.starts_with("Content-Length: ");
    assert!(whole.iter().any(is_length) && !before.iter().any(is_length), "{before:?}");
    assert!(!before.iter().any(|line| line.starts_with("Transfer-Encoding")), "{before:?}");
    assert_eq!(before, whole.iter().filter(|line| !is_length(line)).cloned().collect::<Vec<_>>());
    assert_eq!(lines(&send("HEAD")), whole, "the length is known now");
}

/// Returns the position and content of each part of a `multipart/byteranges` body.
fn parts(response: &TestResponse) -> Vec<(String, String)> {
    let kind = response.header("Content-Type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let body = response.text().strip_suffix(&format!("\r\n--{boundary}--\r\n")).unwrap();
    let body = body.strip_prefix(&format!("--{boundary}\r\n")).unwrap();
    body.split(&format!("\r\n--{boundary}\r\n"))
        .map(|part| {
            let (head, content) = part.split_once("\r\n\r\n").unwrap();
            let place = head.strip_prefix("Content-Type: text/plain; charset=utf-8\r\nContent-Range: ").unwrap();
            (place.to_owned(), content.to_owned())
        })
        .collect()
}

#[test]
fn several_ranges_are_sent_as_several_parts() {
    let dir = folder();
    let mut client = client(dir.path());
    let response = get(&mut client, "/static/a.txt", &[("Range", "bytes=7-8, 0-1,-1, 99-")]);
    assert_eq!((response.status_code(), response.header("Content-Range")), (Status::PARTIAL_CONTENT, None));
    let expected = [("bytes 7-9/10", "789"), ("bytes 0-1/10", "01")];
    assert_eq!(parts(&response), expected.map(|(place, content)| (place.to_owned(), content.to_owned())));
    assert!(response.header("ETag").is_some() && response.header("Last-Modified").is_some());

    let one = get(&mut client, "/static/a.txt", &[("Range", "bytes=0-1,2-4")]);
    assert_eq!((one.text(), one.header("Content-Range")), ("01234", Some("bytes 0-4/10")));
    for many in ["bytes=0-,0-,0-".to_owned(), format!("bytes={}", vec!["0-0"; 20].join(","))] {
        let response = get(&mut client, "/static/a.txt", &[("Range", &many)]);
        assert_eq!((response.status_code(), response.text()), (Status::OK, "0123456789"), "{many}");
    }
    let head = ask(&mut client, "HEAD", "/static/a.txt", &[("Range", "bytes=0-1,4-5")]);
    assert_eq!((head.status_code(), head.header("Content-Type")), (Status::OK, Some("text/plain; charset=utf-8")));
}

/// Valid ranges, and the ranges of careless and hostile clients.
fn ranges() -> impl Strategy<Value = String> {
    let number = prop_oneof![Just(String::new()), (0u32..30).prop_map(|n| n.to_string()), "[0-9]{1,30}"];
    let spec = (number.clone(), number).prop_map(|(first, last)| format!("{first}-{last}"));
    let set = proptest::collection::vec(spec, 1..6).prop_map(|specs| format!("bytes={}", specs.join(", ")));
    prop_oneof![3 => set, 1 => "bytes=[-0-9, ]{0,20}", 1 => "\\PC{0,30}"]
}

#[test]
fn any_range_gets_only_bytes_of_the_file() {
    let dir = folder();
    let content = "0123456789abcdefghij";
    put(dir.path(), "static/a.txt", content);
    let client = RefCell::new(client(dir.path()));
    let is_in_file = |place: &str, part: &str| {
        let (range, length) = place.strip_prefix("bytes ").and_then(|place| place.split_once('/')).unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        length == "20" && content.get(first..=last) == Some(part)
    };
    let check = |range: String| {
        let response = get(&mut client.borrow_mut(), "/static/a.txt", &[("Range", &range)]);
        match (response.status_code().code(), response.header("Content-Range")) {
            (200, None) => prop_assert_eq!(response.text(), content),
            (206, Some(place)) => prop_assert!(is_in_file(place, response.text()), "{:?}", response),
            (206, None) => {
                let parts = parts(&response);
                prop_assert!(parts.len() > 1 && parts.iter().all(|(place, part)| is_in_file(place, part)));
            }
            (416, place) => prop_assert_eq!(place, Some("bytes */20")),
            _ => prop_assert!(false, "{:?}", response),
        }
        Ok(())
    };
    TestRunner::default().run(&ranges(), check).unwrap();
}

#[test]
fn a_multipart_range_response_has_its_length() {
    let dir = folder();
    let alphabet: String = ('a'..='z').collect();
    let big = alphabet.repeat(10_000);
    put(dir.path(), "static/big.txt", &big);
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
    let app = App::with_config(config).static_files("/static", dir.path().join("static"));
    let server = app.start().unwrap();
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    let range = "Range: bytes=0-99999,150000-249999";
    write!(stream, "GET /static/big.txt HTTP/1.1\r\nHost: localhost\r\n{range}\r\n\r\n").unwrap();
    write!(stream, "GET /static/a.txt HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let answers = io::read_to_string(stream).unwrap();
    let (head, rest) = answers.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let (body, next) = rest.split_at(length.parse().unwrap());
    assert!(head.starts_with("HTTP/1.1 206 ") && body.starts_with("--") && body.ends_with("--\r\n"), "{head}");
    assert!(body.contains(&big[..100_000]) && body.contains(&big[150_000..250_000]));
    assert!(next.starts_with("HTTP/1.1 200 ") && next.ends_with("0123456789"), "{next}");
}

#[test]
fn an_unsatisfiable_range_is_refused_and_not_cached() {
    let dir = folder();
    let mut client = TestClient::new(in_production().static_files("/static", dir.path().join("static")));
    for (path, range, length) in [
        ("/static/a.txt", "bytes=10-", "bytes */10"),
        ("/static/a.txt", "bytes=10-11,20-,-0", "bytes */10"),
        ("/static/empty.txt", "bytes=0-", "bytes */0"),
    ] {
        let response = get(&mut client, path, &[("Range", range)]);
        assert_eq!(response.status_code(), Status::RANGE_NOT_SATISFIABLE, "{range}");
        let no_store = Some("no-store");
        assert_eq!((response.header("Content-Range"), response.header("Cache-Control")), (Some(length), no_store));
    }
    for range in ["bytes=-5", "lines=0-1", "bytes=x", "bytes=1-0"] {
        let response = get(&mut client, "/static/empty.txt", &[("Range", range)]);
        assert_eq!((response.status_code(), response.bytes()), (Status::OK, &b""[..]), "{range}");
    }
}

#[test]
fn if_range_continues_only_the_same_version() {
    let dir = folder();
    age(dir.path(), "static/a.txt", HOUR);
    let mut client = client(dir.path());
    let whole = get(&mut client, "/static/a.txt", &[]);
    let (etag, date) = (whole.header("ETag").unwrap(), whole.header("Last-Modified").unwrap());
    let weak = format!("W/{etag}");
    let range = ("Range", "bytes=5-");
    for (validator, expected) in [
        (etag, 206),
        (date, 206),
        (&weak, 200),
        ("\"other\"", 200),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 200),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 200),
        ("tomorrow", 200),
        ("", 200),
    ] {
        let response = get(&mut client, "/static/a.txt", &[range, ("If-Range", validator)]);
        assert_eq!(response.status_code().code(), expected, "{validator}");
    }
    let unmet = get(&mut client, "/static/a.txt", &[("Range", "bytes=99-"), ("If-Range", "\"other\"")]);
    assert_eq!(unmet.status_code(), Status::OK, "the range is ignored");
    put(dir.path(), "static/a.txt", "abcdefghij");
    let response = get(&mut client, "/static/a.txt", &[range, ("If-Range", etag)]);
    assert_eq!((response.status_code(), response.text()), (Status::OK, "abcdefghij"));
}

#[test]
fn a_304_has_the_headers_that_a_cache_needs() {
    let dir = folder();
    age(dir.path(), "static/a.txt", HOUR);
    let mut client = TestClient::new(in_production().static_files("/static", dir.path().join("static")));
    let whole = get(&mut client, "/static/a.txt", &[]);
    let (etag, date) = (whole.header("ETag").unwrap(), whole.header("Last-Modified").unwrap());
    for header in [("If-None-Match", etag), ("If-Modified-Since", date)] {
        let known = get(&mut client, "/static/a.txt", &[header, ("Range", "bytes=0-1")]);
        assert_eq!((known.status_code(), known.bytes()), (Status::NOT_MODIFIED, &b""[..]));
        assert_eq!((known.header("ETag"), known.header("Cache-Control")), (Some(etag), whole.header("Cache-Control")));
        for name in ["Content-Type", "Content-Length", "Content-Range", "Last-Modified"] {
            assert_eq!(known.header(name), None, "{name}");
        }
    }
    let head = ask(&mut client, "HEAD", "/static/a.txt", &[]);
    assert_eq!(lasting(&head), lasting(&whole));
}

#[test]
fn a_url_with_a_hash_is_cached_for_a_year() {
    let dir = folder();
    let page = "{{ static('css/app.css') | safe }}";
    let app = in_production()
        .static_files("/static", dir.path().join("static"))
        .template("page.txt", page)
        .get("/", |req: &mut Request| req.render("page.txt", context! {}));
    let mut client = TestClient::new(app);
    let address = client.get("/").text().to_owned();
    let (path, query) = address.split_once('?').unwrap();
    assert_eq!((path, query.len()), (CSS, "v=".len() + 16));

    let cache = |client: &mut TestClient, address: &str| {
        let response = client.get(address);
        (response.text().to_owned(), response.header("Cache-Control").unwrap().to_owned())
    };
    let year = "public, max-age=31536000, immutable";
    assert_eq!(cache(&mut client, &address), ("p { color: red }".into(), year.into()));
    let hour = "public, max-age=3600";
    for other in [CSS.to_owned(), format!("{CSS}?v=0123456789abcdef"), format!("{address}&a"), address.to_uppercase()] {
        let other = other.replace("/STATIC/CSS/APP.CSS", CSS);
        assert_eq!(cache(&mut client, &other).1, hour, "{other}");
    }
    put(dir.path(), "static/css/app.css", "p { color: blue; }");
    assert_eq!(cache(&mut client, &address), ("p { color: blue; }".into(), hour.into()));
    let edited = client.get("/").text().to_owned();
    assert_ne!(edited, address);
    assert_eq!(cache(&mut client, &edited).1, year);

    let etag = client.get(&edited).header("ETag").unwrap().to_owned();
    let known = get(&mut client, &edited, &[("If-None-Match", &etag)]);
    assert_eq!((known.status_code(), known.header("Cache-Control")), (Status::NOT_MODIFIED, Some(year)));
}

#[test]
fn the_url_of_a_missing_file_is_an_error_that_names_the_folders() {
    let dir = folder();
    let app = app()
        .static_files("/static", dir.path().join("static"))
        .template("page.html", "{{ static('ap.css') }}")
        .get("/", |req: &mut Request| req.render("page.html", context! {}));
    let mut client = TestClient::new(app);
    let response = get(&mut client, "/", &[("Accept", "text/html")]);
    assert_eq!(response.status_code(), Status::INTERNAL_SERVER_ERROR);
    let text = response.text().replace("&#x2f;", "/");
    assert!(text.contains("ap.css") && text.contains(&dir.path().join("static").display().to_string()), "{text}");
}

#[test]
fn a_download_may_have_a_name_in_any_script() {
    let dir = folder();
    let path = dir.path().join("static/a.txt");
    let download =
        move |req: &mut Request| -> Result<Response> { Ok(req.send_file(&path)?.attachment("отчёт 1.pdf")) };
    let mut client = TestClient::new(app().get("/report", download));
    let expected = "attachment; filename=\"_____ 1.pdf\"; filename*=UTF-8''%D0%BE%D1%82%D1%87%D1%91%D1%82%201.pdf";
    let response = client.get("/report");
    assert_eq!((response.header("Content-Disposition"), response.text()), (Some(expected), "0123456789"));
    let part = get(&mut client, "/report", &[("Range", "bytes=0-0,9-9")]);
    assert_eq!(parts(&part).len(), 2);
}

/// Spellings of "parent folder" in different software.
const UP: [&str; 24] = [
    "..",
    "%2e%2e",
    "%2E%2E",
    ".%2e",
    "%2e.",
    "%252e%252e",
    "%25252e%25252e",
    "%c0%ae%c0%ae",
    "%C0%AE%C0%AE",
    "%e0%80%ae%e0%80%ae",
    "%f0%80%80%ae%f0%80%80%ae",
    "%c0%2e%c0%2e",
    "%u002e%u002e",
    "．．",
    "%ef%bc%8e%ef%bc%8e",
    "‥",
    "....",
    "...",
    "..;",
    "..;a=b",
    "..%00",
    ".. ",
    "..%20",
    "..::$INDEX_ALLOCATION",
];

/// Spellings of the path separator in different software.
const SLASH: [&str; 16] = [
    "/",
    "//",
    "/./",
    "%2f",
    "%2F",
    "%252f",
    "%25252F",
    "\\",
    "%5c",
    "%5C",
    "%255c",
    "%c0%af",
    "%e0%80%af",
    "%c1%9c",
    "／",
    "%ef%bc%8f",
];

/// Files to request outside the folder, or under another name inside it.
const WANTED: [&str; 10] = [
    "secret.txt",
    "secret.txt.",
    "secret.txt%20",
    "secret.txt%00.css",
    "secret.txt;a.css",
    "secret.txt::$DATA",
    "static/a.txt",
    "out.txt",
    "etc/passwd",
    "",
];

/// The start of the path.
const BEFORE: [&str; 6] = ["", "css/", "a.txt/", "/", "./", "up/"];

fn hostile() -> Vec<String> {
    let mut paths = Vec::new();
    for before in BEFORE {
        for up in UP {
            for slash in SLASH {
                for wanted in WANTED {
                    let step = format!("{up}{slash}");
                    paths.extend([1, 2, 7].map(|depth| format!("{before}{}{wanted}", step.repeat(depth))));
                }
            }
        }
    }
    paths
}

/// Paths that are not such combinations.
fn odd(outside: &str) -> Vec<String> {
    let encoded = outside.replace('/', "%2f");
    let mut paths: Vec<String> = [
        outside,
        &encoded,
        "out.txt",
        "out.txt/",
        "up/secret.txt",
        "up%2fsecret.txt",
        "up/static/a.txt",
        "..",
        "../",
        "/",
        "//",
        "%00",
        "%",
        "%2",
        "%zz",
        "%ff%fe",
        "~",
        "~root/secret.txt",
        "a.txt%00",
        "a.txt%00.html",
        "a.txt%0a",
        "a.txt%0d%0aX: y",
        "a.txt::$DATA",
        "a.txt:",
        "a.txt.",
        "a.txt ",
        "a.txt%20",
        "a.txt;",
        "a.txt\\",
        "A~1.TXT",
        "css",
        "css/",
        "css/.",
        "css%2fapp.css",
        "css\\app.css",
        "css//app.css",
        ".%00./secret.txt",
        "\u{202e}txt.terces",
        "C:/secret.txt",
        "C:\\secret.txt",
        "c%3a%5csecret.txt",
        "\\\\localhost\\c$\\secret.txt",
        "//localhost/c$/secret.txt",
        "\\\\?\\C:\\secret.txt",
        "file:///etc/passwd",
        "http://127.0.0.1/secret.txt",
        "CON",
        "con.txt",
        "NUL",
        "aux.css",
        "COM1",
        "LPT1:",
        "PRN .txt",
        "*",
        "?",
        "$HOME",
        "`id`",
        "|id",
        "{a,b}",
        "\u{feff}a.txt",
    ]
    .map(str::to_owned)
    .into();
    paths.push("x".repeat(5_000));
    paths.push("x/".repeat(5_000));
    paths.push("../".repeat(5_000));
    paths.push(format!("{}secret.txt", "css/../".repeat(500)));
    paths
}

#[test]
fn no_encoding_of_a_path_reads_files_outside_the_folder() {
    let dir = folder();
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink(dir.path().join("secret.txt"), dir.path().join("static/out.txt")).unwrap();
        symlink(dir.path(), dir.path().join("static/up")).unwrap();
    }
    let mut client = client(dir.path());
    let outside = dir.path().join("secret.txt");
    let paths: Vec<String> = hostile().into_iter().chain(odd(outside.to_str().unwrap())).collect();
    assert!(paths.len() > 69_000, "{}", paths.len());
    for path in paths {
        let target = format!("/static/{path}");
        let response = client.get(&target);
        assert!(!String::from_utf8_lossy(response.bytes()).contains("SECRET"), "{target}");
        match response.status_code().code() {
            400 | 404 => {}
            200 => assert!(["0123456789", "p { color: red }"].contains(&response.text()), "{target}: {response:?}"),
            code => panic!("{target}: {code}"),
        }
    }
    assert_eq!(client.get("/static/a.txt").text(), "0123456789");
}
