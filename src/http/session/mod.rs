//! Sessions in encrypted and authenticated cookies: the session with the user and the application's values; the time
//! last seen ([`last_seen`]); the flash messages ([`flash`]).
//!
//! The server stores no sessions, only which of them were ended early ([`store`]). The cookies are opened at the
//! first access, by a handler or by a template. The session's cookie is sent again only when a handler has changed the
//! session, never by a page that reads it or shows messages: of two concurrent responses, the slower one would undo the
//! changes of the other. For the same reason an expired session stays in the browser until a new one replaces it.
//!
//! A session is empty if it cannot be opened (tampered with, from another site, sealed with a removed key) or has
//! expired: the user cannot repair it, and an error page would only help a forger. An error is returned only if the
//! store cannot tell if the session was ended.

pub(crate) mod argon2id;
mod contents;
pub(crate) mod development_secret;
mod flash;
pub(crate) mod hashing;
mod keys;
mod last_seen;
pub(crate) mod login;
pub mod password;
mod sealed;
mod sealing_key;
pub(crate) mod store;
mod streams;
#[cfg(test)]
mod tests;
pub mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::Serialize;

use self::contents::Contents;
pub use self::flash::Flash;
use self::flash::Flashes;
pub(crate) use self::keys::{Keys, unguessable};
use self::sealed::{NAME, Sealed};
use self::streams::Login;
pub(crate) use self::streams::OpenStreams;
use super::cache_control;
use super::input::FromInput;
use super::request::Request;
use super::response::Response;
use super::session::store::Store;
use crate::error::{Error, OrHere, Result, Status};

const CLEAR_SITE_DATA: &str = "Clear-Site-Data";

/// The state that the application keeps for one client, in an encrypted cookie.
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
/// Set the user in it with [`login`](crate::Request::login), and remove the user with
/// [`logout`](crate::Request::logout).
///
/// It holds at most 2.9 kB as JSON: store larger data in the database, and its id in the session. The client cannot
/// read or change the session, but can send an older copy: record in the database what may happen only once, such as
/// the use of a voucher.
///
/// It ends after `ASIDE_SESSION_IDLE` (one day) without a request that reads it, and in any case
/// `ASIDE_SESSION_LIFETIME` (30 days) after its start or the login; the server enforces both, not the browser. The
/// browser removes the cookie when it is closed, unless [`remember`](Session::remember) is set.
///
/// # Concurrent requests
/// The whole session is one cookie, and a browser keeps the last one that it receives. A page that reads the session,
/// or shows flash messages, never sends it, so that even a slow page undoes nothing. Messages that two concurrent
/// responses add are both shown. There is one race: **two handlers that both write** (values, a login or a logout). The
/// later response wins, and the writes of the other are lost. Store data that scripts change in the background in the
/// database, under [`id`](Session::id) or the user.
#[derive(Debug)]
pub struct Session {
    /// Shared with the opened cookies until the handler changes it.
    contents: Arc<Contents>,
    flashes: Flashes,
    /// The request's time, in seconds.
    now: i64,
    /// True if the client sent a session cookie, valid or not. It is removed when the session is emptied.
    had_cookie: bool,
    /// True if the client sent a cookie with the time last seen.
    had_last_seen: bool,
    /// The user at the start of the request.
    had_user: Option<String>,
    /// True if the handler changed the contents.
    changed: bool,
    /// True if the time last seen must be written again.
    is_due: bool,
    broken: Option<Error>,
}

impl Session {
    /// Returns the value of this name, if there is one of this type.
    pub fn get<T: FromInput>(&self, key: &str) -> Option<T> {
        T::deserialize(self.contents.values.get(key)?).ok()
    }

    /// Stores a value, and replaces one of the same name.
    ///
    /// It returns no error: if the value cannot be JSON, or the session becomes larger than 2.9 kB, the response is a
    /// 500, and the log explains it. [`try_insert`](Session::try_insert) returns the error at once.
    pub fn insert(&mut self, key: &str, value: impl Serialize) {
        match serde_json::to_value(value) {
            Ok(value) => {
                self.changed |= self.contents.values.get(key) != Some(&value);
                self.contents_mut().values.insert(key.to_owned(), value);
            }
            Err(error) => self.broken = Some(unwritable(key, error)),
        }
    }

    /// Stores a value as [`insert`](Session::insert) does, or returns the reason why it cannot be stored; the session
    /// is then unchanged.
    ///
    /// # Errors
    /// 500 if the value cannot be JSON, or if the session would be larger than 2.9 kB with it.
    #[track_caller]
    pub fn try_insert(&mut self, key: &str, value: impl Serialize) -> Result<()> {
        let value = serde_json::to_value(value).map_err(|error| unwritable(key, error)).or_here()?;
        let former = self.contents_mut().values.insert(key.to_owned(), value);
        if let Err(error) = self.contents.to_json() {
            match former {
                Some(former) => self.contents_mut().values.insert(key.to_owned(), former),
                None => self.contents_mut().values.remove(key),
            };
            return Err(error);
        }
        self.changed |= self.contents.values.get(key) != former.as_ref();
        Ok(())
    }

    /// Removes the value of this name.
    pub fn remove(&mut self, key: &str) {
        if self.contents.values.contains_key(key) {
            self.contents_mut().values.remove(key);
            self.changed = true;
        }
    }

    /// Removes all values, the flash messages and the user. The response removes the browser's cookie. To log a user
    /// out, call [`logout`](crate::Request::logout), which also ends copies of the cookie.
    pub fn clear(&mut self) {
        self.contents = Arc::new(Contents::new(self.now));
        self.flashes.clear();
        self.changed = true;
    }

    /// Returns true if the session has no values. Flash messages and the user do not count.
    pub fn is_empty(&self) -> bool {
        self.contents.values.is_empty()
    }

    /// Sets whether the browser keeps the cookie when it is closed (`Max-Age`), for the rest of
    /// `ASIDE_SESSION_LIFETIME`. Without this call it does not, nor after [`logout`](crate::Request::logout).
    ///
    /// ```
    /// use aside::{Request, Result};
    ///
    /// fn log_in(req: &mut Request, user: u64, stay_logged_in: bool) -> Result<()> {
    ///     req.login(user)?;
    ///     req.session().remember(stay_logged_in);
    ///     Ok(())
    /// }
    /// ```
    ///
    /// The idle limit applies to a remembered session too: if users are to stay logged in for weeks without a visit,
    /// set `ASIDE_SESSION_IDLE` to weeks.
    pub fn remember(&mut self, remember: bool) {
        if self.contents.remember != remember {
            self.contents_mut().remember = remember;
            self.changed = true;
        }
    }

    /// Returns the time since the session began or its user logged in, in whole seconds. Before a user changes an
    /// address or a password, ask for the password again if this is more than some minutes (OWASP ASVS 5, 7.5.1).
    pub fn age(&self) -> Duration {
        Duration::from_secs(self.now.saturating_sub(self.contents.born).try_into().unwrap_or(0))
    }

    /// Returns the session's id: a key for data of this client alone, in a [`LiveMap`](crate::live::LiveMap), a cache or a
    /// table.
    ///
    /// ```
    /// use aside::live::LiveMap;
    /// use aside::{Request, Response, Result};
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
    /// The id has 128 random bits, cannot be guessed, and is not shown to the client. It changes at a login and a
    /// logout.
    ///
    /// # Errors
    /// 500 if the operating system provides no random bytes.
    #[track_caller]
    pub fn id(&mut self) -> Result<String> {
        if self.contents.id.is_empty() {
            self.contents_mut().id = unguessable().or_here()?;
            self.changed = true;
        }
        if !self.contents.is_key {
            self.contents_mut().is_key = true;
            self.changed = true;
        }
        Ok(self.contents.id.clone())
    }

    fn contents_mut(&mut self) -> &mut Contents {
        Arc::make_mut(&mut self.contents)
    }

    /// Returns true if the user of the request has been logged out or replaced.
    fn has_lost_user(&self) -> bool {
        self.had_user.is_some() && self.had_user.as_deref() != self.user()
    }

    /// Returns the user, as text.
    pub(crate) fn user(&self) -> Option<&str> {
        self.contents.user.as_deref()
    }

    /// Restarts the session for a user, under a new id, so that a planted or copied cookie is not this session. Values
    /// and flash messages stay, unless they are of another user.
    pub(crate) fn begin(&mut self, user: String, mark: Option<String>) {
        if self.user().is_some_and(|former| former != user) {
            self.clear();
        }
        let now = self.now;
        let contents = self.contents_mut();
        (contents.id, contents.born) = (String::new(), now);
        (contents.user, contents.mark) = (Some(user), mark);
        self.changed = true;
    }

    /// Returns the user's session as the store identifies it.
    fn login(&self) -> Option<Login> {
        let (session, mark) = (self.sealed_id()?.to_owned(), self.contents.mark.clone());
        Some(Login { session, user: self.user()?.to_owned(), mark })
    }

    /// Returns the id, if a cookie with it may exist.
    pub(crate) fn sealed_id(&self) -> Option<&str> {
        Some(self.contents.id.as_str()).filter(|id| !id.is_empty())
    }

    /// Returns an error if the store could not tell if the session was ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.broken.as_ref().map_or(Ok(()), |error| Err(Error::new(error.status_code(), error.chain())))
    }

    fn load(req: &mut Request) -> Session {
        let sealed = Sealed::of(req);
        let opened = sealed.opened();
        let contents = opened.contents.clone().unwrap_or_else(|| Arc::new(Contents::new(opened.now)));
        Session {
            had_user: contents.user.clone(),
            contents,
            flashes: opened.flashes.clone(),
            now: opened.now,
            had_cookie: !sealed.sessions.is_empty(),
            had_last_seen: !sealed.seen.is_empty(),
            changed: false,
            is_due: opened.is_due,
            broken: opened.problem.clone().map(|message| Error::new(Status::SERVICE_UNAVAILABLE, message)),
        }
    }

    /// Returns the headers that update the browser's session cookie, if the handler changed the session.
    fn save(&mut self, keys: &Keys) -> Result<Vec<String>> {
        if !self.changed {
            return Ok(Vec::new());
        }
        let name = keys.name(NAME);
        if self.contents.is_empty() {
            let sent = [(self.had_cookie, NAME), (self.had_last_seen, last_seen::NAME)];
            let sent = sent.into_iter().filter(|(was_sent, _)| *was_sent);
            return Ok(sent.map(|(_, plain)| keys.removal(&keys.name(plain))).collect());
        }
        let now = self.now;
        self.contents_mut().seen = now;
        if self.contents.id.is_empty() {
            self.contents_mut().id = unguessable()?;
        }
        let cookie = keys.seal(&name, &self.contents.to_json()?)?;
        Ok(vec![cookie.perhaps_max_age(self.max_age(keys)).to_string()])
    }

    /// Returns the header that extends the idle time, if the session was only read.
    fn save_last_seen(&self, keys: &Keys) -> Result<Option<String>> {
        let is_read_alone = self.is_due && !self.changed;
        let cookie = || last_seen::cookie(keys, &self.contents.id, self.now, self.max_age(keys));
        is_read_alone.then(cookie).transpose()
    }

    /// Returns the lifetime of the cookies; `None` for the browser session.
    fn max_age(&self, keys: &Keys) -> Option<Duration> {
        self.contents.remember.then(|| keys.rest(self.contents.born, self.now))
    }
}

fn unwritable(key: &str, error: serde_json::Error) -> Error {
    Error::from(error).context(format!("the value of `{key}` cannot be stored in the session as JSON"))
}

impl Request {
    /// Returns the client's session. The cookie is opened at the first call; a cookie that cannot be opened or has
    /// expired is an empty session.
    ///
    /// From then on the response is for this client only: it gets `Vary: Cookie` and, unless the handler sets another,
    /// `Cache-Control: private, no-cache`; or `no-store` if the session has a user, so that the back button does not
    /// show a page from before a logout. A response that the handler marked `public` stays public if the session was
    /// only read, and sets no cookie; if the session was changed, it becomes `private`. It becomes a 503 if
    /// `ASIDE_STORE` cannot be read.
    pub fn session(&mut self) -> &mut Session {
        if self.extension::<Session>().is_none() {
            let session = Session::load(self);
            self.set_extension(session);
        }
        self.extension().expect("the session was just added")
    }

    /// Adds a message for the next page that shows messages: often the target of a redirect.
    ///
    /// The message is in its own cookie, for the user who is logged in when the response is sent, and expires like an
    /// idle session. All messages of one client may have 2 kB together. Above that the oldest are dropped. If the
    /// messages of this request alone are too large, the response is a 500, and the log explains it.
    pub fn flash(&mut self, kind: impl Into<String>, message: impl Into<String>) {
        self.session().flashes.add(Flash { kind: kind.into(), message: message.into() });
    }

    /// Returns the flash messages, for a page without a template, and marks them as shown. They stay if this request is
    /// a HEAD, or if its response becomes a server error. A page that the browser prefetches or prerenders
    /// (`Sec-Purpose: prefetch`) gets none: the messages wait for a page that the user opens.
    pub fn take_flashes(&mut self) -> Vec<Flash> {
        let flashes = self.session().flashes.all().cloned().collect();
        note_shown(self);
        flashes
    }
}

/// Returns the number of flash messages that the request has added so far, for [`flashes_since`].
pub(crate) fn flash_count(req: &mut Request) -> usize {
    req.session().flashes.added().len()
}

/// Returns the flash messages that the request added after the first `count`.
pub(crate) fn flashes_since(req: &mut Request, count: usize) -> Vec<Flash> {
    req.session().flashes.added().get(count..).unwrap_or_default().to_vec()
}

/// Returns true if the request ended its login.
pub(crate) fn has_lost_user(req: &mut Request) -> bool {
    req.extension::<Session>().is_some_and(|session| session.has_lost_user())
}

/// The session state that a template can read: the flash messages and the user. The cookie is opened at the first
/// access, if there is one.
pub(crate) struct SessionView {
    sealed: Arc<Sealed>,
    /// The handler's session, if the handler has opened it.
    session: Option<(Flashes, Arc<Contents>)>,
    was_read: AtomicBool,
}

impl SessionView {
    pub(crate) fn of(req: &mut Request) -> SessionView {
        let seen = |session: &mut Session| (session.flashes.clone(), Arc::clone(&session.contents));
        let session = req.extension::<Session>().map(seen);
        SessionView { sealed: Sealed::of(req), session, was_read: AtomicBool::new(false) }
    }

    pub(crate) fn flashes(&self) -> impl Iterator<Item = &Flash> {
        self.was_read.store(true, Ordering::Relaxed);
        let opened = || &self.sealed.opened().flashes;
        self.session.as_ref().map_or_else(opened, |(flashes, _)| flashes).all()
    }

    pub(crate) fn user(&self) -> Option<&str> {
        self.was_read.store(true, Ordering::Relaxed);
        let opened = || self.sealed.opened().contents.as_ref()?.user.as_deref();
        self.session.as_ref().map_or_else(opened, |(_, contents)| contents.user.as_deref())
    }

    /// Marks the response as one for this client, if the template read the session.
    pub(crate) fn note(&self, req: &mut Request) {
        if self.was_read.load(Ordering::Relaxed) {
            req.session();
        }
    }
}

/// Records that the page shows the current flash messages. A HEAD request shows nothing.
pub(crate) fn note_shown(req: &mut Request) {
    if !req.is_head() {
        req.session().flashes.note_shown();
    }
}

/// Adds the session's headers to the response, if the session was read. Every response takes this step before its error
/// page is rendered, since a session that cannot be stored turns the response into an error.
///
/// Flash messages that were shown are removed here, unless the page that showed them failed.
pub(crate) fn save(req: &mut Request, response: &mut Response) {
    let scope = req.scope();
    let Some(session) = req.extension::<Session>() else { return };
    restrict_caching(response, session.had_user.is_some() || session.user().is_some());
    if let Err(error) = set_cookies(session, scope.get::<Keys>().as_deref(), response) {
        return response.fail(error);
    }
    clear_browser_cache(session, response);
    let (streams, store) = (scope.get::<OpenStreams>(), scope.get::<Store>());
    if let (Some(login), Some(streams), Some(store)) = (session.login(), streams, store)
        && response.is_live()
    {
        streams.bind(login, &store, response);
    }
}

/// Makes the browser drop its stored pages if their user has logged out or changed. Otherwise the back button would
/// show a page that a handler made cacheable, without a request (W3C Clear Site Data, section 3.1). Browsers do this
/// over https and on localhost.
fn clear_browser_cache(session: &Session, response: &mut Response) {
    if session.has_lost_user() && !response.headers.contains(CLEAR_SITE_DATA) {
        response.headers.put(CLEAR_SITE_DATA, "\"cache\"");
    }
}

/// Adds the headers that update the browser's cookies, if needed. A response with such a header is private.
fn set_cookies(session: &mut Session, keys: Option<&Keys>, response: &mut Response) -> Result<()> {
    if let Some(error) = session.broken.take() {
        return Err(error);
    }
    let Some(keys) = keys else {
        let needs_keys = session.changed || !session.flashes.added().is_empty();
        let message = "a session needs an application, since `App` has its keys";
        return if needs_keys { Err(Error::internal(message)) } else { Ok(()) };
    };
    let is_shown = !response.status_code().is_server_error();
    let user = session.contents.user.clone();
    let mut lines = session.save(keys)?;
    lines.extend(session.flashes.save(keys, user.as_deref(), is_shown, session.now)?);
    // A file for all clients stays public: the client's next page extends the idle time.
    if !lines.is_empty() || !cache_control::is_shared(&response.headers) {
        lines.extend(session.save_last_seen(keys)?);
    }
    session.changed = false;
    if !lines.is_empty() {
        cache_control::make_private(&mut response.headers);
    }
    lines.into_iter().for_each(|line| response.headers.add("Set-Cookie", line));
    Ok(())
}

/// Sets the cache headers of a response that was made from a session: a shared cache must not give it to another
/// client. `Vary` separates the stored responses, `private` excludes shared caches, and `no-cache` makes the browser
/// revalidate, so that a page never shows a user who has logged out. Directives of the handler are kept.
///
/// A page for a user is not stored at all: on a shared computer the back button would show it after a logout (OWASP
/// ASVS 5, 7.4.1 and 14.3.2). For other pages that would only make the back button slow.
fn restrict_caching(response: &mut Response, is_for_a_user: bool) {
    cache_control::add_vary(&mut response.headers, "Cookie");
    if !response.headers.contains(cache_control::CACHE_CONTROL) {
        let control = if is_for_a_user { "no-store" } else { "private, no-cache" };
        response.headers.put(cache_control::CACHE_CONTROL, control);
    }
}
