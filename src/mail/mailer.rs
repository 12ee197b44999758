//! The way that mail goes: through a server, to a folder, to memory.
//!
//! The [`Mailer`] is the application's: it knows the way (`ASIDE_MAIL_URL`) and the sender, and remembers what it wrote to
//! a folder or to memory, for tests and for the panel.

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
use crate::private_files;
use crate::sync::lock;

/// How much an outbox remembers: mails, and bytes of all of them.
pub(super) const KEPT: usize = 100;
const KEPT_BYTES: usize = 64 << 20;

/// What an application sends its mail with.
pub(crate) struct Mailer {
    way: Way,
    pub(super) from: Option<String>,
    /// The pool of the tasks that send mail, with one permit per connection. Waiting tasks hold no thread.
    pub(super) sending: Pool,
    outbox: Outbox,
}

/// The way that mail goes.
enum Way {
    Server(Server),
    Folder(PathBuf),
    Memory,
    /// None, and why: a site that sends no mail need not have one.
    Nowhere(String),
}

impl Mailer {
    /// Creates the mailer of a configuration. It does not connect before the first mail.
    ///
    /// # Errors
    /// When `ASIDE_MAIL_URL` or `ASIDE_MAIL_FROM` cannot be used. The words never show the password.
    pub(crate) fn new(config: &Config) -> Result<Mailer> {
        Mailer::with_limits(config, Limits::default())
    }

    /// Creates the mailer of a configuration, with other time limits.
    pub(super) fn with_limits(config: &Config, limits: Limits) -> Result<Mailer> {
        let way = match &config.mail_url {
            Some(url) => way(url, config.mail_connections, limits)
                .map_err(|error| error.context("ASIDE_MAIL_URL cannot be used"))?,
            None if config.is_development() => Way::Folder("data/mail".into()),
            None => Way::Nowhere(
                "ASIDE_MAIL_URL is not set: `smtp://user:password@host:587`, `smtps://…:465`, or `file:DIR`".into(),
            ),
        };
        let made_up = config.is_development().then(|| "aside@localhost".to_owned());
        let from = config.mail_from.clone().or(made_up);
        let check = from.as_deref().map(mailbox).transpose();
        check.map_err(|error| error.context("ASIDE_MAIL_FROM cannot be used"))?;
        Ok(Mailer { way, from, sending: Pool::new(config.mail_connections.max(1)), outbox: Outbox::default() })
    }

    /// The application's, or the process's own.
    pub(super) fn current() -> Arc<Mailer> {
        static PROCESS: LazyLock<Arc<Mailer>> = LazyLock::new(|| {
            let mailer = Config::from_env().and_then(|config| Mailer::new(&config));
            Arc::new(mailer.unwrap_or_else(|error| Mailer::to_nowhere(error.chain())))
        });
        Context::current().scope.get().unwrap_or_else(|| PROCESS.clone())
    }

    fn to_nowhere(why: String) -> Mailer {
        let from = Some("aside@localhost".into());
        Mailer { way: Way::Nowhere(why), from, sending: Pool::new(1), outbox: Outbox::default() }
    }

    /// Where the mail goes, in words for the log.
    pub(crate) fn destination(&self) -> String {
        match &self.way {
            Way::Server(server) => server.name().to_owned(),
            Way::Folder(folder) => format!("files in {}", folder.display()),
            Way::Memory => "memory".into(),
            Way::Nowhere(why) => format!("nobody: {why}"),
        }
    }

    /// Whether it remembers what it sends.
    pub(crate) fn remembers(&self) -> bool {
        matches!(self.way, Way::Folder(_) | Way::Memory)
    }

    /// The mails that it remembers, oldest first.
    pub(crate) fn outbox(&self) -> Vec<Arc<SentMail>> {
        self.outbox.list()
    }

    /// Sends a mail to these recipients, and returns the refused ones. All others have it.
    pub(super) fn deliver(&self, letter: &Letter, to: &[Address]) -> Result<Vec<Refused>, Fault> {
        match &self.way {
            Way::Server(server) => return server.deliver(letter, to),
            Way::Folder(folder) => write_eml(folder, letter).map_err(|error| {
                let folder = folder.display();
                Fault::temporary(format!("cannot write mail to {folder} (ASIDE_MAIL_URL): {error}"))
            })?,
            Way::Memory => {}
            Way::Nowhere(why) => return Err(Fault::settings(why.clone())),
        }
        self.outbox.add(letter.sent.clone());
        Ok(Vec::new())
    }
}

/// The last mails.
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

/// The way that a URL names.
fn way(url: &str, connections: usize, limits: Limits) -> Result<Way> {
    let forms = "it takes `smtp://user:password@host:587`, `smtps://user:password@host:465`, `file:DIR` or `memory:`";
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Way::Memory),
        Some(("file", folder)) => match folder.strip_prefix("//").unwrap_or(folder) {
            "" => Err(Error::internal("`file:` needs a folder, as in `file:data/mail`")),
            folder => Ok(Way::Folder(folder.into())),
        },
        Some((scheme @ ("smtp" | "smtps"), rest)) => {
            let rest = rest.strip_prefix("//").ok_or_else(|| Error::internal(forms))?;
            let endpoint = ServerUrl::parse(scheme == "smtps", rest)?.endpoint(limits)?;
            Ok(Way::Server(Server::new(endpoint, connections.max(1))))
        }
        _ => Err(Error::internal(forms)),
    }
}
