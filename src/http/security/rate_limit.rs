//! Rate limits for each client, on routes that attackers call repeatedly.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bounds::{self, LONGEST_KEY};
use crate::deadline::{self, FAR};
use crate::error::{Error, Result, Status};
use crate::http::request::Request;
use crate::log_text::numbered;
use crate::sync::lock;

/// The largest number of clients of a limit. Above it, the entries that expire first are dropped.
const MAX_CLIENTS: usize = 50_000;

/// The time between two sweeps of expired entries.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// A rate: a number of requests within a time. See [`MethodRouter::rate_limit`](crate::routing::MethodRouter::rate_limit) and [`RateLimit`].
///
/// ```
/// use aside::routing::Rate;
///
/// let rate = Rate::per_minute(5);
/// assert_eq!(rate.to_string(), "5 in 60 s");
/// ```
///
/// All of them may come at once; after that, one more is allowed each time its share of the time has passed: with 5 in
/// a minute, one each 12 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Duration,
}

impl Rate {
    /// Returns a rate of `count` requests within `per`.
    ///
    /// # Panics
    /// Panics if either is zero.
    pub const fn new(count: u32, per: Duration) -> Rate {
        assert!(count > 0 && !per.is_zero(), "a rate needs at least one request and a time above zero");
        Rate { count, per }
    }

    /// Returns a rate of `count` requests per second.
    pub const fn per_second(count: u32) -> Rate {
        Rate::new(count, Duration::from_secs(1))
    }

    /// Returns a rate of `count` requests per minute.
    pub const fn per_minute(count: u32) -> Rate {
        Rate::new(count, Duration::from_secs(60))
    }

    /// Returns a rate of `count` requests per hour.
    pub const fn per_hour(count: u32) -> Rate {
        Rate::new(count, Duration::from_secs(3600))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} s", self.count, self.per.as_secs_f64())
    }
}

/// A rate limit by any key, for example the account at a login.
///
/// ```
/// use aside::routing::{Rate, RateLimit};
/// use aside::{Request, Response, Result, redirect};
///
/// struct Logins(RateLimit); // .state(Logins(RateLimit::new(Rate::per_hour(20))))
///
/// fn log_in(req: &mut Request) -> Result<Response> {
///     #[derive(serde::Deserialize)]
///     struct Login { email: String }
///
///     let login: Login = req.form()?;
///     req.state::<Logins>().0.check(&login.email)?; // 429 with Retry-After
///     Ok(redirect("/"))
/// }
/// ```
///
/// It counts in the memory of this process: a restart resets it, and several processes count separately. Clones share
/// the limit. A key may have any length: a key over 64 bytes is stored as its hash. At most 50,000 keys are counted.
/// Above that, the keys whose limit expires first are dropped.
#[derive(Clone)]
pub struct RateLimit {
    rate: Rate,
    clients: Arc<Mutex<Clients>>,
}

/// The clients that a limit counts.
struct Clients {
    /// The time at which each client's allowance is full again. One number for each client is enough (the generic cell
    /// rate algorithm, ITU-T I.371).
    free_at: HashMap<String, Instant>,
    swept: Instant,
}

impl RateLimit {
    /// Returns a limit that is unused.
    pub fn new(rate: Rate) -> RateLimit {
        let clients = Clients { free_at: HashMap::new(), swept: Instant::now() };
        RateLimit { rate, clients: Arc::new(Mutex::new(clients)) }
    }

    /// Counts one request for a key.
    ///
    /// # Errors
    /// 429 if it is above the limit; the `Retry-After` header of the response has the wait.
    pub fn check(&self, key: &str) -> Result<()> {
        self.count(key, Instant::now()).map_err(too_soon)
    }

    /// Counts one request for the client's address.
    pub(crate) fn check_client(&self, request: &Request) -> Result<()> {
        self.check(&request.client_ip().map_or_else(String::new, client_key))
    }

    fn count(&self, key: &str, now: Instant) -> Result<(), Duration> {
        let key = bounds::key(key, LONGEST_KEY);
        let mut clients = lock(&self.clients);
        // The duration is bounded before the division: the shares of all requests must add up to the whole.
        let per = self.rate.per.min(FAR);
        let so_far = clients.free_at.get(&*key).copied().unwrap_or(now).max(now);
        let free = deadline::later(so_far, per / self.rate.count);
        let wait = free.saturating_duration_since(deadline::later(now, per));
        if !wait.is_zero() {
            return Err(wait);
        }
        clients.sweep(now);
        if clients.free_at.len() >= MAX_CLIENTS && !clients.free_at.contains_key(&*key) {
            clients.drop_earliest(now);
        }
        clients.free_at.insert(key.into_owned(), free);
        Ok(())
    }
}

impl Clients {
    /// Drops expired entries and releases their memory.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        self.free_at.retain(|_, free| *free > now);
        self.free_at.shrink_to(2 * self.free_at.len());
    }

    fn drop_earliest(&mut self, now: Instant) {
        self.free_at.retain(|_, free| *free > now);
        if self.free_at.len() >= MAX_CLIENTS {
            let mut times: Vec<Instant> = self.free_at.values().copied().collect();
            // Drops a tenth at once, so that not every call has to search.
            let (_, &mut last, _) = times.select_nth_unstable(MAX_CLIENTS / 10);
            self.free_at.retain(|_, free| *free > last);
        }
    }
}

impl From<Rate> for RateLimit {
    fn from(rate: Rate) -> RateLimit {
        RateLimit::new(rate)
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RateLimit({})", self.rate)
    }
}

/// Returns the key of an address. An IPv6 client can choose any address of its /64 network.
pub(crate) fn client_key(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}")
        }
    }
}

/// The wait until the next allowed request, from which the response gets its header.
#[derive(Debug)]
pub(crate) struct TooSoon {
    /// Whole seconds, at least one.
    pub(crate) seconds: u64,
}

impl fmt::Display for TooSoon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "allowed again in {} s", self.seconds)
    }
}

impl std::error::Error for TooSoon {}

fn too_soon(wait: Duration) -> Error {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let text = format!("Too many requests. Please wait {}, and try again.", as_text(seconds));
    Error::new(Status::TOO_MANY_REQUESTS, text).with_source(TooSoon { seconds })
}

/// Returns a wait as text for a user, rounded up to minutes or hours.
fn as_text(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds.div_ceil(60), "minute"),
        _ => (seconds.div_ceil(3_600), "hour"),
    };
    numbered(count, unit, &format!("{unit}s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_burst_is_allowed_and_then_one_request_at_a_time() {
        let limit = RateLimit::new(Rate::per_minute(5));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        (0..5).for_each(|_| limit.count("a", at(0)).unwrap());
        assert_eq!(limit.count("a", at(0)), Err(Duration::from_secs(12)));
        assert_eq!(limit.count("a", at(11)), Err(Duration::from_secs(1)));
        limit.count("a", at(12)).unwrap();
        assert!(limit.count("a", at(12)).is_err());
        (0..5).for_each(|_| limit.count("a", at(200)).unwrap());
        assert!(limit.count("a", at(200)).is_err());
    }

    #[test]
    fn keys_are_separate_and_clones_share_the_limit() {
        let limit = RateLimit::new(Rate::per_hour(1));
        let clone = limit.clone();
        limit.check("a").unwrap();
        clone.check("b").unwrap();
        let error = clone.check("a").unwrap_err();
        assert_eq!(error.status_code(), Status::TOO_MANY_REQUESTS);
        assert!(error.find_source::<TooSoon>().is_some_and(|soon| (3599..=3600).contains(&soon.seconds)));
    }

    #[test]
    fn a_wait_is_rounded_up_to_readable_units() {
        for (seconds, text) in
            [(1, "1 second"), (119, "119 seconds"), (120, "2 minutes"), (301, "6 minutes"), (7_201, "3 hours")]
        {
            assert_eq!(as_text(seconds), text);
        }
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let of = |address: &str| client_key(address.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn memory_is_bounded_and_the_busiest_clients_stay() {
        let limit = RateLimit::new(Rate::per_minute(2));
        let now = Instant::now();
        (0..2).for_each(|_| limit.count("busy", now).unwrap());
        (0..MAX_CLIENTS + 10)
            .for_each(|number| limit.count(&number.to_string(), now + Duration::from_micros(number as u64)).unwrap());
        assert!(lock(&limit.clients).free_at.len() <= MAX_CLIENTS);
        assert!(limit.count("busy", now).is_err());
    }

    #[test]
    fn a_long_key_takes_no_more_memory_than_a_short_one() {
        let limit = RateLimit::new(Rate::per_hour(1));
        let long = "a".repeat(1_000_000);
        limit.check(&long).unwrap();
        limit.check(&format!("{long}b")).unwrap();
        assert!(limit.check(&long).is_err(), "all bytes of a key count");
        let longest = lock(&limit.clients).free_at.keys().map(String::len).max();
        assert!(longest < Some(100), "{longest:?}");
    }

    #[test]
    fn expired_keys_are_dropped() {
        let limit = RateLimit::new(Rate::per_second(1));
        let start = Instant::now();
        (0..1_000).for_each(|number| limit.count(&number.to_string(), start).unwrap());
        limit.count("later", start + 2 * SWEEP_EVERY).unwrap();
        let clients = lock(&limit.clients);
        assert_eq!(clients.free_at.keys().collect::<Vec<_>>(), ["later"]);
        assert!(clients.free_at.capacity() < 100);
    }
}
