//! Flash messages. Each response that adds some puts them into a separate cookie, and the page that shows them removes
//! that cookie by its name.
//!
//! A page therefore removes only the messages that it has shown. It touches neither a message that a concurrent
//! response adds nor the session.

use serde::{Deserialize, Serialize};

use super::keys::{Keys, unguessable};
use crate::error::{Error, Result};

/// The start of the cookies' names, after their prefix.
pub(super) const START: &str = "flash-";

/// The limit on the JSON of all messages of one client, in bytes. With the largest session the `Cookie` line stays
/// under 7 kB; nginx accepts 8.
const MAX_BYTES: usize = 2_000;

/// The overhead of a cookie beside its JSON, mainly its name.
const OVERHEAD: usize = 50;

/// The length of the random part of a cookie's name: 48 bits, so that concurrent responses do not collide.
const NAME_CHARS: usize = 8;

/// A message for the next page that the user sees.
///
/// ```
/// use aside::{Request, Response, redirect};
///
/// fn create_order(req: &mut Request) -> Response {
///     req.flash("success", "Processing your order!");
///     redirect("/orders")
/// }
/// ```
///
/// A template shows them with `{% for flash in flashes %}<p class="{{ flash.kind }}">{{ flash.message }}</p>{% endfor
/// %}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flash {
    /// The kind of message: `success`, `error`, or another class of the page's style sheet.
    pub kind: String,
    /// The text.
    pub message: String,
}

/// The contents of one cookie.
#[derive(Serialize, Deserialize)]
struct CookieContents {
    /// The second in which the message was added.
    #[serde(rename = "a")]
    at: i64,
    /// The user that the messages are for: another user of the same browser does not see them.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(rename = "f")]
    flashes: Vec<Flash>,
}

/// The messages of an earlier response, and their cookie.
#[derive(Debug, Clone)]
struct Waiting {
    cookie: String,
    at: i64,
    weight: usize,
    flashes: Vec<Flash>,
}

/// The messages of one client.
#[derive(Debug, Clone, Default)]
pub(super) struct Flashes {
    /// The oldest first.
    waiting: Vec<Waiting>,
    /// Cookies to be removed.
    dropped: Vec<String>,
    /// The messages that this request adds.
    added: Vec<Flash>,
    /// The number of messages that have been shown, oldest first.
    shown: usize,
}

impl Flashes {
    /// Reads the messages from these cookies, given by name and value. Drops those of another user and those older than
    /// the idle limit. Ignores cookies that cannot be opened, which may belong to another application.
    pub(super) fn open(keys: &Keys, cookies: &[(String, String)], user: Option<&str>, now: i64) -> Flashes {
        let mut flashes = Flashes::default();
        for (cookie, value) in cookies {
            let Some(text) = keys.open(cookie, value) else { continue };
            let Ok(contents) = serde_json::from_str::<CookieContents>(&text) else { continue };
            let is_ours = contents.user.is_none() || contents.user.as_deref() == user;
            match is_ours && keys.is_fresh(contents.at, now) {
                true => {
                    let (cookie, at, weight) = (cookie.clone(), contents.at, text.len() + OVERHEAD);
                    flashes.waiting.push(Waiting { cookie, at, weight, flashes: contents.flashes });
                }
                false => flashes.dropped.push(cookie.clone()),
            }
        }
        // Browsers send the oldest first, and the sort is stable within a second.
        flashes.waiting.sort_by_key(|waiting| waiting.at);
        flashes
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Flash> {
        self.waiting.iter().flat_map(|waiting| &waiting.flashes).chain(&self.added)
    }

    pub(super) fn add(&mut self, flash: Flash) {
        self.added.push(flash);
    }

    /// Returns the messages that this request has added.
    pub(super) fn added(&self) -> &[Flash] {
        &self.added
    }

    /// Records that a page shows all current messages.
    pub(super) fn note_shown(&mut self) {
        self.shown = self.all().count();
    }

    /// Drops all current messages.
    pub(super) fn clear(&mut self) {
        self.dropped.extend(self.waiting.drain(..).map(|waiting| waiting.cookie));
        self.added.clear();
        self.shown = 0;
    }

    /// Returns the headers that update the browser's cookies. Shown messages stay in the browser unless `is_shown`.
    ///
    /// # Errors
    /// An error if the messages that this request adds are too large.
    pub(super) fn save(&mut self, keys: &Keys, user: Option<&str>, is_shown: bool, now: i64) -> Result<Vec<String>> {
        if is_shown {
            self.remove_shown();
        }
        let added = self.seal_added(keys, user, now)?;
        let removals = self.dropped.drain(..).map(|cookie| keys.removal(&cookie));
        Ok(removals.chain(added).collect())
    }

    fn remove_shown(&mut self) {
        let in_browser: usize = self.waiting.iter().map(|waiting| waiting.flashes.len()).sum();
        if self.shown >= in_browser {
            self.dropped.extend(self.waiting.drain(..).map(|waiting| waiting.cookie));
            self.added.drain(..(self.shown - in_browser).min(self.added.len()));
        }
        self.shown = 0;
    }

    fn seal_added(&mut self, keys: &Keys, user: Option<&str>, now: i64) -> Result<Option<String>> {
        if self.added.is_empty() {
            return Ok(None);
        }
        let contents =
            CookieContents { at: now, user: user.map(str::to_owned), flashes: std::mem::take(&mut self.added) };
        let json = serde_json::to_string(&contents)?;
        if json.len() > MAX_BYTES {
            return Err(Error::internal(format!(
                "the flash messages have {} bytes of JSON, and their cookie holds {MAX_BYTES}: store long texts in the \
                 database, and show them on the page",
                json.len()
            )));
        }
        self.drop_oldest(json.len());
        let name = keys.name(&format!("{START}{}", &unguessable()?[..NAME_CHARS]));
        Ok(Some(keys.seal(&name, &json)?.to_string()))
    }

    /// Drops the browser's oldest messages until the new ones fit. Messages that no page shows must not make requests
    /// larger than a server accepts.
    fn drop_oldest(&mut self, bytes: usize) {
        let mut total: usize = bytes + self.waiting.iter().map(|waiting| waiting.weight).sum::<usize>();
        while total > MAX_BYTES && !self.waiting.is_empty() {
            let oldest = self.waiting.remove(0);
            total -= oldest.weight;
            self.dropped.push(oldest.cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// A browser's flash cookies, in the order in which it received them.
    #[derive(Default)]
    struct Browser(Vec<(String, String)>);

    impl Browser {
        fn take(&mut self, lines: Vec<String>) {
            for line in lines {
                let (name, rest) = line.split_once('=').unwrap();
                self.0.retain(|(known, _)| known != name);
                if !line.contains("Max-Age=0") {
                    self.0.push((name.to_owned(), rest.split(';').next().unwrap().to_owned()));
                }
            }
        }

        fn messages(&self, keys: &Keys, user: Option<&str>) -> Vec<String> {
            let flashes = Flashes::open(keys, &self.0, user, keys.now());
            flashes.all().map(|flash| flash.message.clone()).collect()
        }

        fn flash(&mut self, keys: &Keys, user: Option<&str>, message: &str) -> Result<()> {
            let mut flashes = Flashes::open(keys, &self.0, user, keys.now());
            flashes.add(Flash { kind: "info".into(), message: message.into() });
            self.take(flashes.save(keys, user, true, keys.now())?);
            Ok(())
        }
    }

    #[test]
    fn a_message_of_another_user_is_removed_and_not_shown() {
        let (keys, mut browser) = (Keys::new(&Config::default(), None).unwrap(), Browser::default());
        browser.flash(&keys, None, "for anyone").unwrap();
        browser.flash(&keys, Some("17"), "for 17").unwrap();
        assert_eq!(browser.messages(&keys, Some("17")), ["for anyone", "for 17"]);
        for user in [None, Some("18")] {
            assert_eq!(browser.messages(&keys, user), ["for anyone"]);
            let mut other = Flashes::open(&keys, &browser.0, user, keys.now());
            assert_eq!(other.save(&keys, user, true, keys.now()).unwrap().len(), 1, "its cookie is removed");
        }
    }

    #[test]
    fn a_message_expires_like_an_idle_session() {
        let (keys, mut browser) = (Keys::new(&Config::default(), None).unwrap(), Browser::default());
        browser.flash(&keys, None, "soon").unwrap();
        keys.advance(Config::default().session_idle);
        assert!(browser.messages(&keys, None).is_empty());
    }

    /// A client whose pages show no messages submits a form repeatedly.
    #[test]
    fn the_oldest_unshown_messages_are_dropped_above_the_limit() {
        let (keys, mut browser) = (Keys::new(&Config::default(), None).unwrap(), Browser::default());
        for number in 0..300 {
            browser.flash(&keys, None, &format!("{number} {}", "x".repeat(100))).unwrap();
        }
        let size: usize = browser.0.iter().map(|(name, value)| name.len() + value.len() + 3).sum();
        assert!(size < 3_500, "{size} bytes");
        let messages = browser.messages(&keys, None);
        assert!(messages.len() >= 8 && messages.last().unwrap().starts_with("299 "), "{messages:?}");
    }

    #[test]
    fn the_largest_messages_fit_and_one_more_byte_is_refused() {
        let (keys, mut browser) = (Keys::new(&Config::default(), None).unwrap(), Browser::default());
        let most = (0..MAX_BYTES).rev().find(|most| browser.flash(&keys, Some("17"), &"x".repeat(*most)).is_ok());
        assert!(most.unwrap() > 1_900, "{most:?}");
        assert!(browser.0.len() == 1 && browser.0[0].1.len() < 2_800);
        let error = browser.flash(&keys, Some("17"), &"x".repeat(most.unwrap() + 1)).unwrap_err();
        assert!(error.to_string().contains("flash messages have 2001 bytes"), "{error}");
    }
}
