//! Problem details: an error for a program, as `application/problem+json` (RFC 9457).

use serde::Serialize;

use super::message::ErrorSummary;
use crate::http::response::Response;

/// The members of RFC 9457, section 3.1, and two extensions. `about:blank` means that the title is the status's, and
/// that the type says nothing more.
#[derive(Serialize)]
struct Problem<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    debug: Option<Debug<'a>>,
}

/// The internal details, for the developer.
#[derive(Serialize)]
struct Debug<'a> {
    chain: &'a [String],
    location: Option<&'a str>,
}

/// Returns the response for an error message.
pub(super) fn problem(summary: &ErrorSummary) -> Response {
    let problem = Problem {
        kind: "about:blank",
        title: summary.reason,
        status: summary.status.code(),
        detail: &summary.message,
        request_id: &summary.request_id,
        debug: summary
            .details
            .as_ref()
            .map(|details| Debug { chain: &details.chain, location: details.location.as_deref() }),
    };
    // Text and numbers can always be serialized.
    let json = serde_json::to_vec(&problem).unwrap_or_default();
    Response::bytes("application/problem+json", json)
}
