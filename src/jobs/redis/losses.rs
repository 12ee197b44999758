//! Jobs that a server had and has no more: noticed by its last number, which only rises while nothing is lost.

use std::sync::Mutex;

use crate::jobs::record::JobCounts;
use crate::sync::lock;

/// What a server has, as far as this process has seen it.
#[derive(Default)]
pub(super) struct Losses(Mutex<Stock>);

/// What a server has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stock {
    /// The last number that it has given to a job.
    pub(super) last_id: u64,
    pub(super) counts: JobCounts,
}

impl Losses {
    /// What was seen last. To be asked before the server is: only then a lower number of its says something.
    pub(super) fn stock(&self) -> Stock {
        *lock(&self.0)
    }

    /// Takes note of the number of a job that the server has acknowledged.
    pub(super) fn note(&self, id: Option<u64>) {
        let mut stock = lock(&self.0);
        stock.last_id = stock.last_id.max(id.unwrap_or(0));
    }

    /// Takes note of what the server has now. Returns true if it has lost jobs since.
    pub(super) fn compare(&self, before: Stock, now: Stock) -> bool {
        let mut stock = lock(&self.0);
        *stock = Stock { last_id: stock.last_id.max(now.last_id), counts: now.counts };
        now.last_id < before.last_id
    }
}

/// What was lost, for the log.
pub(super) fn words(before: Stock, now: Stock) -> String {
    format!(
        "has lost jobs that it had acknowledged: it had given the numbers up to {}, and knows of those up to {}. It had {}; now it \
         has {}. What is not there comes back only with a backup of its file; appendonly yes keeps jobs over a restart, and \
         a replica has to have everything before it takes over.",
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
