//! An error for a program: `application/problem+json` (RFC 9457).

use serde::Serialize;

use super::words::Words;
use crate::http::response::Response;

/// The members of RFC 9457, section 3.1, and two of ours. `about:blank` says that the title is the status's and tells no
/// more than that.
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

/// The inside, for the developer.
#[derive(Serialize)]
struct Debug<'a> {
    chain: &'a [String],
    place: Option<&'a str>,
}

/// The problem that these words tell.
pub(super) fn problem(words: &Words) -> Response {
    let problem = Problem {
        kind: "about:blank",
        title: words.reason,
        status: words.status.code(),
        detail: &words.message,
        request_id: &words.request_id,
        debug: words.inside.as_ref().map(|inside| Debug { chain: &inside.chain, place: inside.place.as_deref() }),
    };
    // Text and numbers can always be written.
    let json = serde_json::to_vec(&problem).unwrap_or_default();
    Response::bytes("application/problem+json", json)
}
