//! The bytes of a mail: RFC 5322, MIME and the SMTP extensions.

use super::*;
use crate::mail::smtp_server::{Options, Received};

/// Returns the mail as the server received it.
fn sent(mail: Mail) -> Received {
    let server = SmtpServer::start(vec![]);
    Site::new(&server.url()).send(mail).unwrap();
    let got = server.received().remove(0);
    is_well_formed(&got.raw);
    got
}

/// Checks that no line is too long, and that there is no control character except line ends and tabs.
fn is_well_formed(raw: &[u8]) {
    let text = String::from_utf8_lossy(raw);
    for line in text.split("\r\n") {
        assert!(line.len() <= 998, "{} bytes", line.len());
        assert!(!line.contains(|c: char| c.is_ascii_control() && c != '\t'), "{line:?}");
    }
}

/// Returns the value of a header field, still folded.
fn header<'d>(data: &'d str, name: &str) -> &'d str {
    let (head, _) = data.split_once("\r\n\r\n").unwrap();
    let from = head.find(&format!("{name}: ")).unwrap_or_else(|| panic!("{name} in {head}"));
    let value = &head[from + name.len() + 2..];
    let end = value.match_indices("\r\n").find(|(at, _)| !value[at + 2..].starts_with([' ', '\t']));
    &value[..end.map_or(value.len(), |(at, _)| at)]
}

/// Decodes encoded-words as a mail program does.
fn decoded(value: &str) -> String {
    use base64::Engine as _;
    let decode = |word: &str| {
        let inner = word.trim().strip_prefix("=?utf-8?b?").and_then(|word| word.strip_suffix("?="));
        assert!(word.trim().len() <= 75, "{word}");
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(inner.unwrap()).unwrap()).unwrap()
    };
    value.split("\r\n").map(decode).collect()
}

#[test]
fn control_characters_in_a_text_never_reach_the_wire() {
    let got = sent(mail().text("one\rtwo\nthree\r\nfour\0five\x1b[31m\x7f\r"));
    let (_, body) = got.data.split_once("\r\n\r\n").unwrap();
    assert!(got.data.contains("Content-Transfer-Encoding: quoted-printable"), "{}", got.data);
    assert!(body.starts_with("one\r\ntwo\r\nthree\r\nfour=00five=1B[31m=7F\r\n"), "{body:?}");
    let html = sent(mail().html("<p>a\0b\rc</p>")).data;
    assert!(html.contains("<p>a=00b\r\nc</p>"), "{html}");
}

#[test]
fn a_long_line_and_one_that_begins_with_a_dot_arrive() {
    let got = sent(mail().text(format!(".\n..\n{}", "x".repeat(5_000))));
    let (_, body) = got.data.split_once("\r\n\r\n").unwrap();
    let joined = body.replace("=\r\n", "");
    assert_eq!(joined.trim_end(), format!(".\r\n..\r\n{}", "x".repeat(5_000)));
}

#[test]
fn an_empty_text_and_one_of_ten_megabytes_arrive() {
    assert!(sent(Mail::to("anna@b.example").text("")).data.ends_with("\r\n\r\n"));
    let got = sent(mail().text("All work and no play makes Jack a dull boy.\n".repeat(240_000)));
    assert_eq!(got.data.matches("dull boy").count(), 240_000);
}

#[test]
fn a_subject_without_spaces_is_folded() {
    for text in ["x".repeat(1_200), "ж".repeat(1_200), "🎉".repeat(300), format!("Re: {}", "y".repeat(1_000))] {
        let got = sent(mail().subject(text.clone()));
        let subject = header(&got.data, "Subject");
        assert_eq!(decoded(subject), text);
        assert!(subject.split("\r\n").all(|line| line.len() <= 76), "{subject}");
    }
    assert_eq!(header(&sent(mail().subject("Order 17 is ready")).data, "Subject"), "Order 17 is ready");
    assert_eq!(decoded(header(&sent(mail().subject("=?utf-8?q?a=0ABcc?=")).data, "Subject")), "=?utf-8?q?a=0ABcc?=");
}

#[test]
fn long_names_and_file_names_are_folded() {
    let name = |letter: &str| format!("{} <anna@b.example>", letter.repeat(1_200));
    for letter in ["n", "ж", "\""] {
        let got =
            sent(Mail::to(name(letter)).text("").attach("f".repeat(1_200), "text/plain", "").reply_to(name(letter)));
        assert_eq!(got.to, ["anna@b.example"]);
    }
    let words =
        Site::new("memory:").send(mail().attach("a", format!("text/plain; x={}", "y".repeat(300)), "")).unwrap_err();
    assert!(words.contains("is not a media type"), "{words}");
}

#[test]
fn a_domain_in_any_script_is_sent_as_a_labels() {
    let mail = Mail::to("Jörg <joerg@bücher.example>").from("Лавка <shop@почта.рф>").reply_to("a@почта.рф").text("Hi");
    let got = sent(mail);
    assert_eq!((&*got.from, &*got.to[0]), ("shop@xn--80a1acny.xn--p1ai", "joerg@xn--bcher-kva.example"));
    assert!(got.raw.is_ascii() && got.parameters.is_empty(), "{}", got.data);
    assert!(header(&got.data, "Message-ID").ends_with("@xn--80a1acny.xn--p1ai>"));
    assert!(header(&got.data, "To").ends_with("<joerg@xn--bcher-kva.example>"));
}

#[test]
fn a_non_ascii_local_part_needs_smtputf8() {
    let jorg = || Mail::to("jörg@bücher.example").text("Hi");
    let server = SmtpServer::with(vec![], Options { offers: vec!["SMTPUTF8"], ..Options::default() });
    Site::new(&server.url()).send(jorg()).unwrap();
    let got = server.received().remove(0);
    assert_eq!((&*got.to[0], &*got.parameters), ("jörg@xn--bcher-kva.example", "SMTPUTF8 BODY=8BITMIME"));
    let plain = SmtpServer::start(vec![]);
    let words = Site::new(&plain.url()).send(jorg()).unwrap_err();
    assert!(words.contains("SMTPUTF8") && plain.received().is_empty(), "{words}");
    // A blind copy is in no header: the others get the mail.
    let words = Site::new(&plain.url()).send(mail().bcc("jörg@c.example")).unwrap_err();
    assert!(words.contains("recipient 2 at c.example of 2; the others have it"), "{words}");
    assert_eq!(plain.received().remove(0).to, ["anna@b.example"]);
}

#[test]
fn an_attached_message_is_not_encoded() {
    let inner = "From: a@b.example\nSubject: one\r\n\r\nthe text\n.\n";
    let got = sent(mail().attach("one.eml", "message/rfc822", inner));
    assert!(
        got.data.contains("Content-Transfer-Encoding: 7bit\r\n\r\nFrom: a@b.example\r\nSubject: one\r\n"),
        "{}",
        got.data
    );
    assert!(got.data.contains("the text\r\n.\r\n"), "{}", got.data);
    let utf8 = sent(mail().attach("one.eml", "message/rfc822", "Subject: один\r\n\r\nтекст\r\n"));
    assert!(utf8.data.contains("Content-Transfer-Encoding: 8bit\r\n\r\nSubject: один"), "{}", utf8.data);
    assert_eq!(utf8.parameters, "BODY=8BITMIME");
    // A message that SMTP cannot carry is sent as a file.
    for inner in [format!("Subject: {}\r\n\r\n", "x".repeat(2_000)), "a\0b".into(), "a\rb".into()] {
        let got = sent(mail().attach("one.eml", "message/rfc822", inner)).data;
        assert!(got.contains("application/octet-stream") && !got.contains("message/rfc822"), "{got}");
    }
}
