//! The rules for the size of the worker pool: decisions from counts and checks, without threads and without a clock.
//!
//! One rule comes first: while there are fewer workers than `ASIDE_MAX_WORKERS`, at least one of them is idle or about to
//! be. An idle worker therefore leaves only if another one stays idle. When all workers are busy, noticed on a tick or when
//! the last idle worker became busy, a watch begins that adds workers.
//!
//! The other rule: no more workers compute at once than there are cores. A worker beyond that number takes a request and
//! waits for a core with it, for up to 16 ms. Workers are therefore added for those that wait in a handler, and a worker
//! that was not needed for a second leaves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The intervals of checks while all workers are busy, and while the pool cannot grow.
const CHECK: Duration = Duration::from_millis(5);
pub(super) const CHECK_WHEN_FULL: Duration = Duration::from_millis(100);

/// The interval of checks while a worker is idle: a tick that checks everything again.
pub(super) const TICK: Duration = Duration::from_secs(2);

/// The number of checks that find all workers busy before one is added although they make progress.
const CHECKS_BEFORE_GROWTH: u32 = 20;

/// The number of checks without an ended request before workers are added although none waits: they compute for long, or
/// other programs take the cores. A thread may wait three slices of the scheduler, 12 ms, for its next turn.
const CHECKS_BEFORE_STALL: u32 = 4;

/// The interval of samples that show how many workers are needed, and their number before surplus workers leave: a second.
pub(super) const SAMPLE: Duration = Duration::from_millis(100);
const SAMPLES: u32 = 10;

/// The number of checks, one after the other, that find all workers busy before a warning is logged: one second.
const LONG_FULL: u32 = 10;

/// The limits of a worker pool.
pub(super) struct Policy {
    pub(super) fewest: usize,
    pub(super) most: usize,
    pub(super) cores: usize,
}

/// The numbers of workers at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) total: usize,
    pub(super) busy: usize,
}

impl Count {
    pub(super) fn all_busy(self) -> bool {
        self.busy >= self.total
    }

    fn free(self) -> usize {
        self.total.saturating_sub(self.busy)
    }
}

impl Policy {
    /// Returns true if an idle worker may leave: there are more than the minimum, and another one stays idle.
    pub(super) fn may_leave_idle(&self, count: Count) -> bool {
        self.may_leave_surplus(count) && count.free() > 1
    }

    /// Returns true if a surplus worker may leave: there are more than the minimum.
    pub(super) fn may_leave_surplus(&self, count: Count) -> bool {
        count.total > self.fewest
    }
}

/// The numbers of all and of busy workers, in one word: a worker that leaves and another one that becomes busy at the same
/// moment cannot both count the other as idle.
pub(super) struct Headcount(AtomicU64);

const ONE_MORE: u64 = 1 << 32;
const ONE_BUSY: u64 = 1;

impl Headcount {
    pub(super) const fn new() -> Headcount {
        Headcount(AtomicU64::new(0))
    }

    pub(super) fn now(&self) -> Count {
        count(self.0.load(Ordering::SeqCst))
    }

    /// Counts a new worker.
    pub(super) fn enter(&self) {
        self.0.fetch_add(ONE_MORE, Ordering::AcqRel);
    }

    /// Counts a worker out, and returns the remaining numbers.
    pub(super) fn leave(&self) -> Count {
        count(self.0.fetch_sub(ONE_MORE, Ordering::SeqCst) - ONE_MORE)
    }

    /// Counts a worker out if it may leave, and returns the remaining numbers.
    pub(super) fn leave_if(&self, may_leave: impl Fn(Count) -> bool) -> Option<Count> {
        let fewer = |word: u64| may_leave(count(word)).then(|| word - ONE_MORE);
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).ok().map(|word| count(word - ONE_MORE))
    }

    /// Counts a worker as busy, and returns the new numbers.
    pub(super) fn begin(&self) -> Count {
        count(self.0.fetch_add(ONE_BUSY, Ordering::SeqCst) + ONE_BUSY)
    }

    /// Counts a worker as idle again.
    pub(super) fn end(&self) {
        self.0.fetch_sub(ONE_BUSY, Ordering::AcqRel);
    }
}

fn count(word: u64) -> Count {
    Count { total: (word >> 32) as usize, busy: (word & u64::from(u32::MAX)) as usize }
}

/// The decision of a check.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// The number of workers to add.
    pub(super) add: usize,
    /// The time until the next check. The last worker to become busy triggers an earlier one, unless it is soon anyway.
    pub(super) next: Duration,
}

/// The watch while all workers are busy: the number of ended requests at the last check, and the results of the checks.
#[derive(Default)]
pub(super) struct Watch {
    done: Option<u64>,
    stalled: u32,
    checks: u32,
    with_core: u32,
    full: u32,
}

impl Watch {
    /// Checks once. `done` counts the requests since the start; `wait` returns true if at least `n` workers wait in a
    /// handler.
    ///
    /// If no request has ended since the last check, and a worker waits or this has been so for a while, the pool grows by
    /// half. If the workers make progress but have all been busy for a tenth of a second, one worker is added, up to a few
    /// for each core. None is added if as many workers compute as there are cores: more threads would not be faster.
    pub(super) fn check(
        &mut self,
        policy: &Policy,
        count: Count,
        done: u64,
        wait: impl FnOnce(usize) -> bool,
    ) -> Decision {
        if !count.all_busy() {
            *self = Watch::default();
            return Decision { add: 0, next: TICK };
        }
        let before = self.done.replace(done);
        let room = policy.most.saturating_sub(count.total);
        if room == 0 {
            self.full = self.full.saturating_add(1);
            return Decision { add: 0, next: CHECK_WHEN_FULL };
        }
        self.full = 0;
        let wanted = match before {
            // A pool without any worker has lost them, so workers are added at once.
            _ if count.total == 0 => policy.fewest,
            None => 0,
            Some(before) if before == done => self.note_stall(wait(1), count.total),
            Some(_) => self.note_progress(policy, count.total, wait),
        };
        Decision { add: wanted.min(room), next: CHECK }
    }

    /// Returns the number of workers to add after a check without an ended request.
    fn note_stall(&mut self, one_waits: bool, total: usize) -> usize {
        self.stalled += 1;
        if one_waits || self.stalled >= CHECKS_BEFORE_STALL { (total / 2).clamp(1, 8) } else { 0 }
    }

    /// Returns the number of workers to add after a check that found progress.
    fn note_progress(&mut self, policy: &Policy, total: usize, wait: impl FnOnce(usize) -> bool) -> usize {
        self.stalled = 0;
        let has_core = || wait((total + 1).saturating_sub(policy.cores));
        usize::from(self.note_check(total < (4 * policy.cores).max(16) && has_core()))
    }

    /// Returns true if every check of the last second found all workers busy, and no more could be added.
    pub(super) fn is_full_for_long(&self) -> bool {
        self.full >= LONG_FULL
    }

    /// Returns true if there were enough checks, and most of them found a core for one more worker.
    fn note_check(&mut self, has_core: bool) -> bool {
        self.checks += 1;
        self.with_core += u32::from(has_core);
        if self.checks < CHECKS_BEFORE_GROWTH {
            return false;
        }
        let with_core = std::mem::take(&mut self.with_core);
        self.checks = 0;
        2 * with_core > CHECKS_BEFORE_GROWTH
    }
}

/// The number of workers that the last samples found occupied.
#[derive(Default)]
pub(super) struct Surplus {
    samples: u32,
    most_occupied: usize,
}

impl Surplus {
    /// Adds a sample, and returns the number of workers that may leave. `occupied` is the number of workers that wait in a
    /// handler, or have run the same one since the last sample. Beside these there is a worker for each core.
    pub(super) fn sample(&mut self, policy: &Policy, total: usize, occupied: usize) -> usize {
        self.samples += 1;
        self.most_occupied = self.most_occupied.max(occupied);
        if self.samples < SAMPLES {
            return 0;
        }
        let needed = (std::mem::take(self).most_occupied + policy.cores).max(policy.fewest);
        total.saturating_sub(needed)
    }
}

/// The rest of a worker while background tasks compute and another worker keeps up alone. Two workers, a client on this machine
/// and the tasks would share two cores, and one of them would wait for a core for up to 4 ms, with a request.
#[derive(Default)]
pub(super) struct Rest {
    done_by_others: u64,
}

impl Rest {
    /// How long a worker rests before it looks again.
    pub(super) const PAUSE: Duration = Duration::from_millis(1);

    /// Returns true if the worker rests for a pause: another worker has ended a request since the last call, so that one waits
    /// in no handler, and the transport allows it. `done_by_others` counts the requests of the other workers.
    pub(super) fn is_due(&mut self, done_by_others: u64, may_rest: bool) -> bool {
        std::mem::replace(&mut self.done_by_others, done_by_others) != done_by_others && may_rest
    }
}

/// The number of samples that ask for fewer reserved cores before background tasks get cores back: a second.
const SAMPLES_BEFORE_RELEASE: u32 = 10;

/// The cores that background tasks leave to pages.
#[derive(Default)]
pub(super) struct Reservation {
    cores: usize,
    lower: u32,
}

impl Reservation {
    /// Adds a sample, and returns the number of reserved cores. `demand` is the time for which the workers ran or waited for
    /// a core during `elapsed`, in all. Pages that need less than half a core get none: they hardly meet the tasks.
    pub(super) fn sample(&mut self, demand: Duration, elapsed: Duration, cores: usize) -> usize {
        let wanted = (demand.as_secs_f64() / elapsed.as_secs_f64().max(0.001)).round() as usize;
        let wanted = wanted.min(cores.saturating_sub(1));
        self.lower = if wanted < self.cores { self.lower + 1 } else { 0 };
        if wanted > self.cores || self.lower >= SAMPLES_BEFORE_RELEASE {
            (self.cores, self.lower) = (wanted, 0);
        }
        self.cores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy { fewest: 2, most: 6, cores: 2 };

    /// A worker pool with a simulated clock: requests begin, workers are idle, the supervisor ticks.
    struct Simulated {
        count: Headcount,
        watch: Watch,
        done: u64,
    }

    impl Simulated {
        fn new() -> Simulated {
            let pool = Simulated { count: Headcount::new(), watch: Watch::default(), done: 0 };
            (0..POLICY.fewest).for_each(|_| pool.count.enter());
            pool
        }

        fn check(&mut self) -> Decision {
            let decision = self.watch.check(&POLICY, self.count.now(), self.done, |_| true);
            (0..decision.add).for_each(|_| self.count.enter());
            decision
        }

        fn leave_if_idle(&self) -> bool {
            self.count.leave_if(|count| POLICY.may_leave_idle(count)).is_some()
        }

        /// Checks, as the supervisor does, until it would sleep for a tick or cannot add more workers.
        fn supervise(&mut self) {
            while self.check().next == CHECK {}
        }
    }

    /// Regression: each idle worker left after 10 quiet seconds, even the last one while slow handlers held all others. The
    /// next check came only when a request began, and no worker was left to begin one.
    #[test]
    fn idle_workers_stay_while_others_are_busy() {
        let mut pool = Simulated::new();
        for slow in 1..POLICY.most {
            pool.count.begin();
            pool.supervise();
            while pool.leave_if_idle() {}
            assert!(!pool.count.now().all_busy(), "with {slow} slow handlers: {:?}", pool.count.now());
        }
        pool.count.begin();
        pool.supervise();
        assert_eq!(pool.count.now(), Count { total: POLICY.most, busy: POLICY.most }, "up to the maximum");
    }

    #[test]
    fn idle_workers_leave_down_to_the_fewest_when_all_is_quiet() {
        let pool = Simulated::new();
        (0..3).for_each(|_| pool.count.enter());
        let left = (0..10).filter(|_| pool.leave_if_idle()).count();
        assert_eq!((left, pool.count.now().total), (3, POLICY.fewest));
    }

    /// Also after a worker thread has died, and after the operating system refused a thread.
    #[test]
    fn a_tick_notices_that_all_workers_are_busy() {
        let mut pool = Simulated::new();
        assert_eq!(pool.check(), Decision { add: 0, next: TICK });
        for _ in 0..POLICY.fewest {
            pool.count.begin();
        }
        assert_eq!(pool.check(), Decision { add: 0, next: CHECK });
        assert_eq!(pool.check(), Decision { add: 1, next: CHECK });
        assert_eq!(pool.check().next, TICK);
        pool.count.end();
        for _ in 0..pool.count.now().total - 1 {
            pool.count.leave();
        }
        assert!(pool.count.now().all_busy());
        pool.supervise();
        assert!(!pool.count.now().all_busy());
    }

    #[test]
    fn a_pool_that_has_lost_all_its_workers_gets_new_ones_at_once() {
        let mut pool = Simulated::new();
        for _ in 0..POLICY.fewest {
            pool.count.leave();
        }
        assert_eq!(pool.check().add, POLICY.fewest);
    }

    #[test]
    fn a_full_pool_is_checked_less_often() {
        let mut pool = Simulated::new();
        for _ in 0..POLICY.most {
            pool.count.begin();
        }
        pool.supervise();
        assert_eq!(pool.check(), Decision { add: 0, next: CHECK_WHEN_FULL });
        assert_eq!(pool.count.now().total, POLICY.most);
    }

    #[test]
    fn a_pool_is_full_for_long_after_ten_checks_without_an_idle_worker() {
        let mut pool = Simulated::new();
        for _ in 0..POLICY.most {
            pool.count.begin();
        }
        pool.supervise();
        let checks = |pool: &mut Simulated| {
            (1..100).find(|_| {
                pool.check();
                pool.watch.is_full_for_long()
            })
        };
        assert_eq!(checks(&mut pool), Some(LONG_FULL as usize - 1), "after the check above");
        pool.count.end();
        pool.check();
        assert!(!pool.watch.is_full_for_long());
        pool.count.begin();
        assert_eq!(checks(&mut pool), Some(LONG_FULL as usize));
    }

    #[test]
    fn one_worker_is_added_if_most_checks_found_a_core_for_it() {
        let added = |with_core: u32| {
            let (mut watch, count) = (Watch::default(), Count { total: 2, busy: 2 });
            let checks = (0..=2 * CHECKS_BEFORE_GROWTH).map(|check| {
                let wait = |waiting| {
                    assert_eq!(waiting, 1, "of two workers on two cores");
                    check > 0 && (check - 1) % CHECKS_BEFORE_GROWTH < with_core
                };
                watch.check(&POLICY, count, u64::from(check), wait).add
            });
            checks.sum::<usize>()
        };
        assert_eq!(
            [0, CHECKS_BEFORE_GROWTH / 2, CHECKS_BEFORE_GROWTH / 2 + 1, CHECKS_BEFORE_GROWTH].map(added),
            [0, 0, 2, 2]
        );
    }

    #[test]
    fn a_worker_rests_while_another_one_ends_requests_and_few_are_ready() {
        let mut rest = Rest::default();
        assert!(rest.is_due(8, true) && rest.is_due(11, true));
        assert!(!rest.is_due(11, true), "the other worker waits in a handler, or has nothing to do");
        assert!(rest.is_due(12, true) && !rest.is_due(13, false), "many requests are ready");
        assert!(!rest.is_due(13, true), "none has ended since");
    }

    /// Regression: a third worker was added on two cores whenever other programs kept both workers from a core for 5 ms.
    /// Three workers then took turns on two cores, and the 99th percentile of a page rose from 0.24 to 2 ms.
    #[test]
    fn workers_that_wait_for_a_core_get_no_help_at_once() {
        let (mut watch, count) = (Watch::default(), Count { total: 2, busy: 2 });
        let mut added = |done| watch.check(&POLICY, count, done, |_| false).add;
        assert_eq!([0, 0, 0, 0].map(&mut added), [0, 0, 0, 0], "three checks without progress");
        assert_eq!(added(1), 0, "progress");
        assert_eq!([1, 1, 1, 1].map(&mut added), [0, 0, 0, 1], "a handler that computes for long is replaced at last");
    }

    #[test]
    fn a_worker_that_waits_in_a_handler_is_replaced_at_the_next_check() {
        let (mut watch, count) = (Watch::default(), Count { total: 2, busy: 2 });
        assert_eq!([0, 0].map(|done| watch.check(&POLICY, count, done, |waiting| waiting <= 1).add), [0, 1]);
    }

    #[test]
    fn workers_that_were_not_needed_for_a_second_are_surplus() {
        let mut surplus = Surplus::default();
        let mut window = |occupied: [usize; SAMPLES as usize]| -> Vec<usize> {
            occupied.map(|occupied| surplus.sample(&POLICY, 6, occupied)).into_iter().filter(|left| *left > 0).collect()
        };
        assert_eq!(window([0; 10]), [4], "one worker for each core stays");
        assert_eq!(window([0, 0, 0, 3, 0, 0, 0, 0, 0, 1]), [1], "beside the most that were occupied at once");
        assert!(window([4; 10]).is_empty());
    }

    #[test]
    fn surplus_workers_leave_down_to_the_fewest_while_all_are_busy() {
        let pool = Simulated::new();
        (0..3).for_each(|_| pool.count.enter());
        (0..5).for_each(|_| assert!(pool.count.begin().busy > 0));
        let left = (0..10).filter(|_| pool.count.leave_if(|count| POLICY.may_leave_surplus(count)).is_some()).count();
        assert_eq!((left, pool.count.now().total), (3, POLICY.fewest));
    }

    #[test]
    fn tasks_leave_a_core_to_pages_that_need_half_of_one_until_they_have_not_for_a_second() {
        let mut reservation = Reservation::default();
        let mut sample = |percent: u64| reservation.sample(Duration::from_millis(percent), SAMPLE, 2);
        assert_eq!([0, 49, 51, 100, 190].map(&mut sample), [0, 0, 1, 1, 1], "one of two cores stays");
        assert_eq!([20; 9].map(&mut sample), [1; 9]);
        assert_eq!([60, 20].map(&mut sample), [1, 1], "counted again");
        assert_eq!([20; 9].map(&mut sample), [1, 1, 1, 1, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn pages_get_as_many_cores_as_they_need_and_tasks_at_least_one() {
        let reserved = |cores, percent| Reservation::default().sample(Duration::from_millis(percent), SAMPLE, cores);
        assert_eq!([(1, 300), (2, 300), (4, 120), (4, 300), (4, 900)].map(|(c, p)| reserved(c, p)), [0, 1, 1, 3, 3]);
    }
}
