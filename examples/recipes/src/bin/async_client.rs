//! Calls of an async library, several at once: `cargo run --bin async_client --features reqwest`
//! Addresses with `https` need the feature `rustls` of reqwest.
use std::time::Duration;

use aside::{App, Cache, Config, Request, Response, Result, context};
use reqwest::Client;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

const SITES: [&str; 2] = ["http://example.org/", "http://localhost:8000/nowhere"];

const PAGE: &str = r#"<!doctype html><title>Status</title>
{% for site, status in statuses %}<p>{{ site }}: {{ status }}</p>{% endfor %}"#;

/// The time for which requests share one result.
const FRESH: Duration = Duration::from_secs(10);

/// The async part of the site. The thread of the runtime serves all connections and timers.
struct Monitor {
    runtime: Runtime,
    client: Client,
    sites: Vec<String>,
    statuses: Cache<Vec<(String, String)>>,
}

fn main() -> Result<()> {
    app(Config::from_env()?, &SITES)?.main()
}

fn app(config: Config, sites: &[&str]) -> Result<App> {
    let mut runtime = Builder::new_multi_thread();
    let monitor = Monitor {
        runtime: runtime.worker_threads(1).enable_all().build()?,
        client: Client::builder().timeout(Duration::from_secs(5)).build()?,
        sites: sites.iter().map(ToString::to_string).collect(),
        statuses: Cache::new(1),
    };
    let app = App::with_config(config).state(monitor);
    Ok(app.template("status.html", PAGE).get("/", show))
}

/// The thread of the request waits for the calls, also if its client leaves: others use the result.
fn show(req: &mut Request) -> Result<Response> {
    let monitor = req.state::<Monitor>();
    let check = || aside::ok(monitor.runtime.block_on(check_all(&monitor)));
    let statuses = monitor.statuses.remember("all", FRESH, check)?;
    req.render("status.html", context! { statuses })
}

async fn check_all(monitor: &Monitor) -> Vec<(String, String)> {
    let mut checks = JoinSet::new();
    for site in &monitor.sites {
        checks.spawn(check(monitor.client.clone(), site.clone()));
    }
    let mut statuses = checks.join_all().await;
    statuses.sort();
    statuses
}

async fn check(client: Client, site: String) -> (String, String) {
    let status = match client.get(&site).send().await {
        Ok(response) => response.status().to_string(),
        Err(_) => "cannot be reached".to_owned(),
    };
    (site, status)
}

#[test]
fn the_page_shows_the_status_of_each_site() {
    let config = Config {
        address: "127.0.0.1:0".into(),
        ..Config::default()
    };
    let site = App::with_config(config).start().unwrap();
    let url = format!("http://{}/", site.addr());
    let app = app(Config::default(), &[&url, "http://127.0.0.1:1/"]).unwrap();
    let page = aside::testing::TestClient::new(app).get("/");
    assert!(page.text().contains(&format!("{url}: 404 Not Found")));
    assert!(page.text().contains("127.0.0.1:1/: cannot be reached"));
}
