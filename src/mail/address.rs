//! Mail addresses: their display form, and their form in SMTP.

use lettre::Address;
use lettre::message::Mailbox;

use super::one_line;
use crate::error::{Error, Result};

/// The longest display name, in characters. A longer name is cut, so that no header line is too long (RFC 5322, 2.1.1).
const LONGEST_NAME: usize = 100;

/// The longest address in bytes (RFC 5321, 4.5.3.1.3, without the angle brackets).
const LONGEST_ADDRESS: usize = 254;

/// Returns true if the text is one mail address, without a name: `ada@example.org`.
///
/// ```
/// use aside::mail::is_address;
///
/// assert!(is_address("ada@example.org") && is_address("имя@пример.рф"));
/// assert!(!is_address("ada") && !is_address("Ada <ada@example.org>"));
/// ```
///
/// The address has at most 254 bytes, no space, also not before or after it (pass `text.trim()`), and no quotes or comments. Its host has a dot, or is `localhost`. Only a mail that arrives
/// shows that the address exists and belongs to the user.
pub fn is_address(text: &str) -> bool {
    let is_bare = |text: &str| !text.contains(|letter: char| letter.is_whitespace() || "<>,;:\"()\\".contains(letter));
    let is_host = |host: &str| host.contains('.') || host == "localhost";
    let has_host = text.rsplit_once('@').is_some_and(|(_, host)| is_host(host));
    text.len() <= LONGEST_ADDRESS && has_host && is_bare(text) && mailbox(text).is_ok()
}

/// Parses an address, alone or after a name. lettre's parser takes the first address of a text and ignores the rest.
pub(super) fn mailbox(text: &str) -> Result<Mailbox> {
    one_line("address", text)?;
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>').and_then(|text| text.rsplit_once('<')) {
        Some((name, address)) => (short(unquoted(name.trim())), address.trim()),
        None => (String::new(), text),
    };
    let address = ascii_domain_address(address).ok_or_else(|| invalid_address(text))?;
    Ok(Mailbox::new((!name.is_empty()).then_some(name), address))
}

/// Returns an address whose domain is in ASCII: `xn--bcher-kva.example` for `bücher.example` (RFC 5890). A non-ASCII local
/// part is kept, and needs a server with SMTPUTF8 (RFC 6531).
fn ascii_domain_address(text: &str) -> Option<Address> {
    let (local, domain) = text.rsplit_once('@')?;
    if domain.is_ascii() {
        return text.parse().ok();
    }
    format!("{local}@{}", idna::domain_to_ascii(domain).ok()?).parse().ok()
}

fn invalid_address(text: &str) -> Error {
    let shown: String = text.chars().take(100).collect();
    let message = if shown.is_empty() {
        "the address of a mail is empty".into()
    } else {
        format!("{shown:?} is not a valid address: one looks like `anna@shop.example` or `Anna <anna@shop.example>`")
    };
    Error::internal(message)
}

/// Removes quotes: `Anna` for `"Anna"`.
fn unquoted(name: &str) -> String {
    match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(inner) => inner.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => name.to_owned(),
    }
}

fn short(name: String) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some((end, _)) => format!("{}…", &name[..end]),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_a_form_has_a_local_part_and_a_host() {
        for good in ["ada@example.org", "a.b+c@mail.example.org", "имя@пример.рф", "ada@localhost"] {
            assert!(is_address(good), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(250));
        for bad in [
            "",
            "ada",
            "@example.org",
            "ada@",
            "ada@host",
            "a b@example.org",
            "a@b@c.org",
            ".@.",
            "a@.org",
            "a@b..org",
            &long,
        ] {
            assert!(!is_address(bad), "{bad}");
        }
        for bad in [
            "a@b.org\r\nBcc: c@d.org",
            "a@b.org,c@d.org",
            "Ada <a@b.org>",
            "\"a\"@b.org",
            "a@b.org\0",
            " a@b.org",
            "a@[1.2.3.4]:5",
        ] {
            assert!(!is_address(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_domain_in_another_script_is_written_as_a_labels() {
        let wire = |text: &str| mailbox(text).unwrap().email.to_string();
        assert_eq!(wire("anna@bücher.example"), "anna@xn--bcher-kva.example");
        assert_eq!(wire("Анна <anna@почта.рф>"), "anna@xn--80a1acny.xn--p1ai");
        assert_eq!(wire("anna@BÜCHER。example"), "anna@xn--bcher-kva.example");
        assert_eq!(wire("anna@Shop.example"), "anna@Shop.example");
        assert_eq!(wire("Jörg@bücher.example"), "Jörg@xn--bcher-kva.example");
        assert!(mailbox("anna@\u{ad}\u{200d}.example").is_err());
    }

    #[test]
    fn a_long_name_is_cut() {
        let name = mailbox(&format!("{} <a@b.example>", "ä".repeat(1_200))).unwrap().name.unwrap();
        assert_eq!(name, format!("{}…", "ä".repeat(100)));
    }
}
