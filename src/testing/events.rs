//! A reader of an event stream in a test.

use std::fmt;
use std::io::{self, Write};
use std::time::Instant;

use super::TIMEOUT;
use crate::channel::{Receiver, Sender, channel};
use crate::http::response::{Response, ResponseBody, StreamBody};
use crate::http::stream::disconnect::Disconnect;
use crate::http::stream::source::follow;
use crate::http::stream::sse::Event;
use crate::http::stream::writer::StreamWriter;
use crate::sync::spawn;

/// A reader of an event stream (WHATWG HTML, server-sent events), made by [`TestClient::events`]. Dropping it disconnects
/// the client.
///
/// [`TestClient::events`]: crate::testing::TestClient::events
pub struct EventReader {
    lines: Receiver<Vec<u8>>,
    unread: String,
    disconnect: Disconnect,
}

impl EventReader {
    /// Reads the event stream of a response. Returns the response itself if it has none.
    pub(super) fn of(mut response: Response) -> Result<EventReader, Response> {
        let is_events = response.headers().get("Content-Type") == Some("text/event-stream");
        match std::mem::take(&mut response.body) {
            ResponseBody::Stream { write, .. } if is_events => Ok(EventReader::read(write)),
            ResponseBody::Source(source) if is_events => {
                Ok(EventReader::read(Box::new(move |out| follow(source, out))))
            }
            body => {
                response.body = body;
                Err(response)
            }
        }
    }

    fn read(write: StreamBody) -> EventReader {
        let (sender, lines) = channel();
        let disconnect = Disconnect::default();
        let for_writer = disconnect.clone();
        let spawned = spawn("test-events", move || {
            // It returns an error after the test has dropped the reader.
            let _ = write(StreamWriter::new(&mut Pipe(sender), for_writer));
        });
        spawned.expect("the operating system can start a thread");
        EventReader { lines, unread: String::new(), disconnect }
    }

    /// Waits for the next event. Comments are skipped.
    ///
    /// # Panics
    /// If no event arrives within 60 s, or the stream ends.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Event {
        // The limit holds for the event, not for each comment before it.
        let until = Instant::now() + TIMEOUT;
        loop {
            while let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (event, rest) = (event_of(block), rest.to_owned());
                self.unread = rest;
                if let Some(event) = event {
                    return event;
                }
            }
            let wait = until.saturating_duration_since(Instant::now());
            let bytes = self.lines.recv_timeout(wait).expect("the stream sends another event");
            self.unread
                .push_str(std::str::from_utf8(&bytes).expect("an event stream is UTF-8, written in whole events"));
        }
    }
}

impl Drop for EventReader {
    fn drop(&mut self) {
        self.disconnect.signal();
    }
}

/// Parses a block of lines as an event. Returns `None` for a block without data, such as a comment.
fn event_of(block: &str) -> Option<Event> {
    let mut event = Event::default();
    let mut data: Vec<&str> = Vec::new();
    for (name, value) in block.lines().filter_map(|line| line.split_once(": ").or(line.split_once(':'))) {
        match name {
            "event" => event.name = value.to_owned(),
            "id" => event.id = value.to_owned(),
            "data" => data.push(value),
            _ => {}
        }
    }
    event.data = data.join("\n");
    (!data.is_empty()).then_some(event)
}

impl fmt::Debug for EventReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventReader")
    }
}

/// A writer that passes the bytes of a stream to the reader, until the reader is dropped.
struct Pipe(Sender<Vec<u8>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
