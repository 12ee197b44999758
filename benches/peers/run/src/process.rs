//! What the system says of a process and its children.

use std::fs;

use serde::Serialize;

/// Of a process and all below it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Memory {
    /// The sum of the peaks since [`forget_peak`], in KiB. What processes share is counted for each.
    pub peak: u64,
    pub resident: u64,
    /// Returns the resident memory; shared pages are divided among their processes (PSS).
    pub proportional: u64,
    pub threads: u64,
}

/// The process and all below it.
pub fn tree(root: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, fields(pid)?.get(1)?.parse().ok()?)))
        .collect();
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(parent) = tree.get(next).copied() {
        tree.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    tree
}

/// The fields of `/proc/PID/stat` that follow the name: the state, the parent, and so on.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

/// Processor time, of ended threads too, in seconds.
pub fn processor_time(root: u32) -> f64 {
    let ticks = |pid: u32| {
        let fields = fields(pid)?;
        Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
    };
    let ticks: u64 = tree(root).into_iter().filter_map(ticks).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Processor time that the machine was busy since it started, with what a hypervisor took, in seconds of all cores.
pub fn busy_time() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map(|number| number.parse().unwrap_or(0)).collect();
    // user, nice, system, irq, softirq, steal; not idle and iowait
    let busy: u64 = [0, 1, 2, 5, 6, 7].iter().filter_map(|field| ticks.get(*field)).sum();
    busy as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Resets the peak.
pub fn forget_peak(root: u32) {
    for pid in tree(root) {
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

/// Threads and resident KiB of one process, which is cheap enough to be read many times a second.
pub fn status(pid: u32) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    (number(&status, "Threads:"), number(&status, "VmRSS:"))
}

pub fn memory(root: u32) -> Memory {
    let mut sum = Memory::default();
    for pid in tree(root) {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let (status, rollup) = (read("status"), read("smaps_rollup"));
        sum.peak += number(&status, "VmHWM:");
        sum.resident += number(&status, "VmRSS:");
        sum.threads += number(&status, "Threads:");
        sum.proportional += number(&rollup, "Pss:");
    }
    sum
}

fn number(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
