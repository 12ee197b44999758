//! Event streams of users, which end when their session is ended: by a logout here at once, and by one in another process as
//! soon as the store tells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::Duration;

use crate::error::Result;
use crate::http::disconnect::{Disconnect, OnTold};
use crate::http::feed::{Feed, Pause};
use crate::http::response::{Response, ResponseBody};
use crate::http::store::{Shelf, Store};
use crate::sync::lock;
use crate::watched::Call;

/// How often a store that other processes write to is asked for news, while there are streams of users.
const LOOK: Duration = Duration::from_secs(1);

/// A session with a user, as the store knows it.
#[derive(Debug, Clone)]
pub(super) struct Login {
    /// The session's id.
    pub(super) session: String,
    pub(super) user: String,
    /// What the store said of the user at the login: another text there means that the user's sessions were ended since.
    pub(super) mark: Option<String>,
}

impl Login {
    /// Returns true if the store knows that it was ended before its time.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) fn was_ended(&self, store: &Store) -> Result<bool> {
        let [ended, mark] = store.get_both([(Shelf::EndedSessions, &self.session), (Shelf::EndedUsers, &self.user)])?;
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
    /// A thread asks the store for news.
    is_watched: bool,
}

#[derive(Clone)]
struct Stream {
    login: Login,
    ended: Disconnect,
}

impl OpenStreams {
    /// Ends the streams of a session.
    pub(crate) fn end_session(&self, id: &str) {
        self.0.end(|login| login.session == id);
    }

    /// Ends the streams of all of a user's sessions.
    pub(crate) fn end_user(&self, user: &str) {
        self.0.end(|login| login.user == user);
    }

    /// Lets a stream end with its session.
    pub(super) fn bind(&self, login: Login, store: &Arc<Store>, response: &mut Response) {
        let entry = self.0.enter(login.clone());
        // Ended while the handler ran, before there was anything here to be told.
        if login.was_ended(store).unwrap_or(false) {
            entry.ended.tell();
        }
        self.0.watch(store);
        response.body = match std::mem::take(&mut response.body) {
            ResponseBody::Stream(write) => ResponseBody::Stream(Box::new(move |out| {
                let gone = out.disconnect().clone();
                let _told = entry.ended.on_told(move || gone.tell());
                write(out)
            })),
            ResponseBody::Feed(feed) => ResponseBody::Feed(Box::new(BoundFeed { feed, told: Mutex::new(None), entry })),
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
        // What is done when they are told may take the lock.
        drop(streams);
        ended.iter().for_each(Disconnect::tell);
    }

    /// Has a thread ask the store for news, when other processes may write to it, for as long as there are streams.
    fn watch(self: &Arc<Self>, store: &Arc<Store>) {
        let mut streams = lock(&self.0);
        if streams.is_watched || streams.open.is_empty() || !store.is_shared() {
            return;
        }
        let (shared, store) = (Arc::downgrade(self), store.clone());
        let thread = thread::Builder::new().name("aside-sessions".into());
        match thread.spawn(move || look_again_and_again(&shared, &store)) {
            Ok(_) => streams.is_watched = true,
            Err(error) => log::warn!(
                target: "aside::session",
                "Could not start a thread: {error}; streams do not end when another process logs their user out"
            ),
        }
    }

    /// Ends what the store knows to be ended. Returns false when there is nothing to look after any more.
    fn look(&self, store: &Store, version: &mut Option<i64>) -> bool {
        let mut streams = lock(&self.0);
        if streams.open.is_empty() {
            streams.is_watched = false;
            return false;
        }
        let open: Vec<Stream> = streams.open.values().cloned().collect();
        drop(streams);
        // Read before the entries: what is written in between is news the next time.
        let newest = store.version().ok().flatten();
        if newest.is_none() || newest != *version {
            *version = newest;
            let ended = |stream: &&Stream| stream.login.was_ended(store).unwrap_or(false);
            open.iter().filter(ended).for_each(|stream| stream.ended.tell());
        }
        true
    }
}

fn look_again_and_again(shared: &Weak<Shared>, store: &Store) {
    let mut version = None;
    loop {
        thread::sleep(LOOK);
        let Some(shared) = shared.upgrade() else { return };
        if !shared.look(store, &mut version) {
            return;
        }
    }
}

/// A stream that is open, until dropped.
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

/// A feed that ends with its session.
struct BoundFeed {
    feed: Box<dyn Feed>,
    /// Has the transport called when the session ends.
    told: Mutex<Option<OnTold>>,
    entry: Entry,
}

impl Feed for BoundFeed {
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause> {
        if self.entry.ended.is_told() { None } else { self.feed.write(out) }
    }

    fn call_when_new(&self, call: Call) {
        self.feed.call_when_new(call.clone());
        *lock(&self.told) = Some(self.entry.ended.on_told(move || call()));
    }
}
