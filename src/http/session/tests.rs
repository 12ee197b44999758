use super::contents::{ID_CHARS, MAX_BYTES};
use super::*;
use crate::background::registry::Registry;
use crate::background::scope::{Scope, Values};
use crate::config::{Config, Mode};
use crate::http::cookie::Cookie;
use crate::http::headers::Headers;
use crate::http::request::{Body, Method};

fn config(mode: Mode, secrets: &[char]) -> Config {
    let secrets = secrets.iter().map(|letter| letter.to_string().repeat(32)).collect();
    Config { mode, secrets, ..Config::default() }
}

const DAY: u64 = 24 * 3_600;

/// The distance of each tested time from a limit: the clock goes on during a test, on a busy machine for seconds.
const MARGIN: u64 = 300;

fn request_to(config: Config, method: Method, cookie: &str) -> Request {
    request_after(0, config, method, cookie)
}

/// Returns a request that is sent after `time` seconds.
fn request_after(time: u64, config: Config, method: Method, cookie: &str) -> Request {
    let keys = Keys::new(&config, None).unwrap();
    keys.advance(Duration::from_secs(time));
    let mut values = Values::default();
    values.insert(keys);
    values.insert(Store::open(&config).unwrap());
    let scope = Scope::new(Registry::new(&config), values);
    let mut req = Request::new(method, "/", Headers::from_iter([("Cookie", cookie)]), Body::empty());
    req.admit(scope, Arc::new(config), "3f9a1c".into());
    req
}

fn request(cookie: &str) -> Request {
    request_to(config(Mode::Development, &['a']), Method::Get, cookie)
}

fn saved(req: &mut Request) -> Response {
    let mut response = Response::text("hi");
    save(req, &mut response);
    response
}

fn later(time: u64, cookie: &str) -> Request {
    request_after(time, config(Mode::Development, &['a']), Method::Get, cookie)
}

/// Returns the cookies that a browser sends after the response.
fn after(cookies: &str, response: &Response) -> String {
    let pairs = cookies.split("; ").filter_map(|pair| pair.split_once('='));
    let mut jar: Vec<(String, String)> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for line in response.headers().get_all("Set-Cookie") {
        let (name, rest) = line.split_once('=').unwrap();
        jar.retain(|(known, _)| known != name);
        if !line.contains("Max-Age=0") {
            jar.push((name.to_owned(), rest.split(';').next().unwrap().to_owned()));
        }
    }
    let pairs: Vec<String> = jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("; ")
}

/// Returns the names of the cookies that the response sets or removes.
fn set(response: &Response) -> Vec<&str> {
    response.headers().get_all("Set-Cookie").map(|line| line.split('=').next().unwrap()).collect()
}

/// Returns the cookie that a browser sends back.
fn cookie_of(response: &Response) -> String {
    response.headers().get("Set-Cookie").unwrap().split(';').next().unwrap().to_owned()
}

fn cookie_with_user() -> String {
    let mut req = request("");
    req.session().insert("user", 17);
    cookie_of(&saved(&mut req))
}

#[test]
fn values_come_back_and_are_not_readable_in_the_cookie() {
    let cookie = cookie_with_user();
    assert!(!cookie.contains("user"), "{cookie}");
    let mut req = request(&cookie);
    assert_eq!(req.session().get::<u32>("user"), Some(17));
    assert_eq!(req.session().get::<String>("user"), None);
    let response = saved(&mut req);
    assert!(!response.headers().contains("Set-Cookie"), "nothing changed");
    assert_eq!(response.headers().get("Vary"), Some("Cookie"));
}

#[test]
fn an_unused_session_adds_no_headers() {
    let mut req = request(&cookie_with_user());
    assert!(saved(&mut req).headers().iter().all(|(name, _)| name == "Content-Type"));
}

#[test]
fn the_cookie_has_its_attributes() {
    for (mode, start, secure) in [(Mode::Development, "session=", false), (Mode::Production, "__Host-session=", true)] {
        let mut req = request_to(config(mode, &['a']), Method::Get, "");
        req.session().insert("a", 1);
        let response = saved(&mut req);
        let line = response.headers().get("Set-Cookie").unwrap();
        assert!(line.starts_with(start) && line.contains("HttpOnly") && line.contains("SameSite=Lax"), "{line}");
        assert!(line.contains("Path=/") && line.contains("; Secure") == secure, "{line}");
    }
}

#[test]
fn a_cookie_that_cannot_be_opened_is_an_empty_session() {
    let good = cookie_with_user();
    let other = if good[30..].starts_with('A') { "B" } else { "A" };
    let tampered = format!("{}{other}{}", &good[..30], &good[31..]);
    let foreign = {
        let mut req = request_to(config(Mode::Development, &['z']), Method::Get, "");
        req.session().insert("user", 17);
        cookie_of(&saved(&mut req))
    };
    for cookie in [tampered.as_str(), &foreign, "session=", "session=%00", "session=AAAA", "session"] {
        let mut req = request(cookie);
        assert!(req.session().is_empty(), "{cookie}");
        assert!(!saved(&mut req).headers().contains("Set-Cookie"), "{cookie}");
    }
    let mut req = request(&format!("session=planted; {good}"));
    assert_eq!(req.session().get::<u32>("user"), Some(17));
}

#[test]
fn all_keys_read_and_the_first_key_writes() {
    let former = cookie_with_user();
    let mut req = request_to(config(Mode::Development, &['b', 'a']), Method::Get, &former);
    assert_eq!(req.session().get::<u32>("user"), Some(17));
    req.session().insert("language", "fr");
    let renewed = cookie_of(&saved(&mut req));
    let mut req = request_to(config(Mode::Development, &['b']), Method::Get, &renewed);
    assert_eq!(req.session().get::<u32>("user"), Some(17));
}

#[test]
fn an_emptied_session_is_removed() {
    let mut req = request(&cookie_with_user());
    req.session().remove("user");
    let line = saved(&mut req).headers().get("Set-Cookie").unwrap().to_owned();
    assert!(line.starts_with("session=;") && line.contains("Max-Age=0"), "{line}");
    let mut req = request("");
    req.session().clear();
    assert!(!saved(&mut req).headers().contains("Set-Cookie"), "there was no cookie");
}

#[test]
fn a_session_that_is_too_large_is_an_error() {
    let mut req = request("");
    assert!(req.session().try_insert("essay", "x".repeat(3_000)).is_err());
    assert!(req.session().is_empty());
    req.session().insert("essay", "x".repeat(3_000));
    let response = saved(&mut req);
    assert!(response.error().unwrap().chain().contains("store large data in the database"));
    assert!(!response.headers().contains("Set-Cookie"));
}

/// A session with all its parts fits to the last byte: one byte more is refused.
#[test]
fn the_largest_session_fits_into_a_cookie() {
    let lifetime = Duration::from_secs(u64::MAX);
    let config = Config { session_lifetime: lifetime, ..config(Mode::Production, &['a']) };
    let mut req = request_to(config, Method::Get, "");
    req.flash("success", "Welcome!");
    let session = req.session();
    session.begin("17".into(), Some(unguessable().unwrap()));
    session.remember(true);
    let most = (0..MAX_BYTES).rev().find(|most| session.try_insert("x", "x".repeat(*most)).is_ok()).unwrap();
    assert!(most > 2_750, "{most} are left for the application");
    let line = saved(&mut req).headers().get("Set-Cookie").unwrap().to_owned();
    assert!((4_080..=4_096).contains(&line.len()), "{} bytes: {line}", line.len());
    for attribute in ["__Host-session=", "; HttpOnly", "; SameSite=Lax", "; Secure", "; Path=/", "; Max-Age=34560000"] {
        assert!(line.contains(attribute), "{attribute} in {line}");
    }
}

#[test]
fn the_session_id_stays_until_the_login() {
    let mut req = request("");
    let id = req.session().id().unwrap();
    assert_eq!((id.len(), req.session().id().unwrap()), (ID_CHARS, id.clone()));
    let mut back = request(&cookie_of(&saved(&mut req)));
    assert_eq!(back.session().id().unwrap(), id);
    assert!(!saved(&mut back).headers().contains("Set-Cookie"), "nothing is new");
    back.session().begin("17".into(), None);
    assert_ne!(back.session().id().unwrap(), id);
    assert_ne!(request("").session().id().unwrap(), id);
}

/// The size that is checked is the size that is sealed: `save` does not refuse what `try_insert` accepted.
#[test]
fn the_size_check_includes_an_id_that_is_not_set_yet() {
    let mut req = request("");
    let session = req.session();
    let before = serde_json::to_string(&*session.contents).unwrap().len() + ID_CHARS;
    session.insert("a", 1);
    saved(&mut req);
    let after = req.session().contents.to_json().unwrap().len();
    assert_eq!(after - before, r#","v":{"a":1}"#.len());
}

/// The cookie stays: a slow page that removed it would remove the cookie of a concurrent login.
#[test]
fn an_idle_session_expires_and_a_page_keeps_its_cookie() {
    let cookie = cookie_with_user();
    assert_eq!(later(DAY - MARGIN, &cookie).session().get::<u32>("user"), Some(17));
    for time in [DAY, DAY + 1, 400 * DAY] {
        let mut req = later(time, &cookie);
        assert!(req.session().is_empty(), "{time}");
        assert!(set(&saved(&mut req)).is_empty(), "{time}");
        req.session().clear();
        assert_eq!(set(&saved(&mut req)), ["session"], "a handler that clears it removes it");
    }
}

#[test]
fn a_page_that_only_reads_extends_only_the_idle_time() {
    let cookie = cookie_with_user();
    let mut req = later(DAY - MARGIN, &cookie);
    req.session();
    let response = saved(&mut req);
    assert_eq!(set(&response), ["session-seen"]);
    let moved = after(&cookie, &response);
    assert_eq!(later(2 * DAY - 2 * MARGIN, &moved).session().get::<u32>("user"), Some(17));
    assert!(later(2 * DAY, &moved).session().is_empty());
    assert!(later(2 * DAY - 2 * MARGIN, &cookie).session().is_empty(), "without it the session has its own time");
}

/// For example the cookie of a slow page that was requested before the login.
#[test]
fn the_time_last_seen_applies_to_one_session_only() {
    let mut req = later(DAY - MARGIN, &cookie_with_user());
    req.session();
    let of_another = saved(&mut req);
    let moved = after(&cookie_with_user(), &of_another);
    assert!(moved.contains("session-seen="));
    assert!(later(DAY, &moved).session().is_empty());
}

/// Of several concurrent responses, the last to arrive may be the oldest.
#[test]
fn the_later_of_two_times_last_seen_counts() {
    let cookie = cookie_with_user();
    let mut req = later(DAY / 2, &cookie);
    req.session();
    let seen_early = after(&cookie, &saved(&mut req));
    let mut req = later(DAY - MARGIN, &cookie);
    req.session().insert("language", "fr");
    let changed_late = after(&seen_early, &saved(&mut req));
    assert_eq!(later(2 * DAY - 2 * MARGIN, &changed_late).session().get::<u32>("user"), Some(17));
}

/// The idle time is extended after a tenth of a short limit, and after a minute of a long one: no session ends much
/// before the limit.
#[test]
fn the_idle_time_is_extended_after_a_tenth_of_it_or_a_minute() {
    for (idle, time, moved) in [(100, 9, false), (100, 10, true), (DAY, 59, false), (DAY, 60, true)] {
        let config = Config { session_idle: Duration::from_secs(idle), ..config(Mode::Development, &['a']) };
        let mut req = request_after(time, config, Method::Get, &cookie_with_user());
        req.session();
        assert_eq!(saved(&mut req).headers().contains("Set-Cookie"), moved, "{time} of {idle}");
    }
}

#[test]
fn an_active_session_expires_at_its_lifetime() {
    let mut cookie = cookie_with_user();
    for time in 1..60 {
        let mut req = later(time * DAY / 2, &cookie);
        assert_eq!(req.session().get::<u32>("user"), Some(17), "{time}");
        cookie = after(&cookie, &saved(&mut req));
    }
    assert!(later(30 * DAY, &cookie).session().is_empty());
}

/// The clock was set back, or the clock of another machine is ahead.
#[test]
fn a_session_may_begin_five_minutes_in_the_future() {
    for (time, is_there) in [(200, true), (600, false), (DAY, false)] {
        let mut req = later(time, "");
        req.session().insert("user", 17);
        let cookie = cookie_of(&saved(&mut req));
        assert_eq!(later(0, &cookie).session().get::<u32>("user").is_some(), is_there, "{time}");
    }
}

#[test]
fn the_longest_times_do_not_overflow() {
    let forever = Duration::from_secs(u64::MAX);
    let config = || Config { session_idle: forever, session_lifetime: forever, ..config(Mode::Development, &['a']) };
    let cookie = cookie_with_user();
    let mut req = request_after(u64::MAX, config(), Method::Get, &cookie);
    assert_eq!(req.session().age(), Duration::from_secs(i64::MAX as u64 - req.session().contents.born as u64));
    req.session().remember(true);
    saved(&mut req);
    assert_eq!(req.scope().get::<Keys>().unwrap().last_end(), i64::MAX);
}

#[test]
fn a_remembered_session_has_its_remaining_lifetime_in_the_cookie() {
    let max_age = |response: &Response| {
        let line = response.headers().get("Set-Cookie")?;
        line.split("Max-Age=").nth(1)?.split(';').next()?.parse::<u64>().ok()
    };
    let mut req = request("");
    req.session().insert("a", 1);
    req.session().remember(true);
    let response = saved(&mut req);
    assert!((30 * DAY - MARGIN..=30 * DAY).contains(&max_age(&response).unwrap()));

    let mut req = later(DAY / 2, &cookie_of(&response));
    req.session();
    let seen = saved(&mut req);
    assert_eq!(set(&seen), ["session-seen"]);
    assert!((30 * DAY - DAY / 2 - MARGIN..=30 * DAY - DAY / 2).contains(&max_age(&seen).unwrap()), "{seen:?}");

    for forget in [|session: &mut Session| session.remember(false), |session: &mut Session| session.clear()] {
        let mut req = later(DAY / 2, &cookie_of(&response));
        forget(req.session());
        req.session().insert("b", 1);
        assert_eq!(max_age(&saved(&mut req)), None);
    }
}

/// The ended sessions are unknown, so no request is served as a user.
#[test]
fn an_unreadable_store_is_a_503_with_an_empty_session() {
    let config = config(Mode::Development, &['a']);
    let mut values = Values::default();
    values.insert(Keys::new(&config, None).unwrap());
    let scope = Scope::new(Registry::new(&config), values);
    let headers = Headers::from_iter([("Cookie", cookie_with_user())]);
    let mut req = Request::new(Method::Get, "/", headers, Body::empty());
    req.admit(scope, Arc::new(config), "3f9a1c".into());
    assert!(req.session().is_empty() && req.session().check().is_err());
    let response = saved(&mut req);
    assert_eq!(response.status_code(), Status::SERVICE_UNAVAILABLE);
    assert!(!response.headers().contains("Set-Cookie"), "the cookie may be valid for the next request");
}

#[test]
fn every_changed_bit_and_every_truncation_is_detected() {
    let good = cookie_with_user().replace("session=", "");
    let opens = |bytes: &[u8]| {
        let value = Cookie::new("", String::from_utf8_lossy(bytes)).to_string();
        request(&format!("session{value}")).session().get::<u32>("user").is_some()
    };
    assert!(opens(good.as_bytes()));
    // The last characters of base64 may have unused bits.
    for bit in 0..(good.len() - 4) * 8 {
        let mut bytes = good.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(&bytes), "bit {bit}");
    }
    assert!((0..good.len() - 2).all(|length| !opens(&good.as_bytes()[..length])));
}

proptest::proptest! {
    #[test]
    fn any_cookie_at_all_is_an_empty_session(value in proptest::prelude::any::<String>()) {
        let mut req = request(&format!("session={value}"));
        proptest::prop_assert!(req.session().is_empty() && req.user::<String>().is_none());
        proptest::prop_assert_eq!(saved(&mut req).status_code(), Status::OK);
    }
}

#[test]
fn a_value_that_cannot_be_json_is_an_error() {
    let mut req = request("");
    req.session().insert("pairs", std::collections::HashMap::from([((1, 2), 3)]));
    assert!(saved(&mut req).error().unwrap().chain().contains("`pairs` cannot be stored"));
}

#[test]
fn a_flash_message_is_shown_once_and_not_by_a_head_request() {
    let mut req = request("");
    req.flash("success", "Photo uploaded!");
    let response = saved(&mut req);
    assert!(set(&response).len() == 1 && set(&response)[0].starts_with("flash-"), "{response:?}");
    let cookie = cookie_of(&response);

    let mut head = request_to(config(Mode::Development, &['a']), Method::Head, &cookie);
    assert_eq!(head.take_flashes().len(), 1);
    assert!(set(&saved(&mut head)).is_empty());

    let mut broken = request(&cookie);
    broken.take_flashes();
    let mut response = Response::from_error(Error::internal("boom"));
    save(&mut broken, &mut response);
    assert!(set(&response).is_empty(), "the user has not seen it");

    let mut get = request(&cookie);
    assert_eq!(get.take_flashes()[0].message, "Photo uploaded!");
    get.flash("info", "for the next page");
    let mut next = request(&after(&cookie, &saved(&mut get)));
    let messages: Vec<String> = next.take_flashes().into_iter().map(|flash| flash.message).collect();
    assert_eq!(messages, ["for the next page"]);
}

/// All requests were sent at the same time, and the browser receives the responses in the given order.
fn browser_after(cookies: &str, responses: &[&Response]) -> String {
    responses.iter().fold(cookies.to_owned(), |cookies, response| after(&cookies, response))
}

/// Regression: a page that only read the session, or showed a message, sent the whole session back and undid concurrent
/// changes, even a login.
#[test]
fn a_slow_page_that_only_reads_does_not_undo_changes() {
    let mut begin = request("");
    begin.session().insert("basket", "camera");
    begin.flash("info", "first");
    let cookies = after("", &saved(&mut begin));

    let mut slow = later(DAY / 2, &cookies);
    assert_eq!(slow.take_flashes().len(), 1);
    assert_eq!(slow.session().get::<String>("basket").as_deref(), Some("camera"));
    let slow = saved(&mut slow);

    let mut quick = later(DAY / 2, &cookies);
    quick.session().begin("17".into(), None);
    quick.session().insert("basket", "lens");
    quick.flash("success", "second");
    let quick = saved(&mut quick);

    for order in [[&slow, &quick], [&quick, &slow]] {
        let mut next = later(DAY / 2, &browser_after(&cookies, &order));
        assert_eq!(next.session().user(), Some("17"));
        assert_eq!(next.session().get::<String>("basket").as_deref(), Some("lens"));
        let messages: Vec<String> = next.take_flashes().into_iter().map(|flash| flash.message).collect();
        assert_eq!(messages, ["second"]);
    }
}

#[test]
fn messages_of_two_responses_at_the_same_time_are_both_shown() {
    let responses = ["one", "two"].map(|message| {
        let mut req = request("");
        req.flash("info", message);
        saved(&mut req)
    });
    let mut next = request(&browser_after("", &[&responses[0], &responses[1]]));
    let messages: Vec<String> = next.take_flashes().into_iter().map(|flash| flash.message).collect();
    assert_eq!(messages, ["one", "two"]);
}

/// Regression: a hook that read the user of every request made shared caches store the session's cookie with a style
/// sheet.
#[test]
fn a_public_response_has_no_cookie_and_one_with_a_cookie_is_private() {
    let answered = |req: &mut Request, control: &str| {
        let mut response = Response::text("hi").header("Cache-Control", control);
        save(req, &mut response);
        let control = response.headers().get("Cache-Control").unwrap().to_owned();
        (set(&response).into_iter().map(str::to_owned).collect::<Vec<_>>(), control)
    };
    let cookie = cookie_with_user();
    let read = |control| {
        let mut req = later(DAY / 2, &cookie);
        req.session();
        answered(&mut req, control)
    };
    for control in ["public, max-age=31536000, immutable", "s-maxage=60"] {
        assert_eq!(read(control), (vec![], control.to_owned()));
    }
    assert_eq!(read("max-age=60"), (vec!["session-seen".into()], "private, max-age=60".into()));

    let mut changed = later(DAY / 2, &cookie);
    changed.session().insert("a", 1);
    assert_eq!(answered(&mut changed, "public, max-age=60"), (vec!["session".into()], "private, max-age=60".into()));
    let mut flashed = request("");
    flashed.flash("info", "Hello");
    let (names, control) = answered(&mut flashed, "public");
    assert_eq!((names.len(), control.as_str()), (1, "private"));
}

/// aiohttp's cookie jar quotes a value with a slash (RFC 6265, section 4.1.1).
#[test]
fn a_quoted_session_cookie_is_read() {
    let quoted = cookie_with_user().replace("session=", "session=\"") + "\"";
    assert_eq!(request(&quoted).session().get::<u32>("user"), Some(17));
}
