//! A logger that records every line of this process. A test looks for text that only its own lines contain.

use std::sync::{Condvar, Mutex, Once};

use log::{Level, LevelFilter, Log, Metadata, Record};

static LINES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());
static ADDED: Condvar = Condvar::new();

struct Recorder;

impl Log for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("aside")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{}: {}", record.target(), record.args());
            LINES.lock().unwrap().push((record.level(), line));
            ADDED.notify_all();
        }
    }

    fn flush(&self) {}
}

/// Starts to record lines. A test that reads lines calls this first.
pub fn record() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        log::set_logger(&Recorder).expect("no other logger is set in these tests");
        log::set_max_level(LevelFilter::Debug);
    });
}

/// Returns the lines that contain a text, in order.
pub fn with(text: &str) -> Vec<(Level, String)> {
    LINES.lock().unwrap().iter().filter(|(_, line)| line.contains(text)).cloned().collect()
}

/// Returns the lines of a level that contain a text.
pub fn at(level: Level, text: &str) -> Vec<String> {
    with(text).into_iter().filter(|(found, _)| *found == level).map(|(_, line)| line).collect()
}

/// Waits until at least `count` lines contain a text.
pub fn wait_for(count: usize, text: &str) {
    let mut lines = LINES.lock().unwrap();
    let (mut checked, mut found) = (0, 0);
    loop {
        found += lines[checked..].iter().filter(|(_, line)| line.contains(text)).count();
        checked = lines.len();
        if found >= count {
            return;
        }
        lines = ADDED.wait(lines).unwrap();
    }
}
