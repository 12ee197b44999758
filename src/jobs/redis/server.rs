//! The requirements and recommendations for a server.

use std::collections::HashMap;

use super::connection::{ConnectionPool, Failure};
use crate::error::{Error, Result};

/// Returns true if the server can be used, and false if it is unreachable and may come back.
///
/// # Errors
/// An error if the server refuses the connection, is too old, is a replica or part of a cluster, or may evict jobs.
pub(super) fn is_usable(pool: &ConnectionPool) -> Result<bool> {
    match pool.info() {
        Ok(Some(info)) if ServerInfo::of(&info).is_loading() => Ok(false),
        Ok(Some(info)) => refuse_faults(pool, &info).map(|()| true),
        Ok(None) => Ok(true),
        Err(failure) if failure.is_temporary() => Ok(false),
        Err(failure) => Err(pool.explain(failure)),
    }
}

/// Logs settings that may lose jobs: at each start, and for each new server after a failover, once there is a logger.
///
/// # Errors
/// The errors of [`is_usable`], and an error if the server is unreachable.
pub(super) fn check(pool: &ConnectionPool) -> Result<()> {
    let address = pool.address();
    let Some(info) = pool.info().map_err(|failure: Failure| pool.explain(failure))? else {
        log::warn!(
            target: "aside::jobs",
            "Redis at {address} does not allow INFO for this user: it is not checked that the server keeps jobs over a \
             restart (appendonly yes) and evicts none (maxmemory-policy noeviction)."
        );
        return Ok(());
    };
    refuse_faults(pool, &info)?;
    for risk in risks(&info) {
        log::warn!(target: "aside::jobs", "Redis at {address}: {risk}");
    }
    Ok(())
}

fn refuse_faults(pool: &ConnectionPool, info: &str) -> Result<()> {
    let refuse = |fault| Err(Error::internal(format!("Redis at {} cannot store jobs: {fault}", pool.address())));
    fault(info).map_or(Ok(()), refuse)
}

/// Returns the reason why the server cannot be used, if there is one.
pub(super) fn fault(info: &str) -> Option<String> {
    ServerInfo::of(info).fault()
}

/// Returns the settings that may lose jobs later.
pub(super) fn risks(info: &str) -> Vec<String> {
    ServerInfo::of(info).risks()
}

struct ServerInfo<'a>(HashMap<&'a str, &'a str>);

impl<'a> ServerInfo<'a> {
    fn of(info: &'a str) -> ServerInfo<'a> {
        ServerInfo(info.lines().filter_map(|line| line.trim_end().split_once(':')).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).copied().unwrap_or("")
    }

    fn fault(&self) -> Option<String> {
        let version = self.get("redis_version");
        if major(version).is_some_and(|major| major < 7) {
            return Some(format!("it is version {version}, and script flags need 7.0; update it"));
        }
        if self.get("redis_mode") == "cluster" {
            return Some("it is part of a cluster, where a script cannot use all keys; use a single server".to_owned());
        }
        if matches!(self.get("role"), "slave" | "replica") {
            return Some("it is a replica, which refuses writes; use its primary".to_owned());
        }
        if self.is_loading() {
            return Some("it is still loading its data; try again in a moment".to_owned());
        }
        (self.may_evict() && self.get("maxmemory") != "0").then(|| {
            let policy = self.get("maxmemory_policy");
            format!(
                "its maxmemory-policy is {policy}, which evicts jobs when the memory is full; set maxmemory-policy noeviction"
            )
        })
    }

    fn risks(&self) -> Vec<String> {
        let mut risks = Vec::new();
        if self.get("aof_enabled") == "0" {
            risks.push(
                "appendonly is no, so a restart loses the jobs since its last snapshot, or all; set appendonly yes \
                 (and appendfsync always, to keep even the last second before a power failure)"
                    .to_owned(),
            );
        }
        if self.may_evict() {
            let policy = self.get("maxmemory_policy");
            risks.push(format!(
                "maxmemory-policy is {policy}, which would evict jobs once maxmemory is set; set maxmemory-policy noeviction"
            ));
        }
        risks
    }

    fn is_loading(&self) -> bool {
        self.get("loading") == "1"
    }

    /// The `volatile` policies evict only keys with an expiry, and jobs have none.
    fn may_evict(&self) -> bool {
        self.get("maxmemory_policy").starts_with("allkeys")
    }
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}
