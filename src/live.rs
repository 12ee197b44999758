//! State that pages watch: changed under a lock, shown again by everybody who looks at it.
//!
//! A change is made on a copy, and put in place when the lock is let go. Whoever reads or renders holds no lock, and a
//! change that ends in a panic leaves the last good state. Watchers that are slow, or asked for more often than anybody can
//! see, get the latest state and none of those between.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::http::events::{Event, Events};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::session::unguessable;
use crate::http::templates::{Fragment, fragment};
use crate::sync::{lock, wait_while_for};

/// Between two updates of one page: nobody sees more than that, and a thousand changes in a second cost a page twenty.
const FRAME: Duration = Duration::from_millis(50);

/// How soon a page comes back whose connection was lost.
const RETRY: Duration = Duration::from_secs(1);

/// How often a page that has nothing to tell says that it is there: proxies close what is silent for a minute, and a visitor
/// who has left is noticed by writing to him.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// State that pages watch.
///
/// ```
/// use aside::{App, Live, Request, Response, Result, background};
///
/// #[derive(Clone, Default, serde::Serialize)]
/// struct Posts { titles: Vec<String> }
///
/// struct Board(Live<Posts>);
///
/// fn post(req: &mut Request) -> Result<()> {
///     let (board, title) = (req.state::<Board>(), req.text()?);
///     background(move || board.0.update(|posts| posts.titles.push(title)));
///     Ok(())
/// }
///
/// fn watch(req: &mut Request) -> Result<Response> {
///     req.live(&req.state::<Board>().0, "posts.html") // every page that is open shows the new post
/// }
///
/// App::new()
///     .state(Board(Live::new(Posts::default())))
///     .template("posts.html", "<ul>{% for title in titles %}<li>{{ title }}</li>{% endfor %}</ul>")
///     .post("/posts", post)
///     .get("/posts/live", watch);
/// ```
///
/// A clone is the same state. It is kept in memory: what must survive a restart is for the database.
pub struct Live<T>(Arc<Shared<T>>);

struct Shared<T> {
    /// Whose turn it is to change it.
    turn: Mutex<()>,
    now: Mutex<Published<T>>,
    changed: Condvar,
    watchers: AtomicUsize,
    /// Tells the versions of this process from those of another, when a page comes back after a restart.
    epoch: String,
    /// The last version that could not be rendered, so that the log has it once and not for each watcher.
    unrendered: AtomicU64,
}

/// A state, and how many there were before.
struct Published<T> {
    version: u64,
    state: Arc<T>,
    /// How many wait for the next one. Telling them is a call to the system, which is left out when there are none.
    waiting: usize,
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Live<T> {
        Live(self.0.clone())
    }
}

impl<T: Clone> Live<T> {
    /// State that nobody has changed yet.
    pub fn new(state: T) -> Live<T> {
        Live(Arc::new(Shared {
            turn: Mutex::new(()),
            now: Mutex::new(Published { version: 1, state: Arc::new(state), waiting: 0 }),
            changed: Condvar::new(),
            watchers: AtomicUsize::new(0),
            // Without randomness a page that comes back after a restart may keep what it shows until the next change.
            epoch: unguessable().unwrap_or_default(),
            unrendered: AtomicU64::new(0),
        }))
    }

    /// The state as it is. It does not change in the hand, and holds nobody up.
    pub fn get(&self) -> Arc<T> {
        lock(&self.0.now).state.clone()
    }

    /// Changes the state, and then shows it to every page that watches. One change at a time; the others wait.
    ///
    /// ```
    /// let count = aside::Live::new(1);
    /// let before = count.update(|count| std::mem::replace(count, 2));
    /// assert_eq!((before, *count.get()), (1, 2));
    /// ```
    ///
    /// # Panics
    /// When `change` does. The state is then as it was before, and the log says so.
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.lock())
    }

    /// The same with a guard, for a change that does not fit into a closure. The state is copied here, put in place when
    /// the guard goes, and stays as it was when that is because of a panic.
    ///
    /// A thread that holds a guard and asks for another waits for itself, for ever.
    pub fn lock(&self) -> LiveGuard<'_, T> {
        let turn = lock(&self.0.turn);
        LiveGuard { live: self, state: Some(T::clone(&self.get())), _turn: turn }
    }

    /// How many pages watch it now: a task that works for them alone may stop when there are none. A visitor who has left
    /// counts until writing to him fails, which takes one or two heartbeats of 15 s when nothing changes.
    pub fn watchers(&self) -> usize {
        self.0.watchers.load(Ordering::Relaxed)
    }

    fn publish(&self, state: T) {
        let state = Arc::new(state);
        let mut now = lock(&self.0.now);
        let former = std::mem::replace(&mut now.state, state);
        now.version += 1;
        let someone_waits = now.waiting > 0;
        drop(now);
        if someone_waits {
            self.0.changed.notify_all();
        }
        drop(former);
    }

    /// The state, once there is a newer one than that; none, when none came in that time.
    fn newer_than(&self, version: u64, time: Duration) -> Option<(u64, Arc<T>)> {
        let mut now = lock(&self.0.now);
        now.waiting += 1;
        let mut now = wait_while_for(&self.0.changed, now, time, |now| now.version == version);
        now.waiting -= 1;
        (now.version != version).then(|| (now.version, now.state.clone()))
    }
}

impl<T: fmt::Debug + Clone> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.get()).finish()
    }
}

/// The right to change a [`Live`] state, until it goes.
pub struct LiveGuard<'l, T: Clone> {
    live: &'l Live<T>,
    /// There until the guard goes.
    state: Option<T>,
    _turn: MutexGuard<'l, ()>,
}

impl<T: Clone> Deref for LiveGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.state.as_ref().expect("the state is there until the guard goes")
    }
}

impl<T: Clone> DerefMut for LiveGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.state.as_mut().expect("the state is there until the guard goes")
    }
}

impl<T: Clone> Drop for LiveGuard<'_, T> {
    fn drop(&mut self) {
        match self.state.take() {
            Some(_) if thread::panicking() => {
                log::error!(target: "aside::live", "A change panicked; the state is as it was before it.");
            }
            Some(state) => self.live.publish(state),
            None => {}
        }
    }
}

impl Request {
    /// Answers with the event stream of a state: the template is rendered with it now, and again after each change, for as
    /// long as the visitor stays (WHATWG HTML, server-sent events).
    ///
    /// The state's fields are names in the template, and the whole is `state`. There are also `path`, `request_id`,
    /// `url_for`, `static`, and no flash messages. Each event is an unnamed message, as `EventSource` and the SSE extension
    /// of htmx expect, and carries an id: a page that comes back with it (`Last-Event-ID`) is told only what is new. At most
    /// 20 events a second, each the latest state; a comment every 15 s when there is nothing to tell. A stream holds a
    /// thread (`ASIDE_MAX_STREAMS`).
    ///
    /// A change that cannot be rendered is in the log, once, and the page keeps what it shows.
    ///
    /// # Errors
    /// 500 when the state cannot be rendered as it is now.
    pub fn live<T>(&self, live: &Live<T>, template: &str) -> Result<Response>
    where
        T: Clone + Serialize + Send + Sync + 'static,
    {
        let fragment = fragment(self, template)?;
        fragment.render(&*live.get())?;
        let known = self.header("Last-Event-ID").and_then(|id| live.version_of(id)).unwrap_or(0);
        let watch = Watch::new(live);
        Ok(Response::events(move |events| watch.follow(&fragment, known, events)))
    }
}

impl<T: Clone> Live<T> {
    fn event_id(&self, version: u64) -> String {
        format!("{}-{version}", self.0.epoch)
    }

    /// The version that an id stands for, when it is one of this process.
    fn version_of(&self, id: &str) -> Option<u64> {
        let (epoch, version) = id.rsplit_once('-')?;
        if epoch == self.0.epoch { version.parse().ok() } else { None }
    }
}

/// Somebody who watches, counted until it goes.
struct Watch<T>(Live<T>);

impl<T: Clone> Watch<T> {
    fn new(live: &Live<T>) -> Watch<T> {
        live.0.watchers.fetch_add(1, Ordering::Relaxed);
        Watch(live.clone())
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.0.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<T: Clone + Serialize> Watch<T> {
    /// Writes what is new, until that fails because the visitor has left.
    fn follow(self, fragment: &Fragment, mut known: u64, events: &mut Events<'_>) -> io::Result<()> {
        events.retry_after(RETRY)?;
        loop {
            match self.0.newer_than(known, HEARTBEAT) {
                Some((version, state)) => {
                    match fragment.render(&*state) {
                        Ok(text) => events.send_event(&Event::new(text).id(self.0.event_id(version)))?,
                        Err(error) => self.tell(version, &error),
                    }
                    known = version;
                    // Not to be woken: what comes meanwhile is in the next state.
                    thread::sleep(FRAME);
                }
                None => events.keep_alive()?,
            }
        }
    }

    fn tell(&self, version: u64, error: &Error) {
        if self.0.0.unrendered.fetch_max(version, Ordering::Relaxed) < version {
            log::error!(target: "aside::live", "A state cannot be shown, and pages keep the one before: {}", error.chain());
        }
    }
}

/// How long an entry of a [`LiveMap`] is kept that nobody holds any more: a page that is being loaded anew, or that the
/// visitor is still on the way to, finds it.
const KEPT: Duration = Duration::from_secs(60);

/// A [`Live`] state for each key: for each visitor, by something in the session, or for each order, by its number.
///
/// ```
/// use aside::{LiveMap, Request, Response, Result, background, redirect};
///
/// struct Imports(LiveMap<String, u32>); // .state(Imports(LiveMap::new()))
///
/// fn import(req: &mut Request) -> Result<Response> {
///     let rows = req.state::<Imports>().0.entry(req.id().to_owned(), || 0);
///     background(move || (0..100).for_each(|_| rows.update(|rows| *rows += 1)));
///     Ok(redirect(&format!("/imports/{}", req.id())))
/// }
///
/// fn watch(req: &mut Request) -> Result<Response> {
///     let rows = req.state::<Imports>().0.get(&req.param::<String>("id")?);
///     let rows = rows.ok_or_else(|| aside::Error::not_found("This import is over."))?;
///     req.live(&rows, "rows.html")
/// }
/// ```
///
/// An entry goes by itself once nobody has held it for a minute: no page watches it, and no task has it to change.
pub struct LiveMap<K, T>(Arc<Mutex<Entries<K, T>>>);

struct Entries<K, T> {
    entries: HashMap<K, Entry<T>>,
    swept: Instant,
}

struct Entry<T> {
    live: Live<T>,
    /// When somebody was last seen to hold it.
    held: Instant,
}

impl<K, T> Clone for LiveMap<K, T> {
    fn clone(&self) -> LiveMap<K, T> {
        LiveMap(self.0.clone())
    }
}

impl<K: Eq + Hash, T: Clone> Default for LiveMap<K, T> {
    fn default() -> LiveMap<K, T> {
        LiveMap::new()
    }
}

impl<K: Eq + Hash, T: Clone> LiveMap<K, T> {
    /// A map without entries.
    pub fn new() -> LiveMap<K, T> {
        LiveMap(Arc::new(Mutex::new(Entries { entries: HashMap::new(), swept: Instant::now() })))
    }

    /// The state of a key, begun when there is none.
    pub fn entry(&self, key: K, begin: impl FnOnce() -> T) -> Live<T> {
        let now = Instant::now();
        let mut map = lock(&self.0);
        map.sweep(now);
        let entry = map.entries.entry(key).or_insert_with(|| Entry { live: Live::new(begin()), held: now });
        entry.held = now;
        entry.live.clone()
    }

    /// The state of a key, when there is one.
    pub fn get(&self, key: &K) -> Option<Live<T>> {
        let now = Instant::now();
        let mut map = lock(&self.0);
        map.sweep(now);
        let entry = map.entries.get_mut(key)?;
        entry.held = now;
        Some(entry.live.clone())
    }

    /// Forgets a key. Who holds its state goes on with it.
    pub fn remove(&self, key: &K) {
        lock(&self.0).entries.remove(key);
    }

    /// How many keys there are, those among them that go at the next look.
    pub fn len(&self) -> usize {
        lock(&self.0).entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash, T> Entries<K, T> {
    /// Drops what nobody has held for a while. Not at each look: it goes through all of them.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) < KEPT / 4 {
            return;
        }
        self.swept = now;
        self.entries.retain(|_, entry| {
            if Arc::strong_count(&entry.live.0) > 1 {
                entry.held = now;
            }
            now.duration_since(entry.held) < KEPT
        });
    }
}

impl<K, T> fmt::Debug for LiveMap<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveMap({} entries)", lock(&self.0).entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(map: &LiveMap<u32, u32>, later: Duration) -> Vec<u32> {
        let mut map = lock(&map.0);
        let now = map.swept + later;
        map.sweep(now);
        let mut keys: Vec<u32> = map.entries.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn an_entry_goes_when_nobody_has_held_it_for_a_minute() {
        let map = LiveMap::new();
        let held = map.entry(1, || 0);
        drop(map.entry(2, || 0));
        assert_eq!(keys(&map, KEPT / 2), [1, 2], "who reloads the page finds it");
        assert_eq!(keys(&map, KEPT), [1]);
        drop(held);
        assert_eq!(keys(&map, KEPT / 2), [1], "it was held until the last look");
        assert_eq!(keys(&map, KEPT), [0; 0]);
    }

    #[test]
    fn a_key_has_one_state_and_others_have_theirs() {
        let map = LiveMap::new();
        let one = map.entry("a", || 1);
        map.entry("a", || 7).update(|number| *number += 1);
        map.entry("b", || 1);
        assert_eq!((*one.get(), *map.get(&"b").unwrap().get(), map.len()), (2, 1, 2));
        map.remove(&"a");
        assert!(map.get(&"a").is_none() && *one.get() == 2);
    }
}
