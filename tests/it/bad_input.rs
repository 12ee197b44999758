//! Invalid input of clients: the right status, a clear message, no loss, and an application that goes on. Each test
//! requests a page afterwards.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use aside::image::{Fit, Format, Image};
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Mail, Request, Result, Status, Webhook, redirect};
use log::Level;
use serde::Deserialize;

use crate::logs;

#[derive(Deserialize)]
struct Order {
    email: String,
    quantity: u32,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    #[allow(dead_code)]
    email: String,
}

fn client() -> TestClient {
    let config = Config { max_form: 200, max_upload: 2_000, max_fields: 10, max_parts: 3, ..Config::default() };
    let app = App::with_config(config)
        .get("/", |_| "still here")
        .post("/orders", |req: &mut Request| {
            req.form::<Order>().map(|order| format!("{} {} {:?}", order.email, order.quantity, order.tags))
        })
        .post("/strict", |req: &mut Request| req.form::<Strict>().map(drop))
        .get("/search", |req: &mut Request| req.query::<Order>().map(drop))
        .post("/json", |req: &mut Request| req.json::<Strict>().map(drop))
        .post("/upload", upload)
        .post("/thumb", thumb);
    TestClient::new(app)
}

fn upload(req: &mut Request) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let parts = req.multipart()?;
    let file = parts.file("file")?;
    let saved = file.save_to(folder.path())?;
    assert_eq!(saved.parent(), Some(folder.path()));
    Ok(format!("{} {} {}", file.filename(), file.content_type(), file.size()))
}

fn thumb(req: &mut Request) -> Result<()> {
    Image::read(req.multipart()?.file("file")?.open()?)?.encode(Fit::Inside(64, 64), Format::Png).map(drop)
}

/// Checks that the response has this status and contains these messages, and that the application still serves pages.
#[track_caller]
fn expect(client: &mut TestClient, response: TestResponse, status: u16, messages: &[&str]) {
    assert_eq!(response.status_code().code(), status, "{response:?}");
    messages.iter().for_each(|messages| assert!(response.text().contains(messages), "{messages:?} in {response:?}"));
    assert_eq!(client.get("/").text(), "still here");
    client.drain();
}

const FORM: &str = "application/x-www-form-urlencoded";

#[track_caller]
fn form(body: &[u8], status: u16, messages: &[&str]) {
    let mut client = client();
    let response = client.post("/orders").body(FORM, body).send();
    expect(&mut client, response, status, messages);
}

#[test]
fn a_valid_form() {
    form(b"email=a%40b.c&quantity=2&tags=x&tags=&unknown=1", 200, &["a@b.c 2 [\"x\", \"\"]"]);
}

#[test]
fn a_form_that_is_not_utf_8() {
    form(b"email=%ff%fe&quantity=1", 200, &["\u{fffd}\u{fffd} 1"]);
    form(b"email=\xff&quantity=1", 200, &["\u{fffd} 1"]);
}

#[test]
fn an_empty_form_and_a_missing_field() {
    form(b"", 422, &["email"]);
    form(b"email=a", 422, &["quantity"]);
}

#[test]
fn a_number_that_does_not_parse() {
    for number in ["abc", "-1", "1.5", "99999999999", ""] {
        form(format!("email=a&quantity={number}").as_bytes(), 422, &["quantity"]);
    }
}

#[test]
fn an_unknown_field_is_ignored_unless_the_type_denies_it() {
    let mut client = client();
    let response = client.post("/strict").form(&[("email", "a"), ("admin", "1")]).send();
    expect(&mut client, response, 422, &["admin"]);
}

#[test]
fn a_body_over_its_limit_names_the_setting() {
    form(format!("email={}", "x".repeat(300)).as_bytes(), 413, &["ASIDE_MAX_FORM"]);
    form("a=1&".repeat(11).as_bytes(), 413, &["ASIDE_MAX_FIELDS"]);
}

#[test]
fn a_wrong_content_type() {
    let mut client = client();
    for (path, content_type) in [("/orders", "text/plain"), ("/json", FORM), ("/upload", FORM)] {
        let response = client.post(path).body(content_type, "email=a&quantity=1").send();
        expect(&mut client, response, 415, &[content_type]);
    }
    let response = client.post("/orders").send();
    expect(&mut client, response, 415, &[]);
}

#[test]
fn json_that_is_malformed_or_of_another_shape() {
    let mut client = client();
    for (body, status, messages) in [("{", 400, "line 1"), ("{\"email\":1}", 422, "email"), ("[]", 422, "")] {
        let response = client.post("/json").body("application/json", body).send();
        expect(&mut client, response, status, &[messages]);
    }
}

#[test]
fn a_query_that_does_not_match_the_type() {
    let mut client = client();
    for target in ["/search?email=a&quantity=x", "/search?email=a", "/search?email=%ff&quantity=%ff"] {
        let response = client.get(target);
        expect(&mut client, response, 400, &[]);
    }
}

/// Sends a multipart body as written, with the boundary `x`.
#[track_caller]
fn multipart(path: &str, body: &[u8], status: u16, messages: &[&str]) {
    let mut client = client();
    let response = client.post(path).body("multipart/form-data; boundary=x", body).send();
    expect(&mut client, response, status, messages);
}

fn file(name: &str, content: &str) -> String {
    format!(
        "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: image/jpeg\r\n\r\n\
         {content}\r\n--x--\r\n"
    )
}

#[test]
fn a_multipart_body_that_is_cut_short() {
    let whole = file("a.txt", "content");
    multipart("/upload", whole.as_bytes(), 200, &["a.txt text/plain 7"]);
    for end in 0..whole.len() - "--\r\n".len() {
        multipart("/upload", &whole.as_bytes()[..end], 400, &[]);
    }
}

#[test]
fn a_part_without_a_name_and_a_body_without_a_boundary() {
    multipart("/upload", b"--x\r\nContent-Disposition: form-data\r\n\r\nv\r\n--x--\r\n", 400, &["name"]);
    multipart("/upload", b"--x\r\n\r\nv\r\n--x--\r\n", 400, &[]);
    let mut client = client();
    let response = client.post("/upload").body("multipart/form-data", file("a", "b")).send();
    expect(&mut client, response, 400, &["boundary"]);
}

#[test]
fn a_multipart_body_over_a_limit_names_the_setting() {
    multipart("/upload", file("a", &"y".repeat(3_000)).as_bytes(), 413, &["ASIDE_MAX_UPLOAD"]);
    let part = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\nv\r\n";
    multipart("/upload", format!("{}--x--\r\n", part.repeat(4)).as_bytes(), 413, &["ASIDE_MAX_PARTS"]);
    let text = format!("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{}\r\n--x--\r\n", "v".repeat(300));
    multipart("/upload", text.as_bytes(), 413, &["ASIDE_MAX_FORM"]);
}

#[test]
fn a_file_name_is_not_used_as_a_path() {
    multipart("/upload", file("../../etc/passwd", "x").as_bytes(), 200, &["passwd text/plain 1"]);
    multipart("/upload", file("C:\\boot\\фото.jpg", "x").as_bytes(), 200, &["фото.jpg text/plain 1"]);
    multipart("/upload", file(&format!("{}.jpg", "a".repeat(300)), "x").as_bytes(), 200, &["aaa.jpg text/plain 1"]);
    multipart("/upload", file("a\0b.jpg", "x").as_bytes(), 400, &[]);
}

#[test]
fn an_empty_file_and_a_missing_file() {
    multipart("/upload", file("empty.jpg", "").as_bytes(), 200, &["empty.jpg", " 0"]);
    multipart("/upload", file("", "").as_bytes(), 422, &["file"]);
    multipart("/upload", b"--x--\r\n", 422, &["file"]);
    multipart("/thumb", file("empty.jpg", "").as_bytes(), 422, &["not an image"]);
}

#[test]
fn an_upload_that_is_not_an_image() {
    multipart("/thumb", file("photo.jpg", "MZ\u{1}\u{2} not at all").as_bytes(), 422, &["not an image"]);
}

#[test]
fn an_unknown_path_and_a_wrong_method() {
    let mut client = client();
    let response = client.get("/nothing/here");
    expect(&mut client, response, 404, &[]);
    let response = client.get("/orders");
    assert_eq!(response.header("Allow"), Some("POST, OPTIONS"));
    expect(&mut client, response, 405, &["POST"]);
    let response = client.request("BREW", "/").send();
    expect(&mut client, response, 405, &[]);
}

/// Returns an address on which no server listens.
fn closed_port() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn an_unreachable_smtp_server_is_logged_once_and_not_shown_to_the_client() {
    logs::record();
    let mail_url = Some(format!("smtp://{}", closed_port()));
    let app = App::with_config(Config { mail_url, ..Config::default() }).post("/contact", |_: &mut Request| {
        Mail::to("ada@unreachable-host.example").subject("Hello").text("Hello").send();
        redirect("/thanks")
    });
    let mut client = TestClient::new(app);
    let response = client.post("/contact").send();
    assert_eq!(response.status_code(), Status::SEE_OTHER);
    client.drain();
    let id = response.header("X-Request-Id").unwrap();
    let lines = logs::at(Level::Error, &format!("POST /contact {id}"));
    assert!(lines.len() == 1 && lines[0].contains("unreachable-host.example failed: "), "{lines:?}");
    assert_eq!(client.failures().len(), 1);
}

#[test]
fn a_webhook_that_responds_500_is_logged_once_and_not_shown_to_the_client() {
    logs::record();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let tries = thread::spawn(move || (0..5).map(|_| answer_500(&listener)).count());
    let app = App::with_config(Config::default()).post("/orders", move |_: &mut Request| {
        Webhook::post(&url).json(&["order"]).send();
        redirect("/orders")
    });
    let mut client = TestClient::new(app);
    let response = client.post("/orders").send();
    assert_eq!(response.status_code(), Status::SEE_OTHER);
    client.drain();
    assert_eq!(tries.join().unwrap(), 5);
    let id = response.header("X-Request-Id").unwrap();
    let lines = logs::at(Level::Error, &format!("POST /orders {id}"));
    assert!(lines.len() == 1 && lines[0].contains("answered 500"), "{lines:?}");
}

fn answer_500(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"[\"order\"]") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    stream.write_all(b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
}
