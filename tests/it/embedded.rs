//! Folders that are embedded in the program: the same answers as from the disk, and the same pages.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aside::config::Mode;
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Folder, Request, context};

/// Embeds a folder in this program, which has debug assertions: there `embed!` reads the disk.
macro_rules! in_program {
    ($folder:literal) => {{
        use aside::__embedded as __aside_embedded;
        aside::__embedded::folder!(program $folder)
    }};
}

fn embedded() -> Folder {
    in_program!("tests/it/embedded/static")
}

fn config(mode: Mode) -> Config {
    Config {
        mode,
        address: "127.0.0.1:0".into(),
        secrets: vec!["a secret of more than thirty-two bytes".to_owned()],
        ..Config::default()
    }
}

fn site(mode: Mode, folder: impl Into<Folder>) -> TestClient {
    let page = |req: &mut Request| req.render("page.html", context! { title => "Harbour & sea" });
    let templates = in_program!("tests/it/embedded/templates");
    TestClient::new(App::with_config(config(mode)).templates(templates).static_files("/static", folder).get("/", page))
}

fn ask(client: &mut TestClient, method: &str, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    let request = client.request(method, path);
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

const FILES: [&str; 5] = ["css/app.css", "стиль.css", "empty.txt", "a.txt", "noise.bin"];

/// Returns the files as a folder on the disk, with the compressed forms that are in the program.
fn on_disk(client: &mut TestClient) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("css")).unwrap();
    let source = Path::new("tests/it/embedded/static");
    for name in FILES {
        write(&folder.path().join(name), &fs::read(source.join(name)).unwrap());
        for (coding, ending) in [("br", "br"), ("gzip", "gz")] {
            let response = ask(client, "GET", &url(name), &[("Accept-Encoding", coding)]);
            if response.header("Content-Encoding").is_some() {
                write(&folder.path().join(format!("{name}.{ending}")), response.bytes());
            }
        }
    }
    folder
}

/// Writes a file of a day ago: the tag of a newer one may change yet.
fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
    let day = Duration::from_secs(24 * 3_600);
    fs::File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - day).unwrap();
}

fn url(name: &str) -> String {
    format!("/static/{}", percent_encoding::utf8_percent_encode(name, percent_encoding::CONTROLS))
}

/// Returns the status, the headers and the body, with placeholders for the tags and boundaries, which must differ.
fn seen(response: &TestResponse) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let kind = response.header("Content-Type").and_then(|kind| kind.split_once("boundary="));
    let plain = |value: &str| kind.map_or(value.to_owned(), |(_, boundary)| value.replace(boundary, "BOUNDARY"));
    let fields = response.headers().iter().filter(|(name, _)| !["X-Request-Id", "Last-Modified"].contains(name));
    let field = |(name, value): (&str, &str)| match name {
        "ETag" => (name.to_owned(), value.ends_with("-br\"").to_string()),
        _ => (name.to_owned(), plain(value)),
    };
    let body =
        kind.map_or(response.bytes().to_vec(), |_| plain(&String::from_utf8_lossy(response.bytes())).into_bytes());
    (response.status_code().code(), fields.map(field).collect(), body)
}

#[test]
fn an_embedded_file_has_the_answers_of_the_disk() {
    for mode in [Mode::Development, Mode::Production] {
        let mut program = site(mode, embedded());
        let folder = on_disk(&mut program);
        let mut disk = site(mode, folder.path());
        let mut compared = 0;
        for name in FILES.into_iter().chain([
            "",
            "css",
            "css/",
            "nothing.css",
            ".hidden",
            "../Cargo.toml",
            "css/../a.txt",
            "css//app.css",
        ]) {
            for headers in requests() {
                for method in ["GET", "HEAD", "POST", "OPTIONS"] {
                    let [one, other] =
                        [&mut program, &mut disk].map(|client| seen(&conditional(client, method, name, &headers)));
                    assert_eq!(one, other, "{mode:?} {method} {name} {headers:?}");
                    compared += 1;
                }
            }
        }
        assert!(compared > 1_000, "{compared}");
    }
}

/// Headers of requests. `TAG` is the tag of the form that the client gets.
fn requests() -> Vec<Vec<(&'static str, &'static str)>> {
    let conditions: [&[(&str, &str)]; 13] = [
        &[],
        &[("If-None-Match", "TAG")],
        &[("If-None-Match", "\"other\"")],
        &[("If-None-Match", "*")],
        &[("If-Match", "TAG")],
        &[("If-Match", "\"other\"")],
        &[("Range", "bytes=2-5")],
        &[("Range", "bytes=-3")],
        &[("Range", "bytes=0-1,4-5")],
        &[("Range", "bytes=99999-")],
        &[("Range", "bytes=2-5"), ("If-Range", "TAG")],
        &[("Range", "bytes=2-5"), ("If-Range", "\"other\"")],
        &[("Range", "nonsense")],
    ];
    let codings = ["", "br, gzip", "gzip", "identity", "br;q=0, gzip;q=0.5", "*", "zstd"];
    let with =
        |coding: &'static str| conditions.iter().map(move |fields| [&[("Accept-Encoding", coding)], *fields].concat());
    codings.into_iter().flat_map(with).collect()
}

fn conditional(client: &mut TestClient, method: &str, name: &str, headers: &[(&str, &str)]) -> TestResponse {
    let path = url(name);
    let tag = ask(client, "GET", &path, &headers[..1]).header("ETag").unwrap_or("\"none\"").to_owned();
    let filled: Vec<_> =
        headers.iter().map(|(name, value)| (*name, if *value == "TAG" { &tag } else { *value })).collect();
    ask(client, method, &path, &filled)
}

#[test]
fn text_is_compressed_in_the_program_if_that_makes_it_smaller() {
    let mut client = site(Mode::Production, embedded());
    let mut coding = |name: &str, accept: &str| {
        let response = ask(&mut client, "GET", &url(name), &[("Accept-Encoding", accept)]);
        (response.header("Content-Encoding").map(str::to_owned), response.bytes().len())
    };
    let whole = coding("css/app.css", "").1;
    let (br, gzip) = (coding("css/app.css", "gzip, br"), coding("css/app.css", "gzip"));
    assert_eq!((br.0.as_deref(), gzip.0.as_deref()), (Some("br"), Some("gzip")));
    assert!(br.1 < gzip.1 && gzip.1 < whole / 2, "{whole} {br:?} {gzip:?}");
    for name in ["a.txt", "empty.txt", "noise.bin"] {
        assert_eq!(coding(name, "gzip, br").0, None, "{name}");
    }
    let backup = ask(&mut client, "GET", "/static/a.txt~", &[]);
    assert_eq!(backup.status_code().code(), 404, "it is not in the program");
}

#[test]
fn an_embedded_file_has_the_same_tag_in_each_build_and_no_date() {
    let mut client = site(Mode::Production, embedded());
    let response = ask(&mut client, "GET", "/static/a.txt", &[]);
    // The first digits of `printf 0123456789 | sha256sum`.
    assert_eq!(response.header("ETag"), Some("\"84d89877f0d4041e\""));
    assert_eq!(response.header("Last-Modified"), None);
    let date = "Thu, 01 Jan 1970 00:00:01 GMT";
    for header in ["If-Modified-Since", "If-Unmodified-Since"] {
        assert_eq!(ask(&mut client, "GET", "/static/a.txt", &[(header, date)]).status_code().code(), 200, "{header}");
    }
}

#[test]
fn a_page_and_its_style_sheet_come_from_the_program() {
    for mode in [Mode::Development, Mode::Production] {
        let mut client = site(mode, embedded());
        let page = ask(&mut client, "GET", "/", &[]);
        assert!(page.text().contains("Harbour &amp; sea"), "{}", page.text());
        let address = page.text().split('"').nth(1).unwrap().to_owned();
        assert!(address.starts_with("/static/css/app.css?v="), "{address}");
        let style = ask(&mut client, "GET", &address, &[]);
        assert_eq!(style.header("Cache-Control"), Some("public, max-age=31536000, immutable"));
        let outdated = ask(&mut client, "GET", "/static/css/app.css?v=0123456789abcdef", &[]);
        assert!(!outdated.header("Cache-Control").unwrap().contains("immutable"));
    }
}

#[test]
fn an_invalid_embedded_template_is_found_at_the_start() {
    for mode in [Mode::Development, Mode::Production] {
        let app = App::with_config(config(mode)).templates(in_program!("tests/it/embedded/invalid"));
        let error = app.start().err().unwrap().chain();
        assert!(error.contains("page.html:2") && error.contains("`latin1.txt` is not UTF-8"), "{error}");
    }
}

#[test]
fn a_missing_embedded_template_is_named_with_the_folder_and_the_nearest() {
    crate::logs::record();
    let app = App::with_config(config(Mode::Production)).templates(in_program!("tests/it/embedded/templates"));
    let mut client = TestClient::new(app.get("/", |req: &mut Request| req.render("paeg.html", ())));
    assert_eq!(client.get("/").status_code().code(), 500);
    let line = crate::logs::at(log::Level::Error, "paeg.html").remove(0);
    let expected = "there is no file `paeg.html` in the embedded folder tests/it/embedded/templates";
    assert!(line.contains(expected) && line.contains("did you mean `page.html`?"), "{line}");
}

/// With debug assertions, as here, `embed!` is the folder on the disk.
#[test]
fn in_development_an_embedded_folder_is_read_from_the_disk() {
    let folder = Path::new("tests/it/embedded/static").canonicalize().unwrap();
    let debug = format!("{:?}", aside::embed!("tests/it/embedded/static"));
    assert_eq!(debug, format!("Folder({})", folder.display()));
    assert_eq!(format!("{:?}", embedded()), "Folder(the program (tests/it/embedded/static))");
}

/// The macro chooses by the extension, since a table of media types would have to be built for it.
#[test]
fn the_macro_compresses_the_types_that_the_server_compresses() {
    let source = fs::read_to_string("embed/src/compressed.rs").unwrap();
    let list = source.split_once("const TEXT: &str = \"").unwrap().1.split_once("\";").unwrap().0;
    let text: Vec<&str> = list.split_whitespace().filter(|part| *part != "\\").collect();
    assert!(text.contains(&"css") && text.contains(&"yml"), "{text:?}");
    let folder = tempfile::tempdir().unwrap();
    let mut client = TestClient::new(App::with_config(Config::default()).static_files("/", folder.path()));
    let mut is_compressed = |extension: &str| {
        fs::write(folder.path().join(format!("a.{extension}")), "word ".repeat(500)).unwrap();
        let response = ask(&mut client, "GET", &format!("/a.{extension}"), &[("Accept-Encoding", "gzip")]);
        response.header("Content-Encoding").is_some()
    };
    let wrong: Vec<_> = text.iter().filter(|extension| !is_compressed(extension)).collect();
    assert!(wrong.is_empty(), "the server does not compress these: {wrong:?}");
    let others = [
        "jpg", "png", "gif", "webp", "avif", "ico", "otf", "woff", "woff2", "pdf", "zip", "gz", "br", "mp4", "webm",
        "mp3", "bin", "tsv", "xsl", "geojson", "webapp", "appcache", "manifest", "eot", "wat", "gltf", "kml", "gpx",
        "xul", "ical",
    ];
    let missing: Vec<_> = others.iter().filter(|other| !text.contains(other) && is_compressed(other)).collect();
    assert!(missing.is_empty(), "the server compresses these, the macro does not: {missing:?}");
}
