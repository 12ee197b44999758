//! What the framework itself must remember from one request to another: which sessions were ended, which forms were
//! answered. A few words under a key, until a time.
//!
//! In memory it is forgotten at a restart; in a SQLite file (`ASIDE_STORE=sqlite:PATH`, feature `sqlite`) it is kept, and
//! shared by all processes that name the same file.

#[cfg(feature = "sqlite")]
mod sqlite;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::sync::lock;

/// The limits of the store in memory: entries and bytes. Above either, the entries that expire first are dropped.
const MOST_ENTRIES: usize = 100_000;
const MOST_BYTES: usize = 64 << 20;

/// The memory of an entry apart from its texts, in bytes.
const OVERHEAD: usize = 128;

/// The time between two sweeps of expired entries, in seconds.
const SWEEP_EVERY: i64 = 60;

/// The store of an application.
pub(crate) struct Store(Backend);

enum Backend {
    Memory(Mutex<Memory>),
    #[cfg(feature = "sqlite")]
    Sqlite(sqlite::Sqlite),
}

/// What a key is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shelf {
    /// Sessions that were ended, by their id.
    EndedSessions,
    /// Users all of whose sessions were ended, by their id; the value is different each time.
    EndedUsers,
    /// Forms that were answered, by their key; the value is the answer.
    AnsweredForms,
}

#[derive(Default)]
struct Memory {
    entries: HashMap<(Shelf, String), Entry>,
    bytes: usize,
    /// The time of the last sweep of expired entries.
    swept: i64,
}

struct Entry {
    value: String,
    until: i64,
}

impl Shelf {
    #[cfg(feature = "sqlite")]
    fn name(self) -> &'static str {
        match self {
            Shelf::EndedSessions => "ended session",
            Shelf::EndedUsers => "ended user",
            Shelf::AnsweredForms => "answered form",
        }
    }
}

/// Seconds since 1970, as all times here are.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

impl Store {
    /// The store that the settings name.
    ///
    /// # Errors
    /// When `ASIDE_STORE` cannot be used.
    pub(crate) fn open(config: &Config) -> Result<Store> {
        let named = config.store.as_deref().unwrap_or("memory:");
        match named.split_once(':') {
            Some(("memory", "")) => Ok(Store(Backend::Memory(Mutex::default()))),
            Some(("sqlite", path)) if !path.is_empty() => sqlite(path),
            _ => Err(Error::internal(format!("ASIDE_STORE takes `sqlite:PATH` or `memory:`, and is `{named}`"))),
        }
    }

    /// Returns true if other processes may write to the store.
    pub(crate) fn is_shared(&self) -> bool {
        match &self.0 {
            Backend::Memory(_) => false,
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(_) => true,
        }
    }

    /// Returns a number that changes with each write; `None` if it is not known.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn version(&self) -> Result<Option<i64>> {
        match &self.0 {
            Backend::Memory(_) => Ok(None),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(file) => file.version().map(Some),
        }
    }

    /// What is kept under a key, while its time has not come.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn get(&self, shelf: Shelf, key: &str) -> Result<Option<String>> {
        match &self.0 {
            Backend::Memory(memory) => Ok(lock(memory).alive(shelf, key)),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(file) => file.get(shelf, key),
        }
    }

    /// The same for two keys, in one question.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn get_both(&self, asked: [(Shelf, &str); 2]) -> Result<[Option<String>; 2]> {
        match &self.0 {
            Backend::Memory(memory) => {
                let memory = lock(memory);
                Ok(asked.map(|(shelf, key)| memory.alive(shelf, key)))
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(file) => file.get_both(asked),
        }
    }

    /// Keeps words under a key until that second, in place of what was there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn put(&self, shelf: Shelf, key: &str, value: &str, until: i64) -> Result<()> {
        match &self.0 {
            Backend::Memory(memory) => {
                lock(memory).put((shelf, key.to_owned()), Entry { value: value.to_owned(), until }, now());
                Ok(())
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(file) => file.put(shelf, key, value, until),
        }
    }
}

impl Memory {
    fn alive(&self, shelf: Shelf, key: &str) -> Option<String> {
        let entry = self.entries.get(&(shelf, key.to_owned())).filter(|entry| entry.until > now());
        entry.map(|entry| entry.value.clone())
    }

    fn put(&mut self, key: (Shelf, String), entry: Entry, now: i64) {
        if now >= self.swept + SWEEP_EVERY {
            self.swept = now;
            self.retain(|entry| entry.until > now);
            self.entries.shrink_to(2 * self.entries.len());
        }
        self.bytes += size(&key, &entry);
        if let Some(former) = self.entries.insert(key.clone(), entry) {
            self.bytes -= size(&key, &former);
        }
        if self.is_full() {
            self.make_room(now);
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() > MOST_ENTRIES || self.bytes > MOST_BYTES
    }

    fn make_room(&mut self, now: i64) {
        self.retain(|entry| entry.until > now);
        if !self.is_full() {
            return;
        }
        log::warn!(
            target: "aside::store",
            "The store in memory is full ({} entries, {} bytes); entries that expire first are dropped. Set ASIDE_STORE to `sqlite:PATH`.",
            self.entries.len(),
            self.bytes
        );
        let mut ends: Vec<i64> = self.entries.values().map(|entry| entry.until).collect();
        // A tenth at once, so that not every call has to look for the next one.
        let tenth = ends.len() / 10;
        let (_, &mut last, _) = ends.select_nth_unstable(tenth);
        self.retain(|entry| entry.until > last);
    }

    fn retain(&mut self, keeps: impl Fn(&Entry) -> bool) {
        self.entries.retain(|_, entry| keeps(entry));
        self.bytes = self.entries.iter().map(|(key, entry)| size(key, entry)).sum();
    }
}

fn size((_, key): &(Shelf, String), entry: &Entry) -> usize {
    key.len() + entry.value.len() + OVERHEAD
}

#[cfg(feature = "sqlite")]
fn sqlite(path: &str) -> Result<Store> {
    let file = sqlite::Sqlite::open(path);
    let file = file.map_err(|error| error.context(format!("ASIDE_STORE: `{path}` cannot be opened")))?;
    Ok(Store(Backend::Sqlite(file)))
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_path: &str) -> Result<Store> {
    Err(Error::internal("ASIDE_STORE: `sqlite:` needs the feature `sqlite`, which this program was built without"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(folder: &std::path::Path) -> Vec<Store> {
        let at = |store: String| Store::open(&Config { store: Some(store), ..Config::default() }).unwrap();
        let mut stores = vec![at("memory:".into())];
        if cfg!(feature = "sqlite") {
            stores.push(at(format!("sqlite:{}", folder.join("new/site.db").display())));
        }
        stores
    }

    #[test]
    fn what_is_kept_is_there_until_its_time() {
        let folder = tempfile::tempdir().unwrap();
        for store in stores(folder.path()) {
            store.put(Shelf::EndedSessions, "a", "1", now() + 60).unwrap();
            store.put(Shelf::EndedUsers, "a", "2", now() + 60).unwrap();
            store.put(Shelf::EndedUsers, "a", "3", now() + 60).unwrap();
            store.put(Shelf::EndedUsers, "late", "4", now()).unwrap();
            assert_eq!(store.get(Shelf::EndedSessions, "a").unwrap().as_deref(), Some("1"));
            assert_eq!(store.get(Shelf::EndedUsers, "a").unwrap().as_deref(), Some("3"));
            assert_eq!(store.get(Shelf::EndedUsers, "late").unwrap(), None);
            assert_eq!(store.get(Shelf::AnsweredForms, "a").unwrap(), None);
            let both = |one, other| store.get_both([(Shelf::EndedSessions, one), (Shelf::EndedUsers, other)]).unwrap();
            assert_eq!(both("a", "a"), [Some("1".to_owned()), Some("3".to_owned())]);
            assert_eq!((both("a", "late"), both("b", "a")), ([Some("1".into()), None], [None, Some("3".into())]));
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn a_file_is_remembered_past_a_restart_and_by_others() {
        let folder = tempfile::tempdir().unwrap();
        let [_, one] = stores(folder.path()).try_into().ok().unwrap();
        let [_, other] = stores(folder.path()).try_into().ok().unwrap();
        one.put(Shelf::EndedSessions, "a", "", now() + 60).unwrap();
        assert_eq!(other.get(Shelf::EndedSessions, "a").unwrap().as_deref(), Some(""));
        drop((one, other));
        let [_, again] = stores(folder.path()).try_into().ok().unwrap();
        assert!(again.get(Shelf::EndedSessions, "a").unwrap().is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let store = Store::open(&Config::default()).unwrap();
        for number in 0..=MOST_ENTRIES {
            store.put(Shelf::AnsweredForms, &number.to_string(), "", now() + 60 + number as i64).unwrap();
        }
        assert!(store.get(Shelf::AnsweredForms, "0").unwrap().is_none());
        assert!(store.get(Shelf::AnsweredForms, &MOST_ENTRIES.to_string()).unwrap().is_some());
    }

    #[test]
    fn memory_is_bounded_by_bytes_too() {
        let (mut memory, most) = (Memory::default(), 8 << 10);
        let entry = |until| Entry { value: "x".repeat(most), until };
        for number in 0..3 * MOST_BYTES / most {
            memory.put((Shelf::AnsweredForms, number.to_string()), entry(60 + number as i64), 0);
            assert!(memory.bytes <= MOST_BYTES);
        }
        assert!(memory.entries.len() > MOST_BYTES / most / 2);
    }

    #[test]
    fn expired_entries_are_dropped_without_being_read() {
        let mut memory = Memory::default();
        let entry = |until| Entry { value: String::new(), until };
        (0..1_000).for_each(|number| memory.put((Shelf::EndedSessions, number.to_string()), entry(1_060), 1_000));
        memory.put((Shelf::EndedSessions, "later".into()), entry(2_000), 1_000 + SWEEP_EVERY);
        assert_eq!((memory.entries.len(), memory.bytes), (1, "later".len() + OVERHEAD));
        assert!(memory.entries.capacity() < 100);
    }

    #[test]
    fn another_name_is_refused_with_what_it_takes() {
        for named in ["redis://x", "sqlite:", "data.db", "memory:x"] {
            let config = Config { store: Some(named.into()), ..Config::default() };
            assert!(Store::open(&config).err().unwrap().to_string().contains("ASIDE_STORE"), "{named}");
        }
    }
}
