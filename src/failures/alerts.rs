//! Alert mails about failures: the first at once, then at most one in ten minutes, with the number of equal failures.
//!
//! Failures are equal if they have the same name and message, apart from digits. A mail that cannot be sent gives its
//! failures back, and the next one has them too.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use super::rate::Dropped;
use super::report::FailureReport;
use super::reporter::Listener;
use crate::background::lineage::{Lineage, Parent};
use crate::background::request_info::RequestInfo;
use crate::background::scope::{Context, Scope};
use crate::background::timer;
use crate::bounds;
use crate::http::router::BUILTIN;
use crate::log_text::{escape, numbered, prefix};
use crate::mail::Mail;
use crate::message_groups::without_numbers;
use crate::sync::lock;
use crate::utc;

/// The least time between two mails.
const PAUSE: Duration = Duration::from_secs(600);

/// The number of groups in a mail.
const MOST_GROUPS: usize = 50;

/// The number of groups that a subject names.
const MOST_NAMED: usize = 3;

/// The longest message, and the longest text by which two messages are compared, in bytes.
const LONGEST_MESSAGE: usize = 1_000;
const LONGEST_KEY: usize = 300;
const LONGEST_SUBJECT: usize = 200;

/// The alert mails of an application.
#[derive(Clone)]
pub(crate) struct AlertMail(Arc<Shared>);

struct Shared {
    to: Vec<String>,
    /// The public URL of the site.
    url: Option<String>,
    /// True if an operator can open the panel there.
    has_panel: bool,
    /// The failures that equal no reported one, beyond the limit of reports.
    others: Arc<Dropped>,
    state: Mutex<State>,
}

/// The failures since the last mail.
#[derive(Default)]
struct State {
    groups: Vec<Group>,
    /// The number of failures that belong to no group.
    ungrouped: u64,
    /// The time before which no mail is sent.
    next: Option<Instant>,
    is_scheduled: bool,
}

/// Equal failures.
#[derive(Clone)]
struct Group {
    key: String,
    name: String,
    verb: &'static str,
    message: String,
    location: Option<String>,
    request: Option<Arc<RequestInfo>>,
    /// The path of the page of the last failure, below that of the panel.
    page: String,
    last: SystemTime,
    count: u64,
    /// The counters of those without a report.
    dropped: Vec<Arc<Dropped>>,
}

/// The failures of one mail.
#[derive(Default, Clone)]
struct Digest {
    groups: Vec<Group>,
    ungrouped: u64,
}

impl AlertMail {
    /// Creates the alert mails to these addresses. They have links if there is a URL with a panel. `others` counts the failures that
    /// equal no reported one.
    pub(crate) fn new(to: Vec<String>, url: Option<String>, has_panel: bool, others: Arc<Dropped>) -> AlertMail {
        AlertMail(Arc::new(Shared { to, url, has_panel, others, state: Mutex::default() }))
    }

    /// Sends the failures in a background task. What it starts, and its own failure, is not reported.
    fn send(&self, digest: Digest, scope: &Scope) {
        let lineage = Lineage { parent: Some(Parent::FailureHook), ..Lineage::default() };
        let _entered = Context { lineage, ..Context::of(scope.clone()) }.enter();
        let Some((first, others)) = self.0.to.split_first() else { return };
        let mail = others.iter().fold(Mail::to(first), Mail::and_to);
        let mail = mail
            .subject(digest.subject(self.site()))
            .text(digest.text(self.0.url.as_deref().filter(|_| self.0.has_panel)));
        let unsent = Unsent { alerts: self.clone(), digest: Mutex::new(Some(digest)) };
        mail.send_then(move || drop(lock(&unsent.digest).take()));
    }

    /// Returns the host name of the site.
    fn site(&self) -> Option<&str> {
        self.0.url.as_deref()?.split("://").nth(1)?.split('/').next()
    }

    /// Sends the next mail when its time has come.
    fn schedule(&self, at: Instant, scope: &Scope) {
        let (alerts, scope) = (self.clone(), scope.downgrade());
        timer::at(at, move || {
            let Some(scope) = scope.upgrade() else { return };
            let digest = {
                let mut state = lock(&alerts.0.state);
                state.is_scheduled = false;
                state.take(Instant::now(), &alerts.0.others)
            };
            alerts.send_and_schedule(digest, &scope);
        });
    }

    fn send_and_schedule(&self, digest: Option<Digest>, scope: &Scope) {
        if let Some(digest) = digest {
            self.send(digest, scope);
        }
        let at = lock(&self.0.state).schedules_at();
        at.into_iter().for_each(|at| self.schedule(at, scope));
    }
}

impl Listener for AlertMail {
    /// Counts a failure, and sends a mail if there was none for a while. An attempt that is retried needs no human yet.
    fn failed(&self, report: &FailureReport, scope: &Scope) {
        if report.is_retried() {
            return;
        }
        let digest = {
            let (mut state, now) = (lock(&self.0.state), Instant::now());
            state.add(report);
            if state.may_send(now) { state.take(now, &self.0.others) } else { None }
        };
        self.send_and_schedule(digest, scope);
    }

    fn finish(&self, scope: &Scope) {
        let digest = lock(&self.0.state).take(Instant::now(), &self.0.others);
        digest.into_iter().for_each(|digest| self.send(digest, scope));
    }
}

/// The failures of a mail that is not sent yet. They are kept for the next mail if this one is not sent.
struct Unsent {
    alerts: AlertMail,
    digest: Mutex<Option<Digest>>,
}

impl Drop for Unsent {
    fn drop(&mut self) {
        if let Some(digest) = lock(&self.digest).take() {
            lock(&self.alerts.0.state).keep(digest);
        }
    }
}

impl State {
    fn add(&mut self, report: &FailureReport) {
        let group = Group::of(report);
        self.merge(group);
    }

    fn merge(&mut self, group: Group) {
        let position = self.groups.iter().position(|other| other.key == group.key);
        match position {
            Some(position) => self.groups[position].merge(group),
            None if self.groups.len() < MOST_GROUPS => self.groups.push(group),
            None => self.ungrouped += group.total(),
        }
    }

    /// Takes back the failures of a mail that was not sent.
    fn keep(&mut self, digest: Digest) {
        self.ungrouped += digest.ungrouped;
        digest.groups.into_iter().for_each(|group| self.merge(group));
    }

    fn may_send(&self, now: Instant) -> bool {
        self.next.is_none_or(|next| now >= next)
    }

    /// Takes the failures for a mail, if there are any. Groups whose failures are still counted stay, without those.
    fn take(&mut self, now: Instant, others: &Dropped) -> Option<Digest> {
        let mut groups: Vec<Group> = self.groups.iter_mut().map(Group::take).filter(|group| group.count > 0).collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.count));
        self.groups.retain(|group| !group.dropped.is_empty());
        let digest = Digest { groups, ungrouped: std::mem::take(&mut self.ungrouped) + others.take() };
        if digest.total() == 0 {
            return None;
        }
        self.next = Some(now + PAUSE);
        Some(digest)
    }

    /// Returns the time for which the next mail is to be scheduled: if failures wait or are counted, and only once.
    fn schedules_at(&mut self) -> Option<Instant> {
        let is_needed = !self.groups.is_empty() && !self.is_scheduled;
        let at = self.next.filter(|_| is_needed)?;
        self.is_scheduled = true;
        Some(at)
    }
}

impl Group {
    fn of(report: &FailureReport) -> Group {
        let chain = report.chain();
        let dropped = &report.dropped;
        let page = match (report.job, &report.request, report.task) {
            (Some(job), ..) => format!("/jobs/{job}"),
            (None, Some(request), _) => format!("/requests/{}", request.id),
            (None, None, task) => format!("/tasks/{}", task.unwrap_or_default()),
        };
        Group {
            key: without_numbers(&format!("{} {}", prefix(&report.group, LONGEST_KEY), prefix(&chain, LONGEST_KEY))),
            name: report.group.clone(),
            verb: if report.is_panic { "panicked" } else { "failed" },
            message: escape(&bounds::shorten(&chain, LONGEST_MESSAGE)).into_owned(),
            location: report.location.clone(),
            request: report.request.clone(),
            page,
            last: report.time,
            count: 1,
            dropped: Some(dropped).filter(|dropped| dropped.claim()).cloned().into_iter().collect(),
        }
    }

    /// Adds equal failures. The later ones are described.
    fn merge(&mut self, mut other: Group) {
        if other.last >= self.last {
            std::mem::swap(self, &mut other);
        }
        self.count += other.count;
        self.dropped.append(&mut other.dropped);
        self.settle();
    }

    /// Takes the count out of the counters, and drops those that count no longer.
    fn settle(&mut self) {
        self.dropped.retain(|dropped| {
            // The limit on reports has the other reference, for a minute.
            let is_counting = Arc::strong_count(dropped) > 1;
            self.count += dropped.take();
            is_counting
        });
    }

    /// Takes the failures so far.
    fn take(&mut self) -> Group {
        self.settle();
        let taken = Group { dropped: Vec::new(), ..self.clone() };
        self.count = 0;
        taken
    }

    fn total(&self) -> u64 {
        self.count + self.dropped.iter().map(|dropped| dropped.take()).sum::<u64>()
    }

    /// Returns the failures as a line: `GET /orders/{id} failed 17 times: connection refused`.
    fn title(&self) -> String {
        let times = if self.count == 1 { String::new() } else { format!(" {} times", self.count) };
        format!("{} {}{times}: {}", escape(&self.name), self.verb, self.message)
    }

    fn write(&self, text: &mut String, url: Option<&str>) -> fmt::Result {
        writeln!(text, "{}", self.title())?;
        if let Some(location) = &self.location {
            writeln!(text, "    at {location}")?;
        }
        let request =
            self.request.as_ref().map_or(String::new(), |request| format!(", {}", escape(&request.to_string())));
        writeln!(text, "    last at {}{request}", written(self.last))?;
        if let Some(url) = url {
            writeln!(text, "    {}{BUILTIN}{}", url.trim_end_matches('/'), self.page)?;
        }
        writeln!(text)
    }
}

impl Digest {
    fn total(&self) -> u64 {
        self.ungrouped + self.groups.iter().map(|group| group.count).sum::<u64>()
    }

    /// Returns the subject: what has failed, and how often.
    fn subject(&self, site: Option<&str>) -> String {
        let what = match &self.groups[..] {
            [only] if self.ungrouped == 0 => only.title(),
            groups => {
                let named = groups.iter().take(MOST_NAMED).map(|group| format!("{} ({})", group.name, group.count));
                let named: Vec<String> = named.collect();
                let rest = groups.len().saturating_sub(MOST_NAMED);
                let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
                format!("{}: {}{rest}", numbered(self.total(), "failure", "failures"), named.join(", "))
            }
        };
        let site = site.map_or(String::new(), |site| format!("{site}: "));
        bounds::shorten(&format!("{site}{what}"), LONGEST_SUBJECT).into_owned()
    }

    fn text(&self, url: Option<&str>) -> String {
        let mut text = String::new();
        let groups = numbered(self.groups.len(), "group", "groups");
        let _ = writeln!(text, "{} in {groups}.\n", numbered(self.total(), "failure", "failures"));
        // Writing to a `String` does not fail.
        let _ = self.groups.iter().try_for_each(|group| group.write(&mut text, url));
        if self.ungrouped > 0 {
            let more = numbered(self.ungrouped, "more failure is", "more failures are");
            let _ = writeln!(text, "{more} listed only in the log.\n");
        }
        let minutes = PAUSE.as_secs() / 60;
        text += &format!("Further failures follow in one mail, {minutes} minutes after this one at the earliest.\n");
        text
    }
}

fn written(time: SystemTime) -> String {
    utc::written(time, ' ').map_or_else(|| "an unknown time".to_owned(), |time| format!("{time} UTC"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failures::rate::ReportRate;

    const SECOND: Duration = Duration::from_secs(1);

    fn report(name: &str, message: &str) -> FailureReport {
        FailureReport::test(name, message, Arc::default())
    }

    #[test]
    fn the_first_mail_is_sent_at_once_and_the_next_one_ten_minutes_later_with_counts() {
        let (mut state, others, now) = (State::default(), Dropped::default(), Instant::now());
        assert!(state.may_send(now) && state.take(now, &others).is_none() && state.may_send(now), "nothing has failed");
        state.add(&report("GET /", "the till is empty"));
        let first = state.take(now, &others).unwrap();
        assert_eq!(first.subject(Some("shop.example")), "shop.example: GET / failed: the till is empty");
        for order in 0..12 {
            state.add(&report("GET /", &format!("no order {order}")));
            assert!(!state.may_send(now + PAUSE - SECOND));
        }
        (0..3).for_each(|id| state.add(&report(&format!("import {id}"), "no\nrows")));
        assert_eq!(state.schedules_at(), Some(now + PAUSE));
        assert_eq!(state.schedules_at(), None, "it is scheduled once");
        assert!(state.may_send(now + PAUSE));
        let second = state.take(now + PAUSE, &others).unwrap();
        assert_eq!(second.subject(None), "15 failures: GET / (12), import 2 (3)");
        let text = second.text(None);
        let lines: Vec<_> = text.lines().filter(|line| !line.contains("last at")).collect();
        assert_eq!(lines[..3], ["15 failures in 2 groups.", "", "GET / failed 12 times: no order 11"]);
        assert!(lines.contains(&"import 2 failed 3 times: no\\nrows") && state.take(now + PAUSE, &others).is_none());
    }

    #[test]
    fn failures_beyond_the_limit_of_reports_are_counted_with_their_equals() {
        let others = Arc::<Dropped>::default();
        let (mut state, mut rate, now) = (State::default(), ReportRate::new(others.clone()), Instant::now());
        let fail = |state: &mut State, rate: &mut ReportRate, key, message, now| {
            if let Some(dropped) = rate.admit(key, now) {
                state.add(&FailureReport::test("GET /", message, dropped));
            }
        };
        fail(&mut state, &mut rate, 1, "down", now);
        assert_eq!(state.take(now, &others).unwrap().total(), 1);
        (0..1_000).for_each(|_| fail(&mut state, &mut rate, 1, "down", now));
        (2..200).for_each(|key| fail(&mut state, &mut rate, key, "other", now));
        let digest = state.take(now + PAUSE, &others).unwrap();
        assert_eq!((digest.groups[0].count, digest.total()), (1_000, 1_198));
        assert_eq!(digest.ungrouped, 198 - 50, "with 10 equal ones, 60 are reported in a minute");
        fail(&mut state, &mut rate, 1, "down", now);
        assert_eq!(
            state.take(now + PAUSE * 2, &others).unwrap().total(),
            1,
            "those of the same minute are counted too"
        );
        rate.admit(9, now + PAUSE * 3);
        assert!(
            state.take(now + PAUSE * 3, &others).is_none() && state.groups.is_empty(),
            "nothing counts them any more"
        );
    }

    #[test]
    fn groups_and_texts_are_bounded() {
        let (mut state, others) = (State::default(), Dropped::default());
        let long = "x".repeat(1_000_000);
        for number in 0..1_000_u32 {
            let letters: String = number.to_string().bytes().map(|digit| char::from(digit + b'g')).collect();
            state.add(&report(&letters, &long));
        }
        let digest = state.take(Instant::now(), &others).unwrap();
        assert_eq!((digest.groups.len(), digest.ungrouped, digest.total()), (MOST_GROUPS, 950, 1_000));
        assert!(digest.text(None).len() < 100_000 && digest.subject(None).len() < 210);
        assert!(digest.text(None).contains("950 more failures are listed only in the log."));
    }

    #[test]
    fn the_failures_of_a_mail_that_is_not_sent_are_kept_for_the_next_one() {
        let alerts = AlertMail::new(vec!["ops@shop.example".to_owned()], None, false, Arc::default());
        let take = || lock(&alerts.0.state).take(Instant::now(), &alerts.0.others);
        lock(&alerts.0.state).add(&report("GET /", "down"));
        drop(Unsent { alerts: alerts.clone(), digest: Mutex::new(take()) });
        lock(&alerts.0.state).add(&report("GET /", "down"));
        assert_eq!(take().unwrap().subject(None), "GET / failed 2 times: down");
        assert!(take().is_none());
    }
}
