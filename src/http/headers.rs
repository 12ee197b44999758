//! The header fields of a request or a response: a list in order, found by name without regard to case.

use std::borrow::Cow;
use std::fmt;

use crate::error::{Error, Result};

/// Header fields in order (RFC 9110, section 5).
///
/// ```
/// use aside::Headers;
///
/// let mut headers = Headers::new();
/// headers.append("Vary", "Accept");
/// headers.append("Vary", "Cookie");
/// assert_eq!(headers.get("vary"), Some("Accept"));
/// assert_eq!(headers.get_all("vary").collect::<Vec<_>>(), ["Accept", "Cookie"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Text, Text)>);

/// Most names and many values are the same in every response, and need no copy.
type Text = Cow<'static, str>;

impl Headers {
    /// None yet.
    pub const fn new() -> Headers {
        Headers(Vec::new())
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All values of that name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_ref())
    }

    /// Whether there is one of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a field, in place of all of that name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.place(name.into().into(), value.into().into());
    }

    /// The same with a name that is part of the program, and is not copied.
    pub(crate) fn put(&mut self, name: &'static str, value: impl Into<Text>) {
        self.place(name.into(), value.into());
    }

    fn place(&mut self, name: Text, value: Text) {
        let at = self.iter().position(|(key, _)| key.eq_ignore_ascii_case(&name));
        self.remove(&name);
        self.0.insert(at.unwrap_or(self.0.len()), (name, value));
    }

    /// Adds a field beside those of the same name.
    pub fn append(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into().into(), value.into().into()));
    }

    /// The same with a name that is part of the program.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<Text>) {
        self.0.push((name.into(), value.into()));
    }

    /// Adds what others have and these have not.
    pub(crate) fn complete(&mut self, defaults: &Headers) {
        let known = self.0.len();
        // With room for the few that are not the same for all.
        self.0.reserve(defaults.len() + 4);
        for (name, value) in &defaults.0 {
            if !self.0[..known].iter().any(|(key, _)| key.eq_ignore_ascii_case(name)) {
                self.0.push((name.clone(), value.clone()));
            }
        }
    }

    /// Takes all of that name out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and values, each as it may go out or why not. What is part of the program is well formed: only the rest is
    /// looked at.
    pub(crate) fn checked(&self) -> impl Iterator<Item = Result<(&str, &str)>> {
        self.0.iter().map(|(name, value)| {
            if let Cow::Owned(name) = name {
                check_name(name)?;
            }
            if let Cow::Owned(value) = value {
                check_value(name, value)?;
            }
            Ok((name.as_ref(), value.as_ref()))
        })
    }

    /// Refuses a name that is no token and a value that would end its line: with one of these a visitor's text could
    /// write headers of its own (RFC 9110, section 5.5).
    pub(crate) fn check(name: &str, value: &str) -> Result<()> {
        check_name(name)?;
        check_value(name, value)
    }
}

/// Names and values that are part of the program, which are not copied.
impl From<&[(&'static str, &'static str)]> for Headers {
    fn from(fields: &[(&'static str, &'static str)]) -> Headers {
        Headers(fields.iter().map(|(name, value)| (Cow::Borrowed(*name), Cow::Borrowed(*value))).collect())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Headers {
        Headers(fields.into_iter().map(|(name, value)| (name.into().into(), value.into().into())).collect())
    }
}

/// As they go over the wire, a line each.
impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(name, value)| write!(f, "{name}: {value}\r\n"))
    }
}

fn check_name(name: &str) -> Result<()> {
    match name.is_empty() || !name.bytes().all(is_token) {
        true => Err(Error::internal(format!("{name:?} cannot be a header name"))),
        false => Ok(()),
    }
}

fn check_value(name: &str, value: &str) -> Result<()> {
    match is_value(value) {
        true => Ok(()),
        false => Err(Error::internal(format!("the value {value:?} cannot be a header's ({name})"))),
    }
}

/// A byte of a token (RFC 9110, section 5.6.2): of a method's or a header's name.
pub(crate) fn is_token(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~'
    )
}

/// Whether a header may have that value: no control character but the tab.
pub(crate) fn is_value(text: &str) -> bool {
    // All bytes at once, where most values are fine: the processor looks at many at a time.
    text.bytes().fold(true, |fine, byte| fine & (byte == b'\t' || (byte >= b' ' && byte != 0x7f)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_the_bytes_that_the_standard_lists() {
        let listed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        assert!((0..=255).all(|byte| is_token(byte) == listed(byte)));
    }
}
