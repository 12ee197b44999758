//! URLs from the names of routes, so that links follow when a page moves.

use std::collections::BTreeMap;
use std::fmt::Display;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::request::Request;
use crate::background::scope::Context;
use crate::config::Config;
use crate::error::{Error, OrHere, Result};
use crate::nearest::did_you_mean;

/// The characters that are encoded in a segment of a path (RFC 3986, section 3.3).
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'!')
    .remove(b'$')
    .remove(b'&')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'*')
    .remove(b'+')
    .remove(b',')
    .remove(b';')
    .remove(b'=')
    .remove(b':')
    .remove(b'@');

/// The characters that are encoded in a parameter of several segments.
const PATH: &AsciiSet = &SEGMENT.remove(b'/');

/// The paths of the named routes.
#[derive(Default)]
pub(crate) struct Urls(BTreeMap<String, String>);

impl FromIterator<(String, String)> for Urls {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(named: I) -> Urls {
        Urls(named.into_iter().collect())
    }
}

impl Urls {
    /// Returns the path of a route with its parameters filled in; parameters that the route does not have become the
    /// query.
    ///
    /// # Errors
    /// 500 if no route has this name, or if a parameter is missing or invalid in a path.
    pub(crate) fn build(&self, name: &str, mut params: Vec<(&str, String)>) -> Result<String> {
        let unknown = || {
            let hint = did_you_mean(name, self.0.keys().map(String::as_str));
            let remedy = "name it with `.route(path, get(handler).name(name))`";
            Error::internal(format!("no route is named `{name}`: {remedy}{hint}"))
        };
        let mut rest = self.0.get(name).ok_or_else(unknown)?.as_str();
        let mut url = String::with_capacity(rest.len() + 16);
        while let Some(at) = rest.find(['{', '}']) {
            url.push_str(&rest[..at]);
            rest = &rest[at..];
            rest = match rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                Some(after) => {
                    // A doubled brace is a literal one, as in the router.
                    url.push_str(if rest.starts_with('{') { "%7B" } else { "%7D" });
                    after
                }
                None => fill(&mut url, name, rest, &mut params)?,
            };
        }
        url.push_str(rest);
        if !params.is_empty() {
            url.push('?');
            url.push_str(&serde_urlencoded::to_string(params)?);
        }
        Ok(url)
    }
}

/// Writes the parameter at the start of `rest`, and returns the rest after it.
fn fill<'p>(url: &mut String, name: &str, rest: &'p str, params: &mut Vec<(&str, String)>) -> Result<&'p str> {
    let (param, after) = rest[1..].split_once('}').unwrap_or((&rest[1..], ""));
    let (param, set) = param.strip_prefix('*').map_or((param, SEGMENT), |param| (param, PATH));
    let at = params.iter().position(|(key, _)| *key == param);
    let at = at.ok_or_else(|| Error::internal(format!("url_for(`{name}`): the parameter `{param}` is missing")))?;
    let (_, value) = params.remove(at);
    if value.is_empty() || value.split('/').any(|part| matches!(part, "." | "..")) {
        let message = format!("url_for(`{name}`): `{value}` is not valid in a path, for the parameter `{param}`");
        return Err(Error::internal(message));
    }
    url.extend(utf8_percent_encode(&value, set));
    Ok(after)
}

impl Request {
    /// Returns the path of the route with this name; in templates `{{ url_for("photo", id=17) }}`.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::routing::get;
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// fn upload(req: &mut Request) -> Result<Response> {
    ///     Ok(redirect(&req.url_for("photo", &[("id", &17), ("from", &"upload")])?))
    /// }
    ///
    /// let app = App::new()
    ///     .post("/photos", upload)
    ///     .route("/photos/{id}", get(|req: &mut Request| req.param::<String>("id")).name("photo"));
    /// assert_eq!(TestClient::new(app).post("/photos").send().location(), Some("/photos/17?from=upload"));
    /// ```
    ///
    /// Parameters of the route are percent-encoded; others become the query.
    ///
    /// # Errors
    /// 500 if no route has this name, or if a parameter of the route is missing, empty, or `.` or `..`.
    #[track_caller]
    pub fn url_for(&self, name: &str, params: &[(&str, &dyn Display)]) -> Result<String> {
        let params = params.iter().map(|(name, value)| (*name, value.to_string())).collect();
        self.scope().get::<Urls>().unwrap_or_default().build(name, params).or_here()
    }
}

/// The site's own URL, without a slash at its end; `None` if it is not known.
pub(crate) struct SiteUrl(Option<String>);

impl SiteUrl {
    /// Returns the URL of the settings. In development without one, it is that of the address.
    pub(crate) fn new(config: &Config) -> SiteUrl {
        let of_address = || match config.address.starts_with("unix:") {
            true => "http://localhost".to_owned(),
            false => format!("http://{}", config.address),
        };
        let url = config.url.clone().or_else(|| config.is_development().then(of_address));
        SiteUrl(url.map(|url| url.trim_end_matches('/').to_owned()))
    }

    /// Returns the path with the query of a URL of this site, and any other text as it is.
    pub(crate) fn target<'u>(&self, url: &'u str) -> &'u str {
        let rest = self.0.as_deref().and_then(|own| url.strip_prefix(own));
        rest.filter(|rest| rest.starts_with('/')).unwrap_or(url)
    }
}

/// Returns the URL of a path of this site, for a link in a mail or a feed.
///
/// ```
/// use aside::{Mail, Request, Result, absolute_url};
///
/// fn order(req: &mut Request) -> Result<()> {
///     let link = absolute_url(&req.url_for("order", &[("id", &17)])?)?; // https://shop.example.org/orders/17
///     Mail::to("ada@example.org").subject("Your order").text(link).send();
///     Ok(())
/// }
/// ```
///
/// It begins with `ASIDE_URL`. The `Host` header of the request is not used, since a client chooses it: a link in a mail would
/// lead to the client's own site. In development without `ASIDE_URL`, it begins with `ASIDE_ADDR`.
///
/// # Errors
/// 500 if the path does not begin with one `/`, if `ASIDE_URL` is not set in production, or if this thread does not work for an
/// application.
#[track_caller]
pub fn absolute_url(path: &str) -> Result<String> {
    let url = Context::current().scope.get::<SiteUrl>();
    let no_application = "an absolute URL needs an application: call this in a handler, a task or a job";
    let url = url.ok_or_else(|| Error::internal(no_application)).or_here()?;
    let is_local = path.starts_with('/') && !path.starts_with("//");
    match &url.0 {
        Some(url) if is_local => Ok(format!("{url}{path}")),
        Some(_) => Err(Error::internal(format!("`{path}` is not a path of this site: it must begin with one `/`"))),
        None => Err(Error::internal("set ASIDE_URL, with which absolute URLs begin, such as https://shop.example.org")),
    }
    .or_here()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::App;
    use crate::config::Mode;
    use crate::testing::TestClient;

    fn absolute(config: Config, path: &str) -> Result<String> {
        TestClient::new(App::with_config(config)).within(|| absolute_url(path))
    }

    #[test]
    fn an_absolute_url_begins_with_the_setting() {
        let config = |url: &str| Config { url: Some(url.into()), ..Config::default() };
        for url in ["https://shop.example.org", "https://shop.example.org/"] {
            assert_eq!(absolute(config(url), "/a?b=c").unwrap(), "https://shop.example.org/a?b=c");
        }
        assert_eq!(absolute(Config::default(), "/a").unwrap(), "http://127.0.0.1:8000/a");
        for path in ["", "a", "//other.example/", "https://other.example/"] {
            assert!(absolute(Config::default(), path).unwrap_err().to_string().contains("must begin with one `/`"));
        }
    }

    #[test]
    fn in_production_an_absolute_url_needs_the_setting() {
        let secrets = vec!["a secret of more than 32 bytes for tests".to_owned()];
        let config = Config { mode: Mode::Production, secrets, ..Config::default() };
        assert!(absolute(config, "/a").unwrap_err().to_string().contains("ASIDE_URL"));
    }

    fn build(pattern: &str, params: &[(&str, &str)]) -> Result<String> {
        let urls = Urls::from_iter([("it".to_owned(), pattern.to_owned())]);
        urls.build("it", params.iter().map(|(name, value)| (*name, value.to_string())).collect())
    }

    #[test]
    fn parameters_are_filled_in_and_the_rest_is_the_query() {
        for (pattern, params, url) in [
            ("/", &[][..], "/"),
            ("/photos/{id}/{size}.jpg", &[("size", "800"), ("id", "17")], "/photos/17/800.jpg"),
            ("/p/{id}", &[("id", "a/b?c d%"), ("page", "2"), ("q", "ä&")], "/p/a%2Fb%3Fc%20d%25?page=2&q=%C3%A4%26"),
            ("/f/{*rest}", &[("rest", "a/б c")], "/f/a/%D0%B1%20c"),
            ("/{{x}}/{id}", &[("id", "1")], "/%7Bx%7D/1"),
        ] {
            assert_eq!(build(pattern, params).unwrap(), url);
        }
    }

    #[test]
    fn an_invalid_parameter_is_an_error_that_names_it() {
        for (pattern, params, message) in [
            ("/p/{id}", &[][..], "`id` is missing"),
            ("/p/{id}", &[("id", "")], "is not valid in a path"),
            ("/p/{id}", &[("id", "..")], "`..` is not valid"),
            ("/p/{*rest}", &[("rest", "a/../b")], "is not valid"),
        ] {
            assert!(build(pattern, params).unwrap_err().to_string().contains(message));
        }
        let message = Urls::default().build("gone", Vec::new()).unwrap_err().to_string();
        assert!(message.contains("`gone`") && message.contains(".name(name)"), "{message}");
    }
}
