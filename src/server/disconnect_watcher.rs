//! The detection of clients that disconnect from live pages. One thread waits for hang-ups on the sockets of all live pages
//! and notifies the pages.
//!
//! tiny_http does not expose the socket of a connection, so the thread makes a duplicate (`socket::duplicates`). Its
//! descriptor stays valid until the page ends, which is before the connection is closed. To find a socket, the thread
//! examines all descriptors of the process, once for all pages that have begun in the meantime: a thousand pages that
//! reconnect after a restart cost little more than one.
//!
//! A client that closes its sending side counts as disconnected: browsers do not do that, and a client that has closed the
//! whole connection looks the same. A library may also close our side for reading when it expects no more requests, which
//! looks the same again: for such connections the kernel's table of connections is read. The events are edge-triggered, so
//! neither that nor further bytes of a client are reported repeatedly.
//!
//! This works on Linux. On other systems a disconnect is noticed when a write to the client fails.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use self::imp::{Established, HangUp, HangUps, Socket};
use crate::http::stream::disconnect::Disconnect;
use crate::sync::{lock, spawn};

/// A watcher for the clients of all live pages of a server.
pub(crate) struct DisconnectWatcher(Arc<Shared>);

struct Shared {
    port: u16,
    /// `None` if the kernel or a sandbox refuses the needed calls.
    hang_ups: Option<HangUps>,
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    last: u64,
    open: HashMap<u64, Page>,
    /// The pages whose sockets have not been searched for.
    new: Vec<u64>,
    is_watched: bool,
    is_closed: bool,
}

struct Page {
    remote: Option<SocketAddr>,
    disconnect: Disconnect,
    /// True if our side may have been closed for reading.
    may_be_shut: bool,
    socket: Option<Socket>,
}

impl DisconnectWatcher {
    /// Creates the watcher for the server on this port. If the kernel does not report hang-ups, it is disabled with a
    /// warning.
    pub(crate) fn new(port: u16) -> DisconnectWatcher {
        let hang_ups = HangUps::new().inspect_err(log_unwatched).ok();
        DisconnectWatcher(Arc::new(Shared { port, hang_ups, pages: Mutex::default() }))
    }

    /// Watches the client of a page until the returned value is dropped.
    pub(crate) fn begin(&self, remote: Option<SocketAddr>, may_be_shut: bool) -> WatchedPage {
        self.open(Page { remote, disconnect: Disconnect::default(), may_be_shut, socket: None })
    }

    /// Watches the client of a page whose socket is known, through a descriptor of its own.
    #[cfg(all(feature = "epoll", target_os = "linux"))]
    pub(crate) fn begin_on(&self, socket: Socket) -> WatchedPage {
        self.open(Page { remote: None, disconnect: Disconnect::default(), may_be_shut: false, socket: Some(socket) })
    }

    fn open(&self, page: Page) -> WatchedPage {
        let disconnect = page.disconnect.clone();
        let mut pages = lock(&self.0.pages);
        pages.last += 1;
        let id = pages.last;
        if pages.is_closed {
            disconnect.signal();
        }
        if self.0.is_watching(&mut pages) {
            match &page.socket {
                Some(socket) => self.0.add(id, socket).err().iter().for_each(log_unwatched),
                None => {
                    pages.new.push(id);
                    self.0.wake();
                }
            }
        }
        pages.open.insert(id, page);
        drop(pages);
        WatchedPage { of: self.0.clone(), id, disconnect }
    }

    /// Notifies all pages, and each page that begins later.
    pub(crate) fn close(&self) {
        let mut pages = lock(&self.0.pages);
        pages.is_closed = true;
        let all: Vec<Disconnect> = pages.open.values().map(|page| page.disconnect.clone()).collect();
        drop(pages);
        self.0.wake();
        all.iter().for_each(Disconnect::signal);
    }
}

impl Shared {
    /// Returns true if the thread runs. The first page starts it.
    fn is_watching(self: &Arc<Self>, pages: &mut Pages) -> bool {
        if !imp::IS_KNOWN || self.hang_ups.is_none() || pages.is_watched || pages.is_closed {
            return pages.is_watched;
        }
        let shared = self.clone();
        let spawned = spawn("aside-hang-ups", move || shared.watch());
        pages.is_watched = spawned.is_ok();
        spawned.err().iter().for_each(log_unwatched);
        pages.is_watched
    }

    fn add(&self, id: u64, socket: &Socket) -> io::Result<()> {
        self.hang_ups.as_ref().map_or(Ok(()), |hang_ups| hang_ups.add(id, socket))
    }

    fn wake(&self) {
        self.hang_ups.iter().for_each(HangUps::wake);
    }

    fn watch(&self) {
        while !lock(&self.pages).is_closed {
            if let Err(error) = self.wait_once() {
                log_unwatched(&error);
            }
        }
    }

    /// Waits for hang-ups and new pages, and notifies the pages whose clients have disconnected.
    fn wait_once(&self) -> io::Result<()> {
        let hang_ups = self.hang_ups.as_ref().map_or(Ok(Vec::new()), HangUps::wait)?;
        self.disconnected(&hang_ups).iter().for_each(Disconnect::signal);
        let new = std::mem::take(&mut lock(&self.pages).new);
        if new.is_empty() { Ok(()) } else { self.find_sockets(&new) }
    }

    /// Searches for the sockets of new pages. If there is none, the client has disconnected already.
    fn find_sockets(&self, new: &[u64]) -> io::Result<()> {
        let wanted: Vec<(u64, SocketAddr)> = {
            let pages = lock(&self.pages);
            new.iter().filter_map(|id| Some((*id, pages.open.get(id)?.remote?))).collect()
        };
        let addresses: Vec<SocketAddr> = wanted.iter().map(|(_, remote)| *remote).collect();
        let found = imp::duplicates(&addresses, self.port)?;
        let mut disconnected = Vec::new();
        let mut pages = lock(&self.pages);
        for ((id, _), socket) in wanted.into_iter().zip(found) {
            // A page that has ended in the meantime may have been followed by another one on the same connection.
            let Some(page) = pages.open.get_mut(&id) else { continue };
            match socket {
                Some(socket) => {
                    self.add(id, &socket)?;
                    page.socket = Some(socket);
                }
                None => disconnected.push(page.disconnect.clone()),
            }
        }
        drop(pages);
        disconnected.iter().for_each(Disconnect::signal);
        Ok(())
    }

    /// Returns the pages whose clients have disconnected.
    fn disconnected(&self, hang_ups: &[HangUp]) -> Vec<Disconnect> {
        let established = LazyCell::new(|| Established::read(self.port));
        let pages = lock(&self.pages);
        let affected = |hang_up: &HangUp| {
            let page = pages.open.get(&hang_up.id)?;
            let unclear = page.remote.filter(|_| page.may_be_shut && !hang_up.is_both_sides);
            Some((unclear, page.disconnect.clone()))
        };
        let affected: Vec<_> = hang_ups.iter().filter_map(affected).collect();
        // Without the lock, since reading the table takes long.
        drop(pages);
        let has_disconnected = |unclear: Option<SocketAddr>| unclear.is_none_or(|remote| !established.has(remote));
        affected
            .into_iter()
            .filter(|(unclear, _)| has_disconnected(*unclear))
            .map(|(_, disconnect)| disconnect)
            .collect()
    }
}

fn log_unwatched(error: &io::Error) {
    log::warn!(target: "aside::server", "Could not watch the connections of live pages: {error}; a disconnect is noticed only when a write fails.");
}

/// A page whose client is watched, until dropped.
pub(crate) struct WatchedPage {
    of: Arc<Shared>,
    id: u64,
    disconnect: Disconnect,
}

impl WatchedPage {
    /// Returns the flag that is set when the client disconnects or the server stops.
    pub(crate) fn disconnect(&self) -> &Disconnect {
        &self.disconnect
    }
}

impl Drop for WatchedPage {
    fn drop(&mut self) {
        let page = lock(&self.of.pages).open.remove(&self.id);
        let (socket, hang_ups) = (page.and_then(|page| page.socket), self.of.hang_ups.as_ref());
        socket.iter().zip(hang_ups).for_each(|(socket, hang_ups)| hang_ups.remove(socket));
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::io;
    use std::os::fd::OwnedFd;

    use rustix::buffer::spare_capacity;
    use rustix::event::epoll::{self, EventData, EventFlags};
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::Errno;

    pub(super) use crate::server::socket::{Established, duplicates};

    /// True if the operating system reports hang-ups.
    pub(super) const IS_KNOWN: bool = true;

    pub(super) type Socket = OwnedFd;

    /// The identifier of the wake-up event. The numbers of pages begin with 1.
    const WAKE: u64 = 0;

    /// The number of hang-ups fetched at once. The next call fetches the others.
    const BATCH: usize = 256;

    /// An epoll instance for hang-ups.
    pub(super) struct HangUps {
        epoll: OwnedFd,
        wake_event: OwnedFd,
    }

    /// A socket that is closed on at least one side.
    pub(super) struct HangUp {
        pub(super) id: u64,
        /// True if both sides are closed, or the connection is broken.
        pub(super) is_both_sides: bool,
    }

    impl HangUps {
        pub(super) fn new() -> io::Result<HangUps> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let wake_event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            epoll::add(&epoll, &wake_event, EventData::new_u64(WAKE), EventFlags::IN | EventFlags::ET)?;
            Ok(HangUps { epoll, wake_event })
        }

        /// Ends the wait. The event is edge-triggered, so it need not be consumed.
        pub(super) fn wake(&self) {
            // This fails only if the counter overflows.
            let _ = rustix::io::write(&self.wake_event, &1_u64.to_ne_bytes());
        }

        /// Adds a socket. A hang-up that has already happened is reported too.
        pub(super) fn add(&self, id: u64, socket: &Socket) -> io::Result<()> {
            Ok(epoll::add(&self.epoll, socket, EventData::new_u64(id), EventFlags::RDHUP | EventFlags::ET)?)
        }

        pub(super) fn remove(&self, socket: &Socket) {
            // This fails only if the socket was not added.
            let _ = epoll::delete(&self.epoll, socket);
        }

        /// Waits for hang-ups, or for a wake-up.
        pub(super) fn wait(&self) -> io::Result<Vec<HangUp>> {
            let mut events = Vec::with_capacity(BATCH);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let whole = EventFlags::HUP | EventFlags::ERR;
            let hang_up = |event: &epoll::Event| {
                let (id, flags) = (event.data.u64(), event.flags);
                (id != WAKE).then(|| HangUp { id, is_both_sides: flags.intersects(whole) })
            };
            Ok(events.iter().filter_map(hang_up).collect())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    use std::convert::Infallible;
    use std::io;
    use std::net::SocketAddr;

    pub(super) const IS_KNOWN: bool = false;

    pub(super) type Socket = Infallible;

    pub(super) fn duplicates(wanted: &[SocketAddr], _local_port: u16) -> io::Result<Vec<Option<Socket>>> {
        Ok(wanted.iter().map(|_| None).collect())
    }

    pub(super) struct Established;

    impl Established {
        pub(super) fn read(_local_port: u16) -> Established {
            Established
        }

        pub(super) fn has(&self, _remote: SocketAddr) -> bool {
            true
        }
    }

    pub(super) struct HangUps;

    pub(super) struct HangUp {
        pub(super) id: u64,
        pub(super) is_both_sides: bool,
    }

    impl HangUps {
        pub(super) fn new() -> io::Result<HangUps> {
            Ok(HangUps)
        }

        pub(super) fn wake(&self) {}

        pub(super) fn add(&self, _id: u64, socket: &Socket) -> io::Result<()> {
            match *socket {}
        }

        pub(super) fn remove(&self, socket: &Socket) {
            match *socket {}
        }

        pub(super) fn wait(&self) -> io::Result<Vec<HangUp>> {
            Ok(Vec::new())
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write;
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn watcher(theirs: &TcpStream) -> DisconnectWatcher {
        DisconnectWatcher::new(theirs.local_addr().unwrap().port())
    }

    #[test]
    fn a_hang_up_is_reported_once_and_bytes_never() {
        let (mut client, theirs) = connection();
        let hang_ups = HangUps::new().unwrap();
        hang_ups.add(1, &theirs.try_clone().unwrap().into()).unwrap();
        let reported = || {
            hang_ups.wake();
            hang_ups.wait().unwrap().into_iter().map(|hang_up| (hang_up.id, hang_up.is_both_sides)).collect::<Vec<_>>()
        };
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(reported(), []);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(reported(), [(1, false)]);
        assert_eq!(reported(), []);
    }

    #[test]
    fn both_pages_of_a_closed_connection_are_notified() {
        let ((client, theirs), (other, others)) = (connection(), connection());
        let watcher = watcher(&theirs);
        let [one, two] = [(), ()].map(|()| watcher.begin(Some(client.local_addr().unwrap()), false));
        // A connection to another port does not belong to this server.
        let elsewhere = watcher.begin(Some(other.local_addr().unwrap()), false);
        assert!(elsewhere.disconnect().wait(PATIENCE), "a connection that does not exist counts as disconnected");
        assert!(!one.disconnect().is_signaled() && !two.disconnect().is_signaled());
        drop((client, others));
        assert!(one.disconnect().wait(PATIENCE) && two.disconnect().wait(PATIENCE));
        watcher.close();
    }

    #[test]
    fn a_socket_that_the_server_closed_for_reading_is_not_a_disconnect() {
        let ((client, theirs), (next, _)) = (connection(), connection());
        let watcher = watcher(&theirs);
        theirs.shutdown(Shutdown::Read).unwrap();
        let page = watcher.begin(Some(client.local_addr().unwrap()), true);
        // Notified after the first page was examined.
        let round = || assert!(watcher.begin(next.local_addr().ok(), false).disconnect().wait(PATIENCE));
        round();
        round();
        assert!(!page.disconnect().is_signaled());
        client.shutdown(Shutdown::Write).unwrap();
        assert!(page.disconnect().wait(PATIENCE));
        watcher.close();
    }

    #[test]
    fn the_duplicate_socket_of_a_page_is_closed_with_the_page() {
        let (client, theirs) = connection();
        let watcher = watcher(&theirs);
        let page = watcher.begin(client.local_addr().ok(), false);
        let has_socket = || lock(&watcher.0.pages).open.values().any(|page| page.socket.is_some());
        while !has_socket() {
            std::thread::yield_now();
        }
        drop((page, theirs));
        assert!(lock(&watcher.0.pages).open.is_empty());
        // The client sees the end of the connection, since no descriptor is left.
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(io::Read::read(&mut &client, &mut [0]).unwrap(), 0);
        watcher.close();
    }

    #[test]
    fn a_page_that_begins_after_the_end_is_notified_at_once() {
        let (client, theirs) = connection();
        let watcher = watcher(&theirs);
        let before = watcher.begin(client.local_addr().ok(), false);
        watcher.close();
        let after = watcher.begin(client.local_addr().ok(), false);
        assert!(before.disconnect().is_signaled() && after.disconnect().is_signaled());
    }
}
