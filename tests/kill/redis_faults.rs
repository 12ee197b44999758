//! Faults that concern the Redis server and its clients.

use std::path::Path;
use std::process::Command;

use crate::harness::Completion;
use tempfile::TempDir;

use crate::faults::{self, Environment};
use crate::ledger::Ledger;
use crate::process::until;
use crate::redis::RedisServer;
use crate::site::{Setup, Site, address};
use crate::storm::{Plan, Storm};

/// A server with durable storage, and a ledger.
struct TestStore {
    _folder: TempDir,
    server: RedisServer,
    ledger: Ledger,
}

impl TestStore {
    fn setup(&self) -> Setup {
        Setup::new(&self.server.url(), &self.ledger)
    }
}

/// Runs a test if a server is installed.
fn with_store(test: impl FnOnce(TestStore)) -> Completion {
    with_server(RedisServer::durable(), test)
}

fn with_server(server: Option<RedisServer>, test: impl FnOnce(TestStore)) -> Completion {
    let Some(server) = server else {
        return Completion::ignored_with("no redis-server is installed (Debian: apt install redis-server)");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let ledger = Ledger::start(folder.path());
    test(TestStore { _folder: folder, server, ledger });
    Completion::Completed
}

fn with_environment(test: fn(&Environment)) -> Completion {
    with_store(|store| test(&Environment { setup: store.setup(), ledger: &store.ledger, has_effects: false }))
}

pub(crate) fn outcomes_of_a_suspended_process_are_discarded() -> Completion {
    with_environment(faults::outcomes_of_a_suspended_process_are_discarded)
}

pub(crate) fn a_graceful_shutdown_completes_short_jobs_and_releases_long_ones() -> Completion {
    with_environment(faults::a_graceful_shutdown_completes_short_jobs_and_releases_long_ones)
}

pub(crate) fn a_graceful_shutdown_abandons_a_job_that_ignores_its_cancellation() -> Completion {
    with_environment(faults::a_graceful_shutdown_abandons_a_job_that_ignores_its_cancellation)
}

pub(crate) fn running_jobs_are_recovered_after_sigquit() -> Completion {
    with_environment(faults::running_jobs_are_recovered_after_sigquit)
}

pub(crate) fn the_tree_of_a_request_is_whole_after_a_kill() -> Completion {
    with_environment(faults::the_tree_of_a_request_is_whole_after_a_kill)
}

pub(crate) fn jobs_of_a_killed_process_run_in_another_process() -> Completion {
    with_environment(faults::jobs_of_a_killed_process_run_in_another_process)
}

pub(crate) fn a_clock_set_back_delays_and_repeats_no_job() -> Completion {
    with_environment(faults::a_clock_set_back_delays_and_repeats_no_job)
}

pub(crate) fn a_job_that_ends_its_process_repeatedly_is_dead() -> Completion {
    with_environment(faults::a_job_that_ends_its_process_repeatedly_is_dead)
}

pub(crate) fn an_isolated_job_transfers_its_output_and_its_last_progress() -> Completion {
    with_environment(faults::an_isolated_job_transfers_its_output_and_its_last_progress)
}

pub(crate) fn an_isolated_job_cannot_harm_the_site() -> Completion {
    with_environment(faults::an_isolated_job_cannot_harm_the_site)
}

pub(crate) fn no_job_is_lost_while_workers_and_the_server_are_killed() -> Completion {
    with_store(|store| {
        let setup = Setup { workers: 8, ..store.setup() };
        let TestStore { mut server, ledger, _folder } = store;
        let tenth: Option<Box<dyn FnMut()>> = Some(Box::new(move || server.restart()));
        let plan =
            Plan { name: "Redis, three processes, and the server itself", kills: 60, workers: 2, file: None, tenth };
        Storm::new(plan, setup, &ledger).run();
    })
}

/// Acknowledged jobs survive the death of the server. Jobs that run during the outage complete, and do not run again.
pub(crate) fn a_killed_server_restarts_with_all_acknowledged_jobs() -> Completion {
    with_store(|mut store| {
        let site = store.setup().site();
        let jobs: Vec<(u64, String)> =
            (0..6).map(|n| format!("job-{n}")).map(|id| (site.enqueue(&id, "hold"), id)).collect();
        let later = site.enqueue("later", "later-short");
        until("four have begun", || (store.ledger.lines().len() == 4).then_some(()));
        store.server.restart();
        jobs.iter().for_each(|(_, id)| store.ledger.open(id));
        once_each(&store.ledger, &site, &jobs);
        site.wait_for(later, "done");
    })
}

/// If the server is unreachable for longer than a lease, no job is acknowledged and pages are still served. Running
/// jobs continue, and their outcomes count when the server is back: no lease expires because heartbeats could not be
/// sent.
pub(crate) fn an_outage_of_the_server_expires_no_lease() -> Completion {
    let seconds = std::env::var("ASIDE_REDIS_GONE").map_or(5, |value| value.parse().expect("seconds"));
    with_store(|mut store| {
        println!("Redis is gone for {seconds} s (ASIDE_REDIS_GONE), with a lease of 3 s");
        let (site, _worker) = (store.setup().site(), store.setup().worker());
        let jobs: Vec<(u64, String)> =
            (0..8).map(|n| format!("job-{n}")).map(|id| (site.enqueue(&id, "hold"), id)).collect();
        until("eight have begun", || (store.ledger.lines().len() == 8).then_some(()));
        store.server.kill();
        let (status, body) = site.post("/enqueue?id=refused&what=short");
        assert_eq!(status, 503, "{body}");
        assert_eq!(site.get("/"), (200, "a page".into()));
        store.ledger.open("job-0");
        until("one is done", || (store.ledger.times("done", "job-0") == 1).then_some(()));
        // The test is about the duration of the outage.
        std::thread::sleep(std::time::Duration::from_secs(seconds));
        store.server.restart();
        jobs.iter().for_each(|(_, id)| store.ledger.open(id));
        once_each(&store.ledger, &site, &jobs);
        site.child.log.wait_for("The job store is reachable again");
        let after = until("it takes jobs again", || {
            let (status, body) = site.post("/enqueue?id=after&what=short");
            (status == 200).then(|| body.parse().expect("a number"))
        });
        site.wait_for(after, "done");
        assert_eq!(store.ledger.times("began", "refused"), 0);
    })
}

/// If the server is unreachable at start, pages are served, and jobs start when it is available. The log reports both.
pub(crate) fn a_server_can_be_unreachable_at_the_start() -> Completion {
    with_store(|mut store| {
        store.server.kill();
        let (site, worker) = (store.setup().site(), store.setup().worker());
        assert_eq!(site.get("/"), (200, "a page".into()));
        let (status, body) = site.post("/enqueue?id=refused&what=short");
        assert_eq!(status, 503, "{body}");
        site.wait_until_not_ready("the server cannot be reached");
        site.wait_for_health("degraded", "the server cannot be reached");
        site.child.log.wait_for("Could not reach the job store; retrying: Redis at");
        worker.log.wait_for("Could not reach the job store; retrying: Redis at");
        store.server.restart();
        site.wait_until_ready();
        let job = until("it takes jobs", || {
            let (status, body) = site.post("/enqueue?id=then&what=short");
            (status == 200).then(|| body.parse().expect("a number"))
        });
        site.wait_for(job, "done");
        site.wait_for_health("ok", "ok");
        site.child.log.wait_for("The job store is reachable again");
        assert_eq!(store.ledger.times("began", "refused"), 0);
    })
}

/// A server without persistence: the log warns at start, and reports the lost jobs after a restart. Running attempts
/// are finished here, since no other worker has them.
pub(crate) fn lost_jobs_of_a_server_are_logged() -> Completion {
    with_server(RedisServer::start(&["appendonly no"]), |mut store| {
        let site = Setup { workers: 1, ..store.setup() }.site();
        let risk = site.child.log.wait_for("appendonly is no");
        assert!(risk.contains(" WARN "), "{risk}");
        site.enqueue("running", "hold");
        site.enqueue("waiting", "short");
        until("it begins", || (store.ledger.times("began", "running") == 1).then_some(()));
        let (_, seen) = site.get("/counts");
        assert!(seen.contains(r#""waiting":1"#), "{seen}");
        store.server.restart();
        let lost = site.child.log.wait_for("has lost jobs that it had acknowledged");
        assert!(lost.contains(" ERROR ") && lost.contains("was 2 and is now 0"), "{lost}");
        site.child.log.wait_for("has lost its data and does not know this process");
        store.ledger.open("running");
        until("it ends", || (store.ledger.times("done", "running") == 1).then_some(()));
        site.child.log.wait_for("was lost by the job store");
        let after = until("it takes jobs again", || {
            let (status, body) = site.post("/enqueue?id=after&what=short");
            (status == 200).then(|| body.parse().expect("a number"))
        });
        site.wait_for(after, "done");
        assert!(after > 2, "the id of a lost job is not assigned again");
        let log = site.child.log.text();
        assert!(!log.contains("were given to other workers") && !log.contains("Released "), "{log}");
    })
}

/// Creates a certificate for the loopback address, and its authority's.
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

pub(crate) fn jobs_are_stored_over_tls_and_only_on_a_trusted_server() -> Completion {
    let folder = tempfile::tempdir().expect("a folder");
    if certificates(folder.path()).is_none() {
        return Completion::ignored_with("no openssl is installed, to make a certificate with");
    }
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (format!("tls-cert-file {}", file("cert.pem")), format!("tls-key-file {}", file("key.pem")));
    let settings = ["appendonly yes", "tls-port {port}", "port 0", "tls-auth-clients no", &cert, &key];
    with_server(RedisServer::start(&settings), |store| {
        let url = store.server.url().replace("redis://", "rediss://");
        let setup =
            |trusted: &str| Setup { jobs: url.clone(), more: vec![("SSL_CERT_FILE", file(trusted))], ..store.setup() };
        let site = setup("ca.pem").site();
        let job = site.enqueue("over-tls", "short");
        site.wait_for(job, "done");
        site.wait_until_ready();
        std::fs::write(file("none.pem"), "").expect("a file");
        let mut refused = setup("none.pem").spawn("site");
        let log = address(&refused).expect_err("a certificate without a trusted authority");
        assert!(log.contains("the TLS handshake with Redis at 127.0.0.1") && log.contains("SSL_CERT_FILE"), "{log}");
        assert!(!refused.wait().success());
    })
}

/// A server that accepts connections and never replies counts as unreachable.
pub(crate) fn a_suspended_server_counts_as_unreachable() -> Completion {
    with_store(|store| {
        let site = store.setup().site();
        let jobs = vec![(site.enqueue("running", "hold"), "running".to_owned())];
        until("it begins", || (store.ledger.times("began", "running") == 1).then_some(()));
        store.server.hold();
        assert_eq!(site.get("/"), (200, "a page".into()));
        let (status, body) = site.post("/enqueue?id=refused&what=short");
        assert_eq!(status, 503, "{body}");
        store.server.go_on();
        store.ledger.open("running");
        once_each(&store.ledger, &site, &jobs);
    })
}

fn once_each(ledger: &Ledger, site: &Site, jobs: &[(u64, String)]) {
    for (job, id) in jobs {
        // The engine may be unreachable when it is queried.
        until(&format!("{id} is done"), || {
            let (status, body) = site.get(&format!("/job?number={job}"));
            (status == 200 && body.contains(r#""state":"done""#)).then_some(())
        });
        assert_eq!((ledger.times("began", id), ledger.times("done", id)), (1, 1), "{id}: {:?}", ledger.of(id));
    }
}
