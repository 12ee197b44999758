//! A pipe by which a thread that waits for descriptors is woken, for a change of a task among other things.

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::sync::Arc;

use crate::background::progress::Progress;
use crate::watch::{Seen, Watched, watcher_id};

/// The end that is waited for.
pub(super) struct Waker {
    pipe: PipeReader,
    notifier: Arc<Notifier>,
    /// The number by which a task knows it.
    caller: u64,
}

/// The end that is written to, from whichever thread.
pub(super) struct Notifier(PipeWriter);

impl Notifier {
    pub(super) fn notify(&self) {
        // A pipe that is full wakes too.
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

    /// What to wait for.
    pub(super) fn pipe(&self) -> &PipeReader {
        &self.pipe
    }

    /// Takes in what has woken it. Returns true if something had.
    pub(super) fn has_rung(&self) -> bool {
        // As many as fit: more of them mean no more.
        matches!((&self.pipe).read(&mut [0; 64]), Ok(1..))
    }

    /// Is woken once by the next change after what is seen here.
    pub(super) fn watch(&self, progress: &Watched<Progress>) -> Seen<Progress> {
        let (seen, notifier) = (progress.look(), self.notifier());
        progress.call_when_new(self.caller, seen.version, Arc::new(move || notifier.notify()));
        seen
    }

    /// Is woken by no further change.
    pub(super) fn forget(&self, progress: &Watched<Progress>) {
        // In place of the other, since it has the same number.
        progress.call_when_new(self.caller, progress.look().version, Arc::new(|| ()));
    }
}
