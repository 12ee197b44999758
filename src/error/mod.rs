//! Errors, and the status of the response that they become.
//!
//! [`Error`] is one pointer: a [`Status`], a message for the user, a source for the log, and the location where it was
//! created. `?` converts any other error into it, as a 500 whose chain is logged and never shown on the page.
//!
//! ```
//! use aside::error::BoxError;
//! use aside::{Error, Status};
//!
//! let error = Error::from_box(BoxError::from("disk full")).context("cannot save the order");
//! assert_eq!(error.chain(), "cannot save the order: disk full");
//! assert_eq!(error.status_code(), Status::INTERNAL_SERVER_ERROR);
//! ```

pub(crate) mod backtraces;
pub(crate) mod frames;
pub(crate) mod location;

use std::backtrace::Backtrace;
use std::error::Error as StdError;
use std::fmt;
use std::iter::successors;
use std::panic::Location;

use self::backtraces::Trace;
use crate::log_text::prefix;
use crate::panics;

/// The boxed error of the standard library, as handlers and tasks may return it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// A result whose error type is [`Error`] by default.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Adds a location to the errors of a function that the application calls.
pub(crate) trait OrHere {
    /// Returns the result; an error without a location gets the location of the caller. In a function with
    /// `#[track_caller]` this is the caller of that function: the line that the user can change.
    fn or_here(self) -> Self;
}

impl<T> OrHere for Result<T> {
    #[track_caller]
    fn or_here(self) -> Self {
        let caller = Location::caller();
        self.map_err(|error| error.or_at(caller))
    }
}

/// Ends a closure that uses `?` without naming the error type.
///
/// ```
/// use aside::background;
///
/// background(|| {
///     let _port: u16 = "8000".parse()?;
///     aside::ok(())
/// });
/// ```
///
/// With `Ok(())` there the compiler asks for a type: "type annotations needed for `Result<(), E>`" (E0282), because `?`
/// could convert into any error.
///
/// # Errors
/// None: it returns `Ok`, with the error type [`Error`].
pub fn ok<T>(value: T) -> Result<T> {
    Ok(value)
}

/// An HTTP status code (RFC 9110, section 15).
///
/// ```
/// use aside::Status;
///
/// assert_eq!(Status::NOT_FOUND, 404);
/// assert_eq!(Status::new(418).reason(), "");
/// assert_eq!(Status::CREATED.to_string(), "201 Created");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Status(u16);

macro_rules! statuses {
    ($($code:literal $name:ident $reason:literal,)*) => {
        impl Status {
            $(#[doc = concat!("`", $code, " ", $reason, "`")] pub const $name: Status = Status($code);)*

            /// Returns the reason phrase, or an empty text for a code without a registered one.
            pub const fn reason(self) -> &'static str {
                match self.0 {
                    $($code => $reason,)*
                    _ => "",
                }
            }
        }
    };
}

statuses! {
    100 CONTINUE "Continue",
    200 OK "OK",
    201 CREATED "Created",
    202 ACCEPTED "Accepted",
    204 NO_CONTENT "No Content",
    206 PARTIAL_CONTENT "Partial Content",
    301 MOVED_PERMANENTLY "Moved Permanently",
    302 FOUND "Found",
    303 SEE_OTHER "See Other",
    304 NOT_MODIFIED "Not Modified",
    307 TEMPORARY_REDIRECT "Temporary Redirect",
    308 PERMANENT_REDIRECT "Permanent Redirect",
    400 BAD_REQUEST "Bad Request",
    401 UNAUTHORIZED "Unauthorized",
    403 FORBIDDEN "Forbidden",
    404 NOT_FOUND "Not Found",
    405 METHOD_NOT_ALLOWED "Method Not Allowed",
    406 NOT_ACCEPTABLE "Not Acceptable",
    408 REQUEST_TIMEOUT "Request Timeout",
    409 CONFLICT "Conflict",
    410 GONE "Gone",
    411 LENGTH_REQUIRED "Length Required",
    412 PRECONDITION_FAILED "Precondition Failed",
    413 CONTENT_TOO_LARGE "Content Too Large",
    414 URI_TOO_LONG "URI Too Long",
    415 UNSUPPORTED_MEDIA_TYPE "Unsupported Media Type",
    416 RANGE_NOT_SATISFIABLE "Range Not Satisfiable",
    417 EXPECTATION_FAILED "Expectation Failed",
    421 MISDIRECTED_REQUEST "Misdirected Request",
    422 UNPROCESSABLE_CONTENT "Unprocessable Content",
    428 PRECONDITION_REQUIRED "Precondition Required",
    429 TOO_MANY_REQUESTS "Too Many Requests",
    431 REQUEST_HEADER_FIELDS_TOO_LARGE "Request Header Fields Too Large",
    500 INTERNAL_SERVER_ERROR "Internal Server Error",
    501 NOT_IMPLEMENTED "Not Implemented",
    502 BAD_GATEWAY "Bad Gateway",
    503 SERVICE_UNAVAILABLE "Service Unavailable",
    504 GATEWAY_TIMEOUT "Gateway Timeout",
    505 HTTP_VERSION_NOT_SUPPORTED "HTTP Version Not Supported",
}

impl Status {
    /// Creates a status from its number.
    ///
    /// # Panics
    /// If the number is not one of 100 to 599, which is a mistake in the program.
    pub const fn new(code: u16) -> Status {
        assert!(code >= 100 && code <= 599, "an HTTP status is a number from 100 to 599");
        Status(code)
    }

    /// Returns the status, or 500 and the reason if the number is not a status.
    pub(crate) fn or_internal(self) -> (Status, Option<String>) {
        match self.0 {
            100..=599 => (self, None),
            code => (Status::INTERNAL_SERVER_ERROR, Some(format!("{code} is not a status: those are 100 to 599"))),
        }
    }

    /// Returns the number.
    pub const fn code(self) -> u16 {
        self.0
    }

    /// Returns true for 400 to 499: a fault of the client.
    pub const fn is_client_error(self) -> bool {
        self.0 >= 400 && self.0 < 500
    }

    /// Returns true for 500 to 599: a fault of the server.
    pub const fn is_server_error(self) -> bool {
        self.0 >= 500
    }

    /// Returns true if a response with this status never has a body: 1xx, 204 and 304.
    pub const fn is_bodiless(self) -> bool {
        matches!(self.0, 100..=199 | 204 | 304)
    }
}

/// A number outside 100 to 599 becomes a logged 500 where it is used: in [`Error::status`] or
/// [`Response::status`](crate::Response::status), for example.
impl From<u16> for Status {
    fn from(code: u16) -> Status {
        Status(code)
    }
}

/// A status is equal to its number: `response.status_code() == 404`.
impl PartialEq<u16> for Status {
    fn eq(&self, code: &u16) -> bool {
        self.0 == *code
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0, self.reason())
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({})", self.0)
    }
}

/// An error with the status of the response that it becomes.
///
/// ```
/// use aside::{Error, Request, Result, Status};
///
/// fn photo(req: &mut Request) -> Result<String> {
///     let id: u64 = req.param("id")?;
///     if id > 1_000 {
///         return Err(Error::not_found("There is no such photo."));
///     }
///     let text = std::fs::read_to_string(format!("data/{id}.txt"))?; // any error: a 500, its chain in the log
///     Ok(text)
/// }
///
/// let error: Error = std::io::Error::other("disk on fire").into();
/// assert_eq!(error.status_code(), Status::INTERNAL_SERVER_ERROR);
/// assert_eq!(error.chain(), "disk on fire");
/// ```
///
/// It does not implement [`std::error::Error`], so that `?` can convert every error that does. It converts into
/// `Box<dyn std::error::Error>` (with `Send + Sync` or without), and [`Error::from_box`] restores it with its status.
pub struct Error(Box<Inner>);

struct Inner {
    status: Status,
    message: Option<String>,
    source: Option<BoxError>,
    location: Option<Origin>,
    trace: Option<Trace>,
}

/// The location where an error was created.
#[derive(Clone)]
enum Origin {
    Here(&'static Location<'static>),
    /// In another process, as file and line.
    Child(String),
}

/// Catches a panic in the drop of an application's error, wherever its last reference is dropped.
impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(source) = self.source.take() {
            panics::discard(source);
        }
    }
}

/// The largest number of sources in a chain: an error that is its own source must not block the log.
const DEEPEST: usize = 64;

impl Error {
    /// Creates an error with a status and a message for the user.
    #[track_caller]
    pub fn new(status: impl Into<Status>, message: impl Into<String>) -> Error {
        let ((status, problem), message) = (status.into().or_internal(), message.into());
        let message = problem.map_or(message.clone(), |problem| format!("{problem}: {message}"));
        Error::made_at(Location::caller(), status, Some(message), None)
    }

    fn made_at(
        caller: &'static Location<'static>,
        status: Status,
        message: Option<String>,
        source: Option<BoxError>,
    ) -> Error {
        // Capturing is expensive, and a client can request any number of missing pages: only server errors have a backtrace.
        let trace = if status.is_server_error() { Trace::capture() } else { None };
        let location = location::own(caller).map(Origin::Here);
        Error(Box::new(Inner { status, message, source, location, trace }))
    }

    /// Creates the error of another process, with its location and backtrace there.
    #[cfg(feature = "isolate")]
    pub(crate) fn of_child(status: Status, message: String, location: Option<String>, trace: Option<Trace>) -> Error {
        let (message, location) = (Some(message), location.map(Origin::Child));
        Error(Box::new(Inner { status, message, source: None, location, trace }))
    }

    /// Creates a 400: the request is malformed.
    #[track_caller]
    pub fn bad_request(message: impl Into<String>) -> Error {
        Error::new(Status::BAD_REQUEST, message)
    }

    /// Creates a 401: the user is not logged in.
    #[track_caller]
    pub fn unauthorized(message: impl Into<String>) -> Error {
        Error::new(Status::UNAUTHORIZED, message)
    }

    /// Creates a 403: the user is not allowed to do this.
    #[track_caller]
    pub fn forbidden(message: impl Into<String>) -> Error {
        Error::new(Status::FORBIDDEN, message)
    }

    /// Creates a 404: the page or record does not exist.
    #[track_caller]
    pub fn not_found(message: impl Into<String>) -> Error {
        Error::new(Status::NOT_FOUND, message)
    }

    /// Creates a 409: the request conflicts with the current state.
    #[track_caller]
    pub fn conflict(message: impl Into<String>) -> Error {
        Error::new(Status::CONFLICT, message)
    }

    /// Creates a 413: the request exceeds a limit. Name the setting in the message.
    #[track_caller]
    pub fn too_large(message: impl Into<String>) -> Error {
        Error::new(Status::CONTENT_TOO_LARGE, message)
    }

    /// Creates a 422: the input is well-formed but invalid. Name the field in the message.
    #[track_caller]
    pub fn unprocessable(message: impl Into<String>) -> Error {
        Error::new(Status::UNPROCESSABLE_CONTENT, message)
    }

    /// Creates a 500: a fault of the server. The message is logged, and shown on the page only in development.
    #[track_caller]
    pub fn internal(message: impl Into<String>) -> Error {
        Error::new(Status::INTERNAL_SERVER_ERROR, message)
    }

    /// Converts any error that can be boxed: another error, a boxed error, or a string. A boxed [`Error`] is restored
    /// unchanged.
    #[track_caller]
    pub fn from_box(error: impl Into<BoxError>) -> Error {
        match error.into().downcast::<Carrier>() {
            Ok(carrier) => carrier.0,
            Err(source) => Error::made_at(Location::caller(), Status::INTERNAL_SERVER_ERROR, None, Some(source)),
        }
    }

    /// Returns the error with this location, if its own is unknown.
    fn or_at(mut self, caller: &'static Location<'static>) -> Error {
        let caller = || location::own(caller).map(Origin::Here);
        self.0.location = self.0.location.take().or_else(caller);
        self
    }

    /// Sets the status.
    ///
    /// ```
    /// use aside::Error;
    ///
    /// assert_eq!(Error::internal("taken").status(409).status_code().code(), 409);
    /// ```
    ///
    /// A number outside 100 to 599 results in a 500 whose message names the number.
    #[track_caller]
    pub fn status(self, status: impl Into<Status>) -> Error {
        let (status, problem) = status.into().or_internal();
        let mut error = match problem {
            Some(problem) => self.context(problem),
            None => self,
        };
        error.0.status = status;
        error
    }

    /// Adds a message in front of the chain, which names the failed operation. The location and the backtrace stay.
    pub fn context(mut self, message: impl Into<String>) -> Error {
        let status = self.0.status;
        let (location, trace) = (self.0.location.clone(), self.0.trace.take());
        let source = Some(BoxError::from(self));
        Error(Box::new(Inner { status, message: Some(message.into()), source, location, trace }))
    }

    /// Adds what the developer needs to know beside the message for the user, such as the name of a setting. The log has it, and
    /// in development the error page.
    pub(crate) fn with_detail(self, detail: impl Into<String>) -> Error {
        self.with_source(Detail(detail.into()))
    }

    /// Sets the source of the error, for the log.
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Returns the status.
    pub fn status_code(&self) -> Status {
        self.0.status
    }

    /// Returns the message for the user, if there is one. A page shows it for 4xx, and for 5xx only in development.
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// Returns the source of the error, if it has one.
    pub fn source(&self) -> Option<&(dyn StdError + Send + Sync + 'static)> {
        self.0.source.as_deref()
    }

    /// Returns the location where the error was created: the line of the `?` that converted another error, or the call of a
    /// function such as `Error::not_found`.
    ///
    /// ```
    /// use aside::Error;
    ///
    /// let error = Error::internal("the till is empty");
    /// if let Some(location) = error.location() {
    ///     println!("{error}, at {}:{}", location.file(), location.line());
    /// }
    /// ```
    ///
    /// For an invalid form, query, body or parameter, this is the line that reads it. It is unknown for errors that aside
    /// creates before or after the handler, for an error from a function passed as a value (`map_err(Error::bad_request)`),
    /// and for an error that a handler or a task returns in another type without a `?`.
    pub fn location(&self) -> Option<&'static Location<'static>> {
        match self.0.location.as_ref()? {
            Origin::Here(location) => Some(location),
            Origin::Child(_) => None,
        }
    }

    /// Returns the backtrace of the location, if the status was 500 or above at creation, in development or if
    /// `RUST_BACKTRACE` enables it.
    ///
    /// ```
    /// use aside::Error;
    ///
    /// // An error of the client has no backtrace, which would be expensive.
    /// assert!(Error::not_found("There is no such photo.").backtrace().is_none());
    /// ```
    pub fn backtrace(&self) -> Option<&Backtrace> {
        self.0.trace.as_ref()?.backtrace()
    }

    /// Removes the backtrace, and with it a location that comes from it.
    #[cfg(feature = "jobs")]
    pub(crate) fn without_backtrace(mut self) -> Error {
        self.0.trace = None;
        self
    }

    /// Returns the backtrace as a shared value.
    pub(crate) fn trace(&self) -> Option<&Trace> {
        self.0.trace.as_ref()
    }

    /// Returns the location in the application's code as text: where the error was created, or the last call in the backtrace.
    pub(crate) fn own_location(&self) -> Option<String> {
        let own_call = || frames::last_own_call(self.trace()?.text());
        match &self.0.location {
            Some(Origin::Here(location)) => Some(location::text(location)),
            Some(Origin::Child(location)) => Some(location.clone()),
            None => own_call(),
        }
    }

    /// Returns the first error of this type among the sources.
    ///
    /// ```
    /// use aside::Error;
    ///
    /// let error = Error::from("x".parse::<u8>().unwrap_err()).context("the age");
    /// assert!(error.find_source::<std::num::ParseIntError>().is_some());
    /// ```
    pub fn find_source<T: StdError + 'static>(&self) -> Option<&T> {
        self.sources().find_map(|source| source.downcast_ref())
    }

    /// Returns the chain of sources. A boxed [`Error`] among them is replaced by its own sources.
    pub(crate) fn sources(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        successors(self.first_source(), |source| source_of(*source).and_then(unpacked)).take(DEEPEST)
    }

    fn first_source(&self) -> Option<&(dyn StdError + 'static)> {
        unpacked(self.source()?)
    }

    /// Returns the message of each error in the chain, its own first. The message of a source is omitted if its parent's
    /// message ends with it. The period of a sentence that a source follows is left out.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let first = self.source().map(|source| source as &(dyn StdError + 'static));
        for source in successors(first, |source| source_of(*source)).take(DEEPEST) {
            let message = message(source);
            if !causes.last().is_some_and(|parent| parent.ends_with(&message)) {
                causes.push(message);
            }
        }
        causes.splice(0..0, self.0.message.clone());
        if let Some((_, followed)) = causes.split_last_mut() {
            followed.iter_mut().for_each(|cause| cause.truncate(cause.trim_end_matches('.').len()));
        }
        causes
    }

    /// Returns the message and those of all sources, joined by `: `, as the log shows them. The period of a sentence that a source
    /// follows is left out.
    pub fn chain(&self) -> String {
        self.messages().join(": ")
    }

    /// Returns the parts of the [`chain`](Error::chain).
    pub(crate) fn messages(&self) -> Vec<String> {
        let causes = self.causes();
        if causes.is_empty() { vec![self.0.status.to_string()] } else { causes }
    }
}

/// The longest message of a source, in bytes.
const LONGEST_MESSAGE: usize = 64 << 10;

/// Returns the message of an error, or the part before its `Display` failed, panicked or was too long. A panic in `Display`
/// must not lose the task, the job or the response that has already failed.
fn message(error: &dyn StdError) -> String {
    let mut message = Bounded(String::new());
    let written = panics::catch(|| fmt::write(&mut message, format_args!("{error}")).is_ok());
    let Bounded(mut message) = message;
    if let Err(panic) = written {
        let gap = if message.is_empty() { "" } else { " " };
        message += &format!("{gap}(its Display panicked: {})", prefix(&panic.to_string(), LONGEST_MESSAGE));
    }
    message
}

/// A text that accepts no more than [`LONGEST_MESSAGE`] bytes, and ends in an ellipsis if more were written.
struct Bounded(String);

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let left = LONGEST_MESSAGE.saturating_sub(self.0.len());
        if text.len() <= left {
            self.0.push_str(text);
            return Ok(());
        }
        if left > 0 {
            self.0 += &format!("{}…", prefix(text, left));
        }
        // `Display` implementations pass the error on, and stop.
        Err(fmt::Error)
    }
}

/// Returns the source of an error, or `None` if `source` panics.
fn source_of<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    panics::catch(|| error.source()).ok().flatten()
}

/// Returns the first source of a boxed [`Error`], and any other error unchanged.
fn unpacked<'a>(source: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match source.downcast_ref() {
        Some(Carrier(error)) => error.first_source(),
        None => Some(source),
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.message, &self.0.source) {
            (Some(message), _) => f.write_str(message),
            (None, Some(source)) => f.write_str(&message(&**source)),
            (None, None) => self.0.status.fmt(f),
        }
    }
}

/// Shows the chain and the location on one line, as `main` prints an error that it returns, and the status of an error of the
/// client.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.status {
            status if status.is_server_error() => f.write_str(&self.chain())?,
            status => write!(f, "{} ({status})", self.chain())?,
        }
        self.own_location().map_or(Ok(()), |location| write!(f, ", at {location}"))
    }
}

impl<E: StdError + Send + Sync + 'static> From<E> for Error {
    #[track_caller]
    fn from(error: E) -> Error {
        Error::from_box(error)
    }
}

/// Creates an error with a status and without a message.
impl From<Status> for Error {
    #[track_caller]
    fn from(status: Status) -> Error {
        let (status, problem) = status.or_internal();
        Error::made_at(Location::caller(), status, problem, None)
    }
}

impl From<Error> for BoxError {
    fn from(error: Error) -> BoxError {
        Box::new(Carrier(error))
    }
}

impl From<Error> for Box<dyn StdError> {
    fn from(error: Error) -> Box<dyn StdError> {
        Box::new(Carrier(error))
    }
}

/// The return type of a function that never returns (`!`, which stable Rust cannot name): it makes `|| panic!("boom")` a
/// handler and a task.
pub(crate) type Never = <fn() -> ! as Returns>::Value;

/// The return type of a function pointer.
#[doc(hidden)]
pub trait Returns {
    /// The type after the arrow.
    type Value;
}

impl<T> Returns for fn() -> T {
    type Value = T;
}

/// What the developer needs to know beside the message for the user.
#[derive(Debug)]
pub(crate) struct Detail(String);

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Detail {}

/// Carries an [`Error`] in a `Box<dyn Error>`. `Error` itself cannot implement the trait, since `?` converts every error
/// that does.
struct Carrier(Error);

impl fmt::Display for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Carrier {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.0.0.source.as_deref()?;
        // Without a message, the carrier shows the message of its source, which must not appear twice.
        if self.0.0.message.is_some() { Some(source) } else { source.source() }
    }
}

#[cfg(test)]
mod tests;
