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
use crate::background::retry::Retry;
use crate::background::scope::Context;
use crate::background::task_context::TaskContext;
use crate::error::{Error, Result};
use crate::jobs::{Job, Jobs, NewJob};
use crate::log_text::escape;

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
mod tests;
