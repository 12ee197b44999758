//! The client's address behind trusted proxies.
//!
//! `X-Forwarded-For` is read from the right. Each trusted proxy has appended the address of its peer, so the first
//! address from the right that does not belong to a trusted proxy is the client's. The client may have written the
//! entries to its left.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::background::trace_context;
use crate::background::trace_id::TraceId;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::headers::Headers;
use crate::http::request::{Client, Request, is_authority};

/// The trusted proxies.
pub(crate) struct Proxies {
    networks: Vec<IpNet>,
    /// True if a peer without an address, on a Unix socket, is trusted too.
    unix: bool,
    /// True if the proxies set `X-Forwarded-Host` themselves. Most pass on the client's value.
    host: bool,
}

impl Proxies {
    /// Returns the proxies of the settings.
    ///
    /// # Errors
    /// 500 if an entry is neither an address nor a network.
    pub(crate) fn new(config: &Config) -> Result<Proxies> {
        let (unix, names): (Vec<_>, Vec<_>) = config.trusted_proxies.iter().partition(|name| *name == "unix");
        let networks = names.into_iter().map(|name| network(name)).collect::<Result<_>>()?;
        Ok(Proxies { networks, unix: !unix.is_empty(), host: config.trust_forwarded_host })
    }

    /// Sets the client of a request, and the request id and the trace that a trusted proxy sent.
    pub(crate) fn identify(&self, request: &mut Request) {
        let peer = request.remote_addr().map(|peer| peer.ip().to_canonical());
        let trusted = peer.map_or(self.unix, |peer| self.trusts(peer));
        let headers = request.headers();
        let own = |name: &'static str| if trusted { last(headers, name) } else { None };
        let https = own("X-Forwarded-Proto").map(|scheme| scheme.eq_ignore_ascii_case("https"));
        let host = own("X-Forwarded-Host").filter(|host| self.host && is_authority(host)).map(str::to_owned);
        let id = own("X-Request-Id").filter(|id| is_id(id)).map(str::to_owned);
        let trace = if trusted { trace(headers) } else { None };
        let ip = self.client_of(headers, request.remote_addr());
        let https = https.unwrap_or_else(|| is_https_site(request.config()));
        request.set_client(Client { ip, https, host });
        id.into_iter().for_each(|id| request.set_id(id));
        trace.into_iter().for_each(|trace| request.set_trace(trace));
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

    /// Returns the first address from the right that is not a proxy's, or the farthest proxy if all are. An entry that
    /// is not an address ends the search: the entries to its left cannot be trusted.
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
            "ASIDE_TRUSTED_PROXIES takes addresses and networks (127.0.0.1, 10.0.0.0/8) and `unix`, not `{name}`"
        ))
    })
}

/// Parses an address as proxies write it: with or without a port, IPv6 in brackets or bare.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    bare.parse().ok().or_else(with_port).map(|address: IpAddr| address.to_canonical())
}

/// Returns the value that the nearest proxy added.
fn last<'h>(headers: &'h Headers, name: &'h str) -> Option<&'h str> {
    let last = headers.get_all(name).last()?;
    last.rsplit(',').next().map(str::trim).filter(|value| !value.is_empty())
}

/// Returns the trace of the header `traceparent`. Several such headers are invalid.
fn trace(headers: &Headers) -> Option<TraceId> {
    let mut all = headers.get_all("traceparent");
    let first = all.next()?;
    if all.next().is_some() { None } else { trace_context::parse(first.trim()) }
}

/// Returns true if a foreign id is safe in a log line.
fn is_id(id: &str) -> bool {
    id.len() <= 64 && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Returns true for an address with the scheme `https`.
pub(crate) fn is_https(url: &str) -> bool {
    url.split_once("://").is_some_and(|(scheme, _)| scheme.eq_ignore_ascii_case("https"))
}

/// Returns true if the site's own address is https: without a header of a proxy, a proxy that terminates TLS is
/// assumed.
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
        let sent = [("Host", "site.example"), ("X-Forwarded-Host", "evil.example"), ("X-Forwarded-Proto", "https")];
        let config = Config { trust_forwarded_host: false, ..trusting(&["127.0.0.1"]) };
        let request = identified_by(&config, Some("127.0.0.1:5000"), &sent);
        assert_eq!((request.host(), request.is_https()), (Some("site.example"), true));
        let config = trusting(&["127.0.0.1"]);
        assert_eq!(identified_by(&config, Some("127.0.0.1:5000"), &sent).host(), Some("evil.example"));
        assert_eq!(identified_by(&config, Some("192.0.2.1:5000"), &sent).host(), Some("site.example"));
    }

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let headers: Vec<_> = forwarded.iter().map(|line| ("X-Forwarded-For", *line)).collect();
        identified(trusted, Some(peer), &headers).client_ip().unwrap().to_string()
    }

    #[test]
    fn an_untrusted_peer_is_not_believed() {
        let sent = [
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.example"),
            ("X-Request-Id", "forged"),
            ("Host", "site.example"),
        ];
        let request = identified(&["10.0.0.0/8"], Some("192.0.2.7:5000"), &sent);
        assert_eq!(request.client_ip().unwrap().to_string(), "192.0.2.7");
        assert_eq!((request.is_https(), request.host(), request.id()), (false, Some("site.example"), ""));
        assert!(identified(&["10.0.0.0/8"], None, &sent).client_ip().is_none());
    }

    #[test]
    fn a_trusted_proxy_reports_its_client() {
        let sent = [
            ("X-Forwarded-For", "198.51.100.9"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "site.example:8443"),
            ("X-Request-Id", "7f-3.a_B"),
        ];
        for (trusted, peer) in [("127.0.0.1", Some("127.0.0.1:5000")), ("unix", None)] {
            let request = identified(&[trusted], peer, &sent);
            assert_eq!(request.client_ip().unwrap().to_string(), "198.51.100.9");
            assert_eq!(
                (request.is_https(), request.host(), request.id()),
                (true, Some("site.example:8443"), "7f-3.a_B")
            );
        }
    }

    #[test]
    fn the_rightmost_untrusted_address_is_the_client() {
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
    fn an_unsafe_request_id_is_ignored() {
        let long = "x".repeat(65);
        for id in ["a b", "a\"b", "é", "", &long] {
            assert_eq!(identified(&["unix"], None, &[("X-Request-Id", id)]).id(), "", "{id}");
        }
    }

    #[test]
    fn a_trusted_proxy_passes_on_a_trace() {
        const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
        let sent = format!("00-{TRACE}-00f067aa0ba902b7-01");
        let trace = |trusted: &str, headers: &[(&str, &str)]| {
            identified(&[trusted], Some("127.0.0.1:5000"), headers).trace().to_string()
        };
        assert_eq!(trace("127.0.0.1", &[("traceparent", &sent)]), TRACE);
        assert_eq!(trace("127.0.0.1", &[("Traceparent", &sent)]), TRACE);
        assert_ne!(trace("10.0.0.0/8", &[("traceparent", &sent)]), TRACE, "the peer is not trusted");
        assert_ne!(trace("127.0.0.1", &[("traceparent", &sent), ("traceparent", &sent)]), TRACE);
        assert_ne!(trace("127.0.0.1", &[("traceparent", &sent.to_uppercase())]), TRACE);
    }

    #[test]
    fn an_invalid_proxy_address_is_refused() {
        for name in ["localhost", "10.0.0.0/33", "*"] {
            let message = Proxies::new(&trusting(&[name])).err().unwrap().to_string();
            assert!(message.contains("ASIDE_TRUSTED_PROXIES") && message.contains(name), "{message}");
        }
    }
}
