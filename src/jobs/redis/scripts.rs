//! The scripts as they are sent to the server. Each script is atomic.
//!
//! A script is sent as its digest, and in full only to a server that does not know it. The flags in the first line say
//! that it does not support a cluster, and that scripts which finish or delete jobs may run when the memory is full,
//! since they free memory.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($name:ident $($file:literal)+, $flags:literal,)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            let code = [
                concat!("#!lua flags=no-cluster", $flags, "\n"),
                include_str!("common.lua"),
                $(include_str!($file),)+
            ];
            Script::new(&code.concat())
        });)*
    };
}

scripts! {
    ENQUEUE "enqueue.lua", "",
    TICK "tick.lua", "",
    JOIN "join.lua", ",allow-oom",
    LEAVE "leave.lua", ",allow-oom",
    HEARTBEAT "heartbeat.lua", ",allow-oom",
    WORKERS "workers.lua", ",no-writes",
    RECOVER "recover.lua", ",allow-oom",
    EXCHANGE "waiting.lua" "exchange.lua", ",allow-oom",
    CANCEL "cancel.lua", ",allow-oom",
    REVIVE "revive.lua", ",allow-oom",
    DISCARD "discard.lua", ",allow-oom",
    PAUSED "paused.lua", ",no-writes",
    PAUSE "pause.lua", ",allow-oom",
    PRUNE "prune.lua", ",allow-oom",
    CLOCK_WENT_BACK "clock_went_back.lua", ",allow-oom",
    FIND "find.lua", ",no-writes",
    LIST "shown.lua" "list.lua", ",no-writes",
    OF_TRACE "shown.lua" "of_trace.lua", ",no-writes",
    COUNTS "counts.lua", ",no-writes",
    QUEUES "waiting.lua" "queues.lua", ",no-writes",
    NEXT_TO_RUN "waiting.lua" "shown.lua" "next_to_run.lua", ",no-writes",
    FAILURE_GROUPS "failure_groups.lua", ",no-writes",
    WORKER_INFOS "worker_infos.lua", ",no-writes",
    WAKE "wake.lua", ",allow-oom",
    NEXT_DUE "next_due.lua", ",no-writes",
    LAST_TICK "last_tick.lua", ",no-writes",
    SKIP "skip.lua", ",allow-oom",
    CHECK "check.lua", "",
}
