//! What the site remembers: photos, orders, charges, in one SQLite file.
//!
//! One connection behind a lock. SQLite has one writer at a time in any case, the queries here take microseconds, and the
//! gallery comes from the cache: a pool of readers would be more code and no faster. Nothing slow happens under the lock.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aside::Result;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Times are seconds since 1970, money is cents. A charge has its order's number, so that there can be only one.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS photos (
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
    ) STRICT;
";

const PHOTO: &str = "SELECT id, title, original, width, height, failure, uploaded_at FROM photos";
const ORDER: &str = "SELECT orders.id, photo, title, email, quantity, ordered_at, cents, width
    FROM orders JOIN photos ON photos.id = photo LEFT JOIN charges ON \"order\" = orders.id";

/// The site's memory.
pub struct Store(Mutex<Connection>);

/// A photo, and how far it is.
#[derive(Debug, Clone)]
pub struct Photo {
    pub id: i64,
    pub title: String,
    /// The file that was uploaded, by its name in the folder of originals.
    pub original: String,
    pub state: Prepared,
    pub uploaded_at: i64,
}

/// Whether a photo's sizes are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    NotYet,
    /// With the width and height of the largest.
    Ready(u32, u32),
    /// They cannot be made, for this reason.
    Failed(String),
}

/// An order for prints of a photo.
#[derive(Debug, Clone)]
pub struct Order {
    pub id: i64,
    pub photo: i64,
    pub title: String,
    pub email: String,
    pub quantity: i64,
    pub ordered_at: i64,
    /// What was charged for it, once it was.
    pub cents: Option<i64>,
    /// Whether there is a picture of it to show.
    pub has_picture: bool,
}

impl Photo {
    /// Whether there is, or will be, a picture.
    pub fn can_be_printed(&self) -> bool {
        !matches!(self.state, Prepared::Failed(_))
    }
}

impl Store {
    /// Opens the file, and makes it and its tables where they are missing.
    pub fn open(path: &Path) -> Result<Store> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Store(Mutex::new(connection)))
    }

    pub fn add_photo(&self, title: &str, original: &str) -> Result<i64> {
        let connection = self.connection();
        connection.execute("INSERT INTO photos (title, original) VALUES (?, ?)", params![title, original])?;
        Ok(connection.last_insert_rowid())
    }

    pub fn photo(&self, id: i64) -> Result<Option<Photo>> {
        let connection = self.connection();
        let mut query = connection.prepare_cached(&format!("{PHOTO} WHERE id = ?"))?;
        Ok(query.query_row([id], photo).optional()?)
    }

    /// The newest photos first, without those that came to nothing.
    pub fn latest_photos(&self, most: u32) -> Result<Vec<Photo>> {
        let connection = self.connection();
        let mut query =
            connection.prepare_cached(&format!("{PHOTO} WHERE failure IS NULL ORDER BY id DESC LIMIT ?"))?;
        let photos = query.query_map([most], photo)?.collect::<rusqlite::Result<_>>()?;
        Ok(photos)
    }

    pub fn photo_is_ready(&self, id: i64, width: u32, height: u32) -> Result<()> {
        let change = "UPDATE photos SET width = ?, height = ?, failure = NULL WHERE id = ?";
        self.connection().execute(change, params![width, height, id])?;
        Ok(())
    }

    pub fn photo_failed(&self, id: i64, why: &str) -> Result<()> {
        self.connection().execute("UPDATE photos SET failure = ? WHERE id = ?", params![why, id])?;
        Ok(())
    }

    /// The new order's number; none when the form with that mark has been sent before.
    pub fn add_order(&self, photo: i64, email: &str, quantity: i64, mark: Option<&str>) -> Result<Option<i64>> {
        let connection = self.connection();
        let insert = "INSERT INTO orders (photo, email, quantity, mark) VALUES (?, ?, ?, ?)
            ON CONFLICT (mark) DO NOTHING RETURNING id";
        let values = params![photo, email, quantity, mark];
        Ok(connection.query_row(insert, values, |row| row.get(0)).optional()?)
    }

    pub fn order(&self, id: i64) -> Result<Option<Order>> {
        let connection = self.connection();
        Ok(connection.query_row(&format!("{ORDER} WHERE orders.id = ?"), [id], order).optional()?)
    }

    pub fn latest_orders(&self, most: u32) -> Result<Vec<Order>> {
        let connection = self.connection();
        let mut query = connection.prepare_cached(&format!("{ORDER} ORDER BY orders.id DESC LIMIT ?"))?;
        let orders = query.query_map([most], order)?.collect::<rusqlite::Result<_>>()?;
        Ok(orders)
    }

    /// Writes a charge down. A second one for the same order changes nothing.
    pub fn charge(&self, order: i64, cents: i64) -> Result<()> {
        let insert = "INSERT INTO charges (\"order\", cents) VALUES (?, ?) ON CONFLICT DO NOTHING";
        self.connection().execute(insert, params![order, cents])?;
        Ok(())
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // A panic under the lock leaves no transaction open: SQLite has the last whole statement.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn photo(row: &Row<'_>) -> rusqlite::Result<Photo> {
    let size: (Option<u32>, Option<u32>) = (row.get("width")?, row.get("height")?);
    let state = match (size, row.get("failure")?) {
        (_, Some(why)) => Prepared::Failed(why),
        ((Some(width), Some(height)), None) => Prepared::Ready(width, height),
        _ => Prepared::NotYet,
    };
    let (title, original) = (row.get("title")?, row.get("original")?);
    Ok(Photo { id: row.get("id")?, title, original, state, uploaded_at: row.get("uploaded_at")? })
}

fn order(row: &Row<'_>) -> rusqlite::Result<Order> {
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
    fn a_photo_goes_from_not_yet_to_ready_or_failed() {
        let store = store();
        let (good, bad) = (store.add_photo("Harbour", "a.jpg").unwrap(), store.add_photo("Noise", "b.jpg").unwrap());
        assert_eq!(store.photo(good).unwrap().unwrap().state, Prepared::NotYet);
        store.photo_is_ready(good, 1600, 1200).unwrap();
        store.photo_failed(bad, "no image").unwrap();
        assert_eq!(store.photo(good).unwrap().unwrap().state, Prepared::Ready(1600, 1200));
        assert_eq!(store.photo(bad).unwrap().unwrap().state, Prepared::Failed("no image".into()));
        let latest = store.latest_photos(10).unwrap();
        assert_eq!(latest.iter().map(|photo| photo.id).collect::<Vec<_>>(), [good]);
        assert!(store.photo(999).unwrap().is_none());
    }

    #[test]
    fn a_form_makes_one_order_and_an_order_one_charge() {
        let store = store();
        let photo = store.add_photo("Harbour", "a.jpg").unwrap();
        let order = |mark| store.add_order(photo, "a@b.example", 2, mark).unwrap();
        let id = order(Some("x")).unwrap();
        assert_eq!(order(Some("x")), None);
        assert!(order(None).is_some() && order(None).is_some());
        store.charge(id, 2_400).unwrap();
        store.charge(id, 9_900).unwrap();
        assert_eq!(store.order(id).unwrap().unwrap().cents, Some(2_400));
        assert_eq!(store.latest_orders(10).unwrap().len(), 3);
    }
}
