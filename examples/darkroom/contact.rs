//! A form that becomes a mail to the owner.

use aside::{Mail, Request, Response, Result, Status, context, redirect};

use crate::site::{Errors, Site, Values, is_mail_address, typed};

const MAX_MESSAGE: usize = 5_000;

/// `GET /contact`
pub fn form(req: &mut Request) -> Result<Response> {
    page(req, &Values::new(), &Errors::new())
}

fn page(req: &mut Request, values: &Values, errors: &Errors) -> Result<Response> {
    let form = context! { values, errors };
    req.render("contact.html", context! { here => "/contact", form, max_message => MAX_MESSAGE })
}

/// `POST /contact`
pub fn send(req: &mut Request) -> Result<Response> {
    let values = typed(req, ["email", "message"])?;
    let errors = check(&values);
    if !errors.is_empty() {
        return Ok(page(req, &values, &errors)?.status(Status::UNPROCESSABLE_CONTENT));
    }
    let (email, message) = (&values["email"], &values["message"]);
    let site = req.state::<Site>();
    // From our own address, whatever the visitor's: servers refuse mail that pretends to come from elsewhere.
    Mail::to(&site.settings.owner)
        .reply_to(email)
        .subject(format!("Message from {email}"))
        .text(message)
        .send();
    req.flash("success", "Thank you! Your message is on its way.");
    Ok(redirect("/contact"))
}

fn check(values: &Values) -> Errors {
    let mut errors = Errors::new();
    if !is_mail_address(&values["email"]) {
        errors.insert("email", "Give a mail address such as ada@example.org, so that we can answer.".into());
    }
    match values["message"].chars().count() {
        0 => drop(errors.insert("message", "Write a message.".into())),
        // Browsers count a line break as one character and send two.
        length if length > 2 * MAX_MESSAGE => {
            drop(errors.insert("message", format!("A message has at most {MAX_MESSAGE} characters.")))
        }
        _ => (),
    }
    errors
}
