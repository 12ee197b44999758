//! The gate: it accepts connections while no process of the site does.
//!
//! A navigation gets a page that shows the progress of the build. Every other request is held until a process serves, and then
//! forwarded byte for byte.

use std::io::{self, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::board::Board;
use super::page;
use super::request_head::RequestHead;

/// The most connections that are held, each with a thread. Others wait in the queue of the socket.
const MOST_HELD: usize = 200;

/// How long the gate then waits until it looks for a free thread.
const FULL: Duration = Duration::from_millis(50);

/// How often a held connection is checked, so that one whose client has left takes no place.
const CHECK: Duration = Duration::from_millis(500);

/// What the threads of the connections share.
struct Shared {
    board: Arc<Board>,
    /// The port of the site.
    site: u16,
    /// The port of the event stream.
    events: u16,
    held: AtomicUsize,
}

pub struct Gate {
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
    open: Option<Open>,
}

/// A gate that accepts connections.
struct Open {
    accepts: JoinHandle<()>,
    /// The thread ends when this is dropped.
    alive: UnixStream,
}

impl Gate {
    pub fn new(listener: Arc<TcpListener>, site: u16, events: u16, board: Arc<Board>) -> Gate {
        let shared = Shared { board, site, events, held: AtomicUsize::new(0) };
        Gate { listener, shared: Arc::new(shared), open: None }
    }

    /// Accepts connections from now on.
    pub fn open(&mut self) -> io::Result<()> {
        if self.open.is_some() {
            return Ok(());
        }
        // The mode is shared with the processes of the site, of which each sets its own when it begins to accept.
        self.listener.set_nonblocking(true)?;
        let (alive, ended) = UnixStream::pair()?;
        let (listener, shared) = (self.listener.clone(), self.shared.clone());
        let accepts = thread::spawn(move || accept(&listener, &ended, &shared));
        self.open = Some(Open { accepts, alive });
        Ok(())
    }

    /// Accepts no more connections once this returns: the next ones wait in the queue of the socket.
    pub fn close(&mut self) {
        if let Some(Open { accepts, alive }) = self.open.take() {
            drop(alive);
            let _ = accepts.join(); // it does not panic
        }
    }
}

/// Accepts connections until the other end of `ended` is closed.
fn accept(listener: &TcpListener, ended: &UnixStream, shared: &Arc<Shared>) {
    loop {
        let is_full = shared.held.load(Ordering::Relaxed) >= MOST_HELD;
        let full = Timespec::try_from(FULL).ok().filter(|_| is_full);
        let mut events = [PollFd::new(ended, PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        let watched = if is_full { &mut events[..1] } else { &mut events[..] };
        let _ = poll(watched, full.as_ref()); // interrupted, it is called again
        if !events[0].revents().is_empty() {
            return;
        }
        // Without a connection it fails: one that was there may be gone.
        if !is_full && let Ok((stream, _)) = listener.accept() {
            hold(stream, shared);
        }
    }
}

fn hold(stream: TcpStream, shared: &Arc<Shared>) {
    let shared = shared.clone();
    shared.held.fetch_add(1, Ordering::Relaxed);
    thread::spawn(move || {
        // An error means that the client has closed the connection.
        let _ = serve(&stream, &shared);
        shared.held.fetch_sub(1, Ordering::Relaxed);
    });
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nonblocking(false)?; // macOS inherits the mode of the listener
    let head = RequestHead::of(stream)?;
    if head.0.is_empty() {
        return Ok(());
    }
    let state = shared.board.state();
    if !state.serves && head.is_navigation() {
        return stream.write_all(&page::response(&state, shared.events, head.has_fixed_host()));
    }
    while !shared.board.wait_until_served(CHECK) {
        if is_closed(stream) {
            return Ok(());
        }
    }
    if is_closed(stream) {
        return Ok(());
    }
    // The address that the client has used: the site shows details of errors to clients of this machine only, and takes the
    // request of another one for theirs if it comes over the loopback interface.
    let mut site = stream.local_addr()?;
    site.set_port(shared.site);
    forward(stream, &head.0, TcpStream::connect(site)?)
}

/// Returns true if the client has given up, so that a form is not processed which the user has sent again since.
fn is_closed(stream: &TcpStream) -> bool {
    if has_hung_up(stream) {
        return true;
    }
    let _ = stream.set_nonblocking(true);
    let is_closed = matches!(stream.peek(&mut [0]), Ok(0));
    let _ = stream.set_nonblocking(false);
    is_closed
}

/// Returns true if the client has closed the connection, also if there are bytes that were not read yet.
#[cfg(target_os = "linux")]
fn has_hung_up(stream: &TcpStream) -> bool {
    let mut events = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut events, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Other systems do not report it.
#[cfg(not(target_os = "linux"))]
fn has_hung_up(_stream: &TcpStream) -> bool {
    false
}

/// Copies both ways until both sides have ended.
fn forward(client: &TcpStream, sent: &[u8], site: TcpStream) -> io::Result<()> {
    let _ = site.set_nodelay(true);
    let _ = client.set_nodelay(true);
    (&site).write_all(sent)?;
    thread::scope(|scope| {
        scope.spawn(|| copy(client, &site));
        copy(&site, client);
    });
    Ok(())
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    // An error ends this direction as the end of the data does.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::SocketAddr;

    use super::*;
    use crate::dev::board::Problem;

    /// A gate on a free port, whose site is another listener.
    fn gate() -> (Gate, SocketAddr, TcpListener, Arc<Board>) {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (listener, site, board) = (bind(), bind(), Arc::new(Board::default()));
        let address = listener.local_addr().unwrap();
        let mut gate = Gate::new(Arc::new(listener), site.local_addr().unwrap().port(), 8001, board.clone());
        gate.open().unwrap();
        (gate, address, site, board)
    }

    fn send(address: SocketAddr, request: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(request).unwrap();
        client
    }

    fn get_page(address: SocketAddr) -> String {
        let mut page = String::new();
        let mut client = send(address, b"GET / HTTP/1.1\r\nHost: a\r\nAccept: text/html\r\n\r\n");
        client.read_to_string(&mut page).unwrap();
        page
    }

    #[test]
    fn a_navigation_gets_the_page_at_once() {
        let (_gate, address, _site, board) = gate();
        board.update(|state| state.progress = "12/40".into());
        let page = get_page(address);
        assert!(page.starts_with("HTTP/1.1 503 ") && page.contains("12/40"), "{page}");
    }

    #[test]
    fn another_request_is_held_and_forwarded_byte_for_byte() {
        let (mut gate, address, site, board) = gate();
        let request = b"POST /a HTTP/1.1\r\nhost:a\r\nContent-Length: 300000\r\n\r\n\x00\xff\r\n";
        let mut client = send(address, request);
        // Connections are accepted in order.
        get_page(address);
        gate.close();
        site.set_nonblocking(true).unwrap();
        assert!(site.accept().is_err(), "it was forwarded before the site serves");
        site.set_nonblocking(false).unwrap();
        board.update(|state| state.serves = true);
        let (mut served, _) = site.accept().unwrap();
        let rest = vec![b'x'; 300_000 - 4];
        let sends = thread::spawn({
            let (mut client, rest) = (client.try_clone().unwrap(), rest.clone());
            move || client.write_all(&rest)
        });
        let mut received = vec![0; request.len() + rest.len()];
        served.read_exact(&mut received).unwrap();
        sends.join().unwrap().unwrap();
        assert!(received == [&request[..], &rest].concat());
        served.write_all(b"HTTP/1.1 200 OK\r\n\r\ndone").unwrap();
        drop(served);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "HTTP/1.1 200 OK\r\n\r\ndone");
    }

    #[test]
    fn a_request_whose_client_has_given_up_is_not_forwarded() {
        let (_gate, address, site, board) = gate();
        drop(send(address, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"));
        get_page(address);
        let waits = send(address, b"GET /second HTTP/1.1\r\n\r\n");
        board.update(|state| state.serves = true);
        let mut first = [0; 11];
        site.accept().unwrap().0.read_exact(&mut first).unwrap();
        assert_eq!(&first, b"GET /second");
        drop(waits);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn clients_that_have_left_take_no_place() {
        let (_gate, address, _site, _board) = gate();
        for _ in 0..MOST_HELD {
            drop(send(address, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"));
        }
        assert!(get_page(address).starts_with("HTTP/1.1 503 "));
    }

    #[test]
    fn a_page_of_another_name_gets_no_source_lines() {
        let (_gate, address, _site, board) = gate();
        let details = "let secret".to_owned();
        board.update(|state| state.problem = Some(Problem { title: "The build failed".into(), details }));
        let page = |host: &str| {
            let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nSec-Fetch-Mode: navigate\r\n\r\n");
            let (mut page, mut client) = (String::new(), send(address, request.as_bytes()));
            client.read_to_string(&mut page).unwrap();
            page
        };
        assert!(page("localhost:8000").contains("let secret"));
        let rebound = page("evil.example:8000");
        assert!(rebound.contains("The build failed") && !rebound.contains("let secret"), "{rebound}");
    }

    #[test]
    #[cfg(target_os = "linux")] // All addresses of 127.0.0.0/8 exist.
    fn the_site_is_reached_over_the_address_that_the_client_has_used() {
        let bind = || TcpListener::bind("0.0.0.0:0").unwrap();
        let (listener, site, board) = (bind(), bind(), Arc::new(Board::default()));
        let port = listener.local_addr().unwrap().port();
        let mut gate = Gate::new(Arc::new(listener), site.local_addr().unwrap().port(), 8001, board.clone());
        gate.open().unwrap();
        let _client = send(SocketAddr::from(([127, 0, 0, 2], port)), b"POST / HTTP/1.1\r\n\r\n");
        board.update(|state| state.serves = true);
        assert_eq!(site.accept().unwrap().0.local_addr().unwrap().ip(), SocketAddr::from(([127, 0, 0, 2], 0)).ip());
    }

    #[test]
    fn a_closed_gate_leaves_connections_to_the_site() {
        let (mut gate, address, _site, _board) = gate();
        gate.close();
        let listener = gate.listener.clone();
        let client = send(address, b"GET / HTTP/1.1\r\nAccept: text/html\r\n\r\n");
        listener.set_nonblocking(false).unwrap();
        assert_eq!(listener.accept().unwrap().1, client.local_addr().unwrap());
    }
}
