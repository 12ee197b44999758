//! Jobs under processes that are killed, held still, full disks and servers that go away. With real processes and real
//! signals: this binary starts itself in other roles. Its harness can say at run time that a test was not run, and why.
//!
//! Settings, to try harder: `ASIDE_KILLS` (how many kills a storm has), `ASIDE_KILL_SEED` (to have one again),
//! `ASIDE_REDIS_GONE` (for how many seconds Redis is gone; 5), `ASIDE_STORM_SECONDS` (how long each attack lasts; 3).

mod fair_shares;
mod faults;
mod ledger;
mod process;
#[cfg(feature = "redis")]
#[path = "../support/redis.rs"]
mod redis;
#[cfg(feature = "redis")]
mod redis_faults;
mod signals;
mod site;
mod sqlite_faults;
mod storm;

use libtest_mimic::{Arguments, Completion, Trial};

/// The tests, by their names. One that is left out is a function that nobody calls, which the compiler says.
macro_rules! trials {
    ($($module:ident::$test:ident),+ $(,)?) => {
        vec![$(Trial::ignorable_test(concat!(stringify!($module), "::", stringify!($test)), || {
            Ok($module::$test().completion())
        })),+]
    };
}

/// How a test ends: most are always run, and some say that they could not be.
trait Ends {
    fn completion(self) -> Completion;
}

impl Ends for () {
    fn completion(self) -> Completion {
        Completion::Completed
    }
}

impl Ends for Completion {
    fn completion(self) -> Completion {
        self
    }
}

fn main() {
    if let Ok(role) = std::env::var(process::ROLE) {
        return play(&role);
    }
    #[cfg_attr(not(feature = "redis"), allow(unused_mut))]
    let mut trials = trials![
        signals::two_stop_signals_within_a_second_are_one_shutdown,
        signals::a_stop_signal_after_more_than_a_second_ends_the_process,
        signals::sighup_stops_gracefully,
        signals::sighup_stays_ignored_if_it_was_ignored_at_start,
        signals::sigquit_ends_the_process_at_once,
        signals::sigusr1_and_sigusr2_do_not_end_the_process,
        signals::a_process_that_only_runs_jobs_handles_the_same_signals,
        sqlite_faults::nothing_is_lost_in_two_hundred_kills,
        sqlite_faults::a_process_that_stood_still_is_fenced_off,
        sqlite_faults::a_stop_lets_short_jobs_end_and_gives_long_ones_back,
        sqlite_faults::a_stop_does_not_wait_for_ever_for_a_stubborn_job,
        sqlite_faults::what_ran_is_recovered_after_sigquit,
        sqlite_faults::several_processes_share_and_one_is_killed,
        sqlite_faults::a_clock_that_is_put_back_holds_nothing_up,
        sqlite_faults::a_job_that_ends_its_process_is_dead_in_the_end,
        sqlite_faults::nothing_is_lost_where_several_processes_share_a_file,
        sqlite_faults::a_full_disk_is_a_503_until_there_is_room,
        sqlite_faults::a_file_that_is_locked_is_a_503_until_it_is_free,
        sqlite_faults::a_damaged_file_is_named,
        sqlite_faults::an_isolated_job_harms_nobody,
        sqlite_faults::an_isolated_job_leaves_its_output_and_its_last_progress,
        fair_shares::every_page_is_answered_over_epoll,
        fair_shares::every_page_is_answered_over_tiny_http,
    ];
    #[cfg(feature = "redis")]
    trials.extend(trials![
        redis_faults::a_process_that_stood_still_is_fenced_off,
        redis_faults::a_stop_lets_short_jobs_end_and_gives_long_ones_back,
        redis_faults::a_stop_does_not_wait_for_ever_for_a_stubborn_job,
        redis_faults::what_ran_is_recovered_after_sigquit,
        redis_faults::several_processes_share_and_one_is_killed,
        redis_faults::a_clock_that_is_put_back_holds_nothing_up,
        redis_faults::a_job_that_ends_its_process_is_dead_in_the_end,
        redis_faults::an_isolated_job_harms_nobody,
        redis_faults::an_isolated_job_leaves_its_output_and_its_last_progress,
        redis_faults::nothing_is_lost_where_workers_and_the_server_are_killed,
        redis_faults::a_server_that_is_killed_comes_back_with_all_it_acknowledged,
        redis_faults::a_server_may_be_away_for_a_while,
        redis_faults::a_server_that_stands_still_is_not_waited_for,
        redis_faults::a_server_may_be_away_at_the_start,
        redis_faults::jobs_that_a_server_has_lost_are_told,
        redis_faults::jobs_are_kept_over_tls_and_by_a_trusted_server_alone,
    ]);
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

/// What this process is when another has started it, with which it ends.
fn play(role: &str) {
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).expect("it can be set");
    match role {
        "ledger" => ledger::serve(),
        "fair_shares" => fair_shares::serve().expect("it serves"),
        "hold" => sqlite_faults::hold(),
        "signals" => signals::serve(),
        _ => site::run(role).unwrap_or_else(|error| {
            eprintln!("{}", error.chain());
            std::process::exit(1);
        }),
    }
}
