//! The limits on a request body: the permission to wait for it, its rate, and the time until its next part.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::config::Config;
use crate::error::Result;
#[cfg(target_os = "linux")]
use crate::server::socket;
use crate::server::{Held, RATE_GRACE, ServerState};
use crate::worker_share::{Share, Wait};

/// The permission to wait for a body. It counts in the limit of all clients and in that of its client.
pub(super) struct Upload {
    _share: Share,
    _held: Held,
}

impl Upload {
    pub(super) fn begin(client: Option<IpAddr>, state: &ServerState) -> Result<Upload> {
        let held = state.upload_of(client)?;
        let share = state.shares.take(Wait::Body).ok_or_else(|| state.shares.refuse(Wait::Body))?;
        Ok(Upload { _share: share, _held: held })
    }
}

/// The required and actual speed of a body. Only time spent waiting counts, not the handler's own.
pub(super) struct Pace {
    pub(super) timeout: Duration,
    min_rate: u64,
    waited: Duration,
    received: u64,
    pub(super) is_overdue: bool,
}

impl Pace {
    pub(super) fn new(config: &Config) -> Pace {
        Pace {
            timeout: config.body_timeout,
            min_rate: config.min_rate,
            waited: Duration::ZERO,
            received: 0,
            is_overdue: false,
        }
    }

    /// Returns the outcome of a read that took this long: an error if the time is up.
    pub(super) fn check(&mut self, result: io::Result<usize>, took: Duration) -> io::Result<usize> {
        self.waited += took;
        self.received += *result.as_ref().unwrap_or(&0) as u64;
        // Between chunks tiny_http turns a timeout into another error.
        let is_timeout = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) || took >= self.timeout
        };
        let due = self.min_rate.saturating_mul(self.waited.saturating_sub(RATE_GRACE).as_secs());
        let message = match &result {
            Err(error) if is_timeout(error) => "the next part of the body did not arrive in time (ASIDE_BODY_TIMEOUT)",
            Ok(1..) if self.received < due => "the body arrives too slowly (ASIDE_MIN_RATE)",
            _ => return result,
        };
        self.is_overdue = true;
        Err(io::Error::new(io::ErrorKind::TimedOut, message))
    }
}

/// A read timeout on the socket of a connection, until dropped. tiny_http itself waits for the next request without limit.
pub(super) struct ReadTimeout(#[cfg(target_os = "linux")] std::os::fd::OwnedFd);

impl ReadTimeout {
    #[cfg(target_os = "linux")]
    pub(super) fn begin(remote: SocketAddr, port: u16, time: Duration) -> Option<ReadTimeout> {
        let socket = socket::duplicates(&[remote], port).ok()?.pop()??;
        socket2::SockRef::from(&socket).set_read_timeout(Some(time)).ok()?;
        Some(ReadTimeout(socket))
    }

    /// Returns `None`: the socket can be duplicated only on Linux. Elsewhere only the rate is checked, when bytes arrive.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn begin(_remote: SocketAddr, _port: u16, _time: Duration) -> Option<ReadTimeout> {
        None
    }
}

impl ReadTimeout {
    /// Waits for input or the end of the connection, and returns true at its end, orderly or by a reset.
    ///
    /// # Errors
    /// An error if nothing arrives within the time limit.
    #[cfg(target_os = "linux")]
    pub(super) fn is_at_end(&self) -> io::Result<bool> {
        let peeked = socket2::SockRef::from(&self.0).peek(&mut [std::mem::MaybeUninit::uninit()]);
        match peeked {
            Ok(count) => Ok(count == 0),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(error),
                io::ErrorKind::Interrupted => Ok(false),
                _ => Ok(true),
            },
        }
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn is_at_end(&self) -> io::Result<bool> {
        Ok(false)
    }
}

impl Drop for ReadTimeout {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        let _ = socket2::SockRef::from(&self.0).set_read_timeout(None);
    }
}
