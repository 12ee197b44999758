//! The test client itself: logins, cookies, event streams, and the jobs of a test.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use aside::jobs::JobState;
use aside::testing::{TestClient, TestJobs};
use aside::{App, Config, Job, Jobs, Request, Response, Result, TaskContext};
use serde::{Deserialize, Serialize};

/// A job that enqueues the jobs that follow it.
#[derive(Serialize, Deserialize)]
struct Countdown(u32);

impl Job for Countdown {
    const NAME: &'static str = "countdown";

    fn run(self, task: &TaskContext) -> Result<()> {
        if self.0 > 0 {
            task.jobs()?.enqueue(Countdown(self.0 - 1))?;
        }
        Ok(())
    }
}

fn user(req: &mut Request) -> String {
    format!("{:?} {:?}", req.user::<u64>(), req.session().get::<String>("basket"))
}

fn fill_basket(req: &mut Request) -> &'static str {
    req.session().insert("basket", "camera");
    "ok"
}

fn app() -> App {
    App::with_config(Config::default()).get("/", user).post("/basket", fill_basket)
}

#[track_caller]
fn panic_message(f: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(f)).expect_err("it panics");
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
        .unwrap()
}

#[test]
fn a_login_of_the_client_keeps_the_session_as_a_login_form_does() {
    let mut client = TestClient::new(app());
    client.post("/basket").send();
    client.login(17);
    assert_eq!(client.get("/").text(), "Some(17) Some(\"camera\")");
    client.login(17);
    assert_eq!(client.get("/").text(), "Some(17) Some(\"camera\")");
    client.login(18);
    assert_eq!(client.get("/").text(), "Some(18) None", "another user does not see the basket");
    assert!(panic_message(|| client.login("")).starts_with("cannot log in"));
}

#[test]
fn cookies_of_an_event_stream_are_kept() {
    let events = |_: &mut Request| Response::events(|events| events.send("hello")).header("Set-Cookie", "seen=1");
    let mut client = TestClient::new(app().get("/events", events));
    assert_eq!(client.events("/events").next().data, "hello");
    assert_eq!(client.cookies()["seen"], "1");
}

#[test]
fn a_missing_job_is_reported_with_those_that_are_enqueued() {
    let client = TestClient::new(app().jobs(Jobs::memory().register::<Countdown>()));
    client.jobs().enqueue(Countdown(7)).unwrap();
    let message = panic_message(|| client.jobs().assert_enqueued(|job: &Countdown| job.0 == 8));
    assert_eq!(message, "no such `countdown` is enqueued; there are 1: 7");
    client.drain();
    let message = panic_message(|| drop(TestClient::new(app()).jobs()));
    assert!(message.contains("App::jobs"), "{message}");
}

#[test]
fn drain_returns_each_attempt_in_order_and_leaves_what_is_not_due() {
    let client = TestClient::new(app().jobs(Jobs::memory().register::<Countdown>()));
    let jobs = client.jobs();
    jobs.enqueue(Countdown(2)).unwrap();
    let later = jobs.enqueue(Countdown(0).delay(Duration::from_secs(60))).unwrap().id;
    let ran = jobs.drain();
    assert_eq!(ran.iter().map(|job| &*job.payload).collect::<Vec<_>>(), ["2", "1", "0"]);
    assert!(ran.iter().all(|job| job.state == JobState::Done));
    assert_eq!(jobs.enqueued::<Countdown>().len(), 1);
    jobs.advance(Duration::from_secs(60));
    assert_eq!(jobs.drain().iter().map(|job| job.id).collect::<Vec<_>>(), [later]);
}

/// An isolated job starts the program again as the application, which a test's program is not.
#[test]
fn without_a_client_an_isolated_job_runs_in_the_process_of_the_test() {
    #[derive(Serialize, Deserialize)]
    struct Isolated;
    impl Job for Isolated {
        const NAME: &'static str = "isolated";
        const ISOLATED: bool = true;
        fn run(self, task: &TaskContext) -> Result<()> {
            task.output(&std::process::id())
        }
    }
    let jobs = TestJobs::new(&Jobs::memory().register::<Isolated>());
    jobs.enqueue(Isolated).unwrap();
    let job = jobs.run_next().unwrap();
    assert_eq!(job.failures, []);
    assert_eq!(jobs.output::<u32>(job.id).unwrap(), Some(std::process::id()));
}

// The clock was advanced, but the test's runner never enqueued the jobs of schedules.
#[test]
fn a_schedule_enqueues_its_job_when_the_clock_of_the_test_advances() {
    let jobs = Jobs::memory().cron("0 3 * * 1 Europe/Berlin", Countdown(0));
    let mut client = TestClient::new(App::with_config(Config::default()).jobs(jobs));
    assert_eq!(client.jobs().enqueued::<Countdown>().len(), 0);

    client.advance(Duration::from_secs(8 * 24 * 3600));
    client.jobs().assert_enqueued(|Countdown(steps)| *steps == 0);
    client.drain();
    client.advance(Duration::from_secs(30 * 24 * 3600));
    assert_eq!(client.jobs().drain().len(), 1, "missed times are one job");
}
