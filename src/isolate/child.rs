//! The child: a process that runs the calls that its parent sends, one at a time.
//!
//! Each call runs on a thread of its own, so that no thread-local value of one is seen by the next; a thread costs less than
//! a tenth of a millisecond. The main thread listens to the parent and reports to it, and runs nothing of the application.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use rustix::event::{PollFd, PollFlags, poll};

use super::hygiene::{Hygiene, NO_THREAD, ThreadId, thread_id};
use super::limits;
use super::protocol::{
    CHUNK, Call, Ended, Inbox, LONGEST_VALUE, Order, Target, ToChild, ToParent, VARIABLE, frame, plain_error,
};
use super::wake::Waker;
use crate::background::failure::{Failure, Outcome};
use crate::background::handle::TaskInfo;
use crate::background::progress::Progress;
use crate::background::registry::Registry;
use crate::background::run::{Run, call_once};
use crate::background::scope::{Context, Scope};
use crate::background::task::Task;
use crate::background::task_context::TaskContext;
use crate::error::{Error, Result};
use crate::failures::reporter::Reporter as FailureReporter;
use crate::sync::lock;

/// The time before the time limit at which the tasks that a call has left behind are told to cancel.
const RESERVE: Duration = Duration::from_secs(4);

/// Runs a call: the application finds the function or job. The output is JSON.
pub(crate) type Dispatch = dyn Fn(&Call, &str, &TaskContext) -> Outcome<Option<String>> + Send + Sync;

/// The channel and the first call, once they were taken from standard input.
static ARRIVED: Mutex<Option<Arrived>> = Mutex::new(None);

/// A child that has its first call.
struct Arrived {
    channel: UnixStream,
    inbox: Inbox,
    first: Received,
}

/// A call and its input.
struct Received {
    order: Order,
    input: String,
}

/// Returns true if the application knows the function or job that the parent calls: a program may start another
/// application before this one.
pub(crate) fn is_asked_for(knows: impl FnOnce(&Call) -> bool) -> bool {
    let mut arrived = lock(&ARRIVED);
    if arrived.is_none() {
        *arrived = Some(arrive().unwrap_or_else(|error| exit_with(&error)));
    }
    arrived.as_ref().is_some_and(|arrived| knows(&arrived.first.order.call))
}

/// Runs the calls that this process was started for, and exits.
pub(crate) fn child_main(scope: &Scope, dispatch: Arc<Dispatch>) -> ! {
    let arrived = lock(&ARRIVED).take().map_or_else(arrive, Ok);
    match arrived.and_then(|arrived| work(scope, arrived, dispatch)) {
        Ok(()) => std::process::exit(0),
        Err(error) => exit_with(&error),
    }
}

fn exit_with(error: &Error) -> ! {
    // `eprintln!` panics if its pipe is closed.
    let _ = writeln!(io::stderr(), "{}", error.chain());
    std::process::exit(1)
}

/// Takes the channel from where standard input was, and the first call over it.
fn arrive() -> Result<Arrived> {
    let message = || {
        format!(
            "{VARIABLE} is set, which makes a process run functions and jobs for the one that started it: unset it to start \
             the site"
        )
    };
    let wrong = |error: io::Error| Error::from(error).context(message());
    let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(wrong)?);
    // On a terminal, reading would wait for input.
    channel.local_addr().map_err(wrong)?;
    let mut inbox = Inbox::default();
    let first = receive(&mut inbox, &channel).map_err(wrong)?.ok_or_else(|| Error::internal(message()))?;
    // Neither the call nor a process that it starts reads from the channel.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(Arrived { channel, inbox, first })
}

/// Waits for the next call. `None` at the end of the channel.
fn receive(inbox: &mut Inbox, channel: &UnixStream) -> io::Result<Option<Received>> {
    loop {
        match inbox.receive(channel)? {
            Some((ToChild::Call(order), input)) => {
                let input = String::from_utf8(input).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                return Ok(Some(Received { order: *order, input }));
            }
            // The call to cancel has ended already.
            Some((ToChild::Cancel, _)) => {}
            None => return Ok(None),
        }
    }
}

fn work(scope: &Scope, arrived: Arrived, dispatch: Arc<Dispatch>) -> Result<()> {
    let Arrived { channel, inbox, first } = arrived;
    follow(first.order.parent)?;
    ignore_signals()?;
    limits::without_core_files()?;
    let reporter = Reporter::new(channel.try_clone()?);
    reporter.take_over_the_log(&first.order.level);
    if let Some(failures) = scope.get::<FailureReporter>() {
        let reporter = reporter.clone();
        failures.forward_to(move |report| reporter.send_with(&ToParent::Failure, report));
    }
    reporter.send(&ToParent::Begun);
    let waker = Waker::new()?;
    // If the state is unknown, the process runs one call.
    let before = Hygiene::look();
    let mut child = Child { scope: scope.clone(), dispatch, channel, inbox, reporter, waker, before };
    let mut next = Some(first);
    while let Some(received) = next {
        if child.run(received)? {
            return Ok(());
        }
        next = receive(&mut child.inbox, &child.channel)?;
    }
    Ok(())
}

/// A process between its calls.
struct Child {
    scope: Scope,
    dispatch: Arc<Dispatch>,
    channel: UnixStream,
    inbox: Inbox,
    reporter: Arc<Reporter>,
    /// Wakes the main thread.
    waker: Waker,
    /// The state of the process before its first call.
    before: io::Result<Hygiene>,
}

impl Child {
    /// Runs a call and reports its outcome. Returns true if this process must not run another one.
    fn run(&mut self, received: Received) -> Result<bool> {
        let Received { order: Order { call, level, .. }, input } = received;
        let target = call.target;
        self.reporter.begin(&level);
        let running = self.start(call, input);
        let Finished { outcome, has_left_tasks, thread } = match running {
            Ok(running) => self.wait_for(&running)?,
            Err(error) => {
                let outcome = Err(Failure::Error(plain_error(error.chain().to_string())));
                // A task that was not started never ends: a further call would wait for it.
                Finished { outcome, has_left_tasks: true, thread: NO_THREAD }
            }
        };
        let _ = io::stdout().flush();
        limits::lift()?;
        let spent = self.spent(target, &outcome, has_left_tasks, thread);
        let is_spent = spent.is_some();
        let (ended, output) = Ended::of(outcome.and_then(bounded));
        self.reporter.send_with(&ToParent::Ended { ended, spent }, output.unwrap_or_default().as_bytes());
        Ok(is_spent)
    }

    fn start(&self, call: Call, input: String) -> Result<Running> {
        limits::limit_memory(call.limits.memory)?;
        Running::start(self, call, input).map_err(|error| Error::from(error).context("it has no thread"))
    }

    /// Returns the reason not to run another call in this process, if there is one.
    fn spent(
        &self,
        target: Target,
        outcome: &Outcome<Option<String>>,
        has_left_tasks: bool,
        thread: ThreadId,
    ) -> Option<String> {
        let is_clean = matches!(outcome, Ok(_) | Err(Failure::Error(_)));
        match &self.before {
            _ if matches!(target, Target::Job { .. }) => Some("it has run a job".to_owned()),
            _ if !is_clean => Some("its call had no clean end".to_owned()),
            _ if has_left_tasks => Some("its call left tasks behind".to_owned()),
            Err(error) => Some(format!("its state is unknown: {error}")),
            Ok(before) => before.left_behind(thread),
        }
    }

    /// Reports the progress of the call until it has ended, and passes a cancellation on to it.
    fn wait_for(&mut self, running: &Running) -> Result<Finished> {
        let progress = running.info.watched();
        loop {
            let seen = self.waker.watch(progress);
            self.reporter.send_progress(&seen.value);
            if let Some(finished) = lock(&running.finished).take() {
                self.reporter.send_progress(&progress.get());
                self.waker.forget(progress);
                return Ok(finished);
            }
            self.wait_for_news(running)?;
        }
    }

    /// Waits for the parent or the call.
    fn wait_for_news(&mut self, running: &Running) -> Result<()> {
        let pipe = PollFd::new(self.waker.pipe(), PollFlags::IN);
        let mut watched = [pipe, PollFd::new(&self.channel, PollFlags::IN)];
        match poll(&mut watched, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        let is_told = !watched[1].revents().is_empty();
        self.waker.has_rung();
        if is_told {
            self.listen(running);
        }
        Ok(())
    }

    /// Reads messages of the parent during a call. At the end of the channel the process ends at once.
    fn listen(&mut self, running: &Running) {
        let mut chunk = [0; CHUNK];
        match self.channel.read(&mut chunk) {
            Ok(count @ 1..) => self.inbox.feed(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            _ => signal_hook::low_level::exit(1),
        }
        while let Ok(Some((ToChild::Cancel, _))) = self.inbox.next() {
            running.info.cancel();
            // The tasks that the call has started hold it up as well.
            let registry = self.scope.registry();
            registry.unfinished().iter().for_each(|record| TaskInfo::new(record.clone(), registry).cancel());
        }
    }
}

/// Returns the output, or an error if it is too long.
fn bounded(output: Option<String>) -> Outcome<Option<String>> {
    match output {
        Some(output) if output.len() > LONGEST_VALUE => {
            let message = format!("its output has {} bytes as JSON, and at most {LONGEST_VALUE} fit", output.len());
            Err(Failure::Error(plain_error(message)))
        }
        output => Ok(output),
    }
}

/// A call that runs.
struct Running {
    info: TaskInfo,
    finished: Arc<Mutex<Option<Finished>>>,
}

/// A call that has run.
struct Finished {
    outcome: Outcome<Option<String>>,
    /// It has left tasks behind, which have been waited for.
    has_left_tasks: bool,
    /// The thread that has run it, and ends.
    thread: ThreadId,
}

impl Running {
    fn start(child: &Child, call: Call, input: String) -> io::Result<Running> {
        let (began, deadline, attempt) = (Instant::now(), call.limits.deadline, call.attempt);
        let name = call.label.replace('\0', "");
        let run = prepare(&child.scope, call, input, child.dispatch.clone());
        let (handle, _promise) = run.handle();
        let (registry, notifier) = (child.scope.registry().clone(), child.waker.notifier());
        let running = Running { info: handle.info().clone(), finished: Arc::default() };
        let finished = running.finished.clone();
        thread::Builder::new().name(name).spawn(move || {
            let outcome = run.attempt_here(attempt);
            let has_left_tasks = drain(&registry, deadline.saturating_sub(began.elapsed()));
            *lock(&finished) = Some(Finished { outcome, has_left_tasks, thread: thread_id() });
            notifier.notify();
        })?;
        Ok(running)
    }
}

/// The call as a task of the application.
fn prepare(scope: &Scope, call: Call, input: String, dispatch: Arc<Dispatch>) -> Run<Option<String>> {
    let lineage = call.lineage.parse();
    let context = Context { lineage: lineage.clone(), ..Context::of(scope.clone()) };
    let name = Task::named(call.label.clone()).options::<()>(Location::caller());
    // `once` would wrap the failure in an error.
    Run::new(context, name, call_once(move |task| dispatch(&call, &input, task))).with_lineage(lineage)
}

/// Waits for the tasks that a call has started, such as a mail, since they would end with the process. Returns true if
/// there were any. They are abandoned early enough to report the outcome before the time limit.
fn drain(registry: &Registry, left: Duration) -> bool {
    if registry.unfinished().is_empty() {
        return false;
    }
    let reserve = RESERVE.min(left / 4);
    registry.drain(left - reserve, reserve / 2);
    true
}

/// Makes the operating system kill this process when its parent ends. The process also exits at the end of the channel, but
/// only if one of its threads can run.
fn follow(parent: u32) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have ended before.
        let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        if now != Some(parent) {
            return Err(Error::internal("the process that started this one is gone"));
        }
        // A process that a call leaves behind becomes a child of this one, where it is noticed.
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        // It was started as `exe`.
        let _ = rustix::thread::set_name(c"aside-isolated");
    }
    let _ = parent;
    Ok(())
}

/// A service manager may signal all processes of a service to stop it. The parent waits for its calls then, and cancels
/// them in time.
fn ignore_signals() -> Result<()> {
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // Ignored signals would be inherited by processes that the call starts.
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// Sends the reports of the child, from any thread. It waits while the parent is behind, so that nothing accumulates.
struct Reporter {
    channel: Mutex<UnixStream>,
    /// The last progress that was reported.
    sent: Mutex<(u64, u64, String)>,
    has_the_log: AtomicBool,
}

impl Reporter {
    fn new(channel: UnixStream) -> Arc<Reporter> {
        let (channel, has_the_log) = (Mutex::new(channel), AtomicBool::new(false));
        Arc::new(Reporter { channel, sent: Mutex::default(), has_the_log })
    }

    fn send(&self, report: &ToParent) {
        self.send_with(report, b"");
    }

    /// Sends a report and its value. If the parent does not read, it has ended, and this process ends too.
    fn send_with(&self, report: &ToParent, value: &[u8]) {
        // All texts are cut, so that no report is too long.
        if let Ok((bytes, rest)) = frame(report, value) {
            let mut channel = lock(&self.channel);
            let _ = channel.write_all(&bytes).and_then(|()| channel.write_all(rest));
        }
    }

    /// Starts the reports of a new call, of which no progress was reported yet.
    fn begin(&self, level: &str) {
        self.set_level(level);
        *lock(&self.sent) = Default::default();
    }

    /// Sends the progress of the call, unless it has been sent.
    fn send_progress(&self, progress: &Progress) {
        let now = (progress.done, progress.total, progress.message.clone());
        let mut sent = lock(&self.sent);
        if *sent != now {
            self.send(&ToParent::progress(now.0, now.1, &now.2));
            *sent = now;
        }
    }

    /// Sends the log to the parent, up to its level. If the program has installed a logger of its own, that logger is used.
    fn take_over_the_log(self: &Arc<Reporter>, level: &str) {
        let is_ours = log::set_boxed_logger(Box::new(Relay(self.clone()))).is_ok();
        self.has_the_log.store(is_ours, Ordering::Relaxed);
        self.set_level(level);
    }

    /// Logs as much as the parent does now.
    fn set_level(&self, level: &str) {
        if self.has_the_log.load(Ordering::Relaxed) {
            log::set_max_level(level.parse().unwrap_or(LevelFilter::Info));
        }
    }
}

/// The log of the child.
struct Relay(Arc<Reporter>);

impl Log for Relay {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.send(&ToParent::log(record));
    }

    fn flush(&self) {}
}
