//! Stream sources that write only now and then, and need no waiting thread in between. A transport that keeps
//! connections without threads asks the source when it is woken; [`follow`] does the same and waits.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::writer::StreamWriter;
use crate::background::scope::Context;
use crate::panics::Contained;
use crate::sync::Notify;
use crate::watch::Call;

/// A source of stream data.
pub(crate) trait StreamSource: Send {
    /// Writes the new data. Returns the pause before the next call, or `None` at the end of the stream.
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause>;

    /// Registers a call that runs once when there is new data, or at once if there is new data already.
    fn call_when_new(&self, call: Call);
}

/// The bounds on the time until the next call of [`StreamSource::write`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pause {
    /// The shortest pause, even if there is new data.
    pub(crate) at_least: Duration,
    /// The longest pause, even if there is no new data.
    pub(crate) at_most: Duration,
}

/// A source that writes in the context of the request that created it.
pub(crate) struct InContext<F> {
    pub(crate) context: Context,
    pub(crate) source: Contained<F>,
}

impl<F: StreamSource> StreamSource for InContext<F> {
    fn write(&mut self, out: &mut Vec<u8>) -> Option<Pause> {
        let _entered = self.context.clone().enter();
        self.source.write(out)
    }

    fn call_when_new(&self, call: Call) {
        self.source.call_when_new(call);
    }
}

/// Writes the data of a source to its end, and blocks between the writes.
///
/// # Errors
/// The error of [`StreamWriter::check`], once the client has disconnected.
pub(crate) fn follow(mut source: Box<dyn StreamSource>, mut out: StreamWriter<'_>) -> io::Result<()> {
    let wake = Arc::new(Notify::default());
    let (gone, notify) = (out.disconnect().clone(), wake.clone());
    let _woken = gone.on_signal(move || notify.notify());
    let mut new_data = Vec::new();
    while let Some(pause) = source.write(&mut new_data) {
        out.write_all(&new_data)?;
        new_data.clear();
        gone.wait(pause.at_least);
        let notify = wake.clone();
        source.call_when_new(Arc::new(move || notify.notify()));
        wake.wait(pause.at_most);
        out.check()?;
    }
    out.write_all(&new_data)
}
