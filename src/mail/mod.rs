//! Mail: written in the hand, sent aside.
//!
//! [`Mail::send`] begins a task and returns at once. Nothing fails in the hand: what is wrong with a mail is its task's
//! failure. The task builds the message once, with the Message-ID and the date that the mail got when it was begun, and
//! then tries to hand it over; a server that is not there or says "later" is asked again, one that says no is not.
//!
//! [`message`] builds the message, [`mailer`] sends it, [`connections`] and [`session`] talk to the mail server, [`fault`]
//! classifies failures, [`delivery`] tracks the recipients, and [`job`] is a mail as a durable job.

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
use std::time::{Duration, SystemTime};

use lettre::Address;
use minijinja::Value;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

pub(crate) use self::mailer::Mailer;

use self::delivery::Delivery;
use self::fault::is_temporary;
use crate::background::handle::TaskHandle;
use crate::background::retry::Retry;
use crate::background::task::Task;
use crate::error::{Error, Result};

/// The number of attempts and the first backoff: about 17 minutes in all, longer than a server that greylists (RFC 6647)
/// delays a mail.
const TRIES: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// A mail in the making.
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
///     .send(); // and on with the page
/// ```
///
/// An address is `anna@shop.example` or `Anna <anna@shop.example>`, one per call. Names, subjects and domains may be in any
/// script (a domain is sent as A-labels, `xn--bcher-kva.example`). Non-ASCII letters before the `@` need a server with
/// SMTPUTF8 (RFC 6531). A name is cut after 100 characters.
/// Control characters in any of them are refused, so that a visitor's text cannot add headers of its own. A mail with text
/// and HTML is sent as two alternatives; without either it is empty.
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
///     req.enqueue(receipt.template("receipt.txt", context! { order => 17 }))?; // kept when this returns
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
/// - Each try has the Message-ID and the date that were written down; for one that was enqueued for later this is the date
///   that it was to go out. A recipient may get it twice, when the process dies before it has noted that the server took it:
///   mail programs know the second by its Message-ID.
/// - What is written down holds addresses, texts and files in the clear. The panel does not show them.
/// - A template's context is written down too, and rendered at each try. What JSON cannot hold (bytes, maps whose keys are no
///   text, text that is marked as safe) is an error of `enqueue`, which says where it is.
/// - 1 MiB fits, which is 700 kB of attachments, and more is an error of `enqueue`. For larger ones write a job of your
///   own, with what is needed to find or make the file, and let it call [`send_now`](Mail::send_now).
/// - Not for [`Jobs::cron`](crate::Jobs::cron), which would send one and the same mail again and again: give it a job of
///   your own that makes a mail each time.
#[derive(Debug, Clone)]
#[must_use = "it goes nowhere without `send` or `enqueue`"]
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

/// What a part is made of.
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

/// A file that goes with a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attachment {
    /// Its name, as the reader sees it.
    pub filename: String,
    /// Its media type.
    pub content_type: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

impl Mail {
    /// A mail to that address; [`and_to`](Mail::and_to) adds others.
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

    /// To that address too.
    pub fn and_to(mut self, address: impl Into<String>) -> Mail {
        self.to.push(address.into());
        self
    }

    /// A copy to that address, which all see.
    pub fn cc(mut self, address: impl Into<String>) -> Mail {
        self.cc.push(address.into());
        self
    }

    /// A copy to that address, which nobody else sees.
    pub fn bcc(mut self, address: impl Into<String>) -> Mail {
        self.bcc.push(address.into());
        self
    }

    /// The sender; `ASIDE_MAIL_FROM` by default. Mail servers take few that are not the site's own: what a visitor writes
    /// belongs in [`reply_to`](Mail::reply_to).
    pub fn from(mut self, address: impl Into<String>) -> Mail {
        self.from = Some(address.into());
        self
    }

    /// Where an answer goes, when not to the sender.
    pub fn reply_to(mut self, address: impl Into<String>) -> Mail {
        self.reply_to.push(address.into());
        self
    }

    /// The subject, on one line.
    pub fn subject(mut self, subject: impl Into<String>) -> Mail {
        self.subject = subject.into();
        self
    }

    /// Sets the text. Each line end becomes CR LF, including a lone carriage return.
    pub fn text(mut self, text: impl Into<String>) -> Mail {
        self.text = Some(Content::Written(text.into()));
        self
    }

    /// The HTML. Nothing in it is escaped: what a visitor wrote belongs in a [`template`](Mail::template).
    pub fn html(mut self, html: impl Into<String>) -> Mail {
        self.html = Some(Content::Written(html.into()));
        self
    }

    /// A part from one of the application's templates, rendered in the task or job: the text when its name ends in `.txt`, else
    /// the HTML. For both, call it twice.
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

    /// Sends it aside, by the way of `ASIDE_MAIL_URL`. The handle may be let go. It is gone when the process dies: what must
    /// not be is [enqueued](Mail#sent-or-enqueued).
    ///
    /// The task makes 10 attempts over about 17 minutes while the process lives, and retries only faults that time can
    /// resolve: the server is unreachable, hangs up, is silent for 30 s, refuses the login, has an untrusted certificate,
    /// or answers 4xx. The backoff holds no thread. If a server hangs up after the last byte, it may have accepted the
    /// mail, and gets it again with the same Message-ID, by which mail programs detect duplicates. Recipients that have the
    /// mail do not get it again when others were refused.
    ///
    /// At most `ASIDE_MAIL_CONNECTIONS` (4) mails are sent at once. Further mails wait without a thread.
    ///
    /// The log calls it `mail 5f2a9c0d1e3b77aa01c4 to shop.example`: the id in front of the `@` of its Message-ID, which
    /// the mail server's log has too, and the host alone of the recipient, since a log is no place for who wrote to whom.
    ///
    /// # Errors
    /// None in the hand. An address that is none, a missing sender, a control character where none may be, a template that
    /// does not render and a refusal of the server are failures of the task, which its handle gives and the log says.
    pub fn send(self) -> TaskHandle<()> {
        let mailer = Mailer::current();
        let retry = Retry::exponential(TRIES, FIRST_WAIT).only_if(is_temporary);
        let task = Task::named(self.task_name()).retry(retry).behind(mailer.sending.gate());
        // Built at the first try and kept for the others, so that they are all the same mail.
        let delivery = RefCell::new(None);
        task.spawn(move |_| {
            let mut delivery = delivery.borrow_mut();
            let begun = match delivery.take() {
                Some(begun) => begun,
                None => Delivery::new(self.build(&mailer)?),
            };
            Ok::<_, Error>(delivery.insert(begun).attempt(&mailer)?)
        })
    }

    /// Sends it now, on this thread, with one try: for a program at the command line, or a page that must say whether it
    /// succeeded. A silent mail server delays it by 30 s, a server that is slow to accept the message by up to 10 minutes.
    ///
    /// # Errors
    /// All errors that [`send`](Mail::send) would log. If a server refused some of the recipients, the others have the
    /// mail.
    pub fn send_now(self) -> Result<()> {
        let mailer = Mailer::current();
        Ok(Delivery::new(self.build(&mailer)?).attempt(&mailer)?)
    }

    /// Returns true if this address is still to get the mail.
    fn is_for(&self, address: &Address) -> bool {
        let address: &str = address.as_ref();
        self.only.is_empty() || self.only.iter().any(|only| only == address)
    }

    /// Which mail it is, in the log.
    fn task_name(&self) -> String {
        let all: Vec<&String> = match &*self.only {
            [] => self.to.iter().chain(&self.cc).chain(&self.bcc).collect(),
            only => only.iter().collect(),
        };
        let first = all.first().map_or("", |first| first.as_str());
        let host = first.rsplit_once('@').map_or("", |(_, host)| host.trim_end_matches(['>', ' ']));
        // What has a space is no host, and may be anything.
        let host = if host.is_empty() || host.len() > 100 || host.contains(' ') { "(no address)" } else { host };
        let others = all.len().saturating_sub(1);
        let others = if others == 0 { String::new() } else { format!(" and {others} more") };
        format!("mail {} to {host}{others}", self.id)
    }
}

/// Refuses what could end a header and begin another.
fn one_line(what: &str, text: &str) -> Result<()> {
    if text.contains(char::is_control) {
        let shown: String = text.chars().take(100).collect();
        return Err(Error::internal(format!("the mail's {what} has a control character or a line break: {shown:?}")));
    }
    Ok(())
}

/// Twenty hexadecimal digits that no other mail has.
fn random_id() -> String {
    let mut bytes = [0; 10];
    if getrandom::fill(&mut bytes).is_err() {
        // Without randomness the clock must do.
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        bytes.copy_from_slice(&nanos.to_be_bytes()[6..]);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A mail that went out, as tests and the panel see it.
///
/// Remembered where mail goes to a folder or to memory: the last 100, of 64 MiB at most.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SentMail {
    /// To whom, as given.
    pub to: Vec<String>,
    /// To whom else.
    pub cc: Vec<String>,
    /// To whom in secret; not in `raw`.
    pub bcc: Vec<String>,
    /// From whom.
    pub from: String,
    /// Where answers go, when not to the sender.
    pub reply_to: Vec<String>,
    /// The subject.
    pub subject: String,
    /// The text, when there is one.
    pub text: Option<String>,
    /// The HTML, when there is some.
    pub html: Option<String>,
    /// The files.
    pub attachments: Vec<Attachment>,
    /// The Message-ID, in its angle brackets.
    pub message_id: String,
    /// The message as it goes over the wire (RFC 5322).
    pub raw: Vec<u8>,
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
