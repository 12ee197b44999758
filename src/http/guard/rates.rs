//! How often: a limit for each visitor on the routes where trying again and again is the attack.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bounds::{self, LONGEST_KEY};
use crate::deadline::{self, FAR};
use crate::error::{Error, Result, Status};
use crate::http::request::Request;
use crate::sync::lock;

/// Visitors that a limit remembers; past that those go first who are nearest to being forgotten anyway.
const MOST_VISITORS: usize = 50_000;

/// The time between two sweeps of expired entries.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// So often within a time: [`App::rate_limit`](crate::App::rate_limit), [`RateLimit`].
///
/// ```
/// use aside::Rate;
///
/// let rate = Rate::per_minute(5);
/// assert_eq!(rate.to_string(), "5 in 60 s");
/// ```
///
/// All of them may come at once; then the next is free when its share of the time has passed: with 5 in a minute, one each
/// 12 seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Duration,
}

impl Rate {
    /// So many within that time.
    ///
    /// # Panics
    /// When either is zero, which is a mistake in the program.
    pub const fn new(count: u32, per: Duration) -> Rate {
        assert!(count > 0 && !per.is_zero(), "a rate is at least one within some time");
        Rate { count, per }
    }

    /// So many within a second.
    pub const fn per_second(count: u32) -> Rate {
        Rate::new(count, Duration::from_secs(1))
    }

    /// So many within a minute.
    pub const fn per_minute(count: u32) -> Rate {
        Rate::new(count, Duration::from_secs(60))
    }

    /// So many within an hour.
    pub const fn per_hour(count: u32) -> Rate {
        Rate::new(count, Duration::from_secs(3600))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} s", self.count, self.per.as_secs_f64())
    }
}

/// A limit by any key: for what no route knows, such as the account that somebody tries passwords for.
///
/// ```
/// use aside::{Rate, RateLimit, Request, Response, Result, redirect};
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
/// It counts in this process, in memory: a restart forgets, and of several processes each counts for itself. A clone is
/// the same limit. A key may have any length: a key over 64 bytes is stored as its hash. At most 50,000 keys are counted.
/// Above that, the keys whose limit expires first are dropped.
#[derive(Clone)]
pub struct RateLimit {
    rate: Rate,
    visitors: Arc<Mutex<Visitors>>,
}

/// The clients that a limit remembers.
struct Visitors {
    /// When each visitor will be as one who never came. One number for each is all that is needed (the generic cell rate
    /// algorithm, ITU-T I.371).
    free_at: HashMap<String, Instant>,
    swept: Instant,
}

impl RateLimit {
    /// A limit that nobody has used yet.
    pub fn new(rate: Rate) -> RateLimit {
        let visitors = Visitors { free_at: HashMap::new(), swept: Instant::now() };
        RateLimit { rate, visitors: Arc::new(Mutex::new(visitors)) }
    }

    /// Counts one for that key.
    ///
    /// # Errors
    /// 429 when it is one too many; the response says in `Retry-After` when to come again.
    pub fn check(&self, key: &str) -> Result<()> {
        self.count(key, Instant::now()).map_err(too_soon)
    }

    /// Counts one for the visitor's address.
    pub(crate) fn check_client(&self, request: &Request) -> Result<()> {
        self.check(&request.client_ip().map_or_else(String::new, visitor))
    }

    fn count(&self, key: &str, now: Instant) -> Result<(), Duration> {
        let key = bounds::key(key, LONGEST_KEY);
        let mut visitors = lock(&self.visitors);
        // The number is bounded before the division: the shares of all clients must add up to the whole.
        let per = self.rate.per.min(FAR);
        let so_far = visitors.free_at.get(&*key).copied().unwrap_or(now).max(now);
        let free = deadline::later(so_far, per / self.rate.count);
        let wait = free.saturating_duration_since(deadline::later(now, per));
        if !wait.is_zero() {
            return Err(wait);
        }
        visitors.sweep(now);
        if visitors.free_at.len() >= MOST_VISITORS && !visitors.free_at.contains_key(&*key) {
            visitors.forget_some(now);
        }
        visitors.free_at.insert(key.into_owned(), free);
        Ok(())
    }
}

impl Visitors {
    /// Drops expired entries and releases their memory.
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) < SWEEP_EVERY {
            return;
        }
        self.swept = now;
        self.free_at.retain(|_, free| *free > now);
        self.free_at.shrink_to(2 * self.free_at.len());
    }

    fn forget_some(&mut self, now: Instant) {
        self.free_at.retain(|_, free| *free > now);
        if self.free_at.len() >= MOST_VISITORS {
            let mut times: Vec<Instant> = self.free_at.values().copied().collect();
            // A tenth at once, so that not every call has to look for the next one.
            let (_, &mut last, _) = times.select_nth_unstable(MOST_VISITORS / 10);
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

/// Whom an address stands for. In version 6 a visitor has a whole /64 to choose from.
pub(crate) fn visitor(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}")
        }
    }
}

/// Carries the wait to where the response gets its header.
#[derive(Debug)]
pub(crate) struct TooSoon {
    /// Whole seconds, at least one.
    pub(crate) seconds: u64,
}

impl fmt::Display for TooSoon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "free again in {} s", self.seconds)
    }
}

impl std::error::Error for TooSoon {}

fn too_soon(wait: Duration) -> Error {
    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    let words = format!("That was too often. Please wait {}, and try again.", in_words(seconds));
    Error::new(Status::TOO_MANY_REQUESTS, words).with_source(TooSoon { seconds })
}

/// A wait for a person to read, rounded up: nobody counts 360 seconds.
fn in_words(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..120 => (seconds, "second"),
        120..7_200 => (seconds.div_ceil(60), "minute"),
        _ => (seconds.div_ceil(3_600), "hour"),
    };
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_one_at_a_time() {
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
    fn each_key_has_its_own_and_a_clone_counts_along() {
        let limit = RateLimit::new(Rate::per_hour(1));
        let clone = limit.clone();
        limit.check("a").unwrap();
        clone.check("b").unwrap();
        let error = clone.check("a").unwrap_err();
        assert_eq!(error.status(), Status::TOO_MANY_REQUESTS);
        assert!(error.find_source::<TooSoon>().is_some_and(|soon| (3599..=3600).contains(&soon.seconds)));
    }

    #[test]
    fn a_wait_is_in_words_and_never_too_short() {
        for (seconds, words) in
            [(1, "1 second"), (119, "119 seconds"), (120, "2 minutes"), (301, "6 minutes"), (7_201, "3 hours")]
        {
            assert_eq!(in_words(seconds), words);
        }
    }

    #[test]
    fn a_network_of_version_6_is_one_visitor() {
        let of = |address: &str| visitor(address.parse().unwrap());
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn memory_is_bounded_and_the_busiest_are_kept() {
        let limit = RateLimit::new(Rate::per_minute(2));
        let now = Instant::now();
        (0..2).for_each(|_| limit.count("busy", now).unwrap());
        (0..MOST_VISITORS + 10)
            .for_each(|number| limit.count(&number.to_string(), now + Duration::from_micros(number as u64)).unwrap());
        assert!(lock(&limit.visitors).free_at.len() <= MOST_VISITORS);
        assert!(limit.count("busy", now).is_err());
    }

    #[test]
    fn a_long_key_takes_no_more_memory_than_a_short_one() {
        let limit = RateLimit::new(Rate::per_hour(1));
        let long = "a".repeat(1_000_000);
        limit.check(&long).unwrap();
        limit.check(&format!("{long}b")).unwrap();
        assert!(limit.check(&long).is_err(), "it is counted by all of its bytes");
        let longest = lock(&limit.visitors).free_at.keys().map(String::len).max();
        assert!(longest < Some(100), "{longest:?}");
    }

    #[test]
    fn expired_keys_are_dropped() {
        let limit = RateLimit::new(Rate::per_second(1));
        let start = Instant::now();
        (0..1_000).for_each(|number| limit.count(&number.to_string(), start).unwrap());
        limit.count("later", start + 2 * SWEEP_EVERY).unwrap();
        let visitors = lock(&limit.visitors);
        assert_eq!(visitors.free_at.keys().collect::<Vec<_>>(), ["later"]);
        assert!(visitors.free_at.capacity() < 100);
    }
}
