//! The figures of the scenario `tail` as tables.

use std::fmt::Write;

use crate::report::{Spread, wrongs};
use crate::tail::{After, Left, Row, Tail};

/// The peer that others are compared with.
const BASE: &str = "axum";

impl Tail {
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        self.summary(&mut text);
        for (title, starts) in [("Text", "text"), ("Page", "page"), ("Order", "order"), ("Burst", "a burst")] {
            self.table(&mut text, title, starts);
        }
        self.left(&mut text);
        self.goals(&mut text);
        for (name, reason) in &self.absent {
            let _ = writeln!(text, "\nNot there: **{name}**: {reason}");
        }
        text
    }

    /// The rates and the slowest responses side by side, as in the README.
    fn summary(&self, text: &mut String) {
        let peers = distinct(self.afters.iter().map(|after| after.peer));
        let bars = "---|".repeat(peers.len());
        let _ = writeln!(text, "\n### Requests/s; p50, p99, p99.9 ms\n\n| | {} |\n|---|{bars}", peers.join(" | "));
        for what in distinct(self.rows.iter().map(|row| row.what.as_str())) {
            let cell = |peer: &&str| {
                let Some(rate) = self.median(peer, what, |row| row.rate) else { return String::new() };
                let median = |of: fn(&Row) -> f64| ms(self.median(peer, what, of).unwrap_or(f64::NAN));
                let [p50, p99, p999] =
                    [median(|row| row.times.p50), median(|row| row.times.p99), median(|row| row.times.p999)];
                format!("{}; {p50}, {p99}, {p999}", thousands(rate))
            };
            let cells: Vec<String> = peers.iter().map(cell).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let _ = writeln!(text, "| {what} | {} |", cells.join(" | "));
            }
        }
        let most = self.rows.iter().map(|row| row.others * 100.0).fold(0.0, f64::max);
        let _ = writeln!(text, "\nOther processes took up to {most:.0} % of a core during a load.");
    }

    fn table(&self, text: &mut String, title: &str, starts: &str) {
        let _ = writeln!(
            text,
            "\n### {title}\n\n\
             | Connections | | Requests/s | Of {BASE}'s | p50 ms | p99 ms (rounds) | p99.9 ms | p99 as wrk reports it | \
             Generator late, p99 ms | CPU µs | Threads at most | MiB at most | Others' CPU at most | Tasks | Wrong |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"
        );
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for what in distinct(self.rows.iter().map(|row| row.what.as_str()).filter(|what| what.starts_with(starts))) {
            for peer in distinct(self.rows.iter().filter(|row| row.what == what).map(|row| row.peer)) {
                seen.push((what, peer));
            }
        }
        for (what, peer) in seen {
            let median = |of: fn(&Row) -> f64| self.median(peer, what, of).unwrap_or(f64::NAN);
            let p99 = Spread::all(self.of(peer, what).map(|row| row.times.p99 / 1e3).collect());
            let (low, high) = p99.map_or((f64::NAN, f64::NAN), |p99| (p99.low, p99.high));
            let _ = writeln!(
                text,
                "| {} | {peer} | {:.0} | {} | {} | {} ({} to {}) | {} | {} | {} | {:.1} | {:.0} | {:.1} | {:.0} % | {} | {} |",
                what.split_once(", ").map_or(what, |(_, rest)| rest),
                median(|row| row.rate),
                self.ratio(peer, what).map_or(String::new(), |ratio| format!("{ratio:.2}")),
                ms(median(|row| row.times.p50)),
                ms(median(|row| row.times.p99)),
                ms(low * 1e3),
                ms(high * 1e3),
                ms(median(|row| row.times.p999)),
                ms(median(|row| row.as_wrk.p99)),
                ms(median(|row| row.late)),
                median(|row| row.processor),
                median(|row| row.threads as f64),
                median(|row| row.resident as f64 / 1024.0),
                self.of(peer, what).map(|row| row.others * 100.0).fold(0.0, f64::max),
                self.tasks(peer, what),
                wrongs(self.of(peer, what).map(|row| &row.wrongs)),
            );
        }
    }

    /// The progress of busy tasks, or how long the tasks of orders ran after the last answer.
    fn tasks(&self, peer: &str, what: &str) -> String {
        let median = |of: fn(&Row) -> f64| self.median(peer, what, of).unwrap_or(0.0);
        let (work, pause, lag) = (median(|row| row.work), median(|row| row.pause), median(|row| row.lag));
        match what {
            _ if work > 0.0 || what.contains("busy") => format!("{work:.0} ms/s, longest pause {pause:.0} ms"),
            _ if lag > 0.0 => format!("done after {lag:.0} ms"),
            _ => String::new(),
        }
    }

    fn left(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "\n### Threads, and resident MiB\n\n\
             | | Started | After the series | 1 s after the burst | 10 s after the burst |\n|---|---|---|---|---|"
        );
        for peer in distinct(self.afters.iter().map(|after| after.peer)) {
            let of = |which: fn(&After) -> Left| {
                let all = || self.afters.iter().filter(|after| after.peer == peer).map(which);
                let median = |numbers: Vec<f64>| Spread::of(numbers).map_or(f64::NAN, |spread| spread.median);
                let threads = median(all().map(|left| left.threads as f64).collect());
                format!("{threads:.0}, {:.1}", median(all().map(|left| left.resident as f64 / 1024.0).collect()))
            };
            let [started, series, soon, later] =
                [of(|after| after.started), of(|after| after.series), of(|after| after.soon), of(|after| after.later)];
            let _ = writeln!(text, "| {peer} | {started} | {series} | {soon} | {later} |");
        }
    }

    /// The aims, with the medians.
    fn goals(&self, text: &mut String) {
        let _ = writeln!(text, "\n### Goals\n\n| | | Figure | Aim | | As wrk reports it |\n|---|---|---|---|---|---|");
        for (peer, text_rate, page_rate, order_rate) in
            [("aside epoll", 1.05, 1.05, 1.6), ("aside tiny_http", 0.6, 0.9, 0.0)]
        {
            if self.of(peer, "text, 32").next().is_none() {
                continue;
            }
            for (what, aim) in [("text, 32", text_rate), ("page, 32", page_rate), ("order, 32", order_rate)] {
                let Some(ratio) = self.ratio(peer, what).filter(|_| aim > 0.0) else { continue };
                let aim_text = format!("{aim} of {BASE}'s");
                let _ = writeln!(
                    text,
                    "| {peer} | {what}, requests/s | {ratio:.2} | {aim_text} | {} | |",
                    met(ratio >= aim)
                );
            }
            for what in ["text, 32", "page, 32", "page, 4", "order, 32", "order, 32, after 256"] {
                self.p99_goal(text, peer, what, None);
            }
            self.p99_goal(text, peer, "text, 32, a fresh server's first second", None);
            self.p99_goal(text, peer, "page, 4, beside two busy tasks", Some(1_000.0));
            let threads = self.rows.iter().filter(|row| row.peer == peer && row.what.starts_with("order"));
            let threads = threads.map(|row| row.threads).max().unwrap_or(0);
            let _ =
                writeln!(text, "| {peer} | orders, threads at most | {threads} | 100 | {} | |", met(threads <= 100));
            let resident = self.afters.iter().filter(|after| after.peer == peer).map(|after| after.series.resident);
            let resident = Spread::of(resident.map(|kib| kib as f64 / 1e6 * 1024.0).collect());
            if let Some(resident) = resident {
                let is_met = resident.median <= 20.0;
                let _ = writeln!(
                    text,
                    "| {peer} | resident after the series, MB | {:.1} | 20 | {} | |",
                    resident.median,
                    met(is_met)
                );
            }
        }
    }

    /// A limit in microseconds, or the time that the base needs.
    fn p99_goal(&self, text: &mut String, peer: &str, what: &str, aim: Option<f64>) {
        let of = |peer: &str, of: fn(&Row) -> f64| self.median(peer, what, of);
        let figures = |of_row: fn(&Row) -> f64| Some((of(peer, of_row)?, aim.or_else(|| of(BASE, of_row))?));
        let Some((figure, most)) = figures(|row| row.times.p99) else { return };
        let as_wrk = figures(|row| row.as_wrk.p99).map_or(String::new(), |(figure, most)| {
            format!("{} against {}: {}", ms(figure), ms(most), met(figure <= most))
        });
        let _ = writeln!(
            text,
            "| {peer} | {what}, p99 ms | {} | {} | {} | {as_wrk} |",
            ms(figure),
            ms(most),
            met(figure <= most)
        );
    }

    fn of(&self, peer: &str, what: &str) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.peer == peer && row.what == what)
    }

    fn median(&self, peer: &str, what: &str, of: fn(&Row) -> f64) -> Option<f64> {
        Spread::of(self.of(peer, what).map(of).collect()).map(|spread| spread.median)
    }

    /// The median of the ratios of the rates in the same round.
    fn ratio(&self, peer: &str, what: &str) -> Option<f64> {
        let ratio = |row: &Row| {
            let base = self.of(BASE, what).find(|base| base.round == row.round)?;
            (base.rate > 0.0).then_some(row.rate / base.rate)
        };
        Spread::of(self.of(peer, what).filter_map(ratio).collect()).map(|spread| spread.median)
    }
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

/// Microseconds as milliseconds with two significant digits.
fn ms(micros: f64) -> String {
    match micros / 1e3 {
        ms if ms < 1.0 => format!("{ms:.2}"),
        ms if ms < 10.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// A rate such as 123,456.
fn thousands(rate: f64) -> String {
    let rate = rate.round() as u64;
    match (rate / 1_000, rate % 1_000) {
        (0, rest) => rest.to_string(),
        (thousands, rest) => format!("{thousands},{rest:03}"),
    }
}

fn distinct<'n>(names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let mut all = Vec::new();
    names.for_each(|name| {
        if !all.contains(&name) {
            all.push(name);
        }
    });
    all
}
