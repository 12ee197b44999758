//! A mail server of ours on a free port of the loopback: it takes what it is given, and at a step that its script names it
//! answers something else, falls silent, or hangs up.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// A step of the conversation: what the server is about to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Greeting,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    /// After the message itself.
    Body,
}

/// What it does there instead of consenting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Act {
    /// This line, and on.
    Answer(&'static str),
    /// Nothing, until the client is gone.
    Stall,
    /// It hangs up.
    Drop,
}

/// What is out of the ordinary in one connection.
pub(crate) type Script = Vec<(Step, Act)>;

/// A mail that came to its last line, whatever was answered then.
#[derive(Debug, Clone, Default)]
pub(crate) struct Received {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) data: String,
}

pub(crate) struct SmtpServer {
    address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    scripts: VecDeque<Script>,
    received: Vec<Received>,
    connections: Vec<TcpStream>,
    count: usize,
    closed: bool,
}

impl SmtpServer {
    /// Starts it. The first connection goes by the first script, and so on; after the last all goes well.
    pub(crate) fn start(scripts: Vec<Script>) -> SmtpServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port on the loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Mutex::new(Shared { scripts: scripts.into(), ..Shared::default() }));
        let theirs = shared.clone();
        let thread = thread::spawn(move || listen(&listener, &theirs));
        SmtpServer { address, shared, thread: Some(thread) }
    }

    /// Where it is, as `ASIDE_MAIL_URL` takes it.
    pub(crate) fn url(&self) -> String {
        format!("smtp://{}", self.address)
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        lock(&self.shared).received.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        lock(&self.shared).count
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        lock(&self.shared).closed = true;
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.address);
        self.thread.take().map(JoinHandle::join);
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Mutex<Shared>>) {
    let mut threads = Vec::new();
    for stream in listener.incoming().flatten() {
        let mut state = lock(shared);
        if state.closed {
            break;
        }
        let script = state.scripts.pop_front().unwrap_or_default();
        state.count += 1;
        state.connections.extend(stream.try_clone());
        drop(state);
        let shared = shared.clone();
        threads.push(thread::spawn(move || {
            let _ = talk(&stream, &script, &shared);
            let _ = stream.shutdown(Shutdown::Both);
        }));
    }
    for stream in lock(shared).connections.drain(..) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    threads.into_iter().for_each(|thread| drop(thread.join()));
}

/// One connection. An error ends it: the client's, or the script's.
fn talk(stream: &TcpStream, script: &Script, shared: &Mutex<Shared>) -> io::Result<()> {
    let mut lines = BufReader::new(stream);
    let answer = |step: Step, line: &str| answer(stream, script, step, line);
    let mut mail = Received::default();
    answer(Step::Greeting, "220 ready")?;
    while let Some(line) = read_line(&mut lines)? {
        match line.split([' ', ':']).next().unwrap_or("").to_ascii_uppercase().as_str() {
            "EHLO" => answer(Step::Ehlo, "250-here\r\n250 8BITMIME")?,
            "MAIL" => {
                mail = Received { from: in_brackets(&line), ..Received::default() };
                answer(Step::Mail, "250 ok")?;
            }
            "RCPT" => {
                mail.to.push(in_brackets(&line));
                answer(Step::Rcpt, "250 ok")?;
            }
            "DATA" => {
                answer(Step::Data, "354 go on")?;
                mail.data = read_message(&mut lines)?;
                lock(shared).received.push(mail.clone());
                answer(Step::Body, "250 taken")?;
            }
            "QUIT" => return (&*stream).write_all(b"221 bye\r\n"),
            _ => (&*stream).write_all(b"250 ok\r\n")?,
        }
    }
    Ok(())
}

fn answer(mut stream: &TcpStream, script: &Script, step: Step, line: &str) -> io::Result<()> {
    match script.iter().find(|(at, _)| *at == step) {
        None => write!(stream, "{line}\r\n"),
        Some((_, Act::Answer(other))) => write!(stream, "{other}\r\n"),
        Some((_, Act::Stall)) => io::copy(&mut stream, &mut io::sink()).and(Err(io::ErrorKind::TimedOut.into())),
        Some((_, Act::Drop)) => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn read_line(lines: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = String::new();
    Ok((lines.read_line(&mut line)? > 0).then(|| line.trim_end().to_owned()))
}

/// The lines up to the one with a dot alone, with the dots that were doubled on the way.
fn read_message(lines: &mut impl BufRead) -> io::Result<String> {
    let mut data = String::new();
    while let Some(line) = read_line(lines)? {
        if line == "." {
            return Ok(data);
        }
        data += line.strip_prefix('.').unwrap_or(&line);
        data += "\r\n";
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}

fn in_brackets(line: &str) -> String {
    let inner = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or(String::new(), |(address, _)| address.to_owned())
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
