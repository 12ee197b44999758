//! The client for webhooks to public addresses.
//!
//! The resolver checks the addresses of each connection, and the client connects to no others: a name that changed after
//! the webhook was created (DNS rebinding) has no effect. The client has its own connections and uses no proxy: a proxy
//! resolves names itself and would connect without the check.

use std::error::Error as StdError;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};

/// Returns a client that connects only to public addresses. The configuration must have no proxy.
pub(super) fn agent(config: Config) -> Agent {
    agent_with(config, DefaultResolver::default(), is_public)
}

/// Returns a client with this resolver, which connects only to addresses that the rule allows.
pub(super) fn agent_with(config: Config, names: impl Resolver, is_allowed: fn(IpAddr) -> bool) -> Agent {
    Agent::with_parts(config, DefaultConnector::default(), Checked { names, is_allowed })
}

/// A resolver that omits addresses that the rule refuses.
#[derive(Debug)]
struct Checked<R> {
    names: R,
    is_allowed: fn(IpAddr) -> bool,
}

impl<R: Resolver> Resolver for Checked<R> {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.names.resolve(uri, config, timeout)?;
        let mut allowed = self.empty();
        found.iter().filter(|address| (self.is_allowed)(address.ip())).for_each(|address| allowed.push(*address));
        match found.first() {
            Some(refused) if allowed.is_empty() => Err(Error::Other(Box::new(NotPublic(refused.ip())))),
            _ => Ok(allowed),
        }
    }
}

/// The error for a name without a public address, with the first of its addresses.
#[derive(Debug)]
pub(super) struct NotPublic(IpAddr);

impl fmt::Display for NotPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "its host has the address {}, which is not a public address (Webhook::public_only)", self.0)
    }
}

impl StdError for NotPublic {}

/// Returns true for a public Internet address (the IANA special-purpose address registries, RFC 6890). An address that
/// embeds an IPv4 address is public if that one is.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => embedded(address).map_or_else(|| is_public_v6(address), is_public_v4),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // This network; shared by carriers (RFC 6598); protocol assignments; the former 6to4 relays; benchmarks.
        [0, ..] | [100, 64..=127, ..] | [192, 0, 0, _] | [192, 88, 99, _] | [198, 18 | 19, ..] => true,
        // Multicast, reserved, broadcast.
        [224..=255, ..] => true,
        _ => false,
    };
    let private = address.is_private() || address.is_loopback() || address.is_link_local();
    !special && !private && !address.is_documentation()
}

/// Global unicast is 2000::/3, with small ranges for protocols and documentation. Everything else is loopback, unique
/// local, link-local, multicast, or unassigned.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Protocol assignments, including Teredo; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

/// Returns the IPv4 address that a gateway extracts from an IPv6 address: mapped, NAT64 (RFC 6052) or 6to4 (RFC 3056).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(of(high, low)),
        [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_purpose_addresses_are_not_public() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
            "2002:a00:1::1",
            "3fff::1",
            "4000::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn all_other_addresses_are_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "11.0.0.1",
            "100.63.255.255",
            "100.128.0.1",
            "169.253.1.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
