//! What every engine does alike: one suite over all of them.
//!
//! An engine's tests name this module and call [`conformance!`] with the engine's name and what makes a [`Bench`]; each case
//! then is a test of its own:
//!
//! ```ignore
//! use crate::jobs::conformance;
//! conformance::conformance!(memory, || Ok(MemoryBench::new()));
//! ```
//!
//! Where engines differ, a case asks for the [`Abilities`](super::engine::Abilities) and expects the other thing; it never
//! leaves something out. All times are made up. What takes time (a lease, a bell from elsewhere) is looked for in a loop.

// A case that is missing in the list below is one that nobody runs.
#![warn(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::engine::{
    Beat, Bell, Claimed, End, Engine, Enqueued, Entry, Held, Keep, MOST_FAILURES, MOST_INTERRUPTIONS, PRIORITY_STEP,
    Room, When, WorkerId,
};
use super::record::{JobCounts, JobInfo, JobState, Millis, QueueInfo};

/// Makes a module of tests, one for each case.
///
/// What makes the bench is called for each case. Where it cannot (a server that is not installed), it says why:
/// `Err("no redis-server".to_owned())`; the reason is printed, and the case counts as passed.
macro_rules! conformance {
    ($engine:ident, $bench:expr) => {
        conformance::conformance! { @each $engine, $bench, [
            ids_rise,
            first_in_first_out,
            priority_counts_as_time,
            nothing_starves,
            the_most_and_the_least_urgent,
            rooms_are_respected,
            many_queues,
            a_claim_has_all_that_was_enqueued,
            tries_are_counted,
            a_stale_token_changes_nothing,
            a_try_ends_once,
            done_is_done,
            a_retry_waits_for_its_time,
            what_is_released_is_first_again,
            dead_with_its_last_failures,
            cancelled_with_and_without_words,
            cancel_in_every_state,
            a_beat_tells_what_to_cancel,
            a_cancellation_is_not_lost,
            revive_in_every_state,
            revived_begins_anew,
            revived_waits_from_then_on,
            revive_not_while_another_has_the_key,
            discard_in_every_state,
            a_paused_queue_begins_nothing,
            unique_while_it_is_not_finished,
            unique_by_name_and_key,
            unique_within_one_call,
            unique_in_a_race,
            all_or_none_are_seen,
            now_whatever_the_clock_says,
            at_a_time_and_after_a_while,
            longer_than_the_clock_counts,
            a_clock_that_went_back,
            due_is_due_in_all_queues,
        ] }
    };
    (@each $engine:ident, $bench:expr, [$($case:ident,)*]) => {
        mod $engine {
            use super::*;
            $(
                #[test]
                fn $case() {
                    conformance::run($bench, conformance::$case);
                }
            )*
        }
    };
}
pub(crate) use conformance;

/// A store of its own for one case.
pub(crate) trait Bench {
    /// The first handle on the store, which is empty. Called once.
    fn engine(&self) -> Arc<dyn Engine>;

    /// One more handle on the same store, as another process would have it.
    fn another(&self) -> Arc<dyn Engine>;

    /// The handle of a process that begins when all others have ended.
    fn restarted(&self) -> Arc<dyn Engine> {
        self.another()
    }
}

/// Runs one case, or says why not.
pub(crate) fn run<B: Bench>(bench: impl FnOnce() -> Result<B, String>, case: fn(&dyn Bench)) {
    match bench() {
        Ok(bench) => case(&bench),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

/// A time of the wall clock, in May 2033.
const T: Millis = 2_000_000_000_000;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lease that is over soon.
const SHORT: Duration = Duration::from_millis(5);

/// A lease that is not over while a test runs.
const LONG: Duration = Duration::from_secs(3600);

const YEAR: Millis = 365 * 24 * 3_600_000;

const QUEUE: &str = "default";

/// One process: its handle of the engine and its worker.
struct Process {
    engine: Arc<dyn Engine>,
    worker: WorkerId,
}

impl Deref for Process {
    type Target = dyn Engine;

    fn deref(&self) -> &Self::Target {
        &*self.engine
    }
}

impl Process {
    fn new(engine: Arc<dyn Engine>) -> Process {
        let worker = engine.join().unwrap();
        Process { engine, worker }
    }

    fn of(bench: &dyn Bench) -> Process {
        Process::new(bench.engine())
    }

    /// Two that work on the same.
    fn two(bench: &dyn Bench) -> (Process, Process) {
        (Process::of(bench), Process::new(bench.another()))
    }

    fn add(&self, entry: Entry, now: Millis) -> u64 {
        self.try_add(entry, now).id
    }

    fn try_add(&self, entry: Entry, now: Millis) -> Enqueued {
        let enqueued = self.enqueue(vec![entry], now).unwrap();
        assert_eq!(enqueued.len(), 1);
        enqueued[0]
    }

    fn take(&self, most: usize, now: Millis) -> Vec<Claimed> {
        self.claim(&self.worker, &[room(QUEUE, most)], now).unwrap()
    }

    /// The only one that can be claimed, where there must be one.
    fn take_one(&self, now: Millis) -> Claimed {
        self.take(1, now).pop().expect("there is a job to claim")
    }

    /// All that can be claimed, one by one.
    fn take_all(&self, now: Millis) -> Vec<u64> {
        std::iter::from_fn(|| self.take(1, now).pop()).map(|claimed| claimed.id).collect()
    }

    fn finish(&self, claimed: &Claimed, end: End, now: Millis) {
        assert!(self.settle(claimed.id, claimed.token, end, now).unwrap());
    }

    fn info(&self, id: u64) -> JobInfo {
        self.find(id).unwrap().expect("the job is there")
    }

    fn state(&self, id: u64) -> JobState {
        self.info(id).state
    }

    fn beats(&self, held: &[Held]) -> Beat {
        self.beat(&self.worker, held, T).unwrap()
    }

    fn leaves(&self, now: Millis) {
        self.leave(&self.worker, now).unwrap();
    }

    /// A job that has come into that state, alone in its queue.
    fn job_in(&self, state: JobState, now: Millis) -> u64 {
        let when = if state == JobState::Scheduled { When::After(YEAR) } else { When::Now };
        let id = self.add(Entry { when, ..entry() }, now);
        if state == JobState::Cancelled {
            self.cancel(id, now).unwrap();
        } else if !matches!(state, JobState::Waiting | JobState::Scheduled) {
            let claimed = self.take_one(now);
            assert_eq!(claimed.id, id);
            match state {
                JobState::Done => self.finish(&claimed, End::Done, now),
                JobState::Dead => self.finish(&claimed, dead("broken"), now),
                _ => {}
            }
        }
        assert_eq!(self.state(id), state);
        id
    }
}

fn entry() -> Entry {
    Entry {
        name: "resize-photo".to_owned(),
        label: "resize photo 7".to_owned(),
        payload: r#"{"id":7}"#.to_owned(),
        queue: QUEUE.to_owned(),
        priority: 0,
        unique: None,
        when: When::Now,
        origin: None,
    }
}

fn urgent(priority: i32) -> Entry {
    Entry { priority, ..entry() }
}

fn unique(key: &str) -> Entry {
    Entry { unique: Some(key.to_owned()), ..entry() }
}

fn timed(when: When) -> Entry {
    Entry { when, ..entry() }
}

fn of_queue(queue: &str) -> Entry {
    Entry { queue: queue.to_owned(), ..entry() }
}

fn room(queue: &str, free: usize) -> Room {
    Room { queue: queue.to_owned(), free }
}

fn retry(wait: Millis) -> End {
    End::Retry { wait, words: "connection refused".to_owned() }
}

fn dead(words: &str) -> End {
    End::Dead { words: words.to_owned() }
}

fn cancelled(words: Option<&str>) -> End {
    End::Cancelled { words: words.map(str::to_owned) }
}

fn every_end() -> Vec<End> {
    vec![End::Done, retry(5), dead("broken"), cancelled(None), cancelled(Some("told to")), End::Released]
}

fn held(claimed: &Claimed) -> Held {
    Held { id: claimed.id, token: claimed.token, progress: None }
}

fn ids(claimed: &[Claimed]) -> Vec<u64> {
    claimed.iter().map(|claimed| claimed.id).collect()
}

/// Asks again and again until there is an answer.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "it has not happened within {PATIENCE:?}");
        thread::yield_now();
    }
}

/// Eight threads on each handle, all at once.
fn race<T: Send>(handles: [&dyn Engine; 2], f: impl Fn(&dyn Engine, &Barrier) -> T + Sync) -> Vec<T> {
    const EACH: usize = 8;
    let barrier = Barrier::new(handles.len() * EACH);
    let (f, barrier) = (&f, &barrier);
    thread::scope(|scope| {
        let start = |handle| (0..EACH).map(move |_| scope.spawn(move || f(handle, barrier)));
        let threads: Vec<_> = handles.into_iter().flat_map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

// Order.

pub(crate) fn ids_rise(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let first = one.add(entry(), T);
    let second = other.add(entry(), T);
    let rest = one.enqueue(vec![entry(), entry()], T).unwrap();
    assert!(first < second && second < rest[0].id && rest[0].id < rest[1].id);
    // A number that has been given is never given again.
    assert!(one.discard(rest[1].id).unwrap());
    assert!(one.add(entry(), T) > rest[1].id);
}

pub(crate) fn first_in_first_out(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let mut all: Vec<u64> = (0..5).map(|i| one.add(entry(), T + i)).collect();
    // At one time: by their ids.
    all.extend(other.enqueue(vec![entry(); 12], T + 9).unwrap().iter().map(|new| new.id));
    assert_eq!(ids(&other.take(7, T + 10)), all[..7]);
    assert_eq!(one.take_all(T + 10), all[7..]);
}

pub(crate) fn priority_counts_as_time(bench: &dyn Bench) {
    let process = Process::of(bench);
    let plain = process.add(entry(), T);
    let just_before = process.add(urgent(1), T + PRIORITY_STEP - 1);
    let equal = process.add(urgent(1), T + PRIORITY_STEP);
    let just_after = process.add(urgent(2), T + 2 * PRIORITY_STEP + 1);
    let can_wait = process.add(urgent(-3), T);
    let before_that = process.add(entry(), T + 3 * PRIORITY_STEP - 1);
    let order = process.take_all(T + 4 * PRIORITY_STEP);
    assert_eq!(order, [just_before, plain, equal, just_after, before_that, can_wait]);
}

pub(crate) fn nothing_starves(bench: &dyn Bench) {
    let process = Process::of(bench);
    let patient = process.add(urgent(-5), T);
    // Two that are urgent come for each one that is begun.
    let rounds = (0..30).map(|minute| {
        let now = T + minute * PRIORITY_STEP;
        process.enqueue(vec![urgent(5), urgent(5)], now).unwrap();
        process.take_one(now).id
    });
    let begun: Vec<u64> = rounds.collect();
    // Before it go the twenty of the first ten minutes, but not the ones that come then.
    assert_eq!(begun.iter().position(|id| *id == patient), Some(20), "{begun:?}");
}

pub(crate) fn the_most_and_the_least_urgent(bench: &dyn Bench) {
    let process = Process::of(bench);
    let last = process.add(urgent(i32::MIN), T);
    let middle = process.add(entry(), T + YEAR);
    let first = process.add(urgent(i32::MAX), T + 2 * YEAR);
    assert_eq!(process.take_all(T + 2 * YEAR), [first, middle, last]);
    assert_eq!([first, last].map(|id| process.info(id).priority), [i32::MAX, i32::MIN]);
}

// Claims.

pub(crate) fn rooms_are_respected(bench: &dyn Bench) {
    let process = Process::of(bench);
    for queue in ["a", "b", "c"] {
        process.enqueue(vec![of_queue(queue); 5], T).unwrap();
    }
    let claim = |rooms: &[Room]| {
        let mut of = BTreeMap::new();
        for claimed in process.claim(&process.worker, rooms, T).unwrap() {
            *of.entry(claimed.queue).or_insert(0) += 1;
        }
        of.into_iter().collect::<Vec<(String, i32)>>()
    };
    assert_eq!(claim(&[]), []);
    assert_eq!(claim(&[room("a", 2), room("b", 0), room("nothing in it", 9)]), [("a".to_owned(), 2)]);
    assert_eq!(claim(&[room("a", 10), room("b", 1)]), [("a".to_owned(), 3), ("b".to_owned(), 1)]);
    assert_eq!(claim(&[room("a", 10), room("b", 10)]), [("b".to_owned(), 4)]);
    assert_eq!(process.counts().unwrap().waiting, 5);
}

pub(crate) fn many_queues(bench: &dyn Bench) {
    let process = Process::of(bench);
    let names: Vec<String> = (0..200).map(|i| format!("queue-{i:03}")).collect();
    let both = |name: &String| [of_queue(name), of_queue(name)];
    process.enqueue(names.iter().flat_map(both).collect(), T).unwrap();
    let rooms: Vec<Room> = names.iter().map(|name| room(name, 1)).collect();
    let mut claimed = process.claim(&process.worker, &rooms, T).unwrap();
    claimed.sort_by(|a, b| a.queue.cmp(&b.queue));
    assert!(claimed.iter().map(|claimed| &claimed.queue).eq(&names));
    let queues = process.queues().unwrap();
    assert!(queues.iter().map(|queue| &queue.name).eq(&names));
    assert!(queues.iter().all(|queue| (queue.waiting, queue.running) == (1, 1)));
}

pub(crate) fn a_claim_has_all_that_was_enqueued(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let full =
        Entry { priority: 3, unique: Some("photo-7".into()), origin: Some("POST /orders 3f9a1c".into()), ..entry() };
    let id = one.add(full.clone(), T);
    let waiting = other.info(id);
    assert_eq!((waiting.state, waiting.attempt, waiting.interruptions), (JobState::Waiting, 0, 0));
    assert_eq!((waiting.enqueued_at, waiting.due_at, waiting.began_at, waiting.ended_at), (T, T, None, None));
    assert_eq!((waiting.priority, &waiting.unique, &waiting.failures), (3, &full.unique, &Vec::new()));
    assert_eq!((&waiting.name, &waiting.label, &waiting.payload), (&full.name, &full.label, &full.payload));
    assert_eq!((&waiting.queue, &waiting.origin), (&full.queue, &full.origin));

    let claimed = other.take_one(T + 5);
    assert_eq!((claimed.id, claimed.attempt, claimed.enqueued_at), (id, 1, T));
    assert_eq!((&claimed.name, &claimed.label, &claimed.payload), (&full.name, &full.label, &full.payload));
    assert_eq!((&claimed.queue, &claimed.origin), (&full.queue, &full.origin));
    let running = JobInfo { state: JobState::Running, attempt: 1, began_at: Some(T + 5), ..waiting };
    assert_eq!(one.info(id), running);
}

pub(crate) fn tries_are_counted(bench: &dyn Bench) {
    let process = Process::of(bench);
    let id = process.add(entry(), T);
    let mut tokens = BTreeSet::new();
    for attempt in 1..=40 {
        let claimed = process.take_one(T + i64::from(attempt));
        assert_eq!((claimed.attempt, process.info(id).attempt), (attempt, attempt));
        assert!(tokens.insert(claimed.token), "each claim has a token of its own");
        process.finish(&claimed, retry(0), T + i64::from(attempt));
    }
}

// How a try ends.

pub(crate) fn a_stale_token_changes_nothing(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    let stale = one.take_one(T);
    one.leaves(T);
    let claimed = other.take_one(T + 1);
    assert_eq!(claimed.id, id);
    let before = other.info(id);
    for end in every_end() {
        for token in [stale.token, 0, u64::from(u32::MAX)] {
            assert!(!one.settle(id, token, end.clone(), T + 2).unwrap(), "{end:?} with the token {token}");
        }
    }
    assert_eq!(other.info(id), before);
    assert!(other.settle(id, claimed.token, End::Done, T + 3).unwrap());
}

pub(crate) fn a_try_ends_once(bench: &dyn Bench) {
    let process = Process::of(bench);
    for first in every_end() {
        let id = process.add(entry(), T);
        let claimed = process.take_one(T);
        process.finish(&claimed, first.clone(), T + 1);
        let before = process.info(id);
        for second in every_end() {
            assert!(!process.settle(id, claimed.token, second.clone(), T + 2).unwrap(), "{first:?}, then {second:?}");
        }
        assert_eq!(process.info(id), before);
        process.discard(id).unwrap();
    }
}

pub(crate) fn done_is_done(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    one.finish(&one.take_one(T + 1), End::Done, T + 2);
    let info = other.info(id);
    assert_eq!((info.state, info.attempt, info.began_at, info.ended_at), (JobState::Done, 1, Some(T + 1), Some(T + 2)));
    assert!(info.failures.is_empty());
    assert_eq!(other.take(1, T + YEAR), []);
}

pub(crate) fn a_retry_waits_for_its_time(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    one.finish(&one.take_one(T), retry(1_000), T + 50);
    let info = other.info(id);
    assert_eq!((info.state, info.due_at, info.attempt), (JobState::Scheduled, T + 1_050, 1));
    let failure = &info.failures[0];
    assert_eq!((failure.attempt, failure.at, failure.words.as_str()), (1, T + 50, "connection refused"));
    assert_eq!(other.next_due().unwrap(), Some(T + 1_050));
    // It waits since it is due, which is after this one and before that one.
    let before = one.add(entry(), T + 1_049);
    assert_eq!(ids(&other.take(2, T + 1_049)), [before]);
    let after = one.add(entry(), T + 1_051);
    let claimed = other.take(2, T + 1_051);
    assert_eq!(ids(&claimed), [id, after]);
    assert_eq!((claimed[0].attempt, other.next_due().unwrap()), (2, None));
}

pub(crate) fn what_is_released_is_first_again(bench: &dyn Bench) {
    let process = Process::of(bench);
    let first = process.add(entry(), T);
    let second = process.add(entry(), T + 1);
    let claimed = process.take_one(T + 2);
    process.finish(&claimed, End::Released, T + 3);
    let info = process.info(first);
    assert_eq!((info.state, info.attempt, info.interruptions), (JobState::Waiting, 0, 0));
    assert!(info.failures.is_empty());
    let again = process.take(2, T + 4);
    assert_eq!(ids(&again), [first, second]);
    assert_eq!(again[0].attempt, 1);
    assert_ne!(again[0].token, claimed.token);
}

pub(crate) fn dead_with_its_last_failures(bench: &dyn Bench) {
    let process = Process::of(bench);
    let id = process.add(entry(), T);
    let tries = MOST_FAILURES as u32 + 5;
    for attempt in 1..=tries {
        let words = format!("try {attempt}");
        let end = if attempt == tries { dead(&words) } else { End::Retry { wait: 0, words } };
        process.finish(&process.take_one(T), end, T + i64::from(attempt) - i64::from(tries));
    }
    let info = process.info(id);
    assert_eq!((info.state, info.attempt, info.ended_at), (JobState::Dead, tries, Some(T)));
    let kept: Vec<(u32, Millis, &str)> =
        info.failures.iter().map(|failure| (failure.attempt, failure.at, failure.words.as_str())).collect();
    assert_eq!(kept.len(), MOST_FAILURES);
    assert_eq!(kept[0], (6, T - 24, "try 6"));
    assert_eq!(kept[MOST_FAILURES - 1], (tries, T, "try 30"));
    assert!(kept.is_sorted());
    assert_eq!(process.take(1, T + YEAR), []);
}

pub(crate) fn cancelled_with_and_without_words(bench: &dyn Bench) {
    let process = Process::of(bench);
    for words in [None, Some("stopped by hand")] {
        let id = process.add(entry(), T);
        process.finish(&process.take_one(T), cancelled(words), T + 1);
        let info = process.info(id);
        assert_eq!((info.state, info.attempt, info.ended_at), (JobState::Cancelled, 1, Some(T + 1)));
        assert!(info.failures.iter().map(|failure| failure.words.as_str()).eq(words));
        assert_eq!(process.take(1, T + YEAR), []);
    }
}

// What people do to jobs.

pub(crate) fn cancel_in_every_state(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for state in JobState::ALL {
        let id = one.job_in(state, T);
        let before = one.info(id);
        let then = other.cancel(id, T + 7).unwrap();
        let expected = match state {
            JobState::Waiting | JobState::Scheduled => {
                JobInfo { state: JobState::Cancelled, ended_at: Some(T + 7), ..before }
            }
            JobState::Running => JobInfo { is_cancelling: true, ..before },
            _ => before,
        };
        assert_eq!((then, one.info(id)), (Some(expected.state), expected.clone()), "of one that is {state}");
        assert_eq!(other.cancel(id, T + 7).unwrap(), Some(expected.state), "and once more");
    }
    assert_eq!((one.take(9, T + 2 * YEAR), one.next_due().unwrap()), (Vec::new(), None));
}

pub(crate) fn a_beat_tells_what_to_cancel(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.enqueue(vec![entry(); 3], T).unwrap();
    let claimed = one.take(3, T);
    let all: Vec<Held> = claimed.iter().map(held).collect();
    assert_eq!(one.beats(&all), Beat::default());
    other.cancel(claimed[1].id, T).unwrap();
    for _ in 0..2 {
        assert_eq!(one.beats(&all), Beat { cancel: vec![claimed[1].id], ..Beat::default() });
    }
    one.finish(&claimed[1], cancelled(None), T);
    let info = one.info(claimed[1].id);
    assert_eq!((info.state, info.is_cancelling), (JobState::Cancelled, false));
    // One that comes to its end all the same has come to its end.
    other.cancel(claimed[2].id, T).unwrap();
    one.finish(&claimed[2], End::Done, T);
    let info = one.info(claimed[2].id);
    assert_eq!((info.state, info.is_cancelling), (JobState::Done, false));
    assert_eq!(one.beats(&all[..1]), Beat::default());
}

/// What would be tried again is cancelled instead, where its worker has not heard of it in time.
pub(crate) fn a_cancellation_is_not_lost(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for end in [retry(5), retry(0), End::Released] {
        let id = one.job_in(JobState::Waiting, T);
        let claimed = one.take_one(T);
        other.cancel(id, T).unwrap();
        one.finish(&claimed, end.clone(), T + 1);
        let info = one.info(id);
        assert_eq!((info.state, info.is_cancelling), (JobState::Cancelled, false), "{end:?}");
        assert_eq!(info.failures.len(), usize::from(end != End::Released), "{end:?}");
    }
    let left = one.job_in(JobState::Running, T);
    other.cancel(left, T).unwrap();
    one.leaves(T);
    assert_eq!(one.state(left), JobState::Cancelled);
    let lost = other.job_in(JobState::Running, T);
    one.cancel(lost, T).unwrap();
    eventually(|| (one.recover(SHORT, T).is_ok() && one.state(lost) != JobState::Running).then_some(()));
    assert_eq!(one.state(lost), JobState::Cancelled);
}

pub(crate) fn revive_in_every_state(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for state in JobState::ALL {
        let id = one.job_in(state, T);
        let before = one.info(id);
        let can_be = matches!(state, JobState::Scheduled | JobState::Dead | JobState::Cancelled);
        assert_eq!(other.revive(id, T + 7).unwrap(), can_be, "one that is {state}");
        let info = one.info(id);
        if can_be {
            assert_eq!((info.state, info.due_at), (JobState::Waiting, T + 7), "one that was {state}");
            assert_eq!(ids(&one.take(9, T + 7)), [id]);
        } else {
            assert_eq!(info, before);
        }
        // Out of the way of the next.
        one.cancel(id, T).unwrap();
    }
}

pub(crate) fn revived_begins_anew(bench: &dyn Bench) {
    let process = Process::of(bench);
    for end in [dead("broken"), cancelled(Some("broken"))] {
        let id = process.add(entry(), T);
        process.finish(&process.take_one(T), retry(0), T);
        process.finish(&process.take_one(T), end, T + 1);
        assert!(process.revive(id, T + 2).unwrap());
        let info = process.info(id);
        assert_eq!((info.attempt, info.interruptions, info.is_cancelling), (0, 0, false));
        let words: Vec<&str> = info.failures.iter().map(|failure| failure.words.as_str()).collect();
        assert_eq!(words, ["connection refused", "broken"]);
        let claimed = process.take_one(T + 2);
        assert_eq!((claimed.id, claimed.attempt), (id, 1));
        process.finish(&claimed, End::Done, T + 3);
    }
    // One that waits for its next try only waits no longer.
    let id = process.add(entry(), T);
    process.finish(&process.take_one(T), retry(YEAR), T);
    assert!(process.revive(id, T + 1).unwrap());
    assert_eq!((process.next_due().unwrap(), process.take_one(T + 1).attempt), (None, 2));
}

pub(crate) fn revived_waits_from_then_on(bench: &dyn Bench) {
    let process = Process::of(bench);
    let revived = [JobState::Dead, JobState::Cancelled, JobState::Scheduled].map(|state| process.job_in(state, T));
    let before = process.add(entry(), T + 5);
    for (i, id) in revived.into_iter().enumerate() {
        assert!(process.revive(id, T + 6 + i as i64).unwrap());
    }
    let after = process.add(entry(), T + 9);
    assert_eq!(process.take_all(T + 9), [before, revived[0], revived[1], revived[2], after]);
}

pub(crate) fn revive_not_while_another_has_the_key(bench: &dyn Bench) {
    let process = Process::of(bench);
    let first = process.add(unique("photo-7"), T);
    process.finish(&process.take_one(T), dead("broken"), T);
    let second = process.try_add(unique("photo-7"), T + 1);
    assert!(second.is_new);
    let before = process.info(first);
    assert!(!process.revive(first, T + 2).unwrap());
    let claimed = process.take_one(T + 2);
    assert_eq!(claimed.id, second.id);
    assert!(!process.revive(first, T + 2).unwrap());
    assert_eq!(process.info(first), before);
    process.finish(&claimed, End::Done, T + 3);
    // Now it is free, and then it is its own again.
    assert!(process.revive(first, T + 4).unwrap());
    assert_eq!(process.try_add(unique("photo-7"), T + 5), Enqueued { id: first, is_new: false });
}

pub(crate) fn discard_in_every_state(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for state in JobState::ALL {
        let id = one.job_in(state, T);
        let rests = state != JobState::Running;
        assert_eq!(other.discard(id).unwrap(), rests, "one that is {state}");
        assert_eq!(one.find(id).unwrap().is_none(), rests, "one that is {state}");
        assert!(one.list(state, None, 9).unwrap().is_empty() == rests);
        assert!(!other.discard(id).unwrap());
    }
    assert_eq!((one.take(9, T + 2 * YEAR), one.next_due().unwrap()), (Vec::new(), None));
    assert_eq!(one.counts().unwrap(), JobCounts { running: 1, ..JobCounts::default() });
}

pub(crate) fn a_paused_queue_begins_nothing(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let running = one.job_in(JobState::Running, T);
    let waits = one.add(entry(), T);
    let elsewhere = one.add(of_queue("mail"), T);
    for _ in 0..2 {
        other.pause(QUEUE, true).unwrap();
    }
    let rooms = [room(QUEUE, 9), room("mail", 9)];
    assert_eq!(ids(&one.claim(&one.worker, &rooms, T).unwrap()), [elsewhere]);
    let comes_later = one.add(entry(), T + 1);
    one.add(timed(When::After(1)), T + 1);
    assert_eq!(one.claim(&one.worker, &rooms, T + 2).unwrap(), []);
    // What runs is not touched, and what is due waits, so that nobody looks for it again and again.
    assert_eq!((one.state(running), one.next_due().unwrap()), (JobState::Running, None));
    let queue = |engine: &dyn Engine| engine.queues().unwrap().into_iter().find(|queue| queue.name == QUEUE);
    let paused = QueueInfo { name: QUEUE.to_owned(), waiting: 3, running: 1, is_paused: true };
    assert_eq!((queue(&*one), queue(&*other)), (Some(paused.clone()), Some(paused)));
    one.pause(QUEUE, false).unwrap();
    one.pause("never paused", false).unwrap();
    assert_eq!(ids(&other.take(2, T + 2)), [waits, comes_later]);
    assert!(queue(&*other).is_some_and(|queue| !queue.is_paused));
}

// Unique keys.

pub(crate) fn unique_while_it_is_not_finished(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let mut last = 0;
    for end in [End::Done, dead("broken"), cancelled(None)] {
        let new = one.try_add(Entry { when: When::After(100), ..unique("photo-7") }, T);
        assert!(new.is_new && new.id > last, "after the last one was finished");
        let same = Enqueued { id: new.id, is_new: false };
        assert_eq!(other.try_add(unique("photo-7"), T), same, "scheduled");
        assert_eq!(other.take(9, T + 99), []);
        other.claim(&other.worker, &[], T + 100).unwrap();
        assert_eq!((other.state(new.id), other.try_add(unique("photo-7"), T)), (JobState::Waiting, same));
        let claimed = other.take_one(T + 100);
        assert_eq!(one.try_add(unique("photo-7"), T), same, "running");
        other.finish(&claimed, retry(100), T + 100);
        assert_eq!(one.try_add(unique("photo-7"), T), same, "to be tried again");
        other.finish(&other.take_one(T + 200), end, T + 200);
        last = new.id;
    }
    // Free again too when a waiting one is cancelled, or taken away.
    let waiting = one.try_add(unique("photo-7"), T);
    one.cancel(waiting.id, T).unwrap();
    let next = one.try_add(unique("photo-7"), T);
    one.discard(next.id).unwrap();
    assert!(waiting.is_new && next.is_new && one.try_add(unique("photo-7"), T).is_new);
}

pub(crate) fn unique_by_name_and_key(bench: &dyn Bench) {
    let process = Process::of(bench);
    let named = |name: &str, key: &str| Entry { name: name.to_owned(), ..unique(key) };
    let all = vec![
        named("resize", "7"),
        named("import", "7"),
        named("resize", "8"),
        named("resize", ""),
        named("resize:", "7"),
        named("resize", ":7"),
        entry(),
        entry(),
        named("resize", "7 "),
        named("Resize", "7"),
        named("resize", "é"),
        named("resize", "É"),
    ];
    let ids: BTreeSet<u64> = process.enqueue(all.clone(), T).unwrap().iter().map(|new| new.id).collect();
    assert_eq!(ids.len(), all.len());
    let again = process.enqueue(all.into_iter().filter(|entry| entry.unique.is_some()).collect(), T).unwrap();
    assert!(again.iter().all(|same| !same.is_new && ids.contains(&same.id)), "{again:?}");
    // Whatever queue it is for.
    let elsewhere = Entry { queue: "mail".to_owned(), ..named("resize", "7") };
    assert!(!process.try_add(elsewhere, T).is_new);
}

pub(crate) fn unique_within_one_call(bench: &dyn Bench) {
    let process = Process::of(bench);
    let there = process.add(unique("there"), T);
    let enqueued = process.enqueue(vec![unique("a"), entry(), unique("there"), unique("a"), unique("b")], T).unwrap();
    let is_new: Vec<bool> = enqueued.iter().map(|enqueued| enqueued.is_new).collect();
    assert_eq!(is_new, [true, true, false, false, true]);
    assert_eq!((enqueued[2].id, enqueued[3].id), (there, enqueued[0].id));
    assert_eq!(process.take_all(T), [there, enqueued[0].id, enqueued[1].id, enqueued[4].id]);
}

pub(crate) fn unique_in_a_race(bench: &dyn Bench) {
    const KEYS: usize = 20;
    let (one, other) = Process::two(bench);
    let answers = race([&*one, &*other], |engine, barrier| {
        let enqueue = |key: usize| {
            barrier.wait();
            engine.enqueue(vec![unique(&format!("photo-{key}"))], T).unwrap()[0]
        };
        (0..KEYS).map(enqueue).collect::<Vec<_>>()
    });
    for key in 0..KEYS {
        let of_key: Vec<Enqueued> = answers.iter().map(|answers| answers[key]).collect();
        assert_eq!(of_key.iter().filter(|enqueued| enqueued.is_new).count(), 1, "{of_key:?}");
        assert!(of_key.iter().all(|enqueued| enqueued.id == of_key[0].id), "{of_key:?}");
    }
    assert_eq!(one.counts().unwrap().waiting, KEYS as u64);
}

pub(crate) fn all_or_none_are_seen(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let (one, other) = (&*one, &*other);
    assert_eq!(one.enqueue(Vec::new(), T).unwrap(), []);
    thread::scope(|scope| {
        let enqueue = || (0..20).for_each(|_| drop(one.enqueue(vec![entry(); 50], T).unwrap()));
        let writer = scope.spawn(enqueue);
        loop {
            let is_last_look = writer.is_finished();
            let waiting = other.counts().unwrap().waiting;
            assert_eq!(waiting % 50, 0, "fifty at once");
            if is_last_look {
                return assert_eq!(waiting, 1_000);
            }
        }
    });
}

// Times.

pub(crate) fn now_whatever_the_clock_says(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    assert_eq!((one.state(id), one.next_due().unwrap()), (JobState::Waiting, None));
    assert_eq!(ids(&other.take(1, T - YEAR)), [id]);
}

pub(crate) fn at_a_time_and_after_a_while(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let at = one.add(timed(When::At(T + 500)), T);
    let after = one.add(timed(When::After(300)), T);
    for (id, due) in [(at, T + 500), (after, T + 300)] {
        let info = other.info(id);
        assert_eq!((info.state, info.enqueued_at, info.due_at), (JobState::Scheduled, T, due));
    }
    assert_eq!((other.next_due().unwrap(), other.take(9, T + 299)), (Some(T + 300), Vec::new()));
    assert_eq!(ids(&other.take(9, T + 300)), [after]);
    assert_eq!((other.next_due().unwrap(), other.take(9, T + 499)), (Some(T + 500), Vec::new()));
    assert_eq!((ids(&other.take(9, T + 500)), other.next_due().unwrap()), (vec![at], None));
    // A time that is over, and no time at all, are now: nobody gets before those who wait by naming a time long ago.
    let first = one.add(entry(), T + 600);
    let late = [When::At(T), When::At(0), When::After(0)].map(|when| one.add(timed(when), T + 601));
    assert!(late.iter().all(|id| one.state(*id) == JobState::Waiting));
    assert_eq!(one.take_all(T + 602), [&[first][..], &late].concat());
}

pub(crate) fn longer_than_the_clock_counts(bench: &dyn Bench) {
    let process = Process::of(bench);
    let ids = [When::After(Millis::MAX), When::At(Millis::MAX)].map(|when| process.add(timed(when), T));
    process.add(entry(), T);
    process.finish(&process.take_one(T), retry(Millis::MAX), T);
    assert_eq!(process.take(9, T + 1_000 * YEAR), []);
    assert!(process.next_due().unwrap().is_some_and(|due| due > T + 1_000 * YEAR));
    assert!(ids.iter().all(|id| process.state(*id) == JobState::Scheduled));
}

pub(crate) fn a_clock_that_went_back(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let after = one.add(timed(When::After(1_000)), T);
    let at = one.add(timed(When::At(T + 1_000)), T);
    let tried = one.job_in(JobState::Waiting, T);
    one.finish(&one.take_one(T), retry(500), T);
    let due = || [after, at, tried].map(|id| other.info(id).due_at);
    // It went on, or only back by what nobody notices.
    other.clock_went_back(T + 1).unwrap();
    other.clock_went_back(T).unwrap();
    assert_eq!(due(), [T + 1_000, T + 1_000, T + 500]);
    let now = T - YEAR;
    other.clock_went_back(now).unwrap();
    assert_eq!(due(), [now + 1_000, T + 1_000, now + 500]);
    assert_eq!(one.next_due().unwrap(), Some(now + 500));
    assert_eq!(ids(&one.take(9, now + 999)), [tried]);
    assert_eq!(ids(&one.take(9, now + 1_000)), [after]);
    assert_eq!(ids(&one.take(9, T + 1_000)), [at]);
}

pub(crate) fn due_is_due_in_all_queues(bench: &dyn Bench) {
    let process = Process::of(bench);
    for (queue, wait) in [("a", 30), ("b", 10), ("c", 20)] {
        process.add(Entry { when: When::After(wait), ..of_queue(queue) }, T);
    }
    assert_eq!(process.next_due().unwrap(), Some(T + 10));
    // Whoever claims, for whatever queue: what is due waits from then on, and is not looked for again.
    assert_eq!(process.claim(&process.worker, &[room("d", 1)], T + 20).unwrap(), []);
    assert_eq!(process.next_due().unwrap(), Some(T + 30));
    let counts = process.counts().unwrap();
    assert_eq!((counts.waiting, counts.scheduled), (2, 1));
}
