//! Sends the failures of a site to a server with Sentry's interface (Sentry, GlitchTip, Bugsink):
//! `SENTRY_DSN=https://KEY@errors.example/1 cargo run --example sentry`, then http://127.0.0.1:8000/orders/x
//!
//! The event and its envelope follow <https://develop.sentry.dev/sdk/foundations/transport/envelopes/>.

use std::time::{Duration, UNIX_EPOCH};

use aside::failures::{FailureReport, StackFrame};
use aside::{App, Error, Request, Result, background};
use serde_json::{Value, json};

/// The time limit for one event.
const LIMIT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    let dsn = std::env::var("SENTRY_DSN").map_err(|error| Error::from(error).context("SENTRY_DSN is not set"))?;
    app(App::new(), Sentry::new(&dsn)?).run()
}

/// Returns a site with two faults.
pub fn app(app: App, sentry: Sentry) -> App {
    app.on_failure(move |report: &FailureReport| sentry.send(report)).get("/orders/{id}", order)
}

fn order(req: &mut Request) -> Result<String> {
    let id: u64 = req.param::<String>("id")?.parse()?; // 500 for `x`: `req.param::<u64>("id")` would be a 404
    background(move || {
        if id == 0 {
            panic!("there is no order 0")
        }
    });
    Ok(format!("Order {id}"))
}

/// A project of a server with Sentry's interface.
pub struct Sentry {
    dsn: String,
    url: String,
    key: String,
    agent: ureq::Agent,
}

impl Sentry {
    /// Parses a DSN: `https://KEY@HOST/PROJECT`.
    pub fn new(dsn: &str) -> Result<Sentry> {
        let parts = || {
            let (scheme, rest) = dsn.split_once("://")?;
            let (key, rest) = rest.split_once('@')?;
            // An old DSN has a secret after the key, which is not needed.
            let key = key.split(':').next()?;
            let (host, project) = rest.rsplit_once('/')?;
            Some((format!("{scheme}://{host}/api/{project}/envelope/"), key.to_owned()))
        };
        let (url, key) = parts().ok_or_else(|| Error::internal("SENTRY_DSN is not `https://KEY@HOST/PROJECT`"))?;
        let agent = ureq::Agent::config_builder().timeout_global(Some(LIMIT)).build().into();
        Ok(Sentry { dsn: dsn.to_owned(), url, key, agent })
    }

    /// Sends a report. It blocks the thread of the hooks and no page; an error is logged.
    fn send(&self, report: &FailureReport) -> Result<()> {
        let auth = format!("Sentry sentry_version=7, sentry_client=aside-example/1.0, sentry_key={}", self.key);
        let request = self.agent.post(&self.url).content_type("application/x-sentry-envelope");
        request
            .header("X-Sentry-Auth", auth)
            .send(self.envelope(report))
            .map_err(|error| Error::from(error).context("cannot send the event to Sentry"))?;
        Ok(())
    }

    /// Returns the envelope: three lines of JSON, of which the second describes the third.
    fn envelope(&self, report: &FailureReport) -> String {
        let event = event(report);
        let payload = event.to_string();
        let head = json!({ "event_id": event["event_id"], "dsn": self.dsn });
        let item = json!({ "type": "event", "content_type": "application/json", "length": payload.len() });
        format!("{head}\n{item}\n{payload}\n")
    }
}

/// Returns the event of a report.
fn event(report: &FailureReport) -> Value {
    let mut event = json!({
        "event_id": event_id(),
        "timestamp": report.time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        "platform": "other",
        "level": if report.is_retried() { "warning" } else { "error" },
        "logger": "aside",
        "transaction": report.name,
        "exception": { "values": exceptions(report) },
        "tags": tags(report),
        "extra": { "elapsed_ms": report.elapsed.as_millis() as u64, "suppressed": report.suppressed },
        "contexts": { "trace": { "trace_id": report.trace.to_string(), "span_id": &report.trace.to_string()[..16] } },
    });
    if let Some(request) = &report.request {
        event["request"] = json!({ "method": request.method, "url": request.path });
    }
    event
}

/// Returns the causes and the failure itself: Sentry expects the innermost first.
fn exceptions(report: &FailureReport) -> Vec<Value> {
    let kind = if report.is_panic { "panic".to_owned() } else { format!("{} failed", report.kind) };
    let mut failure = json!({ "type": kind, "value": report.message });
    let frames = frames(report);
    if !frames.is_empty() {
        failure["stacktrace"] = json!({ "frames": frames });
    }
    let causes = report.causes.iter().rev().map(|cause| json!({ "type": "cause", "value": cause }));
    causes.chain([failure]).collect()
}

/// Returns the calls of the backtrace, or else the location of the failure. Sentry expects the outermost call first.
fn frames(report: &FailureReport) -> Vec<Value> {
    let frame = |frame: StackFrame| json!({ "function": frame.function, "filename": frame.file, "lineno": frame.line, "in_app": frame.is_own });
    let frames: Vec<Value> = report.frames().into_iter().rev().map(frame).collect();
    let location = report.location.as_deref().and_then(|location| location.rsplit_once(':'));
    let only =
        location.map(|(file, line)| json!({ "filename": file, "lineno": line.parse::<u32>().ok(), "in_app": true }));
    if frames.is_empty() { only.into_iter().collect() } else { frames }
}

/// Returns the values by which Sentry searches.
fn tags(report: &FailureReport) -> Value {
    let mut tags = json!({ "kind": report.kind.to_string() });
    let mut add = |name: &str, value: Option<String>| {
        value.into_iter().for_each(|value| tags[name] = value.into());
    };
    add("status", report.status.map(|status| status.to_string()));
    add("request_id", report.request.as_ref().map(|request| request.id.clone()));
    add("task", report.task.map(|task| task.to_string()));
    add("job", report.job.map(|job| job.to_string()));
    add("attempt", report.attempt.map(|attempt| attempt.to_string()));
    tags
}

/// Returns a random UUID without dashes.
fn event_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
