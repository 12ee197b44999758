//! Mail: built in the handler, sent in the background.
//!
//! [`Mail::send`] starts a task and returns at once. It returns no error: a fault of the mail is the failure of its task.
//! The task builds the message once, with the Message-ID and the date at which the mail was created, and sends it. It
//! retries if the server is unreachable or answers 4xx, and fails at once if the server refuses the mail (5xx).
//!
//! ```
//! use aside::mail::SentMail;
//! use aside::testing::TestClient;
//! use aside::{App, Mail};
//!
//! let client = TestClient::new(App::new());
//! client.within(|| Mail::to("ada@example.org").subject("Your order").text("Thank you.").send());
//! client.drain();
//! let sent: Vec<SentMail> = client.outbox();
//! assert_eq!(sent[0].subject, "Your order");
//! ```

// `message` builds the message, `mailer` sends it, `connections` and `session` talk to the mail server, `fault`
// classifies failures, `delivery` tracks the recipients, and `job` is a mail as a durable job.

mod address;
mod connections;
mod delivery;
mod fault;
mod job;
mod mailer;
mod message;
mod server_url;
mod session;

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lettre::Address;
use minijinja::Value;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

pub use self::address::is_address;
pub(crate) use self::mailer::Mailer;

use self::address::mailbox;
use self::delivery::Delivery;
use self::fault::is_temporary;
use crate::background::handle::TaskHandle;
use crate::background::lineage::Parent;
use crate::background::request_info::RequestInfo;
use crate::background::retry::Retry;
use crate::background::task::Task;
use crate::background::trace_id::TraceId;
use crate::error::{Error, OrHere, Result};
use crate::jobs::Job;
use crate::random;

/// The number of attempts and the first backoff: about 17 minutes in all, longer than a server that greylists (RFC 6647)
/// delays a mail.
const ATTEMPTS: u32 = 10;
const FIRST_BACKOFF: Duration = Duration::from_secs(2);

/// A mail to be sent or enqueued.
///
/// ```no_run
/// use aside::Mail;
///
/// let order = 17;
/// Mail::to("Anna Ågren <anna@shop.example>")
///     .subject(format!("Order {order}"))
///     .text("We are on it.")
///     .html("<p>We are <em>on it</em>.</p>")
///     .attach("terms.txt", "text/plain; charset=utf-8", "No returns.")
///     .send(); // returns at once
/// ```
///
/// An address is `anna@shop.example` or `Anna <anna@shop.example>`, one per call. Names, subjects and domains may be in any
/// script (a domain is sent as A-labels, `xn--bcher-kva.example`). Non-ASCII letters before the `@` need a server with
/// SMTPUTF8 (RFC 6531). A name is cut after 100 characters.
/// Control characters in any of them are refused, so that a user's text cannot add headers. A mail with text and HTML is
/// sent as two alternatives; without either it is empty.
///
/// # Sent or enqueued
/// [`send`](Mail::send) is a task: it costs nothing, and is gone when the process dies or the server is away for longer than
/// a quarter of an hour. Enqueue a mail that a user waits for (a receipt, a link to log in), with the application's
/// [`Jobs`](crate::Jobs):
///
/// ```
/// use std::time::Duration;
///
/// use aside::{Job, Mail, Request, Result, context};
///
/// fn paid(req: &mut Request) -> Result<&'static str> {
///     let receipt = Mail::to("anna@shop.example").subject("Your receipt");
///     req.enqueue(receipt.template("receipt.txt", context! { order => 17 }))?; // stored when this returns
///     let reminder = Mail::to("anna@shop.example").subject("How was it?").text("…");
///     req.enqueue(reminder.delay(Duration::from_secs(7 * 24 * 3600)))?;
///     Ok("thank you")
/// }
/// ```
///
/// The job is attempted 90 times over about three days, with a first backoff of 10 s and later one attempt an hour, if the
/// fault is not in the mail itself: an unreachable server, an expired certificate, a refused login, a missing setting, a
/// full disk. After a final fault (the server answers 5xx to the mail or a recipient, an address is invalid, a template
/// does not render) the job is dead at once, with the server's response, and can be retried in the panel.
///
/// - The job waits in its own queue `mail`: `Jobs::queue("mail", 2)` sets how many mails are sent at once.
/// - Recipients that the server refuses while it accepts others get a job of their own, with the same Message-ID.
/// - All attempts use the Message-ID and the date that were stored. For a mail enqueued for later, this is the scheduled
///   date. If the process dies before it has recorded that the server accepted the mail, a recipient may get it twice: mail
///   programs detect the duplicate by its Message-ID.
/// - The stored job holds addresses, texts and files unencrypted. The panel does not show them.
/// - The context of a template is stored too, and rendered at each attempt. `enqueue` returns an error for values that JSON
///   cannot hold (bytes, maps whose keys are not text, text marked as safe), and names their location.
/// - A stored mail has at most 1 MiB, which is 700 kB of attachments; `enqueue` returns an error for a larger one. For
///   larger files, write your own job, which finds or creates the file and calls [`send_now`](Mail::send_now).
/// - Do not pass a mail to [`Jobs::cron`](crate::Jobs::cron), which would send the same mail again and again. Pass your
///   own job, which creates a mail each time.
#[derive(Debug, Clone)]
#[must_use = "a mail is not sent without `send` or `enqueue`"]
pub struct Mail {
    id: String,
    date: SystemTime,
    to: Vec<String>,
    cc: Vec<String>,
    bcc: Vec<String>,
    from: Option<String>,
    reply_to: Vec<String>,
    subject: String,
    text: Option<Content>,
    html: Option<Content>,
    attachments: Vec<Attachment>,
    /// The addresses that do not have the mail yet, after others got it; empty for all.
    only: Vec<String>,
}

/// The content of the text or HTML part.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Content {
    Written(String),
    Template {
        name: String,
        #[serde(serialize_with = "job::write_context")]
        context: Value,
    },
}

/// A file attached to a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attachment {
    /// The file name, as the recipient sees it.
    pub filename: String,
    /// The media type.
    pub content_type: String,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Mail {
    /// Creates a mail to this address; [`and_to`](Mail::and_to) adds others.
    pub fn to(address: impl Into<String>) -> Mail {
        Mail {
            id: random_id(),
            date: SystemTime::now(),
            to: vec![address.into()],
            cc: Vec::new(),
            bcc: Vec::new(),
            from: None,
            reply_to: Vec::new(),
            subject: String::new(),
            text: None,
            html: None,
            attachments: Vec::new(),
            only: Vec::new(),
        }
    }

    /// Adds a recipient.
    pub fn and_to(mut self, address: impl Into<String>) -> Mail {
        self.to.push(address.into());
        self
    }

    /// Adds a recipient of a copy, visible to all recipients.
    pub fn cc(mut self, address: impl Into<String>) -> Mail {
        self.cc.push(address.into());
        self
    }

    /// Adds a recipient of a blind copy, not visible to the other recipients.
    pub fn bcc(mut self, address: impl Into<String>) -> Mail {
        self.bcc.push(address.into());
        self
    }

    /// Sets the sender. The default is `ASIDE_MAIL_FROM`. Mail servers accept hardly any sender outside the site's own
    /// domain: put a user's address into [`reply_to`](Mail::reply_to).
    pub fn from(mut self, address: impl Into<String>) -> Mail {
        self.from = Some(address.into());
        self
    }

    /// Adds an address for answers. The default is the sender.
    pub fn reply_to(mut self, address: impl Into<String>) -> Mail {
        self.reply_to.push(address.into());
        self
    }

    /// Sets the subject, one line of text. Line breaks and other control characters become spaces.
    pub fn subject(mut self, subject: impl Into<String>) -> Mail {
        self.subject = subject.into();
        self
    }

    /// Sets the text. Each line end becomes CR LF, including a lone carriage return.
    pub fn text(mut self, text: impl Into<String>) -> Mail {
        self.text = Some(Content::Written(text.into()));
        self
    }

    /// Sets the HTML. It is not escaped: insert a user's text through a [`template`](Mail::template).
    pub fn html(mut self, html: impl Into<String>) -> Mail {
        self.html = Some(Content::Written(html.into()));
        self
    }

    /// Sets the text (if the name ends in `.txt`) or the HTML from one of the application's templates. Call it twice to set
    /// both. The task or job renders the template.
    ///
    /// ```no_run
    /// use aside::{Mail, context};
    ///
    /// Mail::to("anna@shop.example")
    ///     .subject("Your receipt")
    ///     .template("receipt.txt", context! { order => 17 })
    ///     .template("receipt.html", context! { order => 17 })
    ///     .send();
    /// ```
    pub fn template(mut self, name: impl Into<String>, context: impl Serialize) -> Mail {
        let (name, context) = (name.into(), Value::from(Serde(&context)));
        let part = if name.ends_with(".txt") { &mut self.text } else { &mut self.html };
        *part = Some(Content::Template { name, context });
        self
    }

    /// Attaches a file under this name and media type. It arrives byte for byte, except for a message (`message/rfc822`): a
    /// message must not be encoded, so its line ends become CR LF. A message with lines over 998 bytes or with control
    /// characters that mail cannot carry is sent as `application/octet-stream`.
    pub fn attach(
        mut self,
        filename: impl Into<String>,
        content_type: impl Into<String>,
        bytes: impl Into<Vec<u8>>,
    ) -> Mail {
        let (filename, content_type) = (filename.into(), content_type.into());
        self.attachments.push(Attachment { filename, content_type, bytes: bytes.into() });
        self
    }

    /// Sends the mail in a background task, through `ASIDE_MAIL_URL`. The handle may be dropped. The mail is lost if the
    /// process dies: [enqueue](Mail#sent-or-enqueued) a mail that must not be lost.
    ///
    /// The task makes 10 attempts over about 17 minutes while the process lives, and retries only faults that time can
    /// resolve: the server is unreachable, hangs up, is silent for 30 s, refuses the login, has an untrusted certificate,
    /// or answers 4xx. The backoff holds no thread. If a server hangs up after the last byte, it may have accepted the
    /// mail, and gets it again with the same Message-ID, by which mail programs detect duplicates. Recipients that have the
    /// mail do not get it again when others were refused.
    ///
    /// At most `ASIDE_MAIL_CONNECTIONS` (4) mails are sent at once. Further mails wait without a thread.
    ///
    /// The log names the mail `mail 5f2a9c0d1e3b77aa01c4 to shop.example`: the part of the Message-ID before the `@`, which
    /// the mail server logs too, and only the host of the recipient, since a log must not hold personal data.
    ///
    /// # Errors
    /// The method itself returns none. An invalid address, a missing sender, a forbidden control character, a template that
    /// does not render, and a refusal by the server are failures of the task: the handle returns them, and they are logged.
    #[track_caller]
    pub fn send(self) -> TaskHandle<()> {
        self.send_then(|| ())
    }

    /// Sends the mail in a background task, and calls `sent` when it is sent. If it is not, `sent` is dropped.
    #[track_caller]
    pub(crate) fn send_then(self, sent: impl Fn() + Send + 'static) -> TaskHandle<()> {
        let mailer = Mailer::current();
        let retry = Retry::exponential(ATTEMPTS, FIRST_BACKOFF).only_if(is_temporary);
        let task = Task::named(self.task_name()).kind(<Mail as Job>::NAME).retry(retry).behind(mailer.sending.gate());
        // Built at the first attempt and kept, so that all attempts send the same mail.
        let delivery = RefCell::new(None);
        task.spawn(move |_| {
            let mut delivery = delivery.borrow_mut();
            let begun = match delivery.take() {
                Some(begun) => begun,
                None => Delivery::new(self.build(&mailer)?),
            };
            delivery.insert(begun).attempt(&mailer)?;
            sent();
            Ok::<_, Error>(())
        })
    }

    /// Checks an address.
    ///
    /// # Errors
    /// If it is not a valid address; the message has it.
    pub(crate) fn check_address(address: &str) -> Result<()> {
        mailbox(address).map(drop)
    }

    /// Sends the mail now, on this thread, with one attempt: for a command, or a page that must report the outcome. A silent
    /// mail server delays it by 30 s, a server that is slow to accept the message by up to 10 minutes.
    ///
    /// # Errors
    /// All errors that [`send`](Mail::send) would log. If a server refused some of the recipients, the others have the
    /// mail.
    #[track_caller]
    pub fn send_now(self) -> Result<()> {
        let mailer = Mailer::current();
        Ok(Delivery::new(self.build(&mailer).or_here()?).attempt(&mailer)?)
    }

    /// Returns true if this address does not have the mail yet.
    fn is_for(&self, address: &Address) -> bool {
        let address: &str = address.as_ref();
        self.only.is_empty() || self.only.iter().any(|only| only == address)
    }

    /// Returns the name of the mail in the log.
    fn task_name(&self) -> String {
        let all: Vec<&String> = match &*self.only {
            [] => self.to.iter().chain(&self.cc).chain(&self.bcc).collect(),
            only => only.iter().collect(),
        };
        let first = all.first().map_or("", |first| first.as_str());
        let host = first.rsplit_once('@').map_or("", |(_, host)| host.trim_end_matches(['>', ' ']));
        // Text with a space is not a host, and may hold personal data.
        let host = if host.is_empty() || host.len() > 100 || host.contains(' ') { "(no address)" } else { host };
        let others = all.len().saturating_sub(1);
        let others = if others == 0 { String::new() } else { format!(" and {others} more") };
        format!("mail {} to {host}{others}", self.id)
    }
}

/// Refuses control characters, which could end a header and start another one.
fn one_line(what: &str, text: &str) -> Result<()> {
    if text.contains(char::is_control) {
        let shown: String = text.chars().take(100).collect();
        return Err(Error::internal(format!("the mail's {what} has a control character or a line break: {shown:?}")));
    }
    Ok(())
}

/// Returns twenty random hexadecimal digits.
fn random_id() -> String {
    let bytes = random::bytes::<10>().unwrap_or_else(|_| {
        // Without a source of randomness, the clock is used.
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        std::array::from_fn(|at| nanos.to_be_bytes()[6 + at])
    });
    random::hex(&bytes)
}

/// A sent mail, as tests and the panel see it.
///
/// It is kept if mail goes to a folder or to memory: the last 100 mails, at most 64 MiB.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentMail {
    /// The recipients, as given.
    pub to: Vec<String>,
    /// The recipients of a copy.
    pub cc: Vec<String>,
    /// The recipients of a blind copy, which `raw` does not name.
    pub bcc: Vec<String>,
    /// The sender.
    pub from: String,
    /// The addresses for answers; empty for the sender.
    pub reply_to: Vec<String>,
    /// The subject.
    pub subject: String,
    /// The text, if the mail has one.
    pub text: Option<String>,
    /// The HTML, if the mail has any.
    pub html: Option<String>,
    /// The attached files.
    pub attachments: Vec<Attachment>,
    /// The Message-ID, in its angle brackets.
    pub message_id: String,
    /// The message as it goes over the wire (RFC 5322).
    pub raw: Vec<u8>,
    /// The trace of the request or the work that sent the mail.
    pub trace: Option<TraceId>,
    /// The task or job that sent it, if a request did not do so itself.
    pub(crate) sender: Option<Parent>,
    pub(crate) request: Option<Arc<RequestInfo>>,
}

impl fmt::Debug for SentMail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.raw))
    }
}

#[cfg(test)]
#[path = "../../tests/support/smtp.rs"]
pub(crate) mod smtp_server;

#[cfg(test)]
mod tests;
