//! The way that mail goes: through a server, to a folder, to memory.
//!
//! The [`Mailer`] is the application's: it knows the way (`ASIDE_MAIL_URL`) and the sender, and remembers what it wrote to
//! a folder or to memory, for tests and for the panel.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use lettre::Transport as _;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::transport::smtp::{self, SmtpTransport, extension::ClientId};
use percent_encoding::percent_decode_str;

use super::{Letter, SentMail, mailbox};
use crate::background::registry::span;
use crate::background::scope::Context;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::sync::lock;

/// How long each step of the conversation with a mail server may take.
const STEP: Duration = Duration::from_secs(30);

/// How much an outbox remembers: mails, and bytes of all of them.
pub(super) const KEPT: usize = 100;
const KEPT_BYTES: usize = 64 << 20;

/// What an application sends its mail with.
pub(crate) struct Mailer {
    way: Way,
    pub(super) from: Option<String>,
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
    /// The mailer of a configuration. For a mail server it starts a thread that looks after connections: to be called from
    /// a normal thread, since one that a task starts would inherit the task's low priority for good.
    ///
    /// # Errors
    /// When `ASIDE_MAIL_URL` or `ASIDE_MAIL_FROM` cannot be used. The words never show the password.
    pub(crate) fn new(config: &Config) -> Result<Mailer> {
        Mailer::with_limit(config, STEP)
    }

    /// The same with another time limit for each step.
    pub(crate) fn with_limit(config: &Config, limit: Duration) -> Result<Mailer> {
        let way = match &config.mail_url {
            Some(url) => way(url, limit).map_err(|error| error.context("ASIDE_MAIL_URL cannot be used"))?,
            None if config.is_development() => Way::Folder("data/mail".into()),
            None => Way::Nowhere(
                "ASIDE_MAIL_URL is not set: `smtp://user:password@host:587`, `smtps://…:465`, or `file:DIR`".into(),
            ),
        };
        let made_up = config.is_development().then(|| "aside@localhost".to_owned());
        let from = config.mail_from.clone().or(made_up);
        let check = from.as_deref().map(mailbox).transpose();
        check.map_err(|error| error.context("ASIDE_MAIL_FROM cannot be used"))?;
        Ok(Mailer { way, from, outbox: Outbox::default() })
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
        Mailer { way: Way::Nowhere(why), from: Some("aside@localhost".into()), outbox: Outbox::default() }
    }

    /// Where the mail goes, in words for the log.
    pub(crate) fn destination(&self) -> String {
        match &self.way {
            Way::Server(server) => server.name.clone(),
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

    pub(super) fn deliver(&self, letter: &Letter) -> Result<()> {
        match &self.way {
            Way::Server(server) => return server.deliver(letter),
            Way::Folder(folder) => write_eml(folder, letter).map_err(|error| {
                Error::from(error).context(format!("cannot write mail to {} (ASIDE_MAIL_URL)", folder.display()))
            })?,
            Way::Memory => {}
            Way::Nowhere(why) => return Err(Error::internal(why.clone())),
        }
        self.outbox.add(letter.sent.clone());
        Ok(())
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

/// Writes a mail as a file that mail programs open. Beside and renamed: whoever watches the folder sees whole mails only.
fn write_eml(folder: &Path, letter: &Letter) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S.%3fZ");
    let mut file = tempfile::Builder::new().prefix(".mail-").tempfile_in(folder)?;
    file.write_all(&letter.sent.raw)?;
    file.persist(folder.join(format!("{time}-{}.eml", letter.id)))?;
    Ok(())
}

/// A mail server.
struct Server {
    smtp: SmtpTransport,
    /// Host and port, as the log may show them.
    name: String,
    limit: Duration,
}

impl Server {
    fn deliver(&self, letter: &Letter) -> Result<()> {
        let sent = self.smtp.send_raw(&letter.envelope, &letter.sent.raw);
        sent.map(drop).map_err(|error| self.explain(error))
    }

    /// The error in words that say what to do. It stays the source, for [`is_worth_another_try`].
    fn explain(&self, error: smtp::Error) -> Error {
        let name = &self.name;
        let words = if is_timeout(&error) {
            format!("the mail server {name} was silent for {}", span(self.limit))
        } else if error.is_permanent() {
            format!("the mail server {name} refuses the mail")
        } else if error.is_transient() {
            format!("the mail server {name} does not take the mail now")
        } else if error.to_string().contains("STARTTLS is not supported") {
            format!(
                "the mail server {name} offers no encryption: `smtps://` in ASIDE_MAIL_URL, or `?tls=none` at its end"
            )
        } else {
            format!("cannot send mail through {name} (ASIDE_MAIL_URL)")
        };
        Error::internal(words).with_source(error)
    }
}

/// Whether waiting can help: not against a refusal, nor against settings that are wrong.
pub(super) fn is_worth_another_try(error: &Error) -> bool {
    let Some(error) = error.source().and_then(|source| source.downcast_ref::<smtp::Error>()) else { return false };
    // A certificate that is not believed arrives as invalid data.
    let never = error.is_permanent() || error.is_client() || error.is_tls() || error.is_transport_shutdown();
    !never && io_kind(error) != Some(io::ErrorKind::InvalidData)
}

/// Unix says "would block" where a socket's time is up.
fn is_timeout(error: &smtp::Error) -> bool {
    matches!(io_kind(error), Some(io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock))
}

fn io_kind(error: &smtp::Error) -> Option<io::ErrorKind> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(error) = source.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        next = source.source();
    }
    None
}

/// The way that a URL names.
fn way(url: &str, limit: Duration) -> Result<Way> {
    let forms = "it takes `smtp://user:password@host:587`, `smtps://user:password@host:465`, `file:DIR` or `memory:`";
    match url.split_once(':') {
        Some(("memory", "")) => Ok(Way::Memory),
        Some(("file", folder)) => match folder.strip_prefix("//").unwrap_or(folder) {
            "" => Err(Error::internal("`file:` needs a folder, as in `file:data/mail`")),
            folder => Ok(Way::Folder(folder.into())),
        },
        Some((scheme @ ("smtp" | "smtps"), rest)) => {
            let rest = rest.strip_prefix("//").ok_or_else(|| Error::internal(forms))?;
            Ok(Way::Server(ServerUrl::parse(scheme == "smtps", rest)?.connect(limit)?))
        }
        _ => Err(Error::internal(forms)),
    }
}

/// The parts of `smtp://user:password@host:port/hello-name?tls=required`. Read here and not by the crate, whose reader
/// leaves `smtp://` unencrypted unless told otherwise, drops a user without a password, and knows no IPv6.
#[derive(Debug, PartialEq)]
struct ServerUrl {
    login: Option<(String, String)>,
    host: String,
    port: u16,
    hello: Option<String>,
    tls: Encryption,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Encryption {
    /// From the first byte: `smtps://`.
    Whole,
    /// STARTTLS, or no mail.
    Required,
    /// STARTTLS where it is offered.
    Opportunistic,
    None,
}

impl ServerUrl {
    fn parse(smtps: bool, rest: &str) -> Result<ServerUrl> {
        let (authority, tail) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if tail.contains(['@', '#']) {
            return Err(Error::internal(
                "write `/` as %2F, `?` as %3F, `#` as %23 and `@` as %40 in its user and password",
            ));
        }
        let (login, place) =
            authority.rsplit_once('@').map_or((None, authority), |(login, place)| (Some(login), place));
        let (host, port) = host_and_port(place)?;
        let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
        let hello = Some(path.trim_matches('/').to_owned()).filter(|name| !name.is_empty());
        let tls = Encryption::parse(smtps, query, &host)?;
        let port = port.unwrap_or(if smtps { 465 } else { 587 });
        Ok(ServerUrl { login: login.map(credentials).transpose()?, host, port, hello, tls })
    }

    /// The transport. No connection is made before the first mail.
    fn connect(self, limit: Duration) -> Result<Server> {
        let name = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let mut builder = SmtpTransport::builder_dangerous(&self.host)
            .port(self.port)
            .tls(self.tls.parameters(&self.host)?)
            .timeout(Some(limit));
        if let Some((user, password)) = self.login {
            builder = builder.credentials(Credentials::new(user, password));
        }
        if let Some(hello) = self.hello {
            builder = builder.hello_name(ClientId::Domain(hello));
        }
        Ok(Server { smtp: builder.build(), name, limit })
    }
}

impl Encryption {
    fn parse(smtps: bool, query: &str, host: &str) -> Result<Encryption> {
        let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match query {
            "" if smtps => Ok(Encryption::Whole),
            // Nobody listens in between, and a server on the same machine seldom has a certificate.
            "" if is_loopback => Ok(Encryption::Opportunistic),
            "" | "tls=required" if !smtps => Ok(Encryption::Required),
            "tls=opportunistic" if !smtps => Ok(Encryption::Opportunistic),
            "tls=none" if !smtps => Ok(Encryption::None),
            _ if smtps => Err(Error::internal("`smtps://` is encrypted and takes nothing after a `?`")),
            _ => Err(Error::internal("after the `?` it takes `tls=required`, `tls=opportunistic` or `tls=none`")),
        }
    }

    fn parameters(self, host: &str) -> Result<Tls> {
        let parameters = || TlsParameters::new(host.to_owned());
        Ok(match self {
            Encryption::Whole => Tls::Wrapper(parameters()?),
            Encryption::Required => Tls::Required(parameters()?),
            Encryption::Opportunistic => Tls::Opportunistic(parameters()?),
            Encryption::None => Tls::None,
        })
    }
}

fn host_and_port(place: &str) -> Result<(String, Option<u16>)> {
    let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err(Error::internal("it names no host"));
    }
    let port = port.map(str::parse).transpose();
    Ok((host.to_owned(), port.map_err(|_| Error::internal("its port is no number from 1 to 65535"))?))
}

fn credentials(login: &str) -> Result<(String, String)> {
    let missing = || Error::internal("it has a user and no password: `smtp://user:password@host`");
    let (user, password) = login.split_once(':').ok_or_else(missing)?;
    let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
    match (decode(user), decode(password)) {
        (Ok(user), Ok(password)) => Ok((user, password)),
        _ => Err(Error::internal("its user or password is no UTF-8 when percent-decoded")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_whole() {
        let url = ServerUrl::parse(false, "a%40b:p%2Fw@mail.example:2525/me.example?tls=opportunistic").unwrap();
        let login = Some(("a@b".to_owned(), "p/w".to_owned()));
        let tls = Encryption::Opportunistic;
        assert_eq!(
            url,
            ServerUrl { login, host: "mail.example".into(), port: 2525, hello: Some("me.example".into()), tls }
        );
        let read = |smtps, rest| ServerUrl::parse(smtps, rest).map(|url| (url.port, url.tls)).unwrap();
        assert_eq!(read(false, "mail.example"), (587, Encryption::Required));
        assert_eq!(read(true, "mail.example"), (465, Encryption::Whole));
        assert_eq!(read(false, "localhost:25"), (25, Encryption::Opportunistic));
        assert_eq!(read(false, "[::1]:25"), (25, Encryption::Opportunistic));
        assert_eq!(read(false, "mail.example?tls=none"), (587, Encryption::None));
    }

    #[test]
    fn a_url_that_cannot_be_used_is_refused_without_its_password() {
        for url in [
            "smtp://me:geheim/2@mail.example",
            "smtp://me:geheim@mail.example:port",
            "smtp://me:geheim@",
            "smtp://me:geheim@mail.example?tls=maybe",
            "smtps://me:geheim@mail.example?tls=none",
            "smtp:me:geheim@mail.example",
            "smtp://geheim@mail.example",
            "smtp://me:geheim%ff@mail.example",
            "http://me:geheim@mail.example",
            "file:",
            "geheim",
        ] {
            let words =
                Mailer::new(&Config { mail_url: Some(url.into()), ..Config::default() }).err().expect(url).chain();
            assert!(words.starts_with("ASIDE_MAIL_URL") && !words.contains("geheim"), "{url}: {words}");
        }
    }
}
