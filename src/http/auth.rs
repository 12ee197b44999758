//! Who the visitor is: logging in and out.
//!
//! A session is a cookie, and a copy of it lives as long as it says. So what ended before its time is written down in the
//! store: a session by its id, and of a user all that were begun before. The store is asked once for each request that
//! looks at a session, and for none without a cookie.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use super::request::Request;
use super::session::{self, Keys, OpenStreams, Session};
use super::store::{Shelf, Store};
use crate::error::{Error, Result, Status};

/// Makes the visitor that user, by the id that the application knows the user by, and begins the session anew.
///
/// A whole login:
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Error, Request, Response, Result, login, logout, password, redirect};
/// use std::collections::HashMap;
///
/// struct User { id: u64, password: String }
/// struct Users(HashMap<String, User>);
///
/// #[derive(serde::Deserialize)]
/// struct Credentials { email: String, password: String }
///
/// fn log_in(req: &mut Request) -> Result<Response> {
///     let typed: Credentials = req.form()?;
///     let users = req.state::<Users>();
///     let user = users.0.get(&typed.email);
///     // As slow for somebody who is not there: else the time would tell who is.
///     let right = password::verify(&typed.password, user.map(|user| user.password.as_str()))?;
///     let Some(user) = user.filter(|_| right) else {
///         // And in the same words.
///         return Err(Error::unprocessable("The address or the password is not right."));
///     };
///     login(req, user.id)?;
///     Ok(redirect("/"))
/// }
///
/// fn log_out(req: &mut Request) -> Result<Response> {
///     logout(req)?;
///     req.flash("success", "You are logged out.");
///     Ok(redirect("/"))
/// }
///
/// fn account(req: &mut Request) -> Result<String> {
///     let user: u64 = req.user().ok_or_else(|| Error::unauthorized("Log in first."))?;
///     Ok(format!("You are user {user}."))
/// }
///
/// # fn main() -> Result<()> {
/// let ada = User { id: 17, password: password::hash("correct horse battery staple")? };
/// let app = App::new()
///     .state(Users([("ada@example.org".to_owned(), ada)].into()))
///     .post("/login", log_in) // limit how often a client may try this one
///     .post("/logout", log_out)
///     .get("/account", account);
///
/// let mut client = TestClient::new(app);
/// assert_eq!(client.get("/account").status().code(), 401);
/// let form = [("email", "ada@example.org"), ("password", "correct horse battery staple")];
/// client.post("/login").form(&form).send();
/// assert_eq!(client.get("/account").text(), "You are user 17.");
/// client.post("/logout").send();
/// assert_eq!(client.get("/account").status().code(), 401);
/// # Ok(())
/// # }
/// ```
///
/// The session gets a new id and its times begin again. What it holds stays (a basket that was filled before logging in),
/// unless somebody else was logged in: then the values and flash messages of that user are dropped. A copy of the cookie
/// as it was before is dead. A user may be logged in with any number of browsers at once.
///
/// Anyone may try passwords, so the route of a login needs a rate limit, and so does one that tells whether an address is
/// known. A password is never in a query, and never in a log.
///
/// # Errors
/// 500 when the id is an empty text; 503 when `ASIDE_STORE` cannot be read or written. The session is then as it was.
pub fn login(req: &mut Request, id: impl Display) -> Result<()> {
    let user = name_of(id)?;
    let keepers = Keepers::of(req)?;
    let session = req.session();
    session.check()?;
    let mark = keepers.store.get(Shelf::EndedUsers, &user).map_err(unavailable)?;
    keepers.end(session)?;
    session.begin(user, mark);
    Ok(())
}

/// Ends the visitor's session: it holds nothing any more, the cookie is removed, and a copy that somebody made of it is
/// dead, whatever happens to the browser's.
///
/// ```
/// use aside::{Request, Response, Result, logout, redirect};
///
/// fn log_out(req: &mut Request) -> Result<Response> {
///     logout(req)?;
///     req.flash("success", "You are logged out.");
///     Ok(redirect("/"))
/// }
/// ```
///
/// Ends the event streams whose handler looked at the session or its user ([`Response::events`](crate::Response::events),
/// [`Request::live`](crate::Request::live)): at once in this process, and within a second or two in other processes that
/// share the same `sqlite:PATH`. The response tells the browser to clear its cache of the site (`Clear-Site-Data: "cache"`,
/// effective over https and on localhost). Pages of a user are not cached (`no-store`) unless a handler sets a
/// `Cache-Control` of its own. Avoid that: the back button shows such a page from the browser's memory (bfcache), which
/// Chromium and Firefox do not clear.
///
/// Nobody logged in is no error; the session is cleared all the same. The route takes POST, from a button on every page
/// of those who are logged in: a link would be followed by what loads pages ahead.
///
/// With `ASIDE_STORE` in memory, the default, a copy of the cookie lives again when the process is started anew, until its
/// time is over, and other processes never know of the logout. `sqlite:PATH` forgets nothing, and is shared by all that
/// name the same file.
///
/// # Errors
/// 503 when `ASIDE_STORE` cannot be written: this browser is logged out, but a copy of the cookie lives.
pub fn logout(req: &mut Request) -> Result<()> {
    let keepers = Keepers::of(req)?;
    let session = req.session();
    session.check()?;
    // A stranger's sessions are not worth a line of the store: anybody could fill it with them.
    let ended = session.user().is_some().then(|| keepers.end(session));
    session.clear();
    ended.unwrap_or(Ok(()))
}

/// Ends all sessions that a user has, in every browser: after a change of the password, or when the account is closed or
/// thought to be in other hands.
///
/// ```
/// use aside::{Request, Response, Result, login, logout_everywhere, redirect};
///
/// fn password_was_changed(req: &mut Request, user: u64) -> Result<Response> {
///     logout_everywhere(req, user)?;
///     login(req, user)?; // this browser stays
///     Ok(redirect("/account"))
/// }
/// ```
///
/// It may be anybody's id: an administrator's own session stays when another's are ended. The visitor's own is cleared when
/// it is that user's. A login after this call is valid, also within the same second, and one before it is not. To end the
/// sessions of all users, replace `ASIDE_SECRET`.
///
/// # Errors
/// 500 when the id is an empty text; 503 when `ASIDE_STORE` cannot be written: then no session was ended.
pub fn logout_everywhere(req: &mut Request, id: impl Display) -> Result<()> {
    let user = name_of(id)?;
    let keepers = Keepers::of(req)?;
    // Checked first, since this session is one of those that end.
    let session = req.session();
    keepers.end_all(&user)?;
    if session.user() == Some(user.as_str()) {
        session.clear();
    }
    Ok(())
}

impl Request {
    /// Who is logged in: the id that [`login`](crate::login()) was given. `None` when nobody is, or when it does not parse.
    ///
    /// ```
    /// use aside::{Error, Request, Result};
    ///
    /// fn account(req: &mut Request) -> Result<String> {
    ///     let user: u64 = req.user().ok_or_else(|| Error::unauthorized("Log in first."))?;
    ///     Ok(format!("You are user {user}."))
    /// }
    /// ```
    ///
    /// It opens the [`session`](Request::session), which costs next to nothing when there is no cookie, and makes the page
    /// the visitor's alone: `Vary: Cookie`, and `Cache-Control: no-store` when somebody is logged in. Whether an account
    /// was closed is for the application to ask its database, or to end with [`logout_everywhere`](crate::logout_everywhere).
    pub fn user<T: FromStr>(&mut self) -> Option<T> {
        self.session().user()?.parse().ok()
    }
}

fn name_of(id: impl Display) -> Result<String> {
    let user = id.to_string();
    match user.is_empty() {
        true => Err(Error::internal("the id of a user is an empty text: whose sessions are they?")),
        false => Ok(user),
    }
}

/// The session state of an application.
struct Keepers {
    keys: Arc<Keys>,
    store: Arc<Store>,
    streams: Option<Arc<OpenStreams>>,
}

impl Keepers {
    fn of(req: &Request) -> Result<Keepers> {
        let scope = req.scope();
        let (keys, store) = scope
            .get()
            .zip(scope.get())
            .ok_or_else(|| Error::internal("a login needs an application: `App` has its keys"))?;
        Ok(Keepers { keys, store, streams: scope.get() })
    }

    /// Records that the cookies with the session's id are invalid, and ends its streams.
    fn end(&self, session: &Session) -> Result<()> {
        let Some(id) = session.sealed_id() else { return Ok(()) };
        let written = self.store.put(Shelf::EndedSessions, id, "", self.keys.last_end()).map_err(unavailable);
        self.streams.iter().for_each(|streams| streams.end_session(id));
        written
    }

    /// Ends all sessions of a user that have begun until now.
    fn end_all(&self, user: &str) -> Result<()> {
        // A random text, not a time: clocks are set back, and two events can share a tick.
        let mark = session::unguessable()?;
        self.store.put(Shelf::EndedUsers, user, &mark, self.keys.last_end()).map_err(unavailable)?;
        self.streams.iter().for_each(|streams| streams.end_user(user));
        Ok(())
    }
}

fn unavailable(error: Error) -> Error {
    error.context("ASIDE_STORE cannot be used").with_status(Status::SERVICE_UNAVAILABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::config::Config;
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};
    use crate::http::response::Response;

    fn application() -> Scope {
        let config = Config { secrets: vec!["a".repeat(32)], ..Config::default() };
        let mut values = Values::default();
        values.insert(Keys::new(&config).unwrap());
        values.insert(Store::open(&config).unwrap());
        Scope::new(Registry::new(&config), values)
    }

    fn request(scope: &Scope, cookie: &str) -> Request {
        let mut req = Request::new(Method::Get, "/", Headers::from_iter([("Cookie", cookie)]), Body::empty());
        req.admit(scope.clone(), Arc::default(), "3f9a1c".into());
        req
    }

    /// What the browser has after the response.
    fn cookie_after(req: &mut Request) -> Option<String> {
        let mut response = Response::new();
        session::save(req, &mut response);
        Some(response.headers().get("Set-Cookie")?.split(';').next()?.to_owned())
    }

    fn logged_in(scope: &Scope, user: u32) -> String {
        let mut req = request(scope, "");
        login(&mut req, user).unwrap();
        cookie_after(&mut req).unwrap()
    }

    #[test]
    fn two_logouts_at_once_both_succeed() {
        let scope = application();
        let cookie = logged_in(&scope, 17);
        let (mut one, mut other) = (request(&scope, &cookie), request(&scope, &cookie));
        assert_eq!((one.user(), other.user()), (Some(17), Some(17)));
        for req in [&mut one, &mut other] {
            logout(req).unwrap();
            assert_eq!(req.user::<u32>(), None);
            assert_eq!(cookie_after(req).as_deref(), Some("session="));
        }
        assert_eq!(request(&scope, &cookie).user::<u32>(), None);
    }

    /// Its response comes last, and its cookie is the one that the browser keeps.
    #[test]
    fn a_page_that_was_under_way_at_a_logout_does_not_bring_the_session_back() {
        let scope = application();
        for end in [logout, |req: &mut Request| logout_everywhere(req, 17)] {
            let cookie = logged_in(&scope, 17);
            let mut slow = request(&scope, &cookie);
            slow.session().insert("draft", "to be continued");
            end(&mut request(&scope, &cookie)).unwrap();
            let late = cookie_after(&mut slow).unwrap();
            let mut next = request(&scope, &late);
            assert_eq!((next.user::<u32>(), next.session().is_empty()), (None, true));
        }
    }

    /// The login had its answer from the store before, and its cookie goes out after.
    #[test]
    fn a_login_that_began_before_all_sessions_were_ended_is_ended_with_them() {
        let scope = application();
        for _ in 0..2 {
            let mut before = request(&scope, "");
            login(&mut before, 17).unwrap();
            logout_everywhere(&mut request(&scope, ""), 17).unwrap();
            let cookie = cookie_after(&mut before).unwrap();
            assert_eq!(request(&scope, &cookie).user::<u32>(), None);
            assert_eq!(request(&scope, &logged_in(&scope, 17)).user(), Some(17));
        }
    }

    /// Else anybody could fill the store.
    #[test]
    fn the_logout_of_a_stranger_is_not_written_down() {
        let scope = application();
        let mut req = request(&scope, "");
        req.session().insert("basket", "camera");
        let cookie = cookie_after(&mut req).unwrap();
        let mut req = request(&scope, &cookie);
        let id = req.session().sealed_id().unwrap().to_owned();
        logout(&mut req).unwrap();
        assert_eq!(cookie_after(&mut req).as_deref(), Some("session="));
        assert_eq!(scope.state::<Store>().get(Shelf::EndedSessions, &id).unwrap(), None);
    }

    #[test]
    fn values_that_begin_again_are_those_of_nobody_or_of_the_same_user() {
        let scope = application();
        let mut req = request(&scope, "");
        req.session().insert("basket", "camera");
        req.flash("info", "Log in to buy.");
        for (user, kept) in [(17, true), (17, true), (18, false)] {
            login(&mut req, user).unwrap();
            assert_eq!((req.user(), !req.session().is_empty()), (Some(user), kept));
        }
        assert!(req.take_flashes().is_empty());
    }

    #[test]
    fn without_a_cookie_nobody_is_logged_in_and_the_store_is_not_asked() {
        let mut req = Request::new(Method::Get, "/", Headers::new(), Body::empty());
        assert_eq!(req.user::<u32>(), None);
        assert!(req.session().check().is_ok());
        assert!(login(&mut req, 17).unwrap_err().chain().contains("`App` has its keys"));
    }
}
