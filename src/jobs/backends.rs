//! The engines, by the setting that names them.

use super::facade::Jobs;
use super::memory::Memory;
use crate::bounds;
use crate::error::{Error, OrHere, Result};

impl Jobs {
    /// Stores jobs in memory, where they are lost when the process ends: for tests and for a start.
    pub fn memory() -> Jobs {
        Jobs::on(Memory::new())
    }

    /// Opens the store that a setting names: `sqlite:PATH`, `redis://HOST:PORT/DATABASE` or `memory:`.
    ///
    /// ```
    /// # fn main() -> aside::Result<()> {
    /// let jobs = aside::Jobs::open("memory:")?; // or std::env::var("ASIDE_JOBS")
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An error if the setting names no engine, an engine that this program was built without, or one that cannot be
    /// opened.
    #[track_caller]
    pub fn open(setting: &str) -> Result<Jobs> {
        match setting.split_once(':') {
            Some(("memory", "")) => Ok(Jobs::memory()),
            Some(("sqlite", path)) if !path.is_empty() => sqlite(path),
            Some(("redis" | "rediss" | "redis+unix", _)) => redis(setting),
            _ => Err(Error::internal(format!(
                "{} does not name a job store: write `sqlite:PATH`, `redis://HOST:PORT/DATABASE` or `memory:`",
                shown(setting)
            ))),
        }
        .or_here()
    }

    /// Stores jobs in a SQLite file, which is created if it is missing.
    ///
    /// The file can be the application's own: then a job can be enqueued and completed in one transaction with other
    /// writes ([`enqueue_in`](Jobs::enqueue_in), [`TaskContext::transaction`](crate::TaskContext::transaction)).
    /// Several processes on one machine may use one file.
    ///
    /// # Errors
    /// An error if the file cannot be opened, is damaged, or was written by a later version.
    #[cfg(feature = "sqlite")]
    #[track_caller]
    pub fn sqlite(path: impl AsRef<std::path::Path>) -> Result<Jobs> {
        Ok(Jobs::on(super::sqlite::Sqlite::open(path.as_ref()).or_here()?))
    }

    /// Stores jobs in Redis, 7.0 or later, with persistence: for more than one machine. `redis://:password@host:6379/0`, or
    /// `rediss://…` with TLS: the operating system, or the file that `SSL_CERT_FILE` names, must trust the server's
    /// certificate, and it must be valid for the host.
    ///
    /// An unreachable server is not an error here: pages are served, enqueuing a job returns 503, and jobs start when the
    /// server is available. Settings that may lose jobs are logged when the application starts.
    ///
    /// # Errors
    /// An error if the URL is invalid, the server refuses the connection, or the server would evict jobs when its memory is
    /// full.
    #[cfg(feature = "redis")]
    #[track_caller]
    pub fn redis(url: &str) -> Result<Jobs> {
        Ok(Jobs::on(super::redis::Redis::open(url).or_here()?))
    }
}

/// Returns a setting for a message, without what may be a password.
fn shown(setting: &str) -> String {
    match setting.contains('@') {
        true => "the setting".to_owned(),
        false => format!("`{}`", bounds::shorten(setting, 100)),
    }
}

#[cfg(feature = "sqlite")]
fn sqlite(path: &str) -> Result<Jobs> {
    Jobs::sqlite(path)
}

#[cfg(not(feature = "sqlite"))]
fn sqlite(_path: &str) -> Result<Jobs> {
    Err(Error::internal("`sqlite:` needs the feature `sqlite`, which this program was built without"))
}

#[cfg(feature = "redis")]
fn redis(url: &str) -> Result<Jobs> {
    Jobs::redis(url)
}

#[cfg(not(feature = "redis"))]
fn redis(_url: &str) -> Result<Jobs> {
    Err(Error::internal("`redis://` needs the feature `redis`, which this program was built without"))
}
