//! Log lines that clients can trigger, limited to one a minute.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// The interval between two lines.
const PAUSE: Duration = Duration::from_secs(60);

/// A limit for log lines about one kind of event: one a minute, with the number of events since the previous line.
#[derive(Debug, Default)]
pub(crate) struct LogLimit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    events: u64,
}

impl LogLimit {
    /// Counts an event. If a line may be written, returns the number of events to log, including this one.
    pub(crate) fn count(&self) -> Option<u64> {
        self.count_at(Instant::now())
    }

    fn count_at(&self, now: Instant) -> Option<u64> {
        let mut state = lock(&self.0);
        state.events += 1;
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE) {
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.events))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_has_the_number_of_events() {
        let (limit, start) = (LogLimit::default(), Instant::now());
        let at = |seconds| limit.count_at(start + Duration::from_secs(seconds));
        assert_eq!([0, 1, 59, 60, 61, 200].map(at), [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
