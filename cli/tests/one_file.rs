//! A site as one file: built as a release, copied into an empty folder and started there.
//!
//! The release is not optimized and has few features, so that it is built in less than a minute.

#[allow(dead_code)] // Other tests use the rest.
mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::{run, text};

/// Returns the target folder of this build.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Makes a site whose page includes a template that is missing yet.
fn make() -> PathBuf {
    let folder = target().join("tmp/one-file");
    let _ = fs::remove_dir_all(&folder); // from a former run
    fs::create_dir_all(&folder).unwrap();
    run(&folder, &["new", "one-file-shop"]);
    let site = folder.join("one-file-shop");
    change(
        &site.join("Cargo.toml"),
        "\" }\nserde",
        "\", default-features = false, features = [\"embed\", \"sqlite\", \"templates\"] }\nserde",
    );
    change(
        &site.join("templates/home.html"),
        "{% block content %}",
        "{% block content %}{% include \"added.html\" ignore missing %}",
    );
    site
}

fn change(file: &Path, from: &str, to: &str) {
    let content = fs::read_to_string(file).unwrap();
    assert!(content.contains(from), "{content}");
    fs::write(file, content.replacen(from, to, 1)).unwrap();
}

/// Builds a release, and returns its file.
fn build(site: &Path) -> PathBuf {
    let output = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--offline", "--config", "profile.release.opt-level=0"])
        .current_dir(site)
        .env("CARGO_TARGET_DIR", target())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    target().join("release/one-file-shop")
}

/// The file alone, started in a folder of its own.
struct Started {
    process: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Started {
    fn start(program: &Path) -> Started {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("shop");
        fs::copy(program, &copy).unwrap();
        let mut process = Command::new(copy)
            .current_dir(folder.path())
            .env("ASIDE_ADDR", "127.0.0.1:0")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut lines = String::new();
        let address = loop {
            assert!(log.read_line(&mut lines).unwrap() > 0, "{lines}");
            if let Some((_, rest)) = lines.split_once("listens on http://") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        // Read to the end, so that the process never waits for a reader.
        std::thread::spawn(move || log.read_to_end(&mut Vec::new()));
        Started { process, address, folder }
    }

    /// Returns the response to a request of a browser that accepts Brotli: its head, and its body as far as it is text.
    fn get(&self, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let host = &self.address;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept-Encoding: br\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let response = String::from_utf8_lossy(&response).into_owned();
        let (head, body) = response.split_once("\r\n\r\n").expect(&response);
        (head.to_owned(), body.to_owned())
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_release_is_one_file_and_a_file_that_is_added_is_in_the_next_one() {
    let site = make();
    let shop = Started::start(&build(&site));
    let (head, page) = shop.get("/");
    assert!(head.starts_with("HTTP/1.1 200") && page.contains("<h1>"), "{head}\n{page}");
    let (_, rest) = page.split_once("href=\"/static/app.css").expect(&page);
    let style = format!("/static/app.css{}", rest.split('"').next().unwrap());
    let (head, _) = shop.get(&style);
    for line in ["HTTP/1.1 200", "Content-Type: text/css", "Content-Encoding: br", "immutable"] {
        assert!(head.contains(line), "{style}: {line}: {head}");
    }
    assert!(shop.folder.path().join("data").is_dir());
    assert!(shop.get("/static/added.txt").0.starts_with("HTTP/1.1 404"));
    drop(shop);

    fs::write(site.join("templates/added.html"), "a template that was added").unwrap();
    fs::write(site.join("static/added.txt"), "a file that was added").unwrap();
    let shop = Started::start(&build(&site));
    assert!(shop.get("/").1.contains("a template that was added"));
    assert_eq!(shop.get("/static/added.txt").1, "a file that was added");
}
