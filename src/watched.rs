//! A value that is changed under a lock, and those who wait for the change.
//!
//! A change is made on a copy, and put in place when the lock is let go. Whoever reads holds no lock, and a change that ends
//! in a panic leaves the last good value. Those who wait are told that there is something newer, not what it was: who is
//! slow gets the latest value and none of those between.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::sync::{lock, wait_while_for};

/// The value, and who waits for it.
pub(crate) struct Watched<T> {
    /// Which of the watched values of this process it is.
    pub(crate) id: u64,
    /// Whose turn it is to change it.
    turn: Mutex<()>,
    now: Mutex<Now<T>>,
    changed: Condvar,
    /// The last version that somebody complained about.
    complained: AtomicU64,
    made: Mutex<Made>,
}

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
    /// How many wait for the next one. Telling them is a call to the system, which is left out when there are none.
    waiting: usize,
    watchers: usize,
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

impl<T: Clone> Watched<T> {
    /// A value that nobody has changed yet.
    pub(crate) fn new(value: T) -> Watched<T> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        Watched {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            turn: Mutex::new(()),
            now: Mutex::new(Now {
                version: 1,
                value: Arc::new(value),
                is_finished: false,
                waiting: 0,
                watchers: 0,
                left: None,
            }),
            changed: Condvar::new(),
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
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        change(&mut self.lock())
    }

    /// A copy to change, and the right to put it in place.
    pub(crate) fn lock(&self) -> LiveGuard<'_, T> {
        let turn = lock(&self.turn);
        let was_panicking = thread::panicking();
        LiveGuard { watched: self, value: Some(T::clone(&self.get())), was_panicking, _turn: turn }
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

    /// Lets everybody who waits look around.
    pub(crate) fn wake(&self) {
        self.tell(lock(&self.now));
    }

    fn tell(&self, now: MutexGuard<'_, Now<T>>) {
        let someone_waits = now.waiting > 0;
        drop(now);
        if someone_waits {
            self.changed.notify_all();
        }
    }

    /// Waits for a newer value than that version, or for the end: none when neither came in that time, or `give_up` said so.
    pub(crate) fn wait(&self, known: u64, time: Duration, give_up: impl Fn() -> bool) -> Option<Seen<T>> {
        let is_news = |now: &Now<T>| now.version != known || now.is_finished;
        let mut now = lock(&self.now);
        now.waiting += 1;
        let mut now = wait_while_for(&self.changed, now, time, |now| !is_news(now) && !give_up());
        now.waiting -= 1;
        is_news(&now).then(|| now.seen())
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

    /// Somebody begins to watch.
    pub(crate) fn enter(&self) {
        let mut now = lock(&self.now);
        now.watchers += 1;
        now.left = None;
    }

    /// Somebody who watched has left.
    pub(crate) fn leave(&self) {
        let mut now = lock(&self.now);
        now.watchers -= 1;
        now.left = (now.watchers == 0).then(Instant::now);
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
    _turn: MutexGuard<'l, ()>,
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
            Some(value) => self.watched.publish(value),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn who_waits_gets_the_latest_value_and_the_end() {
        let watched = Watched::new(0);
        assert!(watched.wait(1, Duration::ZERO, || false).is_none());
        (1..=3).for_each(|number| watched.update(|value| *value = number));
        let seen = watched.wait(1, SOON, || false).unwrap();
        assert_eq!((seen.version, *seen.value, seen.is_finished), (4, 3, false));
        watched.finish();
        let seen = watched.wait(4, SOON, || false).unwrap();
        assert_eq!((seen.version, seen.is_finished), (4, true));
    }

    /// What somebody comes back with who would wait for an hour, once he waits and that was done.
    fn waiting_while(watched: &Arc<Watched<u32>>, done: &Arc<AtomicBool>, act: impl FnOnce()) -> Option<u32> {
        let (tell, told) = mpsc::channel();
        let (theirs, done) = (watched.clone(), done.clone());
        let known = watched.look().version;
        thread::spawn(move || {
            let seen = theirs.wait(known, Duration::from_secs(3_600), || done.load(Ordering::Relaxed));
            tell.send(seen.map(|seen| *seen.value))
        });
        while lock(&watched.now).waiting == 0 {
            thread::yield_now();
        }
        act();
        told.recv_timeout(SOON).expect("who waits is told at once")
    }

    #[test]
    fn a_wait_is_told_at_once_and_ends_when_it_shall() {
        let (watched, done) = (Arc::new(Watched::new(0)), Arc::default());
        assert_eq!(waiting_while(&watched, &done, || watched.update(|value| *value = 7)), Some(7));
        let give_up = || {
            done.store(true, Ordering::Relaxed);
            watched.wake();
        };
        assert_eq!(waiting_while(&watched, &done, give_up), None);
        done.store(false, Ordering::Relaxed);
        assert_eq!(waiting_while(&watched, &done, || watched.finish()), Some(7));
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
        watched.enter();
        watched.enter();
        watched.leave();
        assert_eq!((watched.watchers(), watched.left_since()), (1, None));
        watched.leave();
        assert!(watched.left_since().is_some());
        watched.enter();
        assert!(watched.left_since().is_none());
    }
}
