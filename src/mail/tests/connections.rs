//! The number of connections, and the reaction to a server that reports too many.

use std::thread;

use super::*;
use crate::background::progress::TaskState;
use crate::background::record::Stop;
use crate::mail::smtp_server::{LOCALHOST, Options};

/// Sends `count` mails at once.
fn send(site: &Site, count: usize) {
    let _entered = Context::of(site.0.clone()).enter();
    (0..count).for_each(|_| drop(mail().send()));
}

/// Waits for a condition that other threads fulfill within a moment.
fn wait_until(is_so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < until, "the condition is not fulfilled after 30 s");
        thread::yield_now();
    }
}

fn all_have_ended(site: &Site) -> bool {
    site.0.registry().wait_until_idle(Instant::now() + Duration::from_secs(60))
}

/// Returns the number of ended tasks that took more than one attempt.
fn retried(site: &Site) -> usize {
    site.0.registry().lists().ended.iter().filter(|record| record.attempts() != 1).count()
}

#[test]
fn many_mails_at_once_share_a_few_connections() {
    let server = SmtpServer::start(vec![]);
    let site = Site::new(&server.url());
    send(&site, 90);
    assert!(all_have_ended(&site));
    assert_eq!((server.received().len(), site.failures(), retried(&site)), (90, 0, 0));
    assert!(server.peak() <= 4, "{} connections at once", server.peak());
    assert!(server.connections() <= 4, "{} connections in all: none was reused", server.connections());
}

#[test]
fn mails_that_wait_for_a_connection_hold_no_thread() {
    let script = vec![(Step::Body, Act::Stall)];
    let server = SmtpServer::with(vec![], Options { script, ..Options::default() });
    let site = Site::new(&server.url());
    send(&site, 50);
    wait_until(|| server.received().len() == 4);
    let running = site.0.registry().unfinished().iter().filter(|task| task.state() == TaskState::Running).count();
    assert_eq!((running, server.connections()), (4, 4));
    site.0.registry().unfinished().iter().for_each(|task| task.tell_to_stop(Stop::Asked));
    drop(server);
    assert!(all_have_ended(&site));
}

#[test]
fn too_many_connections_reduce_the_limit_and_use_up_no_attempt() {
    // The first mail waits until a connection was refused, so that one refusal is certain.
    let held = vec![(Step::Body, Act::AwaitRefusal)];
    let server = SmtpServer::with(vec![held], Options { most: Some(1), ..Options::default() });
    let site = Site::with(Mailer::with_limits(&config(&server.url()), limits(Duration::from_secs(30))).unwrap());
    send(&site, 40);
    assert!(all_have_ended(&site));
    assert_eq!((server.received().len(), site.failures(), retried(&site)), (40, 0, 0));
    assert!(server.refused() > 0 && server.peak() == 1);
}

#[test]
fn the_only_connection_waits_while_the_server_has_too_many() {
    let full = || vec![(Step::Greeting, Act::Answer("421 4.3.2 too many concurrent connections"))];
    let server = SmtpServer::start(vec![full(), full(), full()]);
    let site = Site::with(Mailer::with_limits(&config(&server.url()), limits(Duration::from_secs(30))).unwrap());
    site.send(mail()).unwrap();
    assert_eq!((server.connections(), server.received().len(), retried(&site)), (4, 1, 0));
}

#[test]
fn a_server_that_stays_full_fails_the_attempt_eventually() {
    let script = vec![(Step::Greeting, Act::Answer("421 too many connections"))];
    let server = SmtpServer::with(vec![], Options { script, ..Options::default() });
    let short = Limits { patience: Duration::from_millis(20), ..limits(Duration::from_secs(30)) };
    let mailer = Mailer::with_limits(&config(&server.url()), short).unwrap();
    let error: Error = Delivery::new(mail().build(&mailer).unwrap()).attempt(&mailer).unwrap_err().into();
    assert!(is_temporary(&error) && error.chain().contains("does not accept the mail now"), "{}", error.chain());
}

#[test]
fn an_idle_connection_that_the_server_closed_is_replaced() {
    // The second mail on each connection meets a server that has hung up.
    let script = vec![(Step::Mail, Act::DropSecond)];
    let server = SmtpServer::with(vec![], Options { script, ..Options::default() });
    let site = Site::new(&server.url());
    for _ in 0..3 {
        site.send(mail()).unwrap();
    }
    assert_eq!((server.received().len(), retried(&site), site.failures()), (3, 0, 0));
    assert_eq!(server.connections(), 3);
}

#[test]
fn a_sent_mail_is_retried_for_minutes() {
    let retry = Retry::exponential(ATTEMPTS, FIRST_BACKOFF);
    let least: Duration = (1..ATTEMPTS).map(|failed| retry.wait(failed).unwrap()).sum();
    assert!(least > Duration::from_secs(12 * 60), "{least:?}");
}

#[test]
fn mail_jobs_have_their_own_queue() {
    let client = jobs("memory:");
    let id = client.jobs().enqueue(mail()).unwrap().id;
    assert_eq!(job(&client, id).queue, "mail");
}

#[test]
fn a_server_that_falls_silent_is_left_at_the_time_limit() {
    let options = || Options { certificate: Some(LOCALHOST), offers: vec!["AUTH PLAIN"], ..Options::default() };
    for step in [Step::Greeting, Step::Ehlo, Step::StartTls, Step::Auth, Step::Mail, Step::Rcpt, Step::Data, Step::Body]
    {
        let server = SmtpServer::with(vec![vec![(step, Act::Stall)]], options());
        let url = server.url().replace("//", "//user:password@");
        let mailer = Mailer::with_limits(&config(&url), limits(Duration::from_millis(200))).unwrap();
        let error: Error = Delivery::new(mail().build(&mailer).unwrap()).attempt(&mailer).unwrap_err().into();
        assert!(error.chain().contains("was silent for 200 ms"), "{step:?}: {}", error.chain());
        assert!(is_temporary(&error));
    }
}

/// lettre sends QUIT to a silent server, and waits for the response as long again. The attempt must end before that: its
/// abandoned connection, the only one allowed, is then still open, so that a second attempt finds none free.
#[test]
fn an_attempt_does_not_wait_until_a_silent_server_answers_quit() {
    let server = SmtpServer::start(vec![vec![(Step::Ehlo, Act::Stall)]]);
    let limits = Limits { patience: Duration::ZERO, ..limits(Duration::from_secs(3)) };
    let config = Config { mail_connections: 1, ..config(&server.url()) };
    let mailer = Mailer::with_limits(&config, limits).unwrap();
    let attempt = || Error::from(Delivery::new(mail().build(&mailer).unwrap()).attempt(&mailer).unwrap_err()).chain();
    let (first, second) = (attempt(), attempt());
    assert!(first.contains("was silent for"), "{first}");
    assert!(second.contains("no connection was free"), "{second}");
}

#[test]
fn a_mail_cancelled_while_waiting_reports_it() {
    let script = vec![(Step::Body, Act::Stall)];
    let server = SmtpServer::with(vec![], Options { script, ..Options::default() });
    let config = Config { mail_connections: 1, ..config(&server.url()) };
    let site = Site::with(Mailer::new(&config).unwrap());
    send(&site, 1);
    wait_until(|| server.received().len() == 1);
    // This mail waits for the connection on a thread, not as a task.
    let waiting = {
        let _entered = Context::of(site.0.clone()).enter();
        Task::named("waits").spawn(|_| mail().send_now())
    };
    wait_until(|| waiting.info().state() == TaskState::Running);
    waiting.cancel();
    let Err(Failure::Error(error)) = waiting.join() else { panic!("it has no connection") };
    assert!(error.chain().contains("cancelled while it waited"), "{}", error.chain());
    drop(server);
    assert!(all_have_ended(&site));
}
