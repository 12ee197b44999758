//! The store in a SQLite file, with one connection for writes and one for reads.
//!
//! The file uses write-ahead logging, so that a page that checks if its session was ended does not wait for a writer in
//! this or another process.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};

use super::{EntryKind, now};
use crate::error::Result;
use crate::private_files;
use crate::sync::lock;

/// The time that a write waits for the lock of another process before it fails.
const BUSY: Duration = Duration::from_secs(5);

/// A store in a SQLite file.
pub(super) struct Sqlite {
    writer: Mutex<Connection>,
    /// The read connection; `None` for a database in memory, which only one connection can see.
    reader: Option<Mutex<Connection>>,
}

impl Sqlite {
    /// Opens the file, and creates it and its folder if they are missing.
    ///
    /// # Errors
    /// An error if the file cannot be read and written, or is not a database.
    pub(super) fn open(path: &str) -> Result<Sqlite> {
        Sqlite::open_with(path, BUSY)
    }

    fn open_with(path: &str, busy: Duration) -> Result<Sqlite> {
        if let Some(folder) = Path::new(path).parent() {
            std::fs::create_dir_all(folder)?;
        }
        let writer = connect(path, busy)?;
        writer.execute_batch(
            "PRAGMA journal_mode = WAL;
             PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS remembered (
                 shelf TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, until INTEGER NOT NULL,
                 PRIMARY KEY (shelf, key)
             ) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS remembered_until ON remembered (until);",
        )?;
        let is_file = writer.path().is_some_and(|path| !path.is_empty());
        let reader = if is_file { Some(reader(path, busy)?) } else { None };
        Ok(Sqlite { writer: Mutex::new(writer), reader: reader.map(Mutex::new) })
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        lock(self.reader.as_ref().unwrap_or(&self.writer))
    }

    pub(super) fn get(&self, kind: EntryKind, key: &str) -> Result<Option<String>> {
        let sql = "SELECT value FROM remembered WHERE shelf = ?1 AND key = ?2 AND until > ?3";
        let reader = self.reader();
        let mut query = reader.prepare_cached(sql)?;
        Ok(query.query_row((kind.name(), key, now()), |row| row.get(0)).optional()?)
    }

    pub(super) fn get_both(&self, asked: [(EntryKind, &str); 2]) -> Result<[Option<String>; 2]> {
        let sql = "SELECT (SELECT value FROM remembered WHERE shelf = ?1 AND key = ?2 AND until > ?5),
                          (SELECT value FROM remembered WHERE shelf = ?3 AND key = ?4 AND until > ?5)";
        let [(kind, key), (other_kind, other_key)] = asked;
        let reader = self.reader();
        let mut query = reader.prepare_cached(sql)?;
        let asked = (kind.name(), key, other_kind.name(), other_key, now());
        Ok(query.query_row(asked, |row| Ok([row.get(0)?, row.get(1)?]))?)
    }

    /// Returns SQLite's count of commits by other connections, as the read connection sees it.
    pub(super) fn version(&self) -> Result<i64> {
        Ok(self.reader().pragma_query_value(None, "data_version", |row| row.get(0))?)
    }

    pub(super) fn put(&self, kind: EntryKind, key: &str, value: &str, until: i64) -> Result<()> {
        let writer = lock(&self.writer);
        writer.prepare_cached("DELETE FROM remembered WHERE until <= ?1")?.execute([now()])?;
        let sql = "INSERT OR REPLACE INTO remembered (shelf, key, value, until) VALUES (?1, ?2, ?3, ?4)";
        writer.prepare_cached(sql)?.execute((kind.name(), key, value, until))?;
        Ok(())
    }
}

fn connect(path: &str, busy: Duration) -> rusqlite::Result<Connection> {
    // SQLite reports a failure itself. The special names `:memory:` and `file:…` are not paths.
    if !path.starts_with(':') && !path.starts_with("file:") {
        let _ = private_files::create_if_missing(Path::new(path));
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(busy)?;
    Ok(connection)
}

fn reader(path: &str, busy: Duration) -> rusqlite::Result<Connection> {
    let reader = connect(path, busy)?;
    reader.pragma_update(None, "query_only", true)?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use std::sync::TryLockError;
    use std::thread;

    use super::*;

    /// Regression: every page that read a session waited until another process had released the file.
    #[test]
    fn a_read_does_not_wait_for_a_blocked_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.db").display().to_string();
        let store = Sqlite::open_with(&path, Duration::from_secs(60)).unwrap();
        store.put(EntryKind::EndedSessions, "a", "1", now() + 60).unwrap();
        let other = Connection::open(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        thread::scope(|scope| {
            let writes = scope.spawn(|| store.put(EntryKind::EndedSessions, "b", "2", now() + 60));
            while !matches!(store.writer.try_lock(), Err(TryLockError::WouldBlock)) {
                thread::yield_now();
            }
            assert_eq!(store.get(EntryKind::EndedSessions, "a").unwrap().as_deref(), Some("1"));
            let both = store.get_both([(EntryKind::EndedSessions, "a"), (EntryKind::EndedUsers, "a")]).unwrap();
            assert_eq!(both, [Some("1".into()), None]);
            assert!(!writes.is_finished(), "the write waits for the lock during the reads");
            other.execute_batch("COMMIT").unwrap();
            writes.join().unwrap().unwrap();
        });
        assert_eq!(store.get(EntryKind::EndedSessions, "b").unwrap().as_deref(), Some("2"));
    }

    #[test]
    fn a_database_in_memory_has_one_connection() {
        let store = Sqlite::open(":memory:").unwrap();
        store.put(EntryKind::EndedSessions, "a", "1", now() + 60).unwrap();
        assert_eq!(store.get(EntryKind::EndedSessions, "a").unwrap().as_deref(), Some("1"));
    }
}
