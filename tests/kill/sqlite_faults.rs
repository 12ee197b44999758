//! Faults that concern the SQLite file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::Completion;
use aside::jobs::rusqlite::Connection;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::faults::{self, Environment};
use crate::ledger::Ledger;
use crate::process::{Child, until};
use crate::site::{Setup, Site, address};
use crate::storm::{Plan, Storm};

/// A folder with a ledger and the file of the jobs.
pub(crate) struct TestStore {
    pub(crate) folder: TempDir,
    pub(crate) ledger: Ledger,
}

impl TestStore {
    pub(crate) fn new() -> TestStore {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::start(folder.path());
        TestStore { folder, ledger }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }

    pub(crate) fn setup(&self) -> Setup {
        Setup::new(&format!("sqlite:{}", self.file().display()), &self.ledger)
    }
}

pub(crate) fn no_job_is_lost_in_two_hundred_kills() {
    let store = TestStore::new();
    let plan = Plan { name: "SQLite, one process", kills: 200, workers: 0, file: Some(store.file()), tenth: None };
    Storm::new(plan, Setup { workers: 8, ..store.setup() }, &store.ledger).run();
}

/// Runs a process that locks the file until it is killed.
pub(crate) fn hold() {
    let db = Connection::open(std::env::var("KILL_FILE").expect("a file")).expect("a file that can be opened");
    db.busy_timeout(Duration::from_secs(60)).expect("it can wait");
    db.execute_batch("BEGIN EXCLUSIVE").expect("it can be locked");
    eprintln!("locked");
    loop {
        std::thread::park();
    }
}

fn with_environment(test: fn(&Environment)) {
    let store = TestStore::new();
    test(&Environment { setup: store.setup(), ledger: &store.ledger, has_effects: true });
}

pub(crate) fn outcomes_of_a_suspended_process_are_discarded() {
    with_environment(faults::outcomes_of_a_suspended_process_are_discarded);
}

pub(crate) fn a_graceful_shutdown_completes_short_jobs_and_releases_long_ones() {
    with_environment(faults::a_graceful_shutdown_completes_short_jobs_and_releases_long_ones);
}

pub(crate) fn a_graceful_shutdown_abandons_a_job_that_ignores_its_cancellation() {
    with_environment(faults::a_graceful_shutdown_abandons_a_job_that_ignores_its_cancellation);
}

pub(crate) fn running_jobs_are_recovered_after_sigquit() {
    with_environment(faults::running_jobs_are_recovered_after_sigquit);
}

pub(crate) fn the_tree_of_a_request_is_whole_after_a_kill() {
    with_environment(faults::the_tree_of_a_request_is_whole_after_a_kill);
}

pub(crate) fn jobs_of_a_killed_process_run_in_another_process() {
    with_environment(faults::jobs_of_a_killed_process_run_in_another_process);
}

pub(crate) fn a_clock_set_back_delays_and_repeats_no_job() {
    with_environment(faults::a_clock_set_back_delays_and_repeats_no_job);
}

pub(crate) fn a_job_that_ends_its_process_repeatedly_is_dead() {
    with_environment(faults::a_job_that_ends_its_process_repeatedly_is_dead);
}

pub(crate) fn an_isolated_job_transfers_its_output_and_its_last_progress() {
    with_environment(faults::an_isolated_job_transfers_its_output_and_its_last_progress);
}

pub(crate) fn an_isolated_job_cannot_harm_the_site() {
    with_environment(faults::an_isolated_job_cannot_harm_the_site);
}

pub(crate) fn no_job_is_lost_while_several_processes_share_a_file() {
    let store = TestStore::new();
    let plan = Plan { name: "SQLite, three processes", kills: 40, workers: 2, file: Some(store.file()), tenth: None };
    Storm::new(plan, Setup { workers: 4, ..store.setup() }, &store.ledger).run();
}

/// Returns a command that runs in a small file system of its own, if the operating system allows it.
fn small_file_system(folder: &Path) -> Option<Vec<String>> {
    let is_root = rustix::process::geteuid().is_root();
    let unshare = if is_root { "-m" } else { "-rm" };
    let mount = format!("mount -t tmpfs -o size=2m tmpfs '{}'", folder.display());
    let tried = Command::new("unshare").args([unshare, "sh", "-c", &mount]).stderr(Stdio::null()).status();
    let then = format!(r#"{mount} && exec "$0""#);
    let words = ["unshare", unshare, "sh", "-c", &then].map(str::to_owned).to_vec();
    tried.is_ok_and(|status| status.success()).then_some(words)
}

/// While the disk is full, no job is acknowledged and pages are still served. All continues when there is space again.
pub(crate) fn a_full_disk_is_a_503_until_there_is_space() -> Completion {
    let store = TestStore::new();
    let folder = store.folder.path().join("small");
    std::fs::create_dir(&folder).expect("a folder");
    let Some(through) = small_file_system(&folder) else {
        return Completion::ignored_with("a file system with little room cannot be mounted (`unshare -rm`, tmpfs)");
    };
    println!("a full disk: ENOSPC of a tmpfs of 2 MiB");
    let jobs = format!("sqlite:{}", folder.join("jobs.db").display());
    let site = Setup { through, jobs, ..store.setup() }.site();
    let held = site.enqueue("held", "hold");
    until("it begins", || (store.ledger.times("began", "held") == 1).then_some(()));
    site.wait_until_ready();
    assert_eq!(site.post("/fill").0, 200);
    let (mut kept, mut refused) = (BTreeMap::from([("held".to_owned(), held)]), Vec::new());
    for n in 0.. {
        let id = format!("job-{n}");
        let (status, body) = site.post(&format!("/enqueue?id={id}&what=short"));
        match status {
            200 => drop(kept.insert(id, body.parse().expect("a number"))),
            503 => refused.push(id),
            other => panic!("{other}: {body}"),
        }
        assert!(n < 20_000, "the disk is never full");
        if refused.len() == 3 {
            break;
        }
    }
    assert_eq!(site.get("/"), (200, "a page".into()));
    assert_eq!(site.get("/counts").0, 200);
    site.child.log.wait_for("the disk is full");
    site.wait_until_not_ready("the disk is full");
    // The job ends while the disk is full, and waits to be recorded.
    store.ledger.open("held");
    until("it is done", || (store.ledger.times("done", "held") > 0).then_some(()));
    assert_eq!(site.post("/free").0, 200);
    kept.insert("after".into(), until("there is room", || enqueued(&site, "after")));
    site.wait_until_ready();
    kept.values().for_each(|job| drop(site.wait_for(*job, "done")));
    let ids: Vec<String> = kept.into_keys().collect();
    assert_eq!(site.effects(), ids, "what was refused is not done, and all else is, once");
    println!("  {} were acknowledged until then, 3 refused, all of the former are done", ids.len());
    Completion::Completed
}

fn enqueued(site: &Site, id: &str) -> Option<u64> {
    let (status, body) = site.post(&format!("/enqueue?id={id}&what=short"));
    (status == 200).then(|| body.parse().expect("a number"))
}

/// Another process locks the file for longer than a write waits: no job is acknowledged, and none is lost.
pub(crate) fn a_locked_file_is_a_503_until_it_is_released() {
    let store = TestStore::new();
    let site = store.setup().site();
    let running = site.enqueue("running", "hold");
    until("it begins", || (store.ledger.times("began", "running") == 1).then_some(()));
    let file = store.file().display().to_string();
    let mut holder = Child::start("hold", &[("KILL_FILE", &file)], None);
    holder.log.wait_for("locked");
    store.ledger.open("running");
    until("it is done", || (store.ledger.times("done", "running") == 1).then_some(()));
    let (status, body) = site.post("/enqueue?id=refused&what=short");
    assert_eq!(status, 503, "{body}");
    assert_eq!(site.get("/"), (200, "a page".into()));
    site.child.log.wait_for("locked for too long");
    site.wait_until_not_ready("the database is locked");
    holder.kill();
    let after = until("it is free", || enqueued(&site, "after"));
    site.wait_until_ready();
    site.wait_for(after, "done");
    site.wait_for(running, "done");
    assert_eq!(site.effects(), ["after", "running"]);
    assert_eq!(site.job(running)["interruptions"], 0);
}

/// A damaged file is reported with its name, and ends no process.
pub(crate) fn a_damaged_file_is_reported_with_its_name() {
    for (name, damage) in [("head", (0, 100)), ("everything but the head", (4096, u64::MAX)), ("cut", (0, 0))] {
        let store = TestStore::new();
        let mut site = Setup { workers: 0, ..store.setup() }.site();
        for n in 0..200 {
            site.enqueue(&format!("job-{n}"), "short");
        }
        site.signal(Signal::TERM);
        site.child.wait();
        overwrite(&store.file(), damage);
        let mut again = store.setup().spawn("site");
        let base = match address(&again) {
            Err(log) => {
                assert!(!again.wait().success());
                assert!(
                    log.contains("jobs.db") && (log.contains("damaged") || log.contains("not a SQLite")),
                    "{name}: {log}"
                );
                let said = log.lines().find(|line| line.contains("jobs.db")).unwrap_or_default();
                println!("damaged ({name}): refused at the start: {said}");
                continue;
            }
            Ok(base) => base,
        };
        let answer = Site::try_post(&base, "/enqueue?id=new&what=short").expect("the site answers");
        assert!(answer.0 == 503 || answer.0 == 500, "{name}: {answer:?}");
        let line = again.log.wait_for("damaged");
        println!("damaged ({name}): the site lives, an enqueue is a {}: {line}", answer.0);
        assert!(again.is_alive() && line.contains("jobs.db"));
    }
}

/// Overwrites the range with noise, or truncates the file in the middle of a page.
fn overwrite(file: &Path, (from, to): (u64, u64)) {
    let mut bytes = std::fs::read(file).expect("the file");
    assert!(bytes.len() > 20_000, "all is in the file: {}", bytes.len());
    if to == 0 {
        bytes.truncate(bytes.len() / 2 + 100);
    }
    let mut noise = 0x9e37_79b9_u64;
    for byte in bytes.iter_mut().skip(from as usize).take(to.saturating_sub(from) as usize) {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = (noise >> 56) as u8;
    }
    std::fs::write(file, bytes).expect("the file");
}
