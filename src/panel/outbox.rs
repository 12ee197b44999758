//! The pages about mail: the stored mails, and each one as text, as inactive HTML, and as its source.

use std::sync::Arc;

use minijinja::Value;
use serde::Serialize;

use super::page::{gone, page, private};
use crate::background::lineage::Parent;
use crate::context;
use crate::error::{Error, Result};
use crate::http::error_pages::sanitize::{visible_line, visible_up_to};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::log_text::numbered;
use crate::mail::{Mailer, SentMail};

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
    page(req, "aside/panel_outbox.html", "Outbox", context)
}

pub(super) fn mail(req: &mut Request) -> Result<Response> {
    let Some(mail) = requested(req)? else { return mail_not_found(req) };
    let attachment = |file: &crate::mail::Attachment| {
        let (name, kind) = (visible_line(&file.filename, LINE), visible_line(&file.content_type, LINE));
        context! { name, kind, size => size(file.bytes.len()) }
    };
    let source = visible_up_to(&String::from_utf8_lossy(&mail.raw), TEXT);
    let context = context! {
        id => id(&mail),
        subject => visible_line(&mail.subject, LINE),
        headers => headers(&mail),
        origin => mail.request.as_ref().map(|request| visible_line(&request.to_string(), LINE)),
        trace => mail.trace.map(|trace| trace.to_string()),
        sender => mail.sender.and_then(sender),
        text => mail.text.as_ref().map(|text| visible_up_to(text, TEXT)),
        has_html => mail.html.is_some(),
        attachments => mail.attachments.iter().map(attachment).collect::<Vec<_>>(),
        source,
        size => size(mail.raw.len()),
    };
    page(req, "aside/panel_mail.html", &visible_line(&mail.subject, 80), context)
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
