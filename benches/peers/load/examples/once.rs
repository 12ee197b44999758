//! Requests one page for a while, to compare this generator with another: `cargo run --release -p load --example once --
//! 127.0.0.1:8000 /plain 32 2` beside `wrk -t1 -c32 -d2s --latency http://127.0.0.1:8000/plain`.

use std::time::Duration;

use load::{Expect, Histogram, Pace, Target};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [addr, path, connections, seconds] = &args[..] else { panic!("ADDRESS PATH CONNECTIONS SECONDS") };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n").into_bytes();
    let expect = Expect { statuses: vec![200], ..Expect::default() };
    let target = Target { addr: addr.parse().expect("an address"), request, expect };
    let connections = connections.parse().expect("a number of connections");
    let time = Duration::from_secs_f64(seconds.parse().expect("a number of seconds"));
    let outcome = load::run(&target, connections, Pace::Closed, time).expect("the system has sockets");
    println!("{:.0} requests/s, {} wrong, {} broken", outcome.rate(), outcome.wrong, outcome.broken);
    say("until the response arrived", &outcome.times);
    say("until it was read", &outcome.seen);
    say("the same as wrk reports it", &outcome.as_wrk(connections));
    say("the generator was late by", &outcome.read_late);
}

fn say(what: &str, times: &Histogram<u64>) {
    let [p50, p90, p99, p999] = [0.5, 0.9, 0.99, 0.999].map(|part| times.value_at_quantile(part) as f64 / 1e6);
    println!(
        "{what}: p50 {p50:.3}, p90 {p90:.3}, p99 {p99:.3}, p99.9 {p999:.3}, most {:.3} ms",
        times.max() as f64 / 1e6
    );
}
