//! Webhooks, sent and received, by the Standard Webhooks specification (<https://www.standardwebhooks.com>).
//!
//! [`Webhook::send`] begins a task that posts JSON to an address, signed, and again after a while where waiting can help.
//! A [`Webhook`] is a [`Job`] too: one that is enqueued survives the process.
//! [`verify`] checks what another site sent in the same way.
//!
//! A URL that a user entered may lead anywhere, even into your own network (server-side request forgery): send to it with
//! [`Webhook::public_only`]. Other webhooks use the proxy that `HTTPS_PROXY` and `HTTP_PROXY` name.

mod public;

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Read as _};
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_PAD_INDIFFERENT};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Sha256;
use subtle::{Choice, ConstantTimeEq as _};
use ureq::http::Uri;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use self::public::NotPublic;
use crate::background::handle::TaskHandle;
use crate::background::retry::Retry;
use crate::background::task::Task;
use crate::background::task_context::TaskContext;
use crate::error::{Error, Result, Status};
use crate::http::headers::Headers;
use crate::http::request::Request;
use crate::jobs::Job;
use crate::trust;

/// How often a webhook is tried, and the first wait in between.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// The same for one that is a job: for about three days, after the first hours once an hour.
const JOB_TRIES: u32 = 90;
const JOB_FIRST_WAIT: Duration = Duration::from_secs(10);

/// How long connecting may take, and one try as a whole.
const LIMITS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(30));

/// How much of an answer is read: it says nothing that is used, but a connection can be used again once it is read.
const ANSWER: u64 = 64 << 10;

/// How far the clock of a sender may be from ours; seconds, either way.
const TOLERANCE: i64 = 300;

/// A webhook in the making.
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
///     .send(); // and on with the page
/// # }
/// ```
///
/// It goes out with `webhook-id`, which is the same at each try, and `webhook-timestamp`; with a secret also with
/// `webhook-signature`.
///
/// # Sent or enqueued
/// [`send`](Webhook::send) is a task: it costs nothing, and is gone when the process dies. What a receiver must not miss is
/// enqueued, with the application's [`Jobs`](crate::Jobs):
///
/// ```
/// use std::time::Duration;
///
/// use aside::{Job, Request, Result, Webhook};
///
/// fn paid(req: &mut Request) -> Result<&'static str> {
///     let webhook = Webhook::post("https://shop.example/hooks").json(&serde_json::json!({ "order": 17 }));
///     req.enqueue(webhook.clone())?; // kept when this returns
///     req.enqueue(webhook.id("order-17-feedback").delay(Duration::from_secs(24 * 3600)))?;
///     Ok("thank you")
/// }
/// ```
///
/// The job waits in its own queue `webhook`. An expired or untrusted certificate of the receiver is retried, since its
/// owner will renew it.
///
/// It then is tried 90 times over about three days, on the same terms as one that is sent, and kept as dead in the end, or
/// at once after an answer such as 404 or 410. Each try has the `webhook-id` and the body that were written down, and a
/// timestamp and a signature of its own. A receiver may see it twice, when this process dies before it has noted the
/// answer: it knows the second by its `webhook-id`.
///
/// **What is written down holds the secret and the address in the clear**, in the jobs' file or in Redis: whoever reads
/// that can sign in the site's name. The panel, the log and the failures do not show them. Where that is too much, enqueue a
/// job of your own that reads the secret from the settings and calls [`send_now`](Webhook::send_now).
#[derive(Clone)]
#[must_use = "it goes nowhere without `send` or `enqueue`"]
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

    /// The payload, written as JSON now.
    pub fn json(mut self, payload: &(impl Serialize + ?Sized)) -> Webhook {
        self.body = serde_json::to_vec(payload).map_err(|error| error.to_string());
        self
    }

    /// Signs it: with `whsec_` and base64, as the specification writes keys, or with the bytes as they are. The
    /// specification asks for 24 to 64 bytes.
    pub fn secret(mut self, key: impl AsRef<[u8]>) -> Webhook {
        self.secret = Some(key.as_ref().to_vec());
        self
    }

    /// The id of what it tells of, by which the receiver knows a second delivery; a random one by default.
    pub fn id(mut self, id: impl Into<String>) -> Webhook {
        self.id = id.into();
        self
    }

    /// A header more. Those of the specification are ours and come out as they must.
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

    /// Other time limits: for connecting, and for a try as a whole.
    #[cfg(test)]
    fn limits(mut self, connect: Duration, whole: Duration) -> Webhook {
        self.limits = (connect, whole);
        self
    }

    /// Sends it aside. The handle may be let go. It is gone when the process dies: what must not be is
    /// [enqueued](Webhook#sent-or-enqueued).
    ///
    /// The task is tried 5 times at most, with waits of 2 s, 4 s, 8 s and 16 s, and only where waiting can help: the
    /// receiver cannot be reached within 10 s, does not answer within 30 s, or answers 408, 429 or 5xx. Any answer but 2xx
    /// is a failure; redirects are not followed. The log names the receiver's host alone: the rest of such an address is
    /// often a secret.
    ///
    /// # Errors
    /// None in the hand. An address that is none, a payload that cannot be written as JSON, a header that cannot be one and
    /// the receiver's refusal are failures of the task, which its handle gives and the log says.
    pub fn send(self) -> TaskHandle<()> {
        let retry = Retry::exponential(TRIES, FIRST_WAIT).only_if(is_worth_another_try);
        Task::named(self.task_name()).retry(retry).spawn(move |_| self.deliver())
    }

    /// Sends it now, on this thread, with one try.
    ///
    /// # Errors
    /// All that [`send`](Webhook::send) would log.
    pub fn send_now(self) -> Result<()> {
        self.deliver()
    }

    /// Which webhook it is, in the log.
    fn task_name(&self) -> String {
        address(&self.url).map_or("webhook".into(), |(_, host)| format!("webhook to {host}"))
    }

    /// The payload.
    fn body(&self) -> Result<&[u8]> {
        let wrong = |words| {
            Error::internal(format!("the payload of the {} cannot be written as JSON: {words}", self.task_name()))
        };
        self.body.as_deref().map_err(wrong)
    }

    /// One try, signed at its own time.
    fn deliver(&self) -> Result<()> {
        self.deliver_by(if self.public_only { public_agent() } else { agent() })
    }

    fn deliver_by(&self, agent: &ureq::Agent) -> Result<()> {
        let (url, host) = address(&self.url)?;
        let body = self.body()?;
        let headers = self.signed_headers(body, Timestamp::now().as_second())?;
        let (connect, whole) = self.limits;
        let request = agent.post(url).config().timeout_connect(Some(connect)).timeout_global(Some(whole)).build();
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        let failed = |error| Trouble::from(&host, error);
        let answer = request.send(body).map_err(failed)?;
        let status = answer.status();
        // Whether it can be read or not changes nothing for us.
        let _ = io::copy(&mut answer.into_body().into_reader().take(ANSWER), &mut io::sink());
        if status.is_success() { Ok(()) } else { Err(Trouble::answered(&host, status.as_u16()).into()) }
    }

    fn signed_headers(&self, body: &[u8], timestamp: i64) -> Result<Headers> {
        if self.id.is_empty() {
            return Err(Error::internal("a webhook needs an id that is not empty (`Webhook::id`)"));
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
        headers.iter().try_for_each(|(name, value)| Headers::check(name, value))?;
        Ok(headers)
    }
}

/// `req.enqueue(webhook)?`: a webhook that survives the process. See [there](Webhook#sent-or-enqueued).
impl Job for Webhook {
    const NAME: &'static str = "webhook";
    /// A queue of its own: a slow receiver does not delay other jobs.
    const QUEUE: &'static str = "webhook";
    const PRIVATE: bool = true;

    fn retry() -> Retry {
        Retry::exponential(JOB_TRIES, JOB_FIRST_WAIT)
            .only_if(|error| is_worth_another_try(error) || is_of_a_later_version(error))
    }

    fn label(&self) -> String {
        self.task_name()
    }

    fn run(self, _task: &TaskContext) -> Result<()> {
        self.deliver()
    }
}

/// What cannot be read here may have been enqueued by a program that is newer, and is taking this one's place.
fn is_of_a_later_version(error: &Error) -> bool {
    error.find_source::<serde_json::Error>().is_some()
}

/// A webhook as it is written down. A field that is new has a default, and is written only where it is used: an earlier
/// version of the program refuses what it does not know, and the job waits for one that does.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    url: String,
    id: String,
    body: String,
    /// Base64, since it may be any bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    public_only: bool,
}

impl Serialize for Webhook {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let body = self.body().map_err(|error| S::Error::custom(error.chain()))?;
        let written = Written {
            url: self.url.clone(),
            id: self.id.clone(),
            // It is JSON, which is UTF-8.
            body: String::from_utf8(body.to_vec()).map_err(S::Error::custom)?,
            secret: self.secret.as_ref().map(|secret| STANDARD.encode(secret)),
            headers: self.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            public_only: self.public_only,
        };
        written.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Webhook {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Webhook, D::Error> {
        let written = Written::deserialize(from)?;
        // Without what could not be decoded: it is a secret.
        let decode = |text| STANDARD.decode(text).map_err(|_| D::Error::custom("the webhook's secret is no base64"));
        Ok(Webhook {
            url: written.url,
            id: written.id,
            body: Ok(written.body.into_bytes()),
            secret: written.secret.map(decode).transpose()?,
            headers: written.headers.into_iter().collect(),
            public_only: written.public_only,
            limits: LIMITS,
        })
    }
}

/// Without the secret, and without the address, which is often one.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The client of this process: it keeps connections for the next webhook. It has no thread of its own; looking a host's
/// name up within a time limit takes one for that long.
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

/// The certificates that mail trusts too.
fn root_certs() -> RootCerts {
    trust::certificates().map_or(RootCerts::WebPki, |all| all.iter().map(|der| Certificate::from_der(der)).into())
}

/// An address and its host.
fn address(url: &str) -> Result<(Uri, String)> {
    // The address itself is not shown: it is often a secret.
    let wrong = || Error::internal("the webhook's address is none: it needs `https://` or `http://`, and a host");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?.to_owned();
    if matches!(uri.scheme_str(), Some("http" | "https")) { Ok((uri, host)) } else { Err(wrong()) }
}

/// Why a webhook did not arrive.
#[derive(Debug)]
struct Trouble {
    words: String,
    is_worth_another_try: bool,
    source: Option<ureq::Error>,
}

impl Trouble {
    fn answered(host: &str, code: u16) -> Trouble {
        // A code that HTTP does not have may still stand in an answer.
        let answer = if (100..=599).contains(&code) { Status::new(code).to_string() } else { code.to_string() };
        let words = format!("webhook to {host} answered {}", answer.trim_end());
        Trouble { words, is_worth_another_try: matches!(code, 408 | 429 | 500..=599), source: None }
    }

    fn from(host: &str, error: ureq::Error) -> Trouble {
        if let ureq::Error::Other(cause) = &error
            && let Some(refused) = cause.downcast_ref::<NotPublic>()
        {
            let words = format!("webhook to {host} was not sent: {refused}");
            return Trouble { words, is_worth_another_try: false, source: None };
        }
        let is_worth_another_try = matches!(
            error,
            // This includes an expired certificate: it is renewed sooner or later.
            ureq::Error::Io(_)
                | ureq::Error::Tls(_)
                | ureq::Error::Rustls(_)
                | ureq::Error::Timeout(_)
                | ureq::Error::HostNotFound
                | ureq::Error::ConnectionFailed
                | ureq::Error::ConnectProxyFailed(_)
                | ureq::Error::Protocol(_)
        );
        Trouble { words: format!("webhook to {host} did not get through"), is_worth_another_try, source: Some(error) }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl StdError for Trouble {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

fn is_worth_another_try(error: &Error) -> bool {
    let trouble = error.source().and_then(|source| source.downcast_ref::<Trouble>());
    trouble.is_some_and(|trouble| trouble.is_worth_another_try)
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    // Without randomness there is a task that fails, rather than an id that another webhook has.
    if getrandom::fill(&mut bytes).is_err() {
        return String::new();
    }
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("msg_{digits}")
}

/// The signature of a webhook, as `webhook-signature` has it; the timestamp in seconds since 1970.
///
/// ```
/// let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// let body = br#"{"test": 2432232314}"#;
/// let signature = aside::webhook::sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body).unwrap();
/// assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
/// ```
///
/// # Errors
/// When the secret is empty, or begins with `whsec_` and does not go on in base64.
pub fn sign(secret: impl AsRef<[u8]>, id: &str, timestamp: i64, body: &[u8]) -> Result<String> {
    let key = key(secret.as_ref())?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).map_err(Error::from_box)?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(body);
    Ok(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

/// The bytes of a secret. Its text is never in an error.
fn key(secret: &[u8]) -> Result<Vec<u8>> {
    let key = match secret.strip_prefix(b"whsec_") {
        Some(text) => STANDARD_PAD_INDIFFERENT
            .decode(text)
            .map_err(|_| Error::internal("the webhook's secret begins with `whsec_` and does not go on in base64"))?,
        None => secret.to_vec(),
    };
    // Anybody can sign with no key.
    if key.is_empty() { Err(Error::internal("the webhook's secret is empty")) } else { Ok(key) }
}

/// Reads a webhook that came in, up to `ASIDE_MAX_FORM`, and gives its body back when one of the secrets signed it within
/// the last 5 minutes.
///
/// ```
/// use aside::{Request, Result, webhook};
///
/// fn paid(req: &mut Request) -> Result<&'static str> {
///     let body = webhook::verify(req, &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])?;
///     let paid: serde_json::Value = serde_json::from_slice(&body)?;
///     log::info!("order {} is paid", paid["order"]);
///     Ok("thank you")
/// }
/// ```
///
/// With several secrets any may have signed, so that one can be replaced by and by. A webhook may come more than once:
/// `webhook-id` is the same then.
///
/// # Errors
/// 400 when a header is missing or malformed, 401 when no signature is right or the timestamp is more than 5 minutes from
/// this machine's clock, 413 when the body is too large, 500 when there is no secret, or one that cannot be used.
pub fn verify(req: &mut Request, secrets: &[impl AsRef<[u8]>]) -> Result<Vec<u8>> {
    verify_at(req, secrets, Timestamp::now().as_second())
}

fn verify_at(req: &mut Request, secrets: &[impl AsRef<[u8]>], now: i64) -> Result<Vec<u8>> {
    let (id, time) = (required(req, "webhook-id")?, required(req, "webhook-timestamp")?);
    let signatures = required(req, "webhook-signature")?;
    // Digits alone: what is signed is the number as we write it, which must be as it was sent.
    let timestamp = time.parse::<i64>().ok().filter(|number| number.to_string() == time);
    let timestamp = timestamp
        .ok_or_else(|| Error::bad_request("The header webhook-timestamp is no whole number of seconds since 1970."))?;
    if timestamp.abs_diff(now) > TOLERANCE.unsigned_abs() {
        return Err(Error::unauthorized("The webhook's timestamp is more than 5 minutes from this server's clock."));
    }
    let body = req.bytes()?;
    if is_signed(secrets, &id, timestamp, &body, &signatures)? {
        return Ok(body);
    }
    Err(Error::unauthorized("No signature of this webhook is right: it was signed with another secret, or changed."))
}

fn required(req: &Request, name: &str) -> Result<String> {
    let value = req.header(name).map(str::trim).filter(|value| !value.is_empty());
    value.map(str::to_owned).ok_or_else(|| Error::bad_request(format!("The header {name} is missing.")))
}

/// Whether one of the signatures is by one of the secrets. All are compared, whichever is right, and each in the same time.
fn is_signed(secrets: &[impl AsRef<[u8]>], id: &str, timestamp: i64, body: &[u8], signatures: &str) -> Result<bool> {
    if secrets.is_empty() {
        return Err(Error::internal("`webhook::verify` was given no secret"));
    }
    let mut right = Choice::from(0);
    for secret in secrets {
        let expected = sign(secret, id, timestamp, body)?;
        for signature in signatures.split(' ') {
            right |= signature.as_bytes().ct_eq(expected.as_bytes());
        }
    }
    Ok(right.into())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{IpAddr, TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Instant;

    use serde_json::json;
    use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
    use ureq::unversioned::transport::NextTimeout;

    use super::*;
    use crate::app::App;
    use crate::background::failure::Failure;
    use crate::background::registry::Registry;
    use crate::background::scope::{Context, Scope, Values};
    use crate::config::Config;
    use crate::http::request::{Body, Method};
    use crate::jobs::{JobInfo, JobState, Jobs};
    use crate::testing::TestClient;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    type Got = (Headers, Vec<u8>);

    /// A receiver that gives these answers one after the other, each on a connection of its own, and then is gone. An
    /// empty answer is none: it waits until the sender is gone.
    struct Receiver {
        url: String,
        got: Arc<Mutex<Vec<Got>>>,
    }

    impl Receiver {
        fn start(answers: &[&'static str]) -> Receiver {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/hooks/geheim", listener.local_addr().unwrap());
            Receiver::on(listener, url, answers)
        }

        fn on(listener: TcpListener, url: String, answers: &[&'static str]) -> Receiver {
            let got = Arc::new(Mutex::new(Vec::new()));
            let (mut answers, theirs) = (VecDeque::from(answers.to_vec()), got.clone());
            thread::spawn(move || {
                while let Some(answer) = answers.pop_front() {
                    let (mut stream, _) = listener.accept().unwrap();
                    theirs.lock().unwrap().push(read(&stream));
                    if answer.is_empty() {
                        let _ = io::copy(&mut stream, &mut io::sink());
                    } else {
                        let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                    }
                }
            });
            Receiver { url, got }
        }

        fn got(&self) -> Vec<Got> {
            self.got.lock().unwrap().clone()
        }
    }

    fn read(stream: &TcpStream) -> Got {
        let mut reader = BufReader::new(stream);
        let lines = (&mut reader).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
        let field = |line: String| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
        let headers: Headers = lines.skip(1).filter_map(field).collect();
        let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
        reader.read_exact(&mut body).unwrap();
        (headers, body)
    }

    /// Sends it and waits for the end, without the waits between tries. Gives the number of logged failures too.
    fn send(webhook: Webhook) -> (Result<(), String>, usize) {
        let scope = Scope::new(Registry::new(&Config::default()), Values::default());
        let entered = Context { scope: scope.clone(), origin: None, task: None }.enter();
        let handle = webhook.send();
        drop(entered);
        assert!(scope.registry().wait_until_idle(Instant::now() + Duration::from_secs(30)));
        let outcome = handle.join().map_err(|failure| match failure {
            Failure::Error(error) => error.chain(),
            other => panic!("{other}"),
        });
        (outcome, scope.registry().failed().len())
    }

    fn request(headers: &[(&str, &str)], body: &[u8]) -> Request {
        let headers = headers.iter().copied().collect();
        Request::new(Method::Post, "/hooks", headers, Body::from(body.to_vec()))
    }

    /// The specification's own example.
    fn published() -> ([(&'static str, &'static str); 3], &'static [u8], i64) {
        let headers = [
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1614265330"),
            ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ];
        (headers, br#"{"test": 2432232314}"#, 1_614_265_330)
    }

    /// The certificate is renewed sooner or later, and an accepted webhook must not be lost before that.
    #[cfg(feature = "mail")]
    #[test]
    fn an_untrusted_certificate_of_a_receiver_is_retried() {
        use crate::mail::smtp_server::{EXPIRED, Options, SmtpServer};

        // Only the TLS handshake is needed.
        let server =
            SmtpServer::with(vec![], Options { certificate: Some(EXPIRED), is_wrapped: true, ..Options::default() });
        let error = Webhook::post(format!("https://localhost:{}/", server.port())).send_now().unwrap_err();
        assert!(error.chain().contains("certificate") && is_worth_another_try(&error), "{}", error.chain());
    }

    #[test]
    fn the_published_example_is_signed_and_verified() {
        let (headers, body, time) = published();
        assert_eq!(sign(SECRET, headers[0].1, time, body).unwrap(), headers[2].1);
        assert_eq!(verify_at(&mut request(&headers, body), &[SECRET], time).unwrap(), body);
        let raw = STANDARD.decode(&SECRET[6..]).unwrap();
        assert_eq!(verify_at(&mut request(&headers, body), &[raw], time + TOLERANCE).unwrap(), body);
    }

    #[test]
    fn one_right_signature_by_one_of_the_secrets_is_enough() {
        let (mut headers, body, time) = published();
        let many = format!("v1a,AAAA v1,AAAA {}", headers[2].1);
        headers[2].1 = &many;
        let secrets = ["another secret that is long enough", SECRET];
        assert_eq!(verify_at(&mut request(&headers, body), &secrets, time).unwrap(), body);
    }

    #[test]
    fn what_was_changed_or_is_stale_is_refused() {
        let (good, body, time) = published();
        let status = |headers: &[(&str, &str)], body: &[u8], now: i64| {
            verify_at(&mut request(headers, body), &[SECRET], now).unwrap_err().status_code().code()
        };
        assert_eq!(status(&good, br#"{"test": 2432232315}"#, time), 401);
        assert_eq!(status(&good, body, time + TOLERANCE + 1), 401);
        assert_eq!(status(&good, body, time - TOLERANCE - 1), 401);
        assert_eq!(status(&good[..2], body, time), 400);
        let with = |index: usize, value: &'static str| {
            let mut headers = good;
            headers[index].1 = value;
            status(&headers, body, time)
        };
        assert_eq!((with(0, "msg_other"), with(0, "")), (401, 400));
        assert_eq!((with(1, "1614265331"), with(1, "+1614265330"), with(1, "soon")), (401, 400, 400));
        assert_eq!(with(2, "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="), 401);
        assert_eq!((with(2, "v1,"), with(2, "nonsense")), (401, 401));
    }

    #[test]
    fn a_secret_that_cannot_be_used_is_our_mistake() {
        let (headers, body, time) = published();
        for secrets in [&[][..], &[""], &["whsec_"], &["whsec_?"], &["", SECRET]] {
            let error = verify_at(&mut request(&headers, body), secrets, time).unwrap_err();
            assert!(error.status_code().is_server_error() && error.chain().contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn a_webhook_is_signed_anew_at_each_try_under_one_id() {
        let receiver = Receiver::start(&["500 Oh", "429 Later", "204 Fine"]);
        let webhook = Webhook::post(&receiver.url).json(&json!({ "order": 17 })).secret(SECRET).header("X-Shop", "a");
        assert_eq!(send(webhook), (Ok(()), 0));
        let got = receiver.got();
        assert_eq!(got.len(), 3);
        for (headers, body) in got.clone() {
            assert_eq!(headers.get("webhook-id"), got[0].0.get("webhook-id"));
            assert_eq!((headers.get("content-type"), headers.get("x-shop")), (Some("application/json"), Some("a")));
            assert_eq!(body, br#"{"order":17}"#);
            let mut request = Request::new(Method::Post, "/", headers, Body::from(body));
            verify(&mut request, &[SECRET]).unwrap();
        }
    }

    #[test]
    fn a_receiver_that_goes_on_failing_is_one_failure() {
        let receiver = Receiver::start(&["500 Oh"; 6]);
        let (outcome, failures) = send(Webhook::post(&receiver.url).json("x"));
        assert_eq!(outcome.unwrap_err(), "webhook to 127.0.0.1 answered 500 Internal Server Error");
        assert_eq!((receiver.got().len(), failures), (5, 1));
        assert!(!receiver.got()[0].0.contains("webhook-signature"));
    }

    #[test]
    fn a_refusal_is_the_last_word_and_a_redirect_is_one() {
        for answer in ["410 Gone", "302 Found\r\nLocation: /else", "307 Go\r\nLocation: /else"] {
            let receiver = Receiver::start(&[answer, "200 OK"]);
            let (outcome, failures) = send(Webhook::post(&receiver.url).json("x"));
            let words = outcome.unwrap_err();
            assert!(words.starts_with("webhook to 127.0.0.1 ") && !words.contains("geheim"), "{words}");
            assert!(words.contains(&answer[..3]), "{words}");
            assert_eq!((receiver.got().len(), failures), (1, 1));
        }
    }

    #[test]
    fn a_receiver_that_is_not_there_is_tried_again() {
        let url = Receiver::start(&[]).url;
        let (outcome, failures) = send(Webhook::post(url).json("x"));
        let words = outcome.unwrap_err();
        assert!(
            words.starts_with("webhook to 127.0.0.1 did not get through: ") && !words.contains("geheim"),
            "{words}"
        );
        assert_eq!(failures, 1);
    }

    #[test]
    fn a_receiver_that_falls_silent_is_left_at_the_time_limit() {
        let receiver = Receiver::start(&["", "200 OK"]);
        let limit = Duration::from_secs(2);
        assert_eq!(send(Webhook::post(&receiver.url).json("x").limits(limit, limit)), (Ok(()), 0));
        let got = receiver.got();
        assert_eq!(got.len(), 2);
        // The receiver has both, and knows the second by its id.
        assert_eq!(got[0].0.get("webhook-id"), got[1].0.get("webhook-id"));
    }

    #[test]
    fn what_cannot_be_sent_fails_in_the_task() {
        let map = std::collections::HashMap::from([(vec![1], 2)]);
        let to = || Webhook::post("http://127.0.0.1:9/geheim");
        for (webhook, word) in [
            (Webhook::post("geheim"), "address"),
            (Webhook::post("file:///geheim"), "address"),
            (Webhook::post(""), "address"),
            (to().json(&map), "cannot be written as JSON"),
            (to().header("X\r\nY", "z"), "header name"),
            (to().id("a\r\nb"), "webhook-id"),
            (to().id(""), "id"),
            (to().secret("whsec_geheim!"), "secret"),
        ] {
            let (outcome, failures) = send(webhook);
            let words = outcome.unwrap_err();
            assert!(words.contains(word) && !words.contains("geheim"), "{words}");
            assert_eq!(failures, 1);
        }
    }

    #[test]
    fn a_webhook_that_is_sent_now_says_how_it_went() {
        let receiver = Receiver::start(&["200 OK", "503 Oh"]);
        Webhook::post(&receiver.url).json("x").send_now().unwrap();
        assert!(Webhook::post(&receiver.url).json("x").send_now().is_err());
        assert_eq!(receiver.got().len(), 2);
    }

    /// The single response is still unread at the end: nothing else has connected.
    #[test]
    fn a_webhook_for_public_addresses_does_not_reach_this_machine() {
        let receiver = Receiver::start(&["200 OK"]);
        for host in ["127.0.0.1", "localhost", "2130706433", "127.1", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "[::]"]
        {
            let url = receiver.url.replace("127.0.0.1", host);
            let (outcome, failures) = send(Webhook::post(url).json("x").public_only());
            let words = outcome.unwrap_err();
            assert!(words.starts_with("webhook to ") && words.contains("is not a public address"), "{words}");
            assert!(!words.contains("geheim") && failures == 1, "{words}");
        }
        assert!(receiver.got().is_empty());
        Webhook::post(&receiver.url).json("x").send_now().unwrap();
    }

    #[test]
    fn a_job_for_public_addresses_is_dead_at_once() {
        let receiver = Receiver::start(&["200 OK"]);
        let client = site();
        let id = client.jobs().enqueue(Webhook::post(&receiver.url).json("x").public_only()).unwrap().id;
        client.drain();
        let job = job(&client, id);
        assert_eq!((job.state, job.failures.len(), receiver.got().len()), (JobState::Dead, 1, 0));
        let words = &job.failures[0].message;
        assert!(words.contains("has the address 127.0.0.1, which is not a public address"), "{words}");
    }

    /// A resolver that returns these addresses one after the other, as an attacker's name server does.
    #[derive(Debug)]
    struct Names(Mutex<VecDeque<Vec<&'static str>>>);

    impl Resolver for Names {
        fn resolve(
            &self,
            uri: &Uri,
            _: &ureq::config::Config,
            _: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, ureq::Error> {
            let mut all = self.empty();
            let addresses = self.0.lock().unwrap().pop_front().unwrap();
            addresses.iter().for_each(|ip| all.push((ip.parse::<IpAddr>().unwrap(), uri.port_u16().unwrap()).into()));
            Ok(all)
        }
    }

    /// Treats 127.0.0.2 as a public address, and 127.0.0.1 as a private one.
    #[cfg(target_os = "linux")]
    #[test]
    fn addresses_are_checked_at_each_connection_and_redirects_are_not_followed() {
        let inside = Receiver::start(&["200 OK"]);
        let port = inside.url.split([':', '/']).nth(4).unwrap().to_owned();
        let outside = TcpListener::bind(format!("127.0.0.2:{port}")).unwrap();
        let redirect = "307 Go\r\nLocation: http://127.0.0.1/";
        let outside = Receiver::on(outside, format!("http://a.example:{port}/"), &["200 OK", "200 OK", redirect]);
        let (public, private) = ("127.0.0.2", "127.0.0.1");
        let names = [vec![public], vec![private], vec![private, public], vec![public], vec![private]];
        let names = Names(Mutex::new(names.into_iter().collect()));
        let rule = |address: IpAddr| address == IpAddr::from([127, 0, 0, 2]);
        let agent = public::agent_with(settings().proxy(None).build(), names, rule);
        let webhook = Webhook::post(&outside.url).json("x");
        webhook.deliver_by(&agent).unwrap();
        assert!(webhook.deliver_by(&agent).unwrap_err().chain().contains("the address 127.0.0.1"));
        webhook.deliver_by(&agent).unwrap();
        assert!(webhook.deliver_by(&agent).unwrap_err().chain().contains("answered 307"));
        assert!(webhook.deliver_by(&agent).unwrap_err().chain().contains("the address 127.0.0.1"));
        assert_eq!((outside.got().len(), inside.got().len()), (3, 0));
    }

    /// A proxy would connect without the check. The test runs itself again in a process with a proxy.
    #[test]
    fn a_proxy_does_not_send_a_webhook_for_public_addresses() {
        const NAME: &str = "webhook::tests::a_proxy_does_not_send_a_webhook_for_public_addresses";
        const BEHIND: &str = "ASIDE_TEST_BEHIND_A_PROXY";
        // A documentation address, which leads nowhere.
        let webhook = Webhook::post("http://192.0.2.1/").json("x");
        if std::env::var_os(BEHIND).is_some() {
            let words = webhook.clone().public_only().send_now().unwrap_err().chain();
            assert!(words.contains("the address 192.0.2.1, which is not a public address"), "{words}");
            webhook.send_now().unwrap_err();
            return;
        }
        let proxy = Receiver::start(&["502 No", "502 No"]);
        let url = proxy.url.trim_end_matches("/hooks/geheim");
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--exact", NAME])
            .env(BEHIND, "1")
            .env("ALL_PROXY", url)
            .env("HTTP_PROXY", url)
            .env_remove("NO_PROXY");
        let output = child.env_remove("no_proxy").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(proxy.got().len(), 1, "the other one went through it");
    }

    /// Longer than any wait between two tries.
    const LATER: Duration = Duration::from_secs(3600);

    fn site() -> TestClient {
        TestClient::new(App::with_config(Config::default()).jobs(Jobs::memory()))
    }

    fn job(client: &TestClient, id: u64) -> JobInfo {
        client.jobs().find(id).unwrap().unwrap()
    }

    /// The time that it was signed at.
    fn signed_at(headers: &Headers) -> i64 {
        headers.get("webhook-timestamp").unwrap().parse().unwrap()
    }

    #[test]
    fn a_webhook_that_is_enqueued_is_signed_anew_at_each_try_under_one_id() {
        let receiver = Receiver::start(&["500 Oh", "429 Later", "204 Fine"]);
        let mut client = site();
        let payload = json!({ "order": 17, "name": "Анна \"\\" });
        let webhook =
            Webhook::post(&receiver.url).json(&payload).secret(SECRET).header("X-Shop", "a").header("X-Shop", "b");
        let id = client.jobs().enqueue(webhook.clone()).unwrap().id;
        for (state, seen) in [(JobState::Scheduled, 1), (JobState::Scheduled, 2), (JobState::Done, 3)] {
            client.drain();
            assert_eq!((job(&client, id).state, receiver.got().len()), (state, seen));
            client.advance(LATER);
        }
        for (headers, body) in receiver.got() {
            assert_eq!(headers.get("webhook-id"), Some(&*webhook.id));
            assert_eq!(headers.get_all("x-shop").collect::<Vec<_>>(), ["a", "b"]);
            assert_eq!(body, serde_json::to_vec(&payload).unwrap());
            let mut request = Request::new(Method::Post, "/", headers, Body::from(body));
            verify(&mut request, &[SECRET]).unwrap();
        }
    }

    /// What is written down has no time, so that a try of next week is not signed for today.
    #[test]
    fn a_webhook_that_waited_is_signed_for_the_time_of_its_try() {
        let receiver = Receiver::start(&["200 OK"]);
        let webhook = Webhook::post(&receiver.url).id("msg_1").json("x").secret([0, 255, 10]);
        let written = serde_json::to_string(&webhook).unwrap();
        assert!(!written.contains("time") && !written.contains("v1,"), "{written}");
        let read: Webhook = serde_json::from_str(&written).unwrap();
        let (one, other) = (webhook.signed_headers(b"x", 1_000).unwrap(), read.signed_headers(b"x", 2_000).unwrap());
        assert_ne!(one.get("webhook-signature"), other.get("webhook-signature"));
        assert_eq!(other.get("webhook-signature").unwrap(), sign([0, 255, 10], "msg_1", 2_000, b"x").unwrap());
        let before = Timestamp::now().as_second();
        let client = site();
        client.jobs().enqueue(read).unwrap();
        client.drain();
        let time = signed_at(&receiver.got()[0].0);
        assert!((before..=Timestamp::now().as_second()).contains(&time), "{time}");
    }

    #[test]
    fn a_refusal_makes_it_dead_and_shows_no_secret() {
        let receiver = Receiver::start(&["410 Gone", "200 OK"]);
        let mut client = site();
        let webhook = Webhook::post(&receiver.url).json("x").secret("geheim, and long enough").header("X", "geheim");
        assert!(!format!("{webhook:?} {:?}", webhook.clone().delay(LATER)).contains("geheim"));
        let id = client.jobs().enqueue(webhook).unwrap().id;
        client.drain();
        client.advance(LATER);
        client.drain();
        let job = job(&client, id);
        assert_eq!((job.state, receiver.got().len(), job.failures.len()), (JobState::Dead, 1, 1));
        assert_eq!((&*job.label, client.jobs().is_private(&job.name)), ("webhook to 127.0.0.1", true));
        assert_eq!(job.failures[0].message, "webhook to 127.0.0.1 answered 410 Gone");
        let tasks = format!("{:?}", client.failures());
        assert!(tasks.contains("410 Gone") && !tasks.contains("geheim"), "{tasks}");
        assert!(client.jobs().retry(id).unwrap());
        client.drain();
        assert_eq!(receiver.got().len(), 2);
    }

    #[test]
    fn a_payload_that_is_no_json_is_refused_when_it_is_enqueued() {
        let client = site();
        let map = std::collections::HashMap::from([(vec![1], 2)]);
        let error = client.jobs().enqueue(Webhook::post("http://127.0.0.1:9/geheim").json(&map)).unwrap_err();
        let words = error.chain();
        let expected = "the payload of the webhook to 127.0.0.1 cannot be written as JSON: key must be a string";
        assert!(words.ends_with(expected) && !words.contains("geheim"), "{words}");
        assert_eq!(client.jobs().counts().unwrap().waiting, 0);
    }

    #[test]
    fn a_request_enqueues_a_webhook() {
        let receiver = Receiver::start(&["200 OK"]);
        let url = receiver.url.clone();
        let handler =
            move |req: &mut Request| req.enqueue(Webhook::post(&url).json("x").unique("x")).map(|_| "thank you");
        let app = App::with_config(Config::default()).jobs(Jobs::memory()).post("/orders", handler);
        let mut client = TestClient::new(app);
        client.post("/orders").send();
        client.post("/orders").send();
        client.jobs().assert_enqueued(|webhook: &Webhook| webhook.url == receiver.url);
        client.drain();
        assert_eq!(receiver.got().len(), 1);
    }

    /// Word for word what this version writes, and what is least: versions to come must read both.
    #[test]
    fn what_was_written_down_is_read_by_later_versions() {
        let all =
            r#"{"url":"https://a.example/x","id":"msg_1","body":"{\"a\":1}","secret":"AP8K","headers":[["X","y"]]}"#;
        let webhook: Webhook = serde_json::from_str(all).unwrap();
        assert_eq!(serde_json::to_string(&webhook).unwrap(), all);
        assert_eq!(
            (webhook.body.as_deref(), webhook.secret.as_deref()),
            (Ok(&b"{\"a\":1}"[..]), Some(&[0, 255, 10][..]))
        );
        let public = r#"{"url":"https://a.example","id":"msg_1","body":"","public_only":true}"#;
        let webhook: Webhook = serde_json::from_str(public).unwrap();
        assert!(webhook.public_only && serde_json::to_string(&webhook).unwrap() == public);
        let least = r#"{"url":"https://a.example","id":"msg_1","body":""}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Webhook>(least).unwrap()).unwrap(), least);
    }

    #[test]
    fn what_a_later_version_wrote_waits_for_it() {
        let newer = r#"{"url":"https://a.example","id":"msg_1","body":"","proxy":"b.example"}"#;
        let error = Error::internal("…").with_source(serde_json::from_str::<Webhook>(newer).unwrap_err());
        assert!(Webhook::retry().wait_after(1, &Failure::from_error(error.into())).is_some());
        assert!(Webhook::retry().wait_after(1, &Failure::from_error(Error::internal("…").into())).is_none());
    }
}
