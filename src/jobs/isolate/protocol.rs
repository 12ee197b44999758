//! What parent and child say to each other: messages in JSON, each behind its length in four bytes.
//!
//! No message is longer than its kind may be: who sends clips what it says, who receives takes a longer one for nonsense.
#![cfg_attr(not(unix), allow(dead_code))]

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::background::failure::{Failure, Outcome};
use crate::error::{Error, Status};
use crate::panics::Panic;

/// The variable that makes a process a child. Its value tells nothing.
pub(super) const VARIABLE: &str = "ASIDE_ISOLATED_JOB";

/// The longest message to a child: its order.
pub(super) const LONGEST_ORDER: usize = 64 << 20;

/// The longest message to a parent.
pub(super) const LONGEST_REPORT: usize = 1 << 20;

/// The longest text of a report, and the longest backtrace; bytes. JSON makes six of one at worst, and a report of one
/// backtrace and two texts still is no longer than it may be.
const LONGEST_TEXT: usize = 16 << 10;
const LONGEST_BACKTRACE: usize = 96 << 10;

/// How much is read at once.
pub(super) const CHUNK: usize = 16 << 10;

/// Whether this process is a child that is to do one job.
pub(crate) fn is_child() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// One try of a job, to be done in a process of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) name: String,
    pub(crate) payload: String,
    pub(crate) id: u64,
    pub(crate) token: u64,
    /// Which try it is, from 1.
    pub(crate) attempt: u32,
    /// What the log calls it.
    pub(crate) label: String,
    /// The request that it came from: `POST /orders 3f9a1c`.
    pub(crate) origin: Option<String>,
    pub(crate) limits: Limits,
}

/// How far an isolated job may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// When its process is killed, from its start.
    pub(crate) deadline: Duration,
    /// How much memory its process may have; bytes. 0 is as much as there is.
    pub(crate) memory: u64,
}

/// What a child is told.
#[derive(Serialize, Deserialize)]
pub(super) enum ToChild {
    Begin(Box<Begin>),
    Cancel,
}

/// How a child begins.
#[derive(Serialize, Deserialize)]
pub(super) struct Begin {
    pub(super) order: Order,
    /// The parent's process id.
    pub(super) parent: u32,
    /// What the parent logs at most.
    pub(super) level: String,
}

/// What a child reports.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum ToParent {
    /// It has come to where jobs are done.
    Begun,
    Log {
        level: String,
        target: String,
        words: String,
    },
    Progress {
        done: u64,
        total: u64,
        message: String,
    },
    /// What came of it. Nothing that matters follows.
    Ended(Ended),
}

/// What came of a job.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Ended {
    Done,
    Failed { status: u16, chain: String, backtrace: Option<String> },
    Panicked { message: String, place: Option<String>, backtrace: Option<String> },
    Cancelled,
    TimedOut,
    Abandoned,
}

impl ToParent {
    pub(super) fn log(level: log::Level, target: &str, words: &str) -> ToParent {
        ToParent::Log { level: level.to_string(), target: text(target), words: text(words) }
    }

    pub(super) fn progress(done: u64, total: u64, message: &str) -> ToParent {
        ToParent::Progress { done, total, message: text(message) }
    }
}

impl Ended {
    /// The outcome as it is told.
    pub(super) fn of(outcome: &Outcome<()>) -> Ended {
        match outcome {
            Ok(()) => Ended::Done,
            Err(failure) => match failure {
                Failure::Error(error) => Ended::Failed {
                    status: error.status().code(),
                    chain: text(&error.chain()),
                    backtrace: error.backtrace_lines().as_deref().map(backtrace),
                },
                Failure::Panic(panic) => Ended::Panicked {
                    message: text(&panic.message),
                    place: panic.place.as_deref().map(text),
                    backtrace: panic.backtrace.as_deref().map(backtrace),
                },
                Failure::Cancelled => Ended::Cancelled,
                Failure::TimedOut => Ended::TimedOut,
                Failure::Abandoned => Ended::Abandoned,
            },
        }
    }

    /// The outcome as it was told. The way to an error stays behind: an error has no room for that of another process.
    pub(super) fn into_outcome(self) -> Outcome<()> {
        Err(match self {
            Ended::Done => return Ok(()),
            Ended::Failed { status, chain, .. } => Failure::Error(error(status, chain)),
            Ended::Panicked { message, place, backtrace } => Failure::Panic(Panic { message, place, backtrace }),
            Ended::Cancelled => Failure::Cancelled,
            Ended::TimedOut => Failure::TimedOut,
            Ended::Abandoned => Failure::Abandoned,
        })
    }
}

fn error(status: u16, chain: String) -> Error {
    let status = if (100..=599).contains(&status) { Status::new(status) } else { Status::INTERNAL_SERVER_ERROR };
    said(chain).with_status(status)
}

/// An error that has words and no backtrace: the way to this line would show nobody what to mend.
pub(super) fn said(words: impl Into<String>) -> Error {
    Error::bad_request(words).with_status(Status::INTERNAL_SERVER_ERROR)
}

fn text(text: &str) -> String {
    clip(text, LONGEST_TEXT)
}

fn backtrace(lines: &str) -> String {
    clip(lines, LONGEST_BACKTRACE)
}

/// At most that many bytes of it, with a mark where it was cut.
pub(super) fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// A message as it is sent.
///
/// # Errors
/// When it is longer than that.
pub(super) fn frame(message: &impl Serialize, longest: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    let head = u32::try_from(length).ok().filter(|_| length <= longest).ok_or_else(|| too_long(length, longest))?;
    bytes[..4].copy_from_slice(&head.to_le_bytes());
    Ok(bytes)
}

fn too_long(length: usize, longest: usize) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a message of {length} bytes, of at most {longest}"))
}

/// What has come in and was not taken out yet: at most one message and a chunk, where each chunk is followed by taking out
/// all that is whole.
pub(super) struct Inbox {
    bytes: Vec<u8>,
    longest: usize,
}

impl Inbox {
    pub(super) fn new(longest: usize) -> Inbox {
        Inbox { bytes: Vec::new(), longest }
    }

    pub(super) fn feed(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// The next message, when it is there as a whole.
    ///
    /// # Errors
    /// When it is longer than it may be, or is none.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*head) as usize;
        if length > self.longest {
            return Err(too_long(length, self.longest));
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }

    /// Waits for the next message. None at the end.
    ///
    /// # Errors
    /// As `next`, and when nothing can be read.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, mut from: impl Read) -> io::Result<Option<T>> {
        let mut chunk = [0; CHUNK];
        loop {
            if let Some(message) = self.next()? {
                return Ok(Some(message));
            }
            match from.read(&mut chunk) {
                Ok(0) => return Ok(None),
                Ok(count) => self.feed(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_whole_however_it_is_cut() {
        let sent = [ToParent::Begun, ToParent::progress(1, 3, "воробей 🐦"), ToParent::Ended(Ended::Done)];
        let bytes: Vec<u8> = sent.iter().flat_map(|message| frame(message, LONGEST_REPORT).unwrap()).collect();
        let mut inbox = Inbox::new(LONGEST_REPORT);
        let mut come = Vec::new();
        for byte in &bytes {
            inbox.feed(&[*byte]);
            come.extend(inbox.next::<ToParent>().unwrap());
        }
        assert_eq!(come, sent);
        let mut inbox = Inbox::new(LONGEST_REPORT);
        assert_eq!(inbox.receive::<ToParent>(&bytes[..]).unwrap(), Some(ToParent::Begun));
        inbox.next::<ToParent>().unwrap();
        inbox.next::<ToParent>().unwrap();
        assert_eq!(inbox.receive::<ToParent>(&[][..]).unwrap(), None);
    }

    #[test]
    fn what_is_too_long_or_no_message_is_refused_before_it_is_there() {
        let mut inbox = Inbox::new(LONGEST_REPORT);
        inbox.feed(&u32::MAX.to_le_bytes());
        assert!(inbox.next::<ToParent>().unwrap_err().to_string().contains("4294967295 bytes"));
        let mut inbox = Inbox::new(LONGEST_REPORT);
        inbox.feed(b"\x02\0\0\0hi");
        assert!(inbox.next::<ToParent>().is_err());
        assert!(frame(&"x".repeat(100), 50).is_err());
    }

    #[test]
    fn the_worst_report_is_no_longer_than_it_may_be() {
        let worst = "\u{1}".repeat(1 << 20);
        let panic = Panic { message: worst.clone(), place: Some(worst.clone()), backtrace: Some(worst.clone()) };
        let ended = Ended::of(&Err(Failure::Panic(panic)));
        assert!(frame(&ToParent::Ended(ended), LONGEST_REPORT).is_ok());
        assert!(frame(&ToParent::log(log::Level::Info, &worst, &worst), LONGEST_REPORT).is_ok());
    }

    #[test]
    fn a_failure_survives_the_way() {
        let there_and_back = |failure| Ended::of(&Err(failure)).into_outcome().unwrap_err();
        let error = said("disk full").context("cannot save").with_status(Status::CONFLICT);
        let Failure::Error(error) = there_and_back(Failure::Error(error)) else { unreachable!() };
        assert_eq!((error.chain().as_str(), error.status()), ("cannot save: disk full", Status::CONFLICT));
        let panic = Panic { message: "boom".into(), place: Some("a.rs:7".into()), backtrace: None };
        assert_eq!(there_and_back(Failure::Panic(panic)).to_string(), "panicked: boom, at a.rs:7");
        assert!(matches!(there_and_back(Failure::Cancelled), Failure::Cancelled));
        assert!(matches!(there_and_back(Failure::TimedOut), Failure::TimedOut));
        assert!(matches!(there_and_back(Failure::Abandoned), Failure::Abandoned));
    }

    #[test]
    fn a_text_is_cut_between_two_characters() {
        assert_eq!(clip("жжж", 3), "ж…");
        assert_eq!(clip("жжж", 6), "жжж");
    }
}
