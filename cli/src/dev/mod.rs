//! `aside dev`: builds and serves the site, and again whenever its files change.
//!
//! This process owns the listening socket, so that no connection is refused. Each process of the site receives it, as at a restart
//! without loss (SIGUSR2): the former process serves until the new one is prepared, and is then stopped gracefully. While none
//! serves, the [`gate`] accepts connections.

mod ansi;
mod board;
mod cargo_build;
mod events;
mod gate;
mod page;
mod process_group;
mod request_head;
mod session;
mod site_process;
mod watch;

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::arguments::DevOptions;
use crate::site_folder::{self, depends_on_aside, is_aside};
use crate::{Failure, current_folder};
use board::Board;
use gate::Gate;
use session::{Event, Session};
use watch::Watched;

const DEFAULT_ADDRESS: &str = "127.0.0.1:8000";

/// The most connections that wait until they are accepted, as for a site without `aside dev`.
const QUEUE: i32 = 1024;

/// Serves the site of the current folder until a signal ends it.
pub fn run(options: DevOptions) -> Result<String, Failure> {
    let root = site_folder::find(&current_folder()?, |manifest| depends_on_aside(manifest) || is_aside(manifest))?;
    let listener = listen()?;
    let failed = |error: io::Error| Failure::Failed(format!("could not start to serve: {error}"));
    let address = listener.local_addr().map_err(failed)?;
    let stream = events::listen(address).map_err(failed)?;
    let events_port = stream.local_addr().map_err(failed)?.port();
    let (tell, events) = mpsc::channel();
    watch_signals(tell.clone()).map_err(failed)?;
    let board = Arc::new(Board::default());
    events::serve(stream, board.clone());
    let listener = Arc::new(listener);
    let gate = Gate::new(listener.clone(), address.port(), events_port, board.clone());
    let watched = Watched::new(root.clone());
    let tell_changes = tell.clone();
    watched.start(move |changes| drop(tell_changes.send(Event::Changed(changes))));
    say(&format!("the site will be on http://{address}, and the events for its pages on port {events_port}"));
    Session::new(session::Parts { root, options, listener, events_port, gate, watched, board, tell })
        .run(&events)
        .map_err(failed)?;
    Ok(String::new())
}

/// Prints a line about what is done. Standard output is the site's.
fn say(line: &str) {
    let _ = writeln!(io::stderr(), "aside: {line}"); // standard error may be closed
}

fn listen() -> Result<TcpListener, Failure> {
    let address = std::env::var("ASIDE_ADDR").ok().filter(|address| !address.is_empty());
    let address = address.as_deref().unwrap_or(DEFAULT_ADDRESS);
    if address.starts_with("unix:") {
        let message = "`aside dev` is for browsers, which use no Unix socket: set ASIDE_ADDR to an address and a port";
        return Err(Failure::Misuse(message.to_owned()));
    }
    let addresses: Vec<SocketAddr> = address.to_socket_addrs().map(Iterator::collect).map_err(|_| {
        Failure::Misuse(format!(
            "ASIDE_ADDR takes an address and a port, such as {DEFAULT_ADDRESS}, and not `{}`",
            address.escape_debug()
        ))
    })?;
    let bind = || {
        let listener = TcpListener::bind(&addresses[..])?;
        rustix::net::listen(&listener, QUEUE)?; // longer than the one of the standard library
        Ok(listener)
    };
    bind().map_err(|error: io::Error| {
        Failure::Failed(match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("{address} is in use by another process; stop that one, or set ASIDE_ADDR to another address")
            }
            _ => format!("could not listen on {address}: {error}; set ASIDE_ADDR to another address"),
        })
    })
}

/// Reports the signals that end this process: of Ctrl-C, of a closed terminal, and of `kill`.
fn watch_signals(tell: mpsc::Sender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || signals.forever().for_each(|_| drop(tell.send(Event::Stop))));
    Ok(())
}
