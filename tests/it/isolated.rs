//! Functions in child processes, called as a site calls them. The child of each test is this program again, with that test
//! alone: it comes to the same `TestClient::new`, and goes no further.
#![cfg(target_os = "linux")]

use std::time::Duration;

use aside::testing::TestClient;
use aside::{App, Config, Failure, Isolated, Outcome, Result, TaskContext, isolated};

/// A client of an application with all functions of this file.
fn client() -> TestClient {
    TestClient::new(app())
}

fn app() -> App {
    App::with_config(Config::default())
        .isolated(double)
        .isolated(pid)
        .isolated(fail)
        .isolated(misbehave)
        .isolated(count)
}

fn double(n: u64) -> Result<u64> {
    Ok(2 * n)
}

fn pid(_: ()) -> Result<u32> {
    Ok(std::process::id())
}

fn fail(message: String) -> std::io::Result<()> {
    Err(std::io::Error::other(message))
}

/// Does what it is told, and returns the number of its process if it can.
fn misbehave(how: String) -> Result<u32> {
    match how.as_str() {
        "panic" => panic!("boom"),
        "exit" => std::process::exit(3),
        "abort" => std::process::abort(),
        "overflow" => drop(overflow(0)),
        "allocate" => drop(std::hint::black_box(vec![1_u8; 1 << 30])),
        "print" => print!("printed without a line break"),
        other => unreachable!("{other}"),
    }
    Ok(std::process::id())
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    std::hint::black_box([depth; 64]).len() as u64 + overflow(depth + 1)
}

fn count(to: u64, task: &TaskContext) -> Result<String> {
    for step in 1..=to {
        task.progress(step, to);
    }
    task.message("counted");
    Ok(format!("{} in attempt {}", task.name(), task.attempt()))
}

fn call<F, M>(client: &TestClient, f: F, input: F::Input) -> Outcome<F::Output>
where
    F: aside::IsolatedFunction<M>,
{
    client.within(|| isolated(f, input)).join()
}

#[test]
fn a_value_comes_from_another_process_which_is_used_again() {
    let client = client();
    assert_eq!(call(&client, double, 21).unwrap(), 42);
    let first = call(&client, pid, ()).unwrap();
    assert_ne!(first, std::process::id());
    assert_eq!(call(&client, pid, ()).unwrap(), first);
}

#[test]
fn each_end_of_a_function_has_its_own_message() {
    let client = client();
    let Err(Failure::Error(error)) = call(&client, fail, "disk full".into()) else { panic!("an error") };
    assert_eq!(error.chain(), "disk full");
    let Err(Failure::Panic(panic)) = call(&client, misbehave, "panic".into()) else { panic!("a panic") };
    assert_eq!(panic.message, "boom");
    assert!(panic.place.is_some_and(|place| place.starts_with("tests/it/isolated.rs:")));
    for (how, message) in [
        ("exit", "its process exited with status 3 before the end of the function"),
        ("abort", "its process was killed by signal 6 (SIGABRT)"),
        ("overflow", "its process overflowed its stack"),
    ] {
        let failure = call(&client, misbehave, how.into()).unwrap_err().to_string();
        assert!(failure.starts_with(message), "{how}: {failure}");
    }
    let call = client.within(|| Isolated::new(misbehave).memory(128 << 20).spawn("allocate".into()));
    let failure = call.join().unwrap_err().to_string();
    assert!(failure.starts_with("its process ran out of memory, of which it may have 128 MiB"), "{failure}");
    assert_eq!(client.failures().len(), 6);
}

#[test]
fn progress_comes_whole_before_the_end() {
    let client = client();
    let call = client.within(|| Isolated::new(count).name("counts").key("count-1").spawn(1_000));
    let info = call.info().clone();
    assert_eq!(call.join().unwrap(), "counts in attempt 1");
    let progress = info.progress();
    assert_eq!((progress.done, progress.total, progress.message.as_str()), (1_000, 1_000, "counted"));
    assert_eq!(client.within(|| aside::task("count-1")).map(|task| task.id()), Some(info.id()));
    let _ = Duration::ZERO;
}
