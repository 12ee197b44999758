//! The parts of streaming responses that both transports share.

use std::io::Write;
use std::net::IpAddr;

use super::disconnect_watcher::WatchedPage;
use super::http1::{self, WriteOptions};
use super::{Counted, ServerState, StreamSlot};
use crate::background::panics;
use crate::background::thread_pool::{self, Work};
use crate::error::Status;
use crate::http::response::{Response, ResponseBody};

/// Takes the slot of a response that is a stream. If the limit of streams is reached, the response becomes a 503.
pub(super) fn take_slot(
    response: Response,
    options: WriteOptions,
    client: Option<IpAddr>,
    state: &ServerState,
) -> (Response, Option<StreamSlot>) {
    if !(response.is_stream() && options.has_body(response.status_code())) {
        return (response, None);
    }
    match state.stream_slot(client, response.is_live()) {
        Ok(slot) => (response, Some(slot)),
        Err(message) => (refuse_stream(response, message), None),
    }
}

/// Replaces a stream by a 503 with this message.
fn refuse_stream(mut response: Response, message: &'static str) -> Response {
    // The response itself is changed, so that it keeps its default headers and its deferred tasks.
    response.body = ResponseBody::Bytes(message.as_bytes().into());
    let response = response.status(Status::SERVICE_UNAVAILABLE).header("Retry-After", "5");
    response.header("Content-Type", "text/plain; charset=utf-8")
}

/// A stream before its thread starts.
pub(super) struct StreamThread {
    slot: StreamSlot,
    watched: Option<WatchedPage>,
    active: Option<Counted>,
}

impl StreamThread {
    /// Prepares a stream. `watch` watches the client of a live page, which has no end: a shutdown does not wait for it but
    /// tells it to end.
    pub(super) fn new(
        response: &Response,
        slot: StreamSlot,
        state: &ServerState,
        watch: impl FnOnce() -> Option<WatchedPage>,
    ) -> StreamThread {
        let (watched, active) = match response.is_live() {
            true => (watch(), None),
            false => (None, Some(state.count_active())),
        };
        StreamThread { slot, watched, active }
    }

    /// Runs the function that writes the stream.
    pub(super) fn spawn(self, write: impl FnOnce(Option<WatchedPage>) + Send + 'static) {
        let StreamThread { slot, watched, active } = self;
        spawn_pooled(move || {
            thread_pool::rename("aside-stream");
            write(watched);
            drop((slot, active));
        });
    }
}

/// Writes a response to its end, and returns true if that succeeded. A failure is logged.
pub(super) fn write(
    out: &mut dyn Write,
    response: Response,
    options: WriteOptions,
    watched: Option<WatchedPage>,
) -> bool {
    let disconnect = watched.as_ref().map(WatchedPage::disconnect).cloned().unwrap_or_default();
    let sent = panics::catch(|| http1::write_response(out, response, options, &disconnect));
    // The watcher must be done with the socket before the connection is closed.
    drop(watched);
    match &sent {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!(target: "aside::server", "A response was cut short: {error}"),
        Err(panic) => log::error!(target: "aside::server", "A response was cut short: its stream panicked: {panic}"),
    }
    matches!(sent, Ok(Ok(())))
}

/// Runs a function on a pooled thread.
pub(super) fn spawn_pooled(f: impl FnOnce() + Send + 'static) {
    let work = Work::new(move || {
        thread_pool::rename("aside-server");
        if let Err(panic) = panics::catch(f) {
            log::error!(target: "aside::server", "Closed a connection: its thread panicked: {panic}");
        }
        None
    });
    thread_pool::run(0, work);
}
