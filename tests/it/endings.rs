//! A thousand tasks and jobs with every ending: the log, the counts, the metrics and the panel each tell all endings apart, and
//! each sums to a thousand.

use std::collections::BTreeMap;
use std::time::Duration;

use aside::tasks::{Cancelled, Retry};
use aside::testing::TestClient;
use aside::{App, Config, Error, Job, Jobs, Request, Result, Task, TaskContext, ok};
use log::Level;
use serde::{Deserialize, Serialize};

use crate::{logs, metrics};

/// The number of tasks with each ending. No two numbers are equal, so that a mix-up shows.
const TASKS: [(Ending, u64); 6] = [
    (Ending::Done, 91),
    (Ending::Retried, 35),
    (Ending::Failed, 92),
    (Ending::Panicked, 93),
    (Ending::Cancelled, 94),
    (Ending::TimedOut, 95),
];

/// The number of jobs with each ending.
const JOBS: [(Ending, u64); 6] = [
    (Ending::Done, 89),
    (Ending::Retried, 38),
    (Ending::Failed, 96),
    (Ending::Panicked, 97),
    (Ending::Cancelled, 82),
    (Ending::TimedOut, 98),
];

/// The end of a task or job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ending {
    Done,
    /// The first attempt fails, and the second one is successful.
    Retried,
    Failed,
    Panicked,
    Cancelled,
    TimedOut,
}

impl Ending {
    fn parse(text: &str) -> Result<Ending> {
        Ok(serde_json::from_value(text.into())?)
    }

    fn name(self) -> String {
        let name = serde_json::to_value(self).unwrap();
        name.as_str().unwrap().to_owned()
    }
}

/// The lines of this file that log lines name: of the error, of the panic, and of the call that starts the tasks.
const LINE_OF_ERROR: u32 = line!() + 7;
const LINE_OF_PANIC: u32 = LINE_OF_ERROR + 1;

fn meet(ending: Ending, task: &TaskContext) -> Result<()> {
    match ending {
        Ending::Done => ok(()),
        Ending::Retried if task.attempt() > 1 => ok(()),
        Ending::Retried | Ending::Failed => Err(Error::internal("the-ending-failed")),
        Ending::Panicked => panic!("the-ending-panicked"),
        Ending::Cancelled => Ok(Err(Cancelled)?),
        Ending::TimedOut => Ok(task.sleep(Duration::from_secs(600))?),
    }
}

/// A job with one attempt, with two, or with a deadline that has passed before it looks.
#[derive(Serialize, Deserialize)]
struct Meet<const KIND: u8>(Ending);

const ONCE: u8 = 0;
const TWICE: u8 = 1;
const LATE: u8 = 2;

impl<const KIND: u8> Job for Meet<KIND> {
    const NAME: &'static str = ["ending-once", "ending-twice", "ending-late"][KIND as usize];
    const DEADLINE: Option<Duration> = if KIND == LATE { Some(Duration::from_millis(1)) } else { None };

    fn retry() -> Retry {
        Retry::exponential(if KIND == TWICE { 2 } else { 1 }, Duration::from_secs(60))
    }

    fn label(&self) -> String {
        format!("ending-of-job-{}", self.0.name())
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        meet(self.0, task)
    }
}

/// The line of `spawn` below, for a task that times out.
const LINE_OF_DEADLINE: u32 = line!() + 6;

fn start_task(req: &mut Request) -> Result<&'static str> {
    let ending = Ending::parse(&req.param::<String>("ending")?)?;
    let task = Task::named(format!("ending-of-task-{}", ending.name()));
    match ending {
        Ending::TimedOut => drop(task.deadline(Duration::from_millis(1)).spawn(move |task| meet(ending, task))),
        Ending::Retried => {
            let retry = Retry::exponential(2, Duration::from_millis(1));
            drop(task.retry(retry).spawn(move |task| meet(ending, task)));
        }
        _ => drop(task.spawn(move |task| meet(ending, task))),
    }
    Ok("started")
}

fn enqueue_job(req: &mut Request) -> Result<&'static str> {
    let ending = Ending::parse(&req.param::<String>("ending")?)?;
    match ending {
        Ending::TimedOut => req.enqueue(Meet::<LATE>(ending))?,
        Ending::Retried => req.enqueue(Meet::<TWICE>(ending))?,
        _ => req.enqueue(Meet::<ONCE>(ending))?,
    };
    Ok("enqueued")
}

/// Returns a site on which all thousand have ended.
fn site() -> TestClient {
    let jobs = Jobs::memory().register::<Meet<ONCE>>().register::<Meet<TWICE>>().register::<Meet<LATE>>();
    let app = App::with_config(Config::default())
        .jobs(jobs)
        .panel(|_| true)
        .post("/tasks/{ending}", start_task)
        .post("/jobs/{ending}", enqueue_job);
    let mut client = TestClient::new(app);
    for (kind, endings) in [("tasks", TASKS), ("jobs", JOBS)] {
        for (ending, count) in endings {
            for _ in 0..count {
                let status = client.post(&format!("/{kind}/{}", ending.name())).send().status_code();
                assert_eq!(status.code(), 200, "{ending:?}");
            }
            // The deadline of a task in a long queue would pass before it begins.
            client.drain();
        }
    }
    client.advance(Duration::from_secs(3_600));
    client.drain();
    client
}

fn sum(endings: &[(Ending, u64)]) -> u64 {
    endings.iter().map(|(_, count)| count).sum()
}

fn count(endings: &[(Ending, u64)], ending: Ending) -> u64 {
    endings.iter().find(|(other, _)| *other == ending).unwrap().1
}

#[test]
fn a_thousand_tasks_and_jobs_are_told_apart_by_their_endings() {
    logs::record();
    assert_eq!(sum(&TASKS) + sum(&JOBS), 1_000);
    let mut client = site();
    the_counts_tell_all_endings_apart(&client);
    the_metrics_tell_all_endings_apart(&mut client);
    the_log_tells_all_endings_apart();
    the_panel_tells_all_endings_apart(&mut client);
    the_panel_has_the_request_and_the_location_of_each_failure(&mut client);
}

/// A retried task is one task. A retried job has two attempts, each of which is a task.
fn the_counts_tell_all_endings_apart(client: &TestClient) {
    let both = |ending| count(&TASKS, ending) + count(&JOBS, ending);
    let counts = client.counts();
    let retries = count(&JOBS, Ending::Retried);
    assert_eq!(counts.ended, 1_000 + retries);
    assert_eq!(counts.done(), both(Ending::Done) + both(Ending::Retried));
    assert_eq!(counts.panicked, both(Ending::Panicked));
    assert_eq!(counts.timed_out, both(Ending::TimedOut));
    assert_eq!(counts.cancelled, both(Ending::Cancelled) + both(Ending::TimedOut));
    assert_eq!(counts.failed, both(Ending::Failed) + both(Ending::Panicked) + retries);
    assert_eq!((counts.unfinished, counts.abandoned), (0, 0));
    let jobs = client.jobs().counts().unwrap();
    assert_eq!(jobs.done, count(&JOBS, Ending::Done) + retries);
    assert_eq!(jobs.panicked, count(&JOBS, Ending::Panicked));
    assert_eq!(jobs.timed_out, count(&JOBS, Ending::TimedOut));
    assert_eq!(jobs.dead, count(&JOBS, Ending::Failed) + jobs.panicked + jobs.timed_out);
    assert_eq!(jobs.cancelled, count(&JOBS, Ending::Cancelled));
    assert_eq!(jobs.done + jobs.dead + jobs.cancelled, sum(&JOBS));
}

fn the_metrics_tell_all_endings_apart(client: &mut TestClient) {
    let text = metrics::scrape(client);
    let tasks = |ending| count(&TASKS, ending) as f64;
    let expected = metrics::sums([
        ("done", tasks(Ending::Done) + tasks(Ending::Retried)),
        ("failed", tasks(Ending::Failed)),
        ("panicked", tasks(Ending::Panicked)),
        ("cancelled", tasks(Ending::Cancelled)),
        ("timed_out", tasks(Ending::TimedOut)),
    ]);
    assert_eq!(metrics::by_outcome(&text, "aside_tasks_total"), expected);
    let retries = metrics::value(&text, r#"aside_task_retries_total{name="ending-of-task-retried"}"#);
    assert_eq!(retries, Some(tasks(Ending::Retried)));
    let jobs = |ending| count(&JOBS, ending) as f64;
    let dead = [("failed", Ending::Failed), ("panicked", Ending::Panicked), ("timed_out", Ending::TimedOut)];
    for (reason, ending) in dead {
        let series = format!(r#"aside_dead_jobs{{reason="{reason}"}}"#);
        assert_eq!(metrics::value(&text, &series), Some(jobs(ending)), "{reason}");
    }
    let expected = metrics::sums([
        ("done", jobs(Ending::Done) + jobs(Ending::Retried)),
        ("retried", jobs(Ending::Retried)),
        ("dead", dead.map(|(_, ending)| jobs(ending)).iter().sum()),
        ("cancelled", jobs(Ending::Cancelled)),
    ]);
    assert_eq!(metrics::by_outcome(&text, "aside_job_attempts_total"), expected);
    let ended: f64 = ["done", "dead", "cancelled"].map(|outcome| expected[outcome]).iter().sum();
    assert_eq!(ended + sum(&TASKS) as f64, 1_000.0);
}

/// Each end has one line, with its request, and with its location if it has failed.
fn the_log_tells_all_endings_apart() {
    let mut total = 0;
    for (kind, endings) in [("task", TASKS), ("job", JOBS)] {
        for (ending, count) in endings {
            let name = format!("ending-of-{kind}-{}", ending.name());
            let (level, end) = end(kind, ending);
            let ends: Vec<String> = logs::at(level, &name).into_iter().filter(|line| line.contains(end)).collect();
            assert_eq!(ends.len() as u64, count, "{name}: {:?}", logs::with(&name).first());
            let request = format!("POST /{kind}s/{} ", ending.name());
            let has_all = |line: &&String| line.contains(&request) && line.contains(&place(kind, ending));
            assert_eq!(ends.iter().filter(has_all).count() as u64, count, "{:?}", ends[0]);
            total += count;
        }
    }
    assert_eq!(total, 1_000);
}

/// Returns the level and a part of the line for an end.
fn end(kind: &str, ending: Ending) -> (Level, &'static str) {
    match ending {
        Ending::Done if kind == "task" => (Level::Debug, " is done "),
        Ending::Done | Ending::Retried => (Level::Info, " is done "),
        Ending::Failed => (Level::Error, " failed: the-ending-failed"),
        Ending::Panicked => (Level::Error, " panicked: the-ending-panicked"),
        Ending::Cancelled => (Level::Info, " was cancelled "),
        Ending::TimedOut => (Level::Error, " timed out"),
    }
}

/// Returns the location that the line has: of the error, of the panic, or of the call that started the task.
fn place(kind: &str, ending: Ending) -> String {
    let file = file!();
    match ending {
        Ending::Failed => format!("at {file}:{LINE_OF_ERROR}"),
        Ending::Panicked => format!("at {file}:{LINE_OF_PANIC}"),
        Ending::TimedOut if kind == "task" => format!("started at {file}:{LINE_OF_DEADLINE}"),
        _ => String::new(),
    }
}

/// Returns the counts of a page by their labels, with all that is beside a number: `193 93 panicked`.
fn shown_counts(page: &str) -> BTreeMap<String, String> {
    let counts = page.split("<div><dt>").skip(1).filter_map(|count| count.split_once("</dt>"));
    let plain = |html: &str| {
        let texts = html.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text));
        texts.collect::<Vec<_>>().join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
    };
    counts.map(|(label, rest)| (plain(label), plain(rest.split("</dd>").next().unwrap()))).collect()
}

fn the_panel_tells_all_endings_apart(client: &mut TestClient) {
    let both = |ending| count(&TASKS, ending) + count(&JOBS, ending);
    let retries = count(&JOBS, Ending::Retried);
    let tasks = shown_counts(client.get("/_aside/tasks").text());
    let (panicked, timed_out) = (both(Ending::Panicked), both(Ending::TimedOut));
    assert_eq!(tasks["Done"], (both(Ending::Done) + both(Ending::Retried)).to_string());
    let failed = both(Ending::Failed) + panicked + retries;
    assert_eq!(tasks["Failed"], format!("{failed} {panicked} panicked"));
    assert_eq!(tasks["Cancelled"], format!("{} {timed_out} timed out", both(Ending::Cancelled) + timed_out));
    let jobs = |ending| count(&JOBS, ending);
    let shown = shown_counts(client.get("/_aside/jobs").text());
    let (panicked, timed_out) = (jobs(Ending::Panicked), jobs(Ending::TimedOut));
    let dead = jobs(Ending::Failed) + panicked + timed_out;
    assert_eq!(shown["Dead"], format!("{dead} dead {timed_out} timed out {panicked} panicked"));
    assert_eq!(shown["Done"], format!("{} done", jobs(Ending::Done) + retries));
    assert_eq!(shown["Cancelled"], format!("{} cancelled", jobs(Ending::Cancelled)));
    let overview = client.get("/_aside").text().to_owned();
    for ending in [Ending::Failed, Ending::Panicked, Ending::TimedOut] {
        assert!(overview.contains(&format!("{} jobs", jobs(ending))), "{ending:?} is a group of its own: {overview}");
    }
}

fn the_panel_has_the_request_and_the_location_of_each_failure(client: &mut TestClient) {
    for ending in [Ending::Failed, Ending::Panicked] {
        let label = format!("ending-of-job-{}", ending.name());
        let jobs = client.jobs();
        let id = (1..).map_while(|id| jobs.find(id).unwrap()).find(|job| job.label == label).unwrap().id;
        let page = client.get(&format!("/_aside/jobs/{id}")).text().to_owned();
        assert!(page.contains(&place("job", ending)[3..]), "{ending:?}: {page}");
        assert!(page.contains(&format!("POST /jobs/{} ", ending.name())), "{ending:?}: {page}");
    }
}
