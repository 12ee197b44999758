//! A value that is changed under a lock, and those who wait for the change.
//!
//! A change is made on a copy, and put in place when the lock is let go. Whoever reads holds no lock, and a change that ends
//! in a panic leaves the last good value. Those who watch are told that there is something newer, not what it was: who is
//! slow gets the latest value and none of those between.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use self::turn::{Held, Turn};
use crate::sync::lock;

mod turn;

/// The value, and who waits for it.
pub(crate) struct Watched<T> {
    /// Which of the watched values of this process it is.
    pub(crate) id: u64,
    /// Whose turn it is to change it.
    turn: Turn,
    now: Mutex<Now<T>>,
    /// The last version that somebody complained about.
    complained: AtomicU64,
    made: Mutex<Made>,
}

/// What is done for a watcher when there is something new. It must be quick.
pub(crate) type Call = Arc<dyn Fn() + Send + Sync>;

/// The texts that were made of a version, each by what it was made with.
#[derive(Default)]
struct Made {
    version: u64,
    texts: Vec<(Key, Arc<str>)>,
}

/// What a text is made with: one of the sets of templates in this process, and the name of one in it.
pub(crate) type Key = (u64, String);

struct Now<T> {
    /// How many values there were, this one with them.
    version: u64,
    value: Arc<T>,
    is_finished: bool,
    watchers: usize,
    /// Who wants to be called for the next one.
    calls: HashMap<u64, Call>,
    /// Since when nobody has watched it who did.
    left: Option<Instant>,
}

/// The value as a watcher sees it.
pub(crate) struct Seen<T> {
    pub(crate) version: u64,
    pub(crate) value: Arc<T>,
    /// Nothing comes after it.
    pub(crate) is_finished: bool,
}

/// A number for somebody to be called by.
pub(crate) fn caller() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

impl<T: Clone> Watched<T> {
    /// A value that nobody has changed yet.
    pub(crate) fn new(value: T) -> Watched<T> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Watched {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            turn: Turn::default(),
            now: Mutex::new(Now {
                version: 1,
                value: Arc::new(value),
                is_finished: false,
                watchers: 0,
                calls: HashMap::new(),
                left: None,
            }),
            complained: AtomicU64::new(0),
            made: Mutex::default(),
        }
    }

    /// The value as it is.
    pub(crate) fn get(&self) -> Arc<T> {
        lock(&self.now).value.clone()
    }

    /// The value with what is known of it.
    pub(crate) fn look(&self) -> Seen<T> {
        lock(&self.now).seen()
    }

    /// Changes it.
    #[track_caller]
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.lock())
    }

    /// A copy to change, and the right to put it in place.
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
        let mut now = lock(&self.now);
        let former = std::mem::replace(&mut now.value, value);
        now.version += 1;
        self.tell(now);
        drop(former);
    }

    /// Says that no change comes any more.
    pub(crate) fn finish(&self) {
        let mut now = lock(&self.now);
        now.is_finished = true;
        self.tell(now);
    }

    /// Calls all who want to be, once.
    fn tell(&self, mut now: MutexGuard<'_, Now<T>>) {
        let calls = std::mem::take(&mut now.calls);
        drop(now);
        calls.values().for_each(|call| call());
    }

    /// Has somebody called once for a newer value than that version, or for the end; here and now when one is there. By a
    /// number of his own, so that a second call takes the place of the first.
    pub(crate) fn call_when_new(&self, caller: u64, known: u64, call: Call) {
        let mut now = lock(&self.now);
        if now.version == known && !now.is_finished {
            now.calls.insert(caller, call);
            return;
        }
        drop(now);
        call();
    }

    /// A text of that version, made once for all who want to show it. Who comes while it is being made waits for it.
    pub(crate) fn make_once<E>(
        &self,
        version: u64,
        key: &Key,
        make: impl FnOnce() -> Result<String, E>,
    ) -> Result<Arc<str>, E> {
        let mut made = lock(&self.made);
        if made.version < version {
            *made = Made { version, texts: Vec::new() };
        }
        let found = made.texts.iter().find(|(other, _)| made.version == version && other == key);
        if let Some((_, text)) = found {
            return Ok(text.clone());
        }
        let text: Arc<str> = make()?.into();
        if made.version == version {
            made.texts.push((key.clone(), text.clone()));
        }
        Ok(text)
    }

    /// Whether this is the first complaint about that version.
    pub(crate) fn is_first_complaint(&self, version: u64) -> bool {
        self.complained.fetch_max(version, Ordering::Relaxed) < version
    }
}

impl<T> Watched<T> {
    /// How many watch it now.
    pub(crate) fn watchers(&self) -> usize {
        lock(&self.now).watchers
    }

    /// Since when nobody has watched it any more; none while somebody does, and when nobody ever did.
    pub(crate) fn left_since(&self) -> Option<Instant> {
        lock(&self.now).left
    }

    /// Somebody begins to watch, whose number is this.
    pub(crate) fn enter(&self) -> u64 {
        let mut now = lock(&self.now);
        now.watchers += 1;
        now.left = None;
        drop(now);
        caller()
    }

    /// Somebody who watched has left.
    pub(crate) fn leave(&self, watcher: u64) {
        let mut now = lock(&self.now);
        let call = now.calls.remove(&watcher);
        now.watchers -= 1;
        now.left = (now.watchers == 0).then(Instant::now);
        drop(now);
        // What it holds may have a drop of its own.
        drop(call);
    }
}

impl<T> Now<T> {
    fn seen(&self) -> Seen<T> {
        Seen { version: self.version, value: self.value.clone(), is_finished: self.is_finished }
    }
}

/// The right to change a [`Live`](crate::Live) state, until it goes.
pub struct LiveGuard<'l, T: Clone> {
    watched: &'l Watched<T>,
    /// There until the guard goes.
    value: Option<T>,
    /// It was made on the way out of a panic, and is no part of what panicked.
    was_panicking: bool,
    /// None for a change inside another change of the same state, on the way out of its panic: it is lost with that one.
    turn: Option<Held<'l>>,
}

impl<T: Clone> Deref for LiveGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("the state is there until the guard goes")
    }
}

impl<T: Clone> DerefMut for LiveGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("the state is there until the guard goes")
    }
}

impl<T: Clone> Drop for LiveGuard<'_, T> {
    fn drop(&mut self) {
        match self.value.take() {
            Some(_) if thread::panicking() && !self.was_panicking => {
                log::error!(target: "aside::live", "A change panicked; the state is as it was before it.");
            }
            Some(_) if self.turn.is_none() => {
                log::error!(target: "aside::live", "A destructor changed a state inside a change of that state that panicked; both changes are lost.");
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
    fn who_watches_is_called_once_for_what_is_new_and_for_the_end() {
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
        assert_eq!(call_after(1), 2, "there is something new already");
        let seen = watched.look();
        assert_eq!((seen.version, *seen.value, seen.is_finished), (4, 3, false));
        assert_eq!(call_after(4), 2);
        watched.finish();
        assert_eq!((calls.load(Ordering::Relaxed), watched.look().is_finished), (3, true));
        assert_eq!(call_after(4), 4, "nothing comes after it");
    }

    #[test]
    fn who_has_left_is_called_no_more() {
        let watched = Watched::new(0);
        let (watcher, held) = (watched.enter(), Arc::new(()));
        let theirs = held.clone();
        watched.call_when_new(watcher, 1, Arc::new(move || panic!("called: {theirs:?}")));
        watched.leave(watcher);
        assert_eq!(Arc::strong_count(&held), 1);
        watched.update(|value| *value = 1);
    }

    #[test]
    fn a_change_on_the_way_out_of_a_panic_is_a_change() {
        struct Last(Arc<Watched<&'static str>>);
        impl Drop for Last {
            fn drop(&mut self) {
                self.0.update(|words| *words = "it panicked");
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
    fn a_change_inside_a_change_of_the_same_state_panics_and_others_go_on() {
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
    fn of_two_threads_that_wait_for_each_other_one_panics_and_the_other_goes_on() {
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
            assert_eq!(states.map(|state| *state.get()), [1, 1], "the one that goes on has changed both");
        }
    }

    #[test]
    fn a_destructor_that_changes_the_state_of_a_change_that_panics_aborts_nothing() {
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
    fn a_text_is_made_once_for_each_version_and_key() {
        let watched = Watched::new(());
        let made = std::cell::Cell::new(0);
        let text = |version, key: &str| {
            let make = || {
                made.set(made.get() + 1);
                Ok::<_, ()>(format!("{version} {key} {}", made.get()))
            };
            watched.make_once(version, &(1, key.to_owned()), make).unwrap().to_string()
        };
        assert_eq!([text(1, "a"), text(1, "a"), text(1, "b")], ["1 a 1", "1 a 1", "1 b 2"]);
        assert_eq!([text(2, "a"), text(1, "a"), text(2, "a")], ["2 a 3", "1 a 4", "2 a 3"]);
        assert_eq!(watched.make_once(3, &(1, "c".into()), || Err("no")), Err("no"));
        assert_eq!(watched.make_once(3, &(1, "c".into()), || Ok::<_, ()>("yes".into())).unwrap().as_ref(), "yes");
    }

    #[test]
    fn it_is_known_since_when_nobody_watches_any_more() {
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
