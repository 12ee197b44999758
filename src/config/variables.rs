//! The settings as variables of the environment.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::Config;
use crate::error::{Error, Result};

/// The variables of the framework that are set, and the names of all that are read.
pub(super) struct Variables {
    set: HashMap<String, String>,
    names: RefCell<BTreeSet<&'static str>>,
}

/// The distance up to which a name is nearly another one, and the same for a name of so few letters that most others are near.
const NEAR: usize = 2;
const NEAR_SHORT: usize = 1;

/// The bytes of `ASIDE_` and four letters: the longest short name.
const SHORT: usize = 10;

/// The longest ending that turns a name into nearly the same one: `ASIDE_ADDRESS`.
const ENDING: usize = 3;

/// Returns a message for each name that is nearly that of a setting. An application may have other `ASIDE_` variables.
pub(super) fn misspelled(names: impl Iterator<Item = String>) -> Vec<String> {
    let settings = Variables::names();
    let nearest = |name: &str| {
        settings.iter().copied().filter(|setting| is_near(name, setting)).min_by_key(|setting| distance(name, setting))
    };
    let unknown = names.filter(|name| !settings.contains(name.as_str()));
    unknown
        .filter_map(|name| nearest(&name).map(|setting| format!("{name} is not a setting; did you mean {setting}?")))
        .collect()
}

fn is_near(name: &str, setting: &str) -> bool {
    let near = if setting.len() <= SHORT { NEAR_SHORT } else { NEAR };
    let is_longer = name.strip_prefix(setting).is_some_and(|ending| ending.len() <= ENDING && !ending.contains('_'));
    is_longer || distance(name, setting) <= near
}

/// Returns the number of letters to insert, delete, replace or swap, in any case.
fn distance(name: &str, setting: &str) -> usize {
    strsim::osa_distance(&name.to_uppercase(), setting)
}

/// Returns the variables of the framework that are set.
pub(super) fn text_variables(all: impl Iterator<Item = (OsString, OsString)>) -> Result<HashMap<String, String>> {
    let named = all.filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    let set = named.filter(|(name, value)| name.starts_with("ASIDE_") && !value.is_empty());
    set.map(|(name, value)| match value.into_string() {
        Ok(value) => Ok((name, value)),
        Err(_) => Err(Error::internal(format!("{name} is not valid UTF-8"))),
    })
    .collect()
}

impl Variables {
    pub(super) fn new(variables: HashMap<String, String>) -> Variables {
        Variables { set: variables, names: RefCell::default() }
    }

    /// Returns the names of all settings.
    fn names() -> BTreeSet<&'static str> {
        let nothing_set = Variables::new(HashMap::new());
        nothing_set.read(Config::default()).expect("the defaults are valid");
        nothing_set.names.take()
    }

    /// Reads all settings; a variable that is not set leaves the default.
    pub(super) fn read(&self, default: Config) -> Result<Config> {
        self.site(default)
            .and_then(|config| self.sessions_and_mail(config))
            .and_then(|config| self.work(config))
            .and_then(|config| self.connections(config))
    }

    /// Reads the mode, the address, and the hosts and proxies that the site trusts.
    fn site(&self, default: Config) -> Result<Config> {
        Ok(Config {
            mode: self.or("ASIDE_ENV", default.mode, "`development` or `production`")?,
            address: self.text("ASIDE_ADDR").unwrap_or(default.address),
            socket_mode: self.octal("ASIDE_SOCKET_MODE", default.socket_mode)?,
            socket_group: self.text("ASIDE_SOCKET_GROUP"),
            server: self.or("ASIDE_SERVER", default.server, "`tiny_http` or `epoll`")?,
            url: self.text("ASIDE_URL"),
            allowed_hosts: self.list("ASIDE_ALLOWED_HOSTS"),
            trusted_origins: self.list("ASIDE_TRUSTED_ORIGINS"),
            trusted_proxies: self.list("ASIDE_TRUSTED_PROXIES"),
            trust_forwarded_host: self.or(
                "ASIDE_TRUST_FORWARDED_HOST",
                default.trust_forwarded_host,
                "`true` or `false`",
            )?,
            templates: self.text("ASIDE_TEMPLATES").map_or(default.templates, PathBuf::from),
            log: self.or("ASIDE_LOG", default.log, "`text` or `json`")?,
            loopback_clients: self.or("ASIDE_LOOPBACK_CLIENTS", default.loopback_clients, "`true` or `false`")?,
            ..default
        })
    }

    /// Reads the settings of sessions and of mail.
    fn sessions_and_mail(&self, default: Config) -> Result<Config> {
        Ok(Config {
            secrets: self.list("ASIDE_SECRET"),
            session_idle: self.seconds("ASIDE_SESSION_IDLE", default.session_idle)?,
            session_lifetime: self.seconds("ASIDE_SESSION_LIFETIME", default.session_lifetime)?,
            store: self.text("ASIDE_STORE"),
            mail_url: self.text("ASIDE_MAIL_URL"),
            mail_from: self.text("ASIDE_MAIL_FROM"),
            mail_connections: self.or("ASIDE_MAIL_CONNECTIONS", default.mail_connections, "a number from 1 to 100")?,
            ..default
        })
    }

    /// Reads the limits on tasks, workers, streams and images.
    fn work(&self, default: Config) -> Result<Config> {
        Ok(Config {
            grace: self.seconds("ASIDE_GRACE", default.grace)?,
            max_tasks: self.or("ASIDE_MAX_TASKS", default.max_tasks, "a whole number")?,
            max_queued_tasks: self.or("ASIDE_MAX_QUEUED_TASKS", default.max_queued_tasks, "a whole number")?,
            max_task_threads: self.or("ASIDE_MAX_TASK_THREADS", default.max_task_threads, "a whole number")?,
            nice: self.or("ASIDE_BACKGROUND_NICE", default.nice, "a number from 0 to 19")?,
            max_workers: self.or("ASIDE_MAX_WORKERS", default.max_workers, "a whole number")?,
            slow_request: self.fraction("ASIDE_SLOW_REQUEST", default.slow_request)?,
            max_waiting: self.number("ASIDE_MAX_WAITING")?,
            max_uploads: self.number("ASIDE_MAX_UPLOADS")?,
            max_uploads_per_client: self.number("ASIDE_MAX_UPLOADS_PER_CLIENT")?,
            max_streams: self.or("ASIDE_MAX_STREAMS", default.max_streams, "a whole number")?,
            max_streams_per_client: self.number("ASIDE_MAX_STREAMS_PER_CLIENT")?,
            max_compressed: self.or("ASIDE_MAX_COMPRESSED", default.max_compressed, "a number of bytes")?,
            max_image_memory: self.or("ASIDE_MAX_IMAGE_MEMORY", default.max_image_memory, "a number of bytes")?,
            ..default
        })
    }

    /// Reads the limits on connections and on what arrives over them.
    fn connections(&self, default: Config) -> Result<Config> {
        Ok(Config {
            max_head: self.or("ASIDE_MAX_HEAD", default.max_head, "a number of bytes")?,
            max_headers: self.or("ASIDE_MAX_HEADERS", default.max_headers, "a whole number")?,
            max_connections: self.or("ASIDE_MAX_CONNECTIONS", default.max_connections, "a whole number")?,
            max_requests: self.or("ASIDE_MAX_REQUESTS", default.max_requests, "a whole number")?,
            head_timeout: self.seconds("ASIDE_HEAD_TIMEOUT", default.head_timeout)?,
            body_timeout: self.seconds("ASIDE_BODY_TIMEOUT", default.body_timeout)?,
            min_rate: self.or("ASIDE_MIN_RATE", default.min_rate, "bytes in a second")?,
            max_buffered: self.or("ASIDE_MAX_BUFFERED", default.max_buffered, "a number of bytes")?,
            max_unsent: self.or("ASIDE_MAX_UNSENT", default.max_unsent, "a number of bytes")?,
            idle_timeout: self.seconds("ASIDE_IDLE_TIMEOUT", default.idle_timeout)?,
            write_timeout: self.seconds("ASIDE_WRITE_TIMEOUT", default.write_timeout)?,
            max_form: self.or("ASIDE_MAX_FORM", default.max_form, "a number of bytes")?,
            max_upload: self.or("ASIDE_MAX_UPLOAD", default.max_upload, "a number of bytes")?,
            max_fields: self.or("ASIDE_MAX_FIELDS", default.max_fields, "a whole number")?,
            max_parts: self.or("ASIDE_MAX_PARTS", default.max_parts, "a whole number")?,
            ..default
        })
    }

    fn text(&self, name: &'static str) -> Option<String> {
        self.names.borrow_mut().insert(name);
        self.set.get(name).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn list(&self, name: &'static str) -> Vec<String> {
        let parts = |text: String| text.split(',').map(|part| part.trim().to_owned()).collect();
        self.text(name).map_or_else(Vec::new, parts)
    }

    /// Reads a number without a fixed default.
    fn number(&self, name: &'static str) -> Result<Option<usize>> {
        self.text(name).map(|_| self.or(name, 0, "a whole number")).transpose()
    }

    fn seconds(&self, name: &'static str, default: Duration) -> Result<Duration> {
        self.or(name, default.as_secs(), "whole seconds").map(Duration::from_secs)
    }

    /// Reads seconds with a fraction.
    fn fraction(&self, name: &'static str, default: Duration) -> Result<Duration> {
        let seconds: f64 = self.or(name, default.as_secs_f64(), "seconds")?;
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| Error::internal(format!("{name} takes seconds, and is `{seconds}`")))
    }

    fn octal(&self, name: &'static str, default: u32) -> Result<u32> {
        let Some(text) = self.text(name) else { return Ok(default) };
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.ok_or_else(|| Error::internal(format!("{name} takes an octal number from 0 to 777, and is `{text}`")))
    }

    fn or<T: FromStr>(&self, name: &'static str, default: T, takes: &str) -> Result<T> {
        let Some(text) = self.text(name) else { return Ok(default) };
        text.parse().map_err(|_| Error::internal(format!("{name} takes {takes}, and is `{text}`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_that_is_nearly_a_setting_is_named_with_it() {
        let messages = |name: &str| misspelled([name.to_owned()].into_iter());
        for (name, setting) in [
            ("ASIDE_ADRR", "ASIDE_ADDR"),
            ("ASIDE_ADDRESS", "ASIDE_ADDR"),
            ("ASIDE_SECRETS", "ASIDE_SECRET"),
            ("ASIDE_MAX_TASK", "ASIDE_MAX_TASKS"),
            ("ASIDE_MAX_UPLAOD", "ASIDE_MAX_UPLOAD"),
            ("ASDIE_GRACE", "ASIDE_GRACE"),
            ("aside_url", "ASIDE_URL"),
            ("ASIDE_ENV_", "ASIDE_ENV"),
        ] {
            assert_eq!(messages(name), [format!("{name} is not a setting; did you mean {setting}?")]);
        }
    }

    #[test]
    fn other_variables_are_not_mentioned() {
        let own = [
            "ASIDE_JOBS",
            "ASIDE_STATIC",
            "ASIDE_LEDGER",
            "ASIDE_STORE_NAME",
            "ASIDE_DEV",
            "ASIDE_MAIL",
            "PATH",
            "",
            "Ä",
        ];
        let settings =
            ["ASIDE_MAX_UPLOAD", "ASIDE_MAX_UPLOADS", "ASIDE_ADDR", "ASIDE_MAX_FORM", "ASIDE_LOOPBACK_CLIENTS"];
        assert_eq!(misspelled(own.into_iter().chain(settings).map(str::to_owned)), Vec::<String>::new());
    }
}
