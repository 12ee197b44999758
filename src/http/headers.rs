//! The header fields of a request or a response: an ordered list with case-insensitive names.

use std::borrow::Cow;
use std::fmt;

use crate::error::{Error, Result};

/// Header fields in order (RFC 9110, section 5).
///
/// ```
/// use aside::http::Headers;
///
/// let mut headers = Headers::new();
/// headers.append("Vary", "Accept");
/// headers.append("Vary", "Cookie");
/// assert_eq!(headers.get("vary"), Some("Accept"));
/// assert_eq!(headers.get_all("vary").collect::<Vec<_>>(), ["Accept", "Cookie"]);
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Text, Text)>);

/// A name or a value. Most names and many values are static and need no copy.
type Text = Cow<'static, str>;

impl Headers {
    /// Returns an empty list.
    pub const fn new() -> Headers {
        Headers(Vec::new())
    }

    /// Returns the first value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns all values of this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_ref())
    }

    /// Returns true if there is a field of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a field, and replaces all fields of the same name.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.replace(name.into().into(), value.into().into());
    }

    /// Sets a field with a static name, which is not copied.
    pub(crate) fn put(&mut self, name: &'static str, value: impl Into<Text>) {
        self.replace(name.into(), value.into());
    }

    fn replace(&mut self, name: Text, value: Text) {
        let at = self.iter().position(|(key, _)| key.eq_ignore_ascii_case(&name));
        let Some(at) = at else { return self.0.push((name, value)) };
        self.remove(&name);
        self.0.insert(at, (name, value));
    }

    /// Adds a field, and keeps those of the same name.
    pub fn append(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into().into(), value.into().into()));
    }

    /// Adds a field with a static name, which is not copied.
    pub(crate) fn add(&mut self, name: &'static str, value: impl Into<Text>) {
        self.0.push((name.into(), value.into()));
    }

    /// Adds the default fields whose names are missing.
    pub(crate) fn complete(&mut self, defaults: &Headers) {
        let known = self.0.len();
        // Reserves capacity for a few fields that differ between responses.
        self.0.reserve(defaults.len() + 4);
        for (name, value) in &defaults.0 {
            if !self.0[..known].iter().any(|(key, _)| key.eq_ignore_ascii_case(name)) {
                self.0.push((name.clone(), value.clone()));
            }
        }
    }

    /// Removes all fields of this name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
    }

    /// Returns the names and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_ref(), value.as_ref()))
    }

    /// Returns the number of fields.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names and values, or an error for an invalid one. Static ones are valid: only the others are
    /// checked.
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

    /// Refuses a name that is not a token, and a value with a line end, with which user input could add further headers
    /// (RFC 9110, section 5.5).
    pub(crate) fn check(name: &str, value: &str) -> Result<()> {
        check_name(name)?;
        check_value(name, value)
    }
}

/// Static names and values, which are not copied.
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

/// The wire format, one line for each field.
impl fmt::Display for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(name, value)| write!(f, "{name}: {value}\r\n"))
    }
}

fn check_name(name: &str) -> Result<()> {
    match name.is_empty() || !name.bytes().all(is_token) {
        true => Err(Error::internal(format!("{name:?} is not a valid header name"))),
        false => Ok(()),
    }
}

fn check_value(name: &str, value: &str) -> Result<()> {
    match is_value(value) {
        true => Ok(()),
        false => Err(Error::internal(format!("{value:?} is not a valid value of the header {name}"))),
    }
}

/// Returns true for a byte of a token (RFC 9110, section 5.6.2), such as a method or a header name.
pub(crate) fn is_token(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'0'..=b'9' | b'A'..=b'Z' | b'^'..=b'z' | b'|' | b'~'
    )
}

/// Returns true for a valid header value: without control characters except the tab.
pub(crate) fn is_value(text: &str) -> bool {
    // The loop does not stop early: most values are valid, and the processor handles many bytes at once.
    text.bytes().fold(true, |fine, byte| fine & (byte == b'\t' || (byte >= b' ' && byte != 0x7f)))
}

/// Parses a weight into thousandths: `0`, `0.5`, `1.000` (RFC 9110, section 12.4.2).
pub(crate) fn weight(q: &str) -> Option<u16> {
    let (whole, digits) = q.split_once('.').unwrap_or((q, ""));
    let is_weight =
        matches!(whole, "0" | "1") && digits.len() <= 3 && digits.bytes().all(|digit| digit.is_ascii_digit());
    let weight = format!("{whole}{digits:0<3}").parse().ok().filter(|_| is_weight)?;
    (weight <= 1000).then_some(weight)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_has_at_most_three_digits() {
        for (q, expected) in
            [("0", 0), ("1", 1000), ("0.5", 500), ("0.25", 250), ("0.999", 999), ("1.000", 1000), ("0.", 0)]
        {
            assert_eq!(weight(q), Some(expected), "{q}");
        }
        for q in ["", ".5", "1.001", "2", "-1", "+0", "0.1234", "NaN", "1e0", "0,5", "٠"] {
            assert_eq!(weight(q), None, "{q}");
        }
    }

    #[test]
    fn token_bytes_are_those_of_the_standard() {
        let listed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        assert!((0..=255).all(|byte| is_token(byte) == listed(byte)));
    }
}
