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
//! leaves something out. All times are made up. What takes time (a lease, a notification from another process) is looked for in a loop.

// A case that is missing in the list below is one that nobody runs.
#![warn(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::engine::{
    Beat, CLOCK_SLACK, Claimed, End, Ending, Engine, Enqueued, Entry, Held, Keep, LATEST_TICK, Last, MOST_FAILURES,
    MOST_INTERRUPTIONS, PRIORITY_STEP, Room, Steps, When, WorkerId, wait_after_interruption,
};
use super::record::{Cause, JobCounts, JobInfo, JobState, Kept, Millis, QueueInfo};
use crate::background::output::Output;
use crate::sync::Notify;

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
            a_clock_that_is_a_little_off_changes_nothing,
            a_schedule_of_a_clock_that_was_far_ahead,
            due_is_due_in_all_queues,
            progress_is_seen_elsewhere,
            the_last_progress_comes_with_each_end,
            a_beat_tells_what_is_lost,
            a_stranger_is_evicted,
            what_the_gone_held_waits_again,
            dead_after_many_interruptions,
            who_beats_is_not_gone,
            who_comes_back_is_evicted,
            who_leaves_gives_back,
            two_workers_never_have_the_same,
            a_tick_counts_once,
            a_tick_counts_once_in_a_race,
            an_output_is_kept_with_a_done_job,
            an_attempt_that_is_not_done_leaves_no_output,
            an_output_of_a_megabyte_comes_back_and_a_list_leaves_it_out,
            outputs_go_with_their_jobs,
            trimmed_by_age,
            trimmed_by_number,
            lists_have_pages,
            counts_and_queues,
            the_dead_are_counted_by_what_made_them_so,
            unknown_numbers,
            texts_come_back_as_they_were,
            a_megabyte_comes_back,
            queues_of_any_name,
            a_bell_for_what_is_enqueued_here,
            a_bell_for_what_is_enqueued,
            a_bell_for_a_tick,
            a_bell_for_what_is_revived,
            a_bell_for_a_queue_that_goes_on,
            a_bell_for_what_is_left,
            a_bell_for_what_is_recovered,
            a_bell_for_what_is_cancelled,
            a_bell_that_is_dropped,
            after_a_restart,
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

    fn finish(&self, claimed: &Claimed, end: impl Into<Ending>, now: Millis) {
        assert!(self.settle(claimed.id, claimed.token, end.into(), now).unwrap());
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
    End::Dead { words: words.to_owned(), cause: Cause::Failed }
}

fn cancelled(words: Option<&str>) -> End {
    End::Cancelled { words: words.map(str::to_owned) }
}

fn every_end() -> Vec<End> {
    vec![End::Done, retry(5), dead("broken"), cancelled(None), cancelled(Some("told to")), End::Released]
}

/// Done, with that output.
fn with_output(json: &str) -> Ending {
    leaving(End::Done, None, Some(json))
}

fn leaving(end: End, progress: Option<Steps>, output: Option<&str>) -> Ending {
    Ending { end, last: Last { progress, output: output.map(Output::from_json) } }
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

/// Eight threads on each handle, all at once. One that panics before it has come to the barrier as often as the others would
/// leave them there for ever: what can fail is looked at afterwards.
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
            assert!(!one.settle(id, token, end.clone().into(), T + 2).unwrap(), "{end:?} with the token {token}");
        }
    }
    assert_eq!(other.info(id), before);
    assert!(other.settle(id, claimed.token, End::Done.into(), T + 3).unwrap());
}

pub(crate) fn a_try_ends_once(bench: &dyn Bench) {
    let process = Process::of(bench);
    for first in every_end() {
        let id = process.add(entry(), T);
        let claimed = process.take_one(T);
        process.finish(&claimed, first.clone(), T + 1);
        let before = process.info(id);
        for second in every_end() {
            assert!(
                !process.settle(id, claimed.token, second.clone().into(), T + 2).unwrap(),
                "{first:?}, then {second:?}"
            );
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
            engine.enqueue(vec![unique(&format!("photo-{key}"))], T)
        };
        (0..KEYS).map(enqueue).collect::<Vec<_>>()
    });
    for key in 0..KEYS {
        let of_key: Vec<Enqueued> = answers.iter().map(|answers| answers[key].as_ref().unwrap()[0]).collect();
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
    let now = T - YEAR;
    other.clock_went_back(now).unwrap();
    assert_eq!(due(), [now + 1_000, T + 1_000, now + 500]);
    assert_eq!(one.next_due().unwrap(), Some(now + 500));
    assert_eq!(ids(&one.take(9, now + 999)), [tried]);
    // It waits since it is due, not since it would have been.
    let later = one.add(entry(), now + 1_001);
    assert_eq!(ids(&one.take(9, now + 1_001)), [after, later]);
    assert_eq!(ids(&one.take(9, T + 1_000)), [at]);
}

/// A clock that advanced, the clock of another machine, or a time taken before a wait for a lock.
pub(crate) fn a_clock_that_is_a_little_off_changes_nothing(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let after = one.add(timed(When::After(1_000)), T);
    let tried = one.job_in(JobState::Waiting, T);
    one.finish(&one.take_one(T), retry(500), T);
    for now in [T + YEAR, T + 1, T, T - 1, T - CLOCK_SLACK] {
        other.clock_went_back(now).unwrap();
        assert_eq!([after, tried].map(|id| other.info(id).due_at), [T + 1_000, T + 500], "{}", now - T);
    }
    let now = T - CLOCK_SLACK - 1;
    other.clock_went_back(now).unwrap();
    assert_eq!([after, tried].map(|id| other.info(id).due_at), [now + 1_000, now + 500]);
}

/// A machine started with its clock in another year. The schedule must not wait for that year.
pub(crate) fn a_schedule_of_a_clock_that_was_far_ahead(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    assert!(one.tick("nightly", T + YEAR, None, T + YEAR).unwrap());
    assert!(one.tick("hourly", T + LATEST_TICK, None, T).unwrap());
    other.clock_went_back(T).unwrap();
    let last = |schedule| one.last_tick(schedule).unwrap();
    assert_eq!((last("nightly"), last("hourly")), (Some(T), Some(T + LATEST_TICK)));
    assert!(one.tick("nightly", T + 1, Some(entry()), T + 1).unwrap());
    assert_eq!(one.counts().unwrap().waiting, 1);
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

// Workers.

pub(crate) fn progress_is_seen_elsewhere(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    let claimed = one.take_one(T);
    let so_far = |engine: &Process| {
        let info = engine.info(id);
        (info.done, info.total, info.message)
    };
    let told = |done, total, message: &str| {
        one.beats(&[Held { progress: Some((done, total, message.to_owned())), ..held(&claimed) }])
    };
    assert_eq!(so_far(&other), (0, 0, String::new()));
    assert_eq!(told(3, 10, "фото 3 из 10 📷"), Beat::default());
    assert_eq!(so_far(&other), (3, 10, "фото 3 из 10 📷".to_owned()));
    // Nothing new, nothing held: it stays as it is.
    one.beats(&[held(&claimed)]);
    one.beats(&[]);
    assert_eq!(so_far(&other), (3, 10, "фото 3 из 10 📷".to_owned()));
    assert_eq!(told(0, 0, ""), Beat::default());
    assert_eq!(so_far(&other), (0, 0, String::new()));
    // What a program counts may be odd; its worker is not to be taken for dead for it.
    assert_eq!(told(u64::MAX, u64::MAX, "all"), Beat::default());
    assert!(so_far(&other).0 >= i64::MAX as u64);
    one.finish(&claimed, retry(0), T);
    other.take_one(T);
    assert_eq!(so_far(&one), (0, 0, String::new()), "each try begins at nothing");
}

/// Regression: the progress since the last heartbeat was lost, and a page went back to an earlier step at the end.
pub(crate) fn the_last_progress_comes_with_each_end(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for end in every_end() {
        let id = one.add(entry(), T);
        let claimed = one.take_one(T);
        one.beats(&[Held { progress: Some((3, 5, "part 3".to_owned())), ..held(&claimed) }]);
        let last = (5, 5, "вся 📷".to_owned());
        one.finish(&claimed, leaving(end.clone(), Some(last.clone()), None), T);
        let info = other.info(id);
        assert_eq!((info.done, info.total, info.message), last, "{end:?}");
        // A heartbeat that was on its way comes too late.
        one.beats(&[Held { progress: Some((4, 5, "part 4".to_owned())), ..held(&claimed) }]);
        assert_eq!(other.info(id).done, 5, "{end:?}");
        if !other.state(id).is_finished() {
            let again = other.claim(&other.worker, &[room(QUEUE, 1)], T + 5).unwrap().pop().expect("it waits");
            let info = one.info(id);
            assert_eq!((info.done, info.total, info.message.as_str()), (0, 0, ""), "{end:?}");
            other.finish(&again, End::Done, T + 5);
        }
    }
    // Without a word at the end it is as far as the heartbeat said; a stale token says nothing.
    let id = one.add(entry(), T);
    let claimed = one.take_one(T);
    one.beats(&[Held { progress: Some((3, 5, String::new())), ..held(&claimed) }]);
    let last = leaving(End::Done, Some((9, 9, String::new())), Some("9"));
    assert!(!other.settle(id, claimed.token + 1, last, T).unwrap());
    one.finish(&claimed, End::Done, T);
    let info = other.info(id);
    assert_eq!((info.done, info.total, info.output), (3, 5, Kept::Nothing));
}

pub(crate) fn a_beat_tells_what_is_lost(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.enqueue(vec![entry(); 3], T).unwrap();
    let claimed = one.take(3, T);
    one.finish(&claimed[0], retry(0), T);
    let again = other.take_one(T);
    assert_eq!(again.id, claimed[0].id);
    one.finish(&claimed[1], End::Done, T);
    one.discard(claimed[1].id).unwrap();
    other.cancel(again.id, T).unwrap();
    let progress = Some((1, 2, "by one that has lost it".to_owned()));
    let all: Vec<Held> = claimed.iter().map(|claimed| Held { progress: progress.clone(), ..held(claimed) }).collect();
    let beat = one.beats(&all);
    let lost: BTreeSet<u64> = beat.lost.into_iter().collect();
    assert_eq!(lost, [claimed[0].id, claimed[1].id].into());
    assert_eq!((beat.is_evicted, beat.cancel), (false, Vec::new()));
    assert_eq!(one.info(again.id).message, "");
    assert_eq!(one.info(claimed[2].id).message, "by one that has lost it");
    assert_eq!(other.beats(&[held(&again)]), Beat { cancel: vec![again.id], ..Beat::default() });
}

/// One that has not joined, or has left, gets nothing: nobody would notice that it is gone.
pub(crate) fn a_stranger_is_evicted(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    assert_ne!(one.worker, other.worker);
    one.leaves(T);
    one.leaves(T);
    let id = other.add(entry(), T);
    for stranger in [&one.worker, &WorkerId("nobody".to_owned())] {
        assert!(one.beat(stranger, &[], T).unwrap().is_evicted);
        let claimed = one.claim(stranger, &[room(QUEUE, 1)], T);
        assert!(claimed.is_err() || claimed.is_ok_and(|claimed| claimed.is_empty()));
        one.leave(stranger, T).unwrap();
    }
    assert!(!other.beats(&[]).is_evicted);
    assert_eq!(other.take_all(T), [id]);
}

/// Looks for the gone until there are some. How many jobs they held.
fn recover(process: &Process, now: Millis) -> usize {
    eventually(|| Some(process.recover(SHORT, now).unwrap()).filter(|jobs| *jobs > 0))
}

pub(crate) fn what_the_gone_held_waits_again(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.enqueue(vec![entry(); 2], T).unwrap();
    let lost = one.take(2, T);
    let later = other.add(entry(), T + 1);
    let tried = other.take_one(T + 1);
    assert_eq!(tried.id, later);
    other.finish(&tried, End::Released, T + 1);

    // Not before a lease is over, by which no step of the wall clock counts.
    assert_eq!(other.recover(LONG, T).unwrap() + other.recover(LONG, T + YEAR).unwrap(), 0);
    let given_back = eventually(|| {
        other.beats(&[]);
        Some(other.recover(SHORT, T + 2).unwrap()).filter(|jobs| *jobs > 0)
    });
    assert_eq!(given_back, 2);
    for lost in &lost {
        let info = other.info(lost.id);
        assert_eq!((info.state, info.attempt, info.interruptions), (JobState::Waiting, 0, 1));
        assert!(info.failures.is_empty());
    }
    let again = other.take(9, T + 3);
    assert_eq!(ids(&again), [lost[0].id, lost[1].id, later]);
    assert!(again.iter().all(|claimed| claimed.attempt == 1), "an interrupted try is none");
    assert_eq!(other.recover(LONG, T).unwrap(), 0);
}

pub(crate) fn dead_after_many_interruptions(bench: &dyn Bench) {
    let first = Process::of(bench);
    let observer = bench.another();
    let id = first.add(entry(), T);
    let mut due = T;
    for interruptions in 1..=MOST_INTERRUPTIONS {
        let worker = Process::new(first.engine.clone());
        assert!(due == T || worker.take(1, due - 1).is_empty(), "it waits longer each time");
        assert_eq!(worker.take_one(due).attempt, 1);
        eventually(|| (observer.recover(SHORT, T + 9).is_ok() && first.state(id) != JobState::Running).then_some(()));
        let wait = wait_after_interruption(interruptions);
        due = if wait == 0 { T } else { T + 9 + wait };
        assert_eq!(first.info(id).state == JobState::Waiting, interruptions <= 3);
        let info = first.info(id);
        assert_eq!((info.interruptions, info.attempt), (interruptions, 0));
        assert_eq!(info.state == JobState::Dead, interruptions == MOST_INTERRUPTIONS);
        assert_eq!(info.failures.len(), usize::from(interruptions == MOST_INTERRUPTIONS));
    }
    let info = first.info(id);
    let failure = &info.failures[0];
    assert_eq!((failure.attempt, failure.at, info.ended_at), (1, T + 9, Some(T + 9)));
    assert!(failure.words.contains(&MOST_INTERRUPTIONS.to_string()), "{}", failure.words);
    assert_eq!(first.counts().unwrap(), JobCounts { dead: 1, abandoned: 1, ..JobCounts::default() });
    assert!(first.revive(id, T + 10).unwrap());
    assert_eq!(first.info(id).interruptions, 0);
}

pub(crate) fn who_beats_is_not_gone(bench: &dyn Bench) {
    const LEASE: Duration = Duration::from_millis(20);
    let (one, other) = Process::two(bench);
    let id = one.job_in(JobState::Running, T);
    let began = Instant::now();
    // Each look sees a beat that it has not seen before, however long the machine takes between two.
    while began.elapsed() < 4 * LEASE {
        assert_eq!(one.beat(&one.worker, &[], T).unwrap(), Beat::default());
        other.beats(&[]);
        assert_eq!(other.recover(LEASE, T).unwrap(), 0);
    }
    assert_eq!(one.state(id), JobState::Running);
}

pub(crate) fn who_comes_back_is_evicted(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    let claimed = one.take_one(T);
    recover(&other, T);
    let progress = Some((1, 2, "by one that was thought dead".to_owned()));
    assert!(one.beats(&[Held { progress, ..held(&claimed) }]).is_evicted);
    let before = other.info(id);
    assert_eq!((before.state, before.message.as_str()), (JobState::Waiting, ""));
    assert!(every_end().into_iter().all(|end| !one.settle(id, claimed.token, end.into(), T).unwrap()));
    assert_eq!(other.info(id), before);
    // It begins anew under another name, with a token of its own.
    let again = Process::new(one.engine.clone());
    assert_ne!(again.worker, one.worker);
    let reclaimed = again.take_one(T);
    assert_eq!((reclaimed.id, reclaimed.attempt), (id, 1));
    assert!(!one.settle(id, claimed.token, End::Done.into(), T).unwrap());
    assert_eq!(again.beats(&[held(&reclaimed)]), Beat::default());
    again.finish(&reclaimed, End::Done, T);
}

pub(crate) fn who_leaves_gives_back(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let held_by_one = one.enqueue(vec![entry(), entry()], T).unwrap();
    let claimed = one.take(2, T);
    let later = other.add(entry(), T + 1);
    let others = other.take_one(T + 1);
    one.leaves(T + 2);
    for claimed in &claimed {
        let info = other.info(claimed.id);
        assert_eq!((info.state, info.attempt, info.interruptions), (JobState::Waiting, 0, 0));
        assert!(!one.settle(claimed.id, claimed.token, End::Done.into(), T + 3).unwrap());
    }
    assert_eq!((others.id, other.state(later)), (later, JobState::Running));
    other.finish(&others, End::Released, T + 3);
    assert_eq!(other.take_all(T + 3), [held_by_one[0].id, held_by_one[1].id, later]);
}

pub(crate) fn two_workers_never_have_the_same(bench: &dyn Bench) {
    const JOBS: usize = 2_000;
    let (one, other) = Process::two(bench);
    one.enqueue(vec![entry(); JOBS], T).unwrap();
    let taken = race([&*one, &*other], |engine, barrier| {
        barrier.wait();
        let worker = engine.join().unwrap();
        let claim = || engine.claim(&worker, &[room(QUEUE, 7)], T).unwrap();
        std::iter::from_fn(|| Some(claim()).filter(|some| !some.is_empty())).flatten().collect::<Vec<_>>()
    });
    let all: Vec<Claimed> = taken.into_iter().flatten().collect();
    assert_eq!(all.len(), JOBS);
    assert_eq!(all.iter().map(|claimed| claimed.id).collect::<BTreeSet<_>>().len(), JOBS);
    assert_eq!(one.counts().unwrap(), JobCounts { running: JOBS as u64, ..JobCounts::default() });
}

// Schedules.

pub(crate) fn a_tick_counts_once(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let tick = |engine: &Process, due, job| engine.tick("nightly", due, job, T + 5).unwrap();
    assert_eq!(one.last_tick("nightly").unwrap(), None);
    // Without a job only the time is noted.
    assert!(tick(&one, T, None));
    assert_eq!((other.last_tick("nightly").unwrap(), other.take(1, T + 5)), (Some(T), Vec::new()));
    assert!(!tick(&other, T, Some(entry())));
    assert!(!tick(&other, T - 1, Some(entry())));
    assert!(!tick(&other, T - YEAR, None));
    assert_eq!((one.last_tick("nightly").unwrap(), one.counts().unwrap().waiting), (Some(T), 0));
    assert!(tick(&other, T + 1, Some(unique("night"))));
    let info = one.info(one.take_one(T + 5).id);
    assert_eq!((info.enqueued_at, info.unique.as_deref(), info.attempt), (T + 5, Some("night"), 1));
    // The last one still runs: this one is noted and not enqueued.
    assert!(tick(&one, T + 2, Some(unique("night"))));
    assert_eq!((one.last_tick("nightly").unwrap(), one.take(1, T + YEAR)), (Some(T + 2), Vec::new()));
    // Each schedule for itself; also before 1970.
    assert!(one.tick("ночью", -5, Some(entry()), T).unwrap());
    assert!(!one.tick("ночью", -5, Some(entry()), T).unwrap());
    assert_eq!(other.last_tick("ночью").unwrap(), Some(-5));
    assert_eq!(one.counts().unwrap(), JobCounts { waiting: 1, running: 1, ..JobCounts::default() });
}

pub(crate) fn a_tick_counts_once_in_a_race(bench: &dyn Bench) {
    const ROUNDS: i64 = 20;
    let (one, other) = Process::two(bench);
    let wins = race([&*one, &*other], |engine, barrier| {
        let tick = |round: i64| {
            barrier.wait();
            engine.tick("each minute", T + round, Some(entry()), T)
        };
        (0..ROUNDS).map(tick).collect::<Vec<_>>()
    });
    for round in 0..ROUNDS as usize {
        let won = wins.iter().filter(|wins| *wins[round].as_ref().unwrap()).count();
        assert_eq!(won, 1, "round {round}");
    }
    assert_eq!(one.counts().unwrap().waiting, ROUNDS as u64);
}

// What is kept, and what is shown of it.

const ALL: Keep = Keep { age: Duration::MAX, count: u64::MAX };

/// One job that came to that end at that time.
fn ended(process: &Process, end: impl Into<Ending>, at: Millis) -> u64 {
    let id = process.add(entry(), T - YEAR);
    let claimed = process.take_one(T - YEAR);
    process.finish(&claimed, end, at);
    id
}

pub(crate) fn an_output_is_kept_with_a_done_job(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let outputs =
        ["null", "17", r#""""#, r#"{"rows":17,"text":"é \" \\ \u0000 📷\n"}"#, "=[1.50, 18446744073709551616]"];
    let ids = outputs.map(|json| ended(&one, with_output(json), T));
    let without = ended(&one, End::Done, T);
    for (id, json) in ids.into_iter().zip(outputs) {
        assert_eq!(other.info(id).output, Kept::Whole(Output::from_json(json)));
    }
    assert_eq!(other.info(without).output, Kept::Nothing);
}

pub(crate) fn an_attempt_that_is_not_done_leaves_no_output(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for end in every_end().into_iter().filter(|end| *end != End::Done) {
        let id = one.add(entry(), T);
        one.finish(&one.take_one(T), leaving(end.clone(), None, Some("17")), T);
        assert_eq!(other.info(id).output, Kept::Nothing, "{end:?}");
        // Another attempt has an output of its own, or none.
        other.revive(id, T).unwrap();
        let again = other.claim(&other.worker, &[room(QUEUE, 1)], T + 5).unwrap().pop().expect("it waits");
        assert_eq!((again.id, one.info(id).output), (id, Kept::Nothing), "{end:?}");
        other.finish(&again, End::Done, T + 5);
        assert_eq!(one.info(id).output, Kept::Nothing, "{end:?}");
    }
}

pub(crate) fn an_output_of_a_megabyte_comes_back_and_a_list_leaves_it_out(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let text: String = "длинный 'текст' ".chars().cycle().take(600_000).collect();
    let json = format!("\"{text}\"");
    let (whole, without) = (ended(&one, with_output(&json), T), ended(&one, End::Done, T));
    assert!(other.info(whole).output == Kept::Whole(Output::from_json(json)));
    let list = other.list(JobState::Done, None, 9).unwrap();
    let listed: Vec<(u64, &Kept)> = list.iter().map(|job| (job.id, &job.output)).collect();
    assert_eq!(listed, [(without, &Kept::Nothing), (whole, &Kept::LeftOut)]);
    assert_eq!(list[1], one.info(whole).without_output(), "all else is there");
}

pub(crate) fn outputs_go_with_their_jobs(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let [kept, discarded, old] = [T + 9, T + 9, T].map(|at| ended(&one, with_output("17"), at));
    assert!(other.discard(discarded).unwrap());
    assert_eq!(other.trim(Keep { age: Duration::from_millis(5), ..ALL }, T + 9).unwrap(), 1);
    assert!([discarded, old].iter().all(|id| one.find(*id).unwrap().is_none()));
    assert_eq!(one.info(kept).output, Kept::Whole(Output::from_json("17")));
}

pub(crate) fn trimmed_by_age(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let old = [ended(&one, End::Done, T), ended(&one, cancelled(None), T + 10)];
    let young = [ended(&one, End::Done, T + 20), ended(&one, cancelled(None), T + 30)];
    let dead = ended(&one, dead("broken"), T);
    let others = [JobState::Running, JobState::Waiting, JobState::Scheduled].map(|state| one.job_in(state, T - YEAR));
    assert_eq!(other.trim(ALL, T + 40).unwrap(), 0);
    assert_eq!(other.trim(Keep { age: Duration::from_millis(25), ..ALL }, T + 40).unwrap(), 2);
    assert!(old.iter().all(|id| one.find(*id).unwrap().is_none()));
    assert!(young.iter().chain(&others).chain([&dead]).all(|id| one.find(*id).unwrap().is_some()));
    assert_eq!(other.trim(Keep { age: Duration::ZERO, ..ALL }, T + YEAR).unwrap(), 2);
    let rest = JobCounts { dead: 1, waiting: 1, running: 1, scheduled: 1, ..JobCounts::default() };
    assert_eq!(one.counts().unwrap(), rest);
}

pub(crate) fn trimmed_by_number(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    // The last to end stay, whatever their numbers are; dead ones do not count.
    let ends = [(5, End::Done), (1, cancelled(None)), (4, cancelled(None)), (2, End::Done), (3, End::Done)];
    let ended_then = ends.map(|(at, end)| (at, ended(&one, end, T + at)));
    let never: Vec<u64> = (0..3).map(|_| ended(&one, dead("broken"), T)).collect();
    assert_eq!(other.trim(Keep { count: 5, ..ALL }, T + 9).unwrap(), 0);
    assert_eq!(other.trim(Keep { count: 2, ..ALL }, T + 9).unwrap(), 3);
    for (at, id) in ended_then {
        assert_eq!(one.find(id).unwrap().is_some(), at >= 4, "the one that ended {at} ms later");
    }
    assert_eq!(other.trim(Keep { count: 0, ..ALL }, T + 9).unwrap(), 2);
    assert!(never.iter().all(|id| one.state(*id) == JobState::Dead));
    assert_eq!(one.counts().unwrap(), JobCounts { dead: 3, ..JobCounts::default() });
}

pub(crate) fn lists_have_pages(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    // The order of the line is another one.
    let all: Vec<u64> = (0..7).map(|i| one.add(urgent(i * 5 % 7), T)).collect();
    let page = |before, most| {
        let list = other.list(JobState::Waiting, before, most).unwrap();
        list.into_iter().map(|info| info.id).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 3), [all[6], all[5], all[4]]);
    assert_eq!(page(Some(all[4]), 3), [all[3], all[2], all[1]]);
    assert_eq!(page(Some(all[1]), 3), [all[0]]);
    assert_eq!((page(Some(all[0]), 3), page(None, 0)), (Vec::new(), Vec::new()));
    assert_eq!((page(Some(all[6] + 100), 1), page(None, 99).len()), (vec![all[6]], 7));
    assert_eq!(other.list(JobState::Waiting, None, 1).unwrap(), [one.info(all[6])]);
    // Also past one that is not there any more.
    one.discard(all[3]).unwrap();
    assert_eq!(page(Some(all[3]), 2), [all[2], all[1]]);
    assert_eq!(page(Some(all[4]), 2), [all[2], all[1]]);
    assert!(one.list(JobState::Dead, None, 9).unwrap().is_empty());
}

pub(crate) fn counts_and_queues(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    assert_eq!((other.counts().unwrap(), other.queues().unwrap()), (JobCounts::default(), Vec::new()));
    let order = [
        JobState::Done,
        JobState::Dead,
        JobState::Cancelled,
        JobState::Scheduled,
        JobState::Running,
        JobState::Waiting,
    ];
    for (i, state) in order.into_iter().enumerate() {
        for _ in 0..=i {
            one.job_in(state, T);
        }
    }
    for state in JobState::ALL {
        assert_eq!(other.list(state, None, 99).unwrap().len() as u64, *other.counts().unwrap().of(state));
    }
    let counts =
        JobCounts { done: 1, dead: 2, cancelled: 3, scheduled: 4, running: 5, waiting: 6, ..JobCounts::default() };
    assert_eq!(other.counts().unwrap(), counts);
    one.add(of_queue("b"), T);
    one.add(of_queue("a"), T);
    other.pause("empty", true).unwrap();
    let ended = one.add(of_queue("ended"), T);
    one.cancel(ended, T).unwrap();
    let queue =
        |name: &str, waiting, running, is_paused| QueueInfo { name: name.to_owned(), waiting, running, is_paused };
    let queues =
        [queue("a", 1, 0, false), queue("b", 1, 0, false), queue(QUEUE, 6, 5, false), queue("empty", 0, 0, true)];
    assert_eq!(other.queues().unwrap(), queues);
}

pub(crate) fn the_dead_are_counted_by_what_made_them_so(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let die = |cause| {
        let id = one.add(entry(), T);
        one.finish(&one.take_one(T), End::Dead { words: "again and again".to_owned(), cause }, T);
        id
    };
    die(Cause::Failed);
    let timed_out = [die(Cause::TimedOut), die(Cause::TimedOut)];
    let panicked = [die(Cause::Panicked), die(Cause::Panicked), die(Cause::Panicked)];
    let dead = |dead, timed_out, panicked, abandoned, waiting| JobCounts {
        dead,
        timed_out,
        panicked,
        abandoned,
        waiting,
        ..JobCounts::default()
    };
    assert_eq!(other.counts().unwrap(), dead(6, 2, 3, 0, 0));
    assert!(other.discard(timed_out[0]).unwrap());
    assert!(other.revive(panicked[0], T).unwrap());
    assert_eq!(one.counts().unwrap(), dead(4, 1, 2, 0, 1));
    // A different cause the second time.
    one.finish(&one.take_one(T), End::Dead { words: "too late".to_owned(), cause: Cause::TimedOut }, T);
    assert_eq!(one.counts().unwrap(), dead(5, 2, 2, 0, 0));
}

pub(crate) fn unknown_numbers(bench: &dyn Bench) {
    let process = Process::of(bench);
    let id = process.job_in(JobState::Running, T);
    for unknown in [0, id + 1, u64::from(u32::MAX), i64::MAX as u64] {
        assert_eq!(process.find(unknown).unwrap(), None);
        assert_eq!(process.cancel(unknown, T).unwrap(), None);
        assert!(!process.revive(unknown, T).unwrap());
        assert!(!process.discard(unknown).unwrap());
        assert!(!process.settle(unknown, 1, End::Done.into(), T).unwrap());
        assert_eq!(process.beats(&[Held { id: unknown, token: 1, progress: None }]).lost, [unknown]);
    }
    assert_eq!(process.last_tick("unknown").unwrap(), None);
    assert_eq!(process.counts().unwrap(), JobCounts { running: 1, ..JobCounts::default() });
}

// Texts.

/// What people write, and what breaks a query or a key that is put together by hand.
const TEXTS: [&str; 9] = [
    "Фото из Ленинграда",
    "📷🧑‍🎨 été\u{301}",
    "it's \"quoted\"; DROP TABLE jobs; --",
    "one\ntwo\r\n\tthree\u{1b}[31m",
    "{curly} [square] %percent% *star* ?:@#$&|\\",
    "   spaces   ",
    "",
    "12",
    "null",
];

pub(crate) fn texts_come_back_as_they_were(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for text in TEXTS {
        let owned = || text.to_owned();
        let full = Entry {
            name: owned(),
            label: owned(),
            payload: owned(),
            queue: owned(),
            unique: Some(owned()),
            origin: Some(owned()),
            ..entry()
        };
        let id = one.add(full.clone(), T);
        assert_eq!(other.try_add(full, T), Enqueued { id, is_new: false });
        let claimed = other.claim(&other.worker, &[room(text, 1)], T).unwrap().pop().expect(text);
        assert_eq!((claimed.name.as_str(), claimed.label.as_str(), claimed.payload.as_str()), (text, text, text));
        assert_eq!((claimed.queue.as_str(), claimed.origin.as_deref()), (text, Some(text)));
        other.beats(&[Held { progress: Some((1, 2, owned())), ..held(&claimed) }]);
        other.finish(&claimed, dead(text), T);
        let info = one.info(id);
        assert_eq!((info.name.as_str(), info.label.as_str(), info.payload.as_str()), (text, text, text));
        assert_eq!(
            (info.queue.as_str(), info.unique.as_deref(), info.origin.as_deref()),
            (text, Some(text), Some(text))
        );
        assert_eq!((info.message.as_str(), info.failures[0].words.as_str()), (text, text));
    }
}

pub(crate) fn a_megabyte_comes_back(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let payload: String = "длинный \"текст\"\n".chars().cycle().take(1 << 20).collect();
    let id = one.add(Entry { payload: payload.clone(), ..entry() }, T);
    assert!(other.take_one(T).payload == payload);
    assert!(one.info(id).payload == payload);
}

pub(crate) fn queues_of_any_name(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let names: BTreeSet<&str> = TEXTS.into_iter().collect();
    for name in &names {
        one.pause(name, true).unwrap();
        one.add(of_queue(name), T);
    }
    let queues = other.queues().unwrap();
    assert!(queues.iter().map(|queue| queue.name.as_str()).eq(names.iter().copied()), "{queues:?}");
    assert!(queues.iter().all(|queue| (queue.waiting, queue.running, queue.is_paused) == (1, 0, true)));
    for name in names {
        assert_eq!(one.claim(&one.worker, &[room(name, 9)], T).unwrap(), []);
        other.pause(name, false).unwrap();
        let claimed = one.claim(&one.worker, &[room(name, 9)], T).unwrap();
        assert!(claimed.iter().map(|claimed| claimed.queue.as_str()).eq([name]));
    }
}

// The listener.

/// Checks that an action of another process notifies the listener of `one`.
fn notifies(one: &Process, cause: impl FnOnce()) {
    let listener = Arc::new(Notify::default());
    one.listen(&listener).unwrap();
    cause();
    assert!(listener.wait(PATIENCE), "the listener was not notified");
}

pub(crate) fn a_bell_for_what_is_enqueued_here(bench: &dyn Bench) {
    let one = Process::of(bench);
    notifies(&one, || assert!(one.try_add(entry(), T).is_new));
}

pub(crate) fn a_bell_for_what_is_enqueued(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    // Also for what is due later: it may be the first that is.
    notifies(&one, || assert!(other.try_add(timed(When::After(YEAR)), T).is_new));
}

pub(crate) fn a_bell_for_a_tick(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    notifies(&one, || assert!(other.tick("nightly", T, Some(entry()), T).unwrap()));
}

pub(crate) fn a_bell_for_what_is_revived(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.job_in(JobState::Dead, T);
    notifies(&one, || assert!(other.revive(id, T).unwrap()));
}

pub(crate) fn a_bell_for_a_queue_that_goes_on(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.add(entry(), T);
    one.pause(QUEUE, true).unwrap();
    notifies(&one, || other.pause(QUEUE, false).unwrap());
}

pub(crate) fn a_bell_for_what_is_left(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    other.job_in(JobState::Running, T);
    notifies(&one, || other.leaves(T));
}

pub(crate) fn a_bell_for_what_is_recovered(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    other.job_in(JobState::Running, T);
    notifies(&one, || assert_eq!(recover(&other, T), 1));
}

pub(crate) fn a_bell_for_what_is_cancelled(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.job_in(JobState::Running, T);
    notifies(&one, || assert_eq!(other.cancel(id, T).unwrap(), Some(JobState::Running)));
}

pub(crate) fn a_bell_that_is_dropped(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let listener = Arc::new(Notify::default());
    one.listen(&listener).unwrap();
    let engine = Arc::downgrade(&listener);
    drop(listener);
    // The engine keeps no listener alive, and continues without one.
    eventually(|| (engine.strong_count() == 0).then_some(()));
    other.add(entry(), T);
    assert_eq!(one.take_all(T).len(), 1);
}

// The process.

pub(crate) fn after_a_restart(bench: &dyn Bench) {
    let before = Process::of(bench);
    assert!(!before.describe().is_empty());
    let is_durable = before.abilities().is_durable;
    // The one that waits comes last, or it would be claimed as one of the others.
    let rest = [JobState::Done, JobState::Dead, JobState::Cancelled, JobState::Scheduled, JobState::Waiting];
    let mut infos = rest.map(|state| before.info(before.job_in(state, T))).to_vec();
    infos.push(before.info(ended(&before, leaving(End::Done, Some((5, 5, "all".to_owned())), Some("17")), T)));
    before.pause("paused", true).unwrap();
    before.tick("nightly", T, None, T).unwrap();
    let running = before.add(Entry { priority: 9, ..unique("photo-7") }, T);
    let stale = before.take_one(T);
    assert_eq!(stale.id, running);
    drop(before);

    let after = Process::new(bench.restarted());
    if !is_durable {
        assert_eq!((after.counts().unwrap(), after.queues().unwrap()), (JobCounts::default(), Vec::new()));
        return assert_eq!((after.find(running).unwrap(), after.last_tick("nightly").unwrap()), (None, None));
    }
    for info in infos {
        assert_eq!(after.info(info.id), info);
    }
    assert!(after.queues().unwrap().iter().any(|queue| queue.name == "paused" && queue.is_paused));
    assert_eq!(after.last_tick("nightly").unwrap(), Some(T));
    assert_eq!(after.try_add(unique("photo-7"), T), Enqueued { id: running, is_new: false });
    eventually(|| (after.recover(SHORT, T).is_ok() && after.state(running) == JobState::Waiting).then_some(()));
    let again = Process::new(after.engine.clone());
    let claimed = again.take_one(T);
    assert_eq!((claimed.id, claimed.attempt, again.info(running).interruptions), (running, 1, 1));
    assert!(!again.settle(running, stale.token, End::Done.into(), T).unwrap());
    again.finish(&claimed, End::Done, T);
    assert!(again.add(entry(), T) > running, "numbers go on where they were");
}
