//! The parameters of the header values of a multipart body, as clients write them.

use percent_encoding::percent_decode;

use crate::error::{Error, Result};

/// Returns the parameters of a header value, which follow the first semicolon. Their names are in lower case.
///
/// Browsers send a quote inside a quoted value as `%22`, other clients as `\"`. But a backslash before the quote that
/// ends the value belongs to a file name.
pub(super) fn parameters(value: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = value.iter().position(|byte| *byte == b';').map_or(&[][..], |at| &value[at + 1..]);
    while let Some(equals) = rest.iter().position(|byte| matches!(byte, b'=' | b';')) {
        let (name, after) = (&rest[..equals], &rest[equals + 1..]);
        if rest[equals] == b';' {
            rest = after;
            continue;
        }
        let name = String::from_utf8_lossy(name).trim().to_ascii_lowercase();
        let (value, left) = match after.trim_ascii_start() {
            [b'"', quoted @ ..] => quoted_value(quoted),
            plain => {
                let end = plain.iter().position(|byte| *byte == b';').unwrap_or(plain.len());
                (plain[..end].trim_ascii().to_vec(), &plain[end..])
            }
        };
        found.push((name, value));
        rest = left.iter().position(|byte| *byte == b';').map_or(&[][..], |at| &left[at + 1..]);
    }
    found
}

/// Reads a quoted value after its opening quote. Returns the value, and the rest after the closing quote.
fn quoted_value(quoted: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut value = Vec::new();
    let mut rest = quoted;
    loop {
        match rest {
            [b'\\', b'"', after @ ..] if !ends_here(after) => {
                value.push(b'"');
                rest = after;
            }
            [b'\\', b'\\', after @ ..] => {
                value.push(b'\\');
                rest = after;
            }
            [b'"', after @ ..] => return (value, after),
            [byte, after @ ..] => {
                value.push(*byte);
                rest = after;
            }
            [] => return (value, rest),
        }
    }
}

/// Returns true if a quote before this input closes its value: nothing follows, or the next parameter follows.
fn ends_here(after: &[u8]) -> bool {
    let [b';', next @ ..] = after.trim_ascii_start() else { return after.trim_ascii().is_empty() };
    let next = next.trim_ascii_start();
    let name = next.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'*').count();
    name > 0 && next[name..].starts_with(b"=")
}

/// Returns the parameter of this name. A repeated parameter is an error, since two readers could each use another one.
pub(super) fn only<'p>(parameters: &'p [(String, Vec<u8>)], name: &str) -> Result<Option<&'p [u8]>> {
    let mut found = parameters.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_slice());
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(Error::bad_request(format!("The parameter `{name}` is given twice."))),
        (one, None) => Ok(one),
    }
}

/// Returns the value of a parameter with a charset, as in `utf-8'en'%c3%a9.txt` (RFC 8187, section 3.2.1). Bytes that
/// are not UTF-8 or Latin-1 become U+FFFD. A value in another form is used unchanged.
pub(super) fn extended_value(value: &[u8]) -> String {
    let mut pieces = value.splitn(3, |byte| *byte == b'\'');
    let (Some(charset), Some(_), Some(encoded)) = (pieces.next(), pieces.next(), pieces.next()) else {
        return String::from_utf8_lossy(value).into_owned();
    };
    let decoded = percent_decode(encoded);
    match charset.eq_ignore_ascii_case(b"iso-8859-1") {
        true => decoded.map(char::from).collect(),
        false => decoded.decode_utf8_lossy().into_owned(),
    }
}

pub(super) fn is_form_data(disposition: &[u8]) -> bool {
    let kind = disposition.split(|byte| *byte == b';').next().unwrap_or_default();
    kind.trim_ascii().eq_ignore_ascii_case(b"form-data")
}

/// Reverts the escapes that a browser makes in a name, and no others (HTML, "multipart form data").
pub(super) fn unescape(name: &str) -> String {
    name.replace("%22", "\"").replace("%0D", "\r").replace("%0A", "\n")
}
