//! Processes of this program in other roles, with their logs and the signals that they receive.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The variable that names the role; see `main`.
pub(crate) const ROLE: &str = "ASIDE_KILL_ROLE";

/// The variable with the number of the process.
pub(crate) const NUMBER: &str = "ASIDE_KILL_NUMBER";

/// The longest wait of a test for an event. Long, since the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// The interval between two checks of another process.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `look` returns a value.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(LOOK);
    }
}

/// Returns a client for processes that may end at any moment, and respond with any status.
pub(crate) fn agent() -> &'static ureq::Agent {
    static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        config.build().new_agent()
    });
    &AGENT
}

/// Returns the parameters of a query.
pub(crate) fn pairs(query: &str) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// A process, which is killed on drop.
pub(crate) struct Child {
    process: std::process::Child,
    number: u32,
    pub(crate) log: Log,
}

impl Child {
    /// Starts a process. With a command, that is started instead, and must run the program in its last argument.
    pub(crate) fn start(role: &str, environment: &[(&str, &str)], through: Option<&[&str]>) -> Child {
        static LAST: AtomicU32 = AtomicU32::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let program = std::env::current_exe().expect("this program");
        let mut command = match through {
            Some(words) => {
                let mut command = Command::new(words[0]);
                command.args(&words[1..]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let mut process = command
            .env(ROLE, role)
            .env(NUMBER, number.to_string())
            .env("RUST_LOG", "info,aside::access=warn")
            .env_remove("ASIDE_ENV")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let log = Log::of(process.stderr.take().expect("its log"));
        Child { process, number, log }
    }

    /// Returns a unique number: process ids are reused after some thousands.
    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Kills the process with SIGKILL, and waits for its end.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the process ends", || self.process.try_wait().expect("the process can be waited for"))
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.process.try_wait().expect("the process can be waited for").is_none()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- the log of process {}:\n{}---", self.number, self.log.text());
        }
    }
}

/// The output of a process so far.
#[derive(Clone)]
pub(crate) struct Log(Arc<(Mutex<Said>, Condvar)>);

#[derive(Default)]
struct Said {
    text: String,
    is_over: bool,
}

impl Log {
    fn of(output: impl std::io::Read + Send + 'static) -> Log {
        let log = Log(Arc::default());
        let theirs = log.clone();
        thread::spawn(move || theirs.read(output));
        log
    }

    fn read(&self, output: impl std::io::Read) {
        let (said, changed) = &*self.0;
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
            said.lock().expect("the log").text.push_str(&String::from_utf8_lossy(&line));
            changed.notify_all();
            line.clear();
        }
        said.lock().expect("the log").is_over = true;
        changed.notify_all();
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().expect("the log").text.clone()
    }

    /// Waits for a line with this text.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.find(words).unwrap_or_else(|text| panic!("the log has no {words:?}: {text}"))
    }

    /// Waits for a line with this text. The error is the whole log, if the process ended without it.
    pub(crate) fn find(&self, words: &str) -> Result<String, String> {
        let (said, changed) = &*self.0;
        let found = |said: &Said| said.text.lines().find(|line| line.contains(words)).map(str::to_owned);
        let guard = said.lock().expect("the log");
        let waiting = |said: &mut Said| found(said).is_none() && !said.is_over;
        let (guard, _) = changed.wait_timeout_while(guard, PATIENCE, waiting).expect("the log");
        found(&guard).ok_or_else(|| guard.text.clone())
    }

    /// Returns the whole log, after the end of the process.
    pub(crate) fn whole(&self) -> String {
        let (said, changed) = &*self.0;
        let guard = said.lock().expect("the log");
        let (guard, _) = changed.wait_timeout_while(guard, PATIENCE, |said| !said.is_over).expect("the log");
        guard.text.clone()
    }
}
