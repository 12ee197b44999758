//! The request that a task or job was started from.

use std::fmt;

use super::trace_id::TraceId;

/// The request that a task or job was started from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestInfo {
    /// The id of the request, as in the access log and on the error page.
    pub id: String,
    /// The method of the request.
    pub method: String,
    /// The path of the request, without the query, which may contain data that does not belong in a log.
    pub path: String,
    /// The id of the trace: the request with all the work that comes from it.
    pub trace: TraceId,
}

impl RequestInfo {
    /// Creates the origin of work that a request starts.
    pub(crate) fn new(method: &str, path: &str, id: &str, trace: TraceId) -> RequestInfo {
        RequestInfo { id: id.to_owned(), method: method.to_owned(), path: path.to_owned(), trace }
    }

    /// Parses an origin from its display form, with a new trace.
    pub(crate) fn parse(text: &str) -> Option<RequestInfo> {
        let (rest, id) = text.rsplit_once(' ')?;
        let (method, path) = rest.split_once(' ')?;
        Some(RequestInfo::new(method, path, id, TraceId::new()))
    }
}

/// The form in the log: `POST /orders 3f9a1c`.
impl fmt::Display for RequestInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.method, self.path, self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_parsed_from_its_display_form() {
        let written = |text| RequestInfo::parse(text).map(|origin| origin.to_string());
        assert_eq!(written("POST /a b/c 3f9a1c").as_deref(), Some("POST /a b/c 3f9a1c"));
        assert_eq!(RequestInfo::parse("GET /x 1").unwrap().path, "/x");
        assert!(RequestInfo::parse("nothing").is_none());
    }
}
