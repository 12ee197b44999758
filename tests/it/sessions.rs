//! Sessions and logins as OWASP ASVS 5 requires them (V3.3, V7.2 to V7.5), for a regular user, and for an attacker with
//! a copy of the cookie.

use std::time::Duration;

use aside::config::Mode;
use aside::testing::{TestClient, TestResponse};
use aside::{App, Config, Request, Response, redirect};

const DAY: Duration = Duration::from_secs(24 * 3_600);
const COOKIE: &str = "__Host-session";

fn config(secrets: &[char]) -> Config {
    let secrets = secrets.iter().map(|letter| letter.to_string().repeat(32)).collect();
    Config { mode: Mode::Production, secrets, ..Config::default() }
}

fn site(config: Config) -> TestClient {
    let app = App::with_config(config)
        .template("home.html", "{% if user %}Hello {{ user }}{% else %}Hello you{% endif %}")
        .template("plain.html", "{{ path }}")
        .get("/", |req: &mut Request| req.render("home.html", ()))
        .get("/plain", |req: &mut Request| req.render("plain.html", ()))
        .get("/who", |req: &mut Request| format!("{:?}", req.user::<u64>()))
        .get("/basket", |req: &mut Request| format!("{:?}", req.session().get::<String>("basket")))
        .get("/age", |req: &mut Request| req.session().age().as_secs().to_string())
        .post("/basket/{thing}", |req: &mut Request| {
            let thing = req.param::<String>("thing")?;
            req.session().insert("basket", thing);
            aside::ok(())
        })
        .post("/login/{id}", |req: &mut Request| {
            let id: u64 = req.param("id")?;
            req.login(id)?;
            aside::ok(redirect("/"))
        })
        .post("/remember/{id}", |req: &mut Request| {
            let id: u64 = req.param("id")?;
            req.login(id)?;
            req.session().remember(true);
            aside::ok(())
        })
        .post("/logout", |req: &mut Request| {
            req.logout()?;
            req.flash("success", "Goodbye.");
            aside::ok(redirect("/"))
        })
        .post("/ended/{id}", |req: &mut Request| {
            let id: u64 = req.param("id")?;
            req.logout_everywhere(id)
        })
        .post("/password/{id}", |req: &mut Request| {
            let id: u64 = req.param("id")?;
            req.logout_everywhere(id)?;
            req.login(id)
        });
    TestClient::new(app)
}

/// Returns the response to another client with these cookies. The cookie jar of the test client is unchanged.
fn elsewhere(client: &mut TestClient, method: &str, path: &str, cookies: &str) -> TestResponse {
    let own = client.cookies().get(COOKIE).cloned();
    let response = client.request(method, path).header("Cookie", cookies).send();
    client.set_cookie(COOKIE, own.as_deref().unwrap_or(""));
    response
}

fn ask(client: &mut TestClient, path: &str, cookie: &str) -> TestResponse {
    elsewhere(client, "GET", path, &format!("{COOKIE}={cookie}"))
}

/// Returns the user of a client with this cookie, independent of the test client's jar.
fn who(client: &mut TestClient, cookie: &str) -> String {
    ask(client, "/who", cookie).text().to_owned()
}

/// Logs in with a separate browser, and returns its cookie.
fn logged_in(client: &mut TestClient, id: u64) -> String {
    set(&elsewhere(client, "POST", &format!("/login/{id}"), "other=1")).unwrap()
}

/// Returns the session cookie that a response sets; empty if it is removed.
fn set(response: &TestResponse) -> Option<String> {
    let start = format!("{COOKIE}=");
    let line = response.headers().get_all("Set-Cookie").find_map(|line| line.strip_prefix(&start))?;
    Some(line.split(';').next().unwrap().to_owned())
}

/// V3.3.1, V3.3.2, V3.3.3, V3.3.4.
#[test]
fn the_cookie_is_secure_samesite_host_and_httponly_when_set_and_removed() {
    let mut client = site(config(&['a']));
    for path in ["/login/17", "/remember/17", "/logout"] {
        let response = client.post(path).send();
        let lines: Vec<&str> = response.headers().get_all("Set-Cookie").collect();
        assert!(lines[0].starts_with("__Host-session="), "{path}: {lines:?}");
        assert_eq!(lines.len(), if path == "/logout" { 3 } else { 1 }, "a message and a new `once` cookie: {lines:?}");
        for line in &lines {
            let has = |attribute: &&str| line.contains(attribute);
            assert!(["__Host-", "; Secure", "; SameSite=Lax", "; HttpOnly", "; Path=/"].iter().all(has), "{line}");
            assert!(!line.contains("Domain"), "{path}: {line}");
        }
        assert_eq!(lines[0].contains("Max-Age=2592000"), path == "/remember/17", "{path}: {lines:?}");
    }
}

/// V7.2.1, V7.2.2: only cookies that this server sealed are valid, and none of their values is the same for all users.
#[test]
fn a_cookie_of_another_application_has_no_user() {
    let stolen = logged_in(&mut site(config(&['z'])), 17);
    let mut client = site(config(&['a']));
    assert_eq!(who(&mut client, &stolen), "None");
    assert_eq!(who(&mut client, r#"{"i":"x","b":1,"s":1,"u":"17"}"#), "None");
}

/// V7.2.3: each cookie is sealed differently, so that two cookies cannot be compared.
#[test]
fn no_two_cookies_are_equal() {
    let mut client = site(config(&['a']));
    let mut cookies: Vec<String> = (0..100).map(|_| logged_in(&mut client, 17)).collect();
    cookies.sort();
    cookies.dedup();
    assert_eq!(cookies.len(), 100);
}

/// V7.2.4: a cookie planted before the login does not become the user's, and copies of the old cookie are invalid.
#[test]
fn a_login_starts_a_new_session_and_ends_the_old_one() {
    let mut client = site(config(&['a']));
    client.post("/basket/camera").send();
    let planted = client.cookies()[COOKIE].clone();
    client.post("/login/17").send();
    let first = client.cookies()[COOKIE].clone();
    assert_eq!(client.get("/basket").text(), r#"Some("camera")"#, "the values from before the login stay");
    assert_eq!(who(&mut client, &planted), "None");
    assert_eq!(ask(&mut client, "/basket", &planted).text(), "None", "the session is over");

    client.post("/login/17").send();
    assert_eq!((who(&mut client, &first).as_str(), client.get("/who").text()), ("None", "Some(17)"));
    assert_eq!(client.get("/basket").text(), r#"Some("camera")"#);
}

#[test]
fn a_login_drops_the_values_of_another_user() {
    let mut client = site(config(&['a']));
    client.post("/login/17").send();
    client.post("/basket/camera").send();
    client.post("/login/18").send();
    assert_eq!((client.get("/who").text(), client.get("/basket").text()), ("Some(18)", "None"));
}

/// V7.3.1.
#[test]
fn a_login_expires_when_idle() {
    let mut client = site(config(&['a']));
    let stolen = logged_in(&mut client, 17);
    client.post("/login/17").send();
    client.advance(DAY * 3 / 4);
    assert_eq!(client.get("/").text(), "Hello 17", "a template that reads the user extends the idle time");
    client.advance(DAY * 3 / 4);
    assert_eq!((client.get("/who").text(), who(&mut client, &stolen).as_str()), ("Some(17)", "None"));
    client.advance(DAY);
    let response = client.get("/who");
    assert_eq!((response.text(), set(&response)), ("None", None), "a page that only reads does not remove the cookie");
}

/// V7.3.2.
#[test]
fn an_active_login_expires_at_its_lifetime() {
    let limits = Config { session_lifetime: 2 * DAY, session_idle: 3 * DAY, ..config(&['a']) };
    let mut client = site(limits);
    client.post("/basket/camera").send();
    client.advance(DAY);
    client.post("/remember/17").send();
    for _ in 0..7 {
        client.advance(DAY / 4);
        assert_eq!(client.get("/who").text(), "Some(17)");
    }
    client.advance(DAY / 4);
    assert_eq!((client.get("/who").text(), client.get("/basket").text()), ("None", "None"));
}

/// V7.4.1.
#[test]
fn a_copy_of_the_cookie_is_invalid_after_a_logout() {
    let mut client = site(config(&['a']));
    client.post("/login/17").send();
    let early = client.cookies()[COOKIE].clone();
    client.advance(DAY / 2);
    assert_eq!(client.get("/who").text(), "Some(17)");
    client.post("/basket/camera").send();
    let late = client.cookies()[COOKIE].clone();
    assert!(early != late);
    client.post("/logout").send();
    assert_eq!(client.cookies().keys().filter(|name| name.starts_with(COOKIE)).count(), 0);
    for stolen in [early, late] {
        let response = ask(&mut client, "/who", &stolen);
        assert_eq!((response.text(), set(&response).as_deref()), ("None", None));
    }
    assert_eq!(client.get("/").text(), "Hello you");
}

/// V7.4.1: the back button must not show the page, and no cache may store it (V14.3.2).
#[test]
fn a_page_for_a_user_is_not_stored_and_other_pages_are_revalidated() {
    let mut client = site(config(&['a']));
    let caching = |response: TestResponse| {
        let header = |name| response.header(name).unwrap_or("").to_owned();
        (header("Vary"), header("Cache-Control"))
    };
    for (path, control) in [("/", "private, no-cache"), ("/who", "private, no-cache"), ("/plain", "")] {
        let (vary, theirs) = caching(client.get(path));
        assert_eq!((vary.contains("Cookie"), theirs.as_str()), (!control.is_empty(), control), "{path}");
    }
    client.post("/login/17").send();
    for (path, control) in [("/", "no-store"), ("/who", "no-store"), ("/basket", "no-store"), ("/plain", "")] {
        let (vary, theirs) = caching(client.get(path));
        assert_eq!((vary.contains("Cookie"), theirs.as_str()), (!control.is_empty(), control), "{path}");
    }
    assert_eq!(caching(client.post("/logout").send()).1, "no-store");
}

/// V14.3.1. Regression: a page that a handler made cacheable was shown after the logout.
#[test]
fn a_logout_clears_the_browser_cache() {
    let mut client = site(config(&['a']));
    for (path, is_sent) in [
        ("/logout", false),
        ("/login/17", false),
        ("/basket/camera", false),
        ("/login/17", false),
        ("/password/17", false),
        ("/login/18", true),
        ("/logout", true),
        ("/logout", false),
        ("/login/17", false),
        ("/ended/18", false),
        ("/ended/17", true),
    ] {
        let response = client.post(path).send();
        assert_eq!(response.header("Clear-Site-Data"), is_sent.then_some("\"cache\""), "{path}");
        let sets_another = response.headers().get_all("Set-Cookie").any(|line| line.starts_with("__Host-once="));
        assert_eq!(sets_another, is_sent, "{path}: Chromium drops its back/forward cache when a cookie is set");
        assert_eq!(client.get("/").header("Clear-Site-Data"), None);
    }
}

/// V7.4.2, V7.4.5: an administrator closes an account.
#[test]
fn an_administrator_ends_all_sessions_of_one_user_only() {
    let mut client = site(config(&['a']));
    let (one, other) = (logged_in(&mut client, 17), logged_in(&mut client, 17));
    let bystander = logged_in(&mut client, 18);
    client.post("/login/1").send();
    client.post("/ended/17").send();
    assert_eq!((who(&mut client, &one), who(&mut client, &other)), ("None".into(), "None".into()));
    assert_eq!((who(&mut client, &bystander).as_str(), client.get("/who").text()), ("Some(18)", "Some(1)"));
}

/// V7.4.3: all within one second, and most likely within one tick of the clock.
#[test]
fn a_change_of_password_ends_the_sessions_of_other_browsers() {
    let mut client = site(config(&['a']));
    for _ in 0..20 {
        let other = logged_in(&mut client, 17);
        client.post("/login/17").send();
        client.post("/password/17").send();
        assert_eq!((who(&mut client, &other).as_str(), client.get("/who").text()), ("None", "Some(17)"));
        let again = logged_in(&mut client, 17);
        assert_eq!(who(&mut client, &again), "Some(17)");
    }
    client.post("/ended/17").send();
    assert_eq!(client.get("/who").text(), "None");
    assert!(!client.cookies().contains_key(COOKIE), "the client's own session is cleared");
}

/// V7.4.5, for all users: the key is replaced. A rotated key keeps the sessions.
#[test]
fn a_rotated_key_keeps_a_login_and_a_replaced_key_ends_it() {
    let cookie = logged_in(&mut site(config(&['a'])), 17);
    let mut rotated = site(config(&['b', 'a']));
    let response = ask(&mut rotated, "/who", &cookie);
    assert_eq!((response.text(), set(&response)), ("Some(17)", None));
    let changed = elsewhere(&mut rotated, "POST", "/basket/camera", &format!("{COOKIE}={cookie}"));
    let renewed = set(&changed).expect("a handler that writes seals it again, under the first key");
    let mut replaced = site(config(&['b']));
    assert_eq!((who(&mut replaced, &cookie).as_str(), who(&mut replaced, &renewed).as_str()), ("None", "Some(17)"));
}

/// V7.5.1: the time since the password was entered.
#[test]
fn the_age_of_a_session_starts_at_the_login() {
    let mut client = site(config(&['a']));
    client.post("/basket/camera").send();
    client.advance(DAY / 2);
    let age: u64 = client.get("/age").text().parse().unwrap();
    assert!(age >= DAY.as_secs() / 2);
    client.post("/login/17").send();
    let age: u64 = client.get("/age").text().parse().unwrap();
    assert!(age < 60, "{age}");
}

#[test]
fn the_first_valid_cookie_is_used() {
    let mut client = site(config(&['a']));
    let idle = logged_in(&mut client, 1);
    client.advance(DAY);
    let (first, second) = (logged_in(&mut client, 17), logged_in(&mut client, 18));
    for (cookies, user) in [
        (vec!["planted", &first], "Some(17)"),
        (vec![&first, &second], "Some(17)"),
        (vec!["", &idle, &second, &first], "Some(18)"),
        (vec![&idle, "x"], "None"),
    ] {
        let line: Vec<String> = cookies.iter().map(|value| format!("{COOKIE}={value}")).collect();
        let response = elsewhere(&mut client, "GET", "/who", &line.join("; "));
        assert_eq!(response.text(), user, "{line:?}");
    }
}

#[test]
fn head_sees_the_same_session() {
    let mut client = site(config(&['a']));
    client.post("/login/17").send();
    client.advance(DAY / 2);
    let response = client.request("HEAD", "/").send();
    assert_eq!((response.status_code().code(), response.header("Cache-Control")), (200, Some("no-store")));
    assert!(response.headers().contains("Set-Cookie"), "it extends the idle time too");
}

/// Regression: with a hook that reads the user of every request, a shared cache stored a style sheet with the session's
/// cookie.
#[test]
fn a_public_file_never_has_a_session_cookie() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("app.css"), "p { color: red }").unwrap();
    let app = App::with_config(config(&['a']))
        .static_files("/static", folder.path())
        .template("page.html", "{{ static('app.css') }}")
        .before(|req: &mut Request| {
            let _user: Option<u64> = req.user();
            None::<Response>
        })
        .get("/", |req: &mut Request| req.render("page.html", ()))
        .post("/login", |req: &mut Request| req.login(17));
    let mut client = TestClient::new(app);
    client.post("/login").send();
    client.advance(DAY / 2);
    let address = client.get("/").text().to_owned();
    client.advance(DAY / 4);
    let file = client.get(&address);
    assert_eq!(file.header("Cache-Control"), Some("public, max-age=31536000, immutable"));
    assert!(!file.headers().contains("Set-Cookie"), "{file:?}");
    let page = client.get("/");
    assert_eq!((page.header("Cache-Control"), page.headers().contains("Set-Cookie")), (Some("no-store"), true));
}

#[test]
fn a_user_id_that_does_not_parse_is_none() {
    let app = App::with_config(config(&['a']))
        .post("/login", |req: &mut Request| req.login("ada"))
        .post("/nobody", |req: &mut Request| req.login(""))
        .get("/", |req: &mut Request| format!("{:?} {:?}", req.user::<u64>(), req.user::<String>()));
    let mut client = TestClient::new(app);
    client.post("/login").send();
    assert_eq!(client.get("/").text(), r#"None Some("ada")"#);
    assert_eq!(client.post("/nobody").send().status_code().code(), 500);
    assert_eq!(client.get("/").text(), r#"None Some("ada")"#);
}

#[cfg(feature = "sqlite")]
mod in_a_file {
    use log::Level;

    use super::*;
    use crate::logs;

    fn site_with_store(path: &std::path::Path) -> TestClient {
        site(Config { store: Some(format!("sqlite:{}", path.display())), ..config(&['a']) })
    }

    /// V7.4.1, after a restart and in another process.
    #[test]
    fn a_logout_survives_a_restart_and_reaches_other_processes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.db");
        let (mut here, mut there) = (site_with_store(&path), site_with_store(&path));
        let (one, other) = (logged_in(&mut here, 17), logged_in(&mut here, 18));
        assert_eq!(who(&mut there, &one), "Some(17)");
        elsewhere(&mut here, "POST", "/logout", &format!("{COOKIE}={one}"));
        here.post("/ended/18").send();
        for mut client in [here, there, site_with_store(&path)] {
            assert_eq!((who(&mut client, &one), who(&mut client, &other)), ("None".into(), "None".into()));
        }
    }

    #[test]
    fn an_unreadable_store_makes_pages_with_a_session_a_503() {
        logs::record();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.db");
        let mut client = site_with_store(&path);
        client.post("/login/17").send();
        let cookie = client.cookies()[COOKIE].clone();
        rusqlite::Connection::open(&path).unwrap().execute_batch("DROP TABLE remembered").unwrap();
        for path in ["/who", "/", "/basket"] {
            let response = client.get(path);
            assert_eq!(response.status_code().code(), 503, "{path}");
            assert!(!["Some(17)", "Hello"].iter().any(|words| response.text().contains(words)), "{path}");
            let lines = logs::at(Level::Error, response.header("X-Request-Id").unwrap());
            assert!(lines.len() == 1 && lines[0].contains("so the request has no user"), "{lines:?}");
        }
        for path in ["/logout", "/login/18", "/ended/17"] {
            assert_eq!(client.post(path).send().status_code().code(), 503, "{path}");
        }
        assert_eq!(client.cookies()[COOKIE], cookie, "the cookie may be valid for the next request");
        assert_eq!(client.get("/plain").status_code().code(), 200, "a page without a session needs no store");
        let other = elsewhere(&mut client, "GET", "/", "other=1");
        assert_eq!(other.text(), "Hello you", "the store is not read without a cookie");
    }
}
