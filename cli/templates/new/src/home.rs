//! The first page.

use aside::{Request, Response, Result};

/// `GET /`
pub fn show(req: &mut Request) -> Result<Response> {
    req.render("home.html", ())
}

#[cfg(test)]
mod tests {
    use crate::test_site::test_site;

    #[test]
    fn the_first_page_links_to_the_messages() {
        let (_data, mut client) = test_site();
        let page = client.get("/");
        assert_eq!(page.status_code().code(), 200);
        assert!(page.text().contains(r#"href="/messages""#), "{}", page.text());
    }
}
