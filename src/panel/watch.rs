//! Keeps the panel's pages up to date while somebody watches them.
//!
//! Neither tasks nor jobs know of pages, and they tell nobody of each step. So a thread looks at them twice a second, and
//! shows what has changed; it is there only as long as a page is open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::background::scope::Scope;
use crate::live::Live;
use crate::sync::lock;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);

/// What one page of an application shows to all who have it open.
pub(super) struct Watch<T> {
    live: Live<T>,
    look: fn(&Scope) -> T,
    /// Whose turn it is to look: an older look must not be shown after a newer one.
    turn: Mutex<()>,
    is_kept_up: AtomicBool,
}

impl<T: Clone + Default + PartialEq + Send + Sync + 'static> Watch<T> {
    /// Of what that look gives. It may block; it holds up nobody but those who have this page open.
    pub(super) fn new(look: fn(&Scope) -> T) -> Watch<T> {
        Watch { live: Live::new(T::default()), look, turn: Mutex::new(()), is_kept_up: AtomicBool::new(false) }
    }

    /// All as it is now, shown to all who watch when it is not what was shown before.
    pub(super) fn look(&self, scope: &Scope) -> &Live<T> {
        let _turn = lock(&self.turn);
        show(&self.live, (self.look)(scope));
        &self.live
    }

    /// Looks again and again from now on, as long as a page watches.
    pub(super) fn keep_up(self: &Arc<Watch<T>>, scope: Scope) {
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

/// Shows a page that watches one thing how it goes on. A look says too whether it was the last.
pub(super) fn follow<T>(live: Live<T>, look: impl Fn() -> (T, bool) + Send + 'static)
where
    T: Clone + PartialEq + Send + Sync + 'static,
{
    aside(move || {
        while live.watchers() > 0 && !live.is_finished() {
            thread::sleep(EVERY);
            let (now, is_last) = look();
            show(&live, now);
            if is_last {
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
pub(super) fn aside(work: impl FnOnce() + Send + 'static) -> bool {
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
        let watch = Watch::new(|_| 0);
        watch.is_kept_up.store(true, Ordering::Release);
        assert!(!watch.goes_on(&scope));
        assert!(!watch.is_kept_up.load(Ordering::Acquire));
    }
}
