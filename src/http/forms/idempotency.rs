//! Idempotent form submissions: a user clicks twice, a phone retries after a lost connection, a user reloads a page.
//! The form carries a key, and the response is stored under it.
//!
//! Often both requests arrive at the same time, so the second waits for the first (see [`InProgress`]) before it looks
//! into the store.
//!
//! A response belongs to the client that received it. A page with a key also sets a cookie, which survives a login. The
//! response is stored under the key, the cookie and the user. If a key leaks, or a cache gives it to two clients,
//! neither sees the other's response, and neither is prevented from getting its own.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, OrHere, Result, Status};
use crate::http::cache_control;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::session::store::{self, EntryKind, Store};
use crate::http::session::{self, Flash, Keys, unguessable};
use crate::log_text::numbered;
use crate::random;
use crate::sync::{lock, wait_while_for};
use crate::worker_share::{self, Wait};

/// The name of the hidden field.
pub(crate) const FIELD: &str = "_once";

/// The name of the cookie that keys are bound to, without its prefix.
const COOKIE: &str = "once";

/// The length of that cookie: 16 random bytes as text.
const COOKIE_CHARS: usize = 22;

/// The length of a key in bytes. A key has two hexadecimal digits for each byte.
pub(crate) const KEY_BYTES: usize = 16;

/// The time that a repeated request waits for the first.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The largest size of a stored redirect target, and of the stored flash messages, in bytes.
const MAX_BYTES: usize = 4 << 10;

/// The time for which a response is stored, in seconds.
const RETENTION: i64 = 24 * 60 * 60;

impl Request {
    /// Runs `f` once for each filled-in form, even if the client sends the form several times.
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
    /// The form's template has `{{ once() }}` between `<form>` and `</form>`: a hidden field with a new key on each
    /// page. The first request with a key runs `f`. A request with the same key, fields and path that arrives while `f`
    /// runs waits for it, at most 30 s. This request and all later ones, for 24 hours, get the redirect that `f`
    /// returned and the messages that it flashed, and `f` does not run again: there is no second row, mail or
    /// background task. A form that was changed before it was sent again counts as another form; files are compared by
    /// name. Without a valid key `f` runs each time; in development the log reports that.
    ///
    /// The response is repeated only for the same client, identified by a cookie that the page with the key sets, and
    /// for the user who sent the form or was logged in by it. For another client with the same key and fields `f` runs.
    /// A form that was rendered before a login and sent after it counts as the same form. A client without cookies is
    /// identified by its address. The page is `private, no-store`, even if the handler sets another policy.
    ///
    /// If `f` failed (an error, a panic, a status from 400) the form may be sent again. Validate the form outside: a
    /// form that is shown again with its errors is not complete. If the handler has not read the form yet, this method
    /// reads it for its key, and `f` may read it later.
    ///
    /// The status, the `Location` and the messages of the response are stored, up to 4 KiB each; other headers, and
    /// values that `f` stores in the session, go to the first request only. A response that is not a redirect cannot be
    /// repeated: a client that sends the form again gets 409, which says that the form was received. Responses are
    /// stored where `ASIDE_STORE` says; in memory they are lost at a restart. Several processes with one SQLite file
    /// share the stored responses, but do not wait for each other.
    ///
    /// # Errors
    /// The errors of `f`; 409 if the first is not done after 30 s, or its response cannot be repeated; the errors of
    /// [`form_pairs`](Request::form_pairs) if the form is read here; 500 if the store cannot be read, or if the handler
    /// has read the body in another way; 503 if the store cannot tell if the session was ended, and with `Retry-After`
    /// if too many workers (`ASIDE_MAX_WAITING`) wait for first requests.
    #[track_caller]
    pub fn once(&mut self, f: impl FnOnce(&mut Request) -> Result<Response>) -> Result<Response> {
        let Some(key) = self.once_key().or_here()? else { return f(self) };
        let scope = self.scope();
        let (Some(store), Some(in_progress)) = (scope.get::<Store>(), scope.get::<InProgress>()) else {
            return f(self);
        };
        self.session().check().or_here()?;
        let sender = user_of(self);
        let _claim = in_progress.claim(&key, MAX_WAIT).or_here()?;
        let stored = store
            .get(EntryKind::AnsweredForms, &key)
            .or_here()?
            .map(|json| serde_json::from_str::<StoredResponse>(&json));
        if let Some(stored) = stored.transpose()?.filter(|stored| stored.is_for(&sender)) {
            return self.repeat_response(stored);
        }
        let mark = session::flash_count(self);
        let response = f(self).or_here()?;
        if response.error().is_none() && response.status_code().code() < 400 {
            let users = vec![sender, user_of(self)];
            let stored = StoredResponse::of(&response, session::flashes_since(self, mark), users);
            store_response(self, &store, &key, &stored);
        }
        Ok(response)
    }

    /// Returns the identity of the form, if it has a key.
    fn once_key(&mut self) -> Result<Option<String>> {
        if self.extension::<FormIdentity>().is_none() {
            self.read_form_ahead()?;
        }
        let key = self.extension::<FormIdentity>().and_then(|identity| identity.0.clone());
        if key.is_none() && self.config().is_development() {
            let (method, path) = (self.method(), self.path());
            log::warn!(
                target: "aside::http",
                "{method} {path}: req.once cannot detect a repeated form, since the client sent no key; a browser sends one if the \
                 form's template has {{{{ once() }}}} ({})",
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
        self.restore_body(bytes.clone());
        self.form_pairs()?;
        self.restore_body(bytes);
        Ok(())
    }

    fn repeat_response(&mut self, stored: StoredResponse) -> Result<Response> {
        let received = || Error::conflict("This form was received before, and has been processed.");
        let location = stored.location.ok_or_else(received)?;
        stored.flashes.into_iter().for_each(|flash| self.flash(flash.kind, flash.message));
        Ok(Response::new().status(Status::new(stored.status)).header("Location", location))
    }
}

/// Stores the response. A failure is logged and not shown to the user, since the form itself has been processed.
fn store_response(req: &Request, store: &Store, key: &str, stored: &StoredResponse) {
    let kept = serde_json::to_string(stored)
        .map_err(Error::from)
        .and_then(|json| store.put(EntryKind::AnsweredForms, key, &json, store::now() + RETENTION));
    if let Err(error) = kept {
        let message = "Could not store the response to a form, so a repeated form would be processed again";
        log::error!(target: "aside::http", "{message}: {} ({})", error.chain(), req.id());
    }
}

/// The stored parts of a response.
#[derive(Serialize, Deserialize)]
struct StoredResponse {
    status: u16,
    location: Option<String>,
    flashes: Vec<Flash>,
    /// The user who sent the form and the user logged in afterwards; both may be empty.
    users: Vec<Option<String>>,
}

impl StoredResponse {
    fn of(response: &Response, mut flashes: Vec<Flash>, users: Vec<Option<String>>) -> StoredResponse {
        let status = response.status_code().code();
        let location = response.headers().get("Location").filter(|to| status >= 300 && to.len() <= MAX_BYTES);
        if flashes.iter().map(|flash| flash.kind.len() + flash.message.len()).sum::<usize>() > MAX_BYTES {
            flashes.clear();
        }
        StoredResponse { status, location: location.map(str::to_owned), flashes, users }
    }

    /// Returns true if this user of the client may get the response. Responses from before a login stay available to
    /// the client.
    fn is_for(&self, user: &Option<String>) -> bool {
        self.users.iter().all(Option::is_none) || self.users.contains(user)
    }
}

fn user_of(req: &mut Request) -> Option<String> {
    req.session().user().map(str::to_owned)
}

/// The identity of a form, if it has a key: a digest of the client, the key, the path and all fields. A digest has the
/// same small size for every form.
struct FormIdentity(Option<String>);

/// Records the identity of a form that has been read, for [`Request::once`].
pub(crate) fn record_identity<'f>(req: &mut Request, fields: impl Iterator<Item = (&'f str, &'f str)> + Clone) {
    let is_key = |key: &&str| key.len() == 2 * KEY_BYTES && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !fields.clone().any(|(name, key)| name == FIELD && is_key(&key)) {
        req.set_extension(FormIdentity(None));
        return;
    }
    let mut digest = Sha256::new();
    let mut add = |text: &str| {
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text);
    };
    [&client(req), req.method().as_str(), req.path()].into_iter().for_each(&mut add);
    fields.flat_map(|(name, text)| [name, text]).for_each(&mut add);
    req.set_extension(FormIdentity(Some(random::hex(&digest.finalize()))));
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

/// The forms that handlers in this process are working on.
#[derive(Default)]
pub(crate) struct InProgress(Arc<Claims>);

#[derive(Default)]
struct Claims {
    keys: Mutex<HashSet<String>>,
    released: Condvar,
}

/// The exclusive right to process a form. Dropping it releases the right, even after a panic.
#[derive(Debug)]
struct Claim {
    claims: Arc<Claims>,
    key: String,
}

impl InProgress {
    fn claim(&self, key: &str, max_wait: Duration) -> Result<Claim> {
        let keys = lock(&self.0.keys);
        let _share = if keys.contains(key) { worker_share::wait(Wait::Once)? } else { None };
        let mut keys = wait_while_for(&self.0.released, keys, max_wait, |keys| keys.contains(key));
        if !keys.insert(key.to_owned()) {
            let message = "This form was received a moment ago and is still being processed. Please check in a minute \
                         whether it went through, before you send it again.";
            return Err(Error::conflict(message));
        }
        Ok(Claim { claims: self.0.clone(), key: key.to_owned() })
    }
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&numbered(lock(&self.keys).len(), "form", "forms"))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&self.claims.keys).remove(&self.key);
        self.claims.released.notify_all();
    }
}

/// A record that the page has a key.
struct Shown;

/// Records that the page has a key.
pub(crate) fn note_shown(req: &mut Request) {
    req.set_extension(Shown);
}

/// Makes a page with a key private to the client: caches must not store it, since another client would get the same
/// key. Sets the cookie that the keys are bound to.
///
/// At the end of a login the client gets a new cookie. This makes Chromium drop the pages in its back/forward cache
/// (bfcache): it keeps a page that followed the login's redirect although the page is `no-store`. It drops the page
/// when a cookie is set, but not when the session's cookie is removed.
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::thread;

    use super::*;
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};
    use crate::worker_share::tests::one_of_two_workers_is_refused;

    fn identity(path: &str, fields: &[(&str, &str)]) -> Option<String> {
        let mut req = Request::new(Method::Post, path, Headers::new(), Body::empty());
        record_identity(&mut req, fields.iter().copied());
        req.extension::<FormIdentity>().unwrap().0.clone()
    }

    #[test]
    fn a_form_is_claimed_once_and_every_claim_is_released() {
        let in_progress = InProgress::default();
        let claim = in_progress.claim("a", MAX_WAIT).unwrap();
        assert_eq!(in_progress.claim("a", Duration::ZERO).unwrap_err().status_code(), Status::CONFLICT);
        let other = in_progress.claim("b", Duration::ZERO).unwrap();
        thread::scope(|scope| {
            let waits = scope.spawn(|| in_progress.claim("a", MAX_WAIT).map(drop));
            drop(claim);
            waits.join().unwrap().unwrap();
        });
        drop(other);
        let panics = AssertUnwindSafe(|| {
            let _claim = in_progress.claim("a", Duration::ZERO);
            resume_unwind(Box::new("a fault in a handler"))
        });
        assert!(catch_unwind(panics).is_err());
        assert!(lock(&in_progress.0.keys).is_empty());
    }

    /// Regression: each copy of a form with a slow handler occupied a worker for 30 s.
    #[test]
    fn few_workers_wait_for_the_first_request() {
        let in_progress = InProgress::default();
        let first = in_progress.claim("a", MAX_WAIT).unwrap();
        one_of_two_workers_is_refused(|| in_progress.claim("a", MAX_WAIT).map(drop), || drop(first));
    }

    #[test]
    fn another_key_path_or_content_is_another_form() {
        let key = "0123456789abcdef0123456789ABCDEF";
        let first = identity("/orders", &[(FIELD, key), ("a", "1")]).unwrap();
        assert_eq!(first.len(), 64);
        assert_eq!(identity("/orders", &[(FIELD, key), ("a", "1")]).unwrap(), first);
        let other_key = key.replace('0', "1");
        for (path, fields) in [
            ("/other", [(FIELD, key), ("a", "1")]),
            ("/orders", [(FIELD, &other_key), ("a", "1")]),
            ("/orders", [(FIELD, key), ("a", "2")]),
            ("/orders", [(FIELD, key), ("a1", "")]),
        ] {
            assert_ne!(identity(path, &fields).unwrap(), first, "{path} {fields:?}");
        }
    }

    #[test]
    fn large_parts_of_a_response_are_not_stored() {
        let flash = |length| vec![Flash { kind: "success".into(), message: "x".repeat(length) }];
        let to = |path: String| Response::new().status(Status::SEE_OTHER).header("Location", path);
        let kept = StoredResponse::of(&to("/a".into()), flash(1_000), Vec::new());
        assert_eq!((kept.location.as_deref(), kept.flashes.len()), (Some("/a"), 1));
        let kept = StoredResponse::of(&to("/".repeat(5_000)), flash(5_000), Vec::new());
        assert_eq!((kept.status, kept.location, kept.flashes.len()), (303, None, 0));
        assert_eq!(StoredResponse::of(&to("/a".into()).status(Status::CREATED), Vec::new(), Vec::new()).location, None);
    }

    #[test]
    fn an_invalid_key_is_ignored() {
        for key in ["", "abc", &"g".repeat(32), &"a".repeat(33), &"a".repeat(1 << 20), &"я".repeat(16)] {
            assert_eq!(identity("/", &[(FIELD, key)]), None, "{key:.40}");
        }
        assert_eq!(identity("/", &[("once", &"a".repeat(32))]), None);
    }
}
