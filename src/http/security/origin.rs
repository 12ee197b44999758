//! Origins and authorities in normalized form, so that equal ones compare equal.
//!
//! Names are in lower case without a trailing dot. IPv6 addresses are in their shortest form. A missing port equals the
//! scheme's default port (RFC 6454, section 4; RFC 9110, section 4.2.3).

use std::net::Ipv6Addr;

use crate::http::request::is_authority;

/// A host with an optional port: `shop.example:8443`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) host: String,
    pub(super) port: Option<u16>,
}

/// A scheme, a host and a port: `https://shop.example`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) scheme: String,
    pub(super) authority: Authority,
}

impl Authority {
    /// Parses the value of a `Host` field; `None` if it is malformed.
    pub(super) fn parse(text: &str) -> Option<Authority> {
        if !is_authority(text) {
            return None;
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
            _ => (text, None),
        };
        Some(Authority { host: host_name(host), port })
    }

    /// Returns true if both name the same host and port for this scheme.
    fn is_same(&self, other: &Authority, scheme: &str) -> bool {
        self.host == other.host && self.port_in(scheme) == other.port_in(scheme)
    }

    fn port_in(&self, scheme: &str) -> Option<u16> {
        self.port.or_else(|| default_port(scheme))
    }
}

impl Origin {
    /// Parses an origin as browsers write it; `None` for `null` and for text after the port.
    pub(super) fn parse(text: &str) -> Option<Origin> {
        let (scheme, authority) = text.split_once("://")?;
        if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return None;
        }
        Some(Origin { scheme: scheme.to_ascii_lowercase(), authority: Authority::parse(authority)? })
    }

    /// Returns the origin of an absolute URL.
    pub(super) fn of_url(url: &str) -> Option<Origin> {
        let authority_at = url.find("://")? + 3;
        let end = url[authority_at..].find(['/', '?', '#']).map_or(url.len(), |length| authority_at + length);
        Origin::parse(&url[..end])
    }

    /// Returns true if both are the same origin.
    pub(super) fn is_same(&self, other: &Origin) -> bool {
        self.scheme == other.scheme && self.authority.is_same(&other.authority, &self.scheme)
    }

    /// Returns true if a page of this origin was served by that host. The page's scheme is used, since a server behind
    /// a proxy does not know its own.
    pub(super) fn is_of(&self, host: &Authority) -> bool {
        self.authority.is_same(host, &self.scheme)
    }
}

/// Returns a host name in normalized form; an IPv6 address keeps its brackets.
pub(super) fn host_name(host: &str) -> String {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match address.and_then(|address| address.parse::<Ipv6Addr>().ok()) {
        Some(address) => format!("[{address}]"),
        None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" | "ws" => Some(80),
        "https" | "wss" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_same(one: &str, other: &str) -> bool {
        Origin::parse(one).unwrap().is_same(&Origin::parse(other).unwrap())
    }

    #[test]
    fn one_origin_has_several_spellings() {
        for (one, other) in [
            ("http://a.example", "http://a.example:80"),
            ("https://a.example", "https://a.example:443"),
            ("https://a.example:", "https://a.example"),
            ("HTTPS://A.Example.", "https://a.example"),
            ("http://[::1]:8000", "http://[0:0:0:0:0:0:0:1]:8000"),
            ("http://[2001:DB8::A]", "http://[2001:db8:0::a]:80"),
        ] {
            assert!(is_same(one, other), "{one} {other}");
        }
        for (one, other) in [
            ("http://a.example", "https://a.example"),
            ("http://a.example", "http://a.example:443"),
            ("https://a.example:80", "https://a.example"),
            ("http://a.example:8000", "http://a.example:8001"),
            ("http://a.example", "http://b.a.example"),
            ("http://[::1]", "http://[::2]"),
            ("app://a.example", "app://a.example:80"),
        ] {
            assert!(!is_same(one, other), "{one} {other}");
        }
    }

    #[test]
    fn invalid_origins_are_refused() {
        for text in [
            "null",
            "",
            "a.example",
            "http://",
            "://a",
            "http://a/b",
            "http://a@b",
            "http://a:b",
            "http://[::1",
            "h-t://a",
        ] {
            assert_eq!(Origin::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_origin_of_a_url_ends_where_its_path_begins() {
        for url in ["http://a.example:81", "http://a.example:81/x:1", "http://a.example:81?x", "http://a.example:81#x/"]
        {
            let origin = Origin::of_url(url).unwrap();
            assert_eq!((&*origin.authority.host, origin.authority.port), ("a.example", Some(81)), "{url}");
        }
        assert_eq!(Origin::of_url("http://a@b.example/"), None);
    }
}
