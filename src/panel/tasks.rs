//! The pages about tasks: an overview, lists of finished tasks, one task with all its fields, and the button that
//! cancels a task.

use std::sync::Arc;

use super::page::{back, gone, page};
use super::polled_page::{self, PolledPage};
use super::snapshot::{Snapshot, Whole, newest_first};
use crate::background::handle::TaskInfo;
use crate::background::record::Record;
use crate::background::scope::Scope;
use crate::context;
use crate::error::Result;
use crate::http::error_pages::sanitize::visible_line;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::router::BUILTIN;
use crate::live::Live;

/// The templates of the live fragments.
const ALL: &str = "aside/panel_tasks.html";
const RECORD_TEMPLATE: &str = "aside/panel_record.html";

/// The link on the page for a task that does not exist.
const ALL_TASKS: (&str, &str) = ("/_aside/tasks", "All tasks");

/// The length, in characters, of a name in a heading or a message.
const NAME: usize = 100;

pub(super) fn overview(req: &mut Request) -> Result<Response> {
    let polled_page = req.state::<PolledPage<Snapshot>>();
    let fragment = polled_page.refresh(&req.scope()).fragment(req, &format!("{BUILTIN}/tasks/live"), ALL)?;
    page(req, "aside/panel_live.html", "Tasks", context! { fragment })
}

pub(super) fn follow_all(req: &mut Request) -> Result<Response> {
    let (polled_page, scope) = (req.state::<PolledPage<Snapshot>>(), req.scope());
    let response = req.live(polled_page.refresh(&scope), ALL)?;
    polled_page.start_polling(scope);
    Ok(response)
}

pub(super) fn failed(req: &mut Request) -> Result<Response> {
    let records = req.scope().registry().lists().failed;
    list(req, "Failed", "The last 100 tasks that failed, the newest first.", &records)
}

pub(super) fn ended(req: &mut Request) -> Result<Response> {
    let records = req.scope().registry().lists().ended;
    list(req, "Ended", "The last 200 finished tasks, the newest first.", &records)
}

fn list(req: &mut Request, title: &str, caption: &str, records: &[Arc<Record>]) -> Result<Response> {
    let rows = newest_first(records, records.len(), &req.scope());
    page(req, "aside/panel_list.html", title, context! { title, caption, rows })
}

pub(super) fn task(req: &mut Request) -> Result<Response> {
    let Some(record) = requested(req)? else { return task_not_found(req) };
    let live = live_of(&record, &req.scope());
    let fragment = live.fragment(req, &format!("{BUILTIN}/tasks/{}/live", record.id), RECORD_TEMPLATE)?;
    let name = visible_line(&record.name, NAME);
    page(req, "aside/panel_task.html", &name, context! { name, fragment })
}

/// Follows one task. The page does not use [`TaskInfo::live`](crate::tasks::TaskInfo::live), since a user of the panel is not
/// a watcher for whom the task works: the task must not be cancelled when that user leaves.
pub(super) fn follow_task(req: &mut Request) -> Result<Response> {
    let Some(record) = requested(req)? else { return task_not_found(req) };
    let live = live_of(&record, &req.scope());
    let response = req.live(&live, RECORD_TEMPLATE)?;
    let scope = req.scope();
    polled_page::follow(live, move || read(&record, &scope));
    Ok(response)
}

fn live_of(record: &Record, scope: &Scope) -> Live<Whole> {
    let (whole, has_ended) = read(record, scope);
    let live = Live::new(whole);
    if has_ended {
        live.finish();
    }
    live
}

/// Returns the task, and true if it has ended. The end is read first, so that a task that ends in between is read once
/// more.
fn read(record: &Record, scope: &Scope) -> (Whole, bool) {
    let has_ended = record.has_ended();
    (Whole::of(record, scope), has_ended)
}

pub(super) fn cancel(req: &mut Request) -> Result<Response> {
    let Some(record) = requested(req)? else { return task_not_found(req) };
    let back = back(req, ALL_TASKS.0)?;
    let name = visible_line(&record.name, NAME);
    if record.has_ended() {
        req.flash("warning", format!("{name} (task {}) has already ended.", record.id));
    } else {
        TaskInfo::new(record.clone(), req.scope().registry()).cancel();
        req.flash("success", format!("{name} (task {}) was told to cancel.", record.id));
    }
    Ok(back)
}

/// Returns the task with the id in the path, if it is remembered. An invalid id is a missing path.
fn requested(req: &Request) -> Result<Option<Arc<Record>>> {
    Ok(req.scope().registry().by_id(req.param("id")?))
}

fn task_not_found(req: &mut Request) -> Result<Response> {
    let text = "There is no task with that number. The last 200 finished and the last 100 failed tasks are stored.";
    gone(req, text, ALL_TASKS)
}
