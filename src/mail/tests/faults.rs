//! Final and temporary faults, and the recipients that they concern.

use std::process::Command;

use super::*;
use crate::jobs::JobState;
use crate::mail::smtp_server::{AUTHORITY, EXPIRED, LOCALHOST, Options, SELF_SIGNED, Script};

/// A duration longer than any backoff.
const LATER: Duration = Duration::from_secs(2 * 3600);

/// Returns the state of a mail job after its first attempt, and the message of its failure.
fn after_one_attempt(url: &str) -> (JobState, String) {
    let client = jobs(url);
    let id = client.jobs().enqueue(mail()).unwrap().id;
    client.jobs().run_next().unwrap();
    let job = job(&client, id);
    (job.state, job.failures.first().map(|failure| failure.message.clone()).unwrap_or_default())
}

fn with_certificate(certificate: &'static [u8]) -> Options {
    Options { certificate: Some(certificate), ..Options::default() }
}

#[test]
fn a_fault_of_the_server_is_never_final_for_a_mail_that_is_a_job() {
    let all = [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::Data, Step::Body];
    let garbage = all.map(|step| (step, "what?"));
    let refused = [Step::Greeting, Step::Ehlo].map(|step| (step, "554 no service here"));
    let lost = [Step::Mail, Step::Rcpt].map(|step| (step, "530 5.7.0 authentication required"));
    let others = [
        (Step::Mail, "503 bad sequence"),
        (Step::Rcpt, "452 too many recipients"),
        (Step::Rcpt, "450 greylisted"),
        (Step::Rcpt, "552 mailbox full"),
        (Step::Body, "452 out of space"),
    ];
    for (step, answer) in garbage.into_iter().chain(refused).chain(lost).chain(others) {
        let server = SmtpServer::start(vec![vec![(step, Act::Answer(answer))]]);
        let (state, words) = after_one_attempt(&server.url());
        assert_eq!(state, JobState::Scheduled, "{step:?} {answer}: {words}");
    }
}

#[test]
fn a_refusal_of_the_mail_is_final() {
    for (step, answer) in [
        (Step::Mail, "550 5.7.1 sender unknown"),
        (Step::Rcpt, "550 5.1.1 no such user"),
        (Step::Rcpt, "501 bad address"),
        (Step::Data, "554 no valid recipients"),
        (Step::Body, "552 5.3.4 message too large"),
        (Step::Body, "554 spam"),
    ] {
        let server = SmtpServer::start(vec![vec![(step, Act::Answer(answer))]]);
        let (state, words) = after_one_attempt(&server.url());
        assert!(state == JobState::Dead && words.contains(&answer[4..]), "{step:?} {answer}: {state:?} {words}");
    }
}

#[test]
fn a_refused_login_is_retried() {
    let offers = vec!["AUTH PLAIN LOGIN"];
    let script: Script = vec![(Step::Auth, Act::Answer("535 5.7.8 bad credentials"))];
    let server = SmtpServer::with(vec![script], Options { offers, ..Options::default() });
    let (state, words) = after_one_attempt(&server.url().replace("//", "//user:geheim@"));
    assert_eq!(state, JobState::Scheduled);
    assert!(words.contains("user and password of ASIDE_MAIL_URL") && words.contains("535"), "{words}");
    assert!(!words.contains("geheim"), "{words}");
}

/// Repeated refused logins lock the account.
#[test]
fn after_a_refused_login_other_mails_do_not_try_the_same_password_at_once() {
    let refused = || vec![(Step::Auth, Act::Answer("535 5.7.8 bad credentials"))];
    let offers = || Options { offers: vec!["AUTH PLAIN"], ..Options::default() };
    for (login_pause, connections) in [(Duration::from_secs(3600), 1), (Duration::ZERO, 3)] {
        let server = SmtpServer::with(vec![refused(), refused()], offers());
        let limits = Limits { login_pause, ..limits(Duration::from_secs(30)) };
        let url = server.url().replace("//", "//user:geheim@");
        let mailer = Mailer::with_limits(&config(&url), limits).unwrap();
        for attempt in 0..3 {
            match Delivery::new(mail().build(&mailer).unwrap()).attempt(&mailer) {
                Ok(()) => assert_eq!((attempt, login_pause), (2, Duration::ZERO)),
                Err(fault) => {
                    let error = Error::from(fault);
                    assert!(is_temporary(&error) && error.chain().contains("user and password"), "{}", error.chain());
                }
            }
        }
        assert_eq!(server.connections(), connections);
    }
}

#[test]
fn an_untrusted_certificate_of_the_mail_server_is_reported_and_retried() {
    for certificate in [EXPIRED, SELF_SIGNED, LOCALHOST] {
        let server = SmtpServer::with(vec![], with_certificate(certificate));
        let (state, words) = after_one_attempt(&format!("smtp://localhost:{}?tls=required", server.port()));
        assert_eq!(state, JobState::Scheduled, "{words}");
        assert!(words.contains("is not trusted") && words.contains("SSL_CERT_FILE"), "{words}");
        let wrapped = SmtpServer::with(vec![], Options { is_wrapped: true, ..with_certificate(certificate) });
        let (state, words) = after_one_attempt(&format!("smtps://localhost:{}", wrapped.port()));
        assert!(state == JobState::Scheduled && words.contains("is not trusted"), "{state:?} {words}");
        assert!(server.received().is_empty() && wrapped.received().is_empty());
    }
}

#[test]
fn missing_settings_and_unwritable_folders_are_temporary_for_jobs() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let (state, words) = after_one_attempt(&format!("file:{}/mail", file.path().display()));
    assert!(state == JobState::Scheduled && words.contains("ASIDE_MAIL_URL"), "{state:?} {words}");
    let nothing = Config { mode: Mode::Production, secrets: vec!["s".repeat(32)], ..Config::default() };
    let site = Site::with(Mailer::new(&nothing).unwrap());
    let mailer = site.0.get::<Mailer>().unwrap();
    let error = mail().build(&mailer).err().unwrap();
    assert!(fault::is_mendable(&error) && !is_temporary(&error), "{}", error.chain());
    let letter = mail().from("shop@a.example").build(&mailer).unwrap();
    let error: Error = mailer.deliver(&letter, &letter.to).err().unwrap().into();
    assert!(fault::is_mendable(&error) && !is_temporary(&error), "{}", error.chain());
}

/// A stock Debian runs Postfix with a self-signed certificate for its host name.
#[test]
fn a_server_on_this_machine_may_have_any_certificate() {
    for certificate in [SELF_SIGNED, EXPIRED, LOCALHOST] {
        let server = SmtpServer::with(vec![], with_certificate(certificate));
        Site::new(&format!("smtp://localhost:{}", server.port())).send(mail()).unwrap();
        assert!(server.received()[0].is_encrypted);
    }
}

#[test]
fn mail_is_sent_unencrypted_after_a_failed_starttls_only_if_optional() {
    let refused = || vec![(Step::StartTls, Act::Answer("454 TLS not available"))];
    let server = SmtpServer::with(vec![refused()], with_certificate(LOCALHOST));
    Site::new(&server.url()).send(mail()).unwrap();
    assert!(!server.received()[0].is_encrypted);
    let server = SmtpServer::with(vec![refused()], with_certificate(LOCALHOST));
    let (state, words) = after_one_attempt(&format!("{}?tls=required", server.url()));
    assert!(state == JobState::Scheduled && words.contains("454"), "{state:?} {words}");
    assert!(server.received().is_empty());
}

/// The variable applies to the whole process, so another process sends the mail: this test again, with the address.
#[test]
fn an_authority_that_ssl_cert_file_names_is_trusted() {
    if let Ok(url) = std::env::var("ASIDE_TEST_MAIL_URL") {
        return Site::new(&url).send(mail()).unwrap();
    }
    let server = SmtpServer::with(vec![], Options { is_wrapped: true, ..with_certificate(LOCALHOST) });
    let name = "mail::tests::faults::an_authority_that_ssl_cert_file_names_is_trusted";
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env("ASIDE_TEST_MAIL_URL", format!("smtps://localhost:{}", server.port()))
        .env("SSL_CERT_FILE", AUTHORITY)
        .env_remove("SSL_CERT_DIR")
        .output()
        .unwrap();
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    assert!(server.received()[0].is_encrypted);
}

fn to_three() -> Mail {
    mail().and_to("ben@c.example").bcc("cy@d.example")
}

#[test]
fn one_refused_recipient_does_not_stop_the_others() {
    let recipients = vec![("ben@c.example", "550 no such user", 9)];
    let server = SmtpServer::with(vec![], Options { recipients, ..Options::default() });
    let words = Site::new(&server.url()).send(to_three()).unwrap_err();
    assert!(words.contains("recipient 2 at c.example of 3; the others have it") && words.contains("550"), "{words}");
    assert!(!words.contains("ben@"), "{words}");
    let got = server.received();
    assert_eq!((got.len(), &*got[0].to), (1, &["anna@b.example".to_owned(), "cy@d.example".into()][..]));
}

#[test]
fn a_deferred_recipient_is_retried_and_the_others_get_the_mail_once() {
    let recipients = vec![("ben@c.example", "450 greylisted", 2), ("cy@d.example", "550 no such user", 9)];
    let server = SmtpServer::with(vec![], Options { recipients, ..Options::default() });
    let words = Site::new(&server.url()).send(to_three()).unwrap_err();
    assert!(words.contains("recipient 3 at d.example of 3; the others have it"), "{words}");
    let got = server.received();
    assert_eq!(got.iter().map(|mail| mail.to.join(" ")).collect::<Vec<_>>(), ["anna@b.example", "ben@c.example"]);
    assert_eq!(got[0].data, got[1].data);
}

#[test]
fn refused_recipients_of_a_mail_job_get_their_own_jobs() {
    let recipients = vec![("ben@c.example", "450 greylisted", 1), ("cy@d.example", "550 no such user", 1)];
    let server = SmtpServer::with(vec![], Options { recipients, ..Options::default() });
    let mut client = jobs(&server.url());
    let id = client.jobs().enqueue(to_three()).unwrap().id;
    client.jobs().run_next().unwrap();
    assert_eq!(job(&client, id).state, JobState::Done);
    client.drain();
    // The test server was asked twice for the last recipient and accepts it now. A real one would refuse it again.
    client.advance(LATER);
    client.drain();
    let got = server.received();
    let mut to: Vec<String> = got.iter().map(|mail| mail.to.join(" ")).collect();
    to.sort();
    assert_eq!(to, ["anna@b.example", "ben@c.example", "cy@d.example"]);
    assert!(got.iter().all(|mail| mail.data == got[0].data), "the same Message-ID and date");
}

#[test]
fn a_permanently_refused_recipient_is_a_dead_job_for_that_recipient_only() {
    let recipients = vec![("ben@c.example", "550 no such user", 2)];
    let server = SmtpServer::with(vec![], Options { recipients, ..Options::default() });
    let client = jobs(&server.url());
    client.jobs().enqueue(to_three()).unwrap();
    client.drain();
    let dead = client.jobs().list(JobState::Dead, None).unwrap();
    assert_eq!(dead.len(), 1);
    assert!(dead[0].label.ends_with("to c.example") && dead[0].failures[0].message.contains("550"), "{:?}", dead[0]);
    assert!(client.jobs().retry(dead[0].id).unwrap());
    client.drain();
    let to: Vec<String> = server.received().iter().map(|mail| mail.to.join(" ")).collect();
    assert_eq!(to, ["anna@b.example cy@d.example", "ben@c.example"]);
}

#[test]
fn all_recipients_refused_is_one_failure() {
    let recipients =
        vec![("anna@b.example", "550 no", 9), ("ben@c.example", "550 no", 9), ("cy@d.example", "550 no", 9)];
    let server = SmtpServer::with(vec![], Options { recipients, ..Options::default() });
    let client = jobs(&server.url());
    let id = client.jobs().enqueue(to_three()).unwrap().id;
    client.drain();
    let job = job(&client, id);
    assert!(job.state == JobState::Dead && job.failures[0].message.contains("all recipients of 3"), "{job:?}");
    assert_eq!(server.received().len(), 0);
}

#[test]
fn a_message_cut_short_by_the_server_is_sent_again() {
    let server = SmtpServer::start(vec![vec![(Step::Content, Act::Drop)], vec![(Step::Body, Act::Drop)]]);
    Site::new(&server.url()).send(mail().text("a line\n".repeat(10_000))).unwrap();
    let got = server.received();
    assert_eq!((server.connections(), got.len()), (3, 2));
    assert_eq!(got[0].data, got[1].data);
}

/// The server has the whole message, and its response is lost. That it has the mail cannot be known.
#[test]
fn a_mail_whose_acceptance_is_not_confirmed_may_arrive_twice_with_one_message_id() {
    let server = || SmtpServer::start(vec![vec![(Step::Body, Act::Drop)]]);
    let (sent, enqueued) = (server(), server());
    Site::new(&sent.url()).send(mail()).unwrap();
    let mut client = jobs(&enqueued.url());
    let id = client.jobs().enqueue(mail()).unwrap().id;
    client.drain();
    assert_eq!(job(&client, id).state, JobState::Scheduled);
    client.advance(LATER);
    client.drain();
    assert_eq!(job(&client, id).state, JobState::Done);
    for got in [sent.received(), enqueued.received()] {
        let ids: Vec<&str> =
            got.iter().flat_map(|mail| mail.data.lines()).filter(|line| line.starts_with("Message-ID: ")).collect();
        assert!(ids.len() == 2 && ids[0] == ids[1], "{ids:?}");
    }
}
