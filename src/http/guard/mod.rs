//! What stands between strangers and the handlers: who asks, by which name, from which site, how often; and the headers
//! that tell the browser what to refuse.
//!
//! Everything here is on unless a setting or a route says otherwise, and every refusal names the setting.

pub(crate) mod cross_origin;
pub(crate) mod hosts;
mod origin;
pub(crate) mod policy;
pub(crate) mod proxies;
pub(crate) mod rates;

use std::net::{IpAddr, SocketAddr};

use self::cross_origin::CrossOrigin;
use self::hosts::Hosts;
use self::policy::Policy;
use self::proxies::Proxies;
use self::rates::RateLimit;
use super::headers::Headers;
use super::request::Request;
use super::response::Response;
use crate::config::Config;
use crate::error::Result;

/// The guard of an application.
pub(crate) struct Guard {
    proxies: Proxies,
    hosts: Hosts,
    cross_origin: CrossOrigin,
    policy: Policy,
}

/// What a route lets pass that others do not, and what it counts.
#[derive(Default, Clone)]
pub(crate) struct Passage {
    /// Forms and scripts of other sites may send here.
    pub(crate) cross_origin: bool,
    /// It answers by whatever name it is asked: a health check knows the address alone.
    pub(crate) any_host: bool,
    pub(crate) limits: Vec<RateLimit>,
}

impl Guard {
    /// The guard that the settings ask for, with the application's own headers.
    ///
    /// # Errors
    /// When a setting cannot be used; it is named.
    pub(crate) fn new(config: &Config, policy: Policy) -> Result<Guard> {
        Ok(Guard {
            proxies: Proxies::new(config)?,
            hosts: Hosts::new(config)?,
            cross_origin: CrossOrigin::new(config)?,
            policy,
        })
    }

    /// Finds out who asks: the peer, or who stands behind the proxies that are trusted.
    pub(crate) fn identify(&self, request: &mut Request) {
        self.proxies.identify(request);
    }

    /// The address of the client that sent these headers.
    pub(crate) fn client_of(&self, headers: &Headers, peer: Option<SocketAddr>) -> Option<IpAddr> {
        self.proxies.client_of(headers, peer)
    }

    /// Lets a request pass to its route, or says why not.
    ///
    /// # Errors
    /// 421 for another host, 403 from another site, 429 too often.
    pub(crate) fn check(&self, request: &Request, passage: &Passage) -> Result<()> {
        if !passage.any_host {
            self.hosts.check(request)?;
        }
        if !passage.cross_origin {
            self.cross_origin.check(request)?;
        }
        passage.limits.iter().try_for_each(|limit| limit.check_client(request))
    }

    /// Adds the default headers, where the response has none of its own.
    pub(crate) fn protect(&self, request: &Request, response: &mut Response) {
        self.policy.apply(request, response);
    }
}
