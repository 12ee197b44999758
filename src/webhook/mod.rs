//! Webhooks, sent and received, by the Standard Webhooks specification (<https://www.standardwebhooks.com>).
//!
//! [`Webhook::send`] starts a task that posts signed JSON to a URL, and retries it with backoff if a later attempt may
//! succeed. A [`Webhook`] is a [`Job`] too: an enqueued webhook survives the process.
//! [`verify`] checks the signature of a webhook from another site.
//!
//! A URL that a user entered may lead anywhere, even into your own network (server-side request forgery): send to it with
//! [`Webhook::public_only`]. Other webhooks use the proxy that `HTTPS_PROXY` and `HTTP_PROXY` name.

mod fault;
mod job;
mod public;
mod signature;

use std::fmt;
use std::io::{self, Read as _};
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

pub use self::signature::{sign, verify};

use self::fault::{Fault, is_temporary};
use crate::background::handle::TaskHandle;
use crate::background::retry::Retry;
use crate::background::task::Task;
use crate::background::trace_context;
use crate::error::{Error, OrHere, Result};
use crate::http::headers::Headers;
use crate::jobs::Job;
use crate::random;
use crate::trust;

/// The number of attempts of a webhook task, and its first backoff.
const ATTEMPTS: u32 = 5;
const FIRST_BACKOFF: Duration = Duration::from_secs(2);

/// The time limits for connecting, and for one attempt as a whole.
const LIMITS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// The number of bytes of a response that are read. They are not used, but the connection can be reused only when the
/// response has been read.
const RESPONSE: u64 = 64 << 10;

/// A webhook to be sent or enqueued.
///
/// ```
/// use aside::Webhook;
///
/// #[derive(serde::Serialize)]
/// struct Paid {
///     order: u64,
/// }
///
/// # fn send(url: &str) {
/// Webhook::post(url)
///     .json(&Paid { order: 17 })
///     .secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
///     .send(); // returns at once
/// # }
/// ```
///
/// It has the headers `webhook-id`, which is the same for all attempts, and `webhook-timestamp`; with a secret also
/// `webhook-signature`. It also has `traceparent` ([W3C Trace Context](https://www.w3.org/TR/trace-context/)) with the
/// [trace](crate::Request::trace) of the request that the webhook comes from, unless [`header`](Webhook::header) sets it.
///
/// # Sent or enqueued
/// [`send`](Webhook::send) is a task: it costs nothing, and is lost if the process dies. Enqueue a webhook that a receiver
/// must not miss, with the application's [`Jobs`](crate::Jobs):
///
/// ```
/// use std::time::Duration;
///
/// use aside::{Job, Request, Result, Webhook};
///
/// fn paid(req: &mut Request) -> Result<&'static str> {
///     let webhook = Webhook::post("https://shop.example/hooks").json(&serde_json::json!({ "order": 17 }));
///     req.enqueue(webhook.clone())?; // stored when this returns
///     req.enqueue(webhook.id("order-17-feedback").delay(Duration::from_secs(24 * 3600)))?;
///     Ok("thank you")
/// }
/// ```
///
/// The job waits in its own queue `webhook`. An expired or untrusted certificate of the receiver is retried, since its
/// owner will renew it.
///
/// The job is attempted 90 times over about three days, under the same conditions as a sent webhook. It is dead after the
/// last attempt, or at once after a response such as 404 or 410. All attempts use the stored `webhook-id` and body; each
/// has its own timestamp and signature. If this process dies before it has recorded the response, a receiver may get the
/// webhook twice, and detects the duplicate by its `webhook-id`.
///
/// **The stored job holds the secret and the URL unencrypted**, in the jobs' file or in Redis: anyone with access to it can
/// sign in the site's name. The panel, the log and the failures do not show them. If this is not acceptable, enqueue your
/// own job, which reads the secret from the settings and calls [`send_now`](Webhook::send_now).
#[derive(Clone)]
#[must_use = "a webhook is not sent without `send` or `enqueue`"]
pub struct Webhook {
    url: String,
    id: String,
    body: Result<Vec<u8>, String>,
    secret: Option<Vec<u8>>,
    headers: Headers,
    public_only: bool,
    limits: (Duration, Duration),
}

impl Webhook {
    /// Creates a webhook to a URL, `http://` or `https://`; see [`public_only`](Webhook::public_only) for a URL from a
    /// user.
    pub fn post(url: impl Into<String>) -> Webhook {
        Webhook {
            url: url.into(),
            id: random_id(),
            body: Ok(Vec::new()),
            secret: None,
            headers: Headers::new(),
            public_only: false,
            limits: LIMITS,
        }
    }

    /// Sets the payload, and writes it as JSON at once.
    pub fn json(mut self, payload: &(impl Serialize + ?Sized)) -> Webhook {
        self.body = serde_json::to_vec(payload).map_err(|error| error.to_string());
        self
    }

    /// Sets the secret that the webhook is signed with: `whsec_` and base64, as in the specification, or any other bytes.
    /// The specification requires 24 to 64 bytes.
    pub fn secret(mut self, key: impl AsRef<[u8]>) -> Webhook {
        self.secret = Some(key.as_ref().to_vec());
        self
    }

    /// Sets the id of the event, by which the receiver detects a duplicate. The default is random.
    pub fn id(mut self, id: impl Into<String>) -> Webhook {
        self.id = id.into();
        self
    }

    /// Adds a header. The headers of the specification cannot be changed.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Webhook {
        self.headers.append(name, value);
        self
    }

    /// Connects only to public addresses: for a URL that a user entered, which may lead to your own machines.
    ///
    /// ```
    /// use aside::Webhook;
    ///
    /// # fn send(typed: &str) {
    /// Webhook::post(typed).json("paid").public_only().send();
    /// # }
    /// ```
    ///
    /// The addresses are checked at each connection, after name resolution: a name that changes in the meantime (DNS
    /// rebinding) has no effect. Loopback, private, link-local (such as the metadata services of clouds), shared
    /// (`100.64.0.0/10`), unique local, multicast, unspecified, reserved and documentation addresses are refused, also in
    /// the form of IPv4-mapped, NAT64 or 6to4 addresses. If a name has both kinds, the public ones are used.
    ///
    /// A refusal is final, and the job is dead at once: each retry would be another chance for an attacker who changes the
    /// name. If the name was wrong for a while, the job can be retried in the panel.
    ///
    /// No proxy is used, even if `HTTPS_PROXY` is set: it would connect without this check.
    pub fn public_only(mut self) -> Webhook {
        self.public_only = true;
        self
    }

    /// Sets the time limits for connecting, and for one attempt as a whole.
    #[cfg(test)]
    fn limits(mut self, connect: Duration, whole: Duration) -> Webhook {
        self.limits = (connect, whole);
        self
    }

    /// Sends the webhook in a background task. The handle may be dropped. The webhook is lost if the process dies:
    /// [enqueue](Webhook#sent-or-enqueued) a webhook that must not be lost.
    ///
    /// The task makes at most 5 attempts, with a backoff of 2 s, 4 s, 8 s and 16 s. It retries only faults that time can
    /// resolve: the receiver cannot be reached within 10 s, does not respond within 30 s, or responds with 408, 429 or 5xx.
    /// Any status except 2xx is a failure; redirects are not followed. The log names only the host of the receiver: the
    /// rest of the URL is often a secret.
    ///
    /// # Errors
    /// The method itself returns none. An invalid URL, a payload that cannot be written as JSON, an invalid header and a
    /// refusal by the receiver are failures of the task: the handle returns them, and they are logged.
    #[track_caller]
    pub fn send(self) -> TaskHandle<()> {
        let retry = Retry::exponential(ATTEMPTS, FIRST_BACKOFF).only_if(is_temporary);
        Task::named(self.task_name()).kind(<Webhook as Job>::NAME).retry(retry).spawn(move |_| self.deliver())
    }

    /// Sends the webhook now, on this thread, with one attempt.
    ///
    /// # Errors
    /// All errors that [`send`](Webhook::send) would log.
    #[track_caller]
    pub fn send_now(self) -> Result<()> {
        self.deliver().or_here()
    }

    /// Returns the name of the webhook in the log.
    fn task_name(&self) -> String {
        parse_url(&self.url).map_or("webhook".into(), |(_, host)| format!("webhook to {host}"))
    }

    /// Returns the payload.
    fn body(&self) -> Result<&[u8]> {
        let invalid = |message| {
            Error::internal(format!("the payload of the {} cannot be written as JSON: {message}", self.task_name()))
        };
        self.body.as_deref().map_err(invalid)
    }

    /// Makes one attempt, signed with the current time.
    fn deliver(&self) -> Result<()> {
        self.deliver_by(if self.public_only { public_agent() } else { agent() })
    }

    fn deliver_by(&self, agent: &ureq::Agent) -> Result<()> {
        let (url, host) = parse_url(&self.url)?;
        let body = self.body()?;
        let headers = self.signed_headers(body, Timestamp::now().as_second())?;
        let (connect, whole) = self.limits;
        let request = agent.post(url).config().timeout_connect(Some(connect)).timeout_global(Some(whole)).build();
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let response = request.send(body).map_err(|error| Fault::of_transport(&host, error))?;
        let status = response.status();
        // The outcome does not depend on whether the body can be read.
        let _ = io::copy(&mut response.into_body().into_reader().take(RESPONSE), &mut io::sink());
        if status.is_success() { Ok(()) } else { Err(Fault::of_status(&host, status.as_u16()).into()) }
    }

    fn signed_headers(&self, body: &[u8], timestamp: i64) -> Result<Headers> {
        if self.id.is_empty() {
            return Err(Error::internal("the id of the webhook is empty (`Webhook::id`)"));
        }
        let mut headers = self.headers.clone();
        if !headers.contains("Content-Type") {
            headers.set("Content-Type", "application/json");
        }
        let time = timestamp.to_string();
        for (name, value) in [("webhook-id", &self.id), ("webhook-timestamp", &time)] {
            headers.set(name, value);
        }
        headers.remove("webhook-signature");
        if let Some(secret) = &self.secret {
            headers.set("webhook-signature", sign(secret, &self.id, timestamp, body)?);
        }
        if !headers.contains(trace_context::HEADER)
            && let Some(parent) = trace_context::outgoing()
        {
            headers.set(trace_context::HEADER, parent);
        }
        headers.iter().try_for_each(|(name, value)| Headers::check(name, value))?;
        Ok(headers)
    }
}

/// Shows neither the secret nor the URL, which is often a secret too.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Returns the client of this process, which keeps connections for the next webhook. It has no thread; a name lookup with a
/// time limit takes one while it lasts.
fn agent() -> &'static ureq::Agent {
    static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| settings().build().new_agent());
    &AGENT
}

/// Returns the client for webhooks to public addresses, with its own connections.
fn public_agent() -> &'static ureq::Agent {
    static AGENT: LazyLock<ureq::Agent> = LazyLock::new(|| public::agent(settings().proxy(None).build()));
    &AGENT
}

fn settings() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .accept_encoding("identity")
        .tls_config(TlsConfig::builder().root_certs(root_certs()).build())
        .user_agent(concat!("aside/", env!("CARGO_PKG_VERSION")))
}

/// Returns the trusted certificates, which are those of mail too.
fn root_certs() -> RootCerts {
    trust::certificates().map_or(RootCerts::WebPki, |all| all.iter().map(|der| Certificate::from_der(der)).into())
}

/// Parses a URL, and returns it with its host.
fn parse_url(url: &str) -> Result<(Uri, String)> {
    // The URL is not shown: it is often a secret.
    let invalid = || Error::internal("the webhook's URL is invalid: it needs `https://` or `http://`, and a host");
    let uri: Uri = url.parse().map_err(|_| invalid())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?.to_owned();
    if matches!(uri.scheme_str(), Some("http" | "https")) { Ok((uri, host)) } else { Err(invalid()) }
}

/// Returns a random id. Without a source of randomness it is empty and the task fails, since two webhooks must not have
/// the same id.
fn random_id() -> String {
    random::name().map_or(String::new(), |name| format!("msg_{name}"))
}

#[cfg(test)]
mod tests;
