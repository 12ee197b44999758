//! The ids of traces: a request with all the work that comes from it.

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::random;

/// The id of a trace: a request with all the tasks, jobs, mails and webhooks that come from it, in every process.
///
/// It has 128 bits and cannot be guessed. Its text form is 32 lowercase hexadecimal digits, as in the header `traceparent`
/// (W3C Trace Context, section 3.2.2.3). The short id that people see ([`Request::id`](crate::Request::id)) is not unique.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Request};
///
/// let app = App::new().get("/", |req: &mut Request| req.trace().to_string());
/// assert_eq!(TestClient::new(app).get("/").text().len(), 32);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId(u128);

/// The random values of this process, the number of ids so far, and the time when the clock was last read.
struct Source {
    keys: [u64; 2],
    count: AtomicU64,
    millis: AtomicU64,
}

/// The number of ids with the same time. So few ids hardly notice what it takes to read the clock.
const SAME_TIME: u64 = 16;

impl TraceId {
    /// Returns an id that no other trace has: 48 bits of the time in milliseconds, and 80 random bits. Because of the time, the
    /// ids of one moment are neighbors in the index of a job store, and share a write to the disk.
    pub(crate) fn new() -> TraceId {
        static SOURCE: OnceLock<Source> = OnceLock::new();
        let source = SOURCE.get_or_init(Source::new);
        let number = source.count.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(SAME_TIME) {
            source.millis.fetch_max(millis_now(), Ordering::Relaxed);
        }
        let [high, low] = source.keys.map(|key| mix(number ^ key).wrapping_add(key.rotate_left(32)));
        let high = source.millis.load(Ordering::Relaxed) << 16 | high >> 48;
        // All zeros is invalid in the specification.
        TraceId((u128::from(high) << 64 | u128::from(low)).max(1))
    }

    /// Returns the lower 64 bits.
    #[cfg(any(feature = "webhook", test))]
    pub(crate) fn low(self) -> u64 {
        self.0 as u64
    }

    /// Parses the text form: 32 lowercase hexadecimal digits, not all of them zero.
    pub(crate) fn parse(text: &str) -> Option<TraceId> {
        let is_valid = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let id = u128::from_str_radix(Some(text).filter(|_| is_valid)?, 16).ok()?;
        Some(TraceId(id)).filter(|id| id.0 != 0)
    }
}

impl Source {
    fn new() -> Source {
        // Without randomness the ids are still unique within the process and differ between processes.
        let fallback = || mix(u64::from(std::process::id())).to_ne_bytes();
        let key = || u64::from_ne_bytes(random::bytes().unwrap_or_else(|_| fallback()));
        Source { keys: [key(), key()], count: AtomicU64::new(0), millis: AtomicU64::new(0) }
    }
}

fn millis_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Returns a number that looks random, another one for each input (the finalizer of SplitMix64).
pub(crate) fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_differ_in_their_random_half_and_are_parsed_from_their_text() {
        let ids: Vec<String> = (0..10_000).map(|_| TraceId::new().to_string()).collect();
        assert_eq!(ids.iter().map(|id| &id[16..]).collect::<HashSet<_>>().len(), ids.len());
        let bits = ids.iter().map(|id| &id[12..16]).collect::<HashSet<_>>().len();
        assert!(bits > 5_000, "{bits} of 65,536 values");
        assert!(ids.iter().all(|id| TraceId::parse(id).is_some_and(|parsed| parsed.to_string() == *id)));
    }

    #[test]
    fn ids_begin_with_the_time_in_milliseconds() {
        let time = || u64::try_from(TraceId::new().0 >> 80).unwrap();
        let earliest = millis_now();
        for _ in 0..SAME_TIME {
            time();
        }
        let ids: Vec<u64> = (0..100).map(|_| time()).collect();
        assert!(ids.iter().all(|id| (earliest..=millis_now()).contains(id)), "{ids:?}");
    }

    #[test]
    fn a_text_that_is_not_an_id_is_refused() {
        let valid = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert!(TraceId::parse(valid).is_some());
        let invalid = ["", "0", &valid[1..], &format!("{valid}0"), &valid.to_uppercase(), &"0".repeat(32)];
        assert!(invalid.iter().all(|text| TraceId::parse(text).is_none()));
        assert!(["+", "_", "é"].iter().all(|c| TraceId::parse(&valid.replacen("4bf", c, 1)).is_none()));
        assert!(TraceId::parse(&format!("+{}", &valid[1..])).is_none());
    }
}
