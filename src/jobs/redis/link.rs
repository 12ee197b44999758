//! The way to the server: connections that are kept, calls that are tried again, words for what goes wrong.
//!
//! A call has a connection for itself. Where that breaks, the call is made once more on a new one: with the same number, by
//! which a script knows that it has done it already. A call that is not answered in time is not made again, since the server
//! hangs; what came of it is not known then, as with any server, unless it has a name under which it comes again.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use redis::{Client, Connection, ConnectionAddr, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind};

use super::scripts;
use crate::error::{Error, Result, Status};
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
enum Failure {
    Connecting(RedisError),
    Calling(RedisError),
}

impl Link {
    /// Connects to nothing yet.
    pub(super) fn new(url: &str, prefix: &str, patience: Duration) -> Result<Link> {
        // The library's words have nothing of the URL, which may have a password in it.
        let client = Client::open(url).map_err(|error| {
            let words = "that is not the address of a Redis server; write it as redis://user:password@host:6379/0";
            Error::internal(words).with_source(error)
        })?;
        if !client.get_connection_info().addr().is_supported() {
            return Err(Error::internal(
                "aside speaks to Redis without TLS: write redis:// for rediss://, over a network that is your own or \
                 through a tunnel (stunnel)",
            ));
        }
        let (idle, unheard, is_closed, closed) = Default::default();
        Ok(Link { client, prefix: prefix.to_owned(), patience, idle, unheard, is_closed, closed })
    }

    /// Where the server is: `127.0.0.1:6379/0`, without a password.
    pub(super) fn address(&self) -> String {
        let info = self.client.get_connection_info();
        match info.addr() {
            ConnectionAddr::Unix(path) => format!("{} (database {})", path.display(), info.redis_settings().db()),
            address => format!("{address}/{}", info.redis_settings().db()),
        }
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
            Err(Failure::Calling(error)) if was_cut(&error) => self.call(caller, script, arguments),
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

    /// What the server says of itself.
    pub(super) fn facts(&self) -> Result<Option<String>> {
        let mut connection = self.connect(self.patience).map_err(|e| self.explain(Failure::Connecting(e)))?;
        match redis::cmd("INFO").query(&mut connection) {
            Ok(facts) => Ok(Some(facts)),
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => Ok(None),
            Err(error) => Err(self.explain(Failure::Calling(error))),
        }
    }

    fn explain(&self, failure: Failure) -> Error {
        let address = self.address();
        let (words, error) = match failure {
            Failure::Connecting(error) if error.is_io_error() => (
                format!("Redis at {address} cannot be reached; see that it runs, and that the address is right"),
                error,
            ),
            Failure::Connecting(error) => (format!("Redis at {address} refuses the connection"), error),
            Failure::Calling(error) if error.is_timeout() => {
                (format!("Redis at {address} has not answered within {:?}", self.patience), error)
            }
            Failure::Calling(error) if is_answer(&error) => (format!("Redis at {address} refuses"), error),
            Failure::Calling(error) => (format!("the connection to Redis at {address} was lost"), error),
        };
        Error::new(Status::SERVICE_UNAVAILABLE, words).with_source(error)
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
