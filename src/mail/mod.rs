//! Mail: written in the hand, sent aside.
//!
//! [`Mail::send`] begins a task and returns at once. Nothing fails in the hand: what is wrong with a mail is its task's
//! failure. The task builds the message once, with the Message-ID and the date that the mail got when it was begun, and
//! then tries to hand it over; a server that is not there or says "later" is asked again, one that says no is not.
//!
//! [`mailer`] is the way that it goes, [`job`] a mail that is a job: written down, to survive the process.

mod job;
mod mailer;

use std::cell::OnceCell;
use std::fmt;
use std::time::{Duration, SystemTime};

use lettre::Address;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Attachment as AttachedPart, Body, Mailbox, MessageBuilder, MultiPart, SinglePart};
use minijinja::Value;
use minijinja::value::Serde;
use serde::{Deserialize, Serialize};

pub(crate) use self::mailer::Mailer;

use self::mailer::is_worth_another_try;
use crate::background::scope::Context;
use crate::background::task::{Retry, Task, TaskHandle};
use crate::error::{Error, Result};
use crate::http::templates::Templates;

/// How often a mail is tried, and the first wait in between.
const TRIES: u32 = 5;
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
/// An address is `anna@shop.example` or `Anna <anna@shop.example>`, one to a call; names and subjects may be in any script.
/// Control characters in any of them are refused, so that a visitor's text cannot add headers of its own. A mail with text
/// and HTML is sent as two alternatives; without either it is empty.
///
/// # Sent or enqueued
/// [`send`](Mail::send) is a task: it costs nothing, and is gone when the process dies or the server is away for longer than
/// half a minute. A mail that somebody waits for (a receipt, a link to log in) is enqueued, with the application's
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
///     req.enqueue(reminder.in_(Duration::from_secs(7 * 24 * 3600)))?;
///     Ok("thank you")
/// }
/// ```
///
/// It then is tried 90 times over about three days, the first time again after 10 s, later once an hour, where waiting can
/// help. What cannot be helped by that (the server answers 5xx, an address is none, the sender or `ASIDE_MAIL_URL` is not
/// set) is kept as dead at once, with the server's words, and can be tried again once it is mended.
///
/// - Each try has the Message-ID and the date that were written down; for one that was enqueued for later this is the date
///   that it was to go out. A recipient may get it twice, when the process dies before it has noted that the server took it:
///   mail programs know the second by its Message-ID.
/// - What is written down holds addresses, texts and files in the clear. The panel does not show them.
/// - A template's context is written down too, and rendered at each try. What JSON cannot hold (bytes, maps whose keys are no
///   text, text that is marked as safe) is an error of `enqueue`, which says where it is.
/// - 1 MiB fits, which is 700 kB of attachments, and more is an error of `enqueue`. For larger ones write a job of your
///   own, with what is needed to find or make the file, and let it call [`send_now`](Mail::send_now).
/// - Not for [`Jobs::every`](crate::Jobs::every), which would send one and the same mail again and again: give it a job of
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

    /// The text.
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

    /// A file to go with it, under that name and media type. It arrives byte for byte.
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
    /// The task is tried 5 times at most, with waits of 2 s, 4 s, 8 s and 16 s, and only where waiting can help: the server
    /// cannot be reached, hangs up, is silent for 30 s, or answers 4xx. A server that hangs up after the last byte
    /// may have taken the mail and gets it again, with the same Message-ID, by which mail programs tell.
    ///
    /// The log calls it `mail 5f2a9c0d1e3b77aa01c4 to shop.example`: the id in front of the `@` of its Message-ID, which
    /// the mail server's log has too, and the host alone of the recipient, since a log is no place for who wrote to whom.
    ///
    /// # Errors
    /// None in the hand. An address that is none, a missing sender, a control character where none may be, a template that
    /// does not render and a refusal of the server are failures of the task, which its handle gives and the log says.
    pub fn send(self) -> TaskHandle<()> {
        let mailer = Mailer::current();
        let retry = Retry::exponential(TRIES, FIRST_WAIT).only_if(is_worth_another_try);
        let task = Task::named(self.task_name()).retry(retry);
        // Built at the first try and kept for the others, so that they are all the same mail.
        let letter = OnceCell::new();
        task.run(move |_| {
            let letter = match letter.get() {
                Some(letter) => letter,
                None => {
                    let built = self.build(&mailer)?;
                    letter.get_or_init(|| built)
                }
            };
            mailer.deliver(letter)
        })
    }

    /// Sends it now, on this thread, with one try: for a program at the command line, or a page that must say whether it
    /// went. A mail server that is silent holds it up for a minute.
    ///
    /// # Errors
    /// All that [`send`](Mail::send) would log.
    pub fn send_now(self) -> Result<()> {
        let mailer = Mailer::current();
        mailer.deliver(&self.build(&mailer)?)
    }

    /// Which mail it is, in the log.
    fn task_name(&self) -> String {
        let first = self.to.first().map_or("", String::as_str);
        let host = first.rsplit_once('@').map_or("", |(_, host)| host.trim_end_matches(['>', ' ']));
        // What has a space is no host, and may be anything.
        let host = if host.is_empty() || host.len() > 100 || host.contains(' ') { "(no address)" } else { host };
        let others = self.to.len() + self.cc.len() + self.bcc.len() - 1;
        let others = if others == 0 { String::new() } else { format!(" and {others} more") };
        format!("mail {} to {host}{others}", self.id)
    }

    /// The message, whole and checked.
    fn build(&self, mailer: &Mailer) -> Result<Letter> {
        let sent = self.to_sent(mailer)?;
        let boxes = |list: &[String]| list.iter().map(|text| mailbox(text)).collect::<Result<Vec<_>>>();
        let from = mailbox(&sent.from)?;
        let builder = Message::builder()
            .message_id(Some(sent.message_id.clone()))
            .date(self.date)
            .subject(&*sent.subject)
            .from(from.clone());
        let (to, cc, bcc) = (boxes(&sent.to)?, boxes(&sent.cc)?, boxes(&sent.bcc)?);
        let recipients = [&to, &cc, &bcc].into_iter().flatten().map(|mailbox| mailbox.email.clone()).collect();
        let envelope = Envelope::new(Some(from.email), recipients)?;
        let builder = to.into_iter().fold(builder, MessageBuilder::to);
        let builder = cc.into_iter().fold(builder, MessageBuilder::cc);
        let builder = boxes(&sent.reply_to)?.into_iter().fold(builder, MessageBuilder::reply_to);
        let message = with_body(builder.envelope(envelope.clone()), &self.id, &sent)?;
        let sent = SentMail { raw: message.formatted(), ..sent };
        Ok(Letter { envelope, id: self.id.clone(), sent })
    }

    /// What will have been sent, apart from its bytes: every field checked, every template rendered.
    fn to_sent(&self, mailer: &Mailer) -> Result<SentMail> {
        let from = self.from.clone().or_else(|| mailer.from.clone()).ok_or_else(|| {
            Error::internal("the mail has no sender: set ASIDE_MAIL_FROM, or name one with `Mail::from`")
        })?;
        let domain = mailbox(&from)?.email.domain().to_owned();
        one_line("subject", &self.subject)?;
        for attachment in &self.attachments {
            one_line("attachment's name", &attachment.filename)?;
        }
        let render = |part: &Option<Content>| part.as_ref().map(Content::render).transpose();
        Ok(SentMail {
            to: self.to.clone(),
            cc: self.cc.clone(),
            bcc: self.bcc.clone(),
            from,
            reply_to: self.reply_to.clone(),
            subject: self.subject.clone(),
            text: render(&self.text)?,
            html: render(&self.html)?,
            attachments: self.attachments.clone(),
            message_id: format!("<{}@{domain}>", self.id),
            raw: Vec::new(),
        })
    }
}

impl Content {
    fn render(&self) -> Result<String> {
        match self {
            Content::Written(text) => Ok(text.clone()),
            Content::Template { name, context } => {
                let error = |error: Error| error.context(format!("the mail's template `{name}` does not render"));
                render(name, context).map_err(error)
            }
        }
    }
}

/// Renders one of the application's templates: of the scope that came along with the task.
fn render(name: &str, context: &Value) -> Result<String> {
    let templates = Context::current().scope.get::<Templates>().ok_or_else(|| {
        Error::internal("there are no templates here: mail with a template is sent from an application that has some")
    })?;
    templates.render(name, context.clone())
}

/// Adds the parts: text, HTML or both as alternatives, and around them the attachments.
fn with_body(builder: MessageBuilder, id: &str, mail: &SentMail) -> Result<Message> {
    let text = mail.text.clone().map(SinglePart::plain);
    let html = mail.html.clone().map(SinglePart::html);
    if mail.attachments.is_empty() {
        return Ok(match (text, html) {
            (Some(text), Some(html)) => builder.multipart(alternatives(id, text, html))?,
            (text, html) => builder.singlepart(text.or(html).unwrap_or_else(no_text))?,
        });
    }
    let mixed = match (text, html) {
        (Some(text), Some(html)) => {
            MultiPart::mixed().boundary(format!("mixed{id}")).multipart(alternatives(id, text, html))
        }
        (text, html) => {
            MultiPart::mixed().boundary(format!("mixed{id}")).singlepart(text.or(html).unwrap_or_else(no_text))
        }
    };
    let attach = |mixed: MultiPart, attachment| Ok::<_, Error>(mixed.singlepart(attached(attachment)?));
    Ok(builder.multipart(mail.attachments.iter().try_fold(mixed, attach)?)?)
}

/// The plainer one first: a reader shows the last that it can. What is between parts is of the mail's id, which nobody
/// knows who could write it into one, so that a mail which is built again is the same to the last byte.
fn alternatives(id: &str, text: SinglePart, html: SinglePart) -> MultiPart {
    MultiPart::alternative().boundary(format!("alternative{id}")).singlepart(text).singlepart(html)
}

fn no_text() -> SinglePart {
    SinglePart::plain(String::new())
}

fn attached(attachment: &Attachment) -> Result<SinglePart> {
    let Attachment { filename, content_type, bytes } = attachment;
    one_line("attachment's content type", content_type)?;
    let content_type = ContentType::parse(content_type)
        .map_err(|_| Error::internal(format!("{content_type:?} is no media type (`Mail::attach`); try `image/png`")))?;
    // Base64 whatever it is: the other encodings would turn its line ends into those of mail.
    let body = Body::new_with_encoding(bytes.clone(), ContentTransferEncoding::Base64);
    let body = body.map_err(|_| Error::internal("an attachment cannot be encoded"))?;
    Ok(AttachedPart::new(filename.clone()).body(body, content_type))
}

/// An address, alone or behind a name. Ours and not the crate's: its parser takes the first address of a text and says
/// nothing of the rest.
fn mailbox(text: &str) -> Result<Mailbox> {
    one_line("address", text)?;
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (unquoted(name.trim()), address.trim()),
        None => (String::new(), text),
    };
    let address: Address = address.parse().map_err(|_| no_address(text))?;
    Ok(Mailbox::new((!name.is_empty()).then_some(name), address))
}

fn no_address(text: &str) -> Error {
    let shown: String = text.chars().take(100).collect();
    let words = if shown.is_empty() {
        "a mail needs an address, and this one is empty".into()
    } else {
        format!("{shown:?} is no mail address: one looks like `anna@shop.example` or `Anna <anna@shop.example>`")
    };
    Error::internal(words)
}

/// `Anna` of `"Anna"`.
fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => name.to_owned(),
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

/// A mail that is ready to go.
struct Letter {
    envelope: Envelope,
    id: String,
    sent: SentMail,
}

#[cfg(test)]
#[path = "../../tests/support/smtp.rs"]
mod smtp_server;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::mailer::KEPT;
    use super::smtp_server::{Act, SmtpServer, Step};
    use super::*;
    use crate::background::failure::Failure;
    use crate::background::registry::Registry;
    use crate::background::scope::{Scope, Values};
    use crate::config::{Config, Mode};

    fn config(url: &str) -> Config {
        Config { mail_url: Some(url.into()), mail_from: Some("Shop <shop@a.example>".into()), ..Config::default() }
    }

    /// An application that sends its mail so.
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

        /// Sends it and waits for the end, without the waits between tries.
        fn send(&self, mail: Mail) -> Result<(), String> {
            let context = Context { scope: self.0.clone(), origin: None, task: None };
            let entered = context.enter();
            let handle = mail.send();
            drop(entered);
            assert!(self.0.registry().settle(Instant::now() + Duration::from_secs(30)));
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
    fn a_mail_is_delivered_and_a_blind_copy_stays_blind() {
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
    fn a_5xx_is_the_last_word() {
        let server = SmtpServer::start(vec![vec![(Step::Rcpt, Act::Answer("550 no such user"))]]);
        let site = Site::new(&server.url());
        let words = site.send(mail()).unwrap_err();
        assert!(
            words.contains("refuses the mail") && words.contains("550") && words.contains("no such user"),
            "{words}"
        );
        assert_eq!((server.connections(), site.failures()), (1, 1));
    }

    #[test]
    fn a_server_without_encryption_gets_nothing_when_it_is_required() {
        let server = SmtpServer::start(vec![]);
        let words = Site::new(&format!("{}?tls=required", server.url())).send(mail()).unwrap_err();
        assert!(words.contains("offers no encryption") && words.contains("ASIDE_MAIL_URL"), "{words}");
        assert_eq!((server.connections(), server.received().len()), (1, 0));
    }

    #[test]
    fn a_server_that_hangs_up_is_tried_again() {
        let script = [Step::Greeting, Step::Ehlo, Step::Mail, Step::Data].map(|step| vec![(step, Act::Drop)]);
        let server = SmtpServer::start(script.into());
        Site::new(&server.url()).send(mail()).unwrap();
        assert_eq!((server.connections(), server.received().len()), (5, 1));
    }

    #[test]
    fn a_server_that_is_not_there_is_one_failure_after_five_tries() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let site = Site::new(&format!("smtp://127.0.0.1:{port}"));
        let words = site.send(mail()).unwrap_err();
        assert!(words.contains("ASIDE_MAIL_URL") && words.contains("refused"), "{words}");
        let counts = site.0.registry().counts();
        assert_eq!((site.failures(), counts.ended), (1, 1));
    }

    #[test]
    fn a_server_that_falls_silent_is_left_at_the_time_limit() {
        for step in [Step::Greeting, Step::Mail, Step::Body] {
            let server = SmtpServer::start(vec![vec![(step, Act::Stall)]; 2]);
            let mailer = Mailer::with_limit(&config(&server.url()), Duration::from_millis(50)).unwrap();
            let error = mailer.deliver(&mail().build(&mailer).unwrap()).unwrap_err();
            assert!(error.chain().contains("was silent for 50 ms"), "{}", error.chain());
            assert!(is_worth_another_try(&error));
        }
    }

    #[test]
    fn nothing_can_be_smuggled_into_a_header() {
        let site = Site::new("memory:");
        for (mail, word) in [
            (mail().subject("Hello\r\nBcc: all@b.example"), "subject"),
            (mail().subject("Hello\0"), "subject"),
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
    fn what_is_no_address_fails_in_the_task() {
        let site = Site::new("memory:");
        for text in
            ["", "anna", "anna@", "@b.example", "a@b.example, c@d.example", "Anna <a@b.example> x", "a b@c.example"]
        {
            let words = site.send(Mail::to(text)).unwrap_err();
            assert!(words.contains("address"), "{text}: {words}");
        }
        assert!(site.send(mail().attach("a", "no type", "")).unwrap_err().contains("`Mail::attach`"));
    }

    #[test]
    fn a_missing_sender_or_way_names_its_setting() {
        let production = Config { mode: Mode::Production, ..Config::default() };
        let site = Site::with(Mailer::new(&production).unwrap());
        assert!(site.send(mail()).unwrap_err().contains("ASIDE_MAIL_FROM"));
        let words = site.send(mail().from("shop@a.example")).unwrap_err();
        assert!(words.contains("ASIDE_MAIL_URL is not set"), "{words}");
        let wrong = Config { mail_from: Some("shop".into()), ..Config::default() };
        assert!(Mailer::new(&wrong).err().unwrap().chain().starts_with("ASIDE_MAIL_FROM"));
    }

    #[test]
    fn the_outbox_shows_what_went_out() {
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
        (0..KEPT + 5).for_each(|_| mailer.deliver(&letter).unwrap());
        assert_eq!(site.outbox().len(), KEPT);
    }

    #[test]
    fn names_and_subjects_are_in_any_script() {
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
    fn a_mail_that_is_sent_now_says_how_it_went() {
        let site = Site::new("memory:");
        let _entered = Context { scope: site.0.clone(), origin: None, task: None }.enter();
        mail().send_now().unwrap();
        assert!(Mail::to("nobody").send_now().is_err());
        assert_eq!((site.outbox().len(), site.0.registry().counts().ended), (1, 0));
    }

    #[test]
    fn the_log_names_the_mail_and_not_the_person() {
        let mut mail = mail().cc("ben@c.example");
        mail.id = "5f2a".into();
        assert_eq!(mail.task_name(), "mail 5f2a to b.example and 1 more");
        mail.to = vec!["Anna, tel. 123".into()];
        assert_eq!(mail.task_name(), "mail 5f2a to (no address) and 1 more");
    }
}
