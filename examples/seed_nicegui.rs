//! What the NiceGUI tutorial's chapter on background tasks shows, sample by sample: `cargo run --example seed_nicegui`.
//!
//! Pages are fetched from below `FETCH_FROM` alone; unless it is set, from a slow service that this program starts for
//! itself. To fetch whatever address a visitor gives would let him read what only this machine can reach.

use std::hint::black_box;
use std::time::Duration;

use aside::{App, Config, Error, Live, LiveMap, Request, Response, Result};
use aside::{Task, TaskContext, TaskInfo, background, context, redirect};
use serde::{Deserialize, Serialize};

fn main() -> Result<()> {
    let config = Config::from_env()?;
    if let Ok(from) = std::env::var("FETCH_FROM") {
        return app(config, from).run();
    }
    let service = slow_service().start()?;
    app(config, format!("http://{}/", service.addr())).run()
}

/// Two seconds for each answer.
fn slow_service() -> App {
    let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
    App::with_config(config).fallback(|req: &mut Request| {
        std::thread::sleep(Duration::from_secs(2));
        format!("This is what is at {}.", req.path())
    })
}

struct Site {
    /// Ends in a slash, so that no other host begins with it.
    from: String,
    agent: ureq::Agent,
    /// Each visitor's own.
    labels: LiveMap<String, Labels>,
}

impl Site {
    fn fetch(&self, url: &str) -> Result<String> {
        Ok(self.agent.get(url).call()?.body_mut().read_to_string()?)
    }
}

/// What the page shows.
#[derive(Clone, Default, Serialize)]
struct Labels {
    slow: String,
    content: String,
    result: String,
}

fn app(config: Config, from: impl Into<String>) -> App {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).max_redirects(0).build();
    App::with_config(config)
        .state(Site { from: from.into(), agent: agent.into(), labels: LiveMap::new() })
        .template("page.html", PAGE)
        .template("labels.html", LABELS)
        .template("computation.html", COMPUTATION)
        .get("/", main_page)
        .post("/blocking", slow_blocking_task)
        .post("/slow", slow_task)
        .post("/content", fetch_url_content)
        .post("/result", run_heavy_task)
        .get("/labels/live", follow)
        .get("/computation", computation)
        .post("/computation", start_computation)
        .get("/computation/live", follow_computation)
        .post("/computation/cancel", cancel_computation)
}

/// The visitor's own labels. There they are a global, and whoever fetches something writes over what the others see.
fn labels_of(req: &mut Request) -> Result<Live<Labels>> {
    let visitor = req.session().id()?;
    Ok(req.state::<Site>().labels.entry(visitor, Labels::default))
}

fn main_page(req: &mut Request) -> Result<Response> {
    let labels = labels_of(req)?.part(req, "/labels/live", "labels.html")?;
    let from = &req.state::<Site>().from;
    req.render("page.html", context! { labels, from })
}

// Sample 1: "The Problem: Blocking the Event Loop"
// There is none to block. This handler waits, as a handler may: it is this visitor's page alone that takes its time.
fn slow_blocking_task(req: &mut Request) -> Result<Response> {
    let site = req.state::<Site>();
    let words = site.fetch(&format!("{}blocking", site.from))?;
    labels_of(req)?.update(|labels| labels.slow = words);
    Ok(redirect("/"))
}

// Sample 2: "The Solution: Async and Offloading with run"
// The same function in `background`: the page is there at once, and shows the words when they are.
fn slow_task(req: &mut Request) -> Result<Response> {
    let (site, labels) = (req.state::<Site>(), labels_of(req)?);
    labels.update(|labels| labels.slow = "under way".into());
    background(move || {
        let words = site.fetch(&format!("{}slow", site.from));
        labels.update(|labels| labels.slow = words.as_deref().unwrap_or("failed").to_owned());
        words.map(drop)
    });
    Ok(redirect("/"))
}

// Sample 3: "run.io_bound(func, *args, **kwargs)"
// Nothing is awaited and no function must be of another kind. The visitor is told that it failed, the log why.
#[derive(Deserialize)]
struct Wish {
    url: String,
}

fn fetch_url_content(req: &mut Request) -> Result<Response> {
    let (site, labels, Wish { url }) = (req.state::<Site>(), labels_of(req)?, req.form()?);
    if !url.starts_with(&site.from) {
        return Err(Error::unprocessable(format!("The address must begin with {}", site.from)));
    }
    background(move || {
        let fetched = site.fetch(&url);
        labels.update(|labels| {
            labels.content = match &fetched {
                Ok(text) => format!("Content from {url}:\n{}", text.chars().take(500).collect::<String>()),
                Err(_) => format!("Could not fetch {url}"),
            }
        });
        fetched.map(drop)
    });
    Ok(redirect("/"))
}

// Sample 4: "run.cpu_bound(func, *args, **kwargs)"
// NiceGUI needs a process for this, and arguments that can be pickled. A thread computes on a core of its own here. What else
// a process gives, a crash that stays in it, a `Job` has with `const ISOLATED: bool = true`: darkroom resizes so.
fn heavy_calculation(duration: u64) -> u64 {
    (0..duration * 1_000_000).map(|i| black_box(i) % 10).sum()
}

fn run_heavy_task(req: &mut Request) -> Result<Response> {
    let labels = labels_of(req)?;
    labels.update(|labels| labels.result = "Calculating...".into());
    background(move || {
        let result = heavy_calculation(3);
        labels.update(|labels| labels.result = result.to_string());
    });
    Ok(redirect("/"))
}

// Sample 5: "Updating UI from Background Tasks"
// There it takes a queue and a timer that asks it. Here the task says how far it is, and the built-in page part shows that;
// and it can be cancelled, which a thread of `run.io_bound` cannot.
fn heavy_computation(task: &TaskContext) -> Result<()> {
    for step in 0..500 {
        task.check()?; // ends here when it was told to cancel
        task.progress(step, 500);
        black_box(heavy_calculation(4));
    }
    task.message("Done!");
    Ok(())
}

fn start_computation(req: &mut Request) -> Result<Response> {
    let key = format!("computation-{:x}", getrandom::u64()?);
    req.session().insert("computation", &key);
    Task::named("heavy_computation").key(key).run(heavy_computation);
    Ok(redirect("/computation"))
}

/// The visitor's own computation: its key is in his session.
fn computation_of(req: &mut Request) -> Result<TaskInfo> {
    let key = req.session().get::<String>("computation");
    key.and_then(|key| aside::task(&key)).ok_or_else(|| Error::not_found("There is no computation."))
}

fn computation(req: &mut Request) -> Result<Response> {
    let progress = computation_of(req)?.live().part(req, "/computation/live", "computation.html")?;
    req.render("page.html", context! { progress, from => &req.state::<Site>().from })
}

fn follow_computation(req: &mut Request) -> Result<Response> {
    let live = computation_of(req)?.live();
    req.live(&live, "computation.html")
}

fn cancel_computation(req: &mut Request) -> Result<Response> {
    computation_of(req)?.cancel();
    Ok(redirect("/computation"))
}

const COMPUTATION: &str = r#"{% include "aside/progress.html" %}
{% if not is_finished and not is_cancelling %}
<form method="post" action="/computation/cancel"><button>Cancel</button></form>
{% endif %}
"#;

// Sample 6: "How Concurrency Works (Under the Hood)"
// Of the diagram's eleven arrows three are left: the browser posts, and has its page; the task updates the state; whoever
// watches that is sent the part of the page anew.
fn follow(req: &mut Request) -> Result<Response> {
    let live = labels_of(req)?;
    req.live(&live, "labels.html")
}

// Caveat 1: "must be picklable (can be sent to another process), should not be an async def function"
// A closure takes along whatever may go to another thread (`Send`), which the compiler sees to.

// Caveat 2: "You generally cannot directly update NiceGUI UI elements from within the function"
// Here the function itself updates them, from whatever thread, as in samples 2 to 4.

// The page

const LABELS: &str = r#"<p>Slow task: {{ slow or "not begun" }}</p>
<p>Result: {{ result or "Pending..." }}</p>
<pre>{{ content or "Result will appear here." }}</pre>
"#;

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>NiceGUI's samples</title>
<h1>NiceGUI's samples</h1>
<form method="post">
<button formaction="/blocking">Fetch in the handler</button>
<button formaction="/slow">Fetch aside</button>
<button formaction="/result">Start CPU Task</button>
<button formaction="/computation">Start a long computation</button>
</form>
<form method="post" action="/content">
<p><label>URL <input name="url" type="url" value="{{ from }}" required></label></p>
<button>Fetch Content</button>
</form>
{% if progress %}{{ progress }}<p><a href="/">Back</a></p>{% else %}{{ labels }}{% endif %}
</html>
"#;

#[cfg(test)]
mod tests {
    use std::thread;

    use aside::Status;
    use aside::testing::TestClient;

    use super::*;
    use crate::seeds::{Service, wait_for};

    fn client(service: &Service) -> TestClient {
        TestClient::new(app(Config::default(), service.url() + "/"))
    }

    #[test]
    fn sample_1_a_handler_that_blocks_freezes_nothing() {
        let service = Service::start();
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let site = app(config, service.url() + "/").start().unwrap();
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
    fn sample_2_the_page_is_there_before_the_slow_task_has_ended() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/slow").send().location(), Some("/"));
        assert!(client.get("/").text().contains("<p>Slow task: under way</p>"));
        service.next_call().answer("finished");
        client.settle();
        assert!(client.get("/").text().contains("<p>Slow task: finished</p>"));
        client.post("/slow").send();
        service.next_call().fail();
        client.settle();
        assert!(client.get("/").text().contains("<p>Slow task: failed</p>") && client.failures().len() == 1);
    }

    #[test]
    fn sample_3_the_content_is_on_the_page_when_it_came() {
        let service = Service::start();
        let mut client = client(&service);
        let url = service.url() + "/page";
        assert_eq!(client.post("/content").form(&[("url", &url)]).send().location(), Some("/"));
        let mut events = client.events("/labels/live");
        wait_for(&mut events, "Result will appear here.");
        service.next_call().answer(&"<b>".repeat(300));
        let shown = wait_for(&mut events, &format!("Content from {url}:\n"));
        assert_eq!(shown.matches("&lt;b&gt;").count(), 500 / 3);
        client.post("/content").form(&[("url", &url)]).send();
        service.next_call().fail();
        wait_for(&mut events, &format!("<pre>Could not fetch {url}</pre>"));
        client.settle();
        assert_eq!(client.failures()[0].failure(), Some("http status: 503"));
        // What only this machine can reach is not for the visitor.
        let other = client.post("/content").form(&[("url", "http://127.0.0.1:1/")]).send();
        assert_eq!((other.status(), client.counts().ended), (Status::UNPROCESSABLE_CONTENT, 2));
    }

    #[test]
    fn sample_4_caveat_1_a_heavy_calculation_is_shown_when_it_is_done() {
        let mut client = client(&Service::start());
        assert_eq!(client.post("/result").send().location(), Some("/"));
        let mut events = client.events("/labels/live");
        wait_for(&mut events, "<p>Result: 13500000</p>");
        client.settle();
    }

    #[test]
    fn sample_5_progress_is_shown_and_the_computation_is_cancelled() {
        let mut client = client(&Service::start());
        assert_eq!(client.post("/computation").send().location(), Some("/computation"));
        let page = client.get("/computation").text().to_owned();
        assert!(page.contains("<progress") && page.contains("<button>Cancel</button>"), "{page}");
        let mut events = client.events("/computation/live");
        wait_for(&mut events, "<progress value=");
        assert_eq!(client.post("/computation/cancel").send().location(), Some("/computation"));
        assert!(!wait_for(&mut events, "Cancelled.").contains("<button>"));
        client.settle();
        assert!(client.failures().is_empty(), "cancelled is not failed");
    }

    #[test]
    fn sample_6_post_then_page_then_the_change() {
        let service = Service::start();
        let mut client = client(&service);
        assert_eq!(client.post("/slow").send().location(), Some("/"));
        let call = service.next_call();
        assert_eq!(client.get("/").status(), Status::OK);
        let mut events = client.events("/labels/live");
        assert!(events.next().data.contains("under way"));
        call.answer("the change");
        assert!(events.next().data.contains("<p>Slow task: the change</p>"), "no event but for what changed");
        client.settle();
    }

    #[test]
    fn caveat_2_a_task_updates_the_page_itself() {
        let mut client = client(&Service::start());
        let labels = client.state::<Site>().labels.entry("7".into(), Labels::default);
        let theirs = labels.clone();
        client.within(|| background(move || theirs.update(|labels| labels.result = "from a thread".into())));
        client.settle();
        assert_eq!(labels.get().result, "from a thread");
        assert!(client.get("/").text().contains("Pending..."), "another visitor's page is his own");
    }
}
