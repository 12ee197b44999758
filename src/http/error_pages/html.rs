//! The error page as HTML. It is formatted by hand, so that it needs no template and cannot fail.

use super::message::{Details, ErrorSummary};
use crate::http::html::Escaped;

const STYLE: &str = include_str!("../../../templates/aside/error.css");

/// Returns the page of an error.
pub(super) fn page(summary: &ErrorSummary, nonce: &str) -> String {
    let mut body = format!("<p>{}</p>\n", Escaped(&summary.message));
    body += &summary.details.as_ref().map_or_else(String::new, |details| section(details, &summary.message));
    if summary.status.is_server_error() && !summary.request_id.is_empty() {
        let id = Escaped(&summary.request_id);
        body += &format!(
            "<p class=\"id\">If you report this error, please include the request id: <code>{id}</code></p>\n"
        );
    }
    document(summary, nonce, &body)
}

/// Returns the developer's page as preformatted text, for a build without templates.
#[cfg(not(feature = "templates"))]
pub(super) fn text_page(summary: &ErrorSummary, nonce: &str, text: &str) -> String {
    document(summary, nonce, &format!("<pre>{}</pre>\n", Escaped(text)))
}

fn section(details: &Details, message: &str) -> String {
    let chain = details.chain_after(message);
    let chain = chain.map_or_else(String::new, |chain| format!("<p>{}</p>\n", Escaped(&chain)));
    let location = details.location.as_ref();
    let location = location.map_or_else(String::new, |name| format!("<p>at <code>{}</code></p>\n", Escaped(name)));
    let panel = details.panel.as_ref();
    let panel =
        panel.map_or_else(String::new, |path| format!("<p><a href=\"{path}\">The request in the panel</a></p>\n"));
    format!("<section>\n<h2>Details for the developer</h2>\n{chain}{location}{panel}</section>\n")
}

fn document(summary: &ErrorSummary, nonce: &str, body: &str) -> String {
    let (code, reason) = (summary.status.code(), Escaped(summary.reason));
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta name="color-scheme" content="light dark">
<title>{code} {reason}</title>
<style nonce="{nonce}">
{STYLE}</style>
</head>
<body>
<main>
<h1><span>{code}</span> {reason}</h1>
{body}</main>
</body>
</html>
"#
    )
}
