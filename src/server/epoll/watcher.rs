//! A live page while its connection lies in its place: asked for news by whichever worker is called for it.

use std::io::IoSlice;
use std::time::{Duration, Instant};

use super::super::StreamPlace;
use super::super::wire::{Chunks, Terms};
use super::reply::After;
use super::stream::Stream;
use crate::background::task::Deferred;
use crate::deadline;
use crate::http::feed::Feed;
use crate::watched::Call;

pub(super) struct Watcher {
    feed: Box<dyn Feed>,
    terms: Terms,
    /// What is on its way out, and how much of it has gone.
    out: Vec<u8>,
    sent: usize,
    /// Not before that is the feed asked again.
    not_before: Instant,
    has_ended: bool,
    pub(super) after: After,
    pub(super) set_aside: Vec<Deferred>,
    _place: StreamPlace,
}

/// What a page waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// For room to write.
    ToWrite,
    /// For news, so long at most.
    ForNews(Duration),
    /// For its time, whatever is new.
    Until(Instant),
    /// For nothing any more.
    Ended,
}

impl Watcher {
    pub(super) fn new(
        feed: Box<dyn Feed>,
        head: Vec<u8>,
        terms: Terms,
        after: After,
        set_aside: Vec<Deferred>,
        place: StreamPlace,
    ) -> Watcher {
        let not_before = Instant::now();
        Watcher { feed, terms, out: head, sent: 0, not_before, has_ended: false, after, set_aside, _place: place }
    }

    /// Whether all has gone out that there was.
    pub(super) fn is_flushed(&self) -> bool {
        self.sent == self.out.len()
    }

    /// Writes what is new, as far as the client takes it. Who is slow is asked for when all before has gone out, and so gets
    /// the latest state.
    ///
    /// # Errors
    /// When the client is gone.
    pub(super) fn go_on(&mut self, stream: &Stream, is_stopping: bool) -> std::io::Result<Waits> {
        let mut patience = None;
        loop {
            while !self.is_flushed() {
                match stream.send(&[IoSlice::new(&self.out[self.sent..])], false)? {
                    0 => return Ok(Waits::ToWrite),
                    count => self.sent += count,
                }
            }
            // Not kept while there is nothing in it: there are many of these.
            (self.out, self.sent) = (Vec::new(), 0);
            match patience {
                _ if self.has_ended => return Ok(Waits::Ended),
                Some(patience) if !is_stopping => return Ok(Waits::ForNews(patience)),
                _ if is_stopping => self.end(),
                _ if self.not_before > Instant::now() => return Ok(Waits::Until(self.not_before)),
                _ => patience = self.ask(),
            }
        }
    }

    /// Asks the feed for news, and says how long it may be left alone.
    fn ask(&mut self) -> Option<Duration> {
        let mut news = Vec::new();
        let pause = self.feed.write(&mut news);
        // A vector takes all it is given.
        let _ = std::io::Write::write_all(&mut Chunks::new(&mut self.out, self.terms), &news);
        match pause {
            Some(pause) => self.not_before = deadline::after(pause.at_least),
            None => self.end(),
        }
        pause.map(|pause| pause.at_most)
    }

    fn end(&mut self) {
        self.has_ended = true;
        let _ = Chunks::new(&mut self.out, self.terms).end();
    }

    /// Has that called when there is something new.
    pub(super) fn call_when_new(&self, call: Call) {
        self.feed.call_when_new(call);
    }
}
