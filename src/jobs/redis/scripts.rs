//! The scripts, as the server gets them. Each one is one step there.
//!
//! They are sent by their digest, and whole only to a server that does not know them. What their first line says: they are
//! not for a cluster; and those that finish or take away jobs may run when the memory is full, since they make room.

use std::sync::LazyLock;

use redis::Script;

macro_rules! scripts {
    ($($name:ident $file:literal $flags:literal,)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            let code = [
                concat!("#!lua flags=no-cluster", $flags, "\n"),
                include_str!("common.lua"),
                include_str!($file),
            ];
            Script::new(&code.concat())
        });)*
    };
}

scripts! {
    ENQUEUE "enqueue.lua" "",
    TICK "tick.lua" "",
    JOIN "join.lua" ",allow-oom",
    LEAVE "leave.lua" ",allow-oom",
    BEAT "beat.lua" ",allow-oom",
    WORKERS "workers.lua" ",no-writes",
    RECOVER "recover.lua" ",allow-oom",
    CLAIM "claim.lua" ",allow-oom",
    SETTLE "settle.lua" ",allow-oom",
    CANCEL "cancel.lua" ",allow-oom",
    REVIVE "revive.lua" ",allow-oom",
    DISCARD "discard.lua" ",allow-oom",
    PAUSE "pause.lua" ",allow-oom",
    TRIM "trim.lua" ",allow-oom",
    CLOCK_WENT_BACK "clock_went_back.lua" ",allow-oom",
    FIND "find.lua" ",no-writes",
    LIST "list.lua" ",no-writes",
    COUNTS "counts.lua" ",no-writes",
    QUEUES "queues.lua" ",no-writes",
    WAKE "wake.lua" ",allow-oom",
    NEXT_DUE "next_due.lua" ",no-writes",
    LAST_TICK "last_tick.lua" ",no-writes",
    SKIP "skip.lua" ",allow-oom",
    CHECK "check.lua" "",
}
