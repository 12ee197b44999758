//! CSRF protection: refuses cross-site requests that would change something, without a token in every form. It uses the
//! browser's headers about the origin of a request.
//!
//! The rules are those of Go 1.25's `http.CrossOriginProtection`. Safe methods pass. `Sec-Fetch-Site: same-origin` and
//! `none` pass. Without that header, an `Origin` equal to the requested host passes, and so does a request without
//! either header, which no browser of recent years sends with a form.

use crate::config::Config;
use crate::error::{Error, Result};
use crate::http::request::Request;

use super::origin::{Authority, Origin};

/// The setting that trusts all origins, for a site that only shows its input and changes nothing.
const ANY: &str = "*";

/// The check, with the origins that it trusts.
pub(crate) struct CrossOrigin {
    trusted: Vec<Origin>,
    /// True if the check is disabled.
    is_off: bool,
}

impl CrossOrigin {
    /// Returns the check with the trusted origins of the settings, which include the site's own URL.
    ///
    /// # Errors
    /// 500 if a setting is not an origin.
    pub(crate) fn new(config: &Config) -> Result<CrossOrigin> {
        let (any, named): (Vec<_>, Vec<_>) = config.trusted_origins.iter().partition(|origin| *origin == ANY);
        let named = named.into_iter().map(|origin| {
            let message = "ASIDE_TRUSTED_ORIGINS takes origins such as https://shop.example.org, not";
            Origin::parse(origin).ok_or_else(|| Error::internal(format!("{message} `{origin}`")))
        });
        let own = config.url.as_deref().and_then(Origin::of_url).map(Ok);
        Ok(CrossOrigin { trusted: named.chain(own).collect::<Result<_>>()?, is_off: !any.is_empty() })
    }

    /// Refuses a request that a page of another site makes a browser send.
    ///
    /// # Errors
    /// 403; its detail names the header that was the reason.
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
        "" => format!("its Origin is `{origin}`, and the requested host is `{}`", host.unwrap_or("missing")),
        site => format!("the browser reports it as `{site}`"),
    };
    Error::forbidden("This was sent from a page of another site. Please open the page on this site, and send it again.")
        .with_detail(format!("a cross-site request: {why} (ASIDE_TRUSTED_ORIGINS)"))
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

    /// The table of Go's own test, and cases for the settings of aside.
    #[test]
    fn the_rules_match_those_of_go() {
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

    /// Regression: `Host: localhost:80`, as some clients and proxies write it, did not match the origin
    /// `http://localhost`.
    #[test]
    fn a_default_port_may_be_omitted() {
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
    fn a_refusal_names_the_reason() {
        let headers = Headers::from_iter([("Host", "site.example"), ("Origin", "https://attacker.example")]);
        let request = Request::new(Method::Post, "/", headers, Body::empty());
        let error = CrossOrigin::new(&Config::default()).unwrap().check(&request).unwrap_err();
        assert_eq!(error.status_code().code(), 403);
        let message = error.chain();
        assert!(message.contains("https://attacker.example") && message.contains("`site.example`"), "{message}");
    }

    #[test]
    fn an_invalid_origin_is_refused_at_start() {
        for origin in ["example.org", "https://a.example/path", "://a", "https://"] {
            let config = Config { trusted_origins: vec![origin.into()], ..Config::default() };
            assert!(CrossOrigin::new(&config).err().unwrap().to_string().contains("ASIDE_TRUSTED_ORIGINS"), "{origin}");
        }
    }
}
