//! The time when a client was last seen, in a small cookie bound to the session's id.
//!
//! Pages that only read the session extend its idle time with this cookie and do not touch the session's cookie. A slow
//! page that sent the whole session back would undo changes of a faster response, such as a login. An outdated time is
//! harmless.

use super::keys::Keys;

/// The cookie's name, without its prefix.
pub(super) const NAME: &str = "session-seen";

/// Returns the latest time that these cookies have for the session.
pub(super) fn latest(keys: &Keys, sealed: &[String], id: &str, now: i64) -> Option<i64> {
    let name = keys.name(NAME);
    let seconds = |text: String| text.strip_prefix(id)?.strip_prefix(' ')?.parse::<i64>().ok();
    let opened = sealed.iter().filter_map(|sealed| seconds(keys.open(&name, sealed)?));
    opened.filter(|seen| keys.is_fresh(*seen, now)).max()
}

/// Returns the header that stores the time last seen. The cookie lives for `max_age` seconds, or until the browser
/// closes.
pub(super) fn cookie(keys: &Keys, id: &str, seen: i64, max_age: Option<i64>) -> String {
    let mut cookie = keys.seal(&keys.name(NAME), format!("{id} {seen}"));
    cookie.set_max_age(max_age.map(cookie::time::Duration::seconds));
    cookie.to_string()
}
