//! A form that becomes a mail to the owner.

use aside::{Form, Mail, Request, Response, Result, context, mail, redirect};
use serde::Deserialize;

use crate::site::{NO_ADDRESS, Site};

const MAX_MESSAGE: usize = 5_000;

#[derive(Deserialize)]
struct Message {
    email: String,
    message: String,
}

impl Message {
    /// Browsers count a line break as one character and send two.
    fn fits(&self) -> bool {
        self.message.replace("\r\n", "\n").chars().count() <= MAX_MESSAGE
    }
}

/// `GET /contact`
pub fn form(req: &mut Request) -> Result<Response> {
    page(req, &Form::empty())
}

fn page(req: &mut Request, form: &Form<Message>) -> Result<Response> {
    let page = req.render("contact.html", context! { here => "contact", form, max_message => MAX_MESSAGE })?;
    Ok(page.status(form.status()))
}

/// `POST /contact`
pub fn send(req: &mut Request) -> Result<Response> {
    let mut form: Form<Message> = req.submitted()?;
    let too_long = format!("A message has at most {MAX_MESSAGE} characters.");
    form.require(&["email", "message"]);
    form.check("email", |typed| mail::is_address(typed.email.trim()), NO_ADDRESS);
    form.check("message", Message::fits, too_long);
    let Message { email, message } = match form.valid() {
        Ok(message) => message,
        Err(form) => return page(req, &form),
    };
    // From the site's own address, not the visitor's: servers refuse mail with a forged sender.
    let mail = Mail::to(&req.state::<Site>().settings.owner)
        .reply_to(email.trim())
        .subject(format!("Message from {}", email.trim()))
        .text(message);
    // A job, because there is no other copy of the message.
    req.enqueue(mail)?;
    req.flash("success", "Thank you! Your message is on its way.");
    Ok(redirect(&req.url_for("contact", &[])?))
}
