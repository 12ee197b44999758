//! One connection to a mail server, and the conversation on it (RFC 5321).
//!
//! lettre's own transport stops at the first refused recipient. This one sends the mail to the others.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{SmtpConnection, Tls, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};

use super::fault::{Fault, Step};
use super::message::Letter;

/// The time limit for QUIT.
const GOODBYE: Duration = Duration::from_secs(2);

/// The address of a mail server, and the settings of a conversation.
pub(super) struct ServerSettings {
    pub(super) host: String,
    pub(super) port: u16,
    /// Host and port, as the log may show them.
    pub(super) name: String,
    pub(super) hello: ClientId,
    pub(super) tls: Tls,
    pub(super) credentials: Option<Credentials>,
    pub(super) limits: Limits,
}

/// The time limits of a conversation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For opening a connection, and for each further step.
    pub(super) step: Duration,
    /// For the response to the message as a whole. The server checks the message, and a client that disconnects too early
    /// sends it twice: RFC 5321, section 4.5.3.2.6, asks for 10 minutes.
    pub(super) verdict: Duration,
    /// For a free connection.
    pub(super) patience: Duration,
    /// The first backoff after the server reported too many connections.
    pub(super) pause: Duration,
    /// The pause after a refused login: repeated failures may lock the account, or block this machine.
    pub(super) login_pause: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            step: Duration::from_secs(30),
            verdict: Duration::from_secs(600),
            patience: Duration::from_secs(300),
            pause: Duration::from_secs(1),
            login_pause: Duration::from_secs(60),
        }
    }
}

impl ServerSettings {
    fn fault(&self, step: Step, error: smtp::Error) -> Fault {
        let limit = if step == Step::Verdict { self.limits.verdict } else { self.limits.step };
        Fault::of_server(&self.name, limit, step, error)
    }

    /// Opens a connection, and logs in.
    fn open(&self) -> Result<SmtpConnection, Fault> {
        let mut connection = self.encrypted().map_err(|error| self.fault(Step::Opening, error))?;
        // The connection may have a third of the time limit, from an address that is not the last: restore the whole.
        let _ = connection.set_timeout(Some(self.limits.step));
        if let Some(credentials) = &self.credentials {
            let login = connection.auth(DEFAULT_MECHANISMS, credentials);
            login.map_err(|error| self.fault(Step::Login, error))?;
        }
        Ok(connection)
    }

    fn encrypted(&self) -> Result<SmtpConnection, smtp::Error> {
        match &self.tls {
            Tls::Wrapper(parameters) => self.connect(Some(parameters)),
            Tls::Required(parameters) => {
                let mut connection = self.connect(None)?;
                connection.starttls(parameters, &self.hello).map(|()| connection)
            }
            Tls::Opportunistic(parameters) => {
                let mut connection = self.connect(None)?;
                if !connection.can_starttls() || connection.starttls(parameters, &self.hello).is_ok() {
                    return Ok(connection);
                }
                // The server offers STARTTLS but it fails: the mail may be sent without encryption.
                self.connect(None)
            }
            Tls::None => self.connect(None),
        }
    }

    /// Connects to the first reachable address of the host, and sends EHLO.
    fn connect(&self, tls: Option<&TlsParameters>) -> Result<SmtpConnection, smtp::Error> {
        let greet = |address: &[SocketAddr], time| SmtpConnection::connect(address, Some(time), &self.hello, tls, None);
        let host = (self.host.as_str(), self.port);
        let Ok(addresses) = host.to_socket_addrs().map(Vec::from_iter) else {
            return SmtpConnection::connect(host, Some(self.limits.step), &self.hello, tls, None);
        };
        let Some((last, others)) = addresses.split_last() else { return greet(&[], self.limits.step) };
        for address in others {
            match greet(std::slice::from_ref(address), self.limits.step / 3) {
                // This address did not answer: try the next one.
                Err(error) if error.status().is_none() => {}
                connection => return connection,
            }
        }
        greet(std::slice::from_ref(last), self.limits.step)
    }
}

/// An open connection.
pub(super) struct Session {
    connection: SmtpConnection,
    settings: Arc<ServerSettings>,
    /// The number of mails sent through it.
    pub(super) mails: u32,
}

/// A recipient that the server refused while it accepted others, or one of several refused recipients.
pub(super) struct Refused {
    /// The index among the named recipients.
    pub(super) index: usize,
    pub(super) fault: Fault,
}

impl Session {
    pub(super) fn open(settings: &Arc<ServerSettings>) -> Result<Session, Fault> {
        Ok(Session { connection: settings.open()?, settings: settings.clone(), mails: 0 })
    }

    /// Sends a mail to these recipients, and returns the refused ones. All others have it.
    pub(super) fn send(&mut self, letter: &Letter, to: &[Address]) -> Result<Vec<Refused>, Fault> {
        let parameters = self.parameters(letter, to)?;
        self.mails += 1;
        let from = Mail::new(Some(letter.from.clone()), parameters);
        self.connection.command(from).map_err(|error| self.settings.fault(Step::Message, error))?;
        let mut refused = Vec::new();
        for (index, address) in to.iter().enumerate() {
            match self.name_recipient(address) {
                Err(fault) if fault.is_answer() || fault.is_final() => refused.push(Refused { index, fault }),
                named => named?,
            }
        }
        if refused.len() < to.len() {
            self.hand_over(letter)?;
        }
        Ok(refused)
    }

    /// Checks that the server supports the extensions that the mail needs.
    fn parameters(&self, letter: &Letter, to: &[Address]) -> Result<Vec<MailParameter>, Fault> {
        let (offers_utf8, offers_8bit) = (self.offers(Extension::SmtpUtfEight), self.offers(Extension::EightBitMime));
        if letter.needs_utf8 && !offers_utf8 {
            return Err(self.cannot_take_utf8());
        }
        if letter.needs_8bit && !offers_8bit {
            let what = "does not accept non-ASCII bytes (8BITMIME), and an attached message has some";
            return Err(Fault::fatal(format!("the mail server {} {what}", self.settings.name)));
        }
        let is_utf8 = offers_utf8 && (letter.needs_utf8 || to.iter().any(|address| !is_ascii(address)));
        let is_8bit = offers_8bit && (is_utf8 || letter.needs_8bit);
        let utf8 = is_utf8.then_some(MailParameter::SmtpUtfEight);
        let eight_bit = is_8bit.then_some(MailParameter::Body(MailBodyParameter::EightBitMime));
        Ok(utf8.into_iter().chain(eight_bit).collect())
    }

    fn offers(&self, extension: Extension) -> bool {
        self.connection.server_info().supports_feature(extension)
    }

    fn cannot_take_utf8(&self) -> Fault {
        let what = "does not accept non-ASCII letters before the `@` (SMTPUTF8)";
        Fault::fatal(format!("the mail server {} {what}", self.settings.name))
    }

    fn name_recipient(&mut self, address: &Address) -> Result<(), Fault> {
        if !is_ascii(address) && !self.offers(Extension::SmtpUtfEight) {
            return Err(self.cannot_take_utf8());
        }
        let answer = self.connection.command(Rcpt::new(address.clone(), Vec::new()));
        answer.map(drop).map_err(|error| self.settings.fault(Step::Recipient, error))
    }

    fn hand_over(&mut self, letter: &Letter) -> Result<(), Fault> {
        self.connection.command(Data).map_err(|error| self.settings.fault(Step::Message, error))?;
        let _ = self.connection.set_timeout(Some(self.settings.limits.verdict));
        let taken = self.connection.message(&letter.sent.raw);
        let _ = self.connection.set_timeout(Some(self.settings.limits.step));
        taken.map(drop).map_err(|error| self.settings.fault(Step::Verdict, error))
    }

    /// Sends QUIT if the connection still works.
    pub(super) fn quit(mut self) {
        let _ = self.connection.set_timeout(Some(GOODBYE));
        let _ = self.connection.quit();
    }
}

fn is_ascii(address: &Address) -> bool {
    let text: &str = address.as_ref();
    text.is_ascii()
}
