//! The tables in the file, how they come there, and the connections to it.
//!
//! They may lie in the application's own database, so all names begin with `aside_`, and the version is kept in a table of
//! ours: `user_version` is the application's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::errors;
use crate::error::{Error, Result};
use crate::isolate::is_child;
use crate::jobs::engine::Unavailable;
use crate::private_files;

/// What makes the tables of each version out of those of the one before. Never change one that was released: add another.
pub(super) const STEPS: &[&str] = &[include_str!("first.sql"), include_str!("second.sql"), include_str!("third.sql")];

/// A file of at most that many bytes is read through when it is opened, so that damage shows at the start; for a larger one
/// that would take seconds, and what is damaged shows when it is met.
const READ_THROUGH: u64 = 32 << 20;

/// How many prepared statements a connection keeps: more than there are here.
const STATEMENTS: usize = 64;

/// Where the file is, and how to speak of it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// As it was given, for words.
    pub(super) shown: String,
    /// From the root, whatever the current folder is later; none for a database in memory.
    pub(super) file: Option<PathBuf>,
    /// How long to wait for a lock that another process has.
    pub(super) busy: Duration,
    /// Which file it is, by the system's numbers, so that another one in its place is noticed.
    identity: Option<(u64, u64)>,
}

impl Place {
    /// The place of that path. Its folder is made when it is not there.
    pub(super) fn new(path: &Path, busy: Duration) -> Result<Place> {
        let shown = path.display().to_string();
        if path.as_os_str().is_empty() {
            return Err(Error::internal(
                "the jobs need the path of a file, such as data/jobs.db, and this one is empty",
            ));
        }
        let file = if shown == ":memory:" { None } else { Some(absolute(path, &shown)?) };
        Ok(Place { shown, file, busy, identity: None })
    }

    /// A connection with our settings. The first one makes the file.
    pub(super) fn connect(&self) -> Result<Connection> {
        self.try_connect().map_err(|error| errors::error(&self.shown, &error))
    }

    /// One that may write.
    pub(super) fn connect_to_write(&self) -> Result<Connection, Unavailable> {
        let set_up = |db: Connection| set_up_to_write(&db).map(|()| db);
        self.try_connect().and_then(set_up).map_err(|error| errors::unavailable(&self.shown, &error))
    }

    fn try_connect(&self) -> rusqlite::Result<Connection> {
        // Without the flag for URIs: a path is a path, whatever it looks like.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = match &self.file {
            Some(file) => {
                // SQLite reports a failure itself.
                let _ = private_files::create_if_missing(file);
                Connection::open_with_flags(file, flags)?
            }
            None => Connection::open_in_memory()?,
        };
        db.busy_timeout(self.busy)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(db)
    }

    /// Remembers which file it is, from now on.
    pub(super) fn identify(&mut self) {
        self.identity = self.file.as_deref().and_then(identity);
    }

    /// Whether the file is still the one that was opened. What is written to a deleted one goes with the process.
    pub(super) fn is_there(&self) -> bool {
        self.identity.is_none() || self.identity == self.file.as_deref().and_then(identity)
    }

    /// What to say when it is not.
    pub(super) fn gone(&self) -> Unavailable {
        let words = format!(
            "the jobs in {}: the file was deleted or replaced while it was in use, and nothing more is kept in it: put it back, or \
             start the process again",
            self.shown
        );
        Unavailable { reason: "the database is missing", words }
    }
}

/// The path from the root; the file itself need not be there, but its folder is made.
fn absolute(path: &Path, shown: &str) -> Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    if let Some(folder) = whole.parent() {
        fs::create_dir_all(folder).map_err(|error| {
            Error::from(error).context(format!("the folder of {shown}, for the jobs, cannot be made"))
        })?;
    }
    // Through links, so that the lock files lie beside the same file whichever way a process comes to it.
    Ok(fs::canonicalize(&whole).unwrap_or(whole))
}

#[cfg(unix)]
fn identity(file: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(file).ok().map(|data| (data.dev(), data.ino()))
}

/// Elsewhere a file that is open cannot be deleted.
#[cfg(not(unix))]
fn identity(_file: &Path) -> Option<(u64, u64)> {
    None
}

/// A connection that may write, to a file that has the tables of this version.
pub(super) fn prepare(place: &Place, steps: &[&str]) -> Result<Connection> {
    let mut db = place.connect_to_write()?;
    let said = |error: rusqlite::Error| errors::error(&place.shown, &error);
    // The parent of a child has done that.
    if !is_child() {
        read_through(&db, place)?;
    }
    let found = version(&db).map_err(said)?;
    refuse_newer(place, found, steps)?;
    keep_a_log(&db, place)?;
    if found == newest(steps) {
        return Ok(db);
    }
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(said)?;
    // Again, now that nobody else can: two processes may have started together.
    let found = version(&transaction).map_err(said)?;
    refuse_newer(place, found, steps)?;
    migrate(&transaction, found, steps).map_err(said)?;
    transaction.commit().map_err(said)?;
    Ok(db)
}

/// Write-ahead logging: readers do not wait for the writer, and a commit is one write and one sync.
fn keep_a_log(db: &Connection, place: &Place) -> Result<()> {
    let until = Instant::now() + place.busy;
    loop {
        let mode = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            // Whoever else opens the file now makes this fail at once, without the wait that other statements have.
            Err(error) if is_busy(&error) && Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(errors::error(&place.shown, &error)),
            Ok(mode) if mode == "wal" || place.file.is_none() => return Ok(()),
            Ok(_) => return Err(no_log(place)),
        }
    }
}

/// SQLite says nothing when it cannot, and goes on in a mode in which readers and writers shut each other out.
fn no_log(place: &Place) -> Error {
    Error::internal(format!(
        "the jobs in {}: this file system has no memory that processes share, which SQLite needs for its write-ahead log: put \
         the file on a local disk",
        place.shown
    ))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// For one that writes all the time: more of the file in memory, and fewer but larger moves from the log into it.
fn set_up_to_write(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "cache_size", -16_000)?;
    db.pragma_update(None, "wal_autocheckpoint", 4_000)
}

fn read_through(db: &Connection, place: &Place) -> Result<()> {
    let length = place.file.as_deref().and_then(|file| fs::metadata(file).ok()).map_or(0, |data| data.len());
    if length == 0 || length > READ_THROUGH {
        return Ok(());
    }
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| errors::error(&place.shown, &error))?;
    if verdict == "ok" {
        return Ok(());
    }
    let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(errors::error(&place.shown, &rusqlite::Error::SqliteFailure(damaged, Some(verdict))))
}

/// The version of the tables that these steps make.
pub(super) fn newest(steps: &[&str]) -> u32 {
    steps.len() as u32
}

/// The version of the tables in there, 0 when there are none.
fn version(db: &Connection) -> rusqlite::Result<u32> {
    let has_tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aside_meta'";
    if db.query_row(has_tables, [], |_| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    let version =
        db.query_row("SELECT value FROM aside_meta WHERE key = 'version'", [], |row| row.get(0)).optional()?;
    Ok(version.unwrap_or(0))
}

fn refuse_newer(place: &Place, found: u32, steps: &[&str]) -> Result<()> {
    let known = newest(steps);
    if found <= known {
        return Ok(());
    }
    Err(Error::internal(format!(
        "the jobs in {}: a newer version of aside wrote them (tables of version {found}, and this one knows those up to {known}): \
         run the newer program, or name another file",
        place.shown
    )))
}

fn migrate(transaction: &Transaction<'_>, found: u32, steps: &[&str]) -> rusqlite::Result<()> {
    if found == newest(steps) {
        return Ok(());
    }
    for step in &steps[found as usize..] {
        transaction.execute_batch(step)?;
    }
    let known = "INSERT INTO aside_meta (key, value) VALUES ('version', ?1)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    transaction.execute(known, [newest(steps)]).map(drop)
}
