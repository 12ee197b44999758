//! Jobs kept in a SQLite file: of their own, or the application's.
//!
//! Every process on that file has one connection that writes, in the hands of one thread ([`writer`]), and one that reads. The
//! file is in write-ahead logging, so neither waits for the other. Processes meet at the file alone: each sees by a counter
//! of SQLite's that another has committed, and by a lock beside the file that another has died ([`workers`]).

use std::any::Any;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};

use self::schema::Place;
use self::workers::Workers;
use self::writer::{Commit, Writer};
use super::engine::{Abilities, Beat, Claimed, End, Ending, Engine, Enqueued, Entry, Held, Keep, Last, Room, WorkerId};
use super::record::{JobCounts, JobInfo, JobState, Millis, QueueInfo};
use crate::background::failure::Cancelled;
use crate::error::{Error, Result};
use crate::sync::{Notify, lock};

mod errors;
mod schema;
mod statements;
#[cfg(test)]
mod tests;
mod workers;
mod writer;

/// How long a write waits for the lock of another process before it fails.
const BUSY: Duration = Duration::from_secs(5);

/// Keeps jobs in a file.
pub(crate) struct Sqlite {
    place: Place,
    writer: Writer,
    /// None for a database in memory, which only one connection can see.
    reader: Option<Mutex<Connection>>,
    workers: Workers,
    has_swept: AtomicBool,
}

impl Sqlite {
    /// The jobs in that file, which is made when it is not there, with its folder. Called from a thread of normal priority,
    /// which the writing thread inherits.
    ///
    /// # Errors
    /// When it cannot be read and written, is no database, is damaged, or is of a newer version.
    pub(crate) fn open(path: &Path) -> Result<Sqlite> {
        Sqlite::open_with(path, BUSY, schema::STEPS)
    }

    fn open_with(path: &Path, busy: Duration, steps: &[&str]) -> Result<Sqlite> {
        let mut place = Place::new(path, busy)?;
        let db = schema::prepare(&place, steps)?;
        place.identify();
        let reader = place.file.as_ref().map(|_| reader(&place)).transpose()?.map(Mutex::new);
        let workers = Workers::new(place.file.as_deref());
        let writer = Writer::start(db, place.clone())?;
        Ok(Sqlite { place, writer, reader, workers, has_swept: AtomicBool::new(false) })
    }

    /// Completes that claim's job together with what `f` writes and what it leaves then: all or nothing. An error of `f` rolls
    /// back, and so does a panic; the job then runs on. `f` is to be short and without I/O: nobody else writes meanwhile.
    ///
    /// # Errors
    /// Those of `f` and of the database; with [`Cancelled`] as its source when the job is another's by now.
    pub(crate) fn transaction<T>(
        &self,
        id: u64,
        token: u64,
        now: Millis,
        f: impl FnOnce(&Transaction<'_>) -> Result<T>,
        last: impl FnOnce() -> Last,
    ) -> Result<T> {
        let mut borrowed = self.writer.borrow()?;
        let said = |error| errors::error(&self.place.shown, &error);
        let transaction = borrowed.db()?.transaction_with_behavior(TransactionBehavior::Immediate).map_err(said)?;
        if !statements::complete(&transaction, id, token, now).map_err(said)? {
            return Err(Error::conflict("the job is not this worker's any more: it was given to another")
                .with_source(Cancelled));
        }
        let value = f(&transaction)?;
        if transaction.is_autocommit() || !statements::is_completed(&transaction, id, token).map_err(said)? {
            return Err(Error::internal(
                "a job's transaction was ended within it (COMMIT or ROLLBACK): leave that to aside, and return an error to roll back",
            ));
        }
        statements::keep_last(&transaction, id, &Ending { end: End::Done, last: last() }).map_err(said)?;
        transaction.commit().map_err(said)?;
        Ok(value)
    }

    /// Looks often, for a second, whether something was committed: after [`enqueue_in`], whose transaction is about to be.
    pub(crate) fn look_soon(&self) {
        self.writer.look_soon();
    }

    /// Whether that connection is to the file that these jobs are in.
    pub(crate) fn is_same_file(&self, db: &Connection) -> bool {
        let theirs = db.path().filter(|path| !path.is_empty()).and_then(|path| std::fs::canonicalize(path).ok());
        theirs.is_some() && theirs == self.place.file
    }

    fn write<T, F>(&self, commit: Commit, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.write(commit, run)
    }

    /// Reads, with all statements seeing the same state.
    fn read<T, F>(&self, mut run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let Some(reader) = &self.reader else { return self.write(Commit::PASSING, run) };
        let db = lock(reader);
        let said = |error| errors::error(&self.place.shown, &error);
        let snapshot = Transaction::new_unchecked(&db, TransactionBehavior::Deferred).map_err(said)?;
        let value = run(&snapshot).map_err(said)?;
        snapshot.finish().map_err(said)?;
        Ok(value)
    }

    /// Once, when the first who recovers comes: what processes left beside the file that ended between two steps.
    fn sweep(&self) {
        if self.has_swept.swap(true, Ordering::Relaxed) {
            return;
        }
        // They are in nobody's way.
        if let Err(error) = self.workers.sweep() {
            log::debug!("lock files that were left beside {} stay there: {error}", self.place.shown);
        }
    }
}

fn reader(place: &Place) -> Result<Connection> {
    let db = place.connect()?;
    db.pragma_update(None, "query_only", true).map_err(|error| errors::error(&place.shown, &error))?;
    Ok(db)
}

/// Keeps a new job if and when that transaction of the application's commits. It is as durable then as all that commits on
/// that connection, which by default (`synchronous` is FULL) is past a power cut.
///
/// # Errors
/// When its database has no tables for jobs, or those of another version; and those of the database.
pub(crate) fn enqueue_in(transaction: &Transaction<'_>, entry: &Entry, now: Millis) -> Result<Enqueued> {
    let file = transaction.path().filter(|path| !path.is_empty()).unwrap_or("memory").to_owned();
    let said = |error| errors::error(&file, &error);
    let version = transaction.prepare_cached("SELECT value FROM aside_meta WHERE key = 'version'");
    let version = version.and_then(|mut version| version.query_row([], |row| row.get::<_, u32>(0)).optional());
    match version {
        Ok(Some(version)) if version == schema::newest(schema::STEPS) => {
            statements::enqueue(transaction, entry, now).map_err(said)
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
        Err(error) => Err(said(error)),
    }
}

impl Engine for Sqlite {
    fn describe(&self) -> String {
        format!("sqlite {}", self.place.shown)
    }

    fn abilities(&self) -> Abilities {
        let is_file = self.place.file.is_some();
        Abilities { is_durable: is_file, is_shared: is_file, has_transactions: true }
    }

    fn listen(&self, listener: &Arc<Notify>) -> Result<()> {
        self.writer.listen(listener)
    }

    fn enqueue(&self, jobs: Vec<Entry>, now: Millis) -> Result<Vec<Enqueued>> {
        self.write(Commit::NOTIFYING, move |db| jobs.iter().map(|entry| statements::enqueue(db, entry, now)).collect())
    }

    fn check(&self) -> Result<()> {
        self.write(Commit::DURABLE, statements::check)
    }

    fn join(&self) -> Result<WorkerId> {
        // The lock first: whoever sees the worker can see that it lives.
        let (id, has_lock) = self.workers.begin()?;
        let joining = id.clone();
        let joined = self.write(Commit::PASSING, move |db| statements::join(db, &joining, has_lock));
        joined.inspect_err(|_| self.workers.end(&id))?;
        Ok(WorkerId(id))
    }

    fn beat(&self, worker: &WorkerId, held: &[Held], _now: Millis) -> Result<Beat> {
        let (id, held) = (worker.0.clone(), held.to_vec());
        let beat = self.write(Commit::PASSING, move |db| statements::beat(db, &id, &held))?;
        if beat.is_evicted {
            self.workers.end(&worker.0);
        }
        Ok(beat)
    }

    fn leave(&self, worker: &WorkerId, now: Millis) -> Result<()> {
        let id = worker.0.clone();
        self.write(Commit::NOTIFYING, move |db| statements::leave(db, &id, now))?;
        self.workers.end(&worker.0);
        Ok(())
    }

    fn recover(&self, lease: Duration, now: Millis) -> Result<usize> {
        self.sweep();
        let (workers, orphans) = self.read(|db| Ok((statements::workers(db)?, statements::orphans(db)?)))?;
        let mut silent = self.workers.silent(&workers, lease, Instant::now());
        silent.extend(orphans.into_iter().map(|worker| statements::Silent { worker, beat: None }));
        if silent.is_empty() {
            return Ok(0);
        }
        let (gone, recovered) = self.write(Commit::NOTIFYING, move |db| statements::recover(db, &silent, now))?;
        gone.iter().for_each(|id| self.workers.end(id));
        Ok(recovered)
    }

    fn claim(&self, worker: &WorkerId, rooms: &[Room], now: Millis) -> Result<Vec<Claimed>> {
        let (id, rooms) = (worker.0.clone(), rooms.to_vec());
        self.write(Commit::PASSING, move |db| statements::claim(db, &id, &rooms, now))
    }

    fn next_due(&self) -> Result<Option<Millis>> {
        self.read(statements::next_due)
    }

    fn settle(&self, id: u64, token: u64, ending: Ending, now: Millis) -> Result<bool> {
        let notifies = matches!(ending.end, End::Retry { .. } | End::Released);
        let commit = if notifies { Commit::NOTIFYING } else { Commit::DURABLE };
        self.write(commit, move |db| statements::settle(db, id, token, &ending, now))
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

    fn find(&self, id: u64) -> Result<Option<JobInfo>> {
        self.read(move |db| statements::find(db, id))
    }

    fn list(&self, state: JobState, before: Option<u64>, most: usize) -> Result<Vec<JobInfo>> {
        self.read(move |db| statements::list(db, state, before, most))
    }

    fn counts(&self) -> Result<JobCounts> {
        self.read(statements::counts)
    }

    fn queues(&self) -> Result<Vec<QueueInfo>> {
        self.read(statements::queues)
    }

    fn last_tick(&self, schedule: &str) -> Result<Option<Millis>> {
        let schedule = schedule.to_owned();
        self.read(move |db| statements::last_tick(db, &schedule))
    }

    fn tick(&self, schedule: &str, due: Millis, job: Option<Entry>, now: Millis) -> Result<bool> {
        let schedule = schedule.to_owned();
        self.write(Commit::NOTIFYING, move |db| statements::tick(db, &schedule, due, job.as_ref(), now))
    }

    fn trim(&self, keep: Keep, now: Millis) -> Result<usize> {
        let mut trimmed = 0;
        loop {
            // A power cut may bring them back: they are then trimmed again.
            let some = self.write(Commit::PASSING, move |db| statements::trim(db, keep, now))?;
            trimmed += some;
            if some < statements::MOST_TRIMMED {
                return Ok(trimmed);
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
