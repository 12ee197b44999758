//! A chat: what one browser says, all open pages show at once.

use aside::{Form, Live, Request, Response, Result, context, redirect};
use serde::{Deserialize, Serialize};

/// The number of lines that the chat keeps, in memory.
const KEPT: usize = 100;

/// The lines of the chat. Clones share one state, which pages follow.
pub struct Chat(Live<Vec<Line>>);

impl Default for Chat {
    fn default() -> Chat {
        Chat(Live::new(Vec::new()))
    }
}

#[derive(Clone, Deserialize, Serialize)]
pub struct Line {
    name: String,
    text: String,
}

/// Returns the lines, for `{{ live("chat") }}` in a template.
pub fn lines(req: &mut Request) -> Live<Vec<Line>> {
    req.state::<Chat>().0.clone()
}

/// `GET /chat`, with the name that this browser has used before.
pub fn show(req: &mut Request) -> Result<Response> {
    let name: Option<String> = req.session().get("name");
    page(req, &Form::empty().with("name", name.unwrap_or_default()))
}

fn page(req: &mut Request, form: &Form<Line>) -> Result<Response> {
    Ok(req.render("chat.html", context! { form })?.status(form.status()))
}

/// `POST /chat`
pub fn say(req: &mut Request) -> Result<Response> {
    let mut form: Form<Line> = req.submitted()?;
    form.require(&["name", "text"])
        .check("name", |line| line.name.chars().count() <= 50, "At most 50 characters.")
        .check("text", |line| line.text.chars().count() <= 500, "At most 500 characters.");
    let line = match form.valid() {
        Ok(line) => line,
        Err(form) => return page(req, &form),
    };
    req.session().insert("name", &line.name);
    req.state::<Chat>().0.update(|lines| push(lines, line));
    Ok(redirect(&req.url_for("chat", &[])?))
}

fn push(lines: &mut Vec<Line>, line: Line) {
    lines.push(line);
    let surplus = lines.len().saturating_sub(KEPT);
    lines.drain(..surplus);
}

#[cfg(test)]
mod tests {
    use crate::test_site::test_site;

    #[test]
    fn an_open_page_shows_a_new_line() {
        let (_data, mut client) = test_site();
        let mut events = client.events("/_aside/live/chat");
        assert!(!events.next().data.contains("Hello"));
        client.post("/chat").form(&[("name", "Ada"), ("text", "Hello")]).send();
        assert!(events.next().data.contains("Hello"));
    }

    #[test]
    fn the_form_keeps_the_name_and_shows_errors() {
        let (_data, mut client) = test_site();
        let page = client.post("/chat").form(&[("name", "Ada"), ("text", "")]).send();
        assert_eq!(page.status_code().code(), 422);
        client.post("/chat").form(&[("name", "Ada"), ("text", "Hello")]).send();
        assert!(client.get("/chat").text().contains(r#"value="Ada""#));
    }
}
