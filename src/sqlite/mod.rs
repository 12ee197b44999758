//! The application's database in an SQLite file.
//!
//! ```
//! use aside::sqlite::Db;
//! use aside::{App, Request, Response, Result, context, redirect};
//!
//! /// Never change a migration that a site has had: add another one.
//! const MIGRATIONS: &[&str] = &["CREATE TABLE posts (id INTEGER PRIMARY KEY, title TEXT NOT NULL) STRICT"];
//!
//! fn posts(req: &mut Request) -> Result<Response> {
//!     let db = req.state::<Db>();
//!     let posts: Vec<(i64, String)> = db.rows("SELECT id, title FROM posts WHERE id > ?", [10])?;
//!     req.render("posts.html", context! { posts }) // {% for id, title in posts %}
//! }
//!
//! fn add(req: &mut Request) -> Result<Response> {
//!     let id = req.state::<Db>().insert("INSERT INTO posts (title) VALUES (?)", ["Hello"])?;
//!     Ok(redirect(&format!("/#{id}")))
//! }
//!
//! fn app() -> Result<App> {
//!     Ok(App::new().state(Db::open("data/site.db", MIGRATIONS)?).get("/", posts).post("/", add))
//! }
//! ```
//!
//! Jobs in the same file ([`Jobs::sqlite`](crate::Jobs::sqlite)) are enqueued in the transaction that changes the data.

use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::thread::{self, ThreadId};
use std::time::Duration;

use rusqlite::{Connection, Params, Row, Transaction, TransactionBehavior};

use crate::error::{Error, OrHere, Result};
use crate::private_files;
use crate::sync::lock;

/// How long a write waits for the lock of another connection before it fails.
const BUSY: Duration = Duration::from_secs(5);

/// The number of prepared statements that the connection caches.
const STATEMENTS: usize = 64;

/// A database with its migrations, for [`App::state`](crate::App::state). See the [module](self).
///
/// It is one connection behind a lock. SQLite has one writer at a time anyway, and the queries of a small site take
/// microseconds. Do not wait for anything else under the lock.
pub struct Db {
    connection: Mutex<Connection>,
    /// The thread that runs a transaction: it would wait for itself.
    transacting: Mutex<Option<ThreadId>>,
}

/// Forgets the thread of a transaction at its end, also after a panic.
struct Transacting<'d>(&'d Db);

impl Drop for Transacting<'_> {
    fn drop(&mut self) {
        *lock(&self.0.transacting) = None;
    }
}

impl Db {
    /// Opens the file, and applies the migrations that it has not had. The path `:memory:` is a database for a test.
    ///
    /// The file and its folder are created if they are missing; only the site's user can read the file. It has write-ahead
    /// logging and checks foreign keys. A write waits up to 5 s for other processes.
    ///
    /// The number of migrations that a file has had is its `user_version`. Missing migrations are applied in one transaction,
    /// once, even if two processes start together.
    ///
    /// # Errors
    /// An error if the file cannot be opened, is not a database, or has had more migrations than there are, or if a migration
    /// fails: then the file is unchanged.
    #[track_caller]
    pub fn open(path: impl AsRef<Path>, migrations: &[&str]) -> Result<Db> {
        let path = path.as_ref();
        let opened = connect(path).and_then(|mut db| {
            migrate(&mut db, migrations)?;
            db.pragma_update(None, "foreign_keys", true)?;
            Ok(db)
        });
        let name = || format!("could not open the database {}", path.display());
        let db = |connection| Db { connection: Mutex::new(connection), transacting: Mutex::default() };
        opened.map(db).map_err(|error| error.context(name())).or_here()
    }

    /// Waits for the connection. A panic while it was locked has rolled back its transaction, and the connection stays usable.
    ///
    /// # Panics
    /// In the function of a [`transaction`](Db::transaction), as do all methods: use the connection that it gets.
    #[track_caller]
    pub fn lock(&self) -> MutexGuard<'_, Connection> {
        let is_own = *lock(&self.transacting) == Some(thread::current().id());
        assert!(!is_own, "this thread is in a transaction of this database: use the connection of the transaction");
        lock(&self.connection)
    }

    /// Runs a statement, and returns the number of rows that it changed.
    ///
    /// # Errors
    /// An error of the database.
    #[track_caller]
    pub fn execute(&self, sql: &str, params: impl Params) -> Result<usize> {
        self.lock()
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(params))
            .map_err(Error::from)
            .or_here()
    }

    /// Inserts a row, and returns its id (`rowid`).
    ///
    /// # Errors
    /// An error of the database, or if the statement inserts no row or several ones.
    #[track_caller]
    pub fn insert(&self, sql: &str, params: impl Params) -> Result<i64> {
        self.lock()
            .prepare_cached(sql)
            .and_then(|mut statement| statement.insert(params))
            .map_err(Error::from)
            .or_here()
    }

    /// Returns the rows of a query, as tuples of its columns.
    ///
    /// ```
    /// # fn main() -> aside::Result<()> {
    /// let db = aside::sqlite::Db::open(":memory:", &["CREATE TABLE tags (name TEXT) STRICT"])?;
    /// db.execute("INSERT INTO tags VALUES ('sea'), ('sky')", ())?;
    /// let names: Vec<(String,)> = db.rows("SELECT name FROM tags WHERE name LIKE ?", ["s%"])?;
    /// assert_eq!(names.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An error of the database, or if a column has another type.
    #[track_caller]
    pub fn rows<T>(&self, sql: &str, params: impl Params) -> Result<Vec<T>>
    where
        T: for<'r> TryFrom<&'r Row<'r>, Error = rusqlite::Error>,
    {
        self.query(sql, params, |rows| rows.collect()).or_here()
    }

    /// Returns the first row of a query, if there is one.
    ///
    /// # Errors
    /// The errors of [`rows`](Db::rows).
    #[track_caller]
    pub fn row<T>(&self, sql: &str, params: impl Params) -> Result<Option<T>>
    where
        T: for<'r> TryFrom<&'r Row<'r>, Error = rusqlite::Error>,
    {
        self.query(sql, params, |rows| rows.next().transpose()).or_here()
    }

    /// Passes the rows of a query to `read`.
    #[track_caller]
    fn query<T, R>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&mut dyn Iterator<Item = rusqlite::Result<T>>) -> rusqlite::Result<R>,
    ) -> Result<R>
    where
        T: for<'r> TryFrom<&'r Row<'r>, Error = rusqlite::Error>,
    {
        let db = self.lock();
        let mut query = db.prepare_cached(sql)?;
        let mut rows = query.query_map(params, |row| T::try_from(row))?;
        Ok(read(&mut rows)?)
    }

    /// Commits the writes of `f` together: all, or none if it returns an error or panics.
    ///
    /// ```
    /// use aside::sqlite::Db;
    /// use aside::{Mail, Request, Result};
    ///
    /// fn order(req: &mut Request) -> Result<()> {
    ///     req.state::<Db>().transaction(|db| {
    ///         db.execute("INSERT INTO orders (email) VALUES (?)", ["ada@example.org"])?;
    ///         req.enqueue_in(db, Mail::to("ada@example.org").subject("Your order"))?; // `Jobs::sqlite` on the same file
    ///         Ok(())
    ///     })
    /// }
    /// ```
    ///
    /// It begins as a writer, so that it cannot fail with `database is locked` between a read and a write.
    ///
    /// # Errors
    /// The errors of `f` and of the database.
    ///
    /// # Panics
    /// If `f` uses this `Db`, which would wait for itself.
    #[track_caller]
    pub fn transaction<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        self.commit(f).or_here()
    }

    #[track_caller]
    fn commit<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut db = self.lock();
        *lock(&self.transacting) = Some(thread::current().id());
        let _transacting = Transacting(self);
        let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = f(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }
}

fn connect(path: &Path) -> Result<Connection> {
    if path.as_os_str().is_empty() {
        return Err(Error::internal("the path is empty: name a file, such as data/site.db"));
    }
    if path != Path::new(":memory:") {
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        private_files::create_if_missing(path)?;
    }
    let db = Connection::open(path)?;
    db.busy_timeout(BUSY)?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    db.pragma_update(None, "journal_mode", "WAL")?;
    Ok(db)
}

fn migrate(db: &mut Connection, migrations: &[&str]) -> Result<()> {
    let transaction = db.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let applied: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = migrations.len();
    let applied = usize::try_from(applied).unwrap_or(usize::MAX);
    if applied > known {
        let message =
            format!("it has had {applied} migrations, and this program has {known}: it needs a newer program");
        return Err(Error::internal(message));
    }
    for (number, migration) in (1..).zip(migrations).skip(applied) {
        let failed = |error| Error::from(error).context(format!("migration {number} failed"));
        transaction.execute_batch(migration).map_err(failed)?;
        transaction.pragma_update(None, "user_version", number)?;
    }
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAGS: &str = "CREATE TABLE tags (name TEXT UNIQUE) STRICT";

    fn names(db: &Db) -> Vec<(String,)> {
        db.rows("SELECT name FROM tags ORDER BY name", ()).unwrap()
    }

    #[test]
    fn each_migration_is_applied_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/site.db");
        Db::open(&path, &[TAGS]).unwrap();
        let both = [TAGS, "INSERT INTO tags VALUES ('sea')"];
        for _ in 0..2 {
            assert_eq!(names(&Db::open(&path, &both).unwrap()), [("sea".to_owned(),)]);
        }
        let error = Db::open(&path, &[TAGS]).err().unwrap().chain();
        assert!(error.contains("has had 2 migrations, and this program has 1"), "{error}");
        assert!(error.contains("site.db"), "{error}");
    }

    #[test]
    fn a_failed_migration_leaves_the_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.db");
        let error = Db::open(&path, &[TAGS, "INSERT INTO nothing VALUES (1)"]).err().unwrap().chain();
        assert!(error.contains("migration 2 failed"), "{error}");
        Db::open(&path, &[TAGS]).unwrap();
    }

    #[test]
    fn an_error_and_a_panic_roll_a_transaction_back() {
        let db = Db::open(":memory:", &[TAGS]).unwrap();
        let insert = |db: &Transaction<'_>| db.execute("INSERT INTO tags VALUES ('sea')", ());
        let failed: Result<()> = db.transaction(|db| {
            insert(db)?;
            insert(db)?; // it is unique
            Ok(())
        });
        assert!(failed.is_err() && names(&db).is_empty());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _: Result<()> = db.transaction(|db| {
                insert(db)?;
                panic!("in a transaction")
            });
        }));
        assert!(panicked.is_err() && names(&db).is_empty());
        assert_eq!(db.transaction(|db| Ok(insert(db)?)).unwrap(), 1);
        assert_eq!(db.insert("INSERT INTO tags VALUES (?)", ["sky"]).unwrap(), 2);
        assert_eq!(db.execute("DELETE FROM tags WHERE name = ?", ["sky"]).unwrap(), 1);
        assert!(db.insert("INSERT OR IGNORE INTO tags VALUES ('sea')", ()).is_err());
        assert_eq!(db.row::<(String,)>("SELECT name FROM tags", ()).unwrap(), Some(("sea".to_owned(),)));
        assert_eq!(db.row::<(String,)>("SELECT name FROM tags WHERE name = ?", ["sky"]).unwrap(), None);
    }

    #[test]
    fn a_transaction_that_would_wait_for_itself_panics() {
        let db = Db::open(":memory:", &[TAGS]).unwrap();
        let nested =
            std::panic::AssertUnwindSafe(|| db.transaction(|_| db.rows::<(String,)>("SELECT name FROM tags", ())));
        let panic = std::panic::catch_unwind(nested).unwrap_err();
        assert!(panic.downcast::<&str>().unwrap().contains("use the connection of the transaction"));
        assert!(names(&db).is_empty(), "the database stays usable");
    }

    #[cfg(unix)]
    #[test]
    fn only_the_sites_user_can_read_a_new_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("site.db");
        Db::open(&path, &[TAGS]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_not_a_database_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "not a database, but a text that is long enough").unwrap();
        let error = Db::open(&path, &[TAGS]).err().unwrap().chain();
        assert!(error.contains("notes.txt") && error.contains("not a database"), "{error}");
        assert!(Db::open("", &[]).is_err());
    }
}
