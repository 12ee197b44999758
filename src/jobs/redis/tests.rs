//! Tests of Redis only: a server that is unreachable, killed or misconfigured, and connections that break.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use ::redis::{Client, FromRedisValue, Value};

use super::losses::{self, Snapshot};
use super::server_of_tests::RedisServer;
use super::{Redis, TIMEOUT, scripts, server};
use crate::background::output::Output;
use crate::error::{Result, Status};
use crate::jobs::conformance::{self, Bench};
use crate::jobs::engine::{
    AttemptFailure, Capacity, ClaimRequest, Claimed, EndedAttempt, Engine, Entry, Exchanged, HeartbeatReply, HeldJob,
    LastValues, MOST_OF_TRACE, Resolution, ResolvedAttempt, Retention, Unavailable, When, WorkerId,
};
use crate::jobs::memory::Memory;
use crate::jobs::record::{FailureKind, JobCounts, JobState, Millis, StoredOutput};
use crate::sync::{Notify, lock};

/// One server for all cases, with a key prefix for each.
struct RedisBench {
    server: Arc<RedisServer>,
    prefix: String,
}

impl RedisBench {
    fn new() -> Result<RedisBench, String> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let server = shared().ok_or("no redis-server is installed")?;
        Ok(RedisBench { server, prefix: format!("case-{}:", NUMBER.fetch_add(1, Ordering::Relaxed)) })
    }
}

/// Returns a server for tests that do not change it. It ends with the last test that holds it, and is started again for
/// the next.
fn shared() -> Option<Arc<RedisServer>> {
    static SERVER: Mutex<Weak<RedisServer>> = Mutex::new(Weak::new());
    let mut server = lock(&SERVER);
    if let Some(running) = server.upgrade() {
        return Some(running);
    }
    let started = Arc::new(RedisServer::start(&["appendonly yes"])?);
    *server = Arc::downgrade(&started);
    Some(started)
}

impl Bench for RedisBench {
    fn engine(&self) -> Arc<dyn Engine> {
        self.another()
    }

    fn another(&self) -> Arc<dyn Engine> {
        Arc::new(Redis::open_with(&self.server.url(), &self.prefix, TIMEOUT).expect("the server refuses it"))
    }
}

conformance::conformance!(redis, RedisBench::new);

const T: Millis = 2_000_000_000_000;

/// The longest wait of a test for an event.
const LONG: Duration = Duration::from_secs(30);

/// The timeout for a server that the test suspends.
const SHORT: Duration = Duration::from_millis(300);

fn open(server: &RedisServer) -> Redis {
    Redis::open(&server.url()).expect("the server refuses it")
}

fn entry(label: &str) -> Entry {
    Entry {
        name: "job".to_owned(),
        label: label.to_owned(),
        payload: "{}".to_owned(),
        queue: "default".to_owned(),
        priority: 0,
        unique: None,
        when: When::Now,
        origin: None,
        trace: None,
        parent: None,
    }
}

fn add(engine: &Redis, label: &str) -> Result<u64> {
    Ok(engine.enqueue(vec![entry(label)], T)?[0].id)
}

fn take(engine: &Redis, worker: &WorkerId, most: usize) -> Result<Vec<Claimed>> {
    engine.claim(worker, &[Capacity { queue: "default".to_owned(), free: most }], T)
}

fn resolve(engine: &Redis, claimed: &Claimed, resolution: Resolution) -> Result<bool> {
    engine.resolve(claimed.id, claimed.token, resolution.into(), T)
}

fn failure(kind: FailureKind) -> AttemptFailure {
    let location = Some("src/orders.rs:41".to_owned());
    AttemptFailure {
        location,
        backtrace: Some("  0: save\n  1: run".to_owned()),
        ..AttemptFailure::new(kind, "broken")
    }
}

fn counts(waiting: u64, running: u64, done: u64) -> JobCounts {
    JobCounts { waiting, running, done, ..JobCounts::default() }
}

/// Repeats the call until it returns a value.
fn eventually<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < LONG, "no value within {LONG:?}");
        std::thread::yield_now();
    }
}

/// Returns the server's reply to a command, to check the state behind the engine.
fn ask<T: FromRedisValue>(server: &RedisServer, command: &str) -> T {
    let mut connection = Client::open(server.url()).unwrap().get_connection().unwrap();
    let mut message = command.split(' ');
    ::redis::cmd(message.next().unwrap()).arg(message.collect::<Vec<_>>()).query(&mut connection).unwrap()
}

fn refusal(opened: Result<Redis>) -> String {
    opened.err().expect("it is refused").chain()
}

// Settings.

#[test]
fn a_missing_append_only_file_is_reported_with_its_risk() {
    let Some(server) = RedisServer::start(&["appendonly no"]) else { return };
    let risks = |server| server::risks(&open(server).pool.info().unwrap().unwrap());
    let told = risks(&server);
    assert!(told.len() == 1 && told[0].contains("appendonly") && told[0].contains("loses"), "{told:?}");
    let () = ask(&server, "CONFIG SET appendonly yes");
    assert_eq!(risks(&server), Vec::<String>::new());
}

#[test]
fn an_eviction_policy_is_refused() {
    let Some(server) = RedisServer::start(&["appendonly yes", "maxmemory-policy allkeys-lru"]) else { return };
    // Without a memory limit nothing is evicted.
    let told = server::risks(&open(&server).pool.info().unwrap().unwrap());
    assert!(told.len() == 1 && told[0].contains("maxmemory-policy noeviction"), "{told:?}");
    let () = ask(&server, "CONFIG SET maxmemory 100mb");
    let refusal = refusal(Redis::open(&server.url()));
    assert!(refusal.contains("allkeys-lru") && refusal.contains("set maxmemory-policy noeviction"), "{refusal}");
    let () = ask(&server, "CONFIG SET maxmemory-policy volatile-lru");
    open(&server);
}

#[test]
fn an_old_server_and_a_replica_are_refused() {
    let fault = |info: &str| server::fault(info).unwrap_or_default();
    assert!(fault("redis_version:6.2.14\r\nredis_mode:standalone\r\n").contains("7.0"));
    assert!(fault("redis_version:7.2.1\r\nredis_mode:cluster\r\n").contains("cluster"));
    assert!(fault("redis_version:7.2.1\r\nrole:slave\r\n").contains("primary"));
    assert_eq!(fault("redis_version:10.0.1\r\nredis_mode:standalone\r\nrole:master\r\n"), "");
}

#[test]
fn a_password_is_never_shown() {
    const PASSWORD: &str = "hunter2-secret";
    let Some(mut server) = RedisServer::start(&["appendonly yes", &format!("requirepass {PASSWORD}")]) else { return };
    let with = |password: &str| format!("redis://:{password}@127.0.0.1:{}/3", server.port());
    let url = with(PASSWORD);
    let engine = Redis::open_with(&url, "aside:", SHORT).unwrap();
    assert_eq!(engine.describe(), format!("redis 127.0.0.1:{}/3", server.port()));
    let mut told = vec![
        engine.describe(),
        refusal(Redis::open(&with("hunter2-wrong"))),
        refusal(Redis::open(&server.url())),
        add(&Redis::open_with(&url.replace("redis://", "rediss://"), "aside:", SHORT).unwrap(), "x")
            .unwrap_err()
            .chain(),
        refusal(Redis::open(&url.replace("redis://", "http://"))),
        refusal(Redis::open(&url.replace("/3", "/x"))),
    ];
    assert!(told[3].contains("cannot be reached; check that it runs, with TLS on that port"), "{told:#?}");
    server.hold();
    told.push(add(&engine, "held").unwrap_err().chain());
    server.go_on();
    server.kill();
    told.push(add(&engine, "away").unwrap_err().chain());
    told.push(add(&Redis::open(&url).unwrap(), "away from the start").unwrap_err().chain());
    assert!(told.iter().all(|message| !message.contains("hunter2")), "{told:#?}");
    let address = format!("127.0.0.1:{}", server.port());
    assert!(told[6..].iter().all(|message| message.contains(&address)), "{told:#?}");
    assert!(told[1].contains("refuses the connection") && told[4].contains("redis://user:password@host"), "{told:#?}");
}

#[test]
fn a_user_without_info_permission_can_store_jobs() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let () = ask(&server, "ACL SETUSER app on >pass ~aside:* +@all -info");
    let engine = Redis::open(&format!("redis://app:pass@127.0.0.1:{}/", server.port())).unwrap();
    add(&engine, "mine").unwrap();
    let () = ask(&server, "ACL SETUSER poor on >pass ~aside:* +@read");
    let refusal = refusal(Redis::open(&format!("redis://poor:pass@127.0.0.1:{}/", server.port())));
    assert!(refusal.contains("permission"), "{refusal}");
}

#[test]
fn a_full_memory_refuses_new_jobs_and_lets_others_complete() {
    let Some(server) = RedisServer::start(&["appendonly yes", "maxmemory-policy noeviction"]) else { return };
    let engine = open(&server);
    let worker = engine.join().unwrap();
    let ids = engine.enqueue(vec![entry("kept"); 3], T).unwrap();
    let () = ask(&server, "CONFIG SET maxmemory 1mb");
    let error = add(&engine, "one too many").unwrap_err().chain();
    assert!(error.contains("OOM") && error.contains("maxmemory"), "{error}");
    let claimed = take(&engine, &worker, 9).unwrap();
    assert_eq!(claimed.len(), ids.len());
    assert!(resolve(&engine, &claimed[0], Resolution::Done).unwrap());
    assert!(resolve(&engine, &claimed[1], Resolution::Released).unwrap());
    assert_eq!(engine.counts().unwrap(), counts(1, 1, 1));
    let () = ask(&server, "CONFIG SET maxmemory 0");
    add(&engine, "there is room again").unwrap();
}

#[test]
fn too_many_jobs_in_one_call_are_refused() {
    let Ok(bench) = RedisBench::new() else { return };
    let engine = Redis::open_with(&bench.server.url(), &bench.prefix, TIMEOUT).unwrap();
    let refused = engine.enqueue(vec![entry("job"); 20_001], T).unwrap_err().chain();
    assert!(refused.contains("at most 20000 in one call"), "{refused}");
    assert_eq!(engine.counts().unwrap(), counts(0, 0, 0));
}

// An unreachable server.

#[test]
fn acknowledged_jobs_survive_a_killed_server() {
    let Some(mut server) = RedisServer::durable() else { return };
    let engine = open(&server);
    let kept: Mutex<Vec<(u64, String)>> = Mutex::default();
    let enough = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (engine, kept, enough) = (&engine, &kept, &enough);
        for thread in 0..4 {
            scope.spawn(move || {
                for number in 0.. {
                    let label = format!("{thread}-{number}");
                    let Ok(id) = add(engine, &label) else { return };
                    lock(kept).push((id, label));
                    enough.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually(|| (enough.load(Ordering::Relaxed) > 300).then_some(()));
        server.kill();
    });
    server.restart();
    let kept = lock(&kept);
    for (id, label) in kept.iter() {
        assert_eq!(engine.find(*id).unwrap().map(|job| job.label).as_ref(), Some(label));
    }
    // A failed call may have had its effect, once.
    let waiting = engine.counts().unwrap().waiting;
    assert!((kept.len() as u64..=kept.len() as u64 + 4).contains(&waiting), "{waiting} of {}", kept.len());
}

#[test]
fn jobs_continue_over_restarts_of_the_server() {
    const JOBS: usize = 400;
    let Some(mut server) = RedisServer::durable() else { return };
    let engine = open(&server);
    engine.enqueue(vec![entry("job"); JOBS], T).unwrap();
    let done = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (engine, done) = (&engine, &done);
        for _ in 0..3 {
            scope.spawn(move || {
                let worker = eventually(|| engine.join().ok());
                while done.load(Ordering::Relaxed) < JOBS {
                    // An interrupted call is repeated: no claim and no outcome is lost.
                    for claimed in eventually(|| take(engine, &worker, 5).ok()) {
                        assert!(eventually(|| resolve(engine, &claimed, Resolution::Done).ok()));
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for share in [JOBS / 4, JOBS / 2] {
            eventually(|| (done.load(Ordering::Relaxed) > share).then_some(()));
            server.restart();
        }
    });
    assert_eq!(engine.counts().unwrap(), counts(0, 0, JOBS as u64));
}

#[test]
fn running_jobs_survive_a_killed_server() {
    let Some(mut server) = RedisServer::durable() else { return };
    let engine = open(&server);
    let worker = engine.join().unwrap();
    let ids: Vec<u64> = engine.enqueue(vec![entry("job"); 4], T).unwrap().iter().map(|new| new.id).collect();
    // A released job runs from another stream.
    let first = take(&engine, &worker, 1).unwrap();
    assert!(resolve(&engine, &first[0], Resolution::Released).unwrap());
    let claimed = take(&engine, &worker, 3).unwrap();
    let order = |claimed: &[Claimed]| claimed.iter().map(|claimed| claimed.id).collect::<Vec<_>>();
    assert_eq!(order(&claimed), ids[..3]);
    for is_rewritten in [false, true] {
        if is_rewritten {
            let () = ask(&server, "BGREWRITEAOF");
            eventually(|| {
                let info: String = ask(&server, "INFO persistence");
                (info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")).then_some(())
            });
        }
        server.restart();
        let held: Vec<_> = claimed.iter().map(|job| HeldJob { id: job.id, token: job.token, progress: None }).collect();
        assert_eq!(engine.heartbeat(&worker, &held, T).unwrap(), HeartbeatReply::default());
    }
    assert!(resolve(&engine, &claimed[1], Resolution::Done).unwrap());
    engine.leave(&worker, T).unwrap();
    let worker = engine.join().unwrap();
    assert_eq!(order(&take(&engine, &worker, 9).unwrap()), [ids[0], ids[2], ids[3]]);
}

#[test]
fn a_suspended_server_is_an_error_and_works_when_it_resumes() {
    let Some(server) = RedisServer::durable() else { return };
    let engine = Redis::open_with(&server.url(), "aside:", SHORT).unwrap();
    let worker = engine.join().unwrap();
    let id = add(&engine, "before").unwrap();
    server.hold();
    let refused = take(&engine, &worker, 1).unwrap_err().chain();
    assert!(refused.contains("has not answered within 300 ms"), "{refused}");
    let refused = add(&engine, "during the outage").unwrap_err().chain();
    assert!(refused.contains("has not answered") || refused.contains("cannot be reached"), "{refused}");
    server.go_on();
    // The server executed the claim late. The worker gets its reply now.
    let claimed = eventually(|| take(&engine, &worker, 1).ok());
    assert_eq!(claimed.iter().map(|claimed| claimed.id).collect::<Vec<_>>(), [id]);
    assert!(resolve(&engine, &claimed[0], Resolution::Done).unwrap());
    add(&engine, "after").unwrap();
}

#[test]
fn an_address_without_a_server_is_an_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It accepts the connection and sends nothing.
    let silent = Redis::open_with(&format!("redis://{address}"), "aside:", SHORT).unwrap();
    let refused = add(&silent, "job").unwrap_err().chain();
    assert!(refused.contains(&address.to_string()), "{refused}");
    drop(listener);
    let refused = add(&Redis::open(&format!("redis://{address}")).unwrap(), "job").unwrap_err();
    assert_eq!(refused.status_code(), Status::SERVICE_UNAVAILABLE);
    assert!(refused.chain().contains(&format!("Redis at {address}/0 cannot be reached")), "{}", refused.chain());
}

#[test]
fn a_server_that_is_unreachable_at_start_is_used_later() {
    let Some(mut server) = RedisServer::durable() else { return };
    server.kill();
    let engine = open(&server);
    assert_eq!(reason(engine.check()), "the server cannot be reached");
    engine.join().unwrap_err();
    server.restart();
    add(&engine, "job").unwrap();
    let worker = engine.join().unwrap();
    assert_eq!(take(&engine, &worker, 9).unwrap().len(), 1);
}

#[test]
fn a_server_that_restarts_empty_has_lost_its_jobs() {
    let Some(mut server) = RedisServer::start(&["appendonly no"]) else { return };
    let (engine, other) = (open(&server), open(&server));
    let worker = engine.join().unwrap();
    let ids = engine.enqueue(vec![entry("job"); 5], T).unwrap();
    let claimed = take(&engine, &worker, 2).unwrap();
    assert!(!engine.observe().unwrap().has_lost_jobs && !other.observe().unwrap().has_lost_jobs);
    server.restart();
    let held: Vec<_> = claimed.iter().map(|job| HeldJob { id: job.id, token: job.token, progress: None }).collect();
    let heartbeat = engine.heartbeat(&worker, &held, T).unwrap();
    assert!(heartbeat.is_evicted && heartbeat.has_lost_jobs, "no other worker has its jobs");
    assert!(!engine.observe().unwrap().has_lost_jobs, "it is reported once");
    assert!(!other.observe().unwrap().has_lost_jobs, "by one process");
    // A page that follows a lost job must not show another job.
    assert_eq!(add(&other, "new").unwrap(), ids[4].id + 1);
    let unknown = engine.heartbeat(&WorkerId("unknown".to_owned()), &[], T).unwrap();
    assert!(unknown.is_evicted && !unknown.has_lost_jobs);
}

#[test]
fn lost_jobs_are_logged_with_their_number() {
    let before = Snapshot { last_id: 41, counts: JobCounts { scheduled: 2, dead: 1, ..counts(7, 3, 30) } };
    let message = losses::message(before, Snapshot { last_id: 40, counts: counts(6, 0, 30) });
    assert!(message.contains("was 41 and is now 40."), "{message}");
    assert!(
        message.contains("7 waiting, 2 scheduled, 3 running and 1 dead; now it has 6 waiting, 0 scheduled"),
        "{message}"
    );
}

/// Returns the reason for clients why no job can be stored.
fn reason(checked: Result<()>) -> &'static str {
    checked.unwrap_err().find_source::<Unavailable>().expect("a reason").reason
}

#[test]
fn the_reason_for_clients_contains_no_address() {
    let Some(mut server) = RedisServer::start(&["appendonly yes", "maxmemory-policy noeviction"]) else { return };
    let engine = Redis::open_with(&server.url(), "aside:", SHORT).unwrap();
    engine.check().unwrap();
    let () = ask(&server, "CONFIG SET maxmemory 1mb");
    assert_eq!(reason(engine.check()), "the memory of the server is full");
    let () = ask(&server, "CONFIG SET maxmemory 0");
    let () = ask(&server, "REPLICAOF 127.0.0.1 1");
    assert_eq!(reason(engine.check()), "the server is a replica");
    let () = ask(&server, "CONFIG SET replica-serve-stale-data no");
    assert_eq!(reason(engine.check()), "the server is a replica");
    let () = ask(&server, "REPLICAOF NO ONE");
    engine.check().unwrap();
    server.hold();
    assert_eq!(reason(engine.check()), "the server does not answer");
    server.go_on();
    server.kill();
    assert_eq!(reason(engine.check()), "the server cannot be reached");
}

// Connections that break.

/// A proxy between engine and server that can lose replies: the server has executed the call, and the caller gets no
/// reply.
struct Proxy {
    address: SocketAddr,
    /// The port of the server that new connections reach.
    port: Arc<AtomicU16>,
    lost: Arc<AtomicUsize>,
}

impl Proxy {
    fn new(server: &RedisServer) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, port) = (listener.local_addr().unwrap(), Arc::new(AtomicU16::new(server.port())));
        let leads_to = Arc::clone(&port);
        let lost = Arc::new(AtomicUsize::new(0));
        let losing = Arc::clone(&lost);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", leads_to.load(Ordering::SeqCst))) else { return };
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass(&from, &to, &AtomicUsize::new(0)));
                let losing = Arc::clone(&losing);
                thread::spawn(move || pass(&server, &client, &losing));
            }
        });
        Proxy { address, port, lost }
    }

    /// Redirects new connections to that server. Existing connections stay.
    fn lead_to(&self, server: &RedisServer) {
        self.port.store(server.port(), Ordering::SeqCst);
    }

    fn open(&self) -> Redis {
        Redis::open(&format!("redis://{}", self.address)).unwrap()
    }

    /// Loses the next replies, and their connections with them.
    fn lose(&self, answers: usize) {
        self.lost.store(answers, Ordering::SeqCst);
    }

    fn has_lost_all(&self) -> bool {
        self.lost.load(Ordering::SeqCst) == 0
    }
}

/// Forwards bytes until a reply is to be lost.
fn pass(mut from: &TcpStream, mut to: &TcpStream, lost: &AtomicUsize) {
    let mut bytes = [0; 65_536];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let is_lost = lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if is_lost || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// The address leads to the new primary. Older connections lead to the old one, now a replica.
#[test]
fn after_a_failover_calls_go_to_the_new_primary() {
    let (Some(old), Some(new)) = (RedisServer::durable(), RedisServer::durable()) else { return };
    let () = ask(&new, &format!("REPLICAOF 127.0.0.1 {}", old.port()));
    let proxy = Proxy::new(&old);
    let engine = proxy.open();
    let listener = Arc::new(Notify::default());
    engine.listen(&listener).unwrap();
    let worker = engine.join().unwrap();
    // Several connections are open.
    thread::scope(|scope| {
        let more = [0; 8].map(|_| scope.spawn(|| add(&engine, "before").unwrap()));
        for thread in more {
            thread.join().unwrap();
        }
    });
    let () = eventually(|| {
        let kept: Option<u64> = ask(&new, "GET aside:last-id");
        (kept == Some(8)).then_some(())
    });
    let () = ask(&new, "REPLICAOF NO ONE");
    let () = ask(&old, &format!("REPLICAOF 127.0.0.1 {}", new.port()));
    proxy.lead_to(&new);
    for number in 9..20 {
        assert_eq!(add(&engine, "after").unwrap(), number, "the first call too");
    }
    assert!(!engine.observe().unwrap().has_lost_jobs);
    assert_eq!(take(&engine, &worker, 99).unwrap().len(), 19);
    assert_eq!(open(&new).counts().unwrap(), counts(0, 19, 0));
}

#[test]
fn a_lost_reply_has_no_effect_twice() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let (proxy, direct) = (Proxy::new(&server), open(&server));
    let engine = proxy.open();
    let worker = engine.join().unwrap();
    // The server knows each script, so that the lost reply is that of the operation itself.
    let id = add(&engine, "warm").unwrap();
    assert!(resolve(&engine, &take(&engine, &worker, 1).unwrap()[0], Resolution::Done).unwrap());
    assert!(!engine.revive(id, T).unwrap() && engine.discard(id).unwrap());
    assert!(engine.tick("warm", 1, None, T).unwrap());
    let lose = || proxy.lose(1);

    lose();
    let id = add(&engine, "once").unwrap();
    assert!(proxy.has_lost_all());
    assert_eq!(direct.counts().unwrap(), counts(1, 0, 0));
    lose();
    let claimed = take(&engine, &worker, 5).unwrap();
    assert_eq!((claimed.len(), claimed[0].id, claimed[0].attempt), (1, id, 1));
    lose();
    assert!(resolve(&engine, &claimed[0], Resolution::Dead { failure: failure(FailureKind::Panicked) }).unwrap());
    assert_eq!(direct.find(id).unwrap().unwrap().failures.len(), 1);
    lose();
    assert!(engine.revive(id, T).unwrap());
    lose();
    assert!(engine.tick("daily", 7, Some(entry("ticked")), T).unwrap());
    lose();
    assert!(engine.discard(id).unwrap());
    assert!(proxy.has_lost_all());
    assert_eq!(direct.counts().unwrap(), counts(1, 0, 0));
}

#[test]
fn a_failed_call_gets_its_reply_when_it_is_repeated() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let (proxy, direct) = (Proxy::new(&server), open(&server));
    let engine = proxy.open();
    let worker = engine.join().unwrap();
    add(&engine, "warm").unwrap();
    assert!(resolve(&engine, &take(&engine, &worker, 1).unwrap()[0], Resolution::Done).unwrap());

    let id = add(&engine, "job").unwrap();
    // The reply to the repetition is lost too, since the first one's connection was the only one known to be broken.
    proxy.lose(2);
    let refused = take(&engine, &worker, 1).unwrap_err().chain();
    assert!(refused.contains("was lost") || refused.contains("cannot be reached"), "{refused}");
    assert_eq!(direct.find(id).unwrap().unwrap().state, JobState::Running);
    let claimed = take(&engine, &worker, 1).unwrap();
    assert_eq!((claimed.len(), claimed[0].id), (1, id));
    proxy.lose(2);
    resolve(&engine, &claimed[0], Resolution::Done).unwrap_err();
    assert_eq!(direct.find(id).unwrap().unwrap().state, JobState::Done);
    assert!(resolve(&engine, &claimed[0], Resolution::Done).unwrap());
    assert!(!resolve(&engine, &claimed[0], Resolution::Done).unwrap());
}

/// Reports outcomes and claims jobs in one call.
fn exchange(engine: &Redis, worker: &WorkerId, ended: &[EndedAttempt], most: usize) -> Result<Exchanged> {
    let capacities = [Capacity { queue: "default".to_owned(), free: most }];
    engine.exchange(ended, Some(ClaimRequest { worker, capacities: &capacities }), T)
}

fn done(claimed: &Claimed) -> EndedAttempt {
    EndedAttempt { id: claimed.id, token: claimed.token, resolved: Arc::new(Resolution::Done.into()) }
}

fn claimed_ids(exchanged: &Exchanged) -> Vec<u64> {
    exchanged.claimed.as_ref().unwrap().iter().map(|claimed| claimed.id).collect()
}

#[test]
fn an_outcome_that_cannot_be_recorded_affects_neither_the_others_nor_the_claim() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let engine = open(&server);
    let worker = engine.join().unwrap();
    engine.enqueue(vec![entry("job"); 4], T).unwrap();
    let claimed = take(&engine, &worker, 2).unwrap();
    let () = ask(&server, "SET aside:job:1 damaged");
    let exchanged = exchange(&engine, &worker, &[done(&claimed[0]), done(&claimed[1])], 2).unwrap();
    let refused = exchanged.recorded[0].as_ref().unwrap_err().chain();
    assert!(refused.contains("Redis refuses the outcome") && refused.contains("WRONGTYPE"), "{refused}");
    assert!(*exchanged.recorded[1].as_ref().unwrap());
    assert_eq!(claimed_ids(&exchanged), [3, 4]);
    assert_eq!(engine.counts().unwrap().done, 1);
}

/// Regression: the error of the claim ended the script, and outcomes that were recorded in part were recorded as stale.
#[test]
fn a_damaged_job_affects_neither_the_outcomes_nor_the_other_claims() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let engine = open(&server);
    let worker = engine.join().unwrap();
    engine.enqueue(vec![entry("job"); 4], T).unwrap();
    let claimed = take(&engine, &worker, 2).unwrap();
    let () = ask(&server, "HDEL aside:job:3 attempt");
    let exchanged = exchange(&engine, &worker, &[done(&claimed[0]), done(&claimed[1])], 2).unwrap();
    assert!(exchanged.recorded.iter().all(|recorded| *recorded.as_ref().unwrap()));
    assert_eq!(claimed_ids(&exchanged), [4]);
    assert_eq!(engine.counts().unwrap(), counts(1, 1, 2));
    let running = engine.queues().unwrap()[0].running;
    assert_eq!(running, 1);
    let () = ask(&server, "SET aside:due damaged");
    let fault = exchange(&engine, &worker, &[], 2).unwrap().claimed.unwrap_err().chain();
    assert!(fault.contains("Redis cannot claim a job") && fault.contains("WRONGTYPE"), "{fault}");
}

#[test]
fn outcomes_that_the_server_refuses_are_recorded_once_when_it_accepts_them() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let engine = open(&server);
    let worker = engine.join().unwrap();
    engine.enqueue(vec![entry("job"); 4], T).unwrap();
    let claimed = take(&engine, &worker, 2).unwrap();
    let ended = [done(&claimed[0]), done(&claimed[1])];
    let () = ask(&server, "CONFIG SET min-replicas-to-write 1");
    let refused = exchange(&engine, &worker, &ended, 2).unwrap_err().chain();
    assert!(refused.contains("NOREPLICAS"), "{refused}");
    assert_eq!(engine.counts().unwrap(), counts(2, 2, 0));
    let () = ask(&server, "CONFIG SET min-replicas-to-write 0");
    let exchanged = exchange(&engine, &worker, &ended, 2).unwrap();
    assert!(exchanged.recorded.iter().all(|recorded| *recorded.as_ref().unwrap()));
    assert_eq!(claimed_ids(&exchanged), [3, 4]);
    assert_eq!(engine.counts().unwrap(), counts(0, 2, 2));
}

#[test]
fn outcomes_and_claims_whose_reply_is_lost_have_their_effect_once() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let (proxy, direct) = (Proxy::new(&server), open(&server));
    let engine = proxy.open();
    let worker = engine.join().unwrap();
    engine.enqueue(vec![entry("job"); 6], T).unwrap();
    let claimed = take(&engine, &worker, 2).unwrap();
    let ended = [done(&claimed[0]), done(&claimed[1])];
    proxy.lose(2);
    exchange(&engine, &worker, &ended, 2).unwrap_err();
    assert!(proxy.has_lost_all());
    assert_eq!(direct.counts().unwrap(), counts(2, 2, 2), "the server has executed the call");
    let exchanged = exchange(&engine, &worker, &ended, 2).unwrap();
    assert!(exchanged.recorded.iter().all(|recorded| *recorded.as_ref().unwrap()));
    assert_eq!(claimed_ids(&exchanged), [3, 4]);
    assert_eq!(direct.counts().unwrap(), counts(2, 2, 2));
}

/// Regression: the repetition of a call returned jobs that waited again as claimed, to a process without a worker.
#[test]
fn a_repeated_call_returns_no_job_that_waits_again() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let (proxy, direct) = (Proxy::new(&server), open(&server));
    let engine = proxy.open();
    let worker = engine.join().unwrap();
    engine.enqueue(vec![entry("job"); 2], T).unwrap();
    let claimed = take(&engine, &worker, 1).unwrap();
    let ended = [done(&claimed[0])];
    proxy.lose(2);
    exchange(&engine, &worker, &ended, 1).unwrap_err();
    direct.leave(&worker, T).unwrap();
    let exchanged = engine.exchange(&ended, None, T).unwrap();
    assert!(*exchanged.recorded[0].as_ref().unwrap() && claimed_ids(&exchanged).is_empty());
    assert_eq!(direct.counts().unwrap(), counts(1, 0, 1));
}

#[test]
fn notifications_resume_when_the_server_is_back() {
    let Some(mut server) = RedisServer::durable() else { return };
    let (engine, other) = (open(&server), open(&server));
    let listener = Arc::new(Notify::default());
    engine.listen(&listener).unwrap();
    // Once at the start.
    assert!(listener.wait(LONG));
    add(&other, "first").unwrap();
    assert!(listener.wait(LONG));
    server.restart();
    // Once for what may have changed during the outage.
    assert!(listener.wait(LONG));
    while listener.wait(Duration::ZERO) {}
    add(&other, "second").unwrap();
    assert!(listener.wait(LONG));
}

#[test]
fn a_job_released_by_another_process_notifies() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let (engine, other) = (open(&server), open(&server));
    let worker = other.join().unwrap();
    other.enqueue(vec![entry("job"); 2], T).unwrap();
    let claimed = take(&other, &worker, 2).unwrap();
    let listener = Arc::new(Notify::default());
    engine.listen(&listener).unwrap();
    assert!(listener.wait(LONG));
    assert!(resolve(&other, &claimed[0], Resolution::Released).unwrap());
    assert!(listener.wait(LONG));
    assert!(
        resolve(&other, &claimed[1], Resolution::Retry { wait: 0, failure: failure(FailureKind::TimedOut) }).unwrap()
    );
    assert!(listener.wait(LONG));
}

#[test]
fn a_heartbeat_at_the_last_moment_keeps_the_worker() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let engine = open(&server);
    let worker = engine.join().unwrap();
    add(&engine, "job").unwrap();
    take(&engine, &worker, 1).unwrap();
    let evict = |heartbeats: u64| {
        let values = [T.to_string(), "20000".to_owned(), worker.0.clone(), heartbeats.to_string()];
        engine.run::<(usize, Vec<u64>)>(&scripts::RECOVER, &values).unwrap().0
    };
    engine.heartbeat(&worker, &[], T).unwrap();
    assert_eq!(evict(0), 0);
    assert_eq!(engine.counts().unwrap(), counts(0, 1, 0));
    assert_eq!(evict(1), 1);
}

#[test]
fn the_listening_thread_ends_with_the_engine() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let engine = open(&server);
    let listener = Arc::new(Notify::default());
    engine.listen(&listener).unwrap();
    assert!(listener.wait(LONG));
    let pool = Arc::downgrade(&engine.pool);
    drop(engine);
    eventually(|| pool.upgrade().is_none().then_some(()));
}

// Comparison with the memory engine.

/// A deterministic generator of small pseudo-random numbers.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn entry(&mut self) -> Entry {
        let when = match self.throw(6) {
            0 => When::At(T + self.throw(400) as i64 - 100),
            1 => When::After(self.throw(300) as i64),
            _ => When::Now,
        };
        let queue = ["default", "mail"][self.throw(2) as usize].to_owned();
        let unique = (self.throw(4) == 0).then(|| self.throw(5).to_string());
        let trace = (self.throw(3) > 0).then(|| self.throw(5).to_string());
        Entry { queue, unique, when, trace, priority: self.throw(3) as i32 - 1, ..entry("job") }
    }

    fn resolution(&mut self) -> Resolution {
        match self.throw(6) {
            0 => Resolution::Released,
            1 => Resolution::Retry { wait: self.throw(80) as i64, failure: failure(FailureKind::TimedOut) },
            2 => Resolution::Dead { failure: failure(FailureKind::Panicked) },
            3 => Resolution::Cancelled { failure: None },
            _ => Resolution::Done,
        }
    }

    fn resolved_attempt(&mut self) -> ResolvedAttempt {
        let progress = (self.throw(2) == 0).then(|| (self.throw(9), self.throw(9), self.throw(9).to_string()));
        let output = (self.throw(2) == 0).then(|| Output::from_json(self.throw(9).to_string()));
        ResolvedAttempt { resolution: self.resolution(), last_values: LastValues { progress, output } }
    }
}

/// One engine, its workers, and their claimed jobs.
struct Player<E> {
    engine: E,
    workers: Vec<WorkerId>,
    held: Vec<Claimed>,
}

impl<E: Engine> Player<E> {
    fn new(engine: E) -> Player<E> {
        let workers = (0..2).map(|_| engine.join().unwrap()).collect();
        Player { engine, workers, held: Vec::new() }
    }

    /// Runs one operation, and returns all its visible results as text.
    fn play(&mut self, dice: &mut Dice, now: Millis) -> String {
        let (worker, id) = (dice.throw(2) as usize, dice.throw(120));
        let engine = &self.engine;
        match dice.throw(16) {
            0..4 => format!("{:?}", engine.enqueue((0..=dice.throw(3)).map(|_| dice.entry()).collect(), now).unwrap()),
            4..7 => {
                let capacities =
                    ["mail", "default"].map(|queue| Capacity { queue: queue.into(), free: dice.throw(4) as usize });
                let claimed = engine.claim(&self.workers[worker], &capacities, now).unwrap();
                self.held.extend(claimed.clone());
                format!("{:?}", claimed.iter().map(|job| (job.id, job.attempt)).collect::<Vec<_>>())
            }
            7..11 if !self.held.is_empty() => {
                let job = self.held.swap_remove(dice.throw(self.held.len() as u64) as usize);
                format!("{} {}", job.id, engine.resolve(job.id, job.token, dice.resolved_attempt(), now).unwrap())
            }
            11 => format!("{id} {:?}", engine.cancel(id, now).unwrap()),
            12 => format!("{id} {}", engine.revive(id, now).unwrap()),
            13 => format!("{id} {}", engine.discard(id).unwrap()),
            14 if dice.throw(4) == 0 => {
                engine.leave(&self.workers[worker], now).unwrap();
                self.workers[worker] = engine.join().unwrap();
                "left".to_owned()
            }
            15 if dice.throw(4) == 0 => {
                engine.pause("mail", dice.throw(2) == 0).unwrap();
                format!("{:?}", engine.prune(Retention { age: Duration::from_millis(500), count: 40 }, now).unwrap())
            }
            _ => format!("{:?}", engine.clock_went_back(now - 50)),
        }
    }

    fn all(&self) -> String {
        let listed = JobState::ALL.iter().flat_map(|state| self.engine.list(*state, None, 9999).unwrap());
        let jobs: Vec<_> = listed
            .map(|job| {
                let whole = self.engine.find(job.id).unwrap().unwrap();
                assert_eq!(whole.clone().listed(), job);
                (job.done, job.total, job.message.clone(), whole.output, job)
            })
            .collect();
        let engine = &self.engine;
        let (counts, queues, due) = (engine.counts().unwrap(), engine.queues().unwrap(), engine.next_due().unwrap());
        let traces: Vec<_> = (0..5).map(|trace| engine.of_trace(&trace.to_string(), 9999).unwrap()).collect();
        let next = [engine.next_to_run(None, 20), engine.next_to_run(Some("mail"), 5)];
        let next = next.map(|jobs| jobs.unwrap().iter().map(|job| job.id).collect::<Vec<_>>());
        let groups = engine.failure_groups(5).unwrap();
        format!("{jobs:#?}\n{counts:?} {queues:?} {due:?}\n{traces:?} {next:?} {groups:?}")
    }
}

#[test]
fn redis_and_memory_behave_the_same() {
    for seed in 0..8 {
        let Ok(bench) = RedisBench::new() else { return };
        let redis = Redis::open_with(&bench.server.url(), &bench.prefix, TIMEOUT).unwrap();
        let (mut redis, mut memory) = (Player::new(redis), Player::new(Memory::new()));
        let (mut dice, mut now) = (Dice(seed), T);
        for step in 0..400 {
            // Sometimes the clock is set back a little.
            now += dice.throw(12) as i64 - 2;
            let mut same = Dice(dice.0);
            let (one, other) = (redis.play(&mut dice, now), memory.play(&mut same, now));
            assert_eq!(one, other, "seed {seed}, step {step}");
            if step % 20 == 19 {
                assert_eq!(redis.all(), memory.all(), "seed {seed}, step {step}");
            }
        }
    }
}

// The keys on the server.

/// A job as a version without outputs, traces and locations has stored it.
#[test]
fn a_record_of_an_earlier_version_is_read() {
    let Ok(bench) = RedisBench::new() else { return };
    let engine = Redis::open_with(&bench.server.url(), &bench.prefix, TIMEOUT).unwrap();
    let job = "name import label import payload {} queue default priority 0 enqueued_at 5 state done since 5 attempt 1 \
               interruptions 0 worker  cancelling 0 due_at 5 ended_at 9 wait  cause failed began_at 6 token 7 stream  \
               entry  done 3 total 5 message half";
    ask::<u64>(&bench.server, &format!("HSET {}job:1 {job}", bench.prefix));
    ask::<u64>(&bench.server, &format!("ZADD {}state:done 1 1", bench.prefix));
    let mut connection = Client::open(bench.server.url()).unwrap().get_connection().unwrap();
    let failures = format!("{}failures:1", bench.prefix);
    let () = ::redis::cmd("RPUSH").arg(failures).arg("2 7 {not an\nobject}").query(&mut connection).unwrap();
    let found = engine.find(1).unwrap().unwrap();
    assert_eq!((found.state, found.done, found.message.as_str()), (JobState::Done, 3, "half"));
    assert_eq!((&found.output, &found.trace, &found.parent), (&StoredOutput::Absent, &None, &None));
    let failure = &found.failures[0];
    assert_eq!((failure.attempt, failure.at, failure.message.as_str()), (2, 7, "{not an\nobject}"));
    assert_eq!(engine.list(JobState::Done, None, 9).unwrap(), [found]);
    assert!(engine.discard(1).unwrap());
}

#[test]
fn the_list_of_a_trace_is_bounded_and_deleted_with_its_last_job() {
    let Some(server) = RedisServer::start(&[]) else { return };
    let engine = open(&server);
    let traced = Entry { trace: Some("4bf9".to_owned()), ..entry("job") };
    let jobs = engine.enqueue(vec![traced; MOST_OF_TRACE + 9], T).unwrap();
    assert_eq!(ask::<usize>(&server, "LLEN aside:trace:4bf9"), MOST_OF_TRACE);
    for job in jobs {
        assert!(engine.discard(job.id).unwrap());
    }
    assert_eq!(ask::<usize>(&server, "EXISTS aside:trace:4bf9"), 0);
}

#[test]
fn no_entry_stays_pending_and_no_stream_grows() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let engine = open(&server);
    let worker = engine.join().unwrap();
    let ends = [
        Resolution::Done,
        Resolution::Released,
        Resolution::Retry { wait: 0, failure: failure(FailureKind::TimedOut) },
        Resolution::Dead { failure: failure(FailureKind::Panicked) },
        Resolution::Cancelled { failure: None },
    ];
    for round in 0..300_usize {
        let priority = [0, 5][round % 2];
        engine.enqueue(vec![Entry { priority, unique: Some(round.to_string()), ..entry("job") }; 2], T).unwrap();
        for claimed in take(&engine, &worker, 3).unwrap() {
            assert!(resolve(&engine, &claimed, ends[round % ends.len()].clone()).unwrap());
        }
        let length: usize = ask(&server, "XLEN aside:ready:default:0");
        assert!(length < 50, "{length} entries in round {round}");
    }
    while let Some(claimed) = take(&engine, &worker, 1).unwrap().pop() {
        assert!(resolve(&engine, &claimed, Resolution::Done).unwrap());
    }
    let pending: (usize, Value, Value, Value) = ask(&server, "XPENDING aside:ready:default:0 aside");
    let length: usize = ask(&server, "XLEN aside:ready:default:0");
    assert_eq!((pending.0, length), (0, 0));
    let news: usize = ask(&server, "XLEN aside:news");
    assert!(news <= 250, "{news} news");

    for dead in engine.list(JobState::Dead, None, 1000).unwrap() {
        assert!(engine.discard(dead.id).unwrap());
    }
    let ended = engine.counts().unwrap();
    assert!(ended.done > 0 && ended.cancelled > 0, "{ended:?}");
    assert_eq!(
        engine.prune(Retention { age: Duration::ZERO, count: 0 }, T).unwrap() as u64,
        ended.done + ended.cancelled
    );
    engine.recover(LONG, T).unwrap();
    engine.leave(&worker, T).unwrap();
    let mut keys: Vec<String> = ask(&server, "KEYS *");
    keys.retain(|key| !key.starts_with("aside:call:"));
    keys.sort();
    assert_eq!(keys, ["aside:last-id", "aside:news", "aside:watch"]);
}

#[test]
fn a_claim_without_heartbeats_is_recovered() {
    let Some(server) = RedisServer::start(&["appendonly yes"]) else { return };
    let engine = open(&server);
    let worker = engine.join().unwrap();
    let ids = engine.enqueue(vec![entry("job"); 2], T).unwrap();
    let claimed = take(&engine, &worker, 2).unwrap();
    let held = |claimed: &Claimed| HeldJob { id: claimed.id, token: claimed.token, progress: None };
    engine.recover(LONG, T).unwrap();
    // A minute ago, according to the server.
    let idle = "IDLE 60000 JUSTID";
    let stream = "aside:ready:default:0";
    for id in &ids {
        let () = ask(&server, &format!("XCLAIM {stream} aside {} 0 {T}-{} {idle}", worker.0, id.id));
    }
    let now: Vec<i64> = ask(&server, "TIME");
    let before = now[0] * 1000 - 60_000;
    let lease = Duration::from_secs(20);
    // There was no recent observation, so the server may have been unreachable.
    let () = ask(&server, &format!("HSET aside:watch since {before} last {before}"));
    assert_eq!(engine.recover(lease, T).unwrap().released, 0);
    let () = ask(&server, &format!("HSET aside:watch since {before}"));
    assert_eq!(engine.heartbeat(&worker, &[held(&claimed[0])], T).unwrap(), HeartbeatReply::default());
    assert_eq!(engine.recover(lease, T).unwrap().released, 1);
    let lost = engine.heartbeat(&worker, &claimed.iter().map(held).collect::<Vec<_>>(), T).unwrap();
    assert_eq!(lost, HeartbeatReply { lost: vec![ids[1].id], ..HeartbeatReply::default() });
    assert!(
        resolve(&engine, &claimed[0], Resolution::Done).unwrap()
            && !resolve(&engine, &claimed[1], Resolution::Done).unwrap()
    );
    assert_eq!(engine.find(ids[1].id).unwrap().unwrap().interruptions, 1);
}

#[test]
#[ignore = "it takes minutes, and prints how long the queries of an overview take"]
fn an_overview_of_a_million_jobs() {
    let Some(server) = RedisServer::start(&[]) else { return };
    conformance::measure_overview(Arc::new(open(&server)));
}
