//! The liveness of workers, by the locks that their processes hold and by their heartbeats.
//!
//! The operating system releases the locks of a process when it ends, for whatever reason. If the lock of a worker can
//! be taken, the worker is dead, and its jobs are released before its lease expires. A process that is suspended or
//! hangs keeps its lock: for it the lease counts.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::statements::SuspectedWorker;
use crate::error::{Error, Result};
use crate::private_files;
use crate::random;
use crate::sync::lock;

/// The shortest gap between two observations after which the earlier one is too old to expire a lease.
const MAX_GAP: Duration = Duration::from_secs(5);

/// The part of a lock file's name between the name of the database and the id of the worker.
const MARK: &str = "-worker-";

/// The locks of one engine, and its observations of all workers.
pub(super) struct Workers {
    /// The database file; `None` for an in-memory database, which no other process can use.
    file: Option<PathBuf>,
    locks: Mutex<HashMap<String, File>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    heartbeats: HashMap<String, (i64, Instant)>,
    observed_at: Option<Instant>,
}

/// The liveness of a worker according to its lock.
#[derive(Debug, PartialEq, Eq)]
enum Liveness {
    Alive,
    Dead,
    /// The lock cannot be checked.
    Unknown,
}

impl Workers {
    pub(super) fn new(file: Option<&Path>) -> Workers {
        Workers { file: file.map(Path::to_owned), locks: Mutex::default(), seen: Mutex::default() }
    }

    /// Returns the id of a new worker, and true if it holds a lock.
    pub(super) fn begin(&self) -> Result<(String, bool)> {
        loop {
            let id = new_id()?;
            let Some(path) = self.path(&id) else { return Ok((id, false)) };
            match take(&path) {
                Ok(Some(file)) => {
                    lock(&self.locks).insert(id.clone(), file);
                    return Ok((id, true));
                }
                // Another process deleted the file as stale before it was locked.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    let _ = fs::remove_file(path);
                    return Ok((id, false));
                }
                Err(error) => {
                    let message = format!(
                        "could not create {}, the lock file that shows that this process is alive",
                        path.display()
                    );
                    return Err(Error::from(error).context(message));
                }
            }
        }
    }

    /// Releases the lock of a worker, and deletes its file: for workers of this process, and for dead ones.
    pub(super) fn end(&self, id: &str) {
        if let Some(path) = self.path(id) {
            let _ = fs::remove_file(path);
        }
        lock(&self.locks).remove(id);
    }

    /// Returns the workers that are dead by their locks, or expired by their heartbeats.
    pub(super) fn suspected(
        &self,
        workers: &[(String, i64, bool)],
        lease: Duration,
        at: Instant,
    ) -> Vec<SuspectedWorker> {
        let expired = lock(&self.seen).expired(workers, lease, at);
        let suspected = workers.iter().filter_map(|(id, heartbeat, has_lock)| match self.liveness(id, *has_lock) {
            Liveness::Dead => Some(SuspectedWorker { worker: id.clone(), heartbeat: None }),
            _ => expired.contains(id).then(|| SuspectedWorker { worker: id.clone(), heartbeat: Some(*heartbeat) }),
        });
        suspected.collect()
    }

    fn liveness(&self, id: &str, has_lock: bool) -> Liveness {
        let Some(path) = self.path(id).filter(|_| has_lock) else { return Liveness::Unknown };
        if lock(&self.locks).contains_key(id) {
            return Liveness::Alive;
        }
        match File::open(path).map(|file| file.try_lock()) {
            Ok(Ok(())) => Liveness::Dead,
            Ok(Err(TryLockError::WouldBlock)) => Liveness::Alive,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Liveness::Dead,
            _ => Liveness::Unknown,
        }
    }

    /// Deletes lock files that no process holds, of processes that ended while they joined or left. A worker that is
    /// still registered is dead without its file just as with an unlocked one.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let (Some(folder), Some(prefix)) = (file.parent(), self.path("")) else { return Ok(()) };
        let Some(prefix) = prefix.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { return Ok(()) };
        for entry in fs::read_dir(folder)?.flatten() {
            if !entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                continue;
            }
            // Deleted while the lock is held: a process that has just created the file notices this, and creates
            // another.
            let held =
                File::open(entry.path()).and_then(|file| file.try_lock().map(|()| file).map_err(io::Error::from));
            if held.is_ok() {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn path(&self, id: &str) -> Option<PathBuf> {
        let mut path = self.file.as_ref()?.clone().into_os_string();
        path.push(MARK);
        path.push(id);
        Some(path.into())
    }
}

impl Seen {
    /// Returns the workers without a heartbeat for a whole lease.
    ///
    /// If the last observation was too long ago, this process was suspended (it was stopped, or the machine slept), and
    /// others may have been too: each lease then starts again.
    fn expired(&mut self, workers: &[(String, i64, bool)], lease: Duration, at: Instant) -> Vec<String> {
        let max_gap = MAX_GAP.max(lease / 2);
        let was_suspended =
            self.observed_at.is_none_or(|observed_at| at.saturating_duration_since(observed_at) > max_gap);
        self.observed_at = Some(at);
        let (mut heartbeats, mut expired) = (HashMap::new(), Vec::new());
        for (id, heartbeat, _) in workers {
            let seen = self.heartbeats.get(id).filter(|(seen, _)| seen == heartbeat && !was_suspended);
            if seen.is_some_and(|(_, since)| at.saturating_duration_since(*since) >= lease) {
                expired.push(id.clone());
            }
            heartbeats.insert(id.clone(), seen.copied().unwrap_or((*heartbeat, at)));
        }
        self.heartbeats = heartbeats;
        expired
    }
}

/// Returns a unique id. It contains the process id, for people who read it.
fn new_id() -> Result<String> {
    Ok(format!("{}-{}", std::process::id(), random::hex(&random::bytes::<8>()?)))
}

/// Creates a file and locks it; `None` if another process has deleted it. Child processes do not inherit it: the
/// standard library opens files with close-on-exec.
fn take(path: &Path) -> io::Result<Option<File>> {
    let file = private_files::create_new(path)?;
    match file.try_lock() {
        Ok(()) => Ok(path.exists().then_some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(8);

    /// Returns the time of a simulated clock.
    fn at(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    fn worker(heartbeat: i64) -> [(String, i64, bool); 1] {
        [("w".to_owned(), heartbeat, false)]
    }

    #[test]
    fn a_worker_without_heartbeats_expires_after_a_lease() {
        let (mut seen, began) = (Seen::default(), Instant::now());
        for second in [0, 3, 6] {
            assert!(seen.expired(&worker(1), LEASE, at(began, second)).is_empty());
        }
        assert!(seen.expired(&worker(2), LEASE, at(began, 9)).is_empty(), "it has beaten");
        assert!(seen.expired(&worker(2), LEASE, at(began, 13)).is_empty());
        assert_eq!(seen.expired(&worker(2), LEASE, at(began, 17)), ["w"]);
    }

    #[test]
    fn a_suspended_process_grants_every_worker_a_new_lease() {
        let (mut seen, began) = (Seen::default(), Instant::now());
        assert!(seen.expired(&worker(1), LEASE, at(began, 0)).is_empty());
        assert!(seen.expired(&worker(1), LEASE, at(began, 60)).is_empty());
        assert!(seen.expired(&worker(1), LEASE, at(began, 64)).is_empty());
        assert_eq!(seen.expired(&worker(1), LEASE, at(began, 68)), ["w"]);
    }
}
