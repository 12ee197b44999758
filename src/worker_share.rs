//! Limits on the number of workers that wait for the same kind of resource.
//!
//! A worker that waits, for password hashing or for a value that another thread computes, serves no other request. Without
//! a limit, one slow resource that many clients request occupies all workers, and unrelated pages are not served. A worker
//! therefore asks for permission before it waits ([`wait`]). Above the limit its request gets 503 with `Retry-After`.
//! Threads that are not workers (tasks, jobs, commands) wait without limit.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result, Status};
use crate::log_limit::LogLimit;
use crate::sync::lock;

/// The `Retry-After` of a refused request, in seconds.
pub(crate) const RETRY_AFTER: u32 = 5;

/// The resources that workers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// `password::hash` and `password::verify`.
    Hashing,
    /// A permit of a `Pool`.
    Pool,
    /// A value that another thread computes for a `Cache`.
    Cache,
    /// The response to the first of two identical forms: `Request::once`.
    Once,
    /// The body of a request.
    Body,
    /// The end of a job: `Jobs::wait`.
    Job,
    /// Memory for an image.
    #[cfg_attr(not(feature = "image"), expect(dead_code, reason = "images are another feature"))]
    Image,
}

const KINDS: usize = 7;

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wait::Hashing => "password hashing",
            Wait::Pool => "a permit of a Pool",
            Wait::Cache => "a value of a Cache that another thread computes",
            Wait::Once => "the response to an equal form (Request::once)",
            Wait::Body => "request bodies",
            Wait::Job => "the end of a job (Jobs::wait)",
            Wait::Image => "memory for images (ASIDE_MAX_IMAGE_MEMORY)",
        })
    }
}

/// The limits on one server's workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// All workers.
    pub(crate) workers: usize,
    /// The limit for each kind except bodies.
    pub(crate) each: usize,
    pub(crate) bodies: usize,
}

impl Bounds {
    fn of(&self, wait: Wait) -> usize {
        if wait == Wait::Body { self.bodies } else { self.each }
    }

    /// The limit for all kinds together: a quarter of the workers is left for requests that do not wait.
    fn all(&self) -> usize {
        (self.workers - self.workers / 4).min(self.workers.saturating_sub(1)).max(1)
    }
}

/// The shares of one server's workers.
#[derive(Debug)]
pub(crate) struct Shares {
    bounds: Bounds,
    taken: Mutex<[usize; KINDS]>,
    away: AtomicUsize,
    refusals: [LogLimit; KINDS],
}

thread_local! {
    /// The server that this thread works for.
    static WORKER_OF: RefCell<Option<Arc<Shares>>> = const { RefCell::new(None) };
}

impl Shares {
    pub(crate) fn new(bounds: Bounds) -> Arc<Shares> {
        Arc::new(Shares { bounds, taken: Mutex::default(), away: AtomicUsize::new(0), refusals: Default::default() })
    }

    /// Makes this thread a worker until it ends.
    pub(crate) fn enter(self: &Arc<Shares>) {
        WORKER_OF.set(Some(self.clone()));
    }

    /// Returns true if one more worker may wait.
    #[cfg_attr(not(all(feature = "epoll", target_os = "linux")), allow(dead_code))]
    pub(crate) fn has_capacity(&self, wait: Wait) -> bool {
        self.admits(&lock(&self.taken), wait)
    }

    fn admits(&self, taken: &[usize; KINDS], wait: Wait) -> bool {
        taken[wait as usize] < self.bounds.of(wait) && taken.iter().sum::<usize>() < self.bounds.all()
    }

    /// Permits one worker to wait, if fewer than the limit do.
    pub(crate) fn take(self: &Arc<Shares>, wait: Wait) -> Option<Share> {
        let mut taken = lock(&self.taken);
        self.admits(&taken, wait).then(|| {
            taken[wait as usize] += 1;
            Share { shares: self.clone(), wait }
        })
    }

    /// Returns the number of absent workers, by which the pool may exceed its maximum.
    pub(crate) fn away(&self) -> usize {
        self.away.load(Ordering::Acquire)
    }

    fn mark_absent(self: Arc<Shares>) -> Option<Away> {
        let one_more = |away: usize| (away < self.bounds.workers).then_some(away + 1);
        self.away.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).ok()?;
        Some(Away(self))
    }

    /// Returns the error for a request that would have to wait, and logs it once a minute.
    pub(crate) fn refuse(&self, wait: Wait) -> Error {
        if let Some(count) = self.refusals[wait as usize].count() {
            let (taken, workers) = (lock(&self.taken)[wait as usize], self.bounds.workers);
            let setting = if wait == Wait::Body { "ASIDE_MAX_UPLOADS" } else { "ASIDE_MAX_WAITING" };
            log::warn!(
                target: "aside::server",
                "Requests refused with 503: {count}. The number of workers that wait for {wait} is at its limit: {taken} of \
                 {workers} ({setting}, ASIDE_MAX_WORKERS)."
            );
        }
        busy(wait.to_string())
    }
}

/// A worker's permission to wait, until dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    wait: Wait,
}

impl Drop for Share {
    fn drop(&mut self) {
        lock(&self.shares.taken)[self.wait as usize] -= 1;
    }
}

/// Asks for permission to wait on this thread. Threads that are not workers always get it.
///
/// # Errors
/// 503 if the limit of the workers is reached.
pub(crate) fn wait(wait: Wait) -> Result<Option<Share>> {
    let shares = WORKER_OF.with_borrow(Option::clone);
    let Some(shares) = shares else { return Ok(None) };
    shares.take(wait).map(Some).ok_or_else(|| shares.refuse(wait))
}

/// A worker that does not count toward `ASIDE_MAX_WORKERS`, until dropped.
#[derive(Debug)]
pub(crate) struct Away(Arc<Shares>);

impl Drop for Away {
    fn drop(&mut self) {
        self.0.away.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Marks this worker as absent, so that the pool can replace it: it is about to wait and cannot refuse its request. At most `ASIDE_MAX_WORKERS`
/// workers are absent at once. `None` on a thread that is not a worker.
pub(crate) fn mark_absent() -> Option<Away> {
    WORKER_OF.with_borrow(Option::clone)?.mark_absent()
}

/// A marker for errors of overload. Such an error is logged where it is made, once a minute, and not for each request. Its
/// response has `Retry-After`.
#[derive(Debug)]
pub(crate) struct Busy(String);

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "too many requests wait for {}", self.0)
    }
}

impl std::error::Error for Busy {}

/// Returns a 503 with `Retry-After`, without a log line.
pub(crate) fn busy(what: String) -> Error {
    let message = "The server is too busy. Please try again in a moment.";
    Error::new(Status::SERVICE_UNAVAILABLE, message).with_source(Busy(what))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn shares(workers: usize, each: usize, bodies: usize) -> Arc<Shares> {
        Shares::new(Bounds { workers, each, bodies })
    }

    /// Runs `wait_for` on two workers, of which one may wait, and calls `release` once one was refused.
    pub(crate) fn one_of_two_workers_is_refused<T: Send>(
        wait_for: impl Fn() -> Result<T> + Sync,
        release: impl FnOnce(),
    ) -> T {
        let (shares, (sender, results)) = (shares(4, 1, 1), mpsc::channel());
        thread::scope(|scope| {
            for _ in 0..2 {
                let (shares, sender, wait_for) = (&shares, sender.clone(), &wait_for);
                scope.spawn(move || {
                    shares.enter();
                    sender.send(wait_for())
                });
            }
            drop(sender);
            let first = results.recv_timeout(Duration::from_secs(20));
            // Runs in any case: a failed test must not wait for the other worker.
            release();
            let Ok(Err(refused)) = first else { panic!("both wait, or neither") };
            assert_eq!(refused.status_code(), Status::SERVICE_UNAVAILABLE);
            assert!(refused.find_source::<Busy>().is_some());
            results.recv().unwrap().unwrap()
        })
    }

    #[test]
    fn each_kind_has_its_own_share_until_released() {
        let shares = shares(16, 2, 4);
        let held: Vec<_> = (0..3).map(|_| shares.take(Wait::Pool)).collect();
        assert_eq!(held.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        assert!(shares.take(Wait::Cache).is_some(), "another kind has a share of its own");
        drop(held);
        assert!(shares.take(Wait::Pool).is_some());
    }

    #[test]
    fn all_kinds_together_leave_a_quarter_of_the_workers() {
        let shares = shares(16, 8, 8);
        let held = [Wait::Pool, Wait::Cache, Wait::Once, Wait::Body]
            .map(|wait| (0..8).filter_map(|_| shares.take(wait)).collect::<Vec<_>>());
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [8, 4, 0, 0]);
        for (workers, all) in [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (256, 192)] {
            assert_eq!(Bounds { workers, each: 1, bodies: 1 }.all(), all, "of {workers}");
        }
    }

    #[test]
    fn a_thread_that_is_not_a_worker_always_waits() {
        let waits: Vec<_> = (0..100).map(|_| wait(Wait::Hashing)).collect();
        assert!(waits.iter().all(Result::is_ok));
    }

    #[test]
    fn at_most_the_maximum_of_workers_may_be_absent() {
        assert!(mark_absent().is_none(), "this thread is not a worker");
        let shares = shares(2, 1, 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                shares.enter();
                let away = [(); 3].map(|()| mark_absent());
                assert_eq!((away.each_ref().map(Option::is_some), shares.away()), ([true, true, false], 2));
                drop(away);
                assert_eq!(shares.away(), 0);
            });
        });
    }

    #[test]
    fn a_worker_past_the_share_is_refused() {
        let shares = shares(4, 1, 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                shares.enter();
                let first = wait(Wait::Hashing).unwrap();
                let refused = wait(Wait::Hashing).unwrap_err();
                assert!(refused.chain().contains("password hashing"), "{refused:?}");
                drop(first);
                wait(Wait::Hashing).unwrap();
            });
        });
    }
}
