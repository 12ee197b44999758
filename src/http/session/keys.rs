//! Keys, names and attributes of sealed cookies, and the lifetime of sessions.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cookie::{Cookie, CookieJar, Key, SameSite};

use crate::config::{Config, Mode};
use crate::error::{Error, Result};
use crate::http::store;

/// Seconds by which a session may come from the future. Clocks of machines that share a secret differ by so much; one that
/// was set back by more would let its sessions live until their time comes again.
pub(super) const MOST_SKEW: i64 = 300;

/// A browser forgets every cookie after 400 days (RFC 6265bis, section 5.5).
const MOST_MAX_AGE: i64 = 400 * 24 * 3600;

/// The keys, names and attributes of sealed cookies, and the lifetime of sessions.
pub(crate) struct Keys {
    keys: Vec<Key>,
    mode: Mode,
    idle: i64,
    lifetime: i64,
    /// Seconds by which a test is ahead of the clock.
    ahead: AtomicI64,
}

impl Keys {
    /// The keys of a configuration. Without any, one is made up in development, which the log says.
    ///
    /// # Errors
    /// When a key is shorter than 32 bytes, or there is none in production.
    pub(crate) fn new(config: &Config) -> Result<Keys> {
        let keys = match (config.secrets.is_empty(), config.mode) {
            (false, _) => config.secrets.iter().map(|secret| derive(secret)).collect::<Result<_>>()?,
            (true, Mode::Development) => vec![made_up()?],
            (true, Mode::Production) => {
                return Err(Error::internal(
                    "ASIDE_SECRET must be set in production: at least 32 bytes, the same at every start; \
                     `openssl rand -base64 48` makes one",
                ));
            }
        };
        let (idle, lifetime) = (seconds(config.session_idle), seconds(config.session_lifetime));
        Ok(Keys { keys, mode: config.mode, idle, lifetime, ahead: AtomicI64::new(0) })
    }

    /// The time by which sessions live, in seconds.
    pub(crate) fn now(&self) -> i64 {
        store::now().saturating_add(self.ahead.load(Ordering::Relaxed))
    }

    /// Puts a test further ahead of the clock.
    pub(crate) fn advance(&self, time: Duration) {
        self.ahead.fetch_add(seconds(time), Ordering::Relaxed);
    }

    /// The second in which the last session that begins now will be over, for clocks that differ too.
    pub(crate) fn last_end(&self) -> i64 {
        self.now().saturating_add(self.lifetime).saturating_add(MOST_SKEW)
    }

    /// Returns a cookie's name in this mode. A browser accepts `__Host-` only over https, for this host and the path `/`,
    /// so that no subdomain can plant such a cookie.
    pub(crate) fn name(&self, plain: &str) -> String {
        match self.mode {
            Mode::Development => plain.to_owned(),
            Mode::Production => format!("__Host-{plain}"),
        }
    }

    /// Returns a cookie with the attributes of all framework cookies.
    pub(crate) fn cookie(&self, name: &str, value: String) -> Cookie<'static> {
        Cookie::build((name.to_owned(), value))
            .path("/")
            .http_only(true)
            .same_site(SameSite::Lax)
            .secure(self.mode == Mode::Production)
            .build()
    }

    /// Returns the header that removes a cookie.
    pub(super) fn removal(&self, name: &str) -> String {
        let mut cookie = self.cookie(name, String::new());
        cookie.make_removal();
        cookie.to_string()
    }

    /// Seals a cookie, so that only this application can read it, and only under this name.
    pub(super) fn seal(&self, name: &str, text: String) -> Cookie<'static> {
        let mut jar = CookieJar::new();
        jar.private_mut(&self.keys[0]).add(Cookie::new(name.to_owned(), text));
        let sealed = jar.get(name).expect("the jar has the cookie that was just added");
        self.cookie(name, to_url_safe(sealed.value()))
    }

    /// Opens a value that was sealed under this name, with any of the keys.
    pub(super) fn open(&self, name: &str, sealed: &str) -> Option<String> {
        let (jar, sealed) = (CookieJar::new(), from_url_safe(sealed)?);
        let open = |key| jar.private(key).decrypt(Cookie::new(name.to_owned(), sealed.clone()));
        self.keys.iter().find_map(open).map(|cookie| cookie.value().to_owned())
    }

    /// Returns true if a session that began at this time is within its lifetime.
    pub(super) fn is_alive(&self, born: i64, now: i64) -> bool {
        (-MOST_SKEW..self.lifetime).contains(&now.saturating_sub(born))
    }

    /// Returns true if the time last seen is within the idle limit.
    pub(super) fn is_fresh(&self, seen: i64, now: i64) -> bool {
        (-MOST_SKEW..self.idle).contains(&now.saturating_sub(seen))
    }

    /// Returns true if the time last seen should be written again: after a tenth of the idle limit, which shortens an idle
    /// time by at most that much, and at the latest after a minute.
    pub(super) fn is_due(&self, seen: i64, now: i64) -> bool {
        now.saturating_sub(seen) >= (self.idle / 10).clamp(1, 60)
    }

    /// Seconds that are left of a session that began then.
    pub(super) fn rest(&self, born: i64, now: i64) -> i64 {
        born.saturating_add(self.lifetime).saturating_sub(now).clamp(0, MOST_MAX_AGE)
    }
}

fn seconds(time: Duration) -> i64 {
    time.as_secs().try_into().unwrap_or(i64::MAX)
}

fn derive(secret: &str) -> Result<Key> {
    if secret.len() < 32 {
        let words = "ASIDE_SECRET: each key needs at least 32 bytes; `openssl rand -base64 48` makes one";
        return Err(Error::internal(words));
    }
    Ok(Key::derive_from(secret.as_bytes()))
}

fn made_up() -> Result<Key> {
    log::warn!(
        target: "aside::session",
        "The key of the sessions was made up, and they end with this process. Set ASIDE_SECRET to at least 32 bytes to \
         keep them (`openssl rand -base64 48` makes some)."
    );
    Key::try_generate().ok_or_else(|| Error::internal("the system gives no random bytes for the key of the sessions"))
}

/// Converts to the URL-safe letters of RFC 4648, section 5. Some clients quote a value with a slash (Python's
/// `http.cookies`), and others read a plus sign as a space.
fn to_url_safe(base64: &str) -> String {
    base64.trim_end_matches('=').replace('+', "-").replace('/', "_")
}

/// Converts back to the letters of the cookie library; `None` if the text is not URL-safe.
fn from_url_safe(text: &str) -> Option<String> {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !text.bytes().all(is_safe) {
        return None;
    }
    let padding = (4 - text.len() % 4) % 4;
    Some(text.replace('-', "+").replace('_', "/") + &"=".repeat(padding))
}

/// Returns 128 random bits as text, unique and not guessable.
///
/// # Errors
/// An error if the operating system provides no random bytes.
pub(crate) fn unguessable() -> Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::from(error).context("the system gives no random bytes"))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_needs_a_key_and_every_key_its_length() {
        let config = |mode| Config { mode, ..Config::default() };
        let words = Keys::new(&config(Mode::Production)).err().unwrap().to_string();
        assert!(words.contains("ASIDE_SECRET"), "{words}");
        let short = Config { secrets: vec!["short".into()], ..Config::default() };
        assert!(Keys::new(&short).err().unwrap().to_string().contains("ASIDE_SECRET"));
        assert!(Keys::new(&config(Mode::Development)).is_ok());
    }

    /// Regression: aiohttp's cookie jar quoted a value with a slash, and the session was lost.
    #[test]
    fn a_sealed_value_has_only_letters_that_no_client_quotes_or_changes() {
        let keys = Keys::new(&Config::default()).unwrap();
        for length in 0..200 {
            let text = "x".repeat(length);
            let cookie = keys.seal("a", text.clone());
            let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            assert!(cookie.value().bytes().all(is_safe), "{cookie}");
            assert_eq!(keys.open("a", cookie.value()), Some(text));
            assert_eq!(keys.open("b", cookie.value()), None, "it was sealed under another name");
        }
    }
}
