//! Jobs while processes are killed or suspended, disks are full and servers are unreachable. The tests use real
//! processes and real signals: this binary starts itself in other roles. Its harness can report at run time that a test
//! was skipped, and why.
//!
//! Settings for longer runs: `ASIDE_KILLS` (the number of kills in a storm), `ASIDE_KILL_SEED` (to repeat a storm),
//! `ASIDE_REDIS_GONE` (the time for which Redis is unreachable, in seconds; 5), `ASIDE_STORM_SECONDS` (the duration of
//! each attack; 3), `ASIDE_RESTARTS` (the number of restarts under load; 200).

mod fair_shares;
mod faults;
#[path = "../support/harness.rs"]
mod harness;
mod ledger;
mod process;
#[cfg(feature = "redis")]
#[path = "../support/redis.rs"]
mod redis;
#[cfg(feature = "redis")]
mod redis_faults;
mod restart;
mod signals;
mod site;
mod sqlite_faults;
mod storm;

use std::process::ExitCode;

use harness::{Completion, Trial};

/// The tests by name. The compiler reports a missing one as an unused function.
macro_rules! trials {
    ($($module:ident::$test:ident),+ $(,)?) => {
        vec![$(Trial::new(concat!(stringify!($module), "::", stringify!($test)), || $module::$test().completion())),+]
    };
}

/// The result of a test: most are always run, and some report that they were skipped.
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

fn main() -> ExitCode {
    if let Ok(role) = std::env::var(process::ROLE) {
        run_role(&role);
        return ExitCode::SUCCESS;
    }
    #[cfg_attr(not(feature = "redis"), allow(unused_mut))]
    let mut trials = trials![
        signals::two_stop_signals_within_a_second_are_one_shutdown,
        signals::a_stop_signal_after_more_than_a_second_ends_the_process,
        signals::sighup_stops_gracefully,
        signals::sighup_stays_ignored_if_it_was_ignored_at_start,
        signals::sigquit_ends_the_process_at_once,
        signals::sigusr1_does_not_end_the_process,
        signals::a_process_that_only_runs_jobs_handles_the_same_signals,
        sqlite_faults::no_job_is_lost_in_two_hundred_kills,
        sqlite_faults::outcomes_of_a_suspended_process_are_discarded,
        sqlite_faults::a_graceful_shutdown_completes_short_jobs_and_releases_long_ones,
        sqlite_faults::a_graceful_shutdown_abandons_a_job_that_ignores_its_cancellation,
        sqlite_faults::running_jobs_are_recovered_after_sigquit,
        sqlite_faults::jobs_of_a_killed_process_run_in_another_process,
        sqlite_faults::the_tree_of_a_request_is_whole_after_a_kill,
        sqlite_faults::a_clock_set_back_delays_and_repeats_no_job,
        sqlite_faults::a_job_that_ends_its_process_repeatedly_is_dead,
        sqlite_faults::no_job_is_lost_while_several_processes_share_a_file,
        sqlite_faults::a_full_disk_is_a_503_until_there_is_space,
        sqlite_faults::a_locked_file_is_a_503_until_it_is_released,
        sqlite_faults::a_damaged_file_is_reported_with_its_name,
        sqlite_faults::an_isolated_job_cannot_harm_the_site,
        sqlite_faults::an_isolated_job_transfers_its_output_and_its_last_progress,
        restart::no_request_and_no_job_is_lost_in_two_hundred_restarts_over_epoll,
        restart::no_request_and_no_job_is_lost_in_two_hundred_restarts_over_tiny_http,
        restart::an_idle_connection_is_closed_at_the_end_of_the_grace_without_a_warning,
        restart::a_start_that_fails_leaves_the_old_process_serving,
        restart::a_stop_during_a_restart_ends_both_processes,
        restart::the_file_of_a_unix_socket_survives_a_restart,
        restart::the_service_manager_learns_of_the_new_main_process,
        fair_shares::every_page_is_answered_over_epoll,
        fair_shares::every_page_is_answered_over_tiny_http,
    ];
    #[cfg(feature = "redis")]
    trials.extend(trials![
        redis_faults::outcomes_of_a_suspended_process_are_discarded,
        redis_faults::a_graceful_shutdown_completes_short_jobs_and_releases_long_ones,
        redis_faults::a_graceful_shutdown_abandons_a_job_that_ignores_its_cancellation,
        redis_faults::running_jobs_are_recovered_after_sigquit,
        redis_faults::jobs_of_a_killed_process_run_in_another_process,
        redis_faults::the_tree_of_a_request_is_whole_after_a_kill,
        redis_faults::a_clock_set_back_delays_and_repeats_no_job,
        redis_faults::a_job_that_ends_its_process_repeatedly_is_dead,
        redis_faults::an_isolated_job_cannot_harm_the_site,
        redis_faults::an_isolated_job_transfers_its_output_and_its_last_progress,
        redis_faults::no_job_is_lost_while_workers_and_the_server_are_killed,
        redis_faults::a_killed_server_restarts_with_all_acknowledged_jobs,
        redis_faults::an_outage_of_the_server_expires_no_lease,
        redis_faults::a_suspended_server_counts_as_unreachable,
        redis_faults::a_server_can_be_unreachable_at_the_start,
        redis_faults::lost_jobs_of_a_server_are_logged,
        redis_faults::jobs_are_stored_over_tls_and_only_on_a_trusted_server,
    ]);
    harness::run(trials)
}

/// Runs the role that this process was started for, and exits.
fn run_role(role: &str) {
    // After a restart the parent is the former process, which ends.
    #[cfg(target_os = "linux")]
    if std::env::var_os("ASIDE_RESTART_OF").is_none() {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).expect("it can be set");
    }
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
