//! Login and logout.
//!
//! A session is a cookie, and a copy of it is valid until it expires. So the store records what was ended early: a
//! session by its id, and the users all of whose earlier sessions have ended. The store is read once for each request
//! that reads a session, and never for a request without a cookie.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use super::store::{EntryKind, Store};
use crate::error::{Error, OrHere, Result, Status};
use crate::http::request::Request;
use crate::http::session::{self, Keys, OpenStreams, Session};

impl Request {
    /// Logs a user in by the application's id of the user, and restarts the session.
    ///
    /// A complete login:
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Error, Request, Response, Result, password, redirect};
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
    ///     // An unknown user takes the same time, so that the time does not reveal known addresses.
    ///     let right = password::verify(&typed.password, user.map(|user| user.password.as_str()))?;
    ///     let Some(user) = user.filter(|_| right) else {
    ///         // The message is the same, too.
    ///         return Err(Error::unprocessable("The address or the password is not right."));
    ///     };
    ///     req.login(user.id)?;
    ///     Ok(redirect("/"))
    /// }
    ///
    /// fn log_out(req: &mut Request) -> Result<Response> {
    ///     req.logout()?;
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
    /// assert_eq!(client.get("/account").status_code().code(), 401);
    /// let form = [("email", "ada@example.org"), ("password", "correct horse battery staple")];
    /// client.post("/login").form(&form).send();
    /// assert_eq!(client.get("/account").text(), "You are user 17.");
    /// client.post("/logout").send();
    /// assert_eq!(client.get("/account").status_code().code(), 401);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The session gets a new id, and its times begin again. Its values stay (such as a basket that was filled before
    /// the login), unless another user was logged in: then that user's values and flash messages are dropped. Copies of
    /// the earlier cookie become invalid. A user may be logged in with any number of browsers at once.
    ///
    /// Anyone may try passwords, so the route of a login needs a rate limit, and so does a route that reveals if an
    /// address is known. Never put a password in a query or in a log.
    ///
    /// # Errors
    /// 500 if the id is an empty text; 503 if `ASIDE_STORE` cannot be read or written. The session is then unchanged.
    #[track_caller]
    pub fn login(&mut self, id: impl Display) -> Result<()> {
        let user = name_of(id).or_here()?;
        let state = SessionState::of(self).or_here()?;
        let session = self.session();
        session.check().or_here()?;
        let mark = state.store.get(EntryKind::EndedUsers, &user).map_err(unavailable).or_here()?;
        state.end(session).or_here()?;
        session.begin(user, mark);
        Ok(())
    }

    /// Logs the user out: empties the session, removes the cookie, and makes all copies of the cookie invalid, even if
    /// the browser keeps it.
    ///
    /// ```
    /// use aside::{Request, Response, Result, redirect};
    ///
    /// fn log_out(req: &mut Request) -> Result<Response> {
    ///     req.logout()?;
    ///     req.flash("success", "You are logged out.");
    ///     Ok(redirect("/"))
    /// }
    /// ```
    ///
    /// Ends the event streams whose handler read the session or its user
    /// ([`Response::events`](crate::Response::events), [`Request::live`](crate::Request::live)): at once in this
    /// process, and within a second or two in other processes that share the same `sqlite:PATH`. The response tells the
    /// browser to clear its cache of the site (`Clear-Site-Data: "cache"`, effective over https and on localhost).
    /// Pages of a user are not cached (`no-store`) unless a handler sets a `Cache-Control` of its own. Avoid that: the
    /// back button shows such a page from the browser's memory (bfcache), which Chromium and Firefox do not clear.
    ///
    /// A session without a user is cleared too, without an error. Use a POST route and a button on every page of
    /// logged-in users: browsers and extensions prefetch links.
    ///
    /// With `ASIDE_STORE` in memory, the default, a copy of the cookie is valid again after a restart of the process,
    /// until it expires, and other processes do not learn of the logout. `sqlite:PATH` keeps the record, and all
    /// processes with the same file share it.
    ///
    /// # Errors
    /// 503 if `ASIDE_STORE` cannot be written: this browser is logged out, but copies of the cookie stay valid.
    #[track_caller]
    pub fn logout(&mut self) -> Result<()> {
        let state = SessionState::of(self).or_here()?;
        let session = self.session();
        session.check().or_here()?;
        // Sessions without a user are not recorded: any client could fill the store with them.
        let ended = session.user().is_some().then(|| state.end(session));
        session.clear();
        ended.unwrap_or(Ok(())).or_here()
    }

    /// Ends all sessions of a user, in every browser: after a change of the password, when the account is closed, or if
    /// it may be compromised.
    ///
    /// ```
    /// use aside::{Request, Response, Result, redirect};
    ///
    /// fn password_was_changed(req: &mut Request, user: u64) -> Result<Response> {
    ///     req.logout_everywhere(user)?;
    ///     req.login(user)?; // this browser stays
    ///     Ok(redirect("/account"))
    /// }
    /// ```
    ///
    /// The id may be that of any user: an administrator's own session stays when another user's sessions are ended. The
    /// client's own session is cleared if it belongs to that user. A login after this call is valid, also within the
    /// same second, and one before it is not. To end the sessions of all users, replace `ASIDE_SECRET`.
    ///
    /// # Errors
    /// 500 if the id is an empty text; 503 if `ASIDE_STORE` cannot be written: then no session was ended.
    #[track_caller]
    pub fn logout_everywhere(&mut self, id: impl Display) -> Result<()> {
        let user = name_of(id).or_here()?;
        let state = SessionState::of(self).or_here()?;
        // Checked first, since this session is one of those that end.
        let session = self.session();
        state.end_all(&user).or_here()?;
        if session.user() == Some(user.as_str()) {
            session.clear();
        }
        Ok(())
    }

    /// Returns the id of the logged-in user, as given to [`login`](crate::Request::login). `None` without a user, or if
    /// the id does not parse.
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
    /// It opens the [`session`](Request::session), which costs next to nothing without a cookie, and restricts caching
    /// of the page: `Vary: Cookie`, and `Cache-Control: no-store` if there is a user. The application must check in its
    /// database whether the account still exists, or end its sessions with
    /// [`logout_everywhere`](crate::Request::logout_everywhere).
    pub fn user<T: FromStr>(&mut self) -> Option<T> {
        self.session().user()?.parse().ok()
    }
}

fn name_of(id: impl Display) -> Result<String> {
    let user = id.to_string();
    match user.is_empty() {
        true => Err(Error::internal("the id of a user must not be an empty text")),
        false => Ok(user),
    }
}

/// The session state of an application.
struct SessionState {
    keys: Arc<Keys>,
    store: Arc<Store>,
    streams: Option<Arc<OpenStreams>>,
}

impl SessionState {
    fn of(req: &Request) -> Result<SessionState> {
        let scope = req.scope();
        let (keys, store) = scope
            .get()
            .zip(scope.get())
            .ok_or_else(|| Error::internal("a login needs an application, since `App` has its keys"))?;
        Ok(SessionState { keys, store, streams: scope.get() })
    }

    /// Records that the cookies with the session's id are invalid, and ends its streams.
    fn end(&self, session: &Session) -> Result<()> {
        let Some(id) = session.sealed_id() else { return Ok(()) };
        let written = self.store.put(EntryKind::EndedSessions, id, "", self.keys.last_end()).map_err(unavailable);
        self.streams.iter().for_each(|streams| streams.end_session(id));
        written
    }

    /// Ends all sessions that a user has so far.
    fn end_all(&self, user: &str) -> Result<()> {
        // A random text, not a time: clocks are set back, and two events can share a tick.
        let mark = session::unguessable()?;
        self.store.put(EntryKind::EndedUsers, user, &mark, self.keys.last_end()).map_err(unavailable)?;
        self.streams.iter().for_each(|streams| streams.end_user(user));
        Ok(())
    }
}

fn unavailable(error: Error) -> Error {
    error.context("ASIDE_STORE cannot be used").status(Status::SERVICE_UNAVAILABLE)
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
        values.insert(Keys::new(&config, None).unwrap());
        values.insert(Store::open(&config).unwrap());
        Scope::new(Registry::new(&config), values)
    }

    fn request(scope: &Scope, cookie: &str) -> Request {
        let mut req = Request::new(Method::Get, "/", Headers::from_iter([("Cookie", cookie)]), Body::empty());
        req.admit(scope.clone(), Arc::default(), "3f9a1c".into());
        req
    }

    /// Returns the browser's cookie after the response.
    fn cookie_after(req: &mut Request) -> Option<String> {
        let mut response = Response::new();
        session::save(req, &mut response);
        Some(response.headers().get("Set-Cookie")?.split(';').next()?.to_owned())
    }

    fn logged_in(scope: &Scope, user: u32) -> String {
        let mut req = request(scope, "");
        req.login(user).unwrap();
        cookie_after(&mut req).unwrap()
    }

    #[test]
    fn two_logouts_at_once_both_succeed() {
        let scope = application();
        let cookie = logged_in(&scope, 17);
        let (mut one, mut other) = (request(&scope, &cookie), request(&scope, &cookie));
        assert_eq!((one.user(), other.user()), (Some(17), Some(17)));
        for req in [&mut one, &mut other] {
            req.logout().unwrap();
            assert_eq!(req.user::<u32>(), None);
            assert_eq!(cookie_after(req).as_deref(), Some("session="));
        }
        assert_eq!(request(&scope, &cookie).user::<u32>(), None);
    }

    /// The slow response arrives last, so the browser keeps its cookie.
    #[test]
    fn a_slow_page_does_not_restore_a_session_after_a_logout() {
        let scope = application();
        for end in [Request::logout, |req: &mut Request| req.logout_everywhere(17)] {
            let cookie = logged_in(&scope, 17);
            let mut slow = request(&scope, &cookie);
            slow.session().insert("draft", "to be continued");
            end(&mut request(&scope, &cookie)).unwrap();
            let late = cookie_after(&mut slow).unwrap();
            let mut next = request(&scope, &late);
            assert_eq!((next.user::<u32>(), next.session().is_empty()), (None, true));
        }
    }

    /// The login read the store before the logout, and its cookie is sent after it.
    #[test]
    fn logout_everywhere_ends_a_login_in_progress() {
        let scope = application();
        for _ in 0..2 {
            let mut before = request(&scope, "");
            before.login(17).unwrap();
            request(&scope, "").logout_everywhere(17).unwrap();
            let cookie = cookie_after(&mut before).unwrap();
            assert_eq!(request(&scope, &cookie).user::<u32>(), None);
            assert_eq!(request(&scope, &logged_in(&scope, 17)).user(), Some(17));
        }
    }

    /// Otherwise any client could fill the store.
    #[test]
    fn the_logout_of_a_session_without_a_user_is_not_stored() {
        let scope = application();
        let mut req = request(&scope, "");
        req.session().insert("basket", "camera");
        let cookie = cookie_after(&mut req).unwrap();
        let mut req = request(&scope, &cookie);
        let id = req.session().sealed_id().unwrap().to_owned();
        req.logout().unwrap();
        assert_eq!(cookie_after(&mut req).as_deref(), Some("session="));
        assert_eq!(scope.state::<Store>().get(EntryKind::EndedSessions, &id).unwrap(), None);
    }

    #[test]
    fn a_login_keeps_the_values_of_no_user_or_the_same_user() {
        let scope = application();
        let mut req = request(&scope, "");
        req.session().insert("basket", "camera");
        req.flash("info", "Log in to buy.");
        for (user, kept) in [(17, true), (17, true), (18, false)] {
            req.login(user).unwrap();
            assert_eq!((req.user(), !req.session().is_empty()), (Some(user), kept));
        }
        assert!(req.take_flashes().is_empty());
    }

    #[test]
    fn without_a_cookie_there_is_no_user_and_the_store_is_not_read() {
        let mut req = Request::new(Method::Get, "/", Headers::new(), Body::empty());
        assert_eq!(req.user::<u32>(), None);
        assert!(req.session().check().is_ok());
        assert!(req.login(17).unwrap_err().chain().contains("`App` has its keys"));
    }
}
