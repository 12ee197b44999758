//! Notifications about new work from all processes. Scripts that make jobs wait add an entry to a short stream, and one
//! thread waits for it on a connection of its own.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use redis::streams::StreamReadReply;
use redis::{Connection, RedisResult};

use super::connection::ConnectionPool;
use crate::error::{Error, Result};
use crate::sync::Notify;

/// The timeout of one blocking read. After it the read is repeated, which checks the connection.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(30);

/// The first backoff before another attempt to connect; each is twice the one before.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Notifies the listener at each notification, until the listener or the engine is dropped.
pub(super) fn listen(pool: &Arc<ConnectionPool>, listener: &Arc<Notify>) -> Result<()> {
    let (pool, listener) = (Arc::clone(pool), Arc::downgrade(listener));
    let thread = thread::Builder::new().name("aside-jobs-news".to_owned());
    thread
        .spawn(move || follow(&pool, &listener))
        .map_err(|error| Error::from(error).context("could not start the thread that listens to Redis"))?;
    Ok(())
}

fn follow(pool: &ConnectionPool, listener: &Weak<Notify>) {
    let mut backoff = FIRST_BACKOFF;
    while is_needed(pool, listener) {
        let result = pool.connect(BLOCK_TIMEOUT + pool.timeout()).and_then(|mut connection| {
            // A server that is still loading its data accepts connections, but not this command.
            let last = newest(&mut connection, &pool.key("news"))?;
            if backoff > FIRST_BACKOFF {
                log::info!(target: "aside::jobs", "Redis at {} is reachable again.", pool.address());
            }
            backoff = FIRST_BACKOFF;
            receive(pool, connection, last, listener)
        });
        if let Err(error) = result {
            if backoff == FIRST_BACKOFF {
                log::warn!(target: "aside::jobs", "Could not listen to Redis at {}; retrying: {error}", pool.address());
            }
            pool.sleep(backoff);
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }
}

fn is_needed(pool: &ConnectionPool, listener: &Weak<Notify>) -> bool {
    !pool.is_closed() && listener.strong_count() > 0
}

fn receive(
    pool: &ConnectionPool,
    mut connection: Connection,
    mut last: String,
    listener: &Weak<Notify>,
) -> RedisResult<()> {
    let (news, failovers) = (pool.key("news"), pool.failovers());
    // For changes during the outage.
    notify(listener);
    while is_needed(pool, listener) && pool.failovers() == failovers {
        if let Some(id) = next(&mut connection, &news, &last)? {
            last = id;
            notify(listener);
        }
    }
    Ok(())
}

fn notify(listener: &Weak<Notify>) {
    if let Some(listener) = listener.upgrade() {
        listener.notify();
    }
}

fn newest(connection: &mut Connection, news: &str) -> RedisResult<String> {
    let mut command = redis::cmd("XREVRANGE");
    let newest: redis::streams::StreamRangeReply =
        command.arg(news).arg("+").arg("-").arg("COUNT").arg(1).query(connection)?;
    Ok(newest.ids.into_iter().next().map_or_else(|| "0-0".to_owned(), |entry| entry.id))
}

/// Waits for entries after `last`. Returns the id of the newest one, or `None` after the timeout.
fn next(connection: &mut Connection, news: &str, last: &str) -> RedisResult<Option<String>> {
    let mut command = redis::cmd("XREAD");
    command.arg("BLOCK").arg(BLOCK_TIMEOUT.as_millis() as u64).arg("STREAMS").arg(news).arg(last);
    let result: Option<StreamReadReply> = command.query(connection)?;
    let entries = result.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
    Ok(entries.last().map(|entry| entry.id))
}
