//! The pages about tasks: all of them at a glance, lists of those that ended, one of them with all that is known, and the
//! button that tells one to cancel.

use std::sync::Arc;

use super::page::{gone, page};
use super::snapshot::{Row, newest_first};
use super::watch::Watch;
use crate::app::OWN;
use crate::background::registry::Record;
use crate::background::task::TaskInfo;
use crate::context;
use crate::error::Result;
use crate::http::pages::visible::{visible_line, visible_up_to};
use crate::http::request::Request;
use crate::http::response::{Response, redirect_or};

/// How many characters of a failure, and of the way to it.
const FAILURE: usize = 10_000;
const BACKTRACE: usize = 100_000;

/// The part of the first page that changes.
const PART: &str = "aside/panel_tasks.html";

pub(super) fn overview(req: &mut Request) -> Result<Response> {
    let watch = req.state::<Watch>();
    let state = watch.look(&req.scope()).get();
    page(req, "aside/panel.html", "Tasks", context! { state => *state })
}

pub(super) fn live(req: &mut Request) -> Result<Response> {
    let (watch, scope) = (req.state::<Watch>(), req.scope());
    let response = req.live(watch.look(&scope), PART)?;
    watch.keep_up(scope);
    Ok(response)
}

pub(super) fn failed(req: &mut Request) -> Result<Response> {
    let records = req.scope().registry().failed();
    list(req, "Failed", "The last 100 tasks that failed, the newest first.", &records)
}

pub(super) fn ended(req: &mut Request) -> Result<Response> {
    let records = req.scope().registry().ended();
    list(req, "Ended", "The last 200 tasks that ended, well or not, the newest first.", &records)
}

fn list(req: &mut Request, title: &str, words: &str, records: &[Arc<Record>]) -> Result<Response> {
    let rows = newest_first(records, records.len());
    page(req, "aside/panel_list.html", title, context! { title, words, rows })
}

pub(super) fn task(req: &mut Request) -> Result<Response> {
    let Some(record) = asked_for(req)? else { return not_remembered(req) };
    let row = Row::of(&record);
    let (failure, backtrace) = record.failure().unzip();
    let context = context! {
        row,
        tries => record.tries(),
        failure => failure.map(|words| visible_up_to(words, FAILURE)),
        backtrace => backtrace.flatten().map(|lines| visible_up_to(lines, BACKTRACE)),
    };
    page(req, "aside/panel_task.html", &visible_line(&record.name, 80), context)
}

pub(super) fn cancel(req: &mut Request) -> Result<Response> {
    let Some(record) = asked_for(req)? else { return not_remembered(req) };
    let back = req.query_pairs()?.into_iter().find(|(name, _)| name == "back").map(|(_, path)| path);
    let name = visible_line(&record.name, 80);
    if record.has_ended() {
        req.flash("warning", format!("{name} (task {}) had ended already.", record.id));
    } else {
        TaskInfo::new(record.clone(), req.scope().registry()).cancel();
        req.flash("success", format!("{name} (task {}) was told to cancel.", record.id));
    }
    Ok(redirect_or(back.as_deref().unwrap_or(OWN), OWN))
}

/// The task whose number is in the path, when it is remembered. A number that is none is a path that is not there.
fn asked_for(req: &Request) -> Result<Option<Arc<Record>>> {
    Ok(req.scope().registry().numbered(req.param("id")?))
}

fn not_remembered(req: &mut Request) -> Result<Response> {
    let words = "No task of that number is remembered: of those that ended, the last 200 are, and the last 100 that failed.";
    gone(req, words)
}
