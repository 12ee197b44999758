//! The site in a separate process, which a test kills, stops and restarts: this test binary, with [`serve`] as its only test.
//!
//! A photo's original can be a pipe: the process that makes the sizes waits for it, so that a test can stop it exactly in
//! the middle of the work.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use aside::jobs::{FailureKind, JobInfo, JobState};
use aside::{App, Jobs};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::driver::Browser;
use super::store::{Photo, Prepared, Store};
use super::tests::{jpeg, make_a_pipe};

/// The time limit of a wait in a test, which a passing test never reaches.
const PATIENCE: Duration = Duration::from_secs(60);

/// The time limit of a graceful shutdown in seconds, unless a test sets another one.
const GRACE: &str = "1";

/// Not a test: the process that the tests start, which also runs isolated jobs.
#[test]
fn serve() {
    if std::env::var_os("DARKROOM_SERVED").is_some() {
        // Not `main`, which would take the arguments of the test for a command.
        aside::Config::from_env().and_then(super::app_from_env).and_then(App::run).unwrap();
    }
}

/// A folder with a site, whether it is served or not, and access to its jobs.
struct Place {
    folder: TempDir,
    jobs: Jobs,
    store: Store,
}

/// A running process of the site.
struct Served {
    process: Child,
    address: String,
    log: thread::JoinHandle<String>,
}

impl Place {
    fn new() -> Place {
        let folder = TempDir::new().unwrap();
        let database = folder.path().join("darkroom.db");
        let (store, jobs) = (Store::open(&database).unwrap(), Jobs::sqlite(&database).unwrap());
        Place { folder, jobs, store }
    }

    fn serve(&self, grace: &str) -> Served {
        self.serve_on("127.0.0.1:0", grace)
    }

    fn serve_on(&self, address: &str, grace: &str) -> Served {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "processes::serve", "--nocapture"])
            .envs([("DARKROOM_SERVED", "1"), ("ASIDE_ADDR", address), ("ASIDE_GRACE", grace)])
            .env("DARKROOM_DATA", self.folder.path())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            assert!(log.read_line(&mut line).unwrap() > 0, "it does not start:\n{line}");
            if let Some((_, address)) = line.split_once("listens on http://") {
                break address.split_whitespace().next().unwrap().to_owned();
            }
        };
        let log = thread::spawn(move || line + &log.lines().map_while(Result::ok).collect::<Vec<_>>().join("\n"));
        Served { process, address, log }
    }

    /// Waits until the condition is true.
    fn until<T>(&self, what: &str, look: impl Fn(&Place) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let jobs = JobState::ALL.map(|state| self.jobs.list(state, None).unwrap());
            assert!(began.elapsed() < PATIENCE, "{what}: {jobs:?}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn photo(&self, id: i64) -> Photo {
        self.store.photo(id).unwrap().unwrap()
    }

    fn job_of(&self, photo: i64) -> JobInfo {
        self.jobs.find(self.photo(photo).job.unwrap()).unwrap().unwrap()
    }

    fn until_ready(&self, photo: i64) {
        self.until("the photo is ready", |place| matches!(place.photo(photo).state, Prepared::Ready(..)).then_some(()));
        for size in super::sizes::SIZES {
            let file = self.folder.path().join(format!("photos/{photo}-{size}.jpg"));
            assert!(image::open(file).is_ok(), "{size}");
        }
    }

    /// Waits until no job is waiting or running.
    fn until_idle(&self) {
        self.until("all is done", |place| {
            let counts = place.jobs.counts().unwrap();
            (counts.waiting + counts.scheduled + counts.running == 0).then_some(())
        });
    }

    /// Uploads a photo, and replaces its original by a pipe. Returns the paths of the pipe and of the photo.
    fn upload_with_a_pipe(&self, served: &Served) -> (PathBuf, PathBuf) {
        self.jobs.pause("photos").unwrap();
        served.upload(&jpeg(300, 200));
        let original = self.folder.path().join("photos/originals").join(self.photo(1).original);
        let away = self.folder.path().join("away.jpg");
        fs::rename(&original, &away).unwrap();
        make_a_pipe(&original);
        self.jobs.resume("photos").unwrap();
        (original, away)
    }

    /// Uploads a photo as a pipe, waits until a process reads the pipe, and replaces it by the photo for the next attempt.
    fn in_the_middle(&self, served: &Served) -> (File, PathBuf) {
        let (original, away) = self.upload_with_a_pipe(served);
        let pipe = open(&original);
        fs::rename(&away, &original).unwrap();
        assert_eq!(self.job_of(1).state, JobState::Running);
        (pipe, original)
    }

    /// Returns the ids of the sent mails. A mail that was being sent when the process was killed is sent again, with the same
    /// id.
    fn mails(&self) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.folder.path().join("mail")) else { return BTreeSet::new() };
        entries.filter_map(|entry| id_of(&entry.unwrap().path())).collect()
    }

    fn charges(&self) -> Vec<i64> {
        let charged = |db: &aside::jobs::rusqlite::Transaction<'_>| {
            let mut query = db.prepare("SELECT \"order\" FROM charges ORDER BY 1")?;
            let charges = query.query_map([], |row| row.get(0))?.collect::<Result<Vec<i64>, _>>()?;
            Ok(charges)
        };
        self.store.write(charged).unwrap()
    }
}

/// Opens a pipe for writing, and waits until another process reads it.
fn open(pipe: &Path) -> File {
    OpenOptions::new().write(true).open(pipe).unwrap()
}

/// Returns the id of the mail in a file, whose name consists of the time and the id.
fn id_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?.strip_suffix(".eml")?;
    Some(name.rsplit_once('-')?.1.to_owned())
}

impl Served {
    fn upload(&self, photo: &[u8]) {
        let form = ureq::unversioned::multipart::Form::new()
            .text("title", "Harbour")
            .part("photo", ureq::unversioned::multipart::Part::bytes(photo).file_name("harbour.jpg"));
        let agent = ureq::Agent::config_builder().max_redirects(0).build().new_agent();
        let answer = agent.post(format!("http://{}/photos", self.address)).send(form).unwrap();
        assert_eq!(answer.status(), 303);
    }

    fn order(&self) {
        let form = [("photo", "1"), ("email", "ada@example.org"), ("quantity", "2")];
        let agent = ureq::Agent::config_builder().max_redirects(0).build().new_agent();
        let answer = agent.post(format!("http://{}/orders", self.address)).send_form(form).unwrap();
        assert_eq!(answer.status(), 303);
    }

    fn page(&self, path: &str) -> String {
        ureq::get(format!("http://{}{path}", self.address)).call().unwrap().body_mut().read_to_string().unwrap()
    }

    /// Returns the processes of its isolated jobs.
    #[cfg(target_os = "linux")]
    fn children(&self) -> Vec<Pid> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let children = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default());
        let numbers = children.collect::<Vec<_>>().join(" ");
        numbers.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
    }

    /// Returns its output and its exit status.
    fn end_with(mut self, signal: Signal) -> (String, ExitStatus) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
        self.wait()
    }

    fn wait(&mut self) -> (String, ExitStatus) {
        let status = self.process.wait().unwrap();
        let log = std::mem::replace(&mut self.log, thread::spawn(String::new));
        (log.join().unwrap(), status)
    }
}

/// Prints the output of the site if a test fails.
impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn the_sizes_of_a_photo_are_made_after_the_process_was_killed() {
    let place = Place::new();
    let served = place.serve(GRACE);
    let (pipe, _) = place.in_the_middle(&served);
    assert!(served.page("/photos/1").contains("0 of 3 sizes"));
    served.end_with(Signal::KILL);
    drop(pipe);
    assert_eq!(place.photo(1).state, Prepared::NotYet);

    let served = place.serve(GRACE);
    place.until_ready(1);
    place.until_idle();
    assert!(served.page("/photos/1").contains("/photos/1/1600.jpg"));
    let job = place.job_of(1);
    // The interrupted attempt is listed, and does not count as one.
    let kinds: Vec<FailureKind> = job.failures.iter().map(|failure| failure.kind).collect();
    let expected = (JobState::Done, 1, 1, vec![FailureKind::Abandoned]);
    assert_eq!((job.state, job.attempt, job.interruptions, kinds), expected, "{job:?}");
    assert!(!place.folder.path().join("photos/making/1").exists());
    let (log, status) = served.end_with(Signal::TERM);
    assert!(status.success() && !log.contains("ERROR"), "{log}");
}

/// A visitor at the photo's page sees it appear, without any action.
#[test]
fn a_page_that_was_open_at_the_kill_shows_the_photo() {
    let Some(browser) = Browser::start() else { return };
    let place = Place::new();
    let served = place.serve(GRACE);
    let (pipe, _) = place.in_the_middle(&served);
    let page = browser.page();
    page.goto(&format!("http://{}/photos/1", served.address));
    page.wait_for("document.body.innerText.includes('0 of 3 sizes') && (window.isTheSame = true)");
    let address = served.address.clone();
    served.end_with(Signal::KILL);
    drop(pipe);
    let _served = place.serve_on(&address, GRACE);
    page.wait_for("document.querySelector('img[src=\"/photos/1/1600.jpg\"]')?.complete");
    assert_eq!(page.evaluate("window.isTheSame"), true, "it was not loaded again");
}

#[test]
fn a_photo_that_exceeds_the_shutdown_limit_is_resumed_at_the_next_start() {
    let place = Place::new();
    let served = place.serve(GRACE);
    let (pipe, _) = place.in_the_middle(&served);
    let (log, _) = served.end_with(Signal::TERM);
    drop(pipe);
    let job = place.job_of(1);
    assert_eq!((job.state, job.attempt, job.interruptions), (JobState::Waiting, 0, 0), "{job:?}\n{log}");

    let served = place.serve(GRACE);
    place.until_ready(1);
    let (log, status) = served.end_with(Signal::TERM);
    assert!(status.success(), "{log}");
}

#[test]
fn the_sizes_of_a_photo_are_made_before_the_process_stops() {
    let place = Place::new();
    let mut served = place.serve("60");
    let (mut pipe, original) = place.in_the_middle(&served);
    kill_process(Pid::from_child(&served.process), Signal::TERM).unwrap();
    let photo = fs::read(original).unwrap();
    pipe.write_all(&photo).unwrap();
    drop(pipe);
    let (log, status) = served.wait();
    assert!(status.success(), "{log}");
    place.until_ready(1);
    assert_eq!(place.job_of(1).state, JobState::Done, "{log}");
}

/// A crashed process cannot store its outcome itself.
#[test]
#[cfg(target_os = "linux")]
fn a_photo_whose_job_crashes_at_each_attempt_is_reported_as_failed() {
    let place = Place::new();
    let served = place.serve(GRACE);
    let (original, away) = place.upload_with_a_pipe(&served);
    for attempt in 1..=3 {
        let pipe = open(&original);
        served.children().into_iter().for_each(|child| kill_process(child, Signal::KILL).unwrap());
        let is_over = |place: &Place| Some(place.job_of(1)).filter(|job| job.state != JobState::Running);
        let job = place.until("the try is over", is_over);
        drop(pipe);
        assert_eq!((job.attempt, job.failures.len()), (attempt, attempt as usize), "{job:?}");
        match attempt {
            3 => assert_eq!(job.state, JobState::Dead),
            _ => {
                assert!(served.page("/photos/1").contains("is tried again in a moment"));
                assert!(place.jobs.retry(job.id).unwrap(), "now, and not after the wait");
            }
        }
    }
    assert!(served.page("/photos/1").contains("went wrong on our side"));
    place.until("the gallery is without it", |_| (!served.page("/").contains("Harbour")).then_some(()));

    fs::rename(away, original).unwrap();
    assert!(place.jobs.retry(place.job_of(1).id).unwrap());
    place.until_ready(1);
    place.until_idle();
    // Long before the cache expires.
    place.until("it hangs", |_| served.page("/").contains("/photos/1/800.jpg").then_some(()));
}

#[test]
fn an_order_is_charged_once_with_one_receipt_despite_kills() {
    let place = Place::new();
    let served = place.serve(GRACE);
    served.upload(&jpeg(30, 20));
    place.until_ready(1);
    let mut served = Some(served);
    for order in 1..=5 {
        served.as_ref().unwrap().order();
        // At a different moment each time: before the charge, between charge and receipt, after the receipt.
        place.until("as far as it is to go", |place| match order {
            1 => Some(()),
            2 => (place.charges().len() >= 2).then_some(()),
            3 => (place.mails().len() >= 3).then_some(()),
            _ => (place.jobs.counts().unwrap().running > 0 || place.charges().len() >= order).then_some(()),
        });
        served.take().unwrap().end_with(Signal::KILL);
        served = Some(place.serve(GRACE));
        place.until_idle();
        assert_eq!(place.charges(), (1..=order as i64).collect::<Vec<_>>());
        assert_eq!(place.mails().len(), order, "{:?}", place.mails());
    }
    let page = served.unwrap().page("/orders");
    assert_eq!(page.matches("Charged").count(), 5, "{page}");
}
