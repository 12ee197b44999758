//! A stream that has something to write only now and then, and can be asked for it by anybody: no thread need wait for it.
//! A transport that keeps connections without threads asks when it is called; [`follow`] does the same by waiting.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::outlet::Outlet;
use crate::background::scope::Context;
use crate::panics::Contained;
use crate::sync::Bell;
use crate::watched::Call;

/// Who writes.
pub(crate) trait Feed: Send {
    /// Writes what is new, and says when it is to be asked again; none at its end.
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause>;

    /// Has that done once when there is something new; here and now when there is already.
    fn call_when_new(&self, call: Call);
}

/// For how long a feed is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Even if there is something new.
    pub(crate) at_least: Duration,
    /// Even if there is nothing new.
    pub(crate) at_most: Duration,
}

/// A feed that writes on behalf of the request that it was made in.
pub(super) struct InContext<F> {
    pub(super) context: Context,
    pub(super) feed: Contained<F>,
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

/// Writes a feed to its end, and waits between.
///
/// # Errors
/// When nobody reads any more.
pub(crate) fn follow(mut feed: Box<dyn Feed>, mut out: Outlet<'_>) -> io::Result<()> {
    let bell = Arc::new(Bell::default());
    let (gone, theirs) = (out.disconnect().clone(), bell.clone());
    let _woken = gone.on_told(move || theirs.ring());
    let mut news = Vec::new();
    while let Some(pause) = feed.write(&mut news) {
        out.write_all(&news)?;
        news.clear();
        gone.wait(pause.at_least);
        let theirs = bell.clone();
        feed.call_when_new(Arc::new(move || theirs.ring()));
        bell.wait(pause.at_most);
        out.check()?;
    }
    out.write_all(&news)
}
