//! The policy for the growth of the thread pool: when work that waits gets another thread.
//!
//! Work arrives at any rate, and the number of threads that it needs depends on how long each piece blocks. The policy does
//! not follow arrivals, since a burst or a machine without free processors would then feed threads to a backlog that they
//! cannot shorten. It looks at how long work waits, and at how long each thread has been at the same piece of work:
//!
//! - A thread that began its work a short time ago is *brisk*: it will soon take the next piece from the queue, which is in
//!   order, so that each piece of work gets its turn. Brisk threads are limited.
//! - A thread that has been at the same work for longer does not count: no work waits for another one to end.

use std::time::Duration;

/// The brisk threads up to which work that finds no idle thread gets a new one at once.
const AT_ONCE: usize = 8;

/// The largest number of brisk threads. 90 threads run 50,000 to 65,000 pieces of work of 1 ms a second on two busy cores, where
/// each takes up to 1.5 ms. With 64 the work fell behind the requests that started it; 128 were slower.
pub(super) const MOST_BRISK: usize = 90;

/// How long work waits for a brisk thread before another one is started.
const PATIENCE: Duration = Duration::from_millis(1);

/// The time after which a thread at the same piece of work is not brisk any more.
pub(super) const BRISK: Duration = Duration::from_millis(50);

/// The state of a pool in which work waits and no thread is idle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pressure {
    /// The threads that began their work less than [`BRISK`] ago.
    pub(super) brisk: usize,
    /// The time until the first of them is not brisk any more.
    pub(super) until_fewer: Duration,
    /// How long the oldest work has waited.
    pub(super) waited: Duration,
}

/// The decision for a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Growth {
    /// One thread starts now. The pool asks again when it has arrived.
    Start,
    /// The pool asks again after the duration, if work still waits then.
    AskAgain(Duration),
}

impl Pressure {
    /// Returns the decision.
    pub(super) fn growth(self) -> Growth {
        match self.brisk {
            ..AT_ONCE => Growth::Start,
            AT_ONCE..MOST_BRISK if self.waited >= PATIENCE => Growth::Start,
            AT_ONCE..MOST_BRISK => Growth::AskAgain(PATIENCE - self.waited),
            _ => Growth::AskAgain(self.until_fewer.max(PATIENCE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// The step of the simulation. A thread takes one step to start.
    const STEP: Duration = Duration::from_micros(100);

    /// A piece of work: it computes and then blocks. With `is_waiting` it ends when the queue is empty.
    #[derive(Clone, Copy, Default)]
    struct Work {
        compute: Duration,
        block: Duration,
        is_waiting: bool,
    }

    fn blocks(block: Duration) -> Work {
        Work { compute: Duration::from_micros(10), block, ..Work::default() }
    }

    /// A pool on a machine with a number of processors.
    struct Simulation {
        cores: u32,
        now: Duration,
        queue: VecDeque<(Duration, Work)>,
        /// The threads that work, each with the time at which it began.
        threads: Vec<(Duration, Work)>,
        idle: usize,
        check_at: Duration,
        most: usize,
        ended: usize,
    }

    impl Simulation {
        fn new(cores: u32) -> Simulation {
            let queue = VecDeque::new();
            let (now, check_at) = (Duration::ZERO, Duration::ZERO);
            Simulation { cores, now, queue, threads: Vec::new(), idle: 0, check_at, most: 0, ended: 0 }
        }

        /// Runs for a time while `each_step` pieces of work arrive in each step.
        fn run(&mut self, time: Duration, each_step: usize, work: Work) {
            let until = self.now + time;
            while self.now < until {
                self.post(each_step, work);
                self.step();
            }
        }

        fn post(&mut self, count: usize, work: Work) {
            self.queue.extend(std::iter::repeat_n((self.now, work), count));
        }

        fn step(&mut self) {
            self.now += STEP;
            self.work();
            while self.idle > 0 && self.begin_next() {
                self.idle -= 1;
            }
            if !self.queue.is_empty() && self.now >= self.check_at {
                match self.pressure().growth() {
                    Growth::Start => drop(self.begin_next()),
                    Growth::AskAgain(wait) => self.check_at = self.now + wait,
                }
            }
            self.most = self.most.max(self.threads.len() + self.idle);
        }

        /// Divides the processors among the threads that compute, and lets the others block.
        fn work(&mut self) {
            let computing = self.threads.iter().filter(|(_, work)| !work.compute.is_zero()).count() as u32;
            let share = STEP.min(STEP * self.cores / computing.max(1));
            let is_queue_empty = self.queue.is_empty();
            let mut left = Vec::new();
            for (began, mut work) in std::mem::take(&mut self.threads) {
                match work.compute.is_zero() {
                    true => work.block = work.block.saturating_sub(STEP),
                    false => work.compute = work.compute.saturating_sub(share),
                }
                work.is_waiting &= !is_queue_empty;
                match work.compute.is_zero() && work.block.is_zero() && !work.is_waiting {
                    true => (self.idle, self.ended) = (self.idle + 1, self.ended + 1),
                    false => left.push((began, work)),
                }
            }
            self.threads = left;
        }

        fn begin_next(&mut self) -> bool {
            let next = self.queue.pop_front();
            self.threads.extend(next.map(|(_, work)| (self.now, work)));
            next.is_some()
        }

        fn pressure(&self) -> Pressure {
            let ages = self.threads.iter().map(|(began, _)| self.now - *began).filter(|age| *age < BRISK);
            let until_fewer = BRISK - ages.clone().max().unwrap_or_default();
            Pressure { brisk: ages.count(), until_fewer, waited: self.now - self.queue[0].0 }
        }
    }

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn steady_work_that_blocks_gets_the_threads_that_it_needs_and_no_more() {
        for (each_step, least, most) in [(1, 8, 16), (5, 50, MOST_BRISK)] {
            let mut pool = Simulation::new(2);
            pool.run(Duration::from_secs(2), each_step, blocks(MILLISECOND));
            assert!((least..=most).contains(&pool.most), "{} threads for {each_step} each step", pool.most);
            assert!(pool.queue.len() < 100 * each_step, "{} wait", pool.queue.len());
        }
    }

    #[test]
    fn work_that_waits_for_less_than_the_patience_gets_no_more_threads_than_the_first() {
        let mut pool = Simulation::new(2);
        for _ in 0..100 {
            pool.post(2 * AT_ONCE, blocks(MILLISECOND / 5));
            pool.run(2 * MILLISECOND, 0, Work::default());
            assert_eq!(pool.queue.len(), 0);
        }
        assert_eq!(pool.most, AT_ONCE);
    }

    #[test]
    fn the_first_threads_start_at_once() {
        let mut pool = Simulation::new(2);
        pool.post(AT_ONCE, blocks(Duration::from_secs(1)));
        (0..AT_ONCE).for_each(|_| pool.step());
        assert_eq!((pool.threads.len(), pool.queue.len()), (8, 0));
    }

    #[test]
    fn a_backlog_does_not_feed_threads() {
        let mut pool = Simulation::new(2);
        pool.post(100_000, blocks(MILLISECOND));
        pool.run(Duration::from_secs(4), 0, Work::default());
        assert_eq!((pool.most, pool.ended), (MOST_BRISK, 100_000));
    }

    #[test]
    fn work_that_overloads_the_processors_does_not_feed_threads() {
        let mut pool = Simulation::new(2);
        let work = Work { compute: MILLISECOND / 2, block: MILLISECOND, is_waiting: false };
        pool.run(Duration::from_secs(2), 1, work);
        assert!(pool.most <= MOST_BRISK, "{} threads", pool.most);
    }

    #[test]
    fn long_blocking_work_all_runs_soon() {
        for (count, soon) in [(200, 200 * MILLISECOND), (1_000, Duration::from_secs(1))] {
            let mut pool = Simulation::new(2);
            pool.post(count, blocks(Duration::from_secs(10)));
            pool.run(soon, 0, Work::default());
            assert_eq!((pool.threads.len(), pool.queue.len()), (count, 0));
        }
    }

    #[test]
    fn short_work_gets_its_threads_beside_long_work() {
        let mut pool = Simulation::new(2);
        pool.post(500, blocks(Duration::from_secs(10)));
        pool.run(Duration::from_secs(2), 3, blocks(MILLISECOND));
        assert!(pool.queue.len() < 300, "{} wait", pool.queue.len());
        assert!(pool.most <= 500 + MOST_BRISK, "{} threads", pool.most);
    }

    #[test]
    fn work_that_computes_for_long_all_begins() {
        let mut pool = Simulation::new(2);
        pool.post(200, Work { compute: Duration::from_secs(1), ..Work::default() });
        pool.run(Duration::from_millis(250), 0, Work::default());
        assert_eq!(pool.queue.len(), 0);
    }

    #[test]
    fn work_that_waits_for_the_last_of_the_queue_ends() {
        let mut pool = Simulation::new(2);
        pool.post(900, Work { is_waiting: true, ..Work::default() });
        pool.run(Duration::from_secs(1), 0, Work::default());
        assert_eq!(pool.ended, 900);
    }
}
