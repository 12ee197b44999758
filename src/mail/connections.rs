//! The connections to a mail server: their limit, reuse, and reduction when the server reports too many.
//!
//! If the server answers 421 while other connections of this process are open, the limit is reduced by one, and the mail
//! waits for an open connection. Successful mails raise the limit again, one by one.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::{Duration, Instant};

use lettre::Address;

use super::fault::Fault;
use super::message::Letter;
use super::session::{Refused, ServerSettings, Session};
use crate::background::scope::Context;
use crate::background::timer;
use crate::log_text::span;
use crate::sync::{lock, wait_while_for};

/// How long an idle connection is kept, and the number of mails sent through one.
const KEPT: Duration = Duration::from_secs(10);
const MOST_MAILS: u32 = 100;

/// The number of consecutive successful mails after which the limit is raised by one.
const SUCCESSES_TO_RAISE: usize = 20;

/// The interval at which a waiting mail checks if it should stop.
const LOOK: Duration = Duration::from_millis(250);

/// A mail server and the connections to it.
pub(super) struct Server(Arc<Shared>);

struct Shared {
    settings: Arc<ServerSettings>,
    most: usize,
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    /// The current limit: `most`, or fewer while the server reports too many connections.
    allowed: usize,
    taken: usize,
    /// The number of consecutive successful mails.
    successes: usize,
    /// Idle connections, the newest last.
    idle: Vec<(Instant, Session)>,
    is_watched: bool,
    /// The last refused login: its time and its fault.
    refused_login: Option<(Instant, String)>,
}

impl Server {
    pub(super) fn new(settings: ServerSettings, most: usize) -> Server {
        let state =
            State { allowed: most, taken: 0, successes: 0, idle: Vec::new(), is_watched: false, refused_login: None };
        let (settings, state) = (Arc::new(settings), Mutex::new(state));
        Server(Arc::new(Shared { settings, most, state, freed: Condvar::new() }))
    }

    /// Host and port, as the log may show them.
    pub(super) fn name(&self) -> &str {
        &self.0.settings.name
    }

    /// Sends a mail, and returns the refused recipients. All others have it.
    ///
    /// Waits for a free connection, also for an open one if the server reports too many.
    pub(super) fn deliver(&self, letter: &Letter, to: &[Address]) -> Result<Vec<Refused>, Fault> {
        let limits = self.0.settings.limits;
        let (until, mut pause) = (Instant::now() + limits.patience, limits.pause);
        loop {
            let permit = Arc::new(self.0.take(until)?);
            let fault = match permit.deliver(letter, to) {
                Err(fault) if fault.is_busy() => fault,
                other => return other,
            };
            if permit.reduce_limit() {
                continue;
            }
            // This process has only one connection: other clients use the server's limit up.
            if !fault.names_connections() || Instant::now() + pause > until || is_told_to_stop() {
                return Err(fault);
            }
            drop(permit);
            wait(pause);
            pause *= 2;
        }
    }
}

/// Returns true if the process stops or the task was cancelled: a mail must not wait any longer then.
fn is_told_to_stop() -> bool {
    let context = Context::current();
    context.scope.registry().is_closing() || is_cancelled(&context)
}

fn is_cancelled(context: &Context) -> bool {
    context.task.as_ref().is_some_and(|task| task.is_cancelled())
}

/// Waits for `time`, or until the process or the task stops.
fn wait(time: Duration) {
    let until = Instant::now() + time;
    while !is_told_to_stop() {
        let Some(left) = until.checked_duration_since(Instant::now()) else { return };
        thread::park_timeout(left.min(LOOK));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Takes one of the allowed connections, and waits for it until `until`.
    fn take(self: &Arc<Shared>, until: Instant) -> Result<Permit, Fault> {
        let context = Context::current();
        let mut state = self.state();
        while state.taken >= state.allowed {
            let left = until.saturating_duration_since(Instant::now());
            if is_cancelled(&context) {
                return Err(self.not_sent("it was cancelled while it waited for a connection"));
            }
            if left.is_zero() {
                let time = span(self.settings.limits.patience);
                return Err(self.not_sent(&format!("no connection was free for {time} (ASIDE_MAIL_CONNECTIONS)")));
            }
            state = wait_while_for(&self.freed, state, left.min(LOOK), |state| state.taken >= state.allowed);
        }
        state.taken += 1;
        let session = state.idle.pop().map(|(_, session)| session);
        Ok(Permit { shared: self.clone(), session: Mutex::new(session) })
    }

    fn not_sent(&self, why: &str) -> Fault {
        Fault::temporary(format!("the mail was not sent to the mail server {}: {why}", self.settings.name))
    }

    /// Returns the fault of the last login while it is too early to log in again. Each mail would try the same password.
    fn login_pause(&self) -> Option<Fault> {
        let state = self.state();
        let (at, message) = state.refused_login.as_ref()?;
        let pause = self.settings.limits.login_pause;
        let since = at.elapsed();
        (since < pause)
            .then(|| Fault::temporary(format!("{message} (last attempt {} ago; not retried yet)", span(since))))
    }

    fn note_login(&self, fault: &Fault) {
        if fault.is_login() {
            self.state().refused_login = Some((Instant::now(), fault.to_string()));
        }
    }

    /// Returns a permit, and keeps its connection for the next mail if it is still usable. Both happen in one step: between
    /// two steps another thread would count one connection too many. Returns a connection that is not kept.
    fn give_back(self: &Arc<Shared>, session: Option<Session>) -> Option<Session> {
        let mut state = self.state();
        state.taken -= 1;
        self.freed.notify_one();
        let session = session?;
        if session.mails >= MOST_MAILS || state.taken + state.idle.len() >= state.allowed {
            return Some(session);
        }
        state.idle.push((Instant::now(), session));
        if !std::mem::replace(&mut state.is_watched, true) {
            drop(state);
            close_later(Arc::downgrade(self));
        }
        None
    }

    fn close_idle(self: &Arc<Shared>) {
        let old = {
            let mut state = self.state();
            let is_old = |(since, _): &mut (Instant, Session)| since.elapsed() >= KEPT;
            let old: Vec<_> = state.idle.extract_if(.., is_old).collect();
            state.is_watched = !state.idle.is_empty();
            old
        };
        if self.state().is_watched {
            close_later(Arc::downgrade(self));
        }
        old.into_iter().for_each(|(_, session)| session.quit());
    }
}

/// Closes connections that have been idle too long, on a separate thread, since QUIT may take a while.
fn close_later(shared: Weak<Shared>) {
    timer::at(Instant::now() + KEPT, move || {
        let Some(shared) = shared.upgrade() else { return };
        let closing = thread::Builder::new().name("aside-mail-idle".into());
        // Without a thread they stay open until the next mail, or until the server closes them.
        let _ = closing.spawn(move || shared.close_idle());
    });
}

/// The permit for one connection, with the connection while it is usable and idle.
struct Permit {
    shared: Arc<Shared>,
    session: Mutex<Option<Session>>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let session = lock(&self.session).take();
        if let Some(session) = self.shared.give_back(session) {
            session.quit();
        }
    }
}

impl Permit {
    fn deliver(self: &Arc<Permit>, letter: &Letter, to: &[Address]) -> Result<Vec<Refused>, Fault> {
        let kept = lock(&self.session).take();
        if let Some(session) = kept {
            match self.send(session, letter, to) {
                // The server closed the connection while it was idle.
                Err(fault) if fault.is_disconnect() => {}
                other => return other,
            }
        }
        if let Some(fault) = self.shared.login_pause() {
            return Err(fault);
        }
        let session = self.open().inspect_err(|fault| self.shared.note_login(fault))?;
        self.send(session, letter, to)
    }

    fn send(&self, mut session: Session, letter: &Letter, to: &[Address]) -> Result<Vec<Refused>, Fault> {
        let sent = session.send(letter, to);
        match &sent {
            Ok(refused) if refused.is_empty() => {
                self.note_success();
                *lock(&self.session) = Some(session);
            }
            Err(fault) if !fault.is_answer() => {}
            // The state of the rest of the conversation is uncertain.
            _ => session.quit(),
        }
        sent
    }

    /// Opens a connection within the time limit, on a separate thread: name resolution has no time limit, and lettre sends
    /// QUIT to a silent server and waits for its answer.
    fn open(self: &Arc<Permit>) -> Result<Session, Fault> {
        let settings = self.shared.settings.clone();
        let (limit, name) = (settings.limits.step, settings.name.clone());
        let (tell, told) = sync_channel(1);
        let opening = thread::Builder::new().name("aside-mail-open".into());
        // An abandoned connection counts until its thread ends.
        let permit = self.clone();
        let opened = opening.spawn(move || {
            let session = Session::open(&settings);
            drop(permit);
            let _ = tell.send(session);
        });
        opened.map_err(|error| Fault::temporary(format!("could not start a thread to send mail: {error}")))?;
        told.recv_timeout(limit).unwrap_or_else(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => format!("was silent for {}", span(limit)),
                RecvTimeoutError::Disconnected => "could not be used: the thread panicked".to_owned(),
            };
            Err(Fault::temporary(format!("the mail server {name} {what}")))
        })
    }

    fn note_success(&self) {
        let mut state = self.shared.state();
        state.successes += 1;
        if state.allowed < self.shared.most && state.successes >= SUCCESSES_TO_RAISE {
            (state.allowed, state.successes) = (state.allowed + 1, 0);
            self.shared.freed.notify_one();
        }
    }

    /// Reduces the limit by one if other connections are open. Returns true if so.
    fn reduce_limit(&self) -> bool {
        let mut state = self.shared.state();
        state.successes = 0;
        let others = state.taken - 1 + state.idle.len();
        if others == 0 {
            return false;
        }
        if others < state.allowed {
            state.allowed = others.max(1);
            let (name, allowed) = (&self.shared.settings.name, state.allowed);
            log::warn!(
                target: "aside::mail",
                "The mail server {name} accepts no more connections; using at most {allowed} until {SUCCESSES_TO_RAISE} mails have been sent"
            );
        }
        true
    }
}
