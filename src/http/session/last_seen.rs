//! The second in which a visitor was last seen: a small cookie beside the session's, bound to the session's id.
//!
//! Pages that only read the session move its idle time on with this cookie and leave the session's own alone. A slow page
//! that sent the whole session back would undo what a faster response, a login say, had changed in the meantime; the older
//! of two times does no harm.

use super::keys::Keys;

/// The cookie's name, without its prefix.
pub(super) const NAME: &str = "session-seen";

/// The latest second that these cookies have for that session.
pub(super) fn latest(keys: &Keys, sealed: &[String], id: &str, now: i64) -> Option<i64> {
    let name = keys.name(NAME);
    let seconds = |text: String| text.strip_prefix(id)?.strip_prefix(' ')?.parse::<i64>().ok();
    let opened = sealed.iter().filter_map(|sealed| seconds(keys.open(&name, sealed)?));
    opened.filter(|seen| keys.is_fresh(*seen, now)).max()
}

/// The header that says when that session was last seen. It stays for `max_age` seconds, or until the browser is closed.
pub(super) fn cookie(keys: &Keys, id: &str, seen: i64, max_age: Option<i64>) -> String {
    let mut cookie = keys.seal(&keys.name(NAME), format!("{id} {seen}"));
    cookie.set_max_age(max_age.map(cookie::time::Duration::seconds));
    cookie.to_string()
}
