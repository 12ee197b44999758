//! The limits that a child sets for itself at its parent's request.
//!
//! The limit on memory is a soft one, which the process may raise again up to the hard one: a child gets the limit of each
//! call, and children need not be kept apart by their limits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[cfg(target_os = "linux")]
use super::call;
#[cfg(target_os = "linux")]
use super::protocol::plain_error;
use crate::error::Result;

/// Turns the core file of this process off: an isolated crash is expected, and its core file of no use.
pub(super) fn without_core_files() -> Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// The memory that a call needs at least: the stack of its thread, and something to work with.
#[cfg(target_os = "linux")]
const LEAST: u64 = 4 << 20;

/// Limits the memory of this process, and of each process that it starts, in bytes; 0 means no limit.
///
/// The limit holds for the data of a process. Its address space also contains the program, mapped files, and memory that the
/// allocator of each thread only reserves. It has a wider limit, for systems that do not count the data.
///
/// # Errors
/// If the process has so much memory already that none is left for a call.
#[cfg(target_os = "linux")]
pub(super) fn limit_memory(memory: u64) -> Result<()> {
    if memory == 0 {
        return lift();
    }
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let size = |field: usize| {
        let pages: u64 = statm.split(' ').nth(field).and_then(|pages| pages.parse().ok()).unwrap_or(0);
        pages.saturating_mul(rustix::param::page_size() as u64)
    };
    let (mapped, data) = (size(0), size(5));
    let least = data.saturating_add(LEAST);
    if memory < least {
        let message =
            format!("its process may have {} of memory, and needs {} to begin", call::size(memory), call::size(least));
        return Err(plain_error(message));
    }
    set(Resource::Data, Some(memory))?;
    set(Resource::As, Some(memory.saturating_mul(2).saturating_add(mapped).saturating_add(256 << 20)))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn limit_memory(memory: u64) -> Result<()> {
    if memory == 0 { lift() } else { set(Resource::As, Some(memory)) }
}

/// Lifts the limit on memory, as far as the hard limit allows.
pub(super) fn lift() -> Result<()> {
    #[cfg(target_os = "linux")]
    set(Resource::Data, None)?;
    set(Resource::As, None)
}

/// Sets a soft limit, at most at the hard one.
fn set(resource: Resource, most: Option<u64>) -> Result<()> {
    let Rlimit { maximum, current } = getrlimit(resource);
    let wanted = match (most, maximum) {
        (Some(most), Some(maximum)) => Some(most.min(maximum)),
        (most, maximum) => most.or(maximum),
    };
    if wanted != current {
        setrlimit(resource, Rlimit { current: wanted, maximum })?;
    }
    Ok(())
}
