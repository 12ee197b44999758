//! What a server must be to keep jobs, and what it should be.

use std::collections::HashMap;

use super::connection::{Failure, Link};
use crate::error::{Error, Result};

/// Returns true if the server can be used, and false if it is unreachable and may come back.
///
/// # Errors
/// An error if the server refuses the connection, is too old, is a replica or part of a cluster, or may evict jobs.
pub(super) fn is_there(link: &Link) -> Result<bool> {
    match link.facts() {
        Ok(Some(info)) if Facts::of(&info).is_loading() => Ok(false),
        Ok(Some(info)) => refuse_faults(link, &info).map(|()| true),
        Ok(None) => Ok(true),
        Err(failure) if failure.is_temporary() => Ok(false),
        Err(failure) => Err(link.explain(failure)),
    }
}

/// Logs settings that may lose jobs: at each start, and for each new server after a failover, once there is a logger.
///
/// # Errors
/// The errors of [`is_there`], and an error if the server is unreachable.
pub(super) fn check(link: &Link) -> Result<()> {
    let address = link.address();
    let Some(info) = link.facts().map_err(|failure: Failure| link.explain(failure))? else {
        log::warn!(
            target: "aside::jobs",
            "Redis at {address} does not let this user ask INFO: whether it keeps jobs over a restart (appendonly yes) and \
             throws none away (maxmemory-policy noeviction) is not checked."
        );
        return Ok(());
    };
    refuse_faults(link, &info)?;
    for risk in risks(&info) {
        log::warn!(target: "aside::jobs", "Redis at {address}: {risk}");
    }
    Ok(())
}

fn refuse_faults(link: &Link, info: &str) -> Result<()> {
    let refuse = |fault| Err(Error::internal(format!("Redis at {} cannot keep jobs: {fault}", link.address())));
    fault(info).map_or(Ok(()), refuse)
}

/// Why such a server cannot be used at all.
pub(super) fn fault(info: &str) -> Option<String> {
    Facts::of(info).fault()
}

/// What may cost jobs later.
pub(super) fn risks(info: &str) -> Vec<String> {
    Facts::of(info).risks()
}

struct Facts<'a>(HashMap<&'a str, &'a str>);

impl<'a> Facts<'a> {
    fn of(info: &'a str) -> Facts<'a> {
        Facts(info.lines().filter_map(|line| line.trim_end().split_once(':')).collect())
    }

    fn get(&self, name: &str) -> &str {
        self.0.get(name).copied().unwrap_or("")
    }

    fn fault(&self) -> Option<String> {
        let version = self.get("redis_version");
        if major(version).is_some_and(|major| major < 7) {
            return Some(format!(
                "it is version {version}, and 7.0 is the first that knows the flags of scripts; update it"
            ));
        }
        if self.get("redis_mode") == "cluster" {
            return Some("it is one of a cluster, where a script sees only a part; name a single server".to_owned());
        }
        if matches!(self.get("role"), "slave" | "replica") {
            return Some("it is a replica, which takes no writes; name its primary".to_owned());
        }
        if self.is_loading() {
            return Some("it is still loading its data; try again in a moment".to_owned());
        }
        (self.may_evict() && self.get("maxmemory") != "0").then(|| {
            let policy = self.get("maxmemory_policy");
            format!(
                "its maxmemory-policy is {policy}, which throws jobs away when the memory is full; set maxmemory-policy noeviction"
            )
        })
    }

    fn risks(&self) -> Vec<String> {
        let mut risks = Vec::new();
        if self.get("aof_enabled") == "0" {
            risks.push(
                "appendonly is no, so a restart loses the jobs since its last snapshot, or all; set appendonly yes \
                 (and appendfsync always, where not even a power cut may cost the last second)"
                    .to_owned(),
            );
        }
        if self.may_evict() {
            let policy = self.get("maxmemory_policy");
            risks.push(format!(
                "maxmemory-policy is {policy}, which would throw jobs away once maxmemory is set; set maxmemory-policy noeviction"
            ));
        }
        risks
    }

    fn is_loading(&self) -> bool {
        self.get("loading") == "1"
    }

    /// The `volatile` policies take only what has a time to live, and no job has one.
    fn may_evict(&self) -> bool {
        self.get("maxmemory_policy").starts_with("allkeys")
    }
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}
