//! The parent's side of one call: it is sent to a child, watched, and ends in an outcome.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::child_output::ChildOutput;
use super::log_values::Received;
use super::process::{Chunk, LINGER, Process, Program};
use super::protocol::{
    Call, Ended, Inbox, LONGEST_VALUE, Order, Target, ToChild, ToParent, VARIABLE, frame, is_child, plain_error,
};
use crate::background::failure::{Failure, Outcome};
use crate::background::scope::Context;
use crate::background::task_context::TaskContext;
use crate::bounds;
use crate::error::Error;
use crate::failures::reporter::Reporter;
use crate::log_text::{bytes, escape, span};

/// The time between the cancellation of a call and the kill of its child.
const GRACE: Duration = Duration::from_secs(5);

/// The number of bytes of output that are still read after a child has ended. A process that it started may run on, and
/// print without end.
const MOST_LEFT: usize = 1 << 20;

/// Runs a call in a child of its own, and returns when that process has ended. The output is JSON.
///
/// # Errors
/// The failure of the call, or of its process.
pub(crate) fn run_once(program: &Program, call: &Call, input: &str, task: &TaskContext) -> Outcome<Option<String>> {
    refuse_inside_a_child(call.target)?;
    let message = message(call, input)?;
    let began = Instant::now();
    let mut process = Process::start(program).map_err(|error| not_started(call.target, error))?;
    let mut calling = Calling::new(&mut process, call, task, began);
    calling.send(message);
    calling.watch_to_the_exit()
}

/// Runs a call in a child that may have run others. Returns the output, which is JSON, and true if the child can run
/// another call.
pub(super) fn run_on(
    process: &mut Process,
    call: &Call,
    input: &str,
    task: &TaskContext,
) -> (Outcome<Option<String>>, bool) {
    let message = match message(call, input) {
        Ok(message) => message,
        Err(failure) => return (Err(failure), true),
    };
    process.calls += 1;
    let mut calling = Calling::new(process, call, task, Instant::now());
    calling.send(message);
    calling.watch_to_the_end()
}

/// # Errors
/// If this process is a child, which must not have children of its own.
pub(super) fn refuse_inside_a_child(target: Target) -> Result<(), Failure> {
    if !is_child() {
        return Ok(());
    }
    let message = match target {
        Target::Job { .. } => {
            "an isolated job cannot run another one inside itself: enqueue it, or do without `ISOLATED` there"
        }
        Target::Function { .. } => {
            "an isolated function cannot be called inside a child process: call the function directly"
        }
    };
    Err(Failure::Error(plain_error(format!("{message} ({VARIABLE} is set)"))))
}

pub(super) fn not_started(target: Target, error: Error) -> Failure {
    Failure::Error(error.context(format!("the isolated {} has no process", target.noun())))
}

fn message<'i>(call: &Call, input: &'i str) -> Result<(Vec<u8>, &'i [u8]), Failure> {
    let level = log::max_level().as_str().to_owned();
    let order = Order { call: call.clone(), parent: std::process::id(), level };
    frame(&ToChild::Call(Box::new(order)), input.as_bytes()).map_err(|error| {
        let most = size(LONGEST_VALUE as u64);
        let message =
            format!("the input of the isolated {} is too long: at most {most} of JSON fit", call.target.noun());
        Failure::Error(Error::from(error).context(message))
    })
}

/// A call in progress.
struct Calling<'c> {
    process: &'c mut Process,
    call: &'c Call,
    task: &'c TaskContext,
    label: String,
    /// Unsent messages: the call, its input, and the cancellation.
    outbox: Vec<Outgoing<'c>>,
    output: ChildOutput,
    began: Instant,
    cancelled: Option<Instant>,
    ended: Option<(Ended, Vec<u8>)>,
    /// The reason that the child reports not to run another call.
    spent: Option<String>,
    /// The time at which the child had to exit.
    lingers: Option<Instant>,
    killed: Option<Why>,
    /// Changes of the task wake the thread.
    is_watching: bool,
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.process.waker.forget(&self.task.record().progress);
    }
}

/// Bytes to be sent, and how many of them have been.
struct Outgoing<'c> {
    bytes: std::borrow::Cow<'c, [u8]>,
    sent: usize,
}

/// Why a child was killed.
#[derive(Debug)]
enum Why {
    Deadline,
    Cancelled,
    /// It had to exit, and did not.
    Lingered,
    InvalidReport(io::Error),
}

impl<'c> Calling<'c> {
    fn new(process: &'c mut Process, call: &'c Call, task: &'c TaskContext, began: Instant) -> Calling<'c> {
        let label = match call.target {
            Target::Function { task } => format!("{} (task {task})", escape(&call.label)),
            Target::Job { id, .. } => format!("{} (job {id}, attempt {})", escape(&call.label), call.attempt),
        };
        Calling {
            process,
            call,
            task,
            label,
            outbox: Vec::new(),
            output: ChildOutput::default(),
            began,
            cancelled: None,
            ended: None,
            spent: None,
            lingers: None,
            killed: None,
            is_watching: false,
        }
    }

    fn send(&mut self, (message, rest): (Vec<u8>, &'c [u8])) {
        self.outbox.push(Outgoing { bytes: message.into(), sent: 0 });
        self.outbox.push(Outgoing { bytes: rest.into(), sent: 0 });
    }

    /// Waits for the exit of the process, and returns the outcome of its one call.
    fn watch_to_the_exit(mut self) -> Outcome<Option<String>> {
        loop {
            if let Some(status) = self.status()? {
                self.read_what_is_left();
                return self.verdict(status);
            }
            self.step()?;
        }
    }

    /// Waits for the outcome of the call. Returns it, and true if the process can run another call.
    fn watch_to_the_end(mut self) -> (Outcome<Option<String>>, bool) {
        match self.watch_a_while() {
            Ok(None) => {
                let is_fit = self.cancelled.is_none() && self.spent.is_none() && self.killed.is_none();
                self.end_output();
                if let Some(spent) = &self.spent {
                    let target = self.call.target.log_target();
                    log::debug!(target: target, "The process of {} is not used again: {}", self.label, escape(spent));
                }
                let (ended, output) = self.ended.take().unwrap_or((Ended::Abandoned, Vec::new()));
                let is_fit = is_fit && matches!(ended, Ended::Done { .. } | Ended::Failed { .. });
                (self.outcome(ended, output), is_fit)
            }
            Ok(Some(status)) => {
                self.read_what_is_left();
                (self.verdict(status), false)
            }
            Err(failure) => (Err(failure), false),
        }
    }

    /// Waits until the call has ended, or its process, and then returns the exit status.
    fn watch_a_while(&mut self) -> Result<Option<ExitStatus>, Failure> {
        while self.ended.is_none() {
            if let Some(status) = self.status()? {
                return Ok(Some(status));
            }
            self.step()?;
        }
        Ok(None)
    }

    fn status(&mut self) -> Result<Option<ExitStatus>, Failure> {
        self.process.status().map_err(|error| self.unwatched(error))
    }

    fn unwatched(&self, error: io::Error) -> Failure {
        let message = format!("cannot watch the process of the isolated {}", self.call.target.noun());
        Failure::Error(Error::from(error).context(message))
    }

    /// Waits for the next event, and handles it.
    fn step(&mut self) -> Result<(), Failure> {
        if !self.is_watching || self.process.waker.has_rung() {
            self.process.waker.watch(&self.task.record().progress);
            self.is_watching = true;
        }
        self.check_deadlines();
        self.write();
        let wait = self.process.wait(!self.outbox.is_empty(), self.next_deadline());
        wait.map_err(|error| self.unwatched(error))?;
        self.write();
        self.read_channel();
        self.read_output();
        Ok(())
    }

    /// Returns the time until the next deadline.
    fn next_deadline(&self) -> Duration {
        let left = |most: Duration, since: Instant| most.saturating_sub(since.elapsed());
        let wait = match (&self.killed, self.lingers, self.cancelled) {
            // Its exit wakes this thread.
            (Some(_), ..) => Duration::MAX,
            (None, Some(since), _) => left(LINGER, since),
            (None, None, Some(since)) => left(GRACE, since).min(left(self.call.limits.deadline, self.began)),
            (None, None, None) => left(self.call.limits.deadline, self.began),
        };
        wait.max(Duration::from_millis(1))
    }

    /// Cancels the call, and kills its child, each when it is due.
    fn check_deadlines(&mut self) {
        if self.killed.is_some() {
            return;
        }
        if let Some(since) = self.lingers {
            if since.elapsed() >= LINGER {
                self.kill(Why::Lingered);
            }
        } else if self.began.elapsed() >= self.call.limits.deadline {
            self.kill(Why::Deadline);
        } else if self.task.is_cancelled() {
            self.cancel();
        }
    }

    fn cancel(&mut self) {
        match self.cancelled {
            None => {
                self.cancelled = Some(Instant::now());
                // The message has a few bytes, which every limit allows.
                self.send(frame(&ToChild::Cancel, b"").unwrap_or_default());
            }
            Some(since) if since.elapsed() >= GRACE => self.kill(Why::Cancelled),
            Some(_) => {}
        }
    }

    fn kill(&mut self, why: Why) {
        match &why {
            Why::Deadline => {}
            Why::Cancelled => self.warn(&format!("did not stop within {} after its cancellation: killed", span(GRACE))),
            Why::Lingered => {
                self.warn(&format!("has ended, but its process did not exit within {}: killed", span(LINGER)));
            }
            Why::InvalidReport(error) => self.warn(&format!("sent an invalid report ({error}): killed")),
        }
        self.killed = Some(why);
        self.process.kill();
    }

    fn warn(&self, what: &str) {
        let target = self.call.target;
        log::warn!(target: target.log_target(), "Isolated {} {} {what}.", target.noun(), self.label);
    }

    fn write(&mut self) {
        while let Some(first) = self.outbox.first_mut() {
            if first.sent < first.bytes.len() {
                match self.process.write(&first.bytes[first.sent..]) {
                    0 => return,
                    count => first.sent += count,
                }
            } else {
                self.outbox.remove(0);
            }
        }
    }

    /// Reads and handles one chunk of reports. Returns the number of its bytes.
    fn read_channel(&mut self) -> usize {
        if !self.process.has_channel() {
            return 0;
        }
        match self.process.read_channel() {
            Chunk::Bytes(count) => {
                self.handle_reports();
                count
            }
            Chunk::Nothing => 0,
            Chunk::End => {
                self.lingers.get_or_insert_with(Instant::now);
                0
            }
        }
    }

    /// Handles the complete reports, up to the end of the call.
    fn handle_reports(&mut self) {
        while self.ended.is_none() {
            match self.process.inbox.next() {
                Ok(Some((report, value))) => self.handle_report(report, value),
                Ok(None) => return,
                Err(error) => {
                    self.process.close_channel();
                    return self.kill(Why::InvalidReport(error));
                }
            }
        }
        // Reports after the end are dropped.
        self.process.inbox = Inbox::default();
    }

    fn handle_report(&mut self, report: ToParent, value: Vec<u8>) {
        match report {
            ToParent::Begun => self.process.has_begun = true,
            ToParent::Log { level, target, message, values, location } => {
                relay(&level, &target, format_args!("{message}"), &Received(values), location.as_ref());
            }
            ToParent::Progress { done, total, message } => {
                self.task.progress(done, total);
                self.task.message(message);
            }
            ToParent::Failure => {
                let reporter = Context::current().scope.get::<Reporter>();
                reporter.iter().for_each(|reporter| reporter.report_forwarded(&value, self.task.id()));
            }
            ToParent::Ended { ended, spent } => {
                self.lingers = Some(Instant::now());
                self.spent = spent;
                self.ended = Some((ended, value));
            }
        }
    }

    /// Reads and logs one chunk of output. Returns the number of its bytes.
    fn read_output(&mut self) -> usize {
        let (output, target, label) = (&mut self.output, self.call.target, &self.label);
        let read = self.process.read_output(|bytes| output.feed(bytes, |line| log_line(target, label, line)));
        if let Chunk::Bytes(count) = read { count } else { 0 }
    }

    /// Reads the reports and the output that a child left when it ended.
    fn read_what_is_left(&mut self) {
        self.read_all(|calling| calling.read_channel() + calling.read_output());
    }

    /// Reads the output of a call that has ended.
    fn end_output(&mut self) {
        self.read_all(Calling::read_output);
    }

    fn read_all(&mut self, read: impl Fn(&mut Calling<'c>) -> usize) {
        let mut left = MOST_LEFT;
        loop {
            let count = read(self);
            if count == 0 || left == 0 {
                break;
            }
            left = left.saturating_sub(count);
        }
        let (target, label) = (self.call.target, &self.label);
        self.output.finish(|line| log_line(target, label, line));
    }

    /// Returns the outcome of a call whose process has ended with that status.
    fn verdict(&mut self, status: ExitStatus) -> Outcome<Option<String>> {
        if let Some((ended, output)) = self.ended.take() {
            if !status.success() && self.killed.is_none() {
                self.warn(&format!("had ended before {}", self.cause_of_death(status)));
            }
            return self.outcome(ended, output);
        }
        match self.killed.take() {
            Some(Why::Cancelled) => Err(Failure::Cancelled),
            Some(Why::Deadline) => {
                let deadline = span(self.call.limits.deadline);
                Err(self.failure(format!("its process was killed at its time limit of {deadline}")))
            }
            Some(Why::InvalidReport(error)) => {
                Err(self.failure(format!("its process was killed because it sent an invalid report ({error})")))
            }
            Some(Why::Lingered) => {
                Err(self.failure("its process closed the channel before the end, and was killed".to_owned()))
            }
            None => Err(self.failure(self.cause_of_death(status))),
        }
    }

    fn outcome(&self, ended: Ended, output: Vec<u8>) -> Outcome<Option<String>> {
        if let Ended::Failed { backtrace: Some(lines), .. } = &ended {
            let (target, label) = (self.call.target, &self.label);
            log::error!(target: target.log_target(), "Backtrace of the error of isolated {} {label}:\n{lines}", target.noun());
        }
        ended.into_outcome(output)
    }

    fn failure(&self, message: String) -> Failure {
        let started = if self.process.has_begun {
            ""
        } else {
            " (it had not come to the application: with the same arguments the program must reach `App::run`, `App::work` or \
             `App::start`)"
        };
        Failure::Error(plain_error(format!("{message}{started}")))
    }

    /// Returns the cause of death of a process that was not killed here.
    fn cause_of_death(&self, status: ExitStatus) -> String {
        use signal_hook::consts::{SIGABRT, SIGKILL, SIGSEGV};
        let cause = match (status.signal(), status.code()) {
            (Some(SIGABRT), _) if self.out_of_memory().is_some() => return self.out_of_memory().unwrap_or_default(),
            (Some(SIGABRT | SIGSEGV), _) if self.output.with(&["has overflowed its stack"]).is_some() => {
                return "its process overflowed its stack".to_owned();
            }
            (Some(SIGKILL), _) => {
                "its process was killed by signal 9 (SIGKILL), perhaps because the system is out of memory".to_owned()
            }
            (Some(signal), _) => {
                let name = signal_hook::low_level::signal_name(signal).unwrap_or("no name");
                format!("its process was killed by signal {signal} ({name})")
            }
            (None, code) => {
                let noun = self.call.target.noun();
                format!("its process exited with status {} before the end of the {noun}", code.unwrap_or_default())
            }
        };
        match self.output.last_line() {
            Some(line) => format!("{cause}; its last line: {}", escape(&line)),
            None => cause,
        }
    }

    /// Returns the message for too little memory if the last lines have that of the allocator.
    fn out_of_memory(&self) -> Option<String> {
        let line = self.output.with(&["memory allocation of ", " bytes failed"])?;
        let line = bounds::shorten(&line[line.find("memory allocation of ")?..], 80);
        Some(match self.call.limits.memory {
            0 => format!("its process ran out of memory: {line}"),
            limit => format!("its process ran out of memory, of which it may have {}: {line}", size(limit)),
        })
    }
}

/// Logs a record of the child, on the thread of the task, so that the logger adds its request and job.
fn relay(level: &str, target: &str, message: fmt::Arguments<'_>, values: &Received, at: Option<&(String, u32)>) {
    let level = level.parse().unwrap_or(log::Level::Error);
    if !log::log_enabled!(target: target, level) {
        return;
    }
    let mut record = log::Record::builder();
    record.level(level).target(target).args(message).key_values(values);
    record.file(at.map(|(file, _)| file.as_str())).line(at.map(|(_, line)| *line));
    log::logger().log(&record.build());
}

fn log_line(target: Target, label: &str, line: &str) {
    log::info!(target: target.log_target(), "Isolated {} {label} printed: {}", target.noun(), escape(line));
}

/// Returns a size for a message: `256 MiB`.
pub(super) fn size(count: u64) -> String {
    match count {
        0..1_048_576 => bytes(count),
        _ => format!("{} MiB", count >> 20),
    }
}
