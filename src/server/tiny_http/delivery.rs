//! The writing of a response, and the end of its connection.

use std::io::{self, Write};
use std::net::{IpAddr, Shutdown};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tiny_http::ReadWrite;

use super::TinyHttp;
use super::connections::TrackedRequest;
use super::drain;
use crate::background::timer;
use crate::http::response::Response;
use crate::server::disconnect_watcher::WatchedPage;
use crate::server::http1::WriteOptions;
use crate::server::socket::Peer;
use crate::server::stream_threads::{self, StreamThread, spawn_pooled};
use crate::server::{LINGER, LINGER_UNREAD, ServerState};
use crate::sync::lock;

/// The first interval at which a closing connection is checked.
const FIRST_CHECK: Duration = Duration::from_millis(5);

/// The destination of a response.
pub(super) enum ResponseSink {
    /// The writer of tiny_http: in order with the other responses of the connection.
    InOrder(Box<dyn Write + Send>),
    /// The socket, beside the request with its unread body.
    OverSocket { peer: Peer, request: Box<tiny_http::Request>, huge: bool },
    /// The stream of tiny_http after an interim response, if the socket cannot be found.
    AfterInterim { stream: Box<dyn ReadWrite + Send>, huge: bool },
}

impl Write for ResponseSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            ResponseSink::InOrder(writer) => writer.write(bytes),
            ResponseSink::OverSocket { peer, .. } => peer.write(bytes),
            ResponseSink::AfterInterim { stream, .. } => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            ResponseSink::InOrder(writer) => writer.flush(),
            ResponseSink::OverSocket { peer, .. } => peer.flush(),
            ResponseSink::AfterInterim { stream, .. } => stream.flush(),
        }
    }
}

/// A response to write.
pub(super) struct Delivery {
    pub(super) sink: ResponseSink,
    pub(super) response: Response,
    pub(super) options: WriteOptions,
    pub(super) tracked: TrackedRequest,
    pub(super) closes_itself: bool,
    pub(super) transport: Arc<TinyHttp>,
}

impl Delivery {
    /// Writes the response: a stream on a thread of its own, and any other response on this thread.
    pub(super) fn begin(self, client: Option<IpAddr>, state: &ServerState) {
        let (response, slot) = stream_threads::take_slot(self.response, self.options, client, state);
        let delivery = Delivery { response, ..self };
        let Some(slot) = slot else { return delivery.send(None) };
        let watch = || Some(delivery.transport.disconnects.begin(delivery.tracked.remote, delivery.closes_itself));
        let thread = StreamThread::new(&delivery.response, slot, state, watch);
        thread.spawn(move |watched| delivery.send(watched));
    }

    /// Writes the response, closes the connection if necessary, and starts the deferred tasks.
    fn send(mut self, watched: Option<WatchedPage>) {
        let deferred = self.response.take_deferred();
        let close = self.options.close && !self.closes_itself;
        // The search comes before the response: after the response the client may disconnect, and another connection may use
        // its port.
        let found = self.tracked.peer.take();
        let peer = if close { found.or_else(|| self.transport.peer(&self.tracked)) } else { None };
        let whole = stream_threads::write(&mut self.sink, self.response, self.options, watched);
        let after = AfterWrite { whole, close, peer, transport: self.transport };
        after.finish(self.sink, &self.tracked);
        drop(self.tracked);
        deferred.into_iter().for_each(|task| task.start());
    }
}

/// The end of a response: the connection is kept or closed.
struct AfterWrite {
    whole: bool,
    close: bool,
    /// The socket, if the connection is to be closed.
    peer: Option<Peer>,
    transport: Arc<TinyHttp>,
}

impl AfterWrite {
    fn finish(self, sink: ResponseSink, tracked: &TrackedRequest) {
        match sink {
            ResponseSink::InOrder(writer) if self.whole && !self.close && !self.transport.ends_connections() => {
                drop(writer)
            }
            ResponseSink::InOrder(writer) => self.hang_up(writer, tracked),
            ResponseSink::OverSocket { peer, request, huge: true } => {
                peer.shut(Shutdown::Write);
                self.transport.leak(request);
                // The descriptor is never closed, so its number is not reused.
                timer::at(Instant::now() + LINGER, move || peer.shut(Shutdown::Both));
            }
            ResponseSink::OverSocket { peer, request, huge: false } => {
                peer.shut(Shutdown::Write);
                spawn_pooled(|| discard_and_close(peer, *request));
            }
            ResponseSink::AfterInterim { stream, huge: true } => self.transport.leak(stream),
            // The search has not found the socket, so the connection has ended.
            ResponseSink::AfterInterim { stream, huge: false } if cfg!(unix) => drain::drop_on_thread(|| drop(stream)),
            ResponseSink::AfterInterim { stream, huge: false } => spawn_pooled(|| drop(stream)),
        }
    }

    /// Closes the connection: at once after a response that was cut short, and otherwise our side first, so that the client
    /// receives the whole response. The writer is kept until then, so that the descriptor is not reused.
    fn hang_up(self, writer: Box<dyn Write + Send>, tracked: &TrackedRequest) {
        let peer = if self.close { self.peer } else { self.transport.peer(tracked) };
        match peer {
            None => drop(writer),
            Some(peer) if !self.whole => peer.shut(Shutdown::Both),
            Some(mut peer) => {
                peer.keep();
                peer.shut(Shutdown::Write);
                linger(peer, writer, Instant::now() + LINGER, FIRST_CHECK);
            }
        }
    }
}

/// Keeps a connection until the client has closed it, or its time is up. The interval between checks grows: most clients
/// close at once, and a kept connection has two descriptors, which slow down each search.
fn linger(peer: Peer, writer: Box<dyn Write + Send>, until: Instant, wait: Duration) {
    let next = (Instant::now() + wait).min(until);
    timer::at(next, move || {
        if next < until && !peer.is_over() {
            return linger(peer, writer, until, 2 * wait);
        }
        if next == until {
            peer.shut(Shutdown::Both);
        }
        drop(writer);
    });
}

/// Reads the rest of a refused body for a while, so that the client can read the response.
pub(super) fn discard_and_close(peer: Peer, mut request: tiny_http::Request) {
    let connection = peer.duplicate();
    let peer = Arc::new(Mutex::new(Some(peer)));
    let theirs = peer.clone();
    let shut = move || lock(&theirs).iter().for_each(|peer| peer.shut(Shutdown::Both));
    let ticket = timer::at(Instant::now() + LINGER_UNREAD, shut);
    match connection {
        Some(connection) => drain::discard_input(connection),
        // The connection has ended.
        None if cfg!(target_os = "linux") => {}
        None => drain::discard_input(request.as_reader()),
    }
    timer::cancel(ticket);
    // After this the descriptor may be reused for another socket.
    lock(&peer).take().iter().for_each(|peer| peer.shut(Shutdown::Both));
    drain::drop_on_thread(|| drop(request.into_writer()));
}
