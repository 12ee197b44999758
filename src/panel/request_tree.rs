//! The tree of a trace: its requests, the tasks and jobs that they started, and theirs.
//!
//! The tree is made of what this process retains (requests, tasks, mails) and what the job store has. A parent that is
//! neither is a node of its own, so that its children are still shown.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::moment::Moment;
use super::response_row::{ErrorRow, LINE, ResponseRow};
use super::snapshot::elapsed;
use crate::background::lineage::Parent;
use crate::background::progress::TaskState;
use crate::background::record::{FailedTaskAttempt, Record};
use crate::background::request_info::RequestInfo;
use crate::background::request_log::{EndedRequest, RequestLog};
use crate::background::scope::Scope;
use crate::background::trace_id::TraceId;
use crate::http::error_pages::sanitize::visible_line;
use crate::jobs::engine::MOST_OF_TRACE;
use crate::jobs::record::{Millis, millis};
use crate::jobs::{FailureKind, JobFailure, JobInfo, JobState, Jobs};
use crate::log_text::span;
#[cfg(feature = "mail")]
use crate::mail::{Mailer, SentMail};

/// The number of nodes of a tree, without its requests.
const MOST: usize = 500;

/// The deepest level. Deeper nodes are shown there too, so that a chain of any length is legible.
const DEEPEST: usize = 12;

/// The difference of clocks, in milliseconds, up to which a job may seem older than the task that enqueued it.
const CLOCK_SLACK: Millis = 1_000;

/// The tree of a trace at one moment.
#[derive(Clone, Default, PartialEq, Serialize)]
pub(super) struct Tree {
    trace: String,
    /// The error, if the job store is unreachable: then the jobs are missing.
    outage: Option<String>,
    roots: Vec<Root>,
    /// The number of nodes that are left out.
    more: usize,
    /// True if there may be more jobs than were read.
    is_cut: bool,
    #[serde(skip)]
    pub(super) has_ended: bool,
}

impl Tree {
    /// Returns true if nothing of the trace is retained.
    pub(super) fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.outage.is_none()
    }

    /// Returns the name of the trace for a heading: its first request.
    pub(super) fn name(&self) -> Option<String> {
        let request = self.roots.iter().find_map(|root| root.request.as_ref())?;
        Some(format!("{} {}", request.method, request.path))
    }
}

/// A request with the work that it started, or the work that no request started.
#[derive(Clone, PartialEq, Serialize)]
struct Root {
    request: Option<RequestRow>,
    children: Vec<Node>,
}

#[derive(Clone, PartialEq, Serialize)]
struct RequestRow {
    id: String,
    method: String,
    path: String,
    /// The response; `None` if the request runs, or is not retained.
    response: Option<ResponseRow>,
}

impl RequestRow {
    fn of(info: &RequestInfo) -> RequestRow {
        let [id, method, path] = [&info.id, &info.method, &info.path].map(|text| visible_line(text, LINE));
        RequestRow { id, method, path, response: None }
    }

    fn with_response(self, request: &EndedRequest, log: &RequestLog) -> RequestRow {
        RequestRow { response: Some(ResponseRow::of(request, log)), ..self }
    }
}

/// A task, a job, a mail without a retained sender, or a parent that is not retained.
#[derive(Clone, Default, PartialEq, Serialize)]
struct Node {
    /// `task`, `job`, `mail`, `webhook`; empty for a parent that is not retained.
    kind: &'static str,
    /// True if a job sends the mail or webhook.
    is_job: bool,
    id: Option<u64>,
    name: String,
    /// The page of the node in the panel.
    path: Option<String>,
    state: &'static str,
    is_bad: bool,
    /// The time of its start, from that of the first request or the oldest work.
    after: Option<String>,
    at: Option<Moment>,
    took: Option<String>,
    due: Option<Moment>,
    is_of_failure_hook: bool,
    attempts: Vec<AttemptRow>,
    /// The number of earlier attempts that are not retained.
    earlier: u32,
    mails: Vec<MailRow>,
    children: Vec<Node>,
}

/// An attempt of a task or job.
#[derive(Clone, PartialEq, Serialize)]
struct AttemptRow {
    number: u32,
    outcome: &'static str,
    is_bad: bool,
    /// The time when it ended, or began if it runs.
    at: Option<Moment>,
    took: Option<String>,
    error: Option<ErrorRow>,
    /// The task that runs or ran it, if it is retained.
    task: Option<u64>,
}

/// A stored mail.
#[derive(Clone, PartialEq, Serialize)]
struct MailRow {
    path: String,
    subject: String,
}

/// The identity of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Task(u64),
    Job(u64),
    #[cfg(feature = "mail")]
    Mail(usize),
}

/// A node that is not in its place yet.
struct Found {
    parent: Option<Parent>,
    request: Option<RequestInfo>,
    /// The time of its start, by which siblings are ordered, and the time when it was enqueued.
    at: Millis,
    node: Node,
}

/// What the sources have of a trace.
#[derive(Default)]
struct Sources {
    requests: Vec<EndedRequest>,
    records: Vec<Arc<Record>>,
    jobs: Vec<JobInfo>,
    #[cfg(feature = "mail")]
    mails: Vec<Arc<SentMail>>,
    outage: Option<String>,
    now: Millis,
}

impl Tree {
    /// Returns the tree of a trace, as far as it is retained.
    pub(super) fn of(trace: TraceId, scope: &Scope) -> Tree {
        let log = scope.get::<Arc<RequestLog>>();
        let jobs = scope.get::<Jobs>();
        let stored = jobs.as_ref().map_or_else(|| Ok(Vec::new()), |jobs| jobs.of_trace(&trace.to_string()));
        let sources = Sources {
            requests: log.as_ref().map_or_else(Vec::new, |log| log.of_trace(trace)),
            // After the jobs: a job that has ended by now has its state from the store or its task.
            records: scope.registry().of_trace(trace),
            outage: stored.as_ref().err().map(super::job_snapshot::outage),
            jobs: stored.unwrap_or_default(),
            #[cfg(feature = "mail")]
            mails: mails(trace, scope),
            now: jobs.map_or_else(|| millis(SystemTime::now()), |jobs| jobs.now()),
        };
        Tree { trace: trace.to_string(), ..sources.tree(log.as_deref().map(|log| &**log)) }
    }
}

#[cfg(feature = "mail")]
fn mails(trace: TraceId, scope: &Scope) -> Vec<Arc<SentMail>> {
    let all = scope.get::<Mailer>().map_or_else(Vec::new, |mailer| mailer.outbox());
    all.into_iter().filter(|mail| mail.trace == Some(trace)).collect()
}

impl Sources {
    fn tree(&self, log: Option<&RequestLog>) -> Tree {
        let found = self.found();
        let has_ended = self.records.iter().all(|record| record.has_ended())
            && self.jobs.iter().all(|job| job.state.is_finished())
            && self.outage.is_none();
        let mut placing = Placing::new(found);
        let mut roots: Vec<Root> = Vec::new();
        for info in self.infos(&placing) {
            let row = RequestRow::of(&info);
            let ended = self.requests.iter().find(|request| request.info.id == info.id);
            let row = match (ended, log) {
                (Some(ended), Some(log)) => row.with_response(ended, log),
                _ => row,
            };
            let children = placing.children_of_request(Some(&info.id));
            roots.push(Root { request: Some(row), children });
        }
        let others = placing.children_of_request(None);
        let others: Vec<Node> = others.into_iter().chain(placing.rest()).collect();
        roots.extend((!others.is_empty()).then_some(Root { request: None, children: others }));
        let is_cut = self.jobs.len() >= MOST_OF_TRACE;
        Tree { roots, more: placing.more(), is_cut, has_ended, outage: self.outage.clone(), ..Tree::default() }
    }

    /// Returns the requests, the oldest first: those that are retained, and those that retained work names.
    fn infos(&self, placing: &Placing) -> Vec<RequestInfo> {
        let retained = self.requests.iter().rev().map(|request| RequestInfo::clone(&request.info));
        let mut infos: Vec<RequestInfo> = Vec::new();
        for info in retained.chain(placing.requests()) {
            if !infos.iter().any(|known| known.id == info.id) {
                infos.push(info);
            }
        }
        infos
    }

    fn found(&self) -> BTreeMap<Key, Found> {
        let mut found = BTreeMap::new();
        for job in &self.jobs {
            found.insert(Key::Job(job.id), self.job(job));
        }
        for record in &self.records {
            match record.job {
                None => drop(found.insert(Key::Task(record.id), self.task(record))),
                // The store does not have the job any more, or is unreachable.
                Some(id) => drop(found.entry(Key::Job(id)).or_insert_with(|| self.job_of_attempt(id, record))),
            }
        }
        self.add_mails(&mut found);
        found
    }

    #[cfg(feature = "mail")]
    fn add_mails(&self, found: &mut BTreeMap<Key, Found>) {
        for (number, mail) in self.mails.iter().enumerate() {
            let id = super::outbox::id(mail);
            let path = format!("/_aside/outbox/{id}");
            let row = MailRow { path: path.clone(), subject: visible_line(&mail.subject, LINE) };
            let sender = mail.sender.and_then(key_of).and_then(|key| found.get_mut(&key));
            if let Some(sender) = sender {
                sender.node.mails.push(row);
                continue;
            }
            // Sent at once by a request, or by a task that is not retained.
            let node = Node { kind: "mail", name: row.subject, path: Some(path), state: "sent", ..Node::default() };
            let request = mail.request.as_deref().cloned();
            found.insert(Key::Mail(number), Found { parent: mail.sender, request, at: Millis::MAX, node });
        }
    }

    #[cfg(not(feature = "mail"))]
    fn add_mails(&self, _found: &mut BTreeMap<Key, Found>) {}

    fn task(&self, record: &Record) -> Found {
        let attempts = attempts_of_task(record);
        let state = record.state();
        let progress = record.progress.get();
        let node = Node {
            kind: kind_of(record.kind.as_deref().unwrap_or_default(), "task"),
            id: Some(record.id),
            name: visible_line(&record.name, LINE),
            path: Some(format!("/_aside/tasks/{}", record.id)),
            state: state_of_task(state),
            is_bad: state == TaskState::Failed,
            after: record.began_at().and_then(|began| self.after(millis(began))),
            at: record.began_at().and_then(Moment::of_system),
            took: record.began_at().map(|_| took(record)),
            due: progress.due_at.filter(|_| !record.has_ended()).and_then(Moment::of_system),
            is_of_failure_hook: record.parent == Some(Parent::FailureHook),
            earlier: record.attempts().saturating_sub(attempts.len().try_into().unwrap_or(u32::MAX)),
            attempts,
            ..Node::default()
        };
        let at = record.began_at().map_or(self.now, millis);
        Found { parent: record.parent, request: record.request.as_deref().cloned(), at, node }
    }

    fn job(&self, job: &JobInfo) -> Found {
        let parent = job.parent.as_deref().and_then(Parent::parse);
        let attempts = self.attempts_of_job(job);
        let node = Node {
            kind: kind_of(&job.name, "job"),
            is_job: true,
            id: Some(job.id),
            name: visible_line(&job.label, LINE),
            path: Some(format!("/_aside/jobs/{}", job.id)),
            state: job.state.as_str(),
            is_bad: job.state == JobState::Dead,
            after: self.after(job.enqueued_at),
            at: self.moment(job.enqueued_at),
            due: self.moment(job.due_at).filter(|_| job.state == JobState::Scheduled),
            is_of_failure_hook: parent == Some(Parent::FailureHook),
            earlier: (job.attempt + job.interruptions).saturating_sub(attempts.len().try_into().unwrap_or(u32::MAX)),
            attempts,
            ..Node::default()
        };
        let request = job.request.as_deref().and_then(RequestInfo::parse);
        Found { parent, request, at: job.enqueued_at, node }
    }

    /// Returns the node of a job of which only the task of an attempt is retained.
    fn job_of_attempt(&self, id: u64, record: &Record) -> Found {
        let Found { parent, request, at, node } = self.task(record);
        let path = if self.outage.is_some() { Some(format!("/_aside/jobs/{id}")) } else { None };
        let kind = kind_of(record.kind.as_deref().unwrap_or_default(), "job");
        let attempts = vec![self.attempt_of_record(record)];
        let earlier = record.attempt().unwrap_or(1).saturating_sub(1);
        Found { parent, request, at, node: Node { kind, is_job: true, id: Some(id), path, attempts, earlier, ..node } }
    }

    /// Returns the attempts of a job, the oldest first.
    fn attempts_of_job(&self, job: &JobInfo) -> Vec<AttemptRow> {
        let mut attempts: Vec<AttemptRow> = job.failures.iter().map(|failure| self.failed_attempt(failure)).collect();
        let record = self
            .records
            .iter()
            .rev()
            .find(|record| record.job == Some(job.id) && record.attempt() == Some(job.attempt));
        let last = match job.state {
            JobState::Running => Some(("running", None)),
            JobState::Done => Some(("done", job.ended_at)),
            _ => None,
        };
        if let (Some((outcome, ended)), Some(began)) = (last, job.began_at) {
            let until = ended.unwrap_or(self.now);
            let took = duration(began, until);
            let took = if ended.is_some() { span(took).to_string() } else { elapsed(took) };
            let (at, task) = (self.moment(ended.unwrap_or(began)), record.map(|record| record.id));
            let (number, took) = (job.attempt, Some(took));
            attempts.push(AttemptRow { number, outcome, is_bad: false, at, took, error: None, task });
        }
        attempts
    }

    fn failed_attempt(&self, failure: &JobFailure) -> AttemptRow {
        AttemptRow {
            number: failure.attempt,
            outcome: outcome(failure.kind),
            is_bad: failure.kind != FailureKind::Abandoned,
            at: self.moment(failure.at),
            took: failure.began_at.map(|began| span(duration(began, failure.at)).to_string()),
            error: Some(ErrorRow::of(&failure.message, failure.location.as_deref())),
            task: None,
        }
    }

    fn attempt_of_record(&self, record: &Record) -> AttemptRow {
        let error = record.failed_attempts().last().map(error_of_attempt);
        AttemptRow {
            number: record.attempt().unwrap_or(1),
            outcome: state_of_task(record.state()),
            is_bad: record.state() == TaskState::Failed,
            at: record.began_at().and_then(Moment::of_system),
            took: record.began_at().map(|_| took(record)),
            error,
            task: Some(record.id),
        }
    }

    /// Returns the time from the start of the trace.
    fn after(&self, time: Millis) -> Option<String> {
        let requests = self.requests.iter().map(|request| millis(request.began_at()));
        let jobs = self.jobs.iter().map(|job| job.enqueued_at);
        let tasks = self.records.iter().filter_map(|record| record.began_at().map(millis));
        let start = requests.chain(jobs).chain(tasks).min()?;
        Some(span(duration(start, time)).to_string())
    }

    fn moment(&self, time: Millis) -> Option<Moment> {
        Moment::of_job(time, self.now)
    }
}

/// Returns the attempts of a task, the oldest first.
fn attempts_of_task(record: &Record) -> Vec<AttemptRow> {
    let failed = record.failed_attempts();
    let failed = failed.iter().map(|attempt| AttemptRow {
        number: attempt.number,
        outcome: attempt.outcome,
        is_bad: true,
        at: Moment::of_system(attempt.at),
        took: None,
        error: Some(error_of_attempt(attempt)),
        task: None,
    });
    let mut attempts: Vec<AttemptRow> = failed.collect();
    let state = record.state();
    let is_another = attempts.last().is_none_or(|last| last.number < record.attempts());
    if is_another && record.attempts() > 0 {
        let (number, outcome) = (record.attempts(), state_of_task(state));
        attempts.push(AttemptRow { number, outcome, is_bad: false, at: None, took: None, error: None, task: None });
    }
    attempts
}

fn error_of_attempt(attempt: &FailedTaskAttempt) -> ErrorRow {
    ErrorRow::of(&attempt.message, attempt.location.as_deref())
}

fn took(record: &Record) -> String {
    if record.has_ended() { span(record.elapsed()).to_string() } else { elapsed(record.elapsed()) }
}

fn duration(from: Millis, to: Millis) -> std::time::Duration {
    std::time::Duration::from_millis(to.saturating_sub(from).max(0).unsigned_abs())
}

/// Returns the kind of work with that type name: mails and webhooks are sent by tasks and jobs.
fn kind_of(name: &str, other: &'static str) -> &'static str {
    match name {
        "mail" => "mail",
        "webhook" => "webhook",
        _ => other,
    }
}

fn state_of_task(state: TaskState) -> &'static str {
    match state {
        TaskState::Waiting => "waiting",
        TaskState::Running => "running",
        TaskState::Done => "done",
        TaskState::Failed => "failed",
        _ => "cancelled",
    }
}

fn outcome(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::TimedOut => "timed out",
        FailureKind::Abandoned => "interrupted",
        other => other.as_str(),
    }
}

fn key_of(parent: Parent) -> Option<Key> {
    match parent {
        Parent::Task(id) => Some(Key::Task(id)),
        Parent::Job(id) => Some(Key::Job(id)),
        Parent::FailureHook => None,
    }
}

/// The nodes on the way to their places.
struct Placing {
    /// The nodes that have no place yet.
    found: BTreeMap<Key, Found>,
    /// The children of each retained parent, the oldest first.
    children: HashMap<Key, Vec<Key>>,
    /// The children of a request, or of none: those without a parent, and groups below a parent that is not retained.
    top: BTreeMap<Option<String>, Vec<(Option<Parent>, Key)>>,
    left: usize,
}

impl Placing {
    fn new(found: BTreeMap<Key, Found>) -> Placing {
        let mut order: Vec<Key> = found.keys().copied().collect();
        order.sort_by_key(|key| (found[key].at, *key));
        let mut placing = Placing { children: HashMap::new(), top: BTreeMap::new(), left: MOST, found };
        for key in order {
            placing.place(key);
        }
        placing
    }

    fn place(&mut self, key: Key) {
        let found = &self.found[&key];
        let parent = found.parent.and_then(key_of).filter(|parent| self.is_parent(*parent, key));
        match parent {
            Some(parent) => self.children.entry(parent).or_default().push(key),
            None => {
                let missing = found.parent.filter(|parent| key_of(*parent).is_some());
                let request = found.request.as_ref().map(|info| info.id.clone());
                self.top.entry(request).or_default().push((missing, key));
            }
        }
    }

    /// Returns true if the parent is retained. Numbers of tasks start again with each process: a task that began after its
    /// supposed child is another one.
    fn is_parent(&self, parent: Key, child: Key) -> bool {
        let Some(found) = self.found.get(&parent) else { return false };
        let is_older = found.at <= self.found[&child].at.saturating_add(CLOCK_SLACK);
        parent != child && (is_older || !matches!((parent, child), (Key::Task(_), Key::Job(_))))
    }

    /// Returns the requests that the work names.
    fn requests(&self) -> Vec<RequestInfo> {
        let mut all: Vec<&Found> = self.found.values().collect();
        all.sort_by_key(|found| found.at);
        all.into_iter().filter_map(|found| found.request.clone()).collect()
    }

    /// Takes the nodes directly below a request, with theirs.
    fn children_of_request(&mut self, id: Option<&str>) -> Vec<Node> {
        let top = self.top.remove(&id.map(str::to_owned)).unwrap_or_default();
        let mut nodes = Vec::new();
        let mut groups: Vec<(Parent, Vec<Key>)> = Vec::new();
        for (missing, key) in top {
            match missing {
                None => self.take(key, 0, &mut nodes),
                Some(parent) => match groups.iter_mut().find(|(of, _)| *of == parent) {
                    Some((_, keys)) => keys.push(key),
                    None => groups.push((parent, vec![key])),
                },
            }
        }
        for (parent, keys) in groups {
            let mut children = Vec::new();
            keys.into_iter().for_each(|key| self.take(key, 1, &mut children));
            if !children.is_empty() {
                nodes.push(Node { name: parent.to_string(), children, ..Node::default() });
            }
        }
        nodes
    }

    /// Takes a node with those below it, and appends it. A deep node is beside its parent.
    fn take(&mut self, key: Key, depth: usize, into: &mut Vec<Node>) {
        if self.left == 0 {
            return;
        }
        let Some(Found { mut node, .. }) = self.found.remove(&key) else { return };
        self.left -= 1;
        let children = self.children.remove(&key).unwrap_or_default();
        if depth < DEEPEST {
            children.into_iter().for_each(|child| self.take(child, depth + 1, &mut node.children));
            into.push(node);
        } else {
            into.push(node);
            children.into_iter().for_each(|child| self.take(child, depth, into));
        }
    }

    /// Takes the nodes without a way to a request: the parents of invalid records may form a circle.
    fn rest(&mut self) -> Vec<Node> {
        let mut nodes = Vec::new();
        let keys: Vec<Key> = self.found.keys().copied().collect();
        keys.into_iter().for_each(|key| self.take(key, 1, &mut nodes));
        if nodes.is_empty() {
            nodes
        } else {
            vec![Node { name: "unknown".to_owned(), children: nodes, ..Node::default() }]
        }
    }

    /// Returns the number of nodes without a place.
    fn more(&self) -> usize {
        self.found.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_000_000;

    fn job(id: u64, parent: Option<Parent>) -> JobInfo {
        JobInfo {
            id,
            name: "charge".into(),
            label: format!("charge {id}"),
            queue: "default".into(),
            priority: 0,
            state: JobState::Done,
            attempt: 1,
            interruptions: 0,
            payload: "{}".into(),
            unique: None,
            request: Some("POST /orders 3f9a1c".into()),
            trace: Some("4bf92f3577b34da6a3ce929d0e0e4736".into()),
            parent: parent.map(|parent| parent.to_string()),
            enqueued_at: NOW - 10_000 + id as Millis,
            due_at: NOW - 10_000,
            began_at: Some(NOW - 9_000),
            ended_at: Some(NOW - 8_000),
            is_cancelling: false,
            done: 0,
            total: 0,
            message: String::new(),
            is_paused: false,
            failures: Vec::new(),
            output: Default::default(),
        }
    }

    fn tree(jobs: Vec<JobInfo>) -> Tree {
        Sources { jobs, now: NOW, ..Sources::default() }.tree(None)
    }

    /// Returns the nodes as text: `1(2(3) 4)`.
    fn shape(nodes: &[Node]) -> String {
        let node = |node: &Node| {
            let id = node.id.map_or_else(|| node.name.clone(), |id| id.to_string());
            let below = if node.children.is_empty() { String::new() } else { format!("({})", shape(&node.children)) };
            id + &below
        };
        nodes.iter().map(node).collect::<Vec<_>>().join(" ")
    }

    fn count(nodes: &[Node]) -> usize {
        nodes.iter().map(|node| 1 + count(&node.children)).sum()
    }

    #[test]
    fn jobs_are_below_the_job_that_enqueued_them_and_their_request() {
        let parents = [(1, None), (2, Some(Parent::Job(1))), (3, Some(Parent::Job(2))), (4, Some(Parent::Job(1)))];
        let tree = tree(parents.map(|(id, parent)| job(id, parent)).into());
        assert_eq!(tree.roots.len(), 1);
        let request = tree.roots[0].request.as_ref().unwrap();
        assert_eq!((&*request.method, &*request.path, &*request.id), ("POST", "/orders", "3f9a1c"));
        assert!(request.response.is_none(), "the process that has responded is gone");
        assert_eq!(shape(&tree.roots[0].children), "1(2(3) 4)");
        assert!(tree.has_ended && tree.more == 0 && !tree.is_cut);
    }

    #[test]
    fn work_of_a_parent_that_is_not_retained_is_shown() {
        let jobs = vec![job(5, Some(Parent::Task(17))), job(6, Some(Parent::Job(4))), job(7, Some(Parent::Task(17)))];
        assert_eq!(shape(&tree(jobs).roots[0].children), "task 17(5 7) job 4(6)");
        let hook = tree(vec![job(8, Some(Parent::FailureHook))]);
        assert!(shape(&hook.roots[0].children) == "8" && hook.roots[0].children[0].is_of_failure_hook);
    }

    /// A store that was edited by hand may have anything.
    #[test]
    fn a_circle_of_parents_ends() {
        let jobs = vec![job(1, Some(Parent::Job(2))), job(2, Some(Parent::Job(1))), job(3, Some(Parent::Job(3)))];
        let tree = tree(jobs);
        let all: String = tree.roots.iter().map(|root| shape(&root.children)).collect();
        assert_eq!((tree.more, tree.roots.iter().map(|root| count(&root.children)).sum::<usize>()), (0, 5), "{all}");
    }

    #[test]
    fn a_large_tree_is_cut_and_a_deep_one_is_flat_at_its_end() {
        let chain = tree((1..=400).map(|id| job(id, (id > 1).then(|| Parent::Job(id - 1)))).collect());
        assert_eq!((count(&chain.roots[0].children), chain.more), (400, 0));
        let (mut deepest, mut at) = (0, &chain.roots[0].children);
        while let Some(first) = at.first() {
            (deepest, at) = (deepest + 1, &first.children);
        }
        assert_eq!(deepest, DEEPEST + 1);
        let wide = tree((1..=700).map(|id| job(id, None)).collect());
        assert_eq!((count(&wide.roots[0].children), wide.more, wide.is_cut), (MOST, 200, true));
    }

    #[test]
    fn each_attempt_of_a_job_is_listed_with_its_failure() {
        let failure = |attempt, kind, message: &str| JobFailure {
            attempt,
            at: NOW - 5_000,
            began_at: Some(NOW - 5_250),
            kind,
            message: message.to_owned(),
            location: Some("src/orders.rs:41".to_owned()),
            backtrace: None,
        };
        let failures = vec![
            failure(1, FailureKind::Failed, "connection refused"),
            failure(2, FailureKind::Abandoned, "the process ended"),
            failure(2, FailureKind::Panicked, "boom\u{202e}"),
        ];
        let tree = tree(vec![JobInfo { failures, attempt: 3, interruptions: 1, ..job(1, None) }]);
        let node = &tree.roots[0].children[0];
        let shown = |row: &AttemptRow| (row.number, row.outcome, row.took.clone().unwrap_or_default());
        let expected =
            [(1, "failed", "250 ms"), (2, "interrupted", "250 ms"), (2, "panicked", "250 ms"), (3, "done", "1.0 s")];
        assert_eq!(node.attempts.iter().map(shown).collect::<Vec<_>>(), expected.map(|(n, o, t)| (n, o, t.to_owned())));
        let error = node.attempts[2].error.as_ref().unwrap();
        assert_eq!((&*error.message, error.location.as_deref()), (r"boom\u{202e}", Some("src/orders.rs:41")));
        assert_eq!(node.earlier, 0);
    }

    #[test]
    fn a_dead_job_its_earlier_attempts_and_an_unreachable_store_are_marked() {
        let failure = |attempt| JobFailure {
            attempt,
            at: NOW - 5_000,
            began_at: None,
            kind: FailureKind::Failed,
            message: "connection refused".to_owned(),
            location: None,
            backtrace: None,
        };
        let failures = (6..=30).map(failure).collect();
        let dead = JobInfo { state: JobState::Dead, attempt: 30, failures, ..job(1, None) };
        let (jobs, outage) = (vec![dead, job(2, None)], Some("The store does not answer.".to_owned()));
        let tree = Sources { jobs, outage, now: NOW, ..Sources::default() }.tree(None);
        let shown = |node: &Node| (node.state, node.is_bad, node.earlier);
        let nodes: Vec<_> = tree.roots[0].children.iter().map(shown).collect();
        assert_eq!(nodes, [("dead", true, 5), ("done", false, 0)]);
        assert_eq!((tree.outage.as_deref(), tree.has_ended), (Some("The store does not answer."), false));
    }
}
