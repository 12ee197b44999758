//! A Redis server for one test, on a free loopback port, in a temporary folder. A test can kill it, suspend it, and restart it
//! with its data. It ends with the test, also if the test's process dies.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Runs the server and kills it when the input ends, which it does with the test's process at the latest.
const KEEPER: &str =
    r#"redis-server "$@" & pid=$!; echo "keeper: $pid"; exec >/dev/null 2>&1; read -r _; kill -9 $pid; wait $pid"#;

/// The time limit for the start of a server.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct RedisServer {
    folder: TempDir,
    port: u16,
    settings: Vec<String>,
    process: Option<Process>,
}

struct Process {
    keeper: Child,
    /// The input of the process that runs the server; closing it ends the server.
    leash: Option<ChildStdin>,
    server: Pid,
}

impl RedisServer {
    /// Starts a server with these lines of configuration, in which `{port}` stands for its port. Prints the reason and returns
    /// `None` if no `redis-server` is installed.
    pub(crate) fn start(settings: &[&str]) -> Option<RedisServer> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: no redis-server is installed (Debian: apt install redis-server)");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = settings.iter().map(|&line| line.to_owned()).collect();
        let mut server = RedisServer { folder, port: 0, settings, process: None };
        // Another process may take the port before the server starts.
        for _ in 0..10 {
            server.port = free_port();
            if server.run() {
                return Some(server);
            }
        }
        panic!("redis-server does not start with {:?}", server.settings);
    }

    /// Starts a server that stores each write before it acknowledges it.
    pub(crate) fn durable() -> Option<RedisServer> {
        RedisServer::start(&["appendonly yes", "appendfsync always"])
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    #[allow(dead_code)] // Not every binary that includes this file uses it.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills the server with signal 9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.leash.take());
            process.keeper.wait().expect("the keeper of the server ends");
        }
    }

    /// Restarts the server on the same port, with its data.
    pub(crate) fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "redis-server does not start again on port {}", self.port);
    }

    /// Suspends the server: it accepts connections, but does not respond.
    pub(crate) fn hold(&self) {
        self.signal(Signal::STOP);
    }

    /// Resumes the server.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the server runs");
        kill_process(process.server, signal).expect("the server takes a signal");
    }

    /// Runs the server, and returns true if it is ready.
    fn run(&mut self) -> bool {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "redis-server", "--port"]).arg(self.port.to_string());
        command.args(["--bind", "127.0.0.1", "--save", "", "--daemonize", "no", "--dir"]).arg(self.folder.path());
        for setting in &self.settings {
            let (name, value) = setting.split_once(' ').expect("a name and a value");
            let value = value.replace("{port}", &self.port.to_string());
            command.arg(format!("--{name}")).args(value.split(' '));
        }
        let mut keeper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh can be run");
        let lines = BufReader::new(keeper.stdout.take().expect("its output is piped")).lines();
        let (tell, told) = mpsc::channel();
        // Reads to the end, so that the server never blocks on its output.
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let number = line.strip_prefix("keeper: ").map(|number| number.parse().expect("a process's number"));
                if number.is_some() || line.contains("Ready to accept connections") {
                    let _ = tell.send(number);
                }
            }
        });
        let mut heard: Vec<Option<i32>> = (0..2).map_while(|_| told.recv_timeout(PATIENCE).ok()).collect();
        let came_up = heard.len() == 2;
        let server = heard.drain(..).flatten().next().and_then(Pid::from_raw).expect("the keeper says whom it keeps");
        self.process = Some(Process { leash: keeper.stdin.take(), keeper, server });
        if !came_up {
            self.kill();
        }
        came_up
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback has a free port");
    listener.local_addr().expect("a listener has an address").port()
}
