//! The side that starts a process for a job, and waits for its end.
//!
//! One thread does all of it: the system's wish to kill the child with its parent is bound to the thread that started it.
//! It looks at the channel, the printed lines, the exit status, the task's cancellation and the clock in turn.

use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use super::lines::Lines;
use super::protocol::{
    Begin, CHUNK, Ended, Inbox, LONGEST_ORDER, LONGEST_REPORT, Limits, Order, ToChild, ToParent, VARIABLE, clip, frame,
    is_child, said,
};
use crate::background::failure::Failure;
use crate::background::registry::{escape, span};
use crate::background::task::TaskContext;
use crate::error::{Error, Result as Checked};

/// How long a child may go on that was told to cancel, before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// How long a child may go on that has sent its result, or let go of the channel.
const LINGER: Duration = Duration::from_secs(2);

/// How often the exit status and the cancellation are looked at, neither of which wakes anybody; and how often when the
/// exit is near, since the channel has ended.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_SOON: Duration = Duration::from_millis(2);

/// How much is still read of a child that is gone. What it started may live on, and print for ever.
const MOST_LEFT: usize = 1 << 20;

/// Does a job in a process of its own. It returns when that process has ended.
///
/// # Errors
/// What came of the job, or of its process: each end in words of its own.
pub(crate) fn run(order: &Order, task: &TaskContext) -> Result<(), Failure> {
    let command = again().map_err(Failure::Error)?;
    run_with(command, order, task)
}

/// The command that started this process, to be started once more.
fn again() -> Checked<Command> {
    let mut arguments = std::env::args_os();
    let mut command = Command::new(program()?);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments);
    Ok(command)
}

/// On Linux the very file that runs here, even when another was put into its place since.
fn program() -> Checked<std::path::PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok("/proc/self/exe".into());
    }
    std::env::current_exe().map_err(|error| Error::from(error).context("cannot tell which program this is"))
}

/// The same by another command.
pub(super) fn run_with(command: Command, order: &Order, task: &TaskContext) -> Result<(), Failure> {
    if is_child() {
        let words = "an isolated job cannot run another one inside itself: enqueue it, or do without `ISOLATED` there";
        return Err(Failure::Error(said(format!("{words} ({VARIABLE} is set)"))));
    }
    Running::start(command, order, task)?.watch()
}

fn could_not(words: &str, error: io::Error) -> Failure {
    Failure::Error(Error::from(error).context(words))
}

/// A child at work. It does not outlive this.
struct Running<'r> {
    child: Child,
    channel: Option<UnixStream>,
    inbox: Inbox,
    outbox: Vec<u8>,
    output: Option<PipeReader>,
    lines: Lines,
    task: &'r TaskContext,
    label: String,
    limits: Limits,
    began: Instant,
    has_begun: bool,
    cancelled: Option<Instant>,
    ended: Option<Ended>,
    /// Since when it should exit by itself.
    lingers: Option<Instant>,
    killed: Option<Why>,
}

/// Why a child was killed.
#[derive(Debug)]
enum Why {
    Deadline,
    Cancelled,
    /// It had nothing more to say, and did not exit.
    Lingered,
    Nonsense(io::Error),
}

impl<'r> Running<'r> {
    fn start(command: Command, order: &Order, task: &'r TaskContext) -> Result<Running<'r>, Failure> {
        let outbox =
            first_message(order).map_err(|error| could_not("the isolated job's payload is too long", error))?;
        let program = command.get_program().to_owned();
        let began = Instant::now();
        let (child, channel, output) = spawn(command)
            .map_err(|error| could_not(&format!("cannot start {program:?} for the isolated job"), error))?;
        Ok(Running {
            child,
            channel: Some(channel),
            inbox: Inbox::new(LONGEST_REPORT),
            outbox,
            output: Some(output),
            lines: Lines::default(),
            task,
            label: format!("{} (job {}, try {})", escape(&order.label), order.id, order.attempt),
            limits: order.limits,
            began,
            has_begun: false,
            cancelled: None,
            ended: None,
            lingers: None,
            killed: None,
        })
    }

    /// Waits for the end, and says what it was.
    fn watch(mut self) -> Result<(), Failure> {
        let lost = |error| could_not("lost sight of the isolated job's process", error);
        loop {
            if let Some(status) = self.child.try_wait().map_err(lost)? {
                self.read_what_is_left();
                return self.verdict(status);
            }
            self.mind_the_clock();
            self.wait().map_err(lost)?;
            self.write();
            self.read_channel();
            self.read_output();
        }
    }

    /// Until something can be read or written, or it is time to look at what wakes nobody.
    fn wait(&self) -> io::Result<()> {
        let mut watched = Vec::with_capacity(2);
        if let Some(channel) = &self.channel {
            let write = if self.outbox.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            watched.push(PollFd::new(channel, PollFlags::IN | write));
        }
        if let Some(output) = &self.output {
            watched.push(PollFd::new(output, PollFlags::IN));
        }
        let look = if self.channel.is_none() { LOOK_SOON } else { LOOK };
        // At most a tenth of a second, which fits.
        let look = Timespec { tv_sec: 0, tv_nsec: look.as_nanos() as _ };
        match poll(&mut watched, Some(&look)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells it to cancel, and kills it, each when it is time.
    fn mind_the_clock(&mut self) {
        if self.killed.is_some() {
            return;
        }
        if let Some(since) = self.lingers {
            if since.elapsed() >= LINGER {
                self.kill(Why::Lingered);
            }
        } else if self.began.elapsed() >= self.limits.deadline {
            self.kill(Why::Deadline);
        } else if self.task.is_cancelled() {
            self.cancel();
        }
    }

    fn cancel(&mut self) {
        match self.cancelled {
            None => {
                self.cancelled = Some(Instant::now());
                // A few bytes, which no limit is too short for.
                self.outbox.extend(frame(&ToChild::Cancel, LONGEST_ORDER).unwrap_or_default());
            }
            Some(told) if told.elapsed() >= GRACE => self.kill(Why::Cancelled),
            Some(_) => {}
        }
    }

    /// Ends it, and what it started. Its exit status is not taken yet, so that its number is nobody else's.
    fn kill(&mut self, why: Why) {
        let label = &self.label;
        match &why {
            Why::Deadline => {}
            Why::Cancelled => {
                log::warn!(target: "aside::jobs", "Isolated job {label} did not stop within {} of being told to: killed.", span(GRACE));
            }
            Why::Lingered => {
                log::warn!(target: "aside::jobs", "Isolated job {label} had ended, and its process not after {}: killed.", span(LINGER));
            }
            Why::Nonsense(error) => {
                log::warn!(target: "aside::jobs", "Isolated job {label} sent what is no report ({error}): killed.");
            }
        }
        self.killed = Some(why);
        end(&mut self.child);
    }

    fn write(&mut self) {
        let Some(channel) = &mut self.channel else { return };
        while !self.outbox.is_empty() {
            match channel.write(&self.outbox) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // It does not listen any more, which reading will show.
                Err(_) => self.outbox.clear(),
            }
        }
    }

    /// Takes in one chunk of reports. How many bytes it was.
    fn read_channel(&mut self) -> usize {
        let mut chunk = [0; CHUNK];
        let read = self.channel.as_mut().map(|channel| channel.read(&mut chunk));
        match read.unwrap_or(Err(ErrorKind::WouldBlock.into())) {
            Ok(count @ 1..) => {
                self.inbox.feed(&chunk[..count]);
                self.hear();
                count
            }
            Err(error) if is_nothing_yet(&error) => 0,
            _ => {
                self.channel = None;
                self.lingers.get_or_insert_with(Instant::now);
                0
            }
        }
    }

    /// Deals with what was reported, down to the last word.
    fn hear(&mut self) {
        while self.ended.is_none() {
            match self.inbox.next() {
                Ok(Some(report)) => self.deal_with(report),
                Ok(None) => return,
                Err(error) => {
                    self.channel = None;
                    return self.kill(Why::Nonsense(error));
                }
            }
        }
        // What follows the result is not kept.
        self.inbox = Inbox::new(LONGEST_REPORT);
    }

    fn deal_with(&mut self, report: ToParent) {
        match report {
            ToParent::Begun => self.has_begun = true,
            ToParent::Log { level, target, words } => relay(&level, &target, &words),
            ToParent::Progress { done, total, message } => {
                self.task.progress(done, total);
                self.task.message(message);
            }
            ToParent::Ended(ended) => {
                self.lingers = Some(Instant::now());
                self.ended = Some(ended);
            }
        }
    }

    /// Takes in one chunk of what was printed. How many bytes it was.
    fn read_output(&mut self) -> usize {
        let mut chunk = [0; CHUNK];
        let read = self.output.as_mut().map(|output| output.read(&mut chunk));
        let label = &self.label;
        match read.unwrap_or(Err(ErrorKind::WouldBlock.into())) {
            Ok(count @ 1..) => {
                self.lines.feed(&chunk[..count], |line| log_line(label, line));
                count
            }
            Err(error) if is_nothing_yet(&error) => 0,
            _ => {
                self.output = None;
                0
            }
        }
    }

    /// What a child that is gone has left in the channel and the pipe.
    fn read_what_is_left(&mut self) {
        let mut left = MOST_LEFT;
        loop {
            let count = self.read_channel() + self.read_output();
            if count == 0 || left == 0 {
                break;
            }
            left = left.saturating_sub(count);
        }
        self.lines.finish(|line| log_line(&self.label, line));
    }

    /// What came of it, when its process has ended so.
    fn verdict(mut self, status: ExitStatus) -> Result<(), Failure> {
        if let Some(ended) = self.ended.take() {
            return self.outcome(ended, status);
        }
        match self.killed.take() {
            Some(Why::Cancelled) => Err(Failure::Cancelled),
            Some(Why::Deadline) => {
                let deadline = span(self.limits.deadline);
                Err(self.failure(format!("its process was killed at its time limit of {deadline}")))
            }
            Some(Why::Nonsense(error)) => {
                Err(self.failure(format!("its process was killed: what it sent was no report ({error})")))
            }
            Some(Why::Lingered) => {
                Err(self.failure("its process let go of the channel without a result, and was killed".to_owned()))
            }
            None => Err(self.failure(self.cause_of_death(status))),
        }
    }

    fn outcome(&self, ended: Ended, status: ExitStatus) -> Result<(), Failure> {
        let label = &self.label;
        if !status.success() && self.killed.is_none() {
            log::warn!(target: "aside::jobs", "Isolated job {label} had ended before {}.", self.cause_of_death(status));
        }
        if let Ended::Failed { backtrace: Some(lines), .. } = &ended {
            log::error!(target: "aside::jobs", "The way to the error of isolated job {label}:\n{lines}");
        }
        ended.into_outcome()
    }

    fn failure(&self, words: String) -> Failure {
        let started = if self.has_begun {
            ""
        } else {
            " (it had not come to `App::run` or `App::work`, which the program must reach with the same arguments)"
        };
        Failure::Error(said(format!("{words}{started}")))
    }

    /// What a process died of that nobody here killed.
    fn cause_of_death(&self, status: ExitStatus) -> String {
        use signal_hook::consts::{SIGABRT, SIGKILL, SIGSEGV};
        let cause = match (status.signal(), status.code()) {
            (Some(SIGABRT), _) if self.out_of_memory().is_some() => return self.out_of_memory().unwrap_or_default(),
            (Some(SIGABRT | SIGSEGV), _) if self.lines.with(&["has overflowed its stack"]).is_some() => {
                return "its process overflowed its stack".to_owned();
            }
            (Some(SIGKILL), _) => "its process was killed by signal 9 (SIGKILL), perhaps for want of memory".to_owned(),
            (Some(signal), _) => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("no name");
                format!("its process was killed by signal {signal} ({name})")
            }
            (None, code) => {
                format!("its process exited with status {} before the end of the job", code.unwrap_or_default())
            }
        };
        match self.lines.last_words() {
            Some(words) => format!("{cause}; its last words: {}", escape(&words)),
            None => cause,
        }
    }

    /// The words for it, when the last words are those of the allocator.
    fn out_of_memory(&self) -> Option<String> {
        let line = self.lines.with(&["memory allocation of ", " bytes failed"])?;
        let line = clip(&line[line.find("memory allocation of ")?..], 80);
        Some(match self.limits.memory {
            0 => format!("its process ran out of memory: {line}"),
            limit => format!("its process ran out of memory, of which it may have {}: {line}", bytes(limit)),
        })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            end(&mut self.child);
            let _ = self.child.wait();
        }
    }
}

fn first_message(order: &Order) -> io::Result<Vec<u8>> {
    let level = log::max_level().as_str().to_owned();
    let begin = Begin { order: order.clone(), parent: std::process::id(), level };
    frame(&ToChild::Begin(Box::new(begin)), LONGEST_ORDER)
}

/// Starts the child. Our ends of the channel and of the pipe that it prints to do not keep us waiting.
fn spawn(mut command: Command) -> io::Result<(Child, UnixStream, PipeReader)> {
    let (channel, theirs) = UnixStream::pair()?;
    let (output, printed) = io::pipe()?;
    channel.set_nonblocking(true)?;
    rustix::io::ioctl_fionbio(&output, true)?;
    command
        .env(VARIABLE, "1")
        // What a service manager handed over was for this process alone.
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .env_remove("LISTEN_FDNAMES")
        .stdin(OwnedFd::from(theirs))
        .stdout(printed.try_clone()?)
        .stderr(printed)
        // A group of its own: what the job starts is killed with it, and Ctrl-C is for the parent to deal with.
        .process_group(0);
    // With the command go our copies of the child's ends.
    Ok((command.spawn()?, channel, output))
}

/// Kills a child whose exit status was not taken, and its group.
fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    // A second time where there is no such group.
    let _ = child.kill();
}

fn is_nothing_yet(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Logs what the child would have logged.
fn relay(level: &str, target: &str, words: &str) {
    let level = level.parse().unwrap_or(log::Level::Error);
    log::log!(target: target, level, "{words}");
}

fn log_line(label: &str, line: &str) {
    log::info!(target: "aside::jobs", "Isolated job {label} printed: {}", escape(line));
}

/// A size as people say it: `256 MiB`.
fn bytes(count: u64) -> String {
    match count {
        0..1_048_576 => format!("{count} bytes"),
        _ => format!("{} MiB", count >> 20),
    }
}
