//! A form that becomes a mail to the owner of the site.

use aside::mail::is_address;
use aside::{Form, Mail, Request, Response, Result, context, redirect};
use serde::Deserialize;

/// The address of the owner, from the variable `OWNER_EMAIL`.
pub struct Owner(String);

impl Owner {
    pub fn from_env() -> Owner {
        Owner(std::env::var("OWNER_EMAIL").unwrap_or_else(|_| "owner@localhost".to_owned()))
    }
}

#[derive(Deserialize)]
struct Inquiry {
    email: String,
    message: String,
}

/// `GET /contact`
pub fn show(req: &mut Request) -> Result<Response> {
    page(req, &Form::empty())
}

fn page(req: &mut Request, form: &Form<Inquiry>) -> Result<Response> {
    Ok(req.render("contact.html", context! { form })?.status(form.status()))
}

/// `POST /contact`
pub fn send(req: &mut Request) -> Result<Response> {
    let mut form: Form<Inquiry> = req.submitted()?;
    form.require(&["email", "message"])
        .check("email", |new| is_address(&new.email), "This is not an email address.")
        .check("message", |new| new.message.chars().count() <= 5_000, "At most 5,000 characters.");
    let inquiry = match form.valid() {
        Ok(inquiry) => inquiry,
        Err(form) => return page(req, &form),
    };
    let mail = mail_to(&req.state::<Owner>(), &inquiry);
%% if jobs
    req.enqueue(mail)?; // a job, since there is no other copy of the message
%% else
    mail.send(); // in the background; an error is retried and logged
%% end
    req.flash("success", "Thank you! Your message is on its way.");
    Ok(redirect(&req.url_for("contact", &[])?))
}

/// Returns the mail, whose answer goes to the visitor. Mail servers refuse a forged sender.
fn mail_to(owner: &Owner, inquiry: &Inquiry) -> Mail {
    let Inquiry { email, message } = inquiry;
    Mail::to(&owner.0)
        .reply_to(email)
        .subject(format!("Message from {email}"))
        .template("mail/contact.txt", context! { email, message })
}

#[cfg(test)]
mod tests {
    use crate::test_site::test_site;

    #[test]
    fn an_invalid_address_is_shown_again() {
        let (_data, mut client) = test_site();
        let page = client.post("/contact").form(&[("email", "ada"), ("message", "Hello")]).send();
        assert_eq!(page.status_code().code(), 422);
        assert!(page.text().contains("This is not an email address."), "{}", page.text());
        assert!(client.outbox().is_empty());
    }

    #[test]
    fn a_message_is_mailed_to_the_owner() {
        let (_data, mut client) = test_site();
        client.post("/contact").form(&[("email", "ada@example.org"), ("message", "Hello")]).send();
        client.drain(); // waits for the mail
        let outbox = client.outbox();
        assert_eq!(outbox[0].subject, "Message from ada@example.org");
        assert!(client.failures().is_empty());
    }
}
