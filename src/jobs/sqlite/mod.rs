//! Jobs in a SQLite file: a file of their own, or the application's.
//!
//! Each process has one connection to the file that writes, owned by one thread ([`writer`]), and one that reads. The
//! file uses write-ahead logging, so that neither waits for the other. The processes share only the file: each detects
//! the commits of others by a counter of SQLite, and the death of others by a lock beside the file ([`workers`]).

use std::any::Any;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use self::counts::CountingConnection;
use self::schema::Database;
use self::workers::Workers;
use self::writer::{Commit, Writer};
use super::engine::{
    Abilities, ClaimRequest, EndedAttempt, Engine, Enqueued, Entry, Exchanged, HeartbeatReply, HeldJob, LastValues,
    Recovered, Resolution, ResolvedAttempt, Retention, WorkerId,
};
use super::record::{FailureGroup, JobCounts, JobInfo, JobState, Millis, QueueInfo, WorkerInfo};
use crate::background::failure::Cancelled;
use crate::error::{Error, Result};
use crate::sync::{Notify, lock};

mod counts;
mod errors;
mod groups;
mod schema;
mod statements;
#[cfg(test)]
mod tests;
mod workers;
mod writer;

/// How long a write waits for the lock of another process before it fails.
const BUSY: Duration = Duration::from_secs(5);

/// An engine that stores jobs in a SQLite file.
pub(crate) struct Sqlite {
    database: Database,
    writer: Writer,
    /// `None` for an in-memory database, which only one connection can see.
    reader: Option<Mutex<Connection>>,
    workers: Workers,
    has_swept: AtomicBool,
}

impl Sqlite {
    /// Opens the file. The file and its folder are created if they are missing. Must be called from a thread of normal
    /// priority, which the writing thread inherits.
    ///
    /// # Errors
    /// An error if the file cannot be read and written, is not a database, is damaged, or is of a newer version.
    pub(crate) fn open(path: &Path) -> Result<Sqlite> {
        Sqlite::open_with(path, BUSY, schema::STEPS)
    }

    fn open_with(path: &Path, busy: Duration, steps: &[&str]) -> Result<Sqlite> {
        let mut database = Database::new(path, busy)?;
        let db = schema::prepare(&database, steps)?;
        database.identify();
        let reader = database.file.as_ref().map(|_| reader(&database)).transpose()?.map(Mutex::new);
        let workers = Workers::new(database.file.as_deref());
        let writer = Writer::start(db, database.clone())?;
        Ok(Sqlite { database, writer, reader, workers, has_swept: AtomicBool::new(false) })
    }

    /// Completes the job of a claim together with the writes of `f`, and with the result of `last_values` after it: all or
    /// nothing. An error or a panic of `f` rolls back, and the job continues. `f` must be short and without other I/O,
    /// since no other thread can write during the call.
    ///
    /// # Errors
    /// The errors of `f` and of the database; an error with the source [`Cancelled`] if the job was given to another
    /// worker.
    pub(crate) fn transaction<T>(
        &self,
        id: u64,
        token: u64,
        now: Millis,
        f: impl FnOnce(&Transaction<'_>) -> Result<T>,
        last_values: impl FnOnce() -> LastValues,
    ) -> Result<T> {
        let mut borrowed = self.writer.borrow()?;
        let describe = |error| errors::error(&self.database.name, &error);
        let transaction = borrowed.db()?.transaction_with_behavior(TransactionBehavior::Immediate).map_err(describe)?;
        let complete = |counting: CountingConnection<'_>| {
            let is_current = statements::complete(&counting, id, token, now)?;
            counting.store().map(|()| is_current)
        };
        if !CountingConnection::new(&transaction).and_then(complete).map_err(describe)? {
            return Err(Error::conflict("the job was given to another worker").with_source(Cancelled));
        }
        let value = f(&transaction)?;
        if transaction.is_autocommit() || !statements::is_completed(&transaction, id, token).map_err(describe)? {
            return Err(Error::internal(
                "a job's transaction was ended within it (COMMIT or ROLLBACK): leave that to aside, and return an error to roll back",
            ));
        }
        statements::store_last_values(
            &transaction,
            id,
            &ResolvedAttempt { resolution: Resolution::Done, last_values: last_values() },
        )
        .map_err(describe)?;
        transaction.commit().map_err(describe)?;
        Ok(value)
    }

    /// Polls for commits at short intervals for a second: after [`enqueue_in`], whose transaction is about to commit.
    pub(crate) fn poll_soon(&self) {
        self.writer.poll_soon();
    }

    /// Returns true if the connection is to the file of these jobs.
    pub(crate) fn is_same_file(&self, db: &Connection) -> bool {
        let theirs = db.path().filter(|path| !path.is_empty()).and_then(|path| std::fs::canonicalize(path).ok());
        theirs.is_some() && theirs == self.database.file
    }

    fn write<T, F>(&self, commit: Commit, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&CountingConnection<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.write(commit, run)
    }

    /// Reads, with one snapshot for all statements.
    fn read<T, F>(&self, mut run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let Some(reader) = &self.reader else { return self.write(Commit::RELAXED, move |db| run(db)) };
        let db = lock(reader);
        let describe = |error| errors::error(&self.database.name, &error);
        let snapshot = Transaction::new_unchecked(&db, TransactionBehavior::Deferred).map_err(describe)?;
        let value = run(&snapshot).map_err(describe)?;
        snapshot.finish().map_err(describe)?;
        Ok(value)
    }

    /// Deletes stale lock files of dead processes, once per engine.
    fn sweep(&self) {
        if self.has_swept.swap(true, Ordering::Relaxed) {
            return;
        }
        // They do no harm.
        if let Err(error) = self.workers.sweep() {
            log::debug!("Could not delete stale lock files beside {}: {error}", self.database.name);
        }
    }
}

fn reader(database: &Database) -> Result<Connection> {
    let db = database.connect()?;
    db.pragma_update(None, "query_only", true).map_err(|error| errors::error(&database.name, &error))?;
    Ok(db)
}

/// Enqueues a job in a transaction of the application. The job is as durable as other commits on that connection, which
/// by default (`synchronous` is FULL) survive a power failure.
///
/// # Errors
/// An error if the database has no job tables, or those of another version; and the errors of the database.
pub(crate) fn enqueue_in(transaction: &Transaction<'_>, entry: &Entry, now: Millis) -> Result<Enqueued> {
    let file = transaction.path().filter(|path| !path.is_empty()).unwrap_or("memory").to_owned();
    let describe = |error| errors::error(&file, &error);
    let version = transaction.prepare_cached("SELECT value FROM aside_meta WHERE key = 'version'");
    let version = version.and_then(|mut version| version.query_row([], |row| row.get::<_, u32>(0)).optional());
    match version {
        Ok(Some(version)) if version == schema::newest(schema::STEPS) => {
            let enqueue = |counting: CountingConnection<'_>| {
                let enqueued = statements::enqueue(&counting, entry, now)?;
                counting.store().map(|()| enqueued)
            };
            CountingConnection::new(transaction).and_then(enqueue).map_err(describe)
        }
        Ok(version) => Err(Error::internal(format!(
            "the jobs in {file} have tables of version {}, and this program knows those of version {}: open it with Jobs::sqlite, \
             or run the newer program",
            version.unwrap_or(0),
            schema::newest(schema::STEPS)
        ))),
        Err(error) if error.to_string().contains("no such table") => Err(Error::internal(format!(
            "the database {file} has no tables for jobs: give Jobs::sqlite the path of the database that the transaction is in"
        ))),
        Err(error) => Err(describe(error)),
    }
}

impl Engine for Sqlite {
    fn describe(&self) -> String {
        let Database { name, file, .. } = &self.database;
        format!("sqlite {}", file.as_ref().map_or_else(|| name.clone(), |file| file.display().to_string()))
    }

    fn abilities(&self) -> Abilities {
        let is_file = self.database.file.is_some();
        Abilities { is_durable: is_file, is_shared: is_file, has_transactions: true }
    }

    fn listen(&self, listener: &Arc<Notify>) -> Result<()> {
        self.writer.listen(listener)
    }

    fn enqueue(&self, jobs: Vec<Entry>, now: Millis) -> Result<Vec<Enqueued>> {
        self.write(Commit::NOTIFYING, move |db| jobs.iter().map(|entry| statements::enqueue(db, entry, now)).collect())
    }

    fn check(&self) -> Result<()> {
        self.write(Commit::DURABLE, |db| statements::check(db))
    }

    fn join(&self) -> Result<WorkerId> {
        // The lock is taken first, so that no process sees the worker without its lock.
        let (id, has_lock) = self.workers.begin()?;
        let joining = id.clone();
        let joined = self.write(Commit::RELAXED, move |db| statements::join(db, &joining, has_lock));
        joined.inspect_err(|_| self.workers.end(&id))?;
        Ok(WorkerId(id))
    }

    fn heartbeat(&self, worker: &WorkerId, held: &[HeldJob], now: Millis) -> Result<HeartbeatReply> {
        let (id, held) = (worker.0.clone(), held.to_vec());
        let heartbeat = self.write(Commit::RELAXED, move |db| statements::heartbeat(db, &id, &held, now))?;
        if heartbeat.is_evicted {
            self.workers.end(&worker.0);
        }
        Ok(heartbeat)
    }

    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()> {
        let id = worker.0.clone();
        self.write(Commit::NOTIFYING, move |db| statements::leave(db, &id, now))?;
        self.workers.end(&worker.0);
        Ok(())
    }

    fn recover(&self, lease: Duration, now: Millis) -> Result<Recovered> {
        self.sweep();
        let (workers, orphans) = self.read(|db| Ok((statements::workers(db)?, statements::orphans(db)?)))?;
        let mut suspected = self.workers.suspected(&workers, lease, Instant::now());
        suspected.extend(orphans.into_iter().map(|worker| statements::SuspectedWorker { worker, heartbeat: None }));
        if suspected.is_empty() {
            return Ok(Recovered::default());
        }
        let (missing, recovered) = self.write(Commit::NOTIFYING, move |db| statements::recover(db, &suspected, now))?;
        missing.iter().for_each(|id| self.workers.end(id));
        Ok(recovered)
    }

    /// Each outcome is a write of its own in the same transaction, so that one that fails does not affect the others.
    fn exchange(&self, ended: &[EndedAttempt], claim: Option<ClaimRequest<'_>>, now: Millis) -> Result<Exchanged> {
        let mut batch = self.writer.batch();
        let mut record = |ended: EndedAttempt| {
            let notifies = matches!(ended.resolved.resolution, Resolution::Retry { .. } | Resolution::Released);
            let commit = if notifies { Commit::NOTIFYING } else { Commit::DURABLE };
            batch.add(commit, move |db| statements::resolve(db, ended.id, ended.token, &ended.resolved, now))
        };
        let recorded: Vec<_> = ended.iter().cloned().map(&mut record).collect();
        let claimed = claim.map(|ClaimRequest { worker, capacities }| {
            let (id, capacities) = (worker.0.clone(), capacities.to_vec());
            batch.add(Commit::RELAXED, move |db| statements::claim(db, &id, &capacities, now))
        });
        batch.send()?;
        let recorded = recorded.iter().map(writer::result).collect();
        Ok(Exchanged { recorded, claimed: claimed.as_ref().map_or_else(|| Ok(Vec::new()), writer::result) })
    }

    fn next_due(&self) -> Result<Option<Millis>> {
        self.read(statements::next_due)
    }

    fn cancel(&self, id: u64, now: Millis) -> Result<Option<JobState>> {
        self.write(Commit::NOTIFYING, move |db| statements::cancel(db, id, now))
    }

    fn revive(&self, id: u64, now: Millis) -> Result<bool> {
        self.write(Commit::NOTIFYING, move |db| statements::revive(db, id, now))
    }

    fn discard(&self, id: u64) -> Result<bool> {
        self.write(Commit::DURABLE, move |db| statements::discard(db, id))
    }

    fn pause(&self, queue: &str, paused: bool) -> Result<()> {
        let queue = queue.to_owned();
        self.write(Commit::NOTIFYING, move |db| statements::pause(db, &queue, paused))
    }

    fn paused(&self) -> Result<BTreeSet<String>> {
        self.read(statements::paused)
    }

    fn find(&self, id: u64) -> Result<Option<JobInfo>> {
        self.read(move |db| statements::find(db, id))
    }

    fn list(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
        self.read(move |db| statements::list(db, state, before, most))
    }

    fn of_trace(&self, trace: &str, most: usize) -> Result<Vec<JobInfo>> {
        let trace = trace.to_owned();
        self.read(move |db| statements::of_trace(db, &trace, most))
    }

    fn counts(&self) -> Result<JobCounts> {
        self.read(statements::counts)
    }

    fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.read(statements::queues)
    }

    fn next_to_run(&self, queue: Option<&str>, most: usize) -> Result<Vec<JobInfo>> {
        let queue = queue.map(str::to_owned);
        self.read(move |db| statements::next_to_run(db, queue.as_deref(), most))
    }

    fn failure_groups(&self, most: usize) -> Result<Vec<FailureGroup>> {
        self.read(move |db| groups::first(db, most))
    }

    fn workers(&self) -> Result<Vec<WorkerInfo>> {
        self.read(statements::worker_infos)
    }

    fn last_tick(&self, schedule: &str) -> Result<Option<Millis>> {
        let schedule = schedule.to_owned();
        self.read(move |db| statements::last_tick(db, &schedule))
    }

    fn tick(&self, schedule: &str, due: Millis, job: Option<Entry>, now: Millis) -> Result<bool> {
        let schedule = schedule.to_owned();
        self.write(Commit::NOTIFYING, move |db| statements::tick(db, &schedule, due, job.as_ref(), now))
    }

    fn prune(&self, keep: Retention, now: Millis) -> Result<usize> {
        let mut pruned = 0;
        loop {
            // A power failure may undo this; the jobs are then pruned again.
            let some = self.write(Commit::RELAXED, move |db| statements::prune(db, keep, now))?;
            pruned += some;
            if some < statements::MOST_PRUNED {
                return Ok(pruned);
            }
        }
    }

    fn clock_went_back(&self, now: Millis) -> Result<()> {
        self.write(Commit::NOTIFYING, move |db| statements::clock_went_back(db, now))
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }
}
