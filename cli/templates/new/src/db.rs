//! The database of the site, an SQLite file.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aside::Result;
use aside::jobs::rusqlite::{Connection, TransactionBehavior};

/// The name of the file in the folder of the site's data.
pub const FILE: &str = "site.db";

/// The migrations, in order. The file stores how many it has had.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE messages (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        text TEXT NOT NULL
    ) STRICT",
%% if login
    // AUTOINCREMENT: the id of a deleted user is never given to another one.
    "CREATE TABLE users (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        email TEXT NOT NULL UNIQUE COLLATE NOCASE,
        password TEXT NOT NULL
    ) STRICT",
%% end
%% if jobs
    // A report without figures is not finished yet.
    "CREATE TABLE reports (
        id INTEGER PRIMARY KEY,
        messages INTEGER,
        words INTEGER
    ) STRICT",
%% end
%% if uploads
    "CREATE TABLE photos (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL,
        is_ready INTEGER NOT NULL DEFAULT 0
    ) STRICT",
%% end
    // Add new ones here, and never change an old one.
];

/// The connection to the database. SQLite has one writer at a time anyway, and the queries of a
/// small site take microseconds.
pub struct Db(Mutex<Connection>);

impl Db {
    /// Opens the database in this folder, and applies the missing migrations.
    pub fn open(data: &Path) -> Result<Db> {
        let mut connection = Connection::open(data.join(FILE))?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrate(&mut connection)?;
        Ok(Db(Mutex::new(connection)))
    }

    /// Waits for the connection. Hold it for short work only, since other requests wait for it.
    pub fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic under the lock leaves no transaction open: the connection can still be used.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies the missing migrations in one transaction, once, even if two processes start together.
fn migrate(connection: &mut Connection) -> Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    for (number, migration) in (1..).zip(MIGRATIONS).skip(applied as usize) {
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", number)?;
    }
    Ok(transaction.commit()?)
}
