//! The pages about tasks: all of them at a glance, lists of those that ended, one of them with all that is known, and the
//! button that tells one to cancel.

use std::sync::Arc;

use super::page::{back, gone, page};
use super::snapshot::{Snapshot, Whole, newest_first};
use super::watch::{self, Watch};
use crate::background::registry::Record;
use crate::background::scope::Scope;
use crate::background::task::TaskInfo;
use crate::context;
use crate::error::Result;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::BUILTIN;
use crate::http::templates::error_pages::sanitize::visible_line;
use crate::live::Live;

/// The parts of pages that change.
const ALL: &str = "aside/panel_tasks.html";
const ONE: &str = "aside/panel_record.html";

/// How many characters of a name in a heading or in a message.
const NAME: usize = 100;

pub(super) fn overview(req: &mut Request) -> Result<Response> {
    let watch = req.state::<Watch<Snapshot>>();
    let part = watch.look(&req.scope()).fragment(req, &format!("{BUILTIN}/live"), ALL)?;
    page(req, "aside/panel.html", "Tasks", context! { part })
}

pub(super) fn follow_all(req: &mut Request) -> Result<Response> {
    let (watch, scope) = (req.state::<Watch<Snapshot>>(), req.scope());
    let response = req.live(watch.look(&scope), ALL)?;
    watch.keep_up(scope);
    Ok(response)
}

pub(super) fn failed(req: &mut Request) -> Result<Response> {
    let records = req.scope().registry().lists().failed;
    list(req, "Failed", "The last 100 tasks that failed, the newest first.", &records)
}

pub(super) fn ended(req: &mut Request) -> Result<Response> {
    let records = req.scope().registry().lists().ended;
    list(req, "Ended", "The last 200 tasks that ended, well or not, the newest first.", &records)
}

fn list(req: &mut Request, title: &str, words: &str, records: &[Arc<Record>]) -> Result<Response> {
    let rows = newest_first(records, records.len(), &req.scope());
    page(req, "aside/panel_list.html", title, context! { title, words, rows })
}

pub(super) fn task(req: &mut Request) -> Result<Response> {
    let Some(record) = asked_for(req)? else { return not_remembered(req) };
    let live = look_at(&record, &req.scope());
    let part = live.fragment(req, &format!("{BUILTIN}/tasks/{}/live", record.id), ONE)?;
    let name = visible_line(&record.name, NAME);
    page(req, "aside/panel_task.html", &name, context! { name, part })
}

/// Follows one task. Not by its own [`TaskInfo::live`](crate::TaskInfo::live): who looks on from here is not one of those
/// whom it works for, and it must not be cancelled when he leaves.
pub(super) fn follow_task(req: &mut Request) -> Result<Response> {
    let Some(record) = asked_for(req)? else { return not_remembered(req) };
    let live = look_at(&record, &req.scope());
    let response = req.live(&live, ONE)?;
    let scope = req.scope();
    watch::follow(live, move || look(&record, &scope));
    Ok(response)
}

fn look_at(record: &Record, scope: &Scope) -> Live<Whole> {
    let (whole, has_ended) = look(record, scope);
    let live = Live::new(whole);
    if has_ended {
        live.finish();
    }
    live
}

/// The task as it is, and whether it has ended. That is asked first: what ends in between is looked at once more.
fn look(record: &Record, scope: &Scope) -> (Whole, bool) {
    let has_ended = record.has_ended();
    (Whole::of(record, scope), has_ended)
}

pub(super) fn cancel(req: &mut Request) -> Result<Response> {
    let Some(record) = asked_for(req)? else { return not_remembered(req) };
    let back = back(req, BUILTIN)?;
    let name = visible_line(&record.name, NAME);
    if record.has_ended() {
        req.flash("warning", format!("{name} (task {}) had ended already.", record.id));
    } else {
        TaskInfo::new(record.clone(), req.scope().registry()).cancel();
        req.flash("success", format!("{name} (task {}) was told to cancel.", record.id));
    }
    Ok(back)
}

/// The task whose number is in the path, when it is remembered. A number that is none is a path that is not there.
fn asked_for(req: &Request) -> Result<Option<Arc<Record>>> {
    Ok(req.scope().registry().numbered(req.param("id")?))
}

fn not_remembered(req: &mut Request) -> Result<Response> {
    let words =
        "No task of that number is remembered: of those that ended, the last 200 are, and the last 100 that failed.";
    gone(req, words, (BUILTIN, "All tasks"))
}
