//! Links and other texts that only this site can make: encrypted values that expire.
//!
//! ```
//! use std::time::Duration;
//!
//! use aside::{Mail, Request, Result, token};
//!
//! fn send_link(email: &str) -> Result<()> {
//!     let link = token::link("/confirm", &email, Duration::from_secs(3600))?;
//!     Mail::to(email).subject("Please confirm your address").text(link).send();
//!     Ok(())
//! }
//!
//! /// POST /confirm
//! fn confirm(req: &mut Request) -> Result<String> {
//!     let email: String = token::open_link(req)?; // 403 if it is invalid or has expired
//!     Ok(format!("{email} is confirmed."))
//! }
//! ```
//!
//! A token is a text of URL-safe letters that holds its value, encrypted with the first key of `ASIDE_SECRET` and readable with
//! all of them. Nothing is stored, so that a token can be used until it expires. For a link that works once, put something into
//! the value that its use changes, such as a counter in the user's row, and compare it when the token comes back.
//!
//! Programs that check mail for malware open its links: let the page of the link have a button, and act on its POST.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::keys::{Keys, seconds};
use crate::background::scope::Context;
use crate::error::{Error, OrHere, Result};
use crate::http::request::Request;
use crate::http::url_for::absolute_url;

/// Returns a token that holds a value, for one purpose and a limited time. See the [module](self).
///
/// A token of one purpose is not valid for another one. A value of 100 bytes of JSON makes a token of about 220 letters.
///
/// # Errors
/// 500 if the value cannot be written as JSON, or if this thread does not work for an application.
#[track_caller]
pub fn create(purpose: &str, value: &impl Serialize, lifetime: Duration) -> Result<String> {
    let keys = keys().or_here()?;
    let until = keys.now().saturating_add(seconds(lifetime));
    let text = serde_json::to_string(&(until, value)).map_err(Error::from).or_here()?;
    keys.seal_text(&name(purpose), &text).or_here()
}

/// Returns the value of a token that was created for the same purpose.
///
/// # Errors
/// 403 if the token has expired, was changed, is of another purpose, or holds a value of another type; 500 if this thread does
/// not work for an application.
#[track_caller]
pub fn open<T: DeserializeOwned>(purpose: &str, token: &str) -> Result<T> {
    let keys = keys().or_here()?;
    let text = keys.open(&name(purpose), token);
    let read = text.and_then(|text| serde_json::from_str::<(i64, T)>(&text).ok());
    match read {
        Some((until, value)) if keys.now() < until => Ok(value),
        _ => Err(Error::forbidden("This link is invalid or has expired.")).or_here(),
    }
}

/// Returns the absolute URL of a path, with a token in its query: for a link in a mail. Only a request to the same path opens it
/// ([`open_link`]).
///
/// The token is in the query, which the log of requests does not have.
///
/// # Errors
/// The errors of [`create`] and of [`absolute_url`](crate::absolute_url).
#[track_caller]
pub fn link(path: &str, value: &impl Serialize, lifetime: Duration) -> Result<String> {
    let token = create(path, value, lifetime).or_here()?;
    absolute_url(&format!("{path}?token={token}")).or_here()
}

/// Returns the value of the [`link`] that the request came by. The form of a page at such a link sends its POST there too, if it
/// has no `action`.
///
/// # Errors
/// 403 if the query has no token, if the token is invalid or has expired, or if it holds a value of another type.
#[track_caller]
pub fn open_link<T: DeserializeOwned>(req: &Request) -> Result<T> {
    let pairs = req.query_pairs().or_here()?;
    let token = pairs.into_iter().find(|(name, _)| name == "token").unwrap_or_default().1;
    open(req.path(), &token).or_here()
}

/// Returns the name under which the keys seal a token. No cookie has it, since the name of a cookie has no space.
fn name(purpose: &str) -> String {
    format!("token {purpose}")
}

fn keys() -> Result<std::sync::Arc<Keys>> {
    let no_keys = || Error::internal("a token needs an application: call this in a handler, a task or a job");
    Context::current().scope.get::<Keys>().ok_or_else(no_keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::App;
    use crate::config::Config;
    use crate::testing::TestClient;

    const HOUR: Duration = Duration::from_secs(3600);

    fn client() -> TestClient {
        TestClient::new(App::with_config(Config::default()))
    }

    fn is_valid<T: DeserializeOwned>(client: &TestClient, purpose: &str, token: &str) -> bool {
        client.within(|| match open::<T>(purpose, token) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!(error.status_code().code(), 403);
                false
            }
        })
    }

    #[test]
    fn a_token_holds_its_value_for_its_purpose_only() {
        let client = client();
        let token = client.within(|| create("reset", &(17, "Анна"), HOUR)).unwrap();
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{token}");
        let value = client.within(|| open::<(u64, String)>("reset", &token)).unwrap();
        assert_eq!(value, (17, "Анна".to_owned()));
        assert!(!is_valid::<(u64, String)>(&client, "login", &token));
        assert!(!is_valid::<u64>(&client, "reset", &token), "another type");
    }

    #[test]
    fn an_expired_token_is_refused() {
        let mut client = client();
        let token = client.within(|| create("reset", &17, HOUR)).unwrap();
        client.advance(HOUR - Duration::from_secs(2));
        assert!(is_valid::<u64>(&client, "reset", &token));
        client.advance(Duration::from_secs(3));
        assert!(!is_valid::<u64>(&client, "reset", &token));
        let forever = client.within(|| create("unsubscribe", &17, Duration::MAX)).unwrap();
        assert!(is_valid::<u64>(&client, "unsubscribe", &forever));
    }

    #[test]
    fn a_changed_token_and_that_of_another_application_are_refused() {
        let (client, other) = (client(), client());
        let token = client.within(|| create("reset", &17, HOUR)).unwrap();
        assert!(!is_valid::<u64>(&other, "reset", &token));
        for changed in ["", "x", &token[1..], &format!("{token}A"), &token.to_uppercase()] {
            assert!(!is_valid::<u64>(&client, "reset", changed), "{changed}");
        }
    }

    #[test]
    fn a_link_opens_at_its_own_path_only() {
        let show = |req: &mut Request| open_link::<String>(req);
        let app = App::with_config(Config::default()).get("/reset", show).get("/login", show);
        let mut client = TestClient::new(app);
        let link = client.within(|| link("/reset", &"Анна", HOUR)).unwrap();
        assert!(link.starts_with("http://127.0.0.1:8000/reset?token="), "{link}");
        assert_eq!(client.get(&link).text(), "Анна");
        for refused in [&link.replace("/reset", "/login"), &link[..60], "/reset?token=", "/reset"] {
            assert_eq!(client.get(refused).status_code().code(), 403, "{refused}");
        }
    }

    #[test]
    fn without_an_application_the_error_says_so() {
        assert!(create("reset", &17, HOUR).unwrap_err().to_string().contains("needs an application"));
    }
}
