//! Settings: a struct that a test can fill in, read from the environment once.
//!
//! Every setting has one name in the code and one in the environment. An invalid setting is refused at startup, by that
//! name.
//!
//! ```
//! use aside::Config;
//! use aside::config::Mode;
//!
//! let config = Config { mode: Mode::Production, url: Some("https://shop.example".into()), ..Config::default() };
//! for advice in config.deploy_check() {
//!     println!("{advice}");
//! }
//! ```

mod variables;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use self::variables::{Variables, misspelled, text_variables};
use crate::error::{Error, Result};
use crate::worker_share::Bounds;

/// The mode of the application: how much its pages show, and which settings have a default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Pages show errors, mail goes to files, and a missing secret is generated and kept in a file. This is the default.
    #[default]
    Development,
    /// Pages show no internal details, and a missing required setting is refused at startup.
    Production,
}

/// The transport that serves HTTP.
///
/// The default is `Epoll` on Linux with the feature `epoll` (a default feature), and `TinyHttp` everywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerKind {
    /// `tiny_http`, the portable base, on every platform: a thread for each connection.
    TinyHttp,
    /// `epoll`, on Linux, with the feature `epoll`: no thread for a connection that waits, and a limit on everything.
    Epoll,
}

impl ServerKind {
    const HAS_EPOLL: bool = cfg!(all(feature = "epoll", target_os = "linux"));
}

impl Default for ServerKind {
    fn default() -> ServerKind {
        if ServerKind::HAS_EPOLL { ServerKind::Epoll } else { ServerKind::TinyHttp }
    }
}

/// Displays the value that `ASIDE_SERVER` takes.
impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServerKind::TinyHttp => "tiny_http",
            ServerKind::Epoll => "epoll",
        })
    }
}

/// The format of the log that [`App::run`](crate::App::run) writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LogFormat {
    /// Lines for people. This is the default.
    #[default]
    Text,
    /// One JSON object on each line, for programs that collect logs: the [guide](crate::guide::logs) has the fields.
    Json,
}

/// The message for a key that is too short.
pub(crate) const SHORT_SECRET: &str = "ASIDE_SECRET: each key needs at least 32 bytes; `openssl rand -base64 48` makes one, or the \
     command `secret` of a program that ends with `App::main_with` (`cargo run -- secret`)";

/// The message for a missing secret.
pub(crate) const MISSING_SECRET: &str = "ASIDE_SECRET must be set in production: at least 32 bytes, the same at every start; \
     `openssl rand -base64 48` makes one, or the command `secret` of a program that ends with `App::main_with` \
     (`cargo run -- secret`)";

/// The longest timeout, in seconds: 366 days.
const MOST_TIMEOUT: u64 = 366 * 24 * 3600;

/// The longest life of a session, in seconds: a hundred years.
const MOST_SESSION: u64 = 100 * 366 * 24 * 3600;

/// One thing that should be looked at: [`Config::deploy_check`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Advice {
    /// The setting to change: `ASIDE_URL`.
    pub setting: &'static str,
    /// What is wrong with it, and what to do.
    pub message: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.setting, self.message)
    }
}

/// The settings of an application.
///
/// ```
/// use aside::Config;
/// use std::time::Duration;
///
/// let config = Config { max_tasks: 50, grace: Duration::from_secs(5), ..Config::default() };
/// assert_eq!(config.address, "127.0.0.1:8000");
/// ```
#[derive(Clone)]
pub struct Config {
    /// `ASIDE_ENV`: `development` (the default) or `production`.
    pub mode: Mode,
    /// `ASIDE_ADDR`: the address to listen on; `127.0.0.1:8000`. Port 0 selects a free port. `unix:/run/site.sock` is a Unix
    /// socket, with `epoll`.
    pub address: String,
    /// `ASIDE_SOCKET_MODE`: the permissions of a Unix socket at `address`, in octal; 660. A process needs write permission
    /// to connect.
    pub socket_mode: u32,
    /// `ASIDE_SOCKET_GROUP`: the group of that socket, by name or number; the group of the process by default. A proxy that
    /// runs as another user can connect if it is in the group.
    pub socket_group: Option<String>,
    /// `ASIDE_SERVER`: `epoll`, the default on Linux, or `tiny_http`, the default elsewhere and without the feature `epoll`.
    pub server: ServerKind,
    /// `ASIDE_URL`: the public URL of the site, for absolute links in mail. Not set by default. If it has a port, requests
    /// for another port are refused.
    pub url: Option<String>,
    /// `ASIDE_ALLOWED_HOSTS`: the allowed host names of requests, separated by commas. `.example.org` allows that name and
    /// its subdomains, `*` allows any name, `example.org:8443` allows that port only. The default is `localhost`,
    /// `127.0.0.1` and `[::1]` in development, the host of `ASIDE_URL` in production, and any name if that is not set.
    pub allowed_hosts: Vec<String>,
    /// `ASIDE_TRUSTED_ORIGINS`: other sites whose pages may send cross-site requests, such as `https://shop.example.org`;
    /// none. `*` turns the CSRF protection off.
    pub trusted_origins: Vec<String>,
    /// `ASIDE_TRUSTED_PROXIES`: addresses or networks (`127.0.0.1`, `10.0.0.0/8`) whose `X-Forwarded-For`,
    /// `X-Forwarded-Proto`, `X-Request-Id` and `traceparent` are trusted; none.
    pub trusted_proxies: Vec<String>,
    /// `ASIDE_TRUST_FORWARDED_HOST`: `true` also trusts `X-Forwarded-Host` of the trusted proxies; `false`. Each proxy must
    /// set the field itself: by default nginx passes on the client's value.
    pub trust_forwarded_host: bool,
    /// `ASIDE_SECRET`: the keys of the session cookie, each at least 32 bytes, separated by commas. The first key encrypts,
    /// all keys decrypt, so that a key can be replaced without logging users out. Keep a former key for
    /// `ASIDE_SESSION_LIFETIME`, since a session is encrypted again only when a handler changes it.
    pub secrets: Vec<String>,
    /// `ASIDE_SESSION_IDLE`: the lifetime of a session after its last use by a request; whole seconds, one day. If it is
    /// longer than `ASIDE_SESSION_LIFETIME`, only that applies. Both are at most 100 years.
    pub session_idle: Duration,
    /// `ASIDE_SESSION_LIFETIME`: the longest lifetime of a session, from its start or from the login; whole seconds, 30
    /// days. Ended sessions are stored for the same time: if you make it longer, change `ASIDE_SECRET` too.
    pub session_lifetime: Duration,
    /// `ASIDE_STORE`: the store for ended sessions and for responses to forms: `sqlite:PATH`, or `memory:`, the default,
    /// which is lost at a restart.
    pub store: Option<String>,
    /// `ASIDE_GRACE`: the time limit of a graceful shutdown for requests and tasks; seconds, 25. This and each timeout is
    /// at most 366 days.
    pub grace: Duration,
    /// `ASIDE_MAX_TASKS`: tasks that run at once; 1,000. Further tasks wait, in order, in a queue. A task that waits for another one ([`TaskHandle::join`](crate::tasks::TaskHandle::join)) does not count during the wait. Jobs do not
    /// count: their queues have separate limits. Two kinds of task start above the limit too: those of a
    /// [`Pool`](crate::Pool), which its permits limit, and those that a task starts with `background`, which
    /// `max_task_threads` limits.
    pub max_tasks: usize,
    /// `ASIDE_MAX_QUEUED_TASKS`: tasks that wait to begin; 10,000. While as many wait, a request to a route that has started
    /// tasks before gets 503, and its handler does not run. Tasks that are started elsewhere wait in any case.
    pub max_queued_tasks: usize,
    /// `ASIDE_MAX_TASK_THREADS`: threads of `background` that run or wait for their turn; 4,000. At the limit, the caller
    /// waits; a caller that is itself a task runs the function on its own thread. Half of the operating system's limit
    /// applies in any case.
    pub max_task_threads: usize,
    /// `ASIDE_BACKGROUND_NICE`: the niceness of the threads of tasks, 0 to 19; 10. On Linux only. Tasks that compute also
    /// leave cores to pages that need them, see [`background`](crate::background()).
    pub nice: i32,
    /// `ASIDE_MAX_WORKERS`: requests that are handled at once; 256. When handlers hold all workers for over a second, a
    /// warning names their routes. Handlers that wait at `ASIDE_MAX_TASK_THREADS` do not
    /// count; as many again may wait there.
    pub max_workers: usize,
    /// `ASIDE_SLOW_REQUEST`: the time from which a request counts as slow, and a warning in the log names its route; seconds, 1.
    /// Fractions such as 0.25 are possible, and 0 turns the warning off. The time in which the client sends the body or receives
    /// the response does not count.
    pub slow_request: Duration,
    /// `ASIDE_MAX_WAITING`: workers that may wait for the same kind of resource: password hashing, a permit of a
    /// [`Pool`](crate::Pool), a value of a [`Cache`](crate::Cache) that another thread computes, the first of two
    /// identical forms, or the end of a job; a quarter of `ASIDE_MAX_WORKERS`. A further request gets 503. All kinds together, bodies included,
    /// leave a quarter of the workers to other requests.
    pub max_waiting: Option<usize>,
    /// `ASIDE_MAX_UPLOADS`: request bodies that workers wait for at once; half of `ASIDE_MAX_WORKERS`. With `epoll` these
    /// are bodies over 64 KiB, and a further one waits for its turn up to `ASIDE_BODY_TIMEOUT`. With tiny_http these are
    /// bodies over 1 KiB, and a further one gets 503.
    pub max_uploads: Option<usize>,
    /// `ASIDE_MAX_UPLOADS_PER_CLIENT`: such bodies of one client address, or of one /64 network with IPv6; a quarter of
    /// `ASIDE_MAX_UPLOADS`. A further one gets 503. Loopback addresses and Unix sockets have no such limit, since they
    /// belong to proxies.
    pub max_uploads_per_client: Option<usize>,
    /// `ASIDE_MAX_STREAMS`: event streams and other slow responses at once; 1,000. Each holds a thread, but for live
    /// pages with `epoll`.
    pub max_streams: usize,
    /// `ASIDE_MAX_STREAMS_PER_CLIENT`: streams of one client address, or of one /64 network with IPv6; a quarter of
    /// `ASIDE_MAX_STREAMS`. A further one gets 503. Loopback addresses and Unix sockets have no such limit, since they
    /// belong to proxies, which `ASIDE_TRUSTED_PROXIES` should name.
    pub max_streams_per_client: Option<usize>,
    /// `ASIDE_MAX_HEAD`: bytes of all header fields of a request; 64 KiB. With tiny_http they are all read before they are
    /// counted.
    pub max_head: usize,
    /// `ASIDE_MAX_HEADERS`: header fields of a request; 128.
    pub max_headers: usize,
    /// `ASIDE_MAX_CONNECTIONS`: connections at once; 20,000. A further one gets 503. This setting and the following ones up
    /// to `ASIDE_WRITE_TIMEOUT` apply to `epoll` only; tiny_http has no such limits.
    pub max_connections: usize,
    /// `ASIDE_MAX_REQUESTS`: requests on one connection; 100,000.
    pub max_requests: u32,
    /// `ASIDE_HEAD_TIMEOUT`: the time limit for receiving the head of a request; whole seconds, 15.
    pub head_timeout: Duration,
    /// `ASIDE_BODY_TIMEOUT`: the longest pause while receiving a body; whole seconds, 30.
    pub body_timeout: Duration,
    /// `ASIDE_MIN_RATE`: the lowest average rate of a body in bytes per second, after its first 10 s; 500.
    pub min_rate: u64,
    /// `ASIDE_MAX_BUFFERED`: bytes of incomplete heads and small bodies, of all connections together; 64 MiB. Above it, the
    /// requests that have been arriving longest get 503.
    pub max_buffered: usize,
    /// `ASIDE_MAX_UNSENT`: bytes of responses in memory that clients have not read, of all connections together; 256 MiB.
    /// Above it, the responses that have waited longest are cut off. Files do not count: they are not in memory.
    pub max_unsent: usize,
    /// `ASIDE_IDLE_TIMEOUT`: the time that a connection is kept for its next request; whole seconds, 75.
    pub idle_timeout: Duration,
    /// `ASIDE_WRITE_TIMEOUT`: the longest time in which a client reads nothing of a response; whole seconds, 30.
    pub write_timeout: Duration,
    /// `ASIDE_MAX_FORM`: bytes of a urlencoded or JSON body, and of all text fields of a multipart one; 1 MiB.
    pub max_form: u64,
    /// `ASIDE_MAX_UPLOAD`: bytes of a multipart body; 32 MiB.
    pub max_upload: u64,
    /// `ASIDE_MAX_FIELDS`: fields of a form or a query; 1,000.
    pub max_fields: usize,
    /// `ASIDE_MAX_PARTS`: parts of a multipart body; 100.
    pub max_parts: usize,
    /// `ASIDE_MAX_COMPRESSED`: bytes of memory for the compressed forms of static files, together; 16 MiB. Above it, those that
    /// are requested least are dropped and compressed again when a client requests them. With 0, each response is compressed.
    pub max_compressed: u64,
    /// `ASIDE_MAX_IMAGE_MEMORY`: bytes for all decoded images together; 512 MiB, at least 1 MiB. A further image waits; one
    /// that is larger than the limit is refused. Files being read and reusable buffers take up to half as much again. Each
    /// process has its own limit.
    pub max_image_memory: u64,
    /// `ASIDE_MAIL_URL`: `smtp://user:password@host:587`, `smtps://…:465`, `file:DIR` or `memory:`. By default files
    /// under `data/mail` in development; in production it must be set before the first mail. `smtp://` is encrypted by
    /// STARTTLS, or nothing is sent (`?tls=required`). To a loopback address, and with `?tls=opportunistic`, it is
    /// encrypted if the server offers that, with any certificate. With `?tls=none` it is not encrypted. In all other cases
    /// the certificate must be one that the operating system or `SSL_CERT_FILE` trusts.
    pub mail_url: Option<String>,
    /// `ASIDE_MAIL_FROM`: the default sender of mail; `aside@localhost` in development.
    pub mail_from: Option<String>,
    /// `ASIDE_MAIL_CONNECTIONS`: simultaneous connections of this process to the mail server; 1 to 100, 4. Further mails
    /// wait. Fewer connections are used while the server reports too many.
    pub mail_connections: usize,
    /// `ASIDE_TEMPLATES`: the folder of the templates (with the feature `templates`); `templates`. Only this default
    /// folder may be missing.
    pub templates: PathBuf,
    /// `ASIDE_LOG`: the format of the log, `text` (the default) or `json`. It applies to [`App::run`](crate::App::run) and
    /// [`App::work`](crate::App::work), unless the application has installed a logger. `RUST_LOG` selects the lines.
    pub log: LogFormat,
    /// `ASIDE_LOOPBACK_CLIENTS`, for tests: `true` counts each loopback address as a separate client.
    #[doc(hidden)]
    pub loopback_clients: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            mode: Mode::Development,
            address: "127.0.0.1:8000".into(),
            socket_mode: 0o660,
            socket_group: None,
            server: ServerKind::default(),
            url: None,
            allowed_hosts: Vec::new(),
            trusted_origins: Vec::new(),
            trusted_proxies: Vec::new(),
            trust_forwarded_host: false,
            secrets: Vec::new(),
            session_idle: Duration::from_secs(24 * 3600),
            session_lifetime: Duration::from_secs(30 * 24 * 3600),
            store: None,
            grace: Duration::from_secs(25),
            max_tasks: 1_000,
            max_queued_tasks: 10_000,
            max_task_threads: 4_000,
            nice: 10,
            max_workers: 256,
            slow_request: Duration::from_secs(1),
            max_waiting: None,
            max_uploads: None,
            max_uploads_per_client: None,
            max_streams: 1_000,
            max_streams_per_client: None,
            max_head: 64 << 10,
            max_headers: 128,
            max_connections: 20_000,
            max_requests: 100_000,
            head_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            min_rate: 500,
            max_buffered: 64 << 20,
            max_unsent: 256 << 20,
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            max_form: 1 << 20,
            max_upload: 32 << 20,
            max_fields: 1_000,
            max_parts: 100,
            max_compressed: 16 << 20,
            max_image_memory: 512 << 20,
            mail_url: None,
            mail_from: None,
            mail_connections: 4,
            templates: "templates".into(),
            log: LogFormat::default(),
            loopback_clients: false,
        }
    }
}

/// Shows neither the secrets nor the password of the mail server, since a configuration may be logged.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("mode", &self.mode)
            .field("address", &self.address)
            .field("secrets", &format_args!("{} not shown", self.secrets.len()))
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Reads the settings from the environment of this process, with the defaults for variables that are not set.
    ///
    /// # Errors
    /// An error if a variable is invalid; the message names it and the accepted values.
    pub fn from_env() -> Result<Config> {
        Config::from_variables(text_variables(std::env::vars_os())?)
    }

    /// Reads the settings from these variables.
    pub(crate) fn from_variables(variables: HashMap<String, String>) -> Result<Config> {
        let config = Variables::new(variables).read(Config::default())?;
        config.check()?;
        Ok(config)
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// An error if a setting is invalid; the message starts with the name of its variable.
    pub fn check(&self) -> Result<()> {
        let short = self.secrets.iter().any(|secret| secret.len() < 32);
        let rules = [
            (short, SHORT_SECRET),
            (self.secrets.is_empty() && self.mode == Mode::Production, MISSING_SECRET),
            (
                self.trust_forwarded_host && self.trusted_proxies.is_empty(),
                "ASIDE_TRUST_FORWARDED_HOST needs ASIDE_TRUSTED_PROXIES, which is not set",
            ),
            (!(0..=19).contains(&self.nice), "ASIDE_BACKGROUND_NICE takes a number from 0 to 19"),
            (self.max_tasks == 0, "ASIDE_MAX_TASKS must be at least 1"),
            (self.max_queued_tasks == 0, "ASIDE_MAX_QUEUED_TASKS must be at least 1"),
            (self.max_task_threads == 0, "ASIDE_MAX_TASK_THREADS must be at least 1"),
            (self.max_workers == 0, "ASIDE_MAX_WORKERS must be at least 1"),
            (self.max_image_memory < 1 << 20, "ASIDE_MAX_IMAGE_MEMORY must be at least 1,048,576 bytes (1 MiB)"),
            (self.max_waiting == Some(0), "ASIDE_MAX_WAITING must be at least 1"),
            (self.max_uploads == Some(0), "ASIDE_MAX_UPLOADS must be at least 1"),
            (self.max_uploads_per_client == Some(0), "ASIDE_MAX_UPLOADS_PER_CLIENT must be at least 1"),
            (self.max_streams_per_client == Some(0), "ASIDE_MAX_STREAMS_PER_CLIENT must be at least 1"),
            (self.max_buffered < 1 << 20, "ASIDE_MAX_BUFFERED must be at least 1048576 bytes (1 MiB)"),
            (self.max_unsent < 1 << 20, "ASIDE_MAX_UNSENT must be at least 1048576 bytes (1 MiB)"),
            (self.max_headers == 0, "ASIDE_MAX_HEADERS must be at least 1"),
            (
                !(1..=1_000_000).contains(&self.max_connections),
                "ASIDE_MAX_CONNECTIONS takes a number from 1 to 1,000,000",
            ),
            (self.max_requests == 0, "ASIDE_MAX_REQUESTS must be at least 1"),
            (!(1..=100).contains(&self.mail_connections), "ASIDE_MAIL_CONNECTIONS takes a number from 1 to 100"),
            (
                self.server == ServerKind::Epoll && !ServerKind::HAS_EPOLL,
                "ASIDE_SERVER is `epoll`, which needs Linux and aside's feature `epoll`; leave it out, or set it to `tiny_http`",
            ),
        ];
        rules.into_iter().find(|(broken, _)| *broken).map_or(Ok(()), |(_, message)| Err(Error::internal(message)))?;
        self.check_times()
    }

    /// Refuses an unreasonable duration: a limit longer than the life of a process has no effect, and one outside the range
    /// of the clock is a mistake.
    fn check_times(&self) -> Result<()> {
        let times = [
            ("ASIDE_SESSION_IDLE", self.session_idle, 1, MOST_SESSION),
            ("ASIDE_SESSION_LIFETIME", self.session_lifetime, 1, MOST_SESSION),
            ("ASIDE_GRACE", self.grace, 0, MOST_TIMEOUT),
            ("ASIDE_SLOW_REQUEST", self.slow_request, 0, MOST_TIMEOUT),
            ("ASIDE_HEAD_TIMEOUT", self.head_timeout, 1, MOST_TIMEOUT),
            ("ASIDE_BODY_TIMEOUT", self.body_timeout, 1, MOST_TIMEOUT),
            ("ASIDE_IDLE_TIMEOUT", self.idle_timeout, 1, MOST_TIMEOUT),
            ("ASIDE_WRITE_TIMEOUT", self.write_timeout, 1, MOST_TIMEOUT),
        ];
        match times.into_iter().find(|(_, time, least, most)| !(*least..=*most).contains(&time.as_secs())) {
            Some((name, time, least, most)) => {
                // With its fraction: half a second is not 0.
                let seconds = time.as_secs_f64();
                Err(Error::internal(format!("{name} takes {least} to {most} seconds, and is {seconds}")))
            }
            None => Ok(()),
        }
    }

    /// Returns the limits on waiting workers.
    pub(crate) fn worker_bounds(&self) -> Bounds {
        let workers = self.max_workers;
        let bodies = self.max_uploads.unwrap_or((workers / 2).max(1));
        Bounds { workers, each: self.max_waiting.unwrap_or(quarter(workers)), bodies }
    }

    /// Returns the limit on large uploads of one client.
    pub(crate) fn uploads_per_client(&self) -> usize {
        self.max_uploads_per_client.unwrap_or(quarter(self.worker_bounds().bodies))
    }

    /// Returns the limit on streams of one client.
    pub(crate) fn streams_per_client(&self) -> usize {
        self.max_streams_per_client.unwrap_or(quarter(self.max_streams))
    }

    /// Returns true in development mode.
    pub fn is_development(&self) -> bool {
        self.mode == Mode::Development
    }
}

/// Logs each variable of the environment whose name is nearly that of a setting.
pub(crate) fn warn_of_misspelled_variables() {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    misspelled(names).iter().for_each(|message| log::warn!(target: "aside::config", "{message}"));
}

fn quarter(all: usize) -> usize {
    (all / 4).max(1)
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Mode> {
        match text {
            "development" => Ok(Mode::Development),
            "production" => Ok(Mode::Production),
            _ => Err(Error::internal("neither")),
        }
    }
}

impl FromStr for LogFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<LogFormat> {
        match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err(Error::internal("neither")),
        }
    }
}

impl FromStr for ServerKind {
    type Err = Error;

    fn from_str(text: &str) -> Result<ServerKind> {
        match text {
            "tiny_http" => Ok(ServerKind::TinyHttp),
            "epoll" => Ok(ServerKind::Epoll),
            _ => Err(Error::internal("neither")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config> {
        Config::from_variables(variables.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
    }

    #[test]
    fn settings_have_defaults() {
        let config = read(&[]).unwrap();
        assert_eq!((config.max_tasks, config.address.as_str()), (1_000, "127.0.0.1:8000"));
    }

    #[test]
    fn the_default_server_is_epoll_if_available() {
        let default = read(&[]).unwrap().server;
        let expected = if cfg!(all(feature = "epoll", target_os = "linux")) { "epoll" } else { "tiny_http" };
        assert_eq!(default.to_string(), expected);
        assert_eq!(read(&[("ASIDE_SERVER", "tiny_http")]).unwrap().server, ServerKind::TinyHttp);
        assert_eq!(read(&[("ASIDE_SERVER", "epoll")]).is_ok(), expected == "epoll");
    }

    #[test]
    fn an_invalid_setting_is_refused_by_its_name() {
        for (name, value) in [
            ("ASIDE_ENV", "prod"),
            ("ASIDE_GRACE", "25s"),
            ("ASIDE_MAX_TASKS", "0"),
            ("ASIDE_MAX_QUEUED_TASKS", "0"),
            ("ASIDE_MAX_TASK_THREADS", "0"),
            ("ASIDE_BACKGROUND_NICE", "20"),
            ("ASIDE_SECRET", "too short"),
            ("ASIDE_MAX_UPLOAD", "-1"),
            ("ASIDE_SESSION_IDLE", "0"),
            ("ASIDE_SESSION_LIFETIME", "0"),
            ("ASIDE_SERVER", "nginx"),
            ("ASIDE_SOCKET_MODE", "0668"),
            ("ASIDE_SOCKET_MODE", "1777"),
            ("ASIDE_TRUST_FORWARDED_HOST", "yes"),
            ("ASIDE_TRUST_FORWARDED_HOST", "true"),
            ("ASIDE_MAX_CONNECTIONS", "0"),
            ("ASIDE_HEAD_TIMEOUT", "0"),
            ("ASIDE_HEAD_TIMEOUT", "18446744073709551615"),
            ("ASIDE_BODY_TIMEOUT", "31622401"),
            ("ASIDE_IDLE_TIMEOUT", "18446744073709551615"),
            ("ASIDE_WRITE_TIMEOUT", "18446744073709551615"),
            ("ASIDE_GRACE", "18446744073709551615"),
            ("ASIDE_SESSION_LIFETIME", "18446744073709551615"),
            ("ASIDE_MAX_WAITING", "0"),
            ("ASIDE_SLOW_REQUEST", "-1"),
            ("ASIDE_SLOW_REQUEST", "inf"),
            ("ASIDE_SLOW_REQUEST", "1e9"),
            ("ASIDE_SLOW_REQUEST", "1s"),
            ("ASIDE_MAX_IMAGE_MEMORY", "1000"),
            ("ASIDE_MAX_IMAGE_MEMORY", "512M"),
            ("ASIDE_MAX_UPLOADS", "many"),
            ("ASIDE_MAX_UPLOADS_PER_CLIENT", "0"),
            ("ASIDE_MAX_STREAMS_PER_CLIENT", "0"),
            ("ASIDE_MAX_BUFFERED", "1000"),
            ("ASIDE_MAX_UNSENT", "1000"),
            ("ASIDE_LOOPBACK_CLIENTS", "maybe"),
            ("ASIDE_MAIL_CONNECTIONS", "0"),
            ("ASIDE_MAIL_CONNECTIONS", "101"),
        ] {
            let words = read(&[(name, value)]).unwrap_err().to_string();
            assert!(words.starts_with(name), "{words}");
        }
    }

    /// Regression: such a value was ignored, and the default applied.
    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_utf8_is_refused_by_its_name() {
        use std::ffi::OsString;
        use std::os::unix::ffi::OsStringExt as _;

        let variable = |name: &str, value: &[u8]| (OsString::from(name), OsString::from_vec(value.to_vec()));
        let read = |variables: Vec<(OsString, OsString)>| text_variables(variables.into_iter());
        let words = read(vec![variable("ASIDE_TEMPLATES", b"\xff")]).unwrap_err().to_string();
        assert_eq!(words, "ASIDE_TEMPLATES is not valid UTF-8");
        let set = read(vec![variable("ASIDE_GRACE", b"3"), variable("ASIDE_ADDR", b""), variable("PATH", b"\xff")]);
        assert_eq!(set.unwrap(), HashMap::from([("ASIDE_GRACE".to_owned(), "3".to_owned())]));
    }

    #[test]
    fn derived_limits_follow_their_base_setting() {
        let config =
            read(&[("ASIDE_MAX_WORKERS", "64"), ("ASIDE_MAX_STREAMS", "40"), ("ASIDE_MAX_WAITING", "3")]).unwrap();
        let bounds = config.worker_bounds();
        assert_eq!((bounds.workers, bounds.each, bounds.bodies), (64, 3, 32));
        assert_eq!((config.uploads_per_client(), config.streams_per_client()), (8, 10));
    }

    #[test]
    fn production_needs_a_secret() {
        let words = read(&[("ASIDE_ENV", "production")]).unwrap_err().to_string();
        assert!(words.contains("ASIDE_SECRET must be set"), "{words}");
    }

    #[test]
    fn a_secret_is_never_shown() {
        let config = read(&[("ASIDE_SECRET", &"s".repeat(32))]).unwrap();
        assert!(!format!("{config:?}").contains("ssss"));
    }
}
