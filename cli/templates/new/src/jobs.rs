//! The jobs of the site: work that must survive a crash. They are stored in the site's database.

use std::path::Path;

use aside::{Jobs, Result};

use crate::db;

/// Opens the store of the jobs, which is in the file of the database.
pub fn open(data: &Path) -> Result<Jobs> {
    let jobs = Jobs::sqlite(data.join(db::FILE))?;
    Ok(jobs.register::<__job__>())
}
