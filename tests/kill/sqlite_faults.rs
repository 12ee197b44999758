//! What can go wrong with a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use aside::rusqlite::Connection;
use libtest_mimic::Completion;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::faults::{self, Ground};
use crate::ledger::Ledger;
use crate::process::{Child, until};
use crate::site::{Setup, Site, address};
use crate::storm::{Plan, Storm};

/// A folder with a ledger, and jobs in a file.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
    pub(crate) ledger: Ledger,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().expect("a folder");
        let ledger = Ledger::start(folder.path());
        Place { folder, ledger }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.path().join("jobs.db")
    }

    pub(crate) fn setup(&self) -> Setup {
        Setup::new(&format!("sqlite:{}", self.file().display()), &self.ledger)
    }
}

pub(crate) fn nothing_is_lost_in_two_hundred_kills() {
    let place = Place::new();
    let plan = Plan { name: "SQLite, one process", kills: 200, workers: 0, file: Some(place.file()), tenth: None };
    Storm::new(plan, Setup { workers: 8, ..place.setup() }, &place.ledger).run();
}

/// A process that has the file locked until it is killed.
pub(crate) fn hold() {
    let db = Connection::open(std::env::var("KILL_FILE").expect("a file")).expect("a file that can be opened");
    db.busy_timeout(Duration::from_secs(60)).expect("it can wait");
    db.execute_batch("BEGIN EXCLUSIVE").expect("it can be locked");
    eprintln!("locked");
    loop {
        std::thread::park();
    }
}

fn with_ground(test: fn(&Ground)) {
    let place = Place::new();
    test(&Ground { setup: place.setup(), ledger: &place.ledger, has_effects: true });
}

pub(crate) fn a_process_that_stood_still_is_fenced_off() {
    with_ground(faults::a_process_that_stood_still_is_fenced_off);
}

pub(crate) fn a_stop_lets_short_jobs_end_and_gives_long_ones_back() {
    with_ground(faults::a_stop_lets_short_jobs_end_and_gives_long_ones_back);
}

pub(crate) fn a_stop_does_not_wait_for_ever_for_a_stubborn_job() {
    with_ground(faults::a_stop_does_not_wait_for_ever_for_a_stubborn_job);
}

pub(crate) fn what_ran_is_recovered_after_sigquit() {
    with_ground(faults::what_ran_is_recovered_after_sigquit);
}

pub(crate) fn several_processes_share_and_one_is_killed() {
    with_ground(faults::several_processes_share_and_one_is_killed);
}

pub(crate) fn a_clock_that_is_put_back_holds_nothing_up() {
    with_ground(faults::a_clock_that_is_put_back_holds_nothing_up);
}

pub(crate) fn a_job_that_ends_its_process_is_dead_in_the_end() {
    with_ground(faults::a_job_that_ends_its_process_is_dead_in_the_end);
}

pub(crate) fn an_isolated_job_leaves_its_output_and_its_last_progress() {
    with_ground(faults::an_isolated_job_leaves_its_output_and_its_last_progress);
}

pub(crate) fn an_isolated_job_harms_nobody() {
    with_ground(faults::an_isolated_job_harms_nobody);
}

pub(crate) fn nothing_is_lost_where_several_processes_share_a_file() {
    let place = Place::new();
    let plan = Plan { name: "SQLite, three processes", kills: 40, workers: 2, file: Some(place.file()), tenth: None };
    Storm::new(plan, Setup { workers: 4, ..place.setup() }, &place.ledger).run();
}

/// A file system of one's own, with little room, where the system lets us have one.
fn little_room(folder: &Path) -> Option<Vec<String>> {
    let is_root = rustix::process::geteuid().is_root();
    let unshare = if is_root { "-m" } else { "-rm" };
    let mount = format!("mount -t tmpfs -o size=2m tmpfs '{}'", folder.display());
    let tried = Command::new("unshare").args([unshare, "sh", "-c", &mount]).stderr(Stdio::null()).status();
    let then = format!(r#"{mount} && exec "$0""#);
    let words = ["unshare", unshare, "sh", "-c", &then].map(str::to_owned).to_vec();
    tried.is_ok_and(|status| status.success()).then_some(words)
}

/// Where the disk is full nothing is acknowledged, pages are answered, and all goes on when there is room again.
pub(crate) fn a_full_disk_is_a_503_until_there_is_room() -> Completion {
    let place = Place::new();
    let folder = place.folder.path().join("small");
    std::fs::create_dir(&folder).expect("a folder");
    let Some(through) = little_room(&folder) else {
        return Completion::ignored_with("a file system with little room cannot be mounted (`unshare -rm`, tmpfs)");
    };
    println!("a full disk: ENOSPC of a tmpfs of 2 MiB");
    let jobs = format!("sqlite:{}", folder.join("jobs.db").display());
    let site = Setup { through, jobs, ..place.setup() }.site();
    let held = site.enqueue("held", "hold");
    until("it begins", || (place.ledger.times("began", "held") == 1).then_some(()));
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
    // It ends while there is no room, and waits with it.
    place.ledger.open("held");
    until("it is done", || (place.ledger.times("done", "held") > 0).then_some(()));
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

/// Another process has the file locked for longer than anybody waits: nothing is acknowledged, and nothing is lost.
pub(crate) fn a_file_that_is_locked_is_a_503_until_it_is_free() {
    let place = Place::new();
    let site = place.setup().site();
    let running = site.enqueue("running", "hold");
    until("it begins", || (place.ledger.times("began", "running") == 1).then_some(()));
    let file = place.file().display().to_string();
    let mut holder = Child::start("hold", &[("KILL_FILE", &file)], None);
    holder.log.wait_for("locked");
    place.ledger.open("running");
    until("it is done", || (place.ledger.times("done", "running") == 1).then_some(()));
    let (status, body) = site.post("/enqueue?id=refused&what=short");
    assert_eq!(status, 503, "{body}");
    assert_eq!(site.get("/"), (200, "a page".into()));
    site.child.log.wait_for("locked, and for too long");
    site.wait_until_not_ready("the database is locked");
    holder.kill();
    let after = until("it is free", || enqueued(&site, "after"));
    site.wait_until_ready();
    site.wait_for(after, "done");
    site.wait_for(running, "done");
    assert_eq!(site.effects(), ["after", "running"]);
    assert_eq!(site.job(running)["interruptions"], 0);
}

/// A file that is not what it should be is said by its name, and kills nobody.
pub(crate) fn a_damaged_file_is_named() {
    for (name, damage) in [("head", (0, 100)), ("everything but the head", (4096, u64::MAX)), ("cut", (0, 0))] {
        let place = Place::new();
        let mut site = Setup { workers: 0, ..place.setup() }.site();
        for n in 0..200 {
            site.enqueue(&format!("job-{n}"), "short");
        }
        site.signal(Signal::TERM);
        site.child.wait();
        spoil(&place.file(), damage);
        let mut again = place.setup().spawn("site");
        let base = match address(&again) {
            Err(log) => {
                assert!(!again.wait().success());
                assert!(
                    log.contains("jobs.db") && (log.contains("damaged") || log.contains("no SQLite")),
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

/// Overwrites what is between with noise, or cuts the file in the middle of a page.
fn spoil(file: &Path, (from, to): (u64, u64)) {
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
