//! Keys, names and attributes of sealed cookies, and the lifetime of sessions.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::development_secret;
use super::sealing_key::{self, SealingKey};
use crate::config::{Config, MISSING_SECRET, Mode, SHORT_SECRET};
use crate::error::{Error, Result};
use crate::http::cookie::{Cookie, SameSite};
use crate::http::session::store;
use crate::log_text::absolute;
use crate::random;

/// The number of seconds by which a session may begin in the future, since the clocks of machines that share a secret
/// differ. If a clock was set back by more, its sessions would live until it reaches their time again.
pub(super) const MAX_SKEW: i64 = 300;

/// The longest lifetime of a cookie. A browser removes every cookie after 400 days (RFC 6265bis, section 5.5).
const MAX_MAX_AGE: i64 = 400 * 24 * 3600;

/// The keys, names and attributes of sealed cookies, and the lifetime of sessions.
pub(crate) struct Keys {
    keys: Vec<SealingKey>,
    mode: Mode,
    idle: i64,
    lifetime: i64,
    /// The number of seconds by which a test has advanced the clock.
    advanced: AtomicI64,
    /// The source of the keys, for the log.
    source: String,
}

impl Keys {
    /// Returns the keys of a configuration. In development without `ASIDE_SECRET`, the key is derived from the secret that
    /// is kept for development, or is random if there is none.
    ///
    /// # Errors
    /// 500 if a secret is shorter than 32 bytes, or missing in production.
    pub(crate) fn new(config: &Config, kept: Option<&str>) -> Result<Keys> {
        let (keys, source) = match (config.secrets.is_empty(), config.mode) {
            (false, _) => {
                let keys = config.secrets.iter().map(|secret| derive(secret)).collect::<Result<_>>()?;
                (keys, "from ASIDE_SECRET".to_owned())
            }
            (true, Mode::Development) => match kept {
                Some(secret) => (vec![derive(secret)?], format!("in {}", absolute(&development_secret::file()))),
                None => (vec![SealingKey::random()?], "that is random, and end with this process".to_owned()),
            },
            (true, Mode::Production) => return Err(Error::internal(MISSING_SECRET)),
        };
        let (idle, lifetime) = (seconds(config.session_idle), seconds(config.session_lifetime));
        Ok(Keys { keys, mode: config.mode, idle, lifetime, advanced: AtomicI64::new(0), source })
    }

    /// Returns the source of the keys as text that follows *a key*: a setting or a file.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Returns the time of sessions, in seconds.
    pub(crate) fn now(&self) -> i64 {
        store::now().saturating_add(self.advanced.load(Ordering::Relaxed))
    }

    /// Advances the clock, for a test.
    pub(crate) fn advance(&self, time: Duration) {
        self.advanced.fetch_add(seconds(time), Ordering::Relaxed);
    }

    /// Returns the second in which the last session that begins now will have expired, with a margin for clocks that
    /// differ.
    pub(crate) fn last_end(&self) -> i64 {
        self.now().saturating_add(self.lifetime).saturating_add(MAX_SKEW)
    }

    /// Returns a cookie's name in this mode. A browser accepts `__Host-` only over https, for this host and the path
    /// `/`, so that no subdomain can plant such a cookie.
    pub(crate) fn name(&self, plain: &str) -> String {
        match self.mode {
            Mode::Development => plain.to_owned(),
            Mode::Production => format!("__Host-{plain}"),
        }
    }

    /// Returns a cookie with the attributes of all framework cookies.
    pub(crate) fn cookie(&self, name: &str, value: String) -> Cookie {
        let cookie = Cookie::new(name, value).path("/").http_only(true).same_site(SameSite::Lax);
        cookie.secure(self.mode == Mode::Production)
    }

    /// Returns the header that removes a cookie.
    pub(super) fn removal(&self, name: &str) -> String {
        self.cookie(name, String::new()).max_age(Duration::ZERO).to_string()
    }

    /// Seals a cookie, so that only this application can read it, and only under this name.
    ///
    /// # Errors
    /// An error if the operating system returns no random bytes.
    pub(super) fn seal(&self, name: &str, text: &str) -> Result<Cookie> {
        Ok(self.cookie(name, self.seal_text(name, text)?))
    }

    /// Seals a text, so that only this application can read it, and only under this name.
    ///
    /// # Errors
    /// An error if the operating system returns no random bytes.
    pub(super) fn seal_text(&self, name: &str, text: &str) -> Result<String> {
        self.keys[0].seal(name, text)
    }

    /// Opens a value that was sealed under this name, with any of the keys.
    pub(super) fn open(&self, name: &str, sealed: &str) -> Option<String> {
        let sealed = sealing_key::decode(sealed)?;
        self.keys.iter().find_map(|key| key.open(name, &sealed))
    }

    /// Returns true if a session that began at this time is within its lifetime.
    pub(super) fn is_alive(&self, born: i64, now: i64) -> bool {
        (-MAX_SKEW..self.lifetime).contains(&now.saturating_sub(born))
    }

    /// Returns true if the time last seen is within the idle limit.
    pub(super) fn is_fresh(&self, seen: i64, now: i64) -> bool {
        (-MAX_SKEW..self.idle).contains(&now.saturating_sub(seen))
    }

    /// Returns true if the time last seen should be written again: after a tenth of the idle limit, which shortens an
    /// idle time by at most that much, and at the latest after a minute.
    pub(super) fn is_due(&self, seen: i64, now: i64) -> bool {
        now.saturating_sub(seen) >= (self.idle / 10).clamp(1, 60)
    }

    /// Returns the time that is left of a session that began at `born`.
    pub(super) fn rest(&self, born: i64, now: i64) -> Duration {
        let seconds = born.saturating_add(self.lifetime).saturating_sub(now).clamp(0, MAX_MAX_AGE);
        Duration::from_secs(seconds.unsigned_abs())
    }
}

pub(super) fn seconds(time: Duration) -> i64 {
    time.as_secs().try_into().unwrap_or(i64::MAX)
}

fn derive(secret: &str) -> Result<SealingKey> {
    if secret.len() < 32 {
        return Err(Error::internal(SHORT_SECRET));
    }
    Ok(SealingKey::derive(secret))
}

/// Returns 128 random bits as text, unique and not guessable.
///
/// # Errors
/// An error if the operating system provides no random bytes.
pub(crate) fn unguessable() -> Result<String> {
    random::bytes::<16>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_secret_counts_only_in_development_without_a_setting() {
        let (kept, other) = ("k".repeat(32), "o".repeat(32));
        let (own, set) = (Config::default(), Config { secrets: vec![other.clone()], ..Config::default() });
        let opens = |config: &Config, text: &Keys| {
            let sealed = text.seal("a", "text").unwrap().to_string();
            let value = sealed.strip_prefix("a=").unwrap().split(';').next().unwrap().to_owned();
            Keys::new(config, Some(&kept)).unwrap().open("a", &value).is_some()
        };
        let before = Keys::new(&own, Some(&kept)).unwrap();
        assert!(opens(&own, &before), "after a restart");
        assert!(!opens(&set, &before), "ASIDE_SECRET is set");
        assert!(!opens(&own, &Keys::new(&own, None).unwrap()), "a random key");
        let production = Config { mode: Mode::Production, ..Config::default() };
        assert!(Keys::new(&production, Some(&kept)).is_err());
    }

    #[test]
    fn production_needs_a_key_and_keys_have_a_minimum_length() {
        let config = |mode| Config { mode, ..Config::default() };
        let message = Keys::new(&config(Mode::Production), None).err().unwrap().to_string();
        assert!(message.contains("ASIDE_SECRET"), "{message}");
        let short = Config { secrets: vec!["short".into()], ..Config::default() };
        assert!(Keys::new(&short, None).err().unwrap().to_string().contains("ASIDE_SECRET"));
        assert!(Keys::new(&config(Mode::Development), None).is_ok());
    }

    /// Regression: aiohttp's cookie jar quoted a value with a slash, and the session was lost.
    #[test]
    fn a_sealed_value_has_only_characters_that_clients_leave_unchanged() {
        let keys = Keys::new(&Config::default(), None).unwrap();
        for length in 0..200 {
            let text = "x".repeat(length);
            let line = keys.seal("a", &text).unwrap().to_string();
            let value = line.strip_prefix("a=").unwrap().split(';').next().unwrap();
            let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            assert!(value.bytes().all(is_safe), "{line}");
            assert_eq!(keys.open("a", value), Some(text));
            assert_eq!(keys.open("b", value), None, "it was sealed under another name");
        }
    }
}
