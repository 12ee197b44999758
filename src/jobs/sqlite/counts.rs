//! The numbers of jobs by state, which are stored, so that a million jobs are counted without reading them.
//!
//! Triggers count for every connection. They took a third of the processor time of `enqueue_all`, so the writing connection
//! of an engine has them disabled, adds its changes up, and stores them once before it commits. Other connections, such as the
//! application's in `enqueue_in`, and processes of an older version, have the triggers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Deref;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, Result, params};

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

/// A connection in a transaction, with the changes of the counts, which are stored by [`store`](CountingConnection::store).
pub(super) struct CountingConnection<'a> {
    db: &'a Connection,
    /// `None` if triggers count.
    changes: Option<RefCell<Changes>>,
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
        Ok(CountingConnection { db, changes: (!has_triggers).then(RefCell::default) })
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
