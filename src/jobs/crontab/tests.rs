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
    let spring =
        |crontab: &str| runs(&format!("{crontab} Australia/Lord_Howe"), "2027-10-02T13:30:00Z", "2027-10-02T18:00:00Z");
    assert_eq!(spring("15 2 * * *"), ["02T15:30"]);
    assert_eq!(spring("45 2 * * *"), ["02T15:45"]);
    assert_eq!(spring("*/30 * * * *").len(), 9);
    // Of the hour from two to three only the second half exists.
    assert_eq!(spring("15 * * * *"), ["02T13:45", "02T14:45", "02T15:30", "02T16:15", "02T17:15"]);
    // 02:00 becomes 01:30 on 4 April, at 15:00Z the day before.
    let autumn =
        |crontab: &str| runs(&format!("{crontab} Australia/Lord_Howe"), "2027-04-03T13:00:00Z", "2027-04-03T17:00:00Z");
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
    for zone in
        ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Africa/Cairo", "Asia/Beirut"]
    {
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
