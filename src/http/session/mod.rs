//! What a visitor brings along from page to page: one encrypted and authenticated cookie, and in it who is logged in, the
//! application's values, and the flash messages.
//!
//! The server keeps no sessions, only which of them were ended before their time (`http/store.rs`). The cookie is opened
//! when the session is first asked for, by a handler or by a template in the middle of its page, and sent again when it
//! changed or its idle time has to be moved on. One that cannot be opened (tampered with, of another site, of a key that
//! is gone) or whose time is over is an empty session: the visitor can do nothing about it, and an error page would only
//! tell a forger how far he came. Only when nobody can say whether a session was ended, the answer is an error.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie::{Cookie, CookieJar, Key, SameSite};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::Request;
use super::response::Response;
use super::store::{self, Shelf, Store};
use crate::background::registry::Origin;
use crate::config::{Config, Mode};
use crate::error::{Error, Result, Status};

/// Bytes of JSON that a session may hold, some 90 of them the framework's own: with 28 of encryption, in base64, and with
/// the longest name and all attributes that is 4,085 bytes, and every browser keeps a cookie of 4,096.
const MOST_BYTES: usize = 2_980;

/// Characters of an id: 16 random bytes, which are more than anybody can try.
const ID_CHARS: usize = 22;

/// Seconds by which a session may come from the future. Clocks of machines that share a secret differ by so much; one that
/// was set back by more would let its sessions live until their time comes again.
const MOST_SKEW: i64 = 300;

/// A browser forgets every cookie after 400 days (RFC 6265bis, section 5.5).
const MOST_MAX_AGE: i64 = 400 * 24 * 3600;

/// The keys that sessions are sealed with, the name and attributes of their cookie, and how long they live.
pub(crate) struct Keys {
    keys: Vec<Key>,
    mode: Mode,
    idle: i64,
    lifetime: i64,
    /// Seconds by which a test is ahead of the clock.
    ahead: AtomicI64,
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
        let (idle, lifetime) = (seconds(config.session_idle), seconds(config.session_lifetime));
        Ok(Keys { keys, mode: config.mode, idle, lifetime, ahead: AtomicI64::new(0) })
    }

    /// The time by which sessions live, in seconds.
    pub(crate) fn now(&self) -> i64 {
        store::now().saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    /// Puts a test further ahead of the clock.
    pub(crate) fn advance(&self, time: Duration) {
        self.ahead.fetch_add(seconds(time), Ordering::Relaxed);
    }

    /// The second in which the last session that begins now will be over, for clocks that differ too.
    pub(crate) fn last_end(&self) -> i64 {
        self.now().saturating_add(self.lifetime).saturating_add(MOST_SKEW)
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
    fn open(&self, sealed: &str) -> Option<(Contents, bool)> {
        let jar = CookieJar::new();
        let open = |key| jar.private(key).decrypt(Cookie::new(self.name(), sealed.to_owned()));
        let (place, cookie) = self.keys.iter().enumerate().find_map(|(place, key)| Some((place, open(key)?)))?;
        Some((serde_json::from_str(cookie.value()).ok()?, place > 0))
    }

    /// Whether a session is within both of its times.
    fn is_within_times(&self, contents: &Contents, now: i64) -> bool {
        let within = |since: i64, limit: i64| (-MOST_SKEW..limit).contains(&now.saturating_sub(since));
        within(contents.born, self.lifetime) && within(contents.seen, self.idle)
    }

    /// Whether a session is to be sealed anew, so that its idle time begins again: not at each request, since a cookie is
    /// 4 kB at worst, but after a tenth of the limit, which shortens nobody's idle time by more than that; and after a
    /// minute at the latest, which is what people still take for `one day`.
    fn is_due(&self, contents: &Contents, now: i64) -> bool {
        now.saturating_sub(contents.seen) >= (self.idle / 10).clamp(1, 60)
    }

    /// Seconds that are left of a session that began then.
    fn rest(&self, born: i64, now: i64) -> i64 {
        born.saturating_add(self.lifetime).saturating_sub(now).clamp(0, MOST_MAX_AGE)
    }
}

fn seconds(time: Duration) -> i64 {
    time.as_secs().try_into().unwrap_or(i64::MAX)
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

/// Words that nobody can guess, and that were never said before.
///
/// # Errors
/// When the system gives no random bytes.
pub(crate) fn unguessable() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::from(error).context("the system gives no random bytes"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
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
/// fn choose(req: &mut Request) -> Response {
///     req.session().insert("language", "fr");
///     redirect("/")
/// }
///
/// fn greet(req: &mut Request) -> &'static str {
///     match req.session().get::<String>("language").as_deref() {
///         Some("fr") => "Bonjour!",
///         _ => "Hello!",
///     }
/// }
/// ```
///
/// Who the visitor is belongs in it by [`login`](crate::login()), and out of it by [`logout`](crate::logout).
///
/// It holds at most 2.9 kB as JSON: keep an id in it, and what belongs to the id in the database. The visitor cannot read
/// or change it, but can bring back an older one: what must happen once (a voucher) is for the database too.
///
/// It ends after `ASIDE_SESSION_IDLE` (one day) without a request that looks at it, and after `ASIDE_SESSION_LIFETIME`
/// (30 days) in any case, from its beginning or from the login; both are enforced here and not by the browser. The cookie
/// is gone when the browser is closed, unless [`remember`](Session::remember) says otherwise.
#[derive(Debug)]
pub struct Session {
    contents: Contents,
    /// The request's time, in seconds.
    now: i64,
    /// The visitor sent a cookie, good or not: one to remove when the session is emptied.
    had_cookie: bool,
    /// It was somebody's when the request came.
    had_user: bool,
    changed: bool,
    /// That many flash messages, the oldest, have been shown.
    shown: usize,
    broken: Option<Error>,
}

/// As in the cookie; short names, since space is scarce. A cookie without the first three cannot be opened: it is older
/// than they are, and nothing says when it ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Contents {
    /// Its name in the store, once it is ended. Empty until it is first sealed.
    #[serde(rename = "i")]
    id: String,
    /// The second in which it began, or its user logged in.
    #[serde(rename = "b")]
    born: i64,
    /// The second of the request that it was last sealed for.
    #[serde(rename = "s")]
    seen: i64,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// What the store said of the user at the login: another word there means that the user's sessions were ended since.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    mark: Option<String>,
    /// Whether the cookie stays when the browser is closed.
    #[serde(rename = "r", default, skip_serializing_if = "std::ops::Not::not")]
    remember: bool,
    /// Whether something outside is kept under its id, so that it is kept although it is empty.
    #[serde(rename = "k", default, skip_serializing_if = "std::ops::Not::not")]
    is_key: bool,
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

    /// Forgets all values, the flash messages and the user. The visitor's cookie is removed. To log somebody out take
    /// [`logout`](crate::logout), which also ends copies of the cookie.
    pub fn clear(&mut self) {
        self.contents = Contents::new(self.now);
        self.shown = 0;
        self.changed = true;
    }

    /// Whether it holds no value. Flash messages and the user do not count.
    pub fn is_empty(&self) -> bool {
        self.contents.values.is_empty()
    }

    /// Whether the browser keeps the cookie when it is closed (`Max-Age`), for the rest of `ASIDE_SESSION_LIFETIME`. It
    /// does not without this call, and not after [`logout`](crate::logout).
    ///
    /// ```
    /// use aside::{Request, Result, login};
    ///
    /// fn log_in(req: &mut Request, user: u64, stay_logged_in: bool) -> Result<()> {
    ///     login(req, user)?;
    ///     req.session().remember(stay_logged_in);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The idle limit holds for a remembered session too: where visitors are to come back after weeks without logging in,
    /// set `ASIDE_SESSION_IDLE` to weeks.
    pub fn remember(&mut self, remember: bool) {
        self.changed |= self.contents.remember != remember;
        self.contents.remember = remember;
    }

    /// How long ago it began, or its user logged in; whole seconds. Before somebody changes an address or a password, ask
    /// for the password again when this is more than some minutes (OWASP ASVS 5, 7.5.1).
    pub fn age(&self) -> Duration {
        Duration::from_secs(self.now.saturating_sub(self.contents.born).try_into().unwrap_or(0))
    }

    /// Its id: the key of what is kept for this visitor alone, in a [`LiveMap`](crate::LiveMap), a cache or a table.
    ///
    /// ```
    /// use aside::{LiveMap, Request, Response, Result};
    ///
    /// struct Searches(LiveMap<String, Vec<String>>);
    ///
    /// fn follow(req: &mut Request) -> Result<Response> {
    ///     let visitor = req.session().id()?;
    ///     let found = req.state::<Searches>().0.entry(visitor, Vec::new);
    ///     req.live(&found, "found.html")
    /// }
    /// ```
    ///
    /// 128 random bits, which nobody can guess and the visitor does not see. It is another one after a login or a logout.
    ///
    /// # Errors
    /// 500 when the system has no random numbers.
    pub fn id(&mut self) -> Result<String> {
        if self.contents.id.is_empty() {
            self.contents.id = unguessable()?;
            self.changed = true;
        }
        self.changed |= !std::mem::replace(&mut self.contents.is_key, true);
        Ok(self.contents.id.clone())
    }

    /// The user, as text.
    pub(crate) fn user(&self) -> Option<&str> {
        self.contents.user.as_deref()
    }

    /// Begins anew for a user, under another id: what somebody planted or copied before is not this session. Values and
    /// flash messages stay, unless they are of another user.
    pub(crate) fn begin(&mut self, user: String, mark: Option<String>) {
        if self.user().is_some_and(|former| former != user) {
            self.clear();
        }
        let contents = &mut self.contents;
        (contents.id, contents.born) = (String::new(), self.now);
        (contents.user, contents.mark) = (Some(user), mark);
        self.changed = true;
    }

    /// Its id, when there is a cookie somewhere that has it.
    pub(crate) fn sealed_id(&self) -> Option<&str> {
        Some(self.contents.id.as_str()).filter(|id| !id.is_empty())
    }

    /// Refuses to go on with a session of which nobody can say whether it was ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.broken.as_ref().map_or(Ok(()), |error| Err(Error::new(error.status(), error.chain())))
    }

    fn load(req: &mut Request) -> Session {
        let sealed = Sealed::of(req);
        let opened = sealed.opened();
        let contents = opened.contents.clone().unwrap_or_else(|| Contents::new(opened.now));
        Session {
            had_user: contents.user.is_some(),
            contents,
            now: opened.now,
            had_cookie: !sealed.values.is_empty(),
            changed: opened.outdated,
            shown: 0,
            broken: opened.problem.clone().map(|words| Error::new(Status::SERVICE_UNAVAILABLE, words)),
        }
    }

    /// Takes out the flash messages that were shown.
    fn forget_shown(&mut self) {
        let shown = self.shown.min(self.contents.flashes.len());
        self.contents.flashes.drain(..shown);
        self.changed |= shown > 0;
        self.shown = 0;
    }

    /// The cookie that holds it from now on.
    fn seal(&mut self, keys: &Keys) -> Result<Cookie<'static>> {
        let contents = &mut self.contents;
        contents.seen = self.now;
        if contents.id.is_empty() {
            contents.id = unguessable()?;
        }
        let mut cookie = keys.seal(contents.to_json()?);
        if contents.remember {
            cookie.set_max_age(cookie::time::Duration::seconds(keys.rest(contents.born, self.now)));
        }
        Ok(cookie)
    }
}

impl Contents {
    fn new(now: i64) -> Contents {
        Contents {
            id: String::new(),
            born: now,
            seen: now,
            user: None,
            mark: None,
            remember: false,
            is_key: false,
            values: Map::new(),
            flashes: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.flashes.is_empty() && self.user.is_none() && !self.is_key
    }

    fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string(self)?;
        // Also as large as it will be: with the id that it has not been given yet.
        let bytes = json.len() + ID_CHARS.saturating_sub(self.id.len());
        if bytes > MOST_BYTES {
            return Err(Error::internal(format!(
                "the session has {bytes} bytes of JSON, and its cookie holds {MOST_BYTES}: keep big things in the \
                 database, and an id in the session"
            )));
        }
        Ok(json)
    }
}

fn unwritable(key: &str, error: serde_json::Error) -> Error {
    Error::from(error).context(format!("the value of `{key}` cannot be kept in the session, which is JSON"))
}

/// The session cookies of a request, opened when somebody first looks: the handler, or a template in the middle of its
/// page. Both see the same, and the store is asked once.
struct Sealed {
    values: Vec<String>,
    keys: Option<Arc<Keys>>,
    store: Option<Arc<Store>>,
    origin: Arc<Origin>,
    opened: OnceLock<Opened>,
}

/// What was found in them.
#[derive(Default)]
struct Opened {
    contents: Option<Contents>,
    now: i64,
    /// The browser has to be given another cookie, or none.
    outdated: bool,
    /// Why nobody can say whether the session was ended.
    problem: Option<String>,
}

impl Sealed {
    fn of(req: &mut Request) -> Arc<Sealed> {
        if let Some(sealed) = req.extension::<Arc<Sealed>>() {
            return sealed.clone();
        }
        let keys = req.scope().get::<Keys>();
        let values = keys.as_ref().map_or_else(Vec::new, |keys| req.cookies_named(keys.name()).collect());
        let (store, origin) = (req.scope().get(), req.origin().clone());
        let sealed = Arc::new(Sealed { values, keys, store, origin, opened: OnceLock::new() });
        req.set_extension(sealed.clone());
        sealed
    }

    fn opened(&self) -> &Opened {
        self.opened.get_or_init(|| match &self.keys {
            Some(keys) => self.open(keys),
            None => Opened::default(),
        })
    }

    /// Opens the first cookie that can be, and whose time is not over: a subdomain may have planted another beside it.
    fn open(&self, keys: &Keys) -> Opened {
        let now = keys.now();
        let mut opened = self.values.iter().filter_map(|value| keys.open(value)).peekable();
        // One of ours whose time is over is removed. What cannot be opened may be another application's.
        let some_are_ours = opened.peek().is_some();
        let Some((contents, former_key)) = opened.find(|(contents, _)| keys.is_within_times(contents, now)) else {
            self.tell(if some_are_ours { "is over" } else { "cannot be opened" });
            return Opened { now, outdated: some_are_ours, ..Opened::default() };
        };
        match self.was_ended(&contents) {
            Ok(false) => {
                // Under a former key: sealed anew, so that the former key can be dropped one day.
                let outdated = former_key || keys.is_due(&contents, now);
                Opened { contents: Some(contents), now, outdated, problem: None }
            }
            Ok(true) => {
                self.tell("was ended");
                Opened { now, outdated: true, ..Opened::default() }
            }
            Err(error) => Opened { now, problem: Some(error.chain()), ..Opened::default() },
        }
    }

    fn was_ended(&self, contents: &Contents) -> Result<bool> {
        let unknown = "whether the session was ended cannot be found out, so nobody is taken to be logged in";
        let store = self.store.as_ref().ok_or_else(|| Error::internal(unknown))?;
        let user = contents.user.as_deref().unwrap_or("");
        let asked = [(Shelf::EndedSessions, contents.id.as_str()), (Shelf::EndedUsers, user)];
        let [ended, mark] = store.get_both(asked).map_err(|error| error.context(unknown))?;
        Ok(ended.is_some() || mark.is_some_and(|mark| contents.mark != Some(mark)))
    }

    fn tell(&self, what: &str) {
        if !self.values.is_empty() {
            log::debug!(target: "aside::session", "The session {what}; it is empty now. ({})", self.origin.id);
        }
    }
}

impl Request {
    /// The visitor's session. The cookie is opened at the first call; one that cannot be, or whose time is over, is an
    /// empty session.
    ///
    /// The response is the visitor's alone from then on: it gets `Vary: Cookie` and, unless the handler gave it another,
    /// `Cache-Control: private, no-cache`; or `no-store` where the session has a user, so that the way back shows nobody
    /// what was on the screen before a logout. It becomes a 503 when `ASIDE_STORE` cannot be read.
    pub fn session(&mut self) -> &mut Session {
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
    req.session().contents.flashes.len()
}

/// The flash messages that came after there were that many.
pub(crate) fn flashes_since(req: &mut Request, count: usize) -> Vec<Flash> {
    req.session().contents.flashes.get(count..).unwrap_or_default().to_vec()
}

/// What a template may look at: the flash messages, and who is logged in. The cookie is opened when it does, which may be
/// never.
pub(crate) struct Glance {
    sealed: Arc<Sealed>,
    /// As the handler has it, where it asked before.
    session: Option<(Vec<Flash>, Option<String>)>,
    looked: AtomicBool,
}

impl Glance {
    pub(crate) fn of(req: &mut Request) -> Glance {
        let seen = |session: &mut Session| (session.contents.flashes.clone(), session.contents.user.clone());
        let session = req.extension::<Session>().map(seen);
        Glance { sealed: Sealed::of(req), session, looked: AtomicBool::new(false) }
    }

    pub(crate) fn flashes(&self) -> &[Flash] {
        self.looked.store(true, Ordering::Relaxed);
        let opened = || self.sealed.opened().contents.as_ref().map_or(&[][..], |contents| &contents.flashes);
        self.session.as_ref().map_or_else(opened, |(flashes, _)| flashes)
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.looked.store(true, Ordering::Relaxed);
        let opened = || self.sealed.opened().contents.as_ref()?.user.as_deref();
        self.session.as_ref().map_or_else(opened, |(_, user)| user.as_deref())
    }

    /// Makes the response one of this session's, when the template looked at it.
    pub(crate) fn note(&self, req: &mut Request) {
        if self.looked.load(Ordering::Relaxed) {
            req.session();
        }
    }
}

/// Notes that the page shows the flash messages that there are so far. A HEAD shows nothing to anybody.
pub(crate) fn note_shown(req: &mut Request) {
    let is_head = req.is_head();
    let session = req.session();
    if !is_head {
        session.shown = session.contents.flashes.len();
    }
}

/// Puts the session on the response, when it was looked at: the one step that every response goes through before its error
/// page is made, since a session that cannot be kept turns it into an error.
///
/// Flash messages that were shown are forgotten here, unless the page that showed them came to nothing.
pub(crate) fn save(req: &mut Request, response: &mut Response) {
    let scope = req.scope();
    let Some(session) = req.extension::<Session>() else { return };
    if !response.status_code().is_server_error() {
        session.forget_shown();
    }
    keep_apart(response, session.had_user || session.user().is_some());
    match set_cookie(session, scope.get::<Keys>().as_deref()) {
        Ok(None) => {}
        Ok(Some(cookie)) => response.headers.add("Set-Cookie", cookie),
        Err(error) => response.fail(error),
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
        return Ok(Some(session.seal(keys)?.to_string()));
    }
    let mut cookie = keys.cookie(String::new());
    cookie.make_removal();
    Ok(session.had_cookie.then(|| cookie.to_string()))
}

/// A page made from a session is one visitor's: a cache in between must not give it to another. `Vary` keeps apart what is
/// stored, `private` keeps shared caches out, and `no-cache` makes the browser ask again, so that nobody is shown as logged
/// in who is not. Words of the handler's own stand.
///
/// A page for somebody who is logged in is not stored at all: on a shared computer the way back after a logout would show
/// it (OWASP ASVS 5, 7.4.1 and 14.3.2). For all others that would only make the way back slow.
fn keep_apart(response: &mut Response, is_somebodys: bool) {
    let varies = |value: &str| {
        value.split(',').any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case("cookie"))
    };
    if !response.headers.get_all("Vary").any(varies) {
        response.headers.add("Vary", "Cookie");
    }
    if !response.headers.contains("Cache-Control") {
        response.headers.put("Cache-Control", if is_somebodys { "no-store" } else { "private, no-cache" });
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

    const DAY: u64 = 24 * 3_600;

    fn request_to(config: Config, method: Method, cookie: &str) -> Request {
        request_after(0, config, method, cookie)
    }

    /// A request when so many seconds have passed.
    fn request_after(time: u64, config: Config, method: Method, cookie: &str) -> Request {
        let keys = Keys::new(&config).unwrap();
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

    /// With all that a session can have, and to the last byte: one more is refused.
    #[test]
    fn the_largest_session_fits_into_a_cookie() {
        let lifetime = Duration::from_secs(u64::MAX);
        let config = Config { session_lifetime: lifetime, ..config(Mode::Production, &['a']) };
        let mut req = request_to(config, Method::Get, "");
        req.flash("success", "Welcome!");
        let session = req.session();
        session.begin("17".into(), Some(unguessable().unwrap()));
        session.remember(true);
        let most = (0..MOST_BYTES).rev().find(|most| session.try_insert("x", "x".repeat(*most)).is_ok()).unwrap();
        assert!(most > 2_750, "{most} are left for the application");
        let line = saved(&mut req).headers().get("Set-Cookie").unwrap().to_owned();
        assert!((4_080..=4_096).contains(&line.len()), "{} bytes: {line}", line.len());
        for attribute in
            ["__Host-session=", "; HttpOnly", "; SameSite=Lax", "; Secure", "; Path=/", "; Max-Age=34560000"]
        {
            assert!(line.contains(attribute), "{attribute} in {line}");
        }
    }

    #[test]
    fn the_key_of_what_is_a_visitors_stays_until_the_login() {
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

    /// The size that is checked is the size that is sealed: what `try_insert` took, `save` does not refuse.
    #[test]
    fn a_session_has_its_size_before_it_has_its_id() {
        let mut req = request("");
        let session = req.session();
        let before = serde_json::to_string(&session.contents).unwrap().len() + ID_CHARS;
        session.insert("a", 1);
        saved(&mut req);
        let after = req.session().contents.to_json().unwrap().len();
        assert_eq!(after - before, r#","v":{"a":1}"#.len());
    }

    #[test]
    fn an_idle_session_is_over_and_its_cookie_is_removed() {
        let cookie = cookie_with_user();
        assert_eq!(later(DAY - 1, &cookie).session().get::<u32>("user"), Some(17));
        for time in [DAY, DAY + 1, 400 * DAY] {
            let mut req = later(time, &cookie);
            assert!(req.session().is_empty(), "{time}");
            let line = saved(&mut req).headers().get("Set-Cookie").unwrap().to_owned();
            assert!(line.starts_with("session=;") && line.contains("Max-Age=0"), "{line}");
        }
    }

    #[test]
    fn who_only_reads_moves_the_idle_time_on() {
        let cookie = cookie_with_user();
        let mut req = later(DAY - 1, &cookie);
        req.session();
        let moved = cookie_of(&saved(&mut req));
        assert_eq!(later(2 * DAY - 2, &moved).session().get::<u32>("user"), Some(17));
        assert!(later(2 * DAY - 1, &moved).session().is_empty());
        assert!(later(2 * DAY - 2, &cookie).session().is_empty(), "the cookie before it has its own time");
    }

    /// A tenth of a short limit, and a minute of a long one: nobody is put out much sooner than the limit says.
    #[test]
    fn the_idle_time_is_moved_on_within_a_tenth_of_it_and_within_a_minute() {
        for (idle, time, moved) in [(100, 9, false), (100, 10, true), (DAY, 59, false), (DAY, 60, true)] {
            let config = Config { session_idle: Duration::from_secs(idle), ..config(Mode::Development, &['a']) };
            let mut req = request_after(time, config, Method::Get, &cookie_with_user());
            req.session();
            assert_eq!(saved(&mut req).headers().contains("Set-Cookie"), moved, "{time} of {idle}");
        }
    }

    #[test]
    fn a_session_is_over_at_its_lifetime_however_busy_it_was() {
        let mut cookie = cookie_with_user();
        for time in 1..60 {
            let mut req = later(time * DAY / 2, &cookie);
            assert_eq!(req.session().get::<u32>("user"), Some(17), "{time}");
            cookie = cookie_of(&saved(&mut req));
        }
        assert!(later(30 * DAY, &cookie).session().is_empty());
    }

    /// Where the clock was set back, or another machine's is ahead.
    #[test]
    fn a_session_from_the_future_is_believed_for_five_minutes() {
        for (time, is_there) in [(250, true), (400, false), (DAY, false)] {
            let mut req = later(time, "");
            req.session().insert("user", 17);
            let cookie = cookie_of(&saved(&mut req));
            assert_eq!(later(0, &cookie).session().get::<u32>("user").is_some(), is_there, "{time}");
        }
    }

    #[test]
    fn the_longest_times_do_not_overflow() {
        let forever = Duration::from_secs(u64::MAX);
        let config =
            || Config { session_idle: forever, session_lifetime: forever, ..config(Mode::Development, &['a']) };
        let cookie = cookie_with_user();
        let mut req = request_after(u64::MAX, config(), Method::Get, &cookie);
        assert_eq!(req.session().age(), Duration::from_secs(i64::MAX as u64 - req.session().contents.born as u64));
        req.session().remember(true);
        saved(&mut req);
        assert_eq!(req.scope().get::<Keys>().unwrap().last_end(), i64::MAX);
    }

    #[test]
    fn a_remembered_session_has_the_rest_of_its_life_in_its_cookie() {
        let max_age = |response: &Response| {
            let line = response.headers().get("Set-Cookie")?;
            line.split("Max-Age=").nth(1)?.split(';').next()?.parse::<u64>().ok()
        };
        let mut req = request("");
        req.session().insert("a", 1);
        req.session().remember(true);
        let response = saved(&mut req);
        assert!((30 * DAY - 5..=30 * DAY).contains(&max_age(&response).unwrap()));

        let mut req = later(DAY / 2, &cookie_of(&response));
        req.session();
        let response = saved(&mut req);
        assert!((30 * DAY - DAY / 2 - 5..=30 * DAY - DAY / 2).contains(&max_age(&response).unwrap()), "{response:?}");

        for forget in [|session: &mut Session| session.remember(false), |session: &mut Session| session.clear()] {
            let mut req = later(DAY / 2, &cookie_of(&response));
            forget(req.session());
            req.session().insert("b", 1);
            assert_eq!(max_age(&saved(&mut req)), None);
        }
    }

    /// Nothing is known of what was ended: nobody is served on a guess.
    #[test]
    fn a_session_that_cannot_be_asked_about_is_a_503_and_empty() {
        let config = config(Mode::Development, &['a']);
        let mut values = Values::default();
        values.insert(Keys::new(&config).unwrap());
        let scope = Scope::new(Registry::new(&config), values);
        let headers = Headers::from_iter([("Cookie", cookie_with_user())]);
        let mut req = Request::new(Method::Get, "/", headers, Body::empty());
        req.admit(scope, Arc::new(config), "3f9a1c".into());
        assert!(req.session().is_empty() && req.session().check().is_err());
        let response = saved(&mut req);
        assert_eq!(response.status_code(), Status::SERVICE_UNAVAILABLE);
        assert!(!response.headers().contains("Set-Cookie"), "it may be good again in a moment");
    }

    #[test]
    fn a_cookie_of_before_there_were_times_is_an_empty_session() {
        let keys = Keys::new(&config(Mode::Development, &['a'])).unwrap();
        let line = keys.seal(r#"{"v":{"user":17}}"#.into()).to_string();
        assert!(request(line.split(';').next().unwrap()).session().is_empty());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = cookie_with_user().replace("session=", "");
        let opens = |bytes: &[u8]| {
            let value = cookie::Cookie::new("", String::from_utf8_lossy(bytes).into_owned()).encoded().to_string();
            request(&format!("session{value}")).session().get::<u32>("user").is_some()
        };
        assert!(opens(good.as_bytes()));
        // The last characters of base64 may have bits that stand for nothing.
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
