//! The tables, their migrations, and the connections to the file.
//!
//! The tables may be in the application's own database, so all names begin with `aside_`, and the version is in one of
//! these tables: `user_version` belongs to the application.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use super::counts;
use super::errors;
use super::groups;
use crate::error::{Error, Result};
use crate::isolate::is_child;
use crate::jobs::engine::Unavailable;
use crate::private_files;

/// The migrations, each from one version of the tables to the next. Never change a released one: add another.
pub(super) const STEPS: &[&str] = &[
    include_str!("first.sql"),
    include_str!("second.sql"),
    include_str!("third.sql"),
    include_str!("fourth.sql"),
    include_str!("fifth.sql"),
    include_str!("sixth.sql"),
];

/// The version from which the highest id that was ever assigned is in `aside_meta`.
const LAST_ID_SINCE: u32 = 4;

/// The version from which dead jobs are in groups.
const GROUPS_SINCE: u32 = 6;

/// The largest file, in bytes, that is checked for damage when it is opened. For a larger file the check would take
/// seconds; damage is then detected when it is read.
const MAX_CHECKED_SIZE: u64 = 32 << 20;

/// The number of prepared statements that a connection caches: more than there are.
const STATEMENTS: usize = 64;

/// The location of a database, with the settings of its connections.
#[derive(Debug, Clone)]
pub(super) struct Database {
    /// The path as it was given, for messages.
    pub(super) name: String,
    /// The absolute path, which stays valid if the current folder changes; `None` for an in-memory database.
    pub(super) file: Option<PathBuf>,
    /// The longest wait for the lock of another process.
    pub(super) busy: Duration,
    /// The device and inode of the file, by which a replaced file is detected.
    identity: Option<(u64, u64)>,
}

impl Database {
    /// Returns the database at that path. Its folder is created if it is missing.
    pub(super) fn new(path: &Path, busy: Duration) -> Result<Database> {
        let name = path.display().to_string();
        if path.as_os_str().is_empty() {
            return Err(Error::internal("the path of the job database is empty: name a file, such as data/jobs.db"));
        }
        let file = if name == ":memory:" { None } else { Some(absolute(path, &name)?) };
        Ok(Database { name, file, busy, identity: None })
    }

    /// Opens a connection with the engine's settings. The first connection creates the file.
    pub(super) fn connect(&self) -> Result<Connection> {
        self.try_connect().map_err(|error| errors::error(&self.name, &error))
    }

    /// Opens a connection that can write.
    pub(super) fn connect_to_write(&self) -> Result<Connection, Unavailable> {
        let set_up = |db: Connection| set_up_to_write(&db).map(|()| db);
        self.try_connect().and_then(set_up).map_err(|error| errors::unavailable(&self.name, &error))
    }

    fn try_connect(&self) -> rusqlite::Result<Connection> {
        // Without the flag for URIs, so that any path is taken literally.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = match &self.file {
            Some(file) => {
                // SQLite reports this failure itself.
                let _ = private_files::create_if_missing(file);
                Connection::open_with_flags(file, flags)?
            }
            None => Connection::open_in_memory()?,
        };
        db.busy_timeout(self.busy)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        // Without it, SQLite prepares a statement with a bound LIMIT again for each execution, which took more than half of the
        // processor time of a claim.
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        Ok(db)
    }

    /// Records the identity of the file.
    pub(super) fn identify(&mut self) {
        self.identity = self.file.as_deref().and_then(identity);
    }

    /// Returns true if the path still leads to the opened file. Writes to a deleted file are lost with the process.
    pub(super) fn is_unchanged(&self) -> bool {
        self.identity.is_none() || self.identity == self.file.as_deref().and_then(identity)
    }

    /// Returns the error for a deleted or replaced file.
    pub(super) fn missing(&self) -> Unavailable {
        let message = format!(
            "the jobs in {}: the file was deleted or replaced while it was in use, and no job can be stored: restore it, or \
             restart the process",
            self.name
        );
        Unavailable { reason: "the database is missing", message }
    }
}

/// Returns the absolute path. Its folder is created; the file itself may be missing.
fn absolute(path: &Path, name: &str) -> Result<PathBuf> {
    let whole = std::path::absolute(path)?;
    if let Some(folder) = whole.parent() {
        fs::create_dir_all(folder).map_err(|error| {
            Error::from(error).context(format!("the folder of {name}, the job database, cannot be created"))
        })?;
    }
    // Symbolic links are resolved, so that all processes place their lock files beside the same file.
    Ok(fs::canonicalize(&whole).unwrap_or(whole))
}

#[cfg(unix)]
fn identity(file: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(file).ok().map(|data| (data.dev(), data.ino()))
}

/// On other systems an open file cannot be deleted.
#[cfg(not(unix))]
fn identity(_file: &Path) -> Option<(u64, u64)> {
    None
}

/// Opens a connection that can write, and migrates the tables to the current version.
pub(super) fn prepare(database: &Database, steps: &[&str]) -> Result<Connection> {
    let mut db = database.connect_to_write()?;
    let describe = |error: rusqlite::Error| errors::error(&database.name, &error);
    // In a child process, the parent has done this.
    if !is_child() {
        check_integrity(&db, database)?;
    }
    let found = version(&db).map_err(describe)?;
    refuse_newer(database, found, steps)?;
    enable_wal(&db, database)?;
    if found == newest(steps) {
        return Ok(db);
    }
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(describe)?;
    // Checked again under the lock, since two processes may have started at the same time.
    let found = version(&transaction).map_err(describe)?;
    refuse_newer(database, found, steps)?;
    migrate(&transaction, found, steps).map_err(describe)?;
    transaction.commit().map_err(describe)?;
    Ok(db)
}

/// Enables write-ahead logging: readers do not wait for the writer, and a commit is one write and one sync.
fn enable_wal(db: &Connection, database: &Database) -> Result<()> {
    let until = Instant::now() + database.busy;
    loop {
        let mode = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode {
            // Fails at once, without the busy timeout, while another process opens the file.
            Err(error) if is_busy(&error) && Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(errors::error(&database.name, &error)),
            Ok(mode) if mode == "wal" || database.file.is_none() => return Ok(()),
            Ok(_) => return Err(no_wal(database)),
        }
    }
}

/// Returns the error for a file system without shared memory. SQLite reports nothing, and continues in a mode in which
/// readers and writers block each other.
fn no_wal(database: &Database) -> Error {
    Error::internal(format!(
        "the jobs in {}: the file system has no shared memory, which SQLite needs for its write-ahead log: put \
         the file on a local disk",
        database.name
    ))
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// Configures a connection for many writes: a larger cache, fewer but larger checkpoints, and no triggers, since it counts
/// its jobs itself.
fn set_up_to_write(db: &Connection) -> rusqlite::Result<()> {
    counts::set_triggers(db, false)?;
    db.pragma_update(None, "cache_size", -16_000)?;
    db.pragma_update(None, "wal_autocheckpoint", 4_000)
}

fn check_integrity(db: &Connection, database: &Database) -> Result<()> {
    let length = database.file.as_deref().and_then(|file| fs::metadata(file).ok()).map_or(0, |data| data.len());
    if length == 0 || length > MAX_CHECKED_SIZE {
        return Ok(());
    }
    let verdict: String = db
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|error| errors::error(&database.name, &error))?;
    if verdict == "ok" {
        return Ok(());
    }
    let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(errors::error(&database.name, &rusqlite::Error::SqliteFailure(damaged, Some(verdict))))
}

/// Returns the version of the tables after these migrations.
pub(super) fn newest(steps: &[&str]) -> u32 {
    steps.len() as u32
}

/// Returns the version of the tables in the file; 0 without tables.
fn version(db: &Connection) -> rusqlite::Result<u32> {
    let has_tables = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'aside_meta'";
    if db.query_row(has_tables, [], |_| Ok(())).optional()?.is_none() {
        return Ok(0);
    }
    let version =
        db.query_row("SELECT value FROM aside_meta WHERE key = 'version'", [], |row| row.get(0)).optional()?;
    Ok(version.unwrap_or(0))
}

fn refuse_newer(database: &Database, found: u32, steps: &[&str]) -> Result<()> {
    let known = newest(steps);
    if found <= known {
        return Ok(());
    }
    Err(Error::internal(format!(
        "the jobs in {}: a newer version of aside wrote them (tables of version {found}, and this one knows those up to {known}): \
         run the newer program, or name another file",
        database.name
    )))
}

fn migrate(transaction: &Transaction<'_>, found: u32, steps: &[&str]) -> rusqlite::Result<()> {
    if found == newest(steps) {
        return Ok(());
    }
    for step in &steps[found as usize..] {
        transaction.execute_batch(step)?;
    }
    if (1..LAST_ID_SINCE).contains(&found) && newest(steps) >= LAST_ID_SINCE {
        counts::keep_last_id_of_sqlite(transaction)?;
    }
    if (1..GROUPS_SINCE).contains(&found) && newest(steps) >= GROUPS_SINCE {
        groups::enter_all(transaction)?;
    }
    let known = "INSERT INTO aside_meta (key, value) VALUES ('version', ?1)
                 ON CONFLICT (key) DO UPDATE SET value = excluded.value";
    transaction.execute(known, [newest(steps)]).map(drop)
}
