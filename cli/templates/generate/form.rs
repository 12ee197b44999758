//! The form at `/__path__`.

use aside::{Form, Request, Response, Result, context, redirect};
use serde::Deserialize;

#[derive(Deserialize)]
struct __Type__ {
    name: String,
    text: String,
}

/// `GET /__path__`
pub fn show(req: &mut Request) -> Result<Response> {
    page(req, &Form::empty())
}

/// Shows the form: empty, or with the entered values and their errors.
fn page(req: &mut Request, form: &Form<__Type__>) -> Result<Response> {
    let page = req.render("__module__.html", context! { form })?;
    Ok(page.status(form.status())) // 200, or 422 with errors
}

/// `POST /__path__`
pub fn send(req: &mut Request) -> Result<Response> {
    let mut form: Form<__Type__> = req.submitted()?;
    form.require(&["name", "text"])
        .check("name", |new| new.name.chars().count() <= 100, "At most 100 characters.")
        .check("text", |new| new.text.chars().count() <= 2_000, "At most 2,000 characters.");
    let new = match form.valid() {
        Ok(new) => new,
        Err(form) => return page(req, &form),
    };
    // Store the values here, or send them.
    req.flash("success", format!("Thank you, {}!", new.name));
    Ok(redirect(&req.url_for("__module__", &[])?))
}

#[cfg(test)]
mod tests {
    use crate::test_site::test_site;

    #[test]
    fn an_invalid_form_is_shown_again_with_its_errors() {
        let (_data, mut client) = test_site();
        let page = client.post("/__path__").form(&[("name", "Ada"), ("text", "")]).send();
        assert_eq!(page.status_code().code(), 422);
        assert!(page.text().contains(r#"value="Ada""#), "{}", page.text());
        assert!(page.text().contains("Please fill this in."), "{}", page.text());
    }

    #[test]
    fn a_valid_form_is_answered_with_thanks() {
        let (_data, mut client) = test_site();
        let response = client.post("/__path__").form(&[("name", "Ada"), ("text", "Hello")]).send();
        assert_eq!(response.location(), Some("/__path__"));
        assert!(client.get("/__path__").text().contains("Thank you, Ada!"));
    }
}
