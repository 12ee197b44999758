//! Conditional requests: decides if a client with a copy needs the file again, or may proceed at all (RFC 9110, section
//! 13).

use std::iter;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::http::request::{Method, Request};

/// The validators of one version of a file.
#[derive(Debug)]
pub(super) struct Validators {
    /// A strong tag, with its quotes.
    pub(super) etag: String,
    /// The modification time, which is never in the future. An embedded file has none.
    pub(super) modified: Option<SystemTime>,
}

/// The result of the preconditions.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    Proceed,
    NotModified,
    Failed,
}

impl Validators {
    /// Returns the tag without its quotes.
    pub(super) fn opaque(&self) -> &str {
        self.etag.trim_matches('"')
    }

    /// Evaluates the preconditions, in the order of section 13.2.2.
    pub(super) fn check(&self, req: &Request) -> Verdict {
        let reads = matches!(req.method(), Method::Get | Method::Head);
        match () {
            _ if !self.may_proceed(req) => Verdict::Failed,
            _ if req.headers().contains("If-None-Match") => match (self.is_known(req), reads) {
                (false, _) => Verdict::Proceed,
                (true, true) => Verdict::NotModified,
                (true, false) => Verdict::Failed,
            },
            _ if reads && self.unchanged_since(req, "If-Modified-Since") == Some(true) => Verdict::NotModified,
            _ => Verdict::Proceed,
        }
    }

    fn may_proceed(&self, req: &Request) -> bool {
        if req.headers().contains("If-Match") {
            return is_any(req, "If-Match") || listed(req, "If-Match").any(|tag| tag == self.etag);
        }
        self.unchanged_since(req, "If-Unmodified-Since") != Some(false)
    }

    fn is_known(&self, req: &Request) -> bool {
        let same = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag) == self.etag;
        is_any(req, "If-None-Match") || listed(req, "If-None-Match").any(same)
    }

    /// Returns `None` if the header is missing, its date is malformed, or the file has no date.
    fn unchanged_since(&self, req: &Request, name: &str) -> Option<bool> {
        let since = seconds(httpdate::parse_http_date(only(req, name)?).ok()?);
        Some(seconds(self.modified?) <= since)
    }

    /// Returns true if the client has a part of this version, or sent no `If-Range` (section 13.1.5). Only a strong
    /// validator can prove it: a weak tag does not, and a date does only once its second is over (section 8.8.2.2).
    pub(super) fn is_same(&self, req: &Request) -> bool {
        if !req.headers().contains("If-Range") {
            return true;
        }
        let Some(value) = only(req, "If-Range") else { return false };
        let over = |modified: SystemTime| modified.elapsed().is_ok_and(|age| age >= Duration::from_secs(1));
        let dated = |date| self.modified.is_some_and(|time| seconds(time) == seconds(date) && over(time));
        value == self.etag || httpdate::parse_http_date(value).is_ok_and(dated)
    }
}

/// Returns whole seconds, the resolution of dates in headers.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Returns the value of a header that may occur once.
pub(super) fn only<'r>(req: &'r Request, name: &'r str) -> Option<&'r str> {
    let mut values = req.headers().get_all(name);
    let value = values.next()?;
    values.next().is_none().then(|| value.trim_matches(WHITE))
}

/// Optional white space (section 5.6.3).
const WHITE: [char; 2] = [' ', '\t'];

/// Returns true if any version matches.
fn is_any(req: &Request, name: &str) -> bool {
    only(req, name) == Some("*")
}

/// Returns the entity tags of a header.
fn listed<'r>(req: &'r Request, name: &'r str) -> impl Iterator<Item = &'r str> {
    req.headers().get_all(name).flat_map(tags)
}

/// Returns the entity tags of a list, which may contain commas (section 8.8.3). A malformed tag ends the list, since
/// the extent of the rest is not known.
fn tags(mut list: &str) -> impl Iterator<Item = &str> {
    iter::from_fn(move || {
        let start = list.trim_start_matches([' ', '\t', ',']);
        let opaque = start.strip_prefix("W/").unwrap_or(start).strip_prefix('"')?;
        let length = opaque.find('"')?;
        let (tag, rest) = start.split_at(start.len() - opaque.len() + length + 1);
        list = rest.trim_start_matches(WHITE);
        let ends = list.is_empty() || list.starts_with(',');
        let text = |c: char| c == '!' || ('#'..='~').contains(&c) || !c.is_ascii();
        (ends && opaque[..length].chars().all(text)).then_some(tag)
    })
    .fuse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::headers::Headers;
    use crate::http::request::Body;

    const CHANGED: u64 = 784_111_777; // Sun, 06 Nov 1994 08:49:37 GMT

    fn validators() -> Validators {
        let modified = UNIX_EPOCH + Duration::from_millis(CHANGED * 1_000 + 400);
        Validators { etag: "\"tag\"".into(), modified: Some(modified) }
    }

    fn request(method: Method, headers: &[(&str, &str)]) -> Request {
        Request::new(method, "/", Headers::from_iter(headers.iter().copied()), Body::empty())
    }

    fn check(headers: &[(&str, &str)]) -> Verdict {
        validators().check(&request(Method::Get, headers))
    }

    const THEN: [&str; 3] =
        ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"];
    const BEFORE: [&str; 3] =
        ["Sun, 06 Nov 1994 08:49:36 GMT", "Sunday, 06-Nov-94 08:49:36 GMT", "Sun Nov  6 08:49:36 1994"];

    #[test]
    fn a_date_may_have_three_forms() {
        for date in THEN {
            assert_eq!(check(&[("If-Modified-Since", date)]), Verdict::NotModified, "{date}");
            assert_eq!(check(&[("If-Unmodified-Since", date)]), Verdict::Proceed, "{date}");
        }
        for date in BEFORE {
            assert_eq!(check(&[("If-Modified-Since", date)]), Verdict::Proceed, "{date}");
            assert_eq!(check(&[("If-Unmodified-Since", date)]), Verdict::Failed, "{date}");
        }
        for date in ["", "yesterday", "0", "Sun, 06 Nov 1994 08:49:37", "Sun, 31 Feb 1994 08:49:37 GMT"] {
            assert_eq!(check(&[("If-Modified-Since", date)]), Verdict::Proceed, "{date}");
            assert_eq!(check(&[("If-Unmodified-Since", date)]), Verdict::Proceed, "{date}");
        }
        assert_eq!(check(&[("If-Modified-Since", THEN[0]), ("If-Modified-Since", THEN[0])]), Verdict::Proceed, "twice");
    }

    #[test]
    fn a_list_of_tags_is_read() {
        for list in [
            "\"tag\"",
            "W/\"tag\"",
            "\"a\", \"tag\"",
            "\"a,b\",\"tag\"",
            "\"a\" \t,\t W/\"x\" ,, \"tag\" ,",
            "W/\"a,\\\",\"tag\"",
            "\"\",\"tag\"",
            "\"é\",\"tag\"",
            " * ",
        ] {
            assert_eq!(check(&[("If-None-Match", list)]), Verdict::NotModified, "{list}");
        }
        for list in [
            "",
            "tag",
            "\"tag",
            "w/\"tag\"",
            "W/ \"tag\"",
            "\"Tag\"",
            "\"a\" \"tag\"",
            "\"a,\"tag\",b\"",
            "a, \"tag\"",
            "\"a b\", \"tag\"",
            "\"a\", *",
        ] {
            assert_eq!(check(&[("If-None-Match", list)]), Verdict::Proceed, "{list}");
            assert_eq!(check(&[("If-Match", list)]), Verdict::Failed, "{list}");
        }
        assert_eq!(check(&[("If-None-Match", "\"a\""), ("If-None-Match", "\"tag\"")]), Verdict::NotModified);
        assert_eq!(check(&[("If-Match", "*")]), Verdict::Proceed);
        assert_eq!(check(&[("If-Match", "W/\"tag\"")]), Verdict::Failed, "If-Match compares strongly");
    }

    #[test]
    fn preconditions_are_checked_in_order() {
        let (tag, other) = ("\"tag\"", "\"other\"");
        for (headers, expected) in [
            ([("If-Match", tag), ("If-Unmodified-Since", BEFORE[0])], Verdict::Proceed),
            ([("If-Match", other), ("If-Unmodified-Since", THEN[0])], Verdict::Failed),
            ([("If-None-Match", other), ("If-Modified-Since", THEN[0])], Verdict::Proceed),
            ([("If-None-Match", tag), ("If-Modified-Since", BEFORE[0])], Verdict::NotModified),
            ([("If-Match", other), ("If-None-Match", tag)], Verdict::Failed),
            ([("If-Match", tag), ("If-None-Match", tag)], Verdict::NotModified),
            ([("If-Unmodified-Since", BEFORE[0]), ("If-Modified-Since", THEN[0])], Verdict::Failed),
        ] {
            assert_eq!(check(&headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn only_get_and_head_get_a_304() {
        let of = |method, header| validators().check(&request(method, &[header]));
        assert_eq!(of(Method::Head, ("If-None-Match", "\"tag\"")), Verdict::NotModified);
        assert_eq!(of(Method::Post, ("If-None-Match", "\"tag\"")), Verdict::Failed);
        assert_eq!(of(Method::Post, ("If-Modified-Since", THEN[0])), Verdict::Proceed);
    }

    #[test]
    fn if_range_needs_a_strong_validator() {
        let same = |value| validators().is_same(&request(Method::Get, &[("If-Range", value)]));
        assert!(validators().is_same(&request(Method::Get, &[])));
        for value in ["\"tag\"", " \"tag\" ", THEN[0], THEN[1], THEN[2]] {
            assert!(same(value), "{value}");
        }
        let later = "Sun, 06 Nov 1994 08:49:38 GMT";
        for value in ["", "W/\"tag\"", "tag", "\"other\"", "\"tag\", \"other\"", "*", "yesterday", BEFORE[0], later] {
            assert!(!same(value), "{value}");
        }
        let twice = [("If-Range", "\"tag\""), ("If-Range", "\"tag\"")];
        assert!(!validators().is_same(&request(Method::Get, &twice)));
    }

    #[test]
    fn a_date_is_strong_once_its_second_is_over() {
        let soon = SystemTime::now() + Duration::from_secs(60);
        let date = httpdate::fmt_http_date(soon);
        let just_now = Validators { modified: Some(soon), ..validators() };
        assert!(!just_now.is_same(&request(Method::Get, &[("If-Range", &date)])));
    }
}
