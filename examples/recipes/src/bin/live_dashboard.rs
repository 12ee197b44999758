//! A dashboard that measures while a page is open (Linux): `cargo run --bin live_dashboard`
use std::{fs, time::Duration};

use aside::{App, Config, Live, Request, Result, Task, TaskContext};
use serde::Serialize;

const PAGE: &str = r#"<!doctype html><title>Server</title><h1>Server</h1>{{ live("figures") }}"#;

const FIGURES: &str = r#"<div aria-live="off"><p>{{ free_mb }} MB of memory are free.</p>
{% for load in loads %}<meter max="4" value="{{ load }}"></meter> {{ load }}<br>{% endfor %}
</div>"#;

#[derive(Clone, Default, Serialize)]
struct Figures {
    free_mb: u64,
    loads: Vec<f64>,
}

fn main() -> Result<()> {
    app(Config::from_env()?).main()
}

fn app(config: Config) -> App {
    App::with_config(config)
        .template("page.html", PAGE)
        .template("figures.html", FIGURES)
        .state(Live::<Figures>::default())
        .live("figures", "figures.html", figures)
        .get("/", |req| req.render("page.html", ()))
}

/// Returns the figures, and starts the sampler if it does not run. One sampler serves all pages.
fn figures(req: &mut Request) -> Live<Figures> {
    let live = Live::clone(&req.state());
    let (sampler, sampled) = (Task::named("sampler").key("sampler"), live.clone());
    // The lock of the state prevents that two pages start two samplers.
    let _lock = live.lock();
    if sampler.find().is_none_or(|task| task.is_finished()) {
        sampler.spawn(move |task| sample(task, &sampled));
    }
    live.clone()
}

fn sample(task: &TaskContext, live: &Live<Figures>) -> Result<()> {
    let mut unwatched = 0;
    // It ends some seconds after the last page was closed.
    while unwatched < 3 {
        let load = number("/proc/loadavg", "")?;
        let memory = number("/proc/meminfo", "MemAvailable:")?;
        live.update(|figures| {
            figures.free_mb = memory as u64 / 1024;
            figures.loads.insert(0, load);
            figures.loads.truncate(20);
        });
        unwatched = (unwatched + 1) * u32::from(live.watchers() == 0);
        task.sleep(Duration::from_secs(1))?;
    }
    Ok(())
}

/// Returns the number after a label in a file of the kernel.
fn number(path: &str, label: &str) -> Result<f64> {
    let text = fs::read_to_string(path)?;
    let (_, rest) = text.split_once(label).unwrap_or_default();
    Ok(rest.split_whitespace().next().unwrap_or_default().parse()?)
}

#[test]
fn one_sampler_serves_all_pages() {
    let mut client = aside::testing::TestClient::new(app(Config::default()));
    let mut pages = [(); 2].map(|()| client.events("/_aside/live/figures"));
    for page in &mut pages {
        while !page.next().data.contains("<meter") {}
    }
    assert_eq!(client.running().len(), 1);
    client.running()[0].cancel();
    client.drain();
    assert!(client.failures().is_empty() && number("/proc/version", "").is_err());
}
