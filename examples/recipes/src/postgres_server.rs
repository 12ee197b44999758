//! A PostgreSQL server for a test, on a free port and with its files in a temporary folder.
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

/// Of Debian's `postgresql-common`.
const PROGRAM: &str = "/usr/bin/pg_virtualenv";

/// Prints the address of the server, and waits until the test closes its input.
const SCRIPT: &str =
    "echo postgres://$PGUSER:$PGPASSWORD@$PGHOST:$PGPORT/$PGDATABASE; read end || true";

/// A server, until it is dropped.
pub struct Server {
    pub url: String,
    child: Child,
    /// Open until the end, since the program still writes to it.
    _output: BufReader<ChildStdout>,
}

/// Starts a server. Returns `None`, and says so, if PostgreSQL is not installed.
pub fn start() -> Option<Server> {
    if !Path::new(PROGRAM).exists() {
        eprintln!("skipped: {PROGRAM} is not installed");
        return None;
    }
    let mut child = command().spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut lines = output.by_ref().lines().map_while(Result::ok);
    let url = lines.find(|line| line.starts_with("postgres:"));
    Some(Server {
        url: url.expect("a server is started"),
        child,
        _output: output,
    })
}

fn command() -> Command {
    let is_root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut command = Command::new(if is_root { "runuser" } else { PROGRAM });
    if is_root {
        // For root it would change the servers of the machine.
        command.args(["-u", "postgres", "--", PROGRAM]);
    }
    command.args(["sh", "-c", SCRIPT]).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
