//! Who listens hears of work at once, from whichever process it comes: scripts that make some add to a short stream, at
//! which one thread waits on a connection of its own.

use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use redis::streams::StreamReadReply;
use redis::{Connection, RedisResult};

use super::connection::Link;
use crate::error::{Error, Result};
use crate::sync::Notify;

/// How long one question stands before it is asked again, which only shows that the connection lives.
const STANDS: Duration = Duration::from_secs(30);

/// The first wait before a new try to connect; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Notifies the listener of news, until the listener or the engine is dropped.
pub(super) fn listen(link: &Arc<Link>, listener: &Arc<Notify>) -> Result<()> {
    let (link, listener) = (Arc::clone(link), Arc::downgrade(listener));
    let thread = thread::Builder::new().name("aside-jobs-news".to_owned());
    thread
        .spawn(move || follow(&link, &listener))
        .map_err(|error| Error::from(error).context("cannot listen to Redis"))?;
    Ok(())
}

fn follow(link: &Link, listener: &Weak<Notify>) {
    let mut pause = FIRST_PAUSE;
    while is_wanted(link, listener) {
        let came = link.connect(STANDS + link.patience()).and_then(|mut connection| {
            // One that loads what it has kept takes connections, and is not there yet.
            let last = newest(&mut connection, &link.key("news"))?;
            if pause > FIRST_PAUSE {
                log::info!(target: "aside::jobs", "Redis at {} is there again.", link.address());
            }
            pause = FIRST_PAUSE;
            hear(link, connection, last, listener)
        });
        if let Err(error) = came {
            if pause == FIRST_PAUSE {
                log::warn!(target: "aside::jobs", "Redis at {} is away, and tried again: {error}", link.address());
            }
            link.pause(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn is_wanted(link: &Link, listener: &Weak<Notify>) -> bool {
    !link.is_closed() && listener.strong_count() > 0
}

fn hear(link: &Link, mut connection: Connection, mut last: String, listener: &Weak<Notify>) -> RedisResult<()> {
    let (news, failovers) = (link.key("news"), link.failovers());
    // What came while nobody listened.
    notify(listener);
    while is_wanted(link, listener) && link.failovers() == failovers {
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
    let mut question = redis::cmd("XREVRANGE");
    let newest: redis::streams::StreamRangeReply =
        question.arg(news).arg("+").arg("-").arg("COUNT").arg(1).query(connection)?;
    Ok(newest.ids.into_iter().next().map_or_else(|| "0-0".to_owned(), |entry| entry.id))
}

/// Waits for what comes after that. The last of it, or nothing when nothing came for long.
fn next(connection: &mut Connection, news: &str, last: &str) -> RedisResult<Option<String>> {
    let mut question = redis::cmd("XREAD");
    question.arg("BLOCK").arg(STANDS.as_millis() as u64).arg("STREAMS").arg(news).arg(last);
    let came: Option<StreamReadReply> = question.query(connection)?;
    let entries = came.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids);
    Ok(entries.last().map(|entry| entry.id))
}
