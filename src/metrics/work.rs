//! Counters of tasks and job attempts, by name and outcome, and the histograms of their durations.
//!
//! A name may contain what a client has sent. So at most [`MOST_NAMES`] tasks and as many jobs have series of their own, those
//! that ended first, and the others share the name `other`. A job has the name of its type.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::text::Text;
use crate::background::failure::Failure;
use crate::background::observer::{AttemptEnded, Next};
use crate::sync::lock;

/// The number of names with series of their own.
pub(super) const MOST_NAMES: usize = 200;

/// The name of all others.
const OTHER: &str = "other";

/// The kinds of the tasks and jobs that send mails and webhooks.
const MAIL: &str = "mail";
const WEBHOOK: &str = "webhook";

/// The upper bounds of the buckets, in milliseconds and as labels in seconds.
const BOUNDS: [(u64, &str); 6] =
    [(10, "0.01"), (100, "0.1"), (1_000, "1"), (10_000, "10"), (60_000, "60"), (600_000, "600")];

/// The outcomes of a task, of an attempt of a job, and of a mail or webhook, by their label.
const OF_TASKS: [&str; 6] = ["done", "failed", "panicked", "timed_out", "cancelled", "abandoned"];
const OF_JOBS: [&str; 6] = ["done", "retried", "dead", "failed", "cancelled", "abandoned"];
const OF_DELIVERIES: [&str; 4] = ["sent", "retried", "failed", "cancelled"];

/// The counters of the work of an application.
#[derive(Default)]
pub(super) struct WorkMetrics {
    tasks: Names<{ OF_TASKS.len() }>,
    jobs: Names<{ OF_JOBS.len() }>,
    mails: [AtomicU64; OF_DELIVERIES.len()],
    webhooks: [AtomicU64; OF_DELIVERIES.len()],
    failed_attempts: AtomicU64,
    resolved_jobs: AtomicU64,
}

impl WorkMetrics {
    /// Counts an attempt that has ended.
    pub(super) fn count(&self, ended: &AttemptEnded<'_>) {
        let AttemptEnded { record, failure, next } = *ended;
        let name = record.kind.as_deref().unwrap_or(&record.name);
        let duration = record.began_at().map(|_| record.elapsed());
        match record.job {
            Some(_) => self.jobs.count(name, Some(job_outcome(failure, next)), duration),
            None if matches!(next, Next::Retry(_)) => self.tasks.count(name, None, None),
            None => self.tasks.count(name, Some(task_outcome(failure)), duration),
        }
        match record.kind.as_deref() {
            Some(MAIL) => add(&self.mails[delivery_outcome(failure, next)]),
            Some(WEBHOOK) => add(&self.webhooks[delivery_outcome(failure, next)]),
            _ => {}
        }
        if failure.is_some_and(|failure| !matches!(failure, Failure::Cancelled)) {
            add(&self.failed_attempts);
        }
        let is_abandoned = matches!(failure, Some(Failure::Abandoned));
        if record.job.is_some() && !is_abandoned && !matches!(next, Next::Retry(_)) {
            add(&self.resolved_jobs);
        }
    }

    /// Returns the number of failed attempts of tasks and jobs.
    pub(super) fn failed_attempts(&self) -> u64 {
        self.failed_attempts.load(Ordering::Relaxed)
    }

    /// Returns the number of jobs that were resolved.
    pub(super) fn resolved_jobs(&self) -> u64 {
        self.resolved_jobs.load(Ordering::Relaxed)
    }

    pub(super) fn write(&self, text: &mut Text) {
        let (tasks, jobs) = (self.tasks.read(), self.jobs.read());
        let name = "aside_tasks_total";
        text.family(name, "counter", "Ended background tasks by name and outcome, without attempts of jobs.");
        tasks.iter().for_each(|task| task.write_outcomes(name, &OF_TASKS, text));
        let name = "aside_task_retries_total";
        text.family(name, "counter", "Failed attempts of background tasks after which another one follows.");
        for task in tasks.iter().filter(|task| task.retries > 0) {
            text.sample(name, &[("name", &task.name)], task.retries);
        }
        let name = "aside_task_duration_seconds";
        text.family(name, "histogram", "Time from the first attempt of a background task to its end.");
        tasks.iter().for_each(|task| task.write_durations(name, text));
        let name = "aside_job_attempts_total";
        text.family(name, "counter", "Ended attempts of jobs in this process by name and outcome.");
        jobs.iter().for_each(|job| job.write_outcomes(name, &OF_JOBS, text));
        let name = "aside_job_attempt_duration_seconds";
        text.family(name, "histogram", "Duration of the attempts of jobs in this process.");
        jobs.iter().for_each(|job| job.write_durations(name, text));
        write_deliveries("aside_mails_total", "Attempts to send a mail by outcome.", &self.mails, text);
        write_deliveries("aside_webhooks_total", "Attempts to send a webhook by outcome.", &self.webhooks, text);
    }
}

fn write_deliveries(name: &str, help: &str, counters: &[AtomicU64], text: &mut Text) {
    text.family(name, "counter", help);
    for (outcome, counter) in OF_DELIVERIES.into_iter().zip(counters) {
        text.sample(name, &[("outcome", outcome)], counter.load(Ordering::Relaxed));
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Returns the position of an outcome in [`OF_TASKS`].
fn task_outcome(failure: Option<&Failure>) -> usize {
    match failure {
        None => 0,
        Some(Failure::Error(_)) => 1,
        Some(Failure::Panic(_)) => 2,
        Some(Failure::TimedOut) => 3,
        Some(Failure::Cancelled) => 4,
        Some(Failure::Abandoned) => 5,
    }
}

/// Returns the position of an outcome in [`OF_JOBS`].
fn job_outcome(failure: Option<&Failure>, next: Next) -> usize {
    match (failure, next) {
        (_, Next::Retry(_)) => 1,
        (_, Next::Dead { .. }) => 2,
        (None, Next::End) => 0,
        // The job was cancelled, was completed by its own transaction, or was given to another worker.
        (Some(Failure::Error(_) | Failure::Panic(_)), Next::End) => 3,
        (Some(Failure::Cancelled | Failure::TimedOut), Next::End) => 4,
        (Some(Failure::Abandoned), Next::End) => 5,
    }
}

/// Returns the position of an outcome in [`OF_DELIVERIES`].
fn delivery_outcome(failure: Option<&Failure>, next: Next) -> usize {
    match (failure, next) {
        (_, Next::Retry(_)) => 1,
        (None, _) => 0,
        (Some(Failure::Cancelled), _) => 3,
        (Some(_), _) => 2,
    }
}

/// The counters of each name, with `N` outcomes. Its lock is held for a few additions, at the end of a task.
#[derive(Default)]
struct Names<const N: usize>(Mutex<HashMap<String, Counters<N>>>);

#[derive(Clone)]
struct Counters<const N: usize> {
    name: String,
    outcomes: [u64; N],
    retries: u64,
    buckets: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl<const N: usize> Names<N> {
    /// Counts the end of a task or an attempt with its duration, if it has begun, or a retry.
    fn count(&self, name: &str, outcome: Option<usize>, duration: Option<Duration>) {
        let mut names = lock(&self.0);
        let name = if names.contains_key(name) || names.len() < MOST_NAMES { name } else { OTHER };
        let counters = match names.entry(name.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Counters::new(name)),
        };
        match outcome {
            Some(outcome) => counters.outcomes[outcome] += 1,
            None => counters.retries += 1,
        }
        if let Some(duration) = duration {
            let ms = duration.as_micros().div_ceil(1_000) as u64;
            counters.buckets[BOUNDS.iter().take_while(|(bound, _)| ms > *bound).count()] += 1;
            counters.sum += duration;
        }
    }

    /// Returns a copy, sorted by name.
    fn read(&self) -> Vec<Counters<N>> {
        let mut names: Vec<_> = lock(&self.0).values().cloned().collect();
        names.sort_by(|one, other| one.name.cmp(&other.name));
        names
    }
}

impl<const N: usize> Counters<N> {
    fn new(name: &str) -> Counters<N> {
        let (retries, buckets, sum) = Default::default();
        Counters { name: name.to_owned(), outcomes: [0; N], retries, buckets, sum }
    }

    fn write_outcomes(&self, family: &str, labels: &[&str], text: &mut Text) {
        for (outcome, count) in labels.iter().zip(self.outcomes).filter(|(_, count)| *count > 0) {
            text.sample(family, &[("name", &self.name), ("outcome", outcome)], count);
        }
    }

    fn write_durations(&self, family: &str, text: &mut Text) {
        if self.buckets.iter().any(|count| *count > 0) {
            let bounds = BOUNDS.map(|(_, label)| label);
            text.histogram(family, &[("name", &self.name)], &bounds, &self.buckets, self.sum.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::background::lineage::Lineage;
    use crate::background::record::{Identity, Record};
    use crate::background::registry::Registry;
    use crate::background::retry::ScheduledRetry;
    use crate::config::Config;
    use crate::error::Error;
    use crate::panics::Panic;

    fn failures() -> [Option<Failure>; 6] {
        let panic = Panic { message: "boom".to_owned(), location: None, trace: None };
        let error = Failure::Error(Error::internal("no credit"));
        let others = [Failure::Panic(panic), Failure::TimedOut, Failure::Cancelled, Failure::Abandoned];
        let [panic, timed_out, cancelled, abandoned] = others.map(Some);
        [None, Some(error), panic, timed_out, cancelled, abandoned]
    }

    fn retry() -> Next {
        Next::Retry(ScheduledRetry { attempt: 1, attempts: 3, wait: Duration::ZERO })
    }

    fn record(identity: Identity) -> Arc<Record> {
        let record = Registry::new(&Config::default()).enter(identity, Lineage::default());
        record.begin();
        record
    }

    fn text(work: &WorkMetrics) -> String {
        let mut text = Text::default();
        work.write(&mut text);
        text.into_string()
    }

    fn assert_lines(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|has| has == *line), "{line}\n{text}");
        }
    }

    #[test]
    fn each_outcome_of_a_task_has_a_series() {
        let work = WorkMetrics::default();
        let record = record(Identity::test("import"));
        for failure in failures() {
            work.count(&AttemptEnded { record: &record, failure: failure.as_ref(), next: Next::End });
        }
        let failure = failures()[1].take();
        work.count(&AttemptEnded { record: &record, failure: failure.as_ref(), next: retry() });
        let text = text(&work);
        for outcome in OF_TASKS {
            assert_lines(&text, &[&format!(r#"aside_tasks_total{{name="import",outcome="{outcome}"}} 1"#)]);
        }
        assert_lines(
            &text,
            &[
                r#"aside_task_retries_total{name="import"} 1"#,
                r#"aside_task_duration_seconds_count{name="import"} 6"#,
                r#"aside_task_duration_seconds_bucket{name="import",le="+Inf"} 6"#,
            ],
        );
        assert_eq!((work.failed_attempts(), work.resolved_jobs()), (5, 0));
    }

    #[test]
    fn each_outcome_of_an_attempt_of_a_job_has_a_series_under_the_type_of_the_job() {
        let work = WorkMetrics::default();
        let identity =
            |id| Identity { kind: Some("charge".into()), job: Some(id), ..Identity::test(&format!("(job {id})")) };
        for (id, failure) in (1..).zip(failures()) {
            let next = if matches!(failure, Some(Failure::Error(_))) { retry() } else { Next::End };
            let next = if matches!(failure, Some(Failure::TimedOut)) { Next::Dead { attempts: 3 } } else { next };
            work.count(&AttemptEnded { record: &record(identity(id)), failure: failure.as_ref(), next });
        }
        let text = text(&work);
        for outcome in OF_JOBS {
            assert_lines(&text, &[&format!(r#"aside_job_attempts_total{{name="charge",outcome="{outcome}"}} 1"#)]);
        }
        assert!(!text.contains("(job "), "{text}");
        assert_eq!((work.failed_attempts(), work.resolved_jobs()), (4, 4));
    }

    #[test]
    fn mails_and_webhooks_are_counted_by_outcome() {
        let work = WorkMetrics::default();
        let mail = record(Identity { kind: Some(MAIL.into()), ..Identity::test("mail 5f2a to shop.example") });
        let webhook = record(Identity { kind: Some(WEBHOOK.into()), job: Some(1), ..Identity::test("webhook") });
        let [_, failure, ..] = failures();
        work.count(&AttemptEnded { record: &mail, failure: failure.as_ref(), next: retry() });
        work.count(&AttemptEnded { record: &mail, failure: None, next: Next::End });
        work.count(&AttemptEnded { record: &webhook, failure: failure.as_ref(), next: Next::Dead { attempts: 3 } });
        let lines = [
            r#"aside_mails_total{outcome="sent"} 1"#,
            r#"aside_mails_total{outcome="retried"} 1"#,
            r#"aside_mails_total{outcome="failed"} 0"#,
            r#"aside_webhooks_total{outcome="failed"} 1"#,
            r#"aside_tasks_total{name="mail",outcome="done"} 1"#,
        ];
        assert_lines(&text(&work), &lines);
    }

    /// A client may influence the name of a task.
    #[test]
    fn ten_thousand_names_make_a_bounded_number_of_series() {
        let work = WorkMetrics::default();
        for number in 0..10_000 {
            let record = record(Identity::test(&format!("import \"{number}\"\n")));
            work.count(&AttemptEnded { record: &record, failure: None, next: Next::End });
        }
        let text = text(&work);
        let of_tasks: Vec<&str> = text.lines().filter(|line| line.starts_with("aside_tasks_total{")).collect();
        assert_eq!(of_tasks.len(), MOST_NAMES + 1);
        let others = format!(r#"aside_tasks_total{{name="other",outcome="done"}} {}"#, 10_000 - MOST_NAMES);
        assert_lines(&text, &[&others, r#"aside_tasks_total{name="import \"7\"\n",outcome="done"} 1"#]);
        assert!(text.len() < 300_000, "{} bytes", text.len());
    }

    #[test]
    fn a_task_that_never_began_has_no_duration() {
        let work = WorkMetrics::default();
        let record = Registry::new(&Config::default()).enter(Identity::test("late"), Lineage::default());
        work.count(&AttemptEnded { record: &record, failure: Some(&Failure::Abandoned), next: Next::End });
        let text = text(&work);
        assert_lines(&text, &[r#"aside_tasks_total{name="late",outcome="abandoned"} 1"#]);
        assert!(!text.contains("aside_task_duration_seconds_count"), "{text}");
    }
}
