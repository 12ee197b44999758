//! The pages about requests: the newest ones, and one with all the work that comes from it.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::job_snapshot::outage;
use super::page::{gone, page, private};
use super::polled_page;
use super::request_tree::Tree;
use super::response_row::{LINE, ResponseRow};
use crate::background::request_info::RequestInfo;
use crate::background::request_log::{EndedRequest, NOTABLE, PLAIN, RequestLog};
use crate::background::scope::Scope;
use crate::background::trace_id::TraceId;
use crate::context;
use crate::error::Result;
use crate::http::error_pages::sanitize::visible_line;
use crate::http::request::Request;
use crate::http::response::{Response, redirect};
use crate::jobs::Jobs;
use crate::jobs::search::{JobFilter, MOST_SEARCHED};
use crate::live::Live;

const TREE_TEMPLATE: &str = "aside/panel_request_tree.html";

/// The link on the page for a request that is not retained.
const ALL: (&str, &str) = ("/_aside/requests", "All requests");

/// The number of requests on a page.
const PAGE: usize = 100;

/// The longest text of a search, in characters.
const LONGEST_SEARCH: usize = 200;

/// The largest number of jobs that are searched for by the id of their request: they have one trace, or a few.
const MOST_JOBS: usize = 20;

#[derive(Deserialize)]
struct Search {
    #[serde(default)]
    q: String,
    /// Present for requests that failed.
    failed: Option<String>,
}

/// A request in a list.
#[derive(Serialize)]
struct Row {
    trace: String,
    id: String,
    method: String,
    path: String,
    response: ResponseRow,
}

impl Row {
    fn of(request: &EndedRequest, log: &RequestLog) -> Row {
        let line = |text: &str| visible_line(text, LINE);
        Row {
            trace: request.info.trace.to_string(),
            id: line(&request.info.id),
            method: line(&request.info.method),
            path: line(&request.info.path),
            response: ResponseRow::of(request, log),
        }
    }
}

/// Shows the newest requests. A search that is the id of one retained request leads to its page.
pub(super) fn list(req: &mut Request) -> Result<Response> {
    let Search { q, failed } = req.query()?;
    let (text, only_failed) = (q.trim().to_owned(), failed.is_some());
    // Other texts are parts of a path: they need no search in the job store.
    let is_id = text.bytes().any(|byte| byte.is_ascii_digit()) || text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let found = if is_id { candidates(&text, &req.scope()) } else { Candidates::default() };
    if let [trace] = found.traces[..] {
        return Ok(private(redirect(&format!("{}/{trace}", ALL.0))));
    }
    let log = log(req);
    let all = log.all();
    let total = all.len();
    let is_wanted = |request: &&EndedRequest| (!only_failed || request.has_failed()) && matches(request, &text);
    let matching: Vec<&EndedRequest> = all.iter().filter(is_wanted).collect();
    let rows: Vec<Row> = matching.iter().take(PAGE).map(|request| Row::of(request, &log)).collect();
    let context = context! {
        more => matching.len() - rows.len(),
        rows, total, only_failed,
        text => visible_line(&text, LONGEST_SEARCH),
        traces => found.traces.iter().map(ToString::to_string).collect::<Vec<_>>(),
        outage => found.outage,
        plain => PLAIN, notable => NOTABLE,
    };
    page(req, "aside/panel_requests.html", "Requests", context)
}

fn matches(request: &EndedRequest, text: &str) -> bool {
    let info = &request.info;
    text.is_empty()
        || info.id.eq_ignore_ascii_case(text)
        || info.path.to_lowercase().contains(&text.to_lowercase())
        || info.trace.to_string().eq_ignore_ascii_case(text)
}

/// Shows a request by its trace id. A short id leads to the only request with it; several are listed.
pub(super) fn request(req: &mut Request) -> Result<Response> {
    let id: String = req.param("id")?;
    let Some(trace) = TraceId::parse(&id) else { return by_short_id(req, id.trim()) };
    let scope = req.scope();
    let tree = Tree::of(trace, &scope);
    if tree.is_empty() {
        return not_found(req);
    }
    let name = tree.name().unwrap_or_else(|| "Work without a request".to_owned());
    let fragment = live_of(tree).fragment(req, &format!("{}/{trace}/live", ALL.0), TREE_TEMPLATE)?;
    page(req, "aside/panel_request.html", &name, context! { name, fragment })
}

pub(super) fn follow(req: &mut Request) -> Result<Response> {
    let id: String = req.param("id")?;
    let Some(trace) = TraceId::parse(&id) else { return not_found(req) };
    let scope = req.scope();
    let tree = Tree::of(trace, &scope);
    if tree.is_empty() {
        return not_found(req);
    }
    let live = live_of(tree);
    let response = req.live(&live, TREE_TEMPLATE)?;
    polled_page::follow(live, move || {
        let tree = Tree::of(trace, &scope);
        let has_ended = tree.has_ended;
        (tree, has_ended)
    });
    Ok(response)
}

fn live_of(tree: Tree) -> Live<Tree> {
    let has_ended = tree.has_ended;
    let live = Live::new(tree);
    if has_ended {
        live.finish();
    }
    live
}

fn by_short_id(req: &mut Request, id: &str) -> Result<Response> {
    let found = candidates(id, &req.scope());
    match &found.traces[..] {
        [] if found.outage.is_none() => not_found(req),
        [trace] => Ok(private(redirect(&format!("{}/{trace}", ALL.0)))),
        traces => several(req, id, traces, found.outage.as_deref()),
    }
}

/// Lists the requests that share a short id.
fn several(req: &mut Request, id: &str, traces: &[TraceId], outage: Option<&str>) -> Result<Response> {
    let log = log(req);
    let requests: Vec<EndedRequest> = traces.iter().flat_map(|trace| log.of_trace(*trace)).collect();
    let rows: Vec<Row> = requests.iter().map(|request| Row::of(request, &log)).collect();
    let known: BTreeSet<&str> = rows.iter().map(|row| &*row.trace).collect();
    let texts = traces.iter().map(ToString::to_string);
    let others: Vec<String> = texts.filter(|trace| !known.contains(&**trace)).collect();
    let context = context! { id => visible_line(id, LINE), rows, traces => others, outage };
    page(req, "aside/panel_request_ids.html", "Requests", context)
}

fn not_found(req: &mut Request) -> Result<Response> {
    let text = format!(
        "No request with that id is retained, and no task and none of the newest {MOST_SEARCHED} jobs comes from one. This \
         process retains the newest {PLAIN} requests that only showed a page, and the newest {NOTABLE} that failed or \
         started tasks or jobs: {} at the moment.",
        log(req).all().len()
    );
    gone(req, &text, ALL)
}

/// The traces of the requests with an id.
#[derive(Default)]
struct Candidates {
    traces: Vec<TraceId>,
    /// The error, if the job store is unreachable.
    outage: Option<String>,
}

/// Finds the traces of the requests with a short id or a trace id, in upper or lower case: in the log of requests, among the
/// tasks, and among the newest jobs.
fn candidates(id: &str, scope: &Scope) -> Candidates {
    if id.is_empty()
        || id.len() > LONGEST_SEARCH
        || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    {
        return Candidates::default();
    }
    if let Some(trace) = TraceId::parse(&id.to_ascii_lowercase()) {
        let is_known = !Tree::of(trace, scope).is_empty();
        return Candidates { traces: is_known.then_some(trace).into_iter().collect(), outage: None };
    }
    let has_id = |request: &RequestInfo| request.id.eq_ignore_ascii_case(id);
    let requests = scope.get::<Arc<RequestLog>>().map_or_else(Vec::new, |log| log.all());
    let requests = requests.iter().filter(|request| has_id(&request.info)).map(|request| request.info.trace);
    let tasks = scope.registry().filter(|record| record.request.as_deref().is_some_and(has_id));
    let mut traces: Vec<TraceId> = requests.chain(tasks.iter().map(|record| record.trace)).collect();
    let filter = JobFilter { request_id: Some(id.to_owned()), ..JobFilter::default() };
    let jobs = scope.get::<Jobs>().map(|jobs| jobs.search(&filter, MOST_JOBS)).transpose();
    let outage = jobs.as_ref().err().map(outage);
    let jobs = jobs.ok().flatten().map_or_else(Vec::new, |found| found.jobs);
    traces.extend(jobs.iter().filter_map(|job| TraceId::parse(job.trace.as_deref()?)));
    let mut seen = BTreeSet::new();
    traces.retain(|trace| seen.insert(*trace));
    Candidates { traces, outage }
}

fn log(req: &Request) -> Arc<RequestLog> {
    Arc::clone(&req.state::<Arc<RequestLog>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::App;
    use crate::background::lineage::Lineage;
    use crate::background::scope::Context;
    use crate::background::task::Task;
    use crate::config::Config;
    use crate::error::{Error, Status};
    use crate::testing::TestClient;

    /// Runs a task of a request that has not ended.
    fn run_task_of(client: &TestClient, info: &Arc<RequestInfo>) {
        client.within(|| {
            let _entered = Context { lineage: Lineage::of(info), ..Context::current() }.enter();
            let outcome = Task::named("resize").spawn(|_| Ok::<_, Error>(())).join();
            assert!(outcome.is_ok());
        });
    }

    #[test]
    fn a_request_that_runs_is_found_by_its_tasks() {
        let mut client = TestClient::new(App::with_config(Config::default()));
        let info = Arc::new(RequestInfo::new("GET", "/slow", "3f9a1c", TraceId::new()));
        run_task_of(&client, &info);
        let found = client.get("/_aside/requests/3F9A1C");
        let path = format!("/_aside/requests/{}", info.trace);
        assert_eq!(found.location(), Some(&*path));
        let page = client.get(&path);
        for text in ["/slow", "The request has not ended, or is no longer retained.", "resize"] {
            assert!(page.text().replace("&#x2f;", "/").contains(text), "{text}: {}", page.text());
        }
        let other = Arc::new(RequestInfo::new("GET", "/other", "3f9a1c", TraceId::new()));
        run_task_of(&client, &other);
        let several = client.get("/_aside/requests/3f9a1c");
        assert_eq!(several.status_code(), Status::OK);
        assert!([&info, &other].iter().all(|info| several.text().contains(&info.trace.to_string())));
    }
}
