//! The search for the socket of a connection that a library owns and does not expose.
//!
//! A socket is searched for among the descriptors of the process by its two addresses. That costs a system call for each
//! descriptor, so it is done only for errors and refusals, not for normal responses. A descriptor is certain to belong to
//! the connection only while the library holds both halves of it: to read or write, the caller must hold the request with
//! its body beside the [`Peer`]; to close, the socket is searched for again. A socket that is needed for longer is
//! duplicated ([`duplicates`]).
//!
//! `rustix` requires a borrowed descriptor, which a number becomes only with `unsafe`, and most containers refuse its
//! `pidfd_getfd`; `nix` accepts the number.

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

    /// Finds the socket that connects the client address `remote` with the listener's port.
    pub(crate) fn find(remote: SocketAddr, local_port: u16) -> Option<Peer> {
        let is_it = |&fd: &i32| is(fd, remote, local_port);
        // The lowest free number is assigned first, so open descriptors are close together, and testing each is cheaper
        // than listing them.
        let highest = HIGHEST.load(Ordering::Relaxed);
        let fd = (0..=highest).find(is_it).or_else(|| {
            let listed = descriptors();
            HIGHEST.store(listed.iter().copied().max().unwrap_or(0), Ordering::Relaxed);
            listed.into_iter().filter(|fd| *fd > highest).find(is_it)
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

    /// Returns the kernel's name for the socket of the connection, if it has one (on Linux). A later connection from the same
    /// address has another name.
    pub(crate) fn name(remote: SocketAddr, local_port: u16) -> Option<PathBuf> {
        find(remote, local_port)?.name
    }

    fn name_of(fd: i32) -> Option<PathBuf> {
        std::fs::read_link(format!("/dev/fd/{fd}")).ok()
    }

    /// Closes all connections to this port.
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

    /// Returns the number of descriptors of the process.
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

    /// Duplicates the socket of each of these connections; `None` for a connection that no longer exists.
    ///
    /// # Errors
    /// An error if the descriptors cannot be listed, or the process has no more of them.
    #[cfg(target_os = "linux")]
    pub(crate) fn duplicates(wanted: &[SocketAddr], local_port: u16) -> io::Result<Vec<Option<OwnedFd>>> {
        let mut indexes: HashMap<SocketAddr, Vec<usize>> = HashMap::new();
        wanted.iter().enumerate().for_each(|(index, remote)| indexes.entry(*remote).or_default().push(index));
        let mut found: Vec<Option<OwnedFd>> = wanted.iter().map(|_| None).collect();
        for fd in listed()? {
            let Some(remote) = peer_of(fd).filter(|_| own_port(fd) == Some(local_port)) else { continue };
            for &index in indexes.get(&remote).into_iter().flatten() {
                if found[index].is_none() {
                    // The library may have closed this one of its two descriptors just now. The other one follows later in
                    // the list: if it came first, it would have been duplicated.
                    found[index] = duplicate(fd)?.filter(|copy| is(copy.as_raw_fd(), remote, local_port));
                }
            }
        }
        Ok(found)
    }

    /// Duplicates a descriptor, if it is open, by sending it over a socket to this process: the safe functions for this take
    /// more than a number.
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
        // If the process has no descriptors left, the message arrives without it.
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
        // This fails only if it is closed already.
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

    /// The established connections to a port, of which neither side is closed, from the kernel's table. Without such a table
    /// (only Linux has one) all connections count as established: the cut-off body of a connection's last request then looks
    /// complete.
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

    /// Formats an address as in the table: groups of 32 bits in the byte order of the machine.
    fn in_table(address: SocketAddr) -> String {
        let groups = match address.ip() {
            IpAddr::V4(ip) => format!("{:08X}", u32::from_be(ip.to_bits())),
            IpAddr::V6(ip) => {
                [96, 64, 32, 0].map(|shift| format!("{:08X}", u32::from_be((ip.to_bits() >> shift) as u32))).concat()
            }
        };
        format!("{groups}:{:04X}", address.port())
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

        /// Keeps a duplicate of the socket, whose descriptor stays valid when the library closes its own, so that no further
        /// search is needed. Nothing is written to it, since a search for another request may find it.
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

        /// Returns true if more input may arrive: the client has not closed its side, or there is unread input. If our side
        /// may be closed for reading, the socket gives the same result for that, so the kernel's table is read instead.
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

    /// Never exists: this platform has no search for a socket by its addresses.
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

    /// Returns no connections: they are unknown on this platform.
    pub(crate) fn connections(_local_port: u16) -> std::collections::HashMap<SocketAddr, i32> {
        std::collections::HashMap::new()
    }

    pub(crate) fn end(_fd: i32, _remote: SocketAddr, _local_port: u16) {}

    /// Returns true: connections are unknown on this platform.
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
