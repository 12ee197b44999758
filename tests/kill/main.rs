//! Jobs under processes that are killed, held still, full disks and servers that go away. With real processes and real
//! signals: this binary starts itself in other roles. Its harness can say at run time that a test was not run, and why.
//!
//! Settings, to try harder: `ASIDE_KILLS` (how many kills a storm has), `ASIDE_KILL_SEED` (to have one again),
//! `ASIDE_REDIS_GONE` (for how many seconds Redis is gone; 5).
#![cfg(all(unix, feature = "sqlite"))]

mod faults;
mod ledger;
mod process;
#[cfg(feature = "redis")]
#[path = "../support/redis.rs"]
mod redis;
#[cfg(feature = "redis")]
mod redis_faults;
mod site;
mod sqlite_faults;
mod storm;

use libtest_mimic::{Arguments, Failed, Trial};

/// The tests, by their names. One that is left out is a function that nobody calls, which the compiler says.
macro_rules! trials {
    ($($module:ident::$test:ident),+ $(,)?) => {
        vec![$(Trial::test(concat!(stringify!($module), "::", stringify!($test)), || {
            $module::$test();
            Ok::<(), Failed>(())
        })),+]
    };
}

fn main() {
    if let Ok(role) = std::env::var(process::ROLE) {
        return play(&role);
    }
    let trials = trials![
        sqlite_faults::nothing_is_lost_in_two_hundred_kills,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// What this process is when another has started it.
fn play(role: &str) {
    match role {
        "ledger" => ledger::serve(),
        "hold" => sqlite_faults::hold(),
        _ => site::run(role).unwrap_or_else(|error| {
            eprintln!("{}", error.chain());
            std::process::exit(1);
        }),
    }
}
