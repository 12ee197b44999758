//! The one connection of a process that writes, and the thread that owns it.
//!
//! SQLite has one writer at a time, and what a durable commit costs is the disk's sync, however little is in it. So all writes
//! go through one thread, which puts what has gathered while it waited for the disk into the next transaction, and answers
//! when that is safe. Many threads that enqueue at once share a sync; none of them meets another's lock.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::errors;
use super::schema::Place;
use crate::error::{Error, Result};
use crate::jobs::engine::Unavailable;
use crate::sync::Notify;

/// How many writes share one transaction at most, so that the first of them does not wait for ever.
const MOST_TOGETHER: usize = 256;

/// How long a write may wait for others to share its sync.
const MOST_DELAY: Duration = Duration::from_millis(1);

/// How often to look whether another process has written.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often after an application said that it is about to commit, and for how long.
const LOOK_SOON: Duration = Duration::from_millis(3);
const SOON: Duration = Duration::from_secs(1);

/// What a write needs of its commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Commit {
    /// Past a power cut: the disk is synced before the answer.
    pub(super) is_durable: bool,
    /// There may be more to claim after it.
    pub(super) notifies: bool,
}

impl Commit {
    /// For what somebody relies on as soon as it is answered.
    pub(super) const DURABLE: Commit = Commit { is_durable: true, notifies: false };
    /// The same, and there may be more to claim.
    pub(super) const NOTIFYING: Commit = Commit { is_durable: true, notifies: true };
    /// For claims, beats and progress, which a power cut may take back. It ends the workers too, so nobody is left who
    /// would act on them: the job waits again, as it would if its worker had died. They are safe from the end of the process
    /// alone, and never out of order: the next durable commit syncs all that was written before it.
    pub(super) const PASSING: Commit = Commit { is_durable: false, notifies: false };
}

/// A write, and the one who waits for it.
trait Write: Send {
    fn commit(&self) -> Commit;
    /// May come twice: when a transaction of many failed, each is tried in one of its own.
    fn run(&mut self, db: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, outcome: Result<(), Unavailable>);
}

struct Op<T, F> {
    commit: Commit,
    run: F,
    value: Option<T>,
    answer: Sender<Result<T, Unavailable>>,
}

impl<T: Send, F: FnMut(&Connection) -> rusqlite::Result<T> + Send> Write for Op<T, F> {
    fn commit(&self) -> Commit {
        self.commit
    }

    fn run(&mut self, db: &Connection) -> rusqlite::Result<()> {
        self.value = Some((self.run)(db)?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), Unavailable>) {
        let Op { value, answer, .. } = *self;
        let outcome = outcome.and_then(|()| value.ok_or_else(|| broken("the write was not run".to_owned())));
        // Whoever asked may have gone: a thread that was unwound.
        let _ = answer.send(outcome);
    }
}

enum Message {
    Write(Box<dyn Write>),
    Lend(Sender<Result<Loan, Unavailable>>),
    Listen(Weak<Notify>, Sender<()>),
    LookSoon,
}

/// The way to the thread. Dropping it ends the thread, after what was asked before, and closes the connection.
pub(super) struct Writer {
    number: u64,
    sender: Option<Sender<Message>>,
    thread: Option<JoinHandle<()>>,
}

thread_local! {
    /// The writers whose connection this thread has on loan: waiting for one of them would be for ever.
    static BORROWED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

impl Writer {
    /// Starts the thread, which inherits the priority of the one that calls.
    pub(super) fn start(db: Connection, place: Place) -> Result<Writer> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let (sender, inbox) = channel();
        let desk = Desk::new(db, place, inbox);
        let thread = thread::Builder::new().name("aside-jobs-db".into()).spawn(move || desk.serve())?;
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        Ok(Writer { number, sender: Some(sender), thread: Some(thread) })
    }

    /// Runs it in a transaction, and comes back when that is committed.
    pub(super) fn write<T, F>(&self, commit: Commit, run: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        Ok(self.ask(commit, run)?.recv().map_err(|_| ended())??)
    }

    /// The same without waiting for the answer.
    pub(super) fn ask<T, F>(&self, commit: Commit, run: F) -> Result<Receiver<Result<T, Unavailable>>>
    where
        T: Send + 'static,
        F: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (answer, answered) = channel();
        self.send(Message::Write(Box::new(Op { commit, run, value: None, answer })))?;
        Ok(answered)
    }

    /// The connection itself, for as long as the loan is kept. Nobody else writes meanwhile.
    pub(super) fn borrow(&self) -> Result<Borrowed> {
        let (answer, answered) = channel();
        self.send(Message::Lend(answer))?;
        let loan = answered.recv().map_err(|_| ended())??;
        BORROWED.with_borrow_mut(|borrowed| borrowed.push(self.number));
        Ok(Borrowed { loan, number: self.number })
    }

    /// Notifies the listener of all that is committed after this has returned.
    pub(super) fn listen(&self, listener: &Arc<Notify>) -> Result<()> {
        let (answer, answered) = channel();
        self.send(Message::Listen(Arc::downgrade(listener), answer))?;
        answered.recv().map_err(|_| ended())
    }

    /// Looks often whether something was committed, for a moment.
    pub(super) fn look_soon(&self) {
        // From within a loan too: nothing waits for the answer.
        if let Some(sender) = &self.sender {
            let _ = sender.send(Message::LookSoon);
        }
    }

    fn send(&self, message: Message) -> Result<()> {
        if BORROWED.with_borrow(|borrowed| borrowed.contains(&self.number)) {
            return Err(Error::internal(
                "within a job's transaction nothing can be asked of the jobs in another way: enqueue with the transaction \
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

/// The connection out of the thread's hands.
struct Loan {
    db: Option<Connection>,
    back: Sender<Connection>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(db) = self.db.take() {
            let _ = self.back.send(db);
        }
    }
}

/// A loan that its thread knows of.
pub(super) struct Borrowed {
    loan: Loan,
    number: u64,
}

impl Borrowed {
    pub(super) fn db(&mut self) -> Result<&mut Connection> {
        self.loan.db.as_mut().ok_or_else(ended)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        BORROWED.with_borrow_mut(|borrowed| borrowed.retain(|number| *number != self.number));
    }
}

/// What the thread has.
struct Desk {
    db: Option<Connection>,
    place: Place,
    inbox: Receiver<Message>,
    listeners: Vec<Weak<Notify>>,
    /// What the connection last said about the commits of others.
    seen: Option<i64>,
    looked_at: Instant,
    soon_until: Option<Instant>,
    /// How many writes the last transaction had.
    crowd: usize,
    /// How long the last durable commit took.
    last_sync: Duration,
    /// Whether commits sync, as the connection is set now.
    syncs: Option<bool>,
}

impl Desk {
    fn new(db: Connection, place: Place, inbox: Receiver<Message>) -> Desk {
        Desk {
            db: Some(db),
            place,
            inbox,
            listeners: Vec::new(),
            seen: None,
            looked_at: Instant::now(),
            soon_until: None,
            crowd: 1,
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
            // What was asked in it is answered with an error as it is dropped, and the next one is served.
            let _ = catch_unwind(AssertUnwindSafe(|| self.step(message)));
        }
    }

    fn wait(&self) -> Result<Message, RecvTimeoutError> {
        if self.listeners.is_empty() {
            return self.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected);
        }
        self.inbox.recv_timeout(self.pause().saturating_sub(self.looked_at.elapsed()))
    }

    fn pause(&self) -> Duration {
        if self.soon_until.is_some_and(|until| Instant::now() < until) { LOOK_SOON } else { LOOK_EVERY }
    }

    fn step(&mut self, message: Option<Message>) {
        if let Some(message) = message {
            self.take(message);
        }
        if !self.listeners.is_empty() && self.looked_at.elapsed() >= self.pause() {
            self.look();
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Write(first) => {
                let (batch, other) = self.gather(first);
                self.commit(batch);
                if let Some(other) = other {
                    self.take(other);
                }
            }
            Message::Lend(answer) => self.lend(&answer),
            Message::Listen(listener, answer) => {
                self.look();
                self.listeners.push(listener);
                let _ = answer.send(());
            }
            Message::LookSoon => self.soon_until = Some(Instant::now() + SOON),
        }
    }

    /// All the writes that have come meanwhile, up to the first message that is something else.
    ///
    /// Those who were answered together come again within a moment, and one after the other: without a short wait for them
    /// the first would have a sync of the disk to itself, and all others the next one.
    fn gather(&self, first: Box<dyn Write>) -> (Vec<Box<dyn Write>>, Option<Message>) {
        let until = Instant::now() + self.moment();
        let mut batch = vec![first];
        while batch.len() < MOST_TOGETHER {
            let wait =
                if batch.len() < self.crowd { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match self.inbox.recv_timeout(wait) {
                Ok(Message::Write(write)) => batch.push(write),
                Ok(other) => return (batch, Some(other)),
                Err(_) => break,
            }
        }
        (batch, None)
    }

    /// How long to wait for as many as there were the last time: a fraction of what a sync takes here.
    fn moment(&self) -> Duration {
        (self.last_sync / 4).min(MOST_DELAY)
    }

    fn commit(&mut self, mut batch: Vec<Box<dyn Write>>) {
        self.crowd = batch.len();
        match self.attempt(&mut batch) {
            Err(Fault::InOne(_)) if batch.len() > 1 => self.commit_each(batch),
            outcome => self.answer(batch, outcome.map_err(Fault::into_inner)),
        }
    }

    /// One by one, in their order: so that what fails does not take the others with it. Savepoints would do that as well,
    /// were it not that a full disk undoes all of the transaction, and that they cost something each time.
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
            Err(Fault::InOne(broken(format!("the jobs in {}: a write panicked", self.place.shown))))
        })
    }

    fn transact(&mut self, batch: &mut [Box<dyn Write>]) -> Result<(), Fault> {
        self.be_ready(batch.iter().any(|write| write.commit().is_durable)).map_err(Fault::InAll)?;
        let Some(db) = &self.db else { return Err(Fault::InAll(self.place.gone())) };
        let said = |error| errors::unavailable(&self.place.shown, &error);
        db.prepare_cached("BEGIN IMMEDIATE")
            .and_then(|mut begin| begin.execute([]))
            .map_err(|e| Fault::InAll(said(e)))?;
        for write in batch {
            write.run(db).map_err(|e| Fault::InOne(said(e)))?;
        }
        let began = Instant::now();
        let committed = db.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([]));
        if self.syncs == Some(true) {
            self.last_sync = began.elapsed();
        }
        committed.map(drop).map_err(|e| Fault::InOne(said(e)))
    }

    /// Sees that there is a connection to the file that is there, set as the next commit needs it.
    fn be_ready(&mut self, is_durable: bool) -> Result<(), Unavailable> {
        if !self.place.is_there() {
            return Err(self.place.gone());
        }
        if self.db.is_none() {
            self.db = Some(self.place.connect_to_write()?);
            self.syncs = None;
        }
        if let Some(db) = self.db.as_ref().filter(|_| self.syncs != Some(is_durable)) {
            let mode = if is_durable { "FULL" } else { "NORMAL" };
            let set = db.pragma_update(None, "synchronous", mode);
            set.map_err(|error| errors::unavailable(&self.place.shown, &error))?;
            self.syncs = Some(is_durable);
        }
        Ok(())
    }

    fn roll_back(&mut self) {
        let Some(db) = &self.db else { return };
        if !db.is_autocommit() && db.execute_batch("ROLLBACK").is_err() {
            // Nothing can be said of that connection any more: the next one begins with what is committed.
            self.db = None;
        }
    }

    fn lend(&mut self, answer: &Sender<Result<Loan, Unavailable>>) {
        if let Err(unavailable) = self.be_ready(true) {
            let _ = answer.send(Err(unavailable));
            return;
        }
        let (back, returned) = channel();
        // Who has gone meanwhile drops the loan at once, and so does whoever panics: it always comes back.
        let _ = answer.send(Ok(Loan { db: self.db.take(), back }));
        self.db = returned.recv().ok();
        self.syncs = None;
        self.roll_back();
        self.notify();
    }

    /// Rings when another connection has committed something since the last time.
    fn look(&mut self) {
        self.looked_at = Instant::now();
        let Some(db) = &self.db else { return };
        let version =
            db.prepare_cached("PRAGMA data_version").and_then(|mut look| look.query_row([], |row| row.get(0)));
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

/// Why a transaction came to nothing.
enum Fault {
    /// It could not begin: so it is for each of the writes.
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

fn broken(words: String) -> Unavailable {
    Unavailable { reason: "jobs cannot be written", words }
}
