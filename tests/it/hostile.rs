//! Hostile input that becomes a redirect target, a header or a cookie. Targets are resolved as in a browser, by the WHATWG
//! URL standard.

use aside::http::Cookie;
use aside::testing::TestClient;
use aside::{App, Config, Request, Response, Status, redirect, redirect_or};
use proptest::prelude::*;
use url::Url;

/// Percent-encodes each byte, for a query.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

const HERE: &str = "https://site.example/a/b";

/// Returns the URL that a browser requests after a redirect from [`HERE`].
fn resolved(location: &str) -> Option<Url> {
    Url::parse(HERE).unwrap().join(location).ok()
}

/// Returns true if a redirect stays on this site.
fn stays(location: &str) -> bool {
    resolved(location)
        .is_some_and(|url| url.origin() == Url::parse(HERE).unwrap().origin() && url.username().is_empty())
}

/// Returns redirect targets of known attacks: other hosts after every prefix that a browser or server has accepted.
fn targets() -> Vec<String> {
    let slashes = ["/", "\\", "%2f", "%5c", "%2F%2f", "／", "⁄", "∕", "⧵", "＼", "/.", "/..", "/%2e", "/;", "/:", "/@"];
    let starts = [
        "",
        " ",
        "\t",
        "\n",
        "\r",
        "\r\n",
        "\0",
        "\u{1}",
        "\u{b}",
        "\u{c}",
        "\u{1f}",
        "\u{7f}",
        "\u{85}",
        "\u{a0}",
        "\u{2028}",
        "\u{feff}",
        "\u{200b}",
        "%09",
        "%0a",
        "%00",
        "x",
        ".",
        "..",
        "?",
        "#",
        "@",
        ":",
        "http:",
        "https:",
        "HTTPS:",
        "hTtPs:",
        "ht\ttps:",
        "ftp:",
        "ws:",
        "javascript:",
        "data:",
        "vbscript:",
        "file:",
        "blob:",
        "mailto:",
        "http:\\",
        "https:/",
    ];
    let hosts = ["evil.example", "u:p@evil.example", "evil.example/%2e%2e"];
    let mut all = Vec::new();
    for start in starts {
        for (first, second) in slashes.iter().zip(slashes.iter().skip(1).chain(slashes.iter().take(1))) {
            all.push(format!("{start}{first}{}", hosts[all.len() % 3]));
            all.push(format!("{start}{first}{first}{}", hosts[all.len() % 3]));
            all.push(format!("{start}{first}{second}{}", hosts[all.len() % 3]));
            all.push(format!("/{start}{first}{}", hosts[all.len() % 3]));
            all.push(format!("/{start}/{first}{}", hosts[all.len() % 3]));
        }
    }
    all.extend(
        [
            "",
            "/",
            "//",
            "///",
            "////",
            "/\\",
            "\\/",
            "\\\\",
            "/\t/h",
            "/\n/h",
            "\t//h",
            "/\r\n/h",
            "https:h",
            "https:/h",
            "https:///h",
            "https://h",
            "https://site.example",
            "https://site.example@h/",
            "https://site.example.evil.example/",
            "//site.example",
            "/.//h",
            "/..//h",
            "/%09/h",
            "/;@h",
            "/%5ch",
            "/%2f%2fh",
            "/\u{ff0f}h",
            "javascript:alert(1)",
            "java\nscript:alert(1)",
            "data:text/html,x",
            "/javascript:alert(1)",
            "/a?next=//h",
            "/a#//h",
            "/a\r\nSet-Cookie: x=y",
            "/a%0d%0aSet-Cookie:%20x=y",
            "/a\0b",
            "/фото",
            "/a b",
            "/a\"b",
            "/<script>",
            "/a|b^c`d{e}",
            "?x",
            "#x",
            "x",
            "./x",
            "../x",
            "/[::1]",
            "//[::1]/",
            "///[::1",
            "/https://h",
            "/\u{202e}//h",
            "http://127.0.0.1",
            "http:///\\h",
            "https:\\\\h",
            "https:/\\h",
            "//h@site.example",
            "//%68",
        ]
        .map(str::to_owned),
    );
    all.push(format!("/{}", "a".repeat(10_000)));
    all.push(format!("//{}", "a".repeat(10_000)));
    all
}

fn redirecting() -> TestClient {
    let app = App::with_config(Config { allowed_hosts: vec!["*".into()], ..Config::default() })
        .get("/or", |req: &mut Request| redirect_or(&next(req), "/fallback"))
        .get("/strict", |req: &mut Request| redirect(&next(req)));
    TestClient::new(app)
}

fn next(req: &mut Request) -> String {
    req.query_pairs().unwrap_or_default().pop().map_or_else(String::new, |(_, value)| value)
}

#[test]
fn no_redirect_target_leads_to_another_site() {
    let mut client = redirecting();
    let targets = targets();
    assert!(targets.len() >= 716, "{}", targets.len());
    let mut kept = 0;
    for target in &targets {
        let answer = client.get(&format!("/or?next={}", encoded(target)));
        let location = answer.location().unwrap_or_else(|| panic!("no Location for {target:?}: {answer:?}"));
        assert_eq!(answer.status_code(), Status::SEE_OTHER);
        assert!(location.bytes().all(|byte| byte.is_ascii_graphic()), "{target:?}: {location:?}");
        assert!(location.starts_with('/') && stays(location), "{target:?}: {location:?} is {:?}", resolved(location));
        assert!(!answer.headers().contains("Set-Cookie"));
        kept += usize::from(location != "/fallback");
        let strict = client.get(&format!("/strict?next={}", encoded(target)));
        assert_eq!(strict.location(), Some(location).filter(|location| *location != "/fallback"), "{target:?}");
    }
    // A target that starts with a slash and stays on this site is not replaced by the fallback.
    assert!(kept >= 100, "{kept}");
    for target in ["/", "/a?next=//h", "/.//h", "/%09/h", "/фото", "/a|b^c`d{e}"] {
        assert_ne!(client.get(&format!("/or?next={}", encoded(target))).location(), Some("/fallback"), "{target}");
    }
}

fn headers_from(value: &str) -> Vec<Response> {
    let value = value.to_owned();
    vec![
        Response::text("x").header("X-V", value.as_str()),
        Response::text("x").append_header("X-V", value.as_str()),
        Response::text("x").header(&value, "x"),
        Response::text("x").try_header("X-V", value.as_str()).unwrap_or_default(),
        Response::text("x").cookie(("c", value.clone())),
        Response::text("x").cookie((value.clone(), "v")),
        Response::text("x").cookie(Cookie::new("c", "v").path(value.clone())),
        Response::text("x").cookie(Cookie::new("c", "v").domain(value.clone())),
        Response::bytes(&value, b"x".to_vec()),
        redirect(&value),
        redirect_or(&value, "/"),
        aside::http::redirect_to_url(&value),
    ]
}

/// Checks that no header has a control character, and that the value adds no further headers.
fn check_headers(value: &str) {
    for response in headers_from(value) {
        for (name, text) in response.headers().iter() {
            let harmless = |c: char| !c.is_ascii_control() || c == '\t';
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'), "{value:?}: {name:?}");
            assert!(text.chars().all(harmless), "{value:?}: {name}: {text:?}");
        }
        assert!(response.headers().len() <= 2, "{value:?}: {response:?}");
    }
}

#[test]
fn no_control_character_gets_into_a_header() {
    for byte in (0..=0x1f).chain([0x7f]) {
        let c = char::from(byte);
        for value in
            [format!("{c}"), format!("a{c}b"), format!("/a{c}"), format!("{c}/a"), format!("a\r{c}\nSet-Cookie: x=y")]
        {
            check_headers(&value);
        }
        let refused = Response::new().try_header("X-V", format!("a{c}b")).is_err();
        assert_eq!(refused, c != '\t', "{byte:#x}");
    }
}

fn listing() -> TestClient {
    let list = |req: &mut Request| req.cookies().map(|(name, value)| format!("{name}={value}\n")).collect::<String>();
    let session = |req: &mut Request| req.cookie("__Host-session").unwrap_or_default();
    let app = App::with_config(Config { allowed_hosts: vec!["*".into()], ..Config::default() });
    TestClient::new(app.get("/", list).get("/session", session))
}

#[test]
fn the_valid_parts_of_a_cookie_header_are_read() {
    let mut client = listing();
    let mut list = |line: &str| client.request("GET", "/").header("Cookie", line).send().text().to_owned();
    for (line, cookies) in [
        ("", ""),
        ("a", ""),
        ("=b", ""),
        ("=", ""),
        (";;", ""),
        (" ; ;a=1; ", "a=1\n"),
        ("a=", "a=\n"),
        ("a=1", "a=1\n"),
        ("a=1;b=2", "a=1\nb=2\n"),
        ("a = 1 ; b = 2", "a=1\nb=2\n"),
        ("a=1; a=2", "a=1\na=2\n"),
        ("a=b=c==", "a=b=c==\n"),
        ("a=x y", "a=x y\n"),
        ("a=1, b=2", "a=1, b=2\n"),
        ("a=%41%20%C3%A9", "a=A é\n"),
        ("a=%", "a=%\n"),
        ("a=%ff", "a=%ff\n"),
        ("a=%zz", "a=%zz\n"),
        ("$Version=1; a=1", "$Version=1\na=1\n"),
        ("a=1; Path=/; HttpOnly", "a=1\nPath=/\n"),
        ("A=1; a=2", "A=1\na=2\n"),
        ("a=\"", "a=\"\n"),
        ("a=\"\"", "a=\n"),
        ("a=\"x/y+z==\"; b=\"1", "a=x/y+z==\nb=\"1\n"),
        ("a=\"x;y\"", "a=\"x\n"),
        ("кот=мяу", "кот=мяу\n"),
        ("%61=1", "%61=1\n"),
        ("a\tb=1", "a\tb=1\n"),
    ] {
        assert_eq!(list(line), cookies, "{line:?}");
    }
    let many: String = (0..200).map(|n| format!("c{n}={n}; ")).collect();
    assert_eq!(list(&many).lines().count(), 200);
    assert_eq!(list(&format!("a={}", "x".repeat(50_000))).len(), 50_003);
}

#[test]
fn a_cookie_with_a_prefix_is_found_by_its_exact_name_only() {
    let mut client = listing();
    let mut session = |line: &str| client.request("GET", "/session").header("Cookie", line).send().text().to_owned();
    for planted in [
        "__host-session=evil",
        "__HOST-session=evil",
        "__Host-Session=evil",
        "__%48ost-session=evil",
        "%5f_Host-session=evil",
        "x=__Host-session=evil",
        "__Host-session",
        "__Host-session\u{a0}=evil",
        "__Secure-__Host-session=evil",
        "\"__Host-session\"=evil",
    ] {
        assert_eq!(session(planted), "", "{planted:?}");
    }
    assert_eq!(session("__host-session=evil; __Host-session=good"), "good");
}

proptest! {
    #[test]
    fn no_generated_redirect_target_leads_to_another_site(target in "[/\\\\.:@?#%a-f\t\n\r \\x00-\\x1f]{0,12}|\\PC{0,12}|/[/\\\\\t]?\\PC{0,8}") {
        let response = redirect_or(&target, "/fallback");
        let location = response.headers().get("Location").unwrap_or_default();
        prop_assert!(location.starts_with('/') && stays(location), "{:?}: {:?}", target, location);
    }

    #[test]
    fn no_generated_header_value_adds_a_header(value in "[\\x00-\\x7f]{0,12}|\\PC{0,12}|[a-z \r\n:]{0,20}") {
        check_headers(&value);
    }

    #[test]
    fn any_cookie_header_is_read(line in "([a-c]{0,2}=?[%\"0-9a-f;, ]{0,4};? ?){0,6}|[ -~]{0,30}|\\PC{0,30}") {
        let answer = listing().request("GET", "/").header("Cookie", &line).send();
        prop_assert_eq!(answer.status_code(), Status::OK);
    }

    #[test]
    fn any_multipart_body_is_read_or_refused(
        pieces in proptest::collection::vec(
            "--B(--)?(\r\n)?|\r\n|\n|Content-Disposition: form-data; name=\"?a\"?(; filename=\"?[ -~]{0,4}\"?)?(\r\n){0,2}|[ -~]{0,6}|\\PC{0,3}",
            0..12,
        )
    ) {
        let app = App::with_config(Config { allowed_hosts: vec!["*".into()], ..Config::default() });
        let mut client = TestClient::new(app.post("/", crate::multipart::read));
        let answer = client.post("/").body("multipart/form-data; boundary=B", pieces.concat()).send();
        prop_assert!(matches!(answer.status_code().code(), 200 | 400 | 413), "{:?}", answer);
    }
}
