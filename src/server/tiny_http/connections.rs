//! The open connections: threads for connections that have none, the order of requests in flight, and closed connections.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::background::timer;
use crate::config::Config;
use crate::http::stream::disconnect::Connection;
use crate::server::socket::{self, Peer};
use crate::server::stream_threads::spawn_pooled;
use crate::sync::{lock, wait_while};

/// How long further requests of a closed connection are discarded.
const DISCARD_TIME: Duration = Duration::from_secs(if cfg!(unix) { 15 } else { 60 });

/// The delay between a new connection and the connections to ourselves, and between it and a last one.
const SOON: Duration = Duration::from_millis(2);
const LATE: Duration = Duration::from_millis(100);

/// The largest number of connections to ourselves at a time.
const MOST_AT_A_TIME: usize = 64;

/// A connection whose socket belongs to tiny_http and is found by a search.
pub(super) struct SearchedConnection {
    pub(super) remote: SocketAddr,
    pub(super) port: u16,
    pub(super) closes_itself: bool,
}

impl Connection for SearchedConnection {
    /// Returns true on a platform without the search for sockets, since the state is unknown there.
    fn is_there(&self) -> bool {
        let peer = socket::find(self.remote, self.port);
        peer.map_or(!cfg!(unix), |peer| peer.is_open(self.closes_itself))
    }
}

/// Connections to ourselves that send nothing and provide tiny_http with threads. tiny_http starts a thread for a connection
/// if no thread is idle, but its count of idle threads lags: some connections of a burst wait in its queue without a thread.
/// The thread started for an empty connection takes one of them next. The first request of that one is then new here, too,
/// and twice as many empty connections follow as there were new ones, so that a burst of any size soon has its threads.
pub(super) struct EmptyConnections {
    pub(super) addr: SocketAddr,
    /// The last seen connections, by their ports. A forgotten one costs a superfluous connection.
    seen: Vec<AtomicUsize>,
    /// The new connections since the last empty ones.
    new: AtomicUsize,
    soon: AtomicBool,
    late: AtomicBool,
}

impl EmptyConnections {
    pub(super) fn new(mut addr: SocketAddr) -> EmptyConnections {
        if addr.ip().is_unspecified() {
            addr.set_ip(if addr.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
        }
        let seen = (0..1024).map(|_| AtomicUsize::new(0)).collect();
        EmptyConnections {
            addr,
            seen,
            new: AtomicUsize::new(0),
            soon: AtomicBool::new(false),
            late: AtomicBool::new(false),
        }
    }

    /// Records the connection of a request. After new ones, empty connections follow soon, and another one later, in case
    /// tiny_http has counted wrongly for the first.
    pub(super) fn note(empty_connections: &Arc<EmptyConnections>, remote: &SocketAddr) {
        if empty_connections.count_if_new(remote) {
            EmptyConnections::schedule(empty_connections, SOON, |empty_connections| &empty_connections.soon);
            EmptyConnections::schedule(empty_connections, LATE, |empty_connections| &empty_connections.late);
        }
    }

    /// Counts a connection, unless it was seen before. Returns true if it is new.
    fn count_if_new(&self, remote: &SocketAddr) -> bool {
        let mut hasher = std::hash::DefaultHasher::new();
        remote.hash(&mut hasher);
        let mark = hasher.finish() as usize | 1;
        let slot = &self.seen[usize::from(remote.port()) % self.seen.len()];
        if slot.load(Ordering::Relaxed) == mark {
            return false;
        }
        slot.store(mark, Ordering::Relaxed);
        self.new.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn schedule(
        empty_connections: &Arc<EmptyConnections>,
        wait: Duration,
        scheduled: fn(&EmptyConnections) -> &AtomicBool,
    ) {
        if scheduled(empty_connections).swap(true, Ordering::AcqRel) {
            return;
        }
        let empty_connections = empty_connections.clone();
        timer::at(Instant::now() + wait, move || {
            scheduled(&empty_connections).store(false, Ordering::Release);
            spawn_pooled(move || empty_connections.connect_some());
        });
    }

    fn connect_some(&self) {
        (0..self.due()).for_each(|_| self.connect());
    }

    /// Returns the number of empty connections that are due: two for each new connection, and at least one.
    fn due(&self) -> usize {
        (2 * self.new.swap(0, Ordering::AcqRel)).clamp(1, MOST_AT_A_TIME)
    }

    pub(super) fn connect(&self) {
        // This fails if the server has stopped.
        drop(TcpStream::connect_timeout(&self.addr, LATE));
    }
}

/// The requests in flight, in the order of their arrival, and the closed connections.
pub(super) struct RequestTracker {
    port: u16,
    entries: Mutex<Entries>,
    changed: Condvar,
}

#[derive(Default)]
struct Entries {
    last: u64,
    in_flight: Vec<InFlight>,
    waiting: usize,
    /// The time of the last event on each open connection.
    active: HashMap<SocketAddr, Activity>,
    closed: HashMap<SocketAddr, Vec<ClosedConnection>>,
    /// The closed connections in the order of their removal.
    removal_order: VecDeque<(Instant, SocketAddr)>,
}

/// The time when a request began or ended on a connection, or when the connection was first seen.
#[derive(Clone, Copy)]
pub(super) struct Activity {
    at: Instant,
    pub(super) has_asked: bool,
}

impl Activity {
    fn is_overdue(&self, config: &Config) -> bool {
        // On a connection that was used before, it is unknown if the next head has begun.
        let most =
            if self.has_asked { config.idle_timeout.saturating_add(config.head_timeout) } else { config.head_timeout };
        self.at.elapsed() > most
    }
}

/// A closed connection, whose further requests are discarded.
struct ClosedConnection {
    /// The kernel's name of the socket: the port is soon reused by another connection, above all behind a proxy.
    socket: Option<PathBuf>,
    /// The last request that was handled.
    by: u64,
    since: Instant,
}

struct InFlight {
    id: u64,
    remote: SocketAddr,
    is_checked: bool,
}

/// The entry of a request in flight, removed when dropped.
pub(super) struct TrackedRequest {
    tracker: Arc<RequestTracker>,
    id: u64,
    pub(super) remote: Option<SocketAddr>,
    /// True if an earlier request was the last one of the connection.
    pub(super) is_after_last: bool,
    /// True if no further request of the connection is handled.
    is_last: bool,
    /// The socket, once it has been searched for.
    pub(super) peer: Option<Peer>,
}

impl RequestTracker {
    pub(super) fn of(port: u16) -> RequestTracker {
        RequestTracker { port, entries: Mutex::default(), changed: Condvar::new() }
    }

    pub(super) fn enter(self: &Arc<RequestTracker>, remote: Option<SocketAddr>) -> TrackedRequest {
        let mut entries = lock(&self.entries);
        entries.last += 1;
        let id = entries.last;
        if let Some(remote) = remote {
            entries.in_flight.push(InFlight { id, remote, is_checked: false });
            entries.active.insert(remote, Activity { at: Instant::now(), has_asked: true });
        }
        TrackedRequest { tracker: self.clone(), id, remote, is_after_last: false, is_last: false, peer: None }
    }

    /// Returns the open connections that have waited too long for a request; none while all workers are busy.
    pub(super) fn overdue(&self, open: &HashMap<SocketAddr, i32>, config: &Config) -> Vec<(SocketAddr, Activity)> {
        let mut entries = lock(&self.entries);
        let Entries { active, in_flight, .. } = &mut *entries;
        active.retain(|remote, _| open.contains_key(remote));
        open.keys()
            .for_each(|remote| _ = active.entry(*remote).or_insert(Activity { at: Instant::now(), has_asked: false }));
        if in_flight.len() >= config.max_workers {
            return Vec::new();
        }
        let busy: HashSet<SocketAddr> = in_flight.iter().map(|entry| entry.remote).collect();
        let is_overdue =
            |(remote, activity): &(&SocketAddr, &Activity)| !busy.contains(remote) && activity.is_overdue(config);
        active.iter().filter(is_overdue).map(|(remote, activity)| (*remote, *activity)).collect()
    }

    pub(super) fn mark_last(&self, tracked: &mut TrackedRequest) {
        let Some(remote) = tracked.remote.filter(|_| !tracked.is_last) else { return };
        tracked.is_last = true;
        // The only search for a refused connection: it takes one call per descriptor.
        tracked.peer = socket::find(remote, self.port);
        let socket = tracked.peer.as_ref().and_then(|peer| peer.name().cloned());
        lock(&self.entries).add_closed(remote, ClosedConnection { socket, by: tracked.id, since: Instant::now() });
    }

    /// Waits until all requests that came earlier on the same connection are answered.
    pub(super) fn wait_for_turn(&self, tracked: &TrackedRequest) {
        drop(self.wait_while(lock(&self.entries), tracked, |_| true));
    }

    /// Waits while there is such an earlier request on the same connection.
    fn wait_while<'b>(
        &'b self,
        mut entries: MutexGuard<'b, Entries>,
        tracked: &TrackedRequest,
        holds: fn(&InFlight) -> bool,
    ) -> MutexGuard<'b, Entries> {
        let is_before =
            |entry: &InFlight| Some(entry.remote) == tracked.remote && entry.id < tracked.id && holds(entry);
        if !entries.in_flight.iter().any(is_before) {
            return entries;
        }
        entries.waiting += 1;
        entries = wait_while(&self.changed, entries, |entries| entries.in_flight.iter().any(is_before));
        entries.waiting -= 1;
        entries
    }
}

impl TrackedRequest {
    /// Records if this is the last request of its connection, since its head is malformed or the client closes the
    /// connection. Then finds out if an earlier request was the last one.
    pub(super) fn record_check(&mut self, last: bool) {
        let Some(remote) = self.remote else { return };
        if last {
            self.tracker.clone().mark_last(self);
        }
        let mut entries = lock(&self.tracker.entries);
        let own = entries.in_flight.iter_mut().rfind(|entry| entry.id == self.id);
        own.into_iter().for_each(|entry| entry.is_checked = true);
        if entries.waiting > 0 {
            self.tracker.changed.notify_all();
        }
        let mut entries = self.tracker.wait_while(entries, self, |entry| !entry.is_checked);
        let socket = entries.closed_before(remote, self.id);
        drop(entries);
        self.is_after_last = socket.is_some_and(|then| match (then, socket::name(remote, self.tracker.port)) {
            (Some(then), Some(now)) => then == now,
            _ => true,
        });
    }
}

impl Entries {
    /// Returns the name of the socket that was closed last at this address by an earlier request.
    fn closed_before(&mut self, remote: SocketAddr, id: u64) -> Option<Option<PathBuf>> {
        let of_address = self.closed.get(&remote)?;
        let is_before = |closed: &&ClosedConnection| closed.by < id && closed.since.elapsed() < DISCARD_TIME;
        Some(of_address.iter().rfind(is_before)?.socket.clone())
    }

    /// Adds a closed connection, and removes the old ones.
    fn add_closed(&mut self, remote: SocketAddr, closed: ClosedConnection) {
        self.removal_order.push_back((closed.since, remote));
        self.closed.entry(remote).or_default().push(closed);
        while let Some((since, remote)) =
            self.removal_order.front().copied().filter(|(since, _)| since.elapsed() >= DISCARD_TIME)
        {
            self.removal_order.pop_front();
            if let Entry::Occupied(mut of_address) = self.closed.entry(remote) {
                of_address.get_mut().retain(|closed| closed.since > since);
                if of_address.get().is_empty() {
                    of_address.remove();
                }
            }
        }
    }
}

impl Drop for TrackedRequest {
    fn drop(&mut self) {
        let mut entries = lock(&self.tracker.entries);
        if let Some(index) = entries.in_flight.iter().rposition(|entry| entry.id == self.id) {
            let InFlight { remote, .. } = entries.in_flight.swap_remove(index);
            entries.active.insert(remote, Activity { at: Instant::now(), has_asked: true });
        }
        if entries.waiting > 0 {
            self.tracker.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: one empty connection followed in each 10 ms, so that the last connection of a burst of 32 got a thread
    /// after 160 ms.
    #[test]
    fn twice_as_many_empty_connections_follow_as_there_were_new_ones() {
        let empty_connections = EmptyConnections::new(([127, 0, 0, 1], 9).into());
        let mut burst = (1..).map(|port: u16| SocketAddr::from(([127, 0, 0, 1], port))).peekable();
        let mut threads = 4;
        let rounds = (1..).find(|_| {
            burst.by_ref().take(threads).for_each(|remote| assert!(empty_connections.count_if_new(&remote)));
            threads = empty_connections.due();
            burst.peek().is_none_or(|next| next.port() > 100)
        });
        assert_eq!(rounds, Some(5), "4, 8, 16, 32 and 64 connections get threads");
        assert_eq!(empty_connections.due(), 1, "a last one");
        assert!(!empty_connections.count_if_new(&SocketAddr::from(([127, 0, 0, 1], 100))), "seen before");
        assert_eq!(empty_connections.due(), 1);
    }
}
