//! The figures of the process, under the names that Prometheus' client libraries use. On Linux; none elsewhere.

use super::text::Text;

/// The figures of the process. A figure that cannot be read is missing.
#[derive(Debug, Default, PartialEq)]
struct Figures {
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    cpu_seconds: Option<f64>,
    threads: Option<u64>,
    open_descriptors: Option<u64>,
    most_descriptors: Option<u64>,
    /// The time of the start, in seconds since 1970.
    started: Option<f64>,
}

/// Writes the figures of this process.
pub(super) fn write(text: &mut Text) {
    let figures = read();
    let mut number = |name, kind, help, value: Option<f64>| {
        if let Some(value) = value {
            text.single(name, kind, help, value);
        }
    };
    let whole = |value: Option<u64>| value.map(|value| value as f64);
    number("process_cpu_seconds_total", "counter", "User and system CPU time in seconds.", figures.cpu_seconds);
    number("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", whole(figures.resident_bytes));
    number("process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.", whole(figures.virtual_bytes));
    number("process_threads", "gauge", "Threads of the process.", whole(figures.threads));
    number("process_open_fds", "gauge", "Open file descriptors.", whole(figures.open_descriptors));
    number("process_max_fds", "gauge", "Most open file descriptors (soft limit).", whole(figures.most_descriptors));
    number("process_start_time_seconds", "gauge", "Start of the process in seconds since 1970.", figures.started);
}

#[cfg(not(target_os = "linux"))]
fn read() -> Figures {
    Figures::default()
}

#[cfg(target_os = "linux")]
fn read() -> Figures {
    use rustix::process::{Resource, getrlimit};
    let status = file("/proc/self/status");
    let kilobytes = |name| status_field(&status, name).and_then(|value| value.checked_mul(1_024));
    let ticks = Ticks::parse(&file("/proc/self/stat"));
    let per_second = rustix::param::clock_ticks_per_second().max(1) as f64;
    Figures {
        resident_bytes: kilobytes("VmRSS"),
        virtual_bytes: kilobytes("VmSize"),
        cpu_seconds: ticks.map(|ticks| ticks.cpu as f64 / per_second),
        threads: status_field(&status, "Threads"),
        // The descriptor of the folder itself is not counted.
        open_descriptors: std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64 - 1),
        most_descriptors: getrlimit(Resource::Nofile).current,
        started: ticks.and_then(|ticks| Some(booted()? as f64 + ticks.started as f64 / per_second)),
    }
}

#[cfg(target_os = "linux")]
fn file(path: &str) -> String {
    std::fs::read(path).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns a number of `/proc/self/status`: `VmRSS:     12345 kB`.
#[cfg(target_os = "linux")]
fn status_field(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The clock ticks that a process has used, and those from the boot of the machine to its start.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq)]
struct Ticks {
    cpu: u64,
    started: u64,
}

#[cfg(target_os = "linux")]
impl Ticks {
    /// Reads `/proc/self/stat`: the fields 14, 15 and 22. The second one, the name of the program, is in parentheses and may
    /// contain spaces and further parentheses (proc_pid_stat(5)).
    fn parse(stat: &str) -> Option<Ticks> {
        let (_, rest) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Ticks { cpu: field(14)? + field(15)?, started: field(22)? })
    }
}

/// Returns the time at which the machine was booted, in seconds since 1970. Read once, since the kernel computes it again
/// after each correction of the clock.
#[cfg(target_os = "linux")]
fn booted() -> Option<u64> {
    static BOOTED: std::sync::LazyLock<Option<u64>> = std::sync::LazyLock::new(|| {
        let stat = file("/proc/stat");
        stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
    });
    *BOOTED
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_program_may_look_like_other_fields() {
        let stat = "17 (a) R 1 (b) c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 3 0 9000 1 2";
        assert_eq!(Ticks::parse(stat), Some(Ticks { cpu: 300, started: 9000 }));
        assert_eq!(Ticks::parse("17 (a) S 1"), None);
        assert_eq!(status_field("Name:\tVmRSS: 3\nVmRSS:\t  12 kB\n", "VmRSS"), Some(12));
    }

    #[test]
    fn the_figures_of_this_process_are_plausible() {
        let held: Vec<_> = (0..10).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let figures = read();
        assert!(figures.resident_bytes.unwrap() > 1_000_000);
        assert!(figures.virtual_bytes >= figures.resident_bytes);
        assert!(figures.cpu_seconds.unwrap() < 100_000.0);
        assert!(figures.threads.unwrap() >= 1);
        assert!(figures.open_descriptors.unwrap() >= held.len() as u64);
        assert!(figures.most_descriptors.unwrap() >= figures.open_descriptors.unwrap());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - figures.started.unwrap();
        assert!((-5.0..1_000_000.0).contains(&age), "started {age} s ago");
        assert_eq!(figures.started, read().started);
    }
}
