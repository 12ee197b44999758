//! What a call of an isolated function costs, beside Python's pool of processes. `cargo bench --bench isolate`; the figures
//! are in `benches/README.md`.
//!
//! Both pools are given the same calls: of an empty function, the first one and then warm ones, and of a function that
//! computes for about a tenth of a second, once and then one on each of two processors.

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use aside::tasks::Isolated;
use aside::testing::TestClient;
use aside::{App, Config, Request, Result, isolated};

/// How many warm calls are timed.
const CALLS: usize = 5_000;

/// How often each of the others is.
const ROUNDS: usize = 15;

/// Steps of the function that computes.
const STEPS: u64 = 60_000_000;

fn nothing(_: ()) -> Result<()> {
    Ok(())
}

fn compute(steps: u64) -> Result<u64> {
    Ok((0..steps).fold(1, |hash, step| black_box((hash ^ step).wrapping_mul(0x0100_0000_01b3))))
}

fn pid(_: ()) -> Result<u32> {
    Ok(std::process::id())
}

fn echo(text: String) -> Result<String> {
    Ok(text)
}

/// A hello site.
fn client() -> TestClient {
    let app = App::with_config(Config::default()).get("/", |_req: &mut Request| "Hello");
    TestClient::new(app.isolated(nothing).isolated(compute).isolated(pid).isolated(echo))
}

fn main() {
    // A child comes this way too, and goes no further.
    let client = client();
    let cold = times(ROUNDS, |_| {
        let fresh = self::client();
        timed(|| call(&fresh, nothing, ()))
    });
    call(&client, nothing, ());
    let warm = times(CALLS, |_| timed(|| call(&client, nothing, ())));
    let task =
        times(CALLS, |_| timed(|| client.within(|| aside::Task::named("nothing").spawn(|_| ())).join().unwrap()));
    let limited = times(CALLS, |_| {
        timed(|| client.within(|| Isolated::new(nothing).memory(256 << 20).spawn(())).join().unwrap())
    });
    let text = "x".repeat(1 << 20);
    let large = times(100, |_| timed(|| call(&client, echo, text.clone())));
    say("first call of an empty function, with the start of the process", cold);
    say("warm call of an empty function", warm);
    say("the same with another memory limit", limited);
    say("the same, with 1 MiB in and out", large);
    say("for comparison: a task in this process", task);
    println!("  private memory of an idle child: {} kB", private_memory(call(&client, pid, ())));
    in_parallel(&client);
    drop(client);
    python();
}

fn call<F, M>(client: &TestClient, f: F, input: F::Input) -> F::Output
where
    F: aside::tasks::IsolatedFunction<M>,
{
    client.within(|| isolated(f, input)).join().expect("the function returns")
}

fn in_parallel(client: &TestClient) {
    let both = || {
        let calls = [(); 2].map(|()| client.within(|| isolated(compute, STEPS)));
        calls.map(|call| black_box(call.join().expect("the function returns")))
    };
    both();
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let one = timed(|| call(client, compute, STEPS));
            timed(both).as_secs_f64() / one.as_secs_f64()
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let (low, high) = (ratios[0], ratios[ROUNDS - 1]);
    println!("  two calls that compute, in the time of one: {:.2} ({low:.2} to {high:.2})", ratios[ROUNDS / 2]);
}

fn timed<T>(f: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    black_box(f());
    began.elapsed()
}

fn times(count: usize, measure: impl FnMut(usize) -> Duration) -> Vec<Duration> {
    (0..count).map(measure).collect()
}

fn say(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    println!("  {what}: p50 {:.0} µs, p99 {:.0} µs, of {}", at(0.5), at(0.99), times.len());
}

/// What a process has that it shares with no other, in kB.
fn private_memory(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let private = rollup.lines().filter(|line| line.starts_with("Private_"));
    private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

fn python() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/isolate_peers.py");
    match Command::new("python3").arg(script).arg(CALLS.to_string()).output() {
        Ok(output) if output.status.success() => print!("{}", String::from_utf8_lossy(&output.stdout)),
        Ok(output) => println!("  Python: {}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => println!("  Python is not here: {error}"),
    }
}
