//! Notifications to the service manager: systemd's protocol for `Type=notify` (`sd_notify(3)`).

use std::env;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Tells the service manager that the site serves.
pub(super) fn ready() {
    notify("READY=1");
}

/// Tells the service manager that another process serves the site from now on.
pub(super) fn main_process_is(pid: u32) {
    notify(&format!("MAINPID={pid}\nREADY=1"));
}

/// Tells the service manager that the site stops.
pub(super) fn stopping() {
    notify("STOPPING=1");
}

/// Sends a message to the socket of the service manager, if it waits for messages.
fn notify(message: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    if let Err(error) = send(path.as_bytes(), message) {
        log::warn!(target: "aside::server", "Could not notify the service manager (NOTIFY_SOCKET): {error}");
    }
}

fn send(path: &[u8], message: &str) -> io::Result<()> {
    let address = address(path)?;
    UnixDatagram::unbound()?.send_to_addr(message.as_bytes(), &address).map(drop)
}

/// Returns the address of a socket with a file, or on Linux in the abstract namespace, which begins with `@`.
fn address(path: &[u8]) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = path.strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt as _;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))
}
