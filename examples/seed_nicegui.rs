//! The samples of the NiceGUI tutorial's chapter on background tasks, in its order: `cargo run --example seed_nicegui`.
//!
//! The site fetches only what is below `FETCH_FROM`: a site that fetches any address would give its users access to
//! services that only this machine can reach. Unless the variable is set, this program starts a slow service itself.

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::Duration;

use aside::server::Server;
use aside::tasks::Isolated;
use aside::tasks::TaskInfo;
use aside::{App, Config, Error, Request, Response, Result};
use aside::{TaskContext, background, context, redirect};
use serde::{Deserialize, Serialize};

fn main() -> Result<()> {
    app(Config::from_env()?, std::env::var("FETCH_FROM").ok()).run()
}

/// The address of a service that takes two seconds for each response. The first call starts it.
fn slow_service() -> String {
    static SERVICE: LazyLock<Server> = LazyLock::new(|| {
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let respond = |req: &mut Request| {
            std::thread::sleep(Duration::from_secs(2));
            format!("This is the page at {}.", req.path())
        };
        App::with_config(config).fallback(respond).start().expect("a free port")
    });
    format!("http://{}", SERVICE.addr())
}

struct Site {
    from: Option<String>,
    agent: ureq::Agent,
}

impl Site {
    /// Ends in a slash, so that no other host begins with it.
    fn from(&self) -> String {
        let from = self.from.clone().unwrap_or_else(slow_service);
        format!("{}/", from.trim_end_matches('/'))
    }

    fn fetch(&self, url: &str) -> Result<String> {
        Ok(self.agent.get(url).call()?.body_mut().read_to_string()?)
    }
}

/// The results of a session. In NiceGUI the label is a global, and one user's result replaces another's.
#[derive(Clone, Default, Serialize)]
struct Labels {
    slow: String,
    content: String,
    result: String,
}

fn app(config: Config, from: Option<String>) -> App {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).max_redirects(0).build();
    App::with_config(config)
        .state(Site { from, agent: agent.into() })
        .get("/seeds.css", |_: &mut Request| Response::bytes("text/css", include_bytes!("seeds/seeds.css")))
        .template("base.html", include_str!("seeds/base.html"))
        .template("page.html", include_str!("seeds/nicegui.html"))
        .get("/", main_page)
        .live("labels", "labels.html", Request::session_live::<Labels>)
        .template("labels.html", LABELS)
        .post("/blocking", slow_blocking_task)
        .post("/slow", slow_task)
        .post("/content", fetch_url_content)
        .isolated(heavy_calculation)
        .post("/result", run_heavy_task)
        .isolated(heavy_computation)
        .live_task("computation", "computation.html")
        .template("computation.html", COMPUTATION)
        .post("/computation", start_computation)
        .post("/computation/cancel", cancel_computation)
}

fn main_page(req: &mut Request) -> Result<Response> {
    let from = req.state::<Site>().from();
    req.render("page.html", context! { from })
}

const LABELS: &str = r#"<dl>
  <dt>Slow task</dt><dd>{{ slow or "Not started." }}</dd>
  <dt>Content</dt><dd><pre>{{ content or "Result will appear here." }}</pre></dd>
  <dt>Result</dt><dd>{{ result or "Pending..." }}</dd>
</dl>
"#;

// Sample 1: "The Problem: Blocking the Event Loop"
// There is no event loop to block. This handler waits, and only the page of this client takes its time.
fn slow_blocking_task(req: &mut Request) -> Result<Response> {
    let site = req.state::<Site>();
    let text = site.fetch(&format!("{}blocking", site.from()))?;
    req.session_live::<Labels>()?.update(|labels| labels.slow = text);
    Ok(redirect("/"))
}

// Sample 2: "The Solution: Async and Offloading with run"
// The same call in `background`: the page is there at once, and shows the text when it arrives.
fn slow_task(req: &mut Request) -> Result<Response> {
    let (site, labels) = (req.state::<Site>(), req.session_live::<Labels>()?);
    labels.update(|labels| labels.slow = "Fetching...".into());
    background(move || {
        let text = site.fetch(&format!("{}slow", site.from()));
        labels.update(|labels| labels.slow = text.as_deref().unwrap_or("Failed.").to_owned());
        text.map(drop)
    });
    Ok(redirect("/"))
}

// Sample 3: "run.io_bound(func, *args, **kwargs)"
// Nothing is awaited, and any function can be called. A failure is on the page, as in NiceGUI, and also in the log.
#[derive(Deserialize)]
struct Address {
    url: String,
}

fn fetch_url_content(req: &mut Request) -> Result<Response> {
    let (site, labels, Address { url }) = (req.state::<Site>(), req.session_live::<Labels>()?, req.form()?);
    if !url.starts_with(&site.from()) {
        return Err(Error::unprocessable(format!("The address must begin with {}", site.from())));
    }
    labels.update(|labels| labels.content = format!("Fetching {url}..."));
    background(move || {
        let fetched = site.fetch(&url);
        labels.update(|labels| {
            labels.content = match &fetched {
                Ok(text) => format!("Content from {url}:\n{}...", text.chars().take(500).collect::<String>()),
                Err(error) => format!("Could not fetch {url}: {error}"),
            }
        });
        fetched.map(drop)
    });
    Ok(redirect("/"))
}

// Sample 4: "run.cpu_bound(func, *args, **kwargs)"
// A process from a pool computes, as in NiceGUI, and the task that waits for its value shows it. A crash of the process is
// an error of this task. For the cores alone a thread would do: `background(|| heavy_calculation(3))`.
fn heavy_calculation(duration: u64) -> u64 {
    (0..duration * 1_000_000).map(|i| black_box(i) % 10).sum()
}

#[derive(Deserialize)]
struct HeavyTask {
    duration: u64,
}

fn run_heavy_task(req: &mut Request) -> Result<Response> {
    let (labels, HeavyTask { duration }) = (req.session_live::<Labels>()?, req.form()?);
    labels.update(|labels| labels.result = "Calculating...".into());
    let calculation = aside::isolated(heavy_calculation, duration.min(10_000));
    background(move || {
        let result = calculation.join();
        labels.update(|labels| labels.result = result.map_or("Failed.".into(), |result| result.to_string()));
    });
    Ok(redirect("/"))
}

// Sample 5: "Updating UI from Background Tasks"
// NiceGUI needs a queue between the processes and a timer that reads it. Here the function reports its progress, the page
// shows it, and the user can cancel.
fn heavy_computation(steps: u64, task: &TaskContext) -> Result<()> {
    let mut sum = 0;
    for step in 0..steps {
        task.check_cancelled()?; // ends here if it was cancelled
        task.progress(step, steps);
        sum += heavy_calculation(10);
    }
    task.message(format!("Done! The sum is {sum}."));
    Ok(())
}

#[derive(Deserialize)]
struct Computation {
    steps: u64,
}

fn start_computation(req: &mut Request) -> Result<Response> {
    let (task, Computation { steps }) = (req.session_task("computation")?, req.form()?);
    if task.find().is_none_or(|running| running.live().is_finished()) {
        Isolated::new(heavy_computation).task(task).spawn(steps.min(1_000));
    }
    Ok(redirect("/"))
}

fn cancel_computation(req: &mut Request) -> Result<Response> {
    req.session_task("computation")?.find().inspect(TaskInfo::cancel);
    Ok(redirect("/"))
}

const COMPUTATION: &str = r#"{% include "aside/progress.html" %}
{%- if not is_finished and not is_cancelling %}
<form method="post" action="/computation/cancel"><button class="quiet">Cancel</button></form>
{%- endif %}
"#;

// Sample 6: "How Concurrency Works (Under the Hood)"
// Of the diagram's eleven arrows three are left: the browser posts and gets its page; the task updates the state; every page
// that follows the state is sent the new fragment. `App::live` sends it, and `live("labels")` in the page follows it.

// Caveat 1: "must be picklable (can be sent to another process), should not be an async def function"
// A function for a process is registered with `App::isolated`; its input and its value are types that serde reads and writes,
// which the compiler checks. A task on a thread may take along anything that is `Send`.

// Caveat 2: "You generally cannot directly update NiceGUI UI elements from within the function"
// A task updates the page itself, as in samples 2 to 4. A function in another process has its progress and its message.

#[cfg(test)]
mod tests {
    use std::thread;

    use aside::Status;
    use aside::testing::TestClient;

    use super::*;
    use crate::seeds::{Service, wait_for};
    #[cfg(target_os = "linux")]
    use crate::seeds::{SiteProcess, browser::Browser};

    fn client(service: &Service) -> TestClient {
        TestClient::new(app(Config::default(), Some(service.url())))
    }

    #[test]
    fn sample_1_a_handler_that_blocks_delays_no_other_request() {
        let service = Service::start();
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let site = app(config, Some(service.url())).start().unwrap();
        let url = format!("http://{}/", site.addr());
        thread::scope(|scope| {
            let slow = scope.spawn(|| ureq::post(format!("{url}blocking")).send_empty().unwrap());
            let call = service.next_call();
            for _ in 0..10 {
                assert_eq!(ureq::get(&url).call().unwrap().status(), 200, "while a handler waits for {}", call.path);
            }
            assert!(!slow.is_finished());
            call.answer("done");
            slow.join().unwrap();
        });
        site.stop();
    }

    #[test]
    fn sample_2_the_page_is_there_before_the_slow_task_ends() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/slow").send().location(), Some("/"));
        assert!(client.get("/").text().contains("<dd>Fetching...</dd>"));
        service.next_call().answer("finished");
        client.drain();
        assert!(client.get("/").text().contains("<dd>finished</dd>"));
        client.post("/slow").send();
        service.next_call().fail();
        client.drain();
        assert!(client.get("/").text().contains("<dd>Failed.</dd>") && client.failures().len() == 1);
    }

    #[test]
    fn sample_3_the_content_is_on_the_page_when_it_arrives() {
        let service = Service::start();
        let mut client = client(&service);
        let url = service.url() + "/page";
        assert_eq!(client.post("/content").form(&[("url", &url)]).send().location(), Some("/"));
        let mut events = client.events("/_aside/live/labels");
        wait_for(&mut events, &format!("<pre>Fetching {url}...</pre>"));
        service.next_call().answer(&"<b>".repeat(300));
        let shown = wait_for(&mut events, &format!("Content from {url}:\n"));
        assert_eq!(shown.matches("&lt;b&gt;").count(), 500 / 3);
        client.post("/content").form(&[("url", &url)]).send();
        service.next_call().fail();
        wait_for(&mut events, &format!("<pre>Could not fetch {url}: http status: 503</pre>"));
        client.drain();
        assert_eq!(client.failures()[0].failure(), Some("http status: 503"));
        // Clients cannot fetch what only this machine can reach.
        for other in ["http://127.0.0.1:1/".to_owned(), service.url() + ".example/"] {
            let refused = client.post("/content").form(&[("url", &other)]).send();
            assert_eq!((refused.status_code(), client.counts().ended), (Status::UNPROCESSABLE_CONTENT, 2));
        }
    }

    #[cfg(unix)]
    #[test]
    fn sample_4_caveat_1_a_process_calculates_and_the_page_shows_its_value() {
        let mut client = TestClient::new(app(Config::default(), None));
        assert_eq!(client.post("/result").form(&[("duration", "3")]).send().location(), Some("/"));
        let mut events = client.events("/_aside/live/labels");
        wait_for(&mut events, "<dd>13500000</dd>");
        client.drain();
        assert_eq!(client.counts().ended, 2, "the calculation, and the task that waits for it");
    }

    #[cfg(unix)]
    #[test]
    fn sample_5_the_page_shows_the_progress_of_a_process_and_its_message() {
        let mut client = TestClient::new(app(Config::default(), None));
        assert_eq!(client.post("/computation").form(&[("steps", "10")]).send().location(), Some("/"));
        let mut events = client.events("/_aside/live/computation");
        wait_for(&mut events, "<progress value=");
        wait_for(&mut events, "<p>Done! The sum is 450000000.</p>");
        client.drain();
    }

    #[cfg(unix)]
    #[test]
    fn sample_5_a_second_click_starts_nothing_and_the_computation_can_be_cancelled() {
        let mut client = TestClient::new(app(Config::default(), None));
        for _ in 0..2 {
            assert_eq!(client.post("/computation").form(&[("steps", "1000")]).send().location(), Some("/"));
        }
        assert_eq!(client.running().len(), 1);
        let page = client.get("/").text().to_owned();
        assert!(page.contains("<progress") && page.contains(">Cancel</button>"), "{page}");
        let mut events = client.events("/_aside/live/computation");
        wait_for(&mut events, "<progress value=");
        assert_eq!(client.post("/computation/cancel").send().location(), Some("/"));
        assert!(!wait_for(&mut events, "Cancelled.").contains("<button>"));
        client.drain();
        assert!(client.failures().is_empty(), "cancelled is not failed");
    }

    #[test]
    fn sample_6_the_browser_posts_and_gets_its_page_and_then_the_change() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/slow").send().location(), Some("/"));
        let call = service.next_call();
        assert_eq!(client.get("/").status_code(), Status::OK);
        let mut events = client.events("/_aside/live/labels");
        assert!(events.next().data.contains("Fetching..."));
        call.answer("the change");
        assert!(events.next().data.contains("<dd>the change</dd>"), "the next event is the change");
        client.drain();
    }

    #[test]
    fn caveat_2_a_task_updates_the_page_itself() {
        let service = Service::start();
        let mut client = client(&service);
        client.post("/slow").send();
        service.next_call().answer("from a thread");
        client.drain();
        assert!(client.get("/").text().contains("<dd>from a thread</dd>"));
        let other = client.request("GET", "/").header("Cookie", "none=at-all").send().text().to_owned();
        assert!(other.contains("<dd>Not started.</dd>"), "another session has its own labels: {other}");
    }
    /// Not a test of its own: the site as a process, which the next test shows in a browser.
    #[cfg(target_os = "linux")]
    #[test]
    fn runs_the_site_in_a_child_process() {
        if std::env::var_os(SiteProcess::VARIABLE).is_some() {
            main().unwrap();
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn sample_5_a_page_in_a_browser_moves_while_a_process_works() {
        let Some(browser) = Browser::start() else { return };
        let (site, page) = (SiteProcess::start(module_path!(), &[]), browser.page());
        page.goto(&site.url);
        assert_eq!(site.children(), 0, "no process before the first call");
        page.evaluate("document.querySelector('[name=steps]').value = 20");
        page.click("form[action='/computation'] button");
        page.wait_for("document.querySelector('progress').value > 0");
        page.evaluate("window.same = true");
        assert_eq!(site.children(), 1);
        let before = page.evaluate("document.querySelector('progress').value");
        page.wait_for(&format!("document.querySelector('progress').value > {before}"));
        page.wait_for("document.body.innerText.includes('Done! The sum is 900000000.')");
        assert_eq!(page.evaluate("window.same"), true, "the page was not loaded again");
        assert_eq!(page.messages(), [""; 0]);
    }
}
