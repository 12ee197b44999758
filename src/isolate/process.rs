//! The parent's side of a child process: started, written to, read from, and killed.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::protocol::{CHUNK, Inbox, VARIABLE};
use super::wake::Waker;
use crate::error::{Error, Result as Checked};
use crate::panics;
use crate::sync::lock;

/// How long a child may live after its last call, or after it has closed the channel.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// The interval between checks of the exit status, if the operating system does not have a descriptor for it; the second one
/// applies when the exit is near, since the channel has ended.
const CHECK: Duration = Duration::from_millis(100);
const CHECK_SOON: Duration = Duration::from_millis(2);

/// How to start the program again.
#[derive(Clone)]
pub(crate) struct Program(Arc<dyn Fn() -> Checked<Command> + Send + Sync>);

impl Program {
    /// This program with its own arguments.
    pub(crate) fn own() -> Program {
        Program::with(|| std::env::args_os().skip(1).collect())
    }

    /// This program, a test harness, with arguments that select one test. Without a name it has its own arguments.
    pub(crate) fn test(name: Option<&str>) -> Program {
        // A harness names the thread of a test after it, unless it runs all tests on its main thread.
        let Some(name) = name.filter(|name| *name != "main") else { return Program::own() };
        let flags = ["--exact", "--include-ignored", "--nocapture", "--test-threads=1"];
        let arguments: Vec<OsString> = flags.into_iter().chain([name]).map(OsString::from).collect();
        Program::with(move || arguments.clone())
    }

    fn with(arguments: impl Fn() -> Vec<OsString> + Send + Sync + 'static) -> Program {
        Program(Arc::new(move || {
            let mut command = Command::new(program()?);
            if let Some(name) = std::env::args_os().next() {
                command.arg0(name);
            }
            command.args(arguments());
            Ok(command)
        }))
    }

    #[cfg(test)]
    pub(super) fn by(command: impl Fn() -> Command + Send + Sync + 'static) -> Program {
        Program(Arc::new(move || Ok(command())))
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Program")
    }
}

/// Returns the path of this program. On Linux it is the file that runs here, even if another one has its name now.
fn program() -> Checked<std::path::PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    std::env::current_exe().map_err(|error| Error::from(error).context("cannot tell which program this is"))
}

/// A child process. It does not outlive this value.
pub(super) struct Process {
    child: Child,
    /// A descriptor that is readable after the process has ended, on systems that have one.
    exit: Option<OwnedFd>,
    /// The channel, until its end.
    channel: Option<UnixStream>,
    pub(super) inbox: Inbox,
    /// Its standard output and error, until their end.
    output: Option<PipeReader>,
    /// Wakes the thread that watches it.
    pub(super) waker: Waker,
    /// It has reached the application.
    pub(super) has_begun: bool,
    /// How many calls it has been given.
    pub(super) calls: u32,
}

/// The result of one attempt to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    Bytes(usize),
    Nothing,
    End,
}

impl Process {
    /// Starts the program, on the thread that starts all children.
    ///
    /// # Errors
    /// An error if it cannot be started.
    pub(super) fn start(program: &Program) -> Checked<Process> {
        let command = (program.0)()?;
        let name = command.get_program().to_owned();
        let (reply, started) = mpsc::sync_channel(1);
        send(Order { command, reply })?;
        // Without a reply the thread has panicked, and the log has its panic.
        let started = started.recv().unwrap_or_else(|_| Err(io::Error::other("its thread has ended")));
        started.map_err(|error| Error::from(error).context(format!("cannot start {name:?}")))
    }

    fn spawn(mut command: Command) -> io::Result<Process> {
        let (channel, child_end) = UnixStream::pair()?;
        let (output, printed) = io::pipe()?;
        let waker = Waker::new()?;
        channel.set_nonblocking(true)?;
        rustix::io::ioctl_fionbio(&output, true)?;
        command
            .env(VARIABLE, "1")
            // Sockets from a service manager are for this process alone.
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .stdin(OwnedFd::from(child_end))
            .stdout(printed.try_clone()?)
            .stderr(printed)
            // A process group of its own: processes that it starts are killed with it, and Ctrl-C reaches only the parent.
            .process_group(0);
        let child = command.spawn()?;
        // The command owns the parent's copies of the child's ends, and closes them.
        drop(command);
        let exit = watch_exit(&child);
        let (channel, output) = (Some(channel), Some(output));
        Ok(Process { child, exit, channel, inbox: Inbox::default(), output, waker, has_begun: false, calls: 0 })
    }

    /// Waits until data can be read or written, the process has ended, the waker is notified, or the time is over.
    pub(super) fn wait(&self, is_writing: bool, most: Duration) -> io::Result<()> {
        let mut watched = Vec::with_capacity(4);
        watched.push(PollFd::new(self.waker.pipe(), PollFlags::IN));
        if let Some(channel) = &self.channel {
            let write = if is_writing { PollFlags::OUT } else { PollFlags::empty() };
            watched.push(PollFd::new(channel, PollFlags::IN | write));
        }
        if let Some(output) = &self.output {
            watched.push(PollFd::new(output, PollFlags::IN));
        }
        if let Some(exit) = &self.exit {
            watched.push(PollFd::new(exit, PollFlags::IN));
        }
        let most = match &self.exit {
            Some(_) => most,
            None if self.channel.is_none() => most.min(CHECK_SOON),
            None => most.min(CHECK),
        };
        let most = Timespec::try_from(most.min(Duration::from_secs(3600))).map_err(io::Error::other)?;
        match poll(&mut watched, Some(&most)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns true if an idle child can run another call: it runs, and has reported and printed nothing since its last call.
    pub(super) fn is_quiet(&mut self) -> bool {
        let nothing = [self.read_channel(), self.read_output(|_| ())] == [Chunk::Nothing; 2];
        nothing && matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) fn has_channel(&self) -> bool {
        self.channel.is_some()
    }

    /// Closes the channel, which ends an idle child.
    pub(super) fn close_channel(&mut self) {
        self.channel = None;
    }

    /// Returns the exit status of a process that has ended.
    pub(super) fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Writes as much as the channel takes, and returns the number of bytes. If the child does not read any more, all bytes
    /// count as written; the next read finds the end of the channel.
    pub(super) fn write(&mut self, bytes: &[u8]) -> usize {
        let Some(channel) = &mut self.channel else { return bytes.len() };
        match channel.write(bytes) {
            Ok(count) => count,
            Err(error) if is_nothing_yet(&error) => 0,
            Err(_) => bytes.len(),
        }
    }

    /// Reads one chunk of the channel into the inbox.
    pub(super) fn read_channel(&mut self) -> Chunk {
        let Some(channel) = &mut self.channel else { return Chunk::End };
        let mut chunk = [0; CHUNK];
        let read = read(channel, &mut chunk);
        match read {
            Chunk::Bytes(count) => self.inbox.feed(&chunk[..count]),
            Chunk::Nothing => {}
            Chunk::End => self.channel = None,
        }
        read
    }

    /// Reads one chunk of output.
    pub(super) fn read_output(&mut self, feed: impl FnOnce(&[u8])) -> Chunk {
        let Some(output) = &mut self.output else { return Chunk::End };
        let mut chunk = [0; CHUNK];
        let read = read(output, &mut chunk);
        match read {
            Chunk::Bytes(count) => feed(&chunk[..count]),
            Chunk::Nothing => {}
            Chunk::End => self.output = None,
        }
        read
    }

    /// Kills it and its group. Its exit status is not taken yet, so that no other process has its number.
    pub(super) fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        // Also the process alone, in case the group does not exist.
        let _ = self.child.kill();
    }

    /// Waits for a child that ends by itself, on a thread of its own, and kills it when it does not.
    pub(super) fn retire(mut self) {
        self.close_channel();
        let slot = Arc::new(Mutex::new(Some(self)));
        let for_thread = slot.clone();
        let end = move || {
            let process = lock(&for_thread).take();
            process.into_iter().for_each(|mut process| process.wait_for_exit());
        };
        // Without a thread it is killed here, where the slot is dropped.
        let _ = thread::Builder::new().name("aside-isolate-end".to_owned()).stack_size(256 << 10).spawn(end);
    }

    fn wait_for_exit(&mut self) {
        let until = Instant::now() + LINGER;
        while matches!(self.child.try_wait(), Ok(None)) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.wait(false, left).is_err() {
                return;
            }
            // It may wait for its output to be read.
            self.read_output(|_| ());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

fn read(mut from: impl Read, chunk: &mut [u8]) -> Chunk {
    match from.read(chunk) {
        Ok(count @ 1..) => Chunk::Bytes(count),
        Err(error) if is_nothing_yet(&error) => Chunk::Nothing,
        _ => Chunk::End,
    }
}

fn is_nothing_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(target_os = "linux")]
fn watch_exit(child: &Child) -> Option<OwnedFd> {
    use rustix::process::{PidfdFlags, pidfd_open};
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

#[cfg(not(target_os = "linux"))]
fn watch_exit(_child: &Child) -> Option<OwnedFd> {
    None
}

/// A program for the starting thread to start.
struct Order {
    command: Command,
    reply: SyncSender<io::Result<Process>>,
}

/// The channel to the thread that starts all children of this process. The thread lives as long as the process: the
/// operating system kills a child when the *thread* that started it ends.
static STARTER: Mutex<Option<Sender<Order>>> = Mutex::new(None);

fn send(order: Order) -> Checked<()> {
    let mut starter = lock(&STARTER);
    if starter.is_none() {
        let (sender, orders) = mpsc::channel();
        let thread = thread::Builder::new().name("aside-isolate".to_owned()).spawn(move || start_all(&orders));
        thread.map_err(|error| Error::from(error).context("cannot start the thread that starts child processes"))?;
        *starter = Some(sender);
    }
    // The thread ends only with the process.
    let sent = starter.as_ref().is_some_and(|starter| starter.send(order).is_ok());
    if sent { Ok(()) } else { Err(Error::internal("the thread that starts child processes has ended")) }
}

fn start_all(orders: &Receiver<Order>) {
    for Order { command, reply } in orders {
        let started = panics::catch(|| Process::spawn(command));
        let started = started.unwrap_or_else(|panic| Err(io::Error::other(panic.to_string())));
        // A caller that has gone drops the process, which ends it.
        let _ = reply.send(started);
    }
}
