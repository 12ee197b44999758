//! A Redis server of the test's own: on a free port of the loopback, in a folder that goes with it. It can be killed, held
//! still and started again on what it kept; it ends with the test, also where the test's process dies.

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

/// How long a server may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct RedisServer {
    folder: TempDir,
    port: u16,
    settings: Vec<String>,
    process: Option<Process>,
}

struct Process {
    keeper: Child,
    /// Its end is the server's.
    leash: Option<ChildStdin>,
    server: Pid,
}

impl RedisServer {
    /// Starts one with these lines of its configuration, where `{port}` stands for its port. None where no `redis-server` is installed; the reason is printed.
    pub(crate) fn start(settings: &[&str]) -> Option<RedisServer> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            eprintln!("skipped: no redis-server is installed (Debian: apt install redis-server)");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let settings = settings.iter().map(|&line| line.to_owned()).collect();
        let mut server = RedisServer { folder, port: 0, settings, process: None };
        // Somebody may take the port between our look and its start.
        for _ in 0..10 {
            server.port = free_port();
            if server.run() {
                return Some(server);
            }
        }
        panic!("redis-server does not start with {:?}", server.settings);
    }

    /// One that keeps what it has acknowledged, whatever happens.
    pub(crate) fn durable() -> Option<RedisServer> {
        RedisServer::start(&["appendonly yes", "appendfsync always"])
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    #[allow(dead_code)] // Not every binary that has this file asks.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Kills it with signal 9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.leash.take());
            process.keeper.wait().expect("the keeper of the server ends");
        }
    }

    /// Starts it again where it was, with what it kept.
    pub(crate) fn restart(&mut self) {
        self.kill();
        assert!(self.run(), "redis-server does not start again on port {}", self.port);
    }

    /// Holds it still: it is there, and answers nothing.
    pub(crate) fn hold(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the server runs");
        kill_process(process.server, signal).expect("the server takes a signal");
    }

    /// Whether it came up.
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
        // Reads on to the end, so that the server never waits for a reader. It may speak before its keeper does.
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
