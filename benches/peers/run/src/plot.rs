//! The plot for the README: bars of requests a second as ratios, a column for each page and a row for each peer.

use std::fmt::Write;

use crate::peers::{PAGES, PEERS, Page, Peer};
use crate::report::{Results, Spread};

const WIDTH: f64 = 960.0;
const LABELS: f64 = 240.0;
const COLUMN: f64 = (WIDTH - LABELS) / 3.0;
/// Of a column, for the figure right of the longest bar.
const FIGURE: f64 = 48.0;
const TOP: f64 = 92.0;
const ROW: f64 = 24.0;
const BAR: f64 = 14.0;

/// Colours for a light page and a dark one.
const STYLE: &str = "\
text { font: 13px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.small { font-size: 11.5px; fill: #59636e; }
.ours { font-weight: 600; }
.bar { fill: #a3b1c2; }
.bar.ours { fill: #0b6bcb; }
.spread { stroke: #1f2328; stroke-width: 1.2; }
.one { stroke: #59636e; stroke-width: 1; stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.small { fill: #9198a1; }
.bar { fill: #56616e; }
.bar.ours { fill: #4aa3ff; }
.spread { stroke: #e6edf3; }
.one { stroke: #9198a1; }
}";

pub fn svg(results: &Results) -> String {
    let at = if results.connections.contains(&32) { 32 } else { results.connections.first().copied().unwrap_or(32) };
    let base = results.base();
    let is_there = |peer: &&Peer| PAGES.iter().any(|page| results.ratio(peer.name, base, *page, at).is_some());
    let peers: Vec<&Peer> = PEERS.iter().filter(is_there).collect();
    let height = TOP + ROW * peers.len() as f64 + 56.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-labelledby=\"t d\">\n\
         <title id=\"t\">Requests a second, as ratios to {base}</title>\n\
         <desc id=\"d\">{}</desc>\n<style>\n{STYLE}\n</style>\n\
         <text class=\"title\" x=\"12\" y=\"26\">Requests a second at {at} connections, {base} = 1</text>\n",
        described(results, &peers, at)
    );
    for (row, peer) in peers.iter().enumerate() {
        let y = TOP + ROW * row as f64 + BAR - 2.5;
        let _ = writeln!(
            svg,
            "<text{} x=\"{}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
            if peer.is_aside() { " class=\"ours\"" } else { "" },
            LABELS - 10.0,
            peer.name
        );
    }
    for (column, page) in PAGES.into_iter().enumerate() {
        panel(&mut svg, results, &peers, page, at, LABELS + COLUMN * column as f64);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let notes = [
        "Longer is better. Bars: median of the rounds; lines: their middle half.".to_owned(),
        format!(
            "{cores} cores, the load generator on the same machine. In axum's own row the work is an async task; elsewhere it may block."
        ),
    ];
    for (line, note) in notes.iter().enumerate() {
        let y = height - 30.0 + 17.0 * line as f64;
        let _ = writeln!(svg, "<text class=\"small\" x=\"12\" y=\"{y}\">{note}</text>");
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, results: &Results, peers: &[&Peer], page: Page, at: usize, x: f64) {
    let base = results.base();
    let ratio = |peer: &Peer| results.ratio(peer.name, base, page, at);
    let longest = peers.iter().filter_map(|peer| ratio(peer)).map(|ratio| ratio.high).fold(1.0, f64::max);
    let scale = (COLUMN - FIGURE) / longest;
    let rate = results.median(base, page, at, |slot| slot.rate).unwrap_or(0.0);
    let (one, bottom) = (x + scale, TOP + ROW * peers.len() as f64);
    let _ = writeln!(
        svg,
        "<text class=\"ours\" x=\"{x:.1}\" y=\"56\">{}</text>\n\
         <text class=\"small\" x=\"{x:.1}\" y=\"74\">{base}: {}/s</text>\n\
         <line class=\"one\" x1=\"{one:.1}\" y1=\"{}\" x2=\"{one:.1}\" y2=\"{bottom:.1}\"/>",
        page.title(),
        thousands(rate),
        TOP - 8.0
    );
    for (row, peer) in peers.iter().enumerate() {
        if let Some(ratio) = ratio(peer) {
            bar(svg, peer, ratio, x, TOP + ROW * row as f64, scale);
        }
    }
}

fn bar(svg: &mut String, peer: &Peer, ratio: Spread, x: f64, y: f64, scale: f64) {
    let ours = if peer.is_aside() { " ours" } else { "" };
    let (low, end, high) = (x + ratio.low * scale, x + ratio.median * scale, x + ratio.high * scale);
    let (width, middle) = ((end - x).max(1.0), y + BAR / 2.0);
    // The figure stands beside the line of 1, not on it.
    let (one, beside) = (x + scale, high.max(end) + 5.0);
    let beside = if (one - FIGURE + 12.0..one + 4.0).contains(&beside) { one + 5.0 } else { beside };
    let _ = writeln!(
        svg,
        "<rect class=\"bar{ours}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>\n\
         <line class=\"spread\" x1=\"{low:.1}\" y1=\"{middle:.1}\" x2=\"{high:.1}\" y2=\"{middle:.1}\"/>\n\
         <text class=\"small\" x=\"{beside:.1}\" y=\"{:.1}\">{:.2}</text>",
        y + BAR - 3.0,
        ratio.median
    );
}

/// The figures of the plot as text, for screen readers.
fn described(results: &Results, peers: &[&Peer], at: usize) -> String {
    let page = |page: Page| {
        let of = |peer: &&Peer| {
            let ratio = results.ratio(peer.name, results.base(), page, at)?;
            Some(format!("{} {:.2}", peer.name, ratio.median))
        };
        format!("{}: {}.", page.title(), peers.iter().filter_map(of).collect::<Vec<_>>().join("; "))
    };
    PAGES.map(page).join(" ")
}

fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|group| std::str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Slot, Times, Wrongs};

    #[test]
    fn each_page_of_each_peer_has_a_bar_and_words() {
        let mut results = Results {
            machine: String::new(),
            settings: String::new(),
            connections: vec![32],
            slots: Vec::new(),
            latencies: Vec::new(),
            idles: Vec::new(),
            absent: Vec::new(),
        };
        for (place, peer) in PEERS.iter().enumerate() {
            for page in peer.pages {
                results.slots.extend((0..3).map(|round| slot(peer.name, *page, round, place)));
            }
        }
        let svg = svg(&results);
        let pages: usize = PEERS.iter().map(|peer| peer.pages.len()).sum();
        assert_eq!(svg.matches("<rect").count(), pages);
        assert!(svg.contains("Rocket"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }

    fn slot(peer: &'static str, page: Page, round: usize, place: usize) -> Slot {
        let rate = (150_000.0 + 9_000.0 * round as f64) / (1.0 + place as f64);
        Slot {
            peer,
            page,
            connections: 32,
            round,
            rate,
            times: Times::default(),
            processor: 0.0,
            peak: 0,
            closed: 0.0,
            drained: 0.0,
            wrongs: Wrongs::default(),
        }
    }
}
