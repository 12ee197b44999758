//! The output and the last progress of a job, for code that waits for it and pages that follow it.

use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use aside::jobs::JobState;
use aside::tasks::{Retry, TaskState};
use aside::testing::{EventReader, TestClient};
use aside::{App, Config, Error, Job, Jobs, Request, Result, Status, TaskContext};
use serde::{Deserialize, Serialize};

use crate::jobs::on_each_engine;

const SOON: Duration = Duration::from_secs(20);

/// A job that counts up to five, and ends as its text says.
#[derive(Serialize, Deserialize)]
struct Count(String);

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Counted {
    rows: u64,
    text: String,
}

fn counted() -> Counted {
    Counted { rows: 5, text: "<b>fünf</b>".to_owned() }
}

impl Job for Count {
    const NAME: &'static str = "count";

    fn retry() -> Retry {
        Retry::exponential(2, Duration::from_secs(10))
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        for step in 1..=5 {
            task.progress(step, 5);
            task.message(format!("part {step}"));
        }
        task.output(&counted())?;
        match &*self.0 {
            "fails once" if task.attempt() == 1 => Err(Error::internal("the first time")),
            "fails" => Err(Error::internal("each time")),
            "panics" => panic!("boom"),
            "silent" => task.output(&None::<Counted>),
            "too large" => task.output(&"x".repeat(1 << 20)),
            "too deep" => task.output(&nested(128)),
            "deep" => task.output(&nested(127)),
            "unwritable" => task.output(&std::collections::HashMap::from([((1, 2), 3)])),
            "at the limit" => task.output(&"x".repeat((1 << 20) - 2)),
            _ => Ok(()),
        }
    }
}

/// Returns nested lists.
fn nested(depth: usize) -> serde_json::Value {
    (0..depth).fold(serde_json::Value::Null, |inner, _| serde_json::json!([inner]))
}

fn count(end: &str) -> Count {
    Count(end.to_owned())
}

/// A page that follows the job in the path, with its output.
const PAGE: &str = "{% include \"aside/progress.html\" %}{{ done }} of {{ total }}: {{ message }}; \
                    {% if output is not none %}{{ output.rows }} rows, {{ output.text }}{% else %}no output{% endif %}";

fn app(jobs: Jobs, config: Config) -> App {
    App::with_config(config).jobs(jobs).template("page.html", PAGE).get("/jobs/{id}/live", |req: &mut Request| {
        let live = req.jobs()?.follow(req.param("id")?)?;
        req.live(&live.ok_or_else(|| Error::not_found("There is no such job."))?, "page.html")
    })
}

fn client(jobs: Jobs) -> TestClient {
    TestClient::new(app(jobs.register::<Count>(), Config::default()))
}

fn refusal<T>(outcome: Result<T>) -> String {
    outcome.err().expect("it is refused").chain()
}

/// Returns the last event before the end of the stream.
fn last_event(events: &mut EventReader) -> String {
    let mut last = String::new();
    loop {
        let event = events.next();
        if event.name == "end" {
            return last;
        }
        last = event.data;
    }
}

#[test]
fn the_output_of_a_job_is_kept_with_it() {
    on_each_engine(|kept| {
        let client = client(kept);
        let jobs = client.jobs();
        let id = jobs.enqueue(count("well")).unwrap().id;
        assert_eq!(jobs.output::<Counted>(id).unwrap(), None, "it waits");
        let job = jobs.run_next().unwrap();
        assert_eq!((job.state, job.done, job.total, job.message.as_str()), (JobState::Done, 5, 5, "part 5"));
        assert_eq!(job.output::<Counted>().unwrap(), Some(counted()));
        assert_eq!(jobs.output::<Counted>(id).unwrap(), Some(counted()));
        let wrong = refusal(jobs.output::<u64>(id));
        assert!(wrong.contains(&format!("job {id}: the output cannot be read as a u64")), "{wrong}");
        let listed = jobs.list(JobState::Done, None).unwrap().pop().unwrap();
        assert!(refusal(listed.output::<Counted>()).contains("Jobs::output"));
        assert!(!format!("{job:?}").contains("rows") && !serde_json::to_string(&job).unwrap().contains("rows"));
        jobs.discard(id).unwrap();
        assert_eq!(jobs.output::<Counted>(id).unwrap(), None, "it is not there");
    });
}

#[test]
fn the_last_output_counts_and_one_of_a_failed_attempt_is_not_kept() {
    on_each_engine(|kept| {
        let mut client = client(kept);
        let jobs = client.jobs();
        let silent = jobs.enqueue(count("silent")).unwrap().id;
        jobs.run_next().unwrap();
        assert_eq!(jobs.output::<Option<Counted>>(silent).unwrap(), Some(None));
        for end in ["fails", "panics"] {
            let id = jobs.enqueue(count(end)).unwrap().id;
            let job = jobs.run_next().unwrap();
            assert_eq!((job.id, job.state), (id, JobState::Scheduled), "{end}");
            assert_eq!((job.done, job.message.as_str()), (5, "part 5"), "{end}: its last progress is there");
            assert_eq!(job.output::<Counted>().unwrap(), None, "{end}");
            client.advance(Duration::from_secs(20));
            let job = jobs.run_next().unwrap();
            assert_eq!((job.state, job.done, job.output::<Counted>().unwrap()), (JobState::Dead, 5, None), "{end}");
        }
    });
}

#[test]
fn an_output_beyond_the_limit_fails_the_job_with_a_clear_error() {
    on_each_engine(|kept| {
        let client = client(kept);
        let jobs = client.jobs();
        let id = jobs.enqueue(count("at the limit")).unwrap().id;
        assert_eq!(jobs.run_next().unwrap().state, JobState::Done);
        assert_eq!(jobs.output::<String>(id).unwrap().unwrap().len(), (1 << 20) - 2);
        let deep = jobs.enqueue(count("deep")).unwrap().id;
        assert_eq!(jobs.wait(deep, SOON).unwrap().output::<serde_json::Value>().unwrap(), Some(nested(127)));
        for (end, words) in [
            ("too large", "the output of the job `count` has 1048578 bytes; the limit is 1048576"),
            ("too deep", "the output of the job `count` cannot be read again: recursion limit exceeded"),
            ("unwritable", "the output of the job `count` cannot be written as JSON: key must be a string"),
        ] {
            jobs.enqueue(count(end)).unwrap();
            let job = jobs.run_next().unwrap();
            assert!(job.failures[0].message.contains(words), "{:?}", job.failures);
            assert_eq!(job.output::<Counted>().unwrap(), None);
        }
    });
}

#[test]
fn a_task_that_is_not_a_job_has_no_output() {
    let client = TestClient::new(App::with_config(Config::default()));
    let outcome = client.within(|| aside::Task::named("plain").spawn(|task| task.output(&17))).join();
    let aside::Failure::Error(error) = outcome.unwrap_err() else { panic!("an error") };
    assert!(error.chain().contains("only a job has an output"), "{error:?}");
}

/// A job that sets outputs before, in and after its transaction.
#[cfg(feature = "sqlite")]
#[derive(Serialize, Deserialize)]
struct Charge(String);

#[cfg(feature = "sqlite")]
impl Job for Charge {
    const NAME: &'static str = "charge";

    fn run(self, task: &TaskContext) -> Result<()> {
        task.output(&"before")?;
        task.progress(1, 2);
        task.transaction(|_| {
            task.progress(2, 2);
            match &*self.0 {
                "within" => task.output(&"within"),
                "fails" => Err(Error::internal("no credit")),
                _ => Ok(()),
            }
        })?;
        if self.0 == "after" {
            *task.state::<Mutex<String>>().lock().unwrap() = refusal(task.output(&"after"));
        }
        Ok(())
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn an_output_is_committed_with_the_transaction_of_the_job() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::sqlite(folder.path().join("jobs.db")).unwrap().register::<Charge>();
    let client = TestClient::new(App::with_config(Config::default()).jobs(jobs).state(Mutex::new(String::new())));
    let outcome = |end: &str| {
        client.jobs().enqueue(Charge(end.to_owned())).unwrap();
        let job = client.jobs().run_next().unwrap();
        (job.state, job.done, job.output::<String>().unwrap())
    };
    let done = |output: &str| (JobState::Done, 2, Some(output.to_owned()));
    assert_eq!(outcome("before"), done("before"));
    assert_eq!(outcome("within"), done("within"));
    assert_eq!(outcome("fails"), (JobState::Scheduled, 2, None));
    assert_eq!(outcome("after"), done("before"));
    let refused = client.state::<Mutex<String>>().lock().unwrap().clone();
    assert!(refused.contains("the job `charge` can no longer set its output"), "{refused}");
}

#[test]
fn a_test_that_waits_for_a_job_runs_it() {
    on_each_engine(|kept| {
        let mut client = client(kept);
        let jobs = client.jobs();
        let first = jobs.enqueue(count("well")).unwrap().id;
        let id = jobs.enqueue(count("fails once")).unwrap().id;
        let words = refusal(jobs.wait(id, Duration::MAX));
        assert!(words.contains(&format!("job {id} (count) is scheduled, and in a test")), "{words}");
        assert_eq!(jobs.find(first).unwrap().unwrap().state, JobState::Done);
        client.advance(Duration::from_secs(20));
        let job = client.within(|| client.jobs().wait(id, Duration::MAX)).unwrap();
        assert_eq!((job.state, job.attempt, job.output().unwrap()), (JobState::Done, 2, Some(counted())));
        assert_eq!(jobs.wait(id, Duration::ZERO).unwrap(), job, "it has ended");
        assert_eq!(jobs.wait(999, Duration::MAX).unwrap_err().status_code(), Status::NOT_FOUND);
    });
}

/// The start messages of held jobs, and the gates that they wait for.
struct Gates {
    tell: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

/// A job that waits between its last step and its end, and not before.
#[derive(Serialize, Deserialize)]
struct Held(String);

impl Job for Held {
    const NAME: &'static str = "held";
    const QUEUE: &'static str = "held";

    fn retry() -> Retry {
        Retry::exponential(1, Duration::ZERO)
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        let gates = task.state::<Gates>();
        task.progress(3, 5);
        task.message("part 3");
        gates.tell.lock().unwrap().send(()).unwrap();
        if let Some(other) = self.0.strip_prefix("waits for ") {
            let other = other.parse().ok().or(task.job()).unwrap();
            return task.jobs()?.wait(other, Duration::MAX).map(drop);
        }
        while gates.go.lock().unwrap().recv_timeout(Duration::from_millis(5)).is_err() {
            if task.is_cancelled() {
                break;
            }
        }
        task.progress(5, 5);
        task.message("part 5");
        task.output(&counted())?;
        match &*self.0 {
            "fails" => Err(Error::internal("each time")),
            _ => Ok(task.check_cancelled()?),
        }
    }
}

struct Site {
    server: aside::server::Server,
    begun: Receiver<()>,
    go: Sender<()>,
}

impl Site {
    /// Starts a process that runs jobs.
    fn working(jobs: &Jobs) -> Site {
        let ((tell, begun), (go, wait)) = (channel(), channel());
        let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
        let app = app(jobs.clone().register::<Held>().register::<Count>(), config);
        let app = app.state(Gates { tell: Mutex::new(tell), go: Mutex::new(wait) });
        let app = app.get("/wait/{id}", |req: &mut Request| {
            let job = req.jobs()?.wait(req.param("id")?, SOON)?;
            Ok::<_, Error>(format!("{} {:?}", job.state, job.output::<Counted>()?))
        });
        Site { server: app.start().unwrap(), begun, go }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.addr())
    }
}

fn get(url: &str) -> String {
    let agent = ureq::Agent::config_builder().timeout_global(Some(SOON)).http_status_as_error(false).build();
    ureq::Agent::from(agent).get(url).call().unwrap().body_mut().read_to_string().unwrap()
}

/// Runs a test with a server that runs the jobs and a second handle on the same store, like that of another process;
/// memory has no second one.
fn on_two_handles(test: impl Fn(&Site, &Jobs, &Jobs)) {
    let run = |one: Jobs, other: Jobs| {
        let (one, other) = (one.register::<Held>().register::<Count>(), other.register::<Held>().register::<Count>());
        let site = Site::working(&one);
        test(&site, &one, &other);
        site.server.stop();
    };
    let memory = Jobs::memory();
    run(memory.clone(), memory);
    #[cfg(feature = "sqlite")]
    {
        let folder = tempfile::tempdir().unwrap();
        let open = || Jobs::sqlite(folder.path().join("jobs.db")).unwrap();
        run(open(), open());
    }
    #[cfg(all(unix, feature = "redis"))]
    if let Some((_server, url)) = crate::jobs::redis_database() {
        run(Jobs::redis(&url).unwrap(), Jobs::redis(&url).unwrap());
    }
}

#[test]
fn a_job_is_waited_for_here_and_in_another_process() {
    on_two_handles(|site, one, other| {
        for (end, state) in [("well", JobState::Done), ("fails", JobState::Dead)] {
            let id = one.enqueue(Held(end.to_owned())).unwrap().id;
            site.begun.recv_timeout(SOON).unwrap();
            std::thread::scope(|scope| {
                let waits = [one, other].map(|jobs| scope.spawn(move || jobs.wait(id, SOON).unwrap()));
                site.go.send(()).unwrap();
                for job in waits.map(|wait| wait.join().unwrap()) {
                    assert_eq!((job.id, job.state, job.done, job.message.as_str()), (id, state, 5, "part 5"));
                    let output = (state == JobState::Done).then(counted);
                    assert_eq!(job.output::<Counted>().unwrap(), output, "{end}");
                }
            });
        }
        let id = other.enqueue(count("well")).unwrap().id;
        assert_eq!(other.wait(id, SOON).unwrap().output::<Counted>().unwrap(), Some(counted()));
    });
}

#[test]
fn a_wait_that_times_out_reports_the_state_of_the_job() {
    on_two_handles(|site, one, other| {
        let id = one.enqueue(Held("well".into())).unwrap().id;
        site.begun.recv_timeout(SOON).unwrap();
        for jobs in [one, other] {
            let late = jobs.wait(id, Duration::from_millis(10)).unwrap_err();
            assert_eq!(late.status_code(), Status::GATEWAY_TIMEOUT);
            assert!(late.chain().contains(&format!("job {id} (held) is still running after 10 ms")), "{late:?}");
        }
        site.go.send(()).unwrap();
        assert_eq!(other.wait(id, SOON).unwrap().state, JobState::Done);
        // Discarded during a wait.
        one.pause("held").unwrap();
        let id = one.enqueue(Held("never".into())).unwrap().id;
        std::thread::scope(|scope| {
            let wait = scope.spawn(|| other.wait(id, SOON));
            assert!(one.discard(id).unwrap());
            assert_eq!(wait.join().unwrap().unwrap_err().status_code(), Status::NOT_FOUND);
        });
        one.resume("held").unwrap();
    });
}

#[test]
fn a_job_that_waits_for_itself_gets_an_error() {
    let jobs = Jobs::memory().register::<Held>();
    let site = Site::working(&jobs);
    let id = jobs.enqueue(Held("waits for itself".into())).unwrap().id;
    let job = jobs.wait(id, SOON).unwrap();
    assert!(job.failures[0].message.contains("cannot wait for its own end"), "{:?}", job.failures);
    site.server.stop();
}

#[test]
fn a_handler_waits_for_a_job() {
    let jobs = Jobs::memory().register::<Held>();
    let site = Site::working(&jobs);
    let id = jobs.enqueue(Held("well".into())).unwrap().id;
    site.begun.recv_timeout(SOON).unwrap();
    let url = site.url(&format!("/wait/{id}"));
    std::thread::scope(|scope| {
        let answer = scope.spawn(|| get(&url));
        site.go.send(()).unwrap();
        assert_eq!(answer.join().unwrap(), format!("done Some({:?})", counted()));
    });
    site.server.stop();
}

/// Otherwise a graceful shutdown would wait for the timeout.
#[test]
fn a_job_that_waits_for_another_can_be_cancelled() {
    let jobs = Jobs::memory().register::<Held>().register::<Count>();
    let site = Site::working(&jobs);
    jobs.pause("default").unwrap();
    let never = jobs.enqueue(count("well")).unwrap().id;
    let id = jobs.enqueue(Held(format!("waits for {never}"))).unwrap().id;
    site.begun.recv_timeout(SOON).unwrap();
    jobs.cancel(id).unwrap();
    assert_eq!(jobs.wait(id, SOON).unwrap().state, JobState::Cancelled);
    site.server.stop();
}

/// Regression: the progress since the last heartbeat did not reach the page, which ended with an earlier step.
#[test]
fn a_page_ends_with_the_last_progress_and_the_output() {
    on_each_engine(|kept| {
        let mut client = client(kept);
        for (end, last) in [
            ("well", "<p>part 5</p>\n</div>5 of 5: part 5; 5 rows, &lt;b&gt;fünf&lt;/b&gt;"),
            (
                "fails",
                "<p>This did not work out after 2 attempts. The reason is in the log.</p>\n</div>5 of 5: part 5; no output",
            ),
        ] {
            let jobs = client.jobs();
            let id = jobs.enqueue(count(end)).unwrap().id;
            let mut events = client.events(&format!("/jobs/{id}/live"));
            assert!(events.next().data.ends_with("0 of 0: ; no output"));
            jobs.run_next().unwrap();
            client.advance(Duration::from_secs(20));
            jobs.run_next();
            let shown = last_event(&mut events);
            assert!(shown.ends_with(last), "{end}: {shown}");
            // A later page has the same end.
            let mut events = client.events(&format!("/jobs/{id}/live"));
            assert_eq!(last_event(&mut events), shown);
        }
    });
}

#[test]
fn a_page_of_another_process_ends_with_the_last_progress_and_never_goes_back() {
    on_two_handles(|site, one, other| {
        for (end, state) in
            [("well", TaskState::Done), ("fails", TaskState::Failed), ("is cancelled", TaskState::Cancelled)]
        {
            let id = one.enqueue(Held(end.to_owned())).unwrap().id;
            site.begun.recv_timeout(SOON).unwrap();
            let followed = [one, other].map(|jobs| jobs.follow(id).unwrap().unwrap());
            match state {
                TaskState::Cancelled => assert_eq!(other.cancel(id).unwrap(), Some(JobState::Running)),
                _ => site.go.send(()).unwrap(),
            }
            let began = std::time::Instant::now();
            for live in &followed {
                let mut last = 0;
                loop {
                    let is_last = live.is_finished();
                    let now = live.get();
                    assert!(now.done >= last, "{end}: from {last} back to {}", now.done);
                    last = now.done;
                    if is_last {
                        assert_eq!((now.state, now.done, now.total, now.message.as_str()), (state, 5, 5, "part 5"));
                        break;
                    }
                    assert!(began.elapsed() < SOON, "{end}: it does not end");
                    std::thread::yield_now();
                }
            }
        }
    });
}

#[test]
fn a_served_page_ends_with_the_last_progress_and_the_output() {
    let jobs = Jobs::memory().register::<Held>();
    let site = Site::working(&jobs);
    let id = jobs.enqueue(Held("well".into())).unwrap().id;
    site.begun.recv_timeout(SOON).unwrap();
    let url = site.url(&format!("/jobs/{id}/live"));
    let stream = std::thread::scope(|scope| {
        let stream = scope.spawn(|| get(&url));
        site.go.send(()).unwrap();
        stream.join().unwrap()
    });
    let data: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let ends = ["part 5", "5 of 5: part 5; 5 rows, &lt;b&gt;fünf&lt;/b&gt;"];
    assert!(ends.iter().all(|end| data.iter().any(|line| line.contains(end))), "{stream}");
    assert!(stream.contains("event: end"), "{stream}");
    site.server.stop();
}

/// Returns a page with the built-in progress of the job.
fn built_in(client: &mut TestClient, id: u64) -> String {
    client.events(&format!("/built-in/{id}")).next().data
}

/// Regression: a failed job that waited for its retry only waited for its turn, beside the message of its failed attempt.
#[test]
fn the_page_of_a_job_shows_what_it_waits_for_and_no_internal_details() {
    on_each_engine(|kept| {
        let app = app(kept.register::<Count>(), Config::default()).get("/built-in/{id}", |req: &mut Request| {
            let live = req.jobs()?.follow(req.param("id")?)?;
            req.live(&live.ok_or_else(|| Error::not_found("There is no such job."))?, "aside/progress.html")
        });
        let mut client = TestClient::new(app);
        let jobs = client.jobs();
        let id = jobs.enqueue(count("fails")).unwrap().id;
        assert!(built_in(&mut client, id).contains("<p>Waiting for its turn…</p>"));
        jobs.pause("default").unwrap();
        assert!(built_in(&mut client, id).contains("<p>Paused for now.</p>"));
        assert!(jobs.find(id).unwrap().unwrap().is_paused && jobs.list(JobState::Waiting, None).unwrap()[0].is_paused);
        jobs.resume("default").unwrap();
        assert!(!jobs.find(id).unwrap().unwrap().is_paused);

        jobs.run_next().unwrap();
        let page = built_in(&mut client, id);
        let expected = "<p>Attempt 1 of 2 failed. The next attempt starts at <time datetime=\"20";
        assert!(page.contains(expected) && page.contains("Z\">20") && page.contains(" UTC</time>.</p>"), "{page}");
        assert!(!page.contains("each time") && !page.contains("part 5") && !page.contains("value="), "{page}");
        jobs.pause("default").unwrap();
        assert!(built_in(&mut client, id).contains("<p>Attempt 1 of 2 failed. Paused for now.</p>"));
        jobs.resume("default").unwrap();

        assert!(jobs.retry(id).unwrap());
        assert!(built_in(&mut client, id).contains("<p>Attempt 1 of 2 failed. Waiting for the next attempt…</p>"));
        jobs.run_next().unwrap();
        let page = built_in(&mut client, id);
        assert!(page.contains("<p>This did not work out after 2 attempts. The reason is in the log.</p>"), "{page}");
        assert!(jobs.retry(id).unwrap(), "a dead job begins again");
        assert!(built_in(&mut client, id).contains("<p>Waiting for its turn…</p>"));

        jobs.cancel(id).unwrap();
        assert!(built_in(&mut client, id).contains("<p>Cancelled.</p>"));
        let later = jobs.enqueue(count("well").delay(Duration::from_secs(3_600))).unwrap().id;
        assert!(built_in(&mut client, later).contains("<p>Starts at <time datetime="));
    });
}
