//! The samples of Wave's page on background tasks, in its order: `cargo run --example seed_wave`.
//!
//! Reports come from `/reports/7` below `REPORTS_URL`. Unless that is set, this program starts a slow service itself.

use std::sync::LazyLock;
use std::time::Duration;

use aside::server::Server;
use aside::tasks::Isolated;
use aside::tasks::TaskInfo;
use aside::{App, Config, Pool, Request, Response, Result};
use aside::{Task, TaskContext, background, context, redirect};
use serde::Deserialize;

fn main() -> Result<()> {
    app(Config::from_env()?, std::env::var("REPORTS_URL").ok()).run()
}

/// The address of a service that takes three seconds for each response. The first call starts it.
fn slow_service() -> String {
    static SERVICE: LazyLock<Server> = LazyLock::new(|| {
        let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
        let report = |req: &mut Request| {
            std::thread::sleep(Duration::from_secs(3));
            aside::ok(format!("Report {}: all is well.", req.param::<u32>("id")?))
        };
        App::with_config(config).get("/reports/{id}", report).start().expect("a free port")
    });
    format!("http://{}", SERVICE.addr())
}

struct Site {
    reports: Option<String>,
    agent: ureq::Agent,
    /// Two calls at the same time: more would overload the service.
    callers: Pool,
}

fn app(config: Config, reports: Option<String>) -> App {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).build().into();
    App::with_config(config)
        .state(Site { reports, agent, callers: Pool::new(2) })
        .get("/seeds.css", |_: &mut Request| Response::bytes("text/css", include_bytes!("seeds/seeds.css")))
        .template("base.html", include_str!("seeds/base.html"))
        .template("page.html", include_str!("seeds/wave.html"))
        .get("/", |req: &mut Request| show(req, ""))
        .get("/direct/{id}", direct)
        .get("/run/{id}", run)
        .get("/pooled/{id}", pooled)
        .isolated(count_primes)
        .get("/primes", primes)
        .live_task("job", "job.html")
        .template("job.html", JOB)
        .post("/job/reports", start_reports)
        .post("/job/primes", start_primes)
        .post("/job/cancel", cancel_job)
}

fn show(req: &mut Request, message: &str) -> Result<Response> {
    req.render("page.html", context! { message })
}

// Sample 1: "a function that blocks"
// It blocks, as in Wave: a slow service takes the place of `time.sleep`.
fn blocking_function(site: &Site, id: u32) -> Result<String> {
    let reports = site.reports.clone().unwrap_or_else(slow_service);
    Ok(site.agent.get(format!("{reports}/reports/{id}")).call()?.body_mut().read_to_string()?)
}

// Sample 2: "don't do this"
// Here a handler may do this: each request has its own thread, and the others do not wait.
fn direct(req: &mut Request) -> Result<Response> {
    let message = blocking_function(&req.state::<Site>(), req.param("id")?)?;
    show(req, &message)
}

// Sample 3: "Instead, do this"
// The handler continues beside its task: two reports at the same time, and the page when both are there.
fn run(req: &mut Request) -> Result<Response> {
    let (site, id) = (req.state::<Site>(), req.param::<u32>("id")?);
    let previous = background(move || blocking_function(&site, id.saturating_sub(1)));
    let message = blocking_function(&req.state::<Site>(), id)?;
    let previous = previous.join().expect("panics are caught in the task")?;
    show(req, &format!("{message} Before: {previous}"))
}

// Sample 4: "a thread pool"
// The pool belongs to the site and not to the request, so that its limit holds for all requests together.
fn pooled(req: &mut Request) -> Result<Response> {
    let (site, id) = (req.state::<Site>(), req.param("id")?);
    let message = site.callers.run(|| blocking_function(&site, id))??;
    show(req, &message)
}

// Sample 5: "a process pool"
// The processes stay for the next call. A process that crashes is an error of this call, and the site goes on.
fn count_primes(below: u32, task: &TaskContext) -> Result<usize> {
    let is_prime = |number: &u32| *number > 1 && !(2..=number.isqrt()).any(|divisor| number.is_multiple_of(divisor));
    let (mut count, step) = (0, (below / 100).max(1));
    for start in (0..below).step_by(step as usize) {
        task.check_cancelled()?; // ends here if it was cancelled
        task.progress(start.into(), below.into());
        count += (start..below.min(start + step)).filter(is_prime).count();
    }
    task.message(format!("There are {count} primes below {below}."));
    Ok(count)
}

#[derive(Deserialize)]
struct Question {
    below: u32,
}

fn primes(req: &mut Request) -> Result<Response> {
    let below = req.query::<Question>()?.below.min(20_000_000);
    let count = aside::isolated(count_primes, below).join()?;
    show(req, &format!("There are {count} primes below {below}."))
}

// Sample 6: "background-progress", the example that the page links to
// Wave's job gets the page, the event loop and an event that cancels it. Here the job reports its progress, and the page
// shows it; without JavaScript, as it was when the page was loaded. A thread makes the reports, and a process counts primes.
fn reports(site: &Site, task: &TaskContext) -> Result<()> {
    for id in 0..10 {
        task.check_cancelled()?; // ends here if it was cancelled
        task.progress(id.into(), 10);
        blocking_function(site, id)?;
    }
    Ok(())
}

fn start_reports(req: &mut Request) -> Result<Response> {
    let site = req.state::<Site>();
    start(req, |job| drop(job.spawn(move |task| reports(&site, task))))
}

fn start_primes(req: &mut Request) -> Result<Response> {
    let below = req.form::<Question>()?.below.min(20_000_000);
    start(req, |job| drop(Isolated::new(count_primes).task(job).spawn(below)))
}

/// Starts the job of this session, unless it runs already.
fn start(req: &mut Request, run: impl FnOnce(Task)) -> Result<Response> {
    let job = req.session_task("job")?;
    if job.find().is_none_or(|running| running.live().is_finished()) {
        run(job);
    }
    Ok(redirect("/"))
}

fn cancel_job(req: &mut Request) -> Result<Response> {
    req.session_task("job")?.find().inspect(TaskInfo::cancel);
    Ok(redirect("/"))
}

const JOB: &str = r#"{% include "aside/progress.html" %}
{%- if not is_finished and not is_cancelling %}
<form method="post" action="/job/cancel"><button class="quiet">Cancel</button></form>
{%- endif %}
"#;

// Caveat 1: "Performing blocking operations in your handler will hang your app's server"
// It does not: see sample 2.

// Caveat 2: "better off replacing blocking HTTP clients like requests with non-blocking clients"
// `ureq` blocks, and may: a thread that waits costs its stack. There is one kind of function and one kind of client.

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread::{self, Scope, ScopedJoinHandle};

    #[cfg(unix)]
    use aside::Failure;
    use aside::testing::TestClient;

    use super::*;
    use crate::seeds::{Service, wait_for};
    #[cfg(target_os = "linux")]
    use crate::seeds::{SiteProcess, browser::Browser};

    /// The site over sockets.
    fn site(service: &Service) -> Server {
        app(Config { address: "127.0.0.1:0".into(), ..Config::default() }, Some(service.url())).start().unwrap()
    }

    fn get(site: &Server, path: &str) -> String {
        let mut answer = ureq::get(format!("http://{}{path}", site.addr())).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    }

    /// A client that loads a page.
    fn load<'s>(scope: &'s Scope<'s, '_>, site: &'s Server, path: String) -> ScopedJoinHandle<'s, String> {
        scope.spawn(move || get(site, &path))
    }

    #[test]
    fn sample_1_caveat_2_a_function_may_block() {
        let service = Service::start();
        let client = TestClient::new(app(Config::default(), Some(service.url())));
        let site = client.state::<Site>();
        thread::scope(|scope| {
            let message = scope.spawn(|| blocking_function(&site, 42));
            let call = service.next_call();
            assert_eq!((call.path.as_str(), call.body.as_str()), ("/reports/42", ""));
            assert!(!message.is_finished());
            call.answer("Done!");
            assert_eq!(message.join().unwrap().unwrap(), "Done!");
        });
    }

    #[test]
    fn sample_2_caveat_1_a_handler_that_blocks_delays_no_other_request() {
        let service = Service::start();
        let site = site(&service);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..20).map(|id| load(scope, &site, format!("/direct/{id}"))).collect();
            let calls: [_; 20] = service.calls();
            assert!(get(&site, "/").contains("Wave's samples"), "while 20 handlers wait");
            for call in calls {
                let path = call.path.clone();
                call.answer(&path);
            }
            for (id, page) in waiting.into_iter().enumerate() {
                assert!(page.join().unwrap().contains(&format!("role=\"status\">/reports/{id}</p>")));
            }
        });
        site.stop();
    }

    #[test]
    fn sample_3_the_handler_continues_beside_its_task() {
        let service = Service::start();
        let site = site(&service);
        thread::scope(|scope| {
            let page = scope.spawn(|| get(&site, "/run/7"));
            let [previous, this] = service.calls();
            assert_eq!((previous.path.as_str(), this.path.as_str()), ("/reports/6", "/reports/7"));
            previous.answer("six");
            this.answer("seven");
            assert!(page.join().unwrap().contains("seven Before: six"));
        });
        site.stop();
    }

    #[test]
    fn sample_4_the_limit_of_the_pool_holds_for_all_requests() {
        let service = Service::start();
        let site = site(&service);
        thread::scope(|scope| {
            let pages: Vec<_> = (0..10).map(|id| load(scope, &site, format!("/pooled/{id}"))).collect();
            for _ in 0..5 {
                let two: [_; 2] = service.calls();
                assert!(get(&site, "/").contains("Wave's samples"), "while the pool is full");
                assert!(service.has_no_call(), "the others wait for their turn");
                two.into_iter().for_each(|call| call.answer("reported"));
            }
            assert!(pages.into_iter().all(|page| page.join().unwrap().contains("reported")));
        });
        site.stop();
    }

    #[cfg(unix)]
    #[test]
    fn sample_5_a_process_returns_the_value() {
        let mut client = TestClient::new(app(Config::default(), None).isolated(process_id));
        assert!(client.get("/primes?below=10000").text().contains("There are 1229 primes below 10000."));
        assert_ne!(client.within(|| aside::isolated(process_id, ())).join().unwrap(), std::process::id());
        client.drain();
    }

    fn process_id(_: ()) -> u32 {
        std::process::id()
    }

    #[cfg(unix)]
    #[test]
    fn sample_5_a_process_that_crashes_is_an_error_of_its_call() {
        let mut client = TestClient::new(app(Config::default(), None).isolated(crash));
        let crashed = client.within(|| aside::isolated(crash, ()));
        assert!(matches!(crashed.join(), Err(Failure::Error(_))));
        assert!(client.get("/primes?below=100").text().contains("There are 25 primes below 100."));
        client.drain();
    }

    fn crash(_: ()) {
        std::process::abort();
    }

    #[test]
    fn sample_5_threads_compute_in_parallel() {
        let client = TestClient::new(app(Config::default(), None));
        let both_run = Arc::new(Barrier::new(2));
        let meet = || {
            let both_run = both_run.clone();
            client.within(|| background(move || both_run.wait().is_leader()))
        };
        let leaders = [meet(), meet()].map(|task| task.join().unwrap().unwrap());
        assert_ne!(leaders[0], leaders[1], "neither passes the barrier alone");
        client.drain();
    }

    #[cfg(unix)]
    #[test]
    fn sample_5_the_page_shows_the_progress_of_a_process_and_its_value() {
        let mut client = TestClient::new(app(Config::default(), None));
        assert_eq!(client.post("/job/primes").form(&[("below", "500000")]).send().location(), Some("/"));
        let mut events = client.events("/_aside/live/job");
        wait_for(&mut events, "<progress value=");
        wait_for(&mut events, "<p>There are 41538 primes below 500000.</p>");
        client.drain();
    }

    #[test]
    fn sample_6_a_second_click_starts_no_second_job() {
        let service = Service::start();
        let mut client = TestClient::new(app(Config::default(), Some(service.url())));
        for _ in 0..2 {
            assert_eq!(client.post("/job/reports").send().location(), Some("/"));
        }
        let call = service.next_call();
        assert_eq!(client.running().len(), 1);
        client.post("/job/cancel").send();
        call.answer("one");
        client.drain();
    }

    #[test]
    fn sample_6_a_page_follows_the_job_and_cancels_it() {
        let service = Service::start();
        let mut client = TestClient::new(app(Config::default(), Some(service.url())));
        assert!(!client.get("/").text().contains("<progress"));
        assert_eq!(client.post("/job/reports").send().location(), Some("/"));
        let mut events = client.events("/_aside/live/job");
        service.next_call().answer("one");
        service.next_call().answer("two");
        wait_for(&mut events, "20 %");
        let last = service.next_call();
        let page = client.get("/").text().to_owned();
        assert!(page.contains(r#"<progress value="20" max="100""#) && page.contains(">Cancel</button>"), "{page}");
        assert_eq!(client.post("/job/cancel").send().location(), Some("/"));
        wait_for(&mut events, "Stopping…");
        last.answer("three");
        wait_for(&mut events, "Cancelled.");
        client.drain();
        assert!(service.has_no_call() && client.failures().is_empty());
        assert!(!client.get("/").text().contains(">Cancel</button>"));
    }

    #[test]
    fn sample_6_the_page_says_when_the_job_is_done() {
        let service = Service::start();
        let mut client = TestClient::new(app(Config::default(), Some(service.url())));
        client.post("/job/reports").send();
        (0..10).for_each(|_| service.next_call().answer("a report"));
        client.drain();
        assert!(client.get("/").text().contains("<p>Done.</p>"));
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
        page.evaluate("document.querySelector('[name=below]').value = 1000000");
        page.click("button[formaction='/job/primes']");
        page.wait_for("document.querySelector('progress').value > 0");
        page.evaluate("window.same = true");
        assert_eq!(site.children(), 1);
        let before = page.evaluate("document.querySelector('progress').value");
        page.wait_for(&format!("document.querySelector('progress').value > {before}"));
        page.wait_for("document.body.innerText.includes('There are 78498 primes below 1000000.')");
        assert_eq!(page.evaluate("window.same"), true, "the page was not loaded again");
        assert_eq!(page.messages(), [""; 0]);
    }
}
