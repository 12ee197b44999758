//! The mailer of an application, which sends mail to a server, to a folder or to memory.
//!
//! The [`Mailer`] knows the transport (`ASIDE_MAIL_URL`) and the sender. It keeps the last mails that it wrote to a folder
//! or to memory, for tests and for the panel.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use lettre::Address;

use super::SentMail;
use super::address::mailbox;
use super::connections::Server;
use super::fault::Fault;
use super::message::Letter;
use super::server_url::ServerUrl;
use super::session::{Limits, Refused};
use crate::background::pool::Pool;
use crate::background::scope::Context;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::log_text::absolute;
use crate::private_files;
use crate::sync::lock;

/// The number of mails that an outbox keeps, and their total bytes.
pub(super) const KEPT: usize = 100;
const KEPT_BYTES: usize = 64 << 20;

/// The mail transport and the sender of an application.
pub(crate) struct Mailer {
    transport: Transport,
    pub(super) from: Option<String>,
    /// The pool of the tasks that send mail, with one permit per connection. Waiting tasks hold no thread.
    pub(super) sending: Pool,
    outbox: Outbox,
}

/// The destination of mail.
enum Transport {
    Server(Server),
    Folder(PathBuf),
    Memory,
    /// None, with the reason: a site that sends no mail needs no transport.
    Unset(String),
}

impl Mailer {
    /// Creates the mailer of a configuration. It does not connect before the first mail.
    ///
    /// # Errors
    /// An error if `ASIDE_MAIL_URL` or `ASIDE_MAIL_FROM` is invalid. Its message never shows the password.
    pub(crate) fn new(config: &Config) -> Result<Mailer> {
        Mailer::with_limits(config, Limits::default())
    }

    /// Creates the mailer of a configuration, with other time limits.
    pub(super) fn with_limits(config: &Config, limits: Limits) -> Result<Mailer> {
        let transport = match &config.mail_url {
            Some(url) => transport(url, config.mail_connections, limits)
                .map_err(|error| error.context("ASIDE_MAIL_URL cannot be used"))?,
            None if config.is_development() => Transport::Folder("data/mail".into()),
            None => Transport::Unset(
                "ASIDE_MAIL_URL is not set: `smtp://user:password@host:587`, `smtps://…:465`, or `file:DIR`".into(),
            ),
        };
        let made_up = config.is_development().then(|| "aside@localhost".to_owned());
        let from = config.mail_from.clone().or(made_up);
        let check = from.as_deref().map(mailbox).transpose();
        check.map_err(|error| error.context("ASIDE_MAIL_FROM cannot be used"))?;
        Ok(Mailer { transport, from, sending: Pool::new(config.mail_connections.max(1)), outbox: Outbox::default() })
    }

    /// Returns the mailer of the current application, or that of the process.
    pub(super) fn current() -> Arc<Mailer> {
        static PROCESS: LazyLock<Arc<Mailer>> = LazyLock::new(|| {
            let mailer = Config::from_env().and_then(|config| Mailer::new(&config));
            Arc::new(mailer.unwrap_or_else(|error| Mailer::without_transport(error.chain())))
        });
        Context::current().scope.get().unwrap_or_else(|| PROCESS.clone())
    }

    fn without_transport(why: String) -> Mailer {
        let from = Some("aside@localhost".into());
        Mailer { transport: Transport::Unset(why), from, sending: Pool::new(1), outbox: Outbox::default() }
    }

    /// Returns the destination of mail, for the log.
    pub(crate) fn destination(&self) -> String {
        match &self.transport {
            Transport::Server(server) => server.name().to_owned(),
            Transport::Folder(folder) => format!("files in {}", absolute(folder)),
            Transport::Memory => "memory".into(),
            Transport::Unset(why) => format!("nowhere: {why}"),
        }
    }

    /// Returns true if the outbox keeps the sent mails.
    pub(crate) fn remembers(&self) -> bool {
        matches!(self.transport, Transport::Folder(_) | Transport::Memory)
    }

    /// Returns the kept mails, oldest first.
    pub(crate) fn outbox(&self) -> Vec<Arc<SentMail>> {
        self.outbox.list()
    }

    /// Sends a mail to these recipients, and returns the refused ones. All others have it.
    pub(super) fn deliver(&self, letter: &Letter, to: &[Address]) -> Result<Vec<Refused>, Fault> {
        match &self.transport {
            Transport::Server(server) => return server.deliver(letter, to),
            Transport::Folder(folder) => write_eml(folder, letter).map_err(|error| {
                let folder = folder.display();
                Fault::temporary(format!("cannot write mail to {folder} (ASIDE_MAIL_URL): {error}"))
            })?,
            Transport::Memory => {}
            Transport::Unset(why) => return Err(Fault::settings(why.clone())),
        }
        self.outbox.add(letter.sent.clone());
        Ok(Vec::new())
    }
}

/// The last sent mails.
#[derive(Default)]
struct Outbox(Mutex<VecDeque<Arc<SentMail>>>);

impl Outbox {
    fn add(&self, mail: SentMail) {
        let mut mails = self.lock();
        mails.push_back(Arc::new(mail));
        let mut bytes: usize = mails.iter().map(|mail| mail.raw.len()).sum();
        while mails.len() > KEPT || (bytes > KEPT_BYTES && mails.len() > 1) {
            bytes -= mails.pop_front().map_or(0, |mail| mail.raw.len());
        }
    }

    fn list(&self) -> Vec<Arc<SentMail>> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<SentMail>>> {
        lock(&self.0)
    }
}

/// Writes a mail as a file that mail programs open and that only the process's user can read. The file is written under a
/// temporary name and renamed: a program that watches the folder sees only complete mails.
fn write_eml(folder: &Path, letter: &Letter) -> io::Result<()> {
    private_files::create_folder(folder)?;
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S.%3fZ");
    let mut file = tempfile::Builder::new().prefix(".mail-").tempfile_in(folder)?;
    file.write_all(&letter.sent.raw)?;
    file.persist(folder.join(format!("{time}-{}.eml", letter.id)))?;
    Ok(())
}

/// Parses `ASIDE_MAIL_URL`.
fn transport(url: &str, connections: usize, limits: Limits) -> Result<Transport> {
    let forms = "expected `smtp://user:password@host:587`, `smtps://user:password@host:465`, `file:DIR` or `memory:`";
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Transport::Memory),
        Some(("file", folder)) => match folder.strip_prefix("//").unwrap_or(folder) {
            "" => Err(Error::internal("`file:` needs a folder, as in `file:data/mail`")),
            folder => Ok(Transport::Folder(folder.into())),
        },
        Some((scheme @ ("smtp" | "smtps"), rest)) => {
            let rest = rest.strip_prefix("//").ok_or_else(|| Error::internal(forms))?;
            let settings = ServerUrl::parse(scheme == "smtps", rest)?.settings(limits)?;
            Ok(Transport::Server(Server::new(settings, connections.max(1))))
        }
        _ => Err(Error::internal(forms)),
    }
}
