//! HTTP/1.1 as RFC 9110 and RFC 9112 have it, over raw sockets: tables of what is sent and what must come of it. Where
//! tiny_http is at fault the table says beside what is right what it does and why, and the test holds it to that, so that the
//! list at the head of `src/server/tiny_http.rs` stays true.

mod connection;
mod fields;
mod framing;
pub(crate) mod inputs;
mod request_line;

use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use aside::{App, Request, Server};

use crate::wire::{Raw, config, start};

/// Something that is sent on a connection of its own, and what must come of it.
pub(crate) struct Probe {
    pub(crate) name: String,
    pub(crate) sent: Vec<u8>,
    pub(crate) must: Must,
    /// The client sends nothing more.
    shut: bool,
}

/// What must come of a probe. A further request is sent behind each: where the connection must end, no handler may see it.
#[derive(Debug, Clone)]
pub(crate) enum Must {
    /// One answer with that status and the end of the connection; no handler has seen anything.
    Refuse(u16),
    /// The end of the connection and no answer.
    Silence,
    /// A handler has seen this, method, target and body; the connection goes on.
    Handle(String),
    /// The same, and the connection ends.
    HandleLast(String),
    /// That status and the end of the connection, since the body of this was not read: a handler has begun with it and gave
    /// up, or none has seen it.
    Break(u16, String),
    /// What is right, and what tiny_http does, which cannot be mended from above it, for that reason.
    Fault { right: Box<Must>, does: Box<Must>, reason: &'static str },
}

pub(crate) fn refuse(status: u16) -> Must {
    Must::Refuse(status)
}

pub(crate) fn handle(seen: &str) -> Must {
    Must::Handle(seen.into())
}

pub(crate) fn last(seen: &str) -> Must {
    Must::HandleLast(seen.into())
}

pub(crate) fn fault(right: Must, does: Must, reason: &'static str) -> Must {
    Must::Fault { right: Box::new(right), does: Box::new(does), reason }
}

impl Must {
    /// What must come over the transport that is tested.
    fn here(&self) -> &Must {
        match self {
            Must::Fault { does, .. } if crate::is_tiny_http() => does,
            Must::Fault { right, .. } => right,
            other => other,
        }
    }
}

pub(crate) fn probe(name: impl Into<String>, sent: impl Into<Vec<u8>>, must: Must) -> Probe {
    Probe { name: name.into(), sent: sent.into(), must, shut: false }
}

impl Probe {
    /// The client shuts its side of the connection behind it.
    pub(crate) fn cut(self) -> Probe {
        Probe { shut: true, ..self }
    }
}

const BEHIND: &str = "GET /behind HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server whose handlers note what they see, by the client's port.
struct Site {
    server: Server,
    seen: Arc<Mutex<Vec<(u16, String)>>>,
}

impl Site {
    fn start() -> Site {
        let seen = Arc::<Mutex<Vec<(u16, String)>>>::default();
        let theirs = seen.clone();
        let handler = move |req: &mut Request| {
            let port = req.remote_addr().map_or(0, |peer| peer.port());
            let asked = format!("{} {}", req.method(), req.target());
            let body = req.bytes();
            let noted = match &body {
                Ok(body) => format!("{asked} {}", String::from_utf8_lossy(body)).trim_end().to_owned(),
                Err(_) => format!("{asked} unreadable"),
            };
            theirs.lock().unwrap().push((port, noted));
            body
        };
        let answer = move |req: &mut Request| handler(req).map(|body| format!("{} bytes", body.len()));
        Site { server: start(App::with_config(config()).fallback(answer)), seen }
    }

    fn seen_by(&self, port: u16) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|(of, _)| *of == port).map(|(_, what)| what.clone()).collect()
    }

    fn check(&self, probe: &Probe) {
        let mut raw = Raw::to(&self.server);
        let port = raw.0.get_ref().local_addr().unwrap().port();
        raw.send(&probe.sent);
        if probe.shut {
            raw.0.get_ref().shutdown(Shutdown::Write).unwrap();
        } else {
            // Where the connection has ended already, there is nothing to send it on.
            let _ = std::io::Write::write_all(raw.0.get_mut(), BEHIND.as_bytes());
        }
        let seen = expect(&mut raw, probe.must.here());
        let mut noted = self.seen_by(port);
        if noted.is_empty() && matches!(probe.must.here(), Must::Break(..)) && !crate::is_tiny_http() {
            return;
        }
        // Those that come without waiting for one another are handled side by side.
        noted.sort_by_key(|what| seen.iter().position(|one| one == what));
        assert_eq!(noted, seen, "seen by handlers");
    }
}

/// Reads what must come, and says what handlers must have seen.
fn expect(raw: &mut Raw, must: &Must) -> Vec<String> {
    match must {
        Must::Fault { .. } => unreachable!("it is what is right or what is wrong"),
        Must::Silence => {
            assert_eq!(raw.rest(), "");
            Vec::new()
        }
        Must::Refuse(status) => {
            one_answer(&raw.rest(), *status);
            Vec::new()
        }
        Must::Break(status, seen) => {
            one_answer(&raw.rest(), *status);
            vec![format!("{seen} unreadable")]
        }
        Must::HandleLast(seen) => {
            one_answer(&raw.rest(), 200);
            vec![seen.clone()]
        }
        Must::Handle(seen) => {
            let replies = [raw.reply(), raw.reply()];
            assert!(
                replies.iter().all(|reply| reply.status == 200 && reply.header("Connection").is_none()),
                "{replies:?}"
            );
            vec![seen.clone(), "GET /behind".into()]
        }
    }
}

/// One response, our last one, and nothing behind it.
fn one_answer(text: &str, status: u16) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    assert_eq!(head.split(' ').nth(1), Some(status.to_string().as_str()), "{text}");
    assert!(!body.contains("\r\nDate: "), "more than one answer: {text}");
    // What tiny_http refuses by itself has no id, and does not say that it closes.
    if head.contains("\r\nX-Request-Id: ") {
        assert!(head.contains("\r\nConnection: close"), "{text}");
    } else {
        assert!(head.contains("\r\nServer: tiny-http"), "{text}");
    }
}

/// Tries them one after another, and fails with all that went wrong.
pub(crate) fn check(probes: &[Probe]) {
    let site = Site::start();
    let mut wrong = Vec::new();
    for probe in probes {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| site.check(probe))) {
            let words = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            let start = String::from_utf8_lossy(&probe.sent[..probe.sent.len().min(200)]).into_owned();
            let known = match &probe.must {
                Must::Fault { reason, .. } if crate::is_tiny_http() => {
                    format!(" (no longer so, or otherwise: {reason})")
                }
                _ => String::new(),
            };
            wrong.push(format!("{}: {:?} of {start:?}: {words}{known}", probe.name, probe.must));
        }
    }
    assert!(wrong.is_empty(), "{} of {} probes:\n{}", wrong.len(), probes.len(), wrong.join("\n"));
}

#[test]
fn there_are_enough_probes_and_their_names_differ() {
    let all: Vec<String> = inputs::all_probes().into_iter().map(|probe| probe.name).collect();
    let mut names = std::collections::BTreeSet::new();
    let twice: Vec<_> = all.iter().filter(|name| !names.insert(*name)).collect();
    assert!(all.len() >= 300 && twice.is_empty(), "{} probes, twice: {twice:?}", all.len());
}
