//! A test client, which calls the application without a socket and observes its background tasks, jobs and mail.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::app::App;
use crate::app::service::Service;
use crate::background::counts::Counts;
use crate::background::handle::TaskInfo;
use crate::background::run::Deferred;
use crate::background::scope::Context;
use crate::config::Config;
use crate::error::Status;
use crate::http::headers::Headers;
use crate::http::request::{Method, Request};
use crate::http::response::{Response, ResponseBody, StreamBody};
use crate::http::session::Keys;
use crate::http::stream::disconnect::Disconnect;
use crate::http::stream::source::follow;
use crate::http::stream::sse::Event;
use crate::http::stream::writer::StreamWriter;
use crate::jobs::Jobs;
#[cfg(feature = "mail")]
use crate::mail::{Mailer, SentMail};

/// How long [`TestClient::drain`] waits before it panics with the names of the tasks that still run.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A client that calls an application as a browser does, with cookies, but without a socket.
///
/// ```
/// use aside::testing::TestClient;
/// use aside::{App, Request, background, redirect};
///
/// let app = App::new().post("/orders", |req: &mut Request| {
///     let form = req.form_pairs()?;
///     background(move || println!("charging {form:?}"));
///     aside::ok(redirect("/thanks"))
/// });
/// let mut client = TestClient::new(app);
/// let response = client.post("/orders").form(&[("quantity", "2")]).send();
/// assert_eq!(response.location(), Some("/thanks"));
/// client.drain();
/// assert!(client.failures().is_empty());
/// ```
///
/// An [isolated](crate::isolated()) function runs in a child process, as on the site. The child is the test's own program, with
/// the arguments that select this test; it runs the test up to the client whose application has the function, and from there
/// the function in place of the rest. The child finds the test by the name of the thread, since a test harness names the
/// thread of each test after it: make the client on that thread. On another thread, and if the harness runs all tests on its
/// main thread (`--test-threads=1`), the child has the program's own arguments. Isolated [jobs](crate::Job::ISOLATED) run in
/// this process.
///
/// Mail stays in [`outbox`](TestClient::outbox) unless the configuration sends it elsewhere. Tasks run at the priority of the
/// test, whatever the value of `ASIDE_BACKGROUND_NICE`. A test that leaves a task running fails when the client is dropped:
/// call [`drain`](TestClient::drain), since the task would otherwise run on during another test.
pub struct TestClient {
    service: Service,
    cookies: BTreeMap<String, String>,
}

impl TestClient {
    /// Makes a client of an application.
    ///
    /// # Panics
    /// If the application cannot start; the message gives the reason.
    pub fn new(app: App) -> TestClient {
        let service = app
            .for_tests()
            .with_panel()
            .build()
            .unwrap_or_else(|error| panic!("the application cannot start: {error:?}"));
        service.serve_parent_if_asked();
        TestClient { service, cookies: BTreeMap::new() }
    }

    /// Sends a GET request and returns the response.
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
    pub fn post<'c>(&'c mut self, target: &str) -> TestRequest<'c> {
        self.request("POST", target)
    }

    /// Makes a request with any method, which is sent with [`send`](TestRequest::send).
    pub fn request<'c>(&'c mut self, method: &str, target: &str) -> TestRequest<'c> {
        let headers = Headers::from_iter([("Host", host(self.service.config()))]);
        TestRequest {
            method: method.into(),
            target: target.to_owned(),
            headers,
            body: Vec::new(),
            peer: None,
            client: self,
        }
    }

    /// Returns the cookies that the application has set and not deleted.
    pub fn cookies(&self) -> &BTreeMap<String, String> {
        &self.cookies
    }

    /// Sets a cookie, with its value as it is sent over the network.
    pub fn set_cookie(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    /// Moves the clocks of sessions and of scheduled jobs forward. For sessions, the duration is cut to whole seconds.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request};
    /// use std::time::Duration;
    ///
    /// let app = App::new()
    ///     .post("/login", |req: &mut Request| req.login(17))
    ///     .get("/", |req: &mut Request| format!("{:?}", req.user::<u64>()));
    /// let mut client = TestClient::new(app);
    /// client.post("/login").send();
    /// assert_eq!(client.get("/").text(), "Some(17)");
    /// client.advance(Duration::from_secs(24 * 3600));
    /// assert_eq!(client.get("/").text(), "None");
    /// ```
    pub fn advance(&mut self, time: Duration) {
        self.state::<Keys>().advance(time);
        if let Some(jobs) = self.service.scope().get::<Jobs>() {
            jobs.advance(time);
        }
    }

    /// Returns the application's state of type `T`.
    ///
    /// # Panics
    /// If `App::state` has not added a state of this type.
    pub fn state<T: Any + Send + Sync>(&self) -> Arc<T> {
        self.service.scope().state()
    }

    /// Runs `f` as part of the application, outside a request: its background tasks and its mail belong to the application.
    pub fn within<T>(&self, f: impl FnOnce() -> T) -> T {
        let context = Context { scope: self.service.scope().clone(), origin: None, task: None };
        let _entered = context.enter();
        f()
    }

    /// Waits until all background tasks have ended, and runs the jobs that are due, until there are no more of either. A task
    /// that waits between two attempts makes the next one at once. Scheduled jobs, and jobs that wait for a retry, do not run
    /// before [`advance`](TestClient::advance).
    ///
    /// # Panics
    /// If a task has not ended, or jobs still enqueue further jobs, after 60 s; the message names the tasks.
    pub fn drain(&self) {
        let until = Instant::now() + TIMEOUT;
        loop {
            if !self.service.scope().registry().wait_until_idle(until) || Instant::now() > until {
                panic!("tasks still run, or jobs enqueue further jobs, after {TIMEOUT:?}: {:?}", self.running());
            }
            if !self.run_job() {
                return;
            }
        }
    }

    /// Runs the next job that is due. Returns true if there was one.
    fn run_job(&self) -> bool {
        let jobs = self.service.scope().get::<Jobs>();
        let ran = jobs.map_or(Ok(None), |jobs| jobs.run_next());
        ran.unwrap_or_else(|error| panic!("cannot run the next job: {error:?}")).is_some()
    }

    /// Returns the application's jobs, which run only when the test calls [`Jobs::run_next`] or [`drain`](TestClient::drain).
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Job, Jobs, Request, Result, TaskContext};
    ///
    /// #[derive(serde::Serialize, serde::Deserialize)]
    /// struct Charge { order: u64 }
    ///
    /// impl Job for Charge {
    ///     const NAME: &'static str = "charge";
    ///     fn run(self, _task: &TaskContext) -> Result<()> { Err(aside::Error::internal("no credit")) }
    /// }
    ///
    /// let app = App::new()
    ///     .jobs(Jobs::memory().register::<Charge>())
    ///     .post("/orders", |req: &mut Request| req.enqueue(Charge { order: 17 }).map(|_| "thank you"));
    /// let mut client = TestClient::new(app);
    /// client.post("/orders").send();
    /// client.jobs().assert_enqueued(|charge: &Charge| charge.order == 17);
    /// let charge = client.jobs().run_next().unwrap().unwrap();
    /// assert_eq!((charge.state.as_str(), &*charge.failures[0].message), ("scheduled", "no credit"));
    /// client.advance(std::time::Duration::from_secs(5));
    /// assert_eq!(client.jobs().run_next().unwrap().unwrap().attempt, 2);
    /// ```
    ///
    /// # Panics
    /// If the application has no jobs.
    pub fn jobs(&self) -> Jobs {
        Jobs::clone(&self.state::<Jobs>())
    }

    /// Returns the tasks that have not ended.
    pub fn running(&self) -> Vec<TaskInfo> {
        let registry = self.service.scope().registry();
        registry.unfinished().into_iter().map(|record| TaskInfo::new(record, registry)).collect()
    }

    /// Returns the numbers of current and of ended tasks.
    pub fn counts(&self) -> Counts {
        self.service.scope().registry().counts()
    }

    /// Returns the last 100 tasks that failed, in order.
    pub fn failures(&self) -> Vec<TaskInfo> {
        let registry = self.service.scope().registry();
        registry.failed().into_iter().map(|record| TaskInfo::new(record, registry)).collect()
    }

    /// Returns the last 100 mails that were sent to memory or to files, in order.
    #[cfg(feature = "mail")]
    pub fn outbox(&self) -> Vec<SentMail> {
        let mails = self.service.scope().get::<Mailer>().map_or_else(Vec::new, |mailer| mailer.outbox());
        mails.iter().map(|mail| SentMail::clone(mail)).collect()
    }

    fn call(&mut self, request: Request) -> TestResponse {
        let is_head = request.is_head();
        let response = TestResponse::read(self.service.handle(request), is_head);
        response.headers.get_all("Set-Cookie").for_each(|line| keep_cookie(&mut self.cookies, line));
        response
    }
}

/// Panics if a task still runs, so that the test fails.
impl Drop for TestClient {
    fn drop(&mut self) {
        let running = self.running();
        if !running.is_empty() && !std::thread::panicking() {
            panic!("the test leaves tasks running (call `drain()` on the client): {running:?}");
        }
    }
}

fn keep_cookie(jar: &mut BTreeMap<String, String>, line: &str) {
    let Ok(cookie) = cookie::Cookie::parse(line) else { return };
    let is_deleted = cookie.max_age().is_some_and(|age| !age.is_positive());
    match is_deleted {
        true => jar.remove(cookie.name()),
        false => jar.insert(cookie.name().to_owned(), cookie.value().to_owned()),
    };
}

/// A request to the application of a [`TestClient`], to which headers and a body can be added.
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

    /// Sends the request, and returns a reader of the event stream in its response; see [`TestClient::events`].
    ///
    /// # Panics
    /// If the response is not an event stream; the message shows the response.
    pub fn events(mut self) -> EventReader {
        let request = self.request();
        let mut response = self.client.service.handle(request);
        let is_events = response.headers().get("Content-Type") == Some("text/event-stream");
        match std::mem::take(&mut response.body) {
            ResponseBody::Stream { write, .. } if is_events => EventReader::read(write),
            ResponseBody::Source(source) if is_events => EventReader::read(Box::new(move |out| follow(source, out))),
            body => {
                response.body = body;
                panic!("the response is not an event stream: {:?}", TestResponse::read(response, false))
            }
        }
    }

    /// Sends the request, reads the whole response, and then starts the tasks that were deferred until it was sent.
    pub fn send(mut self) -> TestResponse {
        let request = self.request();
        self.client.call(request)
    }

    fn request(&mut self) -> Request {
        if !self.client.cookies.is_empty() && !self.headers.contains("Cookie") {
            let pairs = self.client.cookies.iter().map(|(name, value)| format!("{name}={value}"));
            self.headers.set("Cookie", pairs.collect::<Vec<_>>().join("; "));
        }
        let (target, headers) = (std::mem::take(&mut self.target), std::mem::take(&mut self.headers));
        Request::new(self.method.clone(), target, headers, std::mem::take(&mut self.body).into()).with_peer(self.peer)
    }
}

/// Returns a host name that the site accepts.
fn host(config: &Config) -> String {
    let from_url = config.url.as_deref().and_then(|url| url.split("://").nth(1)?.split('/').next());
    let listed = || config.allowed_hosts.first().map(|host| host.trim_start_matches('.')).filter(|host| *host != "*");
    from_url.or_else(listed).unwrap_or("localhost").to_owned()
}

/// Escapes a name as browsers do in a part's header (WHATWG HTML, multipart form data).
fn escape_quotes(name: &str) -> String {
    name.replace('\r', "%0D").replace('\n', "%0A").replace('"', "%22")
}

/// A response of the application, read to its end.
pub struct TestResponse {
    status: Status,
    headers: Headers,
    body: Vec<u8>,
}

impl TestResponse {
    fn read(mut response: Response, is_head: bool) -> TestResponse {
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

/// A reader of an event stream (WHATWG HTML, server-sent events). Dropping it disconnects the client.
pub struct EventReader {
    lines: mpsc::Receiver<Vec<u8>>,
    unread: String,
    disconnect: Disconnect,
}

impl EventReader {
    fn read(write: StreamBody) -> EventReader {
        let (sender, lines) = mpsc::channel();
        let disconnect = Disconnect::default();
        let for_writer = disconnect.clone();
        let spawned = std::thread::Builder::new().name("test-events".into()).spawn(move || {
            // It returns an error after the test has dropped the reader.
            let _ = write(StreamWriter::new(&mut Pipe(sender), for_writer));
        });
        spawned.expect("the operating system can start a thread");
        EventReader { lines, unread: String::new(), disconnect }
    }

    /// Waits for the next event. Comments are skipped.
    ///
    /// # Panics
    /// If no event arrives within 60 s, or the stream ends.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Event {
        // The limit holds for the event, not for each comment before it.
        let until = Instant::now() + TIMEOUT;
        loop {
            while let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (event, rest) = (event_of(block), rest.to_owned());
                self.unread = rest;
                if let Some(event) = event {
                    return event;
                }
            }
            let wait = until.saturating_duration_since(Instant::now());
            let bytes = self.lines.recv_timeout(wait).expect("the stream sends another event");
            self.unread
                .push_str(std::str::from_utf8(&bytes).expect("an event stream is UTF-8, written in whole events"));
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.disconnect.signal();
    }
}

/// Parses a block of lines as an event. Returns `None` for a block without data, such as a comment.
fn event_of(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data: Vec<&str> = Vec::new();
    for (name, value) in block.lines().filter_map(|line| line.split_once(": ").or(line.split_once(':'))) {
        match name {
            "event" => event.name = value.to_owned(),
            "id" => event.id = value.to_owned(),
            "data" => data.push(value),
            _ => {}
        }
    }
    event.data = data.join("\n");
    (!data.is_empty()).then_some(event)
}

impl fmt::Debug for EventReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventReader")
    }
}

/// A writer that passes the bytes of a stream to the reader, until the reader is dropped.
struct Pipe(mpsc::Sender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for TestResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}
