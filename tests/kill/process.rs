//! Processes of this very program in other roles, with what they say and the signals that they get.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Names the role; see `main`.
pub(crate) const ROLE: &str = "ASIDE_KILL_ROLE";

/// How long anything may take that a test waits for. Long: the machine may be busy with other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks at what another process does.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until it gives something.
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

/// For requests to processes that may end at any moment, and answer with any status.
pub(crate) fn agent() -> &'static ureq::Agent {
    static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
        config.build().new_agent()
    });
    &AGENT
}

/// The parameters of a query.
pub(crate) fn pairs(query: &str) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// A process, which is killed when this is dropped.
pub(crate) struct Child {
    process: std::process::Child,
    pub(crate) log: Log,
}

impl Child {
    /// Starts one. With a command, that begins it and is to run the program that it is given as its last argument.
    pub(crate) fn start(role: &str, environment: &[(&str, &str)], through: Option<&[&str]>) -> Child {
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
            .env("RUST_LOG", "info,aside::access=warn")
            .env_remove("ASIDE_ENV")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let log = Log::of(process.stderr.take().expect("its log"));
        Child { process, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a process");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Kills it with signal 9, and is there when it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Waits for its end.
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
            eprintln!("--- the log of process {}:\n{}---", self.pid(), self.log.text());
        }
    }
}

/// What a process has said so far.
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

    /// The line with these words, once it is there.
    #[track_caller]
    pub(crate) fn wait_for(&self, words: &str) -> String {
        self.find(words).unwrap_or_else(|text| panic!("the log has no {words:?}: {text}"))
    }

    /// The same, or the whole log when it ended without it.
    pub(crate) fn find(&self, words: &str) -> Result<String, String> {
        let (said, changed) = &*self.0;
        let found = |said: &Said| said.text.lines().find(|line| line.contains(words)).map(str::to_owned);
        let guard = said.lock().expect("the log");
        let waiting = |said: &mut Said| found(said).is_none() && !said.is_over;
        let (guard, _) = changed.wait_timeout_while(guard, PATIENCE, waiting).expect("the log");
        found(&guard).ok_or_else(|| guard.text.clone())
    }

    /// All of it, when the process has ended.
    pub(crate) fn whole(&self) -> String {
        let (said, changed) = &*self.0;
        let guard = said.lock().expect("the log");
        let (guard, _) = changed.wait_timeout_while(guard, PATIENCE, |said| !said.is_over).expect("the log");
        guard.text.clone()
    }
}
