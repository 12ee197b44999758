//! The database of the site: its owner, photos, orders and charges, in one SQLite file.
//!
//! There is one connection behind a lock. SQLite allows one writer at a time anyway, the queries take microseconds, and the
//! gallery is cached: a pool of readers would be more code and not faster. Slow work never holds the lock.
//!
//! The site's jobs are in the same file, in separate tables (`aside_…`), so that a record and its job are stored in one
//! transaction: see [`Store::write`]. The operations of a transaction are functions of this module, because the transaction
//! of a job uses another connection (`TaskContext::transaction`).

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aside::Result;
use aside::jobs::rusqlite::{self, Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};

/// The migrations, in order. The file stores how many have been applied (`user_version`): never change one, only add new
/// ones.
///
/// Times are seconds since 1970, money is cents. A charge has its order's number, so that there can be only one.
const MIGRATIONS: [&str; 3] = [
    "CREATE TABLE IF NOT EXISTS photos (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL,
        original TEXT NOT NULL,
        width INTEGER,
        height INTEGER,
        failure TEXT,
        uploaded_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT;
    CREATE TABLE IF NOT EXISTS orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        photo INTEGER NOT NULL REFERENCES photos (id),
        email TEXT NOT NULL,
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        mark TEXT UNIQUE,
        ordered_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT;
    CREATE TABLE IF NOT EXISTS charges (
        \"order\" INTEGER PRIMARY KEY REFERENCES orders (id),
        cents INTEGER NOT NULL,
        charged_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT;",
    // One owner. An order has its own title, so that it outlives its photo. The framework detects forms that are sent twice.
    "CREATE TABLE owner (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        email TEXT NOT NULL,
        password TEXT NOT NULL
    ) STRICT;
    CREATE TABLE new_orders (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        photo INTEGER REFERENCES photos (id) ON DELETE SET NULL,
        title TEXT NOT NULL,
        email TEXT NOT NULL,
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        ordered_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT;
    INSERT INTO new_orders (id, photo, title, email, quantity, ordered_at)
        SELECT orders.id, photo, title, email, quantity, ordered_at FROM orders JOIN photos ON photos.id = photo;
    DROP TABLE orders;
    ALTER TABLE new_orders RENAME TO orders;",
    // The id of the job that makes a photo's sizes; none for a photo from before there were jobs.
    "ALTER TABLE photos ADD COLUMN job INTEGER;",
];

const PHOTO: &str = "SELECT id, title, original, width, height, failure, uploaded_at, job FROM photos";
const ORDER: &str = "SELECT orders.id, photo, orders.title, email, quantity, ordered_at, cents, width
    FROM orders LEFT JOIN photos ON photos.id = photo LEFT JOIN charges ON \"order\" = orders.id";

/// The database of the site.
pub struct Store(Mutex<Connection>);

/// The owner of the site.
#[derive(Debug, Clone)]
pub struct Owner {
    pub id: i64,
    pub email: String,
    /// The password hash of `aside::password`.
    pub password: String,
}

/// A photo and its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Photo {
    pub id: i64,
    pub title: String,
    /// The name of the uploaded file in the folder of originals.
    pub original: String,
    pub state: Prepared,
    pub uploaded_at: i64,
    /// The job that makes or made its sizes.
    pub job: Option<u64>,
}

/// The state of a photo's sizes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    NotYet,
    /// They exist, with the width and height of the largest.
    Ready(u32, u32),
    /// They cannot be made, for this reason.
    Failed(String),
}

/// An order for prints of a photo.
#[derive(Debug, Clone)]
pub struct Order {
    pub id: i64,
    /// `None` after the photo was taken down.
    pub photo: Option<i64>,
    pub title: String,
    pub email: String,
    pub quantity: i64,
    pub ordered_at: i64,
    /// The charged amount, after the charge.
    pub cents: Option<i64>,
    /// Returns true if its sizes exist.
    pub has_picture: bool,
}

impl Photo {
    /// Returns true if its sizes exist or are being made.
    pub fn can_be_printed(&self) -> bool {
        !matches!(self.state, Prepared::Failed(_))
    }
}

impl Store {
    /// Opens the file, and applies missing migrations.
    pub fn open(path: &Path) -> Result<Store> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // After a power failure, an order must exist if the visitor was thanked for it.
        connection.pragma_update(None, "synchronous", "FULL")?;
        migrate(&mut connection)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        Ok(Store(Mutex::new(connection)))
    }

    /// Stores the owner, and returns true if there was none: of two simultaneous signups, only one succeeds.
    pub fn add_owner(&self, email: &str, password: &str) -> Result<Option<Owner>> {
        let insert = "INSERT INTO owner (id, email, password) VALUES (1, ?, ?) ON CONFLICT DO NOTHING";
        let added = self.connection().execute(insert, [email, password])?;
        if added == 0 { Ok(None) } else { self.owner() }
    }

    pub fn owner(&self) -> Result<Option<Owner>> {
        let query = "SELECT id, email, password FROM owner";
        Ok(self.connection().query_row(query, [], owner_in).optional()?)
    }

    pub fn change_password(&self, password: &str) -> Result<()> {
        self.connection().execute("UPDATE owner SET password = ?", [password])?;
        Ok(())
    }

    /// Runs a transaction. `f` must be short and use the functions of this module, since the lock is held while it runs.
    pub fn write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let mut connection = self.connection();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let value = f(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    pub fn photo(&self, id: i64) -> Result<Option<Photo>> {
        photo(&self.connection(), id)
    }

    /// Returns the newest photos first, without failed ones.
    pub fn latest_photos(&self, most: u32) -> Result<Vec<Photo>> {
        let connection = self.connection();
        let mut query =
            connection.prepare_cached(&format!("{PHOTO} WHERE failure IS NULL ORDER BY id DESC LIMIT ?"))?;
        let photos = query.query_map([most], photo_in)?.collect::<rusqlite::Result<_>>()?;
        Ok(photos)
    }

    /// Returns the newest photos first, including failed ones.
    pub fn all_photos(&self, most: u32) -> Result<Vec<Photo>> {
        let connection = self.connection();
        let mut query = connection.prepare_cached(&format!("{PHOTO} ORDER BY id DESC LIMIT ?"))?;
        let photos = query.query_map([most], photo_in)?.collect::<rusqlite::Result<_>>()?;
        Ok(photos)
    }

    pub fn latest_orders(&self, most: u32) -> Result<Vec<Order>> {
        let connection = self.connection();
        let mut query = connection.prepare_cached(&format!("{ORDER} ORDER BY orders.id DESC LIMIT ?"))?;
        let orders = query.query_map([most], order_in)?.collect::<rusqlite::Result<_>>()?;
        Ok(orders)
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic under the lock leaves no transaction open, so the lock can still be used.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Applies the missing migrations in one transaction, once, even if two processes start at the same time.
fn migrate(connection: &mut Connection) -> Result<()> {
    // The process of an isolated job opens the file too: it has no migrations to apply, and must not wait for a lock.
    if seen(connection)? >= MIGRATIONS.len() {
        return Ok(());
    }
    // A migration replaces a table that others refer to.
    connection.pragma_update(None, "foreign_keys", false)?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let seen = seen(&transaction)?;
    MIGRATIONS.iter().skip(seen).try_for_each(|step| transaction.execute_batch(step))?;
    transaction.pragma_update(None, "user_version", seen.max(MIGRATIONS.len()) as u32)?;
    Ok(transaction.commit()?)
}

/// Returns the number of applied migrations.
fn seen(db: &Connection) -> Result<usize> {
    let seen: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    Ok(seen as usize)
}

pub fn photo(db: &Connection, id: i64) -> Result<Option<Photo>> {
    let mut query = db.prepare_cached(&format!("{PHOTO} WHERE id = ?"))?;
    Ok(query.query_row([id], photo_in).optional()?)
}

/// Adds a photo, and returns its number.
pub fn add_photo(db: &Connection, title: &str, original: &str) -> Result<i64> {
    db.execute("INSERT INTO photos (title, original) VALUES (?, ?)", params![title, original])?;
    Ok(db.last_insert_rowid())
}

/// Sets the job that makes a photo's sizes.
pub fn set_job(db: &Connection, id: i64, job: u64) -> Result<()> {
    db.execute("UPDATE photos SET job = ? WHERE id = ?", params![job.cast_signed(), id])?;
    Ok(())
}

/// Sets the state of a photo. It has no effect if the photo was taken down.
pub fn set_state(db: &Connection, id: i64, state: &Prepared) -> Result<()> {
    let (width, height, failure) = match state {
        Prepared::NotYet => (None, None, None),
        Prepared::Ready(width, height) => (Some(width), Some(height), None),
        Prepared::Failed(why) => (None, None, Some(why)),
    };
    let change = "UPDATE photos SET width = ?, height = ?, failure = ? WHERE id = ?";
    db.execute(change, params![width, height, failure, id])?;
    Ok(())
}

/// Removes a photo. Its orders stay, with its title.
pub fn remove_photo(db: &Connection, id: i64) -> Result<()> {
    db.execute("DELETE FROM photos WHERE id = ?", [id])?;
    Ok(())
}

/// Adds an order, and returns its number.
pub fn add_order(db: &Connection, photo: &Photo, email: &str, quantity: i64) -> Result<i64> {
    let insert = "INSERT INTO orders (photo, title, email, quantity) VALUES (?, ?, ?, ?)";
    db.execute(insert, params![photo.id, photo.title, email, quantity])?;
    Ok(db.last_insert_rowid())
}

pub fn order(db: &Connection, id: i64) -> Result<Option<Order>> {
    Ok(db.query_row(&format!("{ORDER} WHERE orders.id = ?"), [id], order_in).optional()?)
}

/// Adds a charge unless the order has one, and returns true if it did.
pub fn charge(db: &Connection, order: i64, cents: i64) -> Result<bool> {
    let insert = "INSERT INTO charges (\"order\", cents) VALUES (?, ?) ON CONFLICT DO NOTHING";
    Ok(db.execute(insert, params![order, cents])? == 1)
}

fn owner_in(row: &Row<'_>) -> rusqlite::Result<Owner> {
    Ok(Owner { id: row.get("id")?, email: row.get("email")?, password: row.get("password")? })
}

fn photo_in(row: &Row<'_>) -> rusqlite::Result<Photo> {
    let size: (Option<u32>, Option<u32>) = (row.get("width")?, row.get("height")?);
    let state = match (size, row.get("failure")?) {
        (_, Some(why)) => Prepared::Failed(why),
        ((Some(width), Some(height)), None) => Prepared::Ready(width, height),
        _ => Prepared::NotYet,
    };
    let (title, original) = (row.get("title")?, row.get("original")?);
    let job = row.get::<_, Option<i64>>("job")?.map(i64::cast_unsigned);
    Ok(Photo { id: row.get("id")?, title, original, state, uploaded_at: row.get("uploaded_at")?, job })
}

fn order_in(row: &Row<'_>) -> rusqlite::Result<Order> {
    Ok(Order {
        id: row.get("id")?,
        photo: row.get("photo")?,
        title: row.get("title")?,
        email: row.get("email")?,
        quantity: row.get("quantity")?,
        ordered_at: row.get("ordered_at")?,
        cents: row.get("cents")?,
        has_picture: row.get::<_, Option<u32>>("width")?.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Store {
        Store::open(Path::new(":memory:")).unwrap()
    }

    #[test]
    fn a_photo_goes_from_pending_to_ready_or_failed() {
        let store = store();
        let add = |title: &str| store.write(|db| add_photo(db, title, "a.jpg")).unwrap();
        let (good, bad) = (add("Harbour"), add("Noise"));
        assert_eq!(store.photo(good).unwrap().unwrap().state, Prepared::NotYet);
        let set = |id, state| store.write(|db| set_state(db, id, &state)).unwrap();
        set(good, Prepared::Ready(1600, 1200));
        set(bad, Prepared::Failed("no image".into()));
        assert_eq!(store.photo(good).unwrap().unwrap().state, Prepared::Ready(1600, 1200));
        assert_eq!(store.photo(bad).unwrap().unwrap().state, Prepared::Failed("no image".into()));
        let latest = store.latest_photos(10).unwrap();
        assert_eq!(latest.iter().map(|photo| photo.id).collect::<Vec<_>>(), [good]);
        assert!(store.photo(999).unwrap().is_none());
        set(999, Prepared::NotYet);
        set(bad, Prepared::NotYet);
        assert_eq!(store.photo(bad).unwrap().unwrap().state, Prepared::NotYet);
    }

    #[test]
    fn a_transaction_is_stored_completely_or_not_at_all() {
        let store = store();
        let refused = store.write(|db| {
            add_photo(db, "Harbour", "a.jpg")?;
            Err::<(), _>(aside::Error::internal("no room for the job"))
        });
        assert!(refused.is_err() && store.all_photos(10).unwrap().is_empty());
        let id = store.write(|db| add_photo(db, "Harbour", "a.jpg")).unwrap();
        store.write(|db| set_job(db, id, u64::MAX)).unwrap();
        assert_eq!(store.photo(id).unwrap().unwrap().job, Some(u64::MAX));
    }

    #[test]
    fn an_order_is_charged_once_and_outlives_its_photo() {
        let store = store();
        let id = store.write(|db| add_photo(db, "Harbour", "a.jpg")).unwrap();
        let photo = store.photo(id).unwrap().unwrap();
        let number = store.write(|db| add_order(db, &photo, "a@b.example", 2)).unwrap();
        let charges = [2_400, 9_900].map(|cents| store.write(|db| charge(db, number, cents)).unwrap());
        assert_eq!(charges, [true, false]);
        let find = || store.write(|db| order(db, number)).unwrap().unwrap();
        assert_eq!(find().cents, Some(2_400));
        store.write(|db| remove_photo(db, id)).unwrap();
        let order = find();
        assert_eq!((order.photo, order.title.as_str(), order.cents), (None, "Harbour", Some(2_400)));
        assert_eq!((store.latest_orders(10).unwrap().len(), store.all_photos(10).unwrap().len()), (1, 0));
    }

    #[test]
    fn only_the_first_owner_is_stored() {
        let store = store();
        assert!(store.owner().unwrap().is_none());
        assert!(store.add_owner("ada@example.org", "a hash").unwrap().is_some());
        assert!(store.add_owner("eve@example.org", "another").unwrap().is_none());
        store.change_password("a new hash").unwrap();
        let owner = store.owner().unwrap().unwrap();
        assert_eq!((owner.email.as_str(), owner.password.as_str()), ("ada@example.org", "a new hash"));
    }

    #[test]
    fn a_file_of_the_first_version_keeps_its_data() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("darkroom.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(MIGRATIONS[0]).unwrap();
        old.execute_batch(
            "INSERT INTO photos (title, original, width, height) VALUES ('Harbour', 'a.jpg', 800, 600);
            INSERT INTO orders (id, photo, email, quantity, mark) VALUES (7, 1, 'ada@example.org', 2, 'x');
            INSERT INTO charges VALUES (7, 2400, 1);",
        )
        .unwrap();
        drop(old);
        for _ in 0..2 {
            let store = Store::open(&path).unwrap();
            let order = store.write(|db| order(db, 7)).unwrap().unwrap();
            assert_eq!((order.title.as_str(), order.cents, order.has_picture), ("Harbour", Some(2_400), true));
        }
        let store = Store::open(&path).unwrap();
        let photo = store.photo(1).unwrap().unwrap();
        assert_eq!((photo.state, photo.job), (Prepared::Ready(800, 600), None));
        let photo = store.photo(1).unwrap().unwrap();
        let next = store.write(|db| add_order(db, &photo, "ada@example.org", 1)).unwrap();
        store.write(|db| charge(db, next, 1_200)).unwrap();
        let of_none = store.write(|db| charge(db, 99, 1));
        assert!(next == 8 && of_none.is_err(), "a charge still belongs to an order");
    }
}
