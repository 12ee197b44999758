//! The mail `__path__`.

use aside::{Mail, context};

/// Returns the mail for this address. `.send()` sends it in the background, `req.enqueue(mail)?` as a job.
#[cfg_attr(not(test), expect(dead_code, reason = "remove this line when a handler sends the mail"))]
pub fn mail(to: &str, name: &str) -> Mail {
    Mail::to(to).subject("__title__").template("mail/__module__.txt", context! { name })
}

#[cfg(test)]
mod tests {
    use crate::test_site::test_site;

    #[test]
    fn the_mail_has_its_text() {
        let (_data, client) = test_site();
        client.within(|| super::mail("ada@example.org", "Ada").send());
        client.drain(); // waits for the mail
        assert_eq!(client.outbox()[0].subject, "__title__");
        assert!(client.failures().is_empty());
    }
}
