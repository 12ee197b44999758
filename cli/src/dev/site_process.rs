//! A process of the site. It receives the listening socket as a process does that another one of the site starts (SIGUSR2; see
//! `src/server/restart.rs` of aside), and holds the connection to this process until one of them ends.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;

use super::process_group;

/// The variable that names this process, so that only its children take the socket.
const VARIABLE: &str = "ASIDE_RESTART_OF";

/// The owner of the socket in the message with it: `aside dev`.
const OWNER: char = 'd';

/// The steps of a hand-over: the new process is prepared, the former one has stopped accepting, the new one serves.
const PREPARED: u8 = b'p';
const RELEASED: u8 = b'r';
const SERVES: u8 = b's';

/// How long a process may take to stop accepting connections.
const RELEASE: Duration = Duration::from_secs(5);

/// The number of lines of standard error that are kept.
const MOST_LINES: usize = 40;

/// What a process reports.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// It has prepared everything, and waits until it may accept connections.
    Prepared,
    Serves,
    /// It has ended, with this status and these last lines of its standard error.
    Ended {
        status: String,
        lines: String,
    },
}

/// What a process is given beside the socket.
pub struct Start<'s> {
    pub program: &'s Path,
    pub arguments: &'s [String],
    pub root: &'s Path,
    pub listener: &'s TcpListener,
    /// The port of the event stream.
    pub events: u16,
    /// The number of the process, which its pages have, so that they notice the next one.
    pub number: u64,
    /// True if standard error is a terminal with colors, so that the log keeps them.
    pub is_colored: bool,
}

pub struct SiteProcess {
    pub number: u64,
    child: Arc<Mutex<Child>>,
    group: u32,
    stream: UnixStream,
    released: Receiver<()>,
}

impl SiteProcess {
    /// Starts the program, and sends it the socket. `report` is called with its steps.
    ///
    /// # Errors
    /// An error if the program cannot be started.
    pub fn start(start: &Start<'_>, report: impl Fn(Step) + Send + 'static) -> io::Result<SiteProcess> {
        let (stream, theirs) = UnixStream::pair()?;
        let mut child = command(start, theirs).spawn()?;
        let (group, errors) = (child.id(), child.stderr.take());
        send(&stream, start)?;
        let (tell, released) = mpsc::channel();
        let (child, steps) = (Arc::new(Mutex::new(child)), stream.try_clone()?);
        let waited = child.clone();
        thread::spawn(move || {
            let lines = Arc::new(Mutex::new(VecDeque::new()));
            let kept = lines.clone();
            let passes_on = thread::spawn(move || errors.into_iter().for_each(|errors| pass_on(errors, &kept)));
            follow(steps, &tell, &report);
            let status = status_at_end(&waited);
            wait_for(&passes_on);
            report(Step::Ended { status, lines: last_lines(&lines) });
        });
        Ok(SiteProcess { number: start.number, child, group, stream, released })
    }

    /// Tells a prepared process to accept connections.
    pub fn accept(&self) {
        let _ = (&self.stream).write_all(&[RELEASED]); // its end is reported
    }

    /// Tells a serving process to stop accepting connections, and waits until it does so or has ended.
    pub fn release(&self) {
        if (&self.stream).write_all(&[PREPARED]).is_ok() {
            let _ = self.released.recv_timeout(RELEASE);
        }
    }

    /// Tells the process to stop gracefully.
    pub fn stop(&self) {
        process_group::signal(self.group, Signal::TERM);
    }

    /// Ends the process with all that it has started.
    pub fn kill(&self) {
        process_group::end(self.group, &self.child);
    }
}

fn command(start: &Start<'_>, stdin: UnixStream) -> Command {
    let mut command = Command::new(start.program);
    command
        .args(start.arguments)
        .current_dir(start.root)
        .env(VARIABLE, process::id().to_string())
        // As under `cargo run`.
        .env("CARGO_MANIFEST_DIR", start.root)
        .stdin(OwnedFd::from(stdin))
        .stderr(Stdio::piped())
        .process_group(0);
    if start.is_colored {
        command.env("RUST_LOG_STYLE", "always");
    }
    command
}

fn send(stream: &UnixStream, start: &Start<'_>) -> io::Result<()> {
    let message = format!("{OWNER}{} {}", start.events, start.number);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [start.listener.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    // It fails if the process has ended, which is reported.
    let _ = sendmsg(stream, &[IoSlice::new(message.as_bytes())], &mut control, SendFlags::NOSIGNAL);
    Ok(())
}

/// Reports the steps of a process, until it closes the connection.
fn follow(mut stream: UnixStream, released: &Sender<()>, report: &impl Fn(Step)) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).is_ok() {
        match byte[0] {
            PREPARED => report(Step::Prepared),
            SERVES => report(Step::Serves),
            RELEASED => drop(released.send(())),
            _ => {}
        }
    }
}

/// Waits for the end of the process, and returns its status. Another thread may end it concurrently, so that the lock is not held for
/// long.
fn status_at_end(child: &Mutex<Child>) -> String {
    loop {
        match child.lock().unwrap_or_else(PoisonError::into_inner).try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) => {}
            Err(error) => return error.to_string(),
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits for a thread, but not for long: a process that the site has started may hold standard error open.
fn wait_for(thread: &JoinHandle<()>) {
    for _ in 0..50 {
        if thread.is_finished() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

type Lines = Mutex<VecDeque<String>>;

/// Passes the lines of standard error on to the terminal, and keeps the last ones.
fn pass_on(errors: ChildStderr, kept: &Lines) {
    for line in BufReader::new(errors).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let _ = writeln!(io::stderr(), "{line}"); // standard error may be closed
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(line);
        if kept.len() > MOST_LINES {
            kept.pop_front();
        }
    }
}

fn last_lines(lines: &Lines) -> String {
    let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
}
