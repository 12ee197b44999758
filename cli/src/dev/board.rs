//! What browsers are told: the state of the build and of the site.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Debug, Clone, Default)]
pub struct State {
    /// True while a process of the site serves.
    pub serves: bool,
    /// The number of that process.
    pub build: u64,
    /// When a file that pages are made of changed last, in milliseconds since 1970.
    pub changed: u64,
    /// When a style sheet changed last.
    pub styles: u64,
    /// What is being done, as HTML; empty if nothing is.
    pub progress: String,
    /// Why the newest build does not serve.
    pub problem: Option<Problem>,
}

#[derive(Debug, Clone)]
pub struct Problem {
    pub title: String,
    /// The details, as HTML.
    pub details: String,
}

impl State {
    /// Returns the state as JSON, for the scripts of the pages.
    pub fn json(&self) -> String {
        let (title, failure) = self.problem.as_ref().map_or(("", ""), |problem| (&problem.title, &problem.details));
        format!(
            r#"{{"serves":{},"build":{},"changed":{},"styles":{},"progress":{},"title":{},"failure":{}}}"#,
            self.serves,
            self.build,
            self.changed,
            self.styles,
            quoted(&self.progress),
            quoted(title),
            quoted(failure)
        )
    }
}

/// Returns a string of JSON.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // Also `<`, since the text may stand in a script.
            c if c.is_control() || c == '<' || c == '\u{2028}' || c == '\u{2029}' => {
                quoted.push_str(&format!("\\u{:04x}", c as u32))
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

/// The state, which threads change and wait for.
#[derive(Default)]
pub struct Board {
    state: Mutex<(u64, State)>,
    changed: Condvar,
}

impl Board {
    pub fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state.1);
        state.0 += 1;
        self.changed.notify_all();
    }

    pub fn state(&self) -> State {
        self.lock().1.clone()
    }

    /// Waits until the state has another version than this one, and returns it with its version. Returns `None` after a while.
    pub fn next(&self, version: u64, most: Duration) -> Option<(u64, State)> {
        let same = |state: &mut (u64, State)| state.0 == version;
        let waited = self.changed.wait_timeout_while(self.lock(), most, same);
        let (state, time) = waited.unwrap_or_else(PoisonError::into_inner);
        (!time.timed_out()).then(|| state.clone())
    }

    /// Waits until a process of the site serves, at most for this time. Returns true if one serves.
    pub fn wait_until_served(&self, most: Duration) -> bool {
        let waits = |state: &mut (u64, State)| !state.1.serves;
        let waited = self.changed.wait_timeout_while(self.lock(), most, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.1.serves
    }

    fn lock(&self) -> MutexGuard<'_, (u64, State)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time in milliseconds, as the scripts of the pages have it.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_valid_json_that_may_stand_in_a_script() {
        let problem = Problem { title: "a \"quoted\" \\ title".into(), details: "<b>\n</script>\u{1b}".into() };
        let json = State { problem: Some(problem), progress: "12/40".into(), ..State::default() }.json();
        assert!(!json.contains('<'), "{json}");
        let state: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&state["title"], &state["failure"]),
            (&"a \"quoted\" \\ title".into(), &"<b>\n</script>\u{1b}".into())
        );
        assert_eq!((&state["progress"], &state["serves"]), (&"12/40".into(), &false.into()));
    }
}
