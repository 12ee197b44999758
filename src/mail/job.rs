//! A mail as a durable job: it is stored when it is enqueued, and a worker sends it, also after a restart.
//!
//! Later and earlier versions of the program read the stored form. A new field has a default, and is written only if it is
//! set. An unknown field is not ignored, since the mail would lack what it stands for: the job waits for a version of the
//! program that knows the field.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minijinja::Value;
use minijinja::value::ValueKind;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::delivery::Delivery;
use super::fault::is_mendable;
use super::mailer::Mailer;
use super::{Attachment, Content, Mail};
use crate::background::log_text::escape;
use crate::background::retry::Retry;
use crate::background::scope::Context;
use crate::background::task_context::TaskContext;
use crate::error::{Error, Result};
use crate::jobs::{Job, Jobs, NewJob};

/// The number of attempts of a mail job, and the first backoff: about three days in all, with one attempt an hour after the
/// first hours. A server that is down for a weekend gets the mail on Monday.
const ATTEMPTS: u32 = 90;
const FIRST_BACKOFF: Duration = Duration::from_secs(10);

/// The deepest nesting of a context. The JSON parser stops at 128.
const DEEPEST: usize = 100;

/// The last second that the date of a mail can express: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// A mail as a job: `req.enqueue(mail)?` stores it, so that it survives the process, unlike a [sent](Mail::send) one.
///
/// It needs no [`register`](crate::Jobs::register), and has its own queue, `mail`. It is attempted 90 times over about
/// three days, unless the fault is in the mail itself: a refusal (5xx), an invalid address or a template that does not
/// render makes it dead at once. A dead mail is kept with the server's response until it is retried or discarded.
impl Job for Mail {
    const NAME: &'static str = "mail";
    /// A separate queue, so that a slow mail server does not delay other jobs.
    const QUEUE: &'static str = "mail";
    const PRIVATE: bool = true;

    fn retry() -> Retry {
        Retry::exponential(ATTEMPTS, FIRST_BACKOFF).only_if(|error| is_mendable(error) || is_of_a_later_version(error))
    }

    fn label(&self) -> String {
        self.task_name()
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        let mailer = Mailer::current();
        let mut delivery = Delivery::new(self.build(&mailer)?);
        match delivery.attempt(&mailer) {
            Err(fault) if delivery.is_partial() => self.enqueue_rest(&delivery, &fault.into()),
            other => Ok(other?),
        }
    }

    /// Schedules the mail after this duration, and dates it accordingly.
    fn delay(mut self, wait: Duration) -> NewJob<Mail> {
        self.date = self.date.checked_add(wait).unwrap_or(self.date);
        NewJob::from(self).delay(wait)
    }

    /// Schedules the mail for this time, and dates it accordingly.
    fn at(mut self, time: SystemTime) -> NewJob<Mail> {
        self.date = self.date.max(time);
        NewJob::from(self).at(time)
    }
}

impl Mail {
    /// Enqueues new jobs for the recipients without the mail: one for those that a later attempt may reach, and one for
    /// each that was refused permanently, which is dead with the server's response. A retry of this job would send the mail
    /// to all again.
    fn enqueue_rest(self, delivery: &Delivery, error: &Error) -> Result<()> {
        let line = format!("{}: {}; enqueued again for these recipients only", self.task_name(), error.chain());
        let (later, refused) = delivery.missing();
        let alone = |only| NewJob::from(Mail { only, ..self.clone() });
        let later = (!later.is_empty()).then(|| alone(later).delay(FIRST_BACKOFF));
        let rest = later.into_iter().chain(refused.into_iter().map(|address| alone(vec![address])));
        let jobs = Context::current().scope.get::<Jobs>();
        let jobs = jobs.ok_or_else(|| {
            Error::internal("cannot enqueue the mail for the remaining recipients: the application has no jobs")
        })?;
        jobs.enqueue_all(rest)?;
        log::warn!(target: "aside::mail", "{}", escape(&line));
        Ok(())
    }
}

/// Returns true if a later version of the program may have enqueued the mail, during a deployment.
fn is_of_a_later_version(error: &Error) -> bool {
    error.find_source::<serde_json::Error>().is_some()
}

/// The stored form of a mail.
#[derive(Serialize, Deserialize)]
#[serde(remote = "Mail", deny_unknown_fields)]
struct Written {
    id: String,
    /// Seconds since 1970.
    #[serde(with = "seconds")]
    date: SystemTime,
    to: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    cc: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    bcc: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    reply_to: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    subject: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<Content>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    html: Option<Content>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "attachments")]
    attachments: Vec<Attachment>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
}

impl Serialize for Mail {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        Written::serialize(self, to)
    }
}

impl<'de> Deserialize<'de> for Mail {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Mail, D::Error> {
        Written::deserialize(from)
    }
}

mod seconds {
    use std::time::UNIX_EPOCH;

    use super::*;

    pub(super) fn serialize<S: Serializer>(date: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(date.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(LAST_SECOND))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        Ok(UNIX_EPOCH + Duration::from_secs(u64::deserialize(from)?.min(LAST_SECOND)))
    }
}

mod attachments {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File<'a> {
        filename: Cow<'a, str>,
        content_type: Cow<'a, str>,
        base64: String,
    }

    pub(super) fn serialize<S: Serializer>(files: &[Attachment], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(files.iter().map(|file| File {
            filename: Cow::Borrowed(&file.filename),
            content_type: Cow::Borrowed(&file.content_type),
            base64: STANDARD.encode(&file.bytes),
        }))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Attachment>, D::Error> {
        let read = |file: File<'_>| {
            let bytes = STANDARD.decode(file.base64).map_err(D::Error::custom)?;
            let (filename, content_type) = (file.filename.into_owned(), file.content_type.into_owned());
            Ok(Attachment { filename, content_type, bytes })
        };
        Vec::<File<'_>>::deserialize(from)?.into_iter().map(read).collect()
    }
}

/// Writes the context of a template if JSON preserves it: a mail must have the same content, sent or enqueued.
pub(super) fn write_context<S: Serializer>(context: &Value, to: S) -> Result<S::Ok, S::Error> {
    let context = plain(context, "context", 0).map_err(S::Error::custom)?;
    context.serialize(to)
}

/// A value that JSON can hold.
enum Plain {
    Leaf(Value),
    List(Vec<Plain>),
    /// The fields in their original order.
    Map(Vec<(String, Plain)>),
}

impl Serialize for Plain {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Plain::Leaf(value) => value.serialize(to),
            Plain::List(items) => to.collect_seq(items),
            Plain::Map(fields) => to.collect_map(fields.iter().map(|(name, value)| (name, value))),
        }
    }
}

/// Converts the value at this path of a context.
fn plain(value: &Value, path: &str, depth: usize) -> Result<Plain, String> {
    let is_plain = match value.kind() {
        _ if depth > DEEPEST => return Err(format!("a mail's {path} is nested more than {DEEPEST} deep")),
        ValueKind::Map => return plain_map(value, path, depth).map(Plain::Map),
        ValueKind::Seq | ValueKind::Iterable => return plain_list(value, path, depth).map(Plain::List),
        ValueKind::None | ValueKind::Bool => true,
        ValueKind::Number => is_json_number(value),
        ValueKind::String => !value.is_safe(),
        _ => false,
    };
    if is_plain { Ok(Plain::Leaf(value.clone())) } else { Err(not_json(value, path)) }
}

fn plain_list(list: &Value, path: &str, depth: usize) -> Result<Vec<Plain>, String> {
    let items = list.try_iter().map_err(|error| error.to_string())?;
    items.enumerate().map(|(index, item)| plain(&item, &format!("{path}[{index}]"), depth + 1)).collect()
}

/// Converts a map without its undefined values: a missing field is undefined too.
fn plain_map(map: &Value, path: &str, depth: usize) -> Result<Vec<(String, Plain)>, String> {
    let mut fields = Vec::new();
    for key in map.try_iter().map_err(|error| error.to_string())? {
        let Some(name) = key.as_str() else {
            return Err(format!("a mail's {path} has a key that is not text, {key:?}, which JSON cannot hold"));
        };
        let value = map.get_item(&key).map_err(|error| error.to_string())?;
        if !value.is_undefined() {
            fields.push((name.to_owned(), plain(&value, &format!("{path}.{name}"), depth + 1)?));
        }
    }
    Ok(fields)
}

fn is_json_number(number: &Value) -> bool {
    if number.is_integer() {
        return i64::try_from(number.clone()).is_ok() || u64::try_from(number.clone()).is_ok();
    }
    f64::try_from(number.clone()).is_ok_and(f64::is_finite)
}

/// Returns the message for a value that JSON cannot hold. It does not show the value, which may be personal data.
fn not_json(value: &Value, path: &str) -> String {
    let kind = match value.kind() {
        ValueKind::Number => "a number out of the range of JSON".to_owned(),
        ValueKind::String => "text marked as safe HTML (let the template say `| safe`)".to_owned(),
        ValueKind::Invalid => value.to_string(),
        kind => format!("of the kind `{kind}`"),
    };
    format!("a mail's {path} is {kind}, which cannot be written as JSON: give text in its place, or `send` the mail")
}

#[cfg(test)]
mod tests {
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
            assert_eq!(
                (job.state, job.attempt, server.connections()),
                (JobState::Scheduled, attempt, attempt as usize)
            );
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
        assert!(
            words.contains("refuses the mail") && words.contains("550") && words.contains("no such user"),
            "{words}"
        );
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
        assert_eq!((sent.len(), &sent[0]), (2, &sent[1]));
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
            let words_of =
                refused(&client, mail().template("a.html", context! { order => context! { photo => value } }));
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
}
