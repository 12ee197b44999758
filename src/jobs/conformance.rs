//! The conformance suite: tests of what all engines have in common.
//!
//! An engine's tests import this module and call [`conformance!`] with the engine's name and a constructor of its
//! [`Bench`]; each case then becomes a test:
//!
//! ```ignore
//! use crate::jobs::conformance;
//! conformance::conformance!(memory, || Ok(MemoryBench::new()));
//! ```
//!
//! Where engines differ, a case checks the [`Abilities`](super::engine::Abilities) and expects the other behavior; it
//! never skips a check. All times are made up. Events that take time (an expired lease, a notification by another
//! process) are awaited in a loop.

// A case that is missing in the list below is never run.
#![warn(dead_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use super::engine::{
    AttemptFailure, CLOCK_SLACK, Capacity, Claimed, Engine, Enqueued, Entry, HeartbeatReply, HeldJob, LATEST_TICK,
    LastValues, MOST_FAILURES, MOST_INTERRUPTIONS, MOST_OF_TRACE, PRIORITY_STEP, Resolution, ResolvedAttempt,
    Retention, Steps, When, WorkerId, wait_after_interruption,
};
use super::record::{
    FailureGroup, FailureKind, JobCounts, JobFailure, JobInfo, JobState, Millis, QueueInfo, StoredOutput, WorkerInfo,
    error_group,
};
use crate::background::output::Output;
use crate::sync::Notify;

/// Defines a module of tests, one for each case.
///
/// The bench is created for each case. If it is not available (a server is not installed), the constructor returns the
/// reason: `Err("no redis-server".to_owned())`; the reason is printed, and the case counts as passed.
macro_rules! conformance {
    ($engine:ident, $bench:expr) => {
        conformance::conformance! { @each $engine, $bench, [
            ids_increase,
            first_in_first_out,
            priority_counts_as_time,
            a_low_priority_job_is_not_starved,
            the_highest_and_the_lowest_priority_are_accepted,
            a_claim_respects_the_capacities,
            one_claim_serves_many_queues,
            a_claim_returns_all_fields_of_the_job,
            attempts_are_counted,
            a_stale_token_changes_nothing,
            an_attempt_is_resolved_once,
            a_done_job_stays_done,
            a_retry_waits_for_its_backoff,
            a_released_job_is_first_again,
            a_dead_job_has_its_last_failures,
            a_failure_has_its_times_its_kind_and_its_location,
            a_backtrace_is_left_out_of_lists,
            a_job_is_cancelled_with_and_without_a_message,
            cancel_in_every_state,
            a_heartbeat_returns_the_jobs_to_cancel,
            a_cancellation_is_not_lost,
            revive_in_every_state,
            a_revived_job_starts_with_all_attempts,
            a_revived_job_waits_from_the_revival_on,
            a_job_is_not_revived_while_another_has_its_key,
            discard_in_every_state,
            a_paused_queue_starts_no_job,
            a_key_is_unique_while_its_job_is_not_finished,
            unique_by_name_and_key,
            unique_within_one_call,
            unique_in_a_race,
            a_batch_is_enqueued_atomically,
            a_job_for_now_ignores_the_clock,
            a_job_is_scheduled_at_a_time_or_after_a_delay,
            a_delay_beyond_the_calendar_is_accepted,
            a_clock_set_back_does_not_delay_jobs,
            a_small_clock_difference_changes_nothing,
            a_tick_of_a_clock_far_ahead_is_repaired,
            a_claim_releases_due_jobs_of_all_queues,
            other_processes_see_the_progress,
            every_outcome_stores_the_last_progress,
            a_heartbeat_returns_the_lost_jobs,
            an_unknown_worker_is_evicted,
            jobs_of_an_expired_worker_wait_again,
            a_job_is_dead_after_many_interruptions,
            a_worker_that_sends_heartbeats_is_not_expired,
            an_expired_worker_that_returns_is_evicted,
            a_worker_that_leaves_releases_its_jobs,
            two_workers_never_claim_the_same_job,
            a_tick_enqueues_once,
            a_tick_enqueues_once_in_a_race,
            a_done_job_keeps_its_output,
            an_attempt_that_is_not_done_leaves_no_output,
            an_output_of_a_megabyte_is_stored_and_left_out_of_lists,
            outputs_are_deleted_with_their_jobs,
            finished_jobs_are_pruned_by_age,
            finished_jobs_are_pruned_by_count,
            lists_are_paged,
            the_jobs_of_a_trace_are_listed_oldest_first_in_every_state,
            a_trace_forgets_deleted_jobs,
            a_trace_lists_its_first_jobs,
            counts_and_queues_match_the_jobs,
            dead_jobs_are_counted_by_cause,
            dead_jobs_are_grouped_by_equal_errors,
            a_group_forgets_its_revived_and_discarded_jobs,
            an_abandoned_job_is_in_a_group,
            the_group_that_failed_last_is_first,
            waiting_jobs_are_listed_in_the_order_in_which_they_are_claimed,
            a_queue_has_the_time_of_its_oldest_waiting_job,
            workers_are_listed_with_their_heartbeats_and_running_jobs,
            unknown_ids_are_not_an_error,
            texts_are_stored_unchanged,
            a_payload_of_a_megabyte_is_stored,
            a_queue_can_have_any_name,
            a_job_enqueued_by_this_process_notifies,
            a_job_enqueued_by_another_process_notifies,
            a_tick_notifies,
            a_revived_job_notifies,
            a_resumed_queue_notifies,
            a_worker_that_leaves_notifies,
            a_recovered_job_notifies,
            a_cancellation_notifies,
            a_dropped_bell_is_released,
            jobs_survive_a_restart,
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

/// A separate store for one case.
pub(crate) trait Bench {
    /// Returns the first handle of the store, which is empty. Called once.
    fn engine(&self) -> Arc<dyn Engine>;

    /// Returns another handle of the same store, as another process has it.
    fn another(&self) -> Arc<dyn Engine>;

    /// Returns the handle of a process that starts after all others have ended.
    fn restarted(&self) -> Arc<dyn Engine> {
        self.another()
    }
}

/// Runs one case, or prints why it is skipped.
pub(crate) fn run<B: Bench>(bench: impl FnOnce() -> Result<B, String>, case: fn(&dyn Bench)) {
    match bench() {
        Ok(bench) => case(&bench),
        Err(reason) => eprintln!("skipped: {reason}"),
    }
}

/// A time of the wall clock, in May 2033.
const T: Millis = 2_000_000_000_000;

/// The longest wait of a test for an event.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lease that expires soon.
const SHORT: Duration = Duration::from_millis(5);

/// A lease that does not expire during a test.
const LONG: Duration = Duration::from_secs(3600);

const YEAR: Millis = 365 * 24 * 3_600_000;

const QUEUE: &str = "default";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// A process with its handle of the engine and its worker.
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

    /// Returns two processes with the same store.
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
        self.claim(&self.worker, &[capacity(QUEUE, most)], now).unwrap()
    }

    /// Claims one job, which must exist.
    fn take_one(&self, now: Millis) -> Claimed {
        self.take(1, now).pop().expect("no job to claim")
    }

    /// Claims all jobs, one by one.
    fn take_all(&self, now: Millis) -> Vec<u64> {
        std::iter::from_fn(|| self.take(1, now).pop()).map(|claimed| claimed.id).collect()
    }

    fn finish(&self, claimed: &Claimed, resolved: impl Into<ResolvedAttempt>, now: Millis) {
        assert!(self.resolve(claimed.id, claimed.token, resolved.into(), now).unwrap());
    }

    fn info(&self, id: u64) -> JobInfo {
        self.find(id).unwrap().expect("the job does not exist")
    }

    fn state(&self, id: u64) -> JobState {
        self.info(id).state
    }

    fn heartbeat_with(&self, held: &[HeldJob]) -> HeartbeatReply {
        self.heartbeat(&self.worker, held, T).unwrap()
    }

    fn leaves(&self, now: Millis) {
        self.leave(&self.worker, now).unwrap();
    }

    /// Creates a job in that state, alone in its queue.
    fn job_in(&self, state: JobState, now: Millis) -> u64 {
        let when = if state == JobState::Scheduled { When::After(YEAR) } else { When::Now };
        let id = self.add(Entry { when, ..entry() }, now);
        if state == JobState::Cancelled {
            self.cancel(id, now).unwrap();
        } else if !matches!(state, JobState::Waiting | JobState::Scheduled) {
            let claimed = self.take_one(now);
            assert_eq!(claimed.id, id);
            match state {
                JobState::Done => self.finish(&claimed, Resolution::Done, now),
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
        trace: None,
        parent: None,
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

fn of_trace(trace: &str) -> Entry {
    Entry { trace: Some(trace.to_owned()), ..entry() }
}

fn capacity(queue: &str, free: usize) -> Capacity {
    Capacity { queue: queue.to_owned(), free }
}

fn failed(message: &str) -> AttemptFailure {
    AttemptFailure::new(FailureKind::Failed, message)
}

fn retry(wait: Millis) -> Resolution {
    Resolution::Retry { wait, failure: failed("connection refused") }
}

fn dead(message: &str) -> Resolution {
    Resolution::Dead { failure: failed(message) }
}

fn cancelled(message: Option<&str>) -> Resolution {
    Resolution::Cancelled { failure: message.map(failed) }
}

fn every_resolution() -> Vec<Resolution> {
    vec![Resolution::Done, retry(5), dead("broken"), cancelled(None), cancelled(Some("told to")), Resolution::Released]
}

/// Returns the outcome of a done job with that output.
fn with_output(json: &str) -> ResolvedAttempt {
    leaving(Resolution::Done, None, Some(json))
}

fn leaving(resolution: Resolution, progress: Option<Steps>, output: Option<&str>) -> ResolvedAttempt {
    ResolvedAttempt { resolution, last_values: LastValues { progress, output: output.map(Output::from_json) } }
}

fn held(claimed: &Claimed) -> HeldJob {
    HeldJob { id: claimed.id, token: claimed.token, progress: None }
}

fn ids(claimed: &[Claimed]) -> Vec<u64> {
    claimed.iter().map(|claimed| claimed.id).collect()
}

/// Repeats the call until it returns a value.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < PATIENCE, "no value within {PATIENCE:?}");
        thread::yield_now();
    }
}

/// Runs `f` on eight threads for each handle at once. A thread that panics before it has reached the barrier as often
/// as the others would leave them there forever: check results that can fail afterwards.
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

pub(crate) fn ids_increase(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let first = one.add(entry(), T);
    let second = other.add(entry(), T);
    let rest = one.enqueue(vec![entry(), entry()], T).unwrap();
    assert!(first < second && second < rest[0].id && rest[0].id < rest[1].id);
    // An id is never assigned again.
    assert!(one.discard(rest[1].id).unwrap());
    assert!(one.add(entry(), T) > rest[1].id);
}

pub(crate) fn first_in_first_out(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let mut all: Vec<u64> = (0..5).map(|i| one.add(entry(), T + i)).collect();
    // At the same time: by their ids.
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

pub(crate) fn a_low_priority_job_is_not_starved(bench: &dyn Bench) {
    let process = Process::of(bench);
    let patient = process.add(urgent(-5), T);
    // For each job that starts, two urgent ones are enqueued.
    let rounds = (0..30).map(|minute| {
        let now = T + minute * PRIORITY_STEP;
        process.enqueue(vec![urgent(5), urgent(5)], now).unwrap();
        process.take_one(now).id
    });
    let begun: Vec<u64> = rounds.collect();
    // The twenty jobs of the first ten minutes go before it, and later ones do not.
    assert_eq!(begun.iter().position(|id| *id == patient), Some(20), "{begun:?}");
}

pub(crate) fn the_highest_and_the_lowest_priority_are_accepted(bench: &dyn Bench) {
    let process = Process::of(bench);
    let last = process.add(urgent(i32::MIN), T);
    let middle = process.add(entry(), T + YEAR);
    let first = process.add(urgent(i32::MAX), T + 2 * YEAR);
    assert_eq!(process.take_all(T + 2 * YEAR), [first, middle, last]);
    assert_eq!([first, last].map(|id| process.info(id).priority), [i32::MAX, i32::MIN]);
}

// Claims.

pub(crate) fn a_claim_respects_the_capacities(bench: &dyn Bench) {
    let process = Process::of(bench);
    for queue in ["a", "b", "c"] {
        process.enqueue(vec![of_queue(queue); 5], T).unwrap();
    }
    let claim = |capacities: &[Capacity]| {
        let mut of = BTreeMap::new();
        for claimed in process.claim(&process.worker, capacities, T).unwrap() {
            *of.entry(claimed.queue).or_insert(0) += 1;
        }
        of.into_iter().collect::<Vec<(String, i32)>>()
    };
    assert_eq!(claim(&[]), []);
    assert_eq!(claim(&[capacity("a", 2), capacity("b", 0), capacity("nothing in it", 9)]), [("a".to_owned(), 2)]);
    assert_eq!(claim(&[capacity("a", 10), capacity("b", 1)]), [("a".to_owned(), 3), ("b".to_owned(), 1)]);
    assert_eq!(claim(&[capacity("a", 10), capacity("b", 10)]), [("b".to_owned(), 4)]);
    assert_eq!(process.counts().unwrap().waiting, 5);
}

pub(crate) fn one_claim_serves_many_queues(bench: &dyn Bench) {
    let process = Process::of(bench);
    let names: Vec<String> = (0..200).map(|i| format!("queue-{i:03}")).collect();
    let both = |name: &String| [of_queue(name), of_queue(name)];
    process.enqueue(names.iter().flat_map(both).collect(), T).unwrap();
    let capacities: Vec<Capacity> = names.iter().map(|name| capacity(name, 1)).collect();
    let mut claimed = process.claim(&process.worker, &capacities, T).unwrap();
    claimed.sort_by(|a, b| a.queue.cmp(&b.queue));
    assert!(claimed.iter().map(|claimed| &claimed.queue).eq(&names));
    let queues = process.queues().unwrap();
    assert!(queues.iter().map(|queue| &queue.name).eq(&names));
    assert!(queues.iter().all(|queue| (queue.waiting, queue.running) == (1, 1)));
}

pub(crate) fn a_claim_returns_all_fields_of_the_job(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let (origin, parent) = (Some("POST /orders 3f9a1c".into()), Some("task 17".into()));
    let full = Entry { priority: 3, unique: Some("photo-7".into()), origin, parent, ..of_trace(TRACE) };
    let id = one.add(full.clone(), T);
    let waiting = other.info(id);
    assert_eq!((waiting.state, waiting.attempt, waiting.interruptions), (JobState::Waiting, 0, 0));
    assert_eq!((waiting.enqueued_at, waiting.due_at, waiting.began_at, waiting.ended_at), (T, T, None, None));
    assert_eq!((waiting.priority, &waiting.unique, &waiting.failures), (3, &full.unique, &Vec::new()));
    assert_eq!((&waiting.name, &waiting.label, &waiting.payload), (&full.name, &full.label, &full.payload));
    assert_eq!((&waiting.queue, &waiting.request), (&full.queue, &full.origin));
    assert_eq!((&waiting.trace, &waiting.parent), (&full.trace, &full.parent));

    let claimed = other.take_one(T + 5);
    assert_eq!((claimed.id, claimed.attempt, claimed.enqueued_at), (id, 1, T));
    assert_eq!((&claimed.name, &claimed.label, &claimed.payload), (&full.name, &full.label, &full.payload));
    assert_eq!((&claimed.queue, &claimed.origin), (&full.queue, &full.origin));
    assert_eq!((&claimed.trace, &claimed.parent), (&full.trace, &full.parent));
    let running = JobInfo { state: JobState::Running, attempt: 1, began_at: Some(T + 5), ..waiting };
    assert_eq!(one.info(id), running);
}

pub(crate) fn attempts_are_counted(bench: &dyn Bench) {
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

// The end of an attempt.

pub(crate) fn a_stale_token_changes_nothing(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    let stale = one.take_one(T);
    one.leaves(T);
    let claimed = other.take_one(T + 1);
    assert_eq!(claimed.id, id);
    let before = other.info(id);
    for end in every_resolution() {
        for token in [stale.token, 0, u64::from(u32::MAX)] {
            assert!(!one.resolve(id, token, end.clone().into(), T + 2).unwrap(), "{end:?} with the token {token}");
        }
    }
    assert_eq!(other.info(id), before);
    assert!(other.resolve(id, claimed.token, Resolution::Done.into(), T + 3).unwrap());
}

pub(crate) fn an_attempt_is_resolved_once(bench: &dyn Bench) {
    let process = Process::of(bench);
    for first in every_resolution() {
        let id = process.add(entry(), T);
        let claimed = process.take_one(T);
        process.finish(&claimed, first.clone(), T + 1);
        let before = process.info(id);
        for second in every_resolution() {
            assert!(
                !process.resolve(id, claimed.token, second.clone().into(), T + 2).unwrap(),
                "{first:?}, then {second:?}"
            );
        }
        assert_eq!(process.info(id), before);
        process.discard(id).unwrap();
    }
}

pub(crate) fn a_done_job_stays_done(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    one.finish(&one.take_one(T + 1), Resolution::Done, T + 2);
    let info = other.info(id);
    assert_eq!((info.state, info.attempt, info.began_at, info.ended_at), (JobState::Done, 1, Some(T + 1), Some(T + 2)));
    assert!(info.failures.is_empty());
    assert_eq!(other.take(1, T + YEAR), []);
}

pub(crate) fn a_retry_waits_for_its_backoff(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    one.finish(&one.take_one(T), retry(1_000), T + 50);
    let info = other.info(id);
    assert_eq!((info.state, info.due_at, info.attempt), (JobState::Scheduled, T + 1_050, 1));
    let failure = &info.failures[0];
    assert_eq!((failure.attempt, failure.at, failure.message.as_str()), (1, T + 50, "connection refused"));
    assert_eq!(other.next_due().unwrap(), Some(T + 1_050));
    // The job waits from its due time, which is after the first of these and before the second.
    let before = one.add(entry(), T + 1_049);
    assert_eq!(ids(&other.take(2, T + 1_049)), [before]);
    let after = one.add(entry(), T + 1_051);
    let claimed = other.take(2, T + 1_051);
    assert_eq!(ids(&claimed), [id, after]);
    assert_eq!((claimed[0].attempt, other.next_due().unwrap()), (2, None));
}

pub(crate) fn a_released_job_is_first_again(bench: &dyn Bench) {
    let process = Process::of(bench);
    let first = process.add(entry(), T);
    let second = process.add(entry(), T + 1);
    let claimed = process.take_one(T + 2);
    process.finish(&claimed, Resolution::Released, T + 3);
    let info = process.info(first);
    assert_eq!((info.state, info.attempt, info.interruptions), (JobState::Waiting, 0, 0));
    assert!(info.failures.is_empty());
    let again = process.take(2, T + 4);
    assert_eq!(ids(&again), [first, second]);
    assert_eq!(again[0].attempt, 1);
    assert_ne!(again[0].token, claimed.token);
}

pub(crate) fn a_dead_job_has_its_last_failures(bench: &dyn Bench) {
    let process = Process::of(bench);
    let id = process.add(entry(), T);
    let tries = MOST_FAILURES as u32 + 5;
    for attempt in 1..=tries {
        let message = format!("attempt {attempt}");
        let end =
            if attempt == tries { dead(&message) } else { Resolution::Retry { wait: 0, failure: failed(&message) } };
        process.finish(&process.take_one(T), end, T + i64::from(attempt) - i64::from(tries));
    }
    let info = process.info(id);
    assert_eq!((info.state, info.attempt, info.ended_at), (JobState::Dead, tries, Some(T)));
    let kept: Vec<(u32, Millis, &str)> =
        info.failures.iter().map(|failure| (failure.attempt, failure.at, failure.message.as_str())).collect();
    assert_eq!(kept.len(), MOST_FAILURES);
    assert_eq!(kept[0], (6, T - 24, "attempt 6"));
    assert_eq!(kept[MOST_FAILURES - 1], (tries, T, "attempt 30"));
    assert!(kept.is_sorted());
    assert_eq!(process.take(1, T + YEAR), []);
}

fn located(kind: FailureKind) -> AttemptFailure {
    let (location, backtrace) =
        (Some("src/orders.rs:41".to_owned()), Some("  0: orders::save\n  \"1\": main".to_owned()));
    AttemptFailure { location, backtrace, ..AttemptFailure::new(kind, "no\n\"credit\"") }
}

pub(crate) fn a_failure_has_its_times_its_kind_and_its_location(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    for (i, kind) in FailureKind::ALL.into_iter().enumerate() {
        let began_at = T + 10 * i as Millis;
        let resolution = Resolution::Retry { wait: 0, failure: located(kind) };
        one.finish(&one.take_one(began_at), resolution, began_at + 3);
        let failures = other.info(id).failures;
        assert_eq!(failures.len(), i + 1);
        let AttemptFailure { kind, message, location, backtrace } = located(kind);
        let (attempt, at, began_at) = (i as u32 + 1, began_at + 3, Some(began_at));
        assert_eq!(failures[i], JobFailure { attempt, at, began_at, kind, message, location, backtrace });
    }
    one.finish(&one.take_one(T + 50), retry(0), T + 51);
    let last = other.info(id).failures.pop().unwrap();
    assert_eq!((last.kind, last.location, last.backtrace), (FailureKind::Failed, None, None));
}

pub(crate) fn a_backtrace_is_left_out_of_lists(bench: &dyn Bench) {
    let process = Process::of(bench);
    let id = process.add(of_trace(TRACE), T);
    process.finish(&process.take_one(T), Resolution::Dead { failure: located(FailureKind::Panicked) }, T);
    let whole = process.info(id);
    assert!(whole.failures[0].backtrace.is_some());
    let listed = whole.listed();
    assert_eq!((&listed.failures[0].backtrace, listed.failures[0].location.is_some()), (&None, true));
    assert_eq!(process.list(JobState::Dead, None, 9).unwrap(), std::slice::from_ref(&listed));
    assert_eq!(process.of_trace(TRACE, 9).unwrap(), [listed]);
}

pub(crate) fn a_job_is_cancelled_with_and_without_a_message(bench: &dyn Bench) {
    let process = Process::of(bench);
    for message in [None, Some("stopped by hand")] {
        let id = process.add(entry(), T);
        process.finish(&process.take_one(T), cancelled(message), T + 1);
        let info = process.info(id);
        assert_eq!((info.state, info.attempt, info.ended_at), (JobState::Cancelled, 1, Some(T + 1)));
        assert!(info.failures.iter().map(|failure| failure.message.as_str()).eq(message));
        assert_eq!(process.take(1, T + YEAR), []);
    }
}

// Operations of users.

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
        assert_eq!(other.cancel(id, T + 7).unwrap(), Some(expected.state), "and again");
    }
    assert_eq!((one.take(9, T + 2 * YEAR), one.next_due().unwrap()), (Vec::new(), None));
}

pub(crate) fn a_heartbeat_returns_the_jobs_to_cancel(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.enqueue(vec![entry(); 3], T).unwrap();
    let claimed = one.take(3, T);
    let all: Vec<HeldJob> = claimed.iter().map(held).collect();
    assert_eq!(one.heartbeat_with(&all), HeartbeatReply::default());
    other.cancel(claimed[1].id, T).unwrap();
    for _ in 0..2 {
        assert_eq!(
            one.heartbeat_with(&all),
            HeartbeatReply { cancel: vec![claimed[1].id], ..HeartbeatReply::default() }
        );
    }
    one.finish(&claimed[1], cancelled(None), T);
    let info = one.info(claimed[1].id);
    assert_eq!((info.state, info.is_cancelling), (JobState::Cancelled, false));
    // A job that completes despite its cancellation is done.
    other.cancel(claimed[2].id, T).unwrap();
    one.finish(&claimed[2], Resolution::Done, T);
    let info = one.info(claimed[2].id);
    assert_eq!((info.state, info.is_cancelling), (JobState::Done, false));
    assert_eq!(one.heartbeat_with(&all[..1]), HeartbeatReply::default());
}

/// A job that would be retried is cancelled instead, if its worker has not received the cancellation in time.
pub(crate) fn a_cancellation_is_not_lost(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for end in [retry(5), retry(0), Resolution::Released] {
        let id = one.job_in(JobState::Waiting, T);
        let claimed = one.take_one(T);
        other.cancel(id, T).unwrap();
        one.finish(&claimed, end.clone(), T + 1);
        let info = one.info(id);
        assert_eq!((info.state, info.is_cancelling), (JobState::Cancelled, false), "{end:?}");
        assert_eq!(info.failures.len(), usize::from(end != Resolution::Released), "{end:?}");
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
        // So that the next round does not claim it.
        one.cancel(id, T).unwrap();
    }
}

pub(crate) fn a_revived_job_starts_with_all_attempts(bench: &dyn Bench) {
    let process = Process::of(bench);
    for end in [dead("broken"), cancelled(Some("broken"))] {
        let id = process.add(entry(), T);
        process.finish(&process.take_one(T), retry(0), T);
        process.finish(&process.take_one(T), end, T + 1);
        assert!(process.revive(id, T + 2).unwrap());
        let info = process.info(id);
        assert_eq!((info.attempt, info.interruptions, info.is_cancelling), (0, 0, false));
        let message: Vec<&str> = info.failures.iter().map(|failure| failure.message.as_str()).collect();
        assert_eq!(message, ["connection refused", "broken"]);
        let claimed = process.take_one(T + 2);
        assert_eq!((claimed.id, claimed.attempt), (id, 1));
        process.finish(&claimed, Resolution::Done, T + 3);
    }
    // A job that waits for its next attempt only waits no longer.
    let id = process.add(entry(), T);
    process.finish(&process.take_one(T), retry(YEAR), T);
    assert!(process.revive(id, T + 1).unwrap());
    assert_eq!((process.next_due().unwrap(), process.take_one(T + 1).attempt), (None, 2));
}

pub(crate) fn a_revived_job_waits_from_the_revival_on(bench: &dyn Bench) {
    let process = Process::of(bench);
    let revived = [JobState::Dead, JobState::Cancelled, JobState::Scheduled].map(|state| process.job_in(state, T));
    let before = process.add(entry(), T + 5);
    for (i, id) in revived.into_iter().enumerate() {
        assert!(process.revive(id, T + 6 + i as i64).unwrap());
    }
    let after = process.add(entry(), T + 9);
    assert_eq!(process.take_all(T + 9), [before, revived[0], revived[1], revived[2], after]);
}

pub(crate) fn a_job_is_not_revived_while_another_has_its_key(bench: &dyn Bench) {
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
    process.finish(&claimed, Resolution::Done, T + 3);
    // Now the key is free, and then the revived job uses it again.
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

pub(crate) fn a_paused_queue_starts_no_job(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let running = one.job_in(JobState::Running, T);
    let waits = one.add(entry(), T);
    let elsewhere = one.add(of_queue("mail"), T);
    for _ in 0..2 {
        other.pause(QUEUE, true).unwrap();
    }
    let capacities = [capacity(QUEUE, 9), capacity("mail", 9)];
    assert_eq!(ids(&one.claim(&one.worker, &capacities, T).unwrap()), [elsewhere]);
    let comes_later = one.add(entry(), T + 1);
    one.add(timed(When::After(1)), T + 1);
    assert_eq!(one.claim(&one.worker, &capacities, T + 2).unwrap(), []);
    // The running job is not affected. The due job waits, so that it is not due again at each claim.
    assert_eq!((one.state(running), one.next_due().unwrap()), (JobState::Running, None));
    let queue = |engine: &dyn Engine| engine.queues().unwrap().into_iter().find(|queue| queue.name == QUEUE);
    let paused = QueueInfo { name: QUEUE.to_owned(), waiting: 3, running: 1, is_paused: true, oldest_at: Some(T) };
    assert_eq!((queue(&*one), queue(&*other)), (Some(paused.clone()), Some(paused)));
    one.pause(QUEUE, false).unwrap();
    one.pause("never paused", false).unwrap();
    assert_eq!(ids(&other.take(2, T + 2)), [waits, comes_later]);
    assert!(queue(&*other).is_some_and(|queue| !queue.is_paused));
}

// Unique keys.

pub(crate) fn a_key_is_unique_while_its_job_is_not_finished(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let mut last = 0;
    for end in [Resolution::Done, dead("broken"), cancelled(None)] {
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
        assert_eq!(one.try_add(unique("photo-7"), T), same, "to be retried");
        other.finish(&other.take_one(T + 200), end, T + 200);
        last = new.id;
    }
    // The key is also free when a waiting job is cancelled or discarded.
    let waiting = one.try_add(unique("photo-7"), T);
    one.cancel(waiting.id, T).unwrap();
    let next = one.try_add(unique("photo-7"), T);
    one.discard(next.id).unwrap();
    assert!(waiting.is_new && next.is_new && one.try_add(unique("photo-7"), T).is_new);
}

pub(crate) fn unique_by_name_and_key(bench: &dyn Bench) {
    let process = Process::of(bench);
    let keyed = |name: &str, key: &str| Entry { name: name.to_owned(), ..unique(key) };
    let all = vec![
        keyed("resize", "7"),
        keyed("import", "7"),
        keyed("resize", "8"),
        keyed("resize", ""),
        keyed("resize:", "7"),
        keyed("resize", ":7"),
        entry(),
        entry(),
        keyed("resize", "7 "),
        keyed("Resize", "7"),
        keyed("resize", "é"),
        keyed("resize", "É"),
    ];
    let ids: BTreeSet<u64> = process.enqueue(all.clone(), T).unwrap().iter().map(|new| new.id).collect();
    assert_eq!(ids.len(), all.len());
    let again = process.enqueue(all.into_iter().filter(|entry| entry.unique.is_some()).collect(), T).unwrap();
    assert!(again.iter().all(|same| !same.is_new && ids.contains(&same.id)), "{again:?}");
    // In any queue.
    let elsewhere = Entry { queue: "mail".to_owned(), ..keyed("resize", "7") };
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

pub(crate) fn a_batch_is_enqueued_atomically(bench: &dyn Bench) {
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

pub(crate) fn a_job_for_now_ignores_the_clock(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    assert_eq!((one.state(id), one.next_due().unwrap()), (JobState::Waiting, None));
    assert_eq!(ids(&other.take(1, T - YEAR)), [id]);
}

pub(crate) fn a_job_is_scheduled_at_a_time_or_after_a_delay(bench: &dyn Bench) {
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
    // A time in the past, and no delay, count as now: naming an early time does not move a job ahead.
    let first = one.add(entry(), T + 600);
    let late = [When::At(T), When::At(0), When::After(0)].map(|when| one.add(timed(when), T + 601));
    assert!(late.iter().all(|id| one.state(*id) == JobState::Waiting));
    assert_eq!(one.take_all(T + 602), [&[first][..], &late].concat());
}

pub(crate) fn a_delay_beyond_the_calendar_is_accepted(bench: &dyn Bench) {
    let process = Process::of(bench);
    let ids = [When::After(Millis::MAX), When::At(Millis::MAX)].map(|when| process.add(timed(when), T));
    process.add(entry(), T);
    process.finish(&process.take_one(T), retry(Millis::MAX), T);
    assert_eq!(process.take(9, T + 1_000 * YEAR), []);
    assert!(process.next_due().unwrap().is_some_and(|due| due > T + 1_000 * YEAR));
    assert!(ids.iter().all(|id| process.state(*id) == JobState::Scheduled));
}

pub(crate) fn a_clock_set_back_does_not_delay_jobs(bench: &dyn Bench) {
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
    // The job waits from its corrected due time.
    let later = one.add(entry(), now + 1_001);
    assert_eq!(ids(&one.take(9, now + 1_001)), [after, later]);
    assert_eq!(ids(&one.take(9, T + 1_000)), [at]);
}

/// A clock that advanced, the clock of another machine, or a time taken before a wait for a lock.
pub(crate) fn a_small_clock_difference_changes_nothing(bench: &dyn Bench) {
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
pub(crate) fn a_tick_of_a_clock_far_ahead_is_repaired(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    assert!(one.tick("nightly", T + YEAR, None, T + YEAR).unwrap());
    assert!(one.tick("hourly", T + LATEST_TICK, None, T).unwrap());
    other.clock_went_back(T).unwrap();
    let last = |schedule| one.last_tick(schedule).unwrap();
    assert_eq!((last("nightly"), last("hourly")), (Some(T), Some(T + LATEST_TICK)));
    assert!(one.tick("nightly", T + 1, Some(entry()), T + 1).unwrap());
    assert_eq!(one.counts().unwrap().waiting, 1);
}

pub(crate) fn a_claim_releases_due_jobs_of_all_queues(bench: &dyn Bench) {
    let process = Process::of(bench);
    for (queue, wait) in [("a", 30), ("b", 10), ("c", 20)] {
        process.add(Entry { when: When::After(wait), ..of_queue(queue) }, T);
    }
    assert_eq!(process.next_due().unwrap(), Some(T + 10));
    // Due jobs wait after any claim, for any queue, and are not due again.
    assert_eq!(process.claim(&process.worker, &[capacity("d", 1)], T + 20).unwrap(), []);
    assert_eq!(process.next_due().unwrap(), Some(T + 30));
    let counts = process.counts().unwrap();
    assert_eq!((counts.waiting, counts.scheduled), (2, 1));
}

// Workers.

pub(crate) fn other_processes_see_the_progress(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    let claimed = one.take_one(T);
    let so_far = |engine: &Process| {
        let info = engine.info(id);
        (info.done, info.total, info.message)
    };
    let told = |done, total, message: &str| {
        one.heartbeat_with(&[HeldJob { progress: Some((done, total, message.to_owned())), ..held(&claimed) }])
    };
    assert_eq!(so_far(&other), (0, 0, String::new()));
    assert_eq!(told(3, 10, "фото 3 из 10 📷"), HeartbeatReply::default());
    assert_eq!(so_far(&other), (3, 10, "фото 3 из 10 📷".to_owned()));
    // Without changed progress, and without jobs, the progress stays.
    one.heartbeat_with(&[held(&claimed)]);
    one.heartbeat_with(&[]);
    assert_eq!(so_far(&other), (3, 10, "фото 3 из 10 📷".to_owned()));
    assert_eq!(told(0, 0, ""), HeartbeatReply::default());
    assert_eq!(so_far(&other), (0, 0, String::new()));
    // Extreme values of a program must not expire its worker.
    assert_eq!(told(u64::MAX, u64::MAX, "all"), HeartbeatReply::default());
    assert!(so_far(&other).0 >= i64::MAX as u64);
    one.finish(&claimed, retry(0), T);
    other.take_one(T);
    assert_eq!(so_far(&one), (0, 0, String::new()), "each attempt starts without progress");
}

/// Regression: the progress since the last heartbeat was lost, and a page went back to an earlier step at the end.
pub(crate) fn every_outcome_stores_the_last_progress(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for end in every_resolution() {
        let id = one.add(entry(), T);
        let claimed = one.take_one(T);
        one.heartbeat_with(&[HeldJob { progress: Some((3, 5, "part 3".to_owned())), ..held(&claimed) }]);
        let last = (5, 5, "вся 📷".to_owned());
        one.finish(&claimed, leaving(end.clone(), Some(last.clone()), None), T);
        let info = other.info(id);
        assert_eq!((info.done, info.total, info.message), last, "{end:?}");
        // A delayed heartbeat has no effect.
        one.heartbeat_with(&[HeldJob { progress: Some((4, 5, "part 4".to_owned())), ..held(&claimed) }]);
        assert_eq!(other.info(id).done, 5, "{end:?}");
        if !other.state(id).is_finished() {
            let again = other.claim(&other.worker, &[capacity(QUEUE, 1)], T + 5).unwrap().pop().expect("it waits");
            let info = one.info(id);
            assert_eq!((info.done, info.total, info.message.as_str()), (0, 0, ""), "{end:?}");
            other.finish(&again, Resolution::Done, T + 5);
        }
    }
    // Without progress in the outcome, that of the last heartbeat stays; a stale token has no effect.
    let id = one.add(entry(), T);
    let claimed = one.take_one(T);
    one.heartbeat_with(&[HeldJob { progress: Some((3, 5, String::new())), ..held(&claimed) }]);
    let last = leaving(Resolution::Done, Some((9, 9, String::new())), Some("9"));
    assert!(!other.resolve(id, claimed.token + 1, last, T).unwrap());
    one.finish(&claimed, Resolution::Done, T);
    let info = other.info(id);
    assert_eq!((info.done, info.total, info.output), (3, 5, StoredOutput::Absent));
}

pub(crate) fn a_heartbeat_returns_the_lost_jobs(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.enqueue(vec![entry(); 3], T).unwrap();
    let claimed = one.take(3, T);
    one.finish(&claimed[0], retry(0), T);
    let again = other.take_one(T);
    assert_eq!(again.id, claimed[0].id);
    one.finish(&claimed[1], Resolution::Done, T);
    one.discard(claimed[1].id).unwrap();
    other.cancel(again.id, T).unwrap();
    let progress = Some((1, 2, "by one that has lost it".to_owned()));
    let all: Vec<HeldJob> =
        claimed.iter().map(|claimed| HeldJob { progress: progress.clone(), ..held(claimed) }).collect();
    let heartbeat = one.heartbeat_with(&all);
    let lost: BTreeSet<u64> = heartbeat.lost.into_iter().collect();
    assert_eq!(lost, [claimed[0].id, claimed[1].id].into());
    assert_eq!((heartbeat.is_evicted, heartbeat.cancel), (false, Vec::new()));
    assert_eq!(one.info(again.id).message, "");
    assert_eq!(one.info(claimed[2].id).message, "by one that has lost it");
    assert_eq!(
        other.heartbeat_with(&[held(&again)]),
        HeartbeatReply { cancel: vec![again.id], ..HeartbeatReply::default() }
    );
}

/// A worker that has not joined, or has left, gets no jobs: its death would not be detected.
pub(crate) fn an_unknown_worker_is_evicted(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    assert_ne!(one.worker, other.worker);
    one.leaves(T);
    one.leaves(T);
    let id = other.add(entry(), T);
    for unknown in [&one.worker, &WorkerId("unknown".to_owned())] {
        assert!(one.heartbeat(unknown, &[], T).unwrap().is_evicted);
        let claimed = one.claim(unknown, &[capacity(QUEUE, 1)], T);
        assert!(claimed.is_err() || claimed.is_ok_and(|claimed| claimed.is_empty()));
        one.leave(unknown, T).unwrap();
    }
    assert!(!other.heartbeat_with(&[]).is_evicted);
    assert_eq!(other.take_all(T), [id]);
}

/// Repeats the recovery until it releases jobs. Returns their number.
fn recover(process: &Process, now: Millis) -> usize {
    eventually(|| Some(process.recover(SHORT, now).unwrap().released).filter(|jobs| *jobs > 0))
}

pub(crate) fn jobs_of_an_expired_worker_wait_again(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.enqueue(vec![entry(); 2], T).unwrap();
    let lost = one.take(2, T);
    let later = other.add(entry(), T + 1);
    let tried = other.take_one(T + 1);
    assert_eq!(tried.id, later);
    other.finish(&tried, Resolution::Released, T + 1);

    // Not before the lease expires, which does not depend on the wall clock.
    assert_eq!(other.recover(LONG, T).unwrap().released + other.recover(LONG, T + YEAR).unwrap().released, 0);
    let given_back = eventually(|| {
        other.heartbeat_with(&[]);
        Some(other.recover(SHORT, T + 2).unwrap().released).filter(|jobs| *jobs > 0)
    });
    assert_eq!(given_back, 2);
    for lost in &lost {
        let info = other.info(lost.id);
        assert_eq!((info.state, info.attempt, info.interruptions), (JobState::Waiting, 0, 1));
        let failure = &info.failures[0];
        assert_eq!((info.failures.len(), failure.kind, failure.attempt), (1, FailureKind::Abandoned, 1));
        assert_eq!((failure.began_at, failure.at), (Some(T), T + 2));
        assert_eq!(failure.message, "the process ended during the attempt");
    }
    let again = other.take(9, T + 3);
    assert_eq!(ids(&again), [lost[0].id, lost[1].id, later]);
    assert!(again.iter().all(|claimed| claimed.attempt == 1), "an interrupted attempt does not count");
    assert_eq!(other.recover(LONG, T).unwrap().released, 0);
}

pub(crate) fn a_job_is_dead_after_many_interruptions(bench: &dyn Bench) {
    let first = Process::of(bench);
    let observer = bench.another();
    let id = first.add(entry(), T);
    let mut due = T;
    for interruptions in 1..=MOST_INTERRUPTIONS {
        let worker = Process::new(first.engine.clone());
        assert!(due == T || worker.take(1, due - 1).is_empty(), "the backoff grows");
        assert_eq!(worker.take_one(due).attempt, 1);
        let mut died = Vec::new();
        eventually(|| {
            died.extend(observer.recover(SHORT, T + 9).unwrap().dead);
            (first.state(id) != JobState::Running).then_some(())
        });
        assert_eq!(died, if interruptions == MOST_INTERRUPTIONS { vec![id] } else { vec![] });
        let wait = wait_after_interruption(interruptions);
        due = if wait == 0 { T } else { T + 9 + wait };
        assert_eq!(first.info(id).state == JobState::Waiting, interruptions <= 3);
        let info = first.info(id);
        assert_eq!((info.interruptions, info.attempt), (interruptions, 0));
        assert_eq!(info.state == JobState::Dead, interruptions == MOST_INTERRUPTIONS);
        assert_eq!(info.failures.len(), interruptions as usize);
    }
    let info = first.info(id);
    assert!(info.failures.iter().all(|failure| (failure.attempt, failure.kind) == (1, FailureKind::Abandoned)));
    assert_eq!(info.failures[0].message, "the process ended during the attempt");
    let failure = info.failures.last().unwrap();
    assert_eq!((failure.attempt, failure.at, info.ended_at), (1, T + 9, Some(T + 9)));
    assert!(failure.message.contains(&MOST_INTERRUPTIONS.to_string()), "{}", failure.message);
    assert_eq!(first.counts().unwrap(), JobCounts { dead: 1, abandoned: 1, ..JobCounts::default() });
    assert!(first.revive(id, T + 10).unwrap());
    assert_eq!(first.info(id).interruptions, 0);
}

pub(crate) fn a_worker_that_sends_heartbeats_is_not_expired(bench: &dyn Bench) {
    const LEASE: Duration = Duration::from_millis(20);
    let (one, other) = Process::two(bench);
    let id = one.job_in(JobState::Running, T);
    let began = Instant::now();
    // Each observation sees a new heartbeat, however long the machine takes between two.
    while began.elapsed() < 4 * LEASE {
        assert_eq!(one.heartbeat(&one.worker, &[], T).unwrap(), HeartbeatReply::default());
        other.heartbeat_with(&[]);
        assert_eq!(other.recover(LEASE, T).unwrap().released, 0);
    }
    assert_eq!(one.state(id), JobState::Running);
}

pub(crate) fn an_expired_worker_that_returns_is_evicted(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.add(entry(), T);
    let claimed = one.take_one(T);
    recover(&other, T);
    let progress = Some((1, 2, "by one that was thought dead".to_owned()));
    assert!(one.heartbeat_with(&[HeldJob { progress, ..held(&claimed) }]).is_evicted);
    let before = other.info(id);
    assert_eq!((before.state, before.message.as_str()), (JobState::Waiting, ""));
    assert!(
        every_resolution().into_iter().all(|resolution| !one.resolve(id, claimed.token, resolution.into(), T).unwrap())
    );
    assert_eq!(other.info(id), before);
    // It joins again with a new id, and a claim has a new token.
    let again = Process::new(one.engine.clone());
    assert_ne!(again.worker, one.worker);
    let reclaimed = again.take_one(T);
    assert_eq!((reclaimed.id, reclaimed.attempt), (id, 1));
    assert!(!one.resolve(id, claimed.token, Resolution::Done.into(), T).unwrap());
    assert_eq!(again.heartbeat_with(&[held(&reclaimed)]), HeartbeatReply::default());
    again.finish(&reclaimed, Resolution::Done, T);
}

pub(crate) fn a_worker_that_leaves_releases_its_jobs(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let held_by_one = one.enqueue(vec![entry(), entry()], T).unwrap();
    let claimed = one.take(2, T);
    let later = other.add(entry(), T + 1);
    let others = other.take_one(T + 1);
    one.leaves(T + 2);
    for claimed in &claimed {
        let info = other.info(claimed.id);
        assert_eq!((info.state, info.attempt, info.interruptions), (JobState::Waiting, 0, 0));
        assert!(!one.resolve(claimed.id, claimed.token, Resolution::Done.into(), T + 3).unwrap());
    }
    assert_eq!((others.id, other.state(later)), (later, JobState::Running));
    other.finish(&others, Resolution::Released, T + 3);
    assert_eq!(other.take_all(T + 3), [held_by_one[0].id, held_by_one[1].id, later]);
}

pub(crate) fn two_workers_never_claim_the_same_job(bench: &dyn Bench) {
    const JOBS: usize = 2_000;
    let (one, other) = Process::two(bench);
    one.enqueue(vec![entry(); JOBS], T).unwrap();
    let taken = race([&*one, &*other], |engine, barrier| {
        barrier.wait();
        let worker = engine.join().unwrap();
        let claim = || engine.claim(&worker, &[capacity(QUEUE, 7)], T).unwrap();
        std::iter::from_fn(|| Some(claim()).filter(|some| !some.is_empty())).flatten().collect::<Vec<_>>()
    });
    let all: Vec<Claimed> = taken.into_iter().flatten().collect();
    assert_eq!(all.len(), JOBS);
    assert_eq!(all.iter().map(|claimed| claimed.id).collect::<BTreeSet<_>>().len(), JOBS);
    assert_eq!(one.counts().unwrap(), JobCounts { running: JOBS as u64, ..JobCounts::default() });
}

// Schedules.

pub(crate) fn a_tick_enqueues_once(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let tick = |engine: &Process, due, job| engine.tick("nightly", due, job, T + 5).unwrap();
    assert_eq!(one.last_tick("nightly").unwrap(), None);
    // Without a job, only the time is recorded.
    assert!(tick(&one, T, None));
    assert_eq!((other.last_tick("nightly").unwrap(), other.take(1, T + 5)), (Some(T), Vec::new()));
    assert!(!tick(&other, T, Some(entry())));
    assert!(!tick(&other, T - 1, Some(entry())));
    assert!(!tick(&other, T - YEAR, None));
    assert_eq!((one.last_tick("nightly").unwrap(), one.counts().unwrap().waiting), (Some(T), 0));
    assert!(tick(&other, T + 1, Some(unique("night"))));
    let info = one.info(one.take_one(T + 5).id);
    assert_eq!((info.enqueued_at, info.unique.as_deref(), info.attempt), (T + 5, Some("night"), 1));
    // The last job still runs: the tick is recorded, and no job is enqueued.
    assert!(tick(&one, T + 2, Some(unique("night"))));
    assert_eq!((one.last_tick("nightly").unwrap(), one.take(1, T + YEAR)), (Some(T + 2), Vec::new()));
    // Each schedule separately; also before 1970.
    assert!(one.tick("ночью", -5, Some(entry()), T).unwrap());
    assert!(!one.tick("ночью", -5, Some(entry()), T).unwrap());
    assert_eq!(other.last_tick("ночью").unwrap(), Some(-5));
    assert_eq!(one.counts().unwrap(), JobCounts { waiting: 1, running: 1, ..JobCounts::default() });
}

pub(crate) fn a_tick_enqueues_once_in_a_race(bench: &dyn Bench) {
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

// Retention and lists.

const ALL: Retention = Retention { age: Duration::MAX, count: u64::MAX };

/// Returns a job with that outcome at that time.
fn ended(process: &Process, resolved: impl Into<ResolvedAttempt>, at: Millis) -> u64 {
    let id = process.add(entry(), T - YEAR);
    let claimed = process.take_one(T - YEAR);
    process.finish(&claimed, resolved, at);
    id
}

pub(crate) fn a_done_job_keeps_its_output(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let outputs =
        ["null", "17", r#""""#, r#"{"rows":17,"text":"é \" \\ \u0000 📷\n"}"#, "=[1.50, 18446744073709551616]"];
    let ids = outputs.map(|json| ended(&one, with_output(json), T));
    let without = ended(&one, Resolution::Done, T);
    for (id, json) in ids.into_iter().zip(outputs) {
        assert_eq!(other.info(id).output, StoredOutput::Whole(Output::from_json(json)));
    }
    assert_eq!(other.info(without).output, StoredOutput::Absent);
}

pub(crate) fn an_attempt_that_is_not_done_leaves_no_output(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    for end in every_resolution().into_iter().filter(|end| *end != Resolution::Done) {
        let id = one.add(entry(), T);
        one.finish(&one.take_one(T), leaving(end.clone(), None, Some("17")), T);
        assert_eq!(other.info(id).output, StoredOutput::Absent, "{end:?}");
        // Another attempt has its own output, or none.
        other.revive(id, T).unwrap();
        let again = other.claim(&other.worker, &[capacity(QUEUE, 1)], T + 5).unwrap().pop().expect("it waits");
        assert_eq!((again.id, one.info(id).output), (id, StoredOutput::Absent), "{end:?}");
        other.finish(&again, Resolution::Done, T + 5);
        assert_eq!(one.info(id).output, StoredOutput::Absent, "{end:?}");
    }
}

pub(crate) fn an_output_of_a_megabyte_is_stored_and_left_out_of_lists(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let text: String = "длинный 'текст' ".chars().cycle().take(600_000).collect();
    let json = format!("\"{text}\"");
    let (whole, without) = (ended(&one, with_output(&json), T), ended(&one, Resolution::Done, T));
    assert!(other.info(whole).output == StoredOutput::Whole(Output::from_json(json)));
    let list = other.list(JobState::Done, None, 9).unwrap();
    let listed: Vec<(u64, &StoredOutput)> = list.iter().map(|job| (job.id, &job.output)).collect();
    assert_eq!(listed, [(without, &StoredOutput::Absent), (whole, &StoredOutput::LeftOut)]);
    assert_eq!(list[1], one.info(whole).listed(), "all else is there");
}

pub(crate) fn outputs_are_deleted_with_their_jobs(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let [kept, discarded, old] = [T + 9, T + 9, T].map(|at| ended(&one, with_output("17"), at));
    assert!(other.discard(discarded).unwrap());
    assert_eq!(other.prune(Retention { age: Duration::from_millis(5), ..ALL }, T + 9).unwrap(), 1);
    assert!([discarded, old].iter().all(|id| one.find(*id).unwrap().is_none()));
    assert_eq!(one.info(kept).output, StoredOutput::Whole(Output::from_json("17")));
}

pub(crate) fn finished_jobs_are_pruned_by_age(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let old = [ended(&one, Resolution::Done, T), ended(&one, cancelled(None), T + 10)];
    let young = [ended(&one, Resolution::Done, T + 20), ended(&one, cancelled(None), T + 30)];
    let dead = ended(&one, dead("broken"), T);
    let others = [JobState::Running, JobState::Waiting, JobState::Scheduled].map(|state| one.job_in(state, T - YEAR));
    assert_eq!(other.prune(ALL, T + 40).unwrap(), 0);
    assert_eq!(other.prune(Retention { age: Duration::from_millis(25), ..ALL }, T + 40).unwrap(), 2);
    assert!(old.iter().all(|id| one.find(*id).unwrap().is_none()));
    assert!(young.iter().chain(&others).chain([&dead]).all(|id| one.find(*id).unwrap().is_some()));
    assert_eq!(other.prune(Retention { age: Duration::ZERO, ..ALL }, T + YEAR).unwrap(), 2);
    let rest = JobCounts { dead: 1, waiting: 1, running: 1, scheduled: 1, ..JobCounts::default() };
    assert_eq!(one.counts().unwrap(), rest);
}

pub(crate) fn finished_jobs_are_pruned_by_count(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    // The last jobs to end stay, regardless of their ids; dead jobs do not count.
    let ends = [
        (5, Resolution::Done),
        (1, cancelled(None)),
        (4, cancelled(None)),
        (2, Resolution::Done),
        (3, Resolution::Done),
    ];
    let ended_then = ends.map(|(at, end)| (at, ended(&one, end, T + at)));
    let never: Vec<u64> = (0..3).map(|_| ended(&one, dead("broken"), T)).collect();
    assert_eq!(other.prune(Retention { count: 5, ..ALL }, T + 9).unwrap(), 0);
    assert_eq!(other.prune(Retention { count: 2, ..ALL }, T + 9).unwrap(), 3);
    for (at, id) in ended_then {
        assert_eq!(one.find(id).unwrap().is_some(), at >= 4, "the one that ended {at} ms later");
    }
    assert_eq!(other.prune(Retention { count: 0, ..ALL }, T + 9).unwrap(), 2);
    assert!(never.iter().all(|id| one.state(*id) == JobState::Dead));
    assert_eq!(one.counts().unwrap(), JobCounts { dead: 3, ..JobCounts::default() });
}

pub(crate) fn lists_are_paged(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    // The order of the queue is different.
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
    // Also below a job that no longer exists.
    one.discard(all[3]).unwrap();
    assert_eq!(page(Some(all[3]), 2), [all[2], all[1]]);
    assert_eq!(page(Some(all[4]), 2), [all[2], all[1]]);
    assert!(one.list(JobState::Dead, None, 9).unwrap().is_empty());
}

pub(crate) fn the_jobs_of_a_trace_are_listed_oldest_first_in_every_state(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.add(of_trace("00000000000000000000000000000001"), T);
    one.add(entry(), T);
    let jobs = one.enqueue(vec![of_trace(TRACE); 4], T).unwrap();
    let late = other.add(Entry { when: When::After(YEAR), ..of_trace(TRACE) }, T);
    let jobs: Vec<u64> = jobs.iter().map(|new| new.id).chain([late]).collect();
    let claimed = other.take(5, T);
    one.finish(&claimed[2], with_output("7"), T + 1);
    one.finish(&claimed[3], dead("broken"), T + 1);
    one.cancel(jobs[3], T + 1).unwrap();
    let listed = other.of_trace(TRACE, MOST_OF_TRACE).unwrap();
    assert_eq!(listed.iter().map(|job| job.id).collect::<Vec<_>>(), jobs);
    let states: Vec<JobState> = listed.iter().map(|job| job.state).collect();
    use JobState::{Cancelled, Dead, Done, Running, Scheduled};
    assert_eq!(states, [Done, Dead, Running, Cancelled, Scheduled]);
    assert_eq!((&listed[0].output, listed[1].failures.len()), (&StoredOutput::LeftOut, 1));
    assert_eq!(other.of_trace(TRACE, 2).unwrap(), listed[..2]);
    assert_eq!(other.of_trace("00000000000000000000000000000002", MOST_OF_TRACE).unwrap(), []);
}

pub(crate) fn a_trace_forgets_deleted_jobs(bench: &dyn Bench) {
    let process = Process::of(bench);
    let jobs: Vec<u64> = (0..3).map(|_| process.add(of_trace(TRACE), T)).collect();
    process.cancel(jobs[0], T).unwrap();
    process.prune(Retention { age: Duration::MAX, count: 0 }, T).unwrap();
    process.discard(jobs[1]).unwrap();
    let listed = || process.of_trace(TRACE, MOST_OF_TRACE).unwrap().iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(listed(), [jobs[2]]);
    process.discard(jobs[2]).unwrap();
    assert_eq!(listed(), Vec::<u64>::new());
}

pub(crate) fn a_trace_lists_its_first_jobs(bench: &dyn Bench) {
    let process = Process::of(bench);
    let jobs = process.enqueue(vec![of_trace(TRACE); MOST_OF_TRACE + 10], T).unwrap();
    let listed = process.of_trace(TRACE, MOST_OF_TRACE).unwrap();
    assert!(listed.iter().map(|job| job.id).eq(jobs[..MOST_OF_TRACE].iter().map(|new| new.id)));
    let last = jobs.last().unwrap().id;
    assert!(process.discard(last).unwrap() && process.find(last).unwrap().is_none());
}

pub(crate) fn counts_and_queues_match_the_jobs(bench: &dyn Bench) {
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
    let queue = |name: &str, waiting, running, is_paused| {
        let oldest_at = (waiting > 0).then_some(T);
        QueueInfo { name: name.to_owned(), waiting, running, is_paused, oldest_at }
    };
    let queues =
        [queue("a", 1, 0, false), queue("b", 1, 0, false), queue(QUEUE, 6, 5, false), queue("empty", 0, 0, true)];
    assert_eq!(other.queues().unwrap(), queues);
    assert_eq!(other.paused().unwrap(), BTreeSet::from(["empty".to_owned()]));
}

pub(crate) fn dead_jobs_are_counted_by_cause(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let die = |cause| {
        let id = one.add(entry(), T);
        one.finish(&one.take_one(T), Resolution::Dead { failure: AttemptFailure::new(cause, "again and again") }, T);
        id
    };
    die(FailureKind::Failed);
    let timed_out = [die(FailureKind::TimedOut), die(FailureKind::TimedOut)];
    let panicked = [die(FailureKind::Panicked), die(FailureKind::Panicked), die(FailureKind::Panicked)];
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
    // Another cause the second time.
    one.finish(
        &one.take_one(T),
        Resolution::Dead { failure: AttemptFailure::new(FailureKind::TimedOut, "too late") },
        T,
    );
    assert_eq!(one.counts().unwrap(), dead(5, 2, 2, 0, 0));
}

fn named(name: &str) -> Entry {
    Entry { name: name.to_owned(), ..entry() }
}

/// Creates a job that dies with that message.
fn die_of(process: &Process, name: &str, message: &str, now: Millis) -> u64 {
    let id = process.add(named(name), now);
    let claimed = process.take_one(now);
    assert_eq!(claimed.id, id);
    process.finish(&claimed, dead(message), now);
    id
}

fn group(name: &str, error: &str, count: u64, last_at: Millis, newest: u64) -> FailureGroup {
    FailureGroup { name: name.to_owned(), error: error.to_owned(), count, last_at, newest }
}

pub(crate) fn dead_jobs_are_grouped_by_equal_errors(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    assert_eq!(one.failure_groups(20).unwrap(), []);
    die_of(&one, "charge", "order 17 not found", T);
    let newest = die_of(&other, "charge", "order 1800 not found", T + 1);
    let of_another_type = die_of(&one, "refund", "order 17 not found", T + 2);
    let of_another_error = die_of(&one, "charge", "no #1 in \u{e9}: 12:30", T + 3);
    // Neither a failure that is retried nor a cancellation.
    one.add(named("charge"), T);
    one.finish(&one.take_one(T), Resolution::Retry { wait: YEAR, failure: failed("order 5 not found") }, T + 4);
    one.add(named("charge"), T);
    one.finish(&one.take_one(T), cancelled(Some("order 6 not found")), T + 4);
    let groups = [
        group("charge", "no # in \u{e9}: #:#", 1, T + 3, of_another_error),
        group("refund", "order # not found", 1, T + 2, of_another_type),
        group("charge", "order # not found", 2, T + 1, newest),
    ];
    assert_eq!(other.failure_groups(20).unwrap(), groups);
    let long = "\u{e9}".repeat(5_000);
    let id = die_of(&one, "charge", &long, T + 9);
    assert_eq!(one.failure_groups(1).unwrap(), [group("charge", &"\u{e9}".repeat(200), 1, T + 9, id)]);
}

pub(crate) fn a_group_forgets_its_revived_and_discarded_jobs(bench: &dyn Bench) {
    let process = Process::of(bench);
    let [first, second, third] = [1, 2, 3].map(|i| die_of(&process, "charge", &format!("order {i}"), T + i));
    let only = |count, last_at, newest| vec![group("charge", "order #", count, last_at, newest)];
    let groups = || process.failure_groups(20).unwrap();
    assert_eq!(groups(), only(3, T + 3, third));
    assert!(process.discard(third).unwrap());
    assert_eq!(groups(), only(2, T + 2, second));
    assert!(process.revive(first, T + 4).unwrap());
    assert_eq!(groups(), only(1, T + 2, second));
    process.finish(&process.take_one(T + 5), dead("order 4"), T + 5);
    assert_eq!(groups(), only(2, T + 5, first));
    process.prune(Retention { age: Duration::ZERO, count: 0 }, T + YEAR).unwrap();
    assert_eq!(groups(), only(2, T + 5, first));
    assert!(process.revive(first, T + 6).unwrap() && process.revive(second, T + 6).unwrap());
    assert_eq!(groups(), []);
    process.finish(&process.take_one(T + 7), Resolution::Done, T + 7);
    process.finish(&process.take_one(T + 7), dead("another"), T + 7);
    assert_eq!(groups().iter().map(|group| group.error.as_str()).collect::<Vec<_>>(), ["another"]);
}

pub(crate) fn an_abandoned_job_is_in_a_group(bench: &dyn Bench) {
    let process = Process::of(bench);
    let id = process.add(named("charge"), T);
    for interruption in 0..MOST_INTERRUPTIONS {
        process.revive(id, T).unwrap();
        let worker = Process::new(process.engine.clone());
        worker.take_one(T);
        recover(&process, T + 1);
        assert_eq!(process.failure_groups(20).unwrap().len(), usize::from(interruption + 1 == MOST_INTERRUPTIONS));
    }
    let error = error_group(&process.info(id).failures.pop().unwrap().message);
    assert!(error.starts_with("the process ended # times"), "{error}");
    assert_eq!(process.failure_groups(20).unwrap(), [group("charge", &error, 1, T + 1, id)]);
}

pub(crate) fn the_group_that_failed_last_is_first(bench: &dyn Bench) {
    let process = Process::of(bench);
    let letters = || ('a'..='z').map(|letter| letter.to_string());
    let times: Vec<Millis> = (0..26).map(|i| T + i * 7 % 26).collect();
    let ids: Vec<u64> =
        letters().zip(&times).map(|(letter, time)| die_of(&process, "charge", &letter, *time)).collect();
    let mut groups: Vec<FailureGroup> =
        letters().zip(&times).zip(ids).map(|((letter, time), id)| group("charge", &letter, 1, *time, id)).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.last_at));
    assert_eq!(process.failure_groups(20).unwrap(), groups[..20]);
    assert_eq!(process.failure_groups(99).unwrap(), groups);
}

pub(crate) fn waiting_jobs_are_listed_in_the_order_in_which_they_are_claimed(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let first = one.add(entry(), T);
    let released = one.add(entry(), T + 1);
    let in_mail = one.add(Entry { priority: -1, ..of_queue("mail") }, T + 2);
    let second = one.add(urgent(1), T + PRIORITY_STEP + 3);
    let last = one.add(entry(), T + PRIORITY_STEP);
    one.add(timed(When::After(YEAR)), T);
    one.pause("mail", true).unwrap();
    let claimed = other.take(2, T + PRIORITY_STEP + 3);
    assert_eq!(ids(&claimed), [first, released]);
    other.finish(&claimed[1], Resolution::Released, T + PRIORITY_STEP + 4);
    let next = |queue, most| other.next_to_run(queue, most).unwrap().iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(next(None, 9), [released, second, last, in_mail]);
    assert_eq!(next(None, 3), [released, second, last]);
    assert_eq!(next(Some(QUEUE), 9), [released, second, last]);
    assert_eq!(next(Some(QUEUE), 1), [released]);
    assert_eq!((next(Some("mail"), 9), next(Some("missing"), 9), next(None, 0)), (vec![in_mail], vec![], vec![]));
    assert_eq!(other.take_all(T + 2 * PRIORITY_STEP), [released, second, last]);
}

pub(crate) fn a_queue_has_the_time_of_its_oldest_waiting_job(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let oldest =
        || other.queues().unwrap().into_iter().find(|queue| queue.name == QUEUE).and_then(|queue| queue.oldest_at);
    assert_eq!(oldest(), None);
    let low = one.add(urgent(-3), T + 5);
    one.add(urgent(2), T + 9);
    one.add(timed(When::After(YEAR)), T);
    assert_eq!(oldest(), Some(T + 5), "a job of low priority is older than the next to run");
    let claimed = one.take(2, T + 10);
    assert_eq!((claimed[1].id, oldest()), (low, None));
    one.finish(&claimed[1], Resolution::Released, T + 20);
    assert_eq!(oldest(), Some(T + 5), "a released job waits as if it had not started");
    one.finish(&claimed[0], retry(30), T + 20);
    one.take(1, T + 20);
    assert_eq!(oldest(), None);
    one.claim(&one.worker, &[capacity("other", 1)], T + 99).unwrap();
    assert_eq!(oldest(), Some(T + 50), "a retried job waits from the time at which it was due");
}

pub(crate) fn workers_are_listed_with_their_heartbeats_and_running_jobs(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let of = |process: &Process| other.workers().unwrap().into_iter().find(|info| info.id == process.worker.0);
    let before = of(&one).unwrap();
    assert_eq!((before.pid, before.heartbeat_at, before.running), (Some(std::process::id()), None, 0));
    assert_eq!(before.host, super::engine::host());
    one.enqueue(vec![entry(); 3], T).unwrap();
    let claimed = one.take(2, T);
    one.heartbeat(&one.worker, &[held(&claimed[0]), held(&claimed[1])], T + 7).unwrap();
    assert_eq!(of(&one), Some(WorkerInfo { heartbeat_at: Some(T + 7), running: 2, ..before }));
    one.finish(&claimed[0], Resolution::Done, T + 8);
    assert_eq!(of(&one).unwrap().running, 1);
    assert!(other.workers().unwrap().is_sorted_by_key(|info| info.id.clone()));
    one.leaves(T + 9);
    assert_eq!((of(&one), of(&other).unwrap().running), (None, 0));
}

pub(crate) fn unknown_ids_are_not_an_error(bench: &dyn Bench) {
    let process = Process::of(bench);
    let id = process.job_in(JobState::Running, T);
    for unknown in [0, id + 1, u64::from(u32::MAX), i64::MAX as u64] {
        assert_eq!(process.find(unknown).unwrap(), None);
        assert_eq!(process.cancel(unknown, T).unwrap(), None);
        assert!(!process.revive(unknown, T).unwrap());
        assert!(!process.discard(unknown).unwrap());
        assert!(!process.resolve(unknown, 1, Resolution::Done.into(), T).unwrap());
        assert_eq!(process.heartbeat_with(&[HeldJob { id: unknown, token: 1, progress: None }]).lost, [unknown]);
    }
    assert_eq!(process.last_tick("unknown").unwrap(), None);
    assert_eq!(process.counts().unwrap(), JobCounts { running: 1, ..JobCounts::default() });
}

// Texts.

/// Texts that users write, and texts that break a query or key without escaping.
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

pub(crate) fn texts_are_stored_unchanged(bench: &dyn Bench) {
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
        let claimed = other.claim(&other.worker, &[capacity(text, 1)], T).unwrap().pop().expect(text);
        assert_eq!((claimed.name.as_str(), claimed.label.as_str(), claimed.payload.as_str()), (text, text, text));
        assert_eq!((claimed.queue.as_str(), claimed.origin.as_deref()), (text, Some(text)));
        other.heartbeat_with(&[HeldJob { progress: Some((1, 2, owned())), ..held(&claimed) }]);
        other.finish(&claimed, dead(text), T);
        let info = one.info(id);
        assert_eq!((info.name.as_str(), info.label.as_str(), info.payload.as_str()), (text, text, text));
        assert_eq!(
            (info.queue.as_str(), info.unique.as_deref(), info.request.as_deref()),
            (text, Some(text), Some(text))
        );
        assert_eq!((info.message.as_str(), info.failures[0].message.as_str()), (text, text));
    }
}

pub(crate) fn a_payload_of_a_megabyte_is_stored(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let payload: String = "длинный \"текст\"\n".chars().cycle().take(1 << 20).collect();
    let id = one.add(Entry { payload: payload.clone(), ..entry() }, T);
    assert!(other.take_one(T).payload == payload);
    assert!(one.info(id).payload == payload);
}

pub(crate) fn a_queue_can_have_any_name(bench: &dyn Bench) {
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
        assert_eq!(one.claim(&one.worker, &[capacity(name, 9)], T).unwrap(), []);
        other.pause(name, false).unwrap();
        let claimed = one.claim(&one.worker, &[capacity(name, 9)], T).unwrap();
        assert!(claimed.iter().map(|claimed| claimed.queue.as_str()).eq([name]));
    }
}

// Notifications.

/// Checks that the listener of `one` is notified after `cause`.
fn notifies(one: &Process, cause: impl FnOnce()) {
    let listener = Arc::new(Notify::default());
    one.listen(&listener).unwrap();
    cause();
    assert!(listener.wait(PATIENCE), "the listener was not notified");
}

pub(crate) fn a_job_enqueued_by_this_process_notifies(bench: &dyn Bench) {
    let one = Process::of(bench);
    notifies(&one, || assert!(one.try_add(entry(), T).is_new));
}

pub(crate) fn a_job_enqueued_by_another_process_notifies(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    // Also for a scheduled job: it may be the next that is due.
    notifies(&one, || assert!(other.try_add(timed(When::After(YEAR)), T).is_new));
}

pub(crate) fn a_tick_notifies(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    notifies(&one, || assert!(other.tick("nightly", T, Some(entry()), T).unwrap()));
}

pub(crate) fn a_revived_job_notifies(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.job_in(JobState::Dead, T);
    notifies(&one, || assert!(other.revive(id, T).unwrap()));
}

pub(crate) fn a_resumed_queue_notifies(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    one.add(entry(), T);
    one.pause(QUEUE, true).unwrap();
    notifies(&one, || other.pause(QUEUE, false).unwrap());
}

pub(crate) fn a_worker_that_leaves_notifies(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    other.job_in(JobState::Running, T);
    notifies(&one, || other.leaves(T));
}

pub(crate) fn a_recovered_job_notifies(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    other.job_in(JobState::Running, T);
    notifies(&one, || assert_eq!(recover(&other, T), 1));
}

pub(crate) fn a_cancellation_notifies(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let id = one.job_in(JobState::Running, T);
    notifies(&one, || assert_eq!(other.cancel(id, T).unwrap(), Some(JobState::Running)));
}

pub(crate) fn a_dropped_bell_is_released(bench: &dyn Bench) {
    let (one, other) = Process::two(bench);
    let listener = Arc::new(Notify::default());
    one.listen(&listener).unwrap();
    let engine = Arc::downgrade(&listener);
    drop(listener);
    // The engine does not keep the listener, and continues without it.
    eventually(|| (engine.strong_count() == 0).then_some(()));
    other.add(entry(), T);
    assert_eq!(one.take_all(T).len(), 1);
}

// Restarts.

pub(crate) fn jobs_survive_a_restart(bench: &dyn Bench) {
    let before = Process::of(bench);
    assert!(!before.describe().is_empty());
    let is_durable = before.abilities().is_durable;
    // The waiting job is created last: it would be claimed instead of one of the others.
    let rest = [JobState::Done, JobState::Dead, JobState::Cancelled, JobState::Scheduled, JobState::Waiting];
    let mut infos = rest.map(|state| before.info(before.job_in(state, T))).to_vec();
    infos.push(before.info(ended(&before, leaving(Resolution::Done, Some((5, 5, "all".to_owned())), Some("17")), T)));
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
    assert!(!again.resolve(running, stale.token, Resolution::Done.into(), T).unwrap());
    again.finish(&claimed, Resolution::Done, T);
    assert!(again.add(entry(), T) > running, "numbers go on where they were");
}

/// Prints how long the queries of an overview take with 10,000 dead and 1,000,000 done jobs, and 10,000 waiting ones.
#[cfg(any(feature = "sqlite", feature = "redis"))]
pub(crate) fn measure_overview(engine: Arc<dyn Engine>) {
    const DONE: usize = 1_000_000;
    const DEAD: usize = 10_000;
    const BATCH: usize = 1_000;
    let process = Process::new(engine);
    let end = |count: usize, resolution: &dyn Fn(u64) -> Resolution| {
        for _ in (0..count).step_by(BATCH) {
            let new = (0..BATCH).map(|i| of_trace(&format!("{:032x}", i / 3))).collect();
            process.enqueue(new, T).unwrap();
            let ended = process.take(BATCH, T).into_iter().map(|claimed| {
                let (id, token, resolved) = (claimed.id, claimed.token, Arc::new(resolution(claimed.id).into()));
                crate::jobs::engine::EndedAttempt { id, token, resolved }
            });
            let recorded = process.exchange(&ended.collect::<Vec<_>>(), None, T + 1).unwrap().recorded;
            assert!(recorded.len() == BATCH && recorded.into_iter().all(Result::unwrap));
        }
    };
    let began = Instant::now();
    end(DONE, &|_| Resolution::Done);
    println!("{} jobs done in {:.1?}", DONE, began.elapsed());
    end(DEAD, &|id| dead(&format!("{} {id} not found", ["order", "user", "photo"][id as usize % 3])));
    process.enqueue((0..DEAD).map(|i| of_queue(&format!("queue-{}", i % 5))).collect(), T).unwrap();
    let (mut all, mut sum) = (Vec::new(), Duration::ZERO);
    let mut measure = |name: &str, ask: &dyn Fn()| {
        ask();
        let mut times: Vec<Duration> = (0..21)
            .map(|_| {
                let began = Instant::now();
                ask();
                began.elapsed()
            })
            .collect();
        times.sort_unstable();
        sum += times[10];
        all.push(format!("{name} {:.0?}", times[10]));
    };
    measure("counts", &|| assert_eq!(process.counts().unwrap().done, DONE as u64));
    measure("queues", &|| assert_eq!(process.queues().unwrap().len(), 5));
    measure("failure_groups", &|| assert_eq!(process.failure_groups(20).unwrap().len(), 3));
    measure("next_to_run", &|| assert_eq!(process.next_to_run(None, 10).unwrap().len(), 10));
    measure("workers", &|| assert_eq!(process.workers().unwrap().len(), 1));
    measure("running", &|| assert_eq!(process.list(JobState::Running, None, 10).unwrap(), []));
    measure("dead", &|| assert_eq!(process.list(JobState::Dead, None, 10).unwrap().len(), 10));
    measure("last_tick", &|| assert_eq!(process.last_tick("report").unwrap(), None));
    println!("{}; in all {sum:.1?}", all.join(", "));
    let (began, mut before) = (Instant::now(), None);
    for _ in (0..10_000).step_by(64) {
        before = process.list(JobState::Done, before, 64).unwrap().last().map(|job| job.id);
    }
    println!("the newest 10,000 jobs read in batches, as a search does: {:.0?}", began.elapsed());
}
