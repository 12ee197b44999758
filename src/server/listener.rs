//! The listening socket of the server: an address and a port, a Unix socket, or a socket from the service manager.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Type};

use crate::config::Config;
use crate::error::{Error, Result};

/// How long sent data may stay unacknowledged, or the client's window closed, before the kernel closes the connection.
#[cfg(target_os = "linux")]
const DEAD_PEER: Duration = Duration::from_secs(30);

#[cfg(unix)]
const NOT_LISTENING: &str = "the socket from the service manager (LISTEN_FDS), or of a restart, is not a listening socket; \
                             for systemd use ListenStream=127.0.0.1:8000 and not Accept=yes";

/// The number of connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 1024;

/// The prefix of the address of a Unix socket.
const UNIX: &str = "unix:";

#[cfg(unix)]
pub(super) const FOR_EPOLL: &str = "ASIDE_ADDR, or the socket from the service manager, is a Unix socket, which only the server `epoll` supports: do not set ASIDE_SERVER, and run on Linux with the feature `epoll`";

/// A listening socket and its owner.
pub(super) struct Listener {
    pub(super) socket: Socket,
    /// True if the service manager owns the socket: other processes listen on it, also after this one.
    pub(super) is_handed_over: bool,
}

/// A listening socket.
pub(super) enum Socket {
    Tcp(TcpListener),
    /// A Unix socket, and its file if this process created it.
    #[cfg(unix)]
    Unix(
        UnixListener,
        #[cfg_attr(not(all(feature = "epoll", target_os = "linux")), expect(dead_code))] Option<PathBuf>,
    ),
}

/// The address of a listening socket.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(addr) => write!(f, "http://{addr}"),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl Listener {
    /// Listens on the address of `ASIDE_ADDR`.
    ///
    /// # Errors
    /// An error if the address is invalid or cannot be listened on.
    pub(super) fn on(config: &Config) -> Result<Listener> {
        let address = config.address.as_str();
        #[cfg(unix)]
        if let Some(path) = address.strip_prefix(UNIX) {
            let socket = on_file(path.into()).map_err(|error| refused(address, error))?;
            set_permissions_of(path.as_ref(), config).inspect_err(|_| drop(std::fs::remove_file(path)))?;
            return Ok(Listener::own(socket));
        }
        on_port(address).map(Socket::Tcp).map(Listener::own).map_err(|error| refused(address, error))
    }

    /// Returns the first socket from the service manager, if there is one.
    ///
    /// # Errors
    /// An error if it is not a listening socket.
    #[cfg(unix)]
    pub(super) fn handed_over() -> Result<Option<Listener>> {
        let mut handed_over = listenfd::ListenFd::from_env();
        if handed_over.len() == 0 {
            return Ok(None);
        }
        if let Ok(Some(listener)) = handed_over.take_tcp_listener(0) {
            refuse_unless_listening(&listener)?;
            listener.set_nonblocking(false)?;
            prepare(&socket2::SockRef::from(&listener))?;
            return Ok(Some(Listener { socket: Socket::Tcp(listener), is_handed_over: true }));
        }
        let unix =
            handed_over.take_unix_listener(0).map_err(|error| Error::internal(NOT_LISTENING).with_source(error))?;
        unix.iter().try_for_each(refuse_unless_listening)?;
        // The file belongs to the service manager.
        Ok(unix.map(|listener| Listener { socket: Socket::Unix(listener, None), is_handed_over: true }))
    }

    /// Returns the socket that a former process of this site has handed over.
    ///
    /// # Errors
    /// An error if it is not a listening socket.
    #[cfg(unix)]
    pub(super) fn received(socket: OwnedFd, is_of_service_manager: bool) -> Result<Listener> {
        refuse_unless_listening(&socket)?;
        let address = SockRef::from(&socket).local_addr()?;
        if address.is_unix() {
            let file = address.as_pathname().map(PathBuf::from).filter(|_| !is_of_service_manager);
            let socket = Socket::Unix(UnixListener::from(socket), file);
            return Ok(Listener { socket, is_handed_over: is_of_service_manager });
        }
        // A former process of this site has done so, and `aside dev` has not.
        prepare(&SockRef::from(&socket))?;
        Ok(Listener { socket: Socket::Tcp(TcpListener::from(socket)), is_handed_over: is_of_service_manager })
    }

    /// Returns a duplicate of the socket, for the next process.
    ///
    /// # Errors
    /// An error if the operating system refuses it.
    #[cfg(unix)]
    pub(super) fn duplicate(&self) -> io::Result<OwnedFd> {
        match &self.socket {
            Socket::Tcp(listener) => listener.try_clone().map(OwnedFd::from),
            Socket::Unix(listener, _) => listener.try_clone().map(OwnedFd::from),
        }
    }

    #[cfg(not(unix))]
    pub(super) fn handed_over() -> Result<Option<Listener>> {
        Ok(None)
    }

    fn own(socket: Socket) -> Listener {
        Listener { socket, is_handed_over: false }
    }

    /// Returns the address that it listens on.
    ///
    /// # Errors
    /// An error if the operating system does not report the address.
    pub(super) fn address(&self) -> io::Result<Address> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().map(Address::Tcp),
            #[cfg(unix)]
            Socket::Unix(listener, _) => {
                let path = listener.local_addr()?.as_pathname().map(PathBuf::from);
                Ok(Address::Unix(path.unwrap_or_default()))
            }
        }
    }
}

fn refused(address: &str, error: io::Error) -> Error {
    let message = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another process; stop that one, or set ASIDE_ADDR to another address")
        }
        io::ErrorKind::PermissionDenied if address.starts_with(UNIX) => {
            format!("this user may not create the socket {address}; set ASIDE_ADDR to a path in a folder of this user")
        }
        io::ErrorKind::PermissionDenied => {
            format!("this user may not listen on {address}; set ASIDE_ADDR to a port above 1023")
        }
        _ => format!(
            "cannot listen on `{address}`; ASIDE_ADDR takes an address and a port, such as 127.0.0.1:8000, or a Unix socket, such as unix:/run/site.sock"
        ),
    };
    Error::internal(message).with_source(error)
}

/// Sets the mode and the group of a Unix socket from the settings.
///
/// # Errors
/// An error if the group is unknown, or this user may not give the file to it.
#[cfg(unix)]
fn set_permissions_of(path: &Path, config: &Config) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    if let Some(group) = &config.socket_group {
        let unknown = || Error::internal(format!("ASIDE_SOCKET_GROUP: the group `{group}` does not exist"));
        let named = || Some(nix::unistd::Group::from_name(group).ok()??.gid.as_raw());
        let id = group.parse().ok().or_else(named).ok_or_else(unknown)?;
        chown(path, None, Some(id)).map_err(|error| {
            let message = format!(
                "ASIDE_SOCKET_GROUP: could not give {} to the group `{group}`; add this user to the group",
                path.display()
            );
            Error::internal(message).with_source(error)
        })?;
    } else if config.socket_mode & 0o006 != 0o006 {
        ::log::info!(
            target: "aside::server",
            "{UNIX}{} has the mode {:o}: for a proxy that runs as another user, set ASIDE_SOCKET_GROUP to one of its groups, or \
             ASIDE_SOCKET_MODE=666.",
            path.display(), config.socket_mode
        );
    }
    Ok(std::fs::set_permissions(path, PermissionsExt::from_mode(config.socket_mode))?)
}

/// Listens on an address and a port. The options are set before the first connection, which inherits them: no delay for
/// small writes, and a timeout for clients that do not respond.
fn on_port(address: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in address.to_socket_addrs()? {
        match on_address(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn on_address(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // On Unix the port is then free at once after a restart. On Windows two processes could listen on it.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options that connections inherit. A read timeout is not set: it would also end `accept` on an idle listener.
fn prepare(socket: &socket2::Socket) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_PEER))?;
    socket.set_tcp_nodelay(true)
}

/// # Errors
/// An error for another socket, such as a connection (`Accept=yes` of systemd): the server would wait for connections without an end.
#[cfg(all(unix, not(target_vendor = "apple")))]
fn refuse_unless_listening(socket: &impl std::os::fd::AsFd) -> Result<()> {
    match rustix::net::sockopt::socket_acceptconn(socket) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::internal(NOT_LISTENING)),
        Err(error) => Err(Error::internal(NOT_LISTENING).with_source(error)),
    }
}

/// These systems do not tell.
#[cfg(target_vendor = "apple")]
fn refuse_unless_listening(_socket: &impl std::os::fd::AsFd) -> Result<()> {
    Ok(())
}

/// Listens on a Unix socket. A file on which no process listens was left by a killed process and is replaced.
#[cfg(unix)]
fn on_file(path: PathBuf) -> io::Result<Socket> {
    let bound = UnixListener::bind(&path);
    let is_stale = || UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let listener = match bound {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale() => {
            std::fs::remove_file(&path)?;
            UnixListener::bind(&path)?
        }
        bound => bound?,
    };
    Ok(Socket::Unix(listener, Some(path)))
}

#[cfg(all(test, unix, not(target_vendor = "apple")))]
mod tests {
    use std::net::{TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (unix, _other) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let others: [OwnedFd; 4] =
            [connection.into(), unix.into(), UdpSocket::bind("127.0.0.1:0").unwrap().into(), file.into()];
        for other in others {
            let error = Listener::received(other, true).err().unwrap().to_string();
            assert!(error.contains("is not a listening socket"), "{error}");
        }
        assert!(Listener::received(listener.into(), true).is_ok());
    }
}
