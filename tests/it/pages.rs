//! Pages through the test client: routes, return types of handlers, errors, sessions, templates, files.

use aside::config::Mode;
use aside::error::BoxError;
use aside::testing::TestClient;
use aside::{App, Config, Error, Html, Json, Request, Response, Result, Status, context, redirect};
use log::Level;

use crate::logs;

fn app() -> App {
    App::with_config(Config::default())
}

fn in_production() -> App {
    let secrets = vec!["a secret of more than thirty-two bytes".to_owned()];
    App::with_config(Config { mode: Mode::Production, secrets, ..Config::default() })
}

#[test]
fn a_handler_may_return_any_response_type() {
    let app = app()
        .get("/unit", |_| ())
        .get("/str", |_| "text")
        .get("/string", |req: &mut Request| format!("{} {}", req.method(), req.path()))
        .get("/status", |_| (Status::CREATED, "made"))
        .get("/json", |_| Json(vec![1, 2]))
        .get("/html", |_| Html("<p>"))
        .get("/foreign", |_| "x".parse::<u32>().map(|number| number.to_string()))
        .get("/boxed", |_| -> Result<&str, BoxError> { Err(Error::not_found("no such thing"))? })
        .get("/message", |_| Err::<(), _>("plain message"))
        .get("/never", |_| panic!("never returns"));
    let mut client = TestClient::new(app);
    let mut status = |path: &str| client.get(path).status_code().code();
    assert_eq!(["/unit", "/str", "/status", "/json"].map(&mut status), [200, 200, 201, 200]);
    assert_eq!(["/foreign", "/boxed", "/message", "/never"].map(&mut status), [500, 404, 500, 500]);
    assert_eq!(client.get("/str").header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(client.get("/html").header("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(client.get("/json").json::<Vec<u32>>(), [1, 2]);
    assert_eq!(client.get("/string").text(), "GET /string");
}

#[test]
fn a_wrong_method_gets_the_list_of_allowed_methods() {
    let mut client = TestClient::new(app().get("/a", |_| "a").post("/a", |_| "b"));
    let response = client.request("DELETE", "/a").send();
    assert_eq!(response.status_code(), Status::METHOD_NOT_ALLOWED);
    assert_eq!(response.header("Allow"), Some("GET, POST, HEAD, OPTIONS"));
    let page = "405 Method Not Allowed\n\nThis page cannot be used in this way. Please go back, and try again.\n\n\
                DELETE is not allowed here; allowed: GET, POST, HEAD, OPTIONS\n";
    assert_eq!(response.text(), page);
    let response = client.request("OPTIONS", "/a").send();
    assert_eq!((response.status_code().code(), response.header("Allow")), (204, Some("GET, POST, HEAD, OPTIONS")));
    let response = client.request("HEAD", "/a").send();
    assert_eq!((response.status_code().code(), response.bytes()), (200, &b""[..]));
    assert_eq!(client.get("/b").status_code(), Status::NOT_FOUND);
}

#[test]
fn a_parameter_that_does_not_parse_is_a_404() {
    let app = app().get("/photos/{id}", |req: &mut Request| req.param::<u64>("id").map(|id| id.to_string()));
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/photos/17").text(), "17");
    for path in ["/photos/x", "/photos/-1", "/photos/", "/photos/99999999999999999999"] {
        assert_eq!(client.get(path).status_code(), Status::NOT_FOUND, "{path}");
    }
}

#[test]
fn a_route_may_be_in_any_script() {
    let mut client = TestClient::new(app().get("/фото/{имя}", |req: &mut Request| req.param::<String>("имя")));
    assert_eq!(client.get("/%D1%84%D0%BE%D1%82%D0%BE/%D0%BC%D0%BE%D1%80%D0%B5").text(), "море");
}

#[test]
fn the_errors_of_an_application_are_reported_at_the_start() {
    let app = app().get("/a/{id}", |_| "one").get("/a/{name}", |_| "two").get("/b/{", |_| "three");
    let message = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| TestClient::new(app))).err().unwrap();
    let message = message.downcast_ref::<String>().unwrap();
    // Of both routes of the conflict, of the malformed one, and of the start.
    assert_eq!(message.matches("tests/it/pages.rs:").count(), 4, "{message}");
    assert!(message.contains("`/a/{name}`") && message.contains("`/b/{`"), "{message}");
}

#[test]
fn a_500_shows_its_id_and_logs_its_chain_once() {
    logs::record();
    let fail = |_: &mut Request| -> Result<()> {
        Err(Error::from(std::io::Error::other("disk-on-fire-17")).context("cannot save"))
    };
    let mut client = TestClient::new(in_production().get("/save", fail));
    let response = client.request("GET", "/save").header("Accept", "text/html").send();
    let id = response.header("X-Request-Id").unwrap();
    assert_eq!(response.status_code(), Status::INTERNAL_SERVER_ERROR);
    assert!(response.text().contains(id) && !response.text().contains("disk") && !response.text().contains("save"));
    let lines = logs::with("disk-on-fire-17");
    let location = format!("tests/it/pages.rs:{}", line!() - 8);
    let line = format!("aside::http: GET /save {id} failed: cannot save: disk-on-fire-17 (at {location})");
    assert_eq!(lines.len(), 1, "{lines:?}");
    // A backtrace follows on further lines, if `RUST_BACKTRACE` is set.
    assert_eq!((lines[0].0, lines[0].1.lines().next()), (Level::Error, Some(line.as_str())));
}

#[test]
fn a_handler_that_panics_is_a_500_and_one_line() {
    logs::record();
    let mut client = TestClient::new(in_production().get("/boom", |_| panic!("handler-boom-3")));
    let response = client.get("/boom");
    assert_eq!(response.status_code(), Status::INTERNAL_SERVER_ERROR);
    assert!(!response.text().contains("boom-3"));
    let lines = logs::with("handler-boom-3");
    assert_eq!(lines.len(), 1);
    assert!(lines[0].1.contains(" panicked: handler-boom-3, at tests/it/pages.rs:"), "{lines:?}");
    assert_eq!(client.get("/boom").status_code(), Status::INTERNAL_SERVER_ERROR);
}

#[test]
fn in_development_the_page_shows_the_error() {
    let mut client = TestClient::new(app().get("/save", |_| Err::<(), _>("disk on <fire>")));
    let response = client.request("GET", "/save").header("Accept", "text/html").send();
    assert!(response.text().contains("disk on &lt;fire&gt;"), "{response:?}");
}

#[test]
fn a_404_shows_the_message_of_the_handler() {
    let mut client = TestClient::new(in_production().get("/p", |_| Err::<(), _>(Error::not_found("No <such> photo."))));
    let response = client.request("GET", "/p").header("Accept", "text/html").send();
    assert_eq!(response.status_code(), Status::NOT_FOUND);
    assert!(response.text().contains("No &lt;such&gt; photo."), "{response:?}");
}

#[test]
fn a_session_is_kept_between_pages_and_tampering_is_detected() {
    let app = in_production()
        .post("/login", |req: &mut Request| req.session().insert("user", 17))
        .get("/who", |req: &mut Request| format!("{:?}", req.session().get::<u32>("user")));
    let mut client = TestClient::new(app);
    let response = client.post("/login").send();
    let cookie = response.header("Set-Cookie").unwrap();
    for attribute in ["__Host-session=", "HttpOnly", "SameSite=Lax", "Secure", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    assert_eq!(client.get("/who").text(), "Some(17)");
    let sealed = client.cookies()["__Host-session"].clone();
    let flipped = if sealed.starts_with('A') { "B" } else { "A" };
    client.set_cookie("__Host-session", &format!("{flipped}{}", &sealed[1..]));
    assert_eq!(client.get("/who").text(), "None");
    client.set_cookie("__Host-session", "%00;nonsense");
    assert_eq!(client.get("/who").status_code(), Status::OK);
}

#[test]
fn a_flash_is_shown_once() {
    let page = "{% for flash in flashes %}[{{ flash.kind }}: {{ flash.message }}]{% endfor %}";
    let app = app()
        .template("page.html", page)
        .post("/orders", |req: &mut Request| {
            req.flash("success", "Processing <your> order!");
            redirect("/orders")
        })
        .get("/orders", |req: &mut Request| req.render("page.html", context! {}));
    let mut client = TestClient::new(app);
    client.post("/orders").send();
    client.request("HEAD", "/orders").send();
    assert_eq!(client.get("/orders").text(), "[success: Processing &lt;your&gt; order!]");
    assert_eq!(client.get("/orders").text(), "");
}

/// Regression: a prefetched page that the user never saw removed the message.
#[test]
fn a_prefetched_page_leaves_the_flash_messages_for_a_visible_page() {
    let app = app()
        .template("page.html", "{% for flash in flashes %}{{ flash.message }}{% endfor %}")
        .get("/flash", |req: &mut Request| req.flash("success", "Done"))
        .get("/taken", |req: &mut Request| format!("{:?}", req.take_flashes()))
        .get("/", |req: &mut Request| req.render("page.html", context! {}));
    let mut client = TestClient::new(app);
    client.get("/flash");
    for (name, purpose) in [
        ("Sec-Purpose", "prefetch"),
        ("Sec-Purpose", "prefetch;prerender"),
        ("Sec-Purpose", "prefetch;anonymous-client-ip"),
        ("Purpose", "prefetch"),
        ("X-Moz", "prefetch"),
        ("X-Sec-Purpose", "prefetch"),
        ("X-Purpose", "preview"),
    ] {
        for path in ["/", "/taken"] {
            let ahead = client.request("GET", path).header(name, purpose).send();
            assert!(!ahead.text().contains("Done"), "{name}: {purpose}");
            assert!(!ahead.headers().contains("Set-Cookie"), "{name}: {purpose}");
        }
    }
    assert_eq!(client.request("GET", "/").header("Sec-Purpose", "navigation").send().text(), "Done");
    assert_eq!(client.get("/").text(), "");
}

#[test]
fn a_session_that_is_too_large_is_a_clear_error() {
    logs::record();
    let app = app().get("/", |req: &mut Request| req.session().insert("big", "x".repeat(5_000)));
    let mut client = TestClient::new(app);
    let response = client.get("/");
    let id = response.header("X-Request-Id").unwrap();
    assert_eq!(response.status_code(), Status::INTERNAL_SERVER_ERROR);
    let lines = logs::at(Level::Error, id);
    assert!(lines.len() == 1 && lines[0].contains("the session has 50"), "{lines:?}");
}

#[test]
fn static_files_come_with_validators_and_never_from_outside() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("static")).unwrap();
    std::fs::write(folder.path().join("secret.txt"), "secret").unwrap();
    std::fs::write(folder.path().join("static/app.css"), "p { color: red }").unwrap();
    let mut client = TestClient::new(app().static_files("/static", folder.path().join("static")));
    let whole = client.get("/static/app.css");
    assert_eq!(whole.header("Content-Type"), Some("text/css; charset=utf-8"));
    let etag = whole.header("ETag").unwrap();
    let again = client.request("GET", "/static/app.css").header("If-None-Match", etag).send();
    assert_eq!((again.status_code(), again.bytes()), (Status::NOT_MODIFIED, &b""[..]));
    let part = client.request("GET", "/static/app.css").header("Range", "bytes=2-4").send();
    assert_eq!((part.status_code(), part.text()), (Status::PARTIAL_CONTENT, "{ c"));
    for path in [
        "../secret.txt",
        "..%2fsecret.txt",
        "%2e%2e/secret.txt",
        "%2e%2e%2fsecret.txt",
        "%252e%252e%252fsecret.txt",
        "..\\secret.txt",
        "..%5csecret.txt",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "app.css/",
        "",
        "%00",
        "app.css%00.txt",
    ] {
        let response = client.get(&format!("/static/{path}"));
        assert_eq!(response.status_code(), Status::NOT_FOUND, "{path}");
    }
}

#[test]
fn every_response_has_its_id_and_ids_differ() {
    let mut client = TestClient::new(app().get("/", |_| Response::new()));
    let mut ids: Vec<String> = (0..1_000).map(|_| client.get("/").header("X-Request-Id").unwrap().to_owned()).collect();
    assert!(ids.iter().all(|id| id.len() == 6 && id.bytes().all(|digit| digit.is_ascii_hexdigit())));
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 1_000);
}

/// Tests all built-in responses. Cacheable ones have their own tests (`files`, `live`, `panel`).
#[test]
fn every_built_in_response_has_a_cache_policy() {
    logs::record();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "0123456789").unwrap();
    let app = app()
        .healthz()
        .readyz()
        .static_files("/static", folder.path())
        .get("/", |_| "home")
        .get("/away", |_| redirect("/"))
        .get("/elsewhere", |_| aside::http::redirect_to_url("https://a.example/"))
        .get("/panic", |_| panic!("never returns"))
        .get("/gone", |_| (Status::GONE, "made by hand"))
        .get("/own", |_| Err::<(), _>(Error::not_found("x")))
        .get("/kept", |_| Response::text("x").status(Status::NOT_FOUND).header("Cache-Control", "max-age=60"))
        .error_page(404, |_, _| "not here");
    let mut client = TestClient::new(app);
    let mut kept = |method: &str, path: &str, headers: &[(&str, &str)]| {
        let request = client.request(method, path).peer("127.0.0.1:5000");
        let response = headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send();
        let all: Vec<_> = response.headers().get_all("Cache-Control").collect();
        (response.status_code().code(), all.join(" and "))
    };
    for (method, path, headers, status) in [
        ("GET", "/healthz", &[][..], 200),
        ("HEAD", "/healthz", &[], 200),
        ("GET", "/readyz", &[], 200),
        ("OPTIONS", "/", &[], 204),
        ("DELETE", "/", &[], 405),
        ("GET", "/away", &[], 303),
        ("GET", "/elsewhere", &[], 303),
        ("GET", "/panic", &[], 500),
        ("GET", "/gone", &[], 410),
        ("GET", "/own", &[], 404),
        ("GET", "/favicon.ico", &[], 404),
        ("GET", "/favicon.ico", &[("Accept", "application/json")], 404),
        ("HEAD", "/nothing", &[], 404),
        ("GET", "/static/nothing.txt", &[], 404),
        ("GET", "/static/a.txt", &[("Range", "bytes=10-")], 416),
        ("GET", "/static/a.txt", &[("If-Match", "\"x\"")], 412),
        ("POST", "/", &[("Sec-Fetch-Site", "cross-site")], 403),
        ("GET", "/", &[("Host", "evil.example")], 421),
        ("GET", "/_aside", &[], 200),
        ("GET", "/_aside/tasks/17", &[], 404),
    ] {
        assert_eq!(kept(method, path, headers), (status, "no-store".into()), "{method} {path} {headers:?}");
    }
    let etag = "W/\"x\"";
    assert_eq!(kept("GET", "/static/a.txt", &[("If-None-Match", etag)]), (200, "no-cache".into()));
    assert_eq!(kept("GET", "/static/a.txt", &[("If-None-Match", "*")]), (304, "no-cache".into()));
    assert_eq!(kept("GET", "/kept", &[]), (404, "max-age=60".into()));
}
