//! A response, the types that convert to one, and the tasks deferred until it is sent.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::panic::Location;

use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::cookie::Cookie;
use super::headers::Headers;
use super::stream::disconnect::Disconnect;
use super::stream::source::{InContext, StreamSource, follow};
use super::stream::writer::StreamWriter;
use crate::background::failure::IntoOutcome;
use crate::background::run::Deferred;
use crate::background::scope::Context;
use crate::background::task::Task;
use crate::background::task_context::TaskContext;
use crate::error::{BoxError, Error, Never, OrHere, Result, Status};
use crate::panics::Contained;
use crate::random;

/// The response of a handler.
///
/// ```
/// use aside::{Response, Status};
///
/// let response = Response::text("made").status(Status::CREATED).header("X-Made-By", "hand");
/// assert_eq!(response.status_code(), Status::CREATED);
/// ```
///
/// Setters do not fail: a header value with a line break becomes a logged 500 when the response is finished.
/// [`try_header`](Response::try_header) returns the error at once.
pub struct Response {
    status: Status,
    pub(crate) headers: Headers,
    pub(crate) body: ResponseBody,
    /// The key of the content, if the body is a whole file that any client may read: what is computed from the content may
    /// be reused for each response with this key.
    pub(crate) public_version: Option<String>,
    /// True for a file that belongs to pages, such as a style sheet: its access line is logged at `debug`.
    pub(crate) is_asset: bool,
    error: Option<Error>,
    deferred: Vec<Deferred>,
}

/// The bytes of a response, or their source.
pub(crate) enum ResponseBody {
    /// Bytes in memory.
    Bytes(Cow<'static, [u8]>),
    /// A number of bytes of a file, from its current position.
    File(File, u64),
    /// A number of bytes, read while they are sent.
    Reader(Box<dyn Read + Send>, u64),
    /// Bytes of unknown length, written by a function while they are sent. `is_live` is true if the stream has no end of
    /// its own.
    Stream { write: StreamBody, is_live: bool },
    /// Bytes of unknown length, written by a source that needs no thread while it has nothing to write. It has no end of its
    /// own.
    Source(Box<dyn StreamSource>),
}

/// The function that writes a stream.
pub(crate) type StreamBody = Box<dyn FnOnce(StreamWriter<'_>) -> io::Result<()> + Send>;

impl ResponseBody {
    /// Returns the length, if it is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            ResponseBody::Bytes(bytes) => Some(bytes.len() as u64),
            ResponseBody::File(_, length) | ResponseBody::Reader(_, length) => Some(*length),
            ResponseBody::Stream { .. } | ResponseBody::Source(_) => None,
        }
    }

    /// Writes the whole body, which blocks until it is written.
    ///
    /// # Errors
    /// The error of reading the source, or of writing.
    pub(crate) fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            ResponseBody::Bytes(bytes) => out.write_all(&bytes),
            ResponseBody::File(file, length) => io::copy(&mut file.take(length), out).map(drop),
            ResponseBody::Reader(reader, length) => io::copy(&mut reader.take(length), out).map(drop),
            ResponseBody::Stream { write, .. } => write(StreamWriter::new(out, Disconnect::default())),
            ResponseBody::Source(source) => follow(source, StreamWriter::new(out, Disconnect::default())),
        }
    }
}

impl Default for ResponseBody {
    fn default() -> ResponseBody {
        ResponseBody::Bytes(Cow::Borrowed(&[]))
    }
}

impl Default for Response {
    fn default() -> Response {
        Response {
            status: Status::OK,
            headers: Headers::new(),
            body: ResponseBody::default(),
            public_version: None,
            is_asset: false,
            error: None,
            deferred: Vec::new(),
        }
    }
}

impl Response {
    /// Returns a response with status 200 and an empty body.
    pub fn new() -> Response {
        Response::default()
    }

    /// Returns plain text.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Response {
        Response::bytes("text/plain; charset=utf-8", into_bytes(text.into()))
    }

    /// Returns an HTML page. User input in it must have been escaped; templates do that by themselves.
    pub fn html(html: impl Into<Cow<'static, str>>) -> Response {
        Response::bytes("text/html; charset=utf-8", into_bytes(html.into()))
    }

    /// Returns bytes of this media type.
    pub fn bytes(content_type: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Response {
        let body = ResponseBody::Bytes(bytes.into());
        Response { body, ..Response::default() }.own_header("Content-Type", content_type.to_owned())
    }

    /// Returns a body that a function writes chunk by chunk, on its own thread. Background tasks that the function
    /// starts belong to this request.
    ///
    /// ```
    /// use aside::Response;
    /// use std::io::Write;
    ///
    /// let response = Response::stream("text/csv", |out| {
    ///     (0..1_000_000).try_for_each(|row| writeln!(out, "{row},{}", row * row))
    /// });
    /// ```
    ///
    /// A stream of `text/event-stream` counts as a live page, like [`events`](Response::events): it ends when the server
    /// stops, which waits for other streams, and when the login of its session ends.
    pub fn stream<F>(content_type: &str, write: F) -> Response
    where
        F: FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    {
        let is_live = content_type.starts_with("text/event-stream");
        Response::stream_to(content_type, is_live, move |mut out| write(&mut out))
    }

    /// Returns a stream like [`stream`](Response::stream), for a function that needs to know of a disconnect. `is_live` is
    /// true if the stream has no end of its own.
    pub(crate) fn stream_to<F>(content_type: &str, is_live: bool, write: F) -> Response
    where
        F: FnOnce(StreamWriter<'_>) -> io::Result<()> + Send + 'static,
    {
        let (context, write) = (Context::current(), Contained::new(write));
        let write = move |out: StreamWriter<'_>| {
            let _entered = context.enter();
            write.into_inner()(out)
        };
        let body = ResponseBody::Stream { write: Box::new(write), is_live };
        Response { body, ..Response::default() }.own_header("Content-Type", content_type.to_owned())
    }

    /// Returns a body that a source writes.
    pub(crate) fn from_source(content_type: &str, source: impl StreamSource + 'static) -> Response {
        let source = InContext { context: Context::current(), source: Contained::new(source) };
        let body = ResponseBody::Source(Box::new(source));
        Response { body, ..Response::default() }.header("Content-Type", content_type)
    }

    /// Sets the status.
    ///
    /// ```
    /// use aside::{Response, Status};
    ///
    /// assert_eq!(Response::text("taken").status(409).status_code(), Status::CONFLICT);
    /// ```
    ///
    /// A number outside 100 to 599 makes the response a logged 500.
    #[track_caller]
    pub fn status(mut self, status: impl Into<Status>) -> Response {
        let (status, problem) = status.into().or_internal();
        self.status = status;
        if let Some(problem) = problem {
            self.error = Some(Error::internal(problem));
        }
        self
    }

    /// Returns the status.
    pub fn status_code(&self) -> Status {
        self.status
    }

    /// Sets a header, and replaces those of the same name.
    pub fn header(self, name: &str, value: impl Into<String>) -> Response {
        self.change(name, value.into(), |headers, value| headers.set(name, value))
    }

    /// Marks the response as a file that belongs to pages.
    pub(crate) fn marked_as_asset(self) -> Response {
        Response { is_asset: true, ..self }
    }

    /// Sets a header with a static name, and perhaps a static value, which are not copied.
    pub(crate) fn own_header(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Response {
        self.change(name, value.into(), |headers, value| headers.put(name, value))
    }

    /// Adds a header, and keeps those of the same name.
    pub fn append_header(self, name: &str, value: impl Into<String>) -> Response {
        self.change(name, value.into(), |headers, value| headers.append(name, value))
    }

    fn change<V: AsRef<str>>(mut self, name: &str, value: V, change: impl FnOnce(&mut Headers, V)) -> Response {
        match Headers::check(name, value.as_ref()) {
            Ok(()) => change(&mut self.headers, value),
            Err(error) => self.refuse(error),
        }
        self
    }

    fn refuse(&mut self, error: Error) {
        (self.status, self.error) = (error.status_code(), Some(error));
    }

    /// Sets a header, or returns the reason why it is invalid.
    ///
    /// # Errors
    /// 500 if the name is not a token, or the value has a control character such as CR, LF or NUL.
    #[track_caller]
    pub fn try_header(self, name: &str, value: impl Into<String>) -> Result<Response> {
        let value = value.into();
        Headers::check(name, &value).or_here()?;
        Ok(self.header(name, value))
    }

    /// Adds a cookie: a pair of name and value, or a [`Cookie`] with attributes. Its value is percent-encoded, and
    /// [`Request::cookie`](crate::Request::cookie) decodes it.
    ///
    /// ```
    /// use aside::Response;
    ///
    /// let response = Response::text("hi").cookie(("language", "français"));
    /// assert_eq!(response.headers().get("Set-Cookie"), Some("language=fran%C3%A7ais"));
    /// ```
    ///
    /// A name that is not a token, or a path or domain with a semicolon, makes the response a logged 500.
    pub fn cookie(mut self, cookie: impl Into<Cookie>) -> Response {
        let cookie = cookie.into();
        match cookie.check() {
            Ok(()) => self.headers.add("Set-Cookie", cookie.to_string()),
            Err(error) => self.refuse(error),
        }
        self
    }

    /// Returns the header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Returns the header fields for a hook to change.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// Returns the body, if it is in memory.
    ///
    /// ```
    /// use aside::Response;
    ///
    /// let response = Response::text("hello");
    /// assert_eq!(response.body()?, b"hello");
    /// # aside::ok(())
    /// ```
    ///
    /// # Errors
    /// 500 if the body is a stream or a file, which is read while it is sent.
    #[track_caller]
    pub fn body(&self) -> Result<&[u8]> {
        match &self.body {
            ResponseBody::Bytes(bytes) => Ok(bytes),
            _ => Err(Error::internal("the body is streamed, and cannot be read before it is sent")),
        }
    }

    /// Replaces the body, if it is in memory.
    ///
    /// ```
    /// use aside::{App, Request, Response};
    ///
    /// App::new().middleware(|req, next| {
    ///     let mut response = next.run(req)?;
    ///     let body = String::from_utf8_lossy(response.body()?).replace("colour", "color");
    ///     response.set_body(body)?;
    ///     Ok(response)
    /// });
    /// ```
    ///
    /// The `Content-Length` is that of the new body, and an `ETag` changes with it. `Last-Modified` and `Content-Digest`
    /// are removed, since they describe the former body; the other headers stay.
    ///
    /// # Errors
    /// 500 if the body is a stream or a file, which is read while it is sent.
    #[track_caller]
    pub fn set_body(&mut self, body: impl Into<Vec<u8>>) -> Result<()> {
        self.body()?;
        let body = body.into();
        if self.headers.contains("ETag") {
            let digest = random::hex(&Sha256::digest(&body)[..16]);
            self.headers.put("ETag", format!("\"{digest}\""));
        }
        ["Content-Length", "Last-Modified", "Content-Digest"].iter().for_each(|name| self.headers.remove(name));
        self.body = ResponseBody::Bytes(body.into());
        Ok(())
    }

    /// Returns the error that this response reports.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns true if the body is a stream, which gets no length and no compression.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.body, ResponseBody::Stream { .. } | ResponseBody::Source(_))
    }

    /// Returns true if the body is a live page: a stream that ends with its client, its login or the server.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.body, ResponseBody::Stream { is_live: true, .. } | ResponseBody::Source(_))
    }

    /// Runs a function in the background after the response: once its last byte is sent, or the client has
    /// disconnected.
    ///
    /// One response can defer any number of tasks. Each task has its own thread while it runs; its errors and panics go
    /// to the log, as with [`background`](crate::background()).
    ///
    /// ```
    /// use aside::{Request, Response, redirect};
    ///
    /// fn subscribe(_req: &mut Request) -> Response {
    ///     redirect("/thanks").background(|| std::fs::write("data/newsletter.txt", "one more"))
    /// }
    /// ```
    #[track_caller]
    pub fn background<F, R>(mut self, f: F) -> Response
    where
        F: FnOnce() -> R + Send + 'static,
        R: IntoOutcome,
    {
        let name = Task::new().options::<F>(Location::caller());
        self.deferred.push(Deferred::new(name, move |_| f()));
        self
    }

    /// Runs a background task after the response, with a name, a key to find it by after the redirect, or a deadline.
    ///
    /// ```
    /// use aside::{Request, Response, Task, redirect};
    ///
    /// fn upload(_req: &mut Request) -> Response {
    ///     redirect("/photos/17").task(Task::named("sizes").key("photo-17"), |task| {
    ///         task.progress(1, 3);
    ///     })
    /// }
    /// ```
    #[track_caller]
    pub fn task<F, R>(mut self, task: Task, f: F) -> Response
    where
        F: FnOnce(&TaskContext) -> R + Send + 'static,
        R: IntoOutcome,
    {
        let name = task.options::<F>(Location::caller());
        self.deferred.push(Deferred::new(name, f));
        self
    }

    /// Takes the deferred tasks, for the transport that sends the response.
    pub(crate) fn take_deferred(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.deferred)
    }

    /// Returns the number of tasks that are deferred until the response is sent.
    pub(crate) fn deferred(&self) -> u32 {
        self.deferred.len() as u32
    }

    /// Adds the deferred tasks of a response that this one replaces.
    pub(crate) fn with_deferred(mut self, mut deferred: Vec<Deferred>) -> Response {
        deferred.append(&mut self.deferred);
        self.deferred = deferred;
        self
    }

    /// Returns the response to an error. Its page is rendered when the response is finished.
    pub(crate) fn from_error(error: Error) -> Response {
        Response { status: error.status_code(), error: Some(error), ..Response::default() }
    }

    /// Turns this response into the response to an error. Its deferred tasks stay.
    pub(crate) fn fail(&mut self, error: Error) {
        let deferred = self.take_deferred();
        *self = Response::from_error(error).with_deferred(deferred);
    }

    /// Takes the error, for the code that renders its page.
    pub(crate) fn take_error(&mut self) -> Option<Error> {
        self.error.take()
    }
}

fn into_bytes(text: Cow<'static, str>) -> Cow<'static, [u8]> {
    match text {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    }
}

/// Without the body, which may be large or not available yet.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// A value that a handler may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a response",
    label = "this handler returns a value that is or contains `{Self}`",
    note = "a handler returns (), text, Html, Json, a Status, a Response, (Status, one of these), or a Result of them",
    note = "an `async fn` cannot be a handler: write a plain `fn`, which may block, since each request has a thread"
)]
pub trait IntoResponse {
    /// Converts the value into a response.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for () {
    fn into_response(self) -> Response {
        Response::new()
    }
}

#[diagnostic::do_not_recommend]
impl IntoResponse for Never {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for &str {
    fn into_response(self) -> Response {
        Response::text(self.to_owned())
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        if self.code() >= 400 || self.code() < 100 {
            Response::from_error(Error::from(self))
        } else {
            Response::new().status(self)
        }
    }
}

impl<R: IntoResponse> IntoResponse for (Status, R) {
    fn into_response(self) -> Response {
        self.1.into_response().status(self.0)
    }
}

impl<R: IntoResponse, E: Into<BoxError>> IntoResponse for Result<R, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(value) => value.into_response(),
            Err(error) => Response::from_error(Error::from_box(error)),
        }
    }
}

/// A response that is the JSON of a value.
///
/// ```
/// use aside::{Json, Request};
///
/// fn numbers(_req: &mut Request) -> Json<Vec<u32>> {
///     Json(vec![1, 2, 3])
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => Response::bytes("application/json", bytes),
            Err(error) => Response::from_error(Error::from(error).context("the value cannot be written as JSON")),
        }
    }
}

/// A response that is an HTML page.
#[derive(Debug, Clone)]
pub struct Html<T>(pub T);

impl<T: Into<Cow<'static, str>>> IntoResponse for Html<T> {
    fn into_response(self) -> Response {
        Response::html(self.0)
    }
}

/// Redirects to another page of this site with status 303, so that the browser requests it with GET after a form.
///
/// ```
/// use aside::{Status, redirect};
///
/// assert_eq!(redirect("/orders").status_code(), Status::SEE_OTHER);
/// ```
///
/// It accepts paths of this site only. Another target becomes a 500 with an explanation in the log: use [`redirect_or`]
/// for a target from the client, and [`redirect_to_url`] for another site.
pub fn redirect(path: &str) -> Response {
    if is_local(path) {
        return redirect_to_url(path);
    }
    let message = format!(
        "redirect({path:?}): not a path of this site; use redirect_or for a target from the client, \
         redirect_to_url for another site"
    );
    Response::from_error(Error::internal(message))
}

/// Redirects to the page that the client named (`?next=/orders`) if it is one of this site, and else to the fallback.
///
/// ```
/// use aside::redirect_or;
///
/// assert_eq!(redirect_or("/orders", "/").headers().get("Location"), Some("/orders"));
/// assert_eq!(redirect_or("//evil.example", "/").headers().get("Location"), Some("/"));
/// ```
pub fn redirect_or(next: &str, fallback: &str) -> Response {
    redirect(if is_local(next) { next } else { fallback })
}

/// Redirects to any URL with status 303. Never pass client input to it.
pub fn redirect_to_url(url: &str) -> Response {
    Response::new().status(Status::SEE_OTHER).own_header("Location", encode_url(url))
}

/// Returns true if a browser that resolves this path stays on the site: it has one slash and no second slash or
/// backslash, which would name a host, and no control character, which a browser removes first (WHATWG URL, section
/// 4.4).
fn is_local(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.first() == Some(&b'/') && !matches!(bytes.get(1), Some(b'/' | b'\\')) && !path.chars().any(char::is_control)
}

/// Encodes the characters that a URL cannot have: spaces, quotes and characters outside ASCII. Existing escapes stay.
fn encode_url(url: &str) -> String {
    // Control characters stay: a header value with one is refused, not repaired.
    const NOT_IN_A_URL: &AsciiSet =
        &AsciiSet::EMPTY.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`').add(b'{').add(b'}');
    utf8_percent_encode(url, NOT_IN_A_URL).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_this_site_are_local() {
        for path in ["/", "/a", "/a//b", "/%2f/x", "/?next=//x", "/фото"] {
            assert!(is_local(path), "{path}");
        }
        for path in
            ["", "a", "//x", "/\\x", "\\\\x", "https://x", "https:x", "/\t/x", "\t//x", "/a\r\nb", " /a", "/\u{85}/"]
        {
            assert!(!is_local(path), "{path:?}");
        }
    }

    #[test]
    fn a_location_is_ascii() {
        let response = redirect("/фото 1?a=%20");
        assert_eq!(response.headers().get("location"), Some("/%D1%84%D0%BE%D1%82%D0%BE%201?a=%20"));
    }

    #[test]
    fn a_number_that_is_not_a_status_becomes_an_error_that_says_so() {
        for code in [0, 99, 600, u16::MAX] {
            for response in [Response::text("hi").status(code), Status::from(code).into_response()] {
                let said = format!("{code} is not a status: those are 100 to 599");
                assert_eq!(response.status_code(), Status::INTERNAL_SERVER_ERROR);
                assert!(response.error().unwrap().chain().starts_with(&said), "{response:?}");
            }
        }
        for code in [100, 422, 599] {
            let response = Response::text("hi").status(code);
            assert!(response.status_code().code() == code && response.error().is_none());
        }
    }

    #[test]
    fn a_header_with_a_line_break_becomes_an_error() {
        let response = Response::text("hi").header("X-A", "1\r\nSet-Cookie: a=b");
        assert_eq!(response.error().unwrap().status_code(), Status::INTERNAL_SERVER_ERROR);
        assert!(!response.headers().contains("X-A"));
        assert!(Response::new().try_header("X-A", "a\0b").is_err());
        assert!(Response::new().try_header("X A", "b").is_err());
        assert!(redirect_to_url("/a\r\nb").error().is_some());
    }

    #[test]
    fn a_cookie_value_is_encoded() {
        let response = Response::new().cookie(("c", "a; Path=/x é"));
        assert_eq!(response.headers().get("Set-Cookie"), Some("c=a%3B%20Path%3D%2Fx%20%C3%A9"));
    }

    #[test]
    fn an_invalid_cookie_becomes_an_error() {
        for cookie in [Cookie::new("a b", "c"), Cookie::new("a", "c").path("/; Secure")] {
            let response = Response::new().cookie(cookie);
            assert_eq!(response.error().unwrap().status_code(), Status::INTERNAL_SERVER_ERROR);
            assert!(response.headers().is_empty());
        }
    }
}
