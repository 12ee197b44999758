//! Calls in child processes: this test binary again, with [`child`] as its only test.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::call::run_once;
use super::process::Program;
use super::{Call, Limits, Pool, Target, child_main, is_child, isolated};
use crate::background::failure::{Failure, Outcome};
use crate::background::handle::TaskHandle;
use crate::background::lineage::LineageTexts;
use crate::background::registry::Registry;
use crate::background::run::{Run, call_once};
use crate::background::scope::{Context, Scope, Values};
use crate::background::task::{Task, background};
use crate::background::task_context::TaskContext;
use crate::config::Config;
use crate::error::Error;
use crate::sync::{Notify, lock};
use crate::watch::watcher_id;

/// The longest wait of a test for an event that usually happens much sooner.
const SOON: Duration = Duration::from_secs(60);

/// Not a test of its own: the child process of the other tests.
#[test]
fn child() {
    if is_child() {
        println!("noise on standard output, before");
        if std::env::var_os(LINGER).is_some() {
            STUCK.with(|_| ());
        }
        serve();
    }
}

/// Runs the calls of the parent.
fn serve() -> ! {
    let pid = || Some(std::process::id().to_string());
    child_main(
        &scope(),
        Arc::new(move |call: &Call, input: &str, task: &TaskContext| match call.name.as_str() {
            "pid" => Ok(pid()),
            _ => dispatch(call, input, task).map(|()| None),
        }),
    )
}

/// Runs the call with this name, in the child.
fn dispatch(call: &Call, input: &str, task: &TaskContext) -> Outcome<()> {
    match call.name.as_str() {
        "nothing" => {}
        "tell" => return tell(input, task),
        "fail" => {
            let error = Error::from(std::io::Error::other(input.to_owned()));
            return Err(Failure::Error(error.context("cannot save the order").status(crate::error::Status::CONFLICT)));
        }
        "panic" => panic!("{input}"),
        "exit" => std::process::exit(input.parse().unwrap()),
        "abort" => std::process::abort(),
        "overflow" => drop(overflow(0)),
        "allocate" => drop(std::hint::black_box(vec![1_u8; input.parse::<usize>().unwrap() << 20])),
        "grow" => grow(),
        "never" => never(input),
        "sleep" => {
            task.message("asleep");
            let slept = task.sleep(Duration::from_secs(3_600));
            task.message("stopped");
            return slept.map_err(|error| Failure::from_error(error.into()));
        }
        "nested-function" => return isolated(nested, ()).join(),
        "nested" => return run_once(&Program::own(), call, input, task).map(drop),
        "noise" => noise(),
        "print" => print!("{input} is here"),
        "last-words" => last_words(),
        "flood" => flood(input),
        "descriptors" => task.message(descriptors()),
        "leave-behind" => leave_behind(input),
        "close" => close(),
        "spawn" => drop(Command::new("sleep").arg("3600").stdin(Stdio::null()).spawn().map(|child| {
            task.message(child.id().to_string());
            never(input);
        })),
        other => unreachable!("{other}"),
    }
    Ok(())
}

fn tell(input: &str, task: &TaskContext) -> Outcome<()> {
    log::info!(target: "shop::till", coins = 17, of = input; "counting «{input}»");
    log::debug!(target: "shop::till", "nobody wants to know");
    assert_eq!(log::max_level(), log::LevelFilter::Info, "nor is it sent");
    task.progress(2, 3);
    task.message(format!("готово 🎉 {input}"));
    let origin = Context::current().lineage.request.map_or("none".to_owned(), |origin| origin.path.clone());
    log::warn!(target: "shop::till", "attempt {} of {} from {origin}", task.attempt(), task.name());
    Ok(())
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    std::hint::black_box([depth; 64]).len() as u64 + overflow(depth + 1)
}

/// Allocates memory until the allocation fails.
fn grow() {
    let mut kept = Vec::new();
    loop {
        kept.push(vec![1_u8; 10_000]);
        std::hint::black_box(&kept);
    }
}

/// Neither ends nor reacts to a cancellation. It connects to a socket: the end of the connection shows that it has ended.
fn never(path: &str) {
    let _connection = std::os::unix::net::UnixStream::connect(path).map(|mut connection| {
        let _ = writeln!(connection, "{}", std::process::id());
        connection
    });
    loop {
        std::thread::park();
    }
}

fn nested(_: ()) {}

fn noise() {
    for _ in 0..100 {
        println!("{{\"Ended\":\"Done\"}} \0\0\0\u{1}");
        let _ = std::io::stdout().write_all(b"\xff\xff\xff\xff\x00");
    }
    let _ = std::io::stdout().flush();
    let mut typed = String::new();
    assert_eq!(std::io::stdin().read_line(&mut typed).unwrap(), 0, "standard input is empty");
}

/// Logs and prints much and exits; its first log line blocks the reader until the process has ended.
fn last_words() {
    log::info!(target: "shop", "wait for the end of {}", std::process::id());
    for number in 0..100 {
        log::info!(target: "shop", "report {number}");
        eprintln!("line {number} {}", ".".repeat(400));
    }
    eprintln!("out of paper");
    std::process::exit(5);
}

/// Prints `megabytes` without a line break, and again as lines of 1 MiB, and logs the same amount.
fn flood(megabytes: &str) {
    let megabytes: usize = megabytes.parse().unwrap();
    let block = vec![b'x'; 1 << 20];
    for _ in 0..megabytes {
        let _ = std::io::stderr().write_all(&block);
    }
    let long = "y".repeat(1 << 20);
    for _ in 0..megabytes {
        let _ = writeln!(std::io::stderr(), "\n{long}");
        log::info!(target: "shop::flood", "{long}");
    }
}

/// Returns the open descriptors of this process, as lines of `number target`.
fn descriptors() -> String {
    let mut numbers: Vec<u32> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    let what = |number: &u32| Some((*number, std::fs::read_link(format!("/proc/self/fd/{number}")).ok()?));
    // The descriptor of the folder that was read is closed by now.
    numbers.iter().filter_map(what).map(|(number, what)| format!("{number} {}\n", what.display())).collect()
}

/// Returns true for a descriptor that child processes inherit. This process has inherited it too.
fn is_inherited(line: &str) -> bool {
    let number = line.split(' ').next().unwrap_or_default();
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:\t"));
    flags.is_some_and(|flags| u32::from_str_radix(flags, 8).unwrap() & 0o2_000_000 == 0)
}

/// Starts a background task that ends after the job, and then writes a file.
fn leave_behind(path: &str) {
    let path = path.to_owned();
    drop(background(move || {
        std::thread::sleep(Duration::from_millis(50));
        std::fs::write(path, "sent")
    }));
}

/// Closes the channel, which a job does not do by accident, and goes on.
fn close() {
    for number in 3..20 {
        let path = format!("/proc/self/fd/{number}");
        if std::fs::read_link(path).is_ok_and(|what| what.to_string_lossy().starts_with("socket:")) {
            // The only way without unsafe code: a shutdown tells the other end that this one is closed.
            let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
            let socket = rustix::process::pidfd_getfd(own.unwrap(), number, rustix::process::PidfdGetfdFlags::empty());
            let _ = rustix::net::shutdown(socket.unwrap(), rustix::net::Shutdown::Write);
        }
    }
    loop {
        std::thread::park();
    }
}

/// The variable of a child whose exit takes forever.
const LINGER: &str = "ASIDE_TEST_ISOLATE_LINGER";

/// A value whose destructor never returns, so that its thread and its process do not end.
struct Stuck;

impl Drop for Stuck {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

thread_local! {
    static STUCK: Stuck = const { Stuck };
}

fn scope() -> Scope {
    Scope::new(Registry::new(&Config { nice: 0, ..Config::default() }), Values::default())
}

/// An attempt of a job, and its payload.
#[derive(Clone)]
struct Order {
    call: Call,
    payload: String,
}

impl Order {
    fn limited(mut self, limits: Limits) -> Order {
        self.call.limits = limits;
        self
    }
}

fn order(name: &str, payload: &str) -> Order {
    let call = Call {
        target: Target::Job { id: 17, token: 1 },
        name: name.into(),
        attempt: 3,
        label: format!("{name}-job"),
        lineage: LineageTexts { request: Some("POST /orders 3f9a1c".into()), ..LineageTexts::default() },
        limits: Limits { deadline: SOON, memory: 0 },
    };
    Order { call, payload: payload.into() }
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Returns the command that starts this test binary as a child.
fn again() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "isolate::tests::child", "--nocapture", "--test-threads=1"]);
    command.env_remove("RUST_BACKTRACE");
    command
}

/// Starts the job, and returns the handle of the task that waits for it.
fn start_by(command: impl Fn() -> Command + Send + Sync + 'static, order: Order) -> TaskHandle<()> {
    let program = Program::by(command);
    run_in_a_task(move |task| run_once(&program, &order.call, &order.payload, task).map(drop))
}

fn run_in_a_task<T: Send + 'static>(call: impl FnOnce(&TaskContext) -> Outcome<T> + Send + 'static) -> TaskHandle<T> {
    let _entered = Context::of(scope()).enter();
    let name = Task::named("waits").options::<()>(std::panic::Location::caller());
    Run::new(Context::current(), name, call_once(call)).with_handle()
}

/// Returns a call of a function.
fn function(name: &str, input: &str) -> Order {
    let mut order = order(name, input);
    order.call.target = Target::Function { task: 7 };
    order
}

fn pool(most: usize, idle: Duration) -> Arc<Pool> {
    Pool::with(Program::by(again), most, idle)
}

/// Runs the call in one of the pool's children.
fn start_in(pool: &Arc<Pool>, order: Order) -> TaskHandle<Option<String>> {
    let pool = pool.clone();
    run_in_a_task(move |task| pool.run(&order.call, &order.payload, task))
}

/// Returns the number of the process that runs the next call.
fn pid_in(pool: &Arc<Pool>) -> i32 {
    start_in(pool, function("pid", "")).join().unwrap().expect("an output").parse().unwrap()
}

fn start(order: Order) -> TaskHandle<()> {
    start_by(again, order)
}

fn failure(order: Order) -> Failure {
    start(order).join().expect_err("the job fails")
}

fn words(name: &str, payload: &str) -> String {
    failure(order(name, payload)).to_string()
}

/// A logger that records the log lines that the tests look for.
struct RecordingLog;

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl log::Log for RecordingLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        if record.target().starts_with("shop") || ["aside::jobs", "aside::isolate"].contains(&record.target()) {
            let line = format!("{} {}: {}", record.level(), record.target(), record.args());
            let values = record.key_values();
            let coins = values.get("coins".into()).map_or(String::new(), |coins| format!(", {coins} coins"));
            let line = line + &coins;
            if let Some((_, pid)) = line.split_once("wait for the end of ") {
                wait_for_the_end(pid.parse().unwrap());
            }
            lock(&LINES).push(line);
        }
    }

    fn flush(&self) {}
}

/// Records the log from now on.
fn read_the_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&RecordingLog).expect("no other unit test sets up a log");
        log::set_max_level(log::LevelFilter::Info);
    });
}

fn logged(words: &str) -> Vec<String> {
    lock(&LINES).iter().filter(|line| line.contains(words)).cloned().collect()
}

#[test]
fn a_job_runs_in_a_child_and_its_log_and_progress_reach_the_parent() {
    read_the_log();
    let handle = start(order("tell", "воробьи 🐦\u{0}"));
    let info = handle.info().clone();
    handle.join().unwrap();
    let progress = info.progress();
    assert_eq!((progress.done, progress.total, progress.message.as_str()), (2, 3, "готово 🎉 воробьи 🐦\0"));
    assert_eq!(logged("counting"), ["INFO shop::till: counting «воробьи 🐦\0», 17 coins"]);
    assert_eq!(logged("attempt 3 of"), ["WARN shop::till: attempt 3 of tell-job from /orders"]);
    assert_eq!(logged("nobody wants"), [""; 0]);
    let printed = logged("INFO aside::jobs: Isolated job tell-job (job 17, attempt 3) printed: ");
    assert!(printed.iter().any(|line| line.ends_with("noise on standard output, before")), "{printed:?}");
}

#[test]
fn an_error_arrives_with_its_chain_and_a_panic_with_its_message() {
    let Failure::Error(error) = failure(order("fail", "диск полон 💾")) else { panic!("an error") };
    assert_eq!((error.chain().as_str(), error.status_code().code()), ("cannot save the order: диск полон 💾", 409));
    assert!(error.backtrace().is_none());
    let Failure::Panic(panic) = failure(order("panic", "бум 💥")) else { panic!("a panic") };
    assert_eq!(panic.message, "бум 💥");
}

#[test]
fn each_way_to_end_a_process_has_its_own_message() {
    for (name, payload, told) in [
        ("exit", "3", "its process exited with status 3 before the end of the job"),
        ("exit", "0", "its process exited with status 0 before the end of the job"),
        ("abort", "", "its process was killed by signal 6 (SIGABRT)"),
        ("overflow", "", "its process overflowed its stack"),
        ("nested", "", "an isolated job cannot run another one inside itself"),
        ("nested-function", "", "an isolated function cannot be called inside a child process"),
    ] {
        let words = words(name, payload);
        assert!(words.starts_with(told), "{name} {payload}: {words}");
    }
}

#[test]
fn a_job_over_its_memory_limit_fails_with_a_message() {
    let limits = Limits { deadline: SOON, memory: 128 << 20 };
    // The address space is limited too, but its limit is wider than that of the data.
    for (name, megabytes, asked) in
        [("allocate", "102400", "107374182400 bytes"), ("allocate", "140", "146800640 bytes"), ("grow", "", "")]
    {
        let words = failure(order(name, megabytes).limited(limits)).to_string();
        let told = "its process ran out of memory, of which it may have 128 MiB: memory allocation of ";
        assert!(words.starts_with(told) && words.contains(asked), "{name}: {words}");
    }
    start(order("allocate", "64").limited(limits)).join().expect("an allocation below the limit succeeds");
}

#[test]
fn a_job_that_never_returns_is_killed_at_its_time_limit() {
    let limits = Limits { deadline: Duration::from_millis(1_500), memory: 0 };
    let words = failure(order("never", "").limited(limits)).to_string();
    assert_eq!(words, "its process was killed at its time limit of 1.5 s");
}

#[test]
fn a_cancelled_job_stops_or_is_killed() {
    let obeys = start(order("sleep", ""));
    wait_for_message(&obeys);
    obeys.cancel();
    let (listener, folder) = listener();
    let ignores = start(order("never", folder.path().join("s").to_str().unwrap()));
    let (mut connection, _) = accept(&listener);
    ignores.cancel();
    let told = obeys.info().clone();
    assert_cancelled(obeys);
    assert_eq!(told.progress().message, "stopped", "it was not killed");
    assert_cancelled(ignores);
    assert_eq!(connection.read_to_string(&mut String::new()).unwrap(), 0);
}

fn assert_cancelled(handle: TaskHandle<()>) {
    let outcome = handle.join();
    assert!(matches!(outcome, Err(Failure::Cancelled)), "{outcome:?}");
}

fn wait_for_message(handle: &TaskHandle<()>) -> String {
    let (me, changed, until) = (watcher_id(), Arc::new(Notify::default()), Instant::now() + SOON);
    while Instant::now() < until {
        let seen = handle.info().watched().look();
        if !seen.value.message.is_empty() {
            return seen.value.message.clone();
        }
        let waker = changed.clone();
        handle.info().watched().call_when_new(me, seen.version, Arc::new(move || waker.notify()));
        changed.wait(SOON);
    }
    panic!("the job has set no message")
}

/// Returns a socket to which a job connects.
fn listener() -> (UnixListener, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (UnixListener::bind(folder.path().join("s")).unwrap(), folder)
}

/// Accepts the connection of a job, and returns it with the number of the job's process.
fn accept(listener: &UnixListener) -> (BufReader<std::os::unix::net::UnixStream>, Pid) {
    let (connection, _) = listener.accept().unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    (connection, Pid::from_raw(line.trim().parse().unwrap()).unwrap())
}

#[test]
fn a_killed_job_fails_with_the_name_of_the_signal() {
    let (listener, folder) = listener();
    for (signal, told) in [
        (Signal::KILL, "its process was killed by signal 9 (SIGKILL), perhaps because the system is out of memory"),
        (Signal::USR1, "its process was killed by signal 10 (SIGUSR1)"),
    ] {
        let handle = start(order("never", folder.path().join("s").to_str().unwrap()));
        let (_connection, pid) = accept(&listener);
        // A service manager may signal all processes of a service: the job goes on until its parent cancels it.
        kill_process(pid, Signal::TERM).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        kill_process(pid, signal).unwrap();
        let words = handle.join().unwrap_err().to_string();
        assert!(words.starts_with(told), "{words}");
    }
}

/// Not a test of its own: the parent process, which starts a job and is killed.
#[test]
fn parent() {
    if let Ok(path) = std::env::var("ASIDE_TEST_ISOLATE_PARENT") {
        let pool = pool(2, SOON);
        let calls = [(); 2].map(|()| start_in(&pool, function("never", &path)));
        let _ = start(order("never", &path)).join();
        drop(calls);
    }
}

#[test]
fn a_job_and_functions_end_with_their_parent_even_when_one_is_stopped() {
    let (listener, folder) = listener();
    for is_stopped in [false, true] {
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "isolate::tests::parent", "--nocapture"])
            .env("ASIDE_TEST_ISOLATE_PARENT", folder.path().join("s"))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let children = [(); 3].map(|()| accept(&listener));
        if is_stopped {
            kill_process(children[0].1, Signal::STOP).unwrap();
        }
        parent.kill().unwrap();
        parent.wait().unwrap();
        for (mut connection, _) in children {
            assert_eq!(connection.read_to_string(&mut String::new()).unwrap(), 0, "it is gone");
        }
    }
}

/// Not a test of its own: a program whose file is replaced while it runs.
#[test]
fn replaced() {
    if is_child() {
        serve();
    }
    if let Ok(path) = std::env::var("ASIDE_TEST_ISOLATE_REPLACED") {
        std::fs::write(format!("{path}.new"), "another program").unwrap();
        std::fs::rename(format!("{path}.new"), path).unwrap();
        let pool = Pool::new(Program::own());
        assert_ne!(pid_in(&pool), i32::try_from(std::process::id()).unwrap());
    }
}

#[test]
fn a_program_whose_file_was_replaced_starts_children_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    let output = Command::new(&path)
        .args(["--exact", "isolate::tests::replaced", "--nocapture"])
        .env("ASIDE_TEST_ISOLATE_REPLACED", &path)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && printed.contains("1 passed"), "{output:?}");
    assert_eq!(std::fs::read_to_string(path).unwrap(), "another program");
}

#[test]
fn a_pool_starts_no_child_before_the_first_call_and_ends_idle_ones() {
    let pool = pool(2, Duration::from_millis(1));
    assert_eq!(format!("{pool:?}"), "0 of 2 child processes, 0 calls wait");
    let pid = pid_in(&pool);
    wait_for_the_end(pid);
    assert_eq!(format!("{pool:?}"), "0 of 2 child processes, 0 calls wait");
    assert_ne!(pid_in(&pool), pid);
}

#[test]
fn the_children_of_a_pool_end_with_it() {
    let pool = pool(2, SOON);
    let pid = pid_in(&pool);
    assert_eq!(format!("{pool:?}"), "1 of 2 child processes, 0 calls wait");
    drop(pool);
    wait_for_the_end(pid);
}

#[test]
fn a_child_runs_a_thousand_calls_and_no_more() {
    let pool = pool(1, SOON);
    let first = pid_in(&pool);
    assert!((1..1_000).all(|_| pid_in(&pool) == first));
    assert_ne!(pid_in(&pool), first);
}

#[test]
fn one_child_runs_calls_with_different_memory_limits() {
    let pool = pool(1, SOON);
    let first = pid_in(&pool);
    let allocate = |memory| {
        let limits = Limits { deadline: SOON, memory };
        start_in(&pool, function("allocate", "140").limited(limits)).join().map_err(|failure| failure.to_string())
    };
    assert!(allocate(512 << 20).is_ok() && pid_in(&pool) == first);
    assert!(allocate(0).is_ok() && pid_in(&pool) == first);
    assert!(allocate(128 << 20).unwrap_err().contains("of which it may have 128 MiB"));
    assert_ne!(pid_in(&pool), first);
}

#[test]
fn a_call_with_less_memory_than_its_process_needs_is_refused_and_the_next_one_runs() {
    let pool = pool(1, SOON);
    let first = pid_in(&pool);
    let limits = Limits { deadline: SOON, memory: 1 };
    let words = start_in(&pool, function("pid", "").limited(limits)).join().unwrap_err().to_string();
    assert!(words.starts_with("its process may have 1 byte of memory, and needs "), "{words}");
    assert_ne!(pid_in(&pool), first);
}

#[test]
fn what_a_function_prints_is_logged_under_its_own_name() {
    read_the_log();
    let pool = pool(1, SOON);
    for label in ["first-print", "second-print"] {
        let mut order = function("print", label);
        order.call.label = label.to_owned();
        start_in(&pool, order).join().unwrap();
    }
    for label in ["first-print", "second-print"] {
        let line = format!("INFO aside::isolate: Isolated function {label} (task 7) printed: {label} is here");
        assert_eq!(logged(&format!("printed: {label}")), [line]);
    }
}

#[test]
fn processes_that_a_job_started_are_killed_with_it() {
    let handle = start(order("spawn", ""));
    let grandchild: i32 = wait_for_message(&handle).parse().unwrap();
    handle.cancel();
    assert_cancelled(handle);
    wait_for_the_end(grandchild);
}

/// Waits until a process has ended. A zombie counts as ended.
fn wait_for_the_end(pid: i32) {
    let until = Instant::now() + SOON;
    while is_alive(pid) {
        assert!(Instant::now() < until);
        std::thread::yield_now();
    }
}

fn is_alive(pid: i32) -> bool {
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn reports_and_output_of_an_ended_process_are_read() {
    read_the_log();
    let words = words("last-words", "");
    assert_eq!(words, "its process exited with status 5 before the end of the job; its last line: out of paper");
    assert_eq!(logged("INFO shop: report ").len(), 100);
}

#[test]
fn printed_output_does_not_corrupt_the_channel() {
    start(order("noise", "")).join().unwrap();
}

#[test]
fn a_flood_of_output_is_truncated_in_the_log() {
    read_the_log();
    start(order("flood", "8")).join().unwrap();
    let logged: Vec<usize> = logged("yyyy").iter().chain(&logged("xxxx")).map(String::len).collect();
    assert!(logged.len() >= 17 && logged.iter().all(|length| *length < 20 << 10), "{logged:?}");
}

#[test]
fn a_child_inherits_no_open_files_or_sockets() {
    let before: Vec<String> = descriptors().lines().filter(|line| is_inherited(line)).map(str::to_owned).collect();
    let file = File::open("Cargo.toml").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let visitor = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = listener.accept().unwrap();
    let handle = start(order("descriptors", ""));
    let open = wait_for_message(&handle);
    handle.join().unwrap();
    assert!(open.starts_with("0 /dev/null\n"), "{open}");
    let own = open.lines().skip(1).filter(|line| !before.contains(&(*line).to_owned()));
    let kinds: Vec<&str> = own.filter_map(|line| line.split('[').next()).collect();
    // The channel, as two descriptors for reading and writing, and the pipe that wakes the main thread.
    assert_eq!(kinds, ["1 pipe:", "2 pipe:", "3 socket:", "4 socket:", "5 pipe:", "6 pipe:"], "{open}");
    drop((file, listener, visitor, accepted));
}

#[test]
fn background_tasks_of_a_job_end_before_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mail");
    start(order("leave-behind", path.to_str().unwrap())).join().unwrap();
    assert_eq!(std::fs::read_to_string(path).unwrap(), "sent");
}

#[test]
fn a_child_that_closes_the_channel_ends() {
    let words = words("close", "");
    assert!(words.starts_with("its process exited with status 1 before the end of the job"), "{words}");
}

#[test]
fn a_completed_job_whose_process_does_not_exit_is_completed() {
    read_the_log();
    let lingers = || {
        let mut command = again();
        command.env(LINGER, "1");
        command
    };
    let mut order = order("nothing", "");
    order.call.label = "linger-job".into();
    start_by(lingers, order).join().unwrap();
    assert_eq!(
        logged(
            "Isolated job linger-job (job 17, attempt 3) has ended, but its process did not exit within 2.0 s: killed."
        )
        .len(),
        1
    );
}

#[test]
fn a_child_that_never_reaches_its_job_fails_with_its_last_output() {
    let words =
        start_by(|| shell("echo 'no such database' >&2; exit 4"), order("nothing", "")).join().unwrap_err().to_string();
    assert!(words.starts_with("its process exited with status 4 before the end of the job; its last line: no such database (it had not come to the application: "), "{words}");
    let words = start_by(|| shell(r"printf '\377\377\377\377' >&0; sleep 3600"), order("nothing", ""))
        .join()
        .unwrap_err()
        .to_string();
    assert!(words.contains("it sent an invalid report (a message of 4294967295 bytes"), "{words}");
    let nowhere = start_by(|| Command::new("/nonexistent/program"), order("nothing", ""));
    let words = nowhere.join().unwrap_err().to_string();
    assert!(
        words.starts_with("the isolated job has no process: cannot start \"/nonexistent/program\": No such file"),
        "{words}"
    );
}

#[test]
fn a_call_that_its_child_never_reads_is_killed_at_its_time_limit() {
    let limits = Limits { deadline: Duration::from_millis(300), memory: 0 };
    let large = order("nothing", &"x".repeat(8 << 20)).limited(limits);
    let words = start_by(|| shell("sleep 3600"), large).join().unwrap_err().to_string();
    assert!(words.starts_with("its process was killed at its time limit of 300 ms"), "{words}");
    let too_large = failure(order("nothing", &"x".repeat(65 << 20))).to_string();
    assert!(
        too_large.starts_with("the input of the isolated job is too long: at most 64 MiB of JSON fit: a message of 68"),
        "{too_large}"
    );
    start(order("nothing", &"x".repeat(8 << 20))).join().unwrap();
}

#[test]
fn a_variable_that_was_set_by_mistake_is_reported() {
    let output = again().env("ASIDE_ISOLATED", "1").stdin(Stdio::null()).output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("ASIDE_ISOLATED is set") && words.contains("unset it"), "{words}");
    assert_eq!(output.status.code(), Some(1));
}
