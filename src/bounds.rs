//! Limits on stored text that clients choose.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

use crate::log_text::prefix;
use crate::random;

/// The longest key, in bytes, of a map that clients can fill.
pub(crate) const LONGEST_KEY: usize = 64;

/// The prefix of a key that is a hash of a longer text.
const HASHED: &str = "sha256:";

/// Returns a map key for a text: the text itself up to `most` bytes, and its hash above that.
///
/// Two different texts never have the same key: a text that looks like a hash is hashed too.
pub(crate) fn key(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most && !text.starts_with(HASHED) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{HASHED}{}", random::hex(&Sha256::digest(text))))
}

/// Returns the text itself up to `most` bytes; a longer text is cut and ends in an ellipsis.
pub(crate) fn shorten(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", prefix(text, most)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_and_unique() {
        let long = "a".repeat(LONGEST_KEY + 1);
        assert_eq!(key(&long[1..], LONGEST_KEY), long[1..]);
        let hashed = key(&long, LONGEST_KEY).into_owned();
        assert_eq!(hashed.len(), HASHED.len() + 64);
        assert_ne!(key(&format!("{long}a"), LONGEST_KEY), hashed);
        assert_ne!(key(&hashed, 1_000), hashed, "a client may send text that looks like a hash");
    }

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(shorten("éé", 4), "éé");
        assert_eq!(shorten("ééé", 5), "éé…");
    }
}
