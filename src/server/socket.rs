//! The socket behind a connection that a library holds and does not give out.
//!
//! Looked for among the process's descriptors by its two addresses, which costs a call to the system for each of them:
//! for what goes wrong, never for a page. A number stays a connection's own only while the library holds both its halves:
//! reading and writing need a request whose body has not been let go beside the [`Peer`]; ending looks anew. What is held
//! for longer is a duplicate of our own ([`duplicates`]).
//!
//! `rustix` asks for a borrowed descriptor, which cannot be had from a number without `unsafe`, and its
//! `pidfd_getfd` is refused in most containers; `nix` takes the number.

#[cfg(unix)]
mod imp {
    use std::collections::{HashMap, HashSet};
    use std::io::{self, Write};
    use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicI32, Ordering};
    #[cfg(target_os = "linux")]
    use std::{
        io::{IoSlice, IoSliceMut},
        mem::MaybeUninit,
        os::fd::{AsRawFd, OwnedFd},
        os::unix::net::UnixDatagram,
        sync::Arc,
    };

    use nix::errno::Errno;
    #[cfg(target_os = "linux")]
    use nix::sys::socket::ControlMessage;
    use nix::sys::socket::{self, MsgFlags, SockaddrLike, SockaddrStorage};
    #[cfg(target_os = "linux")]
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

    /// The highest descriptor at the last listing.
    static HIGHEST: AtomicI32 = AtomicI32::new(0);

    /// A connection's socket.
    #[derive(Debug, Clone)]
    pub(crate) struct Peer {
        fd: i32,
        remote: SocketAddr,
        local_port: u16,
        name: Option<PathBuf>,
        /// True if the number belongs to our own duplicate.
        #[cfg(target_os = "linux")]
        own: Option<Arc<OwnedFd>>,
    }

    /// The socket whose other end is `remote`, and whose own port is the listener's.
    pub(crate) fn find(remote: SocketAddr, local_port: u16) -> Option<Peer> {
        let is_it = |&fd: &i32| is(fd, remote, local_port);
        // The lowest free number is assigned first, so open descriptors are close together, and testing each is cheaper
        // than listing them.
        let tried = HIGHEST.load(Ordering::Relaxed);
        let fd = (0..=tried).find(is_it).or_else(|| {
            let listed = descriptors();
            HIGHEST.store(listed.iter().copied().max().unwrap_or(0), Ordering::Relaxed);
            listed.into_iter().filter(|fd| *fd > tried).find(is_it)
        })?;
        Some(Peer {
            fd,
            remote,
            local_port,
            name: name_of(fd),
            #[cfg(target_os = "linux")]
            own: None,
        })
    }

    /// What the system calls the socket of that connection, where it says so (Linux does). Another connection from the same
    /// address, after this one, has another name.
    pub(crate) fn name(remote: SocketAddr, local_port: u16) -> Option<PathBuf> {
        find(remote, local_port)?.name
    }

    fn name_of(fd: i32) -> Option<PathBuf> {
        std::fs::read_link(format!("/dev/fd/{fd}")).ok()
    }

    /// Ends all connections to that port.
    pub(crate) fn shut_all(local_port: u16) {
        let of_port = |&fd: &i32| own_port(fd) == Some(local_port) && peer_of(fd).is_some();
        descriptors().into_iter().filter(of_port).for_each(|fd| shut(fd, Shutdown::Both));
    }

    /// Returns the connections to this port, by client address, each with one of its descriptors.
    pub(crate) fn connections(local_port: u16) -> HashMap<SocketAddr, i32> {
        let of_port = |fd: &i32| own_port(*fd) == Some(local_port);
        descriptors().into_iter().filter(of_port).filter_map(|fd| Some((peer_of(fd)?, fd))).collect()
    }

    /// Closes a connection from that listing, unless its descriptor has been reused.
    pub(crate) fn end(fd: i32, remote: SocketAddr, local_port: u16) {
        if is(fd, remote, local_port) {
            shut(fd, Shutdown::Both);
        }
    }

    /// Returns true if there is a connection to this port.
    pub(crate) fn has_connections(local_port: u16) -> bool {
        descriptors().into_iter().any(|fd| own_port(fd) == Some(local_port) && peer_of(fd).is_some())
    }

    /// Closes the connections of these clients to this port.
    pub(crate) fn shut_clients(clients: &[SocketAddr], local_port: u16) {
        let is_theirs =
            |&fd: &i32| own_port(fd) == Some(local_port) && peer_of(fd).is_some_and(|peer| clients.contains(&peer));
        descriptors().into_iter().filter(is_theirs).for_each(|fd| shut(fd, Shutdown::Both));
    }

    /// How many descriptors the process has.
    pub(crate) fn count() -> usize {
        std::fs::read_dir("/dev/fd").map_or(0, Iterator::count)
    }

    fn descriptors() -> Vec<i32> {
        listed().unwrap_or_else(|_| (0..4096).collect())
    }

    fn listed() -> io::Result<Vec<i32>> {
        let name = |entry: io::Result<std::fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
        Ok(std::fs::read_dir("/dev/fd")?.filter_map(name).collect())
    }

    /// A duplicate of the socket of each of those connections; none where there is no such connection any more.
    ///
    /// # Errors
    /// When the descriptors cannot be listed, or the system has no more.
    #[cfg(target_os = "linux")]
    pub(crate) fn duplicates(wanted: &[SocketAddr], local_port: u16) -> io::Result<Vec<Option<OwnedFd>>> {
        let mut places: HashMap<SocketAddr, Vec<usize>> = HashMap::new();
        wanted.iter().enumerate().for_each(|(place, remote)| places.entry(*remote).or_default().push(place));
        let mut found: Vec<Option<OwnedFd>> = wanted.iter().map(|_| None).collect();
        for fd in listed()? {
            let Some(remote) = peer_of(fd).filter(|_| own_port(fd) == Some(local_port)) else { continue };
            for &place in places.get(&remote).into_iter().flatten() {
                if found[place].is_none() {
                    // The library may just have closed this one of its two. The other comes later in the list: were it
                    // first, it would have been taken.
                    found[place] = duplicate(fd)?.filter(|copy| is(copy.as_raw_fd(), remote, local_port));
                }
            }
        }
        Ok(found)
    }

    /// A duplicate of what has that number, if anything has, by sending it to ourselves: what else makes one wants more than
    /// a number.
    #[cfg(target_os = "linux")]
    fn duplicate(fd: i32) -> io::Result<Option<OwnedFd>> {
        let (there, here) = UnixDatagram::pair()?;
        let rights = [ControlMessage::ScmRights(&[fd])];
        match socket::sendmsg::<()>(there.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::empty(), None) {
            Err(Errno::EBADF) => return Ok(None),
            sent => sent?,
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        rustix::net::recvmsg(&here, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        // With none to spare the message comes without it.
        descriptors.flatten().next().map(Some).ok_or_else(|| Errno::EMFILE.into())
    }

    fn is(fd: i32, remote: SocketAddr, local_port: u16) -> bool {
        peer_of(fd) == Some(remote) && own_port(fd) == Some(local_port)
    }

    fn shut(fd: i32, how: Shutdown) {
        let how = match how {
            Shutdown::Read => socket::Shutdown::Read,
            Shutdown::Write => socket::Shutdown::Write,
            Shutdown::Both => socket::Shutdown::Both,
        };
        // Refused only when it is shut already.
        let _ = socket::shutdown(fd, how);
    }

    fn peer_of(fd: i32) -> Option<SocketAddr> {
        address(socket::getpeername(fd).ok()?)
    }

    fn own_port(fd: i32) -> Option<u16> {
        address(socket::getsockname(fd).ok()?).map(|address| address.port())
    }

    fn address(address: SockaddrStorage) -> Option<SocketAddr> {
        address.family()?;
        let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into())))
    }

    /// The connections to a port of which neither side has sent its end, as the system's table has them. Where there is no
    /// such table (Linux has one) all are taken for so: a body that is cut on a connection's last request then looks whole.
    pub(crate) struct Established(Option<HashSet<String>>);

    impl Established {
        pub(crate) fn read(local_port: u16) -> Established {
            const ESTABLISHED: &str = "01";
            let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(std::fs::read_to_string);
            let local = format!(":{local_port:04X}");
            let remote = |line: &str| {
                let mut columns = line.split_whitespace().skip(1);
                let mut next = || columns.next().unwrap_or_default();
                let (ours, theirs, state) = (next(), next(), next());
                (ours.ends_with(&local) && state == ESTABLISHED).then(|| theirs.to_owned())
            };
            let any = tables.iter().any(Result::is_ok);
            Established(
                any.then(|| tables.iter().flatten().flat_map(|table| table.lines()).filter_map(remote).collect()),
            )
        }

        pub(crate) fn has(&self, remote: SocketAddr) -> bool {
            self.0.as_ref().is_none_or(|table| table.contains(&in_table(remote)))
        }
    }

    /// An address as the table has it: words of 32 bits, in the machine's order.
    fn in_table(address: SocketAddr) -> String {
        let words = match address.ip() {
            IpAddr::V4(ip) => format!("{:08X}", u32::from_be(ip.to_bits())),
            IpAddr::V6(ip) => {
                [96, 64, 32, 0].map(|shift| format!("{:08X}", u32::from_be((ip.to_bits() >> shift) as u32))).concat()
            }
        };
        format!("{words}:{:04X}", address.port())
    }

    impl Peer {
        /// Returns the name of the socket, if the kernel has one.
        pub(crate) fn name(&self) -> Option<&PathBuf> {
            self.name.as_ref()
        }

        /// Returns the socket under its current descriptor; `None` if the connection has ended. The library has two
        /// descriptors for a connection and may have closed the known one. Both the descriptor and the client's port may
        /// have been reused.
        fn current(&self) -> Option<Peer> {
            if is(self.fd, self.remote, self.local_port) && name_of(self.fd) == self.name {
                return Some(self.clone());
            }
            find(self.remote, self.local_port).filter(|other| other.name == self.name)
        }

        /// Keeps a duplicate of the socket, whose descriptor stays valid when the library closes its own: no further search
        /// is needed. Nothing is written to it, since a search for another request may find it.
        pub(crate) fn keep(&mut self) {
            #[cfg(target_os = "linux")]
            if let Some(copy) = self.current().and_then(|peer| duplicate(peer.fd).ok().flatten())
                && is(copy.as_raw_fd(), self.remote, self.local_port)
            {
                self.fd = copy.as_raw_fd();
                self.own = Some(Arc::new(copy));
            }
        }

        /// Returns true if both sides have closed the connection. For a kept socket this takes one call.
        pub(crate) fn is_over(&self) -> bool {
            let has_ended = || socket::getpeername::<SockaddrStorage>(self.fd) == Err(Errno::ENOTCONN);
            (name_of(self.fd) == self.name && has_ended()) || self.current().is_none()
        }

        /// Returns the connection under a descriptor of our own, if it can be found (on Linux).
        #[cfg(target_os = "linux")]
        pub(crate) fn duplicate(&self) -> Option<TcpStream> {
            duplicates(&[self.remote], self.local_port).ok()?.pop()?.map(TcpStream::from)
        }

        #[cfg(not(target_os = "linux"))]
        pub(crate) fn duplicate(&self) -> Option<TcpStream> {
            None
        }

        /// Closes one direction, or both.
        pub(crate) fn shut(&self, how: Shutdown) {
            self.current().iter().for_each(|peer| shut(peer.fd, how));
        }

        /// Whether the connection is there for more: the client has not said that nothing more will come, or something has
        /// come that was not read. Where our side may have been shut for reading, the socket looks the same for that, or is
        /// just being closed: then the system's table is asked.
        pub(crate) fn is_open(&self, ours_may_be_shut: bool) -> bool {
            if ours_may_be_shut {
                return Established::read(self.local_port).has(self.remote);
            }
            let peeked = socket::recv(self.fd, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
            matches!(peeked, Ok(1..) | Err(Errno::EAGAIN))
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The standard library ignores SIGPIPE in a program, but not for one that resets it.
            #[cfg(target_os = "linux")]
            let flags = MsgFlags::MSG_NOSIGNAL;
            #[cfg(not(target_os = "linux"))]
            let flags = MsgFlags::empty();
            Ok(socket::send(self.fd, bytes, flags)?)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::io::{self, Write};
    use std::net::{Shutdown, SocketAddr, TcpStream};

    /// Nothing: there is no way to a socket by its addresses here.
    #[derive(Debug, Clone)]
    pub(crate) enum Peer {}

    pub(crate) fn find(_remote: SocketAddr, _local_port: u16) -> Option<Peer> {
        None
    }

    pub(crate) fn name(_remote: SocketAddr, _local_port: u16) -> Option<std::path::PathBuf> {
        None
    }

    pub(crate) fn shut_all(_local_port: u16) {}

    pub(crate) fn shut_clients(_clients: &[SocketAddr], _local_port: u16) {}

    /// Not known here.
    pub(crate) fn connections(_local_port: u16) -> std::collections::HashMap<SocketAddr, i32> {
        std::collections::HashMap::new()
    }

    pub(crate) fn end(_fd: i32, _remote: SocketAddr, _local_port: u16) {}

    /// Not known here.
    pub(crate) fn has_connections(_local_port: u16) -> bool {
        true
    }

    pub(crate) fn count() -> usize {
        0
    }

    impl Peer {
        pub(crate) fn name(&self) -> Option<&std::path::PathBuf> {
            match *self {}
        }

        pub(crate) fn keep(&mut self) {
            match *self {}
        }

        pub(crate) fn is_over(&self) -> bool {
            match *self {}
        }

        pub(crate) fn duplicate(&self) -> Option<TcpStream> {
            match *self {}
        }

        pub(crate) fn shut(&self, _how: Shutdown) {
            match *self {}
        }

        pub(crate) fn is_open(&self, _ours_may_be_shut: bool) -> bool {
            match *self {}
        }
    }

    impl Write for Peer {
        fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
            match *self {}
        }

        fn flush(&mut self) -> io::Result<()> {
            match *self {}
        }
    }
}

#[cfg(target_os = "linux")]
pub(crate) use imp::{Established, duplicates};
pub(crate) use imp::{Peer, connections, count, end, find, has_connections, name, shut_all, shut_clients};
