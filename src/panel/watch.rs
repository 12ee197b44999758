//! Keeps the panel's pages up to date while somebody watches them.
//!
//! The tasks know nothing of pages and tell nobody of each step. So a thread looks at them twice a second, and shows what
//! has changed; it is there only as long as a page is open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::snapshot::{Snapshot, Whole};
use crate::background::registry::Record;
use crate::background::scope::Scope;
use crate::live::Live;
use crate::sync::lock;

/// Between two looks at the tasks.
const EVERY: Duration = Duration::from_millis(500);

/// What the pages of one application show.
pub(super) struct Watch {
    live: Live<Snapshot>,
    /// Whose turn it is to look: an older look must not be shown after a newer one.
    turn: Mutex<()>,
    is_kept_up: AtomicBool,
}

impl Default for Watch {
    fn default() -> Watch {
        Watch { live: Live::new(Snapshot::default()), turn: Mutex::new(()), is_kept_up: AtomicBool::new(false) }
    }
}

impl Watch {
    /// The tasks as they are now, shown to all who watch when they are not what was shown before.
    pub(super) fn look(&self, scope: &Scope) -> &Live<Snapshot> {
        let _turn = lock(&self.turn);
        show(&self.live, Snapshot::of(scope));
        &self.live
    }

    /// Looks again and again from now on, as long as a page watches.
    pub(super) fn keep_up(self: &Arc<Watch>, scope: Scope) {
        if self.is_kept_up.swap(true, Ordering::AcqRel) {
            return;
        }
        let watch = self.clone();
        if !aside(move || watch.run(&scope)) {
            self.is_kept_up.store(false, Ordering::Release);
        }
    }

    fn run(&self, scope: &Scope) {
        loop {
            thread::sleep(EVERY);
            if !self.goes_on(scope) {
                return;
            }
            self.look(scope);
        }
    }

    /// Whether somebody watches. Asked twice: a page that came in between relied on this thread.
    fn goes_on(&self, scope: &Scope) -> bool {
        let is_watched = || self.live.watchers() > 0 && !scope.registry().is_closing();
        if is_watched() {
            return true;
        }
        self.is_kept_up.swap(false, Ordering::AcqRel);
        is_watched() && !self.is_kept_up.swap(true, Ordering::AcqRel)
    }
}

/// Shows a page that watches one task how it goes on, to its end.
pub(super) fn follow(live: Live<Whole>, record: Arc<Record>) {
    aside(move || {
        while live.watchers() > 0 && !live.is_finished() {
            thread::sleep(EVERY);
            let has_ended = record.has_ended();
            show(&live, Whole::of(&record));
            if has_ended {
                live.finish();
            }
        }
    });
}

/// Shows what differs from what was shown before.
fn show<T: Clone + PartialEq>(live: &Live<T>, now: T) {
    if now != *live.get() {
        live.update(|shown| *shown = now);
    }
}

/// On a thread that is no task: a list of what runs would have it in it. Whether there is one.
fn aside(work: impl FnOnce() + Send + 'static) -> bool {
    let spawned = thread::Builder::new().name("aside-panel".into()).spawn(work);
    let refused = spawned.err().inspect(|error| {
        log::warn!(target: "aside::panel", "The panel is not kept up to date, there is no thread for it: {error}");
    });
    refused.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::registry::Registry;
    use crate::background::scope::Values;
    use crate::config::Config;

    #[test]
    fn a_thread_that_nobody_needs_goes_and_leaves_room_for_the_next() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let watch = Watch::default();
        watch.is_kept_up.store(true, Ordering::Release);
        assert!(!watch.goes_on(&scope));
        assert!(!watch.is_kept_up.load(Ordering::Acquire));
    }
}
