//! Event streams of users, which end with their session: at once after a logout in this process, and after the next
//! read of the store for a logout in another process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::error::Result;
use crate::http::response::{Response, ResponseBody};
use crate::http::session::store::{EntryKind, Store};
use crate::http::stream::disconnect::{Disconnect, OnSignal};
use crate::http::stream::source::{Pause, StreamSource};
use crate::http::stream::writer::StreamWriter;
use crate::sync::{lock, spawn};
use crate::watch::Call;

/// The interval at which a shared store is read while streams of users are open.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A session with a user, as the store knows it.
#[derive(Debug, Clone)]
pub(super) struct Login {
    /// The session's id.
    pub(super) session: String,
    pub(super) user: String,
    /// The user's mark in the store at login. A different mark means that the user's sessions have been ended since.
    pub(super) mark: Option<String>,
}

impl Login {
    /// Returns true if the store has recorded the end of the session.
    ///
    /// # Errors
    /// An error if the store cannot be read.
    pub(super) fn was_ended(&self, store: &Store) -> Result<bool> {
        let [ended, mark] =
            store.get_both([(EntryKind::EndedSessions, &self.session), (EntryKind::EndedUsers, &self.user)])?;
        Ok(ended.is_some() || mark.is_some_and(|mark| self.mark.as_ref() != Some(&mark)))
    }
}

/// The event streams of an application that belong to users.
#[derive(Default)]
pub(crate) struct OpenStreams(Arc<Shared>);

#[derive(Default)]
struct Shared(Mutex<Streams>);

#[derive(Default)]
struct Streams {
    last: u64,
    open: HashMap<u64, Stream>,
    /// True while a thread polls the store.
    is_watched: bool,
}

#[derive(Clone)]
struct Stream {
    login: Login,
    ended: Disconnect,
}

impl OpenStreams {
    /// Ends the streams of one session.
    pub(crate) fn end_session(&self, id: &str) {
        self.0.end(|login| login.session == id);
    }

    /// Ends the streams of all sessions of a user.
    pub(crate) fn end_user(&self, user: &str) {
        self.0.end(|login| login.user == user);
    }

    /// Registers a stream, so that it ends with its session.
    pub(super) fn bind(&self, login: Login, store: &Arc<Store>, response: &mut Response) {
        let entry = self.0.enter(login.clone());
        // The session was ended while the handler ran, before the stream was registered.
        if login.was_ended(store).unwrap_or(false) {
            entry.ended.signal();
        }
        self.0.watch(store);
        response.body = match std::mem::take(&mut response.body) {
            ResponseBody::Stream { write, is_live } => {
                let write = move |out: StreamWriter<'_>| {
                    let gone = out.disconnect().clone();
                    let _registration = entry.ended.on_signal(move || gone.signal());
                    write(out)
                };
                ResponseBody::Stream { write: Box::new(write), is_live }
            }
            ResponseBody::Source(source) => {
                ResponseBody::Source(Box::new(BoundSource { source, registration: Mutex::new(None), entry }))
            }
            body => body,
        };
    }
}

impl Shared {
    fn enter(self: &Arc<Self>, login: Login) -> Entry {
        let ended = Disconnect::default();
        let mut streams = lock(&self.0);
        streams.last += 1;
        let id = streams.last;
        streams.open.insert(id, Stream { login, ended: ended.clone() });
        Entry { of: Arc::downgrade(self), id, ended }
    }

    fn end(&self, which: impl Fn(&Login) -> bool) {
        let streams = lock(&self.0);
        let ended = streams.open.values().filter(|stream| which(&stream.login)).map(|stream| stream.ended.clone());
        let ended: Vec<Disconnect> = ended.collect();
        // The callbacks may take the lock.
        drop(streams);
        ended.iter().for_each(Disconnect::signal);
    }

    /// Starts a thread that polls the store, if other processes may write to it, while streams are open.
    fn watch(self: &Arc<Self>, store: &Arc<Store>) {
        let mut streams = lock(&self.0);
        if streams.is_watched || streams.open.is_empty() || !store.is_shared() {
            return;
        }
        let (shared, store) = (Arc::downgrade(self), store.clone());
        match spawn("aside-sessions", move || poll(&shared, &store)) {
            Ok(_) => streams.is_watched = true,
            Err(error) => log::warn!(
                target: "aside::session",
                "Could not start a thread: {error}; streams do not end when another process logs their user out"
            ),
        }
    }

    /// Ends the streams of sessions that the store has recorded as ended. Returns false if no stream is left.
    fn end_streams(&self, store: &Store, version: &mut Option<i64>) -> bool {
        let mut streams = lock(&self.0);
        if streams.open.is_empty() {
            streams.is_watched = false;
            return false;
        }
        let open: Vec<Stream> = streams.open.values().cloned().collect();
        drop(streams);
        // Read before the entries: a concurrent write is noticed at the next poll.
        let newest = store.version().ok().flatten();
        if newest.is_none() || newest != *version {
            *version = newest;
            let ended = |stream: &&Stream| stream.login.was_ended(store).unwrap_or(false);
            open.iter().filter(ended).for_each(|stream| stream.ended.signal());
        }
        true
    }
}

fn poll(shared: &Weak<Shared>, store: &Store) {
    let mut version = None;
    loop {
        std::thread::sleep(POLL_INTERVAL);
        let Some(shared) = shared.upgrade() else { return };
        if !shared.end_streams(store, &mut version) {
            return;
        }
    }
}

/// An open stream, until dropped.
struct Entry {
    of: Weak<Shared>,
    id: u64,
    ended: Disconnect,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(shared) = self.of.upgrade() {
            lock(&shared.0).open.remove(&self.id);
        }
    }
}

/// A stream source that ends with its session.
struct BoundSource {
    source: Box<dyn StreamSource>,
    /// Registers the transport's callback for the end of the session.
    registration: Mutex<Option<OnSignal>>,
    entry: Entry,
}

impl StreamSource for BoundSource {
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause> {
        if self.entry.ended.is_signaled() { None } else { self.source.write(out) }
    }

    fn call_when_new(&self, call: Call) {
        self.source.call_when_new(call.clone());
        *lock(&self.registration) = Some(self.entry.ended.on_signal(move || call()));
    }
}
