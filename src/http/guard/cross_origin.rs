//! Forms and scripts of other sites: refused where they would change something (cross-site request forgery), without a
//! token in every form, by what browsers say of where a request comes from.
//!
//! The rules are those of Go 1.25's `http.CrossOriginProtection`: safe methods pass; `Sec-Fetch-Site` `same-origin` or
//! `none` passes; without that header, an `Origin` that is the host that was asked passes, and so does a request without
//! either, which no browser of the last years sends with a form.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::request::Request;

use super::origin::{Authority, Origin};

/// For a site that shows what it is sent, and does nothing with it.
const ANY: &str = "*";

/// The check, with the origins that it trusts.
pub(crate) struct CrossOrigin {
    trusted: Vec<Origin>,
    /// The check is disabled.
    is_off: bool,
}

impl CrossOrigin {
    /// The check with the trusted origins of the settings; the site's own address is one of them.
    ///
    /// # Errors
    /// When one is no origin.
    pub(crate) fn new(config: &Config) -> Result<CrossOrigin> {
        let (any, named): (Vec<_>, Vec<_>) = config.trusted_origins.iter().partition(|origin| *origin == ANY);
        let named = named.into_iter().map(|origin| {
            let words = "ASIDE_TRUSTED_ORIGINS takes origins such as https://shop.example.org, and has";
            Origin::parse(origin).ok_or_else(|| Error::internal(format!("{words} `{origin}`")))
        });
        let own = config.url.as_deref().and_then(Origin::of_url).map(Ok);
        Ok(CrossOrigin { trusted: named.chain(own).collect::<Result<_>>()?, is_off: !any.is_empty() })
    }

    /// Refuses what another site's page makes a browser send.
    ///
    /// # Errors
    /// 403, saying which header spoke against it.
    pub(crate) fn check(&self, request: &Request) -> Result<()> {
        if self.is_off || request.method().is_safe() {
            return Ok(());
        }
        let origin = request.header("Origin").unwrap_or("");
        let site = request.header("Sec-Fetch-Site").unwrap_or("");
        let passes = match site {
            "same-origin" | "none" => true,
            "" => origin.is_empty() || is_of(origin, request),
            _ => false,
        };
        if passes || self.trusts(origin) { Ok(()) } else { Err(refusal(site, origin, request.host())) }
    }

    fn trusts(&self, origin: &str) -> bool {
        Origin::parse(origin).is_some_and(|origin| self.trusted.iter().any(|trusted| trusted.is_same(&origin)))
    }
}

fn refusal(site: &str, origin: &str, host: Option<&str>) -> Error {
    let why = match site {
        "" => format!("its Origin is `{origin}`, and this is `{}`", host.unwrap_or("a host without a name")),
        site => format!("the browser calls it `{site}`"),
    };
    Error::forbidden(format!(
        "This was sent from a page of another site: {why}. If you meant to, open the page here and send it again."
    ))
}

fn is_of(origin: &str, request: &Request) -> bool {
    let host = request.host().and_then(Authority::parse);
    host.zip(Origin::parse(origin)).is_some_and(|(host, origin)| origin.is_of(&host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::Headers;
    use crate::http::request::{Body, Method};

    fn passes(method: &str, headers: &[(&str, &str)]) -> bool {
        let config = Config {
            url: Some("https://own.example/".into()),
            trusted_origins: vec!["https://Trusted.example".into()],
            ..Config::default()
        };
        let headers = headers.iter().copied().chain([("Host", "site.example")]);
        let request = Request::new(method.into(), "/", Headers::from_iter(headers), Body::empty());
        CrossOrigin::new(&config).unwrap().check(&request).is_ok()
    }

    /// The table of Go's own test, and what our settings add.
    #[test]
    fn the_rules_are_those_of_go() {
        const FETCH: &str = "Sec-Fetch-Site";
        for (method, headers, expected) in [
            ("POST", &[(FETCH, "same-origin")][..], true),
            ("POST", &[(FETCH, "none")], true),
            ("POST", &[(FETCH, "cross-site")], false),
            ("POST", &[(FETCH, "same-site")], false),
            ("POST", &[(FETCH, "SAME-ORIGIN")], false),
            ("POST", &[], true),
            ("POST", &[("Origin", "https://site.example")], true),
            ("POST", &[("Origin", "http://site.example")], true),
            ("POST", &[("Origin", "https://attacker.example")], false),
            ("POST", &[("Origin", "https://site.example:8443")], false),
            ("POST", &[("Origin", "https://site.example.attacker.example")], false),
            ("POST", &[("Origin", "null")], false),
            ("POST", &[("Origin", "site.example")], false),
            ("POST", &[(FETCH, "same-origin"), ("Origin", "https://attacker.example")], true),
            ("POST", &[(FETCH, "cross-site"), ("Origin", "https://site.example")], false),
            ("POST", &[(FETCH, "cross-site"), ("Origin", "https://trusted.example")], true),
            ("POST", &[(FETCH, "same-site"), ("Origin", "https://own.example")], true),
            ("POST", &[("Origin", "https://trusted.example")], true),
            ("POST", &[("Origin", "https://trusted.example:444")], false),
            ("POST", &[("Origin", "https://trusted.example:443")], true),
            ("POST", &[("Origin", "http://trusted.example")], false),
            ("GET", &[(FETCH, "cross-site")], true),
            ("HEAD", &[(FETCH, "cross-site")], true),
            ("OPTIONS", &[(FETCH, "cross-site")], true),
            ("PUT", &[(FETCH, "cross-site")], false),
            ("DELETE", &[(FETCH, "cross-site")], false),
            ("PATCH", &[("Origin", "https://attacker.example")], false),
            ("BREW", &[(FETCH, "cross-site")], false),
        ] {
            assert_eq!(passes(method, headers), expected, "{method} {headers:?}");
        }
    }

    /// Regression: `Host: localhost:80`, as some clients and proxies write it, did not match the origin `http://localhost`.
    #[test]
    fn a_default_port_may_be_written_or_not() {
        for (host, origin, expected) in [
            ("localhost:80", "http://localhost", true),
            ("localhost", "http://localhost:80", true),
            ("shop.example:443", "https://shop.example", true),
            ("shop.example.", "https://SHOP.example", true),
            ("[::1]:80", "http://[0:0::1]", true),
            ("[::1]", "http://[::1]:8000", false),
            ("localhost:443", "http://localhost", false),
            ("localhost:8000", "http://localhost", false),
            ("localhost:80", "https://localhost", false),
        ] {
            let headers = Headers::from_iter([("Host", host), ("Origin", origin)]);
            let request = Request::new(Method::Post, "/", headers, Body::empty());
            let passes = CrossOrigin::new(&Config::default()).unwrap().check(&request).is_ok();
            assert_eq!(passes, expected, "{host} {origin}");
        }
    }

    #[test]
    fn the_check_can_be_turned_off() {
        let config = Config { trusted_origins: vec!["*".into()], ..Config::default() };
        let headers = Headers::from_iter([("Sec-Fetch-Site", "cross-site"), ("Origin", "null")]);
        let request = Request::new(Method::Post, "/", headers, Body::empty());
        assert!(CrossOrigin::new(&config).unwrap().check(&request).is_ok());
    }

    #[test]
    fn a_refusal_says_why() {
        let headers = Headers::from_iter([("Host", "site.example"), ("Origin", "https://attacker.example")]);
        let request = Request::new(Method::Post, "/", headers, Body::empty());
        let error = CrossOrigin::new(&Config::default()).unwrap().check(&request).unwrap_err();
        assert_eq!(error.status().code(), 403);
        let words = error.message().unwrap();
        assert!(words.contains("https://attacker.example") && words.contains("`site.example`"), "{words}");
    }

    #[test]
    fn what_is_no_origin_is_refused_at_start() {
        for origin in ["example.org", "https://a.example/path", "://a", "https://"] {
            let config = Config { trusted_origins: vec![origin.into()], ..Config::default() };
            assert!(CrossOrigin::new(&config).err().unwrap().to_string().contains("ASIDE_TRUSTED_ORIGINS"), "{origin}");
        }
    }
}
