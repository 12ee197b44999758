//! Background tasks, as an application uses them: outcomes, log lines, context, limits and waits.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use aside::tasks::{Retry, TaskState};
use aside::testing::TestClient;
use aside::{App, Config, Error, Failure, Pool, Request, Response, Status, Task, background, redirect};
use log::Level;

use crate::logs;

fn client() -> TestClient {
    TestClient::new(App::with_config(Config::default()))
}

fn client_with(config: Config) -> TestClient {
    TestClient::new(App::with_config(config))
}

/// A task that reports when it has begun, and ends when it is released.
struct Gate {
    release: Sender<()>,
    begun: Receiver<()>,
}

fn gate() -> (Gate, impl Fn() + Send + 'static) {
    let ((release, wait), (tell, begun)) = (channel(), channel());
    let hold = move || {
        tell.send(()).unwrap();
        let _ = wait.recv();
    };
    (Gate { release, begun }, hold)
}

#[test]
fn a_handle_returns_the_value_of_its_task() {
    let client = client();
    let handle = client.within(|| background(|| "42".parse::<u32>()));
    assert_eq!(handle.join().unwrap().unwrap(), 42);
    client.drain();
}

#[test]
fn each_kind_of_task_returns_plain_values() {
    let client = client();
    client.within(|| {
        assert_eq!(background(|| 41 + 1).join().unwrap().unwrap(), 42);
        assert_eq!(Task::named("named").spawn(|task| task.name().to_owned()).join().unwrap(), "named");
        let retried = Task::new().retry(Retry::exponential(2, Duration::ZERO)).spawn(|task| vec![task.attempt()]);
        assert_eq!(retried.join().unwrap(), [1]);
        assert_eq!(Pool::new(1).spawn(|| Some((1, "one"))).join().unwrap(), Some((1, "one")));
        // The value of a deferred task is dropped.
        let _ = Response::text("").background(|| 7).task(Task::new(), |_| "seven");
    });
    client.drain();
}

#[test]
fn a_task_may_return_any_kind_of_error() {
    fn cause<T: std::fmt::Debug>(outcome: aside::Outcome<T>) -> String {
        match outcome.unwrap_err() {
            Failure::Error(error) => error.chain(),
            other => panic!("{other}"),
        }
    }
    let client = client();
    client.within(|| {
        assert_eq!(cause(background(|| Err::<(), _>("words")).join().unwrap()), "words");
        assert_eq!(cause(background(|| Err::<(), _>(String::from("owned"))).join().unwrap()), "owned");
        assert_eq!(cause(background(|| Err::<(), _>(io::Error::other("io"))).join().unwrap()), "io");
        assert_eq!(cause(background(|| Err::<(), _>(aside::error::BoxError::from("boxed"))).join().unwrap()), "boxed");
        let ours = background(|| Err::<(), _>(Error::not_found("ours"))).join().unwrap().unwrap_err();
        assert!(matches!(ours, Failure::Error(error) if error.status_code() == Status::NOT_FOUND));
        let question_mark = background(|| {
            "x".parse::<u32>()?;
            aside::ok(())
        });
        assert_eq!(cause(question_mark.join().unwrap()), "invalid digit found in string");
    });
    client.drain();
}

fn send_webhook() -> Result<(), io::Error> {
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused"))
}

#[test]
fn a_failed_task_is_logged_on_one_line_and_does_not_change_the_response() {
    logs::record();
    let app = App::with_config(Config::default()).post("/orders", |_: &mut Request| {
        background(send_webhook);
        redirect("/thanks")
    });
    let started = line!() - 3;
    let mut client = TestClient::new(app);
    let response = client.post("/orders").send();
    client.drain();
    assert_eq!(response.status_code(), Status::SEE_OTHER);
    let id = response.header("X-Request-Id").unwrap();
    let line = format!(
        "aside::background: Background task send_webhook failed: connection refused \
         (task 1, POST /orders {id}, after 0 ms, started at tests/it/background.rs:{started})"
    );
    let lines = logs::with(&format!("POST /orders {id}"));
    let lines: Vec<_> = lines.iter().filter(|(_, line)| line.contains("Background")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].0, without_time(&lines[0].1)), (Level::Error, without_time(&line)));
    assert_eq!(client.failures()[0].failure(), Some("connection refused"));
}

/// Returns a log line without the time that the task took, whose format is checked. A backtrace may follow the line, if
/// `RUST_BACKTRACE` enables it.
fn without_time(line: &str) -> String {
    let line = line.lines().next().expect("there is a line");
    let (front, after) = line.rsplit_once(" after ").expect("the line says how long");
    let (number, unit) = after.split_once(' ').expect("a number and its unit");
    let unit_ends = unit.find([',', ')']).expect("the end of the unit");
    assert!(number.parse::<f64>().is_ok() && ["µs", "ms", "s"].contains(&&unit[..unit_ends]), "{line}");
    format!("{front} after{}", &unit[unit_ends..])
}

#[test]
fn a_panicked_task_is_logged_on_one_line_with_its_location() {
    logs::record();
    let place = Arc::new(Mutex::new(0));
    let theirs = place.clone();
    let app = App::with_config(Config::default()).post("/import", move |_: &mut Request| {
        *theirs.lock().unwrap() = line!() + 1;
        background(|| panic!("boom-{}", 18));
        "imported"
    });
    let mut client = TestClient::new(app);
    let response = client.post("/import").send();
    client.drain();
    assert_eq!((response.status_code(), response.text()), (Status::OK, "imported"));
    let (line, id) = (*place.lock().unwrap(), response.header("X-Request-Id").unwrap());
    let file = "tests/it/background.rs";
    let expected = format!(
        "aside::background: Background task a_panicked_task_is_logged_on_one_line_with_its_location ({file}:{line}) \
         panicked: boom-18, at {file}:{line} (task 1, POST /import {id}, after 0 ms)"
    );
    let lines = logs::with("boom-18");
    assert_eq!(lines.len(), 1);
    assert_eq!((lines[0].0, without_time(&lines[0].1)), (Level::Error, without_time(&expected)));
}

#[test]
fn the_log_line_of_a_task_without_a_request_names_none() {
    logs::record();
    let client = client();
    let name = "outside-of-any-request";
    let _ = client.within(|| Task::named(name).spawn(|_| Err::<(), _>("no"))).join();
    client.drain();
    let line = &logs::at(Level::Error, name)[0];
    let location = format!("tests/it/background.rs:{}", line!() - 3);
    let expected =
        format!("aside::background: Background task {name} failed: no (task 1, after 0 ms, started at {location})");
    assert_eq!(without_time(line), without_time(&expected));
}

#[test]
fn a_task_cannot_forge_a_log_line() {
    logs::record();
    let client = client();
    let forged = "forger\n[2026-04-04 14:32:01] ERROR aside: all is lost";
    let _ = client.within(|| Task::named(forged).spawn(|_| Err::<(), _>("a\r\nb\x1b[0m"))).join();
    client.drain();
    let lines = logs::with("forger");
    assert!(lines[0].1.contains("forger\\n[2026") && lines[0].1.contains("failed: a\\r\\nb\\u{1b}[0m"), "{lines:?}");
}

#[test]
fn nested_tasks_have_the_request_and_the_state_of_their_parents() {
    logs::record();
    let app = App::with_config(Config::default()).state(String::from("the state")).get("/nest", |_: &mut Request| {
        background(|| {
            let inner = background(|| {
                Task::named("innermost-of-nest")
                    .spawn(|task| Err::<(), _>(task.state::<String>().to_string()))
                    .join()
                    .map_err(Error::from)
            });
            inner.join().unwrap()
        });
    });
    let mut client = TestClient::new(app);
    let id = client.get("/nest").header("X-Request-Id").unwrap().to_owned();
    client.drain();
    let line = &logs::at(Level::Error, "innermost-of-nest failed: the state")[0];
    assert!(line.contains(&format!("GET /nest {id}")), "{line}");
    assert_eq!(client.failures().len(), 3);
    assert!(client.failures().iter().all(|task| task.request().unwrap().id == id));
}

#[test]
fn deferred_tasks_start_after_the_response() {
    let (gate, hold) = gate();
    let hold = Mutex::new(Some(hold));
    let app = App::with_config(Config::default()).get("/", move |_: &mut Request| {
        let hold = hold.lock().unwrap().take().unwrap();
        Response::text("page")
            .task(Task::named("with-a-key").key("k-1"), move |task| {
                task.message("going");
                hold();
            })
            .background(|| Err::<(), _>("first of two"))
            .background(|| panic!("second of two"))
    });
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/").text(), "page");
    gate.begun.recv().unwrap();
    assert_eq!(client.within(|| aside::tasks::task("k-1")).unwrap().progress().message, "going");
    drop(gate.release);
    client.drain();
    assert!(client.failures().iter().all(|task| task.name().contains("(tests/it/background.rs:")));
    let mut failures: Vec<_> = client.failures().iter().map(|task| task.failure().unwrap().to_owned()).collect();
    failures.sort();
    assert_eq!(failures.len(), 2);
    assert!(failures[0] == "first of two" && failures[1].starts_with("panicked: second of two, at"), "{failures:?}");
}

#[test]
fn deferred_tasks_run_after_an_error_page() {
    let (tell, told) = channel();
    let app = App::with_config(Config::default()).get("/", move |_: &mut Request| {
        let tell = tell.clone();
        Response::text("page").background(move || tell.send(())).header("X-Bad", "a\r\nb")
    });
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/").status_code(), Status::INTERNAL_SERVER_ERROR);
    told.recv().unwrap();
    client.drain();
}

#[test]
fn a_task_is_found_by_its_key_with_its_progress() {
    let client = client();
    let (gate, hold) = gate();
    client.within(|| {
        assert!(aside::tasks::task("photo-17").is_none());
        Task::named("sizes").key("photo-17").spawn(move |task| {
            task.progress(1, 3);
            task.message("small");
            hold();
        });
        gate.begun.recv().unwrap();
        let task = aside::tasks::task("photo-17").unwrap();
        assert_eq!((task.state(), task.progress().done, task.progress().total), (TaskState::Running, 1, 3));
        assert_eq!(task.progress().message, "small");
        drop(gate.release);
        client.drain();
        assert_eq!(aside::tasks::task("photo-17").unwrap().state(), TaskState::Done);
    });
}

#[test]
fn a_cancelled_task_is_neither_done_nor_failed() {
    let client = client();
    let (tell, told) = channel();
    let handle = client.within(|| {
        Task::named("sleeper").spawn(move |task| {
            tell.send(()).unwrap();
            task.sleep(Duration::from_secs(3600))?;
            aside::ok(())
        })
    });
    told.recv().unwrap();
    handle.cancel();
    assert!(matches!(handle.join(), Err(Failure::Cancelled)));
    client.drain();
    assert!(client.failures().is_empty());
}

#[test]
fn a_task_past_its_deadline_is_told_to_cancel_and_logged_as_overdue() {
    logs::record();
    let client = client();
    let task = Task::named("overdue-import").deadline(Duration::from_millis(5));
    let handle = client.within(|| task.spawn(|task| task.sleep(Duration::from_secs(3600))));
    let info = handle.info().clone();
    assert!(matches!(handle.join(), Err(Failure::TimedOut)));
    client.drain();
    assert!(info.is_overdue());
    assert_eq!(logs::at(Level::Warn, "overdue-import is overdue: past its deadline of 5 ms").len(), 1);
    assert_eq!(logs::at(Level::Error, "overdue-import timed out").len(), 1);
}

#[test]
fn an_unlimited_duration_never_ends() {
    let client = client();
    let named = |name: &str| Task::named(name);
    client.within(|| {
        let deadline = named("deadline").deadline(Duration::MAX).spawn(|_| 1);
        assert_eq!(deadline.join().unwrap(), 1);
        let unwatched = named("unwatched").cancel_unwatched(Duration::MAX).spawn(|_| 2);
        assert_eq!(unwatched.join().unwrap(), 2);
        let (tell, begun) = channel();
        let asleep = named("asleep").spawn(move |task| {
            tell.send(()).unwrap();
            task.sleep(Duration::MAX)
        });
        begun.recv().unwrap();
        asleep.cancel();
        assert!(matches!(asleep.join(), Err(Failure::Cancelled)));
        let (tell, tried) = channel();
        let retried = named("retried").retry(Retry::exponential(2, Duration::MAX)).spawn(move |task| {
            tell.send(task.attempt()).unwrap();
            Err::<(), _>("down")
        });
        assert_eq!(tried.recv().unwrap(), 1);
        retried.cancel();
        assert!(retried.join().is_err());
    });
    client.drain();
}

#[test]
fn a_task_that_never_began_can_be_cancelled() {
    let client = client_with(Config { max_tasks: 1, ..Config::default() });
    let (gate, hold) = gate();
    let never = client.within(|| {
        Task::named("first").spawn(move |_| hold());
        gate.begun.recv().unwrap();
        Task::named("never").spawn(|_| -> aside::Result<()> { unreachable!("it was cancelled before") })
    });
    assert_eq!(never.info().state(), TaskState::Waiting);
    never.cancel();
    drop(gate.release);
    assert!(matches!(never.join(), Err(Failure::Cancelled)));
    client.drain();
}

#[test]
fn a_failed_attempt_is_a_warning_and_the_last_one_an_error() {
    logs::record();
    let client = client();
    let retry = Retry::exponential(4, Duration::from_secs(600));
    let flaky = |name: &str, good: u32| {
        Task::named(name).retry(retry.clone()).spawn(move |task| match task.attempt() {
            attempt if attempt == good => Ok(attempt),
            attempt => Err(format!("attempt {attempt} failed")),
        })
    };
    let (third, never) = client.within(|| (flaky("third-time-lucky", 3), flaky("never-lucky", 99)));
    client.drain();
    assert_eq!(third.join().unwrap(), 3);
    assert!(matches!(never.join(), Err(Failure::Error(error)) if error.chain() == "attempt 4 failed"));
    assert_eq!(logs::at(Level::Warn, "third-time-lucky").len(), 2);
    assert_eq!(logs::at(Level::Error, "third-time-lucky").len(), 0);
    assert_eq!(logs::at(Level::Info, "third-time-lucky is done at attempt 3 (task ").len(), 1);
    assert_eq!(logs::at(Level::Warn, "never-lucky failed: attempt 1 failed; attempt 1 of 4, the next in ").len(), 1);
    assert_eq!(
        logs::at(Level::Error, "never-lucky failed: attempt 4 failed; gave up after 4 attempts (task ").len(),
        1
    );
}

#[test]
fn a_cancellation_ends_the_wait_for_a_retry() {
    let client = client();
    let retry = Retry::exponential(2, Duration::from_secs(3600));
    let (tell, told) = channel();
    let handle = client.within(|| {
        Task::named("patient").retry(retry).spawn(move |_| {
            tell.send(()).unwrap();
            Err::<(), _>("no")
        })
    });
    told.recv().unwrap();
    handle.cancel();
    assert!(handle.join().is_err());
    client.drain();
}

#[test]
fn a_deadline_ends_the_wait_for_a_retry() {
    let client = client();
    let retry = Retry::exponential(2, Duration::from_secs(3600));
    // Long enough for the first attempt to fail, even on a busy machine.
    let task = Task::named("impatient").deadline(Duration::from_millis(500)).retry(retry);
    let handle = client.within(|| task.spawn(|_| Err::<(), _>("no")));
    assert!(matches!(handle.join(), Err(Failure::TimedOut)));
    client.drain();
}

/// Regression: tasks that began more slowly than requests started them waited in a queue without a limit.
#[test]
fn a_route_that_starts_tasks_gets_503_while_the_queue_is_full_and_other_routes_do_not() {
    for deferred in [true, false] {
        let (handled, (release, wait)) = (Arc::new(AtomicUsize::new(0)), channel::<()>());
        let (count, wait) = (handled.clone(), Arc::new(Mutex::new(wait)));
        let order = move |_req: &mut Request| {
            count.fetch_add(1, Ordering::SeqCst);
            let wait = wait.clone();
            let task = move || _ = wait.lock().unwrap().recv();
            match deferred {
                true => redirect("/").background(task),
                false => {
                    Task::named("order").spawn(move |_| task());
                    redirect("/")
                }
            }
        };
        let config = Config { max_tasks: 1, max_queued_tasks: 2, ..Config::default() };
        let mut client =
            TestClient::new(App::with_config(config).get("/", |_req: &mut Request| "home").get("/order", order));
        // One task runs, and two wait.
        for _ in 0..3 {
            assert_eq!(client.get("/order").status_code(), Status::SEE_OTHER);
        }
        let refused = client.get("/order");
        assert_eq!(refused.status_code(), Status::SERVICE_UNAVAILABLE);
        assert!(refused.header("Retry-After").is_some());
        assert_eq!(handled.load(Ordering::SeqCst), 3, "a refused request is not half done");
        assert_eq!(client.get("/").status_code(), Status::OK);
        drop(release);
        client.drain();
        assert_eq!(client.get("/order").status_code(), Status::SEE_OTHER);
        client.drain();
    }
}

#[test]
fn a_pool_runs_at_most_as_much_work_at_once_as_it_has_permits() {
    let client = client();
    let pool = Pool::new(3);
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let work = move || {
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::yield_now();
        now.fetch_sub(1, Ordering::SeqCst);
        most.load(Ordering::SeqCst)
    };
    client.within(|| {
        let handles: Vec<_> =
            (0..100).map(|_| (pool.clone(), work.clone())).map(|(pool, work)| pool.spawn(work)).collect();
        let own = pool.run(&work).unwrap();
        let most = handles.into_iter().map(|handle| handle.join().unwrap()).max().unwrap();
        assert!((1..=3).contains(&most.max(own)), "{most} at once");
    });
    client.drain();
}

#[test]
fn a_pool_is_re_entrant_and_survives_a_panic() {
    let pool = Pool::new(1);
    let mut borrowed = String::new();
    pool.run(|| pool.run(|| borrowed.push_str("inner"))).unwrap().unwrap();
    assert_eq!(borrowed, "inner");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pool.run(|| panic!("inside a pool"))));
    assert!(panicked.is_err());
    let client = client();
    client.within(|| {
        let inner = pool.clone();
        let _ = pool.spawn(|| panic!("aside in a pool")).join();
        assert_eq!(pool.spawn(move || inner.run(|| 7)).join().unwrap(), 7);
    });
    client.drain();
}

/// Returns the result of `f`, from a thread with a time limit.
fn in_time<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = channel();
    thread::spawn(move || tell.send(f()));
    told.recv_timeout(crate::wire::PATIENCE).expect("it does not wait forever")
}

fn is_refused<T>(outcome: &aside::Outcome<T>) -> bool {
    matches!(outcome, Err(Failure::Error(error)) if error.chain().contains("of its pool is held by work that waits"))
}

#[test]
fn a_wait_in_a_full_pool_for_a_task_of_the_pool_is_refused() {
    let client = Arc::new(client());
    let theirs = client.clone();
    let outcome = in_time(move || {
        let pool = Pool::new(1);
        theirs.within(|| pool.run(|| pool.spawn(|| 7).join())).unwrap()
    });
    assert!(is_refused(&outcome), "{outcome:?}");
    client.drain();
    assert_eq!(client.counts().done(), 1, "the task itself runs once there is a permit");
    // One of the two waits is refused also if the task asks for the permit when it runs.
    let theirs = client.clone();
    let outcome = in_time(move || {
        let pool = Pool::new(1);
        let inner = pool.clone();
        theirs.within(|| pool.run(|| Task::named("inner").spawn(move |_| inner.run(|| 7)).join())).unwrap()
    });
    assert!(matches!(&outcome, Err(Failure::Error(error)) if error.chain().contains("would never end")), "{outcome:?}");
    client.drain();
}

#[test]
fn only_the_last_wait_of_a_pool_is_refused() {
    let client = Arc::new(client());
    let theirs = client.clone();
    let outcomes = in_time(move || {
        let (pool, together) = (Pool::new(2), Arc::new(Barrier::new(2)));
        theirs.within(|| {
            let outer = [(); 2].map(|()| {
                let (inner, together) = (pool.clone(), together.clone());
                pool.spawn(move || {
                    together.wait();
                    aside::ok(inner.spawn(|| 7).join())
                })
            });
            outer.map(|task| task.join().unwrap())
        })
    });
    assert_eq!(outcomes.iter().filter(|outcome| is_refused(outcome)).count(), 1, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Ok(7))).count(), 1, "its permit was returned");
    client.drain();
    assert_eq!(client.counts().done(), 4);
}

#[test]
fn a_pool_and_the_limit_of_tasks_do_not_wait_for_each_other() {
    let client = client_with(Config { max_tasks: 1, ..Config::default() });
    let (pool, (gate, hold)) = (Pool::new(1), gate());
    let wants_the_permit = pool.clone();
    client.within(|| {
        let has_the_slot = Task::named("has-the-slot").spawn(move |_| {
            hold();
            wants_the_permit.run(|| ())
        });
        gate.begun.recv().unwrap();
        let has_the_permit = pool.spawn(|| ());
        drop(gate.release);
        assert!(has_the_permit.join().is_ok() && has_the_slot.join().is_ok());
    });
    client.drain();
}

#[test]
fn tasks_above_the_limit_wait_and_all_run() {
    let client = client_with(Config { max_tasks: 4, ..Config::default() });
    let (now, most, all) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    client.within(|| {
        for _ in 0..500 {
            let (now, most, all) = (now.clone(), most.clone(), all.clone());
            Task::named("crowd").spawn(move |_| {
                most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                thread::yield_now();
                now.fetch_sub(1, Ordering::SeqCst);
                all.fetch_add(1, Ordering::SeqCst);
            });
        }
    });
    client.drain();
    assert_eq!(all.load(Ordering::SeqCst), 500);
    let counts = client.counts();
    assert_eq!((counts.unfinished, counts.queued, counts.ended, counts.failed), (0, 0, 500, 0));
    assert!((1..=4).contains(&most.load(Ordering::SeqCst)), "{most:?} at once");
}

#[test]
fn a_caller_continues_while_its_task_waits() {
    logs::record();
    let client = client_with(Config { max_tasks: 1, ..Config::default() });
    let (gate, hold) = gate();
    let order = Arc::new(Mutex::new(Vec::new()));
    client.within(|| Task::named("holder").spawn(move |_| hold()));
    gate.begun.recv().unwrap();
    let (queued, called) = (order.clone(), order.clone());
    client.within(|| Task::named("queued-behind").spawn(move |_| queued.lock().unwrap().push("queued")));
    // Returns while the only slot is taken.
    let handle = client.within(|| background(move || called.lock().unwrap().push("called")));
    assert_eq!((client.counts().queued, order.lock().unwrap().len()), (2, 0));
    let logged = logs::at(Level::Warn, "queued-behind waits to begin: 1 task runs already (ASIDE_MAX_TASKS), 1 waits");
    assert_eq!(logged.len(), 1, "logged at once, and not for each task");
    drop(gate.release);
    handle.join().unwrap().unwrap();
    client.drain();
    assert_eq!(*order.lock().unwrap(), ["queued", "called"]);
}

/// One queue for both kinds of tasks. A retry is not ahead of those that have waited longer.
#[test]
fn waiting_tasks_run_in_the_order_in_which_they_were_started_and_a_retry_queues_again() {
    let client = client_with(Config { max_tasks: 1, ..Config::default() });
    let (gate, hold) = gate();
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |name: u32| {
        let order = order.clone();
        move || order.lock().unwrap().push(name)
    };
    client.within(|| {
        Task::named("holder").spawn(move |_| hold());
        gate.begun.recv().unwrap();
        let retried = note(100);
        Task::named("retried").retry(Retry::exponential(2, Duration::ZERO)).spawn(move |task| {
            retried();
            if task.attempt() == 1 { Err("the first attempt fails") } else { Ok(()) }
        });
        for number in 0..10 {
            let (task, thread) = (note(2 * number), note(2 * number + 1));
            Task::named("queued").spawn(move |_| task());
            background(thread);
        }
    });
    assert_eq!(client.counts().queued, 21);
    drop(gate.release);
    client.drain();
    let expected: Vec<u32> = std::iter::once(100).chain(0..20).chain([100]).collect();
    assert_eq!(*order.lock().unwrap(), expected);
}

#[test]
fn a_caller_waits_at_the_thread_limit() {
    logs::record();
    let client = client_with(Config { max_tasks: 1, max_task_threads: 2, ..Config::default() });
    let (gate, hold) = gate();
    client.within(|| background(hold));
    gate.begun.recv().unwrap();
    let waits_its_turn = client.within(|| background(|| 2));
    thread::scope(|scope| {
        let caller = scope.spawn(|| client.within(|| background(third_at_the_limit)));
        logs::wait_for(
            1,
            "third_at_the_limit waits for a thread and blocks its caller: all 2 task threads are in use (ASIDE_MAX_TASK",
        );
        assert!(!caller.is_finished());
        drop(gate.release);
        caller.join().unwrap().join().unwrap().unwrap();
    });
    assert_eq!(waits_its_turn.join().unwrap().unwrap(), 2);
    client.drain();
    assert_eq!(client.counts().done(), 3);
}

fn third_at_the_limit() {}

#[test]
fn pages_are_served_while_a_handler_waits_for_a_thread() {
    logs::record();
    let config = Config { max_workers: 1, max_tasks: 1, max_task_threads: 1, ..crate::wire::config() };
    let (gate, hold) = gate();
    let hold = Arc::new(Mutex::new(hold));
    let app = App::with_config(config).get("/hello", |_: &mut Request| "hello").post("/wait-for-a-thread", move |_| {
        let hold = hold.clone();
        background(move || hold.lock().unwrap()());
        "begun"
    });
    let server = crate::wire::start(app);
    let post = || {
        let mut raw = crate::wire::Raw::to(&server);
        raw.send("POST /wait-for-a-thread HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        raw
    };
    assert_eq!(post().reply().body, "begun");
    gate.begun.recv().unwrap();
    let mut held = post();
    logs::wait_for(
        1,
        "blocks its caller: the only task thread is in use (ASIDE_MAX_TASK_THREADS), 1 caller waits (task 2, POST /wait-for",
    );
    // The only allowed worker waits: it does not count.
    assert_eq!(crate::wire::Raw::to(&server).get("/hello").body, "hello");
    drop(gate.release);
    assert_eq!(held.reply().body, "begun");
    server.stop();
}

#[test]
fn parents_and_children_do_not_block_each_other() {
    let client = client_with(Config { max_tasks: 1, ..Config::default() });
    let sum = client.within(|| {
        background(|| {
            let children: Vec<_> = (0..10).map(|n| background(move || n)).collect();
            let grandchild = background(|| Task::named("grand").spawn(|_| 1).join());
            let sum: i32 = children.into_iter().map(|child| child.join().unwrap().unwrap()).sum();
            aside::ok(sum + grandchild.join().unwrap()?)
        })
    });
    assert_eq!(sum.join().unwrap().unwrap(), 46);
    client.drain();
}

#[test]
fn two_applications_do_not_see_each_others_tasks() {
    let (one, other) = (client(), client());
    let _ = one.within(|| Task::named("mine").spawn(|_| Err::<(), _>("mine"))).join();
    one.drain();
    assert_eq!((one.failures().len(), other.failures().len()), (1, 0));
}

#[test]
fn a_test_that_leaves_a_task_running_fails() {
    let (gate, hold) = gate();
    let client = client();
    client.within(|| Task::named("left-behind").spawn(move |_| hold()));
    gate.begun.recv().unwrap();
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(client))).unwrap_err();
    assert!(payload.downcast_ref::<String>().unwrap().contains("left-behind"));
    drop(gate.release);
}

#[cfg(target_os = "linux")]
#[test]
fn tasks_have_a_lower_priority_than_pages() {
    fn nice() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
    }
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), nice: 6, ..Config::default() };
    let app = App::with_config(config).get("/", |_: &mut Request| {
        let spawned = background(nice).join().unwrap()?;
        let pooled = Task::new().spawn(|_| nice()).join()?;
        aside::ok(format!("{} {spawned} {pooled}", nice()))
    });
    let server = app.start().unwrap();
    let page = ureq::get(format!("http://{}/", server.addr())).call().unwrap().body_mut().read_to_string().unwrap();
    let own = nice();
    assert_eq!(page, format!("{own} {0} {0}", 6.max(own)));
    server.stop();
}

#[test]
fn a_value_whose_drop_panics_does_not_affect_other_tasks() {
    struct Grenade;
    impl Drop for Grenade {
        fn drop(&mut self) {
            panic!("in a drop");
        }
    }
    let client = client();
    let (gate, hold) = gate();
    client.within(|| {
        drop(Task::named("grenade").spawn(move |_| {
            hold();
            aside::ok(Grenade)
        }));
    });
    drop(gate.release);
    client.drain();
    let barrier = Arc::new(Barrier::new(2));
    let theirs = barrier.clone();
    client.within(|| {
        Task::named("after").spawn(move |_| {
            theirs.wait();
        })
    });
    barrier.wait();
    client.drain();
}
