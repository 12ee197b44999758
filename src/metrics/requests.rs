//! Counters of requests, by route, method and status, and the histograms of their durations.
//!
//! A request adds to three atomic counters of its route: no lock, no allocation. The labels are bounded: a route is its
//! pattern, a method that the framework does not know is `other`, and each route has a fixed number of counters.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::text::{Text, seconds};
use crate::worker_routes::RouteNumber;

/// The label of all paths without a route. A pattern begins with a slash.
const NO_ROUTE_LABEL: &str = "none";

/// The known methods. Every other one is `other`: a client chooses it.
const METHODS: [&str; 10] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "other"];

/// The upper bounds of the buckets, in nanoseconds and as labels in seconds.
const BOUNDS: [(u64, &str); 7] = [
    (1_000_000, "0.001"),
    (5_000_000, "0.005"),
    (25_000_000, "0.025"),
    (100_000_000, "0.1"),
    (500_000_000, "0.5"),
    (2_500_000_000, "2.5"),
    (10_000_000_000, "10"),
];

/// The number of counters of a route: of one with a single method, of one with several, and of all paths without a route.
/// Powers of two.
const ONE_METHOD: usize = 16;
const SEVERAL_METHODS: usize = 64;
const WITHOUT_ROUTE: usize = 256;

/// The position of the method and the status in a counter, above the count.
const KEY: u32 = 48;
const COUNT: u64 = (1 << KEY) - 1;

/// The counters of all requests.
pub(super) struct RequestMetrics {
    /// The counters of each route, in the order of the routes. Routes with the same pattern share theirs.
    routes: Box<[Arc<RouteMetrics>]>,
    without_route: RouteMetrics,
}

/// The counters of one pattern.
struct RouteMetrics {
    pattern: Box<str>,
    /// A hash table: each counter that is in use has its method and status in the upper 16 bits.
    counters: Box<[AtomicU64]>,
    /// The requests that found no free counter.
    others: AtomicU64,
    /// The durations by bucket, the last without a bound, and their sum in nanoseconds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

/// The number of requests, and of those that ended with a status of 500 or above.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct RequestTotals {
    pub(super) all: u64,
    pub(super) failed: u64,
}

impl RequestMetrics {
    /// Creates the counters for the patterns of the routes, in their order; `true` beside one of any method.
    pub(super) fn new<'p>(routes: impl Iterator<Item = (&'p str, bool)>) -> RequestMetrics {
        let routes: Vec<(&str, bool)> = routes.collect();
        let mut methods = BTreeMap::<&str, usize>::new();
        routes.iter().for_each(|&(pattern, is_any)| *methods.entry(pattern).or_default() += 1 + usize::from(is_any));
        let size = |methods: usize| if methods > 1 { SEVERAL_METHODS } else { ONE_METHOD };
        let made = methods
            .into_iter()
            .map(|(pattern, methods)| (pattern, Arc::new(RouteMetrics::new(pattern, size(methods)))));
        let by_pattern: BTreeMap<&str, Arc<RouteMetrics>> = made.collect();
        let routes = routes.iter().map(|(pattern, _)| by_pattern[pattern].clone()).collect();
        RequestMetrics { routes, without_route: RouteMetrics::new(NO_ROUTE_LABEL, WITHOUT_ROUTE) }
    }

    /// Counts a request that has ended.
    pub(super) fn count(&self, route: RouteNumber, method: &str, status: u16, elapsed: Duration) {
        let route = self.routes.get(route).map_or(&self.without_route, |route| &**route);
        route.count(method_code(method), status, elapsed);
    }

    pub(super) fn totals(&self) -> RequestTotals {
        let mut totals = RequestTotals::default();
        for (_, status, count) in self.patterns().flat_map(RouteMetrics::counts) {
            totals.all += count;
            totals.failed += if status >= 500 { count } else { 0 };
        }
        totals
    }

    pub(super) fn write(&self, text: &mut Text) {
        text.family("aside_http_requests_total", "counter", "Requests by route, method and status.");
        for route in self.patterns() {
            for (method, status, count) in route.counts() {
                let status = if status == 0 { "other" } else { &status.to_string() };
                let labels = [("method", method), ("route", &route.pattern), ("status", status)];
                text.sample("aside_http_requests_total", &labels, count);
            }
        }
        let name = "aside_http_request_duration_seconds";
        text.family(name, "histogram", "Time from the arrival of a request's head to its finished response, by route.");
        for route in self.patterns().filter(|route| route.is_used()) {
            route.write_durations(name, text);
        }
    }

    /// Returns the counters of each pattern once.
    fn patterns(&self) -> impl Iterator<Item = &RouteMetrics> {
        let by_pattern: BTreeMap<&str, &RouteMetrics> =
            self.routes.iter().map(|route| (&*route.pattern, &**route)).collect();
        by_pattern.into_values().chain([&self.without_route])
    }
}

impl RouteMetrics {
    fn new(pattern: &str, size: usize) -> RouteMetrics {
        let counters = (0..size).map(|_| AtomicU64::default()).collect();
        let (others, buckets, sum) = Default::default();
        RouteMetrics { pattern: pattern.into(), counters, others, buckets, sum }
    }

    fn count(&self, method: u64, status: u16, elapsed: Duration) {
        self.counter(method * 1_000 + u64::from(status.min(999))).fetch_add(1, Ordering::Relaxed);
        let nanos = elapsed.as_secs().saturating_mul(1_000_000_000).saturating_add(elapsed.subsec_nanos().into());
        self.buckets[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns the counter for a method and a status, and takes a free one for it at first.
    fn counter(&self, key: u64) -> &AtomicU64 {
        let (size, first) = (self.counters.len(), key as usize);
        for step in 0..size {
            let counter = &self.counters[(first + step) & (size - 1)];
            let mut held = counter.load(Ordering::Relaxed) >> KEY;
            if held == 0 {
                let taken = counter.compare_exchange(0, key << KEY, Ordering::Relaxed, Ordering::Relaxed);
                held = taken.map_or_else(|other| other >> KEY, |_| key);
            }
            if held == key {
                return counter;
            }
        }
        &self.others
    }

    /// Returns the counts by method and status; 0 for the status of requests that found no free counter.
    fn counts(&self) -> impl Iterator<Item = (&'static str, u16, u64)> {
        let words = self.counters.iter().map(|counter| counter.load(Ordering::Relaxed));
        let named = words.map(|word| (word >> KEY, word & COUNT)).map(|(key, count)| {
            let method = METHODS.get((key / 1_000) as usize).copied().unwrap_or_default();
            (method, (key % 1_000) as u16, count)
        });
        let others = ("other", 0, self.others.load(Ordering::Relaxed));
        named.chain([others]).filter(|(.., count)| *count > 0)
    }

    fn is_used(&self) -> bool {
        self.buckets.iter().any(|bucket| bucket.load(Ordering::Relaxed) > 0)
    }

    fn write_durations(&self, name: &str, text: &mut Text) {
        let sum = seconds(self.sum.load(Ordering::Relaxed));
        let bounds = BOUNDS.map(|(_, label)| label);
        text.histogram(name, &[("route", &self.pattern)], &bounds, &load(&self.buckets), sum);
    }
}

/// Reads counters.
pub(super) fn load(counters: &[AtomicU64]) -> Vec<u64> {
    counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
}

/// Returns the position of a method in [`METHODS`].
fn method_code(method: &str) -> u64 {
    match method {
        "GET" => 0,
        "HEAD" => 1,
        "POST" => 2,
        "PUT" => 3,
        "PATCH" => 4,
        "DELETE" => 5,
        "OPTIONS" => 6,
        "TRACE" => 7,
        "CONNECT" => 8,
        _ => 9,
    }
}

/// Returns the bucket of a duration.
fn bucket(nanos: u64) -> usize {
    match nanos {
        0..=1_000_000 => 0,
        1_000_001..=5_000_000 => 1,
        5_000_001..=25_000_000 => 2,
        25_000_001..=100_000_000 => 3,
        100_000_001..=500_000_000 => 4,
        500_000_001..=2_500_000_000 => 5,
        2_500_000_001..=10_000_000_000 => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::worker_routes::NO_ROUTE;

    fn metrics() -> RequestMetrics {
        RequestMetrics::new([("/", false), ("/orders", false), ("/orders", false), ("/any", true)].into_iter())
    }

    fn count(metrics: &RequestMetrics, route: RouteNumber, method: &str, status: u16) {
        metrics.count(route, method, status, Duration::from_millis(3));
    }

    fn text(metrics: &RequestMetrics) -> String {
        let mut text = Text::default();
        metrics.write(&mut text);
        text.into_string()
    }

    #[test]
    fn the_buckets_have_the_bounds_of_their_labels() {
        for (index, (bound, label)) in BOUNDS.into_iter().enumerate() {
            assert_eq!((bucket(bound), bucket(bound + 1)), (index, index + 1), "{label}");
            assert_eq!(label.parse::<f64>().unwrap(), seconds(bound));
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BOUNDS.len()));
    }

    #[test]
    fn the_methods_have_the_codes_of_their_labels() {
        let codes = METHODS.map(method_code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(["get", "", "BREW"].map(method_code), [9; 3]);
    }

    #[test]
    fn requests_are_counted_by_route_method_and_status() {
        let metrics = metrics();
        (0..3).for_each(|_| count(&metrics, 0, "GET", 200));
        count(&metrics, 1, "GET", 200);
        count(&metrics, 2, "POST", 303);
        count(&metrics, 3, "BREW", 503);
        count(&metrics, NO_ROUTE, "GET", 404);
        let text = text(&metrics);
        for line in [
            r#"aside_http_requests_total{method="GET",route="/",status="200"} 3"#,
            r#"aside_http_requests_total{method="GET",route="/orders",status="200"} 1"#,
            r#"aside_http_requests_total{method="POST",route="/orders",status="303"} 1"#,
            r#"aside_http_requests_total{method="other",route="/any",status="503"} 1"#,
            r#"aside_http_requests_total{method="GET",route="none",status="404"} 1"#,
            r#"aside_http_request_duration_seconds_bucket{route="/orders",le="0.001"} 0"#,
            r#"aside_http_request_duration_seconds_bucket{route="/orders",le="0.005"} 2"#,
            r#"aside_http_request_duration_seconds_bucket{route="/orders",le="+Inf"} 2"#,
            r#"aside_http_request_duration_seconds_sum{route="/orders"} 0.006"#,
            r#"aside_http_request_duration_seconds_count{route="/orders"} 2"#,
        ] {
            assert!(text.lines().any(|has| has == line), "{line}\n{text}");
        }
        assert_eq!(metrics.totals(), RequestTotals { all: 7, failed: 1 });
    }

    /// A client chooses the method, and with it the status.
    #[test]
    fn the_series_of_a_route_are_bounded_and_no_request_is_lost() {
        let metrics = metrics();
        let methods = METHODS.iter().chain(&["BREW", "FOO"]);
        for method in methods {
            (400..600).for_each(|status| count(&metrics, 0, method, status));
            (400..600).for_each(|status| count(&metrics, NO_ROUTE, method, status));
        }
        assert_eq!(metrics.totals().all, 2 * 12 * 200);
        let series = text(&metrics).lines().filter(|line| line.starts_with("aside_http_requests_total{")).count();
        assert_eq!(series, ONE_METHOD + 1 + WITHOUT_ROUTE + 1);
    }

    #[test]
    fn concurrent_requests_are_all_counted() {
        let metrics = metrics();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..10_000 {
                        count(&metrics, 3, METHODS[number % 10], 200 + (number % 7) as u16);
                    }
                });
            }
        });
        let counted: u64 = metrics.routes[3].counts().map(|(.., count)| count).sum();
        assert_eq!((counted, metrics.totals().all), (40_000, 40_000));
    }
}
