//! The parts of streaming responses that both transports share.

use std::io::Write;

use super::http1::{self, Terms};
use crate::background::panics;
use crate::background::thread_pool::{self, Work};
use crate::error::Status;
use crate::http::response::{Response, ResponseBody};
use crate::http::stream::disconnect::Disconnect;

/// Returns true if the response is a live page, which does not end by itself.
pub(super) fn is_live(response: &Response) -> bool {
    response.is_event_stream()
}

/// Replaces a stream by a 503 with this message: the limit of streams is reached.
pub(super) fn refuse_stream(mut response: Response, message: &'static str) -> Response {
    // The response itself is changed, so that it keeps its default headers and its deferred tasks.
    response.body = ResponseBody::Bytes(message.as_bytes().into());
    let response = response.status(Status::SERVICE_UNAVAILABLE).header("Retry-After", "5");
    response.header("Content-Type", "text/plain; charset=utf-8")
}

/// Writes a response to its end, and returns true if that succeeded. A failure is logged.
pub(super) fn write(out: &mut dyn Write, response: Response, terms: Terms, disconnect: &Disconnect) -> bool {
    let sent = panics::catch(|| http1::write_response(out, response, terms, disconnect));
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
