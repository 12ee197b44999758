//! Stream sources that write only now and then, and need no waiting thread in between. A transport that keeps
//! connections without threads asks the feed when it is woken; [`follow`] does the same and waits.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::writer::Outlet;
use crate::background::scope::Context;
use crate::panics::Contained;
use crate::sync::Notify;
use crate::watch::Call;

/// A source of stream data.
pub(crate) trait Feed: Send {
    /// Writes the new data. Returns the pause before the next call, or `None` at the end of the stream.
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause>;

    /// Registers a call that runs once when there is new data, or at once if there is new data already.
    fn call_when_new(&self, call: Call);
}

/// The bounds on the time until the next call of [`Feed::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    /// The shortest pause, even if there is new data.
    pub(crate) at_least: Duration,
    /// The longest pause, even if there is no new data.
    pub(crate) at_most: Duration,
}

/// A feed that writes in the context of the request that created it.
pub(crate) struct InContext<F> {
    pub(crate) context: Context,
    pub(crate) feed: Contained<F>,
}

impl<F: Feed> Feed for InContext<F> {
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause> {
        let _entered = self.context.clone().enter();
        self.feed.write(out)
    }

    fn call_when_new(&self, call: Call) {
        self.feed.call_when_new(call);
    }
}

/// Writes a feed to its end, and blocks between the writes.
///
/// # Errors
/// The error of [`Outlet::check`], once the client has disconnected.
pub(crate) fn follow(mut feed: Box<dyn Feed>, mut out: Outlet<'_>) -> io::Result<()> {
    let wake = Arc::new(Notify::default());
    let (gone, notify) = (out.disconnect().clone(), wake.clone());
    let _woken = gone.on_signal(move || notify.notify());
    let mut news = Vec::new();
    while let Some(pause) = feed.write(&mut news) {
        out.write_all(&news)?;
        news.clear();
        gone.wait(pause.at_least);
        let notify = wake.clone();
        feed.call_when_new(Arc::new(move || notify.notify()));
        wake.wait(pause.at_most);
        out.check()?;
    }
    out.write_all(&news)
}
