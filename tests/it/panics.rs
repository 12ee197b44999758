//! Application code that panics in the `Display`, `source` and `Drop` of its values.

use std::error::Error as StdError;
use std::fmt;
use std::panic::panic_any;
use std::sync::mpsc::channel;
use std::time::Duration;

use aside::jobs::JobState;
use aside::tasks::Retry;
use aside::tasks::TaskState;
use aside::testing::TestClient;
use aside::{App, Config, Failure, IntoResponse, Job, Jobs, Live, Request, Response, Result, Task};
use aside::{TaskContext, background};
use log::Level;
use serde::{Deserialize, Serialize};

use crate::logs;
use crate::wire::{Raw, config, start};

/// A value that panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("a bomb went off");
    }
}

/// An error whose methods all panic.
#[derive(Debug)]
struct Hostile(&'static str);

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)?;
        panic!("in a Display")
    }
}

impl StdError for Hostile {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        panic!("in a source")
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        panic!("in an error's drop");
    }
}

/// A client with one task slot, so that a lost slot is noticed.
fn client() -> TestClient {
    TestClient::new(App::with_config(Config { max_tasks: 1, ..Config::default() }))
}

/// Checks that a task runs: a slot is free, and the thread pool works.
fn assert_tasks_run(client: &TestClient) {
    assert_eq!(client.within(|| Task::named("after").spawn(|_| 7).join()).unwrap(), 7);
    client.drain();
    assert_eq!(client.counts().unfinished, 0);
}

#[test]
fn a_task_whose_error_panics_has_failed_and_releases_its_slot() {
    logs::record();
    let client = client();
    client.within(|| {
        let pooled = Task::named("hostile-pooled").spawn(|_| Err::<(), _>(Hostile("unpaid")));
        let info = pooled.info().clone();
        assert!(matches!(pooled.join(), Err(Failure::Error(_))));
        assert_eq!(info.state(), TaskState::Failed);
        assert!(
            info.failure().unwrap().starts_with("unpaid (its Display panicked: in a Display, at tests/it/panics.rs:")
        );
        let own = background(|| Err::<(), _>(Hostile("unsent"))).join();
        assert!(matches!(own, Ok(Err(Failure::Error(_)))));
        let retry = Retry::exponential(2, Duration::from_millis(1));
        let retried = Task::named("hostile-retried").retry(retry).spawn(|_| Err::<(), _>(Hostile("untried")));
        assert!(matches!(retried.join(), Err(Failure::Error(_))));
    });
    assert_eq!(logs::at(Level::Error, "hostile-pooled failed: unpaid (its Display panicked").len(), 1);
    assert_eq!(logs::at(Level::Warn, "hostile-retried failed: untried (its Display panicked").len(), 1);
    assert_eq!(logs::at(Level::Error, "hostile-retried failed: untried (its Display panicked").len(), 1);
    assert_tasks_run(&client);
    assert_eq!(client.counts().failed, 3);
}

#[test]
fn a_retry_predicate_that_panics_allows_the_retry() {
    let client = client();
    let retry = Retry::exponential(2, Duration::from_millis(1)).only_if(|_| panic!("is it worth it?"));
    let outcome = client.within(|| {
        let flaky = |task: &TaskContext| if task.attempt() == 1 { Err("down") } else { Ok(task.attempt()) };
        Task::named("asked").retry(retry).spawn(flaky).join()
    });
    assert_eq!(outcome.unwrap(), 2);
    assert_tasks_run(&client);
}

#[test]
fn a_function_whose_drop_panics_releases_its_thread_and_slot() {
    let client = client();
    let bomb = Bomb;
    let outcome = client.within(|| {
        let retried = Task::named("armed").retry(Retry::exponential(1, Duration::ZERO));
        retried.spawn(move |_| {
            let _armed = &bomb;
            1
        })
    });
    assert_eq!(outcome.join().unwrap(), 1);
    assert_tasks_run(&client);
    // A function that is never called.
    let (release, wait) = channel::<()>();
    let (tell, begun) = channel();
    let bomb = Bomb;
    let never = client.within(|| {
        Task::named("first").spawn(move |_| {
            tell.send(()).unwrap();
            wait.recv()
        });
        begun.recv().unwrap();
        Task::named("never").spawn(move |_| {
            let _armed = bomb;
        })
    });
    never.cancel();
    drop(release);
    assert!(matches!(never.join(), Err(Failure::Cancelled)));
    assert_tasks_run(&client);
}

#[test]
fn a_panic_whose_payload_panics_is_a_normal_failure() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic_any(Bomb);
        }
    }
    let client = client();
    client.within(|| {
        let pooled = Task::named("payload").spawn(|_| -> Result<()> { panic_any(Payload) });
        assert!(matches!(pooled.join(), Err(Failure::Panic(panic)) if panic.message == "(no message)"));
        let own = background(|| -> Result<()> { panic_any(Payload) }).join();
        assert!(matches!(own, Ok(Err(Failure::Panic(_)))));
    });
    assert_tasks_run(&client);
}

#[derive(Serialize, Deserialize)]
struct Charge;

impl Job for Charge {
    const NAME: &'static str = "charge-hostile";

    fn retry() -> Retry {
        Retry::exponential(2, Duration::from_secs(10))
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        Err(Hostile("declined"))?
    }
}

#[test]
fn a_job_whose_error_panics_is_retried_and_records_each_failure() {
    let folder = tempfile::tempdir().unwrap();
    for jobs in [Jobs::memory(), Jobs::sqlite(folder.path().join("jobs.db")).unwrap()] {
        let client = TestClient::new(App::with_config(Config::default()).jobs(jobs.register::<Charge>()));
        let id = client.jobs().enqueue(Charge).unwrap().id;
        let first = client.jobs().run_next().unwrap();
        assert_eq!((first.id, first.state), (id, JobState::Scheduled), "{first:?}");
        client.jobs().advance(Duration::from_secs(60));
        let second = client.jobs().run_next().unwrap();
        assert_eq!(second.state, JobState::Dead, "{second:?}");
        let is_told = |message: &str| message.starts_with("declined (its Display panicked: in a Display, at ");
        assert!(
            second.failures.len() == 2 && second.failures.iter().all(|failure| is_told(&failure.message)),
            "{second:?}"
        );
        client.drain();
    }
}

#[test]
fn a_job_that_panics_when_displayed_does_not_break_other_pages() {
    #[derive(Serialize, Deserialize)]
    struct Wait;
    impl Job for Wait {
        const NAME: &'static str = "wait-to-be-followed";
        fn run(self, _task: &TaskContext) -> Result<()> {
            Ok(())
        }
    }
    let client = TestClient::new(App::with_config(Config::default()).jobs(Jobs::memory().register::<Wait>()));
    let jobs = client.jobs();
    let [armed, other] = [(); 2].map(|()| jobs.enqueue(Wait).unwrap().id);
    let bomb = Bomb;
    let armed: Live<bool> = jobs
        .follow_as(armed, move |job| {
            let _armed = &bomb;
            job.state.is_finished()
        })
        .unwrap()
        .unwrap();
    let (tell, told) = channel();
    let other: Live<bool> = jobs
        .follow_as(other, move |job| {
            let _ = tell.send(job.state);
            job.state.is_finished()
        })
        .unwrap()
        .unwrap();
    assert_eq!(told.recv().unwrap(), JobState::Waiting);
    jobs.run_next().unwrap();
    // The same thread records its end and drops the recorded value.
    while !*armed.get() {
        std::thread::yield_now();
    }
    jobs.run_next().unwrap();
    while told.recv_timeout(Duration::from_secs(20)).expect("the other job is still followed") != JobState::Done {}
    drop(other);
    client.drain();
}

/// A site where every value of a request panics on drop, with a background task on each response.
fn site(tell: std::sync::mpsc::Sender<&'static str>) -> App {
    let tell = std::sync::Mutex::new(tell);
    let handler = move |name: &'static str, response: fn() -> Response| {
        let tell = tell.lock().unwrap().clone();
        move |_: &mut Request| {
            let tell = tell.clone();
            response().background(move || tell.send(name))
        }
    };
    let stream = || {
        let bomb = Bomb;
        Response::stream("text/plain", move |out| {
            let _armed = bomb;
            out.write_all(b"streamed")
        })
    };
    App::with_config(config())
        .get("/stream", handler("stream", stream))
        .get("/error", handler("error", || Err::<(), _>(Hostile("broken")).into_response()))
        .get("/hello", |_: &mut Request| "hello")
}

#[test]
fn a_response_whose_drop_panics_is_sent_and_its_background_task_starts() {
    let (tell, told) = channel();
    let server = start(site(tell));
    let mut raw = Raw::to(&server);
    // Not called for a HEAD request, and dropped uncalled.
    raw.send("HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(raw.head().status, 200);
    assert_eq!(told.recv().unwrap(), "stream");
    assert_eq!(raw.get("/error").status, 500);
    assert_eq!(told.recv().unwrap(), "error");
    assert_eq!(raw.get("/hello").body, "hello");
    server.stop();
}

#[test]
fn requests_with_values_that_panic_on_drop_get_a_response() {
    let app = App::with_config(config())
        .before(|req: &mut Request| if req.path() == "/before" { Err(Hostile("refused")) } else { Ok(()) })
        .after(|req: &mut Request, _: &mut Response| {
            if req.path() == "/after" {
                panic_any(Bomb)
            }
        })
        .get("/after", |_: &mut Request| "done")
        .get("/broken", |_: &mut Request| Err::<(), _>(Hostile("broken")))
        .get("/extended", |req: &mut Request| {
            req.set_extension(Bomb);
            "extended"
        })
        .error_page(500, |_: &mut Request, error: &aside::Error| {
            let _armed = Bomb;
            Response::text(error.to_string())
        });
    let server = start(app);
    let mut raw = Raw::to(&server);
    for (path, status) in [("/before", 500), ("/after", 500), ("/broken", 500), ("/extended", 200)] {
        assert_eq!(raw.get(path).status, status, "{path}");
    }
    server.stop();
}
