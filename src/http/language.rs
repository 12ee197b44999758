//! The language that a client prefers: `Accept-Language` (RFC 9110, section 12.5.4).

use std::cmp::Reverse;

use super::cache_control::add_vary;
use super::headers::{Headers, weight};
use super::request::Request;
use super::response::Response;

/// The mark of a request whose response depends on its `Accept-Language`.
struct LanguageWasRead;

impl Request {
    /// Returns the language that the client prefers of those that the site offers, by its `Accept-Language` header, or `None`
    /// if it accepts none of them or sends no such header.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request};
    ///
    /// fn greet(req: &mut Request) -> &'static str {
    ///     match req.preferred_language(&["en", "de"]) {
    ///         Some("de") => "Guten Tag",
    ///         _ => "Hello",
    ///     }
    /// }
    ///
    /// let mut client = TestClient::new(App::new().get("/", greet));
    /// let response = client.request("GET", "/").header("Accept-Language", "de-AT, en;q=0.8").send();
    /// assert_eq!(response.text(), "Guten Tag");
    /// assert_eq!(client.get("/").text(), "Hello");
    /// ```
    ///
    /// The languages are tags of BCP 47, such as `de` or `pt-BR`; the case of letters does not matter. A client that asks for
    /// `de-AT` accepts `de`, and one that asks for `pt` accepts `pt-BR`. Of several languages with the same weight, the first
    /// in the header is returned. The response gets `Vary: Accept-Language`.
    pub fn preferred_language<'l>(&mut self, offered: &[&'l str]) -> Option<&'l str> {
        self.set_extension(LanguageWasRead);
        preferred(self.headers(), offered)
    }
}

/// Adds `Vary` to a response that depends on the header.
pub(crate) fn vary(request: &mut Request, response: &mut Response) {
    if request.extension::<LanguageWasRead>().is_some() {
        add_vary(&mut response.headers, "Accept-Language");
    }
}

/// How specifically a language range names a language, in ascending order (RFC 4647, section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// `*`
    Any,
    /// `de-AT` for `de`.
    Narrower,
    /// `zh` for `zh-Hant-TW`; `zh-Hant` is longer.
    Wider(usize),
    Exact,
}

/// A language range of the header, with its weight in thousandths.
struct Range<'h> {
    tag: &'h str,
    weight: u16,
}

impl<'h> Range<'h> {
    /// Parses a range. A malformed weight is ignored.
    fn parse(member: &'h str) -> Range<'h> {
        let (tag, parameter) = member.split_once(';').unwrap_or((member, ""));
        let q = parameter.trim().strip_prefix(['q', 'Q']).and_then(|rest| rest.trim_start().strip_prefix('='));
        Range { tag: tag.trim(), weight: q.and_then(|q| weight(q.trim())).unwrap_or(1_000) }
    }

    fn fit(&self, language: &str) -> Option<Fit> {
        match self.tag {
            "*" => Some(Fit::Any),
            tag if tag.eq_ignore_ascii_case(language) => Some(Fit::Exact),
            tag if is_within(language, tag) => Some(Fit::Wider(tag.len())),
            // A client that refuses `de-AT` does not refuse `de`.
            tag if is_within(tag, language) && self.weight > 0 => Some(Fit::Narrower),
            _ => None,
        }
    }
}

/// Returns true if the tag is the range with further parts: `de-AT` is within `de`.
fn is_within(tag: &str, range: &str) -> bool {
    tag.split_at_checked(range.len())
        .is_some_and(|(start, rest)| start.eq_ignore_ascii_case(range) && rest.starts_with('-') && !range.is_empty())
}

/// Returns the language with the greatest weight: that of the range that names it most specifically.
fn preferred<'l>(headers: &Headers, offered: &[&'l str]) -> Option<&'l str> {
    let ranges: Vec<Range> =
        headers.get_all("Accept-Language").flat_map(|line| line.split(',')).map(Range::parse).collect();
    let weigh = |language: &str| {
        let fitting =
            ranges.iter().enumerate().filter_map(|(at, range)| Some((range.fit(language)?, range.weight, at)));
        let (_, weight, at) = fitting.max_by_key(|(fit, weight, at)| (*fit, *weight, Reverse(*at)))?;
        (weight > 0).then_some((Reverse(weight), at))
    };
    let acceptable = offered.iter().filter_map(|language| Some((weigh(language)?, *language)));
    acceptable.min_by_key(|(key, _)| *key).map(|(_, language)| language)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::request::{Body, Method};

    fn chosen<'l>(accept: &str, offered: &[&'l str]) -> Option<&'l str> {
        preferred(&Headers::from_iter([("Accept-Language", accept)]), offered)
    }

    #[test]
    fn the_client_gets_the_language_that_it_prefers() {
        for (accept, offered, expected) in [
            ("de", &["en", "de"][..], Some("de")),
            ("de-AT,de;q=0.9,en;q=0.8", &["en", "de"], Some("de")),
            ("DE-at", &["en", "de"], Some("de")),
            ("en;q=0.8, de;q=0.9", &["en", "de"], Some("de")),
            ("en, de", &["de", "en"], Some("en")),
            ("pt", &["en", "pt-BR"], Some("pt-BR")),
            ("pt-PT", &["pt-BR"], None),
            ("de-AT", &["de-CH", "de"], Some("de")),
            ("den", &["de"], None),
            ("fr", &["en", "de"], None),
            ("fr, *;q=0.1", &["en", "de"], Some("en")),
            ("*, en;q=0", &["en", "de"], Some("de")),
            ("de;q=0, *", &["de-AT", "en"], Some("en")),
            ("de-AT;q=0, de;q=0.5", &["de"], Some("de")),
            ("de-AT;q=0", &["de"], None),
            ("de-AT;q=0, *", &["de"], Some("de")),
            ("zh;q=0.1, zh-Hant, en;q=0.5", &["en", "zh-Hant-TW"], Some("zh-Hant-TW")),
            ("de ; q=0.2 , en ;Q = 0.3", &["de", "en"], Some("en")),
            ("de;q=2, en;q=0.9", &["de", "en"], Some("de")),
            ("de;q=0.0", &["de"], None),
            (",,;q=1,-", &["de"], None),
            ("", &["de"], None),
            ("de", &[], None),
        ] {
            assert_eq!(chosen(accept, offered), expected, "{accept} of {offered:?}");
        }
    }

    #[test]
    fn a_response_varies_by_the_language_if_a_handler_reads_it() {
        let headers = Headers::from_iter([("Accept-Language", "fr"), ("accept-language", "de;q=0.5")]);
        let mut request = Request::new(Method::Get, "/", headers, Body::empty());
        let mut response = Response::new().header("Vary", "Accept");
        vary(&mut request, &mut response);
        assert_eq!(response.headers().get_all("Vary").collect::<Vec<_>>(), ["Accept"]);
        assert_eq!(request.preferred_language(&["en", "de"]), Some("de"), "the list may be in two lines");
        (0..2).for_each(|_| vary(&mut request, &mut response));
        assert_eq!(response.headers().get_all("Vary").collect::<Vec<_>>(), ["Accept", "Accept-Language"]);
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(accept in any::<String>(), likely in r"[a-eé*;,=q\-. 01]{0,60}") {
            for accept in [accept, likely] {
                let language = chosen(&accept, &["de", "é-b", ""]);
                prop_assert!(language.is_none_or(|language| !language.is_empty() || accept.contains(['*', ',', ';']) || accept.trim().is_empty()));
            }
        }
    }
}
