//! State that pages watch: it changes under a lock, and open pages show each change.
//!
//! ```
//! use aside::live::{LiveFragment, LiveMap};
//! use aside::{Live, Request, Result};
//!
//! struct Rooms(LiveMap<String, Vec<String>>);
//!
//! fn room(req: &mut Request) -> Result<LiveFragment> {
//!     let name: String = req.param("name")?;
//!     let room: Live<Vec<String>> = req.state::<Rooms>().0.entry(name.clone(), Vec::new);
//!     room.fragment(req, &format!("/rooms/{name}/live"), "room.html")
//! }
//! ```
//!
//! [`App::live`](crate::App::live) defines a fragment that templates show by name. A slow watcher gets the latest state, and
//! not each one before it.

pub(crate) mod definition;
pub(crate) mod states;

pub use self::definition::{IntoLive, LiveSource};

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use minijinja::Value;
use serde::{Serialize, Serializer};

use crate::background::failure::Failure;
use crate::background::handle::{TaskHandle, TaskInfo};
use crate::background::progress::Progress;
use crate::error::{OrHere, Result};
use crate::http::files::hashes;
use crate::http::html::Escaped;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::session::unguessable;
use crate::http::stream::source::{Pause, StreamSource};
pub use crate::http::stream::sse::{Event, Events};
use crate::http::stream::sse::{KEEP_ALIVE, retry_after};
use crate::http::templates::{Fragment, fragment};
use crate::log_text::{escape, numbered};
use crate::panics;
use crate::sync::lock;
pub use crate::watch::LiveGuard;
use crate::watch::{Call, Seen, Watched};

/// The shortest time between two updates of a page: more often is not visible, and a thousand changes in a second then cost
/// twenty updates.
const FRAME: Duration = Duration::from_millis(50);

/// Returns the delay after which a page reconnects, for a client without its own backoff: one to two seconds, depending on
/// the number of pages, so that they do not all reconnect at once after a restart.
fn retry(watchers: usize) -> Duration {
    Duration::from_millis(1_000 + (watchers as u64 * 97) % 1_000)
}

/// The interval of heartbeats on an event stream without events: proxies close a connection after a minute of silence.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// State that live pages follow.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Live, Request, Response, Result, background, redirect};
///
/// #[derive(Clone, Default, serde::Serialize)]
/// struct Posts { titles: Vec<String> }
///
/// fn post(req: &mut Request) -> Result<Response> {
///     let (board, title) = (req.state::<Live<Posts>>(), req.text()?);
///     background(move || board.update(|posts| posts.titles.push(title))); // every open page shows it
///     Ok(redirect("/"))
/// }
///
/// let app = App::new()
///     .state(Live::new(Posts::default())) // one for all users; `req.session_live` is one per session
///     .live("posts", "posts.html", |req: &mut Request| req.state::<Live<Posts>>())
///     .template("board.html", "<h1>Posts</h1> {{ live('posts') }}") // shows the state, and follows it
///     .template("posts.html", "<ul>{% for title in titles %}<li>{{ title }}</li>{% endfor %}</ul>")
///     .get("/", |req: &mut Request| req.render("board.html", ()))
///     .post("/", post);
///
/// let mut client = TestClient::new(app);
/// let mut events = client.events("/_aside/live/posts");
/// client.post("/").body("text/plain", "Hello").send();
/// while events.next().data != "<ul><li>Hello</li></ul>" {}
/// client.drain();
/// ```
///
/// [`App::live`](crate::App::live) defines the fragment and its stream. Your own routes can do the same with
/// [`fragment`](Live::fragment) and [`Request::live`].
///
/// A clone shares the state. It is kept in memory: store data that must survive a restart in a database.
pub struct Live<T>(Arc<Watched<T>>);

impl<T> Live<T> {
    /// Returns a live state for this value.
    pub(crate) fn of(watched: Arc<Watched<T>>) -> Live<T> {
        Live(watched)
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Live<T> {
        Live(self.0.clone())
    }
}

impl<T: Clone + Default> Default for Live<T> {
    fn default() -> Live<T> {
        Live::new(T::default())
    }
}

impl<T: Clone> Live<T> {
    /// Creates a live state.
    pub fn new(state: T) -> Live<T> {
        Live(Arc::new(Watched::new(state)))
    }

    /// Returns the current state: a snapshot, which later changes do not affect, and which blocks no other thread.
    pub fn get(&self) -> Arc<T> {
        self.0.get()
    }

    /// Changes the state, and notifies every page that follows it. Changes run one at a time; others wait.
    ///
    /// ```
    /// let count = aside::Live::new(1);
    /// let before = count.update(|count| std::mem::replace(count, 2));
    /// assert_eq!((before, *count.get()), (1, 2));
    /// ```
    ///
    /// A change of another state inside `change` is allowed. Without the lock the state can be read in `change` at any time
    /// ([`get`](Live::get)).
    ///
    /// # Panics
    /// If `change` panics. The state is then as it was before, and the log says so.
    ///
    /// If this thread is changing this state already, which would wait forever. Also if two threads change two states
    /// inside each other in opposite order: the thread that would close the circle panics, and the other continues. Both
    /// panics come before `change` runs.
    #[track_caller]
    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        self.0.update(change)
    }

    /// Returns a guard for a change that does not fit into a closure. The guard holds a copy of the state, which replaces the
    /// state when the guard is dropped. If a panic drops it, the state stays unchanged.
    ///
    /// The guard stays on its thread (it is not `Send`).
    ///
    /// # Panics
    /// If the wait would never end, as for [`update`](Live::update).
    #[track_caller]
    pub fn lock(&self) -> LiveGuard<'_, T> {
        self.0.lock()
    }

    /// Finishes the state: pages that follow it show the last state, and close the stream.
    ///
    /// ```
    /// let rows = aside::Live::new(0);
    /// rows.update(|rows| *rows = 17);
    /// rows.finish();
    /// assert!(rows.is_finished());
    /// ```
    ///
    /// Only pages that are loaded later show a further change.
    pub fn finish(&self) {
        self.0.finish();
    }

    /// Returns true if the state is finished.
    pub fn is_finished(&self) -> bool {
        self.0.look().is_finished
    }

    /// Returns the number of pages that follow the state now. A task that works only for them can stop at 0, as
    /// [`Task::cancel_unwatched`](crate::Task::cancel_unwatched) does.
    pub fn watchers(&self) -> usize {
        self.0.watchers()
    }
}

impl<T: fmt::Debug + Clone> fmt::Debug for Live<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.get()).finish()
    }
}

impl TaskInfo {
    /// Returns the progress of the task, for a page to follow. It is finished when the task has ended.
    ///
    /// ```
    /// use aside::tasks::{TaskInfo, task};
    /// use aside::{App, Request};
    ///
    /// // One for all users. `App::live_task` shows the task of each session.
    /// fn nightly(_: &mut Request) -> Option<TaskInfo> {
    ///     task("nightly-import")
    /// }
    ///
    /// App::new()
    ///     .live("nightly", "aside/progress.html", nightly) // shows `nightly.live()`, or nothing
    ///     .template("admin.html", "{{ live('nightly') }}");
    ///
    /// // The state itself, for a custom fragment:
    /// fn percent(task: &TaskInfo) -> Option<u8> {
    ///     task.live().get().percent()
    /// }
    /// ```
    ///
    /// The template `aside/progress.html` is built in: a bar, the task's message, and its outcome. Your own template has the
    /// fields of [`Progress`], and may hold a form that cancels the task, which works without JavaScript too:
    /// `{% if not is_finished %}<form method="post" action="/import/cancel"><button>Cancel</button></form>{% endif %}`,
    /// with `aside::tasks::task(key)` and [`cancel`](TaskInfo::cancel) behind it.
    pub fn live(&self) -> Live<Progress> {
        Live(self.watched().clone())
    }
}

impl<T> TaskHandle<T> {
    /// Returns the progress of the task, for a page to follow; see [`TaskInfo::live`].
    pub fn live(&self) -> Live<Progress> {
        self.info().live()
    }
}

impl<T> Live<T>
where
    T: Clone + Serialize + Send + Sync + 'static,
{
    /// Returns a fragment of a page that shows the current state, and follows it. The state is rendered with the template, in
    /// an element that reads the event stream at `url`. The handler there returns [`Request::live`] with the same template.
    ///
    /// ```
    /// use aside::{Live, Request, Response, Result, context};
    ///
    /// struct Visits(Live<u64>);
    ///
    /// fn page(req: &mut Request) -> Result<Response> {
    ///     let visits = req.state::<Visits>();
    ///     let counter = visits.0.fragment(req, "/visits/live", "visits.html")?;
    ///     req.render("page.html", context! { counter }) // {{ counter }} in the page
    /// }
    /// ```
    ///
    /// The script is under 2 KiB. Every application serves it at `/_aside/live.js`, and the default Content-Security-Policy
    /// allows it. It changes only the parts of the element that differ: typed text, the focus, and opened or closed
    /// `<details>` stay (a later `open` from the template has no effect). An element with an `id` is kept when its siblings
    /// are added or removed. A page that the user leaves closes its stream at once, and opens it again when the user
    /// returns. While the connection is lost, the page shows a `<p class="aside-lost">`, and reconnects after half a second
    /// to half a minute. Screen readers announce changes politely (`aria-live`); set `aria-live="off"` on an element that
    /// changes all the time. Without JavaScript, the page shows the state at its request.
    ///
    /// A browser opens six connections to a server without HTTP/2, for all of its windows together, and each visible
    /// fragment takes one. For many fragments, use a proxy with HTTP/2.
    ///
    /// # Errors
    /// 500 if the state cannot be rendered.
    #[track_caller]
    pub fn fragment(&self, req: &Request, url: &str, template: &str) -> Result<LiveFragment> {
        let seen = self.0.look();
        let html = fragment(req, template).or_here()?.render(&self.0, &seen).or_here()?;
        Ok(LiveFragment { url: (!seen.is_finished).then(|| url.to_owned()), html })
    }
}

/// A fragment of a page that follows a state, from [`Live::fragment`]. A template prints it, for example with `{{ feed }}`
/// if the context names it `feed`.
#[derive(Debug, Clone)]
pub struct LiveFragment {
    /// The URL of the stream; `None` for a finished state.
    url: Option<String>,
    html: Arc<str>,
}

impl fmt::Display for LiveFragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let html = &self.html;
        let Some(url) = &self.url else {
            return write!(f, "<aside-live>{html}</aside-live>");
        };
        let url = Escaped(url);
        let script = &*SCRIPT_URL;
        write!(
            f,
            r#"<aside-live src="{url}" aria-live="polite">{html}</aside-live><script src="{script}" async></script>"#
        )
    }
}

/// Serializes the fragment as safe HTML, which a template does not escape.
impl Serialize for LiveFragment {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Value::from_safe_string(self.to_string()).serialize(serializer)
    }
}

/// The path of the script in every application.
pub(crate) const SCRIPT_PATH: &str = "/_aside/live.js";

/// The script without comments and indentation.
static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let lines = include_str!("../live.js").lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
});

static SCRIPT_URL: LazyLock<String> = LazyLock::new(|| format!("{SCRIPT_PATH}?v={}", hashes::of(SCRIPT.as_bytes())));

/// Returns the script. Its content never changes under the URL that a page uses.
pub(crate) fn script(req: &mut Request) -> Response {
    let keep = if req.target() == *SCRIPT_URL { "public, max-age=31536000, immutable" } else { "no-cache" };
    Response::bytes("text/javascript; charset=utf-8", SCRIPT.as_bytes()).marked_as_asset().header("Cache-Control", keep)
}

/// The built-in template for the progress of a task.
pub(crate) const PROGRESS: (&str, &str) = ("aside/progress.html", include_str!("../../templates/aside/progress.html"));

impl Request {
    /// Returns the event stream of a state (server-sent events, WHATWG HTML): the state rendered with the template now and
    /// after each change, until the client disconnects.
    ///
    /// In the template, the fields of the state are variables, and `state` is the whole. `url_for` and `static` are available
    /// too, but nothing of the request: one rendering is sent to all pages. Each event is an unnamed message, as
    /// [`Live::fragment`], `EventSource` and the SSE extension of htmx expect, and has an id: a page that reconnects with it
    /// (`Last-Event-ID`) receives only newer states. After the last change ([`Live::finish`]) the stream sends an event named
    /// `end`, at which a page closes it (`sse-close="end"` with htmx). At most 20 events a second are sent, each with the
    /// latest state, and a comment every 15 s if there is no change. At most `ASIDE_MAX_STREAMS` streams are open at once, and
    /// `ASIDE_MAX_STREAMS_PER_CLIENT` for one client. Each holds a thread until the client disconnects; with
    /// `ASIDE_SERVER=epoll` it holds none.
    ///
    /// A change that cannot be rendered is logged once, and pages keep the previous content. If the handler refuses a stream
    /// (with 404 for a task that is unknown after a restart, for example), the page of a [`Live::fragment`] retries, at most
    /// every half a minute. Return a finished state to end that, as [`App::live`](crate::App::live) does for `None`.
    ///
    /// If the state depends on the session, look it up first: `let live = mine(req)?;`, and then
    /// `req.live(&live, "mine.html")`.
    ///
    /// # Errors
    /// 500 if the current state cannot be rendered.
    #[track_caller]
    pub fn live<T>(&self, live: &Live<T>, template: &str) -> Result<Response>
    where
        T: Clone + Serialize + Send + Sync + 'static,
    {
        let fragment = fragment(self, template).or_here()?;
        fragment.render(&live.0, &live.0.look()).or_here()?;
        let known = self.header("Last-Event-ID").and_then(|id| live.version_of(id)).unwrap_or(0);
        Ok(Response::event_source(Watch::new(live, fragment, known)))
    }
}

/// A random number that distinguishes the versions of this process from those of an earlier one, when a page reconnects
/// after a restart. Without a source of randomness, a page may keep its content until the next change.
static PROCESS: LazyLock<String> = LazyLock::new(|| unguessable().unwrap_or_default());

impl<T: Clone> Live<T> {
    fn event_id(&self, version: u64) -> String {
        format!("{}-{}-{version}", *PROCESS, self.0.id)
    }

    /// Returns the version in an event id, if the id belongs to this state.
    fn version_of(&self, id: &str) -> Option<u64> {
        let (state, version) = id.rsplit_once('-')?;
        let (process, id) = state.rsplit_once('-')?;
        let is_ours = process == *PROCESS && id.parse() == Ok(self.0.id);
        if is_ours { version.parse().ok() } else { None }
    }
}

/// A page that follows a state, counted until it is dropped.
struct Watch<T> {
    live: Live<T>,
    watcher: u64,
    fragment: Fragment,
    /// The version that the page shows; 0 for none.
    known: u64,
    has_begun: bool,
}

impl<T: Clone> Watch<T> {
    fn new(live: &Live<T>, fragment: Fragment, known: u64) -> Watch<T> {
        Watch { live: live.clone(), watcher: live.0.enter(), fragment, known, has_begun: false }
    }
}

impl<T> Drop for Watch<T> {
    fn drop(&mut self) {
        self.live.0.leave(self.watcher);
    }
}

/// The event stream of one page.
impl<T> StreamSource for Watch<T>
where
    T: Clone + Serialize + Send + Sync + 'static,
{
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause> {
        let seen = self.live.0.look();
        let is_news = seen.version != self.known;
        if !self.has_begun {
            out.extend_from_slice(retry_after(retry(self.live.0.watchers())).as_bytes());
        }
        if is_news {
            self.show(&seen, out);
        } else if self.has_begun && !seen.is_finished {
            out.extend_from_slice(KEEP_ALIVE);
        }
        (self.has_begun, self.known) = (true, seen.version);
        if seen.is_finished {
            out.extend_from_slice(Event::new("").named("end").to_wire().as_bytes());
            return None;
        }
        Some(Pause { at_least: if is_news { FRAME } else { Duration::ZERO }, at_most: HEARTBEAT })
    }

    fn call_when_new(&self, call: Call) {
        self.live.0.call_when_new(self.watcher, self.known, call);
    }
}

impl<T> Watch<T>
where
    T: Clone + Serialize + Send + Sync + 'static,
{
    /// Writes the rendered state. A state that cannot be rendered is logged once for all pages.
    fn show(&self, seen: &Seen<T>, out: &mut Vec<u8>) {
        let watched = &self.live.0;
        // The state's `Serialize` is application code: if it panics, pages keep their current content.
        let rendered = panics::catch(|| self.fragment.render(watched, seen));
        match rendered.unwrap_or_else(|panic| Err(Failure::Panic(panic).into())) {
            Ok(text) => {
                let event = Event::new(&*text).id(self.live.event_id(seen.version));
                out.extend_from_slice(event.to_wire().as_bytes());
            }
            Err(error) if watched.is_first_error(seen.version) => {
                let line = format!(
                    "Could not render the state of a live page; pages keep the previous one: {}",
                    error.chain()
                );
                log::error!(target: "aside::live", "{}", escape(&line));
            }
            Err(_) => {}
        }
    }
}

/// The time that an unused entry of a [`LiveMap`] is kept, so that a page that is reloaded or about to be loaded finds it.
const KEPT: Duration = Duration::from_secs(60);

/// The limits on entries of a [`LiveMap`] that no page and no task holds: their number, and the bytes of all keys, which
/// clients may choose.
const MOST_UNHELD: usize = 10_000;
const MOST_KEY_BYTES: usize = 4 << 20;

/// A map from keys to [`Live`] states: for each session by its id, or for each order by its number.
///
/// ```
/// use aside::live::LiveMap;
/// use aside::{Request, Response, Result, background, redirect};
///
/// struct Imports(LiveMap<String, u32>); // .state(Imports(LiveMap::new()))
///
/// fn import(req: &mut Request) -> Result<Response> {
///     let session = req.session().id()?; // which other users cannot guess
///     let rows = req.state::<Imports>().0.entry(session, || 0);
///     background(move || (0..100).for_each(|_| rows.update(|rows| *rows += 1)));
///     Ok(redirect("/import"))
/// }
///
/// fn watch(req: &mut Request) -> Result<Response> {
///     let session = req.session().id()?;
///     let rows = req.state::<Imports>().0.get(&session);
///     let rows = rows.ok_or_else(|| aside::Error::not_found("This import is over."))?;
///     req.live(&rows, "rows.html")
/// }
/// ```
///
/// For a state per session, use [`Session::id`](crate::Session::id) as the key. [`Request::session_live`] and
/// [`Request::keyed_live`] keep such maps for the application.
///
/// An entry is removed a minute after its last use: no page watches it, and no task holds it. Above 10,000 unused entries,
/// or 4 MiB of their keys, the least recently used are removed at once.
pub struct LiveMap<K, T>(Arc<Mutex<Entries<K, T>>>);

struct Entries<K, T> {
    entries: HashMap<K, Entry<T>>,
    /// The bytes of all keys together.
    key_bytes: usize,
    swept: Instant,
}

struct Entry<T> {
    live: Live<T>,
    /// The last time at which the state was in use.
    held: Instant,
    key_bytes: usize,
}

impl<T> Entry<T> {
    fn is_held(&self) -> bool {
        Arc::strong_count(&self.live.0) > 1
    }
}

/// A hasher that counts bytes, to measure a key of any type.
#[derive(Default)]
struct Counter(usize);

impl Counter {
    fn of(key: &impl Hash) -> usize {
        let mut counter = Counter::default();
        key.hash(&mut counter);
        counter.0
    }
}

impl Hasher for Counter {
    fn write(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn finish(&self) -> u64 {
        0
    }
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
    /// Creates an empty map.
    pub fn new() -> LiveMap<K, T> {
        LiveMap(Arc::new(Mutex::new(Entries { entries: HashMap::new(), key_bytes: 0, swept: Instant::now() })))
    }

    /// Returns the state of a key, and creates it if there is none.
    pub fn entry(&self, key: K, begin: impl FnOnce() -> T) -> Live<T> {
        let now = Instant::now();
        let mut map = lock(&self.0);
        map.sweep(now);
        if let Some(entry) = map.entries.get_mut(&key) {
            entry.held = now;
            return entry.live.clone();
        }
        let (live, key_bytes) = (Live::new(begin()), Counter::of(&key));
        map.enforce_limits(key_bytes);
        map.key_bytes += key_bytes;
        map.entries.insert(key, Entry { live: live.clone(), held: now, key_bytes });
        live
    }

    /// Returns the state of a key, if there is one.
    pub fn get(&self, key: &K) -> Option<Live<T>> {
        let now = Instant::now();
        let mut map = lock(&self.0);
        map.sweep(now);
        let entry = map.entries.get_mut(key)?;
        entry.held = now;
        Some(entry.live.clone())
    }

    /// Removes a key. Pages and tasks that hold its state keep it.
    pub fn remove(&self, key: &K) {
        let mut map = lock(&self.0);
        if let Some(entry) = map.entries.remove(key) {
            map.key_bytes -= entry.key_bytes;
        }
    }

    /// Returns the number of keys, including unused ones that are about to be removed.
    pub fn len(&self) -> usize {
        lock(&self.0).entries.len()
    }

    /// Returns true if the map has no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Eq + Hash, T> Entries<K, T> {
    /// Removes entries that have been unused for a while. It visits all entries, and therefore does not run at each access.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) < KEPT / 4 {
            return;
        }
        self.swept = now;
        self.retain(|entry| {
            if entry.is_held() {
                entry.held = now;
            }
            now.duration_since(entry.held) < KEPT
        });
    }

    /// Drops unused entries above the limits, least recently used first.
    fn enforce_limits(&mut self, key_bytes: usize) {
        while self.entries.len() >= MOST_UNHELD || self.key_bytes + key_bytes > MOST_KEY_BYTES {
            let unheld = self.entries.values().filter(|entry| !entry.is_held());
            let mut times: Vec<Instant> = unheld.map(|entry| entry.held).collect();
            if times.is_empty() {
                return;
            }
            // Removes a tenth at once, so that not every call searches for one.
            let tenth = times.len() / 10;
            let (_, &mut last, _) = times.select_nth_unstable(tenth);
            self.retain(|entry| entry.is_held() || entry.held > last);
        }
    }

    fn retain(&mut self, mut keeps: impl FnMut(&mut Entry<T>) -> bool) {
        self.entries.retain(|_, entry| keeps(entry));
        self.key_bytes = self.entries.values().map(|entry| entry.key_bytes).sum();
    }
}

impl<K, T> fmt::Debug for LiveMap<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LiveMap({})", numbered(lock(&self.0).entries.len(), "entry", "entries"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_under_2_kib() {
        assert!(SCRIPT.len() < 2 << 10, "{} bytes", SCRIPT.len());
        assert!(include_str!("../../docs/guide/08-live-pages.md").contains("a script of under 2 KiB"));
        assert!(SCRIPT.starts_with("if (!customElements") && SCRIPT.ends_with("})\n}\n"), "{}", *SCRIPT);
    }

    fn keys(map: &LiveMap<u32, u32>, later: Duration) -> Vec<u32> {
        let mut map = lock(&map.0);
        let now = map.swept + later;
        map.sweep(now);
        let mut keys: Vec<u32> = map.entries.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn an_entry_is_removed_after_a_minute_without_use() {
        let map = LiveMap::new();
        let held = map.entry(1, || 0);
        drop(map.entry(2, || 0));
        assert_eq!(keys(&map, KEPT / 2), [1, 2], "a reloaded page finds it");
        assert_eq!(keys(&map, KEPT), [1]);
        drop(held);
        assert_eq!(keys(&map, KEPT / 2), [1], "it was held until the last look");
        assert_eq!(keys(&map, KEPT), [0; 0]);
    }

    #[test]
    fn a_client_that_chooses_keys_cannot_fill_the_map() {
        let map: LiveMap<String, u32> = LiveMap::new();
        let held = map.entry("held".into(), || 7);
        (0..2 * MOST_UNHELD).for_each(|number| drop(map.entry(number.to_string(), || 0)));
        assert!((MOST_UNHELD / 2..=MOST_UNHELD).contains(&map.len()), "{}", map.len());
        (0..100).for_each(|number| drop(map.entry(format!("{number}{}", "x".repeat(1 << 20)), || 0)));
        assert!(map.len() <= 4, "{}", map.len());
        assert!(map.get(&"held".to_owned()).is_some_and(|live| *live.get() == *held.get()));
    }

    #[test]
    fn each_key_has_its_own_state() {
        let map = LiveMap::new();
        let one = map.entry("a", || 1);
        map.entry("a", || 7).update(|number| *number += 1);
        map.entry("b", || 1);
        assert_eq!((*one.get(), *map.get(&"b").unwrap().get(), map.len()), (2, 1, 2));
        map.remove(&"a");
        assert!(map.get(&"a").is_none() && *one.get() == 2);
    }
}
