//! Who has left: one thread waits on the sockets of all live pages for their clients to hang up, and tells the pages.
//!
//! A library that holds a connection does not give its socket out, so a duplicate is made (`socket::duplicates`), whose
//! number is ours as long as we keep it: until the page ends, which is before its connection is let go. To find one all
//! descriptors of the process are looked through. The thread does that, once for all pages that have begun meanwhile, so
//! that a thousand that come back after a restart cost little more than one.
//!
//! A client that shuts its side of the connection counts as gone: browsers do not do that, and a client that has really left
//! looks the same. But a library may shut our side for reading too, when it expects no more requests, and that looks the same
//! again: for such connections the system's table is asked. The events are edge-triggered, so neither that nor bytes that a
//! client sends meanwhile are reported again and again.
//!
//! This is so on Linux. Elsewhere that a client has left is noticed by writing to it.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use self::imp::{Established, HangUp, HangUps, Socket};
use crate::http::disconnect::Disconnect;
use crate::sync::lock;

/// The live pages of a server.
pub(crate) struct Departures(Arc<Shared>);

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
    /// Those whose sockets have not been looked for.
    new: Vec<u64>,
    is_watched: bool,
    is_closed: bool,
}

struct Page {
    remote: Option<SocketAddr>,
    disconnect: Disconnect,
    /// Our side may have been shut for reading.
    may_be_shut: bool,
    socket: Option<Socket>,
}

impl Departures {
    /// Creates the watcher for the server on this port. If the kernel does not report hang-ups, it is disabled with a
    /// warning.
    pub(crate) fn new(port: u16) -> Departures {
        let hang_ups = HangUps::new().inspect_err(unnoticed).ok();
        Departures(Arc::new(Shared { port, hang_ups, pages: Mutex::default() }))
    }

    /// Begins to look after a page, until what is given back is dropped.
    pub(crate) fn begin(&self, remote: Option<SocketAddr>, may_be_shut: bool) -> Presence {
        self.open(Page { remote, disconnect: Disconnect::default(), may_be_shut, socket: None })
    }

    /// The same for a page whose socket is known: a descriptor of its own.
    #[cfg(all(feature = "epoll", target_os = "linux"))]
    pub(crate) fn begin_on(&self, socket: Socket) -> Presence {
        self.open(Page { remote: None, disconnect: Disconnect::default(), may_be_shut: false, socket: Some(socket) })
    }

    fn open(&self, page: Page) -> Presence {
        let disconnect = page.disconnect.clone();
        let mut pages = lock(&self.0.pages);
        pages.last += 1;
        let id = pages.last;
        if pages.is_closed {
            disconnect.tell();
        }
        if self.0.is_watching(&mut pages) {
            match &page.socket {
                Some(socket) => self.0.add(id, socket).err().iter().for_each(unnoticed),
                None => {
                    pages.new.push(id);
                    self.0.ring();
                }
            }
        }
        pages.open.insert(id, page);
        drop(pages);
        Presence { of: self.0.clone(), id, disconnect }
    }

    /// Tells all pages, those too that still come.
    pub(crate) fn close(&self) {
        let mut pages = lock(&self.0.pages);
        pages.is_closed = true;
        let all: Vec<Disconnect> = pages.open.values().map(|page| page.disconnect.clone()).collect();
        drop(pages);
        self.0.ring();
        all.iter().for_each(Disconnect::tell);
    }
}

impl Shared {
    /// Whether the thread is there. It is started once there is something to watch.
    fn is_watching(self: &Arc<Self>, pages: &mut Pages) -> bool {
        if !imp::IS_KNOWN || self.hang_ups.is_none() || pages.is_watched || pages.is_closed {
            return pages.is_watched;
        }
        let shared = self.clone();
        let thread = std::thread::Builder::new().name("aside-departures".into());
        let spawned = thread.spawn(move || shared.watch());
        pages.is_watched = spawned.is_ok();
        spawned.err().iter().for_each(unnoticed);
        pages.is_watched
    }

    fn add(&self, id: u64, socket: &Socket) -> io::Result<()> {
        self.hang_ups.as_ref().map_or(Ok(()), |hang_ups| hang_ups.add(id, socket))
    }

    fn ring(&self) {
        self.hang_ups.iter().for_each(HangUps::ring);
    }

    fn watch(&self) {
        while !lock(&self.pages).is_closed {
            if let Err(error) = self.look() {
                unnoticed(&error);
            }
        }
    }

    /// Waits for news, and tells whom they concern.
    fn look(&self) -> io::Result<()> {
        let hang_ups = self.hang_ups.as_ref().map_or(Ok(Vec::new()), HangUps::wait)?;
        self.gone(&hang_ups).iter().for_each(Disconnect::tell);
        let new = std::mem::take(&mut lock(&self.pages).new);
        if new.is_empty() { Ok(()) } else { self.look_for(&new) }
    }

    /// Looks for the sockets of new pages. One whose socket is not there any more has been left already.
    fn look_for(&self, new: &[u64]) -> io::Result<()> {
        let wanted: Vec<(u64, SocketAddr)> = {
            let pages = lock(&self.pages);
            new.iter().filter_map(|id| Some((*id, pages.open.get(id)?.remote?))).collect()
        };
        let addresses: Vec<SocketAddr> = wanted.iter().map(|(_, remote)| *remote).collect();
        let found = imp::duplicates(&addresses, self.port)?;
        let mut gone = Vec::new();
        let mut pages = lock(&self.pages);
        for ((id, _), socket) in wanted.into_iter().zip(found) {
            // One that has ended meanwhile may have been followed by another on the same connection.
            let Some(page) = pages.open.get_mut(&id) else { continue };
            match socket {
                Some(socket) => {
                    self.add(id, &socket)?;
                    page.socket = Some(socket);
                }
                None => gone.push(page.disconnect.clone()),
            }
        }
        drop(pages);
        gone.iter().for_each(Disconnect::tell);
        Ok(())
    }

    /// The pages that have really been left.
    fn gone(&self, hang_ups: &[HangUp]) -> Vec<Disconnect> {
        let established = LazyCell::new(|| Established::read(self.port));
        let pages = lock(&self.pages);
        let concerned = |hang_up: &HangUp| {
            let page = pages.open.get(&hang_up.id)?;
            let unclear = page.remote.filter(|_| page.may_be_shut && !hang_up.is_whole);
            Some((unclear, page.disconnect.clone()))
        };
        let concerned: Vec<_> = hang_ups.iter().filter_map(concerned).collect();
        // The table is long to read.
        drop(pages);
        let is_gone = |unclear: Option<SocketAddr>| unclear.is_none_or(|remote| !established.has(remote));
        concerned.into_iter().filter(|(unclear, _)| is_gone(*unclear)).map(|(_, disconnect)| disconnect).collect()
    }
}

fn unnoticed(error: &io::Error) {
    log::warn!(target: "aside::server", "That visitors leave is noticed only by writing to them: {error}");
}

/// A page that is looked after.
pub(crate) struct Presence {
    of: Arc<Shared>,
    id: u64,
    disconnect: Disconnect,
}

impl Presence {
    /// What is told when its visitor has left, or the server stops.
    pub(crate) fn disconnect(&self) -> &Disconnect {
        &self.disconnect
    }
}

impl Drop for Presence {
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

    pub(super) use super::super::socket::{Established, duplicates};

    /// Whether the system says when a client has left.
    pub(super) const IS_KNOWN: bool = true;

    pub(super) type Socket = OwnedFd;

    /// What the bell is called among the pages, whose numbers begin with 1.
    const BELL: u64 = 0;

    /// How many are told at once. More are told in the next round.
    const ROUND: usize = 256;

    /// Where the system says which sockets were hung up.
    pub(super) struct HangUps {
        epoll: OwnedFd,
        bell: OwnedFd,
    }

    /// A socket of which at least one side is shut.
    pub(super) struct HangUp {
        pub(super) id: u64,
        /// Both are, or the connection is broken.
        pub(super) is_whole: bool,
    }

    impl HangUps {
        pub(super) fn new() -> io::Result<HangUps> {
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)?;
            Ok(HangUps { epoll, bell })
        }

        /// Ends the wait. Edge-triggered, the bell need not be stilled.
        pub(super) fn ring(&self) {
            // Refused only when it has rung more often than anybody can count.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }

        /// One that was hung up before is reported as well.
        pub(super) fn add(&self, id: u64, socket: &Socket) -> io::Result<()> {
            Ok(epoll::add(&self.epoll, socket, EventData::new_u64(id), EventFlags::RDHUP | EventFlags::ET)?)
        }

        pub(super) fn remove(&self, socket: &Socket) {
            // Refused only when it was not there.
            let _ = epoll::delete(&self.epoll, socket);
        }

        /// Waits for hang-ups, or for the bell.
        pub(super) fn wait(&self) -> io::Result<Vec<HangUp>> {
            let mut events = Vec::with_capacity(ROUND);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let whole = EventFlags::HUP | EventFlags::ERR;
            let hang_up = |event: &epoll::Event| {
                let (id, flags) = (event.data.u64(), event.flags);
                (id != BELL).then(|| HangUp { id, is_whole: flags.intersects(whole) })
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
        pub(super) is_whole: bool,
    }

    impl HangUps {
        pub(super) fn new() -> io::Result<HangUps> {
            Ok(HangUps)
        }

        pub(super) fn ring(&self) {}

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

    fn departures(theirs: &TcpStream) -> Departures {
        Departures::new(theirs.local_addr().unwrap().port())
    }

    #[test]
    fn a_hang_up_is_reported_once_and_bytes_never() {
        let (mut client, theirs) = connection();
        let hang_ups = HangUps::new().unwrap();
        hang_ups.add(1, &theirs.try_clone().unwrap().into()).unwrap();
        let reported = || {
            hang_ups.ring();
            hang_ups.wait().unwrap().into_iter().map(|hang_up| (hang_up.id, hang_up.is_whole)).collect::<Vec<_>>()
        };
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(reported(), []);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(reported(), [(1, false)]);
        assert_eq!(reported(), []);
    }

    #[test]
    fn two_pages_of_one_connection_are_told_and_others_are_not() {
        let ((client, theirs), (other, others)) = (connection(), connection());
        let departures = departures(&theirs);
        let [one, two] = [(), ()].map(|()| departures.begin(Some(client.local_addr().unwrap()), false));
        // On another port of ours: no page of this server.
        let elsewhere = departures.begin(Some(other.local_addr().unwrap()), false);
        assert!(elsewhere.disconnect().wait(PATIENCE), "a connection that is not there has been left");
        assert!(!one.disconnect().is_told() && !two.disconnect().is_told());
        drop((client, others));
        assert!(one.disconnect().wait(PATIENCE) && two.disconnect().wait(PATIENCE));
        departures.close();
    }

    #[test]
    fn a_side_that_we_shut_ourselves_is_no_departure() {
        let ((client, theirs), (next, _)) = (connection(), connection());
        let departures = departures(&theirs);
        theirs.shutdown(Shutdown::Read).unwrap();
        let page = departures.begin(Some(client.local_addr().unwrap()), true);
        // Told after the first has been looked at.
        let round = || assert!(departures.begin(next.local_addr().ok(), false).disconnect().wait(PATIENCE));
        round();
        round();
        assert!(!page.disconnect().is_told());
        client.shutdown(Shutdown::Write).unwrap();
        assert!(page.disconnect().wait(PATIENCE));
        departures.close();
    }

    #[test]
    fn what_was_held_of_a_page_is_let_go_with_it() {
        let (client, theirs) = connection();
        let departures = departures(&theirs);
        let page = departures.begin(client.local_addr().ok(), false);
        let has_socket = || lock(&departures.0.pages).open.values().any(|page| page.socket.is_some());
        while !has_socket() {
            std::thread::yield_now();
        }
        drop((page, theirs));
        assert!(lock(&departures.0.pages).open.is_empty());
        // The client is told of the end, since no descriptor is left.
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(io::Read::read(&mut &client, &mut [0]).unwrap(), 0);
        departures.close();
    }

    #[test]
    fn who_comes_after_the_end_is_told_at_once() {
        let (client, theirs) = connection();
        let departures = departures(&theirs);
        let before = departures.begin(client.local_addr().ok(), false);
        departures.close();
        let after = departures.begin(client.local_addr().ok(), false);
        assert!(before.disconnect().is_told() && after.disconnect().is_told());
    }
}
