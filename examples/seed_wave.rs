//! What Wave's page on background tasks shows, sample by sample: `cargo run --example seed_wave`.
//!
//! Reports come from `REPORTS_URL`; unless it is set, from a slow service that this program starts for itself.

use std::ops::Range;
use std::time::Duration;

use aside::{App, Config, Error, Failure, Pool, Request, Response, Result};
use aside::{Task, TaskContext, TaskHandle, TaskInfo, background, context, redirect};
use serde::Deserialize;

fn main() -> Result<()> {
    let config = Config::from_env()?;
    if let Ok(reports) = std::env::var("REPORTS_URL") {
        return app(config, reports).run();
    }
    let service = slow_service().start()?;
    app(config, format!("http://{}", service.addr())).run()
}

/// A report takes 3 s.
fn slow_service() -> App {
    let config = Config { address: "127.0.0.1:0".into(), ..Config::default() };
    App::with_config(config).get("/reports/{id}", |req: &mut Request| {
        std::thread::sleep(Duration::from_secs(3));
        Ok::<_, Error>(format!("Report {}: all is well.", req.param::<u32>("id")?))
    })
}

struct Site {
    reports: String,
    agent: ureq::Agent,
    /// At most two calls at once: more than that the service does not like.
    callers: Pool,
    /// As many as there are cores.
    cores: Pool,
}

fn app(config: Config, reports: impl Into<String>) -> App {
    let agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(30))).build().into();
    let cores = Pool::new(std::thread::available_parallelism().map_or(1, usize::from));
    App::with_config(config)
        .state(Site { reports: reports.into(), agent, callers: Pool::new(2), cores })
        .template("page.html", PAGE)
        .get("/", page)
        .get("/direct/{id}", direct)
        .get("/aside/{id}", set_aside)
        .get("/pooled/{id}", pooled)
        .get("/primes", primes)
        .template("job.html", JOB)
        .get("/job", job)
        .post("/job", start_job)
        .get("/job/live", follow_job)
        .post("/job/cancel", cancel_job)
}

fn page(req: &mut Request) -> Result<Response> {
    show(req, "")
}

fn show(req: &mut Request, message: &str) -> Result<Response> {
    req.render("page.html", context! { message })
}

// Sample 1: "a function that blocks"
// As there: it waits, for a service in the place of `time.sleep`.
fn blocking_function(site: &Site, id: u32) -> Result<String> {
    let mut answer = site.agent.get(format!("{}/reports/{id}", site.reports)).call()?;
    Ok(answer.body_mut().read_to_string()?)
}

// Sample 2: "don't do this"
// Do it: a request has a thread to itself, and while this one waits the others are answered.
fn direct(req: &mut Request) -> Result<Response> {
    let message = blocking_function(&req.state::<Site>(), req.param("id")?)?;
    show(req, &message)
}

// Sample 3: "Instead, do this"
// For what the handler goes on beside: two reports at once, and the page when both are there.
fn set_aside(req: &mut Request) -> Result<Response> {
    let (site, id) = (req.state::<Site>(), req.param::<u32>("id")?);
    let former = background(move || blocking_function(&site, id.saturating_sub(1)));
    let this = blocking_function(&req.state::<Site>(), id)?;
    let former = former.join().expect("panics are caught in the task")?;
    show(req, &format!("{this} Before: {former}"))
}

// Sample 4: "a thread pool"
// The pool is the site's and not the request's, so that its bound holds for all. The call stays on the request's thread.
fn pooled(req: &mut Request) -> Result<Response> {
    let (site, id) = (req.state::<Site>(), req.param("id")?);
    let message = site.callers.run(|| blocking_function(&site, id))??;
    show(req, &message)
}

// Sample 5: "a process pool"
// Python needs processes to compute on two cores; threads do that here. What else a process gives, a crash or a leak that
// stays in it, a `Job` has with `const ISOLATED: bool = true`. A panic is the task's failure in any case.
#[derive(Deserialize)]
struct Question {
    below: u32,
}

fn primes(req: &mut Request) -> Result<Response> {
    let Question { below } = req.query()?;
    let (below, cores) = (below.min(5_000_000), &req.state::<Site>().cores);
    let parts = [0..below / 3, below / 3..below / 3 * 2, below / 3 * 2..below];
    let counted = parts.map(|part| cores.background(|| aside::ok(count_primes(part))));
    let count = counted.into_iter().map(TaskHandle::join).sum::<Result<usize, Failure>>()?;
    show(req, &format!("There are {count} primes below {below}."))
}

fn count_primes(range: Range<u32>) -> usize {
    let is_prime = |number: &u32| *number > 1 && !(2..=number.isqrt()).any(|divisor| number.is_multiple_of(divisor));
    range.filter(is_prime).count()
}

// Sample 6: "background-progress", the example that the page links to
// Wave's job is handed the page, the event loop and an event to be cancelled by. This one says how far it is, and pages show
// it; without JavaScript as it was when they were loaded.
fn reports(site: &Site, task: &TaskContext) -> Result<()> {
    for id in 0..10 {
        task.check()?; // ends here when it was told to cancel
        task.progress(id.into(), 10);
        blocking_function(site, id)?;
    }
    Ok(())
}

fn start_job(req: &mut Request) -> Result<Response> {
    let (site, key) = (req.state::<Site>(), format!("reports-{:x}", getrandom::u64()?));
    req.session().insert("job", &key);
    Task::named("reports").key(key).run(move |task| reports(&site, task));
    Ok(redirect("/job"))
}

/// The visitor's own job: its key is in his session.
fn job_of(req: &mut Request) -> Result<TaskInfo> {
    let key = req.session().get::<String>("job");
    key.and_then(|key| aside::task(&key)).ok_or_else(|| Error::not_found("There is no job."))
}

fn job(req: &mut Request) -> Result<Response> {
    let progress = job_of(req)?.live().part(req, "/job/live", "job.html")?;
    req.render("page.html", context! { progress })
}

fn follow_job(req: &mut Request) -> Result<Response> {
    let live = job_of(req)?.live();
    req.live(&live, "job.html")
}

fn cancel_job(req: &mut Request) -> Result<Response> {
    job_of(req)?.cancel();
    Ok(redirect("/job"))
}

const JOB: &str = r#"{% include "aside/progress.html" %}
{% if not is_finished and not is_cancelling %}
<form method="post" action="/job/cancel"><button>Cancel</button></form>
{% endif %}
"#;

// Caveat 1: "Performing blocking operations in your handler will hang your app's server"
// It hangs nothing: see sample 2.

// Caveat 2: "better off replacing blocking HTTP clients like requests with non-blocking clients"
// `ureq` blocks, and may: a thread that waits costs its stack. There are no two kinds of functions, nor of clients.

// The page

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Wave's samples</title>
<h1>Wave's samples</h1>
{% if message %}<p role="status">{{ message }}</p>{% endif %}
<ul>
<li><a href="/direct/7">A report, fetched in the handler</a></li>
<li><a href="/aside/7">Two reports, fetched at once</a></li>
<li><a href="/pooled/7">A report, when fewer than two are being fetched</a></li>
</ul>
<form action="/primes">
<p><label>Primes below <input name="below" type="number" min="0" max="5000000" value="1000000" required></label></p>
<button>Count</button>
</form>
<form method="post" action="/job"><button>Start ten reports</button></form>
{% if progress %}{{ progress }}{% endif %}
</html>
"#;

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread::{self, Scope, ScopedJoinHandle};

    use aside::testing::TestClient;
    use aside::{Server, Status};

    use super::*;
    use crate::seeds::{Service, wait_for};

    /// The site over sockets, as visitors have it.
    fn site(service: &Service) -> Server {
        app(Config { address: "127.0.0.1:0".into(), ..Config::default() }, service.url()).start().unwrap()
    }

    fn get(site: &Server, path: &str) -> String {
        let mut answer = ureq::get(format!("http://{}{path}", site.addr())).call().unwrap();
        answer.body_mut().read_to_string().unwrap()
    }

    /// A visitor, and the page that he gets.
    fn visit<'s>(scope: &'s Scope<'s, '_>, site: &'s Server, path: String) -> ScopedJoinHandle<'s, String> {
        scope.spawn(move || get(site, &path))
    }

    #[test]
    fn sample_1_caveat_2_a_function_may_block() {
        let service = Service::start();
        let client = TestClient::new(app(Config::default(), service.url()));
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
    fn sample_2_caveat_1_a_handler_that_blocks_keeps_nobody_else_waiting() {
        let service = Service::start();
        let site = site(&service);
        thread::scope(|scope| {
            let waiting: Vec<_> = (0..20).map(|id| visit(scope, &site, format!("/direct/{id}"))).collect();
            let calls: [_; 20] = service.calls();
            assert!(get(&site, "/").contains("Wave's samples"), "while 20 handlers wait");
            for call in calls {
                let path = call.path.clone();
                call.answer(&path);
            }
            for (id, page) in waiting.into_iter().enumerate() {
                assert!(page.join().unwrap().contains(&format!("<p role=\"status\">/reports/{id}</p>")));
            }
        });
        site.stop();
    }

    #[test]
    fn sample_3_the_handler_goes_on_beside_its_task() {
        let service = Service::start();
        let site = site(&service);
        thread::scope(|scope| {
            let page = scope.spawn(|| get(&site, "/aside/7"));
            let [former, this] = service.calls();
            assert_eq!((former.path.as_str(), this.path.as_str()), ("/reports/6", "/reports/7"));
            former.answer("six");
            this.answer("seven");
            assert!(page.join().unwrap().contains("seven Before: six"));
        });
        site.stop();
    }

    #[test]
    fn sample_4_the_bound_of_the_pool_holds_for_all_requests() {
        let service = Service::start();
        let site = site(&service);
        thread::scope(|scope| {
            let pages: Vec<_> = (0..10).map(|id| visit(scope, &site, format!("/pooled/{id}"))).collect();
            for _ in 0..5 {
                let two: [_; 2] = service.calls();
                assert!(get(&site, "/").contains("Wave's samples"), "while the pool is full");
                assert!(service.has_no_call(), "the others wait for a place");
                two.into_iter().for_each(|call| call.answer("reported"));
            }
            assert!(pages.into_iter().all(|page| page.join().unwrap().contains("reported")));
        });
        site.stop();
    }

    #[test]
    fn sample_5_threads_compute_in_parallel() {
        let mut client = TestClient::new(app(Config::default(), "http://unused.example"));
        assert!(client.get("/primes?below=10000").text().contains("There are 1229 primes below 10000."));
        let both_are_there = Arc::new(Barrier::new(2));
        let two = Pool::new(2);
        let meet = || {
            let there = both_are_there.clone();
            client.within(|| {
                two.background(move || {
                    there.wait();
                })
            })
        };
        [meet(), meet()].into_iter().for_each(|task| task.join().unwrap());
        client.settle();
    }

    #[test]
    fn sample_5_a_panic_in_a_task_ends_nothing_else() {
        let mut client = TestClient::new(app(Config::default(), "http://unused.example"));
        let cores = client.state::<Site>().cores.clone();
        let counting = client.within(|| cores.background(|| -> Result<()> { panic!("in a computation") }));
        assert!(matches!(counting.join(), Err(Failure::Panic(_))));
        assert!(client.get("/primes?below=100").text().contains("There are 25 primes"));
        client.settle();
    }
    #[test]
    fn sample_6_a_page_follows_the_job_and_cancels_it() {
        let service = Service::start();
        let mut client = TestClient::new(app(Config::default(), service.url()));
        assert_eq!(client.get("/job").status(), Status::NOT_FOUND);
        assert_eq!(client.post("/job").send().location(), Some("/job"));
        let mut events = client.events("/job/live");
        service.next_call().answer("one");
        service.next_call().answer("two");
        wait_for(&mut events, "20 %");
        let last = service.next_call();
        let page = client.get("/job").text().to_owned();
        assert!(
            page.contains(r#"<progress value="20" max="100""#) && page.contains("<button>Cancel</button>"),
            "{page}"
        );
        assert_eq!(client.post("/job/cancel").send().location(), Some("/job"));
        wait_for(&mut events, "Stopping…");
        last.answer("three");
        wait_for(&mut events, "Cancelled.");
        client.settle();
        assert!(service.has_no_call() && client.failures().is_empty());
        assert!(!client.get("/job").text().contains("<button>Cancel</button>"));
    }

    #[test]
    fn sample_6_a_job_comes_to_its_end() {
        let service = Service::start();
        let mut client = TestClient::new(app(Config::default(), service.url()));
        client.post("/job").send();
        (0..10).for_each(|_| service.next_call().answer("a report"));
        client.settle();
        assert!(client.get("/job").text().contains("<p>Done.</p>"));
    }
}
