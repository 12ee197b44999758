//! Updates of the panel's pages while a browser has them open.
//!
//! Tasks and jobs do not notify pages of their progress. So a thread polls them twice a second, and sends the changes;
//! it runs only while a page is open.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::background::scope::Scope;
use crate::live::Live;
use crate::sync::lock;

/// The interval between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The content of one page of an application, for all browsers that have it open.
pub(super) struct PolledPage<T> {
    live: Live<T>,
    read: fn(&Scope) -> T,
    /// Orders the polls: the result of an older poll must not replace that of a newer one.
    polling: Mutex<()>,
    is_polling: AtomicBool,
}

impl<T: Clone + Default + PartialEq + Send + Sync + 'static> PolledPage<T> {
    /// Creates a page with the content that `read` returns. `read` may block; it delays only this page.
    pub(super) fn new(read: fn(&Scope) -> T) -> PolledPage<T> {
        PolledPage { live: Live::new(T::default()), read, polling: Mutex::new(()), is_polling: AtomicBool::new(false) }
    }

    /// Polls, and sends the content to the watchers if it has changed.
    pub(super) fn refresh(&self, scope: &Scope) -> &Live<T> {
        let _polling = lock(&self.polling);
        show(&self.live, (self.read)(scope));
        &self.live
    }

    /// Starts to poll, while a page is open.
    pub(super) fn start_polling(self: &Arc<PolledPage<T>>, scope: Scope) {
        if self.is_polling.swap(true, Ordering::AcqRel) {
            return;
        }
        let polled_page = self.clone();
        if !spawn_thread(move || polled_page.run(&scope)) {
            self.is_polling.store(false, Ordering::Release);
        }
    }

    fn run(&self, scope: &Scope) {
        loop {
            thread::sleep(POLL_INTERVAL);
            if !self.is_needed(scope) {
                return;
            }
            self.refresh(scope);
        }
    }

    /// Returns true while a page is open. Checked twice: a page that was opened in between relied on this thread.
    fn is_needed(&self, scope: &Scope) -> bool {
        let is_watched = || self.live.watchers() > 0 && !scope.registry().is_closing();
        if is_watched() {
            return true;
        }
        self.is_polling.swap(false, Ordering::AcqRel);
        is_watched() && !self.is_polling.swap(true, Ordering::AcqRel)
    }
}

/// Updates a page about one record. `read` also returns true if this was the last update.
pub(super) fn follow<T>(live: Live<T>, read: impl Fn() -> (T, bool) + Send + 'static)
where
    T: Clone + PartialEq + Send + Sync + 'static,
{
    spawn_thread(move || {
        while live.watchers() > 0 && !live.is_finished() {
            thread::sleep(POLL_INTERVAL);
            let (now, is_last) = read();
            show(&live, now);
            if is_last {
                live.finish();
            }
        }
    });
}

/// Sends the value if it differs from the last one.
fn show<T: Clone + PartialEq>(live: &Live<T>, now: T) {
    if now != *live.get() {
        live.update(|shown| *shown = now);
    }
}

/// Starts a thread that is not a task, since a list of running tasks would contain it. Returns true if it has started.
pub(super) fn spawn_thread(work: impl FnOnce() + Send + 'static) -> bool {
    let spawned = thread::Builder::new().name("aside-panel".into()).spawn(work);
    let refused = spawned.err().inspect(|error| {
        log::warn!(target: "aside::panel", "Could not start the thread that updates the panel; its pages are not updated: {error}");
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
    fn a_thread_that_is_not_needed_ends_and_the_next_can_start() {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let polled_page = PolledPage::new(|_| 0);
        polled_page.is_polling.store(true, Ordering::Release);
        assert!(!polled_page.is_needed(&scope));
        assert!(!polled_page.is_polling.load(Ordering::Acquire));
    }
}
