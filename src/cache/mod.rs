//! A cache of computed values: [`Cache`].
//!
//! A page that is the same for all users is computed once and then read. Beyond a map behind a lock, the cache has a time to
//! live for each entry and a limit on the number of entries, and if several threads ask for a missing value at once, only
//! one of them computes it.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quick_cache::sync::{Cache as Entries, DefaultLifecycle, GuardResult, PlaceholderGuard};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use crate::bounds::{self, LONGEST_KEY};
use crate::error::{Error, Result};
use crate::sync::lock;
use crate::worker_share::{self, Wait};

/// The capacity of `Cache::default()`, in entries.
const CAPACITY: usize = 10_000;

/// The time between two sweeps of expired entries.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The time that a thread waits for another thread's computation before a warning is logged, and between two warnings.
const WAIT_WARNING: Duration = Duration::from_secs(10);

/// A cache of values with a time to live, shared between threads.
///
/// ```
/// use aside::Cache;
/// use std::time::Duration;
///
/// fn latest_photos() -> aside::Result<Vec<String>> {
///     Ok(vec!["harbour.jpg".into()]) // from a database, say
/// }
///
/// let cache = Cache::new(100);
/// let photos = cache.remember("latest", Duration::from_secs(60), latest_photos)?;
/// assert_eq!(photos, ["harbour.jpg"]);
/// assert_eq!(cache.get("latest"), Some(photos)); // for the next 60 seconds
///
/// cache.remove("latest"); // after an upload
/// assert_eq!(cache.get("latest"), None);
/// # aside::ok(())
/// ```
///
/// A clone is the same cache and costs one counter. A value is cloned on its way out: wrap a large one in an [`Arc`].
/// `Cache::default()` holds 10,000 entries. An expired entry is never returned, and is dropped within a minute if the cache
/// is written to. A key may have any length: a key over 64 bytes is stored as its hash.
pub struct Cache<V> {
    entries: Arc<Entries<String, Arc<Entry<V>>, Weight<V>>>,
    swept: Arc<Mutex<Instant>>,
}

/// A value with its deadline. Entries are in an [`Arc`], so that a value is cloned and dropped outside the locks: its code may be slow, panic, or use the cache.
struct Entry<V> {
    value: V,
    /// `None` if the time to live exceeds the range of the clock: the value stays without limit.
    deadline: Option<Instant>,
}

/// The weight of an entry, which counts toward the capacity of its cache.
#[derive(Clone)]
struct Weight<V>(fn(&str, &V) -> u64);

impl<V> Weighter<String, Arc<Entry<V>>> for Weight<V> {
    fn weight(&self, key: &String, entry: &Arc<Entry<V>>) -> u64 {
        (self.0)(key, &entry.value)
    }
}

/// The right to compute the value of a key. If it is dropped without a value, it passes to the next waiting thread.
type Claim<'a, V> =
    PlaceholderGuard<'a, String, Arc<Entry<V>>, Weight<V>, DefaultHashBuilder, DefaultLifecycle<String, Arc<Entry<V>>>>;

/// The result of a lookup in [`Cache::remember`].
enum Found<'a, V> {
    Value(V),
    Claim(Claim<'a, V>),
}

impl<V> Entry<V> {
    fn new(value: V, ttl: Duration, now: Instant) -> Arc<Entry<V>> {
        Arc::new(Entry { value, deadline: now.checked_add(ttl) })
    }

    fn is_fresh(&self, now: Instant) -> bool {
        self.deadline.is_none_or(|deadline| now < deadline)
    }
}

impl<V: Clone> Cache<V> {
    /// Creates an empty cache for about `capacity` entries. Above that, the least requested entries are evicted first.
    ///
    /// The entries are in shards with a lock each. The limit is therefore `capacity` rounded up to a multiple of the number of
    /// shards, and a full shard evicts entries while another one has capacity left.
    pub fn new(capacity: usize) -> Cache<V> {
        Cache::of(Entries::with_weighter(capacity, capacity as u64, Weight(|_, _| 1)))
    }

    /// Creates an empty cache whose entries together have at most the weight `capacity`. An entry that is heavier is not
    /// stored. `typical` is the weight of a typical entry.
    pub(crate) fn weighted(capacity: u64, typical: u64, weight: fn(&str, &V) -> u64) -> Cache<V> {
        let mut options = OptionsBuilder::new();
        // In one shard, since each shard has its part of the capacity, and a part could be too small for a heavy entry.
        options.shards(1).estimated_items_capacity((capacity / typical) as usize).weight_capacity(capacity);
        let options = options.build().expect("both capacities are set");
        Cache::of(Entries::with_options(options, Weight(weight), Default::default(), Default::default()))
    }

    fn of(entries: Entries<String, Arc<Entry<V>>, Weight<V>>) -> Cache<V> {
        Cache { entries: Arc::new(entries), swept: Arc::new(Mutex::new(Instant::now())) }
    }

    /// Returns the value of `key`, or `None` if it is missing or expired.
    pub fn get(&self, key: &str) -> Option<V> {
        self.get_at(key, Instant::now())
    }

    /// Sets `key` to `value` for the duration `ttl`, and replaces an earlier value.
    ///
    /// With a `ttl` of zero nothing is stored; with [`Duration::MAX`] the value stays until it is removed or evicted. A value
    /// that [`remember`](Cache::remember) computes for the same key at that time does not overwrite it.
    pub fn set(&self, key: impl Into<String>, value: V, ttl: Duration) {
        self.set_at(&key.into(), value, ttl, Instant::now());
    }

    /// Returns the value of `key`. If it is missing, computes it with `f` and stores it for the duration `ttl`.
    ///
    /// ```
    /// use aside::Cache;
    /// use std::{sync::Arc, time::Duration};
    ///
    /// let cache: Cache<Arc<str>> = Cache::default();
    /// let page = cache.remember("front", Duration::from_secs(5), || aside::ok("<h1>News</h1>".into()))?;
    /// assert_eq!(&*page, "<h1>News</h1>");
    /// # aside::ok(())
    /// ```
    ///
    /// If several threads ask at once, `f` runs in one of them and the others wait for its value, with a warning in the
    /// log every 10 s. In handlers, at most a quarter of the workers wait (`ASIDE_MAX_WAITING`), so that a slow computation
    /// leaves workers for other pages. If `f` fails or panics, its caller gets the failure, nothing is stored, and the next
    /// waiting caller computes. The time to live begins when `f` returns.
    ///
    /// If a key is [removed](Cache::remove) while `f` runs, the value is not stored: the waiting callers get it, and a later
    /// caller computes it again. With a `ttl` of zero nothing is stored and no caller waits: every caller computes.
    ///
    /// # Errors
    /// The error of `f`; 503 with `Retry-After`, in a handler, if too many workers wait for another thread's value already.
    ///
    /// # Panics
    /// If `f` panics, or if `f` calls `remember` with the same key of the same cache, which would wait for itself forever. Two
    /// keys whose computations ask for each other on two threads are not detected; the repeated warning indicates them.
    #[track_caller]
    pub fn remember<E: Into<Error>>(&self, key: &str, ttl: Duration, f: impl FnOnce() -> Result<V, E>) -> Result<V> {
        if let Some(value) = self.get(key) {
            return Ok(value);
        }
        if ttl.is_zero() {
            return f().map_err(E::into);
        }
        let key = &*bounds::key(key, LONGEST_KEY);
        let _computing = Computing::begin(self.address(), key);
        match self.wait_or_claim(key)? {
            Found::Value(value) => Ok(value),
            Found::Claim(claim) => {
                let value = f().map_err(E::into)?;
                self.sweep(Instant::now());
                // Fails if the key was set or removed during `f`: that change is newer.
                let _ = claim.insert(Entry::new(value.clone(), ttl, Instant::now()));
                Ok(value)
            }
        }
    }

    /// Removes `key`. Returns true if it had a value. A value that is being computed for it is not stored either.
    pub fn remove(&self, key: &str) -> bool {
        let now = Instant::now();
        self.entries.remove(&*bounds::key(key, LONGEST_KEY)).is_some_and(|(_, entry)| entry.is_fresh(now))
    }

    /// Removes all entries.
    pub fn clear(&self) {
        // Held until the locks are released: a value's `Drop` may use the cache.
        let _held: Vec<_> = self.entries.iter().collect();
        self.entries.clear();
    }

    /// Returns the number of entries. An expired entry counts until it is dropped.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns the weight of all entries together.
    #[cfg(test)]
    pub(crate) fn weight(&self) -> u64 {
        self.entries.weight()
    }

    /// Returns true if the cache has no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn get_at(&self, key: &str, now: Instant) -> Option<V> {
        let key = bounds::key(key, LONGEST_KEY);
        let entry = self.entries.get(&*key)?;
        if entry.is_fresh(now) {
            return Some(entry.value.clone());
        }
        self.discard(&key, &entry);
        None
    }

    fn set_at(&self, key: &str, value: V, ttl: Duration, now: Instant) {
        self.sweep(now);
        self.entries.insert(bounds::key(key, LONGEST_KEY).into_owned(), Entry::new(value, ttl, now));
    }

    /// Drops expired entries, at most once a minute, since it visits all entries.
    fn sweep(&self, now: Instant) {
        {
            let mut swept = lock(&self.swept);
            if now.saturating_duration_since(*swept) < SWEEP_EVERY {
                return;
            }
            *swept = now;
        }
        // The entries are collected first: a value's `Drop` may use the cache.
        let expired: Vec<_> = self.entries.iter().filter(|(_, entry)| !entry.is_fresh(now)).collect();
        expired.iter().for_each(|(key, entry)| self.discard(key, entry));
    }

    /// Removes this entry, unless another thread has replaced it.
    fn discard(&self, key: &str, entry: &Arc<Entry<V>>) {
        self.entries.remove_if(key, |there| Arc::ptr_eq(there, entry));
    }

    /// Returns a fresh value, after waiting for the thread that computes it, or the claim to compute it on this thread.
    ///
    /// # Errors
    /// 503 if this is a worker and too many workers wait.
    fn wait_or_claim(&self, key: &str) -> Result<Found<'_, V>> {
        let (mut patience, mut _share) = (Duration::ZERO, None);
        loop {
            match self.entries.get_value_or_guard(key, Some(patience)) {
                GuardResult::Value(entry) if entry.is_fresh(Instant::now()) => {
                    return Ok(Found::Value(entry.value.clone()));
                }
                GuardResult::Value(entry) => self.discard(key, &entry),
                GuardResult::Guard(claim) => return Ok(Found::Claim(claim)),
                GuardResult::Timeout if patience.is_zero() => {
                    (patience, _share) = (WAIT_WARNING, worker_share::wait(Wait::Cache)?);
                }
                GuardResult::Timeout => {
                    log::warn!(target: "aside::cache", "Still waiting for the cache key {key:?}, which another thread computes");
                }
            }
        }
    }

    /// Returns the identity of this cache, unique while a clone of it exists.
    fn address(&self) -> usize {
        Arc::as_ptr(&self.entries).addr()
    }
}

impl<V: Clone> Default for Cache<V> {
    fn default() -> Cache<V> {
        Cache::new(CAPACITY)
    }
}

/// A clone is the same cache, not a copy.
impl<V> Clone for Cache<V> {
    fn clone(&self) -> Cache<V> {
        Cache { entries: Arc::clone(&self.entries), swept: Arc::clone(&self.swept) }
    }
}

impl<V: Clone> fmt::Debug for Cache<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("len", &self.len()).finish_non_exhaustive()
    }
}

thread_local! {
    /// The keys that this thread computes, the innermost last, each with its cache.
    static COMPUTING: RefCell<Vec<(usize, String)>> = const { RefCell::new(Vec::new()) };
}

/// A record that this thread computes a key, until dropped.
struct Computing;

impl Computing {
    #[track_caller]
    fn begin(cache: usize, key: &str) -> Computing {
        let again = COMPUTING.with_borrow(|keys| keys.iter().any(|(of, other)| *of == cache && other == key));
        assert!(
            !again,
            "the computation of the cache key {key:?} asks for the same key, and would wait for itself forever"
        );
        COMPUTING.with_borrow_mut(|keys| keys.push((cache, key.to_owned())));
        Computing
    }
}

impl Drop for Computing {
    fn drop(&mut self) {
        COMPUTING.with_borrow_mut(Vec::pop);
    }
}

#[cfg(test)]
mod tests;
