//! What transports do alike with responses that take a while.

use std::io::Write;

use super::wire::{self, Terms};
use crate::background::panics;
use crate::background::threads::{self, Work};
use crate::error::Status;
use crate::http::disconnect::Disconnect;
use crate::http::response::{Response, ResponseBody};

/// Whether it is a live page, which has no end to wait for.
pub(super) fn is_live(response: &Response) -> bool {
    response.is_event_stream()
}

/// An apology in the place of a stream, when there are as many as may be already.
pub(super) fn too_many(mut response: Response, apology: &'static str) -> Response {
    // In place, so that the headers that every response has stay, and what was set aside on it.
    response.body = ResponseBody::Bytes(apology.as_bytes().into());
    let response = response.status(Status::SERVICE_UNAVAILABLE).header("Retry-After", "5");
    response.header("Content-Type", "text/plain; charset=utf-8")
}

/// Sends a response to its end, and says whether that worked out; what did not is in the log.
pub(super) fn send(out: &mut dyn Write, response: Response, terms: Terms, disconnect: &Disconnect) -> bool {
    let sent = panics::catch(|| wire::send(out, response, terms, disconnect));
    match &sent {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!(target: "aside::server", "A response was cut short: {error}"),
        Err(panic) => log::error!(target: "aside::server", "A response was cut short, its stream panicked: {panic}"),
    }
    matches!(sent, Ok(Ok(())))
}

/// Does something on a kept thread.
pub(super) fn aside(f: impl FnOnce() + Send + 'static) {
    let work = Work::new(move || {
        threads::rename("aside-server");
        if let Err(panic) = panics::catch(f) {
            log::error!(target: "aside::server", "A connection was given up, it panicked: {panic}");
        }
        None
    });
    threads::run(0, work);
}
