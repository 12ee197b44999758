//! The test client, and what it shows of the application: cookies, state, tasks, jobs and mail.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::TIMEOUT;
use crate::app::App;
use crate::app::service::Service;
use crate::background::counts::Counts;
use crate::background::handle::TaskInfo;
use crate::background::scope::Context;
use crate::failures::reporter::Reporter;
use crate::http::headers::Headers;
use crate::http::request::{Body, Method, Request};
use crate::http::response::Response;
use crate::http::session::{self, Keys};
#[cfg(feature = "mail")]
use crate::mail::{Mailer, SentMail};

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
/// Mail stays in `outbox` unless the configuration sends it elsewhere. Tasks run at the priority of the
/// test, whatever the value of `ASIDE_BACKGROUND_NICE`. A test that leaves a task running fails when the client is dropped:
/// call [`drain`](TestClient::drain), since the task would otherwise run on during another test.
pub struct TestClient {
    pub(super) service: Service,
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
        let client = TestClient { service, cookies: BTreeMap::new() };
        client.start_schedules();
        client
    }

    /// Returns the cookies that the application has set and not deleted.
    pub fn cookies(&self) -> &BTreeMap<String, String> {
        &self.cookies
    }

    /// Sets a cookie, with its value as it is sent over the network.
    pub fn set_cookie(&mut self, name: &str, value: &str) {
        self.cookies.insert(name.to_owned(), value.to_owned());
    }

    /// Logs the client in as a user, as [`Request::login`] does in the handler of a login form.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Error, Request, Result};
    ///
    /// fn account(req: &mut Request) -> Result<String> {
    ///     let user: u64 = req.user().ok_or_else(|| Error::unauthorized("Please log in."))?;
    ///     Ok(format!("You are user {user}."))
    /// }
    ///
    /// let mut client = TestClient::new(App::new().get("/account", account));
    /// assert_eq!(client.get("/account").status_code().code(), 401);
    /// client.login(17);
    /// assert_eq!(client.get("/account").text(), "You are user 17.");
    /// ```
    ///
    /// A test of the login itself sends the form.
    ///
    /// # Panics
    /// If the id is an empty text, or if `ASIDE_STORE` cannot be read or written.
    #[track_caller]
    pub fn login(&mut self, id: impl Display) {
        let headers = Headers::from_iter(self.cookie_header().map(|cookies| ("Cookie", cookies)));
        let mut request = Request::new(Method::Get, "/", headers, Body::empty());
        request.admit(self.service.scope().clone(), Arc::default(), String::new());
        request.login(id).unwrap_or_else(|error| panic!("cannot log in: {error:?}"));
        let mut response = Response::new();
        session::save(&mut request, &mut response);
        assert!(response.error().is_none(), "cannot log in: {:?}", response.error());
        self.keep_cookies(response.headers());
    }

    /// Advances the clocks of sessions and of jobs ([`TestJobs::advance`](crate::testing::TestJobs::advance)): sessions
    /// expire, delayed jobs and retries become due, and the schedules of [`Jobs::cron`](crate::Jobs::cron) enqueue their
    /// jobs. Rate limits, caches and the deadlines of tasks keep the time of the machine. For sessions, the duration is
    /// cut to whole seconds.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Request};
    /// use std::time::Duration;
    ///
    /// let app = App::new().get("/", |req: &mut Request| format!("{:?}", req.user::<u64>()));
    /// let mut client = TestClient::new(app);
    /// client.login(17);
    /// assert_eq!(client.get("/").text(), "Some(17)");
    /// client.advance(Duration::from_secs(24 * 3600)); // `ASIDE_SESSION_IDLE`
    /// assert_eq!(client.get("/").text(), "None");
    /// ```
    pub fn advance(&mut self, time: Duration) {
        self.state::<Keys>().advance(time);
        self.advance_jobs(time);
    }

    /// Returns the application's state of type `T`.
    ///
    /// # Panics
    /// If `App::state` has not added a state of this type.
    pub fn state<T: Any + Send + Sync>(&self) -> Arc<T> {
        self.service.scope().state()
    }

    /// Runs `f` as part of the application, outside a request: its background tasks and its mail belong to the application.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Error, background};
    ///
    /// fn warm_the_cache() {
    ///     background(|| Err::<(), Error>(Error::internal("the disk is full")));
    /// }
    ///
    /// let client = TestClient::new(App::new());
    /// client.within(warm_the_cache);
    /// client.drain();
    /// assert_eq!(client.failures()[0].failure(), Some("the disk is full"));
    /// ```
    pub fn within<T>(&self, f: impl FnOnce() -> T) -> T {
        let context = Context::of(self.service.scope().clone());
        let _entered = context.enter();
        f()
    }

    /// Waits until all background tasks have ended and the hooks of [`App::on_failure`] have returned, and runs the jobs that
    /// are due, until no task and no due job is left. A task that waits between two attempts makes the next one at once. Scheduled
    /// jobs, and jobs that wait for a retry, do not run before [`advance`](TestClient::advance).
    ///
    /// # Panics
    /// If a task has not ended, or jobs still enqueue further jobs, after 60 s; the message names the tasks. Also if the job
    /// store cannot be read or written.
    #[track_caller]
    pub fn drain(&self) {
        let until = Instant::now() + TIMEOUT;
        loop {
            if !self.service.scope().registry().wait_until_idle(until) || Instant::now() > until {
                panic!("tasks still run, or jobs enqueue further jobs, after {TIMEOUT:?}: {:?}", self.running());
            }
            self.wait_for_failure_hooks(until);
            if !self.runs_next_job() && self.running().is_empty() {
                return;
            }
        }
    }

    #[track_caller]
    fn wait_for_failure_hooks(&self, until: Instant) {
        let left = self.service.scope().get::<Reporter>().map_or(0, |reporter| reporter.wait_until_idle(until));
        assert!(left == 0, "the hooks of App::on_failure have not handled {left} reports after {TIMEOUT:?}");
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

    /// Returns the last 100 background tasks and attempts of jobs that failed, in order.
    pub fn failures(&self) -> Vec<TaskInfo> {
        let registry = self.service.scope().registry();
        registry.failed().into_iter().map(|record| TaskInfo::new(record, registry)).collect()
    }

    /// Returns the last 100 mails that were sent to memory or to files, in order.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Config, Mail, Request};
    ///
    /// let config = Config { mail_from: Some("shop@shop.example".into()), ..Config::default() };
    /// let app = App::with_config(config).post("/orders", |_: &mut Request| {
    ///     Mail::to("ada@example.org").subject("Your order").text("Thank you.").send();
    ///     "ordered"
    /// });
    /// let mut client = TestClient::new(app);
    /// client.post("/orders").send();
    /// client.drain(); // waits for the mail
    /// assert_eq!(client.outbox()[0].subject, "Your order");
    /// ```
    #[cfg(feature = "mail")]
    pub fn outbox(&self) -> Vec<SentMail> {
        let mails = self.service.scope().get::<Mailer>().map_or_else(Vec::new, |mailer| mailer.outbox());
        mails.iter().map(|mail| SentMail::clone(mail)).collect()
    }

    /// Returns the application's response to a request, and keeps its cookies.
    pub(super) fn handle(&mut self, request: Request) -> Response {
        let response = self.service.handle(request);
        self.keep_cookies(response.headers());
        response
    }

    /// Returns a host name that the site accepts.
    pub(super) fn host(&self) -> &str {
        let config = self.service.config();
        let from_url = config.url.as_deref().and_then(|url| url.split("://").nth(1)?.split('/').next());
        let listed =
            || config.allowed_hosts.first().map(|host| host.trim_start_matches('.')).filter(|host| *host != "*");
        from_url.or_else(listed).unwrap_or("localhost")
    }

    /// Returns the `Cookie` header of the next request, if there are cookies.
    pub(super) fn cookie_header(&self) -> Option<String> {
        let pairs = self.cookies.iter().map(|(name, value)| format!("{name}={value}"));
        (!self.cookies.is_empty()).then(|| pairs.collect::<Vec<_>>().join("; "))
    }

    fn keep_cookies(&mut self, headers: &Headers) {
        headers.get_all("Set-Cookie").for_each(|line| keep_cookie(&mut self.cookies, line));
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

/// Stores or removes the cookie of a `Set-Cookie` header. The last `Max-Age` counts, and one that is not a number does not
/// (RFC 6265, section 5.2.2 and 5.3).
fn keep_cookie(jar: &mut BTreeMap<String, String>, line: &str) {
    let mut pairs = line.split(';').map(|pair| pair.split_once('=').map(|(name, value)| (name.trim(), value.trim())));
    let Some((name, value)) = pairs.next().flatten().filter(|(name, _)| !name.is_empty()) else { return };
    let ages = pairs.flatten().filter(|(attribute, _)| attribute.eq_ignore_ascii_case("Max-Age"));
    let age: Option<i64> = ages.filter_map(|(_, seconds)| seconds.parse().ok()).next_back();
    match age.is_some_and(|seconds| seconds <= 0) {
        true => jar.remove(name),
        false => jar.insert(name.to_owned(), value.to_owned()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_stored_and_removed_as_by_a_browser() {
        let mut jar = BTreeMap::new();
        for (line, after) in [
            (" a = b=c ; Path=/", Some("b=c")),
            ("a=d; max-age=60; Secure", Some("d")),
            ("a=e; Max-Age=later", Some("e")),
            ("a=f; Max-Age=0; Max-Age=9", Some("f")),
            ("=g", Some("f")),
            ("a", Some("f")),
            ("a=h; Max-Age=-1", None),
            ("a=; Max-Age", Some("")),
            ("a=; Max-Age=0", None),
        ] {
            keep_cookie(&mut jar, line);
            assert_eq!(jar.get("a").map(String::as_str), after, "{line}");
        }
        assert!(jar.is_empty());
    }
}
