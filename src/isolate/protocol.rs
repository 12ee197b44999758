//! The messages between parent and child.
//!
//! A message is a header in JSON and a value: the input of a function or job, or its output, which is JSON too and is not
//! read here. The lengths of both, in four bytes each, precede them. Both are bounded: the sender cuts or refuses a longer
//! one, and the receiver refuses it before it is there.
#![cfg_attr(not(unix), allow(dead_code))]

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::log_values::{self, Pairs};
use crate::background::failure::{Failure, Outcome};
use crate::background::lineage::LineageTexts;
use crate::bounds;
use crate::error::backtraces::Trace;
use crate::error::{Error, Status};
use crate::log_text::bytes;
use crate::panics::Panic;

/// The variable that makes a process a child. Its value has no meaning.
pub(super) const VARIABLE: &str = "ASIDE_ISOLATED";

/// The longest input and the longest output, as JSON.
pub(crate) const LONGEST_VALUE: usize = 64 << 20;

/// The longest header.
const LONGEST_HEADER: usize = 1 << 20;

/// The longest text of a report, and the longest backtrace, in bytes. JSON makes six of one at worst, and a report of one
/// backtrace and two texts still fits in a header.
const LONGEST_TEXT: usize = 16 << 10;
const LONGEST_BACKTRACE: usize = 96 << 10;

/// The number of bytes that are read at once.
pub(super) const CHUNK: usize = 32 << 10;

/// The bytes of the two lengths.
const LENGTHS: usize = 8;

/// Returns true if this process is a child that runs what its parent asks for.
pub(crate) fn is_child() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// One call of a function, or one attempt of a job, to be run in a child process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) target: Target,
    /// The name of the function or job, by which the child finds it.
    pub(crate) name: String,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// Its name in the log.
    pub(crate) label: String,
    /// The lineage of the work that it starts.
    pub(crate) lineage: LineageTexts,
    pub(crate) limits: Limits,
}

/// The target of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Target {
    /// A function. Its child is used again.
    Function {
        /// The number of its task.
        task: u64,
    },
    /// A job. Its child ends with it.
    Job { id: u64, token: u64 },
}

impl Target {
    /// Returns its noun for messages.
    pub(super) fn noun(self) -> &'static str {
        match self {
            Target::Function { .. } => "function",
            Target::Job { .. } => "job",
        }
    }

    /// Returns its log target.
    pub(super) fn log_target(self) -> &'static str {
        match self {
            Target::Function { .. } => "aside::isolate",
            Target::Job { .. } => "aside::jobs",
        }
    }
}

/// The limits of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// The time from the start of the call until its process is killed.
    pub(crate) deadline: Duration,
    /// The memory limit of its process, in bytes. 0 means no limit.
    pub(crate) memory: u64,
}

impl Default for Limits {
    /// 15 minutes and 2 GiB.
    fn default() -> Limits {
        Limits { deadline: Duration::from_secs(15 * 60), memory: 2 << 30 }
    }
}

/// A message to a child.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum ToChild {
    /// Run this; the input is the value.
    Call(Box<Order>),
    Cancel,
}

/// A call, with what the child must know of its parent.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) call: Call,
    /// The parent's process id.
    pub(super) parent: u32,
    /// The parent's log level.
    pub(super) level: String,
}

/// A report of a child.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum ToParent {
    /// It has reached the application.
    Begun,
    Log {
        level: String,
        target: String,
        message: String,
        values: Pairs,
        /// The file and the line of the call that logs.
        location: Option<(String, u32)>,
    },
    Progress {
        done: u64,
        total: u64,
        message: String,
    },
    /// A failure in the child that the parent reports, which is the value.
    Failure,
    /// The outcome of the call; the output is the value. No other report of this call follows.
    Ended {
        ended: Ended,
        /// The reason not to run another call in this process.
        spent: Option<String>,
    },
}

/// The outcome of a call.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Ended {
    Done { has_output: bool },
    Failed { status: u16, chain: String, location: Option<String>, backtrace: Option<String> },
    Panicked { message: String, location: Option<String>, backtrace: Option<String> },
    Cancelled,
    TimedOut,
    Abandoned,
}

impl ToParent {
    pub(super) fn log(record: &log::Record<'_>) -> ToParent {
        ToParent::Log {
            level: record.level().to_string(),
            target: text(record.target()),
            message: text(&record.args().to_string()),
            values: log_values::pairs(record.key_values()),
            location: record.file().zip(record.line()).map(|(file, line)| (text(file), line)),
        }
    }

    pub(super) fn progress(done: u64, total: u64, message: &str) -> ToParent {
        ToParent::Progress { done, total, message: text(message) }
    }
}

impl Ended {
    /// The outcome as it is sent, and the output that goes with it.
    pub(super) fn of(outcome: Outcome<Option<String>>) -> (Ended, Option<String>) {
        let failure = match outcome {
            Ok(output) => return (Ended::Done { has_output: output.is_some() }, output),
            Err(failure) => failure,
        };
        let ended = match failure {
            Failure::Error(error) => Ended::Failed {
                status: error.status_code().code(),
                chain: text(&error.chain()),
                location: error.own_location().as_deref().map(text),
                backtrace: error.trace().map(|trace| backtrace(trace.text())),
            },
            Failure::Panic(panic) => Ended::Panicked {
                message: text(&panic.message),
                location: panic.location.as_deref().map(text),
                backtrace: panic.backtrace().map(backtrace),
            },
            Failure::Cancelled => Ended::Cancelled,
            Failure::TimedOut => Ended::TimedOut,
            Failure::Abandoned => Ended::Abandoned,
        };
        (ended, None)
    }

    /// Returns the outcome from its sent form.
    pub(super) fn into_outcome(self, output: Vec<u8>) -> Outcome<Option<String>> {
        Err(match self {
            Ended::Done { has_output: false } => return Ok(None),
            Ended::Done { has_output: true } => match String::from_utf8(output) {
                Ok(output) => return Ok(Some(output)),
                Err(_) => Failure::Error(plain_error("its output is not valid UTF-8")),
            },
            Ended::Failed { status, chain, location, backtrace } => {
                let is_status = (100..=599).contains(&status);
                let status = if is_status { Status::new(status) } else { Status::INTERNAL_SERVER_ERROR };
                Failure::Error(Error::of_child(status, chain, location, backtrace.map(Trace::from_text)))
            }
            Ended::Panicked { message, location, backtrace } => {
                Failure::Panic(Panic { message, location, trace: backtrace.map(Trace::from_text) })
            }
            Ended::Cancelled => Failure::Cancelled,
            Ended::TimedOut => Failure::TimedOut,
            Ended::Abandoned => Failure::Abandoned,
        })
    }
}

/// Returns an error without a backtrace, which would lead to this module and not to the cause.
pub(super) fn plain_error(message: impl Into<String>) -> Error {
    Error::bad_request(message).status(Status::INTERNAL_SERVER_ERROR)
}

fn text(text: &str) -> String {
    bounds::shorten(text, LONGEST_TEXT).into_owned()
}

fn backtrace(lines: &str) -> String {
    bounds::shorten(lines, LONGEST_BACKTRACE).into_owned()
}

/// A message as it is sent, and the rest of its value, which follows it. A short value is in the message already: the other
/// side is woken once.
///
/// # Errors
/// If the header or the value is too long.
pub(super) fn frame<'v>(header: &impl Serialize, value: &'v [u8]) -> io::Result<(Vec<u8>, &'v [u8])> {
    let mut bytes = vec![0; LENGTHS];
    serde_json::to_writer(&mut bytes, header)?;
    let header = length(bytes.len() - LENGTHS, LONGEST_HEADER)?;
    bytes[..4].copy_from_slice(&header);
    bytes[4..LENGTHS].copy_from_slice(&length(value.len(), LONGEST_VALUE)?);
    if value.len() > CHUNK {
        return Ok((bytes, value));
    }
    bytes.extend_from_slice(value);
    Ok((bytes, &[]))
}

fn length(length: usize, longest: usize) -> io::Result<[u8; 4]> {
    let fits = u32::try_from(length).ok().filter(|_| length <= longest);
    fits.map(u32::to_le_bytes).ok_or_else(|| too_long(length, longest))
}

fn too_long(length: usize, longest: usize) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a message of {}, of at most {longest}", bytes(length)))
}

/// The received bytes that were not taken out yet: at most one message and a chunk, if the caller takes out all complete
/// messages after each chunk.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    pub(super) fn feed(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// Takes out the next message and its value, if both are complete.
    ///
    /// # Errors
    /// If it is too long, or not a message.
    pub(super) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<u8>)>> {
        let Some(header) = self.length_at(0, LONGEST_HEADER)? else { return Ok(None) };
        let Some(value) = self.length_at(4, LONGEST_VALUE)? else { return Ok(None) };
        let (header_end, end) = (LENGTHS + header, LENGTHS + header + value);
        if self.bytes.len() < end {
            return Ok(None);
        }
        let message = serde_json::from_slice(&self.bytes[LENGTHS..header_end])?;
        // The buffer becomes the value, so that a large one is neither copied nor kept.
        let rest = self.bytes.split_off(end);
        let mut bytes = std::mem::replace(&mut self.bytes, rest);
        bytes.drain(..header_end);
        Ok(Some((message, bytes)))
    }

    fn length_at(&self, start: usize, longest: usize) -> io::Result<Option<usize>> {
        let Some(bytes) = self.bytes.get(start..).and_then(|bytes| bytes.first_chunk::<4>()) else { return Ok(None) };
        let length = u32::from_le_bytes(*bytes) as usize;
        if length > longest { Err(too_long(length, longest)) } else { Ok(Some(length)) }
    }

    /// Waits for the next message. `None` at the end.
    ///
    /// # Errors
    /// As `next`, and if reading fails.
    pub(super) fn receive<T: DeserializeOwned>(&mut self, mut from: impl Read) -> io::Result<Option<(T, Vec<u8>)>> {
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

    fn done(has_output: bool) -> ToParent {
        ToParent::Ended { ended: Ended::Done { has_output }, spent: None }
    }

    fn sent(report: &ToParent, value: &[u8]) -> Vec<u8> {
        let (message, rest) = frame(report, value).unwrap();
        [&*message, rest].concat()
    }

    #[test]
    fn a_message_comes_whole_however_it_is_cut() {
        let messages =
            [(ToParent::Begun, &b""[..]), (ToParent::progress(1, 3, "воробей 🐦"), b""), (done(true), b"[7]")];
        let bytes: Vec<u8> = messages.iter().flat_map(|(report, value)| sent(report, value)).collect();
        let mut inbox = Inbox::default();
        let mut come = Vec::new();
        for byte in &bytes {
            inbox.feed(&[*byte]);
            come.extend(inbox.next::<ToParent>().unwrap());
        }
        assert_eq!(come, messages.map(|(report, value)| (report, value.to_vec())));
        let mut inbox = Inbox::default();
        assert_eq!(inbox.receive::<ToParent>(&bytes[..]).unwrap(), Some((ToParent::Begun, Vec::new())));
        inbox.next::<ToParent>().unwrap();
        inbox.next::<ToParent>().unwrap();
        assert_eq!(inbox.receive::<ToParent>(&[][..]).unwrap(), None);
    }

    #[test]
    fn what_is_too_long_or_not_a_message_is_refused_before_it_is_there() {
        let refused = |bytes: &[u8]| {
            let mut inbox = Inbox::default();
            inbox.feed(bytes);
            inbox.next::<ToParent>().unwrap_err().to_string()
        };
        assert!(refused(&u32::MAX.to_le_bytes()).contains("4294967295 bytes, of at most 1048576"));
        let value = u32::try_from(LONGEST_VALUE + 1).unwrap();
        assert!(refused(&[&2_u32.to_le_bytes()[..], &value.to_le_bytes()].concat()).contains("of at most 67108864"));
        refused(b"\x02\0\0\0\0\0\0\0hi");
        assert!(frame(&"x".repeat(LONGEST_HEADER), b"").is_err());
        assert!(frame(&"x", &vec![0; LONGEST_VALUE]).is_ok() && frame(&"x", &vec![0; LONGEST_VALUE + 1]).is_err());
    }

    #[test]
    fn a_large_value_does_not_stay_in_the_buffer() {
        let mut inbox = Inbox::default();
        inbox.feed(&sent(&done(true), &vec![7; 1 << 20]));
        inbox.feed(&sent(&ToParent::Begun, b"")[..3]);
        let (_, value) = inbox.next::<ToParent>().unwrap().unwrap();
        assert_eq!(value.len(), 1 << 20);
        assert!(inbox.bytes.len() == 3 && inbox.bytes.capacity() < 1 << 10);
    }

    #[test]
    fn the_worst_report_is_no_longer_than_it_may_be() {
        let worst = "\u{1}".repeat(1 << 20);
        let panic = Panic {
            message: worst.clone(),
            location: Some(worst.clone()),
            trace: Some(Trace::from_text(worst.clone())),
        };
        let (ended, _) = Ended::of(Err(Failure::Panic(panic)));
        assert!(frame(&ToParent::Ended { ended, spent: None }, b"").is_ok());
        let values = vec![(worst.as_str(), worst.as_str()); 100];
        let mut record = log::Record::builder();
        record.target(&worst).file(Some(&worst)).line(Some(1)).key_values(&values);
        assert!(frame(&ToParent::log(&record.args(format_args!("{worst}")).build()), b"").is_ok());
    }

    #[test]
    fn an_outcome_survives_the_way() {
        let there_and_back = |outcome| {
            let (ended, output) = Ended::of(outcome);
            ended.into_outcome(output.unwrap_or_default().into_bytes())
        };
        assert_eq!(there_and_back(Ok(None)).unwrap(), None);
        assert_eq!(there_and_back(Ok(Some("[1]".to_owned()))).unwrap().as_deref(), Some("[1]"));
        let there_and_back = |failure| there_and_back(Err(failure)).unwrap_err();
        let error = plain_error("disk full").context("cannot save").status(Status::CONFLICT);
        let Failure::Error(error) = there_and_back(Failure::Error(error)) else { unreachable!() };
        assert_eq!((error.chain().as_str(), error.status_code()), ("cannot save: disk full", Status::CONFLICT));
        let panic = Panic { message: "boom".into(), location: Some("a.rs:7".into()), trace: None };
        assert_eq!(there_and_back(Failure::Panic(panic)).to_string(), "panicked: boom, at a.rs:7");
        assert!(matches!(there_and_back(Failure::Cancelled), Failure::Cancelled));
        assert!(matches!(there_and_back(Failure::TimedOut), Failure::TimedOut));
        assert!(matches!(there_and_back(Failure::Abandoned), Failure::Abandoned));
    }
}
