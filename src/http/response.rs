//! One response, what can become one, and the work set aside on it.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::panic::Location;

use cookie::Cookie;
use percent_encoding::{AsciiSet, utf8_percent_encode};
use serde::Serialize;

use super::disconnect::Disconnect;
use super::feed::{Feed, InContext, follow};
use super::headers::Headers;
use super::outlet::Outlet;
use crate::background::failure::IntoOutcome;
use crate::background::scope::Context;
use crate::background::task::{Deferred, Task, TaskContext};
use crate::error::{BoxError, Error, Never, Result, Status};
use crate::panics::Contained;

/// What a handler answers.
///
/// ```
/// use aside::{Response, Status};
///
/// let response = Response::text("made").status(Status::CREATED).header("X-Made-By", "hand");
/// assert_eq!(response.status_code(), Status::CREATED);
/// ```
///
/// Setters do not fail in the hand: a header value with a line break becomes a 500, logged, when the response is
/// finished. [`try_header`](Response::try_header) gives the error at once.
pub struct Response {
    status: Status,
    pub(crate) headers: Headers,
    pub(crate) body: ResponseBody,
    error: Option<Error>,
    set_aside: Vec<Deferred>,
}

/// The bytes of a response, or where they come from.
pub(crate) enum ResponseBody {
    /// All there.
    Bytes(Cow<'static, [u8]>),
    /// That many bytes of a file, from where it stands.
    File(File, u64),
    /// That many bytes, read as they go out.
    Reader(Box<dyn Read + Send>, u64),
    /// Written as they come up, without a length.
    Stream(StreamBody),
    /// The same, by somebody who need not be waited for.
    Feed(Box<dyn Feed>),
}

/// What writes a stream.
pub(crate) type StreamBody = Box<dyn FnOnce(Outlet<'_>) -> io::Result<()> + Send>;

impl ResponseBody {
    /// How long it is, when that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            ResponseBody::Bytes(bytes) => Some(bytes.len() as u64),
            ResponseBody::File(_, length) | ResponseBody::Reader(_, length) => Some(*length),
            ResponseBody::Stream(_) | ResponseBody::Feed(_) => None,
        }
    }

    /// Writes all of it, however long that takes.
    ///
    /// # Errors
    /// When it cannot be read, or written.
    pub(crate) fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            ResponseBody::Bytes(bytes) => out.write_all(&bytes),
            ResponseBody::File(file, length) => io::copy(&mut file.take(length), out).map(drop),
            ResponseBody::Reader(reader, length) => io::copy(&mut reader.take(length), out).map(drop),
            ResponseBody::Stream(write) => write(Outlet::new(out, Disconnect::default())),
            ResponseBody::Feed(feed) => follow(feed, Outlet::new(out, Disconnect::default())),
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
            error: None,
            set_aside: Vec::new(),
        }
    }
}

impl Response {
    /// 200 and nothing more.
    pub fn new() -> Response {
        Response::default()
    }

    /// Plain text.
    pub fn text(text: impl Into<Cow<'static, str>>) -> Response {
        Response::bytes("text/plain; charset=utf-8", into_bytes(text.into()))
    }

    /// A page. What a visitor typed must have been escaped; templates do that by themselves.
    pub fn html(html: impl Into<Cow<'static, str>>) -> Response {
        Response::bytes("text/html; charset=utf-8", into_bytes(html.into()))
    }

    /// Bytes of that media type.
    pub fn bytes(content_type: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Response {
        let body = ResponseBody::Bytes(bytes.into());
        Response { body, ..Response::default() }.own_header("Content-Type", content_type.to_owned())
    }

    /// A body written as it comes up, chunk by chunk, on a thread of its own. What it sets aside is still this request's.
    ///
    /// ```
    /// use aside::Response;
    /// use std::io::Write;
    ///
    /// let response = Response::stream("text/csv", |out| {
    ///     (0..1_000_000).try_for_each(|row| writeln!(out, "{row},{}", row * row))
    /// });
    /// ```
    pub fn stream<F>(content_type: &str, write: F) -> Response
    where
        F: FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    {
        Response::stream_to(content_type, move |mut out| write(&mut out))
    }

    /// The same for who wants to know when nobody reads any more.
    pub(crate) fn stream_to<F>(content_type: &str, write: F) -> Response
    where
        F: FnOnce(Outlet<'_>) -> io::Result<()> + Send + 'static,
    {
        let (context, write) = (Context::current(), Contained::new(write));
        let body = ResponseBody::Stream(Box::new(move |out| {
            let _entered = context.enter();
            write.into_inner()(out)
        }));
        Response { body, ..Response::default() }.own_header("Content-Type", content_type.to_owned())
    }

    /// A body that a feed writes.
    pub(crate) fn feed(content_type: &str, feed: impl Feed + 'static) -> Response {
        let feed = InContext { context: Context::current(), feed: Contained::new(feed) };
        let body = ResponseBody::Feed(Box::new(feed));
        Response { body, ..Response::default() }.header("Content-Type", content_type)
    }

    /// The same response with that status.
    pub fn status(mut self, status: Status) -> Response {
        self.status = status;
        self
    }

    /// Its status.
    pub fn status_code(&self) -> Status {
        self.status
    }

    /// The same response with that header, in place of those of the same name.
    pub fn header(self, name: &str, value: impl Into<String>) -> Response {
        self.change(name, value.into(), |headers, value| headers.set(name, value))
    }

    /// The same with a name that is part of the program, and perhaps its value too, which are not copied.
    pub(crate) fn own_header(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Response {
        self.change(name, value.into(), |headers, value| headers.put(name, value))
    }

    /// The same response with that header beside those of the same name.
    pub fn append_header(self, name: &str, value: impl Into<String>) -> Response {
        self.change(name, value.into(), |headers, value| headers.append(name, value))
    }

    fn change<V: AsRef<str>>(mut self, name: &str, value: V, change: impl FnOnce(&mut Headers, V)) -> Response {
        match Headers::check(name, value.as_ref()) {
            Ok(()) => change(&mut self.headers, value),
            Err(error) => (self.status, self.error) = (error.status(), Some(error)),
        }
        self
    }

    /// The same response with that header, or the reason why it cannot be one.
    ///
    /// # Errors
    /// When the name is no token, or the value has a control character such as CR, LF or NUL.
    pub fn try_header(self, name: &str, value: impl Into<String>) -> Result<Response> {
        let value = value.into();
        Headers::check(name, &value)?;
        Ok(self.header(name, value))
    }

    /// The same response with that cookie; its value is percent-encoded, and decoded again by
    /// [`Request::cookie`](crate::Request::cookie).
    pub fn cookie<'c>(self, cookie: impl Into<Cookie<'c>>) -> Response {
        let cookie = cookie.into();
        self.append_header("Set-Cookie", cookie.encoded().to_string())
    }

    /// Its header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Its header fields, to be changed in place by a hook.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The error that this response is the answer to.
    pub fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Whether the body comes as a stream, for which some things are not done: a length, compression.
    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.body, ResponseBody::Stream(_) | ResponseBody::Feed(_))
    }

    /// Returns true if it is a stream of server-sent events.
    pub(crate) fn is_event_stream(&self) -> bool {
        let media_type = self.headers.get("Content-Type").unwrap_or("");
        self.is_stream() && media_type.starts_with("text/event-stream")
    }

    /// Sets work aside: it begins when the last byte of this response has gone out, or the visitor has left.
    ///
    /// Any number of times for one response. Each task has a thread to itself while it runs, its errors and panics go to
    /// the log, as with [`background`](crate::background()).
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
        let name = Task::new().naming::<F>(Location::caller());
        self.set_aside.push(Deferred::new(name, move |_| f()));
        self
    }

    /// The same with a name, a key to find it by after the redirect, or a deadline.
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
        let name = task.naming::<F>(Location::caller());
        self.set_aside.push(Deferred::new(name, f));
        self
    }

    /// Takes the work that was set aside out, for the one who sends the response.
    pub(crate) fn take_set_aside(&mut self) -> Vec<Deferred> {
        std::mem::take(&mut self.set_aside)
    }

    /// Puts work set aside on it that stood on another response, which this one replaces.
    pub(crate) fn with_set_aside(mut self, mut set_aside: Vec<Deferred>) -> Response {
        set_aside.append(&mut self.set_aside);
        self.set_aside = set_aside;
        self
    }

    /// The answer to an error. Its page is made when the response is finished.
    pub(crate) fn from_error(error: Error) -> Response {
        Response { status: error.status(), error: Some(error), ..Response::default() }
    }

    /// Makes it the answer to an error. What was set aside on it stays.
    pub(crate) fn fail(&mut self, error: Error) {
        let set_aside = self.take_set_aside();
        *self = Response::from_error(error).with_set_aside(set_aside);
    }

    /// Takes the error out, for the one who makes its page.
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

/// Without the body, which may be large, or not there yet.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("error", &self.error)
            .finish_non_exhaustive()
    }
}

/// What a handler may return.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a response",
    note = "a handler returns (), text, Html, Json, a Status, a Response, (Status, one of these), or a Result of them"
)]
pub trait IntoResponse {
    /// The response it means.
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
        if self.code() >= 400 { Response::from_error(Error::from(self)) } else { Response::new().status(self) }
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

/// A value as JSON.
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

/// Text that is a page.
#[derive(Debug, Clone)]
pub struct Html<T>(pub T);

impl<T: Into<Cow<'static, str>>> IntoResponse for Html<T> {
    fn into_response(self) -> Response {
        Response::html(self.0)
    }
}

/// To another page of this site, after a form: 303, so that the browser asks for it with GET.
///
/// ```
/// use aside::{Status, redirect};
///
/// assert_eq!(redirect("/orders").status_code(), Status::SEE_OTHER);
/// ```
///
/// It takes paths of this site only. Another target becomes a 500 that the log explains: for one that a visitor gave take
/// [`redirect_or`], for another site [`redirect_to_url`].
pub fn redirect(path: &str) -> Response {
    if is_local(path) {
        return redirect_to_url(path);
    }
    let words = format!(
        "redirect({path:?}): not a path of this site; use redirect_or for a target that a visitor gave, \
         redirect_to_url for another site"
    );
    Response::from_error(Error::internal(words))
}

/// To the page that a visitor named (`?next=/orders`), when it is one of this site, and to the fallback when it is not.
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

/// To any address, 303. Never give it what a visitor sent.
pub fn redirect_to_url(url: &str) -> Response {
    Response::new().status(Status::SEE_OTHER).own_header("Location", encode_url(url))
}

/// Whether a browser that resolves this stays on the site: one slash and then no other of either kind, which would name a
/// host, and no control character, which a browser drops before it looks (WHATWG URL, section 4.4).
fn is_local(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.first() == Some(&b'/') && !matches!(bytes.get(1), Some(b'/' | b'\\')) && !path.chars().any(char::is_control)
}

/// What a URL may not have as it is: spaces, quotes and letters outside ASCII. Escapes that are there stay.
fn encode_url(url: &str) -> String {
    // Control characters are left alone: a header value that has one is refused, not mended.
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
    fn a_header_with_a_line_break_becomes_an_error() {
        let response = Response::text("hi").header("X-A", "1\r\nSet-Cookie: a=b");
        assert_eq!(response.error().unwrap().status(), Status::INTERNAL_SERVER_ERROR);
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
}
