use std::collections::HashMap;

use minijinja::value::Serde;

use super::*;
use crate::app::App;
use crate::config::Config;
use crate::context;
use crate::http::request::Request;
use crate::jobs::{JobInfo, JobState, Jobs};
use crate::mail::SentMail;
use crate::mail::smtp_server::{Act, SmtpServer, Step};
use crate::testing::TestClient;

/// A duration longer than any backoff.
const LATER: Duration = Duration::from_secs(3600);

fn site(url: &str) -> TestClient {
    let (mail_url, mail_from) = (Some(url.into()), Some("Shop <shop@a.example>".into()));
    let app = App::with_config(Config { mail_url, mail_from, ..Config::default() })
        .jobs(Jobs::memory())
        .template("receipt.txt", "Dear {{ name }}, {{ sum }} for {{ items | join(', ') }}")
        .template("receipt.html", "<p>{{ name }}{% for key in order %} {{ key }}{% endfor %} {{ order.sum }}</p>");
    TestClient::new(app)
}

fn mail() -> Mail {
    Mail::to("Anna <anna@b.example>").subject("Thank you").text("We are on it.")
}

/// Returns a mail with every field set.
fn full() -> Mail {
    let context = context! {
        name => "Анна & Co", sum => 19.5, items => ["чай", "kaffe"], order => context! { z => 1, sum => 0.1 + 0.2 },
    };
    Mail::to("Анна <anna@b.example>")
        .and_to("ben@b.example")
        .cc("cy@c.example")
        .bcc("dee@d.example")
        .from("Лавка <other@a.example>")
        .reply_to("answers@a.example")
        .subject("Спасибо за заказ")
        .template("receipt.txt", &context)
        .template("receipt.html", &context)
        .attach("счёт.bin", "application/octet-stream", (0..=255).collect::<Vec<u8>>())
        .attach("leer.txt", "text/plain", "")
}

fn job(client: &TestClient, id: u64) -> JobInfo {
    client.jobs().find(id).unwrap().unwrap()
}

/// Enqueues a mail that must be refused, and returns the message.
fn refused(client: &TestClient, mail: Mail) -> String {
    client.jobs().enqueue(mail).unwrap_err().chain()
}

#[test]
fn an_enqueued_mail_is_sent_unchanged_after_a_4xx_and_a_lost_connection() {
    let busy = vec![(Step::Body, Act::Answer("451 try again"))];
    let server = SmtpServer::start(vec![busy, vec![(Step::Greeting, Act::Drop)]]);
    let mut client = site(&server.url());
    let id = client.jobs().enqueue(full()).unwrap().id;
    for attempt in [1, 2] {
        client.drain();
        let job = job(&client, id);
        assert_eq!((job.state, job.attempt, server.connections()), (JobState::Scheduled, attempt, attempt as usize));
        client.advance(LATER);
    }
    client.drain();
    assert_eq!((job(&client, id).state, server.connections()), (JobState::Done, 3));
    let got = server.received();
    assert_eq!(got.len(), 2);
    assert_eq!((&got[0].data, &got[0].to), (&got[1].data, &got[1].to));
    assert_eq!(got[0].to, ["anna@b.example", "ben@b.example", "cy@c.example", "dee@d.example"]);
    assert!(got[0].data.contains("Message-ID: <") && !got[0].data.contains("dee@"), "{}", got[0].data);
    assert!(job(&client, id).failures[0].message.contains("451"), "{:?}", job(&client, id).failures);
}

#[test]
fn a_5xx_makes_the_job_dead_with_the_response() {
    let server = SmtpServer::start(vec![vec![(Step::Rcpt, Act::Answer("550 no such user"))]]);
    let mut client = site(&server.url());
    let id = client.jobs().enqueue(mail()).unwrap().id;
    client.drain();
    client.advance(LATER);
    client.drain();
    let job = job(&client, id);
    assert_eq!((job.state, job.failures.len(), server.connections()), (JobState::Dead, 1, 1));
    let words = &job.failures[0].message;
    assert!(words.contains("refuses the mail") && words.contains("550") && words.contains("no such user"), "{words}");
    assert!(client.jobs().retry(id).unwrap());
    client.drain();
    assert_eq!(server.received().len(), 1, "the server gets the mail once it knows the user");
}

#[test]
fn a_server_that_is_down_for_two_days_gets_the_mail() {
    let down = vec![(Step::Greeting, Act::Answer("421 closed for the weekend"))];
    let server = SmtpServer::start(vec![down; 57]);
    let mut client = site(&server.url());
    let id = client.jobs().enqueue(mail()).unwrap().id;
    for _ in 0..57 {
        client.drain();
        client.advance(LATER);
    }
    client.drain();
    assert_eq!((job(&client, id).state, server.received().len()), (JobState::Done, 1));
    // Ten backoffs of up to 85 min in total, then hours shortened by a quarter at most.
    let retry = Mail::retry();
    let least: Duration = (1..58).map(|failed| retry.wait(failed).unwrap()).sum();
    assert!(least < Duration::from_secs(60 * 3600) && least > Duration::from_secs(36 * 3600), "{least:?}");
}

#[test]
fn a_sent_and_an_enqueued_mail_are_equal() {
    let client = site("memory:");
    let mail = full();
    client.within(|| mail.clone().send());
    client.drain();
    client.jobs().enqueue(mail).unwrap();
    client.drain();
    let sent = client.outbox();
    // Each has the work that sent it.
    let content = |mail: &SentMail| SentMail { trace: None, sender: None, request: None, ..mail.clone() };
    assert_eq!((sent.len(), content(&sent[0])), (2, content(&sent[1])));
    assert_ne!((sent[0].trace, sent[0].sender), (sent[1].trace, sent[1].sender));
    let text = sent[1].text.as_deref().unwrap();
    assert_eq!(text, "Dear Анна & Co, 19.5 for чай, kaffe");
    assert_eq!(sent[1].html.as_deref().unwrap(), "<p>Анна &amp; Co sum z 0.30000000000000004</p>");
    assert_eq!((&*sent[1].bcc, sent[1].attachments.len()), (&["dee@d.example".to_owned()][..], 2));
}

#[test]
fn a_request_enqueues_a_mail_for_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { mail_url: Some(format!("file:{}", folder.path().display())), ..Config::default() };
    let handler = |req: &mut Request| req.enqueue(mail()).map(|_| "thank you");
    let mut client = TestClient::new(App::with_config(config).jobs(Jobs::memory()).post("/orders", handler));
    assert_eq!(client.post("/orders").send().text(), "thank you");
    let files = || std::fs::read_dir(folder.path()).unwrap().flatten().collect::<Vec<_>>();
    assert!(files().is_empty());
    client.jobs().assert_enqueued(|mail: &Mail| mail.to == ["Anna <anna@b.example>"]);
    client.drain();
    let text = std::fs::read(files()[0].path()).unwrap();
    assert_eq!((files().len(), text), (1, client.outbox().remove(0).raw));
}

#[test]
fn the_label_of_a_mail_job_does_not_name_the_person() {
    let client = site("memory:");
    let mail = full();
    let id = mail.id.clone();
    let job = job(&client, client.jobs().enqueue(mail).unwrap().id);
    assert_eq!(job.label, format!("mail {id} to b.example and 3 more"));
    assert!(client.jobs().is_private(&job.name));
    client.drain();
}

#[test]
fn a_scheduled_mail_is_dated_when_it_is_sent() {
    let mut client = site("memory:");
    let begun = mail();
    let then = begun.date + 48 * LATER;
    let jobs = client.jobs();
    jobs.enqueue(begun.clone().delay(48 * LATER)).unwrap();
    jobs.enqueue(begun.clone().at(then)).unwrap();
    jobs.enqueue(begun.clone().at(begun.date - LATER)).unwrap();
    client.drain();
    assert_eq!(client.outbox().len(), 1, "the mail that was due an hour ago");
    client.advance(48 * LATER);
    client.drain();
    let dates: Vec<SystemTime> = client.outbox().iter().map(date).collect();
    let whole = |time: SystemTime| time - Duration::from_nanos(nanos(time));
    assert_eq!(dates, [whole(begun.date), whole(then), whole(then)]);
    let _ = begun.delay(Duration::MAX);
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().subsec_nanos().into()
}

fn date(mail: &SentMail) -> SystemTime {
    let raw = String::from_utf8(mail.raw.clone()).unwrap();
    let line = raw.lines().find_map(|line| line.strip_prefix("Date: ")).unwrap();
    httpdate::parse_http_date(&line.replace("+0000", "GMT")).unwrap()
}

/// The exact form that this version writes, and the minimal one: later versions must read both.
#[test]
fn a_stored_mail_is_read_by_later_versions() {
    let all = concat!(
        r#"{"id":"5f2a9c0d1e3b77aa01c4","date":1790000000,"to":["Anna <anna@b.example>"],"cc":["c@d.example"],"#,
        r#""bcc":["e@f.example"],"from":"Shop <shop@a.example>","reply_to":["g@h.example"],"subject":"Чай","#,
        r#""text":{"written":"Hello"},"html":{"template":{"name":"receipt.html","context":{"name":"A","order":{"sum":1}}}},"#,
        r#""attachments":[{"filename":"a.txt","content_type":"text/plain","base64":"b25lCnR3bw0K"}]}"#,
    );
    let mail: Mail = serde_json::from_str(all).unwrap();
    assert_eq!(serde_json::to_string(&mail).unwrap(), all);
    let client = site("memory:");
    client.jobs().enqueue(mail).unwrap();
    client
        .jobs()
        .enqueue(serde_json::from_str::<Mail>(r#"{"id":"7","date":0,"to":["b@c.example"]}"#).unwrap())
        .unwrap();
    client.drain();
    let sent = client.outbox();
    assert_eq!(sent[0].message_id, "<5f2a9c0d1e3b77aa01c4@a.example>");
    assert_eq!((sent[0].text.as_deref(), sent[0].html.as_deref()), (Some("Hello"), Some("<p>A sum 1</p>")));
    assert_eq!((&*sent[0].attachments[0].bytes, &*sent[0].subject), (&b"one\ntwo\r\n"[..], "Чай"));
    assert_eq!((&*sent[1].message_id, date(&sent[1])), ("<7@a.example>", SystemTime::UNIX_EPOCH));
}

#[test]
fn a_mail_of_a_later_version_waits_for_it() {
    let error = Error::internal("…").with_source(
        serde_json::from_str::<Mail>(r#"{"id":"7","date":0,"to":["b@c.example"],"sealed":true}"#).unwrap_err(),
    );
    assert!(error.chain().contains("unknown field `sealed`"), "{}", error.chain());
    assert!(Mail::retry().wait_after(1, &crate::background::failure::Failure::from_error(error.into())).is_some());
    let never = serde_json::from_str::<Mail>(r#"{"id":"7","date":18446744073709551615,"to":["b@c.example"]}"#);
    assert!(site("memory:").jobs().enqueue(never.unwrap()).is_ok(), "a date beyond the range causes no panic");
}

#[test]
fn a_context_that_json_cannot_hold_is_refused_by_enqueue() {
    let client = site("memory:");
    let deep = (0..200).fold(Value::from(1), |inner, _| Value::from(vec![inner]));
    for (value, words) in [
        (Value::from_bytes(b"geheim".to_vec()), "context.order.photo is of the kind `bytes`"),
        (Value::from(f64::NAN), "context.order.photo is a number out of the range"),
        (Value::from(u128::MAX), "context.order.photo is a number out of the range"),
        (Value::from_safe_string("<b>geheim</b>".into()), "context.order.photo is text marked as safe HTML"),
        (Value::from(Serde(HashMap::from([(1, 2)]))), "context.order.photo has a key that is not text, 1"),
        (deep, "is nested more than 100 deep"),
    ] {
        let words_of = refused(&client, mail().template("a.html", context! { order => context! { photo => value } }));
        assert!(words_of.contains(words) && !words_of.contains("geheim"), "{words_of}");
        assert!(words_of.starts_with("the job `mail` cannot be written as JSON"), "{words_of}");
    }
    let words = refused(&client, mail().template("a.html", HashMap::from([(vec![1], 2)])));
    assert!(words.contains("JSON"), "{words}");
    assert_eq!(client.jobs().counts().unwrap().waiting, 0);
}

/// `send` accepts values that minijinja supports and JSON does not.
#[test]
fn a_context_that_json_cannot_hold_can_be_sent() {
    let client = site("memory:");
    let context =
        context! { name => Value::from_safe_string("<b>A</b>".into()), order => context! { sum => f64::INFINITY } };
    client.within(|| mail().template("receipt.html", &context).send());
    client.drain();
    assert_eq!(client.outbox()[0].html.as_deref(), Some("<p><b>A</b> sum inf</p>"));
}

#[test]
fn a_context_is_stored_and_read_unchanged() {
    let values = context! {
        text => "Чай \"\u{0}", none => Value::from(()), yes => true, least => i64::MIN, most => u64::MAX,
        whole => 1.0, small => 5e-324, third => 1.0 / 3.0, large => 1.7976931348623157e308, zero => -0.0,
        list => Value::make_iterable(|| 0..3), empty => Vec::<u8>::new(), gone => Value::UNDEFINED,
    };
    let before = mail().template("a.txt", &values);
    let after: Mail = serde_json::from_str(&serde_json::to_string(&before).unwrap()).unwrap();
    let Some(Content::Template { context, .. }) = after.text else { panic!() };
    let render = |context: &Value| {
        minijinja::Environment::new().render_str("{{ text }} {{ none }} {{ yes }} {{ least }} \
        {{ most }} {{ whole }} {{ small }} {{ third }} {{ large }} {{ zero }} {{ list | join }} {{ empty }} [{{ gone }}]", context)
    };
    assert_eq!(render(&context).unwrap(), render(&values).unwrap());
    for number in (1..10_000).map(|number| f64::from(number).sqrt()) {
        let written = serde_json::to_string(&mail().template("a.txt", number)).unwrap();
        let Some(Content::Template { context, .. }) = serde_json::from_str::<Mail>(&written).unwrap().text else {
            panic!()
        };
        assert_eq!(f64::try_from(context).unwrap(), number);
    }
}

#[test]
fn a_file_that_is_too_large_is_refused_with_a_remedy() {
    let client = site("memory:");
    let words = refused(&client, mail().attach("film.mp4", "video/mp4", vec![7; 800_000]));
    assert!(words.contains("job `mail`") && words.contains("1048576") && words.contains("in a file"), "{words}");
    client.jobs().enqueue(mail().attach("film.mp4", "video/mp4", vec![7; 700_000])).unwrap();
    client.drain();
    assert_eq!(client.outbox()[0].attachments[0].bytes.len(), 700_000);
}
