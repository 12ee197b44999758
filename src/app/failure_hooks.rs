//! The hooks of an application for failures.

use std::panic::Location;
use std::sync::Arc;

use super::App;
use super::service::Endpoint;
use crate::background::failure::IntoOutcome;
use crate::background::observer::Observer;
use crate::background::scope::Values;
use crate::config::Config;
use crate::error::location;
use crate::failures::FailureReport;
#[cfg(feature = "mail")]
use crate::failures::alerts::AlertMail;
use crate::failures::rate::Dropped;
use crate::failures::reporter::{FailureHook, Listener, Reporter, RouteName};
use crate::http::router::Router;
#[cfg(feature = "mail")]
use crate::mail::Mail;

/// The hooks of an application.
#[derive(Default)]
pub(super) struct FailureHooks {
    hooks: Vec<FailureHook>,
    #[cfg(feature = "mail")]
    alert_addresses: Vec<String>,
    /// True if the panel is shown in production.
    #[cfg(all(feature = "mail", feature = "panel"))]
    has_panel: bool,
}

impl FailureHooks {
    /// Adds the hooks of a mounted application.
    pub(super) fn mount(&mut self, other: FailureHooks) {
        self.hooks.extend(other.hooks);
        #[cfg(feature = "mail")]
        self.alert_addresses.extend(other.alert_addresses);
        #[cfg(all(feature = "mail", feature = "panel"))]
        (self.has_panel |= other.has_panel);
    }

    /// Returns the part of the framework that sends alert mails, if the application has addresses for them.
    #[cfg(feature = "mail")]
    fn listeners(&mut self, config: &Config, others: &Arc<Dropped>) -> Vec<Box<dyn Listener>> {
        let to = std::mem::take(&mut self.alert_addresses);
        let has_addresses = !to.is_empty();
        #[cfg(feature = "panel")]
        let has_panel = config.is_development() || self.has_panel;
        #[cfg(not(feature = "panel"))]
        let has_panel = false;
        let alerts = AlertMail::new(to, config.url.clone(), has_panel, others.clone());
        has_addresses.then(|| Box::new(alerts) as Box<dyn Listener>).into_iter().collect()
    }

    #[cfg(not(feature = "mail"))]
    fn listeners(&mut self, _config: &Config, _others: &Arc<Dropped>) -> Vec<Box<dyn Listener>> {
        Vec::new()
    }

    /// Adds the reporter to the values and the observers of an application, if it has hooks.
    pub(super) fn add_to(
        mut self,
        config: &Config,
        values: &mut Values,
        observers: &mut Vec<Arc<dyn Observer>>,
        router: &Router<Endpoint>,
    ) -> Option<Reporter> {
        let others = Arc::default();
        let listeners = self.listeners(config, &others);
        if self.hooks.is_empty() && listeners.is_empty() {
            return None;
        }
        let names = router.routes().iter().map(|route| RouteName {
            name: format!("{} {}", route.verb(), route.pattern),
            location: location::own(route.location).map(location::text),
        });
        let reporter = Reporter::new(self.hooks, listeners, names.collect(), others);
        values.insert(reporter.clone());
        observers.push(Arc::new(reporter.clone()));
        Some(reporter)
    }
}

impl App {
    /// Records that the panel is shown in production, so that alert mails have links to it.
    #[cfg(feature = "panel")]
    #[cfg_attr(not(feature = "mail"), allow(unused_mut))]
    pub(crate) fn link_to_panel(mut self) -> App {
        #[cfg(feature = "mail")]
        (self.failure_hooks.has_panel = true);
        self
    }

    /// Adds a hook that receives a report of each failure: of requests, tasks, attempts of jobs, mails and webhooks.
    ///
    /// ```
    /// use aside::failures::FailureReport;
    /// use aside::testing::TestClient;
    /// use aside::{App, Error, Request, Result};
    /// use std::sync::Mutex;
    ///
    /// static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
    ///
    /// fn pay(_req: &mut Request) -> Result<&'static str> {
    ///     Err(Error::internal("the till is empty"))
    /// }
    ///
    /// let app = App::new().post("/orders", pay).on_failure(|report: &FailureReport| {
    ///     SEEN.lock().unwrap().push(format!("{}: {}", report.name, report.message));
    /// });
    /// let mut client = TestClient::new(app);
    /// client.post("/orders").send();
    /// client.drain(); // waits for the hooks too
    /// assert_eq!(*SEEN.lock().unwrap(), ["POST /orders: the till is empty"]);
    /// ```
    ///
    /// A [`FailureReport`] has the message with its causes, the location in the application's code, the backtrace if it was
    /// captured, the request, the attempt, and whether another one follows. Each failure is one report: an attempt that is
    /// retried too, a cancellation not, a request that the server refuses not (an overload is a 503 and not a failure of the
    /// site). The process that calls an isolated function or job reports its failure, and those of the tasks that it starts in
    /// its child process.
    ///
    /// Hooks run after one another on a thread of their own, beside the pages, in the order in which they were added and the
    /// failures happened. The hook of a [mounted](App::mount) application receives the failures of the whole site, since a
    /// task belongs to no path. A hook may start tasks, send mail and enqueue jobs, and may block: a slow hook delays only
    /// the reports behind it. At shutdown the reports that wait are delivered within `ASIDE_GRACE`, or 2 s after it.
    ///
    /// # Limits
    /// At most 60 failures are reported in a minute, and at most 10 of equal failures: those of the same kind, name and
    /// location. At most 100 reports wait for the hooks. All further failures are counted, in
    /// [`suppressed`](FailureReport::suppressed) of the next report, and are logged as ever.
    ///
    /// # Errors
    /// A hook returns nothing, or a `Result` with any error. Its error or panic is logged once, and never reported to a hook;
    /// neither are failures of the tasks, jobs, mails and webhooks that a hook starts, also through other work. A request
    /// that a hook sends to its own site is a request like any other, and its failure is reported.
    #[track_caller]
    pub fn on_failure<F, R>(mut self, f: F) -> App
    where
        F: Fn(&FailureReport) -> R + Send + Sync + 'static,
        R: IntoOutcome,
    {
        let call = Box::new(move |report: &FailureReport| f(report).into_outcome().map(drop));
        self.failure_hooks.hooks.push(FailureHook { call, location: Location::caller() });
        self
    }

    /// Mails the operators about failures: at once about the first one, and then at most one mail in ten minutes, with the
    /// number of equal failures.
    ///
    /// ```
    /// use aside::testing::TestClient;
    /// use aside::{App, Error, Request, Result};
    ///
    /// fn pay(_req: &mut Request) -> Result<&'static str> {
    ///     Err(Error::internal("the till is empty"))
    /// }
    ///
    /// let mut client = TestClient::new(App::new().post("/orders", pay).alert_mail("ops@shop.example"));
    /// client.post("/orders").send();
    /// client.post("/orders").send();
    /// client.drain();
    /// let mails = client.outbox();
    /// assert_eq!(mails.len(), 1); // the second failure waits for the next mail
    /// assert_eq!(mails[0].subject, "POST /orders failed: the till is empty");
    /// ```
    ///
    /// The mails have the failed requests and tasks, the dead jobs, and the mails and webhooks that are not sent again; an
    /// attempt that is retried is left out. Failures with the same name and message, apart from digits, are one group, with
    /// its number, the location, the last request and the time. A mail has at most 50 groups; the rest is a number. With
    /// `ASIDE_URL`, and in production [`App::panel`](App::panel), it also has links to the panel. Call the method again to add an address. At shutdown a last mail has the
    /// failures that still wait.
    ///
    /// The mails go through `ASIDE_MAIL_URL`, like any other. If one cannot be sent, that is logged, and its failures are in
    /// the mail that follows the next failure.
    #[cfg(feature = "mail")]
    pub fn alert_mail(mut self, to: impl Into<String>) -> App {
        let to = to.into();
        if let Err(error) = Mail::check_address(&to) {
            self.problems.push(error.context("App::alert_mail"));
        }
        self.failure_hooks.alert_addresses.push(to);
        self
    }
}
