//! The same form sent twice: an impatient visitor clicks again, a phone tries again where its network was lost, a page is
//! reloaded. The form carries a key, and what was answered is remembered under it.
//!
//! Two of them at the same time are the usual case, so the second waits for the first (see [`UnderWay`]) before it looks
//! into the store.
//!
//! A response belongs to the client that received it. A page with a key also sets a cookie, which survives a login. The
//! response is stored under the key, the cookie and the user. If a key leaks, or a cache gives it to two clients, neither
//! sees the other's response, and neither is kept from getting its own.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use minijinja::Value;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cache_control;
use super::request::Request;
use super::response::Response;
use super::session::{self, Flash, Keys, unguessable};
use super::store::{self, Shelf, Store};
use crate::error::{Error, Result, Status};
use crate::sync::{lock, wait_while_for};
use crate::worker_share::{self, Wait};

/// The name of the hidden field.
pub(crate) const FIELD: &str = "_once";

/// The name of the cookie that keys are bound to, without its prefix.
const COOKIE: &str = "once";

/// The length of that cookie: 16 random bytes as text.
const COOKIE_CHARS: usize = 22;

/// The bytes of a key, which are twice as many hexadecimal digits.
const KEY_BYTES: usize = 16;

/// How long a second one waits for the first.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is remembered of an answer at most, in bytes of its target and of its messages.
const MOST_BYTES: usize = 4 << 10;

/// How long an answer is remembered, in seconds.
const REMEMBERED: i64 = 24 * 60 * 60;

impl Request {
    /// Runs `f` once for each time that a form was filled in, however often it is sent.
    ///
    /// ```
    /// use aside::{Form, Request, Response, Result, context, redirect};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Order { email: String, quantity: u32 }
    ///
    /// fn create_order(req: &mut Request) -> Result<Response> {
    ///     let form: Form<Order> = req.submitted()?;
    ///     let order = match form.valid() {
    ///         Ok(order) => order,
    ///         Err(form) => return page(req, &form),
    ///     };
    ///     req.once(|req| {
    ///         place(&order)?;
    ///         req.flash("success", "Thank you!");
    ///         Ok(redirect("/orders"))
    ///     })
    /// }
    ///
    /// fn page(req: &mut Request, form: &Form<Order>) -> Result<Response> {
    ///     Ok(req.render("orders.html", context! { form })?.status(form.status()))
    /// }
    /// # fn place(_: &Order) -> Result<()> { Ok(()) }
    /// ```
    ///
    /// The form's template has `{{ once() }}` between `<form>` and `</form>`: a hidden field with a key, another one each
    /// time. The first such form runs `f`. One with the same key, fields and path that comes while `f` still runs waits for
    /// it, at most 30 s; it and all later ones, for 24 hours, get the redirect that `f` answered and the messages that it
    /// flashed, and nothing is done a second time: no row, no mail, nothing set aside. A form that was changed before it
    /// was sent again (a file: by its name) counts as another form. Without a valid key `f` runs each time; in development
    /// the log reports that.
    ///
    /// The response is repeated only for the same client, identified by a cookie that the page with the key sets, and for
    /// the user who sent the form or was logged in by it. For another client with the same key and fields `f` runs. A form
    /// that was rendered before a login and sent after it counts as the same form. A client without cookies is identified
    /// by its address. The page is `private, no-store`, even if the handler sets another policy.
    ///
    /// If `f` failed (an error, a panic, a status from 400) the form may be sent again. Validate the form outside: a form
    /// that is shown again with its errors has not been answered. If the handler has not read the form yet, this method
    /// reads it for its key, and `f` may read it later.
    ///
    /// Of the answer its status and `Location` are kept, and the messages, each up to 4 KiB; other headers, and what `f` put
    /// into the session, go with the first alone. An answer that is no redirect cannot be given again: who sends the form a
    /// second time is told (409) that it was received. Answers are kept where `ASIDE_STORE` says; in memory they are
    /// forgotten at a restart. Several processes with one SQLite file know each other's answers, but do not wait for one another.
    ///
    /// # Errors
    /// The errors of `f`; 409 if the first is not done after 30 s, or its response cannot be repeated; the errors of
    /// [`form_pairs`](Request::form_pairs) if the form is read here; 500 if the store cannot be read, or if the handler has
    /// read the body in another way; 503 if the store cannot tell if the session was ended, and with `Retry-After` if too
    /// many workers (`ASIDE_MAX_WAITING`) wait for first requests.
    pub fn once(&mut self, f: impl FnOnce(&mut Request) -> Result<Response>) -> Result<Response> {
        let Some(key) = self.once_key()? else { return f(self) };
        let scope = self.scope();
        let (Some(store), Some(under_way)) = (scope.get::<Store>(), scope.get::<UnderWay>()) else { return f(self) };
        self.session().check()?;
        let sender = user_of(self);
        let _claim = under_way.claim(&key, PATIENCE)?;
        let answer = store.get(Shelf::AnsweredForms, &key)?.map(|answer| serde_json::from_str::<Answer>(&answer));
        if let Some(answer) = answer.transpose()?.filter(|answer| answer.is_for(&sender)) {
            return self.answer_again(answer);
        }
        let mark = session::flash_count(self);
        let response = f(self)?;
        if response.error().is_none() && response.status_code().code() < 400 {
            let users = vec![sender, user_of(self)];
            let answer = Answer::of(&response, session::flashes_since(self, mark), users);
            keep(self, &store, &key, &answer);
        }
        Ok(response)
    }

    /// Returns the identity of the form, if it has a key.
    fn once_key(&mut self) -> Result<Option<String>> {
        if self.extension::<Noted>().is_none() {
            self.read_form_ahead()?;
        }
        let key = self.extension::<Noted>().and_then(|noted| noted.0.clone());
        if key.is_none() && self.config().is_development() {
            let (method, path) = (self.method(), self.path());
            log::warn!(
                target: "aside::http",
                "{method} {path}: req.once cannot detect a repeated form without a key: add {{{{ once() }}}} to its \
                 template ({})",
                self.id()
            );
        }
        Ok(key)
    }

    /// Reads the form for its key, and keeps it for the handler.
    fn read_form_ahead(&mut self) -> Result<()> {
        let content_type = self.content_type().unwrap_or_default();
        let is_multipart = content_type == "multipart/form-data";
        if !is_multipart && content_type != "application/x-www-form-urlencoded" {
            return Ok(());
        }
        if self.has_begun_body() {
            return Err(Error::internal(
                "req.once needs the key of the form, and its body has been read already: read it with `form`, \
                 `submitted`, `form_pairs` or `multipart`, or within req.once",
            ));
        }
        if is_multipart {
            return self.read_multipart_ahead();
        }
        let bytes = self.bytes()?;
        self.put_body(bytes.clone());
        self.form_pairs()?;
        self.put_body(bytes);
        Ok(())
    }

    fn answer_again(&mut self, answer: Answer) -> Result<Response> {
        let received = || Error::conflict("This form was received before, and has been answered.");
        let location = answer.location.ok_or_else(received)?;
        answer.flashes.into_iter().for_each(|flash| self.flash(flash.kind, flash.message));
        Ok(Response::new().status(Status::new(answer.status)).header("Location", location))
    }
}

/// What is done is done: that it cannot be remembered is for the log, and not for the visitor.
fn keep(req: &Request, store: &Store, key: &str, answer: &Answer) {
    let kept = serde_json::to_string(answer)
        .map_err(Error::from)
        .and_then(|answer| store.put(Shelf::AnsweredForms, key, &answer, store::now() + REMEMBERED));
    if let Err(error) = kept {
        let words = "The answer to a form cannot be remembered; sent again it would be done again";
        log::error!(target: "aside::http", "{words}: {} ({})", error.chain(), req.id());
    }
}

/// What is remembered of a response.
#[derive(Serialize, Deserialize)]
struct Answer {
    status: u16,
    location: Option<String>,
    flashes: Vec<Flash>,
    /// The user who sent the form and the user logged in afterwards; both may be empty.
    users: Vec<Option<String>>,
}

impl Answer {
    fn of(response: &Response, mut flashes: Vec<Flash>, users: Vec<Option<String>>) -> Answer {
        let status = response.status_code().code();
        let location = response.headers().get("Location").filter(|to| status >= 300 && to.len() <= MOST_BYTES);
        if flashes.iter().map(|flash| flash.kind.len() + flash.message.len()).sum::<usize>() > MOST_BYTES {
            flashes.clear();
        }
        Answer { status, location: location.map(str::to_owned), flashes, users }
    }

    /// Returns true if this user of the client may get the response. Responses from before a login stay available to the
    /// client.
    fn is_for(&self, user: &Option<String>) -> bool {
        self.users.iter().all(Option::is_none) || self.users.contains(user)
    }
}

fn user_of(req: &mut Request) -> Option<String> {
    req.session().user().map(str::to_owned)
}

/// Returns the identity of a form, if it has a key: a digest of the client, the key, the path and all fields. A digest has
/// the same small size for every form.
struct Noted(Option<String>);

/// Notes the key of a form that has been read, for [`Request::once`].
pub(crate) fn note<'f>(req: &mut Request, fields: impl Iterator<Item = (&'f str, &'f str)> + Clone) {
    let is_key = |key: &&str| key.len() == 2 * KEY_BYTES && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !fields.clone().any(|(name, key)| name == FIELD && is_key(&key)) {
        req.set_extension(Noted(None));
        return;
    }
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    };
    [&client(req), req.method().as_str(), req.path()].into_iter().for_each(&mut add);
    fields.flat_map(|(name, text)| [name, text]).for_each(&mut add);
    req.set_extension(Noted(Some(hex(&digest.finalize()))));
}

/// Returns the identity of a client: the cookie, or the address of a client without one.
fn client(req: &Request) -> String {
    let keys = req.scope().get::<Keys>();
    match keys.and_then(|keys| cookie(req, &keys)) {
        Some(cookie) => format!("cookie {cookie}"),
        None => format!("address {:?}", req.client_ip()),
    }
}

/// Returns the client's cookie, if this application set it.
fn cookie(req: &Request, keys: &Keys) -> Option<String> {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_ours = |value: &String| value.len() == COOKIE_CHARS && value.bytes().all(is_safe);
    req.cookie(&keys.name(COOKIE)).filter(is_ours)
}

/// The forms that are being answered in this process.
#[derive(Default)]
pub(crate) struct UnderWay(Arc<Claims>);

#[derive(Default)]
struct Claims {
    keys: Mutex<HashSet<String>>,
    freed: Condvar,
}

/// The right to answer a form, which one has at a time. It ends with it, by a panic too.
#[derive(Debug)]
struct Claim {
    claims: Arc<Claims>,
    key: String,
}

impl UnderWay {
    fn claim(&self, key: &str, patience: Duration) -> Result<Claim> {
        let keys = lock(&self.0.keys);
        let _share = if keys.contains(key) { worker_share::wait(Wait::Once)? } else { None };
        let mut keys = wait_while_for(&self.0.freed, keys, patience, |keys| keys.contains(key));
        if !keys.insert(key.to_owned()) {
            let words = "This form was received a moment ago and is still being worked on. Please look in a minute \
                         whether it went through, before you send it again.";
            return Err(Error::conflict(words));
        }
        Ok(Claim { claims: self.0.clone(), key: key.to_owned() })
    }
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} forms", lock(&self.keys).len())
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claims.keys).remove(&self.key);
        self.claims.freed.notify_all();
    }
}

/// The template function `once`: renders the hidden field with a new key, and records the call.
pub(crate) fn function(was_called: Arc<AtomicBool>) -> Value {
    Value::from_function(move || {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(|error| {
            let words = "the system gives no random bytes for the key of a form";
            minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, words).with_source(error)
        })?;
        was_called.store(true, Ordering::Relaxed);
        let field = format!(r#"<input type="hidden" name="{FIELD}" value="{}">"#, hex(&key));
        Ok::<_, minijinja::Error>(Value::from_safe_string(field))
    })
}

/// A record that the page has a key.
struct Shown;

/// Records that the page has a key.
pub(crate) fn note_shown(req: &mut Request) {
    req.set_extension(Shown);
}

/// Makes a page with a key private to the client: caches must not store it, since another client would get the same key.
/// Sets the cookie that the keys are bound to.
///
/// At the end of a login the client gets a new cookie. This makes Chromium drop the pages in its back/forward cache
/// (bfcache): it keeps a page that followed the login's redirect although the page is `no-store`. It drops the page when a
/// cookie is set, but not when the session's cookie is removed.
pub(crate) fn save(req: &mut Request, response: &mut Response) {
    let has_key = req.extension::<Shown>().is_some();
    if has_key {
        cache_control::forbid_storing(&mut response.headers);
    }
    let Some(keys) = req.scope().get::<Keys>() else { return };
    let is_new = session::has_lost_user(req) || (has_key && cookie(req, &keys).is_none());
    if !is_new {
        return;
    }
    match unguessable() {
        Ok(value) => response.headers.add("Set-Cookie", keys.cookie(&keys.name(COOKIE), value).to_string()),
        Err(error) => response.fail(error),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::thread;

    use super::*;
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};
    use crate::worker_share::tests::one_of_two_workers_is_refused;

    fn noted(path: &str, fields: &[(&str, &str)]) -> Option<String> {
        let mut req = Request::new(Method::Post, path, Headers::new(), Body::empty());
        note(&mut req, fields.iter().copied());
        req.extension::<Noted>().unwrap().0.clone()
    }

    #[test]
    fn one_claim_at_a_time_and_none_is_left() {
        let under_way = UnderWay::default();
        let claim = under_way.claim("a", PATIENCE).unwrap();
        assert_eq!(under_way.claim("a", Duration::ZERO).unwrap_err().status(), Status::CONFLICT);
        let other = under_way.claim("b", Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| under_way.claim("a", PATIENCE).map(drop));
            drop(claim);
            waits.join().unwrap().unwrap();
        });
        drop(other);
        let panics = AssertUnwindSafe(|| {
            let _claim = under_way.claim("a", Duration::ZERO);
            resume_unwind(Box::new("a handler's mistake"))
        });
        assert!(catch_unwind(panics).is_err());
        assert!(lock(&under_way.0.keys).is_empty());
    }

    /// Regression: each copy of a form with a slow handler occupied a worker for 30 s.
    #[test]
    fn few_workers_wait_for_the_first_form() {
        let under_way = UnderWay::default();
        let first = under_way.claim("a", PATIENCE).unwrap();
        one_of_two_workers_is_refused(|| under_way.claim("a", PATIENCE).map(drop), || drop(first));
    }

    #[test]
    fn another_key_path_or_content_is_another_form() {
        let key = "0123456789abcdef0123456789ABCDEF";
        let first = noted("/orders", &[(FIELD, key), ("a", "1")]).unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(noted("/orders", &[(FIELD, key), ("a", "1")]).unwrap(), first);
        let other_key = key.replace('0', "1");
        for (path, fields) in [
            ("/other", [(FIELD, key), ("a", "1")]),
            ("/orders", [(FIELD, &other_key), ("a", "1")]),
            ("/orders", [(FIELD, key), ("a", "2")]),
            ("/orders", [(FIELD, key), ("a1", "")]),
        ] {
            assert_ne!(noted(path, &fields).unwrap(), first, "{path} {fields:?}");
        }
    }

    #[test]
    fn little_is_remembered_of_a_large_answer() {
        let flash = |length| vec![Flash { kind: "success".into(), message: "x".repeat(length) }];
        let to = |path: String| Response::new().status(Status::SEE_OTHER).header("Location", path);
        let kept = Answer::of(&to("/a".into()), flash(1_000), Vec::new());
        assert_eq!((kept.location.as_deref(), kept.flashes.len()), (Some("/a"), 1));
        let kept = Answer::of(&to("/".repeat(5_000)), flash(5_000), Vec::new());
        assert_eq!((kept.status, kept.location, kept.flashes.len()), (303, None, 0));
        assert_eq!(Answer::of(&to("/a".into()).status(Status::CREATED), Vec::new(), Vec::new()).location, None);
    }

    #[test]
    fn what_is_no_key_of_ours_is_none() {
        for key in ["", "abc", &"g".repeat(32), &"a".repeat(33), &"a".repeat(1 << 20), &"я".repeat(16)] {
            assert_eq!(noted("/", &[(FIELD, key)]), None, "{key:.40}");
        }
        assert_eq!(noted("/", &[("once", &"a".repeat(32))]), None);
    }
}
