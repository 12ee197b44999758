//! A request of the test client: method, target, headers and body.

use std::net::SocketAddr;

use super::client::TestClient;
use super::events::EventReader;
use super::response::TestResponse;
use crate::http::headers::Headers;
use crate::http::request::{Method, Request};
use crate::http::url_for::SiteUrl;

impl TestClient {
    /// Sends a GET request and returns the response.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request};
    ///
    /// let app = App::new().get("/photos/{id}", |req: &mut Request| req.param::<u64>("id").map(|id| format!("photo {id}")));
    /// let mut client = TestClient::new(app);
    /// assert_eq!(client.get("/photos/17").text(), "photo 17");
    /// assert_eq!(client.get("/photos/sea").status_code().code(), 404);
    /// ```
    pub fn get(&mut self, target: &str) -> TestResponse {
        self.request("GET", target).send()
    }

    /// Sends a GET request for an event stream, and returns a reader of its events.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Live, Request};
    ///
    /// let count = Live::new(1);
    /// let shown = count.clone();
    /// let app = App::new()
    ///     .template("count.html", "<b>{{ state }}</b>")
    ///     .get("/live", move |req: &mut Request| req.live(&shown, "count.html"));
    /// let mut events = TestClient::new(app).events("/live");
    /// assert_eq!(events.next().data, "<b>1</b>");
    /// count.update(|count| *count += 1);
    /// assert_eq!(events.next().data, "<b>2</b>");
    /// ```
    ///
    /// # Panics
    /// If the response is not an event stream; the message shows the response.
    pub fn events(&mut self, target: &str) -> EventReader {
        self.request("GET", target).events()
    }

    /// Makes a POST request, which is sent with [`send`](TestRequest::send).
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, Response, Result, redirect};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Order { quantity: u32 }
    ///
    /// fn create_order(req: &mut Request) -> Result<Response> {
    ///     let order: Order = req.form()?;
    ///     Ok(redirect(&format!("/orders?quantity={}", order.quantity)))
    /// }
    ///
    /// let mut client = TestClient::new(App::new().post("/orders", create_order));
    /// let response = client.post("/orders").form(&[("quantity", "2")]).send();
    /// assert_eq!(response.location(), Some("/orders?quantity=2"));
    /// let refused = client.post("/orders").form(&[("quantity", "many")]).send();
    /// assert_eq!(refused.status_code().code(), 422);
    /// ```
    pub fn post<'c>(&'c mut self, target: &str) -> TestRequest<'c> {
        self.request("POST", target)
    }

    /// Makes a request with any method, which is sent with [`send`](TestRequest::send).
    ///
    /// ```
    /// # use aside::testing::TestClient;
    /// # use aside::{App, Request, Response};
    /// # let app = App::new().delete("/photos/{id}", |_: &mut Request| Response::new().status(204));
    /// # let mut client = TestClient::new(app);
    /// let response = client.request("DELETE", "/photos/17").header("Accept", "application/json").send();
    /// assert_eq!(response.status_code().code(), 204);
    /// ```
    ///
    /// The target is a path, or a link in a mail: a URL of this site ([`absolute_url`](crate::absolute_url)).
    pub fn request<'c>(&'c mut self, method: &str, target: &str) -> TestRequest<'c> {
        let headers = Headers::from_iter([("Host", self.host())]);
        let site = self.service.scope().get::<SiteUrl>();
        TestRequest {
            method: method.into(),
            target: site.as_deref().map_or(target, |site: &SiteUrl| site.target(target)).to_owned(),
            headers,
            body: Vec::new(),
            peer: None,
            client: self,
        }
    }
}

/// A request to the application of a [`TestClient`], to which headers and a body can be added.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Request, Result, Upload};
///
/// #[derive(serde::Deserialize)]
/// struct NewPhoto { title: String, photo: Upload }
///
/// fn add(req: &mut Request) -> Result<String> {
///     let new: NewPhoto = req.form()?;
///     Ok(format!("{}: {} bytes", new.title, new.photo.size()))
/// }
///
/// let mut client = TestClient::new(App::new().post("/photos", add));
/// let upload = client.post("/photos").field("title", "Sea").file("photo", "sea.png", "image/png", b"\x89PNG");
/// assert_eq!(upload.send().text(), "Sea: 4 bytes");
/// ```
///
/// The cookies of the client are sent too. A request has a body of one kind: a form, a multipart form, JSON, or bytes.
#[must_use = "call `send` to send the request"]
pub struct TestRequest<'c> {
    client: &'c mut TestClient,
    method: Method,
    target: String,
    headers: Headers,
    body: Vec<u8>,
    peer: Option<SocketAddr>,
}

/// The delimiter of the parts of a multipart body. It is so long that a test's file does not contain it by chance.
const BOUNDARY: &str = "----aside-test-client-7d1f0c52b8e94a36";

impl TestRequest<'_> {
    /// Adds a header. `Host` replaces the default, which is a host name that the site accepts.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match name.eq_ignore_ascii_case("Host") {
            true => self.headers.set(name, value),
            false => self.headers.append(name, value),
        }
        self
    }

    /// Sets the address of the client. Without it the address is unknown, as on a Unix socket.
    ///
    /// # Panics
    /// If `address` is not an address and a port, such as `192.0.2.1:5000`.
    pub fn peer(mut self, address: &str) -> Self {
        self.peer = Some(address.parse().expect("an address and a port, such as 192.0.2.1:5000"));
        self
    }

    /// Sets the body to the fields of a form, urlencoded as browsers send them.
    pub fn form(self, fields: &[(&str, &str)]) -> Self {
        let body = serde_urlencoded::to_string(fields).expect("pairs of text can always be written");
        self.body("application/x-www-form-urlencoded", body)
    }

    /// Sets the body to a value as JSON.
    ///
    /// # Panics
    /// If the value cannot be written as JSON.
    pub fn json(self, value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_vec(value).expect("the test's value can be written as JSON");
        self.body("application/json", body)
    }

    /// Sets the body to a payload as JSON, and adds the headers of a webhook that is sent now.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request, Result, webhook};
    ///
    /// fn receive(req: &mut Request) -> Result<Vec<u8>> {
    ///     webhook::verify(req, &["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"])
    /// }
    ///
    /// let mut client = TestClient::new(App::new().post("/hooks", |req: &mut Request| receive(req).map(drop)));
    /// let paid = serde_json::json!({ "order": 17 });
    /// let signed = client.post("/hooks").webhook("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "order-17-paid", &paid).send();
    /// assert_eq!(signed.status_code(), 200);
    /// assert_eq!(client.post("/hooks").webhook("another secret", "order-17-paid", &paid).send().status_code(), 401);
    /// ```
    ///
    /// # Panics
    /// If the secret is invalid, or the payload cannot be written as JSON.
    #[cfg(feature = "webhook")]
    #[track_caller]
    pub fn webhook(self, secret: impl AsRef<[u8]>, id: &str, payload: &impl serde::Serialize) -> Self {
        let (request, now) = (self.json(payload), crate::http::session::store::now());
        let signature = crate::webhook::sign(secret, id, now, &request.body);
        let signature = signature.unwrap_or_else(|error| panic!("cannot sign the webhook: {error:?}"));
        let request = request.header("webhook-id", id).header("webhook-timestamp", &now.to_string());
        request.header("webhook-signature", &signature)
    }

    /// Adds a text field to a multipart form.
    pub fn field(self, name: &str, value: &str) -> Self {
        self.part(&format!("name=\"{}\"", escape_quotes(name)), value.as_bytes())
    }

    /// Adds a file to a multipart form, as browsers send it.
    pub fn file(self, name: &str, filename: &str, content_type: &str, content: &[u8]) -> Self {
        let (name, filename) = (escape_quotes(name), escape_quotes(filename));
        let disposition = format!("name=\"{name}\"; filename=\"{filename}\"\r\nContent-Type: {content_type}");
        self.part(&disposition, content)
    }

    fn part(mut self, disposition: &str, content: &[u8]) -> Self {
        let end = format!("--{BOUNDARY}--\r\n");
        let so_far = self.body.len() - if self.body.ends_with(end.as_bytes()) { end.len() } else { 0 };
        self.body.truncate(so_far);
        let head = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n");
        let body = [&self.body, head.as_bytes(), content, b"\r\n", end.as_bytes()].concat();
        self.body(&format!("multipart/form-data; boundary={BOUNDARY}"), body)
    }

    /// Sets the body and its media type.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        self.headers.set("Content-Type", content_type);
        self.body = body.into();
        self.headers.set("Content-Length", self.body.len().to_string());
        self
    }

    /// Sends the request, reads the whole response, and then starts the tasks that were deferred until it was sent.
    pub fn send(mut self) -> TestResponse {
        let request = self.build();
        let is_head = request.is_head();
        TestResponse::read(self.client.handle(request), is_head)
    }

    /// Sends the request, and returns a reader of the event stream in its response; see [`TestClient::events`].
    ///
    /// # Panics
    /// If the response is not an event stream; the message shows the response.
    #[track_caller]
    pub fn events(mut self) -> EventReader {
        let request = self.build();
        EventReader::of(self.client.handle(request)).unwrap_or_else(|response| {
            panic!("the response is not an event stream: {:?}", TestResponse::read(response, false))
        })
    }

    fn build(&mut self) -> Request {
        if let Some(cookies) = self.client.cookie_header()
            && !self.headers.contains("Cookie")
        {
            self.headers.set("Cookie", cookies);
        }
        let (target, headers) = (std::mem::take(&mut self.target), std::mem::take(&mut self.headers));
        Request::new(self.method.clone(), target, headers, std::mem::take(&mut self.body).into()).with_peer(self.peer)
    }
}

/// Escapes a name as browsers do in a part's header (WHATWG HTML, multipart form data).
fn escape_quotes(name: &str) -> String {
    name.replace('\r', "%0D").replace('\n', "%0A").replace('"', "%22")
}
