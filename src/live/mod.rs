//! State that pages watch: changed under a lock, shown again by everybody who looks at it.
//!
//! The state itself is a [`Watched`] value; here it becomes a part of a page, and a stream of events that the page follows.
//! Watchers that are slow, or asked for more often than anybody can see, get the latest state and none of those between.

pub(crate) mod definition;
pub(crate) mod states;

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use minijinja::{HtmlEscape, Value};
use serde::{Serialize, Serializer};

use crate::background::failure::Failure;
use crate::background::handle::{TaskHandle, TaskInfo};
use crate::background::log_text::escape;
use crate::background::progress::Progress;
use crate::error::Result;
use crate::http::files::hashes;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::session::unguessable;
use crate::http::stream::source::{Feed, Pause};
use crate::http::stream::sse::{Event, STILL_HERE, retry_after};
use crate::http::templates::{Fragment, fragment};
use crate::panics;
use crate::sync::lock;
use crate::watch::{Call, LiveGuard, Seen, Watched};

/// Between two updates of one page: nobody sees more than that, and a thousand changes in a second cost a page twenty.
const FRAME: Duration = Duration::from_millis(50);

/// How soon a page comes back whose connection was lost, when it does not know better itself: between one second and two,
/// by the number of pages, so that after a restart not all come at once.
fn retry(watchers: usize) -> Duration {
    Duration::from_millis(1_000 + (watchers as u64 * 97) % 1_000)
}

/// How often a page that has nothing to tell says that it is there: proxies close what is silent for a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// State that pages watch.
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
///     background(move || board.update(|posts| posts.titles.push(title))); // every page that is open shows it
///     Ok(redirect("/"))
/// }
///
/// let app = App::new()
///     .state(Live::new(Posts::default())) // one for all visitors; `req.session_live` is each visitor's own
///     .live("posts", "posts.html", |req: &mut Request| req.state::<Live<Posts>>())
///     .template("board.html", "<h1>Posts</h1> {{ live('posts') }}") // as it is now, and then follows it
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
/// [`App::live`](crate::App::live) defines the part of the page and its stream. A route of your own does the same with
/// [`fragment`](Live::fragment) and [`Request::live`].
///
/// A clone is the same state. It is kept in memory: what must survive a restart is for the database.
pub struct Live<T>(Arc<Watched<T>>);

impl<T> Live<T> {
    /// That value, for pages to watch.
    pub(crate) fn of(watched: Arc<Watched<T>>) -> Live<T> {
        Live(watched)
    }
}

impl<T> Clone for Live<T> {
    fn clone(&self) -> Live<T> {
        Live(self.0.clone())
    }
}

impl<T: Clone> Live<T> {
    /// State that nobody has changed yet.
    pub fn new(state: T) -> Live<T> {
        Live(Arc::new(Watched::new(state)))
    }

    /// The state as it is. It does not change in the hand, and holds nobody up.
    pub fn get(&self) -> Arc<T> {
        self.0.get()
    }

    /// Changes the state, and then shows it to every page that watches. One change at a time; the others wait.
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

    /// The same with a guard, for a change that does not fit into a closure. The state is copied here, put in place when
    /// the guard goes, and stays as it was when that is because of a panic.
    ///
    /// The guard stays on its thread (it is not `Send`).
    ///
    /// # Panics
    /// If the wait would never end, as for [`update`](Live::update).
    #[track_caller]
    pub fn lock(&self) -> LiveGuard<'_, T> {
        self.0.lock()
    }

    /// Says that no change comes any more: pages that watch show the last state, and let the stream go.
    ///
    /// ```
    /// let rows = aside::Live::new(0);
    /// rows.update(|rows| *rows = 17);
    /// rows.finish();
    /// assert!(rows.is_finished());
    /// ```
    ///
    /// A change that does come all the same is seen by pages that are loaded later.
    pub fn finish(&self) {
        self.0.finish();
    }

    /// Whether no change comes any more.
    pub fn is_finished(&self) -> bool {
        self.0.look().is_finished
    }

    /// How many pages watch it now: a task that works for them alone may stop when there are none
    /// ([`Task::cancel_unwatched`](crate::Task::cancel_unwatched) does).
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
    /// How far the task is, for a page to watch. It is finished when the task has ended.
    ///
    /// ```
    /// use aside::{App, Request, TaskInfo, task};
    ///
    /// // One for all visitors. `App::live_task` shows the task of each session.
    /// fn nightly(_: &mut Request) -> Option<TaskInfo> {
    ///     task("nightly-import")
    /// }
    ///
    /// App::new()
    ///     .live("nightly", "aside/progress.html", nightly) // shows `nightly.live()`, or nothing
    ///     .template("admin.html", "{{ live('nightly') }}");
    ///
    /// // The state itself, for a part by hand:
    /// fn percent(task: &TaskInfo) -> Option<u8> {
    ///     task.live().get().percent()
    /// }
    /// ```
    ///
    /// The template `aside/progress.html` is built in: a bar, the task's message, and words for how it ended. One of your own
    /// has the fields of [`Progress`], and may hold a form that cancels the task, which works without JavaScript too:
    /// `{% if not is_finished %}<form method="post" action="/import/cancel"><button>Cancel</button></form>{% endif %}`,
    /// with `aside::task(key)` and [`cancel`](TaskInfo::cancel) behind it.
    pub fn live(&self) -> Live<Progress> {
        Live(self.watched().clone())
    }
}

impl<T> TaskHandle<T> {
    /// How far the task is, for a page to watch; see [`TaskInfo::live`].
    pub fn live(&self) -> Live<Progress> {
        self.info().live()
    }
}

impl<T> Live<T>
where
    T: Clone + Serialize + Send + Sync + 'static,
{
    /// A part of a page that shows the state as it is now, and then follows it: the template is rendered with it, in an
    /// element that listens to the event stream at `url`, which [`Request::live`] answers there with the same template.
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
    /// The script that follows it is under 2 KiB, is served by every application at `/_aside/live.js`, and is allowed by the
    /// default Content-Security-Policy. It changes what differs and leaves the rest: what was typed, the focus, what was opened
    /// or shut in `<details>` (a later `open` from the template changes nothing). Elements that have an `id` stay the same
    /// when others come and go around them. A page that was left lets its stream go at once, and follows again when its
    /// visitor comes back to it. While the connection is lost it
    /// says so, in a `<p class="aside-lost">`, and tries again after half a second to half a minute. Screen readers are told
    /// politely of what changes (`aria-live`); give what changes all the time an `aria-live="off"` of its own. Without
    /// JavaScript the page shows the state that it had.
    ///
    /// A browser opens six connections to a server without HTTP/2, in all of its windows together, and each part takes one
    /// while it is shown: with many of them put a proxy in front that speaks HTTP/2.
    ///
    /// # Errors
    /// 500 when the state cannot be rendered.
    pub fn fragment(&self, req: &Request, url: &str, template: &str) -> Result<LiveFragment> {
        let seen = self.0.look();
        let html = fragment(req, template)?.render(&self.0, &seen)?;
        Ok(LiveFragment { url: (!seen.is_finished).then(|| url.to_owned()), html })
    }
}

/// A part of a page that follows a state: [`Live::fragment`]. A template prints it with `{{ feed }}`, under the name that the
/// context gives it.
#[derive(Debug, Clone)]
pub struct LiveFragment {
    /// Where it goes on; none when nothing comes any more.
    url: Option<String>,
    html: Arc<str>,
}

impl fmt::Display for LiveFragment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let html = &self.html;
        let Some(url) = &self.url else {
            return write!(f, "<aside-live>{html}</aside-live>");
        };
        // A slash needs no escape, as in all that templates write.
        let url = HtmlEscape(url).to_string().replace("&#x2f;", "/");
        let script = &*SCRIPT_URL;
        write!(
            f,
            r#"<aside-live src="{url}" aria-live="polite">{html}</aside-live><script src="{script}" async></script>"#
        )
    }
}

/// As text that a template need not escape any more.
impl Serialize for LiveFragment {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        Value::from_safe_string(self.to_string()).serialize(serializer)
    }
}

/// Where every application answers with the script that follows a part.
pub(crate) const SCRIPT_PATH: &str = "/_aside/live.js";

/// The script without what is for its readers.
static SCRIPT: LazyLock<String> = LazyLock::new(|| {
    let lines = include_str!("../live.js").lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    lines.flat_map(|line| [line, "\n"]).collect()
});

static SCRIPT_URL: LazyLock<String> = LazyLock::new(|| format!("{SCRIPT_PATH}?v={}", hashes::of(SCRIPT.as_bytes())));

/// Answers with the script. Under the address that a page names it never changes.
pub(crate) fn script(req: &mut Request) -> Response {
    let keep = if req.target() == *SCRIPT_URL { "public, max-age=31536000, immutable" } else { "no-cache" };
    Response::bytes("text/javascript; charset=utf-8", SCRIPT.as_bytes()).header("Cache-Control", keep)
}

/// The template for a task's progress that every application has.
pub(crate) const PROGRESS: (&str, &str) = ("aside/progress.html", include_str!("../../templates/aside/progress.html"));

impl Request {
    /// Answers with the event stream of a state: the template is rendered with it now, and again after each change, for as
    /// long as the visitor stays (WHATWG HTML, server-sent events).
    ///
    /// The state's fields are names in the template, and the whole is `state`. There are also `url_for` and `static`, and
    /// nothing of a request: one rendering serves all who watch. Each event is an unnamed message, as [`Live::fragment`],
    /// `EventSource` and the SSE extension of htmx expect, and carries an id: a page that comes back with it
    /// (`Last-Event-ID`) receives only newer states. After the last change ([`Live::finish`]) the stream sends an event named
    /// `end`, at which a page closes it (`sse-close="end"` with htmx). At most 20 events a second are sent, each with the
    /// latest state, and a comment every 15 s if there is no change. At most `ASIDE_MAX_STREAMS` streams are open at once, and
    /// `ASIDE_MAX_STREAMS_PER_CLIENT` for one client. Each holds a thread until the client disconnects; with
    /// `ASIDE_SERVER=epoll` it holds none.
    ///
    /// A change that cannot be rendered is in the log, once, and the page keeps what it shows. If a stream is refused (404
    /// for a task that is forgotten after a restart, say) the page of a [`Live::fragment`] asks again and again, at most every
    /// half a minute; answer with a state that is finished to end that. [`App::live`](crate::App::live) does so for `None`.
    ///
    /// Where the state is found by the session, as each visitor's own, find it before: `let live = mine(req)?;`, and then
    /// `req.live(&live, "mine.html")`.
    ///
    /// # Errors
    /// 500 when the state cannot be rendered as it is now.
    pub fn live<T>(&self, live: &Live<T>, template: &str) -> Result<Response>
    where
        T: Clone + Serialize + Send + Sync + 'static,
    {
        let fragment = fragment(self, template)?;
        fragment.render(&live.0, &live.0.look())?;
        let known = self.header("Last-Event-ID").and_then(|id| live.version_of(id)).unwrap_or(0);
        Ok(Response::event_feed(Watch::new(live, fragment, known)))
    }
}

/// Tells the versions of this process from those of another, when a page comes back after a restart. Without randomness a
/// page may then keep what it shows until the next change.
static PROCESS: LazyLock<String> = LazyLock::new(|| unguessable().unwrap_or_default());

impl<T: Clone> Live<T> {
    fn event_id(&self, version: u64) -> String {
        format!("{}-{}-{version}", *PROCESS, self.0.id)
    }

    /// The version that an id stands for, when it is one of this state.
    fn version_of(&self, id: &str) -> Option<u64> {
        let (state, version) = id.rsplit_once('-')?;
        let (process, id) = state.rsplit_once('-')?;
        let is_ours = process == *PROCESS && id.parse() == Ok(self.0.id);
        if is_ours { version.parse().ok() } else { None }
    }
}

/// Somebody who watches, counted until it goes.
struct Watch<T> {
    live: Live<T>,
    watcher: u64,
    fragment: Fragment,
    /// The version that the page shows; 0 for none of these.
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

/// The stream of events of one page.
impl<T> Feed for Watch<T>
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
            out.extend_from_slice(STILL_HERE);
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
    /// Writes the state as the template shows it. One that cannot be rendered is in the log, once for all who watch.
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

/// How long an entry of a [`LiveMap`] is kept that nobody holds any more: a page that is being loaded anew, or that the
/// visitor is still on the way to, finds it.
const KEPT: Duration = Duration::from_secs(60);

/// The limits on entries of a [`LiveMap`] that no page and no task holds: their number, and the bytes of all keys, which
/// clients may choose.
const MOST_UNHELD: usize = 10_000;
const MOST_KEY_BYTES: usize = 4 << 20;

/// A [`Live`] state for each key: for each visitor, by something in the session, or for each order, by its number.
///
/// ```
/// use aside::{LiveMap, Request, Response, Result, background, redirect};
///
/// struct Imports(LiveMap<String, u32>); // .state(Imports(LiveMap::new()))
///
/// fn import(req: &mut Request) -> Result<Response> {
///     let visitor = req.session().id()?; // which no other visitor can guess
///     let rows = req.state::<Imports>().0.entry(visitor, || 0);
///     background(move || (0..100).for_each(|_| rows.update(|rows| *rows += 1)));
///     Ok(redirect("/import"))
/// }
///
/// fn watch(req: &mut Request) -> Result<Response> {
///     let visitor = req.session().id()?;
///     let rows = req.state::<Imports>().0.get(&visitor);
///     let rows = rows.ok_or_else(|| aside::Error::not_found("This import is over."))?;
///     req.live(&rows, "rows.html")
/// }
/// ```
///
/// For each visitor take [`Session::id`](crate::Session::id) for the key. [`Request::session_live`] and
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
    /// When somebody was last seen to hold it.
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
    /// A map without entries.
    pub fn new() -> LiveMap<K, T> {
        LiveMap(Arc::new(Mutex::new(Entries { entries: HashMap::new(), key_bytes: 0, swept: Instant::now() })))
    }

    /// The state of a key, begun when there is none.
    pub fn entry(&self, key: K, begin: impl FnOnce() -> T) -> Live<T> {
        let now = Instant::now();
        let mut map = lock(&self.0);
        map.sweep(now);
        if let Some(entry) = map.entries.get_mut(&key) {
            entry.held = now;
            return entry.live.clone();
        }
        let (live, key_bytes) = (Live::new(begin()), Counter::of(&key));
        map.make_room(key_bytes);
        map.key_bytes += key_bytes;
        map.entries.insert(key, Entry { live: live.clone(), held: now, key_bytes });
        live
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
        let mut map = lock(&self.0);
        if let Some(entry) = map.entries.remove(key) {
            map.key_bytes -= entry.key_bytes;
        }
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
        self.retain(|entry| {
            if entry.is_held() {
                entry.held = now;
            }
            now.duration_since(entry.held) < KEPT
        });
    }

    /// Drops unused entries above the limits, least recently used first.
    fn make_room(&mut self, key_bytes: usize) {
        while self.entries.len() >= MOST_UNHELD || self.key_bytes + key_bytes > MOST_KEY_BYTES {
            let unheld = self.entries.values().filter(|entry| !entry.is_held());
            let mut times: Vec<Instant> = unheld.map(|entry| entry.held).collect();
            if times.is_empty() {
                return;
            }
            // A tenth at once, so that not every call has to look for the next one.
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
        write!(f, "LiveMap({} entries)", lock(&self.0).entries.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_as_small_as_it_is_said_to_be() {
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
