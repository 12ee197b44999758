//! The disposal of tiny_http requests whose body was not read.
//!
//! At the end of a connection tiny_http allocates the rest of a declared body in one zeroed block. A hundred clients that
//! each declared 30 MB and disconnected made it take 1.6 GB at once, and most of that stayed with the threads. Therefore
//! the remaining bytes are read from the socket directly, and one thread drops all such requests, one after another.

use std::io::Read;
use std::sync::LazyLock;

use crate::channel::{Sender, channel};
use crate::panics;
use crate::server::http1::PIECE;
use crate::sync::spawn;

type DropRequest = Box<dyn FnOnce() + Send>;

/// Reads the client's remaining bytes until the connection ends.
pub(super) fn discard_input(mut connection: impl Read) {
    let mut buffer = vec![0; PIECE];
    // An error also means that no more input follows.
    while matches!(connection.read(&mut buffer), Ok(count) if count > 0) {}
}

/// Drops a request on the dedicated thread. Its connection must have no more input, so that the drop does not block.
pub(super) fn drop_on_thread(drop_request: impl FnOnce() + Send + 'static) {
    static THREAD: LazyLock<Option<Sender<DropRequest>>> = LazyLock::new(start);
    match &*THREAD {
        // The thread runs as long as the process.
        Some(thread) => drop(thread.send(Box::new(drop_request))),
        None => drop_request(),
    }
}

fn start() -> Option<Sender<DropRequest>> {
    let (sender, drops) = channel::<DropRequest>();
    let work = move || drops.for_each(|end| drop(panics::catch(end)));
    spawn("aside-drain", work).ok().map(|_| sender)
}
