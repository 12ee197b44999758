//! Times as the panel shows them: `3 min ago`, with the exact time in a tooltip.

use std::time::SystemTime;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use crate::jobs::record::Millis;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A time, seen from another one.
///
/// It is counted from the start of the current minute: all times of an open page change together, once a minute, and not at
/// each poll.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct Moment {
    /// The time as in RFC 3339, in UTC.
    iso: String,
    /// The time in the format of the log.
    exact: String,
    /// The distance: `3 min ago`, `in 2 h`.
    relative: String,
}

impl Moment {
    pub(super) fn of(time: Timestamp, now: Timestamp) -> Moment {
        let exact = time.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string();
        let iso = time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let minute = now.as_second() - now.as_second().rem_euclid(MINUTE);
        let relative = match time.as_second() - minute {
            future if time > now => format!("in {}", length(future.max(0))),
            0.. => "just now".to_owned(),
            past => format!("{} ago", length(-past + MINUTE - 1)),
        };
        Moment { iso, exact, relative }
    }

    /// Returns the moment of a time of the wall clock.
    pub(super) fn of_system(time: SystemTime) -> Option<Moment> {
        Some(Moment::of(Timestamp::try_from(time).ok()?, Timestamp::now()))
    }

    /// Returns the moment of a time of a job, seen from the clock of the jobs.
    pub(super) fn of_job(time: Millis, now: Millis) -> Option<Moment> {
        Some(Moment::of(Timestamp::from_millisecond(time).ok()?, Timestamp::from_millisecond(now).ok()?))
    }
}

/// Returns a number of seconds in its largest unit.
fn length(seconds: i64) -> String {
    match seconds {
        ..MINUTE => "under 1 min".to_owned(),
        MINUTE..HOUR => format!("{} min", seconds / MINUTE),
        HOUR..DAY => format!("{} h", seconds / HOUR),
        _ if seconds < 2 * DAY => "1 day".to_owned(),
        _ => format!("{} days", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relative(time: &str, now: &str) -> String {
        Moment::of(time.parse().unwrap(), now.parse().unwrap()).relative
    }

    #[test]
    fn a_time_is_shown_in_its_largest_unit() {
        let now = "2026-04-04T14:32:10Z";
        let shown = [
            "2026-04-04T14:32:10Z",
            "2026-04-04T14:32:00Z",
            "2026-04-04T14:31:59Z",
            "2026-04-04T14:29:00Z",
            "2026-04-04T12:00:00Z",
            "2026-04-03T12:00:00Z",
            "2026-03-04T12:00:00Z",
        ]
        .map(|time| relative(time, now));
        let expected = ["just now", "just now", "1 min ago", "3 min ago", "2 h ago", "1 day ago", "31 days ago"];
        assert_eq!(shown, expected);
        let shown = ["2026-04-04T14:32:40Z", "2026-04-04T14:35:10Z", "2026-04-06T15:00:00Z"];
        assert_eq!(shown.map(|time| relative(time, now)), ["in under 1 min", "in 3 min", "in 2 days"]);
    }

    #[test]
    fn a_time_changes_once_a_minute_only() {
        let at_second = |second: u32| relative("2026-04-04T14:25:37Z", &format!("2026-04-04T14:32:{second:02}Z"));
        assert!((0..60).all(|second| at_second(second) == "7 min ago"), "{}", at_second(0));
        assert_eq!(relative("2026-04-04T14:25:37Z", "2026-04-04T14:33:00Z"), "8 min ago");
    }

    #[test]
    fn the_exact_time_is_beside_it() {
        let moment = Moment::of("2026-04-04T14:25:37Z".parse().unwrap(), Timestamp::now());
        assert_eq!(moment.iso, "2026-04-04T14:25:37Z");
        assert!(moment.exact.starts_with("2026-04-0") && moment.exact.ends_with(":37"), "{}", moment.exact);
    }
}
