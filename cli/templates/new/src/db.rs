//! The database of the site, an SQLite file.

use std::path::Path;

use aside::Result;
use aside::sqlite::Db;

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

/// Opens the database in this folder, and applies the missing migrations.
pub fn open(data: &Path) -> Result<Db> {
    Db::open(data.join(FILE), MIGRATIONS)
}
