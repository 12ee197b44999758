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
mod tests;
