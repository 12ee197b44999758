//! What can go wrong with a server, and with those that work on its jobs.

use std::path::Path;
use std::process::Command;

use libtest_mimic::Completion;
use tempfile::TempDir;

use crate::faults::{self, Ground};
use crate::ledger::Ledger;
use crate::process::until;
use crate::redis::RedisServer;
use crate::site::{Setup, Site, address};
use crate::storm::{Plan, Storm};

/// A server that keeps what it has acknowledged, and a ledger.
struct Place {
    _folder: TempDir,
    server: RedisServer,
    ledger: Ledger,
}

impl Place {
    fn setup(&self) -> Setup {
        Setup::new(&self.server.url(), &self.ledger)
    }
}

/// Runs it where there is a server to be had.
fn with_place(test: impl FnOnce(Place)) -> Completion {
    with_server(RedisServer::durable(), test)
}

fn with_server(server: Option<RedisServer>, test: impl FnOnce(Place)) -> Completion {
    let Some(server) = server else {
        return Completion::ignored_with("no redis-server is installed (Debian: apt install redis-server)");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::start(folder.path());
    test(Place { _folder: folder, server, ledger });
    Completion::Completed
}

fn with_ground(test: fn(&Ground)) -> Completion {
    with_place(|place| test(&Ground { setup: place.setup(), ledger: &place.ledger, has_effects: false }))
}

pub(crate) fn a_process_that_stood_still_is_fenced_off() -> Completion {
    with_ground(faults::a_process_that_stood_still_is_fenced_off)
}

pub(crate) fn a_stop_lets_short_jobs_end_and_gives_long_ones_back() -> Completion {
    with_ground(faults::a_stop_lets_short_jobs_end_and_gives_long_ones_back)
}

pub(crate) fn a_stop_does_not_wait_for_ever_for_a_stubborn_job() -> Completion {
    with_ground(faults::a_stop_does_not_wait_for_ever_for_a_stubborn_job)
}

pub(crate) fn what_ran_is_recovered_after_sigquit() -> Completion {
    with_ground(faults::what_ran_is_recovered_after_sigquit)
}

pub(crate) fn several_processes_share_and_one_is_killed() -> Completion {
    with_ground(faults::several_processes_share_and_one_is_killed)
}

pub(crate) fn a_clock_that_is_put_back_holds_nothing_up() -> Completion {
    with_ground(faults::a_clock_that_is_put_back_holds_nothing_up)
}

pub(crate) fn a_job_that_ends_its_process_is_dead_in_the_end() -> Completion {
    with_ground(faults::a_job_that_ends_its_process_is_dead_in_the_end)
}

pub(crate) fn an_isolated_job_leaves_its_output_and_its_last_progress() -> Completion {
    with_ground(faults::an_isolated_job_leaves_its_output_and_its_last_progress)
}

pub(crate) fn an_isolated_job_harms_nobody() -> Completion {
    with_ground(faults::an_isolated_job_harms_nobody)
}

pub(crate) fn nothing_is_lost_where_workers_and_the_server_are_killed() -> Completion {
    with_place(|place| {
        let setup = Setup { workers: 8, ..place.setup() };
        let Place { mut server, ledger, _folder } = place;
        let tenth: Option<Box<dyn FnMut()>> = Some(Box::new(move || server.restart()));
        let plan =
            Plan { name: "Redis, three processes, and the server itself", kills: 60, workers: 2, file: None, tenth };
        Storm::new(plan, setup, &ledger).run();
    })
}

/// What was acknowledged is there after the server was killed; what ran meanwhile ends, and is not done again.
pub(crate) fn a_server_that_is_killed_comes_back_with_all_it_acknowledged() -> Completion {
    with_place(|mut place| {
        let site = place.setup().site();
        let jobs: Vec<(u64, String)> =
            (0..6).map(|n| format!("job-{n}")).map(|id| (site.enqueue(&id, "hold"), id)).collect();
        let later = site.enqueue("later", "later-short");
        until("four have begun", || (place.ledger.lines().len() == 4).then_some(()));
        place.server.restart();
        jobs.iter().for_each(|(_, id)| place.ledger.open(id));
        once_each(&place.ledger, &site, &jobs);
        site.wait_for(later, "done");
    })
}

/// While the server is away for longer than a lease nothing is acknowledged and pages are answered; what ran goes on, and
/// when the server is there again it counts: nobody takes those for dead who could not show that they live.
pub(crate) fn a_server_may_be_away_for_a_while() -> Completion {
    let seconds = std::env::var("ASIDE_REDIS_GONE").map_or(5, |value| value.parse().expect("seconds"));
    with_place(|mut place| {
        println!("Redis is gone for {seconds} s (ASIDE_REDIS_GONE), with a lease of 3 s");
        let (site, _worker) = (place.setup().site(), place.setup().worker());
        let jobs: Vec<(u64, String)> =
            (0..8).map(|n| format!("job-{n}")).map(|id| (site.enqueue(&id, "hold"), id)).collect();
        until("eight have begun", || (place.ledger.lines().len() == 8).then_some(()));
        place.server.kill();
        let (status, body) = site.post("/enqueue?id=refused&what=short");
        assert_eq!(status, 503, "{body}");
        assert_eq!(site.get("/"), (200, "a page".into()));
        place.ledger.open("job-0");
        until("one is done", || (place.ledger.times("done", "job-0") == 1).then_some(()));
        // How long it is away is what is tried.
        std::thread::sleep(std::time::Duration::from_secs(seconds));
        place.server.restart();
        jobs.iter().for_each(|(_, id)| place.ledger.open(id));
        once_each(&place.ledger, &site, &jobs);
        site.child.log.wait_for("The job store is reachable again");
        let after = until("it takes jobs again", || {
            let (status, body) = site.post("/enqueue?id=after&what=short");
            (status == 200).then(|| body.parse().expect("a number"))
        });
        site.wait_for(after, "done");
        assert_eq!(place.ledger.times("began", "refused"), 0);
    })
}

/// If the server is unreachable at start, pages are served, and jobs start when it is available. The log reports both.
pub(crate) fn a_server_may_be_away_at_the_start() -> Completion {
    with_place(|mut place| {
        place.server.kill();
        let (site, worker) = (place.setup().site(), place.setup().worker());
        assert_eq!(site.get("/"), (200, "a page".into()));
        let (status, body) = site.post("/enqueue?id=refused&what=short");
        assert_eq!(status, 503, "{body}");
        site.wait_until_not_ready("the server cannot be reached");
        site.child.log.wait_for("Could not reach the job store; retrying: Redis at");
        worker.log.wait_for("Could not reach the job store; retrying: Redis at");
        place.server.restart();
        site.wait_until_ready();
        let job = until("it takes jobs", || {
            let (status, body) = site.post("/enqueue?id=then&what=short");
            (status == 200).then(|| body.parse().expect("a number"))
        });
        site.wait_for(job, "done");
        site.child.log.wait_for("The job store is reachable again");
        assert_eq!(place.ledger.times("began", "refused"), 0);
    })
}

/// A server without persistence: the log warns at start, and reports the lost jobs after a restart. Running attempts are
/// finished here, since no other worker has them.
pub(crate) fn jobs_that_a_server_has_lost_are_told() -> Completion {
    with_server(RedisServer::start(&["appendonly no"]), |mut place| {
        let site = Setup { workers: 1, ..place.setup() }.site();
        let risk = site.child.log.wait_for("appendonly is no");
        assert!(risk.contains(" WARN "), "{risk}");
        site.enqueue("running", "hold");
        site.enqueue("waiting", "short");
        until("it begins", || (place.ledger.times("began", "running") == 1).then_some(()));
        let (_, seen) = site.get("/counts");
        assert!(seen.contains(r#""waiting":1"#), "{seen}");
        place.server.restart();
        let lost = site.child.log.wait_for("has lost jobs that it had acknowledged");
        assert!(lost.contains(" ERROR ") && lost.contains("was 2 and is now 0"), "{lost}");
        site.child.log.wait_for("has lost its data and does not know this process");
        place.ledger.open("running");
        until("it ends", || (place.ledger.times("done", "running") == 1).then_some(()));
        site.child.log.wait_for("was lost by the job store");
        let after = until("it takes jobs again", || {
            let (status, body) = site.post("/enqueue?id=after&what=short");
            (status == 200).then(|| body.parse().expect("a number"))
        });
        site.wait_for(after, "done");
        assert!(after > 2, "the number of a lost job is not given again");
        let log = site.child.log.text();
        assert!(!log.contains("were given to others") && !log.contains("are there again"), "{log}");
    })
}

/// A certificate for the loopback address, and its authority's.
fn certificates(folder: &Path) -> Option<()> {
    let openssl = |arguments: &str| {
        let words = arguments.split(' ');
        let output = Command::new("openssl").args(words).current_dir(folder).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    std::fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1").expect("a file");
    openssl(&format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=authority -days 2"))?;
    openssl(&format!("req {key} -keyout key.pem -out request.pem -subj /CN=redis"))?;
    openssl("x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out cert.pem -extfile names")
}

pub(crate) fn jobs_are_kept_over_tls_and_by_a_trusted_server_alone() -> Completion {
    let folder = tempfile::tempdir().expect("a folder");
    if certificates(folder.path()).is_none() {
        return Completion::ignored_with("no openssl is installed, to make a certificate with");
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (format!("tls-cert-file {}", file("cert.pem")), format!("tls-key-file {}", file("key.pem")));
    let settings = ["appendonly yes", "tls-port {port}", "port 0", "tls-auth-clients no", &cert, &key];
    with_server(RedisServer::start(&settings), |place| {
        let url = place.server.url().replace("redis://", "rediss://");
        let setup =
            |trusted: &str| Setup { jobs: url.clone(), more: vec![("SSL_CERT_FILE", file(trusted))], ..place.setup() };
        let site = setup("ca.pem").site();
        let job = site.enqueue("over-tls", "short");
        site.wait_for(job, "done");
        site.wait_until_ready();
        std::fs::write(file("none.pem"), "").expect("a file");
        let mut refused = setup("none.pem").spawn("site");
        let log = address(&refused).expect_err("a certificate that nobody vouches for");
        assert!(log.contains("the TLS handshake with Redis at 127.0.0.1") && log.contains("SSL_CERT_FILE"), "{log}");
        assert!(!refused.wait().success());
    })
}

/// A server that takes connections and answers nothing is as good as none.
pub(crate) fn a_server_that_stands_still_is_not_waited_for() -> Completion {
    with_place(|place| {
        let site = place.setup().site();
        let jobs = vec![(site.enqueue("running", "hold"), "running".to_owned())];
        until("it begins", || (place.ledger.times("began", "running") == 1).then_some(()));
        place.server.hold();
        assert_eq!(site.get("/"), (200, "a page".into()));
        let (status, body) = site.post("/enqueue?id=refused&what=short");
        assert_eq!(status, 503, "{body}");
        place.server.go_on();
        place.ledger.open("running");
        once_each(&place.ledger, &site, &jobs);
    })
}

fn once_each(ledger: &Ledger, site: &Site, jobs: &[(u64, String)]) {
    for (job, id) in jobs {
        // The engine may be away when it is asked.
        until(&format!("{id} is done"), || {
            let (status, body) = site.get(&format!("/job?number={job}"));
            (status == 200 && body.contains(r#""state":"done""#)).then_some(())
        });
        assert_eq!((ledger.times("began", id), ledger.times("done", id)), (1, 1), "{id}: {:?}", ledger.of(id));
    }
}
