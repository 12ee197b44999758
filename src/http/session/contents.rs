//! The contents of the session's cookie.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The largest JSON of a session in bytes, about 90 of them the framework's own. With 40 bytes of encryption, in
/// base64, with the longest name and all attributes it becomes 4,085 bytes, and every browser accepts a cookie of
/// 4,096.
pub(super) const MAX_BYTES: usize = 2_968;

/// The length of an id: 16 random bytes as text, too many to be guessed.
pub(super) const ID_CHARS: usize = 22;

/// The serialized contents. The names are short, since a cookie has little space.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Contents {
    /// The session's id, under which the store records its end. Empty until the session is first sealed.
    #[serde(rename = "i")]
    pub(super) id: String,
    /// The second in which the session began, or its user logged in.
    #[serde(rename = "b")]
    pub(super) born: i64,
    /// The second of the request that last sealed the session. The cookie of [`last_seen`](super::last_seen) has the
    /// time of a later request.
    #[serde(rename = "s")]
    pub(super) seen: i64,
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    /// The user's mark in the store at login. A different mark means that the user's sessions have been ended since.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<String>,
    /// True if the cookie outlives the browser session.
    #[serde(rename = "r", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) remember: bool,
    /// True if the application stores data under the session's id, so that an empty session is kept too.
    #[serde(rename = "k", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_key: bool,
    #[serde(rename = "v", default, skip_serializing_if = "Map::is_empty")]
    pub(super) values: Map<String, Value>,
}

impl Contents {
    pub(super) fn new(now: i64) -> Contents {
        Contents {
            id: String::new(),
            born: now,
            seen: now,
            user: None,
            mark: None,
            remember: false,
            is_key: false,
            values: Map::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.values.is_empty() && self.user.is_none() && !self.is_key
    }

    pub(super) fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string(self)?;
        // Includes the length of an id that is assigned later.
        let bytes = json.len() + ID_CHARS.saturating_sub(self.id.len());
        if bytes > MAX_BYTES {
            return Err(Error::internal(format!(
                "the session has {bytes} bytes of JSON, and its cookie holds {MAX_BYTES}: store large data in the \
                 database, and an id in the session"
            )));
        }
        Ok(json)
    }
}
