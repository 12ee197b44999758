//! What a visitor brings along from page to page: one encrypted and authenticated cookie, and in it the flash messages.
//!
//! The server keeps nothing. The cookie is opened when the session is first asked for, and sent again only when it
//! changed. One that cannot be opened (tampered with, of another site, of a key that is gone) is an empty session: the
//! visitor can do nothing about it, and an error page would only tell a forger how far he came.

use std::sync::Arc;

use cookie::{Cookie, CookieJar, Key, SameSite};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::Request;
use super::response::Response;
use crate::config::{Config, Mode};
use crate::error::{Error, Result};

/// Bytes of JSON that a session may hold: encrypted, in base64 and with its attributes that is just under the 4,096 bytes
/// of a cookie that every browser keeps.
const MOST_BYTES: usize = 2_900;

/// The keys that sessions are sealed with, and the name and attributes of their cookie.
pub(crate) struct Keys {
    keys: Vec<Key>,
    mode: Mode,
}

impl Keys {
    /// The keys of a configuration. Without any, one is made up in development, which the log says.
    ///
    /// # Errors
    /// When a key is shorter than 32 bytes, or there is none in production.
    pub(crate) fn new(config: &Config) -> Result<Keys> {
        let keys = match (config.secrets.is_empty(), config.mode) {
            (false, _) => config.secrets.iter().map(|secret| derive(secret)).collect::<Result<_>>()?,
            (true, Mode::Development) => vec![made_up()?],
            (true, Mode::Production) => {
                return Err(Error::internal(
                    "ASIDE_SECRET must be set in production: at least 32 bytes, the same at every start; \
                     `openssl rand -base64 48` makes one",
                ));
            }
        };
        Ok(Keys { keys, mode: config.mode })
    }

    /// The cookie's name. A browser takes `__Host-` only over https, for this host alone and the whole of it, so that no
    /// subdomain can plant one.
    fn name(&self) -> &'static str {
        match self.mode {
            Mode::Development => "session",
            Mode::Production => "__Host-session",
        }
    }

    fn cookie(&self, value: String) -> Cookie<'static> {
        Cookie::build((self.name(), value))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(self.mode == Mode::Production)
            .build()
    }

    fn seal(&self, json: String) -> Cookie<'static> {
        let mut jar = CookieJar::new();
        jar.private_mut(&self.keys[0]).add(self.cookie(json));
        jar.get(self.name()).cloned().expect("the jar has the cookie that was just added")
    }

    /// The contents, and whether the key was one that does not write any more.
    fn open(&self, sealed: &str) -> Option<(String, bool)> {
        let cookie = Cookie::new(self.name(), sealed.to_owned());
        let jar = CookieJar::new();
        let open = |key| jar.private(key).decrypt(cookie.clone());
        let (place, cookie) = self.keys.iter().enumerate().find_map(|(place, key)| Some((place, open(key)?)))?;
        Some((cookie.value().to_owned(), place > 0))
    }
}

fn derive(secret: &str) -> Result<Key> {
    if secret.len() < 32 {
        let words = "ASIDE_SECRET: each key needs at least 32 bytes; `openssl rand -base64 48` makes one";
        return Err(Error::internal(words));
    }
    Ok(Key::derive_from(secret.as_bytes()))
}

fn made_up() -> Result<Key> {
    log::warn!(
        target: "aside::session",
        "The key of the sessions was made up, and they end with this process. Set ASIDE_SECRET to at least 32 bytes to \
         keep them (`openssl rand -base64 48` makes some)."
    );
    Key::try_generate().ok_or_else(|| Error::internal("the system gives no random bytes for the key of the sessions"))
}

/// A message for the visitor's next page.
///
/// ```
/// use aside::{Request, Response, redirect};
///
/// fn create_order(req: &mut Request) -> Response {
///     req.flash("success", "Processing your order!");
///     redirect("/orders")
/// }
/// ```
///
/// A template shows them with `{% for flash in flashes %}<p class="{{ flash.kind }}">{{ flash.message }}</p>{% endfor %}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flash {
    /// What kind of message: `success`, `error`, or whatever the page's style sheet knows.
    pub kind: String,
    /// The words.
    pub message: String,
}

/// What the application keeps about one visitor, in a cookie that only it can read.
///
/// ```
/// use aside::{Request, Response, redirect};
///
/// fn log_in(req: &mut Request) -> Response {
///     req.session().insert("user", 17);
///     redirect("/")
/// }
///
/// fn greet(req: &mut Request) -> String {
///     match req.session().get::<u64>("user") {
///         Some(id) => format!("You are user {id}."),
///         None => "Who are you?".into(),
///     }
/// }
/// ```
///
/// It holds at most 2.9 kB as JSON: keep an id in it, and what belongs to the id in the database. The visitor cannot read
/// or change it, but can bring back an older one: what must happen once (a voucher) is for the database too. The cookie is
/// gone when the browser is closed.
#[derive(Debug, Default)]
pub struct Session {
    contents: Contents,
    /// The visitor sent a cookie, good or not: one to remove when the session is emptied.
    had_cookie: bool,
    changed: bool,
    /// The application asked for it: the page depends on the cookie.
    touched: bool,
    /// That many flash messages, the oldest, have been shown.
    shown: usize,
    broken: Option<Error>,
}

/// As in the cookie; short names, since space is scarce.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct Contents {
    #[serde(rename = "v", default, skip_serializing_if = "Map::is_empty")]
    values: Map<String, Value>,
    #[serde(rename = "f", default, skip_serializing_if = "Vec::is_empty")]
    flashes: Vec<Flash>,
}

impl Session {
    /// The value of that name, when there is one of that type.
    pub fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        T::deserialize(self.contents.values.get(key)?).ok()
    }

    /// Keeps a value, in place of one of the same name.
    ///
    /// It does not fail in the hand: a value that cannot be JSON, or a session that becomes larger than 2.9 kB, makes the
    /// response a 500 that the log explains. [`try_insert`](Session::try_insert) gives the error at once.
    pub fn insert(&mut self, key: &str, value: impl Serialize) {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.changed |= self.contents.values.get(key) != Some(&value);
                self.contents.values.insert(key.to_owned(), value);
            }
            Err(error) => self.broken = Some(unwritable(key, error)),
        }
    }

    /// The same, or the reason why it cannot be; the session is then as it was.
    ///
    /// # Errors
    /// When the value cannot be JSON, or the session would be larger than 2.9 kB with it.
    pub fn try_insert(&mut self, key: &str, value: impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value).map_err(|error| unwritable(key, error))?;
        let former = self.contents.values.insert(key.to_owned(), value);
        if let Err(error) = self.contents.to_json() {
            match former {
                Some(former) => self.contents.values.insert(key.to_owned(), former),
                None => self.contents.values.remove(key),
            };
            return Err(error);
        }
        self.changed |= self.contents.values.get(key) != former.as_ref();
        Ok(())
    }

    /// Forgets the value of that name.
    pub fn remove(&mut self, key: &str) {
        self.changed |= self.contents.values.remove(key).is_some();
    }

    /// Forgets all values and flash messages, as at logging out. The visitor's cookie is removed.
    pub fn clear(&mut self) {
        self.contents = Contents::default();
        self.shown = 0;
        self.changed = true;
    }

    /// Whether it holds no value. Flash messages do not count.
    pub fn is_empty(&self) -> bool {
        self.contents.values.is_empty()
    }

    fn load(req: &Request) -> Session {
        let Some(keys) = req.scope().get::<Keys>() else { return Session::default() };
        let had_cookie = req.cookie(keys.name()).is_some();
        let opened = open(req, &keys);
        if had_cookie && opened.is_none() {
            log::debug!(target: "aside::session", "The session cookie cannot be opened; the session is empty. ({})", req.id());
        }
        // Under a former key: sealed anew, so that the former key can be dropped one day.
        let (contents, changed) = opened.unwrap_or_default();
        Session { contents, changed, had_cookie, ..Session::default() }
    }

    /// Takes out the flash messages that were shown.
    fn forget_shown(&mut self) {
        let shown = self.shown.min(self.contents.flashes.len());
        self.contents.flashes.drain(..shown);
        self.changed |= shown > 0;
        self.shown = 0;
    }
}

impl Contents {
    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.flashes.is_empty()
    }

    fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string(self)?;
        if json.len() > MOST_BYTES {
            return Err(Error::internal(format!(
                "the session has {} bytes of JSON, and its cookie holds {MOST_BYTES}: keep big things in the database, \
                 and an id in the session",
                json.len()
            )));
        }
        Ok(json)
    }
}

fn unwritable(key: &str, error: serde_json::Error) -> Error {
    Error::from(error).context(format!("the value of `{key}` cannot be kept in the session, which is JSON"))
}

/// The contents of the first cookie that can be opened: a subdomain may have planted another beside it.
fn open(req: &Request, keys: &Keys) -> Option<(Contents, bool)> {
    let ours = req.cookies().filter(|(name, _)| name == keys.name());
    ours.into_iter().find_map(|(_, sealed)| {
        let (json, former) = keys.open(&sealed)?;
        Some((serde_json::from_str(&json).ok()?, former))
    })
}

impl Request {
    /// The visitor's session. The cookie is opened at the first call; one that cannot be is an empty session.
    pub fn session(&mut self) -> &mut Session {
        let session = self.session_unasked();
        session.touched = true;
        session
    }

    fn session_unasked(&mut self) -> &mut Session {
        if self.extension::<Session>().is_none() {
            let session = Session::load(self);
            self.set_extension(session);
        }
        self.extension().expect("the session has just been put there")
    }

    /// Keeps a message for the next page that shows messages: often the one that the visitor is redirected to.
    pub fn flash(&mut self, kind: impl Into<String>, message: impl Into<String>) {
        let session = self.session();
        session.contents.flashes.push(Flash { kind: kind.into(), message: message.into() });
        session.changed = true;
    }

    /// The flash messages, for a page without a template. They are not shown again, unless this request is a HEAD, or its
    /// response becomes a server error.
    pub fn take_flashes(&mut self) -> Vec<Flash> {
        let flashes = self.session().contents.flashes.clone();
        note_shown(self);
        flashes
    }
}

/// How many flash messages there are so far, for [`flashes_since`].
pub(crate) fn flash_count(req: &mut Request) -> usize {
    req.session_unasked().contents.flashes.len()
}

/// The flash messages that came after there were that many.
pub(crate) fn flashes_since(req: &mut Request, count: usize) -> Vec<Flash> {
    req.session_unasked().contents.flashes.get(count..).unwrap_or_default().to_vec()
}

/// What finds the flash messages when they are looked at.
pub(crate) type FlashReader = Box<dyn FnOnce() -> Vec<Flash> + Send>;

/// The flash messages for a template, which may never look: the cookie is opened when it does.
pub(crate) fn flashes_for_template(req: &mut Request) -> FlashReader {
    if let Some(session) = req.extension::<Session>() {
        let flashes = session.contents.flashes.clone();
        return Box::new(move || flashes);
    }
    let keys: Option<Arc<Keys>> = req.scope().get();
    let Some(keys) = keys.filter(|keys| req.cookie(keys.name()).is_some()) else { return Box::new(Vec::new) };
    let sealed: Vec<String> = req.cookies().filter(|(name, _)| name == keys.name()).map(|(_, value)| value).collect();
    Box::new(move || {
        let open = |sealed: &String| serde_json::from_str(&keys.open(sealed)?.0).ok();
        sealed.iter().find_map(open).map_or_else(Vec::new, |contents: Contents| contents.flashes)
    })
}

/// Notes that the page shows the flash messages that there are so far. A HEAD shows nothing to anybody.
pub(crate) fn note_shown(req: &mut Request) {
    let is_head = req.is_head();
    let session = req.session();
    if !is_head {
        session.shown = session.contents.flashes.len();
    }
}

/// Puts the session on the response, when it was touched: the one step that every response goes through before its error
/// page is made, since a session that cannot be kept turns it into an error.
///
/// Flash messages that were shown are forgotten here, unless the page that showed them came to nothing.
pub(crate) fn save(req: &mut Request, response: &mut Response) {
    let scope = req.scope();
    let Some(session) = req.extension::<Session>() else { return };
    if !response.status_code().is_server_error() {
        session.forget_shown();
    }
    if session.touched {
        keep_apart(response);
    }
    match set_cookie(session, scope.get::<Keys>().as_deref()) {
        Ok(None) => {}
        Ok(Some(cookie)) => response.headers.append("Set-Cookie", cookie),
        Err(error) => {
            let set_aside = response.take_set_aside();
            *response = Response::from_error(error).with_set_aside(set_aside);
        }
    }
}

/// The header that brings the visitor's cookie up to date, when it is not.
fn set_cookie(session: &mut Session, keys: Option<&Keys>) -> Result<Option<String>> {
    if let Some(error) = session.broken.take() {
        return Err(error);
    }
    if !std::mem::take(&mut session.changed) {
        return Ok(None);
    }
    let keys = keys.ok_or_else(|| Error::internal("a session needs an application: `App` has its keys"))?;
    if !session.contents.is_empty() {
        // Base64 needs no percent-encoding, which would make it larger.
        return Ok(Some(keys.seal(session.contents.to_json()?).to_string()));
    }
    let mut cookie = keys.cookie(String::new());
    cookie.make_removal();
    Ok(session.had_cookie.then(|| cookie.to_string()))
}

/// A page made from a session is one visitor's: a cache in between must not give it to another. `Vary` keeps apart what is
/// stored, `private` keeps shared caches out, and `no-cache` makes the browser ask again, so that nobody is shown as logged
/// in who is not. Words of the handler's own stand. Not `no-store`, which would make the way back slow for all.
fn keep_apart(response: &mut Response) {
    let varies = |value: &str| {
        value.split(',').any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("cookie"))
    };
    if !response.headers.get_all("Vary").any(varies) {
        response.headers.append("Vary", "Cookie");
    }
    if !response.headers.contains("Cache-Control") {
        response.headers.set("Cache-Control", "private, no-cache");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};

    fn config(mode: Mode, secrets: &[char]) -> Config {
        let secrets = secrets.iter().map(|letter| letter.to_string().repeat(32)).collect();
        Config { mode, secrets, ..Config::default() }
    }

    fn request_to(config: Config, method: Method, cookie: &str) -> Request {
        let mut values = Values::default();
        values.insert(Keys::new(&config).unwrap());
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

    /// What a browser would send back.
    fn cookie_of(response: &Response) -> String {
        response.headers().get("Set-Cookie").unwrap().split(';').next().unwrap().to_owned()
    }

    fn cookie_with_user() -> String {
        let mut req = request("");
        req.session().insert("user", 17);
        cookie_of(&saved(&mut req))
    }

    #[test]
    fn what_was_put_in_comes_back_and_cannot_be_read_in_between() {
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
    fn a_session_that_nobody_asked_for_costs_nothing() {
        let mut req = request(&cookie_with_user());
        assert!(saved(&mut req).headers().iter().all(|(name, _)| name == "Content-Type"));
    }

    #[test]
    fn the_cookie_has_its_attributes() {
        for (mode, start, secure) in
            [(Mode::Development, "session=", false), (Mode::Production, "__Host-session=", true)]
        {
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
        let tampered = format!("{}A{}", &good[..30], &good[31..]);
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
    fn a_former_key_still_reads_and_the_first_one_writes() {
        let former = cookie_with_user();
        let mut req = request_to(config(Mode::Development, &['b', 'a']), Method::Get, &former);
        assert_eq!(req.session().get::<u32>("user"), Some(17));
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
        assert!(!saved(&mut req).headers().contains("Set-Cookie"), "there was none");
    }

    #[test]
    fn a_session_that_is_too_large_says_so() {
        let mut req = request("");
        assert!(req.session().try_insert("essay", "x".repeat(3_000)).is_err());
        assert!(req.session().is_empty());
        req.session().insert("essay", "x".repeat(3_000));
        let response = saved(&mut req);
        assert!(response.error().unwrap().chain().contains("keep big things in the database"));
        assert!(!response.headers().contains("Set-Cookie"));
    }

    #[test]
    fn the_largest_session_fits_into_a_cookie() {
        let mut req = request_to(config(Mode::Production, &['a']), Method::Get, "");
        req.session().insert("x", "x".repeat(MOST_BYTES - r#"{"v":{"x":""}}"#.len()));
        assert!(saved(&mut req).headers().get("Set-Cookie").unwrap().len() <= 4_096);
    }

    #[test]
    fn a_value_that_is_no_json_becomes_an_error() {
        let mut req = request("");
        req.session().insert("pairs", std::collections::HashMap::from([((1, 2), 3)]));
        assert!(saved(&mut req).error().unwrap().chain().contains("`pairs` cannot be kept"));
    }

    #[test]
    fn a_flash_message_is_read_once_and_not_by_head() {
        let mut req = request("");
        req.flash("success", "Photo uploaded!");
        let cookie = cookie_of(&saved(&mut req));

        let mut head = request_to(config(Mode::Development, &['a']), Method::Head, &cookie);
        assert_eq!(head.take_flashes().len(), 1);
        assert!(!saved(&mut head).headers().contains("Set-Cookie"));

        let mut broken = request(&cookie);
        broken.take_flashes();
        let mut response = Response::from_error(Error::internal("boom"));
        save(&mut broken, &mut response);
        assert!(!response.headers().contains("Set-Cookie"), "nobody has seen it");

        let mut get = request(&cookie);
        assert_eq!(get.take_flashes()[0].message, "Photo uploaded!");
        get.flash("info", "for the next page");
        let mut next = request(&cookie_of(&saved(&mut get)));
        let messages: Vec<String> = next.take_flashes().into_iter().map(|flash| flash.message).collect();
        assert_eq!(messages, ["for the next page"]);
    }

    #[test]
    fn production_needs_a_key_and_every_key_its_length() {
        let words = Keys::new(&config(Mode::Production, &[])).err().unwrap().to_string();
        assert!(words.contains("ASIDE_SECRET"), "{words}");
        let short = Config { secrets: vec!["short".into()], ..Config::default() };
        assert!(Keys::new(&short).err().unwrap().to_string().contains("ASIDE_SECRET"));
        assert!(Keys::new(&config(Mode::Development, &[])).is_ok());
    }
}
