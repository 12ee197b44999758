//! Security middleware: trusted proxies, host check, CSRF protection, rate limits, and the security headers.
//!
//! All of it is on unless a setting or a route turns it off, and each refusal names the setting.

pub(crate) mod csrf;
pub(crate) mod headers;
pub(crate) mod hosts;
mod origin;
pub(crate) mod proxies;
pub(crate) mod rate_limit;

use std::net::{IpAddr, SocketAddr};

use self::csrf::CrossOrigin;
use self::headers::Policy;
use self::hosts::Hosts;
use self::proxies::Proxies;
use self::rate_limit::RateLimit;
use super::headers::Headers;
use super::request::Request;
use super::response::Response;
use crate::config::Config;
use crate::error::Result;

/// The security middleware of an application.
pub(crate) struct Security {
    proxies: Proxies,
    hosts: Hosts,
    cross_origin: CrossOrigin,
    policy: Policy,
}

/// The exceptions and the rate limits of a route.
#[derive(Default, Clone)]
pub(crate) struct Exemptions {
    /// True if cross-site requests are allowed.
    pub(crate) cross_origin: bool,
    /// True if the host check is skipped: a health check knows the address only.
    pub(crate) any_host: bool,
    pub(crate) limits: Vec<RateLimit>,
}

impl Security {
    /// Returns the middleware that the settings ask for, with the application's own headers.
    ///
    /// # Errors
    /// 500, naming the setting, if a setting is invalid.
    pub(crate) fn new(config: &Config, policy: Policy) -> Result<Security> {
        Ok(Security {
            proxies: Proxies::new(config)?,
            hosts: Hosts::new(config)?,
            cross_origin: CrossOrigin::new(config)?,
            policy,
        })
    }

    /// Identifies the client: the peer, or the client that trusted proxies report.
    pub(crate) fn identify(&self, request: &mut Request) {
        self.proxies.identify(request);
    }

    /// Returns the address of the client that sent these headers.
    pub(crate) fn client_of(&self, headers: &Headers, peer: Option<SocketAddr>) -> Option<IpAddr> {
        self.proxies.client_of(headers, peer)
    }

    /// Checks if a request may go on to its route.
    ///
    /// # Errors
    /// 421 for another host, 403 for a cross-site request, 429 above a rate limit.
    pub(crate) fn check(&self, request: &Request, exemptions: &Exemptions) -> Result<()> {
        if !exemptions.any_host {
            self.hosts.check(request)?;
        }
        if !exemptions.cross_origin {
            self.cross_origin.check(request)?;
        }
        exemptions.limits.iter().try_for_each(|limit| limit.check_client(request))
    }

    /// Adds the default headers that the response does not have.
    pub(crate) fn protect(&self, request: &Request, response: &mut Response) {
        self.policy.apply(request, response);
    }
}
