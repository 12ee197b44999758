//! Checks of what a call has left behind in its process, which decide if the child can run another call.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, WaitId, WaitIdOptions, getrlimit, waitid};

use crate::log_text::numbered;

/// How much more memory than before its first call a process may have after one; KiB.
const MOST_GROWTH: u64 = 32 << 10;

/// How long the thread of a call may take to end, with the values of its thread-locals. A thread that takes longer is left
/// behind.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// The limits that a process may change for itself, except for the soft memory limits, which are set for each call.
const LIMITS: [(Resource, bool); 9] = [
    (Resource::As, false),
    (Resource::Data, false),
    (Resource::Core, true),
    (Resource::Cpu, true),
    (Resource::Fsize, true),
    (Resource::Memlock, true),
    (Resource::Nofile, true),
    (Resource::Nproc, true),
    (Resource::Stack, true),
];

/// The number of a thread.
pub(super) type ThreadId = i32;

/// A number that is not the number of any thread.
pub(super) const NO_THREAD: ThreadId = 0;

/// Returns the number of this thread, where threads have one.
pub(super) fn thread_id() -> ThreadId {
    #[cfg(target_os = "linux")]
    return rustix::thread::gettid().as_raw_nonzero().get();
    #[cfg(not(target_os = "linux"))]
    NO_THREAD
}

/// The resources of a process at one time.
#[derive(Debug)]
pub(super) struct Hygiene {
    status: Status,
    descriptors: BTreeMap<u32, PathBuf>,
    folder: PathBuf,
    limits: Limits,
}

/// The soft and the hard value of each limit.
type Limits = [(Option<u64>, Option<u64>); LIMITS.len()];

/// The operating system's numbers on a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Status {
    threads: u64,
    /// The memory of its own that it uses; KiB.
    memory: u64,
    umask: String,
}

impl Hygiene {
    /// Returns the current resources of this process.
    ///
    /// # Errors
    /// If the operating system does not report them.
    pub(super) fn look() -> io::Result<Hygiene> {
        let folder = std::env::current_dir()?;
        Ok(Hygiene { status: Status::read()?, descriptors: descriptors()?, folder, limits: limits() })
    }

    /// Returns what a call on this thread has left behind, if anything: the reason not to run another call here.
    pub(super) fn left_behind(&self, thread: ThreadId) -> Option<String> {
        wait_for_thread(thread);
        match self.compare() {
            Ok(left) => left,
            Err(error) => Some(format!("its state is unknown: {error}")),
        }
    }

    fn compare(&self) -> io::Result<Option<String>> {
        if has_children() {
            return Ok(Some("it has child processes".to_owned()));
        }
        if std::env::current_dir()? != self.folder {
            return Ok(Some("its working directory was changed".to_owned()));
        }
        if limits() != self.limits {
            return Ok(Some("its limits (setrlimit) were changed".to_owned()));
        }
        let now = descriptors()?;
        if now != self.descriptors {
            return Ok(Some(format!(
                "its {} changed: it has {} now",
                numbered(self.descriptors.len(), "file descriptor has", "file descriptors have"),
                now.len()
            )));
        }
        let now = Status::read()?;
        Ok(if now.threads != self.status.threads {
            Some(format!("it has {} in place of {}", numbered(now.threads, "thread", "threads"), self.status.threads))
        } else if now.umask != self.status.umask {
            Some("its umask was changed".to_owned())
        } else if now.memory > self.status.memory + MOST_GROWTH {
            Some(format!("it has grown from {} to {} MiB", self.status.memory >> 10, now.memory >> 10))
        } else {
            None
        })
    }
}

/// Waits for the end of the thread of a call.
fn wait_for_thread(id: ThreadId) {
    let (folder, until) = (format!("/proc/self/task/{id}"), Instant::now() + LAST_MOMENT);
    while fs::exists(&folder).is_ok_and(|exists| exists) && Instant::now() < until {
        thread::yield_now();
    }
}

impl Status {
    #[cfg(target_os = "linux")]
    fn read() -> io::Result<Status> {
        Ok(Status::parse(&fs::read_to_string("/proc/self/status")?))
    }

    #[cfg(not(target_os = "linux"))]
    fn read() -> io::Result<Status> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    fn parse(text: &str) -> Status {
        let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let number = |name: &str| value(name).split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        Status { threads: number("Threads:"), memory: number("RssAnon:"), umask: value("Umask:").to_owned() }
    }
}

fn limits() -> Limits {
    LIMITS.map(|(resource, has_soft)| {
        let limit = getrlimit(resource);
        (limit.current.filter(|_| has_soft), limit.maximum)
    })
}

/// Returns the open descriptors, each with its target.
fn descriptors() -> io::Result<BTreeMap<u32, PathBuf>> {
    let mut open = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|number| number.parse().ok());
        // The descriptor of the folder that is read here is closed before the next check.
        if let (Some(number), Ok(target)) = (number, fs::read_link(entry.path()))
            && !target.starts_with("/proc/")
        {
            open.insert(number, target);
        }
    }
    Ok(open)
}

/// Returns true if this process has children, running or not waited for. Those that they have left behind are its own,
/// where it has asked for that.
fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::All, options), Err(rustix::io::Errno::CHILD))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_as_linux_shows_it() {
        let text = "Name:\taside\nUmask:\t0022\nRssAnon:\t    1234 kB\nThreads:\t3\n";
        assert_eq!(Status::parse(text), Status { threads: 3, memory: 1234, umask: "0022".to_owned() });
        assert_eq!(Status::parse(""), Status::default());
        let here = Status::read().unwrap();
        assert!(here.threads > 0 && here.memory > 0 && !here.umask.is_empty());
    }
}
