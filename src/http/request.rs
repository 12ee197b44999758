//! A request: the client's input, and the state that the application adds to it.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::mem::{replace, take};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;

use super::headers::Headers;
use super::input::FromParam;
use super::stream::disconnect::Connection;
use crate::background::lineage::Lineage;
use crate::background::request_info::RequestInfo;
use crate::background::scope::{Context, Scope};
use crate::background::trace_id::TraceId;
use crate::config::Config;
use crate::error::{Error, OrHere, Result, Status};
use crate::log_text::{bytes, size};
use crate::nearest::did_you_mean;
use crate::worker_routes::{NO_ROUTE, RouteNumber};

/// A request method (RFC 9110, section 9). Names are case-sensitive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    /// Any other method, as the client sent it.
    Other(String),
}

impl Method {
    /// Returns the method as in the request line.
    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Other(name) => name,
        }
    }

    /// Returns true if the method is safe: it is not meant to change anything (RFC 9110, section 9.2.1).
    pub fn is_safe(&self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options) || self.as_str() == "TRACE"
    }
}

impl From<&str> for Method {
    fn from(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "PATCH" => Method::Patch,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            other => Method::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An HTTP request.
///
/// ```
/// use aside::{Request, Result};
///
/// fn greet(req: &mut Request) -> Result<String> {
///     let name: String = req.param("name")?;
///     let browser = req.header("User-Agent").unwrap_or("an unknown browser");
///     Ok(format!("{name} uses {browser}"))
/// }
/// # aside::App::new().get("/greet/{name}", greet);
/// ```
pub struct Request {
    method: Method,
    target: String,
    /// The method, the path and the id, shared with the tasks that the request starts.
    origin: Arc<RequestInfo>,
    headers: Headers,
    body: Body,
    remote: Option<SocketAddr>,
    connection: Option<Arc<dyn Connection>>,
    client: Client,
    nonce: Arc<OnceLock<String>>,
    route: RouteNumber,
    params: Vec<(String, String)>,
    source: ParamSource,
    scope: Option<Scope>,
    config: Arc<Config>,
    /// At most one value of each type. The types are few.
    extensions: Vec<Box<dyn Any + Send + Sync>>,
}

/// A request that is used in a background task must be one borrow error, and not a list of the fields that are not `Sync`.
const _: fn() = || {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Request>();
};

/// The source of the parameters.
#[derive(Debug, Default)]
enum ParamSource {
    /// The path, with the names in the route.
    #[default]
    Path,
    /// The call of the live fragment of this name, in the template of a page.
    Call(String),
    /// The query of a live fragment's stream, which repeats that call.
    Stream,
}

/// The client and its connection, as the connection or the trusted proxies describe them.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub(crate) ip: Option<IpAddr>,
    pub(crate) https: bool,
    /// The host that the client asked a proxy for, if it differs from the `Host` header here.
    pub(crate) host: Option<String>,
}

impl Request {
    /// Returns a request as a transport reads it. The target is in origin form, as in the request line.
    pub(crate) fn new(method: Method, target: impl Into<String>, headers: Headers, body: Body) -> Request {
        static UNTIL_ADMITTED: LazyLock<Arc<Config>> = LazyLock::new(Arc::default);
        let target = target.into();
        let path = canonical_path(target.split('?').next().unwrap_or(""));
        let origin = RequestInfo { id: String::new(), method: method.as_str().to_owned(), path, trace: TraceId::new() };
        Request {
            method,
            target,
            origin: Arc::new(origin),
            headers,
            body,
            remote: None,
            connection: None,
            client: Client::default(),
            nonce: Arc::default(),
            route: NO_ROUTE,
            params: Vec::new(),
            source: ParamSource::Path,
            scope: None,
            config: UNTIL_ADMITTED.clone(),
            extensions: Vec::new(),
        }
    }

    /// Sets the address of the peer.
    pub(crate) fn with_peer(mut self, remote: Option<SocketAddr>) -> Request {
        self.remote = remote;
        self
    }

    /// Sets the connection on which the request arrived.
    pub(crate) fn on(mut self, connection: Arc<dyn Connection>) -> Request {
        self.connection = Some(connection);
        self
    }

    /// Assigns the request to an application.
    pub(crate) fn admit(&mut self, scope: Scope, config: Arc<Config>, id: String) {
        self.scope = Some(scope);
        self.config = config;
        self.set_id(id);
    }

    /// Sets the client, once it is known.
    pub(crate) fn set_client(&mut self, client: Client) {
        self.client = client;
    }

    /// Sets the id, such as the one that a trusted proxy sent.
    pub(crate) fn set_id(&mut self, id: String) {
        Arc::make_mut(&mut self.origin).id = id;
    }

    /// Makes the request a part of a trace that another site has begun.
    pub(crate) fn set_trace(&mut self, trace: TraceId) {
        Arc::make_mut(&mut self.origin).trace = trace;
    }

    /// Returns the cell of the response's nonce, which may still be empty.
    pub(crate) fn nonce(&self) -> &Arc<OnceLock<String>> {
        &self.nonce
    }

    /// Returns the context of the work that this request starts.
    pub(crate) fn context(&self) -> Context {
        Context { scope: self.scope(), lineage: Lineage::of(&self.origin), task: None }
    }

    /// Returns the description of the request for the log and its tasks.
    pub(crate) fn origin(&self) -> &Arc<RequestInfo> {
        &self.origin
    }

    /// Returns the scope of the application, or of the process if no application has the request yet.
    pub(crate) fn scope(&self) -> Scope {
        self.scope.clone().unwrap_or_else(Scope::process)
    }

    /// Returns the application's settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// Returns true if the client asks for the head of the response only.
    pub fn is_head(&self) -> bool {
        self.method == Method::Head
    }

    /// Returns the path, percent-decoded except where decoding would change its meaning (`%2F`, `%25`, and bytes that
    /// are not UTF-8). A percent sign that encodes nothing is `%25` too.
    pub fn path(&self) -> &str {
        &self.origin.path
    }

    /// Returns the path and the query as the client sent them.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Returns the query as the client sent it, without the question mark; empty if there is none.
    pub fn query_string(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }

    /// Returns the header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Returns the first header of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Returns true if the browser, or a script in its page, prefetches the response, which the user may never see:
    /// `Sec-Purpose: prefetch;prerender`, and older headers (Fetch standard, section 3.8).
    pub(crate) fn is_ahead(&self) -> bool {
        let names = ["Sec-Purpose", "Purpose", "X-Sec-Purpose", "X-Purpose", "X-Moz"];
        let mut purposes = names.iter().flat_map(|name| self.headers.get_all(name));
        purposes.any(|purpose| {
            let purpose = purpose.to_ascii_lowercase();
            let mut tokens = purpose.split([';', ',']).map(str::trim);
            tokens.any(|token| matches!(token, "prefetch" | "prerender" | "preview"))
        })
    }

    /// Returns the media type of the body, in lower case and without parameters: `text/html`.
    pub fn content_type(&self) -> Option<String> {
        let value = self.header("Content-Type")?;
        Some(value.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
    }

    /// Returns the host that the client asked for, with its port if it named one. A trusted proxy's `X-Forwarded-Host`
    /// takes precedence, if the settings trust it (`ASIDE_TRUSTED_PROXIES`, `ASIDE_TRUST_FORWARDED_HOST`).
    pub fn host(&self) -> Option<&str> {
        self.client.host.as_deref().or_else(|| self.header("Host"))
    }

    /// Returns true if the client's connection is encrypted. A trusted proxy says so in `X-Forwarded-Proto`; without a
    /// proxy it is true if `ASIDE_URL` begins with `https:` in production.
    pub fn is_https(&self) -> bool {
        self.client.https
    }

    /// Returns the client's address. Behind trusted proxies (`ASIDE_TRUSTED_PROXIES`) it is the rightmost address in
    /// `X-Forwarded-For` that does not belong to them; otherwise it is the peer's address, and the headers are ignored.
    pub fn client_ip(&self) -> Option<IpAddr> {
        self.client.ip
    }

    /// Returns the address of the peer on the connection. Behind a proxy that is the proxy;
    /// [`client_ip`](Request::client_ip) is the client. `None` on a Unix socket.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        self.remote
    }

    /// Returns true if the client is still connected. A handler with a long computation can stop early: a user who has
    /// gone to another page will not see the response.
    ///
    /// ```
    /// use aside::{Request, Response, Result, Status};
    ///
    /// fn report(req: &mut Request) -> Result<Response> {
    ///     let mut rows = Vec::new();
    ///     for number in 0..1_000_000 {
    ///         if number % 1_000 == 0 && !req.is_connected() {
    ///             return Ok(Response::new().status(Status::NO_CONTENT)); // the client is gone
    ///         }
    ///         rows.push(format!("{number}\n"));
    ///     }
    ///     Ok(Response::text(rows.concat()))
    /// }
    /// ```
    ///
    /// Each call asks the operating system; with tiny_http it searches all descriptors of the process. A client that
    /// has shut down its side of the connection counts as gone, since browsers do not do that. A client that has
    /// already sent its next request counts as connected. Without a real connection, as in the test client, the result
    /// is true.
    pub fn is_connected(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| connection.is_there())
    }

    /// Returns the request's id, which is in the access log, in the log lines of its tasks, and on an error page.
    ///
    /// It is not a secret: the client receives it, and can guess the next ones (a 24-bit counter). Store data of one
    /// client under the [`Session::id`](crate::Session::id).
    pub fn id(&self) -> &str {
        &self.origin.id
    }

    /// Returns the id of the request's trace: the request with all the tasks, jobs, mails and webhooks that come from it. Unlike
    /// [`id`](Request::id) it has 128 bits, and cannot be guessed.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Config, Request};
    ///
    /// let config = Config { trusted_proxies: vec!["127.0.0.1".into()], ..Config::default() };
    /// let app = App::with_config(config).get("/", |req: &mut Request| req.trace().to_string());
    /// let mut client = TestClient::new(app);
    /// let request = client.request("GET", "/").peer("127.0.0.1:5000");
    /// let sent = request.header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").send();
    /// assert_eq!(sent.text(), "4bf92f3577b34da6a3ce929d0e0e4736");
    /// ```
    ///
    /// It is new for each request, unless a [trusted proxy](crate::Config::trusted_proxies) sends a valid header `traceparent`
    /// ([W3C Trace Context](https://www.w3.org/TR/trace-context/), section 3.2): several requests can have the trace of such a
    /// header. Webhooks that come from the request have it in their `traceparent`. In the panel, `/_aside/requests/` and the
    /// trace is the address of the request with all that it started.
    pub fn trace(&self) -> TraceId {
        self.origin.trace
    }

    /// Returns the cookies in order, without quotes around the values (RFC 6265, section 4.1.1), and with
    /// percent-encoded values decoded. Names are not decoded: a browser prevents other hosts from setting
    /// `__Host-session`, but would treat `__%48ost-session` as a different name.
    pub fn cookies(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.cookies_as_sent().map(|(name, value)| (name.to_owned(), decode_cookie(value)))
    }

    /// Returns the value of the first cookie of this name.
    pub fn cookie(&self, name: &str) -> Option<String> {
        let mut cookies = self.cookies_as_sent();
        cookies.find(|(other, _)| *other == name).map(|(_, value)| decode_cookie(value))
    }

    /// Returns the cookies whose names match, in order.
    pub(crate) fn cookies_with(&self, is_wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, String)> {
        let wanted = self.cookies_as_sent().filter(move |(name, _)| is_wanted(name));
        wanted.map(|(name, value)| (name, decode_cookie(value)))
    }

    fn cookies_as_sent(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.get_all("Cookie").flat_map(|line| line.split(';')).filter_map(split_cookie)
    }

    /// Returns the part of the path with this name in the route: `req.param::<u64>("id")?` for `/photos/{id}`.
    ///
    /// In the function of a live fragment ([`App::live`](crate::App::live)) it is the argument of this name:
    /// `{{ live("photo", id=17) }}`.
    ///
    /// # Errors
    /// 404 if the value does not parse: the page does not exist. 500 if the route has no parameter of this name, or if
    /// the template did not pass the argument.
    #[track_caller]
    pub fn param<T: FromParam>(&self, name: &str) -> Result<T> {
        let Some((_, value)) = self.params.iter().find(|(key, _)| key == name) else {
            return Err(match &self.source {
                ParamSource::Path => {
                    let hint = did_you_mean(name, self.params.iter().map(|(name, _)| name.as_str()));
                    Error::internal(format!("this route has no parameter `{{{name}}}`{hint}"))
                }
                ParamSource::Call(fragment) => {
                    Error::internal(format!("the template does not pass the argument `{name}` to live(`{fragment}`)"))
                }
                ParamSource::Stream => Status::NOT_FOUND.into(),
            });
        };
        value.parse().or(Err(Error::from(Status::NOT_FOUND)))
    }

    /// Returns all named parts of the path, in the order of the route.
    pub(crate) fn params(&self) -> &[(String, String)] {
        &self.params
    }

    /// Returns the number of the route that handles the request.
    pub(crate) fn route(&self) -> RouteNumber {
        self.route
    }

    /// Sets the route that handles the request, with the parameters of its path.
    pub(crate) fn set_route(&mut self, route: RouteNumber, params: Vec<(String, String)>) {
        (self.route, self.params) = (route, params);
    }

    /// Calls a function for which [`param`](Request::param) returns these arguments: those that a template passes to
    /// the live fragment `called`, or those in the query of its stream.
    ///
    /// # Errors
    /// The error of the function, or 500 if it renders a page with live fragments itself.
    pub(crate) fn with_arguments<T>(
        &mut self,
        called: Option<String>,
        arguments: Vec<(String, String)>,
        f: impl FnOnce(&mut Request) -> Result<T>,
    ) -> Result<T> {
        if let ParamSource::Call(outer) = &self.source {
            return Err(Error::internal(format!(
                "the function of live(`{outer}`) renders a page that has live fragments"
            )));
        }
        let source = called.map_or(ParamSource::Stream, ParamSource::Call);
        let within = WithArguments::new(self, arguments, source);
        f(within.req)
    }

    /// Returns the application's state of type `T`, in an [`Arc`] that can move into tasks.
    ///
    /// # Panics
    /// Panics if `App::state` was not given a value of this type.
    #[track_caller]
    pub fn state<T: Any + Send + Sync>(&self) -> Arc<T> {
        self.scope().state()
    }

    /// Returns the value of type `T` that an earlier step of this request stored.
    pub fn extension<T: Any + Send + Sync>(&mut self) -> Option<&mut T> {
        self.extensions.iter_mut().find_map(|value| value.downcast_mut())
    }

    /// Stores a value for the later steps of this request. A value of the same type is replaced.
    pub fn set_extension<T: Any + Send + Sync>(&mut self, value: T) {
        match self.extension::<T>() {
            Some(former) => *former = value,
            None => self.extensions.push(Box::new(value)),
        }
    }

    /// Returns the body's length, if the client declared it.
    pub fn content_length(&self) -> Option<u64> {
        self.body.length
    }

    /// Returns a reader of the body as it arrives. Reading fails if the client stops before the length that it
    /// declared.
    pub fn body(&mut self) -> &mut (dyn Read + Send) {
        &mut self.body
    }

    /// Returns true if some of the body has been read.
    pub(crate) fn has_begun_body(&self) -> bool {
        self.body.read > 0
    }

    /// Replaces the body with bytes that were read from it.
    pub(crate) fn restore_body(&mut self, bytes: Vec<u8>) {
        self.body = Body { read_time: self.body.read_time, ..bytes.into() };
    }

    /// Returns the time that it took to read the body.
    pub(crate) fn body_read_time(&self) -> Duration {
        self.body.read_time
    }

    /// Reads the whole body, up to `ASIDE_MAX_FORM`.
    ///
    /// # Errors
    /// 413 if it is larger, 400 if it was cut short, 408 if it did not arrive in time.
    #[track_caller]
    pub fn bytes(&mut self) -> Result<Vec<u8>> {
        self.read_bytes().or_here()
    }

    fn read_bytes(&mut self) -> Result<Vec<u8>> {
        let limit = self.config.max_form;
        let too_large = || {
            let detail = format!("the body is larger than {} (ASIDE_MAX_FORM)", bytes(limit));
            Error::too_large(format!("What was sent can have at most {}.", size(limit))).with_detail(detail)
        };
        if self.body.length.is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(self.body.length.unwrap_or(0) as usize);
        (&mut self.body).take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > limit { Err(too_large()) } else { Ok(bytes) }
    }

    /// Reads the whole body as text.
    ///
    /// # Errors
    /// The errors of [`bytes`](Request::bytes), and 400 if the body is not UTF-8.
    #[track_caller]
    pub fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?).or(Err(Error::bad_request("The body is not UTF-8.")))
    }
}

/// Restores the parameters of the path when dropped, even after a panic.
struct WithArguments<'r> {
    req: &'r mut Request,
    path: (Vec<(String, String)>, ParamSource),
}

impl<'r> WithArguments<'r> {
    fn new(req: &'r mut Request, arguments: Vec<(String, String)>, source: ParamSource) -> WithArguments<'r> {
        let path = (replace(&mut req.params, arguments), replace(&mut req.source, source));
        WithArguments { req, path }
    }
}

impl Drop for WithArguments<'_> {
    fn drop(&mut self) {
        (self.req.params, self.req.source) = take(&mut self.path);
    }
}

/// Splits a cookie into name and value. Only the white space that browsers know is trimmed: a browser treats a name
/// with another kind of space after `__Host-session` as a different name, which any host may set.
fn split_cookie(pair: &str) -> Option<(&str, &str)> {
    let (name, value) = pair.split_once('=')?;
    let (name, value) = (name.trim_matches([' ', '\t']), value.trim_matches([' ', '\t']));
    let unquoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value);
    (!name.is_empty()).then_some((name, unquoted))
}

fn decode_cookie(value: &str) -> String {
    // The largest cookie, the session's, has no percent sign.
    if !value.contains('%') {
        return value.to_owned();
    }
    percent_decode_str(value).decode_utf8().map_or_else(|_| value.to_owned(), Cow::into_owned)
}

/// Returns the error for a client whose body could not be read to its end.
pub(crate) fn unreadable(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::TimedOut {
        return too_slow(error.to_string());
    }
    Error::bad_request("The request was interrupted. Please try again.").with_detail(format!("the body: {error}"))
}

/// Returns the error for a client whose request did not arrive in time.
pub(crate) fn too_slow(detail: impl Into<String>) -> Error {
    let message = "The request took too long to arrive. Please try again.";
    Error::new(Status::REQUEST_TIMEOUT, message).with_detail(detail)
}

/// Returns true for a host with an optional port, without a user before it or anything after it (RFC 9110, section
/// 7.2).
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    is_host(host)
        && (port.is_empty() || (port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()))
}

fn is_host(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&byte);
            !text.is_empty() && text.bytes().all(fits)
        }
    }
}

/// Returns the path in the normalized form that routes match. Unnecessary escapes are decoded, so that a route may be
/// written in any script. An encoded slash stays encoded, so that it does not become a separator. An encoded percent
/// sign stays, and one that encodes nothing is encoded, so that nothing is decoded twice (`%%34%31` is `%41`, not `A`).
/// Bytes that are not UTF-8 stay encoded, so that nothing is lost.
fn canonical_path(path: &str) -> String {
    if !path.contains('%') {
        return path.to_owned();
    }
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        match after.split_at_checked(2).and_then(|(digits, tail)| Some((unhex(digits)?, tail))) {
            Some((decoded, tail)) if byte == b'%' && decoded != b'/' && decoded != b'%' => {
                out.push(decoded);
                rest = tail;
            }
            None if byte == b'%' => {
                out.extend_from_slice(b"%25");
                rest = after;
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| path.to_owned())
}

fn unhex(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok()?;
    digits.bytes().all(|digit| digit.is_ascii_hexdigit()).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// Decodes a parameter of the path, including the escapes that [`canonical_path`] kept.
pub(crate) fn decode_param(value: &str) -> String {
    percent_decode_str(value).decode_utf8_lossy().into_owned()
}

/// A request's body. Ending before the declared length is an error.
pub(crate) struct Body {
    /// Never locked: the mutex makes the reader `Sync`, and `get_mut` returns it.
    reader: Mutex<Box<dyn Read + Send>>,
    length: Option<u64>,
    read: u64,
    /// The time that reads took: nearly all of it is the wait for the client.
    read_time: Duration,
}

impl Body {
    /// Returns a body that a transport reads, with the length that the client declared.
    pub(crate) fn new(reader: impl Read + Send + 'static, length: Option<u64>) -> Body {
        Body { reader: Mutex::new(Box::new(reader)), length, read: 0, read_time: Duration::ZERO }
    }

    /// Returns an empty body.
    pub(crate) fn empty() -> Body {
        Body::new(io::empty(), Some(0))
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        let length = bytes.len() as u64;
        Body::new(io::Cursor::new(bytes), Some(length))
    }
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let outcome = reader.read(buffer);
        self.read_time += began.elapsed();
        let count = outcome?;
        self.read += count as u64;
        let cut = count == 0 && !buffer.is_empty() && self.length.is_some_and(|length| self.read < length);
        if cut { Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early")) } else { Ok(count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Request {
        Request::new(Method::Get, target, Headers::new(), Body::empty())
    }

    #[test]
    fn a_path_has_one_normalized_form() {
        assert_eq!(get("/%D1%84%D0%BE%D1%82%D0%BE/a%20b?x=/y").path(), "/фото/a b");
        assert_eq!(get("/a%2Fb%252e/%41").path(), "/a%2Fb%252e/A");
        assert_eq!(get("/%ff%zz%4").path(), "/%ff%zz%4");
        assert_eq!(get("/100%").path(), get("/100%25").path());
        assert_eq!(get("/%%34%31/%%2e").path(), "/%2541/%25.");
        assert_eq!(get("/a?b=1?c").query_string(), "b=1?c");
    }

    #[test]
    fn a_body_that_is_cut_short_is_an_error() {
        let mut body = Body::new(&b"half"[..], Some(8));
        assert_eq!(io::read_to_string(&mut body).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_error_for_a_large_body_names_the_setting() {
        let mut request =
            Request::new(Method::Post, "/", Headers::new(), Body::new(io::repeat(b'x').take(2 << 20), None));
        let error = request.bytes().unwrap_err();
        assert_eq!(error.status_code(), Status::CONTENT_TOO_LARGE);
        assert_eq!(error.message(), Some("What was sent can have at most 1 MB."));
        assert!(error.chain().contains("ASIDE_MAX_FORM"));
    }

    #[test]
    fn cookies_are_listed_in_order() {
        let headers = Headers::from_iter([("Cookie", "a=1; b=%C3%A9; c"), ("cookie", "a=2")]);
        let request = Request::new(Method::Get, "/", headers, Body::empty());
        let cookies: Vec<_> = request.cookies().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(cookies, ["a=1", "b=é", "a=2"]);
        assert_eq!(request.cookie("b").as_deref(), Some("é"));
    }
}
