use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, mpsc};
use std::thread;

use super::*;
use crate::worker_share::tests::one_of_two_workers_is_refused;

const MINUTE: Duration = Duration::from_secs(60);

fn fine(value: u32) -> Result<u32, Infallible> {
    Ok(value)
}

#[test]
fn an_expired_entry_is_never_returned() {
    let cache = Cache::new(10);
    let start = Instant::now();
    cache.set_at("a", 1, MINUTE, start);
    assert_eq!(cache.get_at("a", start + MINUTE - Duration::from_nanos(1)), Some(1));
    assert_eq!(cache.get_at("a", start + MINUTE), None);
    assert!(cache.is_empty(), "an expired entry is dropped when it is found");
}

#[test]
fn expired_entries_are_dropped_without_being_read() {
    let cache = Cache::new(1_000);
    let start = Instant::now();
    (0..500).for_each(|number| cache.set_at(&number.to_string(), number, MINUTE / 2, start));
    cache.set_at("stays", 1, 10 * MINUTE, start);
    assert!(cache.len() > 400);
    cache.set_at("later", 1, MINUTE, start + 2 * SWEEP_EVERY);
    assert_eq!(cache.len(), 2);
}

#[test]
fn a_long_key_takes_no_more_memory_than_a_short_one() {
    let (cache, long) = (Cache::new(10), "a".repeat(1_000_000));
    cache.set(&*long, 1, MINUTE);
    assert_eq!(cache.remember(&long, MINUTE, || fine(2)).unwrap(), 1);
    assert_eq!(cache.remember(&format!("{long}b"), MINUTE, || fine(2)).unwrap(), 2);
    assert!(cache.entries.iter().all(|(key, _)| key.len() < 100));
    // A client that sends the stored form of another key gets an entry of its own.
    let stored = bounds::key(&long, LONGEST_KEY).into_owned();
    assert_eq!((cache.get(&stored), cache.get(&long)), (None, Some(1)));
    assert!(cache.remove(&long) && cache.get(&long).is_none());
}

#[test]
fn a_ttl_of_zero_stores_nothing_and_the_longest_never_expires() {
    let cache = Cache::new(10);
    cache.set("zero", 1, Duration::ZERO);
    cache.set("ever", 2, Duration::MAX);
    assert_eq!(cache.get("zero"), None);
    assert_eq!(cache.get_at("ever", Instant::now() + 1_000_000 * MINUTE), Some(2));
    assert_eq!(cache.remember("none", Duration::ZERO, || fine(3)).unwrap(), 3);
    assert_eq!(cache.get("none"), None);
}

#[test]
fn an_expired_entry_is_computed_again() {
    let cache = Cache::new(10);
    cache.set("a", 1, Duration::ZERO);
    assert_eq!(cache.remember("a", MINUTE, || fine(2)).unwrap(), 2);
    assert_eq!(cache.remember("a", MINUTE, || fine(3)).unwrap(), 2);
}

#[test]
fn concurrent_callers_compute_a_value_once() {
    let (cache, barrier, runs) = (Cache::new(10), Barrier::new(32), AtomicUsize::new(0));
    let ask = || {
        barrier.wait();
        cache.remember("a", MINUTE, || {
            runs.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            fine(7)
        })
    };
    thread::scope(|scope| {
        let asking: Vec<_> = (0..32).map(|_| scope.spawn(ask)).collect();
        assert!(asking.into_iter().all(|thread| thread.join().unwrap().unwrap() == 7));
    });
    assert_eq!(runs.into_inner(), 1);
}

/// Eight threads ask at once, and the first computation fails.
fn first_fails(fail: impl Fn() -> Result<u32, fmt::Error> + Sync) -> Vec<thread::Result<Option<u32>>> {
    let (cache, barrier, runs) = (Cache::new(10), Barrier::new(8), AtomicUsize::new(0));
    let ask = || {
        barrier.wait();
        cache.remember("a", MINUTE, || if runs.fetch_add(1, Ordering::SeqCst) == 0 { fail() } else { Ok(7) }).ok()
    };
    let results = thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|thread| thread.join()).collect()
    });
    assert_eq!(runs.into_inner(), 2, "one fails, and one computes for all the others");
    assert_eq!(cache.get("a"), Some(7));
    results
}

#[test]
fn a_failure_goes_to_its_caller_and_the_next_computes() {
    let results = first_fails(|| Err(fmt::Error));
    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    assert_eq!(results.iter().filter(|result| result.is_none()).count(), 1);
    assert_eq!(results.iter().filter(|result| **result == Some(7)).count(), 7);
}

#[test]
fn a_panic_goes_to_its_caller_and_the_next_computes() {
    let results = first_fails(|| std::panic::resume_unwind(Box::new("no")));
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    assert_eq!(results.iter().filter(|result| matches!(result, Ok(Some(7)))).count(), 7);
}

/// Regression: a value that took long to compute occupied all workers that asked for it.
#[test]
fn few_workers_wait_for_a_value() {
    let cache = Cache::new(10);
    let Found::Claim(claim) = cache.wait_or_claim("a").unwrap() else { panic!("an empty cache has a value") };
    let computed = || drop(claim.insert(Entry::new(7, MINUTE, Instant::now())));
    assert_eq!(one_of_two_workers_is_refused(|| cache.remember("a", MINUTE, || fine(8)), computed), 7);
}

#[test]
fn a_key_set_or_removed_during_a_computation_keeps_that_change() {
    let cache = Cache::new(10);
    let _ = cache.remember("set", MINUTE, || {
        cache.set("set", 1, MINUTE);
        fine(2)
    });
    assert_eq!(cache.get("set"), Some(1));
    let _ = cache.remember("removed", MINUTE, || {
        cache.remove("removed");
        fine(2)
    });
    assert_eq!(cache.get("removed"), None);
    let _ = cache.remember("cleared", MINUTE, || {
        cache.clear();
        fine(2)
    });
    assert_eq!(cache.get("cleared"), None);
}

#[test]
fn a_computation_may_ask_for_other_keys_but_not_for_its_own() {
    let (cache, other) = (Cache::new(10), Cache::new(10));
    let nested = cache.remember("a", MINUTE, || {
        let b = cache.remember("b", MINUTE, || fine(1))?;
        let same_name = other.remember("a", MINUTE, || fine(10))?;
        crate::error::ok(b + same_name)
    });
    assert_eq!(nested.unwrap(), 11);
    let own = || cache.remember("c", MINUTE, || cache.clone().remember("c", MINUTE, || fine(1)));
    let panic = catch_unwind(AssertUnwindSafe(own)).unwrap_err();
    assert!(panic.downcast_ref::<String>().unwrap().contains("\"c\""));
    assert_eq!(cache.remember("c", MINUTE, || fine(5)).unwrap(), 5, "the key is free again");
}

#[test]
fn a_value_is_dropped_and_cloned_outside_the_locks() {
    struct Asks(Cache<Asks>, mpsc::Sender<usize>);
    impl Clone for Asks {
        fn clone(&self) -> Asks {
            Asks(self.0.clone(), self.1.clone())
        }
    }
    impl Drop for Asks {
        fn drop(&mut self) {
            let _ = self.1.send(self.0.len());
        }
    }
    let cache = Cache::new(1);
    let (send, lens) = mpsc::channel();
    for key in ["a", "b", "c"] {
        cache.set(key, Asks(cache.clone(), send.clone()), MINUTE);
    }
    cache.clear();
    assert_eq!(lens.try_iter().count(), 3);
}

#[test]
fn the_number_of_entries_is_bounded() {
    for capacity in [1, 10, 1_000] {
        let cache = Cache::new(capacity);
        for i in 0..10 * capacity {
            cache.set(i.to_string(), i, MINUTE);
        }
        assert!((1..=capacity.next_multiple_of(64)).contains(&cache.len()), "{} of {capacity}", cache.len());
    }
    let cache = Cache::default();
    (0..3 * CAPACITY).for_each(|i| cache.set(i.to_string(), i, MINUTE));
    assert!(cache.len() > CAPACITY / 2 && cache.len() <= CAPACITY.next_multiple_of(1_024));
}

#[test]
fn a_cache_of_capacity_zero_still_computes() {
    let cache = Cache::new(0);
    assert_eq!(cache.remember("a", MINUTE, || fine(1)).unwrap(), 1);
    assert_eq!(cache.get("a"), None);
}

#[test]
fn a_clone_is_the_same_cache() {
    let cache = Cache::new(10);
    cache.clone().set(String::from("a"), 1, MINUTE);
    assert_eq!(cache.get(&String::from("a")), Some(1));
    assert!(cache.remove("a") && !cache.remove("a"));
}
