//! Detection of lost jobs on a Redis server: its last job number only rises while no data is lost.

use std::sync::Mutex;

use crate::jobs::record::JobCounts;
use crate::sync::lock;

/// The last state of a server that this process has seen.
#[derive(Default)]
pub(super) struct Losses(Mutex<Snapshot>);

/// The state of a server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// The last job number that the server has assigned.
    pub(super) last_id: u64,
    pub(super) counts: JobCounts,
}

impl Losses {
    /// Returns the last state seen. Call it before the server is queried: only then is a lower number of the server a loss.
    pub(super) fn snapshot(&self) -> Snapshot {
        *lock(&self.0)
    }

    /// Records the number of a job that the server has acknowledged.
    pub(super) fn note(&self, id: Option<u64>) {
        let mut snapshot = lock(&self.0);
        snapshot.last_id = snapshot.last_id.max(id.unwrap_or(0));
    }

    /// Records the current state of the server. Returns true if it has lost jobs since the last one.
    pub(super) fn compare(&self, before: Snapshot, now: Snapshot) -> bool {
        let mut snapshot = lock(&self.0);
        *snapshot = Snapshot { last_id: snapshot.last_id.max(now.last_id), counts: now.counts };
        now.last_id < before.last_id
    }
}

/// Describes the loss for the log.
pub(super) fn message(before: Snapshot, now: Snapshot) -> String {
    format!(
        "has lost jobs that it had acknowledged: its last job number was {} and is now {}. It had {}; now it has {}. Restore \
         the lost jobs from a backup of its file. Set appendonly yes to keep jobs over a restart, and promote a replica \
         only if it is up to date.",
        before.last_id,
        now.last_id,
        list(before.counts),
        list(now.counts)
    )
}

fn list(counts: JobCounts) -> String {
    let JobCounts { waiting, scheduled, running, dead, .. } = counts;
    format!("{waiting} waiting, {scheduled} scheduled, {running} running and {dead} dead")
}
