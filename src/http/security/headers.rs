//! The security headers, which are added to every response that does not have its own.
//!
//! They follow the OWASP Secure Headers Project and Mozilla's HTTP Observatory. The browser loads nothing from other
//! origins, other sites cannot frame a page, and they get no full referrer. Scripts and styles run if they are files of
//! the site or carry the response's nonce.

use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, Result};
use crate::http::cache_control;
use crate::http::headers::Headers;
use crate::http::request::Request;
use crate::http::response::Response;
use crate::random;

/// The default policy. `'nonce-{nonce}'` is replaced by the response's nonce, and removed if no template has used one.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; object-src 'none'; script-src 'self' 'nonce-{nonce}'; \
     style-src 'self' 'nonce-{nonce}'; img-src 'self' data:; font-src 'self'; media-src 'self'; connect-src 'self'; \
     manifest-src 'self'; worker-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const DEFAULTS: [(&str, &str); 6] = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "strict-origin-when-cross-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
];

const CSP: &str = "Content-Security-Policy";
const HSTS: &str = "Strict-Transport-Security";

/// One year, and all subdomains (RFC 6797; OWASP ASVS 5, 3.4.1).
const ONE_YEAR: &str = "max-age=31536000; includeSubDomains";

/// The nonce in the text of a policy.
const NONCE: &str = " 'nonce-{nonce}'";

/// The default headers of an application.
pub(crate) struct Policy {
    headers: Headers,
    /// The policy with the placeholder of the nonce.
    csp: String,
    /// The policy of a page without a nonce.
    csp_without_nonce: String,
    hsts: String,
}

impl Default for Policy {
    fn default() -> Policy {
        let mut policy = Policy {
            headers: Headers::from(&DEFAULTS[..]),
            csp: String::new(),
            csp_without_nonce: String::new(),
            hsts: ONE_YEAR.to_owned(),
        };
        policy.set_csp(CONTENT_SECURITY_POLICY.to_owned());
        policy
    }
}

impl Policy {
    /// Changes a default header. An empty value removes it.
    ///
    /// # Errors
    /// 500 if the header is invalid, or not meant for every response.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<()> {
        Headers::check(name, value).map_err(|error| error.context("App::default_header"))?;
        if name.eq_ignore_ascii_case("Content-Length") || name.eq_ignore_ascii_case("Set-Cookie") {
            return Err(Error::internal(format!("App::default_header: {name} is not a header for every response")));
        }
        if name.eq_ignore_ascii_case(CSP) {
            self.set_csp(value.to_owned());
        } else if name.eq_ignore_ascii_case(HSTS) {
            self.hsts = value.to_owned();
        } else if value.is_empty() {
            self.headers.remove(name);
        } else {
            self.headers.set(name, value);
        }
        Ok(())
    }

    fn set_csp(&mut self, csp: String) {
        self.csp_without_nonce = csp.replace(NONCE, "");
        self.csp = csp;
    }

    /// Adds the headers that the response does not have.
    pub(crate) fn apply(&self, request: &Request, response: &mut Response) {
        let headers = &mut response.headers;
        headers.complete(&self.headers);
        match request.nonce().get() {
            Some(nonce) => {
                add(headers, CSP, &self.csp.replace("{nonce}", nonce));
                // A nonce that a shared cache gives to all clients can be known in advance.
                cache_control::make_private(headers);
            }
            None => add(headers, CSP, &self.csp_without_nonce),
        }
        if request.is_https() {
            add(headers, HSTS, &self.hsts);
        }
    }
}

fn add(headers: &mut Headers, name: &'static str, value: &str) {
    if !value.is_empty() && !headers.contains(name) {
        headers.add(name, value.to_owned());
    }
}

impl Request {
    /// Returns the nonce for an inline `<script>` or `<style>` of this response; in templates `<script nonce="{{
    /// csp_nonce }}">` (Content Security Policy 3, section 2.3).
    ///
    /// It has 128 random bits, created at the first call. Only then does the header contain the nonce, and the response
    /// becomes `private`: a shared cache would give all clients the same nonce.
    ///
    /// ```
    /// use aside::{Html, Request};
    ///
    /// fn page(req: &mut Request) -> Html<String> {
    ///     Html(format!("<script nonce=\"{}\">console.log('here')</script>", req.csp_nonce()))
    /// }
    /// ```
    pub fn csp_nonce(&self) -> String {
        nonce_value(self.nonce()).to_owned()
    }
}

/// Returns the nonce, and creates it at the first call.
pub(crate) fn nonce_value(nonce: &OnceLock<String>) -> &str {
    nonce.get_or_init(|| {
        // A guessable nonce would allow the scripts that it must block, so none is used instead.
        match random::bytes::<16>() {
            Ok(bytes) => URL_SAFE_NO_PAD.encode(bytes),
            Err(error) => {
                log::error!(
                    target: "aside::http",
                    "Could not create a CSP nonce: {error}; the inline scripts and styles of this page are \
                     blocked"
                );
                String::new()
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::request::{Body, Client, Method};

    fn request(https: bool) -> Request {
        let mut request = Request::new(Method::Get, "/", Headers::new(), Body::empty());
        request.set_client(Client { https, ..Client::default() });
        request
    }

    fn applied(policy: &Policy, request: &Request, mut response: Response) -> Headers {
        policy.apply(request, &mut response);
        response.headers
    }

    #[test]
    fn defaults_do_not_replace_the_headers_of_a_response() {
        let response =
            Response::text("hi").header("x-frame-options", "SAMEORIGIN").header("Referrer-Policy", "no-referrer");
        let headers = applied(&Policy::default(), &request(false), response);
        assert_eq!(headers.get_all("X-Frame-Options").collect::<Vec<_>>(), ["SAMEORIGIN"]);
        assert_eq!(headers.get("Referrer-Policy"), Some("no-referrer"));
        assert_eq!(headers.get("X-Content-Type-Options"), Some("nosniff"));
        assert!(!headers.get(CSP).unwrap().contains("unsafe"), "{headers}");
    }

    #[test]
    fn the_policy_contains_the_nonce_if_it_is_used() {
        let (with, without) = (request(false), request(false));
        let nonce = with.csp_nonce();
        assert_eq!((nonce.len(), with.csp_nonce()), (22, nonce.clone()));
        let named = format!("script-src 'self' 'nonce-{nonce}'");
        assert!(applied(&Policy::default(), &with, Response::new()).get(CSP).unwrap().contains(&named));
        let plain = applied(&Policy::default(), &without, Response::new());
        assert!(plain.get(CSP).unwrap().contains("script-src 'self';"), "{plain}");
        assert_ne!(request(false).csp_nonce(), nonce);
    }

    #[test]
    fn strict_transport_security_is_sent_over_https_only() {
        let of = |https| applied(&Policy::default(), &request(https), Response::new());
        assert_eq!(of(true).get(HSTS), Some(ONE_YEAR));
        assert_eq!(of(false).get(HSTS), None);
    }

    #[test]
    fn defaults_can_be_changed_and_removed() {
        let mut policy = Policy::default();
        policy.set("x-frame-options", "").unwrap();
        policy.set("content-security-policy", "script-src 'nonce-{nonce}'").unwrap();
        policy.set("strict-transport-security", "max-age=60").unwrap();
        policy.set("X-Made-By", "aside").unwrap();
        let request = request(true);
        let csp = format!("script-src 'nonce-{}'", request.csp_nonce());
        let headers = applied(&policy, &request, Response::new());
        assert_eq!(headers.get(CSP), Some(csp.as_str()));
        assert_eq!((headers.get(HSTS), headers.get("X-Made-By")), (Some("max-age=60"), Some("aside")));
        assert!(!headers.contains("X-Frame-Options"));
        assert!(policy.set("X-A", "1\r\n2").is_err() && policy.set("set-cookie", "a=b").is_err());
    }
}
