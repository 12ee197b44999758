//! The side that does the job: a process that lives for it alone.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::panic::Location;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use log::{LevelFilter, Log, Metadata, Record};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::protocol::{
    Begin, Ended, Inbox, LONGEST_ORDER, LONGEST_REPORT, Limits, Order, ToChild, ToParent, VARIABLE, frame,
};
use crate::background::failure::{Failure, Outcome};
use crate::background::registry::{Origin, Progress, Registry};
use crate::background::scope::{Context, Scope};
use crate::background::task::{Run, Task, TaskContext, TaskInfo};
use crate::error::{Error, Result};
use crate::sync::{Bell, lock};
use crate::watched::{Watched, caller};

/// How long before the time limit the tasks that a job has left behind are told to cancel.
const RESERVE: Duration = Duration::from_secs(4);

/// The stack of the threads that serve the job: they do little, and a memory limit counts what they have.
const SMALL_STACK: usize = 256 << 10;

/// Does the job that this process was started for, and exits.
pub(crate) fn child_main(scope: &Scope, run: impl FnOnce(&Order, &TaskContext) -> Outcome<()> + Send + 'static) -> ! {
    let began = Instant::now();
    match take_order().and_then(|(begin, line)| work(scope, begin, line, began, run)) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            // Not by `eprintln!`, which panics where nobody reads any more.
            let _ = writeln!(io::stderr(), "{}", error.chain());
            std::process::exit(1)
        }
    }
}

/// The parent's end of the line, as it is read.
struct Line {
    channel: UnixStream,
    inbox: Inbox,
}

/// Takes the channel from where standard input was, and what comes first over it.
fn take_order() -> Result<(Begin, Line)> {
    let words = || {
        format!(
            "{VARIABLE} is set, which makes a process do one job for the one that started it: unset it to start the site"
        )
    };
    let wrong = |error: io::Error| Error::from(error).context(words());
    let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(wrong)?);
    // Reading alone would wait for what somebody types.
    channel.local_addr().map_err(wrong)?;
    let mut line = Line { channel, inbox: Inbox::new(LONGEST_ORDER) };
    let first = line.inbox.receive(&line.channel).map_err(wrong)?;
    let Some(ToChild::Begin(begin)) = first else { return Err(Error::internal(words())) };
    // What the job reads from, and whatever it starts, is not the channel.
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok((*begin, line))
}

fn work(
    scope: &Scope,
    begin: Begin,
    line: Line,
    began: Instant,
    run: impl FnOnce(&Order, &TaskContext) -> Outcome<()> + Send + 'static,
) -> Result<()> {
    follow(begin.parent)?;
    ignore_signals()?;
    let voice = Voice::new(line.channel.try_clone()?);
    voice.take_over_the_log(&begin.level);
    voice.say(&ToParent::Begun);
    let (limits, attempt) = (begin.order.limits, begin.order.attempt);
    let run = prepare(scope, begin.order, run);
    let (handle, _promise) = run.handle();
    let registry = scope.registry().clone();
    listen(line, handle.info().clone(), registry.clone())?;
    tell_progress(voice.clone(), handle.info().watched().clone())?;
    limit(limits)?;
    let outcome = run.attempt_here(attempt);
    drain(&registry, limits.deadline.saturating_sub(began.elapsed()));
    voice.say_progress(&handle.info().progress());
    voice.say(&ToParent::Ended(Ended::of(&outcome)));
    Ok(())
}

/// The job as a task of the application.
fn prepare(
    scope: &Scope,
    order: Order,
    run: impl FnOnce(&Order, &TaskContext) -> Outcome<()> + Send + 'static,
) -> Run<()> {
    let context = context(scope, &order);
    let name = Task::named(order.label.clone()).naming::<()>(Location::caller());
    let mut run = Some(run);
    // Not as a task's function, whose failure would be taken for an error of its own.
    let call = move |task: &TaskContext| run.take().map_or(Err(Failure::Abandoned), |run| run(&order, task));
    Run::new(context, name, Box::new(call))
}

/// Waits for what the job has set aside, a mail for one, which would be gone with the process. It is given up in time for
/// the result to be told before the time limit.
fn drain(registry: &Registry, left: Duration) {
    let reserve = RESERVE.min(left / 4);
    registry.drain(left - reserve, reserve / 2);
}

/// Has the system end this process with its parent. The end of the channel is its end as well, but to notice that takes a
/// thread that runs.
fn follow(parent: u32) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        // It may have ended before.
        let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        if now != Some(parent) {
            return Err(Error::internal("the process that started this one is gone"));
        }
        // It was started as `exe`.
        let _ = rustix::thread::set_name(c"aside-isolated");
    }
    let _ = parent;
    Ok(())
}

/// When a service is stopped, all of its processes may be told. It is the parent that waits for its jobs then, and cancels
/// them in time.
fn ignore_signals() -> Result<()> {
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        // Not as ignored: what the job starts would inherit that.
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// Where the job comes from.
fn context(scope: &Scope, order: &Order) -> Context {
    let origin = order.origin.as_deref().and_then(Origin::parse).map(Arc::new);
    Context { scope: scope.clone(), origin, task: None }
}

/// Hears what the parent says. With the end of the line the process ends, whatever it is at.
fn listen(mut line: Line, job: TaskInfo, registry: Registry) -> Result<()> {
    serve("aside-parent", move || {
        while let Ok(Some(ToChild::Cancel)) = line.inbox.receive(&line.channel) {
            job.cancel();
            // What the job has set aside holds it up as well.
            registry.unfinished().iter().for_each(|record| TaskInfo::new(record.clone(), &registry).cancel());
        }
        signal_hook::low_level::exit(1);
    })
}

/// Tells the parent how far the job is: the latest, and nothing of what was between two looks.
fn tell_progress(voice: Arc<Voice>, progress: Arc<Watched<Progress>>) -> Result<()> {
    serve("aside-progress", move || {
        let (me, bell) = (caller(), Arc::new(Bell::default()));
        loop {
            let seen = progress.look();
            voice.say_progress(&seen.value);
            if seen.is_finished {
                return;
            }
            let theirs = bell.clone();
            progress.call_when_new(me, seen.version, Arc::new(move || theirs.ring()));
            bell.wait(Duration::MAX);
        }
    })
}

fn serve(name: &str, f: impl FnOnce() + Send + 'static) -> Result<()> {
    thread::Builder::new().name(name.to_owned()).stack_size(SMALL_STACK).spawn(f)?;
    Ok(())
}

/// Limits this process, and what it starts, to that much memory. A core file of it would help nobody.
fn limit(limits: Limits) -> Result<()> {
    lower(Resource::Core, 0)?;
    if limits.memory > 0 {
        limit_memory(limits.memory)?;
    }
    Ok(())
}

/// What a process has of its own is its data. Its address space is more than that, by the program, by mapped files, and by
/// what the allocator of each thread only reserves; it is limited too, widely, for systems that do not count the data.
#[cfg(target_os = "linux")]
fn limit_memory(memory: u64) -> Result<()> {
    lower(Resource::Data, memory)?;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').next().and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let mapped = pages.saturating_mul(rustix::param::page_size() as u64);
    lower(Resource::As, memory.saturating_mul(2).saturating_add(mapped).saturating_add(256 << 20))
}

#[cfg(not(target_os = "linux"))]
fn limit_memory(memory: u64) -> Result<()> {
    lower(Resource::As, memory)
}

/// Sets a limit for good, unless it is lower already.
fn lower(resource: Resource, most: u64) -> Result<()> {
    let now = getrlimit(resource);
    let lower = |limit: Option<u64>| Some(limit.map_or(most, |limit| limit.min(most)));
    setrlimit(resource, Rlimit { current: lower(now.current), maximum: lower(now.maximum) })?;
    Ok(())
}

/// What the child says, from whichever thread. It waits while the parent is behind: nothing piles up on either side.
struct Voice {
    channel: Mutex<UnixStream>,
    /// The last progress that was told.
    told: Mutex<(u64, u64, String)>,
}

impl Voice {
    fn new(channel: UnixStream) -> Arc<Voice> {
        Arc::new(Voice { channel: Mutex::new(channel), told: Mutex::default() })
    }

    /// Says it. A parent that does not listen is gone, and this process with it.
    fn say(&self, report: &ToParent) {
        // All that is said is clipped, and so never too long.
        if let Ok(bytes) = frame(report, LONGEST_REPORT) {
            let _ = lock(&self.channel).write_all(&bytes);
        }
    }

    /// Says how far the job is, unless that is known.
    fn say_progress(&self, progress: &Progress) {
        let now = (progress.done, progress.total, progress.message.clone());
        let mut told = lock(&self.told);
        if *told != now {
            self.say(&ToParent::progress(now.0, now.1, &now.2));
            *told = now;
        }
    }

    /// Sends the log to the parent, as far as that wants it; unless the program has set up a log of its own, which is
    /// printed then.
    fn take_over_the_log(self: &Arc<Voice>, level: &str) {
        if log::set_boxed_logger(Box::new(Relay(self.clone()))).is_ok() {
            log::set_max_level(level.parse().unwrap_or(LevelFilter::Info));
        }
    }
}

/// The log of the child.
struct Relay(Arc<Voice>);

impl Log for Relay {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.say(&ToParent::log(record.level(), record.target(), &record.args().to_string()));
    }

    fn flush(&self) {}
}
