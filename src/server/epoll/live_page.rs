//! A live page on a parked connection. Each change wakes a worker, which writes the new events.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use super::response::AfterResponse;
use super::stream::Stream;
use crate::background::run::Deferred;
use crate::deadline;
use crate::http::stream::source::StreamSource;
use crate::server::StreamSlot;
use crate::server::http1::{Chunks, WriteOptions};
use crate::watch::Call;

/// A live page.
pub(super) struct LivePage {
    source: Box<dyn StreamSource>,
    options: WriteOptions,
    /// The bytes to send. The first `sent` of them are sent.
    out: Vec<u8>,
    sent: usize,
    /// The earliest time of the next call to the source.
    not_before: Instant,
    has_ended: bool,
    pub(super) after: AfterResponse,
    pub(super) deferred: Vec<Deferred>,
    _slot: StreamSlot,
}

/// What a live page waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageWait {
    /// A writable socket.
    Writable,
    /// A change, for this long at most.
    Change(Duration),
    /// This time, whether there is a change or not.
    Until(Instant),
    /// Nothing: the page has ended.
    Ended,
}

impl LivePage {
    pub(super) fn new(
        source: Box<dyn StreamSource>,
        head: Vec<u8>,
        options: WriteOptions,
        after: AfterResponse,
        deferred: Vec<Deferred>,
        slot: StreamSlot,
    ) -> LivePage {
        let not_before = Instant::now();
        LivePage { source, options, out: head, sent: 0, not_before, has_ended: false, after, deferred, _slot: slot }
    }

    /// Returns true if all bytes are sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.sent == self.out.len()
    }

    /// Writes the new events as far as the client reads them. The source is called only when all earlier bytes are sent, so a
    /// slow client gets the latest state.
    ///
    /// # Errors
    /// An error if the client has disconnected.
    pub(super) fn write_new_events(&mut self, stream: &Stream, is_stopping: bool) -> std::io::Result<PageWait> {
        let mut longest_pause = None;
        loop {
            while !self.is_flushed() {
                match stream.send(&[IoSlice::new(&self.out[self.sent..])], false)? {
                    0 => return Ok(PageWait::Writable),
                    count => self.sent += count,
                }
            }
            // The empty buffer is freed: there are many live pages.
            (self.out, self.sent) = (Vec::new(), 0);
            match longest_pause {
                _ if self.has_ended => return Ok(PageWait::Ended),
                Some(longest_pause) if !is_stopping => return Ok(PageWait::Change(longest_pause)),
                _ if is_stopping => self.end(),
                _ if self.not_before > Instant::now() => return Ok(PageWait::Until(self.not_before)),
                _ => longest_pause = self.call_source(),
            }
        }
    }

    /// Calls the source for new events, and returns the longest time until its next call.
    fn call_source(&mut self) -> Option<Duration> {
        let mut new_events = Vec::new();
        let pause = self.source.write(&mut new_events);
        // A write to a vector does not fail.
        let _ = std::io::Write::write_all(&mut Chunks::new(&mut self.out, self.options), &new_events);
        match pause {
            Some(pause) => self.not_before = deadline::after(pause.at_least),
            None => self.end(),
        }
        pause.map(|pause| pause.at_most)
    }

    fn end(&mut self) {
        self.has_ended = true;
        let _ = Chunks::new(&mut self.out, self.options).end();
    }

    /// Registers `call` for the next change.
    pub(super) fn call_when_new(&self, call: Call) {
        self.source.call_when_new(call);
    }
}
