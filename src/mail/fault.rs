//! Delivery faults of mail, and the distinction between final and temporary ones.
//!
//! A fault is final if the server refuses this mail or this recipient (5xx), or if the mail cannot be built. A fault of the
//! transport is temporary: an unreachable server, a garbled response, an expired certificate or a refused login is resolved
//! sooner or later, and no accepted mail may be lost before that.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use lettre::transport::smtp;

use crate::error::Error;
use crate::log_text::span;

/// A delivery fault.
#[derive(Debug)]
pub(super) struct Fault {
    kind: Kind,
    message: String,
    /// The server's response or behavior, with the step at which it occurred.
    source: Option<smtp::Error>,
    step: Step,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The server refuses this mail or this recipient.
    Final,
    /// A later attempt may succeed.
    Temporary,
    /// The server has too many connections.
    Busy,
    /// A setting is missing. It cannot be set before a restart.
    Settings,
}

/// The step of the conversation at which the server refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// From the greeting to the login.
    Opening,
    Login,
    Recipient,
    /// The sender, and the DATA command.
    Message,
    /// The server's response to the message as a whole.
    Verdict,
}

impl Fault {
    /// Returns the fault for an error in a conversation with the server.
    pub(super) fn of_server(server: &str, limit: Duration, step: Step, error: smtp::Error) -> Fault {
        let kind = kind(step, &error);
        let message = message(server, limit, step, &error, kind);
        Fault { kind, message, source: Some(error), step }
    }

    fn new(kind: Kind, message: impl Into<String>) -> Fault {
        Fault { kind, message: message.into(), source: None, step: Step::Opening }
    }

    pub(super) fn temporary(message: impl Into<String>) -> Fault {
        Fault::new(Kind::Temporary, message)
    }

    /// Returns the fault for a mail that is refused before the server is contacted.
    pub(super) fn fatal(message: impl Into<String>) -> Fault {
        Fault::new(Kind::Final, message)
    }

    pub(super) fn settings(message: impl Into<String>) -> Fault {
        Fault::new(Kind::Settings, message)
    }

    /// Returns the same fault under a message that names the recipients concerned.
    pub(super) fn with_message(self, message: String) -> Fault {
        Fault { message, ..self }
    }

    pub(super) fn is_final(&self) -> bool {
        self.kind == Kind::Final
    }

    /// Returns true if the server has too many connections.
    pub(super) fn is_busy(&self) -> bool {
        self.kind == Kind::Busy
    }

    /// Returns true if the server itself reports too many connections, rather than just closing.
    pub(super) fn names_connections(&self) -> bool {
        let text = self.source.as_ref().map_or(String::new(), |error| error.to_string().to_ascii_lowercase());
        ["too many", "connection", "concurren", "rate limit"].iter().any(|words| text.contains(words))
    }

    /// Returns true if the server has closed the connection before it could accept the mail.
    pub(super) fn is_disconnect(&self) -> bool {
        let Some(error) = self.source.as_ref().filter(|_| self.step != Step::Verdict) else { return false };
        error.status().map_or_else(|| !is_timeout(error), |code| u16::from(code) == 421)
    }

    /// Returns true if the server refused the user and password.
    pub(super) fn is_login(&self) -> bool {
        self.step == Step::Login && self.source.as_ref().is_some_and(smtp::Error::is_permanent)
    }

    /// Returns true if the server gave a response after which the conversation can continue.
    pub(super) fn is_answer(&self) -> bool {
        let status = self.source.as_ref().and_then(smtp::Error::status);
        status.is_some_and(|code| u16::from(code) != 421)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}

/// Returns true if a later attempt may succeed without a restart: for a mail that is sent by a task.
pub(super) fn is_temporary(error: &Error) -> bool {
    error.find_source::<Fault>().is_some_and(|fault| matches!(fault.kind, Kind::Temporary | Kind::Busy))
}

/// Returns true if the fault is not in the mail itself: for a mail that is a job, which outlives a restart.
pub(super) fn is_mendable(error: &Error) -> bool {
    error.find_source::<Fault>().is_some_and(|fault| fault.kind != Kind::Final)
}

fn kind(step: Step, error: &smtp::Error) -> Kind {
    let Some(code) = error.status().map(u16::from) else { return Kind::Temporary };
    match (step, code) {
        (_, 421) => Kind::Busy,
        (_, ..500) => Kind::Temporary,
        (Step::Opening | Step::Login, _) => Kind::Temporary,
        // An unknown command, a wrong order and a missing login are faults of the conversation.
        (_, 500 | 502 | 503 | 530 | 534 | 535 | 538) => Kind::Temporary,
        // Too many recipients, or a full mailbox: RFC 5321, section 4.5.3.1.10, treats it as 452.
        (Step::Recipient, 552) => Kind::Temporary,
        _ => Kind::Final,
    }
}

fn message(server: &str, limit: Duration, step: Step, error: &smtp::Error, kind: Kind) -> String {
    let text = error.to_string();
    if is_timeout(error) {
        format!("the mail server {server} was silent for {}", span(limit))
    } else if step == Step::Login && error.status().is_some() {
        format!("the mail server {server} refuses the user and password of ASIDE_MAIL_URL")
    } else if kind == Kind::Final {
        format!("the mail server {server} refuses the mail")
    } else if kind == Kind::Busy || error.is_transient() {
        format!("the mail server {server} does not accept the mail now")
    } else if text.contains("STARTTLS is not supported") {
        format!(
            "the mail server {server} offers no encryption: set ASIDE_MAIL_URL to `smtps://…`, or append `?tls=none`"
        )
    } else if text.contains("certificate") {
        format!(
            "the certificate of the mail server {server} is not trusted: ASIDE_MAIL_URL must have the name that it is \
             for, and the system's store or the file that SSL_CERT_FILE names its authority"
        )
    } else {
        format!("cannot send mail through {server} (ASIDE_MAIL_URL)")
    }
}

/// Returns true for a timeout, which Unix reports as "would block" for a socket.
fn is_timeout(error: &smtp::Error) -> bool {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(error) = source.downcast_ref::<io::Error>() {
            return matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock);
        }
        next = source.source();
    }
    false
}
