//! Jobs in one transaction with other writes in the same SQLite file: a job is enqueued if and only if the transaction
//! commits, and completed together with its effects.

use std::sync::atomic::Ordering;

use rusqlite::Transaction;

use super::attempt::JobRun;
use super::engine::Enqueued;
use super::facade::Jobs;
use super::job::{Job, NewJob};
use super::job_config::current_lineage;
use super::sqlite::{Sqlite, enqueue_in};
use crate::background::task_context::TaskContext;
use crate::error::{Error, OrHere, Result};
use crate::http::request::Request;

impl Jobs {
    /// Enqueues a job in a transaction of the application's own connection: the job exists if and only if the
    /// transaction commits.
    ///
    /// ```
    /// use aside::jobs::rusqlite::Connection;
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
    /// The connection must be to the file that stores the jobs. It needs a `busy_timeout`, so that it waits while the
    /// file is locked.
    ///
    /// # Errors
    /// The errors of [`enqueue`](crate::jobs::enqueue()), and an error if the jobs are not stored in SQLite, or in another
    /// file.
    #[track_caller]
    pub fn enqueue_in<J: Job>(&self, transaction: &Transaction<'_>, job: impl Into<NewJob<J>>) -> Result<Enqueued> {
        let message = "a job can be enqueued in a transaction only if the jobs are in the same SQLite file";
        let engine = self.engine.as_any().downcast_ref::<Sqlite>().ok_or_else(|| Error::internal(message)).or_here()?;
        if !engine.is_same_file(transaction) {
            return Err(Error::internal(format!("{message}; they are in {}", self.describe())));
        }
        let enqueued =
            enqueue_in(transaction, &self.config.entry(job.into(), &current_lineage()).or_here()?, self.now())
                .or_here()?;
        engine.poll_soon();
        Ok(enqueued)
    }
}

impl Request {
    /// Enqueues a job in a transaction, like [`Jobs::enqueue_in`].
    ///
    /// # Errors
    /// The errors of [`Jobs::enqueue_in`].
    #[track_caller]
    pub fn enqueue_in<J: Job>(&self, transaction: &Transaction<'_>, job: impl Into<NewJob<J>>) -> Result<Enqueued> {
        self.jobs()?.enqueue_in(transaction, job)
    }
}

impl TaskContext {
    /// Completes the job together with its own writes. The writes of `f`, the [output](TaskContext::output), the
    /// progress and the completion of the job are committed in one transaction, so that the writes happen **exactly
    /// once**, even if the process crashes.
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
    /// The jobs must be stored in the application's own SQLite file, since two files cannot be committed atomically.
    /// `f` must be short and only write: no mail, no network requests. It has exclusive use of the one connection that
    /// writes jobs. After the commit the job is done: a later error of the job is logged and changes nothing, and later
    /// messages or progress may not reach a page. Can be called once for each job.
    ///
    /// # Errors
    /// The error of `f` or of the database, or a cancellation if the job was given to another worker: then nothing is
    /// written, and the job continues. An error if the task is not a job, or the jobs are not stored in SQLite.
    #[track_caller]
    pub fn transaction<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let run = self
            .attached::<JobRun>()
            .ok_or_else(|| Error::internal("only a job has a transaction, and this task is not a job"))
            .or_here()?;
        let message = "a job has a transaction only if the jobs are stored in SQLite (`Jobs::sqlite`)";
        let engine =
            run.jobs.engine.as_any().downcast_ref::<Sqlite>().ok_or_else(|| Error::internal(message)).or_here()?;
        let last_values = || run.last_values(self.record());
        let value = engine.transaction(run.id, run.token, run.jobs.now(), f, last_values).or_here()?;
        run.is_committed.store(true, Ordering::Release);
        Ok(value)
    }
}
