//! A response, as a test reads it.

use std::fmt;

use crate::background::run::Deferred;
use crate::error::Status;
use crate::http::headers::Headers;
use crate::http::response::Response;

/// A response of the application, read to its end.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Json, Request, Response};
///
/// let app = App::new()
///     .get("/photos", |_: &mut Request| Json(vec!["sea", "harbor"]))
///     .get("/hello", |_: &mut Request| Response::text("hello").header("X-Made-By", "hand"));
/// let mut client = TestClient::new(app);
/// assert_eq!(client.get("/photos").json::<Vec<String>>(), ["sea", "harbor"]);
///
/// let response = client.get("/hello");
/// assert_eq!(response.status_code().code(), 200);
/// assert_eq!((response.header("X-Made-By"), response.text()), (Some("hand"), "hello"));
/// assert_eq!(client.get("/none").status_code().code(), 404);
/// ```
pub struct TestResponse {
    status: Status,
    headers: Headers,
    body: Vec<u8>,
}

impl TestResponse {
    /// Reads a response to its end, and starts its deferred tasks.
    pub(super) fn read(mut response: Response, is_head: bool) -> TestResponse {
        let (status, headers) = (response.status_code(), response.headers().clone());
        let mut body = Vec::new();
        if !is_head && !status.is_bodiless() {
            let all = std::mem::take(&mut response.body).write_to(&mut body);
            all.expect("the body can be read to its end");
        }
        response.take_deferred().into_iter().for_each(Deferred::start);
        TestResponse { status, headers, body }
    }

    /// Returns the status.
    pub fn status_code(&self) -> Status {
        self.status
    }

    /// Returns the first header with this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Returns all headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Returns the target of a redirect: the `Location` header.
    pub fn location(&self) -> Option<&str> {
        self.header("Location")
    }

    /// Returns the bytes of the body.
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// Returns the body as text.
    ///
    /// # Panics
    /// If the body is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// Reads the body as JSON.
    ///
    /// # Panics
    /// If the body is not valid JSON for the type `T`.
    pub fn json<T: for<'de> serde::Deserialize<'de>>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }
}

impl fmt::Debug for TestResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}
