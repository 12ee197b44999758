//! A pipe by which a thread that waits for descriptors is woken, for a change of a task among other things.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;

use crate::background::progress::Progress;
use crate::watch::{Seen, Watched, watcher_id};

/// The reading end, for which the thread waits.
pub(super) struct Waker {
    pipe: PipeReader,
    notifier: Arc<Notifier>,
    /// The number by which a task knows it.
    caller: u64,
}

/// The writing end, for any thread.
pub(super) struct Notifier(PipeWriter);

impl Notifier {
    pub(super) fn notify(&self) {
        // A full pipe wakes the thread too.
        let _ = (&self.0).write(&[1]);
    }
}

impl Waker {
    pub(super) fn new() -> io::Result<Waker> {
        let (pipe, notifier) = io::pipe()?;
        rustix::io::ioctl_fionbio(&pipe, true)?;
        rustix::io::ioctl_fionbio(&notifier, true)?;
        Ok(Waker { pipe, notifier: Arc::new(Notifier(notifier)), caller: watcher_id() })
    }

    pub(super) fn notifier(&self) -> Arc<Notifier> {
        self.notifier.clone()
    }

    /// Returns the descriptor to wait for.
    pub(super) fn pipe(&self) -> &PipeReader {
        &self.pipe
    }

    /// Reads the notifications. Returns true if there were any.
    pub(super) fn has_rung(&self) -> bool {
        // One read is enough: several notifications mean the same as one.
        matches!((&self.pipe).read(&mut [0; 64]), Ok(1..))
    }

    /// Makes the next change after the version seen here notify the thread once.
    pub(super) fn watch(&self, progress: &Watched<Progress>) -> Seen<Progress> {
        let (seen, notifier) = (progress.look(), self.notifier());
        progress.call_when_new(self.caller, seen.version, Arc::new(move || notifier.notify()));
        seen
    }

    /// Makes further changes not notify the thread.
    pub(super) fn forget(&self, progress: &Watched<Progress>) {
        // It replaces the other watcher, since it has the same number.
        progress.call_when_new(self.caller, progress.look().version, Arc::new(|| ()));
    }
}
