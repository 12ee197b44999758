//! Keeps the panel's pages up to date while somebody watches them.
//!
//! The tasks know nothing of pages and tell nobody of each step. So a thread looks at them twice a second, and shows what
//! has changed; it is there only as long as a page is open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::snapshot::Snapshot;
use crate::background::scope::{Context, Scope};
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
        let now = Snapshot::of(scope);
        if now != *self.live.get() {
            self.live.update(|shown| *shown = now);
        }
        &self.live
    }

    /// Looks again and again from now on, as long as a page watches.
    pub(super) fn keep_up(self: &Arc<Watch>, scope: Scope) {
        if self.is_kept_up.swap(true, Ordering::AcqRel) {
            return;
        }
        let watch = self.clone();
        let spawned = thread::Builder::new().name("aside-panel".into()).spawn(move || watch.run(scope));
        if let Err(error) = spawned {
            self.is_kept_up.store(false, Ordering::Release);
            log::warn!(target: "aside::panel", "The panel is not kept up to date, there is no thread for it: {error}");
        }
    }

    fn run(&self, scope: Scope) {
        let _entered = Context { scope: scope.clone(), origin: None, task: None }.enter();
        loop {
            thread::sleep(EVERY);
            if !self.goes_on(&scope) {
                return;
            }
            self.look(&scope);
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
