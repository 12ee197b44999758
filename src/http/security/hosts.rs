//! The host check. A link in a mail or a cached page is made from the `Host` header, so an attacker must not control
//! it. A page of another site must not reach a development server under a host name of its own that it has pointed at
//! this machine (DNS rebinding).

use crate::config::Config;
use crate::error::{Error, Result, Status};
use crate::http::request::Request;

use super::origin::{Authority, Origin, host_name};

/// The host names of the site; any host if there is no list.
pub(crate) struct Hosts(Option<Vec<Allowed>>);

/// A host name of the site.
struct Allowed {
    /// The name; with a leading dot it includes its subdomains.
    name: String,
    /// The only port that a client may name, if set.
    port: Option<u16>,
}

const LOCAL_HOSTS: [&str; 4] = ["localhost", ".localhost", "127.0.0.1", "[::1]"];

impl Hosts {
    /// Returns the host names of the settings.
    ///
    /// # Errors
    /// 500 if `ASIDE_URL` is not a valid URL, or if a name of `ASIDE_ALLOWED_HOSTS` cannot match any host.
    pub(crate) fn new(config: &Config) -> Result<Hosts> {
        let own = config.url.as_deref().map(own).transpose()?;
        config.allowed_hosts.iter().try_for_each(|name| check(name))?;
        let named = config.allowed_hosts.iter().map(|name| Allowed::parse(name, own.as_ref()));
        let names: Vec<Allowed> = match config.allowed_hosts.is_empty() {
            false => named.collect(),
            true if config.is_development() => LOCAL_HOSTS.map(|name| Allowed::parse(name, None)).into(),
            true => own.into_iter().map(|own| Allowed { name: own.host, port: own.port }).collect(),
        };
        let any = names.is_empty() || names.iter().any(|allowed| allowed.name == "*");
        Ok(Hosts(if any { None } else { Some(names) }))
    }

    /// Refuses a request for another host. A request without a host (HTTP/1.0, a test) passes, since it cannot mislead.
    ///
    /// # Errors
    /// 421 (RFC 9110, section 15.5.20).
    pub(crate) fn check(&self, request: &Request) -> Result<()> {
        let (Some(names), Some(host)) = (&self.0, request.host()) else { return Ok(()) };
        let asked = Authority::parse(host);
        if asked.as_ref().is_some_and(|asked| names.iter().any(|allowed| allowed.matches(asked))) {
            return Ok(());
        }
        let is_name_known =
            asked.as_ref().is_some_and(|asked| names.iter().any(|allowed| allowed.is_name(&asked.host)));
        let detail = match asked {
            Some(Authority { host, port: Some(port) }) if is_name_known => {
                format!("the site does not serve `{host}` on port {port} (ASIDE_URL, ASIDE_ALLOWED_HOSTS)")
            }
            asked => {
                let name = asked.map_or_else(|| host.to_owned(), |asked| asked.host);
                format!("the site does not serve the name `{name}` (ASIDE_ALLOWED_HOSTS)")
            }
        };
        Err(Error::new(Status::MISDIRECTED_REQUEST, "There is no site at this address.").with_detail(detail))
    }
}

impl Allowed {
    /// Parses a name of the list. A name without a port takes the port of `ASIDE_URL` if the hosts are equal.
    fn parse(text: &str, own: Option<&Authority>) -> Allowed {
        // An entry that is not an authority, such as `*`, is used unchanged.
        let named = Authority::parse(text).unwrap_or_else(|| Authority { host: host_name(text), port: None });
        let of_url = || own.filter(|own| own.host == named.host).and_then(|own| own.port);
        Allowed { port: named.port.or_else(of_url), name: named.host }
    }

    /// Returns true if the name matches, and the port too if both have one: proxies omit it.
    fn matches(&self, asked: &Authority) -> bool {
        self.is_name(&asked.host) && (self.port.is_none() || asked.port.is_none() || self.port == asked.port)
    }

    /// Returns true if the name matches: `.example.org` matches that name and all its subdomains.
    fn is_name(&self, name: &str) -> bool {
        match self.name.strip_prefix('.') {
            Some(parent) => name.strip_suffix(parent).is_some_and(|below| below.is_empty() || below.ends_with('.')),
            None => self.name == name,
        }
    }
}

/// Checks a name of `ASIDE_ALLOWED_HOSTS`.
fn check(name: &str) -> Result<()> {
    let is_name = |name: &str| Authority::parse(name).is_some() && !name.contains('*');
    if name == "*" || is_name(name.strip_prefix('.').unwrap_or(name)) {
        return Ok(());
    }
    let message = "ASIDE_ALLOWED_HOSTS takes host names such as shop.example.org, .example.org or *, not";
    Err(Error::internal(format!("{message} `{name}`")))
}

/// Returns the host and port of the site's own URL.
fn own(url: &str) -> Result<Authority> {
    let origin = Origin::of_url(url).filter(|origin| matches!(&*origin.scheme, "http" | "https"));
    let message = "ASIDE_URL takes the site's address, such as https://shop.example.org, not";
    origin.map(|origin| origin.authority).ok_or_else(|| Error::internal(format!("{message} `{url}`")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mode;
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};

    fn config(mode: Mode, url: Option<&str>, hosts: &[&str]) -> Config {
        let allowed_hosts = hosts.iter().map(|host| host.to_string()).collect();
        Config { mode, url: url.map(str::to_owned), allowed_hosts, ..Config::default() }
    }

    fn matches(config: &Config, host: &str) -> bool {
        let headers = Headers::from_iter([("Host", host)]);
        Hosts::new(config).unwrap().check(&Request::new(Method::Get, "/", headers, Body::empty())).is_ok()
    }

    #[test]
    fn development_allows_only_local_hosts() {
        let config = config(Mode::Development, None, &[]);
        for host in
            ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "shop.localhost", "localhost."]
        {
            assert!(matches(&config, host), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "192.0.2.1", "", "evillocalhost"]
        {
            assert!(!matches(&config, host), "{host}");
        }
    }

    #[test]
    fn production_allows_the_site_s_own_address() {
        let site = config(Mode::Production, Some("https://Shop.example:8443/x"), &[]);
        assert!(
            matches(&site, "shop.example")
                && matches(&site, "shop.example:8443")
                && matches(&site, "Shop.example.:8443")
        );
        assert!(!matches(&site, "www.shop.example") && !matches(&site, "localhost"));
        assert!(matches(&config(Mode::Production, None, &[]), "any.example"));
    }

    /// Regression: a link made from `Host: shop.example:9999` led to another service on that port.
    #[test]
    fn a_host_with_another_port_is_refused_if_the_address_has_a_port() {
        for hosts in [&[][..], &["shop.example"], &["shop.example", ".example.org"]] {
            let site = config(Mode::Production, Some("https://shop.example:8443"), hosts);
            assert!(matches(&site, "shop.example:8443") && !matches(&site, "shop.example:9999"), "{hosts:?}");
        }
        let default = config(Mode::Production, Some("https://shop.example:443/"), &[]);
        assert!(matches(&default, "shop.example:443") && matches(&default, "shop.example"));
        assert!(!matches(&default, "shop.example:80"));
        let listed = config(Mode::Production, Some("https://shop.example:8443"), &["shop.example:9999", "[::1]:81"]);
        assert!(matches(&listed, "shop.example:9999") && !matches(&listed, "shop.example:8443"));
        assert!(matches(&listed, "[0:0:0::1]:81") && !matches(&listed, "[::1]:82"));
        let none = config(Mode::Production, Some("https://shop.example"), &[]);
        assert!(matches(&none, "shop.example:8000"));
    }

    #[test]
    fn an_invalid_address_is_refused_at_start() {
        for url in ["shop.example", "https://", "ftp://shop.example", "https://a b/", "//shop.example"] {
            let message = Hosts::new(&config(Mode::Production, Some(url), &[])).err().unwrap().to_string();
            assert!(message.starts_with("ASIDE_URL takes") && message.contains(url), "{message}");
        }
    }

    /// Regression: they were accepted and matched no request.
    #[test]
    fn a_name_that_could_not_match_is_refused_at_start() {
        for name in ["https://shop.example", "*.shop.example", "shop.example/", "two names", "shop.example:99999", ""] {
            let message = Hosts::new(&config(Mode::Production, None, &["a.example", name])).err().unwrap().to_string();
            assert!(message.starts_with("ASIDE_ALLOWED_HOSTS") && message.ends_with(&format!("`{name}`")), "{message}");
        }
    }

    #[test]
    fn the_setting_lists_the_allowed_names() {
        let listed = config(Mode::Development, None, &["a.example", ".b.example"]);
        for host in ["a.example", "b.example", "x.y.b.example:1"] {
            assert!(matches(&listed, host), "{host}");
        }
        for host in ["x.a.example", "ab.example", "localhost"] {
            assert!(!matches(&listed, host), "{host}");
        }
        assert!(matches(&config(Mode::Development, None, &["*"]), "any.example"));
    }

    #[test]
    fn a_refusal_names_the_setting_and_the_host() {
        let headers = Headers::from_iter([("Host", "evil.example:80")]);
        let request = Request::new(Method::Get, "/", headers, Body::empty());
        let error = Hosts::new(&Config::default()).unwrap().check(&request).unwrap_err();
        assert_eq!(error.status_code().code(), 421);
        let message = error.chain();
        assert!(message.contains("`evil.example`") && message.contains("ASIDE_ALLOWED_HOSTS"), "{message}");
        let site = config(Mode::Production, Some("https://shop.example:8443"), &[]);
        let headers = Headers::from_iter([("Host", "shop.example:1")]);
        let request = Request::new(Method::Get, "/", headers, Body::empty());
        let message = Hosts::new(&site).unwrap().check(&request).unwrap_err().chain();
        assert!(message.contains("`shop.example` on port 1 (ASIDE_URL"), "{message}");
    }
}
