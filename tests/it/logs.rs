//! What was logged: a logger that keeps every line of this process. A test looks for words that only its own lines have.

use std::sync::{Condvar, Mutex, Once};

use log::{Level, LevelFilter, Log, Metadata, Record};

static LINES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());
static MORE: Condvar = Condvar::new();

struct Keeper;

impl Log for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("aside")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = format!("{}: {}", record.target(), record.args());
            LINES.lock().unwrap().push((record.level(), line));
            MORE.notify_all();
        }
    }

    fn flush(&self) {}
}

/// Begins to keep lines. Called first in a test that looks at them.
pub fn keep() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        log::set_logger(&Keeper).expect("no other logger is set in these tests");
        log::set_max_level(LevelFilter::Debug);
    });
}

/// The lines with these words, in order.
pub fn with(words: &str) -> Vec<(Level, String)> {
    LINES.lock().unwrap().iter().filter(|(_, line)| line.contains(words)).cloned().collect()
}

/// The lines with these words at that level.
pub fn at(level: Level, words: &str) -> Vec<String> {
    with(words).into_iter().filter(|(theirs, _)| *theirs == level).map(|(_, line)| line).collect()
}

/// Waits until there are so many lines with these words.
pub fn wait_for(count: usize, words: &str) {
    let mut lines = LINES.lock().unwrap();
    let (mut looked_at, mut found) = (0, 0);
    loop {
        found += lines[looked_at..].iter().filter(|(_, line)| line.contains(words)).count();
        looked_at = lines.len();
        if found >= count {
            return;
        }
        lines = MORE.wait(lines).unwrap();
    }
}
