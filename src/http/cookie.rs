//! A cookie that a response sets: the `Set-Cookie` header field.

use std::fmt;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::headers::is_token;
use crate::error::{Error, Result};

/// The characters of a value that are encoded: all that a cookie may not have (RFC 6265, section 4.1.1), and those that
/// some clients quote or decode.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'*')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A cookie for [`Response::cookie`](crate::Response::cookie).
///
/// ```
/// use aside::http::{Cookie, SameSite};
/// use aside::{Request, Response, redirect};
/// use std::time::Duration;
///
/// fn choose(_req: &mut Request) -> Response {
///     let year = Duration::from_secs(365 * 24 * 3_600);
///     redirect("/").cookie(Cookie::new("theme", "dark").path("/").max_age(year).secure(true).same_site(SameSite::Lax))
/// }
/// ```
///
/// Without attributes it ends with the browser session, is sent for the path of the request and below, and scripts can
/// read it. Browsers refuse a cookie whose name and value are longer than 4,096 bytes together. For data that the client
/// must not read or change, use the [`Session`](crate::Session).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cookie {
    name: String,
    value: String,
    path: Option<String>,
    domain: Option<String>,
    max_age: Option<Duration>,
    http_only: bool,
    secure: bool,
    partitioned: bool,
    same_site: Option<SameSite>,
}

/// The requests from other sites that a browser sends a cookie with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// None.
    Strict,
    /// Only links and other navigations by GET.
    Lax,
    /// All. The cookie is then [`secure`](Cookie::secure), since browsers refuse it otherwise.
    None,
}

impl Cookie {
    /// Returns a cookie without attributes. Its value is percent-encoded when it is sent.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Cookie {
        Cookie {
            name: name.into(),
            value: value.into(),
            path: None,
            domain: None,
            max_age: None,
            http_only: false,
            secure: false,
            partitioned: false,
            same_site: None,
        }
    }

    /// Returns a cookie that makes the browser remove the one of this name. Set the path and the domain that the cookie
    /// was set with.
    ///
    /// ```
    /// use aside::http::Cookie;
    ///
    /// assert_eq!(Cookie::removal("theme").path("/").to_string(), "theme=; Path=/; Max-Age=0");
    /// ```
    pub fn removal(name: impl Into<String>) -> Cookie {
        Cookie::new(name, "").max_age(Duration::ZERO)
    }

    /// Sets the path: the cookie is sent for it and for all paths below.
    pub fn path(mut self, path: impl Into<String>) -> Cookie {
        self.path = Some(path.into());
        self
    }

    /// Sets the domain: the cookie is sent to all its hosts. Without it, only the host that set the cookie gets it.
    pub fn domain(mut self, domain: impl Into<String>) -> Cookie {
        self.domain = Some(domain.into());
        self
    }

    /// Sets how long the browser keeps the cookie, in whole seconds. Browsers keep none for longer than 400 days, and
    /// remove one at once if the time is zero.
    pub fn max_age(mut self, time: Duration) -> Cookie {
        self.max_age = Some(time);
        self
    }

    /// Sets how long the browser keeps the cookie; `None` until the browser is closed.
    pub(crate) fn perhaps_max_age(mut self, time: Option<Duration>) -> Cookie {
        self.max_age = time;
        self
    }

    /// Sets whether scripts cannot read the cookie.
    pub fn http_only(mut self, http_only: bool) -> Cookie {
        self.http_only = http_only;
        self
    }

    /// Sets whether the browser sends the cookie only over https.
    pub fn secure(mut self, secure: bool) -> Cookie {
        self.secure = secure;
        self
    }

    /// Sets the requests from other sites that the browser sends the cookie with. Browsers choose if it is not set: `Lax`
    /// or `None`.
    pub fn same_site(mut self, same_site: SameSite) -> Cookie {
        self.same_site = Some(same_site);
        self
    }

    /// Sets whether the browser keeps one cookie for each site that embeds this one (CHIPS). The cookie is then
    /// [`secure`](Cookie::secure), since browsers refuse it otherwise.
    pub fn partitioned(mut self, partitioned: bool) -> Cookie {
        self.partitioned = partitioned;
        self
    }

    /// Returns the reason why the cookie cannot be sent, if there is one.
    pub(crate) fn check(&self) -> Result<()> {
        if self.name.is_empty() || !self.name.bytes().all(is_token) {
            return Err(Error::internal(format!("{:?} is not a valid name of a cookie", self.name)));
        }
        let is_attribute = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b';';
        for (attribute, value) in [("path", &self.path), ("domain", &self.domain)] {
            if let Some(value) = value.as_ref().filter(|value| !value.bytes().all(is_attribute)) {
                return Err(Error::internal(format!(
                    "{value:?} is not a valid {attribute} of the cookie {}",
                    self.name
                )));
            }
        }
        Ok(())
    }
}

impl<N: Into<String>, V: Into<String>> From<(N, V)> for Cookie {
    fn from((name, value): (N, V)) -> Cookie {
        Cookie::new(name, value)
    }
}

/// Formats the value of the `Set-Cookie` header.
impl fmt::Display for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, utf8_percent_encode(&self.value, ENCODED))?;
        if self.http_only {
            f.write_str("; HttpOnly")?;
        }
        if let Some(same_site) = self.same_site {
            write!(f, "; SameSite={same_site:?}")?;
        }
        if self.partitioned {
            f.write_str("; Partitioned")?;
        }
        if self.secure || self.partitioned || self.same_site == Some(SameSite::None) {
            f.write_str("; Secure")?;
        }
        if let Some(path) = &self.path {
            write!(f, "; Path={path}")?;
        }
        if let Some(domain) = &self.domain {
            write!(f, "; Domain={domain}")?;
        }
        self.max_age.map_or(Ok(()), |time| write!(f, "; Max-Age={}", time.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_attributes() -> Cookie {
        let cookie = Cookie::new("a", "b").path("/x y").domain("example.org").max_age(Duration::from_millis(60_999));
        cookie.http_only(true).secure(true).same_site(SameSite::Strict).partitioned(true)
    }

    #[test]
    fn attributes_are_sent_in_whole() {
        let line = "a=b; HttpOnly; SameSite=Strict; Partitioned; Secure; Path=/x y; Domain=example.org; Max-Age=60";
        assert_eq!(all_attributes().to_string(), line);
        assert!(all_attributes().check().is_ok());
        assert_eq!(Cookie::from(("a", "b".to_owned())).to_string(), "a=b");
        let off = Cookie::new("a", "b").http_only(false).secure(false).partitioned(false).perhaps_max_age(None);
        assert_eq!(off.same_site(SameSite::Lax).to_string(), "a=b; SameSite=Lax");
    }

    /// Browsers refuse such a cookie without `Secure`.
    #[test]
    fn a_cookie_for_other_sites_is_secure() {
        let line = |cookie: Cookie| cookie.secure(false).to_string();
        assert_eq!(line(Cookie::new("a", "b").same_site(SameSite::None)), "a=b; SameSite=None; Secure");
        assert_eq!(line(Cookie::new("a", "b").partitioned(true)), "a=b; Partitioned; Secure");
    }

    /// RFC 6265, section 4.1.1: no control characters, spaces, quotes, commas, semicolons or backslashes.
    #[test]
    fn a_value_has_only_characters_of_cookies_and_can_be_decoded() {
        let value: String = (0..0x250).filter_map(char::from_u32).collect();
        let line = Cookie::new("a", value.as_str()).to_string();
        let sent = line.strip_prefix("a=").unwrap();
        let octet = |byte: u8| matches!(byte, 0x21 | 0x23..=0x2b | 0x2d..=0x3a | 0x3c..=0x5b | 0x5d..=0x7e);
        assert!(sent.bytes().all(octet), "{sent}");
        assert_eq!(percent_encoding::percent_decode_str(sent).decode_utf8().unwrap(), value);
    }

    #[test]
    fn a_name_that_is_not_a_token_is_refused() {
        for name in ["", " ", "a b", "a=b", "a;b", "a,b", "a\r\nb", "\"a\"", "é", "a\0", "a/b"] {
            assert!(Cookie::new(name, "v").check().is_err(), "{name:?}");
        }
        for name in ["a", "__Host-session", "A_1.~!"] {
            assert!(Cookie::new(name, "v").check().is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_path_or_domain_cannot_add_an_attribute() {
        for value in ["/; Secure", "/\r\nX: y", "/\0", "/é", ";"] {
            assert!(all_attributes().path(value).check().is_err(), "{value:?}");
            assert!(all_attributes().domain(value).check().is_err(), "{value:?}");
        }
    }
}
