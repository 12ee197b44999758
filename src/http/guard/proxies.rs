//! Who asks, when proxies stand in front: what a proxy says of its client is believed when the proxy is one of ours.
//!
//! `X-Forwarded-For` is read from the right. Each trusted proxy has added the address that it was asked from, so the first
//! address from the right that is none of theirs is the client's; what stands left of it the client may have written.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::headers::Headers;
use crate::http::request::{Client, Request, is_authority};

/// The proxies that are believed.
pub(crate) struct Proxies {
    networks: Vec<IpNet>,
    /// A peer without an address, on a Unix socket, is believed too.
    unix: bool,
    /// True if the proxies set `X-Forwarded-Host` themselves. Most pass on the client's value.
    host: bool,
}

impl Proxies {
    /// The proxies of the settings.
    ///
    /// # Errors
    /// When one is neither an address nor a network.
    pub(crate) fn new(config: &Config) -> Result<Proxies> {
        let (unix, names): (Vec<_>, Vec<_>) = config.trusted_proxies.iter().partition(|name| *name == "unix");
        let networks = names.into_iter().map(|name| network(name)).collect::<Result<_>>()?;
        Ok(Proxies { networks, unix: !unix.is_empty(), host: config.trust_forwarded_host })
    }

    /// Writes down who asks, and takes the request's id over.
    pub(crate) fn identify(&self, request: &mut Request) {
        let peer = request.remote_addr().map(|peer| peer.ip().to_canonical());
        let trusted = peer.map_or(self.unix, |peer| self.trusts(peer));
        let headers = request.headers();
        let own = |name: &'static str| if trusted { last(headers, name) } else { None };
        let https = own("X-Forwarded-Proto").map(|scheme| scheme.eq_ignore_ascii_case("https"));
        let host = own("X-Forwarded-Host").filter(|host| self.host && is_authority(host)).map(str::to_owned);
        let id = own("X-Request-Id").filter(|id| is_id(id)).map(str::to_owned);
        let ip = self.client_of(headers, request.remote_addr());
        let https = https.unwrap_or_else(|| is_https_site(request.config()));
        request.set_client(Client { ip, https, host });
        id.into_iter().for_each(|id| request.set_id(id));
    }

    /// Returns the client's address: the peer's, or the one that trusted proxies report.
    pub(crate) fn client_of(&self, headers: &Headers, peer: Option<SocketAddr>) -> Option<IpAddr> {
        let peer = peer.map(|peer| peer.ip().to_canonical());
        let trusted = peer.map_or(self.unix, |peer| self.trusts(peer));
        if trusted { self.client(headers, peer) } else { peer }
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// The first address from the right that is no proxy's; the farthest proxy, when all are. An entry that is no address
    /// ends the search: what is left of it cannot be known.
    fn client(&self, headers: &Headers, peer: Option<IpAddr>) -> Option<IpAddr> {
        let lines: Vec<&str> = headers.get_all("X-Forwarded-For").collect();
        let mut farthest = peer;
        for entry in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
            let Some(address) = address(entry.trim()) else { break };
            farthest = Some(address);
            if !self.trusts(address) {
                break;
            }
        }
        farthest
    }
}

fn network(name: &str) -> Result<IpNet> {
    let address = || name.parse::<IpAddr>().map(IpNet::from);
    name.parse::<IpNet>().or_else(|_| address()).map_err(|_| {
        Error::internal(format!(
            "ASIDE_TRUSTED_PROXIES takes addresses and networks (127.0.0.1, 10.0.0.0/8) and `unix`, and has `{name}`"
        ))
    })
}

/// An address as proxies write it: with a port or without, version 6 in brackets or bare.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// What the nearest proxy has said.
fn last<'h>(headers: &'h Headers, name: &'h str) -> Option<&'h str> {
    let last = headers.get_all(name).last()?;
    last.rsplit(',').next().map(str::trim).filter(|value| !value.is_empty())
}

/// An id that another has given must fit into a line of the log and mean nothing there.
fn is_id(id: &str) -> bool {
    id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Returns true for an address with the scheme `https`.
pub(crate) fn is_https(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

/// Without a proxy's word: a site whose own address is https is behind one that has TLS.
fn is_https_site(config: &Config) -> bool {
    !config.is_development() && config.url.as_deref().is_some_and(is_https)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::{Body, Method};

    fn identified(trusted: &[&str], peer: Option<&str>, headers: &[(&str, &str)]) -> Request {
        identified_by(&trusting(trusted), peer, headers)
    }

    fn trusting(names: &[&str]) -> Config {
        let trusted_proxies = names.iter().map(|name| name.to_string()).collect();
        Config { trusted_proxies, trust_forwarded_host: true, ..Config::default() }
    }

    fn identified_by(config: &Config, peer: Option<&str>, headers: &[(&str, &str)]) -> Request {
        let headers = Headers::from_iter(headers.iter().copied());
        let peer = peer.map(|peer| peer.parse().unwrap());
        let mut request = Request::new(Method::Get, "/", headers, Body::empty()).with_peer(peer);
        Proxies::new(config).unwrap().identify(&mut request);
        request
    }

    /// nginx passes on the client's value unless its configuration sets the field.
    #[test]
    fn a_forwarded_host_is_trusted_only_with_the_setting() {
        let said = [("Host", "site.example"), ("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "https")];
        let config = Config { trust_forwarded_host: false, ..trusting(&["127.0.0.1"]) };
        let request = identified_by(&config, Some("127.0.0.1:5000"), &said);
        assert_eq!((request.host(), request.is_https()), (Some("site.example"), true));
        let config = trusting(&["127.0.0.1"]);
        assert_eq!(identified_by(&config, Some("127.0.0.1:5000"), &said).host(), Some("evil.example"));
        assert_eq!(identified_by(&config, Some("192.0.2.1:5000"), &said).host(), Some("site.example"));
    }

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let headers: Vec<_> = forwarded.iter().map(|line| ("X-Forwarded-For", *line)).collect();
        identified(trusted, Some(peer), &headers).client_ip().unwrap().to_string()
    }

    #[test]
    fn a_stranger_is_not_believed() {
        let said = [
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.example"),
            ("X-Request-Id", "forged"),
            ("Host", "site.example"),
        ];
        let request = identified(&["10.0.0.0/8"], Some("192.0.2.7:5000"), &said);
        assert_eq!(request.client_ip().unwrap().to_string(), "192.0.2.7");
        assert_eq!((request.is_https(), request.host(), request.id()), (false, Some("site.example"), ""));
        assert!(identified(&["10.0.0.0/8"], None, &said).client_ip().is_none());
    }

    #[test]
    fn a_trusted_proxy_speaks_for_its_client() {
        let said = [
            ("X-Forwarded-For", "198.51.100.9"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "site.example:8443"),
            ("X-Request-Id", "7f-3.a_B"),
        ];
        for (trusted, peer) in [("127.0.0.1", Some("127.0.0.1:5000")), ("unix", None)] {
            let request = identified(&[trusted], peer, &said);
            assert_eq!(request.client_ip().unwrap().to_string(), "198.51.100.9");
            assert_eq!(
                (request.is_https(), request.host(), request.id()),
                (true, Some("site.example:8443"), "7f-3.a_B")
            );
        }
    }

    #[test]
    fn the_rightmost_address_that_is_no_proxy_is_the_client() {
        let trusted = &["127.0.0.1", "10.0.0.0/8", "fd00::/8"];
        for (forwarded, expected) in [
            (&["6.6.6.6, 198.51.100.9"][..], "198.51.100.9"),
            (&["6.6.6.6, 198.51.100.9, 10.1.1.1, fd00::7"], "198.51.100.9"),
            (&["6.6.6.6", "198.51.100.9", "10.1.1.1"], "198.51.100.9"),
            (&["198.51.100.9:4711"], "198.51.100.9"),
            (&["[2001:db8::1]:443"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:198.51.100.9"], "198.51.100.9"),
            (&["10.2.2.2, 10.1.1.1"], "10.2.2.2"),
            (&["6.6.6.6, unknown, 10.1.1.1"], "10.1.1.1"),
            (&["6.6.6.6, "], "127.0.0.1"),
            (&[], "127.0.0.1"),
        ] {
            assert_eq!(client(trusted, "127.0.0.1:5000", forwarded), expected, "{forwarded:?}");
        }
        assert_eq!(client(trusted, "[::ffff:127.0.0.1]:5000", &["1.1.1.1"]), "1.1.1.1");
    }

    #[test]
    fn an_id_that_would_disturb_the_log_is_not_taken_over() {
        let long = "x".repeat(65);
        for id in ["a b", "a\"b", "é", "", &long] {
            assert_eq!(identified(&["unix"], None, &[("X-Request-Id", id)]).id(), "", "{id}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for name in ["localhost", "10.0.0.0/33", "*"] {
            let words = Proxies::new(&trusting(&[name])).err().unwrap().to_string();
            assert!(words.contains("ASIDE_TRUSTED_PROXIES") && words.contains(name), "{words}");
        }
    }
}
