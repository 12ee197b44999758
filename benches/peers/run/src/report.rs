//! The figures as tables.

use std::fmt::Write;

use serde::Serialize;

use crate::measure::{BESIDE, Beside, Idle, Latency, Slot, Wrongs};
use crate::peers::{PAGES, PEERS, Page, Peer};

/// The peer that others are compared with where the work may block.
const BLOCKING: &str = "axum, spawn_blocking";

/// All that was measured.
#[derive(Serialize)]
pub struct Results {
    pub machine: String,
    pub settings: String,
    pub connections: Vec<usize>,
    pub slots: Vec<Slot>,
    pub latencies: Vec<Latency>,
    pub idles: Vec<Idle>,
    /// Who was not there, and why.
    pub absent: Vec<(String, String)>,
}

/// A median with its middle half.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(mut numbers: Vec<f64>) -> Option<Spread> {
        numbers.sort_by(f64::total_cmp);
        let last = numbers.len().checked_sub(1)?;
        // A quantile between two figures is interpolated.
        let at = |part: f64| {
            let place = last as f64 * part;
            let (below, above) = (numbers[place as usize], numbers[place.ceil() as usize]);
            below + (above - below) * place.fract()
        };
        Some(Spread { low: at(0.25), median: at(0.5), high: at(0.75) })
    }
}

impl Spread {
    /// The median with the lowest and the highest.
    pub fn all(numbers: Vec<f64>) -> Option<Spread> {
        let low = numbers.iter().copied().reduce(f64::min)?;
        let high = numbers.iter().copied().reduce(f64::max)?;
        Some(Spread { low, high, ..Spread::of(numbers)? })
    }
}

impl Results {
    /// What all others are compared with: axum, or the first when it was not there.
    pub fn base(&self) -> &'static str {
        let is_there = |name: &str| self.slots.iter().any(|slot| slot.peer == name);
        let first = PEERS.iter().find(|peer| is_there(peer.name)).map_or("axum", |peer| peer.name);
        if is_there("axum") { "axum" } else { first }
    }

    fn of(&self, peer: &str, page: Page, connections: usize) -> Vec<&Slot> {
        let is_of = |slot: &&Slot| slot.peer == peer && slot.page == page && slot.connections == connections;
        self.slots.iter().filter(is_of).collect()
    }

    /// Rates against another's in the same round.
    pub fn ratio(&self, peer: &str, to: &str, page: Page, connections: usize) -> Option<Spread> {
        let (ours, theirs) = (self.of(peer, page, connections), self.of(to, page, connections));
        let ratio = |slot: &&Slot| {
            let other = theirs.iter().find(|other| other.round == slot.round)?;
            (other.rate > 0.0).then_some(slot.rate / other.rate)
        };
        Spread::of(ours.iter().filter_map(ratio).collect())
    }

    pub fn median(&self, peer: &str, page: Page, connections: usize, of: impl Fn(&Slot) -> f64) -> Option<f64> {
        Spread::of(self.of(peer, page, connections).into_iter().map(of).collect()).map(|spread| spread.median)
    }

    fn latency(&self, peer: &str, beside: Beside, of: impl Fn(&Latency) -> f64) -> Option<Spread> {
        let is_of = |latency: &&Latency| latency.peer == peer && latency.beside == beside;
        Spread::of(self.latencies.iter().filter(is_of).map(of).collect())
    }

    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n\n{}\n", self.machine, self.settings);
        for connections in &self.connections {
            for page in PAGES {
                self.table(&mut text, page, *connections);
            }
            self.blocking_table(&mut text, *connections);
        }
        self.latency_table(&mut text);
        self.idle_table(&mut text);
        self.goals(&mut text);
        for (name, reason) in &self.absent {
            let _ = writeln!(text, "\nNot there: **{name}**: {reason}");
        }
        text
    }

    fn table(&self, text: &mut String, page: Page, connections: usize) {
        let (base, s) = (self.base(), if connections == 1 { "" } else { "s" });
        let _ = writeln!(
            text,
            "\n### {}, {connections} connection{s}\n\n\
             | | Requests/s | Of {base}'s (middle half) | p50 µs | p99 µs | p99.9 µs | CPU µs/request | Peak MiB | Wrong |\n\
             |---|---|---|---|---|---|---|---|---|",
            page.title()
        );
        for peer in &PEERS {
            let median = |of: fn(&Slot) -> f64| self.median(peer.name, page, connections, of).unwrap_or(f64::NAN);
            let Some(ratio) = self.ratio(peer.name, base, page, connections) else { continue };
            let _ = writeln!(
                text,
                "| {} | {:.0} | {} | {:.0} | {:.0} | {:.0} | {:.1} | {:.1} | {} |",
                label(peer, page),
                median(|slot| slot.rate),
                spread(ratio),
                median(|slot| slot.times.p50),
                median(|slot| slot.times.p99),
                median(|slot| slot.times.p999),
                median(|slot| slot.processor),
                median(|slot| slot.peak as f64 / 1024.0),
                wrongs(self.of(peer.name, page, connections).into_iter().map(|slot| &slot.wrongs)),
            );
        }
    }

    /// The form where the work may block, as ratios to axum's `spawn_blocking`: the figures of the README.
    fn blocking_table(&self, text: &mut String, connections: usize) {
        let ratio = |peer: &Peer| self.ratio(peer.name, BLOCKING, Page::Form, connections);
        let rows = PEERS.iter().filter(|peer| peer.is_blocking).filter_map(|peer| Some((peer.name, ratio(peer)?)));
        let rows: String = rows.map(|(name, ratio)| format!("| {name} | {} |\n", spread(ratio))).collect();
        if !rows.is_empty() {
            let _ = write!(
                text,
                "\n### Form post, work that may block, at {connections}\n\n| | Of {BLOCKING}'s (middle half) |\n|---|---|\n{rows}"
            );
        }
    }

    fn latency_table(&self, text: &mut String) {
        if self.latencies.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "\n### The template page at one request every 2 ms, p99 in µs\n\n\
             | | Nothing beside it | A busy task per core | Times | Photos resized on every core | Times | Photos/s | Generator late, p99 µs | Wrong |\n\
             |---|---|---|---|---|---|---|---|---|"
        );
        for peer in &PEERS {
            let p99 = |beside| self.latency(peer.name, beside, |latency| latency.times.p99);
            let [Some(idle), busy, photos] = BESIDE.map(p99) else { continue };
            let figure = |p99: Option<Spread>| p99.map_or("".into(), micros);
            let times =
                |p99: Option<Spread>| p99.map_or(String::new(), |p99| format!("{:.1}", p99.median / idle.median));
            let work = self.latency(peer.name, Beside::Photos, |latency| latency.work);
            let of_it = || self.latencies.iter().filter(|latency| latency.peer == peer.name);
            let late = Spread::of(of_it().map(|latency| latency.late).collect());
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {:.0} | {} |",
                peer.name,
                micros(idle),
                figure(busy),
                times(busy),
                figure(photos),
                times(photos),
                work.map_or(String::new(), |work| format!("{:.1}", work.median)),
                late.map_or(f64::NAN, |late| late.median),
                wrongs(of_it().map(|latency| &latency.wrongs)),
            );
        }
    }

    fn idle_table(&self, text: &mut String) {
        let Some(first) = self.idles.first() else { return };
        let _ = writeln!(
            text,
            "\n### {} idle connections, each answered once and kept\n\n\
             | | Answered | Still open | Resident MiB, before and with them | Of that its own (PSS) | Each KiB | Threads | A page then, µs |\n\
             |---|---|---|---|---|---|---|---|",
            first.wanted
        );
        for idle in &self.idles {
            let grown = idle.after.proportional.saturating_sub(idle.before.proportional) as f64;
            let each = if idle.open == 0 { "".into() } else { format!("{:.1}", grown / idle.open as f64) };
            let why = idle.why.as_ref().map_or(String::new(), |why| format!(" ({why})"));
            let [before, after, own] =
                [idle.before.resident, idle.after.resident, idle.after.proportional].map(|kib| kib as f64 / 1024.0);
            let _ = writeln!(
                text,
                "| {} | {}{why} | {} | {before:.1}, {after:.1} | {own:.1} | {each} | {} | {} |",
                idle.peer,
                idle.answered,
                idle.open,
                idle.after.threads,
                idle.page.map_or("no answer".into(), |page| format!("{page:.0}")),
            );
        }
    }

    /// The aims of the project, with the figures.
    fn goals(&self, text: &mut String) {
        let at = if self.connections.contains(&32) { 32 } else { self.connections.first().copied().unwrap_or(32) };
        let mut goals = Vec::new();
        for name in ["aside epoll", "aside epoll, no access log"] {
            for page in [Page::Plain, Page::Template] {
                let ratio = self.ratio(name, "axum", page, at);
                goals.push((
                    format!("{name}, {}: at least 1.0 of axum", page.title()),
                    ratio.map(|ratio| (ratio.median >= 1.0, spread(ratio))),
                ));
            }
        }
        let others = PEERS.iter().filter(|peer| !peer.is_aside() && peer.is_blocking);
        for other in others {
            if let Some(ratio) = self.ratio("aside epoll", other.name, Page::Form, at) {
                goals
                    .push((format!("epoll, form: ahead of {}", other.name), Some((ratio.median > 1.0, spread(ratio)))));
            }
        }
        for name in ["aside epoll", "aside tiny_http"] {
            let p99 = |beside| self.latency(name, beside, |latency| latency.times.p99);
            let busy = p99(Beside::BusyTasks).map(|p99| (p99.median < 1_000.0, format!("{} µs", micros(p99))));
            goals.push((format!("{name}, page beside busy tasks: p99 under 1 ms"), busy));
            let times = p99(Beside::Photos).zip(p99(Beside::Nothing)).map(|(photos, idle)| photos.median / idle.median);
            let photos = times.map(|times| (times <= 2.0, format!("{times:.1}")));
            goals.push((format!("{name}, page beside photos: p99 at most 2 times idle"), photos));
        }
        for page in PAGES {
            for bare in ["tiny_http", "tiny_http, raw"] {
                let ratio = self.ratio("aside tiny_http", bare, page, at);
                let words = format!("tiny_http, {}: at least 0.9 of {bare}", page.title());
                goals.push((words, ratio.map(|ratio| (ratio.median >= 0.9, spread(ratio)))));
            }
        }
        let _ = writeln!(text, "\n### Goals, at {at} connections\n\n| | | |\n|---|---|---|");
        for (words, came) in goals {
            let (is_met, figure) = came.map_or(("not measured", String::new()), |(is_met, figure)| {
                (if is_met { "met" } else { "**missed**" }, figure)
            });
            let _ = writeln!(text, "| {words} | {figure} | {is_met} |");
        }
    }
}

fn label(peer: &Peer, page: Page) -> String {
    match (peer.is_blocking, page) {
        (false, Page::Form) => format!("{}, an async task", peer.name),
        _ => peer.name.to_owned(),
    }
}

fn spread(spread: Spread) -> String {
    format!("{:.2} ({:.2} to {:.2})", spread.median, spread.low, spread.high)
}

fn micros(spread: Spread) -> String {
    format!("{:.0} ({:.0} to {:.0})", spread.median, spread.low, spread.high)
}

/// Sums of what went wrong, or nothing.
pub fn wrongs<'w>(all: impl Iterator<Item = &'w Wrongs>) -> String {
    let (mut sums, mut first) = ([0_i64; 6], None);
    for wrongs in all {
        let these = [wrongs.silent as i64, wrongs.unanswered as i64, wrongs.wrong as i64, wrongs.broken as i64];
        sums.iter_mut().zip(these).for_each(|(sum, these)| *sum += these);
        sums[4] += wrongs.lost_tasks.abs();
        sums[5] += wrongs.late_openings as i64;
        first = first.or(wrongs.first_wrong.as_ref());
    }
    let names = [
        "connections without any answer",
        "unanswered",
        "wrong",
        "broken",
        "tasks lost or too many",
        "opened after more than 0.5 s",
    ];
    let told = sums.iter().zip(names).filter(|(sum, _)| **sum > 0).map(|(sum, name)| format!("{sum} {name}"));
    told.chain(first.map(|words| format!("first: {words}"))).collect::<Vec<_>>().join(", ")
}
