//! The text format of Prometheus, version 0.0.4.

use std::fmt::{Display, Write};

/// The media type of the format.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A text that is being written.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family of series.
    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// Writes a family with a single series, without labels.
    pub(super) fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// Writes the value of one series.
    pub(super) fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        let mut separator = '{';
        for (label, value) in labels {
            self.write(format_args!("{separator}{label}=\"{}\"", Escaped(value)));
            separator = ',';
        }
        let end = if labels.is_empty() { "" } else { "}" };
        self.write(format_args!("{end} {value}\n"));
    }

    /// Writes a histogram. `counts` has one entry for each bound, and one for all that is larger.
    pub(super) fn histogram(&mut self, name: &str, labels: &[(&str, &str)], bounds: &[&str], counts: &[u64], sum: f64) {
        let mut below = 0;
        for (bound, count) in bounds.iter().chain(&["+Inf"]).zip(counts) {
            below += count;
            let labels: Vec<_> = labels.iter().copied().chain([("le", *bound)]).collect();
            self.sample(&format!("{name}_bucket"), &labels, below);
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, below);
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }

    fn write(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a `String` cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

/// The value of a label. Without the escapes a quotation mark or a line break would end it.
struct Escaped<'v>(&'v str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '\\' => f.write_str("\\\\"),
            '"' => f.write_str("\\\""),
            '\n' => f.write_str("\\n"),
            c => f.write_char(c),
        })
    }
}

/// Returns nanoseconds in seconds.
pub(super) fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_labels_are_escaped() {
        let mut text = Text::default();
        text.sample("a_total", &[("name", "a\"} 1\nb_total{x=\"\\n\r"), ("b", "é")], 2);
        assert_eq!(text.into_string(), "a_total{name=\"a\\\"} 1\\nb_total{x=\\\"\\\\n\r\",b=\"é\"} 2\n");
    }

    #[test]
    fn the_buckets_of_a_histogram_are_cumulative() {
        let mut text = Text::default();
        text.family("d_seconds", "histogram", "Durations.");
        text.histogram("d_seconds", &[("name", "x")], &["0.1", "1"], &[2, 0, 3], 1.5);
        let expected = "# HELP d_seconds Durations.\n# TYPE d_seconds histogram\n\
            d_seconds_bucket{name=\"x\",le=\"0.1\"} 2\nd_seconds_bucket{name=\"x\",le=\"1\"} 2\n\
            d_seconds_bucket{name=\"x\",le=\"+Inf\"} 5\nd_seconds_sum{name=\"x\"} 1.5\nd_seconds_count{name=\"x\"} 5\n";
        assert_eq!(text.into_string(), expected);
    }
}
