//! Limits per client address, so that one client does not lock out all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::http::security::rate_limit::client_key;
use crate::log_limit::LogLimit;
use crate::sync::lock;

/// The counts per client of one kind of resource. A client is an address, or a /64 network with IPv6.
///
/// Loopback addresses and peers without an address have no limit, since they belong to a proxy with many clients.
pub(crate) struct Clients {
    bound: Bound,
    held: Mutex<HashMap<String, usize>>,
    refused: LogLimit,
    unbounded: LogLimit,
}

/// The limit for one client.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) most: usize,
    /// The plural of the counted resource, for the log.
    pub(crate) what: &'static str,
    pub(crate) setting: &'static str,
    /// True if loopback addresses are limited like all others.
    pub(crate) has_loopback: bool,
}

/// One counted resource of a client, until dropped.
pub(crate) struct Held {
    clients: Arc<Clients>,
    client: String,
}

impl Clients {
    pub(crate) fn new(bound: Bound) -> Arc<Clients> {
        Arc::new(Clients {
            bound,
            held: Mutex::default(),
            refused: LogLimit::default(),
            unbounded: LogLimit::default(),
        })
    }

    /// Counts one more for a client, if it is below the limit.
    pub(crate) fn take(self: &Arc<Clients>, address: Option<IpAddr>) -> Option<Held> {
        let address = address.map(|address| address.to_canonical());
        let client = address.map_or_else(String::new, client_key);
        let mut held = lock(&self.held);
        let count = held.get(&client).copied().unwrap_or(0);
        if count >= self.bound.most && self.is_bounded(address) {
            drop(held);
            self.log_refused(address);
            return None;
        }
        held.insert(client.clone(), count + 1);
        drop(held);
        if count >= self.bound.most {
            self.log_unbounded(address, count + 1);
        }
        Some(Held { clients: self.clone(), client })
    }

    fn is_bounded(&self, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| self.bound.has_loopback || !address.is_loopback())
    }

    fn log_refused(&self, address: Option<IpAddr>) {
        let Bound { most, what, setting, .. } = self.bound;
        if let (Some(count), Some(address)) = (self.refused.count(), address) {
            log::warn!(
                target: "aside::server",
                "{what} refused with 503: {count}. The client {address} has {most} already ({setting}); if that is a proxy, \
                 name it in ASIDE_TRUSTED_PROXIES."
            );
        }
    }

    fn log_unbounded(&self, address: Option<IpAddr>, count: usize) {
        if self.unbounded.count().is_none() {
            return;
        }
        let from = address.map_or("a Unix socket".to_owned(), |address| address.to_string());
        let Bound { what, setting, .. } = self.bound;
        log::warn!(
            target: "aside::server",
            "{what} from {from}: {count} at once, without a limit per client ({setting}), since such an address usually \
             belongs to a proxy: name it in ASIDE_TRUSTED_PROXIES, and make it send X-Forwarded-For."
        );
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = lock(&self.clients.held);
        if let Some(count) = held.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(has_loopback: bool) -> Arc<Clients> {
        Clients::new(Bound { most: 2, what: "Things", setting: "ASIDE_THINGS", has_loopback })
    }

    fn taken(clients: &Arc<Clients>, addresses: &[&str]) -> Vec<Option<Held>> {
        addresses.iter().map(|address| clients.take(address.parse().ok())).collect()
    }

    fn which(taken: &[Option<Held>]) -> Vec<bool> {
        taken.iter().map(Option::is_some).collect()
    }

    #[test]
    fn the_limit_of_one_client_does_not_affect_others() {
        let clients = clients(false);
        let held = taken(&clients, &["192.0.2.1", "192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"]);
        assert_eq!(which(&held), [true, true, false, true]);
        drop(held);
        assert!(lock(&clients.held).is_empty(), "a client without resources has no entry");
        assert!(clients.take("192.0.2.1".parse().ok()).is_some());
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let held = taken(&clients(false), &["2001:db8::1", "2001:db8::2:1", "2001:db8::3", "2001:db8:0:1::1"]);
        assert_eq!(which(&held), [true, true, false, true]);
    }

    #[test]
    fn loopback_clients_have_no_limit_unless_a_test_sets_it() {
        for address in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "unknown"] {
            assert_eq!(which(&taken(&clients(false), &[address; 3])), [true; 3], "{address}");
        }
        let held = taken(&clients(true), &["127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2", "unknown"]);
        assert_eq!(which(&held), [true, true, false, true, true]);
    }
}
