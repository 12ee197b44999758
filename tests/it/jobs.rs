//! Jobs in an application: storage, workers, failures and retries.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
#[cfg(all(unix, feature = "redis"))]
use std::sync::{PoisonError, Weak};
use std::time::{Duration, SystemTime};

use aside::jobs::{FailureKind, JobState, NewJob};
use aside::tasks::{Retry, TaskState};
use aside::testing::{TestClient, TestJobs};
use aside::{App, Config, Error, Job, Jobs, Request, Result, Task, TaskContext};
use serde::{Deserialize, Serialize};

use crate::logs;
#[cfg(all(unix, feature = "redis"))]
use crate::redis_server::RedisServer;

const SOON: Duration = Duration::from_secs(20);

/// The record of what the jobs of a test do, which is the application's state.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    fn add(&self, words: impl Into<String>) {
        self.0.lock().unwrap().push(words.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// A job that records its text.
#[derive(Serialize, Deserialize)]
struct Note(String);

impl Job for Note {
    const NAME: &'static str = "note";

    fn run(self, task: &TaskContext) -> Result<()> {
        task.state::<Notes>().add(self.0);
        Ok(())
    }
}

/// A job that fails, at most three times, unless its text says otherwise.
#[derive(Serialize, Deserialize)]
struct Fail(String);

impl Job for Fail {
    const NAME: &'static str = "fail";

    fn retry() -> Retry {
        Retry::exponential(3, Duration::from_secs(10)).only_if(|error| !error.chain().contains("for good"))
    }

    fn run(self, task: &TaskContext) -> Result<()> {
        match &*self.0 {
            "panic" => panic!("boom"),
            "second time" if task.attempt() == 2 => Ok(()),
            words => Err(Error::internal(words.to_owned())),
        }
    }
}

/// Runs a test with jobs in each engine. Redis is left out, with a message, where no `redis-server` is installed.
pub(crate) fn on_each_engine(test: impl Fn(Jobs)) {
    test(Jobs::memory());
    #[cfg(feature = "sqlite")]
    {
        let folder = tempfile::tempdir().unwrap();
        test(Jobs::sqlite(folder.path().join("jobs.db")).unwrap());
    }
    #[cfg(all(unix, feature = "redis"))]
    if let Some((_server, url)) = redis_database() {
        test(Jobs::redis(&url).unwrap());
    }
}

/// Returns a server that tests share, and the URL of a database in it that no other test uses.
#[cfg(all(unix, feature = "redis"))]
pub(crate) fn redis_database() -> Option<(Arc<RedisServer>, String)> {
    static SHARED: Mutex<(Weak<RedisServer>, usize)> = Mutex::new((Weak::new(), 0));
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let server = match shared.0.upgrade() {
        Some(server) => server,
        None => Arc::new(RedisServer::start(&["appendonly yes", "databases 1000"])?),
    };
    *shared = (Arc::downgrade(&server), shared.1 + 1);
    let url = format!("redis://127.0.0.1:{}/{}", server.port(), shared.1);
    Some((server, url))
}

fn app(jobs: Jobs) -> App {
    App::with_config(Config::default()).jobs(jobs).state(Notes::default())
}

fn client(jobs: Jobs) -> TestClient {
    TestClient::new(app(jobs))
}

fn notes(client: &TestClient) -> Vec<String> {
    client.state::<Notes>().take()
}

fn note(words: &str) -> Note {
    Note(words.to_owned())
}

#[test]
fn a_job_runs_as_a_task_of_its_request() {
    on_each_engine(|kept| {
        logs::record();
        #[derive(Serialize, Deserialize)]
        struct Who;
        impl Job for Who {
            const NAME: &'static str = "who-asks";
            fn run(self, task: &TaskContext) -> Result<()> {
                let (name, job) = (task.name().to_owned(), task.job());
                task.state::<Notes>().add(format!("{name} {job:?} {}", task.attempt()));
                Err(Error::internal("so that it is in the log"))
            }
        }
        let app = app(kept.register::<Who>())
            .post("/orders", |req: &mut Request| req.enqueue(Who).map(|enqueued| enqueued.id.to_string()));
        let mut client = TestClient::new(app);
        assert_eq!(client.post("/orders").send().text(), "1");
        client.drain();
        assert_eq!(notes(&client), ["who-asks (job 1) Some(1) 1"]);
        let lines = logs::with("Background task who-asks (job 1) failed: so that it is in the log; attempt 1 of 20");
        assert!(lines.last().unwrap().1.contains(", POST /orders "), "{lines:?}");
        let job = client.jobs().find(1).unwrap().unwrap();
        assert!(job.request.unwrap().starts_with("POST /orders "));
    });
}

#[test]
fn a_job_keeps_the_trace_of_its_request_and_the_work_that_enqueued_it() {
    on_each_engine(|kept| {
        #[derive(Serialize, Deserialize)]
        struct Parent;
        impl Job for Parent {
            const NAME: &'static str = "parent";
            fn run(self, task: &TaskContext) -> Result<()> {
                task.jobs()?.enqueue(Note("from a job".into())).map(drop)
            }
        }
        let app = app(kept.register::<Parent>().register::<Note>()).post("/orders", |req: &mut Request| {
            let enqueued = req.enqueue(Parent);
            aside::background(|| aside::jobs::enqueue(Note("from a task".into()))).join().unwrap().unwrap();
            enqueued.map(|enqueued| enqueued.id.to_string())
        });
        let mut client = TestClient::new(app);
        client.post("/orders").send();
        client.drain();
        let [by_request, by_task, by_job] = [1, 2, 3].map(|id| client.jobs().find(id).unwrap().unwrap());
        let trace = by_request.trace.unwrap();
        assert!(trace.len() == 32 && trace.bytes().all(|byte| byte.is_ascii_hexdigit()), "{trace}");
        assert_eq!((by_task.trace.as_ref(), by_job.trace.as_ref()), (Some(&trace), Some(&trace)));
        assert_eq!((by_request.parent, by_job.parent.as_deref()), (None, Some("job 1")));
        assert!(by_task.parent.unwrap().starts_with("task "));
        let alone = client.jobs().enqueue(note("without a request")).unwrap().id;
        assert!(client.jobs().find(alone).unwrap().unwrap().trace.is_some_and(|own| own != trace));
    });
}

#[test]
fn a_failed_job_is_retried_with_growing_backoff_and_then_dead() {
    on_each_engine(|kept| {
        let mut client = client(kept.register::<Fail>());
        let id = client.jobs().enqueue(Fail("no credit".into())).unwrap().id;
        for (attempt, waits) in [(1, 7_500..=10_000), (2, 15_000..=20_000)] {
            let job = client.jobs().run_next().unwrap();
            assert_eq!((job.state, job.attempt), (JobState::Scheduled, attempt));
            let wait = job.due_at - job.failures.last().unwrap().at;
            assert!(waits.contains(&wait), "{wait} ms after try {attempt}");
            assert!(client.jobs().run_next().is_none());
            client.advance(Duration::from_secs(20));
        }
        let job = client.jobs().run_next().unwrap();
        assert_eq!((job.id, job.state, job.failures.len()), (id, JobState::Dead, 3));
        assert!(job.failures.iter().all(|failure| failure.message == "no credit"), "{:?}", job.failures);
        assert_eq!(client.failures().len(), 3);

        assert!(client.jobs().retry(id).unwrap());
        let job = client.jobs().run_next().unwrap();
        assert_eq!((job.state, job.attempt, job.failures.len()), (JobState::Scheduled, 1, 4));
        assert!(client.jobs().discard(id).unwrap() && client.jobs().find(id).unwrap().is_none());
    });
}

#[test]
fn a_permanent_failure_is_not_retried_and_a_panic_is_a_failure() {
    on_each_engine(|kept| {
        let client = client(kept.register::<Fail>());
        for (words, state, kept) in [
            ("lost for good", JobState::Dead, "lost for good"),
            ("panic", JobState::Scheduled, "panicked: boom, at tests/it/jobs.rs:"),
        ] {
            client.jobs().enqueue(Fail(words.into())).unwrap();
            let job = client.jobs().run_next().unwrap();
            assert_eq!(job.state, state, "{words}");
            let failure = &job.failures[0];
            assert!(failure.message.starts_with(kept), "{failure:?}");
            let location = failure.location.as_deref().unwrap_or_default();
            assert!(location.starts_with("tests/it/jobs.rs:"), "{failure:?}");
            assert_eq!((failure.kind == FailureKind::Panicked, failure.began_at), (words == "panic", job.began_at));
        }
    });
}

#[test]
fn a_job_knows_its_attempt() {
    on_each_engine(|kept| {
        let mut client = client(kept.register::<Fail>());
        client.jobs().enqueue(Fail("second time".into())).unwrap();
        assert_eq!(client.jobs().run_next().unwrap().state, JobState::Scheduled);
        client.advance(Duration::from_secs(10));
        assert_eq!(client.jobs().run_next().unwrap().state, JobState::Done);
    });
}

#[test]
fn a_job_of_an_unregistered_type_is_kept_and_does_not_spin() {
    on_each_engine(|kept| {
        #[derive(Serialize, Deserialize)]
        struct OldNote {
            words: String,
        }
        impl Job for OldNote {
            const NAME: &'static str = "note";
            fn run(self, _task: &TaskContext) -> Result<()> {
                Ok(())
            }
        }
        let jobs = kept;
        let former = jobs.clone().register::<Fail>().register::<OldNote>();
        let unknown = former.enqueue(Fail("it does not come to that".into())).unwrap().id;
        let changed = former.enqueue(OldNote { words: "x".into() }).unwrap().id;
        let client = client(jobs.register::<Note>());
        client.drain();
        for (id, words) in [(unknown, "no job `fail` is registered"), (changed, "cannot be parsed as this job")] {
            let job = client.jobs().find(id).unwrap().unwrap();
            assert_eq!((job.state, job.attempt), (JobState::Scheduled, 1));
            assert!(job.failures[0].message.contains(words), "{:?}", job.failures);
            assert!(job.payload.contains('x') || id == unknown);
        }
    });
}

#[test]
fn enqueuing_an_invalid_job_is_an_error() {
    let client = client(Jobs::memory().register::<Note>().queue("known", 1));
    let refusal = |enqueued: Result<aside::jobs::Enqueued>| enqueued.unwrap_err().to_string();
    let jobs = client.jobs();
    assert!(refusal(jobs.enqueue(Fail("x".into()))).contains("the job `fail` is not registered"));
    assert!(refusal(jobs.enqueue(note("x").queue("other"))).contains("no worker serves the queue `other`"));
    assert!(jobs.enqueue(note("x").queue("known")).is_ok());
    assert!(refusal(jobs.enqueue(note(&"x".repeat(2 << 20)))).contains("the limit is 1048576"));
    let none = TestClient::new(App::with_config(Config::default()));
    assert!(none.within(|| refusal(aside::jobs::enqueue(note("x")))).contains("App::jobs"));
    client.drain();
}

/// A client that chooses parts of the key gets no 500 for a long key, and cannot fill the memory with it.
#[test]
fn a_unique_key_can_have_any_length() {
    let client = client(Jobs::memory().register::<Note>());
    let (jobs, long) = (client.jobs(), "k".repeat(100_000));
    let first = jobs.enqueue(note("x").unique(&long)).unwrap();
    let again = jobs.enqueue(note("x").unique(&long)).unwrap();
    let other = jobs.enqueue(note("x").unique(&long[1..])).unwrap();
    assert!(first.is_new && !again.is_new && other.is_new);
    assert_eq!(again.id, first.id);
    assert!(jobs.find(first.id).unwrap().unwrap().unique.unwrap().len() < 100);
    client.drain();
}

#[test]
fn invalid_job_settings_are_reported_at_the_start() {
    #[derive(Serialize, Deserialize)]
    struct Other;
    impl Job for Other {
        const NAME: &'static str = "note";
        fn run(self, _task: &TaskContext) -> Result<()> {
            Ok(())
        }
    }
    let start = |jobs: Jobs| {
        let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
        App::with_config(config).jobs(jobs).start().expect_err("it is refused").to_string()
    };
    let words = start(Jobs::memory().register::<Note>().register::<Other>().queue("", 1));
    assert!(words.contains("two jobs have the NAME `note`") && words.contains("Jobs::queue"), "{words}");
    for crontab in ["0 3 * * *", "61 * * * * UTC", "0 3 * * * Europe/Atlantis", "", "0 0 31 2 * UTC"] {
        let words = start(Jobs::memory().cron(crontab, note("x")));
        assert!(words.contains("Jobs::cron"), "{crontab}: {words}");
    }
}

#[test]
fn a_job_can_be_delayed_unique_and_urgent() {
    on_each_engine(|kept| {
        let mut client = client(kept.register::<Note>());
        let jobs = client.jobs();
        let keep = |job: NewJob<Note>| jobs.enqueue(job).unwrap();
        keep(note("in an hour").delay(Duration::from_secs(3600)));
        keep(note("at").at(SystemTime::now() + Duration::from_secs(7200)));
        keep(note("plain").into());
        keep(note("urgent").priority(5));
        keep(note("not urgent").priority(-5));
        let first = keep(note("once").unique("17"));
        let second = keep(note("twice").unique("17"));
        assert_eq!((second.id, first.is_new, second.is_new), (first.id, true, false));
        jobs.assert_enqueued(|note: &Note| note.0 == "once");
        assert_eq!(jobs.enqueued::<Note>().len(), 6);
        client.drain();
        assert_eq!(notes(&client), ["urgent", "plain", "once", "not urgent"]);
        assert!(keep(note("once more").unique("17")).is_new);
        client.advance(Duration::from_secs(3601));
        client.drain();
        assert_eq!(notes(&client), ["once more", "in an hour"]);
        client.advance(Duration::from_secs(3600));
        client.drain();
        assert_eq!(notes(&client), ["at"]);
    });
}

#[test]
fn jobs_that_jobs_enqueue_run_too_and_inline_runs_them_at_once() {
    #[derive(Serialize, Deserialize)]
    struct Parent(u32);
    impl Job for Parent {
        const NAME: &'static str = "parent";
        fn run(self, task: &TaskContext) -> Result<()> {
            task.state::<Notes>().add(format!("parent {}", self.0));
            if self.0 > 1 {
                task.jobs()?.enqueue(Parent(self.0 - 1))?;
            }
            Ok(())
        }
    }
    let client = client(Jobs::memory().register::<Parent>());
    client.within(|| aside::jobs::enqueue(Parent(3))).unwrap();
    assert!(notes(&client).is_empty());
    client.drain();
    assert_eq!(notes(&client), ["parent 3", "parent 2", "parent 1"]);

    let inline = self::client(Jobs::memory().register::<Parent>().register::<Fail>());
    inline.jobs().inline();
    inline.within(|| aside::jobs::enqueue(Parent(2))).unwrap();
    assert_eq!(notes(&inline).len(), 2);
    inline.within(|| aside::jobs::enqueue(Fail("in the failures".into()))).unwrap();
    assert_eq!(inline.failures().len(), 1);
    inline.drain();
}

#[test]
fn a_schedule_enqueues_once_for_all_processes_and_once_for_missed_times() {
    on_each_engine(|kept| {
        let jobs = TestJobs::new(&kept);
        let process = || client(kept.clone().cron("0 3 * * * Europe/Berlin", note("nightly")));
        let served = |jobs: Jobs| {
            let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), ..Config::default() };
            App::with_config(config).jobs(jobs).state(Notes::default()).start().unwrap()
        };
        let _ = process();
        // Paused, so that the enqueued jobs can be counted.
        jobs.pause("default").unwrap();
        let servers: Vec<_> =
            (0..3).map(|_| served(kept.clone().cron("0 3 * * * Europe/Berlin", note("nightly")))).collect();
        assert_eq!(jobs.counts().unwrap().waiting, 0);
        for night in 1..=3 {
            jobs.advance(Duration::from_secs(24 * 3600));
            until(|| jobs.counts().unwrap().waiting >= night);
        }
        drop(servers);
        jobs.advance(Duration::from_secs(10 * 24 * 3600));
        let server = served(kept.clone().cron("0 3 * * * Europe/Berlin", note("nightly")));
        until(|| jobs.counts().unwrap().waiting >= 4);
        drop(server);
        assert_eq!(jobs.counts().unwrap().waiting, 4, "ten nights without anybody are one job");
        let nightly = jobs.list(JobState::Waiting, None).unwrap();
        assert!(nightly.iter().all(|job| job.name == "note"));
    });
}

/// Waits for a condition.
#[track_caller]
fn until(mut holds: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < SOON, "it does not come");
        std::thread::yield_now();
    }
}

/// The gates that the jobs of a server wait for, and their messages.
struct Gates {
    tell: Mutex<Sender<String>>,
    go: Mutex<Receiver<()>>,
}

/// A job that reports its start, and ends when its gate opens or when it is told to cancel.
#[derive(Serialize, Deserialize)]
struct Held(String);

impl Job for Held {
    const NAME: &'static str = "held";
    const QUEUE: &'static str = "held";

    fn run(self, task: &TaskContext) -> Result<()> {
        let gates = task.state::<Gates>();
        task.progress(1, 2);
        gates.tell.lock().unwrap().send(format!("{} {}", self.0, task.attempt())).unwrap();
        loop {
            if self.0 == "fails of it" && task.is_cancelled() {
                return Err(Error::internal("cut short"));
            }
            task.check_cancelled()?;
            if gates.go.lock().unwrap().recv_timeout(Duration::from_millis(10)).is_ok() {
                return Ok(());
            }
        }
    }
}

struct Site {
    server: aside::server::Server,
    begun: Receiver<String>,
    go: Sender<()>,
}

fn site(jobs: &Jobs, grace: Duration) -> Site {
    let ((tell, begun), (go, wait)) = (channel(), channel());
    let config = Config { address: "127.0.0.1:0".into(), server: crate::server(), grace, ..Config::default() };
    let app = App::with_config(config)
        .jobs(jobs.clone().register::<Held>().register::<Note>())
        .panel(|_| true)
        .state(Gates { tell: Mutex::new(tell), go: Mutex::new(wait) })
        .state(Notes::default());
    Site { server: app.start().unwrap(), begun, go }
}

#[test]
fn workers_run_as_many_jobs_as_the_queue_allows() {
    on_each_engine(|kept| {
        let jobs = kept.register::<Held>().queue("held", 2);
        let site = site(&jobs, SOON);
        let ids = ["a", "b", "c"].map(|name| jobs.enqueue(Held(name.into())).unwrap().id);
        let mut begun = [(); 2].map(|()| site.begun.recv_timeout(SOON).unwrap());
        begun.sort();
        assert_eq!(begun, ["a 1", "b 1"]);
        let queue = jobs.queues().unwrap().into_iter().find(|queue| queue.name == "held").unwrap();
        assert_eq!((queue.running, queue.waiting), (2, 1));
        site.go.send(()).unwrap();
        assert_eq!(site.begun.recv_timeout(SOON).unwrap(), "c 1");
        (0..2).for_each(|_| site.go.send(()).unwrap());
        until(|| jobs.counts().unwrap().done == 3);
        assert!(ids.iter().all(|id| jobs.find(*id).unwrap().unwrap().state == JobState::Done));
        site.server.stop();
    });
}

#[test]
fn a_running_job_is_cancelled_and_followed_to_its_end() {
    on_each_engine(|kept| {
        let jobs = kept.register::<Held>();
        let site = site(&jobs, SOON);
        let id = jobs.enqueue(Held("a".into())).unwrap().id;
        let live = jobs.follow(id).unwrap().unwrap();
        site.begun.recv_timeout(SOON).unwrap();
        until(|| live.get().state == TaskState::Running && live.get().percent() == Some(50));
        assert_eq!(jobs.find(id).unwrap().unwrap().done, 1);
        assert_eq!(jobs.cancel(id).unwrap(), Some(JobState::Running));
        until(|| live.is_finished());
        assert_eq!(live.get().state, TaskState::Cancelled);
        assert_eq!(jobs.find(id).unwrap().unwrap().state, JobState::Cancelled);
        assert!(jobs.follow(id).unwrap().unwrap().is_finished() && jobs.follow(999).unwrap().is_none());
        site.server.stop();
    });
}

#[test]
fn a_job_that_fails_after_its_cancellation_is_not_retried() {
    on_each_engine(|kept| {
        let jobs = kept.register::<Held>();
        let site = site(&jobs, SOON);
        let id = jobs.enqueue(Held("fails of it".into())).unwrap().id;
        site.begun.recv_timeout(SOON).unwrap();
        jobs.cancel(id).unwrap();
        until(|| jobs.find(id).unwrap().unwrap().state.is_finished());
        let job = jobs.find(id).unwrap().unwrap();
        assert_eq!((job.state, &*job.failures[0].message), (JobState::Cancelled, "cut short"));
        site.server.stop();
    });
}

#[test]
fn a_waiting_job_is_cancelled_at_once_and_never_runs() {
    on_each_engine(|kept| {
        let client = client(kept.register::<Note>());
        let id = client.jobs().enqueue(note("never")).unwrap().id;
        assert_eq!(client.jobs().cancel(id).unwrap(), Some(JobState::Cancelled));
        client.drain();
        assert!(notes(&client).is_empty());
        assert_eq!(client.jobs().cancel(999).unwrap(), None);
    });
}

#[test]
fn a_graceful_shutdown_completes_short_jobs_and_releases_the_others() {
    on_each_engine(|kept| {
        let jobs = kept.register::<Held>();
        let first = site(&jobs, Duration::ZERO);
        let id = jobs.enqueue(Held("a".into())).unwrap().id;
        assert_eq!(first.begun.recv_timeout(SOON).unwrap(), "a 1");
        first.server.stop();
        let job = jobs.find(id).unwrap().unwrap();
        assert_eq!((job.state, job.attempt, job.interruptions), (JobState::Waiting, 0, 0));
        let second = site(&jobs, SOON);
        assert_eq!(second.begun.recv_timeout(SOON).unwrap(), "a 1");
        second.go.send(()).unwrap();
        second.server.stop();
        assert_eq!(jobs.find(id).unwrap().unwrap().state, JobState::Done);
    });
}

#[test]
fn a_paused_queue_starts_no_job_and_other_queues_continue() {
    on_each_engine(|kept| {
        let jobs = kept.register::<Held>().register::<Note>();
        let site = site(&jobs, SOON);
        jobs.pause("held").unwrap();
        let held = jobs.enqueue(Held("a".into())).unwrap().id;
        let other = jobs.enqueue(note("goes on")).unwrap().id;
        until(|| jobs.find(other).unwrap().unwrap().state == JobState::Done);
        assert_eq!(jobs.find(held).unwrap().unwrap().state, JobState::Waiting);
        jobs.resume("held").unwrap();
        site.begun.recv_timeout(SOON).unwrap();
        site.go.send(()).unwrap();
        site.server.stop();
    });
}

#[test]
fn a_job_past_its_deadline_has_failed_and_is_retried() {
    on_each_engine(|kept| {
        #[derive(Serialize, Deserialize)]
        struct Slow;
        impl Job for Slow {
            const NAME: &'static str = "slow";
            const DEADLINE: Option<Duration> = Some(Duration::from_millis(20));
            fn run(self, task: &TaskContext) -> Result<()> {
                Ok(task.sleep(Duration::from_secs(3600))?)
            }
        }
        let client = client(kept.register::<Slow>());
        client.jobs().enqueue(Slow).unwrap();
        let job = client.jobs().run_next().unwrap();
        assert_eq!((job.state, &*job.failures[0].message), (JobState::Scheduled, "timed out"));
    });
}

#[test]
fn a_job_can_be_cancelled_through_its_task() {
    on_each_engine(|kept| {
        let jobs = kept.register::<Held>();
        let site = site(&jobs, SOON);
        let id = jobs.enqueue(Held("a".into())).unwrap().id;
        site.begun.recv_timeout(SOON).unwrap();
        // The attempt is the first task of the site.
        ureq::post(format!("http://{}/_aside/tasks/1/cancel", site.server.addr())).send_empty().unwrap();
        until(|| jobs.find(id).unwrap().unwrap().state == JobState::Cancelled);
        site.server.stop();
    });
}

#[test]
fn a_clock_set_back_delays_no_job() {
    on_each_engine(|kept| {
        let client = client(kept.register::<Note>());
        let jobs = client.jobs();
        jobs.advance(Duration::from_secs(7200));
        jobs.enqueue(note("waits")).unwrap();
        jobs.set_clock_back(Duration::from_secs(3600));
        client.drain();
        assert_eq!(notes(&client), ["waits"]);
    });
}

/// A job that writes an effect in the transaction that completes it, and fails before or after it.
#[cfg(feature = "sqlite")]
#[derive(Serialize, Deserialize)]
struct Effect(String);

#[cfg(feature = "sqlite")]
impl Job for Effect {
    const NAME: &'static str = "effect";

    fn run(self, task: &TaskContext) -> Result<()> {
        task.transaction(|db| {
            db.execute("INSERT INTO effects VALUES (?)", [&self.0])?;
            task.jobs()?.enqueue_in(db, note(&format!("after {}", self.0)))?;
            match &*self.0 {
                "fails within" => Err(Error::internal("within")),
                "panics within" => panic!("within"),
                _ => Ok(()),
            }
        })?;
        if self.0 == "fails after" { Err(Error::internal("after")) } else { Ok(()) }
    }
}

#[cfg(feature = "sqlite")]
#[test]
fn the_writes_of_a_job_are_committed_with_its_completion_or_not_at_all() {
    logs::record();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let client = client(Jobs::sqlite(&path).unwrap().register::<Effect>().register::<Note>());
    let db = aside::jobs::rusqlite::Connection::open(&path).unwrap();
    db.execute_batch("CREATE TABLE effects (words TEXT)").unwrap();
    let effects = || -> Vec<String> {
        let mut query = db.prepare("SELECT words FROM effects").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    for (words, state, count, follows) in [
        ("goes well", JobState::Done, 1, true),
        ("fails within", JobState::Scheduled, 0, false),
        ("panics within", JobState::Scheduled, 0, false),
        ("fails after", JobState::Done, 1, true),
    ] {
        let id = client.jobs().enqueue(Effect(words.into())).unwrap().id;
        let job = client.jobs().run_next().unwrap();
        assert_eq!((job.id, job.state), (id, state), "{words}");
        assert_eq!(effects().iter().filter(|effect| *effect == words).count(), count, "{words}");
        client.drain();
        assert_eq!(notes(&client) == [format!("after {words}")], follows, "{words}");
    }
    assert_eq!(logs::with("after its transaction had completed it: it counts as done").len(), 1);
}

#[cfg(feature = "sqlite")]
#[test]
fn a_transaction_and_its_jobs_must_be_in_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = Jobs::sqlite(folder.path().join("jobs.db")).unwrap().register::<Note>();
    let mut other = aside::jobs::rusqlite::Connection::open(folder.path().join("shop.db")).unwrap();
    let transaction = other.transaction().unwrap();
    let refusal = |jobs: &Jobs| jobs.enqueue_in(&transaction, note("x")).unwrap_err().to_string();
    assert!(
        refusal(&jobs).contains("jobs.db") && refusal(&Jobs::memory().register::<Note>()).contains("same SQLite file")
    );
    let memory = client(Jobs::memory().register::<Effect>());
    memory.jobs().enqueue(Effect("x".into())).unwrap();
    let job = memory.jobs().run_next().unwrap();
    assert!(job.failures[0].message.contains("Jobs::sqlite"), "{:?}", job.failures);
}

#[test]
fn jobs_and_tasks_do_not_wait_for_each_other() {
    let ((tell, begun), (let_go, wait)) = (channel(), channel());
    let config = Config { max_tasks: 1, ..Config::default() };
    let jobs = Jobs::memory().register::<Note>().register::<Held>();
    let gates = Gates { tell: Mutex::new(tell), go: Mutex::new(wait) };
    let app = App::with_config(config).jobs(jobs).state(Notes::default()).state(gates);
    let client = TestClient::new(app);
    let run_next = || client.jobs().run_next().unwrap().state;
    // A task has the only slot, and others wait for it.
    let (end_task, task_ends) = channel::<()>();
    client.within(|| Task::named("has-the-place").spawn(move |_| task_ends.recv()));
    let waits: Vec<_> = client.within(|| (0..20).map(|_| Task::named("waits").spawn(|_| ())).collect());
    assert_eq!(client.counts().queued, 20);
    client.jobs().enqueue(note("beside")).unwrap();
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| tell.send(run_next()));
        let state = told.recv_timeout(SOON);
        // Runs in any case: a failed test must not wait for the job.
        drop(end_task);
        assert_eq!(state, Ok(JobState::Done));
    });
    assert!(waits.into_iter().all(|task| task.join().is_ok()));
    client.drain();
    // Conversely, a running job occupies no slot of the tasks.
    client.jobs().enqueue(Held("a".into())).unwrap();
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        let job = scope.spawn(run_next);
        begun.recv_timeout(SOON).unwrap();
        client.within(|| Task::named("beside-a-job").spawn(move |_| tell.send(7)));
        let ran = told.recv_timeout(SOON);
        let_go.send(()).unwrap();
        assert_eq!((ran, job.join().unwrap()), (Ok(7), JobState::Done));
    });
    client.drain();
}
