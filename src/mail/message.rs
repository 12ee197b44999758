//! The message of a mail: validation, rendering, and the format of RFC 5322 and MIME.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lettre::Address;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Attachment as AttachedPart, Body, MessageBuilder, MultiPart, SinglePart};

use super::address::mailbox;
use super::fault::Fault;
use super::{Attachment, Content, Mail, Mailer, SentMail, one_line};
use crate::background::lineage::Lineage;
use crate::background::scope::Context;
use crate::error::{Error, Result};
use crate::http::templates::Templates;

/// The longest line of a mail, without its end (RFC 5322, section 2.1.1).
const LONGEST_LINE: usize = 998;

/// The longest word of a subject that is not encoded: with `Subject: ` it fits into a line of 78.
const LONGEST_WORD: usize = 60;

/// The bytes in one encoded-word: with its delimiters it has 64 characters, so that `Subject: ` fits into the line of 76
/// (RFC 2047).
const ENCODED_WORD: usize = 39;

/// The longest media type of an attachment, including parameters.
const LONGEST_TYPE: usize = 200;

/// A mail that is ready to be sent.
pub(super) struct Letter {
    pub(super) from: Address,
    /// All recipients, including blind copies.
    pub(super) to: Vec<Address>,
    pub(super) id: String,
    pub(super) sent: SentMail,
    /// True if an address has non-ASCII letters before the `@`.
    pub(super) needs_utf8: bool,
    /// True if another part of the message has non-ASCII bytes.
    pub(super) needs_8bit: bool,
}

impl Mail {
    /// Validates the mail, renders its templates, and builds the message.
    pub(super) fn build(&self, mailer: &Mailer) -> Result<Letter> {
        let sent = self.to_sent(mailer)?;
        let boxes = |list: &[String]| list.iter().map(|text| mailbox(text)).collect::<Result<Vec<_>>>();
        let from = mailbox(&sent.from)?;
        let (to, cc, bcc) = (boxes(&sent.to)?, boxes(&sent.cc)?, boxes(&sent.bcc)?);
        let reply_to = boxes(&sent.reply_to)?;
        let all = [&to, &cc, &bcc].into_iter().flatten().map(|mailbox| mailbox.email.clone());
        let recipients: Vec<Address> = all.filter(|address| self.is_for(address)).collect();
        let builder = Message::builder()
            .message_id(Some(sent.message_id.clone()))
            .date(self.date)
            .raw_header(subject(&sent.subject))
            .from(from.clone());
        let builder = to.into_iter().fold(builder, MessageBuilder::to);
        let builder = cc.into_iter().fold(builder, MessageBuilder::cc);
        let builder = reply_to.into_iter().fold(builder, MessageBuilder::reply_to);
        let envelope = Envelope::new(Some(from.email.clone()), recipients.clone())?;
        let raw = with_body(builder.envelope(envelope), &self.id, &sent)?.formatted();
        let needs_utf8 = !head(&raw).is_ascii() || !AsRef::<str>::as_ref(&from.email).is_ascii();
        let needs_8bit = !raw.is_ascii();
        let sent = SentMail { raw, ..sent };
        Ok(Letter { from: from.email, to: recipients, id: self.id.clone(), sent, needs_utf8, needs_8bit })
    }

    /// Returns the mail for the outbox, without its bytes: all fields validated, all templates rendered.
    fn to_sent(&self, mailer: &Mailer) -> Result<SentMail> {
        let from = self.from.clone().or_else(|| mailer.from.clone()).ok_or_else(|| {
            Fault::settings("the mail has no sender: set ASIDE_MAIL_FROM, or name one with `Mail::from`")
        })?;
        let domain = mailbox(&from)?.email.domain().to_owned();
        for attachment in &self.attachments {
            one_line("attachment's name", &attachment.filename)?;
        }
        let Lineage { request, trace, parent: sender } = Context::current().lineage;
        let render = |part: &Option<Content>| part.as_ref().map(Content::render).transpose();
        Ok(SentMail {
            to: self.to.clone(),
            cc: self.cc.clone(),
            bcc: self.bcc.clone(),
            from,
            reply_to: self.reply_to.clone(),
            subject: without_breaks(&self.subject),
            text: render(&self.text)?,
            html: render(&self.html)?,
            attachments: self.attachments.clone(),
            message_id: format!("<{}@{domain}>", self.id),
            raw: Vec::new(),
            trace,
            sender,
            request,
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

/// Renders one of the application's templates, which it finds through the scope of the task.
fn render(name: &str, context: &minijinja::Value) -> Result<String> {
    let templates = Context::current().scope.get::<Templates>().ok_or_else(|| {
        Error::internal(
            "no templates are available: send a mail with a template from a handler, task or job of an application",
        )
    })?;
    templates.render(name, context.clone())
}

/// Replaces control characters with spaces. A subject often has text of a user: a line break in it must neither start another
/// header field nor cost the mail.
fn without_breaks(subject: &str) -> String {
    subject.split(char::is_control).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The header fields of a message.
fn head(raw: &[u8]) -> &[u8] {
    let end = raw.windows(4).position(|window| window == b"\r\n\r\n");
    &raw[..end.unwrap_or(raw.len())]
}

/// Encodes the subject. lettre folds only at spaces, and treats text that looks like an encoded-word as plain text.
fn subject(text: &str) -> HeaderValue {
    let name = HeaderName::new_from_ascii_str("Subject");
    let is_foldable = text.split(' ').all(|word| (1..=LONGEST_WORD).contains(&word.len()) && !word.contains("=?"));
    if is_foldable || text.is_empty() {
        return HeaderValue::new(name, text.to_owned());
    }
    HeaderValue::dangerous_new_pre_encoded(name, text.to_owned(), encoded_words(text))
}

/// Encodes a text as encoded-words (RFC 2047), one per line. No character is split.
fn encoded_words(text: &str) -> String {
    let mut words = vec![String::new()];
    for character in text.chars() {
        if words.last().is_none_or(|word| word.len() + character.len_utf8() > ENCODED_WORD) {
            words.push(String::new());
        }
        words.last_mut().into_iter().for_each(|word| word.push(character));
    }
    let encoded: Vec<String> = words.iter().map(|word| format!("=?utf-8?b?{}?=", STANDARD.encode(word))).collect();
    encoded.join("\r\n ")
}

/// Adds the parts: text, HTML or both as alternatives, and around them the attachments.
fn with_body(builder: MessageBuilder, id: &str, mail: &SentMail) -> Result<Message> {
    let text = mail.text.as_deref().map(|text| SinglePart::plain(text_body(text)));
    let html = mail.html.as_deref().map(|html| SinglePart::html(text_body(html)));
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

/// Prepares a text for SMTP. Each line end becomes CR LF, including a lone carriage return. Other control characters are
/// encoded: a server may interpret them as commands, cut the text at them, or refuse it.
fn text_body(text: &str) -> Body {
    let lines = text.replace("\r\n", "\n").replace(['\r', '\n'], "\r\n");
    let is_hidden = |byte: u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n');
    let has_hidden = lines.bytes().any(is_hidden);
    let body = Body::new(lines.clone());
    if !has_hidden || body.encoding() == ContentTransferEncoding::Base64 {
        return body;
    }
    // This encoding accepts every text.
    Body::new_with_encoding(lines, ContentTransferEncoding::QuotedPrintable).unwrap_or(body)
}

/// Combines text and HTML, the text first: a mail program shows the last part that it supports. The boundary is derived
/// from the mail's id, so that a mail built again is identical to the last byte. The authors of the parts cannot know the
/// id, and therefore cannot forge the boundary.
fn alternatives(id: &str, text: SinglePart, html: SinglePart) -> MultiPart {
    MultiPart::alternative().boundary(format!("alternative{id}")).singlepart(text).singlepart(html)
}

fn no_text() -> SinglePart {
    SinglePart::plain(String::new())
}

fn attached(attachment: &Attachment) -> Result<SinglePart> {
    let Attachment { filename, content_type, bytes } = attachment;
    let part = AttachedPart::new(filename.clone());
    let parsed = media_type(content_type)?;
    if is_composite(content_type) {
        return Ok(match unencoded(bytes) {
            Some(body) => part.body(body, parsed),
            // Mail cannot carry it as a message, so it is attached as a file.
            None => part.body(base64(bytes)?, media_type("application/octet-stream")?),
        });
    }
    Ok(part.body(base64(bytes)?, parsed))
}

fn media_type(text: &str) -> Result<ContentType> {
    one_line("attachment's content type", text)?;
    let shown: String = text.chars().take(LONGEST_TYPE).collect();
    let wrong = || Error::internal(format!("{shown:?} is not a media type (`Mail::attach`); try `image/png`"));
    if !text.is_ascii() || text.len() > LONGEST_TYPE {
        return Err(wrong());
    }
    ContentType::parse(text).map_err(|_| wrong())
}

/// Always uses base64: the other encodings would change its line ends.
fn base64(bytes: &[u8]) -> Result<Body> {
    Body::new_with_encoding(bytes.to_vec(), ContentTransferEncoding::Base64)
        .map_err(|_| Error::internal("cannot encode an attachment as base64"))
}

/// Returns true for a message or a multipart, which must not be encoded (RFC 2045, section 6.4; RFC 2046, section 5.2.1).
/// RFC 6532 allows messages in UTF-8.
fn is_composite(content_type: &str) -> bool {
    let content_type = content_type.to_ascii_lowercase();
    ["message/", "multipart/"].iter().any(|prefix| content_type.starts_with(prefix))
        && !content_type.starts_with("message/global")
}

/// Returns a message as a part of another one: its bytes with CR LF line ends, if SMTP can carry them.
fn unencoded(bytes: &[u8]) -> Option<Body> {
    let mut lines = Vec::with_capacity(bytes.len() + 64);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let text = line.strip_suffix(b"\n").map(|text| text.strip_suffix(b"\r").unwrap_or(text));
        let content = text.unwrap_or(line);
        if content.len() > LONGEST_LINE || content.iter().any(|byte| matches!(byte, 0 | b'\r')) {
            return None;
        }
        lines.extend_from_slice(content);
        lines.extend_from_slice(if text.is_some() { b"\r\n" } else { b"" });
    }
    let encoding = if lines.is_ascii() { ContentTransferEncoding::SevenBit } else { ContentTransferEncoding::EightBit };
    Some(Body::dangerous_pre_encoded(lines, encoding))
}
