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
use crate::sync::{lock, wait_while_for};

/// Connections that are kept for the next call; more are opened when more threads call at once.
const MOST_IDLE: usize = 32;

/// How long the end of an engine may be held up by a server that hangs.
const FAREWELL: Duration = Duration::from_millis(500);

/// One server, as seen from here.
pub(super) struct Link {
    client: Client,
    prefix: String,
    /// How long the server may take to take a connection, and to answer.
    patience: Duration,
    idle: Mutex<Vec<Caller>>,
    /// Who waits to make a call again, by the call's name.
    unheard: Mutex<HashMap<String, Caller>>,
    is_closed: Mutex<bool>,
    closed: Condvar,
    /// The number of times that all connections were discarded.
    failovers: AtomicU64,
}

/// One who calls: one call at a time, each with a number.
struct Caller {
    name: String,
    calls: u64,
    connection: Option<Connection>,
    /// The last call may have been done, and its answer was lost.
    is_unheard: bool,
}

/// What went wrong, and whether the server may have heard of the call.
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

impl Link {
    /// Connects to nothing yet.
    pub(super) fn new(url: &str, prefix: &str, patience: Duration) -> Result<Link> {
        // The library's words have nothing of the URL, which may have a password in it.
        let client = Client::open(url).map_err(|error| {
            let words = "that is not the address of a Redis server; write it as redis://user:password@host:6379/0";
            Error::internal(words).with_source(error)
        })?;
        // If the program has several providers, rustls chooses none and panics. A provider that is already installed stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (idle, unheard, is_closed, closed, failovers) = Default::default();
        Ok(Link { client, prefix: prefix.to_owned(), patience, idle, unheard, is_closed, closed, failovers })
    }

    /// Where the server is: `127.0.0.1:6379/0`, without a password.
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

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// A new connection that waits for each answer for that long.
    pub(super) fn connect(&self, patience: Duration) -> redis::RedisResult<Connection> {
        let connection = self.client.get_connection_with_timeout(patience.min(self.patience))?;
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        Ok(connection)
    }

    /// Runs a script with these arguments.
    pub(super) fn run<T: FromRedisValue>(&self, script: &Script, arguments: &[String]) -> Result<T> {
        let mut caller = self.caller()?;
        let came = self.call_twice(&mut caller, script, arguments);
        self.keep(caller);
        came.map_err(|failure| self.explain(failure))
    }

    /// The same, where the call may come again under that name after it failed: if the server has done it and only its answer
    /// was lost, that answer comes now.
    pub(super) fn run_as<T: FromRedisValue>(&self, name: &str, script: &Script, arguments: &[String]) -> Result<T> {
        let of_before = lock(&self.unheard).remove(name);
        let mut caller = of_before.map_or_else(|| self.caller(), Ok)?;
        let came = self.call_twice(&mut caller, script, arguments);
        if caller.is_unheard {
            lock(&self.unheard).insert(name.to_owned(), caller);
        } else {
            self.keep(caller);
        }
        came.map_err(|failure| self.explain(failure))
    }

    /// One who has a call to make.
    fn caller(&self) -> Result<Caller> {
        let mut caller = lock(&self.idle).pop().map_or_else(Caller::new, Ok)?;
        caller.calls += 1;
        caller.is_unheard = false;
        Ok(caller)
    }

    fn call_twice<T: FromRedisValue>(
        &self,
        caller: &mut Caller,
        script: &Script,
        arguments: &[String],
    ) -> Result<T, Failure> {
        match self.call(caller, script, arguments) {
            Err(Failure::Calling(error)) if was_cut(&error) || is_replica(&error) => {
                self.call(caller, script, arguments)
            }
            came => came,
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
            none => none.insert(self.connect(self.patience).map_err(Failure::Connecting)?),
        };
        let mut call = script.prepare_invoke();
        call.arg(&self.prefix).arg(&caller.name).arg(caller.calls).arg(arguments);
        let came = call.invoke(connection);
        match &came {
            Ok(_) => caller.is_unheard = false,
            Err(error) if is_replica(error) || is_loading(error) => {
                caller.connection = None;
                self.give_up_connections();
            }
            Err(error) if is_answer(error) => {}
            // What is half read would be taken for the next call's answer.
            Err(_) => (caller.connection, caller.is_unheard) = (None, true),
        }
        came.map_err(Failure::Calling)
    }

    /// Keeps all who ever called, since the server remembers the name of each for a while, and some of their connections.
    fn keep(&self, mut caller: Caller) {
        let mut idle = lock(&self.idle);
        if idle.len() < MOST_IDLE {
            idle.push(caller);
        } else {
            caller.connection = None;
            idle.insert(0, caller);
        }
    }

    /// Idle connections lead to a server that is no longer the primary, and so may the listening one.
    fn give_up_connections(&self) {
        self.failovers.fetch_add(1, Ordering::Relaxed);
        lock(&self.idle).iter_mut().for_each(|caller| caller.connection = None);
    }

    /// Returns the number of times that all connections were discarded.
    pub(super) fn failovers(&self) -> u64 {
        self.failovers.load(Ordering::Relaxed)
    }

    /// Returns the server's INFO; empty if this user is not allowed to read it.
    pub(super) fn facts(&self) -> Result<Option<String>, Failure> {
        let mut connection = self.connect(self.patience).map_err(Failure::Connecting)?;
        match redis::cmd("INFO").query(&mut connection) {
            Ok(facts) => Ok(Some(facts)),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(None),
            Err(error) => Err(Failure::Calling(error)),
        }
    }

    pub(super) fn explain(&self, failure: Failure) -> Error {
        let at = format!("Redis at {}", self.address());
        let (words, reason, error) = match failure {
            Failure::Connecting(error) if is_tls_fault(&error) => {
                let words = format!(
                    "the TLS handshake with {at} failed; check that the server has TLS on that port, and that its certificate is \
                     valid for the host and trusted (SSL_CERT_FILE names a file of trusted authorities)"
                );
                (words, "TLS with the server failed", error)
            }
            Failure::Connecting(error) if error.is_io_error() => {
                let tls = if self.uses_tls() { ", with TLS on that port" } else { "" };
                let words = format!("{at} cannot be reached; check that it runs{tls}, and that the address is correct");
                (words, "the server cannot be reached", error)
            }
            Failure::Connecting(error) if !is_loading(&error) => {
                (format!("{at} refuses the connection"), "the server refuses the connection", error)
            }
            Failure::Calling(error) if error.is_timeout() => {
                (format!("{at} has not answered within {:?}", self.patience), "the server does not answer", error)
            }
            Failure::Connecting(error) | Failure::Calling(error) if is_loading(&error) => {
                (format!("{at} is still loading its data"), "the server is loading", error)
            }
            Failure::Calling(error) if is_replica(&error) => {
                let words = format!("{at} is a replica and refuses writes; the address must lead to its primary");
                (words, "the server is a replica", error)
            }
            Failure::Calling(error) if is_answer(&error) => {
                (format!("{at} refuses the command"), refusal(&error), error)
            }
            Failure::Connecting(error) | Failure::Calling(error) => {
                (format!("the connection to {at} was lost"), "the connection to the server was lost", error)
            }
        };
        Error::new(Status::SERVICE_UNAVAILABLE, words).with_source(Unavailable { reason, words: error.to_string() })
    }

    /// Nobody calls any more: wakes who waits in [`pause`](Link::pause).
    pub(super) fn close(&self) {
        *lock(&self.is_closed) = true;
        self.closed.notify_all();
    }

    /// Wakes who listens, if that can be done at once.
    pub(super) fn wake(&self) {
        let kept = lock(&self.idle).pop().and_then(|caller| caller.connection);
        let connection = kept.map_or_else(|| self.connect(FAREWELL), Ok);
        let _ = connection.and_then(|mut connection| {
            connection.set_read_timeout(Some(FAREWELL))?;
            connection.set_write_timeout(Some(FAREWELL))?;
            let mut call = scripts::WAKE.prepare_invoke();
            call.arg(&self.prefix).arg("").arg(0).invoke::<()>(&mut connection)
        });
    }

    pub(super) fn is_closed(&self) -> bool {
        *lock(&self.is_closed)
    }

    /// Waits that long, or until it is closed.
    pub(super) fn pause(&self, most: Duration) {
        drop(wait_while_for(&self.closed, lock(&self.is_closed), most, |is_closed| !*is_closed));
    }
}

impl Caller {
    fn new() -> Result<Caller> {
        Ok(Caller { name: random_name()?, calls: 0, connection: None, is_unheard: false })
    }
}

/// A name that nobody else has: 128 random bits.
pub(super) fn random_name() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::internal(format!("the system gives no random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether the connection broke under the call: it may be made again.
fn was_cut(error: &RedisError) -> bool {
    error.is_io_error() && !error.is_timeout()
}

/// Whether the server itself said so: the connection is as good as before.
fn is_answer(error: &RedisError) -> bool {
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
