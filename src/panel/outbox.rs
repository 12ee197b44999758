//! The pages about mail: the stored mails, and each one as text, as inactive HTML, and as its source.

use std::sync::Arc;

use jiff::Timestamp;
use minijinja::Value;
use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::page::{gone, page, private};
use crate::background::lineage::Parent;
use crate::context;
use crate::error::{Error, Result};
use crate::http::error_pages::sanitize::{visible_line, visible_up_to};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::log_text::numbered;
use crate::mail::{Attachment, Mailer, SentMail};

/// The lengths, in characters, of a text on the page and of a line. The full source has an address of its own.
const TEXT: usize = 100_000;
const LINE: usize = 500;

/// The HTML of a mail is untrusted: no scripts, no forms, no external resources, and an opaque origin.
const POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; \
     base-uri 'none'; frame-ancestors 'self'";

/// The link on the page for a mail that does not exist.
const ALL_MAIL: (&str, &str) = ("/_aside/outbox", "All mail");

/// One mail in the list.
#[derive(Serialize)]
struct Line {
    id: String,
    subject: String,
    to: String,
    others: usize,
    date: String,
    at: Option<Moment>,
    parts: String,
    attachments: usize,
    size: String,
}

impl Line {
    fn of(mail: &SentMail) -> Line {
        let parts = [mail.text.as_ref().map(|_| "text"), mail.html.as_ref().map(|_| "HTML")];
        Line {
            id: id(mail).to_owned(),
            subject: visible_line(&mail.subject, LINE),
            to: visible_line(mail.to.first().map_or("", String::as_str), LINE),
            others: (mail.to.len() + mail.cc.len() + mail.bcc.len()).saturating_sub(1),
            date: date(mail),
            at: at(mail),
            parts: parts.into_iter().flatten().collect::<Vec<_>>().join(" and "),
            attachments: mail.attachments.len(),
            size: size(mail.raw.len()),
        }
    }
}

pub(super) fn list(req: &mut Request) -> Result<Response> {
    let mailer = mailer(req)?;
    let mails: Vec<Line> = mailer.outbox().iter().rev().map(|mail| Line::of(mail)).collect();
    let destination = visible_line(&mailer.destination(), LINE);
    let context = context! { mails, destination, remembers => mailer.remembers() };
    page(req, "aside/panel_outbox.html", "Mail", context)
}

/// The part of a mail that its page shows (`?tab=`), and the width of its HTML (`&width=phone`).
#[derive(Deserialize)]
struct Shown {
    tab: Option<String>,
    width: Option<String>,
}

/// The parts of a mail: the value of `tab`, and the link to it.
const TABS: [(&str, &str); 4] =
    [("text", "Text"), ("html", "HTML"), ("attachments", "Attachments"), ("source", "Source")];

pub(super) fn mail(req: &mut Request) -> Result<Response> {
    let Some(mail) = requested(req)? else { return mail_not_found(req) };
    let shown: Shown = req.query()?;
    let wanted = TABS.iter().map(|(tab, _)| *tab).find(|tab| shown.tab.as_deref() == Some(tab));
    let tab = wanted.unwrap_or(if mail.text.is_none() && mail.html.is_some() { "html" } else { "text" });
    let source = (tab == "source").then(|| visible_up_to(&String::from_utf8_lossy(&mail.raw), TEXT));
    let context = context! {
        id => id(&mail),
        subject => visible_line(&mail.subject, LINE),
        headers => headers(&mail),
        origin => mail.request.as_ref().map(|request| visible_line(&request.to_string(), LINE)),
        trace => mail.trace.map(|trace| trace.to_string()),
        sender => mail.sender.and_then(sender),
        tabs => tabs(&mail),
        tab,
        is_phone => shown.width.as_deref() == Some("phone"),
        text => mail.text.as_ref().map(|text| visible_up_to(text, TEXT)),
        has_html => mail.html.is_some(),
        attachments => mail.attachments.iter().map(AttachmentRow::of).collect::<Vec<_>>(),
        source,
        size => size(mail.raw.len()),
    };
    page(req, "aside/panel_mail.html", &visible_line(&mail.subject, 80), context)
}

/// A link to a part of a mail.
#[derive(Serialize)]
struct Tab {
    tab: &'static str,
    title: &'static str,
    /// The number of attachments, or a note that the part is missing.
    note: Option<String>,
}

fn tabs(mail: &SentMail) -> Vec<Tab> {
    let none = |is_missing: bool| is_missing.then(|| "none".to_owned());
    let note = |tab| match tab {
        "text" => none(mail.text.is_none()),
        "html" => none(mail.html.is_none()),
        "attachments" => Some(mail.attachments.len().to_string()),
        _ => None,
    };
    TABS.iter().map(|(tab, title)| Tab { tab, title, note: note(*tab) }).collect()
}

#[derive(Serialize)]
struct AttachmentRow {
    name: String,
    kind: String,
    size: String,
}

impl AttachmentRow {
    fn of(file: &Attachment) -> AttachmentRow {
        let (name, kind) = (visible_line(&file.filename, LINE), visible_line(&file.content_type, LINE));
        AttachmentRow { name, kind, size: size(file.bytes.len()) }
    }
}

/// Returns an attachment as a file to save. Its type is that of any file: a browser must not show a page of a mail as a page
/// of this site.
pub(super) fn attachment(req: &mut Request) -> Result<Response> {
    let Some(mail) = requested(req)? else { return mail_not_found(req) };
    let nth: usize = req.param("nth")?;
    let Some(file) = mail.attachments.get(nth) else {
        return gone(req, "This mail has no such attachment.", ALL_MAIL);
    };
    let response = private(Response::bytes("application/octet-stream", file.bytes.clone())).attachment(&file.filename);
    Ok(response.header("X-Content-Type-Options", "nosniff").header("Content-Security-Policy", POLICY))
}

/// Returns the HTML for the frame in the page, or for a user who opens its address. Its headers restrict it.
pub(super) fn html(req: &mut Request) -> Result<Response> {
    let Some(mail) = requested(req)? else { return mail_not_found(req) };
    let Some(html) = mail.html.clone() else { return gone(req, "This mail has no HTML.", ALL_MAIL) };
    let response = private(Response::html(html)).header("Content-Security-Policy", POLICY);
    Ok(response.header("X-Frame-Options", "SAMEORIGIN").header("X-DNS-Prefetch-Control", "off"))
}

/// Returns the mail as it was sent, byte for byte.
pub(super) fn source(req: &mut Request) -> Result<Response> {
    let Some(mail) = requested(req)? else { return mail_not_found(req) };
    Ok(private(Response::bytes("text/plain; charset=utf-8", mail.raw.clone())))
}

/// Returns the recipients and the sender. The mail itself does not contain the Bcc recipients.
fn headers(mail: &SentMail) -> Vec<(&'static str, String)> {
    let list = |list: &[String]| list.join(", ");
    let fields = [
        ("From", mail.from.clone()),
        ("To", list(&mail.to)),
        ("Cc", list(&mail.cc)),
        ("Bcc (not in the mail itself)", list(&mail.bcc)),
        ("Reply-To", list(&mail.reply_to)),
        ("Date", date(mail)),
        ("Message-ID", mail.message_id.clone()),
    ];
    let shown = |(name, value): (&'static str, String)| (name, visible_line(&value, TEXT));
    fields.into_iter().filter(|(_, value)| !value.is_empty()).map(shown).collect()
}

/// Returns the page of the task or job that sent a mail.
fn sender(sender: Parent) -> Option<Value> {
    let path = match sender {
        Parent::Task(id) => format!("/_aside/tasks/{id}"),
        Parent::Job(id) => format!("/_aside/jobs/{id}"),
        Parent::FailureHook => return None,
    };
    Some(context! { path, name => sender.to_string() })
}

/// Returns the date as it is in the mail's header.
fn date(mail: &SentMail) -> String {
    let date = mail.raw.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Date: "));
    date.map_or(String::new(), |date| String::from_utf8_lossy(date).trim_end().to_owned())
}

/// Returns the time in the mail's header.
fn at(mail: &SentMail) -> Option<Moment> {
    let time = jiff::fmt::rfc2822::parse(&date(mail)).ok()?;
    Some(Moment::of(time.timestamp(), Timestamp::now()))
}

/// Returns the part of the Message-ID that is unique to this mail.
pub(super) fn id(mail: &SentMail) -> &str {
    mail.message_id.trim_start_matches('<').split('@').next().unwrap_or_default()
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1_000 => numbered(bytes, "byte", "bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn mailer(req: &Request) -> Result<Arc<Mailer>> {
    req.scope().get().ok_or_else(|| Error::internal("this application has no mailer"))
}

fn requested(req: &Request) -> Result<Option<Arc<SentMail>>> {
    let wanted: String = req.param("id")?;
    Ok(mailer(req)?.outbox().into_iter().find(|mail| id(mail) == wanted))
}

fn mail_not_found(req: &mut Request) -> Result<Response> {
    let text = "There is no mail with that id. The last 100 mails, up to 64 MiB, are stored while this process runs.";
    gone(req, text, ALL_MAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_readable_unit() {
        assert_eq!([0, 1, 999, 1_500, 3_400_000].map(size), ["0 bytes", "1 byte", "999 bytes", "1.5 kB", "3.4 MB"]);
    }
}
