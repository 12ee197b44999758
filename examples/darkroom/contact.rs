//! A form that becomes a mail to the owner.

use aside::{Form, Mail, Request, Response, Result, Status, context, redirect};
use serde::Deserialize;

use crate::site::{Site, is_mail_address};

const MAX_MESSAGE: usize = 5_000;

#[derive(Deserialize)]
struct Message {
    email: String,
    message: String,
}

/// `GET /contact`
pub fn form(req: &mut Request) -> Result<Response> {
    page(req, &Form::empty())
}

fn page(req: &mut Request, form: &Form<Message>) -> Result<Response> {
    req.render("contact.html", context! { here => "/contact", form, max_message => MAX_MESSAGE })
}

/// `POST /contact`
pub fn send(req: &mut Request) -> Result<Response> {
    let mut form: Form<Message> = req.submitted()?;
    // Browsers count a line break as one character and send two.
    form.require(&["email", "message"])
        .check("email", |typed| is_mail_address(typed.email.trim()), "Give a mail address such as ada@example.org.")
        .check("message", |typed| typed.message.replace("\r\n", "\n").chars().count() <= MAX_MESSAGE, too_long());
    let Message { email, message } = match form.valid() {
        Ok(message) => message,
        Err(form) => return Ok(page(req, &form)?.status(Status::UNPROCESSABLE_CONTENT)),
    };
    // From our own address, whatever the visitor's: servers refuse mail that pretends to come from elsewhere.
    Mail::to(&req.state::<Site>().settings.owner)
        .reply_to(email.trim())
        .subject(format!("Message from {}", email.trim()))
        .text(message)
        .send();
    req.flash("success", "Thank you! Your message is on its way.");
    Ok(redirect("/contact"))
}

fn too_long() -> String {
    format!("A message has at most {MAX_MESSAGE} characters.")
}
