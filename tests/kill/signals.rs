//! Signals to a site with a running task, and to a process that only runs jobs.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::harness::Completion;
use aside::{App, Request, background};
use rustix::process::Signal;

use crate::ledger::Ledger;
use crate::process::{Child, agent, until};
use crate::site::{Setup, address};

/// The address where tasks report and wait to be released.
const CONTROL: &str = "KILL_CONTROL";

/// A site whose `/task` starts a task that waits for a byte and then sends one back.
pub(crate) fn serve() {
    let control = std::env::var(CONTROL).expect("where tasks report");
    let handler = move |_: &mut Request| {
        let mut control = TcpStream::connect(&control).expect("the driver listens");
        background(move || {
            control.read_exact(&mut [0])?;
            control.write_all(b"!")
        });
    };
    App::new().get("/task", handler).get("/", |_: &mut Request| "a page").run().expect("the site runs");
}

struct Site {
    child: Child,
    base: String,
    control: TcpListener,
}

impl Site {
    fn start(through: Option<&[&str]>) -> Site {
        let control = TcpListener::bind("127.0.0.1:0").expect("a port");
        let ours = control.local_addr().expect("an address").to_string();
        let child = Child::start("signals", &[(CONTROL, &ours), ("ASIDE_ADDR", "127.0.0.1:0")], through);
        let base = address(&child).unwrap_or_else(|log| panic!("the site does not begin: {log}"));
        Site { child, base, control }
    }

    fn get(&self, target: &str) -> String {
        let mut answer = agent().get(format!("{}{target}", self.base)).call().expect("the site answers");
        answer.body_mut().read_to_string().expect("a whole answer")
    }

    fn begin_task(&self) -> TcpStream {
        self.get("/task");
        self.control.accept().expect("the task reports").0
    }

    /// Releases the task, and checks that the process then ends cleanly.
    fn ends_after(&mut self, mut task: TcpStream) {
        self.child.log.wait_for("Waiting for 1 task");
        task.write_all(b"?").expect("the task is there");
        task.read_exact(&mut [0]).expect("the task ends by itself");
        assert!(self.child.wait().success());
        self.child.log.wait_for("Stopped.");
    }
}

/// Regression: wrappers signal their child and its group, and 39 of 40 processes lost their grace period.
pub(crate) fn two_stop_signals_within_a_second_are_one_shutdown() {
    for second in [Signal::TERM, Signal::INT] {
        let mut site = Site::start(None);
        let task = site.begin_task();
        site.child.signal(Signal::TERM);
        site.child.log.wait_for("Stopping on SIGTERM");
        site.child.signal(second);
        site.child.log.wait_for("counts as the same shutdown");
        site.ends_after(task);
    }
}

pub(crate) fn a_stop_signal_after_more_than_a_second_ends_the_process() {
    let mut site = Site::start(None);
    let _task = site.begin_task();
    let began = Instant::now();
    site.child.signal(Signal::TERM);
    site.child.log.wait_for("Waiting for 1 task");
    until("the process ends", || {
        site.child.signal(Signal::TERM);
        (!site.child.is_alive()).then_some(())
    });
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(site.child.wait().code(), Some(143));
    site.child.log.wait_for("SIGTERM: ending at once");
}

pub(crate) fn sighup_stops_gracefully() -> Completion {
    if is_ignored_here() {
        return Completion::ignored_with("SIGHUP is ignored here, as under nohup");
    }
    let mut site = Site::start(None);
    let task = site.begin_task();
    site.child.signal(Signal::HUP);
    site.child.log.wait_for("Stopping on SIGHUP");
    site.ends_after(task);
    Completion::Completed
}

fn is_ignored_here() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0").trim();
    u64::from_str_radix(mask, 16).is_ok_and(|mask| mask & 1 == 1)
}

/// `nohup` starts a process with SIGHUP ignored.
pub(crate) fn sighup_stays_ignored_if_it_was_ignored_at_start() {
    let mut site = Site::start(Some(&["sh", "-c", r#"trap '' HUP; exec "$0""#]));
    site.child.signal(Signal::HUP);
    // A later signal proves that this one had no effect.
    site.child.signal(Signal::USR1);
    site.child.log.wait_for("SIGUSR1 is ignored");
    assert_eq!(site.get("/"), "a page");
    site.child.signal(Signal::TERM);
    assert!(site.child.wait().success());
    assert!(!site.child.log.whole().contains("SIGHUP"));
}

pub(crate) fn sigquit_ends_the_process_at_once() {
    let mut site = Site::start(None);
    let _task = site.begin_task();
    site.child.signal(Signal::QUIT);
    assert_eq!(site.child.wait().code(), Some(131));
    site.child.log.wait_for("SIGQUIT: ending at once");
}

pub(crate) fn sigusr1_does_not_end_the_process() {
    let mut site = Site::start(None);
    site.child.signal(Signal::USR1);
    site.child.log.wait_for("SIGUSR1 is ignored");
    let task = site.begin_task();
    site.child.signal(Signal::TERM);
    site.ends_after(task);
}

pub(crate) fn a_process_that_only_runs_jobs_handles_the_same_signals() {
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::start(folder.path());
    let jobs = format!("sqlite:{}", folder.path().join("jobs.db").display());
    let mut worker = Setup::new(&jobs, &ledger).worker();
    worker.signal(Signal::USR1);
    worker.log.wait_for("SIGUSR1 is ignored");
    worker.signal(Signal::USR2);
    worker.log.wait_for("SIGUSR2 is ignored: a process that only runs jobs");
    worker.signal(Signal::QUIT);
    assert_eq!(worker.wait().code(), Some(131));
    let mut worker = Setup::new(&jobs, &ledger).worker();
    worker.signal(Signal::TERM);
    assert!(worker.wait().success());
}
