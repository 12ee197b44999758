//! The time of `aside dev` from the moment at which a file is written until a browser shows the change: the median of five, for one
//! line of Rust, of a template and of CSS. The site is one of `aside new`, without the parts of `--with`.
//!
//! `cargo bench -p aside-cli --bench dev`

#[allow(dead_code)] // Tests use the rest.
#[path = "../../tests/support/browser.rs"]
mod browser;
#[allow(dead_code)]
#[path = "../tests/dev/site.rs"]
mod site;

use std::time::{Duration, Instant};

use browser::{Browser, Page};
use site::{Dev, Site};

const ROUNDS: usize = 5;

fn main() {
    let Some(browser) = Browser::start() else { return };
    let site = Site::generated("measured");
    let (dev, page) = (Dev::start(&site), browser.page());
    dev.serves(1);
    println!("used by aside dev in 10 idle seconds: {:?} of processor time", idle(&dev));
    page.goto(&dev.url("/"));
    page.wait_for("document.querySelector('.lead')");
    let lead = "document.querySelector('.lead').textContent.includes";
    site.edit("src/home.rs", "(\"home.html\", ())", "(\"home.html\", aside::context! { lead => \"rust 0\" })");
    site.edit("templates/home.html", "<p class=\"lead\">", "<p class=\"lead\">{{ lead }} template 0 ");
    page.wait_for(&format!("{lead}('rust 0 template 0')"));
    report("Rust", &page, |round| {
        site.edit("src/home.rs", &format!("rust {}", round - 1), &format!("rust {round}"));
        format!("{lead}('rust {round} ')")
    });
    report("a template", &page, |round| {
        site.edit("templates/home.html", &format!("template {} ", round - 1), &format!("template {round} "));
        format!("{lead}('template {round} ')")
    });
    site.write("static/app.css", ":root { --round: 0 }");
    report("CSS", &page, |round| {
        site.write("static/app.css", &format!(":root {{ --round: {round} }}"));
        format!("getComputedStyle(document.documentElement).getPropertyValue('--round').trim() == '{round}'")
    });
}

/// Prints the median time of a change. `change` makes it, and returns the condition on the page.
fn report(name: &str, page: &Page, change: impl Fn(usize) -> String) {
    let time = |round| {
        let began = Instant::now();
        page.wait_for(&change(round));
        began.elapsed()
    };
    let mut times: Vec<Duration> = (1..=ROUNDS).map(time).collect();
    times.sort();
    println!("{name}: {:.2?} ({:.2?} to {:.2?})", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
}

/// Returns the processor time that `aside dev` uses while nothing changes.
fn idle(dev: &Dev) -> Duration {
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", dev.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        // In hundredths of a second (`proc_pid_stat(5)`: utime, stime).
        Duration::from_millis(fields[11..13].iter().map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
    };
    let before = used();
    std::thread::sleep(Duration::from_secs(10));
    used() - before
}
