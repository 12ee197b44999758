//! Mail through a real conversation with a mail server on the loopback interface.

mod connections;
mod faults;
mod wire;

use std::time::Instant;

use super::mailer::KEPT;
use super::session::Limits;
use super::smtp_server::{Act, SmtpServer, Step};
use super::*;
use crate::app::App;
use crate::background::failure::Failure;
use crate::background::registry::Registry;
use crate::background::scope::{Context, Scope, Values};
use crate::config::{Config, Mode};
use crate::http::templates::Templates;
use crate::jobs::{JobInfo, Jobs};
use crate::testing::TestClient;

/// A site whose mails are jobs.
fn jobs(url: &str) -> TestClient {
    TestClient::new(App::with_config(config(url)).jobs(Jobs::memory()))
}

fn job(client: &TestClient, id: u64) -> JobInfo {
    client.jobs().find(id).unwrap().unwrap()
}

/// Time limits that a test can wait for.
fn limits(step: Duration) -> Limits {
    Limits {
        step,
        verdict: step,
        patience: Duration::from_secs(20),
        pause: Duration::from_millis(1),
        login_pause: Duration::ZERO,
    }
}

fn config(url: &str) -> Config {
    Config { mail_url: Some(url.into()), mail_from: Some("Shop <shop@a.example>".into()), ..Config::default() }
}

/// The scope of an application with a mailer and templates.
struct Site(Scope);

impl Site {
    fn new(url: &str) -> Site {
        Site::with(Mailer::new(&config(url)).unwrap())
    }

    fn with(mailer: Mailer) -> Site {
        let mut values = Values::default();
        values.insert(mailer);
        let mut templates = Templates::new("there/is/none", false);
        templates.add("receipt.html", "<p>{{ name }}</p>").unwrap();
        templates.add("receipt.txt", "Dear {{ name }}").unwrap();
        values.insert(templates);
        Site(Scope::new(Registry::new(&Config::default()), values))
    }

    /// Sends a mail, and waits for its outcome without the backoff.
    fn send(&self, mail: Mail) -> Result<(), String> {
        let context = Context::of(self.0.clone());
        let entered = context.enter();
        let handle = mail.send();
        drop(entered);
        assert!(self.0.registry().wait_until_idle(Instant::now() + Duration::from_secs(30)));
        match handle.join() {
            Ok(()) => Ok(()),
            Err(Failure::Error(error)) => Err(error.chain()),
            Err(other) => panic!("{other}"),
        }
    }

    fn failures(&self) -> usize {
        self.0.registry().failed().len()
    }

    fn outbox(&self) -> Vec<SentMail> {
        self.0.get::<Mailer>().unwrap().outbox().iter().map(|mail| SentMail::clone(mail)).collect()
    }
}

fn mail() -> Mail {
    Mail::to("Anna <anna@b.example>").subject("Thank you").text("We are on it.")
}

#[test]
fn a_mail_is_delivered_and_a_blind_copy_is_hidden() {
    let server = SmtpServer::start(vec![]);
    let site = Site::new(&server.url());
    site.send(mail().and_to("ben@b.example").cc("cy@c.example").bcc("dee@d.example")).unwrap();
    let got = server.received().remove(0);
    assert_eq!(got.from, "shop@a.example");
    assert_eq!(got.to, ["anna@b.example", "ben@b.example", "cy@c.example", "dee@d.example"]);
    assert!(got.data.contains("\r\nCc: cy@c.example\r\n"), "{}", got.data);
    assert!(got.data.contains("\r\n\r\nWe are on it."), "{}", got.data);
    assert!(!got.data.contains("dee@") && !got.data.contains("Bcc"), "{}", got.data);
}

#[test]
fn after_a_4xx_the_same_mail_is_sent_again() {
    let busy = (Step::Body, Act::Answer("451 try again"));
    let server = SmtpServer::start(vec![vec![busy], vec![(Step::Rcpt, Act::Answer("450 greylisted"))]]);
    let site = Site::new(&server.url());
    site.send(mail()).unwrap();
    let got = server.received();
    assert_eq!((server.connections(), got.len()), (3, 2));
    assert_eq!(got[0].data, got[1].data);
    assert!(got[0].data.contains("\r\nMessage-ID: <") || got[0].data.starts_with("Message-ID: <"));
    assert_eq!(site.failures(), 0);
}

#[test]
fn a_5xx_is_final() {
    let server = SmtpServer::start(vec![vec![(Step::Rcpt, Act::Answer("550 no such user"))]]);
    let site = Site::new(&server.url());
    let words = site.send(mail()).unwrap_err();
    assert!(words.contains("refuses the mail") && words.contains("550") && words.contains("no such user"), "{words}");
    assert_eq!((server.connections(), site.failures()), (1, 1));
}

#[test]
fn a_server_without_encryption_gets_nothing_when_it_is_required() {
    let server = SmtpServer::start(vec![]);
    let words = Site::new(&format!("{}?tls=required", server.url())).send(mail()).unwrap_err();
    assert!(words.contains("offers no encryption") && words.contains("ASIDE_MAIL_URL"), "{words}");
    assert_eq!((server.connections(), server.received().len()), (ATTEMPTS as usize, 0));
}

#[test]
fn a_mail_is_retried_after_a_server_hangs_up() {
    let script = [Step::Greeting, Step::Ehlo, Step::Mail, Step::Data].map(|step| vec![(step, Act::Drop)]);
    let server = SmtpServer::start(script.into());
    Site::new(&server.url()).send(mail()).unwrap();
    assert_eq!((server.connections(), server.received().len()), (5, 1));
}

#[test]
fn an_unreachable_server_is_one_failure_after_all_attempts() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let site = Site::new(&format!("smtp://127.0.0.1:{port}"));
    let words = site.send(mail()).unwrap_err();
    assert!(words.contains("ASIDE_MAIL_URL") && words.contains("refused"), "{words}");
    let counts = site.0.registry().counts();
    assert_eq!((site.failures(), counts.ended), (1, 1));
    assert_eq!(site.0.registry().lists().ended[0].attempts(), ATTEMPTS);
}

#[test]
fn control_characters_in_headers_are_refused() {
    let site = Site::new("memory:");
    for (mail, word) in [
        (mail().cc("Eve\n <eve@b.example>"), "address"),
        (mail().cc("eve@b.example\r\nRCPT TO:<x@y.example>"), "address"),
        (mail().attach("a\r\nb", "text/plain", ""), "attachment's name"),
        (mail().attach("a", "text/plain\r\nX: y", ""), "content type"),
    ] {
        let words = site.send(mail).unwrap_err();
        assert!(words.contains(word) && words.contains("control character"), "{words}");
    }
    assert!(site.outbox().is_empty());
}

#[test]
fn a_subject_with_line_breaks_is_one_line_and_the_mail_is_sent() {
    let site = Site::new("memory:");
    for (subject, sent) in [
        ("Eve\r\nBcc: all@b.example has signed", "Eve Bcc: all@b.example has signed"),
        ("\nHello\0\u{85}you\n", "Hello you"),
        ("\r\n", ""),
    ] {
        site.send(mail().subject(subject)).unwrap();
        let last = site.outbox().pop().unwrap();
        assert_eq!((&*last.subject, last.bcc.len()), (sent, 0));
    }
}

#[test]
fn an_invalid_address_fails_the_task() {
    let site = Site::new("memory:");
    for text in ["", "anna", "anna@", "@b.example", "a@b.example, c@d.example", "Anna <a@b.example> x", "a b@c.example"]
    {
        let words = site.send(Mail::to(text)).unwrap_err();
        assert!(words.contains("address"), "{text}: {words}");
    }
    assert!(site.send(mail().attach("a", "no type", "")).unwrap_err().contains("`Mail::attach`"));
}

#[test]
fn a_missing_sender_or_transport_names_its_setting() {
    let production = Config { mode: Mode::Production, ..Config::default() };
    let site = Site::with(Mailer::new(&production).unwrap());
    assert!(site.send(mail()).unwrap_err().contains("ASIDE_MAIL_FROM"));
    let words = site.send(mail().from("shop@a.example")).unwrap_err();
    assert!(words.contains("ASIDE_MAIL_URL is not set"), "{words}");
    let wrong = Config { mail_from: Some("shop".into()), ..Config::default() };
    assert!(Mailer::new(&wrong).err().unwrap().chain().starts_with("ASIDE_MAIL_FROM"));
}

#[test]
fn the_outbox_shows_sent_mails() {
    let site = Site::new("memory:");
    site.send(mail().html("<p>We are on it.</p>").attach("a.txt", "text/plain", "one\ntwo\r\n")).unwrap();
    let sent = site.outbox().remove(0);
    assert_eq!((sent.from.as_str(), sent.to[0].as_str()), ("Shop <shop@a.example>", "Anna <anna@b.example>"));
    assert_eq!((sent.text.as_deref(), sent.subject.as_str()), (Some("We are on it."), "Thank you"));
    assert!(sent.message_id.ends_with("@a.example>"));
    let raw = String::from_utf8(sent.raw).unwrap();
    let order = ["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "filename=\"a.txt\""];
    let places = order.map(|part| raw.find(part).expect(part));
    assert!(places.is_sorted(), "{raw}");
    assert!(raw.contains("b25lCnR3bw0K"), "byte for byte: {raw}");
}

#[test]
fn templates_are_rendered_in_the_task() {
    let site = Site::new("memory:");
    let context = crate::context! { name => "A & B" };
    site.send(mail().template("receipt.txt", &context).template("receipt.html", &context)).unwrap();
    let sent = site.outbox().remove(0);
    assert_eq!((sent.text.as_deref(), sent.html.as_deref()), (Some("Dear A & B"), Some("<p>A &amp; B</p>")));
    for name in ["receipt.html", "gone.html"] {
        let words = site.send(mail().template(name, crate::context! {})).unwrap_err();
        assert!(words.starts_with(&format!("the mail's template `{name}` does not render: ")), "{words}");
    }
    assert_eq!((site.outbox().len(), site.failures()), (1, 2));
}

#[test]
fn the_outbox_is_bounded() {
    let site = Site::new("memory:");
    let mailer = site.0.get::<Mailer>().unwrap();
    let letter = mail().build(&mailer).unwrap();
    (0..KEPT + 5).for_each(|_| drop(mailer.deliver(&letter, &[]).map_err(|fault| fault.to_string()).unwrap()));
    assert_eq!(site.outbox().len(), KEPT);
}

#[test]
fn names_and_subjects_may_be_in_any_script() {
    let site = Site::new("memory:");
    let mail = Mail::to("Анна Петрова <anna@b.example>").subject("Спасибо за заказ").text("Уже делаем.");
    site.send(mail.attach("счёт.txt", "text/plain", "")).unwrap();
    let raw = String::from_utf8(site.outbox().remove(0).raw).unwrap();
    assert!(raw.is_ascii(), "{raw}");
    assert!(raw.contains("Subject: =?utf-8?b?") && raw.contains("<anna@b.example>"), "{raw}");
    assert!(raw.contains("filename*0*=utf-8''"), "{raw}");
}

#[test]
fn a_folder_gets_a_file_for_each_mail() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::new(&format!("file:{}/new/mail", folder.path().display()));
    site.send(mail()).unwrap();
    site.send(mail()).unwrap();
    let files: Vec<_> = std::fs::read_dir(folder.path().join("new/mail")).unwrap().flatten().collect();
    assert_eq!(files.len(), 2);
    for file in files {
        assert!(file.file_name().into_string().unwrap().ends_with(".eml"));
        let text = std::fs::read_to_string(file.path()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Subject: Thank you") && head.contains("\r\nDate: "), "{head}");
        assert_eq!(body.trim_end(), "We are on it.");
    }
    assert_eq!(site.outbox().len(), 2);
}

#[test]
fn send_now_reports_its_outcome() {
    let site = Site::new("memory:");
    let _entered = Context::of(site.0.clone()).enter();
    mail().send_now().unwrap();
    assert!(Mail::to("nobody").send_now().is_err());
    assert_eq!((site.outbox().len(), site.0.registry().counts().ended), (1, 0));
}

#[test]
fn the_log_does_not_name_the_person() {
    let mut mail = mail().cc("ben@c.example");
    mail.id = "5f2a".into();
    assert_eq!(mail.task_name(), "mail 5f2a to b.example and 1 more");
    mail.to = vec!["Anna, tel. 123".into()];
    assert_eq!(mail.task_name(), "mail 5f2a to (no address) and 1 more");
}
