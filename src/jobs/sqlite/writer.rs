//! The writing connection of a process, and the thread that owns it.
//!
//! SQLite allows one writer at a time, and the cost of a durable commit is the sync of the disk, however small it is.
//! So all writes go through one thread. It puts the writes that arrived during a sync into the next transaction, and
//! replies when that is committed. Threads that enqueue concurrently share a sync, and never wait for each other's
//! locks.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::counts::{self, CountingConnection};
use super::errors;
use super::schema::Database;
use crate::error::{Error, Result};
use crate::jobs::engine::Unavailable;
use crate::sync::Notify;

/// The maximum number of writes in one transaction, so that the first of them does not wait too long.
const MAX_BATCH: usize = 256;

/// The longest wait for other writes to share a sync.
const MAX_BATCH_DELAY: Duration = Duration::from_millis(1);

/// The interval between two checks for commits of other processes.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The interval after an application has announced a commit, and the time for which it is used.
const SOON_INTERVAL: Duration = Duration::from_millis(3);
const SOON_DURATION: Duration = Duration::from_secs(1);

/// The requirements of a write for its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    /// True if the commit must survive a power failure: the disk is synced before the reply.
    pub(super) is_durable: bool,
    /// True if there may be more jobs to claim after the commit.
    pub(super) notifies: bool,
}

impl Commit {
    /// For writes that the caller relies on after the reply.
    pub(super) const DURABLE: Commit = Commit { is_durable: true, notifies: false };
    /// Like `DURABLE`, for a write after which there may be more jobs to claim.
    pub(super) const NOTIFYING: Commit = Commit { is_durable: true, notifies: true };
    /// For claims, heartbeats and progress, which a power failure may undo. It ends the workers too, so that no worker
    /// acts on an undone claim: the job waits again, as after the death of its worker. These writes survive the end of
    /// the process, and are never reordered: the next durable commit syncs all writes before it.
    pub(super) const RELAXED: Commit = Commit { is_durable: false, notifies: false };
}

/// A write, with the caller that waits for it.
trait Write: Send {
    fn commit(&self) -> Commit;
    /// May be called twice: when a transaction of several writes has failed, each is repeated in a transaction of its
    /// own.
    fn run(&mut self, db: &CountingConnection<'_>) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), Unavailable>);
}

struct Op<T, F> {
    commit: Commit,
    run: F,
    value: Option<T>,
    answer: Sender<Result<T, Unavailable>>,
}

impl<T: Send, F: FnMut(&CountingConnection<'_>) -> rusqlite::Result<T> + Send> Write for Op<T, F> {
    fn commit(&self) -> Commit {
        self.commit
    }

    fn run(&mut self, db: &CountingConnection<'_>) -> rusqlite::Result<()> {
        self.value = Some((self.run)(db)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), Unavailable>) {
        let Op { value, answer, .. } = *self;
        let outcome = outcome.and_then(|()| value.ok_or_else(|| broken("the write was not run".to_owned())));
        // The caller may be gone, if its thread was unwound.
        let _ = answer.send(outcome);
    }
}

/// Writes of one caller that share a transaction.
pub(super) struct Batch<'a> {
    writer: &'a Writer,
    writes: Vec<Box<dyn Write>>,
}

impl Batch<'_> {
    /// Adds a write, and returns a receiver for its result.
    pub(super) fn add<T, F>(&mut self, commit: Commit, run: F) -> Receiver<Result<T, Unavailable>>
    where
        T: Send + 'static,
        F: FnMut(&CountingConnection<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = channel();
        self.writes.push(Box::new(Op { commit, run, value: None, answer }));
        answered
    }

    /// Queues the writes.
    pub(super) fn send(self) -> Result<()> {
        if self.writes.is_empty() { Ok(()) } else { self.writer.send(Message::Write(self.writes)) }
    }
}

/// Waits for the result of a write.
pub(super) fn result<T>(answered: &Receiver<Result<T, Unavailable>>) -> Result<T> {
    Ok(answered.recv().map_err(|_| ended())??)
}

enum Message {
    Write(Vec<Box<dyn Write>>),
    Lend(Sender<Result<LentConnection, Unavailable>>),
    Listen(Weak<Notify>, Sender<()>),
    PollSoon,
}

/// The handle of the writing thread. When it is dropped, the thread finishes the queued writes, closes the connection
/// and ends.
pub(super) struct Writer {
    number: u64,
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

thread_local! {
    /// The writers whose connection this thread has borrowed: waiting for one of them would be a deadlock.
    static BORROWED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Writer {
    /// Starts the thread, which inherits the priority of the calling thread.
    pub(super) fn start(db: Connection, database: Database) -> Result<Writer> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let (sender, inbox) = channel();
        let writer_thread = WriterThread::new(db, database, inbox);
        let thread = thread::Builder::new().name("aside-jobs-db".into()).spawn(move || writer_thread.serve())?;
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        Ok(Writer { number, sender: Some(sender), thread: Some(thread) })
    }

    /// Runs `run` in a transaction. Returns after the commit.
    pub(super) fn write<T, F>(&self, commit: Commit, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&CountingConnection<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        result(&self.ask(commit, run)?)
    }

    /// Returns an empty batch.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { writer: self, writes: Vec::new() }
    }

    /// Queues `run`, and returns a receiver for its result.
    pub(super) fn ask<T, F>(&self, commit: Commit, run: F) -> Result<Receiver<Result<T, Unavailable>>>
    where
        T: Send + 'static,
        F: FnMut(&CountingConnection<'_>) -> rusqlite::Result<T> + Send + 'static,
    {
        let mut batch = self.batch();
        let answered = batch.add(commit, run);
        batch.send()?;
        Ok(answered)
    }

    /// Borrows the connection. No other thread can write until it is returned.
    pub(super) fn borrow(&self) -> Result<BorrowedConnection> {
        let (answer, answered) = channel();
        self.send(Message::Lend(answer))?;
        let lent = answered.recv().map_err(|_| ended())??;
        BORROWED.with_borrow_mut(|borrowed| borrowed.push(self.number));
        Ok(BorrowedConnection { lent, number: self.number })
    }

    /// Notifies the listener for all commits after this call has returned.
    pub(super) fn listen(&self, listener: &Arc<Notify>) -> Result<()> {
        let (answer, answered) = channel();
        self.send(Message::Listen(Arc::downgrade(listener), answer))?;
        answered.recv().map_err(|_| ended())
    }

    /// Polls for commits at short intervals, for a moment.
    pub(super) fn poll_soon(&self) {
        // Allowed while the connection is borrowed, since the caller does not wait for a reply.
        if let Some(sender) = &self.sender {
            let _ = sender.send(Message::PollSoon);
        }
    }

    fn send(&self, message: Message) -> Result<()> {
        if BORROWED.with_borrow(|borrowed| borrowed.contains(&self.number)) {
            return Err(Error::internal(
                "within a job's transaction, no other call to its job store is possible: enqueue with the transaction \
                 (enqueue_in), or after it",
            ));
        }
        let sender = self.sender.as_ref().ok_or_else(ended)?;
        sender.send(message).map_err(|_| ended())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn ended() -> Error {
    Error::internal("the thread that writes the jobs has ended")
}

/// A connection that the writing thread has lent. It is returned on drop.
struct LentConnection {
    db: Option<Connection>,
    back: Sender<Connection>,
}

impl Drop for LentConnection {
    fn drop(&mut self) {
        if let Some(db) = self.db.take() {
            let _ = self.back.send(db);
        }
    }
}

/// A lent connection that is registered with its thread.
pub(super) struct BorrowedConnection {
    lent: LentConnection,
    number: u64,
}

impl BorrowedConnection {
    pub(super) fn db(&mut self) -> Result<&mut Connection> {
        self.lent.db.as_mut().ok_or_else(ended)
    }
}

impl Drop for BorrowedConnection {
    fn drop(&mut self) {
        BORROWED.with_borrow_mut(|borrowed| borrowed.retain(|number| *number != self.number));
    }
}

/// The state of the writing thread.
struct WriterThread {
    db: Option<Connection>,
    database: Database,
    inbox: Receiver<Message>,
    listeners: Vec<Weak<Notify>>,
    /// The value of the connection's counter of commits by others.
    seen: Option<i64>,
    observed_at: Instant,
    soon_until: Option<Instant>,
    /// The number of callers whose writes were in the last transaction.
    last_callers: usize,
    /// The duration of the last durable commit.
    last_sync: Duration,
    /// True if commits sync, according to the current setting of the connection.
    syncs: Option<bool>,
}

impl WriterThread {
    fn new(db: Connection, database: Database, inbox: Receiver<Message>) -> WriterThread {
        WriterThread {
            db: Some(db),
            database,
            inbox,
            listeners: Vec::new(),
            seen: None,
            observed_at: Instant::now(),
            soon_until: None,
            last_callers: 1,
            last_sync: Duration::ZERO,
            syncs: None,
        }
    }

    fn serve(mut self) {
        loop {
            let message = match self.wait() {
                Ok(message) => Some(message),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // After a panic the writes of the message are dropped, so that their callers get an error. The next message
            // is handled.
            let _ = catch_unwind(AssertUnwindSafe(|| self.step(message)));
        }
    }

    fn wait(&self) -> Result<Message, RecvTimeoutError> {
        if self.listeners.is_empty() {
            return self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected);
        }
        self.inbox.recv_timeout(self.pause().saturating_sub(self.observed_at.elapsed()))
    }

    fn pause(&self) -> Duration {
        if self.soon_until.is_some_and(|until| Instant::now() < until) { SOON_INTERVAL } else { POLL_INTERVAL }
    }

    fn step(&mut self, message: Option<Message>) {
        if let Some(message) = message {
            self.take(message);
        }
        if !self.listeners.is_empty() && self.observed_at.elapsed() >= self.pause() {
            self.poll();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Write(first) => {
                let (batch, other) = self.collect_batch(first);
                self.commit(batch);
                if let Some(other) = other {
                    self.take(other);
                }
            }
            Message::Lend(answer) => self.lend(&answer),
            Message::Listen(listener, answer) => {
                self.poll();
                self.listeners.push(listener);
                let _ = answer.send(());
            }
            Message::PollSoon => self.soon_until = Some(Instant::now() + SOON_DURATION),
        }
    }

    /// Collects the writes that have arrived, up to the first message of another kind.
    ///
    /// Callers that were replied to together write again within a moment, one after the other. Without a short wait for
    /// them, the first would have a sync of its own, and the others would share the next one.
    fn collect_batch(&mut self, first: Vec<Box<dyn Write>>) -> (Vec<Box<dyn Write>>, Option<Message>) {
        let until = Instant::now() + self.batch_delay();
        let (mut batch, mut callers, mut other) = (first, 1, None);
        while batch.len() < MAX_BATCH {
            let is_larger = callers >= self.last_callers;
            let wait = if is_larger { Duration::ZERO } else { until.saturating_duration_since(Instant::now()) };
            match self.inbox.recv_timeout(wait) {
                Ok(Message::Write(writes)) => {
                    batch.extend(writes);
                    callers += 1;
                }
                Ok(message) => {
                    other = Some(message);
                    break;
                }
                Err(_) => break,
            }
        }
        self.last_callers = callers;
        (batch, other)
    }

    /// Returns the wait for as many callers as last time: a fraction of the duration of a sync.
    fn batch_delay(&self) -> Duration {
        (self.last_sync / 4).min(MAX_BATCH_DELAY)
    }

    fn commit(&mut self, mut batch: Vec<Box<dyn Write>>) {
        match self.attempt(&mut batch) {
            Err(Fault::InOne(_)) if batch.len() > 1 => self.commit_each(batch),
            outcome => self.answer(batch, outcome.map_err(Fault::into_inner)),
        }
    }

    /// Runs the writes one by one, in their order, so that a failure does not affect the others. Savepoints would do
    /// the same, but a full disk rolls back the whole transaction, and each savepoint has a cost.
    fn commit_each(&mut self, batch: Vec<Box<dyn Write>>) {
        for mut write in batch {
            let outcome = self.attempt(std::slice::from_mut(&mut write)).map_err(Fault::into_inner);
            self.answer(vec![write], outcome);
        }
    }

    fn answer(&mut self, batch: Vec<Box<dyn Write>>, outcome: Result<(), Unavailable>) {
        let notifies = outcome.is_ok() && batch.iter().any(|write| write.commit().notifies);
        for write in batch {
            write.answer(outcome.clone());
        }
        if notifies {
            self.notify();
        }
    }

    fn attempt(&mut self, batch: &mut [Box<dyn Write>]) -> Result<(), Fault> {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.transact(batch)));
        if !matches!(outcome, Ok(Ok(()))) {
            self.roll_back();
        }
        outcome.unwrap_or_else(|_| {
            Err(Fault::InOne(broken(format!("the jobs in {}: a write panicked", self.database.name))))
        })
    }

    fn transact(&mut self, batch: &mut [Box<dyn Write>]) -> Result<(), Fault> {
        self.prepare_connection(batch.iter().any(|write| write.commit().is_durable)).map_err(Fault::InAll)?;
        let Some(db) = &self.db else { return Err(Fault::InAll(self.database.missing())) };
        let describe = |error| errors::unavailable(&self.database.name, &error);
        db.prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut begin| begin.execute([]))
            .map_err(|e| Fault::InAll(describe(e)))?;
        let counting = CountingConnection::new(db).map_err(|e| Fault::InAll(describe(e)))?;
        for write in batch {
            write.run(&counting).map_err(|e| Fault::InOne(describe(e)))?;
        }
        counting.store().map_err(|e| Fault::InOne(describe(e)))?;
        let began = Instant::now();
        let committed = db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        if self.syncs == Some(true) {
            self.last_sync = began.elapsed();
        }
        committed.map(drop).map_err(|e| Fault::InOne(describe(e)))
    }

    /// Opens a connection if there is none, and configures it for the next commit.
    fn prepare_connection(&mut self, is_durable: bool) -> Result<(), Unavailable> {
        if !self.database.is_unchanged() {
            return Err(self.database.missing());
        }
        if self.db.is_none() {
            self.db = Some(self.database.connect_to_write()?);
            self.syncs = None;
        }
        if let Some(db) = self.db.as_ref().filter(|_| self.syncs != Some(is_durable)) {
            let mode = if is_durable { "FULL" } else { "NORMAL" };
            let set = db.pragma_update(None, "synchronous", mode);
            set.map_err(|error| errors::unavailable(&self.database.name, &error))?;
            self.syncs = Some(is_durable);
        }
        Ok(())
    }

    fn roll_back(&mut self) {
        let Some(db) = &self.db else { return };
        if !db.is_autocommit() && db.execute_batch("ROLLBACK").is_err() {
            // The state of the connection is unknown. The next one starts with the committed data.
            self.db = None;
        }
    }

    fn lend(&mut self, answer: &Sender<Result<LentConnection, Unavailable>>) {
        if let Err(unavailable) = self.prepare_connection(true) {
            let _ = answer.send(Err(unavailable));
            return;
        }
        let needs_triggers = match self.db.as_ref().map_or(Ok(false), counts::enable_triggers_of_others) {
            Ok(needs_triggers) => needs_triggers,
            Err(error) => {
                let _ = answer.send(Err(errors::unavailable(&self.database.name, &error)));
                return;
            }
        };
        let (back, returned) = channel();
        // If the borrower is gone, or panics, the connection is dropped there and so returned.
        let _ = answer.send(Ok(LentConnection { db: self.db.take(), back }));
        self.db = returned.recv().ok();
        self.syncs = None;
        self.roll_back();
        if needs_triggers && self.db.as_ref().is_some_and(|db| counts::set_triggers(db, false).is_err()) {
            self.db = None;
        }
        self.notify();
    }

    /// Notifies the listeners if another connection has committed since the last check.
    fn poll(&mut self) {
        self.observed_at = Instant::now();
        let Some(db) = &self.db else { return };
        let version =
            db.prepare_cached("PRAGMA data_version").and_then(|mut poll| poll.query_row([], |row| row.get(0)));
        let Ok(version) = version else { return };
        if self.seen.replace(version).is_some_and(|seen| seen != version) {
            self.notify();
        }
        self.listeners.retain(|listener| listener.strong_count() > 0);
    }

    fn notify(&mut self) {
        self.listeners.retain(|listener| listener.upgrade().inspect(|listener| listener.notify()).is_some());
    }
}

/// The cause of a failed transaction.
enum Fault {
    /// The transaction could not begin, so each of its writes has failed.
    InAll(Unavailable),
    /// One of the writes may be the cause.
    InOne(Unavailable),
}

impl Fault {
    fn into_inner(self) -> Unavailable {
        match self {
            Fault::InAll(unavailable) | Fault::InOne(unavailable) => unavailable,
        }
    }
}

fn broken(message: String) -> Unavailable {
    Unavailable { reason: "jobs cannot be written", message }
}
