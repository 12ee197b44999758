//! By which names the site is asked: what is made of the Host header (a link in a mail, a cached page) must not be what a
//! stranger wrote into it, and a page elsewhere must not reach a development server under a name of its own that it has
//! pointed at this machine (DNS rebinding).

use crate::config::Config;
use crate::error::{Error, Result, Status};
use crate::http::request::Request;

/// The names that the site answers to; any, where there is no list.
pub(crate) struct Hosts(Option<Vec<String>>);

const OF_THIS_MACHINE: [&str; 4] = ["localhost", ".localhost", "127.0.0.1", "[::1]"];

impl Hosts {
    /// The names of the settings.
    pub(crate) fn new(config: &Config) -> Hosts {
        let named = config.allowed_hosts.iter().map(|name| name.to_ascii_lowercase());
        let names: Vec<String> = match config.allowed_hosts.is_empty() {
            false => named.collect(),
            true if config.is_development() => OF_THIS_MACHINE.map(str::to_owned).to_vec(),
            true => config.url.as_deref().and_then(host_of_url).into_iter().collect(),
        };
        let any = names.is_empty() || names.iter().any(|name| name == "*");
        Hosts(if any { None } else { Some(names) })
    }

    /// Refuses a request for another host. One that names none (HTTP/1.0, a test) has nothing to mislead with.
    ///
    /// # Errors
    /// 421 (RFC 9110, section 15.5.20).
    pub(crate) fn check(&self, request: &Request) -> Result<()> {
        let (Some(names), Some(host)) = (&self.0, request.host()) else { return Ok(()) };
        let name = without_port(host).trim_end_matches('.').to_ascii_lowercase();
        if names.iter().any(|allowed| matches(allowed, &name)) {
            return Ok(());
        }
        let words = format!("This site does not answer to the name `{name}` (ASIDE_ALLOWED_HOSTS).");
        Err(Error::new(Status::MISDIRECTED_REQUEST, words))
    }
}

/// `.example.org` is that name and all below it.
fn matches(allowed: &str, name: &str) -> bool {
    match allowed.strip_prefix('.') {
        Some(parent) => name.strip_suffix(parent).is_some_and(|below| below.is_empty() || below.ends_with('.')),
        None => without_port(allowed) == name,
    }
}

/// The host of an authority; one of version 6 keeps its brackets.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The host of an absolute URL, in lower case and without its port.
fn host_of_url(url: &str) -> Option<String> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split('/').next().unwrap_or(rest);
    Some(without_port(authority).to_ascii_lowercase())
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

    fn takes(config: &Config, host: &str) -> bool {
        let headers = Headers::from_iter([("Host", host)]);
        Hosts::new(config).check(&Request::new(Method::Get, "/", headers, Body::empty())).is_ok()
    }

    #[test]
    fn development_answers_on_this_machine_alone() {
        let config = config(Mode::Development, None, &[]);
        for host in
            ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "[::1]:8000", "[::1]", "shop.localhost", "localhost."]
        {
            assert!(takes(&config, host), "{host}");
        }
        for host in
            ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "192.0.2.1", "", "evillocalhost"]
        {
            assert!(!takes(&config, host), "{host}");
        }
    }

    #[test]
    fn production_answers_to_its_own_address() {
        let site = config(Mode::Production, Some("https://Shop.example:8443/x"), &[]);
        assert!(takes(&site, "shop.example") && takes(&site, "shop.example:8443"));
        assert!(!takes(&site, "www.shop.example") && !takes(&site, "localhost"));
        assert!(takes(&config(Mode::Production, None, &[]), "any.example"));
    }

    #[test]
    fn names_are_what_the_setting_says() {
        let listed = config(Mode::Development, None, &["a.example", ".b.example"]);
        for host in ["a.example", "b.example", "x.y.b.example:1"] {
            assert!(takes(&listed, host), "{host}");
        }
        for host in ["x.a.example", "ab.example", "localhost"] {
            assert!(!takes(&listed, host), "{host}");
        }
        assert!(takes(&config(Mode::Development, None, &["*"]), "any.example"));
    }

    #[test]
    fn a_refusal_names_the_setting_and_the_host() {
        let headers = Headers::from_iter([("Host", "evil.example:80")]);
        let request = Request::new(Method::Get, "/", headers, Body::empty());
        let error = Hosts::new(&Config::default()).check(&request).unwrap_err();
        assert_eq!(error.status().code(), 421);
        let words = error.message().unwrap();
        assert!(words.contains("`evil.example`") && words.contains("ASIDE_ALLOWED_HOSTS"), "{words}");
    }
}
