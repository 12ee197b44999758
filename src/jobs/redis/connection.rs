//! Connections to Redis: the connection pool, retries of calls, and error messages.
//!
//! A call has exclusive use of a connection. If the connection breaks, the call is repeated once on a new one, with the same
//! number, by which a script detects a repetition. The same happens if the server reports that it is no longer the primary:
//! after a failover the same address leads to another server, and all older connections are closed. A call that times out
//! is not repeated, since the server hangs. Its outcome is unknown, unless it has a name under which it is repeated later.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use redis::{Client, Connection, ConnectionAddr, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind};

use super::scripts;
use crate::error::{Error, Result, Status};
use crate::jobs::engine::Unavailable;
use crate::log_text::span;
use crate::random;
use crate::sync::{lock, wait_while_for};

/// The number of idle connections that are kept. More are opened when more threads call at once.
const MOST_IDLE: usize = 32;

/// The longest time for which a server that hangs may delay the end of an engine.
const WAKE_TIMEOUT: Duration = Duration::from_millis(500);

/// The connections to one server.
pub(super) struct ConnectionPool {
    client: Client,
    prefix: String,
    /// The timeout for connecting, and for each reply.
    timeout: Duration,
    idle: Mutex<Vec<Caller>>,
    /// The callers of failed calls that may be repeated, by the name of the call.
    unanswered: Mutex<HashMap<String, Caller>>,
    is_closed: Mutex<bool>,
    closed: Condvar,
    /// The number of times that all connections were discarded.
    failovers: AtomicU64,
}

/// A caller makes one call at a time, each with a number.
struct Caller {
    name: String,
    calls: u64,
    connection: Option<Connection>,
    /// True if the server may have executed the last call, and its reply was lost.
    is_unanswered: bool,
}

/// A failed call: before or after the server may have received it.
#[derive(Debug)]
pub(super) enum Failure {
    Connecting(RedisError),
    Calling(RedisError),
}

impl Failure {
    /// Returns true if the server may be reachable again soon without a change of the settings.
    pub(super) fn is_temporary(&self) -> bool {
        let (Failure::Connecting(error) | Failure::Calling(error)) = self;
        !is_tls_fault(error) && (error.is_io_error() || is_loading(error) || is_replica(error))
    }
}

impl ConnectionPool {
    /// Creates a pool without connections.
    pub(super) fn new(url: &str, prefix: &str, timeout: Duration) -> Result<ConnectionPool> {
        // The library's message does not contain the URL, which may have a password in it.
        let client = Client::open(url).map_err(|error| {
            let message = "invalid URL of a Redis server; write it as redis://user:password@host:6379/0";
            Error::internal(message).with_source(error)
        })?;
        // If the program has several providers, rustls chooses none and panics. A provider that is already installed stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (idle, unanswered, is_closed, closed, failovers) = Default::default();
        Ok(ConnectionPool {
            client,
            prefix: prefix.to_owned(),
            timeout,
            idle,
            unanswered,
            is_closed,
            closed,
            failovers,
        })
    }

    /// Returns the address of the server without a password: `127.0.0.1:6379/0`.
    pub(super) fn address(&self) -> String {
        let info = self.client.get_connection_info();
        match info.addr() {
            ConnectionAddr::Unix(path) => format!("{} (database {})", path.display(), info.redis_settings().db()),
            address => format!("{address}/{}", info.redis_settings().db()),
        }
    }

    fn uses_tls(&self) -> bool {
        matches!(self.client.get_connection_info().addr(), ConnectionAddr::TcpTls { .. })
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Opens a connection with a timeout for each reply.
    pub(super) fn connect(&self, timeout: Duration) -> redis::RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(timeout.min(self.timeout))?;
        connection.set_read_timeout(Some(timeout))?;
        connection.set_write_timeout(Some(timeout))?;
        Ok(connection)
    }

    /// Runs a script with these arguments.
    pub(super) fn run<T: FromRedisValue>(&self, script: &Script, arguments: &[String]) -> Result<T> {
        let mut caller = self.caller()?;
        let result = self.call_twice(&mut caller, script, arguments);
        self.put_back(caller);
        result.map_err(|failure| self.explain(failure))
    }

    /// Like [`run`](ConnectionPool::run), for a call that may be repeated under that name after a failure. If the
    /// server has executed the failed call, its reply is returned now.
    pub(super) fn run_as<T: FromRedisValue>(&self, name: &str, script: &Script, arguments: &[String]) -> Result<T> {
        let of_before = lock(&self.unanswered).remove(name);
        let mut caller = of_before.map_or_else(|| self.caller(), Ok)?;
        let result = self.call_twice(&mut caller, script, arguments);
        if caller.is_unanswered {
            lock(&self.unanswered).insert(name.to_owned(), caller);
        } else {
            self.put_back(caller);
        }
        result.map_err(|failure| self.explain(failure))
    }

    /// Returns a caller for a new call.
    fn caller(&self) -> Result<Caller> {
        let mut caller = lock(&self.idle).pop().map_or_else(Caller::new, Ok)?;
        caller.calls += 1;
        caller.is_unanswered = false;
        Ok(caller)
    }

    fn call_twice<T: FromRedisValue>(
        &self,
        caller: &mut Caller,
        script: &Script,
        arguments: &[String],
    ) -> Result<T, Failure> {
        match self.call(caller, script, arguments) {
            Err(Failure::Calling(error)) if is_disconnect(&error) || is_replica(&error) => {
                self.call(caller, script, arguments)
            }
            result => result,
        }
    }

    fn call<T: FromRedisValue>(
        &self,
        caller: &mut Caller,
        script: &Script,
        arguments: &[String],
    ) -> Result<T, Failure> {
        let connection = match &mut caller.connection {
            Some(connection) => connection,
            none => none.insert(self.connect(self.timeout).map_err(Failure::Connecting)?),
        };
        let mut call = script.prepare_invoke();
        call.arg(&self.prefix).arg(&caller.name).arg(caller.calls).arg(arguments);
        let result = call.invoke(connection);
        match &result {
            Ok(_) => caller.is_unanswered = false,
            Err(error) if is_replica(error) || is_loading(error) => {
                caller.connection = None;
                self.discard_connections();
            }
            Err(error) if is_reply(error) => {}
            // The rest of this reply would be taken for the reply to the next call.
            Err(_) => (caller.connection, caller.is_unanswered) = (None, true),
        }
        result.map_err(Failure::Calling)
    }

    /// Keeps every caller, since the server remembers the name of each for a while, but only some of their connections.
    fn put_back(&self, mut caller: Caller) {
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE {
            idle.push(caller);
        } else {
            caller.connection = None;
            idle.insert(0, caller);
        }
    }

    /// Closes all idle connections, which lead to a server that is no longer the primary. The listening connection may,
    /// too.
    fn discard_connections(&self) {
        self.failovers.fetch_add(1, Ordering::Relaxed);
        lock(&self.idle).iter_mut().for_each(|caller| caller.connection = None);
    }

    /// Returns the number of times that all connections were discarded.
    pub(super) fn failovers(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }

    /// Returns the server's INFO; empty if this user is not allowed to read it.
    pub(super) fn info(&self) -> Result<Option<String>, Failure> {
        let mut connection = self.connect(self.timeout).map_err(Failure::Connecting)?;
        match redis::cmd("INFO").query(&mut connection) {
            Ok(info) => Ok(Some(info)),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(None),
            Err(error) => Err(Failure::Calling(error)),
        }
    }

    pub(super) fn explain(&self, failure: Failure) -> Error {
        let at = format!("Redis at {}", self.address());
        let (message, reason, error) = match failure {
            Failure::Connecting(error) if is_tls_fault(&error) => {
                let message = format!(
                    "the TLS handshake with {at} failed; check that the server has TLS on that port, and that its certificate is \
                     valid for the host and trusted (SSL_CERT_FILE names a file of trusted authorities)"
                );
                (message, "TLS with the server failed", error)
            }
            Failure::Connecting(error) if error.is_io_error() => {
                let tls = if self.uses_tls() { ", with TLS on that port" } else { "" };
                let message =
                    format!("{at} cannot be reached; check that it runs{tls}, and that the address is correct");
                (message, "the server cannot be reached", error)
            }
            Failure::Connecting(error) if !is_loading(&error) => {
                (format!("{at} refuses the connection"), "the server refuses the connection", error)
            }
            Failure::Calling(error) if error.is_timeout() => {
                (format!("{at} has not answered within {}", span(self.timeout)), "the server does not answer", error)
            }
            Failure::Connecting(error) | Failure::Calling(error) if is_loading(&error) => {
                (format!("{at} is still loading its data"), "the server is loading", error)
            }
            Failure::Calling(error) if is_replica(&error) => {
                let message = format!("{at} is a replica and refuses writes; the address must lead to its primary");
                (message, "the server is a replica", error)
            }
            Failure::Calling(error) if is_reply(&error) => {
                (format!("{at} refuses the command"), refusal(&error), error)
            }
            Failure::Connecting(error) | Failure::Calling(error) => {
                (format!("the connection to {at} was lost"), "the connection to the server was lost", error)
            }
        };
        Error::new(Status::SERVICE_UNAVAILABLE, message).with_source(Unavailable { reason, message: error.to_string() })
    }

    /// Marks the pool as closed, and wakes the threads in [`sleep`](ConnectionPool::sleep).
    pub(super) fn close(&self) {
        *lock(&self.is_closed) = true;
        self.closed.notify_all();
    }

    /// Wakes the listening thread, if the server replies at once.
    pub(super) fn wake(&self) {
        let kept = lock(&self.idle).pop().and_then(|caller| caller.connection);
        let connection = kept.map_or_else(|| self.connect(WAKE_TIMEOUT), Ok);
        let _ = connection.and_then(|mut connection| {
            connection.set_read_timeout(Some(WAKE_TIMEOUT))?;
            connection.set_write_timeout(Some(WAKE_TIMEOUT))?;
            let mut call = scripts::WAKE.prepare_invoke();
            call.arg(&self.prefix).arg("").arg(0).invoke::<()>(&mut connection)
        });
    }

    pub(super) fn is_closed(&self) -> bool {
        *lock(&self.is_closed)
    }

    /// Sleeps for at most that time, or until the pool is closed.
    pub(super) fn sleep(&self, most: Duration) {
        drop(wait_while_for(&self.closed, lock(&self.is_closed), most, |is_closed| !*is_closed));
    }
}

impl Caller {
    fn new() -> Result<Caller> {
        Ok(Caller { name: random::name()?, calls: 0, connection: None, is_unanswered: false })
    }
}

/// Returns true if the connection broke during the call, which may be repeated.
fn is_disconnect(error: &RedisError) -> bool {
    error.is_io_error() && !error.is_timeout()
}

/// Returns true if the server replied with an error: the connection is still usable.
fn is_reply(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension | ErrorKind::UnexpectedReturnType)
}

/// Returns true if both sides are reachable but TLS fails: the certificate is not trusted, or the server has no TLS.
fn is_tls_fault(error: &RedisError) -> bool {
    let io = StdError::source(error).and_then(|source| source.downcast_ref::<Arc<dyn StdError + Send + Sync>>());
    let io = io.and_then(|io| io.downcast_ref::<io::Error>());
    io.is_some_and(|io| io.kind() == io::ErrorKind::InvalidData)
}

/// Returns true if the server cannot be the primary: it refuses writes, or has lost its own primary.
fn is_replica(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
}

/// Returns true if the server is still starting.
fn is_loading(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading)
}

/// Returns the reason for clients, without details.
fn refusal(error: &RedisError) -> &'static str {
    match error.code() {
        Some("OOM") => "the memory of the server is full",
        Some("MISCONF") => "the server cannot write to its disk",
        _ => "the server refuses",
    }
}
