//! Content negotiation: the choice between HTML, JSON and text (RFC 9110, section 12.5.1).

use crate::http::headers::{self, Headers};
use crate::http::request::Request;

/// A representation of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Representation {
    /// For browsers.
    Html,
    /// `application/problem+json` (RFC 9457).
    Json,
    /// For terminals and scripts.
    Text,
}

/// How specifically a media range names a representation, in ascending order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// `*/*`
    Any,
    /// `text/*`
    Type,
    /// `text/html;level=1`: with a parameter that our representation does not have. It counts as a request for HTML.
    Nearly,
    /// `text/html`
    Exact,
}

/// A media range of `Accept`, with its names in lower case.
#[derive(Debug)]
struct Range {
    main: String,
    sub: String,
    has_parameters: bool,
    /// The weight in thousandths: it has at most three decimals.
    q: u16,
}

impl Request {
    /// Returns true if the client prefers JSON to HTML, by its `Accept` header (RFC 9110, section 12.5.1). If the
    /// header is missing or accepts anything, returns true if the request body is JSON.
    ///
    /// ```
    /// use aside::{Json, Request, Response, IntoResponse};
    ///
    /// fn photos(req: &mut Request) -> Response {
    ///     let titles = vec!["Harbour", "Evening"];
    ///     if req.wants_json() { Json(titles).into_response() } else { titles.join("\n").into_response() }
    /// }
    /// ```
    ///
    /// It is false for browsers that open a page, and for `Accept: */*` alone. A client that prefers JSON gets errors
    /// as `application/problem+json` (RFC 9457).
    pub fn wants_json(&self) -> bool {
        preferred(self) == Representation::Json
    }
}

/// Returns the representation with the greatest weight; of equals the one that is named most specifically, and then
/// HTML before JSON before text. A client that accepts anything, or none of these, gets text, or JSON if it sent JSON.
pub(crate) fn preferred(req: &Request) -> Representation {
    let ranges = ranges(req.headers());
    let default = if sent_json(req) { Representation::Json } else { Representation::Text };
    if ranges.is_empty() {
        return default;
    }
    // `max_by_key` returns the last of equal elements.
    let forms =
        [Representation::Text, Representation::Json, Representation::Html].map(|form| (weight(&ranges, form), form));
    match forms.into_iter().max_by_key(|(weight, _)| *weight) {
        Some((Some((q, Fit::Any)), _)) if q > 0 => default,
        Some((Some((q, _)), form)) if q > 0 => form,
        _ => Representation::Text,
    }
}

/// Returns the weight of a representation: that of the media range that names it most specifically.
fn weight(ranges: &[Range], form: Representation) -> Option<(u16, Fit)> {
    let fitting = ranges.iter().filter_map(|range| Some((range.fit(form)?, range.q)));
    fitting.max().map(|(fit, q)| (q, fit))
}

fn sent_json(req: &Request) -> bool {
    req.content_type()
        .is_some_and(|media_type| media_type.split_once('/').is_some_and(|(main, sub)| is_json(main, sub)))
}

fn is_json(main: &str, sub: &str) -> bool {
    (main, sub) == ("application", "json") || sub.ends_with("+json")
}

impl Range {
    fn parse(member: &str) -> Option<Range> {
        let mut parts = split(member, b';').map(str::trim);
        let (main, sub) = parts.next()?.split_once('/')?;
        let mut range = Range {
            main: main.trim().to_ascii_lowercase(),
            sub: sub.trim().to_ascii_lowercase(),
            has_parameters: false,
            q: 1000,
        };
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => range.q = headers::weight(value.trim()).unwrap_or(1000),
                "charset" if value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8") => {}
                _ => range.has_parameters = true,
            }
        }
        Some(range)
    }

    fn fit(&self, form: Representation) -> Option<Fit> {
        let (main, sub) = (self.main.as_str(), self.sub.as_str());
        let named = match form {
            Representation::Html => matches!((main, sub), ("text", "html") | ("application", "xhtml+xml")),
            Representation::Json => is_json(main, sub),
            Representation::Text => (main, sub) == ("text", "plain"),
        };
        let of_its_type = sub == "*" && main == if form == Representation::Json { "application" } else { "text" };
        match (main, sub) {
            _ if named => Some(if self.has_parameters { Fit::Nearly } else { Fit::Exact }),
            _ if of_its_type => Some(Fit::Type),
            ("*", "*") => Some(Fit::Any),
            _ => None,
        }
    }
}

fn ranges(headers: &Headers) -> Vec<Range> {
    headers.get_all("Accept").flat_map(|value| split(value, b',')).filter_map(Range::parse).collect()
}

/// Splits at separators outside quoted strings (RFC 9110, section 5.6.4).
fn split(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = end_of_part(text, separator);
        rest = end.map(|at| &text[at + 1..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

fn end_of_part(text: &str, separator: u8) -> Option<usize> {
    let (mut quoted, mut escaped) = (false, false);
    text.bytes().position(|byte| {
        quoted ^= byte == b'"' && !escaped;
        escaped = quoted && byte == b'\\' && !escaped;
        byte == separator && !quoted
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::request::{Body, Method};

    fn form(headers: &[(&str, &str)]) -> Representation {
        preferred(&Request::new(Method::Get, "/", Headers::from_iter(headers.iter().copied()), Body::empty()))
    }

    #[test]
    fn the_client_gets_the_representation_that_it_prefers() {
        use Representation::{Html, Json, Text};
        for (accept, expected) in [
            ("text/html", Html),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Html),
            ("application/xhtml+xml", Html),
            ("text/*", Html),
            ("TEXT/HTML; charset=UTF-8", Html),
            ("text/html;level=1", Html),
            ("*/*", Text),
            ("", Text),
            ("text/plain", Text),
            ("text/plain, text/html;q=0.5", Text),
            ("text/html;q=0", Text),
            ("text/html;q=0.000, application/json;q=0", Text),
            ("image/avif,image/webp,*/*;q=0.8", Text),
            ("image/png", Text),
            ("application/json", Json),
            ("application/problem+json", Json),
            ("application/vnd.api+json", Json),
            ("application/*", Json),
            ("Application/JSON;charset=utf-8", Json),
            ("application/json;odata=verbose", Json),
            // axios, and jQuery for JSON.
            ("application/json, text/plain, */*", Json),
            ("application/json, text/javascript, */*; q=0.01", Json),
            // The weight comes first,
            ("application/json;q=0.5, text/html", Html),
            ("application/json, text/html;q=0.9", Json),
            ("application/json;q=0.899, text/html;q=0.9", Html),
            ("application/json;q=0.5, */*", Text),
            ("text/html, application/json", Html),
            ("application/json, text/html", Html),
            // and a representation has the weight of the most specific range: HTML has 0.3 here, and 0.1 in the next
            // line.
            ("text/*;q=0.3, application/json;q=0.4, */*;q=0.9", Json),
            ("text/*, text/html;q=0.1, text/plain;q=0.1, application/json;q=0.2", Json),
            ("*/*, application/json;q=0", Text),
            ("application/*, application/json;q=0, text/html;q=0.1", Html),
            // A comma or a semicolon in a quoted string does not separate.
            (r#"text/plain;a="x, text/html;q=1", application/json;q=0.2"#, Text),
            (r#"application/json;a="\", text/html;b=", text/html;q=0.5"#, Json),
            // A malformed weight is ignored.
            ("application/json;q=2, text/html;q=0.9", Json),
            ("application/json;q=, text/html;q=0.9", Json),
            ("application/json;Q=0.1, text/html;q=0.9", Html),
            (", ,application/json,,", Json),
            ("html", Text),
        ] {
            assert_eq!(form(&[("Accept", accept)]), expected, "{accept}");
        }
        assert_eq!(form(&[]), Text);
        assert_eq!(
            form(&[("Accept", "text/html;q=0.1"), ("accept", "application/json")]),
            Json,
            "the list may be in two"
        );
    }

    #[test]
    fn a_client_that_sends_json_and_accepts_anything_gets_json() {
        for (sent, accept, expected) in [
            ("application/json", "*/*", Representation::Json),
            ("application/json; charset=utf-8", "*/*;q=0.8", Representation::Json),
            ("application/vnd.api+json", "", Representation::Json),
            ("application/json", "text/html", Representation::Html),
            ("application/json", "text/plain", Representation::Text),
            ("application/json", "image/png, */*;q=0", Representation::Text),
            ("application/x-www-form-urlencoded", "*/*", Representation::Text),
            ("json", "*/*", Representation::Text),
        ] {
            assert_eq!(form(&[("Content-Type", sent), ("Accept", accept)]), expected, "{sent} {accept}");
        }
        assert_eq!(form(&[("Content-Type", "application/json")]), Representation::Json);
    }

    proptest! {
        #[test]
        fn any_accept_is_read_without_a_panic(accept in any::<String>(), likely in r#"[a-z*/;,=q"\\ .01]{0,60}"#) {
            form(&[("Accept", &accept), ("Accept", &likely)]);
        }

        #[test]
        fn the_split_parts_join_to_the_whole(text in r#"[a,;"\\é]{0,30}"#) {
            let parts: Vec<&str> = split(&text, b',').collect();
            prop_assert_eq!(parts.join(","), text);
        }

        #[test]
        fn a_greater_weight_wins(json in 0u16..=1000, html in 0u16..=1000) {
            let q = |q: u16| format!("{}.{:03}", q / 1000, q % 1000);
            let accept = format!("application/json;q={}, text/html;q={}", q(json), q(html));
            let expected = if json.max(html) == 0 { Representation::Text } else if json > html { Representation::Json } else { Representation::Html };
            prop_assert_eq!(form(&[("Accept", &accept)]), expected);
        }
    }
}
