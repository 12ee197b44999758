//! The disposal of tiny_http requests whose body was not read.
//!
//! At the end of a connection tiny_http allocates the rest of a declared body in one zeroed block. A hundred clients that
//! each declared 30 MB and disconnected made it take 1.6 GB at once, and most of that stayed with the threads. Therefore
//! the remaining bytes are read from the socket directly, and one thread drops all such requests, one after another.

use std::io::Read;
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::wire::PIECE;
use crate::panics;

type End = Box<dyn FnOnce() + Send>;

/// Reads the client's remaining bytes until the connection ends.
pub(super) fn read_away(mut connection: impl Read) {
    let mut buffer = vec![0; PIECE];
    // It may end in an error or at once; either way there is nothing more.
    while matches!(connection.read(&mut buffer), Ok(count) if count > 0) {}
}

/// Drops a request on the dedicated thread. Its connection must have no more input, so that the drop does not block.
pub(super) fn end(drop_it: impl FnOnce() + Send + 'static) {
    static THREAD: LazyLock<Option<Sender<End>>> = LazyLock::new(start);
    match &*THREAD {
        // The thread lives as long as the process.
        Some(thread) => drop(thread.send(Box::new(drop_it))),
        None => drop_it(),
    }
}

fn start() -> Option<Sender<End>> {
    let (sender, ends) = channel::<End>();
    let work = move || ends.into_iter().for_each(|end| drop(panics::catch(end)));
    thread::Builder::new().name("aside-drain".into()).spawn(work).ok().map(|_| sender)
}
