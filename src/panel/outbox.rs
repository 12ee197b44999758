//! The pages about mail: what is kept of it, and each one as text, as HTML that can do nothing, and as it goes over the
//! wire.

use std::sync::Arc;

use serde::Serialize;

use super::page::{gone, page, private};
use crate::context;
use crate::error::{Error, Result};
use crate::http::request::Request;
use crate::http::response::Response;
use crate::http::templates::error_pages::sanitize::{visible_line, visible_up_to};
use crate::mail::{Mailer, SentMail};

/// How many characters of a text on the page, and of a line of it. The source as a whole has an address of its own.
const TEXT: usize = 100_000;
const LINE: usize = 500;

/// A mail's HTML is a stranger's: no scripts, no forms, nothing from outside, and an origin that is nobody's.
const POLICY: &str = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; \
     base-uri 'none'; frame-ancestors 'self'";

/// Where a page goes on whose mail is not there.
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
    let Some(mail) = asked_for(req)? else { return not_remembered(req) };
    let attachment = |file: &crate::mail::Attachment| {
        let (name, kind) = (visible_line(&file.filename, LINE), visible_line(&file.content_type, LINE));
        context! { name, kind, size => size(file.bytes.len()) }
    };
    let source = visible_up_to(&String::from_utf8_lossy(&mail.raw), TEXT);
    let context = context! {
        id => id(&mail),
        subject => visible_line(&mail.subject, LINE),
        headers => headers(&mail),
        text => mail.text.as_ref().map(|text| visible_up_to(text, TEXT)),
        has_html => mail.html.is_some(),
        attachments => mail.attachments.iter().map(attachment).collect::<Vec<_>>(),
        source,
        size => size(mail.raw.len()),
    };
    page(req, "aside/panel_mail.html", &visible_line(&mail.subject, 80), context)
}

/// The HTML for the frame in the page, or for whoever opens its address: locked up by its headers.
pub(super) fn html(req: &mut Request) -> Result<Response> {
    let Some(mail) = asked_for(req)? else { return not_remembered(req) };
    let Some(html) = mail.html.clone() else { return gone(req, "This mail has no HTML.", ALL_MAIL) };
    let response = private(Response::html(html)).header("Content-Security-Policy", POLICY);
    Ok(response.header("X-Frame-Options", "SAMEORIGIN").header("X-DNS-Prefetch-Control", "off"))
}

/// The mail as it goes over the wire, to the last byte.
pub(super) fn source(req: &mut Request) -> Result<Response> {
    let Some(mail) = asked_for(req)? else { return not_remembered(req) };
    Ok(private(Response::bytes("text/plain; charset=utf-8", mail.raw.clone())))
}

/// Who gets it and who sent it. Those in secret are not in the mail itself.
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

/// As it stands in the mail's head.
fn date(mail: &SentMail) -> String {
    let date = mail.raw.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Date: "));
    date.map_or(String::new(), |date| String::from_utf8_lossy(date).trim_end().to_owned())
}

/// The part of the Message-ID that no other mail has.
fn id(mail: &SentMail) -> &str {
    mail.message_id.trim_start_matches('<').split('@').next().unwrap_or_default()
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1_000 => format!("{bytes} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn mailer(req: &Request) -> Result<Arc<Mailer>> {
    req.scope().get().ok_or_else(|| Error::internal("this application has no mailer"))
}

fn asked_for(req: &Request) -> Result<Option<Arc<SentMail>>> {
    let wanted: String = req.param("id")?;
    Ok(mailer(req)?.outbox().into_iter().find(|mail| id(mail) == wanted))
}

fn not_remembered(req: &mut Request) -> Result<Response> {
    let words = "No mail of that id is remembered: the last 100 are, of 64 MiB at most, while this process runs.";
    gone(req, words, ALL_MAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_said_as_people_do() {
        assert_eq!([0, 999, 1_500, 3_400_000].map(size), ["0 bytes", "999 bytes", "1.5 kB", "3.4 MB"]);
    }
}
