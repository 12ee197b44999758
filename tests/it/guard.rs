//! The security middleware through the test client: host check, CSRF protection, proxies, rate limits, and the headers
//! on every response.

use std::time::Duration;

use aside::config::Mode;
use aside::routing::post;
use aside::routing::{Rate, RateLimit};
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Error, Html, Request, Response, Result, Status, context, redirect};

use crate::logs;

fn config() -> Config {
    Config { trusted_proxies: vec!["127.0.0.1".into()], ..Config::default() }
}

fn in_production() -> Config {
    Config {
        mode: Mode::Production,
        url: Some("https://site.example".into()),
        secrets: vec!["a secret of more than thirty-two bytes".into()],
        ..config()
    }
}

fn site(config: Config) -> App {
    App::with_config(config)
        .get("/", |req: &mut Request| req.host().unwrap_or_default().to_owned())
        .post("/", |_| "changed")
        .get("/away", |_| redirect("/"))
        .get("/broken", |_| Err::<(), _>("broken"))
        .route("/hook", post(|_| "taken").allow_cross_origin())
        .healthz()
}

const DEFAULTS: [&str; 7] = [
    "Content-Security-Policy",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "Referrer-Policy",
    "Cross-Origin-Opener-Policy",
    "Cross-Origin-Resource-Policy",
    "Permissions-Policy",
];

fn missing(response: &TestResponse) -> Vec<&str> {
    DEFAULTS.into_iter().filter(|name| response.headers().get_all(name).count() != 1).collect()
}

#[test]
fn every_response_has_the_default_headers() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.css"), "a {}").unwrap();
    let app = site(config())
        .static_files("/static", folder.path())
        .get("/panic", |_| panic!("boom"))
        .get("/stream", |_| Response::stream("text/plain", |out| out.write_all(b"x")))
        .get("/bad", |_| Response::text("x").header("X-A", "1\r\n2"));
    let mut client = TestClient::new(app);
    let etag = client.get("/static/a.css").header("ETag").unwrap().to_owned();
    let not_modified = client.request("GET", "/static/a.css").header("If-None-Match", &etag).send();
    assert_eq!(not_modified.status_code(), Status::NOT_MODIFIED);
    assert_eq!(missing(&not_modified), [""; 0]);
    for (path, status) in [
        ("/", 200),
        ("/away", 303),
        ("/broken", 500),
        ("/panic", 500),
        ("/bad", 500),
        ("/gone", 404),
        ("/static/a.css", 200),
        ("/stream", 200),
        ("/healthz", 200),
    ] {
        let response = client.get(path);
        assert_eq!(response.status_code().code(), status, "{path}");
        assert_eq!(missing(&response), [""; 0], "{path}");
    }
    for method in ["DELETE", "OPTIONS"] {
        assert_eq!(missing(&client.request(method, "/").send()), [""; 0], "{method}");
    }
    let refused = client.post("/").header("Sec-Fetch-Site", "cross-site").send();
    assert_eq!((refused.status_code().code(), missing(&refused)), (403, vec![]));
}

#[test]
fn strict_transport_security_is_sent_behind_https_only() {
    const HSTS: &str = "Strict-Transport-Security";
    let mut client = TestClient::new(site(in_production()));
    for path in ["/", "/away", "/broken", "/gone"] {
        assert_eq!(client.get(path).header(HSTS), Some("max-age=31536000; includeSubDomains"), "{path}");
    }
    let plain = Config { url: None, ..in_production() };
    let mut client = TestClient::new(site(plain));
    assert_eq!(client.get("/").header(HSTS), None);
    let behind = client.request("GET", "/").peer("127.0.0.1:5000").header("X-Forwarded-Proto", "https").send();
    assert!(behind.header(HSTS).is_some());
    let stranger = client.request("GET", "/").peer("192.0.2.1:5000").header("X-Forwarded-Proto", "https").send();
    assert_eq!(stranger.header(HSTS), None);
}

#[test]
fn a_cross_site_request_is_refused() {
    let mut client = TestClient::new(site(config()));
    let mut post = |path: &str, header: (&str, &str)| client.post(path).header(header.0, header.1).send();
    assert_eq!(post("/", ("Sec-Fetch-Site", "same-origin")).text(), "changed");
    assert_eq!(post("/", ("Origin", "http://localhost")).text(), "changed");
    let refused = post("/", ("Origin", "https://evil.example"));
    assert_eq!(refused.status_code(), Status::FORBIDDEN);
    assert!(refused.text().contains("https://evil.example") && refused.text().contains("localhost"), "{refused:?}");
    assert_eq!(post("/", ("Sec-Fetch-Site", "same-site")).status_code(), Status::FORBIDDEN);
    assert_eq!(post("/hook", ("Sec-Fetch-Site", "cross-site")).text(), "taken");
    // A cross-site request to a missing path gets the same 403, which reveals nothing else.
    assert_eq!(post("/gone", ("Sec-Fetch-Site", "cross-site")).status_code(), Status::FORBIDDEN);
}

#[test]
fn a_same_site_form_passes_with_and_without_a_default_port() {
    let mut client = TestClient::new(site(config()));
    let mut post =
        |host, origin| client.post("/").header("Host", host).header("Origin", origin).send().status_code().code();
    assert_eq!(post("localhost:80", "http://localhost"), 200);
    assert_eq!(post("localhost", "http://localhost:80"), 200);
    assert_eq!(post("localhost:8000", "http://localhost"), 403);
}

#[test]
fn a_forwarded_host_from_the_client_is_ignored() {
    let host = |config, said: &'static str| {
        let mut client = TestClient::new(site(config));
        client.request("GET", "/").peer("127.0.0.1:5000").header("X-Forwarded-Host", said).send()
    };
    assert_eq!(host(in_production(), "evil.example").text(), "site.example");
    let believing = || Config { trust_forwarded_host: true, ..in_production() };
    assert_eq!(host(believing(), "SITE.example:443").text(), "SITE.example:443");
    assert_eq!(host(believing(), "evil.example").status_code(), Status::MISDIRECTED_REQUEST);
}

#[test]
fn the_handler_does_not_run_for_a_refused_request() {
    logs::record();
    let app = App::with_config(config())
        .before(|_| panic!("it ran when it was refused"))
        .post("/", |_| panic!("it ran when it was refused"));
    let mut client = TestClient::new(app);
    let refused = client.post("/").header("Sec-Fetch-Site", "cross-site").send();
    assert_eq!(refused.status_code(), Status::FORBIDDEN);
    let refused = client.request("GET", "/").header("Host", "evil.example").send();
    assert_eq!(refused.status_code().code(), 421);
    assert_eq!(refused.text().matches("There is no site at this address").count(), 1, "{}", refused.text());
    assert!(logs::with("ran when it was refused").is_empty());
}

#[test]
fn another_host_is_refused_except_by_the_health_check() {
    logs::record();
    let mut client = TestClient::new(site(in_production()));
    let mut get = |path: &str, host: &str| client.request("GET", path).header("Host", host).send();
    assert_eq!(get("/", "site.example").text(), "site.example");
    let refused = get("/", "evil.example");
    assert_eq!(refused.status_code(), Status::MISDIRECTED_REQUEST);
    let text = refused.text();
    assert!(text.contains("There is no site at this address.") && !text.contains("ASIDE"), "{refused:?}");
    let detail = logs::with(refused.header("X-Request-Id").unwrap());
    let detail = detail.iter().find(|(_, line)| line.contains("refused with 421: ")).unwrap();
    assert!(detail.1.contains("`evil.example` (ASIDE_ALLOWED_HOSTS)"), "{detail:?}");
    assert_eq!(get("/healthz", "10.0.0.7:8000").status_code(), Status::OK);
}

#[test]
fn a_rate_over_an_unlimited_time_allows_its_number_of_requests() {
    let app = App::with_config(config()).route("/vote", post(|_| "counted").rate_limit(Rate::new(5, Duration::MAX)));
    let mut client = TestClient::new(app);
    for _ in 0..5 {
        assert_eq!(client.post("/vote").peer("192.0.2.1:1").send().text(), "counted");
    }
    let refused = client.post("/vote").peer("192.0.2.1:1").send();
    assert_eq!(refused.status_code(), Status::TOO_MANY_REQUESTS);
    assert!(refused.header("Retry-After").is_some_and(|seconds| seconds.parse::<u64>().is_ok()), "{refused:?}");
    assert_eq!(client.post("/vote").peer("192.0.2.2:1").send().text(), "counted");
}

#[test]
fn a_request_over_the_limit_gets_retry_after() {
    let shared = RateLimit::new(Rate::per_hour(3));
    let app = App::with_config(config())
        .get("/login", |_| "the form")
        .route("/login", post(|req: &mut Request| format!("{:?}", req.client_ip())).rate_limit(Rate::per_minute(2)))
        .route("/contact", post(|_| "sent").rate_limit(shared.clone()))
        .route("/report", post(|_| "sent").rate_limit(shared));
    let mut client = TestClient::new(app);
    let mut post = |path: &str, peer: &str, forwarded: &str| {
        client.post(path).peer(peer).header("X-Forwarded-For", forwarded).send()
    };
    assert_eq!(post("/login", "192.0.2.1:1", "").text(), "Some(192.0.2.1)");
    assert_eq!(post("/login", "192.0.2.1:2", "").status_code(), Status::OK);
    let refused = post("/login", "192.0.2.1:3", "198.51.100.1");
    assert_eq!(refused.status_code(), Status::TOO_MANY_REQUESTS);
    assert_eq!(refused.header("Retry-After"), Some("30"));
    assert!(refused.text().contains("30 seconds"), "{refused:?}");
    // Behind a trusted proxy each client counts separately.
    assert_eq!(post("/login", "127.0.0.1:1", "192.0.2.1").status_code(), Status::TOO_MANY_REQUESTS);
    assert_eq!(post("/login", "127.0.0.1:1", "192.0.2.2").text(), "Some(192.0.2.2)");
    assert_eq!(post("/contact", "192.0.2.1:1", "").status_code(), Status::OK);
    assert_eq!(post("/report", "192.0.2.1:1", "").status_code(), Status::OK);
    assert_eq!(post("/contact", "192.0.2.1:1", "").status_code(), Status::OK);
    assert_eq!(post("/report", "192.0.2.1:1", "").status_code(), Status::TOO_MANY_REQUESTS);
    assert_eq!(client.get("/login").text(), "the form");
}

#[test]
fn the_nonce_of_a_template_is_in_the_policy() {
    let app = App::with_config(config())
        .template("page.html", "<script nonce=\"{{ csp_nonce }}\">1</script><style nonce=\"{{ csp_nonce }}\"></style>")
        .template("plain.html", "no script")
        .get("/", |req: &mut Request| req.render("page.html", context! {}))
        .get("/plain", |req: &mut Request| req.render("plain.html", context! {}))
        .get("/own", |_| Html("x").into_csp("default-src 'self'"));
    let mut client = TestClient::new(app);
    let page = client.get("/");
    let nonce = page.text().split('"').nth(1).unwrap().to_owned();
    assert_eq!(page.text().matches(&nonce).count(), 2);
    let policy = page.header("Content-Security-Policy").unwrap();
    assert_eq!(policy.matches(&format!("'nonce-{nonce}'")).count(), 2, "{policy}");
    assert!(!client.get("/").text().contains(&nonce), "a nonce is used once");
    assert!(!client.get("/plain").header("Content-Security-Policy").unwrap().contains("nonce"));
    assert_eq!(client.get("/own").header("Content-Security-Policy"), Some("default-src 'self'"));
}

trait IntoCsp {
    fn into_csp(self, policy: &str) -> Response;
}

impl IntoCsp for Html<&'static str> {
    fn into_csp(self, policy: &str) -> Response {
        Response::html(self.0).header("Content-Security-Policy", policy)
    }
}

#[test]
fn text_is_compressed_for_clients_that_accept_it() {
    let app = App::with_config(config())
        .get("/long", |_| "word ".repeat(1000))
        .get("/stream", |_| Response::stream("text/plain", |out| out.write_all(&[b'x'; 5000])))
        .get("/error", |_| -> Result<()> { Err(Error::not_found("x".repeat(3000))) });
    let mut client = TestClient::new(app);
    let mut get = |path: &str, accept: &str| client.request("GET", path).header("Accept-Encoding", accept).send();
    let (small, large) = (get("/long", "gzip, deflate, br"), get("/long", "br"));
    assert_eq!(small.header("Content-Encoding"), Some("gzip"));
    assert!(small.bytes().len() < 200 && large.bytes().len() == 5000);
    assert_eq!((small.header("Vary"), large.header("Vary")), (Some("Accept-Encoding"), Some("Accept-Encoding")));
    assert_eq!(get("/stream", "gzip").header("Content-Encoding"), None);
    let head = client.request("HEAD", "/long").header("Accept-Encoding", "gzip").send();
    assert_eq!(head.header("Content-Encoding"), Some("gzip"));
    assert_eq!(client.get("/error").status_code(), Status::NOT_FOUND);
}

#[test]
fn a_request_id_is_accepted_from_a_trusted_proxy_only() {
    let app = App::with_config(config()).get("/id", |req: &mut Request| req.id().to_owned());
    let mut client = TestClient::new(app);
    let mut get = |peer: &str| client.request("GET", "/id").peer(peer).header("X-Request-Id", "from-the-proxy").send();
    let trusted = get("127.0.0.1:4000");
    assert_eq!((trusted.text(), trusted.header("X-Request-Id")), ("from-the-proxy", Some("from-the-proxy")));
    assert_eq!(get("192.0.2.1:4000").text().len(), 6);
}

#[test]
fn invalid_settings_are_refused_by_name() {
    for (config, name) in [
        (Config { trusted_proxies: vec!["proxy.local".into()], ..Config::default() }, "ASIDE_TRUSTED_PROXIES"),
        (Config { trusted_origins: vec!["shop.example".into()], ..Config::default() }, "ASIDE_TRUSTED_ORIGINS"),
        (Config { store: Some("postgres://x".into()), ..Config::default() }, "ASIDE_STORE"),
    ] {
        let message = App::with_config(config).start().err().unwrap().to_string();
        assert!(message.contains(name), "{message}");
    }
    let message = App::with_config(Config::default()).default_header("X A", "b").start().err().unwrap().chain();
    assert!(message.contains("default_header"), "{message}");
}
