//! The framework's own store: ended sessions and the responses to submitted forms. It holds short texts under keys,
//! with an expiry.
//!
//! In memory the entries are lost at a restart; in a SQLite file (`ASIDE_STORE=sqlite:PATH`, feature `sqlite`) they are
//! kept, and all processes with the same file share them.

#[cfg(feature = "sqlite")]
mod sqlite;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::log_text::{bytes, numbered};
use crate::sync::lock;

/// The limits of the store in memory: entries and bytes. Above either, the entries that expire first are dropped.
const MAX_ENTRIES: usize = 100_000;
const MAX_BYTES: usize = 64 << 20;

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

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum EntryKind {
    /// Sessions that were ended, by id.
    EndedSessions,
    /// Users all of whose sessions were ended, by id; the value is different each time.
    EndedUsers,
    /// The stored responses to forms, by the form's identity.
    AnsweredForms,
}

#[derive(Default)]
struct Memory {
    entries: HashMap<(EntryKind, String), Entry>,
    bytes: usize,
    /// The time of the last sweep of expired entries.
    swept: i64,
}

struct Entry {
    value: String,
    until: i64,
}

impl EntryKind {
    #[cfg(feature = "sqlite")]
    fn name(self) -> &'static str {
        match self {
            EntryKind::EndedSessions => "ended session",
            EntryKind::EndedUsers => "ended user",
            EntryKind::AnsweredForms => "answered form",
        }
    }
}

/// Returns the current time in seconds since 1970, the unit of all times here.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

impl Store {
    /// Opens the store of the settings.
    ///
    /// # Errors
    /// 500 if `ASIDE_STORE` is invalid or cannot be opened.
    pub(crate) fn open(config: &Config) -> Result<Store> {
        let named = config.store.as_deref().unwrap_or("memory:");
        match named.split_once(':') {
            Some(("memory", "")) => Ok(Store(Backend::Memory(Mutex::default()))),
            Some(("sqlite", path)) if !path.is_empty() => sqlite(path),
            _ => Err(Error::internal(format!("ASIDE_STORE must be `sqlite:PATH` or `memory:`, not `{named}`"))),
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
    /// 500 if the file cannot be read.
    pub(crate) fn version(&self) -> Result<Option<i64>> {
        match &self.0 {
            Backend::Memory(_) => Ok(None),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(file) => file.version().map(Some),
        }
    }

    /// Returns the value of a key, unless it has expired.
    ///
    /// # Errors
    /// 500 if the file cannot be read.
    pub(crate) fn get(&self, kind: EntryKind, key: &str) -> Result<Option<String>> {
        match &self.0 {
            Backend::Memory(memory) => Ok(lock(memory).unexpired(kind, key)),
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(file) => file.get(kind, key),
        }
    }

    /// Returns the values of two keys, with one query.
    ///
    /// # Errors
    /// 500 if the file cannot be read.
    pub(crate) fn get_both(&self, asked: [(EntryKind, &str); 2]) -> Result<[Option<String>; 2]> {
        match &self.0 {
            Backend::Memory(memory) => {
                let memory = lock(memory);
                Ok(asked.map(|(kind, key)| memory.unexpired(kind, key)))
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(file) => file.get_both(asked),
        }
    }

    /// Stores a value under a key until the second `until`, and replaces an earlier value.
    ///
    /// # Errors
    /// 500 if the file cannot be written.
    pub(crate) fn put(&self, kind: EntryKind, key: &str, value: &str, until: i64) -> Result<()> {
        match &self.0 {
            Backend::Memory(memory) => {
                lock(memory).put((kind, key.to_owned()), Entry { value: value.to_owned(), until }, now());
                Ok(())
            }
            #[cfg(feature = "sqlite")]
            Backend::Sqlite(file) => file.put(kind, key, value, until),
        }
    }
}

impl Memory {
    fn unexpired(&self, kind: EntryKind, key: &str) -> Option<String> {
        let entry = self.entries.get(&(kind, key.to_owned())).filter(|entry| entry.until > now());
        entry.map(|entry| entry.value.clone())
    }

    fn put(&mut self, key: (EntryKind, String), entry: Entry, now: i64) {
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
            self.drop_earliest(now);
        }
    }

    fn is_full(&self) -> bool {
        self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES
    }

    fn drop_earliest(&mut self, now: i64) {
        self.retain(|entry| entry.until > now);
        if !self.is_full() {
            return;
        }
        log::warn!(
            target: "aside::store",
            "The store in memory is full ({}, {}); entries that expire first are dropped. Set \
             ASIDE_STORE to `sqlite:PATH`.",
            numbered(self.entries.len(), "entry", "entries"),
            bytes(self.bytes)
        );
        let mut ends: Vec<i64> = self.entries.values().map(|entry| entry.until).collect();
        // Drops a tenth at once, so that not every call has to search.
        let tenth = ends.len() / 10;
        let (_, &mut last, _) = ends.select_nth_unstable(tenth);
        self.retain(|entry| entry.until > last);
    }

    fn retain(&mut self, keeps: impl Fn(&Entry) -> bool) {
        self.entries.retain(|_, entry| keeps(entry));
        self.bytes = self.entries.iter().map(|(key, entry)| size(key, entry)).sum();
    }
}

fn size((_, key): &(EntryKind, String), entry: &Entry) -> usize {
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
    Err(Error::internal("ASIDE_STORE: `sqlite:` needs the feature `sqlite`, which is disabled in this build"))
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
    fn a_value_is_kept_until_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        for store in stores(folder.path()) {
            store.put(EntryKind::EndedSessions, "a", "1", now() + 60).unwrap();
            store.put(EntryKind::EndedUsers, "a", "2", now() + 60).unwrap();
            store.put(EntryKind::EndedUsers, "a", "3", now() + 60).unwrap();
            store.put(EntryKind::EndedUsers, "late", "4", now()).unwrap();
            assert_eq!(store.get(EntryKind::EndedSessions, "a").unwrap().as_deref(), Some("1"));
            assert_eq!(store.get(EntryKind::EndedUsers, "a").unwrap().as_deref(), Some("3"));
            assert_eq!(store.get(EntryKind::EndedUsers, "late").unwrap(), None);
            assert_eq!(store.get(EntryKind::AnsweredForms, "a").unwrap(), None);
            let both =
                |one, other| store.get_both([(EntryKind::EndedSessions, one), (EntryKind::EndedUsers, other)]).unwrap();
            assert_eq!(both("a", "a"), [Some("1".to_owned()), Some("3".to_owned())]);
            assert_eq!((both("a", "late"), both("b", "a")), ([Some("1".into()), None], [None, Some("3".into())]));
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn a_file_is_shared_and_survives_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let [_, one] = stores(folder.path()).try_into().ok().unwrap();
        let [_, other] = stores(folder.path()).try_into().ok().unwrap();
        one.put(EntryKind::EndedSessions, "a", "", now() + 60).unwrap();
        assert_eq!(other.get(EntryKind::EndedSessions, "a").unwrap().as_deref(), Some(""));
        drop((one, other));
        let [_, again] = stores(folder.path()).try_into().ok().unwrap();
        assert!(again.get(EntryKind::EndedSessions, "a").unwrap().is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let store = Store::open(&Config::default()).unwrap();
        for number in 0..=MAX_ENTRIES {
            store.put(EntryKind::AnsweredForms, &number.to_string(), "", now() + 60 + number as i64).unwrap();
        }
        assert!(store.get(EntryKind::AnsweredForms, "0").unwrap().is_none());
        assert!(store.get(EntryKind::AnsweredForms, &MAX_ENTRIES.to_string()).unwrap().is_some());
    }

    #[test]
    fn memory_is_bounded_by_bytes_too() {
        let (mut memory, most) = (Memory::default(), 8 << 10);
        let entry = |until| Entry { value: "x".repeat(most), until };
        for number in 0..3 * MAX_BYTES / most {
            memory.put((EntryKind::AnsweredForms, number.to_string()), entry(60 + number as i64), 0);
            assert!(memory.bytes <= MAX_BYTES);
        }
        assert!(memory.entries.len() > MAX_BYTES / most / 2);
    }

    #[test]
    fn expired_entries_are_dropped_without_being_read() {
        let mut memory = Memory::default();
        let entry = |until| Entry { value: String::new(), until };
        (0..1_000).for_each(|number| memory.put((EntryKind::EndedSessions, number.to_string()), entry(1_060), 1_000));
        memory.put((EntryKind::EndedSessions, "later".into()), entry(2_000), 1_000 + SWEEP_EVERY);
        assert_eq!((memory.entries.len(), memory.bytes), (1, "later".len() + OVERHEAD));
        assert!(memory.entries.capacity() < 100);
    }

    #[test]
    fn an_invalid_setting_is_refused() {
        for named in ["redis://x", "sqlite:", "data.db", "memory:x"] {
            let config = Config { store: Some(named.into()), ..Config::default() };
            assert!(Store::open(&config).err().unwrap().to_string().contains("ASIDE_STORE"), "{named}");
        }
    }
}
