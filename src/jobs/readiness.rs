//! The readiness of the job engine: can a job be enqueued now? The engine is checked at most once a second and by one
//! caller at a time, since the check writes to its disk and every client may request it.

use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

use super::engine::Unavailable;
use super::outage_log::OutageLog;
use crate::error::{Error, Result};
use crate::sync::{lock, wait_while_for};

/// The time for which a result is valid.
const FRESH: Duration = Duration::from_secs(1);

/// The longest wait of concurrent callers for the first result. Later they get the last one.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// The result of a check; the error is a reason that clients may read.
pub(super) type Ready = Result<(), &'static str>;

#[derive(Default)]
pub(super) struct Readiness {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Default)]
struct Known {
    last: Option<(Instant, Ready)>,
    is_checking: bool,
    outage: OutageLog,
}

impl Readiness {
    /// Returns the readiness, and calls `check` if the last result is too old.
    pub(super) fn ask(&self, check: impl FnOnce() -> Result<()>) -> Ready {
        let mut known = lock(&self.known);
        if known.is_checking {
            let is_first = |known: &mut Known| known.is_checking && known.last.is_none();
            let known = wait_while_for(&self.changed, known, MAX_WAIT, is_first);
            return known.last.map_or(Err("the job store has not answered yet"), |(_, ready)| ready);
        }
        if let Some((at, ready)) = known.last
            && at.elapsed() < FRESH
        {
            return ready;
        }
        known.is_checking = true;
        drop(known);
        let checking = Checking(self);
        let checked = check();
        checking.0.note(checked)
    }

    fn note(&self, checked: Result<()>) -> Ready {
        let mut known = lock(&self.known);
        let ready = match checked {
            Ok(()) => {
                known.outage.recovered(Duration::ZERO);
                Ok(())
            }
            Err(error) => {
                known.outage.log("Jobs cannot be enqueued", &error);
                Err(reason(&error))
            }
        };
        known.last = Some((Instant::now(), ready));
        ready
    }
}

/// Returns the reason for clients: without paths, addresses and passwords.
pub(super) fn reason(error: &Error) -> &'static str {
    error.find_source::<Unavailable>().map_or("jobs cannot be stored", |why| why.reason)
}

/// The caller that runs the check; releases the turn even if the check panics.
struct Checking<'a>(&'a Readiness);

impl Drop for Checking<'_> {
    fn drop(&mut self) {
        lock(&self.0.known).is_checking = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::error::Error;

    fn away() -> Result<()> {
        Err(Unavailable { reason: "the disk is full", message: "no room in /srv/secret".into() }.into())
    }

    #[test]
    fn concurrent_callers_share_one_readiness_check() {
        let readiness = Readiness::default();
        assert_eq!(readiness.ask(away), Err("the disk is full"));
        assert_eq!(readiness.ask(|| panic!("it was asked just now")), Err("the disk is full"));
        lock(&readiness.known).last = None;
        assert_eq!(readiness.ask(|| Err(Error::internal("at 10.0.0.1"))), Err("jobs cannot be stored"));
        lock(&readiness.known).last = None;
        assert_eq!(readiness.ask(|| Ok(())), Ok(()));
    }

    #[test]
    fn an_engine_that_hangs_blocks_one_caller() {
        let readiness = Readiness::default();
        assert_eq!(readiness.ask(|| Ok(())), Ok(()));
        lock(&readiness.known).last = Some((Instant::now() - FRESH, Ok(())));
        let ((begins, begun), (ends, ended)) = (mpsc::channel(), mpsc::channel::<()>());
        thread::scope(|scope| {
            let asked = &readiness;
            let hangs = scope.spawn(move || {
                asked.ask(move || {
                    begins.send(()).unwrap();
                    ended.recv().unwrap();
                    away()
                })
            });
            begun.recv().unwrap();
            assert_eq!(readiness.ask(|| panic!("another asks")), Ok(()), "what was known before");
            ends.send(()).unwrap();
            assert_eq!(hangs.join().unwrap(), Err("the disk is full"));
        });
        assert_eq!(readiness.ask(|| panic!("it was asked just now")), Err("the disk is full"));
    }

    #[test]
    fn a_check_that_panics_is_repeated() {
        let readiness = Readiness::default();
        assert!(crate::background::panics::catch(|| readiness.ask(|| panic!("boom"))).is_err());
        assert_eq!(readiness.ask(|| Ok(())), Ok(()));
    }
}
