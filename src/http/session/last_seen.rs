//! The time when a client was last seen, in a small cookie bound to the session's id.
//!
//! Pages that only read the session extend its idle time with this cookie and do not touch the session's cookie. A slow
//! page that sent the whole session back would undo changes of a faster response, such as a login. An outdated time is
//! harmless.

use std::time::Duration;

use super::keys::Keys;
use crate::error::Result;

/// The cookie's name, without its prefix.
pub(super) const NAME: &str = "session-seen";

/// Returns the latest time that these cookies have for the session.
pub(super) fn latest(keys: &Keys, sealed: &[String], id: &str, now: i64) -> Option<i64> {
    let name = keys.name(NAME);
    let seconds = |text: String| text.strip_prefix(id)?.strip_prefix(' ')?.parse::<i64>().ok();
    let opened = sealed.iter().filter_map(|sealed| seconds(keys.open(&name, sealed)?));
    opened.filter(|seen| keys.is_fresh(*seen, now)).max()
}

/// Returns the header that stores the time last seen. The cookie lives for `max_age`, or until the browser closes.
///
/// # Errors
/// An error if the operating system returns no random bytes.
pub(super) fn cookie(keys: &Keys, id: &str, seen: i64, max_age: Option<Duration>) -> Result<String> {
    let cookie = keys.seal(&keys.name(NAME), &format!("{id} {seen}"))?;
    Ok(cookie.perhaps_max_age(max_age).to_string())
}
