//! The responses that workers write over a transport with blocking writes.
//!
//! A client that does not read occupies the worker that writes to it, and so does a client that sends many requests after
//! a response that does not end. This is tolerated while the pool can grow. When all workers are busy and the pool cannot
//! grow, the connections that have taken longest are closed, down to the share of the workers that may wait for one kind of
//! resource.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// How long a response may take before it counts as slow.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// The responses being written, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Outgoing(Mutex<Responses>);

#[derive(Debug, Default)]
struct Responses {
    last: u64,
    began: BTreeMap<u64, (Instant, SocketAddr)>,
}

/// A response being written, until dropped.
pub(super) struct Sending<'o> {
    outgoing: &'o Outgoing,
    number: u64,
}

impl Outgoing {
    pub(super) fn begin(&self, client: Option<SocketAddr>) -> Option<Sending<'_>> {
        self.begin_at(client?, Instant::now())
    }

    fn begin_at(&self, client: SocketAddr, now: Instant) -> Option<Sending<'_>> {
        let mut responses = lock(&self.0);
        responses.last += 1;
        let number = responses.last;
        responses.began.insert(number, (now, client));
        Some(Sending { outgoing: self, number })
    }

    /// Returns the clients of the slow responses beyond `most`, the slowest first.
    pub(super) fn slowest_past(&self, most: usize, now: Instant) -> Vec<SocketAddr> {
        let responses = lock(&self.0);
        let is_slow = |(began, _): &&(Instant, SocketAddr)| now.saturating_duration_since(*began) >= SLOW_AFTER;
        let slow: Vec<SocketAddr> = responses.began.values().take_while(is_slow).map(|(_, client)| *client).collect();
        let past = slow.len().saturating_sub(most);
        slow.into_iter().take(past).collect()
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        lock(&self.outgoing.0).began.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_responses_past_the_share_are_ended() {
        let (outgoing, start) = (Outgoing::default(), Instant::now());
        let at = |seconds: u16| start + Duration::from_secs(seconds.into());
        let client = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
        let sending: Vec<_> = (0..5).map(|n| outgoing.begin_at(client(n), at(n))).collect();
        let past = |most, seconds: u16| outgoing.slowest_past(most, at(seconds));
        assert_eq!(past(0, 2), [client(0), client(1)], "one that has just begun is not slow");
        assert_eq!(past(2, 10), [client(0), client(1), client(2)]);
        assert_eq!(past(5, 10), []);
        drop(sending);
        assert_eq!(past(0, 10), []);
    }
}
