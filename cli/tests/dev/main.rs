//! `aside dev`, with sites that it builds, and with a headless Chromium. Without Chromium, the tests that need it count as
//! ignored, with the reason.
//!
//! The sites share the target folder of this build, so that the dependencies are built once.

#[allow(dead_code)] // Other tests use the rest.
#[path = "../../../tests/support/browser.rs"]
mod browser;
mod endings;
#[path = "../../../tests/support/harness.rs"]
mod harness;
mod pages;
mod requests;
mod site;

use std::process::ExitCode;

use browser::Browser;
use harness::{Completion, Trial};

/// The tests by name. The compiler reports a missing one as an unused function.
macro_rules! trials {
    ($kind:ident: $($module:ident::$test:ident),+ $(,)?) => {
        vec![$($kind(concat!(stringify!($module), "::", stringify!($test)), $module::$test)),+]
    };
}

fn main() -> ExitCode {
    let mut trials = trials![
        plain: endings::a_folder_without_a_site_is_refused,
        endings::a_port_in_use_is_refused,
        endings::options_that_cargo_refuses_end_it,
        endings::a_missing_cargo_is_one_line,
        endings::ctrl_c_during_a_build_that_never_ends_leaves_no_process,
        endings::a_closed_terminal_and_kill_end_the_site,
        endings::no_process_of_the_site_stays_when_aside_dev_is_killed,
        requests::a_request_during_the_first_build_is_held_and_forwarded,
        requests::sessions_and_flash_messages_survive_a_new_build,
        requests::a_running_task_is_drained_while_the_new_build_serves,
        requests::a_site_that_only_one_process_can_open_is_stopped_first,
        requests::a_page_of_a_site_in_production_has_no_script,
        requests::a_burst_of_changes_is_one_build,
        requests::a_change_during_a_build_starts_it_again,
        requests::a_site_that_ends_is_held_at_the_gate_until_it_serves_again,
    ];
    trials.extend(trials![
        in_browser: pages::fifty_edits_reach_the_browser_without_a_refused_connection,
        pages::the_first_build_shows_its_progress_and_its_errors,
        pages::a_compile_error_is_shown_while_the_former_build_serves,
        pages::a_page_that_a_form_returned_is_not_sent_again,
        pages::a_template_that_changes_with_the_code_is_shown_when_the_new_build_serves,
    ]);
    harness::run(trials)
}

fn plain(name: &'static str, test: fn()) -> Trial {
    Trial::new(name, move || {
        test();
        Completion::Completed
    })
}

fn in_browser(name: &'static str, test: fn(Browser)) -> Trial {
    Trial::new(name, move || {
        let Some(browser) = Browser::start() else {
            return Completion::ignored_with(format!("none of {:?} is installed", browser::NAMES));
        };
        test(browser);
        Completion::Completed
    })
}
