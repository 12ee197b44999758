//! Jobs in one transaction with other writes, where both are in one SQLite file: enqueued if and only if what they belong to
//! is written, and completed together with what they did.

use std::sync::atomic::Ordering;

use rusqlite::Transaction;

use super::attempt::JobRun;
use super::engine::Enqueued;
use super::facade::Jobs;
use super::job::{Job, NewJob};
use super::sqlite::{Sqlite, enqueue_in};
use crate::background::task::TaskContext;
use crate::error::{Error, Result};
use crate::http::request::Request;

impl Jobs {
    /// Enqueues a job in a transaction of the application's own connection: it is there if and only if that commits.
    ///
    /// ```
    /// use aside::rusqlite::Connection;
    /// use aside::{Job, Jobs, Result, TaskContext};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Charge { order: i64 }
    ///
    /// impl Job for Charge {
    ///     const NAME: &'static str = "charge";
    ///     fn run(self, _task: &TaskContext) -> Result<()> { Ok(()) }
    /// }
    ///
    /// # fn main() -> Result<()> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("shop.db");
    /// let jobs = Jobs::sqlite(&path)?.register::<Charge>(); // the application's own file
    /// let mut db = Connection::open(&path)?;
    /// db.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, quantity)")?;
    ///
    /// let transaction = db.transaction()?;
    /// transaction.execute("INSERT INTO orders (quantity) VALUES (2)", ())?;
    /// jobs.enqueue_in(&transaction, Charge { order: transaction.last_insert_rowid() })?;
    /// transaction.commit()?; // the order and its job, or neither
    /// assert_eq!(jobs.counts()?.waiting, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The connection must be one to the file that the jobs are kept in. It is the application's to wait when that file is
    /// busy: give it a `busy_timeout`.
    ///
    /// # Errors
    /// As [`enqueue`](crate::enqueue()), when the jobs are not kept in SQLite, or in another file than that.
    pub fn enqueue_in<J: Job>(&self, transaction: &Transaction<'_>, job: impl Into<NewJob<J>>) -> Result<Enqueued> {
        let words = "a job can be enqueued in a transaction where the jobs are in the same SQLite file";
        let engine = self.engine.as_any().downcast_ref::<Sqlite>().ok_or_else(|| Error::internal(words))?;
        if !engine.is_same_file(transaction) {
            return Err(Error::internal(format!("{words}, and they are in {}", self.describe())));
        }
        let enqueued = enqueue_in(transaction, &self.plan.entry(job.into())?, self.now())?;
        engine.look_soon();
        Ok(enqueued)
    }
}

impl Request {
    /// Enqueues a job in a transaction: [`Jobs::enqueue_in`].
    ///
    /// # Errors
    /// As [`Jobs::enqueue_in`].
    pub fn enqueue_in<J: Job>(&self, transaction: &Transaction<'_>, job: impl Into<NewJob<J>>) -> Result<Enqueued> {
        self.jobs()?.enqueue_in(transaction, job)
    }
}

impl TaskContext {
    /// Completes the job together with its own writes: what `f` writes, the [output](TaskContext::output), the progress, and
    /// that the job is done are committed in one transaction, so that it happens **exactly once**, whatever becomes of the
    /// process.
    ///
    /// ```
    /// use aside::{Job, Result, TaskContext};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Charge { order: i64, cents: i64 }
    ///
    /// impl Job for Charge {
    ///     const NAME: &'static str = "charge";
    ///
    ///     fn run(self, task: &TaskContext) -> Result<()> {
    ///         task.transaction(|db| {
    ///             db.execute("INSERT INTO charges VALUES (?, ?)", (self.order, self.cents))?;
    ///             Ok(())
    ///         })
    ///     }
    /// }
    /// ```
    ///
    /// The jobs must be kept in the application's own SQLite file: two files are not written together over a crash. `f` is
    /// to be short, and to do nothing but write: no mail, no request to elsewhere. The one connection that writes jobs is
    /// `f`'s for that time. After it the job is done: an error that it then returns is logged and changes nothing, and a message or progress may come too late for a page. Once for each job.
    ///
    /// # Errors
    /// That of `f`, of the database, or the cancellation of a job that was given to another worker meanwhile: then nothing is
    /// written, and the job goes on. And when this is no job, or its jobs are not kept in SQLite.
    pub fn transaction<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let run = self
            .attached::<JobRun>()
            .ok_or_else(|| Error::internal("only a job has a transaction, and this is none"))?;
        let words = "a job has a transaction where the jobs are kept in SQLite (`Jobs::sqlite`)";
        let engine = run.jobs.engine.as_any().downcast_ref::<Sqlite>().ok_or_else(|| Error::internal(words))?;
        let last = || run.last(self.record());
        let value = engine.transaction(run.id, run.token, run.jobs.now(), f, last)?;
        run.is_committed.store(true, Ordering::Release);
        Ok(value)
    }
}
