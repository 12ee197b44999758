//! What only a browser shows: pages as visitors see and use them, in a headless Chromium. A binary of its own, because its
//! harness can say at run time that a test was not run: where Chromium is not installed each is counted as ignored, with
//! the reason.

#[path = "../support/browser.rs"]
mod browser;
mod driving;
mod live_pages;
mod logout;

use browser::Browser;
use libtest_mimic::{Arguments, Completion, Trial};

/// The transport that pages come over: `ASIDE_SERVER`.
fn server() -> aside::ServerKind {
    aside::Config::from_env().expect("settings that can be used").server
}

/// The tests, by their names. One that is left out is a function that nobody calls, which the compiler says.
macro_rules! trials {
    ($($module:ident::$test:ident),+ $(,)?) => {
        vec![$(trial(concat!(stringify!($module), "::", stringify!($test)), $module::$test)),+]
    };
}

fn main() {
    let trials = trials![
        driving::a_form_is_filled_in_and_sent_by_mouse_and_keys,
        driving::a_page_that_changes_by_itself_is_waited_for_and_its_messages_are_kept,
        driving::a_visitor_without_javascript_uses_the_form_too,
        driving::two_pages_run_side_by_side,
        driving::what_cannot_be_is_said_and_the_browser_goes_with_its_test,
        live_pages::a_bar_moves_while_another_page_of_the_site_is_used,
        live_pages::a_button_cancels_the_task_and_the_page_says_so,
        live_pages::a_button_cancels_the_task_without_javascript_too,
        live_pages::what_is_typed_beside_and_within_stays_with_focus_and_caret,
        live_pages::what_was_opened_stays_open_and_what_was_shut_stays_shut,
        live_pages::a_list_grows_and_shrinks_around_an_item_in_use,
        live_pages::after_a_restart_the_page_shows_the_new_state_and_has_lost_nothing,
        live_pages::a_page_for_which_there_is_no_place_tries_until_there_is_one,
        live_pages::a_state_that_is_finished_is_not_asked_for_any_more,
        live_pages::without_javascript_a_page_shows_the_state_that_it_had,
        live_pages::two_parts_of_a_page_share_a_script,
        live_pages::a_fragment_of_a_template_follows_its_argument_and_its_session,
        live_pages::a_fragment_without_javascript_shows_the_state_that_it_had,
        live_pages::a_page_to_which_the_visitor_comes_back_goes_on,
        live_pages::who_leaves_a_page_watches_it_no_more,
        logout::the_way_back_after_a_logout_shows_no_page_of_the_user,
        logout::a_page_that_the_browser_was_to_keep_is_asked_for_again_after_a_logout,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn trial(name: &str, test: fn(Browser)) -> Trial {
    Trial::ignorable_test(name, move || {
        let Some(browser) = Browser::start() else {
            return Ok(Completion::ignored_with(format!("none of {:?} is installed", browser::NAMES)));
        };
        test(browser);
        Ok(Completion::Completed)
    })
}
