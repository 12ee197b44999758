//! The last hour as small line charts, each with its numbers as text.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::background::scope::Scope;
use crate::log_text::span;
use crate::metrics::{MINUTES, Metrics, Minute};

/// The height of a chart, in its own units. Its width is one unit for each minute.
const HEIGHT: u64 = 24;

/// A chart of the last hour.
#[derive(Clone, PartialEq, Serialize)]
pub(super) struct Sparkline {
    title: &'static str,
    /// The number for the whole hour.
    value: String,
    /// The meaning of the number, if it is not a count.
    note: &'static str,
    is_bad: bool,
    /// The line, and the area below it, as paths of an SVG.
    line: String,
    area: String,
    /// The chart in words.
    text: String,
}

/// Returns the charts of this process; none if the application has not started.
pub(super) fn last_hour(scope: &Scope, has_jobs: bool) -> Vec<Sparkline> {
    let Some(metrics) = scope.get::<Arc<Metrics>>() else { return Vec::new() };
    let hour = metrics.last_hour();
    let of = |value: fn(&Minute) -> u64| -> [u64; MINUTES] { std::array::from_fn(|at| value(&hour[at])) };
    let failures = of(|minute| minute.failed_requests + minute.failed_attempts);
    let mut charts =
        vec![Sparkline::sum("Requests", &of(|minute| minute.requests)), Sparkline::sum("Failures", &failures)];
    charts[1].is_bad = failures.iter().any(|count| *count > 0);
    if has_jobs {
        charts.push(Sparkline::sum("Jobs ended", &of(|minute| minute.resolved_jobs)));
        charts.push(Sparkline::longest("Longest wait of a job", &of(|minute| minute.queue_latency)));
    }
    charts
}

impl Sparkline {
    fn sum(title: &'static str, values: &[u64; MINUTES]) -> Sparkline {
        let (all, most) = (values.iter().sum::<u64>(), values.iter().max().copied().unwrap_or(0));
        let text = format!("{title} in each minute of the last hour: {all} in all, at most {most} in a minute");
        Sparkline::new(title, (all.to_string(), ""), values, text)
    }

    fn longest(title: &'static str, values: &[u64; MINUTES]) -> Sparkline {
        let shown = |ms: u64| span(Duration::from_millis(ms)).to_string();
        let (most, last) = (values.iter().max().copied().unwrap_or(0), values[MINUTES - 1]);
        let text =
            format!("{title} in each minute of the last hour: at most {}, {} in this minute", shown(most), shown(last));
        Sparkline::new(title, (shown(most), "at most"), values, text)
    }

    fn new(
        title: &'static str,
        (value, note): (String, &'static str),
        values: &[u64; MINUTES],
        text: String,
    ) -> Sparkline {
        let line = line(values);
        let area = format!("{line}V{HEIGHT}H0Z");
        Sparkline { title, value, note, is_bad: false, line, area, text }
    }
}

/// Returns the path through the values. The largest one is at the top, and a chart of zeros is at the bottom.
fn line(values: &[u64; MINUTES]) -> String {
    let most = u128::from(values.iter().max().copied().unwrap_or(0).max(1));
    let mut path = String::new();
    for (minute, value) in values.iter().enumerate() {
        // A unit at both ends is for the width of the line.
        let height = u128::from(*value) * u128::from(HEIGHT - 2) / most;
        let _ = write!(path, "{}{minute} {}", if minute == 0 { 'M' } else { 'L' }, u128::from(HEIGHT - 1) - height);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_is_scaled_to_its_largest_value() {
        let mut values = [0; MINUTES];
        assert!(line(&values).starts_with("M0 23L1 23L2 23") && line(&values).ends_with("L59 23"));
        (values[1], values[59]) = (u64::MAX, u64::MAX / 2);
        assert!(line(&values).starts_with("M0 23L1 1L2 23") && line(&values).ends_with("L59 13"), "{}", line(&values));
    }

    #[test]
    fn a_chart_has_its_numbers_as_text() {
        let mut values = [0; MINUTES];
        (values[3], values[59]) = (4, 1_500);
        let requests = Sparkline::sum("Requests", &values);
        let expected = "Requests in each minute of the last hour: 1504 in all, at most 1500 in a minute";
        assert_eq!((&*requests.value, &*requests.text), ("1504", expected));
        let wait = Sparkline::longest("Wait", &values);
        assert_eq!(&*wait.value, "1.5 s");
        assert!(wait.text.ends_with("at most 1.5 s, 1.5 s in this minute"), "{}", wait.text);
    }
}
