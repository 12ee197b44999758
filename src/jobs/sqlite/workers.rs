//! Who lives: the locks that processes hold as long as they do, and the beats that were seen.
//!
//! The system lets go of a lock with the process that had it, however that ended. So who can take a worker's lock knows that
//! it is dead, and need not wait for its lease. A process that was stopped, or hangs, keeps its lock: for it the lease counts.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::statements::Silent;
use crate::error::{Error, Result};
use crate::private_files;
use crate::sync::lock;

/// How long nobody may have looked for life, at the least, before what was seen is too old to say who is gone.
const BLINK: Duration = Duration::from_secs(5);

/// What stands between the name of the database and the worker in the name of a lock file.
const MARK: &str = "-worker-";

/// The locks of one handle, and what it has seen of all workers.
pub(super) struct Workers {
    /// The database; none for one in memory, which has nobody else.
    file: Option<PathBuf>,
    locks: Mutex<HashMap<String, File>>,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    beats: HashMap<String, (i64, Instant)>,
    looked_at: Option<Instant>,
}

/// What a worker's lock says of it.
#[derive(Debug, PartialEq, Eq)]
enum Life {
    Lives,
    Dead,
    /// No lock can tell.
    Unknown,
}

impl Workers {
    pub(super) fn new(file: Option<&Path>) -> Workers {
        Workers { file: file.map(Path::to_owned), locks: Mutex::default(), seen: Mutex::default() }
    }

    /// A new worker's id, and whether it holds a lock.
    pub(super) fn begin(&self) -> Result<(String, bool)> {
        loop {
            let id = new_id()?;
            let Some(path) = self.path(&id) else { return Ok((id, false)) };
            match take(&path) {
                Ok(Some(file)) => {
                    lock(&self.locks).insert(id.clone(), file);
                    return Ok((id, true));
                }
                // Somebody took it for left over in the moment before it was locked.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    let _ = fs::remove_file(path);
                    return Ok((id, false));
                }
                Err(error) => {
                    let words =
                        format!("{} cannot be made, which shows other processes that this one lives", path.display());
                    return Err(Error::from(error).context(words));
                }
            }
        }
    }

    /// Lets go of a worker's lock, and takes its file away. For one's own workers, and for dead ones.
    pub(super) fn end(&self, id: &str) {
        if let Some(path) = self.path(id) {
            let _ = fs::remove_file(path);
        }
        lock(&self.locks).remove(id);
    }

    /// Those that are gone, by their locks or by their beats.
    pub(super) fn silent(&self, workers: &[(String, i64, bool)], lease: Duration, at: Instant) -> Vec<Silent> {
        let expired = lock(&self.seen).expired(workers, lease, at);
        let silent = workers.iter().filter_map(|(id, beat, has_lock)| match self.life(id, *has_lock) {
            Life::Dead => Some(Silent { worker: id.clone(), beat: None }),
            _ => expired.contains(id).then(|| Silent { worker: id.clone(), beat: Some(*beat) }),
        });
        silent.collect()
    }

    fn life(&self, id: &str, has_lock: bool) -> Life {
        let Some(path) = self.path(id).filter(|_| has_lock) else { return Life::Unknown };
        if lock(&self.locks).contains_key(id) {
            return Life::Lives;
        }
        match File::open(path).map(|file| file.try_lock()) {
            Ok(Ok(())) => Life::Dead,
            Ok(Err(TryLockError::WouldBlock)) => Life::Lives,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Life::Dead,
            _ => Life::Unknown,
        }
    }

    /// Takes away lock files that nobody holds: of processes that ended as they began or left. Where a worker is still known
    /// by that name, it is as dead without its file as with one that can be locked.
    pub(super) fn sweep(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let (Some(folder), Some(prefix)) = (file.parent(), self.path("")) else { return Ok(()) };
        let Some(prefix) = prefix.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { return Ok(()) };
        for entry in fs::read_dir(folder)?.flatten() {
            if !entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
                continue;
            }
            // With its lock in hand: whoever has just made it sees that and makes another.
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
    /// The workers of which no beat was seen for a lease.
    ///
    /// Where nobody looked for long, this process stood still (it was stopped, or the machine slept), and maybe all did:
    /// everybody then has a lease from now on.
    fn expired(&mut self, workers: &[(String, i64, bool)], lease: Duration, at: Instant) -> Vec<String> {
        let blink = BLINK.max(lease / 2);
        let stood_still = self.looked_at.is_none_or(|looked_at| at.saturating_duration_since(looked_at) > blink);
        self.looked_at = Some(at);
        let (mut beats, mut expired) = (HashMap::new(), Vec::new());
        for (id, beat, _) in workers {
            let seen = self.beats.get(id).filter(|(seen, _)| seen == beat && !stood_still);
            if seen.is_some_and(|(_, since)| at.saturating_duration_since(*since) >= lease) {
                expired.push(id.clone());
            }
            beats.insert(id.clone(), seen.copied().unwrap_or((*beat, at)));
        }
        self.beats = beats;
        expired
    }
}

/// An id that nobody else has; the process's number is there for people.
fn new_id() -> Result<String> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| Error::internal(format!("no random numbers: {error}")))?;
    Ok(format!("{}-{:016x}", std::process::id(), u64::from_le_bytes(random)))
}

/// Makes that file and locks it; none when somebody took it away meanwhile. Children do not inherit it: the standard library
/// opens files so that they are closed in what a child runs.
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

    /// A clock that is set by hand.
    fn at(began: Instant, seconds: u64) -> Instant {
        began + Duration::from_secs(seconds)
    }

    fn worker(beat: i64) -> [(String, i64, bool); 1] {
        [("w".to_owned(), beat, false)]
    }

    #[test]
    fn without_a_beat_for_a_lease_it_is_gone() {
        let (mut seen, began) = (Seen::default(), Instant::now());
        for second in [0, 3, 6] {
            assert!(seen.expired(&worker(1), LEASE, at(began, second)).is_empty());
        }
        assert!(seen.expired(&worker(2), LEASE, at(began, 9)).is_empty(), "it has beaten");
        assert!(seen.expired(&worker(2), LEASE, at(began, 13)).is_empty());
        assert_eq!(seen.expired(&worker(2), LEASE, at(began, 17)), ["w"]);
    }

    #[test]
    fn whoever_stood_still_grants_everybody_a_lease() {
        let (mut seen, began) = (Seen::default(), Instant::now());
        assert!(seen.expired(&worker(1), LEASE, at(began, 0)).is_empty());
        assert!(seen.expired(&worker(1), LEASE, at(began, 60)).is_empty());
        assert!(seen.expired(&worker(1), LEASE, at(began, 64)).is_empty());
        assert_eq!(seen.expired(&worker(1), LEASE, at(began, 68)), ["w"]);
    }
}
