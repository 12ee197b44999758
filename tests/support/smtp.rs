//! A mail server for tests, on a free loopback port. It accepts every mail; at a step that its script names, it gives another
//! response, stays silent, or disconnects.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A step of the conversation: the command that the server is about to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    /// In the middle of the message.
    Content,
    /// After the message itself.
    Body,
}

/// The server's action at a step, in place of accepting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// Sends this line, and continues.
    Answer(&'static str),
    /// Sends nothing until the client disconnects.
    Stall,
    /// Disconnects.
    Drop,
    /// Accepts the first time on a connection, and disconnects the second time.
    DropSecond,
    /// Accepts after a connection has been refused because of [`Options::most`].
    AwaitRefusal,
}

/// The actions in one connection.
pub(crate) type Script = Vec<(Step, Act)>;

/// The deviations from a normal server, for all connections.
#[derive(Default)]
pub(crate) struct Options {
    /// The script of each connection without its own.
    pub(crate) script: Script,
    /// The limit on simultaneous connections: a further one gets `421 too many connections`.
    pub(crate) most: Option<usize>,
    /// Recipients with their own response, and how often they get it.
    pub(crate) recipients: Vec<(&'static str, &'static str, usize)>,
    /// The extensions beside 8BITMIME.
    pub(crate) offers: Vec<&'static str>,
    /// A certificate in PEM. With it the server offers STARTTLS.
    pub(crate) certificate: Option<&'static [u8]>,
    /// True if it speaks TLS from the first byte.
    pub(crate) is_wrapped: bool,
}

/// A certificate for `localhost`, signed by [`AUTHORITY`].
pub(crate) const LOCALHOST: &[u8] = include_bytes!("tls/localhost.crt");
/// An expired certificate.
pub(crate) const EXPIRED: &[u8] = include_bytes!("tls/expired.crt");
/// A self-signed certificate for another name, as on a stock Debian.
pub(crate) const SELF_SIGNED: &[u8] = include_bytes!("tls/self_signed.crt");
/// The path of the authority's certificate.
pub(crate) const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/tls/authority.crt");

/// A mail that the server received completely, whether it accepted it or not.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received {
    pub(crate) from: String,
    /// The parameters of MAIL.
    pub(crate) parameters: String,
    pub(crate) to: Vec<String>,
    pub(crate) data: String,
    /// The message as received, with its dot-stuffing.
    pub(crate) raw: Vec<u8>,
    pub(crate) is_encrypted: bool,
}

pub(crate) struct SmtpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    options: Options,
}

#[derive(Default)]
struct State {
    scripts: VecDeque<Script>,
    received: Vec<Received>,
    connections: Vec<TcpStream>,
    count: usize,
    open: usize,
    peak: usize,
    refused: usize,
    /// The number of times that a recipient has had its own response.
    answered: HashMap<String, usize>,
    closed: bool,
}

impl SmtpServer {
    /// Starts a server. The first connection uses the first script, and so on; connections without a script succeed.
    pub(crate) fn start(scripts: Vec<Script>) -> SmtpServer {
        SmtpServer::with(scripts, Options::default())
    }

    pub(crate) fn with(scripts: Vec<Script>, options: Options) -> SmtpServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Mutex::new(State { scripts: scripts.into(), ..State::default() });
        let shared = Arc::new(Shared { state, options, ..Shared::default() });
        let theirs = shared.clone();
        let thread = thread::spawn(move || listen(&listener, &theirs));
        SmtpServer { address, shared, thread: Some(thread) }
    }

    /// Returns its URL for `ASIDE_MAIL_URL`.
    pub(crate) fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        lock(&self.shared).received.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        lock(&self.shared).count
    }

    /// Returns the peak number of simultaneous connections, without refused ones.
    pub(crate) fn peak(&self) -> usize {
        lock(&self.shared).peak
    }

    /// Returns the number of connections that were refused as too many.
    pub(crate) fn refused(&self) -> usize {
        lock(&self.shared).refused
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        lock(&self.shared).closed = true;
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(self.address);
        self.thread.take().map(JoinHandle::join);
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    for stream in listener.incoming().flatten() {
        let mut state = lock(shared);
        if state.closed {
            break;
        }
        let script = state.scripts.pop_front().unwrap_or_else(|| shared.options.script.clone());
        state.count += 1;
        state.connections.extend(stream.try_clone());
        let is_refused = shared.options.most.is_some_and(|most| state.open >= most);
        state.refused += usize::from(is_refused);
        state.open += usize::from(!is_refused);
        state.peak = state.peak.max(state.open);
        drop(state);
        shared.changed.notify_all();
        let shared = shared.clone();
        threads.push(thread::spawn(move || serve(&stream, script, &shared, is_refused)));
    }
    for stream in lock(shared).connections.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

fn serve(stream: &TcpStream, script: Script, shared: &Shared, is_refused: bool) {
    let script =
        if is_refused { vec![(Step::Greeting, Act::Answer("421 4.7.0 too many connections"))] } else { script };
    let _ = stream.try_clone().and_then(|stream| Conversation::begin(stream, script, shared)?.talk());
    // Counted before the client notices the connection.
    lock(shared).open -= usize::from(!is_refused);
    let _ = stream.shutdown(Shutdown::Both);
}

trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// One connection. An error of the client or of the script ends it.
struct Conversation<'s> {
    lines: BufReader<Box<dyn Stream>>,
    script: Script,
    shared: &'s Shared,
    /// The plain socket, for STARTTLS.
    plain: Option<TcpStream>,
    is_second: bool,
}

impl<'s> Conversation<'s> {
    fn begin(stream: TcpStream, script: Script, shared: &'s Shared) -> io::Result<Conversation<'s>> {
        let plain = Some(stream.try_clone()?);
        let mut begun =
            Conversation { lines: BufReader::new(Box::new(stream)), script, shared, plain, is_second: false };
        if shared.options.is_wrapped {
            begun.encrypt();
        }
        Ok(begun)
    }

    fn talk(mut self) -> io::Result<()> {
        let mut mail = Received::default();
        self.answer(Step::Greeting, "220 ready")?;
        while let Some(line) = self.read_line()? {
            match line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase().as_str() {
                "EHLO" => self.greet()?,
                "STARTTLS" => {
                    self.answer(Step::StartTls, "220 go on")?;
                    self.encrypt();
                }
                "AUTH" => self.answer(Step::Auth, "235 welcome")?,
                "MAIL" => {
                    let (from, parameters) = in_brackets(&line);
                    mail = Received { from, parameters, is_encrypted: self.plain.is_none(), ..Received::default() };
                    self.answer(Step::Mail, "250 ok")?;
                }
                "RCPT" => self.recipient(&line, &mut mail)?,
                "DATA" => self.message(&mut mail)?,
                "QUIT" => return self.write("221 bye"),
                _ => self.write("250 ok")?,
            }
        }
        Ok(())
    }

    fn greet(&mut self) -> io::Result<()> {
        let offers_tls = self.shared.options.certificate.is_some() && self.plain.is_some();
        let offers = self.shared.options.offers.iter().copied().chain(offers_tls.then_some("STARTTLS"));
        let offers: String = offers.map(|offer| format!("250-{offer}\r\n")).collect();
        self.answer(Step::Ehlo, &format!("250-here\r\n{offers}250 8BITMIME"))
    }

    fn recipient(&mut self, line: &str, mail: &mut Received) -> io::Result<()> {
        let (address, _) = in_brackets(line);
        let mut own = self.shared.options.recipients.iter();
        match own.find(|(recipient, _, times)| *recipient == address && self.is_due(&address, *times)) {
            Some((_, answer, _)) => self.write(answer),
            None => {
                mail.to.push(address);
                self.answer(Step::Rcpt, "250 ok")
            }
        }
    }

    fn is_due(&self, address: &str, times: usize) -> bool {
        let mut state = lock(self.shared);
        let answered = state.answered.entry(address.to_owned()).or_default();
        *answered += 1;
        *answered <= times
    }

    fn message(&mut self, mail: &mut Received) -> io::Result<()> {
        self.answer(Step::Data, "354 go on")?;
        self.read_message(mail)?;
        lock(self.shared).received.push(mail.clone());
        self.answer(Step::Body, "250 taken")
    }

    fn act(&self, step: Step) -> Option<Act> {
        self.script.iter().find(|(at, _)| *at == step).map(|(_, act)| *act)
    }

    fn answer(&mut self, step: Step, line: &str) -> io::Result<()> {
        match self.act(step) {
            None => self.write(line),
            Some(Act::Answer(other)) => self.write(other),
            Some(Act::Stall) => io::copy(&mut self.lines, &mut io::sink()).and(Err(io::ErrorKind::TimedOut.into())),
            Some(Act::Drop) => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(Act::DropSecond) if self.is_second => Err(io::ErrorKind::ConnectionAborted.into()),
            Some(Act::DropSecond) => {
                self.is_second = true;
                self.write(line)
            }
            Some(Act::AwaitRefusal) => {
                // Longer than any test; a refusal ends the wait.
                let most = Duration::from_secs(30);
                let none = |state: &mut State| state.refused == 0;
                drop(self.shared.changed.wait_timeout_while(lock(self.shared), most, none));
                self.write(line)
            }
        }
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        let stream = self.lines.get_mut();
        stream.write_all(format!("{line}\r\n").as_bytes())?;
        stream.flush()
    }

    fn encrypt(&mut self) {
        if let (Some(stream), Some(certificate)) = (self.plain.take(), self.shared.options.certificate) {
            let connection = ServerConnection::new(tls(certificate)).expect("the certificates of tests are good");
            self.lines = BufReader::new(Box::new(StreamOwned::new(connection, stream)));
        }
    }

    fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        Ok((self.lines.read_line(&mut line)? > 0).then(|| line.trim_end().to_owned()))
    }

    /// Reads the lines up to the final dot, with their dot-stuffing.
    fn read_message(&mut self, mail: &mut Received) -> io::Result<()> {
        let mut line = Vec::new();
        while self.lines.read_until(b'\n', &mut line)? > 0 {
            if matches!(self.act(Step::Content), Some(Act::Drop)) {
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
            if line == b".\r\n" {
                mail.data = String::from_utf8_lossy(&mail.raw).replace("\r\n..", "\r\n.");
                return Ok(());
            }
            mail.raw.append(&mut line);
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn tls(certificate: &[u8]) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(certificate).map(|der| der.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("ring has all versions").with_no_client_auth().with_single_cert(chain, key);
    Arc::new(config.expect("the key is that of the certificates"))
}

/// Returns the text in the angle brackets, and the text after them.
fn in_brackets(line: &str) -> (String, String) {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or_else(Default::default, |(address, rest)| (address.to_owned(), rest.trim().to_owned()))
}

fn lock(shared: &Shared) -> MutexGuard<'_, State> {
    shared.state.lock().unwrap_or_else(PoisonError::into_inner)
}
