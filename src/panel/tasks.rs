//! The pages about tasks: all of them at a glance, lists of those that ended, one of them with all that is known, and the
//! button that tells one to cancel.

use std::sync::Arc;

use super::page::{gone, page};
use super::snapshot::{Whole, newest_first};
use super::watch::{self, Watch};
use crate::app::OWN;
use crate::background::registry::Record;
use crate::background::task::TaskInfo;
use crate::context;
use crate::error::Result;
use crate::http::pages::visible::visible_line;
use crate::http::request::Request;
use crate::http::response::{Response, redirect_or};
use crate::live::Live;

/// The parts of pages that change.
const ALL: &str = "aside/panel_tasks.html";
const ONE: &str = "aside/panel_record.html";

/// How many characters of a name in a heading or in a message.
const NAME: usize = 100;

pub(super) fn overview(req: &mut Request) -> Result<Response> {
    let watch = req.state::<Watch>();
    let part = watch.look(&req.scope()).part(req, &format!("{OWN}/live"), ALL)?;
    page(req, "aside/panel.html", "Tasks", context! { part })
}

pub(super) fn follow_all(req: &mut Request) -> Result<Response> {
    let (watch, scope) = (req.state::<Watch>(), req.scope());
    let response = req.live(watch.look(&scope), ALL)?;
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
    let live = look_at(&record);
    let part = live.part(req, &format!("{OWN}/tasks/{}/live", record.id), ONE)?;
    let name = visible_line(&record.name, NAME);
    page(req, "aside/panel_task.html", &name, context! { name, part })
}

/// Follows one task. Not by its own [`TaskInfo::live`](crate::TaskInfo::live): who looks on from here is not one of those
/// whom it works for, and it must not be cancelled when he leaves.
pub(super) fn follow_task(req: &mut Request) -> Result<Response> {
    let Some(record) = asked_for(req)? else { return not_remembered(req) };
    let live = look_at(&record);
    let response = req.live(&live, ONE)?;
    watch::follow(live, record);
    Ok(response)
}

fn look_at(record: &Record) -> Live<Whole> {
    // Asked first: what ends in between is looked at once more.
    let has_ended = record.has_ended();
    let live = Live::new(Whole::of(record));
    if has_ended {
        live.finish();
    }
    live
}

pub(super) fn cancel(req: &mut Request) -> Result<Response> {
    let Some(record) = asked_for(req)? else { return not_remembered(req) };
    let back = req.query_pairs()?.into_iter().find(|(name, _)| name == "back").map(|(_, path)| path);
    let name = visible_line(&record.name, NAME);
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
    let words =
        "No task of that number is remembered: of those that ended, the last 200 are, and the last 100 that failed.";
    gone(req, words)
}
