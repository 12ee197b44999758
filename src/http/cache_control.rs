//! The cache directives of a response, and how they are narrowed if the response turns out to be for one client (RFC
//! 9111, section 5.2.2).

use super::headers::Headers;

/// The header that all caches read.
pub(crate) const CACHE_CONTROL: &str = "Cache-Control";

/// Returns true if the response allows shared caches to store it.
pub(crate) fn is_shared(headers: &Headers) -> bool {
    let lines: Vec<&str> = headers.get_all(CACHE_CONTROL).collect();
    let mut names = lines.iter().flat_map(|line| directives(line)).map(name);
    names.any(|name| matches!(name.as_str(), "public" | "s-maxage"))
}

/// Forbids shared caches to store the response. The browser's lifetime is unchanged.
pub(crate) fn make_private(headers: &mut Headers) {
    // These headers are for certain caches only, and override `Cache-Control` there (RFC 9213).
    let targeted = |name: &str| {
        let name = name.to_ascii_lowercase();
        name == "surrogate-control" || name.ends_with("cdn-cache-control")
    };
    let targeted: Vec<String> =
        headers.iter().map(|(name, _)| name).filter(|name| targeted(name)).map(str::to_owned).collect();
    targeted.iter().for_each(|name| headers.remove(name));
    let lines: Vec<&str> = headers.get_all(CACHE_CONTROL).collect();
    let all: Vec<&str> = lines.iter().flat_map(|line| directives(line)).collect();
    let is_private =
        all.iter().any(|directive| matches!(directive.to_ascii_lowercase().as_str(), "private" | "no-store"));
    let is_for_others =
        |directive: &&str| matches!(name(directive).as_str(), "public" | "s-maxage" | "proxy-revalidate");
    let kept: Vec<&str> = all.iter().copied().filter(|directive| !is_for_others(directive)).collect();
    if is_private && kept.len() == all.len() {
        return;
    }
    let first = if is_private { None } else { Some("private") };
    let value = first.into_iter().chain(kept).collect::<Vec<_>>().join(", ");
    headers.put(CACHE_CONTROL, value);
}

/// Forbids every cache, including the browser's, to store the response.
pub(crate) fn forbid_storing(headers: &mut Headers) {
    make_private(headers);
    headers.put(CACHE_CONTROL, "private, no-store");
}

/// Forbids caches to store a response for one request only that has no cache directives: an error, a temporary
/// redirect, a response to `OPTIONS`. Caches may otherwise store some errors heuristically (RFC 9111, section 4.2.2).
pub(crate) fn complete(headers: &mut Headers, status: u16, is_for_options: bool) {
    let is_for_once = is_for_options || matches!(status, 302 | 303 | 307 | 400..);
    if is_for_once && !headers.contains(CACHE_CONTROL) && !headers.contains("Expires") {
        headers.put(CACHE_CONTROL, "no-store");
    }
}

/// Adds a request header to `Vary`, unless it has it already.
pub(crate) fn add_vary(headers: &mut Headers, header: &'static str) {
    let varies = |value: &str| {
        value.split(',').any(|name| matches!(name.trim(), "*") || name.trim().eq_ignore_ascii_case(header))
    };
    if !headers.get_all("Vary").any(varies) {
        headers.add("Vary", header);
    }
}

/// Returns the directives of a line. A comma inside quotes does not separate: `private="Set-Cookie, Age"`.
fn directives(line: &str) -> Vec<&str> {
    let mut is_quoted = false;
    let parts = line.split(move |letter| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    });
    parts.map(str::trim).filter(|directive| !directive.is_empty()).collect()
}

fn name(directive: &str) -> String {
    directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_for_one_request_are_not_stored_by_default() {
        let completed = |status, is_for_options, sent: &[(&str, &str)]| {
            let mut headers = Headers::from_iter(sent.iter().copied());
            complete(&mut headers, status, is_for_options);
            headers.get(CACHE_CONTROL).map(str::to_owned)
        };
        let no_store = Some("no-store".to_owned());
        for status in [302, 303, 307, 400, 404, 405, 410, 414, 416, 500, 501, 599] {
            assert_eq!(completed(status, false, &[]), no_store, "{status}");
        }
        for status in [200, 204, 206, 301, 304, 308] {
            assert_eq!(completed(status, false, &[]), None, "{status}");
        }
        assert_eq!(completed(204, true, &[]), no_store);
        let kept = completed(404, false, &[("cache-control", "max-age=60")]);
        assert_eq!(kept.as_deref(), Some("max-age=60"));
        assert_eq!(completed(404, false, &[("Expires", "Thu, 01 Jan 2099 00:00:00 GMT")]), None);
    }

    #[test]
    fn a_public_response_becomes_private_and_keeps_its_max_age() {
        for (sent, is_shared_first, then) in [
            ("", false, "private"),
            ("public, max-age=31536000, immutable", true, "private, max-age=31536000, immutable"),
            ("max-age=60", false, "private, max-age=60"),
            ("Public,s-maxage=5 , max-age=60", true, "private, max-age=60"),
            ("no-cache", false, "private, no-cache"),
            ("private, max-age=5", false, "private, max-age=5"),
            ("private, public", true, "private"),
            ("no-store", false, "no-store"),
            ("private=\"set-cookie, public\", max-age=5", false, "private, private=\"set-cookie, public\", max-age=5"),
        ] {
            let mut headers = Headers::from_iter([("Cache-Control", sent)]);
            assert_eq!(is_shared(&headers), is_shared_first, "{sent}");
            make_private(&mut headers);
            assert_eq!(headers.get("Cache-Control"), Some(then), "{sent}");
            assert!(!is_shared(&headers));
        }
    }

    #[test]
    fn repeated_and_cache_specific_headers_are_recognized() {
        let lines = [("Cache-Control", "max-age=5"), ("cache-control", "public"), ("CDN-Cache-Control", "max-age=60")];
        let mut headers = Headers::from_iter(lines);
        assert!(is_shared(&headers));
        make_private(&mut headers);
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("Cache-Control", "private, max-age=5")]);
        forbid_storing(&mut headers);
        assert_eq!(headers.get("Cache-Control"), Some("private, no-store"));
    }
}
