//! The page at `/__path__`.

use aside::{Request, Response, Result};

/// `GET /__path__`
pub fn show(req: &mut Request) -> Result<Response> {
    req.render("__module__.html", ())
}

#[cfg(test)]
mod tests {
    use crate::test_site::test_site;

    #[test]
    fn the_page_is_shown() {
        let (_data, mut client) = test_site();
        let page = client.get("/__path__");
        assert_eq!(page.status_code().code(), 200);
        assert!(page.text().contains("<h1>__title__</h1>"), "{}", page.text());
    }
}
