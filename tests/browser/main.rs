//! Pages as users see and use them, in a headless Chromium. This is a separate test binary, because its harness can report at
//! run time that a test was skipped: without Chromium, each test counts as ignored, with the reason.

#[path = "../support/browser.rs"]
mod browser;
mod driving;
#[path = "../support/harness.rs"]
mod harness;
mod live_pages;
mod logout;

use std::process::ExitCode;

use browser::Browser;
use harness::{Completion, Trial};

/// Returns the transport that serves the pages: `ASIDE_SERVER`.
fn server() -> aside::config::ServerKind {
    aside::Config::from_env().expect("settings that can be used").server
}

/// The tests by name. The compiler reports a missing one as an unused function.
macro_rules! trials {
    ($($module:ident::$test:ident),+ $(,)?) => {
        vec![$(trial(concat!(stringify!($module), "::", stringify!($test)), $module::$test)),+]
    };
}

fn main() -> ExitCode {
    let trials = trials![
        driving::a_form_is_filled_in_and_submitted_by_mouse_and_keyboard,
        driving::a_test_waits_for_a_changing_page_and_reads_its_messages,
        driving::a_form_works_without_javascript,
        driving::two_pages_run_side_by_side,
        driving::a_failed_wait_is_reported_and_the_browser_ends_with_its_test,
        live_pages::a_progress_bar_moves_while_another_page_is_used,
        live_pages::a_button_cancels_the_task_and_the_page_shows_it,
        live_pages::a_button_cancels_the_task_without_javascript_too,
        live_pages::typed_text_focus_and_caret_are_kept,
        live_pages::opened_and_closed_details_are_kept,
        live_pages::a_list_grows_and_shrinks_around_a_focused_item,
        live_pages::a_page_shows_the_new_state_after_a_restart,
        live_pages::a_page_beyond_the_stream_limit_retries_until_one_is_free,
        live_pages::a_finished_state_is_not_requested_again,
        live_pages::a_page_without_javascript_shows_the_state_at_the_request,
        live_pages::two_fragments_of_a_page_share_a_script,
        live_pages::a_fragment_of_a_template_follows_its_argument_and_its_session,
        live_pages::a_fragment_without_javascript_shows_the_state_at_the_request,
        live_pages::a_page_continues_when_the_user_returns,
        live_pages::a_page_that_the_user_leaves_is_not_counted,
        logout::the_back_button_after_a_logout_shows_no_page_of_the_user,
        logout::a_cacheable_page_is_requested_again_after_a_logout,
    ];
    harness::run(trials)
}

fn trial(name: &'static str, test: fn(Browser)) -> Trial {
    Trial::new(name, move || {
        let Some(browser) = Browser::start() else {
            return Completion::ignored_with(format!("none of {:?} is installed", browser::NAMES));
        };
        test(browser);
        Completion::Completed
    })
}
