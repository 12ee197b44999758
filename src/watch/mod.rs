//! A value that threads change and watch.
//!
//! A change is made on a copy, and published when the lock is released. A reader holds no lock, and a change that panics
//! leaves the last valid value. Watchers are notified that there is a newer value. A slow watcher gets the latest value and
//! none of those in between.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use self::turn::{Held, Turn};
use crate::sync::lock;

mod turn;

/// A value with its watchers.
pub(crate) struct Watched<T> {
    /// The id of this value, unique in the process.
    pub(crate) id: u64,
    /// The lock for changes.
    turn: Turn,
    state: Mutex<State<T>>,
    /// The last version for which an error was logged.
    error_logged: AtomicU64,
    rendered: Mutex<Rendered>,
}

/// The callback of a watcher, called when there is a newer value. It must be quick.
pub(crate) type Call = Arc<dyn Fn() + Send + Sync>;

/// The texts that were rendered from one version, each with its key.
#[derive(Default)]
struct Rendered {
    version: u64,
    texts: Vec<(Key, Arc<str>)>,
}

/// The key of a rendered text: the id of a set of templates in this process, and the name of a template in it.
pub(crate) type Key = (u64, String);

struct State<T> {
    /// The number of values so far, including this one.
    version: u64,
    value: Arc<T>,
    is_finished: bool,
    watchers: usize,
    /// The callbacks for the next change, by watcher.
    calls: HashMap<u64, Call>,
    /// The time at which the last watcher left, while there is none.
    left: Option<Instant>,
}

/// A snapshot of the value for a watcher.
pub(crate) struct Seen<T> {
    pub(crate) version: u64,
    pub(crate) value: Arc<T>,
    /// No change follows.
    pub(crate) is_finished: bool,
}

/// Returns a new id for a watcher.
pub(crate) fn watcher_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

impl<T: Clone> Watched<T> {
    /// Creates a watched value.
    pub(crate) fn new(value: T) -> Watched<T> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Watched {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            turn: Turn::default(),
            state: Mutex::new(State {
                version: 1,
                value: Arc::new(value),
                is_finished: false,
                watchers: 0,
                calls: HashMap::new(),
                left: None,
            }),
            error_logged: AtomicU64::new(0),
            rendered: Mutex::default(),
        }
    }

    /// Returns the current value.
    pub(crate) fn get(&self) -> Arc<T> {
        lock(&self.state).value.clone()
    }

    /// Returns the current value with its version.
    pub(crate) fn look(&self) -> Seen<T> {
        lock(&self.state).seen()
    }

    /// Changes the value.
    #[track_caller]
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.lock())
    }

    /// Takes the lock for changes, and returns a guard with a copy that is published when the guard is dropped.
    #[track_caller]
    pub(crate) fn lock(&self) -> LiveGuard<'_, T> {
        let was_panicking = thread::panicking();
        let turn = match self.turn.take() {
            Ok(turn) => Some(turn),
            // A second panic would abort the process.
            Err(_) if was_panicking => None,
            Err(deadlock) => panic!("{deadlock}"),
        };
        LiveGuard { watched: self, value: Some(T::clone(&self.get())), was_panicking, turn }
    }

    fn publish(&self, value: T) {
        let value = Arc::new(value);
        let mut state = lock(&self.state);
        let former = std::mem::replace(&mut state.value, value);
        state.version += 1;
        self.notify(state);
        drop(former);
    }

    /// Records that no change follows, and notifies the watchers.
    pub(crate) fn finish(&self) {
        let mut state = lock(&self.state);
        state.is_finished = true;
        self.notify(state);
    }

    /// Calls the registered callbacks, and removes them.
    fn notify(&self, mut state: MutexGuard<'_, State<T>>) {
        let calls = std::mem::take(&mut state.calls);
        drop(state);
        calls.values().for_each(|call| call());
    }

    /// Calls `call` once when there is a newer value than the version `known`, or when no change follows; at once if that is so
    /// already. A second callback with the same number replaces the first.
    pub(crate) fn call_when_new(&self, watcher: u64, known: u64, call: Call) {
        let mut state = lock(&self.state);
        if state.version == known && !state.is_finished {
            state.calls.insert(watcher, call);
            return;
        }
        drop(state);
        call();
    }

    /// Returns the text that `make` renders from a version, rendered once for all watchers. A thread that asks for it during
    /// the rendering waits.
    pub(crate) fn render_once<E>(
        &self,
        version: u64,
        key: &Key,
        make: impl FnOnce() -> Result<String, E>,
    ) -> Result<Arc<str>, E> {
        let mut rendered = lock(&self.rendered);
        if rendered.version < version {
            *rendered = Rendered { version, texts: Vec::new() };
        }
        let found = rendered.texts.iter().find(|(other, _)| rendered.version == version && other == key);
        if let Some((_, text)) = found {
            return Ok(text.clone());
        }
        let text: Arc<str> = make()?.into();
        if rendered.version == version {
            rendered.texts.push((key.clone(), text.clone()));
        }
        Ok(text)
    }

    /// Returns true if no error was logged for this version or a later one before.
    pub(crate) fn is_first_error(&self, version: u64) -> bool {
        self.error_logged.fetch_max(version, Ordering::Relaxed) < version
    }
}

impl<T> Watched<T> {
    /// Returns the number of watchers.
    pub(crate) fn watchers(&self) -> usize {
        lock(&self.state).watchers
    }

    /// Returns the time at which the last watcher left. `None` while there are watchers, and if there never was one.
    pub(crate) fn left_since(&self) -> Option<Instant> {
        lock(&self.state).left
    }

    /// Adds a watcher and returns its number.
    pub(crate) fn enter(&self) -> u64 {
        let mut state = lock(&self.state);
        state.watchers += 1;
        state.left = None;
        drop(state);
        watcher_id()
    }

    /// Removes a watcher and its callback.
    pub(crate) fn leave(&self, watcher: u64) {
        let mut state = lock(&self.state);
        let call = state.calls.remove(&watcher);
        state.watchers -= 1;
        state.left = (state.watchers == 0).then(Instant::now);
        drop(state);
        // Dropped after the lock is released: a value in the callback may have a `Drop` that uses this value.
        drop(call);
    }
}

impl<T> State<T> {
    fn seen(&self) -> Seen<T> {
        Seen { version: self.version, value: self.value.clone(), is_finished: self.is_finished }
    }
}

/// A lock on a [`Live`](crate::Live) state with a copy to change. The change is published when the guard is dropped.
pub struct LiveGuard<'l, T: Clone> {
    watched: &'l Watched<T>,
    /// `Some` until the guard is dropped.
    value: Option<T>,
    /// The guard was created while the thread unwound from a panic, so the change is not part of the work that panicked.
    was_panicking: bool,
    /// `None` for a change inside another change of the same state that panics: both changes are lost.
    turn: Option<Held<'l>>,
}

impl<T: Clone> Deref for LiveGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("the state is present until the guard is dropped")
    }
}

impl<T: Clone> DerefMut for LiveGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("the state is present until the guard is dropped")
    }
}

impl<T: Clone> Drop for LiveGuard<'_, T> {
    fn drop(&mut self) {
        match self.value.take() {
            Some(_) if thread::panicking() && !self.was_panicking => {
                log::error!(target: "aside::live", "A change of a Live state panicked; the state is unchanged.");
            }
            Some(_) if self.turn.is_none() => {
                log::error!(target: "aside::live", "A destructor changed a Live state inside a change of the same state that panicked; both changes are lost.");
            }
            Some(value) => self.watched.publish(value),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_is_called_once_for_a_change_and_for_the_end() {
        let watched = Watched::new(0);
        let watcher = watched.enter();
        let calls = Arc::new(AtomicU64::new(0));
        let call_after = |known| {
            let theirs = calls.clone();
            watched.call_when_new(watcher, known, Arc::new(move || _ = theirs.fetch_add(1, Ordering::Relaxed)));
            calls.load(Ordering::Relaxed)
        };
        assert_eq!(call_after(1), 0);
        (1..=3).for_each(|number| watched.update(|value| *value = number));
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        assert_eq!(call_after(1), 2, "there is a newer value already");
        let seen = watched.look();
        assert_eq!((seen.version, *seen.value, seen.is_finished), (4, 3, false));
        assert_eq!(call_after(4), 2);
        watched.finish();
        assert_eq!((calls.load(Ordering::Relaxed), watched.look().is_finished), (3, true));
        assert_eq!(call_after(4), 4, "no change follows");
    }

    #[test]
    fn a_watcher_that_left_is_not_called() {
        let watched = Watched::new(0);
        let (watcher, held) = (watched.enter(), Arc::new(()));
        let theirs = held.clone();
        watched.call_when_new(watcher, 1, Arc::new(move || panic!("called: {theirs:?}")));
        watched.leave(watcher);
        assert_eq!(Arc::strong_count(&held), 1);
        watched.update(|value| *value = 1);
    }

    #[test]
    fn a_change_by_a_destructor_during_a_panic_is_published() {
        struct Last(Arc<Watched<&'static str>>);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.update(|message| *message = "it panicked");
            }
        }
        let watched = Arc::new(Watched::new("under way"));
        let last = Last(watched.clone());
        thread::spawn(move || {
            let _last = last;
            std::panic::resume_unwind(Box::new(()));
        })
        .join()
        .unwrap_err();
        assert_eq!(*watched.get(), "it panicked");
    }

    fn panic_message(result: thread::Result<()>) -> String {
        result.unwrap_err().downcast::<String>().map_or_else(|_| "another panic".into(), |message| *message)
    }

    /// Regression: the thread waited for itself, and the process could not shut down.
    #[test]
    fn a_change_inside_a_change_of_the_same_state_panics_and_other_threads_continue() {
        let watched = Arc::new(Watched::new(1));
        let (inner, guarded) = (watched.clone(), watched.clone());
        let nested = thread::spawn(move || {
            inner.update(|value| {
                *value = 2;
                inner.update(|value| *value = 3);
            });
        });
        assert!(panic_message(nested.join()).contains("this thread is changing this `Live` state already"));
        assert_eq!(*watched.get(), 1, "both changes are lost");
        let with_guards = thread::spawn(move || {
            let _guard = guarded.lock();
            guarded.lock();
        });
        assert!(panic_message(with_guards.join()).contains("already"));
        watched.update(|value| *value += 10);
        let theirs = watched.clone();
        thread::spawn(move || theirs.update(|value| *value += 100)).join().unwrap();
        assert_eq!(*watched.get(), 111);
    }

    #[test]
    fn a_change_inside_a_change_of_another_state_is_made() {
        let (one, other) = (Watched::new(1), Watched::new(1));
        one.update(|one| {
            *one = 2;
            other.update(|other| *other = *one + 1);
        });
        let mut guard = one.lock();
        other.update(|other| *guard += *other);
        drop(guard);
        assert_eq!((*one.get(), *other.get()), (5, 3));
    }

    #[test]
    fn of_two_threads_that_wait_for_each_other_one_panics_and_the_other_continues() {
        for _ in 0..50 {
            let states = [Arc::new(Watched::new(0)), Arc::new(Watched::new(0))];
            let both_hold = Arc::new(std::sync::Barrier::new(2));
            let threads = [0, 1].map(|first| {
                let ([one, other], both_hold) = ([states[first].clone(), states[1 - first].clone()], both_hold.clone());
                thread::spawn(move || {
                    one.update(|one| {
                        both_hold.wait();
                        *one += 1;
                        other.update(|other| *other += 1);
                    });
                })
            });
            let (fine, refused): (Vec<_>, Vec<_>) =
                threads.into_iter().map(|thread| thread.join()).partition(Result::is_ok);
            assert_eq!((fine.len(), refused.len()), (1, 1));
            assert!(refused.into_iter().all(|panic| panic_message(panic).contains("both would wait forever")));
            assert_eq!(states.map(|state| *state.get()), [1, 1], "the thread that continues has changed both");
        }
    }

    #[test]
    fn a_destructor_that_changes_a_state_whose_change_panics_does_not_abort() {
        struct Last(Arc<Watched<u32>>);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.update(|value| *value = 7);
            }
        }
        let watched = Arc::new(Watched::new(1));
        let theirs = watched.clone();
        let change = move || {
            theirs.update(|value| {
                let _last = Last(theirs.clone());
                *value = 2;
                std::panic::resume_unwind(Box::new(String::from("in the change")));
            });
        };
        assert_eq!(panic_message(thread::spawn(change).join()), "in the change");
        assert_eq!(*watched.get(), 1);
        watched.update(|value| *value += 1);
        assert_eq!(*watched.get(), 2);
    }

    #[test]
    fn a_text_is_rendered_once_for_each_version_and_key() {
        let watched = Watched::new(());
        let made = std::cell::Cell::new(0);
        let text = |version, key: &str| {
            let make = || {
                made.set(made.get() + 1);
                Ok::<_, ()>(format!("{version} {key} {}", made.get()))
            };
            watched.render_once(version, &(1, key.to_owned()), make).unwrap().to_string()
        };
        assert_eq!([text(1, "a"), text(1, "a"), text(1, "b")], ["1 a 1", "1 a 1", "1 b 2"]);
        assert_eq!([text(2, "a"), text(1, "a"), text(2, "a")], ["2 a 3", "1 a 4", "2 a 3"]);
        assert_eq!(watched.render_once(3, &(1, "c".into()), || Err("no")), Err("no"));
        assert_eq!(watched.render_once(3, &(1, "c".into()), || Ok::<_, ()>("yes".into())).unwrap().as_ref(), "yes");
    }

    #[test]
    fn the_time_at_which_the_last_watcher_left_is_known() {
        let watched = Watched::new(());
        assert_eq!((watched.watchers(), watched.left_since()), (0, None));
        let [one, other] = [watched.enter(), watched.enter()];
        watched.leave(one);
        assert_eq!((watched.watchers(), watched.left_since()), (1, None));
        watched.leave(other);
        assert!(watched.left_since().is_some());
        watched.enter();
        assert!(watched.left_since().is_none());
    }
}
