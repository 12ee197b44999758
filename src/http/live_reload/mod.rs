//! Live reload in development: pages follow `aside dev`, which builds and starts the site again when its files change.
//!
//! `aside dev` listens on a port of its own, so that its event stream survives a restart of the site and takes none of the site's
//! connections. A script at the end of each page follows the stream: it reloads the page after a change, exchanges the style
//! sheets after a change of CSS, and shows the errors of a build.

mod policy;

use std::time::{SystemTime, UNIX_EPOCH};

use super::headers::Headers;
use super::request::{Method, Request};
use super::response::Response;
use super::security::headers::nonce_value;

const SCRIPT: &str = include_str!("script.js");

const CSP: &str = "Content-Security-Policy";

/// The connection of the pages to `aside dev`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiveReload {
    /// The port of the event stream.
    port: u16,
    /// The number of this process, which runs one build. Pages of another one are reloaded.
    build: u64,
}

impl LiveReload {
    /// Parses the port and the build: `8001 17`.
    pub(crate) fn parse(text: &str) -> Option<LiveReload> {
        let (port, build) = text.split_once(' ')?;
        Some(LiveReload { port: port.parse().ok()?, build: build.parse().ok()? })
    }

    /// Adds the script to an HTML document. Call it before the response is compressed.
    pub(crate) fn add_script(&self, request: &Request, response: &mut Response) {
        let headers = &response.headers;
        if !is_html(headers) || is_saved(headers) || headers.contains("Content-Encoding") {
            return;
        }
        let Ok(body) = response.body() else { return };
        if !is_document(body) {
            return;
        }
        let page = [body, self.script(request).as_bytes()].concat();
        // It succeeds: the body is in memory.
        let _ = response.set_body(page);
    }

    fn script(&self, request: &Request) -> String {
        let (port, build, nonce) = (self.port, self.build, nonce_value(request.nonce()));
        // A form would be sent again.
        let reloads = matches!(request.method(), Method::Get | Method::Head);
        // In milliseconds, as JavaScript has the time. `aside dev` has the same clock.
        let rendered = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        format!(
            r#"<script nonce="{nonce}" data-port="{port}" data-build="{build}" {}>{SCRIPT}</script>"#,
            format_args!(r#"data-rendered="{rendered}" data-reloads="{reloads}""#)
        )
    }

    /// Allows the script in the page's policy. Call it when the response has its headers.
    pub(crate) fn allow_script(&self, request: &Request, response: &mut Response) {
        let Some(nonce) = request.nonce().get().filter(|_| is_html(&response.headers)) else { return };
        let policies: Vec<String> = response.headers.get_all(CSP).map(str::to_owned).collect();
        response.headers.remove(CSP);
        for policy in policies {
            response.headers.add(CSP, policy::allow(&policy, nonce, self.port));
        }
    }
}

fn is_html(headers: &Headers) -> bool {
    let is_html = |value: &str| value.trim_start().to_ascii_lowercase().starts_with("text/html");
    headers.get("Content-Type").is_some_and(is_html)
}

/// Returns true if the browser saves the document and does not show it.
fn is_saved(headers: &Headers) -> bool {
    let is_attachment = |value: &str| value.trim_start().to_ascii_lowercase().starts_with("attachment");
    headers.get("Content-Disposition").is_some_and(is_attachment)
}

/// Returns true if the HTML is a whole page, and not a part that a script adds to one.
fn is_document(html: &[u8]) -> bool {
    let start = html.trim_ascii_start();
    let begins_with =
        |tag: &str| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag.as_bytes()));
    begins_with("<!doctype") || begins_with("<html")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::Body;

    const RELOAD: LiveReload = LiveReload { port: 8001, build: 17 };

    fn request(method: Method) -> Request {
        Request::new(method, "/", Headers::new(), Body::empty())
    }

    fn page(request: &Request, mut response: Response) -> String {
        RELOAD.add_script(request, &mut response);
        String::from_utf8(response.body().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn the_script_is_added_to_whole_pages_only() {
        for html in ["<!doctype html><p>A page", "\n<!DOCTYPE html>", "<html lang=en>"] {
            let page = page(&request(Method::Get), Response::html(html));
            assert!(page.starts_with(html) && page.ends_with("</script>"), "{page}");
        }
        for html in ["<p>A fragment", "", "<!do"] {
            assert_eq!(page(&request(Method::Get), Response::html(html)), html);
        }
        let document = "<!doctype html>";
        assert_eq!(page(&request(Method::Get), Response::text(document)), document);
        let length = |method| page(&request(method), Response::html(document)).len();
        assert_eq!(length(Method::Head), length(Method::Get), "the length of a response to HEAD is that of the page");
        let compressed = Response::html(document).header("Content-Encoding", "br");
        assert_eq!(page(&request(Method::Get), compressed), document);
        let download = Response::html(document).header("Content-Disposition", "Attachment; filename=page.html");
        assert_eq!(page(&request(Method::Get), download), document);
    }

    #[test]
    fn a_page_that_a_form_returns_is_not_reloaded() {
        let reloads = |method| page(&request(method), Response::html("<html>")).contains(r#"data-reloads="true""#);
        assert!(reloads(Method::Get) && !reloads(Method::Post));
    }

    #[test]
    fn the_policy_allows_the_script_and_its_stream() {
        let request = request(Method::Get);
        let mut response = Response::html("<html>").header(CSP, "default-src 'self'");
        RELOAD.add_script(&request, &mut response);
        RELOAD.allow_script(&request, &mut response);
        let nonce = request.csp_nonce();
        let expected =
            format!("default-src 'self'; script-src 'self' 'nonce-{nonce}'; connect-src 'self' http://*:8001");
        assert_eq!(response.headers.get_all(CSP).collect::<Vec<_>>(), [expected.as_str()]);
    }

    #[test]
    fn the_message_of_aside_dev_is_a_port_and_a_build() {
        assert_eq!(LiveReload::parse("8001 17"), Some(RELOAD));
        assert_eq!(LiveReload::parse(""), None);
        assert_eq!(LiveReload::parse("8001"), None);
        assert_eq!(LiveReload::parse("80010 1"), None);
    }
}
