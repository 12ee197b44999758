//! Tests of SQLite only; the conformance suite tests what all engines have in common.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use rusqlite::{Connection, StatementStatus};
use tempfile::TempDir;

use super::*;
use crate::background::output::Output;
use crate::jobs::conformance::{self, Bench};
use crate::jobs::engine::{AttemptFailure, Capacity, Claimed, When};
use crate::jobs::record::{FailureKind, JobFailure, StoredOutput, error_group};

/// A time of the wall clock.
const T: Millis = 2_000_000_000_000;

/// The longest wait of a test for an event.
const PATIENCE: Duration = Duration::from_secs(20);

/// A lease that does not expire during a test.
const LONG: Duration = Duration::from_secs(3600);

/// A short wait for locks.
const BRIEF: Duration = Duration::from_millis(30);

/// A temporary folder with the database file.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("jobs.db")
    }

    fn open(&self) -> Sqlite {
        Sqlite::open(&self.path()).unwrap()
    }

    fn connect(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// Returns the number of lock files.
    fn locks(&self) -> usize {
        let names = fs::read_dir(self.0.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("jobs.db-worker-")).count()
    }
}

fn entry(name: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        label: name.to_owned(),
        payload: "{}".to_owned(),
        queue: "default".to_owned(),
        priority: 0,
        unique: None,
        when: When::Now,
        origin: None,
        trace: None,
        parent: None,
    }
}

fn add(jobs: &Sqlite, name: &str) -> u64 {
    jobs.enqueue(vec![entry(name)], T).unwrap()[0].id
}

/// Enqueues `many` jobs in one thread, one after the other.
fn add_each(jobs: &Sqlite, many: usize) {
    for _ in 0..many {
        add(jobs, "a");
    }
}

fn take(jobs: &Sqlite, worker: &WorkerId) -> Claimed {
    jobs.claim(worker, &[Capacity { queue: "default".to_owned(), free: 1 }], T).unwrap().remove(0)
}

/// Returns a running job and its worker.
fn running(jobs: &Sqlite) -> (WorkerId, Claimed) {
    let worker = jobs.join().unwrap();
    add(jobs, "a");
    let claimed = take(jobs, &worker);
    (worker, claimed)
}

fn state(jobs: &Sqlite, id: u64) -> JobState {
    jobs.find(id).unwrap().unwrap().state
}

#[track_caller]
fn refused<T>(outcome: Result<T>, message: &str) -> String {
    let chain = outcome.map(drop).unwrap_err().chain();
    assert!(chain.contains(message), "{message:?} is not in {chain:?}");
    chain
}

/// Each handle behaves like another process.
impl Bench for Home {
    fn engine(&self) -> Arc<dyn Engine> {
        Arc::new(self.open())
    }

    fn another(&self) -> Arc<dyn Engine> {
        Arc::new(self.open())
    }
}

conformance::conformance!(sqlite, || Ok(Home::new()));

#[test]
fn jobs_outlive_the_handle() {
    let home = Home::new();
    let (waiting, claimed) = {
        let jobs = home.open();
        let (_, claimed) = running(&jobs);
        jobs.pause("mail", true).unwrap();
        jobs.tick("nightly", T, None, T).unwrap();
        (add(&jobs, "b"), claimed)
    };
    let jobs = home.open();
    assert_eq!((state(&jobs, waiting), state(&jobs, claimed.id)), (JobState::Waiting, JobState::Running));
    assert_eq!(jobs.last_tick("nightly").unwrap(), Some(T));
    assert!(jobs.queues().unwrap().iter().any(|queue| queue.name == "mail" && queue.is_paused));
    assert_eq!(jobs.describe(), format!("sqlite {}", home.path().display()));
}

#[test]
fn no_id_is_assigned_twice() {
    let home = Home::new();
    let last = add(&home.open(), "a");
    assert!(home.open().discard(last).unwrap());
    assert!(add(&home.open(), "b") > last);
}

#[test]
fn two_handles_work_on_one_file() {
    let home = Home::new();
    let (one, other) = (home.open(), home.open());
    let id = add(&one, "a");
    let worker = other.join().unwrap();
    let claimed = take(&other, &worker);
    assert_eq!((claimed.id, state(&one, id)), (id, JobState::Running));
    assert!(one.resolve(id, claimed.token, Resolution::Done.into(), T).unwrap());
    assert_eq!(other.counts().unwrap().done, 1);
}

#[test]
fn jobs_claimed_together_are_in_order() {
    let home = Home::new();
    let jobs = home.open();
    let urgent = |priority| Entry { priority, ..entry("a") };
    let ids = jobs.enqueue([0, 2, 1, 3].map(urgent).into(), T).unwrap();
    let worker = jobs.join().unwrap();
    let claimed = jobs.claim(&worker, &[Capacity { queue: "default".to_owned(), free: 9 }], T).unwrap();
    let order = [3, 1, 2, 0].map(|index| ids[index].id);
    assert!(claimed.iter().map(|job| job.id).eq(order), "{claimed:?}");
}

#[test]
fn a_dead_process_is_detected_by_its_lock() {
    let home = Home::new();
    let (dying, other) = (home.open(), home.open());
    let (worker, claimed) = running(&dying);
    assert_eq!(home.locks(), 1);
    assert_eq!(other.recover(LONG, T).unwrap().released, 0, "{worker:?} lives");
    drop(dying);
    assert_eq!(other.recover(LONG, T).unwrap().released, 1);
    let info = other.find(claimed.id).unwrap().unwrap();
    assert_eq!((info.state, info.interruptions, info.attempt), (JobState::Waiting, 1, 0));
    assert_eq!(home.locks(), 0);
    assert_eq!(other.recover(LONG, T).unwrap().released, 0);
}

#[test]
fn a_worker_that_leaves_deletes_its_lock_file() {
    let home = Home::new();
    let jobs = home.open();
    let (worker, claimed) = running(&jobs);
    jobs.leave(&worker, T).unwrap();
    assert_eq!((home.locks(), state(&jobs, claimed.id)), (0, JobState::Waiting));
    assert!(jobs.heartbeat(&worker, &[], T).unwrap().is_evicted);
}

#[test]
fn a_missing_lock_file_means_a_dead_worker() {
    let home = Home::new();
    let (one, other) = (home.open(), home.open());
    let (worker, claimed) = running(&one);
    fs::remove_file(home.0.path().join(format!("jobs.db-worker-{}", worker.0))).unwrap();
    assert_eq!(other.recover(LONG, T).unwrap().released, 1);
    assert!(one.heartbeat(&worker, &[], T).unwrap().is_evicted);
    assert!(!one.resolve(claimed.id, claimed.token, Resolution::Done.into(), T).unwrap());
}

#[test]
fn stale_lock_files_are_deleted() {
    let home = Home::new();
    let jobs = home.open();
    let left_over = home.0.path().join("jobs.db-worker-1-00");
    let held = home.0.path().join("jobs.db-worker-2-00");
    fs::write(&left_over, "").unwrap();
    let file = fs::File::create(&held).unwrap();
    file.try_lock().unwrap();
    jobs.join().unwrap();
    jobs.recover(LONG, T).unwrap();
    assert!(!left_over.exists() && held.exists());
    assert_eq!(home.locks(), 2);
}

#[test]
fn jobs_of_an_unknown_worker_are_released() {
    let home = Home::new();
    let jobs = home.open();
    let (_, claimed) = running(&jobs);
    home.connect().execute("DELETE FROM aside_workers", []).unwrap();
    assert_eq!(jobs.recover(LONG, T).unwrap().released, 1);
    assert_eq!(state(&jobs, claimed.id), JobState::Waiting);
}

#[test]
fn a_heartbeat_between_observation_and_recovery_counts() {
    let home = Home::new();
    let jobs = home.open();
    let (worker, claimed) = running(&jobs);
    let suspected = vec![statements::SuspectedWorker { worker: worker.0.clone(), heartbeat: Some(0) }];
    jobs.heartbeat(&worker, &[], T).unwrap();
    let verdict = jobs.write(Commit::DURABLE, move |db| statements::recover(db, &suspected, T)).unwrap();
    assert_eq!(verdict, (vec![], Recovered::default()));
    assert_eq!(state(&jobs, claimed.id), JobState::Running);
}

/// Migration steps of a program that is newer by one version.
fn later(step: &'static str) -> Vec<&'static str> {
    schema::STEPS.iter().copied().chain([step]).collect()
}

/// A file of the first version has dead jobs without a cause.
#[test]
fn this_version_reads_jobs_of_the_first_version() {
    let home = Home::new();
    let first = schema::prepare(&Database::new(&home.path(), BUSY).unwrap(), &schema::STEPS[..1]).unwrap();
    let job =
        "INSERT INTO aside_jobs (state, rank, queue, name, priority, enqueued_at, due_at, ended_at, label, payload)
               VALUES (4, 0, 'default', 'a', 0, 0, 0, 0, 'a', '{}')";
    first.execute_batch(job).unwrap();
    drop(first);
    let jobs = home.open();
    assert_eq!(jobs.counts().unwrap(), JobCounts { dead: 1, ..JobCounts::default() });
    assert!(jobs.revive(1, T).unwrap());
    let worker = jobs.join().unwrap();
    let claimed = jobs.claim(&worker, &[Capacity { queue: "default".into(), free: 1 }], T).unwrap();
    let panicked = Resolution::Dead { failure: AttemptFailure::new(FailureKind::Panicked, "panicked: boom") };
    assert!(jobs.resolve(1, claimed[0].token, panicked.into(), T).unwrap());
    assert_eq!(jobs.counts().unwrap(), JobCounts { dead: 1, panicked: 1, ..JobCounts::default() });
}

/// A file of the second version has jobs without outputs.
#[test]
fn this_version_reads_jobs_of_the_second_version() {
    let home = Home::new();
    let second = schema::prepare(&Database::new(&home.path(), BUSY).unwrap(), &schema::STEPS[..2]).unwrap();
    let jobs =
        "INSERT INTO aside_jobs (state, rank, queue, name, priority, enqueued_at, due_at, ended_at, label, payload,
                                        done, total, message)
                VALUES (3, 0, 'default', 'a', 0, 0, 0, 7, 'a', '{\"id\":7}', 3, 5, 'part 3'),
                       (0, 0, 'default', 'b', 0, 0, 0, NULL, 'b', '{}', 0, 0, '');
                INSERT INTO aside_failures VALUES (1, 1, 1, 5, 'broken')";
    second.execute_batch(jobs).unwrap();
    drop(second);
    let jobs = home.open();
    let (done, waiting) = (jobs.find(1).unwrap().unwrap(), jobs.find(2).unwrap().unwrap());
    assert_eq!((done.state, done.payload.as_str(), done.ended_at), (JobState::Done, r#"{"id":7}"#, Some(7)));
    assert_eq!((done.done, done.total, done.message.as_str(), done.output), (3, 5, "part 3", StoredOutput::Absent));
    let JobFailure { message, kind, location, began_at, backtrace, .. } = done.failures[0].clone();
    assert_eq!((message.as_str(), kind, waiting.output), ("broken", FailureKind::Failed, StoredOutput::Absent));
    assert_eq!((location, began_at, backtrace), (None, None, None));
    let worker = jobs.join().unwrap();
    let claimed = take(&jobs, &worker);
    assert_eq!(claimed.id, 2);
    let last = LastValues { output: Some(Output::from_json("17")), ..LastValues::default() };
    assert!(
        jobs.resolve(2, claimed.token, ResolvedAttempt { resolution: Resolution::Done, last_values: last }, T).unwrap()
    );
    assert_eq!(jobs.find(2).unwrap().unwrap().output, StoredOutput::Whole(Output::from_json("17")));
}

/// A file of the third version has jobs without traces.
#[test]
fn this_version_reads_jobs_of_the_third_version() {
    let home = Home::new();
    let third = schema::prepare(&Database::new(&home.path(), BUSY).unwrap(), &schema::STEPS[..3]).unwrap();
    let job = "INSERT INTO aside_jobs (state, rank, queue, name, priority, enqueued_at, due_at, label, origin, payload, output)
               VALUES (0, 0, 'default', 'a', 0, 0, 0, 'a', 'GET / 3f9a1c', '{}', '17')";
    third.execute_batch(job).unwrap();
    drop(third);
    let jobs = home.open();
    let found = jobs.find(1).unwrap().unwrap();
    assert_eq!((found.trace, found.parent, found.request.as_deref()), (None, None, Some("GET / 3f9a1c")));
    assert_eq!(found.output, StoredOutput::Whole(Output::from_json("17")));
    let worker = jobs.join().unwrap();
    assert_eq!(take(&jobs, &worker).trace, None);
}

/// Earlier versions let SQLite keep the highest id.
#[test]
fn an_id_that_was_deleted_before_the_migration_is_not_assigned_again() {
    let home = Home::new();
    let first = schema::STEPS[0].replacen("id INTEGER PRIMARY KEY", "id INTEGER PRIMARY KEY AUTOINCREMENT", 1);
    let steps = [&first, schema::STEPS[1], schema::STEPS[2]];
    let third = schema::prepare(&Database::new(&home.path(), BUSY).unwrap(), &steps).unwrap();
    let job = "INSERT INTO aside_jobs (state, rank, queue, name, priority, enqueued_at, due_at, label, payload)
               VALUES (0, 0, 'default', 'a', 0, 0, 0, 'a', '{}')";
    third.execute_batch(&format!("{job}; {job}; DELETE FROM aside_jobs WHERE id = 2")).unwrap();
    drop(third);
    let jobs = home.open();
    assert_eq!(add(&jobs, "a"), 3);
    home.connect().execute("DELETE FROM aside_jobs", []).unwrap();
    assert_eq!(add(&jobs, "a"), 4);
}

/// A file of the fifth version has dead jobs without groups, and no counts.
#[test]
fn jobs_of_the_fifth_version_are_counted_and_grouped() {
    let home = Home::new();
    let fifth = schema::prepare(&Database::new(&home.path(), BUSY).unwrap(), &schema::STEPS[..5]).unwrap();
    let messages =
        ["order 17 of 2026-11-27", "order 1800 of 2027-01-02", "##1#1 \u{e9}", &format!("{} x", "7".repeat(990)), ""];
    for (id, message) in messages.iter().enumerate() {
        fifth
            .execute(
                "INSERT INTO aside_jobs (state, rank, queue, name, priority, enqueued_at, due_at, ended_at, label, payload)
                 VALUES (4, 0, 'default', 'a', 0, 0, 0, ?1, 'a', '{}')",
                [id as i64 + 100],
            )
            .unwrap();
        let failure = "INSERT INTO aside_failures (job, number, attempt, at, words) VALUES (?1, ?2, 1, 5, ?3)";
        fifth.execute(failure, (id as i64 + 1, 1, "an earlier one")).unwrap();
        fifth.execute(failure, (id as i64 + 1, 2, message)).unwrap();
    }
    let others = "INSERT INTO aside_jobs (state, rank, queue, name, priority, enqueued_at, due_at, label, payload)
                  VALUES (0, 0, 'default', 'a', 0, 0, 0, 'a', '{}'), (0, 0, 'mail', 'a', 0, 0, 0, 'a', '{}'),
                         (1, 0, 'mail', 'a', 0, 0, 0, 'a', '{}'), (2, 0, 'mail', 'a', 0, 0, 0, 'a', '{}'),
                         (3, 0, 'mail', 'a', 0, 0, 0, 'a', '{}')";
    fifth.execute(others, []).unwrap();
    drop(fifth);
    let jobs = home.open();
    let counts = JobCounts { waiting: 2, scheduled: 1, running: 1, done: 1, dead: 5, ..JobCounts::default() };
    assert_eq!(jobs.counts().unwrap(), counts);
    let queues = jobs.queues().unwrap();
    let waiting: Vec<_> = queues.iter().map(|queue| (queue.name.as_str(), queue.waiting, queue.running)).collect();
    assert_eq!(waiting, [("default", 1, 0), ("mail", 1, 1)]);
    let groups = jobs.failure_groups(20).unwrap();
    let found: Vec<_> =
        groups.iter().map(|group| (group.error.clone(), group.count, group.last_at, group.newest)).collect();
    let expected = [(4, 1), (3, 1), (2, 1), (1, 2)]
        .map(|(job, count)| (error_group(messages[job]), count, job as i64 + 100, job as u64 + 1));
    assert_eq!(found, expected);
    assert!(jobs.discard(2).unwrap());
    assert_eq!((jobs.failure_groups(20).unwrap()[3].newest, jobs.counts().unwrap().dead), (1, 4));
}

#[test]
fn a_later_version_reads_jobs_of_this_version() {
    let home = Home::new();
    let id = add(&home.open(), "a");
    let steps = later("ALTER TABLE aside_jobs ADD COLUMN colour TEXT");
    let jobs = Sqlite::open_with(&home.path(), BUSY, &steps).unwrap();
    assert_eq!(state(&jobs, id), JobState::Waiting);
    home.connect().prepare("SELECT colour FROM aside_jobs").unwrap();
    let message = refused(Sqlite::open(&home.path()), "tables of version 7, and this one knows those up to 6");
    assert!(message.contains("jobs.db"), "{message}");
}

#[test]
fn a_failed_migration_changes_nothing() {
    let home = Home::new();
    let id = add(&home.open(), "a");
    let steps = later("DROP TABLE aside_queues; DROP TABLE no_such_table");
    refused(Sqlite::open_with(&home.path(), BUSY, &steps), "no such table");
    let jobs = home.open();
    assert_eq!(state(&jobs, id), JobState::Waiting);
    assert_eq!(jobs.queues().unwrap().len(), 1);
}

#[test]
fn processes_may_open_a_new_file_at_the_same_time() {
    let home = Home::new();
    let path = home.path();
    thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(|| add(&Sqlite::open(&path).unwrap(), "a"))).collect();
        assert!(all.into_iter().all(|one| one.join().unwrap() > 0));
    });
    assert_eq!(home.open().counts().unwrap().waiting, 8);
}

#[test]
fn processes_may_migrate_at_the_same_time() {
    let home = Home::new();
    add(&home.open(), "a");
    let (path, barrier) = (home.path(), std::sync::Barrier::new(8));
    let open = || {
        let steps = later("ALTER TABLE aside_jobs ADD COLUMN colour TEXT");
        barrier.wait();
        Sqlite::open_with(&path, BUSY, &steps).map(|jobs| jobs.counts().unwrap().waiting)
    };
    thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        all.into_iter().for_each(|one| assert_eq!(one.join().unwrap().unwrap(), 1));
    });
}

#[test]
fn the_applications_tables_are_left_alone() {
    let home = Home::new();
    let db = home.connect();
    db.execute_batch("PRAGMA user_version = 7; CREATE TABLE orders (id INTEGER PRIMARY KEY)").unwrap();
    add(&home.open(), "a");
    assert_eq!(db.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).unwrap(), 7);
    let names = "SELECT group_concat(name) FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'aside_%'";
    let names: String = db.query_row(names, [], |row| row.get(0)).unwrap();
    assert_eq!(names, "orders");
}

#[test]
fn a_file_that_is_not_a_database_is_refused_and_left_alone() {
    let home = Home::new();
    let text = "this is a letter, not a database. ".repeat(100);
    fs::write(home.path(), &text).unwrap();
    let message = refused(Sqlite::open(&home.path()), "not a SQLite database");
    assert!(message.contains("jobs.db"), "{message}");
    assert_eq!(fs::read_to_string(home.path()).unwrap(), text);
    refused(Sqlite::open(home.0.path()), "it cannot be opened");
    refused(Sqlite::open(Path::new("")), "data/jobs.db");
    refused(Sqlite::open(&home.path().join("deeper/jobs.db")), "the folder of");
}

#[test]
fn a_damaged_file_is_refused() {
    let home = Home::new();
    home.open().enqueue(vec![Entry { payload: "x".repeat(1000), ..entry("a") }; 200], T).unwrap();
    let mut bytes = fs::read(home.path()).unwrap();
    // One page of the job table, which is read at the start only to check for damage.
    let page = bytes.len() / 4096 / 2 * 4096;
    assert!(page > 100_000, "the file holds its jobs after it was closed");
    bytes[page..page + 4096].fill(0x55);
    fs::write(home.path(), bytes).unwrap();
    let message = refused(Sqlite::open(&home.path()), "damaged");
    assert!(message.contains("jobs.db"), "{message}");
}

#[test]
fn a_missing_folder_is_created() {
    let home = Home::new();
    let path = home.0.path().join("data/here/jobs.db");
    add(&Sqlite::open(&path).unwrap(), "a");
    assert!(path.exists());
}

#[test]
fn a_full_disk_rolls_back_the_call_and_keeps_existing_jobs() {
    let home = Home::new();
    let jobs = home.open();
    let (_, claimed) = running(&jobs);
    limit(&jobs, Some(4));
    let large = Entry { payload: "x".repeat(100_000), ..entry("large") };
    refused(jobs.enqueue(vec![entry("small"), large.clone()], T), "the disk is full");
    assert_eq!(jobs.counts().unwrap(), JobCounts { running: 1, ..JobCounts::default() });
    assert!(jobs.resolve(claimed.id, claimed.token, Resolution::Done.into(), T).unwrap(), "what needs no room goes on");
    limit(&jobs, None);
    assert_eq!(jobs.enqueue(vec![large], T).unwrap().len(), 1);
}

/// Limits the size of the file to `more` additional pages.
fn limit(jobs: &Sqlite, more: Option<u32>) {
    let set = move |db: &CountingConnection<'_>| {
        let pages: u32 = db.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        let most = more.map_or(1 << 30, |more| pages + more);
        db.query_row(&format!("PRAGMA max_page_count = {most}"), [], |_| Ok(()))
    };
    jobs.write(Commit::RELAXED, set).unwrap();
}

#[test]
fn a_lock_of_another_process_is_waited_for_and_then_reported() {
    let home = Home::new();
    let jobs = Sqlite::open_with(&home.path(), BRIEF, schema::STEPS).unwrap();
    let id = add(&jobs, "a");
    let other = home.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let message = refused(jobs.enqueue(vec![entry("b"), entry("c")], T), "another process or connection has it locked");
    assert!(message.contains("jobs.db"), "{message}");
    assert_eq!(state(&jobs, id), JobState::Waiting, "who reads does not wait");
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(jobs.counts().unwrap().waiting, 1);
    assert_eq!(add(&jobs, "b"), id + 1);
}

fn exchange(jobs: &Sqlite, worker: &WorkerId, ended: &[EndedAttempt]) -> Exchanged {
    let capacities = [Capacity { queue: "default".to_owned(), free: 2 }];
    jobs.exchange(ended, Some(ClaimRequest { worker, capacities: &capacities }), T).unwrap()
}

fn done(claimed: &Claimed, output: Option<&str>) -> EndedAttempt {
    let output = output.map(|json| Output::from_json(json.to_owned()));
    let last_values = LastValues { progress: None, output };
    let resolved = Arc::new(ResolvedAttempt { resolution: Resolution::Done, last_values });
    EndedAttempt { id: claimed.id, token: claimed.token, resolved }
}

#[test]
fn outcomes_during_a_lock_of_another_process_are_recorded_when_they_are_reported_again() {
    let home = Home::new();
    let jobs = Sqlite::open_with(&home.path(), BRIEF, schema::STEPS).unwrap();
    add_each(&jobs, 4);
    let worker = jobs.join().unwrap();
    let ended: Vec<_> = exchange(&jobs, &worker, &[]).claimed.unwrap().iter().map(|job| done(job, None)).collect();
    let other = home.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let exchanged = exchange(&jobs, &worker, &ended);
    assert!(exchanged.claimed.is_err() && exchanged.recorded.iter().all(Result::is_err));
    other.execute_batch("COMMIT").unwrap();
    let exchanged = exchange(&jobs, &worker, &ended);
    assert!(exchanged.recorded.iter().all(|recorded| *recorded.as_ref().unwrap()));
    assert_eq!(exchanged.claimed.unwrap().len(), 2);
    assert_eq!(jobs.counts().unwrap(), JobCounts { running: 2, done: 2, ..JobCounts::default() });
}

#[test]
fn an_outcome_for_which_the_disk_has_no_space_affects_neither_the_others_nor_the_claim() {
    let home = Home::new();
    let jobs = home.open();
    add_each(&jobs, 4);
    let worker = jobs.join().unwrap();
    let claimed = exchange(&jobs, &worker, &[]).claimed.unwrap();
    let large = format!("\"{}\"", "x".repeat(100_000));
    let ended = [done(&claimed[0], Some(&large)), done(&claimed[1], None)];
    limit(&jobs, Some(4));
    let exchanged = exchange(&jobs, &worker, &ended);
    assert!(exchanged.recorded[0].is_err() && *exchanged.recorded[1].as_ref().unwrap());
    assert_eq!(exchanged.claimed.unwrap().len(), 2);
    limit(&jobs, None);
    assert!(*exchange(&jobs, &worker, &ended[..1]).recorded[0].as_ref().unwrap());
    assert_eq!(jobs.counts().unwrap(), JobCounts { running: 2, done: 2, ..JobCounts::default() });
}

#[test]
#[cfg(unix)]
fn a_deleted_file_accepts_no_writes() {
    let home = Home::new();
    let jobs = home.open();
    let id = add(&jobs, "a");
    let aside = home.0.path().join("aside.db");
    fs::rename(home.path(), &aside).unwrap();
    refused(jobs.enqueue(vec![entry("b")], T), "deleted or replaced");
    fs::write(home.path(), "").unwrap();
    refused(jobs.enqueue(vec![entry("b")], T), "deleted or replaced");
    fs::rename(&aside, home.path()).unwrap();
    assert_eq!(add(&jobs, "b"), id + 1);
}

#[test]
fn a_write_that_panics_or_fails_does_not_affect_others() {
    let home = Home::new();
    let jobs = home.open();
    // While the connection is borrowed, writes are queued.
    let borrowed = jobs.writer.borrow().unwrap();
    let asked = thread::scope(|scope| {
        let ask = || {
            let one = jobs.writer.ask(Commit::DURABLE, |db| statements::enqueue(db, &entry("a"), T)).unwrap();
            let boom = jobs.writer.ask(Commit::DURABLE, |_| -> rusqlite::Result<()> { panic!("boom") }).unwrap();
            let wrong = jobs.writer.ask(Commit::DURABLE, |db| db.execute("no SQL", [])).unwrap();
            let two = jobs.writer.ask(Commit::DURABLE, |db| statements::enqueue(db, &entry("b"), T)).unwrap();
            (one, boom, wrong, two)
        };
        scope.spawn(ask).join().unwrap()
    });
    drop(borrowed);
    let (one, boom, wrong, two) = asked;
    assert!(one.recv().unwrap().unwrap().is_new);
    assert!(boom.recv().unwrap().unwrap_err().message.contains("panicked"));
    assert!(wrong.recv().unwrap().unwrap_err().message.contains("syntax error"));
    assert!(two.recv().unwrap().unwrap().is_new);
    assert_eq!(jobs.counts().unwrap().waiting, 2);
}

#[test]
fn waiting_writes_share_one_transaction() {
    let home = Home::new();
    let jobs = home.open();
    let borrowed = jobs.writer.borrow().unwrap();
    let path = home.path();
    let answers = thread::scope(|scope| {
        let ask = || {
            let add = || jobs.writer.ask(Commit::DURABLE, |db| statements::enqueue(db, &entry("a"), T)).unwrap();
            let added: Vec<_> = (0..20).map(|_| add()).collect();
            // The writes of the batch are visible to the last one, and to no other connection yet.
            let poll = move |db: &CountingConnection<'_>| Ok((count(db), count(&Connection::open(&path)?)));
            (added, jobs.writer.ask(Commit::DURABLE, poll).unwrap())
        };
        scope.spawn(ask).join().unwrap()
    });
    drop(borrowed);
    assert_eq!(answers.1.recv().unwrap().unwrap(), (20, 0));
    assert!(answers.0.into_iter().all(|added| added.recv().unwrap().unwrap().is_new));
}

fn count(db: &Connection) -> i64 {
    db.query_row("SELECT count(*) FROM aside_jobs", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_durable_write_is_synced() {
    let home = Home::new();
    let jobs = home.open();
    let synced = |commit| jobs.write(commit, |db| db.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0)));
    assert_eq!([Commit::DURABLE, Commit::RELAXED, Commit::NOTIFYING].map(|commit| synced(commit).unwrap()), [2, 1, 2]);
    let mut borrowed = jobs.writer.borrow().unwrap();
    let lent = borrowed.db().unwrap().query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0));
    assert_eq!(lent.unwrap(), 2);
}

#[test]
fn many_threads_enqueue_at_once() {
    let home = Home::new();
    let handles = [home.open(), home.open()];
    thread::scope(|scope| {
        for number in 0..8 {
            let jobs = &handles[number % 2];
            scope.spawn(move || add_each(jobs, 50));
        }
    });
    assert_eq!(handles[0].counts().unwrap().waiting, 400);
}

#[test]
fn a_transaction_completes_the_job_with_what_it_writes() {
    let home = Home::new();
    let jobs = home.open();
    let (worker, claimed) = running(&jobs);
    home.connect().execute_batch("CREATE TABLE orders (name TEXT)").unwrap();
    let order = |db: &Transaction<'_>| Ok(db.execute("INSERT INTO orders VALUES ('tea')", [])?);
    assert_eq!(jobs.transaction(claimed.id, claimed.token, T, order, LastValues::default).unwrap(), 1);
    assert_eq!((state(&jobs, claimed.id), orders(&home)), (JobState::Done, 1));
    let held = [HeldJob { id: claimed.id, token: claimed.token, progress: None }];
    assert_eq!(
        jobs.heartbeat(&worker, &held, T).unwrap(),
        HeartbeatReply::default(),
        "it is not lost while it comes to its end"
    );
    let late = Resolution::Retry { wait: 0, failure: AttemptFailure::new(FailureKind::Failed, "too late") };
    assert!(jobs.resolve(claimed.id, claimed.token, late.into(), T).unwrap());
    assert_eq!(state(&jobs, claimed.id), JobState::Done);
    assert!(!jobs.resolve(claimed.id, claimed.token, Resolution::Done.into(), T).unwrap());
}

#[test]
fn a_transaction_keeps_the_output_and_the_last_progress_with_what_it_writes() {
    let home = Home::new();
    let jobs = home.open();
    let last = || LastValues { progress: Some((5, 5, "all".into())), output: Some(Output::from_json("17")) };
    let (_, claimed) = running(&jobs);
    refused(
        jobs.transaction(claimed.id, claimed.token, T, |_| Err::<(), _>(Error::conflict("sold out")), last),
        "sold out",
    );
    let info = jobs.find(claimed.id).unwrap().unwrap();
    assert_eq!((info.state, info.done, info.output), (JobState::Running, 0, StoredOutput::Absent));
    jobs.transaction(claimed.id, claimed.token, T, |_| Ok(()), last).unwrap();
    let seen = home.open().find(claimed.id).unwrap().unwrap();
    assert_eq!((seen.state, seen.done, seen.total, seen.message.as_str()), (JobState::Done, 5, 5, "all"));
    assert_eq!(seen.output, StoredOutput::Whole(Output::from_json("17")));
    // Values that the job sets later have no effect.
    let late = LastValues { progress: Some((6, 6, "late".into())), output: Some(Output::from_json("18")) };
    assert!(
        jobs.resolve(claimed.id, claimed.token, ResolvedAttempt { resolution: Resolution::Done, last_values: late }, T)
            .unwrap()
    );
    assert_eq!(jobs.find(claimed.id).unwrap().unwrap(), seen);
}

fn orders(home: &Home) -> i64 {
    home.connect().query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_transaction_that_fails_or_panics_is_rolled_back_and_the_job_continues() {
    let home = Home::new();
    let jobs = home.open();
    let (_, claimed) = running(&jobs);
    home.connect().execute_batch("CREATE TABLE orders (name TEXT)").unwrap();
    let fails = |db: &Transaction<'_>| -> Result<()> {
        db.execute("INSERT INTO orders VALUES ('tea')", [])?;
        Err(Error::conflict("sold out"))
    };
    refused(jobs.transaction(claimed.id, claimed.token, T, fails, LastValues::default), "sold out");
    let panics = |db: &Transaction<'_>| -> Result<()> {
        db.execute("INSERT INTO orders VALUES ('tea')", [])?;
        panic!("boom")
    };
    let panicking = || jobs.transaction(claimed.id, claimed.token, T, panics, LastValues::default);
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(panicking)).is_err());
    assert_eq!((state(&jobs, claimed.id), orders(&home)), (JobState::Running, 0));
    assert!(jobs.resolve(claimed.id, claimed.token, Resolution::Done.into(), T).unwrap());
}

/// The engine's connection has no triggers, but the application may borrow it.
#[test]
fn the_applications_triggers_run_in_a_transaction_and_each_job_is_counted_once() {
    let home = Home::new();
    let jobs = home.open();
    let tables = "CREATE TABLE orders (name TEXT); CREATE TABLE carts (name TEXT);
                  CREATE TRIGGER ordered AFTER INSERT ON carts BEGIN INSERT INTO orders VALUES (NEW.name); END";
    home.connect().execute_batch(tables).unwrap();
    for done in 1..=2 {
        let (_, claimed) = running(&jobs);
        let order = |db: &Transaction<'_>| {
            enqueue_in(db, &Entry { queue: "mail".into(), ..entry("b") }, T)?;
            Ok(db.execute("INSERT INTO carts VALUES ('tea')", [])?)
        };
        jobs.transaction(claimed.id, claimed.token, T, order, LastValues::default).unwrap();
        assert_eq!(orders(&home), done as i64);
        assert_eq!(jobs.counts().unwrap(), JobCounts { waiting: done, done, ..JobCounts::default() });
    }
}

/// To enable and to disable the triggers of a connection makes SQLite prepare each statement again.
#[test]
fn a_transaction_leaves_the_prepared_statements_as_they_are() {
    let home = Home::new();
    let jobs = home.open();
    home.connect().execute_batch("CREATE TABLE orders (name TEXT)").unwrap();
    let mut prepared_again = Vec::new();
    for _ in 0..2 {
        let (_, claimed) = running(&jobs);
        let order = |db: &Transaction<'_>| {
            let mut order = db.prepare_cached("INSERT INTO orders VALUES ('tea')")?;
            order.execute([])?;
            prepared_again.push(order.get_status(StatementStatus::RePrepare));
            Ok(())
        };
        jobs.transaction(claimed.id, claimed.token, T, order, LastValues::default).unwrap();
    }
    assert_eq!(prepared_again, [0, 0]);
}

/// Regression: by default, SQLite prepares a statement again when the value of its LIMIT is bound.
#[test]
fn a_statement_with_a_bound_limit_stays_prepared() {
    let home = Home::new();
    let jobs = home.open();
    let mut borrowed = jobs.writer.borrow().unwrap();
    for db in [&*borrowed.db().unwrap(), &*lock(jobs.reader.as_ref().unwrap())] {
        let mut limited = db.prepare("SELECT id FROM aside_jobs LIMIT ?1").unwrap();
        for limit in 1..=3 {
            assert!(!limited.exists([limit]).unwrap());
        }
        assert_eq!(limited.get_status(StatementStatus::RePrepare), 0);
    }
}

#[test]
fn the_id_of_a_deleted_job_is_not_assigned_again() {
    let home = Home::new();
    let jobs = home.open();
    assert_eq!([add(&jobs, "a"), add(&jobs, "a")], [1, 2]);
    assert!(jobs.discard(2).unwrap());
    assert!(jobs.discard(1).unwrap());
    drop(jobs);
    let jobs = home.open();
    assert_eq!(add(&jobs, "a"), 3);
    home.connect().execute("DELETE FROM aside_jobs", []).unwrap();
    let both = jobs.enqueue(vec![entry("a"), entry("a")], T).unwrap();
    assert_eq!([both[0].id, both[1].id], [4, 5]);
}

/// The list sorts the waiting jobs if they are few, and else reads the table.
#[test]
fn few_and_many_waiting_jobs_are_listed_by_their_ids() {
    let home = Home::new();
    let jobs = home.open();
    let urgent = Entry { priority: 5, queue: "mail".into(), ..entry("a") };
    jobs.enqueue(vec![entry("a"), urgent, entry("a"), entry("a")], T).unwrap();
    let listed = |before, most| -> Vec<u64> {
        jobs.list(JobState::Waiting, before, most).unwrap().iter().map(|job| job.id).collect()
    };
    assert_eq!((listed(None, 9), listed(Some(4), 2)), (vec![4, 3, 2, 1], vec![3, 2]));
    for _ in 0..9 {
        let id = add(&jobs, "a");
        jobs.cancel(id, T).unwrap();
    }
    assert_eq!((listed(None, 9), listed(Some(4), 2)), (vec![4, 3, 2, 1], vec![3, 2]));
}

/// A process of an older version may still run, and does not count.
#[test]
fn what_other_connections_write_is_counted() {
    let home = Home::new();
    let jobs = home.open();
    let db = home.connect();
    let added = "INSERT INTO aside_jobs (state, rank, queue, name, priority, enqueued_at, due_at, label, payload)
                 VALUES (0, 0, 'default', 'a', 0, 0, 0, 'a', '{}'), (0, 0, 'mail', 'a', 0, 0, 0, 'a', '{}')";
    db.execute(added, []).unwrap();
    assert_eq!(jobs.counts().unwrap(), JobCounts { waiting: 2, ..JobCounts::default() });
    db.execute("UPDATE aside_jobs SET state = 3, ended_at = 0 WHERE id = 1", []).unwrap();
    assert_eq!(jobs.counts().unwrap(), JobCounts { waiting: 1, done: 1, ..JobCounts::default() });
    db.execute("DELETE FROM aside_jobs", []).unwrap();
    assert_eq!(jobs.counts().unwrap(), JobCounts::default());
}

/// The stored counts must follow each change of a state, also of several in one transaction.
#[test]
fn the_stored_counts_are_those_of_the_jobs() {
    let home = Home::new();
    let jobs = home.open();
    let later = Entry { when: When::After(50), queue: "mail".into(), ..entry("a") };
    let ids: Vec<u64> = jobs
        .enqueue(vec![later, entry("a"), entry("b"), entry("c"), entry("d")], T)
        .unwrap()
        .iter()
        .map(|new| new.id)
        .collect();
    assert_counted(&home);
    let worker = jobs.join().unwrap();
    let claimed = [take(&jobs, &worker), take(&jobs, &worker), take(&jobs, &worker)];
    let failure = AttemptFailure::new(FailureKind::Failed, "broken");
    let ended =
        [Resolution::Retry { wait: 10, failure: failure.clone() }, Resolution::Dead { failure }, Resolution::Released];
    let ended: Vec<_> = claimed
        .iter()
        .zip(ended)
        .map(|(job, resolution)| EndedAttempt { id: job.id, token: job.token, resolved: Arc::new(resolution.into()) })
        .collect();
    assert_eq!(jobs.cancel(ids[4], T).unwrap(), Some(JobState::Cancelled));
    exchange(&jobs, &worker, &ended);
    assert_counted(&home);
    assert!(jobs.revive(claimed[1].id, T).unwrap());
    assert_counted(&home);
    let all = [Capacity { queue: "default".into(), free: 1 }, Capacity { queue: "mail".into(), free: 9 }];
    jobs.claim(&worker, &all, T + 100).unwrap();
    assert_counted(&home);
    jobs.leave(&worker, T + 100).unwrap();
    assert!(jobs.discard(ids[4]).unwrap());
    assert_counted(&home);
}

fn assert_counted(home: &Home) {
    let difference = "SELECT count(*) FROM (
        SELECT state, queue, sum(count) AS count FROM (
            SELECT state, queue, -count AS count FROM aside_counts
            UNION ALL SELECT state, CASE state WHEN 0 THEN queue ELSE '' END, 1 FROM aside_jobs WHERE state <> 2
        ) GROUP BY state, queue) WHERE count <> 0";
    let differences: i64 = home.connect().query_row(difference, [], |row| row.get(0)).unwrap();
    assert_eq!(differences, 0, "states and queues with a wrong count");
}

#[test]
fn a_transaction_of_a_stale_claim_writes_nothing() {
    let home = Home::new();
    let jobs = home.open();
    let (_, claimed) = running(&jobs);
    jobs.resolve(claimed.id, claimed.token, Resolution::Released.into(), T).unwrap();
    let outcome = jobs.transaction(
        claimed.id,
        claimed.token,
        T,
        |_| -> Result<()> { panic!("it is not run") },
        LastValues::default,
    );
    assert!(outcome.unwrap_err().find_source::<Cancelled>().is_some());
    assert_eq!(state(&jobs, claimed.id), JobState::Waiting);
}

#[test]
fn another_write_within_a_transaction_is_an_error_that_names_the_remedy() {
    let home = Home::new();
    let (jobs, other) = (home.open(), Home::new());
    let (_, claimed) = running(&jobs);
    let elsewhere = other.open();
    let nested = |db: &Transaction<'_>| -> Result<u64> {
        refused(jobs.enqueue(vec![entry("b")], T), "enqueue_in");
        refused(jobs.transaction(1, 1, T, |_| Ok(()), LastValues::default), "enqueue_in");
        add(&elsewhere, "c");
        Ok(enqueue_in(db, &entry("d"), T)?.id)
    };
    let listener = Arc::new(Notify::default());
    jobs.listen(&listener).unwrap();
    let id = jobs.transaction(claimed.id, claimed.token, T, nested, LastValues::default).unwrap();
    assert!(listener.wait(PATIENCE), "for what was enqueued in it");
    assert_eq!(jobs.find(id).unwrap().unwrap().name, "d");
    add(&jobs, "e");
}

#[test]
fn a_transaction_ended_by_the_closure_is_an_error() {
    let home = Home::new();
    let jobs = home.open();
    for ended in ["ROLLBACK", "COMMIT", "ROLLBACK; BEGIN"] {
        let (_, claimed) = running(&jobs);
        let ends = |db: &Transaction<'_>| Ok(db.execute_batch(ended)?);
        refused(jobs.transaction(claimed.id, claimed.token, T, ends, LastValues::default), "leave that to aside");
        // Completed before, or by this call.
        assert!(jobs.resolve(claimed.id, claimed.token, Resolution::Done.into(), T).unwrap(), "{ended}");
        assert_eq!(jobs.find(claimed.id).unwrap().unwrap().state, JobState::Done, "{ended}");
    }
    add(&jobs, "b");
}

#[test]
fn a_job_is_enqueued_only_if_the_applications_transaction_commits() {
    let home = Home::new();
    let jobs = home.open();
    let mut db = home.connect();
    let dropped = db.transaction().unwrap();
    let unique = Entry { unique: Some("k".to_owned()), ..entry("a") };
    assert!(enqueue_in(&dropped, &unique, T).unwrap().is_new);
    drop(dropped);
    assert_eq!(jobs.counts().unwrap(), JobCounts::default());
    let kept = db.transaction().unwrap();
    let first = enqueue_in(&kept, &unique, T).unwrap();
    assert_eq!(enqueue_in(&kept, &unique, T).unwrap(), Enqueued { id: first.id, is_new: false });
    assert_eq!(jobs.counts().unwrap(), JobCounts::default());
    kept.commit().unwrap();
    assert_eq!(state(&jobs, first.id), JobState::Waiting);
}

#[test]
fn a_database_without_job_tables_is_an_error() {
    let home = Home::new();
    let mut db = home.connect();
    let transaction = db.transaction().unwrap();
    let message = refused(enqueue_in(&transaction, &entry("a"), T), "has no tables for jobs");
    assert!(message.contains("jobs.db"), "{message}");
    drop(transaction);
    let jobs = home.open();
    assert!(jobs.is_same_file(&db) && !jobs.is_same_file(&Connection::open_in_memory().unwrap()));
    db.execute("UPDATE aside_meta SET value = 9 WHERE key = 'version'", []).unwrap();
    refused(enqueue_in(&db.transaction().unwrap(), &entry("a"), T), "tables of version 9");
}

#[test]
fn commits_of_this_and_of_other_processes_notify() {
    let home = Home::new();
    let (jobs, other) = (home.open(), home.open());
    let listener = Arc::new(Notify::default());
    jobs.listen(&listener).unwrap();
    let id = add(&jobs, "a");
    assert!(listener.wait(PATIENCE), "for one's own");
    add(&other, "b");
    assert!(listener.wait(PATIENCE), "for another's");
    jobs.cancel(id, T).unwrap();
    assert!(listener.wait(PATIENCE), "for a cancellation");
    let mut db = home.connect();
    let transaction = db.transaction().unwrap();
    enqueue_in(&transaction, &entry("c"), T).unwrap();
    jobs.poll_soon();
    transaction.commit().unwrap();
    assert!(listener.wait(PATIENCE), "for the application's");
}

#[test]
fn the_first_commit_after_listen_notifies() {
    let home = Home::new();
    let (jobs, other) = (home.open(), home.open());
    let listener = Arc::new(Notify::default());
    let (added, was_added) = std::sync::mpsc::channel();
    // The writer cannot poll until the connection is returned.
    let borrowed = jobs.writer.borrow().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            jobs.listen(&listener).unwrap();
            added.send(add(&other, "a")).unwrap();
        });
        let _ = was_added.recv_timeout(BRIEF);
        drop(borrowed);
    });
    assert!(listener.wait(PATIENCE));
}

#[test]
fn claims_of_this_process_do_not_notify() {
    let home = Home::new();
    let jobs = home.open();
    let (worker, claimed) = running(&jobs);
    let listener = Arc::new(Notify::default());
    jobs.listen(&listener).unwrap();
    jobs.poll_soon();
    jobs.heartbeat(&worker, &[], T).unwrap();
    jobs.resolve(claimed.id, claimed.token, Resolution::Done.into(), T).unwrap();
    assert!(!listener.wait(Duration::from_millis(20)));
    assert_eq!(Arc::strong_count(&listener), 1);
}

#[test]
fn an_in_memory_database_works_without_files() {
    let jobs = Sqlite::open(Path::new(":memory:")).unwrap();
    let (worker, claimed) = running(&jobs);
    assert_eq!(jobs.recover(LONG, T).unwrap().released, 0);
    assert!(jobs.resolve(claimed.id, claimed.token, Resolution::Done.into(), T).unwrap());
    assert_eq!((state(&jobs, claimed.id), jobs.counts().unwrap().done), (JobState::Done, 1));
    assert!(!jobs.abilities().is_durable && jobs.database.file.is_none());
    jobs.leave(&worker, T).unwrap();
}

#[test]
fn pruning_takes_several_transactions() {
    let home = Home::new();
    let jobs = home.open();
    let many = statements::MOST_PRUNED + 20;
    let all = jobs.enqueue(vec![entry("a"); many], T).unwrap();
    for job in &all {
        jobs.writer
            .ask(Commit::RELAXED, {
                let id = job.id;
                move |db| statements::cancel(db, id, T)
            })
            .unwrap();
    }
    let keep = Retention { age: LONG, count: 3 };
    assert_eq!(jobs.prune(keep, T).unwrap(), many - 3);
    assert_eq!(jobs.counts().unwrap().cancelled, 3);
    assert_eq!(state(&jobs, all[many - 1].id), JobState::Cancelled);
}

#[test]
#[ignore = "it takes minutes, and prints how long the queries of an overview take"]
fn an_overview_of_a_million_jobs() {
    conformance::measure_overview(Home::new().engine());
}
