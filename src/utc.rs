//! Times in UTC as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// Writes a time in whole seconds: `2026-04-04 14:32:01`, with `separator` between the date and the time. Returns `None`
/// for a time before 1970 and from the year 10,000 on.
pub(crate) fn written(time: SystemTime, separator: char) -> Option<String> {
    let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
    let (year, month, day) = date(seconds / 86_400)?;
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    Some(format!("{year:04}-{month:02}-{day:02}{separator}{hour:02}:{minute:02}:{second:02}"))
}

/// Returns the date of a day, which counts from 1970-01-01. Years begin with March here, so that the leap day is the last
/// of a year, and cycles of 400 years have the same days.
fn date(day: u64) -> Option<(u64, u64, u64)> {
    let day = day.checked_add(719_468)?; // from 0000-03-01
    let (cycle, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
    let year = cycle * 400 + year;
    (year < 10_000).then_some((year, month, day))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> Option<String> {
        written(UNIX_EPOCH + Duration::from_secs(seconds), ' ')
    }

    #[test]
    fn known_times_are_written_in_utc() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_775_313_121, "2026-04-04 14:32:01"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
        ] {
            assert_eq!(at(seconds).as_deref(), Some(expected));
        }
        assert_eq!(at(253_402_300_800), None);
        assert_eq!(written(UNIX_EPOCH - Duration::from_secs(1), 'T'), None);
    }

    #[cfg(feature = "local-time")]
    #[test]
    fn each_day_of_400_years_is_the_one_that_jiff_computes() {
        for day in 0..146_097 {
            let seconds = day * 86_400 + 86_399;
            let expected = jiff::Timestamp::from_second(seconds).unwrap().strftime("%Y-%m-%d %H:%M:%S").to_string();
            assert_eq!(at(seconds as u64), Some(expected));
        }
    }
}
