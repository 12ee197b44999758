//! Faults that concern every engine: signals, jobs that end their process, clock changes.

use std::collections::BTreeSet;

use aside::Jobs;
use aside::jobs::JobState;
use rustix::process::Signal;
use serde_json::Value;

use crate::ledger::{Ledger, Line};
use crate::process::{Child, PATIENCE, until};
use crate::site::{Setup, Site, long_output};

/// A lease that does not expire during a test.
const LONG: u64 = 600;

/// The job store of a test, with its ledger.
pub(crate) struct Environment<'a> {
    pub(crate) setup: Setup,
    pub(crate) ledger: &'a Ledger,
    /// True if a job's effect is written in the transaction that completes it.
    pub(crate) has_effects: bool,
}

impl Environment<'_> {
    /// Starts a site without workers, so that the test does not disturb its responses.
    fn site(&self, lease: u64) -> Site {
        Setup { workers: 0, lease, ..self.setup.clone() }.site()
    }

    fn worker(&self, lease: u64, grace: u64) -> Child {
        Setup { workers: 2, lease, grace, ..self.setup.clone() }.worker()
    }

    /// Waits until that job has started in that process.
    #[track_caller]
    fn wait_for_run(&self, id: &str, process: u32) {
        let is_it = |line: &Line| line.what == "began" && line.process == process;
        until(&format!("{id} begins in process {process}"), || self.ledger.of(id).iter().any(is_it).then_some(()));
    }

    #[track_caller]
    fn has_effects(&self, site: &Site, ids: &[&str]) {
        if self.has_effects {
            assert_eq!(site.effects(), ids);
        }
    }
}

/// A process that is suspended beyond its lease loses its jobs. When it resumes, their outcomes are discarded, even if
/// a job ignores its cancellation and runs to its end.
pub(crate) fn outcomes_of_a_suspended_process_are_discarded(env: &Environment) {
    let lease = 3;
    let (site, mut first) = (env.site(lease), env.worker(lease, 25));
    let job = site.enqueue("stood", "stubborn");
    env.wait_for_run("stood", first.number());
    first.signal(Signal::STOP);
    let mut second = env.worker(lease, 25);
    env.wait_for_run("stood", second.number());
    first.signal(Signal::CONT);
    env.ledger.open(&format!("stood@{}", first.number()));
    first.log.wait_for("was given to another worker; its outcome here is discarded");
    assert_eq!((env.ledger.times("began", "stood"), env.ledger.times("done", "stood")), (2, 1));
    assert_eq!(site.job(job)["state"], "running", "the second still has it");
    env.has_effects(&site, &[]);
    env.ledger.open("stood");
    let record = site.wait_for(job, "done");
    assert_eq!((&record["interruptions"], &record["attempt"]), (&Value::from(1), &Value::from(1)), "{record}");
    second.kill();
    let after = site.enqueue("after", "short");
    site.wait_for(after, "done");
    env.wait_for_run("after", first.number());
    assert!(first.is_alive());
    env.has_effects(&site, &["after", "stood"]);
}

/// Short jobs complete during the shutdown. Long ones are released, and another process starts them at once: no lease
/// must expire, and the release does not count as an attempt.
pub(crate) fn a_graceful_shutdown_completes_short_jobs_and_releases_long_ones(env: &Environment) {
    let (site, mut first) = (env.site(LONG), env.worker(LONG, 3));
    let (short, long) = (site.enqueue("short", "hold"), site.enqueue("long", "hold"));
    env.wait_for_run("short", first.number());
    env.wait_for_run("long", first.number());
    let waiting = site.enqueue("waiting", "hold");
    first.signal(Signal::TERM);
    first.log.wait_for("Stopping on SIGTERM");
    env.ledger.open("short");
    site.wait_for(short, "done");
    let mut second = env.worker(LONG, 25);
    assert!(first.wait().success(), "{}", first.log.whole());
    for (job, id) in [(long, "long"), (waiting, "waiting")] {
        env.wait_for_run(id, second.number());
        env.ledger.open(id);
        let record = site.wait_for(job, "done");
        assert_eq!((&record["attempt"], &record["interruptions"]), (&Value::from(1), &Value::from(0)), "{record}");
        assert_eq!(record["failures"], Value::Array(Vec::new()));
    }
    assert_eq!((env.ledger.times("began", "long"), env.ledger.times("began", "waiting")), (2, 1));
    assert_eq!(env.ledger.times("done", "short"), 1);
    second.kill();
    env.has_effects(&site, &["long", "short", "waiting"]);
}

/// A job that ignores its cancellation is abandoned, logged and still released.
pub(crate) fn a_graceful_shutdown_abandons_a_job_that_ignores_its_cancellation(env: &Environment) {
    let (site, mut first) = (env.site(LONG), env.worker(LONG, 1));
    let job = site.enqueue("stubborn", "stubborn");
    env.wait_for_run("stubborn", first.number());
    first.signal(Signal::TERM);
    first.wait();
    let log = first.log.whole();
    assert!(log.contains(&format!("(job {job})")) && log.contains("was abandoned"), "{log}");
    let second = env.worker(LONG, 25);
    env.wait_for_run("stubborn", second.number());
    env.ledger.open("stubborn");
    let record = site.wait_for(job, "done");
    assert_eq!((&record["attempt"], &record["interruptions"]), (&Value::from(1), &Value::from(0)), "{record}");
    env.has_effects(&site, &["stubborn"]);
}

/// SIGQUIT ends a process at once, and its running jobs are recovered. With SQLite the lease does not matter: a file lock
/// shows that the process has ended.
pub(crate) fn running_jobs_are_recovered_after_sigquit(env: &Environment) {
    let lease = if env.has_effects { LONG } else { 3 };
    let site = env.site(lease);
    let mut first = Setup { workers: 1, lease, ..env.setup.clone() }.worker();
    let job = site.enqueue("quit", "hold");
    env.wait_for_run("quit", first.number());
    first.signal(Signal::QUIT);
    assert!(!first.wait().success());
    let second = env.worker(lease, 25);
    env.wait_for_run("quit", second.number());
    env.ledger.open("quit");
    let record = site.wait_for(job, "done");
    assert_eq!((&record["attempt"], &record["interruptions"]), (&Value::from(1), &Value::from(1)), "{record}");
    env.has_effects(&site, &["quit"]);
}

/// The output of an isolated job is transferred from its process to the worker, and from there to any other process.
pub(crate) fn an_isolated_job_transfers_its_output_and_its_last_progress(env: &Environment) {
    let (site, _worker) = (env.site(LONG), env.worker(LONG, 25));
    let job = site.enqueue("output", "isolated-output");
    let jobs = Jobs::open(&env.setup.jobs).expect("the jobs can be opened here too");
    let followed = jobs.follow(job).expect("the engine answers").expect("the job is there");
    let done = jobs.wait(job, PATIENCE).expect("the job ends");
    assert_eq!(done.state, JobState::Done, "{done:?}");
    assert_eq!((done.done, done.total, done.message.as_str()), (5, 5, "the last part"));
    assert!(done.output::<String>().expect("text").as_deref() == Some(&*long_output()));
    until("who follows sees the end", || followed.is_finished().then_some(()));
    let last = followed.get();
    assert_eq!((last.percent(), last.message.as_str()), (Some(100), "the last part"));
}

/// One of several processes is killed: the others run its jobs, and no other job runs again.
pub(crate) fn jobs_of_a_killed_process_run_in_another_process(env: &Environment) {
    let (lease, site) = (3, env.site(3));
    let alone = Setup { workers: 1, lease, ..env.setup.clone() };
    let mut workers: Vec<Child> = (0..3).map(|_| alone.worker()).collect();
    let jobs: Vec<(u64, String)> =
        (0..6).map(|n| format!("job-{n}")).map(|id| (site.enqueue(&id, "hold"), id)).collect();
    // Each process runs one job at a time.
    let working = || env.ledger.lines().iter().map(|line| line.process).collect::<BTreeSet<_>>();
    until("each process has a job", || (working().len() == 3).then_some(()));
    let lines = env.ledger.lines();
    assert_eq!(lines.iter().map(|line| &line.id).collect::<BTreeSet<_>>().len(), 3, "each job once: {lines:?}");
    let mut killed = workers.remove(1);
    let victim = lines.iter().find(|line| line.process == killed.number()).expect("it has one").id.clone();
    killed.kill();
    jobs.iter().for_each(|(_, id)| env.ledger.open(id));
    for (job, id) in &jobs {
        let record = site.wait_for(*job, "done");
        let (times, interruptions) = if *id == victim { (2, 1) } else { (1, 0) };
        assert_eq!((env.ledger.times("began", id), &record["interruptions"]), (times, &Value::from(interruptions)));
        assert_eq!(env.ledger.times("done", id), 1);
    }
    let ids: Vec<&str> = jobs.iter().map(|(_, id)| &**id).collect();
    env.has_effects(&site, &ids);
}

/// The process is killed in the middle of a request's jobs. After a restart, the page of the request has each of them, with
/// each attempt.
pub(crate) fn the_tree_of_a_request_is_whole_after_a_kill(env: &Environment) {
    let mut site = env.setup.site();
    let (status, body) = site.post("/family?id=f");
    assert_eq!(status, 200, "{body}");
    let (id, trace) = body.split_once(' ').expect("an id and a trace");
    until("the first job is done", || (env.ledger.times("done", "f.short") == 1).then_some(()));
    let run = |times| {
        let began = || ["f", "f.child"].iter().all(|id| env.ledger.times("began", id) == times);
        until("both jobs run", || began().then_some(()));
    };
    run(1);
    site.child.kill();
    let site = env.setup.site();
    run(2);
    ["f", "f.child"].iter().for_each(|id| env.ledger.open(id));
    let page = |id: &str| site.get(&format!("/_aside/requests/{id}"));
    let (_, page) = until("all jobs are done", || {
        let shown = page(trace);
        // A state and an attempt for each job.
        (shown.1.matches(">done</span>").count() == 6).then_some(shown)
    });
    let page = page.replace("&#x2f;", "/");
    let text: String = page.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text).collect();
    assert!(text.contains("POST /family") && text.contains(id), "{page}");
    assert_eq!(page.matches("href=\"/_aside/jobs/").count(), 3, "{page}");
    assert_eq!(page.matches(">interrupted</span>").count(), 2, "{page}");
    assert_eq!(page.matches("<ol>").count(), 1, "the job that a job has enqueued is below it: {page}");
    assert!(!page.contains("no longer stored"), "{page}");
    // The process that has responded is gone, and its short id still leads to the request.
    let (status, found) = site.get(&format!("/_aside/requests/{id}"));
    assert!(status == 200 && found.contains(trace), "{found}");
}

/// A clock that is set back by an hour delays no job by an hour, and no job runs twice.
pub(crate) fn a_clock_set_back_delays_and_repeats_no_job(env: &Environment) {
    let site = env.setup.site();
    let (running, later) = (site.enqueue("running", "hold"), site.enqueue("later", "later-short"));
    env.wait_for_run("running", site.child.number());
    assert_eq!(site.post("/set_clock_back?seconds=3600").0, 200);
    let after = site.enqueue("then", "short");
    env.ledger.open("running");
    for (job, id) in [(running, "running"), (after, "then"), (later, "later")] {
        site.wait_for(job, "done");
        assert_eq!(env.ledger.times("began", id), 1, "{id}");
    }
    env.has_effects(&site, &["later", "running", "then"]);
}

/// Returns the command that starts a program without a core file after a crash.
fn without_core() -> Vec<String> {
    ["sh", "-c", r#"ulimit -c 0; exec "$0""#].map(str::to_owned).to_vec()
}

/// The job is recovered like any other, until it is clear that it ends its process.
pub(crate) fn a_job_that_ends_its_process_repeatedly_is_dead(env: &Environment) {
    let site = Setup { workers: 0, ..env.setup.clone() }.site();
    let setup = Setup { workers: 1, through: without_core(), ..env.setup.clone() };
    let (exit, abort) = (site.enqueue("exit", "exit"), site.enqueue("abort", "abort"));
    let states = || [exit, abort].map(|job| site.job(job)["state"].as_str().expect("a state").to_owned());
    let mut processes = 0;
    while states() != ["dead", "dead"] {
        assert!(processes < 40, "{processes} processes have ended");
        // Repeated interruptions have a growing backoff, which this test skips.
        for job in [exit, abort].into_iter().filter(|job| site.job(*job)["state"] == "scheduled") {
            assert_eq!(site.post(&format!("/retry?number={job}")).0, 200);
        }
        // The process may end before it reports that it works.
        let mut worker = setup.spawn("worker");
        until("the job ends its process", || (!worker.is_alive() || states() == ["dead", "dead"]).then_some(()));
        processes += 1;
    }
    for (job, id) in [(exit, "exit"), (abort, "abort")] {
        let record = site.job(job);
        let failures = record["failures"].as_array().expect("a list");
        assert!(failures.len() == 10 && failures.iter().all(|failure| failure["kind"] == "abandoned"), "{record}");
        let message = failures[9]["message"].as_str().expect("a failure");
        assert!(message.contains("the process ended 10 times while it ran this job"), "{record}");
        assert_eq!((record["interruptions"].as_u64(), env.ledger.times("began", id)), (Some(10), 10), "{record}");
    }
    let next = site.enqueue("next", "short");
    let _worker = setup.worker();
    site.wait_for(next, "done");
    println!("two jobs that end their process were dead after {processes} processes");
}

/// Whatever an isolated job does in its process, the site continues, and the record has the failure.
pub(crate) fn an_isolated_job_cannot_harm_the_site(env: &Environment) {
    let mut site = Setup { through: without_core(), workers: 5, ..env.setup.clone() }.site();
    let fates = [
        ("exit", "status 3"),
        ("abort", "SIGABRT"),
        ("overflow", "overflow"),
        ("memory", "memory"),
        ("forever", "8.0 s"),
    ];
    let jobs = fates.map(|(fate, _)| site.enqueue(fate, &format!("isolated-{fate}")));
    let well = site.enqueue("well", "isolated-nothing");
    for ((fate, words), job) in fates.iter().zip(jobs) {
        let record = site.wait_for(job, "dead");
        let said = record["failures"][0]["message"].as_str().expect("a failure");
        println!("isolated {fate}: {said}");
        assert!(said.contains(words), "{fate}: {said}");
    }
    site.wait_for(well, "done");
    let lines = env.ledger.of("well");
    let pid = site.child.pid();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.process != pid), "in a process of its own: {lines:?}");
    assert_eq!(lines[0].process, lines[1].process);
    assert_eq!(site.get("/"), (200, "a page".into()));
    assert!(site.child.is_alive());
}
