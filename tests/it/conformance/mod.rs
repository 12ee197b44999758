//! Conformance to HTTP/1.1 (RFC 9110 and RFC 9112) over raw sockets: tables of requests and the required results. For a
//! known fault of tiny_http, the table has both the correct result and the actual one with its reason. The test requires the
//! actual one, so that the list at the head of `src/server/tiny_http/mod.rs` stays true.

mod connection;
mod fields;
mod framing;
pub(crate) mod inputs;
mod request_line;

use std::net::Shutdown;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use aside::server::Server;
use aside::{App, Request};

use crate::wire::{Raw, config, start};

/// Bytes that are sent on a connection of their own, and the required result.
pub(crate) struct Probe {
    pub(crate) name: String,
    pub(crate) sent: Vec<u8>,
    pub(crate) must: Must,
    /// True if the client closes its sending side after the bytes.
    shut: bool,
}

/// The required result of a probe. Another request follows each probe: if the connection must end, no handler may see it.
#[derive(Debug, Clone)]
pub(crate) enum Must {
    /// One response with this status, and the end of the connection. No handler runs.
    Refuse(u16),
    /// The end of the connection without a response.
    Silence,
    /// A handler sees this method, target and body. The connection stays open.
    Handle(String),
    /// A handler sees this method, target and body. The connection ends.
    HandleLast(String),
    /// A response with this status, and the end of the connection, since the body of this request could not be read: a handler
    /// has failed to read it, or none has run.
    Break(u16, String),
    /// The correct result, the result of tiny_http that cannot be corrected above it, and the reason.
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
    /// Returns the required result over the tested transport.
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
    /// Closes the sending side of the client after the bytes.
    pub(crate) fn cut(self) -> Probe {
        Probe { shut: true, ..self }
    }
}

const NEXT_REQUEST: &str = "GET /behind HTTP/1.1\r\nHost: a\r\n\r\n";

/// A server whose handlers record their requests by the port of the client.
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
            let recorded = match &body {
                Ok(body) => format!("{asked} {}", String::from_utf8_lossy(body)).trim_end().to_owned(),
                Err(_) => format!("{asked} unreadable"),
            };
            theirs.lock().unwrap().push((port, recorded));
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
            // This fails if the connection has ended already.
            let _ = std::io::Write::write_all(raw.0.get_mut(), NEXT_REQUEST.as_bytes());
        }
        let seen = expect(&mut raw, probe.must.here());
        let mut recorded = self.seen_by(port);
        if recorded.is_empty() && matches!(probe.must.here(), Must::Break(..)) && !crate::is_tiny_http() {
            return;
        }
        // Pipelined requests are handled concurrently.
        recorded.sort_by_key(|what| seen.iter().position(|one| one == what));
        assert_eq!(recorded, seen, "seen by handlers");
    }
}

/// Reads the required responses, and returns the requests that handlers must have seen.
fn expect(raw: &mut Raw, must: &Must) -> Vec<String> {
    match must {
        Must::Fault { .. } => unreachable!("`here` has chosen one of the two"),
        Must::Silence => {
            assert_eq!(raw.rest(), "");
            Vec::new()
        }
        Must::Refuse(status) => {
            check_single_response(&raw.rest(), *status);
            Vec::new()
        }
        Must::Break(status, seen) => {
            check_single_response(&raw.rest(), *status);
            vec![format!("{seen} unreadable")]
        }
        Must::HandleLast(seen) => {
            check_single_response(&raw.rest(), 200);
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

/// Checks that the text is exactly one response, with `Connection: close`.
fn check_single_response(text: &str, status: u16) {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    assert_eq!(head.split(' ').nth(1), Some(status.to_string().as_str()), "{text}");
    assert!(!body.contains("\r\nDate: "), "more than one response: {text}");
    // A refusal of tiny_http itself has no request id and no `Connection: close`.
    if head.contains("\r\nX-Request-Id: ") {
        assert!(head.contains("\r\nConnection: close"), "{text}");
    } else {
        assert!(head.contains("\r\nServer: tiny-http"), "{text}");
    }
}

/// Runs the probes one after another, and fails with a list of all wrong results.
pub(crate) fn check(probes: &[Probe]) {
    let site = Site::start();
    let mut wrong = Vec::new();
    for probe in probes {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| site.check(probe))) {
            let message = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            let start = String::from_utf8_lossy(&probe.sent[..probe.sent.len().min(200)]).into_owned();
            let known = match &probe.must {
                Must::Fault { reason, .. } if crate::is_tiny_http() => {
                    format!(" (the known fault has changed: {reason})")
                }
                _ => String::new(),
            };
            wrong.push(format!("{}: {:?} of {start:?}: {message}{known}", probe.name, probe.must));
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
