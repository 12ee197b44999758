//! Messages of visitors: a form with errors beside its fields.

use aside::sqlite::Db;
use aside::{Form, Request, Response, Result, context, redirect};
use serde::{Deserialize, Serialize};

/// The number of messages on the page.
const SHOWN: u32 = 50;

#[derive(Deserialize, Serialize)]
struct Message {
    name: String,
    text: String,
}

/// `GET /messages`
pub fn show(req: &mut Request) -> Result<Response> {
    page(req, &Form::empty())
}

/// Shows the messages and the form: empty, or with the entered values and their errors.
fn page(req: &mut Request, form: &Form<Message>) -> Result<Response> {
    let messages = latest(&req.state::<Db>())?;
    let page = req.render("messages.html", context! { form, messages })?;
    Ok(page.status(form.status())) // 200, or 422 with errors
}

/// `POST /messages`
pub fn add(req: &mut Request) -> Result<Response> {
    let mut form: Form<Message> = req.submitted()?;
    form.require(&["name", "text"])
        .check("name", |new| new.name.chars().count() <= 100, "At most 100 characters.")
        .check("text", |new| new.text.chars().count() <= 2_000, "At most 2,000 characters.");
    let message = match form.valid() {
        Ok(message) => message,
        Err(form) => return page(req, &form),
    };
    insert(&req.state::<Db>(), &message)?;
    req.flash("success", format!("Thank you, {}!", message.name));
    Ok(redirect(&req.url_for("messages", &[])?))
}

/// Returns the newest messages first.
fn latest(db: &Db) -> Result<Vec<Message>> {
    let query = "SELECT name, text FROM messages ORDER BY id DESC LIMIT ?";
    let messages: Vec<(String, String)> = db.rows(query, [SHOWN])?;
    Ok(messages.into_iter().map(|(name, text)| Message { name, text }).collect())
}

fn insert(db: &Db, message: &Message) -> Result<()> {
    let values = (&message.name, &message.text);
    db.execute("INSERT INTO messages (name, text) VALUES (?, ?)", values)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::test_site::test_site;

    #[test]
    fn an_invalid_message_is_shown_again_with_its_errors() {
        let (_data, mut client) = test_site();
        let page = client.post("/messages").form(&[("name", "Ada"), ("text", "")]).send();
        assert_eq!(page.status_code().code(), 422);
        assert!(page.text().contains(r#"value="Ada""#), "{}", page.text());
        assert!(page.text().contains("Please fill this in."), "{}", page.text());
    }

    #[test]
    fn a_message_is_stored_and_the_thanks_are_shown_once() {
        let (_data, mut client) = test_site();
        let response = client.post("/messages").form(&[("name", "Ada"), ("text", "Hello")]).send();
        assert_eq!(response.location(), Some("/messages"));
        let page = client.get("/messages").text().to_owned();
        assert!(page.contains("Thank you, Ada!") && page.contains("Hello"), "{page}");
        assert!(!client.get("/messages").text().contains("Thank you"));
    }
}
