//! What can go wrong with any engine: signals, jobs that end their process, clocks.

use std::collections::BTreeSet;

use aside::{JobState, Jobs};
use rustix::process::Signal;
use serde_json::Value;

use crate::ledger::{Ledger, Line};
use crate::process::{Child, PATIENCE, until};
use crate::site::{Setup, Site, long_output};

/// A lease that no test waits for.
const LONG: u64 = 600;

/// Where jobs are kept, and who writes down what they do.
pub(crate) struct Ground<'a> {
    pub(crate) setup: Setup,
    pub(crate) ledger: &'a Ledger,
    /// A job's effect is written in the transaction that completes it.
    pub(crate) has_effects: bool,
}

impl Ground<'_> {
    /// A site that has no workers: what is asked of it is not disturbed by the test.
    fn site(&self, lease: u64) -> Site {
        Setup { workers: 0, lease, ..self.setup.clone() }.site()
    }

    fn worker(&self, lease: u64, grace: u64) -> Child {
        Setup { workers: 2, lease, grace, ..self.setup.clone() }.worker()
    }

    /// Waits until a run of that job has begun in that process.
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

/// A process that is held still past its lease loses its jobs, and when it goes on nothing of them counts, though a job
/// goes to its end that does not listen.
pub(crate) fn a_process_that_stood_still_is_fenced_off(ground: &Ground) {
    let lease = 3;
    let (site, mut first) = (ground.site(lease), ground.worker(lease, 25));
    let job = site.enqueue("stood", "stubborn");
    ground.wait_for_run("stood", first.number());
    first.signal(Signal::STOP);
    let mut second = ground.worker(lease, 25);
    ground.wait_for_run("stood", second.number());
    first.signal(Signal::CONT);
    ground.ledger.open(&format!("stood@{}", first.number()));
    first.log.wait_for("was given to another worker; its outcome here is discarded");
    assert_eq!((ground.ledger.times("began", "stood"), ground.ledger.times("done", "stood")), (2, 1));
    assert_eq!(site.job(job)["state"], "running", "the second still has it");
    ground.has_effects(&site, &[]);
    ground.ledger.open("stood");
    let record = site.wait_for(job, "done");
    assert_eq!((&record["interruptions"], &record["attempt"]), (&Value::from(1), &Value::from(1)), "{record}");
    second.kill();
    let after = site.enqueue("after", "short");
    site.wait_for(after, "done");
    ground.wait_for_run("after", first.number());
    assert!(first.is_alive());
    ground.has_effects(&site, &["after", "stood"]);
}

/// What is short ends while the process waits; what is long is given back, and begun at once by another process: no lease is
/// waited for, and it counts as no try.
pub(crate) fn a_stop_lets_short_jobs_end_and_gives_long_ones_back(ground: &Ground) {
    let (site, mut first) = (ground.site(LONG), ground.worker(LONG, 3));
    let (short, long) = (site.enqueue("short", "hold"), site.enqueue("long", "hold"));
    ground.wait_for_run("short", first.number());
    ground.wait_for_run("long", first.number());
    let waiting = site.enqueue("waiting", "hold");
    first.signal(Signal::TERM);
    first.log.wait_for("Stopping on SIGTERM");
    ground.ledger.open("short");
    site.wait_for(short, "done");
    let mut second = ground.worker(LONG, 25);
    assert!(first.wait().success(), "{}", first.log.whole());
    for (job, id) in [(long, "long"), (waiting, "waiting")] {
        ground.wait_for_run(id, second.number());
        ground.ledger.open(id);
        let record = site.wait_for(job, "done");
        assert_eq!((&record["attempt"], &record["interruptions"]), (&Value::from(1), &Value::from(0)), "{record}");
        assert_eq!(record["failures"], Value::Array(Vec::new()));
    }
    assert_eq!((ground.ledger.times("began", "long"), ground.ledger.times("began", "waiting")), (2, 1));
    assert_eq!(ground.ledger.times("done", "short"), 1);
    second.kill();
    ground.has_effects(&site, &["long", "short", "waiting"]);
}

/// A job that does not listen is given up, named, and given back all the same.
pub(crate) fn a_stop_does_not_wait_for_ever_for_a_stubborn_job(ground: &Ground) {
    let (site, mut first) = (ground.site(LONG), ground.worker(LONG, 1));
    let job = site.enqueue("stubborn", "stubborn");
    ground.wait_for_run("stubborn", first.number());
    first.signal(Signal::TERM);
    first.wait();
    let log = first.log.whole();
    assert!(log.contains(&format!("(job {job})")) && log.contains("given up"), "{log}");
    let second = ground.worker(LONG, 25);
    ground.wait_for_run("stubborn", second.number());
    ground.ledger.open("stubborn");
    let record = site.wait_for(job, "done");
    assert_eq!((&record["attempt"], &record["interruptions"]), (&Value::from(1), &Value::from(0)), "{record}");
    ground.has_effects(&site, &["stubborn"]);
}

/// SIGQUIT ends a process at once, and its running jobs are recovered. With SQLite the lease does not matter: a file lock
/// shows that the process has ended.
pub(crate) fn what_ran_is_recovered_after_sigquit(ground: &Ground) {
    let lease = if ground.has_effects { LONG } else { 3 };
    let site = ground.site(lease);
    let mut first = Setup { workers: 1, lease, ..ground.setup.clone() }.worker();
    let job = site.enqueue("quit", "hold");
    ground.wait_for_run("quit", first.number());
    first.signal(Signal::QUIT);
    assert!(!first.wait().success());
    let second = ground.worker(lease, 25);
    ground.wait_for_run("quit", second.number());
    ground.ledger.open("quit");
    let record = site.wait_for(job, "done");
    assert_eq!((&record["attempt"], &record["interruptions"]), (&Value::from(1), &Value::from(1)), "{record}");
    ground.has_effects(&site, &["quit"]);
}

/// What an isolated job leaves comes from its process to the one that works, and from there to any other.
pub(crate) fn an_isolated_job_leaves_its_output_and_its_last_progress(ground: &Ground) {
    let (site, _worker) = (ground.site(LONG), ground.worker(LONG, 25));
    let job = site.enqueue("output", "isolated-output");
    let jobs = Jobs::open(&ground.setup.jobs).expect("the jobs can be opened here too");
    let followed = jobs.follow(job).expect("the engine answers").expect("the job is there");
    let done = jobs.wait(job, PATIENCE).expect("the job ends");
    assert_eq!(done.state, JobState::Done, "{done:?}");
    assert_eq!((done.done, done.total, done.message.as_str()), (5, 5, "the last part"));
    assert!(done.output::<String>().expect("text").as_deref() == Some(&*long_output()));
    until("who follows sees the end", || followed.is_finished().then_some(()));
    let last = followed.get();
    assert_eq!((last.percent(), last.message.as_str()), (Some(100), "the last part"));
}

/// One of several processes is killed: the others do what it had, and nothing else is done again.
pub(crate) fn several_processes_share_and_one_is_killed(ground: &Ground) {
    let (lease, site) = (3, ground.site(3));
    let alone = Setup { workers: 1, lease, ..ground.setup.clone() };
    let mut workers: Vec<Child> = (0..3).map(|_| alone.worker()).collect();
    let jobs: Vec<(u64, String)> =
        (0..6).map(|n| format!("job-{n}")).map(|id| (site.enqueue(&id, "hold"), id)).collect();
    // Each has a place for one.
    let working = || ground.ledger.lines().iter().map(|line| line.process).collect::<BTreeSet<_>>();
    until("each process has a job", || (working().len() == 3).then_some(()));
    let lines = ground.ledger.lines();
    assert_eq!(lines.iter().map(|line| &line.id).collect::<BTreeSet<_>>().len(), 3, "each job once: {lines:?}");
    let mut killed = workers.remove(1);
    let victim = lines.iter().find(|line| line.process == killed.number()).expect("it has one").id.clone();
    killed.kill();
    jobs.iter().for_each(|(_, id)| ground.ledger.open(id));
    for (job, id) in &jobs {
        let record = site.wait_for(*job, "done");
        let (times, interruptions) = if *id == victim { (2, 1) } else { (1, 0) };
        assert_eq!((ground.ledger.times("began", id), &record["interruptions"]), (times, &Value::from(interruptions)));
        assert_eq!(ground.ledger.times("done", id), 1);
    }
    let ids: Vec<&str> = jobs.iter().map(|(_, id)| &**id).collect();
    ground.has_effects(&site, &ids);
}

/// A clock that is put back by an hour holds nothing up by an hour, and nothing is done twice.
pub(crate) fn a_clock_that_is_put_back_holds_nothing_up(ground: &Ground) {
    let site = ground.setup.site();
    let (running, later) = (site.enqueue("running", "hold"), site.enqueue("later", "later-short"));
    ground.wait_for_run("running", site.child.number());
    assert_eq!(site.post("/put_back?seconds=3600").0, 200);
    let after = site.enqueue("then", "short");
    ground.ledger.open("running");
    for (job, id) in [(running, "running"), (after, "then"), (later, "later")] {
        site.wait_for(job, "done");
        assert_eq!(ground.ledger.times("began", id), 1, "{id}");
    }
    ground.has_effects(&site, &["later", "running", "then"]);
}

/// The command that starts a program whose crash leaves no core file.
fn without_core() -> Vec<String> {
    ["sh", "-c", r#"ulimit -c 0; exec "$0""#].map(str::to_owned).to_vec()
}

/// It is recovered as any other, until it is plain that it is the job that ends its process.
pub(crate) fn a_job_that_ends_its_process_is_dead_in_the_end(ground: &Ground) {
    let site = Setup { workers: 0, ..ground.setup.clone() }.site();
    let setup = Setup { workers: 1, through: without_core(), ..ground.setup.clone() };
    let (exit, abort) = (site.enqueue("exit", "exit"), site.enqueue("abort", "abort"));
    let states = || [exit, abort].map(|job| site.job(job)["state"].as_str().expect("a state").to_owned());
    let mut processes = 0;
    while states() != ["dead", "dead"] {
        assert!(processes < 40, "{processes} processes have ended");
        // What was interrupted again and again waits longer each time; not for this test.
        for job in [exit, abort].into_iter().filter(|job| site.job(*job)["state"] == "scheduled") {
            assert_eq!(site.post(&format!("/retry?number={job}")).0, 200);
        }
        // It may end before it has said that it works.
        let mut worker = setup.spawn("worker");
        until("the job ends its process", || (!worker.is_alive() || states() == ["dead", "dead"]).then_some(()));
        processes += 1;
    }
    for (job, id) in [(exit, "exit"), (abort, "abort")] {
        let record = site.job(job);
        let words = record["failures"][0]["message"].as_str().expect("a failure");
        assert!(words.contains("the process that ran it ended 10 times"), "{record}");
        assert_eq!((record["interruptions"].as_u64(), ground.ledger.times("began", id)), (Some(10), 10), "{record}");
    }
    let next = site.enqueue("next", "short");
    let _worker = setup.worker();
    site.wait_for(next, "done");
    println!("two jobs that end their process were dead after {processes} processes");
}

/// Whatever a job does in a process of its own, the site lives, and the record says what it was.
pub(crate) fn an_isolated_job_harms_nobody(ground: &Ground) {
    let mut site = Setup { through: without_core(), workers: 5, ..ground.setup.clone() }.site();
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
    let lines = ground.ledger.of("well");
    let pid = site.child.pid();
    assert!(lines.len() == 2 && lines.iter().all(|line| line.process != pid), "in a process of its own: {lines:?}");
    assert_eq!(lines[0].process, lines[1].process);
    assert_eq!(site.get("/"), (200, "a page".into()));
    assert!(site.child.is_alive());
}
