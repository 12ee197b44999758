//! Groups of processes: a process with all that it has started. Ctrl-C reaches only the group of `aside dev`, which then ends the
//! others itself, in order.

use std::process::Child;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(1);

/// Ends a group, and waits for its first process.
pub fn end(group: u32, first: &Mutex<Child>) {
    signal(group, Signal::TERM);
    let until = Instant::now() + GRACE;
    while !has_ended(first) && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    // Also for a process of the group that has outlived the first one.
    signal(group, Signal::KILL);
    let _ = first.lock().unwrap_or_else(PoisonError::into_inner).wait();
}

/// Sends a signal to each process of a group. Without any, nothing happens.
pub fn signal(group: u32, signal: Signal) {
    if let Some(group) = i32::try_from(group).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, signal);
    }
}

fn has_ended(child: &Mutex<Child>) -> bool {
    child.lock().unwrap_or_else(PoisonError::into_inner).try_wait().is_ok_and(|status| status.is_some())
}
