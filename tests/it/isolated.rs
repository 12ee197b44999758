//! Functions in child processes, called as a site calls them. The child of each test is this program again, with that test
//! alone: it comes to the same `TestClient::new`, and goes no further.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use aside::tasks::{Isolated, IsolatedFunction, PlainValue, TaskHandle};
use aside::testing::TestClient;
use aside::{App, Config, Failure, Job, Jobs, Outcome, Request, Result, Task, TaskContext, isolated};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process, pidfd_open, setrlimit};
use serde::{Deserialize, Serialize};

/// The time limit of a wait for an event that usually comes much sooner.
const SOON: Duration = Duration::from_secs(60);

/// A client of an application with all functions of this file but one.
fn client() -> TestClient {
    TestClient::new(app())
}

fn app() -> App {
    App::with_config(Config::default())
        .isolated(double)
        .isolated(pid)
        .isolated(arguments)
        .isolated(fail)
        .isolated(end)
        .isolated(leave_behind)
        .isolated(local)
        .isolated(count)
        .isolated(wait)
        .isolated(length)
        .isolated(zeros)
        .isolated(unreadable)
        .isolated(quotient)
        .isolated(nested)
}

fn call<F: IsolatedFunction<M>, M>(client: &TestClient, f: F, input: F::Input) -> Outcome<F::Output> {
    start(client, f, input).join()
}

fn start<F: IsolatedFunction<M>, M>(client: &TestClient, f: F, input: F::Input) -> TaskHandle<F::Output> {
    client.within(|| isolated(f, input))
}

/// The message of a failed call.
fn failure<F: IsolatedFunction<M>, M>(client: &TestClient, f: F, input: F::Input) -> String {
    let outcome = call(client, f, input);
    outcome.map(drop).expect_err("it fails").to_string()
}

fn double(n: u64) -> u64 {
    2 * n
}

fn pid(_: ()) -> Result<i32> {
    Ok(std::process::id().try_into()?)
}

fn arguments(_: ()) -> Result<Vec<String>> {
    Ok(std::env::args().skip(1).collect())
}

fn never_registered(n: u64) -> Result<u64> {
    Ok(n)
}

fn fail(message: String) -> std::io::Result<()> {
    Err(std::io::Error::other(message))
}

/// Ends in that way.
fn end(how: String) -> Result<()> {
    match how.as_str() {
        "panic" => panic!("boom"),
        "exit" => std::process::exit(3),
        "abort" => std::process::abort(),
        "overflow" => drop(overflow(0)),
        "allocate" => drop(std::hint::black_box(vec![1_u8; 1 << 30])),
        "spin" => loop {
            std::hint::spin_loop();
        },
        "sleep" => std::thread::sleep(Duration::from_secs(3_600)),
        other => unreachable!("{other}"),
    }
    Ok(())
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    std::hint::black_box([depth; 64]).len() as u64 + overflow(depth + 1)
}

/// Returns the number of its process, and of one that it has left behind.
fn leave_behind(what: String) -> Result<(i32, Option<i32>)> {
    let mut left = None;
    match what.as_str() {
        "nothing" => {}
        "line" => println!("a line"),
        "text" => print!("text without a line break"),
        "folder" => std::env::set_current_dir("/")?,
        "descriptor" => std::mem::forget(std::fs::File::open("/dev/null")?),
        "output" => rustix::stdio::dup2_stdout(std::fs::File::open("/dev/null")?)?,
        "limit" => {
            let limit = getrlimit(Resource::Nofile);
            setrlimit(Resource::Nofile, Rlimit { current: Some(40), ..limit })?;
        }
        "memory limit" => {
            setrlimit(Resource::Data, Rlimit { current: Some(1 << 30), maximum: Some(1 << 30) })?;
        }
        "memory" => std::mem::forget(std::hint::black_box(vec![1_u8; 64 << 20])),
        "thread" => drop(std::thread::spawn(|| std::thread::sleep(Duration::from_secs(3_600)))),
        "child" => left = Some(Command::new("sleep").arg("3600").stdin(Stdio::null()).spawn()?.id().try_into()?),
        "grandchild" => {
            let output = Command::new("sh").args(["-c", "sleep 3600 >&- 2>&- & echo $!"]).output()?;
            left = Some(String::from_utf8(output.stdout)?.trim().parse()?);
        }
        other => unreachable!("{other}"),
    }
    Ok((std::process::id().try_into()?, left))
}

thread_local! {
    static CALLS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Returns how often it was called on its thread.
fn local(_: ()) -> Result<(i32, u32)> {
    CALLS.set(CALLS.get() + 1);
    Ok((pid(())?, CALLS.get()))
}

fn count(to: u64, task: &TaskContext) -> Result<String> {
    for step in 1..=to {
        task.progress(step, to);
    }
    task.message("counted");
    Ok(format!("{} in attempt {}", task.name(), task.attempt()))
}

/// Says where it is, and waits until it is cancelled, or without end.
fn wait(listens: bool, task: &TaskContext) -> Result<()> {
    task.message(std::process::id().to_string());
    loop {
        match listens {
            true => task.sleep(Duration::from_secs(3_600))?,
            false => std::thread::park(),
        }
    }
}

fn length(text: String) -> Result<usize> {
    Ok(text.len())
}

fn zeros(count: usize) -> Result<String> {
    Ok("0".repeat(count))
}

/// A value that can be written and not read.
#[derive(Debug, Serialize, Deserialize)]
struct Unreadable {
    #[serde(skip_serializing)]
    name: String,
}

fn unreadable(value: Unreadable) -> Result<()> {
    drop(value.name);
    Ok(())
}

/// JSON has no number for what a division by zero gives.
fn quotient((dividend, divisor): (f64, f64)) -> Result<f64> {
    Ok(dividend / divisor)
}

fn nested(n: u64) -> Result<u64> {
    Ok(isolated(double, n).join()?)
}

/// What a task reports as its message, once it does.
fn message_of<T>(task: &TaskHandle<T>) -> String {
    let until = std::time::Instant::now() + SOON;
    loop {
        let message = task.info().progress().message;
        if !message.is_empty() {
            return message;
        }
        assert!(std::time::Instant::now() < until, "it says nothing");
        std::thread::yield_now();
    }
}

fn process(pid: &str) -> Pid {
    Pid::from_raw(pid.parse().expect("a number")).expect("not 0")
}

/// Waits until a process has ended, and its parent knows.
fn wait_for_the_end(pid: Pid) {
    let until = std::time::Instant::now() + SOON;
    while rustix::process::test_kill_process(pid).is_ok() {
        assert!(std::time::Instant::now() < until, "it lives");
        std::thread::yield_now();
    }
}

#[test]
fn a_value_comes_from_another_process_which_is_used_again() {
    let client = client();
    assert_eq!(call(&client, double, 21).unwrap(), 42);
    let first = call(&client, pid, ()).unwrap();
    assert_ne!(first, pid(()).unwrap());
    assert_eq!(call(&client, pid, ()).unwrap(), first);
    assert!(failure(&client, fail, "full".into()).contains("full"));
    assert_eq!(call(&client, pid, ()).unwrap(), first, "an error is a clean end");
    assert_eq!(client.counts().ended, 5);
}

#[test]
fn the_child_of_a_test_runs_this_test_alone() {
    let arguments = call(&client(), arguments, ()).unwrap();
    assert!(arguments.contains(&"--exact".to_owned()), "{arguments:?}");
    assert_eq!(arguments.last().unwrap(), "isolated::the_child_of_a_test_runs_this_test_alone");
}

#[test]
fn each_end_of_a_function_has_its_own_message() {
    let client = client();
    let Err(Failure::Error(error)) = call(&client, fail, "disk full".into()) else { panic!("an error") };
    assert_eq!(error.chain(), "disk full");
    let Err(Failure::Panic(panic)) = call(&client, end, "panic".into()) else { panic!("a panic") };
    assert_eq!(panic.message, "boom");
    assert!(panic.location.is_some_and(|place| place.starts_with("tests/it/isolated.rs:")));
    for (how, message) in [
        ("exit", "its process exited with status 3 before the end of the function"),
        ("abort", "its process was killed by signal 6 (SIGABRT)"),
        ("overflow", "its process overflowed its stack"),
    ] {
        let failure = failure(&client, end, how.into());
        assert!(failure.starts_with(message), "{how}: {failure}");
    }
    let call = client.within(|| Isolated::new(end).memory(128 << 20).spawn("allocate".into()));
    let failure = call.join().unwrap_err().to_string();
    assert!(failure.starts_with("its process ran out of memory, of which it may have 128 MiB"), "{failure}");
    assert_eq!(client.failures().len(), 6);
    assert_eq!(self::call(&client, double, 1).unwrap(), 2, "the next call has another child");
}

#[test]
fn a_function_that_spins_or_sleeps_is_killed_at_its_deadline() {
    let client = client();
    for how in ["spin", "sleep"] {
        let call = || Isolated::new(end).deadline(Duration::from_millis(300)).spawn(how.into());
        let failure = client.within(call).join().unwrap_err().to_string();
        assert_eq!(failure, "its process was killed at its time limit of 300 ms");
    }
}

#[test]
fn a_child_killed_from_outside_is_a_failure_with_the_signal() {
    let client = client();
    let call = start(&client, wait, true);
    let pid = process(&message_of(&call));
    // When a service is stopped, all its processes may be told: the call goes on until its parent cancels it.
    kill_process(pid, Signal::TERM).unwrap();
    kill_process(pid, Signal::USR1).unwrap();
    let failure = call.join().unwrap_err().to_string();
    // The test harness in the child has printed the name of the test.
    assert!(failure.starts_with("its process was killed by signal 10 (SIGUSR1)"), "{failure}");
}

#[test]
fn an_idle_child_that_was_killed_is_replaced() {
    let client = client();
    let first = call(&client, pid, ()).unwrap();
    let first_process = pidfd_open(Pid::from_raw(first).unwrap(), PidfdFlags::empty()).unwrap();
    kill_process(Pid::from_raw(first).unwrap(), Signal::KILL).unwrap();
    // Until its last thread has ended it is still there.
    poll(&mut [PollFd::new(&first_process, PollFlags::IN)], None).unwrap();
    assert_ne!(call(&client, pid, ()).unwrap(), first);
}

#[test]
fn cancellation_stops_a_function_that_listens_and_kills_one_that_does_not() {
    let client = client();
    let [listens, ignores] = [true, false].map(|listens| start(&client, wait, listens));
    let pids = [&listens, &ignores].map(|call| process(&message_of(call)));
    [&listens, &ignores].iter().for_each(|call| call.cancel());
    assert!(matches!(listens.join(), Err(Failure::Cancelled)));
    assert!(matches!(ignores.join(), Err(Failure::Cancelled)));
    pids.into_iter().for_each(wait_for_the_end);
}

#[test]
fn a_call_that_waits_for_a_child_can_be_cancelled() {
    let client = client();
    let most = std::thread::available_parallelism().unwrap().get();
    let running: Vec<_> = (0..most).map(|_| start(&client, wait, true)).collect();
    running.iter().for_each(|call| drop(message_of(call)));
    let [waits, behind] = [(); 2].map(|()| start(&client, double, 4));
    waits.cancel();
    assert!(matches!(waits.join(), Err(Failure::Cancelled)));
    running.iter().for_each(TaskHandle::cancel);
    assert_eq!(behind.join().unwrap(), 8);
    running.into_iter().for_each(|call| assert!(matches!(call.join(), Err(Failure::Cancelled))));
}

#[test]
fn progress_comes_whole_before_the_end() {
    let client = client();
    let call = client.within(|| Isolated::new(count).name("counts").key("count-1").spawn(1_000));
    let info = call.info().clone();
    assert_eq!(call.join().unwrap(), "counts in attempt 1");
    let progress = info.progress();
    assert_eq!((progress.done, progress.total, progress.message.as_str()), (1_000, 1_000, "counted"));
    assert_eq!(client.within(|| aside::tasks::task("count-1")).map(|task| task.id()), Some(info.id()));
}

#[test]
fn a_page_follows_the_progress_from_the_child() {
    let (tell, told) = channel();
    let app = app().get("/live", move |req: &mut Request| {
        let call: TaskHandle<()> = isolated(wait, true);
        let response = req.live(&call.live(), "aside/progress.html");
        let _ = tell.send(call);
        response
    });
    let mut client = TestClient::new(app);
    let mut events = client.events("/live");
    let call = told.recv().unwrap();
    let pid = message_of(&call);
    while !events.next().data.contains(&pid) {}
    call.cancel();
    assert!(matches!(call.join(), Err(Failure::Cancelled)));
}

#[test]
fn a_child_with_something_left_behind_is_not_used_again() {
    let client = client();
    let (mut last, _) = call(&client, leave_behind, "nothing".into()).unwrap();
    for what in ["line", "text"] {
        let (pid, _) = call(&client, leave_behind, what.into()).unwrap();
        assert_eq!(pid, last, "what it prints harms nobody");
    }
    for what in ["folder", "descriptor", "output", "limit", "memory limit", "memory", "thread", "child", "grandchild"] {
        let (pid, left) = call(&client, leave_behind, what.into()).unwrap();
        assert_eq!(pid, last, "{what} comes to a child that is clean");
        (last, _) = call(&client, leave_behind, "nothing".into()).unwrap();
        assert_ne!(pid, last, "{what} is left behind");
        left.iter().for_each(|left| kill_process(Pid::from_raw(*left).unwrap(), Signal::KILL).unwrap());
    }
}

#[test]
fn thread_local_values_of_one_call_are_not_seen_by_the_next() {
    let client = client();
    let calls = [(); 2].map(|()| call(&client, local, ()).unwrap());
    assert_eq!(calls[0].0, calls[1].0, "in one process");
    assert_eq!(calls.map(|(_, count)| count), [1, 1]);
}

#[test]
fn two_hundred_calls_at_once_share_the_children() {
    let client = client();
    let calls: Vec<_> = (0..200).map(|n| (start(&client, double, n), start(&client, pid, ()))).collect();
    let mut pids = BTreeSet::new();
    for (n, (double, pid)) in calls.into_iter().enumerate() {
        assert_eq!(double.join().unwrap(), 2 * n as u64);
        pids.insert(pid.join().unwrap());
    }
    assert!(pids.len() <= std::thread::available_parallelism().unwrap().get(), "{pids:?}");
}

#[test]
fn an_input_or_output_of_a_hundred_megabytes_is_refused() {
    let client = client();
    let limit = "is too long as JSON: at most 64 MiB fit: pass the path of a file in its place";
    assert_eq!(failure(&client, length, "x".repeat(100 << 20)), format!("its input {limit}"));
    assert_eq!(failure(&client, zeros, 100 << 20), format!("its output {limit}"));
    // At the bound, with the quotation marks.
    let most = (64 << 20) - 2;
    assert_eq!(call(&client, length, "x".repeat(most)).unwrap(), most);
    assert_eq!(call(&client, zeros, most).unwrap().len(), most);
    assert!(failure(&client, zeros, most + 1).contains(limit));
}

#[test]
fn a_value_that_cannot_be_read_is_a_failure_with_its_type() {
    let client = client();
    let input = failure(&client, unreadable, Unreadable { name: "x".into() });
    assert!(
        input.starts_with("its input cannot be read as `it::isolated::Unreadable`: missing field `name`"),
        "{input}"
    );
    let output = failure(&client, quotient, (1.0, 0.0));
    assert!(output.starts_with("its output cannot be read as `f64`: invalid type: null"), "{output}");
    assert!(call(&client, quotient, (1.0, 8.0)).is_ok_and(|quotient| quotient.to_string() == "0.125"));
}

#[test]
fn a_function_that_was_not_registered_is_refused_by_name() {
    let client = client();
    let failure = failure(&client, never_registered, 1);
    assert_eq!(
        failure,
        "the isolated function `it::isolated::never_registered` is not registered in this program: add \
         `.isolated(never_registered)` where the application is made (App::isolated)"
    );
    assert_eq!(client.failures()[0].name(), "never_registered", "it is in the log as any failed task");
}

#[test]
fn a_closure_is_refused_where_it_is_registered_and_where_it_is_called() {
    let closure = |n: u64| -> Result<u64> { Ok(n) };
    let failure = failure(&client(), closure, 1);
    assert!(failure.ends_with("is a closure; a child process finds a function by its name: write a `fn`"), "{failure}");
    let app = App::with_config(Config { address: "127.0.0.1:0".into(), ..Config::default() }).isolated(closure);
    let problem = app.start().unwrap_err().chain();
    assert!(problem.starts_with("App::isolated: ") && problem.contains("is a closure"), "{problem}");
}

#[test]
fn a_function_of_a_mounted_application_is_found() {
    let client = TestClient::new(App::with_config(Config::default()).mount("/shop", app()));
    assert_eq!(call(&client, double, 2).unwrap(), 4);
}

#[test]
fn a_function_is_called_from_a_handler_a_task_and_a_job_and_not_inside_a_child() {
    let (state, told) = told();
    let app = app()
        .state(state)
        .jobs(Jobs::memory().register::<Doubles>())
        .get("/", |_req: &mut Request| isolated(double, 1).join().map(|n| n.to_string()));
    let mut client = TestClient::new(app);
    assert_eq!(client.get("/").text(), "2");
    let task = client.within(|| Task::named("doubles").spawn(|_| isolated(double, 2).join()));
    assert_eq!(task.join().unwrap(), 4);
    client.jobs().enqueue(Doubles(3)).unwrap();
    client.drain();
    assert_eq!(told.recv().unwrap(), 6);
    let failure = failure(&client, nested, 4);
    assert_eq!(
        failure,
        "an isolated function cannot be called inside a child process: call the function directly (ASIDE_ISOLATED is set)"
    );
}

#[derive(Serialize, Deserialize)]
struct Doubles(u64);

struct Told(std::sync::Mutex<Sender<u64>>);

fn told() -> (Told, Receiver<u64>) {
    let (tell, told) = channel();
    (Told(std::sync::Mutex::new(tell)), told)
}

impl Job for Doubles {
    const NAME: &'static str = "doubles";

    fn run(self, task: &TaskContext) -> Result<()> {
        let doubled = isolated(double, self.0).join()?;
        task.state::<Told>().0.lock().unwrap().send(doubled)?;
        Ok(())
    }
}

#[test]
fn a_value_of_a_type_of_ones_own_is_returned_plain_or_in_a_result() {
    let client = TestClient::new(app().isolated(thumbnail).isolated(plain_thumbnail));
    let photo = |width| Photo { path: PathBuf::from("data/7.jpg"), width };
    assert_eq!(call(&client, thumbnail, photo(800)).unwrap(), photo(400));
    assert_eq!(call(&client, plain_thumbnail, photo(400)).unwrap(), photo(200));
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Photo {
    path: PathBuf,
    width: u32,
}

impl PlainValue for Photo {}

fn plain_thumbnail(photo: Photo) -> Photo {
    Photo { width: photo.width / 2, ..photo }
}

fn thumbnail(photo: Photo) -> Result<Photo> {
    Ok(Photo { width: photo.width / 2, ..photo })
}
