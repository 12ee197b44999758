//! Where the server listens: on an address and a port, on a Unix socket, or on a socket that the service manager hands over.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::time::Duration;

use socket2::{Domain, Protocol, Type};

use crate::config::Config;
use crate::error::{Error, Result};

/// How long a client may leave what was sent to it unacknowledged, or its window closed, before it counts as gone.
#[cfg(target_os = "linux")]
const DEAD_PEER: Duration = Duration::from_secs(30);

/// How many connections the system keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// What an address on a Unix socket begins with.
const UNIX: &str = "unix:";

#[cfg(unix)]
pub(super) const FOR_EPOLL: &str = "ASIDE_ADDR, or the socket that was handed over, is a Unix socket, which only the server `epoll` takes: leave ASIDE_SERVER out, on Linux with the feature `epoll`";

/// A listening socket and its owner.
pub(super) struct Listener {
    pub(super) socket: Socket,
    /// True if the service manager owns the socket: other processes listen on it, also after this one.
    pub(super) is_handed_over: bool,
}

/// The socket.
pub(super) enum Socket {
    Tcp(TcpListener),
    /// And the file that goes with it, when it is ours.
    #[cfg(unix)]
    Unix(
        UnixListener,
        #[cfg_attr(not(all(feature = "epoll", target_os = "linux")), expect(dead_code))] Option<PathBuf>,
    ),
}

/// Where that is.
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
    /// A listener on what `ASIDE_ADDR` says.
    ///
    /// # Errors
    /// When that is no address, or it cannot be listened on.
    pub(super) fn on(config: &Config) -> Result<Listener> {
        let address = config.address.as_str();
        #[cfg(unix)]
        if let Some(path) = address.strip_prefix(UNIX) {
            let socket = on_file(path.into()).map_err(|error| refused(address, error))?;
            admit(path.as_ref(), config).inspect_err(|_| drop(std::fs::remove_file(path)))?;
            return Ok(Listener::own(socket));
        }
        on_port(address).map(Socket::Tcp).map(Listener::own).map_err(|error| refused(address, error))
    }

    /// The first socket that the service manager hands over, when it does.
    ///
    /// # Errors
    /// When that is no socket that listens.
    #[cfg(unix)]
    pub(super) fn handed_over() -> Result<Option<Listener>> {
        let mut handed_over = listenfd::ListenFd::from_env();
        if handed_over.len() == 0 {
            return Ok(None);
        }
        if let Ok(Some(listener)) = handed_over.take_tcp_listener(0) {
            listener.set_nonblocking(false)?;
            prepare(&socket2::SockRef::from(&listener))?;
            return Ok(Some(Listener { socket: Socket::Tcp(listener), is_handed_over: true }));
        }
        let unix = handed_over.take_unix_listener(0).map_err(|error| {
            let words = "the socket that was handed over (LISTEN_FDS) does not listen; use ListenStream=127.0.0.1:8000";
            Error::internal(words).with_source(error)
        })?;
        // The file is the service manager's.
        Ok(unix.map(|listener| Listener { socket: Socket::Unix(listener, None), is_handed_over: true }))
    }

    #[cfg(not(unix))]
    pub(super) fn handed_over() -> Result<Option<Listener>> {
        Ok(None)
    }

    fn own(socket: Socket) -> Listener {
        Listener { socket, is_handed_over: false }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
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
    let words = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another process; stop that one, or set ASIDE_ADDR to another address")
        }
        io::ErrorKind::PermissionDenied if address.starts_with(UNIX) => {
            format!("this user may not make the socket {address}; set ASIDE_ADDR to a folder that is its own")
        }
        io::ErrorKind::PermissionDenied => {
            format!("this user may not listen on {address}; set ASIDE_ADDR to a port above 1023")
        }
        _ => format!(
            "cannot listen on `{address}`; ASIDE_ADDR takes an address and a port, such as 127.0.0.1:8000, or a Unix socket, such as unix:/run/site.sock"
        ),
    };
    Error::internal(words).with_source(error)
}

/// Sets the mode and the group of a Unix socket from the settings.
///
/// # Errors
/// An error if the group is unknown, or this user may not give the file to it.
#[cfg(unix)]
fn admit(path: &Path, config: &Config) -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    if let Some(group) = &config.socket_group {
        let unknown = || Error::internal(format!("ASIDE_SOCKET_GROUP: the group `{group}` does not exist"));
        let named = || Some(nix::unistd::Group::from_name(group).ok()??.gid.as_raw());
        let id = group.parse().ok().or_else(named).ok_or_else(unknown)?;
        chown(path, None, Some(id)).map_err(|error| {
            let words = format!(
                "ASIDE_SOCKET_GROUP: could not give {} to the group `{group}`; add this user to the group",
                path.display()
            );
            Error::internal(words).with_source(error)
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

/// A listener with what must be set before the first connection, which inherits it: no delay for small writes, and an end
/// for clients that are dead.
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
    // Where it means that a port is free at once after a restart. On Windows it means that two may have it.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    prepare(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets what connections inherit. Never a timeout for reading: `accept` would inherit it too, and an idle listener end.
fn prepare(socket: &socket2::Socket) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(DEAD_PEER))?;
    socket.set_tcp_nodelay(true)
}

/// Makes the file anew when nobody listens there any more: a process that was killed leaves it.
#[cfg(unix)]
fn on_file(path: PathBuf) -> io::Result<Socket> {
    let bound = UnixListener::bind(&path);
    let is_left = || UnixStream::connect(&path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    let listener = match bound {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left() => {
            std::fs::remove_file(&path)?;
            UnixListener::bind(&path)?
        }
        bound => bound?,
    };
    Ok(Socket::Unix(listener, Some(path)))
}
