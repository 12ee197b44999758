//! The numbers of jobs by state, which are stored, so that a million jobs are counted without reading them, and the ids of new
//! jobs.
//!
//! Triggers count for every connection. They took a third of the processor time of `enqueue_all`, so the writing connection
//! of an engine has them disabled, adds its changes up, and stores them once before it commits. Other connections, such as the
//! application's in `enqueue_in`, and processes of an older version, have the triggers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;

use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection, Params, Result, params};

use crate::jobs::record::JobState;

/// Returns the number of a state in the table.
pub(super) fn number(state: JobState) -> u8 {
    match state {
        JobState::Waiting => 0,
        JobState::Scheduled => 1,
        JobState::Running => 2,
        JobState::Done => 3,
        JobState::Dead => 4,
        JobState::Cancelled => 5,
    }
}

/// Sets whether the triggers of a connection run. Its prepared statements are prepared again.
pub(super) fn set_triggers(db: &Connection, enabled: bool) -> Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, enabled).map(drop)
}

/// Records the highest id that was ever assigned in a file of an earlier version, which has it in SQLite's own table.
pub(super) fn keep_last_id_of_sqlite(db: &Connection) -> Result<()> {
    let has_ids = "SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'";
    if db.prepare(has_ids)?.exists([])? {
        let keep =
            "INSERT INTO aside_meta (key, value) SELECT 'last_id', seq FROM sqlite_sequence WHERE name = 'aside_jobs'";
        db.execute(keep, [])?;
    }
    Ok(())
}

/// Enables the triggers of a connection if the application's tables have some, and returns true then. A borrower of the
/// connection may write to these tables. Without such triggers, the prepared statements stay as they are.
pub(super) fn enable_triggers_of_others(db: &Connection) -> Result<bool> {
    let others = "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name NOT GLOB 'aside_*'";
    let has_others = db.prepare_cached(others)?.exists([])?;
    if has_others {
        set_triggers(db, true)?;
    }
    Ok(has_others)
}

/// A connection in a transaction, with the changes of the counts, which are stored by [`store`](CountingConnection::store).
pub(super) struct CountingConnection<'a> {
    db: &'a Connection,
    /// `None` if triggers count.
    changes: Option<RefCell<Changes>>,
    /// The highest id that was ever assigned, once it is read.
    last_id: Cell<Option<i64>>,
    /// The statement that inserts a job, once it is used: a search in the cache for each job takes time.
    insert: RefCell<Option<CachedStatement<'a>>>,
}

#[derive(Default)]
struct Changes {
    waiting: BTreeMap<String, i64>,
    others: [i64; JobState::ALL.len()],
}

impl Deref for CountingConnection<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.db
    }
}

impl<'a> CountingConnection<'a> {
    pub(super) fn new(db: &'a Connection) -> Result<CountingConnection<'a>> {
        let has_triggers = db.db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER)?;
        Ok(CountingConnection {
            db,
            changes: (!has_triggers).then(RefCell::default),
            last_id: Cell::new(None),
            insert: RefCell::default(),
        })
    }

    /// Counts jobs that entered a state, or left it if `change` is negative.
    pub(super) fn count(&self, state: JobState, queue: &str, change: i64) {
        let Some(changes) = &self.changes else { return };
        let Changes { waiting, others } = &mut *changes.borrow_mut();
        match state {
            JobState::Waiting => match waiting.get_mut(queue) {
                Some(count) => *count += change,
                None => drop(waiting.insert(queue.to_owned(), change)),
            },
            // They are few, and counted when they are asked for.
            JobState::Running => {}
            _ => others[usize::from(number(state))] += change,
        }
    }

    /// Returns the id for a new job of this transaction, which has the write lock or fails.
    pub(super) fn next_id(&self) -> Result<i64> {
        let last = match self.last_id.get() {
            Some(last) => last,
            None => self
                .db
                .prepare_cached(
                    "SELECT max(coalesce((SELECT max(id) FROM aside_jobs), 0),
                                coalesce((SELECT value FROM aside_meta WHERE key = 'last_id'), 0))",
                )?
                .query_row([], |row| row.get(0))?,
        };
        let id = last.saturating_add(1);
        self.last_id.set(Some(id));
        Ok(id)
    }

    /// Inserts a job. The values are those of the columns in the statement, in their order.
    pub(super) fn insert(&self, values: impl Params) -> Result<()> {
        let mut insert = self.insert.borrow_mut();
        let insert = match &mut *insert {
            Some(insert) => insert,
            none => none.insert(self.db.prepare_cached(
                "INSERT INTO aside_jobs (id, state, rank, queue, name, unique_key, priority, enqueued_at, due_at, wait, label, origin,
                                         payload, trace_high, trace_low, parent)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
            )?),
        };
        insert.execute(values).map(drop)
    }

    /// Records the id of a deleted job, if it was the highest one, so that it is not assigned again.
    pub(super) fn keep_last_id(&self, deleted: i64) -> Result<()> {
        if self.changes.is_none() {
            return Ok(());
        }
        self.db
            .prepare_cached(
                "INSERT INTO aside_meta (key, value)
                    SELECT 'last_id', ?1 WHERE ?1 > coalesce((SELECT max(id) FROM aside_jobs), 0)
                 ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)",
            )?
            .execute([deleted])
            .map(drop)
    }

    /// Stores the changes. Must be called before the commit.
    pub(super) fn store(self) -> Result<()> {
        let Some(changes) = self.changes else { return Ok(()) };
        let Changes { waiting, others } = changes.into_inner();
        let others = JobState::ALL.into_iter().map(|state| (state, "", others[usize::from(number(state))]));
        let waiting = waiting.iter().map(|(queue, change)| (JobState::Waiting, queue.as_str(), *change));
        for (state, queue, change) in waiting.chain(others).filter(|(_, _, change)| *change != 0) {
            let add = "INSERT INTO aside_counts (state, queue, count) VALUES (?1, ?2, ?3)
                       ON CONFLICT (state, queue) DO UPDATE SET count = count + excluded.count";
            self.db.prepare_cached(add)?.execute(params![number(state), queue, change])?;
        }
        Ok(())
    }
}
