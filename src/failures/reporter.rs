//! The reporter: observes the failures of an application, and passes reports of them to its hooks on a thread of its own.
//!
//! The thread that failed only makes the report, if the rate allows one. Reports wait in a queue. The thread that delivers
//! them is started for the first one, and ends when none is left.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::Location;
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Instant;

#[cfg(all(unix, feature = "isolate"))]
use super::forwarded::ForwardedReport;
use super::rate::{Dropped, ReportRate};
use super::report::{FailureReport, kind_of};
use crate::background::failure::{Failure, Outcome};
use crate::background::lineage::{Lineage, Parent};
use crate::background::observer::{AttemptEnded, Observer, RequestEnd};
use crate::background::scope::{Context, Scope, WeakScope};
use crate::error::location;
use crate::log_text::{escape, numbered};
use crate::panics;
use crate::sync::{lock, spawn, wait_while_for};

/// The number of reports that wait for the hooks.
const MOST_QUEUED: usize = 100;

/// The function of a hook.
type Call = Box<dyn Fn(&FailureReport) -> Outcome<()> + Send + Sync>;

/// A hook of the application.
pub(crate) struct FailureHook {
    pub(crate) call: Call,
    pub(crate) location: &'static Location<'static>,
}

/// A part of the framework that learns of each report at once, on the thread that failed. It does not block.
pub(crate) trait Listener: Send + Sync {
    fn failed(&self, report: &FailureReport, scope: &Scope);

    /// Handles the reports that it has kept, since the process stops.
    fn finish(&self, scope: &Scope);
}

/// Passes the bytes of a report to the parent process.
#[cfg(all(unix, feature = "isolate"))]
type Forward = Box<dyn Fn(&[u8]) + Send + Sync>;

/// The name and the location of a route.
pub(crate) struct RouteName {
    pub(crate) name: String,
    pub(crate) location: Option<String>,
}

/// The reporter of an application.
#[derive(Clone)]
pub(crate) struct Reporter(Arc<Shared>);

struct Shared {
    hooks: Vec<FailureHook>,
    listeners: Vec<Box<dyn Listener>>,
    routes: Vec<RouteName>,
    scope: OnceLock<WeakScope>,
    /// Set in a child process.
    #[cfg(all(unix, feature = "isolate"))]
    forward: OnceLock<Forward>,
    rate: Mutex<ReportRate>,
    state: Mutex<State>,
    /// Notified when the thread has delivered all reports.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Box<FailureReport>>,
    has_thread: bool,
    suppressed: u64,
}

impl Reporter {
    /// Creates a reporter. `others` counts the failures without a report that equal no reported one.
    pub(crate) fn new(
        hooks: Vec<FailureHook>,
        listeners: Vec<Box<dyn Listener>>,
        routes: Vec<RouteName>,
        others: Arc<Dropped>,
    ) -> Reporter {
        Reporter(Arc::new(Shared {
            hooks,
            listeners,
            routes,
            scope: OnceLock::new(),
            #[cfg(all(unix, feature = "isolate"))]
            forward: OnceLock::new(),
            rate: Mutex::new(ReportRate::new(others)),
            state: Mutex::default(),
            idle: Condvar::new(),
        }))
    }

    /// Sets the application whose failures are reported.
    pub(crate) fn belong_to(&self, scope: &Scope) {
        let _ = self.0.scope.set(scope.downgrade());
    }

    /// Passes all failures to a function: in a child process, whose parent reports them.
    #[cfg(all(unix, feature = "isolate"))]
    pub(crate) fn forward_to(&self, forward: impl Fn(&[u8]) + Send + Sync + 'static) {
        let _ = self.0.forward.set(Box::new(forward));
    }

    /// Reports a failure that a child process has passed on. The task with the number `task` has called it.
    #[cfg(all(unix, feature = "isolate"))]
    pub(crate) fn report_forwarded(&self, bytes: &[u8], task: u64) {
        match serde_json::from_slice::<ForwardedReport>(bytes) {
            Ok(forwarded) => self.report(forwarded.key, |dropped| forwarded.report(task, dropped)),
            Err(error) => {
                log::warn!(target: "aside::failures", "A child process sent an invalid failure report: {error}")
            }
        }
    }

    /// Passes a failure to the parent, in a child process. Returns false in any other process.
    #[cfg(all(unix, feature = "isolate"))]
    fn is_forwarded(&self, key: u64, report: &FailureReport) -> bool {
        let Some(forward) = self.0.forward.get() else { return false };
        if let Ok(bytes) = serde_json::to_vec(&ForwardedReport::new(key, report)) {
            forward(&bytes);
        }
        true
    }

    #[cfg(not(all(unix, feature = "isolate")))]
    fn is_forwarded(&self, _key: u64, _report: &FailureReport) -> bool {
        false
    }

    /// Waits until the hooks have received all reports, at most until the time `until`. Returns the number of reports that
    /// they have not received.
    pub(crate) fn wait_until_idle(&self, until: Instant) -> usize {
        let wait = until.saturating_duration_since(Instant::now());
        let state = wait_while_for(&self.0.idle, lock(&self.0.state), wait, |state| state.has_thread);
        state.queue.len() + usize::from(state.has_thread)
    }

    /// Delivers what waits, before the process stops. The tasks that the hooks start may still run then.
    pub(crate) fn finish(&self, until: Instant) {
        if let Some(scope) = self.scope() {
            self.0.listeners.iter().for_each(|listener| listener.finish(&scope));
        }
        let left = self.wait_until_idle(until);
        if left > 0 {
            let reports = numbered(left, "failure report", "failure reports");
            log::warn!(target: "aside::failures", "Stopped waiting for the hooks of App::on_failure: {reports} not handled.");
        }
    }

    fn scope(&self) -> Option<Scope> {
        self.0.scope.get()?.upgrade()
    }

    /// Reports a failure, unless too many were reported in this minute. `key` is the same for equal failures.
    fn report(&self, key: u64, make: impl FnOnce(Arc<Dropped>) -> FailureReport) {
        let admitted = lock(&self.0.rate).admit(key, Instant::now());
        let Some(dropped) = admitted else {
            lock(&self.0.state).suppressed += 1;
            return;
        };
        let report = make(dropped);
        if self.is_forwarded(key, &report) {
            return;
        }
        if let Some(scope) = self.scope() {
            self.0.listeners.iter().for_each(|listener| {
                let _ = panics::catch(|| listener.failed(&report, &scope));
            });
        }
        if !self.0.hooks.is_empty() {
            self.enqueue(report);
        }
    }

    /// Adds a report to the queue, and starts the thread if there is none.
    fn enqueue(&self, report: FailureReport) {
        let mut state = lock(&self.0.state);
        if state.queue.len() >= MOST_QUEUED {
            state.suppressed += 1;
            return;
        }
        state.queue.push_back(Box::new(report));
        if std::mem::replace(&mut state.has_thread, true) {
            return;
        }
        drop(state);
        let reporter = self.clone();
        if spawn("aside-failures", move || reporter.deliver_all()).is_err() {
            // The next report starts a thread again.
            lock(&self.0.state).has_thread = false;
        }
    }

    fn deliver_all(&self) {
        while let Some(report) = self.next() {
            // The logger is application code and may panic.
            let _ = panics::catch(|| self.deliver(&report));
        }
    }

    /// Returns the next report. Without one the thread ends.
    fn next(&self) -> Option<Box<FailureReport>> {
        let mut state = lock(&self.0.state);
        match state.queue.pop_front() {
            Some(mut report) => {
                report.suppressed = std::mem::take(&mut state.suppressed);
                Some(report)
            }
            None => {
                state.has_thread = false;
                self.0.idle.notify_all();
                None
            }
        }
    }

    /// Calls the hooks. What they start belongs to the request and the trace of the failed work, and is not reported.
    fn deliver(&self, report: &FailureReport) {
        let Some(scope) = self.scope() else { return };
        let (request, trace) = (report.request.clone(), Some(report.trace));
        let lineage = Lineage { request, trace, parent: Some(Parent::FailureHook) };
        let _entered = Context { lineage, ..Context::of(scope) }.enter();
        for hook in &self.0.hooks {
            let outcome = panics::catch(|| (hook.call)(report)).unwrap_or_else(|panic| Err(Failure::Panic(panic)));
            if let Err(failure) = outcome {
                log_hook_failure(hook, &failure);
            }
        }
    }
}

impl Observer for Reporter {
    fn request_ended(&self, end: &RequestEnd<'_>) {
        let Some(error) = end.error else { return };
        let failure = error.source().and_then(|source| source.downcast_ref::<Failure>());
        let key = key(|hasher| {
            (0, end.route, end.status).hash(hasher);
            error.location().hash(hasher);
            failure.into_iter().for_each(|failure| hash_cause(failure, hasher));
        });
        let route = self.0.routes.get(end.route);
        self.report(key, |dropped| {
            let name = route.map_or("paths without a route", |route| &route.name).to_owned();
            FailureReport::of_request(end, error, name, route.and_then(|route| route.location.clone()), dropped)
        });
    }

    fn attempt_ended(&self, ended: &AttemptEnded<'_>) {
        let Some(failure) = ended.failure.filter(|failure| !matches!(failure, Failure::Cancelled)) else { return };
        let record = ended.record;
        if record.is_of_failure_hook() {
            return;
        }
        let key = key(|hasher| {
            (1, kind_of(record, ended.next), std::mem::discriminant(failure)).hash(hasher);
            // Names such as `import 17` are equal.
            let name = record.kind.as_deref().unwrap_or(&record.name);
            name.bytes().filter(|byte| !byte.is_ascii_digit()).for_each(|byte| byte.hash(hasher));
            hash_cause(failure, hasher);
        });
        self.report(key, |dropped| FailureReport::of_attempt(ended, failure, dropped));
    }
}

/// Returns the key of equal failures. It is computed for every failure, so nothing is formatted for it.
fn key(write: impl FnOnce(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    write(&mut hasher);
    hasher.finish()
}

fn hash_cause(failure: &Failure, hasher: &mut DefaultHasher) {
    match failure {
        Failure::Error(error) => error.location().hash(hasher),
        Failure::Panic(panic) => panic.location.hash(hasher),
        _ => {}
    }
}

fn log_hook_failure(hook: &FailureHook, failure: &Failure) {
    let at = location::own(hook.location).map(|at| format!(" at {}", location::text(at))).unwrap_or_default();
    let own = failure.location().map(|at| format!(", at {at}")).unwrap_or_default();
    let line = format!("The hook of App::on_failure{at} {}{own}", failure.verdict());
    log::error!(target: "aside::failures", "{}", escape(&line));
}
