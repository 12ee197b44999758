//! The times of a crontab in a time zone, across clock changes.
//!
//! The crate `cronexpr` parses the syntax. It computes times on a calendar without clock changes (UTC), which are mapped
//! here to the zone's clocks, one period of constant offset after the other:
//!
//! - **Clocks go forward**: a time in the skipped period runs once, at the moment of the change. An interval does so only
//!   if it would not run within that period after the change anyway: `15 * * * *` continues at a quarter past.
//! - **Clocks go back**: a time in the repeated period runs once, the first time. An interval runs both times.
//!
//! A crontab is an interval in the sense of cron if its minute or hour is `*`, `*/n`, or the whole range.

use cronexpr::{Crontab as Fields, MakeTimestamp};
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use crate::error::{Error, Result};

/// The end of the search for the next time. `cronexpr` would panic beyond the end of the calendar.
const FOUR_YEARS: SignedDuration = SignedDuration::from_hours(4 * 366 * 24);

/// The resolution of a crontab.
const INSTANT: SignedDuration = SignedDuration::from_nanos(1);

/// A crontab with its time zone.
#[derive(Clone)]
pub(super) struct Crontab {
    /// The fields, on a calendar where every day has 24 hours.
    fields: Fields,
    zone: TimeZone,
    is_interval: bool,
}

/// A period between two clock changes of a zone.
struct Stretch {
    begin: Timestamp,
    end: Timestamp,
    offset: Offset,
    /// The clock change at its start, forward; negative if the clocks went back.
    step: SignedDuration,
}

impl Crontab {
    /// Parses a crontab: `0 3 * * * Europe/Berlin`.
    ///
    /// # Errors
    /// An error if it is malformed or names an unknown zone.
    pub(super) fn parse(text: &str) -> Result<Crontab> {
        let wrong = |error: cronexpr::Error| {
            let expected = "is not a crontab with a time zone, such as `0 3 * * * Europe/Berlin` (minute, hour, day, month, weekday, zone)";
            Error::internal(format!("`{text}` {expected}")).with_source(error)
        };
        cronexpr::parse_crontab(text).map_err(wrong)?;
        let words: Vec<&str> = text.split_ascii_whitespace().collect();
        let [fields @ .., zone] = &words[..] else { return Err(Error::internal("a crontab without fields")) };
        let fields = cronexpr::parse_crontab(&format!("{} UTC", fields.join(" "))).map_err(wrong)?;
        let any = cronexpr::parse_crontab(&format!("* * * * * {zone}")).map_err(wrong)?;
        let zone = any.find_next(MakeTimestamp(Timestamp::UNIX_EPOCH)).map_err(wrong)?.time_zone().clone();
        Ok(Crontab { fields, zone, is_interval: is_whole(words[0], "0-59") || is_whole(words[1], "0-23") })
    }

    /// Returns the first time after the given one.
    ///
    /// # Errors
    /// An error if there is none within four years.
    pub(super) fn after(&self, time: Timestamp) -> Result<Timestamp> {
        let mut stretch = self.stretch_at(time);
        let mut from = time;
        loop {
            let next = self.on_clock(from.max(self.done_until(&stretch)?), stretch.offset)?;
            if next < stretch.end {
                return Ok(next);
            }
            stretch = self.stretch_at(stretch.end);
            if self.is_made_up_at(&stretch)? {
                return Ok(stretch.begin);
            }
            from = moved(stretch.begin, -INSTANT)?;
        }
    }

    /// Returns the last instant at the start of a period that can be skipped: where the clocks repeat a time, its runs have
    /// already happened.
    fn done_until(&self, stretch: &Stretch) -> Result<Timestamp> {
        let is_repeated = stretch.step.is_negative() && !self.is_interval;
        if is_repeated { moved(stretch.begin, -stretch.step - INSTANT) } else { Ok(Timestamp::MIN) }
    }

    /// Returns true if a time fell into the skipped period before this one, and must run at its start.
    fn is_made_up_at(&self, stretch: &Stretch) -> Result<bool> {
        if !stretch.step.is_positive() {
            return Ok(false);
        }
        let (before, until) = (moved(stretch.begin, -INSTANT)?, moved(stretch.begin, stretch.step)?);
        // Computed as if the clocks had not changed.
        let is_missed = self.on_clock(before, stretch.offset_before())? < until;
        let goes_on = self.is_interval && self.on_clock(before, stretch.offset)? < until;
        Ok(is_missed && !goes_on)
    }

    /// Returns the first time after the given one, on a clock with the period's offset.
    fn on_clock(&self, time: Timestamp, offset: Offset) -> Result<Timestamp> {
        let never = |error: cronexpr::Error| {
            Error::internal("the crontab has no time within the next four years").with_source(error)
        };
        let shift = SignedDuration::from_secs(offset.seconds().into());
        let from = moved(time, shift)?;
        moved(from, FOUR_YEARS)?;
        let found = self.fields.find_next(MakeTimestamp(from)).map_err(never)?;
        moved(found.timestamp(), -shift)
    }

    fn stretch_at(&self, time: Timestamp) -> Stretch {
        // A change at exactly that time starts the period.
        let up_to = moved(time, INSTANT).unwrap_or(time);
        let begin = self.zone.preceding(up_to).next().map_or(Timestamp::MIN, |change| change.timestamp());
        let end = self.zone.following(time).next().map_or(Timestamp::MAX, |change| change.timestamp());
        let offset = self.zone.to_offset(time);
        let before = moved(begin, -INSTANT).map_or(offset, |before| self.zone.to_offset(before));
        Stretch { begin, end, offset, step: before.duration_until(offset) }
    }
}

impl Stretch {
    fn offset_before(&self) -> Offset {
        self.offset.saturating_sub(self.step)
    }
}

fn moved(time: Timestamp, by: SignedDuration) -> Result<Timestamp> {
    time.checked_add(by).map_err(|error| Error::internal("the clock is out of range").with_source(error))
}

/// Returns true if a field matches every value, or every nth value of the whole range.
fn is_whole(field: &str, range: &str) -> bool {
    field.split(',').any(|item| item.starts_with('*') || item.split('/').next() == Some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// Returns all times in the half-open range, as UTC.
    fn runs(crontab: &str, from: &str, until: &str) -> Vec<String> {
        let (crontab, until) = (Crontab::parse(crontab).unwrap(), at(until));
        let mut last = moved(at(from), -INSTANT).unwrap();
        let next = std::iter::from_fn(|| {
            last = crontab.after(last).unwrap();
            (last < until).then_some(last)
        });
        next.map(|time| time.strftime("%dT%H:%M").to_string()).collect()
    }

    /// On the day of the spring change, 02:00 becomes 03:00 at 01:00Z.
    fn spring_in_berlin(crontab: &str) -> Vec<String> {
        runs(&format!("{crontab} Europe/Berlin"), "2027-03-27T23:00:00Z", "2027-03-28T05:00:00Z")
    }

    /// On the day of the autumn change, 03:00 becomes 02:00 at 01:00Z.
    fn autumn_in_berlin(crontab: &str) -> Vec<String> {
        runs(&format!("{crontab} Europe/Berlin"), "2027-10-30T22:00:00Z", "2027-10-31T04:00:00Z")
    }

    #[test]
    fn a_time_in_the_missing_hour_runs_once_after_it() {
        assert_eq!(spring_in_berlin("30 2 * * *"), ["28T01:00"]);
        assert_eq!(spring_in_berlin("0 2 * * *"), ["28T01:00"]);
        assert_eq!(spring_in_berlin("0,30,59 2 * * *"), ["28T01:00"]);
        assert_eq!(spring_in_berlin("30 1,2,3 * * *"), ["28T00:30", "28T01:00", "28T01:30"]);
        assert_eq!(spring_in_berlin("0 1-4 * * *"), ["28T00:00", "28T01:00", "28T02:00"]);
        assert_eq!(spring_in_berlin("0 3 * * *"), ["28T01:00"]);
        assert_eq!(spring_in_berlin("30 3 * * *"), ["28T01:30"]);
        assert_eq!(spring_in_berlin("59 1 * * *"), ["28T00:59"]);
    }

    #[test]
    fn a_weekly_schedule_in_the_missing_hour_does_not_lose_the_week() {
        let sundays = runs("30 2 * * SUN Europe/Berlin", "2027-03-20T00:00:00Z", "2027-04-06T00:00:00Z");
        assert_eq!(sundays, ["21T01:30", "28T01:00", "04T00:30"]);
        let years = runs("15 2 28 3 * Europe/Berlin", "2026-01-01T00:00:00Z", "2029-01-01T00:00:00Z");
        assert_eq!(years, ["28T01:15", "28T01:00", "28T00:15"]);
    }

    #[test]
    fn an_interval_continues_over_the_missing_hour() {
        assert_eq!(spring_in_berlin("*/30 * * * *").len(), 12);
        assert_eq!(spring_in_berlin("* * * * *").len(), 6 * 60);
        let quarter_past = ["27T23:15", "28T00:15", "28T01:15", "28T02:15", "28T03:15", "28T04:15"];
        assert_eq!(spring_in_berlin("15 * * * *"), quarter_past);
        assert_eq!(spring_in_berlin("15 0-23 * * *"), quarter_past);
        // Every second hour is 0, 2, 4, 6, and 2 is missing.
        assert_eq!(spring_in_berlin("0 */2 * * *"), ["27T23:00", "28T01:00", "28T02:00", "28T04:00"]);
        assert_eq!(spring_in_berlin("0 */3 * * *"), ["27T23:00", "28T01:00", "28T04:00"]);
        // An interval within the missing hour only would be skipped altogether.
        assert_eq!(spring_in_berlin("*/20 2 * * *"), ["28T01:00"]);
        assert_eq!(spring_in_berlin("*/20 2-3 * * *"), ["28T01:00", "28T01:20", "28T01:40"]);
    }

    #[test]
    fn a_time_in_the_repeated_hour_runs_once() {
        assert_eq!(autumn_in_berlin("30 2 * * *"), ["31T00:30"]);
        assert_eq!(autumn_in_berlin("0 2 * * *"), ["31T00:00"]);
        assert_eq!(autumn_in_berlin("0,30,59 2 * * *"), ["31T00:00", "31T00:30", "31T00:59"]);
        assert_eq!(autumn_in_berlin("30 1,2,3 * * *"), ["30T23:30", "31T00:30", "31T02:30"]);
        assert_eq!(autumn_in_berlin("0 1-4 * * *"), ["30T23:00", "31T00:00", "31T02:00", "31T03:00"]);
        assert_eq!(autumn_in_berlin("0 3 * * *"), ["31T02:00"]);
        let sundays = runs("30 2 * * SUN Europe/Berlin", "2027-10-23T00:00:00Z", "2027-11-09T00:00:00Z");
        assert_eq!(sundays, ["24T00:30", "31T00:30", "07T01:30"]);
    }

    #[test]
    fn a_search_within_the_repeated_hour_finds_no_repetition() {
        let daily = Crontab::parse("30 2 * * * Europe/Berlin").unwrap();
        let tomorrow = at("2027-11-01T01:30:00Z");
        for asked in ["00:30", "00:59", "01:00", "01:15", "01:30", "02:00"] {
            assert_eq!(daily.after(at(&format!("2027-10-31T{asked}:00Z"))).unwrap(), tomorrow, "after {asked}");
        }
    }

    #[test]
    fn an_interval_continues_over_the_repeated_hour() {
        let half_hours = autumn_in_berlin("*/30 * * * *");
        assert_eq!(half_hours.len(), 12);
        assert_eq!(half_hours[3..8], ["30T23:30", "31T00:00", "31T00:30", "31T01:00", "31T01:30"]);
        assert_eq!(autumn_in_berlin("* * * * *").len(), 6 * 60);
        assert_eq!(autumn_in_berlin("15 * * * *").len(), 6);
        assert_eq!(autumn_in_berlin("*/30 2 * * *"), ["31T00:00", "31T00:30", "31T01:00", "31T01:30"]);
    }

    #[test]
    fn other_zones_have_other_days_and_hours() {
        let new_york = |crontab: &str, from, until| runs(&format!("{crontab} America/New_York"), from, until);
        let (spring, autumn) =
            (("2027-03-14T05:00:00Z", "2027-03-15T04:00:00Z"), ("2027-11-07T04:00:00Z", "2027-11-08T05:00:00Z"));
        assert_eq!(new_york("30 2 * * *", spring.0, spring.1), ["14T07:00"]);
        assert_eq!(new_york("30 1 * * *", autumn.0, autumn.1), ["07T05:30"]);
        assert_eq!(new_york("*/30 1 * * *", autumn.0, autumn.1), ["07T05:00", "07T05:30", "07T06:00", "07T06:30"]);
        assert_eq!(new_york("30 2 * * *", autumn.0, autumn.1), ["07T07:30"]);
        // This zone has no clock changes.
        let tokyo = runs("30 2 * * * Asia/Tokyo", "2027-03-27T00:00:00Z", "2027-03-30T00:00:00Z");
        assert_eq!(tokyo, ["27T17:30", "28T17:30", "29T17:30"]);
        let kolkata = runs("0 0 * * MON Asia/Kolkata", "2027-10-20T00:00:00Z", "2027-11-05T00:00:00Z");
        assert_eq!(kolkata, ["24T18:30", "31T18:30"]);
    }

    #[test]
    fn half_an_hour_is_missing_on_lord_howe() {
        // 02:00 becomes 02:30 on 3 October, at 15:30Z the day before.
        let spring = |crontab: &str| {
            runs(&format!("{crontab} Australia/Lord_Howe"), "2027-10-02T13:30:00Z", "2027-10-02T18:00:00Z")
        };
        assert_eq!(spring("15 2 * * *"), ["02T15:30"]);
        assert_eq!(spring("45 2 * * *"), ["02T15:45"]);
        assert_eq!(spring("*/30 * * * *").len(), 9);
        // Of the hour from two to three only the second half exists.
        assert_eq!(spring("15 * * * *"), ["02T13:45", "02T14:45", "02T15:30", "02T16:15", "02T17:15"]);
        // 02:00 becomes 01:30 on 4 April, at 15:00Z the day before.
        let autumn = |crontab: &str| {
            runs(&format!("{crontab} Australia/Lord_Howe"), "2027-04-03T13:00:00Z", "2027-04-03T17:00:00Z")
        };
        assert_eq!(autumn("45 1 * * *"), ["03T14:45"]);
        assert_eq!(autumn("15 1 * * *"), ["03T14:15"]);
        assert_eq!(autumn("45 * * * *"), ["03T13:45", "03T14:45", "03T15:15", "03T16:15"]);
    }

    #[test]
    fn midnight_may_be_missing_or_repeated() {
        let santiago = |crontab: &str, from, until| runs(&format!("{crontab} America/Santiago"), from, until);
        // 00:00 becomes 01:00 on Sunday 5 September, at 04:00Z.
        let (spring, until) = ("2027-09-04T12:00:00Z", "2027-09-06T12:00:00Z");
        assert_eq!(santiago("0 0 * * *", spring, until), ["05T04:00", "06T03:00"]);
        assert_eq!(santiago("0 0 * * SUN", spring, until), ["05T04:00"]);
        assert_eq!(santiago("30 0 5 9 *", spring, until), ["05T04:00"]);
        assert_eq!(santiago("0 12 * * *", spring, until), ["04T16:00", "05T15:00"]);
        // 24:00 becomes 23:00 on Saturday 3 April, at 03:00Z the next day.
        let (autumn, until) = ("2027-04-03T12:00:00Z", "2027-04-05T12:00:00Z");
        assert_eq!(santiago("30 23 * * *", autumn, until), ["04T02:30", "05T03:30"]);
        assert_eq!(santiago("30 23 * * SAT", autumn, until), ["04T02:30"]);
        assert_eq!(santiago("0 0 * * *", autumn, until), ["04T04:00", "05T04:00"]);
        // A whole day was skipped: 30 December 2011.
        let apia = runs("0 9 * * * Pacific/Apia", "2011-12-29T00:00:00Z", "2012-01-01T00:00:00Z");
        assert_eq!(apia, ["29T19:00", "30T10:00", "30T19:00", "31T19:00"]);
    }

    #[test]
    fn days_are_days_of_the_zone() {
        let berlin = runs("0 0 L * * Europe/Berlin", "2027-01-01T00:00:00Z", "2027-06-01T00:00:00Z");
        assert_eq!(berlin, ["30T23:00", "27T23:00", "30T22:00", "29T22:00", "30T22:00"]);
        let fixed = runs("0 12 * * * +05:30", "2027-03-28T00:00:00Z", "2027-03-29T00:00:00Z");
        assert_eq!(fixed, ["28T06:30"]);
    }

    /// Across all clock changes of several years, the times increase, and a daily job runs once on each day of the zone's
    /// calendar.
    #[test]
    fn a_daily_schedule_runs_once_a_day_in_every_zone() {
        for zone in [
            "Europe/Berlin",
            "America/New_York",
            "Australia/Lord_Howe",
            "America/Santiago",
            "Africa/Cairo",
            "Asia/Beirut",
        ] {
            for minute in ["0 0", "30 0", "59 0", "0 1", "45 1", "0 2", "15 2", "0 3", "0 23", "30 23", "59 23"] {
                let daily = Crontab::parse(&format!("{minute} * * * {zone}")).unwrap();
                let zone = TimeZone::get(zone).unwrap();
                let mut last = at("2026-06-01T12:00:00Z");
                let mut day = zone.to_datetime(daily.after(last).unwrap()).date().yesterday().unwrap();
                for _ in 0..800 {
                    let next = daily.after(last).unwrap();
                    day = day.tomorrow().unwrap();
                    assert_eq!(zone.to_datetime(next).date(), day, "{minute} in {zone:?}");
                    assert!(next > last);
                    last = next;
                }
            }
        }
    }

    #[test]
    fn impossible_and_malformed_crontabs_are_refused() {
        assert!(Crontab::parse("0 0 30 2 * UTC").unwrap().after(Timestamp::UNIX_EPOCH).is_err());
        assert!(Crontab::parse("0 0 1 1 * UTC").unwrap().after(Timestamp::MAX).is_err());
        for text in ["", "UTC", "0 3 * * *", "0 25 * * * UTC", "0 3 * * * Europe/Atlantis", "0 3 * * * * UTC"] {
            let error = Crontab::parse(text).err().expect(text).to_string();
            assert!(error.contains("is not a crontab with a time zone"), "{error}");
        }
    }
}
