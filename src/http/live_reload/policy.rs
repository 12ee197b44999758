//! The Content-Security-Policy of a page with the script for live reload.

/// Returns the policy with the script's nonce, and with the port of its event stream.
pub(super) fn allow(policy: &str, nonce: &str, port: u16) -> String {
    let mut directives: Vec<String> =
        policy.split(';').map(|directive| directive.trim().to_owned()).filter(|text| !text.is_empty()).collect();
    let of_script = format!("'nonce-{nonce}'");
    add(&mut directives, "script-src", &of_script);
    // It has precedence for elements.
    if directives.iter().any(|directive| is_named(directive, "script-src-elem")) {
        add(&mut directives, "script-src-elem", &of_script);
    }
    add(&mut directives, "connect-src", &format!("http://*:{port}"));
    directives.join("; ")
}

/// Adds a source to a directive. Without it, the sources of `default-src` count, and without both all sources are allowed.
fn add(directives: &mut Vec<String>, name: &str, source: &str) {
    let find = |name: &str| directives.iter().position(|directive| is_named(directive, name));
    let Some(at) = find(name).or_else(|| find("default-src")) else { return };
    let is_default = !is_named(&directives[at], name);
    let sources: Vec<&str> = directives[at].split_whitespace().skip(1).collect();
    // Scripts of the page may depend on `'unsafe-inline'`, which a nonce or a hash switches off.
    let has_inline = sources.contains(&"'unsafe-inline'") && !sources.iter().any(|source| is_nonce_or_hash(source));
    let is_allowed = sources.contains(&source) || (has_inline && name != "connect-src");
    if is_allowed {
        return;
    }
    let kept = sources.into_iter().filter(|source| !source.eq_ignore_ascii_case("'none'"));
    let changed = [name].into_iter().chain(kept).chain([source]).collect::<Vec<_>>().join(" ");
    match is_default {
        true => directives.push(changed),
        false => directives[at] = changed,
    }
}

fn is_nonce_or_hash(source: &str) -> bool {
    ["'nonce-", "'sha256-", "'sha384-", "'sha512-"].iter().any(|start| source.starts_with(start))
}

fn is_named(directive: &str, name: &str) -> bool {
    directive.split_whitespace().next().is_some_and(|own| own.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_added_to_the_directive_that_counts() {
        let with = |policy| allow(policy, "abc", 8001);
        assert_eq!(
            with("script-src 'self'; connect-src 'none'"),
            "script-src 'self' 'nonce-abc'; connect-src http://*:8001"
        );
        assert_eq!(
            with("default-src 'none'; img-src *;"),
            "default-src 'none'; img-src *; script-src 'nonce-abc'; connect-src http://*:8001"
        );
        assert_eq!(with("script-src 'nonce-abc'; connect-src http://*:8001").matches("abc").count(), 1);
        assert_eq!(with("script-src-elem 'self'"), "script-src-elem 'self' 'nonce-abc'");
        assert_eq!(with("frame-ancestors 'none'"), "frame-ancestors 'none'");
        assert_eq!(with(""), "");
    }

    #[test]
    fn inline_scripts_of_a_page_stay_allowed() {
        assert_eq!(allow("script-src 'self' 'unsafe-inline'", "abc", 8001), "script-src 'self' 'unsafe-inline'");
        let with_hash = "script-src 'unsafe-inline' 'sha256-abc='";
        assert_eq!(allow(with_hash, "abc", 8001), format!("{with_hash} 'nonce-abc'"), "it is switched off already");
    }
}
