//! The content codings that a client accepts (RFC 9110, section 12.5.3).

use std::cmp::Reverse;

use crate::http::headers::{self, Headers};

/// A content coding, with its name in headers and the ending of a file that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coding {
    pub(crate) name: &'static str,
    pub(crate) ending: &'static str,
}

/// The codings of precompressed files, the smallest first.
pub(crate) const CODINGS: [Coding; 3] =
    [Coding { name: "br", ending: ".br" }, Coding { name: "zstd", ending: ".zst" }, GZIP];

pub(crate) const GZIP: Coding = Coding { name: "gzip", ending: ".gz" };

/// Returns true if content of this media type becomes much smaller by compression: text under any name.
pub(crate) fn is_compressible(content_type: &str) -> bool {
    let name = content_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let (kind, subtype) = name.split_once('/').unwrap_or(("", ""));
    match kind {
        "text" => subtype != "event-stream",
        "application" | "image" => {
            matches!(subtype, "json" | "javascript" | "xml" | "wasm" | "manifest+json" | "x-ndjson" | "rtf")
                || subtype.ends_with("+json")
                || subtype.ends_with("+xml")
        }
        "font" => matches!(subtype, "ttf" | "otf"),
        _ => false,
    }
}

/// The codings that a request accepts, each with its weight in thousandths.
pub(crate) struct Accepted<'r>(Vec<(&'r str, u16)>);

impl<'r> Accepted<'r> {
    /// Reads the headers. A client without `Accept-Encoding` may accept any coding, but gets the unencoded file, which
    /// every client understands.
    pub(crate) fn of(headers: &'r Headers) -> Accepted<'r> {
        let members = headers.get_all("Accept-Encoding").flat_map(|value| value.split(','));
        Accepted(members.map(member).filter(|(coding, _)| !coding.is_empty()).collect())
    }

    /// Returns the coding with the greatest weight, if it is at least that of the unencoded file. Of several with the
    /// same weight, the first.
    pub(crate) fn choose(&self, codings: impl Iterator<Item = Coding>) -> Option<Coding> {
        let identity = self.weight("identity");
        let acceptable = codings.map(|coding| (coding, self.weight(coding.name)));
        let acceptable = acceptable.filter(|(_, weight)| *weight > 0 && *weight >= identity);
        acceptable.min_by_key(|(_, weight)| Reverse(*weight)).map(|(coding, _)| coding)
    }

    /// Returns the weight of a coding, 0 if it is refused or not named. This includes `identity`, which is used only if
    /// no other is accepted.
    fn weight(&self, coding: &str) -> u16 {
        let of =
            |name: &str| self.0.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, weight)| *weight);
        of(coding).or_else(|| of("*")).unwrap_or(0)
    }
}

/// Parses a coding and its weight. A malformed weight counts as refused.
fn member(text: &str) -> (&str, u16) {
    let (coding, weight) = match text.split_once(';') {
        Some((coding, weight)) => (coding, qvalue(weight.trim()).unwrap_or(0)),
        None => (text, 1_000),
    };
    match coding.trim() {
        old if old.eq_ignore_ascii_case("x-gzip") => ("gzip", weight),
        coding => (coding, weight),
    }
}

/// Parses `q=0.5` into thousandths.
fn qvalue(text: &str) -> Option<u16> {
    headers::weight(text.strip_prefix(['q', 'Q'])?.strip_prefix('=')?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &str, available: &[&str]) -> &'static str {
        let headers = Headers::from_iter([("Accept-Encoding", accept)]);
        let available = CODINGS.into_iter().filter(|coding| available.contains(&coding.name));
        Accepted::of(&headers).choose(available).map_or("identity", |coding| coding.name)
    }

    #[test]
    fn the_greatest_weight_wins_and_then_the_smallest_form() {
        let all = &["br", "zstd", "gzip"];
        for (accept, expected) in [
            ("gzip, deflate, br, zstd", "br"),
            ("gzip, zstd", "zstd"),
            ("GZIP", "gzip"),
            ("x-gzip", "gzip"),
            ("br;q=0.5, gzip;q=0.8", "gzip"),
            ("br ; q=0.001", "br"),
            ("br;Q=1.000,gzip;q=1.", "br"),
            ("*", "br"),
            ("*;q=0.1, br;q=0", "zstd"),
            ("br;q=0, *;q=0", "identity"),
            ("gzip;q=0.5, identity", "identity"),
            ("gzip;q=0.5, identity;q=0.4", "gzip"),
            ("gzip;q=0.5, *;q=0.4, br;q=0, zstd;q=0", "gzip"),
            ("gzip, identity", "gzip"),
            ("identity;q=0", "identity"),
            ("identity;q=0, gzip;q=0.001", "gzip"),
            ("deflate", "identity"),
            (",, ,gzip,", "gzip"),
            ("", "identity"),
        ] {
            assert_eq!(chosen(accept, all), expected, "{accept:?}");
        }
        assert_eq!(chosen("br, gzip", &["gzip"]), "gzip");
        assert_eq!(chosen("br", &["gzip"]), "identity");
        assert_eq!(chosen("br", &[]), "identity");
    }

    #[test]
    fn a_malformed_weight_counts_as_refused() {
        for weight in
            ["", "q", "q=", "q=2", "q=1.001", "q=0.1234", "q=-1", "q=.5", "q=0,5", "q=NaN", "x=1", "q=+1", "q=1e0"]
        {
            assert_eq!(chosen(&format!("br;{weight}"), &["br"]), "identity", "{weight}");
        }
        assert!(Accepted::of(&Headers::new()).choose(CODINGS.into_iter()).is_none());
    }
}
