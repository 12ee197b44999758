//! A restart without loss: this process starts the program again, and the new process serves on the same listening socket
//! before this one stops.
//!
//! The new process has one end of a Unix socket as its standard input, and receives the listening socket over it. Close-on-exec
//! stays set on the listening socket, so that no other child of this process inherits it.
//!
//! Both processes share the blocking mode of the listening socket, and each transport needs another mode. So only one process
//! accepts connections at a time: the new process prepares the application and then asks this one to stop
//! accepting. Clients that connect in that moment wait in the queue of the socket. If the new process then ends before it serves,
//! this one accepts connections again.
//!
//! The command `aside dev` takes part in the same way: it is the first process that has the socket, starts each new build of the
//! site, and tells the process of the former build to stop accepting.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::parent_id;
use std::path::PathBuf;
use std::process::{self, Child, Command};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process};

use super::listener::Listener;
use super::signals::Event;
use crate::channel::Sender;
use crate::error::{Error, Result};
use crate::http::live_reload::LiveReload;
use crate::log_text::span;
use crate::sync::spawn;

/// The variable that holds the id of the process that hands its listening socket over. Only a child of that process reads it.
const VARIABLE: &str = "ASIDE_RESTART_OF";

/// How long the new process may take until it serves.
const LONGEST_START: Duration = Duration::from_secs(120);

/// The first byte of the message with the socket: its owner. The rest of the message of `aside dev` is for
/// [`LiveReload`](crate::http::live_reload).
const OF_THE_SITE: u8 = b's';
const OF_THE_SERVICE_MANAGER: u8 = b'm';
const OF_ASIDE_DEV: u8 = b'd';

/// The most bytes of that message.
const LONGEST_MESSAGE: usize = 64;

/// The bytes that are sent after it: the new process is prepared, this one has stopped accepting, the new one serves. The command
/// `aside dev` sends the first one too, to the process that is to stop accepting.
const PREPARED: u8 = b'p';
const RELEASED: u8 = b'r';
const SERVES: u8 = b's';

/// A duplicate of the listening socket, for the next process.
pub(super) struct Handover {
    pub(super) socket: OwnedFd,
    pub(super) is_of_service_manager: bool,
}

/// The program of this process, as it was started, so that a file that has replaced it is started next.
pub(super) struct Restart {
    program: PathBuf,
    arguments: Vec<OsString>,
    folder: PathBuf,
    starting: Option<u32>,
}

impl Restart {
    /// Returns the program of this process. Called at the start, before the program's file or the working directory changes.
    pub(super) fn of_this_process() -> Restart {
        let folder = env::current_dir().unwrap_or_default();
        let mut arguments = env::args_os();
        let program = arguments.next().map(PathBuf::from).or_else(|| env::current_exe().ok()).unwrap_or_default();
        // A name without a slash was found in PATH, and is found there again.
        let is_path = program.components().nth(1).is_some();
        let program = if is_path { folder.join(program) } else { program };
        Restart { program, arguments: arguments.collect(), folder, starting: None }
    }

    /// Starts the program, and hands the listening socket over. `tell` receives the outcome.
    pub(super) fn begin(&mut self, handover: &Handover, tell: Arc<Sender<Event>>) {
        if let Some(pid) = self.starting {
            return ::log::warn!(target: "aside::server", "SIGUSR2 is ignored: process {pid} is starting already.");
        }
        if process::id() == 1 {
            return ::log::warn!(target: "aside::server", "SIGUSR2 is ignored: this is process 1, and the container would end with it; start a new container.");
        }
        match self.start(handover, tell) {
            Ok(pid) => {
                ::log::info!(target: "aside::server", "SIGUSR2: process {pid} is starting, with the listening socket of this one.");
                self.starting = Some(pid);
            }
            Err(error) => {
                let program = self.program.display();
                ::log::error!(target: "aside::server", "SIGUSR2: could not start {program}: {error}; this process continues to serve.");
            }
        }
    }

    fn start(&self, handover: &Handover, tell: Arc<Sender<Event>>) -> io::Result<u32> {
        let (ours, theirs) = UnixStream::pair()?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .current_dir(&self.folder)
            .env(VARIABLE, process::id().to_string())
            .stdin(OwnedFd::from(theirs))
            .spawn()?;
        let pid = child.id();
        let owner = if handover.is_of_service_manager { OF_THE_SERVICE_MANAGER } else { OF_THE_SITE };
        // Fails if the new process has ended already, which the thread below reports with the status.
        let _ = send(&ours, handover.socket.as_fd(), owner);
        spawn("aside-restart", move || follow(child, ours, &tell))?;
        Ok(pid)
    }

    /// Tells the new process that this one accepts no more connections.
    pub(super) fn release(mut prepared: UnixStream) {
        // If the new process has ended, the other thread reports that.
        let _ = prepared.write_all(&[RELEASED]);
    }

    /// Logs that the new process does not serve, and why.
    pub(super) fn failed(&mut self, reason: &str) {
        self.starting = None;
        ::log::error!(target: "aside::server", "The new process does not serve: {reason}; this process continues to serve.");
    }

    /// Ends the new process, since this one is told to stop.
    pub(super) fn abandon(&self) {
        let pid = self.starting.and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        if let Some(pid) = pid {
            let _ = kill_process(pid, Signal::TERM);
        }
    }
}

fn send(stream: &UnixStream, listener: BorrowedFd<'_>, owner: u8) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [listener];
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    sendmsg(stream, &[IoSlice::new(&[owner])], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Reports the steps of the new process: it is prepared, it serves, or it has ended.
fn follow(mut child: Child, stream: UnixStream, tell: &Sender<Event>) {
    let prepared = stream.set_read_timeout(Some(LONGEST_START)).and_then(|()| {
        receive_byte(&stream, PREPARED)?;
        stream.try_clone()
    });
    let served = prepared.and_then(|ours| {
        let _ = tell.send(Event::Prepared(ours));
        receive_byte(&stream, SERVES)
    });
    let _ = tell.send(match served {
        Ok(()) => Event::HandedOver(child.id()),
        Err(error) => Event::NotStarted(end(&mut child, &error)),
    });
}

fn receive_byte(mut stream: &UnixStream, expected: u8) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if byte == [expected] { Ok(()) } else { Err(ErrorKind::InvalidData.into()) }
}

/// Ends a process that does not serve, and returns the reason.
fn end(child: &mut Child, error: &io::Error) -> String {
    // A program that does not call `App::run` may have closed its standard input and live on.
    let _ = child.kill();
    match (error.kind(), child.wait()) {
        (ErrorKind::WouldBlock | ErrorKind::TimedOut, _) => {
            format!("it has not started within {}", span(LONGEST_START))
        }
        (_, Ok(status)) => format!("it ended before that ({status})"),
        (_, Err(error)) => format!("its end is unknown: {error}"),
    }
}

/// The process that has handed its listening socket over, and waits until this one serves: a former process of this site, or
/// `aside dev`.
pub(super) struct Former {
    stream: UnixStream,
    /// Present if it is `aside dev`.
    live_reload: Option<LiveReload>,
}

impl Former {
    /// Returns the process that has started this one for a restart, and its listening socket, if one has.
    ///
    /// # Errors
    /// An error if that process has sent no socket.
    pub(super) fn receive() -> Result<Option<(Former, Listener)>> {
        let former = env::var(VARIABLE).ok().and_then(|pid| pid.parse().ok());
        // Programs that this process starts inherit the variable.
        if former != Some(parent_id()) {
            return Ok(None);
        }
        let wrong = |error: io::Error| Error::from(error).context(format!("{VARIABLE} is set, and no socket arrived"));
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(wrong)?);
        let (listener, owner, message) = receive(&stream).map_err(wrong)?;
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let listener = Listener::received(listener, owner != OF_THE_SITE)?;
        let live_reload = LiveReload::parse(&message).filter(|_| owner == OF_ASIDE_DEV);
        Ok(Some((Former { stream, live_reload }, listener)))
    }

    /// Returns what pages need to follow `aside dev`, if that is the process.
    pub(super) fn live_reload(&self) -> Option<LiveReload> {
        self.live_reload.clone()
    }

    /// Tells the other process that this one is prepared, and waits until that one has stopped accepting connections.
    pub(super) fn wait_for_release(&self) {
        let mut stream = &self.stream;
        // If that process has ended, it accepts none.
        let _ = stream.write_all(&[PREPARED]).and_then(|()| receive_byte(stream, RELEASED));
    }

    /// Tells the other process that this one serves. Returns the other one if it is `aside dev`, which lives on.
    pub(super) fn hand_over(mut self) -> Option<Supervisor> {
        // If that process has ended, nothing depends on it.
        let _ = self.stream.write_all(&[SERVES]);
        self.live_reload.is_some().then_some(Supervisor(self.stream))
    }
}

/// The command `aside dev`, which builds the site, and starts its new process before this one stops.
pub(super) struct Supervisor(UnixStream);

impl Supervisor {
    /// Reports when this process is to stop accepting connections, and when the supervisor has ended: also if it was killed, no
    /// process of the site stays behind.
    ///
    /// # Errors
    /// An error if the operating system refuses the thread.
    pub(super) fn watch(self, tell: Arc<Sender<Event>>) -> io::Result<()> {
        let watch = move || {
            while receive_byte(&self.0, PREPARED).is_ok() {
                let Ok(stream) = self.0.try_clone() else { break };
                let _ = tell.send(Event::Prepared(stream));
            }
            let _ = tell.send(Event::Stop("the end of `aside dev`"));
        };
        spawn("aside-supervisor", watch).map(drop)
    }
}

/// Receives the listening socket, its owner, and the rest of the message.
fn receive(stream: &UnixStream) -> io::Result<(OwnedFd, u8, String)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut message = [0; LONGEST_MESSAGE];
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let (owner, rest) = message[..received.bytes].split_first().ok_or(ErrorKind::UnexpectedEof)?;
    let sockets = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(sockets) => Some(sockets),
        _ => None,
    });
    let listener = sockets.flatten().next();
    let listener = listener.ok_or(ErrorKind::UnexpectedEof)?;
    Ok((listener, *owner, String::from_utf8_lossy(rest).into_owned()))
}
