//! The groups of dead jobs with equal errors.
//!
//! Each group has its count and its newest job, so that a list reads as many rows as it has groups. A job enters its group
//! when it dies, and leaves it when it is revived or discarded.

use rusqlite::{Connection, OptionalExtension, Result, params};

use crate::jobs::record::{FailureGroup, Millis, error_group};

/// Adds a job that dies now with that message to its group.
pub(super) fn enter(db: &Connection, id: i64, message: &str, now: Millis) -> Result<()> {
    let group: i64 = db
        .prepare_cached(
            "INSERT INTO aside_groups (name, error, count, last_at, newest)
                SELECT name, ?2, 1, ?3, id FROM aside_jobs WHERE id = ?1
             ON CONFLICT (name, error) DO UPDATE SET
                count = count + 1,
                newest = CASE WHEN (excluded.last_at, excluded.newest) > (last_at, newest) THEN excluded.newest ELSE newest END,
                last_at = max(last_at, excluded.last_at)
             RETURNING id",
        )?
        .query_row(params![id, error_group(message), now], |row| row.get(0))?;
    db.prepare_cached("UPDATE aside_jobs SET error_group = ?2 WHERE id = ?1")?.execute([id, group]).map(drop)
}

/// Adds all dead jobs to their groups: a file of an earlier version has none.
pub(super) fn enter_all(db: &Connection) -> Result<()> {
    let dead: Vec<(i64, Millis)> = db
        .prepare("SELECT id, coalesce(ended_at, 0) FROM aside_jobs WHERE state = 4")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_>>()?;
    let mut last = db.prepare("SELECT words FROM aside_failures WHERE job = ?1 ORDER BY number DESC LIMIT 1")?;
    for (id, ended_at) in dead {
        let message: Option<String> = last.query_row([id], |row| row.get(0)).optional()?;
        message.map_or(Ok(()), |message| enter(db, id, &message, ended_at))?;
    }
    Ok(())
}

/// Returns the group of a job, if it is dead.
pub(super) fn of(db: &Connection, id: i64) -> Result<Option<i64>> {
    let group = db
        .prepare_cached("SELECT error_group FROM aside_jobs WHERE id = ?1 AND state = 4")?
        .query_row([id], |row| row.get(0))
        .optional()?;
    Ok(group.flatten())
}

/// Removes a job from its group. The job is no longer dead.
pub(super) fn leave(db: &Connection, id: i64, group: i64) -> Result<()> {
    let counted = "UPDATE aside_groups SET count = count - 1 WHERE id = ?1 RETURNING count, newest";
    let (left, newest): (i64, i64) =
        db.prepare_cached(counted)?.query_row([group], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if left <= 0 {
        db.prepare_cached("DELETE FROM aside_groups WHERE id = ?1")?.execute([group])?;
    } else if newest == id {
        db.prepare_cached(
            "UPDATE aside_groups SET (last_at, newest) = (
                SELECT ended_at, id FROM aside_jobs INDEXED BY aside_jobs_group
                WHERE state = 4 AND error_group = ?1 ORDER BY ended_at DESC, id DESC LIMIT 1
             ) WHERE id = ?1",
        )?
        .execute([group])?;
    }
    Ok(())
}

/// Returns the groups whose newest job died last.
pub(super) fn first(db: &Connection, most: usize) -> Result<Vec<FailureGroup>> {
    let mut groups = db.prepare_cached(
        "SELECT name, error, count, last_at, newest FROM aside_groups INDEXED BY aside_groups_last
         ORDER BY last_at DESC, newest DESC LIMIT ?1",
    )?;
    let read = groups.query_map([i64::try_from(most).unwrap_or(i64::MAX)], |row| {
        Ok(FailureGroup {
            name: row.get(0)?,
            error: row.get(1)?,
            count: row.get::<_, i64>(2)?.unsigned_abs(),
            last_at: row.get(3)?,
            newest: row.get::<_, i64>(4)?.unsigned_abs(),
        })
    })?;
    read.collect()
}
