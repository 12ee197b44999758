//! The sealed cookies of a request, and their contents.

use std::sync::{Arc, OnceLock};

use super::contents::Contents;
use super::flash::{self, Flashes};
use super::keys::Keys;
use super::last_seen;
use super::streams::Login;
use crate::background::request_info::RequestInfo;
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::session::store::Store;

/// The name of the session's cookie, without its prefix.
pub(super) const NAME: &str = "session";

/// The cookies of a request, opened at the first access by the handler or a template. Both see the same contents, and
/// the store is read once.
pub(super) struct Sealed {
    pub(super) sessions: Vec<String>,
    pub(super) seen: Vec<String>,
    /// Pairs of name and value.
    flashes: Vec<(String, String)>,
    keys: Option<Arc<Keys>>,
    store: Option<Arc<Store>>,
    origin: Arc<RequestInfo>,
    opened: OnceLock<Opened>,
}

/// The contents of the cookies.
#[derive(Default)]
pub(super) struct Opened {
    pub(super) contents: Option<Arc<Contents>>,
    pub(super) flashes: Flashes,
    pub(super) now: i64,
    pub(super) is_due: bool,
    /// The error if the store could not tell if the session was ended.
    pub(super) problem: Option<String>,
}

impl Sealed {
    pub(super) fn of(req: &mut Request) -> Arc<Sealed> {
        if let Some(sealed) = req.extension::<Arc<Sealed>>() {
            return sealed.clone();
        }
        let mut sealed = Sealed {
            sessions: Vec::new(),
            seen: Vec::new(),
            flashes: Vec::new(),
            keys: req.scope().get::<Keys>(),
            store: req.scope().get(),
            origin: req.origin().clone(),
            opened: OnceLock::new(),
        };
        sealed.collect(req);
        let sealed = Arc::new(sealed);
        req.set_extension(sealed.clone());
        sealed
    }

    fn collect(&mut self, req: &Request) {
        let Some(keys) = &self.keys else { return };
        let (session, seen) = (keys.name(NAME), keys.name(last_seen::NAME));
        // A prefetched page may never be seen: messages wait for a page that the user opens.
        let flash = (!req.is_ahead()).then(|| keys.name(flash::START));
        let is_flash = |name: &str| flash.as_ref().is_some_and(|start| name.starts_with(start));
        for (name, value) in req.cookies_with(|name| name == session || name == seen || is_flash(name)) {
            if name == session {
                self.sessions.push(value);
            } else if name == seen {
                self.seen.push(value);
            } else {
                self.flashes.push((name.to_owned(), value));
            }
        }
    }

    pub(super) fn opened(&self) -> &Opened {
        self.opened.get_or_init(|| match &self.keys {
            Some(keys) => self.open(keys),
            None => Opened::default(),
        })
    }

    fn open(&self, keys: &Keys) -> Opened {
        let mut opened = self.open_session(keys);
        if opened.problem.is_none() {
            let user = opened.contents.as_ref().and_then(|contents| contents.user.as_deref());
            opened.flashes = Flashes::open(keys, &self.flashes, user, opened.now);
        }
        opened
    }

    fn open_session(&self, keys: &Keys) -> Opened {
        let now = keys.now();
        let Some((contents, seen)) = self.find(keys, now) else {
            self.log("has expired or cannot be opened");
            return Opened { now, ..Opened::default() };
        };
        match self.was_ended(&contents) {
            Ok(false) => {
                let is_due = keys.is_due(seen, now);
                Opened { contents: Some(Arc::new(contents)), now, is_due, ..Opened::default() }
            }
            Ok(true) => {
                self.log("was ended");
                Opened { now, ..Opened::default() }
            }
            Err(error) => Opened { now, problem: Some(error.chain()), ..Opened::default() },
        }
    }

    /// Returns the first session that can be opened and has not expired, and when it was last seen. A subdomain may
    /// have planted another cookie.
    fn find(&self, keys: &Keys, now: i64) -> Option<(Contents, i64)> {
        let name = keys.name(NAME);
        let contents = |sealed: &String| serde_json::from_str::<Contents>(&keys.open(&name, sealed)?).ok();
        let mut alive = self.sessions.iter().filter_map(contents).filter(|contents| keys.is_alive(contents.born, now));
        alive.find_map(|contents| {
            let seen = last_seen::latest(keys, &self.seen, &contents.id, now);
            let seen = seen.into_iter().chain([contents.seen]).filter(|seen| keys.is_fresh(*seen, now)).max()?;
            Some((contents, seen))
        })
    }

    fn was_ended(&self, contents: &Contents) -> Result<bool> {
        let unknown = "could not check if the session was ended, so the request has no user";
        let store = self.store.as_ref().ok_or_else(|| Error::internal(unknown))?;
        let (session, mark) = (contents.id.clone(), contents.mark.clone());
        let login = Login { session, user: contents.user.clone().unwrap_or_default(), mark };
        login.was_ended(store).map_err(|error| error.context(unknown))
    }

    fn log(&self, outcome: &str) {
        if !self.sessions.is_empty() {
            log::debug!(target: "aside::session", "The session {outcome}; it is empty now. ({})", self.origin.id);
        }
    }
}
